//! What goes into [`super::Connections`] and what comes out of it.

use super::directory::Directory;
use super::nat::{Internal, Nat};
use super::protocol::{Progress, Transport};
use super::record::{Record, flag};
use super::state::CtState;
use super::tuple::Tuple;
use super::{ConnectionId, Direction};
use crate::drop::DropReason;
use crate::flow::key::FlowKey;
use crate::limits::connection as limits;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// How a worker's connections are kept.
#[derive(Clone)]
pub struct Options {
    /// The file, on a tmpfs, of this worker alone; `None`: they end with the process.
    pub path: Option<PathBuf>,
    /// At most this many.
    pub records: usize,
    /// At most this many of one zone.
    pub per_zone: u32,
    /// The number of the worker.
    pub worker: u16,
    /// How many there are.
    pub workers: u16,
    /// Whether TCP and SCTP connections may be picked up in the middle.
    pub pick_up: bool,
    /// For the choice of NAT ports; `None`: unpredictable.
    pub seed: Option<u64>,
    /// Where other workers find what this one owns.
    pub directory: Option<Arc<Directory>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: None,
            records: limits::DEFAULT_RECORDS,
            per_zone: limits::DEFAULT_PER_ZONE,
            worker: 0,
            workers: 1,
            pick_up: false,
            seed: None,
            directory: None,
        }
    }
}

/// One moment in two clocks, both in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// `crate::clock::now()`
    pub now: u64,
    /// The system's monotonic clock; not less than `now`.
    pub monotonic: u64,
}

impl Start {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        let now = crate::clock::now();
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self { now, monotonic: time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000 }
    }
}

/// What a cached program knows of a connection its packets belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    /// Which.
    pub id: ConnectionId,
    /// Which way.
    pub direction: Direction,
    /// As of when it was compiled.
    pub visible_epoch: u32,
}

/// What a packet is to its connection.
#[derive(Clone, Copy, Debug)]
pub struct Passing {
    /// Its transport header.
    pub transport: Transport,
    /// Packets it counts as.
    pub packets: u32,
    /// Bytes it counts as.
    pub bytes: u32,
}

impl Passing {
    /// One packet of so many bytes.
    #[must_use]
    pub fn one(transport: Transport, bytes: usize) -> Self {
        Self { transport, packets: 1, bytes: bytes as u32 }
    }
}

/// The result of `Connections::check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// It passes, and what rules see is as before.
    Passed,
    /// This packet changes what rules see. Walk the tables, then `Connections::advance`.
    VisibleChange,
    /// The connection is gone, or rules see it differently by now. Walk the tables.
    Stale,
    /// The packet contradicts the protocol, or begins another connection of the same
    /// tuple. Walk the tables.
    Invalid,
}

/// The result of `Connections::advance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// Whether what rules see changed.
    pub visible_changed: bool,
    /// What it is now.
    pub visible_epoch: u32,
}

/// What rules see of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// `ct_state`
    pub state: CtState,
    /// `ct_mark`; 0 without a connection.
    pub mark: u32,
    /// The connection it belongs to, with the epoch that this packet leaves behind.
    pub track: Option<Track>,
    /// Its tuple after the connection's NAT.
    pub translated: Option<Tuple>,
    /// Of an ICMP error: the connection it is about, and what its NAT makes of it.
    pub related: Option<Related>,
    /// What this worker has of its tuple: that connection, or one that is over, or that the packet contradicts.
    pub record: Option<ConnectionId>,
}

/// A connection about to begin.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Where.
    pub zone: u32,
    /// The first packet's tuple, in this zone.
    pub tuple: Tuple,
    /// Its transport header.
    pub transport: Transport,
    /// Its key, as it entered the switch.
    pub first: &'a FlowKey,
    /// What to translate.
    pub nat: Nat,
    /// `ct_mark`
    pub mark: u32,
    /// See [`flag::FOLLOW_POLICY`].
    pub follow_policy: bool,
    /// The connection of the same tuple that rules no longer admit: it is closed before this one is committed.
    pub replaces: Option<ConnectionId>,
    /// Records of the packet's are here: it does not follow its internal end's NAT mapping to another worker, but
    /// gets a port of its own.
    pub apart: bool,
}

/// A connection that could begin: everything is chosen, nothing is changed.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) zone: u32,
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
    pub(super) progress: Progress,
    pub(super) flags: u16,
    pub(super) mark: u32,
    pub(super) first: FlowKey,
    /// The end whose NAT mapping no other worker may have.
    pub(super) maps: Option<Internal>,
}

impl Prepared {
    /// Where it would be.
    #[must_use]
    pub fn zone(&self) -> u32 {
        self.zone
    }

