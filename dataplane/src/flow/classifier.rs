//! The priority classifier of one flow table: given a key, the visible rule of the highest rank.
//!
//! **Tuples.** Tuple space search keeps a hash table for each mask that rules have, and probes all of them: right for
//! the few masks of most tables, slow for the hundreds of an access list. Here, after TupleMerge (Daly et al., IEEE/ACM
//! ToN 2019), a table has a *tuple*: bits that all its rules match at least. Rules of many masks share it, hashed by the
//! bits of the tuple and compared by all of their own.
//! - The first [`SEPARATE_MASKS`] masks get tuples of their own: so few probes are cheap, comparing is exact, and cache
//!   entries consult no more than they must.
//! - A rule of a further mask goes to the finest tuple that its mask has and that is at least as fine as its mask
//!   *relaxed* (`relax.rs`: prefixes rounded down, ports left out); if there is none, the relaxed mask becomes one.
//! - When more than [`COLLISIONS`] rules of different matches meet in one place of a table, those that can move to a
//!   finer tuple: that of the bits that all of them match, or the mask of most of them. It costs what meets there.
//!
//! Nothing depends on which tuple a rule is in but time. Where tuples have run out ([`TUPLES`]) rules stay where they
//! collide. A mask remembers the tuples in which it has rules, so finding a rule again asks no others.
//!
//! **Order.** A rule's *standing* is its rank (priority, then owner), then how many bits it matches, then a fixed order
//! of masks: of overlapping rules of one rank, which OpenFlow leaves undefined, the one that matches more bits wins, and
//! never does another rule, or the order in which they came, decide. Tuples are tried in the order of their highest
//! standing, and rules that meet in that of their own; the search ends when nothing that follows can stand higher than
//! what was found.
//!
//! **Versions.** A rule carries the version at which it appears and that at which it disappears. Readers ask
//! at the version of their batch, so that a bundle shows whole or not at all although it is put in piece
//! by piece; what has disappeared for everyone is collected afterwards ([`Classifier::collect`]).
//!
//! **Consulted** is, and reported, what the answer depends on: the tuples that were tried, and the masks of the rules
//! that were compared, which the tuple's bits alone did not exclude. That is what a cache entry must match to be sure of
//! the same answer.
//!
//! Not thread-safe by itself: `tables.rs` holds the lock.

use super::key::FlowKey;
use super::matched::Match;
use super::rule::{Owner, Rule};
use crate::limits::classifier::{COLLISIONS, SEPARATE_MASKS, TUPLES};
use foldhash::fast::{FixedState, RandomState};
use relax::relaxed;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use tuple::{Entry, Tuple};

mod relax;
#[cfg(test)]
mod rule_sets;
#[cfg(test)]
mod tests;
mod tuple;

/// A number that is higher for a rule that goes before others: priority (16 bits), owner (1), bits matched (11), a
/// hash of the mask (36).
type Standing = u64;

fn standing(rule: &Rule, place: &Match, mask: u64) -> Standing {
    let owner = u64::from(rule.id.owner == Owner::Manual);
    u64::from(rule.id.priority) << 48 | owner << 47 | u64::from(place.bits()) << 36 | mask >> 28
}

/// A hash of a place's mask.
fn print(place: &Match) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    place.words().for_each(|(index, mask, _)| hasher.write_u64(mask ^ (index as u64) << 40));
    let hash = hasher.finish();
    hash ^ hash << 32
}

/// A mask that rules have.
struct Shape {
    /// A place with it.
    like: Match,
    /// Places with this mask.
    places: usize,
    /// Numbers of the tuples in which they are, and how many; rules to come go to the last one.
    homes: Vec<(u32, usize)>,
}

type Shapes = HashMap<u64, Vec<Shape>, RandomState>;

fn shape_mut<'a>(shapes: &'a mut Shapes, place: &Match) -> Option<&'a mut Shape> {
    shapes.get_mut(&print(place))?.iter_mut().find(|shape| shape.like.has_mask_of(place))
}

