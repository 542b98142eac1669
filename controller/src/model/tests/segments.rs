//! How networks travel: what a network of each segment type needs, and where its ports can be.

use super::*;
use std::collections::BTreeMap;

fn of_type(name: &str, segment_type: &str) -> v1::CreateNetworkRequest {
    let physical = if ["vlan", "flat"].contains(&segment_type) { "provider" } else { "" };
    v1::CreateNetworkRequest { segment_type: segment_type.into(), physical_network: physical.into(), ..network(name) }
}

fn vlan(name: &str, vlan_id: u32) -> v1::CreateNetworkRequest {
    v1::CreateNetworkRequest { vlan_id, ..of_type(name, "vlan") }
}

fn report(last: u8, physical: &[(&str, &str, u32)]) -> HostReport {
    let place = |interface: &str, mtu| PhysicalInterface { interface: interface.into(), mtu, shared: false };
    let physical = physical.iter().map(|&(name, interface, mtu)| (name.to_owned(), place(interface, mtu))).collect();
    HostReport { underlay: UnderlayAddress::only([10, 9, 0, last], 1500), physical, version: "1".into() }
}

impl Cloud {
    /// Two hosts, of which the first reaches the physical network "provider".
    fn with_provider() -> Self {
        let mut cloud = Self::new();
        let (one, two) = (cloud.host("one"), cloud.host("two"));
        cloud.done(|model| model.report_host(one.id, &report(1, &[("provider", "eth2", 1500)])));
        cloud.done(|model| model.report_host(two.id, &report(2, &[])));
        cloud
    }

    fn make(&mut self, request: &v1::CreateNetworkRequest) -> Network {
        self.done(|model| model.create_network(request, Uuid::new_v4()))
    }

    fn refuses(&self, request: &v1::CreateNetworkRequest) -> Fault {
        self.refused(|model| model.create_network(request, ID))
    }
}

#[test]
fn each_segment_type_has_its_mtu_and_comes_back_from_its_record() {
    let mut cloud = Cloud::with_provider();
    for (segment_type, mtu) in [("", 1450), ("vxlan", 1450), ("gre", 1458), ("vlan", 1500), ("flat", 1500)] {
        let made = cloud.make(&of_type(&format!("net-{segment_type}"), segment_type));
        assert_eq!(made.mtu, mtu, "{segment_type}");
        assert_eq!(Network::from_record(made.record()).as_ref(), Ok(&made));
        let request = v1::CreateNetworkRequest { mtu: mtu + 1, ..vlan("large", 0) };
        let request = v1::CreateNetworkRequest { segment_type: segment_type.into(), ..request };
        let request =
            if mtu == 1500 { request } else { v1::CreateNetworkRequest { physical_network: String::new(), ..request } };
        if segment_type != "flat" {
            assert_eq!(said(&cloud.refuses(&request)), ("bad_mtu", "mtu"), "{segment_type}");
        }
    }
    // What a store of an older version holds.
    let old = v1::Network { segment_type: String::new(), ..cloud.network("old").record() };
    assert_eq!(Network::from_record(old).unwrap().segment_type, SegmentType::Vxlan);
}

#[test]
fn what_a_segment_type_does_not_have_is_refused() {
    let cloud = Cloud::with_provider();
    let physical = v1::CreateNetworkRequest { physical_network: "provider".into(), ..network("x") };
    let external = |segment_type| v1::CreateNetworkRequest { external: true, ..of_type("x", segment_type) };
    let numbered = v1::CreateNetworkRequest { segment_id: 7, ..vlan("x", 7) };
    for (request, expected) in [
        (of_type("x", "stt"), ("bad_segment", "segment_type")),
        (physical, ("bad_segment", "physical_network")),
        (external("vxlan"), ("bad_segment", "external")),
        (external("gre"), ("bad_segment", "external")),
        (v1::CreateNetworkRequest { vlan_id: 7, ..of_type("x", "gre") }, ("bad_segment", "vlan_id")),
        (v1::CreateNetworkRequest { vlan_id: 7, ..of_type("x", "flat") }, ("bad_segment", "vlan_id")),
        (numbered, ("bad_segment", "segment_id")),
        (vlan("x", 4095), ("bad_segment", "vlan_id")),
        (vlan("x", 70_000), ("bad_segment", "vlan_id")),
        (v1::CreateNetworkRequest { segment_id: 1 << 24, ..of_type("x", "gre") }, ("bad_segment", "segment_id")),
    ] {
        assert_eq!(said(&cloud.refuses(&request)), expected, "{request:?}");
    }
    assert!(cloud.0.create_network(&external("vlan"), ID).is_ok_and(|(_, network)| network.external));
}

