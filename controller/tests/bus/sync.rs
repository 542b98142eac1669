//! What a switch is sent, and what it is spared.

use super::fake_switch::FakeSwitch;
use super::{Running, complete};
use std::time::Duration;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, Owner};

const TUNNEL: u32 = 0x00ff_0001;

#[tokio::test]
async fn a_fresh_switch_gets_all_and_then_only_what_changes() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    {
        let held = switch.held();
        let first = &held.bundles[0];
        assert_eq!((first.term, first.generation, first.base_generation), (1, 1, 0));
        assert_eq!(
            (first.replace_owner(), first.tables.len()),
            (Owner::Fabric, weft_controller::compile::pipeline::tables().len())
        );
        assert_eq!(held.ports.keys().copied().collect::<Vec<_>>(), [TUNNEL]);
        assert_eq!(held.compares, 0);
    }
    // A port that is nowhere touches no host.
    cloud.port("blue", "idle").await;
    let web = cloud.plug("web", "one", 10_000).await;
    assert_eq!((web.status.as_str(), web.fault.as_str()), ("ACTIVE", ""));
    assert_eq!(web.interface, format!("weft{}", web.number));
    {
        let held = switch.held();
        assert_eq!(held.bundles.len(), 2);
        let second = &held.bundles[1];
        assert_eq!((second.generation, second.base_generation, second.replace_owner()), (2, 1, Owner::Unspecified));
        assert_eq!(second.add_ports.iter().map(|port| port.number).collect::<Vec<_>>(), [web.number]);
        assert!(second.tables.is_empty() && second.remove_rules.is_empty() && !second.add_rules.is_empty());
    }
    let host = cloud.hosts().await.remove(0);
    assert_eq!((host.connected, host.generation, host.acknowledged_generation), (true, 2, 2));
    assert_eq!((host.underlay_address.as_str(), host.underlay_mtu), ("10.9.0.1", 1500));
    assert_eq!(host.ports.len(), 2);
    assert_eq!(cloud.unplug("web", 10_000).await.status, "DOWN");
    let held = switch.held();
    assert_eq!(held.ports.keys().copied().collect::<Vec<_>>(), [TUNNEL]);
    assert_eq!(held.rules.len(), held.bundles[0].add_rules.len());
}

#[tokio::test]
async fn a_switch_that_holds_what_it_should_is_sent_nothing() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(running.channel().await);
    cloud.plug("web", "one", 10_000).await;
    let before = switch.held().bundles.len();
    let generation = switch.held().generation;
    stream.cut().await;
    cloud.until("one", "the disconnection", |host| !host.connected).await;
    let stream = switch.connect(running.channel().await);
    cloud
        .until("one", "the connection", |host| host.connected && host.generation == host.acknowledged_generation)
        .await;
    // What changed meanwhile comes as the difference from what it holds.
    stream.cut().await;
    cloud.until("one", "the disconnection", |host| !host.connected).await;
    assert_eq!(switch.held().bundles.len(), before);
    assert_eq!(switch.held().compares, 0);
    cloud.port("blue", "db").await;
    assert_eq!(cloud.plug("db", "one", 0).await.status, "BUILD");
    assert_eq!(cloud.status().await.hosts_behind, 1);
    let _stream = switch.connect(running.channel().await);
    switch.until("the difference", |held| held.bundles.len() == before + 1).await;
    let held = switch.held();
    assert_eq!((held.bundles[before].base_generation, held.compares), (generation, 0));
}

#[tokio::test]
async fn after_a_restart_equal_tables_are_not_sent_again() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    cloud.plug("web", "one", 10_000).await;
    let rules = switch.held().rules.clone();
    let bundles = switch.held().bundles.len();
    let base_generation = switch.held().generation;
    let running = running.restart().await;
    let mut cloud = running.cloud().await;
    let port = cloud.ports().await.remove(0);
    assert_eq!(port.status, "BUILD", "nobody has said otherwise to this controller");
    assert!(port.fault.contains("host \"one\" has not connected since this controller started"), "{}", port.fault);
    let stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    assert_eq!(cloud.ports().await[0].status, "ACTIVE");
    {
        let held = switch.held();
        assert_eq!((held.term, held.compares, held.bundles.len()), (2, 1, bundles + 1));
        let empty = v1::Bundle { term: 2, generation: 1, base_generation, ..Default::default() };
        assert_eq!(held.bundles[bundles], empty);
        assert_eq!(held.rules, rules);
    }
    // The same again, but the switch has lost a rule: then all is sent, as a replacement.
    stream.cut().await;
    let lost = switch.held().rules.pop_first();
    assert!(lost.is_some());
    let running = running.restart().await;
    let mut cloud = running.cloud().await;
    let _stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    let held = switch.held();
    assert_eq!(held.bundles.last().unwrap().replace_owner(), Owner::Fabric);
    assert_eq!(held.rules, rules);
}

