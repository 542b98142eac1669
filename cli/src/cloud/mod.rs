//! What people ask the controller for: one module for each kind of object, all with `create`, `list`,
//! `show` and `delete`, in the list `commands`. What is shared stands here: scope, finding an object by id or
//! name, and the names behind ids in tables.

pub mod floating_ip;
pub mod group;
pub mod host;
pub mod network;
pub mod port;
pub mod project;
pub mod router;
pub mod subnet;

use crate::connect::{Connection, Transport};
use crate::failure::Failure;
use crate::output::Output;
use serde_json::json;
use std::collections::HashMap;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1::cloud_client::CloudClient;

/// The list of kinds: a command for each.
macro_rules! commands {
    ($($(#[$documentation:meta])* $Name:ident in $module:ident,)*) => {
        /// The commands for objects of the cloud.
        #[derive(clap::Subcommand)]
        pub enum Command {
            $($(#[$documentation])* #[command(subcommand)] $Name($module::Command),)*
        }

        /// Runs one of the commands.
        pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
            match command {
                $(Command::$Name(command) => $module::run(command, connection, output).await,)*
            }
        }
    };
}

commands! {
    /// Projects: whose networks are whose.
    Project in project,
    /// Networks: layer 2 segments of a project.
    Network in network,
    /// Subnets: the addresses of a network, and what DHCP offers with them.
    Subnet in subnet,
    /// Security groups: what may pass to and from ports.
    Group in group,
    /// Ports of networks: a MAC, its addresses, and where it is plugged.
    Port in port,
    /// Routers: what joins subnets, and leads out of the cloud.
    Router in router,
    /// Floating IPs: addresses outside that stand for ports.
    FloatingIp in floating_ip,
    /// Hosts: machines with a switch that the controller programs.
    Host in host,
}

/// The controller's API, connected.
type Cloud = CloudClient<Transport>;

/// Which project is meant.
#[derive(clap::Args)]
pub struct Scope {
    /// The project, by name or id.
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

impl Scope {
    /// As it travels: empty for the default.
    fn name(self) -> String {
        self.project.unwrap_or_default()
    }
}

/// A kind of object, as the API shows it.
trait Object {
    /// What the command line calls it.
    const KIND: &'static str;

    /// Unique in the cloud.
    fn id(&self) -> &str;

    /// Unique in its project.
    fn name(&self) -> &str;
}

/// Finds the one object with this id or name in a list.
fn find<T: Object>(wanted: &str, objects: Vec<T>) -> Result<T, Fault> {
    let kind = T::KIND;
    let mut matching: Vec<T> =
        objects.into_iter().filter(|object| object.id() == wanted || object.name() == wanted).collect();
    // An id wins over a name that looks like it.
    if let Some(index) = matching.iter().position(|object| object.id() == wanted) {
        return Ok(matching.swap_remove(index));
    }
    if matching.len() > 1 {
        let ids: Vec<&str> = matching.iter().map(Object::id).collect();
        return Err(Fault::invalid(
            "ambiguous_name",
            kind,
            format!("there are {} {kind}s \"{wanted}\"", matching.len()),
            format!("Name the project with --project, or one of the ids: {}.", ids.join(", ")),
        ));
    }
    matching.pop().ok_or_else(|| {
        Fault::invalid(
            "not_found",
            kind,
            format!("there is no {kind} \"{wanted}\""),
            format!("See \"weft {kind} list\"."),
        )
        .with_status(Code::NotFound)
    })
}

/// Names by id, of all kinds that were asked for.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// None: for programs, which are told ids.
    fn add<T: Object>(mut self, objects: &[T]) -> Self {
        self.0.extend(objects.iter().map(|object| (object.id().to_owned(), object.name().to_owned())));
        self
    }

    /// The name, or the id if it has none that we may see.
    fn of(&self, id: &str) -> String {
        self.0.get(id).filter(|name| !name.is_empty()).map_or(id, String::as_str).to_owned()
    }
}

/// What is said after a deletion.
fn deleted(kind: &str, name: &str, output: Output) -> Result<(), Failure> {
    output.say(&format!("{} {name} deleted.", capitalised(kind)), &json!({ "deleted": name }))
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Object for (&str, &str) {
        const KIND: &'static str = "network";

        fn id(&self) -> &str {
            self.0
        }

        fn name(&self) -> &str {
            self.1
        }
    }

    fn look(wanted: &str) -> Result<(&'static str, &'static str), Fault> {
        find(wanted, vec![("1", "a"), ("2", "b"), ("3", "b"), ("a", "z")])
    }

    #[test]
    fn objects_are_found_by_id_or_unique_name() {
        assert_eq!(look("1").unwrap(), ("1", "a"));
        assert_eq!(look("a").unwrap(), ("a", "z"));
        assert_eq!(
            look("b").unwrap_err().to_string(),
            "network: there are 2 networks \"b\". Name the project with --project, or one of the ids: 2, 3."
        );
        assert_eq!(look("c").unwrap_err().code, "not_found");
    }
}
