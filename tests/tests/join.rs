//! A controller on one machine, a host on another: joining, and mutual TLS between them. Machines are network
//! namespaces with a cable between them.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weft_tests::{Outcome, eventually, program, run};
use weft_up::namespace;

const CONTROLLER: &str = "10.250.7.1";
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs; it ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two machines, and a directory for each.
struct Machines {
    names: [String; 2],
    directory: tempfile::TempDir,
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = namespace::ip(&format!("netns del {name}"));
        }
    }
}

impl Machines {
    fn new(test: &str) -> Self {
        let names = ["controller", "host"].map(|kind| format!("weft-{test}-{kind}-{}", std::process::id()));
        let machines = Self { names, directory: tempfile::tempdir().unwrap() };
        let [one, two] = &machines.names;
        namespace::create(one).unwrap();
        namespace::create(two).unwrap();
        namespace::ip(&format!("-n {one} link add cable type veth peer name cable netns {two}")).unwrap();
        for (name, address) in [(one, CONTROLLER), (two, "10.250.7.2")] {
            namespace::ip(&format!("-n {name} addr add {address}/24 dev cable")).unwrap();
            namespace::ip(&format!("-n {name} link set cable up")).unwrap();
        }
        machines
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// A program on machine 0, the controller's, or 1, the host's.
    fn command(&self, machine: usize, name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine]]).arg(program(name));
        command
    }

    fn start(&self, mut command: Command, log: &str) -> Program {
        let log = File::options().create(true).append(true).open(self.path(log)).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Program(command.spawn().unwrap())
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A controller on a state directory.
    fn controller(&self, state: &str) -> Program {
        let mut command = self.command(0, "weft-controller");
        command.arg("--socket").arg(self.path("controller.sock"));
        command.arg("--state-directory").arg(self.path(state)).arg("--token-file").arg(self.path("admin.token"));
        command.args(["--listen", "none", "--bus-listen", "0.0.0.0:9461", "--bus-address"]);
        command.arg(format!("{CONTROLLER}:9461"));
        let controller = self.start(command, "controller.log");
        eventually("the controller's start", PATIENCE, || (self.weft(&["status"]).code == Some(0)).then_some(()));
        controller
    }

    fn weft(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(program("weft")).args(["--controller", &self.socket("controller.sock")]).args(arguments))
    }

    fn token(&self, host: &str) -> String {
        let printed = self.weft(&["host", "join-token", host]).success();
        let line = printed.lines().find_map(|line| line.trim().strip_prefix("weft-switch join "));
        line.expect("the command to type is printed").to_owned()
    }

    fn join(&self, token: &str) -> Outcome {
        let mut command = self.command(1, "weft-switch");
        run(command.args(["join", token, "--certificate-directory"]).arg(self.path("certificates")))
    }

    fn identity(&self) -> PathBuf {
        self.path("certificates/identity.pem")
    }

    fn switch(&self, host: &str) -> Program {
        let mut command = self.command(1, "weft-switch");
        command.arg("--socket").arg(self.path("switch.sock")).args(["--host", host]);
        command.arg(format!("--controller=https://{CONTROLLER}:9461"));
        command.arg("--certificate-directory").arg(self.path("certificates"));
        command.args(["--memory-chunks=1024", "--memory-runs=64"]);
        self.start(command, "switch.log")
    }

    /// Waits until the switch is connected.
    fn connected(&self) {
        self.wait("connected", |controller| controller == "connected");
    }

    /// Waits until the switch says so of its controller.
    fn until(&self, said: &str) {
        self.wait(said, |controller| controller.contains(said));
    }

    fn wait(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let asked = ["status", &self.socket("switch.sock")];
        let mut last = String::new();
        eventually(&format!("{what:?} in the switch's status"), PATIENCE, || {
            let outcome = run(Command::new(program("weft")).args(asked));
            last = format!("{}{}", outcome.stdout, self.log("switch.log"));
            let line = outcome.stdout.lines().find_map(|line| line.strip_prefix("controller "));
            line.is_some_and(|line| holds(line.trim())).then_some(())
        });
        assert!(!last.contains("panicked"), "{last}");
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_machine_joins_and_stays_until_it_is_revoked() {
    let machines = Machines::new("join");
    let controller = machines.controller("state");
    let made = machines.weft(&["host", "create", "web"]).success();
    assert!(made.contains("weft host join-token web"), "{made}");
    assert_eq!(mode(&machines.path("state/authority.pem")), 0o600);

    // Before it has joined, it says what to do.
    let switch = machines.switch("web");
    machines.until("not_joined");

    let token = machines.token("web");
    machines.join(&token[..token.len() - 1]).refused(&["cut off", "weft host join-token"]);
    let said = machines.join(&token).success();
    assert!(said.contains("host = \"web\"") && said.contains("controller = \"https://10.250.7.1:9461\""), "{said}");
    assert_eq!((mode(&machines.path("certificates")), mode(&machines.identity())), (0o700, 0o600));
    let identity = std::fs::read_to_string(machines.identity()).unwrap();
    // The running switch finds it.
    machines.connected();
    let shown = machines.weft(&["host", "show", "web"]).success();
    assert!(shown.contains("certificate") && shown.contains("expires in 36"), "{shown}");
    // A token works once, and one that fails leaves what is there.
    machines.join(&token).refused(&["has been used", "weft host join-token web"]);
    assert_eq!(std::fs::read_to_string(machines.identity()).unwrap(), identity);

    // The controller restarts: the switch comes back by itself.
    drop(controller);
    machines.until("connecting");
    let controller = machines.controller("state");
    machines.connected();

    // A key that others can read is not used; the switch says so, and goes on when that is mended.
    drop(switch);
    std::fs::set_permissions(machines.identity(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let switch = machines.switch("web");
    machines.until("identity_exposed");
    std::fs::set_permissions(machines.identity(), std::fs::Permissions::from_mode(0o600)).unwrap();
    machines.connected();

    // Half of the certificate's time is over: it is renewed, and the new one works.
    drop(switch);
    let renew = identity.lines().find(|line| line.starts_with("Renew-After: ")).unwrap();
    std::fs::write(machines.identity(), identity.replace(renew, "Renew-After: 1")).unwrap();
    let switch = machines.switch("web");
    eventually("the renewal", PATIENCE, || {
        let now = std::fs::read_to_string(machines.identity()).unwrap();
        (!now.contains("Renew-After: 1\n") && now != identity).then_some(())
    });
    assert_eq!(mode(&machines.identity()), 0o600);
    drop(switch);
    let switch = machines.switch("web");
    machines.connected();

    let _said = machines.weft(&["host", "revoke", "web"]).success();
    machines.until("certificate_revoked");
    let _said = machines.join(&machines.token("web")).success();
    machines.connected();

    // Under another name, the certificate does not fit.
    drop(switch);
    let _said = machines.weft(&["host", "create", "other"]).success();
    let switch = machines.switch("other");
    machines.until("certificate_mismatch");
    drop((switch, controller));
}

#[test]
fn another_controller_in_the_same_place_is_not_taken_for_ours() {
    let machines = Machines::new("posed");
    let ours = machines.controller("state");
    let _said = machines.weft(&["host", "create", "web"]).success();
    let _said = machines.join(&machines.token("web")).success();
    let unused = machines.token("web");
    let switch = machines.switch("web");
    machines.connected();
    drop(ours);
    let other = machines.controller("other");
    let _said = machines.weft(&["host", "create", "web"]).success();
    machines.until("its authority is another");
    let kept = std::fs::read(machines.identity()).unwrap();
    machines.join(&unused).refused(&["its authority is another", "cannot be reached"]);
    assert_eq!(std::fs::read(machines.identity()).unwrap(), kept);
    drop(switch);

    // The other way: a host of another controller is refused, and reads why.
    let _said = machines.join(&machines.token("web")).success();
    drop(other);
    let _ours = machines.controller("state");
    let mixed = std::fs::read_to_string(machines.identity()).unwrap();
    let authority = std::fs::read_to_string(machines.path("state/authority.pem")).unwrap();
    let certificate = "-----BEGIN CERTIFICATE-----";
    let own = mixed.rfind(certificate).unwrap();
    let trusted = &authority[authority.find(certificate).unwrap()..];
    std::fs::write(machines.identity(), format!("{}{trusted}", &mixed[..own])).unwrap();
    let _switch = machines.switch("web");
    machines.until("it is of another authority");
}
