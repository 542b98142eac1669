//! Ports: where frames come from and go to.
//!
//! A port is one or more queues; each [`PortQueue`] is owned by exactly one worker, which alone calls
//! it. Opening and closing a port is the switch's business (`switch.rs`), on its own thread.
//!
//! - [`memory`]: in-process rings, for tests and benches.
//! - [`pcap`]: recordings, read and written.
//! - [`tap`]: the kernel's TAP with virtio-net headers.
//! - [`vhost_user`]: virtual machines.
//! - [`af_xdp`]: network interfaces of the host.
//!
//! [`virtio`] is the header that TAPs and guests put before a frame.

pub mod af_xdp;
mod interface;
pub mod memory;
pub mod pcap;
pub mod tap;
pub mod vhost_user;
pub mod virtio;

use crate::drop::{DropCounters, DropReason};
use crate::packet::frame::Frame;
use crate::packet::pool::Pool;
use std::os::fd::BorrowedFd;

/// The index of a port in the switch's table of ports: small, reused after the port is gone and every
/// worker has forgotten it. Rules use port *numbers*; programs use slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSlot(u16);

impl PortSlot {
    /// No port: what is counted here belongs to none, or to one that is gone. Ports have slots from 1 on.
    pub const NONE: Self = Self(0);

    /// The slot of this index.
    ///
    /// # Panics
    /// If it is not less than [`crate::limits::PORTS`].
    #[must_use]
    pub fn new(index: usize) -> Self {
        assert!(index < crate::limits::PORTS, "slot {index} is out of range");
        Self(index as u16)
    }

    /// The index.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a port can take as it is; the worker turns frames into what it can take before `transmit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Frames with a partial checksum.
    pub checksum: bool,
    /// Frames that stand for several TCP segments, not in a tunnel.
    pub tcp_segmentation: bool,
    /// Likewise UDP datagrams.
    pub udp_segmentation: bool,
    /// Frames of several segments, or in a run. Without it they come in one chunk, or, where `max_frame` is more than
    /// fits one, in at most [`RING_PIECES`](crate::limits::RING_PIECES) of them.
    pub chains: bool,
    /// The largest frame without GSO, bytes, Ethernet header included. Larger ones drop as `TooBig`.
    pub max_frame: usize,
}

/// Packets and bytes that passed a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Frames received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames handed to the kernel or peer.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

/// Frames that a queue could not send, with the reason.
pub type Refused = Vec<(Frame, DropReason)>;

/// One queue of a port, owned by one worker.
pub trait PortQueue: Send {
    /// Appends at most `budget` received frames to `frames`, in buffers charged to this port. Frames
    /// for which there is no buffer stay with the kernel or are dropped under `NoBuffer`. Gives how
    /// many were appended. Never blocks.
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize;

    /// Sends all of `frames`, in order, and empties it: what cannot be sent now is given back in `refused`
    /// with its reason (`TransmitFull`, `PortDown`). The frames fit [`PortQueue::offloads`]. Never blocks.
    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused);

    /// Work left over from earlier calls: transmit completions, wake-ups, refilling. Called once per
    /// round of the worker, and before it sleeps.
    fn service(&mut self, _pool: &mut Pool) {}

    /// What becomes readable when `receive` has something; `None`: the worker must poll.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// What it can take.
    fn offloads(&self) -> Offloads;

    /// What passed it so far.
    fn counters(&self) -> QueueCounters;

    /// Gives back every buffer it holds; called once, last.
    fn close(&mut self, pool: &mut Pool);
}
