//! What the controller knows of one host's switch, between and during its streams.

use super::relay::Calls;
use super::subscriptions::Subscriptions;
use crate::compile::HostState;
use crate::limits;
use crate::model::Host;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::program::request;
use weft_proto::v1::{self, PortSpec, PortStatus, ToSwitch, port_spec};

/// Where a session's messages go.
pub type Outbound = mpsc::Sender<Result<ToSwitch, Status>>;

/// A state, and the generation under which the switch was sent it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counted per host and term, from 1.
    pub number: u64,
    /// What the switch holds at it.
    pub state: Arc<HostState>,
}

/// The stream a host has.
#[derive(Clone)]
pub struct Session {
    /// Tells sessions of one host apart.
    pub serial: u64,
    /// The switch's.
    pub boot_id: u64,
    /// To the switch.
    pub outbound: Outbound,
    /// Told to end, and why.
    pub end: Arc<Ending>,
}

/// How others tell a session to end.
#[derive(Default)]
pub struct Ending {
    /// Woken when there is a reason.
    pub wake: Notify,
    reason: Mutex<Option<Fault>>,
}

impl Ending {
    /// Ends the session with this fault; the first one counts.
    pub fn end(&self, fault: Fault) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
        self.wake.notify_one();
    }

    /// Why it should end, if it should.
    pub fn reason(&self) -> Option<Fault> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See [`Link`]; changed by the host's session only, except for `dirty`.
#[derive(Default)]
pub struct LinkState {
    /// What the switch is known to hold.
    pub confirmed: Option<Generation>,
    /// What it was sent and has not answered.
    pub outstanding: Option<Generation>,
    /// The last number given to a generation.
    pub generation: u64,
    /// Whether the model may have changed since it was last compiled for this host.
    pub dirty: bool,
    /// The requests that changed it, at most [`limits::REQUESTS_PER_BUNDLE`].
    pub requests: Vec<String>,
    /// The stream, if there is one.
    pub session: Option<Session>,
    /// When the last stream came.
    pub joined: Option<Instant>,
    /// Sessions so far.
    pub sessions: u64,
    /// Bundles that the switch applied so far.
    pub acknowledged: u64,
    /// Bundles that it refused so far.
    pub refused: u64,
    /// When the last message came in.
    pub heard: Option<Instant>,
    /// When the last stream ended, if there was one and there is none.
    pub lost: Option<Instant>,
    /// The last refusal: of a bundle or of the connection.
    pub fault: Option<Fault>,
    /// When a switch was last refused under this host's name while the host was connected, and why. It is no fault
    /// of the host's.
    pub turned_away: Option<(Instant, Fault)>,
    /// Whether it was a bundle that was refused.
    pub bundle_refused: bool,
    /// Whether what was refused is all there is to try: nothing has changed, and nobody asked again.
    pub refusal_stands: bool,
    /// What the host was told of because it asked.
    pub subscriptions: Subscriptions,
    /// As the switch last reported them.
    pub ports: Vec<PortStatus>,
}

/// What the controller knows of one host's switch.
pub struct Link {
    /// Which host.
    pub host: Uuid,
    state: Mutex<LinkState>,
    /// Wakes the session when the host is dirty.
    pub wake: Notify,
    /// Relayed calls under way.
    pub calls: Calls,
    status: watch::Sender<u64>,
}

/// How a port that is plugged here is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Its host has not acknowledged it yet; why not, if that is known.
    Build(String),
    /// It has, and is connected.
    Active,
    /// It has, but nobody knows how the port is, or the host says that it is down: why.
    Down(String),
    /// It has, and the virtual machine that is to connect does not run.
    Waiting,
    /// It refused, or the port's interface failed, for this reason.
    Error(String),
}

/// Whether the port's other end is a virtual machine, which comes and goes.
fn awaits_machine(spec: &PortSpec) -> bool {
    matches!(spec.kind, Some(port_spec::Kind::VhostUser(_)))
}

impl Link {
    pub(super) fn new(host: Uuid, status: watch::Sender<u64>) -> Self {
        let state = Mutex::new(LinkState { dirty: true, ..LinkState::default() });
        Self { host, state, wake: Notify::new(), calls: Calls::default(), status }
    }

    /// The state, locked: not to be held across an await.
    pub fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the model has changed in what this host gets.
    pub fn mark(&self) {
        {
            let mut state = self.lock();
            state.dirty = true;
            state.refusal_stands = false;
            if let Some(request) = request::current().filter(|_| state.requests.len() < limits::REQUESTS_PER_BUNDLE) {
                state.requests.push(request.to_string());
            }
        }
        self.wake.notify_one();
    }

    /// Says that somebody asks again for what may have been refused.
    pub fn retry(&self) {
        let refused = self.lock().bundle_refused;
        if refused {
            self.mark();
        }
    }

