//! The priority classifier of one flow table: given a key, the visible rule of the highest rank.
//!
//! Tuple space search: rules with the same mask share a *subtable*, a hash map from the masked values to
//! the rules that have them. Subtables are tried in the order of their highest rank, and the search ends
//! when no later one can hold anything better than what was found.
//!
//! Of overlapping rules of one rank, which OpenFlow leaves undefined, the one that matches more bits wins, then
//! one of a fixed order of matches: never does another rule, or the order in which they came, decide.
//!
//! Versions: a rule carries the version at which it appears and that at which it disappears. Readers ask
//! at the version of their batch, so that a bundle shows whole or not at all although it is put in piece
//! by piece; what has disappeared for everyone is collected afterwards ([`Classifier::collect`]).
//!
//! What a search consults is reported: the masks of the subtables it tried, which is what a cache entry
//! must match to be sure of the same answer.
//!
//! Not thread-safe by itself: `tables.rs` holds the lock.

use super::key::{FlowKey, WORDS};
use super::rule::{Owner, Rule};
use foldhash::fast::FixedState;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

/// What decides between rules that match: priority, then the owner (manual first).
type Rank = (u16, Owner);

fn rank(rule: &Rule) -> Rank {
    (rule.id.priority, rule.id.owner)
}

/// A rule's place: its mask and masked values. A rule with an address set has one per member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// No bits outside the mask.
    pub value: FlowKey,
    /// Which bits count.
    pub mask: FlowKey,
}

impl Match {
    /// The words of the value under its mask's non-zero words.
    fn compact(&self) -> Box<[u64]> {
        let words = self.mask.words().iter().zip(self.value.words());
        words.filter(|&(&mask, _)| mask != 0).map(|(_, &value)| value).collect()
    }
}

struct Entry {
    rule: Arc<Rule>,
    added: u64,
    removed: u64,
}

impl Entry {
    fn visible(&self, version: u64) -> bool {
        self.added <= version && version < self.removed
    }
}

struct Subtable {
    mask: FlowKey,
    /// How many bits it matches.
    bits: u32,
    /// Indexes of the mask's words that are not zero, with the words.
    words: Box<[(u8, u64)]>,
    /// How many entries of each rank, so that the highest is known after a removal.
    ranks: BTreeMap<Rank, usize>,
    /// By compact value; entries of one value by rank, highest first, then those without a set.
    values: HashMap<Box<[u64]>, Vec<Entry>, FixedState>,
}

impl Subtable {
    fn new(mask: FlowKey) -> Self {
        let words = mask.words().iter().enumerate().filter(|&(_, &word)| word != 0);
        Self {
            mask,
            bits: mask.words().iter().map(|word| word.count_ones()).sum(),
            words: words.map(|(index, &word)| (index as u8, word)).collect(),
            ranks: BTreeMap::new(),
            values: HashMap::default(),
        }
    }

    fn highest(&self) -> Option<Rank> {
        self.ranks.last_key_value().map(|(&rank, _)| rank)
    }

    /// Whose rules win among those of one rank.
    fn precedence(&self, other: &Self) -> Ordering {
        other.bits.cmp(&self.bits).then_with(|| self.mask.words().cmp(other.mask.words()))
    }

    fn probe(&self, key: &FlowKey) -> Option<&Vec<Entry>> {
        let mut compact = [0_u64; WORDS];
        for (slot, &(index, mask)) in compact.iter_mut().zip(&self.words) {
            *slot = key.words()[index as usize] & mask;
        }
        self.values.get(&compact[..self.words.len()])
    }
}

/// See the module comment.
#[derive(Default)]
pub struct Classifier {
    /// By highest rank, then by precedence.
    subtables: Vec<Subtable>,
    /// A hash of each one's mask, in the same order: finding a mask looks at these first.
    prints: Vec<u64>,
}

fn print(mask: &FlowKey) -> u64 {
    FixedState::default().hash_one(mask)
}

