//! The switch's own API: the service `Switch` on a Unix socket, with reflection and health. Whoever may
//! open the socket (mode 0600) may do everything a person may.
//!
//! Also the one place where methods are called by name, for calls that the controller passes on.

use crate::flow::rule::Owner;
use crate::limits::MESSAGE_BYTES;
use crate::switch::{Parts, Switch};
use prost::Message;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use weft_proto::fault::Fault;
use weft_proto::program::request::RequestLayer;
use weft_proto::program::settings::run_directory;
use weft_proto::v1::{self, switch_server};

/// Requests of one connection that are worked on at a time.
const REQUESTS_PER_CONNECTION: usize = 64;

/// Bytes that a client may send ahead: with HTTP/2's 64 KB it would wait more than it sends.
const WINDOW: u32 = 1 << 20;

/// How long requests under way may take to end when the switch stops.
const GRACE: Duration = Duration::from_secs(2);

/// The service. Clones serve the same switch.
#[derive(Clone)]
pub struct Api {
    switch: Arc<Switch>,
}

/// Replies of a streaming method.
pub type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    /// Of this switch.
    #[must_use]
    pub fn new(switch: Arc<Switch>) -> Self {
        Self { switch }
    }

    /// Runs what blocks where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Switch) -> T + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let switch = self.switch.clone();
        let call = tracing::Span::current();
        match tokio::task::spawn_blocking(move || call.in_scope(|| work(&switch))).await {
            Ok(done) => Ok(Response::new(done)),
            Err(error) => {
                tracing::error!(%error, "a request failed");
                Err(Status::internal("the switch failed at this request; see its log"))
            }
        }
    }

    /// Likewise, for what may be refused.
    async fn attempt<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Switch) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let done = self.blocking(work).await?.into_inner();
        done.map(Response::new).map_err(Fault::into_status)
    }

    /// Calls a method by its name; `reply` takes each reply message, encoded, with whether it is known to
    /// be the last, and says whether more are wanted. Ends when there are no more.
    ///
    /// # Errors
    /// As the method; `UNIMPLEMENTED` for a name that is none, `INVALID_ARGUMENT` for a request that
    /// cannot be read.
    pub async fn call<F, W>(&self, method: &str, request: &[u8], mut reply: F) -> Result<(), Status>
    where
        F: FnMut(Vec<u8>, bool) -> W + Send,
        W: Future<Output = bool> + Send,
    {
        use switch_server::Switch as _;
        macro_rules! once {
            ($method:ident) => {{
                let answer = self.$method(Request::new(decode(request)?)).await?;
                reply(answer.into_inner().encode_to_vec(), true).await;
            }};
        }
        macro_rules! stream {
            ($method:ident) => {{
                let mut answers = self.$method(Request::new(decode(request)?)).await?.into_inner();
                while let Some(answer) = answers.next().await {
                    if !reply(answer?.encode_to_vec(), false).await {
                        break;
                    }
                }
            }};
        }
        match method {
            "GetStatus" => once!(get_status),
            "ApplyBundle" => {
                let bundle: v1::Bundle = decode(request)?;
                let answer = self.attempt(|switch| switch.apply(vec![bundle], Owner::Manual)).await?;
                reply(answer.into_inner().encode_to_vec(), true).await;
            }
            "DumpRules" => stream!(dump_rules),
            "RemoveRules" => once!(remove_rules),
            "Trace" => once!(trace),
            "ListTables" => once!(list_tables),
            "DumpAddressSets" => stream!(dump_address_sets),
            "DumpGroups" => stream!(dump_groups),
            "ListPorts" => once!(list_ports),
            "ListDrops" => once!(list_drops),
            "ListNeighbours" => once!(list_neighbours),
            "DumpCache" => once!(dump_cache),
            "ListConnections" => stream!(list_connections),
            "FlushConnections" => once!(flush_connections),
            "WatchPunts" => stream!(watch_punts),
            "SendPackets" => once!(send_packets),
            "WatchRemovals" => stream!(watch_removals),
            "ListMeters" => once!(list_meters),
            "CaptureFrames" => stream!(capture_frames),
            other => {
                let problem = format!("the switch has no method {other}");
                return Err(Fault::invalid("unknown_method", "method", problem, "Use the same version on both sides.")
                    .with_status(Code::Unimplemented)
                    .into_status());
            }
        }
        Ok(())
    }
}

