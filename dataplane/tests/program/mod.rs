//! The program `weft-switch` in a network namespace, spoken to by its API.

#![allow(dead_code, reason = "every test binary uses its own part")]

use crate::namespace::{self, Namespace, eventually};
use hyper_util::rt::TokioIo;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_proto::v1;
use weft_proto::v1::switch_client::SwitchClient;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-switch");

/// A running switch; killed if the test fails before it is stopped.
pub struct Program {
    child: Child,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Program {
    pub fn start(namespace: &Namespace, socket: &Path, arguments: &[&str]) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace.name, PROGRAM, "--socket"])
            .arg(socket)
            .args(["--memory-chunks=4096", "--memory-runs=128", "--log=debug"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let program = Self { child, socket: socket.to_owned(), runtime };
        eventually("the switch opens its socket", || std::os::unix::net::UnixStream::connect(&program.socket).is_ok());
        program
    }

    pub fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(SwitchClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> T {
        self.runtime.block_on(async {
            let path = self.socket.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let channel = Endpoint::from_static("http://switch").connect_with_connector(connector).await.unwrap();
            ask(SwitchClient::new(channel)).await.unwrap().into_inner()
        })
    }

    pub fn apply(&self, bundle: v1::Bundle) -> v1::BundleResult {
        self.ask(async move |mut client| client.apply_bundle(tokio_stream::iter(vec![bundle])).await)
    }

    pub fn port(&self, number: u32) -> v1::PortStatus {
        let ports = self.ask(async |mut client| client.list_ports(v1::ListPortsRequest {}).await).ports;
        ports.into_iter().find(|port| port.spec.as_ref().unwrap().number == number).expect("the port is listed")
    }

    /// Kills it: it cannot tidy up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// Tells it to end, and gives its exit code.
    pub fn stop(mut self, signal: &str) -> Option<i32> {
        namespace::run(&["kill", "-s", signal, &self.child.id().to_string()]);
        let status = self.child.wait().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!self.socket.exists(), "the socket is removed\n{log}");
        status.code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
