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
//! The packets of a batch are looked up together, because most of the time would be spent waiting for memory:
//! [`Cache::probe`] hashes all of them and fetches the buckets, then looks into these and fetches the entries; what it
//! gives are guesses, each of which [`Cache::confirm`] verifies when its packet is due. Tables and entries lie in
//! memory of huge pages (`region.rs`), a hit's part of an entry in one cache line (`cache/entry.rs`), and only the
//! words of a key that a mask has are looked at (`cache/mask.rs`).
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
use super::key::FlowKey;
use super::log::{Recent, Work};
use super::program::{Program, Steps};
use super::region::Region;
use super::resolve::Resolution;
use super::shared::Shared;
use super::statistics::TableStatistics;
use crate::capture::Walk;
use crate::limits::{CACHE_ALL_MASKS, CACHE_ENTRIES, CACHE_MASKS, CACHE_SPARE};
use crate::packet::frame::prefetch;
use crate::port::PortSlot;
use entry::{Entry, New, Way, program_hash};
use mask::{Seeds, Words};
use std::collections::HashMap;
use std::sync::Arc;

mod entry;
mod mask;
mod probe;

/// Buckets of one table at most: each entry finds a place in a table half full.
const BUCKETS: usize = (CACHE_ENTRIES / 4).next_power_of_two();

/// The number of an entry; valid until the cache is next changed.
pub type EntryNumber = u32;

/// The number of no entry.
pub const NO_ENTRY: EntryNumber = EntryNumber::MAX;

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

/// A mask that entries have.
struct Mask {
    mask: FlowKey,
    words: Words,
    /// Of all its entries; none: the number is free.
    entries: usize,
    hits: u64,
    table: Option<Buckets>,
    /// Of the entries, those that stand in the table.
    tabled: usize,
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
    entries: Region<Entry>,
    /// Places that were used at some time, from the first on.
    places: usize,
    free: Vec<EntryNumber>,
    masks: Vec<Mask>,
    numbers: HashMap<FlowKey, u16, foldhash::fast::RandomState>,
    free_masks: Vec<u16>,
    /// The masks that have a table, the most used first.
    probed: Vec<u16>,
    exact: Buckets,
    /// The union of all masks that entries were made with: what the exact hash covers.
    consulted: FlowKey,
    consulted_words: Words,
    dirty: Vec<EntryNumber>,
    ways: Shared<Way>,
    programs: Shared<Program>,
    /// Of programs that are of one connection each: what they have in common.
    steps: Shared<Steps>,
    hasher: foldhash::fast::RandomState,
    seeds: Seeds,
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
            entries: Region::new(CACHE_ENTRIES),
            places: 0,
            free: Vec::new(),
            masks: Vec::new(),
            numbers: HashMap::default(),
            free_masks: Vec::new(),
            probed: Vec::new(),
            exact: Buckets::new(BUCKETS),
            consulted: FlowKey::ZERO,
            consulted_words: Words::of(&FlowKey::ZERO),
            dirty: Vec::new(),
            ways: Shared::default(),
            programs: Shared::default(),
            steps: Shared::default(),
            hasher: foldhash::fast::RandomState::default(),
            seeds: Seeds::default(),
            hand: 0,
            counters: CacheCounters::default(),
            tables: TableStatistics::default(),
        }
    }
}

impl Cache {
    /// Looks a packet's key up; `version` is the tables' current one.
    #[inline(never)]
    pub fn lookup(&mut self, key: &FlowKey, version: u64) -> Found {
        let several = self.probed.len() > 2;
        let (mut exact, mut found) = (0, None);
        if several {
            exact = self.consulted_words.hash(&self.seeds, key);
            found = self.exact.candidates(exact).find(|&number| self.matches(number, key));
        }
        if found.is_none() {
            for (probes, &mask) in self.probed.iter().enumerate() {
                let Mask { words, table: Some(table), .. } = &self.masks[usize::from(mask)] else { continue };
                let hash = words.hash(&self.seeds, key);
                let its = |number: &EntryNumber| self.entry(*number).mask == mask && self.matches(*number, key);
                found = table.candidates(hash).find(its);
                if let Some(number) = found {
                    self.masks[usize::from(mask)].hits += 1;
                    if several && probes > 0 {
                        self.exact.insert(exact, number, |_| None);
                    }
                    break;
                }
            }
        }
        match found {
            None => Found::Miss,
            Some(number) if self.entry(number).is_good_at(version) => Found::Hit(number),
            Some(number) => Found::Stale(number),
        }
    }

    fn matches(&self, number: EntryNumber, key: &FlowKey) -> bool {
        let entry = self.entry(number);
        !entry.is_free() && entry.matches(&self.masks[usize::from(entry.mask)].words, key)
    }

    #[inline]
    fn entry(&self, number: EntryNumber) -> &Entry {
        &self.entries[number as usize]
    }

