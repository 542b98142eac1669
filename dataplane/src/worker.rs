//! A worker: one thread that owns its ports' queues, its buffers and its flow cache, and moves packets.
//! This file is the way of a packet:
//!
//! 1. **Receive** (`Worker::round`): a batch of at most [`BATCH`] frames from one queue, in turn, or from the
//!    ring of another worker (`handover.rs`).
//! 2. **Parse** (`Worker::parse`): a tunnel packet for us is taken out of its tunnel first and enters by
//!    the tunnel port; then each frame is parsed once, to a flow key.
//! 3. **Flow cache** (`Worker::stages`): the batch is looked up as a whole, stage by stage; then, in order, each hit's
//!    program runs, if the connections it was compiled for are still as it saw them; the rest is set aside.
//! 4. **Miss** (`Worker::miss`): what an older version of the tables says is held against what changed
//!    since; if that concerns it, or nothing is known, the tables are walked (`flow/resolve.rs`) within the
//!    port's budget, and the result is compiled to a program and cached. If another worker has a connection of
//!    the packet, that program hands the frame over, and the rest of its way is there. A fragment that comes
//!    before the first one of its datagram waits for it (`connection/fragments.rs`), and walks then; so does a
//!    packet whose next hop is asked for (`neighbours.rs`).
//! 5. **Run** (`flow/program.rs`): in place, no allocation. What sends puts the frame with its port.
//! 6. **Transmit** (`Outgoing::flush`): at the end of the batch, per port, in the form it can take.
//!
//! A frame that goes nowhere is counted under exactly one `DropReason` (`drop.rs`, `outcome.rs`).
//!
//! Rules: the version of the tables is loaded once per batch, and every packet of the batch sees that
//! version. No lock, clock or memory that another core writes is touched between receive and transmit of
//! a packet that hits, but for rings; the tables' read lock is taken on misses. An idle worker sleeps in `poll`
//! on its ports and its wake-up descriptor. Control reaches it as commands, between batches.

use crate::capture::Walk;
use crate::clock;
use crate::connection::fragments::{Seen, Waiting};
use crate::connection::{Connections, Contents, EndReason, Passing, Refused};
use crate::drop::DropReason;
use crate::egress::Outgoing;
use crate::flow::cache::{Cache, EntryNumber, Found, NO_ENTRY};
use crate::flow::key::FlowKey;
use crate::flow::log::{Recent, Work};
use crate::flow::program::{Egress, Program};
use crate::flow::resolve::{Connected, Packet, Resolution, Unobserved, View, resolve};
use crate::flow::tables::{Progress, Tables};
use crate::handover::{FromTunnel, Message, PortName};
use crate::limits::{BATCH, HAND_OVERS_PER_FRAME};
use crate::neighbours::Hop;
use crate::packet::frame::Frame;
use crate::packet::parse::{Layout, parse, parse_over};
use crate::packet::tunnel::{self, Encapsulation};
use crate::port::PortSlot;
use crate::topology::{PortKind, Topology};
use announcements::Announcements;
use control::Command;
use credit::Credits;
use neighbours::WaitingForHops;
use stages::Staged;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

mod announcements;
mod control;
mod credit;
mod idle;
mod inject;
mod neighbours;
mod stages;

pub use announcements::Announcement;
pub use control::{Listed, Traced, WorkerHandle, WorkerReport, WorkerSettings};
pub use inject::{Course, Injected};

/// Rounds without a frame after which a worker sleeps.
const IDLE_ROUNDS: u32 = 16;

/// A frame that found no usable cache entry.
struct Missed {
    frame: Frame,
    key: FlowKey,
    layout: Layout,
    origin: Origin,
}

/// Where a frame came from.
#[derive(Clone, Copy)]
struct Origin {
    ingress: PortSlot,
    /// The worker that handed it over.
    from: Option<u16>,
    /// Hand-overs so far.
    hops: u8,
}

/// See the module comment.
pub struct Worker {
    number: u16,
    tables: Arc<Tables>,
    progress: Arc<Progress>,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    settings: WorkerSettings,

