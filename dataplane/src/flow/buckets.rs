//! A hash table from 64-bit hashes to 32-bit entry numbers, made for probing: one cache line a bucket,
//! eight slots of (signature, number). It stores no keys; who asks verifies each candidate, so a stale
//! slot costs a comparison and never a wrong answer.
//!
//! It grows by doubling up to a limit. A full bucket at the limit replaces one of its slots.

const SLOTS: usize = 8;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    signatures: [u32; SLOTS],
    /// Entry numbers plus one; 0 is free.
    entries: [u32; SLOTS],
}

const EMPTY: Bucket = Bucket { signatures: [0; SLOTS], entries: [0; SLOTS] };

/// See the module comment.
pub struct Buckets {
    buckets: Vec<Bucket>,
    used: usize,
    limit: usize,
}

fn signature(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Buckets {
    /// A table that grows to at most `limit` buckets, a power of two.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        assert!(limit.is_power_of_two());
        Self { buckets: vec![EMPTY; 16.min(limit)], used: 0, limit }
    }

    fn index(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Entries that may have this hash.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let bucket = &self.buckets[self.index(hash)];
        let wanted = signature(hash);
        (0..SLOTS)
            .filter(move |&slot| bucket.signatures[slot] == wanted && bucket.entries[slot] != 0)
            .map(|slot| bucket.entries[slot] - 1)
    }

    /// Adds an entry. Gives the entry it replaced, if it had to. `hash_of` gives the full hash of an
    /// entry when the table grows; entries without one are forgotten.
    pub fn insert(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> Option<u64>) -> Option<u32> {
        let full = |table: &Self| table.buckets[table.index(hash)].entries.iter().all(|&entry| entry != 0);
        while self.buckets.len() < self.limit && (self.used >= self.buckets.len() * SLOTS / 2 || full(self)) {
            self.grow(&hash_of);
        }
        let index = self.index(hash);
        let bucket = &mut self.buckets[index];
        let free = bucket.entries.iter().position(|&entry| entry == 0);
        let slot = free.unwrap_or((hash >> 29) as usize % SLOTS);
        let replaced = bucket.entries[slot].checked_sub(1);
        bucket.signatures[slot] = signature(hash);
        bucket.entries[slot] = entry + 1;
        if replaced.is_none() {
            self.used += 1;
        }
        replaced
    }

    fn grow(&mut self, hash_of: &impl Fn(u32) -> Option<u64>) {
        let old = std::mem::take(&mut self.buckets);
        self.buckets = vec![EMPTY; old.len() * 2];
        self.used = 0;
        for bucket in &old {
            for entry in bucket.entries.iter().filter_map(|entry| entry.checked_sub(1)) {
                if let Some(hash) = hash_of(entry) {
                    let index = self.index(hash);
                    let bucket = &mut self.buckets[index];
                    if let Some(slot) = bucket.entries.iter().position(|&entry| entry == 0) {
                        bucket.signatures[slot] = signature(hash);
                        bucket.entries[slot] = entry + 1;
                        self.used += 1;
                    }
                }
            }
        }
    }

    /// Removes an entry; nothing happens if it is not there.
    pub fn remove(&mut self, hash: u64, entry: u32) {
        let index = self.index(hash);
        let bucket = &mut self.buckets[index];
        if let Some(slot) = bucket.entries.iter().position(|&own| own == entry + 1) {
            bucket.entries[slot] = 0;
            self.used -= 1;
        }
    }

    /// Slots in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether no slot is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes that it takes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets.fill(EMPTY);
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> u64 {
        u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn finds_what_was_put_in_through_growth() {
        let mut table = Buckets::new(1024);
        let lost: Vec<u32> =
            (0..3000).filter_map(|entry| table.insert(hash(entry), entry, |entry| Some(hash(entry)))).collect();
        let found = (0..3000).filter(|&entry| table.candidates(hash(entry)).any(|found| found == entry)).count();
        assert!(found >= 2990, "{found} found, {} replaced", lost.len());
        for entry in 0..3000 {
            table.remove(hash(entry), entry);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_bucket_replaces_and_says_what() {
        let mut table = Buckets::new(1);
        for entry in 0..8 {
            assert_eq!(table.insert(5, entry, |_| Some(5)), None);
        }
        let replaced = table.insert(5, 8, |_| Some(5)).unwrap();
        assert!(replaced < 8 && table.candidates(5).all(|entry| entry != replaced));
    }
}
