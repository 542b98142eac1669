//! Networks: created, removed.

use super::lookup::{count, in_use};
use super::{By, Change, Counters, Model, Object, Planned, VXLAN_OVERHEAD, record};
use crate::limits;
use std::collections::BTreeSet;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The largest VNI: 24 bits (RFC 7348, section 5).
const SEGMENT_MAX: u32 = 0x00ff_ffff;
/// What an Ethernet of 1500 bytes leaves.
const DEFAULT_MTU: u32 = 1500 - VXLAN_OVERHEAD;
/// Every IPv4 host must take a packet of this size (RFC 791).
const SMALLEST_MTU: u32 = 68;

/// One layer-2 network, isolated from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the project.
    pub name: String,
    /// The project it belongs to.
    pub project: Uuid,
    /// The VNI: 1 to 2^24 − 1, unique in the cloud.
    pub segment: u32,
    /// Bytes of an IP packet that an instance may send.
    pub mtu: u32,
}

/// By what networks are found.
#[derive(Clone, Debug, Default)]
pub struct NetworkIndex {
    pub(super) of_project: By<Uuid>,
    pub(super) of_segment: By<u32>,
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
        }
    }

    fn from_record(record: v1::Network) -> Result<Self, String> {
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: record.name,
            project: record::uuid(&record.project_id)?,
            segment: record.segment_id,
            mtu: record.mtu,
        })
    }

    fn index(&self, index: &mut NetworkIndex, present: bool) {
        index.of_project.set(self.project, self.id, present);
        index.of_segment.set(self.segment, self.id, present);
    }

    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        model.hosts_reaching(self.id)
    }
}

impl Model {
    /// Plans a network: its segment is free, its MTU fits the underlay of every host that is known.
    pub fn create_network(&self, request: &v1::CreateNetworkRequest, id: Uuid) -> Planned<Network> {
        let project = self.project(&request.project, "project")?;
        self.admit::<Network>(project.id, &request.name)?;
        let mtu = if request.mtu == 0 { DEFAULT_MTU } else { request.mtu };
        self.check_mtu(mtu)?;
        let (segment, counters) = self.choose_segment(request.segment_id)?;
        let network = Network { id, name: request.name.clone(), project: project.id, segment, mtu };
        let mut changes = vec![Change::put(network.clone())];
        changes.extend(counters.map(Change::put));
        Ok((changes, network))
    }

    fn check_mtu(&self, mtu: u32) -> Result<(), Fault> {
        let known = self.hosts.iter().filter(|host| host.underlay_mtu > 0).min_by_key(|host| host.underlay_mtu);
        let largest = known.map_or(65_535, |host| host.underlay_mtu).saturating_sub(VXLAN_OVERHEAD);
        if (SMALLEST_MTU..=largest).contains(&mtu) {
            return Ok(());
        }
        let why = known.filter(|_| mtu > largest).map_or(String::new(), |host| {
            format!(": host {:?} carries {} bytes, and VXLAN takes {VXLAN_OVERHEAD}", host.name, host.underlay_mtu)
        });
        Err(Fault::invalid(
            "bad_mtu",
            "mtu",
            format!("an MTU of {mtu} is not possible{why}"),
            format!("Give {SMALLEST_MTU} to {largest} bytes."),
        ))
    }

    /// The segment asked for, or the next free one, and how the counters are then.
    fn choose_segment(&self, asked: u32) -> Result<(u32, Option<Counters>), Fault> {
        if asked > SEGMENT_MAX {
            return Err(Fault::invalid(
                "bad_segment",
                "segment_id",
                format!("{asked} is not a VNI"),
                format!("Give 1 to {SEGMENT_MAX}, or none to have one chosen."),
            ));
        }
        if asked > 0 {
            return match self.networks.index.of_segment.one(asked) {
                None => Ok((asked, None)),
                Some(_) => Err(Fault::invalid(
                    "segment_taken",
                    "segment_id",
                    format!("VNI {asked} belongs to another network"),
                    "Choose another, or give none to have one chosen.",
                )
                .with_status(tonic::Code::AlreadyExists)),
            };
        }
        let start = self.next().next_segment.clamp(1, SEGMENT_MAX);
        let taken = &self.networks.index.of_segment;
        let free = (start..=SEGMENT_MAX).chain(1..start).find(|&segment| taken.one(segment).is_none());
        // There are fewer networks than segments (limits::NETWORKS).
        let segment = free.unwrap_or(SEGMENT_MAX);
        let next_segment = if segment == SEGMENT_MAX { 1 } else { segment + 1 };
        Ok((segment, Some(Counters { next_segment, ..self.next() })))
    }

    /// Plans its removal, its subnets included. It must have no ports.
    pub fn delete_network(&self, named: &str, project: &str) -> Planned<Network> {
        let network: &Network = self.find(named, project, "network")?;
        if let Some(router) = self.routers_of(network.id).next() {
            let by = format!("is joined to router {:?}", self.routers[router].name);
            let remedy = "Take its subnets off first: `weft router interface remove ROUTER SUBNET`.";
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
