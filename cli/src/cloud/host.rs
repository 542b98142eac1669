//! `weft host`.

use super::{Cloud, Object, deleted, find};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::output::{Output, Table, properties, write};
use crate::{json, port_kind};
use weft_proto::v1;

/// The commands of `weft host`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Makes a host known; a switch of this name may then connect.
    Create {
        /// Its name, unique in the cloud.
        name: String,
    },
    /// Lists the hosts.
    List,
    /// Shows one host and its ports.
    Show {
        /// Its name or id.
        host: String,
    },
    /// Deletes a host that has no plugged ports.
    Delete {
        /// Its name or id.
        host: String,
    },
}

impl Object for v1::Host {
    const KIND: &'static str = "host";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// All hosts.
pub(super) async fn all(cloud: &mut Cloud) -> Result<Vec<v1::Host>, Failure> {
    Ok(cloud.list_hosts(v1::ListHostsRequest {}).await?.into_inner().hosts)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { name } => {
            let host = cloud.create_host(v1::CreateHostRequest { name }).await?.into_inner();
            let text = format!("Host {} created. Next: start weft-switch there with this host name.", host.name);
            output.say(&text, &json::host(&host))
        }
        Command::List => {
            let hosts = all(&mut cloud).await?;
            let mut table = Table::new(&["name", "state", "underlay", "mtu", "ports", "version"]);
            for host in &hosts {
                table.row(vec![
                    host.name.clone(),
                    state(host),
                    host.underlay_address.clone(),
                    if host.underlay_mtu == 0 { String::new() } else { host.underlay_mtu.to_string() },
                    host.ports.len().to_string(),
                    host.switch_version.clone(),
                ]);
                table.note(&format!("host {}", host.name), &trouble(host));
            }
            let empty = "No hosts. Create one: weft host create NAME";
            output.table(&table, empty, hosts.iter().map(json::host).collect())
        }
        Command::Show { host } => {
            let hosts = all(&mut cloud).await?;
            let host = find(&host, hosts)?;
            let lines = [
                ("name", host.name.clone()),
                ("id", host.id.clone()),
                ("state", state(&host)),
                ("generation", format!("{}, acknowledged {}", host.generation, host.acknowledged_generation)),
                ("underlay", host.underlay_address.clone()),
                ("underlay mtu", if host.underlay_mtu == 0 { String::new() } else { host.underlay_mtu.to_string() }),
                ("version", host.switch_version.clone()),
                ("fault", host.fault.clone()),
                ("note", host.note.clone()),
            ];
            if output.json {
                return output.object(&lines, &json::host(&host));
            }
            let ports = host.ports.iter().map(|port| {
                let spec = port.spec.clone().unwrap_or_default();
                format!("port {}  {} ({}) {}\n", spec.number, spec.name, port_kind::format(&spec), port.state)
            });
            write(&(properties(&lines) + &ports.collect::<String>()))
        }
        Command::Delete { host } => {
            cloud.delete_host(v1::DeleteRequest { id: host.clone(), project: String::new() }).await?;
            deleted("host", &host, output)
        }
    }
}

/// What is wrong with it, or worth knowing.
fn trouble(host: &v1::Host) -> String {
    [host.fault.as_str(), host.note.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether it is there and has what it should have.
fn state(host: &v1::Host) -> String {
    let state = match (host.connected, host.acknowledged_generation < host.generation) {
        (true, false) => "connected",
        (true, true) => "connected, behind",
        (false, _) if host.underlay_address.is_empty() => "never connected",
        (false, _) => "disconnected",
    };
    state.to_owned()
}
