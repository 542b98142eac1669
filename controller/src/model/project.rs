//! Projects: created, removed.

use super::lookup::{in_use, limit};
use super::{Change, Kind, Model, Object, Planned, Project, valid_name};
use crate::limits;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

impl Model {
    /// Plans a project. Its name must be free.
    pub fn create_project(&self, request: &v1::CreateProjectRequest, id: Uuid) -> Planned<Project> {
        valid_name(&request.name, "name")?;
        if self.names.contains_key(&(Kind::Project, Uuid::nil(), request.name.clone())) {
            return Err(name_taken(Kind::Project, &request.name));
        }
        if self.projects.len() >= limits::PROJECTS {
            return Err(limit("projects", limits::PROJECTS, "Remove projects that are not used."));
        }
        let project = Project { id, name: request.name.clone() };
        Ok((vec![Change::Put(Object::Project(project.clone()))], project))
    }

    /// Plans its removal. It must have no networks.
    pub fn delete_project(&self, named: &str) -> Planned<()> {
        if named.is_empty() {
            return Err(Fault::invalid("unknown_project", "id", "no project is named", "Name the project to remove."));
        }
        let project = self.project(named, "id")?;
        if project.name == super::DEFAULT_PROJECT {
            return Err(in_use(Kind::Project, &project.name, "always exists", "Leave it."));
        }
        let networks = self.networks_of_project.get(&project.id).map_or(0, std::collections::BTreeSet::len);
        if networks > 0 {
            let by = format!("has {networks} networks");
            return Err(in_use(Kind::Project, &project.name, &by, "Remove its networks first."));
        }
        Ok((vec![Change::Remove(Kind::Project, project.id)], ()))
    }
}

pub(super) fn name_taken(kind: Kind, name: &str) -> Fault {
    let word = kind.word();
    Fault::invalid("name_taken", "name", format!("there is a {word} {name:?} already"), "Choose another name.")
        .with_status(tonic::Code::AlreadyExists)
}
