//! Hosts: created, removed, and what their switches report of themselves.

use super::lookup::{count, in_use, limit};
use super::project::name_taken;
use super::{Change, Host, Kind, Model, Object, Planned, valid_name};
use crate::limits;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1;

/// What a switch says of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// Where tunnels to it end; `None` if it has no underlay.
    pub underlay: Option<Ipv4Addr>,
    /// The largest packet its underlay carries.
    pub underlay_mtu: u32,
    /// The switch's version.
    pub version: String,
}

impl Model {
    /// Plans a host. Its name must be free.
    pub fn create_host(&self, request: &v1::CreateHostRequest, id: Uuid) -> Planned<Host> {
        valid_name(&request.name, "name")?;
        if self.names.contains_key(&(Kind::Host, Uuid::nil(), request.name.clone())) {
            return Err(name_taken(Kind::Host, &request.name));
        }
        if self.hosts.len() >= limits::HOSTS {
            return Err(limit("hosts", limits::HOSTS, "Remove hosts that are gone."));
        }
        let host = Host { id, name: request.name.clone(), underlay: None, underlay_mtu: 0, version: String::new() };
        Ok((vec![Change::Put(Object::Host(host.clone()))], host))
    }

    /// Plans its removal. No port may be plugged on it.
    pub fn delete_host(&self, named: &str) -> Planned<Host> {
        let host = self.host(named, "id")?;
        let ports = self.ports_on(host.id).count();
        if ports > 0 {
            let by = format!("has {}", count(ports, "plugged port"));
            return Err(in_use(Kind::Host, &host.name, &by, "Unplug them first."));
        }
        Ok((vec![Change::Remove(Kind::Host, host.id)], host.clone()))
    }

    /// Plans what a host's report changes. An underlay address has one host: the one that reported it
    /// last; the caller refuses a report whose address a connected host has.
    pub fn report_host(&self, id: Uuid, report: &HostReport) -> Planned<()> {
        let mut changes = Vec::new();
        if let Some(host) = self.hosts.get(&id) {
            let reported = Host {
                underlay: report.underlay,
                underlay_mtu: report.underlay_mtu,
                version: report.version.clone(),
                ..host.clone()
            };
            if let Some(other) = self.host_of_underlay(id, report.underlay) {
                changes.push(Change::Put(Object::Host(Host { underlay: None, ..other.clone() })));
            }
            if reported != *host {
                changes.push(Change::Put(Object::Host(reported)));
            }
        }
        Ok((changes, ()))
    }

    /// Another host that has reported this underlay address.
    #[must_use]
    pub fn host_of_underlay(&self, except: Uuid, underlay: Option<Ipv4Addr>) -> Option<&Host> {
        underlay?;
        self.hosts.values().find(|host| host.id != except && host.underlay == underlay)
    }
}
