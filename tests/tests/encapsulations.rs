//! What Weft puts on wires, as Wireshark sees it: every encapsulation, and traffic behind NAT with its ICMP errors.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weft_tests::bench::{Bench, Switch};
use weft_tests::traffic::{fetches, is_refused, pings, sends};
use weft_tests::{Outcome, eventually, run, serial};
use weft_up::capture::packet_socket;
use weft_up::frame::{self, End};
use weft_up::namespace::{self, ip};
use weft_up::program::Program;

/// Two hosts whose underlay (`eth0`, 10.99.0.1 and .2) and physical network (`eth1`) are bridges in the namespace `wires`,
/// where everything is recorded, and an instance on each with an interface a segment. Fields in the order in which
/// they are to end.
struct Place {
    instances: [String; 2],
    wires: String,
    recorders: Vec<(Program, PathBuf)>,
    _switches: Vec<Switch>,
    _bench: Bench,
}

/// Interface, network number (10.NUMBER.0.0/24) and MTU of each segment.
const SEGMENTS: [(&str, u8, u32); 4] = [("vxlan0", 1, 1450), ("gre0", 2, 1458), ("vlan0", 3, 1500), ("flat0", 4, 1500)];

/// `inside` is the station 10.5.0.2 behind NAT at host 1, and the station 192.0.2.9 at host 2; between them VLAN 200.
fn rules(index: usize) -> Vec<String> {
    let remote = ["10.99.0.2", "10.99.0.1"][index];
    let mut rules = vec![
        format!("in_port=1,actions=set_field:100->tun_id,set_field:{remote}->tun_dst,output:11"),
        "in_port=11,tun_id=100,actions=output:1".to_owned(),
        format!("in_port=2,actions=set_field:200->tun_id,set_field:{remote}->tun_dst,output:12"),
        "in_port=12,tun_id=200,actions=output:2".to_owned(),
        "in_port=3,actions=push_vlan:0x8100,set_field:0x1064->vlan_tci,output:20".to_owned(),
        "in_port=20,vlan_tci=0x1064/0x1fff,actions=pop_vlan,output:3".to_owned(),
        "in_port=4,actions=output:20".to_owned(),
        "in_port=20,vlan_tci=0,actions=output:4".to_owned(),
    ];
    let out = "push_vlan:0x8100,set_field:0x10c8->vlan_tci,output:20";
    if index == 0 {
        rules.push("in_port=5,ip,actions=ct(commit,zone=5,nat(src=192.0.2.1:20000-29999)),goto_table:1".into());
        rules.push("in_port=20,ip,vlan_tci=0x10c8/0x1fff,ip_dst=192.0.2.1,actions=ct(zone=5,nat),goto_table:1".into());
        let macs = |destination| format!("set_field:02:00:00:00:05:01->eth_src,set_field:{destination}->eth_dst");
        rules.push(format!("table=1,in_port=5,ip,actions=dec_ttl,{},{out}", macs("02:00:00:00:05:09")));
        rules.push(format!("table=1,in_port=20,ip,actions=pop_vlan,dec_ttl,{},output:5", macs("02:00:00:00:05:02")));
    } else {
        rules.push(format!("in_port=5,actions={out}"));
        rules.push("in_port=20,vlan_tci=0x10c8/0x1fff,actions=pop_vlan,output:5".into());
    }
    rules
}

