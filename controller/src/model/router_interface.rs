//! What joins routers to subnets: ports that belong to the router, with its address in the subnet and a MAC of
//! their own. Such a port is on no host: every host that needs it answers for it.

use super::address::parse_address;
use super::external_gateway::not_external;
use super::lookup::limit;
use super::{Change, Counters, Device, FixedAddress, Model, Planned, Port, Router, Subnet};
use crate::limits;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

impl Model {
    /// The router's ports, by id.
    pub fn interfaces_of(&self, router: Uuid) -> impl Iterator<Item = &Port> {
        self.ports.among(self.ports.index.of_router.of(router))
    }

    /// The router's ports and the subnets that they are in, by the ports' ids.
    pub fn router_subnets(&self, router: Uuid) -> impl Iterator<Item = (&Port, &Subnet)> {
        let of_port = |port: &Port| port.addresses.first().and_then(|fixed| self.subnets.get(fixed.subnet));
        self.interfaces_of(router).filter_map(move |port| of_port(port).map(|subnet| (port, subnet)))
    }

    /// The networks that the router is in.
    #[must_use]
    pub fn networks_of_router(&self, router: Uuid) -> BTreeSet<Uuid> {
        self.interfaces_of(router).map(|port| port.network).collect()
    }

    /// The routers that are in the network; one that has several interfaces there, as often.
    pub fn routers_of(&self, network: Uuid) -> impl Iterator<Item = Uuid> {
        self.ports.among(self.ports.index.routing.of(network)).filter_map(Port::router)
    }

    /// The hosts that may send to the network: on which it has plugged ports, or one that shares a router with it;
    /// the gateway hosts of its routers; and all hosts of the routers whose external network it is.
    #[must_use]
    pub fn hosts_reaching(&self, network: Uuid) -> BTreeSet<Uuid> {
        let routed = self.routers_of(network).chain(self.routers_leaving_by(network));
        let routed = routed.collect::<BTreeSet<_>>().into_iter().flat_map(|router| self.hosts_of_router(router));
        routed.chain(self.hosts_of(network)).collect()
    }

    /// The hosts that have a router: those of its networks, and its gateway host.
    #[must_use]
    pub fn hosts_of_router(&self, router: Uuid) -> BTreeSet<Uuid> {
        let networks = self.networks_of_router(router).into_iter().flat_map(|network| self.hosts_of(network));
        networks.chain(self.gateway_host(router)).collect()
    }

    /// Refuses what nobody may do to a port of a router or a floating IP but these.
    pub(super) fn not_of_device(&self, port: &Port) -> Result<(), Fault> {
        let router = |id: Uuid| self.routers.get(id).map_or("", |router| router.name.as_str());
        let (is, remedy) = match port.device {
            None => return Ok(()),
            Some(Device::Interface(id)) => {
                let subnet = port.addresses.first().map_or("", |fixed| self.subnets[fixed.subnet].name.as_str());
                (
                    format!("the interface of router {:?} in subnet {subnet:?}", router(id)),
                    format!("To remove it, use `weft router interface remove {} {subnet}`.", router(id)),
                )
            }
            Some(Device::Gateway(id)) => (
                format!("the external gateway of router {:?}", router(id)),
                format!("To remove it, use `weft router gateway clear {}`.", router(id)),
            ),
            Some(Device::FloatingIp(_)) => {
                let address = port.address().map(|address| address.to_string()).unwrap_or_default();
                (
                    format!("what keeps floating IP {address}"),
                    format!("To remove it, use `weft floating-ip delete {address}`."),
                )
            }
        };
        Err(Fault::invalid("in_use", "port", format!("port {} is {is}", port.id), remedy)
            .with_status(tonic::Code::FailedPrecondition))
    }

    /// Plans that a subnet is joined to a router, by a port with the subnet's gateway address or another.
    pub fn add_router_interface(&self, request: &v1::AddRouterInterfaceRequest, id: Uuid) -> Planned<Router> {
        let router: &Router = self.find(&request.router, &request.project, "router")?;
        let subnet: &Subnet = self.find(&request.subnet, &request.project, "subnet")?;
        self.check_joinable(router, subnet)?;
        let address = self.choose_interface_address(&request.ip_address, subnet)?;
        let mac = self.choose_mac("", subnet.network, id)?;
        let number = self.choose_number();
        let port = Port {
            id,
            name: String::new(),
            project: subnet.project,
            network: subnet.network,
            mac,
            addresses: vec![FixedAddress { subnet: subnet.id, address }],
            number,
            plug: None,
            port_security: false,
            groups: Vec::new(),
            pairs: Vec::new(),
            device: Some(Device::Interface(router.id)),
        };
        if self.mac_taken(subnet.network, port.central_mac()) {
            let problem = format!("MAC {} is taken in the network", port.central_mac());
            return Err(Fault::invalid("duplicate_mac", "", problem, "Try again.").with_status(tonic::Code::Aborted));
        }
        let counters = Counters { next_port: number + 1, ..self.next() };
        Ok((vec![Change::put(port), Change::put(counters)], router.clone()))
    }

