//! Connections: what the switch remembers of conversations, so that rules can match on their state, and NAT
//! can translate all of their packets alike.
//!
//! # What
//! A connection is a [`Record`]: 256 bytes of fixed, versioned layout in a file on tmpfs, which a successor
//! process maps again (`Connections::open`). It is found by (zone, [`Tuple`]) in either direction, or
//! directly by a [`ConnectionId`]. Only its timeout, its protocol, a change of policy or a person ends it; no
//! pressure on caches or tables does. A full table refuses new ones.
//!
//! # The way of a packet
//! 1. A cached program opens with its [`Track`]s and gives them to `Connections::pass`: no look-up, no
//!    allocation, of each record one cache line to be judged by and one to be counted in. True: run the program.
//!    Otherwise: walk the tables. All records are looked at before any is touched, so that none is for a packet
//!    that goes another way.
//! 2. The walk asks `Connections::observe`: the state rules see, *as of this packet* (the first reply is
//!    already `est`), and changes nothing. A commit with NAT asks `Connections::prepare`, which chooses the
//!    port so that the walk can go on with the translated packet, and changes nothing either. So a trace may do both.
//! 3. If the walk outputs the packet, the worker applies: `Connections::commit` what was prepared (what is
//!    already committed is undone by `Connections::close` with `Withdrawn` if a later one fails) and
//!    `Connections::advance` for what was there. Their `visible_epoch` goes into the cached program's `Track`.
//! 4. An ICMP error is found by what it quotes: [`Tuple::quoted`], `Connections::related`.
//! 5. Each round the worker calls `Connections::expire` with a budget.
//!
//! # Invariants
//! - Every live record has exactly two entries in the index (its two tuples), is counted in its zone, and, if
//!   `MAPPED`, in its internal end's NAT mapping; none of these outlives it.
//! - An id is good for exactly one connection: freeing a slot changes the record's generation.
//! - `visible_epoch` changes whenever what rules can see does: first reply, close (both FINs acknowledged, or
//!   a RST), mark. A program with the current epoch would be compiled the same again.
//! - A record past its deadline is treated as gone from that microsecond on, whether swept yet or not.
//! - A refused commit leaves nothing behind.
//!
//! # Threads
//! [`Connections`] belongs to one worker: no lock, no atomic; other threads ask the worker. Only the
//! [`Directory`] is shared: consulted on misses, written at commit and removal.
//!
//! # Time
//! Is passed in, as microseconds of `crate::clock`. Records hold microseconds of the system's monotonic
//! clock, which a successor shares with its predecessor and `crate::clock` does not; [`Start`] relates the two.
//!
//! | file | |
//! |---|---|
//! | `contents` | what is looked at in a packet besides its key |
//! | `tuple` | what tells connections apart |
//! | `protocol` | state machines: functions |
//! | `record`, `file` | the layout, the mapping |
//! | `index` | hash → record |
//! | `nat` | ports and mappings |
//! | `fragments` | which fragments belong to one datagram |
//! | `table`, `exchange` | [`Connections`], and what goes in and comes out |
//! | `directory` | who owns what, among workers |

mod assumed;
mod contents;
mod directory;
mod exchange;
mod file;
pub mod fragments;
mod index;
mod nat;
mod protocol;
mod record;
mod state;
mod table;
mod tuple;

#[cfg(test)]
mod tests;

pub use assumed::Assumed;
pub use contents::{Contents, is_icmp_error};
pub use directory::{Directory, Refusal};
pub use exchange::{
    Advanced, EndReason, Expired, Filter, New, Observation, Options, Passing, Prepared, Refused, Related, Start,
    Touched, Track,
};
pub use file::OpenError;
pub use nat::{Nat, SourceNat};
pub use protocol::{Segment, State, Transport};
pub use record::{Counter, LAYOUT_VERSION, Record, TcpSide, flag};
pub use state::CtState;
pub use table::Connections;
pub use tuple::{Tuple, wide};

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// As the first packet.
    Original = 0,
    /// Against it.
    Reply = 1,
}

impl Direction {
    /// The other.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// Names one connection; never another one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The slot.
    pub index: u32,
    /// The slot's generation.
    pub generation: u32,
}
