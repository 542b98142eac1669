//! How a network's frames travel from host to host: in a tunnel over the underlay, or on a physical network that hosts
//! share with other stations.

use super::{Counters, Host, Model, Network};
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The largest VNI: 24 bits (RFC 7348, section 5). GRE's keys have 32 (RFC 2890, section 2.1); both are kept in one space,
/// as a network's number in flow tables is its segment id whatever carries it.
const SEGMENT_MAX: u32 = 0x00ff_ffff;
/// The largest VLAN id: 0 and 4095 are reserved (IEEE 802.1Q, table 9-2).
const VLAN_MAX: u16 = 4094;
/// The first that is chosen: switches use VLAN 1 for what is untagged unless told otherwise.
const FIRST_VLAN: u16 = 2;
/// Every IPv4 host must take a packet of this size (RFC 791).
const SMALLEST_MTU: u32 = 68;
/// Of an Ethernet, where no host has said what it carries.
const USUAL_MTU: u32 = 1500;

/// How a network's frames travel between hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentType {
    /// In VXLAN, under the network's segment id as VNI.
    Vxlan,
    /// In GRE, under the network's segment id as key.
    Gre,
    /// Tagged, on a physical network.
    Vlan {
        /// The physical network's name.
        physical: String,
        /// 1 to 4094; no other network has it on this physical network.
        id: u16,
    },
    /// Untagged, on a physical network that no other flat network is on.
    Flat {
        /// The physical network's name.
        physical: String,
    },
}

impl SegmentType {
    /// As the API says it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Gre => "gre",
            Self::Vlan { .. } => "vlan",
            Self::Flat { .. } => "flat",
        }
    }

    /// The physical network that it is on; `None`: it is a tunnel's.
    #[must_use]
    pub fn physical(&self) -> Option<&str> {
        match self {
            Self::Vxlan | Self::Gre => None,
            Self::Vlan { physical, .. } | Self::Flat { physical } => Some(physical),
        }
    }

    /// The VLAN id; 0: untagged, or in a tunnel.
    #[must_use]
    pub fn vlan(&self) -> u16 {
        if let Self::Vlan { id, .. } = self { *id } else { 0 }
    }

    /// Bytes that it adds to an IP packet, of the MTU of what carries it: outer IPv4, the tunnel's headers and the
    /// inner Ethernet header; and the tag of an instance, if there may be one. The tag of a VLAN network takes none: a
    /// link's MTU does not count a frame's only tag.
    #[must_use]
    pub fn overhead(&self, vlan_transparent: bool) -> u32 {
        let tag = if vlan_transparent { 4 } else { 0 };
        match self {
            Self::Vxlan => 20 + 8 + 8 + 14 + tag,
            Self::Gre => 20 + 8 + 14 + tag,
            Self::Vlan { .. } | Self::Flat { .. } => tag,
        }
    }

    /// The MTU of what carries it at a host; `None`: the host has not said, or has no such thing.
    fn carrier_mtu(&self, host: &Host) -> Option<u32> {
        let mtu = match self.physical() {
            None => host.underlay_mtu(),
            Some(physical) => host.physical.get(physical)?.mtu,
        };
        (mtu > 0).then_some(mtu)
    }

    /// From a record.
    pub(super) fn of_record(record: &v1::Network) -> Result<Self, String> {
        let physical = record.physical_network.clone();
        match record.segment_type.as_str() {
            // Networks were not anything else before they said it.
            "" | "vxlan" => Ok(Self::Vxlan),
            "gre" => Ok(Self::Gre),
            "flat" => Ok(Self::Flat { physical }),
            "vlan" => match u16::try_from(record.vlan_id) {
                Ok(id @ 1..=VLAN_MAX) => Ok(Self::Vlan { physical, id }),
                _ => Err(format!("{} is not a VLAN id", record.vlan_id)),
            },
            other => Err(format!("{other:?} is not a segment type")),
        }
    }
}

fn taken(field: &str, problem: String, remedy: &str) -> Fault {
    Fault::invalid("segment_taken", field, problem, remedy).with_status(tonic::Code::AlreadyExists)
}

