//! Opening, replacing and refusing ports.

use super::*;

#[test]
fn a_port_that_cannot_be_opened_refuses_the_bundle_and_leaves_nothing() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    bench.ports.broken.lock().unwrap().insert(4);
    let bundle = v1::Bundle {
        add_ports: vec![port(3), port(4)],
        remove_ports: vec![1],
        add_rules: vec![rule(5, vec![], vec![output(3)])],
        ..Default::default()
    };
    let fault = bench.manual(bundle).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("port_failed", "add_ports[1].pcap"));
    assert_eq!(bench.port_numbers(), [1, 2]);
    assert_eq!(bench.rules().len(), 1);
    // Port 3 was opened before 4 failed: it is closed again.
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([1, 2]));
    bench.peer(1).send(frame(7)).unwrap();
    assert!(bench.peer(2).wait(PATIENCE).is_some(), "what was there goes on");
}

#[test]
fn a_port_of_the_same_number_is_replaced_and_the_old_one_comes_back_if_that_fails() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    // The same interface, another specification: the old one must be closed first.
    let mut other = port(2);
    other.kind = Some(Kind::Pcap(v1::PcapPort {
        receive_file: "x".to_owned(),
        transmit_file: "mem2".to_owned(),
        ..Default::default()
    }));
    bench.manual(v1::Bundle { add_ports: vec![other.clone()], ..Default::default() }).unwrap();
    bench.peer(1).send(frame(7)).unwrap();
    assert!(bench.peer(2).wait(PATIENCE).is_some());

    bench.ports.broken.lock().unwrap().insert(9);
    let bundle = v1::Bundle { add_ports: vec![port(2), port(9)], ..Default::default() };
    assert_eq!(bench.manual(bundle).unwrap_err().field, "add_ports[1].pcap");
    bench.peer(1).send(frame(8)).unwrap();
    assert_eq!(bench.peer(2).wait(PATIENCE).expect("port 2 is open again").bytes, frame(8));
    let now = bench.switch.ports().ports[1].spec.clone().unwrap();
    assert_eq!(now.kind, other.kind);
    // Another name alone keeps the port as it is.
    let peer = bench.peer(2);
    let renamed = v1::PortSpec { name: "renamed".to_owned(), ..other };
    bench.manual(v1::Bundle { add_ports: vec![renamed], ..Default::default() }).unwrap();
    bench.peer(1).send(frame(9)).unwrap();
    assert!(peer.wait(PATIENCE).is_some());
    assert_eq!(bench.switch.ports().ports[1].spec.as_ref().unwrap().name, "renamed");
}

#[test]
fn wrong_ports_are_refused() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let refused = |spec: v1::PortSpec| {
        let fault = bench.manual(v1::Bundle { add_ports: vec![spec], ..Default::default() }).unwrap_err();
        (fault.code, fault.field.replace("add_ports[0].", ""))
    };
    let kind = |kind: Kind| v1::PortSpec { kind: Some(kind), ..port(9) };
    let pair = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    assert_eq!(refused(port(0)), pair("bad_port", "number"));
    assert_eq!(refused(port(0xffff_ff01)), pair("bad_port", "number"));
    assert_eq!(refused(named(9, "two words")), pair("bad_port", "name"));
    assert_eq!(refused(v1::PortSpec { kind: None, ..port(9) }), pair("bad_port", "kind"));
    let tap = |interface: &str, mac: &[u8], mtu, netns: &str| {
        kind(Kind::Tap(v1::TapPort {
            interface: interface.to_owned(),
            netns: netns.to_owned(),
            mac: mac.to_vec(),
            mtu,
        }))
    };
    assert_eq!(refused(tap("sixteen-letters-", &[], 0, "")), pair("bad_port", "tap.interface"));
    assert_eq!(refused(tap("a", &[1, 0, 0, 0, 0, 1], 0, "")), pair("bad_port", "tap.mac"));
    assert_eq!(refused(tap("a", &[], 67, "")), pair("bad_port", "tap.mtu"));
    assert_eq!(refused(tap("a", &[], 0, "../x")), pair("bad_port", "tap.netns"));
    assert_eq!(refused(kind(Kind::AfXdp(v1::AfXdpPort::default()))), pair("bad_port", "af_xdp.interface"));
    assert_eq!(refused(vxlan(9, 0)), pair("no_underlay", "port vxlan"));
    assert_eq!(refused(vxlan(9, 77)), pair("no_underlay", "port vxlan"));
    assert_eq!(refused(vxlan(9, 9)), pair("no_underlay", "port vxlan"));
    bench.manual(v1::Bundle { add_ports: vec![vxlan(9, 1)], ..Default::default() }).unwrap();
    let fault = bench.manual(v1::Bundle { remove_ports: vec![1], ..Default::default() }).unwrap_err();
    assert_eq!(fault.code, "no_underlay", "a tunnel runs over it");
    bench.manual(v1::Bundle { remove_ports: vec![1, 9], ..Default::default() }).unwrap();
    assert_eq!(
        bench.manual(v1::Bundle { remove_ports: vec![1], ..Default::default() }).unwrap_err().code,
        "no_such_port"
    );
    assert!(bench.fabric(v1::Bundle { remove_ports: vec![1], ..Default::default() }).is_ok());
}

