//! What a gateway does at the external side, by rules as people write them, with the kernel's stack at both ends: the
//! instance's on a TAP, "the internet" behind a network interface that the switch shares with its host.

mod namespace;
mod program;

use namespace::{Namespace, eventually};
use program::Program;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;
use weft_proto::text::parse_rule;
use weft_proto::v1::{self, port_spec::Kind};

/// Port 1 is the instance's, port 2 the interface. 192.0.2.1 is the router outside, 192.0.2.10 a floating IP of the
/// instance's 10.0.1.2; the host itself is 192.0.2.2.
const RULES: &[&str] = &[
    "priority=30,in_port=1,arp,arp_op=1,arp_tpa=10.0.1.1,actions=arp_reply:02:00:00:00:01:01",
    "priority=30,in_port=2,arp,arp_op=1,arp_tpa=192.0.2.1,actions=learn_neighbour,arp_reply:02:00:00:00:02:01",
    "priority=30,in_port=2,arp,arp_op=1,arp_tpa=192.0.2.10,actions=learn_neighbour,arp_reply:02:00:00:00:02:01",
    "priority=20,in_port=2,arp,actions=learn_neighbour",
    "priority=20,in_port=2,icmp,icmp_type=8,ip_dst=192.0.2.1,actions=icmp_reply",
    "priority=10,in_port=1,ip,actions=dec_ttl(answer=10.0.1.1),check_mtu(1400,answer=10.0.1.1,fragment),\
     translate(src=192.0.2.10),set_field:02:00:00:00:02:01->eth_src,\
     neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:02:01,hop=192.0.2.254),output:2",
    "priority=10,in_port=2,ip,ip_dst=192.0.2.10,actions=dec_ttl(answer=192.0.2.1),translate(dst=10.0.1.2),\
     set_field:02:00:00:00:01:01->eth_src,set_field:02:00:00:00:01:02->eth_dst,output:1",
];

struct Site {
    internet: Namespace,
    host: Namespace,
    instance: Namespace,
}

fn site() -> Site {
    let site = Site { internet: Namespace::new(), host: Namespace::new(), instance: Namespace::new() };
    site.internet.veth("eth0", &site.host, "nic", 1);
    site.internet.ip("addr add 192.0.2.254/24 dev eth0");
    site.internet.ip("addr add 198.51.100.9/32 dev lo");
    site.host.ip("addr add 192.0.2.2/24 dev nic");
    site
}

fn interface(addresses: &[[u8; 4]]) -> v1::PortSpec {
    let addresses = addresses.iter().map(|address| address.to_vec()).collect();
    let port = v1::AfXdpPort { interface: "nic".to_owned(), addresses, ..v1::AfXdpPort::default() };
    v1::PortSpec { number: 2, name: "external".to_owned(), owner: 0, kind: Some(Kind::AfXdp(port)) }
}

const OURS: &[[u8; 4]] = &[[192, 0, 2, 1], [192, 0, 2, 10]];

fn start(site: &Site, socket: &Path) -> Program {
    let switch = Program::start(&site.host, socket, &[]);
    let tap = v1::TapPort {
        interface: "eth0".to_owned(),
        netns: site.instance.name.clone(),
        mac: vec![2, 0, 0, 0, 1, 2],
        mtu: 0,
    };
    let tap = v1::PortSpec { number: 1, name: "instance".to_owned(), owner: 0, kind: Some(Kind::Tap(tap)) };
    switch.apply(v1::Bundle {
        add_ports: vec![tap, interface(OURS)],
        add_rules: RULES
            .iter()
            .map(|line| parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}")))
            .collect(),
        ..Default::default()
    });
    site.instance.ip("addr add 10.0.1.2/24 dev eth0");
    site.instance.ip("link set eth0 up");
    site.instance.ip("route add default via 10.0.1.1");
    switch
}

fn neighbours(switch: &Program) -> Vec<v1::NeighbourState> {
    switch.ask(async |mut client| client.list_neighbours(v1::ListNeighboursRequest {}).await).neighbours
}

/// Sends to a port where nobody listens; the sender must be told.
fn is_refused(from: &Namespace, to: &'static str) {
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    });
}

/// Sends a megabyte, which comes back.
fn echoes(server: &Namespace, own: &'static str, client: &Namespace, to: &'static str) {
    let listener = server.run(move || TcpListener::bind(own).unwrap());
    let serving = server.spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap()
    });
    client.run(move || {
        let mut stream = TcpStream::connect(to).unwrap();
        let mut reading = stream.try_clone().unwrap();
        let sent: Vec<u8> = (0..1 << 20).map(|index: u32| index as u8).collect();
        let wanted = sent.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; wanted.len()];
            reading.read_exact(&mut got).unwrap();
            assert!(got == wanted, "what comes back is something else");
        });
        stream.write_all(&sent).unwrap();
        reader.join().unwrap();
    });
    assert_eq!(serving.join().unwrap(), 1 << 20);
}

