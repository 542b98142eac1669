//! How routers lead out of the cloud: by a port on an external network, and a host that reaches it.
//!
//! The router's address there is a port, as its interfaces are, so that addresses are allocated in one way; a floating
//! IP keeps its address likewise (`floating_ip.rs`). What leaves and enters passes one host, the router's *gateway
//! host*: the least loaded of those that reach the external network's physical network, chosen once and kept until it
//! is deleted or reaches it no more. A router for which there is none waits for one.

use super::address::parse_address;
use super::lookup::{in_use, limit};
use super::{Change, Counters, Device, FixedAddress, Host, Model, Network, Planned, Port, Router, Subnet};
use crate::limits;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// How a router leads out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The external network, in which the router has a port.
    pub network: Uuid,
    /// Whether senders without a floating IP leave under the router's address.
    pub snat: bool,
    /// The host that packets leave and enter by; `None` while no host reaches the network.
    pub host: Option<Uuid>,
}

/// Refuses an external network where only one of the cloud's own can be; `field` is what named it.
pub(super) fn not_external(network: &Network, field: &str) -> Result<(), Fault> {
    if !network.external {
        return Ok(());
    }
    Err(Fault::invalid(
        "external_network",
        field,
        format!("network {:?} is external: it has no ports of instances and no interfaces of routers", network.name),
        "Give another network. What leads there are gateways of routers: `weft router gateway set ROUTER NETWORK`.",
    )
    .with_status(tonic::Code::FailedPrecondition))
}

/// Whether a host reaches the physical network that an external network is on.
#[must_use]
pub fn reaches(host: &Host, network: &Network) -> bool {
    let physical = network.segment_type.physical();
    physical.and_then(|name| host.physical.get(name)).is_some_and(|place| place.mtu > 0)
}

impl Model {
    /// The routers whose gateways are in the external network, by id.
    pub fn routers_leaving_by(&self, network: Uuid) -> impl Iterator<Item = Uuid> {
        self.routers.index.of_external.of(network)
    }

    /// The routers whose gateway host it is, by id.
    pub fn routers_leaving_at(&self, host: Uuid) -> impl Iterator<Item = &Router> {
        self.routers.among(self.routers.index.of_gateway_host.of(Some(host)))
    }

    /// Where a router's packets leave and enter the cloud.
    #[must_use]
    pub fn gateway_host(&self, router: Uuid) -> Option<Uuid> {
        self.routers.get(router)?.gateway?.host
    }

    /// The router's port in its external network.
    #[must_use]
    pub fn gateway_port(&self, router: Uuid) -> Option<&Port> {
        self.ports.among(self.ports.index.of_gateway.of(router)).next()
    }

    /// The subnets of the router's external network, by id.
    pub fn outside_of(&self, router: &Router) -> impl Iterator<Item = &Subnet> {
        router.gateway.into_iter().flat_map(|gateway| self.subnets_of(gateway.network))
    }

    /// The external network that a request names: by its id, or by its name in the caller's project or any other.
    pub(super) fn find_external(&self, named: &str, project: &str) -> Result<&Network, Fault> {
        let own = self.project(project, "project")?.id;
        let foreign = || {
            let mut found = self.networks.iter().filter(|network| network.external && network.name == named);
            found.next().filter(|_| found.next().is_none())
        };
        let by_id = || Uuid::try_parse(named).ok().and_then(|id| self.networks.get(id));
        let found = self.networks.named(own, named).next().or_else(by_id).or_else(foreign);
        let network = match found {
            Some(network) => network,
            // There is none, or several: it says which.
            None => match self.networks.iter().find(|network| network.external && network.name == named) {
                None => self.find(named, project, "network")?,
                Some(_) => {
                    return Err(Fault::invalid(
                        "ambiguous_name",
                        "network",
                        format!("there are several external networks {named:?}"),
                        "Give the id of one of them, as `weft network list` shows it.",
                    ));
                }
            },
        };
        if network.external {
            return Ok(network);
        }
        Err(Fault::invalid(
            "not_external",
            "network",
            format!("network {named:?} is not external"),
            "Give a network that was created with `weft network create NAME --external`.",
        )
        .with_status(tonic::Code::FailedPrecondition))
    }

