//! The connections of one worker. See the module comment of [`super`].

use super::directory::{Directory, Refusal};
use super::file::{OpenError, RecordFile};
use super::index::Index;
use super::nat::{Internal, Nat, Ports, Random, with_destination, with_source};
use super::protocol::{Progress, State, Transport, Verdict, begin};
use super::record::{Counter, Record, flag};
use super::state::CtState;
use super::tuple::Tuple;
use super::{ConnectionId, Direction};
use crate::drop::DropReason;
use crate::flow::key::FlowKey;
use crate::limits::connection as limits;
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// How a worker's connections are kept.
#[derive(Clone)]
pub struct Options {
    /// The file, on a tmpfs, of this worker alone; `None`: they end with the process.
    pub path: Option<PathBuf>,
    /// At most this many.
    pub records: usize,
    /// At most this many of one zone.
    pub per_zone: u32,
    /// The number of the worker.
    pub worker: u16,
    /// How many there are.
    pub workers: u16,
    /// Whether TCP and SCTP connections may be picked up in the middle.
    pub pick_up: bool,
    /// For the choice of NAT ports; `None`: unpredictable.
    pub seed: Option<u64>,
    /// Where other workers find what this one owns.
    pub directory: Option<Arc<Directory>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: None,
            records: limits::DEFAULT_RECORDS,
            per_zone: limits::DEFAULT_PER_ZONE,
            worker: 0,
            workers: 1,
            pick_up: false,
            seed: None,
            directory: None,
        }
    }
}

/// One moment in two clocks, both in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// `crate::clock::now()`
    pub now: u64,
    /// The system's monotonic clock; not less than `now`.
    pub monotonic: u64,
}

impl Start {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        let now = crate::clock::now();
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self { now, monotonic: time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000 }
    }
}

/// What a cached program knows of a connection its packets belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    /// Which.
    pub id: ConnectionId,
    /// Which way.
    pub direction: Direction,
    /// As of when it was compiled.
    pub visible_epoch: u32,
}

/// What a packet is to its connection.
#[derive(Clone, Copy, Debug)]
pub struct Passing {
    /// Its transport header.
    pub transport: Transport,
    /// Packets it counts as.
    pub packets: u32,
    /// Bytes it counts as.
    pub bytes: u32,
}

/// The result of [`Connections::touch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Applied and counted; what rules see is as before.
    Passed,
    /// Nothing is applied: this packet changes what rules see. Walk the tables, then [`Connections::advance`].
    VisibleChange,
    /// Nothing is applied: the connection is gone, or rules see it differently by now. Walk the tables.
    Stale,
    /// Nothing is applied: the packet contradicts the protocol, or begins another connection of the same
    /// tuple. Walk the tables.
    Invalid,
}

/// The result of [`Connections::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// Whether what rules see changed.
    pub visible_changed: bool,
    /// What it is now.
    pub visible_epoch: u32,
}

/// What rules see of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// `ct_state`
    pub state: CtState,
    /// `ct_mark`; 0 without a connection.
    pub mark: u32,
    /// The connection it belongs to, with the epoch that this packet leaves behind.
    pub track: Option<Track>,
    /// Its tuple after the connection's NAT.
    pub translated: Option<Tuple>,
}

/// A connection about to begin.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Where.
    pub zone: u32,
    /// The first packet's tuple, in this zone.
    pub tuple: Tuple,
    /// Its transport header.
    pub transport: Transport,
    /// Its key, as it entered the switch.
    pub first: &'a FlowKey,
    /// What to translate.
    pub nat: Nat,
    /// `ct_mark`
    pub mark: u32,
    /// See [`flag::FOLLOW_POLICY`].
    pub follow_policy: bool,
}

/// A connection that could begin: everything is chosen, nothing is changed.
#[derive(Clone, Debug)]
pub struct Prepared {
    zone: u32,
    original: Tuple,
    reply: Tuple,
    progress: Progress,
    flags: u16,
    mark: u32,
    first: FlowKey,
}

impl Prepared {
    /// Where it would be.
    #[must_use]
    pub fn zone(&self) -> u32 {
        self.zone
    }

