use super::*;
use crate::flow::action::Action;
use proptest::prelude::*;
use weft_proto::digest::{canonical, canonical_set};
use weft_proto::v1::action::Action as Wire;

fn exact(field: Field, value: &[u8]) -> v1::FieldMatch {
    v1::FieldMatch { field: field.into(), value: value.to_vec(), mask: Vec::new(), address_set: String::new() }
}

fn masked(field: Field, value: &[u8], mask: &[u8]) -> v1::FieldMatch {
    v1::FieldMatch { mask: mask.to_vec(), ..exact(field, value) }
}

fn in_set(field: Field, set: &str) -> v1::FieldMatch {
    v1::FieldMatch { address_set: set.to_owned(), ..exact(field, &[]) }
}

fn wire(action: Wire) -> v1::Action {
    v1::Action { action: Some(action) }
}

fn set(field: Field, value: &[u8]) -> v1::Action {
    wire(Wire::SetField(v1::SetField { field: field.into(), value: value.to_vec(), mask: Vec::new() }))
}

fn manual(matches: Vec<v1::FieldMatch>, apply: Vec<v1::Action>) -> v1::Rule {
    v1::Rule {
        table: 10,
        priority: 100,
        r#match: matches,
        instructions: Some(v1::Instructions { apply_actions: apply, ..Default::default() }),
        cookie: 7,
        owner: v1::Owner::Manual.into(),
        ..Default::default()
    }
}

fn tcp() -> Vec<v1::FieldMatch> {
    vec![exact(Field::EthType, &[8, 0]), exact(Field::IpProto, &[6])]
}

/// Code and field of the fault of a rule.
fn refused(rule: &v1::Rule) -> (String, String) {
    let fault = rule_from_message(rule, 0).expect_err("the rule is wrong");
    assert!(!fault.problem.is_empty() && fault.remedy.ends_with('.'), "{fault:?}");
    (fault.code, fault.field)
}

fn with(mut matches: Vec<v1::FieldMatch>, more: v1::FieldMatch) -> Vec<v1::FieldMatch> {
    matches.push(more);
    matches
}

#[test]
fn a_rule_becomes_keys_and_comes_back() {
    let rule = manual(
        with(tcp(), masked(Field::TcpDst, &[1, 0], &[0xff, 0])),
        vec![set(Field::Ipv4Dst, &[10, 0, 0, 1]), wire(Wire::Output(v1::Output { port: 3 }))],
    );
    let engine = rule_from_message(&rule, 5).unwrap();
    assert_eq!((engine.id.matched.value().l4_dst, engine.id.matched.mask().l4_dst), ([1, 0], [0xff, 0]));
    assert_eq!((engine.created, engine.cookie, engine.id.table), (5, 7, 10));
    assert_eq!(to_message(&engine), canonical(rule));
}

#[test]
fn timeouts_are_for_rules_made_by_hand_and_in_range() {
    let right = manual(tcp(), vec![]);
    let idle = v1::Rule { idle_timeout_seconds: 65_535, ..right.clone() };
    assert_eq!(rule_from_message(&idle, 0).unwrap().end().unwrap().0, 65_535_000_000);
    for wrong in [
        v1::Rule { idle_timeout_seconds: 65_536, ..right.clone() },
        v1::Rule { hard_timeout_seconds: u32::MAX, ..right.clone() },
    ] {
        assert_eq!(refused(&wrong).0, "bad_timeout");
    }
    let fabric = v1::Rule { owner: v1::Owner::Fabric.into(), ..right };
    let refused = |rule| refused(&rule);
    let of = |field: &str| ("timeout_of_fabric".to_owned(), field.to_owned());
    assert_eq!(refused(v1::Rule { idle_timeout_seconds: 1, ..fabric.clone() }), of("idle_timeout_seconds"));
    assert_eq!(refused(v1::Rule { hard_timeout_seconds: 1, ..fabric.clone() }), of("hard_timeout_seconds"));
    assert_eq!(refused(v1::Rule { notify_removal: true, ..fabric }), of("notify_removal"));
    let meter = |meter| wire(Wire::Meter(v1::MeterAction { meter }));
    assert_eq!(refused(manual(tcp(), vec![meter(0)])).0, "bad_meter");
}

