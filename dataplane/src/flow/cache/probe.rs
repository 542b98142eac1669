//! The way of a hit through the cache: guesses for a whole batch, then each of them verified. See `cache.rs`.

use super::mask::{WORDS_AT_ONCE, Words};
use super::{Cache, EntryNumber, Found, NO_ENTRY};
use crate::connection::Connections;
use crate::flow::buckets::Buckets;
use crate::flow::key::FlowKey;
use crate::limits::BATCH;
use crate::packet::frame::prefetch;
use crate::port::PortSlot;
use std::sync::Arc;

impl Cache {
    /// Guesses the entries of a batch's packets, at most [`BATCH`]: a number, [`NO_ENTRY`] for none. What
    /// [`Cache::confirm`] will look at is on its way to the processor afterwards.
    pub fn probe(&self, keys: &[FlowKey], guesses: &mut [EntryNumber]) {
        guesses.fill(NO_ENTRY);
        let several = self.probed.len() > 2;
        if several {
            self.probe_table(&self.exact, &self.consulted_words, keys, guesses);
        }
        // What the first mask has is not in the exact table; the other ones' packets are found there sooner or later.
        for &number in self.probed.iter().take(if several { 1 } else { 2 }) {
            let mask = &self.masks[usize::from(number)];
            if let Some(table) = &mask.table {
                self.probe_table(table, &mask.words, keys, guesses);
            }
        }
        for &guess in guesses.iter() {
            if let Some(entry) = self.entries.get(guess as usize)
                && entry.plain == PortSlot::NONE
                && let Some(program) = &entry.program
            {
                let program = Arc::as_ptr(program);
                prefetch(program);
                prefetch(program.wrapping_byte_add(64));
            }
        }
    }

    /// Has the connections of guessed entries fetched, once what [`Cache::probe`] has fetched is there.
    pub fn probe_connections(&self, guesses: &[EntryNumber], connections: &Connections) {
        for &guess in guesses {
            if let Some(entry) = self.entries.get(guess as usize)
                && entry.plain == PortSlot::NONE
                && let Some(program) = &entry.program
            {
                program.prefetch(connections);
            }
        }
    }

    #[inline]
    fn probe_table(&self, table: &Buckets, words: &Words, keys: &[FlowKey], guesses: &mut [EntryNumber]) {
        let mut hashes = [0; BATCH];
        let mut left = false;
        for ((hash, key), guess) in hashes.iter_mut().zip(keys).zip(&*guesses) {
            if *guess == NO_ENTRY {
                left = true;
                *hash = words.hash(&self.seeds, key);
                table.prefetch(*hash);
            }
        }
        if !left {
            return;
        }
        let long = words.count() > WORDS_AT_ONCE;
        for (guess, &hash) in guesses.iter_mut().zip(&hashes) {
            if *guess == NO_ENTRY
                && let Some(number) = table.first(hash)
            {
                *guess = number;
                let entry = &raw const self.entries[number as usize];
                prefetch(entry);
                if long {
                    prefetch(entry.wrapping_byte_add(64));
                }
            }
        }
    }

    /// Looks a packet's key up, first of all at a guess; `version` is the tables' current one.
    #[inline(always)]
    pub fn confirm(&mut self, guess: EntryNumber, key: &FlowKey, version: u64) -> Found {
        if let Some(entry) = self.entries.get(guess as usize) {
            let mask = &mut self.masks[usize::from(entry.mask)];
            if !entry.is_free() && entry.matches(&mask.words, key) {
                mask.hits += 1;
                return if entry.is_good_at(version) { Found::Hit(guess) } else { Found::Stale(guess) };
            }
        }
        self.lookup(key, version)
    }
}