#[test]
fn a_configured_port_is_not_touched_by_bundles() {
    let bench = bench();
    let spec = v1::PortSpec { owner: v1::Owner::Manual.into(), ..port(0x00ff_0000) };
    bench.switch.open_configured(spec.clone()).unwrap();
    bench.manual(v1::Bundle { replace_owner: v1::Owner::Manual.into(), ..Default::default() }).unwrap();
    assert_eq!(bench.port_numbers(), [0x00ff_0000]);
    let fault = bench.manual(v1::Bundle { remove_ports: vec![spec.number], ..Default::default() }).unwrap_err();
    assert!(fault.remedy.contains("[underlay]"), "{fault}");
}

#[test]
fn a_port_of_the_fabric_that_cannot_be_opened_fails_alone_and_is_tried_again() {
    let bench = bench();
    bench.ports.broken.lock().unwrap().insert(4);
    let owned = |number| v1::PortSpec { owner: v1::Owner::Fabric.into(), ..port(number) };
    let bundle = v1::Bundle { term: 1, generation: 1, add_ports: vec![owned(3), owned(4)], ..Default::default() };
    let done = bench.fabric(bundle).unwrap();
    let states: Vec<&str> = done.ports.iter().map(|port| port.state.as_str()).collect();
    assert!(states.contains(&"up") && states.iter().any(|state| state.starts_with("failed: pcap: it is broken")));
    bench.switch.retry_failed();
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([3]));
    bench.ports.broken.lock().unwrap().clear();
    bench.switch.retry_failed();
    assert!(bench.switch.ports().ports.iter().all(|port| port.state == "up"));
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([3, 4]));
}

#[test]
fn a_lost_port_is_shown_and_made_anew_if_it_is_the_fabrics() {
    let bench = bench();
    let owned = v1::PortSpec { owner: v1::Owner::Fabric.into(), ..port(3) };
    bench.fabric(v1::Bundle { term: 1, generation: 1, add_ports: vec![owned], ..Default::default() }).unwrap();
    let to_lost = |from, to| rule(from, vec![from_port(from)], vec![output(to)]);
    let add_rules = vec![to_lost(1, 3), to_lost(2, 3), to_lost(3, 1)];
    bench.manual(v1::Bundle { add_ports: vec![port(1), port(2)], add_rules, ..Default::default() }).unwrap();
    let states = || bench.switch.ports().ports.into_iter().map(|port| port.state).collect::<Vec<_>>();
    bench.switch.notice_losses();
    assert_eq!(states(), ["up", "up", "up"]);
    let mut changes = bench.switch.changes();
    bench.ports.lost.lock().unwrap().extend([2, 3]);
    bench.switch.notice_losses();
    assert!(changes.has_changed().unwrap(), "the agent reports it");
    changes.mark_unchanged();
    let seen = states();
    assert_eq!((seen[0].as_str(), seen[2].as_str()), ("up", "failed: pcap: it was taken away. Wait."));
    assert!(
        seen[1].starts_with("failed: pcap: it was taken away. Remove the port (weft ports del HOST 2)"),
        "{seen:?}"
    );
    assert_eq!(*bench.ports.open.lock().unwrap(), BTreeSet::from([1]), "what is left of it is closed");
    // What is lost is told once.
    bench.switch.notice_losses();
    assert!(!changes.has_changed().unwrap());
    bench.peer(1).send(frame(7)).unwrap();
    eventually("frames to it are dropped", || bench.dropped(DropReason::PortDown) == [(1, 1)]);

    bench.ports.lost.lock().unwrap().clear();
    bench.switch.retry_failed();
    let seen = states();
    assert_eq!((seen[0].as_str(), seen[2].as_str()), ("up", "up"));
    assert!(seen[1].starts_with("failed"), "a person decides about what a person made");
    assert!(changes.has_changed().unwrap());
    bench.peer(3).send(frame(8)).unwrap();
    assert_eq!(bench.peer(1).wait(PATIENCE).expect("it receives again").bytes, frame(8));
    bench.peer(1).send(frame(9)).unwrap();
    assert_eq!(bench.peer(3).wait(PATIENCE).expect("it sends again").bytes, frame(9));
    bench.manual(v1::Bundle { remove_ports: vec![2], ..Default::default() }).unwrap();
    bench.manual(v1::Bundle { add_ports: vec![port(2)], ..Default::default() }).unwrap();
    assert_eq!(states(), ["up", "up", "up"]);
}

