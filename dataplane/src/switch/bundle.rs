//! A bundle, checked whole against what is there: the result is a [`Plan`] that changes nothing yet.
//!
//! Who sends a bundle speaks for one owner: the controller for the fabric, everybody else for the
//! hand-made. Owners left out are filled in; those of the other side are refused, so that neither can
//! touch what the other made.

use super::origins::Origins;
use super::{State, meters};
use crate::flow::group::{self, Group, GroupId};
use crate::flow::message;
use crate::flow::rule::{Owner, Rule, RuleId};
use crate::flow::tables::{SetChange, TableSettings, Tables};
use crate::meter::Meter;
use crate::worker::Announcement;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

mod announcements;
mod parts;
mod ports;

pub use parts::{Parts, Whole};
pub(super) use ports::check_spec;

/// What a bundle comes to.
pub(super) struct Plan {
    pub owner: Owner,
    /// Term and generation after it, of a bundle of the controller.
    pub position: Option<(u64, u64)>,
    pub replace: bool,
    pub settings: Vec<TableSettings>,
    pub add: Vec<Rule>,
    pub remove: Vec<RuleId>,
    pub set_groups: Vec<Group>,
    pub remove_groups: Vec<GroupId>,
    pub sets: Vec<SetChange>,
    /// All of them after it; `None`: as they are.
    pub meters: Option<BTreeMap<u32, Meter>>,
    /// After it; `None`: as it is.
    pub set_owners: Option<BTreeMap<Arc<str>, Owner>>,
    pub origins: Vec<v1::Origin>,
    /// Ports to open, with their place in the bundle.
    pub open: Vec<(usize, v1::PortSpec)>,
    /// Ports that stay, under another name or with other addresses.
    pub rename: Vec<v1::PortSpec>,
    /// Ports to close: removed, or replaced by one of the same number.
    pub close: BTreeSet<u32>,
    /// Those of `close` that stand in the way of one to open.
    pub close_first: BTreeSet<u32>,
    /// Ports that the bundle names, for its result.
    pub named: Vec<u32>,
    pub announcements: Vec<Announcement>,
}

impl Plan {
    pub fn changes_ports(&self) -> bool {
        !self.open.is_empty() || !self.rename.is_empty() || !self.close.is_empty()
    }
}

/// Checks a bundle against what is there.
///
/// # Errors
/// The first thing that is wrong; nothing is changed.
///
/// `managed`: a controller numbers ports here too.
pub(super) fn plan(mut whole: Whole, managed: bool, state: &State, tables: &Tables) -> Result<Plan, Fault> {
    if !whole.has_begun() {
        return Err(Fault::invalid("empty_bundle", "", "no bundle was sent", "Send at least one message."));
    }
    let rules = whole.take_rules();
    let Whole { owner, mut bundle, .. } = whole;
    let position = (owner == Owner::Fabric).then_some((bundle.term, bundle.generation));
    if owner == Owner::Fabric {
        check_position(&bundle, state)?;
    }
    let mut replace = bundle.replace_owner;
    if replace != 0 {
        own(&mut replace, owner, "replace_owner")?;
    }
    let replace = replace != 0;
    let settings = settings(&bundle, replace && owner == Owner::Fabric, tables)?;
    let (add, remove) = rules?;
    each_once(&add)?;
    let set_groups = groups(&mut bundle, owner)?;
    let remove_groups = bundle.remove_groups.iter().map(|&number| (owner, number)).collect();
    let meters = meters::plan(&bundle, owner, replace, state, tables, (&add, &remove))?;
    let mut sets = message::set_changes_from_message(&bundle)?;
    let set_owners = set_owners(&mut sets, owner, replace, state)?;
    Origins::check(&bundle.origins)?;
    let mut plan = Plan {
        owner,
        position,
        replace,
        settings,
        add,
        remove,
        set_groups,
        remove_groups,
        sets,
        meters,
        set_owners,
        origins: std::mem::take(&mut bundle.origins),
        open: Vec::new(),
        rename: Vec::new(),
        close: BTreeSet::new(),
        close_first: BTreeSet::new(),
        named: Vec::new(),
        announcements: Vec::new(),
    };
    let announced = std::mem::take(&mut bundle.announcements);
    ports::plan(bundle, managed, state, &mut plan)?;
    plan.announcements = announcements::check(&announced, state, &plan)?;
    Ok(plan)
}

/// Refuses a leader that was replaced, and a change of a state that is not ours.
fn check_position(bundle: &v1::Bundle, state: &State) -> Result<(), Fault> {
    let refuse = |code, field, problem: String, remedy| {
        Err(Fault::invalid(code, field, problem, remedy).with_status(Code::FailedPrecondition))
    };
    if bundle.term < state.term {
        let problem = format!("term {} is older than {}, which was seen already", bundle.term, state.term);
        return refuse("stale_term", "term", problem, "Another controller leads now; this one must step down.");
    }
    if bundle.base_generation != 0 && bundle.base_generation != state.generation {
        let problem = format!(
            "the bundle is based on generation {}, the switch is at {}",
            bundle.base_generation, state.generation
        );
        return refuse("generation_mismatch", "base_generation", problem, "Compare digests, then resynchronise.");
    }
    Ok(())
}

