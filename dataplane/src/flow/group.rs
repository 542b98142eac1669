//! Groups (OpenFlow 1.3.5, 5.6): buckets of actions that rules share, so that what many rules send to changes in one
//! place, and follows the state of ports.
//!
//! **Consistent choice.** A select group gives each bucket a score for each flow and takes the best one (weighted
//! rendezvous hashing). A bucket's scores do not depend on the others, so when one goes, the flows it had are spread
//! over the others and no other flow moves; likewise one that comes takes its share from all, and nothing else moves. A
//! bucket is known by its actions: its weight and its place may change.
//!
//! What a group means to a walk is in `resolve/group.rs`; `groups.rs` keeps all of them.

use super::action::{Action, action_to_message, plain_action};
use super::message::{owner_from_message, owner_to_message};
use super::rule::{Owner, RuleCounters};
use crate::limits::BUCKETS_PER_GROUP;
use std::sync::Arc;
use weft_proto::PORT_MAX;
use weft_proto::digest;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, GroupType};

/// What makes a group that group.
pub type GroupId = (Owner, u32);

/// A group.
#[derive(Debug)]
pub struct Group {
    /// Its identity; at most [`PORT_MAX`].
    pub id: GroupId,
    /// What it does with its buckets.
    pub kind: Kind,
    /// In order.
    pub buckets: Vec<Bucket>,
    /// When it was first set, microseconds of [`crate::clock`].
    pub created: u64,
    /// What came to it.
    pub counters: Arc<RuleCounters>,
}

/// See `flow.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To all.
    All,
    /// To one, by flow.
    Select,
    /// To the only one.
    Indirect,
    /// To the first that is alive.
    FastFailover,
}

/// Of a group.
#[derive(Debug)]
pub struct Bucket {
    /// Its part of a select group's flows; 0 in others.
    pub weight: u16,
    /// It is alive while this port is up.
    pub watch: Option<u32>,
    /// To be merged into an action set.
    pub actions: Vec<Action>,
    /// By what the choice knows it: a hash of its actions, different for each of a group.
    pub identity: u64,
    /// What came to it.
    pub counters: Arc<RuleCounters>,
}

