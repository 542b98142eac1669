//! Packet-outs: frames that a program asks to be sent, checked and given to a worker.

use super::Switch;
use crate::drop::DropReason;
use crate::flow::action::{Action, Instructions, instructions_from_message};
use crate::flow::key::FlowKey;
use crate::flow::matched::Match;
use crate::flow::message::port_number;
use crate::flow::rule::{Life, Owner, Rule, RuleId};
use crate::limits::{BATCH, PACKET_OUT_BYTES};
use crate::packet::parse::parse_bytes;
use crate::worker::{Course, Injected};
use std::sync::Arc;
use weft_proto::PORT_IN_PORT;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// An Ethernet header.
const LEAST_BYTES: usize = 14;

impl Switch {
    /// `SendPackets`: all of them are handled, or none. Blocks.
    ///
    /// # Errors
    /// What is wrong with one of them, its field as a path from the request.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn send_packets(&self, request: v1::SendPacketsRequest) -> Result<v1::SendPacketsReply, Fault> {
        if request.packets.len() > BATCH {
            let problem = format!("{} packets are more than the {BATCH} of one call", request.packets.len());
            return Err(Fault::invalid("too_many_packets", "packets", problem, "Send them in several calls."));
        }
        let mut frames = Vec::with_capacity(request.packets.len());
        {
            let state = self.state();
            let exists = |number: u32| state.ports.get(number).is_some();
            for (index, packet) in request.packets.into_iter().enumerate() {
                let place = |fault: Fault| fault.within(&format!("packets[{index}]"));
                frames.push(injected(packet, &exists).map_err(place)?);
            }
        }
        let handled = frames.len() as u32;
        // One worker for all, so that they keep their order; it hands on what others have to send.
        match self.workers.read().expect("no panic under this lock").first() {
            Some(worker) => worker.inject(frames),
            None => {
                return Err(Fault::invalid("stopped", "", "the switch stops", "Start it again.")
                    .with_status(tonic::Code::Unavailable));
            }
        }
        Ok(v1::SendPacketsReply { handled })
    }
}

impl Switch {
    /// The controller's answer about destinations: what waited for it is handled as if it came in now. Blocks.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn reached(&self, answer: v1::Reached) {
        let frames = self.punts.destinations.answered(answer, crate::clock::now());
        if let Some(worker) = self.workers.read().expect("no panic under this lock").first() {
            frames.chunks(BATCH).for_each(|frames| worker.inject(frames.to_vec()));
        }
    }
}

/// Checks one packet.
fn injected(packet: v1::PacketOut, exists: &impl Fn(u32) -> bool) -> Result<Injected, Fault> {
    let v1::PacketOut { in_port, frame: bytes, actions, through_tables } = packet;
    let unknown = |port: u32, place: &str| {
        Fault::invalid("unknown_port", place, format!("there is no port {port}"), "See \"weft ports list\".")
    };
    if in_port != 0 && !exists(port_number(in_port, "in_port")?) {
        return Err(unknown(in_port, "in_port"));
    }
    if !(LEAST_BYTES..=PACKET_OUT_BYTES).contains(&bytes.len()) {
        let problem = format!("a frame of {} bytes", bytes.len());
        let remedy = format!("Give {LEAST_BYTES} to {PACKET_OUT_BYTES} bytes, from the Ethernet header on.");
        return Err(Fault::invalid("bad_frame", "frame", problem, remedy));
    }
    let mut key = FlowKey::ZERO;
    parse_bytes(&bytes, bytes.len(), in_port, &mut key).map_err(|reason: DropReason| {
        let remedy = "Give a whole Ethernet frame with right headers.";
        Fault::invalid("bad_frame", "frame", reason.meaning().trim_end_matches('.'), remedy)
    })?;
    if through_tables {
        if !actions.is_empty() {
            let problem = "both actions and the tables are to decide";
            return Err(Fault::invalid("bad_packet", "through_tables", problem, "Give one of the two."));
        }
        if in_port == 0 {
            let problem = "no port is given that the packet came in by";
            return Err(Fault::invalid("missing_field", "in_port", problem, "Name the port for the tables to go by."));
        }
        return Ok(Injected { in_port, bytes, course: Course::Tables });
    }
    // What fields an action may set, the packet itself says.
    let mut mask = FlowKey::ZERO;
    mask.words_mut().fill(u64::MAX);
    let id = RuleId { owner: Owner::Manual, table: 0, priority: 0, matched: Match::new(&key, &mask), set: None };
    let message = v1::Instructions { apply_actions: actions, ..Default::default() };
    let actions = instructions_from_message(&message, &id)
        .map_err(|mut fault| {
            fault.field = fault.field.replacen("apply_actions", "actions", 1);
            fault
        })?
        .apply;
    for action in &actions {
        match action {
            Action::Output(PORT_IN_PORT) if in_port == 0 => {
                let problem = "it is to leave by the port it came in by, and there is none";
                return Err(Fault::invalid("missing_field", "in_port", problem, "Name the port."));
            }
            Action::Output(PORT_IN_PORT) => {}
            Action::Output(port) if !exists(*port) => return Err(unknown(*port, "actions")),
            Action::Output(_)
            | Action::SetField(_)
            | Action::PushVlan(_)
            | Action::PopVlan
            | Action::DecTtl { .. }
            | Action::CheckMtu { .. }
            | Action::Punt { .. }
            | Action::Drop(_) => {}
            // They need what workers remember, or a rule that keeps it in place.
            _ => {
                let problem = "only rules of a table track, translate, meter or answer packets";
                let remedy = "Leave the action out, or send the packet through the tables.";
                return Err(Fault::invalid("bad_action", "actions", problem, remedy));
            }
        }
    }
    let instructions = Instructions { apply: actions, ..Instructions::default() };
    let rule = Rule {
        id,
        instructions: instructions.into(),
        cookie: 0,
        created: 0,
        since: 0,
        life: Life::default(),
        counters: Arc::default(),
    };
    Ok(Injected { in_port, bytes, course: Course::Actions(Arc::new(rule)) })
}
