//! A switch without a controller, programmed as `docs/switch.md` says: two hosts over VXLAN, large segments between two
//! TAPs, the host's own traffic on the underlay, hostile frames, rules that are refused.

use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;
use weft_proto::v1;
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::traffic::{iperf, number_before};
use weft_tests::{eventually, serial, weft};
use weft_up::capture::{Capture, Direction, packet_socket};
use weft_up::check::remains::xdp_program;
use weft_up::frame::{self, End};
use weft_up::namespace::{self, run_inside};
use weft_up::record::ProcessIdentity;

/// Port numbers as `docs/switch.md` has them.
const TAP: u32 = 1;
const OTHER_TAP: u32 = 2;
const UNDERLAY: u32 = 10;
const TUNNEL: u32 = 11;

/// Two hosts with a switch each, and an instance each, joined by VXLAN 100 on rules made by hand.
struct TwoHosts {
    instances: [String; 2],
    switches: [Switch; 2],
    // Last, so that it is removed last.
    bench: Bench,
}

fn two_hosts() -> TwoHosts {
    let mut bench = Bench::new();
    let hosts = bench.two_hosts();
    let instances = [bench.namespace("vm1"), bench.namespace("vm2")];
    let switches = [bench.switch("host-a", &hosts[0]), bench.switch("host-b", &hosts[1])];
    for (index, switch) in switches.iter().enumerate() {
        let remote = ["10.99.0.2", "10.99.0.1"][index];
        switch.add_port(TAP, &format!("tap:eth0,netns={},mtu=1450", instances[index]));
        switch.add_port(UNDERLAY, "af_xdp:eth0");
        switch.add_port(TUNNEL, "vxlan");
        switch.add_flows(&[
            &format!("in_port={TAP},actions=set_field:100->tun_id,set_field:{remote}->tun_dst,output:{TUNNEL}"),
            &format!("in_port={TUNNEL},tun_id=100,actions=output:{TAP}"),
        ]);
        address(&instances[index], &format!("10.0.0.{}/24", index + 1));
    }
    TwoHosts { instances, switches, bench }
}

#[test]
fn two_hosts_ping_and_run_iperf3_over_vxlan() {
    let _turn = serial();
    let mut hosts = two_hosts();
    let [one, two] = hosts.instances.clone();
    // The first packet may wait for the underlay's neighbour.
    eventually("the first answer across hosts", Duration::from_secs(10), || {
        run_inside(&one, "ping -n -c 1 -W 1 10.0.0.2").ok()
    });
    let printed = run_inside(&one, "ping -n -c 10 -i 0.1 -W 1 10.0.0.2").expect("ping is answered");
    assert!(printed.contains("10 received"), "{printed}");
    // The largest packet that fits the instance's MTU of 1450, and none larger.
    let printed = run_inside(&one, "ping -n -c 3 -i 0.1 -W 1 -M do -s 1422 10.0.0.2").expect("ping is answered");
    assert!(printed.contains("3 received"), "{printed}");

    let tcp = iperf(&mut hosts.bench, &one, &two, "10.0.0.2", "--time 3");
    println!("TCP over VXLAN: {tcp}");
    assert!(number_before(&tcp, "Mbits/sec") > 10.0, "{tcp}");
    let back = iperf(&mut hosts.bench, &one, &two, "10.0.0.2", "--time 3 --reverse");
    println!("TCP over VXLAN, back: {back}");
    assert!(number_before(&back, "Mbits/sec") > 10.0, "{back}");
    let udp = iperf(&mut hosts.bench, &one, &two, "10.0.0.2", "--udp --bitrate 20M --length 1400 --time 3");
    println!("UDP over VXLAN: {udp}");
    // 20 Mbit/s are 1,800 packets a second: nothing to lose.
    assert!(number_before(&udp, "Mbits/sec") > 18.0, "{udp}");

    for switch in &hosts.switches {
        let port = switch.port(TUNNEL);
        assert!(port.received_packets > 1000 && port.sent_packets > 1000, "{port:?}");
    }
}

