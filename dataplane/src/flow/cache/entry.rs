//! An entry of the cache. What a hit needs lies in its first cache line, if the mask has four words or fewer and the
//! program is a plain output: whose packets they are, whether it is good, where they go, and the counts. The second
//! line has what further words are compared with, and what is for misses only.

use super::mask::{WORDS_AT_ONCE, Words};
use crate::flow::key::{FlowKey, WORDS};
use crate::flow::log::Passed;
use crate::flow::program::Program;
use crate::flow::region::Zeroed;
use crate::flow::rule::{Rule, RuleCounters};
use crate::flow::statistics::TableStatistics;
use crate::limits::CACHE_ENTRY_BYTES;
use crate::neighbours::Used;
use crate::port::PortSlot;
use std::hash::BuildHasher;
use std::sync::Arc;

/// What entries have in common whose packets walked the same way.
pub struct Way {
    pub mask: FlowKey,
    /// Bits that all packets of an entry share through the whole walk.
    pub stable: FlowKey,
    pub rules: Arc<[Arc<Rule>]>,
    /// Next hops that its packets use.
    pub hops: Box<[Arc<Used>]>,
    /// Groups and buckets that count its packets.
    pub counted: Box<[Arc<RuleCounters>]>,
    pub missed: Box<[u8]>,
    pub passed: Box<[Passed]>,
}

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Rule>, &Arc<Rule>)| Arc::ptr_eq(one, other);
        self.mask == other.mask
            && self.stable == other.stable
            && self.missed == other.missed
            && self.passed == other.passed
            && self.rules.len() == other.rules.len()
            && self.rules.iter().zip(other.rules.iter()).all(same)
            && self.hops.len() == other.hops.len()
            && self.hops.iter().zip(&other.hops).all(|(one, other)| Arc::ptr_eq(one, other))
            && self.counted.iter().map(Arc::as_ptr).eq(other.counted.iter().map(Arc::as_ptr))
    }
}

impl Way {
    pub fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        let rules: Vec<*const Rule> = self.rules.iter().map(Arc::as_ptr).collect();
        hasher.hash_one((self.mask.words(), self.stable.words(), rules, &self.passed))
    }
}

/// The hash of an entry's program, if others may have the same.
pub fn program_hash(program: &Program, way: &Arc<Way>, hasher: &impl BuildHasher) -> Option<u64> {
    Some(hasher.hash_one((program.fingerprint()?, Arc::as_ptr(way))))
}

/// Words of its values that lie in the second line.
const WORDS_BEHIND: usize = 4;
/// Words that need memory of their own.
const WORDS_BEYOND: usize = WORDS - WORDS_AT_ONCE - WORDS_BEHIND;

/// See the module comment.
#[repr(C, align(64))]
pub struct Entry {
    /// The values under the first words of the mask.
    values: [u64; WORDS_AT_ONCE],
    /// When it was used last, microseconds.
    pub used: u64,
    /// The version of the tables it was last known good at: its lower half. An entry is looked at, and idle ones are
    /// removed, long before a switch has four thousand million changes of rules.
    version: u32,
    /// Packets since the last flush, and their bytes. Not zero: it is listed as dirty.
    pub packets: u32,
    pub bytes: u32,
    /// The number of its mask.
    pub mask: u16,
    /// Where its packets go, if that is all that is done with them, whatever else is known; else
    /// [`PortSlot::NONE`].
    pub plain: PortSlot,
    /// None: the place is free.
    pub program: Option<Arc<Program>>,

    pub way: Option<Arc<Way>>,
    behind: [u64; WORDS_BEHIND],
    beyond: Option<Box<[u64; WORDS_BEYOND]>>,
    /// Packets before the last flush.
    packets_before: u64,
    /// Their bytes, shifted by one, and whether the entry stands in the table of its mask, which may have come later
    /// than the entry.
    bytes_before_and_tabled: u64,
}

const _: () = assert!(size_of::<Entry>() <= CACHE_ENTRY_BYTES);
const _: () = assert!(std::mem::offset_of!(Entry, way) == 64);

// SAFETY: numbers, and pointers that may be null.
unsafe impl Zeroed for Entry {}

