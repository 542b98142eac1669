//! The controller's half of the fake.

use super::{Service, plugged};
use tonic::{Request, Response, Status};
use weft_proto::fault::Fault;
use weft_proto::v1::cloud_server::Cloud;
use weft_proto::v1::*;

#[tonic::async_trait]
impl Cloud for Service {
    async fn create_network(&self, request: Request<CreateNetworkRequest>) -> Result<Response<Network>, Status> {
        let request = self.note(request);
        let network = Network {
            id: "n1".into(),
            name: request.name,
            project_id: "p1".into(),
            segment_id: request.segment_id,
            mtu: 1450,
            segment_type: if request.segment_type.is_empty() { "vxlan".into() } else { request.segment_type },
            physical_network: request.physical_network,
            vlan_id: request.vlan_id,
            external: request.external,
            vlan_transparent: request.vlan_transparent,
            reactive: request.reactive,
        };
        self.0.lock().unwrap().networks.push(network.clone());
        Ok(Response::new(network))
    }

    async fn list_networks(
        &self,
        request: Request<ListNetworksRequest>,
    ) -> Result<Response<ListNetworksReply>, Status> {
        self.note(request);
        Ok(Response::new(ListNetworksReply { networks: self.0.lock().unwrap().networks.clone() }))
    }

    async fn delete_network(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let request = self.note(request);
        let problem = format!("there is no network \"{}\"", request.id);
        Err(Fault::invalid("not_found", "network", problem, "See \"weft network list\".").into())
    }