#[test]
fn fields_that_share_bytes_come_back_as_what_they_were() {
    let v6 = [exact(Field::EthType, &[0x86, 0xdd]), exact(Field::IpProto, &[58])];
    let advert = with(v6.to_vec(), exact(Field::Icmpv6Type, &[136]));
    for matches in [
        vec![exact(Field::EthType, &[8, 6]), exact(Field::ArpSpa, &[10, 0, 0, 1]), exact(Field::ArpTha, &[1; 6])],
        vec![exact(Field::EthType, &[8, 0]), exact(Field::IpProto, &[1]), exact(Field::IcmpType, &[8])],
        vec![exact(Field::EthType, &[8, 0]), exact(Field::Ipv4Src, &[10, 0, 0, 1])],
        vec![exact(Field::EthType, &[8, 0]), exact(Field::IpProto, &[17]), exact(Field::UdpSrc, &[0, 53])],
        vec![exact(Field::EthType, &[8, 0]), exact(Field::IpProto, &[132]), exact(Field::SctpDst, &[0, 1])],
        with(with(advert, exact(Field::NdTarget, &[1; 16])), exact(Field::NdTll, &[2; 6])),
    ] {
        let rule = canonical(manual(matches, vec![]));
        assert_eq!(to_message(&rule_from_message(&rule, 0).unwrap()), rule);
    }
}

#[test]
fn consulted_bits_are_told_by_the_packet() {
    let mut packet = FlowKey::ZERO;
    packet.eth_type = [8, 0];
    packet.ip_proto = 1;
    packet.l4_src = [0, 8];
    let mut mask = FlowKey::ZERO;
    mask.l4_src = [0xff; 2];
    mask.ipv6_src = [0xff; 16];
    // The mask lacks eth_type; the packet is ICMP all the same, and has no IPv6 address.
    assert_eq!(matches(&packet, &mask), [exact(Field::IcmpType, &[8])]);
    packet.ip_proto = 6;
    assert_eq!(matches(&packet, &mask), [exact(Field::TcpSrc, &[0, 8])]);
}

#[test]
fn wrong_matches_are_refused() {
    let code = |matches: Vec<v1::FieldMatch>| {
        let (code, field) = refused(&manual(matches, vec![]));
        format!("{code} {field}")
    };
    assert_eq!(code(vec![masked(Field::InPort, &[0; 3], &[])]), "bad_length match[0].value");
    assert_eq!(code(vec![masked(Field::EthSrc, &[0; 6], &[1; 5])]), "bad_length match[0].mask");
    assert_eq!(code(vec![masked(Field::Reg0, &[0, 0, 1, 1], &[0, 0, 0, 1])]), "outside_mask match[0].value");
    assert_eq!(code(vec![masked(Field::Reg0, &[0; 4], &[0; 4])]), "empty_mask match[0].mask");
    assert_eq!(code(vec![exact(Field::InPort, &[0; 4])]), "bad_port match[0].value");
    assert_eq!(code(vec![exact(Field::Reg1, &[1; 4]), exact(Field::Reg1, &[1; 4])]), "duplicate_field match[1]");
    assert_eq!(code(with(tcp(), exact(Field::UdpDst, &[0, 1]))), "missing_prerequisite match[2]");
    assert_eq!(code(with(tcp(), exact(Field::TcpFlags, &[0x10, 0]))), "beyond_width match[2].value");
    assert_eq!(code(with(tcp(), masked(Field::TcpFlags, &[0, 0], &[0xff, 0]))), "beyond_width match[2].mask");
    assert_eq!(code(vec![exact(Field::IpProto, &[6])]), "missing_prerequisite match[0]");
    let loose = masked(Field::EthType, &[8, 0], &[0xff, 0]);
    assert_eq!(code(vec![loose, exact(Field::Ipv4Src, &[0; 4])]), "missing_prerequisite match[1]");
    assert_eq!(code(vec![exact(Field::VlanInnerTci, &[0x10, 5])]), "missing_prerequisite match[0]");
    let untagged = masked(Field::VlanTci, &[0, 0], &[0x10, 0]);
    assert_eq!(code(vec![untagged, exact(Field::VlanInnerTci, &[0x10, 5])]), "missing_prerequisite match[1]");
    let unknown = v1::FieldMatch { field: 99, ..Default::default() };
    assert_eq!(code(vec![unknown]), "unknown_field match[0]");
    assert_eq!(code(vec![v1::FieldMatch::default()]), "unknown_field match[0]");
}

