//! External networks, routers' gateways, floating IPs: what is chosen, what is refused, and what stays while it is used.

use super::*;
use std::collections::BTreeMap;

fn report(last: u8, physical: &[&str]) -> HostReport {
    let place = |(index, name): (usize, &&str)| {
        ((*name).to_owned(), PhysicalInterface { interface: format!("eth{index}"), mtu: 1500, shared: false })
    };
    let physical: BTreeMap<_, _> = physical.iter().enumerate().map(place).collect();
    HostReport { underlay: UnderlayAddress::only([10, 9, 0, last], 1500), physical, version: "1".into() }
}

fn external(name: &str) -> v1::CreateNetworkRequest {
    v1::CreateNetworkRequest {
        external: true,
        segment_type: "vlan".into(),
        physical_network: "provider".into(),
        ..network(name)
    }
}

fn pool(start: &str, end: &str) -> v1::AllocationPool {
    v1::AllocationPool { start: start.into(), end: end.into() }
}

fn leave(router: &str, network: &str, address: &str) -> v1::SetRouterGatewayRequest {
    v1::SetRouterGatewayRequest {
        router: router.into(),
        network: network.into(),
        ip_address: address.into(),
        ..Default::default()
    }
}

fn clear(router: &str) -> v1::ClearRouterGatewayRequest {
    v1::ClearRouterGatewayRequest { router: router.into(), ..Default::default() }
}

fn float(address: &str, port: &str) -> v1::CreateFloatingIpRequest {
    v1::CreateFloatingIpRequest {
        network: "internet".into(),
        ip_address: address.into(),
        port: port.into(),
        ..Default::default()
    }
}

fn stand(floating: &str, port: &str) -> v1::UpdateFloatingIpRequest {
    v1::UpdateFloatingIpRequest { floating_ip: floating.into(), port: port.into(), ..Default::default() }
}

/// Hosts one and two, of which the first reaches "provider"; external network internet (203.0.113.0/24, pool .10 to .13);
/// network blue (10.0.0.0/24) with port web, joined to router r, which has no gateway.
fn outside() -> Cloud {
    let mut cloud = Cloud::new();
    let (one, two) = (cloud.host("one"), cloud.host("two"));
    cloud.done(|model| model.report_host(one.id, &report(1, &["provider"])));
    cloud.done(|model| model.report_host(two.id, &report(2, &[])));
    cloud.done(|model| model.create_network(&external("internet"), Uuid::new_v4()));
    let request = v1::CreateSubnetRequest {
        allocation_pools: vec![pool("203.0.113.10", "203.0.113.13")],
        ..subnet("internet", "203.0.113.0/24")
    };
    cloud.done(|model| model.create_subnet(&request, Uuid::new_v4()));
    cloud.network("blue");
    cloud.subnet("blue", "10.0.0.0/24");
    cloud.port("blue", "web");
    let request = v1::CreateRouterRequest { name: "r".into(), ..Default::default() };
    cloud.done(|model| model.create_router(&request, Uuid::new_v4()));
    let request =
        v1::AddRouterInterfaceRequest { router: "r".into(), subnet: "blue-10.0.0.0-24".into(), ..Default::default() };
    cloud.done(|model| model.add_router_interface(&request, Uuid::new_v4()));
    cloud
}

impl Cloud {
    fn leave(&mut self, router: &str, address: &str) -> Router {
        let request = leave(router, "internet", address);
        self.done(|model| model.set_router_gateway(&request, Uuid::new_v4(), &|_| true))
    }

    fn may_not_leave(&self, request: &v1::SetRouterGatewayRequest) -> Fault {
        self.refused(|model| model.set_router_gateway(request, ID, &|_| true))
    }

    fn float(&mut self, address: &str, port: &str) -> FloatingIp {
        self.done(|model| model.create_floating_ip(&float(address, port), Uuid::new_v4(), Uuid::new_v4()))
    }

    fn may_not_float(&self, request: &v1::CreateFloatingIpRequest) -> Fault {
        self.refused(|model| model.create_floating_ip(request, ID, Uuid::from_u128(2)))
    }

    fn gateway_address(&self, router: &str) -> String {
        let router: &Router = self.0.find(router, "", "").unwrap();
        self.0.gateway_port(router.id).and_then(Port::address).map(|address| address.to_string()).unwrap_or_default()
    }

