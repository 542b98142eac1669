//! Captures of frames, the switch's side: who may have one, and what a worker's records become for who asked
//! (`crate::capture` is the worker's side).
//!
//! A thread for each capture empties its rings every few milliseconds and gives messages to the caller; it waits for
//! a caller that is slow, and then records are lost, not workers' time. It ends when the caller goes away, or the switch
//! stops. There are at most [`CAPTURES`].

use super::Switch;
use crate::capture::{CaptureReader, Seen, Selection, Walk, pair};
use crate::drop::DropReason;
use crate::flow::key::{FlowKey, PACKET_WORDS};
use crate::flow::message;
use crate::flow::rule::Rule;
use crate::flow::trace::rule_state;
use crate::limits::{CAPTURE_MILLISECONDS, CAPTURE_PORTS, CAPTURES};
use crate::topology::Topology;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Bytes of one message, about: several fit into what the controller keeps for a caller.
const MESSAGE_BYTES: usize = 256 * 1024;

/// Messages that wait for the caller.
const MESSAGES: usize = 4;

/// Which numbers of captures are taken.
#[derive(Default)]
pub(super) struct Taken(AtomicU32);

impl Taken {
    fn take(&self) -> Option<u32> {
        let free = |taken: u32| (0..CAPTURES as u32).find(|id| taken & 1 << id == 0);
        let mut id = None;
        let update = |taken| {
            id = free(taken);
            id.map(|id| taken | 1 << id)
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).ok()?;
        id
    }

    fn release(&self, id: u32) {
        self.0.fetch_and(!(1 << id), Ordering::AcqRel);
    }
}

impl Switch {
    /// `CaptureFrames`: begins it. Blocks. Dropping the receiver ends it.
    ///
    /// # Errors
    /// A port that is not there, a filter that cannot be, too many captures.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn capture(
        self: &Arc<Self>,
        request: &v1::CaptureFramesRequest,
    ) -> Result<mpsc::Receiver<v1::CaptureFramesReply>, Fault> {
        let selection = Arc::new(self.selection(request)?);
        let id = self.captures.take().ok_or_else(|| {
            Fault::invalid(
                "too_many_captures",
                "",
                format!("{CAPTURES} captures or live traces are running on this switch already"),
                "End one of them first.",
            )
            .with_status(tonic::Code::ResourceExhausted)
        })?;
        let mut readers = Vec::new();
        for worker in &*self.workers.read().expect("no panic under this lock") {
            let (capture, reader) = pair(id, selection.clone());
            worker.capture(capture);
            readers.push(reader);
        }
        let (sender, receiver) = mpsc::channel(MESSAGES);
        let session = Session {
            switch: self.clone(),
            id,
            readers,
            known: BTreeSet::new(),
            lost: 0,
            epoch: epoch(),
            walk: request.walk,
        };
        // Dropping the session, as happens if there is no thread to be had, ends the capture.
        let started = std::thread::Builder::new().name(format!("capture-{id}")).spawn(move || session.run(&sender));
        started.map_err(|error| {
            Fault::invalid("no_thread", "", format!("the capture cannot start: {error}"), "Try again later.")
                .with_status(tonic::Code::ResourceExhausted)
        })?;
        Ok(receiver)
    }

    fn selection(&self, request: &v1::CaptureFramesRequest) -> Result<Selection, Fault> {
        let refuse =
            |field: &str, problem: String, remedy: &str| Err(Fault::invalid("bad_capture", field, problem, remedy));
        if request.ports.len() > CAPTURE_PORTS {
            let problem = format!("{} ports are named", request.ports.len());
            return refuse("ports", problem, &format!("Name at most {CAPTURE_PORTS}, or none: that is all."));
        }
        let topology = self.tables.topology();
        // Of two ports on one interface frames are told under one number.
        let state = self.state();
        let ports: Vec<u32> = request.ports.iter().map(|&number| state.ports.seen_as(number)).collect();
        drop(state);
        if let Some(unknown) = ports.iter().find(|number| !topology.ports.contains_key(number)) {
            return Err(Fault::invalid(
                "no_such_port",
                "ports",
                format!("the switch has no port {unknown}"),
                "Name one of \"weft ports list\".",
            )
            .with_status(tonic::Code::NotFound));
        }
        let (value, mask, set) = message::match_from_message(&request.r#match)?;
        if set.is_some() {
            return refuse("match", "a filter names an address set".to_owned(), "Write a prefix instead.");
        }
        if mask.words()[PACKET_WORDS..].iter().any(|&word| word != 0) {
            let problem = "a filter names what rules make of a packet, not what it has".to_owned();
            return refuse("match", problem, "Leave out metadata, registers, ct_state and ct_mark.");
        }
        let direction = request.direction();
        Ok(Selection {
            ports,
            value,
            mask,
            snap: if request.snap_length == 0 { usize::MAX } else { request.snap_length as usize },
            received: direction != v1::FrameDirection::Sent,
            sent: direction != v1::FrameDirection::Received,
        })
    }
}

