//! A worker, and what it costs.

use crate::packet::ends;
use crate::source::{Control, Replay};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use weft_dataplane::drop::{DropCounters, DropReason};
use weft_dataplane::egress::PuntSink;
use weft_dataplane::flow::message;
use weft_dataplane::flow::tables::{Change, Tables};
use weft_dataplane::handover::Links;
use weft_dataplane::limits::BATCH;
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::port::{PortQueue, PortSlot, Refused};
use weft_dataplane::topology::{PortInfo, PortKind, Topology};
use weft_dataplane::worker::{WorkerHandle, WorkerReport, WorkerSettings};
use weft_proto::{text, v1};

/// Chunks and runs of packet memory.
const MEMORY: (usize, usize) = (8192, 64);

struct Nobody;

impl PuntSink for Nobody {
    fn punt(&self, _packet: v1::PacketIn) -> Result<(), DropReason> {
        Err(DropReason::NoListener)
    }
}

/// See the module comment.
pub struct Rig {
    pub worker: WorkerHandle,
    pub control: Arc<Control>,
    tables: Arc<Tables>,
}

/// Of this thread, nanoseconds on the CPU.
pub fn on_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

impl Rig {
    /// A worker under these rules, with no ports yet.
    pub fn start(rules: &[String]) -> Self {
        let memory = Memory::map(MEMORY.0, MEMORY.1).expect("memory for packets");
        let tables = Tables::new();
        let links = Links::of(1).expect("descriptors").remove(0);
        let settings = WorkerSettings { core: None, spin: true };
        let worker = WorkerHandle::start(links, tables.clone(), memory, Arc::new(Nobody), settings).expect("a thread");
        let rule = |line: &String| {
            let mut parsed = text::parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
            parsed.owner = v1::Owner::Manual.into();
            message::rule_from_message(&parsed, 0).unwrap_or_else(|fault| panic!("{line}: {fault}"))
        };
        let change = Change { add: rules.iter().map(rule).collect(), ..Change::default() };
        tables.commit(change).expect("the rules are right");
        Self { worker, control: Arc::default(), tables }
    }

    /// Adds a port.
    pub fn add(&self, port: Replay) {
        self.worker.add_queue(port.slot, Box::new(port));
    }

    /// Numbers ports from 1 on: their frames are taken from here on.
    pub fn ready(&self, ports: usize) {
        let mut topology = Topology::default();
        for number in 1..=ports {
            let kind = PortKind::Device { slot: PortSlot::new(number), up: true };
            topology.ports.insert(number as u32, PortInfo { name: format!("port{number}").into(), kind });
        }
        self.tables.set_topology(topology);
    }

    /// For a while: nanoseconds for a packet, packets, and misses.
    pub fn measure(&self, window: Duration) -> (f64, u64, u64) {
        let before = self.worker.report();
        std::thread::sleep(window);
        let after = self.worker.report();
        let packets = (after.packets - before.packets).max(1);
        (busy(&before, &after) / packets as f64, packets, after.cache_misses - before.cache_misses)
    }
}

/// Nanoseconds on the CPU between two reports.
pub fn busy(before: &WorkerReport, after: &WorkerReport) -> f64 {
    (after.busy_microseconds - before.busy_microseconds) as f64 * 1000.0
}

/// Nanoseconds for a frame that is received and sent, with nothing in between.
pub fn input_and_output() -> f64 {
    let mut pool = Pool::new(Memory::map(MEMORY.0, MEMORY.1).expect("memory for packets"));
    let control = Arc::new(Control::default());
    control.phase.store(1, std::sync::atomic::Ordering::Relaxed);
    let frames = (0..10_000).map(|number| ends("ct", number).0.frame()).collect();
    let mut port = Replay::recorded(1, vec![frames], &control);
    let (mut drops, mut refused, mut batch) = (DropCounters::default(), Refused::new(), Vec::with_capacity(BATCH));
    let (start, mut packets) = (on_cpu(), 0);
    while packets < 5_000_000 {
        packets += port.receive(&mut pool, &mut batch, BATCH, &mut drops);
        port.transmit(&mut pool, &mut batch, &mut refused);
    }
    (on_cpu() - start) / packets as f64
}
