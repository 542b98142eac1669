//! Projects: created, removed.

use super::lookup::{count, in_use};
use super::security_group::default_group;
use super::{Change, Model, Object, Planned, record};
use crate::limits;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// A tenant: what names are looked up in, and networks belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the cloud.
    pub name: String,
}

impl Object for Project {
    const WORD: &'static str = "project";
    const MOST: usize = limits::PROJECTS;
    const OWNED: bool = false;
    type Record = v1::Project;
    type Index = ();

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn record(&self) -> v1::Project {
        v1::Project { id: self.id.to_string(), name: self.name.clone() }
    }

    fn from_record(record: v1::Project) -> Result<Self, String> {
        Ok(Self { id: record::uuid(&record.id)?, name: record.name })
    }
}

impl Model {
    /// Plans a project, with its group "default". Its name must be free.
    pub fn create_project(&self, request: &v1::CreateProjectRequest, id: Uuid) -> Planned<Project> {
        self.admit::<Project>(Uuid::nil(), &request.name)?;
        let project = Project { id, name: request.name.clone() };
        let mut changes = vec![Change::put(project.clone())];
        changes.extend(default_group(id));
        Ok((changes, project))
    }

    /// Plans its removal, its group "default" included. It must have no networks, no routers, no floating IPs
    /// and no other groups.
    pub fn delete_project(&self, named: &str) -> Planned<Project> {
        if named.is_empty() {
            let problem = "no project is named";
            return Err(Fault::invalid("unknown_project", "project", problem, "Name the project to remove."));
        }
        let project = self.project(named, "project")?;
        if project.name == super::DEFAULT_PROJECT {
            return Err(in_use(project, "project", "always exists", "Leave it."));
        }
        let networks = self.networks.index.of_project.of(project.id).count();
        if networks > 0 {
            let by = format!("has {networks} networks");
            return Err(in_use(project, "project", &by, "Remove its networks first."));
        }
        let routers = self.routers.index.of_project.of(project.id).count();
        if routers > 0 {
            let by = format!("has {}", count(routers, "router"));
            return Err(in_use(project, "project", &by, "Remove its routers first."));
        }
        let floating = self.floating_ips.index.of_project.of(project.id).count();
        if floating > 0 {
            let by = format!("has {}", count(floating, "floating IP"));
            return Err(in_use(project, "project", &by, "Remove its floating IPs first."));
        }
        let groups = self.security_groups.among(self.security_groups.index.of_project.of(project.id));
        let (default, others): (Vec<_>, Vec<_>) = groups.partition(|group| group.name == super::DEFAULT_GROUP);
        if let Some(group) = others.first() {
            let by = format!("has {} security groups, among them {:?}", others.len(), group.name);
            return Err(in_use(project, "project", &by, "Remove them first."));
        }
        let rules = default.iter().flat_map(|group| self.rules_of(group.id)).map(Change::remove);
        let mut changes: Vec<Change> = rules.collect();
        changes.extend(default.iter().map(|group| Change::remove(*group)));
        changes.push(Change::remove(project));
        Ok((changes, project.clone()))
    }
}
