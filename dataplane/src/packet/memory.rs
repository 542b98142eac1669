//! Packet memory: one memfd mapping for the whole process, cut into two classes of buffers, and the
//! depot through which workers exchange them.
//!
//! ```text
//! 0                        chunks × 4 KiB                                  + runs × 65 KiB
//! ├── chunk 0 ── chunk 1 ── … (the AF_XDP UMEM) ──┼── run 0 ── run 1 ── … ──┤
//! ```
//!
//! Invariants:
//! - The mapping lives as long as the process: [`Memory::map`] leaks it on purpose. This is what makes
//!   the pointer in a [`Frame`](super::frame::Frame) valid.
//! - It begins at a huge page and asks for huge pages, of which each covers 512 chunks: else every frame would cost a
//!   walk of the page tables. Where there are none, small pages do.
//! - A buffer has exactly one owner: a free list (a [`Pool`](super::pool::Pool)'s or the depot's), a
//!   `Frame`, or a ring shared with the kernel. Only [`BufferId`]s handed out by a pool exist, they are
//!   not `Copy` outside this module's children, and so two owners never meet in one buffer.

use crate::limits::{CHUNK_BYTES, DEPOT_BATCH, PORTS, RUN_BYTES};
use crate::line::Line;
use crate::port::PortSlot;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};
use std::cell::UnsafeCell;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// What one entry of the processor's page tables covers where memory is mapped by huge pages, bytes.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// The number of a buffer: chunks first, then runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub(super) u32);

/// Which of the two sizes a buffer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// [`CHUNK_BYTES`]
    Chunk,
    /// [`RUN_BYTES`]
    Run,
}

/// Where a frame goes on after a buffer: the side descriptor's tail, see `Frame`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// The next buffer's number plus one; 0 ends the chain.
    pub next: u32,
    /// Where this segment's bytes begin in its buffer, and how many there are.
    pub offset: u32,
    pub length: u32,
}

/// Where workers leave free buffers for each other, by class.
struct Depot {
    batches: [Mutex<Vec<Vec<BufferId>>>; 2],
    /// How many there are.
    free: [AtomicUsize; 2],
}

/// The mapping, the side descriptors and the depot.
pub struct Memory {
    base: NonNull<u8>,
    file: OwnedFd,
    chunks: usize,
    runs: usize,
    /// One per buffer, touched only by the buffer's owner.
    links: Box<[UnsafeCell<Link>]>,
    depot: Line<Depot>,
    /// Buffers that frames of each port slot hold, less what pools have not settled yet.
    held: Box<[Line<[AtomicI32; 2]>]>,
}

// SAFETY: the mapping and the links are reached only through a `Frame` or `BufferId`, which have one
// owner at a time (module comment); everything else is synchronised.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Memory({} chunks, {} runs)", self.chunks, self.runs)
    }
}

impl Memory {
    /// Maps packet memory of this many chunks and runs. It is never unmapped.
    ///
    /// # Errors
    /// What the kernel says, usually that there is not enough memory.
    pub fn map(chunks: usize, runs: usize) -> std::io::Result<&'static Self> {
        let file = memfd_create("weft-packets", MemfdFlags::CLOEXEC)?;
        let bytes = chunks * CHUNK_BYTES + runs * RUN_BYTES;
        ftruncate(&file, bytes as u64)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses; it is larger by a huge page, so that ours can
        // begin where one does. The second replaces a part of it by our own file.
        let base = unsafe {
            let room = mmap_anonymous(std::ptr::null_mut(), bytes + HUGE_PAGE, ProtFlags::empty(), MapFlags::PRIVATE)?;
            let aligned = room.byte_add(room.align_offset(HUGE_PAGE));
            mmap(aligned, bytes, access, MapFlags::SHARED | MapFlags::FIXED, &file, 0)?
        };
        // SAFETY: the mapping is ours. Where there are no huge pages, small ones do: hence no error.
        let _ = unsafe { madvise(base, bytes, Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast::<u8>()).expect("mmap does not map address zero");
        let batches = |first: usize, count: usize| {
            let ids: Vec<BufferId> = (first..first + count).map(|id| BufferId(id as u32)).collect();
            Mutex::new(ids.chunks(DEPOT_BATCH).map(<[BufferId]>::to_vec).collect())
        };
        Ok(Box::leak(Box::new(Self {
            base,
            file,
            chunks,
            runs,
            links: (0..chunks + runs).map(|_| UnsafeCell::new(Link::default())).collect(),
            depot: Line::new(Depot {
                batches: [batches(0, chunks), batches(chunks, runs)],
                free: [AtomicUsize::new(chunks), AtomicUsize::new(runs)],
            }),
            held: (0..PORTS).map(|_| Default::default()).collect(),
        })))
    }