impl Model {
    /// The segment type that a request asks for, and the counters as they are then.
    pub(super) fn choose_segment_type(
        &self,
        request: &v1::CreateNetworkRequest,
        counters: Counters,
    ) -> Result<(SegmentType, Counters), Fault> {
        let invalid =
            |field: &str, problem: String, remedy: &str| Err(Fault::invalid("bad_segment", field, problem, remedy));
        let word = if request.segment_type.is_empty() { "vxlan" } else { &request.segment_type };
        let tunnel = match word {
            "vxlan" => Some(SegmentType::Vxlan),
            "gre" => Some(SegmentType::Gre),
            "vlan" | "flat" => None,
            other => {
                let problem = format!("{other:?} is not a segment type");
                return invalid("segment_type", problem, "Give vxlan, gre, vlan or flat.");
            }
        };
        if request.vlan_id != 0 && word != "vlan" {
            let problem = format!("a {word} network has no VLAN id");
            return invalid("vlan_id", problem, "Give none, or segment_type vlan.");
        }
        if let Some(tunnel) = tunnel {
            if !request.physical_network.is_empty() {
                let problem = format!("a {word} network is on no physical network");
                return invalid("physical_network", problem, "Give none, or segment_type vlan or flat.");
            }
            if request.external {
                let problem = format!("a {word} network does not lead out of the cloud");
                return invalid("external", problem, "Give segment_type flat or vlan, and a physical network.");
            }
            return Ok((tunnel, counters));
        }
        if request.reactive {
            let problem = format!("a {word} network has stations that nobody has told the controller of");
            return invalid("reactive", problem, "Leave it out, or give segment_type vxlan or gre.");
        }
        if request.segment_id != 0 {
            let problem = format!("a {word} network shows no segment id on the wire");
            return invalid("segment_id", problem, "Give none; a VLAN's is vlan_id.");
        }
        let physical = self.physical_network(&request.physical_network)?;
        if word == "flat" {
            if request.vlan_transparent {
                let problem = "frames that instances tag would be those of VLAN networks".to_owned();
                return invalid("vlan_transparent", problem, "Leave it out, or give segment_type vlan, vxlan or gre.");
            }
            if let Some(other) = self.network_on(&physical, 0) {
                let problem = format!("physical network {physical:?} carries flat network {:?}", other.name);
                let remedy = "Untagged frames belong to one network: give a VLAN (segment_type vlan), or another physical network.";
                return Err(taken("physical_network", problem, remedy));
            }
            return Ok((SegmentType::Flat { physical }, counters));
        }
        let Ok(asked @ 0..=VLAN_MAX) = u16::try_from(request.vlan_id) else {
            let problem = format!("{} is not a VLAN id", request.vlan_id);
            return invalid("vlan_id", problem, "Give 1 to 4094, or none to have one chosen.");
        };
        if asked > 0 {
            if let Some(other) = self.network_on(&physical, asked) {
                let problem = format!("VLAN {asked} of physical network {physical:?} carries network {:?}", other.name);
                return Err(taken("vlan_id", problem, "Choose another, or give none to have one chosen."));
            }
            return Ok((SegmentType::Vlan { physical, id: asked }, counters));
        }
        let start = u16::try_from(counters.next_vlan).unwrap_or(FIRST_VLAN).clamp(FIRST_VLAN, VLAN_MAX);
        let mut turn = (start..=VLAN_MAX).chain(FIRST_VLAN..start);
        let Some(id) = turn.find(|&id| self.network_on(&physical, id).is_none()) else {
            let problem = format!("all VLANs of physical network {physical:?} carry networks");
            let remedy = "Remove networks that are not used, or give another physical network.";
            return Err(Fault::invalid("segments_exhausted", "physical_network", problem, remedy)
                .with_status(tonic::Code::ResourceExhausted));
        };
        let next_vlan = if id == VLAN_MAX { FIRST_VLAN } else { id + 1 }.into();
        Ok((SegmentType::Vlan { physical, id }, Counters { next_vlan, ..counters }))
    }

    /// A physical network that some host has said it reaches: any other is probably a mistake of writing.
    fn physical_network(&self, named: &str) -> Result<String, Fault> {
        if !named.is_empty() && self.hosts.iter().any(|host| host.physical.contains_key(named)) {
            return Ok(named.to_owned());
        }
        let known: std::collections::BTreeSet<&str> =
            self.hosts.iter().flat_map(|host| host.physical.keys().map(String::as_str)).collect();
        let problem = match named {
            "" => "no physical network is named".to_owned(),
            named => format!("no host reaches a physical network {named:?}"),
        };
        let known: Vec<&str> = known.into_iter().take(8).collect();
        let remedy = if known.is_empty() {
            "Give a host's switch one ([physical] NAME = \"INTERFACE\" in its settings) and start it.".to_owned()
        } else {
            format!("Give one that hosts reach ({}), or add it to a host's settings ([physical]).", known.join(", "))
        };
        Err(Fault::invalid("unknown_physical_network", "physical_network", problem, remedy)
            .with_status(tonic::Code::FailedPrecondition))
    }

    /// The network that a VLAN of a physical network carries; 0: what is untagged.
    #[must_use]
    pub fn network_on(&self, physical: &str, vlan: u16) -> Option<&Network> {
        self.networks.get(self.networks.index.of_place.one((physical.to_owned(), vlan))?)
    }