/// A capture that runs.
struct Session {
    switch: Arc<Switch>,
    id: u32,
    readers: Vec<CaptureReader>,
    /// Ports that the caller knows the names of.
    known: BTreeSet<u32>,
    /// What the caller knows to be lost.
    lost: u64,
    /// See [`epoch`].
    epoch: u64,
    walk: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A capture of workers that have stopped has ended.
        if let Ok(workers) = self.switch.workers.read() {
            workers.iter().for_each(|worker| worker.end_capture(self.id));
        }
        self.switch.captures.release(self.id);
    }
}

impl Session {
    fn run(mut self, caller: &mpsc::Sender<v1::CaptureFramesReply>) {
        let mut begun = v1::CaptureFramesReply { started: true, ..Default::default() };
        self.name(&self.switch.tables.topology(), &mut begun, None);
        if caller.blocking_send(begun).is_err() {
            return;
        }
        loop {
            // Asked first, so that what is in the rings of a switch that stopped is still read.
            let stopped = self.readers.iter().all(|reader| reader.seen.is_abandoned());
            for reply in self.read() {
                if caller.blocking_send(reply).is_err() {
                    return;
                }
            }
            if caller.is_closed() || stopped {
                return;
            }
            std::thread::sleep(Duration::from_millis(CAPTURE_MILLISECONDS));
        }
    }

    /// What has come, in messages of moderate size.
    fn read(&mut self) -> Vec<v1::CaptureFramesReply> {
        let mut seen: Vec<(u32, Seen, Vec<u8>)> = Vec::new();
        for (worker, reader) in self.readers.iter_mut().enumerate() {
            while let Ok(one) = reader.seen.pop() {
                let mut bytes = vec![0; one.copied as usize];
                // They were written before the record was.
                let _ = reader.bytes.pop_entire_slice(&mut bytes);
                if one.shown {
                    seen.push((worker as u32, one, bytes));
                }
            }
        }
        seen.sort_by_key(|(_, one, _)| one.time);
        let mut replies = Vec::new();
        let mut reply = v1::CaptureFramesReply { lost: self.losses(), ..Default::default() };
        let mut bytes = 0;
        let topology = self.switch.tables.topology();
        for (worker, one, copied) in seen {
            self.name(&topology, &mut reply, Some(one.port));
            bytes += copied.len() + 64;
            reply.frames.push(self.frame(&topology, worker, one, copied));
            if bytes > MESSAGE_BYTES {
                replies.push(std::mem::take(&mut reply));
                bytes = 0;
            }
        }
        if !(reply.frames.is_empty() && reply.ports.is_empty() && reply.lost.is_empty()) {
            replies.push(reply);
        }
        replies
    }

    /// All losses, if there are new ones.
    fn losses(&mut self) -> Vec<v1::PortDrops> {
        let slots = self.readers.iter().flat_map(|reader| reader.lost.iter());
        let mut sums = std::collections::BTreeMap::<_, u64>::new();
        slots.for_each(|(slot, frames)| *sums.entry(slot).or_default() += frames);
        let total = sums.values().sum();
        if std::mem::replace(&mut self.lost, total) == total {
            return Vec::new();
        }
        let topology = self.switch.tables.topology();
        let ports = topology.ports.iter().filter_map(|(&port, info)| {
            let packets = *sums.get(&info.kind.slot())?;
            Some(v1::PortDrops { port, name: info.name.to_string(), packets })
        });
        ports.collect()
    }

