//! What routers do to packets, and what hosts hold for them.

use super::*;

/// A router between blue (10.0.0.0/24: web-1 and web-2 on host one, web-3 on two) and green (10.0.1.0/24, MTU 1400:
/// green-1 on host two, green-2 on host three), both in its group "default". Red is apart.
struct Routed {
    scene: Scene,
    green: [Port; 2],
    segment: u32,
}

/// The router's addresses.
const BLUE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GREEN: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

fn routed() -> Routed {
    let mut scene = scene();
    let cloud = &mut scene.cloud;
    let request = v1::CreateNetworkRequest { name: "green".into(), mtu: 1400, ..Default::default() };
    let segment = cloud.make(|model, id| model.create_network(&request, id)).segment;
    let request = v1::CreateSubnetRequest {
        name: "green".into(),
        network: "green".into(),
        cidr: "10.0.1.0/24".into(),
        ..Default::default()
    };
    cloud.make(|model, id| model.create_subnet(&request, id));
    let green = [cloud.port("green", "green-1", "two"), cloud.port("green", "green-2", "three")];
    let request = v1::CreateRouterRequest { name: "r".into(), ..Default::default() };
    cloud.make(|model, id| model.create_router(&request, id));
    for subnet in ["blue", "green"] {
        let request = v1::AddRouterInterfaceRequest { router: "r".into(), subnet: subnet.into(), ..Default::default() };
        cloud.make(|model, id| model.add_router_interface(&request, id));
    }
    Routed { scene, green, segment }
}

impl Routed {
    /// The MAC of the router's port that has the address.
    fn mac(&self, address: Ipv4Addr) -> Mac {
        let ports = self.scene.cloud.model.ports.iter();
        let mut its = ports.filter(|port| port.router().is_some() && port.addresses[0].address == address);
        its.next().expect("the router has the address").mac
    }

    /// What a port sends to an address through the router.
    fn sent(&self, from: &Port, destination: Ipv4Addr) -> Packet {
        let gateway = if from.network == self.green[0].network { GREEN } else { BLUE };
        let mut packet = ipv4(from, self.mac(gateway).0);
        packet.insert(Field::Ipv4Dst as i32, destination.octets().to_vec());
        packet
    }

    fn route(&mut self, destination: &str, nexthop: Ipv4Addr) {
        let request = v1::AddRouterRouteRequest {
            router: "r".into(),
            destination: destination.into(),
            nexthop: nexthop.to_string(),
            ..Default::default()
        };
        self.scene.cloud.make(|model, _| model.add_router_route(&request));
    }
}

fn of(port: &Port) -> Ipv4Addr {
    port.addresses[0].address
}

#[test]
fn packets_are_routed_where_they_are_sent() {
    let routed = routed();
    let (one, two) = (routed.scene.state(0), routed.scene.state(1));
    let [web_1, _, web_3] = &routed.scene.web;
    let [green_1, green_2] = &routed.green;
    let (fates, _, packet) = journey(&one, &routed.sent(web_1, of(green_1)));
    let passed = [Fate::Aged(BLUE), Fate::Measured(1400, BLUE)];
    let to_two = Fate::Tunnel { segment: routed.segment.into(), host: [10, 9, 0, 2].into() };
    assert_eq!(fates, [passed.as_slice(), &[to_two]].concat());
    assert_eq!(packet[&(Field::EthSrc as i32)], routed.mac(GREEN).0);
    assert_eq!(packet[&(Field::EthDst as i32)], green_1.mac.0);

    // There it arrives on its own segment, and its answer goes the same way back.
    let mut arrived = packet.clone();
    for register in [Field::Reg0, Field::Reg1, Field::Reg2, Field::Reg3, Field::CtState] {
        arrived.remove(&(register as i32));
    }
    arrived.insert(Field::InPort as i32, pipeline::TUNNEL_PORT.to_be_bytes().to_vec());
    assert_eq!(super::fates(&two, &arrived), [Fate::Port(green_1.number)], "the same group");
    let (fates, _, packet) = journey(&two, &routed.sent(green_1, of(web_1)));
    let to_one = Fate::Tunnel { segment: routed.scene.blue.into(), host: [10, 9, 0, 1].into() };
    assert_eq!(fates, [Fate::Aged(GREEN), Fate::Measured(1450, GREEN), to_one]);
    assert_eq!(packet[&(Field::EthSrc as i32)], routed.mac(BLUE).0);

    // On one host, it never leaves it.
    assert_eq!(
        fates_of(&two, &routed, web_3, of(green_1)),
        [passed.as_slice(), &[Fate::Port(green_1.number)]].concat()
    );
    let to_three = Fate::Tunnel { segment: routed.segment.into(), host: [10, 9, 0, 3].into() };
    assert_eq!(fates_of(&two, &routed, web_3, of(green_2)), [passed.as_slice(), &[to_three]].concat());
}

