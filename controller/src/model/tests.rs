//! What each planner refuses, and that a refusal names the field and what to do.

mod outside;
mod routing;
mod security;
mod segments;

use super::*;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// A model with the default project, and short ways to make things in it.
struct Cloud(Model);

impl Cloud {
    fn new() -> Self {
        let mut cloud = Self(Model::default());
        cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, Uuid::new_v4()));
        cloud
    }

    fn done<T>(&mut self, plan: impl FnOnce(&Model) -> Planned<T>) -> T {
        let (changes, result) = plan(&self.0).expect("this is right");
        changes.iter().for_each(|change| self.0.apply(change));
        result
    }

    /// The fault of what must be refused: complete, and without effect.
    fn refused<T: std::fmt::Debug>(&self, plan: impl FnOnce(&Model) -> Planned<T>) -> Fault {
        let fault = plan(&self.0).expect_err("this must be refused");
        assert!(!fault.problem.is_empty() && !fault.problem.ends_with('.'), "{fault:?}");
        assert!(fault.remedy.ends_with('.'), "{fault:?}");
        fault
    }

    fn network(&mut self, name: &str) -> Network {
        self.done(|model| model.create_network(&network(name), Uuid::new_v4()))
    }

    fn subnet(&mut self, network: &str, cidr: &str) -> Subnet {
        self.done(|model| model.create_subnet(&subnet(network, cidr), Uuid::new_v4()))
    }

    fn port(&mut self, network: &str, name: &str) -> Port {
        self.done(|model| model.create_port(&port(network, name), Uuid::new_v4()))
    }

    fn host(&mut self, name: &str) -> Host {
        self.done(|model| model.create_host(&v1::CreateHostRequest { name: name.into() }, Uuid::new_v4()))
    }

    fn plug(&mut self, port: &str, host: &str) -> Port {
        self.done(|model| model.plug_port(&plug(port, host)))
    }
}

fn network(name: &str) -> v1::CreateNetworkRequest {
    v1::CreateNetworkRequest { name: name.into(), ..Default::default() }
}

fn subnet(network: &str, cidr: &str) -> v1::CreateSubnetRequest {
    let name = format!("{network}-{}", cidr.replace(['/', ':'], "-"));
    v1::CreateSubnetRequest { name, network: network.into(), cidr: cidr.into(), ..Default::default() }
}

fn port(network: &str, name: &str) -> v1::CreatePortRequest {
    v1::CreatePortRequest { name: name.into(), network: network.into(), ..Default::default() }
}

fn with_address(mut request: v1::CreatePortRequest, address: &str) -> v1::CreatePortRequest {
    request.fixed_ips.push(v1::FixedIp { subnet_id: String::new(), ip_address: address.into() });
    request
}

fn plug(port: &str, host: &str) -> v1::PlugPortRequest {
    v1::PlugPortRequest { port: port.into(), host: host.into(), ..Default::default() }
}

fn said(fault: &Fault) -> (&str, &str) {
    (&fault.code, &fault.field)
}

const ID: Uuid = Uuid::from_u128(1);

#[test]
fn names_are_one_to_63_plain_characters() {
    let cloud = Cloud::new();
    let long = "x".repeat(64);
    for bad in ["", " ", "-a", "a b", "ä", "a/b", &long, "6f0c1c7e-0000-4000-8000-000000000001"] {
        let fault = cloud.refused(|model| model.create_network(&network(bad), ID));
        assert_eq!(said(&fault), ("bad_name", "name"), "{bad}");
    }
    for good in ["a", "A.b_c-9", &"x".repeat(63)] {
        assert!(cloud.0.create_network(&network(good), ID).is_ok(), "{good}");
    }
}