#[test]
fn a_physical_network_is_one_that_a_host_reaches() {
    let cloud = Cloud::with_provider();
    for (named, says) in [("", "no physical network is named"), ("lab", "no host reaches a physical network \"lab\"")] {
        let fault = cloud.refuses(&v1::CreateNetworkRequest { physical_network: named.into(), ..vlan("x", 7) });
        assert_eq!(said(&fault), ("unknown_physical_network", "physical_network"));
        assert!(fault.problem == says && fault.remedy.contains("provider"), "{fault}");
    }
    let fault = Cloud::new().refuses(&vlan("x", 7));
    assert!(fault.remedy.contains("[physical]"), "{fault}");
}

#[test]
fn a_vlan_and_what_is_untagged_carry_one_network_each() {
    let mut cloud = Cloud::with_provider();
    let chosen = |network: &Network| network.segment_type.vlan();
    assert_eq!(chosen(&cloud.make(&vlan("first", 0))), 2);
    cloud.make(&vlan("third", 3));
    assert_eq!(chosen(&cloud.make(&vlan("second", 0))), 4, "what is taken is passed over");
    assert_eq!(said(&cloud.refuses(&vlan("x", 3))), ("segment_taken", "vlan_id"));
    cloud.make(&of_type("flat", "flat"));
    assert_eq!(said(&cloud.refuses(&of_type("x", "flat"))), ("segment_taken", "physical_network"));
    // Not before all others have had their turn.
    cloud.done(|model| model.delete_network("first", ""));
    assert_eq!(chosen(&cloud.make(&vlan("fourth", 0))), 5);
    for id in (1..=4094).filter(|id| ![3, 4, 5].contains(id)) {
        cloud.make(&vlan(&format!("v{id}"), id));
    }
    assert_eq!(said(&cloud.refuses(&vlan("x", 0))), ("segments_exhausted", "physical_network"));
    cloud.done(|model| model.delete_network("v7", ""));
    assert_eq!(chosen(&cloud.make(&vlan("last", 0))), 7);
}

#[test]
fn ports_are_where_the_network_is_carried() {
    let mut cloud = Cloud::with_provider();
    cloud.make(&vlan("blue", 7));
    cloud.port("blue", "web");
    let fault = cloud.refused(|model| model.plug_port(&plug("web", "two")));
    assert_eq!(said(&fault), ("physical_network_unreachable", "host"));
    assert!(fault.problem.contains("\"provider\", which host \"two\" does not reach"), "{fault}");
    cloud.plug("web", "one");
    // What a host says later counts too.
    let (one, blue) = (cloud.0.find::<Host>("one", "", "").unwrap().clone(), cloud.0.find("blue", "", "").unwrap());
    let check = |physical: &[(&str, &str, u32)]| {
        let now = Host { physical: report(1, physical).physical, ..one.clone() };
        cloud.0.check_carriage(blue, &now).map_err(|fault| fault.code)
    };
    assert_eq!(check(&[("provider", "eth2", 1500)]), Ok(()));
    assert_eq!(check(&[("provider", "eth2", 1400)]), Err("bad_mtu".to_owned()));
    assert_eq!(check(&[("lab", "eth2", 1500)]), Err("physical_network_unreachable".to_owned()));
    let mut shared = Host { physical: report(1, &[("provider", "eth2", 1500)]).physical, ..one.clone() };
    shared.physical.values_mut().for_each(|place| place.shared = true);
    let fault = cloud.0.check_carriage(blue, &shared).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("physical_network_shared", "host"));
    let outside = Network { external: true, ..blue.clone() };
    assert_eq!(cloud.0.check_carriage(&outside, &shared).map_err(|fault| fault.code), Ok(()));
}

#[test]
fn a_report_tells_each_physical_network_once() {
    let told = |networks: &[(&str, &str)]| {
        let network = |&(name, interface): &(&str, &str)| v1::PhysicalNetwork {
            name: name.into(),
            interface: interface.into(),
            mtu: 1500,
            shared: false,
        };
        PhysicalInterface::all(&networks.iter().map(network).collect::<Vec<_>>())
    };
    assert_eq!(told(&[("a", "eth1"), ("b", "eth2")]).map(|all| all.len()), Ok(2));
    for (bad, index, field) in [
        (&[("a", "eth1"), ("a", "eth2")][..], 1, "name"),
        (&[("a", "eth1"), ("b", "eth1")], 1, "interface"),
        (&[("", "eth1")], 0, "name"),
        (&[("a", "eth/1")], 0, "interface"),
    ] {
        let (at, fault) = told(bad).unwrap_err();
        assert_eq!((at, fault.field.as_str()), (index, field), "{fault}");
    }
    let names: Vec<String> = (0..17).map(|index| format!("n{index}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    assert_eq!(told(&many[..16]).map(|all: BTreeMap<_, _>| all.len()), Ok(16));
    assert_eq!(told(&many).unwrap_err().0, 16);
}