    /// An address of an external network: that which is asked for, or the first that is free.
    pub(super) fn choose_external_address(&self, asked: &str, network: &Network) -> Result<FixedAddress, Fault> {
        let field = "ip_address";
        let mut subnets: Vec<&Subnet> = self.subnets_of(network.id).collect();
        subnets.sort_by_key(|subnet| subnet.prefix);
        let Some(last) = subnets.last() else {
            return Err(Fault::invalid(
                "no_subnet",
                "network",
                format!("external network {:?} has no subnet", network.name),
                format!("Create one first: `weft subnet create NAME --network {} --cidr CIDR`.", network.name),
            )
            .with_status(tonic::Code::FailedPrecondition));
        };
        if asked.is_empty() {
            let mut free = subnets.iter().filter_map(|subnet| self.free_address(subnet, field).ok());
            return free.next().map_or_else(|| self.free_address(last, field), Ok);
        }
        let address = parse_address(asked, field)?;
        let Some(subnet) = subnets.iter().find(|subnet| subnet.offers(address)) else {
            let pools: Vec<String> =
                subnets.iter().flat_map(|subnet| subnet.pools()).map(|pool| pool.to_string()).collect();
            return Err(Fault::invalid(
                "address_outside_pools",
                field,
                format!("{address} is in no allocation pool of network {:?}", network.name),
                format!("Give one of {}, or none to have one chosen.", pools.join(" or ")),
            ));
        };
        let gateway = (subnet.gateway == Some(address)).then(|| format!("the gateway of subnet {:?}", subnet.name));
        match gateway.or_else(|| self.address_owner(subnet, address)) {
            None => Ok(FixedAddress { subnet: subnet.id, address }),
            Some(owner) => Err(Fault::invalid(
                "address_taken",
                field,
                format!("{address} belongs to {owner}"),
                "Give another, or none to have one chosen.",
            )
            .with_status(tonic::Code::AlreadyExists)),
        }
    }

    /// A port of the cloud's own in an external network, and how the counters are then.
    pub(super) fn external_port(
        &self,
        network: &Network,
        address: FixedAddress,
        device: Device,
        id: Uuid,
    ) -> Result<(Port, Counters), Fault> {
        let full = [
            (self.ports_of(network.id).count(), limits::PORTS_PER_NETWORK, "ports in the network"),
            (self.ports.len(), limits::PORTS, "ports"),
        ];
        if let Some((_, most, what)) = full.into_iter().find(|(there, most, _)| there >= most) {
            return Err(limit(what, most, "Remove what is not used."));
        }
        let number = self.choose_number();
        let port = Port {
            id,
            name: String::new(),
            project: network.project,
            network: network.id,
            mac: self.choose_mac("", network.id, id)?,
            addresses: vec![address],
            number,
            plug: None,
            port_security: false,
            groups: Vec::new(),
            pairs: Vec::new(),
            device: Some(device),
        };
        Ok((port, Counters { next_port: number + 1, ..self.next() }))
    }

    /// Plans that a router leads to an external network, or changes how. `connected` says which hosts are.
    pub fn set_router_gateway(
        &self,
        request: &v1::SetRouterGatewayRequest,
        id: Uuid,
        connected: &dyn Fn(Uuid) -> bool,
    ) -> Planned<Router> {
        let router: &Router = self.find(&request.router, &request.project, "router")?;
        let network = self.find_external(&request.network, &request.project)?;
        let before = router.gateway.filter(|gateway| gateway.network == network.id);
        if before.is_none() {
            self.check_leaving(router)?;
            self.check_reach(router, network)?;
        }
        let kept = before.and_then(|gateway| gateway.host);
        let host = kept.or_else(|| self.choose_gateway_host(network, None, connected));
        let Some(host) = host else {
            let physical = network.segment_type.physical().unwrap_or_default();
            return Err(Fault::invalid(
                "no_gateway_host",
                "network",
                format!("no host reaches physical network {physical:?}, which network {:?} is on", network.name),
                format!("Give a host's switch the setting `[physical] {physical} = \"INTERFACE\"` and start it again."),
            )
            .with_status(tonic::Code::FailedPrecondition));
        };
        let snat = request.enable_snat.unwrap_or_else(|| before.is_none_or(|gateway| gateway.snat));
        let gateway = Gateway { network: network.id, snat, host: Some(host) };
        let updated = Router { gateway: Some(gateway), ..router.clone() };
        let mut changes = vec![Change::put(updated.clone())];
        let port = self.gateway_port(router.id);
        match port.filter(|_| before.is_some()) {
            Some(port) if request.ip_address.is_empty() || Some(request.ip_address.clone()) == text(port) => {}
            Some(port) => {
                let address = self.choose_external_address(&request.ip_address, network)?;
                changes.push(Change::put(Port { addresses: vec![address], ..port.clone() }));
            }
            None => {
                let address = self.choose_external_address(&request.ip_address, network)?;
                let (made, counters) = self.external_port(network, address, Device::Gateway(router.id), id)?;
                changes.extend(port.map(Change::remove));
                changes.extend([Change::put(made), Change::put(counters)]);
            }
        }
        if updated == *router {
            changes.remove(0);
        }
        Ok((changes, updated))
    }

