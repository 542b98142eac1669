//! Subnets: created, removed.

use super::address::parse_address;
use super::lookup::{in_use, limit};
use super::name::valid_domain;
use super::{By, Change, Device, Ipv4Prefix, Mac, Model, Network, Object, Planned, record};
use crate::limits;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

const DEFAULT_LEASE_SECONDS: u32 = 86_400;
const SHORTEST_LEASE_SECONDS: u32 = 60;

/// A range of addresses of a network, and what DHCP says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the project.
    pub name: String,
    /// That of the network.
    pub project: Uuid,
    /// The network it belongs to.
    pub network: Uuid,
    /// Does not overlap another subnet of the network.
    pub prefix: Ipv4Prefix,
    /// Offered as the router.
    pub gateway: Option<Ipv4Addr>,
    /// The address DHCP is answered from; `None` if it is not.
    pub dhcp: Option<Ipv4Addr>,
    /// Offered in this order.
    pub dns: Vec<Ipv4Addr>,
    /// Offered in this order.
    pub routes: Vec<HostRoute>,
    /// Seconds.
    pub lease_seconds: u32,
    /// Offered; empty: none.
    pub domain: String,
    /// From which addresses are chosen, ascending; empty: from all.
    pub pools: Vec<Pool>,
}

/// Addresses from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pool {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

/// A route that DHCP offers, or that a router has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where to.
    pub destination: Ipv4Prefix,
    /// Through which router; for DHCP an address of the subnet.
    pub next_hop: Ipv4Addr,
}

impl Subnet {
    /// The MAC that DHCP is answered from, and that ARP gives for its address.
    #[must_use]
    pub fn dhcp_mac(&self) -> Mac {
        Mac::generated(Mac::DHCP, self.id, 0)
    }

    /// From which addresses are chosen.
    #[must_use]
    pub fn pools(&self) -> Vec<Pool> {
        if !self.pools.is_empty() {
            return self.pools.clone();
        }
        let mut hosts = self.prefix.hosts();
        let whole = hosts.next().zip(hosts.next_back()).map(|(first, last)| Pool { first, last });
        whole.into_iter().collect()
    }

    /// The addresses to choose from, ascending.
    pub(super) fn offered(&self) -> impl Iterator<Item = Ipv4Addr> {
        let pools = self.pools().into_iter();
        pools.flat_map(|pool| (u32::from(pool.first)..=u32::from(pool.last)).map(Ipv4Addr::from))
    }

    /// Whether the address is one of them.
    pub(super) fn offers(&self, address: Ipv4Addr) -> bool {
        self.pools().iter().any(|pool| (pool.first..=pool.last).contains(&address))
    }
}

/// By what subnets are found.
#[derive(Clone, Debug, Default)]
pub struct SubnetIndex {
    of_network: By<Uuid>,
}

impl Object for Subnet {
    const WORD: &'static str = "subnet";
    const MOST: usize = limits::NETWORKS * limits::SUBNETS_PER_NETWORK;
    type Record = v1::Subnet;
    type Index = SubnetIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn project(&self) -> Uuid {
        self.project
    }

    fn record(&self) -> v1::Subnet {
        let route = |route: &HostRoute| v1::HostRoute {
            destination: route.destination.to_string(),
            nexthop: route.next_hop.to_string(),
        };
        v1::Subnet {
            id: self.id.to_string(),
            name: self.name.clone(),
            project_id: self.project.to_string(),
            network_id: self.network.to_string(),
            cidr: self.prefix.to_string(),
            gateway_ip: record::text(self.gateway),
            enable_dhcp: self.dhcp.is_some(),
            dns_nameservers: self.dns.iter().map(ToString::to_string).collect(),
            host_routes: self.routes.iter().map(route).collect(),
            dhcp_address: record::text(self.dhcp),
            lease_seconds: self.lease_seconds,
            domain_name: self.domain.clone(),
            allocation_pools: self
                .pools
                .iter()
                .map(|pool| v1::AllocationPool { start: pool.first.to_string(), end: pool.last.to_string() })
                .collect(),
        }
    }

