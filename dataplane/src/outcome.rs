//! What becomes of the frames of a worker's batch: the account that `drop.rs` explains.
//!
//! Outputs take their frames only at the end of the batch, so until then each received frame has an open
//! `Outcome`, which copies and segments name by their [`Departure`]. [`Outcomes::settle`] closes the batch.
//! Kept by `egress.rs`; nobody else writes.

use crate::drop::{DropCounters, DropReason};
use crate::packet::frame::{Departure, Frame};
use crate::port::{PortSlot, QueueCounters};
use std::collections::BTreeMap;

/// See the module comment.
#[derive(Default)]
pub struct Outcomes {
    /// Received frames that went nowhere, by ingress port.
    pub drops: DropCounters,
    /// What outputs could not take, by output port.
    pub unsent: DropCounters,
    /// Branches of received frames that ended nowhere, by ingress port.
    pub branches: DropCounters,
    /// What went through tunnel ports.
    pub tunnels: BTreeMap<PortSlot, QueueCounters>,
    batch: Vec<Outcome>,
}

/// Of one received frame.
struct Outcome {
    ingress: PortSlot,
    /// How often it, a copy or a segment of it went somewhere.
    taken: u32,
    /// The first thing that went wrong.
    reason: Option<DropReason>,
}

impl Outcomes {
    /// The next frame entered by this slot; what follows is about it.
    #[inline]
    pub fn enter(&mut self, ingress: PortSlot) {
        self.batch.push(Outcome { ingress, taken: 0, reason: None });
    }

    /// Where the frame that entered last came in.
    #[must_use]
    pub fn ingress(&self) -> PortSlot {
        self.batch.last().map_or(PortSlot::NONE, |outcome| outcome.ingress)
    }

    /// Which frame of the batch entered last.
    #[must_use]
    #[inline]
    pub fn current(&self) -> u32 {
        self.batch.len().saturating_sub(1) as u32
    }

    /// Where a frame of the batch came in.
    #[must_use]
    pub fn ingress_of(&self, received: u32) -> PortSlot {
        self.batch.get(received as usize).map_or(PortSlot::NONE, |outcome| outcome.ingress)
    }

    /// What went wrong first with a frame of the batch, and whether it went somewhere all the same.
    #[must_use]
    pub fn trouble(&self, received: u32) -> Option<(DropReason, bool)> {
        let outcome = self.batch.get(received as usize)?;
        Some((outcome.reason?, outcome.taken > 0))
    }

    /// What a frame carries that leaves on behalf of the frame that entered last.
    #[must_use]
    #[inline]
    pub fn departure(&self, tunnel: PortSlot) -> Departure {
        Departure { received: self.current(), tunnel, merged: 0 }
    }

    /// It went somewhere.
    pub fn taken(&mut self) {
        if let Some(outcome) = self.batch.last_mut() {
            outcome.taken += 1;
        }
    }

    /// An output took these frames.
    pub fn sent(&mut self, frames: &[Frame]) {
        // Of frames in tunnels, those that follow one another in one.
        let (mut tunnel, mut packets, mut bytes) = (PortSlot::NONE, 0, 0);
        for frame in frames {
            if let Some(outcome) = self.batch.get_mut(frame.departure.received as usize) {
                outcome.taken += 1;
            }
            if frame.departure.tunnel != tunnel {
                self.count_encapsulated(tunnel, packets, bytes);
                (tunnel, packets, bytes) = (frame.departure.tunnel, 0, 0);
            }
            packets += 1;
            bytes += frame.len() as u64;
        }
        self.count_encapsulated(tunnel, packets, bytes);
    }

    fn count_encapsulated(&mut self, tunnel: PortSlot, packets: u64, bytes: u64) {
        if tunnel != PortSlot::NONE {
            let counters = self.tunnels.entry(tunnel).or_default();
            counters.sent_packets += packets;
            counters.sent_bytes += bytes;
        }
    }

    /// It did not after all.
    pub fn take_back(&mut self, frame: &Frame) {
        self.take_back_absorbed(frame.departure);
        if let Some(counters) = self.tunnels.get_mut(&frame.departure.tunnel) {
            counters.sent_packets -= 1;
            counters.sent_bytes -= frame.len() as u64;
        }
    }

    /// Nor did one that lay in it, which no tunnel port has wrapped.
    pub fn take_back_absorbed(&mut self, departure: Departure) {
        if let Some(outcome) = self.batch.get_mut(departure.received as usize) {
            outcome.taken -= 1;
        }
    }

    /// The frame that entered last cannot be handled any further.
    pub fn failed(&mut self, reason: DropReason) {
        if let Some(outcome) = self.batch.last_mut() {
            outcome.reason.get_or_insert(reason);
        }
    }

    /// One of the ways of the frame that entered last ends nowhere.
    pub fn branch_failed(&mut self, reason: DropReason) {
        self.branches.count(self.ingress(), reason);
        self.failed(reason);
    }

    /// An output could not take a frame; if it was wrapped, the tunnel port has not sent it either. Under
    /// [`PortSlot::NONE`] stands what listeners could not take.
    pub fn refused(&mut self, output: PortSlot, departure: Departure, reason: DropReason) {
        if let Some(outcome) = self.batch.get_mut(departure.received as usize) {
            outcome.reason.get_or_insert(reason);
        }
        self.unsent.count(output, reason);
        if departure.tunnel != PortSlot::NONE {
            self.unsent.count(departure.tunnel, reason);
        }
    }

    /// The batch is over: what went nowhere is counted.
    pub fn settle(&mut self) {
        for Outcome { ingress, taken, reason } in self.batch.drain(..) {
            if taken == 0
                && let Some(reason) = reason
            {
                self.drops.count(ingress, reason);
            }
        }
    }

    /// Forgets a port whose slot will be used again; what it dropped belongs to no port from then on.
    pub fn forget(&mut self, port: PortSlot) {
        self.tunnels.remove(&port);
        for counters in [&mut self.drops, &mut self.unsent, &mut self.branches] {
            for (reason, frames) in counters.forget(port) {
                counters.add(PortSlot::NONE, reason, frames);
            }
        }
    }
}
