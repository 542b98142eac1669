//! A worker: one thread that owns its ports' queues, its buffers and its flow cache, and moves packets.
//! This file is the way of a packet:
//!
//! 1. **Receive** (`Worker::round`): a batch of at most [`BATCH`] frames from one queue, in turn.
//! 2. **Parse** (`Worker::parse`): a tunnel packet for us is taken out of its tunnel first and enters by
//!    the tunnel port; then each frame is parsed once, to a flow key.
//! 3. **Flow cache** (`Worker::batch`): a hit's program runs at once, if the connections it was compiled for
//!    are still as it saw them; the rest is set aside.
//! 4. **Miss** (`Worker::miss`): what an older version of the tables says is held against what changed
//!    since; if that concerns it, or nothing is known, the tables are walked (`flow/resolve.rs`) within the
//!    port's budget, and the result is compiled to a program and cached. A fragment that comes before the
//!    first one of its datagram waits for it (`connection/fragments.rs`), and walks then.
//! 5. **Run** (`flow/program.rs`): in place, no allocation. What sends puts the frame with its port.
//! 6. **Transmit** (`Outgoing::flush`): at the end of the batch, per port, in the form it can take.
//!
//! A frame that goes nowhere is counted under exactly one `DropReason` (`drop.rs`, `outcome.rs`).
//!
//! Rules: the version of the tables is loaded once per batch, and every packet of the batch sees that
//! version. No lock, clock or memory that another core writes is touched between receive and transmit of
//! a packet that hits; the tables' read lock is taken on misses. An idle worker sleeps in `poll` on its
//! ports and its wake-up descriptor. Control reaches it as commands, between batches.

mod credit;

use crate::clock;
use crate::connection::fragments::{Seen, Waiting};
use crate::connection::{Connections, Contents, EndReason, Options, Passing, Start};
use crate::drop::DropReason;
use crate::egress::{Outgoing, PuntSink};
use crate::flow::cache::{Cache, Found};
use crate::flow::key::FlowKey;
use crate::flow::log::Work;
use crate::flow::message;
use crate::flow::program::{Egress, Program};
use crate::flow::resolve::{Connected, Packet, Resolution, Unobserved, View, resolve};
use crate::flow::tables::{Progress, Tables};
use crate::limits::{BATCH, CACHE_IDLE_MICROSECONDS, COMPARISONS_PER_WALK, PORTS};
use crate::packet::frame::Frame;
use crate::packet::memory::{Class, Memory};
use crate::packet::parse::{Layout, parse, parse_bytes};
use crate::packet::pool::Pool;
use crate::packet::tunnel::{vxlan_outer, vxlan_pop};
use crate::port::{PortQueue, PortSlot, QueueCounters};
use crate::topology::{PortKind, Topology};
use credit::Credit;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use weft_proto::v1;

/// Rounds without a frame after which a worker sleeps.
const IDLE_ROUNDS: u32 = 16;
/// How long it sleeps at most, so that counters reach rules in time: nanoseconds.
const SLEEP_NANOSECONDS: i64 = 200_000_000;
/// Likewise while a port has no descriptor to wait on.
const ASK_NANOSECONDS: i64 = 1_000_000;
/// Microseconds between two rounds of housekeeping.
const HOUSEKEEPING_MICROSECONDS: u64 = 100_000;

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
    /// Drops by ingress port and reason, not zero.
    pub drops: Vec<(PortSlot, DropReason, u64)>,
    /// What outputs could not take, by output port and reason, not zero.
    pub unsent: Vec<(PortSlot, DropReason, u64)>,
    /// Of device ports their queues' counters, of tunnel ports what was decapsulated and encapsulated.
    pub ports: Vec<(PortSlot, QueueCounters)>,
    /// Buffers this worker has free in its own cache: chunks, runs.
    pub cached_buffers: (usize, usize),
}

/// A packet to be traced.
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

enum Command {
    AddQueue(PortSlot, Box<dyn PortQueue>, Sender<()>),
    RemoveQueues(PortSlot, Sender<()>),
    Report(Sender<WorkerReport>),
    Cache(usize, Sender<Vec<v1::CacheEntry>>),
    Trace(Traced, Sender<v1::TraceReply>),
    Stop,
}

