//! Security groups, their rules, and what guards ports: what is refused, and what follows.

use super::*;

fn group(name: &str) -> v1::CreateSecurityGroupRequest {
    v1::CreateSecurityGroupRequest { name: name.into(), ..Default::default() }
}

fn rule(group: &str, direction: &str, protocol: &str) -> v1::CreateSecurityGroupRuleRequest {
    v1::CreateSecurityGroupRuleRequest {
        security_group: group.into(),
        direction: direction.into(),
        protocol: protocol.into(),
        ..Default::default()
    }
}

fn update(port: &str) -> v1::UpdatePortRequest {
    v1::UpdatePortRequest { port: port.into(), ..Default::default() }
}

fn choice(groups: &[&str]) -> Option<v1::SecurityGroupChoice> {
    Some(v1::SecurityGroupChoice { groups: groups.iter().map(ToString::to_string).collect() })
}

fn pairs(addresses: &[&str]) -> Vec<v1::AddressPair> {
    addresses.iter().map(|text| v1::AddressPair { ip_address: (*text).into(), ..Default::default() }).collect()
}

impl Cloud {
    fn group(&mut self, name: &str) -> SecurityGroup {
        self.done(|model| model.create_security_group(&group(name), Uuid::new_v4()))
    }

    fn rule(&mut self, request: &v1::CreateSecurityGroupRuleRequest) -> SecurityGroupRule {
        self.done(|model| model.create_security_group_rule(request, Uuid::new_v4()))
    }

    fn update(&mut self, request: &v1::UpdatePortRequest) -> Port {
        self.done(|model| model.update_port(request))
    }
}

#[test]
fn every_project_has_its_default_group() {
    let mut cloud = Cloud::new();
    let default = cloud.0.find::<SecurityGroup>("default", "", "").unwrap().clone();
    let rules: Vec<String> = cloud.0.rules_of(default.id).map(ToString::to_string).collect();
    assert_eq!(rules.len(), 2);
    assert!(rules.contains(&"egress any".to_owned()) && rules.contains(&"ingress any".to_owned()));
    let fault = cloud.refused(|model| model.create_security_group(&group("default"), ID));
    assert_eq!(said(&fault), ("reserved_name", "name"));
    let fault = cloud.refused(|model| model.delete_security_group("default", ""));
    assert_eq!(said(&fault), ("in_use", "security_group"));
    let rename = v1::UpdateSecurityGroupRequest {
        security_group: "default".into(),
        name: Some("other".into()),
        ..Default::default()
    };
    assert_eq!(said(&cloud.refused(|model| model.update_security_group(&rename))), ("reserved_name", "name"));
    // It goes with its project; another group keeps the project.
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "p".into() }, Uuid::new_v4()));
    let own = v1::CreateSecurityGroupRequest { project: "p".into(), ..group("own") };
    cloud.done(|model| model.create_security_group(&own, Uuid::new_v4()));
    assert_eq!(said(&cloud.refused(|model| model.delete_project("p"))), ("in_use", "project"));
    cloud.done(|model| model.delete_security_group("own", "p"));
    cloud.done(|model| model.delete_project("p"));
    assert_eq!((cloud.0.security_groups.len(), cloud.0.security_group_rules.len()), (1, 2));
}