/// Fills in the owner of an object, or refuses the other side's.
fn own(field: &mut i32, owner: Owner, place: &str) -> Result<(), Fault> {
    let ours = i32::from(message::owner_to_message(owner));
    if *field == 0 {
        *field = ours;
    }
    if *field == ours {
        return Ok(());
    }
    message::owner_from_message(*field).map_err(|fault| Fault { field: place.to_owned(), ..fault })?;
    let (problem, remedy) = match owner {
        Owner::Manual => (
            "what belongs to the fabric is changed by the controller only",
            "Leave the owner out or say OWNER_MANUAL; a manual rule of the same priority goes before the fabric's.",
        ),
        Owner::Fabric => {
            ("the controller cannot change what was made by hand", "Leave the owner out or say OWNER_FABRIC.")
        }
    };
    Err(Fault::invalid("not_the_owner", place, problem, remedy).with_status(Code::PermissionDenied))
}

fn settings(bundle: &v1::Bundle, replace: bool, tables: &Tables) -> Result<Vec<TableSettings>, Fault> {
    if bundle.tables.is_empty() {
        return Ok(Vec::new());
    }
    let states = if replace { Vec::new() } else { tables.states() };
    let mut names: BTreeMap<u8, Arc<str>> =
        states.into_iter().filter_map(|(table, settings, _, _)| Some((table, settings?.name))).collect();
    let mut all = Vec::with_capacity(bundle.tables.len());
    for (index, config) in bundle.tables.iter().enumerate() {
        let settings =
            message::settings_from_message(config).map_err(|fault| fault.within(&format!("tables[{index}]")))?;
        names.insert(settings.table, settings.name.clone());
        all.push(settings);
    }
    for (index, settings) in all.iter().enumerate() {
        let other = names.iter().find(|(table, name)| **table != settings.table && **name == settings.name);
        if let Some((table, name)) = other {
            return Err(Fault::invalid(
                "name_taken",
                format!("tables[{index}].name"),
                format!("table {table} is called {name} already"),
                "Choose another name.",
            )
            .with_status(Code::AlreadyExists));
        }
    }
    Ok(all)
}

/// Refuses a bundle that names a rule twice.
fn each_once(add: &[Rule]) -> Result<(), Fault> {
    let mut seen = HashSet::with_capacity_and_hasher(add.len(), foldhash::fast::RandomState::default());
    match add.iter().position(|rule| !seen.insert(&rule.id)) {
        None => Ok(()),
        Some(index) => Err(Fault::invalid(
            "duplicate_rule",
            format!("add_rules[{index}]"),
            "another rule of the bundle has the same table, priority and match",
            "Send one of them.",
        )),
    }
}

fn groups(bundle: &mut v1::Bundle, owner: Owner) -> Result<Vec<Group>, Fault> {
    let now = crate::clock::now();
    let mut seen = HashSet::new();
    let mut groups = Vec::with_capacity(bundle.set_groups.len());
    for (index, mut message) in std::mem::take(&mut bundle.set_groups).into_iter().enumerate() {
        let place = |fault: Fault| fault.within(&format!("set_groups[{index}]"));
        own(&mut message.owner, owner, "owner").map_err(place)?;
        let group = group::from_message(&message, now).map_err(place)?;
        if !seen.insert(group.id) {
            let problem = format!("group {} stands in the bundle twice", message.id);
            return Err(place(Fault::invalid("duplicate_group", "id", problem, "Send one of them.")));
        }
        groups.push(group);
    }
    Ok(groups)
}

/// Whose the address sets are afterwards; sets that a replacement leaves out are removed.
fn set_owners(
    sets: &mut Vec<SetChange>,
    owner: Owner,
    replace: bool,
    state: &State,
) -> Result<Option<BTreeMap<Arc<str>, Owner>>, Fault> {
    if sets.is_empty() && !replace {
        return Ok(None);
    }
    let mut owners = state.set_owners.clone();
    if replace {
        let kept: HashSet<&Arc<str>> =
            sets.iter().filter(|change| matches!(change, SetChange::Set(..))).map(SetChange::name).collect();
        let gone = |(name, of): &(&Arc<str>, &Owner)| **of == owner && !kept.contains(name);
        let gone: Vec<Arc<str>> = owners.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            owners.remove(name);
        }
        sets.splice(0..0, gone.into_iter().map(SetChange::Remove));
    }
    for change in sets.iter() {
        let name = change.name();
        if owners.get(name).is_some_and(|of| *of != owner) {
            return Err(Fault::invalid(
                "not_the_owner",
                "address_sets",
                format!("address set {name} belongs to the other side"),
                "Use another name; rules may use sets of either side.",
            )
            .with_status(Code::PermissionDenied));
        }
        match change {
            SetChange::Set(..) | SetChange::Extend(..) => {
                owners.insert(name.clone(), owner);
            }
            SetChange::Remove(_) => {
                owners.remove(name);
            }
            SetChange::Shrink(..) => {}
        }
    }
    // Members taken from a set that does not exist would create nothing, but would be logged as a change.
    sets.retain(|change| !matches!(change, SetChange::Shrink(name, _) if !owners.contains_key(name)));
    Ok(Some(owners))
}
