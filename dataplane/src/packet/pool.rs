//! A worker's cache of free buffers, and the quotas of its ports.
//!
//! Each worker owns one pool. What pools share lies in [`Memory`] and is visited once every [`DEPOT_BATCH`]
//! buffers: the depot, and how many buffers of each class each port's frames hold. A port that holds its quota of a
//! class gets no more of it until some come back, in whichever pool: a frame that one worker received another may
//! send and free. So each pool keeps only the change since it last settled with the shared count, and what the count
//! was then; before it refuses a buffer it looks. The quota is exact for one worker; each further one may add
//! [`DEPOT_BATCH`]. It shrinks with what is free ([`BUFFERS_PER_PORT_TO_FREE`]), so that no port starves another.

use super::frame::Frame;
use super::memory::{BufferId, Class, Memory};
use crate::limits::{
    BUFFERS_PER_PORT, BUFFERS_PER_PORT_TO_FREE, CHUNK_BYTES, DEPOT_BATCH, HEADROOM, PORTS, RING_PIECES, RUN_BYTES,
};
use crate::port::PortSlot;

/// The most bytes by which the starts of frames differ, one cache line after the other: chunks are as large as a way
/// of the first-level cache, so that headers at one offset would all compete for a few of its lines.
const STAGGER: usize = 15 * 64;

fn stagger(id: BufferId) -> usize {
    id.0 as usize % 16 * 64
}

/// How far a pool lets a port's count drift from the shared one.
const SETTLE: i32 = DEPOT_BATCH as i32;

/// See the module comment.
pub struct Pool {
    memory: &'static Memory,
    free: [Vec<BufferId>; 2],
    /// What the depot had when it was last asked.
    depot: [usize; 2],
    /// By port slot and class.
    accounts: Box<[[Account; 2]]>,
}

/// Buffers of a class that frames of one port hold, as far as a pool knows.
#[derive(Clone, Copy, Default)]
struct Account {
    /// The shared count when this pool last settled.
    settled: i32,
    /// Taken from this pool less given to it since then.
    change: i32,
}

impl Pool {
    /// A pool with nothing in its cache.
    #[must_use]
    pub fn new(memory: &'static Memory) -> Self {
        let accounts = vec![[Account::default(); 2]; PORTS].into();
        Self { memory, free: [Vec::new(), Vec::new()], depot: [0; 2], accounts }
    }