impl Group {
    /// Which of the buckets a flow of this hash goes to, among those that are `alive`.
    #[must_use]
    pub fn choose(&self, flow: u64, mut alive: impl FnMut(&Bucket) -> bool) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for (index, bucket) in self.buckets.iter().enumerate() {
            // Every bucket is asked: what a choice depends on must not depend on the flow.
            if !alive(bucket) {
                continue;
            }
            let hash = mix(mix(flow) ^ bucket.identity);
            // Uniform in (0, 1]; then exponential with the weight as its rate: the smallest of several is the one of
            // a bucket in proportion to its weight.
            let uniform = ((hash >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            let score = -uniform.ln() / f64::from(bucket.weight.max(1));
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// Keeps what an earlier group of this identity has counted.
    pub fn succeed(&mut self, before: &Self) {
        self.created = before.created;
        self.counters = before.counters.clone();
        for bucket in &mut self.buckets {
            if let Some(same) = before.buckets.iter().find(|old| old.identity == bucket.identity) {
                bucket.counters = same.counters.clone();
            }
        }
    }

    /// Whether packets fare the same with the other one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let parts = |bucket: &Bucket| (bucket.weight, bucket.watch, bucket.identity);
        self.kind == other.kind && self.buckets.iter().map(parts).eq(other.buckets.iter().map(parts))
    }
}

/// A permutation that spreads every bit over all (the finaliser of splitmix64): scores of flows that differ little
/// must not.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A group from its message, made at `now`.
///
/// # Errors
/// The first thing that is wrong with it; the field is relative to the group.
pub fn from_message(message: &v1::Group, now: u64) -> Result<Group, Fault> {
    let owner = owner_from_message(message.owner)?;
    if message.id > PORT_MAX {
        return Err(Fault::invalid(
            "bad_group",
            "id",
            format!("group {:#x} is reserved", message.id),
            format!("Use 0 to {PORT_MAX:#x}."),
        ));
    }
    let kind = match message.r#type() {
        GroupType::All => Kind::All,
        GroupType::Select => Kind::Select,
        GroupType::Indirect => Kind::Indirect,
        GroupType::FastFailover => Kind::FastFailover,
        GroupType::Unspecified => {
            return Err(Fault::invalid(
                "bad_group",
                "type",
                "the group is of no type that this switch knows",
                "Use all, select, indirect or fast_failover.",
            ));
        }
    };
    let count = message.buckets.len();
    if count > BUCKETS_PER_GROUP || (kind == Kind::Indirect && count != 1) {
        return Err(Fault::invalid(
            "bad_group",
            "buckets",
            format!("{count} buckets"),
            format!("An indirect group has one bucket, others up to {BUCKETS_PER_GROUP}."),
        ));
    }
    let mut buckets: Vec<Bucket> = Vec::with_capacity(count);
    for (index, message) in message.buckets.iter().enumerate() {
        let mut bucket = bucket(message, kind).map_err(|fault| fault.within(&format!("buckets[{index}]")))?;
        while buckets.iter().any(|other| other.identity == bucket.identity) {
            bucket.identity = bucket.identity.wrapping_add(1);
        }
        buckets.push(bucket);
    }
    Ok(Group { id: (owner, message.id), kind, buckets, created: now, counters: Arc::default() })
}

fn bucket(message: &v1::Bucket, kind: Kind) -> Result<Bucket, Fault> {
    let refuse = |field, problem: String, remedy| Err(Fault::invalid("bad_bucket", field, problem, remedy));
    let weight = match u16::try_from(message.weight) {
        Ok(weight) if (weight > 0) == (kind == Kind::Select) => weight,
        _ => {
            let problem = format!("a weight of {}", message.weight);
            return refuse("weight", problem, "Use 1 to 65535 in a select group, and 0 in others.");
        }
    };
    let watch = (message.watch_port != 0).then_some(message.watch_port);
    match (watch, kind) {
        (None, Kind::FastFailover) => {
            return refuse("watch_port", "no port is watched".into(), "Name the port while which is up it is used.");
        }
        (Some(_), Kind::All | Kind::Indirect) => {
            let remedy = "Leave watch_port out, or use a select or fast_failover group.";
            return refuse("watch_port", "buckets of this type are used whatever ports do".into(), remedy);
        }
        (Some(port), _) if port > PORT_MAX => {
            return refuse("watch_port", format!("{port:#x} is no port"), "Use the number of a port.");
        }
        _ => {}
    }
    let mut actions = Vec::with_capacity(message.actions.len());
    for (index, action) in message.actions.iter().enumerate() {
        actions.push(plain_action(action).map_err(|fault| fault.within(&format!("actions[{index}]")))?);
    }
    let canonical = v1::Bucket { actions: actions.iter().flat_map(action_to_message).collect(), ..Default::default() };
    Ok(Bucket { weight, watch, actions, identity: digest::of(&canonical), counters: Arc::default() })
}

/// The canonical message of a group.
#[must_use]
pub fn to_message(group: &Group) -> v1::Group {
    let kind = match group.kind {
        Kind::All => GroupType::All,
        Kind::Select => GroupType::Select,
        Kind::Indirect => GroupType::Indirect,
        Kind::FastFailover => GroupType::FastFailover,
    };
    let bucket = |bucket: &Bucket| v1::Bucket {
        weight: bucket.weight.into(),
        watch_port: bucket.watch.unwrap_or(0),
        actions: bucket.actions.iter().flat_map(action_to_message).collect(),
    };
    v1::Group {
        id: group.id.1,
        r#type: kind.into(),
        buckets: group.buckets.iter().map(bucket).collect(),
        owner: owner_to_message(group.id.0).into(),
    }
}
