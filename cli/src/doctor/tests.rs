//! Each check on a cloud that is well, and on one with its fault.

use super::evidence::{DropKey, Switch};
use super::*;
use weft_proto::text;
use weft_proto::v1::{self, RuleState};

/// Hosts a and b; network blue with web on a and db on b; group default, which lets its ports in.
fn well() -> Evidence {
    let host = |name: &str, last: u8| v1::Host {
        id: name.into(),
        name: name.into(),
        connected: true,
        underlay_addresses: vec![v1::UnderlayAddress {
            address: format!("10.99.0.{last}"),
            interface: "eth0".into(),
            mtu: 1500,
            down: false,
        }],
        underlay_mtu: 1500,
        generation: 7,
        acknowledged_generation: 7,
        switch_version: "1".into(),
        certificate_expires: 400 * 86_400,
        ..v1::Host::default()
    };
    let port = |number: u32, name: &str, host: &str| v1::Port {
        id: name.into(),
        name: name.into(),
        number,
        network_id: "blue".into(),
        host_id: host.into(),
        status: "ACTIVE".into(),
        port_security_enabled: true,
        security_groups: vec!["default".into()],
        fixed_ips: vec![v1::FixedIp { subnet_id: "sub".into(), ip_address: format!("10.0.0.{number}") }],
        ..v1::Port::default()
    };
    let rule = |direction: &str, remote: &str| v1::SecurityGroupRule {
        direction: direction.into(),
        remote_group_id: remote.into(),
        ..v1::SecurityGroupRule::default()
    };
    let switch = || Switch {
        status: v1::SwitchStatus {
            clock_seconds: 86_400,
            chunks_total: 100,
            chunks_free: 90,
            runs_total: 10,
            runs_free: 10,
            ..v1::SwitchStatus::default()
        },
        ..Switch::default()
    };
    Evidence {
        controller: v1::ControllerStatus { version: "1".into(), clock_seconds: 86_400, ..Default::default() },
        hosts: vec![host("a", 1), host("b", 2)],
        switches: [("a".to_owned(), Ok(switch())), ("b".to_owned(), Ok(switch()))].into(),
        projects: Vec::new(),
        networks: vec![v1::Network {
            id: "blue".into(),
            name: "blue".into(),
            mtu: 1450,
            segment_type: "vxlan".into(),
            ..Default::default()
        }],
        subnets: vec![v1::Subnet {
            id: "sub".into(),
            name: "blue-v4".into(),
            cidr: "10.0.0.0/24".into(),
            network_id: "blue".into(),
            enable_dhcp: true,
            ..Default::default()
        }],
        ports: vec![port(1, "web", "a"), port(2, "db", "b")],
        groups: vec![v1::SecurityGroup {
            id: "default".into(),
            name: "default".into(),
            rules: vec![rule("egress", ""), rule("ingress", "default")],
            ..Default::default()
        }],
        routers: vec![v1::Router {
            name: "r".into(),
            interfaces: vec![v1::RouterInterface { subnet_id: "sub".into(), ..Default::default() }],
            routes: vec![v1::HostRoute { destination: "10.9.0.0/16".into(), nexthop: "10.0.0.2".into() }],
            ..Default::default()
        }],
        watched: Duration::from_secs(1),
    }
}

fn state(rule: &str, origin: &str, packets: u64) -> RuleState {
    RuleState { rule: Some(text::parse_rule(rule).unwrap()), origin: origin.into(), packets, ..RuleState::default() }
}

fn switch<'a>(evidence: &'a mut Evidence, host: &str) -> &'a mut Switch {
    evidence.switches.get_mut(host).unwrap().as_mut().unwrap()
}

type Plant = fn(&mut Evidence);

