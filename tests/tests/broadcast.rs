//! Broadcasts and multicasts in a cloud of two hosts: each port's security groups decide for that port.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;
use weft_tests::bench::{Bench, address};
use weft_tests::demo::Demo;
use weft_tests::serial;
use weft_up::namespace::{self, ip};

const PORT: &str = "5353";

/// A port of the demo's blue network, with a socket that hears what is sent to everybody at [`PORT`].
struct Listener {
    name: &'static str,
    socket: UdpSocket,
}

impl Listener {
    fn plug(demo: &Demo, bench: &mut Bench, (name, host, last): (&'static str, &str, u8), guard: &[&str]) -> Self {
        let netns = bench.namespace(name);
        let own = format!("10.0.0.{last}");
        let create = ["port", "create", name, "--network", "office", "--project", "blue", "--address", &own];
        let _port = demo.weft(&[&create, guard].concat()).success();
        let plug =
            ["port", "plug", name, "--project", "blue", "--host", host, "--netns", &netns, "--interface", "eth0"];
        let _plugged = demo.weft(&plug).success();
        address(&netns, &format!("{own}/24"));
        ip(&format!("-n {netns} route add default dev eth0")).expect("the network is there");
        let socket = namespace::inside(&netns, || Ok(UdpSocket::bind(format!("0.0.0.0:{PORT}"))?)).expect("it is free");
        socket.join_multicast_v4(&[224, 0, 0, 251].into(), &own.parse().expect("an address")).expect("it may");
        Self { name, socket }
    }

    /// Whether a datagram with this text comes within a time; others are passed over.
    fn hears(&self, text: &str, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).expect("a timeout can be set");
        let mut buffer = [0; 100];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, _)) if &buffer[..length] == text.as_bytes() => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
    }
}

#[test]
fn a_broadcast_reaches_the_ports_whose_groups_allow_it_on_both_hosts() {
    let _turn = serial();
    let demo = Demo::start("broadcast");
    let mut bench = Bench::new();
    let _group = demo.weft(&["group", "create", "hears", "--project", "blue"]).success();
    let rule = ["group", "rule", "add", "hears", "--project", "blue", "--ingress", "--protocol", "udp", "--port", PORT];
    let added = demo.weft(&[&rule[..], &["--json"]].concat()).success();
    let _deaf = demo.weft(&["group", "create", "deaf", "--project", "blue"]).success();
    let mut listener = |port, guard: &[&str]| Listener::plug(&demo, &mut bench, port, guard);
    let hearing = [
        listener(("hears-here", "a", 101), &["--group", "hears"]),
        listener(("hears-there", "b", 102), &["--group", "hears"]),
        listener(("open-there", "b", 103), &["--port-security", "off"]),
    ];
    let deaf = [
        listener(("deaf-here", "a", 104), &["--group", "deaf"]),
        listener(("deaf-there", "b", 105), &["--group", "deaf"]),
    ];
    let sender = listener(("sender", "a", 106), &["--group", "deaf"]);
    sender.socket.set_broadcast(true).expect("it may");
    sender.socket.set_multicast_loop_v4(false).expect("it may");
    let send = |to: &str, text: &str| {
        sender.socket.send_to(text.as_bytes(), format!("{to}:{PORT}")).expect("it is sent");
    };
    for to in ["10.0.0.255", "255.255.255.255", "224.0.0.251"] {
        for round in 0..3 {
            let text = format!("to {to}, {round}");
            send(to, &text);
            for one in &hearing {
                assert!(one.hears(&text, Duration::from_secs(5)), "{} does not hear \"{text}\"", one.name);
            }
        }
        let text = format!("to {to}, 2");
        for one in &deaf {
            assert!(!one.hears(&text, Duration::from_millis(300)), "{} hears \"{text}\"", one.name);
        }
    }
    // What it is not allowed any more it hears no more, though it has the connection.
    let rule: String = added.split('"').skip_while(|word| *word != "id").nth(2).expect("rules have ids").to_owned();
    let _removed = demo.weft(&["group", "rule", "delete", &rule]).success();
    let gone = (0..50).any(|round| {
        let text = format!("again, {round}");
        send("10.0.0.255", &text);
        assert!(hearing[2].hears(&text, Duration::from_secs(5)), "who has no group hears it always");
        !hearing[0].hears(&text, Duration::from_millis(100)) && !hearing[1].hears(&text, Duration::from_millis(100))
    });
    assert!(gone, "a removed rule ends the connections that it let through");
}