    /// The first packet's tuple, and that of its answers.
    #[must_use]
    pub fn tuples(&self) -> (&Tuple, &Tuple) {
        (&self.original, &self.reply)
    }

    /// Of the new connection.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// The first packet's tuple after NAT.
    #[must_use]
    pub fn translated(&self) -> Tuple {
        self.reply.inverse()
    }

    /// Whether it is the connection that `new` asks for.
    #[must_use]
    pub fn is_of(&self, new: &New<'_>) -> bool {
        self.zone == new.zone && self.original == new.tuple
    }

    /// Whether both cannot begin.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        let tuples = [other.original, other.reply];
        self.zone == other.zone && (tuples.contains(&self.original) || tuples.contains(&self.reply))
    }

    /// What rules see of the first packet after the commit.
    #[must_use]
    pub fn state(&self) -> CtState {
        seen(&self.progress, self.flags, Direction::Original)
    }
}

/// Why connections could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// For this reason.
    Because(DropReason),
    /// Another worker has one of the tuples by now: the packet is that one's.
    OwnedBy(u16),
}

/// An ICMP error about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Related {
    /// About which.
    pub id: ConnectionId,
    /// The way the error goes: against the packet that it quotes.
    pub direction: Direction,
    /// `ct_state`
    pub state: CtState,
    /// `ct_mark`
    pub mark: u32,
    /// What the quoted packet must be rewritten to: as its sender sent it.
    pub quoted: Tuple,
    /// What the error's own source must be rewritten to, if it must.
    pub source: Option<[u8; 16]>,
    /// Likewise its destination.
    pub destination: Option<[u8; 16]>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// Nothing passed for as long as its timeout.
    Expired,
    /// Its protocol had ended it, and the time to linger was over.
    Finished,
    /// A new connection has its tuple, after the protocol had ended it.
    Reopened,
    /// Rules would not admit it any more.
    PolicyChanged,
    /// Somebody removed it.
    Flushed,
    /// Another zone refused the packet that began it.
    Withdrawn,
    /// It moved to a worker that had no room for it.
    Displaced,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Expired,
        Self::Finished,
        Self::Reopened,
        Self::PolicyChanged,
        Self::Flushed,
        Self::Withdrawn,
        Self::Displaced,
    ];

    /// The word in dumps and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Finished => "finished",
            Self::Reopened => "reopened",
            Self::PolicyChanged => "policy_changed",
            Self::Flushed => "flushed",
            Self::Withdrawn => "withdrawn",
            Self::Displaced => "displaced",
        }
    }
}

/// The result of `Connections::expire`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Slots looked at.
    pub examined: usize,
    /// Connections removed.
    pub removed: usize,
}

/// Which connections to list: all conditions must hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Of this zone.
    pub zone: Option<u32>,
    /// Of this IP protocol.
    pub protocol: Option<u8>,
    /// With this address at either end of either tuple.
    pub address: Option<IpAddr>,
    /// With this port, likewise.
    pub port: Option<u16>,
    /// With this mark under this mask.
    pub mark: Option<(u32, u32)>,
}

impl Filter {
    /// Whether it lets a record through.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        let tuples = [record.tuple(Direction::Original), record.tuple(Direction::Reply)];
        let ends = tuples.iter().flat_map(|tuple| [tuple.from(), tuple.to()]);
        self.zone.is_none_or(|zone| record.zone == zone)
            && self.protocol.is_none_or(|protocol| record.original.protocol == protocol)
            && self.mark.is_none_or(|(mark, mask)| record.mark & mask == mark & mask)
            && self.address.is_none_or(|address| ends.clone().any(|end| end.0 == address))
            && self.port.is_none_or(|port| ends.clone().any(|end| end.1 == port))
    }
}

/// What rules see of a packet of a connection.
pub(super) fn seen(progress: &Progress, flags: u16, direction: Direction) -> CtState {
    let progressed = if progress.replied { CtState::ESTABLISHED } else { CtState::NEW };
    CtState::TRACKED | progressed | orientation(flags, direction)
}

/// The bits for the direction and for what NAT does to a packet in it.
pub(super) fn orientation(flags: u16, direction: Direction) -> CtState {
    let mut state = CtState::default();
    let (mut source, mut destination) = (flags & flag::SOURCE_NAT != 0, flags & flag::DESTINATION_NAT != 0);
    if direction == Direction::Reply {
        state |= CtState::REPLY;
        (source, destination) = (destination, source);
    }
    if source {
        state |= CtState::SOURCE_NAT;
    }
    if destination {
        state |= CtState::DESTINATION_NAT;
    }
    state
}