    /// The segment id asked for, or the next free one, and how the counters are then.
    pub(super) fn choose_segment(&self, asked: u32, counters: Counters) -> Result<(u32, Counters), Fault> {
        if asked > SEGMENT_MAX {
            return Err(Fault::invalid(
                "bad_segment",
                "segment_id",
                format!("{asked} is not a VNI, nor a key that is used here"),
                format!("Give 1 to {SEGMENT_MAX}, or none to have one chosen."),
            ));
        }
        let owner = |segment: u32| self.networks.index.of_segment.one(segment);
        if asked > 0 {
            return match owner(asked) {
                None => Ok((asked, counters)),
                Some(_) => {
                    let problem = format!("segment id {asked} belongs to another network");
                    Err(taken("segment_id", problem, "Choose another, or give none to have one chosen."))
                }
            };
        }
        let start = counters.next_segment.clamp(1, SEGMENT_MAX);
        let free = (start..=SEGMENT_MAX).chain(1..start).find(|&segment| owner(segment).is_none());
        // There are fewer networks than segments (limits::NETWORKS).
        let segment = free.unwrap_or(SEGMENT_MAX);
        let next_segment = if segment == SEGMENT_MAX { 1 } else { segment + 1 };
        Ok((segment, Counters { next_segment, ..counters }))
    }

    /// The MTU asked for, if what carries the network takes it at every host that has said so; or the largest one.
    pub(super) fn choose_mtu(
        &self,
        asked: u32,
        segment_type: &SegmentType,
        vlan_transparent: bool,
    ) -> Result<u32, Fault> {
        let overhead = segment_type.overhead(vlan_transparent);
        let smallest = self.hosts.iter().filter_map(|host| Some((segment_type.carrier_mtu(host)?, host)));
        let smallest = smallest.min_by_key(|(mtu, host)| (*mtu, host.id));
        let largest = smallest.map_or(65_535, |(mtu, _)| mtu).saturating_sub(overhead);
        let mtu = match (asked, smallest) {
            (0, None) => USUAL_MTU - overhead,
            (0, Some(_)) => largest,
            (asked, _) => asked,
        };
        if (SMALLEST_MTU..=largest).contains(&mtu) {
            return Ok(mtu);
        }
        let why = smallest.filter(|_| mtu > largest).map_or(String::new(), |(carries, host)| {
            let part =
                if overhead == 0 { String::new() } else { format!(", {overhead} of them for {}", segment_type.word()) };
            format!(": host {:?} carries {carries} bytes{part}", host.name)
        });
        Err(Fault::invalid(
            "bad_mtu",
            "mtu",
            format!("an MTU of {mtu} is not possible{why}"),
            format!("Give {SMALLEST_MTU} to {largest} bytes."),
        ))
    }

    /// Why ports of the network cannot work on the host, by what the host has said of itself.
    pub fn check_carriage(&self, network: &Network, host: &Host) -> Result<(), Fault> {
        let kind = &network.segment_type;
        let refuse = |code: &str, problem: String, remedy: &str| {
            Err(Fault::invalid(code, "host", problem, remedy).with_status(tonic::Code::FailedPrecondition))
        };
        if let Some(physical) = kind.physical().filter(|&physical| !host.physical.contains_key(physical)) {
            let problem = format!(
                "network {:?} is on physical network {physical:?}, which host {:?} does not reach",
                network.name, host.name
            );
            let remedy =
                "Choose a host that reaches it (`weft host list`), or add it to the host's settings ([physical]).";
            return refuse("physical_network_unreachable", problem, remedy);
        }
        if let Some((physical, place)) = kind.physical().and_then(|name| host.physical.get_key_value(name))
            && place.shared
            && !network.external
        {
            let problem = format!(
                "network {:?} is on physical network {physical:?}, whose interface {} the host {:?} shares with its switch",
                network.name, place.interface, host.name
            );
            let remedy = "Only external networks can be there. Choose another host, or give the physical network an \
                          interface of its own (without \",shared\").";
            return refuse("physical_network_shared", problem, remedy);
        }
        let (mtu, overhead) = (network.mtu, kind.overhead(network.vlan_transparent));
        let Some(carries) = kind.carrier_mtu(host).filter(|&carries| mtu + overhead > carries) else { return Ok(()) };
        let problem = format!(
            "network {:?} has an MTU of {mtu}, and host {:?} carries {carries} bytes, {overhead} of them for {}",
            network.name,
            host.name,
            kind.word()
        );
        refuse("bad_mtu", problem, "Choose another host, or make the network anew with a smaller MTU.")
    }
}