#[test]
fn names_are_unique_in_their_scope() {
    let mut cloud = Cloud::new();
    cloud.host("one");
    let fault = cloud.refused(|model| model.create_host(&v1::CreateHostRequest { name: "one".into() }, ID));
    assert_eq!(said(&fault), ("name_taken", "name"));
    let fault = cloud.refused(|model| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, ID));
    assert_eq!(said(&fault), ("name_taken", "name"));
    cloud.network("blue");
    cloud.subnet("blue", "10.0.0.0/24");
    cloud.port("blue", "web");
    let subnet = v1::CreateSubnetRequest { cidr: "10.1.0.0/24".into(), ..subnet("blue", "10.0.0.0/24") };
    let taken = [
        cloud.refused(|model| model.create_network(&network("blue"), ID)),
        cloud.refused(|model| model.create_subnet(&subnet, ID)),
        cloud.refused(|model| model.create_port(&port("blue", "web"), ID)),
    ];
    for fault in &taken {
        assert_eq!((said(fault), fault.status), (("name_taken", "name"), tonic::Code::AlreadyExists));
        assert!(fault.problem.contains("in project \"default\""), "{fault}");
    }
    // Another kind, and another project, has names of its own.
    cloud.port("blue", "blue");
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "other".into() }, Uuid::new_v4()));
    let elsewhere = v1::CreateNetworkRequest { project: "other".into(), ..network("blue") };
    assert!(cloud.0.create_network(&elsewhere, ID).is_ok());
}

#[test]
fn what_is_named_must_exist_and_be_one() {
    let mut cloud = Cloud::new();
    let first = cloud.network("blue");
    // No planner makes a second of a name; a store that has them stays usable.
    cloud.0.apply(&Change::put(Network { id: Uuid::new_v4(), segment: 7, ..first.clone() }));
    let fault = cloud.refused(|model| model.create_port(&port("blue", "web"), ID));
    assert_eq!(said(&fault), ("ambiguous_name", "network"));
    assert!(cloud.0.create_port(&port(&first.id.to_string(), "web"), ID).is_ok());
    let fault = cloud.refused(|model| model.create_port(&port("red", "web"), ID));
    assert_eq!(said(&fault), ("unknown_network", "network"));
    let fault = cloud.refused(|model| model.create_port(&port("", "web"), ID));
    assert_eq!(said(&fault), ("unknown_network", "network"));
    let request = v1::CreateNetworkRequest { project: "elsewhere".into(), ..network("green") };
    let fault = cloud.refused(|model| model.create_network(&request, ID));
    assert_eq!(said(&fault), ("unknown_project", "project"));
    let fault = cloud.refused(|model| model.delete_host("one"));
    assert_eq!(said(&fault), ("unknown_host", "host"));
    assert!(fault.remedy.contains("weft host create one"), "{fault}");
    assert_eq!(cloud.refused(|model| model.delete_port("web", "")).code, "unknown_port");
    assert_eq!(cloud.refused(|model| model.delete_subnet("web", "")).code, "unknown_subnet");
}

#[test]
fn names_are_looked_up_in_their_project() {
    let mut cloud = Cloud::new();
    cloud.done(|model| model.create_project(&v1::CreateProjectRequest { name: "other".into() }, Uuid::new_v4()));
    let blue = cloud.network("blue");
    let other = v1::CreateNetworkRequest { project: "other".into(), ..network("blue") };
    let other = cloud.done(|model| model.create_network(&other, Uuid::new_v4()));
    assert_eq!(cloud.0.find::<Network>("blue", "", "id").unwrap().id, blue.id);
    assert_eq!(cloud.0.find::<Network>("blue", "other", "id").unwrap().id, other.id);
    // An id of another project than the one that is said is not found.
    assert_eq!(cloud.0.find::<Network>(&other.id.to_string(), "default", "id").unwrap_err().code, "unknown_network");
    assert_eq!(cloud.0.find::<Network>(&other.id.to_string(), "", "id").unwrap().id, other.id);
    let fault = cloud.refused(|model| model.delete_project("other"));
    assert_eq!(said(&fault), ("in_use", "project"));
    assert_eq!(cloud.refused(|model| model.delete_project("default")).code, "in_use");
    cloud.done(|model| model.delete_network("blue", "other"));
    cloud.done(|model| model.delete_project("other"));
}

