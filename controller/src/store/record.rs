//! Objects of the model as records: the messages of the API, with the fields that are status left out.
//! Their encoding already promises that old bytes stay readable; what it does not promise is a matter of
//! [`super::SCHEMA`].

use super::{Entry, Operation, Store, StoreError};
use crate::model::{Change, Counters, FixedAddress, Host, HostRoute, Ipv4Prefix, Kind, Mac, Model};
use crate::model::{Network, Object, Plug, Port, Project, Subnet};
use prost::Message;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1;

/// The counters' record.
#[derive(Clone, PartialEq, prost::Message)]
struct CountersRecord {
    #[prost(uint32, tag = "1")]
    next_port: u32,
    #[prost(uint32, tag = "2")]
    next_segment: u32,
}

fn key(kind: Kind, id: Uuid) -> String {
    format!("{}/{id}", kind.word())
}

/// The step that stores a change.
#[must_use]
pub fn operation(change: &Change) -> Operation {
    let (kind, id) = change.subject();
    let key = key(kind, id);
    match change {
        Change::Put(object) => Operation::Put(key, encode(object)),
        Change::Remove(..) => Operation::Delete(key),
    }
}

/// Reads the whole model.
pub fn load(store: &dyn Store) -> Result<Model, StoreError> {
    let mut model = Model::default();
    for kind in Kind::ALL {
        let (entries, _) = store.list(&format!("{}/", kind.word()))?;
        for entry in entries {
            let object = decode(kind, &entry)?;
            if key(object.kind(), object.id()) != entry.key {
                let problem = "it holds another object than its key says".to_owned();
                return Err(StoreError::Damaged { key: entry.key, problem });
            }
            model.apply(&Change::Put(object));
        }
    }
    Ok(model)
}

fn encode(object: &Object) -> Vec<u8> {
    match object {
        Object::Project(project) => project_message(project).encode_to_vec(),
        Object::Network(network) => network_message(network).encode_to_vec(),
        Object::Subnet(subnet) => subnet_message(subnet).encode_to_vec(),
        Object::Port(port) => port_message(port).encode_to_vec(),
        Object::Host(host) => host_message(host).encode_to_vec(),
        Object::Counters(counters) => {
            CountersRecord { next_port: counters.next_port, next_segment: counters.next_segment }.encode_to_vec()
        }
    }
}

fn decode(kind: Kind, entry: &Entry) -> Result<Object, StoreError> {
    let damaged = |problem: String| StoreError::Damaged { key: entry.key.clone(), problem };
    let bytes = entry.value.as_slice();
    let read = || -> Result<Object, String> {
        Ok(match kind {
            Kind::Project => Object::Project(project(message(bytes)?)?),
            Kind::Network => Object::Network(network(message(bytes)?)?),
            Kind::Subnet => Object::Subnet(subnet(message(bytes)?)?),
            Kind::Port => Object::Port(port(message(bytes)?)?),
            Kind::Host => Object::Host(host(message(bytes)?)?),
            Kind::Counters => {
                let record: CountersRecord = message(bytes)?;
                Object::Counters(Counters { next_port: record.next_port, next_segment: record.next_segment })
            }
        })
    };
    read().map_err(damaged)
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| error.to_string())
}

fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not {what}"))
}

fn uuid(text: &str) -> Result<Uuid, String> {
    parsed(text, "an id")
}

fn address(text: &str) -> Result<Ipv4Addr, String> {
    parsed(text, "an address")
}

fn optional_address(text: &str) -> Result<Option<Ipv4Addr>, String> {
    if text.is_empty() { Ok(None) } else { address(text).map(Some) }
}

fn prefix(text: &str) -> Result<Ipv4Prefix, String> {
    Ipv4Prefix::parse(text, "").map_err(|fault| fault.problem)
}

