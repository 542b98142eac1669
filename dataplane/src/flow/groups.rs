//! All groups of a switch, versioned as its rules are: a change is put in for the next version, and nobody sees it
//! before that is reached. Held within [`super::state::FlowState`].

use super::action::groups_of;
use super::group::{Group, GroupId};
use super::log::partition;
use super::message;
use super::rule::{Owner, Rule, RuleId};
use super::state::FlowState;
use crate::limits::GROUPS;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use weft_proto::fault::Fault;
use weft_proto::text;

/// A group as of a version; `None`: it is gone.
type Version = (u64, Option<Arc<Group>>);

/// See the module comment.
#[derive(Default)]
pub struct Groups {
    /// Newest first: the current one and, while a change is under way, the one before.
    by_id: BTreeMap<GroupId, Vec<Version>>,
    /// How many rules name each.
    uses: HashMap<GroupId, usize>,
}

/// Under which partition of the topology's log changes of a group stand.
#[must_use]
pub fn group_partition((owner, number): GroupId) -> u16 {
    let [a, b, c, d] = number.to_be_bytes();
    partition(&[b'g', u8::from(owner == Owner::Manual), a, b, c, d])
}

impl Groups {
    /// A group as of a version.
    #[must_use]
    pub fn at(&self, id: GroupId, version: u64) -> Option<&Arc<Group>> {
        self.by_id.get(&id)?.iter().find(|(from, _)| *from <= version)?.1.as_ref()
    }

    /// All, as they are newest.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.by_id.values().filter_map(|versions| versions.first()?.1.as_ref())
    }

    fn newest(&self, id: GroupId) -> Option<&Arc<Group>> {
        self.by_id.get(&id)?.first()?.1.as_ref()
    }

    /// How many rules name it.
    #[must_use]
    pub fn uses(&self, id: GroupId) -> usize {
        self.uses.get(&id).copied().unwrap_or(0)
    }

    /// Sets a group from `version` on; false if packets fare as before.
    pub fn set(&mut self, mut group: Group, version: u64) -> bool {
        if let Some(before) = self.newest(group.id) {
            if before.is_same(&group) {
                return false;
            }
            group.succeed(before);
        }
        self.by_id.entry(group.id).or_default().insert(0, (version, Some(Arc::new(group))));
        true
    }

    /// Removes a group from `version` on; false if there is none.
    pub fn remove(&mut self, id: GroupId, version: u64) -> bool {
        if self.newest(id).is_none() {
            return false;
        }
        self.by_id.entry(id).or_default().insert(0, (version, None));
        true
    }

    /// A rule names these groups from now on, or no more.
    pub fn count(&mut self, rule: &Rule, added: bool) {
        for group in named(rule) {
            let uses = self.uses.entry(group).or_default();
            *uses = if added { *uses + 1 } else { uses.saturating_sub(1) };
            if *uses == 0 {
                self.uses.remove(&group);
            }
        }
    }

    /// Forgets what nobody can see any more at `version`.
    pub fn collect(&mut self, version: u64) {
        for versions in self.by_id.values_mut().filter(|versions| versions.len() > 1) {
            let current = versions.iter().position(|(from, _)| *from <= version);
            versions.truncate(current.map_or(0, |index| index + 1));
        }
        self.by_id.retain(|_, versions| versions.iter().any(|(_, group)| group.is_some()));
    }
}

/// The groups that a rule names, each once; most name none.
fn named(rule: &Rule) -> Vec<GroupId> {
    let mut numbers = Vec::new();
    groups_of(rule.instructions.apply.iter().chain(&rule.instructions.write), &mut numbers);
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(|number| (rule.id.owner, number)).collect()
}

/// Whether rules and groups fit together after a change.
///
/// # Errors
/// A rule that names a group there is not; a group to be removed that a rule names; too many groups.
pub(super) fn check(
    state: &FlowState,
    add: &[Rule],
    remove: &[RuleId],
    set: &[Group],
    unwanted: &[GroupId],
) -> Result<(), Fault> {
    let groups = &state.groups;
    let wanted: HashSet<GroupId> = set.iter().map(|group| group.id).collect();
    let gone: HashSet<GroupId> =
        unwanted.iter().copied().filter(|id| !wanted.contains(id) && groups.newest(*id).is_some()).collect();
    let new = wanted.iter().filter(|id| groups.newest(**id).is_none()).count();
    if groups.iter().count() + new - gone.len() > GROUPS {
        return Err(Fault::invalid(
            "limit_exceeded",
            "set_groups",
            format!("the switch would have more than {GROUPS} groups"),
            "Remove groups first.",
        )
        .with_status(tonic::Code::ResourceExhausted));
    }
    for (index, rule) in add.iter().enumerate() {
        let own = named(rule);
        let unknown = |id: &&GroupId| !wanted.contains(*id) && (gone.contains(*id) || groups.newest(**id).is_none());
        if let Some((_, number)) = own.iter().find(unknown) {
            return Err(Fault::invalid(
                "unknown_group",
                format!("add_rules[{index}].instructions"),
                format!("there is no group {number} of this rule's owner"),
                "Set the group before, or in the same bundle.",
            )
            .with_status(tonic::Code::FailedPrecondition));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let mut left: HashMap<GroupId, usize> = gone.iter().map(|id| (*id, groups.uses(*id))).collect();
    let leaving: HashSet<&RuleId, foldhash::fast::RandomState> =
        remove.iter().chain(add.iter().map(|rule| &rule.id)).collect();
    for rule in leaving.iter().filter_map(|id| state.find(id)) {
        for id in named(rule) {
            left.entry(id).and_modify(|uses| *uses -= 1);
        }
    }
    let Some((id, uses)) = left.into_iter().find(|(_, uses)| *uses > 0) else { return Ok(()) };
    let rules = state.tables().flat_map(|(_, table)| FlowState::rules_of(table));
    let user = rules.filter(|rule| !leaving.contains(&rule.id)).find(|rule| named(rule).contains(&id));
    let user = user.map(|rule| text::format_rule(&message::to_message(rule))).unwrap_or_default();
    let others = if uses > 1 { format!(", and {} others", uses - 1) } else { String::new() };
    Err(Fault::invalid(
        "group_in_use",
        "remove_groups",
        format!("group {} is named by a rule: {user}{others}", id.1),
        "Remove its rules first, or in the same bundle.",
    )
    .with_status(tonic::Code::FailedPrecondition))
}
