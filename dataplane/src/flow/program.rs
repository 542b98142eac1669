//! Programs: the effects of a walk, compiled to a short flat list of steps that run in place.
//!
//! The order is the walk's. A step that sends takes the frame itself if nothing follows that needs it,
//! otherwise a copy. A frame whose program consumes it nowhere is dropped under the walk's reason; one that a
//! later step fails for may have left by an earlier one: whether it was dropped is settled by who sends.
//!
//! A branch is a step that runs its own steps on a copy of the frame as it is then. What happens to the copy does
//! not concern the steps that follow. Of a frame that branches, each way that ends nowhere is counted.
//!
//! A step that drops the frame may answer it by an ICMP error: a frame of its own, which goes back the way
//! the packet came. The packet is counted under why it was dropped, or as `ResponderBudget` if that is why
//! it was not answered.

use super::action::Action;
use super::effect::{Branch, Effect, NextHop, TunnelOutput};
use super::key::FlowKey;
use super::own::Own;
use super::resolve::{Back, Resolution};
use super::rewrite::rewrite;
use super::shared::Shared;
use super::translate::{translate, translate_one_to_one};
use crate::connection::Connections;
use crate::drop::DropReason;
use crate::neighbours::Hop;
use crate::packet::checksum;
use crate::packet::fragment::{datagram_bytes, is_unfragmentable};
use crate::packet::frame::Frame;
use crate::packet::parse::Layout;
use crate::packet::segment::complete_checksum;
use crate::port::PortSlot;
use crate::respond::icmp::{self, Problem, Received};
use crate::respond::{arp, dhcp, is_unicast};
use crate::topology::Topology;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::{text, v1};

/// See the module comment.
#[derive(Debug, PartialEq)]
pub struct Program {
    /// The connections of its packets.
    own: Own,
    steps: Arc<Steps>,
}

/// What programs of the same way have in common, whatever the connections of their packets.
#[derive(Debug, PartialEq)]
pub struct Steps {
    steps: Box<[Effect]>,
    /// Why, if no step consumes the frame.
    drop: DropReason,
    /// Whether it goes several ways, each of which counts what it drops.
    branches: bool,
    /// Whether a step may tell its sender that it is dropped.
    answers: bool,
    /// The way that answers go.
    back: Back,
}

/// What a program acts on: the worker.
pub trait Egress {
    /// Sends the frame by a port.
    fn send(&mut self, slot: PortSlot, frame: Frame);
    /// Sends a frame that a tunnel port wrapped by the port below.
    fn send_wrapped(&mut self, tunnel: PortSlot, underlay: PortSlot, frame: Frame);
    /// Whether what is discarded from now on is one of several ways of the frame.
    fn branches(&mut self, several: bool);
    /// One of them has ended before it began.
    fn lose(&mut self, reason: DropReason);
    /// A copy of the frame, for this output if it is for one; `None` (counted) without a buffer.
    fn copy(&mut self, frame: &Frame, output: Option<PortSlot>) -> Option<Frame>;
    /// Frees the frame (or copy): it goes nowhere, for this reason.
    fn discard(&mut self, frame: Frame, reason: DropReason);
    /// Likewise one that was for this output.
    fn refuse(&mut self, output: PortSlot, frame: Frame, reason: DropReason);
    /// Hands a packet to a listener.
    fn punt(&mut self, packet: v1::PacketIn, frame: Frame);
    /// A new frame, charged to this port, if `write` says that it has written it; `None` also without a buffer.
    /// Where it goes does not count for the frame that is being handled.
    fn compose(&mut self, port: PortSlot, write: impl FnOnce(&mut Frame) -> bool) -> Option<Frame>;
    /// Gives the frames that the IPv4 datagram at `l3` leaves as by this output, over a link of this MTU; counted
    /// if it cannot.
    fn fragment(&mut self, output: PortSlot, frame: Frame, l3: usize, mtu: u16, each: impl FnMut(&mut Self, Frame));
    /// Hands a frame, as it came in, to another worker, which decides about it.
    fn hand_over(&mut self, worker: u16, frame: Frame, key: &FlowKey);
    /// An ARP packet says where its sender is.
    fn learn(&mut self, hop: Hop, mac: [u8; 6]);
    /// Whether a meter lets the frame pass.
    fn admit(&mut self, meter: u32, frame: &Frame) -> bool;
    /// Whether one more reply may be composed in this batch.
    fn may_reply(&mut self) -> bool;
    /// The slot the frame came in by.
    fn ingress(&self) -> PortSlot;
}