    /// The memory it draws from.
    #[must_use]
    pub fn memory(&self) -> &'static Memory {
        self.memory
    }

    #[inline]
    fn take(&mut self, class: Class, port: PortSlot) -> Option<BufferId> {
        let Account { settled, change } = self.accounts[port.index()][class as usize];
        if (change >= SETTLE || !self.may_hold(class, settled + change)) && !self.may_hold_after_all(class, port) {
            return None;
        }
        if self.free[class as usize].is_empty() {
            self.refill(class)?;
        }
        self.accounts[port.index()][class as usize].change += 1;
        self.free[class as usize].pop()
    }

    /// Whether a port may have one more buffer, now that the others are asked what they have given back.
    #[cold]
    fn may_hold_after_all(&mut self, class: Class, port: PortSlot) -> bool {
        self.settle(port, class);
        self.depot[class as usize] = self.memory.free(class);
        self.may_hold(class, self.accounts[port.index()][class as usize].settled)
    }

    #[cold]
    fn refill(&mut self, class: Class) -> Option<()> {
        self.free[class as usize] = self.memory.take_batch(class)?;
        self.depot[class as usize] = self.memory.free(class);
        Some(())
    }

    /// Whether a port that holds so many buffers may have one more, as far as this pool knows what is free.
    #[inline]
    fn may_hold(&self, class: Class, held: i32) -> bool {
        let free = self.depot[class as usize] + self.free[class as usize].len();
        held < BUFFERS_PER_PORT as i32
            && usize::try_from(held).map_or(true, |held| held < free * BUFFERS_PER_PORT_TO_FREE)
    }

    /// Adds what changed to the shared count, and learns it.
    fn settle(&mut self, port: PortSlot, class: Class) {
        let account = &mut self.accounts[port.index()][class as usize];
        account.settled = self.memory.change_held(port, class, std::mem::take(&mut account.change));
    }

    #[inline]
    fn give(&mut self, id: BufferId, port: PortSlot) {
        let class = self.memory.class(id);
        let account = &mut self.accounts[port.index()][class as usize];
        account.change -= 1;
        if account.change <= -SETTLE {
            self.settle(port, class);
        }
        let free = &mut self.free[class as usize];
        free.push(id);
        if free.len() >= 2 * DEPOT_BATCH {
            let batch = free.split_off(free.len() - DEPOT_BATCH);
            self.memory.give_batch(class, batch);
        }
    }

    /// An empty frame in a chunk, with [`HEADROOM`]. `None`: memory or the port's quota is used up.
    pub fn chunk(&mut self, port: PortSlot) -> Option<Frame> {
        let id = self.take(Class::Chunk, port)?;
        Some(Frame::new(self.memory, id, HEADROOM, 0, port))
    }

    /// An empty frame in a run, with [`HEADROOM`].
    pub fn run(&mut self, port: PortSlot) -> Option<Frame> {
        let id = self.take(Class::Run, port)?;
        Some(Frame::new(self.memory, id, HEADROOM, 0, port))
    }

    /// An empty frame with room for `length` bytes behind the headroom, in the smallest class.
    #[inline]
    pub fn sized(&mut self, port: PortSlot, length: usize) -> Option<Frame> {
        if length <= CHUNK_BYTES - HEADROOM - STAGGER {
            let id = self.take(Class::Chunk, port)?;
            Some(Frame::new(self.memory, id, HEADROOM + stagger(id), 0, port))
        } else if length <= CHUNK_BYTES - HEADROOM {
            self.chunk(port)
        } else if length <= RUN_BYTES - HEADROOM {
            self.run(port)
        } else {
            None
        }
    }

    /// A frame of `length` bytes in as many chunks as it takes, each behind its headroom; what they hold is left over
    /// from before. `None` also if that were more than [`RING_PIECES`].
    pub fn chunked(&mut self, port: PortSlot, length: usize) -> Option<Frame> {
        const ROOM: usize = CHUNK_BYTES - HEADROOM;
        if length > ROOM * RING_PIECES {
            return None;
        }
        let mut frame = self.chunk(port)?;
        frame.set_len(length.min(ROOM));
        let mut left = length.saturating_sub(ROOM);
        while left > 0 {
            let Some(mut next) = self.chunk(port) else {
                self.free(frame);
                return None;
            };
            next.set_len(left.min(ROOM));
            left = left.saturating_sub(ROOM);
            frame.append(next);
        }
        Some(frame)
    }

    /// A frame that holds these bytes.
    #[inline]
    pub fn frame(&mut self, port: PortSlot, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.sized(port, bytes.len())?;
        assert!(frame.set_len(bytes.len()), "sized for it");
        frame.head_mut().copy_from_slice(bytes);
        Some(frame)
    }

    /// A copy with its side descriptor, in one segment; charged to the same port.
    pub fn copy(&mut self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.sized(frame.charged, frame.len())?;
        assert!(copy.set_len(frame.len()), "sized for it");
        frame.copy_range(0, copy.head_mut());
        copy.describe_as(frame);
        Some(copy)
    }

    /// The same in chunks only, see [`Pool::chunked`].
    pub fn copy_to_chunks(&mut self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.chunked(frame.charged, frame.len())?;
        let mut done = 0;
        copy.segments_mut().for_each(|segment| done += frame.copy_range(done, segment));
        copy.describe_as(frame);
        Some(copy)
    }

    /// Takes the frame's buffers back.
    ///
    /// # Panics
    /// If the frame lies in another memory: its buffers' numbers mean others here, which have owners.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        assert!(std::ptr::eq(frame.memory, self.memory), "a frame comes home to the memory it is from");
        let port = frame.charged;
        match frame.into_buffer() {
            Ok(id) => self.give(id, port),
            Err(chain) => chain.into_buffers().for_each(|id| self.give(id, port)),
        }
    }

    /// Returns the buffers of a frame to the depot when it has no pool to go to.
    pub fn abandon(frame: Frame) {
        let (memory, port) = (frame.memory, frame.charged);
        for id in frame.into_buffers() {
            let class = memory.class(id);
            memory.change_held(port, class, -1);
            memory.give_batch(class, vec![id]);
        }
    }

    /// A chunk for the kernel's fill ring: its UMEM address (of its first byte, no headroom).
    /// The port that gets it owns it until [`Pool::from_umem`] or [`Pool::free_umem`].
    pub fn to_umem(&mut self, port: PortSlot) -> Option<u64> {
        self.take(Class::Chunk, port).map(|id| u64::from(id.0) * CHUNK_BYTES as u64)
    }

    /// Turns a frame of one chunk into its UMEM address for a transmit ring; gives it back if it is
    /// not one chunk. The buffer comes home by [`Pool::free_umem`], under the port it is charged to.
    ///
    /// # Errors
    /// The frame, if it is chained or lies in a run.
    pub fn into_umem(frame: Frame) -> Result<(u64, usize, PortSlot), Frame> {
        match frame.umem_address() {
            Some(address) => Ok((address, frame.len(), frame.charged)),
            None => Err(frame),
        }
    }

    /// Likewise a frame of several chunks: the UMEM address and length of each, in order, and the port it is charged to.
    ///
    /// # Errors
    /// The frame, unless it has [`Frame::umem_pieces`].
    pub fn into_umem_pieces(frame: Frame) -> Result<(impl Iterator<Item = (u64, usize)>, PortSlot), Frame> {
        if frame.umem_pieces().is_none() {
            return Err(frame);
        }
        let place = |(id, offset, length): (BufferId, u32, u32)| {
            (u64::from(id.0) * CHUNK_BYTES as u64 + u64::from(offset), length as usize)
        };
        Ok((frame.pieces().map(place), frame.charged))
    }

    /// A frame that the kernel received at this UMEM address, into a chunk that [`Pool::to_umem`] gave
    /// for this port.
    ///
    /// # Panics
    /// If the address is outside the UMEM or the length leaves its chunk.
    ///
    /// # Safety
    /// The chunk at this address came from [`Pool::to_umem`] or [`Pool::into_umem`] of a pool of this memory,
    /// the kernel no longer has it, and it was not taken back yet: else it gets a second owner.
    pub unsafe fn from_umem(&mut self, address: u64, length: usize, port: PortSlot) -> Frame {
        let id = self.umem_chunk(address);
        Frame::new(self.memory, id, address as usize % CHUNK_BYTES, length, port)
    }

    /// Takes back a chunk that the kernel is done with.
    ///
    /// # Panics
    /// If the address is outside the UMEM.
    ///
    /// # Safety
    /// As [`Pool::from_umem`].
    pub unsafe fn free_umem(&mut self, address: u64, port: PortSlot) {
        let id = self.umem_chunk(address);
        self.give(id, port);
    }

    fn umem_chunk(&self, address: u64) -> BufferId {
        let id = address / CHUNK_BYTES as u64;
        assert!((id as usize) < self.memory.total(Class::Chunk), "the kernel gave address {address:#x}");
        BufferId(id as u32)
    }

    /// Buffers in frames or rings, of all ports; exact if all other pools of this memory have settled.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        (0..PORTS).map(|slot| i64::from(self.held(PortSlot::new(slot)))).sum()
    }

    /// Likewise those held for one port.
    #[must_use]
    pub fn held(&self, port: PortSlot) -> i32 {
        let of_class =
            |class: Class| self.memory.change_held(port, class, 0) + self.accounts[port.index()][class as usize].change;
        of_class(Class::Chunk) + of_class(Class::Run)
    }

    /// Free buffers in this pool's own cache.
    #[must_use]
    pub fn cached(&self, class: Class) -> usize {
        self.free[class as usize].len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for class in [Class::Chunk, Class::Run] {
            for slot in 0..PORTS {
                if self.accounts[slot][class as usize].change != 0 {
                    self.settle(PortSlot::new(slot), class);
                }
            }
            let free = std::mem::take(&mut self.free[class as usize]);
            if !free.is_empty() {
                self.memory.give_batch(class, free);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::frame::Checksum;

    #[test]
    fn frames_come_and_go_without_a_leak() {
        let memory = Memory::map(256, 8).unwrap();
        let mut pool = Pool::new(memory);
        let port = PortSlot::new(3);
        let mut first = pool.frame(port, b"head").unwrap();
        first.append(pool.frame(port, &[7; 5000]).unwrap());
        first.append(pool.frame(port, b"tail").unwrap());
        assert_eq!((first.len(), first.segments().count(), pool.held(port)), (5008, 3, 3));
        let copy = pool.copy(&first).unwrap();
        assert!(!copy.is_chained());
        assert_eq!(copy.to_vec(), first.to_vec());
        let mut part = [0; 6];
        assert_eq!(first.copy_range(5002, &mut part), 6);
        assert_eq!(&part, b"\x07\x07tail");
        pool.free(first);
        pool.free(copy);
        assert_eq!(pool.outstanding(), 0);
        drop(pool);
        assert_eq!((memory.free(Class::Chunk), memory.free(Class::Run)), (256, 8));
    }

    #[test]
    fn a_port_cannot_take_more_than_its_quota() {
        let memory = Memory::map(2 * BUFFERS_PER_PORT as usize + 128, 0).unwrap();
        let mut pool = Pool::new(memory);
        let (greedy, other) = (PortSlot::new(0), PortSlot::new(1));
        let frames: Vec<Frame> = std::iter::from_fn(|| pool.chunk(greedy)).collect();
        assert_eq!(frames.len(), BUFFERS_PER_PORT as usize);
        let one = pool.chunk(other).expect("the other port is not starved");
        pool.free(one);
        frames.into_iter().for_each(|frame| pool.free(frame));
        assert_eq!(pool.outstanding(), 0);
    }

    /// One worker receives, another sends and frees: the port never runs dry, and nothing is owed at the end.
    #[test]
    fn what_another_pool_frees_is_given_back_to_the_port() {
        let memory = Memory::map(2 * BUFFERS_PER_PORT as usize, 0).unwrap();
        let (mut receiver, mut sender) = (Pool::new(memory), Pool::new(memory));
        let port = PortSlot::new(3);
        for round in 0..3 * BUFFERS_PER_PORT {
            let frame = receiver.chunk(port).unwrap_or_else(|| panic!("frame {round} of a port that holds none"));
            sender.free(frame);
        }
        let apart = receiver.held(port).abs().max(sender.held(port).abs());
        assert!(apart <= 2 * SETTLE, "{apart} buffers are not settled");
        drop(sender);
        assert_eq!((receiver.held(port), receiver.outstanding()), (0, 0));
    }

    #[test]
    fn the_quota_is_the_ports_not_the_pools() {
        let memory = Memory::map(3 * BUFFERS_PER_PORT as usize, 0).unwrap();
        let (mut first, mut second) = (Pool::new(memory), Pool::new(memory));
        let port = PortSlot::new(3);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| first.chunk(port)).collect();
        frames.extend(std::iter::from_fn(|| second.chunk(port)));
        let most = BUFFERS_PER_PORT as usize + DEPOT_BATCH;
        assert!((BUFFERS_PER_PORT as usize..=most).contains(&frames.len()), "{} buffers", frames.len());
        frames.into_iter().for_each(|frame| second.free(frame));
        assert_eq!(std::iter::from_fn(|| first.chunk(port)).map(|frame| second.free(frame)).take(9).count(), 9);
    }

    #[test]
    fn a_greedy_port_leaves_buffers_of_each_class_to_others() {
        let memory = Memory::map(8192, 512).unwrap();
        // Two workers, with queues of the same ports.
        let mut pools = [Pool::new(memory), Pool::new(memory)];
        let mut frames = Vec::new();
        let mut take = |pools: &mut [Pool; 2], port: usize| {
            for length in [100, 60_000] {
                let before = frames.len();
                for (worker, pool) in pools.iter_mut().enumerate() {
                    frames.extend(
                        std::iter::from_fn(|| pool.sized(PortSlot::new(port), length)).map(|frame| (worker, frame)),
                    );
                }
                assert!(frames.len() >= before + 64, "port {port} gets {}", frames.len() - before);
            }
        };
        take(&mut pools, 1);
        take(&mut pools, 2);
        frames.into_iter().for_each(|(worker, frame)| pools[worker].free(frame));
        assert!(pools.iter().all(|pool| pool.outstanding() == 0));
        // What others gave back can be had, although the pool was refused before.
        let frame = pools[1].sized(PortSlot::new(1), 60_000).expect("a run is free");
        pools[1].free(frame);
    }

    #[test]
    fn frames_of_two_memories_do_not_mix() {
        let (memory, other) = (Memory::map(64, 0).unwrap(), Memory::map(64, 0).unwrap());
        let (mut pool, mut foreign) = (Pool::new(memory), Pool::new(other));
        let port = PortSlot::new(1);
        let quiet = |action: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).is_err();
        // Taken in, its buffer would have two owners here.
        let mut frame = Some(foreign.chunk(port).unwrap());
        assert!(quiet(&mut || pool.free(frame.take().unwrap())));
        let (mut own, mut frame) = (pool.chunk(port).unwrap(), Some(foreign.chunk(port).unwrap()));
        assert!(quiet(&mut || own.append(frame.take().unwrap())));
        pool.free(own);
        assert_eq!((pool.cached(Class::Chunk), pool.outstanding()), (64, 0));
    }

    #[test]
    fn a_partial_checksum_moves_with_the_headers() {
        let memory = Memory::map(64, 0).unwrap();
        let mut pool = Pool::new(memory);
        let mut frame = pool.frame(PortSlot::new(0), &[0; 100]).unwrap();
        frame.checksum = Checksum::Partial { start: 34, offset: 16 };
        assert_eq!(frame.push_front(50).unwrap().len(), 150);
        assert_eq!(frame.checksum, Checksum::Partial { start: 84, offset: 16 });
        assert!(frame.pull_front(50));
        assert_eq!(frame.checksum, Checksum::Partial { start: 34, offset: 16 });
        assert!(frame.headroom() >= HEADROOM && frame.push_front(frame.headroom() + 1).is_none());
        pool.free(frame);
    }
}
