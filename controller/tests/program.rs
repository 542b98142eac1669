//! The program as it is started: its files, its sockets, its end.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use weft_proto::v1;
use weft_proto::v1::cloud_client::CloudClient;

/// A running program; it does not outlive the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-controller"));
    command
        .arg("--socket")
        .arg(directory.join("run/controller.sock"))
        .arg("--state-directory")
        .arg(directory.join("state"))
        .arg("--token-file")
        .arg(directory.join("run/admin.token"))
        .args(["--listen", "none"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start(directory: &Path) -> Program {
    std::fs::create_dir_all(directory.join("run")).unwrap();
    let mut program = Program(command(directory).spawn().unwrap());
    let began = Instant::now();
    // The token's copy is written last.
    while !directory.join("run/admin.token").exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not start");
        assert_eq!(program.0.try_wait().unwrap(), None, "it ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    program
}

/// Ends it with a signal and gives whether it ended well.
fn stop(mut program: Program, signal: &str) -> bool {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(program.0.id().to_string()).status().unwrap();
    assert!(sent.success());
    let began = Instant::now();
    loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            return status.success();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it does not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn create_host(directory: &Path, name: &str) {
    let address = format!("unix://{}", directory.join("run/controller.sock").display());
    let mut cloud = CloudClient::connect(address).await.unwrap();
    cloud.create_host(v1::CreateHostRequest { name: name.into() }).await.unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[tokio::test]
async fn it_keeps_its_files_to_itself_and_leaves_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let program = start(path);
    assert_eq!(mode(&path.join("state")), 0o700);
    for file in ["state/admin.token", "state/controller.redb", "run/admin.token", "run/controller.sock"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
    let token = std::fs::read_to_string(path.join("run/admin.token")).unwrap();
    assert_eq!(token, std::fs::read_to_string(path.join("state/admin.token")).unwrap());
    assert_eq!(token.trim().len(), 64);
    create_host(path, "one").await;

    // A second one on the same files is refused, and the first is none the worse.
    let second = command(path).output().unwrap();
    assert!(
        !second.status.success() && said(&second).contains("in use by another weft-controller"),
        "{}",
        said(&second)
    );
    create_host(path, "two").await;

    assert!(stop(program, "TERM"));
    assert!(!path.join("run/controller.sock").exists(), "the socket goes with the program");

    // The token stays what it was, and a killed program's socket is no obstacle.
    std::fs::remove_file(path.join("run/admin.token")).unwrap();
    let mut killed = start(path);
    assert_eq!(std::fs::read_to_string(path.join("run/admin.token")).unwrap(), token);
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    assert!(path.join("run/controller.sock").exists());
    std::fs::remove_file(path.join("run/admin.token")).unwrap();
    let program = start(path);
    create_host(path, "three").await;
    assert!(stop(program, "INT"));
}

#[test]
fn the_log_s_level_changes_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::create_dir(path.join("run")).unwrap();
    let file = path.join("controller.toml");
    std::fs::write(&file, "log = \"error\"\n").unwrap();
    let mut program = Program(command(path).arg("--config").arg(&file).spawn().unwrap());
    let mut lines = BufReader::new(program.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let began = Instant::now();
    while !path.join("run/admin.token").exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = program.0.id().to_string();
    let mut hangup = |settings: &str, expected: &str| {
        std::fs::write(&file, settings).unwrap();
        let sent = Command::new("kill").arg("-HUP").arg(&id).status().unwrap();
        assert!(sent.success());
        // A line that does not come ends the wait, too: the program is killed when the test is.
        let line = lines.next().unwrap();
        assert!(line.contains(expected), "{line}");
    };
    hangup("log = \"info\"\n", "the settings were read again");
    hangup("log = \"loud\"\n", "the settings stay as they were");
    hangup("log = \"info\"\nlog_format = \"json\"\n", "the settings were read again");
    assert!(lines.next().unwrap().contains("restart for the others"));
    assert!(stop(program, "TERM"));
}

#[test]
fn settings_are_checked_without_doing_anything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let file = path.join("controller.toml");
    std::fs::write(&file, "listen = \"none\"\n").unwrap();
    let right = command(path).arg("--check-config").arg("--config").arg(&file).output().unwrap();
    assert!(right.status.success(), "{}", said(&right));
    std::fs::write(&file, "listen = \"none\"\nlissen = 1\n").unwrap();
    let wrong = command(path).arg("--check-config").arg("--config").arg(&file).output().unwrap();
    assert!(!wrong.status.success());
    assert!(said(&wrong).contains("controller.toml, line 2"), "{}", said(&wrong));
    assert!(!path.join("state").exists() && !path.join("run").exists());
    let version = command(path).arg("--version").output().unwrap();
    assert!(said(&version).contains(weft_proto::VERSION), "{}", said(&version));
}
