//! `/metrics` of both servers, as curl gets it.

use std::time::Duration;
use weft_tests::bench::{Bench, address};
use weft_tests::serial;
use weft_tests::traffic::pings;
use weft_up::namespace::run_inside;

const LISTEN: &str = "metrics_listen = \"127.0.0.1:9463\"\n";

fn value(page: &str, sample: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} is not there: {page}")).parse().expect("a number")
}

#[test]
fn a_switch_counts_for_prometheus() {
    let _turn = serial();
    let mut bench = Bench::new();
    let (host, one, two) = (bench.namespace("host"), bench.namespace("one"), bench.namespace("two"));
    run_inside(&host, "ip link set lo up").expect("every namespace has one");
    let switch = bench.switch_with("counting", &host, LISTEN, "");
    switch.add_port(1, &format!("tap:eth0,netns={one}"));
    switch.add_port(2, &format!("tap:eth0,netns={two}"));
    switch.add_flows(&[
        "in_port=1,actions=output:2",
        "in_port=2,actions=output:1",
        "priority=50000,udp,actions=drop(policy)",
    ]);
    address(&one, "10.0.0.1/24");
    address(&two, "10.0.0.2/24");
    pings(&one, "10.0.0.2", "");
    let page = || run_inside(&host, "curl -sf http://127.0.0.1:9463/metrics").expect("curl is installed");
    let (before, received) = (page(), "weft_port_received_packets_total{port=\"1\",name=\"port1\",interface=\"eth0\"}");
    assert!(value(&before, received) >= 6.0, "{before}");
    assert_eq!(value(&before, "weft_switch_rules"), 3.0);
    assert_eq!(value(&before, "weft_drops_total{reason=\"policy\"}"), 0.0);
    assert!(value(&before, "weft_worker_packets_total{worker=\"0\"}") > 0.0, "{before}");
    assert!(
        value(&before, "weft_api_calls_total{method=\"weft.v1.Switch/ApplyBundle\",code=\"Ok\"}") >= 1.0,
        "{before}"
    );
    // What has happened since is in the next page.
    let socket = weft_up::namespace::inside(&one, || Ok(std::net::UdpSocket::bind("10.0.0.1:7")?)).expect("it is free");
    for _ in 0..5 {
        let _sent = socket.send_to(b"x", "10.0.0.2:7").expect("it is sent");
    }
    weft_tests::eventually("five drops", Duration::from_secs(5), || {
        (value(&page(), "weft_drops_total{reason=\"policy\"}") >= 5.0).then_some(())
    });
    // Every sample has its type, as the format asks.
    for line in before.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("split gives one");
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(before.contains(&format!("# TYPE {name} ")), "{line}");
    }
}
