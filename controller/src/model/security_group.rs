//! Security groups: created, renamed, removed; who is in one, and which hosts it concerns.

use super::lookup::in_use;
use super::name::valid_description;
use super::security_group_rule::Direction;
use super::{Change, Model, Object, Planned, Port, Remote, SecurityGroupRule, record};
use crate::limits;
use std::collections::BTreeSet;
use uuid::Uuid;
use weft_proto::digest;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The group that each project has, and that ports get when none is said.
pub const DEFAULT_GROUP: &str = "default";

/// What its rules say may pass to and from the ports that have it. Stateful: replies need no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the project.
    pub name: String,
    /// The project it belongs to.
    pub project: Uuid,
    /// For people.
    pub description: String,
}

/// By what security groups are found.
#[derive(Clone, Debug, Default)]
pub struct SecurityGroupIndex {
    pub(super) of_project: super::By<Uuid>,
}

impl Object for SecurityGroup {
    const WORD: &'static str = "security group";
    const COMMAND: &'static str = "group";
    const MOST: usize = limits::SECURITY_GROUPS;
    type Record = v1::SecurityGroup;
    type Index = SecurityGroupIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn project(&self) -> Uuid {
        self.project
    }

    /// Its rules are records of their own.
    fn record(&self) -> v1::SecurityGroup {
        v1::SecurityGroup {
            id: self.id.to_string(),
            name: self.name.clone(),
            project_id: self.project.to_string(),
            description: self.description.clone(),
            stateful: true,
            rules: Vec::new(),
        }
    }

    fn from_record(record: v1::SecurityGroup) -> Result<Self, String> {
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: record.name,
            project: record::uuid(&record.project_id)?,
            description: record.description,
        })
    }

    fn index(&self, index: &mut SecurityGroupIndex, present: bool) {
        index.of_project.set(self.project, self.id, present);
    }

    /// Hosts that show its name: of its ports, and of ports whose groups let it in.
    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        model.hosts_of_group(self.id).chain(model.hosts_that_name_group(self.id)).collect()
    }
}

/// The group "default" of a new project, and its rules.
pub(super) fn default_group(project: Uuid) -> Vec<Change> {
    let group = SecurityGroup {
        id: derived(project, "default-group"),
        name: DEFAULT_GROUP.to_owned(),
        project,
        description: "For ports that were given no other: out to everything, in from each other.".to_owned(),
    };
    let egress = anything(&group, Direction::Egress, Remote::Any);
    let ingress = anything(&group, Direction::Ingress, Remote::Group(group.id));
    vec![Change::put(group), Change::put(egress), Change::put(ingress)]
}

