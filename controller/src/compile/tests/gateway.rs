//! What leaves the cloud and enters it: source NAT, floating IPs, and what a gateway host answers.

use super::super::physical;
use super::*;
use crate::model::{Change, FloatingIp, PhysicalInterface, Router};

/// The scene, with router r (10.0.0.1) in blue and external network internet (203.0.113.0/24, MTU 1400) on the physical
/// network "provider", which host three reaches, that has no port of blue. Router r leaves as 203.0.113.2.
struct Gateway {
    scene: Scene,
    router: Router,
    link: u32,
}

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const FLOATING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
/// Somebody far away.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ZONE: u32 = 0x0100_0000;

fn with_host(vlan: bool, host: usize) -> Gateway {
    let mut scene = scene();
    let provider = PhysicalInterface { interface: "eth1".into(), mtu: 1500, shared: false };
    let id = scene.hosts[host];
    let known = scene.cloud.model.hosts[id].clone();
    let report = HostReport {
        underlay: known.underlay,
        physical: [("provider".to_owned(), provider)].into(),
        version: "1".into(),
    };
    scene.cloud.make(|model, _| model.report_host(id, &report));
    let request = v1::CreateNetworkRequest {
        name: "internet".into(),
        mtu: 1400,
        external: true,
        segment_type: if vlan { "vlan" } else { "flat" }.into(),
        physical_network: "provider".into(),
        vlan_id: if vlan { 7 } else { 0 },
        ..Default::default()
    };
    scene.cloud.make(|model, id| model.create_network(&request, id));
    let request = v1::CreateSubnetRequest {
        name: "internet".into(),
        network: "internet".into(),
        cidr: "203.0.113.0/24".into(),
        ..Default::default()
    };
    scene.cloud.make(|model, id| model.create_subnet(&request, id));
    let link = physical::port_of(&scene.cloud.model.hosts[id], "provider").unwrap().number;
    let router = leading(&mut scene.cloud, "r", "blue", &EXTERNAL.to_string(), true);
    Gateway { scene, router, link }
}

fn gateway() -> Gateway {
    with_host(false, 2)
}

/// A router between a network's subnet and the internet.
fn leading(cloud: &mut Cloud, name: &str, subnet: &str, address: &str, snat: bool) -> Router {
    let request = v1::CreateRouterRequest { name: name.into(), ..Default::default() };
    cloud.make(|model, id| model.create_router(&request, id));
    let request = v1::AddRouterInterfaceRequest { router: name.into(), subnet: subnet.into(), ..Default::default() };
    cloud.make(|model, id| model.add_router_interface(&request, id));
    let request = v1::SetRouterGatewayRequest {
        router: name.into(),
        network: "internet".into(),
        ip_address: address.into(),
        enable_snat: Some(snat),
        ..Default::default()
    };
    cloud.make(|model, id| model.set_router_gateway(&request, id, &|_| true))
}

fn float(cloud: &mut Cloud, address: Ipv4Addr, port: &str) -> FloatingIp {
    let request = v1::CreateFloatingIpRequest {
        network: "internet".into(),
        ip_address: address.to_string(),
        port: port.into(),
        ..Default::default()
    };
    let keeper = cloud.id();
    cloud.make(|model, id| model.create_floating_ip(&request, id, keeper))
}

impl Gateway {
    fn of(&self, host: usize) -> HostState {
        self.scene.state(host)
    }

    /// The router's MAC outside.
    fn mac(&self) -> Mac {
        self.scene.cloud.model.gateway_port(self.router.id).unwrap().mac
    }

    fn interface(&self, router: &Router) -> Port {
        self.scene.cloud.model.interfaces_of(router.id).next().unwrap().clone()
    }

    /// What an instance sends through its router.
    fn sent(&self, from: &Port, router: &Router, destination: Ipv4Addr) -> Packet {
        let mut packet = ipv4(from, self.interface(router).mac.0);
        packet.insert(Field::Ipv4Dst as i32, destination.octets().to_vec());
        packet
    }

