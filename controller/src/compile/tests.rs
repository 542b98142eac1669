//! What the compiled tables do to packets; in `bundles`, that bundles lead from one state to another; in `incremental`,
//! that incremental compiling equals compiling everything.
//!
//! The tables are judged by their effects: [`walk`] does with a packet what OpenFlow says a switch does
//! (5.1 to 5.5, apply-actions only: the fabric uses nothing else).

mod bundles;
mod firewall;
mod gateway;
mod incremental;
mod reactive;
mod routing;
mod segments;

use super::rule::output;
use super::state::{HostState, is_empty, matched};
use super::*;
use crate::model::{FIRST_RESERVED_PORT, HostReport, Ipv4Prefix, Mac, Planned, Port, UnderlayAddress};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_proto::v1::{self, DropCause, Field, Rule, action};
use weft_proto::{digest, text};

/// `ct_state`: +new+trk.
const NEW: u8 = 0x21;

type Packet = BTreeMap<i32, Vec<u8>>;

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Port(u32),
    Tunnel {
        segment: u64,
        host: Ipv4Addr,
    },
    /// Onto a physical network, with these tags (outer first), from this MAC: as tests of segments tell it.
    Wire(Vec<u16>, Mac),
    Arp(Mac),
    Dhcp(Box<v1::DhcpReply>),
    Dropped(DropCause),
    Punted(u32),
    Missed(u32),
    /// One less to live; who is told, is told from this address.
    Aged(Ipv4Addr),
    /// Measured by this MTU, likewise.
    Measured(u32, Ipv4Addr),
    Echo,
    Unreachable(u32, Ipv4Addr),
    /// What is known of the sender of an ARP packet from this port and VLAN is brought up to date.
    Learnt(u32, u32),
    /// The MAC of this address, behind this port, is looked for.
    Sought(Ipv4Addr, u32),
    /// A connection of the zone gets this source.
    Masked(u32, Ipv4Addr),
}

/// A field of packets that stands for what a router's zone knows of them: the destination they are translated to.
const UNMASKED: i32 = -1;

fn address(bytes: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(bytes).expect("an address").into()
}

fn matches(state: &HostState, rule: &v1::Rule, packet: &Packet) -> bool {
    rule.r#match.iter().all(|wanted| {
        if !wanted.address_set.is_empty() {
            let set = state.address_sets.get(&wanted.address_set).expect("a set that is named is there");
            let address: [u8; 4] = packet[&wanted.field].clone().try_into().unwrap();
            let length = |prefix: &v1::Prefix| u8::try_from(prefix.length).unwrap();
            let inside = |prefix: &v1::Prefix| {
                let first: [u8; 4] = prefix.address.clone().try_into().unwrap();
                Ipv4Prefix::new(first.into(), length(prefix)).unwrap().contains(address.into())
            };
            return set.members.iter().any(inside);
        }
        let value = packet.get(&wanted.field).cloned().unwrap_or_else(|| vec![0; wanted.value.len()]);
        let mask = if wanted.mask.is_empty() { vec![0xff; value.len()] } else { wanted.mask.clone() };
        value.iter().zip(&mask).map(|(byte, mask)| byte & mask).eq(wanted.value.iter().copied())
    })
}

fn walk(state: &HostState, packet: &Packet) -> (Vec<Fate>, String) {
    let (fates, origin, _) = journey(state, packet);
    (fates, origin)
}

/// A walk, and the packet as it was in the end.
fn journey(state: &HostState, packet: &Packet) -> (Vec<Fate>, String, Packet) {
    journey_from(state, packet, 0)
}

