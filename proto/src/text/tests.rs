//! Examples of the syntax in both directions, of its errors, and the properties it must have.

use super::*;
use crate::field::{FIELDS, FieldInfo, info};
use crate::v1::{self, Field, FieldMatch, action::Action as Kind};
use proptest::prelude::*;

/// A line and how it comes back.
fn round(line: &str) -> String {
    format_rule(&parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}")))
}

fn refused(line: &str) -> (String, String) {
    let fault = parse_rule(line).expect_err(line);
    (fault.field.clone(), format!("{}. {}", fault.problem, fault.remedy))
}

#[test]
fn lines_come_back_as_they_were_written() {
    for line in [
        "table=0,priority=100,in_port=1,tcp,ip_src=10.0.0.0/24,tcp_dst=80,actions=dec_ttl,set_field:02:00:00:00:00:01->eth_dst,output:2",
        "cookie=0x1f,table=10,owner=fabric,priority=0,actions=drop",
        "table=0,priority=1,metadata=0x5/0xff,reg0=0x64,tun_id=100,tun_src=10.0.0.1,tun_dst=10.0.0.0/8,actions=output:1",
        "table=0,priority=1,eth_src=01:00:00:00:00:00/01:00:00:00:00:00,eth_type=0x88cc,actions=controller:128",
        "table=0,priority=1,vlan_tci=0x1000/0x1000,actions=pop_vlan,output:1",
        "table=0,priority=1,dl_vlan=5,dl_vlan_pcp=3,actions=mod_vlan_vid:7,mod_vlan_pcp:2,IN_PORT",
        "table=0,priority=1,arp,arp_op=1,arp_spa=10.0.0.1,actions=arp_reply:02:00:00:00:00:01",
        "table=0,priority=1,ip,ip_src=@web,nw_tos=184,ip_frag=later,actions=mod_nw_tos:8,output:3",
        "table=0,priority=1,tcp6,ipv6_src=2001:db8::/32,ipv6_label=0xabcde,tcp_flags=+syn-ack,actions=drop(policy)",
        "table=0,priority=1,icmp6,icmpv6_type=135,nd_target=fe80::1,nd_sll=02:00:00:00:00:01,actions=drop(spoofed)",
        "table=0,priority=1,udp,ip_src=10.0.0.0/255.0.255.0,udp_dst=0x40/0xffc0,actions=punt(max_len=64,reason=2)",
        "table=0,priority=1,actions=push_vlan:0x8100,set_field:0x1005->vlan_tci,IN_PORT",
        "table=0,priority=1,actions=output:1,clear_actions,write_actions(set_field:0x1->reg0,output:2),write_metadata:0x1/0xf,goto_table:9",
        "table=0,priority=1,ip,actions=dec_ttl(answer=10.0.0.1),check_mtu(1450,answer=10.0.0.1,fragment),output:2",
        "table=0,priority=1,ip,actions=check_mtu(68),check_mtu(1450,fragment),check_mtu(1450,answer=10.0.0.1),output:2",
        "table=0,priority=1,ip,actions=clone(dec_ttl,set_field:0x1->reg1,goto_table:9),clone(clone(output:1),output:2),group:7,IN_PORT",
        "table=0,priority=1,actions=output:1,write_actions(group:7)",
        "table=0,priority=1,icmp,icmp_type=8,actions=icmp_reply",
        "table=0,priority=1,udp,actions=icmp_unreachable(code=port,answer=10.0.0.1)",
        "table=0,priority=1,ip,actions=neighbour(port=1,source=192.0.2.1,mac=02:00:00:00:00:01),output:1",
        "table=0,priority=1,ip,actions=neighbour(port=1,source=192.0.2.1,mac=02:00:00:00:00:01,vlan=7,hop=192.0.2.254)",
        "table=0,priority=1,arp,actions=learn_neighbour,output:2",
        "table=0,priority=1,arp,actions=learn_neighbour(port=1,vlan=7)",
        "table=0,priority=1,ip,actions=translate(src=192.0.2.10),goto_table:1",
        "table=0,priority=1,udp,actions=translate(src=192.0.2.10,dst=10.0.0.5),goto_table:1",
        "table=0,idle_timeout=60,hard_timeout=600,send_flow_rem,priority=1,in_port=1,actions=meter:7,output:2",
        "cookie=0x1,table=0,owner=manual,idle_timeout=65535,priority=1,actions=drop",
        "table=0,priority=1,ip,actions=write_actions(icmp_unreachable(code=admin,answer=10.0.0.1))",
        "table=0,priority=1,udp,udp_dst=67,actions=dhcp_reply(address=10.0.0.5/24,server=10.0.0.2,mac=02:00:00:00:00:02,router=10.0.0.1,dns=1.1.1.1;9.9.9.9,mtu=1450,lease=86400,host=web-1,domain=a.example,route=10.1.0.0/16>10.0.0.1;0.0.0.0/0>10.0.0.1)",
    ] {
        assert_eq!(round(line), line);
    }
}

