//! The service Cloud: each handler authorises (at the door), plans, and shows the result.

use super::door::caller;
use crate::authorise::Caller;
use crate::controller::Controller;
use crate::limits;
use crate::model::{
    FloatingIp, Host, Model, Network, Object, Planned, Port, Project, Router, SecurityGroup, Stored, Subnet,
};
use crate::path;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The service Cloud.
pub struct CloudService {
    controller: Arc<Controller>,
}

impl CloudService {
    /// On a controller.
    pub fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }

    /// One transaction: what a planner makes of the request is stored and made true.
    async fn change<R: Send + 'static, T: Send + 'static>(
        &self,
        request: Request<R>,
        plan: impl FnOnce(&Model, &R) -> Planned<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let request = request.into_inner();
        self.controller.transact(move |model| plan(model, &request)).await
    }

    /// The objects of a kind that a caller sees, by name: of one project, or if none is named of all; those that
    /// `keep` keeps.
    fn list<T: Stored>(
        &self,
        caller: &Caller,
        project: &str,
        keep: impl FnOnce(&Model) -> Result<Keep<T>, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let model = self.controller.model();
        let project = wanted::<Project>(&model, project, "", "project")?;
        let keep = keep(&model)?;
        let sees = |object: &&T| !T::OWNED || caller.project.is_none_or(|own| own == object.project());
        let mut objects: Vec<T> = T::all(&model)
            .iter()
            .filter(sees)
            .filter(|object| project.is_none_or(|id| id == object.project()) && keep(object))
            .cloned()
            .collect();
        objects.sort_by(|one, other| (one.name(), one.id()).cmp(&(other.name(), other.id())));
        Ok(objects)
    }

    /// Waits, at most so long, until `done` says so; asks again at every change of a host's status.
    async fn wait(&self, milliseconds: u32, mut done: impl FnMut() -> bool) {
        let wait = Duration::from_millis(milliseconds.min(limits::WAIT_MILLISECONDS).into());
        let deadline = tokio::time::Instant::now() + wait;
        let mut status = self.controller.links.watch();
        loop {
            status.borrow_and_update();
            if done() || !matches!(tokio::time::timeout_at(deadline, status.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// The port as it is now, if it still is.
    fn port_now(&self, planned: &Port) -> Port {
        self.controller.model().ports.get(planned.id).cloned().unwrap_or_else(|| planned.clone())
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

/// What a filter names; nothing, if nothing is named.
fn wanted<T: Stored>(model: &Model, named: &str, project: &str, field: &str) -> Result<Option<Uuid>, Fault> {
    if named.is_empty() { Ok(None) } else { model.find::<T>(named, project, field).map(|object| Some(object.id())) }
}

fn records<T: Object>(objects: &[T]) -> Vec<T::Record> {
    objects.iter().map(Object::record).collect()
}

/// Which objects of a list are wanted.
type Keep<T> = Box<dyn Fn(&T) -> bool>;

/// Keeps all.
#[allow(clippy::unnecessary_wraps)]
fn every<T>(_: &Model) -> Result<Keep<T>, Fault> {
    Ok(Box::new(|_| true))
}

#[tonic::async_trait]
impl v1::cloud_server::Cloud for CloudService {
    async fn create_project(&self, request: Request<v1::CreateProjectRequest>) -> Reply<v1::Project> {
        let plan = |model: &Model, request: &_| model.create_project(request, Uuid::new_v4());
        reply(self.change(request, plan).await?.record())
    }

    async fn list_projects(&self, request: Request<v1::ListProjectsRequest>) -> Reply<v1::ListProjectsReply> {
        let caller = caller(&request)?;
        let mut projects = self.list::<Project>(&caller, "", every)?;
        projects.retain(|project| caller.project.is_none_or(|own| own == project.id));
        reply(v1::ListProjectsReply { projects: records(&projects) })
    }

    async fn delete_project(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_project(&request.id)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_network(&self, request: Request<v1::CreateNetworkRequest>) -> Reply<v1::Network> {
        let plan = |model: &Model, request: &_| model.create_network(request, Uuid::new_v4());
        reply(self.change(request, plan).await?.record())
    }

    async fn list_networks(&self, request: Request<v1::ListNetworksRequest>) -> Reply<v1::ListNetworksReply> {
        let networks = self.list::<Network>(&caller(&request)?, &request.get_ref().project, every)?;
        reply(v1::ListNetworksReply { networks: records(&networks) })
    }

    async fn delete_network(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_network(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_subnet(&self, request: Request<v1::CreateSubnetRequest>) -> Reply<v1::Subnet> {
        let plan = |model: &Model, request: &_| model.create_subnet(request, Uuid::new_v4());
        reply(self.change(request, plan).await?.record())
    }

    async fn list_subnets(&self, request: Request<v1::ListSubnetsRequest>) -> Reply<v1::ListSubnetsReply> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let subnets = self.list::<Subnet>(&caller, &request.project, |model| {
            let network = wanted::<Network>(model, &request.network, &request.project, "network")?;
            Ok(Box::new(move |subnet| network.is_none_or(|id| id == subnet.network)))
        })?;
        reply(v1::ListSubnetsReply { subnets: records(&subnets) })
    }

    async fn delete_subnet(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_subnet(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_security_group(
        &self,
        request: Request<v1::CreateSecurityGroupRequest>,
    ) -> Reply<v1::SecurityGroup> {
        let plan = |model: &Model, request: &_| model.create_security_group(request, Uuid::new_v4());
        reply(self.controller.describe_security_group(&self.change(request, plan).await?))
    }

    async fn list_security_groups(
        &self,
        request: Request<v1::ListSecurityGroupsRequest>,
    ) -> Reply<v1::ListSecurityGroupsReply> {
        let groups = self.list::<SecurityGroup>(&caller(&request)?, &request.get_ref().project, every)?;
        let security_groups = groups.iter().map(|group| self.controller.describe_security_group(group)).collect();
        reply(v1::ListSecurityGroupsReply { security_groups })
    }

    async fn update_security_group(
        &self,
        request: Request<v1::UpdateSecurityGroupRequest>,
    ) -> Reply<v1::SecurityGroup> {
        let group = self.change(request, Model::update_security_group).await?;
        reply(self.controller.describe_security_group(&group))
    }

    async fn delete_security_group(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_security_group(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_security_group_rule(
        &self,
        request: Request<v1::CreateSecurityGroupRuleRequest>,
    ) -> Reply<v1::SecurityGroupRule> {
        let plan = |model: &Model, request: &_| model.create_security_group_rule(request, Uuid::new_v4());
        reply(self.change(request, plan).await?.record())
    }

    async fn delete_security_group_rule(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_security_group_rule(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn update_port(&self, request: Request<v1::UpdatePortRequest>) -> Reply<v1::Port> {
        reply(self.controller.describe_port(&self.change(request, Model::update_port).await?))
    }

    async fn create_port(&self, request: Request<v1::CreatePortRequest>) -> Reply<v1::Port> {
        let plan = |model: &Model, request: &_| model.create_port(request, Uuid::new_v4());
        reply(self.controller.describe_port(&self.change(request, plan).await?))
    }

    async fn list_ports(&self, request: Request<v1::ListCloudPortsRequest>) -> Reply<v1::ListCloudPortsReply> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let ports = self.list::<Port>(&caller, &request.project, |model| {
            let network = wanted::<Network>(model, &request.network, &request.project, "network")?;
            let host = wanted::<Host>(model, &request.host, "", "host")?;
            Ok(Box::new(move |port| {
                network.is_none_or(|id| id == port.network)
                    && host.is_none_or(|id| port.plug.as_ref().is_some_and(|plug| plug.host == id))
            }))
        })?;
        let ports = ports.iter().map(|port| self.controller.describe_port(port)).collect();
        reply(v1::ListCloudPortsReply { ports })
    }

    async fn plug_port(&self, request: Request<v1::PlugPortRequest>) -> Reply<v1::Port> {
        let wait = request.get_ref().wait_milliseconds;
        let port = self.change(request, Model::plug_port).await?;
        if let Some(plug) = &port.plug {
            // Asking again for what was refused is asking to try again.
            self.controller.links.of(plug.host).retry();
        }
        // A host that is not connected may come: what is DOWN for that reason is waited for too.
        let done = || {
            let port = self.controller.describe_port(&self.port_now(&port));
            let waiting = port.vhost_user && port.status == "DOWN" && port.fault.is_empty();
            port.host_id.is_empty() || waiting || matches!(port.status.as_str(), "ACTIVE" | "ERROR")
        };
        self.wait(wait, done).await;
        reply(self.controller.describe_port(&self.port_now(&port)))
    }

    async fn unplug_port(&self, request: Request<v1::UnplugPortRequest>) -> Reply<v1::Port> {
        let wait = request.get_ref().wait_milliseconds;
        let plan = |model: &Model, request: &v1::UnplugPortRequest| {
            let before = model.find::<Port>(&request.port, &request.project, "port")?.plug.clone();
            let (changes, port) = model.unplug_port(request)?;
            Ok((changes, (before, port)))
        };
        let (before, port) = self.change(request, plan).await?;
        if let Some(plug) = before {
            let link = self.controller.links.of(plug.host);
            self.wait(wait, || !link.may_have(port.number)).await;
        }
        reply(self.controller.describe_port(&self.port_now(&port)))
    }

    async fn delete_port(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_port(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn trace_path(&self, request: Request<v1::TracePathRequest>) -> Reply<v1::TracePathReply> {
        let caller = caller(&request)?;
        reply(path::trace(&self.controller, &caller, request.get_ref()).await?)
    }

    async fn create_router(&self, request: Request<v1::CreateRouterRequest>) -> Reply<v1::Router> {
        let plan = |model: &Model, request: &_| model.create_router(request, Uuid::new_v4());
        reply(self.controller.describe_router(&self.change(request, plan).await?))
    }

    async fn list_routers(&self, request: Request<v1::ListRoutersRequest>) -> Reply<v1::ListRoutersReply> {
        let routers = self.list::<Router>(&caller(&request)?, &request.get_ref().project, every)?;
        let routers = routers.iter().map(|router| self.controller.describe_router(router)).collect();
        reply(v1::ListRoutersReply { routers })
    }

    async fn delete_router(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_router(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn add_router_interface(&self, request: Request<v1::AddRouterInterfaceRequest>) -> Reply<v1::Router> {
        let plan = |model: &Model, request: &_| model.add_router_interface(request, Uuid::new_v4());
        reply(self.controller.describe_router(&self.change(request, plan).await?))
    }

    async fn remove_router_interface(&self, request: Request<v1::RemoveRouterInterfaceRequest>) -> Reply<v1::Router> {
        let router = self.change(request, Model::remove_router_interface).await?;
        reply(self.controller.describe_router(&router))
    }

    async fn add_router_route(&self, request: Request<v1::AddRouterRouteRequest>) -> Reply<v1::Router> {
        reply(self.controller.describe_router(&self.change(request, Model::add_router_route).await?))
    }

    async fn remove_router_route(&self, request: Request<v1::RemoveRouterRouteRequest>) -> Reply<v1::Router> {
        reply(self.controller.describe_router(&self.change(request, Model::remove_router_route).await?))
    }

    async fn set_router_gateway(&self, request: Request<v1::SetRouterGatewayRequest>) -> Reply<v1::Router> {
        let controller = Arc::clone(&self.controller);
        let plan = move |model: &Model, request: &_| {
            let connected = |host| controller.links.of(host).standing().0;
            model.set_router_gateway(request, Uuid::new_v4(), &connected)
        };
        reply(self.controller.describe_router(&self.change(request, plan).await?))
    }

    async fn clear_router_gateway(&self, request: Request<v1::ClearRouterGatewayRequest>) -> Reply<v1::Router> {
        reply(self.controller.describe_router(&self.change(request, Model::clear_router_gateway).await?))
    }

    async fn create_floating_ip(&self, request: Request<v1::CreateFloatingIpRequest>) -> Reply<v1::FloatingIp> {
        let plan = |model: &Model, request: &_| model.create_floating_ip(request, Uuid::new_v4(), Uuid::new_v4());
        reply(self.change(request, plan).await?.record())
    }

    async fn list_floating_ips(&self, request: Request<v1::ListFloatingIpsRequest>) -> Reply<v1::ListFloatingIpsReply> {
        let mut floating = self.list::<FloatingIp>(&caller(&request)?, &request.get_ref().project, every)?;
        floating.sort_by_key(|floating| (floating.address, floating.id));
        reply(v1::ListFloatingIpsReply { floating_ips: records(&floating) })
    }

    async fn update_floating_ip(&self, request: Request<v1::UpdateFloatingIpRequest>) -> Reply<v1::FloatingIp> {
        reply(self.change(request, Model::update_floating_ip).await?.record())
    }

    async fn delete_floating_ip(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        self.change(request, |model, request| model.delete_floating_ip(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_host(&self, request: Request<v1::CreateHostRequest>) -> Reply<v1::Host> {
        let plan = |model: &Model, request: &_| model.create_host(request, Uuid::new_v4());
        reply(self.controller.describe_host(&self.change(request, plan).await?))
    }

    async fn list_hosts(&self, request: Request<v1::ListHostsRequest>) -> Reply<v1::ListHostsReply> {
        let hosts = self.list::<Host>(&caller(&request)?, "", every)?;
        let hosts = hosts.iter().map(|host| self.controller.describe_host(host)).collect();
        reply(v1::ListHostsReply { hosts })
    }

    async fn delete_host(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        let host = self.change(request, |model, request| model.delete_host(&request.id)).await?;
        self.controller.links.remove(host.id);
        self.controller.forget_host(host.id).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_join_token(&self, request: Request<v1::CreateJoinTokenRequest>) -> Reply<v1::JoinToken> {
        reply(self.controller.create_join_token(request.into_inner()).await?)
    }

    async fn revoke_host(&self, request: Request<v1::RevokeHostRequest>) -> Reply<v1::Host> {
        let host = self.controller.revoke_host(request.into_inner().host).await?;
        reply(self.controller.describe_host(&host))
    }

    async fn get_controller_status(
        &self,
        request: Request<v1::GetControllerStatusRequest>,
    ) -> Reply<v1::ControllerStatus> {
        caller(&request)?;
        reply(self.controller.status())
    }
}