fn decode<M: Message + Default>(request: &[u8]) -> Result<M, Status> {
    M::decode(request).map_err(|error| {
        Fault::invalid("unreadable", "request", error.to_string(), "Use the same version on both sides.").into_status()
    })
}

#[tonic::async_trait]
impl switch_server::Switch for Api {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::SwitchStatus>, Status> {
        self.blocking(Switch::status).await
    }

    async fn apply_bundle(
        &self,
        request: Request<Streaming<v1::Bundle>>,
    ) -> Result<Response<v1::BundleResult>, Status> {
        let mut messages = request.into_inner();
        let mut parts = Parts::new(Owner::Manual);
        while let Some(part) = messages.message().await? {
            if let Some(whole) = parts.push(part)? {
                return self.attempt(|switch| switch.apply_whole(whole)).await;
            }
        }
        let (problem, remedy) = if parts.is_empty() {
            ("no bundle was sent", "Send at least one message.")
        } else {
            ("the bundle's last message is missing", "End it with a message in which `more` is not set.")
        };
        Err(Fault::invalid("incomplete_bundle", "more", problem, remedy).into_status())
    }

    type DumpRulesStream = Replies<v1::DumpRulesReply>;

    async fn dump_rules(
        &self,
        request: Request<v1::DumpRulesRequest>,
    ) -> Result<Response<Self::DumpRulesStream>, Status> {
        let request = request.into_inner();
        let replies = self.attempt(move |switch| switch.dump(&request)).await?.into_inner();
        Ok(Response::new(Box::pin(tokio_stream::iter(replies.into_iter().map(Ok)))))
    }