    fn host_of(&self, router: &str) -> Option<String> {
        let router: &Router = self.0.find(router, "", "").unwrap();
        router.gateway.and_then(|gateway| gateway.host).map(|host| self.0.hosts[host].name.clone())
    }
}

#[test]
fn an_external_network_has_no_dhcp_and_no_instances() {
    let mut cloud = outside();
    let subnet: &Subnet = cloud.0.find("internet-203.0.113.0-24", "", "").unwrap();
    assert_eq!((subnet.dhcp, subnet.gateway), (None, Some([203, 0, 113, 1].into())));
    assert_eq!(Subnet::from_record(subnet.record()).as_ref(), Ok(subnet));
    let bare = v1::CreateSubnetRequest { gateway_ip: "none".into(), ..super::subnet("internet", "198.51.100.0/24") };
    assert_eq!(said(&cloud.refused(|model| model.create_subnet(&bare, ID))), ("no_gateway", "gateway_ip"));
    let fault = cloud.refused(|model| model.create_port(&port("internet", "x"), ID));
    assert_eq!(said(&fault), ("external_network", "network"));
    let join = v1::AddRouterInterfaceRequest {
        router: "r".into(),
        subnet: "internet-203.0.113.0-24".into(),
        ..Default::default()
    };
    assert_eq!(said(&cloud.refused(|model| model.add_router_interface(&join, ID))), ("external_network", "subnet"));
    // Pools are for any subnet: what is asked for may lie elsewhere, what is chosen may not.
    cloud.network("green");
    let pooled = |pools: Vec<v1::AllocationPool>| v1::CreateSubnetRequest {
        allocation_pools: pools,
        ..super::subnet("green", "10.1.0.0/24")
    };
    for (pools, expected) in [
        (vec![pool("10.1.0.9", "10.1.0.8")], ("bad_pool", "allocation_pools[0]")),
        (vec![pool("10.1.0.1", "10.1.0.9")], ("bad_pool", "allocation_pools[0]")),
        (vec![pool("10.1.0.2", "10.1.0.9"), pool("10.1.0.9", "10.1.0.9")], ("bad_pool", "allocation_pools[1]")),
        (vec![pool("10.1.0.0", "10.1.0.9")], ("address_outside_subnet", "allocation_pools[0].start")),
        (vec![pool("10.1.0.1", "10.2.0.9")], ("address_outside_subnet", "allocation_pools[0].end")),
        (vec![pool("10.1.0.1", "x")], ("bad_address", "allocation_pools[0].end")),
        (vec![pool("10.1.0.1", "10.1.0.1"); 17], ("too_many", "allocation_pools")),
    ] {
        assert_eq!(
            said(&cloud.refused(|model| model.create_subnet(&pooled(pools.clone()), ID))),
            expected,
            "{pools:?}"
        );
    }
    let request = pooled(vec![pool("10.1.0.50", "10.1.0.50"), pool("10.1.0.20", "10.1.0.20")]);
    cloud.done(|model| model.create_subnet(&request, Uuid::new_v4()));
    let address = |port: &Port| port.addresses[0].address.octets()[3];
    assert_eq!((address(&cloud.port("green", "a")), address(&cloud.port("green", "b"))), (20, 50));
    let fault = cloud.refused(|model| model.create_port(&port("green", "c"), ID));
    assert_eq!(said(&fault), ("no_free_address", "fixed_ips"));
    let request = with_address(port("green", "c"), "10.1.0.99");
    cloud.done(|model| model.create_port(&request, Uuid::new_v4()));
}

