//! What rules match: the bits of `ct_state`, as Open vSwitch numbers them (ovs-fields(7)).

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CtState(pub u8);

impl CtState {
    /// Begins a connection, or belongs to one that has no reply yet.
    pub const NEW: Self = Self(0x01);
    /// Belongs to a connection that has been replied to; the first reply too.
    pub const ESTABLISHED: Self = Self(0x02);
    /// Is about a connection: an ICMP error.
    pub const RELATED: Self = Self(0x04);
    /// Goes in the reply direction.
    pub const REPLY: Self = Self(0x08);
    /// Belongs to none and can begin none, or contradicts its connection's protocol.
    pub const INVALID: Self = Self(0x10);
    /// Has been through a `ct` action.
    pub const TRACKED: Self = Self(0x20);
    /// NAT changes its source address or port.
    pub const SOURCE_NAT: Self = Self(0x40);
    /// NAT changes its destination address or port.
    pub const DESTINATION_NAT: Self = Self(0x80);

    const WORDS: [(Self, &'static str); 8] = [
        (Self::NEW, "new"),
        (Self::ESTABLISHED, "est"),
        (Self::RELATED, "rel"),
        (Self::REPLY, "rpl"),
        (Self::INVALID, "inv"),
        (Self::TRACKED, "trk"),
        (Self::SOURCE_NAT, "snat"),
        (Self::DESTINATION_NAT, "dnat"),
    ];

    /// Whether all of these bits are set.
    #[must_use]
    pub fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }
}

impl BitOr for CtState {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for CtState {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for CtState {
    /// As in dumps: "+est+rpl+trk".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::WORDS.iter().filter(|(bit, _)| self.has(*bit)).try_for_each(|(_, word)| write!(formatter, "+{word}"))
    }
}

impl fmt::Debug for CtState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CtState({self})")
    }
}