#[test]
fn other_spellings_mean_the_same() {
    for (line, same) in [
        (
            "in_port=1,ip,nw_src=10.0.0.5/24,tcp,tp_dst=80 actions=2",
            "in_port=1,tcp,ip_src=10.0.0.0/24,tcp_dst=80,actions=output:2",
        ),
        ("dl_type=0x800,nw_proto=17,tp_src=0x35,actions=in_port", "udp,udp_src=53,actions=IN_PORT"),
        ("tp_dst=80,tcp,actions=drop", "tcp,tcp_dst=80,actions=drop"),
        (
            "arp,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_proto=2,actions=drop",
            "arp,arp_op=2,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,actions=drop",
        ),
        ("icmp6,icmp_type=128,icmp_code=0,actions=drop", "icmp6,icmpv6_type=128,icmpv6_code=0,actions=drop"),
        ("vlan_vid=0x1005,actions=strip_vlan", "dl_vlan=5,actions=pop_vlan"),
        ("vlan_vid=0x1000/0x1000,actions=drop", "vlan_tci=0x1000/0x1000,actions=drop"),
        ("dl_vlan=0xffff,actions=drop", "vlan_tci=0x0000,actions=drop"),
        ("actions=load:0x5->reg0[],resubmit(,4)", "actions=set_field:0x5->reg0,goto_table:4"),
        ("actions=set_field:4101->vlan_vid", "actions=mod_vlan_vid:5"),
        (
            "tcp,actions=mod_tp_dst:81,mod_nw_src:1.2.3.4,mod_dl_dst:2:0:0:0:0:1,mod_nw_ttl:9",
            "tcp,actions=set_field:81->tcp_dst,set_field:1.2.3.4->ip_src,set_field:02:00:00:00:00:01->eth_dst,set_field:9->ip_ttl",
        ),
        ("ip,nw_tos=184,nw_ecn=1,actions=drop", "ip,ip_tos=185,actions=drop"),
        ("ip,ip_src=0.0.0.0/0,actions=drop", "ip,actions=drop"),
        ("actions=output:IN_PORT", "actions=IN_PORT"),
        ("actions=meter(4294901760),output:1", "actions=meter:4294901760,output:1"),
        ("ip,actions=CONTROLLER:0", "ip,actions=controller"),
    ] {
        assert_eq!(round(line), format!("table=0,priority=32768,{same}"));
    }
}

#[test]
fn groups_come_back_as_they_were_written() {
    let round = |line: &str| format_group(&parse_group(line).unwrap_or_else(|fault| panic!("{line}: {fault}")));
    for line in [
        "group_id=0,type=all",
        "group_id=1,owner=fabric,type=indirect,bucket=actions=drop",
        "group_id=7,type=select,bucket=weight:10,actions=output:2,bucket=weight:20,watch_port:3,actions=dec_ttl,output:3",
        "group_id=4294967040,owner=manual,type=fast_failover,bucket=watch_port:2,actions=set_field:10.0.0.1->tun_dst,output:20",
    ] {
        assert_eq!(round(line), line);
    }
    for (line, same) in [
        (
            "group_id=1,type=select,bucket=output:2,bucket=3",
            "group_id=1,type=select,bucket=weight:1,actions=output:2,bucket=weight:1,actions=output:3",
        ),
        (
            "type=ff group_id=0x2 bucket=watch_port:5,action=5",
            "group_id=2,type=fast_failover,bucket=watch_port:5,actions=output:5",
        ),
        (
            "group_id=3,n_packets=5,rules=2,type=all,bucket=mod_nw_src:1.2.3.4,mod_vlan_vid:5,output:1",
            "group_id=3,type=all,bucket=actions=set_field:1.2.3.4->ip_src,mod_vlan_vid:5,output:1",
        ),
    ] {
        assert_eq!(round(line), same);
    }
}

