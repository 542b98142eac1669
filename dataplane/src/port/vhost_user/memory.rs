//! Memory of a front end: a guest's, mapped from the files that the front end hands over. With [`bus_error`] the only
//! place of this port with `unsafe`.
//!
//! Nothing in there is believed, and it changes while it is looked at. So:
//! - There are no references into it. It is read and written by volatile words and atomics only, and what is read is a
//!   copy in our own memory, that is checked and then used: nothing is looked at twice.
//! - Every address is looked up among the regions at each use; a length that leaves them is an error ([`Outside`]).
//! - A region lies in its file when it is mapped. A file that is cut short later does not end the process: see
//!   [`bus_error`].
//!
//! Regions are shared: a queue that still uses a table of memory keeps its mappings alive.
//!
//! [`bus_error`]: super::bus_error

use super::bus_error::Watched;
use crate::limits::vhost_user::{LARGEST_RING, REGIONS};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// An address or length that lies in no region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it lies outside the memory that the front end shares")]
pub struct Outside;

/// Where a region is to the guest, to the front end, and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The guest's physical address: what descriptors name.
    pub guest: u64,
    /// The front end's own address: what the places of rings are told by.
    pub user: u64,
    /// Bytes.
    pub bytes: u64,
    /// Where it begins in the file.
    pub offset: u64,
}

/// A mapped region.
#[derive(Debug)]
pub struct Region {
    place: Place,
    /// The file from its beginning: that of huge pages maps whole pages only.
    base: NonNull<u8>,
    mapped: usize,
    /// Taken back before the mapping is.
    watched: Option<Watched>,
}

// SAFETY: the mapping belongs to this value alone, and is reached by volatile accesses and atomics only.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps a region of a file.
    ///
    /// # Errors
    /// A sentence: it is not all in the file, its addresses wrap, or the kernel does not map it.
    pub fn map(place: Place, file: &OwnedFd) -> Result<Self, String> {
        let end = place.offset.checked_add(place.bytes);
        let inside = [place.guest, place.user].iter().all(|start| start.checked_add(place.bytes).is_some());
        let end =
            end.filter(|_| inside && place.bytes > 0).ok_or("a region of memory is empty, or its addresses wrap")?;
        let found =
            rustix::fs::fstat(file).map_err(|error| format!("the memory's file cannot be looked at: {error}"))?;
        if u64::try_from(found.st_size).is_ok_and(|size| size < end) {
            return Err(format!("a region of memory ends at byte {end} of a file of {} bytes", found.st_size));
        }
        let page = u64::try_from(found.st_blksize).unwrap_or(0).max(4096);
        let mapped = end.checked_next_multiple_of(page).and_then(|bytes| usize::try_from(bytes).ok());
        let mapped = mapped.ok_or("a region of memory is larger than memory can be")?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base =
            unsafe { mmap(std::ptr::null_mut(), mapped, protection, MapFlags::SHARED | MapFlags::NORESERVE, file, 0) };
        let base = base.map_err(|error| format!("memory of {mapped} bytes cannot be mapped: {error}"))?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap does not map address zero");
        let mut region = Self { place, base, mapped, watched: None };
        region.watched = Some(Watched::new(base.as_ptr() as usize, mapped).ok_or("too much memory is shared already")?);
        Ok(region)
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its bytes from `offset` on: where, and how many. `offset` is less than the region's size.
    fn from(&self, offset: u64) -> (*mut u8, usize) {
        assert!(offset < self.place.bytes, "the caller looked the address up");
        // SAFETY: `map` checked that place.offset + place.bytes lies within the mapping.
        let start = unsafe { self.base.as_ptr().add((self.place.offset + offset) as usize) };
        (start, (self.place.bytes - offset) as usize)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.watched = None;
        // SAFETY: `map` mapped exactly this, and whoever points into it holds the region. It cannot fail for a
        // mapping that exists.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

/// All memory that a front end shares.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Arc<Region>>,
}

impl GuestMemory {
    /// Its regions.
    #[must_use]
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Adds a region.
    ///
    /// # Errors
    /// A sentence: there are too many, or it overlaps one that is there.
    pub fn add(&mut self, region: Region) -> Result<(), String> {
        if self.regions.len() >= REGIONS {
            return Err(format!("more than {REGIONS} regions of memory"));
        }
        let apart =
            |one: u64, other: u64, own: &Region| one + region.place.bytes <= other || other + own.place.bytes <= one;
        let fits = |own: &Arc<Region>| {
            apart(region.place.guest, own.place.guest, own) && apart(region.place.user, own.place.user, own)
        };
        if !self.regions.iter().all(fits) {
            return Err("regions of memory overlap".to_owned());
        }
        self.regions.push(Arc::new(region));
        Ok(())
    }

    /// Removes the region of these addresses; false: there is none.
    pub fn remove(&mut self, place: &Place) -> bool {
        let same = |own: &Arc<Region>| {
            let own = own.place;
            (own.guest, own.user, own.bytes) == (place.guest, place.user, place.bytes)
        };
        let before = self.regions.len();
        self.regions.retain(|own| !same(own));
        self.regions.len() < before
    }

    /// Whether a file was cut short under its mapping: what is read there since are zeroes.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.watched.as_ref().is_some_and(Watched::is_lost))
    }

    /// The longest stretch from a guest's address on that lies in one region, of at most `length` bytes.
    fn stretch(&self, address: u64, length: usize) -> Result<(*mut u8, usize), Outside> {
        for region in &self.regions {
            let offset = address.wrapping_sub(region.place.guest);
            if offset < region.place.bytes {
                let (start, bytes) = region.from(offset);
                return Ok((start, bytes.min(length)));
            }
        }
        Err(Outside)
    }

    /// Copies a guest's bytes into ours.
    ///
    /// # Errors
    /// Not all of them are in its memory.
    pub fn read(&self, mut address: u64, mut out: &mut [u8]) -> Result<(), Outside> {
        while !out.is_empty() {
            let (start, bytes) = self.stretch(address, out.len())?;
            let (now, later) = out.split_at_mut(bytes);
            // SAFETY: `stretch` gives bytes of a region, which `self` keeps mapped.
            unsafe { read_volatile(start, now) };
            out = later;
            address = address.wrapping_add(bytes as u64);
        }
        Ok(())
    }

    /// Copies our bytes into the guest's.
    ///
    /// # Errors
    /// Not all of them would be in its memory; some may be written.
    pub fn write(&self, mut address: u64, mut bytes: &[u8]) -> Result<(), Outside> {
        while !bytes.is_empty() {
            let (start, count) = self.stretch(address, bytes.len())?;
            let (now, later) = bytes.split_at(count);
            // SAFETY: as in `read`.
            unsafe { write_volatile(start, now) };
            bytes = later;
            address = address.wrapping_add(count as u64);
        }
        Ok(())
    }

    /// The part of a ring that the front end has at one of its own addresses.
    ///
    /// # Errors
    /// It is not all in one region, or not aligned.
    pub fn part(&self, user: u64, bytes: usize, alignment: usize) -> Result<Part, Outside> {
        for region in &self.regions {
            let offset = user.wrapping_sub(region.place.user);
            if offset < region.place.bytes {
                let (start, left) = region.from(offset);
                if bytes > left || !(start as usize).is_multiple_of(alignment) || bytes > LARGEST_RING * 16 {
                    return Err(Outside);
                }
                return Ok(Part { start: NonNull::new(start).ok_or(Outside)?, bytes, _region: region.clone() });
            }
        }
        Err(Outside)
    }
}

