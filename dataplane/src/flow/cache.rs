//! The flow cache of one worker: programs, found again by masked keys.
//!
//! - An *entry* is a masked key, its mask, the program for every packet that matches, and what the walk
//!   depended on. It is right whatever other entries exist, because its mask holds every bit the walk
//!   consulted; so entries may overlap, and which of them is found does not matter.
//! - Entries of one mask share a table that is probed with one hash of the masked key. While there are at
//!   most two masks, they are all there is to probe. With more, a packet first probes the *exact* table,
//!   by the hash of all bits that any mask has; what was found after more than two probes is promoted to
//!   it. It holds only hints: a candidate is verified against its own entry, so stale ones do no harm.
//! - At most [`CACHE_MASKS`] masks have tables, the most used first. An entry of a further mask can only
//!   be found through the exact table.
//!
//! An entry is used only if it was checked at the tables' current version ([`Cache::lookup`] says
//! `Stale` otherwise). Entries are disposable: the oldest go when there is no room.
//!
//! Entries are many, ways through the tables are few: what entries of the same way have in common (the mask,
//! the rules, the program) is kept once. When most entries are gone, their memory is given back.
//!
//! Owned by one worker; no shared writes. Counts are gathered here and brought to the rules when the
//! worker asks ([`Cache::flush`]).

use super::buckets::Buckets;
use super::key::{FlowKey, WORDS};
use super::log::{Passed, Recent, Work};
use super::program::{Program, Steps};
use super::resolve::Resolution;
use super::rule::{Rule, RuleCounters};
use super::shared::Shared;
use super::statistics::TableStatistics;
use crate::capture::Walk;
use crate::limits::{CACHE_ENTRIES, CACHE_ENTRY_BYTES, CACHE_MASKS, CACHE_SPARE};
use crate::neighbours::Used;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Buckets of one table at most: each entry finds a place in a table half full.
const BUCKETS: usize = (CACHE_ENTRIES / 4).next_power_of_two();

/// The number of an entry; valid until the cache is next changed.
pub type EntryNumber = u32;

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry that is good at the current version.
    Hit(EntryNumber),
    /// An entry that was good at an older version.
    Stale(EntryNumber),
    /// None.
    Miss,
}

/// What entries have in common whose packets walked the same way.
struct Way {
    mask: FlowKey,
    /// Indexes of the mask's words that are not zero, with the words.
    words: Box<[(u8, u64)]>,
    /// Bits that all packets of an entry share through the whole walk.
    stable: FlowKey,
    rules: Arc<[Arc<Rule>]>,
    /// Next hops that its packets use.
    hops: Box<[Arc<Used>]>,
    /// Groups and buckets that count its packets.
    counted: Box<[Arc<RuleCounters>]>,
    missed: Box<[u8]>,
    passed: Box<[Passed]>,
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
    fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        let rules: Vec<*const Rule> = self.rules.iter().map(Arc::as_ptr).collect();
        hasher.hash_one((self.mask.words(), self.stable.words(), rules, &self.passed))
    }
}

/// The hash of an entry's program, if others may have the same.
fn program_hash(program: &Program, way: &Arc<Way>, hasher: &impl BuildHasher) -> Option<u64> {
    Some(hasher.hash_one((program.fingerprint()?, Arc::as_ptr(way))))
}

/// Words of an entry's values that lie in the entry.
const WORDS_WITHIN: usize = 8;

struct Entry {
    /// The values under the words of the way's mask, in order.
    values: [u64; WORDS_WITHIN],
    /// Those that do not fit.
    more: Option<Box<[u64; WORDS - WORDS_WITHIN]>>,
    way: Arc<Way>,
    program: Arc<Program>,
    /// The version it was last known good at.
    version: u64,
    /// Since the last flush.
    packets: u64,
    bytes: u64,
    /// Since it was made.
    packets_before: u64,
    bytes_before: u64,
    used: u64,
    /// Whether it is listed in `dirty`.
    dirty: bool,
    /// Whether it stands in the table of its mask, which may have come later than the entry.
    tabled: bool,
}

