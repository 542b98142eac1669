//! What security groups, address pairs and port security do to packets.

use super::*;
use crate::model::SecurityGroupRule;

/// Two ports of network blue on host one: web-1 and web-2, and web-3 on host two; all in the group "default".
struct Guarded(Scene);

impl Guarded {
    fn new() -> Self {
        let mut guarded = Self(scene());
        // Red's ports have the same addresses as blue's: in the group they would vouch for them.
        for port in ["red-1", "red-3"] {
            guarded.set_groups(port, &[]);
        }
        guarded
    }

    fn group(&mut self, name: &str) {
        let request = v1::CreateSecurityGroupRequest { name: name.into(), ..Default::default() };
        self.0.cloud.make(|model, id| model.create_security_group(&request, id));
    }

    fn rule(&mut self, group: &str, rule: v1::CreateSecurityGroupRuleRequest) -> SecurityGroupRule {
        let request = v1::CreateSecurityGroupRuleRequest { security_group: group.into(), ..rule };
        self.0.cloud.make(|model, id| model.create_security_group_rule(&request, id))
    }

    fn update(&mut self, port: &str, request: v1::UpdatePortRequest) -> Port {
        let request = v1::UpdatePortRequest { port: port.into(), ..request };
        self.0.cloud.make(|model, _| model.update_port(&request))
    }

    fn set_groups(&mut self, port: &str, groups: &[&str]) {
        let groups = groups.iter().map(ToString::to_string).collect();
        let choice = Some(v1::SecurityGroupChoice { groups });
        self.update(port, v1::UpdatePortRequest { security_groups: choice, ..Default::default() });
    }

    /// What becomes of a packet from one port of the scene to another on host one.
    fn sent(&self, from: usize, to: usize, fields: &[(Field, &[u8])]) -> (Vec<Fate>, String) {
        let web = &self.0.web;
        let mut packet = ipv4(&web[from], web[to].mac.0);
        packet.insert(Field::Ipv4Dst as i32, web[to].addresses[0].address.octets().to_vec());
        packet.extend(fields.iter().map(|(field, value)| (*field as i32, value.to_vec())));
        walk(&self.0.state(0), &packet)
    }

    fn passes(&self, fields: &[(Field, &[u8])]) -> bool {
        let (fates, origin) = self.sent(0, 1, fields);
        match fates.as_slice() {
            [Fate::Port(port)] => *port == self.0.web[1].number,
            [Fate::Dropped(DropCause::Policy)] => {
                assert!(origin.ends_with("no rule lets it enter"), "{origin}");
                false
            }
            other => panic!("{other:?}"),
        }
    }
}

fn ingress(protocol: &str) -> v1::CreateSecurityGroupRuleRequest {
    v1::CreateSecurityGroupRuleRequest { direction: "ingress".into(), protocol: protocol.into(), ..Default::default() }
}

fn tcp(port: u16) -> [(Field, Vec<u8>); 2] {
    [(Field::IpProto, vec![6]), (Field::TcpDst, port.to_be_bytes().to_vec())]
}

fn to_port(guarded: &Guarded, port: u16) -> bool {
    let fields = tcp(port);
    guarded.passes(&fields.each_ref().map(|(field, value)| (*field, value.as_slice())))
}

const DROPPED: [Fate; 1] = [Fate::Dropped(DropCause::Policy)];

#[test]
fn the_default_group_lets_in_its_own_and_nobody_else() {
    let mut guarded = Guarded::new();
    assert!(guarded.passes(&[]));
    guarded.group("web");
    // web-1 is no member any more; what it sends leaves, and does not enter.
    guarded.set_groups("web-1", &["web"]);
    let (fates, origin) = guarded.sent(0, 1, &[]);
    assert_eq!(
        (fates.as_slice(), origin.as_str()),
        (DROPPED.as_slice(), "security group default: no rule lets it enter")
    );
    // Nothing enters a group without ingress rules, replies do.
    let (fates, origin) = guarded.sent(1, 0, &[]);
    assert_eq!((fates.as_slice(), origin.as_str()), (DROPPED.as_slice(), "security group web: no rule lets it enter"));
    let reply: [(Field, &[u8]); 1] = [(Field::CtState, &[0x2a])];
    assert_eq!(guarded.sent(1, 0, &reply).0, [Fate::Port(guarded.0.web[0].number)]);
    let invalid: [(Field, &[u8]); 1] = [(Field::CtState, &[0x30])];
    assert_eq!(guarded.sent(1, 0, &invalid).0, DROPPED);
    // A port of both.
    guarded.set_groups("web-1", &["web", "default"]);
    assert!(guarded.passes(&[]));
}