#[test]
fn a_meter_holds_traffic_to_its_rate() {
    let _turn = serial();
    let mut bench = Bench::new();
    let host = bench.namespace("host-a");
    let [one, two] = [bench.namespace("vm1"), bench.namespace("vm2")];
    // Of two workers, which share the rate.
    let switch = bench.switch("host-a", &host);
    switch.add_port(TAP, &format!("tap:eth0,netns={one}"));
    switch.add_port(OTHER_TAP, &format!("tap:eth0,netns={two}"));
    let socket = switch.host.as_str();
    let _ = weft(&["meters", "add", socket, "meter=1,kbps,rate=20000,burst_size=2000"]).success();
    switch.add_flows(&["in_port=1,actions=meter:1,output:2", "in_port=2,actions=output:1"]);
    address(&one, "10.0.0.1/24");
    address(&two, "10.0.0.2/24");
    let udp = iperf(&mut bench, &one, &two, "10.0.0.2", "--udp --bitrate 60M --length 1400 --time 5");
    println!("UDP of 60 Mbit/s by a meter of 20: {udp}");
    // 19.4 without the headers; a tenth may lie with the worker that has nothing to send, the first quarter of a
    // second with the wrong one.
    let passed = number_before(&udp, "Mbits/sec");
    assert!((15.0..21.0).contains(&passed), "{udp}");
    let tcp = iperf(&mut bench, &one, &two, "10.0.0.2", "--time 5");
    println!("TCP by it: {tcp}");
    assert!((2.0..21.0).contains(&number_before(&tcp, "Mbits/sec")), "{tcp}");
    assert!(switch.drops_of(TAP)["meter"] > 1000);
    println!("{}", weft(&["meters", "dump", socket]).success());
    weft(&["meters", "del", socket, "1"]).refused(&["named by 1 rule", "priority 32768"]);
    let _ = weft(&["flows", "del", socket, "--all"]).success();
    let _ = weft(&["meters", "del", socket, "1"]).success();
}

#[test]
fn large_segments_cross_between_two_taps_untouched() {
    let _turn = serial();
    let mut bench = Bench::new();
    let host = bench.namespace("host-a");
    let [one, two] = [bench.namespace("vm1"), bench.namespace("vm2")];
    let switch = bench.switch("host-a", &host);
    switch.add_port(TAP, &format!("tap:eth0,netns={one}"));
    switch.add_port(OTHER_TAP, &format!("tap:eth0,netns={two}"));
    switch.add_flows(&["in_port=1,actions=output:2", "in_port=2,actions=output:1"]);
    address(&one, "10.0.0.1/24");
    address(&two, "10.0.0.2/24");
    let line = iperf(&mut bench, &one, &two, "10.0.0.2", "--bytes 400M");
    println!("TCP between two TAPs: {line}");

    let (from, to) = (switch.port(TAP), switch.port(OTHER_TAP));
    assert!(from.received_bytes > 400_000_000, "{from:?}");
    let received = from.received_bytes / from.received_packets;
    let sent = to.sent_bytes / to.sent_packets;
    println!("bytes a frame: {received} received, {sent} sent");
    // A connection's first segments are small; 64 KB ones make the rest.
    assert!(received > 16_000, "segments came in at {received} bytes on average: {from:?}");
    assert!(sent > 16_000, "segments left at {sent} bytes on average: {to:?}");
    // Small ones that came in one batch may leave as one, of which each but the first loses its headers (Ethernet's, IPv4's,
    // TCP's with timestamps).
    let merged = from.received_packets.checked_sub(to.sent_packets).expect("all that leaves has come");
    assert!(merged < 100, "large ones are not merged: {from:?} {to:?}");
    assert_eq!(from.received_bytes - to.sent_bytes, merged * 66, "{from:?} {to:?}");
}

/// One line to the other end and back.
fn echo(stream: &mut TcpStream, what: &str) {
    let mut answer = [0; 5];
    let exchanged = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer));
    exchanged.unwrap_or_else(|error| panic!("the host's TCP session broke {what}: {error}"));
    assert_eq!(&answer, b"hello");
}