    /// The tables' version that the current batch sees, and what goes with it.
    version: u64,
    /// What changed lately, as of that version.
    recent: Recent,
    topology: Arc<Topology>,
    /// Our tunnel ends: address and kind to the tunnel port.
    tunnels: HashMap<(Ipv4Addr, Encapsulation), (u32, PortSlot), foldhash::fast::RandomState>,
    /// The devices that tunnels run over, each with the tunnel port.
    underlays: Vec<(PortSlot, PortSlot)>,

    cache: Cache,
    connections: Connections,
    /// Fragments that came before the first one of their datagram.
    waiting: Waiting<Missed>,
    /// Packets whose next hop is asked for.
    hops: WaitingForHops,
    announcements: Announcements,
    /// Next hops that have become known, for which they may wait.
    found: Vec<Hop>,
    outgoing: Outgoing,
    slots: Vec<PortSlot>,
    frames: Vec<Frame>,
    /// Of the batch, as far as it has come.
    staged: Option<Box<Staged>>,
    missed: Vec<Missed>,
    credits: Credits,
    now: u64,
    /// Ports that had frames in the last round: they share the walks of the next.
    active: usize,
    /// Likewise in this round, so far.
    appeared: usize,
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

    /// One batch from each queue, and what other workers sent. Gives how many frames and messages.
    fn round(&mut self) -> usize {
        self.now = clock::now();
        self.outgoing.meters.now = self.now;
        self.outgoing.captures.now = self.now;
        self.credits.begin(self.now * 1000);
        self.appeared = 0;
        let mut received = 0;
        for index in 0..self.slots.len() {
            self.look_at_version();
            let slot = self.slots[index];
            if self.outgoing.numbers[slot.index()] == 0 {
                // Coming or going: without a number its frames would pass every rule that names no port.
                continue;
            }
            let mut frames = std::mem::take(&mut self.frames);
            let count = self.outgoing.receive(slot, &mut frames, BATCH);
            if count > 0 {
                self.appears(slot);
                received += count;
                let hits = self.cache.counters.hits;
                self.batch(slot, &mut frames);
                self.credits.received(count, (self.cache.counters.hits - hits) as usize);
            }
            self.frames = frames;
        }
        let mut messages = 0;
        for from in 0..self.outgoing.links.workers() {
            messages += self.messages(from);
        }
        self.look_at_version();
        self.active = self.appeared.max(1);
        self.packets += received as u64;
        self.outgoing.service();
        received + messages
    }

    /// A port has frames in this round.
    fn appears(&mut self, slot: PortSlot) {
        self.appeared += usize::from(self.credits.appears(slot));
    }

    fn look_at_version(&mut self) {
        let version = self.tables.version();
        if version == self.version {
            return;
        }
        self.version = version;
        let state = self.tables.read();
        self.recent.catch_up(state.logs(), version);
        let topology = state.topology(version);
        drop(state);
        if Arc::ptr_eq(&topology, &self.topology) {
            return;
        }
        self.topology = topology;
        self.outgoing.numbers.fill(0);
        self.tunnels.clear();
        self.underlays.clear();
        for (&number, info) in &self.topology.ports {
            self.outgoing.numbers[info.kind.slot().index()] = number;
            if let PortKind::Tunnel { slot, locals, encapsulation, underlays } = &info.kind {
                let ends = locals.iter().map(|&local| ((local, *encapsulation), (number, *slot)));
                self.tunnels.extend(ends);
                if !locals.is_empty() {
                    self.underlays.extend(underlays.iter().map(|&underlay| (underlay, *slot)));
                }
            }
        }
    }

    /// Handles the frames of one receive, and sends what comes of them.
    fn batch(&mut self, slot: PortSlot, frames: &mut Vec<Frame>) {
        self.outgoing.begin(self.active);
        if self.outgoing.captures.is_on() {
            frames.drain(..).for_each(|frame| self.enter_captured(slot, frame));
        } else {
            self.stages(slot, frames);
        }
        self.finish_batch();
    }

