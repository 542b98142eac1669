//! From the hash of a tuple to the connections that may have it: linear probing, no keys stored, so
//! that a lookup costs one line here and one of the record. Never more than half full, so it never grows
//! and never evicts. Both tuples of a connection without NAT have the same hash, so that they lie side by side; deletion moves later entries back instead of leaving graves.

use super::file::advise_huge;

/// A 32-bit hash and an entry number plus one; zero is free.
#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    entry: u32,
}

/// See the module comment.
pub(super) struct Index {
    slots: Box<[Slot]>,
    used: usize,
}

impl Index {
    /// For at most this many entries.
    pub fn new(entries: usize) -> Self {
        let mut slots: Box<[Slot]> = vec![Slot::default(); (entries * 2).next_power_of_two().max(4)].into();
        advise_huge(slots.as_mut_ptr().cast(), size_of_val(&*slots));
        Self { slots, used: 0 }
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The first entry of this hash that `is_it` confirms.
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask();
        loop {
            let slot = self.slots[at];
            if slot.entry == 0 {
                return None;
            }
            if slot.hash == hash && is_it(slot.entry - 1) {
                return Some(slot.entry - 1);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Adds an entry that is not there.
    pub fn insert(&mut self, hash: u32, entry: u32) {
        assert!(self.used * 2 < self.slots.len(), "the index was made for the records there can be");
        let mut at = hash as usize & self.mask();
        while self.slots[at].entry != 0 {
            at = (at + 1) & self.mask();
        }
        self.slots[at] = Slot { hash, entry: entry + 1 };
        self.used += 1;
    }

    /// Removes an entry; nothing happens if it is not there.
    pub fn remove(&mut self, hash: u32, entry: u32) {
        let mask = self.mask();
        let mut hole = hash as usize & mask;
        while self.slots[hole].entry != entry + 1 {
            if self.slots[hole].entry == 0 {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.entry == 0 {
                break;
            }
            // It may move back if its home does not lie between the hole and itself.
            let home = slot.hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
        self.used -= 1;
    }
}