/// A frame that found no usable cache entry.
struct Missed {
    frame: Frame,
    key: FlowKey,
    layout: Layout,
    ingress: PortSlot,
}

/// See the module comment.
pub struct Worker {
    number: u32,
    tables: Arc<Tables>,
    progress: Arc<Progress>,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    settings: WorkerSettings,

    /// The tables' version that the current batch sees, and what goes with it.
    version: u64,
    topology: Arc<Topology>,
    /// Port numbers by slot; 0: none.
    numbers: Vec<u32>,
    /// Our tunnel ends: address and UDP port to the tunnel port.
    tunnels: HashMap<(Ipv4Addr, u16), (u32, PortSlot)>,

    cache: Cache,
    connections: Connections,
    /// Fragments that came before the first one of their datagram.
    waiting: Waiting<Missed>,
    outgoing: Outgoing,
    slots: Vec<PortSlot>,
    frames: Vec<Frame>,
    missed: Vec<Missed>,
    credits: Vec<Credit>,
    now: u64,
    rounds: u64,
    /// Queues that had frames in the last round: they share the walks of the next.
    active: usize,
    packets: u64,
    tidied: u64,
}

impl Worker {
    fn run(mut self) {
        let mut idle = 0;
        self.progress.awake();
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if let Command::Stop = command {
                    return self.stop();
                }
                self.obey(command);
                idle = 0;
            }
            if self.round() > 0 {
                idle = 0;
            } else {
                idle += 1;
            }
            self.progress.finished(self.version);
            self.tidy();
            if idle > IDLE_ROUNDS && !self.settings.spin {
                self.sleep();
            }
        }
    }

    /// One batch from each queue.
    fn round(&mut self) -> usize {
        self.now = clock::now();
        self.rounds += 1;
        let mut active = 0;
        let mut total = 0;
        for index in 0..self.slots.len() {
            self.look_at_version();
            let slot = self.slots[index];
            if self.numbers[slot.index()] == 0 {
                // Coming or going: without a number its frames would pass every rule that names no port.
                continue;
            }
            let mut frames = std::mem::take(&mut self.frames);
            let count = self.outgoing.receive(slot, &mut frames, BATCH);
            if count > 0 {
                active += 1;
                total += count;
                self.batch(slot, &mut frames);
            }
            self.frames = frames;
        }
        self.look_at_version();
        self.active = active.max(1);
        self.packets += total as u64;
        self.outgoing.service();
        total
    }

    fn look_at_version(&mut self) {
        let version = self.tables.version();
        if version == self.version {
            return;
        }
        self.version = version;
        let topology = self.tables.read().topology(version);
        if Arc::ptr_eq(&topology, &self.topology) {
            return;
        }
        self.topology = topology;
        self.numbers.fill(0);
        self.tunnels.clear();
        for (&number, info) in &self.topology.ports {
            self.numbers[info.kind.slot().index()] = number;
            if let PortKind::Vxlan { slot, local: Some(local), udp_port, .. } = info.kind {
                self.tunnels.insert((local, udp_port), (number, slot));
            }
        }
    }

    /// Handles the frames of one receive, and sends what comes of them.
    fn batch(&mut self, slot: PortSlot, frames: &mut Vec<Frame>) {
        self.outgoing.begin();
        for mut frame in frames.drain(..) {
            let (mut key, bytes) = (FlowKey::ZERO, frame.len());
            let (layout, ingress) = match self.parse(slot, &mut frame, &mut key) {
                Ok((layout, tunnel)) if tunnel != slot => {
                    self.outgoing.count_decapsulated(tunnel, bytes);
                    (layout, tunnel)
                }
                Ok(parsed) => parsed,
                Err(reason) => {
                    self.outgoing.enter(slot);
                    self.outgoing.discard(frame, reason);
                    continue;
                }
            };
            match self.cache.lookup(&key, self.version) {
                Found::Hit(entry)
                    if self.cache.program(entry).admits(&frame, &key, &layout, &mut self.connections, self.now) =>
                {
                    self.cache.counters.hits += 1;
                    self.outgoing.enter(ingress);
                    self.cache.take(entry, frame.len(), self.now).run(frame, &key, layout, &mut self.outgoing);
                }
                Found::Hit(_) | Found::Stale(_) | Found::Miss => {
                    self.missed.push(Missed { frame, key, layout, ingress })
                }
            }
        }
        let mut missed = std::mem::take(&mut self.missed);
        for one in missed.drain(..) {
            self.miss(one);
        }
        self.missed = missed;
        self.outgoing.flush();
    }

    /// Out of the tunnel, if it is in one of ours, and to a key.
    fn parse(
        &mut self,
        slot: PortSlot,
        frame: &mut Frame,
        key: &mut FlowKey,
    ) -> Result<(Layout, PortSlot), DropReason> {
        if !self.tunnels.is_empty()
            && let Some(outer) = vxlan_outer(frame.head())
            && let Some(&(number, tunnel)) = self.tunnels.get(&(outer.destination, outer.udp_port))
            && self.is_underlay(tunnel, number, slot)
        {
            let from = vxlan_pop(frame)?;
            let layout = parse(frame, number, key)?;
            key.tun_id = from.id.to_be_bytes();
            key.tun_src = from.source.octets();
            key.tun_dst = from.destination.octets();
            return Ok((layout, tunnel));
        }
        Ok((parse(frame, self.numbers[slot.index()], key)?, slot))
    }

    /// Only the device a tunnel runs over may bring its packets: an instance must not speak as a VTEP.
    fn is_underlay(&self, tunnel: PortSlot, number: u32, slot: PortSlot) -> bool {
        self.topology.ports.get(&number).is_some_and(|info| {
            matches!(info.kind, PortKind::Vxlan { slot: own, underlay, .. } if own == tunnel && underlay == slot)
        })
    }

    /// The slow path of one packet.
    fn miss(&mut self, missed: Missed) {
        let Missed { frame, key, layout, ingress } = missed;
        self.outgoing.enter(ingress);
        // An earlier packet of the batch may have made the entry.
        let found = self.cache.lookup(&key, self.version);
        let state = self.tables.read();
        let (version, topology, now) = (self.version, &self.topology, self.now);
        let good = match found {
            Found::Hit(entry) => Some(entry),
            Found::Stale(entry) => {
                let credit = &mut self.credits[ingress.index()];
                if !credit.is_left(self.rounds, self.active) {
                    drop(state);
                    self.cache.counters.misses += 1;
                    return self.outgoing.discard(frame, DropReason::MissBudget);
                }
                let mut work = Work::ONE_WALK;
                let good = self.cache.renew(entry, &key, &state, version, &mut work);
                // Otherwise it is charged as the walk that follows.
                if good {
                    credit.spend(work.done());
                }
                good.then_some(entry)
            }
            Found::Miss => None,
        };
        if let Some(entry) = good
            && self.cache.program(entry).admits(&frame, &key, &layout, &mut self.connections, self.now)
        {
            if let Found::Hit(_) = found {
                self.cache.counters.hits += 1;
            } else {
                self.cache.counters.misses += 1;
            }
            return self.cache.take(entry, frame.len(), self.now).run(frame, &key, layout, &mut self.outgoing);
        }
        self.cache.counters.misses += 1;
        let credit = &mut self.credits[ingress.index()];
        if !credit.is_left(self.rounds, self.active) {
            drop(state);
            return self.outgoing.discard(frame, DropReason::MissBudget);
        }
        credit.spend(COMPARISONS_PER_WALK);
        let bytes = frame.len();
        let contents = Contents::read(frame.head(), &key, &layout);
        let connections = Connected::Now(&self.connections);
        let view = View { state: &state, version, topology, connections, now };
        let resolution = resolve(&view, &Packet { key: &key, contents }, &mut Unobserved);
        drop(state);
        if let Found::Hit(entry) | Found::Stale(entry) = found {
            self.cache.remove(entry);
        }
        if resolution.early
            && let Some(seen) = &resolution.fragment
        {
            return self.hold(seen, Missed { frame, key, layout, ingress });
        }
        let begun = resolution.fragment.filter(|seen| self.connections.fragments.note(seen, now));
        self.carry_out(Missed { frame, key, layout, ingress }, resolution, bytes);
        for waiting in begun.map_or(Vec::new(), |seen| self.waiting.release(&seen.datagram)) {
            self.miss(waiting);
        }
    }

    /// Does with a packet what a walk found, and remembers it if the next ones will fare the same.
    fn carry_out(&mut self, missed: Missed, resolution: Resolution, bytes: usize) {
        let Missed { frame, key, layout, .. } = missed;
        if let Err(reason) = self.remember(&resolution, &Passing::one(resolution.transport, bytes)) {
            return self.outgoing.discard(frame, reason);
        }
        if resolution.cacheable {
            let entry = self.cache.insert(&key, resolution, self.version, self.now);
            self.cache.take(entry, frame.len(), self.now).run(frame, &key, layout, &mut self.outgoing);
        } else {
            resolution.rules.iter().for_each(|rule| rule.counters.add(1, frame.len() as u64));
            Program::compile(&resolution).run(frame, &key, layout, &mut self.outgoing);
        }
    }

    /// Lets an early fragment wait for the first one of its datagram.
    fn hold(&mut self, seen: &Seen, missed: Missed) {
        let bytes = missed.frame.len();
        if let Err(missed) = self.waiting.hold(seen, missed, bytes, self.now) {
            self.outgoing.discard(missed.frame, DropReason::FragmentLimit);
        }
    }

    /// Drops early fragments that need not wait any more.
    fn give_up(&mut self, fragments: Vec<Missed>, reason: DropReason) {
        if fragments.is_empty() {
            return;
        }
        for missed in fragments {
            self.outgoing.enter(missed.ingress);
            self.outgoing.discard(missed.frame, reason);
        }
        self.outgoing.flush();
    }

    /// What a walk means for connections. A packet that goes nowhere begins none and keeps none alive.
    fn remember(&mut self, resolution: &Resolution, passing: &Passing) -> Result<(), DropReason> {
        for &id in &resolution.refused {
            self.connections.close(id, EndReason::PolicyChanged);
        }
        if resolution.drop.is_some() {
            return Ok(());
        }
        let mut begun = Vec::new();
        for prepared in &resolution.commits {
            match self.connections.commit(prepared, passing, self.now) {
                Ok(id) => begun.push(id),
                Err(reason) => {
                    // All zones or none.
                    for id in begun {
                        self.connections.close(id, EndReason::Withdrawn);
                    }
                    return Err(reason);
                }
            }
        }
        for track in &resolution.tracks {
            self.connections.advance(track, passing, self.now);
        }
        Ok(())
    }

    /// What need not be done per packet.
    fn tidy(&mut self) {
        if self.now < self.tidied + HOUSEKEEPING_MICROSECONDS {
            return;
        }
        self.tidied = self.now;
        self.cache.flush();
        // Every entry is looked at once a second or so.
        let share = self.cache.len() / 8 + 64;
        self.cache.sweep(share, self.now.saturating_sub(CACHE_IDLE_MICROSECONDS));
        let share = self.connections.len() / 8 + 64;
        self.connections.expire(self.now, share);
        self.connections.fragments.expire(self.now);
        let late = self.waiting.expire(self.now);
        self.give_up(late, DropReason::FragmentTimeout);
    }

    fn sleep(&mut self) {
        self.progress.asleep();
        let mut nanoseconds = SLEEP_NANOSECONDS;
        {
            let mut descriptors = vec![PollFd::new(&*self.wake, PollFlags::IN)];
            for (slot, descriptor) in self.outgoing.descriptors() {
                if self.numbers[slot.index()] == 0 {
                    // Its frames are not taken yet: they must not keep the worker awake.
                    continue;
                }
                match descriptor {
                    Some(descriptor) => descriptors.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN)),
                    None => nanoseconds = ASK_NANOSECONDS,
                }
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
            // Interrupted or timed out: the loop looks for itself.
            let _ = poll(&mut descriptors, Some(&timeout));
            if descriptors[0].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            }
        }
        self.progress.awake();
        self.look_at_version();
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may have stopped waiting: then nobody needs the answer.
        match command {
            Command::AddQueue(slot, queue, done) => {
                self.outgoing.add(slot, queue);
                self.slots = self.outgoing.slots().collect();
                let _ = done.send(());
            }
            Command::RemoveQueues(slot, done) => {
                let its = self.waiting.withdraw(|missed| missed.ingress == slot || missed.frame.charged() == slot);
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
            Command::Trace(traced, reply) => {
                let _ = reply.send(self.trace(&traced));
            }
            Command::Stop => {}
        }
    }

    fn trace(&mut self, traced: &Traced) -> v1::TraceReply {
        self.look_at_version();
        let parsed = match traced {
            Traced::Fields(packet) => Ok(**packet),
            Traced::Frame { in_port, bytes } => self.parse_traced(*in_port, bytes).unwrap_or_else(|| traced.parse()),
        };
        match parsed {
            Ok((key, contents)) => {
                self.tables.trace(&Packet { key: &key, contents }, Connected::Now(&self.connections))
            }
            Err(reason) => Traced::dropped(reason),
        }
    }

    /// Parses a frame as if it had come in; `None`: there is no such device, or no buffer.
    fn parse_traced(&mut self, in_port: u32, bytes: &[u8]) -> Option<Result<(FlowKey, Contents), DropReason>> {
        let PortKind::Device { slot, .. } = self.topology.ports.get(&in_port)?.kind else { return None };
        let mut frame = self.outgoing.pool.frame(slot, bytes)?;
        let mut key = FlowKey::ZERO;
        let parsed = self.parse(slot, &mut frame, &mut key);
        let parsed = parsed.map(|(layout, _)| (key, Contents::read(frame.head(), &key, &layout)));
        self.outgoing.pool.free(frame);
        Some(parsed)
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
            drops: self.outgoing.outcomes.drops.iter().collect(),
            unsent: self.outgoing.outcomes.unsent.iter().collect(),
            ports: self.outgoing.counters(),
            cached_buffers: (pool.cached(Class::Chunk), pool.cached(Class::Run)),
        }
    }

    fn busiest(&self, limit: usize) -> Vec<v1::CacheEntry> {
        let row = |(value, mask, program, packets, bytes): (FlowKey, FlowKey, Arc<Program>, u64, u64)| v1::CacheEntry {
            r#match: message::matches(&value, &mask),
            program: program.text(&self.topology),
            packets,
            bytes,
            worker: self.number,
        };
        self.cache.busiest(limit).into_iter().map(row).collect()
    }

    fn stop(mut self) {
        self.cache.flush();
        let all = self.waiting.withdraw(|_| true);
        self.give_up(all, DropReason::Stopped);
        self.outgoing.close();
        self.progress.asleep();
        self.tables.dismiss(&self.progress);
    }
}