    /// Handles what another worker has sent by now.
    fn messages(&mut self, from: usize) -> usize {
        let waiting = self.outgoing.links.waiting(from);
        let mut left = waiting;
        while left > 0 {
            self.look_at_version();
            self.outgoing.begin(self.active);
            let batch = left.min(BATCH);
            for _ in 0..batch {
                let Some(message) = self.outgoing.links.take(from) else { break };
                match message {
                    Message::Resume { frame, ingress, tunnel, hops } => {
                        let origin = Origin { ingress: ingress.slot, from: Some(from as u16), hops };
                        self.resume(frame.open(), ingress, tunnel, origin);
                    }
                    Message::Send { frame, port } => {
                        let frame = frame.open();
                        self.outgoing.enter(frame.charged());
                        self.outgoing.send_decided(port, frame);
                    }
                    Message::Forget(key) => self.forget(&key),
                    Message::Found(hop) => self.found.push(hop),
                }
            }
            left -= batch;
            self.finish_batch();
        }
        waiting
    }

    /// Decides about a frame that another worker handed over.
    fn resume(&mut self, frame: Frame, ingress: PortName, tunnel: FromTunnel, origin: Origin) {
        if !self.outgoing.is_still(ingress) {
            self.outgoing.enter_again(PortSlot::NONE, origin.hops);
            return self.outgoing.discard(frame, DropReason::PortDown);
        }
        self.appears(ingress.slot);
        let mut key = FlowKey::ZERO;
        match parse(&frame, ingress.number, &mut key) {
            Ok(layout) => {
                (key.tun_id, key.tun_src, key.tun_dst) = (tunnel.id, tunnel.source, tunnel.destination);
                if self.outgoing.captures.is_on() {
                    self.look_up::<true>(frame, &key, layout, origin, NO_ENTRY);
                } else {
                    self.look_up::<false>(frame, &key, layout, origin, NO_ENTRY);
                }
            }
            Err(reason) => {
                self.outgoing.enter_again(ingress.slot, origin.hops);
                self.outgoing.capture(&frame, None);
                self.outgoing.discard(frame, reason);
            }
        }
    }

    /// The misses of a batch, then everything leaves.
    fn finish_batch(&mut self) {
        let mut missed = std::mem::take(&mut self.missed);
        for one in missed.drain(..) {
            self.miss(one);
        }
        self.missed = missed;
        self.learn();
        self.outgoing.flush();
    }

    /// The program of a key is not to be used any more, if it is a hand-over.
    fn forget(&mut self, key: &FlowKey) {
        if let Found::Hit(entry) | Found::Stale(entry) = self.cache.lookup(key, self.version)
            && self.cache.program(entry).owner().is_some()
        {
            self.cache.remove(entry);
        }
    }

    /// Out of the tunnel, if it is in one of ours, and to a key, which is one for [`parse_over`]; gives the port that it
    /// enters by.
    #[inline(always)]
    fn parse(
        &mut self,
        slot: PortSlot,
        frame: &mut Frame,
        key: &mut FlowKey,
        layout: &mut Layout,
    ) -> Result<PortSlot, DropReason> {
        if self.underlays.iter().any(|&(underlay, _)| underlay == slot)
            && let Some(entered) = self.parse_within(slot, frame, key, layout)
        {
            return entered;
        }
        parse_over(frame, self.outgoing.numbers[slot.index()], key, layout)?;
        Ok(slot)
    }

    /// Out of the tunnel and to a key; `None`: it is in none of ours. Only the devices a tunnel runs over may bring its
    /// packets: an instance must not speak as a VTEP.
    #[inline(never)]
    fn parse_within(
        &mut self,
        slot: PortSlot,
        frame: &mut Frame,
        key: &mut FlowKey,
        layout: &mut Layout,
    ) -> Option<Result<PortSlot, DropReason>> {
        let outer = tunnel::outer(frame.head())?;
        let &(number, slot_of_tunnel) = self.tunnels.get(&(outer.destination, outer.encapsulation))?;
        if !self.underlays.contains(&(slot, slot_of_tunnel)) {
            return None;
        }
        let mut enter = || {
            let from = tunnel::pop(frame, outer.encapsulation)?;
            parse_over(frame, number, key, layout)?;
            key.tun_id = from.id.to_be_bytes();
            key.tun_src = from.source.octets();
            key.tun_dst = from.destination.octets();
            Ok(slot_of_tunnel)
        };
        Some(enter())
    }

