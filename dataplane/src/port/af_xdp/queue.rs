//! One queue of an AF_XDP port, owned by a worker: chunks go round between the pool and the kernel.
//!
//! Every chunk that the kernel has is noted with what it was given for, and only such a chunk is taken
//! back: whatever addresses the rings may hold, no buffer gets two owners.

use super::socket::{RING, Socket};
use crate::drop::{DropCounters, DropReason};
use crate::limits::CHUNK_BYTES;
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
        Self { slot, socket: Some(socket), sockets, memory, given, filled: 0, target, down: false, max_frame, counters }
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
        if self.socket.as_ref().is_none_or(|socket| socket.transmit.room() == 0) {
            self.kick(pool);
        }
        match &self.socket {
            None => return Err((frame, DropReason::PortDown)),
            Some(_) if self.down => return Err((frame, DropReason::PortDown)),
            Some(socket) if socket.transmit.room() == 0 => return Err((frame, DropReason::TransmitFull)),
            Some(_) => {}
        }
        let (address, length, charged) = match Pool::into_umem(frame) {
            Ok(whole) => whole,
            // A chain or a run: our offloads say that we take neither, but this one costs only a copy.
            Err(frame) => match pool.copy(&frame).map(Pool::into_umem) {
                Some(Ok(whole)) => {
                    pool.free(frame);
                    whole
                }
                Some(Err(large)) => {
                    pool.free(large);
                    return Err((frame, DropReason::TooBig));
                }
                None => return Err((frame, DropReason::NoBuffer)),
            },
        };
        self.given[address as usize / CHUNK_BYTES] = SENT + charged.index() as u16;
        self.counters.sent_packets += 1;
        self.counters.sent_bytes += length as u64;
        if let Some(socket) = &mut self.socket {
            socket.transmit.push(XdpDesc { addr: address, len: length as u32, options: XdpDescOptions::empty() });
            socket.transmit.publish();
        }
        Ok(())
    }
}

impl PortQueue for AfXdpQueue {
    fn receive(&mut self, pool: &mut Pool, frames: &mut Vec<Frame>, budget: usize, drops: &mut DropCounters) -> usize {
        let Some(mut socket) = self.socket.take() else { return 0 };
        let before = frames.len();
        let waiting = (socket.receive.waiting() as usize).min(budget);
        for _ in 0..waiting {
            let XdpDesc { addr: address, len, options } = socket.receive.pop();
            let length = len as usize;
            let Some(given) = self.chunk(address).filter(|given| **given == FILLED) else {
                // Not a chunk that the kernel was given: nothing to take back.
                drops.count(self.slot, DropReason::Malformed);
                continue;
            };
            *given = OURS;
            self.filled -= 1;
            let fits = address as usize % CHUNK_BYTES + length <= CHUNK_BYTES;
            if !fits || length < ETHERNET || options.contains(XdpDescOptions::XDP_PKT_CONTD) {
                // SAFETY: it was in the fill ring, by our own note, and is so no more.
                unsafe { pool.free_umem(address, self.slot) };
                drops.count(self.slot, if fits { DropReason::Truncated } else { DropReason::Malformed });
                continue;
            }
            self.counters.received_packets += 1;
            self.counters.received_bytes += length as u64;
            // SAFETY: as above; and it lies in its chunk.
            frames.push(unsafe { pool.from_umem(address, length, self.slot) });
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
