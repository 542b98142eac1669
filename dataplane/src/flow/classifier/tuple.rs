//! One tuple of a classifier and the rules that are in it: a hash table in whose chains rules that meet are in the
//! order of their standing. Entries lie in one vector and name their successors, which costs 60 bytes a rule and no allocation of
//! its own.

use super::Standing;
use crate::flow::key::FlowKey;
use crate::flow::matched::Match;
use crate::flow::rule::Rule;
use foldhash::fast::RandomState;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// A rule in one of its places.
pub(super) struct Entry {
    pub standing: Standing,
    /// Of the place's bits that the tuple has.
    pub hash: u32,
    next: u32,
    pub place: Match,
    pub rule: Arc<Rule>,
    added: u64,
    pub removed: u64,
}

impl Entry {
    pub fn new(standing: Standing, hash: u32, place: Match, rule: Arc<Rule>, added: u64) -> Self {
        Self { standing, hash, next: NONE, place, rule, added, removed: u64::MAX }
    }

    pub fn visible(&self, version: u64) -> bool {
        self.added <= version && version < self.removed
    }

    /// Whether it wins where both match.
    pub fn goes_before(&self, other: &Self) -> bool {
        if self.standing != other.standing {
            return self.standing > other.standing;
        }
        let sets = [self, other].map(|entry| entry.rule.id.set.as_ref().map(|set| (&set.set, set.field as i32)));
        self.place.compare_masks(&other.place).then_with(|| sets[0].cmp(&sets[1])).is_lt()
    }
}

/// See the module comment.
pub(super) struct Tuple {
    pub mask: FlowKey,
    /// How many bits it has.
    pub bits: u32,
    /// Indexes of the mask's words that are not zero, with the words.
    words: Box<[(u8, u64)]>,
    /// Where chains begin; a power of two of them, at least as many as entries.
    heads: Vec<u32>,
    entries: Vec<Entry>,
    /// How many entries have each standing, so that the highest is known after a removal.
    standings: BTreeMap<Standing, u32>,
}

impl Tuple {
    pub fn new(mask: FlowKey) -> Self {
        let words = mask.words().iter().enumerate().filter(|&(_, &word)| word != 0);
        Self {
            mask,
            bits: mask.words().iter().map(|word| word.count_ones()).sum(),
            words: words.map(|(index, &word)| (index as u8, word)).collect(),
            heads: vec![NONE; 4],
            entries: Vec::new(),
            standings: BTreeMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub fn highest(&self) -> Standing {
        self.standings.last_key_value().map_or(0, |(&standing, _)| standing)
    }

    pub fn hash_of_key(&self, key: &FlowKey, hasher: &RandomState) -> u32 {
        let mut state = hasher.build_hasher();
        self.words.iter().for_each(|&(index, mask)| state.write_u64(key.words()[index as usize] & mask));
        folded(state.finish())
    }

    /// Of a place that has all bits of the tuple.
    pub fn hash_of_place(&self, place: &Match, hasher: &RandomState) -> u32 {
        let mut state = hasher.build_hasher();
        let mut words = place.words();
        for &(wanted, mask) in &self.words {
            let found = words.find(|&(index, _, _)| index == usize::from(wanted));
            state.write_u64(found.map_or(0, |(_, _, value)| value & mask));
        }
        folded(state.finish())
    }

    fn head(&self, hash: u32) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    /// The entries whose values of the tuple's bits have this hash, in their order.
    pub fn meeting(&self, hash: u32) -> impl Iterator<Item = &Entry> {
        let mut at = self.heads[self.head(hash)];
        let chain = std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            at = entry.next;
            Some(entry)
        });
        chain.filter(move |entry| entry.hash == hash)
    }

    /// One of them, to be changed.
    pub fn find_mut(&mut self, hash: u32, wanted: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        let mut at = self.heads[self.head(hash)];
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.hash == hash && wanted(entry) {
                return self.entries.get_mut(at as usize);
            }
            at = entry.next;
        }
        None
    }

    /// Puts an entry in; gives how many of other places it meets.
    pub fn insert(&mut self, entry: Entry) -> usize {
        if self.entries.len() == self.heads.len() {
            self.grow();
        }
        *self.standings.entry(entry.standing).or_default() += 1;
        let meeting = self.meeting(entry.hash).filter(|other| other.place != entry.place).count();
        self.entries.push(entry);
        self.link(self.entries.len() as u32 - 1);
        meeting
    }

    /// Takes out those of the entries with this hash that are unwanted.
    pub fn take(&mut self, hash: u32, unwanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        let mut at = self.heads[self.head(hash)];
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.hash != hash || !unwanted(entry) {
                at = entry.next;
                continue;
            }
            let next = entry.next;
            self.point_past(at, next);
            let last = self.entries.len() as u32 - 1;
            if at != last {
                self.point_past(last, at);
            }
            taken.push(self.entries.swap_remove(at as usize));
            // The last entry has moved to where this one was.
            at = if next == last { at } else { next };
        }
        for entry in &taken {
            let count = self.standings.get_mut(&entry.standing).expect("counted when it was put in");
            *count -= 1;
            if *count == 0 {
                self.standings.remove(&entry.standing);
            }
        }
        if self.heads.len() > 64 && self.entries.len() * 8 < self.heads.len() {
            self.shrink();
        }
        taken
    }

    /// Makes whatever names an entry name another.
    fn point_past(&mut self, at: u32, next: u32) {
        let head = self.head(self.entries[at as usize].hash);
        if self.heads[head] == at {
            self.heads[head] = next;
            return;
        }
        let mut before = self.heads[head];
        while self.entries[before as usize].next != at {
            before = self.entries[before as usize].next;
        }
        self.entries[before as usize].next = next;
    }

    /// Puts an entry into its chain.
    fn link(&mut self, number: u32) {
        let entry = &self.entries[number as usize];
        let head = self.head(entry.hash);
        let (mut before, mut at) = (NONE, self.heads[head]);
        // Only those that meet have an order.
        while let Some(other) = self.entries.get(at as usize)
            && !(other.hash == entry.hash && entry.goes_before(other))
        {
            (before, at) = (at, other.next);
        }
        self.entries[number as usize].next = at;
        if before == NONE {
            self.heads[head] = number;
        } else {
            self.entries[before as usize].next = number;
        }
    }

    /// Twice as many chains: each is parted, in its order.
    fn grow(&mut self) {
        let before = self.heads.len();
        self.heads.resize(before * 2, NONE);
        for head in 0..before {
            let mut at = std::mem::replace(&mut self.heads[head], NONE);
            let mut ends = [NONE; 2];
            while at != NONE {
                let entry = &mut self.entries[at as usize];
                let (upper, next) = (entry.hash as usize & before, std::mem::replace(&mut entry.next, NONE));
                let end = &mut ends[usize::from(upper != 0)];
                if *end == NONE {
                    self.heads[head + upper] = at;
                } else {
                    self.entries[*end as usize].next = at;
                }
                (*end, at) = (at, next);
            }
        }
    }

    /// Gives spare memory back.
    fn shrink(&mut self) {
        self.heads = vec![NONE; self.heads.len() / 4];
        self.entries.shrink_to(self.heads.len());
        (0..self.entries.len() as u32).for_each(|number| self.link(number));
    }
}

/// The fast variant of foldhash leaves the spreading of the lower bits to its last multiplication.
fn folded(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}