    /// The same, as it comes out of the tunnel at the gateway host.
    fn arrived(&self, from: &Port, router: &Router, destination: Ipv4Addr) -> Packet {
        let mut packet = self.sent(from, router, destination);
        let model = &self.scene.cloud.model;
        let segment = u64::from(model.networks[from.network].segment);
        packet.insert(Field::InPort as i32, pipeline::TUNNEL_PORT.to_be_bytes().to_vec());
        packet.insert(Field::TunId as i32, segment.to_be_bytes().to_vec());
        packet.insert(Field::EthDst as i32, self.interface(router).central_mac().0.to_vec());
        packet
    }

    /// What comes from outside.
    fn received(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
        let fields: [(Field, &[u8]); 3] =
            [(Field::EthType, &[8, 0]), (Field::Ipv4Src, &source.octets()), (Field::Ipv4Dst, &destination.octets())];
        packet(self.link, Mac([2, 0, 0, 0, 0, 1]), self.mac().0, &fields)
    }
}

fn of(port: &Port) -> Ipv4Addr {
    port.addresses[0].address
}

fn field(packet: &Packet, field: Field) -> Ipv4Addr {
    address(&packet[&(field as i32)])
}

/// To host one, on blue.
fn to_one(gateway: &Gateway) -> Fate {
    Fate::Tunnel { segment: gateway.scene.blue.into(), host: [10, 9, 0, 1].into() }
}

#[test]
fn what_leaves_goes_to_the_gateway_host_on_its_own_segment() {
    let gateway = gateway();
    let web = &gateway.scene.web[0];
    let there = Fate::Tunnel { segment: gateway.scene.blue.into(), host: [10, 9, 0, 3].into() };
    // To the router's own address outside, too: it may be an answer to somebody who is known by it.
    for destination in [FAR, UPSTREAM, FLOATING, EXTERNAL] {
        let (fates, origin, packet) = journey(&gateway.of(0), &gateway.sent(web, &gateway.router, destination));
        assert_eq!((fates.as_slice(), field(&packet, Field::Ipv4Src)), ([there.clone()].as_slice(), of(web)));
        assert_eq!(origin, "router r: what network blue sends out, to gateway host three");
        assert_eq!(packet[&(Field::EthDst as i32)], gateway.interface(&gateway.router).central_mac().0);
    }
    let mut ping = gateway.arrived(web, &gateway.router, EXTERNAL);
    ping.insert(Field::IpProto as i32, vec![1]);
    ping.insert(Field::IcmpType as i32, vec![8]);
    assert_eq!(fates(&gateway.of(2), &ping), [Fate::Echo]);
    // An extra route is longer than "everything else", and shorter than what is on the link.
    let mut gateway = gateway;
    let nexthop = of(&gateway.scene.web[1]).to_string();
    for destination in ["198.51.100.0/24", "203.0.0.0/16"] {
        let request = v1::AddRouterRouteRequest {
            router: "r".into(),
            destination: destination.into(),
            nexthop: nexthop.clone(),
            ..Default::default()
        };
        gateway.scene.cloud.make(|model, _| model.add_router_route(&request));
    }
    let web = gateway.scene.web[0].clone();
    let fate = |destination| fates(&gateway.of(0), &gateway.sent(&web, &gateway.router, destination)).pop().unwrap();
    assert_eq!(fate(FAR), Fate::Port(gateway.scene.web[1].number));
    assert_eq!(fate(UPSTREAM), there);
}