#[test]
fn a_group_is_named_described_and_stateful() {
    let mut cloud = Cloud::new();
    cloud.group("web");
    assert_eq!(said(&cloud.refused(|model| model.create_security_group(&group("web"), ID))), ("name_taken", "name"));
    let fault = cloud.refused(|model| {
        model.create_security_group(&v1::CreateSecurityGroupRequest { stateful: Some(false), ..group("x") }, ID)
    });
    assert_eq!(said(&fault), ("stateless_unsupported", "stateful"));
    for bad in ["two\nlines", &"x".repeat(256)] {
        let request = v1::CreateSecurityGroupRequest { description: bad.into(), ..group("x") };
        let fault = cloud.refused(|model| model.create_security_group(&request, ID));
        assert_eq!(said(&fault), ("bad_description", "description"));
    }
    cloud.group("db");
    let mut change =
        v1::UpdateSecurityGroupRequest { security_group: "db".into(), name: Some("web".into()), ..Default::default() };
    assert_eq!(said(&cloud.refused(|model| model.update_security_group(&change))), ("name_taken", "name"));
    change.name = Some("store".into());
    change.description = Some("of records".into());
    let changed = cloud.done(|model| model.update_security_group(&change));
    assert_eq!((changed.name.as_str(), changed.description.as_str()), ("store", "of records"));
    change.security_group = "store".into();
    assert_eq!(cloud.0.update_security_group(&change).unwrap().0, []);
}

#[test]
fn a_group_in_use_stays_and_who_uses_it_is_named() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let web = cloud.group("web");
    cloud.group("db");
    for name in ["a", "b", "c", "d"] {
        let request = v1::CreatePortRequest { security_groups: choice(&["web"]), ..port("blue", name) };
        cloud.done(|model| model.create_port(&request, Uuid::new_v4()));
    }
    let fault = cloud.refused(|model| model.delete_security_group("web", ""));
    assert_eq!((said(&fault), fault.status), (("in_use", "security_group"), tonic::Code::FailedPrecondition));
    assert!(fault.problem.contains("ports ") && fault.problem.ends_with("and 1 more"), "{fault}");
    for name in ["a", "b", "c", "d"] {
        cloud.done(|model| model.delete_port(name, ""));
    }
    let request = v1::CreateSecurityGroupRuleRequest { remote_group: "web".into(), ..rule("db", "ingress", "tcp") };
    let naming = cloud.rule(&request);
    let fault = cloud.refused(|model| model.delete_security_group("web", ""));
    assert!(fault.problem.contains("rules of group \"db\""), "{fault}");
    cloud.done(|model| model.delete_security_group_rule(&naming.id.to_string(), ""));
    // Its own rules do not hold it.
    cloud.rule(&v1::CreateSecurityGroupRuleRequest { remote_group: "web".into(), ..rule("web", "ingress", "") });
    cloud.done(|model| model.delete_security_group("web", ""));
    assert!(cloud.0.rules_of(web.id).next().is_none());
    assert_eq!(cloud.refused(|model| model.delete_security_group("web", "")).code, "unknown_security_group");
    let fault = cloud.refused(|model| model.delete_security_group_rule("web", ""));
    assert_eq!(said(&fault), ("unknown_security_group_rule", "rule"));
    assert!(fault.remedy.contains("weft group rule list"), "{fault}");
}

