//! Reactive networks on the bus: what a switch asks for, what it is told, and when.

use super::Running;
use super::fake_switch::{FakeSwitch, Held};
use std::time::{Duration, Instant};
use weft_proto::v1;

/// The rules that deliver to a MAC address through the tunnel, or answer ARP with it.
fn about(held: &Held, mac: &[u8]) -> usize {
    let delivers = |rule: &v1::Rule| {
        let to = rule.r#match.iter().any(|field| field.field() == v1::Field::EthDst && field.value == mac);
        to && rule.table == weft_controller::compile::pipeline::DELIVER
    };
    let answers = |rule: &v1::Rule| {
        rule.instructions
            .iter()
            .flat_map(|instructions| &instructions.apply_actions)
            .any(|action| matches!(&action.action, Some(v1::action::Action::ArpReply(reply)) if reply.mac == mac))
    };
    held.rules.values().filter(|rule| delivers(rule) || answers(rule)).count()
}

fn mac(port: &v1::Port) -> Vec<u8> {
    port.mac_address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn address(port: &v1::Port) -> [u8; 4] {
    port.fixed_ips[0].ip_address.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

#[tokio::test]
async fn what_a_host_asks_for_it_is_told_and_kept_informed_of() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.wide_network("green", true).await;
    let mut switches = Vec::new();
    let mut streams = Vec::new();
    for (host, last) in [("one", 1), ("two", 2), ("three", 3)] {
        cloud.host(host).await;
        let switch = FakeSwitch::new(host, last);
        streams.push(switch.connect(running.channel().await));
        switches.push(switch);
    }
    cloud.port("green", "a").await;
    cloud.port("green", "b").await;
    let a = cloud.plug("a", "one", 10_000).await;
    let b = cloud.plug("b", "two", 10_000).await;
    let one = &switches[0];
    one.until("the second host's coming", |held| held.generation >= 3).await;
    assert_eq!(about(&one.held(), &mac(&b)), 0, "nothing is told before it is asked for");

    // By address and by MAC; what nobody has is said so at once.
    one.ask(a.number, &[&address(&b), &[10, 0, 3, 99]]).await;
    one.until("two answers", |held| held.reached.len() == 2).await;
    {
        let held = one.held();
        let targets = |all: &[v1::Destination]| all.iter().map(|one| one.target.clone()).collect::<Vec<_>>();
        assert_eq!(
            (targets(&held.reached[0].known), targets(&held.reached[0].unknown)),
            (vec![], vec![vec![10, 0, 3, 99]])
        );
        assert_eq!(
            (targets(&held.reached[1].known), targets(&held.reached[1].unknown)),
            (vec![address(&b).to_vec()], vec![])
        );
        assert_eq!(
            held.reached[1].known[0],
            v1::Destination { in_port: a.number, cookie: 9, target: address(&b).to_vec() }
        );
        // The rules were there before the answer: delivery, and its ARP.
        assert_eq!(about(&held, &mac(&b)), 2);
    }
    let generation = one.held().generation;
    one.ask(a.number, &[&mac(&b)]).await;
    one.until("an answer to what it has", |held| held.reached.len() == 3).await;
    assert_eq!(one.held().generation, generation, "there was nothing to tell");
    assert_eq!(about(&switches[2].held(), &mac(&b)), 0, "who does not ask is not told");

    // It moves, and the host follows; it is unplugged, and forgotten.
    cloud.unplug("b", 10_000).await;
    one.until("the port's going", |held| about(held, &mac(&b)) == 0).await;
    one.ask(a.number, &[&mac(&b)]).await;
    one.until("a refusal", |held| held.reached.len() == 4 && held.reached[3].unknown.len() == 1).await;
    let moved = cloud.plug("b", "three", 10_000).await;
    assert_eq!(about(&one.held(), &mac(&b)), 0);
    one.ask(a.number, &[&mac(&moved)]).await;
    one.until("the port at its place", |held| held.reached.len() == 5 && about(held, &mac(&b)) == 2).await;
    let towards = |held: &Held| {
        let rule = held.rules.values().find(|rule| rule.r#match.iter().any(|field| field.value == mac(&b))).cloned();
        format!("{:?}", rule.expect("the rule that delivers"))
    };
    assert!(towards(&one.held()).contains("10, 9, 0, 3"), "{}", towards(&one.held()));
}

#[tokio::test]
async fn a_controller_that_starts_anew_leaves_what_was_asked_for() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.wide_network("green", true).await;
    let (one, two) = (FakeSwitch::new("one", 1), FakeSwitch::new("two", 2));
    cloud.host("one").await;
    cloud.host("two").await;
    let streams = [one.connect(running.channel().await), two.connect(running.channel().await)];
    for name in ["a", "b", "c"] {
        cloud.port("green", name).await;
    }
    let a = cloud.plug("a", "one", 10_000).await;
    let (b, c) = (cloud.plug("b", "two", 10_000).await, cloud.plug("c", "two", 10_000).await);
    one.ask(a.number, &[&address(&b)]).await;
    one.until("the answer", |held| held.reached.len() == 1).await;
    let rules = one.held().rules.len();
    let bundles = one.held().bundles.len();
    let running = running.restart().await;
    for stream in streams {
        stream.ended().await;
    }
    let _stream = one.connect(running.channel().await);
    one.until("a bundle of the next term", |held| held.term == 2).await;
    let held = one.held();
    assert_eq!((held.compares, held.bundles.len()), (1, bundles + 1));
    assert!(held.bundles[bundles].remove_rules.is_empty() && held.bundles[bundles].add_rules.is_empty());
    assert_eq!((held.rules.len(), about(&held, &mac(&b)), about(&held, &mac(&c))), (rules, 2, 0));
}

#[tokio::test]
async fn while_bundles_are_refused_nothing_is_said_to_be_known() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.wide_network("green", true).await;
    let (one, two) = (FakeSwitch::new("one", 1), FakeSwitch::new("two", 2));
    cloud.host("one").await;
    cloud.host("two").await;
    let _streams = [one.connect(running.channel().await), two.connect(running.channel().await)];
    cloud.port("green", "a").await;
    cloud.port("green", "b").await;
    let a = cloud.plug("a", "one", 10_000).await;
    let b = cloud.plug("b", "two", 10_000).await;
    one.until("the second host's coming", |held| held.generation >= 3).await;
    one.held().refuse = Some(weft_proto::fault::Fault::invalid("full", "", "no room", "Make some.").to_message());
    let bundles = one.held().bundles.len();
    one.ask(a.number, &[&address(&b)]).await;
    one.until("a bundle", |held| held.bundles.len() > bundles).await;
    cloud.until("one", "the refusal", |host| host.fault.contains("no room")).await;
    assert!(one.held().reached.is_empty());
    one.held().refuse = None;
    one.until("the rules", |held| about(held, &mac(&b)) == 2).await;
    // The frames that waited are gone: it asks again when others come.
    one.ask(a.number, &[&address(&b)]).await;
    one.until("the answer", |held| held.reached.len() == 1).await;
}

