//! The middle of the way of an intent: one transaction after another, each checked against the model, stored,
//! applied, and made known to the hosts it touches.
//!
//! Invariants: the model in memory is what the store holds (a transaction is applied if and only if it was
//! stored, whatever becomes of the caller); nobody else writes (each transaction is under the condition that our
//! term is still the store's last); every host that a change touches is marked before the call returns.

use crate::bus::{Links, link::PortState};
use crate::compile;
use crate::identity::{self, HostIdentity, Identities, membership::Membership};
use crate::model::{
    Change, DEFAULT_PROJECT, Host, HostReport, Model, Network, Object as _, Planned, Port, Router, SecurityGroup,
};
use crate::store::{Store, StoreError, record, term};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::Code;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::program::request;
use weft_proto::v1;

/// The controller's state, shared by all calls and sessions.
pub struct Controller {
    model: RwLock<Model>,
    store: Arc<dyn Store>,
    /// Held during a transaction.
    writer: tokio::sync::Mutex<term::Term>,
    /// Our term.
    pub term: u64,
    /// To the hosts.
    pub links: Links,
    /// What hosts on other machines are known by.
    pub identities: Arc<Identities>,
    /// With what machines join; set once, before serving, if the bus listens for other machines.
    pub membership: OnceLock<Membership>,
    /// How long a switch may take to acknowledge a bundle, or to answer a comparison.
    pub patience: Duration,
    /// When it began to serve.
    pub started: Instant,
}

impl Controller {
    /// Begins a term on a store; the first start makes the default project. Blocks on the disk. A switch that does
    /// not answer within `patience` is disconnected.
    pub fn start(store: Arc<dyn Store>, patience: Duration) -> Result<Arc<Self>, StoreError> {
        let term = term::begin(&*store)?;
        let mut model = record::load(&*store)?;
        if model.project(DEFAULT_PROJECT, "").is_err() {
            let request = v1::CreateProjectRequest { name: DEFAULT_PROJECT.to_owned() };
            // An empty cloud has room for a project.
            let changes =
                model.create_project(&request, Uuid::new_v4()).map_or_else(|_| Vec::new(), |(changes, _)| changes);
            let operations: Vec<_> = changes.iter().map(record::operation).collect();
            store.transact(&[term.still_ours()], &operations)?;
            changes.iter().for_each(|change| model.apply(change));
        }
        let mut identities = identity::record::load(&*store)?;
        // A controller that ended between deleting a host and forgetting it left a record of nobody.
        identities.retain(|&host, _| model.hosts.get(host).is_some());
        Ok(Arc::new(Self {
            model: RwLock::new(model),
            store,
            writer: tokio::sync::Mutex::new(term),
            term: term.number,
            links: Links::default(),
            identities: Arc::new(Identities::new(identities)),
            membership: OnceLock::new(),
            patience,
            started: Instant::now(),
        }))
    }

