//! `weft floating-ip`: addresses of external networks that stand for ports.

use super::{Cloud, Names, Object, Scope, deleted, find, network, port, project, router};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table};
use weft_proto::v1;

/// The commands of `weft floating-ip`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Takes an address of an external network, for a port or to keep.
    Create {
        /// The external network, by name or id; it may be another project's.
        network: String,
        /// This address of its allocation pools; a free one unless given.
        #[arg(long, value_name = "IP")]
        address: Option<String>,
        /// The port that it stands for, by name or id.
        #[arg(long)]
        port: Option<String>,
        /// The port's address that it stands for; needed only if several could be meant.
        #[arg(long, value_name = "IP", requires = "port")]
        fixed_address: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lists the floating IPs: of one project, or all.
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Shows one floating IP.
    Show {
        /// Its address or id.
        floating_ip: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lets it stand for a port, whomever it stood for before: connections to it end.
    Set {
        /// Its address or id.
        floating_ip: String,
        /// The port, by name or id.
        #[arg(long)]
        port: String,
        /// The port's address; needed only if several could be meant.
        #[arg(long, value_name = "IP")]
        fixed_address: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Takes it off the port that it stands for, and keeps it.
    Unset {
        /// Its address or id.
        floating_ip: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Gives the address back, whomever it stands for.
    Delete {
        /// Its address or id.
        floating_ip: String,
        #[command(flatten)]
        scope: Scope,
    },
}

impl Object for v1::FloatingIp {
    const KIND: &'static str = "floating-ip";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.ip_address
    }
}

/// The floating IPs of a project, or all.
pub(super) async fn all(cloud: &mut Cloud, project: String) -> Result<Vec<v1::FloatingIp>, Failure> {
    Ok(cloud.list_floating_ips(v1::ListFloatingIpsRequest { project }).await?.into_inner().floating_ips)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { network, address, port, fixed_address, scope } => {
            let request = v1::CreateFloatingIpRequest {
                network,
                project: scope.name(),
                ip_address: address.unwrap_or_default(),
                port: port.unwrap_or_default(),
                fixed_ip_address: fixed_address.unwrap_or_default(),
            };
            let floating = cloud.create_floating_ip(request).await?.into_inner();
            let next = match floating.fixed_ip_address.as_str() {
                "" => format!(". Next: weft floating-ip set {} --port PORT", floating.ip_address),
                stands => format!("; it stands for {stands}."),
            };
            output.say(&format!("Floating IP {} created{next}", floating.ip_address), &json::of(&floating))
        }
        Command::List { scope } => {
            let all = all(&mut cloud, scope.name()).await?;
            let names = names(&mut cloud, output).await?;
            let mut table = Table::new(&["address", "project", "network", "port", "fixed address", "router", "id"]);
            for floating in &all {
                table.row(vec![
                    floating.ip_address.clone(),
                    names.of(&floating.project_id),
                    names.of(&floating.network_id),
                    names.of(&floating.port_id),
                    floating.fixed_ip_address.clone(),
                    names.of(&floating.router_id),
                    floating.id.clone(),
                ]);
            }
            let empty = "No floating IPs. Create one: weft floating-ip create NETWORK";
            output.table(&table, empty, all.iter().map(json::of).collect())
        }
        Command::Show { floating_ip, scope } => {
            let floating = find(&floating_ip, all(&mut cloud, scope.name()).await?)?;
            let names = names(&mut cloud, output).await?;
            let lines = [
                ("address", floating.ip_address.clone()),
                ("id", floating.id.clone()),
                ("project", names.of(&floating.project_id)),
                ("network", names.of(&floating.network_id)),
                ("port", names.of(&floating.port_id)),
                ("fixed address", floating.fixed_ip_address.clone()),
                ("router", names.of(&floating.router_id)),
            ];
            output.object(&lines, &json::of(&floating))
        }
        Command::Set { floating_ip, port, fixed_address, scope } => {
            let fixed_ip_address = fixed_address.unwrap_or_default();
            let request = v1::UpdateFloatingIpRequest { floating_ip, project: scope.name(), port, fixed_ip_address };
            let floating = cloud.update_floating_ip(request).await?.into_inner();
            let text = format!("Floating IP {} stands for {}.", floating.ip_address, floating.fixed_ip_address);
            output.say(&text, &json::of(&floating))
        }
        Command::Unset { floating_ip, scope } => {
            let project = scope.name();
            let request =
                v1::UpdateFloatingIpRequest { floating_ip, project, ..v1::UpdateFloatingIpRequest::default() };
            let floating = cloud.update_floating_ip(request).await?.into_inner();
            output.say(&format!("Floating IP {} stands for no port.", floating.ip_address), &json::of(&floating))
        }
        Command::Delete { floating_ip, scope } => {
            cloud.delete_floating_ip(v1::DeleteRequest { id: floating_ip.clone(), project: scope.name() }).await?;
            deleted("floating IP", &floating_ip, output)
        }
    }
}

/// What a table needs to name; nothing, for a program.
async fn names(cloud: &mut Cloud, output: Output) -> Result<Names, Failure> {
    if output.json {
        return Ok(Names::default());
    }
    let names = Names::default().add(&project::all(cloud).await?).add(&router::all(cloud, String::new()).await?);
    Ok(names.add(&network::all(cloud, String::new()).await?).add(&port::all(cloud).await?))
}
