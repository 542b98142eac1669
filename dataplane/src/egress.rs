//! Where a worker's frames leave: its queues, what waits for each, the ways to other workers, its pool and its
//! counts. Programs act on it; the worker empties it at the end of each batch, and nothing waits between two
//! batches.

use crate::capture::{Captures, Walk};
use crate::drop::DropReason;
use crate::flow::key::FlowKey;
use crate::flow::program::Egress;
use crate::handover::{FromTunnel, Links, Message, Parcel, PortName};
use crate::limits::neighbour::LEARNT_PER_BATCH;
use crate::limits::{BATCH, HAND_OVERS_PER_FRAME, PORTS, REPLIES_PER_BATCH};
use crate::meter::Meters;
use crate::neighbours::Hop;
use crate::outcome::Outcomes;
use crate::packet::fragment::fragment;
use crate::packet::frame::{Departure, Frame};
use crate::packet::merge::Merger;
use crate::packet::pool::Pool;
use crate::packet::segment;
use crate::port::{PortQueue, PortSlot, QueueCounters, Refused};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::v1;

/// Where punted packets go: the switch gives one to each worker. Never blocks.
pub trait PuntSink: Send + Sync {
    /// Takes a packet-in; an error says why not: `NoListener` or `PuntOverrun`.
    ///
    /// # Errors
    /// The reason under which the packet is then counted.
    fn punt(&self, packet: v1::PacketIn) -> Result<(), DropReason>;
}

/// See the module comment.
pub struct Outgoing {
    /// Buffers.
    pub pool: Pool,
    /// What became of frames.
    pub outcomes: Outcomes,
    /// Who looks on.
    pub captures: Captures,
    /// The queues, and the frames that wait for the end of the batch; ordered by slot.
    ports: Vec<Port>,
    /// By slot: its place in `ports`; [`NOWHERE`]: there is no queue.
    places: Box<[u16]>,
    /// Places that frames wait for, in the order of their first frame.
    waiting: Vec<u16>,
    /// The ways to other workers.
    pub links: Links,
    /// This worker's parts of the meters.
    pub meters: Meters,
    /// Port numbers by slot, at the version of the batch; 0: none.
    pub numbers: Vec<u32>,
    /// Where senders of ARP packets are, for the worker to take.
    pub learnt: Vec<(Hop, [u8; 6])>,
    /// By slot: the worker that sends by a port of which this one has no queue.
    routes: BTreeMap<PortSlot, u16>,
    /// Frames in the form that their port takes; empty between uses.
    fitted: Vec<Frame>,
    /// Likewise, of datagrams that leave in fragments.
    pieces: Vec<Frame>,
    merger: Merger,
    refused: Refused,
    punts: Arc<dyn PuntSink>,
    /// How often the frame that entered last was handed over, to get here.
    hops: u8,
    /// Whether it goes several ways.
    branches: bool,
    replies: usize,
}

/// No place.
const NOWHERE: u16 = u16::MAX;

struct Port {
    slot: PortSlot,
    queue: Box<dyn PortQueue>,
    frames: Vec<Frame>,
}

impl Outgoing {
    /// Nothing in it.
    #[must_use]
    pub fn new(pool: Pool, punts: Arc<dyn PuntSink>, links: Links) -> Self {
        Self {
            pool,
            outcomes: Outcomes::default(),
            captures: Captures::default(),
            ports: Vec::new(),
            places: vec![NOWHERE; PORTS].into(),
            waiting: Vec::new(),
            links,
            meters: Meters::default(),
            numbers: vec![0; PORTS],
            learnt: Vec::new(),
            routes: BTreeMap::new(),
            fitted: Vec::new(),
            pieces: Vec::new(),
            merger: Merger::default(),
            refused: Refused::new(),
            punts,
            hops: 0,
            branches: false,
            replies: 0,
        }
    }

    /// A batch begins, of so many active ports: replies may be composed again.
    pub fn begin(&mut self, active: usize) {
        self.replies = 0;
        self.links.begin(active);
    }

    /// The frame to come entered by this slot. Called once for each frame of a batch.
    pub fn enter(&mut self, slot: PortSlot) {
        self.enter_again(slot, 0);
    }

    /// Likewise, and it was handed over so many times.
    #[inline]
    pub fn enter_again(&mut self, slot: PortSlot, hops: u8) {
        self.outcomes.enter(slot);
        self.hops = hops;
    }

    /// Lets captures see the frame that entered last; `key`: what it was parsed to, if it could be.
    pub fn capture(&mut self, frame: &Frame, key: Option<&FlowKey>) {
        let at = self.numbered(self.outcomes.ingress());
        self.captures.received(at, frame, key, Some(self.outcomes.current()));
    }