const _: () = assert!(size_of::<Option<Entry>>() <= CACHE_ENTRY_BYTES);

impl Entry {
    fn words(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        let values = self.values.iter().chain(self.more.iter().flat_map(|more| more.iter()));
        self.way.words.iter().zip(values).map(|(&(index, mask), &value)| (index as usize, mask, value))
    }

    fn matches(&self, key: &FlowKey) -> bool {
        self.words().all(|(index, mask, value)| key.words()[index] & mask == value)
    }

    fn value(&self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        for (index, _, value) in self.words() {
            key.words_mut()[index] = value;
        }
        key
    }
}

struct MaskTable {
    mask: FlowKey,
    words: usize,
    hits: u64,
    table: Buckets,
    entries: usize,
}

/// What the cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Packets that found a good entry.
    pub hits: u64,
    /// Packets that did not.
    pub misses: u64,
}

/// See the module comment.
pub struct Cache {
    entries: Vec<Option<Entry>>,
    free: Vec<EntryNumber>,
    masks: Vec<MaskTable>,
    exact: Buckets,
    /// The union of all masks that entries were made with: what the exact hash covers.
    consulted: FlowKey,
    consulted_words: usize,
    dirty: Vec<EntryNumber>,
    ways: Shared<Way>,
    programs: Shared<Program>,
    /// Of programs that are of one connection each: what they have in common.
    steps: Shared<Steps>,
    hasher: foldhash::fast::RandomState,
    /// Where the sweep goes on.
    hand: usize,
    /// What it has done.
    pub counters: CacheCounters,
    /// Packets by table, as far as they were brought to the rules.
    pub tables: TableStatistics,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            masks: Vec::new(),
            exact: Buckets::new(BUCKETS),
            consulted: FlowKey::ZERO,
            consulted_words: 0,
            dirty: Vec::new(),
            ways: Shared::default(),
            programs: Shared::default(),
            steps: Shared::default(),
            // Tenants choose the headers: the seed is this process's secret.
            hasher: foldhash::fast::RandomState::default(),
            hand: 0,
            counters: CacheCounters::default(),
            tables: TableStatistics::default(),
        }
    }
}

fn hash(hasher: &foldhash::fast::RandomState, key: &FlowKey, mask: &FlowKey, words: usize) -> u64 {
    let mut state = hasher.build_hasher();
    for (word, mask) in key.words()[..words].iter().zip(mask.words()) {
        state.write_u64(word & mask);
    }
    let hash = state.finish();
    // foldhash's fast variant leaves the spreading of the lower bits to its last multiplication; the
    // bucket index uses the lower bits and the signature the upper ones.
    hash ^ hash.rotate_right(29)
}

impl Cache {
    /// Looks a packet's key up; `version` is the tables' current one.
    pub fn lookup(&mut self, key: &FlowKey, version: u64) -> Found {
        let several = self.masks.len() > 2;
        let mut exact = 0;
        let mut found = None;
        if several {
            exact = hash(&self.hasher, key, &self.consulted, self.consulted_words);
            found = self.exact.candidates(exact).find(|&number| self.matches(number, key));
        }
        if found.is_none() {
            let mut probes = 0;
            for table in &mut self.masks {
                probes += 1;
                let hash = hash(&self.hasher, key, &table.mask, table.words);
                let entries = &self.entries;
                found = table.table.candidates(hash).find(|&number| {
                    entries[number as usize]
                        .as_ref()
                        .is_some_and(|entry| entry.way.mask == table.mask && entry.matches(key))
                });
                if found.is_some() {
                    table.hits += 1;
                    break;
                }
            }
            if let Some(number) = found
                && several
                && probes > 1
            {
                self.exact.insert(exact, number, |_| None);
            }
        }
        match found {
            None => Found::Miss,
            Some(number) if self.entry(number).version == version => Found::Hit(number),
            Some(number) => Found::Stale(number),
        }
    }

