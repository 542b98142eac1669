//! Rules: what is matched, what is done, who owns it, when it ends, what it has counted.

use super::action::Instructions;
use super::matched::Match;
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
    /// What it matches.
    pub matched: Match,
    /// At most one address set besides.
    pub set: Option<SetMatch>,
}

/// When a rule ends by itself, and whether its end is told. Seconds; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// After so long without a packet.
    pub idle: u16,
    /// So long after it was added.
    pub hard: u16,
    /// Whether its removal is told to who watches removals.
    pub notify: bool,
}

impl Life {
    /// Whether it ends by itself.
    #[must_use]
    pub fn is_timed(self) -> bool {
        self.idle != 0 || self.hard != 0
    }
}

/// Which timeout ends a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timeout {
    /// No packet used it.
    Idle,
    /// It is old.
    Hard,
}

/// What a rule, a group or a bucket has counted; shared by its successors when it is replaced.
#[derive(Debug, Default)]
pub struct RuleCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
    used: AtomicU64,
}

impl RuleCounters {
    /// Adds what a worker has gathered, the last of it at `used`; not called per packet.
    pub fn add(&self, packets: u64, bytes: u64, used: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used.fetch_max(used, Ordering::Relaxed);
    }

    /// When a packet used it last, microseconds of [`crate::clock`], as far as workers have brought their counts;
    /// `None`: none did.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        let used = self.used.load(Ordering::Relaxed);
        (self.packets.load(Ordering::Relaxed) > 0).then_some(used)
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
    /// What it does; rules that do the same may share it.
    pub instructions: Arc<Instructions>,
    /// Names the object it came from.
    pub cookie: u64,
    /// When it was first added, microseconds of [`crate::clock`].
    pub created: u64,
    /// When it was last added, likewise: its timeouts count from here.
    pub since: u64,
    /// When it ends by itself.
    pub life: Life,
    /// What it has counted.
    pub counters: Arc<RuleCounters>,
}

impl Rule {
    /// When it ends unless another packet uses it, microseconds of [`crate::clock`], and by which timeout.
    #[must_use]
    pub fn end(&self) -> Option<(u64, Timeout)> {
        let after = |since: u64, seconds: u16| since.saturating_add(u64::from(seconds) * 1_000_000);
        let used = self.counters.used().map_or(self.since, |used| used.max(self.since));
        let idle = (self.life.idle != 0).then(|| (after(used, self.life.idle), Timeout::Idle));
        let hard = (self.life.hard != 0).then(|| (after(self.since, self.life.hard), Timeout::Hard));
        idle.into_iter().chain(hard).min()
    }
}