    /// Lets captures see a frame in the tunnel packet that a port received it in.
    pub fn capture_tunnelled(&mut self, slot: PortSlot, frame: &Frame) {
        self.captures.received(self.numbered(slot), frame, None, None);
    }

    /// Lets captures see what the rules made of the frame that entered last.
    pub fn capture_walk(&mut self, walk: impl FnOnce() -> Walk) {
        self.captures.walked(self.outcomes.current(), walk);
    }

    /// The frame that entered last will be decided about later, or by another worker.
    pub fn capture_later(&mut self) {
        if self.captures.is_on() {
            self.captures.withdraw(self.outcomes.current());
        }
    }

    fn numbered(&self, slot: PortSlot) -> (PortSlot, u32) {
        (slot, self.numbers[slot.index()])
    }

    /// What goes out by a port without a queue here goes to this worker.
    pub fn route(&mut self, slot: PortSlot, worker: u16) {
        self.routes.insert(slot, worker);
    }

    /// Whether a port is the one that another worker meant.
    #[must_use]
    pub fn is_still(&self, port: PortName) -> bool {
        port.number != 0 && self.numbers[port.slot.index()] == port.number
    }

    /// Another worker decided about the frame that entered last: it leaves by this port.
    pub fn send_decided(&mut self, port: PortName, frame: Frame) {
        if self.is_still(port) {
            self.wait(port.slot, frame.departure.tunnel, frame);
        } else {
            self.refuse(PortSlot::NONE, frame, DropReason::PortDown);
        }
    }

    /// A frame of our own is to leave by this port, on nobody's behalf.
    ///
    /// # Errors
    /// `NoBuffer`; `TooBig` for any buffer.
    pub fn originate(&mut self, slot: PortSlot, bytes: &[u8]) -> Result<(), DropReason> {
        let mut frame = self.pool.sized(slot, bytes.len()).ok_or(DropReason::NoBuffer)?;
        if !frame.set_len(bytes.len()) {
            self.pool.free(frame);
            return Err(DropReason::TooBig);
        }
        frame.head_mut().copy_from_slice(bytes);
        frame.departure.received = Departure::OWN;
        self.wait(slot, PortSlot::NONE, frame);
        Ok(())
    }

    /// Puts a frame's message into a ring; gives the frame back if that is full.
    fn put(&mut self, worker: u16, frame: Frame, message: impl FnOnce(Parcel) -> Message) -> Result<(), Frame> {
        match self.links.put(worker.into(), message(Parcel::new(frame))) {
            Err(Message::Resume { frame, .. } | Message::Send { frame, .. }) => Err(frame.open()),
            Ok(()) | Err(Message::Forget(_) | Message::Found(_)) => {
                self.outcomes.taken();
                Ok(())
            }
        }
    }

    /// Takes a queue over.
    pub fn add(&mut self, slot: PortSlot, queue: Box<dyn PortQueue>) {
        self.remove(slot);
        let at = self.ports.partition_point(|port| port.slot < slot);
        self.ports.insert(at, Port { slot, queue, frames: Vec::with_capacity(2 * BATCH) });
        self.number_places();
    }

    /// Closes a queue. What it dropped is counted under no port from then on, so that its slot can be used
    /// again.
    pub fn remove(&mut self, slot: PortSlot) {
        if self.port(slot).is_some() {
            let mut port = self.ports.remove(self.places[slot.index()].into());
            port.queue.close(&mut self.pool);
            self.number_places();
        }
        self.routes.remove(&slot);
        self.outcomes.forget(slot);
    }

    fn number_places(&mut self) {
        self.places.fill(NOWHERE);
        for (place, port) in self.ports.iter().enumerate() {
            self.places[port.slot.index()] = place as u16;
        }
    }

