//! All flow tables of a switch, shared by its workers, changed atomically and cheaply.
//!
//! A commit puts its changes into the tables piece by piece under short write locks, marked with the
//! next version; readers, who ask at the version they loaded at the start of their batch, do not see
//! them. Storing that version makes all of them visible at once. Then the commit waits until each worker
//! has finished a batch at the new version or sleeps (the barrier), and collects what nobody can see any
//! more. Its cost is that of the rules changed, not of the rules there are.
//!
//! The version is the only thing of this that a worker reads per batch; the lock is taken by the slow
//! path only.
//!
//! Next hops (`neighbours.rs`) are changed by workers, who must never wait for a commit: these changes are visible
//! at once, to walks at any version, and recorded under the version that comes next. It is made current by the
//! worker, or by the commit that is under way ([`Tables::announce`]): then the programs of those hops walk again.

use super::action::tunnel_destinations;
use super::group::{Group, GroupId};
use super::groups;
use super::key::FlowKey;
use super::members::{Difference, Member, Members};
use super::resolve::{Connected, Packet, View, resolve};
use super::rule::{Owner, Rule, RuleId};
use super::state::{FlowState, Remains, mask_of};
use super::trace::Trace;
use crate::connection::Assumed;
use crate::limits;
use crate::line::Line;
use crate::neighbours::Neighbours;
use crate::topology::Topology;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, Field};

/// Changes put in under one write lock: a few hundred microseconds that a miss may have to wait.
const STEP: usize = 256;

/// The name and meaning of a table, and the field its changes are told apart by.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSettings {
    /// 0 to 254.
    pub table: u8,
    /// One word.
    pub name: Arc<str>,
    /// One line.
    pub meaning: Arc<str>,
    /// See `flow.proto`.
    pub partition: Field,
}

/// A change of an address set; members are (address, prefix length).
#[derive(Clone, Debug)]
pub enum SetChange {
    /// Replace it whole, or create it.
    Set(Arc<str>, Vec<Member>),
    /// Add members; creates it.
    Extend(Arc<str>, Vec<Member>),
    /// Remove members.
    Shrink(Arc<str>, Vec<Member>),
    /// Remove it: rules that name it match nothing.
    Remove(Arc<str>),
}

impl SetChange {
    /// The set's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Set(name, _) | Self::Extend(name, _) | Self::Shrink(name, _) | Self::Remove(name) => name,
        }
    }

    /// Adds to the difference that earlier changes made what this one does.
    fn apply(&self, before: Option<&Members>, difference: &mut Difference) {
        match self {
            Self::Set(_, new) => {
                difference.clear(before);
                new.iter().for_each(|&member| difference.add(before, member));
            }
            Self::Extend(_, more) => more.iter().for_each(|&member| difference.add(before, member)),
            Self::Shrink(_, fewer) => fewer.iter().for_each(|&member| difference.remove(before, member)),
            Self::Remove(_) => difference.clear(before),
        }
    }
}

/// What one commit changes: all of it becomes visible at once.
#[derive(Default)]
pub struct Change {
    /// Names of tables.
    pub settings: Vec<TableSettings>,
    /// Forget what `settings` leaves out.
    pub replace_settings: bool,
    /// Remove everything of this owner that is not in `add`; what is there already and the same keeps
    /// its counters and cache entries.
    pub replace_owner: Option<Owner>,
    /// Rules to add or, where the identity exists, to replace (keeping counters and `created`).
    pub add: Vec<Rule>,
    /// Rules to remove; those that do not exist are ignored.
    pub remove: Vec<RuleId>,
    /// In order.
    pub sets: Vec<SetChange>,
    /// Groups to set.
    pub set_groups: Vec<Group>,
    /// Groups to remove, unless they are set; those that do not exist are ignored.
    pub remove_groups: Vec<GroupId>,
    /// The topology from then on; absent: as it is.
    pub topology: Option<Topology>,
}

/// What a commit did.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The version from which on it is visible.
    pub version: u64,
    /// Rules that are new or have new instructions.
    pub added: usize,
    /// Rules that are gone.
    pub removed: usize,
    /// Those of them whose removal is to be told.
    pub told: Vec<Arc<Rule>>,
    /// Rules that are there now and end by themselves, of those that were to be added.
    pub timed: Vec<Arc<Rule>>,
}

/// How far a worker is; it alone writes it.
#[derive(Debug)]
pub struct Progress(Line<AtomicU64>);

/// The worker sleeps, or has not begun: it will load the version before it touches a packet.
const ASLEEP: u64 = u64::MAX;