    fn from_record(record: v1::Subnet) -> Result<Self, String> {
        let route = |route: &v1::HostRoute| {
            let destination = record::prefix(&route.destination)?;
            Ok(HostRoute { destination, next_hop: record::address(&route.nexthop)? })
        };
        let pool = |pool: &v1::AllocationPool| {
            Ok(Pool { first: record::address(&pool.start)?, last: record::address(&pool.end)? })
        };
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: record.name,
            project: record::uuid(&record.project_id)?,
            network: record::uuid(&record.network_id)?,
            prefix: record::prefix(&record.cidr)?,
            gateway: record::optional(&record.gateway_ip, record::address)?,
            dhcp: record::optional(&record.dhcp_address, record::address)?,
            dns: record::all(&record.dns_nameservers, |text| record::address(text))?,
            routes: record::all(&record.host_routes, route)?,
            lease_seconds: record.lease_seconds,
            domain: record.domain_name,
            pools: record::all(&record.allocation_pools, pool)?,
        })
    }

    fn index(&self, index: &mut SubnetIndex, present: bool) {
        index.of_network.set(self.network, self.id, present);
    }

    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        model.hosts_reaching(self.network)
    }
}

impl Model {
    /// The network's subnets, by id.
    pub fn subnets_of(&self, network: Uuid) -> impl Iterator<Item = &Subnet> {
        self.subnets.among(self.subnets.index.of_network.of(network))
    }

    /// Plans a subnet: it overlaps no other of its network, and what DHCP offers makes sense in it. In an external
    /// network there is no DHCP, and a gateway, which is not ours.
    pub fn create_subnet(&self, request: &v1::CreateSubnetRequest, id: Uuid) -> Planned<Subnet> {
        let network: &Network = self.find(&request.network, &request.project, "network")?;
        self.admit::<Subnet>(network.project, &request.name)?;
        let prefix = usable_prefix(&request.cidr)?;
        for other in self.subnets_of(network.id) {
            if other.prefix.overlaps(prefix) {
                return Err(Fault::invalid(
                    "overlapping_subnet",
                    "cidr",
                    format!("{prefix} overlaps {} of subnet {:?} in the same network", other.prefix, other.name),
                    "Choose another range, or another network.",
                ));
            }
        }
        if self.subnets_of(network.id).count() >= limits::SUBNETS_PER_NETWORK {
            return Err(limit("subnets in the network", limits::SUBNETS_PER_NETWORK, "Make another network."));
        }
        let gateway = gateway(&request.gateway_ip, prefix)?;
        offered_by_nobody(request)?;
        if network.external && gateway.is_none() {
            return Err(Fault::invalid(
                "no_gateway",
                "gateway_ip",
                format!("network {:?} is external: what leads on from there must be known", network.name),
                "Give the address of the router outside.",
            ));
        }
        let dhcp = prefix.hosts().rev().find(|&address| Some(address) != gateway);
        let lease_seconds = if request.lease_seconds == 0 { DEFAULT_LEASE_SECONDS } else { request.lease_seconds };
        if lease_seconds < SHORTEST_LEASE_SECONDS {
            return Err(Fault::invalid(
                "bad_lease",
                "lease_seconds",
                format!("a lease of {lease_seconds} seconds is too short"),
                format!("Give at least {SHORTEST_LEASE_SECONDS}."),
            ));
        }
        if !request.domain_name.is_empty() {
            valid_domain(&request.domain_name, "domain_name")?;
        }
        let subnet = Subnet {
            id,
            name: request.name.clone(),
            project: network.project,
            network: network.id,
            prefix,
            gateway,
            dhcp: dhcp.filter(|_| !request.disable_dhcp && !network.external),
            dns: dns_servers(&request.dns_nameservers)?,
            routes: host_routes(&request.host_routes, prefix)?,
            lease_seconds,
            domain: request.domain_name.clone(),
            pools: pools(&request.allocation_pools, prefix, gateway)?,
        };
        self.check_dhcp_mac(&subnet)?;
        for router in self.routers_leaving_by(network.id).filter_map(|router| self.routers.get(router)) {
            self.check_inside(router, &subnet, "cidr")?;
        }
        Ok((vec![Change::put(subnet.clone())], subnet))
    }

