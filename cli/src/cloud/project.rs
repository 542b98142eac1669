//! `weft project`.

use super::{Cloud, Object, deleted, find};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table};
use weft_proto::v1;

/// The commands of `weft project`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Creates a project.
    Create {
        /// Its name, unique in the cloud.
        name: String,
    },
    /// Lists the projects.
    List,
    /// Shows one project.
    Show {
        /// Its name or id.
        project: String,
    },
    /// Deletes a project that has no networks.
    Delete {
        /// Its name or id.
        project: String,
    },
}

impl Object for v1::Project {
    const KIND: &'static str = "project";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// All projects that we may see.
pub(super) async fn all(cloud: &mut Cloud) -> Result<Vec<v1::Project>, Failure> {
    Ok(cloud.list_projects(v1::ListProjectsRequest {}).await?.into_inner().projects)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { name } => {
            let project = cloud.create_project(v1::CreateProjectRequest { name }).await?.into_inner();
            output.say(&format!("Project {} created.", project.name), &json::of(&project))
        }
        Command::List => {
            let projects = all(&mut cloud).await?;
            let mut table = Table::new(&["name", "id"]);
            for project in &projects {
                table.row(vec![project.name.clone(), project.id.clone()]);
            }
            let empty = "No projects. Create one: weft project create NAME";
            output.table(&table, empty, projects.iter().map(json::of).collect())
        }
        Command::Show { project } => {
            let projects = all(&mut cloud).await?;
            let project = find(&project, projects)?;
            let lines = [("name", project.name.clone()), ("id", project.id.clone())];
            output.object(&lines, &json::of(&project))
        }
        Command::Delete { project } => {
            cloud.delete_project(v1::DeleteRequest { id: project.clone(), project: String::new() }).await?;
            deleted("project", &project, output)
        }
    }
}