impl Default for Progress {
    fn default() -> Self {
        Self(Line::new(AtomicU64::new(ASLEEP)))
    }
}

impl Progress {
    /// The worker finished a batch at this version.
    pub fn finished(&self, version: u64) {
        self.0.store(version, Ordering::Release);
    }

    /// The worker goes to sleep; it calls [`Progress::awake`] before it loads the version again.
    pub fn asleep(&self) {
        self.0.store(ASLEEP, Ordering::SeqCst);
    }

    /// The worker is about to load the version.
    pub fn awake(&self) {
        // Sequentially consistent, as are the load of the version that follows and both accesses of a
        // commit: either the commit sees this store and waits, or the worker sees the new version.
        self.0.store(0, Ordering::SeqCst);
    }

    fn reached(&self, version: u64) -> bool {
        self.0.load(Ordering::SeqCst) >= version
    }
}

/// All flow tables of a switch. See the module comment.
pub struct Tables {
    /// Read by every worker for every batch, while misses take the lock beside it.
    version: Line<AtomicU64>,
    state: RwLock<FlowState>,
    /// Held for the length of a commit.
    commits: Mutex<()>,
    workers: Mutex<Vec<Arc<Progress>>>,
    /// Something is recorded under a version that is not current yet.
    unannounced: AtomicBool,
}

