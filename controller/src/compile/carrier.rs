//! What carries a network from one host to others: a tunnel, in which each host is sent its own copy; or a physical
//! network, whose stations all hear what is sent once, and where there are stations that nobody has told us of.
//!
//! | table | what | priority |
//! |---|---|---|
//! | classify | from the tunnel under the network's segment id; from the physical port under its VLAN, whose tag is taken off | 100 |
//! | | the same with another tag within: on, if the network carries tagged frames; else dropped | 120 |
//! | l2 | from the carrier: ARP to a group to every port here, never back | 360 |
//! | | anything else to a group: to every port here that has no port security | 350 |
//! | | to anything else: on to deliver | 300 |
//! | deliver | from the carrier, to a MAC that is not here: dropped | 300 |
//! | | onto a physical network, to a router's MAC: dropped, for it is on every host | 250 |
//! | | onto a physical network, from a router's MAC: under a MAC that the host alone has for it | 100 |
//! | | onto a physical network, to any MAC that is not here | 0 |
//!
//! A VLAN's tag has the type of 802.1Q, with or without another tag within: one VLAN, one type. Both are understood.

use super::pipeline::{CLASSIFY, DELIVER, GRE_PORT, L2, TUNNEL_PORT};
use super::rule::{RuleBuilder, act, cookie, output, set};
use super::state::HostState;
use super::{network, physical};
use crate::model::{Mac, Model, Network, Port, SegmentType};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, DropCause, Field, action};

/// The type of a VLAN tag (802.1Q).
const VLAN_TAG: u32 = 0x8100;

/// What carries a network from a host to others.
#[derive(Clone, Copy)]
pub(super) enum Carrier {
    /// The tunnel of this port.
    Tunnel(u32),
    /// A physical network.
    Physical {
        /// The port that leads there.
        port: u32,
        /// 0: untagged.
        vlan: u16,
    },
}

impl Carrier {
    /// Of a network at a host; `None`: the host has no underlay, or does not reach the physical network.
    pub fn of(state: &HostState, model: &Model, network: &Network, host: Uuid) -> Option<Self> {
        match &network.segment_type {
            SegmentType::Vxlan => Some(Self::Tunnel(TUNNEL_PORT)),
            SegmentType::Gre => Some(Self::Tunnel(GRE_PORT)),
            SegmentType::Vlan { physical, .. } | SegmentType::Flat { physical } => {
                let port = physical::port_of(model.hosts.get(host)?, physical)?.number;
                Some(Self::Physical { port, vlan: network.segment_type.vlan() })
            }
        }
        .filter(|carrier| state.ports.contains_key(&carrier.port()))
    }

    /// The port that leads to it.
    pub fn port(self) -> u32 {
        match self {
            Self::Tunnel(port) | Self::Physical { port, .. } => port,
        }
    }

    /// To the hosts of these underlay addresses, or whoever listens.
    pub fn flood(self, network: &Network, underlays: &[Ipv4Addr]) -> Vec<Action> {
        match self {
            Self::Tunnel(_) if underlays.is_empty() => Vec::new(),
            Self::Tunnel(port) => {
                let copies = underlays.iter().flat_map(|to| [set(Field::TunDst, to.octets()), output(port)]);
                [set(Field::TunId, u64::from(network.segment).to_be_bytes())].into_iter().chain(copies).collect()
            }
            Self::Physical { port, vlan } => onto(port, vlan),
        }
    }