impl Program {
    /// Compiles a resolution.
    #[must_use]
    pub fn compile(resolution: &Resolution) -> Self {
        let mut own = Own::new(&resolution.tracks, &resolution.watched);
        let steps = compile_steps(&resolution.effects, &mut own);
        let steps = Steps {
            branches: steps.iter().any(|step| matches!(step, Effect::Branch(_))),
            steps: steps.into(),
            drop: resolution.drop.unwrap_or(DropReason::NoOutput),
            answers: resolution.effects.iter().any(|effect| effect.answer().is_some()),
            back: resolution.back.clone().unwrap_or(Back::Ingress),
        };
        Self { own, steps: Arc::new(steps) }
    }

    /// Lets it have its steps in common with programs that have the same.
    pub fn share(&mut self, kept: &mut Shared<Steps>) {
        if let Some(hash) = self.steps.fingerprint()
            && let Some(steps) = Arc::get_mut(&mut self.steps)
        {
            let none =
                Steps { steps: [].into(), drop: steps.drop, branches: false, answers: false, back: Back::Ingress };
            self.steps = kept.keep(hash, std::mem::replace(steps, none));
        }
    }

    /// Gives back what [`Self::share`] gave it.
    pub fn give_back(&self, kept: &mut Shared<Steps>) {
        if let Some(hash) = self.steps.fingerprint() {
            kept.give_back(hash, &self.steps);
        }
    }

    /// The port that it sends every packet by, if it does nothing else and admits all.
    #[must_use]
    pub fn plain(&self) -> Option<PortSlot> {
        match *self.steps.steps {
            [Effect::Output { slot, .. }] if self.own.is_empty() => Some(slot),
            _ => None,
        }
    }

    /// The worker that it hands its packets to.
    #[must_use]
    pub fn owner(&self) -> Option<u16> {
        if let [Effect::HandOver(worker)] = *self.steps.steps { Some(worker) } else { None }
    }

    /// A hash of what it does, the same for programs that are equal; `None`: it is of one connection, and no
    /// other program will be like it.
    #[must_use]
    pub fn fingerprint(&self) -> Option<u64> {
        if self.own.is_empty() { self.steps.fingerprint() } else { None }
    }

    /// Whether it holds for a packet, as far as connections go; if so, and the packet is sent, it is counted
    /// for them. Otherwise the tables must be walked.
    pub fn admits(
        &self,
        frame: &Frame,
        key: &FlowKey,
        layout: &Layout,
        connections: &mut Connections,
        now: u64,
    ) -> bool {
        self.own.is_empty() || self.own.admits(frame, key, layout, connections, now)
    }

    /// Has the records of its packets' connections fetched.
    #[inline]
    pub fn prefetch(&self, connections: &Connections) {
        self.own.prefetch(connections);
    }

    /// Runs it on a frame. `key` and `layout` are what the frame was parsed to.
    pub fn run(&self, frame: Frame, key: &FlowKey, layout: Layout, egress: &mut impl Egress) {
        let received = self.steps.answers.then(|| Received::keep(&frame, &layout));
        let passing = Passing { key, layout, received: received.as_ref(), mtu: None };
        if self.steps.branches {
            egress.branches(true);
        }
        self.run_steps(&self.steps.steps, self.steps.drop, frame, passing, egress);
        if self.steps.branches {
            egress.branches(false);
        }
    }

