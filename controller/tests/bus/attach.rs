//! Who is let in to the bus.

use super::fake_switch::FakeSwitch;
use super::{Running, complete};
use std::time::Duration;

#[tokio::test]
async fn an_unknown_host_is_told_how_to_become_one() {
    let running = Running::start().await;
    let fault = FakeSwitch::new("one", 1).connect(running.channel().await).ended().await;
    complete(&fault);
    assert_eq!(fault.code, "unknown_host");
    assert!(fault.remedy.contains("weft host create one"), "{fault}");
}

#[tokio::test]
async fn another_protocol_is_refused_naming_both_versions() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let mut switch = FakeSwitch::new("one", 1);
    switch.protocol += 1;
    let fault = switch.connect(running.channel().await).ended().await;
    complete(&fault);
    assert_eq!(fault.code, "protocol_mismatch");
    assert!(fault.problem.contains("0.0.1 (fake)") && fault.problem.contains(weft_proto::VERSION), "{fault}");
    assert!(cloud.hosts().await[0].fault.contains("speaks protocol"));
    assert!(!cloud.hosts().await[0].connected);
}

#[tokio::test]
async fn a_second_switch_is_refused_while_the_first_lives() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let first = FakeSwitch::new("one", 1);
    let stream = first.connect(running.channel().await);
    first.until("the first bundle", |held| held.generation == 1).await;
    let mut second = FakeSwitch::new("one", 2);
    second.boot_id = 99;
    let fault = second.connect(running.channel().await).ended().await;
    complete(&fault);
    assert_eq!(fault.code, "host_connected");
    assert!(stream.open() && first.held().bundles.len() == 1 && second.held().bundles.is_empty());
    // The healthy host has no fault: it is a note beside it, which expires.
    let host = cloud.hosts().await.remove(0);
    assert!(host.connected && host.fault.is_empty(), "{host:?}");
    assert!(host.note.contains("called itself \"one\" was refused") && host.note.contains(&fault.problem), "{host:?}");
    assert_eq!(cloud.status().await.notes, [host.note]);
    // Nor does one of another protocol stain it.
    second.protocol += 1;
    assert_eq!(second.connect(running.channel().await).ended().await.code, "protocol_mismatch");
    let host = cloud.hosts().await.remove(0);
    assert!(host.fault.is_empty() && host.note.contains("speaks protocol"), "{host:?}");
}

#[tokio::test]
async fn a_stream_that_shows_no_life_makes_way() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let dead = FakeSwitch::new("one", 1);
    let stream = dead.connect(running.channel().await);
    dead.until("the first bundle", |held| held.generation == 1).await;
    dead.held().mute = true;
    // The host has booted again: another boot, and nothing held.
    let mut born = FakeSwitch::new("one", 1);
    born.boot_id = 99;
    let living = born.connect(running.channel().await);
    born.until("the whole state", |held| held.generation > 0).await;
    assert_eq!(stream.ended().await.code, "replaced");
    assert!(living.open());
}

#[tokio::test]
async fn the_same_switch_takes_its_own_place_at_once() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let switch = FakeSwitch::new("one", 1);
    let old = switch.connect(running.channel().await);
    switch.until("the first bundle", |held| held.generation == 1).await;
    let began = std::time::Instant::now();
    let new = switch.connect(running.channel().await);
    switch.until("a second welcome", |held| held.welcomes.len() == 2).await;
    assert_eq!(old.ended().await.code, "replaced");
    // It did not have to wait for the old one to show no life.
    assert!(began.elapsed() < Duration::from_secs(2) && new.open());
}

#[tokio::test]
async fn two_hosts_cannot_be_at_one_address() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    cloud.host("two").await;
    let one = FakeSwitch::new("one", 1);
    let _stream = one.connect(running.channel().await);
    one.until("the first bundle", |held| held.generation == 1).await;
    let fault = FakeSwitch::new("two", 1).connect(running.channel().await).ended().await;
    complete(&fault);
    assert_eq!(fault.code, "underlay_address_taken");
}

#[tokio::test]
async fn a_switch_that_has_followed_a_later_term_is_not_misled() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let switch = FakeSwitch::new("one", 1);
    switch.held().term = 40;
    switch.held().generation = 7;
    let fault = switch.connect(running.channel().await).ended().await;
    complete(&fault);
    assert_eq!(fault.code, "newer_term");
    assert!(cloud.hosts().await[0].fault.contains("term 40"));
    // The store goes on working, and the restart that the remedy asks for helps.
    cloud.host("two").await;
    let running = running.restart().await;
    let _stream = switch.connect(running.channel().await);
    switch.until("a bundle of a later term", |held| held.term == 41).await;
}

#[tokio::test]
async fn a_deleted_host_is_sent_away() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(running.channel().await);
    switch.until("the first bundle", |held| held.generation == 1).await;
    cloud.0.delete_host(weft_proto::v1::DeleteRequest { id: "one".into(), project: String::new() }).await.unwrap();
    assert_eq!(stream.ended().await.code, "unknown_host");
    assert!(cloud.hosts().await.is_empty());
}
