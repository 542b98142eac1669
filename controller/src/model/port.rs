//! Ports: created, removed.

use super::address::parse_address;
use super::lookup::{in_use, limit};
use super::{
    Change, Counters, FIRST_RESERVED_PORT, FixedAddress, Kind, Mac, Model, Network, Object, Planned, Port, Subnet,
    valid_name,
};
use crate::limits;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

impl Model {
    /// Plans a port: its MAC is free in the network, its addresses lie in subnets of it and are free.
    pub fn create_port(&self, request: &v1::CreatePortRequest, id: Uuid) -> Planned<Port> {
        valid_name(&request.name, "name")?;
        let network = self.network(&request.network, &request.project, "network")?;
        if self.ports.len() >= limits::PORTS {
            return Err(limit("ports", limits::PORTS, "Remove ports that are not used."));
        }
        if self.ports_of_network.get(&network.id).is_some_and(|ports| ports.len() >= limits::PORTS_PER_NETWORK) {
            return Err(limit("ports in the network", limits::PORTS_PER_NETWORK, "Make another network."));
        }
        let mac = self.choose_mac(&request.mac_address, network.id, id)?;
        let addresses = self.choose_addresses(&request.fixed_ips, network)?;
        let number = self.choose_number();
        let counters = Counters { next_port: number + 1, ..self.counters };
        let port = Port {
            id,
            name: request.name.clone(),
            project: network.project,
            network: network.id,
            mac,
            addresses,
            number,
            plug: None,
        };
        let changes = vec![Change::Put(Object::Port(port.clone())), Change::Put(Object::Counters(counters))];
        Ok((changes, port))
    }

    fn choose_number(&self) -> u32 {
        let last = FIRST_RESERVED_PORT - 1;
        let start = if self.counters.next_port > last { 1 } else { self.counters.next_port.max(1) };
        let free = (start..=last).chain(1..start).find(|number| !self.port_of_number.contains_key(number));
        // There are fewer ports than numbers (limits::PORTS).
        free.unwrap_or(last)
    }

    fn mac_taken(&self, network: Uuid, mac: Mac) -> bool {
        self.port_of_mac.contains_key(&(network, mac))
            || self.subnets_of(network).any(|subnet| subnet.dhcp_mac() == mac)
    }

