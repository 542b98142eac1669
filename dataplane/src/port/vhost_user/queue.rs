//! The worker's end of a vhost-user port: frames are copied between packet memory and the guest's, at most a batch at a
//! time, and nothing of the guest's is used where it lies.
//!
//! The driver is asked for notifications only when the worker is about to sleep: a busy worker looks for itself, and the
//! guest then has no reason to leave its virtual CPU.

use super::exchange::{Agreed, Assignment, LONG_HEADER, Lane, Numbered, Transmit};
use super::ring::{Broken, Cursor, Direction, Piece, Ring};
use crate::drop::{DropCounters, DropReason};
use crate::limits::{HEADROOM, RUN_BYTES};
use crate::packet::frame::Frame;
use crate::packet::pool::Pool;
use crate::port::virtio::{self, HEADER_BYTES};
use crate::port::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};
use rustix::event::{Timespec, epoll};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError};

/// The longest frame that packet memory holds in one piece.
const LONGEST: usize = RUN_BYTES - HEADROOM;

/// Descriptors whose events are taken at a time.
const EVENTS: usize = 16;

/// See the module comment.
pub struct VhostUserQueue {
    slot: PortSlot,
    lanes: Arc<[Lane]>,
    /// Which of them is this one's.
    own: usize,
    /// How many assignments were taken.
    taken: u64,
    assignment: Assignment,
    /// Which ring is the first to be looked at.
    turn: usize,
    /// While nothing is agreed.
    idle: Offloads,
    scratch: Scratch,
    counters: QueueCounters,
}

/// Empty between uses.
#[derive(Default)]
struct Scratch {
    pieces: Vec<Piece>,
    /// Chains of one frame: number and bytes.
    chains: Vec<(u16, usize)>,
}

impl VhostUserQueue {
    /// The worker's end of one of the lanes. `idle` is what the port takes while no front end has agreed on anything.
    #[must_use]
    pub(super) fn new(slot: PortSlot, lanes: Arc<[Lane]>, own: usize, idle: Offloads) -> Self {
        Self {
            slot,
            lanes,
            own,
            taken: 0,
            assignment: Assignment::default(),
            turn: 0,
            idle,
            scratch: Scratch::default(),
            counters: QueueCounters::default(),
        }
    }
}

/// What it takes to receive, but for the ring.
struct Receiver<'a> {
    slot: PortSlot,
    agreed: &'a Agreed,
    pieces: &'a mut Vec<Piece>,
    pool: &'a mut Pool,
    frames: &'a mut Vec<Frame>,
    drops: &'a mut DropCounters,
}

impl Receiver<'_> {
    /// Takes at most `budget` chains; what was given back is told, also if the ring breaks.
    fn receive(&mut self, ring: &mut Ring, budget: usize) -> Result<(), Broken> {
        let available = usize::from(ring.available()?);
        if available == 0 {
            return Ok(());
        }
        ring.stop_listening();
        let taken = (0..available.min(budget)).try_for_each(|_| self.one(ring));
        ring.tell();
        match taken {
            Ok(()) | Err(Stop::NoBuffer) => Ok(()),
            Err(Stop::Broken(broken)) => Err(broken),
        }
    }

    fn one(&mut self, ring: &mut Ring) -> Result<(), Stop> {
        self.pieces.clear();
        let (head, bytes) = ring.chain(0, Direction::FromDriver, self.pieces)?;
        let taken = match bytes.checked_sub(self.agreed.header) {
            None => Err(DropReason::Truncated),
            Some(length) if length > LONGEST => Err(DropReason::TooBig),
            // Without a buffer it stays where it is.
            Some(length) => self.frame(ring, length)?,
        };
        ring.advance(1);
        ring.give_back(head, 0);
        match taken {
            Ok(frame) => self.frames.push(frame),
            Err(reason) => self.drops.count(self.slot, reason),
        }
        Ok(())
    }

    /// Copies a frame of so many bytes out of the chain that was found.
    fn frame(&mut self, ring: &Ring, length: usize) -> Result<Result<Frame, DropReason>, Stop> {
        let mut frame = self.pool.sized(self.slot, length).ok_or(Stop::NoBuffer)?;
        assert!(frame.set_len(length), "sized for it");
        let mut header = [0; LONG_HEADER];
        let mut cursor = Cursor::new(ring, self.pieces);
        let copied = cursor.read(&mut header[..self.agreed.header]).and_then(|()| cursor.read(frame.head_mut()));
        if let Err(broken) = copied {
            self.pool.free(frame);
            return Err(Stop::Broken(broken));
        }
        let header: &mut [u8; HEADER_BYTES] = header.first_chunk_mut().expect("it is longer");
        virtio::distrust(header);
        match virtio::read(header, frame.head(), length) {
            Ok((checksum, gso)) => {
                (frame.checksum, frame.gso) = (checksum, gso);
                Ok(Ok(frame))
            }
            Err(virtio::Incoherent) => {
                self.pool.free(frame);
                Ok(Err(DropReason::Malformed))
            }
        }
    }
}