#[test]
fn segments_are_given_once() {
    let mut cloud = Cloud::new();
    let chosen = cloud.network("blue").segment;
    let taken = v1::CreateNetworkRequest { segment_id: chosen, ..network("red") };
    assert_eq!(said(&cloud.refused(|model| model.create_network(&taken, ID))), ("segment_taken", "segment_id"));
    let large = v1::CreateNetworkRequest { segment_id: 1 << 24, ..network("red") };
    assert_eq!(said(&cloud.refused(|model| model.create_network(&large, ID))), ("bad_segment", "segment_id"));
    // The next one is taken by hand: it is passed over. What is given back is not given out next.
    let next = v1::CreateNetworkRequest { segment_id: chosen + 1, ..network("hand") };
    cloud.done(|model| model.create_network(&next, Uuid::new_v4()));
    assert_eq!(cloud.network("red").segment, chosen + 2);
    cloud.done(|model| model.delete_network("red", ""));
    assert_eq!(cloud.network("green").segment, chosen + 3);
}

#[test]
fn what_only_dhcp_would_tell_is_refused_without_it() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let off = || v1::CreateSubnetRequest { disable_dhcp: true, ..subnet("blue", "10.0.0.0/24") };
    let route = v1::HostRoute { destination: "10.9.0.0/16".into(), nexthop: "10.0.0.9".into() };
    for (request, field) in [
        (v1::CreateSubnetRequest { dns_nameservers: vec!["192.0.2.53".into()], ..off() }, "dns_nameservers"),
        (v1::CreateSubnetRequest { host_routes: vec![route], ..off() }, "host_routes"),
        (v1::CreateSubnetRequest { lease_seconds: 3600, ..off() }, "lease_seconds"),
        (v1::CreateSubnetRequest { domain_name: "example".into(), ..off() }, "domain_name"),
    ] {
        let fault = cloud.refused(|model| model.create_subnet(&request, ID));
        assert_eq!(said(&fault), ("no_dhcp", field));
        let on = v1::CreateSubnetRequest { disable_dhcp: false, ..request };
        assert!(cloud.0.create_subnet(&on, ID).is_ok());
    }
    assert!(cloud.0.create_subnet(&off(), ID).is_ok());
}

#[test]
fn a_port_asks_for_an_underlay_address_of_its_host() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    cloud.subnet("blue", "10.0.0.0/24");
    let (host, web) = (cloud.host("one"), cloud.port("blue", "web"));
    let asking = |address: &str| v1::PlugPortRequest { underlay_address: address.into(), ..plug("web", "one") };
    let fault = cloud.refused(|model| model.plug_port(&asking("10.9.0.2")));
    assert_eq!(said(&fault), ("bad_address", "underlay_address"));
    assert!(fault.remedy.contains("It has reported none yet"), "{fault}");
    let end = |last, up| UnderlayAddress { up, ..UnderlayAddress::only([10, 9, 0, last], 1500).remove(0) };
    let report = |up| HostReport {
        underlay: vec![end(1, true), end(2, up)],
        physical: std::collections::BTreeMap::new(),
        version: "1".into(),
    };
    cloud.done(|model| model.report_host(host.id, &report(true)));
    for wrong in ["10.9.0.3", "ten"] {
        let fault = cloud.refused(|model| model.plug_port(&asking(wrong)));
        assert!(fault.remedy.contains("Give one of 10.9.0.1, 10.9.0.2"), "{fault}");
    }
    let web = {
        cloud.done(|model| model.plug_port(&asking("10.9.0.2")));
        cloud.0.ports[web.id].clone()
    };
    let to = |cloud: &Cloud| cloud.0.hosts[host.id].tunnel_end_of(&web);
    assert_eq!(to(&cloud), Some([10, 9, 0, 2].into()));
    // While it is down, to another; then to it again.
    cloud.done(|model| model.report_host(host.id, &report(false)));
    assert_eq!(to(&cloud), Some([10, 9, 0, 1].into()));
    cloud.done(|model| model.report_host(host.id, &report(true)));
    assert_eq!(to(&cloud), Some([10, 9, 0, 2].into()));
}

