//! Bundles: whole or not at all, by owner, by term and generation.

use super::*;

#[test]
fn a_bundle_with_one_bad_rule_changes_nothing() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let before = bench.rules();
    let mut bundle = v1::Bundle { add_ports: vec![port(3)], remove_ports: vec![2], ..Default::default() };
    bundle.add_rules = vec![rule(1, vec![], vec![output(3)]), rule(2, vec![exact(Field::TcpDst, &[0, 80])], vec![])];
    let fault = bench.manual(bundle).unwrap_err();
    assert_eq!(fault.field, "add_rules[1].match[0]");
    assert_eq!(bench.rules(), before);
    assert_eq!(bench.port_numbers(), [1, 2]);
    assert!(!bench.ports.peers.lock().unwrap().contains_key(&3), "the port was not even opened");
}

#[test]
fn neither_side_touches_what_the_other_made() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 1,
            add_ports: vec![port(3)],
            add_rules: vec![rule(1, vec![], vec![output(3)])],
            set_address_sets: vec![v1::AddressSet { name: "web".to_owned(), members: vec![] }],
            ..Default::default()
        })
        .unwrap();
    let refused = |bundle: v1::Bundle, owner: Owner| {
        let fault = bench.switch.apply(vec![bundle], owner).unwrap_err();
        (fault.code, fault.field)
    };
    let pair = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    let fabric_rule = v1::Rule { owner: v1::Owner::Fabric.into(), ..rule(7, vec![], vec![]) };
    let bundle = v1::Bundle { add_rules: vec![fabric_rule.clone()], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "add_rules[0].owner"));
    let bundle = v1::Bundle { remove_rules: vec![fabric_rule], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "remove_rules[0].owner"));
    let bundle = v1::Bundle { replace_owner: v1::Owner::Fabric.into(), ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "replace_owner"));
    let bundle = v1::Bundle { remove_ports: vec![3], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("port_taken", "remove_ports[0]"));
    let bundle = v1::Bundle { add_ports: vec![port(3)], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("port_taken", "add_ports[0]"));
    let bundle = v1::Bundle { add_ports: vec![named(8, "mem3")], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("name_taken", "add_ports"));
    let bundle = v1::Bundle { remove_address_sets: vec!["web".to_owned()], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Manual), pair("not_the_owner", "address_sets"));
    let bundle = v1::Bundle { term: 1, add_ports: vec![port(1)], ..Default::default() };
    assert_eq!(refused(bundle, Owner::Fabric), pair("port_taken", "add_ports[0]"));

    // A resynchronisation replaces what the fabric has, and only that.
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 2,
            replace_owner: v1::Owner::Fabric.into(),
            add_rules: vec![rule(2, vec![], vec![])],
            ..Default::default()
        })
        .unwrap();
    assert_eq!(bench.port_numbers(), [1, 2]);
    let owned: Vec<_> = bench
        .rules()
        .iter()
        .map(|state| state.rule.clone().unwrap())
        .map(|rule| (rule.priority, rule.owner()))
        .collect();
    assert_eq!(owned, [(100, v1::Owner::Manual), (2, v1::Owner::Fabric)]);
    assert_eq!(bench.switch.digests().address_sets, 0, "the set is gone");
    // RemoveRules leaves the fabric's alone.
    assert_eq!(bench.switch.remove_rules(&v1::DumpRulesRequest::default()).unwrap().rules_removed, 1);
    assert_eq!(bench.rules().len(), 1);
    let request = v1::DumpRulesRequest { owner: v1::Owner::Fabric.into(), ..Default::default() };
    assert_eq!(bench.switch.remove_rules(&request).unwrap_err().status, Code::PermissionDenied);
}

#[test]
fn old_leaders_and_wrong_bases_are_refused() {
    let bench = bench();
    let bundle =
        |term, generation, base_generation| v1::Bundle { term, generation, base_generation, ..Default::default() };
    bench.fabric(bundle(2, 10, 0)).unwrap();
    assert_eq!(bench.switch.position(), (2, 10));
    let code = |bundle| bench.fabric(bundle).map_err(|fault| (fault.code, fault.status));
    let failed = |code: &str| Err((code.to_owned(), Code::FailedPrecondition));
    assert_eq!(code(bundle(1, 11, 10)), failed("stale_term"));
    assert_eq!(code(bundle(2, 11, 9)), failed("generation_mismatch"));
    assert_eq!(bench.switch.position(), (2, 10));
    bench.fabric(bundle(3, 11, 10)).unwrap();
    assert_eq!(bench.switch.position(), (3, 11));
    // A bundle of a person has no position.
    bench.manual(v1::Bundle { term: 1, ..Default::default() }).unwrap();
    assert_eq!(bench.switch.position(), (3, 11));
}

#[test]
fn digests_are_those_of_the_messages() {
    use weft_proto::digest::{canonical, canonical_set, of, sum};
    let bench = bench();
    let fabric = |rule: v1::Rule| v1::Rule { owner: v1::Owner::Fabric.into(), ..rule };
    let rules = [fabric(rule(1, vec![from_port(3)], vec![output(3)])), fabric(rule(2, vec![], vec![]))];
    let spec = v1::PortSpec { owner: v1::Owner::Fabric.into(), ..port(3) };
    let prefix = |last| v1::Prefix { address: vec![10, 0, 0, last], length: 32 };
    let web = v1::AddressSet { name: "web".to_owned(), members: vec![prefix(2), prefix(1)] };
    bench
        .fabric(v1::Bundle {
            term: 1,
            generation: 4,
            add_rules: rules.to_vec(),
            add_ports: vec![spec.clone()],
            set_address_sets: vec![web.clone()],
            ..Default::default()
        })
        .unwrap();
    bench.manual(two_ports()).unwrap();
    let digests = bench.switch.digests();
    let rules: Vec<v1::Rule> = rules.into_iter().map(canonical).collect();
    assert_eq!(digests.tables, [v1::TableDigest { table: 0, rules: sum(&rules) }]);
    assert_eq!((digests.ports, digests.address_sets), (of(&spec), of(&canonical_set(web))));
    assert_eq!((digests.term, digests.generation), (1, 4));
}

#[test]
fn bundles_in_parts_are_one_bundle() {
    let bench = bench();
    let mut parts = Parts::new(Owner::Manual);
    let first = v1::Bundle { more: true, add_ports: vec![port(1)], ..Default::default() };
    assert!(parts.push(first).unwrap().is_none());
    let whole = parts.push(v1::Bundle { add_ports: vec![port(2)], ..Default::default() }).unwrap().unwrap();
    assert!(parts.is_empty());
    bench.switch.apply_whole(whole).unwrap();
    assert_eq!(bench.port_numbers(), [1, 2]);
    let endless = || v1::Bundle { more: true, ..Default::default() };
    let fault = (0..=crate::limits::BUNDLE_PARTS).find_map(|_| parts.push(endless()).err());
    assert_eq!(fault.unwrap().code, "bundle_too_large");
}
