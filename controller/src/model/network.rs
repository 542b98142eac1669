//! Networks: created, removed.

use super::lookup::{count, in_use};
use super::{By, Change, Model, Object, Planned, SegmentType, record};
use crate::limits;
use std::collections::BTreeSet;
use uuid::Uuid;
use weft_proto::v1;

/// One layer-2 network, isolated from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the project.
    pub name: String,
    /// The project it belongs to.
    pub project: Uuid,
    /// Its number in flow tables, 1 to 2^24 − 1, unique in the cloud: on the wire the VNI or key, if it has one.
    pub segment: u32,
    /// How hosts carry it.
    pub segment_type: SegmentType,
    /// Leads out of the cloud; on a physical network only.
    pub external: bool,
    /// Carries frames that instances tag.
    pub vlan_transparent: bool,
    /// Hosts learn of its ports elsewhere when something is first sent there.
    pub reactive: bool,
    /// Bytes of an IP packet that an instance may send.
    pub mtu: u32,
}

/// By what networks are found.
#[derive(Clone, Debug, Default)]
pub struct NetworkIndex {
    pub(super) of_project: By<Uuid>,
    pub(super) of_segment: By<u32>,
    /// By physical network and VLAN, 0 if untagged.
    pub(super) of_place: By<(String, u16)>,
}

impl Object for Network {
    const WORD: &'static str = "network";
    const MOST: usize = limits::NETWORKS;
    type Record = v1::Network;
    type Index = NetworkIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn project(&self) -> Uuid {
        self.project
    }

    fn record(&self) -> v1::Network {
        v1::Network {
            id: self.id.to_string(),
            name: self.name.clone(),
            project_id: self.project.to_string(),
            segment_id: self.segment,
            mtu: self.mtu,
            segment_type: self.segment_type.word().to_owned(),
            physical_network: self.segment_type.physical().unwrap_or_default().to_owned(),
            vlan_id: self.segment_type.vlan().into(),
            external: self.external,
            vlan_transparent: self.vlan_transparent,
            reactive: self.reactive,
        }
    }

    fn from_record(record: v1::Network) -> Result<Self, String> {
        Ok(Self {
            id: record::uuid(&record.id)?,
            segment_type: SegmentType::of_record(&record)?,
            external: record.external,
            vlan_transparent: record.vlan_transparent,
            reactive: record.reactive,
            name: record.name,
            project: record::uuid(&record.project_id)?,
            segment: record.segment_id,
            mtu: record.mtu,
        })
    }

    fn index(&self, index: &mut NetworkIndex, present: bool) {
        index.of_project.set(self.project, self.id, present);
        index.of_segment.set(self.segment, self.id, present);
        if let Some(physical) = self.segment_type.physical() {
            index.of_place.set((physical.to_owned(), self.segment_type.vlan()), self.id, present);
        }
    }

    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        model.hosts_reaching(self.id)
    }
}

impl Model {
    /// Plans a network: its segment is free, its MTU fits what carries it at every host that is known.
    pub fn create_network(&self, request: &v1::CreateNetworkRequest, id: Uuid) -> Planned<Network> {
        let project = self.project(&request.project, "project")?;
        self.admit::<Network>(project.id, &request.name)?;
        let before = self.next();
        let (segment_type, counters) = self.choose_segment_type(request, before)?;
        let vlan_transparent = request.vlan_transparent;
        let mtu = self.choose_mtu(request.mtu, &segment_type, vlan_transparent)?;
        let (segment, counters) = self.choose_segment(request.segment_id, counters)?;
        let external = request.external;
        let name = request.name.clone();
        let reactive = request.reactive;
        let project = project.id;
        let network = Network { id, name, project, segment, segment_type, external, vlan_transparent, reactive, mtu };
        let mut changes = vec![Change::put(network.clone())];
        changes.extend((counters != before).then(|| Change::put(counters)));
        Ok((changes, network))
    }

    /// Plans its removal, its subnets included. It must have no ports.
    pub fn delete_network(&self, named: &str, project: &str) -> Planned<Network> {
        let network: &Network = self.find(named, project, "network")?;
        if let Some(router) = self.routers_of(network.id).next() {
            let by = format!("is joined to router {:?}", self.routers[router].name);
            let remedy = "Take its subnets off first: `weft router interface remove ROUTER SUBNET`.";
            return Err(in_use(network, "network", &by, remedy));
        }
        if let Some(router) = self.routers_leaving_by(network.id).next() {
            let name = &self.routers[router].name;
            let by = format!("has the external gateway of router {name:?}");
            return Err(in_use(
                network,
                "network",
                &by,
                format!("Remove it first: `weft router gateway clear {name}`."),
            ));
        }
        if let Some(floating) = self.floating_ips.among(self.floating_ips.index.of_network.of(network.id)).next() {
            let by = format!("has floating IP {}", floating.address);
            let remedy = format!("Remove it first: `weft floating-ip delete {}`.", floating.address);
            return Err(in_use(network, "network", &by, remedy));
        }
        let ports = self.ports_of(network.id).count();
        if ports > 0 {
            let by = format!("has {}", count(ports, "port"));
            return Err(in_use(network, "network", &by, "Remove its ports first."));
        }
        let subnets = self.subnets_of(network.id).map(Change::remove);
        Ok((subnets.chain([Change::remove(network)]).collect(), network.clone()))
    }

    /// The networks that have plugged ports on the host.
    #[must_use]
    pub fn networks_on(&self, host: Uuid) -> BTreeSet<Uuid> {
        self.ports_on(host).map(|port| port.network).collect()
    }
}