fn shared(addresses: &[[u8; 4]]) -> v1::PortSpec {
    let addresses = addresses.iter().map(|address| address.to_vec()).collect();
    let port = v1::AfXdpPort { interface: "mem1".to_owned(), addresses, ..Default::default() };
    v1::PortSpec { kind: Some(Kind::AfXdp(port)), ..named(1, "external") }
}

#[test]
fn addresses_of_an_interface_change_while_it_is_open() {
    let bench = bench();
    let add = |addresses: &[[u8; 4]]| v1::Bundle { add_ports: vec![shared(addresses)], ..Default::default() };
    let ours = || bench.ports.addresses.lock().unwrap()[&1].iter().map(Ipv4Addr::octets).collect::<Vec<_>>();
    bench.manual(add(&[[192, 0, 2, 10]])).unwrap();
    assert_eq!(ours(), [[192, 0, 2, 10]]);
    // The port would panic if it were opened a second time.
    bench.manual(add(&[[192, 0, 2, 11], [192, 0, 2, 12]])).unwrap();
    assert_eq!(ours(), [[192, 0, 2, 11], [192, 0, 2, 12]]);
    let spec = bench.switch.ports().ports.remove(0).spec.unwrap();
    assert_eq!(spec.kind, shared(&[[192, 0, 2, 11], [192, 0, 2, 12]]).kind);
    // A bundle that is refused leaves them as they are.
    let bad = v1::Bundle { add_rules: vec![rule(1, vec![], vec![output(0)])], ..add(&[]) };
    bench.manual(bad).unwrap_err();
    assert_eq!(ours(), [[192, 0, 2, 11], [192, 0, 2, 12]]);
}

#[test]
fn the_host_does_not_lose_its_own_address() {
    let bench = bench();
    let interface = |addresses: &[Ipv4Addr]| crate::underlay::Interface {
        index: 1,
        name: "mem1".to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        carrier: true,
        addresses: addresses.to_vec(),
    };
    let set = |addresses: &[Ipv4Addr]| {
        let interfaces = Arc::new(vec![interface(addresses)]);
        bench.switch.set_underlay(UnderlayState { interfaces, ..Default::default() });
    };
    let own = Ipv4Addr::new(192, 0, 2, 2);
    set(&[own]);
    let fault =
        bench.manual(v1::Bundle { add_ports: vec![shared(&[[192, 0, 2, 10], own.octets()])], ..Default::default() });
    assert_eq!(fault.unwrap_err().field, "add_ports[0].af_xdp.addresses[1]");
    let owned = v1::PortSpec { owner: v1::Owner::Fabric.into(), ..shared(&[[192, 0, 2, 10], own.octets()]) };
    bench.fabric(v1::Bundle { term: 1, generation: 1, add_ports: vec![owned], ..Default::default() }).unwrap();
    let ours = || bench.ports.addresses.lock().unwrap()[&1].clone();
    assert_eq!(ours(), BTreeSet::from([Ipv4Addr::new(192, 0, 2, 10)]));
    // As addresses come and go.
    set(&[own, Ipv4Addr::new(192, 0, 2, 10)]);
    assert_eq!(ours(), BTreeSet::new());
    set(&[]);
    assert_eq!(ours(), BTreeSet::from([own, Ipv4Addr::new(192, 0, 2, 10)]));
}

type Change<'a> = &'a dyn Fn(&mut v1::AfXdpPort);

#[test]
fn addresses_that_cannot_be_ours_are_refused() {
    let bench = bench();
    let all = |port: &mut v1::AfXdpPort| port.take_all = true;
    let many = |port: &mut v1::AfXdpPort| port.addresses = vec![vec![192, 0, 2, 1]; 4097];
    let with = |bytes: &'static [u8]| move |port: &mut v1::AfXdpPort| port.addresses.push(bytes.to_vec());
    let cases: [(&str, Change<'_>); 5] = [
        ("af_xdp.addresses", &all),
        ("af_xdp.addresses", &many),
        ("af_xdp.addresses[1]", &with(&[224, 0, 0, 5])),
        ("af_xdp.addresses[1]", &with(&[1, 2, 3])),
        ("af_xdp.addresses[1]", &with(&[])),
    ];
    for (field, change) in cases {
        let mut spec = shared(&[[192, 0, 2, 10]]);
        let Some(Kind::AfXdp(port)) = &mut spec.kind else { unreachable!("it is one") };
        change(port);
        let fault = bench.manual(v1::Bundle { add_ports: vec![spec], ..Default::default() }).unwrap_err();
        assert_eq!(fault.field, format!("add_ports[0].{field}"), "{fault}");
        assert!(!fault.remedy.is_empty());
    }
}
