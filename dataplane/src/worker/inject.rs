//! Frames that no port received: those that a program outside asks to be sent, and those that the switch makes of
//! its own accord. A worker handles them between batches, as it does received ones.

use super::{Origin, Worker};
use crate::clock;
use crate::connection::Contents;
use crate::drop::DropReason;
use crate::flow::cache::NO_ENTRY;
use crate::flow::key::FlowKey;
use crate::flow::program::{Egress as _, Program};
use crate::flow::resolve::{Connected, Packet, View, resolve_actions};
use crate::flow::rule::Rule;
use crate::packet::parse::parse;
use crate::port::PortSlot;
use std::sync::Arc;

/// A frame to be handled as if it had come in.
#[derive(Clone, Debug)]
pub struct Injected {
    /// The port that it counts as received by; 0: none.
    pub in_port: u32,
    /// From its Ethernet header on, checksums complete; at most what fits a buffer ([`crate::limits::RUN_BYTES`]).
    pub bytes: Vec<u8>,
    /// What is done with it.
    pub course: Course,
}

/// What is done with an injected frame.
#[derive(Clone, Debug)]
pub enum Course {
    /// What the tables say.
    Tables,
    /// The actions that this rule applies; it stands in no table. None of them tracks connections.
    Actions(Arc<Rule>),
}

impl Worker {
    /// Handles frames in order, and sends what comes of them.
    pub(super) fn inject(&mut self, frames: &[Injected]) {
        self.now = clock::now();
        self.outgoing.meters.now = self.now;
        self.outgoing.captures.now = self.now;
        self.look_at_version();
        self.outgoing.begin(self.active);
        for injected in frames {
            self.inject_one(injected);
        }
        self.finish_batch();
    }

    fn inject_one(&mut self, injected: &Injected) {
        let port = self.topology.ports.get(&injected.in_port);
        let slot = port.map_or(PortSlot::NONE, |info| info.kind.slot());
        let Some(frame) = self.outgoing.pool.frame(slot, &injected.bytes) else {
            self.outgoing.enter(slot);
            return self.outgoing.outcomes.failed(DropReason::NoBuffer);
        };
        let mut key = FlowKey::ZERO;
        let layout = match parse(&frame, injected.in_port, &mut key) {
            Ok(layout) => layout,
            Err(reason) => {
                self.outgoing.enter(slot);
                return self.outgoing.discard(frame, reason);
            }
        };
        let rule = match &injected.course {
            Course::Tables => {
                let origin = Origin { ingress: slot, from: None, hops: 0 };
                return if self.outgoing.captures.is_on() {
                    self.look_up::<true>(frame, &key, layout, origin, NO_ENTRY)
                } else {
                    self.look_up::<false>(frame, &key, layout, origin, NO_ENTRY)
                };
            }
            Course::Actions(rule) => rule,
        };
        let contents = Contents::read(frame.head(), &key, &layout);
        let program = {
            let state = self.tables.read();
            let view = View {
                state: &state,
                version: self.version,
                topology: &self.topology,
                connections: Connected::AsNew,
                now: self.now,
                arrived: true,
                traced: None,
            };
            Program::compile(&resolve_actions(&view, &Packet { key: &key, contents }, rule))
        };
        self.outgoing.enter(slot);
        program.run(frame, &key, layout, &mut self.outgoing);
    }
}
