//! What the walk decides, and what it says it depends on.

use super::{packet, rule, tables};
use crate::flow::matched::Match;
use crate::flow::resolve::Connected;
use crate::flow::tables::{Change, SetChange};
use weft_proto::text;

/// The effects of a packet, as text; or why it is dropped.
fn outcome(rules: &[&str], line: &str) -> String {
    let reply = tables(rules).trace(&(&packet(line)).into(), Connected::AsNew);
    let effects: Vec<String> = reply.effects.iter().map(text::format_effect).collect();
    if reply.drop_reason.is_empty() { effects.join(", ") } else { format!("drop {}", reply.drop_reason) }
}

fn consulted(rules: &[&str], line: &str) -> String {
    text::format_match(&tables(rules).trace(&(&packet(line)).into(), Connected::AsNew).consulted)
}

#[test]
fn priorities_tables_and_registers() {
    let rules = [
        "table=0,priority=10,in_port=1,actions=set_field:0x5->reg0,goto_table:3",
        "table=0,priority=5,actions=drop(policy)",
        "table=3,priority=10,reg0=0x5,ip,nw_dst=10.0.0.0/24,actions=output:2",
        "table=3,priority=1,reg0=0x5,actions=output:3",
    ];
    assert!(outcome(&rules, "in_port=1,tcp,ip_dst=10.0.0.7").starts_with("output:2"));
    assert!(outcome(&rules, "in_port=1,arp").starts_with("output:3"));
    assert_eq!(outcome(&rules, "in_port=2,tcp"), "drop policy");
    let seen = consulted(&rules, "in_port=1,tcp,ip_dst=10.0.0.7,tcp_dst=80");
    assert!(seen.contains("10.0.0.0/24") && !seen.contains("reg0") && !seen.contains("tcp_dst"), "{seen}");
}

#[test]
fn a_third_tag_comes_back_when_the_first_is_popped() {
    let rules = [
        "table=0,actions=push_vlan:0x8100,set_field:0x1009->vlan_tci,goto_table:1",
        "table=1,actions=strip_vlan,goto_table:2",
        "table=2,vlan_tci=0x1003/0x1fff,vlan_inner_tci=0x1005/0x1fff,actions=output:5",
        "table=2,vlan_tci=0x1003/0x1fff,vlan_inner_tci=0,actions=output:6",
    ];
    assert!(outcome(&rules, "in_port=1,vlan_tci=0x1003,vlan_inner_tci=0x1005,tcp").contains("output:5"));
    assert!(outcome(&rules, "in_port=1,vlan_tci=0x1003,tcp").contains("output:6"));
}

#[test]
fn a_miss_has_its_reason() {
    assert_eq!(outcome(&[], "in_port=1,tcp"), "drop table_miss");
    assert_eq!(outcome(&["table=0,actions=goto_table:9"], "in_port=1,tcp"), "drop table_miss");
    assert_eq!(outcome(&["table=0,in_port=1,actions=output:1"], "in_port=1,tcp"), "drop no_output");
    assert_eq!(outcome(&["table=0,actions=output:77"], "in_port=1,tcp"), "drop no_such_port");
    assert_eq!(outcome(&["table=0,actions=output:9"], "in_port=1,tcp"), "drop port_down");
    assert_eq!(outcome(&["table=0,actions=output:20"], "in_port=1,tcp"), "drop no_tunnel_destination");
    assert_eq!(outcome(&["table=0,actions=strip_vlan,output:2"], "in_port=1,tcp"), "drop bad_action");
    let unresolved = "table=0,actions=set_field:10.99.0.9->tun_dst,output:20";
    assert_eq!(outcome(&[unresolved], "in_port=1,tcp"), "drop neighbour_unresolved");
    assert_eq!(outcome(&["table=0,ip,actions=dec_ttl,output:2"], "in_port=1,tcp,ip_ttl=1"), "drop ttl_expired");
}

#[test]
fn output_to_the_ingress_port_needs_its_own_name() {
    assert!(outcome(&["table=0,actions=IN_PORT"], "in_port=1,tcp").starts_with("output:1"));
    assert!(outcome(&["table=0,actions=output:1,output:2,output:3"], "in_port=2,tcp").contains("output:1"));
    assert!(!outcome(&["table=0,actions=output:1,output:2,output:3"], "in_port=2,tcp").contains("output:2"));
}

#[test]
fn the_action_set_is_executed_in_openflow_order() {
    // Written output first, set-field later, in another table: set-field still goes before output.
    let rules = [
        "table=0,actions=write_actions(output:2),goto_table:1",
        "table=1,actions=write_actions(set_field:02:00:00:00:00:09->eth_dst),goto_table:2",
        "table=2,ip,actions=write_actions(output:3)",
        "table=2,priority=9,arp,actions=clear_actions",
    ];
    let done = outcome(&rules, "in_port=1,tcp");
    let (set, output) = (done.find("02:00:00:00:00:09").unwrap(), done.find("output:3").unwrap());
    assert!(set < output && !done.contains("output:2"), "{done}");
    assert_eq!(outcome(&rules, "in_port=1,arp"), "drop no_output");
}

