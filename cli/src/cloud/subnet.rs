//! `weft subnet`.

use super::{Cloud, Names, Object, Scope, deleted, find, network, project};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table};
use weft_proto::v1;

/// The commands of `weft subnet`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Creates a subnet.
    Create(Create),
    /// Lists the subnets: of one network, of one project, or all.
    List {
        /// Only those of this network, by name or id.
        #[arg(long)]
        network: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Shows one subnet.
    Show {
        /// Its name or id.
        subnet: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Deletes a subnet that no port has an address of and no router is joined to.
    Delete {
        /// Its name or id.
        subnet: String,
        #[command(flatten)]
        scope: Scope,
    },
}

/// Arguments of `weft subnet create`.
#[derive(clap::Args)]
pub struct Create {
    /// Its name.
    name: String,
    /// The network, by name or id.
    #[arg(long)]
    network: String,
    /// Its addresses, as in 10.0.0.0/24.
    #[arg(long)]
    cidr: String,
    /// The router that DHCP offers, or none; the first address unless given. In an external network, the router
    /// outside.
    #[arg(long, value_name = "IP")]
    gateway: Option<String>,
    /// A name server that DHCP offers; may be repeated.
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// A route that DHCP offers, as in 10.1.0.0/16=10.0.0.254; may be repeated.
    #[arg(long, value_name = "DESTINATION=NEXTHOP", value_parser = route)]
    route: Vec<v1::HostRoute>,
    /// Addresses to choose from, as in 10.0.0.10-10.0.0.99; all unless given. May be repeated.
    #[arg(long, value_name = "FIRST-LAST", value_parser = pool)]
    pool: Vec<v1::AllocationPool>,
    /// Do not answer DHCP; in an external network it is never answered.
    #[arg(long)]
    no_dhcp: bool,
    /// How long a lease lasts; a day unless given.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    lease: Option<u32>,
    /// The domain that DHCP offers.
    #[arg(long)]
    domain: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

fn route(text: &str) -> Result<v1::HostRoute, String> {
    let (destination, nexthop) =
        text.split_once('=').ok_or("write destination and next hop, as in 10.1.0.0/16=10.0.0.254")?;
    Ok(v1::HostRoute { destination: destination.to_owned(), nexthop: nexthop.to_owned() })
}

fn pool(text: &str) -> Result<v1::AllocationPool, String> {
    let (start, end) = text.split_once('-').ok_or("write the first and the last address, as in 10.0.0.10-10.0.0.99")?;
    Ok(v1::AllocationPool { start: start.to_owned(), end: end.to_owned() })
}

impl Object for v1::Subnet {
    const KIND: &'static str = "subnet";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The subnets of a project, or all.
pub(super) async fn all(cloud: &mut Cloud, project: String) -> Result<Vec<v1::Subnet>, Failure> {
    let request = v1::ListSubnetsRequest { project, network: String::new() };
    Ok(cloud.list_subnets(request).await?.into_inner().subnets)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create(create) => {
            let request = v1::CreateSubnetRequest {
                name: create.name,
                project: create.scope.name(),
                network: create.network,
                cidr: create.cidr,
                gateway_ip: create.gateway.unwrap_or_default(),
                disable_dhcp: create.no_dhcp,
                dns_nameservers: create.dns,
                host_routes: create.route,
                lease_seconds: create.lease.unwrap_or(0),
                domain_name: create.domain.unwrap_or_default(),
                allocation_pools: create.pool,
            };
            let network = request.network.clone();
            let subnet = cloud.create_subnet(request).await?.into_inner();
            let networks = cloud.list_networks(v1::ListNetworksRequest::default()).await?.into_inner().networks;
            let external = networks.iter().any(|it| it.id == subnet.network_id && it.external);
            let next = if external {
                format!("weft router gateway set ROUTER {network}")
            } else {
                format!("weft port create NAME --network {network}")
            };
            let text = format!("Subnet {} created, {}, {}. Next: {next}", subnet.name, subnet.cidr, gateway(&subnet));
            output.say(&text, &json::of(&subnet))
        }
        Command::List { network, scope } => {
            let request = v1::ListSubnetsRequest { project: scope.name(), network: network.unwrap_or_default() };
            let subnets = cloud.list_subnets(request).await?.into_inner().subnets;
            let names = names(&mut cloud, output).await?;
            let mut table = Table::new(&["name", "project", "network", "cidr", "gateway", "dhcp", "id"]);
            for subnet in &subnets {
                table.row(vec![
                    subnet.name.clone(),
                    names.of(&subnet.project_id),
                    names.of(&subnet.network_id),
                    subnet.cidr.clone(),
                    subnet.gateway_ip.clone(),
                    if subnet.enable_dhcp { "on" } else { "off" }.to_owned(),
                    subnet.id.clone(),
                ]);
            }
            let empty = "No subnets. Create one: weft subnet create NAME --network NETWORK --cidr 10.0.0.0/24";
            output.table(&table, empty, subnets.iter().map(json::of).collect())
        }
        Command::Show { subnet, scope } => {
            let subnets = all(&mut cloud, scope.name()).await?;
            let subnet = find(&subnet, subnets)?;
            let routes = subnet.host_routes.iter().map(|route| format!("{}={}", route.destination, route.nexthop));
            let names = names(&mut cloud, output).await?;
            let lines = [
                ("name", subnet.name.clone()),
                ("id", subnet.id.clone()),
                ("project", names.of(&subnet.project_id)),
                ("network", names.of(&subnet.network_id)),
                ("cidr", subnet.cidr.clone()),
                ("gateway", if subnet.gateway_ip.is_empty() { "none".to_owned() } else { subnet.gateway_ip.clone() }),
                ("dhcp", if subnet.enable_dhcp { subnet.dhcp_address.clone() } else { "off".to_owned() }),
                ("pools", pools(&subnet)),
                ("lease", format!("{} s", subnet.lease_seconds)),
                ("dns", subnet.dns_nameservers.join(", ")),
                ("domain", subnet.domain_name.clone()),
                ("routes", routes.collect::<Vec<_>>().join(", ")),
            ];
            output.object(&lines, &json::of(&subnet))
        }
        Command::Delete { subnet, scope } => {
            cloud.delete_subnet(v1::DeleteRequest { id: subnet.clone(), project: scope.name() }).await?;
            deleted("subnet", &subnet, output)
        }
    }
}

/// What a table needs to name; nothing, for a program.
async fn names(cloud: &mut Cloud, output: Output) -> Result<Names, Failure> {
    if output.json {
        return Ok(Names::default());
    }
    Ok(Names::default().add(&project::all(cloud).await?).add(&network::all(cloud, String::new()).await?))
}

fn gateway(subnet: &v1::Subnet) -> String {
    if subnet.gateway_ip.is_empty() { "no gateway".to_owned() } else { format!("gateway {}", subnet.gateway_ip) }
}

/// From which addresses are chosen.
fn pools(subnet: &v1::Subnet) -> String {
    let pools = subnet.allocation_pools.iter().map(|pool| format!("{}-{}", pool.start, pool.end));
    pools.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_two_ends() {
        let expected = v1::HostRoute { destination: "10.1.0.0/16".into(), nexthop: "10.0.0.254".into() };
        assert_eq!(route("10.1.0.0/16=10.0.0.254"), Ok(expected));
        assert!(route("10.1.0.0/16").is_err());
    }
}
