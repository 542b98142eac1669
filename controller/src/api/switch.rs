//! The service Switch for a host named in the metadata `weft-host`: its calls are relayed over the bus.

use crate::bus::relay::{self, Replies};
use crate::controller::Controller;
use crate::limits;
use crate::model::Host;
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The service Switch.
pub struct SwitchService {
    controller: Arc<Controller>,
}

/// The metadata key that names the host.
pub const HOST_KEY: &str = "weft-host";

impl SwitchService {
    /// On a controller.
    pub fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }

    async fn call(&self, host: &str, method: &str, request: Vec<u8>) -> Result<Replies, Status> {
        let (id, name) = {
            let model = self.controller.model();
            let host = model.find::<Host>(host, "", HOST_KEY)?;
            (host.id, host.name.clone())
        };
        Ok(relay::call(&self.controller.links.of(id), &name, method, request).await?)
    }

    async fn unary<In: Message, Out: Message + Default>(
        &self,
        request: Request<In>,
        method: &str,
    ) -> Result<Response<Out>, Status> {
        let host = named_host(&request)?;
        self.one_reply(&host, method, request.into_inner().encode_to_vec()).await
    }

    async fn one_reply<Out: Message + Default>(
        &self,
        host: &str,
        method: &str,
        request: Vec<u8>,
    ) -> Result<Response<Out>, Status> {
        let mut replies = self.call(host, method, request).await?;
        let bytes = replies.next(true).await.unwrap_or_else(|| Err(bad_reply(method)))?;
        Out::decode(bytes).map(Response::new).map_err(|_| bad_reply(method))
    }

    /// A streaming call. With `patience`, a switch that is silent for long is given up.
    async fn streamed<In: Message, Out: Message + Default + 'static>(
        &self,
        request: Request<In>,
        method: &'static str,
        patience: bool,
    ) -> Result<Response<BoxStream<'static, Result<Out, Status>>>, Status> {
        let host = named_host(&request)?;
        let replies = self.call(&host, method, request.into_inner().encode_to_vec()).await?;
        let stream = stream::unfold(Some(replies), move |replies| async move {
            let mut replies = replies?;
            match replies.next(patience).await? {
                Ok(bytes) => match Out::decode(bytes) {
                    Ok(message) => Some((Ok(message), Some(replies))),
                    Err(_) => Some((Err(bad_reply(method)), None)),
                },
                Err(status) => Some((Err(status), None)),
            }
        });
        // An empty reply is the end of the stream, not a message of it.
        let stream = stream.filter(|item| {
            let empty = item.as_ref().is_ok_and(|message| message.encoded_len() == 0);
            std::future::ready(!empty)
        });
        Ok(Response::new(stream.boxed()))
    }
}

fn named_host<T>(request: &Request<T>) -> Result<String, Status> {
    match request.metadata().get(HOST_KEY).map(|value| value.to_str()) {
        Some(Ok(host)) if !host.is_empty() => Ok(host.to_owned()),
        _ => Err(Fault::invalid(
            "unknown_host",
            HOST_KEY,
            "the call does not say which host's switch it is for",
            "Send the metadata \"weft-host\" with the host's name, or call the switch's own socket.",
        )
        .into_status()),
    }
}