#[test]
fn what_an_action_wrote_is_not_consulted_later() {
    let rules =
        ["table=0,ip,actions=set_field:10.0.0.9->ip_dst,goto_table:1", "table=1,ip,nw_dst=10.0.0.9,actions=output:2"];
    let seen = consulted(&rules, "in_port=1,tcp,ip_dst=1.2.3.4");
    assert!(!seen.contains("ip_dst") && !seen.contains("nw_dst"), "{seen}");
    // But what dec_ttl changed still depends on what it was.
    let rules = ["table=0,ip,actions=dec_ttl,goto_table:1", "table=1,ip,nw_ttl=63,actions=output:2"];
    assert!(outcome(&rules, "in_port=1,tcp,ip_ttl=64").contains("output:2"));
    assert!(consulted(&rules, "in_port=1,tcp,ip_ttl=64").contains("ttl=64"));
}

#[test]
fn tags_move_when_pushed_and_popped() {
    let rules = [
        "table=0,priority=2,vlan_tci=0x1000/0x1000,actions=strip_vlan,goto_table:1",
        "table=1,vlan_tci=0/0x1000,actions=push_vlan:0x8100,set_field:0x1007->vlan_tci,goto_table:2",
        "table=1,vlan_tci=0x1005/0x1fff,actions=output:5",
        "table=2,vlan_tci=0x1007/0x1fff,actions=output:7",
    ];
    assert!(outcome(&rules, "in_port=1,vlan_tci=0x1003,tcp").contains("output:7"));
    assert!(outcome(&rules, "in_port=1,vlan_tci=0x1003,vlan_inner_tci=0x1005,tcp").contains("output:5"));
}

#[test]
fn a_tunnel_needs_a_destination_and_gets_a_header() {
    let rules = ["table=0,actions=set_field:42->tun_id,set_field:10.99.0.2->tun_dst,output:20"];
    let reply = tables(&rules).trace(&(&packet("in_port=1,tcp")).into(), Connected::AsNew);
    let Some(weft_proto::v1::effect::Effect::Output(output)) = &reply.effects.last().unwrap().effect else { panic!() };
    assert_eq!((output.port, output.tunnel_id, output.tunnel_destination.as_slice()), (20, 42, &[10, 99, 0, 2][..]));
}

#[test]
fn address_sets_match_their_members_as_they_change() {
    let tables = tables(&["table=0,ip,nw_src=@web,actions=output:2", "table=0,priority=1,actions=output:3"]);
    let port = || match &tables.trace(&(&packet("in_port=1,tcp,ip_src=10.0.0.5")).into(), Connected::AsNew).effects[0]
        .effect
    {
        Some(weft_proto::v1::effect::Effect::Output(output)) => output.port,
        other => panic!("{other:?}"),
    };
    let change = |set| tables.commit(Change { sets: vec![set], ..Change::default() }).unwrap();
    assert_eq!(port(), 3, "a set that does not exist is empty");
    change(SetChange::Set("web".into(), vec![([10, 0, 0, 0].into(), 24), ([10, 9, 0, 0].into(), 16)]));
    assert_eq!(port(), 2);
    change(SetChange::Shrink("web".into(), vec![([10, 0, 0, 0].into(), 24)]));
    assert_eq!(port(), 3);
    change(SetChange::Extend("web".into(), vec![([10, 0, 0, 5].into(), 32)]));
    assert_eq!(port(), 2);
    change(SetChange::Remove("web".into()));
    assert_eq!(port(), 3);
    assert_eq!(tables.count(), 2);
}

#[test]
fn a_replaced_rule_keeps_what_it_counted() {
    let tables = tables(&["table=0,in_port=1,actions=output:2"]);
    tables.rules(|_| true)[0].counters.add(5, 500, 7);
    tables.commit(Change { add: vec![rule("table=0,in_port=1,actions=output:3")], ..Change::default() }).unwrap();
    let rules = tables.rules(|_| true);
    assert_eq!((rules.len(), rules[0].counters.read()), (1, (5, 500)));
    let again = tables.commit(Change { add: vec![rule("table=0,in_port=1,actions=output:3")], ..Change::default() });
    assert_eq!(again.unwrap().added, 0, "the same rule is there already");
}

#[test]
fn an_owner_is_replaced_without_touching_the_other() {
    use crate::flow::rule::Owner;
    let tables = tables(&["table=0,in_port=1,actions=output:2", "table=0,in_port=2,actions=output:1"]);
    let mut fabric = rule("table=0,in_port=3,actions=output:1");
    fabric.id.owner = Owner::Fabric;
    let done = tables.commit(Change { add: vec![fabric], replace_owner: Some(Owner::Fabric), ..Change::default() });
    assert_eq!(done.unwrap().removed, 0);
    let kept = rule("table=0,in_port=1,actions=output:2");
    let change = Change { add: vec![kept], replace_owner: Some(Owner::Manual), ..Change::default() };
    let done = tables.commit(change).unwrap();
    assert_eq!((done.added, done.removed, tables.count()), (0, 1, 2));
}

