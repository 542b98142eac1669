//! `weft network`.

use super::{Cloud, Names, Object, Scope, deleted, find, project};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table};
use weft_proto::v1;

/// The commands of `weft network`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Creates a network.
    Create {
        /// Its name.
        name: String,
        /// How hosts carry it: by tunnels over the underlay, or on a physical network, tagged or not.
        #[arg(long = "type", value_name = "TYPE", value_parser = ["vxlan", "gre", "vlan", "flat"])]
        segment_type: Option<String>,
        /// Its VNI, or its key in GRE; the controller chooses one unless given.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=0x00ff_ffff))]
        segment: Option<u32>,
        /// The physical network of a VLAN or flat network: one that hosts reach, as `weft host list` shows.
        #[arg(long, value_name = "NAME")]
        physical: Option<String>,
        /// The VLAN of a VLAN network; the controller chooses one unless given.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=4094))]
        vlan: Option<u32>,
        /// It leads out of the cloud; a VLAN or flat network.
        #[arg(long)]
        external: bool,
        /// It carries frames that instances tag (802.1Q), of ports without port security.
        #[arg(long)]
        vlan_transparent: bool,
        /// Hosts learn where its ports elsewhere are when something is first sent there: for networks of many ports of
        /// which few talk to one another. VXLAN and GRE only, and no router joins it.
        #[arg(long)]
        reactive: bool,
        /// Bytes an instance may send in one packet; as many as all hosts carry, unless given.
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
        mtu: Option<u32>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lists the networks: of one project, or all.
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Shows one network.
    Show {
        /// Its name or id.
        network: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Deletes a network that has no ports, with its subnets.
    Delete {
        /// Its name or id.
        network: String,
        #[command(flatten)]
        scope: Scope,
    },
}

impl Object for v1::Network {
    const KIND: &'static str = "network";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The networks of a project, or all.
pub(super) async fn all(cloud: &mut Cloud, project: String) -> Result<Vec<v1::Network>, Failure> {
    Ok(cloud.list_networks(v1::ListNetworksRequest { project }).await?.into_inner().networks)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create {
            name,
            segment_type,
            segment,
            physical,
            vlan,
            external,
            vlan_transparent,
            reactive,
            mtu,
            scope,
        } => {
            let request = v1::CreateNetworkRequest {
                name,
                project: scope.name(),
                segment_id: segment.unwrap_or(0),
                mtu: mtu.unwrap_or(0),
                segment_type: segment_type.unwrap_or_default(),
                physical_network: physical.unwrap_or_default(),
                vlan_id: vlan.unwrap_or(0),
                external,
                vlan_transparent,
                reactive,
            };
            let network = cloud.create_network(request).await?.into_inner();
            let text = format!(
                "Network {} created, {}, MTU {}. Next: weft subnet create NAME --network {0} --cidr 10.0.0.0/24",
                network.name,
                carried(&network),
                network.mtu
            );
            output.say(&text, &json::of(&network))
        }
        Command::List { scope } => {
            let networks = all(&mut cloud, scope.name()).await?;
            let names = names(&mut cloud, output).await?;
            let mut table = Table::new(&["name", "project", "segment", "mtu", "external", "id"]);
            for network in &networks {
                table.row(vec![
                    network.name.clone(),
                    names.of(&network.project_id),
                    carried(network),
                    network.mtu.to_string(),
                    if network.external { "yes" } else { "" }.to_owned(),
                    network.id.clone(),
                ]);
            }
            let empty = "No networks. Create one: weft network create NAME";
            output.table(&table, empty, networks.iter().map(json::of).collect())
        }
        Command::Show { network, scope } => {
            let networks = all(&mut cloud, scope.name()).await?;
            let network = find(&network, networks)?;
            let lines = [
                ("name", network.name.clone()),
                ("id", network.id.clone()),
                ("project", names(&mut cloud, output).await?.of(&network.project_id)),
                ("segment", carried(&network)),
                ("number in flow tables", network.segment_id.to_string()),
                ("mtu", network.mtu.to_string()),
                ("external", if network.external { "yes" } else { "no" }.to_owned()),
                ("vlan transparent", if network.vlan_transparent { "yes" } else { "no" }.to_owned()),
                ("reactive", if network.reactive { "yes" } else { "no" }.to_owned()),
            ];
            output.object(&lines, &json::of(&network))
        }
        Command::Delete { network, scope } => {
            cloud.delete_network(v1::DeleteRequest { id: network.clone(), project: scope.name() }).await?;
            deleted("network", &network, output)
        }
    }
}

/// How it is carried, as people say it: "vxlan 1000", "vlan 100 on provider", "flat on provider".
fn carried(network: &v1::Network) -> String {
    let kind = &network.segment_type;
    match kind.as_str() {
        "vlan" => format!("{kind} {} on {}", network.vlan_id, network.physical_network),
        "flat" => format!("{kind} on {}", network.physical_network),
        _ => format!("{kind} {}", network.segment_id),
    }
}

/// What a table needs to name; nothing, for a program.
async fn names(cloud: &mut Cloud, output: Output) -> Result<Names, Failure> {
    if output.json { Ok(Names::default()) } else { Ok(Names::default().add(&project::all(cloud).await?)) }
}
