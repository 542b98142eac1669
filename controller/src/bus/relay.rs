//! Calls of the service Switch, passed on to a host's switch and its replies passed back.
//!
//! A call that takes too long, whose switch goes away or whose caller does not read its replies ends with
//! a fault; a caller that goes away cancels it at the switch.

use super::link::{Link, Outbound};
use crate::limits;
use prost::bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Code, Status};
use weft_proto::fault::Fault;
use weft_proto::program::request;
use weft_proto::v1::{Call, CallReply, Cancel, ToSwitch, to_switch};

/// What a switch answers: a message, or why there is none.
type Reply = Result<Bytes, Fault>;

struct Waiting {
    replies: mpsc::UnboundedSender<Reply>,
    queued: Arc<AtomicUsize>,
    /// Given up: it gets no more replies.
    overrun: bool,
}

/// The calls under way to one host.
#[derive(Default)]
pub struct Calls {
    waiting: Mutex<HashMap<u64, Waiting>>,
    last_id: AtomicU64,
}

/// One call's replies.
pub struct Replies {
    id: u64,
    link: Arc<Link>,
    outbound: Outbound,
    replies: mpsc::UnboundedReceiver<Reply>,
    queued: Arc<AtomicUsize>,
}

/// Passes a call on.
pub async fn call(link: &Arc<Link>, host: &str, method: &str, request: Vec<u8>) -> Result<Replies, Fault> {
    if request.len() > limits::RELAY_REQUEST_BYTES {
        return Err(Fault::invalid(
            "too_large",
            "",
            format!("the request has {} bytes, at most {} are relayed", request.len(), limits::RELAY_REQUEST_BYTES),
            "Send it in several bundles, or to the switch's own socket.",
        )
        .with_status(Code::ResourceExhausted));
    }
    let outbound = link.lock().session.as_ref().map(|session| session.outbound.clone());
    let outbound = outbound.ok_or_else(|| disconnected(host))?;
    let (sender, replies) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let id = link.calls.add(Waiting { replies: sender, queued: Arc::clone(&queued), overrun: false })?;
    // From here on, dropping it cleans up.
    let replies = Replies { id, link: Arc::clone(link), outbound, replies, queued };
    let request_id = request::current().map(|id| id.to_string()).unwrap_or_default();
    let call = Call { id, method: method.to_owned(), request, request_id };
    let message = ToSwitch { message: Some(to_switch::Message::Call(call)) };
    let sent =
        tokio::time::timeout(Duration::from_secs(limits::RELAY_SECONDS), replies.outbound.send(Ok(message))).await;
    match sent {
        Ok(Ok(())) => Ok(replies),
        Ok(Err(_)) => Err(disconnected(host)),
        Err(_) => Err(too_slow()),
    }
}

fn disconnected(host: &str) -> Fault {
    Fault::invalid(
        "host_disconnected",
        "weft-host",
        format!("the switch of host {host:?} is not connected"),
        "Start weft-switch there, or see why it cannot connect: `weft host list` and the switch's log.",
    )
    .with_status(Code::Unavailable)
}

fn too_slow() -> Fault {
    Fault::invalid(
        "host_timeout",
        "weft-host",
        format!("the switch did not answer within {} seconds", limits::RELAY_SECONDS),
        "Try again; if it stays so, look at the switch's log.",
    )
    .with_status(Code::DeadlineExceeded)
}

impl Calls {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, call: Waiting) -> Result<u64, Fault> {
        let mut waiting = self.lock();
        if waiting.len() >= limits::CALLS_PER_HOST {
            return Err(Fault::invalid(
                "limit_reached",
                "weft-host",
                format!("{} calls to the host are under way", waiting.len()),
                "Wait until some have ended.",
            )
            .with_status(Code::ResourceExhausted));
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        waiting.insert(id, call);
        Ok(id)
    }

    /// Passes a switch's reply on. One to a call that has ended is dropped.
    pub(super) fn reply(&self, reply: CallReply) {
        let mut waiting = self.lock();
        let Some(call) = waiting.get_mut(&reply.id).filter(|call| !call.overrun) else { return };
        let fault = reply.fault.map(|fault| {
            let code = Code::from(i32::try_from(reply.status_code).unwrap_or(Code::Unknown as i32));
            Fault::from_message(fault, if code == Code::Ok { Code::Unknown } else { code })
        });
        let queued = call.queued.fetch_add(reply.reply.len(), Ordering::Relaxed) + reply.reply.len();
        call.overrun = queued > limits::RELAY_REPLY_BYTES;
        // The receiver may have gone: then the entry goes with it.
        let _ = match fault {
            Some(fault) => call.replies.send(Err(fault)),
            None if call.overrun => call.replies.send(Err(Fault::invalid(
                "caller_too_slow",
                "",
                "the replies were not read as fast as they came",
                "Narrow the request, or read faster.",
            )
            .with_status(Code::ResourceExhausted))),
            None => call.replies.send(Ok(reply.reply.into())),
        };
        if reply.last {
            waiting.remove(&reply.id);
        }
    }

    /// Ends all calls: the switch is gone.
    pub(super) fn fail(&self) {
        for (_, call) in self.lock().drain() {
            let fault = Fault::invalid("host_disconnected", "weft-host", "the switch went away", "Try again.")
                .with_status(Code::Unavailable);
            // The receiver may have gone.
            let _ = call.replies.send(Err(fault));
        }
    }
}

impl Replies {
    /// The next reply; `None` after the last. With `patience`, a switch that is silent for long is given up.
    pub async fn next(&mut self, patience: bool) -> Option<Result<Bytes, Status>> {
        let received = if patience {
            let wait = Duration::from_secs(limits::RELAY_SECONDS);
            match tokio::time::timeout(wait, self.replies.recv()).await {
                Ok(received) => received,
                Err(_) => return Some(Err(too_slow().into_status())),
            }
        } else {
            self.replies.recv().await
        };
        match received {
            None => None,
            Some(Ok(bytes)) => {
                self.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
                Some(Ok(bytes))
            }
            Some(Err(fault)) => Some(Err(fault.into_status())),
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        // Still there: the last reply has not come.
        if self.link.calls.lock().remove(&self.id).is_some() {
            let cancel = ToSwitch { message: Some(to_switch::Message::Cancel(Cancel { id: self.id })) };
            // If there is no room the switch goes on answering, and its replies are dropped.
            let _ = self.outbound.try_send(Ok(cancel));
        }
    }
}