    /// Runs the steps of one way, which without any of them is a drop.
    fn run_steps(
        &self,
        steps: &[Effect],
        drop: DropReason,
        mut frame: Frame,
        mut passing: Passing<'_>,
        egress: &mut impl Egress,
    ) {
        let Some((last, before)) = steps.split_last() else { return egress.discard(frame, drop) };
        for step in before {
            if step.changes() {
                if let Err(refusal) = self.change(step, &mut frame, &mut passing) {
                    return self.refuse(frame, refusal, &passing, egress);
                }
            } else if let Effect::Branch(branch) = step
                && let (Some(reason), true) = (branch.drop, branch.effects.is_empty())
            {
                egress.lose(reason);
            } else if step.consumes() {
                if let Some(copy) = egress.copy(&frame, step.output()) {
                    self.consume(step, copy, passing, egress);
                }
            } else if step.teaches() {
                learn(step, passing.key, egress);
            } else if let Some(meter) = step.meter()
                && !egress.admit(meter, &frame)
            {
                return egress.discard(frame, DropReason::Meter);
            }
        }
        if last.teaches() {
            learn(last, passing.key, egress);
            return egress.discard(frame, drop);
        }
        self.consume(last, frame, passing, egress);
    }

    /// A step that ends the frame's way (or its copy's).
    fn consume(&self, step: &Effect, mut frame: Frame, passing: Passing<'_>, egress: &mut impl Egress) {
        let (action, table, cookie) = match step {
            Effect::Action { action, table, cookie } => (action, *table, *cookie),
            Effect::Output { .. } | Effect::Tunnel(_) => {
                let too_big = |mtu: &u16| datagram_bytes(&frame, &passing.layout) > Some((*mtu).into());
                return match passing.mtu.filter(too_big) {
                    None => send(step, frame, passing.key, egress),
                    Some(mtu) => {
                        let each = |egress: &mut _, piece| send(step, piece, passing.key, egress);
                        let output = step.output().unwrap_or(PortSlot::NONE);
                        egress.fragment(output, frame, passing.layout.l3.into(), mtu, each);
                    }
                };
            }
            Effect::Branch(branch) => {
                let drop = branch.drop.unwrap_or(DropReason::NoOutput);
                return self.run_steps(&branch.effects, drop, frame, passing, egress);
            }
            Effect::HandOver(worker) => return egress.hand_over(*worker, frame, passing.key),
            Effect::Undeliverable { reason, .. } => return egress.discard(frame, *reason),
            Effect::Translate(_) | Effect::TranslateOwn | Effect::Neighbour(_) => {
                return egress.discard(frame, DropReason::NoOutput);
            }
        };
        match action {
            Action::Punt { max_length, reason } => {
                // Nobody behind a listener can finish a checksum that was left to us.
                if let Err(reason) = complete_checksum(&mut frame) {
                    return egress.discard(frame, reason);
                }
                let total_length = frame.len() as u32;
                let mut bytes = vec![0; frame.len().min(*max_length as usize)];
                frame.copy_range(0, &mut bytes);
                let in_port = passing.key.port();
                let table = table.into();
                let packet = v1::PacketIn { in_port, reason: *reason, table, cookie, total_length, frame: bytes };
                egress.punt(packet, frame);
            }
            Action::ArpReply(mac) => {
                let reply = arp::reply(&mut frame, *mac);
                self.answer(reply, frame, passing.key, egress);
            }
            Action::DhcpReply(offer) => {
                let reply = within_budget(egress).and_then(|()| dhcp::reply(&mut frame, offer));
                self.answer(reply, frame, passing.key, egress);
            }
            Action::IcmpReply => {
                // A later fragment is part of a reply that is accounted for.
                let budget = if passing.layout.l4 == 0 { Ok(()) } else { within_budget(egress) };
                let reply = budget.and_then(|()| icmp::echo_reply(&mut frame, &passing.layout));
                self.answer(reply, frame, passing.key, egress);
            }
            Action::IcmpUnreachable { why, answer } => {
                let refusal = Refusal { reason: why.reason(), answer: Some((Problem::Unreachable(*why), *answer)) };
                self.refuse(frame, refusal, &passing, egress);
            }
            // Those that leave the frame to what follows, and those that the walk carries out.
            Action::Output(_)
            | Action::Drop(_)
            | Action::Track(_)
            | Action::Clone(_)
            | Action::Group(_)
            | Action::SetField(_)
            | Action::PushVlan(_)
            | Action::PopVlan
            | Action::CheckMtu { .. }
            | Action::Neighbour(_)
            | Action::LearnNeighbour { .. }
            | Action::Translate { .. }
            | Action::Meter(_)
            | Action::DecTtl { .. } => egress.discard(frame, DropReason::NoOutput),
        }
    }

