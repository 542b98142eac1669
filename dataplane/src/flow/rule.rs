//! Rules: what is matched, what is done, who owns it, what it has counted.

use super::action::Instructions;
use super::key::FlowKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_proto::v1::Field;

/// Who is responsible for a rule; see `flow.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The controller.
    Fabric,
    /// A person; goes before the fabric among rules of equal priority.
    Manual,
}

/// An address set as an operand: the field must be full-width in the set's prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetMatch {
    /// `Ipv4Src` or `Ipv4Dst`.
    pub field: Field,
    /// The set.
    pub set: Arc<str>,
}

/// What makes a rule that rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// Who owns it.
    pub owner: Owner,
    /// Its table, 0 to 254.
    pub table: u8,
    /// The highest wins.
    pub priority: u16,
    /// The values; no bits outside the mask.
    pub value: FlowKey,
    /// Which bits count.
    pub mask: FlowKey,
    /// At most one address set besides.
    pub set: Option<SetMatch>,
}

/// What a rule, a group or a bucket has counted; shared by its successors when it is replaced.
#[derive(Debug, Default)]
pub struct RuleCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl RuleCounters {
    /// Adds what a worker has gathered; not called per packet.
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Packets and bytes.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its identity.
    pub id: RuleId,
    /// What it does.
    pub instructions: Instructions,
    /// Names the object it came from.
    pub cookie: u64,
    /// When it was first added, microseconds of [`crate::clock`].
    pub created: u64,
    /// What it has counted.
    pub counters: Arc<RuleCounters>,
}