#[test]
fn senders_leave_under_the_routers_address() {
    let gateway = gateway();
    let (three, web) = (gateway.of(2), &gateway.scene.web[0]);
    let zone = ZONE + gateway.router.number;
    let passed = [Fate::Aged(INSIDE), Fate::Measured(1400, INSIDE), Fate::Masked(zone, EXTERNAL)];
    // Far away by the router outside, and directly to who is on the link.
    for (destination, hop) in
        [(FAR, UPSTREAM), (UPSTREAM, UPSTREAM), ([203, 0, 113, 77].into(), [203, 0, 113, 77].into())]
    {
        let (fates, _, packet) = journey(&three, &gateway.arrived(web, &gateway.router, destination));
        let out = [Fate::Sought(hop, gateway.link), Fate::Port(gateway.link)];
        assert_eq!(fates, [passed.as_slice(), &out].concat());
        assert_eq!(packet[&(Field::EthSrc as i32)], gateway.mac().0);
        assert_eq!(packet.get(&(Field::VlanTci as i32)), None);
    }
    // An answer is translated back by its connection, and routed to the instance's host.
    let mut answer = gateway.received(FAR, EXTERNAL);
    answer.insert(UNMASKED, of(web).octets().to_vec());
    let (fates, _, packet) = journey(&three, &answer);
    assert_eq!(fates, [Fate::Aged(EXTERNAL), Fate::Measured(1450, EXTERNAL), to_one(&gateway)]);
    assert_eq!(packet[&(Field::EthDst as i32)], web.mac.0);
    assert_eq!(packet[&(Field::EthSrc as i32)], gateway.interface(&gateway.router).central_mac().0);
    // At the instance's host it is what any packet of its network is.
    let mut delivered = packet;
    delivered.retain(|&field, _| !(Field::Reg0 as i32..=Field::Reg7 as i32).contains(&field));
    delivered.insert(Field::InPort as i32, pipeline::TUNNEL_PORT.to_be_bytes().to_vec());
    delivered.insert(Field::CtState as i32, vec![0x2a]);
    assert_eq!(super::fates(&gateway.of(0), &delivered), [Fate::Port(web.number)], "a reply");
}

#[test]
fn nothing_enters_that_was_not_asked_for() {
    let gateway = gateway();
    let (three, web) = (gateway.of(2), &gateway.scene.web[0]);
    let mut ping = gateway.received(FAR, EXTERNAL);
    assert_eq!(fates(&three, &ping), [Fate::Unreachable(3, EXTERNAL)]);
    ping.insert(Field::IpProto as i32, vec![1]);
    ping.insert(Field::IcmpType as i32, vec![8]);
    assert_eq!(fates(&three, &ping), [Fate::Echo]);
    // Nobody outside reaches addresses inside, even one who knows them.
    let (fate, origin) = walk(&three, &gateway.received(UPSTREAM, of(web)));
    assert_eq!(fate, [Fate::Dropped(DropCause::Policy)]);
    assert_eq!(origin, "router r: from outside, to an address that is not known there");
    // Nor floating IPs that nobody has, nor other MACs.
    assert_eq!(fates(&three, &gateway.received(FAR, FLOATING)), [Fate::Dropped(DropCause::Policy)]);
    let mut stray = gateway.received(FAR, EXTERNAL);
    stray.insert(Field::EthDst as i32, vec![2, 9, 9, 9, 9, 9]);
    assert_eq!(fates(&three, &stray), [Fate::Dropped(DropCause::Elsewhere)]);
    let mut tagged = gateway.received(FAR, EXTERNAL);
    tagged.insert(Field::VlanTci as i32, vec![0x10, 9]);
    assert_eq!(fates(&three, &tagged), [Fate::Dropped(DropCause::Elsewhere)]);
    // From the tunnel nothing is taken for blue but what is to leave.
    let other = from_tunnel(gateway.scene.blue, web.mac.0);
    assert_eq!(fates(&three, &other), [Fate::Dropped(DropCause::UnknownDestination)]);
    assert_eq!(
        fates(&three, &from_tunnel(gateway.scene.blue, [0xff; 6])),
        [Fate::Dropped(DropCause::UnknownDestination)]
    );
}

#[test]
fn without_source_nat_addresses_stay_and_are_reached() {
    let mut gateway = gateway();
    let request = v1::SetRouterGatewayRequest {
        router: "r".into(),
        network: "internet".into(),
        enable_snat: Some(false),
        ..Default::default()
    };
    gateway.scene.cloud.make(|model, id| model.set_router_gateway(&request, id, &|_| true));
    let (three, web) = (gateway.of(2), &gateway.scene.web[0]);
    let (fates, _, packet) = journey(&three, &gateway.arrived(web, &gateway.router, FAR));
    let out = [Fate::Sought(UPSTREAM, gateway.link), Fate::Port(gateway.link)];
    assert_eq!(fates, [[Fate::Aged(INSIDE), Fate::Measured(1400, INSIDE)], out].concat());
    assert_eq!(field(&packet, Field::Ipv4Src), of(web));
    let fates = |packet| super::fates(&three, &packet);
    let entered = [Fate::Aged(EXTERNAL), Fate::Measured(1450, EXTERNAL), to_one(&gateway)];
    assert_eq!(fates(gateway.received(FAR, of(web))), entered);
    assert_eq!(fates(gateway.received(FAR, [10, 7, 0, 1].into())), [Fate::Unreachable(0, EXTERNAL)]);
}

