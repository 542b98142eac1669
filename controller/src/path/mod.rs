//! The way of a packet across hosts: `TracePath`. The packet that a port's instance would send is made from the model
//! (`packet`); the switch of the port's host is asked what it would do with it, then the switch that gets it, until it
//! arrives or does not (`follow`); what became of it is said by the names of the objects that are responsible, with
//! what to do (`verdict`).
//!
//! There is no second model of the pipeline here: every table, rule and drop is a switch's own answer (its `Trace`, which
//! sends and counts nothing), the answer to the instance's ARP included. The model says only what a switch cannot know:
//! what the instance would send, which host has a tunnel's other end, whose a port or an address is.
//!
//! The answer to a packet is followed as if the packet's connections had begun: what the traces of the way there say
//! begins on a host, those of the way back assume there.
//!
//! Called by `api/cloud.rs`.

mod follow;
mod packet;
#[cfg(test)]
mod tests;
mod verdict;

use crate::authorise::Caller;
use crate::bus::relay;
use crate::controller::Controller;
use crate::model::{Model, Port};
use follow::Follower;
use packet::Flow;
use prost::Message as _;
use std::ops::Deref;
use std::sync::Arc;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The model, and the switches of its hosts.
pub trait Cloud: Sync {
    /// The model as it is now.
    fn model(&self) -> impl Deref<Target = Model>;

    /// What the switch of a host would do with a packet.
    fn trace(
        &self,
        host: Uuid,
        request: v1::TraceRequest,
    ) -> impl Future<Output = Result<v1::TraceReply, Fault>> + Send;
}

impl Cloud for Arc<Controller> {
    fn model(&self) -> impl Deref<Target = Model> {
        Controller::model(self)
    }

    async fn trace(&self, host: Uuid, request: v1::TraceRequest) -> Result<v1::TraceReply, Fault> {
        let name = Controller::model(self).hosts.get(host).map(|host| host.name.clone()).unwrap_or_default();
        let mut replies = relay::call(&self.links.of(host), &name, "Trace", request.encode_to_vec()).await?;
        let bytes = replies.next(true).await.transpose().map_err(|status| Fault::from_status(&status))?;
        bytes.and_then(|bytes| v1::TraceReply::decode(bytes).ok()).ok_or_else(|| {
            Fault::invalid("bad_reply", "", "the switch's answer makes no sense", "Compare the versions of both.")
        })
    }
}

/// `TracePath`.
///
/// # Errors
/// A request that names no port of the caller's, or no packet that can be.
pub async fn trace<C: Cloud>(
    cloud: &C,
    caller: &Caller,
    request: &v1::TracePathRequest,
) -> Result<v1::TracePathReply, Fault> {
    let (port, flow) = {
        let model = cloud.model();
        let port: &Port = model.find(&request.port, &request.project, "port")?;
        if caller.project.is_some_and(|own| own != port.project) {
            return Err(Fault::invalid("not_allowed", "port", "the port is another project's", "Name one of yours.")
                .with_status(tonic::Code::PermissionDenied));
        }
        if port.device.is_some() {
            let problem = "the port is the cloud's own, which sends nothing by itself";
            return Err(Fault::invalid("device_port", "port", problem, "Name the port of an instance."));
        }
        (port.id, Flow::read(request, port)?)
    };
    let mut follower = Follower::new(cloud);
    let forward = follower.leg(port, &flow).await;
    let reply = if request.no_reply { None } else { follower.answer(&forward).await };
    let passes = match &reply {
        Some(reply) => reply.arrived.as_ref().is_some_and(|(back, _)| *back == port),
        None => forward.arrives(),
    };
    Ok(v1::TracePathReply { forward: Some(forward.message), reply: reply.map(|reply| reply.message), passes })
}
