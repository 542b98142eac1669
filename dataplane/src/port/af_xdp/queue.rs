//! One queue of an AF_XDP port, owned by a worker: chunks go round between the pool and the kernel.
//!
//! Every chunk that the kernel has is noted with what it was given for, and only such a chunk is taken
//! back: whatever addresses the rings may hold, no buffer gets two owners.

use super::socket::{RING, Socket};
use crate::drop::{DropCounters, DropReason};
use crate::limits::{CHUNK_BYTES, RING_PIECES};
use crate::packet::frame::Frame;
use crate::packet::memory::{Class, Memory};
use crate::packet::pool::Pool;
use crate::port::{Offloads, PortQueue, PortSlot, QueueCounters, Refused};
use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Not with the kernel.
const OURS: u16 = 0;
/// In the fill ring or on its way to the receive ring.
const FILLED: u16 = 1;
/// In the transmit ring, charged to the port slot of this number less this.
const SENT: u16 = 2;

/// System calls that one transmit may take: the ring's length by what the kernel sends in one.
const KICKS: u32 = RING / 32 + 2;

const ETHERNET: usize = 14;

/// What has come of a frame of several buffers.
#[derive(Default)]
enum Begun {
    /// Nothing: the next piece begins one.
    #[default]
    Nothing,
    /// So much.
    Frame(Frame),
    /// It is given up, whatever follows.
    Unwanted,
}

/// See the module comment.
pub struct AfXdpQueue {
    slot: PortSlot,
    /// `None` once it is closed.
    socket: Option<Socket>,
    /// The program's map from queues to sockets.
    sockets: Arc<OwnedFd>,
    memory: &'static Memory,
    /// By chunk: one of the above.
    given: Box<[u16]>,
    /// The frame of several buffers that is coming.
    begun: Begun,
    /// Chunks that are [`FILLED`], and how many should be.
    filled: u32,
    target: u32,
    /// The interface was down at the last transmit.
    down: bool,
    max_frame: usize,
    counters: QueueCounters,
}

impl AfXdpQueue {
    pub(super) fn new(
        slot: PortSlot,
        socket: Socket,
        sockets: Arc<OwnedFd>,
        memory: &'static Memory,
        target: u32,
        max_frame: usize,
    ) -> Self {
        let given = vec![OURS; memory.total(Class::Chunk)].into_boxed_slice();
        let counters = QueueCounters::default();
        Self {
            slot,
            socket: Some(socket),
            sockets,
            memory,
            given,
            begun: Begun::Nothing,
            filled: 0,
            target,
            down: false,
            max_frame,
            counters,
        }
    }

    fn chunk(&mut self, address: u64) -> Option<&mut u16> {
        self.given.get_mut(usize::try_from(address).ok()? / CHUNK_BYTES)
    }

    /// Gives the kernel chunks to receive into. A few at a time are not worth it.
    fn refill(&mut self, pool: &mut Pool) {
        let Some(socket) = &mut self.socket else { return };
        let wanted = (self.target - self.filled).min(socket.fill.room());
        if wanted < 32.min(self.target) {
            return;
        }
        for _ in 0..wanted {
            let Some(address) = pool.to_umem(self.slot) else { break };
            self.given[address as usize / CHUNK_BYTES] = FILLED;
            self.filled += 1;
            socket.fill.push(address);
        }
        socket.fill.publish();
        if socket.zero_copy && socket.fill.needs_wakeup() {
            socket.wake_receive();
        }
    }

    /// Takes back the chunks that were sent.
    fn reap(&mut self, pool: &mut Pool) {
        let Some(mut socket) = self.socket.take() else { return };
        let waiting = socket.completion.waiting();
        for _ in 0..waiting {
            let address = socket.completion.pop();
            if let Some(given) = self.chunk(address)
                && *given >= SENT
            {
                let charged = PortSlot::new(usize::from(*given - SENT));
                *given = OURS;
                // SAFETY: it was in the transmit ring, by our own note, and is so no more.
                unsafe { pool.free_umem(address, charged) };
            }
        }
        if waiting > 0 {
            socket.completion.release();
        }
        self.socket = Some(socket);
    }

