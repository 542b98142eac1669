//! The demo cloud's calls to the controller and the switches, over their Unix sockets: gRPC like everybody
//! else's, awaited in place.

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use weft_proto::fault::Fault;
use weft_proto::v1;
use weft_proto::v1::cloud_client::CloudClient;
use weft_proto::v1::switch_client::SwitchClient;

/// No call of the demo cloud takes longer, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way to one Unix socket. Connects when it is first used, and again whenever it must.
pub struct Api {
    runtime: Runtime,
    channel: Channel,
    place: String,
}

impl Api {
    /// The way to the socket at `path`; nothing is sent yet.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn new(path: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let guard = runtime.enter();
        // The address serves only as the request's authority.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        drop(guard);
        Ok(Self { runtime, channel, place: path.display().to_string() })
    }

    /// Calls the controller.
    ///
    /// # Errors
    /// The fault that the call ended with, as its sentence.
    pub fn cloud<R, F>(&self, call: impl FnOnce(CloudClient<Channel>) -> F) -> Result<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.wait(call(CloudClient::new(self.channel.clone())))
    }

    /// Calls a switch: the one behind the socket.
    ///
    /// # Errors
    /// As [`Api::cloud`].
    pub fn switch<R, F>(&self, call: impl FnOnce(SwitchClient<Channel>) -> F) -> Result<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.wait(call(SwitchClient::new(self.channel.clone())))
    }

    fn wait<R>(&self, call: impl Future<Output = Result<Response<R>, Status>>) -> Result<R> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await });
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(anyhow!(Fault::from_status(&status))).context(self.place.clone()),
            Err(_) => Err(anyhow!("{}: no answer within {} s", self.place, PATIENCE.as_secs())),
        }
    }

    /// Applies one bundle to the switch behind the socket.
    ///
    /// # Errors
    /// As [`Api::cloud`].
    pub fn apply(&self, bundle: v1::Bundle) -> Result<v1::BundleResult> {
        self.switch(|mut switch| async move { switch.apply_bundle(tokio_stream::once(bundle)).await })
    }

    /// Frames that the switch behind the socket has dropped under a reason.
    ///
    /// # Errors
    /// As [`Api::cloud`].
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let request = v1::ListDropsRequest { all: true };
        let reply = self.switch(|mut switch| async move { switch.list_drops(request).await })?;
        Ok(reply.drops.iter().find(|count| count.reason == reason).map_or(0, |count| count.packets))
    }
}

/// A request that the controller passes on to the switch of a host.
///
/// # Errors
/// If the name cannot be sent as metadata.
pub fn for_host<M>(host: &str, message: M) -> Result<Request<M>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("weft-host", MetadataValue::try_from(host)?);
    Ok(request)
}
