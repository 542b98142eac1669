//! Routers: what may be joined, where routes may lead, and what is kept while a router uses it.

use super::*;
use std::collections::BTreeSet;

fn router(name: &str) -> v1::CreateRouterRequest {
    v1::CreateRouterRequest { name: name.into(), ..Default::default() }
}

fn join(router: &str, subnet: &str, address: &str) -> v1::AddRouterInterfaceRequest {
    v1::AddRouterInterfaceRequest {
        router: router.into(),
        subnet: subnet.into(),
        ip_address: address.into(),
        ..Default::default()
    }
}

fn leave(router: &str, subnet: &str) -> v1::RemoveRouterInterfaceRequest {
    v1::RemoveRouterInterfaceRequest { router: router.into(), subnet: subnet.into(), ..Default::default() }
}

fn route(router: &str, destination: &str, nexthop: &str) -> v1::AddRouterRouteRequest {
    v1::AddRouterRouteRequest {
        router: router.into(),
        destination: destination.into(),
        nexthop: nexthop.into(),
        ..Default::default()
    }
}

fn forget(router: &str, destination: &str) -> v1::RemoveRouterRouteRequest {
    v1::RemoveRouterRouteRequest { router: router.into(), destination: destination.into(), ..Default::default() }
}

impl Cloud {
    fn router(&mut self, name: &str) -> Router {
        self.done(|model| model.create_router(&router(name), Uuid::new_v4()))
    }

    fn join(&mut self, router: &str, subnet: &str) {
        self.done(|model| model.add_router_interface(&join(router, subnet, ""), Uuid::new_v4()));
    }

    fn port_of(&self, router: &Router) -> Port {
        self.0.interfaces_of(router.id).next().expect("it has an interface").clone()
    }
}

/// Networks blue (10.0.0.0/24) and green (10.0.1.0/24), and router r in both.
fn routed() -> (Cloud, Router) {
    let mut cloud = Cloud::new();
    for (name, cidr) in [("blue", "10.0.0.0/24"), ("green", "10.0.1.0/24")] {
        cloud.network(name);
        cloud.subnet(name, cidr);
    }
    let router = cloud.router("r");
    cloud.join("r", "blue-10.0.0.0-24");
    cloud.join("r", "green-10.0.1.0-24");
    (cloud, router)
}

#[test]
fn a_joined_subnet_has_a_port_of_the_router() {
    let (mut cloud, router) = routed();
    let addresses: BTreeSet<String> =
        cloud.0.interfaces_of(router.id).map(|port| port.addresses[0].address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1".to_owned(), "10.0.1.1".to_owned()].into());
    let port = cloud.port_of(&router);
    assert!(!port.port_security && port.groups.is_empty() && port.plug.is_none());
    let record = port.record();
    assert_eq!((record.device_owner.as_str(), record.device_id), ("network:router_interface", router.id.to_string()));
    assert_eq!(Port::from_record(port.record()), Ok(port));
    // A router's numbers are not reused before all had their turn.
    assert_eq!((router.number, cloud.router("s").number), (1, 2));
    cloud.done(|model| model.delete_router("s", ""));
    assert_eq!(cloud.router("t").number, 3);
    cloud.done(|model| model.add_router_route(&route("r", "10.9.0.0/16", "10.0.1.9")));
    let router = cloud.0.routers[router.id].clone();
    assert_eq!(Router::from_record(router.record()), Ok(router));
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let (mut cloud, _) = routed();
    let refused = |cloud: &Cloud, subnet: &str, address: &str| {
        cloud.refused(|model| model.add_router_interface(&join("r", subnet, address), ID))
    };
    let fault = refused(&cloud, "blue-10.0.0.0-24", "10.0.0.77");
    assert_eq!(said(&fault), ("subnet_joined", "subnet"));
    assert_eq!(said(&refused(&cloud, "nothing", "")), ("unknown_subnet", "subnet"));
    let fault = cloud.refused(|model| model.add_router_interface(&join("x", "blue-10.0.0.0-24", ""), ID));
    assert_eq!(said(&fault), ("unknown_router", "router"));

    // Its gateway address is router r's already; another address of it is free, and another port's is not.
    cloud.router("s");
    let fault = cloud.refused(|model| model.add_router_interface(&join("s", "blue-10.0.0.0-24", ""), ID));
    assert_eq!(said(&fault), ("address_taken", "ip_address"));
    assert!(fault.problem.contains("router \"r\""), "{fault}");
    let port = cloud.port("blue", "web");
    let taken = port.addresses[0].address.to_string();
    let fault = cloud.refused(|model| model.add_router_interface(&join("s", "blue-10.0.0.0-24", &taken), ID));
    assert_eq!(said(&fault), ("address_taken", "ip_address"));
    for outside in ["10.0.1.7", "10.0.0.0", "10.0.0.255"] {
        let fault = cloud.refused(|model| model.add_router_interface(&join("s", "blue-10.0.0.0-24", outside), ID));
        assert_eq!(said(&fault), ("address_outside_subnet", "ip_address"), "{outside}");
    }
    cloud.done(|model| model.add_router_interface(&join("s", "blue-10.0.0.0-24", "10.0.0.77"), Uuid::new_v4()));

    // An instance cannot have what the router has.
    let fault = cloud.refused(|model| model.create_port(&with_address(super::port("blue", "thief"), "10.0.0.1"), ID));
    assert_eq!(said(&fault), ("address_taken", "fixed_ips[0].ip_address"));

    cloud.network("wide");
    cloud.subnet("wide", "10.0.0.0/16");
    assert_eq!(said(&refused(&cloud, "wide-10.0.0.0-16", "")), ("overlapping_subnet", "subnet"));
    cloud.network("bare");
    let bare = v1::CreateSubnetRequest { gateway_ip: "none".into(), ..super::subnet("bare", "10.4.0.0/24") };
    cloud.done(|model| model.create_subnet(&bare, Uuid::new_v4()));
    assert_eq!(said(&refused(&cloud, "bare-10.4.0.0-24", "")), ("no_gateway", "ip_address"));

    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "other".into() }, Uuid::new_v4()));
    let network = v1::CreateNetworkRequest { project: "other".into(), ..network("theirs") };
    cloud.done(|model| model.create_network(&network, Uuid::new_v4()));
    let request = v1::CreateSubnetRequest { project: "other".into(), ..super::subnet("theirs", "10.5.0.0/24") };
    let theirs = cloud.done(|model| model.create_subnet(&request, Uuid::new_v4()));
    // By its id it is found from anywhere.
    assert_eq!(said(&refused(&cloud, &theirs.id.to_string(), "")), ("other_project", "subnet"));
}

