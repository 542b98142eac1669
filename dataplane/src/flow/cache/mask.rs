//! Masks as the cache uses them: the words that are not zero, found, hashed and compared without looking at others.

use crate::flow::key::{FlowKey, WORDS};
use std::hash::BuildHasher;

/// Words of an entry's values that lie in its first line; lists of words are no shorter.
pub const WORDS_AT_ONCE: usize = 4;

/// The words of a mask that are not zero. The list is filled up with words that nothing is taken of, to an even number
/// and at least [`WORDS_AT_ONCE`]: most masks need no more, and those are handled without a branch.
#[derive(Clone)]
pub struct Words {
    count: usize,
    indexes: [u8; WORDS],
    masks: [u64; WORDS],
}

/// Secrets of a cache's hashes: tenants choose what is hashed.
pub struct Seeds([u64; 2]);

impl Default for Seeds {
    fn default() -> Self {
        let random = foldhash::fast::RandomState::default();
        Self([random.hash_one(1), random.hash_one(2)])
    }
}

impl Words {
    /// Those of a mask.
    #[must_use]
    pub fn of(mask: &FlowKey) -> Self {
        let mut words = Self { count: 0, indexes: [0; WORDS], masks: [0; WORDS] };
        for (index, &mask) in mask.words().iter().enumerate().filter(|(_, mask)| **mask != 0) {
            words.indexes[words.count] = index as u8;
            words.masks[words.count] = mask;
            words.count += 1;
        }
        words.count = words.count.next_multiple_of(2).max(WORDS_AT_ONCE);
        words
    }

    /// How many there are.
    #[must_use]
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The word of a key at a place of the list, under the mask.
    #[must_use]
    #[inline(always)]
    pub fn value(&self, key: &FlowKey, place: usize) -> u64 {
        // SAFETY: all indexes are those of words (`Words::of`, the only one to write them).
        let word = unsafe { key.words().get_unchecked(usize::from(self.indexes[place])) };
        word & self.masks[place]
    }

    /// A key that has these values.
    #[must_use]
    pub fn key(&self, values: impl Iterator<Item = u64>) -> FlowKey {
        let mut key = FlowKey::ZERO;
        for (&index, value) in self.indexes.iter().zip(values).take(self.count) {
            key.words_mut()[usize::from(index)] |= value;
        }
        key
    }

    /// The hash of a key under the mask. Two words are multiplied to 128 bits whose halves are folded, as `foldhash`
    /// does it; the secrets keep whoever chooses the words from choosing a factor of zero.
    #[must_use]
    #[inline(always)]
    pub fn hash(&self, seeds: &Seeds, key: &FlowKey) -> u64 {
        let Seeds([start, other]) = *seeds;
        let pair = |hash: u64, place: usize| fold(hash ^ self.value(key, place), other ^ self.value(key, place + 1));
        let mut hash = pair(pair(start, 0), 2);
        let mut place = WORDS_AT_ONCE;
        while place < self.count {
            hash = pair(hash, place);
            place += 2;
        }
        // Its lower bits choose a bucket, its upper ones are compared.
        fold(hash ^ start, 0x9e37_79b9_7f4a_7c15)
    }
}

#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mask_leaves_out_changes_nothing() {
        let mut mask = FlowKey::ZERO;
        let seeds = Seeds::default();
        for step in 0..WORDS {
            let at = step * 7 % WORDS;
            mask.words_mut()[at] = 0xff << (at % 56);
            let words = Words::of(&mask);
            let mut key = FlowKey::ZERO;
            key.words_mut().iter_mut().enumerate().for_each(|(index, word)| *word = u64::MAX / (index as u64 + 1));
            let masked = key.masked(&mask);
            let hash = words.hash(&seeds, &key);
            assert_eq!(hash, words.hash(&seeds, &masked));
            assert_eq!(words.key((0..words.count()).map(|place| words.value(&key, place))), masked);
            let mut other = key;
            other.words_mut()[at] ^= 1 << (at % 56);
            assert_ne!(hash, words.hash(&seeds, &other), "{} words", step + 1);
        }
    }

    #[test]
    fn keys_that_differ_little_are_spread() {
        let mut mask = FlowKey::ZERO;
        mask.words_mut()[3] = u64::MAX;
        let (words, seeds) = (Words::of(&mask), Seeds::default());
        let mut buckets = vec![0_u32; 1024];
        for number in 0..8192_u32 {
            let mut key = FlowKey::ZERO;
            key.ipv4_dst = number.to_be_bytes();
            buckets[words.hash(&seeds, &key) as usize % 1024] += 1;
        }
        // Eight are expected; 30 in one of 1,024 would be odder than one in a hundred million.
        assert!(buckets.iter().all(|&count| count < 30), "{:?}", buckets.iter().max());
    }
}
