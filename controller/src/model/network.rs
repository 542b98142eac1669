//! Networks: created, removed.

use super::lookup::{count, in_use, limit};
use super::{Change, Counters, Kind, Model, Network, Object, Planned, VXLAN_OVERHEAD, valid_name};
use crate::limits;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The largest VNI: 24 bits (RFC 7348, section 5).
const SEGMENT_MAX: u32 = 0x00ff_ffff;
/// What an Ethernet of 1500 bytes leaves.
const DEFAULT_MTU: u32 = 1500 - VXLAN_OVERHEAD;
/// Every IPv4 host must take a packet of this size (RFC 791).
const SMALLEST_MTU: u32 = 68;

impl Model {
    /// Plans a network: its segment is free, its MTU fits the underlay of every host that is known.
    pub fn create_network(&self, request: &v1::CreateNetworkRequest, id: Uuid) -> Planned<Network> {
        valid_name(&request.name, "name")?;
        let project = self.project(&request.project, "project")?;
        if self.networks.len() >= limits::NETWORKS {
            return Err(limit("networks", limits::NETWORKS, "Remove networks that are not used."));
        }
        let mtu = if request.mtu == 0 { DEFAULT_MTU } else { request.mtu };
        self.check_mtu(mtu)?;
        let (segment, counters) = self.choose_segment(request.segment_id)?;
        let network = Network { id, name: request.name.clone(), project: project.id, segment, mtu };
        let mut changes = vec![Change::Put(Object::Network(network.clone()))];
        changes.extend(counters.map(|counters| Change::Put(Object::Counters(counters))));
        Ok((changes, network))
    }

    fn check_mtu(&self, mtu: u32) -> Result<(), Fault> {
        let known = self.hosts.values().filter(|host| host.underlay_mtu > 0).min_by_key(|host| host.underlay_mtu);
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
            return match self.network_of_segment.get(&asked) {
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
        let start = self.counters.next_segment.clamp(1, SEGMENT_MAX);
        let free = (start..=SEGMENT_MAX).chain(1..start).find(|segment| !self.network_of_segment.contains_key(segment));
        // There are fewer networks than segments (limits::NETWORKS).
        let segment = free.unwrap_or(SEGMENT_MAX);
        let next_segment = if segment == SEGMENT_MAX { 1 } else { segment + 1 };
        Ok((segment, Some(Counters { next_segment, ..self.counters })))
    }

    /// Plans its removal, its subnets included. It must have no ports.
    pub fn delete_network(&self, named: &str, project: &str) -> Planned<()> {
        let network = self.network(named, project, "id")?;
        let ports = self.ports_of(network.id).count();
        if ports > 0 {
            let by = format!("has {}", count(ports, "port"));
            return Err(in_use(Kind::Network, &network.name, &by, "Remove its ports first."));
        }
        let subnets = self.subnets_of(network.id).map(|subnet| Change::Remove(Kind::Subnet, subnet.id));
        Ok((subnets.chain([Change::Remove(Kind::Network, network.id)]).collect(), ()))
    }
}