/// The check, what it must find, and how that comes about.
const FAULTS: &[(&str, &str, Plant)] = &[
    ("hosts are connected", "host b: it has gone", |cloud| cloud.hosts[1].note = "It has gone. Look.".to_lowercase()),
    ("hosts are connected", "host b: it has no address on the underlay", |cloud| {
        cloud.hosts[1].underlay_addresses.clear()
    }),
    ("hosts are connected", "host b: its underlay address 10.99.0.2 is down: eth0 is not up", |cloud| {
        cloud.hosts[1].underlay_addresses[0].down = true
    }),
    ("hosts are connected", "host a: it is not connected", |cloud| cloud.hosts[0].connected = false),
    ("switches answer", "host b: no answer in 15 s", |cloud| {
        cloud.switches.insert("b".into(), Err("no answer in 15 s. Look at its log.".into()));
    }),
    ("hosts run one version", "host b: its switch is of version 2, the controller of 1", |cloud| {
        cloud.hosts[1].switch_version = "2".into();
    }),
    ("switches have what they should", "host a: its switch is 2 behind", |cloud| {
        cloud.hosts[0].acknowledged_generation = 5;
    }),
    ("clocks agree", "host b: its clock is 60 s ahead of the controller's", |cloud| {
        switch(cloud, "b").status.clock_seconds += 60;
    }),
    ("certificates last", "host a: its certificate expires in 2 days", |cloud| {
        cloud.hosts[0].certificate_expires = 3 * 86_400;
    }),
    ("certificates last", "host a: its certificate has expired", |cloud| cloud.hosts[0].certificate_expires = 1),
    ("switches have buffers", "host b: 9 of its 100 buffers of 4 KB are free", |cloud| {
        switch(cloud, "b").status.chunks_free = 9;
    }),
    ("interfaces made by hand work", "host a, its port uplink: it is failed: no such interface", |cloud| {
        let spec = v1::PortSpec { name: "uplink".into(), owner: v1::Owner::Manual.into(), ..Default::default() };
        let state = "failed: no such interface. Make it.".into();
        cloud.hosts[0].ports.push(v1::PortStatus { spec: Some(spec), state, ..Default::default() });
    }),
    ("hosts reach each other", "underlay of host a: it does not reach 10.99.0.2, host b: nobody answers", |cloud| {
        let state = v1::NeighbourState { address: vec![10, 99, 0, 2], state: "failed".into(), ..Default::default() };
        switch(cloud, "a").unreached.push(state);
    }),
    (
        "underlays carry the networks' packets",
        "need 1450 on physical network lan, which carries 1400 at host b",
        |cloud| {
            (cloud.networks[0].segment_type, cloud.networks[0].physical_network) = ("vlan".into(), "lan".into());
            let lan = |mtu| v1::PhysicalNetwork { name: "lan".into(), mtu, ..Default::default() };
            cloud.hosts[0].physical_networks.push(lan(1450));
            cloud.hosts[1].physical_networks.push(lan(1400));
        },
    ),
    ("underlays carry the networks' packets", "network blue: its packets of 1450 bytes need 1500", |cloud| {
        cloud.hosts[1].underlay_mtu = 1400;
    }),
    ("ports are up", "port db: on host b it is ERROR: its namespace is gone", |cloud| {
        cloud.ports[1].status = "ERROR".into();
        cloud.ports[1].fault = "its namespace is gone. Make it.".into();
    }),
    ("subnets have free addresses", "subnet blue-v4: 2 of its 1 addresses are taken", |cloud| {
        cloud.subnets[0].cidr = "10.0.0.0/30".into();
    }),
    ("addresses belong to one port", "port web: it may send from 10.0.0.2, the address of port db", |cloud| {
        let pair = v1::AddressPair { ip_address: "10.0.0.0/30".into(), ..Default::default() };
        cloud.ports[0].allowed_address_pairs.push(pair);
    }),
    (
        "next hops are plugged",
        "router r: its route to 10.9.0.0/16 leads to 10.0.0.2, which is port db, which is not",
        |cloud| {
            cloud.ports[1].host_id.clear();
        },
    ),
    ("ways out have a host", "router r: nothing leaves by it: no host reaches its external network blue", |cloud| {
        let gateway = v1::ExternalGateway { network_id: "blue".into(), ..Default::default() };
        cloud.routers[0].external_gateway = Some(gateway);
    }),
    ("hosts reach each other", "host a, its port lan: next hop 203.0.113.1 does not answer ARP there", |cloud| {
        let state = v1::NeighbourState {
            address: vec![203, 0, 113, 1],
            interface: "lan".into(),
            state: "failed".into(),
            port: 7,
            ..Default::default()
        };
        switch(cloud, "a").unreached.push(state);
    }),
    ("next hops are plugged", "router r: its route to 10.9.0.0/16 leads to 10.0.0.77, which is no port", |cloud| {
        cloud.routers[0].routes[0].nexthop = "10.0.0.77".into();
    }),
    (
        "security groups name groups that ports have",
        "security group default: its rule ingress any is for the ports",
        |cloud| {
            cloud.groups[0].rules[1].remote_group_id = "nobody".into();
        },
    ),
    (
        "security groups let something in where something comes",
        "port db: its security groups (default) have no ingress rule",
        |cloud| {
            cloud.groups[0].rules.pop();
            let origin = "security group default: no rule lets it enter";
            let rule = state("table=71,priority=10,reg2=5,actions=drop(policy)", origin, 4);
            assert!(groups::is_refusal(&rule));
            switch(cloud, "b").refusals.push(rule);
        },
    ),
    ("rules made by hand do not override the fabric", "host a, rule by hand table=0,priority=9,ip", |cloud| {
        let switch = switch(cloud, "a");
        switch.by_hand.push(state("priority=9,ip,actions=drop", "", 3));
        switch.beside.push(state("priority=9,arp,actions=goto_table:1", "ARP", 0));
        switch.beside.push(state("priority=10,actions=goto_table:1", "before it", 0));
        switch.beside.push(state("priority=5,in_port=1,actions=goto_table:1", "port web", 0));
    }),
    ("nothing is dropped that should not be", "port web: 12 packets were dropped in 1 s as spoofed", |cloud| {
        let key: DropKey = (1, "web.1".into(), "spoofed".into());
        switch(cloud, "a").growth.insert(key.clone(), 12);
        switch(cloud, "a").growth.insert((1, "web.1".into(), "policy".into()), 99);
        switch(cloud, "a").drops.insert(key, (100, "Not its own.".into()));
    }),
];

