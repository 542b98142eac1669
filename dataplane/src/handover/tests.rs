//! Several whole workers: frames come in by whichever of them the test likes, and all must fare as if there
//! were one.

mod apart;
mod branches;
mod captured;
mod flows;
mod hops;
mod translated;

use super::Links;
use crate::connection::Filter;
use crate::drop::DropReason;
use crate::egress::PuntSink;
use crate::flow::message;
use crate::flow::tables::{Change, Tables};
use crate::packet::header::tcp_flag;
use crate::packet::memory::{Class, Memory};
use crate::packet::pool::Pool;
use crate::packet::sample;
use crate::port::PortSlot;
use crate::port::memory::{MemoryPeer, pair};
use crate::topology::{PortInfo, PortKind, Topology};
use crate::worker::{Listed, WorkerHandle, WorkerSettings};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_proto::{text, v1};

const PATIENCE: Duration = Duration::from_secs(10);
const CHUNKS: usize = 8192;

struct Deaf;

impl PuntSink for Deaf {
    fn punt(&self, _: v1::PacketIn) -> Result<(), DropReason> {
        Err(DropReason::NoListener)
    }
}

/// Ports 1, 2 … have a queue at each worker; port 100 has one at worker 0 alone.
struct Bench {
    tables: Arc<Tables>,
    workers: Vec<WorkerHandle>,
    /// By port less one, and worker.
    peers: Vec<Vec<MemoryPeer>>,
    lone: Vec<MemoryPeer>,
    memory: &'static Memory,
}

const LONE: u32 = 100;

impl Bench {
    fn new(workers: usize, ports: usize, rules: &[String]) -> Self {
        let memory = Memory::map(CHUNKS, 64).unwrap();
        let tables = Tables::new();
        let start = |links| {
            WorkerHandle::start(links, tables.clone(), memory, Arc::new(Deaf), WorkerSettings::default()).unwrap()
        };
        let workers: Vec<WorkerHandle> = Links::of(workers).unwrap().into_iter().map(start).collect();
        let mut bench = Self { tables, workers, peers: Vec::new(), lone: Vec::new(), memory };
        bench.open(ports);
        bench.change(rules, &[]);
        bench
    }

    /// Opens the ports.
    fn open(&mut self, ports: usize) {
        let mut topology = Topology::default();
        let mut name = |number: u32, slot| {
            let kind = PortKind::Device { slot, up: true };
            topology.ports.insert(number, PortInfo { name: format!("port{number}").into(), kind });
        };
        for port in 1..=ports {
            let slot = PortSlot::new(port);
            name(port as u32, slot);
            let queue = |worker: &WorkerHandle| {
                let (queue, peer) = pair(slot).unwrap();
                worker.add_queue(slot, Box::new(queue));
                peer
            };
            self.peers.push(self.workers.iter().map(queue).collect());
        }
        let slot = PortSlot::new(LONE as usize);
        name(LONE, slot);
        let (queue, lone) = pair(slot).unwrap();
        self.workers[0].add_queue(slot, Box::new(queue));
        self.lone.push(lone);
        self.workers[1..].iter().for_each(|worker| worker.route(slot, 0));
        self.tables.set_topology(topology);
    }

    fn change(&self, add: &[String], remove: &[String]) {
        let rule = |line: &String| {
            let mut parsed = text::parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
            parsed.owner = v1::Owner::Manual.into();
            message::rule_from_message(&parsed, 0).unwrap_or_else(|fault| panic!("{line}: {fault}"))
        };
        let remove = remove.iter().map(|line| rule(line).id).collect();
        self.tables.commit(Change { add: add.iter().map(rule).collect(), remove, ..Change::default() }).unwrap();
    }

    fn send(&self, port: usize, worker: usize, frame: Vec<u8>) {
        self.peers[port - 1][worker].send(frame).unwrap();
    }

    /// What left by a port, by any worker, so far.
    fn left(&self, port: usize) -> Vec<Vec<u8>> {
        self.peers[port - 1].iter().flat_map(|peer| peer.take_all()).map(|frame| frame.bytes).collect()
    }

    /// The next frame that leaves by a port.
    fn receive(&self, port: usize) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.peers[port - 1].iter().find_map(MemoryPeer::take) {
                return frame.bytes;
            }
            assert!(Instant::now() < deadline, "nothing left by port {port}: {:?}", self.drops());
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn passes(&self, from: usize, worker: usize, to: usize, frame: Vec<u8>) {
        self.send(from, worker, frame.clone());
        assert_eq!(self.receive(to), frame);
    }