impl Classifier {
    /// The visible rule of the highest rank that matches `key`. Adds the bits consulted to `consulted`,
    /// except those in `written`, which do not come from the packet.
    pub fn lookup(
        &self,
        key: &FlowKey,
        version: u64,
        consulted: &mut FlowKey,
        written: &FlowKey,
    ) -> Option<&Arc<Rule>> {
        let mut best: Option<(&Entry, &Subtable)> = None;
        let goes_before = |subtable: &Subtable, best: &Subtable| subtable.precedence(best) == Ordering::Less;
        for subtable in &self.subtables {
            if let Some((entry, of)) = best {
                match Some(rank(&entry.rule)).cmp(&subtable.highest()) {
                    Ordering::Greater => break,
                    // Those of one highest rank stand in their precedence: none that follows goes before.
                    Ordering::Equal if !goes_before(subtable, of) => break,
                    Ordering::Equal | Ordering::Less => {}
                }
            }
            consulted.union_except(&subtable.mask, written);
            let found = subtable.probe(key).and_then(|entries| entries.iter().find(|entry| entry.visible(version)));
            if let Some(entry) = found
                && best.is_none_or(|(best, of)| match rank(&entry.rule).cmp(&rank(&best.rule)) {
                    Ordering::Greater => true,
                    Ordering::Equal => goes_before(subtable, of),
                    Ordering::Less => false,
                })
            {
                best = Some((entry, subtable));
            }
        }
        best.map(|(entry, _)| &entry.rule)
    }

    /// Puts a rule in at a place, visible from `version` on.
    pub fn insert(&mut self, place: &Match, rule: Arc<Rule>, version: u64) {
        let index = self.position(&place.mask).unwrap_or_else(|| {
            self.subtables.push(Subtable::new(place.mask));
            self.prints.push(print(&place.mask));
            self.subtables.len() - 1
        });
        let subtable = &mut self.subtables[index];
        let new = rank(&rule);
        let rises = subtable.highest() < Some(new);
        *subtable.ranks.entry(new).or_default() += 1;
        let entries = subtable.values.entry(place.compact()).or_default();
        let order =
            |rule: &Rule| (std::cmp::Reverse(rank(rule)), rule.id.set.clone().map(|set| (set.set, set.field as i32)));
        let own = order(&rule);
        let at = entries.partition_point(|entry| order(&entry.rule) <= own);
        entries.insert(at, Entry { rule, added: version, removed: u64::MAX });
        if rises {
            self.sort();
        }
    }