#[test]
fn a_tag_is_a_prerequisite_by_its_bit() {
    let tagged = masked(Field::VlanTci, &[0x10, 0], &[0x10, 0]);
    let rule = manual(vec![tagged, exact(Field::VlanInnerTci, &[0x10, 5])], vec![]);
    assert_eq!(to_message(&rule_from_message(&rule, 0).unwrap()), rule);
}

#[test]
fn address_sets_stand_for_ipv4_addresses_only() {
    let ipv4 = || vec![exact(Field::EthType, &[8, 0])];
    let rule = manual(with(ipv4(), in_set(Field::Ipv4Src, "web")), vec![]);
    let engine = rule_from_message(&rule, 0).unwrap();
    assert_eq!(engine.id.set.as_ref().map(|set| (set.field, &*set.set)), Some((Field::Ipv4Src, "web")));
    assert_eq!(engine.id.matched.mask().ipv4_src, [0; 4]);
    assert_eq!(to_message(&engine), rule);
    let mut wrong = in_set(Field::Ipv4Src, "web");
    wrong.value = vec![10, 0, 0, 1];
    for (matches, field) in [
        (vec![in_set(Field::Ipv4Src, "web")], "match[0]"),
        (with(ipv4(), in_set(Field::EthSrc, "web")), "match[1].address_set"),
        (with(ipv4(), wrong), "match[1]"),
        (with(ipv4(), in_set(Field::Ipv4Dst, "a b")), "match[1].address_set"),
        (with(with(ipv4(), in_set(Field::Ipv4Dst, "a")), in_set(Field::Ipv4Src, "b")), "match[2]"),
    ] {
        assert_eq!(refused(&manual(matches, vec![])).1, field);
    }
}

#[test]
fn wrong_numbers_and_owners_are_refused() {
    let right = manual(vec![], vec![]);
    let goto = |table| Some(v1::Instructions { goto_table: Some(table), ..Default::default() });
    assert_eq!(refused(&v1::Rule { table: 255, ..right.clone() }).1, "table");
    assert_eq!(refused(&v1::Rule { priority: 65_536, ..right.clone() }).1, "priority");
    assert_eq!(refused(&v1::Rule { owner: 0, ..right.clone() }).1, "owner");
    assert_eq!(refused(&v1::Rule { owner: 9, ..right.clone() }).1, "owner");
    assert_eq!(refused(&v1::Rule { instructions: goto(10), ..right.clone() }).1, "instructions.goto_table");
    assert_eq!(refused(&v1::Rule { instructions: goto(255), ..right.clone() }).1, "instructions.goto_table");
    assert!(rule_from_message(&v1::Rule { instructions: goto(11), ..right }, 0).is_ok());
}

fn offer() -> v1::DhcpReply {
    v1::DhcpReply {
        address: vec![10, 0, 0, 5],
        prefix_length: 24,
        server_address: vec![10, 0, 0, 2],
        server_mac: vec![2, 0, 0, 0, 0, 2],
        router: vec![10, 0, 0, 1],
        dns_servers: vec![vec![1, 1, 1, 1]],
        mtu: 1450,
        lease_seconds: 60,
        host_name: "web-1".to_owned(),
        domain_name: "example.org".to_owned(),
        routes: vec![v1::ClasslessRoute { destination: vec![0; 4], prefix_length: 0, next_hop: vec![10, 0, 0, 1] }],
    }
}

