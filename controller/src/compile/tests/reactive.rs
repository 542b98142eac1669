//! Reactive networks: what a host knows before it asks, and after.

use super::*;
use crate::compile::reactive::{is_of_use, look_up};
use weft_proto::{PUNT_ADDRESS, PUNT_STATION};

/// An ARP request.
fn asks(port: &Port, target: Ipv4Addr) -> Packet {
    arp(port, port.address().unwrap(), target)
}

/// Reactive network green: a and b on one, c on two, d on three.
struct Green {
    cloud: Cloud,
    hosts: [Uuid; 3],
    segment: u32,
    ports: [Port; 4],
}

fn green() -> Green {
    let mut cloud = Cloud::default();
    cloud.make(|model, id| model.create_project(&v1::CreateProjectRequest { name: "default".into() }, id));
    let hosts = [cloud.host("one", 1), cloud.host("two", 2), cloud.host("three", 3)];
    let request = v1::CreateNetworkRequest { name: "green".into(), reactive: true, ..Default::default() };
    let segment = cloud.make(|model, id| model.create_network(&request, id)).segment;
    let request = v1::CreateSubnetRequest {
        name: "g".into(),
        network: "green".into(),
        cidr: "10.0.0.0/24".into(),
        ..Default::default()
    };
    cloud.make(|model, id| model.create_subnet(&request, id));
    let ports = [
        cloud.port("green", "a", "one"),
        cloud.port("green", "b", "one"),
        cloud.port("green", "c", "two"),
        cloud.port("green", "d", "three"),
    ];
    Green { cloud, hosts, segment, ports }
}

impl Green {
    fn one(&self, subscribed: &[usize]) -> HostState {
        let subscribed = subscribed.iter().map(|&index| self.ports[index].id).collect();
        compile(&self.cloud.model, self.hosts[0], &subscribed)
    }

    fn tunnel(&self, host: u8) -> Fate {
        Fate::Tunnel { segment: self.segment.into(), host: [10, 9, 0, host].into() }
    }

    fn look_up(&self, target: &[u8]) -> Option<Uuid> {
        look_up(&self.cloud.model, self.hosts[0], self.ports[0].number, target).map(|port| port.id)
    }
}

#[test]
fn what_is_elsewhere_is_asked_for_until_it_is_subscribed_to() {
    let green = green();
    let [a, b, c, d] = &green.ports;
    let before = green.one(&[]);
    assert_eq!(fates(&before, &ipv4(a, b.mac.0)), [Fate::Port(b.number)], "what is here is known");
    assert_eq!(fates(&before, &asks(a, b.address().unwrap())), [Fate::Arp(b.mac)]);
    assert_eq!(fates(&before, &ipv4(a, c.mac.0)), [Fate::Punted(PUNT_STATION)]);
    assert_eq!(fates(&before, &asks(a, c.address().unwrap())), [Fate::Punted(PUNT_ADDRESS)]);
    let after = green.one(&[2]);
    assert_eq!(fates(&after, &ipv4(a, c.mac.0)), [green.tunnel(2)]);
    assert_eq!(fates(&after, &asks(a, c.address().unwrap())), [Fate::Arp(c.mac)]);
    assert_eq!(fates(&after, &ipv4(a, d.mac.0)), [Fate::Punted(PUNT_STATION)]);
    let bundle = before.bundle_to(&after);
    assert_eq!((bundle.add_rules.len(), bundle.remove_rules.len()), (2, 0));
    // What comes out of the tunnel is never asked about, nor what is for nobody's subnet.
    assert_eq!(fates(&before, &from_tunnel(green.segment, c.mac.0)), [Fate::Dropped(DropCause::UnknownDestination)]);
    assert_eq!(
        fates(&before, &asks(a, [10, 9, 9, 9].into())),
        [Fate::Port(b.number), green.tunnel(2), green.tunnel(3)]
    );
}