    /// Sends a request that has become its reply.
    fn answer(&self, composed: Result<(), DropReason>, frame: Frame, key: &FlowKey, egress: &mut impl Egress) {
        match composed {
            Ok(()) => self.send_back(frame, key, egress),
            Err(reason) => egress.discard(frame, reason),
        }
    }

    fn send_back(&self, frame: Frame, key: &FlowKey, egress: &mut impl Egress) {
        match &self.steps.back {
            Back::Ingress => egress.send(egress.ingress(), frame),
            Back::Tunnel(output) => send_by_tunnel(output, frame, key, egress),
            Back::Nowhere(reason) => egress.discard(frame, *reason),
        }
    }

    /// Drops a frame, and tells its sender so if that is asked for and possible.
    fn refuse(&self, mut frame: Frame, refusal: Refusal, passing: &Passing<'_>, egress: &mut impl Egress) {
        let (Refusal { mut reason, answer }, mut error) = (refusal, None);
        if let (Some((problem, from)), Some(received)) = (answer, passing.received)
            && !matches!(self.steps.back, Back::Nowhere(_))
            && received.may_be_answered()
        {
            if egress.may_reply() {
                let port = frame.charged();
                let write = |out: &mut Frame| received.error(problem, from, &mut frame, &passing.layout, out);
                error = egress.compose(port, write);
            } else {
                reason = DropReason::ResponderBudget;
            }
        }
        egress.discard(frame, reason);
        if let Some(error) = error {
            self.send_back(error, passing.key, egress);
        }
    }

    /// What it does, in the words of a trace.
    #[must_use]
    pub fn text(&self, topology: &Topology) -> String {
        if self.steps.steps.is_empty() {
            return format!("drop {}", self.steps.drop.word());
        }
        if let Some(worker) = self.owner() {
            return format!("hand to worker {worker}");
        }
        self.effects(topology).iter().map(text::format_effect).collect::<Vec<_>>().join(", ")
    }

    /// What it does, as messages.
    #[must_use]
    pub fn effects(&self, topology: &Topology) -> Vec<v1::Effect> {
        let own = self.own.translation().map(|own| Effect::Translate(Box::new(own.translation())));
        let effects = put_in(&self.steps.steps, own.as_ref());
        effects.iter().flat_map(|effect| effect.to_messages(topology)).collect()
    }

    /// A step that changes the frame and leaves it.
    #[inline]
    fn change(&self, step: &Effect, frame: &mut Frame, passing: &mut Passing<'_>) -> Result<(), Refusal> {
        if let Effect::TranslateOwn = step {
            let known = self.own.translation().is_some_and(|own| own.write(frame, &passing.layout));
            return if known { Ok(()) } else { Err(DropReason::BadAction.into()) };
        }
        change(step, frame, &mut passing.layout, &mut passing.mtu)
    }
}

impl Steps {
    /// A hash, the same for those that are equal; `None`: there is something in it that only one connection has.
    fn fingerprint(&self) -> Option<u64> {
        Some(FixedState::default().hash_one(fingerprint(&self.steps)?))
    }
}

/// The steps with what is a program's own among them.
fn put_in(steps: &[Effect], own: Option<&Effect>) -> Vec<Effect> {
    let put = |step: &Effect| match step {
        Effect::TranslateOwn => own.cloned(),
        Effect::Branch(branch) => {
            let branch = Branch { of: branch.of, effects: put_in(&branch.effects, own), drop: branch.drop };
            Some(Effect::Branch(Box::new(branch)))
        }
        other => Some(other.clone()),
    };
    steps.iter().filter_map(put).collect()
}

/// The steps of effects: what cannot be delivered is left out, and what comes after the last consumer.
fn compile_steps(effects: &[Effect], own: &mut Own) -> Vec<Effect> {
    let step = |effect: &Effect| match effect {
        explains if explains.explains() => None,
        Effect::Branch(branch) => {
            let branch = Branch { of: branch.of, effects: compile_steps(&branch.effects, own), drop: branch.drop };
            Some(Effect::Branch(Box::new(branch)))
        }
        other => Some(own.take(other).unwrap_or_else(|| other.clone())),
    };
    let mut steps: Vec<Effect> = effects.iter().filter_map(step).collect();
    while steps.last().is_some_and(|step| !step.consumes() && !step.teaches()) {
        steps.pop();
    }
    steps
}