#[test]
fn each_check_finds_its_fault_and_no_other_does() {
    assert_eq!(examine(&well()), []);
    for (check, expected, plant) in FAULTS {
        let mut cloud = well();
        plant(&mut cloud);
        let found = examine(&cloud);
        let checks: Vec<&str> = found.iter().map(|(check, _)| *check).collect();
        assert_eq!(checks, [*check], "{expected}: {found:#?}");
        let shown = render(&found);
        assert!(shown.contains(expected), "{shown}");
        assert!(!found[0].1.remedy.is_empty(), "{shown}");
    }
    for (check, _) in CHECKS {
        assert!(FAULTS.iter().any(|(known, ..)| known == check), "no fault is planted for: {check}");
    }
}

#[test]
fn findings_are_written_for_both_kinds_of_readers() {
    assert_eq!(render(&[]), format!("Nothing wrong found ({} checks).\n", CHECKS.len()));
    let found = [("ports are up", Finding::new("port x", "It broke.", "Mend it."))];
    assert_eq!(render(&found), "port x: It broke\n    Mend it.\n\n1 finding.\n");
    assert_eq!(value(&found)["findings"][0]["remedy"], "Mend it.");
    assert_eq!(Finding::of_fault("x", "It broke. Badly. Mend it."), Finding::new("x", "It broke. Badly", "Mend it."));
    assert_eq!(Finding::of_fault("x", "It broke."), Finding::new("x", "It broke", ""));
}

#[test]
fn ranges_have_their_addresses() {
    assert!(networks::covers("10.0.0.0/8", "10.9.9.9") && networks::covers("10.0.0.1", "10.0.0.1"));
    assert!(networks::covers("0.0.0.0/0", "10.0.0.1"));
    assert!(!networks::covers("10.0.0.0/24", "10.0.1.0") && !networks::covers("x", "10.0.0.1"));
}