    /// The model as it is now: not to be held across an await.
    pub fn model(&self) -> RwLockReadGuard<'_, Model> {
        self.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction: what a planner plans against the model is stored and made true; nothing is if it
    /// refuses. It runs to its end even if the caller stops waiting.
    pub async fn transact<T: Send + 'static>(
        self: &Arc<Self>,
        plan: impl FnOnce(&Model) -> Planned<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let controller = Arc::clone(self);
        let transaction = tokio::spawn(request::carried(async move {
            let term = controller.writer.lock().await;
            let (changes, result) = plan(&controller.model())?;
            if !changes.is_empty() {
                let operations: Vec<_> = changes.iter().map(record::operation).collect();
                let (store, compare) = (Arc::clone(&controller.store), term.still_ours());
                blocking(move || store.transact(&[compare], &operations)).await?;
                controller.apply(&changes);
            }
            Ok(result)
        }));
        transaction.await.unwrap_or_else(|_| Err(broken()))
    }

    /// One transaction on the record of a host's identity: `plan` reads the model and records, and gives the host,
    /// its record as it shall be (an empty one is removed), and the result.
    pub async fn transact_identity<T: Send + 'static>(
        self: &Arc<Self>,
        plan: impl FnOnce(&Model, &dyn Fn(Uuid) -> HostIdentity) -> Result<(Uuid, HostIdentity, T), Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let controller = Arc::clone(self);
        let transaction = tokio::spawn(async move {
            let term = controller.writer.lock().await;
            let (host, record, result) = plan(&controller.model(), &|host| controller.identities.of(host))?;
            let record = Some(record).filter(|record| *record != HostIdentity::default());
            let operation = identity::record::operation(host, record.as_ref());
            let (store, compare) = (Arc::clone(&controller.store), term.still_ours());
            blocking(move || store.transact(&[compare], &[operation])).await?;
            controller.identities.set(host, record);
            Ok(result)
        });
        transaction.await.unwrap_or_else(|_| Err(broken()))
    }

    /// Applies stored changes and marks the hosts they touch.
    fn apply(&self, changes: &[Change]) {
        let mut hosts = BTreeSet::new();
        {
            let mut model = self.model.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                hosts.extend(model.touched(change));
                model.apply(change);
                hosts.extend(model.touched(change));
            }
            // A host that is gone has nothing to be told.
            hosts.retain(|&host| model.hosts.get(host).is_some());
        }
        for host in hosts {
            self.links.of(host).mark();
        }
    }

    /// A host's switch says where it is. Two connected hosts cannot have one underlay address.
    pub async fn report_host(self: &Arc<Self>, host: Uuid, report: HostReport) -> Result<(), Fault> {
        let controller = Arc::clone(self);
        self.transact(move |model| {
            let connected = |(other, _): &(&Host, Ipv4Addr)| controller.links.of(other.id).standing().0;
            if let Some((other, address)) = model.hosts_of_underlay(host, &report).find(connected) {
                return Err(underlay_taken(other, address));
            }
            model.report_host(host, &report)
        })
        .await
    }

    /// Remembers that a switch has followed a later term than ours.
    pub async fn remember_term(self: &Arc<Self>, seen: u64) -> Result<(), Fault> {
        let mut term = self.writer.lock().await;
        let (store, ours) = (Arc::clone(&self.store), *term);
        *term = blocking(move || term::remember(&*store, ours, seen)).await?;
        Ok(())
    }

    /// A port as the API shows it.
    pub fn describe_port(&self, port: &Port) -> v1::Port {
        let mut message = port.record();
        if port.device.is_some() {
            // It is on no host in particular, and there is nothing that could fail.
            message.status = "ACTIVE".to_owned();
            return message;
        }
        let network = self.model().networks.get(port.network).cloned();
        let spec = network.as_ref().and_then(|network| compile::network::spec_of(network, port));
        let host = port.plug.as_ref().and_then(|plug| self.model().hosts.get(plug.host).cloned());
        let (Some(host), Some(spec)) = (host, spec) else {
            message.status = "DOWN".to_owned();
            return message;
        };
        let link = self.links.of(host.id);
        let (mut state, interface) = link.port(&host, &spec);
        if let Some(trouble) =
            network.filter(|_| state == PortState::Active).and_then(|it| self.not_carried(&it, &host))
        {
            state = trouble;
        }
        if let (PortState::Active | PortState::Down(_) | PortState::Waiting, Some(interface)) = (&state, interface) {
            message.interface = interface;
        }
        let (status, fault) = match state {
            PortState::Build(why) => ("BUILD", why),
            PortState::Active => ("ACTIVE", String::new()),
            PortState::Down(why) => ("DOWN", why),
            PortState::Waiting => ("DOWN", String::new()),
            PortState::Error(why) => ("ERROR", why),
        };
        message.status = status.to_owned();
        message.fault = fault;
        message
    }

    /// Why a network's frames do not leave a host: what the host says of itself has changed since the port was plugged,
    /// or the interface that leads to its physical network failed.
    fn not_carried(&self, network: &Network, host: &Host) -> Option<PortState> {
        if let Err(fault) = self.model().check_carriage(network, host) {
            return Some(PortState::Error(format!("{}. {}", fault.problem, fault.remedy)));
        }
        let physical = network.segment_type.physical()?;
        let explained = |why: String| format!("the interface of physical network {physical:?}: {why}");
        match self.links.of(host.id).port(host, &compile::physical::port_of(host, physical)?).0 {
            PortState::Error(why) => Some(PortState::Error(explained(why))),
            PortState::Down(why) => Some(PortState::Down(explained(why))),
            _ => None,
        }
    }

    /// A security group as the API shows it, with its rules: egress before ingress, then as they are written.
    pub fn describe_security_group(&self, group: &SecurityGroup) -> v1::SecurityGroup {
        let mut message = group.record();
        message.rules = self.model().rules_of(group.id).map(|rule| rule.record()).collect();
        message.rules.sort_by_cached_key(|rule| {
            let ports = (rule.port_range_min, rule.port_range_max, rule.icmp_type, rule.icmp_code);
            let remote = (rule.remote_ip_prefix.clone(), rule.remote_group_id.clone());
            (rule.direction.clone(), rule.protocol.clone(), ports, remote, rule.id.clone())
        });
        message
    }

    /// A router as the API shows it, with its interfaces and its external address.
    pub fn describe_router(&self, router: &Router) -> v1::Router {
        let mut message = router.record();
        let model = self.model();
        let mut joined: Vec<_> = model.router_subnets(router.id).collect();
        joined.sort_by_key(|(port, subnet)| (subnet.prefix, port.id));
        for (port, subnet) in joined {
            message.interfaces.push(v1::RouterInterface {
                port_id: port.id.to_string(),
                subnet_id: subnet.id.to_string(),
                network_id: subnet.network.to_string(),
                ip_address: port.addresses.first().map_or(String::new(), |fixed| fixed.address.to_string()),
                mac_address: port.mac.to_string(),
            });
        }
        if let (Some(gateway), Some(port)) = (&mut message.external_gateway, model.gateway_port(router.id)) {
            gateway.port_id = port.id.to_string();
            gateway.subnet_id = port.addresses.first().map_or(String::new(), |fixed| fixed.subnet.to_string());
            gateway.ip_address = port.address().map_or(String::new(), |address| address.to_string());
            gateway.mac_address = port.mac.to_string();
        }
        message
    }

    /// A host as the API shows it.
    pub fn describe_host(&self, host: &Host) -> v1::Host {
        let mut message = host.record();
        self.links.of(host.id).describe(&mut message);
        message.certificate_expires = self.identities.of(host.id).expires();
        message
    }

    /// The controller as the API shows it.
    pub fn status(&self) -> v1::ControllerStatus {
        let mut status = v1::ControllerStatus {
            version: weft_proto::VERSION.to_owned(),
            protocol: weft_proto::PROTOCOL,
            term: self.term,
            uptime_seconds: self.started.elapsed().as_secs(),
            clock_seconds: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            ..v1::ControllerStatus::default()
        };
        let mut notes = Vec::new();
        for host in self.model().hosts.iter() {
            let (connected, behind) = self.links.of(host.id).standing();
            status.hosts += 1;
            status.hosts_connected += u32::from(connected);
            status.hosts_behind += u32::from(behind);
            let shown = self.describe_host(host);
            if !shown.fault.is_empty() {
                notes.push((host.name.clone(), format!("host {:?}: {}", host.name, shown.fault)));
            }
            if !shown.note.is_empty() {
                notes.push((host.name.clone(), shown.note));
            }
        }
        notes.sort();
        status.notes = notes.into_iter().map(|(_, note)| note).collect();
        status
    }
}

/// Does what blocks on the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(store_fault),
        Err(_) => Err(broken()),
    }
}

fn store_fault(error: StoreError) -> Fault {
    if let StoreError::Conflict { .. } = error {
        return Fault::invalid(
            "superseded",
            "",
            "another controller has begun a later term on this store",
            "Call that one.",
        )
        .with_status(Code::Unavailable);
    }
    tracing::error!(%error, "a transaction was not stored");
    Fault::invalid("store_failed", "", error.to_string(), "See the controller's log.").with_status(Code::Internal)
}

fn broken() -> Fault {
    Fault::invalid("internal", "", "the controller met an error of its own", "See its log, and report it.")
        .with_status(Code::Internal)
}

fn underlay_taken(other: &Host, underlay: Ipv4Addr) -> Fault {
    Fault::invalid(
        "underlay_address_taken",
        "hello.underlay_addresses",
        format!("the underlay address {underlay} is that of host {:?}, which is connected", other.name),
        "Give each host its own address on the underlay.",
    )
    .with_status(Code::AlreadyExists)
}