    fn drops(&self) -> HashMap<&'static str, u64> {
        let mut sums = HashMap::new();
        for (_, reason, frames) in self.workers.iter().flat_map(|worker| worker.report().drops) {
            *sums.entry(reason.word()).or_default() += frames;
        }
        sums
    }

    fn dropped(&self, frames: u64) -> HashMap<&'static str, u64> {
        let deadline = Instant::now() + PATIENCE;
        while self.drops().values().sum::<u64>() < frames && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.drops()
    }

    /// Connections, by worker.
    fn connections(&self) -> Vec<Vec<Listed>> {
        self.workers.iter().map(|worker| worker.connections(&Filter::default(), 100_000)).collect()
    }

    /// Stops the workers; every buffer must have come home, and no port be charged for any.
    fn finish(self) {
        self.workers.into_iter().for_each(WorkerHandle::stop);
        assert_eq!(Pool::new(self.memory).outstanding(), 0, "a port is charged for what it does not have");
        assert_eq!((self.memory.free(Class::Chunk), self.memory.free(Class::Run)), (CHUNKS, 64), "a buffer is lost");
    }
}

/// Of a conversation: 10.0.0.`from` port `ports.0` to 10.0.0.`to` port `ports.1`.
fn patch(mut frame: Vec<u8>, (from, to): (u8, u8), ports: (u16, u16), serial: u32) -> Vec<u8> {
    frame[6..8].copy_from_slice(&[2, 0]);
    frame[8..12].copy_from_slice(&serial.to_be_bytes());
    frame[26..30].copy_from_slice(&[10, 0, 0, from]);
    frame[30..34].copy_from_slice(&[10, 0, 0, to]);
    frame[34..36].copy_from_slice(&ports.0.to_be_bytes());
    frame[36..38].copy_from_slice(&ports.1.to_be_bytes());
    frame
}

fn udp(ends: (u8, u8), ports: (u16, u16), serial: u32) -> Vec<u8> {
    let mut frame = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &sample::udp(true, b"payload")));
    // No checksum (RFC 768): ports are changed.
    frame[40..42].fill(0);
    patch(frame, ends, ports, serial)
}

fn tcp(ends: (u8, u8), ports: (u16, u16), flags: u16, numbers: (u32, u32), serial: u32) -> Vec<u8> {
    let mut frame = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0, &sample::tcp(true, flags, &[], b"")));
    frame[38..42].copy_from_slice(&numbers.0.to_be_bytes());
    frame[42..46].copy_from_slice(&numbers.1.to_be_bytes());
    patch(frame, ends, ports, serial)
}

const SYN: u16 = tcp_flag::SYN;
const ACK: u16 = tcp_flag::ACK;

/// A stateful firewall at each port, with a zone of its own: what begins a conversation to port 443 or 53
/// passes, and what belongs to one; nothing else.
fn firewall(ports: usize) -> Vec<String> {
    let mut rules = vec!["table=0,priority=1,actions=drop(policy)".to_owned()];
    for port in 1..=ports {
        rules.push(format!("table=0,priority=10,in_port={port},ip,actions=ct(zone={port}),goto_table:1"));
        for service in ["tcp,tp_dst=443", "udp,tp_dst=53"] {
            rules.push(format!(
                "table=1,priority=80,ct_state=+new,in_port={port},{service},actions=ct(commit,zone={port}),goto_table:2"
            ));
            rules.push(format!(
                "table=3,priority=80,ct_state=+new,reg0=0x{port:x},{service},actions=ct(commit,zone={port}),goto_table:4"
            ));
        }
        rules.push(format!(
            "table=2,priority=10,ip,nw_dst=10.0.0.{port},actions=set_field:0x{port:x}->reg0,ct(zone={port}),goto_table:3"
        ));
        rules.push(format!("table=4,reg0=0x{port:x},actions=output:{port}"));
    }
    rules.push("table=1,priority=90,ip,ct_state=+est,actions=goto_table:2".to_owned());
    rules.push("table=3,priority=90,ip,ct_state=+est,actions=goto_table:4".to_owned());
    for table in [1, 3] {
        rules.push(format!("table={table},priority=1,actions=drop(policy)"));
    }
    rules
}
