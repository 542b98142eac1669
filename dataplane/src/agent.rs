//! The agent: keeps the bus to the controller, carries out its bundles and passes its calls on.
//!
//! Forwarding never depends on it: when the controller is gone everything stays as it is, and the agent
//! tries again, at first after 0.1 s, at last every 5 s. What a bundle does is decided in `switch`; here
//! is only the conversation (`bus.proto`):
//!
//! 1. Hello says what the switch holds; Welcome lets it in, or a fault says why not.
//! 2. Bundles and comparisons are worked off one after the other, each answered.
//! 3. Calls run side by side, bounded, and can be cancelled.
//! 4. Each change of ports is reported. If an address of the underlay changes, or its link, the agent says Hello anew.
//!
//! A controller on this machine is reached by its Unix socket; one on another by TLS, where each end shows a
//! certificate of the controller's authority (`agent/tls.rs`). This host's lies in a file ([`identity`]) that joining makes
//! ([`join`]); it is read anew for each connection.

mod calls;
pub mod identity;
pub mod join;
mod session;
#[cfg(test)]
mod tests;
mod tls;

use crate::switch::Switch;
use hyper_util::rt::TokioIo;
use identity::Identity;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Uri};
use weft_proto::fault::Fault;
use weft_proto::join::valid_address;

/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:PATH`
    Unix(PathBuf),
    /// `https://HOST:PORT`
    Tls {
        /// "HOST:PORT".
        address: String,
        /// Where this host's certificate is.
        certificate_directory: PathBuf,
    },
}

impl Endpoint {
    /// Reads an address; what is by TLS needs the directory of this host's certificate.
    ///
    /// # Errors
    /// What is wrong, and in a second sentence what to do.
    pub fn parse(text: &str, certificate_directory: &Path) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("no path after unix:. Write unix:/run/weft/controller.sock.".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(rest) = text.strip_prefix("http://") {
            return Err(format!(
                "\"{text}\" is neither encrypted nor verified, so no bus is there. Write https://{}, with the port of the \
                 controller's bus_listen, or unix:PATH of the controller's socket on this machine.",
                rest.trim_end_matches('/')
            ));
        }
        let address = text.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match address.filter(|address| valid_address(address)) {
            Some(address) => {
                Ok(Self::Tls { address: address.to_owned(), certificate_directory: certificate_directory.to_owned() })
            }
            None => Err(format!("\"{text}\" is no controller's address. Write unix:PATH or https://HOST:PORT.")),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tls { address, .. } => write!(formatter, "https://{address}"),
        }
    }
}

impl Endpoint {
    async fn connect(&self) -> Result<Channel, End> {
        let lost = |reason| End::Lost { reason, welcomed: false };
        match self {
            Self::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                // The name is not looked up: the connector goes to the socket.
                let connected = transport("http://controller").connect_with_connector(connector).await;
                connected.map_err(|error| lost(deepest(&error)))
            }
            Self::Tls { address, certificate_directory } => {
                let config = Identity::read(certificate_directory).and_then(|identity| tls::of_host(&identity));
                tls::connect(address, config.map_err(End::Unready)?).await.map_err(lost)
            }
        }
    }
}

/// A connection's settings; where it leads is its connector's matter.
fn transport(name: &'static str) -> tonic::transport::Endpoint {
    tonic::transport::Endpoint::from_static(name)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
}

/// What an error comes down to: "connection refused" rather than "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    tls::explained(error.to_string())
}

/// How a session ended.
enum End {
    /// The switch stops.
    Stop,
    /// The underlay's address changed: say Hello anew, at once.
    Renew,
    /// The controller does not want us, for this reason.
    Refused(Fault),
    /// There is nothing to show the controller, for this reason.
    Unready(Fault),
    /// The connection is gone; whether the controller had let us in.
    Lost { reason: String, welcomed: bool },
}

/// Keeps the bus until `stop` says so.
pub async fn run(switch: Arc<Switch>, endpoint: Endpoint, mut stop: watch::Receiver<bool>) {
    let mut pause = PAUSES.0;
    let mut logged = String::new();
    let _renewal = match &endpoint {
        Endpoint::Tls { address, certificate_directory } => {
            Some(Renewal(tokio::spawn(join::keep_fresh(address.clone(), certificate_directory.clone()))))
        }
        Endpoint::Unix(_) => None,
    };
    switch.set_controller_status(format!("connecting: {endpoint}"));
    loop {
        let end = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => End::Stop,
            end = attempt(&switch, &endpoint) => end,
        };
        let status = match end {
            End::Stop => return,
            End::Renew => {
                pause = PAUSES.0;
                continue;
            }
            End::Refused(fault) => {
                let status = format!("refused: {}: {fault}", fault.code);
                if logged != status {
                    tracing::error!(controller = %endpoint, code = fault.code, "the controller refuses this switch: {fault}");
                }
                // A person must act first: no use in asking often.
                pause = PAUSES.1;
                status
            }
            End::Unready(fault) => {
                let status = format!("not connected: {}: {fault}", fault.code);
                if logged != status {
                    tracing::error!(controller = %endpoint, code = fault.code, "no controller: {fault}");
                }
                pause = PAUSES.1;
                status
            }
            End::Lost { reason, welcomed } => {
                if welcomed {
                    pause = PAUSES.0;
                }
                let status = format!("connecting: {endpoint}: {reason}");
                if logged != status {
                    tracing::warn!(controller = %endpoint, reason, "no controller; forwarding goes on");
                }
                status
            }
        };
        switch.set_controller_status(status.clone());
        logged = status;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(jittered(pause)) => {}
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Ends with the agent.
struct Renewal(tokio::task::JoinHandle<()>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn attempt(switch: &Arc<Switch>, endpoint: &Endpoint) -> End {
    match endpoint.connect().await {
        Ok(channel) => session::run(switch, endpoint, channel).await,
        Err(end) => end,
    }
}

/// Between three quarters and five quarters of a pause, so that a restarted controller is not asked by
/// all hosts at once.
fn jittered(pause: Duration) -> Duration {
    let random = std::hash::RandomState::new().build_hasher().finish() % 512;
    pause * 3 / 4 + pause * random as u32 / 1024
}
