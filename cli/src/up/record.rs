//! What a cloud has made, in a file, so that `weft down` can remove what a killed `weft up` left, and
//! nothing else.
//!
//! One line per thing: a kind, what identifies it, its name. A line is written *before* a namespace, file or directory
//! is made, and right after a process starts. A thing is removed only if it is still ours: a process is
//! told by its id and start time, a namespace by the inode of its handle. Removing goes backwards through the list and may be repeated.

use super::namespace;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process that cannot be mistaken for another that was given the same id later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// The process id.
    pub id: u32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl ProcessIdentity {
    /// The identity of the process that has this id now; `None` if none has, or only a zombie.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields are counted after its end. [proc(5)]
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
        let alive = !matches!(*fields.first()?, "Z" | "X");
        let started = fields.get(19)?.parse().ok()?;
        alive.then_some(Self { id, started })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn runs(self) -> bool {
        Self::of(self.id) == Some(self)
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(self, signal: Signal) {
        if self.runs()
            && let Some(id) = i32::try_from(self.id).ok().and_then(Pid::from_raw)
            && test_kill_process(id).is_ok()
        {
            let _gone_meanwhile = kill_process(id, signal);
        }
    }

    /// Asks it to end, waits at most `patience`, then kills it. Does not reap: a child stays a zombie
    /// until its parent waits for it.
    pub fn end(self, patience: Duration) {
        self.signal(Signal::TERM);
        if !self.ends_within(patience) {
            self.signal(Signal::KILL);
            // What cannot be killed hangs in the kernel; the caller asks `runs`.
            let _ended = self.ends_within(Duration::from_secs(5));
        }
    }

    /// Waits until it has ended; `false` if it has not after `patience`.
    #[must_use = "it may still run"]
    pub fn ends_within(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.runs() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// One thing that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    /// The `weft up` that writes this record.
    Owner(ProcessIdentity),
    /// A program, by a name for people.
    Process(ProcessIdentity, String),
    /// A network namespace; the identity follows once it exists.
    Namespace(String, Option<u64>),
    /// A file or socket.
    File(PathBuf),
    /// A directory: removed with what is in it.
    Tree(PathBuf),
    /// A directory that others may use too: removed if it is empty.
    Directory(PathBuf),
}

impl fmt::Display for Made {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(process) => write!(to, "owner {} {}", process.id, process.started),
            Self::Process(process, name) => write!(to, "process {} {} {name}", process.id, process.started),
            Self::Namespace(name, Some(identity)) => write!(to, "namespace {identity} {name}"),
            Self::Namespace(name, None) => write!(to, "namespace - {name}"),
            Self::File(path) => write!(to, "file {}", path.display()),
            Self::Tree(path) => write!(to, "tree {}", path.display()),
            Self::Directory(path) => write!(to, "directory {}", path.display()),
        }
    }
}

impl Made {
    /// Reads a line; `None` for one that was cut off when its writer was killed.
    fn read(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        let process = |rest: &str| {
            let mut words = rest.splitn(3, ' ');
            let id = words.next()?.parse().ok()?;
            let started = words.next()?.parse().ok()?;
            Some((ProcessIdentity { id, started }, words.next().unwrap_or_default().to_owned()))
        };
        Some(match kind {
            "owner" => Self::Owner(process(rest)?.0),
            "process" => process(rest).map(|(identity, name)| Self::Process(identity, name))?,
            "namespace" => {
                let (identity, name) = rest.split_once(' ')?;
                Self::Namespace(name.to_owned(), identity.parse().ok())
            }
            "file" => Self::File(rest.into()),
            "tree" => Self::Tree(rest.into()),
            "directory" => Self::Directory(rest.into()),
            _ => return None,
        })
    }
}

/// The record of a cloud that is being made or runs.
pub struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    /// Begins a record at `path`, in a directory that must not exist yet.
    ///
    /// # Errors
    /// If the directory exists or cannot be made.
    pub fn begin(path: &Path) -> Result<Self> {
        let directory = path.parent().context("the record has no directory")?;
        let parent = directory.parent().context("the directory has no parent")?;
        let parent_is_new = !parent.exists();
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        if directory.exists() {
            bail!(
                "--directory: {} exists and is not of a Weft cloud. Choose one that does not exist.",
                directory.display()
            );
        }
        std::fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        let mut record = Self { file, path: path.to_owned() };
        if parent_is_new {
            record.write(&Made::Directory(parent.to_owned()))?;
        }
        record.write(&Made::Tree(directory.to_owned()))?;
        let own =
            ProcessIdentity::of(std::process::id()).context("cannot read /proc. Mount it: mount -t proc proc /proc")?;
        record.write(&Made::Owner(own))?;
        Ok(record)
    }

    fn write(&mut self, made: &Made) -> Result<()> {
        // One write call a line: a kill leaves whole lines only.
        self.file
            .write_all(format!("{made}\n").as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Makes a namespace, written down.
    ///
    /// # Errors
    /// If it exists or cannot be made.
    pub fn namespace(&mut self, name: &str) -> Result<()> {
        if namespace::exists(name) {
            bail!(
                "network namespace {name} exists already and is not of this cloud. Remove it (ip netns del {name}), or \
                 choose other names with --directory."
            );
        }
        self.write(&Made::Namespace(name.to_owned(), None))?;
        namespace::create(name)?;
        self.write(&Made::Namespace(name.to_owned(), namespace::identity(name)))
    }

    /// Writes down a process that was just started.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn process(&mut self, id: u32, name: &str) -> Result<()> {
        match ProcessIdentity::of(id) {
            Some(identity) => self.write(&Made::Process(identity, name.to_owned())),
            None => Ok(()),
        }
    }

    /// Writes down a file or socket outside the cloud's directory that will be made.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        self.write(&Made::File(path.to_owned()))
    }
}