    #[inline]
    fn port(&mut self, slot: PortSlot) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(self.places[slot.index()]))
    }

    /// Closes all queues.
    pub fn close(&mut self) {
        let slots: Vec<PortSlot> = self.slots().collect();
        slots.into_iter().for_each(|slot| self.remove(slot));
    }

    /// The slots that have a queue.
    pub fn slots(&self) -> impl Iterator<Item = PortSlot> + '_ {
        self.ports.iter().map(|port| port.slot)
    }

    /// Takes up to `budget` frames from a queue.
    pub fn receive(&mut self, slot: PortSlot, frames: &mut Vec<Frame>, budget: usize) -> usize {
        let Some(port) = self.ports.get_mut(usize::from(self.places[slot.index()])) else { return 0 };
        port.queue.receive(&mut self.pool, frames, budget, &mut self.outcomes.drops)
    }

    /// Lets every queue do what is left over.
    pub fn service(&mut self) {
        self.ports.iter_mut().for_each(|port| port.queue.service(&mut self.pool));
    }

    /// What to sleep on; `None` in it: the queue has to be asked.
    pub fn descriptors(&self) -> impl Iterator<Item = (PortSlot, Option<std::os::fd::BorrowedFd<'_>>)> {
        self.ports.iter().map(|port| (port.slot, port.queue.descriptor()))
    }

    /// Counts what a tunnel port took out of its tunnel.
    pub fn count_decapsulated(&mut self, slot: PortSlot, bytes: usize) {
        let counters = self.outcomes.tunnels.entry(slot).or_default();
        counters.received_packets += 1;
        counters.received_bytes += bytes as u64;
    }

    /// Packets and bytes of every port.
    #[must_use]
    pub fn counters(&self) -> Vec<(PortSlot, QueueCounters)> {
        let devices = self.ports.iter().map(|port| (port.slot, port.queue.counters()));
        devices.chain(self.outcomes.tunnels.iter().map(|(slot, counters)| (*slot, *counters))).collect()
    }

    /// Sends everything that waits, each frame in the form its port can take, and settles what became of the
    /// batch.
    pub fn flush(&mut self) {
        self.links.wake_readers();
        for place in self.waiting.drain(..) {
            let Some(Port { slot, queue, frames }) = self.ports.get_mut(usize::from(place)) else { continue };
            let (slot, offloads) = (*slot, queue.offloads());
            // Most often the port takes all of them as they are.
            if !frames.iter().all(|frame| segment::fits(frame, &offloads)) {
                for frame in frames.drain(..) {
                    let departure = frame.departure;
                    if let Err(reason) = segment::fit(frame, &offloads, &mut self.pool, &mut self.fitted) {
                        self.outcomes.refused(slot, departure, reason);
                    }
                }
                std::mem::swap(frames, &mut self.fitted);
            }
            self.outcomes.sent(frames);
            if self.captures.is_on() {
                capture_sent(&mut self.captures, frames, slot, &self.numbers, &self.outcomes);
            }
            if Merger::is_for(&offloads) {
                self.merger.begin();
                self.merger.merge(frames);
            }
            queue.transmit(&mut self.pool, frames, &mut self.refused);
            if frames.is_empty() && self.refused.is_empty() {
                continue;
            }
            // A queue takes all; should one break that rule, nothing may leave by another port.
            let left = frames.drain(..).map(|frame| (frame, DropReason::TransmitFull));
            for (frame, reason) in self.refused.drain(..).chain(left) {
                self.outcomes.take_back(&frame);
                self.captures.refused(&frame, reason);
                self.outcomes.refused(slot, frame.departure, reason);
                for absorbed in self.merger.absorbed(&frame) {
                    self.outcomes.take_back_absorbed(absorbed.departure);
                    self.captures.refused_at(absorbed.place, reason);
                    self.outcomes.refused(slot, absorbed.departure, reason);
                }
                self.pool.free(frame);
            }
        }
        if self.captures.is_on() {
            self.captures.settle(&self.outcomes);
        }
        self.outcomes.settle();
    }

    #[inline(always)]
    fn wait(&mut self, slot: PortSlot, tunnel: PortSlot, mut frame: Frame) {
        let departure = if frame.departure.received == Departure::OWN {
            Departure { tunnel, ..frame.departure }
        } else {
            self.outcomes.departure(tunnel)
        };
        let place = self.places[slot.index()];
        let Some(port) = self.ports.get_mut(usize::from(place)) else {
            frame.departure = departure;
            return self.wait_elsewhere(slot, frame);
        };
        if port.frames.is_empty() {
            self.waiting.push(place);
        }
        // Noted last: a frame that is moved right after a part of it was written has to wait for that.
        port.frames.push(frame);
        if let Some(frame) = port.frames.last_mut() {
            frame.departure = departure;
        }
    }

    /// It is the worker's that has a queue of this port.
    #[cold]
    fn wait_elsewhere(&mut self, slot: PortSlot, frame: Frame) {
        let Some(&worker) = self.routes.get(&slot) else { return self.discard(frame, DropReason::PortDown) };
        let port = PortName { slot, number: self.numbers[slot.index()] };
        if let Err(frame) = self.put(worker, frame, |frame| Message::Send { frame, port }) {
            self.outcomes.refused(slot, frame.departure, DropReason::HandOverFull);
            self.pool.free(frame);
        }
    }
}

