//! One stream's task: from what the switch holds to what it should hold, again and again.
//!
//! ```text
//!             Hello: holds nothing ──► whole bundle ─┐
//!   Hello: holds something unknown ──► compare ──────┤ equal: empty bundle; different: whole bundle
//!         Hello: holds what we sent ─────────────────┤
//!                                                    ▼
//!                    ┌──► settled ── host dirty ──► sent ── acknowledged ──┐
//!                    │       ▲                       │ refused             │
//!                    │       └─── change, or time ◄──┘ (elsewhere: compare)│
//!                    └─────────────────────────────────────────────────────┘
//! ```

use super::attach::Admitted;
use super::demand::{self, Demand};
use super::link::{Generation, Link, LinkState, Session};
use crate::compile::state::{cut, is_empty};
use crate::compile::{HostState, compile, reactive};
use crate::controller::Controller;
use crate::limits;
use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Streaming};
use weft_proto::fault::Fault;
use weft_proto::v1::{self, Acknowledgement, Bundle, Digests, FromSwitch, Hello, ToSwitch, from_switch, to_switch};

/// What is known of what the switch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    /// Nothing of the fabric's.
    Nothing,
    /// Something; digests will tell.
    Unknown,
    /// What `confirmed` says.
    Confirmed,
}

/// What the session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For the host to be dirty.
    Settled,
    /// For digests, until then.
    Comparing(Instant),
    /// For an acknowledgement, until then.
    Sent(Instant),
    /// For the host to be dirty, or until then: the last bundle was refused.
    Refused(Instant),
}

/// Resynchronisations in a row after which a mismatch counts as a refusal.
const MISMATCHES: u32 = 3;

struct Task {
    controller: Arc<Controller>,
    link: Arc<Link>,
    session: Session,
    name: String,
    basis: Basis,
    phase: Phase,
    last_sent: Instant,
    retry_seconds: u64,
    mismatches: u32,
    /// Whether what was sent leads only part of the way (`HostState::step_towards`).
    unfinished: bool,
    demand: Demand,
}

/// Why a session ends.
enum End {
    /// The switch closed the stream.
    Closed,
    /// We do, for this reason.
    Fault(Fault),
}

/// Runs a session to its end.
pub async fn run(controller: Arc<Controller>, admitted: Admitted, mut inbound: Streaming<FromSwitch>) {
    let Admitted { hello, host, link, session } = admitted;
    let basis = basis(&link, &session, &hello, controller.term);
    let mut task = Task {
        controller,
        link,
        session,
        name: host.name,
        basis,
        phase: Phase::Settled,
        last_sent: Instant::now() - Duration::from_secs(1),
        retry_seconds: limits::RETRY_SECONDS,
        mismatches: 0,
        unfinished: false,
        demand: Demand::default(),
    };
    let watch = demand::watch_use(Arc::clone(&task.controller), Arc::clone(&task.link), task.name.clone());
    let end = tokio::select! {
        end = task.follow(&mut inbound) => end,
        () = watch => End::Closed,
    };
    task.close(end).await;
}

/// What the switch holds, by what it says; and the link's state accordingly.
fn basis(link: &Link, session: &Session, hello: &Hello, term: u64) -> Basis {
    let mut state = link.lock();
    if state.session.as_ref().is_none_or(|current| current.serial != session.serial) {
        return Basis::Unknown;
    }
    state.dirty = true;
    let held = |generation: &Option<Generation>| {
        generation.as_ref().is_some_and(|generation| hello.term == term && generation.number == hello.generation)
    };
    let outstanding = state.outstanding.take();
    if held(&outstanding) {
        // It was applied, and the acknowledgement lost.
        state.confirmed = outstanding;
        return Basis::Confirmed;
    }
    if held(&state.confirmed) {
        return Basis::Confirmed;
    }
    state.confirmed = None;
    if (hello.term, hello.generation) == (0, 0) { Basis::Nothing } else { Basis::Unknown }
}

