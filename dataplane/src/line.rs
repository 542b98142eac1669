//! Cache lines. What workers write, or read while others write beside it, lies in lines of its own, so that a worker
//! never waits for a line because of something that it does not use.

use std::ops::{Deref, DerefMut};

/// Bytes that processors fetch together: a line, and the one beside it that many fetch as well.
pub const LINES: usize = 128;

/// A value that shares its cache lines with no other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Line<T>(T);

const _: () = assert!(align_of::<Line<u8>>() == LINES && size_of::<Line<u8>>() == LINES);

impl<T> Line<T> {
    /// The value in lines of its own.
    pub const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for Line<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Line<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// For tests: the lines that a value lies in.
#[cfg(test)]
pub fn lines_of<T>(value: &T) -> std::ops::RangeInclusive<usize> {
    let start = std::ptr::from_ref(value) as usize;
    start / LINES..=(start + size_of::<T>().max(1) - 1) / LINES
}

/// Whether two values share a line.
#[cfg(test)]
pub fn share_a_line<A, B>(one: &A, other: &B) -> bool {
    let (one, other) = (lines_of(one), lines_of(other));
    one.start() <= other.end() && other.start() <= one.end()
}
