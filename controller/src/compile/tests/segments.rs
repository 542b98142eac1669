//! Networks on physical networks: what they put on the wire, and what they take from it; and instances' own tags.

use super::*;
use crate::model::PhysicalInterface;

/// Network "blue" of a segment type: web-1 and web-2 on host one, web-3 on two, open (without port security) on two.
/// Network "green", in tunnels: green-1 on one. Hosts one and two reach "provider", host three does not.
struct Place {
    cloud: Cloud,
    hosts: [Uuid; 3],
    web: [Port; 3],
    open: Port,
    green: Port,
}

const PROVIDER: u32 = weft_proto::FIRST_PHYSICAL_PORT;
const STATION: Mac = Mac([0x04, 0, 0, 0, 0, 7]);

fn place(segment_type: &str, vlan_id: u32, vlan_transparent: bool) -> Place {
    let mut cloud = Cloud::default();
    cloud.make(|model, id| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, id));
    let hosts = [cloud.host("one", 1), cloud.host("two", 2), cloud.host("three", 3)];
    for (host, last) in [(hosts[0], 1), (hosts[1], 2)] {
        let interface = PhysicalInterface { interface: "eth2".into(), mtu: 1500, shared: false };
        let report = HostReport {
            underlay: UnderlayAddress::only([10, 9, 0, last], 1500),
            physical: [("provider".to_owned(), interface)].into(),
            version: "1".into(),
        };
        cloud.make(|model, _| model.report_host(host, &report));
    }
    cloud.network_of(&v1::CreateNetworkRequest {
        name: "blue".into(),
        segment_type: segment_type.into(),
        physical_network: if ["vlan", "flat"].contains(&segment_type) { "provider".into() } else { String::new() },
        vlan_id,
        vlan_transparent,
        ..Default::default()
    });
    let web =
        [cloud.port("blue", "web-1", "one"), cloud.port("blue", "web-2", "one"), cloud.port("blue", "web-3", "two")];
    let open = cloud.port("blue", "open", "two");
    let request =
        v1::UpdatePortRequest { port: "open".into(), port_security_enabled: Some(false), ..Default::default() };
    let open = Port {
        port_security: false,
        ..cloud.make(|model, _| model.update_port(&request).map(|(changes, _)| (changes, open)))
    };
    let request = v1::CreateNetworkRequest { name: "green".into(), ..Default::default() };
    cloud.make(|model, id| model.create_network(&request, id));
    let request = v1::CreateSubnetRequest {
        name: "green".into(),
        network: "green".into(),
        cidr: "10.0.1.0/24".into(),
        ..Default::default()
    };
    cloud.make(|model, id| model.create_subnet(&request, id));
    let green = cloud.port("green", "green-1", "one");
    Place { cloud, hosts, web, open, green }
}

impl Place {
    fn state(&self, host: usize) -> HostState {
        compile(&self.cloud.model, self.hosts[host], &BTreeSet::new())
    }

    /// A router of blue and green; its MAC in each.
    fn join(&mut self) -> [(Uuid, Mac); 2] {
        let request = v1::CreateRouterRequest { name: "r".into(), ..Default::default() };
        self.cloud.make(|model, id| model.create_router(&request, id));
        ["blue", "green"].map(|subnet| {
            let request =
                v1::AddRouterInterfaceRequest { router: "r".into(), subnet: subnet.into(), ..Default::default() };
            self.cloud.make(|model, id| model.add_router_interface(&request, id));
            let network = self.cloud.model.find::<crate::model::Network>(subnet, "", "").unwrap().id;
            let port = self.cloud.model.ports_of(network).find(|port| port.router().is_some()).unwrap();
            (port.id, port.mac)
        })
    }
}

/// A frame of a physical network's, with these tags (outer first).
fn from_wire(tags: &[u16], destination: [u8; 6]) -> Packet {
    let mut frame = packet(PROVIDER, STATION, destination, &[(Field::EthType, &[8, 6])]);
    for (field, tag) in [Field::VlanTci, Field::VlanInnerTci].into_iter().zip(tags) {
        frame.insert(field as i32, (0x1000 | tag).to_be_bytes().to_vec());
    }
    frame
}

