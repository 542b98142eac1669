//! What a gateway's actions mean to a walk: next hops, what is learnt of them, NAT one to one.

use super::{Connected, Effect, Walk};
use crate::connection::wide;
use crate::drop::DropReason;
use crate::flow::action::{Action, Neighbour};
use crate::flow::effect::NextHop;
use crate::flow::key::FlowKey;
use crate::flow::rule::Rule;
use crate::neighbours::{Asker, Hop, Sight, Used};
use crate::respond::icmp;
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::v1::Field;

/// A next hop that a packet may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub hop: Hop,
    /// Who asks for it.
    pub asker: Asker,
    /// Whose packet wants it.
    pub in_port: u32,
}

/// What a walk found of next hops.
#[derive(Debug, Default)]
pub struct Hops {
    /// Those that the result was made from.
    pub used: Vec<Arc<Used>>,
    /// The one that ended the walk, because it is not known, if the packet may wait for it.
    pub wanted: Option<Wanted>,
}

impl Walk<'_> {
    /// Carries out one of these actions.
    pub(super) fn gateway(&mut self, action: &Action, rule: &Rule) -> Result<(), DropReason> {
        match action {
            Action::Neighbour(neighbour) => return self.neighbour(neighbour),
            Action::Translate { source, destination } => self.translate_one_to_one(*source, *destination)?,
            _ => {
                self.consult(Field::EthType);
                if self.key.eth_type != [0x08, 0x06] {
                    return Err(DropReason::BadAction);
                }
            }
        }
        self.effects.push(Effect::Action { action: action.clone(), table: rule.id.table, cookie: rule.cookie });
        Ok(())
    }

    /// Looks for the next hop. What is not known is not to be cached: it may be known the next moment.
    fn neighbour(&mut self, neighbour: &Neighbour) -> Result<(), DropReason> {
        self.needs_ipv4()?;
        let address = neighbour.hop.unwrap_or_else(|| {
            self.consult(Field::Ipv4Dst);
            self.key.ipv4_dst.into()
        });
        if !icmp::is_host(address.octets()) {
            return Err(DropReason::UnknownDestination);
        }
        let hop = Hop { port: neighbour.port, vlan: neighbour.vlan, address };
        self.pass_partition(hop.partition());
        let sight = self.view.state.neighbours.look(&hop, self.in_port);
        let mac = match &sight {
            Sight::Known(mac, used) => {
                self.hops.used.push(used.clone());
                Some(*mac)
            }
            // Whether rules still admit a connection does not depend on where its next hop is.
            _ if matches!(self.view.connections, Connected::Again(_)) => Some([0; 6]),
            Sight::Unknown | Sight::Refused => None,
        };
        self.effects.push(Effect::Neighbour(NextHop { hop, mac }));
        let Some(mac) = mac else {
            self.cacheable = false;
            if let Sight::Unknown = sight {
                let asker = Asker { source: neighbour.source, mac: neighbour.mac };
                self.hops.wanted = Some(Wanted { hop, asker, in_port: self.in_port });
            }
            return Err(DropReason::NeighbourUnresolved);
        };
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        (value.eth_dst, mask.eth_dst) = (mac, [0xff; 6]);
        self.write(&value, &mask);
        Ok(())
    }

    /// Replaces addresses; of an ICMP error also what later `ct`s take for the packet it quotes.
    fn translate_one_to_one(
        &mut self,
        source: Option<Ipv4Addr>,
        destination: Option<Ipv4Addr>,
    ) -> Result<(), DropReason> {
        self.needs_ipv4()?;
        if let Some(quoted) = &mut self.contents.quoted {
            // As the program does (`flow/translate.rs`).
            let (old_source, old_destination) = (wide(self.key.ipv4_src.into()), wide(self.key.ipv4_dst.into()));
            if let Some(new) = destination.filter(|_| quoted.family == 4 && quoted.source == old_destination) {
                quoted.source = wide(new);
            }
            if let Some(new) = source.filter(|_| quoted.family == 4 && quoted.destination == old_source) {
                quoted.destination = wide(new);
            }
        }
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        if let Some(source) = source {
            (value.ipv4_src, mask.ipv4_src) = (source.octets(), [0xff; 4]);
        }
        if let Some(destination) = destination {
            (value.ipv4_dst, mask.ipv4_dst) = (destination.octets(), [0xff; 4]);
        }
        self.write(&value, &mask);
        Ok(())
    }

    /// Why a packet goes nowhere that no rule sends or drops.
    pub(super) fn without_output(&self) -> DropReason {
        let learnt = |effect: &Effect| matches!(effect, Effect::Action { action: Action::LearnNeighbour { .. }, .. });
        if self.effects.iter().any(learnt) { DropReason::Consumed } else { DropReason::NoOutput }
    }
}
