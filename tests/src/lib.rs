//! What the end-to-end tests stand on: Weft's programs as they were built, network namespaces, and a demo
//! cloud in another process. Everything is removed when it goes out of scope, also when a test fails.
//!
//! The tests run the programs beside them in the target directory. Cargo does not build another package's programs for a
//! test: `make test` builds the workspace first, and a program that is missing fails the test with a
//! sentence. They need root, and the programs that `make test` installs.
//!
//! To add a test: a function in the file it belongs to, that begins with [`serial`].

pub mod bench;
pub mod demo;
pub mod guest;
pub mod machine;
pub mod open_vswitch;
pub mod packet;
pub mod traffic;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lets one test of a file run at a time: each wants the processors for itself.
pub fn serial() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it had its turn has cleaned up after itself.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of one of Weft's programs.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a file");
    // target/debug/deps/check-0123456789abcdef
    let directory = own.ancestors().nth(2).expect("tests lie in a target directory");
    let file = directory.join(name);
    assert!(
        file.is_file(),
        "{} is missing. Build the programs first (cargo build --workspace --bins), or run: make test",
        file.display()
    );
    file
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command, for messages.
    pub command: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Outcome {
    fn new(command: String, output: &Output) -> Self {
        Self {
            command,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Gives what it printed.
    ///
    /// # Panics
    /// If it did not exit with 0.
    #[must_use]
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// Gives its messages.
    ///
    /// # Panics
    /// If it did not exit with 1, or its messages lack one of `parts`.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "it was not refused: {self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "the message lacks {part:?}: {self:#?}");
        }
        self.stderr
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Outcome {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown} cannot be run: {error}. Run: make test"));
    Outcome::new(shown, &output)
}

/// Runs `weft` with these arguments.
#[must_use]
pub fn weft(arguments: &[&str]) -> Outcome {
    run(Command::new(program("weft")).args(arguments))
}

/// Waits until `done` gives something.
///
/// # Panics
/// If it has not after `patience`.
#[track_caller]
pub fn eventually<T>(what: &str, patience: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {} s", patience.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
