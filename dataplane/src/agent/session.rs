//! One conversation with the controller, from Hello to its end.

use super::calls::Calls;
use super::{End, Endpoint};
use crate::flow::rule::Owner;
use crate::limits::MESSAGE_BYTES;
use crate::switch::{Parts, Switch, Whole};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use weft_proto::fault::Fault;
use weft_proto::v1::bus_client::BusClient;
use weft_proto::v1::{self, FromSwitch, ToSwitch, from_switch, to_switch};

/// Messages to the controller that wait to be sent.
const OUTBOUND: usize = 64;
/// Bundles and comparisons that wait to be worked off.
const WORK: usize = 64;
/// How long the controller may take to say Welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// Changes of ports within this time are reported together.
const GATHER: Duration = Duration::from_millis(20);

/// What must be done in order.
enum Work {
    Bundle(Box<Whole>),
    /// A bundle that is too large to be read.
    Refused(Fault),
    Compare,
    /// What the controller says of destinations: after the bundles before it.
    Reached(v1::Reached),
}

/// To the controller.
pub(super) type Outbound = mpsc::Sender<FromSwitch>;

pub(super) fn message(message: from_switch::Message) -> FromSwitch {
    FromSwitch { message: Some(message) }
}

/// Runs a session to its end.
pub(super) async fn run(switch: &Arc<Switch>, endpoint: &Endpoint, channel: Channel) -> End {
    let mut client =
        BusClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    let mut changes = switch.changes();
    changes.mark_unchanged();
    let hello = hello(switch).await;
    let said = hello.clone();
    if outbound.send(message(from_switch::Message::Hello(hello))).await.is_err() {
        return lost("the stream was closed", false);
    }
    let welcomed = tokio::time::timeout(WELCOME, async {
        let mut inbound = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        match inbound.message().await? {
            Some(ToSwitch { message: Some(to_switch::Message::Welcome(welcome)) }) => Ok((inbound, welcome)),
            _ => Err(Status::unavailable("the controller did not say Welcome")),
        }
    });
    let (inbound, welcome) = match welcomed.await {
        Err(_) => return lost("the controller did not answer", false),
        Ok(Err(status)) => return ended(&status, false),
        Ok(Ok(welcomed)) => welcomed,
    };
    tracing::info!(controller = %endpoint, version = welcome.controller_version, term = welcome.term, "connected");
    switch.set_controller_status("connected".to_owned());
    report(switch, &outbound).await;

    let (work, backlog) = mpsc::channel(WORK);
    let worker = tokio::spawn(work_off(switch.clone(), backlog, outbound.clone()));
    let end = converse(switch, inbound, changes, &said, work, outbound).await;
    // A bundle that has begun is finished before the next Hello says what the switch holds.
    if let Err(error) = worker.await {
        tracing::error!(%error, "a bundle of the controller failed");
    }
    end
}

async fn hello(switch: &Arc<Switch>) -> v1::Hello {
    let taken = switch.clone();
    // The position waits for a bundle under way.
    let facts =
        tokio::task::spawn_blocking(move || (taken.position(), taken.underlay_addresses(), taken.physical_networks()));
    let ((term, generation), underlay_addresses, physical_networks) = facts.await.unwrap_or_default();
    v1::Hello {
        host: switch.host().to_owned(),
        version: weft_proto::VERSION.to_owned(),
        protocol: weft_proto::PROTOCOL,
        term,
        generation,
        boot_id: switch.boot_id(),
        underlay_addresses,
        physical_networks,
    }
}

fn lost(reason: &str, welcomed: bool) -> End {
    End::Lost { reason: reason.to_owned(), welcomed }
}

/// What a status at the end of the stream means: a fault of the controller's is a refusal.
fn ended(status: &Status, welcomed: bool) -> End {
    let fault = Fault::from_status(status);
    let said = !status.details().is_empty();
    if said && !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
        return End::Refused(fault);
    }
    let reason = match std::error::Error::source(status) {
        Some(source) => super::deepest(source),
        None => fault.problem,
    };
    End::Lost { reason, welcomed }
}