fn place() -> Place {
    let mut bench = Bench::new();
    let wires = bench.namespace("wires");
    let directory = bench.directory("recordings");
    for wire in ["under", "phys"] {
        ip(&format!("-n {wires} link add {wire} type bridge")).expect("the kernel has bridges");
        ip(&format!("-n {wires} link set {wire} up")).expect("it is there");
    }
    let mut instances = Vec::new();
    let mut switches = Vec::new();
    for index in 0..2 {
        let host = bench.namespace(&format!("host{index}"));
        for (interface, wire) in [("eth0", "under"), ("eth1", "phys")] {
            let end = format!("{wire}{index}");
            ip(&format!("-n {host} link add {interface} type veth peer name {end} netns {wires}")).expect("it is new");
            for (namespace, device) in [(&host, interface), (&wires, end.as_str())] {
                // AF_XDP would see neither unfinished checksums nor tags that are not in the frame.
                let command = format!("ethtool -K {device} tx off txvlan off");
                let _off = namespace::run_inside(namespace, &command).expect("ethtool is installed");
                ip(&format!("-n {namespace} link set {device} up")).expect("it is there");
            }
            ip(&format!("-n {wires} link set {end} master {wire}")).expect("it is there");
        }
        ip(&format!("-n {host} addr add 10.99.0.{}/24 dev eth0", index + 1)).expect("the address is free");
        let instance = bench.namespace(&format!("vm{index}"));
        let switch = bench.switch(&format!("host{index}"), &host);
        for (number, kind) in
            [(10, "af_xdp:eth0"), (11, "vxlan:underlay=10"), (12, "gre:underlay=10"), (20, "af_xdp:eth1,all")]
        {
            switch.add_port(number, kind);
        }
        for (place, (interface, number, mtu)) in SEGMENTS.iter().enumerate() {
            switch.add_port(place as u32 + 1, &format!("tap:{interface},netns={instance},mtu={mtu}"));
            up(&instance, interface, &format!("10.{number}.0.{}/24", index + 1));
        }
        let mac = ["02:00:00:00:05:02", "02:00:00:00:05:09"][index];
        switch.add_port(5, &format!("tap:inside,netns={instance},mac={mac}"));
        up(&instance, "inside", ["10.5.0.2/24", "192.0.2.9/24"][index]);
        // Nobody answers ARP here.
        let (hop, other) = [("10.5.0.1", "02:00:00:00:05:01"), ("192.0.2.1", "02:00:00:00:05:01")][index];
        ip(&format!("-n {instance} neigh add {hop} lladdr {other} dev inside")).expect("it is up");
        if index == 0 {
            ip(&format!("-n {instance} route add 192.0.2.0/24 via {hop}")).expect("the hop is near");
        }
        let rules = rules(index);
        switch.add_flows(&rules.iter().map(String::as_str).collect::<Vec<_>>());
        instances.push(instance);
        switches.push(switch);
    }
    let mut recorders = Vec::new();
    for wire in ["under", "phys"] {
        let file = directory.join(format!("{wire}.pcap"));
        let command = format!("tcpdump -Z root --immediate-mode -U -n -i {wire}0 -w {}", file.display());
        let recorder = bench.start(&wires, &command);
        eventually("the recording's beginning", Duration::from_secs(10), || {
            std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24).then_some(())
        });
        recorders.push((recorder, file));
    }
    let instances = instances.try_into().expect("there are two");
    Place { instances, wires, recorders, _switches: switches, _bench: bench }
}

fn up(namespace: &str, interface: &str, address: &str) {
    ip(&format!("-n {namespace} addr add {address} dev {interface}")).expect("the interface is there");
    ip(&format!("-n {namespace} link set {interface} up")).expect("the interface is there");
}

/// The frames that Wireshark selects of a recording: what its columns say.
fn tshark(file: &Path, filter: &str) -> Vec<String> {
    wireshark(file, filter).success().lines().map(str::to_owned).collect()
}