#[test]
fn a_gateway_has_an_address_and_a_host() {
    let mut cloud = outside();
    let router = cloud.leave("r", "");
    assert_eq!((cloud.gateway_address("r").as_str(), cloud.host_of("r").as_deref()), ("203.0.113.10", Some("one")));
    assert!(router.gateway.unwrap().snat);
    assert_eq!(Router::from_record(router.record()), Ok(router.clone()));
    let port = cloud.0.gateway_port(router.id).unwrap().clone();
    assert_eq!(port.record().device_owner, "network:router_gateway");
    assert_eq!(Port::from_record(port.record()), Ok(port.clone()));
    // The same again changes nothing; another address, or no source NAT, only that.
    assert_eq!(cloud.0.set_router_gateway(&leave("r", "internet", ""), ID, &|_| true).unwrap().0, []);
    let request = v1::SetRouterGatewayRequest { enable_snat: Some(false), ..leave("r", "internet", "") };
    let changed = cloud.done(|model| model.set_router_gateway(&request, ID, &|_| true));
    assert_eq!((changed.gateway.unwrap().snat, cloud.gateway_address("r").as_str()), (false, "203.0.113.10"));
    assert!(!cloud.leave("r", "203.0.113.12").gateway.unwrap().snat, "it stays as it is");
    let moved = cloud.0.gateway_port(router.id).unwrap();
    assert_eq!((moved.id, moved.mac, cloud.gateway_address("r").as_str()), (port.id, port.mac, "203.0.113.12"));
    // Its port is nobody else's to touch.
    for fault in [
        cloud.refused(|model| model.delete_port(&port.id.to_string(), "")),
        cloud.refused(|model| model.plug_port(&plug(&port.id.to_string(), "one"))),
    ] {
        assert_eq!(said(&fault), ("in_use", "port"));
        assert!(fault.remedy.contains("weft router gateway clear r"), "{fault}");
    }
    let fault = cloud.refused(|model| model.delete_network("internet", ""));
    assert!(said(&fault) == ("in_use", "network") && fault.remedy.contains("weft router gateway clear r"), "{fault}");
    let fault = cloud.refused(|model| model.delete_subnet("internet-203.0.113.0-24", ""));
    assert!(said(&fault) == ("in_use", "subnet") && fault.remedy.contains("weft router gateway clear r"), "{fault}");
    cloud.done(|model| model.clear_router_gateway(&clear("r")));
    assert_eq!((cloud.gateway_address("r").as_str(), cloud.host_of("r")), ("", None));
    assert_eq!(cloud.0.clear_router_gateway(&clear("r")).unwrap().0, []);
    // Another external network is another address; a router that goes takes its gateway along.
    cloud.leave("r", "");
    cloud.done(|model| model.create_network(&external("other"), Uuid::new_v4()));
    assert_eq!(said(&cloud.may_not_leave(&leave("r", "other", ""))), ("no_subnet", "network"));
    cloud.subnet("other", "198.51.100.0/24");
    cloud.done(|model| model.set_router_gateway(&leave("r", "other", ""), Uuid::new_v4(), &|_| true));
    assert_eq!(cloud.gateway_address("r"), "198.51.100.2");
    let request = v1::RemoveRouterInterfaceRequest {
        router: "r".into(),
        subnet: "blue-10.0.0.0-24".into(),
        ..Default::default()
    };
    cloud.done(|model| model.remove_router_interface(&request));
    cloud.done(|model| model.delete_router("r", ""));
    for network in ["other", "internet"] {
        cloud.done(|model| model.delete_network(network, ""));
    }
}