#[test]
fn the_hosts_own_tcp_session_survives_start_kill_and_stop() {
    let _turn = serial();
    let mut bench = Bench::new();
    let [one, two] = bench.two_hosts();
    let target: SocketAddrV4 = "10.99.0.2:2222".parse().expect("it is an address");
    let listener = namespace::inside(&two, move || Ok(TcpListener::bind(target)?)).expect("the port is free");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the other end connects");
        let mut block = [0; 64];
        while let Ok(count) = stream.read(&mut block)
            && count > 0
            && stream.write_all(&block[..count]).is_ok()
        {}
    });
    let mut session =
        namespace::inside(&one, move || Ok(TcpStream::connect(target)?)).expect("the hosts reach each other");
    session.set_read_timeout(Some(Duration::from_secs(5))).expect("it is more than zero");
    session.set_nodelay(true).expect("it is a TCP stream");
    echo(&mut session, "before there was a switch");

    for end in ["killed", "stopped"] {
        let mut switch = bench.switch(end, &one);
        switch.add_port(UNDERLAY, "af_xdp:eth0");
        switch.add_port(TUNNEL, "vxlan");
        for _ in 0..20 {
            echo(&mut session, "while the switch runs");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(xdp_program(&one, "eth0").is_some(), "the switch has no XDP program: this test shows nothing");
        let process = ProcessIdentity::of(switch.program.id()).expect("the switch runs");
        if end == "killed" {
            process.signal(Signal::KILL);
        } else {
            process.signal(Signal::TERM);
        }
        for _ in 0..20 {
            echo(&mut session, &format!("after the switch was {end}"));
            std::thread::sleep(Duration::from_millis(10));
        }
        eventually("the end of the XDP program", Duration::from_secs(5), || {
            xdp_program(&one, "eth0").is_none().then_some(())
        });
        switch.program.end();
    }
    drop(session);
    server.join().expect("the server does not panic");
}

/// A frame, and the reasons that it may be dropped for.
struct Hostile {
    what: &'static str,
    frame: Vec<u8>,
    reasons: &'static [&'static str],
}

/// Addresses of the instance that attacks, and of one that is not there.
fn ends() -> (End, End) {
    (
        End { mac: [2, 0, 0, 0, 0, 1], address: [10, 0, 0, 1].into() },
        End { mac: [2, 0, 0, 0, 0, 2], address: [10, 0, 0, 2].into() },
    )
}

