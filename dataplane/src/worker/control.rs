//! Control of a worker: commands from other threads, carried out between batches, and the worker's start and
//! end.

use super::Worker;
use super::announcements::{Announcement, Announcements};
use super::credit::Credits;
use super::inject::Injected;
use super::neighbours::WaitingForHops;
use crate::capture::Capture;
use crate::clock;
use crate::connection::fragments::Waiting;
use crate::connection::{Assumed, ConnectionId, Connections, Contents, EndReason, Filter, Options, Record, Start};
use crate::drop::DropReason;
use crate::egress::{Outgoing, PuntSink};
use crate::flow::cache::Cache;
use crate::flow::key::FlowKey;
use crate::flow::log::Recent;
use crate::flow::message;
use crate::flow::program::Program;
use crate::flow::resolve::{Connected, Packet};
use crate::flow::statistics::TableCounts;
use crate::flow::tables::{Progress, Tables};
use crate::handover::Links;
use crate::limits::{BATCH, PORTS};
use crate::meter::{Meter, MeterCounters};
use crate::packet::memory::{Class, Memory};
use crate::packet::parse::{Layout, parse_bytes};
use crate::packet::pool::Pool;
use crate::port::{PortQueue, PortSlot, QueueCounters};
use crate::topology::PortKind;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use weft_proto::v1;

/// How a worker behaves.
#[derive(Clone, Debug, Default)]
pub struct WorkerSettings {
    /// Pin the thread to this core.
    pub core: Option<usize>,
    /// Never sleep.
    pub spin: bool,
}

/// What a worker has done so far.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport {
    /// Frames received.
    pub packets: u64,
    /// Packets that found a good cache entry.
    pub cache_hits: u64,
    /// Packets that did not.
    pub cache_misses: u64,
    /// Entries now.
    pub cache_entries: u64,
    /// Masks now.
    pub cache_masks: u64,
    /// Time on the CPU.
    pub busy_microseconds: u64,
    /// Connections now.
    pub connections: u64,
    /// Drops by ingress port and reason, not zero.
    pub drops: Vec<(PortSlot, DropReason, u64)>,
    /// What outputs could not take, by output port and reason, not zero.
    pub unsent: Vec<(PortSlot, DropReason, u64)>,
    /// Branches that ended nowhere, by ingress port.
    pub branches: Vec<(PortSlot, DropReason, u64)>,
    /// Of device ports their queues' counters, of tunnel ports what was decapsulated and encapsulated.
    pub ports: Vec<(PortSlot, QueueCounters)>,
    /// Packets by table.
    pub tables: Vec<(u8, TableCounts)>,
    /// Buffers this worker has free in its own cache: chunks, runs.
    pub cached_buffers: (usize, usize),
}

/// A packet to be traced.
#[derive(Clone)]
pub enum Traced {
    /// Described by fields.
    Fields(Box<(FlowKey, Contents)>),
    /// A whole frame, as a device receives it.
    Frame {
        /// By which port.
        in_port: u32,
        /// From its Ethernet header on.
        bytes: Vec<u8>,
    },
}

impl Traced {
    /// What it is to the tables, tunnels aside.
    ///
    /// # Errors
    /// Why it gets to none.
    pub fn parse(&self) -> Result<(FlowKey, Contents), DropReason> {
        match self {
            Self::Fields(packet) => Ok(**packet),
            Self::Frame { in_port, bytes } => {
                let mut key = FlowKey::ZERO;
                let layout = parse_bytes(bytes, bytes.len(), *in_port, &mut key)?;
                Ok((key, Contents::read(bytes, &key, &layout)))
            }
        }
    }

    /// The reply for one that is dropped before any table.
    #[must_use]
    pub fn dropped(reason: DropReason) -> v1::TraceReply {
        v1::TraceReply {
            drop_reason: reason.word().to_owned(),
            drop_meaning: reason.meaning().to_owned(),
            ..Default::default()
        }
    }
}

/// Slots of connections that a worker looks at before it goes on with packets.
const SLOTS_AT_A_TIME: usize = 4096;

/// A connection in a list.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// As it is now.
    pub record: Record,
    /// Microseconds until it ends, unless it is used.
    pub remaining: u64,
    /// Microseconds since it began.
    pub age: u64,
}

