//! `weft port`: ports of networks, and where they are plugged.

use super::{Cloud, Names, Object, Scope, deleted, find, group, host, network, project, router};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table};
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The commands of `weft port`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Creates a port; it forwards nothing before it is plugged.
    Create {
        /// Its name.
        name: String,
        /// The network, by name or id.
        #[arg(long)]
        network: String,
        /// An address, at most one of each subnet; a free one of the first subnet unless given. May be repeated.
        #[arg(long, value_name = "IP")]
        address: Vec<String>,
        /// Its MAC address; chosen unless given.
        #[arg(long)]
        mac: Option<String>,
        #[command(flatten)]
        guard: Guard,
        #[command(flatten)]
        scope: Scope,
    },
    /// Changes a port: its name, security groups, address pairs, or port security.
    Set {
        /// Its name or id.
        port: String,
        /// Its name from now on; not while it is plugged.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        guard: Guard,
        /// It may send only from its own addresses.
        #[arg(long, conflicts_with = "address_pair")]
        no_address_pair: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lists the ports: of one network, host or project, or all.
    List {
        /// Only those of this network, by name or id.
        #[arg(long)]
        network: Option<String>,
        /// Only those plugged on this host.
        #[arg(long)]
        host: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Shows one port.
    Show {
        /// Its name or id.
        port: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Deletes a port that is not plugged.
    Delete {
        /// Its name or id.
        port: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Makes the port's network interface on a host, or a virtual machine's socket, and lets traffic through.
    Plug {
        /// The port, by name or id.
        port: String,
        /// The host; may be left out if there is only one.
        #[arg(long)]
        host: Option<String>,
        /// The network namespace that the interface is moved into, as ip netns knows it; it must exist.
        #[arg(long, value_name = "NAME")]
        netns: Option<String>,
        /// The interface's name; "weft" and the port's number unless given.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        /// The underlay address of the host that other hosts send to for this port, while it is up; unless given, one
        /// is chosen by the port's id.
        #[arg(long, value_name = "ADDRESS")]
        underlay_address: Option<String>,
        /// A virtual machine's, which connects to this socket (vhost-user); chosen by the switch unless given.
        #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["netns", "interface"])]
        vhost_user: Option<String>,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        scope: Scope,
    },
    /// Removes the port's network interface.
    Unplug {
        /// The port, by name or id.
        port: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        scope: Scope,
    },
}

/// What guards a port.
#[derive(clap::Args)]
pub struct Guard {
    /// A security group, by name or id, instead of those it has; a new port has "default". May be repeated.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// No security group: nothing passes but ARP and DHCP.
    #[arg(long, conflicts_with = "group")]
    no_group: bool,
    /// Whether it may send only from its own addresses, and has security groups. Off takes groups and pairs away.
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    port_security: Option<String>,
    /// Addresses that it may send from, too: 10.0.0.100, 10.0.0.96/27, or with a MAC 10.0.0.100,00:00:5e:00:01:01.
    /// Instead of those it has. May be repeated.
    #[arg(long, value_name = "IP[,MAC]", value_parser = pair)]
    address_pair: Vec<v1::AddressPair>,
}

impl Guard {
    fn port_security(&self) -> Option<bool> {
        self.port_security.as_deref().map(|word| word == "on")
    }

    fn groups(&self) -> Option<v1::SecurityGroupChoice> {
        let said = self.no_group || !self.group.is_empty();
        said.then(|| v1::SecurityGroupChoice { groups: self.group.clone() })
    }
}

#[allow(clippy::unnecessary_wraps)]
fn pair(text: &str) -> Result<v1::AddressPair, String> {
    let (ip_address, mac_address) = text.split_once(',').unwrap_or((text, ""));
    Ok(v1::AddressPair { ip_address: ip_address.to_owned(), mac_address: mac_address.to_owned() })
}

/// Whether to wait until the host did it.
#[derive(clap::Args)]
pub struct Wait {
    /// Do not wait until the host has done it.
    #[arg(long)]
    no_wait: bool,
    /// Wait at most so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "no_wait",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    wait: u32,
}

impl Wait {
    fn milliseconds(&self) -> u32 {
        if self.no_wait { 0 } else { self.wait * 1000 }
    }
}

impl Object for v1::Port {
    const KIND: &'static str = "port";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// All ports.
pub(super) async fn all(cloud: &mut Cloud) -> Result<Vec<v1::Port>, Failure> {
    Ok(cloud.list_ports(v1::ListCloudPortsRequest::default()).await?.into_inner().ports)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { name, network, address, mac, guard, scope } => {
            let fixed = |ip_address| v1::FixedIp { subnet_id: String::new(), ip_address };
            let request = v1::CreatePortRequest {
                name,
                project: scope.name(),
                network,
                mac_address: mac.unwrap_or_default(),
                fixed_ips: address.into_iter().map(fixed).collect(),
                port_security_enabled: guard.port_security(),
                security_groups: guard.groups(),
                allowed_address_pairs: guard.address_pair,
            };
            let port = cloud.create_port(request).await?.into_inner();
            let text = format!(
                "Port {} created, {} {}. Next: weft port plug {0} --host HOST --netns NAMESPACE",
                port.name,
                port.mac_address,
                addresses(&port)
            );
            output.say(&text, &json::of(&port))
        }
        Command::List { network, host, scope } => {
            let request = v1::ListCloudPortsRequest {
                project: scope.name(),
                network: network.unwrap_or_default(),
                host: host.unwrap_or_default(),
            };
            let ports = cloud.list_ports(request).await?.into_inner().ports;
            let names = names(&mut cloud, output).await?;
            let heads = ["name", "project", "network", "number", "mac", "addresses", "host", "interface", "status"];
            let mut table = Table::new(&heads);
            for port in &ports {
                let name = if port.name.is_empty() { &port.id } else { &port.name };
                // What is a router's or a floating IP's is on no host of its own.
                let whose = owner(port, &names);
                table.row(vec![
                    name.clone(),
                    names.of(&port.project_id),
                    names.of(&port.network_id),
                    port.number.to_string(),
                    port.mac_address.clone(),
                    addresses(port),
                    if whose.is_empty() { names.of(&port.host_id) } else { whose },
                    port.interface.clone(),
                    port.status.clone(),
                ]);
                table.note(&format!("port {name}"), &port.fault);
            }
            let empty = "No ports. Create one: weft port create NAME --network NETWORK";
            output.table(&table, empty, ports.iter().map(json::of).collect())
        }
        Command::Show { port, scope } => {
            let request = v1::ListCloudPortsRequest { project: scope.name(), ..v1::ListCloudPortsRequest::default() };
            let ports = cloud.list_ports(request).await?.into_inner().ports;
            let port = find(&port, ports)?;
            let mut names = names(&mut cloud, output).await?;
            if !output.json {
                names = names.add(&group::all(&mut cloud, String::new()).await?);
            }
            let lines = [
                ("name", port.name.clone()),
                ("id", port.id.clone()),
                ("project", names.of(&port.project_id)),
                ("network", names.of(&port.network_id)),
                ("number", port.number.to_string()),
                ("mac", port.mac_address.clone()),
                ("addresses", addresses(&port)),
                ("owner", owner(&port, &names)),
                ("port security", if port.port_security_enabled { "on" } else { "off" }.to_owned()),
                ("groups", groups(&port, &names)),
                ("address pairs", pairs(&port)),
                ("host", names.of(&port.host_id)),
                (if port.vhost_user { "socket" } else { "interface" }, port.interface.clone()),
                ("netns", port.netns.clone()),
                ("status", port.status.clone()),
                ("fault", port.fault.clone()),
            ];
            output.object(&lines, &json::of(&port))
        }
        Command::Set { port, name, guard, no_address_pair, scope } => {
            let pairs = no_address_pair || !guard.address_pair.is_empty();
            let request = v1::UpdatePortRequest {
                port,
                project: scope.name(),
                name,
                port_security_enabled: guard.port_security(),
                security_groups: guard.groups(),
                allowed_address_pairs: pairs.then_some(v1::AddressPairs { pairs: guard.address_pair }),
            };
            let port = cloud.update_port(request).await?.into_inner();
            output.say(&format!("Port {} changed.", port.name), &json::of(&port))
        }
        Command::Delete { port, scope } => {
            cloud.delete_port(v1::DeleteRequest { id: port.clone(), project: scope.name() }).await?;
            deleted("port", &port, output)
        }
        Command::Plug { port, host, netns, interface, underlay_address, vhost_user, wait, scope } => {
            let request = v1::PlugPortRequest {
                port,
                project: scope.name(),
                host: host.unwrap_or_default(),
                netns: netns.unwrap_or_default(),
                vhost_user: vhost_user.is_some(),
                interface: interface.or(vhost_user).unwrap_or_default(),
                wait_milliseconds: wait.milliseconds(),
                underlay_address: underlay_address.unwrap_or_default(),
            };
            let port = cloud.plug_port(request).await?.into_inner();
            check_plugged(&port, &wait)?;
            let host = names(&mut cloud, output).await?.of(&port.host_id);
            output.say(&plugged(&port, &host), &json::of(&port))
        }
        Command::Unplug { port, wait, scope } => {
            let wait_milliseconds = wait.milliseconds();
            let request = v1::UnplugPortRequest { port, project: scope.name(), wait_milliseconds };
            let port = cloud.unplug_port(request).await?.into_inner();
            output.say(&format!("Port {} unplugged.", port.name), &json::of(&port))
        }
    }
}

/// What a table needs to name; nothing, for a program.
async fn names(cloud: &mut Cloud, output: Output) -> Result<Names, Failure> {
    if output.json {
        return Ok(Names::default());
    }
    let names = Names::default().add(&project::all(cloud).await?).add(&router::all(cloud, String::new()).await?);
    Ok(names.add(&network::all(cloud, String::new()).await?).add(&host::all(cloud).await?))
}

/// A port that was waited for must have become active.
fn check_plugged(port: &v1::Port, wait: &Wait) -> Result<(), Fault> {
    let name = &port.name;
    if port.status == "ERROR" {
        let why = port.fault.trim_end_matches('.');
        let why = if why.is_empty() { "without saying why" } else { why };
        return Err(Fault::invalid(
            "plug_refused",
            "port",
            format!("the host refused port {name}: {why}"),
            format!("Mend that, unplug the port (weft port unplug {name}), and plug it again."),
        ));
    }
    if port.status != "ACTIVE" && !awaits_machine(port) && !wait.no_wait {
        return Err(Fault::invalid(
            "plug_pending",
            "port",
            format!(
                "port {name} is still {} after {} s{}{}",
                port.status,
                wait.wait,
                if port.fault.is_empty() { "" } else { ": " },
                port.fault.trim_end_matches('.')
            ),
            "It stays wanted; see whether its host is connected with \"weft host list\".",
        )
        .with_status(Code::DeadlineExceeded));
    }
    Ok(())
}

/// All is ready, and the virtual machine does not run.
pub(crate) fn awaits_machine(port: &v1::Port) -> bool {
    port.vhost_user && !port.host_id.is_empty() && port.status == "DOWN" && port.fault.is_empty()
}

fn plugged(port: &v1::Port, host: &str) -> String {
    if port.vhost_user {
        let state = if awaits_machine(port) { "ready" } else { port.status.as_str() };
        let (name, socket, mac) = (&port.name, &port.interface, &port.mac_address);
        return format!(
            "Port {name} is {state} on host {host}, for a virtual machine with MAC {mac} at socket {socket}."
        );
    }
    let interface = if port.interface.is_empty() { String::new() } else { format!(", interface {}", port.interface) };
    let netns = if port.netns.is_empty() { String::new() } else { format!(" in namespace {}", port.netns) };
    format!("Port {} is {} on host {host}{interface}{netns}.", port.name, port.status)
}

fn groups(port: &v1::Port, names: &Names) -> String {
    let names: Vec<String> = port.security_groups.iter().map(|group| names.of(group)).collect();
    if names.is_empty() && port.port_security_enabled { "none".to_owned() } else { names.join(", ") }
}

fn pairs(port: &v1::Port) -> String {
    let pair = |pair: &v1::AddressPair| {
        if pair.mac_address.is_empty() {
            pair.ip_address.clone()
        } else {
            format!("{},{}", pair.ip_address, pair.mac_address)
        }
    };
    port.allowed_address_pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// Whose it is, if it is no instance's.
fn owner(port: &v1::Port, names: &Names) -> String {
    let name = || names.of(&port.device_id);
    match port.device_owner.as_str() {
        "" => String::new(),
        "network:router_gateway" => format!("gateway of router {}", name()),
        // It is called what it is: its address.
        "network:floatingip" => "floating IP".to_owned(),
        _ => format!("router {}", name()),
    }
}

fn addresses(port: &v1::Port) -> String {
    port.fixed_ips.iter().map(|fixed| fixed.ip_address.clone()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugged_port_must_become_active() {
        let port = |status: &str| v1::Port {
            name: "web-1".into(),
            status: status.into(),
            fault: "no such namespace.".into(),
            ..v1::Port::default()
        };
        let wait = Wait { no_wait: false, wait: 3 };
        let machine = |vhost_user| v1::Port { fault: String::new(), host_id: "h".into(), vhost_user, ..port("DOWN") };
        assert!(check_plugged(&machine(true), &wait).is_ok() && check_plugged(&machine(false), &wait).is_err());
        assert!(check_plugged(&port("ACTIVE"), &wait).is_ok());
        assert_eq!(check_plugged(&port("BUILD"), &wait).unwrap_err().code, "plug_pending");
        assert!(check_plugged(&port("BUILD"), &Wait { no_wait: true, wait: 3 }).is_ok());
        let refused = check_plugged(&port("ERROR"), &wait).unwrap_err();
        assert_eq!(refused.problem, "the host refused port web-1: no such namespace");
    }
}
