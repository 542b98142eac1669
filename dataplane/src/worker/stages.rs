//! The frames of a batch, stage by stage: all are parsed, then all are looked up, then all go their way. Each stage
//! fetches ahead what the next one reads, so that while one frame's memory is on its way, others are worked on; and
//! its code and tables stay in the first-level cache for 64 frames.
//!
//! What goes before, stays before: programs run in the order of the frames, and misses follow at the end of the batch,
//! so that of one flow none overtakes another unless its connection changed in between.

use super::{Missed, Origin, Worker, holds};
use crate::drop::DropReason;
use crate::flow::cache::{EntryNumber, Found, NO_ENTRY};
use crate::flow::key::FlowKey;
use crate::flow::log::Work;
use crate::flow::program::Egress as _;
use crate::limits::BATCH;
use crate::packet::frame::Frame;
use crate::packet::parse::Layout;
use crate::port::PortSlot;

/// How many frames ahead the first bytes are fetched.
const AHEAD: usize = 4;

/// What is known of a batch's frames, by place. Kept from batch to batch: of a key, parsing writes only what differs
/// from one that is all zero or that it has written itself.
pub struct Staged {
    keys: [FlowKey; BATCH],
    layouts: [Layout; BATCH],
    /// The port that it enters by: a tunnel's, if it was in one.
    ingress: [Result<PortSlot, DropReason>; BATCH],
    guesses: [EntryNumber; BATCH],
}

impl Default for Staged {
    fn default() -> Self {
        Self {
            keys: [FlowKey::ZERO; BATCH],
            layouts: [Layout::default(); BATCH],
            ingress: [Err(DropReason::Malformed); BATCH],
            guesses: [NO_ENTRY; BATCH],
        }
    }
}

impl Worker {
    /// Handles the frames that a port received, at most [`BATCH`]; misses are set aside.
    pub(super) fn stages(&mut self, slot: PortSlot, frames: &mut Vec<Frame>) {
        let mut staged = self.staged.take().unwrap_or_default();
        let Staged { keys, layouts, ingress, guesses } = &mut *staged;
        let count = frames.len().min(BATCH);
        frames.iter().take(AHEAD).for_each(Frame::prefetch);
        for place in 0..count {
            if let Some(later) = frames.get(place + AHEAD) {
                later.prefetch();
            }
            let frame = &mut frames[place];
            let bytes = frame.len();
            ingress[place] = self.parse(slot, frame, &mut keys[place], &mut layouts[place]);
            if let Ok(tunnel) = ingress[place]
                && tunnel != slot
            {
                self.outgoing.count_decapsulated(tunnel, bytes);
            }
        }
        self.cache.probe(&keys[..count], &mut guesses[..count]);
        self.cache.probe_connections(&guesses[..count], &self.connections);
        for (place, frame) in frames.drain(..).enumerate() {
            match ingress[place] {
                Ok(ingress) => {
                    let origin = Origin { ingress, from: None, hops: 0 };
                    self.look_up::<false>(frame, &keys[place], layouts[place], origin, guesses[place]);
                }
                Err(reason) => {
                    self.outgoing.enter(slot);
                    self.outgoing.discard(frame, reason);
                }
            }
        }
        self.staged = Some(staged);
    }

    /// Handles a frame that a port received, which somebody may want to see.
    pub(super) fn enter_captured(&mut self, slot: PortSlot, mut frame: Frame) {
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::default());
        let (bytes, headroom) = (frame.len(), frame.headroom());
        match self.parse(slot, &mut frame, &mut key, &mut layout) {
            Ok(ingress) => {
                if ingress != slot {
                    self.outgoing.count_decapsulated(ingress, bytes);
                    // What was before the frame within still is.
                    let outer = frame.headroom() - headroom;
                    if frame.push_front(outer).is_some() {
                        self.outgoing.capture_tunnelled(slot, &frame);
                        frame.pull_front(outer);
                    }
                }
                self.look_up::<true>(frame, &key, layout, Origin { ingress, from: None, hops: 0 }, NO_ENTRY);
            }
            Err(reason) => {
                self.outgoing.enter(slot);
                frame.push_front(frame.headroom() - headroom);
                self.outgoing.capture(&frame, None);
                self.outgoing.discard(frame, reason);
            }
        }
    }

    /// Runs the program that the cache has for a frame, or sets the frame aside. `guess`: see [`Cache::confirm`].
    #[inline(always)]
    pub(super) fn look_up<const CAPTURED: bool>(
        &mut self,
        frame: Frame,
        key: &FlowKey,
        layout: Layout,
        origin: Origin,
        guess: EntryNumber,
    ) {
        let entry = match self.cache.confirm(guess, key, self.version) {
            Found::Hit(entry) => entry,
            // What has changed since mostly lies elsewhere.
            Found::Stale(entry) if self.cache.renew(entry, key, &self.recent, &mut Work::AT_ONCE.clone()) => entry,
            Found::Stale(_) | Found::Miss => return self.set_aside(frame, key, layout, origin),
        };
        if !CAPTURED && let Some(slot) = self.cache.plain(entry) {
            self.cache.counters.hits += 1;
            self.outgoing.enter_again(origin.ingress, origin.hops);
            self.cache.count(entry, frame.len(), self.now);
            return self.outgoing.send(slot, frame);
        }
        let program = self.cache.program(entry);
        if !holds(program, origin) || !program.admits(&frame, key, &layout, &mut self.connections, self.now) {
            return self.set_aside(frame, key, layout, origin);
        }
        self.cache.counters.hits += 1;
        self.outgoing.enter_again(origin.ingress, origin.hops);
        if CAPTURED {
            self.outgoing.capture(&frame, Some(key));
            self.outgoing.capture_walk(|| self.cache.walk(entry, true));
        }
        self.cache.take(entry, frame.len(), self.now).run(frame, key, layout, &mut self.outgoing);
    }

    #[cold]
    fn set_aside(&mut self, frame: Frame, key: &FlowKey, layout: Layout, origin: Origin) {
        self.missed.push(Missed { frame, key: *key, layout, origin });
    }
}
