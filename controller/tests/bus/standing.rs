//! What the controller says of ports and hosts is what it knows: no port is ACTIVE by hearsay.

use super::Running;
use super::fake_switch::FakeSwitch;
use weft_proto::v1;

#[tokio::test]
async fn a_port_is_down_while_its_host_is_not_connected() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let waiting = cloud.plug("web", "one", 0).await;
    assert_eq!(waiting.status, "BUILD");
    assert!(waiting.fault.contains("host \"one\" has never connected. Start weft-switch"), "{}", waiting.fault);
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(running.channel().await);
    let web = cloud.plug("web", "one", 10_000).await;
    assert_eq!((web.status.as_str(), web.fault.as_str()), ("ACTIVE", ""));
    let host = cloud.hosts().await.remove(0);
    assert_eq!((host.note.as_str(), host.ports[0].state.as_str()), ("", "up"));
    assert!(cloud.status().await.notes.is_empty());

    stream.cut().await;
    let host = cloud.until("one", "the disconnection", |host| !host.connected).await;
    let sentence = "host \"one\" has not been connected for ";
    let web = cloud.ports().await.remove(0);
    assert_eq!(web.status, "DOWN");
    assert!(
        web.fault.starts_with(sentence) && web.fault.contains(" s; if its switch runs, it goes on"),
        "{}",
        web.fault
    );
    assert!(host.fault.is_empty() && host.note.starts_with(sentence), "{host:?}");
    assert!(host.ports.iter().all(|port| port.state == "unknown, last reported: up"), "{host:?}");
    assert!(cloud.status().await.notes[0].starts_with(sentence));
    // What is plugged meanwhile says why it is not made.
    cloud.port("blue", "db").await;
    let db = cloud.plug("db", "one", 100).await;
    assert!(db.status == "BUILD" && db.fault.starts_with("host \"one\" has not been connected"), "{db:?}");
    // Asked for again, the port is waited for until the host is back.
    let asked =
        v1::PlugPortRequest { port: "web".into(), host: "one".into(), wait_milliseconds: 10_000, ..Default::default() };
    let mut other = running.cloud().await;
    let waiting = tokio::spawn(async move { other.0.plug_port(asked).await.unwrap().into_inner() });
    tokio::task::yield_now().await;
    let _stream = switch.connect(running.channel().await);
    assert_eq!(waiting.await.unwrap().status, "ACTIVE");
    cloud.until("one", "the end of the note", |host| host.note.is_empty()).await;
}

#[tokio::test]
async fn a_port_follows_what_its_host_reports() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.network("blue").await;
    cloud.port("blue", "web").await;
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(running.channel().await);
    assert_eq!(cloud.plug("web", "one", 10_000).await.status, "ACTIVE");
    for (reported, status, fault) in [
        ("failed: interface \"eth0\" was deleted", "ERROR", "failed: interface \"eth0\" was deleted"),
        ("down: it was set down", "DOWN", "down: it was set down"),
        ("up", "ACTIVE", ""),
    ] {
        switch.report(reported).await;
        let is_reported = |port: &v1::PortStatus| port.interface == "weft1" && port.state == reported;
        cloud.until("one", reported, |host| host.ports.iter().any(is_reported)).await;
        let web = cloud.ports().await.remove(0);
        assert_eq!((web.status.as_str(), web.fault.as_str()), (status, fault));
    }
}
