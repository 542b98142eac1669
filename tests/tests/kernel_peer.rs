//! The kernel's own VXLAN as the other host, at the MTUs that an AF_XDP port takes, and large frames between TAPs.
//!
//! GRE's peer is Open vSwitch (`segments.rs`): not every kernel that the tests run on has GRE.

use std::time::{Duration, Instant};
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::traffic::{fetches, iperf, is_refused, number_before, pings, sends};
use weft_tests::{serial, weft};
use weft_up::namespace::{ip, run_inside};

const UNDERLAY: u32 = 10;
const TUNNEL: u32 = 11;

/// An instance, 10.0.0.1, at a switch; the kernel at the other end, 10.0.0.2.
struct Place {
    instance: String,
    peer: String,
    switch: Switch,
    bench: Bench,
}

/// With so many bytes on the underlay.
fn place(mtu: u32) -> Place {
    let mut bench = Bench::new();
    let [host, peer] = bench.two_hosts();
    for namespace in [&host, &peer] {
        ip(&format!("-n {namespace} link set eth0 mtu {mtu}")).expect("veth pairs take it");
    }
    let instance = bench.namespace("vm");
    let switch = bench.switch("host", &host);
    let inner = mtu - 50;
    switch.add_port(1, &format!("tap:eth0,netns={instance},mtu={inner}"));
    switch.add_port(UNDERLAY, "af_xdp:eth0");
    switch.add_port(TUNNEL, "vxlan");
    switch.add_flows(&[
        "in_port=1,actions=set_field:100->tun_id,set_field:10.99.0.2->tun_dst,output:11",
        "in_port=11,tun_id=100,actions=output:1",
    ]);
    address(&instance, "10.0.0.1/24");
    let tunnel = "vxlan id 100 local 10.99.0.2 remote 10.99.0.1 dstport 4789 dev eth0";
    ip(&format!("-n {peer} link add vxlan0 mtu {inner} type {tunnel}")).expect("the kernel has VXLAN");
    ip(&format!("-n {peer} addr add 10.0.0.2/24 dev vxlan0")).expect("it is there");
    ip(&format!("-n {peer} link set vxlan0 up")).expect("it is there");
    Place { instance, peer, switch, bench }
}

#[test]
fn the_kernels_vxlan_is_a_peer_on_underlays_of_1500_3000_and_9000_bytes() {
    let _turn = serial();
    for mtu in [1500, 3000, 9000] {
        let Place { instance, peer, switch, mut bench } = place(mtu);
        let whole = format!("-M do -s {}", mtu - 50 - 28);
        pings(&instance, "10.0.0.2", &whole);
        pings(&peer, "10.0.0.1", &whole);
        pings(&peer, "10.0.0.1", "-s 8000");
        sends(&instance, &peer, "10.0.0.2");
        sends(&peer, &instance, "10.0.0.1");
        fetches(&instance, &peer, "10.0.0.2");
        fetches(&peer, &instance, "10.0.0.1");
        is_refused(&instance, "10.0.0.2");
        is_refused(&peer, "10.0.0.1");
        for options in ["--time 2", "--time 2 --reverse"] {
            let tcp = iperf(&mut bench, &instance, &peer, "10.0.0.2", options);
            println!("TCP to the kernel's VXLAN, MTU {mtu}, {options}: {tcp}");
            assert!(number_before(&tcp, "Mbits/sec") > 10.0, "{tcp}");
        }
        // As many bytes a datagram as fit: 20 Mbit/s are nothing to lose.
        let udp = format!("--udp --bitrate 20M --length {} --time 2", mtu - 50 - 28);
        for direction in ["", " --reverse"] {
            let line = iperf(&mut bench, &instance, &peer, "10.0.0.2", &format!("{udp}{direction}"));
            println!("UDP, MTU {mtu}{direction}: {line}");
            assert!(number_before(&line, "Mbits/sec") > 18.0, "{line}");
        }
        let tunnel = switch.port(TUNNEL);
        assert!(tunnel.sent_packets > 1000 && tunnel.received_packets > 1000, "{tunnel:?}");
        // Another network's packets are not ours.
        ip(&format!("-n {peer} link del vxlan0")).expect("it is there");
        ip(&format!("-n {peer} link add vxlan0 type vxlan id 101 remote 10.99.0.1 dstport 4789 dev eth0"))
            .expect("it is new");
        ip(&format!("-n {peer} addr add 10.0.0.2/24 dev vxlan0")).expect("it is there");
        ip(&format!("-n {peer} link set vxlan0 up")).expect("it is there");
        assert!(run_inside(&peer, "ping -n -c 1 -W 1 10.0.0.1").is_err());
        assert!(switch.drops_of(TUNNEL).contains_key("table_miss"), "{:?}", switch.drops_of(TUNNEL));
    }
}

#[test]
fn an_idle_switch_uses_under_one_percent_of_a_core() {
    let _turn = serial();
    // The bench, and with it the namespaces, goes at the end.
    let Place { instance, switch, bench: _bench, peer: _peer } = place(1500);
    pings(&instance, "10.0.0.2", "");
    let process = switch.program.id();
    let used = || -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
        let on_cpu = |thread: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        threads.filter_map(on_cpu).sum()
    };
    // What the pings set going has come to an end.
    std::thread::sleep(Duration::from_secs(2));
    let (before, began) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let share = (used() - before) as f64 / began.elapsed().as_nanos() as f64;
    println!("an idle switch of two workers uses {:.3} % of a core", share * 100.0);
    assert!(share < 0.01, "{share}");
}

#[test]
fn frames_of_9000_bytes_pass_between_taps_and_an_underlay_of_more_is_refused() {
    let _turn = serial();
    let mut bench = Bench::new();
    let [host, _other] = bench.two_hosts();
    let instances = [bench.namespace("vm1"), bench.namespace("vm2")];
    let switch = bench.switch("host", &host);
    for (number, instance) in [(1, &instances[0]), (2, &instances[1])] {
        switch.add_port(number, &format!("tap:eth0,netns={instance},mtu=9000"));
        address(instance, &format!("10.0.0.{number}/24"));
    }
    switch.add_flows(&["in_port=1,actions=output:2", "in_port=2,actions=output:1"]);
    let [one, two] = &instances;
    pings(one, "10.0.0.2", "-M do -s 8972");
    sends(one, two, "10.0.0.2");
    let udp = iperf(&mut bench, one, two, "10.0.0.2", "--udp --bitrate 50M --length 8972 --time 2");
    println!("UDP of 9000 bytes between TAPs: {udp}");
    assert!(number_before(&udp, "Mbits/sec") > 45.0, "{udp}");
    let drops = switch.drops_of(1);
    assert!(drops.is_empty(), "{drops:?}");
    // An AF_XDP frame is three pages at most.
    ip(&format!("-n {host} link set eth0 mtu 9601")).expect("veth pairs take it");
    weft(&["ports", "add", &switch.host, "10", "af_xdp:eth0"]).refused(&["9601", "9600"]);
}
