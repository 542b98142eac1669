//! The agent: keeps the bus to the controller, carries out its bundles and passes its calls on.
//!
//! Forwarding never depends on it: when the controller is gone everything stays as it is, and the agent
//! tries again, at first after 0.1 s, at last every 5 s. What a bundle does is decided in `switch`; here
//! is only the conversation (`bus.proto`):
//!
//! 1. Hello says what the switch holds; Welcome lets it in, or a fault says why not.
//! 2. Bundles and comparisons are worked off one after the other, each answered.
//! 3. Calls run side by side, bounded, and can be cancelled.
//! 4. Each change of ports is reported. If the underlay's address changes, the agent says Hello anew.

mod calls;
mod session;
#[cfg(test)]
mod tests;

use crate::switch::Switch;
use hyper_util::rt::TokioIo;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Uri};
use weft_proto::fault::Fault;

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
    /// `http://HOST:PORT`
    Http(Uri),
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("no path after unix:. Write unix:/run/weft/controller.sock.".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        uri.map(Self::Http)
            .ok_or_else(|| format!("\"{text}\" is no controller's address. Write unix:PATH or http://HOST:PORT."))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Http(uri) => write!(formatter, "{}", uri.to_string().trim_end_matches('/')),
        }
    }
}

impl Endpoint {
    async fn connect(&self) -> Result<Channel, String> {
        let uri = match self {
            // The name is not looked up: the connector below goes to the socket.
            Self::Unix(_) => Uri::from_static("http://controller"),
            Self::Http(uri) => uri.clone(),
        };
        let endpoint = tonic::transport::Endpoint::from(uri)
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        let connected = match self {
            Self::Http(_) => endpoint.connect().await,
            Self::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| deepest(&error))
    }
}

/// What an error comes down to: "connection refused" rather than "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// How a session ended.
enum End {
    /// The switch stops.
    Stop,
    /// The underlay's address changed: say Hello anew, at once.
    Renew,
    /// The controller does not want us, for this reason.
    Refused(Fault),
    /// The connection is gone; whether the controller had let us in.
    Lost { reason: String, welcomed: bool },
}

/// Keeps the bus until `stop` says so.
pub async fn run(switch: Arc<Switch>, endpoint: Endpoint, mut stop: watch::Receiver<bool>) {
    let mut pause = PAUSES.0;
    let mut logged = String::new();
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

async fn attempt(switch: &Arc<Switch>, endpoint: &Endpoint) -> End {
    match endpoint.connect().await {
        Ok(channel) => session::run(switch, endpoint, channel).await,
        Err(reason) => End::Lost { reason, welcomed: false },
    }
}

/// Between three quarters and five quarters of a pause, so that a restarted controller is not asked by
/// all hosts at once.
fn jittered(pause: Duration) -> Duration {
    let random = std::hash::RandomState::new().build_hasher().finish() % 512;
    pause * 3 / 4 + pause * random as u32 / 1024
}
