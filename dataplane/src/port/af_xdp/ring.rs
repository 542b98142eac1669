//! The rings that an AF_XDP socket shares with the kernel (Documentation/networking/af_xdp.rst): a
//! producer index, a consumer index, flags, and a power of two of entries.
//!
//! One side writes entries and then releases the producer index; the other acquires it, reads them,
//! and releases the consumer index. We keep our own side's index here and write it only: what lies in
//! the shared memory is never read back, and the other side's index is bounded by the ring's size
//! before use.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::XdpRingOffset;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A ring as it is mapped; unmapped when dropped.
struct Ring<T> {
    base: NonNull<u8>,
    bytes: usize,
    offsets: [usize; 4],
    size: u32,
    entries: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone; the kernel's side goes through atomics.
unsafe impl<T: Send> Send for Ring<T> {}

const PRODUCER: usize = 0;
const CONSUMER: usize = 1;
const FLAGS: usize = 2;
const ENTRIES: usize = 3;

impl<T: Copy> Ring<T> {
    fn map(socket: &OwnedFd, page_offset: u64, offsets: &XdpRingOffset, size: u32) -> std::io::Result<Self> {
        assert!(size.is_power_of_two(), "rings have a power of two of entries");
        let flags = offsets.flags.ok_or(rustix::io::Errno::NOSYS)?;
        let offsets = [offsets.producer, offsets.consumer, flags, offsets.desc].map(|offset| offset as usize);
        let bytes = offsets[ENTRIES] + size as usize * size_of::<T>();
        let aligned = offsets[..ENTRIES].iter().all(|offset| offset % 4 == 0 && offset + 4 <= bytes);
        if !aligned || offsets[ENTRIES] % align_of::<T>() != 0 {
            return Err(std::io::Error::other("the kernel's AF_XDP rings have an unknown layout"));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED | MapFlags::POPULATE, socket, page_offset)?
        };
        let base = NonNull::new(base.cast()).expect("mmap does not map address zero");
        Ok(Self { base, bytes, offsets, size, entries: PhantomData })
    }

    fn word(&self, which: usize) -> &AtomicU32 {
        // SAFETY: `map` checked that the offset lies in the mapping and is aligned; the mapping lives
        // as long as `self`.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(self.offsets[which]).cast()) }
    }

    /// The place of an index, which runs free and wraps.
    fn entry(&self, index: u32) -> *mut T {
        let place = (index & (self.size - 1)) as usize;
        // SAFETY: the place is less than the size, and `map` mapped that many entries.
        unsafe { self.base.as_ptr().add(self.offsets[ENTRIES]).cast::<T>().add(place) }
    }

    fn needs_wakeup(&self) -> bool {
        self.word(FLAGS).load(Ordering::Relaxed) & 1 != 0
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: `map` mapped exactly this, and no reference into it outlives `self`. It cannot fail
        // for a mapping that exists.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A ring that we fill: fill and transmit.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    next: u32,
    /// Places that were free when the kernel's index was last looked at, less those used since.
    free: u32,
}

impl<T: Copy> Producer<T> {
    pub fn map(socket: &OwnedFd, page_offset: u64, offsets: &XdpRingOffset, size: u32) -> std::io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, page_offset, offsets, size)?, next: 0, free: 0 })
    }

    /// Entries that the kernel has not consumed yet, the unpublished included.
    pub fn pending(&self) -> u32 {
        // An index that is ahead of ours makes this huge: then the ring counts as full.
        self.next.wrapping_sub(self.ring.word(CONSUMER).load(Ordering::Acquire)).min(self.ring.size)
    }

    /// Entries that there is room for.
    pub fn room(&self) -> u32 {
        self.ring.size - self.pending()
    }

    /// Whether there is room for so many. The kernel's index, which it writes from another core, is looked at only if
    /// what is known does not suffice.
    pub fn has_room(&mut self, entries: u32) -> bool {
        if self.free < entries {
            self.free = self.room();
        }
        self.free >= entries
    }

    /// Writes an entry, which the kernel sees at [`Producer::publish`]. Only with [`Producer::room`].
    pub fn push(&mut self, entry: T) {
        // SAFETY: the place is in the mapping (see `entry`), and ours until published.
        unsafe { self.ring.entry(self.next).write_volatile(entry) };
        self.next = self.next.wrapping_add(1);
        self.free = self.free.saturating_sub(1);
    }

    /// Hands everything written to the kernel.
    pub fn publish(&self) {
        self.ring.word(PRODUCER).store(self.next, Ordering::Release);
    }

    /// Whether the kernel sleeps until a system call.
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel fills: receive and completion.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
}

