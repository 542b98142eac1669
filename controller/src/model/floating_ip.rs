//! Floating IPs: created, associated with ports, moved, removed.
//!
//! Its address is kept by a port of its own in the external network. It works while it is associated: then it knows
//! the port, the fixed address that it stands for, and the router that leads there; none of the three goes before.

use super::address::parse_address;
use super::lookup::limit;
use super::{By, Change, Device, FixedAddress, Model, Network, Object, Planned, Port, Router, record};
use crate::limits;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// An address of an external network that stands for a port's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingIp {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Its address as text: what it is called.
    pub name: String,
    /// The project it belongs to.
    pub project: Uuid,
    /// The external network.
    pub network: Uuid,
    /// What it is known by outside.
    pub address: Ipv4Addr,
    /// Whom it stands for, if for anybody.
    pub target: Option<FloatingTarget>,
}

/// Whom a floating IP stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatingTarget {
    /// The port.
    pub port: Uuid,
    /// Which of its addresses.
    pub address: Ipv4Addr,
    /// The router that leads to it from the external network.
    pub router: Uuid,
}

/// By what floating IPs are found.
#[derive(Clone, Debug, Default)]
pub struct FloatingIpIndex {
    pub(super) of_project: By<Uuid>,
    pub(super) of_network: By<Uuid>,
    of_port: By<Uuid>,
    of_router: By<Uuid>,
}

impl Object for FloatingIp {
    const WORD: &'static str = "floating IP";
    const COMMAND: &'static str = "floating-ip";
    const MOST: usize = limits::FLOATING_IPS;
    type Record = v1::FloatingIp;
    type Index = FloatingIpIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn project(&self) -> Uuid {
        self.project
    }

    fn record(&self) -> v1::FloatingIp {
        v1::FloatingIp {
            id: self.id.to_string(),
            project_id: self.project.to_string(),
            network_id: self.network.to_string(),
            ip_address: self.address.to_string(),
            port_id: record::text(self.target.map(|target| target.port)),
            fixed_ip_address: record::text(self.target.map(|target| target.address)),
            router_id: record::text(self.target.map(|target| target.router)),
        }
    }

    fn from_record(record: v1::FloatingIp) -> Result<Self, String> {
        let target = |port: &str| {
            Ok(FloatingTarget {
                port: record::uuid(port)?,
                address: record::address(&record.fixed_ip_address)?,
                router: record::uuid(&record.router_id)?,
            })
        };
        let address = record::address(&record.ip_address)?;
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: address.to_string(),
            project: record::uuid(&record.project_id)?,
            network: record::uuid(&record.network_id)?,
            address,
            target: record::optional(&record.port_id, target)?,
        })
    }

    fn index(&self, index: &mut FloatingIpIndex, present: bool) {
        index.of_project.set(self.project, self.id, present);
        index.of_network.set(self.network, self.id, present);
        if let Some(target) = self.target {
            index.of_port.set(target.port, self.id, present);
            index.of_router.set(target.router, self.id, present);
        }
    }

    /// The router's gateway host.
    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        self.target.and_then(|target| model.gateway_host(target.router)).into_iter().collect()
    }
}

impl Model {
    /// The floating IPs that stand for a port's addresses, by id.
    pub fn floating_ips_of(&self, port: Uuid) -> impl Iterator<Item = &FloatingIp> {
        self.floating_ips.among(self.floating_ips.index.of_port.of(port))
    }

    /// The floating IPs that a router leads to, by id, and the fixed addresses they stand for.
    pub fn floating_ips_behind(&self, router: Uuid) -> impl Iterator<Item = (&FloatingIp, FixedAddress)> {
        let fixed = |floating: &FloatingIp| {
            let target = floating.target?;
            let port = self.ports.get(target.port)?;
            port.addresses.iter().find(|fixed| fixed.address == target.address).copied()
        };
        let floating = self.floating_ips.among(self.floating_ips.index.of_router.of(router));
        floating.filter_map(move |floating| Some((floating, fixed(floating)?)))
    }

    /// Plans a floating IP; its address is kept by the port `keeper`.
    pub fn create_floating_ip(
        &self,
        request: &v1::CreateFloatingIpRequest,
        id: Uuid,
        keeper: Uuid,
    ) -> Planned<FloatingIp> {
        let project = self.project(&request.project, "project")?.id;
        let network = self.find_external(&request.network, &request.project)?;
        if self.floating_ips.len() >= limits::FLOATING_IPS {
            return Err(limit("floating IPs", limits::FLOATING_IPS, "Remove floating IPs that are not used."));
        }
        let fixed = self.choose_external_address(&request.ip_address, network)?;
        let floating = FloatingIp {
            id,
            name: fixed.address.to_string(),
            project,
            network: network.id,
            address: fixed.address,
            target: None,
        };
        let target = self.choose_target(&floating, &request.port, &request.fixed_ip_address)?;
        let floating = FloatingIp { target, ..floating };
        let (port, counters) = self.external_port(network, fixed, Device::FloatingIp(id), keeper)?;
        let changes = vec![Change::put(floating.clone()), Change::put(port), Change::put(counters)];
        Ok((changes, floating))
    }

    /// Plans that a floating IP stands for a port from now on, whomever it stood for; or for none.
    pub fn update_floating_ip(&self, request: &v1::UpdateFloatingIpRequest) -> Planned<FloatingIp> {
        let floating: &FloatingIp = self.find(&request.floating_ip, &request.project, "floating_ip")?;
        let target = self.choose_target(floating, &request.port, &request.fixed_ip_address)?;
        let updated = FloatingIp { target, ..floating.clone() };
        let changes = if updated == *floating { Vec::new() } else { vec![Change::put(updated.clone())] };
        Ok((changes, updated))
    }

