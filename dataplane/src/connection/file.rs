//! The file of records: a page of header, then the records, mapped whole.
//!
//! Only one process has it at a time (an exclusive lock on the file, which ends with the process), so the
//! mapping is this process's own memory while it is open. All of it is allocated at once: a full tmpfs is
//! an error here and not a bus error on the fast path.

use super::record::{LAYOUT_VERSION, Record};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAGIC: [u8; 8] = *b"WEFTCONN";
const HEADER_BYTES: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    /// Written last.
    magic: [u8; 8],
    version: u32,
    record_bytes: u32,
    records: u32,
    reserved: u32,
}

/// Why the file of connections cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another weft-switch: stop that one first, or name another file", .0.display())]
    InUse(PathBuf),
    /// It is something else.
    #[error("{} is not a file of connections, and is left alone: move it away, or name another file", .0.display())]
    NotOurs(PathBuf),
    /// The system refuses.
    #[error("{}: {} (it needs {} bytes on a tmpfs)", .0.display(), .1, .2)]
    System(PathBuf, std::io::Error, u64),
}

/// See the module comment.
pub(super) struct RecordFile {
    base: NonNull<u8>,
    bytes: usize,
    records: usize,
    /// Holds the lock; without a path there is no file.
    descriptor: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to this value alone (module comment) and is reached only through its
// borrows; nothing of it is bound to a thread.
unsafe impl Send for RecordFile {}

impl RecordFile {
    /// Opens or makes the file, for at least this many records; without a path it is memory of this
    /// process only. Also gives a sentence if what was there had to be given up.
    pub fn open(path: Option<&Path>, records: usize) -> Result<(Self, Option<String>), OpenError> {
        let name = path.map_or_else(|| PathBuf::from("(memory)"), Path::to_path_buf);
        let wanted = bytes_of(records) as u64;
        let failed = |errno: Errno| OpenError::System(name.clone(), errno.into(), wanted);
        let Some(path) = path else { return Ok((Self::in_memory(records).map_err(failed)?, None)) };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let descriptor = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::InUse(name)),
            Err(errno) => return Err(failed(errno)),
        }
        let found = rustix::fs::fstat(&descriptor).map_err(failed)?.st_size as u64;
        let mut header = Header::new_zeroed();
        let read = rustix::io::pread(&descriptor, header.as_mut_bytes(), 0).map_err(failed)?;
        // A file whose making was cut short has a header of zeros.
        let blank = header.as_bytes().iter().all(|&byte| byte == 0);
        if !blank && (header.magic != MAGIC || read < size_of::<Header>()) && header.magic != [0; 8] {
            return Err(OpenError::NotOurs(name));
        }
        let mut given_up = String::new();
        if header.magic == MAGIC {
            if header.version != LAYOUT_VERSION || header.record_bytes as usize != size_of::<Record>() {
                let _ = write!(
                    given_up,
                    "{} holds connections of layout {} ({} bytes each), this program knows layout {LAYOUT_VERSION} ({} bytes): \
                     they are given up, and it starts with none",
                    name.display(),
                    header.version,
                    header.record_bytes,
                    size_of::<Record>()
                );
            } else if found < bytes_of(header.records as usize) as u64 {
                let _ = write!(
                    given_up,
                    "{} was cut short to {found} bytes: its connections are given up, and it starts with none",
                    name.display()
                );
            }
        }
        let kept = header.magic == MAGIC && given_up.is_empty();
        if !kept {
            rustix::fs::ftruncate(&descriptor, 0).map_err(failed)?;
        }
        let records = if kept { records.max(header.records as usize) } else { records };
        let bytes = bytes_of(records);
        rustix::fs::fallocate(&descriptor, FallocateFlags::empty(), 0, bytes as u64).map_err(failed)?;
        // SAFETY: a new mapping at an address the kernel chooses.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &descriptor, 0)
        };
        let base = NonNull::new(base.map_err(failed)?.cast::<u8>()).expect("mmap does not map address zero");
        let mut file = Self { base, bytes, records, descriptor: Some(descriptor) };
        let record_bytes = size_of::<Record>() as u32;
        let header = file.header();
        (header.version, header.record_bytes, header.records) = (LAYOUT_VERSION, record_bytes, records as u32);
        compiler_fence(Ordering::SeqCst);
        header.magic = MAGIC;
        Ok((file, Some(given_up).filter(|sentence| !sentence.is_empty())))
    }

    /// Records of this process only.
    fn in_memory(records: usize) -> Result<Self, Errno> {
        let bytes = bytes_of(records);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::PRIVATE) }?;
        advise_huge(base.cast(), bytes);
        let base = NonNull::new(base.cast::<u8>()).expect("mmap does not map address zero");
        Ok(Self { base, bytes, records, descriptor: None })
    }

    fn header(&mut self) -> &mut Header {
        // SAFETY: the mapping begins with a page of header, whose type takes any bytes; it is aligned to a
        // page, ours alone (module comment), and borrowed as long as `self`.
        unsafe { self.base.cast::<Header>().as_mut() }
    }

    /// All of them, live or not.
    pub fn records(&self) -> &[Record] {
        // SAFETY: `bytes_of(self.records)` bytes are mapped; the records begin at a page, which is aligned
        // enough, and any bytes are a `Record` (zerocopy's `FromBytes`); for the borrow see `header`.
        unsafe { std::slice::from_raw_parts(self.base.add(HEADER_BYTES).cast::<Record>().as_ptr(), self.records) }
    }

    /// Likewise, to be changed.
    pub fn records_mut(&mut self) -> &mut [Record] {
        // SAFETY: as in `records`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(HEADER_BYTES).cast::<Record>().as_ptr(), self.records) }
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        // Closing alone is not enough: a process that another thread is just forking holds the same lock
        // until it executes something else.
        if let Some(descriptor) = &self.descriptor {
            let _ = rustix::fs::flock(descriptor, FlockOperation::Unlock);
        }
    }
}

/// Asks for huge pages in the part of our memory that they can cover, and for all of them at once: what is looked up at
/// random should not miss the page tables as well, and no packet should wait until a page is zeroed.
pub(super) fn advise_huge(start: *mut u8, bytes: usize) {
    const HUGE: usize = 2 << 20;
    let before = start.align_offset(HUGE);
    if bytes >= before.saturating_add(HUGE) {
        let (start, bytes) = (start.wrapping_add(before), (bytes - before) / HUGE * HUGE);
        // SAFETY: the range lies within memory that the caller owns; what it holds stays. Without huge pages small
        // ones do.
        let _ = unsafe {
            madvise(start.cast(), bytes, Advice::LinuxHugepage)
                .and_then(|()| madvise(start.cast(), bytes, Advice::LinuxPopulateWrite))
        };
    }
}

fn bytes_of(records: usize) -> usize {
    HEADER_BYTES + records * size_of::<Record>()
}
