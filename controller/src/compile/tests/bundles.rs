//! Bundles: that they lead from one state to another, whole or in parts.

use super::super::state::cut;
use super::*;
use crate::limits::BUNDLE_PART_BYTES;
use prost::Message as _;

/// What a switch does with a bundle.
pub(super) fn apply(state: &mut HostState, bundle: v1::Bundle) {
    if bundle.replace_owner == i32::from(v1::Owner::Fabric) {
        *state = HostState::default();
    }
    if !bundle.tables.is_empty() {
        state.tables = bundle.tables;
    }
    for number in &bundle.remove_ports {
        assert!(state.ports.remove(number).is_some(), "a port is removed that was there");
    }
    state.ports.extend(bundle.add_ports.into_iter().map(|port| (port.number, port)));
    for rule in &bundle.remove_rules {
        assert!(state.rules.remove(&state::RuleIdentity::of(rule)).is_some(), "a rule is removed that was there");
    }
    state.address_sets.retain(|name, _| !bundle.remove_address_sets.contains(name));
    let canonical = weft_proto::digest::canonical_set;
    state.address_sets.extend(bundle.set_address_sets.into_iter().map(|set| (set.name.clone(), canonical(set))));
    for extension in bundle.extend_address_sets {
        let set = state.address_sets.get_mut(&extension.name).expect("a set is extended that is there");
        set.members.extend(extension.members);
        *set = canonical(set.clone());
    }
    for gone in bundle.shrink_address_sets {
        let set = state.address_sets.get_mut(&gone.name).expect("a set is shrunk that is there");
        for member in gone.members {
            let place = set.members.iter().position(|known| *known == member).expect("a member goes that was there");
            set.members.remove(place);
        }
    }
    state.rules.extend(bundle.add_rules.into_iter().map(|rule| (state::RuleIdentity::of(&rule), rule)));
    for told in bundle.announcements {
        state.announcements.insert((told.port, told.vlan, told.address.clone()), told);
    }
    state.origins.extend(bundle.origins.into_iter().map(|origin| (origin.cookie, origin.text)));
}

/// Equal but for origins and announcements of what is no more, which nobody takes back.
pub(super) fn assert_same(mut held: HostState, wanted: &HostState, context: &str) {
    held.origins.retain(|cookie, _| wanted.origins.contains_key(cookie));
    held.announcements.retain(|place, _| wanted.announcements.contains_key(place));
    assert!(held == *wanted, "{context}");
}

fn digests(state: &HostState) -> v1::Digests {
    let mut tables: BTreeMap<u32, u64> = BTreeMap::new();
    for rule in state.rules.values() {
        let sum = tables.entry(rule.table).or_default();
        *sum = sum.wrapping_add(weft_proto::digest::of(rule));
    }
    v1::Digests {
        tables: tables.into_iter().map(|(table, rules)| v1::TableDigest { table, rules }).collect(),
        ports: weft_proto::digest::sum(state.ports.values()),
        address_sets: weft_proto::digest::sum(state.address_sets.values()),
        ..Default::default()
    }
}

#[test]
fn bundles_lead_where_they_should() {
    let scene = scene();
    let (one, two) = (scene.state(0), scene.state(1));
    let mut held = HostState::default();
    apply(&mut held, one.whole());
    assert_same(held.clone(), &one, "whole");
    assert!(is_empty(&one.bundle_to(&one)));
    apply(&mut held, one.bundle_to(&two));
    assert_same(held, &two, "step");
    assert!(one.agrees_with(&digests(&one)) && !one.agrees_with(&digests(&two)));
    // A table that holds nothing may be listed.
    let mut listed = digests(&one);
    listed.tables.push(v1::TableDigest { table: 99, rules: 0 });
    assert!(one.agrees_with(&listed));
    listed.ports += 1;
    assert!(!one.agrees_with(&listed));
}

#[test]
fn a_port_that_changes_goes_before_it_comes_again() {
    let scene = scene();
    let one = scene.state(0);
    let mut moved = one.clone();
    let number = scene.web[0].number;
    if let Some(v1::port_spec::Kind::Tap(tap)) = &mut moved.ports.get_mut(&number).unwrap().kind {
        tap.netns = "elsewhere".into();
    }
    let (step, unfinished) = one.step_towards(moved.clone());
    assert!(unfinished);
    let bundle = one.bundle_to(&step);
    assert_eq!((bundle.remove_ports.as_slice(), bundle.add_ports.len()), ([number].as_slice(), 0));
    let (last, unfinished) = step.step_towards(moved.clone());
    assert!(!unfinished && last == moved);
    let bundle = step.bundle_to(&last);
    assert_eq!((bundle.remove_ports.len(), bundle.add_ports.len()), (0, 1));
}

#[test]
fn large_bundles_are_cut_and_lose_nothing() {
    let mut whole = HostState::default();
    pipeline::lay(&mut whole);
    for index in 0..20_000_u32 {
        let cookie = rule::cookie("test", &index.to_string());
        whole.origin(cookie, format!("rule {index}"));
        whole.add(rule::RuleBuilder::new(40, 100, cookie).segment(index).apply(vec![output(index + 1)]));
    }
    let bundle = v1::Bundle { term: 3, generation: 7, base_generation: 6, ..whole.whole() };
    let parts = cut(bundle);
    assert!(parts.len() > 1);
    let mut held = HostState::default();
    let mut merged = v1::Bundle::default();
    for (index, part) in parts.iter().enumerate() {
        assert!(part.encoded_len() <= BUNDLE_PART_BYTES, "{}", part.encoded_len());
        assert_eq!((part.term, part.generation, part.base_generation), (3, 7, 6));
        assert_eq!(part.more, index + 1 < parts.len());
        merged.merge(part.encode_to_vec().as_slice()).unwrap();
    }
    apply(&mut held, merged);
    assert_same(held, &whole, "cut");
    assert_eq!(cut(v1::Bundle::default()), [v1::Bundle::default()]);
}
