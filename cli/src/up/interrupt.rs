//! Ctrl-C and SIGTERM: remembered, and asked for between steps, so that whatever was made by then is removed
//! in order.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP do not end the process but are remembered.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut signals =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    drop(guard);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async move {
            let [interrupt, terminate, hangup] = &mut signals;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Release);
            }
        });
    })?;
    Ok(())
}

/// Whether a signal has come.
#[must_use]
pub fn has_come() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Between two steps: an error once a signal has come.
///
/// # Errors
/// Once a signal has come.
pub fn check() -> Result<()> {
    if has_come() {
        bail!("interrupted");
    }
    Ok(())
}
