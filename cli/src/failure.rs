//! How a command fails: one or more faults, each a sentence that names the field and the remedy.

use crate::output::Output;
use tonic::{Code, Status};
use weft_proto::fault::Fault;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Empty: the command has said it, as what it was asked for.
    faults: Vec<Fault>,
    /// The identifier of the call that failed, by which the servers' logs have it.
    request: Option<String>,
}

impl Failure {
    /// What the command was asked for is that something is wrong, and it has printed it.
    pub fn told() -> Self {
        Self { faults: Vec::new(), request: None }
    }

    /// All that was found wrong at once; `None` if nothing was.
    pub fn of(faults: Vec<Fault>) -> Option<Self> {
        (!faults.is_empty()).then_some(Self { faults, request: None })
    }

    /// What is wrong, in sentences.
    pub fn sentences(&self) -> String {
        self.faults.iter().map(sentence).collect::<Vec<_>>().join(" ")
    }

    /// One line on standard error for each fault.
    pub fn report(&self, output: Output) {
        for fault in &self.faults {
            if output.json {
                let mut value = crate::json::fault(fault);
                value["request_id"] = self.request.clone().into();
                eprintln!("{value}");
            } else {
                let request = self.request.as_ref().filter(|_| is_for_the_log(fault.status));
                let request = request.map_or_else(String::new, |id| format!(" (Request {id}: see the logs.)"));
                eprintln!("weft: {}{request}", sentence(fault));
            }
        }
    }
}

/// Whether the log of a server has more to say of a failure than the sentence; of what the caller can mend it
/// has not.
fn is_for_the_log(code: Code) -> bool {
    use Code::{Aborted, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Aborted | Internal | Unavailable | DataLoss)
}

/// A fault as a sentence that ends with one full stop, also when a foreign server gave no remedy.
fn sentence(fault: &Fault) -> String {
    let text = fault.to_string();
    let text = text.trim_end();
    match text.strip_suffix("..") {
        Some(text) => format!("{text}."),
        None => text.to_owned(),
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault], request: None }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut fault = Fault::from_status(&status);
        // What a person typed is an argument.
        if fault.field == "weft-host" {
            fault.field = "HOST".to_owned();
        }
        if fault.problem.is_empty() {
            fault.problem = format!("the call failed ({:?})", status.code());
        }
        if fault.remedy.is_empty() {
            fault.remedy = match status.code() {
                Code::Unauthenticated | Code::PermissionDenied => {
                    "Name the file with the controller's token with --token-file, or use its Unix socket."
                }
                Code::Unimplemented => "The other end is of another version: run the same version on both.",
                Code::Unavailable => "It ended or restarted meanwhile: look at its log and try again.",
                Code::DeadlineExceeded => "Try again, or look at its log.",
                _ => "",
            }
            .to_owned();
        }
        let request = status.metadata().get("request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        Self { faults: vec![fault], request }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Fault::invalid("failed", "", format!("{error:#}"), "").into()
    }
}

/// What the machine refused: a file or a socket, by its name.
pub fn system(code: &str, problem: String, remedy: impl Into<String>) -> Fault {
    Fault::invalid(code, "", problem, remedy).with_status(Code::FailedPrecondition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_once() {
        let fault = |problem: &str, remedy: &str| Fault::invalid("x", "", problem, remedy);
        assert_eq!(sentence(&fault("It broke", "Mend it.")), "It broke. Mend it.");
        assert_eq!(sentence(&fault("It broke.", "")), "It broke.");
        assert_eq!(sentence(&fault("It broke", "")), "It broke.");
    }
}
