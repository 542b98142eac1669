//! A program that is measured: started with its output in a file, stopped while others are measured, gone when we
//! are gone, however that comes about.

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use weft_up::program::last_lines;

/// How long a program may take to start.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// See the module comment.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What to start.
pub struct Plan<'a> {
    /// For people, and for its log file.
    pub name: &'a str,
    /// Its file.
    pub file: &'a Path,
    /// What follows it.
    pub arguments: Vec<String>,
    /// Added to its environment.
    pub environment: Vec<(&'static str, String)>,
    /// The network namespace that it runs in; `None`: ours.
    pub namespace: Option<&'a str>,
    /// Where it runs, and its log is.
    pub directory: &'a Path,
    /// It is spoken with by its standard input and output.
    pub spoken_with: bool,
}

impl Process {
    /// Starts it.
    pub fn start(plan: Plan<'_>) -> Result<Self> {
        let log = plan.directory.join(format!("{}.log", plan.name));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = match plan.namespace {
            // `ip netns exec` replaces itself by the program: the process id stays.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(plan.file);
                command
            }
            None => Command::new(plan.file),
        };
        command.args(plan.arguments).envs(plan.environment).current_dir(plan.directory).process_group(0);
        if plan.spoken_with {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(output);
        } else {
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        }
        // SAFETY: prctl is a plain system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", plan.file.display()))?;
        Ok(Self { name: plan.name.to_owned(), child, log })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input and output, once, if it was started to be spoken with.
    pub fn pipes(&mut self) -> Result<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take()).context("its pipes are taken already")
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        weft_up::interrupt::check()?;
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}). Its last lines:\n{}", self.name, last_lines(&self.log, 12))
            }
        }
    }

    /// Waits until something is there.
    pub fn wait_for<T>(&mut self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = attempt() {
                return Ok(found);
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "{}: no {what} after {} s. Its last lines:\n{}",
                    self.name,
                    PATIENCE.as_secs(),
                    last_lines(&self.log, 12)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its thread whose name begins so.
    pub fn thread(&mut self, prefix: &str) -> Result<Thread> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.id()));
        let found = self.wait_for(&format!("thread {prefix}"), || {
            let names = std::fs::read_dir(&tasks).ok()?;
            names
                .flatten()
                .map(|entry| entry.path())
                .find(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(prefix)))
        })?;
        Ok(Thread { schedstat: found.join("schedstat") })
    }

    /// Bytes of memory that it uses, what it shares with others in parts (PSS). Huge pages do not count.
    pub fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kilobytes.with_context(|| format!("{path} does not say Pss"))? * 1024)
    }

    /// Stops it, all its threads.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = Pid::from_raw(self.id() as i32) {
            // Whether it is still there is found out by `check`.
            let _gone = kill_process(id, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A thread of a process.
#[derive(Clone)]
pub struct Thread {
    schedstat: PathBuf,
}

impl Thread {
    /// That of a number, of a process.
    pub fn of(process: u32, thread: i32) -> Self {
        Self { schedstat: PathBuf::from(format!("/proc/{process}/task/{thread}/schedstat")) }
    }

    /// How long it has been on a CPU, nanoseconds.
    pub fn on_cpu(&self) -> Result<u64> {
        let text = std::fs::read_to_string(&self.schedstat)
            .with_context(|| format!("cannot read {}", self.schedstat.display()))?;
        let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
        first.ok_or_else(|| anyhow!("{} does not begin with a number", self.schedstat.display()))
    }
}
