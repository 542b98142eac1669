//! A machine as an installation sees it: a network namespace, and a file system in which `/etc/weft`, `/run/weft`,
//! `/var/lib/weft` and `/usr/local/bin` are its own. What the units in `deploy/systemd/` would start runs there as the
//! units write it, with the capabilities that they leave.

use crate::{Outcome, eventually, program, run};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The folder `deploy/` of the project.
#[must_use]
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the project").join("deploy")
}

/// A unit, as far as it says what runs.
#[derive(Debug)]
pub struct Unit {
    name: String,
    text: String,
}

impl Unit {
    /// One of those that are shipped.
    ///
    /// # Panics
    /// If there is none of this name.
    #[must_use]
    pub fn shipped(name: &str) -> Self {
        let file = deploy().join("systemd").join(format!("{name}.service"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { name: name.to_owned(), text }
    }

    /// The value of a setting that stands there once.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn setting(&self, key: &str) -> &str {
        let values: Vec<&str> =
            self.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect();
        let [value] = values[..] else { panic!("{}: {key} stands there {} times", self.name, values.len()) };
        value
    }

    /// `setpriv`'s words for the capabilities that it leaves.
    fn bounding_set(&self) -> String {
        let kept = self.setting("CapabilityBoundingSet").split_whitespace();
        let kept = kept.map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
        format!("-all{}", kept.collect::<String>())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    /// Its network namespace.
    pub namespace: String,
    directory: PathBuf,
}

impl Machine {
    /// A machine on a namespace that exists, with these settings in `/etc/weft`: a folder of `deploy/examples`.
    ///
    /// # Panics
    /// If its directories cannot be made.
    #[must_use]
    pub fn new(namespace: &str, directory: &Path, examples: &str) -> Self {
        let machine = Self { namespace: namespace.to_owned(), directory: directory.join(namespace) };
        for part in ["etc/weft", "run", "lib/weft", "names"] {
            std::fs::create_dir_all(machine.directory.join(part)).expect("a temporary directory can be written to");
        }
        let settings = deploy().join("examples").join(examples);
        for file in std::fs::read_dir(&settings).unwrap_or_else(|error| panic!("{}: {error}", settings.display())) {
            let file = file.expect("the folder can be read").path();
            let copy = machine.settings(file.file_name().and_then(|name| name.to_str()).expect("they are text"));
            std::fs::copy(&file, copy).expect("a temporary directory can be written to");
        }
        machine
    }

    /// One of its files of settings.
    #[must_use]
    pub fn settings(&self, file: &str) -> PathBuf {
        self.directory.join("etc/weft").join(file)
    }

    /// A command line, as root types it there or, with a bounding set, as a unit runs it.
    fn command(&self, line: &str, bounding_set: Option<&str>) -> Command {
        let own = self.directory.display();
        let programs = program("weft");
        let programs = programs.parent().expect("a file lies in a directory").display();
        let limits =
            bounding_set.map_or_else(String::new, |set| format!("setpriv --no-new-privs --bounding-set={set} "));
        // `ip netns exec` gives it a mount namespace of its own. Namespaces that are made later still appear in it.
        let script = format!(
            "set -e
             mount --bind {programs} /usr/local/bin
             mount --rbind /run/netns {own}/names
             mount -t tmpfs none /run
             mkdir /run/netns /run/weft
             mount --rbind {own}/names /run/netns
             mount --bind {own}/run /run/weft
             mount --bind {own}/lib /var/lib
             mount --bind {own}/etc /etc
             exec {limits}{line}"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "sh", "-c", &script]).stdin(Stdio::null());
        command
    }

    /// Runs a line there to its end.
    #[must_use]
    pub fn type_in(&self, line: &str) -> Outcome {
        run(&mut self.command(line, None))
    }

    /// Starts what a unit starts, and first what it wants run before. Its log is in [`Machine::log`].
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, unit: &Unit) -> Service {
        let set = unit.bounding_set();
        let _checked = run(&mut self.command(unit.setting("ExecStartPre"), Some(&set))).success();
        let log = File::options().create(true).append(true).open(self.log_file(unit)).expect("a log can be written");
        let mut command = self.command(unit.setting("ExecStart"), Some(&set));
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        Service(command.spawn().expect("ip is installed"))
    }

    fn log_file(&self, unit: &Unit) -> PathBuf {
        self.directory.join(format!("{}.log", unit.name))
    }

    /// What a unit's program logged.
    #[must_use]
    pub fn log(&self, unit: &Unit) -> String {
        std::fs::read_to_string(self.log_file(unit)).unwrap_or_default()
    }
}

/// What a unit started. It ends as systemd ends it, also when it goes out of scope.
#[derive(Debug)]
pub struct Service(Child);

impl Service {
    /// Ends it, and waits for that.
    ///
    /// # Panics
    /// If it does not end by itself within 10 s, or not with 0.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = eventually("its end", Duration::from_secs(10), || self.0.try_wait().expect("it is our child"));
        assert!(status.success(), "{status}");
    }

    /// Kills it, as the kernel does when memory is short.
    pub fn kill(mut self) {
        self.signal("KILL");
        let _status = self.0.wait();
    }

    fn signal(&self, signal: &str) {
        // `ip` and the shell have become the program itself.
        let _gone = Command::new("kill").args(["-s", signal, &self.0.id().to_string()]).status();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // A test failed: it may be in any state.
            let _gone = self.0.kill();
            let _status = self.0.wait();
        }
    }
}
