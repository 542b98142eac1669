//! Hosts: created, removed, and what their switches report of themselves.

use super::lookup::{count, in_use};
use super::name::{valid_interface, valid_name};
use super::{By, Change, Model, Object, Planned, UnderlayAddress, record};
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::PHYSICAL_NETWORKS;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// A machine that runs a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the cloud.
    pub name: String,
    /// Where tunnels to it end, as it reported.
    pub underlay: Vec<UnderlayAddress>,
    /// The physical networks it reaches, by name, as it reported.
    pub physical: BTreeMap<String, PhysicalInterface>,
    /// Its switch's version, as it reported.
    pub version: String,
}

/// Where a host reaches a physical network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhysicalInterface {
    /// Its name; its frames are all the switch's, unless it is shared.
    pub interface: String,
    /// Bytes of an IP packet; 0: the host has no such interface.
    pub mtu: u32,
    /// The host keeps its own traffic there: only external networks can be on it.
    pub shared: bool,
}

impl PhysicalInterface {
    /// Those that a host reports, or a record holds; the first wrong one's index and what is wrong with it.
    pub fn all(reported: &[v1::PhysicalNetwork]) -> Result<BTreeMap<String, Self>, (usize, Fault)> {
        let mut physical = BTreeMap::<String, Self>::new();
        for (index, network) in reported.iter().enumerate() {
            let refuse = |field: &str, problem: String, remedy: &str| {
                Err((index, Fault::invalid("bad_physical_network", field, problem, remedy)))
            };
            valid_name(&network.name, "name").map_err(|fault| (index, fault))?;
            valid_interface(&network.interface, "interface").map_err(|fault| (index, fault))?;
            if index >= PHYSICAL_NETWORKS {
                let problem = format!("more than {PHYSICAL_NETWORKS} physical networks");
                return refuse("", problem, "Leave out those that are not used.");
            }
            if physical.values().any(|other| other.interface == network.interface) {
                let problem = format!("interface {} leads to two physical networks", network.interface);
                return refuse("interface", problem, "Give each an interface of its own.");
            }
            let place = Self { interface: network.interface.clone(), mtu: network.mtu, shared: network.shared };
            if physical.insert(network.name.clone(), place).is_some() {
                let problem = format!("physical network {:?} is told twice", network.name);
                return refuse("name", problem, "Give each one interface.");
            }
        }
        Ok(physical)
    }
}

/// By what hosts are found.
#[derive(Clone, Debug, Default)]
pub struct HostIndex {
    of_underlay: By<Ipv4Addr>,
}

impl Object for Host {
    const WORD: &'static str = "host";
    const MOST: usize = limits::HOSTS;
    const OWNED: bool = false;
    type Record = v1::Host;
    type Index = HostIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn record(&self) -> v1::Host {
        v1::Host {
            id: self.id.to_string(),
            name: self.name.clone(),
            underlay_address: record::text(self.underlay.first().map(|one| one.address)),
            underlay_mtu: self.underlay_mtu(),
            underlay_addresses: self.underlay.iter().map(UnderlayAddress::message).collect(),
            switch_version: self.version.clone(),
            physical_networks: self
                .physical
                .iter()
                .map(|(name, place)| v1::PhysicalNetwork {
                    name: name.clone(),
                    interface: place.interface.clone(),
                    mtu: place.mtu,
                    shared: place.shared,
                })
                .collect(),
            ..v1::Host::default()
        }
    }

