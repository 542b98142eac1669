//! The record of a connection: 256 bytes, no pointers, the same in every build of one
//! [`LAYOUT_VERSION`], so that a successor process reads what its predecessor wrote.
//!
//! | bytes | what |
//! |---|---|
//! | 0–64 | all that a packet is judged by: generation, epoch, deadline, TCP's two sides |
//! | 64–96 | counters, which packets only add to |
//! | 96–136 | the original tuple |
//! | 136–172 | the reply's addresses and ports |
//! | 172–192 | owner, time of birth |
//! | 192–256 | the first packet's key: its base section |
//!
//! **The first packet's key** is kept so that a change of policy can be held against it: the 64-byte base
//! section as it entered the switch, and the IPv6 addresses. Not kept: the rest of the wide section (ND and
//! ARP, which begin no connection) and the pipeline section (zero when a packet enters).
//!
//! `second` holds the reply tuple's addresses for IPv4. IPv6 has no NAT here, so the reply of an IPv6
//! connection is the inverse of its original tuple, and `second` holds the first key's IPv6 addresses, which
//! may differ from the tuple's if rules rewrote them before the commit.
//!
//! **Torn records.** `phase` is [`Phase::WRITING`] while anything but the counters, deadline, mark and protocol state
//! changes, which are each right by themselves at any moment. A process that is killed leaves all stores it
//! had made in the file's pages, in program order; the compiler is held to that order by fences. What is
//! found neither live nor free is dropped.

use super::Direction;
use super::protocol::{Progress, State};
use super::tuple::Tuple;
use crate::flow::key::FlowKey;
use std::sync::atomic::{Ordering, compiler_fence};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Changes with the meaning of any byte of [`Record`] or of the file's header.
pub const LAYOUT_VERSION: u32 = 2;

/// Values of [`Record::phase`]; words rather than 0 and 1, so that stray bytes are not taken for one.
pub(super) struct Phase;

impl Phase {
    pub const FREE: u32 = 0;
    pub const WRITING: u32 = 0x5752_4954;
    pub const LIVE: u32 = 0x4c49_5645;
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Packets, as they would be on a wire: a large segment counts as those it is cut into.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What one side of a TCP connection sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpSide {
    /// One past the last sequence number.
    pub end: u32,
    /// The furthest acknowledgement.
    pub acknowledged: u32,
    /// The largest window it ever advertised, scaled.
    pub window: u32,
    /// Its window scale; 0xff without.
    pub scale: u8,
    /// Which of the above are known.
    pub known: u8,
    /// Bytes of payload its SYN carried (TCP Fast Open, RFC 7413).
    pub syn_payload: u16,
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// Something passed in the reply direction.
    pub const REPLIED: u16 = 1 << 0;
    /// The original side sent a FIN.
    pub const FIN_ORIGINAL: u16 = 1 << 1;
    /// The reply side did.
    pub const FIN_REPLY: u16 = 1 << 2;
    /// Sources are translated in the original direction.
    pub const SOURCE_NAT: u16 = 1 << 3;
    /// Destinations are.
    pub const DESTINATION_NAT: u16 = 1 << 4;
    /// It lives only as long as policy would admit its first packet.
    pub const FOLLOW_POLICY: u16 = 1 << 5;
    /// Its NAT port is the one its internal end's mapping has (it counts as a user of that).
    pub const MAPPED: u16 = 1 << 6;
}

/// See the module comment.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Record {
    pub(super) phase: u32,
    /// Changes whenever the slot is freed.
    pub generation: u32,
    /// Changes whenever what rules can see of the connection does.
    pub visible_epoch: u32,
    /// Connections of different zones do not see each other.
    pub zone: u32,
    /// When it ends unless touched: microseconds of the system's monotonic clock (see `Start`).
    pub deadline: u64,
    /// Set by rules.
    pub mark: u32,
    /// [`flag`]
    pub flags: u16,
    pub(super) state: u8,
    /// The original tuple's, where packets find it without reading that.
    pub(super) protocol: u8,
    /// By direction.
    pub sides: [TcpSide; 2],
    /// By direction.
    pub counters: [Counter; 2],
    /// The first packet's tuple.
    pub original: Tuple,
    pub(super) second: [[u8; 16]; 2],
    pub(super) reply_source_port: [u8; 2],
    pub(super) reply_destination_port: [u8; 2],
    /// The worker that owns it.
    pub owner: u16,
    pub(super) reserved: u16,
    /// When it was committed: as `deadline`.
    pub created: u64,
    pub(super) reserved_tail: u64,
    pub(super) first: [u8; 64],
}

