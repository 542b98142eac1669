//! Ports find their place on a host, and leave it.

use super::lookup::limit;
use super::name::{valid_interface, valid_netns};
use super::{Change, Host, Model, Planned, Plug, Port};
use crate::limits;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Checks the path of a virtual machine's socket, and that no namespace is named beside it.
fn valid_socket(request: &v1::PlugPortRequest) -> Result<(), Fault> {
    let path = &request.interface;
    if !path.is_empty() && (!path.starts_with('/') || path.len() > 107 || path.bytes().any(|byte| byte < b' ')) {
        return Err(Fault::invalid(
            "bad_interface",
            "interface",
            format!("{path:?} cannot be the path of a socket"),
            "Give a path from the root of at most 107 bytes, or none to have one chosen.",
        ));
    }
    if !request.netns.is_empty() {
        return Err(Fault::invalid(
            "bad_netns",
            "netns",
            "a virtual machine's socket is in no network namespace",
            "Leave the namespace out, or plug the port into it without vhost_user.",
        ));
    }
    Ok(())
}

impl Model {
    /// Plans a port's place. Asking for the place it has changes nothing.
    pub fn plug_port(&self, request: &v1::PlugPortRequest) -> Planned<Port> {
        let port: &Port = self.find(&request.port, &request.project, "port")?;
        self.not_of_device(port)?;
        let host = self.chosen_host(&request.host)?;
        let interface = if request.vhost_user {
            valid_socket(request)?;
            request.interface.clone()
        } else if request.interface.is_empty() {
            format!("weft{}", port.number)
        } else {
            valid_interface(&request.interface, "interface")?;
            request.interface.clone()
        };
        if !request.netns.is_empty() {
            valid_netns(&request.netns, "netns")?;
        }
        let underlay = host.underlay_address(&request.underlay_address, "underlay_address")?;
        let netns = request.netns.clone();
        let plug = Plug { host: host.id, interface, netns, vhost_user: request.vhost_user, underlay };
        if let Some(current) = &port.plug {
            if *current == plug {
                return Ok((Vec::new(), port.clone()));
            }
            return Err(Fault::invalid(
                "already_plugged",
                "port",
                format!("port {:?} is plugged on host {:?}", port.name, self.hosts[current.host].name),
                format!("Unplug it first: `weft port unplug {}`.", port.name),
            )
            .with_status(tonic::Code::FailedPrecondition));
        }
        self.check_place(port, host, &plug)?;
        let plugged = Port { plug: Some(plug), ..port.clone() };
        Ok((vec![Change::put(plugged.clone())], plugged))
    }

    fn chosen_host(&self, named: &str) -> Result<&Host, Fault> {
        if !named.is_empty() {
            return self.find(named, "", "host");
        }
        let mut hosts = self.hosts.iter();
        match (hosts.next(), hosts.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Fault::invalid(
                "unknown_host",
                "host",
                "the cloud has no host",
                "Create one with `weft host create NAME`, and start its switch.",
            )
            .with_status(tonic::Code::FailedPrecondition)),
            _ => Err(Fault::invalid(
                "unknown_host",
                "host",
                "the cloud has several hosts and none is named",
                "Name one that `weft host list` shows.",
            )),
        }
    }

    fn check_place(&self, port: &Port, host: &Host, plug: &Plug) -> Result<(), Fault> {
        let index = &self.ports.index;
        if let Some(other) = index.of_interface.one(plug.place(port.number)) {
            return Err(Fault::invalid(
                "interface_taken",
                "interface",
                format!(
                    "{:?} is the {} of port {:?} on that host",
                    plug.interface,
                    plug.word(),
                    self.ports[other].name
                ),
                "Give another name, or none to have one chosen.",
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        let network = &self.networks[port.network];
        self.check_carriage(network, host)?;
        if self.ports_on(host.id).count() >= limits::PORTS_PER_HOST {
            return Err(limit("ports on the host", limits::PORTS_PER_HOST, "Choose another host."));
        }
        let here = index.plugged.of((network.id, host.id)).count();
        if here >= limits::PORTS_PER_NETWORK_AND_HOST {
            let most = limits::PORTS_PER_NETWORK_AND_HOST;
            return Err(limit("ports of the network on the host", most, "Choose another host."));
        }
        if here == 0 && self.hosts_of(network.id).count() >= limits::HOSTS_PER_NETWORK {
            let most = limits::HOSTS_PER_NETWORK;
            return Err(limit("hosts with ports of the network", most, "Choose a host that has one already."));
        }
        Ok(())
    }

    /// Plans that a port leaves its place. If it has none, nothing changes.
    pub fn unplug_port(&self, request: &v1::UnplugPortRequest) -> Planned<Port> {
        let port: &Port = self.find(&request.port, &request.project, "port")?;
        self.not_of_device(port)?;
        if port.plug.is_none() {
            return Ok((Vec::new(), port.clone()));
        }
        let unplugged = Port { plug: None, ..port.clone() };
        Ok((vec![Change::put(unplugged.clone())], unplugged))
    }
}