fn journey_from(state: &HostState, packet: &Packet, mut table: u32) -> (Vec<Fate>, String, Packet) {
    let mut packet = packet.clone();
    let in_port = packet[&(Field::InPort as i32)].clone();
    let mut fates = Vec::new();
    loop {
        let candidates = state.rules.values().filter(|rule| rule.table == table && matches(state, rule, &packet));
        let Some(rule) = candidates.max_by_key(|rule| rule.priority) else {
            fates.push(Fate::Missed(table));
            return (fates, String::new(), packet);
        };
        let origin = state.origins.get(&rule.cookie).cloned().expect("every cookie has an origin");
        let instructions = rule.instructions.clone().unwrap();
        for action in instructions.apply_actions {
            match action.action.unwrap() {
                action::Action::SetField(set) => drop(packet.insert(set.field, set.value)),
                // What the packet brings along is what would be found: otherwise it begins a connection.
                action::Action::Ct(track) if track.zone < FIRST_RESERVED_PORT => {
                    assert!(track.commit && track.follow_policy && !track.nat);
                    packet.entry(Field::CtState as i32).or_insert(vec![NEW]);
                }
                action::Action::Ct(track) => {
                    assert!(track.zone > 0x0100_0000 && track.nat && track.commit == track.follow_policy);
                    match (track.source, packet.remove(&UNMASKED)) {
                        (Some(source), _) => {
                            assert!(track.commit);
                            fates.push(Fate::Masked(track.zone, address(&source.address)));
                            packet.insert(Field::Ipv4Src as i32, source.address);
                        }
                        (None, Some(inside)) => drop(packet.insert(Field::Ipv4Dst as i32, inside)),
                        (None, None) => {}
                    }
                }
                action::Action::Translate(translate) => {
                    for (field, value) in [(Field::Ipv4Src, translate.source), (Field::Ipv4Dst, translate.destination)]
                    {
                        if !value.is_empty() {
                            packet.insert(field as i32, value);
                        }
                    }
                }
                action::Action::PopVlan(_) => {
                    let tag = packet.remove(&(Field::VlanTci as i32));
                    assert!(tag.is_some_and(|tag| tag[0] & 0x10 != 0), "a tag is taken that is there");
                    if let Some(inner) = packet.remove(&(Field::VlanInnerTci as i32)) {
                        packet.insert(Field::VlanTci as i32, inner);
                    }
                }
                action::Action::PushVlan(push) => {
                    assert_eq!(push.ether_type, 0x8100);
                    if let Some(outer) = packet.insert(Field::VlanTci as i32, vec![0x10, 0]) {
                        packet.insert(Field::VlanInnerTci as i32, outer);
                    }
                }
                action::Action::LearnNeighbour(learn) => fates.push(Fate::Learnt(learn.port, learn.vlan)),
                action::Action::Neighbour(neighbour) => {
                    let hop =
                        if neighbour.hop.is_empty() { packet[&(Field::Ipv4Dst as i32)].clone() } else { neighbour.hop };
                    fates.push(Fate::Sought(address(&hop), neighbour.port));
                }
                action::Action::Clone(branch) => {
                    let mut copy = packet.clone();
                    for action in branch.actions {
                        let Some(action::Action::SetField(set)) = action.action else { panic!("{action:?}") };
                        copy.insert(set.field, set.value);
                    }
                    fates.extend(journey_from(state, &copy, branch.goto_table.unwrap()).0);
                }
                // Output to the ingress port is suppressed.
                action::Action::Output(output) if output.port.to_be_bytes() == in_port.as_slice() => {}
                action::Action::Output(output)
                    if output.port == pipeline::TUNNEL_PORT
                        || output.port == weft_proto::PORT_IN_PORT
                            && in_port == pipeline::TUNNEL_PORT.to_be_bytes() =>
                {
                    let bytes = |field: Field| packet[&(field as i32)].clone();
                    fates.push(Fate::Tunnel {
                        segment: u64::from_be_bytes(bytes(Field::TunId).try_into().unwrap()),
                        host: Ipv4Addr::from(<[u8; 4]>::try_from(bytes(Field::TunDst)).unwrap()),
                    });
                }
                action::Action::Output(output) => fates.push(Fate::Port(output.port)),
                action::Action::ArpReply(reply) => fates.push(Fate::Arp(Mac(reply.mac.try_into().unwrap()))),
                action::Action::DhcpReply(reply) => fates.push(Fate::Dhcp(Box::new(reply))),
                action::Action::Punt(punt) => fates.push(Fate::Punted(punt.reason)),
                action::Action::Drop(drop) => fates.push(Fate::Dropped(drop.cause())),
                action::Action::DecTtl(ttl) => fates.push(Fate::Aged(address(&ttl.answer))),
                action::Action::CheckMtu(check) => {
                    assert!(check.fragment);
                    fates.push(Fate::Measured(check.mtu, address(&check.answer)));
                }
                action::Action::IcmpReply(_) => fates.push(Fate::Echo),
                action::Action::IcmpUnreachable(unreachable) => {
                    fates.push(Fate::Unreachable(unreachable.code, address(&unreachable.answer)));
                }
                other => panic!("the fabric does not use {other:?}"),
            }
        }
        match instructions.goto_table {
            Some(next) => {
                assert!(next > table, "goto goes forward");
                table = next;
            }
            None => return (fates, origin, packet),
        }
    }
}

