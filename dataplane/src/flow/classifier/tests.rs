//! The classifier against a linear scan: small fields that overlap, and rule sets of the kinds there are.

use super::rule_sets::{Kind, RuleSet};
use super::*;
use crate::flow::action::Instructions;
use crate::flow::rule::{Life, RuleId};
use proptest::prelude::*;

/// A rule over three small fields, so that random rules overlap often.
fn rule(priority: u16, owner: Owner, values: [u8; 3], masks: [u8; 3]) -> Arc<Rule> {
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    mask.ip_proto = masks[0];
    mask.ip_tos = masks[1];
    mask.registers[3] = [0, 0, 0, masks[2]];
    value.ip_proto = values[0] & masks[0];
    value.ip_tos = values[1] & masks[1];
    value.registers[3] = [0, 0, 0, values[2] & masks[2]];
    Arc::new(Rule {
        id: RuleId { owner, table: 0, priority, matched: Match::new(&value, &mask), set: None },
        instructions: Arc::new(Instructions::default()),
        cookie: 0,
        created: 0,
        since: 0,
        life: Life::default(),
        counters: Arc::default(),
    })
}

fn place(rule: &Rule) -> Match {
    rule.id.matched.clone()
}

/// What decides between rules that match.
fn order(rule: &Arc<Rule>) -> (u16, Owner, u32) {
    (rule.id.priority, rule.id.owner, rule.id.matched.bits())
}

fn packet(values: [u8; 3]) -> FlowKey {
    let mut key = FlowKey::ZERO;
    key.ip_proto = values[0];
    key.ip_tos = values[1];
    key.registers[3] = [0, 0, 0, values[2]];
    key
}

fn any_rule() -> impl Strategy<Value = (u16, bool, [u8; 3], [u8; 3])> {
    let mask = prop_oneof![Just(0_u8), Just(0x0f), Just(0xff), Just(0x03)];
    (0..6_u16, any::<bool>(), prop::array::uniform3(0..20_u8), prop::array::uniform3(mask))
}

proptest! {
    /// The oracle is a linear scan over the rules visible at each version; and whatever agrees with
    /// the packet on the consulted bits gets the same rule.
    #[test]
    fn finds_what_a_linear_scan_finds(
        rules in prop::collection::vec(any_rule(), 1..40),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        packets in prop::collection::vec((prop::array::uniform3(0..20_u8), prop::array::uniform3(any::<u8>())), 1..40),
    ) {
        let mut classifier = Classifier::default();
        let mut live: Vec<(Arc<Rule>, u64, u64)> = Vec::new();
        for (version, &(priority, manual, values, masks)) in rules.iter().enumerate() {
            let rule = rule(priority, if manual { Owner::Manual } else { Owner::Fabric }, values, masks);
            classifier.insert(&place(&rule), rule.clone(), version as u64);
            live.push((rule, version as u64, u64::MAX));
        }
        let mut version = rules.len() as u64;
        for index in removed {
            let at = index.index(live.len());
            let expected = live[at].2 == u64::MAX;
            prop_assert_eq!(classifier.remove(&place(&live[at].0), &live[at].0, version), expected);
            if expected {
                live[at].2 = version;
                version += 1;
            }
        }
        for version in [0, version / 2, version] {
            for &(values, noise) in &packets {
                let key = packet(values);
                let mut consulted = FlowKey::ZERO;
                let found = classifier.lookup(&key, version, &mut consulted, &FlowKey::ZERO);
                let visible = live.iter().filter(|(_, added, removed)| *added <= version && version < *removed);
                let best = visible.filter(|(rule, ..)| rule.id.matched.matches(&key)).map(|(rule, ..)| order(rule)).max();
                prop_assert_eq!(found.map(order), best);
                let mut other = packet(noise);
                for (word, (own, mask)) in other.words_mut().iter_mut().zip(key.words().iter().zip(consulted.words())) {
                    *word = (*word & !mask) | (own & mask);
                }
                let again = classifier.lookup(&other, version, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO);
                prop_assert_eq!(found.map(Arc::as_ptr), again.map(Arc::as_ptr));
            }
        }
        for (rule, _, _) in &live {
            classifier.collect(&place(rule), version);
        }
        prop_assert_eq!(classifier.rules().count(), live.iter().filter(|(_, _, removed)| *removed == u64::MAX).count());
    }
}

#[test]
fn a_search_ends_when_nothing_better_can_follow() {
    let mut classifier = Classifier::default();
    for rule in [rule(10, Owner::Fabric, [6, 0, 0], [0xff, 0, 0]), rule(5, Owner::Fabric, [0, 1, 0], [0, 0xff, 0])] {
        classifier.insert(&place(&rule), rule.clone(), 0);
    }
    let mut consulted = FlowKey::ZERO;
    assert!(classifier.lookup(&packet([6, 1, 0]), 0, &mut consulted, &FlowKey::ZERO).is_some());
    assert_eq!((consulted.ip_proto, consulted.ip_tos), (0xff, 0));
}