#[test]
fn an_mtu_fits_the_underlay() {
    let mut cloud = Cloud::new();
    assert_eq!(cloud.network("plain").mtu, 1450);
    let mtu = |mtu| v1::CreateNetworkRequest { mtu, ..network(&format!("mtu-{mtu}")) };
    for bad in [1, 67, 65_486] {
        let fault = cloud.refused(|model| model.create_network(&mtu(bad), ID));
        assert_eq!(said(&fault), ("bad_mtu", "mtu"), "{bad}");
    }
    cloud.done(|model| model.create_network(&mtu(8950), Uuid::new_v4()));
    let host = cloud.host("one");
    let report = HostReport {
        underlay: UnderlayAddress::only([10, 9, 0, 1], 1500),
        physical: std::collections::BTreeMap::new(),
        version: "1".into(),
    };
    cloud.done(|model| model.report_host(host.id, &report));
    let fault = cloud.refused(|model| model.create_network(&mtu(1451), ID));
    assert!(fault.problem.contains("\"one\" carries 1500") && fault.remedy.contains("1450"), "{fault}");
    assert!(cloud.0.create_network(&mtu(1450), ID).is_ok());
    // A network that was made before cannot come to a host that does not carry it.
    cloud.port("mtu-8950", "web");
    assert_eq!(said(&cloud.refused(|model| model.plug_port(&plug("web", "one")))), ("bad_mtu", "host"));
}

#[test]
fn subnets_are_ipv4_ranges_that_do_not_overlap() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let made = cloud.subnet("blue", "10.0.0.0/24");
    assert_eq!(made.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(made.dhcp, Some(Ipv4Addr::new(10, 0, 0, 254)));
    for overlapping in ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/8"] {
        let request = v1::CreateSubnetRequest { name: "x".into(), ..subnet("blue", overlapping) };
        let fault = cloud.refused(|model| model.create_subnet(&request, ID));
        assert_eq!(said(&fault), ("overlapping_subnet", "cidr"), "{overlapping}");
    }
    for bad in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10.1.0.1/24",
        "10.0.0/8",
        "0.0.0.0/0",
        "10.2.0.0/31",
        "224.0.0.0/24",
        "127.0.0.0/8",
    ] {
        let fault = cloud.refused(|model| {
            model.create_subnet(&v1::CreateSubnetRequest { name: "x".into(), ..subnet("blue", bad) }, ID)
        });
        assert_eq!(said(&fault), ("bad_cidr", "cidr"), "{bad}");
    }
    let fault = cloud.refused(|model| model.create_subnet(&subnet("blue", "10.1.0.1/24"), ID));
    assert!(fault.remedy.contains("10.1.0.0/24"), "{fault}");
    for (bad, says) in [("0.0.0.0/0", "too large"), ("10.2.0.0/31", "no room")] {
        let fault = cloud.refused(|model| model.create_subnet(&subnet("blue", bad), ID));
        assert!(fault.problem.contains(says), "{fault}");
    }
    let fault = cloud.refused(|model| model.create_subnet(&subnet("blue", "fd00::/64"), ID));
    assert_eq!(said(&fault), ("ipv6_unsupported", "cidr"));
    assert!(fault.problem.contains("not supported yet"));
    // The same range in another network is another range.
    cloud.network("red");
    cloud.subnet("red", "10.0.0.0/24");
}

