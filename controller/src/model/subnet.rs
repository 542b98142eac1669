//! Subnets: created, removed.

use super::address::parse_address;
use super::lookup::{in_use, limit};
use super::name::valid_domain;
use super::{Change, HostRoute, Ipv4Prefix, Kind, Model, Object, Planned, Subnet, valid_name};
use crate::limits;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

const DEFAULT_LEASE_SECONDS: u32 = 86_400;
const SHORTEST_LEASE_SECONDS: u32 = 60;

impl Model {
    /// Plans a subnet: it overlaps no other of its network, and what DHCP offers makes sense in it.
    pub fn create_subnet(&self, request: &v1::CreateSubnetRequest, id: Uuid) -> Planned<Subnet> {
        valid_name(&request.name, "name")?;
        let network = self.network(&request.network, &request.project, "network")?;
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
            dhcp: dhcp.filter(|_| !request.disable_dhcp),
            dns: dns_servers(&request.dns_nameservers)?,
            routes: host_routes(&request.host_routes, prefix)?,
            lease_seconds,
            domain: request.domain_name.clone(),
        };
        self.check_dhcp_mac(&subnet)?;
        Ok((vec![Change::Put(Object::Subnet(subnet.clone()))], subnet))
    }

    /// The MAC that DHCP answers from follows from the id; it must not meet another of the network.
    fn check_dhcp_mac(&self, subnet: &Subnet) -> Result<(), Fault> {
        let mac = subnet.dhcp_mac();
        let taken = self.port_of_mac.contains_key(&(subnet.network, mac))
            || self.subnets_of(subnet.network).any(|other| other.dhcp_mac() == mac);
        if !taken {
            return Ok(());
        }
        Err(Fault::invalid("duplicate_mac", "", format!("MAC {mac} is taken in the network"), "Try again.")
            .with_status(tonic::Code::Aborted))
    }

    /// Plans its removal. No port may have an address of it.
    pub fn delete_subnet(&self, named: &str, project: &str) -> Planned<()> {
        let subnet = self.subnet(named, project, "id")?;
        let first = (subnet.id, Ipv4Addr::UNSPECIFIED);
        let last = (subnet.id, Ipv4Addr::BROADCAST);
        if let Some((&(_, address), port)) = self.port_of_address.range(first..=last).next() {
            let by = format!("gives {address} to port {:?}", self.ports[port].name);
            return Err(in_use(Kind::Subnet, &subnet.name, &by, "Remove the ports that have its addresses first."));
        }
        Ok((vec![Change::Remove(Kind::Subnet, subnet.id)], ()))
    }
}

fn usable_prefix(cidr: &str) -> Result<Ipv4Prefix, Fault> {
    let prefix = Ipv4Prefix::parse(cidr, "cidr")?;
    let bad = |problem: String, remedy: &str| Err(Fault::invalid("bad_cidr", "cidr", problem, remedy));
    if !(8..=30).contains(&prefix.length()) {
        return bad(format!("{prefix} is too large or too small"), "Give a prefix length of 8 to 30.");
    }
    let address = prefix.address();
    if address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224 {
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

fn dns_servers(asked: &[String]) -> Result<Vec<Ipv4Addr>, Fault> {
    if asked.len() > limits::DNS_SERVERS {
        let problem = format!("{} DNS servers are too many", asked.len());
        let remedy = format!("Give at most {}.", limits::DNS_SERVERS);
        return Err(Fault::invalid("too_many", "dns_nameservers", problem, remedy));
    }
    let parse = |(index, text): (usize, &String)| parse_address(text, &format!("dns_nameservers[{index}]"));
    asked.iter().enumerate().map(parse).collect()
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