/// What an entry is made with.
pub struct New {
    pub program: Arc<Program>,
    pub way: Arc<Way>,
    pub mask: u16,
    pub version: u64,
    pub now: u64,
}

impl Entry {
    /// An entry for the packets that have the values of `key` under `words`.
    pub fn new(key: &FlowKey, words: &Words, new: New) -> Self {
        let value = |place: usize| if place < words.count() { words.value(key, place) } else { 0 };
        let beyond = (words.count() > WORDS_AT_ONCE + WORDS_BEHIND)
            .then(|| Box::new(std::array::from_fn(|place| value(place + WORDS_AT_ONCE + WORDS_BEHIND))));
        Self {
            values: std::array::from_fn(value),
            used: new.now,
            version: new.version as u32,
            packets: 0,
            bytes: 0,
            mask: new.mask,
            plain: new.program.plain().unwrap_or(PortSlot::NONE),
            program: Some(new.program),
            way: Some(new.way),
            behind: std::array::from_fn(|place| value(place + WORDS_AT_ONCE)),
            beyond,
            packets_before: 0,
            bytes_before_and_tabled: 0,
        }
    }

    /// A free place.
    pub fn free() -> Self {
        Self {
            values: [0; WORDS_AT_ONCE],
            used: 0,
            version: 0,
            packets: 0,
            bytes: 0,
            mask: 0,
            plain: PortSlot::NONE,
            program: None,
            way: None,
            behind: [0; WORDS_BEHIND],
            beyond: None,
            packets_before: 0,
            bytes_before_and_tabled: 0,
        }
    }

    /// Whether it is none.
    pub fn is_free(&self) -> bool {
        self.program.is_none()
    }

    /// Whether it is for the packets of this key; `words`: those of its mask.
    #[inline(always)]
    pub fn matches(&self, words: &Words, key: &FlowKey) -> bool {
        let mut different = 0;
        for (place, value) in self.values.iter().enumerate() {
            different |= words.value(key, place) ^ value;
        }
        different == 0 && (words.count() == WORDS_AT_ONCE || self.matches_behind(words, key))
    }

    #[inline(never)]
    fn matches_behind(&self, words: &Words, key: &FlowKey) -> bool {
        let values = self.behind.iter().chain(self.beyond.iter().flat_map(|beyond| beyond.iter()));
        (WORDS_AT_ONCE..words.count()).zip(values).all(|(place, value)| words.value(key, place) == *value)
    }

    /// Its values as a key.
    pub fn key(&self, words: &Words) -> FlowKey {
        let values = self.values.iter().chain(&self.behind);
        words.key(values.chain(self.beyond.iter().flat_map(|beyond| beyond.iter())).copied())
    }

    #[inline]
    pub fn is_good_at(&self, version: u64) -> bool {
        self.version == version as u32
    }

    pub fn renew(&mut self, version: u64) {
        self.version = version as u32;
    }

    /// The version it was last known good at; `current` is a later one, or the same.
    pub fn version(&self, current: u64) -> u64 {
        current - u64::from((current as u32).wrapping_sub(self.version))
    }

    pub fn is_tabled(&self) -> bool {
        self.bytes_before_and_tabled & 1 == 1
    }

    pub fn set_tabled(&mut self, tabled: bool) {
        self.bytes_before_and_tabled = self.bytes_before_and_tabled & !1 | u64::from(tabled);
    }

    /// Packets and bytes since it was made.
    pub fn counts(&self) -> (u64, u64) {
        (self.packets_before + u64::from(self.packets), (self.bytes_before_and_tabled >> 1) + u64::from(self.bytes))
    }

    /// Brings what was counted to the rules.
    pub fn settle(&mut self, tables: &mut TableStatistics) {
        let packets = u64::from(std::mem::take(&mut self.packets));
        let bytes = u64::from(std::mem::take(&mut self.bytes));
        if packets == 0 {
            return;
        }
        self.packets_before += packets;
        self.bytes_before_and_tabled += bytes << 1;
        let Some(way) = &self.way else { return };
        tables.count(&way.rules, &way.missed, packets);
        way.rules.iter().for_each(|rule| rule.counters.add(packets, bytes, self.used));
        way.counted.iter().for_each(|counters| counters.add(packets, bytes, self.used));
        way.hops.iter().for_each(|used| used.mark(self.used));
    }
}
