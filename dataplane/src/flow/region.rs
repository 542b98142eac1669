//! Memory for many values of one kind: one mapping at a fixed address, by huge pages where there are any, taken from
//! the kernel as it is used. What traffic looks up at random lies here, so that a look-up is a miss of the cache at
//! most, and not also a walk of the page tables.
//!
//! All values exist from the start, as zeroed memory ([`Zeroed`]), and are not dropped with the region, most of which
//! may never have been touched: what owns something the region's owner takes out before. Nothing is shared.

use crate::packet::memory::HUGE_PAGE;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A type whose values may be all zero bytes.
///
/// # Safety
/// They may, and it is aligned to at most a page.
pub unsafe trait Zeroed {}

/// See the module comment.
pub struct Region<T: Zeroed> {
    values: NonNull<T>,
    count: usize,
    /// What the kernel gave: start and bytes.
    mapped: (*mut c_void, usize),
    owns: PhantomData<T>,
}

// SAFETY: it owns its values and nothing else knows its mapping.
unsafe impl<T: Zeroed + Send> Send for Region<T> {}

impl<T: Zeroed> Region<T> {
    /// So many values, all zero.
    ///
    /// # Panics
    /// If the process has no addresses left: as if an allocation failed.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let bytes = (count * size_of::<T>()).max(1);
        let (huge, align) = if bytes >= HUGE_PAGE { (true, HUGE_PAGE) } else { (false, 4096) };
        let room = bytes.next_multiple_of(4096) + if huge { HUGE_PAGE } else { 0 };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), room, access, MapFlags::PRIVATE | MapFlags::NORESERVE) };
        let start = start.unwrap_or_else(|error| panic!("{room} bytes of memory could not be mapped: {error}"));
        let aligned = start.wrapping_byte_add(start.align_offset(align));
        if huge {
            // SAFETY: the range lies in our mapping. Where there are no huge pages, small ones do.
            let _ = unsafe { madvise(aligned, bytes, Advice::LinuxHugepage) };
        }
        let values = NonNull::new(aligned.cast()).expect("a mapping is not at address zero");
        Self { values, count, mapped: (start, room), owns: PhantomData }
    }
}

impl<T: Zeroed> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds so many values, which are valid from the start, and is ours.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.count) }
    }
}

impl<T: Zeroed> DerefMut for Region<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr(), self.count) }
    }
}

impl<T: Zeroed> Drop for Region<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it is left.
        let _ = unsafe { munmap(self.mapped.0, self.mapped.1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Line([u64; 8]);

    // SAFETY: numbers.
    unsafe impl Zeroed for Line {}

    #[test]
    fn values_are_zero_at_first_and_keep_what_is_written() {
        for count in [1, 1000, HUGE_PAGE / size_of::<Line>() + 1] {
            let mut region: Region<Line> = Region::new(count);
            assert!(region.len() == count && region.iter().all(|line| *line == Line([0; 8])));
            region[0] = Line([7; 8]);
            region[count - 1] = Line([9; 8]);
            assert_eq!(
                (region[count - 1], region.iter().filter(|line| line.0[0] == 0).count()),
                (Line([9; 8]), count.saturating_sub(2),)
            );
        }
    }
}