#[test]
fn nothing_passes_without_groups_but_arp() {
    let mut guarded = Guarded::new();
    guarded.set_groups("web-1", &[]);
    let (fates, origin) = guarded.sent(0, 1, &[]);
    assert_eq!((fates.as_slice(), origin.as_str()), (DROPPED.as_slice(), "no security group: no rule lets it leave"));
    let (fates, origin) = guarded.sent(1, 0, &[]);
    assert_eq!((fates.as_slice(), origin.as_str()), (DROPPED.as_slice(), "no security group: no rule lets it enter"));
    let web = &guarded.0.web;
    let mut reply = arp(&web[1], web[1].addresses[0].address, web[0].addresses[0].address);
    reply.insert(Field::ArpOp as i32, vec![0, 2]);
    reply.insert(Field::EthDst as i32, web[0].mac.0.to_vec());
    assert_eq!(fates_of(&guarded, &reply), [Fate::Port(web[0].number)]);
}

fn fates_of(guarded: &Guarded, packet: &Packet) -> Vec<Fate> {
    fates(&guarded.0.state(0), packet)
}

#[test]
fn rules_let_in_what_they_say() {
    let mut guarded = Guarded::new();
    guarded.group("web");
    guarded.set_groups("web-2", &["web"]);
    assert!(!to_port(&guarded, 80));
    let web = guarded.rule("web", v1::CreateSecurityGroupRuleRequest { port_range_min: Some(80), ..ingress("tcp") });
    assert!(to_port(&guarded, 80) && !to_port(&guarded, 81));
    let range = v1::CreateSecurityGroupRuleRequest {
        port_range_min: Some(1000),
        port_range_max: Some(2000),
        remote_ip_prefix: "10.0.0.0/29".into(),
        ..ingress("tcp")
    };
    guarded.rule("web", range);
    assert!(to_port(&guarded, 1000) && to_port(&guarded, 1555) && to_port(&guarded, 2000));
    assert!(!to_port(&guarded, 999) && !to_port(&guarded, 2001));
    let other: [(Field, &[u8]); 3] =
        [(Field::IpProto, &[6]), (Field::TcpDst, &[6, 0]), (Field::Ipv4Src, &[10, 0, 0, 9])];
    let mut across = ipv4(&guarded.0.web[2], guarded.0.web[1].mac.0);
    across.extend(from_tunnel(guarded.0.blue, guarded.0.web[1].mac.0));
    across.extend(other.iter().map(|(field, value)| (*field as i32, value.to_vec())));
    across.insert(Field::EthType as i32, vec![8, 0]);
    assert_eq!(fates_of(&guarded, &across), DROPPED);
    across.insert(Field::Ipv4Src as i32, vec![10, 0, 0, 4]);
    assert_eq!(fates_of(&guarded, &across), [Fate::Port(guarded.0.web[1].number)]);
    guarded.rule("web", v1::CreateSecurityGroupRuleRequest { icmp_type: Some(8), ..ingress("icmp") });
    assert!(guarded.passes(&[(Field::IpProto, &[1]), (Field::IcmpType, &[8])]));
    assert!(!guarded.passes(&[(Field::IpProto, &[1]), (Field::IcmpType, &[13])]));
    guarded.rule("web", ingress("47"));
    assert!(guarded.passes(&[(Field::IpProto, &[47])]));
    guarded.rule("web", v1::CreateSecurityGroupRuleRequest { remote_group: "default".into(), ..ingress("udp") });
    assert!(guarded.passes(&[(Field::IpProto, &[17])]));
    let origins = guarded.0.state(0).origins;
    for text in [
        "security group web, rule ingress tcp 80",
        "security group web, rule ingress tcp 1000-2000 from 10.0.0.0/29",
        "security group web, rule ingress icmp type 8",
        "security group web, rule ingress 47",
        "security group web, rule ingress udp from group default",
        "security group web, rule egress any",
    ] {
        assert!(origins.values().any(|known| known == text), "{text}");
    }
    guarded.0.cloud.make(|model, _| model.delete_security_group_rule(&web.id.to_string(), ""));
    assert!(!to_port(&guarded, 80));
}

#[test]
fn what_leaves_needs_a_rule_too() {
    let mut guarded = Guarded::new();
    guarded.group("web");
    let group = guarded.0.cloud.model.find::<crate::model::SecurityGroup>("web", "", "").unwrap().id;
    let everything = guarded.0.cloud.model.rules_of(group).next().unwrap().id;
    guarded.0.cloud.make(|model, _| model.delete_security_group_rule(&everything.to_string(), ""));
    guarded.set_groups("web-1", &["web"]);
    assert_eq!(guarded.sent(0, 1, &[]).1, "security group web: no rule lets it leave");
    let dns = v1::CreateSecurityGroupRuleRequest {
        direction: "egress".into(),
        protocol: "udp".into(),
        port_range_min: Some(53),
        remote_group: "default".into(),
        ..Default::default()
    };
    guarded.rule("web", dns);
    guarded.rule("default", ingress("udp"));
    assert!(guarded.passes(&[(Field::IpProto, &[17]), (Field::UdpDst, &[0, 53])]));
    assert_eq!(guarded.sent(0, 1, &[(Field::IpProto, &[17]), (Field::UdpDst, &[0, 54])]).0, DROPPED);
}