fn fates(state: &HostState, packet: &Packet) -> Vec<Fate> {
    walk(state, packet).0
}

fn packet(in_port: u32, source: Mac, destination: [u8; 6], fields: &[(Field, &[u8])]) -> Packet {
    let base = [
        (Field::InPort, in_port.to_be_bytes().to_vec()),
        (Field::EthSrc, source.0.to_vec()),
        (Field::EthDst, destination.to_vec()),
    ];
    let more = fields.iter().map(|(field, value)| (*field, value.to_vec()));
    base.into_iter().chain(more).map(|(field, value)| (field as i32, value)).collect()
}

fn ipv4(port: &Port, destination: [u8; 6]) -> Packet {
    let source = port.addresses[0].address.octets();
    packet(port.number, port.mac, destination, &[(Field::EthType, &[8, 0]), (Field::Ipv4Src, &source)])
}

fn arp(port: &Port, sender: Ipv4Addr, target: Ipv4Addr) -> Packet {
    let fields: [(Field, &[u8]); 5] = [
        (Field::EthType, &[8, 6]),
        (Field::ArpOp, &[0, 1]),
        (Field::ArpSha, &port.mac.0),
        (Field::ArpSpa, &sender.octets()),
        (Field::ArpTpa, &target.octets()),
    ];
    packet(port.number, port.mac, [0xff; 6], &fields)
}

fn dhcp(port: &Port, source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    let fields: [(Field, &[u8]); 6] = [
        (Field::EthType, &[8, 0]),
        (Field::IpProto, &[17]),
        (Field::Ipv4Src, &source.octets()),
        (Field::Ipv4Dst, &destination.octets()),
        (Field::UdpSrc, &[0, 68]),
        (Field::UdpDst, &[0, 67]),
    ];
    packet(port.number, port.mac, [0xff; 6], &fields)
}

/// As an ARP request for an address that nobody has, to everybody.
fn broadcast(port: &Port) -> Packet {
    arp(port, port.addresses[0].address, [10, 0, 0, 200].into())
}

fn from_tunnel(segment: u32, destination: [u8; 6]) -> Packet {
    let key = u64::from(segment).to_be_bytes();
    let fields: [(Field, &[u8]); 2] = [(Field::TunId, &key), (Field::EthType, &[8, 6])];
    packet(pipeline::TUNNEL_PORT, Mac([2, 0, 0, 0, 0, 9]), destination, &fields)
}

/// A model that is changed through planners only.
#[derive(Default)]
struct Cloud {
    model: Model,
    ids: u128,
}

impl Cloud {
    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    fn make<T>(&mut self, plan: impl FnOnce(&Model, Uuid) -> Planned<T>) -> T {
        let id = self.id();
        let (changes, made) = plan(&self.model, id).expect("this is right");
        changes.iter().for_each(|change| self.model.apply(change));
        made
    }

    fn host(&mut self, name: &str, last: u8) -> Uuid {
        let host = self.make(|model, id| model.create_host(&v1::CreateHostRequest { name: name.into() }, id));
        let report = HostReport {
            underlay: UnderlayAddress::only([10, 9, 0, last], 1500),
            physical: std::collections::BTreeMap::new(),
            version: "1".into(),
        };
        self.make(|model, _| model.report_host(host.id, &report));
        host.id
    }

    fn network(&mut self, name: &str) -> u32 {
        self.network_of(&v1::CreateNetworkRequest { name: name.into(), ..Default::default() })
    }

    fn network_of(&mut self, request: &v1::CreateNetworkRequest) -> u32 {
        let name = request.name.as_str();
        let segment = self.make(|model, id| model.create_network(request, id)).segment;
        let request = v1::CreateSubnetRequest {
            name: name.into(),
            network: name.into(),
            cidr: "10.0.0.0/24".into(),
            dns_nameservers: vec!["10.0.0.2".into()],
            host_routes: vec![v1::HostRoute { destination: "10.9.0.0/16".into(), nexthop: "10.0.0.9".into() }],
            domain_name: "cloud.example".into(),
            ..Default::default()
        };
        self.make(|model, id| model.create_subnet(&request, id));
        segment
    }

