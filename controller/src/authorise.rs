//! Who may call what: one table, by method. A method that is not in it is refused to everybody; a test
//! compares the table with the services' descriptors.

use uuid::Uuid;
use weft_proto::fault::Fault;

/// Who calls. Every handler gets one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's name.
    pub user: String,
    /// The project the caller acts in; `None` for the whole cloud.
    pub project: Option<Uuid>,
    /// What the caller may do.
    pub roles: Vec<Role>,
}

impl Caller {
    /// The only caller until there are identities: whoever can open the Unix socket, or has the token.
    #[must_use]
    pub fn built_in_admin() -> Self {
        Self { user: "admin".to_owned(), project: None, roles: vec![Role::Admin] }
    }
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing, not even to be known: the method tells nothing of the cloud.
    Anyone,
    /// [`Role::Admin`].
    Admin,
}

/// The table: gRPC paths and what they ask.
pub const RULES: &[(&str, Rule)] = &[
    ("/weft.v1.Cloud/CreateProject", Rule::Admin),
    ("/weft.v1.Cloud/ListProjects", Rule::Admin),
    ("/weft.v1.Cloud/DeleteProject", Rule::Admin),
    ("/weft.v1.Cloud/CreateNetwork", Rule::Admin),
    ("/weft.v1.Cloud/ListNetworks", Rule::Admin),
    ("/weft.v1.Cloud/DeleteNetwork", Rule::Admin),
    ("/weft.v1.Cloud/CreateSubnet", Rule::Admin),
    ("/weft.v1.Cloud/ListSubnets", Rule::Admin),
    ("/weft.v1.Cloud/DeleteSubnet", Rule::Admin),
    ("/weft.v1.Cloud/CreateSecurityGroup", Rule::Admin),
    ("/weft.v1.Cloud/ListSecurityGroups", Rule::Admin),
    ("/weft.v1.Cloud/UpdateSecurityGroup", Rule::Admin),
    ("/weft.v1.Cloud/DeleteSecurityGroup", Rule::Admin),
    ("/weft.v1.Cloud/CreateSecurityGroupRule", Rule::Admin),
    ("/weft.v1.Cloud/DeleteSecurityGroupRule", Rule::Admin),
    ("/weft.v1.Cloud/CreatePort", Rule::Admin),
    ("/weft.v1.Cloud/UpdatePort", Rule::Admin),
    ("/weft.v1.Cloud/ListPorts", Rule::Admin),
    ("/weft.v1.Cloud/PlugPort", Rule::Admin),
    ("/weft.v1.Cloud/UnplugPort", Rule::Admin),
    ("/weft.v1.Cloud/DeletePort", Rule::Admin),
    ("/weft.v1.Cloud/CreateHost", Rule::Admin),
    ("/weft.v1.Cloud/ListHosts", Rule::Admin),
    ("/weft.v1.Cloud/DeleteHost", Rule::Admin),
    ("/weft.v1.Cloud/GetControllerStatus", Rule::Admin),
    ("/weft.v1.Switch/GetStatus", Rule::Admin),
    ("/weft.v1.Switch/ApplyBundle", Rule::Admin),
    ("/weft.v1.Switch/DumpRules", Rule::Admin),
    ("/weft.v1.Switch/RemoveRules", Rule::Admin),
    ("/weft.v1.Switch/Trace", Rule::Admin),
    ("/weft.v1.Switch/ListTables", Rule::Admin),
    ("/weft.v1.Switch/DumpAddressSets", Rule::Admin),
    ("/weft.v1.Switch/ListPorts", Rule::Admin),
    ("/weft.v1.Switch/ListDrops", Rule::Admin),
    ("/weft.v1.Switch/ListNeighbours", Rule::Admin),
    ("/weft.v1.Switch/DumpCache", Rule::Admin),
    ("/weft.v1.Switch/WatchPunts", Rule::Admin),
    // A host's program acts for its whole host; until hosts have identities, it needs the admin's key.
    ("/weft.v1.Bus/Attach", Rule::Admin),
    ("/grpc.health.v1.Health/Check", Rule::Anyone),
    ("/grpc.health.v1.Health/List", Rule::Anyone),
    ("/grpc.health.v1.Health/Watch", Rule::Anyone),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Anyone),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Anyone),
];

/// Whether the caller, if there is a known one, may call the method.
pub fn authorise(path: &str, caller: Option<&Caller>) -> Result<(), Fault> {
    match (RULES.iter().find(|(known, _)| *known == path).map(|(_, rule)| rule), caller) {
        (Some(Rule::Anyone), _) => Ok(()),
        (Some(Rule::Admin), Some(caller)) if caller.roles.contains(&Role::Admin) => Ok(()),
        (Some(Rule::Admin), None) => Err(Fault::invalid(
            "unauthenticated",
            "authorization",
            "the call does not say who calls",
            "Send the metadata \"authorization: Bearer TOKEN\" with the token of admin.token, or call by the Unix socket.",
        )
        .with_status(tonic::Code::Unauthenticated)),
        (known, _) => Err(Fault::invalid(
            "not_allowed",
            "",
            format!("{path} is not allowed"),
            if known.is_some() { "Ask an administrator." } else { "Call a method that reflection lists." },
        )
        .with_status(tonic::Code::PermissionDenied)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    // As much of a file descriptor set (descriptor.proto) as names methods.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Files {
        #[prost(message, repeated, tag = "1")]
        files: Vec<File>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct File {
        #[prost(string, tag = "2")]
        package: String,
        #[prost(message, repeated, tag = "6")]
        services: Vec<Service>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Service {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, repeated, tag = "2")]
        methods: Vec<Method>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Method {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[test]
    fn every_method_has_its_row_and_every_row_its_method() {
        let files = Files::decode(weft_proto::DESCRIPTORS).unwrap();
        let mut paths = Vec::new();
        for file in &files.files {
            for service in &file.services {
                for method in &service.methods {
                    paths.push(format!("/{}.{}/{}", file.package, service.name, method.name));
                }
            }
        }
        assert!(paths.len() > 20, "{paths:?}");
        for path in &paths {
            assert_eq!(RULES.iter().filter(|(known, _)| known == path).count(), 1, "{path}");
        }
        for (path, _) in RULES.iter().filter(|(path, _)| path.starts_with("/weft.")) {
            assert!(paths.iter().any(|known| known == path), "{path} is no method");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused_to_all() {
        let admin = Caller::built_in_admin();
        assert_eq!(authorise("/weft.v1.Cloud/Unheard", Some(&admin)).unwrap_err().code, "not_allowed");
        assert_eq!(authorise("/weft.v1.Cloud/CreateNetwork", Some(&admin)), Ok(()));
        assert_eq!(authorise("/weft.v1.Cloud/CreateNetwork", None).unwrap_err().code, "unauthenticated");
        let nobody = Caller { roles: Vec::new(), ..admin };
        assert_eq!(authorise("/weft.v1.Cloud/CreateNetwork", Some(&nobody)).unwrap_err().code, "not_allowed");
        assert_eq!(authorise("/grpc.health.v1.Health/Check", None), Ok(()));
    }
}
