//! What changed lately, so that a change does not empty the caches.
//!
//! Each table tells its changes apart by the exact value of one field (its partition field), hashed to
//! one of [`PARTITIONS`]; changes of rules that leave the field wild go to one partition more. A
//! partition remembers the version of its last change and the last [`CHANGES_PER_PARTITION`] changed
//! matches. A cache entry remembers the version it was last known good at and the partitions its walk
//! passed; it is still good if none of them has a newer change, or if its packets disagree with every
//! newer changed match on bits that all packets of the entry share.
//!
//! The tables' own logs ([`ChangeLog`]) are written by commits, under the tables' lock. Each worker has a copy
//! ([`Recent`]), which catches up when the version changes: checking an entry takes no lock.

use super::key::FlowKey;
use super::matched::Match;
use crate::limits::{CHANGES_PER_PARTITION, COMPARISONS_AT_ONCE, COMPARISONS_PER_WALK, PARTITIONS};
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use weft_proto::v1::Field;

/// Where a walk passed a table: the partition of the packet's value there, or none if packets of the
/// same entry may have different values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passed {
    /// The table; [`TOPOLOGY`] for ports and paths.
    pub table: u8,
    /// Less than [`PARTITIONS`].
    pub partition: Option<u16>,
    /// Whether it was another packet's walk: that which began a connection this one belongs to. Its values
    /// are not known here, so every newer change of the partition concerns it.
    pub others: bool,
}

/// The table number under which changes of ports and paths are recorded.
pub const TOPOLOGY: u8 = 255;

const WILD: u16 = PARTITIONS as u16;

/// The partition of a value.
#[must_use]
pub fn partition(value: &[u8]) -> u16 {
    // Which values share a partition is no secret worth keeping: it costs a fresh walk, no more.
    (foldhash::fast::FixedState::with_seed(0).hash_one(value) % PARTITIONS as u64) as u16
}

/// Partitions of a table, with that of rules that leave the field wild.
const ALL: usize = PARTITIONS + 1;

/// The last changes of a partition.
#[derive(Clone, Default)]
struct Changes {
    /// Changes at or before this version are forgotten.
    forgotten: u64,
    last: VecDeque<(u64, Match)>,
}

/// The changes of one table.
pub struct ChangeLog {
    last: u64,
    /// Versions of the last change, by partition: for nearly all checks all there is to look at.
    lasts: Box<[u64; ALL]>,
    changes: BTreeMap<u16, Changes>,
}

impl Default for ChangeLog {
    fn default() -> Self {
        Self { last: 0, lasts: Box::new([0; ALL]), changes: BTreeMap::new() }
    }
}

impl ChangeLog {
    /// Records that rules of this match changed at `version`, in a table partitioned by `field`.
    pub fn record(&mut self, changed: &Match, field: Field, version: u64) {
        let index = changed.exactly(field).map_or(WILD, |value| partition(&value[..width(field)]));
        self.note(index, version);
        let changes = self.changes.entry(index).or_default();
        if changes.last.len() == CHANGES_PER_PARTITION
            && let Some((gone, _)) = changes.last.pop_front()
        {
            changes.forgotten = gone;
        }
        changes.last.push_back((version, changed.clone()));
    }

    /// Records a change that concerns everything in a partition (`None`: in the table).
    pub fn record_all(&mut self, index: Option<u16>, version: u64) {
        let index = index.unwrap_or(WILD);
        self.note(index, version);
        self.changes.insert(index, Changes { forgotten: version, last: VecDeque::new() });
    }

    fn note(&mut self, index: u16, version: u64) {
        self.last = version;
        self.lasts[usize::from(index)] = version;
    }

    /// Takes over what another log of the same table has recorded after `version`.
    fn catch_up(&mut self, other: &Self, version: u64) {
        self.last = other.last;
        for (index, (own, last)) in self.lasts.iter_mut().zip(&*other.lasts).enumerate() {
            if *last > version {
                *own = *last;
                let index = index as u16;
                self.changes.insert(index, other.changes.get(&index).cloned().unwrap_or_default());
            }
        }
    }