#[test]
fn errors_in_groups_name_place_problem_and_remedy() {
    for (line, at, part) in [
        ("type=all", 9, "Add group_id=N"),
        ("group_id=1", 11, "Add type=all, select, indirect or fast_failover"),
        ("group_id=1,type=selct", 17, "Did you mean \"select\"?"),
        ("group_id=1,group_id=2,type=all", 12, "given twice"),
        ("group_id=4294967295,type=all", 10, "there is no group 4294967295. Write 0 to 4294967040."),
        ("group_id=99999999999,type=all", 10, "Write 0 to 4294967040."),
        ("group_id=1,type=all,buckt=output:1", 21, "Did you mean \"bucket\"?"),
        ("group_id=1,type=select,bucket=weight:0,output:1", 38, "Write 1 to 65535"),
        ("group_id=1,type=select,bucket=weight:5,weight:6,output:1", 40, "given twice"),
        ("group_id=1,type=all,bucket=ct(zone=1)", 28, "cannot track connections"),
        ("group_id=1,type=all,bucket=group:2", 28, "lead to a group"),
        ("group_id=1,type=all,bucket=meter:2", 28, "cannot track connections, meter"),
        ("group_id=1,type=all,bucket=actions=", 28, "actions=drop"),
        ("group_id=1,type=all,bucket=output:1,outptu:2", 37, "Did you mean \"output\"?"),
    ] {
        let fault = parse_group(line).expect_err(line);
        let said = format!("{}. {}", fault.problem, fault.remedy);
        assert_eq!(
            (fault.field.as_str(), said.contains(part)),
            (format!("column {at}").as_str(), true),
            "{line}: {said}"
        );
    }
}

#[test]
fn clones_are_read_within_bounds() {
    for (line, part) in [
        ("actions=clone()", "nothing is to be done"),
        ("actions=clone", "is not how this action is written"),
        ("actions=clone(goto_table:5,output:1)", "Write goto_table last"),
        ("table=5,actions=clone(goto_table:5)", "leads back"),
        ("table=5,actions=clone(clone(goto_table=3))", "leads back"),
        ("actions=write_actions(clone(output:1))", "cannot be written into an action set"),
        ("actions=clone(write_actions(output:1))", "cannot be written into an action set"),
        ("actions=clone(dec_ttl)", "needs ip or ipv6"),
    ] {
        let (_, said) = refused(line);
        assert!(said.contains(part), "{line}: {said}");
    }
    let deep = |depth: usize| format!("actions={}output:1{}", "clone(".repeat(depth), ")".repeat(depth));
    assert!(parse_rule(&deep(16)).is_ok());
    assert!(refused(&deep(17)).1.contains("more than 16 clones"));
    assert!(refused(&deep(100_000)).1.contains("more than 16 clones"));
}

#[test]
fn a_line_of_a_dump_can_be_read_back() {
    let line = " cookie=0x1, duration=3s, table=10(port_security), n_packets=5, n_bytes=300, idle_age=2, idle_timeout=9, send_flow_rem, priority=7,ip,in_port=1 \
                actions=output:2 # port web-1: anti-spoofing, of network blue";
    assert_eq!(
        round(line),
        "cookie=0x1,table=10,idle_timeout=9,send_flow_rem,priority=7,in_port=1,ip,actions=output:2"
    );
}

