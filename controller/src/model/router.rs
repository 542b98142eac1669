//! Routers: created, removed; their extra routes. What joins them to subnets is in `router_interface.rs`.

use super::address::parse_address;
use super::lookup::{count, in_use, limit};
use super::{By, Change, Counters, Gateway, HostRoute, Ipv4Prefix, Model, Object, Planned, Port, record};
use crate::limits;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The largest number of a router: it is part of what its connections are known by, beside those of ports.
const NUMBER_MAX: u32 = 0x00ff_ffff;

/// Forwards between the subnets that are joined to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the project.
    pub name: String,
    /// The project it belongs to.
    pub project: Uuid,
    /// In flow tables: 1 to 2^24 − 1, unique in the cloud.
    pub number: u32,
    /// Beyond the subnets that are joined to it: by destination, each once.
    pub routes: Vec<HostRoute>,
    /// How it leads out of the cloud, if it does.
    pub gateway: Option<Gateway>,
}

/// By what routers are found.
#[derive(Clone, Debug, Default)]
pub struct RouterIndex {
    pub(super) of_project: By<Uuid>,
    of_number: By<u32>,
    /// Those that have a gateway, by external network.
    pub(super) of_external: By<Uuid>,
    /// Likewise, by gateway host.
    pub(super) of_gateway_host: By<Option<Uuid>>,
}

impl Object for Router {
    const WORD: &'static str = "router";
    const MOST: usize = limits::ROUTERS;
    type Record = v1::Router;
    type Index = RouterIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn project(&self) -> Uuid {
        self.project
    }

    /// Its interfaces are ports, and records of their own.
    fn record(&self) -> v1::Router {
        let route = |route: &HostRoute| v1::HostRoute {
            destination: route.destination.to_string(),
            nexthop: route.next_hop.to_string(),
        };
        v1::Router {
            id: self.id.to_string(),
            name: self.name.clone(),
            project_id: self.project.to_string(),
            number: self.number,
            routes: self.routes.iter().map(route).collect(),
            interfaces: Vec::new(),
            external_gateway: self.gateway.map(|gateway| v1::ExternalGateway {
                network_id: gateway.network.to_string(),
                enable_snat: gateway.snat,
                host_id: record::text(gateway.host),
                ..v1::ExternalGateway::default()
            }),
        }
    }

    fn from_record(record: v1::Router) -> Result<Self, String> {
        let route = |route: &v1::HostRoute| {
            let destination = record::prefix(&route.destination)?;
            Ok(HostRoute { destination, next_hop: record::address(&route.nexthop)? })
        };
        let gateway = |gateway: v1::ExternalGateway| {
            Ok::<_, String>(Gateway {
                network: record::uuid(&gateway.network_id)?,
                snat: gateway.enable_snat,
                host: record::optional(&gateway.host_id, record::uuid)?,
            })
        };
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: record.name,
            project: record::uuid(&record.project_id)?,
            number: record.number,
            routes: record::all(&record.routes, route)?,
            gateway: record.external_gateway.map(gateway).transpose()?,
        })
    }

    fn index(&self, index: &mut RouterIndex, present: bool) {
        index.of_project.set(self.project, self.id, present);
        index.of_number.set(self.number, self.id, present);
        if let Some(gateway) = self.gateway {
            index.of_external.set(gateway.network, self.id, present);
            index.of_gateway_host.set(gateway.host, self.id, present);
        }
    }

    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        model.hosts_of_router(self.id)
    }
}

impl Model {
    /// Plans a router: joined to nothing yet.
    pub fn create_router(&self, request: &v1::CreateRouterRequest, id: Uuid) -> Planned<Router> {
        let project = self.project(&request.project, "project")?;
        self.admit::<Router>(project.id, &request.name)?;
        let start = self.next().next_router.clamp(1, NUMBER_MAX);
        let taken = &self.routers.index.of_number;
        let free = (start..=NUMBER_MAX).chain(1..start).find(|&number| taken.one(number).is_none());
        // There are fewer routers than numbers (limits::ROUTERS).
        let number = free.unwrap_or(NUMBER_MAX);
        let next_router = if number == NUMBER_MAX { 1 } else { number + 1 };
        let router =
            Router { id, name: request.name.clone(), project: project.id, number, routes: Vec::new(), gateway: None };
        let counters = Counters { next_router, ..self.next() };
        Ok((vec![Change::put(router.clone()), Change::put(counters)], router))
    }