    fn matches(&self, number: EntryNumber, key: &FlowKey) -> bool {
        self.entries[number as usize].as_ref().is_some_and(|entry| entry.matches(key))
    }

    fn entry(&self, number: EntryNumber) -> &Entry {
        self.entries[number as usize].as_ref().expect("numbers are of entries that exist")
    }

    /// The program of an entry, to be asked whether it admits a packet.
    #[must_use]
    pub fn program(&self, number: EntryNumber) -> &Program {
        &self.entry(number).program
    }

    /// What its packets go through, for who looks on.
    #[must_use]
    pub fn walk(&self, number: EntryNumber, cached: bool) -> Walk {
        let entry = self.entry(number);
        Walk { rules: entry.way.rules.clone(), program: Some(entry.program.clone()), consulted: entry.way.mask, cached }
    }

    /// The program of an entry, for a packet of so many bytes, which is counted.
    pub fn take(&mut self, number: EntryNumber, bytes: usize, now: u64) -> &Program {
        let entry = self.entries[number as usize].as_mut().expect("numbers are of entries that exist");
        entry.packets += 1;
        entry.bytes += bytes as u64;
        entry.used = now;
        if !std::mem::replace(&mut entry.dirty, true) {
            self.dirty.push(number);
        }
        &entry.program
    }

    /// Whether a stale entry is good at the version of `recent` too, because nothing that changed since
    /// concerns it; then it says so from now on. `work`: what that may cost, and did.
    #[inline]
    pub fn renew(&mut self, number: EntryNumber, key: &FlowKey, recent: &Recent, work: &mut Work) -> bool {
        let entry = self.entries[number as usize].as_mut().expect("numbers are of entries that exist");
        let good = recent.unaffected(&entry.way.passed, entry.version, key, &entry.way.stable, work);
        if good {
            entry.version = recent.version();
        }
        good
    }

    /// Makes an entry for a packet that was resolved at `version`, and gives its number. An entry with
    /// the same mask and values is replaced.
    pub fn insert(&mut self, key: &FlowKey, resolution: Resolution, version: u64, now: u64) -> EntryNumber {
        let mask = resolution.consulted;
        let value = key.masked(&mask);
        if !self.consulted.covers(&mask) {
            // The exact hash covers more bits from now on: what stands in its table is no longer found.
            self.consulted.union(&mask);
            self.consulted_words = self.consulted.used_words();
            self.exact.clear();
        }
        let at = self.mask_table(&mask);
        if let Some(at) = at {
            let words = self.masks[at].words;
            let hash = hash(&self.hasher, &value, &mask, words);
            let same = |number: &EntryNumber| {
                let entry = self.entries[*number as usize].as_ref();
                entry.is_some_and(|entry| entry.way.mask == mask && entry.matches(&value))
            };
            let old = self.masks[at].table.candidates(hash).find(same);
            if let Some(old) = old {
                self.remove(old);
            }
        }
        if self.len() >= CACHE_ENTRIES {
            self.make_room();
        }
        let mut program = Program::compile(&resolution);
        let words = mask.words().iter().enumerate().filter(|&(_, &word)| word != 0);
        let way = Way {
            mask,
            words: words.map(|(index, &word)| (index as u8, word)).collect(),
            stable: resolution.stable,
            rules: resolution.rules.into(),
            hops: resolution.hops.used.into(),
            counted: resolution.counted.into(),
            missed: resolution.missed.into(),
            passed: resolution.passed.into(),
        };
        let mut all = [0; WORDS];
        for (slot, &(index, _)) in all.iter_mut().zip(&way.words) {
            *slot = value.words()[index as usize];
        }
        let (within, beyond) = all.split_at(WORDS_WITHIN);
        let more = (way.words.len() > WORDS_WITHIN).then(|| Box::new(beyond.try_into().expect("the rest of them")));
        let way = self.ways.keep(way.hash(&self.hasher), way);
        let program = match program_hash(&program, &way, &self.hasher) {
            Some(hash) => self.programs.keep(hash, program),
            None => {
                program.share(&mut self.steps);
                Arc::new(program)
            }
        };
        let entry = Entry {
            values: within.try_into().expect("the first of them"),
            more,
            way,
            program,
            version,
            packets: 0,
            bytes: 0,
            packets_before: 0,
            bytes_before: 0,
            used: now,
            dirty: false,
            tabled: false,
        };
        let number = self.free.pop().unwrap_or(self.entries.len() as u32);
        if number as usize == self.entries.len() {
            self.entries.push(Some(entry));
        } else {
            self.entries[number as usize] = Some(entry);
        }
        // Evicting an empty mask's table may have moved the one found above.
        match self.mask_table(&mask) {
            Some(at) => self.put_in_table(number, at, &value),
            None => {
                let exact = hash(&self.hasher, key, &self.consulted, self.consulted_words);
                self.exact.insert(exact, number, |_| None);
            }
        }
        number
    }

