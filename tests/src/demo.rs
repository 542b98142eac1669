//! A demo cloud, `weft up`, in a process of its own.

use crate::{eventually, program, weft};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weft_up::layout::Layout;
use weft_up::record::ProcessIdentity;
use weft_up::{namespace, raw};

/// A directory for a cloud that nobody else has.
#[must_use]
pub fn fresh_directory(tag: &str) -> PathBuf {
    PathBuf::from(format!("/run/weft/{tag}-{}", std::process::id()))
}

/// A running demo. Dropping it ends it, by force if it must.
pub struct Demo {
    child: Child,
    /// Its names and places.
    pub layout: Layout,
    said: Arc<Mutex<String>>,
}

impl Demo {
    /// Starts one and waits until it says what to try.
    ///
    /// # Panics
    /// If it ends before, or takes more than a minute.
    #[must_use]
    pub fn start(tag: &str) -> Self {
        let mut demo = Self::launch(tag);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !demo.said().contains("Ctrl-C ends") {
            let ended = demo.child.try_wait().expect("it is our child");
            assert!(ended.is_none() && Instant::now() < deadline, "the demo did not come up:\n{}", demo.said());
            std::thread::sleep(Duration::from_millis(50));
        }
        demo
    }

    /// Starts one, and does not wait.
    ///
    /// # Panics
    /// If `weft` cannot be run.
    #[must_use]
    pub fn launch(tag: &str) -> Self {
        let directory = fresh_directory(tag);
        let layout = Layout::new(&directory).expect("the directory is usable");
        let mut child = Command::new(program("weft"))
            .arg("up")
            .arg("--directory")
            .arg(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("weft can be run");
        let said = Arc::new(Mutex::new(String::new()));
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("it is piped")), Box::new(child.stderr.take().expect("it is piped"))];
        for pipe in pipes {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut said = said.lock().expect("no reader panics");
                    said.push_str(&line);
                    said.push('\n');
                }
            });
        }
        Self { child, layout, said }
    }

    /// The process of one of its programs, by the name that `weft up` gives it.
    ///
    /// # Panics
    /// If it has none of this name.
    #[must_use]
    pub fn process(&self, name: &str) -> ProcessIdentity {
        let record = std::fs::read_to_string(self.layout.record()).expect("the demo keeps a record");
        // "process 12 345 switch of host a"
        let line = record.lines().find(|line| line.starts_with("process ") && line.ends_with(name));
        let id = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
        id.and_then(ProcessIdentity::of).unwrap_or_else(|| panic!("there is no {name} in:\n{record}"))
    }

    /// Everything it has printed.
    ///
    /// # Panics
    /// If a reader panicked.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().expect("no reader panics").clone()
    }

    /// Runs `weft` against its controller.
    #[must_use]
    pub fn weft(&self, arguments: &[&str]) -> crate::Outcome {
        let controller = format!("unix:{}", self.layout.controller_socket().display());
        weft(&[&["--controller", &controller], arguments].concat())
    }

    /// Kills it as a crash would: it can clean nothing up.
    ///
    /// # Panics
    /// If it is not our child.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Ends it as Ctrl-C would; gives its exit code.
    ///
    /// # Panics
    /// If it takes more than 20 seconds.
    pub fn interrupt(&mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it is our child");
        let status =
            eventually("the demo's end", Duration::from_secs(20), || self.child.try_wait().expect("it is our child"));
        status.code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ended_meanwhile = self.child.kill();
            let _reaped = self.child.wait();
        }
        let directory = self.layout.directory.display().to_string();
        let outcome = weft(&["down", "--directory", &directory]);
        if outcome.code != Some(0) {
            eprintln!("{outcome:#?}");
        }
    }
}

/// What is on the machine of the cloud with this layout: namespaces, processes, and the XDP programs of `programs`.
#[must_use]
pub fn remains(layout: &Layout, programs: &[u32]) -> Vec<String> {
    let prefix = format!("{}-", layout.prefix);
    let mut found = Vec::new();
    for line in namespace::ip("netns list").expect("ip works").lines() {
        if line.starts_with(&prefix) {
            found.push(format!("network namespace {line}"));
        }
    }
    found.extend(programs.iter().filter(|id| raw::bpf_program_exists(**id)).map(|id| format!("XDP program {id}")));
    found.extend(processes(&layout.directory.display().to_string()));
    for path in [layout.directory.clone(), layout.controller_socket(), layout.token_file()] {
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Processes whose command line or environment names `directory`: all that a cloud starts do. Not this one's.
fn processes(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if id == std::process::id() {
            continue;
        }
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        if [&command, &environment].iter().any(|text| String::from_utf8_lossy(text).contains(directory)) {
            found.push(format!("process {id} {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}