#[test]
fn wrong_actions_are_refused() {
    let place = |matches: Vec<v1::FieldMatch>, action: v1::Action| {
        let (_, field) = refused(&manual(matches, vec![wire(Wire::DecTtl(v1::DecTtl::default())), action]));
        field.strip_prefix("instructions.apply_actions[1]").expect("the action is named").to_owned()
    };
    let output = |port| wire(Wire::Output(v1::Output { port }));
    assert_eq!(place(vec![], v1::Action::default()), "");
    assert_eq!(place(vec![], output(0)), ".output.port");
    assert_eq!(place(vec![], output(0xffff_fffb)), ".output.port");
    assert!(rule_from_message(&manual(vec![], vec![output(PORT_MAX), output(0xffff_fff8)]), 0).is_ok());
    assert_eq!(place(vec![], wire(Wire::PushVlan(v1::PushVlan { ether_type: 0x0800 }))), ".push_vlan.ether_type");
    assert_eq!(place(vec![], wire(Wire::Drop(v1::Drop { cause: 77 }))), ".drop.cause");
    assert_eq!(place(vec![], wire(Wire::ArpReply(v1::ArpReply { mac: vec![2; 5] }))), ".arp_reply.mac");
    assert_eq!(place(vec![], set(Field::EthType, &[8, 0])), ".set_field.field");
    assert_eq!(place(vec![], set(Field::TcpDst, &[0, 80])), ".set_field.field");
    assert_eq!(place(tcp(), set(Field::UdpDst, &[0, 80])), ".set_field.field");
    assert_eq!(place(tcp(), set(Field::TcpDst, &[80])), ".set_field.value");
    assert!(rule_from_message(&manual(tcp(), vec![set(Field::TcpDst, &[0, 80])]), 0).is_ok());
    let many = vec![output(1); crate::limits::ACTIONS_PER_RULE + 1];
    assert_eq!(refused(&manual(vec![], many)).0, "too_many_actions");
}

#[test]
fn wrong_dhcp_replies_are_refused() {
    let place = |change: &dyn Fn(&mut v1::DhcpReply)| {
        let mut reply = offer();
        change(&mut reply);
        let (_, field) = refused(&manual(vec![], vec![wire(Wire::DhcpReply(reply))]));
        field.strip_prefix("instructions.apply_actions[0].dhcp_reply.").expect("the reply is named").to_owned()
    };
    assert!(rule_from_message(&manual(vec![], vec![wire(Wire::DhcpReply(offer()))]), 0).is_ok());
    assert_eq!(place(&|reply| reply.address.clear()), "address");
    assert_eq!(place(&|reply| reply.address = vec![255; 4]), "address");
    assert_eq!(place(&|reply| reply.prefix_length = 33), "prefix_length");
    assert_eq!(place(&|reply| reply.server_address = vec![0; 4]), "server_address");
    assert_eq!(place(&|reply| reply.server_mac = vec![1, 0, 0, 0, 0, 1]), "server_mac");
    assert_eq!(place(&|reply| reply.router = vec![1]), "router");
    assert_eq!(place(&|reply| reply.dns_servers.push(vec![1])), "dns_servers[1]");
    assert_eq!(place(&|reply| reply.dns_servers = vec![vec![1; 4]; 9]), "dns_servers");
    assert_eq!(place(&|reply| reply.mtu = 67), "mtu");
    assert_eq!(place(&|reply| reply.mtu = 65_536), "mtu");
    assert_eq!(place(&|reply| reply.lease_seconds = 0), "lease_seconds");
    assert_eq!(place(&|reply| reply.host_name = "web_1".to_owned()), "host_name");
    assert_eq!(place(&|reply| reply.host_name = "x".repeat(64)), "host_name");
    assert_eq!(place(&|reply| reply.domain_name = "a..b".to_owned()), "domain_name");
    assert_eq!(place(&|reply| reply.routes[0].destination = vec![10, 0, 0, 1]), "routes[0].address");
    assert_eq!(place(&|reply| reply.routes[0].next_hop.clear()), "routes[0].next_hop");
    let route = offer().routes[0].clone();
    assert_eq!(place(&|reply| reply.routes = vec![route.clone(); 33]), "routes");
}

