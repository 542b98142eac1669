//! A frame: a chain of segments in packet memory with its side descriptor.
//!
//! The descriptor of the first segment is the [`Frame`] itself; further segments are linked through
//! descriptors beside the packet memory, never inside it (the kernel may write there). All headers lie
//! in the first segment. A 64 KB segment from a TAP is one run, hence usually one segment.
//!
//! A `Frame` owns its buffers but cannot return them by itself: hand it to
//! [`Pool::free`](super::pool::Pool::free) or to a port. Dropping one leaks its buffers until the
//! process ends; the pool's accounting shows it in the tests.

use super::memory::{BufferId, Link, Memory};
use crate::port::PortSlot;
use std::ptr::NonNull;

/// What is known of the transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in place; nobody here verified it. What comes from a wire.
    #[default]
    Unverified,
    /// It is in place and right (virtio's `DATA_VALID`, or we computed it).
    Complete,
    /// The field holds the uncomplemented pseudo-header sum; who sends the frame on a wire sums from
    /// `start` to the end and stores the complement at `start + offset` (virtio's `NEEDS_CSUM`).
    /// Positions count from the frame's first byte.
    Partial {
        /// Where the sum begins: the transport header.
        start: u16,
        /// Where the field is, from `start`.
        offset: u16,
    },
}

/// Which kind of segments a large frame stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal length (virtio's `GSO_UDP_L4`).
    Udp,
}

/// A frame that stands for several: to be segmented where it leaves, if the port cannot take it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What its segments are.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last (TCP's MSS).
    pub size: u16,
    /// Bytes of outer headers before the inner Ethernet header; 0 if it is not in a tunnel.
    pub tunnel: u16,
}

/// On whose behalf a frame leaves. The worker's egress notes it, copies and segments inherit it, and what an
/// output does with the frame is settled by it (`outcome.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// Which received frame of the batch.
    pub received: u32,
    /// The tunnel port that wrapped it; [`PortSlot::NONE`]: none.
    pub tunnel: PortSlot,
    /// Which merged frame of the batch it is, or lies in (`merge.rs`); 0: none.
    pub merged: u16,
}

impl Departure {
    /// `received` of a frame that leaves on nobody's behalf: it tells a sender that its packet is dropped, and
    /// does not undo that.
    pub const OWN: u32 = u32::MAX;
}

/// One frame. See the module comment for who must free it.
#[derive(Debug)]
#[must_use = "a frame owns buffers: free it through the pool or hand it to a port"]
pub struct Frame {
    /// Start of the first segment's buffer.
    base: NonNull<u8>,
    pub(super) memory: &'static Memory,
    pub(super) buffer: BufferId,
    /// Capacity of the first buffer, bytes.
    capacity: u32,
    /// First byte and length of the first segment.
    offset: u32,
    length: u32,
    /// Bytes of all segments after the first.
    rest: u32,
    /// The transport checksum's state.
    pub checksum: Checksum,
    /// Set if the frame stands for several.
    pub gso: Option<Gso>,
    /// The port whose quota the buffers count against: that which received the frame.
    pub(super) charged: PortSlot,
    /// Whether the buffer's link has a meaning: only then may others follow. Most frames are one buffer, and never
    /// touch its link.
    linked: bool,
    /// Set when it is sent.
    pub departure: Departure,
}

// It is moved a few times on its way: one cache line.
const _: () = assert!(size_of::<Frame>() <= 64);

// SAFETY: a frame owns its buffers; the pointer is into a mapping that lives as long as the process.
unsafe impl Send for Frame {}

impl Frame {
    /// A frame of `length` bytes at `offset` of a buffer that the caller owns.
    #[inline]
    pub(super) fn new(
        memory: &'static Memory,
        buffer: BufferId,
        offset: usize,
        length: usize,
        charged: PortSlot,
    ) -> Self {
        let capacity = match memory.class(buffer) {
            super::memory::Class::Chunk => crate::limits::CHUNK_BYTES,
            super::memory::Class::Run => crate::limits::RUN_BYTES,
        };
        assert!(offset + length <= capacity, "{length} bytes at {offset} do not fit a buffer of {capacity}");
        Self {
            base: memory.start(buffer),
            memory,
            buffer,
            capacity: capacity as u32,
            offset: offset as u32,
            length: length as u32,
            rest: 0,
            checksum: Checksum::Unverified,
            gso: None,
            charged,
            linked: false,
            departure: Departure::default(),
        }
    }

    /// The link of the first buffer.
    #[inline]
    fn first_link(&self) -> Link {
        // SAFETY: we own the buffer.
        if self.linked { unsafe { *self.memory.link(self.buffer) } } else { Link::default() }
    }

