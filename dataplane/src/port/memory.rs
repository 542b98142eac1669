//! The memory port: both of its ends lie in this process, for tests and benches.
//!
//! [`pair`] gives the queue, which a worker owns, and a [`MemoryPeer`], which a test holds (in any
//! thread): what the peer sends is received by the queue, what the queue transmits the peer takes.
//! Both directions are rings of [`RING`] frames. Frames are copied into packet memory when they are
//! received and out of it when they are sent, as on a TAP.
//!
//! The queue's descriptor is an eventfd that is readable exactly while frames are waiting, so that a
//! sleeping worker wakes.

use super::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};
use crate::drop::{DropCounters, DropReason};
use crate::limits::{HEADROOM, RUN_BYTES};
use crate::packet::frame::{Checksum, Frame, Gso};
use crate::packet::pool::Pool;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Frames that wait in each direction; more are refused (by the queue under `TransmitFull`).
pub const RING: usize = 4096;

/// A frame outside of packet memory, with its side descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryFrame {
    /// All its bytes, from the Ethernet header.
    pub bytes: Vec<u8>,
    /// The transport checksum's state.
    pub checksum: Checksum,
    /// Set if it stands for several.
    pub gso: Option<Gso>,
}

impl From<Vec<u8>> for MemoryFrame {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }
}

/// What a memory port takes unless it is told otherwise: everything as it is.
pub const EVERYTHING: Offloads = Offloads {
    checksum: true,
    tcp_segmentation: true,
    udp_segmentation: true,
    chains: true,
    max_frame: RUN_BYTES - HEADROOM,
};

/// What the two ends share.
struct Shared {
    rings: Mutex<Rings>,
    /// Signalled when `sent` gets frames.
    sent: Condvar,
    wake: OwnedFd,
}

