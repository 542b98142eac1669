//! Finds who to talk to: the controller, by TCP with its token or by its Unix socket, and a host's
//! switch, through the controller or directly by its own socket.

use crate::failure::{Failure, system};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use weft_proto::fault::Fault;
use weft_proto::v1::cloud_client::CloudClient;
use weft_proto::v1::switch_client::SwitchClient;

/// A dump of a full switch's status must fit; streams stay far below.
const LARGEST_MESSAGE: usize = 64 << 20;

/// The switch that runs on this machine, unless another is named.
pub const LOCAL: &str = "unix:/run/weft/switch.sock";

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a silent peer is asked whether it is there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where the controller is.
#[derive(Clone, Debug, clap::Args)]
pub struct Connection {
    /// The controller: http://HOST:PORT, or unix:PATH for its socket on this machine.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "WEFT_CONTROLLER",
        default_value = "http://127.0.0.1:9460",
        hide_env_values = true,
        help_heading = "Everywhere"
    )]
    pub controller: String,

    /// The file with the controller's token, for http.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WEFT_TOKEN_FILE",
        default_value = "/run/weft/admin.token",
        hide_env_values = true,
        help_heading = "Everywhere"
    )]
    pub token_file: PathBuf,
}

/// Adds to every call who asks and which host is meant.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    authorization: Option<MetadataValue<Ascii>>,
    host: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(value) = &self.host {
            request.metadata_mut().insert("weft-host", value.clone());
        }
        Ok(request)
    }
}

/// What every call goes through.
pub type Transport = InterceptedService<Channel, Metadata>;

impl Connection {
    /// The controller's API.
    pub async fn cloud(&self) -> Result<CloudClient<Transport>, Failure> {
        let (channel, metadata) = self.controller().await?;
        Ok(CloudClient::with_interceptor(channel, metadata).max_decoding_message_size(LARGEST_MESSAGE))
    }

    /// The API of a host's switch: by `unix:PATH`, or by name through the controller.
    pub async fn switch(&self, host: &str) -> Result<SwitchClient<Transport>, Failure> {
        let (channel, metadata) = match host.strip_prefix("unix:") {
            Some(path) => {
                let channel = unix(Path::new(path)).await.map_err(|error| {
                    system(
                        "switch_unreachable",
                        format!("cannot reach a switch at unix:{path}: {error}"),
                        "Start weft-switch with this socket, or check the path and that you may open it.",
                    )
                })?;
                (channel, Metadata::default())
            }
            None => {
                let name = MetadataValue::try_from(host).ok().filter(|_| !host.is_empty()).ok_or_else(|| {
                    Fault::invalid(
                        "bad_host",
                        "HOST",
                        format!("{host:?} is not a host's name"),
                        "Name a host of \"weft host list\", or a switch's socket as unix:PATH.",
                    )
                })?;
                let (channel, metadata) = self.controller().await?;
                (channel, Metadata { host: Some(name), ..metadata })
            }
        };
        Ok(SwitchClient::with_interceptor(channel, metadata).max_decoding_message_size(LARGEST_MESSAGE))
    }

    async fn controller(&self) -> Result<(Channel, Metadata), Failure> {
        let controller = &self.controller;
        let unreachable = |error: String| {
            system(
                "controller_unreachable",
                format!("cannot reach the controller at {controller}: {error}"),
                "Start it with \"make run\" or \"weft up\", or name another one with --controller.",
            )
        };
        if let Some(path) = controller.strip_prefix("unix:") {
            let channel = unix(Path::new(path)).await.map_err(unreachable)?;
            return Ok((channel, Metadata::default()));
        }
        let endpoint = controller.starts_with("http://").then(|| Endpoint::from_shared(controller.clone()));
        let Some(Ok(endpoint)) = endpoint else {
            return Err(Fault::invalid(
                "bad_controller",
                "--controller",
                format!("\"{controller}\" is not a controller's address"),
                "Write http://HOST:PORT or unix:PATH.",
            )
            .into());
        };
        // Connect before reading the token: without a controller there is no token either, and the
        // first is what the user must hear of.
        let channel = with_timeout(kept_alive(endpoint).connect()).await.map_err(unreachable)?;
        Ok((channel, Metadata { authorization: Some(self.token()?), host: None }))
    }

    fn token(&self) -> Result<MetadataValue<Ascii>, Fault> {
        let file = self.token_file.display();
        let token = std::fs::read_to_string(&self.token_file).map_err(|error| {
            system(
                "token_unreadable",
                format!("cannot read the controller's token from {file}: {error}"),
                "Run as the user who owns the file, or name another one with --token-file.",
            )
        })?;
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
            system(
                "token_malformed",
                format!("{file} does not hold a token"),
                "Name the file that the controller wrote, admin.token, with --token-file.",
            )
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Connects to a Unix socket; the error is the system's words.
async fn unix(path: &Path) -> Result<Channel, String> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The URI names no one: the connector knows the way.
    with_timeout(kept_alive(Endpoint::from_static("http://switch.invalid")).connect_with_connector(connector)).await
}

/// A peer that vanishes during a call is noticed, however long the call may rightly take.
fn kept_alive(endpoint: Endpoint) -> Endpoint {
    endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE)
}

async fn with_timeout(
    connecting: impl Future<Output = Result<Channel, tonic::transport::Error>>,
) -> Result<Channel, String> {
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(deepest(&error)),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// The cause of all the causes, which is the one that says something ("Connection refused").
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
