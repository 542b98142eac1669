//! The switch with ports in memory: a recording's specification opens one of `port/memory.rs`, whose
//! other end the test holds; its `transmit_file` stands for the name of an interface.

mod announcements;
mod bundle;
mod capture;
mod expiry;
mod meters;
mod moment;
mod numbers;
mod packets;
mod ports;
mod query;
mod tunnel;

use super::*;
use crate::drop::DropReason;
use crate::port::PortSlot;
use crate::port::memory::{MemoryPeer, pair};
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1::action::Action as Wire;
use weft_proto::v1::{self, Field, port_spec::Kind};

const UNDERLAY: u32 = weft_proto::UNDERLAY_PORT;

/// Of tunnels.
type Ends = BTreeSet<TunnelEnd>;

#[derive(Clone, Default)]
struct TestPorts {
    peers: Arc<Mutex<HashMap<u32, MemoryPeer>>>,
    filters: Arc<Mutex<HashMap<u32, Ends>>>,
    addresses: Arc<Mutex<HashMap<u32, BTreeSet<Ipv4Addr>>>>,
    /// Numbers that are open.
    open: Arc<Mutex<BTreeSet<u32>>>,
    /// Numbers that cannot be opened.
    broken: Arc<Mutex<BTreeSet<u32>>>,
    /// Numbers whose interface somebody took away.
    lost: Arc<Mutex<BTreeSet<u32>>>,
}

struct TestFilter(TestPorts, u32);

impl TunnelFilter for TestFilter {
    fn set(&self, ends: &Ends) -> Result<(), String> {
        self.0.filters.lock().unwrap().insert(self.1, ends.clone());
        Ok(())
    }

    fn set_addresses(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), String> {
        self.0.addresses.lock().unwrap().insert(self.1, addresses.clone());
        Ok(())
    }

    fn missed(&self) -> u64 {
        0
    }
}

impl Drop for TestFilter {
    fn drop(&mut self) {
        self.0.open.lock().unwrap().remove(&self.1);
    }
}

impl OpenPort for TestPorts {
    fn open(&self, slot: PortSlot, spec: &v1::PortSpec, _: &'static Memory, _: usize) -> Result<Opened, Fault> {
        if self.broken.lock().unwrap().contains(&spec.number) {
            return Err(Fault::invalid("port_failed", "pcap", "it is broken", "Mend it."));
        }
        let interface = match &spec.kind {
            Some(Kind::Pcap(files)) => &files.transmit_file,
            Some(Kind::AfXdp(port)) => &port.interface,
            _ => panic!("tests open recordings and interfaces only"),
        };
        assert!(self.open.lock().unwrap().insert(spec.number), "what stands in the way is closed first");
        let (queue, peer) = pair(slot).unwrap();
        self.peers.lock().unwrap().insert(spec.number, peer);
        let device = Device::new(interface.clone(), "memory".to_owned())
            .with_filter(Box::new(TestFilter(self.clone(), spec.number)));
        let (lost, number) = (self.lost.clone(), spec.number);
        let device = device.with_watch(Box::new(move || {
            let is_lost = lost.lock().unwrap().contains(&number);
            is_lost.then(|| Fault::invalid("port_failed", "pcap", "it was taken away", "Wait."))
        }));
        Ok(Opened { device, queues: vec![Box::new(queue)] })
    }
}

struct Bench {
    switch: Arc<Switch>,
    ports: TestPorts,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.switch.stop();
    }
}

fn bench() -> Bench {
    started(false)
}

fn started(managed: bool) -> Bench {
    with_workers(managed, 1)
}

fn with_workers(managed: bool, workers: usize) -> Bench {
    let ports = TestPorts::default();
    let switch = Switch::start(SwitchSettings {
        host: "bench".to_owned(),
        managed,
        memory: Memory::map(512, 64).unwrap(),
        workers: vec![WorkerSettings { core: None, spin: false }; workers],
        opener: Box::new(ports.clone()),
        physical: std::collections::BTreeMap::new(),
    });
    Bench { switch: switch.unwrap(), ports }
}