impl Tables {
    /// Empty tables at version 1.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            version: Line::new(AtomicU64::new(1)),
            state: RwLock::default(),
            commits: Mutex::default(),
            workers: Mutex::default(),
            unannounced: AtomicBool::new(false),
        })
    }

    /// Counts commits, and changes of next hops; what a worker loads once per batch.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// The state, for reading; the slow path only.
    ///
    /// # Panics
    /// If a writer panicked: the tables may be half changed then.
    pub fn read(&self) -> RwLockReadGuard<'_, FlowState> {
        self.state.read().expect("a commit panicked")
    }

    fn write(&self) -> RwLockWriteGuard<'_, FlowState> {
        self.state.write().expect("a commit panicked")
    }

    /// Adds a worker to those a commit waits for.
    pub fn enrol(&self, progress: Arc<Progress>) {
        self.workers.lock().expect("no panic under this lock").push(progress);
    }

    /// Removes a worker that has ended.
    pub fn dismiss(&self, progress: &Arc<Progress>) {
        self.workers.lock().expect("no panic under this lock").retain(|own| !Arc::ptr_eq(own, progress));
    }

    /// Makes a change visible whole, or refuses it whole (limits); returns when no worker uses the old
    /// rules any more. Blocking: not for async threads.
    ///
    /// # Errors
    /// A limit that would be exceeded; nothing is changed.
    ///
    /// # Panics
    /// If an earlier commit panicked.
    pub fn commit(&self, change: Change) -> Result<Committed, Fault> {
        let _alone = self.commits.lock().expect("a commit panicked");
        let (mut remove, mut remove_groups) = (change.remove, change.remove_groups);
        if let Some(owner) = change.replace_owner {
            let keep: Identities = change.add.iter().map(|rule| &rule.id).collect();
            let state = self.read();
            let rules = state.tables().flat_map(|(_, table)| FlowState::rules_of(table));
            let gone = rules.filter(|rule| rule.id.owner == owner && !keep.contains(&rule.id));
            remove.extend(gone.map(|rule| rule.id.clone()));
            remove_groups.extend(state.groups.iter().map(|group| group.id).filter(|id| id.0 == owner));
        }
        groups::check(&self.read(), &change.add, &remove, &change.set_groups, &remove_groups)?;
        check_limits(&self.read(), &change.add, &remove, &change.sets)?;

        let version = self.version() + 1;
        let mut done = Committed { version, ..Committed::default() };
        let mut remains: Vec<Remains> = Vec::new();
        {
            let mut state = self.write();
            if change.replace_settings {
                state.forget_settings(&change.settings, version);
            }
            for settings in change.settings {
                state.configure(settings, version);
            }
            if let Some(topology) = change.topology {
                state.change_topology(topology, version);
            }
            state.change_groups(change.set_groups, &remove_groups, version);
        }
        for set in &change.sets {
            self.change_set(set, version, &mut remains);
        }
        for step in remove.chunks(STEP) {
            let mut state = self.write();
            for rule in step.iter().filter_map(|id| state.remove(id, version, &mut remains)) {
                done.removed += 1;
                done.told.extend(rule.life.notify.then_some(rule));
            }
        }
        let timed: Vec<RuleId> =
            change.add.iter().filter(|rule| rule.life.is_timed()).map(|rule| rule.id.clone()).collect();
        let mut add = change.add.into_iter().peekable();
        while add.peek().is_some() {
            let mut state = self.write();
            done.added +=
                add.by_ref().take(STEP).filter_map(|rule| state.add(rule, version, &mut remains).then_some(())).count();
        }

        if !timed.is_empty() {
            let state = self.read();
            done.timed.extend(timed.iter().filter_map(|id| state.find(id).cloned()));
        }
        // Removed and added again by the same change: it is not gone.
        done.told.retain(|rule| self.read().find(&rule.id).is_none());
        self.version.store(version, Ordering::SeqCst);
        self.wait_for_workers(version);
        let mut remains = remains.into_iter().peekable();
        loop {
            let step: Vec<Remains> = remains.by_ref().take(STEP).collect();
            self.write().collect(step, version);
            if remains.peek().is_none() {
                return Ok(done);
            }
        }
    }

    /// Changes what is known of next hops, for workers: short, and never waits for a commit.
    pub fn change_neighbours<T>(&self, change: impl FnOnce(&mut Neighbours) -> T) -> T {
        let mut state = self.write();
        let result = change(&mut state.neighbours);
        // A commit may make its version current meanwhile: whoever has read the state before that lock was had is
        // at that version's predecessor or this one's, and whoever reads it later sees the change.
        let version = self.version() + 1;
        let changed = state.note_neighbours(version);
        drop(state);
        if changed {
            self.unannounced.store(true, Ordering::SeqCst);
            self.announce();
        }
        result
    }

    /// Makes the version current under which changes of next hops were recorded. While a commit is under way it
    /// has to be tried again.
    pub fn announce(&self) {
        if !self.unannounced.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(_alone) = self.commits.try_lock()
            && self.unannounced.swap(false, Ordering::SeqCst)
        {
            self.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn change_set(&self, change: &SetChange, version: u64, remains: &mut Vec<Remains>) {
        let name = change.name();
        let mut difference = Difference::default();
        let users = {
            let state = self.read();
            change.apply(state.sets().get(name), &mut difference);
            state.users(name).count()
        };
        // Each rule that names the set has a place for each member.
        let step = (STEP / users.max(1)).max(1);
        let Difference { added, removed } = difference;
        let (added, removed): (Vec<Member>, Vec<Member>) = (added.into_iter().collect(), removed.into_iter().collect());
        for members in removed.chunks(step) {
            self.write().shrink_set(name, members, version, remains);
        }
        match change {
            SetChange::Remove(_) => self.write().remove_set(name),
            // It exists from now on, even without members.
            SetChange::Set(..) | SetChange::Extend(..) => self.write().extend_set(name, &[], version),
            SetChange::Shrink(..) => {}
        }
        for members in added.chunks(step) {
            self.write().extend_set(name, members, version);
        }
    }

    fn wait_for_workers(&self, version: u64) {
        let workers = self.workers.lock().expect("no panic under this lock").clone();
        let mut rounds = 0_u32;
        while !workers.iter().all(|progress| progress.reached(version)) {
            rounds += 1;
            if rounds < 64 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Replaces the topology; programs that used what changed are resolved anew. Blocks like `commit`.
    ///
    /// # Panics
    /// If an earlier commit panicked.
    pub fn set_topology(&self, topology: Topology) -> u64 {
        let change = Change { topology: Some(topology), ..Change::default() };
        self.commit(change).expect("a topology exceeds no limit").version
    }

    /// The topology now.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.read().topology(self.version())
    }

    /// Rules that a filter selects, ordered by table, priority (highest first), owner and match.
    #[must_use]
    pub fn rules(&self, select: impl Fn(&Rule) -> bool) -> Vec<Arc<Rule>> {
        let state = self.read();
        let rules = state.tables().flat_map(|(_, table)| FlowState::rules_of(table));
        let mut rules: Vec<Arc<Rule>> = rules.filter(|rule| select(rule)).cloned().collect();
        rules.sort_by(|one, other| {
            let (one, other) = (&one.id, &other.id);
            let by_rank = one.table.cmp(&other.table).then(other.priority.cmp(&one.priority));
            by_rank
                .then(other.owner.cmp(&one.owner))
                .then_with(|| one.matched.mask().words().cmp(other.matched.mask().words()))
                .then_with(|| one.matched.value().words().cmp(other.matched.value().words()))
        });
        rules
    }

    /// Whether just this rule, and none that took its place, is there.
    #[must_use]
    pub fn has(&self, rule: &Arc<Rule>) -> bool {
        self.read().find(&rule.id).is_some_and(|own| Arc::ptr_eq(own, rule))
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().count
    }

    /// Tables that have rules or settings: number, settings (if any), rules, masks.
    #[must_use]
    pub fn states(&self) -> Vec<(u8, Option<TableSettings>, usize, usize)> {
        let state = self.read();
        let row = |(number, table): (u8, &super::state::Table)| {
            (number, table.settings.clone(), table.count, table.classifier.masks())
        };
        state.tables().map(row).collect()
    }

    /// The name of a table; empty if it has none.
    #[must_use]
    pub fn table_name(&self, table: u8) -> Arc<str> {
        let state = self.read();
        let settings = state.table(table).and_then(|table| table.settings.as_ref());
        settings.map_or_else(|| "".into(), |settings| settings.name.clone())
    }

    /// Address sets: name, members; ordered by name.
    #[must_use]
    pub fn address_sets(&self) -> Vec<(Arc<str>, Vec<Member>)> {
        let state = self.read();
        let mut sets: Vec<_> =
            state.sets().iter().map(|(name, members)| (name.clone(), members.iter().copied().collect())).collect();
        sets.sort();
        sets
    }

    /// Remote tunnel ends that rules send to (values of set-field tun_dst): what the underlay should
    /// resolve.
    #[must_use]
    pub fn tunnel_destinations(&self) -> BTreeSet<Ipv4Addr> {
        let state = self.read();
        let rules = state.tables().flat_map(|(_, table)| FlowState::rules_of(table));
        let mut all: BTreeSet<Ipv4Addr> = rules.flat_map(|rule| rule.instructions.tunnel_destinations()).collect();
        for bucket in state.groups.iter().flat_map(|group| &group.buckets) {
            tunnel_destinations(bucket.actions.iter(), &mut all);
        }
        all
    }

    /// Groups, ordered by number and owner, with how many rules name each.
    #[must_use]
    pub fn groups(&self) -> Vec<(Arc<Group>, usize)> {
        let state = self.read();
        let mut groups: Vec<_> =
            state.groups.iter().map(|group| (group.clone(), state.groups.uses(group.id))).collect();
        groups.sort_by_key(|(group, _)| (group.id.1, group.id.0));
        groups
    }

    /// Walks the tables for a packet and writes the walk down; nothing is counted or sent. The reply's
    /// `origin` texts are left empty: the switch fills them from its cookies. Among connections of one of
    /// several workers, ask by [`Tables::trace_here`].
    #[must_use]
    pub fn trace(&self, packet: &Packet<'_>, connections: Connected<'_>) -> v1::TraceReply {
        self.trace_here(packet, connections, &[]).unwrap_or_default()
    }

    /// Likewise, taking these connections for committed.
    ///
    /// # Errors
    /// The worker that is to be asked instead, because it has a connection of the packet.
    pub fn trace_here(
        &self,
        packet: &Packet<'_>,
        connections: Connected<'_>,
        assumed: &[Assumed],
    ) -> Result<v1::TraceReply, u16> {
        let state = self.read();
        let version = self.version();
        let topology = state.topology(version);
        let mut trace = Trace::default();
        let view = View {
            state: &state,
            version,
            topology: &topology,
            connections,
            now: crate::clock::now(),
            arrived: false,
            traced: Some(assumed),
        };
        let resolution = resolve(&view, packet, &mut trace);
        match resolution.owner {
            Some(worker) => Err(worker),
            None => Ok(trace.reply(&state, packet, &topology, &resolution)),
        }
    }
}

type Identities<'a> = HashSet<&'a RuleId, foldhash::fast::RandomState>;

/// How many rules there are after a change. `known`: those to be added that are there already.
fn rules_after(state: &FlowState, add: &[Rule], known: &[bool], remove: &[RuleId]) -> usize {
    let mut wanted: Identities = HashSet::with_capacity_and_hasher(add.len(), Default::default());
    let new = add.iter().zip(known).filter(|(rule, known)| wanted.insert(&rule.id) && !**known).count();
    let unwanted: Identities = remove.iter().filter(|id| !wanted.contains(id)).collect();
    let gone = unwanted.iter().filter(|id| state.find(id).is_some()).count();
    state.count + new - gone
}

fn check_limits(state: &FlowState, add: &[Rule], remove: &[RuleId], sets: &[SetChange]) -> Result<(), Fault> {
    let refuse = |field: String, problem: String, remedy: &str| {
        Err(Fault::invalid("limit_exceeded", field, problem, remedy).with_status(tonic::Code::ResourceExhausted))
    };
    // Far from the limits there is no need to know which of them are new.
    let plain = sets.is_empty() && add.iter().all(|rule| rule.id.set.is_none());
    let near = !plain || state.count + add.len() > limits::RULES || state.places + add.len() > limits::PLACES;
    // Each identity counts once, however often the change names it.
    let known: Vec<bool> = add.iter().map(|rule| near && state.find(&rule.id).is_some()).collect();
    if near && rules_after(state, add, &known, remove) > limits::RULES {
        let problem = format!("the switch would have more than {} rules", limits::RULES);
        return refuse("add_rules".into(), problem, "Remove rules first.");
    }
    let mut after: HashMap<&Arc<str>, Difference> = HashMap::new();
    for set in sets {
        // One change may follow another of the same set.
        let (before, difference) = (state.sets().get(set.name()), after.entry(set.name()).or_default());
        set.apply(before, difference);
        if difference.count(before) > limits::ADDRESS_SET_MEMBERS {
            let problem =
                format!("address set {} would have more than {} members", set.name(), limits::ADDRESS_SET_MEMBERS);
            return refuse("set_address_sets".into(), problem, "Use larger prefixes, or several sets.");
        }
    }
    let mut masks: HashSet<(u8, FlowKey), foldhash::fast::RandomState> = HashSet::default();
    let mut new_masks: HashMap<u8, usize> = HashMap::new();
    let mut last = None;
    let mut too_many = |number: u8, mask: FlowKey| {
        // Neighbours mostly have the same.
        if last.replace((number, mask)) == Some((number, mask)) {
            return false;
        }
        let table = state.table(number);
        if !masks.insert((number, mask)) || table.is_some_and(|table| table.classifier.has_mask(&mask)) {
            return false;
        }
        let new = new_masks.entry(number).or_default();
        *new += 1;
        let (masks, tuples) = table.map_or((0, 0), |table| (table.classifier.masks(), table.classifier.tuples()));
        masks + *new > limits::MASKS_PER_TABLE || tuples >= limits::classifier::TUPLES
    };
    let masks_of = |number: u8| {
        format!(
            "table {number} would have more different masks than can be searched quickly (at most {})",
            limits::MASKS_PER_TABLE
        )
    };
    // A rule with a set has a mask for each prefix length in it, and a place for each member.
    let mut places = state.places;
    for (name, difference) in &after {
        let before = state.sets().get(*name);
        let lengths = difference.lengths(before);
        for (number, rule) in state.users(name) {
            places += difference.count(before).saturating_sub(before.map_or(0, Members::count));
            if lengths.iter().any(|&length| too_many(number, mask_of(&rule.id, length))) {
                let remedy = "Use the same prefix lengths in all sets, or another table.";
                return refuse("set_address_sets".into(), masks_of(number), remedy);
            }
        }
    }
    for (index, rule) in add.iter().enumerate() {
        let (number, new) = (rule.id.table, usize::from(!known[index]));
        let over = match &rule.id.set {
            None => {
                places += new;
                too_many(number, rule.id.matched.mask())
            }
            Some(set) => {
                let (before, difference) = (state.sets().get(&set.set), after.entry(&set.set).or_default());
                places += difference.count(before) * new;
                difference.lengths(before).into_iter().any(|length| too_many(number, mask_of(&rule.id, length)))
            }
        };
        if over {
            let remedy = "Match the same fields in more rules, or use another table.";
            return refuse(format!("add_rules[{index}].match"), masks_of(number), remedy);
        }
    }
    if near && places > limits::PLACES {
        let problem =
            format!("rules and the members of the sets they name would be more than {} together", limits::PLACES);
        return refuse("add_rules".into(), problem, "Name large sets in fewer rules, or use larger prefixes.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::share_a_line;

    #[test]
    fn what_a_worker_reads_or_writes_per_batch_lies_in_lines_of_its_own() {
        let tables = Tables::new();
        assert!(!share_a_line(&tables.version, &tables.state) && !share_a_line(&tables.version, &tables.workers));
        let progress: Vec<Arc<Progress>> = (0..8).map(|_| Arc::default()).collect();
        for (index, one) in progress.iter().enumerate() {
            assert!(progress[..index].iter().all(|other| !share_a_line(&**one, &**other)));
        }
    }
}