fn with_tag(mut packet: Packet, tag: u16) -> Packet {
    packet.insert(Field::VlanTci as i32, (0x1000 | tag).to_be_bytes().to_vec());
    packet
}

/// What becomes of a packet, with what is on the wire: there it goes last.
fn walk(state: &HostState, packet: &Packet) -> (Vec<Fate>, String) {
    let (fates, origin, end) = journey(state, packet);
    let on_the_wire = || {
        let tags = [Field::VlanTci, Field::VlanInnerTci].map(|field| end.get(&(field as i32)));
        let tags = tags.into_iter().flatten().map(|tag| u16::from_be_bytes([tag[0] & 0x0f, tag[1]]));
        Fate::Wire(tags.collect(), Mac(end[&(Field::EthSrc as i32)].clone().try_into().unwrap()))
    };
    let wire = [Fate::Port(PROVIDER), Fate::Port(weft_proto::PORT_IN_PORT)];
    let told = |fate| if wire.contains(&fate) { on_the_wire() } else { fate };
    (fates.into_iter().map(told).collect(), origin)
}

fn fates(state: &HostState, packet: &Packet) -> Vec<Fate> {
    walk(state, packet).0
}

const EVERYBODY: [u8; 6] = [0xff; 6];

#[test]
fn a_vlan_network_is_on_the_wire_under_its_vlan() {
    for (segment_type, vlan, tags) in [("vlan", 100, vec![100]), ("flat", 0, vec![])] {
        let place = place(segment_type, vlan, false);
        let (one, web) = (place.state(0), &place.web);
        let wire = |from: &Port| Fate::Wire(tags.clone(), from.mac);
        assert_eq!(fates(&one, &ipv4(&web[0], web[1].mac.0)), [Fate::Port(web[1].number)], "here it stays here");
        assert_eq!(fates(&one, &ipv4(&web[0], web[2].mac.0)), [wire(&web[0])]);
        assert_eq!(fates(&one, &ipv4(&web[0], STATION.0)), [wire(&web[0])], "stations that nobody told us of");
        assert_eq!(fates(&one, &broadcast(&web[0])), [Fate::Port(web[1].number), wire(&web[0])], "once");

        // What comes from there: to whom it is for, and never back.
        assert_eq!(fates(&one, &from_wire(&tags, EVERYBODY)), [Fate::Port(web[0].number), Fate::Port(web[1].number)]);
        let mut to_web = ipv4(&web[2], web[0].mac.0);
        to_web.extend(from_wire(&tags, web[0].mac.0).into_iter().filter(|(field, _)| *field != Field::EthType as i32));
        assert_eq!(fates(&one, &to_web), [Fate::Port(web[0].number)]);
        let elsewhere = [Fate::Dropped(DropCause::Elsewhere)];
        assert_eq!(fates(&one, &from_wire(&tags, web[2].mac.0)), elsewhere);
        assert_eq!(fates(&one, &from_wire(&tags, STATION.0)), elsewhere);
        for other in [&[101][..], &[][..], &[100]] {
            if other != tags.as_slice() {
                assert_eq!(fates(&one, &from_wire(other, EVERYBODY)), elsewhere, "{other:?}");
            }
        }
        let inner: Vec<u16> = if vlan == 0 { vec![0, 5] } else { vec![100, 5] };
        assert_eq!(fates(&one, &from_wire(&inner, EVERYBODY)), [Fate::Dropped(DropCause::Policy)]);
        // A host that does not reach it has nothing of it; one without a port of it, only the port that leads there.
        assert!(!place.state(2).ports.contains_key(&PROVIDER));
    }
}

#[test]
fn a_priority_tag_is_no_vlan() {
    let place = place("flat", 0, false);
    let here = [Fate::Port(place.web[0].number), Fate::Port(place.web[1].number)];
    let mut frame = from_wire(&[0], EVERYBODY);
    assert_eq!(fates(&place.state(0), &frame), here);
    frame.insert(Field::VlanTci as i32, vec![0xb0, 0]);
    assert_eq!(fates(&place.state(0), &frame), here, "of priority 5");
}

