//! Tests of the table as a whole, and what the files below share. Time is made up: `SECOND` and so on are
//! added to a start that no clock was asked for.

mod directory;
mod model;
mod nat;
mod related;
mod restart;
mod share;
mod table;
mod tcp;

use super::*;
use crate::flow::key::FlowKey;
use crate::packet::header::{protocol, tcp_flag};
use std::net::Ipv4Addr;

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub(super) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const START: Start = Start { now: 5 * SECOND, monotonic: 1_000_000 * SECOND };
pub(super) const NOW: u64 = START.now;

pub(super) fn small() -> Options {
    Options { records: 64, per_zone: 48, seed: Some(1), ..Options::default() }
}

pub(super) fn open(options: Options) -> Connections {
    Connections::open(options, START).unwrap().0
}

pub(super) fn udp(port: u16) -> Tuple {
    Tuple::ipv4(protocol::UDP, (CLIENT, port), (SERVER, 53))
}

pub(super) fn new(zone: u32, tuple: Tuple, transport: Transport) -> New<'static> {
    New {
        zone,
        tuple,
        transport,
        first: &FlowKey::ZERO,
        nat: Nat::default(),
        mark: 0,
        follow_policy: false,
        replaces: None,
        apart: false,
    }
}

pub(super) fn passing(transport: Transport) -> Passing {
    Passing { transport, packets: 1, bytes: 100 }
}

pub(super) fn start(
    connections: &mut Connections,
    new: &New<'_>,
    now: u64,
) -> Result<ConnectionId, crate::drop::DropReason> {
    let prepared = connections.prepare(new, now)?;
    connections.commit(&prepared, &passing(new.transport), now)
}

pub(super) fn tcp(flags: u16, sequence: u32, acknowledgement: u32, payload: u32) -> Transport {
    let scale = (flags & tcp_flag::SYN != 0).then_some(2);
    Transport::Tcp(Segment { flags, sequence, acknowledgement, window: 1000, scale, payload })
}

/// Observes and advances, as a walk and a worker do.
pub(super) fn send(connections: &mut Connections, zone: u32, tuple: &Tuple, transport: Transport, now: u64) -> CtState {
    let seen = connections.observe(zone, Some(tuple), &transport, now);
    if let Some(track) = seen.track {
        let advanced = connections.advance(&track, &passing(transport), now).unwrap();
        assert_eq!(advanced.visible_epoch, track.visible_epoch, "the walk foretells the epoch");
    }
    seen.state
}