    /// The file behind the mapping, to share it with a vhost-user peer or a successor.
    #[must_use]
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// The chunks as one area, for registration as an AF_XDP UMEM: start and bytes. The area is
    /// aligned to a page, and chunk `n` begins at `n * CHUNK_BYTES`.
    #[must_use]
    pub fn umem(&self) -> (NonNull<u8>, usize) {
        (self.base, self.chunks * CHUNK_BYTES)
    }

    /// How many buffers there are of a class.
    #[must_use]
    pub fn total(&self, class: Class) -> usize {
        match class {
            Class::Chunk => self.chunks,
            Class::Run => self.runs,
        }
    }

    /// How many lie in the depot (those in workers' caches are not counted as free).
    #[must_use]
    pub fn free(&self, class: Class) -> usize {
        self.depot.free[class as usize].load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn class(&self, id: BufferId) -> Class {
        if (id.0 as usize) < self.chunks { Class::Chunk } else { Class::Run }
    }

    #[inline]
    pub(super) fn start(&self, id: BufferId) -> NonNull<u8> {
        let id = id.0 as usize;
        let offset = if id < self.chunks {
            id * CHUNK_BYTES
        } else {
            assert!(id < self.chunks + self.runs, "buffer {id} does not exist");
            self.chunks * CHUNK_BYTES + (id - self.chunks) * RUN_BYTES
        };
        // SAFETY: the offset lies within the mapping by the two cases above.
        unsafe { self.base.add(offset) }
    }

    /// The side descriptor of a buffer.
    ///
    /// # Safety
    /// The caller owns the buffer, or the frame it belongs to.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn link(&self, id: BufferId) -> &mut Link {
        // SAFETY: the owner is the only one who touches it; the index is checked.
        unsafe { &mut *self.links[id.0 as usize].get() }
    }

    /// Changes how many buffers the frames of a port hold; gives how many that is then.
    pub(super) fn change_held(&self, port: PortSlot, class: Class, change: i32) -> i32 {
        self.held[port.index()][class as usize].fetch_add(change, Ordering::Relaxed) + change
    }

    pub(super) fn take_batch(&self, class: Class) -> Option<Vec<BufferId>> {
        let batch = self.depot.batches[class as usize].lock().expect("no panic under the depot's lock").pop()?;
        self.depot.free[class as usize].fetch_sub(batch.len(), Ordering::Relaxed);
        Some(batch)
    }

    pub(super) fn give_batch(&self, class: Class, batch: Vec<BufferId>) {
        self.depot.free[class as usize].fetch_add(batch.len(), Ordering::Relaxed);
        self.depot.batches[class as usize].lock().expect("no panic under the depot's lock").push(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::share_a_line;

    /// What is read for every packet (where the mapping is, how it is cut) is not beside what workers write now and
    /// then, nor one port's count beside another's.
    #[test]
    fn what_workers_write_lies_in_lines_of_its_own() {
        let memory = Memory::map(64, 0).unwrap();
        assert!(!share_a_line(&memory.depot, &memory.base) && !share_a_line(&memory.depot, &memory.chunks));
        assert!(!share_a_line(&memory.depot, &memory.links) && !share_a_line(&memory.depot, &memory.held));
        assert!(!share_a_line(&memory.held[1], &memory.held[2]));
    }
}