#[test]
fn what_a_router_uses_stays() {
    let (mut cloud, router) = routed();
    let port = cloud.port_of(&router).id.to_string();
    cloud.host("one");
    let update = v1::UpdatePortRequest { port: port.clone(), name: Some("mine".into()), ..Default::default() };
    for fault in [
        cloud.refused(|model| model.delete_port(&port, "")),
        cloud.refused(|model| model.plug_port(&super::plug(&port, "one"))),
        cloud.refused(|model| model.unplug_port(&v1::UnplugPortRequest { port: port.clone(), ..Default::default() })),
        cloud.refused(|model| model.update_port(&update)),
    ] {
        assert_eq!((said(&fault), fault.status), (("in_use", "port"), tonic::Code::FailedPrecondition));
        assert!(fault.remedy.contains("weft router interface remove r "), "{fault}");
    }
    let fault = cloud.refused(|model| model.delete_router("r", ""));
    assert_eq!(said(&fault), ("in_use", "router"));
    let fault = cloud.refused(|model| model.delete_subnet("blue-10.0.0.0-24", ""));
    assert_eq!(said(&fault), ("in_use", "subnet"));
    assert!(fault.remedy.contains("weft router interface remove r blue-10.0.0.0-24"), "{fault}");
    let fault = cloud.refused(|model| model.delete_network("green", ""));
    assert_eq!(said(&fault), ("in_use", "network"));
    assert!(fault.problem.contains("router \"r\""), "{fault}");

    cloud.done(|model| model.add_router_route(&route("r", "10.9.0.0/16", "10.0.1.9")));
    let fault = cloud.refused(|model| model.remove_router_interface(&leave("r", "green-10.0.1.0-24")));
    assert_eq!(said(&fault), ("in_use", "subnet"));
    cloud.done(|model| model.remove_router_route(&forget("r", "10.9.0.0/16")));
    cloud.done(|model| model.remove_router_interface(&leave("r", "green-10.0.1.0-24")));
    let fault = cloud.refused(|model| model.remove_router_interface(&leave("r", "green-10.0.1.0-24")));
    assert_eq!(said(&fault), ("not_joined", "subnet"));
    cloud.done(|model| model.delete_network("green", ""));
    cloud.done(|model| model.remove_router_interface(&leave("r", "blue-10.0.0.0-24")));
    cloud.done(|model| model.delete_router("r", ""));
    cloud.done(|model| model.delete_subnet("blue-10.0.0.0-24", ""));

    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "other".into() }, Uuid::new_v4()));
    let theirs = v1::CreateRouterRequest { name: "theirs".into(), project: "other".into() };
    cloud.done(|model| model.create_router(&theirs, Uuid::new_v4()));
    let fault = cloud.refused(|model| model.delete_project("other"));
    assert_eq!(said(&fault), ("in_use", "project"));
    assert!(fault.problem.contains("1 router"), "{fault}");
}

