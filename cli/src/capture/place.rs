//! Where to capture: which switch, and which of its ports.

use crate::connect::{Connection, LOCAL};
use crate::failure::Failure;
use weft_proto::fault::Fault;
use weft_proto::v1::{ListCloudPortsRequest, ListHostsRequest, ListPortsRequest};

/// See the module comment.
pub struct Place {
    /// As [`Connection::switch`] takes it.
    pub host: String,
    /// Numbers; none: all.
    pub ports: Vec<u32>,
}

/// Finds it by what was typed: `HOST PORT`, `PORT`, `HOST` with all ports, or nothing but that.
pub async fn find(words: &[String], all: bool, connection: &Connection) -> Result<Place, Failure> {
    match (words, all) {
        ([], true) => Ok(Place { host: LOCAL.to_owned(), ports: Vec::new() }),
        ([host], true) => Ok(Place { host: host.clone(), ports: Vec::new() }),
        ([port], false) if number(port).is_some() => in_switch(LOCAL, port, connection).await,
        ([port], false) => in_cloud(port, connection).await,
        ([host, port], false) => in_switch(host, port, connection).await,
        ([], false) => Err(refuse("no port is named", "Name one, of \"weft ports list HOST\", or give --all.").into()),
        (_, true) => Err(refuse("a port is named beside --all", "Give one of the two.").into()),
        (_, false) => Err(refuse("more than a host and a port are named", "Name at most these two.").into()),
    }
}

fn refuse(problem: &str, remedy: &str) -> Fault {
    Fault::invalid("bad_port", "PORT", problem, remedy)
}

fn number(port: &str) -> Option<u32> {
    port.parse().ok()
}

/// A port of a switch by its number, its name or its interface's name there.
async fn in_switch(host: &str, port: &str, connection: &Connection) -> Result<Place, Failure> {
    let place = |number| Place { host: host.to_owned(), ports: vec![number] };
    if let Some(number) = number(port) {
        return Ok(place(number));
    }
    let ports = connection.switch(host).await?.list_ports(ListPortsRequest {}).await?.into_inner().ports;
    let is_named = |of: &&weft_proto::v1::PortStatus| of.spec.as_ref().is_some_and(|spec| spec.name == port);
    let mut by_interface = ports.iter().filter(|of| of.interface == port);
    let only = by_interface.next().filter(|_| by_interface.next().is_none());
    match ports.iter().find(is_named).or(only).and_then(|found| found.spec.as_ref()) {
        Some(spec) => Ok(place(spec.number)),
        None => Err(refuse(
            &format!("{host} has no port {port:?}"),
            &format!("Name one of \"weft ports list {host}\", by number or name."),
        )
        .into()),
    }
}

/// A port of the cloud, wherever it is plugged.
async fn in_cloud(port: &str, connection: &Connection) -> Result<Place, Failure> {
    let mut cloud = connection.cloud().await?;
    let ports = cloud.list_ports(ListCloudPortsRequest::default()).await?.into_inner().ports;
    let mut found = ports.iter().filter(|of| of.id == port || of.name == port);
    let only = found.next().ok_or_else(|| {
        refuse(
            &format!("the cloud has no port {port:?}"),
            "Name one of \"weft port list\", or its HOST and PORT there.",
        )
    })?;
    if found.next().is_some() {
        return Err(refuse(&format!("several ports are named {port:?}"), "Give the id, of \"weft port list\".").into());
    }
    let hosts = cloud.list_hosts(ListHostsRequest {}).await?.into_inner().hosts;
    let host = hosts.into_iter().find(|host| !only.host_id.is_empty() && host.id == only.host_id).ok_or_else(|| {
        refuse(&format!("port {port:?} is plugged on no host"), "Plug it first, or name HOST and PORT of a switch.")
    })?;
    Ok(Place { host: host.name, ports: vec![only.number] })
}