#[test]
fn rules_say_what_makes_sense() {
    let mut cloud = Cloud::new();
    cloud.group("web");
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "p".into() }, Uuid::new_v4()));
    let other = v1::CreateSecurityGroupRequest { project: "p".into(), ..group("theirs") };
    cloud.done(|model| model.create_security_group(&other, Uuid::new_v4()));
    type Request = v1::CreateSecurityGroupRuleRequest;
    let base = |protocol: &str| rule("web", "ingress", protocol);
    let cases: Vec<(Request, &str, &str)> = vec![
        (rule("none", "ingress", "tcp"), "unknown_security_group", "security_group"),
        (rule("web", "", "tcp"), "bad_direction", "direction"),
        (rule("web", "inwards", "tcp"), "bad_direction", "direction"),
        (Request { ether_type: "IPv6".into(), ..base("tcp") }, "ipv6_unsupported", "ether_type"),
        (Request { ether_type: "ARP".into(), ..base("tcp") }, "bad_ether_type", "ether_type"),
        (base("icmpv6"), "ipv6_unsupported", "protocol"),
        (base("256"), "bad_protocol", "protocol"),
        (base("+6"), "bad_protocol", "protocol"),
        (base("http"), "bad_protocol", "protocol"),
        (Request { port_range_max: Some(80), ..base("tcp") }, "bad_port_range", "port_range_min"),
        (Request { port_range_min: Some(80), ..base("") }, "bad_port_range", "port_range_min"),
        (Request { port_range_min: Some(80), ..base("icmp") }, "bad_port_range", "port_range_min"),
        (Request { port_range_min: Some(65_536), ..base("tcp") }, "bad_port_range", "port_range_min"),
        (
            Request { port_range_min: Some(1), port_range_max: Some(65_536), ..base("udp") },
            "bad_port_range",
            "port_range_max",
        ),
        (
            Request { port_range_min: Some(2), port_range_max: Some(1), ..base("sctp") },
            "bad_port_range",
            "port_range_max",
        ),
        (Request { icmp_code: Some(1), ..base("icmp") }, "bad_icmp", "icmp_code"),
        (Request { icmp_type: Some(8), ..base("tcp") }, "bad_icmp", "icmp_type"),
        (Request { icmp_type: Some(256), ..base("icmp") }, "bad_icmp", "icmp_type"),
        (Request { icmp_type: Some(3), icmp_code: Some(256), ..base("icmp") }, "bad_icmp", "icmp_code"),
        (Request { remote_ip_prefix: "10.0.0.1/8".into(), ..base("tcp") }, "bad_cidr", "remote_ip_prefix"),
        (Request { remote_ip_prefix: "fd00::/8".into(), ..base("tcp") }, "ipv6_unsupported", "remote_ip_prefix"),
        (Request { remote_group: "theirs".into(), ..base("tcp") }, "unknown_security_group", "remote_group"),
        (
            Request { remote_group: "web".into(), remote_ip_prefix: "10.0.0.0/8".into(), ..base("tcp") },
            "two_remotes",
            "remote_group",
        ),
        (Request { description: "\t".into(), ..base("tcp") }, "bad_description", "description"),
    ];
    for (request, code, field) in cases {
        let fault = cloud.refused(|model| model.create_security_group_rule(&request, ID));
        assert_eq!(said(&fault), (code, field), "{request:?}");
    }
    // What is the same, however it is written, is said once.
    cloud.rule(&Request { port_range_min: Some(1), port_range_max: Some(65_535), ..base("6") });
    let same = Request { remote_ip_prefix: "0.0.0.0/0".into(), ..base("tcp") };
    let fault = cloud.refused(|model| model.create_security_group_rule(&same, ID));
    assert_eq!((said(&fault), fault.status), (("rule_exists", "security_group"), tonic::Code::AlreadyExists));
    let single = cloud.rule(&Request { remote_ip_prefix: "10.0.0.5".into(), ..base("any") });
    assert_eq!(single.record().remote_ip_prefix, "10.0.0.5/32");
}

#[test]
fn rules_survive_being_stored() {
    let mut cloud = Cloud::new();
    cloud.group("web");
    type Request = v1::CreateSecurityGroupRuleRequest;
    let base = |protocol: &str| rule("web", "ingress", protocol);
    for request in [
        base(""),
        base("47"),
        Request { remote_group: "web".into(), ..base("tcp") },
        Request { port_range_min: Some(80), port_range_max: Some(90), ..base("udp") },
        Request { icmp_type: Some(3), icmp_code: Some(4), remote_ip_prefix: "10.0.0.0/8".into(), ..base("icmp") },
    ] {
        let made = cloud.rule(&request);
        assert_eq!(SecurityGroupRule::from_record(made.record()), Ok(made));
    }
    cloud.network("blue");
    let mut request = port("blue", "web");
    request.allowed_address_pairs = pairs(&["10.0.0.100", "10.9.0.0/16"]);
    request.allowed_address_pairs[1].mac_address = "00:00:5e:00:01:01".into();
    let made = cloud.done(|model| model.create_port(&request, Uuid::new_v4()));
    assert_eq!(Port::from_record(made.record()), Ok(made));
}