    /// The slow path of one packet.
    fn miss(&mut self, missed: Missed) {
        let Missed { frame, key, layout, origin } = missed;
        self.outgoing.enter_again(origin.ingress, origin.hops);
        if self.outgoing.captures.is_on() {
            self.outgoing.capture(&frame, Some(&key));
        }
        // An earlier packet of the batch may have made the entry.
        let found = self.cache.lookup(&key, self.version);
        let missed = Missed { frame, key, layout, origin };
        if let Found::Hit(entry) = found
            && self.is_good(entry, &missed)
        {
            self.cache.counters.hits += 1;
            return self.run_entry(entry, missed);
        }
        self.cache.counters.misses += 1;
        if !self.credits.is_left(origin.ingress) {
            return self.outgoing.discard(missed.frame, DropReason::MissBudget);
        }
        if let Found::Stale(entry) = found {
            let mut work = Work::ONE_WALK;
            let good = self.cache.renew(entry, &missed.key, &self.recent, &mut work);
            if good {
                self.credits.charge_comparisons(origin.ingress, work.done());
                if self.is_good(entry, &missed) {
                    return self.run_entry(entry, missed);
                }
            }
        }
        let started = clock::nanoseconds();
        self.walk(missed, found);
        self.credits.charge(origin.ingress, clock::nanoseconds().saturating_sub(started));
    }

    /// Whether an entry may be believed as far as connections go, for which a packet that it is good for is counted.
    fn is_good(&mut self, entry: EntryNumber, missed: &Missed) -> bool {
        let Missed { frame, key, layout, origin } = missed;
        let program = self.cache.program(entry);
        holds(program, *origin) && program.admits(frame, key, layout, &mut self.connections, self.now)
    }

    /// Runs the program of an entry that is good for the packet.
    fn run_entry(&mut self, entry: EntryNumber, missed: Missed) {
        self.outgoing.capture_walk(|| self.cache.walk(entry, true));
        let Missed { frame, key, layout, .. } = missed;
        self.cache.take(entry, frame.len(), self.now).run(frame, &key, layout, &mut self.outgoing);
    }

    /// Walks the tables with a packet for which the cache has nothing good.
    fn walk(&mut self, missed: Missed, found: Found) {
        let Missed { frame, key, layout, origin } = missed;
        let state = self.tables.read();
        let (version, topology, now) = (self.version, &self.topology, self.now);
        let bytes = frame.len();
        let contents = Contents::read(frame.head(), &key, &layout);
        let arrived = origin.hops == 0;
        let walk = |connections: &Connections| {
            let view = View {
                state: &state,
                version,
                topology,
                connections: Connected::Now(connections),
                now,
                arrived,
                traced: None,
            };
            resolve(&view, &Packet { key: &key, contents }, &mut Unobserved)
        };
        let mut resolution = walk(&self.connections);
        if resolution.owner == Some(self.number) {
            self.connections.adopt();
            resolution = walk(&self.connections);
        }
        drop(state);
        if let Found::Hit(entry) | Found::Stale(entry) = found {
            self.cache.remove(entry);
        }
        if resolution.early
            && let Some(seen) = &resolution.fragment
        {
            return self.hold(seen, Missed { frame, key, layout, origin });
        }
        if let Some(wanted) = resolution.hops.wanted {
            if resolution.drop.is_some() {
                return self.await_hop(wanted, Missed { frame, key, layout, origin });
            }
            // What has left elsewhere must not leave there twice; but the next one may find the hop known.
            self.ask_for(wanted);
        }
        let begun = resolution.fragment.filter(|seen| self.connections.fragments.note(seen, now));
        let missed = Missed { frame, key, layout, origin };
        match resolution.owner {
            Some(owner) => self.pass_on(owner, resolution, missed),
            None => self.carry_out(missed, resolution, bytes),
        }
        for waiting in begun.map_or(Vec::new(), |seen| self.waiting.release(&seen.datagram)) {
            self.miss(waiting);
        }
    }

