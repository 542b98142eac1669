//! (interface; the founder writes the body)

use super::rule::{Owner, Rule, RuleId};
use crate::topology::Topology;
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::v1::{self, Field};

/// All flow tables of a switch, shared by its workers.
pub struct Tables {}

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
    Set(Arc<str>, Vec<(Ipv4Addr, u8)>),
    /// Add members; creates it.
    Extend(Arc<str>, Vec<(Ipv4Addr, u8)>),
    /// Remove members.
    Shrink(Arc<str>, Vec<(Ipv4Addr, u8)>),
    /// Remove it: rules that name it match nothing.
    Remove(Arc<str>),
}

/// What one commit changes: all of it becomes visible at once.
#[derive(Default)]
pub struct Change {
    /// Names of tables.
    pub settings: Vec<TableSettings>,
    /// Remove everything of this owner that is not in `add`; what is there already and the same keeps
    /// its counters and cache entries.
    pub replace_owner: Option<Owner>,
    /// Rules to add or, where the identity exists, to replace (keeping counters and `created`).
    pub add: Vec<Rule>,
    /// Rules to remove; those that do not exist are ignored.
    pub remove: Vec<RuleId>,
    /// In order.
    pub sets: Vec<SetChange>,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The version from which on it is visible.
    pub version: u64,
    /// Rules that are new or have new instructions.
    pub added: usize,
    /// Rules that are gone.
    pub removed: usize,
}

impl Tables {
    /// Empty tables.
    #[must_use]
    pub fn new() -> Arc<Self> {
        unimplemented!()
    }

    /// Counts commits; what a worker compares.
    #[must_use]
    pub fn version(&self) -> u64 {
        unimplemented!()
    }

    /// Makes a change visible whole, or refuses it whole (limits); returns when no worker uses the old
    /// rules any more. Blocking: not for async threads (use `spawn_blocking`).
    ///
    /// # Errors
    /// A limit that would be exceeded; nothing is changed.
    pub fn commit(&self, change: Change) -> Result<Committed, weft_proto::fault::Fault> {
        let _ = change;
        unimplemented!()
    }

    /// Replaces the topology; programs that used what changed are resolved anew. Blocks like `commit`.
    pub fn set_topology(&self, topology: Topology) -> u64 {
        let _ = topology;
        unimplemented!()
    }

    /// The topology now.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        unimplemented!()
    }

    /// Rules that a filter selects, ordered by table, priority (highest first), owner and match.
    #[must_use]
    pub fn rules(&self, select: impl Fn(&Rule) -> bool) -> Vec<Arc<Rule>> {
        let _ = select;
        unimplemented!()
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        unimplemented!()
    }

    /// Tables that have rules or settings: settings (if any), table, rules, masks.
    #[must_use]
    pub fn states(&self) -> Vec<(u8, Option<TableSettings>, usize, usize)> {
        unimplemented!()
    }

    /// The name of a table; its number if it has none.
    #[must_use]
    pub fn table_name(&self, table: u8) -> Arc<str> {
        let _ = table;
        unimplemented!()
    }

    /// Address sets: name, members.
    #[must_use]
    pub fn address_sets(&self) -> Vec<(Arc<str>, Vec<(Ipv4Addr, u8)>)> {
        unimplemented!()
    }

    /// Remote tunnel ends that rules send to (values of set-field tun_dst): what the underlay should
    /// resolve.
    #[must_use]
    pub fn tunnel_destinations(&self) -> std::collections::BTreeSet<Ipv4Addr> {
        unimplemented!()
    }

    /// Walks the tables for a packet and writes the walk down; nothing is counted or sent. The reply's
    /// `origin` texts are left empty: the switch fills them from its cookies.
    #[must_use]
    pub fn trace(&self, key: &super::key::FlowKey) -> v1::TraceReply {
        let _ = key;
        unimplemented!()
    }
}