#[test]
fn errors_name_place_problem_and_remedy() {
    let column = |number: usize| format!("column {number}");
    for (line, at, problem) in [
        ("in_port=1,nw_scr=10.0.0.1,actions=drop", 11, "\"nw_scr\" is not a match field. Did you mean \"nw_src\"?"),
        ("nw_src=10.0.0.0/24,actions=drop", 1, "nw_src needs ip. Write \"ip,nw_src=10.0.0.0/24\"."),
        (
            "tp_dst=80,actions=drop",
            1,
            "tp_dst needs tcp, udp or sctp. Write \"tcp,tp_dst=80\", or the same with udp or sctp.",
        ),
        (
            "ipv6,tp_dst=80,actions=drop",
            6,
            "tp_dst needs tcp, udp or sctp. Write \"tcp6,tp_dst=80\", or the same with udp or sctp.",
        ),
        ("ipv6,tcp,actions=drop", 6, "\"tcp\" contradicts \"ipv6\" at column 1. For IPv6 write \"tcp6\"."),
        (
            "arp,ip_ttl=1,actions=drop",
            5,
            "ip_ttl needs ip, but the rule matches arp. Match ip instead, or leave ip_ttl out.",
        ),
        ("icmp_type=8,actions=drop", 1, "icmp_type needs icmp. Write \"icmp,icmp_type=8\"."),
        (
            "nd_target=fe80::1,actions=drop",
            1,
            "nd_target needs icmp6,icmpv6_type=135. Write \"icmp6,icmpv6_type=135,nd_target=fe80::1\".",
        ),
        (
            "vlan_inner_tci=5,actions=drop",
            1,
            "vlan_inner_tci needs a VLAN tag. Write \"vlan_tci=0x1000/0x1000,vlan_inner_tci=5\".",
        ),
        (
            "in_port=1",
            10,
            "the rule says nothing about what to do. Add actions=…, for example actions=output:2 or actions=drop.",
        ),
        (
            "in_port=x,actions=drop",
            9,
            "in_port is \"x\", which is not a number of at most 32 bits. Write a decimal number, or a hexadecimal one after 0x.",
        ),
        ("ip,nw_src=10.0.0.0/33,actions=drop", 20, "ip_src has the prefix length 33. Write a length of 0 to 32."),
        (
            "ip,nw_src=fe80::1,actions=drop",
            11,
            "nw_src is an IPv4 address, fe80::1 is not. Write \"ipv6,ipv6_src=fe80::1\".",
        ),
        (
            "in_port=1,in_port=2,actions=drop",
            11,
            "\"in_port=2\" contradicts \"in_port=1\" at column 1. Keep one of them.",
        ),
        (
            "actions=normal",
            9,
            "\"normal\" is not an action of this switch. There is no learning bridge in here; match eth_dst and output to its port.",
        ),
        ("actions=ouput:1", 9, "\"ouput\" is not an action. Did you mean \"output\"?"),
        ("actions=output:0", 16, "0 is not a port. Write 1 to 4294967040, or IN_PORT."),
        (
            "actions=drop,output:1",
            9,
            "\"drop\" stands for no actions at all, but others are written beside it. Remove the others, or drop under a cause: drop(policy).",
        ),
        ("actions=dec_ttl", 9, "dec_ttl needs ip or ipv6. Add ip or ipv6 to the rule's match."),
        ("ipv6,actions=check_mtu(1450)", 14, "check_mtu needs ip. Add ip to the rule's match."),
        (
            "ip,actions=check_mtu(67)",
            22,
            "an MTU of 67 bytes is less than any IPv4 link has. Write 68 or more (RFC 791).",
        ),
        (
            "ip,actions=dec_ttl(10.0.0.1)",
            12,
            "\"dec_ttl(10.0.0.1)\" is not how this action is written. Write dec_ttl or dec_ttl(answer=10.0.0.1).",
        ),
        (
            "ip,actions=icmp_unreachable(code=hots,answer=10.0.0.1)",
            34,
            "\"hots\" is not a code of ICMP's destination unreachable that a router sends. Write one of net, host, port, admin. Did you mean \"host\"?",
        ),
        ("actions=ct(zone=1,nat)", 9, "nat needs ip. Add ip to the rule's match."),
        (
            "ip,actions=ct(commit,zone=1,nat(src=10.0.0.1:9-5))",
            37,
            "there is no port from 9 to 5. Write the smaller number first.",
        ),
        (
            "ip,actions=ct(zone=1,nat(dst=10.0.0.1))",
            12,
            "follow_policy, mark and the addresses of nat are of the connection that ct begins. Add commit.",
        ),
        ("actions=set_field:1.2.3.4->ip_src", 9, "setting ip_src needs ip. Add ip to the rule's match."),
        ("actions=set_field:1->in_port", 9, "in_port cannot be set. Match it instead, or leave this out."),
        (
            "actions=goto_table:3,output:1",
            22,
            "output is executed before goto_table, but written after it. Write output:1 first.",
        ),
        (
            "table=3,actions=goto_table:3",
            17,
            "goto_table:3 in a rule of table 3 leads back. Go to a table of 4 to 254.",
        ),
        ("actions=write_actions(output:1", 22, "\"(\" is never closed. Close it with \")\"."),
        (
            "prioriti=5,actions=drop",
            1,
            "\"prioriti\" is neither a match field nor a setting of a rule. Did you mean \"priority\"?",
        ),
        ("importance=5,actions=drop", 1, "rules have no importance here. Leave it out."),
        (
            "actions=dhcp_reply(address=10.0.0.5/24,server=10.0.0.2)",
            9,
            "dhcp_reply needs mac. Write at least dhcp_reply(address=10.0.0.5/24,server=10.0.0.2,mac=02:00:00:00:00:02,lease=86400).",
        ),
        (
            "tcp_dst,actions=drop",
            1,
            "tcp_dst has no value. Write \"tcp_dst=VALUE\", or leave it out to match anything.",
        ),
    ] {
        assert_eq!(refused(line), (column(at), problem.to_owned()), "{line}");
    }
}

