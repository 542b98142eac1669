//! The service Cloud: each handler authorises (at the door), plans, and shows the result.

use super::door::caller;
use crate::authorise::Caller;
use crate::controller::Controller;
use crate::limits;
use crate::model::Port;
use crate::store::record::{network_message, project_message, subnet_message};
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
        self.controller.model().port_by_id(planned.id).cloned().unwrap_or_else(|| planned.clone())
    }
}

/// Whether the caller may see what belongs to a project.
fn sees(caller: &Caller, project: Uuid) -> bool {
    caller.project.is_none_or(|own| own == project)
}

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

#[tonic::async_trait]
impl v1::cloud_server::Cloud for CloudService {
    async fn create_project(&self, request: Request<v1::CreateProjectRequest>) -> Reply<v1::Project> {
        let request = request.into_inner();
        let planned = move |model: &crate::model::Model| model.create_project(&request, Uuid::new_v4());
        reply(project_message(&self.controller.transact(planned).await?))
    }

    async fn list_projects(&self, request: Request<v1::ListProjectsRequest>) -> Reply<v1::ListProjectsReply> {
        let caller = caller(&request)?;
        let model = self.controller.model();
        let mut projects: Vec<_> =
            model.projects().filter(|project| sees(&caller, project.id)).map(project_message).collect();
        projects.sort_by(|one, other| one.name.cmp(&other.name));
        reply(v1::ListProjectsReply { projects })
    }

    async fn delete_project(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        let request = request.into_inner();
        self.controller.transact(move |model| model.delete_project(&request.id)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_network(&self, request: Request<v1::CreateNetworkRequest>) -> Reply<v1::Network> {
        let request = request.into_inner();
        let network = self.controller.transact(move |model| model.create_network(&request, Uuid::new_v4())).await?;
        reply(network_message(&network))
    }

    async fn list_networks(&self, request: Request<v1::ListNetworksRequest>) -> Reply<v1::ListNetworksReply> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let model = self.controller.model();
        let project = wanted(&request.project, |named| Ok(model.project(named, "project")?.id))?;
        let mut networks: Vec<_> = model
            .networks()
            .filter(|network| sees(&caller, network.project) && project.is_none_or(|id| id == network.project))
            .map(network_message)
            .collect();
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        reply(v1::ListNetworksReply { networks })
    }

    async fn delete_network(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        let request = request.into_inner();
        self.controller.transact(move |model| model.delete_network(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_subnet(&self, request: Request<v1::CreateSubnetRequest>) -> Reply<v1::Subnet> {
        let request = request.into_inner();
        let subnet = self.controller.transact(move |model| model.create_subnet(&request, Uuid::new_v4())).await?;
        reply(subnet_message(&subnet))
    }

    async fn list_subnets(&self, request: Request<v1::ListSubnetsRequest>) -> Reply<v1::ListSubnetsReply> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let model = self.controller.model();
        let project = wanted(&request.project, |named| Ok(model.project(named, "project")?.id))?;
        let network = wanted(&request.network, |named| Ok(model.network(named, &request.project, "network")?.id))?;
        let mut subnets: Vec<_> = model
            .subnets()
            .filter(|subnet| sees(&caller, subnet.project) && project.is_none_or(|id| id == subnet.project))
            .filter(|subnet| network.is_none_or(|id| id == subnet.network))
            .map(subnet_message)
            .collect();
        subnets.sort_by(|one, other| one.name.cmp(&other.name));
        reply(v1::ListSubnetsReply { subnets })
    }

    async fn delete_subnet(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        let request = request.into_inner();
        self.controller.transact(move |model| model.delete_subnet(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_port(&self, request: Request<v1::CreatePortRequest>) -> Reply<v1::Port> {
        let request = request.into_inner();
        let port = self.controller.transact(move |model| model.create_port(&request, Uuid::new_v4())).await?;
        reply(self.controller.describe_port(&port))
    }

    async fn list_ports(&self, request: Request<v1::ListCloudPortsRequest>) -> Reply<v1::ListCloudPortsReply> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let mut ports: Vec<Port> = {
            let model = self.controller.model();
            let project = wanted(&request.project, |named| Ok(model.project(named, "project")?.id))?;
            let network = wanted(&request.network, |named| Ok(model.network(named, &request.project, "network")?.id))?;
            let host = wanted(&request.host, |named| Ok(model.host(named, "host")?.id))?;
            model
                .ports()
                .filter(|port| sees(&caller, port.project) && project.is_none_or(|id| id == port.project))
                .filter(|port| network.is_none_or(|id| id == port.network))
                .filter(|port| host.is_none_or(|id| port.plug.as_ref().is_some_and(|plug| plug.host == id)))
                .cloned()
                .collect()
        };
        ports.sort_by(|one, other| (&one.name, one.number).cmp(&(&other.name, other.number)));
        let ports = ports.iter().map(|port| self.controller.describe_port(port)).collect();
        reply(v1::ListCloudPortsReply { ports })
    }

    async fn plug_port(&self, request: Request<v1::PlugPortRequest>) -> Reply<v1::Port> {
        let request = request.into_inner();
        let wait = request.wait_milliseconds;
        let port = self.controller.transact(move |model| model.plug_port(&request)).await?;
        if let Some(plug) = &port.plug {
            // Asking again for what was refused is asking to try again.
            self.controller.links.of(plug.host).retry();
        }
        self.wait(wait, || self.controller.describe_port(&self.port_now(&port)).status != "BUILD").await;
        reply(self.controller.describe_port(&self.port_now(&port)))
    }

    async fn unplug_port(&self, request: Request<v1::UnplugPortRequest>) -> Reply<v1::Port> {
        let request = request.into_inner();
        let wait = request.wait_milliseconds;
        let (before, port) = self
            .controller
            .transact(move |model| {
                let before = model.port(&request.port, &request.project, "port")?.plug.clone();
                let (changes, port) = model.unplug_port(&request)?;
                Ok((changes, (before, port)))
            })
            .await?;
        if let Some(plug) = before {
            let link = self.controller.links.of(plug.host);
            self.wait(wait, || !link.may_have(port.number)).await;
        }
        reply(self.controller.describe_port(&self.port_now(&port)))
    }

    async fn delete_port(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        let request = request.into_inner();
        self.controller.transact(move |model| model.delete_port(&request.id, &request.project)).await?;
        reply(v1::DeleteReply {})
    }

    async fn create_host(&self, request: Request<v1::CreateHostRequest>) -> Reply<v1::Host> {
        let request = request.into_inner();
        let host = self.controller.transact(move |model| model.create_host(&request, Uuid::new_v4())).await?;
        reply(self.controller.describe_host(&host))
    }

    async fn list_hosts(&self, request: Request<v1::ListHostsRequest>) -> Reply<v1::ListHostsReply> {
        caller(&request)?;
        let model = self.controller.model();
        let mut hosts: Vec<_> = model.hosts().map(|host| self.controller.describe_host(host)).collect();
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        reply(v1::ListHostsReply { hosts })
    }

    async fn delete_host(&self, request: Request<v1::DeleteRequest>) -> Reply<v1::DeleteReply> {
        let request = request.into_inner();
        let host = self.controller.transact(move |model| model.delete_host(&request.id)).await?;
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

/// What a filter means: nothing, if nothing is named.
fn wanted(named: &str, find: impl FnOnce(&str) -> Result<Uuid, Fault>) -> Result<Option<Uuid>, Fault> {
    if named.is_empty() { Ok(None) } else { find(named).map(Some) }
}
