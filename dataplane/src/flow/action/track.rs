//! Connection tracking between messages and the form the walk uses.

use super::{Commit, ConnectionTrack};
use crate::connection::{Nat, SourceNat};
use crate::flow::message::address;
use crate::respond::icmp;
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The ports of NAT if a rule names none: what the system gives nobody.
const PORTS: (u16, u16) = (1024, u16::MAX);

/// As it was asked for.
pub(super) fn to_message(track: &ConnectionTrack) -> v1::ConnectionTrack {
    let nat = track.commit.map_or_else(Nat::default, |commit| commit.translate);
    v1::ConnectionTrack {
        zone: track.zone,
        commit: track.commit.is_some(),
        follow_policy: track.commit.is_some_and(|commit| commit.follow_policy),
        mark: track.commit.map_or(0, |commit| commit.mark),
        nat: track.nat,
        source: nat.source.map(|source| {
            let (first, last) = if source.ports == PORTS { (0, 0) } else { source.ports };
            let address = source.address.octets().to_vec();
            v1::SourceNat { address, first_port: first.into(), last_port: last.into() }
        }),
        destination: nat.destination.map(|(address, port)| v1::DestinationNat {
            address: address.octets().to_vec(),
            port: port.unwrap_or(0).into(),
        }),
    }
}

/// # Errors
/// The first thing that is wrong; the field is relative to the message.
pub(super) fn from_message(track: &v1::ConnectionTrack) -> Result<ConnectionTrack, Fault> {
    let begins = track.source.is_some() || track.destination.is_some();
    if !track.commit && (track.follow_policy || track.mark != 0 || begins) {
        return Err(Fault::invalid(
            "bad_ct",
            "commit",
            "follow_policy, mark and the addresses of nat are of the connection that ct begins",
            "Set commit as well.",
        ));
    }
    if begins && !track.nat {
        return Err(Fault::invalid("bad_ct", "nat", "addresses are given, but no NAT", "Set nat as well."));
    }
    let translate = Nat {
        source: track.source.as_ref().map(source).transpose().map_err(|fault| fault.within("source"))?,
        destination: track
            .destination
            .as_ref()
            .map(destination)
            .transpose()
            .map_err(|fault| fault.within("destination"))?,
    };
    let commit = Commit { follow_policy: track.follow_policy, mark: track.mark, translate };
    Ok(ConnectionTrack { zone: track.zone, nat: track.nat, commit: track.commit.then_some(commit) })
}

fn source(message: &v1::SourceNat) -> Result<SourceNat, Fault> {
    let ports = match (message.first_port, message.last_port) {
        (0, 0) => PORTS,
        (first, last) => (port(first, "first_port")?, port(last, "last_port")?),
    };
    if ports.0 > ports.1 {
        return Err(Fault::invalid(
            "bad_port",
            "last_port",
            format!("there is no port from {} to {}", ports.0, ports.1),
            "Give the smaller one first.",
        ));
    }
    Ok(SourceNat { address: host(&message.address)?, ports })
}

fn destination(message: &v1::DestinationNat) -> Result<(Ipv4Addr, Option<u16>), Fault> {
    let port = if message.port == 0 { None } else { Some(port(message.port, "port")?) };
    Ok((host(&message.address)?, port))
}

fn port(number: u32, place: &str) -> Result<u16, Fault> {
    u16::try_from(number).ok().filter(|&port| port > 0).ok_or_else(|| {
        Fault::invalid("bad_port", place, format!("{number} is not a port that NAT can give"), "Use 1 to 65535.")
    })
}

fn host(bytes: &[u8]) -> Result<Ipv4Addr, Fault> {
    let address = address(bytes, "address")?;
    if icmp::is_host(address.octets()) {
        return Ok(address);
    }
    Err(Fault::invalid(
        "bad_address",
        "address",
        format!("{address} cannot be the address of a host"),
        "Use an address of which packets may come.",
    ))
}