/// What tells lists of steps apart; `None`: a connection's own is among them.
fn fingerprint(steps: &[Effect]) -> Option<u64> {
    let parts = steps.iter().map(|step| {
        Some(match step {
            Effect::Translate(_) => return None,
            Effect::Output { slot, .. } => (1, slot.index() as u64, None),
            Effect::Tunnel(output) => (2, output.id, Some(output.destination)),
            Effect::Action { cookie, .. } => (3, *cookie, None),
            Effect::Undeliverable { .. } => (4, 0, None),
            Effect::HandOver(worker) => (5, u64::from(*worker), None),
            Effect::TranslateOwn => (6, 0, None),
            Effect::Branch(branch) => (7, fingerprint(&branch.effects)?, None),
            Effect::Neighbour(NextHop { hop, .. }) => (8, u64::from(hop.port), Some(hop.address)),
        })
    });
    Some(FixedState::default().hash_one(parts.collect::<Option<Vec<_>>>()?))
}

/// What is known of a frame beside its bytes.
#[derive(Clone, Copy)]
struct Passing<'a> {
    /// As received.
    key: &'a FlowKey,
    /// As it is now.
    layout: Layout,
    /// Kept if it may have to be quoted.
    received: Option<&'a Received>,
    /// What it is to be fragmented to, where it leaves.
    mtu: Option<u16>,
}

/// Why a frame goes no further, and what its sender is told from which address.
struct Refusal {
    reason: DropReason,
    answer: Option<(Problem, Ipv4Addr)>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, answer: None }
    }
}

fn within_budget(egress: &mut impl Egress) -> Result<(), DropReason> {
    if egress.may_reply() { Ok(()) } else { Err(DropReason::ResponderBudget) }
}

#[inline]
fn send(step: &Effect, frame: Frame, key: &FlowKey, egress: &mut impl Egress) {
    match step {
        Effect::Output { slot, .. } => egress.send(*slot, frame),
        Effect::Tunnel(output) => send_by_tunnel(output, frame, key, egress),
        Effect::Action { .. }
        | Effect::Translate(_)
        | Effect::TranslateOwn
        | Effect::Neighbour(_)
        | Effect::Branch(_)
        | Effect::HandOver(_)
        | Effect::Undeliverable { .. } => egress.discard(frame, DropReason::NoOutput),
    }
}

fn send_by_tunnel(output: &TunnelOutput, mut frame: Frame, key: &FlowKey, egress: &mut impl Egress) {
    match output.header.push(&mut frame, tunnel_entropy(key)) {
        Ok(()) => egress.send_wrapped(output.slot, output.underlay, frame),
        Err(reason) => egress.refuse(output.slot, frame, reason),
    }
}

/// Who sent an ARP packet is where it says, behind the port that a step names.
fn learn(step: &Effect, key: &FlowKey, egress: &mut impl Egress) {
    let Effect::Action { action: Action::LearnNeighbour { port, vlan }, .. } = step else { return };
    let port = if *port == 0 { key.port() } else { *port };
    if icmp::is_host(key.ipv4_src) && is_unicast(key.link_source) {
        egress.learn(Hop { port, vlan: *vlan, address: key.ipv4_src.into() }, key.link_source);
    }
}

