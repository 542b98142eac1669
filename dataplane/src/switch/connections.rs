//! Lists of connections, and ending them. Each worker is asked over its commands: nobody else touches a record.

use super::Switch;
use crate::connection::{Direction, Filter, Record, flag};
use crate::flow::message::connection::tuple_to_message;
use crate::limits::CONNECTIONS_LISTED;
use crate::worker::Listed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Connections listed unless the request says otherwise.
const USUALLY: usize = 1000;
/// Connections in one message: below 256 KB.
const PER_MESSAGE: usize = 1000;

impl Switch {
    /// `ListConnections`, in messages of moderate size. Blocks.
    ///
    /// # Errors
    /// A filter that cannot be.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn connections(&self, request: &v1::ListConnectionsRequest) -> Result<Vec<v1::ListConnectionsReply>, Fault> {
        let filter = filter_from_message(request.filter.as_ref())?;
        let limit = if request.limit == 0 { USUALLY } else { (request.limit as usize).min(CONNECTIONS_LISTED) };
        let mut found: Vec<v1::Connection> = Vec::new();
        for worker in self.workers.read().expect("no panic under this lock").iter() {
            let listed = worker.connections(&filter, limit - found.len());
            found.extend(listed.iter().map(message));
        }
        Ok(found.chunks(PER_MESSAGE).map(|part| v1::ListConnectionsReply { connections: part.to_vec() }).collect())
    }

    /// `FlushConnections`. Blocks.
    ///
    /// # Errors
    /// A filter that cannot be.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn flush_connections(&self, request: &v1::FlushConnectionsRequest) -> Result<v1::FlushConnectionsReply, Fault> {
        let filter = filter_from_message(request.filter.as_ref())?;
        let workers = self.workers.read().expect("no panic under this lock");
        let ended = workers.iter().map(|worker| worker.flush(&filter) as u64).sum();
        Ok(v1::FlushConnectionsReply { ended })
    }
}

fn filter_from_message(filter: Option<&v1::ConnectionFilter>) -> Result<Filter, Fault> {
    let Some(filter) = filter else { return Ok(Filter::default()) };
    let refuse = |field: &str, problem: String, remedy: &str| {
        Fault::invalid("bad_filter", format!("filter.{field}"), problem, remedy)
    };
    let too_large = |field: &str, number: u32, most: u32| {
        refuse(field, format!("{number} is out of range"), &format!("Use 0 to {most}."))
    };
    let protocol = filter.protocol.map(|number| u8::try_from(number).map_err(|_| too_large("protocol", number, 255)));
    let port = filter.port.map(|number| u16::try_from(number).map_err(|_| too_large("port", number, 65_535)));
    let address = match filter.address.len() {
        0 => None,
        4 => <[u8; 4]>::try_from(filter.address.as_slice()).ok().map(|bytes| IpAddr::from(Ipv4Addr::from(bytes))),
        16 => <[u8; 16]>::try_from(filter.address.as_slice()).ok().map(|bytes| IpAddr::from(Ipv6Addr::from(bytes))),
        length => {
            return Err(refuse("address", format!("{length} bytes are no address"), "Give 4 or 16 bytes."));
        }
    };
    Ok(Filter { zone: filter.zone, protocol: protocol.transpose()?, address, port: port.transpose()?, mark: None })
}

fn message(listed: &Listed) -> v1::Connection {
    let record = &listed.record;
    v1::Connection {
        zone: record.zone,
        protocol: record.original.protocol.into(),
        state: record.state().word().to_owned(),
        original: Some(tuple(record, Direction::Original)),
        reply: Some(tuple(record, Direction::Reply)),
        replied: record.has(flag::REPLIED),
        mark: record.mark,
        timeout_seconds: seconds(listed.remaining),
        age_seconds: seconds(listed.age),
        follows_policy: record.has(flag::FOLLOW_POLICY),
        worker: record.owner.into(),
    }
}

fn seconds(microseconds: u64) -> u32 {
    u32::try_from(microseconds / 1_000_000).unwrap_or(u32::MAX)
}

fn tuple(record: &Record, direction: Direction) -> v1::ConnectionTuple {
    let tuple = record.tuple(direction);
    let counter = record.counters[direction as usize];
    v1::ConnectionTuple { packets: counter.packets, bytes: counter.bytes, ..tuple_to_message(&tuple) }
}
