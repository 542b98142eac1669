//! The controller as its users and its switches meet it: over its sockets, with a switch that speaks the bus
//! but forwards nothing.

mod attach;
mod cloud;
mod fake_switch;
mod reactive;
mod relay;
mod standing;
mod sync;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use weft_controller::api::server::{BusListener, Socket, serve};
use weft_controller::controller::Controller;
use weft_controller::identity::{Authority, membership::Membership};
use weft_controller::store::{FileStore, StoreError};
use weft_proto::fault::Fault;
use weft_proto::v1;
use weft_proto::v1::cloud_client::CloudClient;

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A controller on a directory of its own. It runs on a runtime of its own, so that stopping it stops everything
/// of it, as a process does.
pub(crate) struct Running {
    directory: Option<tempfile::TempDir>,
    runtime: Option<tokio::runtime::Runtime>,
    pub(crate) port: u16,
    /// The bus for other machines.
    pub(crate) bus: SocketAddr,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::patient(Duration::from_secs(30)).await
    }

    /// With a bound on what a switch may take.
    pub(crate) async fn patient(patience: Duration) -> Self {
        Self::on(tempfile::tempdir().unwrap(), patience).await
    }

    async fn on(directory: tempfile::TempDir, patience: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (socket, file) = (directory.path().join("controller.sock"), directory.path().join("controller.redb"));
        let state = directory.path().to_owned();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            // The one before may not be quite gone.
            let store = loop {
                match FileStore::open(&file) {
                    Err(StoreError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                    opened => break opened.unwrap(),
                }
            };
            let controller = Controller::start(Arc::new(store), patience).unwrap();
            let socket = Socket::bind(&socket).await.unwrap();
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let bus = listener.local_addr().unwrap();
            let authority = Authority::open(&state).unwrap();
            let tls = authority.server_config().unwrap();
            controller.membership.get_or_init(|| Membership { authority, address: Some(bus.to_string()) });
            ready.send((tcp.local_addr().unwrap().port(), bus)).unwrap();
            let bus = Some(BusListener { listener, tls });
            serve(controller, socket, Some((tcp, TOKEN.into())), bus, std::future::pending()).await.unwrap();
        });
        let (port, bus) = tokio::time::timeout(Duration::from_secs(20), is_ready).await.unwrap().unwrap();
        Self { directory: Some(directory), runtime: Some(runtime), port, bus }
    }

    /// Stops it, and starts another on the same store.
    pub(crate) async fn restart(mut self) -> Self {
        self.runtime.take().unwrap().shutdown_background();
        Self::on(self.directory.take().unwrap(), Duration::from_secs(30)).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().join("controller.sock")
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.as_ref().unwrap().path()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("unix://{}", self.socket().display())).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn cloud(&self) -> Cloud {
        Cloud(CloudClient::new(self.channel().await))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Short ways to ask for things.
pub(crate) struct Cloud(pub(crate) CloudClient<Channel>);

impl Cloud {
    pub(crate) async fn host(&mut self, name: &str) -> v1::Host {
        self.0.create_host(v1::CreateHostRequest { name: name.into() }).await.unwrap().into_inner()
    }

    pub(crate) async fn hosts(&mut self) -> Vec<v1::Host> {
        self.0.list_hosts(v1::ListHostsRequest {}).await.unwrap().into_inner().hosts
    }

    /// A network of this name with a subnet.
    pub(crate) async fn network(&mut self, name: &str) -> v1::Network {
        let request = v1::CreateNetworkRequest { name: name.into(), ..Default::default() };
        let network = self.0.create_network(request).await.unwrap().into_inner();
        let request = v1::CreateSubnetRequest {
            name: name.into(),
            network: name.into(),
            cidr: "10.0.0.0/24".into(),
            ..Default::default()
        };
        self.0.create_subnet(request).await.unwrap();
        network
    }

    /// A network of this name, reactive or not, with a subnet of 1,022 addresses.
    pub(crate) async fn wide_network(&mut self, name: &str, reactive: bool) {
        let request = v1::CreateNetworkRequest { name: name.into(), reactive, ..Default::default() };
        self.0.create_network(request).await.unwrap();
        let request = v1::CreateSubnetRequest {
            name: name.into(),
            network: name.into(),
            cidr: "10.0.0.0/22".into(),
            ..Default::default()
        };
        self.0.create_subnet(request).await.unwrap();
    }

    pub(crate) async fn port(&mut self, network: &str, name: &str) -> v1::Port {
        let request = v1::CreatePortRequest { name: name.into(), network: network.into(), ..Default::default() };
        self.0.create_port(request).await.unwrap().into_inner()
    }

    pub(crate) async fn plug(&mut self, port: &str, host: &str, wait_milliseconds: u32) -> v1::Port {
        let request =
            v1::PlugPortRequest { port: port.into(), host: host.into(), wait_milliseconds, ..Default::default() };
        self.0.plug_port(request).await.unwrap().into_inner()
    }

    pub(crate) async fn unplug(&mut self, port: &str, wait_milliseconds: u32) -> v1::Port {
        let request = v1::UnplugPortRequest { port: port.into(), wait_milliseconds, ..Default::default() };
        self.0.unplug_port(request).await.unwrap().into_inner()
    }

    pub(crate) async fn ports(&mut self) -> Vec<v1::Port> {
        self.0.list_ports(v1::ListCloudPortsRequest::default()).await.unwrap().into_inner().ports
    }

    pub(crate) async fn status(&mut self) -> v1::ControllerStatus {
        self.0.get_controller_status(v1::GetControllerStatusRequest {}).await.unwrap().into_inner()
    }

    /// Waits until a host is so.
    pub(crate) async fn until(&mut self, name: &str, what: &str, so: impl Fn(&v1::Host) -> bool) -> v1::Host {
        for _ in 0..1000 {
            let host = self.hosts().await.into_iter().find(|host| host.name == name).unwrap();
            if so(&host) {
                return host;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not come: {:?}", self.hosts().await);
    }
}

pub(crate) fn fault<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Fault {
    Fault::from_status(&result.expect_err("this must be refused"))
}

/// All that a fault says can be acted on.
pub(crate) fn complete(fault: &Fault) {
    assert!(!fault.code.is_empty() && !fault.problem.is_empty() && fault.remedy.ends_with('.'), "{fault:?}");
}
