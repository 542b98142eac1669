//! Ports without a device: one whose frames come from memory, one that takes everything.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use weft_dataplane::drop::{DropCounters, DropReason};
use weft_dataplane::limits::CHUNK_BYTES;
use weft_dataplane::packet::frame::Frame;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::port::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};

/// What an AF_XDP port takes.
const PLAIN: Offloads = Offloads {
    checksum: false,
    tcp_segmentation: false,
    udp_segmentation: false,
    chains: false,
    max_frame: CHUNK_BYTES - 256,
};

/// Receives the same frames in turn, copied from memory as from a recording. Sends nothing: what is sent here is
/// discarded and counted.
pub struct Replay {
    slot: PortSlot,
    bytes: Vec<u8>,
    /// Where frames end in `bytes`.
    ends: Vec<u32>,
    /// The next one, and where it begins.
    next: (usize, usize),
    /// How many more are received.
    left: u64,
    counters: QueueCounters,
    wake: OwnedFd,
}

impl Replay {
    /// So many frames, those given in turn.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new(slot: PortSlot, frames: &[Vec<u8>], left: u64) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for frame in frames {
            bytes.extend(frame);
            ends.push(bytes.len() as u32);
        }
        let left = if frames.is_empty() { 0 } else { left };
        let wake = eventfd(u32::from(left > 0), EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { slot, bytes, ends, next: (0, 0), left, counters: QueueCounters::default(), wake })
    }
}

impl PortQueue for Replay {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let budget = self.left.min(budget as u64) as usize;
        let before = frames.len();
        let (mut number, mut start) = self.next;
        for _ in 0..budget {
            let end = self.ends[number] as usize;
            match pool.frame(self.slot, &self.bytes[start..end]) {
                Some(frame) => frames.push(frame),
                None => drops.count(self.slot, DropReason::NoBuffer),
            }
            self.counters.received_bytes += (end - start) as u64;
            (number, start) = if number + 1 == self.ends.len() { (0, 0) } else { (number + 1, end) };
        }
        self.next = (number, start);
        self.counters.received_packets += (frames.len() - before) as u64;
        self.left -= budget as u64;
        if budget > 0 && self.left == 0 {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        frames.len() - before
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, _refused: &mut Refused) {
        for frame in frames.drain(..) {
            self.counters.sent_packets += 1;
            self.counters.sent_bytes += frame.len() as u64;
            pool.free(frame);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }

    fn offloads(&self) -> Offloads {
        PLAIN
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn close(&mut self, _pool: &mut Pool) {}
}
