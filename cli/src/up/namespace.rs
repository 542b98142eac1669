//! Network namespaces: making them with `ip`, and running a thread's work inside one.
//!
//! Namespaces are the named ones of `ip netns`, so that a person can enter them too.

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// If it cannot be started, or exits with another status than 0: then with its last line on stderr.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}. Install it or add it to PATH."))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a program that failed had to say: its last line, or its exit status.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    text.lines().rev().find(|line| !line.trim().is_empty()).map_or_else(|| output.status.to_string(), str::to_owned)
}

/// Runs `ip` with arguments separated by spaces.
///
/// # Errors
/// As [`run`].
pub fn ip(arguments: &str) -> Result<String> {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// Runs a program inside a namespace; arguments are separated by spaces.
///
/// # Errors
/// As [`run`].
pub fn run_inside(namespace: &str, command: &str) -> Result<String> {
    ip(&format!("netns exec {namespace} {command}"))
}

/// Where `ip netns` keeps the namespace of this name.
#[must_use]
pub fn path(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

/// Whether a namespace of this name exists.
#[must_use]
pub fn exists(namespace: &str) -> bool {
    path(namespace).exists()
}

/// What tells this namespace from a later one of the same name; `None` if there is none.
#[must_use]
pub fn identity(namespace: &str) -> Option<u64> {
    std::fs::metadata(path(namespace)).ok().map(|found| found.ino())
}

/// Makes a namespace whose loopback is up, without IPv6: the demo cloud is IPv4 only, and the noise of
/// IPv6's autoconfiguration would hide what a person looks for.
///
/// # Errors
/// If the name is taken or the right to do it is missing.
pub fn create(namespace: &str) -> Result<()> {
    ip(&format!("netns add {namespace}"))?;
    ip(&format!("-n {namespace} link set lo up"))?;
    start(namespace, || {
        for interfaces in ["all", "default"] {
            // A kernel without IPv6 has no such file, and nothing to switch off.
            let _absent = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interfaces}/disable_ipv6"), "1");
        }
        Ok(())
    })?
    .join()
    .map_err(|_| anyhow::anyhow!("the thread that prepares namespace {namespace} panicked"))?
}

/// Runs `work` in a new thread inside a namespace. The thread is inside before this returns.
///
/// # Errors
/// If there is no such namespace, or the right to enter it is missing.
pub fn start<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let file = File::open(path(namespace)).with_context(|| format!("cannot open network namespace {namespace}"))?;
    let (inside, wait) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(namespace.to_owned()).spawn(move || {
        let entered = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        let ours = entered.is_ok();
        let _listening = inside.send(entered);
        if !ours {
            bail!("not inside the namespace");
        }
        work()
    })?;
    wait.recv().context("the thread ended")?.with_context(|| {
        format!("cannot enter network namespace {namespace}. Run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN.")
    })?;
    Ok(thread)
}

/// Runs `work` inside a namespace and waits for what it gives.
///
/// # Errors
/// As [`start`], or the work's own.
pub fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    finish(start(namespace, work)?)
}

/// Waits for the thread of [`start`].
///
/// # Errors
/// The work's own.
pub fn finish<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Process ids of everything that runs inside a namespace.
#[must_use]
pub fn processes(namespace: &str) -> Vec<u32> {
    let listed = ip(&format!("netns pids {namespace}")).unwrap_or_default();
    listed.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
