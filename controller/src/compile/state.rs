//! What one host should hold, its digests, and the bundle that leads from one state to another.

use crate::limits::BUNDLE_PART_BYTES;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::digest;
use weft_proto::v1::{self, AddressSet, Announcement, Bundle, FieldMatch, Origin, PortSpec, Prefix, Rule, TableConfig};

/// What tells one fabric rule from another: table, priority and match (in canonical form, encoded).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIdentity {
    table: u32,
    priority: u32,
    matched: Vec<u8>,
}

impl RuleIdentity {
    /// Of a rule in canonical form.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        let mut matched = Vec::new();
        for field in &rule.r#match {
            // Writing to a vector cannot run out of space.
            let _ = field.encode_length_delimited(&mut matched);
        }
        Self { table: rule.table, priority: rule.priority, matched }
    }
}

/// Everything of the fabric's on one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostState {
    /// The tables, with names and meanings.
    pub tables: Vec<TableConfig>,
    /// By number.
    pub ports: BTreeMap<u32, PortSpec>,
    /// In canonical form.
    pub rules: BTreeMap<RuleIdentity, Rule>,
    /// By name.
    pub address_sets: BTreeMap<String, AddressSet>,
    /// By cookie.
    pub origins: BTreeMap<u64, String>,
    /// The addresses that this host answers for outside, by port, VLAN and address: told when they come or change.
    pub announcements: BTreeMap<(u32, u32, Vec<u8>), Announcement>,
}

impl HostState {
    /// Adds a rule in canonical form.
    pub(super) fn add(&mut self, rule: Rule) {
        let identity = RuleIdentity::of(&rule);
        let before = self.rules.insert(identity, rule);
        debug_assert!(before.is_none(), "two rules with one identity: {before:?}");
    }

    /// Adds a rule in canonical form, unless there is one that matches the same.
    pub(super) fn add_if_new(&mut self, rule: Rule) {
        self.rules.entry(RuleIdentity::of(&rule)).or_insert(rule);
    }

    /// Says that an address is here.
    pub(super) fn announce(&mut self, told: Announcement) {
        self.announcements.insert((told.port, told.vlan, told.address.clone()), told);
    }

    /// Says what a cookie stands for.
    pub(super) fn origin(&mut self, cookie: u64, text: String) {
        self.origins.insert(cookie, text);
    }

    /// Whether a switch's digests are those of this state.
    #[must_use]
    pub fn agrees_with(&self, digests: &v1::Digests) -> bool {
        let mut tables: BTreeMap<u32, u64> = BTreeMap::new();
        for rule in self.rules.values() {
            let sum = tables.entry(rule.table).or_default();
            *sum = sum.wrapping_add(digest::of(rule));
        }
        // A table without rules may be listed or not.
        tables.retain(|_, sum| *sum != 0);
        let theirs: BTreeMap<u32, u64> =
            digests.tables.iter().filter(|table| table.rules != 0).map(|table| (table.table, table.rules)).collect();
        tables == theirs
            && digests.ports == digest::sum(self.ports.values())
            && digests.address_sets == digest::sum(self.address_sets.values())
    }

    /// A bundle that makes this state of nothing, or of anything of the fabric's.
    #[must_use]
    pub fn whole(&self) -> Bundle {
        let mut bundle = Self::default().bundle_to(self);
        bundle.replace_owner = v1::Owner::Fabric.into();
        bundle
    }

    /// A bundle that leads from this state to another; without term and generations.
    #[must_use]
    pub fn bundle_to(&self, next: &Self) -> Bundle {
        let mut bundle = Bundle::default();
        if self.tables != next.tables {
            bundle.tables.clone_from(&next.tables);
        }
        bundle.add_ports = newer(&self.ports, &next.ports).map(|(_, port)| port.clone()).collect();
        bundle.remove_ports = self.ports.keys().filter(|number| !next.ports.contains_key(number)).copied().collect();
        for (name, set) in newer(&self.address_sets, &next.address_sets) {
            match self.address_sets.get(name) {
                None => bundle.set_address_sets.push(set.clone()),
                // Of a set that is there only what differs is sent, however large it is.
                Some(before) => {
                    bundle.extend_address_sets.extend(difference(set, before));
                    bundle.shrink_address_sets.extend(difference(before, set));
                }
            }
        }
        bundle.remove_address_sets =
            self.address_sets.keys().filter(|name| !next.address_sets.contains_key(*name)).cloned().collect();
        bundle.add_rules = newer(&self.rules, &next.rules).map(|(_, rule)| rule.clone()).collect();
        bundle.remove_rules = self
            .rules
            .iter()
            .filter(|(identity, _)| !next.rules.contains_key(identity))
            .map(|(_, rule)| Rule { instructions: None, cookie: 0, ..rule.clone() })
            .collect();
        bundle.origins =
            newer(&self.origins, &next.origins).map(|(&cookie, text)| Origin { cookie, text: text.clone() }).collect();
        bundle.announcements = newer(&self.announcements, &next.announcements).map(|(_, told)| told.clone()).collect();
        bundle
    }

