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
//! Owned by one worker; no shared writes. Counts are gathered here and brought to the rules when the
//! worker asks ([`Cache::flush`]).

use super::buckets::Buckets;
use super::key::FlowKey;
use super::log::Passed;
use super::program::Program;
use super::resolve::{Resolution, Unobserved, View, resolve};
use super::rule::Rule;
use crate::limits::{CACHE_ENTRIES, CACHE_MASKS};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

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

struct Entry {
    value: FlowKey,
    mask: FlowKey,
    /// Bits that all its packets share through the whole walk.
    stable: FlowKey,
    program: Arc<Program>,
    rules: Box<[Arc<Rule>]>,
    passed: Box<[Passed]>,
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
    hasher: foldhash::fast::RandomState,
    /// Where the sweep goes on.
    hand: usize,
    /// What it has done.
    pub counters: CacheCounters,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            masks: Vec::new(),
            exact: Buckets::new((CACHE_ENTRIES / 4).next_power_of_two()),
            consulted: FlowKey::ZERO,
            consulted_words: 0,
            dirty: Vec::new(),
            // Tenants choose the headers: the seed is this process's secret.
            hasher: foldhash::fast::RandomState::default(),
            hand: 0,
            counters: CacheCounters::default(),
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
                        .is_some_and(|entry| entry.mask == table.mask && entry.value.matches(key, &entry.mask))
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
        self.entries[number as usize].as_ref().is_some_and(|entry| entry.value.matches(key, &entry.mask))
    }

    fn entry(&self, number: EntryNumber) -> &Entry {
        self.entries[number as usize].as_ref().expect("numbers are of entries that exist")
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

    /// Gives a good entry for a packet whose lookup found none: the stale one, if nothing that changed
    /// since concerns it; else a new one, for which the tables are walked. `None`: `may_walk` refused.
    pub fn renew(
        &mut self,
        found: Found,
        key: &FlowKey,
        view: &View<'_>,
        now: u64,
        may_walk: impl FnOnce() -> bool,
    ) -> Option<EntryNumber> {
        if let Found::Stale(number) = found {
            let entry = self.entries[number as usize].as_mut().expect("numbers are of entries that exist");
            if view.state.unaffected(&entry.passed, entry.version, key, &entry.stable) {
                entry.version = view.version;
                return Some(number);
            }
        }
        if !may_walk() {
            return None;
        }
        if let Found::Stale(number) = found {
            self.remove(number);
        }
        let resolution = resolve(view, key, &mut Unobserved);
        Some(self.insert(key, resolution, view.version, now))
    }

    /// Makes an entry for a packet that was resolved at `version`, and gives its number. An entry with
    /// the same mask and values is replaced.
    fn insert(&mut self, key: &FlowKey, resolution: Resolution, version: u64, now: u64) -> EntryNumber {
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
                self.entries[*number as usize].as_ref().is_some_and(|entry| entry.mask == mask && entry.value == value)
            };
            let old = self.masks[at].table.candidates(hash).find(same);
            if let Some(old) = old {
                self.remove(old);
            }
        }
        if self.len() >= CACHE_ENTRIES {
            self.make_room();
        }
        let entry = Entry {
            value,
            mask,
            stable: resolution.stable,
            program: Arc::new(Program::compile(&resolution)),
            rules: resolution.rules.into(),
            passed: resolution.passed.into(),
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
            Some(at) => {
                let (hasher, entries) = (&self.hasher, &self.entries);
                let table = &mut self.masks[at];
                let words = table.words;
                let hash_of = |number: u32| {
                    entries[number as usize].as_ref().map(|entry| hash(hasher, &entry.value, &entry.mask, words))
                };
                let replaced = table.table.insert(hash(hasher, &value, &mask, words), number, hash_of);
                table.entries += 1;
                if let Some(entry) = &mut self.entries[number as usize] {
                    entry.tabled = true;
                }
                if let Some(replaced) = replaced {
                    self.remove(replaced);
                }
            }
            None => {
                let exact = hash(&self.hasher, key, &self.consulted, self.consulted_words);
                self.exact.insert(exact, number, |_| None);
            }
        }
        number
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
        let limit = (CACHE_ENTRIES / 4).next_power_of_two();
        self.masks.push(MaskTable {
            mask: *mask,
            words: mask.used_words(),
            hits: 0,
            table: Buckets::new(limit),
            entries: 0,
        });
        Some(self.masks.len() - 1)
    }

    /// Removes an entry; its counts reach the rules first.
    pub fn remove(&mut self, number: EntryNumber) {
        let Some(mut entry) = self.entries[number as usize].take() else { return };
        settle(&mut entry);
        if entry.tabled
            && let Some(table) = self.masks.iter_mut().find(|table| table.mask == entry.mask)
        {
            table.table.remove(hash(&self.hasher, &entry.value, &entry.mask, table.words), number);
            table.entries -= 1;
        }
        self.free.push(number);
    }

    /// Brings gathered counts to the rules.
    pub fn flush(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            if let Some(entry) = self.entries[number as usize].as_mut() {
                settle(entry);
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
            (entry.value, entry.mask, entry.program.clone(), counts.0, counts.1)
        };
        entries.into_iter().take(limit).map(row).collect()
    }
}

fn settle(entry: &mut Entry) {
    entry.dirty = false;
    let (packets, bytes) = (std::mem::take(&mut entry.packets), std::mem::take(&mut entry.bytes));
    entry.packets_before += packets;
    entry.bytes_before += bytes;
    if packets > 0 {
        entry.rules.iter().for_each(|rule| rule.counters.add(packets, bytes));
    }
}
