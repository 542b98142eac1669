//! The connections of one worker. See the module comment of [`super`].

use super::exchange::{
    Advanced, EndReason, Expired, New, Observation, Options, Passing, Prepared, Related, Start, Touched, Track,
    orientation, seen,
};
use super::file::{OpenError, RecordFile};
use super::fragments::Fragments;
use super::index::Index;
use super::nat::{Internal, Nat, Ports, Random, with_destination, with_source};
use super::protocol::{Progress, State, Transport, Verdict, begin, continue_with, continues};
use super::record::{Record, flag};
use super::state::CtState;
use super::tuple::Tuple;
use super::{ConnectionId, Direction};
use crate::drop::DropReason;
use crate::packet::frame::prefetch;
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

mod begin;
mod list;
mod share;

/// See the module comment of [`super`].
pub struct Connections {
    /// Which fragments belong to one datagram.
    pub fragments: Fragments,
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

/// What a packet does to a connection, if it may.
enum Effect {
    Change { progress: Progress, visible: bool },
    Not(Touched),
}

fn effect(record: &Record, track: &Track, transport: &Transport) -> Effect {
    let before = record.progress();
    match before.after(record.protocol, track.direction, transport) {
        Verdict::Pass(progress) => Effect::Change { visible: !before.looks_like(&progress), progress },
        Verdict::Invalid | Verdict::Reopen => Effect::Not(Touched::Invalid),
    }
}

/// Whether a program's view of a connection still holds.
#[inline]
fn holds(record: &Record, track: &Track, monotonic: u64) -> bool {
    record.generation == track.id.generation
        && record.visible_epoch == track.visible_epoch
        && record.deadline > monotonic
        && record.is_live()
}

/// Whether the packet is of the common kind that is judged by little.
#[inline]
fn is_common(record: &Record, track: &Track, transport: &Transport) -> bool {
    continues(record.state(), record.has(flag::REPLIED), track.direction, transport)
}

fn apply(record: &mut Record, direction: Direction, progress: &Progress, passing: &Passing, monotonic: u64) {
    // What still comes after a RST does not keep the connection.
    if progress.state != State::Closed || record.state() != State::Closed {
        record.deadline = monotonic + progress.state.timeout(record.protocol);
    }
    record.set_progress(progress);
    count(record, direction, passing);
}

#[inline]
fn count(record: &mut Record, direction: Direction, passing: &Passing) {
    let counter = &mut record.counters[direction as usize];
    counter.packets += u64::from(passing.packets);
    counter.bytes += u64::from(passing.bytes);
}

/// What the directory has of a record, besides its mapping.
fn tuples(record: &Record) -> [(u32, Tuple); 2] {
    [Direction::Original, Direction::Reply].map(|direction| (record.zone, record.tuple(direction)))
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
            fragments: Fragments::default(),
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
                let directory = self.options.directory.as_ref();
                if directory.is_none_or(|directory| directory.claim(&tuples(&record), worker).is_ok()) {
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

    /// The same for a tuple and its inverse.
    fn hash(&self, zone: u32, tuple: &Tuple) -> u32 {
        let end = |address: &[u8; 16], port: [u8; 2]| {
            let mut hasher = self.hash.build_hasher();
            let [low, high]: [u64; 2] = zerocopy::transmute!(*address);
            hasher.write_u64(low);
            if high != 0 {
                hasher.write_u64(high);
            }
            hasher.write_u16(u16::from_ne_bytes(port));
            hasher.finish()
        };
        let ends = end(&tuple.source, tuple.source_port).wrapping_add(end(&tuple.destination, tuple.destination_port));
        let mut hasher = self.hash.build_hasher();
        hasher.write_u64(ends);
        hasher.write_u64(u64::from(zone) << 16 | u64::from(tuple.family) << 8 | u64::from(tuple.protocol));
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
        let mut without = Observation { state: CtState::TRACKED | CtState::INVALID, ..Observation::default() };
        let Some(tuple) = tuple else { return without };
        let fresh = CtState::TRACKED | CtState::NEW;
        let found = self.find(zone, tuple);
        without.record = found.map(|(slot, _)| self.id(slot));
        let alive = found.filter(|(slot, _)| !self.is_past(&self.file.records()[*slot as usize], now));
        let Some((slot, direction)) = alive else {
            let new = tuple.may_begin() && begin(tuple.protocol, transport, self.options.pick_up).is_some();
            return Observation { state: if new { fresh } else { without.state }, ..without };
        };
        let (id, record) = (self.id(slot), &self.file.records()[slot as usize]);
        let before = record.progress();
        match before.after(tuple.protocol, direction, transport) {
            Verdict::Invalid => without,
            Verdict::Reopen => Observation { state: fresh, ..without },
            Verdict::Pass(after) => {
                let changes = u32::from(!before.looks_like(&after));
                Observation {
                    state: seen(&after, record.flags, direction),
                    mark: record.mark,
                    record: Some(id),
                    track: Some(Track { id, direction, visible_epoch: record.visible_epoch.wrapping_add(changes) }),
                    translated: Some(record.translated(direction)),
                    related: None,
                }
            }
        }
    }

    /// What rules see of an ICMP error that quotes this tuple; nothing changes.
    #[must_use]
    pub fn observe_error(&self, zone: u32, quoted: &Tuple, now: u64) -> Observation {
        let related = self.related(zone, quoted, now);
        let state = related.map_or(CtState::TRACKED | CtState::INVALID, |related| related.state);
        let mark = related.map_or(0, |related| related.mark);
        let record = self.find(zone, &quoted.inverse()).map(|(slot, _)| self.id(slot));
        Observation { state, mark, record, related, ..Observation::default() }
    }

    /// What a packet's connection makes of it, whatever the packet is to its protocol: its direction, and its
    /// tuple after NAT.
    #[must_use]
    pub fn translated(&self, zone: u32, tuple: &Tuple, now: u64) -> Option<(Direction, Tuple)> {
        let (id, direction) = self.lookup(zone, tuple, now)?;
        Some((direction, self.get(id)?.translated(direction)))
    }

    /// What a cached program does for each packet: whether it still holds for all these connections. If so, the
    /// packet is applied to those of `tracks`; it stays without effect on those of `watched`, where it is dropped.
    #[inline]
    pub fn pass(&mut self, tracks: [&[Track]; 2], watched: &[Track], passing: &Passing, now: u64) -> bool {
        let monotonic = now + self.offset;
        let records = self.file.records_mut();
        // All of them are looked at before any is touched.
        for track in tracks.into_iter().flatten().chain(watched) {
            let Some(record) = records.get(track.id.index as usize) else { return false };
            if !holds(record, track, monotonic) {
                return false;
            }
            if !is_common(record, track, &passing.transport)
                && !matches!(effect(record, track, &passing.transport), Effect::Change { visible: false, .. })
            {
                return false;
            }
        }
        for track in tracks.into_iter().flatten() {
            let record = &mut records[track.id.index as usize];
            if is_common(record, track, &passing.transport) {
                record.deadline = monotonic + record.state().timeout(record.protocol);
                continue_with(&mut record.sides, track.direction, &passing.transport);
                count(record, track.direction, passing);
            } else if let Effect::Change { progress, .. } = effect(record, track, &passing.transport) {
                apply(record, track.direction, &progress, passing, monotonic);
            }
        }
        true
    }

    /// Has fetched what [`Self::pass`] reads and writes of a connection.
    #[inline]
    pub fn prefetch(&self, id: ConnectionId) {
        if let Some(record) = self.file.records().get(id.index as usize) {
            prefetch(record);
            prefetch(&raw const record.counters);
        }
    }

    /// [`Self::pass`] for one connection, which also tells why not.
    #[cfg(test)]
    pub fn touch(&mut self, track: &Track, passing: &Passing, now: u64) -> Touched {
        let touched = self.check(track, &passing.transport, now);
        assert_eq!(self.pass([&[*track], &[]], &[], passing, now), touched == Touched::Passed, "{touched:?}");
        touched
    }

    /// What a packet is to its connection; nothing changes.
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
        let blocks = |slot| self.blocks(slot, now) && Some(self.id(slot)) != new.replaces;
        if replaced.is_some_and(blocks) {
            return Err(DropReason::ConnectionClash);
        }
        if replaced.is_none() {
            self.has_room(new.zone, 0)?;
        }
        let mut flags = if new.follow_policy { flag::FOLLOW_POLICY } else { 0 };
        let mut out = original;
        let mut maps = None;
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
            let is_free = |reply: &Tuple| match self.find(new.zone, reply) {
                Some((slot, _)) => Some(slot) == replaced || self.is_past(&self.file.records()[slot as usize], now),
                None => self.elsewhere(new.zone, reply).is_none(),
            };
            flags |= flag::SOURCE_NAT;
            if out.has_ports() {
                let internal = Internal::of(new.zone, &original, external);
                let choice = self.ports.choose(&internal, &out, nat, is_free)?;
                out = with_source(&out, nat.address, choice.port);
                flags |= if choice.mapped { flag::MAPPED } else { 0 };
                maps = choice.mapped.then_some(internal).filter(|_| !new.apart);
            } else {
                out = with_source(&out, nat.address, 0);
                if !is_free(&out.inverse()) {
                    return Err(DropReason::NatPortsExhausted);
                }
            }
        }
        let reply = out.inverse();
        if self.find(new.zone, &reply).is_some_and(|(slot, _)| blocks(slot)) {
            return Err(DropReason::ConnectionClash);
        }
        Ok(Prepared { zone: new.zone, original, reply, progress, flags, mark: new.mark, first: *new.first, maps })
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
                let _ = directory.claim(&[(record.zone, record.original.endpoint())], self.options.worker);
            }
            self.ports.take(internal, u16::from_be_bytes(out.source_port));
        }
    }

    /// Undoes [`Self::enter`], `claim` and the record.
    fn remove(&mut self, slot: u32, reason: EndReason) {
        let record = self.leave(slot);
        if let Some(directory) = &self.options.directory {
            for (zone, tuple) in tuples(&record) {
                directory.release(zone, &tuple, self.options.worker);
            }
        }
        self.ended[reason as usize] += 1;
    }

    /// Takes a record out of everything but the directory.
    fn leave(&mut self, slot: u32) -> Record {
        let record = self.file.records()[slot as usize];
        for (entry, direction) in [Direction::Original, Direction::Reply].into_iter().enumerate() {
            let hash = self.hash(record.zone, &record.tuple(direction));
            self.index.remove(hash, slot * 2 + entry as u32);
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
        record
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
        let source = (leaves.source != arrives.source).then_some(leaves.source);
        let destination = (leaves.destination != arrives.destination).then_some(leaves.destination);
        let state = CtState::RELATED | CtState::TRACKED | orientation(record.flags, direction);
        Some(Related { id, direction, state, mark: record.mark, quoted: leaves.inverse(), source, destination })
    }

    /// Microseconds until a record's deadline.
    #[must_use]
    pub fn remaining(&self, record: &Record, now: u64) -> u64 {
        record.deadline.saturating_sub(now + self.offset)
    }

    /// Microseconds since a record was committed.
    #[must_use]
    pub fn age(&self, record: &Record, now: u64) -> u64 {
        (now + self.offset).saturating_sub(record.created)
    }

    /// Slots that were ever used: what `expire` goes round.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.high
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
