//! Interfaces that somebody deletes under a running switch: TAPs, alone or with their network namespace, and the
//! host's own.

mod namespace;

use namespace::{Namespace, eventually, run};
use std::sync::Arc;
use weft_dataplane::flow::rule::Owner;
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::switch::{KernelPorts, Switch, SwitchSettings};
use weft_dataplane::worker::WorkerSettings;
use weft_proto::v1::action::Action as Wire;
use weft_proto::v1::{self, Field, port_spec::Kind};

const WEB: u32 = 1;
const DATABASE: u32 = 2;
const BY_HAND: u32 = 3;

/// A switch in the test's own namespace, whose TAPs are elsewhere.
struct Running(Arc<Switch>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Running {
    fn start(workers: usize) -> Self {
        let settings = SwitchSettings {
            host: "one".to_owned(),
            managed: false,
            memory: Memory::map(2048, 64).unwrap(),
            workers: vec![WorkerSettings::default(); workers],
            opener: Box::new(KernelPorts::default()),
            physical: std::collections::BTreeMap::new(),
        };
        Self(Switch::start(settings).unwrap())
    }

    /// What the program's timer does.
    fn tend(&self) {
        self.0.retry_failed();
        self.0.notice_losses();
    }

    fn state(&self, number: u32) -> String {
        let ports = self.0.ports().ports;
        ports.into_iter().find(|port| port.spec.as_ref().unwrap().number == number).expect("the port is listed").state
    }
}

fn tap(number: u32, owner: v1::Owner, interface: &str, namespace: &Namespace) -> v1::PortSpec {
    let tap = v1::TapPort {
        interface: interface.to_owned(),
        netns: namespace.name.clone(),
        mac: vec![2, 0, 0, 0, 0, number as u8],
        mtu: 1400,
    };
    let name = format!("port-{number}");
    v1::PortSpec { number, name, owner: owner.into(), kind: Some(Kind::Tap(tap)) }
}

/// Everything from one port leaves by the other.
fn wire(from: u32, to: u32) -> v1::Rule {
    let output = v1::Action { action: Some(Wire::Output(v1::Output { port: to })) };
    let from = v1::FieldMatch { field: Field::InPort.into(), value: from.to_be_bytes().to_vec(), ..Default::default() };
    v1::Rule {
        r#match: vec![from],
        instructions: Some(v1::Instructions { apply_actions: vec![output], ..Default::default() }),
        ..Default::default()
    }
}

fn lost_and_found(workers: usize) {
    let (web, mut database) = (Namespace::new(), Namespace::new());
    let switch = Running::start(workers);
    let fabric = v1::Bundle {
        term: 1,
        generation: 1,
        add_ports: vec![tap(WEB, v1::Owner::Fabric, "eth0", &web), tap(DATABASE, v1::Owner::Fabric, "eth0", &database)],
        add_rules: vec![wire(WEB, DATABASE), wire(DATABASE, WEB)],
        ..Default::default()
    };
    switch.0.apply(vec![fabric], Owner::Fabric).unwrap();
    let by_hand = v1::Bundle { add_ports: vec![tap(BY_HAND, v1::Owner::Manual, "hand0", &web)], ..Default::default() };
    switch.0.apply(vec![by_hand], Owner::Manual).unwrap();
    let address = |namespace: &Namespace, last: u8| namespace.ip(&format!("addr add 10.1.0.{last}/24 dev eth0"));
    address(&web, 1);
    address(&database, 2);
    web.command("ping -c 1 -W 2 10.1.0.2");
    switch.tend();
    assert_eq!([WEB, DATABASE, BY_HAND].map(|number| switch.state(number)), ["up", "up", "up"]);

    // An interface is deleted: first it is shown, then it is made anew, as it was.
    web.ip("link del eth0");
    eventually("the loss is noticed", || {
        switch.0.notice_losses();
        switch.state(WEB).starts_with("failed: tap: interface \"eth0\" was deleted. It is made anew")
    });
    switch.tend();
    assert_eq!(switch.state(WEB), "up");
    let link = web.ip("link show eth0");
    assert!(link.contains("02:00:00:00:00:01") && link.contains("mtu 1400"), "{link}");
    assert!(!web.ip("addr show eth0").contains("10.1.0.1"), "its addresses are the endpoint's business");
    address(&web, 1);
    web.command("ping -c 1 -W 2 10.1.0.2");

    // A namespace is removed, and made again by the same name.
    run(&["ip", "netns", "del", &database.name]);
    switch.tend();
    let state = switch.state(DATABASE);
    assert!(
        state.starts_with("failed: tap: network namespace") && state.contains("was removed. Make it again"),
        "{state}"
    );
    switch.tend();
    assert!(switch.state(DATABASE).starts_with("failed"));
    database = {
        let name = database.name.clone();
        // Its removal is the new one's affair.
        std::mem::forget(database);
        run(&["ip", "netns", "add", &name]);
        Namespace { name }
    };
    switch.tend();
    assert_eq!(switch.state(DATABASE), "up");
    address(&database, 2);
    web.command("ping -c 1 -W 2 10.1.0.2");

    // Removed and made again between two looks.
    run(&["ip", "netns", "del", &database.name]);
    run(&["ip", "netns", "add", &database.name]);
    switch.tend();
    assert!(switch.state(DATABASE).starts_with("failed"));
    switch.tend();
    assert_eq!(switch.state(DATABASE), "up");
    assert!(database.try_ip("link show eth0"));

    // What a person made and somebody deleted stays away until a person acts.
    web.ip("link del hand0");
    eventually("the loss is noticed", || {
        switch.tend();
        switch.state(BY_HAND).contains("interface \"hand0\" was deleted. Remove the port (weft ports del HOST 3)")
    });
    switch.tend();
    assert!(switch.state(BY_HAND).starts_with("failed") && !web.try_ip("link show hand0"));
    let again = tap(BY_HAND, v1::Owner::Manual, "hand0", &web);
    let bundle = v1::Bundle { remove_ports: vec![BY_HAND], ..Default::default() };
    switch.0.apply(vec![bundle], Owner::Manual).unwrap();
    switch.0.apply(vec![v1::Bundle { add_ports: vec![again], ..Default::default() }], Owner::Manual).unwrap();
    assert!(switch.state(BY_HAND) == "up" && web.try_ip("link show hand0"));
}

#[test]
fn lost_taps_are_shown_and_those_of_the_fabric_made_anew() {
    lost_and_found(1);
}

#[test]
fn with_two_workers_too() {
    lost_and_found(2);
}

/// Owner manual, as the underlay's port is: the interface is the host's, so when it comes back the port is there again.
#[test]
fn an_interface_of_the_host_is_missed_and_used_again() {
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.veth("nic", &peer, "eth0", 1);
    let peer_name = peer.name.clone();
    let inside = Namespace { name: host.name.clone() };
    host.run(move || {
        // The outer one removes it.
        let host = std::mem::ManuallyDrop::new(inside);
        let peer = std::mem::ManuallyDrop::new(Namespace { name: peer_name });
        let switch = Running::start(1);
        let kind = Kind::AfXdp(v1::AfXdpPort { interface: "nic".to_owned(), take_all: true, ..Default::default() });
        let spec = |name: &str| v1::PortSpec {
            number: BY_HAND,
            name: name.to_owned(),
            owner: v1::Owner::Manual.into(),
            kind: Some(kind.clone()),
        };
        let add = |name: &str| v1::Bundle { add_ports: vec![spec(name)], ..Default::default() };
        switch.0.apply(vec![add("underlay")], Owner::Manual).unwrap();
        switch.tend();
        assert_eq!(switch.state(BY_HAND), "up");
        host.ip("link set nic name eth7");
        switch.tend();
        assert_eq!(switch.state(BY_HAND), "up", "it is only called otherwise");
        host.ip("link set eth7 name nic");

        for by_hand in [false, true] {
            host.ip("link del nic");
            switch.tend();
            let state = switch.state(BY_HAND);
            assert!(state.starts_with("failed: af_xdp: interface \"nic\" was deleted"), "{state}");
            switch.tend();
            assert!(switch.state(BY_HAND).starts_with("failed"));
            host.veth("nic", &peer, "eth0", 1);
            if by_hand {
                let remove = v1::Bundle { remove_ports: vec![BY_HAND], ..Default::default() };
                switch.0.apply(vec![remove], Owner::Manual).unwrap();
                switch.0.apply(vec![add("again")], Owner::Manual).unwrap();
            } else {
                switch.tend();
            }
            assert_eq!(switch.state(BY_HAND), "up");
        }
        assert!(host.ip("link show nic").contains("xdp"));
    });
}