    /// The MAC that DHCP answers from follows from the id; it must not meet another of the network.
    fn check_dhcp_mac(&self, subnet: &Subnet) -> Result<(), Fault> {
        let mac = subnet.dhcp_mac();
        let taken = self.ports.index.of_mac.one((subnet.network, mac)).is_some()
            || self.subnets_of(subnet.network).any(|other| other.dhcp_mac() == mac);
        if !taken {
            return Ok(());
        }
        Err(Fault::invalid("duplicate_mac", "", format!("MAC {mac} is taken in the network"), "Try again.")
            .with_status(tonic::Code::Aborted))
    }

    /// Plans its removal. No port may have an address of it.
    pub fn delete_subnet(&self, named: &str, project: &str) -> Planned<Subnet> {
        let subnet: &Subnet = self.find(named, project, "subnet")?;
        let addresses = (subnet.id, Ipv4Addr::UNSPECIFIED)..=(subnet.id, Ipv4Addr::BROADCAST);
        let mut used = self.ports.index.of_address.range(addresses);
        if let Some((&(_, address), port)) = used.next() {
            match self.ports[port].device {
                Some(Device::Interface(router)) => {
                    let name = &self.routers[router].name;
                    let remedy = format!("Take it off first: `weft router interface remove {name} {}`.", subnet.name);
                    return Err(in_use(subnet, "subnet", &format!("is joined to router {name:?}"), remedy));
                }
                Some(Device::Gateway(router)) => {
                    let name = &self.routers[router].name;
                    let remedy = format!("Remove it first: `weft router gateway clear {name}`.");
                    return Err(in_use(subnet, "subnet", &format!("has the gateway of router {name:?}"), remedy));
                }
                Some(Device::FloatingIp(_)) => {
                    let remedy = format!("Remove it first: `weft floating-ip delete {address}`.");
                    return Err(in_use(subnet, "subnet", &format!("has floating IP {address}"), remedy));
                }
                None => {}
            }
            let name = self.ports.get(port).map_or("", |port| port.name.as_str());
            let by = format!("gives {address} to port {name:?}");
            return Err(in_use(subnet, "subnet", &by, "Remove the ports that have its addresses first."));
        }
        Ok((vec![Change::remove(subnet)], subnet.clone()))
    }
}

fn usable_prefix(cidr: &str) -> Result<Ipv4Prefix, Fault> {
    let prefix = Ipv4Prefix::parse(cidr, "cidr")?;
    let bad = |problem: String, remedy: &str| Err(Fault::invalid("bad_cidr", "cidr", problem, remedy));
    if prefix.length() < 8 {
        return bad(format!("{prefix} is too large a range"), "Give a prefix length of at least 8: 10.0.0.0/8.");
    }
    if prefix.length() > 30 {
        let problem = format!("{prefix} has no room for a gateway and a host");
        return bad(problem, "Give a prefix length of at most 30: 10.0.0.0/30.");
    }
    if !prefix.is_unicast() {
        return bad(format!("{prefix} is not a range for hosts"), "Give a unicast range: 10.0.0.0/24.");
    }
    Ok(prefix)
}

fn gateway(asked: &str, prefix: Ipv4Prefix) -> Result<Option<Ipv4Addr>, Fault> {
    match asked {
        "" => Ok(prefix.hosts().next()),
        "none" => Ok(None),
        address => {
            let address = parse_address(address, "gateway_ip")?;
            if prefix.is_host(address) {
                return Ok(Some(address));
            }
            Err(Fault::invalid(
                "gateway_outside_subnet",
                "gateway_ip",
                format!("{address} is not a host's address of {prefix}"),
                "Give an address of the subnet other than its first and last, or \"none\".",
            ))
        }
    }
}

/// Refuses what only DHCP would tell, where it is off.
fn offered_by_nobody(request: &v1::CreateSubnetRequest) -> Result<(), Fault> {
    let offers = [
        ("dns_nameservers", !request.dns_nameservers.is_empty()),
        ("host_routes", !request.host_routes.is_empty()),
        ("lease_seconds", request.lease_seconds != 0),
        ("domain_name", !request.domain_name.is_empty()),
    ];
    match offers.into_iter().find(|(_, given)| *given && request.disable_dhcp) {
        None => Ok(()),
        Some((field, _)) => Err(Fault::invalid(
            "no_dhcp",
            field,
            "only DHCP tells it to instances, and DHCP is off",
            "Leave it out, or leave DHCP on.",
        )),
    }
}

