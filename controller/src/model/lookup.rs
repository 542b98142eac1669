//! Finding what a request names, by id or by name; and saying so when there is none or several.

use super::{Host, Kind, Model, Network, Port, Project, Subnet};
use uuid::Uuid;
use weft_proto::fault::Fault;

/// The project that exists from the start, and that names are looked up in when none is said.
pub const DEFAULT_PROJECT: &str = "default";

fn unknown(kind: Kind, field: &str, named: &str, remedy: String) -> Fault {
    let word = kind.word();
    let problem =
        if named.is_empty() { format!("no {word} is named") } else { format!("there is no {word} {named:?}") };
    let code = format!("unknown_{word}");
    Fault::invalid(&code, field, problem, remedy).with_status(tonic::Code::NotFound)
}

impl Model {
    /// The id that `named` means in a project; nil is the scope of names that are unique in the cloud.
    fn find(&self, kind: Kind, scope: Uuid, named: &str, field: &str) -> Result<Uuid, Fault> {
        let word = kind.word();
        let missing = || unknown(kind, field, named, format!("Choose one that `weft {word} list` shows."));
        let ids = self.names.get(&(kind, scope, named.to_owned())).ok_or_else(missing)?;
        let mut ids = ids.iter();
        match (ids.next(), ids.len()) {
            (Some(id), 0) => Ok(*id),
            (_, more) => Err(Fault::invalid(
                "ambiguous_name",
                field,
                format!("there are {} {word}s {named:?} in the project", more + 1),
                format!("Give the id of one of them, as `weft {word} list` shows it."),
            )),
        }
    }

    /// The project of this id or name; empty: the default project.
    pub fn project(&self, named: &str, field: &str) -> Result<&Project, Fault> {
        let named = if named.is_empty() { DEFAULT_PROJECT } else { named };
        let by_id = Uuid::try_parse(named).ok().and_then(|id| self.projects.get(&id));
        let found =
            by_id.map_or_else(|| self.find(Kind::Project, Uuid::nil(), named, field), |project| Ok(project.id))?;
        Ok(&self.projects[&found])
    }

    /// The host of this id or name.
    pub fn host(&self, named: &str, field: &str) -> Result<&Host, Fault> {
        let by_id = Uuid::try_parse(named).ok().and_then(|id| self.hosts.get(&id));
        let missing = || {
            let remedy = if named.is_empty() {
                "Name a host that `weft host list` shows.".to_owned()
            } else {
                format!("Create it with `weft host create {named}`, or choose one that `weft host list` shows.")
            };
            unknown(Kind::Host, field, named, remedy)
        };
        let found = by_id.map_or_else(
            || self.find(Kind::Host, Uuid::nil(), named, field).map_err(|_| missing()),
            |host| Ok(host.id),
        )?;
        Ok(&self.hosts[&found])
    }

    /// The object of this kind that a request names: any by its id, if no project or its own is said; or
    /// one of the project by its name.
    fn owned(
        &self,
        kind: Kind,
        named: &str,
        project: &str,
        field: &str,
        project_of: impl Fn(Uuid) -> Option<Uuid>,
    ) -> Result<Uuid, Fault> {
        if let Ok(id) = Uuid::try_parse(named) {
            let owner = project_of(id);
            let wanted = if project.is_empty() { owner } else { Some(self.project(project, "project")?.id) };
            return owner.filter(|&owner| Some(owner) == wanted).map(|_| id).ok_or_else(|| {
                let remedy = format!("Choose one that `weft {} list` shows.", kind.word());
                unknown(kind, field, named, remedy)
            });
        }
        self.find(kind, self.project(project, "project")?.id, named, field)
    }

    /// The network that a request names.
    pub fn network(&self, named: &str, project: &str, field: &str) -> Result<&Network, Fault> {
        let project_of = |id| self.networks.get(&id).map(|network| network.project);
        Ok(&self.networks[&self.owned(Kind::Network, named, project, field, project_of)?])
    }

    /// The subnet that a request names.
    pub fn subnet(&self, named: &str, project: &str, field: &str) -> Result<&Subnet, Fault> {
        let project_of = |id| self.subnets.get(&id).map(|subnet| subnet.project);
        Ok(&self.subnets[&self.owned(Kind::Subnet, named, project, field, project_of)?])
    }

    /// The port that a request names.
    pub fn port(&self, named: &str, project: &str, field: &str) -> Result<&Port, Fault> {
        let project_of = |id| self.ports.get(&id).map(|port| port.project);
        Ok(&self.ports[&self.owned(Kind::Port, named, project, field, project_of)?])
    }
}

/// "1 port", "2 ports".
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What is refused because something depends on it.
pub(super) fn in_use(kind: Kind, name: &str, by: &str, remedy: impl Into<String>) -> Fault {
    Fault::invalid("in_use", "id", format!("{} {name:?} {by}", kind.word()), remedy)
        .with_status(tonic::Code::FailedPrecondition)
}

/// What is refused because there would be too many.
pub(super) fn limit(what: &str, most: usize, remedy: &str) -> Fault {
    Fault::invalid("limit_reached", "", format!("there are already {most} {what}, the most allowed"), remedy)
        .with_status(tonic::Code::ResourceExhausted)
}