fn with(mut frame: Vec<u8>, place: usize, value: u8) -> Vec<u8> {
    frame[place] = value;
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

/// What an instance can send that no kernel would. Offsets: 14 is the IPv4 header, 34 what follows it.
fn from_an_instance() -> Vec<Hostile> {
    let (from, to) = ends();
    let udp = || frame::udp(from, to, (1000, 2000), &[0x55; 64]);
    let tcp = |header: &[u8]| frame::ipv4(from, to, 6, header);
    let hostile = |what, frame, reasons| Hostile { what, frame, reasons };
    vec![
        hostile("an IPv4 header of 10 bytes", cut(udp(), 24), &["truncated"]),
        hostile("IP version 5 in an IPv4 frame", with(udp(), 14, 0x55), &["malformed"]),
        hostile("an IPv4 header length of 12", with(udp(), 14, 0x43), &["malformed"]),
        hostile("an IPv4 header length beyond the frame", cut(with(udp(), 14, 0x4f), 40), &["truncated", "malformed"]),
        hostile("a total length shorter than the header", with(with(udp(), 16, 0), 17, 10), &["malformed"]),
        hostile("a total length beyond the frame", with(udp(), 16, 0x40), &["malformed"]),
        hostile("a UDP header of 4 bytes", frame::ipv4(from, to, 17, &[0, 1, 0, 2]), &["truncated"]),
        hostile("a TCP header of 10 bytes", tcp(&[0; 10]), &["truncated"]),
        hostile("a TCP data offset of 8 bytes", tcp(&with(vec![0; 20], 12, 0x20)), &["malformed"]),
        hostile("a TCP data offset beyond the frame", tcp(&with(vec![0; 20], 12, 0xf0)), &["truncated", "malformed"]),
        hostile("an ARP of 12 bytes", cut(frame::arp_request(from, to.address), 26), &["truncated"]),
        hostile(
            "IPv6 of 20 bytes",
            [frame::ethernet(from.mac, to.mac, 0x86dd), vec![0x60; 20]].concat(),
            &["truncated"],
        ),
        hostile("a VLAN tag without content", frame::ethernet(from.mac, to.mac, 0x8100), &["truncated"]),
    ]
}

/// What a machine on the underlay can send to our VTEP.
fn from_the_underlay(host: End, switch: End) -> Vec<Hostile> {
    let inner = frame::udp(ends().1, ends().0, (1000, 2000), b"inner");
    let vxlan = |flags: u8, inner: &[u8]| {
        let payload = [&[flags, 0, 0, 0, 0, 0, 100, 0][..], inner].concat();
        frame::udp(host, switch, (50_000, 4789), &payload)
    };
    let hostile = |what, frame, reasons| Hostile { what, frame, reasons };
    vec![
        hostile("VXLAN without the I flag", vxlan(0, &inner), &["bad_tunnel"]),
        hostile(
            "a VXLAN header of 4 bytes",
            frame::udp(host, switch, (50_000, 4789), &[8, 0, 0, 0]),
            &["truncated", "bad_tunnel"],
        ),
        hostile("VXLAN around nothing", vxlan(8, &[]), &["truncated"]),
        hostile("VXLAN around half an Ethernet header", vxlan(8, &inner[..7]), &["truncated"]),
        hostile("VXLAN around half an IPv4 header", vxlan(8, &inner[..24]), &["truncated"]),
        hostile("VXLAN around IP version 5", vxlan(8, &with(inner.clone(), 14, 0x55)), &["malformed"]),
    ]
}

/// Sends each, one at a time, and looks under which reason it was counted.
fn try_each(switch: &Switch, port: u32, frames: Vec<Hostile>, send: impl Fn(&[u8])) {
    let mut wrong = Vec::new();
    for hostile in frames {
        let before = switch.drops_of(port);
        send(&hostile.frame);
        let mut counted = Vec::new();
        for _ in 0..100 {
            let after = switch.drops_of(port);
            counted = after
                .iter()
                .flat_map(|(reason, count)| {
                    let new = count - before.get(reason).copied().unwrap_or(0);
                    std::iter::repeat_n(reason.clone(), new as usize)
                })
                .collect();
            if !counted.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !matches!(&counted[..], [reason] if hostile.reasons.contains(&reason.as_str())) {
            wrong.push(format!(
                "{}: counted under {counted:?}, expected once under one of {:?}",
                hostile.what, hostile.reasons
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hostile_frames_are_counted_under_their_reasons_and_the_switch_lives() {
    let _turn = serial();
    let mut bench = Bench::new();
    let [one, two] = bench.two_hosts();
    let [attacker, victim] = [bench.namespace("vm1"), bench.namespace("vm2")];
    let mut switch = bench.switch("host-a", &one);
    switch.add_port(TAP, &format!("tap:eth0,netns={attacker},mac=02:00:00:00:00:01"));
    switch.add_port(OTHER_TAP, &format!("tap:eth0,netns={victim},mac=02:00:00:00:00:02"));
    switch.add_port(UNDERLAY, "af_xdp:eth0");
    switch.add_port(TUNNEL, "vxlan");
    switch.add_flows(&[
        "in_port=1,actions=output:2",
        "in_port=2,actions=output:1",
        "in_port=11,tun_id=100,actions=output:2",
    ]);
    address(&attacker, "10.0.0.1/24");
    address(&victim, "10.0.0.2/24");

    let socket = packet_socket(&attacker, "eth0").expect("the port made an interface");
    try_each(&switch, TAP, from_an_instance(), |frame| socket.send(frame).expect("the interface is up"));

    let mac = |namespace: &str| {
        let text = run_inside(namespace, "cat /sys/class/net/eth0/address").expect("the interface is there");
        frame::parse_mac(text.trim()).expect("an address is six bytes")
    };
    let host = End { mac: mac(&two), address: [10, 99, 0, 2].into() };
    let target = End { mac: mac(&one), address: [10, 99, 0, 1].into() };
    let underlay = packet_socket(&two, "eth0").expect("the cable is there");
    let frames = from_the_underlay(host, target);
    // A frame that is no tunnel packet is the underlay port's, one that is, the tunnel's: count both together.
    let mut wrong = Vec::new();
    for hostile in frames {
        let count = || -> u64 {
            let of = |port| switch.drops_of(port);
            [of(UNDERLAY), of(TUNNEL)]
                .iter()
                .flatten()
                .filter(|(reason, _)| hostile.reasons.contains(&reason.as_str()))
                .map(|(_, count)| count)
                .sum()
        };
        let before = count();
        underlay.send(&hostile.frame).expect("the cable is up");
        let seen = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            count() == before + 1
        });
        if !seen {
            wrong.push(format!("{}: not counted under {:?}", hostile.what, hostile.reasons));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Noise, with an Ethernet type that makes the parser look further in most of them.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for number in 0..3000_usize {
        let length = 14 + (random() % 200) as usize;
        let mut noise: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        noise[..6].copy_from_slice(&ends().1.mac);
        let kinds: [u16; 5] = [0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8];
        noise[12..14].copy_from_slice(&kinds[number % kinds.len()].to_be_bytes());
        if number % kinds.len() == 0 && length > 24 {
            noise[14] = 0x45;
            noise[23] = [1, 6, 17, 132][number / 5 % 4];
        }
        socket.send(&noise).expect("the interface is up");
        let payload: Vec<u8> = [&[8, 0, 0, 0, 0, 0, 100, 0][..], &noise].concat();
        underlay.send(&frame::udp(host, target, (50_000, 4789), &payload)).expect("the cable is up");
        // A TAP queues 500 frames, then the kernel drops.
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    // Every frame that came in by the TAP or the tunnel has left by the other TAP or was counted.
    let mut books = String::new();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(20));
        let (from, tunnel, to) = (switch.port(TAP), switch.port(TUNNEL), switch.port(OTHER_TAP));
        let drops = [TAP, TUNNEL].map(|port| switch.drops_of(port));
        let dropped: u64 = drops.iter().flat_map(|drops| drops.values()).sum();
        if from.received_packets >= 3000 && from.received_packets + tunnel.received_packets == dropped + to.sent_packets
        {
            books.clear();
            break;
        }
        books = format!(
            "{} + {} came in, {} left, drops {drops:?}, of the underlay {:?}",
            from.received_packets,
            tunnel.received_packets,
            to.sent_packets,
            switch.drops_of(UNDERLAY)
        );
    }
    assert_eq!(books, "", "the books do not balance");

    assert!(switch.program.ended().is_none(), "the switch ended: {:?}", switch.program.obituary());
    let marker = b"after all that noise";
    let capture = Capture::start(&victim, "eth0", Direction::Arriving, marker).expect("the port made an interface");
    let (from, to) = ends();
    socket.send(&frame::udp(from, to, (1000, 2000), marker)).expect("the interface is up");
    assert_eq!(capture.wait_for(1, Duration::from_secs(3)), 1, "an ordinary frame does not pass any more");
}

/// The rules of a switch, as a person sees them, without counters.
fn rules(switch: &Switch) -> Vec<String> {
    let printed = weft(&["flows", "dump", &switch.host]).success();
    let of_line = |line: &str| line.find("priority=").map(|place| line[place..].to_owned());
    printed.lines().filter_map(of_line).collect()
}

#[test]
fn wrong_rules_are_refused_whole() {
    let _turn = serial();
    let mut bench = Bench::new();
    let host = bench.namespace("host-a");
    let switch = bench.switch("host-a", &host);
    switch.add_flows(&["table=3,priority=7,in_port=1,actions=output:2"]);
    let before = rules(&switch);
    assert_eq!(before.len(), 1, "{before:?}");
    let socket = switch.host.as_str();

    // By the text.
    weft(&["flows", "add", socket, "in_prot=1,actions=output:2"]).refused(&["in_prot", "in_port"]);
    weft(&["flows", "add", socket, "tcp_dst=80,actions=output:2"]).refused(&["tcp"]);
    weft(&["flows", "add", socket, "in_port=1,actions=fly:2"]).refused(&["fly"]);
    weft(&["flows", "add", socket, "table=9,actions=goto_table:3"]).refused(&["goto_table:3"]);
    weft(&["flows", "add", socket, "in_port=1,actions=output:2", "ip,ip_src=10.0.0.300,actions=drop"])
        .refused(&["flow 2", "10.0.0.300"]);
    // By the switch: nothing that the CLI writes contradicts itself, so the API is asked.
    let rule = |table, priority| v1::Rule {
        table,
        priority,
        owner: v1::Owner::Manual.into(),
        instructions: Some(v1::Instructions::default()),
        ..Default::default()
    };
    let bundle = v1::Bundle { add_rules: vec![rule(3, 8), rule(255, 9), rule(3, 10)], ..Default::default() };
    let refusal = format!("{:#}", switch.api.apply(bundle).expect_err("a bundle with a bad rule was taken"));
    assert!(refusal.contains("[1]") && refusal.contains("255"), "{refusal}");

    // A port that cannot be, and one that does not exist.
    weft(&["ports", "add", socket, "5", "tap:eth0,netns=weft-no-such-namespace"]).refused(&["weft-no-such-namespace"]);
    weft(&["flows", "del", socket]).refused(&["--all"]);
    assert_eq!(rules(&switch), before);
}