/// The `weft up` that a record belongs to, if it still runs.
#[must_use]
pub fn owner(path: &Path) -> Option<ProcessIdentity> {
    let text = std::fs::read_to_string(path).ok()?;
    let owner = text.lines().filter_map(Made::read).find_map(|made| match made {
        Made::Owner(process) => Some(process),
        _ => None,
    })?;
    owner.runs().then_some(owner)
}

/// Removes everything in the record at `path` that is still ours, the record last. Gives what could
/// not be removed, one sentence each; a record that does not exist gives nothing to do.
///
/// # Errors
/// If the record cannot be read.
pub fn remove(path: &Path) -> Result<Vec<String>> {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut made: Vec<Made> = text.lines().filter_map(Made::read).collect();
    // An announced namespace counts only if its writer was killed before it could tell which it is.
    let known: Vec<String> = made
        .iter()
        .filter_map(|made| match made {
            Made::Namespace(name, Some(_)) => Some(name.clone()),
            _ => None,
        })
        .collect();
    made.retain(|made| !matches!(made, Made::Namespace(name, None) if known.contains(name)));
    let mut trouble = Vec::new();

    // Processes first, those started last first: clients, switches, then the controller.
    let processes = made.iter().rev().filter_map(|made| match made {
        Made::Process(process, name) => Some((*process, name)),
        _ => None,
    });
    let processes: Vec<_> = processes.filter(|(process, _)| process.runs()).collect();
    // All of them are asked before the first is waited for, so that a demo ends at once.
    for (process, _) in &processes {
        process.signal(Signal::TERM);
        // A stopped process would not hear it.
        process.signal(Signal::CONT);
    }
    for (process, name) in &processes {
        process.end(Duration::from_secs(5));
        if process.runs() {
            trouble.push(format!("process {} ({name}) does not end, not even by SIGKILL.", process.id));
        }
    }
    for made in made.iter().rev() {
        if let Err(error) = remove_one(made, &mut trouble) {
            trouble.push(format!("{error:#}"));
        }
    }
    Ok(trouble)
}

fn remove_one(made: &Made, trouble: &mut Vec<String>) -> Result<()> {
    let absent_is_fine = |result: std::io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    };
    match made {
        Made::Owner(_) | Made::Process(..) => Ok(()),
        Made::Namespace(name, identity) => {
            let found = namespace::identity(name);
            if found.is_none() || (identity.is_some() && found != *identity) {
                return Ok(());
            }
            for id in namespace::processes(name) {
                let command = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
                trouble.push(format!(
                    "process {id} ({}), which a person started in network namespace {name}, still runs. End it: kill {id}",
                    command.trim()
                ));
            }
            namespace::ip(&format!("netns del {name}")).map(drop)
        }
        Made::File(path) => absent_is_fine(std::fs::remove_file(path), path),
        Made::Tree(path) => absent_is_fine(std::fs::remove_dir_all(path), path),
        Made::Directory(path) => {
            let _in_use_by_others = std::fs::remove_dir(path);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let process = ProcessIdentity { id: 12, started: 345 };
        for made in [
            Made::Owner(process),
            Made::Process(process, "switch of host a".into()),
            Made::Namespace("weft-host-a".into(), Some(7)),
            Made::Namespace("weft-host-a".into(), None),
            Made::File("/run/weft/x y".into()),
            Made::Tree("/run/weft/demo".into()),
            Made::Directory("/run/weft".into()),
        ] {
            assert_eq!(Made::read(&made.to_string()), Some(made));
        }
        assert_eq!(Made::read("process 12"), None);
    }

    #[test]
    fn only_the_very_process_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let earlier = ProcessIdentity { started: identity.started - 1, ..identity };
        earlier.end(Duration::from_millis(1));
        assert!(identity.runs(), "a process of the same id but another start was ended");
        identity.end(Duration::from_secs(5));
        assert!(!identity.runs());
        child.wait().unwrap();
    }

    #[test]
    fn removing_may_be_repeated() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("new/cloud/made");
        let mut record = Record::begin(&path).unwrap();
        assert!(Record::begin(&path).is_err(), "a directory that exists was taken");
        let socket = outside.path().join("socket");
        record.file(&socket).unwrap();
        std::fs::write(&socket, "").unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        record.process(child.id(), "sleep").unwrap();
        assert_eq!(owner(&path).map(|found| found.id), Some(std::process::id()));
        assert_eq!(remove(&path).unwrap(), Vec::<String>::new());
        assert!(!socket.exists() && !outside.path().join("new").exists());
        child.wait().unwrap();
        assert_eq!(remove(&path).unwrap(), Vec::<String>::new());
    }
}