#[test]
fn a_router_has_a_mac_of_each_host_on_the_wire() {
    let mut place = place("vlan", 100, false);
    let [(blue_port, blue), (_, green)] = place.join();
    let routed = |from: &Port, gateway: Mac, to: &Port| {
        let mut packet = ipv4(from, gateway.0);
        packet.insert(Field::Ipv4Dst as i32, to.addresses[0].address.octets().to_vec());
        packet
    };
    let seen = |host: usize| match fates(&place.state(host), &routed(&place.green, green, &place.web[2])).pop() {
        Some(Fate::Wire(tags, source)) => (tags, source),
        other => panic!("{other:?}"),
    };
    let (tags, source) = seen(0);
    assert_eq!((tags, source), (vec![100], Mac::of_router_at(blue_port, place.hosts[0])));
    assert!(source != blue && source != Mac::of_router_at(blue_port, place.hosts[1]));
    // On the same host it is the router's own, as everywhere in the cloud.
    let (_, _, packet) = journey(&place.state(0), &routed(&place.green, green, &place.web[0]));
    assert_eq!(packet[&(Field::EthSrc as i32)], blue.0);
    // Nor does a frame for the router get onto the wire, and one from there is nobody's.
    let mut strange = ipv4(&place.open, blue.0);
    strange.insert(Field::EthType as i32, vec![0x86, 0xdd]);
    assert_eq!(fates(&place.state(1), &strange), [Fate::Dropped(DropCause::UnknownDestination)]);
    assert_eq!(fates(&place.state(0), &from_wire(&[100], blue.0)), [Fate::Dropped(DropCause::Elsewhere)]);
    // A host that does not reach the wire says why its packets do not get there.
    place.cloud.port("green", "green-3", "three");
    let green_3 = place.cloud.model.ports.iter().find(|port| port.name == "green-3").unwrap().clone();
    let (fates, origin) = walk(&place.state(2), &routed(&green_3, green, &place.web[2]));
    assert_eq!(fates.last(), Some(&Fate::Dropped(DropCause::UnknownDestination)));
    assert!(origin.contains("does not reach physical network provider"), "{origin}");
}

#[test]
fn instances_tags_are_carried_where_the_network_says_so() {
    for (segment_type, vlan_id) in [("vlan", 100), ("", 0)] {
        for transparent in [false, true] {
            let place = place(segment_type, vlan_id, transparent);
            let (one, two) = (place.state(0), place.state(1));
            let (web, open) = (&place.web, &place.open);
            let refused = [Fate::Dropped(DropCause::Policy)];
            // A guarded port neither sends nor gets them.
            assert_eq!(fates(&one, &with_tag(ipv4(&web[0], web[2].mac.0), 5)), refused);
            assert_eq!(fates(&two, &with_tag(ipv4(open, web[2].mac.0), 5)), refused);
            let sent = fates(&two, &with_tag(ipv4(open, web[0].mac.0), 5));
            let flooded = fates(&two, &with_tag(broadcast(open), 5));
            let arrived = |destination| match vlan_id {
                0 => with_tag(from_tunnel(1000, destination), 5),
                outer => from_wire(&[outer as u16, 5], destination),
            };
            if !transparent {
                assert_eq!((sent.as_slice(), flooded.as_slice()), (&refused[..], &refused[..]));
                assert_eq!(fates(&two, &arrived(open.mac.0)), refused);
                continue;
            }
            assert_eq!(fates(&two, &arrived(open.mac.0)), [Fate::Port(open.number)]);
            assert_eq!(fates(&two, &arrived(EVERYBODY)), [Fate::Port(open.number)]);
            assert_eq!(fates(&one, &arrived(web[0].mac.0)), refused);
            if vlan_id == 0 {
                assert_eq!(sent, [Fate::Tunnel { segment: 1000, host: [10, 9, 0, 1].into() }]);
                assert_eq!(flooded, [], "no other port takes it");
            } else {
                let wire = [Fate::Wire(vec![100, 5], open.mac)];
                assert_eq!((sent.as_slice(), flooded.as_slice()), (&wire[..], &wire[..]));
            }
        }
    }
}