    /// Names a port to the caller, or all that there are, unless they were named before.
    fn name(&mut self, topology: &Topology, reply: &mut v1::CaptureFramesReply, port: Option<u32>) {
        let known =
            |port: u32, info: &crate::topology::PortInfo| v1::CapturedPort { port, name: info.name.to_string() };
        match port {
            None => {
                reply.ports = topology.ports.iter().map(|(&port, info)| known(port, info)).collect();
                reply.ports.sort_by_key(|port| port.port);
                self.known = topology.ports.keys().copied().collect();
            }
            Some(port) => {
                if let Some(info) = topology.ports.get(&port)
                    && self.known.insert(port)
                {
                    reply.ports.push(known(port, info));
                }
            }
        }
    }

    fn frame(&self, topology: &Topology, worker: u32, seen: Seen, frame: Vec<u8>) -> v1::CapturedFrame {
        let direction = if seen.sent { v1::FrameDirection::Sent } else { v1::FrameDirection::Received };
        let walk = seen.walk.as_ref().filter(|_| self.walk || seen.reason.is_some());
        let key = seen.key.unwrap_or(FlowKey::ZERO);
        v1::CapturedFrame {
            port: seen.port,
            direction: direction.into(),
            time_microseconds: self.epoch + seen.time,
            length: seen.length,
            frame,
            segment_size: seen.segment_size.into(),
            drop_reason: seen.reason.map(|reason| reason.word().to_owned()).unwrap_or_default(),
            drop_meaning: seen.reason.map(|reason| reason.meaning().to_owned()).unwrap_or_default(),
            walk: walk.map(|walk| self.walk_message(topology, walk, &key, &seen)),
            worker,
            partly: seen.partly,
        }
    }

    fn walk_message(&self, topology: &Topology, walk: &Walk, key: &FlowKey, seen: &Seen) -> v1::CapturedWalk {
        let reason = seen.reason;
        let miss = (reason == Some(DropReason::TableMiss)).then(|| self.missed(walk));
        let packet = if self.walk { message::fields(key) } else { Vec::new() };
        // One that left by another way is not dropped: the effects say what happened to each.
        let dropped = reason.filter(|_| !seen.partly);
        let mut trace = v1::TraceReply {
            drop_reason: dropped.map(|reason| reason.word().to_owned()).unwrap_or_default(),
            drop_meaning: dropped.map(|reason| reason.meaning().to_owned()).unwrap_or_default(),
            ..Default::default()
        };
        if self.walk {
            trace.steps = walk.rules.iter().map(|rule| self.step(rule)).chain(miss).collect();
            trace.effects = walk.program.as_ref().map(|program| program.effects(topology)).unwrap_or_default();
            trace.consulted = message::matches(key, &walk.consulted);
        } else {
            let culprit = reason.and_then(|reason| walk.culprit(reason)).map(|rule| self.step(rule));
            trace.steps = miss.or(culprit).into_iter().collect();
        }
        v1::CapturedWalk { trace: Some(trace), cached: walk.cached, packet }
    }

    /// The table that had no rule.
    fn missed(&self, walk: &Walk) -> v1::TraceStep {
        let table = walk.missed_table();
        let table_name = self.switch.tables.table_name(table).to_string();
        v1::TraceStep { table: table.into(), table_name, ..Default::default() }
    }

    fn step(&self, rule: &Rule) -> v1::TraceStep {
        let table = rule.id.table;
        let table_name = self.switch.tables.table_name(table).to_string();
        let mut state = rule_state(rule, &table_name, crate::clock::now());
        state.origin = self.switch.state().origins.text(rule.cookie).to_owned();
        v1::TraceStep { table: table.into(), table_name, rule: Some(state), ..Default::default() }
    }
}

/// What the clock's zero is on the wall, microseconds since 1970. Of several readings that one which was interrupted
/// least.
fn epoch() -> u64 {
    let reading = |_| {
        let before = crate::clock::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let took = crate::clock::now() - before;
        (took, wall.saturating_sub(before + took / 2))
    };
    (0..8).map(reading).min().map_or(0, |(_, epoch)| epoch)
}
