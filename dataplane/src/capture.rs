//! Copies of frames for who wants to see them (`weft capture`, `weft trace --live`): the worker's side. The switch's
//! side, which makes messages of them, is `switch/capture.rs`.
//!
//! - Without a capture nothing here costs anything but one branch a batch ([`Captures::is_on`]).
//! - A capture has two rings from each worker: one of records ([`Seen`]), one of their bytes. The worker copies a frame's
//!   bytes when it sees it, and gives the records at the end of the batch, when it knows what became of the frames.
//!   Nothing waits and nothing is allocated; what has no room is counted as lost ([`Lost`]).
//! - A frame is seen where a port receives it (out of a tunnel: by the tunnel port, and in it by the port below), and in
//!   the form in which it is handed to the port that sends it. One that another worker decides about is seen there.
//! - A checksum that was left to the port to complete is complete in the copy.
//!
//! Called by the worker and its egress only.

use crate::drop::DropReason;
use crate::flow::action::Action;
use crate::flow::key::FlowKey;
use crate::flow::program::Program;
use crate::flow::rule::Rule;
use crate::limits::{CAPTURE_BYTES, CAPTURE_RECORDS, PORTS};
use crate::outcome::Outcomes;
use crate::packet::frame::Frame;
use crate::packet::header::{Ipv4, eth_type, protocol, view};
use crate::packet::parse::parse_bytes;
use crate::packet::segment::missing_checksum;
use crate::port::PortSlot;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a capture is to see.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Numbers of ports; none: all.
    pub ports: Vec<u32>,
    /// Values of the frame's fields, no bits outside the mask.
    pub value: FlowKey,
    /// Which bits count.
    pub mask: FlowKey,
    /// Bytes of each frame that are copied.
    pub snap: usize,
    /// Frames that ports receive.
    pub received: bool,
    /// Frames that ports send.
    pub sent: bool,
}

impl Selection {
    fn has_port(&self, number: u32) -> bool {
        number != 0 && (self.ports.is_empty() || self.ports.contains(&number))
    }
}

/// What the rules made of a frame.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Those passed, in order.
    pub rules: Arc<[Arc<Rule>]>,
    /// What is done with the frame; `None`: it did not come so far.
    pub program: Option<Arc<Program>>,
    /// The bits that it depended on.
    pub consulted: FlowKey,
    /// Whether it is that of an earlier frame, from the flow cache.
    pub cached: bool,
}

impl Walk {
    /// The rule that a drop for this reason is to be blamed on: the one that asked for what failed, otherwise the last.
    #[must_use]
    pub fn culprit(&self, reason: DropReason) -> Option<&Arc<Rule>> {
        let asks = |action: &Action| match reason {
            DropReason::TtlExpired => matches!(action, Action::DecTtl { .. }),
            DropReason::TooBig => matches!(action, Action::CheckMtu { .. }),
            _ => action.drops() == Some(reason),
        };
        let mut rules = self.rules.iter().rev();
        let asked = rules.find(|rule| {
            let instructions = &rule.instructions;
            instructions.apply.iter().chain(&instructions.write).any(asks)
        });
        asked.or(self.rules.last())
    }

    /// The table that had no rule for the frame, if that is why it was dropped: one that a rule sends it to, and no
    /// rule of which follows.
    #[must_use]
    pub fn missed_table(&self) -> u8 {
        let missed = self.rules.iter().enumerate().find_map(|(index, rule)| {
            let next = rule.instructions.goto?;
            let found = self.rules[index + 1..].iter().any(|later| later.id.table == next);
            (!found).then_some(next)
        });
        missed.unwrap_or(0)
    }
}

/// One frame that was seen; its bytes are in the other ring.
#[derive(Debug)]
pub struct Seen {
    /// By which port.
    pub port: u32,
    /// Whether the port sends it.
    pub sent: bool,
    /// When its batch began: microseconds of [`crate::clock`].
    pub time: u64,
    /// Bytes of the frame.
    pub length: u32,
    /// Of these, in the ring.
    pub copied: u32,
    /// Payload of each segment that it stands for; 0: it is one frame.
    pub segment_size: u16,
    /// False: it was seen too early, and comes again, here or from another worker.
    pub shown: bool,
    /// Why it went nowhere, or was not sent.
    pub reason: Option<DropReason>,
    /// That holds of one of its ways, or one copy: it left by another.
    pub partly: bool,
    /// Of received frames: what they were parsed to.
    pub key: Option<FlowKey>,
    /// Of received frames that rules have seen.
    pub walk: Option<Walk>,
}

/// Frames without room, by the slot of the port.
pub struct Lost(Box<[AtomicU64]>);