#[test]
fn what_cannot_be_a_gateway_is_refused() {
    let mut cloud = outside();
    assert_eq!(said(&cloud.may_not_leave(&leave("x", "internet", ""))), ("unknown_router", "router"));
    assert_eq!(said(&cloud.may_not_leave(&leave("r", "x", ""))), ("unknown_network", "network"));
    assert_eq!(said(&cloud.may_not_leave(&leave("r", "blue", ""))), ("not_external", "network"));
    for outside in ["203.0.113.14", "203.0.113.1", "198.51.100.1"] {
        let fault = cloud.may_not_leave(&leave("r", "internet", outside));
        assert_eq!(said(&fault), ("address_outside_pools", "ip_address"), "{outside}");
        assert!(fault.remedy.contains("203.0.113.10-203.0.113.13"), "{fault}");
    }
    assert_eq!(said(&cloud.may_not_leave(&leave("r", "internet", "x"))), ("bad_address", "ip_address"));
    cloud.float("203.0.113.11", "");
    let fault = cloud.may_not_leave(&leave("r", "internet", "203.0.113.11"));
    assert_eq!((said(&fault), fault.status), (("address_taken", "ip_address"), tonic::Code::AlreadyExists));

    // What is outside is not inside, nor where a route leads; whichever was first.
    let route = |destination: &str| v1::AddRouterRouteRequest {
        router: "r".into(),
        destination: destination.into(),
        nexthop: "10.0.0.9".into(),
        ..Default::default()
    };
    cloud.done(|model| model.add_router_route(&route("203.0.113.0/24")));
    assert_eq!(said(&cloud.may_not_leave(&leave("r", "internet", ""))), ("route_to_connected", "network"));
    let forget =
        v1::RemoveRouterRouteRequest { router: "r".into(), destination: "203.0.113.0/24".into(), ..Default::default() };
    cloud.done(|model| model.remove_router_route(&forget));
    cloud.network("same");
    cloud.subnet("same", "203.0.113.128/25");
    let join = v1::AddRouterInterfaceRequest {
        router: "r".into(),
        subnet: "same-203.0.113.128-25".into(),
        ..Default::default()
    };
    let (mut joined, planned) = (Cloud(cloud.0.clone()), Uuid::new_v4());
    joined.done(|model| model.add_router_interface(&join, planned));
    assert_eq!(said(&joined.may_not_leave(&leave("r", "internet", ""))), ("overlapping_subnet", "network"));
    cloud.leave("r", "");
    assert_eq!(said(&cloud.refused(|model| model.add_router_interface(&join, ID))), ("overlapping_subnet", "subnet"));
    let fault = cloud.refused(|model| model.add_router_route(&route("203.0.113.0/24")));
    assert_eq!(said(&fault), ("route_to_connected", "destination"));
    let fault = cloud.refused(|model| model.create_subnet(&super::subnet("internet", "10.0.0.0/16"), ID));
    assert_eq!(said(&fault), ("overlapping_subnet", "cidr"));

    // An external network is everybody's, under its name or id; unless two have the name.
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "other".into() }, Uuid::new_v4()));
    let request = v1::CreateRouterRequest { name: "theirs".into(), project: "other".into() };
    cloud.done(|model| model.create_router(&request, Uuid::new_v4()));
    let request = v1::SetRouterGatewayRequest { project: "other".into(), ..leave("theirs", "internet", "") };
    assert!(cloud.0.set_router_gateway(&request, ID, &|_| true).is_ok());
    let hidden = v1::SetRouterGatewayRequest { project: "other".into(), ..leave("theirs", "blue", "") };
    assert_eq!(said(&cloud.may_not_leave(&hidden)), ("unknown_network", "network"));
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "third".into() }, Uuid::new_v4()));
    let twin = v1::CreateNetworkRequest { project: "third".into(), ..external("internet") };
    cloud.done(|model| model.create_network(&twin, Uuid::new_v4()));
    assert_eq!(said(&cloud.may_not_leave(&request)), ("ambiguous_name", "network"));
}

#[test]
fn gateway_hosts_are_chosen_and_kept() {
    let mut cloud = outside();
    let (one, two) = (cloud.0.find::<Host>("one", "", "").unwrap().id, cloud.0.find::<Host>("two", "", "").unwrap().id);
    cloud.done(|model| model.report_host(one, &report(1, &[])));
    let fault = cloud.may_not_leave(&leave("r", "internet", ""));
    assert_eq!((said(&fault), fault.status), (("no_gateway_host", "network"), tonic::Code::FailedPrecondition));
    assert!(fault.remedy.contains("[physical] provider"), "{fault}");
    for (id, last) in [(one, 1), (two, 2)] {
        cloud.done(|model| model.report_host(id, &report(last, &["provider"])));
    }
    for name in ["s", "t"] {
        let request = v1::CreateRouterRequest { name: name.into(), ..Default::default() };
        cloud.done(|model| model.create_router(&request, Uuid::new_v4()));
    }
    // A connected one; of several the one with the fewest.
    let request = leave("r", "internet", "");
    cloud.done(|model| model.set_router_gateway(&request, Uuid::new_v4(), &|host| host == two));
    assert_eq!(cloud.host_of("r").as_deref(), Some("two"));
    cloud.leave("s", "");
    assert_eq!(cloud.host_of("s").as_deref(), Some("one"));
    cloud.leave("t", "");
    // It stays where it is, whatever comes and goes; unless its host does.
    cloud.done(|model| model.report_host(one, &report(1, &["lab", "provider"])));
    assert_eq!(cloud.host_of("r").as_deref(), Some("two"));
    cloud.done(|model| model.report_host(two, &report(2, &["lab"])));
    assert_eq!(["r", "s", "t"].map(|router| cloud.host_of(router)), ["one"; 3].map(|name| Some(name.to_owned())));
    cloud.done(|model| model.delete_host("one"));
    assert_eq!(["r", "s", "t"].map(|router| cloud.host_of(router)), [None, None, None]);
    // They wait for one.
    cloud.done(|model| model.report_host(two, &report(2, &["provider"])));
    assert_eq!(["r", "s", "t"].map(|router| cloud.host_of(router)), ["two"; 3].map(|name| Some(name.to_owned())));
    assert!(cloud.0.hosts.get(one).is_none());
}

