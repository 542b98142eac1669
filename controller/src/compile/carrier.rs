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

use super::network::{self, Floods};
use super::physical;
use super::pipeline::{CLASSIFY, DELIVER, GRE_PORT, L2, TUNNEL_PORT};
use super::rule::{RuleBuilder, act, cookie, output, set};
use super::state::HostState;
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
                let host = model.hosts.get(host)?;
                if host.physical.get(physical)?.shared && !network.external {
                    return None;
                }
                let port = physical::port_of(host, physical)?.number;
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
            Self::Physical { port, vlan } => onto(vlan, output(port)),
        }
    }

    /// To one host, or whoever listens.
    fn to_host(self, network: &Network, underlay: Ipv4Addr, by: Action) -> Vec<Action> {
        match self {
            Self::Tunnel(_) => {
                let key = u64::from(network.segment).to_be_bytes();
                vec![set(Field::TunId, key), set(Field::TunDst, underlay.octets()), by]
            }
            Self::Physical { vlan, .. } => onto(vlan, by),
        }
    }

    /// Adds what becomes of frames that come from it.
    pub fn arrive(self, state: &mut HostState, network: &Network, floods: &Floods) {
        self.classify(state, network);
        let to = |table, priority, cookie| {
            RuleBuilder::new(table, priority, cookie).in_port(self.port()).segment(network.segment)
        };
        let arp = network::of_network(state, network, "flood-arp", network::FLOOD_ARP);
        state.add(to(L2, 360, arp).arp().group().apply(floods.all.here.clone()));
        let ipv4 = network::of_network(state, network, "flood-ipv4", network::FLOOD_IPV4);
        state.add(to(L2, 355, ipv4).ipv4().group().apply(floods.guarded.here.clone()));
        let group = network::of_network(state, network, "flood", network::FLOOD);
        state.add(network::or_drop(to(L2, 350, group).group(), floods.open.here.clone()));
        let unicast = network::of_network(state, network, "unicast", "to one station");
        state.add(to(L2, 300, unicast).goto(DELIVER));
        let stray = self.stray(state, network);
        state.add(to(DELIVER, 300, stray).drop(self.cause()));
    }

    /// Of what comes to a MAC that is not here.
    fn stray(self, state: &mut HostState, network: &Network) -> u64 {
        let what = match self {
            Self::Tunnel(_) => "from other hosts, to a MAC that is not here",
            Self::Physical { .. } => "from the physical network, to a MAC that is not here",
        };
        network::of_network(state, network, "carrier-stray", what)
    }

    /// As what that is dropped: in a tunnel nobody should have sent it here; on a wire, everybody hears everything.
    fn cause(self) -> DropCause {
        match self {
            Self::Tunnel(_) => DropCause::UnknownDestination,
            Self::Physical { .. } => DropCause::Elsewhere,
        }
    }

    /// Adds what tells its frames.
    fn classify(self, state: &mut HostState, network: &Network) {
        let (port, segment) = (self.port(), network.segment);
        let from = network::of_network(state, network, "from-carrier", "frames from other hosts");
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
        state.add(to.apply(self.to_host(network, host.1, output(tunnel))));
    }
}

/// What sends to a host on a network; `None`: there is no way to it.
pub(super) fn way_to(
    state: &HostState,
    model: &Model,
    network: &Network,
    (from, to): (Uuid, Uuid),
) -> Option<Vec<Action>> {
    let carrier = Carrier::of(state, model, network, from)?;
    let to = model.hosts.get(to)?;
    let underlay = match network.segment_type.physical() {
        // By network, not by port: routed packets for all its ports there take one rule.
        None => to.tunnel_end(network.id)?,
        Some(physical) => to.physical.contains_key(physical).then_some(Ipv4Addr::UNSPECIFIED)?,
    };
    Some(carrier.to_host(network, underlay, output(carrier.port())))
}

/// Adds what lets in from other hosts a network that has no port here, for routers that it sends out by.
pub(super) fn admit(state: &mut HostState, model: &Model, network: &Network, host: Uuid) {
    let Some(carrier) = Carrier::of(state, model, network, host) else { return };
    carrier.classify(state, network);
    let stray = carrier.stray(state, network);
    let rule = RuleBuilder::new(L2, 300, stray).in_port(carrier.port()).segment(network.segment);
    state.add(rule.drop(carrier.cause()));
}

/// Adds what it takes to send back where it came from what was routed here. `routed` is the bit of reg6 that says so.
pub(super) fn back(state: &mut HostState, model: &Model, network: &Network, host: Uuid, routed: u32) {
    let Some(carrier) = Carrier::of(state, model, network, host) else { return };
    let bit = routed.to_be_bytes();
    let deliver = |cookie| {
        let rule = RuleBuilder::new(DELIVER, 310, cookie).in_port(carrier.port()).segment(network.segment);
        rule.with_mask(Field::Reg6, bit, bit)
    };
    // An output to where it came from has to be said so.
    let by = || output(weft_proto::PORT_IN_PORT);
    if let Carrier::Physical { vlan, .. } = carrier {
        let cookie = network::of_network(state, network, "delivery-back", "back onto the physical network");
        state.add(deliver(cookie).apply(onto(vlan, by())));
        return;
    }
    for remote in model.hosts_of(network.id).filter_map(|place| model.hosts.get(place)) {
        for port in model.ports_plugged(network.id, remote.id).filter(|_| remote.id != host) {
            let Some(underlay) = remote.tunnel_end_of(port) else { continue };
            let what = format!("delivery back through the tunnel to host {}", remote.name);
            let cookie = network::of_port(state, network, port, "delivery-back", &what);
            let to = deliver(cookie).with(Field::EthDst, port.mac.0);
            state.add(to.apply(carrier.to_host(network, underlay, by())));
        }
    }
}

/// Adds what becomes of what is for a MAC that no rule knows.
pub(super) fn unknown(state: &mut HostState, model: &Model, network: &Network, host: Uuid, carrier: Option<Carrier>) {
    let deliver = |priority, cookie| RuleBuilder::new(DELIVER, priority, cookie).segment(network.segment);
    let Some(Carrier::Physical { port, vlan }) = carrier else {
        if network.reactive && carrier.is_some() {
            return super::reactive::ask(state, model, network);
        }
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
    state.add(deliver(0, outward).apply(onto(vlan, output(port))));
    for interface in model.ports_of(network.id).filter(|port| port.router().is_some()) {
        let cookie = cookie("router-outward", &interface.id.to_string());
        let text = format!(
            "network {}: a router's frames onto the physical network, under a MAC of this host's",
            network.name
        );
        state.origin(cookie, text);
        let own = set(Field::EthSrc, Mac::of_router_at(interface.id, host).0);
        let actions = [own].into_iter().chain(onto(vlan, output(port))).collect();
        state.add(deliver(100, cookie).with(Field::EthSrc, interface.mac.0).apply(actions));
        state.add(deliver(250, cookie).with(Field::EthDst, interface.mac.0).drop(DropCause::UnknownDestination));
    }
}

/// Out, in a VLAN; 0: untagged.
pub(super) fn onto(vlan: u16, by: Action) -> Vec<Action> {
    if vlan == 0 {
        return vec![by];
    }
    let push = act(action::Action::PushVlan(v1::PushVlan { ether_type: VLAN_TAG }));
    vec![push, set(Field::VlanTci, (0x1000 | vlan).to_be_bytes()), by]
}