#[test]
fn routes_lead_somewhere() {
    let (mut cloud, router) = routed();
    let refused = |cloud: &Cloud, destination: &str, nexthop: &str| {
        cloud.refused(|model| model.add_router_route(&route("r", destination, nexthop)))
    };
    for nexthop in ["10.7.0.1", "10.0.1.255"] {
        assert_eq!(said(&refused(&cloud, "10.9.0.0/16", nexthop)), ("next_hop_unreachable", "nexthop"));
    }
    assert_eq!(said(&refused(&cloud, "10.9.0.0/16", "10.0.1.1")), ("next_hop_is_router", "nexthop"));
    assert_eq!(said(&refused(&cloud, "10.9.0.0/16", "nowhere")), ("bad_address", "nexthop"));
    assert_eq!(said(&refused(&cloud, "10.0.1.0/24", "10.0.0.9")), ("route_to_connected", "destination"));
    for bad in ["10.9.0.1/16", "224.0.0.0/8", "127.0.0.0/8"] {
        assert_eq!(said(&refused(&cloud, bad, "10.0.0.9")), ("bad_cidr", "destination"), "{bad}");
    }
    // More or less specific than a subnet is no contradiction, nor is everything.
    for good in ["10.0.1.128/25", "10.0.0.0/8", "0.0.0.0/0"] {
        cloud.done(|model| model.add_router_route(&route("r", good, "10.0.0.9")));
    }
    assert_eq!(said(&refused(&cloud, "10.0.0.0/8", "10.0.1.9")), ("duplicate_route", "destination"));
    let fault = cloud.refused(|model| model.remove_router_route(&forget("r", "10.8.0.0/16")));
    assert_eq!((said(&fault), fault.status), (("unknown_route", "destination"), tonic::Code::NotFound));
    let fault = cloud.refused(|model| model.add_router_route(&route("x", "10.8.0.0/16", "10.0.0.9")));
    assert_eq!(said(&fault), ("unknown_router", "router"));

    // A subnet that is a route's destination cannot be joined.
    cloud.done(|model| model.add_router_route(&route("r", "10.6.0.0/24", "10.0.0.9")));
    cloud.network("six");
    cloud.subnet("six", "10.6.0.0/24");
    let fault = cloud.refused(|model| model.add_router_interface(&join("r", "six-10.6.0.0-24", ""), ID));
    assert_eq!(said(&fault), ("route_to_connected", "subnet"));

    for index in cloud.0.routers[router.id].routes.len()..crate::limits::ROUTES_PER_ROUTER {
        cloud.done(|model| model.add_router_route(&route("r", &format!("10.50.{index}.0/24"), "10.0.0.9")));
    }
    assert_eq!(said(&refused(&cloud, "10.51.0.0/16", "10.0.0.9")), ("limit_reached", ""));
}

#[test]
fn routers_and_networks_have_so_many_interfaces() {
    let mut cloud = Cloud::new();
    cloud.network("hub");
    cloud.subnet("hub", "10.0.0.0/24");
    for index in 0..crate::limits::ROUTERS_PER_NETWORK {
        cloud.router(&format!("r{index}"));
        let request = join(&format!("r{index}"), "hub-10.0.0.0-24", &format!("10.0.0.{}", index + 1));
        cloud.done(|model| model.add_router_interface(&request, Uuid::new_v4()));
    }
    cloud.router("late");
    let fault = cloud.refused(|model| model.add_router_interface(&join("late", "hub-10.0.0.0-24", "10.0.0.99"), ID));
    assert_eq!(said(&fault), ("limit_reached", ""));
    for index in 0..crate::limits::INTERFACES_PER_ROUTER {
        cloud.network(&format!("n{index}"));
        cloud.subnet(&format!("n{index}"), &format!("10.1.{index}.0/24"));
        cloud.join("late", &format!("n{index}-10.1.{index}.0-24"));
    }
    cloud.network("more");
    cloud.subnet("more", "10.2.0.0/24");
    let fault = cloud.refused(|model| model.add_router_interface(&join("late", "more-10.2.0.0-24", ""), ID));
    assert_eq!(said(&fault), ("limit_reached", ""));
}