fn fates_of(state: &HostState, routed: &Routed, from: &Port, destination: Ipv4Addr) -> Vec<Fate> {
    fates(state, &routed.sent(from, destination))
}

#[test]
fn the_router_answers_for_itself() {
    let routed = routed();
    let one = routed.scene.state(0);
    let web = &routed.scene.web[0];
    assert_eq!(fates(&one, &arp(web, of(web), BLUE)), [Fate::Arp(routed.mac(BLUE))]);
    // Green's address is nobody's in blue.
    assert!(!fates(&one, &arp(web, of(web), GREEN)).iter().any(|fate| matches!(fate, Fate::Arp(_))));
    for address in [BLUE, GREEN] {
        let mut ping = routed.sent(web, address);
        ping.insert(Field::IpProto as i32, vec![1]);
        ping.insert(Field::IcmpType as i32, vec![8]);
        assert_eq!(fates(&one, &ping), [Fate::Echo]);
        ping.insert(Field::IcmpType as i32, vec![0]);
        assert_eq!(fates(&one, &ping), [Fate::Unreachable(3, address)]);
    }
    let (fates, origin) = walk(&one, &routed.sent(web, [8, 8, 8, 8].into()));
    assert_eq!(fates, [Fate::Unreachable(0, BLUE)]);
    assert_eq!(origin, "router r: no route for what network blue sends");
    // Of who is not there, and of who is not plugged, the sender is told.
    let nobody = fates_of(&one, &routed, web, [10, 0, 1, 77].into());
    assert_eq!(nobody, [Fate::Aged(BLUE), Fate::Measured(1400, BLUE), Fate::Unreachable(1, BLUE)]);
    // Anything but IPv4 to its MAC is for nobody.
    let ipv6 = packet(web.number, web.mac, routed.mac(BLUE).0, &[(Field::EthType, &[0x86, 0xdd])]);
    assert_eq!(super::fates(&one, &ipv6), [Fate::Dropped(DropCause::Policy)]);
    let dhcp = offered(super::fates(&one, &dhcp(web, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)));
    assert_eq!(dhcp.router, BLUE.octets());
}

#[test]
fn extra_routes_go_by_their_next_hop() {
    let mut routed = routed();
    let (web, hop) = (routed.scene.web[0].clone(), routed.green[1].clone());
    routed.route("10.7.0.0/16", of(&hop));
    routed.route("0.0.0.0/0", of(&routed.scene.web[1].clone()));
    routed.route("10.8.0.0/16", [10, 0, 1, 99].into());
    let one = routed.scene.state(0);
    let (fates, origin, packet) = journey(&one, &routed.sent(&web, [10, 7, 1, 1].into()));
    let to_three = Fate::Tunnel { segment: routed.segment.into(), host: [10, 9, 0, 3].into() };
    assert_eq!(fates, [Fate::Aged(BLUE), Fate::Measured(1400, BLUE), to_three]);
    assert_eq!(origin, "port green-2 (network green): delivery through the tunnel to host three");
    assert_eq!(packet[&(Field::EthDst as i32)], hop.mac.0);
    // The longest prefix wins; everything else takes the default route.
    let default = fates_of(&one, &routed, &web, [8, 8, 8, 8].into());
    assert_eq!(default[..2], [Fate::Aged(BLUE), Fate::Measured(1450, BLUE)]);
    // Nobody has the next hop's address.
    assert_eq!(fates_of(&one, &routed, &web, [10, 8, 0, 1].into()), [Fate::Unreachable(1, BLUE)]);
}

