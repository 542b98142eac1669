//! Several workers, one switch: how a frame gets to the worker that may decide about it, or that can send it.
//!
//! # Why
//! The kernel spreads a port's frames over its queues, and so over workers, as it likes: the two directions of
//! a conversation arrive at different workers, and may move. A connection's record belongs to one worker
//! (`connection/`): no lock, nothing shared. So the frame goes to the record.
//!
//! # The rule
//! **One worker decides about a packet, whole, and all connections the packet belongs to are its own.**
//!
//! 1. The walk looks each (zone, tuple) up among the worker's own records. What is not there is asked of the
//!    [`Directory`]. If nobody has it, it is new (or invalid), here. If another worker has it, the walk ends:
//!    nothing has been done yet, so the frame goes to that worker as it came, and is decided there from the start.
//! 2. A walk that had found records of this worker's own before it met one of another's **moves** them there
//!    first (`Directory::transfer`). So with each hand-over the worker that decides has all records of the zones
//!    walked so far; a packet of `n` zones is decided after at most `n` hand-overs.
//! 3. The commits of a walk are claimed in the directory in one step, all tuples of all zones, under the locks
//!    of their shards, taken in order. If any is another worker's by now, none is claimed and the frame goes to
//!    that worker.
//! 4. A frame that was handed over does not believe a cached hand-over: the tables are walked. More than
//!    [`HAND_OVERS_PER_FRAME`] hand-overs drop it under `HandOverLimit`.
//!
//! # Why every packet meets all of its connections
//! *One zone.* Both tuples of a connection, the second one after NAT, are in the directory from before its first
//! packet leaves (claim, then publish, then transmit) until its record is freed. A packet that belongs to it
//! either is at the worker that has it, or misses there and is sent to it: by a walk, or by a cached program of
//! an earlier one. No worker decides "new" for a tuple in the directory, and the claim (3) refuses what has been
//! entered since it was looked up. Hence no connection is recorded twice in a zone.
//!
//! *Several zones.* Commits of one walk are one worker's (3), so as long as packets of both directions pass the
//! same zones, all records of a conversation lie together, whatever NAT does to its tuples in between: the
//! answer finds one of them by its own tuple, and thereby the worker of all. They can lie apart only if some
//! packets passed zone A alone and others zone B alone, which takes rules that track one direction each, or rules
//! that changed. Then (2) brings them together, once. If one zone's record ends before the other's, the packet
//! goes to where the rest is, and what is missing begins anew there.
//!
//! *Several branches* are several zones: all records that a packet's branches met so far move to the worker of
//! the next one that is another's, and that one decides. Connections that branches of one packet begin are claimed in
//! one step (3), so as a rule they lie together; where they do not, each packet brings together at least as many as there
//! are hand-overs, and what drops under `HandOverLimit` has done its part.
//!
//! *While a record moves.* It is put into the new owner's mailbox and re-owned in the directory under the same
//! locks. So whoever reads there that it owns a tuple of which it has no record finds it in its mailbox
//! (`Connections::adopt`), and walks again. Two packets that move the same two records in opposite directions at
//! the same time chase each other until the limit of (4): they are dropped and counted, nothing is lost or doubled.
//!
//! *A cached hand-over that is out of date* costs a detour, not a wrong decision: who gets the frame is the owner
//! (and may commit anew), or walks, and sends it on to the owner; it then tells the first one to forget.
//!
//! *Fragments.* Only the first one of a datagram has what tells connections apart, and each may come in by
//! another worker. So one that is tracked goes first to the worker that its datagram's addresses and
//! identification name (`Directory::gathers`): there the early ones wait for the first, and learn from it whose
//! they are. If that is yet another worker, they follow the first one there, by the same ring, in order.
//!
//! *A new connection with source NAT* goes first to the worker that holds its internal end's mapping
//! (`Tuple::endpoint`), unless it has records elsewhere; without that it gets a port of its own. Of two workers that
//! begin one at once the first to commit has the mapping, and gets the other's frame.
//!
//! # Rings
//! One per pair of workers (`rtrb`), written by one and read by the other; nothing else is shared on the fast
//! path. At the end of a batch a reader that sleeps is woken by its eventfd, once; one that does not is left
//! alone. Before it sleeps a worker says so and then looks once more at its rings; a writer puts messages in and
//! then looks whether it sleeps: one of the two sees the other.
//!
//! A full ring drops under `HandOverFull`. One turn of a port may take at most the `n + 1`st part of what is
//! free, `n` being the ports that are active: no port can fill it for the others. At the other end its walks are
//! paid from its own budget, as if it had come in there.
//!
//! # Messages
//! - `Resume`: a frame to be decided. It is parsed again; what its tunnel said of it travels along.
//! - `Send`: a frame that is decided, for a port of whose queues the sender has none (an interface with fewer
//!   queues than there are workers). All of a flow's frames take the same way: order is kept.
//! - `Forget`: the cached program for a key.
//! - `Found`: a next hop is known, for which frames may wait (`neighbours.rs`).
//!
//! Ports are named by slot and number: a slot that was given to another port since is told by the number, and
//! the frame drops under `PortDown`.
//!
//! **Buffers** belong to whoever has the frame, and count against the quota of the port that received it until
//! some worker's pool takes them back. A ring that is dropped returns its frames' buffers to the depot.
//!
//! **Counts.** For the sender a frame in a ring has gone somewhere. The receiver counts it as one that came in by
//! its port: if it goes nowhere after all, it does so there.