#[test]
fn what_dhcp_offers_lies_in_the_subnet() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let base = || subnet("blue", "10.0.0.0/24");
    let refused =
        |cloud: &Cloud, request: v1::CreateSubnetRequest| cloud.refused(|model| model.create_subnet(&request, ID));
    for outside in ["10.0.1.1", "10.0.0.0", "10.0.0.255"] {
        let request = v1::CreateSubnetRequest { gateway_ip: outside.into(), ..base() };
        assert_eq!(said(&refused(&cloud, request)), ("gateway_outside_subnet", "gateway_ip"), "{outside}");
    }
    let request = v1::CreateSubnetRequest { gateway_ip: "gate".into(), ..base() };
    assert_eq!(said(&refused(&cloud, request)), ("bad_address", "gateway_ip"));
    let request = v1::CreateSubnetRequest { dns_nameservers: vec!["10.0.0.2".into(), "no".into()], ..base() };
    assert_eq!(said(&refused(&cloud, request)), ("bad_address", "dns_nameservers[1]"));
    let request = v1::CreateSubnetRequest { dns_nameservers: vec!["10.0.0.2".into(); 9], ..base() };
    assert_eq!(said(&refused(&cloud, request)), ("too_many", "dns_nameservers"));
    let route =
        |destination: &str, nexthop: &str| v1::HostRoute { destination: destination.into(), nexthop: nexthop.into() };
    let routes = |routes| v1::CreateSubnetRequest { host_routes: routes, ..base() };
    let fault = refused(&cloud, routes(vec![route("10.9.0.0/16", "10.1.0.1")]));
    assert_eq!(said(&fault), ("address_outside_subnet", "host_routes[0].nexthop"));
    let fault = refused(&cloud, routes(vec![route("10.9.0.1/16", "10.0.0.1")]));
    assert_eq!(said(&fault), ("bad_cidr", "host_routes[0].destination"));
    let fault = refused(&cloud, routes(vec![route("10.9.0.0/16", "10.0.0.1"), route("10.9.0.0/16", "10.0.0.2")]));
    assert_eq!(said(&fault), ("duplicate_route", "host_routes[1].destination"));
    assert_eq!(refused(&cloud, routes(vec![route("10.9.0.0/16", "10.0.0.1"); 17])).code, "too_many");
    let request = v1::CreateSubnetRequest { lease_seconds: 59, ..base() };
    assert_eq!(said(&refused(&cloud, request)), ("bad_lease", "lease_seconds"));
    for bad in ["a..b", "-a", "a b", "ä", ".", &"a".repeat(64)] {
        let request = v1::CreateSubnetRequest { domain_name: bad.into(), ..base() };
        assert_eq!(said(&refused(&cloud, request)), ("bad_domain", "domain_name"), "{bad}");
    }
    // The gateway has the last address: DHCP takes the one before.
    let request =
        v1::CreateSubnetRequest { gateway_ip: "10.0.0.254".into(), domain_name: "cloud.example".into(), ..base() };
    let made = cloud.done(|model| model.create_subnet(&request, Uuid::new_v4()));
    assert_eq!(made.dhcp, Some(Ipv4Addr::new(10, 0, 0, 253)));
    let request =
        v1::CreateSubnetRequest { gateway_ip: "none".into(), disable_dhcp: true, ..subnet("blue", "10.1.0.0/30") };
    let made = cloud.done(|model| model.create_subnet(&request, Uuid::new_v4()));
    assert_eq!((made.gateway, made.dhcp), (None, None));
}