#[test]
fn packets_have_one_value_a_field() {
    let packet = parse_packet("in_port=1,tcp,nw_dst=10.0.0.5,tp_dst=80,dl_vlan=5,tcp_flags=+syn").unwrap();
    assert_eq!(format_match(&packet), "in_port=1,tcp,dl_vlan=5,dl_vlan_pcp=0,ip_dst=10.0.0.5,tcp_dst=80,tcp_flags=0x2");
    assert!(packet.iter().all(|matched| matched.mask.is_empty()));
    for several in ["ip,nw_dst=10.0.0.0/24", "ip,nw_dst=@web", "ip,ip_frag=yes", "tcp,tcp_flags=0x2/0x2"] {
        assert_eq!(parse_packet(several).unwrap_err().code, "bad_value", "{several}");
    }
}

#[test]
fn filters_take_settings_and_matches() {
    let filter = parse_filter("table=10,cookie=0x5/-1,ip", false).unwrap();
    assert_eq!((filter.table, filter.cookie, filter.r#match.len()), (Some(10), Some(5), 1));
    assert_eq!(parse_filter("actions=drop", false).unwrap_err().code, "bad_filter");
    assert_eq!(parse_filter("", false).unwrap(), v1::DumpRulesRequest::default());
    assert_eq!(parse_filter("priority=5", false).unwrap_err().code, "bad_filter");
    assert_eq!(parse_filter("priority=5", true).unwrap().priority, 5);
    assert_eq!(parse_filter("ip", true).unwrap().priority, DEFAULT_PRIORITY);
}

#[test]
fn foreign_bytes_are_printed_not_refused() {
    let odd = FieldMatch { field: Field::EthSrc.into(), value: vec![1], mask: vec![2, 3], ..Default::default() };
    assert_eq!(format_match(&[odd]), "eth_src=0x01/0x0203");
    assert_eq!(format_match(&[FieldMatch { field: 99, ..Default::default() }]), "field99=?");
    let reply = v1::DhcpReply { host_name: "a b,c)".into(), ..Default::default() };
    let text = format_action(&v1::Action { action: Some(Kind::DhcpReply(reply)) });
    assert_eq!(text, "dhcp_reply(address=0x/0,server=0x,mac=0x,lease=0,host=a%20b%2cc%29)");
}

/// A value of a field and perhaps a mask, canonical: no bit outside the mask, no mask of all ones.
fn value_of(row: &'static FieldInfo) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let bytes = row.bytes;
    let random = || proptest::collection::vec(any::<u8>(), bytes);
    let prefix = (1..=row.bits).prop_map(move |length| value::prefix_mask(length, bytes));
    let mask = prop_oneof![
        3 => Just(row.full_mask().to_vec()),
        1 => random(),
        1 => prefix,
        1 => Just(row.full_mask().to_vec()).prop_map(|mask| mask.iter().map(|byte| byte & 0x1f).collect()),
    ];
    (random(), mask).prop_map(move |(value, mask)| {
        let full = row.full_mask();
        let mut mask: Vec<u8> = mask.iter().zip(full).map(|(mask, full)| mask & full).collect();
        if mask.iter().all(|byte| *byte == 0) {
            mask = full.to_vec();
        }
        let value = value.iter().zip(&mask).map(|(value, mask)| value & mask).collect();
        (value, if mask == full { Vec::new() } else { mask })
    })
}

/// Matches that satisfy every prerequisite: a protocol first, then any of the fields that it allows.
fn any_match() -> impl Strategy<Value = Vec<FieldMatch>> {
    let eth_type = prop_oneof![Just(0_u16), Just(0x0800), Just(0x86dd), Just(0x0806), Just(0x88cc)];
    let protocol = prop_oneof![Just(0_u8), Just(6), Just(17), Just(132), Just(1), Just(58), Just(47)];
    let nd_type = prop_oneof![Just(0_u8), Just(135), Just(136)];
    let fields: Vec<_> = FIELDS.iter().map(|row| proptest::option::weighted(0.2, value_of(row))).collect();
    let set = proptest::option::weighted(0.3, "[a-z][a-z0-9_.-]{0,8}");
    (eth_type, protocol, nd_type, fields, set).prop_map(|(eth_type, protocol, nd_type, values, set)| {
        let mut matches = Vec::new();
        let exact = |field: Field, value: &[u8]| FieldMatch {
            field: field.into(),
            value: value.to_vec(),
            ..FieldMatch::default()
        };
        if eth_type != 0 {
            matches.push(exact(Field::EthType, &eth_type.to_be_bytes()));
        }
        if matches!(eth_type, 0x0800 | 0x86dd) && protocol != 0 {
            matches.push(exact(Field::IpProto, &[protocol]));
        }
        if eth_type == 0x86dd && protocol == 58 && nd_type != 0 {
            matches.push(exact(Field::Icmpv6Type, &[nd_type]));
        }
        for (row, value) in FIELDS.iter().zip(values) {
            let Some((value, mask)) = value else { continue };
            let taken = matches.iter().any(|matched| matched.field() == row.field);
            if taken || !allowed(row, &matches) {
                continue;
            }
            let set = set.clone().filter(|_| row.field == Field::Ipv4Src);
            matches.push(match set {
                Some(address_set) => FieldMatch { field: row.field.into(), address_set, ..FieldMatch::default() },
                None => FieldMatch { field: row.field.into(), value, mask, ..FieldMatch::default() },
            });
        }
        matches
    })
}

/// The prerequisites, checked in the plainest way.
fn allowed(row: &FieldInfo, matches: &[FieldMatch]) -> bool {
    row.prerequisites.iter().all(|needed| {
        matches.iter().any(|matched| {
            let number = matched.value.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            matched.field() == needed.field
                && if needed.field == Field::VlanTci {
                    number & 0x1000 != 0
                } else {
                    matched.mask.is_empty() && needed.values.contains(&number)
                }
        })
    })
}

/// With clones, which stand in no action set.
fn any_action(matches: Vec<FieldMatch>) -> impl Strategy<Value = v1::Action> {
    let goto = || proptest::option::of(101..=254_u32);
    plain_action(matches).prop_recursive(3, 8, 3, move |inner| {
        (proptest::collection::vec(inner.clone(), 1..4), goto(), inner, any::<bool>()).prop_map(
            |(actions, goto_table, plain, clone)| {
                if clone { v1::Action { action: Some(Kind::Clone(v1::Clone { actions, goto_table })) } } else { plain }
            },
        )
    })
}

fn plain_action(matches: Vec<FieldMatch>) -> impl Strategy<Value = v1::Action> {
    let settable: Vec<&'static FieldInfo> =
        FIELDS.iter().filter(|row| row.writable && allowed(row, &matches)).collect();
    let set = proptest::sample::select(settable).prop_flat_map(|row| {
        value_of(row)
            .prop_map(move |(value, mask)| Kind::SetField(v1::SetField { field: row.field.into(), value, mask }))
    });
    let address = || proptest::collection::vec(any::<u8>(), 4);
    let mac = || proptest::collection::vec(any::<u8>(), 6);
    let route = (address(), 0..=32_u32, address())
        .prop_map(|(destination, prefix_length, next_hop)| v1::ClasslessRoute { destination, prefix_length, next_hop });
    let dhcp = (
        (address(), 0..=32_u32, address(), mac(), prop_oneof![Just(Vec::new()), address()]),
        proptest::collection::vec(address(), 0..3),
        any::<u16>(),
        any::<u32>(),
        any::<String>(),
        any::<String>(),
        proptest::collection::vec(route, 0..3),
    )
        .prop_map(|(addresses, dns_servers, mtu, lease_seconds, host_name, domain_name, routes)| {
            let (address, prefix_length, server_address, server_mac, router) = addresses;
            let mtu = mtu.into();
            Kind::DhcpReply(v1::DhcpReply {
                address,
                prefix_length,
                server_address,
                server_mac,
                router,
                dns_servers,
                mtu,
                lease_seconds,
                host_name,
                domain_name,
                routes,
            })
        });
    let port = prop_oneof![1..=crate::PORT_MAX, Just(crate::PORT_IN_PORT)];
    let ip = info(Field::IpTtl).is_some_and(|row| allowed(row, &matches));
    let ip4 = info(Field::Ipv4Src).is_some_and(|row| allowed(row, &matches));
    let address = || prop_oneof![Just(Vec::new()), any::<[u8; 4]>().prop_map(Vec::from)];
    let router = (0..4, any::<[u8; 4]>(), address(), 68..=0xffff_u32, any::<bool>()).prop_map(
        move |(which, from, answer, mtu, fragment)| match which {
            _ if !ip => Kind::PopVlan(v1::PopVlan {}),
            1 if ip4 => Kind::CheckMtu(v1::CheckMtu { mtu, answer, fragment }),
            2 if ip4 => Kind::IcmpReply(v1::IcmpReply {}),
            3 if ip4 => Kind::IcmpUnreachable(v1::IcmpUnreachable {
                code: [0, 1, 3, 13][mtu as usize % 4],
                answer: from.to_vec(),
            }),
            _ => Kind::DecTtl(v1::DecTtl { answer }),
        },
    );
    let end = (any::<[u8; 4]>(), 1..=0xffff_u32, 1..=0xffff_u32, any::<bool>());
    let translation = (proptest::option::of(end.clone()), proptest::option::of(end));
    let connection = (any::<u32>(), any::<bool>(), any::<bool>(), any::<u32>(), any::<bool>());
    let track =
        (connection, translation).prop_map(move |((zone, commit, follow, mark, nat), (source, destination))| {
            let source = source.filter(|_| nat && commit && ip4).map(|(address, one, other, ports)| {
                let (first_port, last_port) = if ports { (one.min(other), one.max(other)) } else { (0, 0) };
                v1::SourceNat { address: address.to_vec(), first_port, last_port }
            });
            let destination = destination.filter(|_| nat && commit && ip4).map(|(address, one, _, port)| {
                v1::DestinationNat { address: address.to_vec(), port: if port { one } else { 0 } }
            });
            let mark = if commit { mark } else { 0 };
            let (follow_policy, nat) = (commit && follow, nat && ip4);
            Kind::Ct(v1::ConnectionTrack { zone, commit, follow_policy, mark, nat, source, destination })
        });
    prop_oneof![
        port.prop_map(|port| Kind::Output(v1::Output { port })),
        set,
        prop_oneof![Just(0x8100_u32), Just(0x88a8)].prop_map(|ether_type| Kind::PushVlan(v1::PushVlan { ether_type })),
        router,
        (any::<u32>(), any::<u32>()).prop_map(|(max_length, reason)| Kind::Punt(v1::Punt { max_length, reason })),
        any::<u32>().prop_map(|max_length| Kind::Punt(v1::Punt { max_length, reason: 0 })),
        (0..4_i32).prop_map(|cause| Kind::Drop(v1::Drop { cause })),
        mac().prop_map(|mac| Kind::ArpReply(v1::ArpReply { mac })),
        any::<u32>().prop_map(|group| Kind::Group(v1::GroupAction { group })),
        (1..=crate::METER_MAX).prop_map(|meter| Kind::Meter(v1::MeterAction { meter })),
        track,
        dhcp,
    ]
    .prop_map(|kind| v1::Action { action: Some(kind) })
}

fn any_rule() -> impl Strategy<Value = v1::Rule> {
    any_match().prop_flat_map(|matches| {
        let apply = proptest::collection::vec(any_action(matches.clone()), 0..4);
        let write = proptest::collection::vec(plain_action(matches.clone()), 0..4);
        let instructions = (
            apply,
            any::<bool>(),
            write,
            any::<u64>(),
            any::<u64>(),
            proptest::option::of(101..=254_u32),
        )
            .prop_map(|(apply_actions, clear_actions, write_actions, metadata, metadata_mask, goto_table)| {
                let metadata = metadata & metadata_mask;
                v1::Instructions { apply_actions, clear_actions, write_actions, metadata, metadata_mask, goto_table }
            });
        let life = (0..=65535_u32, 0..=65535_u32, any::<bool>());
        (Just(matches.clone()), instructions, 0..=100_u32, 0..=65535_u32, any::<u64>(), 0..3_i32, life).prop_map(
            |(matches, instructions, table, priority, cookie, owner, life)| v1::Rule {
                table,
                priority,
                r#match: matches,
                instructions: Some(instructions),
                cookie,
                owner,
                idle_timeout_seconds: life.0,
                hard_timeout_seconds: life.1,
                notify_removal: life.2,
            },
        )
    })
}

fn any_group() -> impl Strategy<Value = v1::Group> {
    let action = any_match().prop_flat_map(plain_action);
    let fits = |action: &v1::Action| {
        use Kind::{Ct, Group, LearnNeighbour, Meter, Neighbour, Translate};
        !matches!(action.action, Some(Ct(_) | Group(_) | Meter(_) | Neighbour(_) | LearnNeighbour(_) | Translate(_)))
    };
    let actions = proptest::collection::vec(action.prop_filter("it stands in a bucket", fits), 0..4);
    let bucket = (1..=65535_u32, proptest::option::of(1..=crate::PORT_MAX), actions);
    (0..=crate::PORT_MAX, 1..=4_i32, proptest::collection::vec(bucket, 0..4), 0..3_i32).prop_map(
        |(id, kind, buckets, owner)| {
            let buckets = buckets.into_iter().map(|(weight, watch, mut actions)| {
                actions.iter_mut().for_each(crate::digest::canonical_action);
                let weight = if kind == v1::GroupType::Select as i32 { weight } else { 0 };
                v1::Bucket { weight, watch_port: watch.unwrap_or(0), actions }
            });
            v1::Group { id, r#type: kind, buckets: buckets.collect(), owner }
        },
    )
}

/// Pieces of the language, so that random text reaches the parser's depths.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(vec![
            "in_port", "nw_src", "tp_dst", "vlan_vid", "dl_vlan", "tcp_flags", "ip_frag", "ct(", "nat(src=", "tun_id", "reg0", "ipv6_src",
            "nw_tos", "cookie", "table", "owner", "priority", "actions=", "output:", "idle_timeout=", "send_flow_rem", "meter:", "set_field:", "->", "write_actions(",
            "dhcp_reply(", "route=", "host=", "resubmit(,", "goto_table:", "mod_vlan_vid:", "punt(", "drop(", ")", "(",
            "=", ",", "/", ":", ">", ";", "@", "%", "#", " ", "+", "-", "0x", "1", "10.0.0.1", "group_id=", "type=all", "bucket=", "weight:", "clone(", "group:", "fe80::1", "tcp", "ip",
            "ipv6", "arp", "+syn", "-1", "65535", "4096", "ß", "%f", "99999999999999999999", "255", "_",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_rule_survives_being_written(rule in any_rule()) {
        let canonical = crate::digest::canonical(rule);
        let text = format_rule(&canonical);
        match parse_rule(&text) {
            Ok(back) => prop_assert_eq!(back, canonical, "{}", text),
            Err(fault) => prop_assert!(false, "{}: {}", text, fault),
        }
    }

    #[test]
    fn every_group_survives_being_written(group in any_group()) {
        let text = format_group(&group);
        match parse_group(&text) {
            Ok(back) => prop_assert_eq!(back, group, "{}", text),
            Err(fault) => prop_assert!(false, "{}: {}", text, fault),
        }
    }

    #[test]
    fn every_match_survives_being_written(matches in any_match()) {
        let rule = crate::digest::canonical(v1::Rule { r#match: matches, ..Default::default() });
        let text = format_match(&rule.r#match);
        prop_assert_eq!(parse_match(&text).ok(), Some(rule.r#match), "{}", text);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in prop_oneof![fragments(), any::<String>()]) {
        let results =
            [parse_rule(&text).err(), parse_match(&text).err(), parse_packet(&text).err(), parse_filter(&text, true).err(), parse_group(&text).err(), parse_meter(&text).err()];
        for fault in results.into_iter().flatten() {
            prop_assert!(fault.field.starts_with("column "));
            prop_assert!(!fault.problem.ends_with('.') && fault.remedy.ends_with(['.', '?']), "{}", fault);
        }
    }

    #[test]
    fn what_is_accepted_is_written_and_accepted_again(text in fragments()) {
        if let Ok(rule) = parse_rule(&text) {
            prop_assert_eq!(parse_rule(&format_rule(&rule)).ok(), Some(rule));
        }
        if let Ok(group) = parse_group(&text) {
            prop_assert_eq!(parse_group(&format_group(&group)).ok(), Some(group));
        }
    }

    #[test]
    fn no_message_makes_a_formatter_panic(field in any::<i32>(), small in 0..50_i32, value: Vec<u8>, mask: Vec<u8>) {
        for field in [field, small] {
            let matched = FieldMatch { field, value: value.clone(), mask: mask.clone(), address_set: String::new() };
            prop_assert!(!format_match(&[matched.clone(), matched]).is_empty());
            let set = v1::SetField { field, value: value.clone(), mask: mask.clone() };
            let written = format_action(&v1::Action { action: Some(Kind::SetField(set)) });
            prop_assert!(written.contains(':'));
            prop_assert_eq!(info(Field::try_from(field).unwrap_or_default()).is_some(), (1..=FIELDS.len() as i32).contains(&field));
        }
    }
}