pub(super) enum Command {
    AddQueue(PortSlot, Box<dyn PortQueue>, Sender<()>),
    Route(PortSlot, u16, Sender<()>),
    RemoveQueues(PortSlot, Sender<()>),
    Report(Sender<WorkerReport>),
    Cache(usize, Sender<Vec<v1::CacheEntry>>),
    Trace(Traced, Arc<[Assumed]>, Sender<Result<v1::TraceReply, u16>>),
    /// Send a frame by a port.
    Send(u32, Vec<u8>, Sender<Result<(), DropReason>>),
    Announce(Vec<Announcement>),
    /// Those of the filter among some slots, beginning with this one; also gives where to go on.
    Connections(Filter, usize, Sender<(Vec<Listed>, Option<usize>)>),
    /// Likewise to be ended; gives how many were.
    Flush(Filter, usize, Sender<(usize, Option<usize>)>),
    /// Brings what was counted to the rules.
    Settle(Sender<()>),
    MeterCounters(Sender<Vec<(u32, MeterCounters)>>),
    /// The meters from now on, each with this worker's part.
    Meters(Vec<(Meter, f64)>, Sender<()>),
    /// Handles frames as if they had come in.
    Inject(Vec<Injected>, Sender<()>),
    Capture(Box<Capture>, Sender<()>),
    EndCapture(u32, Sender<()>),
    Stop,
}

impl Worker {
    pub(super) fn obey(&mut self, command: Command) {
        // Whoever asked may have stopped waiting: then nobody needs the answer.
        match command {
            Command::AddQueue(slot, queue, done) => {
                self.outgoing.add(slot, queue);
                self.slots = self.outgoing.slots().collect();
                let _ = done.send(());
            }
            Command::Route(slot, worker, done) => {
                self.outgoing.route(slot, worker);
                let _ = done.send(());
            }
            Command::RemoveQueues(slot, done) => {
                let mut its =
                    self.waiting.withdraw(|missed| missed.origin.ingress == slot || missed.frame.charged() == slot);
                its.extend(self.withdraw_from_hops(slot));
                self.give_up(its, DropReason::PortDown);
                self.outgoing.remove(slot);
                self.slots = self.outgoing.slots().collect();
                let _ = done.send(());
            }
            Command::Report(reply) => {
                self.cache.flush();
                let _ = reply.send(self.report());
            }
            Command::Cache(limit, reply) => {
                let _ = reply.send(self.busiest(limit));
            }
            Command::Trace(traced, assumed, reply) => {
                let _ = reply.send(self.trace(&traced, &assumed));
            }
            Command::Send(port, frame, reply) => {
                self.look_at_version();
                self.outgoing.begin(self.active);
                let sent = self.send(port, &frame);
                self.outgoing.flush();
                let _ = reply.send(sent);
            }
            Command::Announce(all) => self.announce(all),
            Command::Connections(filter, from, reply) => {
                let _ = reply.send(self.list(&filter, from));
            }
            Command::Flush(filter, from, reply) => {
                let _ = reply.send(self.flush_connections(&filter, from));
            }
            Command::Settle(done) => {
                self.cache.flush();
                let _ = done.send(());
            }
            Command::MeterCounters(reply) => {
                let _ = reply.send(self.outgoing.meters.counters());
            }
            Command::Meters(meters, done) => {
                self.outgoing.meters.now = clock::now();
                self.outgoing.meters.set(&meters);
                let _ = done.send(());
            }
            Command::Inject(frames, done) => {
                self.inject(&frames);
                let _ = done.send(());
            }
            Command::Capture(capture, done) => {
                self.outgoing.captures.add(*capture);
                let _ = done.send(());
            }
            Command::EndCapture(id, done) => {
                self.outgoing.captures.remove(id);
                let _ = done.send(());
            }
            Command::Stop => {}
        }
    }

    fn trace(&mut self, traced: &Traced, assumed: &[Assumed]) -> Result<v1::TraceReply, u16> {
        self.look_at_version();
        let parsed = match traced {
            Traced::Fields(packet) => Ok(**packet),
            Traced::Frame { in_port, bytes } => self.parse_traced(*in_port, bytes).unwrap_or_else(|| traced.parse()),
        };
        let (key, contents) = match parsed {
            Ok(packet) => packet,
            Err(reason) => return Ok(Traced::dropped(reason)),
        };
        let packet = Packet { key: &key, contents };
        match self.tables.trace_here(&packet, Connected::Now(&self.connections), assumed) {
            Err(worker) if worker == self.number => {
                self.connections.adopt();
                self.tables.trace_here(&packet, Connected::Now(&self.connections), assumed)
            }
            traced => traced,
        }
    }