    /// Does with a packet what a walk found, and remembers it if the next ones will fare the same.
    fn carry_out(&mut self, missed: Missed, resolution: Resolution, bytes: usize) {
        let Missed { frame, key, layout, .. } = missed;
        self.outgoing.capture_walk(|| Walk {
            rules: resolution.rules.as_slice().into(),
            program: None,
            consulted: resolution.consulted,
            cached: false,
        });
        match self.remember(&resolution, &Passing::one(resolution.transport, bytes)) {
            Ok(()) => {}
            Err(Refused::Because(reason)) => return self.outgoing.discard(frame, reason),
            // Begun there a moment ago.
            Err(Refused::OwnedBy(owner)) => return self.outgoing.hand_over(owner, frame, &key),
        }
        if resolution.cacheable {
            let entry = self.cache.insert(&key, resolution, self.version, self.now);
            self.outgoing.capture_walk(|| self.cache.walk(entry, false));
            self.cache.take(entry, frame.len(), self.now).run(frame, &key, layout, &mut self.outgoing);
        } else {
            self.cache.tables.count(&resolution.rules, &resolution.missed, 1);
            resolution.rules.iter().for_each(|rule| rule.counters.add(1, frame.len() as u64, self.now));
            resolution.counted.iter().for_each(|counters| counters.add(1, frame.len() as u64, self.now));
            resolution.hops.used.iter().for_each(|used| used.mark(self.now));
            let program = Arc::new(Program::compile(&resolution));
            self.outgoing.capture_walk(|| Walk {
                rules: resolution.rules.into(),
                program: Some(program.clone()),
                consulted: resolution.consulted,
                cached: false,
            });
            program.run(frame, &key, layout, &mut self.outgoing);
        }
    }

    /// Another worker is to decide: what this one has of the packet's connections goes there, then the frame.
    fn pass_on(&mut self, owner: u16, resolution: Resolution, missed: Missed) {
        let Missed { frame, key, layout, origin } = missed;
        for &id in &resolution.refused {
            self.connections.close(id, EndReason::PolicyChanged);
        }
        if owner == self.number || origin.hops >= HAND_OVERS_PER_FRAME {
            return self.outgoing.discard(frame, DropReason::HandOverLimit);
        }
        for &id in &resolution.moves {
            self.connections.give(id, owner, self.now);
        }
        if let Some(from) = origin.from.filter(|&from| from != owner) {
            self.outgoing.links.forget(from.into(), &key);
        }
        if resolution.cacheable {
            let entry = self.cache.insert(&key, resolution, self.version, self.now);
            self.cache.take(entry, frame.len(), self.now).run(frame, &key, layout, &mut self.outgoing);
        } else {
            self.outgoing.hand_over(owner, frame, &key);
        }
    }

    /// Lets an early fragment wait for the first one of its datagram.
    fn hold(&mut self, seen: &Seen, missed: Missed) {
        let bytes = missed.frame.len();
        if let Err(missed) = self.waiting.hold(seen, missed, bytes, self.now) {
            self.outgoing.discard(missed.frame, DropReason::FragmentLimit);
        } else {
            self.outgoing.capture_later();
        }
    }

    /// Drops early fragments that need not wait any more.
    fn give_up(&mut self, fragments: Vec<Missed>, reason: DropReason) {
        if fragments.is_empty() {
            return;
        }
        for missed in fragments {
            self.outgoing.enter(missed.origin.ingress);
            if self.outgoing.captures.is_on() {
                self.outgoing.capture(&missed.frame, Some(&missed.key));
            }
            self.outgoing.discard(missed.frame, reason);
        }
        self.outgoing.flush();
    }

    /// What a walk means for connections. A packet that goes nowhere begins none and keeps none alive.
    fn remember(&mut self, resolution: &Resolution, passing: &Passing) -> Result<(), Refused> {
        for &id in &resolution.refused {
            self.connections.close(id, EndReason::PolicyChanged);
        }
        if resolution.drop.is_some() {
            return Ok(());
        }
        if !resolution.commits.is_empty() {
            self.connections.commit_all(&resolution.commits, passing, self.now)?;
        }
        for track in &resolution.tracks {
            self.connections.advance(track, passing, self.now);
        }
        Ok(())
    }

    fn stop(mut self) {
        self.cache.flush();
        let mut all = self.waiting.withdraw(|_| true);
        all.extend(self.hops.withdraw(|_| true));
        self.give_up(all, DropReason::Stopped);
        self.outgoing.close();
        self.progress.asleep();
        self.tables.dismiss(&self.progress);
    }
}

/// Whether a program may be believed: of what was handed over, no hand-over.
fn holds(program: &Program, origin: Origin) -> bool {
    origin.hops == 0 || program.owner().is_none()
}

#[cfg(test)]
mod tests;