/// The cost of knowing everything and of asking, in three networks on three hosts. The figures of docs/performance.md
/// come of 222 ports of each network on each host: WEFT_PORTS=222, alone, with `--nocapture`.
#[tokio::test]
async fn many_peers_on_three_hosts() {
    let ports: usize = std::env::var("WEFT_PORTS").map_or(20, |count| count.parse().expect("WEFT_PORTS is a number"));
    let mut rules = Vec::new();
    for reactive in [false, true] {
        let running = Running::start().await;
        let mut cloud = running.cloud().await;
        let mut hosts = Vec::new();
        for (name, last) in [("one", 1), ("two", 2), ("three", 3)] {
            cloud.host(name).await;
            let switch = FakeSwitch::new(name, last);
            let stream = switch.connect(running.channel().await);
            switch.until("the first bundle", |held| held.generation > 0).await;
            // What is plugged while nobody listens travels at once when somebody does.
            stream.cut().await;
            hosts.push(switch);
        }
        let mut here = None;
        let mut peers = Vec::new();
        for network in ["red", "green", "blue"] {
            cloud.wide_network(network, reactive).await;
            for host in &hosts {
                for number in 0..ports {
                    let name = format!("{network}-{}-{number}", host.host);
                    cloud.port(network, &name).await;
                    let port = cloud.plug(&name, &host.host, 0).await;
                    if network == "red" && host.host == "one" {
                        here = Some(port);
                    } else if network == "red" {
                        peers.push(port);
                    }
                }
            }
        }
        let one = &hosts[0];
        let began = Instant::now();
        let _stream = one.connect(running.channel().await);
        one.until("all of it", |held| held.ports.len() > 3 * ports).await;
        let held = one.held().rules.len();
        println!("reactive: {reactive}; {held} rules, {:?} to connect", began.elapsed());
        rules.push(held);
        if !reactive {
            continue;
        }
        let here = here.unwrap();
        // One after another, each as the first packet to a destination would ask for it.
        let some = ports / 2;
        let mut waits = Vec::new();
        for peer in &peers[..some] {
            let before = one.held().reached.len();
            let asked = Instant::now();
            one.ask(here.number, &[&address(peer)]).await;
            while one.held().reached.len() == before {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            waits.push(asked.elapsed());
        }
        waits.sort();
        println!("one asked for: {:?} median, {:?} at most", waits[some / 2], waits[some - 1]);
        // All others at once.
        let asked = Instant::now();
        let targets: Vec<[u8; 4]> = peers[some..].iter().map(address).collect();
        let targets: Vec<&[u8]> = targets.iter().map(<[u8; 4]>::as_slice).collect();
        for some in targets.chunks(256) {
            one.ask(here.number, some).await;
        }
        let known = |held: &Held| held.reached.iter().map(|reached| reached.known.len()).sum::<usize>();
        one.until("all answers", |held| known(held) == peers.len()).await;
        let per_second = targets.len() as f64 / asked.elapsed().as_secs_f64();
        println!("{} asked for at once: {:?}, {per_second:.0} a second", targets.len(), asked.elapsed());
        assert_eq!(one.held().rules.len(), held + 2 * peers.len());
    }
    // Two rules for each port elsewhere, less what asks.
    assert!(rules[0] - rules[1] > 2 * 6 * ports - 20, "{rules:?}");
}
