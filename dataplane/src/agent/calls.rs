//! Calls of the switch's methods that the controller passes on: side by side, bounded, cancellable.

use super::session::{Outbound, message};
use crate::api::Api;
use crate::limits::RELAYED_CALLS;
use crate::switch::Switch;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::program::request;
use weft_proto::v1::{self, from_switch};

/// The calls under way; all end when it is dropped.
pub(super) struct Calls {
    api: Api,
    outbound: Outbound,
    running: JoinSet<u64>,
    handles: HashMap<u64, AbortHandle>,
}

impl Calls {
    pub(super) fn new(switch: Arc<Switch>, outbound: Outbound) -> Self {
        Self { api: Api::new(switch), outbound, running: JoinSet::new(), handles: HashMap::new() }
    }

    /// Forgets one call that has ended; never ends while there is none.
    pub(super) async fn tidy(&mut self) {
        match self.running.join_next().await {
            None => std::future::pending().await,
            Some(Ok(id)) => {
                self.handles.remove(&id);
            }
            // Cancelled: forgotten already. A panic was logged where it happened.
            Some(Err(_)) => {
                let running = |_: &u64, handle: &mut AbortHandle| !handle.is_finished();
                self.handles.retain(running);
            }
        }
    }

    /// Starts a call, or answers that there are too many.
    pub(super) async fn begin(&mut self, call: v1::Call) {
        let id = call.id;
        if self.handles.len() >= RELAYED_CALLS {
            let fault = Fault::invalid(
                "too_many_calls",
                "",
                format!("{RELAYED_CALLS} calls from the controller are under way"),
                "Wait until some have ended.",
            );
            fail(&self.outbound, id, &fault.with_status(Code::ResourceExhausted)).await;
            return;
        }
        let (api, outbound) = (self.api.clone(), self.outbound.clone());
        let handle = self.running.spawn(async move {
            let (request, method) = (call.request_id.clone(), call.method.clone());
            request::within(&request, &method, run(&api, &outbound, call)).await;
            id
        });
        self.handles.insert(id, handle);
    }

    /// Ends a call whose caller has gone. A bundle that has begun is finished all the same.
    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(handle) = self.handles.remove(&id) {
            handle.abort();
        }
    }
}

async fn run(api: &Api, outbound: &Outbound, call: v1::Call) {
    let id = call.id;
    let mut ended = false;
    let done = api
        .call(&call.method, &call.request, |bytes, last| {
            ended = last;
            let reply = v1::CallReply { id, reply: bytes, last, ..Default::default() };
            async move { outbound.send(message(from_switch::Message::CallReply(reply))).await.is_ok() }
        })
        .await;
    match done {
        Ok(()) if ended => {}
        Ok(()) => {
            let end = v1::CallReply { id, last: true, ..Default::default() };
            // If the stream is closed, nobody waits any more.
            let _ = outbound.send(message(from_switch::Message::CallReply(end))).await;
        }
        Err(status) => {
            tracing::info!(code = ?status.code(), "refused: {}", status.message());
            fail(outbound, id, &Fault::from_status(&status)).await;
        }
    }
}

async fn fail(outbound: &Outbound, id: u64, fault: &Fault) {
    let reply = v1::CallReply {
        id,
        last: true,
        fault: Some(fault.to_message()),
        status_code: fault.status as u32,
        ..Default::default()
    };
    // If the stream is closed, nobody waits any more.
    let _ = outbound.send(message(from_switch::Message::CallReply(reply))).await;
}
