//! What a walk does with a packet, one effect after the other: the worker compiles them to a program, `weft
//! trace` and `weft cache` print them, in the words of rules.

use super::action::{Action, action_to_message};
use super::translate::Translation;
use crate::drop::DropReason;
use crate::neighbours::Hop;
use crate::packet::tunnel::Header;
use crate::port::PortSlot;
use crate::topology::Topology;
use std::net::Ipv4Addr;
use weft_proto::v1;

/// One thing to be done with the packet, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// An action that is carried out on the frame as it stands.
    Action {
        /// Which; never one that the walk itself carries out (output, drop, connection tracking).
        action: Action,
        /// Where it stood, for whom packets are handed to.
        table: u8,
        /// Likewise.
        cookie: u64,
    },
    /// Send (a copy) by a device port.
    Output {
        /// The number, for people.
        port: u32,
        /// The port.
        slot: PortSlot,
    },
    /// Wrap (a copy) and send it by the underlay.
    Tunnel(Box<TunnelOutput>),
    /// Translate it, as its connection's NAT has it.
    Translate(Box<Translation>),
    /// Likewise, of a program: what stands in its [`Own`](super::own::Own).
    TranslateOwn,
    /// Write the next hop's MAC address.
    Neighbour(NextHop),
    /// A copy goes a way of its own.
    Branch(Box<Branch>),
    /// Another worker is to decide about the packet: the only effect.
    HandOver(u16),
    /// It should have left here, but cannot; counted only if nothing else is done with the packet.
    Undeliverable {
        /// The port named.
        port: u32,
        /// Why not.
        reason: DropReason,
    },
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The next hop.
    pub hop: Hop,
    /// Where it is; `None`: that is not known, and nothing follows.
    pub mac: Option<[u8; 6]>,
}

/// A bucket of a group; `None`: none could be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketName {
    /// Which group.
    pub group: u32,
    /// Which bucket, from 0.
    pub bucket: Option<u32>,
}

/// What is done with a copy of the packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Whose it is, if it is not a `clone`'s; for people.
    pub of: Option<BucketName>,
    /// In order; may be none if it goes nowhere.
    pub effects: Vec<Effect>,
    /// Set if none of them sends the copy anywhere. Without any effect, it is only to be counted.
    pub drop: Option<DropReason>,
}

/// An encapsulation with everything known.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelOutput {
    /// The tunnel port's number and slot, for counting.
    pub port: u32,
    /// See `port`.
    pub slot: PortSlot,
    /// The device it leaves by.
    pub underlay: PortSlot,
    /// Our address.
    pub source: Ipv4Addr,
    /// The remote end.
    pub destination: Ipv4Addr,
    /// The key.
    pub id: u64,
    /// Ready-made.
    pub header: Header,
}

impl Effect {
    /// Whether the packet, or a copy of it, ends here.
    #[must_use]
    pub fn consumes(&self) -> bool {
        match self {
            Self::Action { action, .. } => action.consumes(),
            Self::Output { .. } | Self::Tunnel(_) | Self::Branch(_) | Self::HandOver(_) => true,
            Self::Translate(_) | Self::TranslateOwn | Self::Neighbour(_) | Self::Undeliverable { .. } => false,
        }
    }

    /// Whether it changes the frame, and leaves it to what follows.
    #[must_use]
    #[inline]
    pub fn changes(&self) -> bool {
        match self {
            Self::Action { action, .. } => matches!(
                action,
                Action::SetField(_)
                    | Action::PushVlan(_)
                    | Action::PopVlan
                    | Action::DecTtl { .. }
                    | Action::CheckMtu { .. }
                    | Action::Translate { .. }
            ),
            Self::Translate(_) | Self::TranslateOwn | Self::Neighbour(_) => true,
            _ => false,
        }
    }

    /// Whether it does something, though nothing follows that sends the packet.
    #[must_use]
    pub fn teaches(&self) -> bool {
        matches!(self, Self::Action { action: Action::LearnNeighbour { .. }, .. })
    }

    /// Whether it only tells why the packet goes no further.
    #[must_use]
    pub fn explains(&self) -> bool {
        matches!(self, Self::Undeliverable { .. } | Self::Neighbour(NextHop { mac: None, .. }))
    }