fn bad_reply(method: &str) -> Status {
    Fault::invalid(
        "bad_reply",
        "",
        format!("the switch's reply to {method} makes no sense"),
        "Compare the versions of the switch and the controller.",
    )
    .with_status(tonic::Code::Internal)
    .into_status()
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::switch_server::Switch for SwitchService {
    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Reply<v1::SwitchStatus> {
        self.unary(request, "GetStatus").await
    }

    async fn apply_bundle(&self, request: Request<Streaming<v1::Bundle>>) -> Reply<v1::BundleResult> {
        let host = named_host(&request)?;
        let mut parts = request.into_inner();
        // The encodings of messages, one after another, are the encoding of the messages merged.
        let mut merged = Vec::new();
        while let Some(part) = parts.message().await? {
            if part.term != 0 || part.generation != 0 {
                return Err(Fault::invalid(
                    "not_the_controller",
                    "term",
                    "only the controller's own bundles have a term and a generation",
                    "Leave both at 0.",
                )
                .into_status());
            }
            merged.extend(part.encode_to_vec());
            if merged.len() > limits::RELAY_REQUEST_BYTES {
                // The relay says so.
                break;
            }
        }
        self.one_reply(&host, "ApplyBundle", merged).await
    }

    type DumpRulesStream = BoxStream<'static, Result<v1::DumpRulesReply, Status>>;

    async fn dump_rules(&self, request: Request<v1::DumpRulesRequest>) -> Reply<Self::DumpRulesStream> {
        self.streamed(request, "DumpRules", true).await
    }

    async fn remove_rules(&self, request: Request<v1::DumpRulesRequest>) -> Reply<v1::BundleResult> {
        self.unary(request, "RemoveRules").await
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Reply<v1::TraceReply> {
        self.unary(request, "Trace").await
    }

    async fn list_tables(&self, request: Request<v1::ListTablesRequest>) -> Reply<v1::ListTablesReply> {
        self.unary(request, "ListTables").await
    }

    type DumpAddressSetsStream = BoxStream<'static, Result<v1::AddressSetState, Status>>;

    async fn dump_address_sets(
        &self,
        request: Request<v1::DumpAddressSetsRequest>,
    ) -> Reply<Self::DumpAddressSetsStream> {
        self.streamed(request, "DumpAddressSets", true).await
    }

    type DumpGroupsStream = BoxStream<'static, Result<v1::GroupState, Status>>;

    async fn dump_groups(&self, request: Request<v1::DumpGroupsRequest>) -> Reply<Self::DumpGroupsStream> {
        self.streamed(request, "DumpGroups", true).await
    }

    async fn list_ports(&self, request: Request<v1::ListPortsRequest>) -> Reply<v1::ListPortsReply> {
        self.unary(request, "ListPorts").await
    }

    async fn list_drops(&self, request: Request<v1::ListDropsRequest>) -> Reply<v1::ListDropsReply> {
        self.unary(request, "ListDrops").await
    }

    async fn list_neighbours(&self, request: Request<v1::ListNeighboursRequest>) -> Reply<v1::ListNeighboursReply> {
        self.unary(request, "ListNeighbours").await
    }

    async fn dump_cache(&self, request: Request<v1::DumpCacheRequest>) -> Reply<v1::DumpCacheReply> {
        self.unary(request, "DumpCache").await
    }

    type ListConnectionsStream = BoxStream<'static, Result<v1::ListConnectionsReply, Status>>;

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Reply<Self::ListConnectionsStream> {
        self.streamed(request, "ListConnections", true).await
    }

    async fn flush_connections(
        &self,
        request: Request<v1::FlushConnectionsRequest>,
    ) -> Reply<v1::FlushConnectionsReply> {
        self.unary(request, "FlushConnections").await
    }

    type WatchPuntsStream = BoxStream<'static, Result<v1::PacketIn, Status>>;

    async fn watch_punts(&self, request: Request<v1::WatchPuntsRequest>) -> Reply<Self::WatchPuntsStream> {
        self.streamed(request, "WatchPunts", false).await
    }

    async fn send_packets(&self, request: Request<v1::SendPacketsRequest>) -> Reply<v1::SendPacketsReply> {
        self.unary(request, "SendPackets").await
    }

    type WatchRemovalsStream = BoxStream<'static, Result<v1::FlowRemoved, Status>>;

    async fn watch_removals(&self, request: Request<v1::WatchRemovalsRequest>) -> Reply<Self::WatchRemovalsStream> {
        self.streamed(request, "WatchRemovals", false).await
    }

    async fn list_meters(&self, request: Request<v1::ListMetersRequest>) -> Reply<v1::ListMetersReply> {
        self.unary(request, "ListMeters").await
    }

    type CaptureFramesStream = BoxStream<'static, Result<v1::CaptureFramesReply, Status>>;

    async fn capture_frames(&self, request: Request<v1::CaptureFramesRequest>) -> Reply<Self::CaptureFramesStream> {
        self.streamed(request, "CaptureFrames", false).await
    }
}
