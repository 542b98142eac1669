//! `weft project`.

use super::{deleted, find};
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

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { name } => {
            let project = cloud.create_project(v1::CreateProjectRequest { name }).await?.into_inner();
            output.say(&format!("Project {} created.", project.name), &json::project(&project))
        }
        Command::List => {
            let projects = cloud.list_projects(v1::ListProjectsRequest {}).await?.into_inner().projects;
            let mut table = Table::new(&["name", "id"]);
            for project in &projects {
                table.row(vec![project.name.clone(), project.id.clone()]);
            }
            let empty = "No projects. Create one: weft project create NAME";
            output.table(&table, empty, projects.iter().map(json::project).collect())
        }
        Command::Show { project } => {
            let projects = cloud.list_projects(v1::ListProjectsRequest {}).await?.into_inner().projects;
            let project = find("project", &project, projects, |project| &project.id, |project| &project.name)?;
            let lines = [("name", project.name.clone()), ("id", project.id.clone())];
            output.object(&lines, &json::project(&project))
        }
        Command::Delete { project } => {
            cloud.delete_project(v1::DeleteRequest { id: project.clone(), project: String::new() }).await?;
            deleted("project", &project, output)
        }
    }
}