#[test]
fn floating_ips_are_taken_moved_and_given_back() {
    let mut cloud = outside();
    let kept = cloud.float("203.0.113.13", "");
    assert_eq!((kept.name.as_str(), kept.target), ("203.0.113.13", None));
    cloud.leave("r", "");
    let floating = cloud.float("", "web");
    let web: Port = cloud.0.find::<Port>("web", "", "").unwrap().clone();
    let target = floating.target.unwrap();
    assert_eq!(
        (floating.name.as_str(), target.port, target.address),
        ("203.0.113.11", web.id, web.addresses[0].address)
    );
    for floating in [&kept, &floating] {
        assert_eq!(FloatingIp::from_record(floating.record()).as_ref(), Ok(floating));
    }
    // Its address is a port's, whose it is.
    let keeper = cloud.0.ports.iter().find(|port| port.device == Some(Device::FloatingIp(kept.id))).unwrap().clone();
    assert_eq!(keeper.record().device_owner, "network:floatingip");
    assert_eq!(Port::from_record(keeper.record()), Ok(keeper.clone()));
    let fault = cloud.refused(|model| model.delete_port(&keeper.id.to_string(), ""));
    assert!(said(&fault) == ("in_use", "port") && fault.remedy.contains("floating-ip delete 203.0.113.13"), "{fault}");

    cloud.port("blue", "db");
    let moved = cloud.done(|model| model.update_floating_ip(&stand("203.0.113.11", "db")));
    assert_ne!(moved.target.unwrap().port, web.id);
    assert_eq!(cloud.0.update_floating_ip(&stand("203.0.113.11", "db")).unwrap().0, []);
    cloud.done(|model| model.update_floating_ip(&stand("203.0.113.11", "")));
    assert_eq!(cloud.0.floating_ips[floating.id].target, None);
    cloud.done(|model| model.delete_floating_ip("203.0.113.11", ""));
    assert_eq!(cloud.float("", "").name, "203.0.113.11");
    cloud.float("", "");
    let fault = cloud.may_not_float(&float("", ""));
    assert_eq!((said(&fault), fault.status), (("no_free_address", "ip_address"), tonic::Code::ResourceExhausted));
}