#[tokio::test]
async fn an_acknowledgement_that_was_lost_is_made_up_for() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    // It applies the bundle and dies before it can say so: the fake applies at the end of its delay.
    switch.held().slow = Duration::from_millis(200);
    cloud.plug("web", "one", 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.cut().await;
    let bundle = {
        let mut held = switch.held();
        held.slow = Duration::ZERO;
        // As if the bundle had arrived: generation 2 is held, and nobody knows.
        held.generation = 2;
        held.bundles.len()
    };
    let _stream = switch.connect(running.channel().await);
    cloud.until("one", "the connection", |host| host.connected && host.acknowledged_generation == 2).await;
    assert_eq!(cloud.ports().await[0].status, "ACTIVE");
    assert_eq!(switch.held().bundles.len(), bundle);
}

#[tokio::test]
async fn a_switch_that_is_elsewhere_is_brought_back() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    {
        let mut held = switch.held();
        held.generation = 77;
        held.rules.clear();
    }
    assert_eq!(cloud.plug("web", "one", 10_000).await.status, "ACTIVE");
    let held = switch.held();
    assert_eq!(held.compares, 1);
    assert_eq!(held.bundles.last().unwrap().replace_owner(), Owner::Fabric);
    assert!(held.rules.len() > held.bundles[0].add_rules.len());
}

#[tokio::test]
async fn a_refusal_is_shown_and_healed() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    cloud.port("blue", "db").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    assert_eq!(cloud.plug("web", "one", 10_000).await.status, "ACTIVE");
    let fault = Fault::invalid("no_netns", "add_ports[0]", "there is no network namespace \"x\"", "Create it.");
    switch.held().refuse = Some(fault.to_message());
    let db = cloud.plug("db", "one", 10_000).await;
    assert_eq!(db.status, "ERROR");
    assert!(db.fault.contains("there is no network namespace \"x\". Create it."), "{}", db.fault);
    let ports = cloud.ports().await;
    assert_eq!((ports[0].name.as_str(), ports[1].name.as_str(), ports[1].status.as_str()), ("db", "web", "ACTIVE"));
    let host = cloud.hosts().await.remove(0);
    assert!(host.connected && host.fault.contains("no network namespace"), "{host:?}");
    assert!(host.generation > host.acknowledged_generation);
    // It is tried again without being asked.
    let tried = switch.held().bundles.len();
    switch.until("another try", |held| held.bundles.len() > tried).await;
    // Or when it is asked for again: that waits for the result.
    switch.held().refuse = None;
    assert_eq!(cloud.plug("db", "one", 10_000).await.status, "ACTIVE");
    cloud.unplug("db", 10_000).await;
    switch.held().refuse = Some(fault.to_message());
    assert_eq!(cloud.plug("db", "one", 10_000).await.status, "ERROR");
    // And when what is wanted is wanted no more, all is well.
    cloud.unplug("db", 0).await;
    let host = cloud.until("one", "the fault's end", |host| host.fault.is_empty()).await;
    assert_eq!(host.generation, host.acknowledged_generation);
    switch.held().refuse = None;
    assert_eq!(cloud.plug("db", "one", 10_000).await.status, "ACTIVE");
}

#[tokio::test]
async fn hosts_learn_of_each_other() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.host("two").await;
    cloud.network("blue").await;
    cloud.port("blue", "web-1").await;
    cloud.port("blue", "web-2").await;
    cloud.plug("web-2", "two", 0).await;
    let one = FakeSwitch::new("one", 1);
    let _stream = one.connect(running.channel().await);
    assert_eq!(cloud.plug("web-1", "one", 10_000).await.status, "ACTIVE");
    let reaches = |held: &super::fake_switch::Held, host: [u8; 4]| {
        held.rules.values().any(|rule| {
            rule.instructions.as_ref().unwrap().apply_actions.iter().any(|action| match &action.action {
                Some(v1::action::Action::SetField(set)) => set.field() == v1::Field::TunDst && set.value == host,
                _ => false,
            })
        })
    };
    // Nobody knows yet where host two is.
    assert!(!reaches(&one.held(), [10, 9, 0, 2]));
    let two = FakeSwitch::new("two", 2);
    let stream = two.connect(running.channel().await);
    one.until("the way to two", |held| reaches(held, [10, 9, 0, 2])).await;
    two.until("the way to one", |held| reaches(held, [10, 9, 0, 1])).await;
    // It moves.
    stream.cut().await;
    let mut moved = two.clone();
    moved.underlay = [10, 9, 0, 22];
    let _stream = moved.connect(running.channel().await);
    one.until("the new way", |held| reaches(held, [10, 9, 0, 22]) && !reaches(held, [10, 9, 0, 2])).await;
    // A network that is not here is none of its business.
    let before = one.held().bundles.len();
    cloud.network("red").await;
    cloud.port("red", "red-1").await;
    assert_eq!(cloud.plug("red-1", "two", 10_000).await.status, "ACTIVE");
    assert_eq!(one.held().bundles.len(), before);
}

