//! Which hosts a change concerns. The answer costs as much as it is long.

use crate::model::{Change, Kind, Model};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The hosts whose state depends on the subject of a change *in this model*. A change touches what its
/// subject touches before it is applied, and what it touches after: ask twice.
#[must_use]
pub fn touched(model: &Model, change: &Change) -> BTreeSet<Uuid> {
    let of_network = |network: Uuid| model.plugged_of(network).map(|(host, _)| host);
    let (kind, id) = change.subject();
    match kind {
        // Neither projects nor counters appear in tables.
        Kind::Project | Kind::Counters => BTreeSet::new(),
        Kind::Network => of_network(id).collect(),
        Kind::Subnet => model.subnet_by_id(id).map(|subnet| of_network(subnet.network).collect()).unwrap_or_default(),
        // A port that is nowhere is in no table.
        Kind::Port => match model.port_by_id(id) {
            Some(port) if port.plug.is_some() => of_network(port.network).collect(),
            _ => BTreeSet::new(),
        },
        Kind::Host => {
            let networks = model.networks_on(id);
            let mut hosts: BTreeSet<Uuid> = networks.into_iter().flat_map(of_network).collect();
            hosts.extend(model.host_by_id(id).map(|host| host.id));
            hosts
        }
    }
}