#[test]
fn wrong_nat_is_refused_and_right_nat_comes_back() {
    let right = v1::ConnectionTrack {
        zone: 5,
        commit: true,
        nat: true,
        source: Some(v1::SourceNat { address: vec![192, 0, 2, 1], first_port: 2000, last_port: 2999 }),
        destination: Some(v1::DestinationNat { address: vec![10, 0, 0, 1], port: 80 }),
        ..v1::ConnectionTrack::default()
    };
    let rule = |change: &dyn Fn(&mut v1::ConnectionTrack)| {
        let mut track = right.clone();
        change(&mut track);
        manual(vec![], vec![wire(Wire::Ct(track))])
    };
    let place = |change: &dyn Fn(&mut v1::ConnectionTrack)| {
        let (_, field) = refused(&rule(change));
        field.strip_prefix("instructions.apply_actions[0].ct.").expect("the action is named").to_owned()
    };
    let comes_back = |change: &dyn Fn(&mut v1::ConnectionTrack)| {
        let asked = rule(change);
        let made = rule_from_message(&asked, 0).unwrap();
        assert_eq!(Some(crate::flow::action::instructions_to_message(&made.instructions)), asked.instructions);
    };
    comes_back(&|_| {});
    comes_back(&|track| (track.source, track.destination) = (None, None));
    comes_back(&|track| {
        track.source = Some(v1::SourceNat { address: vec![192, 0, 2, 1], first_port: 0, last_port: 0 });
        track.destination = Some(v1::DestinationNat { address: vec![10, 0, 0, 1], port: 0 });
    });
    assert_eq!(place(&|track| track.commit = false), "commit");
    assert_eq!(place(&|track| track.nat = false), "nat");
    let source = |change: fn(&mut v1::SourceNat)| place(&|track| change(track.source.as_mut().unwrap()));
    assert_eq!(source(|source| source.address = vec![1; 16]), "source.address");
    assert_eq!(source(|source| source.address = vec![224, 0, 0, 1]), "source.address");
    assert_eq!(source(|source| source.first_port = 0), "source.first_port");
    assert_eq!(source(|source| source.first_port = 3000), "source.last_port");
    assert_eq!(source(|source| source.last_port = 65_536), "source.last_port");
    assert_eq!(place(&|track| track.destination.as_mut().unwrap().port = 65_536), "destination.port");
    assert_eq!(place(&|track| track.destination.as_mut().unwrap().address.clear()), "destination.address");
}

#[test]
fn neighbouring_set_fields_merge_unless_their_order_matters() {
    let rule = manual(
        vec![],
        vec![
            set(Field::Reg0, &[0, 0, 0, 1]),
            set(Field::TunDst, &[10, 0, 0, 2]),
            set(Field::Reg0, &[0, 0, 0, 2]),
            wire(Wire::Output(v1::Output { port: 1 })),
            set(Field::Reg1, &[0, 0, 0, 1]),
        ],
    );
    let engine = rule_from_message(&rule, 0).unwrap();
    let fields: Vec<_> = engine
        .instructions
        .apply
        .iter()
        .map(|action| if let Action::SetField(set) = action { set.fields.clone() } else { vec![] })
        .collect();
    assert_eq!(fields, [vec![Field::Reg0, Field::TunDst], vec![Field::Reg0], vec![], vec![Field::Reg1]]);
    assert_eq!(to_message(&engine), rule);
}