    /// Has the kernel send what is in the ring; what it does not take now stays for the next round.
    fn kick(&mut self, pool: &mut Pool) {
        for _ in 0..KICKS {
            let Some(socket) = &self.socket else { return };
            socket.transmit.publish();
            if socket.transmit.pending() == 0 {
                self.down = false;
                return;
            }
            if socket.zero_copy && !socket.transmit.needs_wakeup() {
                return;
            }
            let before = socket.transmit.pending();
            let result = socket.wake_transmit();
            let after = socket.transmit.pending();
            self.down = matches!(result, Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV));
            self.reap(pool);
            match result {
                Ok(()) => return,
                // It sent some and there are more.
                Err(Errno::AGAIN) if after < before => {}
                // The driver or the completion ring was full. All others are the interface's trouble.
                Err(_) => return,
            }
        }
    }

    /// Puts one frame into the transmit ring; gives it back if that cannot be.
    fn enqueue(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if frame.len() < ETHERNET {
            return Err((frame, DropReason::Truncated));
        }
        if frame.len() > self.max_frame || frame.gso.is_some() {
            return Err((frame, DropReason::TooBig));
        }
        let (mut frame, mut pieces) = (frame, 1);
        if frame.umem_address().is_none() {
            let several = self.socket.as_ref().is_some_and(|socket| socket.several);
            match frame.umem_pieces().filter(|&pieces| several && pieces <= RING_PIECES) {
                Some(count) => pieces = count,
                // Our offloads say that we take neither runs nor longer chains, but this one costs only a copy.
                None => {
                    let Some(copy) = pool.copy_to_chunks(&frame) else { return Err((frame, DropReason::NoBuffer)) };
                    pool.free(std::mem::replace(&mut frame, copy));
                    pieces = frame.umem_pieces().unwrap_or(1);
                    if pieces > 1 && !several {
                        return Err((frame, DropReason::TooBig));
                    }
                }
            }
        }
        if self.socket.as_mut().is_none_or(|socket| !socket.transmit.has_room(pieces as u32)) {
            self.kick(pool);
        }
        let Self { socket, given, .. } = self;
        let Some(socket) = socket.as_mut().filter(|_| !self.down) else { return Err((frame, DropReason::PortDown)) };
        if !socket.transmit.has_room(pieces as u32) {
            return Err((frame, DropReason::TransmitFull));
        }
        let length = frame.len();
        let (addresses, charged) = Pool::into_umem_pieces(frame).map_err(|frame| (frame, DropReason::Malformed))?;
        // No chunk of it comes home before the last is in the ring, so its chain is still there to be read.
        for (index, (address, bytes)) in addresses.enumerate() {
            given[address as usize / CHUNK_BYTES] = SENT + charged.index() as u16;
            let mut options = XdpDescOptions::empty();
            options.set(XdpDescOptions::XDP_PKT_CONTD, index + 1 < pieces);
            socket.transmit.push(XdpDesc { addr: address, len: bytes as u32, options });
        }
        self.counters.sent_packets += 1;
        self.counters.sent_bytes += length as u64;
        Ok(())
    }

    /// Takes back the chunk of a received piece, behind all that has come of its frame before. Gives the whole frame,
    /// or why there will be none.
    fn receive_piece(&mut self, pool: &mut Pool, piece: XdpDesc) -> Option<Result<Frame, DropReason>> {
        let XdpDesc { addr: address, len, options } = piece;
        let length = len as usize;
        let last = !options.contains(XdpDescOptions::XDP_PKT_CONTD);
        let slot = self.slot;
        let begun = std::mem::take(&mut self.begun);
        let Some(given) = self.chunk(address).filter(|given| **given == FILLED) else {
            // Not a chunk that the kernel was given: nothing to take back.
            return self.refuse(pool, begun, last, DropReason::Malformed);
        };
        *given = OURS;
        self.filled -= 1;
        if address as usize % CHUNK_BYTES + length > CHUNK_BYTES {
            // SAFETY: it was in the fill ring, by our own note, and is so no more.
            unsafe { pool.free_umem(address, slot) };
            return self.refuse(pool, begun, last, DropReason::Malformed);
        }
        // SAFETY: as above; and it lies in its chunk.
        let piece = unsafe { pool.from_umem(address, length, slot) };
        let whole = match begun {
            Begun::Nothing => piece,
            Begun::Frame(mut whole) if length > 0 && whole.umem_pieces().is_some_and(|pieces| pieces < RING_PIECES) => {
                whole.append(piece);
                whole
            }
            unwanted => {
                pool.free(piece);
                return self.refuse(pool, unwanted, last, DropReason::Malformed);
            }
        };
        if !last {
            self.begun = Begun::Frame(whole);
            return None;
        }
        if whole.head().len() < ETHERNET {
            pool.free(whole);
            return Some(Err(DropReason::Truncated));
        }
        Some(Ok(whole))
    }

    /// Gives up a frame, whose pieces so far are `begun`: told once.
    fn refuse<T>(
        &mut self,
        pool: &mut Pool,
        begun: Begun,
        last: bool,
        reason: DropReason,
    ) -> Option<Result<T, DropReason>> {
        let told = matches!(begun, Begun::Unwanted);
        if let Begun::Frame(frame) = begun {
            pool.free(frame);
        }
        if !last {
            self.begun = Begun::Unwanted;
        }
        (!told).then_some(Err(reason))
    }
}