    /// Plans its removal, its external gateway included. No subnet may be joined to it.
    pub fn delete_router(&self, named: &str, project: &str) -> Planned<Router> {
        let router: &Router = self.find(named, project, "router")?;
        let interfaces = self.interfaces_of(router.id).count();
        if interfaces > 0 {
            let by = format!("has {}", count(interfaces, "interface"));
            let remedy = format!("Remove them first: `weft router interface remove {} SUBNET`.", router.name);
            return Err(in_use(router, "router", &by, remedy));
        }
        let port = self.gateway_port(router.id).map(Change::remove);
        Ok((port.into_iter().chain([Change::remove(router)]).collect(), router.clone()))
    }

    /// Plans another route of a router. Its next hop is in a subnet that is joined to it, and no router.
    pub fn add_router_route(&self, request: &v1::AddRouterRouteRequest) -> Planned<Router> {
        let router: &Router = self.find(&request.router, &request.project, "router")?;
        let destination = destination(&request.destination)?;
        let next_hop = parse_address(&request.nexthop, "nexthop")?;
        if let Some(known) = router.routes.iter().find(|route| route.destination == destination) {
            return Err(Fault::invalid(
                "duplicate_route",
                "destination",
                format!("router {:?} has a route to {destination} already, by {}", router.name, known.next_hop),
                format!("Remove it first: `weft router route remove {} {destination}`.", router.name),
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        if router.routes.len() >= limits::ROUTES_PER_ROUTER {
            let remedy = "Remove routes that are not used, or give one for a wider range.";
            return Err(limit("routes of the router", limits::ROUTES_PER_ROUTER, remedy));
        }
        self.check_connected(router, destination, "destination")?;
        self.check_next_hop(router, next_hop)?;
        let mut updated = router.clone();
        updated.routes.push(HostRoute { destination, next_hop });
        updated.routes.sort_by_key(|route| route.destination);
        Ok((vec![Change::put(updated.clone())], updated))
    }

    /// What is joined to the router needs no route, and can have none; nor can the external network.
    fn check_connected(&self, router: &Router, destination: Ipv4Prefix, field: &str) -> Result<(), Fault> {
        let joined = self.router_subnets(router.id).map(|(_, subnet)| subnet);
        let connected = joined.chain(self.outside_of(router)).find(|subnet| subnet.prefix == destination);
        let Some(subnet) = connected else { return Ok(()) };
        Err(Fault::invalid(
            "route_to_connected",
            field,
            format!("{destination} is subnet {:?}, which is joined to router {:?}", subnet.name, router.name),
            "Give another destination; what is joined needs no route.",
        ))
    }

    fn check_next_hop(&self, router: &Router, next_hop: Ipv4Addr) -> Result<(), Fault> {
        let Some((_, subnet)) = self.router_subnets(router.id).find(|(_, subnet)| subnet.prefix.is_host(next_hop))
        else {
            let joined: Vec<String> =
                self.router_subnets(router.id).map(|(_, subnet)| subnet.prefix.to_string()).collect();
            return Err(Fault::invalid(
                "next_hop_unreachable",
                "nexthop",
                format!("{next_hop} is not a host's address of a subnet that is joined to router {:?}", router.name),
                if joined.is_empty() {
                    format!("Join one first: `weft router interface add {} SUBNET`.", router.name)
                } else {
                    format!("Give an address of {}.", joined.join(" or "))
                },
            ));
        };
        let Some(other) = self.port_with(subnet.id, next_hop).and_then(Port::router) else { return Ok(()) };
        Err(Fault::invalid(
            "next_hop_is_router",
            "nexthop",
            format!("{next_hop} is router {:?}", self.routers[other].name),
            "Give the address of a port of an instance; routes from router to router are not supported yet.",
        ))
    }

    /// Plans that a route goes.
    pub fn remove_router_route(&self, request: &v1::RemoveRouterRouteRequest) -> Planned<Router> {
        let router: &Router = self.find(&request.router, &request.project, "router")?;
        let destination = destination(&request.destination)?;
        let mut updated = router.clone();
        updated.routes.retain(|route| route.destination != destination);
        if updated == *router {
            return Err(Fault::invalid(
                "unknown_route",
                "destination",
                format!("router {:?} has no route to {destination}", router.name),
                format!("Give a destination that `weft router show {}` shows.", router.name),
            )
            .with_status(tonic::Code::NotFound));
        }
        Ok((vec![Change::put(updated.clone())], updated))
    }
}

/// Where a route may lead: to everything, or to addresses of hosts.
fn destination(text: &str) -> Result<Ipv4Prefix, Fault> {
    let prefix = Ipv4Prefix::parse(text, "destination")?;
    if prefix.is_unicast() || prefix.length() == 0 {
        return Ok(prefix);
    }
    let problem = format!("{prefix} is not a range for hosts");
    Err(Fault::invalid("bad_cidr", "destination", problem, "Give a unicast range, 10.9.0.0/16, or 0.0.0.0/0."))
}