    /// Tells those who wait for a status that it may have changed.
    pub fn announce(&self) {
        self.status.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Ends the session, if there is one, for this reason.
    pub fn end(&self, fault: Fault) {
        if let Some(session) = &self.lock().session {
            session.end.end(fault);
        }
    }

    /// Ends the session: the host is no more.
    pub(super) fn dismiss(&self) {
        self.end(
            Fault::invalid(
                "unknown_host",
                "host",
                "the host was deleted",
                "Create it again with `weft host create NAME`, or stop its switch.",
            )
            .with_status(tonic::Code::NotFound),
        );
    }

    /// Fills in what is known of the host.
    pub fn describe(&self, host: &mut v1::Host) {
        let state = self.lock();
        host.connected = state.session.is_some();
        host.since_seconds = state.lost.or(state.joined).map_or(0, |since| since.elapsed().as_secs());
        host.acknowledged_generation = state.confirmed.as_ref().map_or(0, |confirmed| confirmed.number);
        // Numbers that were refused, or lost with a stream, are passed over.
        host.generation = match &state.outstanding {
            _ if state.dirty => state.generation + 1,
            Some(outstanding) => outstanding.number,
            None => host.acknowledged_generation,
        };
        host.fault = state.fault.as_ref().map(ToString::to_string).unwrap_or_default();
        host.ports.clone_from(&state.ports);
        let absence = state.absence(&host.name, &host.switch_version);
        if absence.is_some() {
            for port in &mut host.ports {
                port.state = format!("unknown, last reported: {}", port.state);
            }
        }
        let notes: Vec<String> = absence.into_iter().chain(state.intrusion(&host.name, Instant::now())).collect();
        host.note = notes.join(" ");
    }

    /// Whether it is connected, and whether it has not acknowledged what it should have.
    pub fn standing(&self) -> (bool, bool) {
        let state = self.lock();
        (state.session.is_some(), state.dirty || state.outstanding.is_some() || state.confirmed.is_none())
    }

    /// How the port is that should be so on this host, and the interface that the switch reported.
    pub fn port(&self, host: &Host, wanted: &PortSpec) -> (PortState, Option<String>) {
        let state = self.lock();
        let number = wanted.number;
        let reported = state.ports.iter().find(|port| port.spec.as_ref().is_some_and(|spec| spec.number == number));
        let interface = reported.map(|port| port.interface.clone()).filter(|name| !name.is_empty());
        let held = state.confirmed.as_ref().and_then(|confirmed| confirmed.state.ports.get(&number));
        let held = held.is_some_and(|spec| spec == wanted);
        let port_state = match (state.absence(&host.name, &host.version), reported, &state.fault) {
            (Some(absence), ..) if held => PortState::Down(absence),
            (Some(absence), ..) => PortState::Build(absence),
            (None, Some(port), _) if held && port.state.starts_with("failed") => PortState::Error(port.state.clone()),
            (None, Some(port), _) if held && port.state == "down" && awaits_machine(wanted) => PortState::Waiting,
            (None, Some(port), _) if held && port.state.starts_with("down") => PortState::Down(port.state.clone()),
            (None, ..) if held => PortState::Active,
            (None, _, Some(fault)) if state.refusal_stands => PortState::Error(fault.to_string()),
            (None, ..) => PortState::Build(String::new()),
        };
        (port_state, interface)
    }

    /// Whether the switch may still have the port.
    pub fn may_have(&self, number: u32) -> bool {
        let state = self.lock();
        let has = |generation: &Option<Generation>| {
            generation.as_ref().is_some_and(|generation| generation.state.ports.contains_key(&number))
        };
        has(&state.confirmed) || has(&state.outstanding)
    }
}

impl LinkState {
    /// That the host is not connected, in a sentence, and what that means; `None` while it is. `version`: its
    /// switch's, empty if it never had one.
    fn absence(&self, host: &str, version: &str) -> Option<String> {
        if self.session.is_some() {
            return None;
        }
        let since = match self.lost {
            Some(lost) => format!("has not been connected for {}", roughly(lost.elapsed())),
            None if version.is_empty() => {
                return Some(format!(
                    "host {host:?} has never connected. Start weft-switch there with this host name."
                ));
            }
            None => "has not connected since this controller started".to_owned(),
        };
        Some(format!(
            "host {host:?} {since}; if its switch runs, it goes on forwarding by the rules it has. Look whether it runs, \
             and at its log."
        ))
    }

    /// That another switch was refused lately, in a sentence.
    fn intrusion(&self, host: &str, now: Instant) -> Option<String> {
        let (at, fault) = self.turned_away.as_ref()?;
        let ago = now.saturating_duration_since(*at);
        (ago < Duration::from_secs(limits::REFUSAL_NOTE_SECONDS))
            .then(|| format!("A switch that called itself {host:?} was refused {} ago: {fault}", roughly(ago)))
    }
}

/// A duration in one unit, rounded down.
fn roughly(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        let shown = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|seconds| roughly(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }

    #[test]
    fn a_note_of_a_refusal_expires() {
        let fault = Fault::invalid("host_connected", "hello.host", "another switch is connected", "Stop that one.");
        let at = Instant::now();
        let state = LinkState { turned_away: Some((at, fault)), ..LinkState::default() };
        let note = state.intrusion("one", at + Duration::from_secs(5)).unwrap();
        assert!(note.contains("\"one\" was refused 5 s ago: hello.host: another switch is connected."), "{note}");
        assert_eq!(state.intrusion("one", at + Duration::from_secs(limits::REFUSAL_NOTE_SECONDS)), None);
    }
}