use crate::connection::Directory;
use crate::flow::key::FlowKey;
use crate::limits::{self, HAND_OVER_RING};
use crate::line::Line;
use crate::neighbours::Hop;
use crate::packet::frame::Frame;
use crate::packet::pool::Pool;
use crate::port::PortSlot;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(doc)]
use crate::limits::HAND_OVERS_PER_FRAME;

/// A port as one worker names it to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortName {
    /// Where workers have it.
    pub slot: PortSlot,
    /// What it was called when this was said.
    pub number: u32,
}

/// What the tunnel a frame came out of said of it; zeros if it came out of none.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromTunnel {
    /// `tun_id`
    pub id: [u8; 8],
    /// `tun_src`
    pub source: [u8; 4],
    /// `tun_dst`
    pub destination: [u8; 4],
}

/// A frame on its way, which returns its buffers to the depot should it never arrive.
pub struct Parcel(Option<Frame>);

impl Parcel {
    /// Wraps it.
    #[must_use]
    pub fn new(frame: Frame) -> Self {
        Self(Some(frame))
    }

    /// The frame.
    ///
    /// # Panics
    /// Never: a parcel is whole until it is opened.
    pub fn open(mut self) -> Frame {
        self.0.take().expect("a parcel is opened once")
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if let Some(frame) = self.0.take() {
            Pool::abandon(frame);
        }
    }
}

/// What one worker says to another; see the module comment.
pub enum Message {
    /// Decide about this frame.
    Resume {
        /// As it came in, but for its tunnel.
        frame: Parcel,
        /// By which port.
        ingress: PortName,
        /// Out of which tunnel.
        tunnel: FromTunnel,
        /// Hand-overs so far.
        hops: u8,
    },
    /// Send this frame.
    Send {
        /// Ready.
        frame: Parcel,
        /// By which port.
        port: PortName,
    },
    /// Forget the program for this key, if it is a hand-over.
    Forget(Box<FlowKey>),
    /// This next hop is known.
    Found(Hop),
}

/// How a sleeping worker is woken.
struct Bell {
    /// It sleeps, or is about to.
    parked: Line<AtomicBool>,
    wake: Arc<OwnedFd>,
}

/// What joins one worker to the others; see the module comment.
pub struct Links {
    number: usize,
    /// By worker; none to itself.
    writers: Vec<Option<Link>>,
    readers: Vec<Option<Consumer<Message>>>,
    /// Ports that share the rings now.
    active: usize,
    bells: Arc<[Bell]>,
    directory: Option<Arc<Directory>>,
}

struct Link {
    writer: Producer<Message>,
    /// Messages that the port whose turn it is may still put in; `None`: it has not begun to.
    allowance: Option<usize>,
    /// Whether there are messages that the reader was not woken for.
    news: bool,
}