    /// Whether an entry that was good at version `since` still is, as far as this table goes. `key` and
    /// `stable`: a packet of the entry, and the bits that all its packets share unchanged through the
    /// whole walk. What would take more than `work` is not known to be good.
    #[must_use]
    #[inline]
    pub fn unaffected(&self, passed: Passed, since: u64, key: &FlowKey, stable: &FlowKey, work: &mut Work) -> bool {
        if self.last <= since {
            return true;
        }
        let mut good = |index: u16| {
            self.lasts[usize::from(index)] <= since || self.disagree(index, passed, since, (key, stable), work)
        };
        match passed.partition {
            Some(own) => good(own) && good(WILD),
            None => (0..ALL as u16).all(good),
        }
    }

    /// Whether an entry's packets disagree with all newer changes of a partition.
    fn disagree(
        &self,
        index: u16,
        passed: Passed,
        since: u64,
        (key, stable): (&FlowKey, &FlowKey),
        work: &mut Work,
    ) -> bool {
        let Some(changes) = self.changes.get(&index) else { return false };
        let mut newer = changes.last.iter().rev().take_while(|(version, _)| *version > since);
        changes.forgotten <= since
            && !passed.others
            && newer.all(|(_, changed)| work.one() && disagrees(changed, key, stable))
    }
}

/// What one worker knows of the latest changes of all tables, as of the version that it is at: its own copy, to which
/// entries are held without a lock. It costs what has changed.
#[derive(Default)]
pub struct Recent {
    version: u64,
    /// By table number, [`TOPOLOGY`] among them.
    logs: Vec<Option<ChangeLog>>,
}

impl Recent {
    /// As of which version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes over what has changed until `version`; `logs` are those of the tables.
    pub fn catch_up<'a>(&mut self, logs: impl Iterator<Item = (u8, &'a ChangeLog)>, version: u64) {
        for (number, log) in logs.filter(|(_, log)| log.last > self.version) {
            let number = usize::from(number);
            if number >= self.logs.len() {
                self.logs.resize_with(number + 1, || None);
            }
            self.logs[number].get_or_insert_default().catch_up(log, self.version);
        }
        self.version = version;
    }

    /// Whether an entry last good at `since` still is.
    #[must_use]
    #[inline]
    pub fn unaffected(&self, passed: &[Passed], since: u64, key: &FlowKey, stable: &FlowKey, work: &mut Work) -> bool {
        passed.iter().all(|passed| match self.logs.get(usize::from(passed.table)) {
            Some(Some(log)) => log.unaffected(*passed, since, key, stable, work),
            _ => true,
        })
    }
}

/// Comparisons that a check may still make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work(usize);

impl Work {
    /// What one check may cost at most.
    pub const ONE_WALK: Self = Self(COMPARISONS_PER_WALK);
    /// What costs so little that it needs no budget.
    pub const AT_ONCE: Self = Self(COMPARISONS_AT_ONCE);

    fn one(&mut self) -> bool {
        let more = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        more
    }

    /// Comparisons made since there was one walk's worth.
    #[must_use]
    pub fn done(self) -> usize {
        COMPARISONS_PER_WALK - self.0
    }
}

/// Bytes of a field.
fn width(field: Field) -> usize {
    super::key::place(field).1
}

