//! The controller's API: who may call, and that what is refused changes nothing.

use super::{Running, TOKEN, complete, fault};
use std::os::unix::fs::PermissionsExt;
use tonic::Request;
use tonic::transport::Endpoint;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use weft_proto::v1;
use weft_proto::v1::cloud_client::CloudClient;

#[tokio::test]
async fn tcp_asks_for_the_token_and_the_socket_for_its_owner() {
    let running = Running::start().await;
    let mode = std::fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", running.port)).unwrap().connect().await.unwrap();
    let mut cloud = CloudClient::new(channel.clone());
    let refused = cloud.list_projects(v1::ListProjectsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    complete(&weft_proto::fault::Fault::from_status(&refused));
    let with = |token: &str| {
        let mut request = Request::new(v1::ListProjectsRequest {});
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    assert_eq!(cloud.list_projects(with("wrong")).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    let projects = cloud.list_projects(with(TOKEN)).await.unwrap().into_inner().projects;
    assert_eq!(projects.iter().map(|project| project.name.as_str()).collect::<Vec<_>>(), ["default"]);
    // Nor may a switch come in without it.
    let switch = super::fake_switch::FakeSwitch::new("one", 1);
    assert_eq!(switch.connect(channel.clone()).ended().await.code, "unauthenticated");
    // Health is for everybody.
    let request = HealthCheckRequest { service: "weft.v1.Cloud".into() };
    let health = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let running = Running::start().await;
    let mut client = ServerReflectionClient::new(running.channel().await);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut replies = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else { panic!("{reply:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["weft.v1.Cloud", "weft.v1.Switch", "weft.v1.Bus", "grpc.health.v1.Health"] {
        assert!(names.contains(&service), "{names:?}");
    }
}

#[tokio::test]
async fn what_is_refused_changes_nothing_and_what_is_not_survives() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let blue = cloud.network("blue").await;
    let request = v1::CreateSubnetRequest {
        name: "more".into(),
        network: "blue".into(),
        cidr: "10.0.0.128/25".into(),
        ..Default::default()
    };
    let refused = fault(cloud.0.create_subnet(request).await);
    complete(&refused);
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("overlapping_subnet", "cidr"));
    cloud.port("blue", "web").await;
    let refused = fault(cloud.0.delete_network(v1::DeleteRequest { id: "blue".into(), project: String::new() }).await);
    complete(&refused);
    assert_eq!(refused.code, "in_use");
    let subnets = cloud.0.list_subnets(v1::ListSubnetsRequest::default()).await.unwrap().into_inner().subnets;
    assert_eq!(subnets.len(), 1);
    let ports = cloud.ports().await;

    let running = running.restart().await;
    let mut cloud = running.cloud().await;
    let networks = cloud.0.list_networks(v1::ListNetworksRequest::default()).await.unwrap().into_inner().networks;
    assert_eq!(networks, [blue]);
    assert_eq!(cloud.0.list_subnets(v1::ListSubnetsRequest::default()).await.unwrap().into_inner().subnets, subnets);
    assert_eq!(cloud.ports().await, ports);
    let status = cloud.status().await;
    assert_eq!((status.term, status.protocol, status.hosts), (2, weft_proto::PROTOCOL, 0));
    let projects = cloud.0.list_projects(v1::ListProjectsRequest {}).await.unwrap().into_inner().projects;
    assert_eq!(projects.len(), 1, "the default project is made once");
}

#[tokio::test]
async fn lists_are_narrowed() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.0.create_project(v1::CreateProjectRequest { name: "other".into() }).await.unwrap();
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.network("red").await;
    cloud.port("blue", "web").await;
    cloud.port("red", "db").await;
    cloud.plug("db", "one", 0).await;
    let mut names = async |network: &str, host: &str, project: &str| {
        let request = v1::ListCloudPortsRequest { network: network.into(), host: host.into(), project: project.into() };
        let ports = cloud.0.list_ports(request).await?.into_inner().ports;
        Ok::<_, tonic::Status>(ports.into_iter().map(|port| port.name).collect::<Vec<_>>())
    };
    assert_eq!(names("", "", "").await.unwrap(), ["db", "web"]);
    assert_eq!(names("blue", "", "").await.unwrap(), ["web"]);
    assert_eq!(names("", "one", "").await.unwrap(), ["db"]);
    assert_eq!(names("", "", "other").await.unwrap(), Vec::<String>::new());
    assert_eq!(fault(names("green", "", "").await).code, "unknown_network");
    assert_eq!(fault(names("", "two", "").await).code, "unknown_host");
}

#[tokio::test]
async fn security_groups_are_shown_with_their_rules_and_survive() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let request = v1::CreateSecurityGroupRequest { name: "web".into(), ..Default::default() };
    let made = cloud.0.create_security_group(request).await.unwrap().into_inner();
    assert!(made.stateful && made.rules.len() == 1 && made.rules[0].direction == "egress");
    let rule = v1::CreateSecurityGroupRuleRequest {
        security_group: "web".into(),
        direction: "ingress".into(),
        protocol: "tcp".into(),
        port_range_min: Some(80),
        remote_group: "default".into(),
        ..Default::default()
    };
    let rule = cloud.0.create_security_group_rule(rule).await.unwrap().into_inner();
    assert_eq!((rule.port_range_min, rule.port_range_max), (Some(80), Some(80)));
    cloud.network("blue").await;
    let port = cloud.port("blue", "web-1").await;
    assert!(port.port_security_enabled && port.security_groups == [rule.remote_group_id.clone()]);
    let request = v1::UpdatePortRequest {
        port: "web-1".into(),
        security_groups: Some(v1::SecurityGroupChoice { groups: vec!["web".into()] }),
        ..Default::default()
    };
    let port = cloud.0.update_port(request).await.unwrap().into_inner();
    assert_eq!(port.security_groups, std::slice::from_ref(&made.id));
    let delete = || v1::DeleteRequest { id: "web".into(), project: String::new() };
    let refused = fault(cloud.0.delete_security_group(delete()).await);
    complete(&refused);
    assert!(refused.problem.contains("\"web-1\""), "{refused}");

    let running = running.restart().await;
    let mut cloud = running.cloud().await;
    let groups = cloud.0.list_security_groups(v1::ListSecurityGroupsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = groups.security_groups.iter().map(|group| (group.name.as_str(), group.rules.len())).collect();
    assert_eq!(names, [("default", 2), ("web", 2)]);
    assert_eq!(groups.security_groups[1].rules, [made.rules[0].clone(), rule]);
    assert_eq!(cloud.ports().await, [port]);
}