async fn converse(
    switch: &Arc<Switch>,
    mut inbound: Streaming<ToSwitch>,
    mut changes: watch::Receiver<u64>,
    said: &v1::Hello,
    work: mpsc::Sender<Work>,
    outbound: Outbound,
) -> End {
    let mut calls = Calls::new(switch.clone(), outbound.clone());
    let mut parts = Parts::new(Owner::Fabric);
    let destinations = &switch.punts().destinations;
    // What was asked without a controller, or of one that has gone.
    destinations.ask_again();
    loop {
        tokio::select! {
            () = calls.tidy() => {}
            () = destinations.asked() => {
                let questions = v1::Unreached { destinations: destinations.questions() };
                if !questions.destinations.is_empty()
                    && outbound.send(message(from_switch::Message::Unreached(questions))).await.is_err()
                {
                    return lost("the stream was closed", true);
                }
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return End::Stop;
                }
                tokio::time::sleep(GATHER).await;
                changes.mark_unchanged();
                let now = hello(switch).await;
                let place = |hello: &v1::Hello| (hello.underlay_addresses.clone(), hello.physical_networks.clone());
                if place(&now) != place(said) {
                    return End::Renew;
                }
                report(switch, &outbound).await;
            }
            received = inbound.message() => {
                let message = match received {
                    Ok(Some(message)) => message.message,
                    Ok(None) => return lost("the controller has closed the connection", true),
                    Err(status) => return ended(&status, true),
                };
                let item = match message {
                    Some(to_switch::Message::Bundle(part)) => match parts.push(part) {
                        Ok(None) => continue,
                        Ok(Some(whole)) => Work::Bundle(Box::new(whole)),
                        Err(fault) => Work::Refused(fault),
                    },
                    Some(to_switch::Message::Compare(_)) => Work::Compare,
                    Some(to_switch::Message::Reached(reached)) => Work::Reached(reached),
                    Some(to_switch::Message::Call(call)) => {
                        calls.begin(call).await;
                        continue;
                    }
                    Some(to_switch::Message::Cancel(cancel)) => {
                        calls.cancel(cancel.id);
                        continue;
                    }
                    // Said already; or a kind of message that a later version may bring.
                    Some(to_switch::Message::Welcome(_)) | None => continue,
                };
                if work.send(item).await.is_err() {
                    return lost("a bundle failed", true);
                }
            }
        }
    }
}

async fn report(switch: &Arc<Switch>, outbound: &Outbound) {
    let taken = switch.clone();
    let Ok(listed) = tokio::task::spawn_blocking(move || taken.ports()).await else { return };
    let report = v1::Report { ports: listed.ports };
    // If the stream is closed, the reader notices.
    let _ = outbound.send(message(from_switch::Message::Report(report))).await;
}

/// Bundles and comparisons, one after the other.
async fn work_off(switch: Arc<Switch>, mut backlog: mpsc::Receiver<Work>, outbound: Outbound) {
    while let Some(work) = backlog.recv().await {
        let switch = switch.clone();
        let answered = tokio::task::spawn_blocking(move || answer(&switch, work));
        let Ok(answer) = answered.await else { return };
        let Some(answer) = answer else { continue };
        // If the stream is closed, what is left is not wanted any more: the reader ends the session.
        if outbound.send(message(answer)).await.is_err() {
            return;
        }
    }
}

fn answer(switch: &Switch, work: Work) -> Option<from_switch::Message> {
    let refused = |term, generation, fault: &Fault| {
        tracing::warn!(term, generation, %fault, "a bundle of the controller was refused");
        v1::Acknowledgement { term, generation, fault: Some(fault.to_message()), ports: Vec::new() }
    };
    let acknowledgement = match work {
        Work::Compare => return Some(from_switch::Message::Digests(switch.digests())),
        Work::Reached(answer) => {
            switch.reached(answer);
            return None;
        }
        Work::Refused(fault) => {
            let (term, generation) = switch.position();
            refused(term, generation, &fault)
        }
        Work::Bundle(whole) => {
            let (term, generation) = whole.position();
            let requests = whole.requests().to_vec();
            match switch.apply_whole(*whole) {
                Ok(done) => {
                    let (added, removed) = (done.rules_added, done.rules_removed);
                    tracing::info!(
                        term,
                        generation,
                        ?requests,
                        added,
                        removed,
                        "a bundle of the controller was applied"
                    );
                    v1::Acknowledgement { term, generation, fault: None, ports: done.ports }
                }
                Err(fault) => refused(term, generation, &fault),
            }
        }
    };
    Some(from_switch::Message::Acknowledgement(acknowledgement))
}