#[test]
fn a_packet_is_given_by_exact_fields() {
    let key = key_from_packet(&with(tcp(), exact(Field::TcpDst, &[0, 80]))).unwrap();
    assert_eq!((key.eth_type, key.ip_proto, key.l4_dst), ([8, 0], 6, [0, 80]));
    let refused = |fields: &[v1::FieldMatch]| key_from_packet(fields).unwrap_err().field;
    assert_eq!(refused(&[masked(Field::Reg0, &[0; 4], &[0, 0, 0, 1])]), "packet[0]");
    assert_eq!(refused(&[exact(Field::TcpDst, &[0, 80])]), "packet[0]");
    assert_eq!(refused(&with(tcp(), in_set(Field::Ipv4Src, "web"))), "packet[2]");
}

#[test]
fn table_settings_are_checked() {
    let config = |name: &str, partition| v1::TableConfig {
        table: 40,
        name: name.to_owned(),
        meaning: "Finds the destination's port.".to_owned(),
        partition,
    };
    let settings = settings_from_message(&config("l2", 0)).unwrap();
    assert_eq!(settings.partition, Field::InPort);
    assert_eq!(settings_to_message(&settings), config("l2", Field::InPort.into()));
    let refused = |config: &v1::TableConfig| settings_from_message(config).unwrap_err().field;
    assert_eq!(refused(&config("two words", 0)), "name");
    assert_eq!(refused(&config("l2", 99)), "partition");
    assert_eq!(refused(&v1::TableConfig { table: 255, ..config("l2", 0) }), "table");
}

#[test]
fn address_sets_change_in_order() {
    let prefix = |address: [u8; 4], length| v1::Prefix { address: address.to_vec(), length };
    let web = |members: Vec<v1::Prefix>| vec![v1::AddressSet { name: "web".to_owned(), members }];
    let bundle = v1::Bundle {
        set_address_sets: web(vec![prefix([10, 0, 0, 0], 24), prefix([1, 0, 0, 1], 32)]),
        shrink_address_sets: web(vec![prefix([1, 0, 0, 1], 32)]),
        remove_address_sets: vec!["old".to_owned()],
        ..Default::default()
    };
    let changes = set_changes_from_message(&bundle).unwrap();
    assert!(matches!(
        changes.as_slice(),
        [SetChange::Set(_, members), SetChange::Shrink(..), SetChange::Remove(_)] if members.len() == 2
    ));
    let [SetChange::Set(name, members), ..] = changes.as_slice() else { unreachable!() };
    assert_eq!(address_set_to_message(name, members), canonical_set(bundle.set_address_sets[0].clone()));
    let wrong = v1::Bundle { extend_address_sets: web(vec![prefix([10, 0, 0, 1], 24)]), ..Default::default() };
    assert_eq!(set_changes_from_message(&wrong).unwrap_err().field, "extend_address_sets[0].members[0].address");
}

/// Protocols a random rule can be about: the exact matches that make other fields mean something.
fn protocols() -> Vec<Vec<v1::FieldMatch>> {
    let family = |ether_type: [u8; 2]| vec![exact(Field::EthType, &ether_type)];
    let mut all = vec![vec![], family([8, 6]), vec![exact(Field::VlanTci, &[0x10, 7])]];
    for ether_type in [[8, 0], [0x86, 0xdd]] {
        all.push(family(ether_type));
        all.extend([1, 6, 17, 58, 132].map(|protocol| with(family(ether_type), exact(Field::IpProto, &[protocol]))));
    }
    let icmpv6 = with(family([0x86, 0xdd]), exact(Field::IpProto, &[58]));
    all.extend([135, 136].map(|kind| with(icmpv6.clone(), exact(Field::Icmpv6Type, &[kind]))));
    all
}

