//! `weft-switch`: reads its settings, starts the switch, and stops it in good order.
//!
//! Exit codes: 0 stopped as told (or the settings are right, with `--check-config`), 1 it could not start
//! or failed, 2 the settings are wrong.

use anyhow::Context as _;
use clap::Parser as _;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use weft_dataplane::config::{Command, Flags, Settings, UnderlaySettings};
use weft_dataplane::metrics::page;
use weft_dataplane::packet::memory::Memory;
use weft_dataplane::switch::{KernelPorts, Switch, SwitchSettings, UnderlayState, follow_links, follow_underlay};
use weft_dataplane::underlay::Underlay;
use weft_dataplane::worker::WorkerSettings;
use weft_dataplane::{agent, api, clock};
use weft_proto::join::JoinToken;
use weft_proto::program::log::{self, Log};
use weft_proto::program::metrics;
use weft_proto::v1;

/// How often rules are looked at whose time may have come, and meters are shared out.
const EXPIRY_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

fn main() -> ExitCode {
    let flags = Flags::parse();
    let settings = match Settings::load(flags.clone()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("weft-switch: {error}");
            return ExitCode::from(2);
        }
    };
    if flags.check_config {
        println!("the settings are right");
        return ExitCode::SUCCESS;
    }
    if let Some(Command::Join { token }) = &flags.command {
        return match join(&settings, token) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("weft-switch: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let log = log::start(&settings.log);
    match run(settings, flags, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Joins, and says what comes next; an error is a sentence.
fn join(settings: &Settings, token: &str) -> Result<String, String> {
    let text = match token {
        "-" => std::io::read_to_string(std::io::stdin()).map_err(|error| format!("standard input: {error}."))?,
        token => token.to_owned(),
    };
    let token: JoinToken = text.parse()?;
    if !settings.host.is_empty() && settings.host != token.host {
        return Err(format!(
            "the token is for host {:?}, the settings say host {:?}. Correct the settings, or make a token for that host.",
            token.host, settings.host
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}."))?;
    let joined = runtime.block_on(agent::join::join(&token, &settings.certificate_directory));
    let file = joined.map_err(|fault| fault.to_string())?;
    Ok(format!(
        "This machine has joined as host {}; its key and certificate are in {}.\nweft-switch connects with these \
         settings:\n\n    host = {:?}\n    controller = \"https://{}\"",
        token.host,
        file.display(),
        token.host,
        token.address
    ))
}

fn run(settings: Settings, flags: Flags, log: Log) -> anyhow::Result<()> {
    // Control only: workers are threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let known = settings.clone();
    runtime.spawn(log.follow(known, move || Settings::load(flags.clone()), |settings| &mut settings.log));
    let ended = runtime.block_on(serve(settings));
    // Requests that block may be waiting for workers that are gone.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // First: a second switch must not get as far as touching interfaces.
    let mut socket = api::Socket::bind(&settings.socket)?;
    let metrics = match settings.metrics_listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics: choose another with --metrics-listen, or none")
        })?),
    };
    let (chunks, runs) = settings.memory;
    let memory = Memory::map(chunks, runs)
        .with_context(|| format!("packet memory of {chunks} chunks and {runs} runs cannot be mapped: use fewer"))?;
    let workers = (0..settings.workers)
        .map(|index| WorkerSettings { core: settings.cores.get(index).copied(), spin: settings.spin })
        .collect();
    let links = Arc::new(tokio::sync::Notify::new());
    let opener = KernelPorts {
        vhost_user_directory: settings.vhost_user.directory,
        vhost_user_group: settings.vhost_user.group,
        link_changed: {
            let links = links.clone();
            Arc::new(move || links.notify_one())
        },
    };
    let switch = Switch::start(SwitchSettings {
        host: settings.host.clone(),
        managed: settings.controller.is_some(),
        memory,
        workers,
        opener: Box::new(opener),
        physical: settings.physical,
    })
    .context("the workers cannot be started")?;

    let (underlay, next_hops) = Underlay::start().await?;
    let underlay = Arc::new(underlay);
    switch.set_resolver(Box::new(underlay.clone()));
    // The first Hello must already know the underlay's address.
    let known =
        UnderlayState { interfaces: underlay.interfaces().borrow().clone(), next_hops: next_hops.borrow().clone() };
    let taken = switch.clone();
    tokio::task::spawn_blocking(move || taken.set_underlay(known)).await?;
    warn_of_missing(&switch);
    let follower = tokio::spawn(follow_underlay(switch.clone(), underlay.interfaces(), next_hops));
    let linker = tokio::spawn(follow_links(switch.clone(), links));

    let opened = match settings.underlay {
        Some(underlay) => open_underlay(&switch, underlay).await,
        None => Ok(()),
    };
    let ended = match opened {
        Ok(()) => {
            let (stop, stopped) = watch::channel(false);
            tracing::info!(
                version = weft_proto::VERSION,
                socket = %settings.socket.display(),
                workers = settings.workers,
                "weft-switch runs"
            );
            let agent = settings
                .controller
                .map(|controller| tokio::spawn(agent::run(switch.clone(), controller, stopped.clone())));
            let retried = switch.clone();
            let retrying = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(std::time::Duration::from_secs(2));
                loop {
                    ticks.tick().await;
                    let switch = retried.clone();
                    // In this order a lost port is shown as failed for a while before it is made anew.
                    let tended = tokio::task::spawn_blocking(move || {
                        switch.retry_failed();
                        switch.notice_losses();
                    });
                    if tended.await.is_err() {
                        return;
                    }
                }
            });
            let expiring = tokio::spawn(expire(switch.clone()));
            let counted = switch.clone();
            let measuring = metrics.map(|listener| tokio::spawn(metrics::serve(listener, move || page(&counted))));
            let serving = api::serve(switch.clone(), &mut socket, stopped);
            tokio::pin!(serving);
            let early = tokio::select! {
                ended = &mut serving => Some(ended),
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
            };
            tracing::info!("weft-switch stops");
            // Nobody listening is fine: then all have stopped.
            let _ = stop.send(true);
            let ended = match early {
                Some(ended) => ended,
                None => serving.await,
            };
            retrying.abort();
            expiring.abort();
            if let Some(measuring) = measuring {
                measuring.abort();
            }
            if let Some(agent) = agent {
                agent.await.context("the agent failed")?;
            }
            ended
        }
        Err(error) => Err(error),
    };
    follower.abort();
    linker.abort();
    let stopping = switch.clone();
    tokio::task::spawn_blocking(move || stopping.stop()).await.context("the workers failed")?;
    ended
}