/// Why no more is received.
enum Stop {
    NoBuffer,
    Broken(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Why a frame is not sent.
enum Unsent {
    Because(DropReason),
    Broken(Broken),
}

impl From<Broken> for Unsent {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Scratch {
    /// Sends frames by a ring, in order. They stay if it was broken before.
    fn send_all(
        &mut self,
        ring: &mut Ring,
        agreed: &Agreed,
        frames: &mut Vec<Frame>,
        refused: &mut Refused,
        mut sent: impl FnMut(Frame),
    ) -> Result<(), Broken> {
        let mut available = ring.available()?;
        let mut broken = None;
        for frame in frames.drain(..) {
            if broken.is_some() {
                refused.push((frame, DropReason::BadRing));
                continue;
            }
            match self.send(ring, agreed, &frame, available) {
                Ok(chains) => {
                    available -= chains;
                    sent(frame);
                }
                Err(Unsent::Because(reason)) => refused.push((frame, reason)),
                Err(Unsent::Broken(why)) => {
                    refused.push((frame, DropReason::BadRing));
                    broken = Some(why);
                }
            }
        }
        broken.map_or(Ok(()), Err)
    }

    /// Copies a frame into as many of the `available` chains as it needs; gives how many.
    fn send(&mut self, ring: &mut Ring, agreed: &Agreed, frame: &Frame, available: u16) -> Result<u16, Unsent> {
        // Who runs the queue segments these first; the driver would take the outer headers for the segments'.
        if frame.gso.is_some_and(|gso| gso.tunnel > 0) {
            return Err(Unsent::Because(DropReason::TooBig));
        }
        self.pieces.clear();
        self.chains.clear();
        let length = agreed.header + frame.len();
        let mut room = 0;
        while room < length {
            if !agreed.mergeable && room > 0 {
                return Err(Unsent::Because(DropReason::TooBig));
            }
            let ahead = self.chains.len() as u16;
            if ahead == available {
                return Err(Unsent::Because(DropReason::TransmitFull));
            }
            let (head, bytes) = ring.chain(ahead, Direction::ToDriver, &mut self.pieces)?;
            self.chains.push((head, bytes));
            room += bytes;
        }
        let chains = self.chains.len() as u16;
        let mut header = [0; LONG_HEADER];
        if agreed.offloads.checksum {
            header[..HEADER_BYTES].copy_from_slice(&virtio::write(frame));
            if !agreed.ecn {
                virtio::clear_ecn(&mut header);
            }
        }
        header[HEADER_BYTES..].copy_from_slice(&chains.to_le_bytes());
        let mut cursor = Cursor::new(ring, &self.pieces);
        cursor.write(&header[..agreed.header])?;
        frame.segments().try_for_each(|segment| cursor.write(segment))?;
        ring.advance(chains);
        let mut left = length;
        for &(head, bytes) in &self.chains {
            let written = left.min(bytes);
            ring.give_back(head, written as u32);
            left -= written;
        }
        Ok(chains)
    }
}

impl PortQueue for VhostUserQueue {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let before = frames.len();
        let Assignment { agreed: Some(agreed), receive, .. } = &mut self.assignment else { return 0 };
        let pieces = &mut self.scratch.pieces;
        let mut receiver = Receiver { slot: self.slot, agreed, pieces, pool, frames, drops };
        for turn in 0..receive.len() {
            let place = (self.turn + turn) % receive.len();
            let Numbered { number, ring, broken } = &mut receive[place];
            let left = budget - (receiver.frames.len() - before);
            if *broken || left == 0 {
                continue;
            }
            if let Err(why) = receiver.receive(ring, left) {
                *broken = true;
                receiver.drops.count(self.slot, DropReason::BadRing);
                self.lanes[self.own].report(*number, why);
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let received = &frames[before..];
        self.counters.received_packets += received.len() as u64;
        self.counters.received_bytes += received.iter().map(|frame| frame.len() as u64).sum::<u64>();
        received.len()
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused) {
        let refuse = |frames: &mut Vec<Frame>, refused: &mut Refused, reason| {
            refused.extend(frames.drain(..).map(|frame| (frame, reason)));
        };
        let Assignment { agreed: Some(agreed), transmit, .. } = &mut self.assignment else {
            return refuse(frames, refused, DropReason::PortDown);
        };
        let mut guard;
        let Numbered { number, ring, broken } = match transmit {
            Transmit::None => return refuse(frames, refused, DropReason::PortDown),
            Transmit::Own(own) => own,
            Transmit::Shared(shared) => {
                guard = shared.lock().unwrap_or_else(PoisonError::into_inner);
                &mut *guard
            }
        };
        if *broken {
            return refuse(frames, refused, DropReason::BadRing);
        }
        let (counters, scratch) = (&mut self.counters, &mut self.scratch);
        let done = scratch.send_all(ring, agreed, frames, refused, |frame| {
            counters.sent_packets += 1;
            counters.sent_bytes += frame.len() as u64;
            pool.free(frame);
        });
        ring.tell();
        if let Err(why) = done {
            *broken = true;
            self.lanes[self.own].report(*number, why);
        }
        refuse(frames, refused, DropReason::BadRing);
    }

    /// Control has something to say now and then.
    fn service(&mut self, _pool: &mut Pool) {
        let offered = self.lanes[self.own].offered();
        if offered != self.taken {
            self.taken = offered;
            self.assignment = self.lanes[self.own].take(std::mem::take(&mut self.assignment));
        }
    }

    /// Called before the worker sleeps: asks the driver for notifications, and wakes the worker at once if something
    /// came meanwhile.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        if self.assignment.polled {
            return None;
        }
        let mut events = [MaybeUninit::uninit(); EVENTS];
        // What has woken it is done with; with events by edges that is all it takes.
        let _ = epoll::wait(self.lanes[self.own].epoll(), &mut events, Some(&Timespec::default()));
        let mut waiting = self.lanes[self.own].offered() != self.taken;
        for Numbered { ring, .. } in self.assignment.receive.iter().filter(|numbered| !numbered.broken) {
            ring.listen();
            waiting |= ring.has_something();
        }
        if waiting {
            self.lanes[self.own].wake();
        }
        Some(self.lanes[self.own].epoll().as_fd())
    }

    fn offloads(&self) -> Offloads {
        self.assignment.agreed.as_ref().map_or(self.idle, |agreed| agreed.offloads)
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn close(&mut self, _pool: &mut Pool) {
        self.lanes[self.own].close(std::mem::take(&mut self.assignment));
    }
}

impl Drop for VhostUserQueue {
    /// Also if no worker ever had it: control must not wait for one.
    fn drop(&mut self) {
        self.lanes[self.own].close(std::mem::take(&mut self.assignment));
    }
}
