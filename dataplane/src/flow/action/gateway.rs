//! What a gateway does at the external side, between messages and the form the walk uses: next hops, what is
//! learnt of them, NAT one to one.

use super::{Action, mac};
use crate::flow::message::{address, port_number};
use crate::respond::icmp;
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// See `flow.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// The port to ask by.
    pub port: u32,
    /// The VLAN that requests are tagged with; 0: none.
    pub vlan: u16,
    /// The next hop; `None`: the packet's destination.
    pub hop: Option<Ipv4Addr>,
    /// Who asks.
    pub source: Ipv4Addr,
    /// Likewise.
    pub mac: [u8; 6],
}

/// As it was asked for.
pub(super) fn neighbour_to_message(neighbour: &Neighbour) -> v1::Neighbour {
    v1::Neighbour {
        port: neighbour.port,
        source: neighbour.source.octets().to_vec(),
        mac: neighbour.mac.to_vec(),
        vlan: neighbour.vlan.into(),
        hop: neighbour.hop.map_or(Vec::new(), |hop| hop.octets().to_vec()),
    }
}

/// # Errors
/// The first thing that is wrong; the field is relative to the message.
pub(super) fn neighbour_from_message(message: &v1::Neighbour) -> Result<Neighbour, Fault> {
    Ok(Neighbour {
        port: port_number(message.port, "port")?,
        vlan: vlan(message.vlan)?,
        hop: host(&message.hop, "hop", "Use the address of a router on the link, or none: the packet's destination.")?,
        source: host(&message.source, "source", "Use an address of this switch's side on the link.")?.ok_or_else(
            || {
                Fault::invalid(
                    "missing_field",
                    "source",
                    "nobody is named who asks for the next hop",
                    "Give an address on the link that answers come to.",
                )
            },
        )?,
        mac: mac(&message.mac, "mac")?,
    })
}

/// # Errors
/// Likewise.
pub(super) fn learn_from_message(message: &v1::LearnNeighbour) -> Result<Action, Fault> {
    let port = if message.port == 0 { 0 } else { port_number(message.port, "port")? };
    Ok(Action::LearnNeighbour { port, vlan: vlan(message.vlan)? })
}

/// # Errors
/// Likewise.
pub(super) fn translate_from_message(message: &v1::Translate) -> Result<Action, Fault> {
    const REMEDY: &str = "Use an address of which packets may come.";
    let source = host(&message.source, "source", REMEDY)?;
    let destination = host(&message.destination, "destination", REMEDY)?;
    if source.is_none() && destination.is_none() {
        return Err(Fault::invalid(
            "missing_field",
            "source",
            "no address is given to replace the packet's",
            "Give source, destination, or both.",
        ));
    }
    Ok(Action::Translate { source, destination })
}

/// A VLAN of an 802.1Q tag; 0: none.
///
/// # Errors
/// It is reserved.
pub fn vlan(number: u32) -> Result<u16, Fault> {
    u16::try_from(number).ok().filter(|&vlan| vlan <= 4094).ok_or_else(|| {
        Fault::invalid(
            "bad_vlan",
            "vlan",
            format!("{number} is not a VLAN"),
            "Use 1 to 4094, or 0 for frames without a tag.",
        )
    })
}

/// An address that a host may have; none if empty.
///
/// # Errors
/// It is none, for which `remedy` says what to do.
pub fn host(bytes: &[u8], place: &str, remedy: &str) -> Result<Option<Ipv4Addr>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let address = address(bytes, place)?;
    if icmp::is_host(address.octets()) {
        return Ok(Some(address));
    }
    Err(Fault::invalid("bad_address", place, format!("{address} cannot be the address of a host"), remedy))
}