impl Default for Lost {
    fn default() -> Self {
        Self((0..PORTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Lost {
    fn count(&self, slot: PortSlot) {
        self.0[slot.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Every count that is not zero.
    pub fn iter(&self) -> impl Iterator<Item = (PortSlot, u64)> + '_ {
        let counts =
            self.0.iter().enumerate().map(|(slot, count)| (PortSlot::new(slot), count.load(Ordering::Relaxed)));
        counts.filter(|&(_, count)| count > 0)
    }
}

/// The worker's end of a capture.
pub struct Capture {
    id: u32,
    selection: Arc<Selection>,
    seen: Producer<Seen>,
    bytes: Producer<u8>,
    lost: Arc<Lost>,
    /// Records of the batch, whose bytes are in the ring already.
    staged: Vec<Staged>,
    /// Where the records begin of the port whose turn it is to send.
    of_port: usize,
}

struct Staged {
    seen: Seen,
    /// Of received frames: which of the batch, in the books of `outcome.rs`.
    outcome: Option<u32>,
    /// Of frames to be sent: where they lie, by which they are known again if the port refuses them.
    place: usize,
}

/// The switch's end.
pub struct CaptureReader {
    /// Records, oldest first; whose `copied` bytes are next in `bytes`.
    pub seen: Consumer<Seen>,
    /// See `seen`.
    pub bytes: Consumer<u8>,
    /// What had no room.
    pub lost: Arc<Lost>,
}

/// The two ends of a capture, of one worker.
#[must_use]
pub fn pair(id: u32, selection: Arc<Selection>) -> (Capture, CaptureReader) {
    let (seen, records) = RingBuffer::new(CAPTURE_RECORDS);
    let (bytes, copies) = RingBuffer::new(CAPTURE_BYTES);
    let lost = Arc::new(Lost::default());
    let capture = Capture {
        id,
        selection,
        seen,
        bytes,
        lost: lost.clone(),
        staged: Vec::with_capacity(CAPTURE_RECORDS),
        of_port: 0,
    };
    (capture, CaptureReader { seen: records, bytes: copies, lost })
}

/// The captures of a worker.
#[derive(Default)]
pub struct Captures {
    all: Vec<Capture>,
    /// When the batch began.
    pub now: u64,
}

impl Captures {
    /// Whether there is any: without, nothing else here needs to be called.
    #[inline]
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.all.is_empty()
    }

    /// Begins one; between batches.
    pub fn add(&mut self, capture: Capture) {
        self.all.push(capture);
    }

    /// Ends one; between batches.
    pub fn remove(&mut self, id: u32) {
        self.all.retain(|capture| capture.id != id);
    }

    /// A port received a frame. `key`: what it was parsed to, unless it could not be, or is seen here as it is in its
    /// tunnel. `outcome`: which of the batch, if what becomes of it is to be told.
    pub fn received(&mut self, at: (PortSlot, u32), frame: &Frame, key: Option<&FlowKey>, outcome: Option<u32>) {
        for capture in self.all.iter_mut().filter(|capture| capture.selection.received) {
            let matches = match key {
                Some(key) => capture.selection.value.matches(key, &capture.selection.mask),
                None => capture.selects(frame, 0, at.1),
            };
            if matches {
                capture.stage(at, (frame, 0), self.now, Direction::Received(key, outcome));
            }
        }
    }

    /// What the rules made of a received frame.
    pub fn walked(&mut self, outcome: u32, walk: impl FnOnce() -> Walk) {
        let mut staged = self.all.iter_mut().flat_map(|capture| capture.staged_of(outcome)).peekable();
        if staged.peek().is_some() {
            let walk = walk();
            staged.for_each(|seen| seen.walk = Some(walk.clone()));
        }
    }

    /// A received frame is not decided about here, or not yet.
    pub fn withdraw(&mut self, outcome: u32) {
        for seen in self.all.iter_mut().flat_map(|capture| capture.staged_of(outcome)) {
            seen.shown = false;
        }
    }

    /// A frame is handed to a port. `ingress`: by which port it came in, 0 if it did not.
    pub fn sending(&mut self, at: (PortSlot, u32), frame: &Frame, ingress: u32) {
        self.send((at.0, at.1), frame, 0, ingress);
    }

    /// Likewise the frame within, which a tunnel port sends.
    pub fn sending_in_tunnel(&mut self, at: (PortSlot, u32), frame: &Frame, ingress: u32) {
        if let Some(within) = within(frame.head()) {
            self.send(at, frame, within, ingress);
        }
    }

    fn send(&mut self, at: (PortSlot, u32), frame: &Frame, skip: usize, ingress: u32) {
        for capture in self.all.iter_mut().filter(|capture| capture.selection.sent) {
            if capture.selects(frame, skip, ingress) {
                capture.stage(at, (frame, skip), self.now, Direction::Sent);
            }
        }
    }

    /// What follows is handed to one port.
    pub fn begin_port(&mut self) {
        self.all.iter_mut().for_each(|capture| capture.of_port = capture.staged.len());
    }

    /// That port did not take a frame after all.
    pub fn refused(&mut self, frame: &Frame, reason: DropReason) {
        self.refused_at(place(frame), reason);
    }

    /// Likewise one that lay at this [`place`].
    pub fn refused_at(&mut self, place: usize, reason: DropReason) {
        let of_port = self.all.iter_mut().flat_map(|capture| &mut capture.staged[capture.of_port..]);
        of_port.filter(|staged| staged.place == place).for_each(|staged| staged.seen.reason = Some(reason));
    }

    /// The batch is over: what became of its frames is known.
    pub fn settle(&mut self, outcomes: &Outcomes) {
        for capture in &mut self.all {
            let Capture { staged, seen: ring, of_port, .. } = capture;
            *of_port = 0;
            for mut one in staged.drain(..) {
                if let Some(outcome) = one.outcome {
                    let trouble = outcomes.trouble(outcome);
                    (one.seen.reason, one.seen.partly) =
                        (trouble.map(|(reason, _)| reason), trouble.is_some_and(|(_, partly)| partly));
                }
                // There is room: nothing is staged without.
                let _ = ring.push(one.seen);
            }
        }
    }
}

enum Direction<'a> {
    Received(Option<&'a FlowKey>, Option<u32>),
    Sent,
}

impl Capture {
    /// Whether the filter takes a frame whose key is not known, from `skip` on.
    fn selects(&self, frame: &Frame, skip: usize, in_port: u32) -> bool {
        let Selection { value, mask, .. } = &*self.selection;
        if *mask == FlowKey::ZERO {
            return true;
        }
        let mut key = FlowKey::ZERO;
        let Some(bytes) = frame.head().get(skip..) else { return false };
        parse_bytes(bytes, frame.len() - skip, in_port, &mut key).is_ok() && value.matches(&key, mask)
    }

    fn staged_of(&mut self, outcome: u32) -> impl Iterator<Item = &mut Seen> {
        // What is told of the last frame comes soon after it.
        let newest = self
            .staged
            .iter_mut()
            .rev()
            .take_while(move |staged| !matches!(staged.outcome, Some(other) if other < outcome));
        newest.filter(move |staged| staged.outcome == Some(outcome)).map(|staged| &mut staged.seen)
    }

    /// Copies a frame, from the byte on that is given with it.
    fn stage(&mut self, at: (PortSlot, u32), (frame, skip): (&Frame, usize), time: u64, direction: Direction<'_>) {
        let (slot, port) = at;
        if !self.selection.has_port(port) {
            return;
        }
        let length = frame.len() - skip;
        let copied = length.min(self.selection.snap);
        if self.seen.slots() <= self.staged.len() || !self.copy(frame, skip, copied) {
            return self.lost.count(slot);
        }
        let (sent, key, outcome) = match direction {
            Direction::Received(key, outcome) => (false, key.copied(), outcome),
            Direction::Sent => (true, None, None),
        };
        let seen = Seen {
            port,
            sent,
            time,
            length: length as u32,
            copied: copied as u32,
            segment_size: frame.gso.map_or(0, |gso| gso.size),
            shown: true,
            reason: None,
            partly: false,
            key,
            walk: None,
        };
        self.staged.push(Staged { seen, outcome, place: place(frame) });
    }

    /// False: there is no room.
    fn copy(&mut self, frame: &Frame, skip: usize, copied: usize) -> bool {
        let Ok(mut chunk) = self.bytes.write_chunk(copied) else { return false };
        let (first, second) = chunk.as_mut_slices();
        frame.copy_range(skip, first);
        frame.copy_range(skip + first.len(), second);
        if let Some((field, checksum)) = missing_checksum(frame) {
            for (at, byte) in (field..).zip(checksum) {
                let Some(at) = at.checked_sub(skip) else { continue };
                let place = if at < first.len() { first.get_mut(at) } else { second.get_mut(at - first.len()) };
                if let Some(place) = place {
                    *place = byte;
                }
            }
        }
        chunk.commit_all();
        true
    }
}

/// Where a frame lies: nothing else does, as long as it is there.
pub(crate) fn place(frame: &Frame) -> usize {
    frame.head().as_ptr() as usize
}

/// Where the inner frame of a tunnel packet begins that we made: VXLAN (RFC 7348) or GRE (RFC 2890).
fn within(head: &[u8]) -> Option<usize> {
    const L3: usize = 14;
    let ip: &Ipv4 = view(head, L3)?;
    if head[L3 - 2..L3] != eth_type::IPV4.to_be_bytes() {
        return None;
    }
    let l4 = L3 + ip.header_bytes();
    match ip.protocol {
        protocol::UDP => Some(l4 + 16),
        GRE => {
            // Flags of a checksum, a key and a sequence number: 4 bytes each.
            let flags = head.get(l4)? & 0xb0;
            Some(l4 + 4 + 4 * flags.count_ones() as usize)
        }
        _ => None,
    }
}

/// Its IP protocol number.
const GRE: u8 = 47;
