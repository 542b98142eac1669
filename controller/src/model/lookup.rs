//! Finding what a request names, by id or by name; saying so when there is none or several; and whether there
//! may be one more.

use super::{Model, Object, Project, Stored, valid_name};
use uuid::Uuid;
use weft_proto::fault::Fault;

/// The project that exists from the start, and that names are looked up in when none is said.
pub const DEFAULT_PROJECT: &str = "default";

fn unknown<T: Stored>(field: &str, named: &str) -> Fault {
    let word = T::WORD;
    let problem =
        if named.is_empty() { format!("no {word} is named") } else { format!("there is no {word} {named:?}") };
    let code = format!("unknown_{}", T::KIND.word());
    Fault::invalid(&code, field, problem, T::missing(named)).with_status(tonic::Code::NotFound)
}

impl Model {
    /// The object that a request names: any by its id, if no project or its own is said; or one of the project by
    /// its name. What belongs to no project is found whatever project is said.
    pub fn find<T: Stored>(&self, named: &str, project: &str, field: &str) -> Result<&T, Fault> {
        let all = T::all(self);
        if let Ok(id) = Uuid::try_parse(named) {
            let found = all.get(id).ok_or_else(|| unknown::<T>(field, named))?;
            let foreign = T::OWNED && !project.is_empty() && self.project(project, "project")?.id != found.project();
            return if foreign { Err(unknown::<T>(field, named)) } else { Ok(found) };
        }
        let scope = if T::OWNED { self.project(project, "project")?.id } else { Uuid::nil() };
        let mut found = all.named(scope, named);
        let first = found.next().ok_or_else(|| {
            let fault = unknown::<T>(field, named);
            match self.projects.get(scope).filter(|_| !named.is_empty()) {
                None => fault,
                // Whoever forgot to say which project sees where it was looked for.
                Some(scope) => Fault {
                    problem: format!("{} in project {:?}", fault.problem, scope.name),
                    remedy: if project.is_empty() {
                        format!("{}, or name its project.", fault.remedy.trim_end_matches('.'))
                    } else {
                        fault.remedy
                    },
                    ..fault
                },
            }
        })?;
        match found.count() {
            0 => Ok(first),
            more => Err(Fault::invalid(
                "ambiguous_name",
                field,
                format!("there are {} {}s {named:?} in the project", more + 1, T::WORD),
                format!("Give the id of one of them, as `weft {} list` shows it.", T::COMMAND),
            )),
        }
    }

    /// The project of this id or name; empty: the default project.
    pub fn project(&self, named: &str, field: &str) -> Result<&Project, Fault> {
        self.find(if named.is_empty() { DEFAULT_PROJECT } else { named }, "", field)
    }

    /// Whether there may be another object of this kind and name: the name is well-formed and free in the project
    /// (nil: in the cloud), and the kind's limit is not reached.
    pub(super) fn admit<T: Stored>(&self, project: Uuid, name: &str) -> Result<(), Fault> {
        let word = T::WORD;
        self.rename::<T>(project, name)?;
        if T::all(self).len() >= T::MOST {
            return Err(limit(&format!("{word}s"), T::MOST, &format!("Remove {word}s that are not used.")));
        }
        Ok(())
    }

    /// Whether an object of this kind may have this name: well-formed, and free in the project (nil: in the cloud).
    pub(super) fn rename<T: Stored>(&self, project: Uuid, name: &str) -> Result<(), Fault> {
        valid_name(name, "name")?;
        if T::all(self).named(project, name).next().is_none() {
            return Ok(());
        }
        let place = self.projects.get(project).map(|project| format!(" in project {:?}", project.name));
        let problem = format!("there is a {} {name:?}{} already", T::WORD, place.unwrap_or_default());
        Err(Fault::invalid("name_taken", "name", problem, "Choose another name.")
            .with_status(tonic::Code::AlreadyExists))
    }
}

/// "1 port", "2 ports".
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What is refused because something depends on it. `field` is what the request calls it.
pub(super) fn in_use<T: Object>(object: &T, field: &str, by: &str, remedy: impl Into<String>) -> Fault {
    Fault::invalid("in_use", field, format!("{} {:?} {by}", T::WORD, object.name()), remedy)
        .with_status(tonic::Code::FailedPrecondition)
}

/// What is refused because there would be too many.
pub(super) fn limit(what: &str, most: usize, remedy: &str) -> Fault {
    Fault::invalid("limit_reached", "", format!("there are already {most} {what}, the most allowed"), remedy)
        .with_status(tonic::Code::ResourceExhausted)
}