/// See the module comment.
#[derive(Default)]
pub struct Classifier {
    /// By number.
    tuples: Vec<Option<Tuple>>,
    /// Highest standing and number, in the order of search.
    order: Vec<(Standing, u32)>,
    /// By hash of the mask.
    shapes: Shapes,
    /// People and tenants choose what rules match, and whoever sends packets what collides: the seed is a secret.
    hasher: RandomState,
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
        let mut best: Option<&Entry> = None;
        for &(highest, number) in &self.order {
            if best.is_some_and(|best| best.standing > highest) {
                break;
            }
            let tuple = self.tuple(number);
            consulted.union_except(&tuple.mask, written);
            let hash = tuple.hash_of_key(key, &self.hasher);
            for entry in tuple.meeting(hash) {
                if best.is_some_and(|best| !entry.goes_before(best)) {
                    break;
                }
                if !entry.visible(version) {
                    continue;
                }
                if entry.place.bits() > tuple.bits {
                    entry.place.consult(consulted, written);
                }
                if entry.place.matches(key) {
                    best = Some(entry);
                    break;
                }
            }
        }
        best.map(|entry| &entry.rule)
    }

    /// Puts a rule in at a place, visible from `version` on.
    pub fn insert(&mut self, place: &Match, rule: Arc<Rule>, version: u64) {
        let print = print(place);
        if self.shape(place).is_none() {
            let home = self.home_of(&place.mask());
            let shape = Shape { like: place.clone(), places: 0, homes: vec![(home, 0)] };
            self.shapes.entry(print).or_default().push(shape);
        }
        let shape = shape_mut(&mut self.shapes, place).expect("it was put in if it was missing");
        shape.places += 1;
        let (home, count) = shape.homes.last_mut().expect("a mask has rules in some tuple");
        *count += 1;
        let home = *home;
        let standing = standing(&rule, place, print);
        let tuple = self.tuples[home as usize].as_mut().expect("numbers are of tuples there are");
        let hash = tuple.hash_of_place(place, &self.hasher);
        let entry = Entry::new(standing, hash, place.clone(), rule, version);
        let meeting = tuple.insert(entry);
        self.rank(home);
        if meeting > COLLISIONS {
            self.split(home, hash);
        }
    }

    /// Lets the rule disappear from a place at `version`; false if it is not (or no longer) there.
    pub fn remove(&mut self, place: &Match, rule: &Arc<Rule>, version: u64) -> bool {
        let Some(shape) = shape_mut(&mut self.shapes, place) else { return false };
        for &(number, _) in &shape.homes {
            let tuple = self.tuples[number as usize].as_mut().expect("numbers are of tuples there are");
            let hash = tuple.hash_of_place(place, &self.hasher);
            let wanted =
                |entry: &Entry| Arc::ptr_eq(&entry.rule, rule) && entry.removed == u64::MAX && entry.place == *place;
            if let Some(entry) = tuple.find_mut(hash, wanted) {
                entry.removed = version;
                return true;
            }
        }
        false
    }

    /// Forgets what disappeared from a place at or before `version`.
    pub fn collect(&mut self, place: &Match, version: u64) {
        let print = print(place);
        let Some(same) = self.shapes.get_mut(&print) else { return };
        let Some(shape) = same.iter_mut().find(|shape| shape.like.has_mask_of(place)) else { return };
        let mut changed = Vec::new();
        for (number, count) in &mut shape.homes {
            let tuple = self.tuples[*number as usize].as_mut().expect("numbers are of tuples there are");
            let hash = tuple.hash_of_place(place, &self.hasher);
            let gone = tuple.take(hash, |entry| entry.removed <= version && entry.place == *place).len();
            if gone > 0 {
                *count -= gone;
                shape.places -= gone;
                changed.push(*number);
            }
        }
        // The last one is where rules to come go, also if there are none at the time.
        let last = shape.homes.last().map(|home| home.0);
        shape.homes.retain(|&(number, count)| count > 0 || Some(number) == last);
        if shape.places == 0 {
            same.retain(|shape| shape.places > 0);
            if same.is_empty() {
                self.shapes.remove(&print);
            }
        }
        changed.into_iter().for_each(|number| self.settle(number));
    }

    fn shape(&self, place: &Match) -> Option<&Shape> {
        self.shapes.get(&print(place))?.iter().find(|shape| shape.like.has_mask_of(place))
    }

    fn tuple(&self, number: u32) -> &Tuple {
        self.tuples[number as usize].as_ref().expect("numbers are of tuples there are")
    }

    /// The tuple for a mask that has no rules yet.
    fn home_of(&mut self, mask: &FlowKey) -> u32 {
        let relaxed = relaxed(mask);
        let fits = |tuple: &Tuple| tuple.mask == *mask || tuple.mask.covers(&relaxed) && mask.covers(&tuple.mask);
        let finest = |all: &Self, fits: &dyn Fn(&Tuple) -> bool| {
            let numbers = all.order.iter().map(|&(_, number)| number).filter(|&number| fits(all.tuple(number)));
            numbers.max_by_key(|&number| all.tuple(number).bits)
        };
        if self.order.len() < SEPARATE_MASKS {
            return finest(self, &|tuple| tuple.mask == *mask).unwrap_or_else(|| self.add_tuple(*mask));
        }
        if let Some(number) = finest(self, &fits) {
            return number;
        }
        if self.order.len() < TUPLES {
            return self.add_tuple(relaxed);
        }
        finest(self, &|tuple| mask.covers(&tuple.mask)).unwrap_or_else(|| self.add_tuple(FlowKey::ZERO))
    }

    fn add_tuple(&mut self, mask: FlowKey) -> u32 {
        let free = self.tuples.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.tuples.push(None);
            self.tuples.len() - 1
        });
        self.tuples[number] = Some(Tuple::new(mask));
        self.order.push((0, number as u32));
        number as u32
    }

    /// Moves a tuple to where its highest standing belongs.
    fn rank(&mut self, number: u32) {
        let highest = self.tuple(number).highest();
        let mut at = self.order.iter().position(|&(_, own)| own == number).expect("every tuple is in the order");
        self.order[at].0 = highest;
        while at > 0 && self.order[at - 1].0 < highest {
            self.order.swap(at - 1, at);
            at -= 1;
        }
        while at + 1 < self.order.len() && self.order[at + 1].0 > highest {
            self.order.swap(at, at + 1);
            at += 1;
        }
    }

    /// After rules have gone from a tuple.
    fn settle(&mut self, number: u32) {
        if !self.tuple(number).is_empty() {
            return self.rank(number);
        }
        // Masks whose next rules were to come here have none at all, or choose anew.
        let mut homeless = false;
        for shape in self.shapes.values_mut().flatten().filter(|shape| shape.homes.iter().any(|home| home.0 == number))
        {
            shape.homes.retain(|home| home.0 != number);
            homeless |= shape.homes.is_empty();
        }
        debug_assert!(!homeless, "a mask has places in no tuple");
        self.tuples[number as usize] = None;
        self.order.retain(|&(_, own)| own != number);
    }

    /// Rules that meet in one place of a table go to a finer tuple, if there is one for them.
    fn split(&mut self, number: u32, hash: u32) {
        let tuple = self.tuple(number);
        let mut masks: Vec<(FlowKey, usize)> = Vec::new();
        for entry in tuple.meeting(hash) {
            let mask = entry.place.mask();
            match masks.iter_mut().find(|(own, _)| *own == mask) {
                Some((_, count)) => *count += 1,
                None => masks.push((mask, 1)),
            }
        }
        let Some(mut common) = masks.iter().map(|(mask, _)| *mask).reduce(|common, mask| common.masked(&mask)) else {
            return;
        };
        if common == tuple.mask {
            let finer = masks.iter().filter(|(mask, count)| *mask != tuple.mask && *count > COLLISIONS / 2);
            let Some((most, _)) = finer.max_by_key(|(_, count)| *count) else { return };
            common = *most;
        }
        let own = |&(_, number): &(Standing, u32)| self.tuple(number).mask == common;
        let target = match self.order.iter().copied().find(own) {
            Some((_, target)) => target,
            None if self.order.len() < TUPLES => self.add_tuple(common),
            None => return,
        };
        let source = self.tuples[number as usize].as_mut().expect("numbers are of tuples there are");
        let moving = source.take(hash, |entry| entry.place.mask().covers(&common));
        for mut entry in moving {
            let shape = shape_mut(&mut self.shapes, &entry.place).expect("it has this place");
            let from = shape.homes.iter().position(|home| home.0 == number).expect("it has this place there");
            shape.homes[from].1 -= 1;
            let had = shape.homes.iter().position(|home| home.0 == target);
            let count = had.map_or(0, |at| shape.homes.remove(at).1);
            shape.homes.retain(|&(_, count)| count > 0);
            shape.homes.push((target, count + 1));
            let tuple = self.tuples[target as usize].as_mut().expect("numbers are of tuples there are");
            entry.hash = tuple.hash_of_place(&entry.place, &self.hasher);
            tuple.insert(entry);
        }
        self.rank(target);
        self.settle(number);
    }

    /// The rule at exactly this place that is wanted and has not been removed.
    #[must_use]
    pub fn find(&self, place: &Match, wanted: impl Fn(&Rule) -> bool) -> Option<&Arc<Rule>> {
        self.shape(place)?.homes.iter().find_map(|&(number, _)| {
            let tuple = self.tuple(number);
            let mut meeting = tuple.meeting(tuple.hash_of_place(place, &self.hasher));
            let found = meeting.find(|entry| entry.removed == u64::MAX && entry.place == *place && wanted(&entry.rule));
            found.map(|entry| &entry.rule)
        })
    }

    /// Every rule in every place, those not removed.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let entries = self.tuples.iter().flatten().flat_map(Tuple::entries);
        entries.filter(|entry| entry.removed == u64::MAX).map(|entry| &entry.rule)
    }

    /// Whether rules have this mask.
    #[must_use]
    pub fn has_mask(&self, mask: &FlowKey) -> bool {
        self.shape(&Match::new(&FlowKey::ZERO, mask)).is_some()
    }

    /// How many different masks rules have.
    #[must_use]
    pub fn masks(&self) -> usize {
        self.shapes.values().map(Vec::len).sum()
    }

    /// How many tuples there are: the probes of a search in the worst case.
    #[must_use]
    pub fn tuples(&self) -> usize {
        self.order.len()
    }
}