impl Links {
    /// For so many workers, in their order.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn of(workers: usize) -> std::io::Result<Vec<Self>> {
        let bell = |_| {
            let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            Ok(Bell { parked: Line::new(AtomicBool::new(false)), wake })
        };
        let bells: Arc<[Bell]> = (0..workers).map(bell).collect::<std::io::Result<_>>()?;
        let entries = workers * limits::connection::DEFAULT_RECORDS * 3;
        let directory = (workers > 1).then(|| Arc::new(Directory::new(workers, entries)));
        let mut all: Vec<Self> = (0..workers)
            .map(|number| Self {
                number,
                writers: (0..workers).map(|_| None).collect(),
                readers: (0..workers).map(|_| None).collect(),
                active: 1,
                bells: bells.clone(),
                directory: directory.clone(),
            })
            .collect();
        for from in 0..workers {
            for to in (0..workers).filter(|&to| to != from) {
                let (writer, reader) = RingBuffer::new(HAND_OVER_RING);
                all[from].writers[to] = Some(Link { writer, allowance: None, news: false });
                all[to].readers[from] = Some(reader);
            }
        }
        Ok(all)
    }

    /// Which worker this is.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// How many there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.bells.len()
    }

    /// Who has which connection; `None`: there is but one worker.
    #[must_use]
    pub fn directory(&self) -> Option<Arc<Directory>> {
        self.directory.clone()
    }

    /// What wakes this worker.
    #[must_use]
    pub fn wake(&self) -> Arc<OwnedFd> {
        self.bells[self.number].wake.clone()
    }

    /// The turn of a port begins, of so many that are active.
    pub fn begin(&mut self, active: usize) {
        self.active = active;
        self.writers.iter_mut().flatten().for_each(|link| link.allowance = None);
    }

    /// Puts a frame's message into the ring to a worker.
    ///
    /// # Errors
    /// The message: the ring, or the port's part of it, is full.
    pub fn put(&mut self, to: usize, message: Message) -> Result<(), Message> {
        let Some(Some(link)) = self.writers.get_mut(to) else { return Err(message) };
        let allowance = link.allowance.get_or_insert_with(|| link.writer.slots().div_ceil(self.active + 1));
        if *allowance == 0 {
            return Err(message);
        }
        *allowance -= 1;
        link.news = true;
        link.writer.push(message).map_err(|PushError::Full(message)| message)
    }

    /// Tells a worker to forget a program. If the ring is full, it will be told again.
    pub fn forget(&mut self, to: usize, key: &FlowKey) {
        if let Some(Some(link)) = self.writers.get_mut(to) {
            link.news = true;
            let _ = link.writer.push(Message::Forget(Box::new(*key)));
        }
    }

    /// Tells all workers that a next hop is known. Those whose ring is full find out a little later.
    pub fn found(&mut self, hop: Hop) {
        for link in self.writers.iter_mut().flatten() {
            link.news = true;
            let _ = link.writer.push(Message::Found(hop));
        }
    }

    /// Wakes those who sleep and have messages.
    pub fn wake_readers(&mut self) {
        for (to, link) in self.writers.iter_mut().enumerate() {
            if link.as_mut().is_some_and(|link| std::mem::take(&mut link.news)) {
                // With the fence in `park`: either that worker sees the messages, or this one that it sleeps.
                fence(Ordering::SeqCst);
                let bell = &self.bells[to];
                if bell.parked.load(Ordering::Relaxed) && bell.parked.swap(false, Ordering::Relaxed) {
                    // Full means it will wake anyway.
                    let _ = rustix::io::write(&*bell.wake, &1_u64.to_ne_bytes());
                }
            }
        }
    }

    /// Takes the oldest message of a worker.
    pub fn take(&mut self, from: usize) -> Option<Message> {
        self.readers.get_mut(from)?.as_mut()?.pop().ok()
    }

    /// How many messages of a worker wait.
    #[must_use]
    pub fn waiting(&self, from: usize) -> usize {
        self.readers.get(from).and_then(Option::as_ref).map_or(0, Consumer::slots)
    }

    /// To be called before this worker sleeps: false if it must not, because there are messages.
    pub fn park(&self) -> bool {
        self.bells[self.number].parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let quiet = (0..self.readers.len()).all(|from| self.waiting(from) == 0);
        if !quiet {
            self.awake();
        }
        quiet
    }

    /// This worker does not sleep any more.
    pub fn awake(&self) {
        self.bells[self.number].parked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