    fn put_in_table(&mut self, number: EntryNumber, at: usize, value: &FlowKey) {
        let (hasher, entries) = (&self.hasher, &self.entries);
        let table = &mut self.masks[at];
        let (mask, words) = (table.mask, table.words);
        let hash_of =
            |number: u32| entries[number as usize].as_ref().map(|entry| hash(hasher, &entry.value(), &mask, words));
        let replaced = table.table.insert(hash(hasher, value, &mask, words), number, hash_of);
        table.entries += 1;
        if let Some(entry) = &mut self.entries[number as usize] {
            entry.tabled = true;
        }
        if let Some(replaced) = replaced {
            self.remove(replaced);
        }
    }

    /// The table of a mask, made if there is room for one more.
    fn mask_table(&mut self, mask: &FlowKey) -> Option<usize> {
        if let Some(at) = self.masks.iter().position(|table| table.mask == *mask) {
            return Some(at);
        }
        if self.masks.len() == CACHE_MASKS {
            let empty = self.masks.iter().position(|table| table.entries == 0)?;
            self.masks.remove(empty);
        }
        self.masks.push(MaskTable {
            mask: *mask,
            words: mask.used_words(),
            hits: 0,
            table: Buckets::new(BUCKETS),
            entries: 0,
        });
        Some(self.masks.len() - 1)
    }

    /// Removes an entry; its counts reach the rules first.
    pub fn remove(&mut self, number: EntryNumber) {
        let Some(mut entry) = self.entries[number as usize].take() else { return };
        settle(&mut entry, &mut self.tables);
        if entry.tabled
            && let Some(table) = self.masks.iter_mut().find(|table| table.mask == entry.way.mask)
        {
            table.table.remove(hash(&self.hasher, &entry.value(), &table.mask, table.words), number);
            table.entries -= 1;
        }
        match program_hash(&entry.program, &entry.way, &self.hasher) {
            Some(hash) => self.programs.give_back(hash, &entry.program),
            None => entry.program.give_back(&mut self.steps),
        }
        self.ways.give_back(entry.way.hash(&self.hasher), &entry.way);
        self.free.push(number);
    }