fn dns_servers(asked: &[String]) -> Result<Vec<Ipv4Addr>, Fault> {
    if asked.len() > limits::DNS_SERVERS {
        let problem = format!("{} DNS servers are too many", asked.len());
        let remedy = format!("Give at most {}.", limits::DNS_SERVERS);
        return Err(Fault::invalid("too_many", "dns_nameservers", problem, remedy));
    }
    let parse = |(index, text): (usize, &String)| parse_address(text, &format!("dns_nameservers[{index}]"));
    asked.iter().enumerate().map(parse).collect()
}

fn pools(asked: &[v1::AllocationPool], prefix: Ipv4Prefix, gateway: Option<Ipv4Addr>) -> Result<Vec<Pool>, Fault> {
    if asked.len() > limits::ALLOCATION_POOLS {
        let problem = format!("{} allocation pools are too many", asked.len());
        let remedy = format!("Give at most {}.", limits::ALLOCATION_POOLS);
        return Err(Fault::invalid("too_many", "allocation_pools", problem, remedy));
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (index, pool) in asked.iter().enumerate() {
        let field = |name: &str| format!("allocation_pools[{index}].{name}");
        let parse = |text: &str, name: &str| {
            let address = parse_address(text, &field(name))?;
            if prefix.is_host(address) {
                return Ok(address);
            }
            Err(Fault::invalid(
                "address_outside_subnet",
                field(name),
                format!("{address} is not a host's address of {prefix}"),
                "Give an address of the subnet other than its first and last.",
            ))
        };
        let pool = Pool { first: parse(&pool.start, "start")?, last: parse(&pool.end, "end")? };
        let overlapping = pools.iter().find(|other| other.first <= pool.last && pool.first <= other.last);
        let inside = gateway.filter(|gateway| (pool.first..=pool.last).contains(gateway));
        if let Some(gateway) = inside.filter(|_| pool.first <= pool.last) {
            return Err(Fault::invalid(
                "bad_pool",
                format!("allocation_pools[{index}]"),
                format!("{pool} contains the gateway, {gateway}"),
                "Leave that address out: give the ranges before and after it.",
            ));
        }
        let problem = match overlapping {
            _ if pool.first > pool.last => format!("{pool} ends before it begins"),
            Some(other) => format!("{pool} overlaps {other}"),
            None => {
                pools.push(pool);
                continue;
            }
        };
        let remedy = "Give ranges that do not overlap, each from its first address to its last.";
        return Err(Fault::invalid("bad_pool", format!("allocation_pools[{index}]"), problem, remedy));
    }
    pools.sort();
    Ok(pools)
}

fn host_routes(asked: &[v1::HostRoute], prefix: Ipv4Prefix) -> Result<Vec<HostRoute>, Fault> {
    if asked.len() > limits::HOST_ROUTES {
        let problem = format!("{} host routes are too many", asked.len());
        let remedy = format!("Give at most {}.", limits::HOST_ROUTES);
        return Err(Fault::invalid("too_many", "host_routes", problem, remedy));
    }
    let mut routes: Vec<HostRoute> = Vec::new();
    for (index, route) in asked.iter().enumerate() {
        let field = |name: &str| format!("host_routes[{index}].{name}");
        let destination = Ipv4Prefix::parse(&route.destination, &field("destination"))?;
        let next_hop = parse_address(&route.nexthop, &field("nexthop"))?;
        if !prefix.is_host(next_hop) {
            return Err(Fault::invalid(
                "address_outside_subnet",
                field("nexthop"),
                format!("{next_hop} is not a host's address of {prefix}"),
                "Give a router in the subnet.",
            ));
        }
        if routes.iter().any(|other| other.destination == destination) {
            return Err(Fault::invalid(
                "duplicate_route",
                field("destination"),
                format!("{destination} is named twice"),
                "Give one route to each destination.",
            ));
        }
        routes.push(HostRoute { destination, next_hop });
    }
    Ok(routes)
}