#[test]
fn addresses_lie_in_a_subnet_and_have_one_owner() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let fault = cloud.refused(|model| model.create_port(&with_address(port("blue", "web"), "10.0.0.5"), ID));
    assert_eq!(said(&fault), ("address_outside_subnet", "fixed_ips[0].ip_address"));
    assert!(cloud.port("blue", "bare").addresses.is_empty());
    cloud.subnet("blue", "10.0.0.0/29");
    let web = cloud.port("blue", "web");
    // The first that is neither the gateway's (.1) nor DHCP's (.6).
    assert_eq!(web.addresses[0].address, Ipv4Addr::new(10, 0, 0, 2));
    for outside in ["10.0.1.5", "10.0.0.0", "10.0.0.7"] {
        let fault = cloud.refused(|model| model.create_port(&with_address(port("blue", "x"), outside), ID));
        assert_eq!(said(&fault), ("address_outside_subnet", "fixed_ips[0].ip_address"), "{outside}");
        assert!(fault.remedy.contains("10.0.0.0/29"), "{fault}");
    }
    for taken in ["10.0.0.2", "10.0.0.6"] {
        let fault = cloud.refused(|model| model.create_port(&with_address(port("blue", "x"), taken), ID));
        assert_eq!(said(&fault), ("address_taken", "fixed_ips[0].ip_address"), "{taken}");
    }
    let twice = with_address(with_address(port("blue", "x"), "10.0.0.3"), "10.0.0.4");
    assert_eq!(said(&cloud.refused(|model| model.create_port(&twice, ID))), ("duplicate_subnet", "fixed_ips[1]"));
    let fault = cloud.refused(|model| model.create_port(&with_address(port("blue", "x"), "::1"), ID));
    assert_eq!(fault.code, "ipv6_unsupported");
    cloud.network("red");
    let red = cloud.subnet("red", "10.0.0.0/29");
    let mut request = port("blue", "x");
    request.fixed_ips.push(v1::FixedIp { subnet_id: red.id.to_string(), ip_address: String::new() });
    let fault = cloud.refused(|model| model.create_port(&request, ID));
    assert_eq!(said(&fault), ("subnet_of_other_network", "fixed_ips[0].subnet_id"));
    // .3, .4, .5 are left; the gateway's is only given to who asks for it.
    for name in ["a", "b", "c"] {
        cloud.port("blue", name);
    }
    assert_eq!(cloud.refused(|model| model.create_port(&port("blue", "d"), ID)).code, "no_free_address");
    cloud.done(|model| model.create_port(&with_address(port("blue", "router"), "10.0.0.1"), Uuid::new_v4()));
    cloud.done(|model| model.delete_port("b", ""));
    assert_eq!(cloud.port("blue", "d").addresses[0].address, Ipv4Addr::new(10, 0, 0, 4));
}

#[test]
fn macs_are_unique_in_a_network() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    cloud.network("red");
    let subnet = cloud.subnet("blue", "10.0.0.0/24");
    let mac = |network: &str, mac: &str| v1::CreatePortRequest { mac_address: mac.into(), ..port(network, "x") };
    let first = v1::CreatePortRequest { name: "first".into(), ..mac("blue", "02:00:00:00:00:01") };
    cloud.done(|model| model.create_port(&first, Uuid::new_v4()));
    for taken in ["02:00:00:00:00:01".to_owned(), subnet.dhcp_mac().to_string()] {
        let fault = cloud.refused(|model| model.create_port(&mac("blue", &taken), ID));
        assert_eq!(said(&fault), ("duplicate_mac", "mac_address"), "{taken}");
    }
    assert!(cloud.0.create_port(&mac("red", "02:00:00:00:00:01"), ID).is_ok());
    for bad in [
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "0200.0000.0001",
        "01:00:00:00:00:01",
        "00:00:00:00:00:00",
        "+2:00:00:00:00:01",
    ] {
        let fault = cloud.refused(|model| model.create_port(&mac("red", bad), ID));
        assert_eq!(said(&fault), ("bad_mac", "mac_address"), "{bad}");
    }
}

