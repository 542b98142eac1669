//! Connections between messages and traces.

use crate::connection::{Assumed, Prepared, Tuple, wide};
use crate::limits::ASSUMED_CONNECTIONS;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// A tuple; nothing has been counted.
#[must_use]
pub fn tuple_to_message(tuple: &Tuple) -> v1::ConnectionTuple {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    };
    let ((source, source_port), (destination, destination_port)) = (tuple.from(), tuple.to());
    v1::ConnectionTuple {
        source: octets(source),
        destination: octets(destination),
        source_port: source_port.into(),
        destination_port: destination_port.into(),
        icmp_type: tuple.kind.into(),
        packets: 0,
        bytes: 0,
    }
}

/// A connection that would begin.
#[must_use]
pub fn begun(prepared: &Prepared) -> v1::Connection {
    let (original, reply) = prepared.tuples();
    v1::Connection {
        zone: prepared.zone(),
        protocol: original.protocol.into(),
        original: Some(tuple_to_message(original)),
        reply: Some(tuple_to_message(reply)),
        mark: prepared.mark(),
        ..Default::default()
    }
}

/// The connections that a trace assumes.
///
/// # Errors
/// One that cannot be, or too many.
pub fn assumed(connections: &[v1::Connection]) -> Result<Arc<[Assumed]>, Fault> {
    if connections.len() > ASSUMED_CONNECTIONS {
        let problem = format!("{} connections are assumed", connections.len());
        let remedy = format!("Assume at most {ASSUMED_CONNECTIONS}.");
        return Err(Fault::invalid("bad_trace", "assume", problem, remedy));
    }
    let one = |(index, connection): (usize, &v1::Connection)| {
        let refuse = |part: &str| {
            let place = format!("assume[{index}]{part}");
            Fault::invalid("bad_trace", place, "it is no connection's", "Pass on what a trace said begins.")
        };
        let protocol = u8::try_from(connection.protocol).map_err(|_| refuse(".protocol"))?;
        let read = |message: &Option<v1::ConnectionTuple>, part| {
            message.as_ref().and_then(|message| tuple(message, protocol)).ok_or_else(|| refuse(part))
        };
        let (original, reply) = (read(&connection.original, ".original")?, read(&connection.reply, ".reply")?);
        Ok(Assumed { zone: connection.zone, original, reply, mark: connection.mark })
    };
    connections.iter().enumerate().map(one).collect()
}

fn tuple(message: &v1::ConnectionTuple, protocol: u8) -> Option<Tuple> {
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| wide(octets.into())),
        _ => <[u8; 16]>::try_from(bytes).ok(),
    };
    let port = |port: u32| u16::try_from(port).ok().map(u16::to_be_bytes);
    Some(Tuple {
        source: address(&message.source)?,
        destination: address(&message.destination)?,
        source_port: port(message.source_port)?,
        destination_port: port(message.destination_port)?,
        protocol,
        family: if message.source.len() == 4 { 4 } else { 6 },
        kind: u8::try_from(message.icmp_type).ok()?,
        reserved: 0,
    })
}