    async fn remove_rules(&self, request: Request<v1::DumpRulesRequest>) -> Result<Response<v1::BundleResult>, Status> {
        let request = request.into_inner();
        self.attempt(move |switch| switch.remove_rules(&request)).await
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceReply>, Status> {
        let request = request.into_inner();
        self.attempt(move |switch| switch.trace(&request)).await
    }

    async fn list_tables(&self, _: Request<v1::ListTablesRequest>) -> Result<Response<v1::ListTablesReply>, Status> {
        self.blocking(Switch::tables).await
    }

    type DumpAddressSetsStream = Replies<v1::AddressSetState>;

    async fn dump_address_sets(
        &self,
        request: Request<v1::DumpAddressSetsRequest>,
    ) -> Result<Response<Self::DumpAddressSetsStream>, Status> {
        let sets = self.blocking(move |switch| switch.address_sets(request.get_ref())).await?.into_inner();
        Ok(Response::new(Box::pin(tokio_stream::iter(sets.into_iter().map(Ok)))))
    }

    type DumpGroupsStream = Replies<v1::GroupState>;

    async fn dump_groups(
        &self,
        request: Request<v1::DumpGroupsRequest>,
    ) -> Result<Response<Self::DumpGroupsStream>, Status> {
        let groups = self.blocking(move |switch| switch.groups(request.get_ref())).await?.into_inner();
        Ok(Response::new(Box::pin(tokio_stream::iter(groups.into_iter().map(Ok)))))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Result<Response<v1::ListPortsReply>, Status> {
        self.blocking(Switch::ports).await
    }

    async fn list_drops(&self, request: Request<v1::ListDropsRequest>) -> Result<Response<v1::ListDropsReply>, Status> {
        self.blocking(move |switch| switch.drops(request.get_ref())).await
    }

    async fn list_neighbours(
        &self,
        _: Request<v1::ListNeighboursRequest>,
    ) -> Result<Response<v1::ListNeighboursReply>, Status> {
        self.blocking(Switch::neighbours).await
    }

    async fn dump_cache(&self, request: Request<v1::DumpCacheRequest>) -> Result<Response<v1::DumpCacheReply>, Status> {
        self.blocking(move |switch| switch.cache(request.get_ref())).await
    }

    type ListConnectionsStream = Replies<v1::ListConnectionsReply>;

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<Self::ListConnectionsStream>, Status> {
        let request = request.into_inner();
        let replies = self.attempt(move |switch| switch.connections(&request)).await?.into_inner();
        Ok(Response::new(Box::pin(tokio_stream::iter(replies.into_iter().map(Ok)))))
    }

    async fn flush_connections(
        &self,
        request: Request<v1::FlushConnectionsRequest>,
    ) -> Result<Response<v1::FlushConnectionsReply>, Status> {
        let request = request.into_inner();
        self.attempt(move |switch| switch.flush_connections(&request)).await
    }

    type WatchPuntsStream = Replies<v1::PacketIn>;

    async fn watch_punts(&self, _: Request<v1::WatchPuntsRequest>) -> Result<Response<Self::WatchPuntsStream>, Status> {
        let packets = self.switch.punts().listen()?;
        Ok(Response::new(Box::pin(ReceiverStream::new(packets).map(Ok))))
    }

    async fn send_packets(
        &self,
        request: Request<v1::SendPacketsRequest>,
    ) -> Result<Response<v1::SendPacketsReply>, Status> {
        let request = request.into_inner();
        self.attempt(move |switch| switch.send_packets(request)).await
    }

    async fn list_meters(&self, _: Request<v1::ListMetersRequest>) -> Result<Response<v1::ListMetersReply>, Status> {
        self.blocking(Switch::meters).await
    }

    type WatchRemovalsStream = Replies<v1::FlowRemoved>;

    async fn watch_removals(
        &self,
        _: Request<v1::WatchRemovalsRequest>,
    ) -> Result<Response<Self::WatchRemovalsStream>, Status> {
        let mut removals = self.switch.removals().listen()?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut missed = 0;
            loop {
                let next = tokio::select! {
                    next = removals.recv() => next,
                    () = sender.closed() => return,
                };
                match next {
                    Ok(removed) => {
                        let removed = v1::FlowRemoved { missed: std::mem::take(&mut missed), ..removed };
                        if sender.send(Ok(removed)).await.is_err() {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(messages)) => missed += messages,
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type CaptureFramesStream = Replies<v1::CaptureFramesReply>;

    async fn capture_frames(
        &self,
        request: Request<v1::CaptureFramesRequest>,
    ) -> Result<Response<Self::CaptureFramesStream>, Status> {
        let switch = self.switch.clone();
        let frames = self.attempt(move |_| switch.capture(request.get_ref())).await?.into_inner();
        Ok(Response::new(Box::pin(ReceiverStream::new(frames).map(Ok))))
    }
}

/// The API's socket, removed when it is dropped (unless another program has put its own there).
pub struct Socket {
    path: PathBuf,
    inode: u64,
    listener: Option<UnixListener>,
}

/// Why the API's socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another switch runs.
    #[error("another program answers on {}. Stop it, or give this switch another --socket.", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket. Remove it, or give another --socket.", .0.display())]
    NotASocket(PathBuf),
    /// The file system says no.
    #[error("{}: {cause}. Give a path (--socket) in a directory that the switch may write.", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why. Not its `source`: the sentence says it already.
        cause: std::io::Error,
    },
}

impl Socket {
    /// Binds the socket, mode 0600. A socket file on which nobody answers is replaced. Its directory must be
    /// there, unless it is the usual one.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        use std::os::unix::fs::FileTypeExt;
        let fail = |cause| SocketError::System { path: path.to_owned(), cause };
        run_directory(path).map_err(fail)?;
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(fail)?;
                }
                Err(error) => return Err(fail(error)),
                Ok(_) => return Err(SocketError::Taken(path.to_owned())),
            },
        }
        // Narrow from the start: there is no moment in which others could connect.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.map_err(fail)?;
        let inode = std::fs::symlink_metadata(path).map_err(fail)?.ino();
        Ok(Self { path: path.to_owned(), inode, listener: Some(listener) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // If it cannot be removed, the next start replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Serves until `stop` says so.
///
/// # Errors
/// The server's own.
///
/// # Panics
/// If the socket is served twice.
pub async fn serve(switch: Arc<Switch>, socket: &mut Socket, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let listener = socket.listener.take().expect("a socket is served once");
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<switch_server::SwitchServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(weft_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let api = switch_server::SwitchServer::new(Api::new(switch))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let mut told = stop.clone();
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .layer(RequestLayer)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(api)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            // An error means that nobody is left who could say so: stop as well.
            let _ = told.wait_for(|stop| *stop).await;
        });
    tokio::select! {
        ended = server => Ok(ended?),
        () = async {
            let _ = stop.wait_for(|stop| *stop).await;
            // Streams that somebody watches do not end by themselves.
            tokio::time::sleep(GRACE).await;
        } => Ok(()),
    }
}

#[cfg(test)]
mod tests;
