//! `weft router`: routers, the subnets that are joined to them, their extra routes, and how they lead out of the cloud.

use super::{Cloud, Names, Object, Scope, deleted, find, host, network, project, subnet};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table, properties, write};
use weft_proto::v1;

/// The commands of `weft router`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Creates a router; it forwards between the subnets that are joined to it.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lists the routers: of one project, or all.
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Shows one router, its interfaces and extra routes.
    Show {
        /// Its name or id.
        router: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Deletes a router that no subnet is joined to, with its external gateway.
    Delete {
        /// Its name or id.
        router: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Interfaces of routers: the subnets that are joined to them.
    #[command(subcommand)]
    Interface(InterfaceCommand),
    /// Extra routes: to what is behind an instance.
    #[command(subcommand)]
    Route(RouteCommand),
    /// External gateways: the way out of the cloud.
    #[command(subcommand)]
    Gateway(GatewayCommand),
}

/// The commands of `weft router gateway`.
#[derive(clap::Subcommand)]
pub enum GatewayCommand {
    /// Lets a router lead to an external network, under an address there; or changes how it does.
    ///
    /// What leaves is sent under the router's address, unless the sender has a floating IP. It passes one host, which
    /// reaches the network's physical network, and is chosen.
    Set {
        /// The router, by name or id.
        router: String,
        /// The external network, by name or id; it may be another project's.
        network: String,
        /// This address of its allocation pools; a free one unless given.
        #[arg(long, value_name = "IP")]
        address: Option<String>,
        /// Senders are known outside by the router's address: as it is with a new gateway unless --no-snat is given. A
        /// gateway on the same network stays as it is unless one of the two is given.
        #[arg(long)]
        snat: bool,
        /// Senders keep their own addresses outside; somebody there must know the way back to them.
        #[arg(long, conflicts_with = "snat")]
        no_snat: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lets a router lead out no more.
    Clear {
        /// The router, by name or id.
        router: String,
        #[command(flatten)]
        scope: Scope,
    },
}

/// The commands of `weft router interface`.
#[derive(clap::Subcommand)]
pub enum InterfaceCommand {
    /// Joins a subnet to a router, which has the subnet's gateway address from then on.
    Add {
        /// The router, by name or id.
        router: String,
        /// The subnet, by name or id.
        subnet: String,
        /// Another address of the subnet, instead of its gateway's.
        #[arg(long, value_name = "IP")]
        address: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Takes a subnet off a router.
    Remove {
        /// The router, by name or id.
        router: String,
        /// The subnet, by name or id.
        subnet: String,
        #[command(flatten)]
        scope: Scope,
    },
}

/// The commands of `weft router route`.
#[derive(clap::Subcommand)]
pub enum RouteCommand {
    /// Adds a route by way of an instance.
    ///
    /// For example: weft router route add main 10.9.0.0/16 10.0.0.9. For what the instance sends from there its port
    /// needs address pairs, or port security off.
    Add {
        /// The router, by name or id.
        router: String,
        /// Where to, as in 10.9.0.0/16; 0.0.0.0/0 for all that has no other route.
        destination: String,
        /// The address of an instance's port in a subnet that is joined.
        nexthop: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Removes the route to a destination.
    Remove {
        /// The router, by name or id.
        router: String,
        /// Where to, as it was added.
        destination: String,
        #[command(flatten)]
        scope: Scope,
    },
}

impl Object for v1::Router {
    const KIND: &'static str = "router";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The routers of a project, or all.
pub(super) async fn all(cloud: &mut Cloud, project: String) -> Result<Vec<v1::Router>, Failure> {
    Ok(cloud.list_routers(v1::ListRoutersRequest { project }).await?.into_inner().routers)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { name, scope } => {
            let request = v1::CreateRouterRequest { name, project: scope.name() };
            let router = cloud.create_router(request).await?.into_inner();
            let text = format!("Router {} created. Next: weft router interface add {0} SUBNET", router.name);
            output.say(&text, &json::of(&router))
        }
        Command::List { scope } => {
            let routers = all(&mut cloud, scope.name()).await?;
            let names = names(&mut cloud, output).await?;
            let mut table = Table::new(&["name", "project", "number", "addresses", "external", "routes", "id"]);
            for router in &routers {
                let interfaces = router.interfaces.iter();
                let addresses: Vec<&str> = interfaces.map(|interface| interface.ip_address.as_str()).collect();
                table.row(vec![
                    router.name.clone(),
                    names.of(&router.project_id),
                    router.number.to_string(),
                    addresses.join(", "),
                    router.external_gateway.as_ref().map_or(String::new(), |gateway| gateway.ip_address.clone()),
                    router.routes.len().to_string(),
                    router.id.clone(),
                ]);
            }
            let empty = "No routers. Create one: weft router create NAME";
            output.table(&table, empty, routers.iter().map(json::of).collect())
        }
        Command::Show { router, scope } => {
            let routers = all(&mut cloud, scope.name()).await?;
            let router = find(&router, routers)?;
            let mut names = names(&mut cloud, output).await?;
            if !output.json {
                names = names.add(&network::all(&mut cloud, String::new()).await?);
                names = names.add(&subnet::all(&mut cloud, String::new()).await?).add(&host::all(&mut cloud).await?);
            }
            let routes = router.routes.iter().map(|route| format!("{}={}", route.destination, route.nexthop));
            let lines = [
                ("name", router.name.clone()),
                ("id", router.id.clone()),
                ("project", names.of(&router.project_id)),
                ("number", router.number.to_string()),
                ("routes", routes.collect::<Vec<_>>().join(", ")),
                (
                    "external",
                    router.external_gateway.as_ref().map_or(String::new(), |gateway| external(gateway, &names)),
                ),
            ];
            if output.json {
                return output.object(&lines, &json::of(&router));
            }
            write(&properties(&lines))?;
            let mut table = Table::new(&["subnet", "network", "address", "mac", "port"]);
            for interface in &router.interfaces {
                table.row(vec![
                    names.of(&interface.subnet_id),
                    names.of(&interface.network_id),
                    interface.ip_address.clone(),
                    interface.mac_address.clone(),
                    interface.port_id.clone(),
                ]);
            }
            let empty = format!("No interfaces. Join a subnet: weft router interface add {} SUBNET", router.name);
            output.table(&table, &empty, Vec::new())
        }
        Command::Delete { router, scope } => {
            cloud.delete_router(v1::DeleteRequest { id: router.clone(), project: scope.name() }).await?;
            deleted("router", &router, output)
        }
        Command::Interface(InterfaceCommand::Add { router, subnet, address, scope }) => {
            let request = v1::AddRouterInterfaceRequest {
                router,
                project: scope.name(),
                subnet: subnet.clone(),
                ip_address: address.unwrap_or_default(),
            };
            let router = cloud.add_router_interface(request).await?.into_inner();
            output.say(&format!("Subnet {subnet} joined to router {}.", router.name), &json::of(&router))
        }
        Command::Interface(InterfaceCommand::Remove { router, subnet, scope }) => {
            let request = v1::RemoveRouterInterfaceRequest { router, project: scope.name(), subnet: subnet.clone() };
            let router = cloud.remove_router_interface(request).await?.into_inner();
            output.say(&format!("Subnet {subnet} taken off router {}.", router.name), &json::of(&router))
        }
        Command::Route(RouteCommand::Add { router, destination, nexthop, scope }) => {
            let text = format!("route to {destination} by {nexthop}");
            let request = v1::AddRouterRouteRequest { router, project: scope.name(), destination, nexthop };
            let router = cloud.add_router_route(request).await?.into_inner();
            output.say(&format!("Router {} has a {text}.", router.name), &json::of(&router))
        }
        Command::Route(RouteCommand::Remove { router, destination, scope }) => {
            let text = format!("no route to {destination} of its own");
            let request = v1::RemoveRouterRouteRequest { router, project: scope.name(), destination };
            let router = cloud.remove_router_route(request).await?.into_inner();
            output.say(&format!("Router {} has {text}.", router.name), &json::of(&router))
        }
        Command::Gateway(GatewayCommand::Set { router, network, address, snat, no_snat, scope }) => {
            let request = v1::SetRouterGatewayRequest {
                router,
                project: scope.name(),
                network: network.clone(),
                ip_address: address.unwrap_or_default(),
                enable_snat: (snat || no_snat).then_some(snat),
            };
            let router = cloud.set_router_gateway(request).await?.into_inner();
            let gateway = router.external_gateway.clone().unwrap_or_default();
            let (address, snat) = (&gateway.ip_address, if gateway.enable_snat { "with" } else { "without" });
            let text = format!("Router {} leads to network {network} as {address}, {snat} SNAT.", router.name);
            output.say(&text, &json::of(&router))
        }
        Command::Gateway(GatewayCommand::Clear { router, scope }) => {
            let project = scope.name();
            let before = find(&router, all(&mut cloud, project.clone()).await?)?;
            let request = v1::ClearRouterGatewayRequest { router, project };
            let router = cloud.clear_router_gateway(request).await?.into_inner();
            let text = match before.external_gateway {
                Some(_) => format!("Router {} leads to no external network.", router.name),
                None => format!("Router {} led to no external network: nothing has changed.", router.name),
            };
            output.say(&text, &json::of(&router))
        }
    }
}

/// "203.0.113.5 of network internet by host a, with SNAT".
fn external(gateway: &v1::ExternalGateway, names: &Names) -> String {
    let host = match gateway.host_id.as_str() {
        "" => "on no host: none reaches it".to_owned(),
        host => format!("by host {}", names.of(host)),
    };
    let snat = if gateway.enable_snat { "SNAT" } else { "no SNAT" };
    format!("{} of network {} {host}, {snat}", gateway.ip_address, names.of(&gateway.network_id))
}

/// What a table needs to name; nothing, for a program.
async fn names(cloud: &mut Cloud, output: Output) -> Result<Names, Failure> {
    if output.json {
        return Ok(Names::default());
    }
    Ok(Names::default().add(&project::all(cloud).await?))
}