    /// Brings gathered counts to the rules.
    pub fn flush(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            if let Some(entry) = self.entries[number as usize].as_mut() {
                settle(entry, &mut self.tables);
            }
        }
    }

    /// Looks at up to `count` entries, going round, and removes those not used since `before`. Orders the
    /// masks by use.
    pub fn sweep(&mut self, count: usize, before: u64) {
        for _ in 0..count.min(self.entries.len()) {
            self.hand = if self.hand + 1 >= self.entries.len() { 0 } else { self.hand + 1 };
            if self.entries[self.hand].as_ref().is_some_and(|entry| entry.used < before) {
                self.remove(self.hand as u32);
            }
        }
        self.masks.retain(|table| table.entries > 0);
        self.masks.sort_by_key(|table| std::cmp::Reverse(table.hits));
        self.masks.iter_mut().for_each(|table| table.hits /= 2);
        if self.entries.len() >= 1024 && self.len() * CACHE_SPARE <= self.entries.len() {
            self.compact();
        }
    }

    /// Moves what is left closely together, so that the rest of the memory can be given back.
    fn compact(&mut self) {
        // What has no table could not be found again.
        let lost = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| !entry.tabled);
        for number in 0..self.entries.len() {
            if lost(&self.entries[number]) {
                self.remove(number as u32);
            }
        }
        self.flush();
        let mut kept = Vec::with_capacity(self.len());
        kept.extend(self.entries.drain(..).filter(Option::is_some));
        (self.entries, self.free, self.dirty, self.hand) = (kept, Vec::new(), Vec::new(), 0);
        self.exact = Buckets::new(BUCKETS);
        for table in &mut self.masks {
            (table.table, table.entries) = (Buckets::new(BUCKETS), 0);
        }
        for number in 0..self.entries.len() {
            // One that was put in before may have been replaced.
            let Some((value, mask)) = self.entries[number].as_ref().map(|entry| (entry.value(), entry.way.mask)) else {
                continue;
            };
            match self.masks.iter().position(|table| table.mask == mask) {
                Some(at) => self.put_in_table(number as u32, at, &value),
                None => self.remove(number as u32),
            }
        }
        self.masks.retain(|table| table.entries > 0);
        self.ways.shrink();
        self.programs.shrink();
        self.steps.shrink();
    }

    /// Removes the least recently used of a few entries.
    fn make_room(&mut self) {
        let used = |number: usize| self.entries[number].as_ref().map_or(u64::MAX, |entry| entry.used);
        let oldest = (0..8).map(|step| (self.hand + step) % self.entries.len()).min_by_key(|&number| used(number));
        self.hand = (self.hand + 8) % self.entries.len();
        if let Some(number) = oldest {
            self.remove(number as u32);
        }
    }

    /// Entries now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Different ways that its entries have in common.
    #[cfg(test)]
    pub fn ways(&self) -> usize {
        self.ways.len()
    }

    /// Bytes that it keeps for entries and the tables that find them, used or not.
    #[cfg(test)]
    pub fn reserved(&self) -> usize {
        let tables = self.masks.iter().map(|table| &table.table).chain([&self.exact]);
        self.entries.capacity() * size_of::<Option<Entry>>()
            + (self.free.capacity() + self.dirty.capacity()) * size_of::<EntryNumber>()
            + tables.map(Buckets::bytes).sum::<usize>()
    }

    /// Masks now.
    #[must_use]
    pub fn masks(&self) -> usize {
        self.masks.len()
    }

    /// The busiest entries: values, mask, program, packets, bytes.
    #[must_use]
    pub fn busiest(&self, limit: usize) -> Vec<(FlowKey, FlowKey, Arc<Program>, u64, u64)> {
        let mut entries: Vec<&Entry> = self.entries.iter().flatten().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.packets_before + entry.packets));
        let row = |entry: &Entry| {
            let counts = (entry.packets_before + entry.packets, entry.bytes_before + entry.bytes);
            (entry.value(), entry.way.mask, entry.program.clone(), counts.0, counts.1)
        };
        entries.into_iter().take(limit).map(row).collect()
    }
}

fn settle(entry: &mut Entry, tables: &mut TableStatistics) {
    entry.dirty = false;
    let (packets, bytes) = (std::mem::take(&mut entry.packets), std::mem::take(&mut entry.bytes));
    entry.packets_before += packets;
    entry.bytes_before += bytes;
    if packets > 0 {
        tables.count(&entry.way.rules, &entry.way.missed, packets);
        entry.way.rules.iter().for_each(|rule| rule.counters.add(packets, bytes, entry.used));
        entry.way.counted.iter().for_each(|counters| counters.add(packets, bytes, entry.used));
        entry.way.hops.iter().for_each(|used| used.mark(entry.used));
    }
}
