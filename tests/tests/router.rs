//! A router in hand-written rules between two networks, as the kernels on both sides see it: hops, MTU, fragments.

use rand_order::shuffled;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::{eventually, serial};
use weft_up::capture::packet_socket;
use weft_up::frame::{self, End};
use weft_up::namespace::{self, ip};

const RED: End = End { mac: [2, 0, 0, 0, 1, 2], address: std::net::Ipv4Addr::new(10, 0, 1, 2) };
const BLUE: End = End { mac: [2, 0, 0, 0, 2, 2], address: std::net::Ipv4Addr::new(10, 0, 2, 2) };
const ROUTER: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// Ports 1 (red) and 2 (blue); what goes to blue meets an MTU of 1400.
const RULES: &[&str] = &[
    "priority=100,arp,arp_op=1,arp_tpa=10.0.1.1,actions=arp_reply:02:00:00:00:01:01",
    "priority=100,arp,arp_op=1,arp_tpa=10.0.2.1,actions=arp_reply:02:00:00:00:02:01",
    "priority=90,ip,actions=ct(zone=1),goto_table:10",
    "table=10,priority=90,icmp,icmp_type=8,ip_dst=10.0.1.1,actions=icmp_reply",
    "table=10,priority=60,in_port=1,udp,udp_dst=9,actions=drop(policy)",
    "table=10,priority=50,in_port=1,ip,ip_dst=10.0.2.2,actions=ct(commit,zone=1),dec_ttl(answer=10.0.1.1),\
     check_mtu(1400,answer=10.0.1.1,fragment),set_field:02:00:00:00:02:01->eth_src,\
     set_field:02:00:00:00:02:02->eth_dst,output:2",
    "table=10,priority=50,in_port=2,ip,ct_state=+est,actions=dec_ttl(answer=10.0.2.1),\
     set_field:02:00:00:00:01:01->eth_src,set_field:02:00:00:00:01:02->eth_dst,output:1",
    "table=10,priority=1,ip,actions=drop(policy)",
];

struct Routed {
    red: String,
    blue: String,
    switch: Switch,
    // Last, so that it is removed last.
    _bench: Bench,
}

fn routed() -> Routed {
    let mut bench = Bench::new();
    let (host, red, blue) = (bench.namespace("host"), bench.namespace("red"), bench.namespace("blue"));
    let switch = bench.switch("router", &host);
    switch.add_port(1, &format!("tap:eth0,netns={red},mac=02:00:00:00:01:02"));
    switch.add_port(2, &format!("tap:eth0,netns={blue},mac=02:00:00:00:02:02"));
    switch.add_flows(RULES);
    for (namespace, network) in [(&red, 1), (&blue, 2)] {
        address(namespace, &format!("10.0.{network}.2/24"));
        ip(&format!("-n {namespace} route add default via 10.0.{network}.1")).expect("the network is there");
    }
    Routed { red, blue, switch, _bench: bench }
}

