//! The flow tables themselves, versioned, without locks: what a change does to them, step by step.
//! `tables.rs` holds the lock around this and decides when a version becomes visible.
//!
//! A rule with an address set stands in its classifier once per member of the set; a change of the set
//! adds and removes those places and nothing else.

use super::classifier::Classifier;
use super::group::{Group, GroupId};
use super::groups::{Groups, group_partition};
use super::key::FlowKey;
use super::log::{ChangeLog, TOPOLOGY, partition};
use super::matched::Match;
use super::members::{Member, Members};
use super::rule::{Rule, RuleId};
use super::tables::TableSettings;
use crate::neighbours::Neighbours;
use crate::topology::Topology;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::v1::Field;

/// One flow table.
#[derive(Default)]
pub struct Table {
    /// Its name and meaning, if it was given one.
    pub settings: Option<TableSettings>,
    /// Its rules.
    pub classifier: Classifier,
    /// Rules with an address set, by the set's name and by identity: they may stand in no place or in many.
    by_set: HashMap<Arc<str>, HashMap<RuleId, Arc<Rule>>>,
    log: ChangeLog,
    /// Rules now.
    pub count: usize,
}

impl Table {
    /// The field its changes are told apart by.
    #[must_use]
    pub fn partition_field(&self) -> Field {
        self.settings.as_ref().map_or(Field::InPort, |settings| settings.partition)
    }
}

/// A place that something disappeared from, to be collected.
pub struct Remains {
    table: u8,
    place: Match,
}

/// All tables, address sets and the topology.
#[derive(Default)]
pub struct FlowState {
    tables: BTreeMap<u8, Table>,
    sets: HashMap<Arc<str>, Members>,
    /// The current topology and, while a change is under way, the one before; with the version each
    /// appears at, newest first.
    topologies: Vec<(u64, Arc<Topology>)>,
    /// Of topologies, and of groups.
    topology_log: ChangeLog,
    /// Next hops: as they are, whatever the version. Their changes are in the topology's log.
    pub neighbours: Neighbours,
    /// What rules share.
    pub groups: Groups,
    /// Rules now, all tables.
    pub count: usize,
    /// Places that they stand in.
    pub places: usize,
}

impl FlowState {
    /// A table, if it has rules or settings.
    #[must_use]
    pub fn table(&self, number: u8) -> Option<&Table> {
        self.tables.get(&number)
    }

    /// All of them.
    pub fn tables(&self) -> impl Iterator<Item = (u8, &Table)> {
        self.tables.iter().map(|(&number, table)| (number, table))
    }

    /// Address sets.
    #[must_use]
    pub fn sets(&self) -> &HashMap<Arc<str>, Members> {
        &self.sets
    }

    /// The topology as of a version.
    #[must_use]
    pub fn topology(&self, version: u64) -> Arc<Topology> {
        let found = self.topologies.iter().find(|(from, _)| *from <= version);
        found.map(|(_, topology)| topology.clone()).unwrap_or_default()
    }

    /// What has changed lately, by table; [`TOPOLOGY`] for ports, paths, groups and next hops.
    pub fn logs(&self) -> impl Iterator<Item = (u8, &ChangeLog)> {
        let tables = self.tables.iter().map(|(&number, table)| (number, &table.log));
        tables.chain(std::iter::once((TOPOLOGY, &self.topology_log)))
    }

    /// The rule of this identity.
    #[must_use]
    pub fn find(&self, id: &RuleId) -> Option<&Arc<Rule>> {
        let table = self.tables.get(&id.table)?;
        if let Some(set) = &id.set {
            return table.by_set.get(&set.set)?.get(id);
        }
        table.classifier.find(&id.matched, |rule| rule.id == *id)
    }

    /// Every rule of a table, in no order.
    pub fn rules_of(table: &Table) -> impl Iterator<Item = &Arc<Rule>> {
        let plain = table.classifier.rules().filter(|rule| rule.id.set.is_none());
        plain.chain(table.by_set.values().flat_map(HashMap::values))
    }