#[test]
fn gre_has_a_port_of_its_own_where_a_gre_network_is() {
    let place = place("gre", 0, false);
    let ports = |host: usize| place.state(host).ports.keys().copied().collect::<Vec<_>>();
    assert!(ports(0).contains(&pipeline::GRE_PORT) && ports(1).contains(&pipeline::GRE_PORT));
    assert_eq!(ports(2), [pipeline::TUNNEL_PORT]);
    let (one, web) = (place.state(0), &place.web);
    assert_eq!(fates(&one, &ipv4(&web[0], web[2].mac.0)), [Fate::Port(pipeline::GRE_PORT)]);
    let mut arrived = from_tunnel(1000, web[0].mac.0);
    assert_eq!(fates(&one, &arrived), [Fate::Dropped(DropCause::UnknownSegment)], "by VXLAN it is not known");
    arrived.insert(Field::InPort as i32, pipeline::GRE_PORT.to_be_bytes().to_vec());
    assert_eq!(fates(&one, &arrived), [Fate::Port(web[0].number)]);
}

#[test]
fn a_vlan_network_leaves_by_a_gateway_on_the_same_wire() {
    let mut place = place("vlan", 100, false);
    let request = v1::CreateNetworkRequest {
        name: "internet".into(),
        external: true,
        segment_type: "flat".into(),
        physical_network: "provider".into(),
        ..Default::default()
    };
    place.cloud.make(|model, id| model.create_network(&request, id));
    let request = v1::CreateSubnetRequest {
        name: "internet".into(),
        network: "internet".into(),
        cidr: "203.0.113.0/24".into(),
        ..Default::default()
    };
    place.cloud.make(|model, id| model.create_subnet(&request, id));
    place.join();
    let request = v1::SetRouterGatewayRequest {
        router: "r".into(),
        network: "internet".into(),
        enable_snat: Some(false),
        ..Default::default()
    };
    let router = place.cloud.make(|model, id| model.set_router_gateway(&request, id, &|_| true));
    let gateway = place.hosts.iter().position(|&host| router.gateway.unwrap().host == Some(host)).unwrap();
    let [compute, from] = if gateway == 0 { [1, 2] } else { [0, 0] };
    let web = place.web[from].clone();
    let interface = place.cloud.model.interfaces_of(router.id).find(|port| port.network == web.network).unwrap();
    let (mac, central) = (interface.mac, interface.central_mac());
    // To the gateway host's own MAC, on the VLAN.
    let mut sent = ipv4(&web, mac.0);
    sent.insert(Field::Ipv4Dst as i32, vec![198, 51, 100, 9]);
    assert_eq!(fates(&place.state(compute), &sent), [Fate::Wire(vec![100], web.mac)]);
    let (_, _, packet) = journey(&place.state(compute), &sent);
    assert_eq!(packet[&(Field::EthDst as i32)], central.0);
    // There it goes out untagged by the interface that it came by.
    let ip = |mut frame: Packet, source: Ipv4Addr, destination: Ipv4Addr| {
        frame.insert(Field::EthType as i32, vec![8, 0]);
        frame.insert(Field::Ipv4Src as i32, source.octets().to_vec());
        frame.insert(Field::Ipv4Dst as i32, destination.octets().to_vec());
        frame
    };
    let (own, far) = (web.addresses[0].address, Ipv4Addr::new(198, 51, 100, 9));
    let outside = place.cloud.model.gateway_port(router.id).unwrap().mac;
    let arrived = ip(from_wire(&[100], central.0), own, far);
    assert_eq!(fates(&place.state(gateway), &arrived).last(), Some(&Fate::Wire(vec![], outside)));
    // And what comes from outside goes back on the VLAN, under the gateway's MAC.
    let answer = ip(from_wire(&[], outside.0), far, own);
    assert_eq!(fates(&place.state(gateway), &answer).last(), Some(&Fate::Wire(vec![100], central)));
}

