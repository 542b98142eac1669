//! `weft-controller`: reads its settings, opens the store, serves until it is told to stop.
//!
//! Exit codes: 0 stopped as told (or the settings are right, with `--check-config`), 1 it could not start
//! or failed, 2 the settings are wrong.

use anyhow::Context as _;
use clap::Parser as _;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use weft_controller::api::server::{BusListener, Socket, serve};
use weft_controller::config::{Config, Flags};
use weft_controller::controller::Controller;
use weft_controller::identity::{Authority, membership::Membership};
use weft_controller::metrics::page;
use weft_controller::store::FileStore;
use weft_controller::{limits, private_file};
use weft_proto::program::log::{self, Log};
use weft_proto::program::metrics;
use weft_proto::program::settings::run_directory;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::load(flags.clone()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("weft-controller: {error}");
            return ExitCode::from(2);
        }
    };
    if flags.check_config {
        println!("the settings are right");
        return ExitCode::SUCCESS;
    }
    let log = log::start(&config.log);
    match serve_until_told(&config, flags, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_until_told(config: &Config, flags: Flags, log: Log) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let known = config.clone();
    runtime.spawn(log.follow(known, move || Config::load(flags.clone()), |config| &mut config.log));
    let done = runtime.block_on(run(config));
    // Transactions under way may end; nothing else is worth waiting for.
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

async fn run(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    private_directory(&config.state_directory)?;
    let token = token(&config.state_directory.join("admin.token"))?;
    // The store first: it is what two controllers cannot both have.
    let file = config.state_directory.join("controller.redb");
    let store = FileStore::open(&file)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let bound = match run_directory(&config.socket) {
        Ok(()) => Socket::bind(&config.socket).await,
        Err(error) => Err(error),
    };
    let socket = bound.with_context(|| format!("cannot listen on the socket {}", config.socket.display()))?;
    let tcp = match config.listen {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}: choose another with --listen, or none"))?;
            Some((listener, Arc::clone(&token)))
        }
    };
    let bus = match config.bus_listen {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address} for hosts: choose another with --bus-listen, or none")
            })?;
            Some((listener, Authority::open(&config.state_directory)?))
        }
    };
    let controller = Controller::start(Arc::new(store), Duration::from_secs(limits::ACKNOWLEDGE_SECONDS))?;
    let bus = match bus {
        None => None,
        Some((listener, authority)) => {
            let tls = authority.server_config()?;
            controller.membership.get_or_init(|| Membership { authority, address: config.bus_address.clone() });
            Some(BusListener { listener, tls })
        }
    };
    if let Some(address) = config.metrics_listen {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics: choose another with --metrics-listen, or none")
        })?;
        let counted = Arc::clone(&controller);
        tokio::spawn(metrics::serve(listener, move || page(&counted)));
    }
    // Last: whoever finds the token finds us listening.
    if let Some(copy) = &config.token_file {
        private_file::write(copy, &token).with_context(|| format!("cannot copy the token to {}", copy.display()))?;
    }
    tracing::info!(
        version = weft_proto::VERSION,
        term = controller.term,
        socket = %config.socket.display(),
        metrics_listen = %config.metrics_listen.map_or_else(|| "none".to_owned(), |address| address.to_string()),
        bus_listen = %config.bus_listen.map_or_else(|| "none".to_owned(), |address| address.to_string()),
        listen = %config.listen.map_or_else(|| "none".to_owned(), |address| address.to_string()),
        "serving"
    );
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    serve(controller, socket, tcp, bus, stop).await
}

/// Makes a directory that only its owner can enter. One that exists keeps its rights: it may be shared.
fn private_directory(path: &Path) -> anyhow::Result<()> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    match made.and_then(|()| std::fs::DirBuilder::new().mode(0o700).create(path)) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot make the state directory {}", path.display()));
        }
    }
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("the state directory {} is open to others: close it with chmod 700", path.display());
    }
    Ok(())
}

/// The administrator's token; made at the first start.
fn token(path: &Path) -> anyhow::Result<Arc<str>> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= 32 => Ok(text.trim().into()),
        Ok(_) => anyhow::bail!("{} holds no token: remove it to have one made", path.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let bytes: [u8; 32] = rand::random();
            let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            private_file::write(path, &token).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(token.into())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