    fn choose_mac(&self, asked: &str, network: Uuid, id: Uuid) -> Result<Mac, Fault> {
        if asked.is_empty() {
            let mut candidates = (0..64).map(|attempt| Mac::generated(Mac::PORTS, id, attempt));
            return candidates.find(|&mac| !self.mac_taken(network, mac)).ok_or_else(|| {
                Fault::invalid("duplicate_mac", "mac_address", "no free MAC was found", "Give one.")
                    .with_status(tonic::Code::ResourceExhausted)
            });
        }
        let mac = asked.parse::<Mac>().ok().filter(|mac| mac.is_station()).ok_or_else(|| {
            Fault::invalid(
                "bad_mac",
                "mac_address",
                format!("{asked:?} is not the MAC address of a station"),
                "Write six octets in hexadecimal, the first of them even: 02:00:00:00:00:01.",
            )
        })?;
        if self.mac_taken(network, mac) {
            return Err(Fault::invalid(
                "duplicate_mac",
                "mac_address",
                format!("{mac} is taken in network {:?}", self.networks[&network].name),
                "Give another, or none to have one chosen.",
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        Ok(mac)
    }

    fn choose_addresses(&self, asked: &[v1::FixedIp], network: &Network) -> Result<Vec<FixedAddress>, Fault> {
        if asked.len() > limits::ADDRESSES_PER_PORT {
            let problem = format!("{} addresses are too many", asked.len());
            let remedy = format!("Give at most {}.", limits::ADDRESSES_PER_PORT);
            return Err(Fault::invalid("too_many", "fixed_ips", problem, remedy));
        }
        if asked.is_empty() {
            // By range: ids are random, and "the first" must mean the same every time.
            let first = self.subnets_of(network.id).min_by_key(|subnet| subnet.prefix);
            return first
                .map(|subnet| self.free_address(subnet, "fixed_ips").map(|address| vec![address]))
                .unwrap_or(Ok(Vec::new()));
        }
        let mut chosen: Vec<FixedAddress> = Vec::new();
        for (index, entry) in asked.iter().enumerate() {
            let place = format!("fixed_ips[{index}]");
            let fixed = self.choose_address(entry, network, &place)?;
            if chosen.iter().any(|other| other.subnet == fixed.subnet) {
                return Err(Fault::invalid(
                    "duplicate_subnet",
                    place,
                    format!("the port would have two addresses of subnet {:?}", self.subnets[&fixed.subnet].name),
                    "Give at most one address of each subnet.",
                ));
            }
            chosen.push(fixed);
        }
        Ok(chosen)
    }

    fn choose_address(&self, entry: &v1::FixedIp, network: &Network, place: &str) -> Result<FixedAddress, Fault> {
        let subnet_field = format!("{place}.subnet_id");
        let address_field = format!("{place}.ip_address");
        let subnet = if entry.subnet_id.is_empty() {
            None
        } else {
            let project = network.project.to_string();
            Some(self.subnet(&entry.subnet_id, &project, &subnet_field)?)
        };
        if let Some(subnet) = subnet.filter(|subnet| subnet.network != network.id) {
            return Err(Fault::invalid(
                "subnet_of_other_network",
                subnet_field,
                format!("subnet {:?} does not belong to network {:?}", subnet.name, network.name),
                format!("Choose one that `weft subnet list --network {}` shows.", network.name),
            ));
        }
        if entry.ip_address.is_empty() {
            let subnet = subnet.ok_or_else(|| {
                Fault::invalid("bad_address", place, "the entry is empty", "Give a subnet, an address, or both.")
            })?;
            return self.free_address(subnet, &subnet_field);
        }
        let address = parse_address(&entry.ip_address, &address_field)?;
        let inside = |subnet: &&Subnet| subnet.prefix.is_host(address);
        let Some(subnet) = subnet.or_else(|| self.subnets_of(network.id).find(inside)).filter(inside) else {
            let ranges: Vec<String> = match subnet {
                Some(subnet) => vec![subnet.prefix.to_string()],
                None => self.subnets_of(network.id).map(|subnet| subnet.prefix.to_string()).collect(),
            };
            return Err(Fault::invalid(
                "address_outside_subnet",
                address_field,
                format!("{address} is not a host's address of network {:?}", network.name),
                if ranges.is_empty() {
                    "The network has no subnet: create one first.".to_owned()
                } else {
                    format!("Give an address inside {}, other than its first and last.", ranges.join(" or "))
                },
            ));
        };
        if let Some(owner) = self.address_owner(subnet, address) {
            return Err(Fault::invalid(
                "address_taken",
                address_field,
                format!("{address} belongs to {owner}"),
                "Give another, or none to have one chosen.",
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        Ok(FixedAddress { subnet: subnet.id, address })
    }

    /// Who has the address; a gateway's may be given to the port that is the gateway.
    fn address_owner(&self, subnet: &Subnet, address: Ipv4Addr) -> Option<String> {
        if subnet.dhcp == Some(address) {
            return Some(format!("DHCP of subnet {:?}", subnet.name));
        }
        let port = self.port_of_address.get(&(subnet.id, address))?;
        Some(format!("port {:?}", self.ports[port].name))
    }

    fn free_address(&self, subnet: &Subnet, field: &str) -> Result<FixedAddress, Fault> {
        let free =
            |address: &Ipv4Addr| subnet.gateway != Some(*address) && self.address_owner(subnet, *address).is_none();
        let address = subnet.prefix.hosts().find(free).ok_or_else(|| {
            Fault::invalid(
                "no_free_address",
                field,
                format!("subnet {:?} ({}) has no free address", subnet.name, subnet.prefix),
                "Remove ports that are not used, or create another subnet.",
            )
            .with_status(tonic::Code::ResourceExhausted)
        })?;
        Ok(FixedAddress { subnet: subnet.id, address })
    }

    /// Plans its removal. It must not be plugged.
    pub fn delete_port(&self, named: &str, project: &str) -> Planned<()> {
        let port = self.port(named, project, "id")?;
        if let Some(plug) = &port.plug {
            let by = format!("is plugged on host {:?}", self.hosts[&plug.host].name);
            let remedy = format!("Unplug it first: `weft port unplug {}`.", port.name);
            return Err(in_use(Kind::Port, &port.name, &by, remedy));
        }
        Ok((vec![Change::Remove(Kind::Port, port.id)], ()))
    }
}