#[test]
fn of_two_rules_of_one_priority_the_more_specific_wins_whatever_else_there_is() {
    let wide = rule(10, Owner::Fabric, [6, 0, 0], [0xff, 0, 0]);
    let narrow = rule(10, Owner::Fabric, [6, 1, 0], [0xff, 0xff, 0]);
    // They lift the one or the other's mask to the front.
    let others =
        [rule(20, Owner::Fabric, [9, 0, 0], [0xff, 0, 0]), rule(20, Owner::Fabric, [9, 9, 0], [0xff, 0xff, 0])];
    for order in [[&wide, &narrow], [&narrow, &wide]] {
        for other in &others {
            let mut classifier = Classifier::default();
            for rule in order.into_iter().chain([other]) {
                classifier.insert(&place(rule), rule.clone(), 0);
            }
            let found = classifier.lookup(&packet([6, 1, 0]), 0, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO);
            assert!(Arc::ptr_eq(found.unwrap(), &narrow));
        }
    }
}

#[test]
fn a_manual_rule_goes_before_a_fabric_rule_of_its_priority() {
    let mut classifier = Classifier::default();
    for owner in [Owner::Manual, Owner::Fabric] {
        let rule = rule(10, owner, [6, 0, 0], [0xff, 0, 0]);
        classifier.insert(&place(&rule), rule.clone(), 0);
    }
    let found = classifier.lookup(&packet([6, 0, 0]), 0, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO).unwrap();
    assert_eq!(found.id.owner, Owner::Manual);
}

fn of_set(priority: u16, matched: &Match) -> Arc<Rule> {
    Arc::new(Rule {
        id: RuleId { owner: Owner::Manual, table: 0, priority, matched: matched.clone(), set: None },
        instructions: Arc::new(Instructions::default()),
        cookie: 0,
        created: 0,
        since: 0,
        life: Life::default(),
        counters: Arc::default(),
    })
}

/// Rules come and go at random; now and then packets are looked up, and held against a linear scan.
fn hold_against_a_linear_scan(kind: Kind, count: usize, seed: u64) {
    let mut set = RuleSet::new(kind, count, seed);
    let mut classifier = Classifier::default();
    let mut live: Vec<Arc<Rule>> = Vec::new();
    let mut version = 1;
    for index in 0..count * 2 {
        let (priority, matched) = &set.rules[index % count];
        // Few priorities, so that many rules of one rank overlap.
        let rule = of_set(priority / 8192, matched);
        version += 1;
        if index < count || set.below(2) == 0 {
            classifier.insert(&place(&rule), rule.clone(), version);
            live.push(rule);
        }
        if set.below(3) == 0 {
            let gone = live.swap_remove(set.below(live.len() as u32) as usize);
            version += 1;
            assert!(classifier.remove(&place(&gone), &gone, version));
            classifier.collect(&place(&gone), version);
        }
        if index % 16 != 0 {
            continue;
        }
        let key = set.packet();
        let mut consulted = FlowKey::ZERO;
        let found = classifier.lookup(&key, version, &mut consulted, &FlowKey::ZERO);
        let best = live.iter().filter(|rule| rule.id.matched.matches(&key)).map(order).max();
        assert_eq!(found.map(order), best);
        for _ in 0..4 {
            let mut other = set.packet();
            for (word, (own, mask)) in other.words_mut().iter_mut().zip(key.words().iter().zip(consulted.words())) {
                *word = (*word & !mask) | (own & mask);
            }
            let again = classifier.lookup(&other, version, &mut FlowKey::ZERO.clone(), &FlowKey::ZERO);
            assert_eq!(found.map(Arc::as_ptr), again.map(Arc::as_ptr), "it agrees on what was consulted");
        }
    }
    assert_eq!(classifier.rules().count(), live.len());
    for rule in live {
        assert!(classifier.find(&rule.id.matched, |own| std::ptr::eq(own, &*rule)).is_some());
        assert!(classifier.remove(&place(&rule), &rule, version + 1));
        classifier.collect(&place(&rule), version + 1);
    }
    assert_eq!((classifier.rules().count(), classifier.masks(), classifier.tuples()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rule_sets_are_found_as_by_a_linear_scan(kind in prop::sample::select(&Kind::ALL), count in 1..1500_usize, seed in any::<u64>()) {
        hold_against_a_linear_scan(kind, count, seed);
    }
}

#[test]
fn rules_of_many_masks_share_few_tuples() {
    for kind in Kind::ALL {
        let set = RuleSet::new(kind, 20_000, 1);
        let mut classifier = Classifier::default();
        for (priority, matched) in &set.rules {
            classifier.insert(matched, of_set(*priority, matched), 1);
        }
        let (masks, tuples) = (classifier.masks(), classifier.tuples());
        assert!(masks > 300 && tuples * 4 < masks, "{kind:?}: {masks} masks, {tuples} tuples");
    }
}