#[test]
fn ports_have_the_default_group_unless_others_are_said() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    cloud.group("web");
    let default = cloud.0.find::<SecurityGroup>("default", "", "").unwrap().id;
    let web = cloud.0.find::<SecurityGroup>("web", "", "").unwrap().id;
    let make = |cloud: &mut Cloud, name: &str, groups| {
        let request = v1::CreatePortRequest { security_groups: groups, ..port("blue", name) };
        cloud.done(|model| model.create_port(&request, Uuid::new_v4())).groups
    };
    assert_eq!(make(&mut cloud, "a", None), [default]);
    assert!(make(&mut cloud, "b", choice(&[])).is_empty());
    assert_eq!(make(&mut cloud, "c", choice(&["web", &web.to_string()])), [web]);
    let request = v1::CreatePortRequest { security_groups: choice(&["web", "none"]), ..port("blue", "x") };
    let fault = cloud.refused(|model| model.create_port(&request, ID));
    assert_eq!(said(&fault), ("unknown_security_group", "security_groups.groups[1]"));
    let many = vec!["web"; crate::limits::GROUPS_PER_PORT + 1];
    let request = v1::CreatePortRequest { security_groups: choice(&many), ..port("blue", "x") };
    assert_eq!(said(&cloud.refused(|model| model.create_port(&request, ID))), ("too_many", "security_groups"));
    assert_eq!(cloud.update(&v1::UpdatePortRequest { security_groups: choice(&["web"]), ..update("a") }).groups, [web]);
    // What is not said stays.
    assert_eq!(cloud.0.update_port(&update("a")).unwrap().0, []);
}

#[test]
fn port_security_off_takes_everything_away() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    cloud.group("web");
    let off = v1::CreatePortRequest { port_security_enabled: Some(false), ..port("blue", "x") };
    let mut with_groups = off.clone();
    with_groups.security_groups = choice(&["web"]);
    let fault = cloud.refused(|model| model.create_port(&with_groups, ID));
    assert_eq!(said(&fault), ("port_security_off", "security_groups"));
    let with_pairs = v1::CreatePortRequest { allowed_address_pairs: pairs(&["10.0.0.9"]), ..off.clone() };
    let fault = cloud.refused(|model| model.create_port(&with_pairs, ID));
    assert_eq!(said(&fault), ("port_security_off", "allowed_address_pairs"));
    let open = cloud.done(|model| model.create_port(&off, Uuid::new_v4()));
    assert!(!open.port_security && open.groups.is_empty());
    let fault = cloud.refused(|model| {
        model.update_port(&v1::UpdatePortRequest { security_groups: choice(&["web"]), ..update("x") })
    });
    assert_eq!(said(&fault), ("port_security_off", "security_groups"));
    let on = v1::UpdatePortRequest { port_security_enabled: Some(true), ..update("x") };
    assert_eq!(cloud.update(&on).groups.len(), 1);
    let set = v1::UpdatePortRequest {
        security_groups: choice(&["web"]),
        allowed_address_pairs: Some(v1::AddressPairs { pairs: pairs(&["10.0.0.9"]) }),
        ..update("x")
    };
    assert_eq!(cloud.update(&set).pairs.len(), 1);
    let off = v1::UpdatePortRequest { port_security_enabled: Some(false), ..update("x") };
    let open = cloud.update(&off);
    assert!(!open.port_security && open.groups.is_empty() && open.pairs.is_empty());
}