impl<T: Copy> Consumer<T> {
    pub fn map(socket: &OwnedFd, page_offset: u64, offsets: &XdpRingOffset, size: u32) -> std::io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, page_offset, offsets, size)?, next: 0 })
    }

    /// Entries that wait for us.
    pub fn waiting(&self) -> u32 {
        let waiting = self.ring.word(PRODUCER).load(Ordering::Acquire).wrapping_sub(self.next);
        // More than the ring holds cannot be: nothing in it can be trusted then.
        if waiting > self.ring.size { 0 } else { waiting }
    }

    /// Reads the next entry. Only as many as were [`Consumer::waiting`].
    pub fn pop(&mut self) -> T {
        // SAFETY: the place is in the mapping (see `entry`); entries are plain numbers, any bytes are
        // valid.
        let entry = unsafe { self.ring.entry(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    /// Gives the places of everything read back to the kernel.
    pub fn release(&self) {
        self.ring.word(CONSUMER).store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, flags: Some(128), desc: 192 };

    /// A file in place of the socket: both sides map it.
    fn pair() -> (OwnedFd, Producer<u64>, Consumer<u64>) {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let producer = Producer::map(&file, 0, &OFFSETS, 8).unwrap();
        let consumer = Consumer::map(&file, 0, &OFFSETS, 8).unwrap();
        (file, producer, consumer)
    }

    #[test]
    fn entries_come_out_in_order_and_only_when_published() {
        let (_file, mut producer, mut consumer) = pair();
        for round in 0..100u64 {
            let count = round % 9;
            assert_eq!(producer.room(), 8);
            (0..count).for_each(|entry| producer.push(round * 10 + entry));
            assert_eq!((u64::from(producer.pending()), consumer.waiting()), (count, 0));
            producer.publish();
            assert_eq!(u64::from(consumer.waiting()), count);
            (0..count).for_each(|entry| assert_eq!(consumer.pop(), round * 10 + entry));
            assert_eq!(u64::from(producer.pending()), count, "their places are not free yet");
            consumer.release();
        }
    }

    #[test]
    fn indices_that_cannot_be_give_nothing() {
        let (_file, producer, consumer) = pair();
        // What the other side could write to make us read or write too much.
        for claim in [9, 1000, u32::MAX / 2, u32::MAX - 8] {
            consumer.ring.word(PRODUCER).store(claim, Ordering::Relaxed);
            assert_eq!(consumer.waiting(), 0, "{claim} entries in a ring of 8");
            producer.ring.word(CONSUMER).store(claim, Ordering::Relaxed);
            assert_eq!((producer.pending(), producer.room()), (8, 0), "{claim} consumed, none produced");
        }
    }

    #[test]
    fn an_unknown_layout_is_refused() {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        for offsets in [
            XdpRingOffset { flags: None, ..OFFSETS },
            XdpRingOffset { producer: 2, ..OFFSETS },
            XdpRingOffset { consumer: 8192, ..OFFSETS },
            XdpRingOffset { desc: 196, ..OFFSETS },
        ] {
            assert!(Producer::<u64>::map(&file, 0, &offsets, 8).is_err(), "{offsets:?}");
        }
    }
}