#[test]
fn a_floating_ip_stands_for_its_port() {
    let mut gateway = gateway();
    float(&mut gateway.scene.cloud, FLOATING, "web-1");
    let (three, web) = (gateway.of(2), gateway.scene.web[0].clone());
    let (fates, _, packet) = journey(&three, &gateway.received(FAR, FLOATING));
    assert_eq!(fates, [Fate::Aged(EXTERNAL), Fate::Measured(1450, EXTERNAL), to_one(&gateway)]);
    assert_eq!((field(&packet, Field::Ipv4Src), field(&packet, Field::Ipv4Dst)), (FAR, of(&web)));
    let (fates, _, packet) = journey(&three, &gateway.arrived(&web, &gateway.router, FAR));
    let out = [Fate::Sought(UPSTREAM, gateway.link), Fate::Port(gateway.link)];
    assert_eq!(fates, [[Fate::Aged(INSIDE), Fate::Measured(1400, INSIDE)], out].concat());
    assert_eq!(field(&packet, Field::Ipv4Src), FLOATING);

    // Moved: one step of the gateway host, of its own tables, and nobody else's.
    let before = [0, 1, 2, 3].map(|host| gateway.of(host));
    let request =
        v1::UpdateFloatingIpRequest { floating_ip: FLOATING.to_string(), port: "web-3".into(), ..Default::default() };
    gateway.scene.cloud.make(|model, _| model.update_floating_ip(&request));
    let after = [0, 1, 2, 3].map(|host| gateway.of(host));
    let changed: Vec<usize> = (0..4).filter(|&host| before[host] != after[host]).collect();
    assert_eq!(changed, [2]);
    let bundle = before[2].bundle_to(&after[2]);
    let tables: BTreeSet<u32> = bundle.add_rules.iter().chain(&bundle.remove_rules).map(|rule| rule.table).collect();
    assert_eq!(tables, [pipeline::DNAT, pipeline::SNAT].into());
    assert_eq!(bundle.announcements, [], "it is where it was");
    let to_two = Fate::Tunnel { segment: gateway.scene.blue.into(), host: [10, 9, 0, 2].into() };
    assert_eq!(super::fates(&after[2], &gateway.received(FAR, FLOATING)).pop(), Some(to_two));
    let left = journey(&after[2], &gateway.arrived(&web, &gateway.router, FAR)).2;
    assert_eq!(field(&left, Field::Ipv4Src), EXTERNAL);
}

#[test]
fn the_gateway_host_answers_arp_outside_and_tells_what_is_new() {
    let mut gateway = gateway();
    let asked = |gateway: &Gateway, target: Ipv4Addr| {
        let fields: [(Field, &[u8]); 5] = [
            (Field::EthType, &[8, 6]),
            (Field::ArpOp, &[0, 1]),
            (Field::ArpSha, &[2, 0, 0, 0, 0, 1]),
            (Field::ArpSpa, &UPSTREAM.octets()),
            (Field::ArpTpa, &target.octets()),
        ];
        fates(&gateway.of(2), &packet(gateway.link, Mac([2, 0, 0, 0, 0, 1]), [0xff; 6], &fields))
    };
    let ours = [Fate::Arp(gateway.mac())];
    let others = [Fate::Learnt(gateway.link, 0)];
    assert_eq!((asked(&gateway, EXTERNAL), asked(&gateway, FLOATING)), (ours.to_vec(), others.to_vec()));
    let before = gateway.of(2);
    float(&mut gateway.scene.cloud, FLOATING, "web-1");
    assert_eq!(asked(&gateway, FLOATING), ours);
    let told = |address: Ipv4Addr, gateway: &Gateway| v1::Announcement {
        port: gateway.link,
        vlan: 0,
        address: address.octets().to_vec(),
        mac: gateway.mac().0.to_vec(),
    };
    assert_eq!(before.bundle_to(&gateway.of(2)).announcements, [told(FLOATING, &gateway)]);
    assert_eq!(gateway.of(2).whole().announcements.len(), 2);
    // To another router: another MAC.
    let before = gateway.of(2);
    let other = leading(&mut gateway.scene.cloud, "s", "red", "203.0.113.3", true);
    let request =
        v1::UpdateFloatingIpRequest { floating_ip: FLOATING.to_string(), port: "red-1".into(), ..Default::default() };
    let floating = gateway.scene.cloud.make(|model, _| model.update_floating_ip(&request));
    assert_eq!(floating.target.unwrap().router, other.id);
    let mac = gateway.scene.cloud.model.gateway_port(other.id).unwrap().mac;
    let told: Vec<_> = before.bundle_to(&gateway.of(2)).announcements;
    let addresses: BTreeSet<_> = told.iter().map(|told| (address(&told.address), told.mac.clone())).collect();
    assert_eq!(addresses, [([203, 0, 113, 3].into(), mac.0.to_vec()), (FLOATING, mac.0.to_vec())].into());
    // No other host answers.
    let model = &gateway.scene.cloud.model;
    for host in [0, 1, 3] {
        assert!(gateway.of(host).announcements.is_empty());
        assert!(!gateway.of(host).origins.values().any(|text| text.contains("floating IP")), "{host}");
    }
    assert!(model.touched(&Change::put(floating.clone())).contains(&gateway.scene.hosts[2]));
}