#[test]
fn a_port_without_port_security_does_as_it_likes() {
    let mut guarded = Guarded::new();
    guarded.update("web-2", v1::UpdatePortRequest { port_security_enabled: Some(false), ..Default::default() });
    assert!(guarded.passes(&[]));
    let web = guarded.0.web.clone();
    let here = |port: &Port| [Fate::Port(port.number)];
    // From any address; but to the other it is no member of its group, and IPv6 it does not take at all.
    let mut spoofed = ipv4(&web[1], web[0].mac.0);
    spoofed.insert(Field::EthSrc as i32, vec![2, 9, 9, 9, 9, 9]);
    assert_eq!(fates_of(&guarded, &spoofed), DROPPED);
    spoofed.insert(Field::Ipv4Src as i32, web[2].addresses[0].address.octets().to_vec());
    assert_eq!(fates_of(&guarded, &spoofed), here(&web[0]));
    let ipv6 = packet(web[1].number, web[1].mac, web[0].mac.0, &[(Field::EthType, &[0x86, 0xdd])]);
    assert_eq!(fates_of(&guarded, &ipv6), DROPPED);
    // What groups have no rules for reaches it, and nobody else; from another host through the tunnel.
    let multicast = |from: &Port| packet(from.number, from.mac, [0x33, 0x33, 0, 0, 0, 1], &[]);
    let mut arriving = from_tunnel(guarded.0.blue, [0xff; 6]);
    arriving.insert(Field::EthType as i32, vec![0x86, 0xdd]);
    assert_eq!(fates_of(&guarded, &arriving), here(&web[1]));
    guarded.update("web-1", v1::UpdatePortRequest { port_security_enabled: Some(false), ..Default::default() });
    assert_eq!(fates_of(&guarded, &multicast(&web[1])), here(&web[0]), "and not to host two");
    guarded.update("web-1", v1::UpdatePortRequest { port_security_enabled: Some(true), ..Default::default() });
    assert_eq!(fates_of(&guarded, &multicast(&web[1])), [], "there is nobody else");
    guarded.update("web-2", v1::UpdatePortRequest { port_security_enabled: Some(true), ..Default::default() });
    assert_eq!(fates_of(&guarded, &spoofed), [Fate::Dropped(DropCause::Spoofed)]);
    assert_eq!(fates_of(&guarded, &arriving), DROPPED);
    assert!(guarded.passes(&[]), "it has the default group again");
}

#[test]
fn broadcasts_and_multicasts_pass_the_firewall_of_each_port() {
    let mut guarded = Guarded::new();
    guarded.0.cloud.port("blue", "web-4", "one");
    guarded.0.cloud.port("blue", "open", "one");
    guarded.update("open", v1::UpdatePortRequest { port_security_enabled: Some(false), ..Default::default() });
    let number = |name: &str| {
        let model = &guarded.0.cloud.model;
        model.ports_on(guarded.0.hosts[0]).find(|port| port.name == name).unwrap().number
    };
    let (own, other, third, open) = (number("web-1"), number("web-2"), number("web-4"), number("open"));
    let two = Fate::Tunnel { segment: guarded.0.blue.into(), host: [10, 9, 0, 2].into() };
    let sorted = |mut fates: Vec<Fate>| {
        fates.sort_by_key(|fate| format!("{fate:?}"));
        fates
    };
    let expect = |fates: Vec<Fate>, expected: &[Fate]| assert_eq!(sorted(fates), sorted(expected.to_vec()));
    for destination in [[0xff; 6], [1, 0, 0x5e, 0, 0, 0xfb]] {
        let sent = ipv4(&guarded.0.web[0], destination);
        // All are members of the group, and it lets its own in. Nothing comes back to who sent it, counted or not.
        expect(fates_of(&guarded, &sent), &[Fate::Port(other), Fate::Port(third), Fate::Port(open), two.clone()]);
    }
    guarded.group("dns");
    guarded.rule("dns", v1::CreateSecurityGroupRuleRequest { port_range_min: Some(53), ..ingress("udp") });
    guarded.set_groups("web-4", &["dns"]);
    guarded.set_groups("web-2", &[]);
    let mut dns = ipv4(&guarded.0.web[0], [0xff; 6]);
    dns.insert(Field::IpProto as i32, vec![17]);
    dns.insert(Field::UdpDst as i32, vec![0, 53]);
    let refused = Fate::Dropped(DropCause::Policy);
    expect(fates_of(&guarded, &dns), &[refused.clone(), Fate::Port(third), Fate::Port(open), two.clone()]);
    dns.insert(Field::UdpDst as i32, vec![0, 54]);
    expect(fates_of(&guarded, &dns), &[refused.clone(), refused.clone(), Fate::Port(open), two]);
    // From the tunnel likewise, and not back into it.
    let mut arriving = from_tunnel(guarded.0.blue, [0xff; 6]);
    arriving.extend([(Field::EthType as i32, vec![8, 0]), (Field::IpProto as i32, vec![17])]);
    arriving.insert(Field::Ipv4Src as i32, guarded.0.web[2].addresses[0].address.octets().to_vec());
    arriving.insert(Field::UdpDst as i32, vec![0, 53]);
    expect(fates_of(&guarded, &arriving), &[Fate::Port(own), refused, Fate::Port(third), Fate::Port(open)]);
    // Its sender's own rules come first.
    guarded.set_groups("web-1", &[]);
    assert_eq!(fates_of(&guarded, &dns), DROPPED);
}