#[test]
fn hosts_hold_what_their_routers_need_and_no_more() {
    let mut routed = routed();
    let one = routed.scene.state(0);
    // Host one has no port of green: it reaches it, and takes nothing from the tunnel for it.
    assert!(one.origins.values().any(|text| text.contains("network green")));
    let stray = from_tunnel(routed.segment, [0xff; 6]);
    assert_eq!(fates(&one, &stray), [Fate::Dropped(DropCause::UnknownSegment)]);
    assert!(!one.ports.contains_key(&routed.green[0].number));
    // What comes from the tunnel is never routed.
    let mut looped = from_tunnel(routed.scene.blue, routed.mac(BLUE).0);
    looped.extend(ipv4(&routed.green[0], routed.mac(BLUE).0));
    looped.insert(Field::InPort as i32, pipeline::TUNNEL_PORT.to_be_bytes().to_vec());
    assert_eq!(fates(&one, &looped), [Fate::Dropped(DropCause::UnknownDestination)]);
    // Host four has nothing, and red's ports nothing of the router.
    assert_eq!(routed.scene.state(3).rules.len(), 9);
    let red = &routed.scene.red_1;
    let escape = ipv4(red, routed.mac(BLUE).0);
    assert_eq!(fates(&one, &escape), [Fate::Dropped(DropCause::UnknownDestination)]);

    // A network that leaves the router is out of reach at once.
    let before = routed.scene.cloud.model.clone();
    let request = v1::RemoveRouterInterfaceRequest { router: "r".into(), subnet: "green".into(), ..Default::default() };
    routed.scene.cloud.make(|model, _| model.remove_router_interface(&request));
    let touched: BTreeSet<Uuid> = before
        .interfaces_of(before.routers.iter().next().unwrap().id)
        .flat_map(|port| before.touched(&crate::model::Change::remove(port)))
        .collect();
    assert_eq!(touched, routed.scene.hosts[..3].iter().copied().collect());
    let one = routed.scene.state(0);
    assert!(!one.origins.values().any(|text| text.contains("network green")));
    let last = routed.scene.web[0].clone();
    assert_eq!(fates_of(&one, &routed, &last, of(&routed.green[0])), [Fate::Unreachable(0, BLUE)]);
}

#[test]
fn groups_hold_across_routers() {
    let mut routed = routed();
    // Of another group: default's rule lets in only its own members, whatever network they are in.
    let request = v1::CreateSecurityGroupRequest { name: "apart".into(), ..Default::default() };
    routed.scene.cloud.make(|model, id| model.create_security_group(&request, id));
    let (web_3, green_1) = (routed.scene.web[2].clone(), routed.green[0].clone());
    let passes = |routed: &Routed| fates_of(&routed.scene.state(1), routed, &web_3, of(&green_1)).pop().unwrap();
    assert_eq!(passes(&routed), Fate::Port(green_1.number));
    let groups = Some(v1::SecurityGroupChoice { groups: vec!["apart".into()] });
    // The ports of red have the same addresses, and would vouch for web-3's.
    for port in ["web-3", "red-1", "red-3"] {
        let request =
            v1::UpdatePortRequest { port: port.into(), security_groups: groups.clone(), ..Default::default() };
        routed.scene.cloud.make(|model, _| model.update_port(&request));
    }
    let vouching = routed.scene.cloud.model.ports.iter().find(|port| {
        port.id != web_3.id && port.groups != routed.scene.cloud.model.ports[web_3.id].groups && of(port) == of(&web_3)
    });
    assert_eq!(vouching, None, "nobody else has the address");
    assert_eq!(passes(&routed), Fate::Dropped(DropCause::Policy));
}