#[test]
fn who_sends_to_a_floating_ip_inside_is_known_by_what_is_outside() {
    let mut gateway = gateway();
    let other = leading(&mut gateway.scene.cloud, "s", "red", "203.0.113.3", true);
    float(&mut gateway.scene.cloud, FLOATING, "web-1");
    let three = gateway.of(2);
    let (web_1, web_3, red) = (&gateway.scene.web[0], &gateway.scene.web[2], &gateway.scene.red_1);
    let through = Ipv4Addr::new(203, 0, 113, 3);
    let entered = [Fate::Aged(EXTERNAL), Fate::Measured(1450, EXTERNAL)];
    // Behind another router of the host, and behind the same.
    for (from, router, mask) in [(red, &other, through), (web_3, &gateway.router, EXTERNAL)] {
        let (fates, _, packet) = journey(&three, &gateway.arrived(from, router, FLOATING));
        let masked = Fate::Masked(ZONE + router.number, mask);
        assert_eq!(fates, [entered.as_slice(), &[masked, to_one(&gateway)]].concat());
        assert_eq!((field(&packet, Field::Ipv4Src), field(&packet, Field::Ipv4Dst)), (mask, of(web_1)));
        // Its answer comes from the floating IP.
        let mut answer = gateway.arrived(web_1, &gateway.router, mask);
        answer.insert(UNMASKED, of(from).octets().to_vec());
        let (fates, _, packet) = journey(&three, &answer);
        assert_eq!((field(&packet, Field::Ipv4Src), field(&packet, Field::Ipv4Dst)), (FLOATING, of(from)));
        let place = gateway.scene.cloud.model.ports[from.id].plug.clone().unwrap().host;
        let host = gateway.scene.cloud.model.hosts[place].underlay[0].address;
        let segment = gateway.scene.cloud.model.networks[from.network].segment.into();
        assert_eq!(fates.last(), Some(&Fate::Tunnel { segment, host }));
    }
    // Another router's address answers pings, and is nothing else.
    let mut ping = gateway.arrived(red, &other, EXTERNAL);
    assert_eq!(fates(&three, &ping), [Fate::Unreachable(3, EXTERNAL)]);
    ping.insert(Field::IpProto as i32, vec![1]);
    ping.insert(Field::IcmpType as i32, vec![8]);
    assert_eq!(fates(&three, &ping), [Fate::Echo]);
    // Who has a floating IP too is known by it.
    let mine = Ipv4Addr::new(203, 0, 113, 51);
    float(&mut gateway.scene.cloud, mine, "red-1");
    let red = gateway.scene.red_1.clone();
    let packet = journey(&gateway.of(2), &gateway.arrived(&red, &other, FLOATING)).2;
    assert_eq!(field(&packet, Field::Ipv4Src), mine);
}