prop_compose! {
    /// A row, a value and a mask that fit it; a mask of all ones half of the time.
    fn random_operand()(index in 0..FIELDS.len(), value in any::<[u8; 16]>(), mask in any::<[u8; 16]>(), exact in any::<bool>())
        -> (&'static FieldInfo, Vec<u8>, Vec<u8>)
    {
        let row = &FIELDS[index];
        let full = row.full_mask();
        let mut mask: Vec<u8> = if exact { full.to_vec() } else { full.iter().zip(mask).map(|(full, mask)| full & mask).collect() };
        if mask.iter().all(|&byte| byte == 0) {
            mask = full.to_vec();
        }
        let value = mask.iter().zip(value).map(|(mask, value)| mask & value).collect();
        (row, value, mask)
    }
}

prop_compose! {
    fn random_rule()(
        protocol in proptest::sample::select(protocols()),
        operands in proptest::collection::vec(random_operand(), 0..8),
        sets in proptest::collection::vec((random_operand(), any::<bool>()), 0..8),
        table in 0_u32..254, priority in 0_u32..=65_535, cookie in any::<u64>(), fabric in any::<bool>(),
        life in any::<(u16, u16, bool)>(),
        metadata in any::<[u64; 2]>(), clear in any::<bool>(), goto in any::<bool>(), address_set in any::<bool>(),
    ) -> v1::Rule {
        let known = match_from_message(&protocol).expect("protocols are right").0;
        let mut matches = protocol;
        for (row, value, mask) in operands {
            let named = matches.iter().any(|earlier| earlier.field == i32::from(row.field));
            if !named && row.field != Field::InPort && present(row, &known) {
                matches.push(masked(row.field, &value, &mask));
            }
        }
        let ipv4 = matches.iter().any(|matched| matched.field() == Field::EthType && matched.value == [8, 0] && known.eth_type == [8, 0]);
        if ipv4 && address_set && !matches.iter().any(|matched| matched.field() == Field::Ipv4Dst) {
            matches.push(in_set(Field::Ipv4Dst, "web"));
        }
        // Rules of the fabric have no timeouts.
        let life = if fabric { Default::default() } else { life };
        let (mut apply, mut write) = (vec![wire(Wire::DhcpReply(offer()))], vec![wire(Wire::PopVlan(v1::PopVlan {}))]);
        for ((row, value, mask), at_once) in sets {
            if row.writable && present(row, &known) {
                let set = wire(Wire::SetField(v1::SetField { field: row.field.into(), value, mask }));
                if at_once { apply.push(set) } else { write.push(set) }
            }
        }
        v1::Rule {
            table, priority, cookie,
            r#match: matches,
            instructions: Some(v1::Instructions {
                apply_actions: apply,
                clear_actions: clear,
                write_actions: write,
                metadata: metadata[0],
                metadata_mask: metadata[1],
                goto_table: goto.then_some(table + 1),
            }),
            owner: if fabric { v1::Owner::Fabric } else { v1::Owner::Manual }.into(),
            idle_timeout_seconds: life.0.into(),
            hard_timeout_seconds: life.1.into(),
            notify_removal: life.2,
        }
    }
}

proptest! {
    #[test]
    fn every_rule_comes_back_in_canonical_form(rule in random_rule()) {
        let engine = rule_from_message(&rule, 0).expect("the rule is right");
        prop_assert!(engine.id.matched.mask().covers(&engine.id.matched.value()));
        let back = to_message(&engine);
        prop_assert_eq!(&back, &canonical(rule));
        prop_assert_eq!(&canonical(back.clone()), &back);
        let again = rule_from_message(&back, 0).expect("what we give we take");
        prop_assert_eq!(again.id, engine.id);
        prop_assert_eq!(again.instructions, engine.instructions);
        prop_assert_eq!(again.life, engine.life);
    }

    #[test]
    fn no_bytes_from_outside_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        use prost::Message as _;
        if let Ok(rule) = v1::Rule::decode(bytes.as_slice()) {
            let _ = rule_from_message(&rule, 0);
            let _ = key_from_packet(&rule.r#match);
        }
    }
}
