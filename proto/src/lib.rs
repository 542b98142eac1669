//! What Weft's programs share: the messages and services of `weft/v1/*.proto`, and the few things
//! that both ends must agree on to the letter.
//!
//! - [`v1`]: the generated types, documented in the `.proto` files.
//! - [`field`]: the one table of match fields: name, width, prerequisites.
//! - [`text`]: rules as a person reads and writes them.
//! - [`fault`]: errors that name a field and a remedy, to and from gRPC statuses.
//! - [`join`]: the token with which a machine becomes a host.
//! - [`digest`]: order-free sums by which two ends compare what they hold.
//! - `program`: what the servers do alike (with the feature of this name): settings, logs, requests.

pub mod digest;
pub mod fault;
pub mod field;
pub mod join;
#[cfg(feature = "program")]
pub mod program;
pub mod text;

/// The generated messages and services.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("weft.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.bin"));

/// Version of the bus and of the switch's API. Both ends must have the same.
pub const PROTOCOL: u32 = 1;

/// The largest number that an ordinary port may have (OpenFlow's `OFPP_MAX`).
pub const PORT_MAX: u32 = 0xffff_ff00;

/// The fabric numbers the ports of the cloud below this; on a switch with a controller, ports made by hand
/// have numbers from here up to [`UNDERLAY_PORT`], so that the two never meet.
pub const FIRST_MANUAL_PORT: u32 = 0x0080_0000;

/// The `af_xdp` port of a host's underlay, which the fabric's tunnels run over; further interfaces of the underlay
/// follow from [`SECOND_UNDERLAY_PORT`] on.
pub const UNDERLAY_PORT: u32 = 0x00ff_0000;
/// The port of the underlay's second interface, if it has one.
pub const SECOND_UNDERLAY_PORT: u32 = 0x00ff_0010;

/// Interfaces of an underlay, and addresses that tunnels to a host end at.
pub const UNDERLAY_ADDRESSES: usize = 16;

/// The ports of an underlay of several interfaces, in their order.
pub fn underlay_ports() -> impl Iterator<Item = u32> {
    std::iter::once(UNDERLAY_PORT).chain(SECOND_UNDERLAY_PORT..).take(UNDERLAY_ADDRESSES)
}

/// The fabric's VXLAN port of a host. From here on numbers belong to ports that each host has.
pub const TUNNEL_PORT: u32 = 0x00ff_0001;

/// The fabric's GRE port of a host, where one is needed.
pub const GRE_PORT: u32 = 0x00ff_0002;

/// The first `af_xdp` port of a host's physical networks: of the network that is first by name, and so on.
pub const FIRST_PHYSICAL_PORT: u32 = 0x00ff_0100;

/// Physical networks that one host may reach.
pub const PHYSICAL_NETWORKS: usize = 16;

/// Output to this reserved port goes back out of the ingress port (OpenFlow's `OFPP_IN_PORT`).
pub const PORT_IN_PORT: u32 = 0xffff_fff8;

/// From here on, reasons of punted packets are the fabric's own.
pub const FIRST_FABRIC_PUNT: u32 = 0xffff_ff00;

/// Reason of a punted ARP request in a reactive network: nobody knows who has the address.
pub const PUNT_ADDRESS: u32 = 0xffff_ff01;

/// Reason of another packet that is punted there: nobody knows where its MAC address is.
pub const PUNT_STATION: u32 = 0xffff_ff02;

/// The largest number that a meter may have (OpenFlow's `OFPM_MAX`).
pub const METER_MAX: u32 = 0xffff_0000;

/// The program's version: the crate's, with the commit that a release was built from, or "dev".
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WEFT_BUILD"), ")");
