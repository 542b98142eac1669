//! Networks, their ports and addresses.

use super::Finding;
use super::evidence::Evidence;
use crate::cloud::port::awaits_machine;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_proto::v1;

/// Bytes that a tunnel adds to an instance's packet, with the inner Ethernet header.
const OVERHEADS: [(&str, u32); 2] = [("vxlan", 50), ("gre", 42)];

/// Percent of a subnet's addresses in use, from which it is nearly full.
const FULL_PERCENT: u64 = 90;

/// Networks on several hosts whose packets do not fit an underlay's.
pub fn mtu(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for network in &evidence.networks {
        let hosts: BTreeSet<&str> =
            evidence.plugged().filter(|port| port.network_id == network.id).map(|port| port.host_id.as_str()).collect();
        if hosts.len() < 2 {
            continue;
        }
        for host in evidence.hosts.iter().filter(|host| hosts.contains(host.id.as_str())) {
            let Some((what, mtu, overhead)) = carrier(host, network) else { continue };
            let needed = network.mtu + overhead;
            if mtu < needed {
                found.push(Finding::new(
                    format!("network {}", network.name),
                    format!(
                        "its packets of {} bytes need {needed} on {what}, which carries {mtu} at host {}",
                        network.mtu, host.name
                    ),
                    format!("Set the MTU of that interface of host {} to {needed}.", host.name),
                ));
            }
        }
    }
    found
}

/// What carries a network at a host: its name, its MTU, and the bytes that are added to a packet. `None`: not known.
fn carrier(host: &v1::Host, network: &v1::Network) -> Option<(String, u32, u32)> {
    let (what, mtu, overhead) = match OVERHEADS.iter().find(|(kind, _)| *kind == network.segment_type) {
        Some((_, overhead)) => ("the underlay".to_owned(), host.underlay_mtu, *overhead),
        None => {
            let reached = host.physical_networks.iter().find(|physical| physical.name == network.physical_network)?;
            (format!("physical network {}", reached.name), reached.mtu, 0)
        }
    };
    (mtu > 0).then_some((what, mtu, overhead))
}

/// Plugged, and not in service.
pub fn ports(evidence: &Evidence) -> Vec<Finding> {
    let away: BTreeSet<&str> =
        evidence.hosts.iter().filter(|host| !host.connected).map(|host| host.id.as_str()).collect();
    // Of ports whose host is away, that says all.
    let faulty = evidence.plugged().filter(|port| port.status != "ACTIVE" && !away.contains(port.host_id.as_str()));
    faulty
        .map(|port| {
            let at = format!("on host {} it is {}", evidence.host(&port.host_id), port.status);
            let fault = if awaits_machine(port) {
                format!("{at}: no virtual machine runs at socket {}. Start it there.", port.interface)
            } else if port.fault.is_empty() {
                format!("{at}: not acknowledged yet. Wait a moment; if it stays so, see \"weft status\".")
            } else {
                format!("{at}: {}", port.fault)
            };
            Finding::of_fault(format!("port {}", port.name), &fault)
        })
        .collect()
}

/// Subnets that have hardly an address left.
pub fn addresses(evidence: &Evidence) -> Vec<Finding> {
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for fixed in evidence.ports.iter().flat_map(|port| &port.fixed_ips) {
        *used.entry(fixed.subnet_id.as_str()).or_default() += 1;
    }
    let mut found = Vec::new();
    for subnet in &evidence.subnets {
        let Some(length) = subnet.cidr.rsplit_once('/').and_then(|(_, length)| length.parse::<u32>().ok()) else {
            continue;
        };
        let size = 1_u64 << 32_u32.saturating_sub(length);
        let taken = used.get(subnet.id.as_str()).copied().unwrap_or(0);
        // Without the network's own and the broadcast address; DHCP answers from one more.
        let all = if length < 31 { size - 2 } else { size }.saturating_sub(subnet.enable_dhcp.into());
        if all > 0 && taken > 1 && taken * 100 >= all * FULL_PERCENT {
            found.push(Finding::new(
                format!("subnet {}", subnet.name),
                format!("{taken} of its {all} addresses are taken"),
                format!(
                    "Remove ports that are not used, or add a subnet: weft subnet create NAME --network {} --cidr RANGE{}",
                    evidence.network(&subnet.network_id),
                    evidence.scope(&subnet.project_id)
                ),
            ));
        }
    }
    found
}

/// Address pairs that let a port speak as another one that is plugged.
pub fn pairs(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for port in evidence.plugged() {
        for pair in &port.allowed_address_pairs {
            let others = evidence.plugged().filter(|other| other.network_id == port.network_id && other.id != port.id);
            let holder = others.flat_map(|other| other.fixed_ips.iter().map(move |fixed| (other, fixed)));
            for (other, fixed) in holder.filter(|(_, fixed)| covers(&pair.ip_address, &fixed.ip_address)) {
                found.push(Finding::new(
                    format!("port {}", port.name),
                    format!(
                        "it may send from {}, the address of port {} (address pair {})",
                        fixed.ip_address, other.name, pair.ip_address
                    ),
                    format!(
                        "Narrow its address pairs: weft port set {}{} --address-pair …",
                        port.name,
                        evidence.scope(&port.project_id)
                    ),
                ));
            }
        }
    }
    found
}

/// Whether a range, or an address, has an address.
pub fn covers(range: &str, address: &str) -> bool {
    let (base, length) = range.split_once('/').unwrap_or((range, "32"));
    let (Ok(base), Ok(address), Ok(length)) =
        (base.parse::<Ipv4Addr>(), address.parse::<Ipv4Addr>(), length.parse::<u32>())
    else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
    u32::from(base) & mask == u32::from(address) & mask
}

/// Routers that lead out of the cloud where no host does.
pub fn gateways(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for router in &evidence.routers {
        let Some(gateway) = router.external_gateway.as_ref().filter(|gateway| gateway.host_id.is_empty()) else {
            continue;
        };
        let network = evidence.network(&gateway.network_id);
        found.push(Finding::new(
            format!("router {}", router.name),
            format!("nothing leaves by it: no host reaches its external network {network}"),
            "Name the physical network's interface in a host's settings, [physical].",
        ));
    }
    found
}

/// Extra routes by an instance that is not there.
pub fn next_hops(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for router in &evidence.routers {
        for route in &router.routes {
            let joined =
                |fixed: &v1::FixedIp| router.interfaces.iter().any(|interface| interface.subnet_id == fixed.subnet_id);
            let holder = evidence
                .ports
                .iter()
                .find(|port| port.fixed_ips.iter().any(|fixed| fixed.ip_address == route.nexthop && joined(fixed)));
            let (who, remedy) = match holder {
                Some(port) if !port.host_id.is_empty() => continue,
                Some(port) => (
                    format!("port {}, which is not plugged", port.name),
                    format!("Plug it: weft port plug {} --host HOST{}", port.name, evidence.scope(&port.project_id)),
                ),
                None => (
                    "no port".to_owned(),
                    format!(
                        "Remove the route: weft router route remove {} {}{}",
                        router.name,
                        route.destination,
                        evidence.scope(&router.project_id)
                    ),
                ),
            };
            found.push(Finding::new(
                format!("router {}", router.name),
                format!("its route to {} leads to {}, which is {who}", route.destination, route.nexthop),
                remedy,
            ));
        }
    }
    found
}
