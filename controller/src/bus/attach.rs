//! A switch says Hello: it is let in, or told why not.

use super::link::{Ending, Link, Outbound, Session};
use super::session;
use crate::authorise::Caller;
use crate::controller::Controller;
use crate::identity::membership::revoked;
use crate::limits;
use crate::model::{Host, HostReport, PhysicalInterface, UnderlayAddress};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, FromSwitch, Hello, ToSwitch, Welcome, from_switch, to_switch};

/// The service Bus.
pub struct BusService {
    controller: Arc<Controller>,
}

impl BusService {
    /// On a controller.
    pub fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }
}

#[tonic::async_trait]
impl v1::bus_server::Bus for BusService {
    type AttachStream = ReceiverStream<Result<ToSwitch, Status>>;

    async fn attach(&self, request: Request<Streaming<FromSwitch>>) -> Result<Response<Self::AttachStream>, Status> {
        let (outbound, stream) = mpsc::channel(limits::OUTBOUND_MESSAGES);
        let controller = Arc::clone(&self.controller);
        // The reply's headers go at once: a switch may wait for them before it says Hello.
        let caller = request.extensions().get::<Caller>().cloned();
        tokio::spawn(async move {
            let mut inbound = request.into_inner();
            match greet(&controller, caller.as_ref(), &mut inbound, &outbound).await {
                Ok(admitted) => session::run(controller, admitted, inbound).await,
                Err(fault) => {
                    tracing::warn!(%fault, "a switch was refused");
                    // It may have gone already.
                    let _ = outbound.send(Err(fault.into_status())).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A switch that was let in.
pub struct Admitted {
    /// What it said.
    pub hello: Hello,
    /// Its host.
    pub host: Host,
    /// The link to the host, which has the session now.
    pub link: Arc<Link>,
    /// That session.
    pub session: Session,
}

async fn greet(
    controller: &Arc<Controller>,
    caller: Option<&Caller>,
    inbound: &mut Streaming<FromSwitch>,
    outbound: &Outbound,
) -> Result<Admitted, Fault> {
    let hello = first_message(inbound).await?;
    // Before anything is noted of the host that is named.
    let key = caller.and_then(Caller::host);
    if let Some(key) = key {
        own_name(controller, key.host, &hello)?;
    }
    // A switch of another protocol may mean something else by any other field: this comes first.
    if hello.protocol != weft_proto::PROTOCOL {
        let fault = protocol_mismatch(&hello);
        let host = controller.model().find::<Host>(&hello.host, "", "hello.host").ok().map(|host| host.id);
        if let Some(host) = host {
            refuse(&controller.links.of(host), &fault);
        }
        return Err(fault);
    }
    let host = controller.model().find::<Host>(&hello.host, "", "hello.host").cloned()?;
    let link = controller.links.of(host.id);
    let check = async {
        make_way(&link, &host, &hello).await?;
        newer_term(controller, &hello).await?;
        let report = report(&hello)?;
        controller.report_host(host.id, report).await
    };
    if let Err(fault) = check.await {
        refuse(&link, &fault);
        return Err(fault);
    }
    let session = install(&link, &hello, outbound);
    // A host that was deleted in the meantime has another link, or none.
    if controller.model().hosts.get(host.id).is_none() {
        link.dismiss();
    }
    // Likewise one that was revoked.
    if key.is_some_and(|key| controller.identities.holder(&key.certificate) != Some(host.id)) {
        link.end(revoked());
    }
    let welcome = Welcome { controller_version: weft_proto::VERSION.to_owned(), term: controller.term };
    // If the stream is closed, the session finds out.
    let _ = outbound.send(Ok(ToSwitch { message: Some(to_switch::Message::Welcome(welcome)) })).await;
    tracing::info!(host = host.name, version = hello.version, boot_id = hello.boot_id, "a switch has connected");
    Ok(Admitted { hello, host, link, session })
}

/// A host that shows a certificate is the one that it is of.
fn own_name(controller: &Controller, certified: Uuid, hello: &Hello) -> Result<(), Fault> {
    let model = controller.model();
    let own = model.hosts.get(certified).ok_or_else(revoked)?;
    if model.find::<Host>(&hello.host, "", "hello.host").is_ok_and(|named| named.id == own.id) {
        return Ok(());
    }
    let said: String = hello.host.chars().take(limits::NAME_CHARACTERS).collect();
    Err(Fault::invalid(
        "certificate_mismatch",
        "hello.host",
        format!("the switch says it is host {said:?}, its certificate is that of host {:?}", own.name),
        format!("Set host = {:?} in its settings, or join as the other with a token of that host.", own.name),
    )
    .with_status(Code::PermissionDenied))
}

/// Remembers why a switch was not let in. If the host is connected, that is about another switch than its own, and
/// must not look like a fault of the host's.
fn refuse(link: &Link, fault: &Fault) {
    {
        let mut state = link.lock();
        if state.session.is_some() {
            state.turned_away = Some((Instant::now(), fault.clone()));
        } else {
            state.fault = Some(fault.clone());
        }
    }
    link.announce();
}

async fn first_message(inbound: &mut Streaming<FromSwitch>) -> Result<Hello, Fault> {
    let silent = || {
        Fault::invalid("hello_expected", "", "the first message was not a Hello", "Send Hello first.")
            .with_status(Code::FailedPrecondition)
    };
    let wait = Duration::from_secs(limits::HELLO_SECONDS);
    match tokio::time::timeout(wait, inbound.message()).await {
        Ok(Ok(Some(FromSwitch { message: Some(from_switch::Message::Hello(hello)) }))) => Ok(hello),
        _ => Err(silent()),
    }
}

fn protocol_mismatch(hello: &Hello) -> Fault {
    let (theirs, ours) = (hello.protocol, weft_proto::PROTOCOL);
    Fault::invalid(
        "protocol_mismatch",
        "hello.protocol",
        format!(
            "weft-switch {} speaks protocol {theirs}, weft-controller {} speaks {ours}",
            hello.version,
            weft_proto::VERSION
        ),
        if theirs < ours { "Upgrade the switch." } else { "Upgrade the controller." },
    )
    .with_status(Code::FailedPrecondition)
}

fn report(hello: &Hello) -> Result<HostReport, Fault> {
    let underlay = UnderlayAddress::all(&hello.underlay_addresses)
        .map_err(|(index, fault)| fault.within(&format!("hello.underlay_addresses[{index}]")))?;
    let physical = PhysicalInterface::all(&hello.physical_networks)
        .map_err(|(index, fault)| fault.within(&format!("hello.physical_networks[{index}]")))?;
    Ok(HostReport { underlay, physical, version: hello.version.chars().take(200).collect() })
}

/// A switch that has followed a later term would refuse all we send. That is right if another controller
/// leads; if none does (our store was restored from a backup), a new term must be begun.
async fn newer_term(controller: &Arc<Controller>, hello: &Hello) -> Result<(), Fault> {
    if hello.term <= controller.term {
        return Ok(());
    }
    controller.remember_term(hello.term).await?;
    Err(Fault::invalid(
        "newer_term",
        "hello.term",
        format!("the switch has followed a controller of term {}, this one has term {}", hello.term, controller.term),
        "If no other controller runs, restart this one: it then begins a later term.",
    )
    .with_status(Code::FailedPrecondition))
}

/// Sees to it that the host has no other session. The same switch that connects again takes its own place. For
/// another one, the connected one must not show life: so a second switch is refused, but a stream whose other
/// end is gone does not keep a restarted one out.
async fn make_way(link: &Link, host: &Host, hello: &Hello) -> Result<(), Fault> {
    let connected = link.lock().session.clone();
    let Some(connected) = connected.filter(|session| session.boot_id != hello.boot_id) else { return Ok(()) };
    let asked = Instant::now();
    let compare = ToSwitch { message: Some(to_switch::Message::Compare(v1::CompareRequest {})) };
    // If its queue is full it is being sent to, and shows life or not all the same.
    let _ = connected.outbound.try_send(Ok(compare));
    let deadline = asked + Duration::from_secs(limits::PROBE_SECONDS);
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let state = link.lock();
        if state.session.as_ref().is_none_or(|session| session.serial != connected.serial) {
            return Ok(());
        }
        if state.heard.is_some_and(|heard| heard > asked) {
            return Err(Fault::invalid(
                "host_connected",
                "hello.host",
                format!("another switch is connected as host {:?}", host.name),
                "Stop that one, or create a host of another name for this one: `weft host create NAME`.",
            )
            .with_status(Code::AlreadyExists));
        }
    }
    Ok(())
}

/// Gives the host this session, and ends the one it had.
fn install(link: &Link, hello: &Hello, outbound: &Outbound) -> Session {
    let mut state = link.lock();
    state.sessions += 1;
    state.joined = Some(Instant::now());
    let session = Session {
        serial: state.sessions,
        boot_id: hello.boot_id,
        outbound: outbound.clone(),
        end: Arc::new(Ending::default()),
    };
    if let Some(old) = state.session.replace(session.clone()) {
        old.end.end(
            Fault::invalid(
                "replaced",
                "",
                "the switch has connected anew, or another one in its place",
                "Nothing is to be done if it has; else look for a second switch of this name.",
            )
            .with_status(Code::Aborted),
        );
        link.calls.fail();
    }
    if !state.bundle_refused {
        state.fault = None;
    }
    state.heard = Some(Instant::now());
    state.lost = None;
    drop(state);
    link.announce();
    session
}