    /// Adds what becomes of frames that come from it. `all`, `open`: outputs to all ports here, and to those without
    /// port security.
    pub fn arrive(self, state: &mut HostState, network: &Network, all: &[Action], open: &[Action]) {
        let (port, segment) = (self.port(), network.segment);
        let (from, stray, cause) = match self {
            Self::Tunnel(_) => (
                "packets from the tunnel",
                "from other hosts, to a MAC that is not here",
                DropCause::UnknownDestination,
            ),
            Self::Physical { .. } => (
                "frames from the physical network",
                "from the physical network, to a MAC that is not here",
                DropCause::Elsewhere,
            ),
        };
        let from = network::of_network(state, network, "from-carrier", from);
        let tagged = network::of_network(state, network, "carrier-tagged", "frames with a tag within");
        let onward = |rule: RuleBuilder, mut actions: Vec<Action>| {
            actions.push(set(Field::Reg0, segment.to_be_bytes()));
            rule.apply_goto(actions, L2)
        };
        let within = |rule: RuleBuilder, actions| {
            if network.vlan_transparent { onward(rule, actions) } else { rule.drop(DropCause::Policy) }
        };
        let classify = |priority, cookie| RuleBuilder::new(CLASSIFY, priority, cookie).in_port(port);
        match self {
            Self::Tunnel(_) => {
                let key = u64::from(segment).to_be_bytes();
                state.add(onward(classify(100, from).with(Field::TunId, key), Vec::new()));
                // Else the tunnel's own rule stands (RFC 7348, section 6.1).
                if network.vlan_transparent {
                    state.add(within(classify(120, tagged).with(Field::TunId, key).tagged(), Vec::new()));
                }
            }
            Self::Physical { vlan, .. } => {
                // The priority in the tag is not asked about.
                let tag = (0x1000 | vlan).to_be_bytes();
                let in_vlan = |rule: RuleBuilder| rule.with_mask(Field::VlanTci, tag, [0x1f, 0xff]);
                let pop = || vec![act(action::Action::PopVlan(v1::PopVlan {}))];
                if vlan == 0 {
                    state.add(onward(classify(100, from).with_mask(Field::VlanTci, [0, 0], [0x10, 0]), Vec::new()));
                }
                // VLAN 0 is no VLAN, but a priority (802.1Q, table 9-2).
                state.add(onward(in_vlan(classify(100, from)), pop()));
                let inner = in_vlan(classify(120, tagged)).with_mask(Field::VlanInnerTci, [0x10, 0], [0x10, 0]);
                state.add(within(inner, pop()));
            }
        }
        let to = |table, priority, cookie| RuleBuilder::new(table, priority, cookie).in_port(port).segment(segment);
        let arp = network::of_network(state, network, "flood-arp", "ARP to everybody");
        state.add(to(L2, 360, arp).arp().group().apply(all.to_vec()));
        let group = network::of_network(state, network, "flood", network::FLOOD);
        state.add(network::or_drop(to(L2, 350, group).group(), open.to_vec()));
        let unicast = network::of_network(state, network, "unicast", "to one station");
        state.add(to(L2, 300, unicast).goto(DELIVER));
        let stray = network::of_network(state, network, "carrier-stray", stray);
        state.add(to(DELIVER, 300, stray).drop(cause));
    }

    /// Adds delivery to a port on the host of this underlay address.
    pub fn deliver(self, state: &mut HostState, network: &Network, port: &Port, host: (&str, Ipv4Addr)) {
        // On a physical network, everybody who is not here is reached alike.
        let Self::Tunnel(tunnel) = self else { return };
        let cookie = network::of_port(
            state,
            network,
            port,
            "delivery",
            &format!("delivery through the tunnel to host {}", host.0),
        );
        let to = RuleBuilder::new(DELIVER, 200, cookie).segment(network.segment).with(Field::EthDst, port.mac.0);
        state.add(to.apply(vec![
            set(Field::TunId, u64::from(network.segment).to_be_bytes()),
            set(Field::TunDst, host.1.octets()),
            output(tunnel),
        ]));
    }
}

/// Adds what becomes of what is for a MAC that no rule knows.
pub(super) fn unknown(state: &mut HostState, model: &Model, network: &Network, host: Uuid, carrier: Option<Carrier>) {
    let deliver = |priority, cookie| RuleBuilder::new(DELIVER, priority, cookie).segment(network.segment);
    let Some(Carrier::Physical { port, vlan }) = carrier else {
        let why = match network.segment_type.physical() {
            None => "to a MAC that no port of it has".to_owned(),
            Some(physical) => {
                format!("to a MAC that is not here, and the host does not reach physical network {physical}")
            }
        };
        let unknown = network::of_network(state, network, "unknown-unicast", &why);
        state.add(deliver(0, unknown).drop(DropCause::UnknownDestination));
        return;
    };
    let outward =
        network::of_network(state, network, "outward", "onto the physical network, to a MAC that is not here");
    state.add(deliver(0, outward).apply(onto(port, vlan)));
    for interface in model.ports_of(network.id).filter(|port| port.router.is_some()) {
        let cookie = cookie("router-outward", &interface.id.to_string());
        let text = format!(
            "network {}: a router's frames onto the physical network, under a MAC of this host's",
            network.name
        );
        state.origin(cookie, text);
        let own = set(Field::EthSrc, Mac::of_router_at(interface.id, host).0);
        let actions = [own].into_iter().chain(onto(port, vlan)).collect();
        state.add(deliver(100, cookie).with(Field::EthSrc, interface.mac.0).apply(actions));
        state.add(deliver(250, cookie).with(Field::EthDst, interface.mac.0).drop(DropCause::UnknownDestination));
    }
}

/// Onto a physical network.
fn onto(port: u32, vlan: u16) -> Vec<Action> {
    if vlan == 0 {
        return vec![output(port)];
    }
    vec![
        act(action::Action::PushVlan(v1::PushVlan { ether_type: VLAN_TAG })),
        set(Field::VlanTci, (0x1000 | vlan).to_be_bytes()),
        output(port),
    ]
}