    /// The first packet's tuple after NAT.
    #[must_use]
    pub fn translated(&self) -> Tuple {
        self.reply.inverse()
    }

    /// What rules see of the first packet after the commit.
    #[must_use]
    pub fn state(&self) -> CtState {
        seen(&self.progress, self.flags, Direction::Original)
    }
}

/// An ICMP error about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Related {
    /// About which.
    pub id: ConnectionId,
    /// The way the error goes: against the packet that it quotes.
    pub direction: Direction,
    /// `ct_state`
    pub state: CtState,
    /// `ct_mark`
    pub mark: u32,
    /// What the quoted packet must be rewritten to: as its sender sent it.
    pub quoted: Tuple,
    /// What the error's own source must be rewritten to, if it must.
    pub source: Option<[u8; 16]>,
    /// Likewise its destination.
    pub destination: Option<[u8; 16]>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// Nothing passed for as long as its timeout.
    Expired,
    /// Its protocol had ended it, and the time to linger was over.
    Finished,
    /// A new connection has its tuple, after the protocol had ended it.
    Reopened,
    /// Rules would not admit it any more.
    PolicyChanged,
    /// Somebody removed it.
    Flushed,
    /// Another zone refused the packet that began it.
    Withdrawn,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Expired, Self::Finished, Self::Reopened, Self::PolicyChanged, Self::Flushed, Self::Withdrawn];

    /// The word in dumps and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Finished => "finished",
            Self::Reopened => "reopened",
            Self::PolicyChanged => "policy_changed",
            Self::Flushed => "flushed",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The result of [`Connections::expire`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Slots looked at.
    pub examined: usize,
    /// Connections removed.
    pub removed: usize,
}

/// Which connections to list: all conditions must hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Of this zone.
    pub zone: Option<u32>,
    /// Of this IP protocol.
    pub protocol: Option<u8>,
    /// With this address at either end of either tuple.
    pub address: Option<IpAddr>,
    /// With this port, likewise.
    pub port: Option<u16>,
    /// With this mark under this mask.
    pub mark: Option<(u32, u32)>,
}

impl Filter {
    /// Whether it lets a record through.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        let tuples = [record.tuple(Direction::Original), record.tuple(Direction::Reply)];
        let ends = tuples.iter().flat_map(|tuple| [tuple.from(), tuple.to()]);
        self.zone.is_none_or(|zone| record.zone == zone)
            && self.protocol.is_none_or(|protocol| record.original.protocol == protocol)
            && self.mark.is_none_or(|(mark, mask)| record.mark & mask == mark & mask)
            && self.address.is_none_or(|address| ends.clone().any(|end| end.0 == address))
            && self.port.is_none_or(|port| ends.clone().any(|end| end.1 == port))
    }
}

/// See the module comment of [`super`].
pub struct Connections {
    file: RecordFile,
    index: Index,
    hash: RandomState,
    /// Slots below `high` that are free.
    free: Vec<u32>,
    /// No slot from here on was ever used.
    high: usize,
    live: usize,
    zones: HashMap<u32, u32, RandomState>,
    ports: Ports,
    /// Where `expire` goes on.
    hand: usize,
    /// The system's monotonic clock minus `crate::clock`.
    offset: u64,
    ended: [u64; EndReason::ALL.len()],
    options: Options,
}

/// What rules see of a packet of a connection.
fn seen(progress: &Progress, flags: u16, direction: Direction) -> CtState {
    let mut state = CtState::TRACKED | if progress.replied { CtState::ESTABLISHED } else { CtState::NEW };
    let (mut source, mut destination) = (flags & flag::SOURCE_NAT != 0, flags & flag::DESTINATION_NAT != 0);
    if direction == Direction::Reply {
        state |= CtState::REPLY;
        (source, destination) = (destination, source);
    }
    if source {
        state |= CtState::SOURCE_NAT;
    }
    if destination {
        state |= CtState::DESTINATION_NAT;
    }
    state
}

/// What a packet does to a connection, if it may.
enum Effect {
    Change { progress: Progress, visible: bool },
    Not(Touched),
}

