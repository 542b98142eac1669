//! `weft up` and `weft down`: a whole cloud on one machine, in network namespaces, to look at
//! ([`UpArguments`]) and to check ([`check`]).
//!
//! It stands outside the cloud it makes: it starts the same programs and makes the same calls as anybody else
//! could. Read [`cloud`] first. What it has made is written down ([`record`]), so that even after a SIGKILL `weft down` removes
//! everything. The end-to-end tests use [`namespace`], [`capture`], [`frame`] and [`raw`] from here.

pub mod api;
pub mod capture;
pub mod check;
pub mod cloud;
mod fault;
pub mod frame;
mod guide;
pub mod instance;
pub mod interrupt;
pub mod layout;
pub mod namespace;
pub mod outside;
mod preflight;
pub mod program;
pub mod raw;
pub mod record;
pub mod settings;

use anyhow::{Context, Result, bail};
use clap::Args;
use cloud::{Cloud, Progress};
use layout::Layout;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The exit code of a cloud that a signal ended before it was done: what shells give for SIGINT.
const INTERRUPTED: u8 = 130;

/// Starts a demo cloud on this machine: a controller, hosts, and instances in network namespaces.
#[derive(Args, Clone, Debug)]
pub struct UpArguments {
    /// Check what the cloud promises, line by line, on real traffic, then remove it; exit 0 if every line holds.
    #[arg(long)]
    pub check: bool,
    /// With --check: plant one real fault, which the line of this name must find.
    #[arg(long = "break", value_name = "LINE", requires = "check")]
    pub broken: Option<String>,
    /// How many hosts, 2 to 9. Default: 2, and 3 with --check.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9))]
    pub hosts: Option<u8>,
    /// Where the cloud keeps its files; also names its namespaces, so that several run side by side. It must not
    /// exist. Default: /run/weft/demo, and with --check one of its own.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// Ends the demo cloud, and removes what one that was killed has left.
#[derive(Args, Clone, Debug)]
pub struct DownArguments {
    /// Where the cloud keeps its files.
    #[arg(long, value_name = "DIRECTORY", default_value = layout::DEFAULT_DIRECTORY)]
    pub directory: PathBuf,
}

/// Runs `weft up`, in a thread of its own: it waits in place, which the threads of an async runtime must not.
#[must_use]
pub fn up(arguments: &UpArguments) -> ExitCode {
    in_thread(|| run_up(arguments))
}

/// Runs `weft down`.
#[must_use]
pub fn down(arguments: &DownArguments) -> ExitCode {
    in_thread(|| run_down(arguments))
}

fn in_thread(work: impl FnOnce() -> Result<ExitCode> + Send) -> ExitCode {
    let result = std::thread::scope(|scope| scope.spawn(work).join());
    match result {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn run_up(arguments: &UpArguments) -> Result<ExitCode> {
    if let Some(name) = &arguments.broken {
        check::require_name(name)?;
    }
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None if arguments.check => PathBuf::from(format!("/run/weft/check-{}", std::process::id())),
        None => PathBuf::from(layout::DEFAULT_DIRECTORY),
    };
    let layout = Layout::new(&directory)?;
    let hosts = arguments.hosts.map_or(if arguments.check { check::HOSTS } else { 2 }, usize::from);
    if arguments.check && hosts < check::HOSTS {
        bail!("--hosts: the check needs a host that a broadcast must not reach. Give at least {}.", check::HOSTS);
    }
    preflight::check()?;
    remove_remains(&layout)?;
    interrupt::listen()?;
    let ended = if arguments.check {
        check::run(layout, hosts, arguments.broken.as_deref())
            .map(|failed| if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    } else {
        run_demo(layout, hosts)
    };
    if ended.is_err() && interrupt::has_come() {
        println!("interrupted: everything is removed");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    ended
}

/// A cloud that was killed is removed; one that runs is not touched.
fn remove_remains(layout: &Layout) -> Result<()> {
    let record = layout.record();
    if let Some(owner) = record::owner(&record) {
        bail!(
            "a cloud runs in {} already (process {}). End it (weft down), or start another elsewhere with --directory.",
            layout.directory.display(),
            owner.id
        );
    }
    if record.exists() {
        println!("removing what a killed demo left");
        for line in record::remove(&record)? {
            eprintln!("weft: {line}");
        }
    }
    Ok(())
}

fn run_demo(layout: Layout, hosts: usize) -> Result<ExitCode> {
    let progress = Progress::start();
    let mut cloud = bring_up(layout, hosts, progress)?;
    println!("{}", guide::guide(&cloud));
    while !interrupt::has_come() {
        for news in cloud.news() {
            eprintln!("weft: {news}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    println!();
    progress.say("removing everything");
    let trouble = cloud.remove()?;
    for line in &trouble {
        eprintln!("weft: {line}");
    }
    progress.say("done");
    Ok(if trouble.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bring_up(layout: Layout, hosts: usize, progress: Progress) -> Result<Cloud> {
    let mut cloud = Cloud::build(layout, hosts, progress)?;
    let all: Vec<usize> = (0..cloud.instances.len()).collect();
    let missing = cloud.start_clients(&all, Duration::from_secs(15))?;
    if !missing.is_empty() {
        bail!("no lease for {} within 15 s. What the programs say:\n{}", missing.join(", "), cloud.evidence());
    }
    Ok(cloud)
}

fn run_down(arguments: &DownArguments) -> Result<ExitCode> {
    let layout = Layout::new(&arguments.directory)?;
    let record = layout.record();
    if !record.exists() {
        println!("nothing to remove: there is no cloud in {}", layout.directory.display());
        return Ok(ExitCode::SUCCESS);
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the cloud in {} was made by root, and only root can remove it. Run: sudo weft down",
            layout.directory.display()
        );
    }
    if let Some(owner) = record::owner(&record) {
        println!("ending the cloud of process {}", owner.id);
        owner.signal(rustix::process::Signal::TERM);
        if !owner.ends_within(Duration::from_secs(20)) {
            owner.end(Duration::ZERO);
        }
    }
    let trouble = record::remove(&record).context("cannot remove everything")?;
    for line in &trouble {
        eprintln!("weft: {line}");
    }
    if trouble.is_empty() {
        println!("the cloud in {} is removed", layout.directory.display());
    } else {
        eprintln!(
            "weft: not all of the cloud in {} is removed: see above, then run weft down again",
            layout.directory.display()
        );
    }
    Ok(if trouble.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
