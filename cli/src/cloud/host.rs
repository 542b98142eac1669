//! `weft host`.

use super::{Cloud, Object, deleted, find};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::output::{Output, Table, duration, properties, write};
use crate::{json, port_kind};
use std::time::{SystemTime, UNIX_EPOCH};
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
    /// Makes a token with which a machine joins as this host, once: weft-switch join TOKEN.
    ///
    /// It takes the place of one made before. Joining makes all certificates of the host worthless that were
    /// issued before.
    JoinToken {
        /// The host's name or id.
        host: String,
        /// How long it works: 30s, 10m, 1h, 7d.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
        expires: u32,
        /// Where the machine reaches the controller's bus, unless the controller's settings say so.
        #[arg(long, value_name = "ADDRESS:PORT")]
        address: Option<String>,
    },
    /// Accepts no certificate of a host any more, and disconnects it; the host and its ports stay.
    Revoke {
        /// Its name or id.
        host: String,
    },
    /// Deletes a host that has no plugged ports; its certificates are accepted no more.
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
            let text = format!(
                "Host {0} created. Next: start weft-switch with this host name; on another machine than the \
                 controller's after it has joined: weft host join-token {0}",
                host.name
            );
            output.say(&text, &json::host(&host))
        }
        Command::List => {
            let hosts = all(&mut cloud).await?;
            let ports = cloud.list_ports(v1::ListCloudPortsRequest::default()).await?.into_inner().ports;
            let mut table = Table::new(&["name", "state", "underlay", "mtu", "physical", "ports", "version"]);
            for host in &hosts {
                table.row(vec![
                    host.name.clone(),
                    state(host),
                    underlay(host),
                    if host.underlay_mtu == 0 { String::new() } else { host.underlay_mtu.to_string() },
                    host.physical_networks.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", "),
                    ports.iter().filter(|port| port.host_id == host.id).count().to_string(),
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
                ("underlay", underlay_in_full(&host)),
                ("underlay mtu", if host.underlay_mtu == 0 { String::new() } else { host.underlay_mtu.to_string() }),
                ("physical networks", physical(&host)),
                ("version", host.switch_version.clone()),
                ("certificate", certificate(host.certificate_expires, now())),
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
        Command::JoinToken { host, expires, address } => {
            let address = address.unwrap_or_default();
            let request = v1::CreateJoinTokenRequest { host, lifetime_seconds: expires, address };
            let made = cloud.create_join_token(request).await?.into_inner();
            let text = format!(
                "On the machine that is to be host {}, as root, within {}:\n\n    weft-switch join {}\n",
                made.host,
                duration(expires.into()),
                made.token
            );
            output.say(&text, &json::of(&made))
        }
        Command::Revoke { host } => {
            let host = cloud.revoke_host(v1::RevokeHostRequest { host }).await?.into_inner();
            let text =
                format!("Host {0} revoked. To let a machine join as it again: weft host join-token {0}", host.name);
            output.say(&text, &json::host(&host))
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

/// Where tunnels to it end: "192.0.2.1", "192.0.2.1, 198.51.100.1 down"; of many the first two.
pub fn underlay(host: &v1::Host) -> String {
    let shown = |one: &v1::UnderlayAddress| format!("{}{}", one.address, if one.down { " down" } else { "" });
    let all: Vec<String> = host.underlay_addresses.iter().map(shown).collect();
    match all.len() {
        0..=2 => all.join(", "),
        more => format!("{} and {} more", all[..2].join(", "), more - 2),
    }
}

/// Each of them: "192.0.2.1 on eth1 (mtu 1550)".
fn underlay_in_full(host: &v1::Host) -> String {
    let each = host.underlay_addresses.iter().map(|one| {
        let down = if one.down { ", down" } else { "" };
        format!("{} on {} (mtu {}{down})", one.address, one.interface, one.mtu)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The physical networks it reaches: "provider by eth2 (mtu 1500)".
fn physical(host: &v1::Host) -> String {
    let each = host.physical_networks.iter().map(|network| match network.mtu {
        0 => format!("{} by {} (no such interface)", network.name, network.interface),
        mtu if network.shared => format!("{} by {} (mtu {mtu}, shared)", network.name, network.interface),
        mtu => format!("{} by {} (mtu {mtu})", network.name, network.interface),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Whether it is there and has what it should have.
fn state(host: &v1::Host) -> String {
    let state = match (host.connected, host.acknowledged_generation < host.generation) {
        (true, false) => "connected",
        (true, true) => "connected, behind",
        (false, _) if host.underlay_addresses.is_empty() => "never connected",
        (false, _) => "disconnected",
    };
    let now = now();
    match host.certificate_expires {
        0 => state.to_owned(),
        expires if expires < now + WARN_SECONDS => format!("{state}, certificate {}", certificate(expires, now)),
        _ => state.to_owned(),
    }
}

/// How long before a certificate expires its host's state says so: one that is renewed never comes so far.
const WARN_SECONDS: u64 = 30 * 86_400;

/// How long a certificate is valid; "" if there is none.
fn certificate(expires: u64, now: u64) -> String {
    match expires.checked_sub(now) {
        _ if expires == 0 => String::new(),
        None | Some(0) => "expired: the host must join again".to_owned(),
        Some(left) => format!("expires in {}", duration(left)),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// "1h" in seconds.
fn lifetime(text: &str) -> Result<u32, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    seconds.filter(|&seconds| seconds > 0).ok_or_else(|| "write a number and s, m, h or d: 30s, 10m, 1h, 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_units() {
        assert_eq!(lifetime("90m"), Ok(5400));
        assert_eq!(lifetime("7d"), Ok(604_800));
        for wrong in ["", "1", "h", "0s", "-1h", "1y", "99999999d", "1 h", "é"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_certificate_that_ends_soon_is_told() {
        let host = |expires| v1::Host { connected: true, certificate_expires: expires, ..v1::Host::default() };
        assert_eq!(state(&host(0)), "connected");
        assert_eq!(state(&host(now() + 31 * 86_400)), "connected");
        assert!(state(&host(now() + 3 * 86_400 - 60)).starts_with("connected, certificate expires in 2d"));
        assert!(state(&host(now() - 1)).contains("expired: the host must join again"));
    }
}