/// Copies to our memory.
///
/// # Safety
/// `out.len()` bytes from `start` on are mapped.
unsafe fn read_volatile(start: *const u8, out: &mut [u8]) {
    let mut done = 0;
    let mut words = out.chunks_exact_mut(32);
    for block in &mut words {
        // SAFETY: the caller's; packed, so that no alignment is needed.
        let read = unsafe { std::ptr::read_volatile(start.add(done).cast::<Block>()) };
        // Field by field: a reference into a packed structure would not be aligned.
        let Block(read) = read;
        for (place, word) in block.chunks_exact_mut(8).zip(read) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        done += 32;
    }
    for byte in words.into_remainder() {
        // SAFETY: the caller's.
        *byte = unsafe { std::ptr::read_volatile(start.add(done)) };
        done += 1;
    }
}

/// Copies from our memory.
///
/// # Safety
/// As [`read_volatile`].
unsafe fn write_volatile(start: *mut u8, bytes: &[u8]) {
    let mut done = 0;
    let words = bytes.chunks_exact(32);
    let rest = words.remainder();
    for block in words {
        let word = |at: usize| u64::from_ne_bytes(block[at..at + 8].try_into().expect("8 bytes"));
        let block = Block([word(0), word(8), word(16), word(24)]);
        // SAFETY: the caller's.
        unsafe { std::ptr::write_volatile(start.add(done).cast::<Block>(), block) };
        done += 32;
    }
    for &byte in rest {
        // SAFETY: the caller's.
        unsafe { std::ptr::write_volatile(start.add(done), byte) };
        done += 1;
    }
}

/// What is copied at a time.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Block([u64; 4]);

/// A part of a ring: its bytes are all mapped, and the guest writes them as it likes.
#[derive(Debug)]
pub struct Part {
    start: NonNull<u8>,
    bytes: usize,
    _region: Arc<Region>,
}

// SAFETY: it points into a region that it holds, and reaches it by volatile accesses and atomics only.
unsafe impl Send for Part {}