fn disagrees(changed: &Match, key: &FlowKey, stable: &FlowKey) -> bool {
    changed.words().any(|(index, mask, value)| (key.words()[index] ^ value) & mask & stable.words()[index] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_port(port: u8, proto: u8) -> (FlowKey, FlowKey) {
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        (value.in_port, mask.in_port) = ([0, 0, 0, port], [0xff; 4]);
        (value.ip_proto, mask.ip_proto) = (proto, 0xff);
        (value, mask)
    }

    fn changed((value, mask): (FlowKey, FlowKey)) -> Match {
        Match::new(&value, &mask)
    }

    #[test]
    fn only_changes_that_could_match_affect_an_entry() {
        let mut log = ChangeLog::default();
        let entry = on_port(1, 6);
        let passed = Passed { table: 0, partition: Some(partition(&[0, 0, 0, 1])), others: false };
        let good = |log: &ChangeLog, since, stable: &FlowKey| {
            log.unaffected(passed, since, &entry.0, stable, &mut Work::ONE_WALK.clone())
        };

        log.record(&changed(on_port(2, 6)), Field::InPort, 5);
        assert!(good(&log, 4, &entry.1), "another partition (or at least another port)");
        log.record(&changed(on_port(1, 17)), Field::InPort, 6);
        assert!(good(&log, 5, &entry.1), "it disagrees on the protocol");
        let mut port_only = entry.1;
        port_only.ip_proto = 0;
        assert!(!good(&log, 5, &port_only), "packets of the entry may have any protocol");
        assert!(good(&log, 6, &port_only), "nothing is newer");
        log.record(&changed(on_port(1, 6)), Field::InPort, 7);
        assert!(!good(&log, 6, &entry.1), "it matches");
        let mut wild = on_port(0, 6);
        (wild.0.in_port, wild.1.in_port) = ([0; 4], [0; 4]);
        log.record(&changed(wild), Field::InPort, 8);
        assert!(!good(&log, 7, &entry.1), "a rule that leaves the port wild concerns every port");
    }

    #[test]
    fn forgotten_changes_count_as_matching() {
        let mut log = ChangeLog::default();
        let entry = on_port(1, 6);
        let passed = Passed { table: 0, partition: Some(partition(&[0, 0, 0, 1])), others: false };
        for version in 1..=CHANGES_PER_PARTITION as u64 + 1 {
            log.record(&changed(on_port(1, 17)), Field::InPort, version);
        }
        let good =
            |log: &ChangeLog, since| log.unaffected(passed, since, &entry.0, &entry.1, &mut Work::ONE_WALK.clone());
        assert!(!good(&log, 0));
        assert!(good(&log, 1));
        log.record_all(None, 99);
        assert!(!good(&log, 98));
    }

    #[test]
    fn a_check_costs_no_more_than_a_walk() {
        let mut log = ChangeLog::default();
        let entry = on_port(1, 6);
        for change in 0..PARTITIONS as u64 * 8 {
            let mut other = on_port(0, 17);
            other.0.in_port = (2 + change as u32).to_be_bytes();
            log.record(&changed(other), Field::InPort, 5);
        }
        // Packets of any port, so every partition's changes concern it.
        let passed = Passed { table: 0, partition: None, others: false };
        let mut work = Work::ONE_WALK;
        assert!(!log.unaffected(passed, 4, &entry.0, &entry.1, &mut work), "given up");
        assert_eq!(work.done(), COMPARISONS_PER_WALK);
        let own = Passed { partition: Some(partition(&[0, 0, 0, 1])), ..passed };
        let mut work = Work::ONE_WALK;
        assert!(log.unaffected(own, 4, &entry.0, &entry.1, &mut work));
        assert!((1..=CHANGES_PER_PARTITION).contains(&work.done()), "{work:?}");
    }

    proptest::proptest! {
        /// A worker that catches up now and then knows what one knows that looks for the first time.
        #[test]
        fn who_catches_up_knows_as_much_as_who_begins(
            events in proptest::collection::vec((0..3_u8, 0..4_u8, 0..6_u8, 0..8_u8), 1..120),
        ) {
            let (mut log, mut worker) = (ChangeLog::default(), Recent::default());
            for (version, (port, proto, kind, look)) in (1_u64..).zip(events) {
                match kind {
                    0 => log.record_all(Some(partition(&[0, 0, 0, port])), version),
                    1 if proto == 0 => log.record_all(None, version),
                    1 => log.record(&changed((FlowKey::ZERO, FlowKey::ZERO)), Field::InPort, version),
                    _ => log.record(&changed(on_port(port, proto)), Field::InPort, version),
                }
                if look > 0 {
                    continue;
                }
                worker.catch_up([(7, &log)].into_iter(), version);
                let mut other = Recent::default();
                other.catch_up([(7, &log)].into_iter(), version);
                for (port, proto) in (0..3).flat_map(|port| (0..4).map(move |proto| (port, proto))) {
                    let (key, mask) = on_port(port, proto);
                    let passed = [Passed { table: 7, partition: Some(partition(&[0, 0, 0, port])), others: false }];
                    for since in version.saturating_sub(40)..=version {
                        let good = |recent: &Recent| recent.unaffected(&passed, since, &key, &mask, &mut Work::ONE_WALK.clone());
                        proptest::prop_assert_eq!(good(&worker), good(&other));
                    }
                }
            }
        }
    }
}