#[derive(Default)]
struct Rings {
    /// Peer to queue.
    incoming: VecDeque<MemoryFrame>,
    /// Queue to peer.
    sent: VecDeque<MemoryFrame>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Rings> {
        // A test that panicked with the lock held has failed already; the other end goes on.
        self.rings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The worker's end. See the module comment.
pub struct MemoryQueue {
    shared: Arc<Shared>,
    slot: PortSlot,
    offloads: Offloads,
    counters: QueueCounters,
}

/// The other end. Clones are the same end.
#[derive(Clone)]
pub struct MemoryPeer {
    shared: Arc<Shared>,
}

/// A port that takes every frame as it is.
///
/// # Errors
/// The process has no file descriptor left.
pub fn pair(slot: PortSlot) -> std::io::Result<(MemoryQueue, MemoryPeer)> {
    pair_with(slot, EVERYTHING)
}

/// A port that can take what `offloads` says, so that a test can have its frames segmented.
///
/// # Errors
/// The process has no file descriptor left.
pub fn pair_with(slot: PortSlot, offloads: Offloads) -> std::io::Result<(MemoryQueue, MemoryPeer)> {
    let shared = Arc::new(Shared {
        rings: Mutex::default(),
        sent: Condvar::new(),
        wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
    });
    let queue = MemoryQueue { shared: Arc::clone(&shared), slot, offloads, counters: QueueCounters::default() };
    Ok((queue, MemoryPeer { shared }))
}

impl MemoryPeer {
    /// Hands one frame to the queue.
    ///
    /// # Errors
    /// The frame comes back if [`RING`] frames are waiting already or the queue is closed.
    pub fn send(&self, frame: impl Into<MemoryFrame>) -> Result<(), MemoryFrame> {
        let frame = frame.into();
        let mut rings = self.shared.lock();
        if rings.closed || rings.incoming.len() >= RING {
            return Err(frame);
        }
        rings.incoming.push_back(frame);
        if rings.incoming.len() == 1 {
            // It can only fail with the counter at its maximum, and then the queue is awake.
            let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Takes the oldest frame that the queue sent; `None`: there is none now.
    #[must_use]
    pub fn take(&self) -> Option<MemoryFrame> {
        self.shared.lock().sent.pop_front()
    }

    /// Takes all frames that the queue sent.
    #[must_use]
    pub fn take_all(&self) -> Vec<MemoryFrame> {
        self.shared.lock().sent.drain(..).collect()
    }

    /// Waits for a frame that the queue sent, at most this long.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<MemoryFrame> {
        let deadline = Instant::now() + patience;
        let mut rings = self.shared.lock();
        loop {
            if let Some(frame) = rings.sent.pop_front() {
                return Some(frame);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            rings = self.shared.sent.wait_timeout(rings, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Frames that the queue has not received yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().incoming.len()
    }
}

impl PortQueue for MemoryQueue {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let mut rings = self.shared.lock();
        if rings.incoming.is_empty() {
            return 0;
        }
        let before = frames.len();
        while frames.len() - before < budget {
            let Some(waiting) = rings.incoming.pop_front() else { break };
            if waiting.bytes.len() > RUN_BYTES - HEADROOM {
                drops.count(self.slot, DropReason::TooBig);
                continue;
            }
            let Some(mut frame) = pool.frame(self.slot, &waiting.bytes) else {
                drops.count(self.slot, DropReason::NoBuffer);
                continue;
            };
            frame.checksum = waiting.checksum;
            frame.gso = waiting.gso;
            self.counters.received_packets += 1;
            self.counters.received_bytes += waiting.bytes.len() as u64;
            frames.push(frame);
        }
        if rings.incoming.is_empty() {
            // Resets the counter; nothing to read means that it is reset.
            let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
        }
        frames.len() - before
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused) {
        let mut rings = self.shared.lock();
        for frame in frames.drain(..) {
            if rings.closed {
                refused.push((frame, DropReason::PortDown));
            } else if rings.sent.len() >= RING {
                refused.push((frame, DropReason::TransmitFull));
            } else {
                self.counters.sent_packets += 1;
                self.counters.sent_bytes += frame.len() as u64;
                rings.sent.push_back(MemoryFrame { bytes: frame.to_vec(), checksum: frame.checksum, gso: frame.gso });
                pool.free(frame);
            }
        }
        drop(rings);
        self.shared.sent.notify_all();
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.wake.as_fd())
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn close(&mut self, _pool: &mut Pool) {
        let mut rings = self.shared.lock();
        rings.closed = true;
        rings.incoming.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::frame::GsoKind;
    use crate::packet::memory::Memory;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(queue: &MemoryQueue) -> bool {
        let descriptor = queue.descriptor().unwrap();
        let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn frames_pass_both_ways_with_their_descriptor() {
        let mut pool = Pool::new(Memory::map(256, 8).unwrap());
        let (mut drops, mut refused) = (DropCounters::default(), Refused::new());
        let (mut queue, peer) = pair(PortSlot::new(1)).unwrap();
        assert!(!readable(&queue));
        let large = MemoryFrame {
            bytes: (0..60_000u32).map(|byte| byte as u8).collect(),
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::Tcp4, size: 1448, tunnel: 0 }),
        };
        peer.send(vec![1; 60]).unwrap();
        peer.send(large.clone()).unwrap();
        assert!(readable(&queue));

        let mut frames = Vec::new();
        assert_eq!(queue.receive(&mut pool, &mut frames, 1, &mut drops), 1);
        assert!(readable(&queue), "one frame is still waiting");
        assert_eq!(queue.receive(&mut pool, &mut frames, 64, &mut drops), 1);
        assert!(!readable(&queue));
        queue.transmit(&mut pool, &mut frames, &mut refused);
        assert_eq!((refused.len(), frames.len()), (0, 0));
        assert_eq!(peer.wait(Duration::from_secs(1)), Some(vec![1; 60].into()));
        assert_eq!(peer.take(), Some(large));
        assert_eq!(peer.take(), None);
        let expected =
            QueueCounters { received_packets: 2, received_bytes: 60_060, sent_packets: 2, sent_bytes: 60_060 };
        assert_eq!((queue.counters(), pool.outstanding(), drops.iter().count()), (expected, 0, 0));
    }

    #[test]
    fn both_rings_are_bounded_and_closing_ends_both() {
        let mut pool = Pool::new(Memory::map(256, 0).unwrap());
        let (mut drops, mut refused) = (DropCounters::default(), Refused::new());
        let (mut queue, peer) = pair(PortSlot::new(1)).unwrap();
        while peer.send(vec![0; 60]).is_ok() {}
        assert_eq!(peer.waiting(), RING);
        let mut frames = Vec::new();
        while queue.receive(&mut pool, &mut frames, 64, &mut drops) > 0 {
            queue.transmit(&mut pool, &mut frames, &mut refused);
        }
        assert_eq!(refused.len(), 0);
        let mut more = vec![pool.frame(PortSlot::new(9), &[0; 60]).unwrap()];
        queue.transmit(&mut pool, &mut more, &mut refused);
        let (frame, reason) = refused.pop().expect("it is full");
        assert_eq!((reason, refused.len()), (DropReason::TransmitFull, 0));
        pool.free(frame);
        assert_eq!(peer.take_all().len(), RING);
        queue.close(&mut pool);
        assert!(peer.send(vec![0; 60]).is_err());
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn frames_without_a_buffer_are_counted() {
        // One port may have half of it.
        let mut pool = Pool::new(Memory::map(128, 0).unwrap());
        let mut drops = DropCounters::default();
        let (mut queue, peer) = pair(PortSlot::new(1)).unwrap();
        (0..65).for_each(|_| peer.send(vec![0; 60]).unwrap());
        peer.send(vec![0; RUN_BYTES]).unwrap();
        let mut frames = Vec::new();
        assert_eq!(queue.receive(&mut pool, &mut frames, 100, &mut drops), 64);
        assert_eq!((drops.total(DropReason::NoBuffer), drops.total(DropReason::TooBig)), (1, 1));
        frames.into_iter().for_each(|frame| pool.free(frame));
    }
}