fn optional(address: Option<Ipv4Addr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

/// A project as the API shows it.
#[must_use]
pub fn project_message(project: &Project) -> v1::Project {
    v1::Project { id: project.id.to_string(), name: project.name.clone() }
}

fn project(message: v1::Project) -> Result<Project, String> {
    Ok(Project { id: uuid(&message.id)?, name: message.name })
}

/// A network as the API shows it.
#[must_use]
pub fn network_message(network: &Network) -> v1::Network {
    v1::Network {
        id: network.id.to_string(),
        name: network.name.clone(),
        project_id: network.project.to_string(),
        segment_id: network.segment,
        mtu: network.mtu,
    }
}

fn network(message: v1::Network) -> Result<Network, String> {
    Ok(Network {
        id: uuid(&message.id)?,
        name: message.name,
        project: uuid(&message.project_id)?,
        segment: message.segment_id,
        mtu: message.mtu,
    })
}

/// A subnet as the API shows it.
#[must_use]
pub fn subnet_message(subnet: &Subnet) -> v1::Subnet {
    v1::Subnet {
        id: subnet.id.to_string(),
        name: subnet.name.clone(),
        project_id: subnet.project.to_string(),
        network_id: subnet.network.to_string(),
        cidr: subnet.prefix.to_string(),
        gateway_ip: optional(subnet.gateway),
        enable_dhcp: subnet.dhcp.is_some(),
        dns_nameservers: subnet.dns.iter().map(ToString::to_string).collect(),
        host_routes: subnet
            .routes
            .iter()
            .map(|route| v1::HostRoute {
                destination: route.destination.to_string(),
                nexthop: route.next_hop.to_string(),
            })
            .collect(),
        dhcp_address: optional(subnet.dhcp),
        lease_seconds: subnet.lease_seconds,
        domain_name: subnet.domain.clone(),
    }
}

fn subnet(message: v1::Subnet) -> Result<Subnet, String> {
    let route = |route: &v1::HostRoute| {
        Ok(HostRoute { destination: prefix(&route.destination)?, next_hop: address(&route.nexthop)? })
    };
    Ok(Subnet {
        id: uuid(&message.id)?,
        name: message.name,
        project: uuid(&message.project_id)?,
        network: uuid(&message.network_id)?,
        prefix: prefix(&message.cidr)?,
        gateway: optional_address(&message.gateway_ip)?,
        dhcp: optional_address(&message.dhcp_address)?,
        dns: message.dns_nameservers.iter().map(|text| address(text)).collect::<Result<_, String>>()?,
        routes: message.host_routes.iter().map(route).collect::<Result<_, String>>()?,
        lease_seconds: message.lease_seconds,
        domain: message.domain_name,
    })
}

/// A port as the API shows it, without its status.
#[must_use]
pub fn port_message(port: &Port) -> v1::Port {
    let plug = port.plug.as_ref();
    v1::Port {
        id: port.id.to_string(),
        name: port.name.clone(),
        project_id: port.project.to_string(),
        network_id: port.network.to_string(),
        mac_address: port.mac.to_string(),
        fixed_ips: port
            .addresses
            .iter()
            .map(|fixed| v1::FixedIp { subnet_id: fixed.subnet.to_string(), ip_address: fixed.address.to_string() })
            .collect(),
        number: port.number,
        host_id: plug.map(|plug| plug.host.to_string()).unwrap_or_default(),
        interface: plug.map(|plug| plug.interface.clone()).unwrap_or_default(),
        netns: plug.map(|plug| plug.netns.clone()).unwrap_or_default(),
        ..v1::Port::default()
    }
}

fn port(message: v1::Port) -> Result<Port, String> {
    let fixed = |fixed: &v1::FixedIp| {
        Ok(FixedAddress { subnet: uuid(&fixed.subnet_id)?, address: address(&fixed.ip_address)? })
    };
    let plug = if message.host_id.is_empty() {
        None
    } else {
        Some(Plug { host: uuid(&message.host_id)?, interface: message.interface, netns: message.netns })
    };
    Ok(Port {
        id: uuid(&message.id)?,
        name: message.name,
        project: uuid(&message.project_id)?,
        network: uuid(&message.network_id)?,
        mac: parsed::<Mac>(&message.mac_address, "a MAC")?,
        addresses: message.fixed_ips.iter().map(fixed).collect::<Result<_, String>>()?,
        number: message.number,
        plug,
    })
}

/// A host as the API shows it, without its status.
#[must_use]
pub fn host_message(host: &Host) -> v1::Host {
    v1::Host {
        id: host.id.to_string(),
        name: host.name.clone(),
        underlay_address: optional(host.underlay),
        underlay_mtu: host.underlay_mtu,
        switch_version: host.version.clone(),
        ..v1::Host::default()
    }
}

fn host(message: v1::Host) -> Result<Host, String> {
    Ok(Host {
        id: uuid(&message.id)?,
        name: message.name,
        underlay: optional_address(&message.underlay_address)?,
        underlay_mtu: message.underlay_mtu,
        version: message.switch_version,
    })
}