    /// Parses a frame as if it had come in; `None`: there is no such device, or no buffer.
    fn parse_traced(&mut self, in_port: u32, bytes: &[u8]) -> Option<Result<(FlowKey, Contents), DropReason>> {
        let PortKind::Device { slot, .. } = self.topology.ports.get(&in_port)?.kind else { return None };
        let mut frame = self.outgoing.pool.frame(slot, bytes)?;
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::default());
        let parsed = self.parse(slot, &mut frame, &mut key, &mut layout);
        let parsed = parsed.map(|_| (key, Contents::read(frame.head(), &key, &layout)));
        self.outgoing.pool.free(frame);
        Some(parsed)
    }

    fn list(&self, filter: &Filter, from: usize) -> (Vec<Listed>, Option<usize>) {
        let (found, next) = self.connections.page(filter, self.now, from, SLOTS_AT_A_TIME);
        let (connections, now) = (&self.connections, self.now);
        let listed = |(_, record): (_, &Record)| {
            let (remaining, age) = (connections.remaining(record, now), connections.age(record, now));
            Listed { record: *record, remaining, age }
        };
        (found.map(listed).collect(), next)
    }

    fn flush_connections(&mut self, filter: &Filter, from: usize) -> (usize, Option<usize>) {
        let (found, next) = self.connections.page(filter, self.now, from, SLOTS_AT_A_TIME);
        let ids: Vec<ConnectionId> = found.map(|(id, _)| id).collect();
        for &id in &ids {
            self.connections.close(id, EndReason::Flushed);
        }
        (ids.len(), next)
    }

    fn report(&self) -> WorkerReport {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let pool = &self.outgoing.pool;
        WorkerReport {
            packets: self.packets,
            cache_hits: self.cache.counters.hits,
            cache_misses: self.cache.counters.misses,
            cache_entries: self.cache.len() as u64,
            cache_masks: self.cache.masks() as u64,
            busy_microseconds: time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000,
            connections: self.connections.len() as u64,
            drops: self.outgoing.outcomes.drops.iter().collect(),
            unsent: self.outgoing.outcomes.unsent.iter().collect(),
            branches: self.outgoing.outcomes.branches.iter().collect(),
            ports: self.outgoing.counters(),
            tables: self.cache.tables.counts(),
            cached_buffers: (pool.cached(Class::Chunk), pool.cached(Class::Run)),
        }
    }

    fn busiest(&self, limit: usize) -> Vec<v1::CacheEntry> {
        let row = |(value, mask, program, packets, bytes): (FlowKey, FlowKey, Arc<Program>, u64, u64)| v1::CacheEntry {
            r#match: message::matches(&value, &mask),
            program: program.text(&self.topology),
            packets,
            bytes,
            worker: self.number.into(),
        };
        self.cache.busiest(limit).into_iter().map(row).collect()
    }
}

