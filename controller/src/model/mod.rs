//! What the cloud is: projects, networks, subnets, ports and hosts, and what must hold between them.
//! Plain types: no I/O, no clocks, no async.
//!
//! A change is made in two steps, so that a refused one changes nothing and a stored one cannot fail:
//! a *planner* (`Model::create_network`, …) checks a request against the model and gives the
//! [`Change`]s it amounts to; when the store has them, [`Model::apply`] makes them true.
//!
//! Invariants, kept by the planners: names are well-formed; a port's addresses lie in subnets of its
//! network and belong to no other port; MACs are unique in a network, segment ids and port numbers
//! in the cloud; nothing is removed that is in use.
//!
//! Called by `controller.rs` (planners, `apply`), `compile/` (reading) and `api/` (reading).

mod address;
mod host;
mod index;
mod lookup;
mod name;
mod network;
mod object;
mod plug;
mod port;
mod project;
mod subnet;
#[cfg(test)]
mod tests;

pub use address::{Ipv4Prefix, Mac};
pub use host::HostReport;
pub use index::Model;
pub use lookup::DEFAULT_PROJECT;
pub use name::{host_label, valid_name};
pub use object::{Change, Counters, FixedAddress, Host, HostRoute, Kind, Network, Object, Plug, Port, Project, Subnet};

/// The fabric numbers ports below this; from here on numbers belong to ports made by hand, and to those that
/// each host has (its tunnel, its underlay).
pub const FIRST_RESERVED_PORT: u32 = weft_proto::FIRST_MANUAL_PORT;

/// Bytes that VXLAN adds to a packet: outer IPv4, UDP, VXLAN and the inner Ethernet header.
pub const VXLAN_OVERHEAD: u32 = 50;

/// What a planner gives: the changes, and the object as it will be.
pub type Planned<T> = Result<(Vec<Change>, T), weft_proto::fault::Fault>;