    /// The state to go to first on the way to another, and whether that is only part of the way. A port that
    /// changes its place or form is removed before it is made anew: within one bundle, what a number stands
    /// for would be in question.
    #[must_use]
    pub fn step_towards(&self, next: Self) -> (Self, bool) {
        let changed = |number: &u32, port: &PortSpec| next.ports.get(number).is_some_and(|other| other != port);
        if !self.ports.iter().any(|(number, port)| changed(number, port)) {
            return (next, false);
        }
        let mut step = self.clone();
        step.ports.retain(|number, port| !changed(number, port));
        (step, true)
    }
}

/// The members of one set that another does not have, if there are any. Both are in canonical form.
fn difference(set: &AddressSet, other: &AddressSet) -> Option<AddressSet> {
    let key = |prefix: &Prefix| (prefix.address.clone(), prefix.length);
    let others: BTreeSet<_> = other.members.iter().map(key).collect();
    let members: Vec<Prefix> = set.members.iter().filter(|prefix| !others.contains(&key(prefix))).cloned().collect();
    (!members.is_empty()).then(|| AddressSet { name: set.name.clone(), members })
}

fn newer<'a, Key: Ord, Value: PartialEq>(
    before: &'a BTreeMap<Key, Value>,
    after: &'a BTreeMap<Key, Value>,
) -> impl Iterator<Item = (&'a Key, &'a Value)> {
    after.iter().filter(|(key, value)| before.get(key) != Some(value))
}

/// Whether a bundle changes nothing.
#[must_use]
pub fn is_empty(bundle: &Bundle) -> bool {
    bundle.encoded_len() == 0
}

/// Cuts a bundle into messages of at most 1 MB; each but the last says `more`. Term, generations and
/// owner stand in each.
#[must_use]
pub fn cut(mut bundle: Bundle) -> Vec<Bundle> {
    let header = Bundle {
        term: bundle.term,
        generation: bundle.generation,
        base_generation: bundle.base_generation,
        replace_owner: bundle.replace_owner,
        ..Bundle::default()
    };
    if bundle.encoded_len() <= BUNDLE_PART_BYTES {
        return vec![bundle];
    }
    let mut cutter = Cutter { parts: Vec::new(), part: header.clone(), header, size: 0 };
    for table in bundle.tables.drain(..) {
        cutter.room(table.encoded_len()).tables.push(table);
    }
    for port in bundle.add_ports.drain(..) {
        cutter.room(port.encoded_len()).add_ports.push(port);
    }
    for number in bundle.remove_ports.drain(..) {
        cutter.room(0).remove_ports.push(number);
    }
    for set in bundle.set_address_sets.drain(..) {
        cutter.room(set.encoded_len()).set_address_sets.push(set);
    }
    for set in bundle.extend_address_sets.drain(..) {
        cutter.room(set.encoded_len()).extend_address_sets.push(set);
    }
    for set in bundle.shrink_address_sets.drain(..) {
        cutter.room(set.encoded_len()).shrink_address_sets.push(set);
    }
    for name in bundle.remove_address_sets.drain(..) {
        cutter.room(name.len()).remove_address_sets.push(name);
    }
    for rule in bundle.add_rules.drain(..) {
        cutter.room(rule.encoded_len()).add_rules.push(rule);
    }
    for rule in bundle.remove_rules.drain(..) {
        cutter.room(rule.encoded_len()).remove_rules.push(rule);
    }
    for origin in bundle.origins.drain(..) {
        cutter.room(origin.encoded_len()).origins.push(origin);
    }
    for told in bundle.announcements.drain(..) {
        cutter.room(told.encoded_len()).announcements.push(told);
    }
    for id in bundle.request_ids.drain(..) {
        cutter.room(id.len()).request_ids.push(id);
    }
    cutter.parts.push(cutter.part);
    let last = cutter.parts.len() - 1;
    cutter.parts[..last].iter_mut().for_each(|part| part.more = true);
    cutter.parts
}

struct Cutter {
    header: Bundle,
    parts: Vec<Bundle>,
    part: Bundle,
    size: usize,
}

impl Cutter {
    /// The part that has room for an item of this size, its tag and length included.
    fn room(&mut self, item: usize) -> &mut Bundle {
        let item = item + 8;
        if self.size > 0 && self.size + item > BUNDLE_PART_BYTES - 64 {
            self.parts.push(std::mem::replace(&mut self.part, self.header.clone()));
            self.size = 0;
        }
        self.size += item;
        &mut self.part
    }
}

/// The value that a rule matches exactly in a field, if it does; for those who read states.
#[must_use]
pub fn matched(rule: &Rule, field: v1::Field) -> Option<&[u8]> {
    let exact = |matched: &&FieldMatch| matched.field() == field && matched.mask.is_empty();
    rule.r#match.iter().find(exact).map(|matched| matched.value.as_slice())
}
