//! A hash table from 64-bit hashes to 32-bit entry numbers, made for probing: one cache line a bucket,
//! eight slots of (signature, number). It stores no keys; who asks verifies each candidate, so a stale
//! slot costs a comparison and never a wrong answer.
//!
//! An entry whose bucket is full goes to the bucket beside it, with which it makes a pair of lines, and the bucket
//! remembers that some did: only then is its neighbour asked. It grows by doubling up to a limit; then a full pair
//! replaces one of its slots.
//!
//! Who has several hashes fetches all buckets ahead ([`Buckets::prefetch`]), so that their misses overlap.

use super::region::{Region, Zeroed};
use crate::packet::frame::prefetch;

const SLOTS: usize = 8;

/// A bit of a bucket's first entry number, which no number has.
const SPILLED: u32 = 1 << 31;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 is free.
    signatures: [u32; SLOTS],
    entries: [u32; SLOTS],
}

// SAFETY: numbers, of which zero means free.
unsafe impl Zeroed for Bucket {}

impl Bucket {
    /// The slots with this signature, a bit each.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn with(&self, signature: u32) -> u32 {
        use std::arch::x86_64::{_mm_castsi128_ps, _mm_cmpeq_epi32, _mm_load_si128, _mm_movemask_ps, _mm_set1_epi32};
        let half = |at: usize| {
            // SAFETY: SSE2 is part of the architecture, and the bucket and both halves are aligned to 16 bytes.
            unsafe {
                let own = _mm_load_si128(self.signatures.as_ptr().add(at).cast());
                let equal = _mm_cmpeq_epi32(own, _mm_set1_epi32(signature as i32));
                _mm_movemask_ps(_mm_castsi128_ps(equal)) as u32
            }
        };
        half(0) | half(SLOTS / 2) << (SLOTS / 2)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn with(&self, signature: u32) -> u32 {
        let bits = self.signatures.iter().enumerate().map(|(slot, &own)| u32::from(own == signature) << slot);
        bits.fold(0, |all, bit| all | bit)
    }

    #[inline]
    fn entry(&self, slot: usize) -> u32 {
        self.entries[slot] & !SPILLED
    }

    /// Whether entries of this bucket lie, or lay, in the one beside it.
    #[inline]
    fn has_spilled(&self) -> bool {
        self.entries[0] & SPILLED != 0
    }

    fn set(&mut self, slot: usize, hash: u64, entry: u32) {
        self.signatures[slot] = signature(hash);
        self.entries[slot] = entry | (self.entries[slot] & SPILLED);
    }

    fn free(&self) -> Option<usize> {
        self.signatures.iter().position(|&own| own == 0)
    }
}

/// See the module comment.
pub struct Buckets {
    buckets: Region<Bucket>,
    used: usize,
    limit: usize,
}

#[inline]
fn signature(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

impl Buckets {
    /// A table that grows to at most `limit` buckets, a power of two.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        assert!(limit.is_power_of_two());
        Self { buckets: Region::new(16.min(limit)), used: 0, limit }
    }

    #[inline]
    fn index(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// The bucket beside this one.
    #[inline]
    fn beside(&self, index: usize) -> usize {
        (index ^ 1) & (self.buckets.len() - 1)
    }

    /// Lets the processor fetch the bucket of this hash.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.buckets[self.index(hash)]);
    }

    /// The first entry that may have this hash.
    #[inline]
    pub fn first(&self, hash: u64) -> Option<u32> {
        let index = self.index(hash);
        let bucket = &self.buckets[index];
        let bits = bucket.with(signature(hash));
        if bits != 0 {
            return Some(bucket.entry(bits.trailing_zeros() as usize % SLOTS));
        }
        if bucket.has_spilled() { self.first_beside(index, hash) } else { None }
    }

    fn first_beside(&self, index: usize, hash: u64) -> Option<u32> {
        let bucket = &self.buckets[self.beside(index)];
        let bits = bucket.with(signature(hash));
        (bits != 0).then(|| bucket.entry(bits.trailing_zeros() as usize % SLOTS))
    }

    /// Entries that may have this hash.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let index = self.index(hash);
        let bucket = &self.buckets[index];
        let beside = bucket.has_spilled().then(|| &self.buckets[self.beside(index)]);
        let wanted = signature(hash);
        std::iter::once(bucket).chain(beside).flat_map(move |bucket| {
            (0..SLOTS).filter(move |&slot| bucket.signatures[slot] == wanted).map(|slot| bucket.entry(slot))
        })
    }

    /// Adds an entry. Gives the entry it replaced, if it had to. `hash_of` gives the full hash of an
    /// entry when the table grows; entries without one are forgotten.
    pub fn insert(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> Option<u64>) -> Option<u32> {
        while self.buckets.len() < self.limit
            && (self.used >= self.buckets.len() * SLOTS / 2 || self.place(hash).is_none())
        {
            self.grow(&hash_of);
        }
        let (index, slot) = self.place(hash).unwrap_or((self.index(hash), (hash >> 29) as usize % SLOTS));
        let bucket = &self.buckets[index];
        let replaced = (bucket.signatures[slot] != 0).then(|| bucket.entry(slot));
        self.put(index, slot, hash, entry);
        if replaced.is_none() {
            self.used += 1;
        }
        replaced
    }

    fn put(&mut self, index: usize, slot: usize, hash: u64, entry: u32) {
        let home = self.index(hash);
        if home != index {
            self.buckets[home].entries[0] |= SPILLED;
        }
        self.buckets[index].set(slot, hash, entry);
    }

    /// A free slot for this hash.
    fn place(&self, hash: u64) -> Option<(usize, usize)> {
        let index = self.index(hash);
        let in_bucket = |index: usize| Some((index, self.buckets[index].free()?));
        in_bucket(index).or_else(|| in_bucket(self.beside(index)))
    }

    fn grow(&mut self, hash_of: &impl Fn(u32) -> Option<u64>) {
        let count = self.buckets.len() * 2;
        let old = std::mem::replace(&mut self.buckets, Region::new(count));
        self.used = 0;
        for bucket in old.iter() {
            for slot in (0..SLOTS).filter(|&slot| bucket.signatures[slot] != 0) {
                if let Some(hash) = hash_of(bucket.entry(slot))
                    && let Some((index, free)) = self.place(hash)
                {
                    self.put(index, free, hash, bucket.entry(slot));
                    self.used += 1;
                }
            }
        }
    }

    /// Removes an entry; nothing happens if it is not there.
    pub fn remove(&mut self, hash: u64, entry: u32) {
        let index = self.index(hash);
        for index in [index, self.beside(index)] {
            let bucket = &mut self.buckets[index];
            let its = |slot: &usize| bucket.signatures[*slot] == signature(hash) && bucket.entry(*slot) == entry;
            if let Some(slot) = (0..SLOTS).find(its) {
                bucket.signatures[slot] = 0;
                self.used -= 1;
                return;
            }
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
        self.buckets.len() * size_of::<Bucket>()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets = Region::new(16.min(self.limit));
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
