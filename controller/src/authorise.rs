//! Who may call what: one table, by method. A method that is not in it is refused to everybody; a test
//! compares the table with the services' descriptors.

use crate::identity::Fingerprint;
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
    /// Until there are users: whoever can open the Unix socket, or has the token.
    #[must_use]
    pub fn built_in_admin() -> Self {
        Self { user: "admin".to_owned(), project: None, roles: vec![Role::Admin] }
    }

    /// A host that has shown a certificate which it may use.
    #[must_use]
    pub fn of_host(key: HostKey) -> Self {
        Self { user: format!("host {}", key.host), project: None, roles: vec![Role::Host(key)] }
    }

    /// Which host it is, if it is one.
    #[must_use]
    pub fn host(&self) -> Option<HostKey> {
        self.roles.iter().find_map(|role| if let Role::Host(key) = role { Some(*key) } else { None })
    }
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// What a host does for itself.
    Host(HostKey),
}

/// A host, and the certificate by which it is known to be it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// Its id.
    pub host: Uuid,
    /// The certificate's.
    pub certificate: Fingerprint,
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing, not even to be known: the method tells nothing of the cloud.
    Anyone,
    /// [`Role::Admin`].
    Admin,
    /// [`Role::Host`]; or [`Role::Admin`], who may attach as any.
    Host,
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
    ("/weft.v1.Cloud/TracePath", Rule::Admin),
    ("/weft.v1.Cloud/CreateRouter", Rule::Admin),
    ("/weft.v1.Cloud/ListRouters", Rule::Admin),
    ("/weft.v1.Cloud/DeleteRouter", Rule::Admin),
    ("/weft.v1.Cloud/AddRouterInterface", Rule::Admin),
    ("/weft.v1.Cloud/RemoveRouterInterface", Rule::Admin),
    ("/weft.v1.Cloud/AddRouterRoute", Rule::Admin),
    ("/weft.v1.Cloud/RemoveRouterRoute", Rule::Admin),
    ("/weft.v1.Cloud/SetRouterGateway", Rule::Admin),
    ("/weft.v1.Cloud/ClearRouterGateway", Rule::Admin),
    ("/weft.v1.Cloud/CreateFloatingIp", Rule::Admin),
    ("/weft.v1.Cloud/ListFloatingIps", Rule::Admin),
    ("/weft.v1.Cloud/UpdateFloatingIp", Rule::Admin),
    ("/weft.v1.Cloud/DeleteFloatingIp", Rule::Admin),
    ("/weft.v1.Cloud/CreateHost", Rule::Admin),
    ("/weft.v1.Cloud/ListHosts", Rule::Admin),
    ("/weft.v1.Cloud/DeleteHost", Rule::Admin),
    ("/weft.v1.Cloud/CreateJoinToken", Rule::Admin),
    ("/weft.v1.Cloud/RevokeHost", Rule::Admin),
    ("/weft.v1.Cloud/GetControllerStatus", Rule::Admin),
    ("/weft.v1.Switch/GetStatus", Rule::Admin),
    ("/weft.v1.Switch/ApplyBundle", Rule::Admin),
    ("/weft.v1.Switch/DumpRules", Rule::Admin),
    ("/weft.v1.Switch/RemoveRules", Rule::Admin),
    ("/weft.v1.Switch/Trace", Rule::Admin),
    ("/weft.v1.Switch/ListTables", Rule::Admin),
    ("/weft.v1.Switch/DumpAddressSets", Rule::Admin),
    ("/weft.v1.Switch/DumpGroups", Rule::Admin),
    ("/weft.v1.Switch/ListPorts", Rule::Admin),
    ("/weft.v1.Switch/ListDrops", Rule::Admin),
    ("/weft.v1.Switch/ListNeighbours", Rule::Admin),
    ("/weft.v1.Switch/DumpCache", Rule::Admin),
    ("/weft.v1.Switch/ListConnections", Rule::Admin),
    ("/weft.v1.Switch/FlushConnections", Rule::Admin),
    ("/weft.v1.Switch/WatchPunts", Rule::Admin),
    ("/weft.v1.Switch/SendPackets", Rule::Admin),
    ("/weft.v1.Switch/WatchRemovals", Rule::Admin),
    ("/weft.v1.Switch/ListMeters", Rule::Admin),
    ("/weft.v1.Switch/CaptureFrames", Rule::Admin),
    ("/weft.v1.Bus/Attach", Rule::Host),
    // The token in the request says who may.
    ("/weft.v1.Membership/Join", Rule::Anyone),
    ("/weft.v1.Membership/Renew", Rule::Host),
    ("/grpc.health.v1.Health/Check", Rule::Anyone),
    ("/grpc.health.v1.Health/List", Rule::Anyone),
    ("/grpc.health.v1.Health/Watch", Rule::Anyone),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Anyone),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Anyone),
];

/// Whether the caller may call the method; where none is known, the door says why.
pub fn authorise(path: &str, caller: Result<&Caller, &Fault>) -> Result<(), Fault> {
    match (RULES.iter().find(|(known, _)| *known == path).map(|(_, rule)| rule), caller) {
        (Some(Rule::Anyone), _) => Ok(()),
        (Some(Rule::Admin | Rule::Host), Ok(caller)) if caller.roles.contains(&Role::Admin) => Ok(()),
        (Some(Rule::Host), Ok(caller)) if caller.host().is_some() => Ok(()),
        (Some(_), Err(unknown)) => Err(unknown.clone()),
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
        let stranger = Fault::invalid("unauthenticated", "", "nobody", "Be somebody.");
        let code = |path: &str, caller| authorise(path, caller).unwrap_err().code;
        assert_eq!(code("/weft.v1.Cloud/Unheard", Ok(&admin)), "not_allowed");
        assert_eq!(authorise("/weft.v1.Cloud/CreateNetwork", Ok(&admin)), Ok(()));
        assert_eq!(code("/weft.v1.Cloud/CreateNetwork", Err(&stranger)), "unauthenticated");
        let nobody = Caller { roles: Vec::new(), ..admin.clone() };
        assert_eq!(code("/weft.v1.Cloud/CreateNetwork", Ok(&nobody)), "not_allowed");
        assert_eq!(authorise("/grpc.health.v1.Health/Check", Err(&stranger)), Ok(()));
    }

    #[test]
    fn a_host_may_do_nothing_but_be_one() {
        let host = Caller::of_host(HostKey { host: Uuid::new_v4(), certificate: [1; 32] });
        for (path, rule) in RULES {
            assert_eq!(authorise(path, Ok(&host)).is_ok(), *rule != Rule::Admin, "{path}");
        }
    }
}