    fn from_record(record: v1::Host) -> Result<Self, String> {
        let mut underlay = record.underlay_addresses;
        // Hosts had one address before they told several.
        if underlay.is_empty() && !record.underlay_address.is_empty() {
            let (address, interface) = (record.underlay_address, "underlay".to_owned());
            underlay.push(v1::UnderlayAddress { address, interface, mtu: record.underlay_mtu, down: false });
        }
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: record.name,
            underlay: UnderlayAddress::all(&underlay).map_err(|(_, fault)| fault.problem)?,
            physical: PhysicalInterface::all(&record.physical_networks).map_err(|(_, fault)| fault.problem)?,
            version: record.switch_version,
        })
    }

    fn index(&self, index: &mut HostIndex, present: bool) {
        for one in &self.underlay {
            index.of_underlay.set(one.address, self.id, present);
        }
    }

    /// Itself, and who sends to it: to its ports, or through it out of the cloud.
    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        let networks = model.networks_on(self.id);
        let sending = networks.into_iter().flat_map(|network| model.hosts_reaching(network));
        let leaving = model.routers_leaving_at(self.id).flat_map(|router| model.hosts_of_router(router.id));
        sending.chain(leaving).chain([self.id]).collect()
    }

    fn missing(named: &str) -> String {
        if named.is_empty() {
            "Name a host that `weft host list` shows.".to_owned()
        } else {
            format!("Create it with `weft host create {named}`, or choose one that `weft host list` shows.")
        }
    }
}

/// What a switch says of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// Where tunnels to it end; empty if it has no underlay.
    pub underlay: Vec<UnderlayAddress>,
    /// The physical networks it reaches.
    pub physical: BTreeMap<String, PhysicalInterface>,
    /// The switch's version.
    pub version: String,
}

impl Model {
    /// Plans a host. Its name must be free.
    pub fn create_host(&self, request: &v1::CreateHostRequest, id: Uuid) -> Planned<Host> {
        self.admit::<Host>(Uuid::nil(), &request.name)?;
        let host = Host {
            id,
            name: request.name.clone(),
            underlay: Vec::new(),
            physical: BTreeMap::new(),
            version: String::new(),
        };
        Ok((vec![Change::put(host.clone())], host))
    }

    /// Plans its removal. No port may be plugged on it; routers whose gateway host it is get another.
    pub fn delete_host(&self, named: &str) -> Planned<Host> {
        let host: &Host = self.find(named, "", "host")?;
        let ports = self.ports_on(host.id).count();
        if ports > 0 {
            let by = format!("has {}", count(ports, "plugged port"));
            return Err(in_use(host, "host", &by, "Unplug them first."));
        }
        let mut changes = self.reschedule(host.id, None);
        changes.push(Change::remove(host));
        Ok((changes, host.clone()))
    }

    /// Plans what a host's report changes. An underlay address has one host: the one that reported it
    /// last; the caller refuses a report whose address a connected host has.
    pub fn report_host(&self, id: Uuid, report: &HostReport) -> Planned<()> {
        let mut changes = Vec::new();
        if let Some(host) = self.hosts.get(id) {
            let reported = Host {
                underlay: report.underlay.clone(),
                physical: report.physical.clone(),
                version: report.version.clone(),
                ..host.clone()
            };
            let taken: BTreeSet<Uuid> = self.hosts_of_underlay(id, report).map(|(other, _)| other.id).collect();
            for other in self.hosts.among(taken.into_iter()) {
                let mut other = other.clone();
                other.underlay.retain(|one| report.underlay.iter().all(|new| new.address != one.address));
                changes.push(Change::put(other));
            }
            changes.extend(self.reschedule(id, Some(&reported)));
            if reported != *host {
                changes.push(Change::put(reported));
            }
        }
        Ok((changes, ()))
    }

    /// Other hosts that have reported one of these underlay addresses, and which.
    pub fn hosts_of_underlay(&self, except: Uuid, report: &HostReport) -> impl Iterator<Item = (&Host, Ipv4Addr)> {
        let addresses = report.underlay.iter().map(|one| one.address);
        addresses.filter_map(move |address| Some((self.host_of_underlay(except, address)?, address)))
    }

    /// Another host that has reported this underlay address.
    #[must_use]
    pub fn host_of_underlay(&self, except: Uuid, underlay: Ipv4Addr) -> Option<&Host> {
        self.hosts.among(self.hosts.index.of_underlay.of(underlay)).find(|host| host.id != except)
    }
}