fn wireshark(file: &Path, filter: &str) -> Outcome {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-Y", filter, "-T", "fields", "-e", "frame.number", "-e", "_ws.col.Info"]);
    for protocol in ["ip", "tcp", "udp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    run(&mut command)
}

/// The sender of frames that are wrong.
const PLANTED: &str = "eth.src == 02:00:00:00:09:01";

const WRONG: &str = "_ws.malformed || _ws.short || ip.checksum.status == 0 || tcp.checksum.status == 0 \
                     || udp.checksum.status == 0 || icmp.checksum.status == 0";

/// Frames of which Wireshark is to say that they are wrong: a UDP datagram in VXLAN, a TCP segment in GRE, an IPv4 header.
fn planted() -> [Vec<u8>; 3] {
    let from = End { mac: [2, 0, 0, 0, 0, 1], address: [10, 0, 0, 1].into() };
    let to = End { mac: [2, 0, 0, 0, 0, 2], address: [10, 0, 0, 2].into() };
    let outer = |address: u8| End { mac: [2, 0, 0, 0, 9, address], address: [10, 99, 0, address].into() };
    let mut datagram = frame::udp(from, to, (1000, 2000), b"planted");
    datagram[40] ^= 1;
    let in_vxlan = [&[8, 0, 0, 0, 0, 0, 100, 0][..], &datagram].concat();
    let mut segment = vec![0; 20];
    segment[12] = 0x50;
    segment[13] = 2;
    let in_gre = [&[0x20, 0, 0x65, 0x58, 0, 0, 0, 200][..], &frame::ipv4(from, to, 6, &segment)].concat();
    let mut header = frame::udp(outer(1), outer(2), (1000, 2000), b"planted");
    header[22] -= 1;
    [frame::udp(outer(1), outer(2), (50_000, 4789), &in_vxlan), frame::ipv4(outer(1), outer(2), 47, &in_gre), header]
}

#[test]
fn wireshark_finds_nothing_wrong_but_what_was_planted() {
    let _turn = serial();
    let mut place = place();
    let [one, two] = place.instances.clone();
    for (_, number, mtu) in SEGMENTS {
        let (there, back) = (format!("10.{number}.0.2"), format!("10.{number}.0.1"));
        pings(&one, &there, &format!("-M do -s {}", mtu - 28));
        pings(&two, &back, "-s 4000");
        sends(&one, &two, &there);
        sends(&two, &one, &back);
        is_refused(&one, &there);
    }
    let station = "192.0.2.9";
    pings(&one, station, "");
    pings(&one, station, "-s 4000");
    sends(&one, &two, station);
    fetches(&one, &two, station);
    is_refused(&one, station);
    // Who asked has gone when the answer comes: its kernel says so, by an ICMP error that passes NAT on its way out.
    let answering = namespace::inside(&two, || Ok(UdpSocket::bind("192.0.2.9:7000")?)).expect("the port is free");
    let ask = || Ok(UdpSocket::bind("10.5.0.2:5000")?.send_to(b"ask", "192.0.2.9:7000")?);
    let _sent = namespace::inside(&one, ask).expect("there is a route");
    answering.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    let (_, from) = answering.recv_from(&mut [0; 10]).expect("it comes through NAT");
    assert_eq!(from.ip().to_string(), "192.0.2.1");
    let _sent = answering.send_to(b"tell", from).expect("the interface is up");
    answering.connect(from).expect("it is an address");
    let _told = answering.recv(&mut [0; 10]).expect_err("whom it answers has gone");

    let socket = packet_socket(&place.wires, "under0").expect("it is there");
    planted().iter().for_each(|frame| socket.send(frame).expect("the interface is up"));
    // What was sent last is recorded last.
    let (_, under) = &place.recorders[0];
    eventually("a recording of what was planted", Duration::from_secs(20), || {
        // Of a frame that is half written Wireshark complains.
        let seen = wireshark(under, PLANTED);
        (seen.stdout.lines().count() == 3).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    for (recorder, _) in &mut place.recorders {
        recorder.end();
    }
    let [(_, under), (_, physical)] = &place.recorders[..] else { panic!("there are two wires") };
    let found = tshark(under, &format!("{PLANTED} && ({WRONG})"));
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!(tshark(under, &format!("!({PLANTED}) && ({WRONG})")), [""; 0]);
    assert_eq!(tshark(physical, WRONG), [""; 0]);

    // That it looked at what it should.
    for (file, encapsulation) in [
        (under, "vxlan.vni == 100"),
        (under, "gre.key == 200"),
        (physical, "vlan.id == 100"),
        (physical, "!vlan && ip.addr == 10.4.0.0/24"),
        (physical, "vlan.id == 200 && ip.addr == 192.0.2.1"),
    ] {
        for traffic in
            ["tcp.checksum.status == 1", "udp.checksum.status == 1 && !icmp", "icmp.type == 3", "ip.flags.mf == 1"]
        {
            let found = tshark(file, &format!("{encapsulation} && {traffic}"));
            assert!(!found.is_empty(), "no frame of {encapsulation} with {traffic}");
        }
    }
    let error = tshark(physical, "eth.src == 02:00:00:00:05:01 && vlan.id == 200 && icmp.type == 3 && icmp.code == 3");
    assert_eq!(error.len(), 1, "{error:#?}");
}