    /// Plans that a router leads out no more. No floating IP may need it.
    pub fn clear_router_gateway(&self, request: &v1::ClearRouterGatewayRequest) -> Planned<Router> {
        let router: &Router = self.find(&request.router, &request.project, "router")?;
        self.check_leaving(router)?;
        let updated = Router { gateway: None, ..router.clone() };
        if updated == *router {
            return Ok((Vec::new(), updated));
        }
        let port = self.gateway_port(router.id).map(Change::remove);
        Ok(([Change::put(updated.clone())].into_iter().chain(port).collect(), updated))
    }

    /// A gateway in use stays.
    fn check_leaving(&self, router: &Router) -> Result<(), Fault> {
        let Some((floating, _)) = self.floating_ips_behind(router.id).next() else { return Ok(()) };
        let remedy = format!("Take it off first: `weft floating-ip unset {}`.", floating.address);
        let by = format!("leads to floating IP {}", floating.address);
        Err(in_use(router, "router", &by, remedy))
    }

    /// What is outside must be neither what is inside nor what a route leads to.
    fn check_reach(&self, router: &Router, network: &Network) -> Result<(), Fault> {
        for outside in self.subnets_of(network.id) {
            self.check_inside(router, outside, "network")?;
        }
        Ok(())
    }

    /// Whether a subnet may be outside of a router.
    pub(super) fn check_inside(&self, router: &Router, outside: &Subnet, field: &str) -> Result<(), Fault> {
        let own = &router.name;
        if let Some((_, inside)) = self.router_subnets(router.id).find(|(_, it)| it.prefix.overlaps(outside.prefix)) {
            return Err(Fault::invalid(
                "overlapping_subnet",
                field,
                format!(
                    "{} of external subnet {:?} overlaps {} of subnet {:?}, which is joined to router {own:?}",
                    outside.prefix, outside.name, inside.prefix, inside.name
                ),
                "Give an external network of other addresses, or take the subnet off the router.",
            ));
        }
        if router.routes.iter().any(|route| route.destination == outside.prefix) {
            return Err(Fault::invalid(
                "route_to_connected",
                field,
                format!("router {own:?} has an extra route to {}, which is outside", outside.prefix),
                format!("Remove it first: `weft router route remove {own} {}`.", outside.prefix),
            ));
        }
        Ok(())
    }

    /// The host that reaches an external network, is connected if there is such a one, and leads out the fewest
    /// routers.
    fn choose_gateway_host(
        &self,
        network: &Network,
        except: Option<Uuid>,
        connected: &dyn Fn(Uuid) -> bool,
    ) -> Option<Uuid> {
        let hosts = self.hosts.iter().filter(|host| Some(host.id) != except && reaches(host, network));
        hosts
            .min_by_key(|host| (!connected(host.id), self.routers_leaving_at(host.id).count(), host.id))
            .map(|host| host.id)
    }

    /// What becomes of the routers that leave by a host when it is no more (`None`), or is as it says now.
    pub(super) fn reschedule(&self, id: Uuid, host: Option<&Host>) -> Vec<Change> {
        let stays = |network: Uuid| {
            let network = self.networks.get(network);
            network.zip(host).is_some_and(|(network, host)| reaches(host, network))
        };
        let moved = |router: &Router, host: Option<Uuid>| {
            let gateway = router.gateway.map(|gateway| Gateway { host, ..gateway });
            Change::put(Router { gateway, ..router.clone() })
        };
        let away = self.routers_leaving_at(id).filter_map(|router| {
            let network = router.gateway?.network;
            let elsewhere = || {
                let network = self.networks.get(network)?;
                self.choose_gateway_host(network, Some(id), &|_| true)
            };
            (!stays(network)).then(|| moved(router, elsewhere()))
        });
        let waiting = self.routers.among(self.routers.index.of_gateway_host.of(None));
        let here = waiting.filter(|router| router.gateway.is_some_and(|gateway| stays(gateway.network)));
        away.chain(here.map(|router| moved(router, Some(id)))).collect()
    }
}

fn text(port: &Port) -> Option<String> {
    port.address().map(|address: Ipv4Addr| address.to_string())
}
