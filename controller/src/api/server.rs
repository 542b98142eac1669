//! The sockets: a Unix socket that only its owner can open, TCP on the loopback where the token is asked for, and the
//! bus for other machines, by TLS, where a host's certificate is.

use super::cloud::CloudService;
use super::door::{Door, DoorLayer};
use super::membership::MembershipService;
use super::switch::SwitchService;
use super::tls;
use crate::bus::BusService;
use crate::controller::Controller;
use crate::limits;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::rustls::ServerConfig;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};
use weft_proto::program::request::RequestLayer;
use weft_proto::v1;

/// A bound Unix socket; its file goes when it is dropped.
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Socket {
    /// Binds it, mode 0600. A file that a dead program left is replaced; a living one's is not.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            let problem = format!("another program listens on {}: stop it first", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
        }
        // Under its final name only when its rights are right.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        remove_stale(&fresh)?;
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)?;
        Ok(Self { listener: Some(listener), path: path.to_owned() })
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone, with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The bus for other machines.
pub struct BusListener {
    /// Bound.
    pub listener: TcpListener,
    /// [`crate::identity::Authority::server_config`].
    pub tls: Arc<ServerConfig>,
}

type Layers = Stack<DoorLayer, Stack<RequestLayer, Identity>>;

fn router(controller: &Arc<Controller>, door: Door) -> anyhow::Result<Router<Layers>> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let healthy = async move {
        health.set_serving::<v1::cloud_server::CloudServer<CloudService>>().await;
        health.set_serving::<v1::switch_server::SwitchServer<SwitchService>>().await;
        health.set_serving::<v1::bus_server::BusServer<BusService>>().await;
    };
    tokio::spawn(healthy);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(weft_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let most = limits::MESSAGE_BYTES;
    Ok(builder(door)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            v1::cloud_server::CloudServer::new(CloudService::new(Arc::clone(controller)))
                .max_decoding_message_size(most),
        )
        .add_service(
            v1::switch_server::SwitchServer::new(SwitchService::new(Arc::clone(controller)))
                .max_decoding_message_size(most),
        )
        .add_service(
            v1::bus_server::BusServer::new(BusService::new(Arc::clone(controller))).max_decoding_message_size(most),
        ))
}

/// What hosts on other machines may reach: the bus, and joining; nothing else.
fn bus_router(controller: &Arc<Controller>) -> Router<Layers> {
    let bus = v1::bus_server::BusServer::new(BusService::new(Arc::clone(controller)));
    let membership = v1::membership_server::MembershipServer::new(MembershipService::new(Arc::clone(controller)));
    builder(Door::Certificate(Arc::clone(&controller.identities)))
        .max_concurrent_streams(Some(limits::BUS_STREAMS))
        .add_service(bus.max_decoding_message_size(limits::MESSAGE_BYTES))
        .add_service(membership.max_decoding_message_size(limits::MEMBERSHIP_BYTES))
}

fn builder(door: Door) -> tonic::transport::Server<Layers> {
    let keepalive = Duration::from_secs(limits::KEEPALIVE_SECONDS);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive))
        .layer(RequestLayer)
        .layer(DoorLayer(door))
}

/// Serves until `shutdown` ends; then sessions and calls are cut, for hosts keep their traffic without us.
pub async fn serve(
    controller: Arc<Controller>,
    mut socket: Socket,
    tcp: Option<(TcpListener, Arc<str>)>,
    bus: Option<BusListener>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let unix = socket.listener.take().ok_or_else(|| anyhow::anyhow!("the socket is served already"))?;
    let by_socket = router(&controller, Door::Socket)?.serve_with_incoming(UnixListenerStream::new(unix));
    let by_tcp = async {
        match tcp {
            Some((listener, token)) => {
                let incoming = TcpListenerStream::new(listener);
                Ok(router(&controller, Door::Token(token))?.serve_with_incoming(incoming).await?)
            }
            None => std::future::pending::<anyhow::Result<()>>().await,
        }
    };
    let by_tls = async {
        match bus {
            Some(BusListener { listener, tls }) => {
                Ok(bus_router(&controller).serve_with_incoming(tls::incoming(listener, tls)).await?)
            }
            None => std::future::pending::<anyhow::Result<()>>().await,
        }
    };
    tokio::select! {
        ended = by_tls => ended,
        ended = by_socket => Ok(ended?),
        ended = by_tcp => ended,
        () = shutdown => Ok(()),
    }
}
