//! What people ask the controller for: one module for each kind of object, all with `create`, `list`,
//! `show` and `delete`. What is shared stands here: scope, finding an object by id or name, and the
//! names behind ids in tables.

pub mod host;
pub mod network;
pub mod port;
pub mod project;
pub mod subnet;

use crate::connect::Transport;
use crate::failure::Failure;
use crate::output::Output;
use serde_json::json;
use std::collections::HashMap;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;
use weft_proto::v1::cloud_client::CloudClient;

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

/// Finds the one object with this id or name in a list.
fn find<T>(
    kind: &str,
    wanted: &str,
    objects: Vec<T>,
    id: impl Fn(&T) -> &str,
    name: impl Fn(&T) -> &str,
) -> Result<T, Fault> {
    let mut matching: Vec<T> =
        objects.into_iter().filter(|object| id(object) == wanted || name(object) == wanted).collect();
    // An id wins over a name that looks like it.
    if let Some(index) = matching.iter().position(|object| id(object) == wanted) {
        return Ok(matching.swap_remove(index));
    }
    if matching.len() > 1 {
        let ids: Vec<&str> = matching.iter().map(&id).collect();
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

/// Names by id. The empty one is for programs, which are told ids.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    async fn of_projects(cloud: &mut Cloud) -> Result<Self, Failure> {
        let projects = cloud.list_projects(v1::ListProjectsRequest {}).await?.into_inner().projects;
        Ok(Self(projects.into_iter().map(|project| (project.id, project.name)).collect()))
    }

    async fn of_networks(cloud: &mut Cloud) -> Result<Self, Failure> {
        let networks = cloud.list_networks(v1::ListNetworksRequest::default()).await?.into_inner().networks;
        Ok(Self(networks.into_iter().map(|network| (network.id, network.name)).collect()))
    }

    async fn of_hosts(cloud: &mut Cloud) -> Result<Self, Failure> {
        let hosts = cloud.list_hosts(v1::ListHostsRequest {}).await?.into_inner().hosts;
        Ok(Self(hosts.into_iter().map(|host| (host.id, host.name)).collect()))
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

    fn look(wanted: &str) -> Result<(&'static str, &'static str), Fault> {
        let objects = vec![("1", "a"), ("2", "b"), ("3", "b"), ("a", "z")];
        find("network", wanted, objects, |object| object.0, |object| object.1)
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