/// A step that changes the frame and leaves it.
#[inline]
fn change(step: &Effect, frame: &mut Frame, layout: &mut Layout, mtu: &mut Option<u16>) -> Result<(), Refusal> {
    let action = match step {
        Effect::Action { action, .. } => action,
        Effect::Translate(translation) if !translate(frame, layout, translation) => {
            return Err(DropReason::BadAction.into());
        }
        Effect::Neighbour(NextHop { mac: Some(mac), .. }) => {
            frame.head_mut().get_mut(..6).ok_or(DropReason::Truncated)?.copy_from_slice(mac);
            return Ok(());
        }
        _ => return Ok(()),
    };
    match action {
        Action::SetField(set) => {
            if !rewrite(frame, layout, set) {
                return Err(DropReason::BadAction.into());
            }
        }
        Action::PushVlan(ether_type) => {
            let head = frame.push_front(4).ok_or(DropReason::NoHeadroom)?;
            head.copy_within(4..16, 0);
            let [high, low] = ether_type.to_be_bytes();
            head[12..16].copy_from_slice(&[high, low, 0, 0]);
            move_layout(layout, 4);
        }
        Action::PopVlan => {
            let head = frame.head_mut();
            if layout.vlan_tags == 0 || head.len() < 18 {
                return Err(DropReason::BadAction.into());
            }
            head.copy_within(0..12, 4);
            if !frame.pull_front(4) {
                return Err(DropReason::BadAction.into());
            }
            move_layout(layout, -4);
        }
        Action::DecTtl { answer } => {
            decrement_ttl(frame, layout.l3 as usize).map_err(|reason| {
                let answer = answer.filter(|_| reason == DropReason::TtlExpired);
                Refusal { reason, answer: answer.map(|from| (Problem::TimeExceeded, from)) }
            })?;
        }
        Action::CheckMtu { mtu: limit, answer, fragment } => {
            let bytes = datagram_bytes(frame, layout).ok_or(DropReason::BadAction)?;
            if bytes > usize::from(*limit) {
                if is_unfragmentable(frame, layout) {
                    let answer = answer.map(|from| (Problem::TooBig(*limit), from));
                    return Err(Refusal { reason: DropReason::TooBig, answer });
                }
                if !fragment {
                    return Err(DropReason::TooBig.into());
                }
                *mtu = Some(mtu.map_or(*limit, |before| before.min(*limit)));
            }
        }
        Action::Translate { source, destination } => {
            let [source, destination] = [source, destination].map(|address| address.map(|address| address.octets()));
            if !translate_one_to_one(frame, layout, source, destination) {
                return Err(DropReason::BadAction.into());
            }
        }
        // Those that consume, and those that the walk carries out.
        Action::Output(_)
        | Action::Punt { .. }
        | Action::Drop(_)
        | Action::Track(_)
        | Action::Meter(_)
        | Action::Clone(_)
        | Action::Group(_)
        | Action::ArpReply(_)
        | Action::DhcpReply(_)
        | Action::IcmpReply
        | Action::Neighbour(_)
        | Action::LearnNeighbour { .. }
        | Action::IcmpUnreachable { .. } => {}
    }
    Ok(())
}

fn move_layout(layout: &mut Layout, by: i16) {
    layout.l3 = layout.l3.saturating_add_signed(by);
    if layout.l4 != 0 {
        layout.l4 = layout.l4.saturating_add_signed(by);
    }
    layout.end = layout.end.saturating_add_signed(by.into());
    layout.vlan_tags = if by > 0 { layout.vlan_tags + 1 } else { layout.vlan_tags.saturating_sub(1) };
}

fn decrement_ttl(frame: &mut Frame, l3: usize) -> Result<(), DropReason> {
    let head = frame.head_mut();
    let version6 = head.get(l3).is_some_and(|byte| byte >> 4 == 6);
    if head.len() < l3 + 20 {
        return Err(DropReason::Truncated);
    }
    let at = if version6 { l3 + 7 } else { l3 + 8 };
    if head[at] <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let old = [head[at], head[at + 1]];
    head[at] -= 1;
    if !version6 {
        let sum = [head[l3 + 10], head[l3 + 11]];
        let updated = checksum::update16(sum, old, [head[at], head[at + 1]]);
        head[l3 + 10..l3 + 12].copy_from_slice(&updated);
    }
    Ok(())
}

/// What the outer source port is made of: the inner flow (RFC 7348, 5).
fn tunnel_entropy(key: &FlowKey) -> u32 {
    let words = key.words();
    let ports = u32::from_be_bytes([key.l4_src[0], key.l4_src[1], key.l4_dst[0], key.l4_dst[1]]);
    let mut mix = words[3] ^ (u64::from(ports) << 24) ^ u64::from(key.ip_proto);
    if key.eth_type != [0x08, 0x00] {
        // MAC addresses, and IPv6 addresses if there are any.
        mix ^= words[1] ^ words[2].rotate_left(7) ^ words[9].rotate_left(13) ^ words[11].rotate_left(29);
    }
    (mix.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
