//! Watching an interface of a namespace for frames with a marker in them: how the checks prove where a frame
//! came and where it did not.

use super::frame;
use super::namespace;
use super::raw::PacketSocket;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Which way watched frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// They arrive at the interface.
    Arriving,
    /// They arrive at it or leave it.
    Both,
}

/// A running capture. Dropping it stops it.
pub struct Capture {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<Vec<Vec<u8>>>>>,
}

impl Capture {
    /// Watches `interface`, from before this returns, for frames that contain `marker`.
    ///
    /// # Errors
    /// If there is no such namespace or interface, or no right to watch it.
    pub fn start(namespace: &str, interface: &str, direction: Direction, marker: &[u8]) -> Result<Self> {
        let socket = packet_socket(namespace, interface)?;
        if direction == Direction::Arriving {
            socket.ignore_outgoing()?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicUsize::new(0));
        let (stopped, count, marker) = (Arc::clone(&stop), Arc::clone(&seen), marker.to_vec());
        let thread = std::thread::spawn(move || {
            let mut found = Vec::new();
            let mut buffer = vec![0; 65_536];
            loop {
                // What has arrived before the stop is still read: stopping loses nothing.
                let last_round = stopped.load(Ordering::Acquire);
                let patience = if last_round { Duration::ZERO } else { Duration::from_millis(20) };
                let Some(length) = socket.receive(&mut buffer, patience)? else {
                    if last_round {
                        return Ok(found);
                    }
                    continue;
                };
                if frame::contains(&buffer[..length], &marker) {
                    found.push(buffer[..length].to_vec());
                    count.fetch_add(1, Ordering::Release);
                }
            }
        });
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// Waits until at least `count` frames were seen; gives how many were, after `patience` at the latest.
    #[must_use]
    pub fn wait_for(&self, count: usize, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        loop {
            let seen = self.seen.load(Ordering::Acquire);
            if seen >= count || Instant::now() >= deadline {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it; gives the frames.
    ///
    /// # Errors
    /// If the interface went away meanwhile.
    pub fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the capture has ended")?;
        namespace::finish(thread).context("the capture broke off")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _nobody_asks = thread.join();
        }
    }
}

/// A packet socket on an interface in a namespace.
///
/// # Errors
/// If there is no such namespace or interface, or no right to do it.
pub fn packet_socket(namespace: &str, interface: &str) -> Result<PacketSocket> {
    let (place, name) = (namespace.to_owned(), interface.to_owned());
    namespace::inside(namespace, move || {
        PacketSocket::open(&name).with_context(|| format!("cannot open a packet socket on {name} in {place}"))
    })
}