    async fn list_projects(
        &self,
        request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsReply>, Status> {
        self.note(request);
        let projects = vec![Project { id: "p1".into(), name: "p".into() }];
        Ok(Response::new(ListProjectsReply { projects }))
    }

    async fn get_controller_status(
        &self,
        request: Request<GetControllerStatusRequest>,
    ) -> Result<Response<ControllerStatus>, Status> {
        self.note(request);
        Ok(Response::new(ControllerStatus { hosts: 1, hosts_behind: 1, ..ControllerStatus::default() }))
    }

    async fn create_project(&self, request: Request<CreateProjectRequest>) -> Result<Response<Project>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn delete_project(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn create_subnet(&self, request: Request<CreateSubnetRequest>) -> Result<Response<Subnet>, Status> {
        let request = self.note(request);
        let subnet = Subnet {
            id: "s1".into(),
            name: request.name.clone(),
            network_id: "n1".into(),
            cidr: request.cidr.clone(),
            ..Subnet::default()
        };
        self.0.lock().unwrap().subnets.push(request);
        Ok(Response::new(subnet))
    }

    async fn list_subnets(&self, request: Request<ListSubnetsRequest>) -> Result<Response<ListSubnetsReply>, Status> {
        self.note(request);
        let subnet = Subnet { id: "s1".into(), name: "inner".into(), project_id: "p1".into(), ..Subnet::default() };
        Ok(Response::new(ListSubnetsReply { subnets: vec![subnet] }))
    }

    async fn delete_subnet(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn create_port(&self, request: Request<CreatePortRequest>) -> Result<Response<Port>, Status> {
        let request = self.note(request);
        let port = Port { id: "o1".into(), name: request.name.clone(), ..plugged(&request.fixed_ips) };
        self.0.lock().unwrap().ports.push(request);
        Ok(Response::new(port))
    }

    async fn list_ports(
        &self,
        request: Request<ListCloudPortsRequest>,
    ) -> Result<Response<ListCloudPortsReply>, Status> {
        self.note(request);
        Ok(Response::new(ListCloudPortsReply { ports: vec![Port { name: "web-1".into(), ..plugged(&[]) }] }))
    }

    async fn plug_port(&self, request: Request<PlugPortRequest>) -> Result<Response<Port>, Status> {
        let request = self.note(request);
        let status = if request.port == "slow" { "BUILD" } else { "ACTIVE" };
        let port = Port {
            name: request.port.clone(),
            netns: request.netns.clone(),
            interface: "weft7".into(),
            status: status.into(),
            ..plugged(&[])
        };
        self.0.lock().unwrap().plugs.push(request);
        Ok(Response::new(port))
    }

    async fn unplug_port(&self, request: Request<UnplugPortRequest>) -> Result<Response<Port>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn delete_port(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn list_routers(&self, request: Request<ListRoutersRequest>) -> Result<Response<ListRoutersReply>, Status> {
        self.note(request);
        let interface = RouterInterface {
            subnet_id: "s1".into(),
            ip_address: "10.0.0.1".into(),
            mac_address: "02:00:00:00:00:09".into(),
            ..RouterInterface::default()
        };
        let route = HostRoute { destination: "10.9.0.0/16".into(), nexthop: "10.0.0.5".into() };
        let router = Router {
            id: "r1".into(),
            name: "main".into(),
            project_id: "p1".into(),
            number: 3,
            routes: vec![route],
            interfaces: vec![interface],
            external_gateway: Some(external_gateway()),
        };
        Ok(Response::new(ListRoutersReply { routers: vec![router] }))
    }

    async fn trace_path(&self, request: Request<TracePathRequest>) -> Result<Response<TracePathReply>, Status> {
        let request = self.note(request);
        let verdict = PathVerdict { text: format!("delivered to {}", request.destination), ..PathVerdict::default() };
        let forward = PathLeg { port_name: request.port, verdict: Some(verdict), ..PathLeg::default() };
        // Nobody answers at an odd port.
        let passes = request.destination_port.is_multiple_of(2);
        Ok(Response::new(TracePathReply { forward: Some(forward), reply: None, passes }))
    }

    async fn create_router(&self, request: Request<CreateRouterRequest>) -> Result<Response<Router>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn delete_router(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn add_router_interface(
        &self,
        request: Request<AddRouterInterfaceRequest>,
    ) -> Result<Response<Router>, Status> {
        let request = self.note(request);
        let asked = format!("{} {} {}", request.router, request.subnet, request.ip_address);
        Ok(Response::new(Router { id: "r1".into(), name: asked, ..Router::default() }))
    }

    async fn remove_router_interface(
        &self,
        request: Request<RemoveRouterInterfaceRequest>,
    ) -> Result<Response<Router>, Status> {
        let request = self.note(request);
        let asked = format!("{} {}", request.router, request.subnet);
        Ok(Response::new(Router { id: "r1".into(), name: asked, ..Router::default() }))
    }

    async fn add_router_route(&self, request: Request<AddRouterRouteRequest>) -> Result<Response<Router>, Status> {
        let request = self.note(request);
        let asked = format!("{} {} {}", request.router, request.destination, request.nexthop);
        Ok(Response::new(Router { id: "r1".into(), name: asked, ..Router::default() }))
    }

    async fn remove_router_route(
        &self,
        request: Request<RemoveRouterRouteRequest>,
    ) -> Result<Response<Router>, Status> {
        let request = self.note(request);
        let asked = format!("{} {}", request.router, request.destination);
        Ok(Response::new(Router { id: "r1".into(), name: asked, ..Router::default() }))
    }

    async fn set_router_gateway(&self, request: Request<SetRouterGatewayRequest>) -> Result<Response<Router>, Status> {
        let request = self.note(request);
        let asked = format!("{} {} {} {:?}", request.router, request.network, request.ip_address, request.enable_snat);
        Ok(Response::new(Router { name: asked, external_gateway: Some(external_gateway()), ..Router::default() }))
    }

    async fn clear_router_gateway(
        &self,
        request: Request<ClearRouterGatewayRequest>,
    ) -> Result<Response<Router>, Status> {
        let request = self.note(request);
        Ok(Response::new(Router { name: request.router, ..Router::default() }))
    }

    async fn create_floating_ip(
        &self,
        request: Request<CreateFloatingIpRequest>,
    ) -> Result<Response<FloatingIp>, Status> {
        let request = self.note(request);
        let fixed_ip_address = [request.network, request.port, request.fixed_ip_address].concat();
        Ok(Response::new(FloatingIp { ip_address: request.ip_address, fixed_ip_address, ..FloatingIp::default() }))
    }

    async fn list_floating_ips(
        &self,
        request: Request<ListFloatingIpsRequest>,
    ) -> Result<Response<ListFloatingIpsReply>, Status> {
        self.note(request);
        let floating = FloatingIp { id: "f1".into(), ip_address: "203.0.113.7".into(), ..FloatingIp::default() };
        Ok(Response::new(ListFloatingIpsReply { floating_ips: vec![floating] }))
    }

    async fn update_floating_ip(
        &self,
        request: Request<UpdateFloatingIpRequest>,
    ) -> Result<Response<FloatingIp>, Status> {
        let request = self.note(request);
        let fixed_ip_address = [request.port, request.fixed_ip_address].concat();
        Ok(Response::new(FloatingIp { ip_address: request.floating_ip, fixed_ip_address, ..FloatingIp::default() }))
    }

    async fn delete_floating_ip(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Ok(Response::new(DeleteReply {}))
    }

    async fn create_security_group(
        &self,
        request: Request<CreateSecurityGroupRequest>,
    ) -> Result<Response<SecurityGroup>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn update_security_group(
        &self,
        request: Request<UpdateSecurityGroupRequest>,
    ) -> Result<Response<SecurityGroup>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn delete_security_group(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn delete_security_group_rule(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn update_port(&self, request: Request<UpdatePortRequest>) -> Result<Response<Port>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn create_security_group_rule(
        &self,
        request: Request<CreateSecurityGroupRuleRequest>,
    ) -> Result<Response<SecurityGroupRule>, Status> {
        let request = self.note(request);
        let rule = SecurityGroupRule { id: "r9".into(), direction: request.direction, ..Default::default() };
        Ok(Response::new(rule))
    }

    async fn list_security_groups(
        &self,
        request: Request<ListSecurityGroupsRequest>,
    ) -> Result<Response<ListSecurityGroupsReply>, Status> {
        self.note(request);
        let rule = |id: &str, direction: &str, protocol: &str| SecurityGroupRule {
            id: id.into(),
            direction: direction.into(),
            protocol: protocol.into(),
            ..SecurityGroupRule::default()
        };
        let web =
            SecurityGroupRule { port_range_min: Some(80), port_range_max: Some(89), ..rule("r2", "ingress", "tcp") };
        let own = SecurityGroupRule { remote_group_id: "g1".into(), ..rule("r3", "ingress", "") };
        let group = SecurityGroup {
            id: "g1".into(),
            name: "web".into(),
            project_id: "p1".into(),
            rules: vec![rule("r1", "egress", ""), web, own],
            ..SecurityGroup::default()
        };
        Ok(Response::new(ListSecurityGroupsReply { security_groups: vec![group] }))
    }

    async fn create_host(&self, request: Request<CreateHostRequest>) -> Result<Response<Host>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn list_hosts(&self, request: Request<ListHostsRequest>) -> Result<Response<ListHostsReply>, Status> {
        self.note(request);
        let host = Host { id: "h1".into(), name: "web".into(), connected: true, generation: 1, ..Host::default() };
        Ok(Response::new(ListHostsReply { hosts: vec![host] }))
    }

    async fn create_join_token(&self, request: Request<CreateJoinTokenRequest>) -> Result<Response<JoinToken>, Status> {
        let request = self.note(request);
        let expires = request.lifetime_seconds.into();
        let token =
            JoinToken { host: request.host, token: "weft-join-1/…".into(), expires, address: request.address };
        Ok(Response::new(token))
    }

    async fn revoke_host(&self, request: Request<RevokeHostRequest>) -> Result<Response<Host>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }

    async fn delete_host(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        self.note(request);
        Err(Status::unimplemented("not built in this fake"))
    }
}

fn external_gateway() -> ExternalGateway {
    ExternalGateway {
        network_id: "n1".into(),
        enable_snat: true,
        ip_address: "203.0.113.5".into(),
        ..ExternalGateway::default()
    }
}