#[test]
fn a_gateway_host_with_instances_does_it_all_itself() {
    let mut gateway = with_host(false, 0);
    float(&mut gateway.scene.cloud, FLOATING, "web-2");
    let (one, web) = (gateway.of(0), gateway.scene.web.clone());
    let zone = ZONE + gateway.router.number;
    let fates = |packet: Packet| super::fates(&one, &packet);
    let out = [Fate::Masked(zone, EXTERNAL), Fate::Sought(UPSTREAM, gateway.link), Fate::Port(gateway.link)];
    let inside = [Fate::Aged(INSIDE), Fate::Measured(1400, INSIDE)];
    assert_eq!(fates(gateway.sent(&web[0], &gateway.router, FAR)), [inside.as_slice(), &out].concat());
    // From outside to a floating IP here: its firewall has the last word. The group lets in only its members.
    let entered = [Fate::Aged(EXTERNAL), Fate::Measured(1450, EXTERNAL)];
    let last = [Fate::Dropped(DropCause::Policy)];
    assert_eq!(fates(gateway.received(FAR, FLOATING)), [entered.as_slice(), &last].concat());
    let mut reply = gateway.received(FAR, FLOATING);
    reply.insert(Field::CtState as i32, vec![0x2a]);
    assert_eq!(fates(reply), [entered.as_slice(), &[Fate::Port(web[1].number)]].concat());
    // To its own floating IP an instance sends as anybody does: it comes back to it.
    let mut own = gateway.sent(&web[1], &gateway.router, FLOATING);
    own.insert(Field::CtState as i32, vec![0x2a]);
    let (fates, _, packet) = journey(&one, &own);
    assert_eq!(fates, [entered.as_slice(), &[Fate::Port(weft_proto::PORT_IN_PORT)]].concat());
    assert_eq!((field(&packet, Field::Ipv4Src), field(&packet, Field::Ipv4Dst)), (FLOATING, of(&web[1])));
    // Networks that a router joins are still routed directly.
    let request = v1::CreateNetworkRequest { name: "green".into(), ..Default::default() };
    gateway.scene.cloud.make(|model, id| model.create_network(&request, id));
    let request = v1::CreateSubnetRequest {
        name: "green".into(),
        network: "green".into(),
        cidr: "10.0.1.0/24".into(),
        ..Default::default()
    };
    gateway.scene.cloud.make(|model, id| model.create_subnet(&request, id));
    let green = gateway.scene.cloud.port("green", "green-1", "one");
    let request = v1::AddRouterInterfaceRequest { router: "r".into(), subnet: "green".into(), ..Default::default() };
    gateway.scene.cloud.make(|model, id| model.add_router_interface(&request, id));
    let model = &gateway.scene.cloud.model;
    let blue = model.interfaces_of(gateway.router.id).find(|port| port.network == web[0].network).unwrap();
    let mut east = ipv4(&web[0], blue.mac.0);
    east.insert(Field::Ipv4Dst as i32, of(&green).octets().to_vec());
    let (fates, _, packet) = journey(&gateway.of(0), &east);
    assert_eq!(fates, [Fate::Aged(INSIDE), Fate::Measured(1450, INSIDE), Fate::Port(green.number)]);
    assert_eq!(field(&packet, Field::Ipv4Src), of(&web[0]));
}

#[test]
fn an_external_vlan_is_tagged_outside_and_nowhere_else() {
    let mut gateway = with_host(true, 2);
    float(&mut gateway.scene.cloud, FLOATING, "web-1");
    let (three, web) = (gateway.of(2), gateway.scene.web[2].clone());
    let (fates, _, packet) = journey(&three, &gateway.arrived(&web, &gateway.router, FAR));
    assert_eq!(fates.last(), Some(&Fate::Port(gateway.link)));
    assert_eq!(packet[&(Field::VlanTci as i32)], [0x10, 7]);
    let tagged = |mut packet: Packet| {
        packet.insert(Field::VlanTci as i32, vec![0x70, 7]);
        packet
    };
    let (fates, _, packet) = journey(&three, &tagged(gateway.received(FAR, FLOATING)));
    assert_eq!(fates.last(), Some(&to_one(&gateway)));
    assert_eq!(packet.get(&(Field::VlanTci as i32)), None);
    assert_eq!(super::fates(&three, &gateway.received(FAR, FLOATING)), [Fate::Dropped(DropCause::Elsewhere)]);
    // An answer in place keeps the tag that the question had.
    let mut ping = tagged(gateway.received(FAR, EXTERNAL));
    ping.insert(Field::IpProto as i32, vec![1]);
    ping.insert(Field::IcmpType as i32, vec![8]);
    let (fates, _, packet) = journey(&three, &ping);
    assert_eq!((fates.as_slice(), packet.contains_key(&(Field::VlanTci as i32))), ([Fate::Echo].as_slice(), true));
    // What has no tag loses none.
    let fates = super::fates(&three, &gateway.arrived(&web, &gateway.router, FLOATING));
    assert_eq!(fates.last(), Some(&to_one(&gateway)));
}