    /// Where all packets of an entry go, if its program does nothing but send them, and admits all of them.
    #[must_use]
    #[inline]
    pub fn plain(&self, number: EntryNumber) -> Option<PortSlot> {
        let plain = self.entry(number).plain;
        (plain != PortSlot::NONE).then_some(plain)
    }

    /// The program of an entry, to be asked whether it admits a packet.
    #[must_use]
    #[inline]
    pub fn program(&self, number: EntryNumber) -> &Program {
        self.entry(number).program.as_ref().expect(OF_ENTRIES)
    }

    fn way(&self, number: EntryNumber) -> &Arc<Way> {
        self.entry(number).way.as_ref().expect(OF_ENTRIES)
    }

    /// What its packets go through, for who looks on.
    #[must_use]
    pub fn walk(&self, number: EntryNumber, cached: bool) -> Walk {
        let (way, program) = (self.way(number), self.entry(number).program.clone());
        Walk { rules: way.rules.clone(), program, consulted: way.mask, cached }
    }

    /// Counts a packet of so many bytes for an entry.
    #[inline(always)]
    pub fn count(&mut self, number: EntryNumber, bytes: usize, now: u64) {
        let entry = &mut self.entries[number as usize];
        if entry.packets == 0 {
            self.dirty.push(number);
        }
        entry.used = now;
        if let (Some(packets), Some(bytes)) = (entry.packets.checked_add(1), entry.bytes.checked_add(bytes as u32)) {
            (entry.packets, entry.bytes) = (packets, bytes);
        } else {
            entry.settle(&mut self.tables);
            // It is still listed.
            (entry.packets, entry.bytes) = (1, bytes as u32);
        }
    }

    /// The program of an entry, for a packet of so many bytes, which is counted.
    #[inline]
    pub fn take(&mut self, number: EntryNumber, bytes: usize, now: u64) -> &Program {
        self.count(number, bytes, now);
        self.program(number)
    }

    /// Whether a stale entry is good at the version of `recent` too, because nothing that changed since
    /// concerns it; then it says so from now on. `work`: what that may cost, and did.
    #[inline]
    pub fn renew(&mut self, number: EntryNumber, key: &FlowKey, recent: &Recent, work: &mut Work) -> bool {
        let (way, since) = (self.way(number), self.entry(number).version(recent.version()));
        let good = recent.unaffected(&way.passed, since, key, &way.stable, work);
        if good {
            self.entries[number as usize].renew(recent.version());
        }
        good
    }

    /// Makes an entry for a packet that was resolved at `version`, and gives its number. An entry with
    /// the same mask and values is replaced.
    pub fn insert(&mut self, key: &FlowKey, resolution: Resolution, version: u64, now: u64) -> EntryNumber {
        let mask = resolution.consulted;
        if !self.consulted.covers(&mask) {
            // The exact hash covers more bits from now on: what stands in its table is no longer found.
            self.consulted.union(&mask);
            self.consulted_words = Words::of(&self.consulted);
            self.exact.clear();
        }
        if let Some(old) = self.same(key, &mask) {
            self.remove(old);
        }
        if self.len() >= CACHE_ENTRIES {
            self.make_room();
        }
        let number = self.mask(&mask);
        let mut program = Program::compile(&resolution);
        let way = Way {
            mask,
            stable: resolution.stable,
            rules: resolution.rules.into(),
            hops: resolution.hops.used.into(),
            counted: resolution.counted.into(),
            missed: resolution.missed.into(),
            passed: resolution.passed.into(),
        };
        let way = self.ways.keep(way.hash(&self.hasher), way);
        let program = match program_hash(&program, &way, &self.hasher) {
            Some(hash) => self.programs.keep(hash, program),
            None => {
                program.share(&mut self.steps);
                Arc::new(program)
            }
        };
        let new = New { program, way, mask: number, version, now };
        let entry = Entry::new(key, &self.masks[usize::from(number)].words, new);
        let entry = self.place(entry);
        if self.give_table(number) {
            self.put_in_table(entry, number, key);
        } else {
            let exact = self.consulted_words.hash(&self.seeds, key);
            self.exact.insert(exact, entry, |_| None);
        }
        entry
    }

    /// The entry in the table of this mask that has the values of this key.
    fn same(&self, key: &FlowKey, mask: &FlowKey) -> Option<EntryNumber> {
        let number = *self.numbers.get(mask)?;
        let Mask { words, table: Some(table), .. } = &self.masks[usize::from(number)] else { return None };
        let its = |&entry: &EntryNumber| self.entry(entry).mask == number && self.matches(entry, key);
        table.candidates(words.hash(&self.seeds, key)).find(its)
    }