    /// The places a rule stands in.
    fn places(&self, id: &RuleId) -> Vec<Match> {
        match &id.set {
            None => vec![id.matched.clone()],
            Some(set) => self
                .sets
                .get(&set.set)
                .into_iter()
                .flat_map(Members::iter)
                .map(|member| place_of(id, *member))
                .collect(),
        }
    }

    /// Forgets the names and meanings of all tables but these.
    pub fn forget_settings(&mut self, kept: &[TableSettings], version: u64) {
        for (number, table) in &mut self.tables {
            if table.settings.is_some() && !kept.iter().any(|settings| settings.table == *number) {
                if table.partition_field() != Field::InPort {
                    table.log = ChangeLog::default();
                    table.log.record_all(None, version);
                }
                table.settings = None;
            }
        }
    }

    /// Names a table.
    pub fn configure(&mut self, settings: TableSettings, version: u64) {
        let table = self.tables.entry(settings.table).or_default();
        if table.partition_field() != settings.partition {
            // The log's partitions were of another field's values.
            table.log = ChangeLog::default();
            table.log.record_all(None, version);
        }
        table.settings = Some(settings);
    }

    /// Adds a rule, or replaces the one of its identity; false if the same one is there already. One with
    /// timeouts is replaced even by its like: they begin anew.
    pub fn add(&mut self, mut rule: Rule, version: u64, remains: &mut Vec<Remains>) -> bool {
        if let Some(old) = self.find(&rule.id).cloned() {
            let same = old.instructions == rule.instructions && old.cookie == rule.cookie && old.life == rule.life;
            if same && !rule.life.is_timed() {
                return false;
            }
            rule.counters = old.counters.clone();
            rule.created = old.created;
            self.remove(&old.id, version, remains);
        }
        let rule = Arc::new(rule);
        self.groups.count(&rule, true);
        let places = self.places(&rule.id);
        let table = self.tables.entry(rule.id.table).or_default();
        let field = table.partition_field();
        for place in &places {
            table.classifier.insert(place, rule.clone(), version);
            table.log.record(place, field, version);
        }
        if let Some(set) = &rule.id.set {
            table.by_set.entry(set.set.clone()).or_default().insert(rule.id.clone(), rule.clone());
        }
        table.count += 1;
        self.count += 1;
        self.places += places.len();
        true
    }

    /// Removes a rule, and gives it; `None` if there is none.
    pub fn remove(&mut self, id: &RuleId, version: u64, remains: &mut Vec<Remains>) -> Option<Arc<Rule>> {
        let rule = self.find(id).cloned()?;
        self.groups.count(&rule, false);
        let places = self.places(id);
        let table = self.tables.get_mut(&id.table).expect("the rule was found in it");
        let field = table.partition_field();
        self.places -= places.len();
        for place in places {
            table.classifier.remove(&place, &rule, version);
            table.log.record(&place, field, version);
            remains.push(Remains { table: id.table, place });
        }
        if let Some(set) = &id.set
            && let Some(users) = table.by_set.get_mut(&set.set)
        {
            users.remove(id);
            if users.is_empty() {
                table.by_set.remove(&set.set);
            }
        }
        table.count -= 1;
        self.count -= 1;
        Some(rule)
    }