impl Task {
    async fn follow(&mut self, inbound: &mut Streaming<FromSwitch>) -> End {
        let mut woken = true;
        // What the host subscribed to before this controller started, its rules tell: they stay.
        let mut learning = (self.basis == Basis::Unknown && demand::is_to_learn(&self.controller, &self.link))
            .then(|| Box::pin(demand::learn(Arc::clone(&self.controller), Arc::clone(&self.link), self.name.clone())));
        loop {
            if let Some(fault) = self.session.end.reason() {
                return End::Fault(fault);
            }
            if learning.is_none()
                && let Err(fault) = self.advance(woken).await
            {
                return End::Fault(fault);
            }
            if let Err(fault) = self.tell_known().await {
                return End::Fault(fault);
            }
            woken = false;
            let deadline = match self.phase {
                Phase::Settled => None,
                Phase::Comparing(until) | Phase::Sent(until) | Phase::Refused(until) => Some(until),
            };
            let timer = async {
                match deadline {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => if let Err(fault) = self.receive(message).await {
                        return End::Fault(fault);
                    },
                    Ok(None) | Err(_) => return End::Closed,
                },
                () = self.link.wake.notified() => woken = true,
                () = async { if let Some(learning) = &mut learning { learning.await } }, if learning.is_some() => {
                    learning = None;
                    woken = true;
                }
                () = self.session.end.wake.notified() => {}
                () = timer => match self.phase {
                    Phase::Refused(_) => woken = true,
                    _ => return End::Fault(self.unresponsive()),
                },
            }
        }
    }

    fn unresponsive(&self) -> Fault {
        Fault::invalid(
            "unresponsive",
            "",
            format!("the switch of host {:?} did not answer within {:?}", self.name, self.controller.patience),
            "It may connect again; if it stays so, look at its log.",
        )
        .with_status(Code::DeadlineExceeded)
    }

