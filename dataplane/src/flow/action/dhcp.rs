//! What a rule offers to a DHCP client, from and to its message.

use super::mac;
use crate::flow::message::{address, prefix, prefix_length};
use crate::respond::dhcp::DhcpOffer;
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// DNS servers that one DHCP reply can name: option 6, bounded so that the reply fits 576 bytes.
const DNS_SERVERS: usize = 8;
/// Classless routes that one DHCP reply can name.
const ROUTES: usize = 32;
/// Bytes of a label and of a name (RFC 1035, 2.3.4).
const LABEL_BYTES: usize = 63;
const DOMAIN_BYTES: usize = 253;
/// Smallest MTU that option 26 can carry (RFC 2132, 5.1).
const LEAST_MTU: u32 = 68;

/// The offer of a message; a fault's field is relative to it.
pub(super) fn from_message(reply: &v1::DhcpReply) -> Result<DhcpOffer, Fault> {
    let too_many = |place: &str, count: usize, most: usize| {
        if count <= most {
            return Ok(());
        }
        Err(Fault::invalid(
            "too_many",
            place,
            format!("{count} entries are more than the {most} that fit a reply"),
            format!("Give at most {most}."),
        ))
    };
    too_many("dns_servers", reply.dns_servers.len(), DNS_SERVERS)?;
    too_many("routes", reply.routes.len(), ROUTES)?;
    if reply.lease_seconds == 0 {
        return Err(Fault::invalid(
            "bad_lease",
            "lease_seconds",
            "a lease of 0 seconds",
            "Give a lease of at least 1 second; 4294967295 means for ever.",
        ));
    }
    let mtu = match reply.mtu {
        0 => None,
        mtu @ LEAST_MTU..=0xffff => Some(mtu as u16),
        mtu => {
            return Err(Fault::invalid(
                "bad_mtu",
                "mtu",
                format!("an MTU of {mtu} bytes"),
                "Use 68 to 65535, or 0 to offer none.",
            ));
        }
    };
    let dns_servers = reply.dns_servers.iter().enumerate();
    let routes = reply.routes.iter().enumerate();
    Ok(DhcpOffer {
        address: host_address(&reply.address, "address")?,
        prefix_length: prefix_length(reply.prefix_length, "prefix_length")?,
        server_address: host_address(&reply.server_address, "server_address")?,
        server_mac: mac(&reply.server_mac, "server_mac")?,
        router: (!reply.router.is_empty()).then(|| host_address(&reply.router, "router")).transpose()?,
        dns_servers: dns_servers
            .map(|(index, server)| host_address(server, &format!("dns_servers[{index}]")))
            .collect::<Result<_, _>>()?,
        mtu,
        lease_seconds: reply.lease_seconds,
        host_name: (!reply.host_name.is_empty()).then(|| host_name(&reply.host_name)).transpose()?,
        domain_name: (!reply.domain_name.is_empty()).then(|| domain_name(&reply.domain_name)).transpose()?,
        routes: routes
            .map(|(index, route)| {
                let route_place = format!("routes[{index}]");
                let (destination, length) =
                    prefix(&route.destination, route.prefix_length).map_err(|fault| fault.within(&route_place))?;
                Ok((destination, length, address(&route.next_hop, &format!("{route_place}.next_hop"))?))
            })
            .collect::<Result<_, Fault>>()?,
    })
}

pub(super) fn to_message(offer: &DhcpOffer) -> v1::DhcpReply {
    let bytes = |address: Ipv4Addr| address.octets().to_vec();
    v1::DhcpReply {
        address: bytes(offer.address),
        prefix_length: offer.prefix_length.into(),
        server_address: bytes(offer.server_address),
        server_mac: offer.server_mac.to_vec(),
        router: offer.router.map(bytes).unwrap_or_default(),
        dns_servers: offer.dns_servers.iter().copied().map(bytes).collect(),
        mtu: offer.mtu.map(u32::from).unwrap_or_default(),
        lease_seconds: offer.lease_seconds,
        host_name: offer.host_name.clone().unwrap_or_default(),
        domain_name: offer.domain_name.clone().unwrap_or_default(),
        routes: offer
            .routes
            .iter()
            .map(|&(destination, length, next_hop)| v1::ClasslessRoute {
                destination: bytes(destination),
                prefix_length: length.into(),
                next_hop: bytes(next_hop),
            })
            .collect(),
    }
}

/// The address of a host: not the zero, broadcast or a multicast address.
fn host_address(bytes: &[u8], place: &str) -> Result<Ipv4Addr, Fault> {
    let address = address(bytes, place)?;
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() {
        return Err(Fault::invalid(
            "bad_address",
            place,
            format!("{address} is not the address of a host"),
            "Give a unicast address.",
        ));
    }
    Ok(address)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// RFC 1123, 2.1.
fn host_name(name: &str) -> Result<String, Fault> {
    if is_label(name) {
        return Ok(name.to_owned());
    }
    Err(Fault::invalid(
        "bad_host_name",
        "host_name",
        format!("\"{}\" is not a host name", name.escape_debug()),
        "Use 1 to 63 letters, digits and hyphens, without a hyphen at either end.",
    ))
}

/// RFC 1035, 2.3.1.
fn domain_name(name: &str) -> Result<String, Fault> {
    if name.len() <= DOMAIN_BYTES && name.strip_suffix('.').unwrap_or(name).split('.').all(is_label) {
        return Ok(name.to_owned());
    }
    Err(Fault::invalid(
        "bad_domain_name",
        "domain_name",
        format!("\"{}\" is not a domain name", name.escape_debug()),
        "Use labels of letters, digits and hyphens, joined by dots, 253 bytes in all.",
    ))
}