    /// The port that received it, whose quota its buffers count against.
    #[must_use]
    #[inline]
    pub fn charged(&self) -> PortSlot {
        self.charged
    }

    /// Bytes of the whole frame.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        (self.length + self.rest) as usize
    }

    /// Whether it has no bytes.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has more than one segment.
    #[must_use]
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.rest > 0
    }

    /// The first segment, which holds all headers.
    #[must_use]
    #[inline]
    pub fn head(&self) -> &[u8] {
        // SAFETY: we own the buffer, and offset + length <= capacity always holds.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.offset as usize), self.length as usize) }
    }

    /// The first segment, to be changed.
    #[must_use]
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `head`, and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(self.offset as usize), self.length as usize) }
    }

    /// Bytes free before the first segment.
    #[must_use]
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize
    }

    /// Bytes free behind the first segment.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        (self.capacity - self.offset - self.length) as usize
    }

    /// Makes room for `count` bytes at the front and gives the whole head; `None` without headroom.
    /// The new bytes hold what was there before. Positions of a partial checksum move along.
    #[inline]
    pub fn push_front(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.headroom() {
            return None;
        }
        self.offset -= count as u32;
        self.length += count as u32;
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            // A start that far behind came from outside and makes no sense; it stays out of bounds.
            *start = start.saturating_add(count as u16);
        }
        Some(self.head_mut())
    }

    /// Removes `count` bytes from the front of the first segment; false (and nothing done) if it has
    /// fewer. A partial checksum that would start before the frame becomes unverified.
    #[inline]
    pub fn pull_front(&mut self, count: usize) -> bool {
        if count > self.length as usize {
            return false;
        }
        self.offset += count as u32;
        self.length -= count as u32;
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            match start.checked_sub(count as u16) {
                Some(moved) => *start = moved,
                None => self.checksum = Checksum::Unverified,
            }
        }
        true
    }

    /// Cuts or lengthens the first segment of an unchained frame to `length` bytes; false (and nothing
    /// done) if it is chained or has no room. New bytes hold what was there before.
    #[inline]
    pub fn set_len(&mut self, length: usize) -> bool {
        if self.is_chained() || length > (self.capacity - self.offset) as usize {
            return false;
        }
        self.length = length as u32;
        true
    }

    /// Cuts the frame to its first `length` bytes, chained or not; false (and nothing done) if it has
    /// fewer, or if a whole segment would have to go.
    pub fn truncate(&mut self, length: usize) -> bool {
        let Some(excess) = self.len().checked_sub(length) else { return false };
        let mut last = None;
        // SAFETY: we own every buffer of the chain, and hold no other reference to its links.
        unsafe {
            let mut next = self.first_link().next;
            while let Some(id) = next.checked_sub(1).map(BufferId) {
                last = Some(id);
                next = self.memory.link(id).next;
            }
        }
        match last {
            None => self.length -= excess as u32,
            Some(id) => {
                // SAFETY: as above.
                let link = unsafe { self.memory.link(id) };
                if excess > 0 && excess >= link.length as usize {
                    return false;
                }
                link.length -= excess as u32;
                self.rest -= excess as u32;
            }
        }
        true
    }

    /// All segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.first_link().next;
        let later = std::iter::from_fn(move || {
            let id = BufferId(next.checked_sub(1)?);
            // SAFETY: we own every buffer of the chain, and each link lies within its buffer.
            unsafe {
                let link = *self.memory.link(id);
                next = link.next;
                let start = self.memory.start(id).as_ptr().add(link.offset as usize);
                Some(std::slice::from_raw_parts(start, link.length as usize))
            }
        });
        std::iter::once(self.head()).chain(later)
    }

    /// Likewise, to be changed.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let memory = self.memory;
        let mut link = self.first_link();
        let mut next = Some((self.buffer, self.offset, self.length));
        std::iter::from_fn(move || {
            let (buffer, offset, length) = next?;
            // SAFETY: we own every buffer of the chain, each link lies within its buffer, and each buffer is given once.
            unsafe {
                let after = link.next.checked_sub(1).map(BufferId);
                link = after.map_or_else(Link::default, |id| *memory.link(id));
                next = after.map(|id| (id, link.offset, link.length));
                let start = memory.start(buffer).as_ptr().add(offset as usize);
                Some(std::slice::from_raw_parts_mut(start, length as usize))
            }
        })
    }

    /// Copies the frame's bytes from `from` on into `out`; gives how many.
    pub fn copy_range(&self, mut from: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in self.segments() {
            if from >= segment.len() {
                from -= segment.len();
                continue;
            }
            let take = (segment.len() - from).min(out.len() - done);
            out[done..done + take].copy_from_slice(&segment[from..from + take]);
            done += take;
            from = 0;
            if done == out.len() {
                break;
            }
        }
        done
    }

    /// Whether it lies in one buffer.
    #[must_use]
    #[inline]
    pub fn is_one_buffer(&self) -> bool {
        self.first_link().next == 0
    }

    /// Lets the processor fetch the first bytes.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.base.as_ptr().wrapping_add(self.offset as usize));
    }

    /// Takes over another frame's side descriptor.
    pub(super) fn describe_as(&mut self, other: &Self) {
        (self.checksum, self.gso, self.departure) = (other.checksum, other.gso, other.departure);
    }

    /// All bytes in a vector; for tests, traces and captures.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.segments().flatten().copied().collect()
    }

    /// Where the first segment lies in the UMEM: the address of its first byte; `None` if the frame is
    /// not one chunk. (An empty segment behind it would be a second one, and lost by whoever takes the
    /// address for the frame: hence the look at the link.)
    #[must_use]
    #[inline]
    pub fn umem_address(&self) -> Option<u64> {
        (self.is_one_buffer() && self.memory.class(self.buffer) == super::memory::Class::Chunk)
            .then(|| u64::from(self.buffer.0) * crate::limits::CHUNK_BYTES as u64 + u64::from(self.offset))
    }

    /// How many segments it has, if each is a chunk that holds something: what a ring of UMEM addresses can carry.
    #[must_use]
    pub fn umem_pieces(&self) -> Option<usize> {
        let mut count = 0;
        for (buffer, _, length) in self.pieces() {
            if length == 0 || self.memory.class(buffer) != super::memory::Class::Chunk {
                return None;
            }
            count += 1;
        }
        Some(count)
    }

    /// Of each segment the buffer, where its bytes begin in that, and how many there are.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (BufferId, u32, u32)> + use<> {
        let (memory, mut link) = (self.memory, self.first_link());
        let mut next = Some((self.buffer, self.offset, self.length));
        std::iter::from_fn(move || {
            let piece = next?;
            next = link.next.checked_sub(1).map(|id| {
                // SAFETY: the chain belongs to the frame, whose owner calls; links are read before they are handed on.
                link = unsafe { *memory.link(BufferId(id)) };
                (BufferId(id), link.offset, link.length)
            });
            Some(piece)
        })
    }

    /// Hangs the segments of `other` behind those of this frame. `other`'s own descriptor (checksum
    /// state, GSO) is forgotten.
    ///
    /// # Panics
    /// If `other` lies in another memory: links are buffers' numbers in one.
    pub fn append(&mut self, other: Frame) {
        self.append_behind(self.last_buffer(), other);
    }

    /// The buffer of the last segment.
    pub(super) fn last_buffer(&self) -> BufferId {
        let (mut last, mut next) = (self.buffer, self.first_link().next);
        while let Some(id) = next.checked_sub(1).map(BufferId) {
            last = id;
            // SAFETY: the chain is ours.
            next = unsafe { self.memory.link(id).next };
        }
        last
    }

    /// The same as [`Frame::append`] if `last` is the frame's [`Frame::last_buffer`]; gives what that is then.
    pub(super) fn append_behind(&mut self, last: BufferId, other: Self) -> BufferId {
        assert!(std::ptr::eq(self.memory, other.memory), "a chain lies in one memory");
        let new_last = other.last_buffer();
        let next = other.first_link().next;
        // SAFETY: both chains are ours.
        unsafe {
            *self.memory.link(other.buffer) = Link { offset: other.offset, length: other.length, next };
            if !self.linked {
                *self.memory.link(self.buffer) = Link::default();
                self.linked = true;
            }
            let link = self.memory.link(last);
            debug_assert_eq!(link.next, 0, "nothing comes behind the last segment");
            link.next = other.buffer.0 + 1;
        }
        self.rest += other.length + other.rest;
        new_last
    }

    /// The buffer of a frame that has no other; the frame is taken apart.
    #[inline]
    pub(super) fn into_buffer(self) -> Result<BufferId, Self> {
        if self.linked { Err(self) } else { Ok(self.buffer) }
    }

    /// The buffers of the chain in order; the frame is taken apart.
    pub(super) fn into_buffers(self) -> impl Iterator<Item = BufferId> {
        let memory = self.memory;
        let mut next = self.first_link().next;
        let later = std::iter::from_fn(move || {
            let id = BufferId(next.checked_sub(1)?);
            // SAFETY: the chain was ours until now, and this iterator hands each buffer on once.
            next = unsafe { memory.link(id).next };
            Some(id)
        });
        std::iter::once(self.buffer).chain(later)
    }
}

/// Lets the processor fetch the line of an address, if it can; nothing is read, so that any address will do.
#[inline]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which accesses nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