    /// Puts an entry into a free place.
    fn place(&mut self, entry: Entry) -> EntryNumber {
        let number = self.free.pop().unwrap_or(self.places as u32);
        if number as usize == self.places {
            self.places += 1;
            // Counting never allocates.
            let room = self.places.next_power_of_two().max(64);
            if self.dirty.capacity() < room {
                self.dirty.reserve(room - self.dirty.len());
            }
        }
        self.masks[usize::from(entry.mask)].entries += 1;
        self.entries[number as usize] = entry;
        number
    }

    fn put_in_table(&mut self, number: EntryNumber, mask: u16, key: &FlowKey) {
        let (entries, seeds) = (&self.entries, &self.seeds);
        let Mask { words, table: Some(table), tabled, .. } = &mut self.masks[usize::from(mask)] else { return };
        let hash_of = |number: u32| {
            let entry = &entries[number as usize];
            (!entry.is_free() && entry.mask == mask).then(|| words.hash(seeds, &entry.key(words)))
        };
        let replaced = table.insert(words.hash(seeds, key), number, hash_of);
        *tabled += 1;
        self.entries[number as usize].set_tabled(true);
        if let Some(replaced) = replaced {
            self.remove(replaced);
        }
    }

    /// The number of a mask, with or without a table.
    fn mask(&mut self, mask: &FlowKey) -> u16 {
        if let Some(&number) = self.numbers.get(mask) {
            return number;
        }
        if self.free_masks.is_empty() && self.masks.len() >= CACHE_ALL_MASKS {
            self.forget_masks();
        }
        let new = Mask { mask: *mask, words: Words::of(mask), entries: 0, hits: 0, table: None, tabled: 0 };
        let number = self.free_masks.pop().unwrap_or(self.masks.len() as u16);
        if usize::from(number) == self.masks.len() {
            self.masks.push(new);
        } else {
            self.masks[usize::from(number)] = new;
        }
        self.numbers.insert(*mask, number);
        number
    }

    /// Removes what has no table: there are more masks than a switch has any use for.
    fn forget_masks(&mut self) {
        for number in 0..self.places {
            if !self.entries[number].is_tabled() {
                self.remove(number as u32);
            }
        }
    }

    /// Sees to it that a mask has a table, if there is room for one more.
    fn give_table(&mut self, number: u16) -> bool {
        if self.masks[usize::from(number)].table.is_some() {
            return true;
        }
        if self.probed.len() == CACHE_MASKS {
            let empty = |mask: &u16| self.masks[usize::from(*mask)].tabled == 0;
            let Some(at) = self.probed.iter().position(empty) else { return false };
            let mask = self.probed.remove(at);
            self.masks[usize::from(mask)].table = None;
            self.release_mask(mask);
        }
        let mask = &mut self.masks[usize::from(number)];
        (mask.table, mask.hits) = (Some(Buckets::new(BUCKETS)), 0);
        self.probed.push(number);
        true
    }

    /// A mask that has neither entries nor a table needs no number.
    fn release_mask(&mut self, number: u16) {
        let mask = &self.masks[usize::from(number)];
        if mask.entries == 0 && mask.table.is_none() && self.numbers.remove(&mask.mask).is_some() {
            self.free_masks.push(number);
        }
    }

    /// Removes an entry; its counts reach the rules first.
    pub fn remove(&mut self, number: EntryNumber) {
        let mut entry = std::mem::replace(&mut self.entries[number as usize], Entry::free());
        let (Some(program), Some(way)) = (entry.program.take(), entry.way.as_ref()) else { return };
        let way = way.clone();
        entry.settle(&mut self.tables);
        let mask = &mut self.masks[usize::from(entry.mask)];
        mask.entries -= 1;
        if entry.is_tabled()
            && let Some(table) = &mut mask.table
        {
            table.remove(mask.words.hash(&self.seeds, &entry.key(&mask.words)), number);
            mask.tabled -= 1;
        }
        self.release_mask(entry.mask);
        drop(entry);
        match program_hash(&program, &way, &self.hasher) {
            Some(hash) => self.programs.give_back(hash, &program),
            None => program.give_back(&mut self.steps),
        }
        self.ways.give_back(way.hash(&self.hasher), &way);
        self.free.push(number);
    }

    /// Brings gathered counts to the rules.
    pub fn flush(&mut self) {
        self.flush_some(usize::MAX);
    }

    /// Likewise of so many entries, those first that have waited longest.
    pub fn flush_some(&mut self, count: usize) {
        let count = count.min(self.dirty.len());
        for numbers in self.dirty[..count].chunks(AT_ONCE) {
            // What is settled lies at the end of a chain of pointers: each link is fetched for all before the next.
            let places = || numbers.iter().map(|&number| &self.entries[number as usize]);
            places().for_each(|entry| prefetch(&raw const entry.way));
            let ways = || places().filter_map(|entry| entry.way.as_ref());
            ways().for_each(|way| prefetch(Arc::as_ptr(way)));
            ways().for_each(|way| prefetch(way.rules.as_ptr()));
            let rules = || ways().flat_map(|way| way.rules.iter());
            rules().for_each(|rule| prefetch(&raw const rule.counters));
            rules().for_each(|rule| prefetch(Arc::as_ptr(&rule.counters)));
            for &number in numbers {
                self.entries[number as usize].settle(&mut self.tables);
            }
        }
        self.dirty.drain(..count);
    }