impl Part {
    /// The bytes from `offset` on. The offset is ours: computed from a ring's size, which the part has room for.
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of a part of {}", self.bytes);
        // SAFETY: within the part, which `GuestMemory::part` checked against its region.
        unsafe { self.start.as_ptr().add(offset) }
    }

    fn word(&self, offset: usize) -> &AtomicU16 {
        let place = self.at(offset, 2);
        assert!((place as usize).is_multiple_of(2), "parts of rings are aligned, and so are words in them");
        // SAFETY: mapped as long as `self`, aligned; the guest's accesses are not ours to judge.
        unsafe { AtomicU16::from_ptr(place.cast()) }
    }

    /// A word; what the guest wrote before it is seen after it.
    pub fn load(&self, offset: usize) -> u16 {
        u16::from_le(self.word(offset).load(Ordering::Acquire))
    }

    /// Stores a word; what we wrote before it is seen by who sees it.
    pub fn store(&self, offset: usize, value: u16) {
        self.word(offset).store(value.to_le(), Ordering::Release);
    }

    /// A copy of some bytes.
    pub fn copy<const BYTES: usize>(&self, offset: usize) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        // SAFETY: `at` checks.
        unsafe { read_volatile(self.at(offset, BYTES), &mut out) };
        out
    }

    /// Writes some bytes.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: `at` checks.
        unsafe { write_volatile(self.at(offset, bytes.len()), bytes) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    /// A file of so many bytes, as a front end would share it.
    pub fn file(bytes: u64) -> OwnedFd {
        let file = memfd_create("weft-test-guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, bytes).unwrap();
        file
    }

    fn two_regions() -> (GuestMemory, OwnedFd) {
        let file = file(0x4000);
        let mut memory = GuestMemory::default();
        // Neighbours for the guest, not in the file.
        for place in [
            Place { guest: 0x10000, user: 0x7000_0000, bytes: 0x1000, offset: 0x2000 },
            Place { guest: 0x11000, user: 0x7100_0000, bytes: 0x800, offset: 0 },
        ] {
            memory.add(Region::map(place, &file).unwrap()).unwrap();
        }
        (memory, file)
    }

    #[test]
    fn bytes_come_back_across_regions_and_nothing_outside_is_reached() {
        let (memory, _file) = two_regions();
        let bytes: Vec<u8> = (0..200_u8).collect();
        memory.write(0x11000 - 77, &bytes).unwrap();
        let mut read = vec![0; 200];
        memory.read(0x11000 - 77, &mut read).unwrap();
        assert_eq!(read, bytes);
        let mut byte = [0];
        for address in [0, 0xffff, 0x11800, u64::MAX] {
            assert_eq!(memory.read(address, &mut byte), Err(Outside), "{address:#x}");
        }
        assert_eq!(memory.read(0x11800 - 100, &mut read), Err(Outside));
        assert_eq!(memory.write(0x10000 - 1, &read), Err(Outside));
        assert!(memory.read(0x117ff, &mut byte).is_ok());
    }

    #[test]
    fn regions_that_cannot_be_are_refused() {
        let file = file(0x4000);
        let place = Place { guest: 0, user: 0, bytes: 0x1000, offset: 0x3000 };
        for (what, wrong) in [
            ("beyond the file", Place { offset: 0x3001, ..place }),
            ("nothing", Place { bytes: 0, ..place }),
            ("guest addresses that wrap", Place { guest: u64::MAX - 1, ..place }),
            ("an offset that wraps", Place { offset: u64::MAX, ..place }),
        ] {
            assert!(Region::map(wrong, &file).is_err(), "{what}");
        }
        let mut memory = GuestMemory::default();
        memory.add(Region::map(place, &file).unwrap()).unwrap();
        let overlapping = Place { guest: 0xfff, user: 0x10000, ..place };
        assert!(memory.add(Region::map(overlapping, &file).unwrap()).is_err());
        assert!(memory.remove(&place) && !memory.remove(&place));
    }

    #[test]
    fn parts_of_rings_are_aligned_and_lie_in_one_region() {
        let (memory, _file) = two_regions();
        assert!(memory.part(0x7000_0000, 0x1000, 16).is_ok());
        assert!(memory.part(0x7000_0008, 16, 16).is_err(), "not aligned");
        assert!(memory.part(0x7000_0ff0, 32, 16).is_err(), "leaves its region");
        assert!(memory.part(0x6fff_fff0, 16, 16).is_err(), "before it");
        let part = memory.part(0x7000_0100, 64, 4).unwrap();
        part.store(2, 0x1234);
        part.put(4, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut seen = [0; 12];
        memory.read(0x10100, &mut seen).unwrap();
        assert_eq!(seen, [0, 0, 0x34, 0x12, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((part.load(2), part.copy::<4>(8)), (0x1234, [5, 6, 7, 8]));
    }

    /// The process lives, reads zeroes, and knows.
    #[test]
    fn a_file_that_is_cut_short_ends_nothing() {
        let (memory, file) = two_regions();
        memory.write(0x10000, &[7; 64]).unwrap();
        assert!(!memory.is_lost());
        ftruncate(&file, 0).unwrap();
        let mut read = [1; 64];
        memory.read(0x10000, &mut read).unwrap();
        assert_eq!(read, [0; 64]);
        assert!(memory.is_lost());
        memory.write(0x10000, &[7; 64]).unwrap();
        drop(memory);
        // Others' files work on.
        let (memory, _file) = two_regions();
        memory.write(0x10000, &[7; 64]).unwrap();
        assert!(!memory.is_lost());
    }
}