#[test]
fn an_instance_reaches_the_internet_and_is_reached_by_its_floating_ip() {
    let site = site();
    let directory = tempfile::tempdir().unwrap();
    let switch = start(&site, &directory.path().join("switch.sock"));
    // Not one is lost, though the first one waits for its next hop.
    site.instance.command("ping -n -c 3 -i 0.2 -W 2 198.51.100.9");
    let list = neighbours(&switch);
    let [hop] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((hop.address.as_slice(), hop.port, hop.state.as_str()), (&[192, 0, 2, 254][..], 2, "reachable"));
    assert_eq!(hop.interface, "external");
    site.internet.command("ping -n -c 2 -i 0.2 -W 2 192.0.2.10");
    site.internet.command("ping -n -c 1 -W 2 192.0.2.1");
    // Larger than the way out: fragments, both ways.
    site.instance.command("ping -n -c 1 -W 2 -s 4000 198.51.100.9");
    site.internet.command("ping -n -c 1 -W 2 -s 4000 192.0.2.10");
    echoes(&site.internet, "198.51.100.9:80", &site.instance, "198.51.100.9:80");
    echoes(&site.instance, "10.0.1.2:22", &site.internet, "192.0.2.10:22");
    // Errors are believed only if what they quote is right.
    is_refused(&site.instance, "198.51.100.9:9");
    is_refused(&site.internet, "192.0.2.10:9");
    let route = site.instance.run_any("ping -n -c 1 -W 1 -M do -s 1450 198.51.100.9");
    assert!(route.contains("mtu"), "the instance is not told the MTU: {route}");

    // The floating IP moves to another MAC address, and the internet hears it.
    assert!(site.internet.ip("neigh show 192.0.2.10").contains("02:00:00:00:02:01"));
    let mac = vec![2, 0, 0, 0, 2, 2];
    let announcements = vec![v1::Announcement { port: 2, vlan: 0, address: vec![192, 0, 2, 10], mac }];
    switch.apply(v1::Bundle { announcements, ..Default::default() });
    eventually("the internet hears where the floating IP is", || {
        site.internet.ip("neigh show 192.0.2.10").contains("02:00:00:00:02:02")
    });
    site.internet.command("ping -n -c 2 -i 0.2 -W 2 192.0.2.10");
    assert_eq!(switch.stop("TERM"), Some(0));
}

fn is_promiscuous(host: &Namespace) -> bool {
    !host.ip("-d link show nic").contains("promiscuity 0")
}

#[test]
fn the_host_keeps_its_sessions_on_an_interface_that_it_shares() {
    let site = site();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("switch.sock");
    let listener = site.host.run(|| TcpListener::bind("192.0.2.2:22").unwrap());
    let server = site.host.spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap()
    });
    let mut session = site.internet.run(|| TcpStream::connect("192.0.2.2:22").unwrap());
    session.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut echo = |when: &str| {
        session.write_all(when.as_bytes()).unwrap();
        let mut back = vec![0; when.len()];
        session.read_exact(&mut back).unwrap_or_else(|error| panic!("the session does not survive {when}: {error}"));
    };
    let ours_answer = || site.internet.command("ping -n -c 1 -W 2 192.0.2.1");
    // Whom the kernel believes must not hide who answers.
    let forget = || {
        site.internet.try_ip("neigh flush dev eth0");
    };
    echo("the time before");
    let switch = start(&site, &socket);
    echo("the start");
    ours_answer();
    forget();
    echo("asking anew where the host is");
    ours_answer();
    assert!(is_promiscuous(&site.host));

    // The set changes while the port is open.
    let only = |addresses: &[[u8; 4]]| v1::Bundle { add_ports: vec![interface(addresses)], ..Default::default() };
    switch.apply(only(&[[192, 0, 2, 10]]));
    forget();
    assert!(!site.internet.try_command("ping -n -c 1 -W 1 192.0.2.1"), "it is not ours any more");
    echo("a change of addresses");
    switch.apply(only(&[]));
    assert!(!is_promiscuous(&site.host));
    switch.apply(only(OURS));
    forget();
    ours_answer();
    assert_eq!(switch.port(2).state, "up");

    switch.kill();
    echo("the crash");
    assert!(!is_promiscuous(&site.host) && !site.host.ip("link show nic").contains("xdp"));
    eventually("the instance's interface is gone", || !site.instance.try_ip("link show eth0"));
    let switch = start(&site, &socket);
    forget();
    ours_answer();
    echo("the start after it");
    assert_eq!(switch.stop("TERM"), Some(0));
    echo("the stop");
    assert!(!is_promiscuous(&site.host));
    drop(session);
    server.join().unwrap();
}