/// Control of one worker, for the switch. Calls block until the worker has answered (microseconds).
pub struct WorkerHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the thread or its wake-up descriptor cannot be made.
    pub fn start(
        number: u32,
        tables: Arc<Tables>,
        memory: &'static Memory,
        punts: Arc<dyn PuntSink>,
        settings: WorkerSettings,
    ) -> std::io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, receiver) = channel();
        let (connections, _) = Connections::open(Options::default(), Start::read()).map_err(std::io::Error::other)?;
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
                    topology: Arc::default(),
                    numbers: vec![0; PORTS],
                    tunnels: HashMap::new(),
                    cache: Cache::default(),
                    connections,
                    waiting: Waiting::default(),
                    outgoing: Outgoing::new(Pool::new(memory), punts),
                    slots: Vec::new(),
                    frames: Vec::with_capacity(BATCH),
                    missed: Vec::with_capacity(BATCH),
                    credits: vec![Credit::default(); PORTS],
                    now: clock::now(),
                    rounds: 0,
                    active: 1,
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

    /// Walks the tables for a packet, among this worker's connections, and writes the walk down; nothing is
    /// counted, sent or remembered.
    #[must_use]
    pub fn trace(&self, traced: Traced) -> v1::TraceReply {
        self.ask(|reply| Command::Trace(traced, reply))
    }

    /// Stops the thread: queues are closed, buffers returned.
    pub fn stop(self) {
        self.tell(Command::Stop);
        let _ = self.thread.join();
    }
}

fn pin(number: u32, core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        tracing::warn!(number, core, %error, "the worker could not be pinned to its core and runs on any");
    }
}

#[cfg(test)]
mod tests;