    fn check_joinable(&self, router: &Router, subnet: &Subnet) -> Result<(), Fault> {
        let refuse = |code: &str, problem: String, remedy: String| Fault::invalid(code, "subnet", problem, remedy);
        let (its, own) = (&subnet.name, &router.name);
        let network = &self.networks[subnet.network];
        not_external(network, "subnet")?;
        if network.reactive {
            let problem = format!("subnet {its:?} is of network {:?}, which is reactive", network.name);
            return Err(refuse(
                "reactive_network",
                problem,
                "Routers join networks whose ports all hosts know: create the network without --reactive.".to_owned(),
            ));
        }
        if subnet.project != router.project {
            return Err(refuse(
                "other_project",
                format!("subnet {its:?} and router {own:?} belong to different projects"),
                "Give a subnet of the router's project.".to_owned(),
            ));
        }
        for (_, other) in self.router_subnets(router.id) {
            if other.id == subnet.id {
                let problem = format!("subnet {its:?} is joined to router {own:?} already");
                let remedy = "Leave it, or give another subnet.".to_owned();
                return Err(refuse("subnet_joined", problem, remedy).with_status(tonic::Code::AlreadyExists));
            }
            if other.prefix.overlaps(subnet.prefix) {
                let problem = format!(
                    "{} of subnet {its:?} overlaps {} of subnet {:?}, which is joined to router {own:?}",
                    subnet.prefix, other.prefix, other.name
                );
                return Err(refuse("overlapping_subnet", problem, "Give a subnet of other addresses.".to_owned()));
            }
        }
        if let Some(outside) = self.outside_of(router).find(|outside| outside.prefix.overlaps(subnet.prefix)) {
            let problem = format!(
                "{} of subnet {its:?} overlaps {} of subnet {:?}, which router {own:?} has its external gateway in",
                subnet.prefix, outside.prefix, outside.name
            );
            return Err(refuse("overlapping_subnet", problem, "Give a subnet of other addresses.".to_owned()));
        }
        if router.routes.iter().any(|route| route.destination == subnet.prefix) {
            let problem = format!("router {own:?} has an extra route to {}, which is subnet {its:?}", subnet.prefix);
            let remedy = format!("Remove it first: `weft router route remove {own} {}`.", subnet.prefix);
            return Err(refuse("route_to_connected", problem, remedy));
        }
        let full = [
            (self.interfaces_of(router.id).count(), limits::INTERFACES_PER_ROUTER, "interfaces of the router"),
            (
                self.routers_of(subnet.network).count(),
                limits::ROUTERS_PER_NETWORK,
                "routers' interfaces in the network",
            ),
            (self.ports_of(subnet.network).count(), limits::PORTS_PER_NETWORK, "ports in the network"),
            (self.ports.len(), limits::PORTS, "ports"),
        ];
        match full.into_iter().find(|(there, most, _)| there >= most) {
            Some((_, most, what)) => Err(limit(what, most, "Remove what is not used.")),
            None => Ok(()),
        }
    }

    fn choose_interface_address(&self, asked: &str, subnet: &Subnet) -> Result<Ipv4Addr, Fault> {
        let field = "ip_address";
        let address = if asked.is_empty() {
            subnet.gateway.ok_or_else(|| {
                Fault::invalid(
                    "no_gateway",
                    field,
                    format!("subnet {:?} has no gateway address that the router could have", subnet.name),
                    "Give an address of the subnet.",
                )
            })?
        } else {
            parse_address(asked, field)?
        };
        if !subnet.prefix.is_host(address) {
            return Err(Fault::invalid(
                "address_outside_subnet",
                field,
                format!("{address} is not a host's address of {}", subnet.prefix),
                "Give an address of the subnet other than its first and last, or none for its gateway.",
            ));
        }
        let Some(owner) = self.address_owner(subnet, address) else { return Ok(address) };
        Err(Fault::invalid(
            "address_taken",
            field,
            format!("{address} belongs to {owner}"),
            "Give a free address of the subnet, or take it from who has it.",
        )
        .with_status(tonic::Code::AlreadyExists))
    }

    /// Plans that a subnet is joined to a router no more. No extra route's next hop may lie in it.
    pub fn remove_router_interface(&self, request: &v1::RemoveRouterInterfaceRequest) -> Planned<Router> {
        let router: &Router = self.find(&request.router, &request.project, "router")?;
        let subnet: &Subnet = self.find(&request.subnet, &request.project, "subnet")?;
        let Some((port, _)) = self.router_subnets(router.id).find(|(_, joined)| joined.id == subnet.id) else {
            return Err(Fault::invalid(
                "not_joined",
                "subnet",
                format!("subnet {:?} is not joined to router {:?}", subnet.name, router.name),
                format!("Give a subnet that `weft router show {}` shows.", router.name),
            )
            .with_status(tonic::Code::FailedPrecondition));
        };
        if let Some(route) = router.routes.iter().find(|route| subnet.prefix.contains(route.next_hop)) {
            return Err(Fault::invalid(
                "in_use",
                "subnet",
                format!("the route of router {:?} to {} goes by {}", router.name, route.destination, route.next_hop),
                format!("Remove it first: `weft router route remove {} {}`.", router.name, route.destination),
            )
            .with_status(tonic::Code::FailedPrecondition));
        }
        if let Some(floating) = self.floating_ips_behind(router.id).find(|(_, at)| at.subnet == subnet.id) {
            let address = floating.0.address;
            return Err(Fault::invalid(
                "in_use",
                "subnet",
                format!("floating IP {address} is reached by router {:?} in subnet {:?}", router.name, subnet.name),
                format!("Take it off first: `weft floating-ip unset {address}`."),
            )
            .with_status(tonic::Code::FailedPrecondition));
        }
        Ok((vec![Change::remove(port)], router.clone()))
    }
}