    fn port(&mut self, network: &str, name: &str, host: &str) -> Port {
        let request = v1::CreatePortRequest { name: name.into(), network: network.into(), ..Default::default() };
        self.make(|model, id| model.create_port(&request, id));
        let request = v1::PlugPortRequest { port: name.into(), host: host.into(), ..Default::default() };
        self.make(|model, _| model.plug_port(&request))
    }
}

/// Networks blue and red with the same addresses. Blue: web-1 and web-2 on one, web-3 on two; red: red-1 on one,
/// red-3 on three. Host four has nothing.
struct Scene {
    cloud: Cloud,
    hosts: [Uuid; 4],
    blue: u32,
    red: u32,
    web: [Port; 3],
    red_1: Port,
}

fn scene() -> Scene {
    let mut cloud = Cloud::default();
    cloud.make(|model, id| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, id));
    let hosts = [cloud.host("one", 1), cloud.host("two", 2), cloud.host("three", 3), cloud.host("four", 4)];
    let (blue, red) = (cloud.network("blue"), cloud.network("red"));
    let web =
        [cloud.port("blue", "web-1", "one"), cloud.port("blue", "web-2", "one"), cloud.port("blue", "web-3", "two")];
    let red_1 = cloud.port("red", "red-1", "one");
    cloud.port("red", "red-3", "three");
    Scene { cloud, hosts, blue, red, web, red_1 }
}

/// What a host should hold, every rule of it one that a switch takes: a switch refuses a whole bundle for one that is not.
/// The text of rules knows what a switch does of fields, masks, prerequisites and actions.
fn compile(model: &Model, host: Uuid, subscriptions: &BTreeSet<Uuid>) -> HostState {
    let state = super::compile(model, host, subscriptions);
    state.rules.values().for_each(sound);
    state
}