#[test]
fn who_asks_from_another_vlan_is_answered_with_its_tag() {
    let mut gateway = gateway();
    let request = v1::CreateNetworkRequest {
        name: "lab".into(),
        segment_type: "vlan".into(),
        physical_network: "provider".into(),
        vlan_id: 9,
        ..Default::default()
    };
    let lab = gateway.scene.cloud.make(|model, id| model.create_network(&request, id));
    let request = v1::CreateSubnetRequest {
        name: "lab".into(),
        network: "lab".into(),
        cidr: "10.0.2.0/24".into(),
        ..Default::default()
    };
    gateway.scene.cloud.make(|model, id| model.create_subnet(&request, id));
    let request = v1::AddRouterInterfaceRequest { router: "r".into(), subnet: "lab".into(), ..Default::default() };
    gateway.scene.cloud.make(|model, id| model.add_router_interface(&request, id));
    let model = &gateway.scene.cloud.model;
    let interface = model.interfaces_of(gateway.router.id).find(|port| port.network == lab.id).unwrap();
    let fields: [(Field, &[u8]); 6] = [
        (Field::VlanTci, &[0x10, 9]),
        (Field::EthType, &[8, 0]),
        (Field::Ipv4Src, &[10, 0, 2, 5]),
        (Field::Ipv4Dst, &EXTERNAL.octets()),
        (Field::IpProto, &[1]),
        (Field::IcmpType, &[8]),
    ];
    let asked = packet(gateway.link, Mac([2, 0, 0, 0, 0, 5]), interface.central_mac().0, &fields);
    let (fates, _, packet) = journey(&gateway.of(2), &asked);
    assert_eq!(fates, [Fate::Echo]);
    assert_eq!(packet[&(Field::VlanTci as i32)], [0x10, 9]);
}

#[test]
fn a_router_without_a_gateway_host_leads_nowhere() {
    let mut gateway = gateway();
    let three = gateway.scene.hosts[2];
    let report = HostReport {
        underlay: UnderlayAddress::only([10, 9, 0, 3], 1500),
        physical: BTreeMap::new(),
        version: "1".into(),
    };
    gateway.scene.cloud.make(|model, _| model.report_host(three, &report));
    let web = gateway.scene.web[0].clone();
    let fate = fates(&gateway.of(0), &gateway.sent(&web, &gateway.router, FAR));
    assert_eq!(fate, [Fate::Unreachable(0, INSIDE)]);
    assert!(!gateway.of(2).origins.values().any(|text| text.contains("router")), "it is a host like others");
}

#[test]
fn of_a_shared_interface_only_addresses_outside_are_taken() {
    let mut gateway = gateway();
    let id = gateway.scene.hosts[2];
    let taken = |gateway: &Gateway| {
        let state = compile(&gateway.scene.cloud.model, gateway.scene.hosts[2], &BTreeSet::new());
        match state.ports[&gateway.link].kind.clone() {
            Some(v1::port_spec::Kind::AfXdp(port)) => (port.take_all, port.addresses),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(taken(&gateway), (true, vec![]));
    let mut host = gateway.scene.cloud.model.hosts[id].clone();
    host.physical.values_mut().for_each(|place| place.shared = true);
    gateway.scene.cloud.model.apply(&Change::put(host));
    assert_eq!(taken(&gateway), (false, vec![EXTERNAL.octets().to_vec()]));
}