    /// Looks at up to `count` entries, going round, and removes those not used since `before`. Orders the
    /// masks by use.
    pub fn sweep(&mut self, count: usize, before: u64) {
        for _ in 0..count.min(self.places) {
            self.hand = if self.hand + 1 >= self.places { 0 } else { self.hand + 1 };
            if self.entries[self.hand].used < before {
                self.remove(self.hand as u32);
            }
        }
        self.close_tables();
        let masks = &mut self.masks;
        self.probed.sort_by_key(|&number| std::cmp::Reverse(masks[usize::from(number)].hits));
        self.probed.iter().for_each(|&number| masks[usize::from(number)].hits /= 2);
        if self.places >= 1024 && self.len() * CACHE_SPARE <= self.places {
            self.compact();
        }
    }

    /// Takes the tables away that have no entry.
    fn close_tables(&mut self) {
        for number in std::mem::take(&mut self.probed) {
            if self.masks[usize::from(number)].tabled > 0 {
                self.probed.push(number);
            } else {
                self.masks[usize::from(number)].table = None;
                self.release_mask(number);
            }
        }
    }

    /// Moves what is left closely together, so that the rest of the memory can be given back.
    fn compact(&mut self) {
        // What has no table could not be found again.
        self.forget_masks();
        self.flush();
        let mut old = std::mem::replace(&mut self.entries, Region::new(CACHE_ENTRIES));
        let places = std::mem::replace(&mut self.places, 0);
        (self.free, self.dirty, self.hand) = (Vec::new(), Vec::new(), 0);
        self.exact = Buckets::new(BUCKETS);
        for &number in &self.probed {
            let mask = &mut self.masks[usize::from(number)];
            (mask.table, mask.tabled, mask.entries) = (Some(Buckets::new(BUCKETS)), 0, 0);
        }
        for entry in old[..places].iter_mut().filter(|entry| !entry.is_free()) {
            let mut entry = std::mem::replace(entry, Entry::free());
            let mask = entry.mask;
            let key = entry.key(&self.masks[usize::from(mask)].words);
            entry.set_tabled(false);
            let number = self.place(entry);
            self.put_in_table(number, mask, &key);
        }
        self.close_tables();
        self.ways.shrink();
        self.programs.shrink();
        self.steps.shrink();
    }

    /// Removes the least recently used of a few entries.
    fn make_room(&mut self) {
        let used = |number: usize| {
            let entry = &self.entries[number];
            if entry.is_free() { u64::MAX } else { entry.used }
        };
        let oldest = (0..8).map(|step| (self.hand + step) % self.places).min_by_key(|&number| used(number));
        self.hand = (self.hand + 8) % self.places;
        if let Some(number) = oldest {
            self.remove(number as u32);
        }
    }

    /// Entries now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places - self.free.len()
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

    /// Bytes that it has used for entries and the tables that find them.
    #[cfg(test)]
    pub fn reserved(&self) -> usize {
        let tables = self.masks.iter().flat_map(|mask| &mask.table).chain([&self.exact]);
        self.places * size_of::<Entry>()
            + (self.free.capacity() + self.dirty.capacity()) * size_of::<EntryNumber>()
            + tables.map(Buckets::bytes).sum::<usize>()
    }

    /// Masks that have a table now.
    #[must_use]
    pub fn masks(&self) -> usize {
        self.probed.len()
    }

    /// The busiest entries: values, mask, program, packets, bytes.
    #[must_use]
    pub fn busiest(&self, limit: usize) -> Vec<(FlowKey, FlowKey, Arc<Program>, u64, u64)> {
        let mut entries: Vec<&Entry> = self.entries[..self.places].iter().filter(|entry| !entry.is_free()).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.counts().0));
        let row = |entry: &Entry| {
            let Mask { mask, words, .. } = &self.masks[usize::from(entry.mask)];
            let (packets, bytes) = entry.counts();
            let program = entry.program.as_ref().expect(OF_ENTRIES);
            (entry.key(words), *mask, program.clone(), packets, bytes)
        };
        entries.into_iter().take(limit).map(row).collect()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.entries[..self.places].iter_mut().for_each(|entry| *entry = Entry::free());
    }
}

/// Entries whose counts are brought to the rules together.
const AT_ONCE: usize = 16;

const OF_ENTRIES: &str = "numbers are of entries that exist";
