//! Tests of the whole walk: rules as text, packets as text or frames.

mod cached;
mod random;
mod scale;
mod walk;

use super::cache::{Cache, EntryNumber, Found};
use super::key::FlowKey;
use super::log::{Recent, Work};
use super::message;
use super::resolve::{Connected, Unobserved, View, resolve};
use super::rule::Rule;
use super::state::FlowState;
use super::tables::{Change, Tables};
use crate::packet::tunnel::Encapsulation;
use crate::port::PortSlot;
use crate::topology::{Path, PortInfo, PortKind, Topology};
use std::sync::Arc;
use weft_proto::text;

/// A rule from its text.
pub(super) fn rule(line: &str) -> Rule {
    let mut parsed = text::parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
    if parsed.owner == 0 {
        parsed.owner = weft_proto::v1::Owner::Manual.into();
    }
    message::rule_from_message(&parsed, 0).unwrap_or_else(|fault| panic!("{line}: {fault}"))
}

/// A packet's key from its text.
pub(super) fn packet(line: &str) -> FlowKey {
    message::key_from_packet(&text::parse_packet(line).unwrap()).unwrap()
}

/// Ports 1 to 9 as devices at the slots of their numbers, 20 as a tunnel, and one neighbour, 10.99.0.2.
pub(super) fn topology() -> Topology {
    let mut topology = Topology::default();
    for number in 1..10_u32 {
        let kind = PortKind::Device { slot: PortSlot::new(number as usize), up: number != 9 };
        topology.ports.insert(number, PortInfo { name: format!("port{number}").into(), kind });
    }
    let underlay = PortSlot::new(8);
    let kind = PortKind::Tunnel {
        slot: PortSlot::new(20),
        locals: vec![[10, 99, 0, 1].into()],
        encapsulation: Encapsulation::Vxlan(4789),
        underlays: vec![underlay],
    };
    topology.ports.insert(20, PortInfo { name: "vxlan".into(), kind });
    topology.paths.insert(
        [10, 99, 0, 2].into(),
        Path::Resolved {
            underlay,
            source_mac: [2, 0, 0, 0, 9, 1],
            destination_mac: [2, 0, 0, 0, 9, 2],
            source: [10, 99, 0, 1].into(),
        },
    );
    topology
}

/// A view without connections.
pub(super) fn view<'a>(state: &'a FlowState, version: u64, topology: &'a Topology) -> View<'a> {
    View { state, version, topology, connections: Connected::AsNew, now: 0, arrived: true, traced: None }
}

/// What a worker knows of the latest changes.
pub(super) fn recent(view: &View<'_>) -> Recent {
    let mut recent = Recent::default();
    recent.catch_up(view.state.logs(), view.version);
    recent
}

/// What a worker does with a packet that found no good entry.
pub(super) fn renew(cache: &mut Cache, found: Found, key: &FlowKey, view: &View<'_>, now: u64) -> EntryNumber {
    if let Found::Stale(number) = found {
        if cache.renew(number, key, &recent(view), &mut Work::ONE_WALK.clone()) {
            return number;
        }
        cache.remove(number);
    }
    let resolution = resolve(view, &key.into(), &mut Unobserved);
    cache.insert(key, resolution, view.version, now)
}

/// Tables with these rules and [`topology`].
pub(super) fn tables(lines: &[&str]) -> Arc<Tables> {
    let tables = Tables::new();
    let add = lines.iter().map(|line| rule(line)).collect();
    tables.commit(Change { add, topology: Some(topology()), ..Change::default() }).unwrap();
    tables
}