#[test]
fn a_port_is_followed_and_forgotten() {
    let mut green = green();
    let (one, c, mac) = (green.hosts[0], green.ports[2].id, green.ports[2].mac.0);
    assert!(is_of_use(&green.cloud.model, one, c));
    let unplug = v1::UnplugPortRequest { port: "c".into(), ..Default::default() };
    green.cloud.make(|model, _| model.unplug_port(&unplug));
    assert!(!is_of_use(&green.cloud.model, one, c));
    assert_eq!(green.one(&[2]).rules, green.one(&[]).rules, "nothing is left of it");
    let plug = |host: &str| v1::PlugPortRequest { port: "c".into(), host: host.into(), ..Default::default() };
    green.cloud.make(|model, _| model.plug_port(&plug("three")));
    assert_eq!(fates(&green.one(&[2]), &ipv4(&green.ports[0], mac)), [green.tunnel(3)]);
    green.cloud.make(|model, _| model.unplug_port(&unplug));
    green.cloud.make(|model, _| model.plug_port(&plug("one")));
    assert!(!is_of_use(&green.cloud.model, one, c), "it is here");
    assert_eq!(green.one(&[2]).rules, green.one(&[]).rules);
    assert_eq!(fates(&green.one(&[]), &ipv4(&green.ports[0], mac)), [Fate::Port(green.ports[2].number)]);
}

#[test]
fn the_controller_finds_ports_of_the_askers_network_alone() {
    let mut green = green();
    let c = green.ports[2].clone();
    let address = c.address().unwrap().octets();
    assert_eq!((green.look_up(&address), green.look_up(&c.mac.0)), (Some(c.id), Some(c.id)));
    for nothing in [&[10, 0, 0, 250][..], &[10, 1, 0, 3], &[2, 0, 0, 0, 0, 1], &[], &[1; 16]] {
        assert_eq!(green.look_up(nothing), None);
    }
    // The port of another host, of none, and of a network whose hosts know everything.
    let model = &green.cloud.model;
    assert!(look_up(model, green.hosts[1], green.ports[0].number, &address).is_none());
    assert!(look_up(model, green.hosts[0], 4711, &address).is_none());
    green.cloud.network("blue");
    let plain = green.cloud.port("blue", "plain", "one");
    let other = green.cloud.port("blue", "other", "two");
    assert!(look_up(&green.cloud.model, green.hosts[0], plain.number, &other.mac.0).is_none());
    let unplug = v1::UnplugPortRequest { port: "c".into(), ..Default::default() };
    green.cloud.make(|model, _| model.unplug_port(&unplug));
    assert_eq!(green.look_up(&address), None);
}

#[test]
fn what_nobody_can_know_goes_to_everybody() {
    let mut green = green();
    let a = green.ports[0].clone();
    let all = [Fate::Port(green.ports[1].number), green.tunnel(2), green.tunnel(3)];
    let pairs = vec![v1::AddressPair { ip_address: "10.0.0.192/28".into(), ..Default::default() }];
    let request = v1::UpdatePortRequest {
        port: "d".into(),
        allowed_address_pairs: Some(v1::AddressPairs { pairs }),
        ..Default::default()
    };
    green.cloud.make(|model, _| model.update_port(&request));
    assert_eq!(fates(&green.one(&[]), &asks(&a, [10, 0, 0, 200].into())), all);
    assert_eq!(fates(&green.one(&[]), &asks(&a, [10, 0, 0, 99].into())), [Fate::Punted(PUNT_ADDRESS)]);
    let request = v1::UpdatePortRequest {
        port: "d".into(),
        port_security_enabled: Some(false),
        allowed_address_pairs: Some(v1::AddressPairs::default()),
        security_groups: Some(v1::SecurityGroupChoice::default()),
        ..Default::default()
    };
    green.cloud.make(|model, _| model.update_port(&request));
    assert_eq!(fates(&green.one(&[]), &asks(&a, [10, 0, 0, 99].into())), all);
    assert_eq!(fates(&green.one(&[]), &ipv4(&a, green.ports[3].mac.0)), [Fate::Punted(PUNT_STATION)]);
}

#[test]
fn what_a_reactive_network_cannot_be_is_refused() {
    let mut green = green();
    let request = v1::CreateNetworkRequest {
        name: "wire".into(),
        segment_type: "vlan".into(),
        physical_network: "provider".into(),
        reactive: true,
        ..Default::default()
    };
    let fault = green.cloud.model.create_network(&request, Uuid::new_v4()).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("bad_segment", "reactive"));
    let router = v1::CreateRouterRequest { name: "r".into(), ..Default::default() };
    green.cloud.make(|model, id| model.create_router(&router, id));
    let request = v1::AddRouterInterfaceRequest { router: "r".into(), subnet: "g".into(), ..Default::default() };
    let fault = green.cloud.model.add_router_interface(&request, Uuid::new_v4()).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("reactive_network", "subnet"));
}
