//! What rules can do to a packet: OpenFlow's actions, and three of our own (drop with a cause, ARP and
//! DHCP replies), in the form the walk uses. `validate.rs` makes them from messages.

use super::key::FlowKey;
use crate::drop::DropReason;
use crate::respond::dhcp::DhcpOffer;
use std::sync::Arc;

/// One action.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To a port, by number; to the ingress port only as [`weft_proto::PORT_IN_PORT`].
    Output(u32),
    /// Writes the masked bits of fields. Neighbouring set-fields are merged into one.
    SetField(Box<SetField>),
    /// Pushes an 802.1Q tag of this type with a TCI of zero.
    PushVlan(u16),
    /// Removes the outer tag.
    PopVlan,
    /// Decrements the TTL or hop limit; a packet that has none left is dropped.
    DecTtl,
    /// Hands a copy to whoever listens for punts.
    Punt {
        /// At most this many bytes; `u32::MAX` for all.
        max_length: u32,
        /// For the receiver.
        reason: u32,
    },
    /// Drops it.
    Drop(DropReason),
    /// Looks the packet's connection up, and remembers it if asked to.
    Track(ConnectionTrack),
    /// Answers an ARP request with this MAC.
    ArpReply([u8; 6]),
    /// Answers a DHCP client.
    DhcpReply(Arc<DhcpOffer>),
}

/// See `flow.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTrack {
    /// Where.
    pub zone: u32,
    /// Set: what to remember of a packet that begins a connection.
    pub commit: Option<Commit>,
}

/// What a new connection is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// It ends when rules no longer admit its first packet.
    pub follow_policy: bool,
    /// Its mark.
    pub mark: u32,
}

/// Values for the bits of `mask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetField {
    /// No bits outside the mask.
    pub value: FlowKey,
    /// Which bits are written.
    pub mask: FlowKey,
    /// The fields named, in order: where fields share bytes, the mask does not tell which is meant.
    pub fields: Vec<weft_proto::v1::Field>,
}

/// What a rule does, in OpenFlow's order of execution.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instructions {
    /// At once.
    pub apply: Vec<Action>,
    /// Empty the action set.
    pub clear: bool,
    /// Merge into the action set.
    pub write: Vec<Action>,
    /// `metadata = (metadata & !mask) | value`, both big-endian.
    pub metadata: Option<([u8; 8], [u8; 8])>,
    /// Go on there.
    pub goto: Option<u8>,
}

impl Instructions {
    /// The tunnel destinations that set-field actions write.
    pub fn tunnel_destinations(&self) -> impl Iterator<Item = std::net::Ipv4Addr> {
        self.apply.iter().chain(&self.write).filter_map(|action| match action {
            Action::SetField(set) if set.mask.tun_dst == [0xff; 4] => Some(set.value.tun_dst.into()),
            _ => None,
        })
    }
}

impl SetField {
    /// Adds what another set-field writes after this one.
    pub fn merge(&mut self, later: &Self) {
        let values = later.value.words().iter().zip(later.mask.words());
        for (word, (value, mask)) in self.value.words_mut().iter_mut().zip(values) {
            *word = (*word & !mask) | value;
        }
        self.mask.union(&later.mask);
        for field in &later.fields {
            if !self.fields.contains(field) {
                self.fields.push(*field);
            }
        }
    }
}