#[tokio::test]
async fn changes_in_quick_succession_travel_together() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    switch.held().slow = Duration::from_millis(300);
    for index in 0..40 {
        cloud.port("blue", &format!("p{index}")).await;
        cloud.plug(&format!("p{index}"), "one", 0).await;
    }
    switch.until("all ports", |held| held.ports.len() == 41).await;
    let bundles = switch.held().bundles.len();
    assert!(bundles < 20, "{bundles} bundles for 40 changes");
}

#[tokio::test]
async fn a_port_that_fails_at_its_host_shows_it() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    // Nobody is there: waiting ends, and the port is still to be built.
    assert_eq!(cloud.plug("web", "one", 100).await.status, "BUILD");
    let switch = FakeSwitch::new("one", 1);
    switch.held().taps = Some("failed: the interface is gone".into());
    let _stream = switch.connect(running.channel().await);
    let port = cloud.plug("web", "one", 10_000).await;
    assert_eq!((port.status.as_str(), port.fault.as_str()), ("ERROR", "failed: the interface is gone"));
    let refused = cloud.0.delete_port(v1::DeleteRequest { id: port.id, project: String::new() }).await;
    let refused = super::fault(refused);
    complete(&refused);
    assert_eq!(refused.code, "in_use");
}

#[tokio::test]
async fn a_switch_that_does_not_answer_is_disconnected() {
    let running = Running::patient(Duration::from_millis(300)).await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(running.channel().await);
    cloud.until("one", "the acknowledgement", |host| host.acknowledged_generation == 1).await;
    // Nothing is owed: it may be silent for as long as it likes.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(stream.open());
    switch.held().mute = true;
    cloud.plug("web", "one", 0).await;
    let fault = stream.ended().await;
    complete(&fault);
    assert_eq!(fault.code, "unresponsive");
    cloud.until("one", "the disconnection", |host| !host.connected).await;
    // It comes back and catches up.
    switch.held().mute = false;
    let _stream = switch.connect(running.channel().await);
    assert_eq!(cloud.plug("web", "one", 10_000).await.status, "ACTIVE");
}

#[tokio::test]
async fn a_physical_network_is_a_port_of_the_hosts_that_reach_it() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let provider = v1::PhysicalNetwork { name: "provider".into(), interface: "eth2".into(), mtu: 1500, shared: false };
    let mut switch = FakeSwitch::new("one", 1);
    switch.physical = vec![provider.clone()];
    let stream = switch.connect(running.channel().await);
    let host = cloud.until("one", "its first bundle", |host| host.acknowledged_generation > 0).await;
    assert_eq!(host.physical_networks, [provider]);
    let held: Vec<_> = switch.held().ports.values().cloned().collect();
    let port = held.iter().find(|port| port.number == weft_proto::FIRST_PHYSICAL_PORT).expect("the port is declared");
    let Some(v1::port_spec::Kind::AfXdp(af_xdp)) = &port.kind else { panic!("{port:?}") };
    assert!(af_xdp.interface == "eth2" && af_xdp.take_all, "{port:?}");
    // A switch that comes back without it has no port for it, and its host is not where the network goes.
    stream.cut().await;
    let request = v1::CreateNetworkRequest {
        name: "blue".into(),
        segment_type: "vlan".into(),
        physical_network: "provider".into(),
        ..Default::default()
    };
    assert_eq!(cloud.0.create_network(request).await.unwrap().into_inner().vlan_id, 2);
    cloud.port("blue", "web").await;
    cloud.plug("web", "one", 0).await;
    let without = FakeSwitch::new("one", 1);
    let _stream = without.connect(running.channel().await);
    without.until("its bundle", |held| held.ports.contains_key(&TUNNEL)).await;
    assert!(!without.held().ports.contains_key(&weft_proto::FIRST_PHYSICAL_PORT));
    let mut web = cloud.ports().await.remove(0);
    for _ in 0..1000 {
        if web.status == "ERROR" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        web = cloud.ports().await.remove(0);
    }
    assert!(web.fault.contains("\"provider\", which host \"one\" does not reach"), "{web:?}");
}
