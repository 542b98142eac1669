//! What the cloud is: projects, networks, subnets, ports, security groups, routers, floating IPs and hosts, and what must
//! hold between them. Plain types: no I/O, no clocks, no async.
//!
//! A change is made in two steps, so that a refused one changes nothing and a stored one cannot fail:
//! a *planner* (`Model::create_network`, …) checks a request against the model and gives the
//! [`Change`]s it amounts to; when the store has them, [`Model::apply`] makes them true.
//!
//! Each kind of object has one file: its type, its record, its indexes, the hosts it touches ([`Object`]) and
//! its planners. The list of kinds stands at the end of this file.
//!
//! Invariants, kept by the planners: names are well-formed, and unique among the objects of a kind in a
//! project; a port's addresses lie in subnets of its network and belong to no other port; MACs are unique in a
//! network, segment ids, port and router numbers in the cloud, VLANs on a physical network; a port without port security
//! has neither security groups nor address pairs; a router's port is never plugged, and its subnets do not overlap, those outside
//! included; a floating IP that stands for a port has a router that leads to it; nothing is removed that is in use.
//!
//! Called by `controller.rs` (planners, `apply`), `store/` (records), `compile/` (reading) and `api/` (reading).

mod address;
mod collection;
mod counters;
mod external_gateway;
mod floating_ip;
mod host;
mod lookup;
mod name;
mod network;
mod object;
mod plug;
mod port;
mod port_security;
mod project;
mod record;
mod router;
mod router_interface;
mod security_group;
mod security_group_rule;
mod segment;
mod subnet;
#[cfg(test)]
mod tests;
mod underlay;

pub use address::{Ipv4Prefix, Mac};
pub use collection::{By, Collection};
pub use counters::{Counters, CountersRecord};
pub use external_gateway::{Gateway, reaches};
pub use floating_ip::{FloatingIp, FloatingIpIndex, FloatingTarget};
pub use host::{Host, HostIndex, HostReport, PhysicalInterface};
pub use lookup::DEFAULT_PROJECT;
pub use name::{host_label, valid_name};
pub use network::{Network, NetworkIndex};
pub use object::{Change, Object, Stored};
pub use port::{AddressPair, Device, FixedAddress, Plug, Port, PortIndex};
pub use project::Project;
pub use router::{Router, RouterIndex};
pub use security_group::{DEFAULT_GROUP, SecurityGroup, SecurityGroupIndex};
pub use security_group_rule::{Direction, Ports, Protocol, Remote, SecurityGroupRule, SecurityGroupRuleIndex};
pub use segment::SegmentType;
pub use subnet::{HostRoute, Pool, Subnet, SubnetIndex};
pub use underlay::UnderlayAddress;

/// The fabric numbers ports below this; from here on numbers belong to ports made by hand, and to those that
/// each host has (its tunnel, its underlay).
pub const FIRST_RESERVED_PORT: u32 = weft_proto::FIRST_MANUAL_PORT;

/// What a planner gives: the changes, and the object as it will be.
pub type Planned<T> = Result<(Vec<Change>, T), weft_proto::fault::Fault>;

object::objects! {
    counters: Counters,
    projects: Project,
    hosts: Host,
    networks: Network,
    subnets: Subnet,
    security_groups: SecurityGroup,
    security_group_rules: SecurityGroupRule,
    routers: Router,
    ports: Port,
    floating_ips: FloatingIp,
}