    /// The meter that it asks.
    #[must_use]
    pub fn meter(&self) -> Option<u32> {
        match self {
            Self::Action { action: Action::Meter(number), .. } => Some(*number),
            _ => None,
        }
    }

    /// Whether the packet, or a copy of it, goes somewhere here.
    #[must_use]
    pub fn sends(&self) -> bool {
        match self {
            Self::Branch(branch) => branch.drop.is_none(),
            other => other.consumes() && !other.refuses(),
        }
    }

    /// Whether the packet is dropped here, and its sender told so.
    #[must_use]
    pub fn refuses(&self) -> bool {
        matches!(self, Self::Action { action: Action::IcmpUnreachable { .. }, .. })
    }

    /// The address from which a packet is answered that is dropped here.
    #[must_use]
    pub fn answer(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Action { action, .. } => action.answer(),
            Self::Branch(branch) => branch.effects.iter().find_map(Self::answer),
            _ => None,
        }
    }

    /// The port that it sends by, as far as counting goes.
    #[must_use]
    pub fn output(&self) -> Option<PortSlot> {
        match self {
            Self::Output { slot, .. } => Some(*slot),
            Self::Tunnel(output) => Some(output.slot),
            // Without a buffer for the copy, its first output misses it.
            Self::Branch(branch) => branch.effects.iter().find_map(Self::output),
            Self::Action { .. } | Self::Translate(_) | Self::TranslateOwn | Self::Neighbour(_) => None,
            Self::HandOver(_) | Self::Undeliverable { .. } => None,
        }
    }

    /// As messages: one, or one for each field of a rewrite. The topology tells ports' names.
    #[must_use]
    pub fn to_messages(&self, topology: &Topology) -> Vec<v1::Effect> {
        let output = |port: u32| v1::OutputEffect {
            port,
            port_name: topology.ports.get(&port).map(|info| info.name.to_string()).unwrap_or_default(),
            ..Default::default()
        };
        let output = match self {
            Self::Action { action, .. } => {
                let actions = action_to_message(action).into_iter().map(v1::effect::Effect::Action);
                return actions.map(|effect| v1::Effect { effect: Some(effect) }).collect();
            }
            Self::Translate(translation) => {
                let effect = v1::effect::Effect::Translation(translation.to_message());
                return vec![v1::Effect { effect: Some(effect) }];
            }
            Self::Branch(branch) => {
                let effects = branch.effects.iter().flat_map(|effect| effect.to_messages(topology)).collect();
                return vec![branch.message(effects, branch.drop)];
            }
            Self::Neighbour(NextHop { hop, mac }) => {
                let effect = v1::effect::Effect::Neighbour(v1::NeighbourEffect {
                    port: hop.port,
                    vlan: hop.vlan.into(),
                    hop: hop.address.octets().to_vec(),
                    mac: mac.map_or(Vec::new(), |mac| mac.to_vec()),
                });
                return vec![v1::Effect { effect: Some(effect) }];
            }
            // Who asks is told what that worker says; a program puts in what is its own.
            Self::HandOver(_) | Self::TranslateOwn => return Vec::new(),
            Self::Output { port, .. } => output(*port),
            Self::Undeliverable { port, reason } => {
                v1::OutputEffect { drop_reason: reason.word().to_owned(), ..output(*port) }
            }
            Self::Tunnel(tunnel) => v1::OutputEffect {
                tunnel_destination: tunnel.destination.octets().to_vec(),
                tunnel_id: tunnel.id,
                tunnel_source: tunnel.source.octets().to_vec(),
                ..output(tunnel.port)
            },
        };
        vec![v1::Effect { effect: Some(v1::effect::Effect::Output(output)) }]
    }
}

impl Branch {
    /// As a message, with these effects and this reason.
    #[must_use]
    pub fn message(&self, effects: Vec<v1::Effect>, drop: Option<DropReason>) -> v1::Effect {
        let drop_reason = drop.map(|reason| reason.word().to_owned()).unwrap_or_default();
        let (group, bucket) = (self.of.map(|of| of.group), self.of.and_then(|of| of.bucket));
        let branch = v1::BranchEffect { effects, drop_reason, group, bucket };
        v1::Effect { effect: Some(v1::effect::Effect::Branch(branch)) }
    }
}