const _: () = assert!(size_of::<Record>() == 256);
const _: () = assert!(std::mem::offset_of!(Record, counters) == 64);
const _: () = assert!(std::mem::offset_of!(Record, original) == 96);
const _: () = assert!(std::mem::offset_of!(Record, owner) == 172);
const _: () = assert!(std::mem::offset_of!(Record, first) == 192);

impl Record {
    /// A record of zeros.
    pub(super) const ZERO: Self = zerocopy::transmute!([0_u64; 32]);

    /// The tuple of packets in a direction, as they arrive.
    #[must_use]
    pub fn tuple(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.original,
            Direction::Reply if self.original.family == 4 => Tuple {
                source: self.second[0],
                destination: self.second[1],
                source_port: self.reply_source_port,
                destination_port: self.reply_destination_port,
                ..self.original.inverse()
            },
            Direction::Reply => self.original.inverse(),
        }
    }

    /// The tuple of packets in a direction, as they leave after NAT.
    #[must_use]
    pub fn translated(&self, direction: Direction) -> Tuple {
        self.tuple(direction.opposite()).inverse()
    }

    /// The first packet's key: base section and IPv6 addresses; see the module comment.
    #[must_use]
    pub fn first_key(&self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        key.as_mut_bytes()[..64].copy_from_slice(&self.first);
        if self.original.family == 6 {
            [key.ipv6_src, key.ipv6_dst] = self.second;
        }
        key
    }

    /// What the protocol is at.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_byte(self.state).unwrap_or(State::Closed)
    }

    /// Whether all bits are set.
    #[must_use]
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    pub(super) fn is_live(&self) -> bool {
        self.phase == Phase::LIVE
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            state: self.state(),
            replied: self.has(flag::REPLIED),
            fins: [self.has(flag::FIN_ORIGINAL), self.has(flag::FIN_REPLY)],
            sides: self.sides,
        }
    }

    pub(super) fn set_progress(&mut self, progress: &Progress) {
        let bits = [flag::REPLIED, flag::FIN_ORIGINAL, flag::FIN_REPLY];
        let values = [progress.replied, progress.fins[0], progress.fins[1]];
        for (bit, value) in bits.into_iter().zip(values) {
            if value {
                self.flags |= bit;
            }
        }
        self.state = progress.state as u8;
        self.sides = progress.sides;
    }

    pub(super) fn set_reply(&mut self, reply: &Tuple) {
        self.second = [reply.source, reply.destination];
        self.reply_source_port = reply.source_port;
        self.reply_destination_port = reply.destination_port;
    }

    pub(super) fn set_first(&mut self, key: &FlowKey) {
        self.first.copy_from_slice(&key.as_bytes()[..64]);
        if self.original.family == 6 {
            self.second = [key.ipv6_src, key.ipv6_dst];
        }
    }

    /// Puts `content` here so that a reader after a crash sees either it or nothing.
    pub(super) fn publish(&mut self, content: &Self) {
        self.hide();
        self.fill(content);
        self.show();
    }

    /// The first step of [`Self::publish`].
    pub(super) fn hide(&mut self) {
        self.phase = Phase::WRITING;
        compiler_fence(Ordering::SeqCst);
    }

    /// The second.
    pub(super) fn fill(&mut self, content: &Self) {
        *self = Self { phase: Phase::WRITING, ..*content };
        compiler_fence(Ordering::SeqCst);
    }

    /// The third.
    pub(super) fn show(&mut self) {
        self.phase = Phase::LIVE;
        compiler_fence(Ordering::SeqCst);
    }

    /// Ends the record: no id that names it is good any more.
    pub(super) fn free(&mut self) {
        self.phase = Phase::FREE;
        compiler_fence(Ordering::SeqCst);
        self.generation = self.generation.wrapping_add(1);
    }

    /// Whether it makes sense: asked of what another process left. Says nothing about other records.
    pub(super) fn is_sound(&self) -> bool {
        let original = &self.original;
        let unused = |bytes: &[u8; 16]| bytes[4..].iter().all(|&byte| byte == 0);
        let addresses = match original.family {
            4 => [&original.source, &original.destination, &self.second[0], &self.second[1]].into_iter().all(unused),
            6 => !self.has(flag::SOURCE_NAT) && !self.has(flag::DESTINATION_NAT),
            _ => false,
        };
        self.is_live()
            && addresses
            && self.protocol == original.protocol
            && original.may_begin()
            && State::from_byte(self.state).is_some_and(|state| state.suits(original.protocol))
    }
}