fn effect(record: &Record, track: &Track, transport: &Transport) -> Effect {
    let before = record.progress();
    match before.after(record.original.protocol, track.direction, transport) {
        Verdict::Pass(progress) => Effect::Change { visible: !before.looks_like(&progress), progress },
        Verdict::Invalid | Verdict::Reopen => Effect::Not(Touched::Invalid),
    }
}

fn apply(record: &mut Record, direction: Direction, progress: &Progress, passing: &Passing, monotonic: u64) {
    // What still comes after a RST does not keep the connection.
    if progress.state != State::Closed || record.state() != State::Closed {
        record.deadline = monotonic + progress.state.timeout(record.original.protocol);
    }
    record.set_progress(progress);
    let counter = &mut record.counters[direction as usize];
    counter.packets += u64::from(passing.packets);
    counter.bytes += u64::from(passing.bytes);
}

impl Connections {
    /// Opens a worker's connections: those of a predecessor, if the file has any in this layout. Also
    /// gives how many were kept.
    ///
    /// Half-written and senseless records are dropped; a file of another layout is emptied, with a warning in
    /// the log; those past their deadline are kept until they are swept.
    ///
    /// # Errors
    /// See [`OpenError`]; the file is as it was then.
    pub fn open(options: Options, start: Start) -> Result<(Self, usize), OpenError> {
        let (file, given_up) = RecordFile::open(options.path.as_deref(), options.records)?;
        if let Some(sentence) = given_up {
            tracing::warn!("{sentence}");
        }
        let mut connections = Self {
            index: Index::new(file.records().len() * 2),
            file,
            hash: RandomState::default(),
            free: Vec::new(),
            high: 0,
            live: 0,
            zones: HashMap::default(),
            ports: Ports::new(options.worker, options.workers, Random::new(options.seed)),
            hand: 0,
            offset: start.monotonic.saturating_sub(start.now),
            ended: [0; EndReason::ALL.len()],
            options,
        };
        let dropped = connections.rebuild();
        if dropped > 0 {
            tracing::warn!("{dropped} connections were half-written or made no sense, and are given up");
        }
        let kept = connections.live;
        Ok((connections, kept))
    }

    /// Fills the indexes from the records. Gives how many records had to be dropped.
    fn rebuild(&mut self) -> usize {
        let mut dropped = 0;
        let slots = self.file.records().len();
        let worker = self.options.worker;
        self.high = self.file.records().iter().rposition(|record| record.phase != 0).map_or(0, |last| last + 1);
        for slot in 0..slots.min(self.high) {
            let record = self.file.records()[slot];
            let sound = record.is_sound()
                && [Direction::Original, Direction::Reply]
                    .iter()
                    .all(|&direction| self.find(record.zone, &record.tuple(direction)).is_none());
            if sound {
                self.file.records_mut()[slot].owner = worker;
                if self.claim(record.zone, &record.original, &record.tuple(Direction::Reply)).is_ok() {
                    self.enter(slot as u32);
                    continue;
                }
            }
            if record.phase != 0 {
                dropped += 1;
                self.file.records_mut()[slot].free();
            }
            self.free.push(slot as u32);
        }
        dropped
    }

    fn hash(&self, zone: u32, tuple: &Tuple) -> u32 {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u32(zone);
        hasher.write(tuple.as_bytes());
        (hasher.finish() >> 32) as u32
    }

    /// The live record of a tuple, past its deadline or not.
    fn find(&self, zone: u32, tuple: &Tuple) -> Option<(u32, Direction)> {
        let records = self.file.records();
        let split =
            |entry: u32| (entry / 2, if entry.is_multiple_of(2) { Direction::Original } else { Direction::Reply });
        let is_it = |entry| {
            let (slot, direction) = split(entry);
            let record = &records[slot as usize];
            record.zone == zone && record.tuple(direction) == *tuple
        };
        self.index.find(self.hash(zone, tuple), is_it).map(split)
    }

    fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { index: slot, generation: self.file.records()[slot as usize].generation }
    }

    fn is_past(&self, record: &Record, now: u64) -> bool {
        record.deadline <= now + self.offset
    }

    /// The connection that has this tuple in one of its directions.
    #[must_use]
    pub fn lookup(&self, zone: u32, tuple: &Tuple, now: u64) -> Option<(ConnectionId, Direction)> {
        let (slot, direction) = self.find(zone, tuple)?;
        let record = &self.file.records()[slot as usize];
        (!self.is_past(record, now)).then(|| (self.id(slot), direction))
    }

    /// The record of a connection, unless that has ended. One past its deadline and not yet swept is found.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&Record> {
        self.file
            .records()
            .get(id.index as usize)
            .filter(|record| record.is_live() && record.generation == id.generation)
    }

    fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Record> {
        self.file
            .records_mut()
            .get_mut(id.index as usize)
            .filter(|record| record.is_live() && record.generation == id.generation)
    }

    /// What rules see of a packet; nothing changes. `tuple` is `None` for what cannot belong to a connection
    /// (see [`Tuple::of`]).
    #[must_use]
    pub fn observe(&self, zone: u32, tuple: Option<&Tuple>, transport: &Transport, now: u64) -> Observation {
        let without = |state| Observation { state: CtState::TRACKED | state, mark: 0, track: None, translated: None };
        let Some(tuple) = tuple else { return without(CtState::INVALID) };
        let Some((id, direction)) = self.lookup(zone, tuple, now) else {
            let new = tuple.may_begin() && begin(tuple.protocol, transport, self.options.pick_up).is_some();
            return without(if new { CtState::NEW } else { CtState::INVALID });
        };
        let record = &self.file.records()[id.index as usize];
        let before = record.progress();
        match before.after(tuple.protocol, direction, transport) {
            Verdict::Invalid => without(CtState::INVALID),
            Verdict::Reopen => without(CtState::NEW),
            Verdict::Pass(after) => {
                let changes = u32::from(!before.looks_like(&after));
                Observation {
                    state: seen(&after, record.flags, direction),
                    mark: record.mark,
                    track: Some(Track { id, direction, visible_epoch: record.visible_epoch.wrapping_add(changes) }),
                    translated: Some(record.translated(direction)),
                }
            }
        }
    }

    /// What rules see of an ICMP error that quotes this tuple; nothing changes.
    #[must_use]
    pub fn observe_error(&self, zone: u32, quoted: &Tuple, now: u64) -> Observation {
        let related = self.related(zone, quoted, now);
        let state = related.map_or(CtState::TRACKED | CtState::INVALID, |related| related.state);
        Observation { state, mark: related.map_or(0, |related| related.mark), track: None, translated: None }
    }

    /// What a cached program does per packet and connection: checks that the program still holds, and if
    /// so applies the packet. See [`Touched`].
    #[inline]
    pub fn touch(&mut self, track: &Track, passing: &Passing, now: u64) -> Touched {
        let monotonic = now + self.offset;
        let Some(record) = self.get_mut(track.id) else { return Touched::Stale };
        if record.visible_epoch != track.visible_epoch || record.deadline <= monotonic {
            return Touched::Stale;
        }
        match effect(record, track, &passing.transport) {
            Effect::Not(touched) => touched,
            Effect::Change { visible: true, .. } => Touched::VisibleChange,
            Effect::Change { progress, .. } => {
                apply(record, track.direction, &progress, passing, monotonic);
                Touched::Passed
            }
        }
    }

    /// What [`Self::touch`] would say; nothing changes.
    #[must_use]
    pub fn check(&self, track: &Track, transport: &Transport, now: u64) -> Touched {
        let Some(record) = self.get(track.id) else { return Touched::Stale };
        if record.visible_epoch != track.visible_epoch || self.is_past(record, now) {
            return Touched::Stale;
        }
        match effect(record, track, transport) {
            Effect::Not(touched) => touched,
            Effect::Change { visible: true, .. } => Touched::VisibleChange,
            Effect::Change { .. } => Touched::Passed,
        }
    }

    /// Applies a packet after a walk that observed it, whatever it changes. `track.visible_epoch` is
    /// not looked at. `None` (and nothing done) if the connection has ended or the packet is invalid for it.
    pub fn advance(&mut self, track: &Track, passing: &Passing, now: u64) -> Option<Advanced> {
        let monotonic = now + self.offset;
        let record = self.get_mut(track.id).filter(|record| record.deadline > monotonic)?;
        match effect(record, track, &passing.transport) {
            Effect::Not(_) => None,
            Effect::Change { progress, visible } => {
                apply(record, track.direction, &progress, passing, monotonic);
                record.visible_epoch = record.visible_epoch.wrapping_add(u32::from(visible));
                Some(Advanced { visible_changed: visible, visible_epoch: record.visible_epoch })
            }
        }
    }

    /// Whether a record stands in the way of a new connection.
    fn blocks(&self, slot: u32, now: u64) -> bool {
        let record = &self.file.records()[slot as usize];
        !self.is_past(record, now) && !record.state().is_over()
    }

    /// Chooses everything about a new connection; nothing changes.
    ///
    /// # Errors
    /// `InvalidState`: the packet cannot begin one. `ConnectionLimit`. `NatPortsExhausted`. `ConnectionClash`:
    /// one of the two tuples is another connection's. `BadAction`: NAT of IPv6, or an empty range of ports.
    pub fn prepare(&self, new: &New<'_>, now: u64) -> Result<Prepared, DropReason> {
        let original = new.tuple;
        let progress = begin(original.protocol, &new.transport, self.options.pick_up)
            .filter(|_| original.may_begin())
            .ok_or(DropReason::InvalidState)?;
        let replaced = self.find(new.zone, &original).map(|(slot, _)| slot);
        if replaced.is_some_and(|slot| self.blocks(slot, now)) {
            return Err(DropReason::ConnectionClash);
        }
        if replaced.is_none() {
            self.has_room(new.zone)?;
        }
        let mut flags = if new.follow_policy { flag::FOLLOW_POLICY } else { 0 };
        let mut out = original;
        if original.family != 4 && new.nat != Nat::default() {
            return Err(DropReason::BadAction);
        }
        if let Some((address, port)) = new.nat.destination {
            out = with_destination(&out, address, port);
            flags |= flag::DESTINATION_NAT;
        }
        if let Some(nat) = &new.nat.source {
            if nat.ports.0 > nat.ports.1 {
                return Err(DropReason::BadAction);
            }
            let external = with_source(&out, nat.address, 0).source;
            let is_free = |reply: &Tuple| {
                self.find(new.zone, reply).is_none_or(|(slot, _)| {
                    Some(slot) == replaced || self.is_past(&self.file.records()[slot as usize], now)
                })
            };
            flags |= flag::SOURCE_NAT;
            if out.has_ports() {
                let internal = Internal::of(new.zone, &original, external);
                let choice = self.ports.choose(&internal, &out, nat, is_free)?;
                out = with_source(&out, nat.address, choice.port);
                flags |= if choice.mapped { flag::MAPPED } else { 0 };
            } else {
                out = with_source(&out, nat.address, 0);
                if !is_free(&out.inverse()) {
                    return Err(DropReason::NatPortsExhausted);
                }
            }
        }
        let reply = out.inverse();
        if self.find(new.zone, &reply).is_some_and(|(slot, _)| self.blocks(slot, now)) {
            return Err(DropReason::ConnectionClash);
        }
        Ok(Prepared { zone: new.zone, original, reply, progress, flags, mark: new.mark, first: *new.first })
    }

    fn has_room(&self, zone: u32) -> Result<(), DropReason> {
        let in_zone = self.zones.get(&zone).copied().unwrap_or(0);
        if self.live >= self.options.records || in_zone >= self.options.per_zone {
            return Err(DropReason::ConnectionLimit);
        }
        Ok(())
    }

    /// Begins a connection with its first packet. What the protocol had ended, or is past its deadline, and
    /// has one of the tuples, ends.
    ///
    /// # Errors
    /// As for [`Self::prepare`], if things have changed since then.
    pub fn commit(&mut self, prepared: &Prepared, passing: &Passing, now: u64) -> Result<ConnectionId, DropReason> {
        let Prepared { zone, original, reply, progress, flags, .. } = *prepared;
        let found = [self.find(zone, &original), self.find(zone, &reply)].map(|found| found.map(|(slot, _)| slot));
        if found.iter().flatten().any(|&slot| self.blocks(slot, now)) {
            return Err(DropReason::ConnectionClash);
        }
        if found == [None; 2] {
            self.has_room(zone)?;
        }
        for slot in found.into_iter().flatten() {
            if self.file.records()[slot as usize].is_live() {
                let over = self.file.records()[slot as usize].state().is_over();
                self.remove(slot, if over { EndReason::Reopened } else { EndReason::Expired });
            }
        }
        self.claim(zone, &original, &reply)?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.high += 1;
            self.high as u32 - 1
        });
        let monotonic = now + self.offset;
        let place = &mut self.file.records_mut()[slot as usize];
        let mut record = Record {
            generation: place.generation,
            visible_epoch: place.visible_epoch.wrapping_add(1),
            zone,
            mark: prepared.mark,
            flags,
            original,
            owner: self.options.worker,
            created: monotonic,
            ..Record::ZERO
        };
        record.set_reply(&reply);
        record.set_first(&prepared.first);
        record.counters[0] = Counter { packets: passing.packets.into(), bytes: passing.bytes.into() };
        record.set_progress(&progress);
        record.deadline = monotonic + progress.state.timeout(original.protocol);
        place.publish(&record);
        self.enter(slot);
        Ok(self.id(slot))
    }

    /// Makes this worker the owner of a connection's tuples; all or nothing.
    fn claim(&self, zone: u32, original: &Tuple, reply: &Tuple) -> Result<(), DropReason> {
        let Some(directory) = &self.options.directory else { return Ok(()) };
        let worker = self.options.worker;
        let refused = |refusal| match refusal {
            Refusal::OwnedBy(_) => DropReason::ConnectionClash,
            Refusal::Full => DropReason::ConnectionLimit,
        };
        directory.claim(zone, original, worker).map_err(refused)?;
        directory.claim(zone, reply, worker).map_err(|refusal| {
            directory.release(zone, original, worker);
            refused(refusal)
        })
    }

    /// Enters a live record everywhere it is counted or found.
    fn enter(&mut self, slot: u32) {
        let record = self.file.records()[slot as usize];
        for (entry, direction) in [Direction::Original, Direction::Reply].into_iter().enumerate() {
            let hash = self.hash(record.zone, &record.tuple(direction));
            self.index.insert(hash, slot * 2 + entry as u32);
        }
        *self.zones.entry(record.zone).or_default() += 1;
        self.live += 1;
        if record.has(flag::MAPPED) {
            let out = record.translated(Direction::Original);
            let internal = Internal::of(record.zone, &record.original, out.source);
            if let Some(directory) = self.options.directory.as_ref().filter(|_| !self.ports.has(&internal)) {
                // Without this entry another worker may give the internal end another port: a lesser evil.
                let _ = directory.claim(record.zone, &record.original.endpoint(), self.options.worker);
            }
            self.ports.take(internal, u16::from_be_bytes(out.source_port));
        }
    }

    /// Undoes [`Self::enter`], [`Self::claim`] and the record.
    fn remove(&mut self, slot: u32, reason: EndReason) {
        let record = self.file.records()[slot as usize];
        for (entry, direction) in [Direction::Original, Direction::Reply].into_iter().enumerate() {
            let tuple = record.tuple(direction);
            let hash = self.hash(record.zone, &tuple);
            self.index.remove(hash, slot * 2 + entry as u32);
            if let Some(directory) = &self.options.directory {
                directory.release(record.zone, &tuple, self.options.worker);
            }
        }
        if let Some(count) = self.zones.get_mut(&record.zone) {
            *count -= 1;
            if *count == 0 {
                self.zones.remove(&record.zone);
            }
        }
        self.live -= 1;
        if record.has(flag::MAPPED) {
            let external = record.translated(Direction::Original).source;
            let ended = self.ports.release(&Internal::of(record.zone, &record.original, external));
            if let Some(directory) = self.options.directory.as_ref().filter(|_| ended) {
                directory.release(record.zone, &record.original.endpoint(), self.options.worker);
            }
        }
        self.file.records_mut()[slot as usize].free();
        self.free.push(slot);
        self.ended[reason as usize] += 1;
    }

    /// Ends a connection at once; gives its record as it was. Packets that follow are new, or invalid.
    pub fn close(&mut self, id: ConnectionId, reason: EndReason) -> Option<Record> {
        let record = *self.get(id)?;
        self.remove(id.index, reason);
        Some(record)
    }

    /// Removes connections past their deadline, looking at no more than `budget` slots; goes on where it
    /// stopped the last time. Call it so often that it comes around in about a second: nothing depends
    /// on it but the room that dead records take.
    pub fn expire(&mut self, now: u64, budget: usize) -> Expired {
        let mut done = Expired::default();
        for _ in 0..budget.min(self.high) {
            if self.hand >= self.high {
                self.hand = 0;
            }
            let record = &self.file.records()[self.hand];
            if record.is_live() && self.is_past(record, now) {
                let over = record.state().is_over();
                self.remove(self.hand as u32, if over { EndReason::Finished } else { EndReason::Expired });
                done.removed += 1;
            }
            self.hand += 1;
            done.examined += 1;
        }
        done
    }

    /// Sets the mark; false if the connection has ended.
    pub fn set_mark(&mut self, id: ConnectionId, mark: u32) -> bool {
        let Some(record) = self.get_mut(id) else { return false };
        if record.mark != mark {
            record.mark = mark;
            record.visible_epoch = record.visible_epoch.wrapping_add(1);
        }
        true
    }

    /// The connection that an ICMP error is about, and how NAT is undone for it. `quoted` is what
    /// [`Tuple::quoted`] makes of the packet it quotes, as it arrived here. The error neither prolongs the
    /// connection nor ends it (RFC 5508, REQ-6; RFC 5382, REQ-10).
    #[must_use]
    pub fn related(&self, zone: u32, quoted: &Tuple, now: u64) -> Option<Related> {
        let (id, direction) = self.lookup(zone, &quoted.inverse(), now)?;
        let record = self.get(id)?;
        let (arrives, leaves) = (record.tuple(direction), record.translated(direction));
        let mut state = CtState::TRACKED | CtState::RELATED;
        if direction == Direction::Reply {
            state |= CtState::REPLY;
        }
        let source = (leaves.source != arrives.source).then_some(leaves.source);
        let destination = (leaves.destination != arrives.destination).then_some(leaves.destination);
        if source.is_some() || leaves.source_port != arrives.source_port {
            state |= CtState::SOURCE_NAT;
        }
        if destination.is_some() || leaves.destination_port != arrives.destination_port {
            state |= CtState::DESTINATION_NAT;
        }
        Some(Related { id, direction, state, mark: record.mark, quoted: leaves.inverse(), source, destination })
    }

    /// The connections a filter admits that are not past their deadline, in no order.
    pub fn iter<'a>(&'a self, filter: &'a Filter, now: u64) -> impl Iterator<Item = (ConnectionId, &'a Record)> + 'a {
        self.file.records()[..self.high].iter().enumerate().filter_map(move |(slot, record)| {
            let wanted = record.is_live() && !self.is_past(record, now) && filter.admits(record);
            wanted.then(|| (ConnectionId { index: slot as u32, generation: record.generation }, record))
        })
    }

    /// Microseconds until a record's deadline.
    #[must_use]
    pub fn remaining(&self, record: &Record, now: u64) -> u64 {
        record.deadline.saturating_sub(now + self.offset)
    }

    /// Records in use, swept or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Records in use by a zone.
    #[must_use]
    pub fn in_zone(&self, zone: u32) -> u32 {
        self.zones.get(&zone).copied().unwrap_or(0)
    }

    /// NAT mappings in use.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.ports.len()
    }

    /// How many connections ended for a reason, since the process started.
    #[must_use]
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ended[reason as usize]
    }

    /// Which states a protocol's connections are in; for summaries.
    #[must_use]
    pub fn in_state(&self, state: State) -> usize {
        self.file.records()[..self.high].iter().filter(|record| record.is_live() && record.state() == state).count()
    }
}
