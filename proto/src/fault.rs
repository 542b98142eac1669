//! Errors that a person can act on: which field, what is wrong, what to do.

use crate::v1;
use prost::Message as _;
use tonic::{Code, Status};

/// An error with a stable code, the field it is in, and a remedy. It crosses gRPC in the status's
/// details, see [`Fault::into_status`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}. {remedy}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct Fault {
    /// A stable word for programs: "overlapping_subnet".
    pub code: String,
    /// The path of the request's field: `rules[3].match`; empty if none.
    pub field: String,
    /// What is wrong, without a full stop.
    pub problem: String,
    /// What to do about it: a sentence with a full stop.
    pub remedy: String,
    /// The gRPC code it travels under.
    pub status: Code,
}

impl Fault {
    /// A request that can never be right (`INVALID_ARGUMENT`).
    pub fn invalid(
        code: &str,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
            status: Code::InvalidArgument,
        }
    }

    /// The same fault under another gRPC code.
    #[must_use]
    pub fn with_status(mut self, status: Code) -> Self {
        self.status = status;
        self
    }

    /// The same fault, its field prefixed by the place of the object it is in: `rules[3]`.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.field = if self.field.is_empty() { place.to_owned() } else { format!("{place}.{}", self.field) };
        self
    }

    /// As it travels.
    #[must_use]
    pub fn to_message(&self) -> v1::Fault {
        v1::Fault {
            code: self.code.clone(),
            field: self.field.clone(),
            problem: self.problem.clone(),
            remedy: self.remedy.clone(),
        }
    }

    /// From a message that came with a status code.
    #[must_use]
    pub fn from_message(message: v1::Fault, status: Code) -> Self {
        Self { code: message.code, field: message.field, problem: message.problem, remedy: message.remedy, status }
    }

    /// As a gRPC status: the sentence as its message, the parts in its details.
    #[must_use]
    pub fn into_status(self) -> Status {
        Status::with_details(self.status, self.to_string(), self.to_message().encode_to_vec().into())
    }

    /// From a gRPC status. One without our details becomes a fault whose problem is its message.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        match v1::Fault::decode(status.details()) {
            Ok(message) if !message.code.is_empty() => Self::from_message(message, status.code()),
            _ => Self {
                code: format!("{:?}", status.code()).to_lowercase(),
                field: String::new(),
                problem: status.message().to_owned(),
                remedy: String::new(),
                status: status.code(),
            },
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        fault.into_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_wire() {
        let fault =
            Fault::invalid("bad_mask", "match", "mask is 3 bytes, eth_src has 6", "Give 6 bytes.").within("rules[2]");
        let back = Fault::from_status(&fault.clone().into_status());
        assert_eq!(back, fault);
        assert_eq!(back.to_string(), "rules[2].match: mask is 3 bytes, eth_src has 6. Give 6 bytes.");
    }

    #[test]
    fn a_foreign_status_keeps_its_message() {
        let fault = Fault::from_status(&Status::unavailable("connection refused"));
        assert_eq!((fault.code.as_str(), fault.problem.as_str()), ("unavailable", "connection refused"));
    }
}
