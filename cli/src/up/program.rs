//! The programs that a cloud runs: started with their output in a log file, in a process group of
//! their own (a Ctrl-C at the terminal is for `weft up` alone, which ends them in order), watched, and
//! ended.

use super::record::{ProcessIdentity, Record};
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct ProgramPlan {
    /// For people: "switch of host a".
    pub name: String,
    /// The namespace it runs in; `None`: the one of `weft up`.
    pub namespace: Option<String>,
    /// The program's file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to its environment.
    pub environment: Vec<(String, String)>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Where its output is appended.
    pub log: PathBuf,
}

/// A running program.
pub struct Program {
    /// What it was started from; it can be started again.
    pub plan: ProgramPlan,
    child: Child,
    identity: Option<ProcessIdentity>,
    reported: bool,
}

impl Program {
    /// Starts it and writes it down.
    ///
    /// # Errors
    /// If the program or its log file cannot be opened.
    pub fn start(plan: ProgramPlan, record: &mut Record) -> Result<Self> {
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&plan.log)
            .with_context(|| format!("cannot open {}", plan.log.display()))?;
        let mut command = match &plan.namespace {
            // `ip netns exec` replaces itself by the program: the process id stays.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&plan.file);
                command
            }
            None => Command::new(&plan.file),
        };
        command
            .args(&plan.arguments)
            .envs(plan.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&plan.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", plan.file.display()))?;
        record.process(child.id(), &plan.name)?;
        let identity = ProcessIdentity::of(child.id());
        Ok(Self { plan, child, identity, reported: false })
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// If it has ended since the last call, once: that it has, how, where its log is, and the log's last lines.
    pub fn obituary(&mut self) -> Option<String> {
        let status = self.ended().filter(|_| !self.reported)?;
        self.reported = true;
        Some(format!(
            "{} ended ({status}). The last lines of {}:\n{}",
            self.plan.name,
            self.plan.log.display(),
            match last_lines(&self.plan.log, 12) {
                lines if lines.is_empty() => "    (it is empty)\n".to_owned(),
                lines => lines,
            }
        ))
    }

    /// Kills it as a crash would, and reaps it.
    pub fn crash(&mut self) {
        self.reported = true;
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }

    /// Asks it to end, then makes it, and reaps it.
    pub fn end(&mut self) {
        self.reported = true;
        if self.ended().is_none()
            && let Some(identity) = self.identity
        {
            identity.end(Duration::from_secs(5));
        }
        let _reaped_already = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last lines of a file, indented.
#[must_use]
pub fn last_lines(path: &Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(|line| format!("    {line}\n")).collect()
}