impl PortQueue for AfXdpQueue {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let Some(mut socket) = self.socket.take() else { return 0 };
        let before = frames.len();
        let waiting = socket.receive.waiting();
        for _ in 0..waiting {
            if frames.len() - before >= budget {
                break;
            }
            match self.receive_piece(pool, socket.receive.pop()) {
                None => {}
                Some(Ok(frame)) => {
                    self.counters.received_packets += 1;
                    self.counters.received_bytes += frame.len() as u64;
                    frames.push(frame);
                }
                Some(Err(reason)) => drops.count(self.slot, reason),
            }
        }
        if waiting > 0 {
            socket.receive.release();
        }
        self.socket = Some(socket);
        self.refill(pool);
        frames.len() - before
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, refused: &mut Refused) {
        self.reap(pool);
        if self.down {
            self.kick(pool);
        }
        for frame in frames.drain(..) {
            if let Err(back) = self.enqueue(pool, frame) {
                refused.push(back);
            }
        }
        self.kick(pool);
    }

    fn service(&mut self, pool: &mut Pool) {
        self.reap(pool);
        self.refill(pool);
        // What an earlier transmit could not hand over. A port that is down waits for the next one.
        if !self.down {
            self.kick(pool);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(Socket::descriptor)
    }

    fn offloads(&self) -> Offloads {
        Offloads {
            checksum: false,
            tcp_segmentation: false,
            udp_segmentation: false,
            chains: false,
            max_frame: self.max_frame,
        }
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn close(&mut self, pool: &mut Pool) {
        let Some(socket) = self.socket.take() else { return };
        if let Begun::Frame(begun) = std::mem::take(&mut self.begun) {
            pool.free(begun);
        }
        if !socket.close(&self.sockets, self.memory) {
            // The kernel may still write into them: better lost than shared.
            return;
        }
        for (chunk, given) in self.given.iter_mut().enumerate() {
            let charged = match std::mem::replace(given, OURS) {
                OURS => continue,
                FILLED => self.slot,
                sent => PortSlot::new(usize::from(sent - SENT)),
            };
            // SAFETY: the kernel had it, by our own note, and lost it with the socket.
            unsafe { pool.free_umem((chunk * CHUNK_BYTES) as u64, charged) };
        }
        self.filled = 0;
    }
}

impl Drop for AfXdpQueue {
    /// A queue that was not closed leaks its chunks, as frames do; but its socket must not be shared
    /// with while it goes.
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close(&self.sockets, self.memory);
        }
    }
}