impl Bench {
    fn manual(&self, bundle: v1::Bundle) -> Result<v1::BundleResult, Fault> {
        self.switch.apply(vec![bundle], Owner::Manual)
    }

    fn fabric(&self, bundle: v1::Bundle) -> Result<v1::BundleResult, Fault> {
        self.switch.apply(vec![bundle], Owner::Fabric)
    }

    fn peer(&self, number: u32) -> MemoryPeer {
        self.ports.peers.lock().unwrap()[&number].clone()
    }

    fn rules(&self) -> Vec<v1::RuleState> {
        let replies = self.switch.dump(&v1::DumpRulesRequest::default()).unwrap();
        replies.into_iter().flat_map(|reply| reply.rules).collect()
    }

    fn port_numbers(&self) -> Vec<u32> {
        self.switch.ports().ports.iter().map(|port| port.spec.as_ref().unwrap().number).collect()
    }

    /// Frames of a reason, by port.
    fn dropped(&self, reason: DropReason) -> Vec<(u32, u64)> {
        let drops = self.switch.drops(&v1::ListDropsRequest::default()).drops;
        let drop = drops.into_iter().find(|drop| drop.reason == reason.word());
        drop.map(|drop| drop.ports.iter().map(|port| (port.port, port.packets)).collect()).unwrap_or_default()
    }
}

fn port(number: u32) -> v1::PortSpec {
    named(number, &format!("mem{number}"))
}

fn named(number: u32, name: &str) -> v1::PortSpec {
    let files =
        v1::PcapPort { receive_file: String::new(), transmit_file: format!("mem{number}"), ..Default::default() };
    v1::PortSpec { number, name: name.to_owned(), owner: 0, kind: Some(Kind::Pcap(files)) }
}

fn vxlan(number: u32, underlay_port: u32) -> v1::PortSpec {
    let tunnel = v1::TunnelPort { underlay_port, ..Default::default() };
    v1::PortSpec { number, name: "vxlan".to_owned(), owner: 0, kind: Some(Kind::Vxlan(tunnel)) }
}

fn exact(field: Field, value: &[u8]) -> v1::FieldMatch {
    v1::FieldMatch { field: field.into(), value: value.to_vec(), ..Default::default() }
}

fn from_port(number: u32) -> v1::FieldMatch {
    exact(Field::InPort, &number.to_be_bytes())
}

fn action(wire: Wire) -> v1::Action {
    v1::Action { action: Some(wire) }
}

fn output(port: u32) -> v1::Action {
    action(Wire::Output(v1::Output { port }))
}

fn set(field: Field, value: &[u8]) -> v1::Action {
    action(Wire::SetField(v1::SetField { field: field.into(), value: value.to_vec(), mask: Vec::new() }))
}

fn rule(priority: u32, matches: Vec<v1::FieldMatch>, apply: Vec<v1::Action>) -> v1::Rule {
    v1::Rule {
        priority,
        r#match: matches,
        instructions: Some(v1::Instructions { apply_actions: apply, ..Default::default() }),
        cookie: u64::from(priority),
        ..Default::default()
    }
}

/// A UDP datagram.
fn frame(last: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, last])
        .ipv4([10, 0, 0, 1], [10, 0, 0, last], 64)
        .udp(1000, 2000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"payload of the datagram").unwrap();
    bytes
}

const PATIENCE: Duration = Duration::from_secs(5);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn two_ports() -> v1::Bundle {
    v1::Bundle {
        add_ports: vec![port(1), port(2)],
        add_rules: vec![rule(100, vec![from_port(1)], vec![output(2)])],
        origins: vec![v1::Origin { cookie: 100, text: "a wire from 1 to 2".to_owned() }],
        tables: vec![v1::TableConfig {
            table: 0,
            name: "classify".to_owned(),
            meaning: "Everything.".to_owned(),
            partition: 0,
        }],
        ..Default::default()
    }
}