/// Control of one worker, for the switch. Calls block until the worker has answered (microseconds).
pub struct WorkerHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts the thread. The links tell its number, and join it to the other workers.
    ///
    /// # Errors
    /// If the thread cannot be made, or its connections cannot be kept.
    pub fn start(
        links: Links,
        tables: Arc<Tables>,
        memory: &'static Memory,
        punts: Arc<dyn PuntSink>,
        settings: WorkerSettings,
    ) -> std::io::Result<Self> {
        let (wake, number) = (links.wake(), links.number() as u16);
        let (commands, receiver) = channel();
        let options = Options {
            worker: number,
            workers: links.workers() as u16,
            directory: links.directory(),
            ..Options::default()
        };
        let (connections, _) = Connections::open(options, Start::read()).map_err(std::io::Error::other)?;
        let progress = Arc::new(Progress::default());
        tables.enrol(progress.clone());
        let worker = {
            let wake = wake.clone();
            move || {
                if let Some(core) = settings.core {
                    pin(number, core);
                }
                Worker {
                    number,
                    progress,
                    commands: receiver,
                    wake,
                    settings,
                    version: 0,
                    recent: Recent::default(),
                    topology: Arc::default(),
                    tunnels: HashMap::default(),
                    underlays: Vec::new(),
                    cache: Cache::default(),
                    connections,
                    waiting: Waiting::default(),
                    hops: WaitingForHops::default(),
                    found: Vec::new(),
                    announcements: Announcements::default(),
                    outgoing: Outgoing::new(Pool::new(memory), punts, links),
                    slots: Vec::new(),
                    frames: Vec::with_capacity(BATCH),
                    staged: Some(Box::default()),
                    missed: Vec::with_capacity(BATCH),
                    credits: Credits::new(PORTS),
                    now: clock::now(),
                    active: 1,
                    appeared: 0,
                    packets: 0,
                    tidied: 0,
                    tables,
                }
                .run();
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            // A worker that is gone would leave ports that swallow packets: better no switch, which
            // whoever supervises it starts again.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(worker)).is_err() {
                eprintln!("worker {number} failed: the switch stops; please report the message above");
                std::process::abort();
            }
        })?;
        Ok(Self { commands, wake, thread })
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> T {
        let (sender, receiver) = channel();
        self.tell(command(sender));
        receiver.recv().expect("a worker answers until it is stopped")
    }

    fn tell(&self, command: Command) {
        self.commands.send(command).expect("a worker listens until it is stopped");
        // Full means it will wake anyway.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    /// Gives the worker a queue of a port. Set the topology with the port's slot before or after.
    pub fn add_queue(&self, slot: PortSlot, queue: Box<dyn PortQueue>) {
        self.ask(|done| Command::AddQueue(slot, queue, done));
    }

    /// Takes the port's queue away and closes it; when it returns, the slot may be reused. Set the
    /// topology without the port first.
    pub fn remove_queues(&self, slot: PortSlot) {
        self.ask(|done| Command::RemoveQueues(slot, done));
    }

    /// Counters now; rules' counters are brought up to date too.
    #[must_use]
    pub fn report(&self) -> WorkerReport {
        self.ask(Command::Report)
    }

    /// The busiest cache entries.
    #[must_use]
    pub fn cache(&self, limit: usize) -> Vec<v1::CacheEntry> {
        self.ask(|reply| Command::Cache(limit, reply))
    }

    /// Tells the worker which other one sends by a port of which it has no queue.
    pub fn route(&self, slot: PortSlot, worker: u16) {
        self.ask(|done| Command::Route(slot, worker, done));
    }

    /// Sends a frame of our own by a port, past all tables. It is counted by the port alone.
    ///
    /// # Errors
    /// Why it does not leave: `NoSuchPort`, `PortDown`, `NoTunnelDestination` of a tunnel port, `NoBuffer`, `TooBig`.
    pub fn send(&self, port: u32, frame: Vec<u8>) -> Result<(), DropReason> {
        self.ask(|reply| Command::Send(port, frame, reply))
    }

    /// Tells neighbours where addresses are: now, and again a few times.
    pub fn announce(&self, all: Vec<Announcement>) {
        self.tell(Command::Announce(all));
    }

    /// Walks the tables for a packet, among this worker's connections and the assumed, and writes the walk down;
    /// nothing is counted, sent or remembered.
    ///
    /// # Errors
    /// The worker that is to be asked instead, because it has a connection of the packet.
    pub fn trace(&self, traced: Traced, assumed: Arc<[Assumed]>) -> Result<v1::TraceReply, u16> {
        self.ask(|reply| Command::Trace(traced, assumed, reply))
    }

    /// Begins a capture: frames received after this are seen.
    pub fn capture(&self, capture: Capture) {
        self.ask(|done| Command::Capture(Box::new(capture), done));
    }

    /// Ends one. Keep its readers until then: whose end goes last frees the rings, which is not for workers to do.
    pub fn end_capture(&self, id: u32) {
        self.ask(|done| Command::EndCapture(id, done));
    }

    /// At most so many connections of a filter, in no order. Packets pass in between.
    #[must_use]
    pub fn connections(&self, filter: &Filter, limit: usize) -> Vec<Listed> {
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(slot) = from.filter(|_| found.len() < limit) {
            let (more, next) = self.ask(|reply| Command::Connections(*filter, slot, reply));
            found.extend(more);
            from = next;
        }
        found.truncate(limit);
        found
    }

    /// Ends the connections of a filter; gives how many. Packets pass in between.
    #[must_use]
    pub fn flush(&self, filter: &Filter) -> usize {
        let (mut ended, mut from) = (0, Some(0));
        while let Some(slot) = from {
            let (more, next) = self.ask(|reply| Command::Flush(*filter, slot, reply));
            ended += more;
            from = next;
        }
        ended
    }

    /// Brings rules' counters up to date.
    pub fn settle(&self) {
        self.ask(Command::Settle);
    }

    /// What came to the worker's meters so far, by number.
    #[must_use]
    pub fn meter_counters(&self) -> Vec<(u32, MeterCounters)> {
        self.ask(Command::MeterCounters)
    }

    /// The worker has these meters from now on, each with this part of its rate. Those that rules name must be
    /// there before the rules are, and as long.
    pub fn set_meters(&self, meters: Vec<(Meter, f64)>) {
        self.ask(|done| Command::Meters(meters, done));
    }

    /// Handles frames as if they had come in, in order; at most [`BATCH`] at a time. Returns when they have left,
    /// or are counted as dropped.
    pub fn inject(&self, frames: Vec<Injected>) {
        self.ask(|done| Command::Inject(frames, done));
    }

    /// Stops the thread: queues are closed, buffers returned.
    pub fn stop(self) {
        self.tell(Command::Stop);
        let _ = self.thread.join();
    }
}

fn pin(number: u16, core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        tracing::warn!(number, core, %error, "the worker could not be pinned to its core and runs on any");
    }
}