/// An id that follows from another's: what is made with an object is the same whoever plans it.
fn derived(id: Uuid, what: &str) -> Uuid {
    let half = |cookie| digest::of(&v1::Origin { cookie, text: format!("{what}/{id}") }).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half(0));
    bytes[8..].copy_from_slice(&half(1));
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl Model {
    /// The group's rules, by id.
    pub fn rules_of(&self, group: Uuid) -> impl Iterator<Item = &SecurityGroupRule> {
        self.security_group_rules.among(self.security_group_rules.index.of_group.of(group))
    }

    /// The ports that have the group, plugged or not, by id.
    pub fn ports_of_group(&self, group: Uuid) -> impl Iterator<Item = &Port> {
        self.ports.among(self.ports.index.of_group.of(group))
    }

    /// The hosts on which ports of the group are plugged, by id.
    pub fn hosts_of_group(&self, group: Uuid) -> impl Iterator<Item = Uuid> {
        self.ports.index.plugged_of_group.keys((group, Uuid::nil())..=(group, Uuid::max())).map(|(_, host)| *host)
    }

    /// The hosts that hold the group's address set: of ports whose groups have a rule that names it.
    pub fn hosts_that_name_group(&self, group: Uuid) -> impl Iterator<Item = Uuid> {
        let naming = self.security_group_rules.among(self.security_group_rules.index.of_remote.of(group));
        let groups: BTreeSet<Uuid> = naming.map(|rule| rule.group).collect();
        groups.into_iter().flat_map(|group| self.hosts_of_group(group))
    }

    /// Plans a group. Everything may leave its ports, nothing may enter.
    pub fn create_security_group(&self, request: &v1::CreateSecurityGroupRequest, id: Uuid) -> Planned<SecurityGroup> {
        let project = self.project(&request.project, "project")?;
        if request.name == DEFAULT_GROUP {
            return Err(reserved(&project.name));
        }
        self.admit::<SecurityGroup>(project.id, &request.name)?;
        valid_description(&request.description)?;
        if request.stateful == Some(false) {
            return Err(Fault::invalid(
                "stateless_unsupported",
                "stateful",
                "groups that are not stateful are not supported yet",
                "Leave it out, or give true.",
            ));
        }
        let (name, description) = (request.name.clone(), request.description.clone());
        let group = SecurityGroup { id, name, project: project.id, description };
        let egress = anything(&group, Direction::Egress, Remote::Any);
        Ok((vec![Change::put(group.clone()), Change::put(egress)], group))
    }

    /// Plans another name or description. The group "default" keeps its name.
    pub fn update_security_group(&self, request: &v1::UpdateSecurityGroupRequest) -> Planned<SecurityGroup> {
        let group: &SecurityGroup = self.find(&request.security_group, &request.project, "security_group")?;
        let mut updated = group.clone();
        if let Some(name) = request.name.as_ref().filter(|name| **name != group.name) {
            if group.name == DEFAULT_GROUP || name == DEFAULT_GROUP {
                return Err(reserved(&self.projects[group.project].name));
            }
            self.rename::<SecurityGroup>(group.project, name)?;
            updated.name.clone_from(name);
        }
        if let Some(description) = &request.description {
            valid_description(description)?;
            updated.description.clone_from(description);
        }
        let changes = if updated == *group { Vec::new() } else { vec![Change::put(updated.clone())] };
        Ok((changes, updated))
    }

    /// Plans its removal, its rules included. No port may have it, no other group's rule name it.
    pub fn delete_security_group(&self, named: &str, project: &str) -> Planned<SecurityGroup> {
        let group: &SecurityGroup = self.find(named, project, "security_group")?;
        if group.name == DEFAULT_GROUP {
            return Err(in_use(group, "security_group", "always exists", "Delete its rules instead."));
        }
        let ports: Vec<&str> = self.ports_of_group(group.id).map(|port| port.name.as_str()).collect();
        if !ports.is_empty() {
            let by = format!("is that of {}", listed("port", &ports));
            let remedy = "Give them other groups first: `weft port set PORT --group GROUP`.";
            return Err(in_use(group, "security_group", &by, remedy));
        }
        let naming = self.security_group_rules.among(self.security_group_rules.index.of_remote.of(group.id));
        let naming: BTreeSet<&str> = naming
            .filter(|rule| rule.group != group.id)
            .map(|rule| self.security_groups[rule.group].name.as_str())
            .collect();
        if !naming.is_empty() {
            let naming: Vec<&str> = naming.into_iter().collect();
            let by = format!("is named by rules of {}", listed("group", &naming));
            return Err(in_use(group, "security_group", &by, "Delete these rules first."));
        }
        let rules = self.rules_of(group.id).map(Change::remove);
        Ok((rules.chain([Change::remove(group)]).collect(), group.clone()))
    }

    /// Whether the group may have so many more addresses.
    pub(super) fn check_members(&self, group: &SecurityGroup, more: usize) -> Result<(), Fault> {
        let members: usize = self.ports_of_group(group.id).map(Port::members).sum();
        if members + more <= limits::GROUP_MEMBERS {
            return Ok(());
        }
        let what = format!("addresses of ports with security group {:?}", group.name);
        Err(super::lookup::limit(&what, limits::GROUP_MEMBERS, "Give the port another group."))
    }
}

/// A rule for any protocol.
fn anything(group: &SecurityGroup, direction: Direction, remote: Remote) -> SecurityGroupRule {
    SecurityGroupRule {
        id: derived(group.id, direction.word()),
        project: group.project,
        group: group.id,
        direction,
        protocol: super::Protocol::Any,
        remote,
        description: String::new(),
    }
}

fn reserved(project: &str) -> Fault {
    Fault::invalid(
        "reserved_name",
        "name",
        format!("{DEFAULT_GROUP:?} is the name of the group that project {project:?} always has"),
        "Choose another name.",
    )
}

/// "port "a"", "ports "a", "b" and 3 more".
fn listed(word: &str, names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(3).map(|name| format!("{name:?}")).collect();
    let more = names.len() - shown.len();
    let plural = if names.len() == 1 { "" } else { "s" };
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{word}{plural} {}{rest}", shown.join(", "))
}