impl Egress for Outgoing {
    #[inline(always)]
    fn send(&mut self, slot: PortSlot, frame: Frame) {
        self.wait(slot, PortSlot::NONE, frame);
    }

    fn send_wrapped(&mut self, tunnel: PortSlot, underlay: PortSlot, frame: Frame) {
        self.wait(underlay, tunnel, frame);
    }

    fn branches(&mut self, several: bool) {
        self.branches = several;
    }

    fn lose(&mut self, reason: DropReason) {
        self.outcomes.branch_failed(reason);
    }

    fn copy(&mut self, frame: &Frame, output: Option<PortSlot>) -> Option<Frame> {
        let copy = self.pool.copy(frame);
        if copy.is_none() {
            let departure = self.outcomes.departure(PortSlot::NONE);
            self.outcomes.refused(output.unwrap_or(PortSlot::NONE), departure, DropReason::NoBuffer);
        }
        copy
    }

    fn discard(&mut self, frame: Frame, reason: DropReason) {
        if self.branches {
            self.outcomes.branch_failed(reason);
        } else {
            self.outcomes.failed(reason);
        }
        self.pool.free(frame);
    }

    fn refuse(&mut self, output: PortSlot, frame: Frame, reason: DropReason) {
        let departure = self.outcomes.departure(PortSlot::NONE);
        self.outcomes.refused(output, departure, reason);
        self.pool.free(frame);
    }

    fn punt(&mut self, packet: v1::PacketIn, frame: Frame) {
        match self.punts.punt(packet) {
            Ok(()) => {
                self.outcomes.taken();
                self.pool.free(frame);
            }
            Err(reason) => self.refuse(PortSlot::NONE, frame, reason),
        }
    }

    fn hand_over(&mut self, worker: u16, frame: Frame, key: &FlowKey) {
        if self.hops >= HAND_OVERS_PER_FRAME {
            return self.discard(frame, DropReason::HandOverLimit);
        }
        let ingress = PortName { slot: self.outcomes.ingress(), number: key.port() };
        let tunnel = FromTunnel { id: key.tun_id, source: key.tun_src, destination: key.tun_dst };
        let hops = self.hops + 1;
        if let Err(frame) = self.put(worker, frame, |frame| Message::Resume { frame, ingress, tunnel, hops }) {
            self.discard(frame, DropReason::HandOverFull);
        } else {
            self.capture_later();
        }
    }

    fn compose(&mut self, port: PortSlot, write: impl FnOnce(&mut Frame) -> bool) -> Option<Frame> {
        let mut frame = self.pool.chunk(port)?;
        if write(&mut frame) {
            frame.departure.received = Departure::OWN;
            return Some(frame);
        }
        self.pool.free(frame);
        None
    }

    fn fragment(
        &mut self,
        output: PortSlot,
        frame: Frame,
        l3: usize,
        mtu: u16,
        mut each: impl FnMut(&mut Self, Frame),
    ) {
        let mut pieces = std::mem::take(&mut self.pieces);
        if let Err(reason) = fragment(frame, l3, mtu, &mut self.pool, &mut pieces) {
            let departure = self.outcomes.departure(PortSlot::NONE);
            self.outcomes.refused(output, departure, reason);
        }
        pieces.drain(..).for_each(|piece| each(self, piece));
        self.pieces = pieces;
    }

    fn learn(&mut self, hop: Hop, mac: [u8; 6]) {
        if self.learnt.len() < LEARNT_PER_BATCH {
            self.learnt.push((hop, mac));
        }
    }

    fn admit(&mut self, meter: u32, frame: &Frame) -> bool {
        self.meters.admit(meter, frame.len())
    }

    fn may_reply(&mut self) -> bool {
        self.replies += 1;
        self.replies <= REPLIES_PER_BATCH
    }

    fn ingress(&self) -> PortSlot {
        self.outcomes.ingress()
    }
}

/// Lets captures see what is handed to a port.
fn capture_sent(captures: &mut Captures, frames: &[Frame], slot: PortSlot, numbers: &[u32], outcomes: &Outcomes) {
    captures.begin_port();
    for frame in frames {
        let Departure { received, tunnel, .. } = frame.departure;
        let ingress = numbers[outcomes.ingress_of(received).index()];
        if tunnel != PortSlot::NONE {
            captures.sending_in_tunnel((tunnel, numbers[tunnel.index()]), frame, ingress);
        }
        captures.sending((slot, numbers[slot.index()]), frame, ingress);
    }
}

#[cfg(test)]
mod tests;
