//! A worker with replayed ports, and what a packet costs it.

use crate::replay::Replay;
use rustix::time::{ClockId, clock_gettime};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_dataplane::drop::{DropCounters, DropReason};
use weft_dataplane::egress::PuntSink;
use weft_dataplane::flow::message;
use weft_dataplane::flow::rule::Rule;
use weft_dataplane::flow::tables::{Change, Tables};
use weft_dataplane::handover::Links;
use weft_dataplane::limits::BATCH;
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::packet::tunnel::Encapsulation;
use weft_dataplane::port::{PortQueue, PortSlot, Refused};
use weft_dataplane::topology::{Path, PortInfo, PortKind, Topology};
use weft_dataplane::worker::{WorkerHandle, WorkerReport, WorkerSettings};
use weft_proto::{text, v1};

/// Ports with a queue.
const DEVICES: usize = 3;
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Chunks and runs of the rig's packet memory.
const MEMORY: (usize, usize) = (8192, 64);

/// Nobody listens for punted packets.
pub struct Nobody;

impl PuntSink for Nobody {
    fn punt(&self, _packet: v1::PacketIn) -> Result<(), DropReason> {
        Err(DropReason::NoListener)
    }
}

/// What a window of time saw.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Frames received.
    pub packets: u64,
    /// The worker's time on the CPU for one of them.
    pub nanoseconds: f64,
    /// Which part of them hit the flow cache.
    pub hits: f64,
    /// Entries and masks of the cache.
    pub cache: (u64, u64),
}

/// See the module comment.
pub struct Rig {
    worker: WorkerHandle,
    tables: Arc<Tables>,
}

impl Rig {
    /// A worker under these rules, to which the frames come by port 1: so many in all. It spins if it is to be
    /// measured by time.
    ///
    /// # Errors
    /// A rule is wrong; the machine has no memory left.
    pub fn start(rules: &[String], frames: &[Vec<u8>], packets: u64, spin: bool) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let memory = Memory::map(MEMORY.0, MEMORY.1).map_err(failed)?;
        let tables = Tables::new();
        let links = Links::of(1).map_err(failed)?.remove(0);
        let settings = WorkerSettings { core: None, spin };
        let worker = WorkerHandle::start(links, tables.clone(), memory, Arc::new(Nobody), settings).map_err(failed)?;
        let rig = Self { worker, tables };
        rig.add_rules(rules)?;
        for number in 1..=DEVICES {
            let slot = PortSlot::new(number);
            let (frames, packets) = if number == 1 { (frames, packets) } else { (&[][..], 0) };
            rig.worker.add_queue(slot, Box::new(Replay::new(slot, frames, packets).map_err(failed)?));
        }
        let tunnelled = rules.iter().any(|rule| rule.contains("in_port=22"));
        rig.tables.set_topology(topology(tunnelled));
        Ok(rig)
    }

    /// Adds rules, in the text syntax, in one bundle.
    ///
    /// # Errors
    /// Which is wrong.
    pub fn add_rules(&self, rules: &[String]) -> Result<(), String> {
        let add = rules.iter().map(|line| rule(line)).collect::<Result<_, _>>()?;
        self.tables.commit(Change { add, ..Change::default() }).map_err(|fault| fault.to_string())?;
        Ok(())
    }

    /// Removes a rule that was added.
    ///
    /// # Errors
    /// It is wrong.
    pub fn remove_rule(&self, line: &str) -> Result<(), String> {
        let remove = vec![rule(line)?.id];
        self.tables.commit(Change { remove, ..Change::default() }).map_err(|fault| fault.to_string())?;
        Ok(())
    }

    /// Waits until packets hit the cache, or for so long.
    pub fn warm(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut before = self.worker.report();
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            let report = self.worker.report();
            if report.packets > before.packets && report.cache_misses == before.cache_misses {
                return;
            }
            before = report;
        }
    }

    /// What packets cost for a while.
    #[must_use]
    pub fn measure(&self, window: Duration) -> Measured {
        let before = self.worker.report();
        std::thread::sleep(window);
        let after = self.worker.report();
        between(&before, &after)
    }

    /// Ends it.
    pub fn stop(self) {
        self.worker.stop();
    }
}

/// A rule in the text syntax.
///
/// # Errors
/// What is wrong with it.
pub fn rule(line: &str) -> Result<Rule, String> {
    let mut parsed = text::parse_rule(line).map_err(|fault| format!("{line}: {fault}"))?;
    parsed.owner = v1::Owner::Manual.into();
    message::rule_from_message(&parsed, 0).map_err(|fault| format!("{line}: {fault}"))
}

fn between(before: &WorkerReport, after: &WorkerReport) -> Measured {
    let packets = (after.packets - before.packets).max(1);
    let busy = after.busy_microseconds - before.busy_microseconds;
    let hits = after.cache_hits - before.cache_hits;
    Measured {
        packets,
        nanoseconds: busy as f64 * 1000.0 / packets as f64,
        hits: hits as f64 / packets as f64,
        cache: (after.cache_entries, after.cache_masks),
    }
}

/// `tunnelled`: port 22 has an address, so that what comes in by port 1 is looked at for tunnel packets.
#[must_use]
pub fn topology(tunnelled: bool) -> Topology {
    let mut topology = Topology::default();
    for number in 1..=DEVICES {
        let kind = PortKind::Device { slot: PortSlot::new(number), up: true };
        topology.ports.insert(number as u32, PortInfo { name: format!("port{number}").into(), kind });
    }
    for (number, encapsulation, underlay) in
        [(20, Encapsulation::Vxlan(4789), 2), (21, Encapsulation::Gre, 2), (22, Encapsulation::Vxlan(4789), 1)]
    {
        let (slot, underlay) = (PortSlot::new(number), PortSlot::new(underlay));
        let locals = if number == 22 && tunnelled { vec![LOCAL] } else { Vec::new() };
        let kind = PortKind::Tunnel { slot, locals, encapsulation, underlays: vec![underlay] };
        topology.ports.insert(number as u32, PortInfo { name: format!("tunnel{number}").into(), kind });
    }
    let path = Path::Resolved {
        underlay: PortSlot::new(2),
        source_mac: [2, 0, 0, 0, 9, 1],
        destination_mac: [2, 0, 0, 0, 9, 2],
        source: LOCAL,
    };
    topology.paths.insert(REMOTE, path);
    topology
}

/// Nanoseconds on the CPU for a frame that is received and sent, with nothing in between.
///
/// # Errors
/// The machine has no memory left.
pub fn input_and_output(frames: &[Vec<u8>], window: Duration) -> Result<f64, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut pool = Pool::new(Memory::map(MEMORY.0, MEMORY.1).map_err(failed)?);
    let mut from: Box<dyn PortQueue> = Box::new(Replay::new(PortSlot::new(1), frames, u64::MAX).map_err(failed)?);
    let mut to: Box<dyn PortQueue> = Box::new(Replay::new(PortSlot::new(2), &[], 0).map_err(failed)?);
    let (mut batch, mut refused, mut drops) = (Vec::with_capacity(BATCH), Refused::new(), DropCounters::default());
    let (deadline, start, mut packets) = (Instant::now() + window, on_cpu(), 0_u64);
    while Instant::now() < deadline {
        for _ in 0..64 {
            packets += from.receive(&mut pool, &mut batch, BATCH, &mut drops) as u64;
            to.transmit(&mut pool, &mut batch, &mut refused);
        }
    }
    Ok((on_cpu() - start) / packets as f64)
}

/// Of this thread, nanoseconds.
fn on_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