    /// Plans its removal, whomever it stands for.
    pub fn delete_floating_ip(&self, named: &str, project: &str) -> Planned<FloatingIp> {
        let floating: &FloatingIp = self.find(named, project, "floating_ip")?;
        let keepers =
            self.ports_of(floating.network).filter(|port| port.device == Some(Device::FloatingIp(floating.id)));
        let changes = keepers.map(Change::remove).chain([Change::remove(floating)]).collect();
        Ok((changes, floating.clone()))
    }

    /// Whom a floating IP is to stand for.
    fn choose_target(&self, floating: &FloatingIp, port: &str, asked: &str) -> Result<Option<FloatingTarget>, Fault> {
        if port.is_empty() {
            return if asked.is_empty() {
                Ok(None)
            } else {
                let problem = "an address of a port is named, and no port";
                Err(Fault::invalid("no_port", "port", problem, "Name the port, or leave the address out."))
            };
        }
        let port: &Port = self.find(port, &floating.project.to_string(), "port")?;
        self.not_of_device(port)?;
        let network = &self.networks[floating.network];
        let candidates = self.fixed_addresses(port, asked)?;
        let routed: Vec<(FixedAddress, Uuid)> = candidates
            .iter()
            .filter_map(|&fixed| self.router_from(floating.network, fixed).map(|router| (fixed, router)))
            .collect();
        let (fixed, router) = match routed.as_slice() {
            [only] => *only,
            [] => return Err(self.no_way(port, &candidates, network)),
            several => {
                let addresses: Vec<String> = several.iter().map(|(fixed, _)| fixed.address.to_string()).collect();
                return Err(Fault::invalid(
                    "ambiguous_address",
                    "fixed_ip_address",
                    format!("port {:?} has several addresses that network {:?} leads to", port.name, network.name),
                    format!("Give one of {}.", addresses.join(", ")),
                ));
            }
        };
        let others = self.floating_ips_of(port.id).filter(|other| other.id != floating.id);
        let mut same = others.filter(|other| other.target.is_some_and(|target| target.address == fixed.address));
        if let Some(other) = same.next() {
            return Err(Fault::invalid(
                "port_has_floating_ip",
                "port",
                format!("port {:?} has floating IP {} for {} already", port.name, other.address, fixed.address),
                format!("Take it off first: `weft floating-ip unset {}`.", other.address),
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        Ok(Some(FloatingTarget { port: port.id, address: fixed.address, router }))
    }

    /// The addresses of a port that may be meant.
    fn fixed_addresses(&self, port: &Port, asked: &str) -> Result<Vec<FixedAddress>, Fault> {
        let field = "fixed_ip_address";
        if asked.is_empty() {
            return if port.addresses.is_empty() {
                let problem = format!("port {:?} has no address", port.name);
                Err(Fault::invalid("no_address", "port", problem, "Give a port that has one."))
            } else {
                Ok(port.addresses.clone())
            };
        }
        let address = parse_address(asked, field)?;
        if let Some(fixed) = port.addresses.iter().find(|fixed| fixed.address == address) {
            return Ok(vec![*fixed]);
        }
        let own: Vec<String> = port.addresses.iter().map(|fixed| fixed.address.to_string()).collect();
        Err(Fault::invalid(
            "address_not_of_port",
            field,
            format!("{address} is no address of port {:?}", port.name),
            if own.is_empty() { "The port has none.".to_owned() } else { format!("Give {}.", own.join(" or ")) },
        ))
    }

    /// The router that leads from an external network to an address; if there are several, that which is its subnet's
    /// gateway, which answers go to.
    fn router_from(&self, network: Uuid, fixed: FixedAddress) -> Option<Uuid> {
        let subnet = self.subnets.get(fixed.subnet)?;
        let leads = |router: &Router| router.gateway.is_some_and(|gateway| gateway.network == network);
        let interfaces = self.routers_in(subnet.id).filter(|(_, router)| leads(router));
        interfaces.min_by_key(|(port, _)| port.address() != subnet.gateway).map(|(_, router)| router.id)
    }

    /// The interfaces of routers in a subnet.
    fn routers_in(&self, subnet: Uuid) -> impl Iterator<Item = (&Port, &Router)> {
        let network = self.subnets.get(subnet).map_or(Uuid::nil(), |subnet| subnet.network);
        let ports = self.ports.among(self.ports.index.routing.of(network));
        let here = ports.filter(move |port| port.addresses.iter().any(|fixed| fixed.subnet == subnet));
        here.filter_map(|port| Some((port, self.routers.get(port.router()?)?)))
    }

    /// Why no router leads to a port.
    fn no_way(&self, port: &Port, candidates: &[FixedAddress], network: &Network) -> Fault {
        let joined = candidates.iter().flat_map(|fixed| self.routers_in(fixed.subnet)).map(|(_, router)| router).next();
        let (code, problem, remedy) = match joined {
            Some(router) => (
                "router_without_gateway",
                format!(
                    "router {:?}, which port {:?} is behind, has no gateway in network {:?}",
                    router.name, port.name, network.name
                ),
                format!("Give it one first: `weft router gateway set {} {}`.", router.name, network.name),
            ),
            None => (
                "no_router",
                format!("no router leads from network {:?} to port {:?}", network.name, port.name),
                "Join its subnet to a router that has a gateway there: `weft router interface add ROUTER SUBNET`."
                    .to_owned(),
            ),
        };
        Fault::invalid(code, "port", problem, remedy).with_status(tonic::Code::FailedPrecondition)
    }
}
