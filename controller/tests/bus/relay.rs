//! Calls of a switch's own API, through the controller.

use super::fake_switch::FakeSwitch;
use super::{Running, complete, fault};
use tonic::Request;
use weft_proto::v1;
use weft_proto::v1::switch_client::SwitchClient;

fn for_host<T>(message: T, host: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("weft-host", host.parse().unwrap());
    request
}

#[tokio::test]
async fn calls_reach_the_switch_and_replies_come_back() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    cloud.plug("web", "one", 10_000).await;
    let mut client = SwitchClient::new(running.channel().await);

    let mut stream = client.dump_rules(for_host(v1::DumpRulesRequest::default(), "one")).await.unwrap().into_inner();
    let (mut rules, mut messages) = (0, 0);
    while let Some(reply) = stream.message().await.unwrap() {
        assert!(reply.rules.iter().all(|rule| rule.packets == 7));
        rules += reply.rules.len();
        messages += 1;
    }
    assert_eq!(rules, switch.held().rules.len());
    assert!(messages > 1);

    // A streamed request arrives merged; a reply without content arrives.
    let part =
        |table| v1::Bundle { add_rules: vec![v1::Rule { table, ..Default::default() }; 2], ..Default::default() };
    let parts = tokio_stream::iter([part(1), part(2)]);
    let result = client.apply_bundle(for_host(parts, "one")).await.unwrap().into_inner();
    assert_eq!(result.rules_added, 4);
    let neighbours = client.list_neighbours(for_host(v1::ListNeighboursRequest {}, "one")).await.unwrap().into_inner();
    assert!(neighbours.neighbours.is_empty());

    // The switch's own fault, as it is, under its own code.
    let status = client.trace(for_host(v1::TraceRequest::default(), "one")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(weft_proto::fault::Fault::from_status(&status).code, "bad_packet");
}

#[tokio::test]
async fn what_cannot_be_relayed_is_refused() {
    let running = Running::start().await;
    running.cloud().await.host("one").await;
    let mut client = SwitchClient::new(running.channel().await);
    let refused = fault(client.get_status(for_host(v1::GetStatusRequest {}, "one")).await);
    complete(&refused);
    assert_eq!(refused.code, "host_disconnected");
    let refused = fault(client.get_status(for_host(v1::GetStatusRequest {}, "two")).await);
    complete(&refused);
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("unknown_host", "weft-host"));
    let refused = fault(client.get_status(Request::new(v1::GetStatusRequest {})).await);
    complete(&refused);
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("unknown_host", "weft-host"));
    let forged = tokio_stream::iter([v1::Bundle { term: 9, ..Default::default() }]);
    let refused = fault(client.apply_bundle(for_host(forged, "one")).await);
    complete(&refused);
    assert_eq!(refused.code, "not_the_controller");
}

#[tokio::test]
async fn a_caller_who_goes_away_cancels() {
    let running = Running::start().await;
    running.cloud().await.host("one").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    switch.until("the first bundle", |held| held.generation == 1).await;
    let mut client = SwitchClient::new(running.channel().await);
    let mut punts = client.watch_punts(for_host(v1::WatchPuntsRequest {}, "one")).await.unwrap().into_inner();
    assert_eq!(punts.message().await.unwrap().unwrap().in_port, 5);
    assert!(switch.held().cancelled.is_empty());
    drop(punts);
    switch.until("the cancellation", |held| held.cancelled.len() == 1).await;
}

#[tokio::test]
async fn calls_end_with_the_switch() {
    let running = Running::start().await;
    running.cloud().await.host("one").await;
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(running.channel().await);
    switch.until("the first bundle", |held| held.generation == 1).await;
    let mut client = SwitchClient::new(running.channel().await);
    let mut punts = client.watch_punts(for_host(v1::WatchPuntsRequest {}, "one")).await.unwrap().into_inner();
    assert!(punts.message().await.unwrap().is_some());
    stream.cut().await;
    let ended = fault(punts.message().await);
    complete(&ended);
    assert_eq!(ended.code, "host_disconnected");
}