#[test]
fn ports_find_a_place_and_leave_it() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let web = cloud.port("blue", "web");
    assert_eq!(cloud.refused(|model| model.plug_port(&plug("web", ""))).code, "unknown_host");
    cloud.host("one");
    let fault = cloud.refused(|model| model.plug_port(&plug("web", "two")));
    assert_eq!(said(&fault), ("unknown_host", "host"));
    for bad in ["x".repeat(16), "a/b".into(), "a b".into(), ".".into(), "a:b".into()] {
        let request = v1::PlugPortRequest { interface: bad.clone(), ..plug("web", "one") };
        assert_eq!(said(&cloud.refused(|model| model.plug_port(&request))), ("bad_interface", "interface"), "{bad}");
    }
    for bad in ["../x", "a/b", ".", "-n"] {
        let request = v1::PlugPortRequest { netns: bad.into(), ..plug("web", "one") };
        assert_eq!(said(&cloud.refused(|model| model.plug_port(&request))), ("bad_netns", "netns"), "{bad}");
    }
    // The only host is meant when none is named.
    let plugged = cloud.plug("web", "");
    assert_eq!(plugged.plug.as_ref().unwrap().interface, format!("weft{}", web.number));
    assert_eq!(cloud.0.plug_port(&plug("web", "one")).unwrap().0, []);
    let elsewhere = v1::PlugPortRequest { netns: "ns".into(), ..plug("web", "one") };
    assert_eq!(said(&cloud.refused(|model| model.plug_port(&elsewhere))), ("already_plugged", "port"));
    cloud.port("blue", "db");
    let same = v1::PlugPortRequest { interface: format!("weft{}", web.number), ..plug("db", "one") };
    assert_eq!(said(&cloud.refused(|model| model.plug_port(&same))), ("interface_taken", "interface"));
    // A virtual machine's socket: in no namespace, and nobody else's.
    let machine =
        |port, socket: &str| v1::PlugPortRequest { interface: socket.into(), vhost_user: true, ..plug(port, "one") };
    for bad in ["db.sock".to_owned(), format!("/{}", "x".repeat(107)), "/a\0".into()] {
        let fault = cloud.refused(|model| model.plug_port(&machine("db", &bad)));
        assert_eq!(said(&fault), ("bad_interface", "interface"), "{bad}");
    }
    let inside = v1::PlugPortRequest { netns: "ns".into(), ..machine("db", "") };
    assert_eq!(said(&cloud.refused(|model| model.plug_port(&inside))), ("bad_netns", "netns"));
    let plugged = cloud.done(|model| model.plug_port(&machine("db", "/run/db.sock")));
    assert_eq!(Port::from_record(plugged.record()).unwrap(), plugged);
    cloud.port("blue", "cache");
    let fault = cloud.refused(|model| model.plug_port(&machine("cache", "/run/db.sock")));
    assert_eq!((said(&fault), fault.problem.contains("is the socket of")), (("interface_taken", "interface"), true));
    cloud.done(|model| model.plug_port(&machine("cache", "")));
    cloud.done(|model| model.unplug_port(&v1::UnplugPortRequest { port: "db".into(), ..Default::default() }));
    cloud.host("two");
    assert_eq!(said(&cloud.refused(|model| model.plug_port(&plug("db", "")))), ("unknown_host", "host"));
    let unplug = v1::UnplugPortRequest { port: "web".into(), ..Default::default() };
    cloud.done(|model| model.unplug_port(&unplug));
    assert_eq!(cloud.0.unplug_port(&unplug).unwrap().0, []);
    assert_eq!(cloud.plug("web", "two").number, web.number);
}

#[test]
fn what_is_in_use_stays() {
    let mut cloud = Cloud::new();
    cloud.host("one");
    cloud.network("blue");
    cloud.subnet("blue", "10.0.0.0/24");
    cloud.port("blue", "web");
    cloud.plug("web", "one");
    let refused = [
        cloud.refused(|model| model.delete_port("web", "")),
        cloud.refused(|model| model.delete_subnet("blue-10.0.0.0-24", "")),
        cloud.refused(|model| model.delete_network("blue", "")),
        cloud.refused(|model| model.delete_host("one")),
    ];
    for (fault, field) in refused.iter().zip(["port", "subnet", "network", "host"]) {
        assert_eq!((said(fault), fault.status), (("in_use", field), tonic::Code::FailedPrecondition), "{fault}");
    }
    cloud.done(|model| model.unplug_port(&v1::UnplugPortRequest { port: "web".into(), ..Default::default() }));
    cloud.done(|model| model.delete_host("one"));
    cloud.done(|model| model.delete_port("web", ""));
    cloud.done(|model| model.delete_network("blue", ""));
    // Its subnets went with it, and no index remembers anything.
    assert!(cloud.0.subnets.is_empty());
    let emptied = Model {
        counters: cloud.0.counters.clone(),
        projects: cloud.0.projects.clone(),
        security_groups: cloud.0.security_groups.clone(),
        security_group_rules: cloud.0.security_group_rules.clone(),
        ..Model::default()
    };
    assert_eq!(format!("{:?}", cloud.0), format!("{emptied:?}"));
}