#[test]
fn routers_and_stations_that_nobody_told_us_of_find_each_other() {
    let (gateway, station, far) =
        (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 200), Ipv4Addr::new(172, 16, 0, 9));
    for (segment_type, vlan, tags) in [("vlan", 100, vec![100]), ("flat", 0, vec![])] {
        let mut place = place(segment_type, vlan, false);
        let [(blue_port, blue), (_, green)] = place.join();
        let request = v1::AddRouterRouteRequest {
            router: "r".into(),
            destination: "172.16.0.0/16".into(),
            nexthop: station.to_string(),
            ..Default::default()
        };
        place.cloud.make(|model, _| model.add_router_route(&request));
        let own = |host: usize| Mac::of_router_at(blue_port, place.hosts[host]);
        let states = [place.state(0), place.state(1)];
        // To one, asked for and sent to under the host's own MAC; and by one.
        for destination in [station, far] {
            let mut sent = ipv4(&place.green, green.0);
            sent.insert(Field::Ipv4Dst as i32, destination.octets().to_vec());
            let fates = fates(&states[0], &sent);
            let last = [Fate::Sought(station, PROVIDER), Fate::Wire(tags.clone(), own(0))];
            assert_eq!(fates[fates.len() - 2..], last, "to {destination}: {fates:?}");
        }
        for rule in states[0].rules.values().flat_map(|rule| rule.instructions.clone().unwrap().apply_actions) {
            let Some(action::Action::Neighbour(asks)) = rule.action else { continue };
            assert_eq!((asks.mac.as_slice(), asks.source, asks.vlan), (&own(0).0[..], gateway.octets().to_vec(), vlan));
        }
        // What it says of itself, and asks.
        let arp = |destination: [u8; 6], operation: u8| {
            let mut frame = from_wire(&tags, destination);
            frame.insert(Field::ArpOp as i32, vec![0, operation]);
            frame.insert(Field::ArpTpa as i32, gateway.octets().to_vec());
            frame
        };
        assert_eq!(fates(&states[0], &arp(own(0).0, 2)), [Fate::Learnt(PROVIDER, vlan)]);
        let (answers, _, answer) = journey(&states[0], &arp(own(0).0, 1));
        assert_eq!(answers, [Fate::Arp(own(0))]);
        assert_eq!(answer.contains_key(&(Field::VlanTci as i32)), vlan != 0, "with the tag it came with");
        let answers: Vec<_> =
            (0..2).filter(|&host| fates(&states[host], &arp(EVERYBODY, 1)) == [Fate::Arp(own(host))]).collect();
        assert_eq!(answers.len(), 1, "one host answers who asks everybody");
        // What it sends to any host is routed there.
        let sent = |host: usize, destination: Ipv4Addr| {
            let mut packet = from_wire(&tags, own(host).0);
            packet.insert(Field::EthType as i32, vec![8, 0]);
            packet.insert(Field::Ipv4Src as i32, station.octets().to_vec());
            packet.insert(Field::Ipv4Dst as i32, destination.octets().to_vec());
            packet.insert(Field::CtState as i32, vec![0x02]);
            packet
        };
        let to_green = place.green.addresses[0].address;
        assert_eq!(fates(&states[0], &sent(0, to_green)).last(), Some(&Fate::Port(place.green.number)));
        let segment = place.cloud.model.networks[place.green.network].segment.into();
        let to_one = Fate::Tunnel { segment, host: [10, 9, 0, 1].into() };
        assert_eq!(fates(&states[1], &sent(1, to_green)).last(), Some(&to_one));
        assert_eq!(
            fates(&states[0], &sent(0, far)).last(),
            Some(&Fate::Wire(tags.clone(), own(0))),
            "back on the wire"
        );
        let mut ping = sent(0, gateway);
        ping.insert(Field::IpProto as i32, vec![1]);
        ping.insert(Field::IcmpType as i32, vec![8]);
        let (echo, _, pong) = journey(&states[0], &ping);
        assert_eq!((echo, &pong[&(Field::EthDst as i32)]), (vec![Fate::Echo], &own(0).0.to_vec()));
        // The router's own MAC is nobody's out there.
        assert_eq!(fates(&states[0], &from_wire(&tags, blue.0)), [Fate::Dropped(DropCause::Elsewhere)]);
    }
}
