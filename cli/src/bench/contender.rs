//! What can be measured: packets, and what they cost the thread that switches them. All are measured on the same
//! core, one at a time; the others are stopped meanwhile.

use super::process::{Process, Thread};
use anyhow::{Result, bail};
use std::time::Duration;

/// How long one that was stopped runs before it is measured: its working set comes back to the core's caches, its
/// counters become true again.
const WARM_UP: Duration = Duration::from_millis(40);

/// See the module comment.
pub trait Contender {
    /// Its process.
    fn process(&mut self) -> &mut Process;
    /// The thread that switches.
    fn thread(&self) -> &Thread;
    /// Packets that it has received so far.
    fn packets(&mut self) -> Result<u64>;
}

/// A time in which packets were switched.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// On the CPU.
    pub nanoseconds: u64,
    /// Received.
    pub packets: u64,
}

impl Sample {
    /// Nanoseconds a packet.
    pub fn cost(&self) -> f64 {
        self.nanoseconds as f64 / self.packets as f64
    }
}

/// Lets one that is stopped run for so long.
pub fn sample(contender: &mut dyn Contender, window: Duration) -> Result<Sample> {
    contender.process().check()?;
    contender.process().resume();
    std::thread::sleep(WARM_UP);
    let first = reading(contender)?;
    std::thread::sleep(window);
    let second = reading(contender)?;
    contender.process().pause();
    let sample = Sample { nanoseconds: second.0 - first.0, packets: second.1 - first.1 };
    if sample.packets == 0 {
        contender.process().check()?;
        bail!("no packet was received in {} ms", window.as_millis());
    }
    Ok(sample)
}

/// Time and packets at one moment: asking takes some time, half of which has passed when the answer is made.
fn reading(contender: &mut dyn Contender) -> Result<(u64, u64)> {
    let before = contender.thread().on_cpu()?;
    let packets = contender.packets()?;
    let after = contender.thread().on_cpu()?;
    Ok((before + (after - before) / 2, packets))
}