/// What ping prints, answered or not.
fn ping(namespace: &str, options: &str) -> String {
    let arguments = format!("netns exec {namespace} ping -n -c 1 -W 1 {options}");
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_sender_learns_hops_and_the_mtu() {
    let _turn = serial();
    let routed = routed();
    for target in ["10.0.1.1", "10.0.2.2"] {
        for size in [56, 1372, 4000, 20_000] {
            let printed = ping(&routed.red, &format!("-s {size} {target}"));
            assert!(printed.contains("1 received"), "{size} bytes to {target}: {printed}");
        }
    }
    let drops = routed.switch.drops_of(1);
    assert!(drops.is_empty(), "{drops:?}");
    // The kernel takes it from who it is: its checksums and what it quotes are right.
    for (options, expected) in [
        ("-t 1 10.0.2.2", "From 10.0.1.1 icmp_seq=1 Time to live exceeded"),
        ("-M do -s 1373 10.0.2.2", "From 10.0.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)"),
    ] {
        let printed = ping(&routed.red, options);
        assert!(printed.contains(expected), "{options}: {printed}");
    }
    let route = ip(&format!("-n {} route get 10.0.2.2", routed.red)).expect("there is a route");
    assert!(route.contains("mtu 1400"), "{route}");
    let printed = ping(&routed.red, "-M do -s 1372 10.0.2.2");
    assert!(printed.contains("1 received"), "{printed}");
    let drops = routed.switch.drops_of(1);
    assert_eq!((drops.get("ttl_expired"), drops.get("too_big")), (Some(&1), Some(&1)), "{drops:?}");
}

#[test]
fn tcp_adapts_to_the_mtu_though_its_segments_are_large() {
    let _turn = serial();
    let routed = routed();
    let blue = namespace::start(&routed.blue, || {
        let listener = std::net::TcpListener::bind("10.0.2.2:9000")?;
        let mut received = Vec::new();
        std::io::Read::read_to_end(&mut listener.accept()?.0, &mut received)?;
        Ok(received.len())
    })
    .expect("the namespace is there");
    let sent = namespace::inside(&routed.red, || {
        let mut stream = None;
        for _ in 0..100 {
            stream = std::net::TcpStream::connect("10.0.2.2:9000").ok();
            if stream.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let data = vec![7; 8 << 20];
        std::io::Write::write_all(&mut stream.expect("blue listens"), &data)?;
        Ok(data.len())
    });
    let sent = sent.expect("it is sent");
    assert_eq!(namespace::finish(blue).expect("it is received"), sent);
    let drops = routed.switch.drops_of(1);
    assert!(drops.get("too_big").is_some_and(|count| *count >= 1), "told at least once: {drops:?}");
}

/// A UDP datagram of so many bytes from red to blue, in eight fragments as red would send them to the router.
fn fragments(identification: u16, port: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    let whole = frame::udp(RED, End { mac: ROUTER, ..BLUE }, (5000, port), payload);
    let (header, datagram) = (&whole[..34], &whole[34..]);
    let share = (datagram.len().div_ceil(8)).next_multiple_of(8);
    let count = datagram.len().div_ceil(share);
    let fragment = |(index, part): (usize, &[u8])| {
        let mut bytes = [header, part].concat();
        bytes[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        bytes[18..20].copy_from_slice(&identification.to_be_bytes());
        let more = if index + 1 < count { 0x2000 } else { 0 };
        bytes[20..22].copy_from_slice(&(more | (index * share / 8) as u16).to_be_bytes());
        bytes[24..26].fill(0);
        let sum = frame::checksum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    datagram.chunks(share).enumerate().map(fragment).collect()
}

#[test]
fn a_datagram_of_eight_fragments_arrives_in_any_order() {
    let _turn = serial();
    let routed = routed();
    let socket = namespace::inside(&routed.blue, || Ok(UdpSocket::bind("10.0.2.2:53")?)).expect("the port is free");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    let sender = packet_socket(&routed.red, "eth0").expect("eth0 is there");
    let mut buffer = [0; 2000];
    for round in 0..50_u16 {
        let payload: Vec<u8> = (0..1100_u16).map(|index| (index ^ round) as u8).collect();
        let all = fragments(round, 53, &payload);
        assert_eq!(all.len(), 8);
        for index in shuffled(all.len(), round.into()) {
            sender.send(&all[index]).expect("it can be sent");
        }
        let (length, from) = socket.recv_from(&mut buffer).expect("the datagram arrives");
        assert_eq!((&buffer[..length], from.to_string().as_str()), (&payload[..], "10.0.1.2:5000"));
        // To a port that a rule forbids: not one of them passes.
        let forbidden = fragments(round, 9, &payload);
        shuffled(8, round.into()).into_iter().for_each(|index| sender.send(&forbidden[index]).expect("it can be sent"));
    }
    eventually("all that is forbidden is dropped", Duration::from_secs(5), || {
        (routed.switch.drops_of(1).get("policy") == Some(&400)).then_some(())
    });
    let drops = routed.switch.drops_of(1);
    assert_eq!(drops.len(), 1, "{drops:?}");
}

/// An order that differs from seed to seed.
mod rand_order {
    /// The numbers below `count`, shuffled (Fisher and Yates; the numbers of a linear congruential generator).
    pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        for last in (1..count).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            all.swap(last, (state >> 33) as usize % (last + 1));
        }
        all
    }
}