/// Removes rules whose time has come, and shares meters out among the workers, until it is aborted.
async fn expire(switch: Arc<Switch>) {
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let switch = switch.clone();
        let expired = tokio::task::spawn_blocking(move || {
            switch.expire_rules(clock::now());
            switch.share_meters();
        });
        if expired.await.is_err() {
            return;
        }
    }
}

/// The controller opens physical networks' interfaces, later and for networks that are there: whoever has mistyped one
/// should know at once.
fn warn_of_missing(switch: &Switch) {
    for network in switch.physical_networks().iter().filter(|network| network.mtu == 0) {
        tracing::warn!(
            physical_network = network.name,
            interface = network.interface,
            "there is no such interface: networks on it do not work here until there is ([physical] in the settings)"
        );
    }
}

async fn open_underlay(switch: &Arc<Switch>, underlay: UnderlaySettings) -> anyhow::Result<()> {
    let switch = switch.clone();
    let open = move || {
        switch.set_underlay_addresses(underlay.addresses.clone());
        for (number, interface) in weft_proto::underlay_ports().zip(underlay.interfaces) {
            let spec = v1::PortSpec {
                number,
                name: interface.clone(),
                owner: v1::Owner::Manual.into(),
                kind: Some(v1::port_spec::Kind::AfXdp(v1::AfXdpPort {
                    interface: interface.clone(),
                    queues: underlay.queues,
                    mode: v1::AfXdpMode::from(underlay.mode).into(),
                    take_all: false,
                    addresses: Vec::new(),
                })),
            };
            switch.open_configured(spec).with_context(|| format!("the underlay {interface} cannot be used"))?;
        }
        let told: Vec<String> = switch.underlay_addresses().into_iter().map(|one| one.address).collect();
        for missing in underlay.addresses.iter().filter(|address| !told.contains(&address.to_string())) {
            tracing::warn!(address = %missing, "this host has no such address: no tunnel ends there until it has ([underlay] addresses)");
        }
        Ok(())
    };
    tokio::task::spawn_blocking(open).await?
}