#[test]
fn what_a_floating_ip_cannot_be_is_refused() {
    let mut cloud = outside();
    cloud.float("203.0.113.13", "");
    let fault = cloud.may_not_float(&float("203.0.113.13", ""));
    assert_eq!((said(&fault), fault.status), (("address_taken", "ip_address"), tonic::Code::AlreadyExists));
    assert_eq!(said(&cloud.may_not_float(&float("203.0.113.99", ""))), ("address_outside_pools", "ip_address"));
    let of_blue = v1::CreateFloatingIpRequest { network: "blue".into(), ..float("", "") };
    assert_eq!(said(&cloud.may_not_float(&of_blue)), ("not_external", "network"));
    assert_eq!(said(&cloud.may_not_float(&float("", "x"))), ("unknown_port", "port"));
    let fault = cloud.may_not_float(&float("", "web"));
    assert_eq!(said(&fault), ("router_without_gateway", "port"));
    assert!(fault.remedy.contains("weft router gateway set r internet"), "{fault}");
    cloud.network("apart");
    cloud.port("apart", "bare");
    cloud.subnet("apart", "10.2.0.0/24");
    cloud.port("apart", "alone");
    cloud.leave("r", "");
    assert_eq!(said(&cloud.may_not_float(&float("", "alone"))), ("no_router", "port"));
    assert_eq!(said(&cloud.may_not_float(&float("", "bare"))), ("no_address", "port"));
    let interface = cloud.0.ports.iter().find(|port| port.router().is_some()).unwrap().id.to_string();
    assert_eq!(said(&cloud.may_not_float(&float("", &interface))), ("in_use", "port"));
    let elsewhere =
        |address: &str| v1::CreateFloatingIpRequest { fixed_ip_address: address.into(), ..float("", "web") };
    assert_eq!(said(&cloud.may_not_float(&elsewhere("10.0.0.77"))), ("address_not_of_port", "fixed_ip_address"));
    assert_eq!(said(&cloud.may_not_float(&elsewhere("x"))), ("bad_address", "fixed_ip_address"));
    let portless = v1::CreateFloatingIpRequest { fixed_ip_address: "10.0.0.2".into(), ..float("", "") };
    assert_eq!(said(&cloud.may_not_float(&portless)), ("no_port", "port"));
    let fault = cloud.refused(|model| model.update_floating_ip(&stand("203.0.113.12", "web")));
    assert_eq!(said(&fault), ("unknown_floating_ip", "floating_ip"));
    assert!(fault.remedy.contains("weft floating-ip list"), "{fault}");

    cloud.float("203.0.113.11", "web");
    let fault = cloud.refused(|model| model.update_floating_ip(&stand("203.0.113.13", "web")));
    assert_eq!(said(&fault), ("port_has_floating_ip", "port"));
    assert!(fault.remedy.contains("weft floating-ip unset 203.0.113.11"), "{fault}");
    // Of several addresses one is named.
    cloud.subnet("blue", "10.3.0.0/24");
    let join = |subnet: &str| v1::AddRouterInterfaceRequest {
        router: "r".into(),
        subnet: subnet.into(),
        ..Default::default()
    };
    cloud.done(|model| model.add_router_interface(&join("blue-10.3.0.0-24"), Uuid::new_v4()));
    let request = with_address(with_address(port("blue", "two"), "10.0.0.50"), "10.3.0.50");
    cloud.done(|model| model.create_port(&request, Uuid::new_v4()));
    assert_eq!(said(&cloud.may_not_float(&float("", "two"))), ("ambiguous_address", "fixed_ip_address"));
    let chosen = v1::UpdateFloatingIpRequest { fixed_ip_address: "10.3.0.50".into(), ..stand("203.0.113.13", "two") };
    assert_eq!(cloud.done(|model| model.update_floating_ip(&chosen)).record().fixed_ip_address, "10.3.0.50");

    // Nothing goes that it needs.
    let leave = |subnet: &str| v1::RemoveRouterInterfaceRequest {
        router: "r".into(),
        subnet: subnet.into(),
        ..Default::default()
    };
    for (fault, field) in [
        (cloud.refused(|model| model.clear_router_gateway(&clear("r"))), "router"),
        (cloud.refused(|model| model.remove_router_interface(&leave("blue-10.3.0.0-24"))), "subnet"),
        (cloud.refused(|model| model.delete_port("web", "")), "port"),
    ] {
        assert_eq!((said(&fault), fault.status), (("in_use", field), tonic::Code::FailedPrecondition));
        assert!(fault.remedy.contains("weft floating-ip unset 203.0.113.1"), "{fault}");
    }
    let fault = cloud.refused(|model| model.delete_subnet("internet-203.0.113.0-24", ""));
    assert_eq!(said(&fault), ("in_use", "subnet"));
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "other".into() }, Uuid::new_v4()));
    for address in ["203.0.113.11", "203.0.113.13"] {
        cloud.done(|model| model.delete_floating_ip(address, ""));
    }
    let theirs = v1::CreateFloatingIpRequest { project: "other".into(), ..float("203.0.113.12", "") };
    cloud.done(|model| model.create_floating_ip(&theirs, Uuid::new_v4(), Uuid::new_v4()));
    let fault = cloud.refused(|model| model.delete_project("other"));
    assert!(said(&fault) == ("in_use", "project") && fault.problem.contains("1 floating IP"), "{fault}");
    cloud.done(|model| model.clear_router_gateway(&clear("r")));
    let fault = cloud.refused(|model| model.delete_network("internet", ""));
    assert!(
        said(&fault) == ("in_use", "network") && fault.remedy.contains("floating-ip delete 203.0.113.12"),
        "{fault}"
    );
}
