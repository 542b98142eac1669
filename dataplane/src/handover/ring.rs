//! A bounded ring from one thread to one other. The writer puts values in and makes them visible together;
//! neither ever waits.
//!
//! Each end writes one number that the other reads: how far it is. Each remembers what it last saw of the
//! other's, and looks again only when that is not enough.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// On a cache line of its own, and that of the line the processor fetches along with it.
#[repr(align(128))]
#[derive(Default)]
struct Position(AtomicUsize);

struct Ring<T> {
    /// A power of two of them. Those from `read` up to `written` hold a value, modulo their number.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Values taken out so far; the reader alone writes it.
    read: Position,
    /// Values made visible so far; the writer alone writes it.
    written: Position,
}

// SAFETY: a slot is the writer's alone until `written` passes it, and the reader's alone from then until
// `read` does; both are stored with Release after, and loaded with Acquire before, the slot is touched.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, position: usize) -> *mut MaybeUninit<T> {
        self.slots[position & (self.slots.len() - 1)].get()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        for position in *self.read.0.get_mut()..*self.written.0.get_mut() {
            // SAFETY: both ends are gone, and these slots hold values that nobody took.
            unsafe { (*self.slot(position)).assume_init_drop() };
        }
    }
}

/// The writing end.
pub struct Writer<T> {
    ring: Arc<Ring<T>>,
    /// Values put in, visible or not.
    put: usize,
    /// Of those, visible.
    published: usize,
    /// `read` when last looked at.
    read: usize,
}

/// The reading end.
pub struct Reader<T> {
    ring: Arc<Ring<T>>,
    /// Values taken out.
    taken: usize,
    /// `written` when last looked at.
    written: usize,
}

/// A ring for so many values, a power of two. No memory is touched before it is used.
///
/// # Panics
/// If it is not a power of two.
#[must_use]
pub fn ring<T>(slots: usize) -> (Writer<T>, Reader<T>) {
    assert!(slots.is_power_of_two(), "{slots} is not a power of two");
    let mut places = Vec::with_capacity(slots);
    // SAFETY: the capacity is there, and neither a cell nor `MaybeUninit` needs its bytes to be anything.
    unsafe { places.set_len(slots) };
    let ring = Arc::new(Ring { slots: places.into(), read: Position::default(), written: Position::default() });
    let reader = Reader { ring: Arc::clone(&ring), taken: 0, written: 0 };
    (Writer { ring, put: 0, published: 0, read: 0 }, reader)
}

impl<T> Writer<T> {
    /// Puts a value in, not visible yet.
    ///
    /// # Errors
    /// The value, if the ring is full.
    pub fn put(&mut self, value: T) -> Result<(), T> {
        if self.put - self.read == self.ring.slots.len() && self.room() == 0 {
            return Err(value);
        }
        // SAFETY: the reader took what was here (`put - read` is less than the number of slots), and does not
        // look before `publish`.
        unsafe { (*self.ring.slot(self.put)).write(value) };
        self.put += 1;
        Ok(())
    }

    /// How many values fit now.
    pub fn room(&mut self) -> usize {
        self.read = self.ring.read.0.load(Ordering::Acquire);
        self.ring.slots.len() - (self.put - self.read)
    }

    /// How many fit at least, without looking at what the other thread writes unless most of the ring seems
    /// to be in use.
    pub fn room_at_least(&mut self) -> usize {
        let known = self.ring.slots.len() - (self.put - self.read);
        if known < self.ring.slots.len() / 2 { self.room() } else { known }
    }

    /// Makes everything visible that was put in; gives whether there was anything.
    pub fn publish(&mut self) -> bool {
        if self.put == self.published {
            return false;
        }
        self.published = self.put;
        self.ring.written.0.store(self.put, Ordering::Release);
        true
    }
}

impl<T> Drop for Writer<T> {
    /// What was put in is the ring's to drop.
    fn drop(&mut self) {
        self.publish();
    }
}

impl<T> Reader<T> {
    /// Takes the oldest value.
    pub fn take(&mut self) -> Option<T> {
        if self.taken == self.written && self.waiting() == 0 {
            return None;
        }
        // SAFETY: the writer made this slot visible (`taken` is less than `written`) and does not touch it
        // again before `read` has passed it.
        let value = unsafe { (*self.ring.slot(self.taken)).assume_init_read() };
        self.taken += 1;
        self.ring.read.0.store(self.taken, Ordering::Release);
        Some(value)
    }

    /// How many values can be taken now.
    pub fn waiting(&mut self) -> usize {
        self.written = self.ring.written.0.load(Ordering::Acquire);
        self.written - self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_in_order_once_they_are_published() {
        let (mut writer, mut reader) = ring(4);
        assert_eq!((writer.publish(), reader.take()), (false, None));
        for round in 0..10 {
            (0..3).for_each(|value| writer.put(round * 3 + value).unwrap());
            assert_eq!(reader.waiting(), 0);
            assert!(writer.publish());
            assert_eq!([reader.take(), reader.take(), reader.take()], [0, 1, 2].map(|value| Some(round * 3 + value)));
            assert_eq!(reader.take(), None);
        }
    }

    #[test]
    fn a_full_ring_refuses() {
        let (mut writer, mut reader) = ring(4);
        (0..4).for_each(|value| writer.put(value).unwrap());
        assert_eq!((writer.put(9), writer.room()), (Err(9), 0));
        writer.publish();
        assert_eq!(reader.take(), Some(0));
        assert_eq!((writer.room_at_least(), writer.put(4), writer.put(5)), (1, Ok(()), Err(5)));
    }

    #[test]
    fn what_is_left_in_it_is_dropped_with_it() {
        let value = Arc::new(());
        let (mut writer, mut reader) = ring(8);
        (0..3).for_each(|_| writer.put(value.clone()).unwrap());
        writer.publish();
        writer.put(value.clone()).unwrap();
        drop(reader.take());
        assert_eq!(Arc::strong_count(&value), 4);
        drop(writer);
        drop(reader);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn two_threads_lose_and_invent_nothing() {
        const VALUES: u64 = 200_000;
        let (mut writer, mut reader) = ring(64);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for value in 0..VALUES {
                    let mut boxed = Box::new(value);
                    while let Err(back) = writer.put(boxed) {
                        boxed = back;
                        writer.publish();
                        std::thread::yield_now();
                    }
                    if value % 7 == 0 {
                        writer.publish();
                    }
                }
            });
            let mut expected = 0;
            while expected < VALUES {
                match reader.take() {
                    Some(value) => {
                        assert_eq!(*value, expected);
                        expected += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
    }
}