    /// The link's state, if the session is still the host's.
    fn own(&self) -> Option<MutexGuard<'_, LinkState>> {
        let state = self.link.lock();
        let ours = state.session.as_ref().is_some_and(|current| current.serial == self.session.serial);
        ours.then_some(state)
    }

    /// Does what is to be done, if the switch owes no answer. `woken`: the model may have changed, or the
    /// time has come to try again what was refused.
    async fn advance(&mut self, woken: bool) -> Result<(), Fault> {
        match self.phase {
            Phase::Comparing(_) | Phase::Sent(_) => return Ok(()),
            Phase::Refused(_) if !woken => return Ok(()),
            Phase::Settled | Phase::Refused(_) => {}
        }
        if self.basis == Basis::Unknown {
            self.send(to_switch::Message::Compare(v1::CompareRequest {})).await?;
            self.phase = Phase::Comparing(Instant::now() + self.controller.patience);
            return Ok(());
        }
        if !self.own().is_some_and(|state| state.dirty) {
            self.phase = Phase::Settled;
            return Ok(());
        }
        // What changes in quick succession travels together.
        tokio::time::sleep_until(self.last_sent + Duration::from_millis(limits::GROUP_MILLISECONDS)).await;
        let wanted = self.compile();
        self.unfinished = false;
        let confirmed = self.own().and_then(|state| state.confirmed.clone());
        match confirmed.filter(|_| self.basis == Basis::Confirmed) {
            None => {
                let bundle = wanted.whole();
                self.send_bundle(bundle, wanted, 0).await
            }
            Some(confirmed) => {
                let (next, unfinished) = confirmed.state.step_towards(wanted);
                self.unfinished = unfinished;
                let bundle = confirmed.state.bundle_to(&next);
                if is_empty(&bundle) {
                    return self.nothing_changed(next);
                }
                self.send_bundle(bundle, next, confirmed.number).await
            }
        }
    }

    /// What the host should hold now. The mark goes first: a change after it marks anew.
    fn compile(&mut self) -> HostState {
        self.demand.compiled();
        let (controller, host) = (Arc::clone(&self.controller), self.link.host);
        let model = controller.model();
        let mut subscriptions = BTreeSet::new();
        if let Some(mut state) = self.own() {
            state.dirty = false;
            subscriptions = state.subscriptions.of_use(|port| reactive::is_of_use(&model, host, port));
        }
        compile(&model, host, &subscriptions)
    }

    /// Answers what the switch asked for and has by now.
    async fn tell_known(&mut self) -> Result<(), Fault> {
        if self.demand.known.is_empty() {
            return Ok(());
        }
        let known = std::mem::take(&mut self.demand.known);
        self.send(to_switch::Message::Reached(v1::Reached { known, unknown: Vec::new() })).await
    }

    fn nothing_changed(&mut self, state: HostState) -> Result<(), Fault> {
        self.phase = Phase::Settled;
        self.demand.installed();
        if let Some(mut own) = self.own() {
            if !own.dirty {
                own.requests.clear();
            }
            own.confirmed = own.confirmed.take().map(|confirmed| Generation { state: Arc::new(state), ..confirmed });
            if std::mem::take(&mut own.bundle_refused) {
                // What was refused is not wanted any more.
                own.fault = None;
            }
        }
        self.link.announce();
        Ok(())
    }

    async fn send_bundle(&mut self, mut bundle: Bundle, state: HostState, base: u64) -> Result<(), Fault> {
        let number = {
            let Some(mut own) = self.own() else { return Ok(()) };
            own.generation += 1;
            let number = own.generation;
            own.outstanding = Some(Generation { number, state: Arc::new(state) });
            bundle.request_ids = std::mem::take(&mut own.requests);
            number
        };
        bundle.term = self.controller.term;
        bundle.generation = number;
        bundle.base_generation = base;
        tracing::debug!(
            host = self.name,
            generation = number,
            base,
            requests = ?bundle.request_ids,
            rules = bundle.add_rules.len(),
            removed = bundle.remove_rules.len(),
            whole = bundle.replace_owner != 0,
            "bundle"
        );
        for part in cut(bundle) {
            self.send(to_switch::Message::Bundle(part)).await?;
        }
        self.last_sent = Instant::now();
        self.phase = Phase::Sent(self.last_sent + self.controller.patience);
        Ok(())
    }

    async fn send(&self, message: to_switch::Message) -> Result<(), Fault> {
        let message = ToSwitch { message: Some(message) };
        match tokio::time::timeout(self.controller.patience, self.session.outbound.send(Ok(message))).await {
            // A closed stream shows itself in `inbound`.
            Ok(_) => Ok(()),
            Err(_) => Err(self.unresponsive()),
        }
    }

    async fn receive(&mut self, message: FromSwitch) -> Result<(), Fault> {
        if let Some(mut state) = self.own() {
            state.heard = Some(Instant::now());
        }
        match message.message {
            Some(from_switch::Message::Acknowledgement(acknowledgement)) => {
                self.acknowledged(acknowledgement);
                Ok(())
            }
            Some(from_switch::Message::Digests(digests)) => self.compared(&digests).await,
            Some(from_switch::Message::CallReply(reply)) => {
                self.link.calls.reply(reply);
                Ok(())
            }
            Some(from_switch::Message::Report(report)) => {
                if let Some(mut state) = self.own() {
                    state.ports = report.ports;
                }
                self.link.announce();
                Ok(())
            }
            Some(from_switch::Message::Unreached(asked)) => {
                let unknown = self.demand.ask(&self.controller, &self.link, asked.destinations);
                if unknown.is_empty() {
                    return Ok(());
                }
                self.send(to_switch::Message::Reached(v1::Reached { known: Vec::new(), unknown })).await
            }
            Some(from_switch::Message::Hello(_)) => {
                let problem = "the switch said Hello twice";
                Err(Fault::invalid("unexpected_hello", "", problem, "Connect anew instead.")
                    .with_status(Code::FailedPrecondition))
            }
            // A kind of message that a later version may bring.
            None => Ok(()),
        }
    }

    fn acknowledged(&mut self, acknowledgement: Acknowledgement) {
        let Phase::Sent(_) = self.phase else { return };
        if acknowledgement.fault.is_some() {
            self.demand.refused();
        }
        let Some(mut state) = self.own() else { return };
        let number = state.outstanding.as_ref().map(|outstanding| outstanding.number);
        // There is one bundle under way: what is refused is that one, whatever the refusal calls it.
        if acknowledgement.fault.is_none() && number != Some(acknowledgement.generation) {
            drop(state);
            tracing::warn!(host = self.name, generation = acknowledgement.generation, "an acknowledgement of nothing");
            return;
        }
        let Some(fault) = acknowledgement.fault else {
            state.confirmed = state.outstanding.take();
            state.acknowledged += 1;
            state.fault = None;
            state.bundle_refused = false;
            state.refusal_stands = false;
            // Of a step on the way, the rest follows.
            state.dirty |= self.unfinished;
            update_ports(&mut state, acknowledgement.ports);
            drop(state);
            self.demand.installed();
            self.basis = Basis::Confirmed;
            self.phase = Phase::Settled;
            self.retry_seconds = limits::RETRY_SECONDS;
            self.mismatches = 0;
            self.link.announce();
            return;
        };
        state.outstanding = None;
        state.refused += 1;
        let more = std::mem::replace(&mut state.dirty, true);
        if fault.code == "generation_mismatch" && self.mismatches < MISMATCHES {
            state.confirmed = None;
            drop(state);
            tracing::info!(host = self.name, problem = fault.problem, "the switch is elsewhere: comparing");
            self.mismatches += 1;
            self.basis = Basis::Unknown;
            self.phase = Phase::Settled;
            return;
        }
        let fault = Fault::from_message(fault, Code::FailedPrecondition);
        tracing::warn!(host = self.name, %fault, "a bundle was refused");
        state.fault = Some(fault);
        state.bundle_refused = true;
        state.refusal_stands = !more;
        drop(state);
        // What has changed meanwhile may be what was missing: it is tried at once.
        let pause = if more { 0 } else { self.retry_seconds };
        self.phase = Phase::Refused(Instant::now() + Duration::from_secs(pause));
        self.retry_seconds = (self.retry_seconds * 2).min(limits::RETRY_SECONDS_MOST);
        self.link.announce();
    }

    async fn compared(&mut self, digests: &Digests) -> Result<(), Fault> {
        let Phase::Comparing(_) = self.phase else { return Ok(()) };
        let wanted = self.compile();
        let equal = wanted.agrees_with(digests);
        tracing::info!(host = self.name, equal, generation = digests.generation, "compared with the switch");
        if equal {
            // Only the generation is new.
            self.send_bundle(Bundle::default(), wanted, digests.generation).await
        } else {
            self.send_bundle(wanted.whole(), wanted, 0).await
        }
    }

    async fn close(self, end: End) {
        match end {
            End::Closed => tracing::info!(host = self.name, "a switch has disconnected"),
            End::Fault(fault) => {
                tracing::warn!(host = self.name, %fault, "a switch was disconnected");
                // It may have gone already, or not read any more.
                let wait = Duration::from_secs(1);
                let last = self.session.outbound.send(Err(fault.into_status()));
                let _ = tokio::time::timeout(wait, last).await;
            }
        }
        let left = self.own().map(|mut state| {
            state.session = None;
            state.lost = Some(Instant::now());
        });
        if left.is_some() {
            self.link.calls.fail();
        }
        self.link.announce();
    }
}

/// Takes over what an acknowledgement says of ports, and forgets those that the fabric has no more.
fn update_ports(state: &mut LinkState, reported: Vec<v1::PortStatus>) {
    let number = |port: &v1::PortStatus| port.spec.as_ref().map(|spec| spec.number);
    for port in reported {
        match state.ports.iter_mut().find(|known| number(known) == number(&port)) {
            Some(known) => *known = port,
            None => state.ports.push(port),
        }
    }
    let Some(confirmed) = &state.confirmed else { return };
    state.ports.retain(|port| {
        let fabric = port.spec.as_ref().is_some_and(|spec| spec.owner() == v1::Owner::Fabric);
        !fabric || number(port).is_some_and(|number| confirmed.state.ports.contains_key(&number))
    });
}