#[test]
fn address_pairs_may_be_sent_from() {
    let mut guarded = Guarded::new();
    let pairs = vec![
        v1::AddressPair { ip_address: "10.0.0.96/27".into(), ..Default::default() },
        v1::AddressPair { ip_address: "10.0.0.200".into(), mac_address: "00:00:5e:00:01:07".into() },
    ];
    let choice = Some(v1::AddressPairs { pairs });
    let request = v1::UpdatePortRequest { allowed_address_pairs: choice, ..Default::default() };
    guarded.update("web-1", request);
    let spoofed = [Fate::Dropped(DropCause::Spoofed)];
    // The other lets them in: they are members of the group, too.
    for inside in [[10, 0, 0, 96], [10, 0, 0, 127]] {
        assert!(guarded.passes(&[(Field::Ipv4Src, &inside)]), "{inside:?}");
    }
    let from = |address: &[u8; 4]| guarded.sent(0, 1, &[(Field::Ipv4Src, address)]).0;
    assert_eq!(from(&[10, 0, 0, 128]), spoofed);
    assert_eq!(from(&[10, 0, 0, 200]), spoofed, "only from its MAC");
    let virtual_mac: [(Field, &[u8]); 2] =
        [(Field::Ipv4Src, &[10, 0, 0, 200]), (Field::EthSrc, &[0, 0, 0x5e, 0, 1, 7])];
    assert!(guarded.passes(&virtual_mac));
    let announced = arp(&guarded.0.web[0], [10, 0, 0, 100].into(), [10, 0, 0, 100].into());
    assert_eq!(fates_of(&guarded, &announced).len(), 2, "flooded");
}

#[test]
fn ports_with_the_same_groups_share_their_rules() {
    let mut guarded = Guarded::new();
    let firewall = |state: &HostState| {
        let tables = [pipeline::EGRESS_FIREWALL, pipeline::INGRESS_FIREWALL];
        state.rules.values().filter(|rule| tables.contains(&rule.table)).count()
    };
    let before = firewall(&guarded.0.state(0));
    guarded.0.cloud.port("blue", "web-4", "one");
    assert_eq!(firewall(&guarded.0.state(0)), before);
    // Two groups that say the same: once.
    guarded.group("one");
    guarded.group("two");
    guarded.set_groups("web-4", &["one"]);
    let single = firewall(&guarded.0.state(0));
    guarded.set_groups("web-4", &["one", "two"]);
    assert_eq!(firewall(&guarded.0.state(0)), single);
}

#[test]
fn a_new_member_is_one_small_message_to_each_host_that_has_the_set() {
    let mut guarded = Guarded::new();
    let request = v1::CreatePortRequest { name: "db".into(), network: "blue".into(), ..Default::default() };
    let before: Vec<HostState> = (0..4).map(|host| guarded.0.state(host)).collect();
    let (changes, port) = guarded.0.cloud.model.create_port(&request, Uuid::from_u128(1 << 64)).unwrap();
    let mut touched = BTreeSet::new();
    for change in &changes {
        guarded.0.cloud.model.apply(change);
        touched.extend(guarded.0.cloud.model.touched(change));
    }
    assert_eq!(touched, guarded.0.hosts[..2].iter().copied().collect());
    for (host, before) in before.iter().enumerate() {
        let bundle = before.bundle_to(&guarded.0.state(host));
        if host > 1 {
            assert!(is_empty(&bundle));
            continue;
        }
        let address = port.addresses[0].address.octets().to_vec();
        let [set] = bundle.extend_address_sets.as_slice() else { panic!("{bundle:?}") };
        assert_eq!(set.members, [v1::Prefix { address, length: 32 }]);
        let only = v1::Bundle { extend_address_sets: bundle.extend_address_sets.clone(), ..Default::default() };
        assert_eq!(bundle, only);
    }
}