    /// The rules that name a set, with their tables.
    pub fn users<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u8, &'a Arc<Rule>)> {
        self.tables.iter().flat_map(move |(&number, table)| {
            let rules = table.by_set.get(name).into_iter().flat_map(HashMap::values);
            rules.map(move |rule| (number, rule))
        })
    }

    /// Adds members that an address set does not have, and with them places of the rules that name it. Creates
    /// the set.
    pub fn extend_set(&mut self, name: &Arc<str>, members: &[Member], version: u64) {
        let set = self.sets.entry(name.clone()).or_default();
        members.iter().for_each(|&member| set.insert(member));
        for table in self.tables.values_mut() {
            let field = table.partition_field();
            for rule in table.by_set.get(name).into_iter().flat_map(HashMap::values) {
                self.places += members.len();
                for &member in members {
                    let place = place_of(&rule.id, member);
                    table.classifier.insert(&place, rule.clone(), version);
                    table.log.record(&place, field, version);
                }
            }
        }
    }

    /// Removes members that an address set has.
    pub fn shrink_set(&mut self, name: &Arc<str>, members: &[Member], version: u64, remains: &mut Vec<Remains>) {
        let Some(set) = self.sets.get_mut(name) else { return };
        members.iter().for_each(|member| set.remove(member));
        for (&number, table) in &mut self.tables {
            let field = table.partition_field();
            for rule in table.by_set.get(name).into_iter().flat_map(HashMap::values) {
                self.places -= members.len();
                for &member in members {
                    let place = place_of(&rule.id, member);
                    table.classifier.remove(&place, rule, version);
                    table.log.record(&place, field, version);
                    remains.push(Remains { table: number, place });
                }
            }
        }
    }

    /// Forgets a set that has no members left.
    pub fn remove_set(&mut self, name: &str) {
        self.sets.remove(name);
    }

    /// Replaces the topology from `version` on, noting what differs.
    pub fn change_topology(&mut self, topology: Topology, version: u64) {
        let before = self.topology(version);
        let numbers: BTreeSet<&u32> = before.ports.keys().chain(topology.ports.keys()).collect();
        for number in numbers {
            if before.ports.get(number) != topology.ports.get(number) {
                self.topology_log.record_all(Some(partition(&number.to_be_bytes())), version);
                self.neighbours.forget_port(*number);
            }
        }
        let remotes: BTreeSet<&Ipv4Addr> = before.paths.keys().chain(topology.paths.keys()).collect();
        for remote in remotes {
            if before.paths.get(remote) != topology.paths.get(remote) {
                self.topology_log.record_all(Some(partition(&remote.octets())), version);
            }
        }
        self.topologies.insert(0, (version, Arc::new(topology)));
        self.note_neighbours(version);
    }

    /// Records what has changed of next hops; true if anything has.
    pub fn note_neighbours(&mut self, version: u64) -> bool {
        let changed = self.neighbours.take_changed();
        changed.iter().for_each(|hop| self.topology_log.record_all(Some(hop.partition()), version));
        !changed.is_empty()
    }

    /// Sets and removes groups from `version` on, noting what differs.
    pub fn change_groups(&mut self, set: Vec<Group>, remove: &[GroupId], version: u64) {
        for &id in remove {
            if set.iter().all(|group| group.id != id) && self.groups.remove(id, version) {
                self.topology_log.record_all(Some(group_partition(id)), version);
            }
        }
        for group in set {
            let id = group.id;
            if self.groups.set(group, version) {
                self.topology_log.record_all(Some(group_partition(id)), version);
            }
        }
    }

    /// Forgets what nobody can see any more at `version`.
    pub fn collect(&mut self, remains: Vec<Remains>, version: u64) {
        self.groups.collect(version);
        for remains in remains {
            if let Some(table) = self.tables.get_mut(&remains.table) {
                table.classifier.collect(&remains.place, version);
            }
        }
        let current = self.topologies.iter().position(|(from, _)| *from <= version);
        self.topologies.truncate(current.map_or(0, |index| index + 1));
    }
}

/// The mask of a rule's places for a set's members of this prefix length.
#[must_use]
pub fn mask_of(id: &RuleId, length: u8) -> FlowKey {
    let set = id.set.as_ref().expect("only rules with a set have members' places");
    let mut mask = id.matched.mask();
    let bits = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    mask.field_mut(set.field).copy_from_slice(&bits.to_be_bytes());
    mask
}

fn place_of(id: &RuleId, (address, length): Member) -> Match {
    let set = id.set.as_ref().expect("only rules with a set have members' places");
    let mut value = id.matched.value();
    value.field_mut(set.field).copy_from_slice(&address.octets());
    Match::new(&value, &mask_of(id, length))
}