#[test]
fn address_pairs_are_ranges_of_hosts() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let cases = [
        ("0.0.0.0/0", "address_pair_too_wide"),
        ("10.0.0.0/7", "address_pair_too_wide"),
        ("224.0.0.0/8", "bad_address_pair"),
        ("127.0.0.1", "bad_address_pair"),
        ("10.0.0.1/24", "bad_cidr"),
        ("fd00::1", "ipv6_unsupported"),
        ("", "bad_cidr"),
    ];
    for (text, code) in cases {
        let request = v1::CreatePortRequest { allowed_address_pairs: pairs(&[text]), ..port("blue", "x") };
        let fault = cloud.refused(|model| model.create_port(&request, ID));
        assert_eq!(said(&fault), (code, "allowed_address_pairs[0].ip_address"), "{text}");
        assert!(code != "address_pair_too_wide" || fault.remedy.contains("turn port security off"), "{fault}");
    }
    let mut request = v1::CreatePortRequest { allowed_address_pairs: pairs(&["10.0.0.9"]), ..port("blue", "x") };
    request.allowed_address_pairs[0].mac_address = "01:00:5e:00:00:01".into();
    let fault = cloud.refused(|model| model.create_port(&request, ID));
    assert_eq!(said(&fault), ("bad_mac", "allowed_address_pairs[0].mac_address"));
    request.allowed_address_pairs = pairs(&["10.0.0.9", "10.0.0.9/32"]);
    let fault = cloud.refused(|model| model.create_port(&request, ID));
    assert_eq!(said(&fault), ("duplicate_pair", "allowed_address_pairs[1]"));
    let many: Vec<String> = (1..=11).map(|last| format!("10.0.0.{last}")).collect();
    request.allowed_address_pairs = pairs(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let fault = cloud.refused(|model| model.create_port(&request, ID));
    assert_eq!(said(&fault), ("too_many", "allowed_address_pairs"));
}

#[test]
fn a_plugged_port_keeps_its_name() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    cloud.host("one");
    cloud.port("blue", "web");
    cloud.port("blue", "db");
    let rename = |name: &str| v1::UpdatePortRequest { name: Some(name.into()), ..update("web") };
    assert_eq!(said(&cloud.refused(|model| model.update_port(&rename("db")))), ("name_taken", "name"));
    assert_eq!(said(&cloud.refused(|model| model.update_port(&rename("-")))), ("bad_name", "name"));
    cloud.plug("web", "one");
    assert_eq!(said(&cloud.refused(|model| model.update_port(&rename("new")))), ("in_use", "name"));
    assert_eq!(cloud.0.update_port(&rename("web")).unwrap().0, []);
}

#[test]
fn limits_of_groups_hold() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    cloud.group("web");
    let of_port = |port: usize| v1::CreateSecurityGroupRuleRequest {
        port_range_min: Some(u32::try_from(port).unwrap()),
        ..rule("web", "ingress", "tcp")
    };
    // One is there from the start.
    for port in 1..crate::limits::RULES_PER_GROUP {
        cloud.rule(&of_port(port));
    }
    let fault = cloud.refused(|model| model.create_security_group_rule(&of_port(60_000), ID));
    assert_eq!((fault.code.as_str(), fault.status), ("limit_reached", tonic::Code::ResourceExhausted));
    // 104 rules of a flow table each: three fit beside the others, with a port or without.
    cloud.group("wide");
    let wide = |protocol: &str| v1::CreateSecurityGroupRuleRequest {
        port_range_min: Some(1),
        port_range_max: Some(65_534),
        ..rule("wide", "ingress", protocol)
    };
    cloud.rule(&wide("tcp"));
    let both = v1::CreatePortRequest { security_groups: choice(&["web", "wide"]), ..port("blue", "web") };
    cloud.done(|model| model.create_port(&both, Uuid::new_v4()));
    assert_eq!(cloud.refused(|model| model.create_security_group_rule(&wide("udp"), ID)).code, "limit_reached");
    let only = v1::UpdatePortRequest { security_groups: choice(&["wide"]), ..update("web") };
    cloud.update(&only);
    cloud.rule(&wide("udp"));
    let both = v1::UpdatePortRequest { security_groups: choice(&["web", "wide"]), ..update("web") };
    assert_eq!(cloud.refused(|model| model.update_port(&both)).code, "limit_reached");
}