#[test]
fn an_underlay_address_has_one_host() {
    let mut cloud = Cloud::new();
    let (one, two) = (cloud.host("one"), cloud.host("two"));
    let report = HostReport {
        underlay: UnderlayAddress::only([10, 9, 0, 1], 1500),
        physical: std::collections::BTreeMap::new(),
        version: "1".into(),
    };
    cloud.done(|model| model.report_host(one.id, &report));
    assert_eq!(cloud.0.report_host(one.id, &report).unwrap().0, []);
    cloud.done(|model| model.report_host(two.id, &report));
    assert_eq!(cloud.0.hosts.get(one.id).unwrap().underlay, []);
    assert_eq!(cloud.0.hosts.get(two.id).unwrap().underlay, report.underlay);
}

#[test]
fn numbers_are_not_reused_at_once() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    let first = cloud.port("blue", "a").number;
    cloud.done(|model| model.delete_port("a", ""));
    assert_eq!(cloud.port("blue", "b").number, first + 1);
    let last = Counters { next_port: FIRST_RESERVED_PORT, ..cloud.0.next() };
    cloud.0.apply(&Change::put(last));
    // All have had their turn: from the first again, past the one that is in use.
    assert_eq!(cloud.port("blue", "c").number, first);
    assert_eq!(cloud.port("blue", "d").number, first + 2);
}

#[test]
fn limits_hold() {
    let mut cloud = Cloud::new();
    cloud.network("blue");
    for index in 0..crate::limits::SUBNETS_PER_NETWORK {
        cloud.subnet("blue", &format!("10.{index}.0.0/24"));
    }
    let fault = cloud.refused(|model| model.create_subnet(&subnet("blue", "10.99.0.0/24"), ID));
    assert_eq!((fault.code.as_str(), fault.status), ("limit_reached", tonic::Code::ResourceExhausted));
    cloud.host("one");
    for index in 0..=crate::limits::PORTS_PER_NETWORK_AND_HOST {
        cloud.port("blue", &format!("p{index}"));
    }
    for index in 0..crate::limits::PORTS_PER_NETWORK_AND_HOST {
        cloud.plug(&format!("p{index}"), "one");
    }
    let last = format!("p{}", crate::limits::PORTS_PER_NETWORK_AND_HOST);
    assert_eq!(cloud.refused(|model| model.plug_port(&plug(&last, "one"))).code, "limit_reached");
    let many = v1::CreatePortRequest {
        fixed_ips: vec![v1::FixedIp::default(); crate::limits::ADDRESSES_PER_PORT + 1],
        ..port("blue", "x")
    };
    assert_eq!(cloud.refused(|model| model.create_port(&many, ID)).code, "too_many");
}

#[test]
fn host_labels_are_labels() {
    let address = Ipv4Addr::new(10, 0, 0, 5);
    assert_eq!(host_label("Web_1.blue", address), "web-1-blue");
    assert_eq!(host_label("a-", address), "a");
    assert_eq!(host_label("_", address), "host-10-0-0-5");
}

#[test]
fn prefixes_know_their_bounds() {
    let prefix = |text: &str| Ipv4Prefix::parse(text, "").unwrap();
    assert_eq!(
        prefix("10.0.0.0/30").hosts().collect::<Vec<_>>(),
        [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]
    );
    assert!(prefix("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
    assert!(prefix("255.255.255.255/32").hosts().next().is_none());
    assert!(
        prefix("10.0.0.0/8").overlaps(prefix("10.9.0.0/16")) && prefix("10.9.0.0/16").overlaps(prefix("10.0.0.0/8"))
    );
    assert!(!prefix("10.0.0.0/24").overlaps(prefix("10.0.1.0/24")));
}