#[test]
fn a_large_set_changes_at_once() {
    let tables = tables(&["table=0,ip,nw_src=@web,actions=output:2"]);
    let members = |range: std::ops::Range<u32>| range.map(|last| ((0x0a00_0000 + last).into(), 32)).collect::<Vec<_>>();
    let began = std::time::Instant::now();
    for set in
        [SetChange::Set("web".into(), members(0..65_536)), SetChange::Shrink("web".into(), members(20_000..65_536))]
    {
        tables.commit(Change { sets: vec![set], ..Change::default() }).unwrap();
    }
    assert_eq!(tables.address_sets()[0].1.len(), 20_000);
    // Each member against each other one would be three billion comparisons.
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

/// A commit costs what it changes, also where the rules have many masks.
#[test]
fn a_bundle_of_many_rules_is_quick() {
    let tables = tables(&[]);
    let with = |number: u32, masks: u32| {
        let mut rule = rule("table=0,actions=output:2");
        rule.id.priority = (number % 1000) as u16;
        let (mut value, mut mask) = (rule.id.matched.value(), rule.id.matched.mask());
        mask.metadata = (u64::from(number % masks) + 1).to_be_bytes();
        (mask.ipv4_dst, value.ipv4_dst) = ([0xff; 4], number.to_be_bytes());
        rule.id.matched = Match::new(&value, &mask);
        rule
    };
    for masks in [1, 500] {
        let began = std::time::Instant::now();
        let add: Vec<_> = (0..100_000).map(|number| with(number, masks)).collect();
        let ids: Vec<_> = add.iter().map(|rule| rule.id.clone()).collect();
        let made = began.elapsed();
        tables.commit(Change { add, ..Change::default() }).unwrap();
        let added = began.elapsed();
        tables.commit(Change { remove: ids, ..Change::default() }).unwrap();
        let removed = began.elapsed();
        println!("{masks} masks: made {made:?}, added {:?}, removed {:?}", added - made, removed - added);
        assert_eq!(tables.count(), 0);
        assert!(removed - made < std::time::Duration::from_secs(20), "{masks} masks: {:?}", removed - made);
    }
}

#[test]
fn naming_a_rule_twice_does_not_widen_the_limits() {
    let tables = tables(&["table=0,in_port=1,actions=output:2"]);
    // Two changes of one set, each within its limit, together beyond it.
    let members =
        |third: u8| (0..40_000_u32).map(move |last| ((u32::from(third) << 16 | last).into(), 32)).collect::<Vec<_>>();
    let sets = vec![SetChange::Extend("web".into(), members(1)), SetChange::Extend("web".into(), members(2))];
    assert_eq!(tables.commit(Change { sets, ..Change::default() }).unwrap_err().code, "limit_exceeded");
    assert!(tables.address_sets().is_empty());
}

#[test]
fn sets_do_not_go_past_the_limits_of_masks_and_places() {
    let tables = tables(&[]);
    let lengths = || (0..=32_u8).map(|length| ([0, 0, 0, 0].into(), length)).collect::<Vec<_>>();
    let naming = |number: u8, web: &str| {
        let mut rule = rule(&format!("table=0,ip,nw_src=@{web},actions=output:2"));
        let mut mask = rule.id.matched.mask();
        mask.metadata[7] = number;
        rule.id.matched = Match::new(&rule.id.matched.value(), &mask);
        rule
    };
    let code = |change: Change| tables.commit(change).unwrap_err().code;
    // 130 masks are few, but each has every prefix length.
    let add = || (1..=130).map(|number| naming(number, "web")).collect::<Vec<_>>();
    let sets = || vec![SetChange::Set("web".into(), lengths())];
    assert_eq!(code(Change { add: add(), sets: sets(), ..Change::default() }), "limit_exceeded");
    tables.commit(Change { add: add(), ..Change::default() }).unwrap();
    assert_eq!(code(Change { sets: sets(), ..Change::default() }), "limit_exceeded");
    // A hundred rules are few, but each stands in the place of every member.
    let many = (0..50_000_u32).map(|last| (last.into(), 32)).collect();
    tables.commit(Change { sets: vec![SetChange::Set("many".into(), many)], ..Change::default() }).unwrap();
    let add = (0..100).map(|priority| {
        let mut rule = naming(1, "many");
        rule.id.priority = priority;
        rule
    });
    assert_eq!(code(Change { add: add.collect(), ..Change::default() }), "limit_exceeded");
    assert_eq!((tables.count(), tables.read().places), (130, 0));
    let one = naming(1, "many");
    tables.commit(Change { add: vec![one], ..Change::default() }).unwrap();
    let shrink = vec![SetChange::Shrink("many".into(), vec![([0, 0, 0, 7].into(), 32)])];
    tables.commit(Change { sets: shrink, ..Change::default() }).unwrap();
    assert_eq!(tables.read().places, 49_999);
    tables.commit(Change { remove: vec![naming(1, "many").id], ..Change::default() }).unwrap();
    assert_eq!(tables.read().places, 0);
}