    /// Lets the rule disappear from a place at `version`; false if it is not (or no longer) there.
    pub fn remove(&mut self, place: &Match, rule: &Arc<Rule>, version: u64) -> bool {
        let entry = self.entries_mut(place).and_then(|entries| {
            entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.rule, rule) && entry.removed == u64::MAX)
        });
        entry.is_some_and(|entry| {
            entry.removed = version;
            true
        })
    }

    /// Forgets what disappeared from a place at or before `version`.
    pub fn collect(&mut self, place: &Match, version: u64) {
        let Some(index) = self.position(&place.mask) else { return };
        let subtable = &mut self.subtables[index];
        let compact = place.compact();
        let Some(entries) = subtable.values.get_mut(&compact) else { return };
        let highest = subtable.ranks.last_key_value().map(|(&rank, _)| rank);
        let ranks = &mut subtable.ranks;
        entries.retain(|entry| {
            let gone = entry.removed <= version;
            if gone {
                let count = ranks.get_mut(&rank(&entry.rule)).expect("counted when it was put in");
                *count -= 1;
                if *count == 0 {
                    ranks.remove(&rank(&entry.rule));
                }
            }
            !gone
        });
        if entries.is_empty() {
            subtable.values.remove(&compact);
        }
        if subtable.highest() != highest {
            if subtable.values.is_empty() {
                self.subtables.remove(index);
                self.prints.remove(index);
            }
            self.sort();
        }
    }

    fn sort(&mut self) {
        let order =
            |one: &Subtable, other: &Subtable| other.highest().cmp(&one.highest()).then_with(|| one.precedence(other));
        if !self.subtables.is_sorted_by(|one, other| order(one, other).is_le()) {
            self.subtables.sort_by(order);
            self.prints = self.subtables.iter().map(|subtable| print(&subtable.mask)).collect();
        }
    }

    fn position(&self, mask: &FlowKey) -> Option<usize> {
        let wanted = print(mask);
        (0..self.prints.len()).find(|&index| self.prints[index] == wanted && self.subtables[index].mask == *mask)
    }

    fn entries_mut(&mut self, place: &Match) -> Option<&mut Vec<Entry>> {
        let index = self.position(&place.mask)?;
        self.subtables[index].values.get_mut(&place.compact())
    }

    /// The rules at exactly this place that have not been removed.
    pub fn at(&self, place: &Match) -> impl Iterator<Item = &Arc<Rule>> {
        let index = self.position(&place.mask);
        let entries = index.and_then(|index| self.subtables[index].values.get(&place.compact()));
        entries.into_iter().flatten().filter(|entry| entry.removed == u64::MAX).map(|entry| &entry.rule)
    }

    /// Every rule in every place, those not removed.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let entries = self.subtables.iter().flat_map(|subtable| subtable.values.values()).flatten();
        entries.filter(|entry| entry.removed == u64::MAX).map(|entry| &entry.rule)
    }

    /// Whether a mask has a subtable.
    #[must_use]
    pub fn has_mask(&self, mask: &FlowKey) -> bool {
        self.position(mask).is_some()
    }

    /// How many subtables there are: the probes of a search in the worst case.
    #[must_use]
    pub fn masks(&self) -> usize {
        self.subtables.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::action::Instructions;
    use crate::flow::rule::{Life, RuleId};
    use proptest::prelude::*;

    /// A rule over three small fields, so that random rules overlap often.
    fn rule(priority: u16, owner: Owner, values: [u8; 3], masks: [u8; 3]) -> Arc<Rule> {
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        mask.ip_proto = masks[0];
        mask.ip_tos = masks[1];
        mask.registers[3] = [0, 0, 0, masks[2]];
        value.ip_proto = values[0] & masks[0];
        value.ip_tos = values[1] & masks[1];
        value.registers[3] = [0, 0, 0, values[2] & masks[2]];
        Arc::new(Rule {
            id: RuleId { owner, table: 0, priority, value, mask, set: None },
            instructions: Instructions::default(),
            cookie: 0,
            created: 0,
            since: 0,
            life: Life::default(),
            counters: Arc::default(),
        })
    }

    fn place(rule: &Rule) -> Match {
        Match { value: rule.id.value, mask: rule.id.mask }
    }

    fn packet(values: [u8; 3]) -> FlowKey {
        let mut key = FlowKey::ZERO;
        key.ip_proto = values[0];
        key.ip_tos = values[1];
        key.registers[3] = [0, 0, 0, values[2]];
        key
    }

    fn any_rule() -> impl Strategy<Value = (u16, bool, [u8; 3], [u8; 3])> {
        let mask = prop_oneof![Just(0_u8), Just(0x0f), Just(0xff), Just(0x03)];
        (0..6_u16, any::<bool>(), prop::array::uniform3(0..20_u8), prop::array::uniform3(mask))
    }

    proptest! {
        /// The oracle is a linear scan over the rules visible at each version; and whatever agrees with
        /// the packet on the consulted bits gets the same rule.
        #[test]
        fn finds_what_a_linear_scan_finds(
            rules in prop::collection::vec(any_rule(), 1..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            packets in prop::collection::vec((prop::array::uniform3(0..20_u8), prop::array::uniform3(any::<u8>())), 1..40),
        ) {
            let mut classifier = Classifier::default();
            let mut live: Vec<(Arc<Rule>, u64, u64)> = Vec::new();
            for (version, &(priority, manual, values, masks)) in rules.iter().enumerate() {
                let rule = rule(priority, if manual { Owner::Manual } else { Owner::Fabric }, values, masks);
                classifier.insert(&place(&rule), rule.clone(), version as u64);
                live.push((rule, version as u64, u64::MAX));
            }
            let mut version = rules.len() as u64;
            for index in removed {
                let at = index.index(live.len());
                let expected = live[at].2 == u64::MAX;
                prop_assert_eq!(classifier.remove(&place(&live[at].0), &live[at].0, version), expected);
                if expected {
                    live[at].2 = version;
                    version += 1;
                }
            }
            for version in [0, version / 2, version] {
                for &(values, noise) in &packets {
                    let key = packet(values);
                    let mut consulted = FlowKey::ZERO;
                    let found = classifier.lookup(&key, version, &mut consulted, &FlowKey::ZERO);
                    let best = live.iter().filter(|(rule, added, removed)| {
                        *added <= version && version < *removed && rule.id.value.matches(&key, &rule.id.mask)
                    }).map(|(rule, _, _)| {
                        let bits: u32 = rule.id.mask.words().iter().map(|word| word.count_ones()).sum();
                        (rank(rule), bits, std::cmp::Reverse(*rule.id.mask.words()))
                    }).max();
                    let order = |rule: &Arc<Rule>| {
                        let bits: u32 = rule.id.mask.words().iter().map(|word| word.count_ones()).sum();
                        (rank(rule), bits, std::cmp::Reverse(*rule.id.mask.words()))
                    };
                    prop_assert_eq!(found.map(order), best);
                    let mut other = packet(noise);
                    for (word, (own, mask)) in other.words_mut().iter_mut().zip(key.words().iter().zip(consulted.words())) {
                        *word = (*word & !mask) | (own & mask);
                    }
                    let again = classifier.lookup(&other, version, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO);
                    prop_assert_eq!(found.map(Arc::as_ptr), again.map(Arc::as_ptr));
                }
            }
            for (rule, _, _) in &live {
                classifier.collect(&place(rule), version);
            }
            prop_assert_eq!(classifier.rules().count(), live.iter().filter(|(_, _, removed)| *removed == u64::MAX).count());
        }
    }

    #[test]
    fn a_search_ends_when_nothing_better_can_follow() {
        let mut classifier = Classifier::default();
        for rule in [rule(10, Owner::Fabric, [6, 0, 0], [0xff, 0, 0]), rule(5, Owner::Fabric, [0, 1, 0], [0, 0xff, 0])]
        {
            classifier.insert(&place(&rule), rule.clone(), 0);
        }
        let mut consulted = FlowKey::ZERO;
        assert!(classifier.lookup(&packet([6, 1, 0]), 0, &mut consulted, &FlowKey::ZERO).is_some());
        assert_eq!((consulted.ip_proto, consulted.ip_tos), (0xff, 0));
    }

    #[test]
    fn of_two_rules_of_one_priority_the_more_specific_wins_whatever_else_there_is() {
        let wide = rule(10, Owner::Fabric, [6, 0, 0], [0xff, 0, 0]);
        let narrow = rule(10, Owner::Fabric, [6, 1, 0], [0xff, 0xff, 0]);
        // They lift the one or the other's mask to the front.
        let others =
            [rule(20, Owner::Fabric, [9, 0, 0], [0xff, 0, 0]), rule(20, Owner::Fabric, [9, 9, 0], [0xff, 0xff, 0])];
        for order in [[&wide, &narrow], [&narrow, &wide]] {
            for other in &others {
                let mut classifier = Classifier::default();
                for rule in order.into_iter().chain([other]) {
                    classifier.insert(&place(rule), rule.clone(), 0);
                }
                let found = classifier.lookup(&packet([6, 1, 0]), 0, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO);
                assert!(Arc::ptr_eq(found.unwrap(), &narrow));
            }
        }
    }

    #[test]
    fn a_manual_rule_goes_before_a_fabric_rule_of_its_priority() {
        let mut classifier = Classifier::default();
        for owner in [Owner::Manual, Owner::Fabric] {
            let rule = rule(10, owner, [6, 0, 0], [0xff, 0, 0]);
            classifier.insert(&place(&rule), rule.clone(), 0);
        }
        let found = classifier.lookup(&packet([6, 0, 0]), 0, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO).unwrap();
        assert_eq!(found.id.owner, Owner::Manual);
    }
}