fn sound(rule: &Rule) {
    let line = text::format_rule(rule);
    let read = text::parse_rule(&line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
    assert_eq!(digest::canonical(read), *rule, "{line}");
}

impl Scene {
    fn state(&self, host: usize) -> HostState {
        compile(&self.cloud.model, self.hosts[host], &BTreeSet::new())
    }
}

#[test]
fn unicast_finds_its_port_here_or_elsewhere() {
    let scene = scene();
    let one = scene.state(0);
    assert_eq!(fates(&one, &ipv4(&scene.web[0], scene.web[1].mac.0)), [Fate::Port(scene.web[1].number)]);
    let there = Fate::Tunnel { segment: scene.blue.into(), host: [10, 9, 0, 2].into() };
    assert_eq!(fates(&one, &ipv4(&scene.web[0], scene.web[2].mac.0)), [there]);
    let two = scene.state(1);
    assert_eq!(fates(&two, &from_tunnel(scene.blue, scene.web[2].mac.0)), [Fate::Port(scene.web[2].number)]);
    let mut across = from_tunnel(scene.blue, scene.web[2].mac.0);
    across.extend(ipv4(&scene.web[0], scene.web[2].mac.0));
    across.insert(Field::InPort as i32, pipeline::TUNNEL_PORT.to_be_bytes().to_vec());
    assert_eq!(fates(&two, &across), [Fate::Port(scene.web[2].number)]);
    let (fate, origin) = walk(&one, &ipv4(&scene.web[0], [2, 9, 9, 9, 9, 9]));
    assert_eq!(fate, [Fate::Dropped(DropCause::UnknownDestination)]);
    assert_eq!(origin, "network blue: to a MAC that no port of it has");
}

#[test]
fn networks_with_the_same_addresses_never_meet() {
    let scene = scene();
    let one = scene.state(0);
    assert_eq!(scene.web[0].addresses[0].address, scene.red_1.addresses[0].address);
    assert_eq!(fates(&one, &ipv4(&scene.red_1, scene.web[0].mac.0)), [Fate::Dropped(DropCause::UnknownDestination)]);
    // Red's broadcast goes to host three, the only other one that has ports of red; blue's to host two.
    let elsewhere = |segment: u32, last| Fate::Tunnel { segment: segment.into(), host: [10, 9, 0, last].into() };
    assert_eq!(fates(&one, &broadcast(&scene.red_1)), [elsewhere(scene.red, 3)]);
    let all = fates(&one, &broadcast(&scene.web[0]));
    assert_eq!(all, [Fate::Port(scene.web[1].number), elsewhere(scene.blue, 2)]);
    let mut multicast = broadcast(&scene.web[0]);
    multicast.insert(Field::EthDst as i32, vec![0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(fates(&one, &multicast), all);
    // The owner of an address that both networks have is each network's own.
    let asked = arp(&scene.red_1, scene.red_1.addresses[0].address, scene.web[1].addresses[0].address);
    assert_ne!(fates(&one, &asked), [Fate::Arp(scene.web[1].mac)]);
}

#[test]
fn what_came_through_the_tunnel_never_goes_back() {
    let scene = scene();
    let one = scene.state(0);
    let here = [Fate::Port(scene.web[0].number), Fate::Port(scene.web[1].number)];
    assert_eq!(fates(&one, &from_tunnel(scene.blue, [0xff; 6])), here);
    for stray in [scene.web[2].mac.0, [2, 9, 9, 9, 9, 9]] {
        assert_eq!(fates(&one, &from_tunnel(scene.blue, stray)), [Fate::Dropped(DropCause::UnknownDestination)]);
    }
    // Host two has nothing of red, host four nothing at all.
    for host in [1, 3] {
        let state = scene.state(host);
        assert_eq!(fates(&state, &from_tunnel(scene.red, [0xff; 6])), [Fate::Dropped(DropCause::UnknownSegment)]);
    }
    let mut tagged = from_tunnel(scene.blue, [0xff; 6]);
    tagged.insert(Field::VlanTci as i32, vec![0x10, 5]);
    assert_eq!(fates(&one, &tagged), [Fate::Dropped(DropCause::Policy)]);
}

fn state_origin<'a>(state: &'a HostState, rule: &v1::Rule) -> &'a str {
    &state.origins[&rule.cookie]
}

#[test]
fn a_host_gets_only_what_its_ports_need() {
    let scene = scene();
    let four = scene.state(3);
    assert_eq!(four.ports.keys().copied().collect::<Vec<_>>(), [pipeline::TUNNEL_PORT]);
    let fabric = |rule: &&v1::Rule| state_origin(&four, rule).starts_with("fabric: ");
    assert_eq!((four.rules.len(), four.rules.values().filter(fabric).count()), (9, 9), "only what every host has");
    let two = scene.state(1);
    let segments: BTreeSet<_> = two.rules.values().filter_map(|rule| matched(rule, Field::Reg0)).collect();
    assert_eq!(segments, [scene.blue.to_be_bytes().as_slice()].into());
    assert!(two.origins.values().all(|text| !text.contains("red")));
    assert_eq!(two.ports.keys().copied().collect::<Vec<_>>(), [scene.web[2].number, pipeline::TUNNEL_PORT]);
}

#[test]
fn a_port_sends_only_from_its_own_addresses() {
    let scene = scene();
    let one = scene.state(0);
    let web = &scene.web[0];
    let own = web.addresses[0].address;
    let spoofed = [Fate::Dropped(DropCause::Spoofed)];
    let target = scene.web[1].mac.0;
    let mut other_mac = ipv4(web, target);
    other_mac.insert(Field::EthSrc as i32, scene.web[1].mac.0.to_vec());
    let (fate, origin) = walk(&one, &other_mac);
    assert_eq!((fate.as_slice(), origin.as_str()), (spoofed.as_slice(), "port web-1 (network blue): anti-spoofing"));
    let mut other_address = ipv4(web, target);
    other_address.insert(Field::Ipv4Src as i32, scene.web[1].addresses[0].address.octets().to_vec());
    assert_eq!(fates(&one, &other_address), spoofed);
    let ipv6 = packet(web.number, web.mac, target, &[(Field::EthType, &[0x86, 0xdd])]);
    assert_eq!(fates(&one, &ipv6), [Fate::Dropped(DropCause::Policy)]);
    let mut answer = ipv4(web, target);
    answer.insert(Field::IpProto as i32, vec![17]);
    answer.insert(Field::UdpSrc as i32, 67_u16.to_be_bytes().to_vec());
    answer.insert(Field::UdpDst as i32, 68_u16.to_be_bytes().to_vec());
    assert_eq!(fates(&one, &answer), [Fate::Dropped(DropCause::Policy)], "an instance is no DHCP server");
    let lldp = packet(web.number, web.mac, [1, 0x80, 0xc2, 0, 0, 0xe], &[(Field::EthType, &[0x88, 0xcc])]);
    assert_eq!(fates(&one, &lldp), spoofed);
    assert_eq!(fates(&one, &arp(web, scene.web[1].addresses[0].address, own)), spoofed);
    let mut other_sha = arp(web, own, scene.web[1].addresses[0].address);
    other_sha.insert(Field::ArpSha as i32, scene.web[1].mac.0.to_vec());
    assert_eq!(fates(&one, &other_sha), spoofed);
    // Address 0.0.0.0 is for DHCP clients alone, and only to everybody.
    assert_eq!(fates(&one, &dhcp(web, Ipv4Addr::UNSPECIFIED, [10, 0, 0, 3].into())), spoofed);
    let mut tagged = ipv4(web, target);
    tagged.insert(Field::VlanTci as i32, vec![0x10, 5]);
    assert_eq!(fates(&one, &tagged), [Fate::Dropped(DropCause::Policy)]);
}

#[test]
fn arp_is_answered_for_the_whole_network() {
    let scene = scene();
    let one = scene.state(0);
    let web = &scene.web[0];
    let own = web.addresses[0].address;
    for other in &scene.web[1..] {
        assert_eq!(fates(&one, &arp(web, own, other.addresses[0].address)), [Fate::Arp(other.mac)]);
    }
    let subnet = scene.cloud.model.subnets.get(web.addresses[0].subnet).unwrap();
    assert_eq!(fates(&one, &arp(web, own, subnet.dhcp.unwrap())), [Fate::Arp(subnet.dhcp_mac())]);
    // A probe of another's address is answered: it is taken. One of its own is not: that would be a conflict.
    let probe = |target| arp(web, Ipv4Addr::UNSPECIFIED, target);
    assert_eq!(fates(&one, &probe(scene.web[2].addresses[0].address)), [Fate::Arp(scene.web[2].mac)]);
    let flooded = fates(&one, &broadcast(web));
    assert_eq!(flooded.len(), 2);
    assert_eq!(fates(&one, &probe(own)), flooded);
    assert_eq!(fates(&one, &arp(web, own, own)), flooded);
}

#[test]
fn dhcp_is_answered_per_port() {
    let scene = scene();
    let one = scene.state(0);
    let web = &scene.web[0];
    let subnet = scene.cloud.model.subnets.get(web.addresses[0].subnet).unwrap();
    let server = subnet.dhcp.unwrap();
    let route = |destination: [u8; 4], prefix_length, next_hop: [u8; 4]| v1::ClasslessRoute {
        destination: destination.to_vec(),
        prefix_length,
        next_hop: next_hop.to_vec(),
    };
    let expected = v1::DhcpReply {
        address: web.addresses[0].address.octets().to_vec(),
        prefix_length: 24,
        server_address: server.octets().to_vec(),
        server_mac: subnet.dhcp_mac().0.to_vec(),
        router: vec![10, 0, 0, 1],
        dns_servers: vec![vec![10, 0, 0, 2]],
        mtu: 1450,
        lease_seconds: 86_400,
        host_name: "web-1".into(),
        domain_name: "cloud.example".into(),
        // RFC 3442: with routes of its own, the default route is one of them.
        routes: vec![route([10, 9, 0, 0], 16, [10, 0, 0, 9]), route([0, 0, 0, 0], 0, [10, 0, 0, 1])],
    };
    let answer = [Fate::Dhcp(Box::new(expected))];
    let own = web.addresses[0].address;
    assert_eq!(fates(&one, &dhcp(web, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)), answer);
    assert_eq!(fates(&one, &dhcp(web, own, server)), answer);
    assert_eq!(fates(&one, &dhcp(web, own, Ipv4Addr::BROADCAST)), answer);
}

fn offered(fates: Vec<Fate>) -> v1::DhcpReply {
    match fates.into_iter().next() {
        Some(Fate::Dhcp(reply)) => *reply,
        other => panic!("no DHCP reply: {other:?}"),
    }
}

#[test]
fn routes_are_offered_only_with_sense() {
    let mut scene = scene();
    let make = |cloud: &mut Cloud, name: &str, request: v1::CreateSubnetRequest| {
        let network = v1::CreateNetworkRequest { name: name.into(), ..Default::default() };
        cloud.make(|model, id| model.create_network(&network, id));
        cloud.make(|model, id| model.create_subnet(&request, id));
        let port = cloud.port(name, &format!("{name}-1"), "one");
        let state = compile(&cloud.model, port.plug.as_ref().unwrap().host, &BTreeSet::new());
        fates(&state, &dhcp(&port, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST))
    };
    let base = |name: &str| v1::CreateSubnetRequest {
        name: name.into(),
        network: name.into(),
        cidr: "10.5.0.0/24".into(),
        ..Default::default()
    };
    let plain = offered(make(&mut scene.cloud, "plain", base("plain")));
    assert_eq!((plain.router.as_slice(), plain.routes.len()), ([10, 5, 0, 1].as_slice(), 0));
    let own_default = vec![v1::HostRoute { destination: "0.0.0.0/0".into(), nexthop: "10.5.0.7".into() }];
    let request = v1::CreateSubnetRequest { host_routes: own_default, ..base("own") };
    let own = offered(make(&mut scene.cloud, "own", request));
    assert_eq!((own.routes.len(), own.routes[0].next_hop.as_slice()), (1, [10, 5, 0, 7].as_slice()));
    let request = v1::CreateSubnetRequest { gateway_ip: "none".into(), ..base("none") };
    let none = offered(make(&mut scene.cloud, "none", request));
    assert!(none.router.is_empty() && none.routes.is_empty());
    // Without DHCP, the request travels as any broadcast does: here to nobody, for there is nobody else.
    let request = v1::CreateSubnetRequest { disable_dhcp: true, ..base("off") };
    assert_eq!(make(&mut scene.cloud, "off", request), []);
}

#[test]
fn rules_keep_the_rules_of_the_field_table() {
    let scene = scene();
    for rule in scene.state(0).rules.values() {
        assert_eq!(&weft_proto::digest::canonical(rule.clone()), rule);
        assert_ne!(rule.cookie, 0);
        for wanted in &rule.r#match {
            let row = weft_proto::field::info(wanted.field()).unwrap();
            let bytes = if wanted.address_set.is_empty() { row.bytes } else { 0 };
            assert_eq!(wanted.value.len(), bytes, "{}", row.name);
            for need in row.prerequisites {
                let value = matched(rule, need.field).unwrap_or_else(|| panic!("{} needs {:?}", row.name, need.field));
                let value = value.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                assert!(need.values.contains(&value), "{} needs {:?}", row.name, need);
            }
        }
        for action in &rule.instructions.as_ref().unwrap().apply_actions {
            if let Some(action::Action::SetField(set)) = &action.action {
                let row = weft_proto::field::info(set.field()).unwrap();
                assert!(row.writable && set.value.len() == row.bytes, "{}", row.name);
            }
        }
    }
}

#[test]
fn without_an_underlay_there_is_no_tunnel() {
    let mut scene = scene();
    let report = HostReport { underlay: Vec::new(), physical: std::collections::BTreeMap::new(), version: "1".into() };
    let [one, two, ..] = scene.hosts;
    scene.cloud.make(|model, _| model.report_host(one, &report));
    let state = scene.state(0);
    assert!(!state.ports.contains_key(&pipeline::TUNNEL_PORT));
    assert_eq!(fates(&state, &broadcast(&scene.web[0])), [Fate::Port(scene.web[1].number)]);
    let lost = [Fate::Dropped(DropCause::UnknownDestination)];
    assert_eq!(fates(&state, &ipv4(&scene.web[0], scene.web[2].mac.0)), lost);
    let to_tunnel = output(pipeline::TUNNEL_PORT);
    let uses_it = |rule: &v1::Rule| rule.instructions.as_ref().unwrap().apply_actions.contains(&to_tunnel);
    assert!(!state.rules.values().any(uses_it));
    // And nobody sends there.
    let state = compile(&scene.cloud.model, two, &BTreeSet::new());
    assert_eq!(fates(&state, &ipv4(&scene.web[2], scene.web[0].mac.0)), lost);
}
