//! AF_XDP ports on real veth pairs in network namespaces, with the kernel's stack at the other ends.

mod namespace;

use namespace::{Forwarder, Namespace, eventually, transmit};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;
use weft_dataplane::drop::{DropCounters, DropReason};
use weft_dataplane::packet::frame::Frame;
use weft_dataplane::packet::memory::{Class, Memory};
use weft_dataplane::packet::pool::Pool;
use weft_dataplane::packet::tunnel::Encapsulation;
use weft_dataplane::port::af_xdp::{ADDRESSES, AfXdp, AfXdpError, AfXdpQueue, AfXdpSettings, Mode};
use weft_dataplane::port::{PortQueue, PortSlot};

const SLOT: usize = 5;

fn open(
    namespace: &Namespace,
    settings: AfXdpSettings,
    memory: &'static Memory,
) -> Result<(AfXdp, Vec<AfXdpQueue>), AfXdpError> {
    namespace.run(move || AfXdp::open(PortSlot::new(SLOT), &settings, memory))
}

fn take_all(interface: &str, mode: Mode) -> AfXdpSettings {
    AfXdpSettings { interface: interface.into(), mode, take_all: true, ..AfXdpSettings::default() }
}

fn boxed(queues: Vec<AfXdpQueue>) -> Vec<Box<dyn PortQueue>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn PortQueue>).collect()
}

/// Two hosts, the switch between them: host a — veth — AF_XDP, AF_XDP — veth — host b.
fn forwards(mode: Mode, queues: u32, mtu: u32) -> Forwarder {
    let (a, switch, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    for (host, end, address) in [(&a, "to-a", "10.2.0.1/24"), (&b, "to-b", "10.2.0.2/24")] {
        host.veth("eth0", &switch, end, queues);
        host.ip(&format!("link set eth0 mtu {mtu}"));
        switch.ip(&format!("link set {end} mtu {mtu}"));
        host.ip(&format!("addr add {address} dev eth0"));
    }
    let memory = Memory::map(8192, 0).unwrap();
    let (left, left_queues) = open(&switch, take_all("to-a", mode), memory).unwrap();
    let (right, right_queues) = open(&switch, take_all("to-b", mode), memory).unwrap();
    let expected = format!(
        "{}, {queues} queue{}, copy",
        if mode == Mode::Generic { "generic" } else { "native" },
        if queues == 1 { "" } else { "s" }
    );
    assert_eq!((left.detail.as_str(), left_queues.len()), (expected.as_str(), queues as usize));
    assert_eq!(left_queues[0].offloads().max_frame, mtu as usize + 18);
    let forwarder = Forwarder::start(memory, boxed(left_queues), boxed(right_queues));

    a.command(&format!("ping -c 3 -i 0.05 -W 2 -M do -s {} 10.2.0.2", mtu - 28));
    // Flows enough that every queue gets some.
    a.run(|| {
        for _ in 0..64 {
            UdpSocket::bind("10.2.0.1:0").unwrap().send_to(b"flow", "10.2.0.2:9").unwrap();
        }
    });
    let listener = b.run(|| TcpListener::bind("10.2.0.2:5000").unwrap());
    let server = b.spawn(move || {
        let mut got = Vec::new();
        for _ in 0..4 {
            listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        }
        got.len()
    });
    let started = std::time::Instant::now();
    for _ in 0..4 {
        a.run(|| TcpStream::connect("10.2.0.2:5000").unwrap().write_all(&vec![9; 4 << 20]).unwrap());
    }
    assert_eq!(server.join().unwrap(), 16 << 20);
    println!("{expected}, MTU {mtu}: {:.2} Gbit/s", (16 << 20) as f64 * 8e-9 / started.elapsed().as_secs_f64());
    drop((left, right));
    assert!(!switch.ip("link show to-a").contains("xdp"), "dropping the port takes the program off");
    forwarder
}

/// Also checks that each of the left `used` queues received.
fn nothing_is_left(forwarder: Forwarder, used: usize) {
    let seen = forwarder.stop();
    assert!(seen.frames > 1000);
    assert!(seen.counters[..used].iter().all(|queue| queue.received_packets > 0), "{:?}", seen.counters);
    assert_eq!((seen.drops.total(DropReason::Malformed), seen.outstanding), (0, 0));
}

#[test]
fn native_with_two_queues_forwards_between_veths() {
    nothing_is_left(forwards(Mode::Auto, 2, 1500), 2);
}

#[test]
fn native_forwards_large_frames() {
    nothing_is_left(forwards(Mode::Native, 1, 3000), 1);
}

#[test]
fn frames_of_several_buffers_are_forwarded() {
    for mode in [Mode::Native, Mode::Generic] {
        let seen = forwards(mode, 1, 9000).stop();
        assert!(seen.largest == 9014 && seen.frames > 1000, "{} bytes at most", seen.largest);
        assert_eq!((seen.drops.total(DropReason::Malformed), seen.outstanding), (0, 0));
    }
}

#[test]
fn generic_forwards_between_veths() {
    // Generic XDP on a veth has everything on queue 0.
    nothing_is_left(forwards(Mode::Generic, 2, 1500), 1);
}

#[test]
fn a_port_that_takes_everything_is_given_tags_and_leaves_the_interface_as_it_was() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 1);
    let takes_off = || host.command("ethtool -k nic").contains("rx-vlan-offload: on");
    assert!(takes_off(), "a veth's default");
    let memory = Memory::map(1024, 0).unwrap();
    let (port, queues) = open(&host, take_all("nic", Mode::Auto), memory).unwrap();
    assert!(!takes_off());
    drop(port);
    assert!(takes_off());
    drop(queues);
    let settings = AfXdpSettings { interface: "nic".into(), ..AfXdpSettings::default() };
    let (_port, _queues) = open(&host, settings, memory).unwrap();
    assert!(takes_off(), "the host's own VLANs are not disturbed");
}

#[test]
fn only_tunnel_packets_are_taken_and_the_hosts_tcp_survives() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 1);
    peer.ip("addr add 10.3.0.1/24 dev eth0");
    host.ip("addr add 10.3.0.2/24 dev nic");
    host.ip("addr add 10.3.0.3/24 dev nic");

    // A session through the NIC, as an operator's SSH: it echoes from before the port opens until
    // after it closed.
    let listener = host.run(|| TcpListener::bind("10.3.0.2:22").unwrap());
    let server = host.spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap()
    });
    let mut session = peer.run(|| TcpStream::connect("10.3.0.2:22").unwrap());
    session.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut echo = |what: &str| {
        session.write_all(what.as_bytes()).unwrap();
        let mut back = vec![0; what.len()];
        session.read_exact(&mut back).unwrap_or_else(|error| panic!("the session does not survive {what}: {error}"));
        assert_eq!(back, what.as_bytes());
    };
    echo("the time before");

    let bind = |namespace: &Namespace, address: &'static str| {
        let socket = namespace.run(move || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket
    };
    let sender = bind(&peer, "10.3.0.1:1000");
    let (kernel_vtep, kernel_other) = (bind(&host, "10.3.0.2:4789"), bind(&host, "10.3.0.3:4789"));
    let (kernel_port, mut buffer) = (bind(&host, "10.3.0.2:4790"), [0; 4000]);
    let mut kernel_gets = |socket: &UdpSocket, to: &str, payload: &[u8], why: &str| {
        sender.send_to(payload, to).unwrap();
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_eq!(&buffer[..length], payload, "{why}");
    };

    for mode in [Mode::Native, Mode::Generic] {
        let memory = Memory::map(2048, 0).unwrap();
        let mut pool = Pool::new(memory);
        let mut drops = DropCounters::default();
        let settings = AfXdpSettings { interface: "nic".into(), mode, ..AfXdpSettings::default() };
        let (port, mut queues) = open(&host, settings, memory).unwrap();
        queues[0].service(&mut pool);
        echo("the start");
        kernel_gets(&kernel_vtep, "10.3.0.2:4789", b"early", "no endpoint is set yet");

        let vtep = (Ipv4Addr::new(10, 3, 0, 2), Encapsulation::Vxlan(4789));
        port.set_endpoints(&BTreeSet::from([vtep, (vtep.0, Encapsulation::Vxlan(250))])).unwrap();
        let mut frames: Vec<Frame> = Vec::new();
        sender.send_to(b"ours", "10.3.0.2:4789").unwrap();
        eventually("the tunnel packet arrives", || queues[0].receive(&mut pool, &mut frames, 64, &mut drops) > 0);
        assert_eq!(frames.len(), 1);
        assert_eq!(&frames[0].head()[42..46], b"ours");
        assert_eq!((frames[0].headroom(), frames[0].charged()), (256, PortSlot::new(SLOT)));

        kernel_gets(&kernel_other, "10.3.0.3:4789", b"other address", "another address is the host's");
        kernel_gets(&kernel_port, "10.3.0.2:4790", b"other port", "another port is the host's");
        kernel_gets(&kernel_vtep, "10.3.0.2:4789", &[7; 3000], "fragments are the host's");
        peer.command("ping -c 1 -W 2 10.3.0.2");
        echo("running");

        port.set_endpoints(&BTreeSet::from([(vtep.0, Encapsulation::Vxlan(250))])).unwrap();
        kernel_gets(&kernel_vtep, "10.3.0.2:4789", b"late", "the endpoint was removed");
        let many = (0..65).map(|port| (vtep.0, Encapsulation::Vxlan(port))).collect();
        assert!(matches!(port.set_endpoints(&many), Err(AfXdpError::TooManyEndpoints(65))));
        assert_eq!(queues[0].receive(&mut pool, &mut frames, 64, &mut drops), 0, "nothing else came");
        port.set_endpoints(&BTreeSet::from([vtep])).unwrap();

        // A queue without a socket: what would be ours is the host's.
        queues[0].close(&mut pool);
        kernel_gets(&kernel_vtep, "10.3.0.2:4789", b"orphan", "the socket is closed, the program still there");
        drop(port);
        echo("the stop");
        frames.drain(..).for_each(|frame| pool.free(frame));
        assert_eq!((pool.outstanding(), drops.iter().count()), (0, 0));
    }
    drop(session);
    server.join().unwrap();
}

/// Ethernet, IPv4 and UDP to the tunnel endpoint of the test below.
fn tunnel_packet() -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 8 + 30];
    frame[..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1]);
    frame[12..24].copy_from_slice(&[0x08, 0, 0x45, 0, 0, 58, 0, 0, 0x40, 0, 64, 17]);
    frame[26..34].copy_from_slice(&[10, 3, 0, 1, 10, 3, 0, 2]);
    frame[34..40].copy_from_slice(&[0xc0, 0, 0x12, 0xb5, 0, 38]);
    frame
}

/// From one AF_XDP port to another over a veth: frames that nearly are the tunnel's.
#[test]
fn only_whole_plain_udp_to_an_endpoint_is_taken() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    let mut link = Link::between(&peer, &host);
    link.port.set_endpoints(&BTreeSet::from([(Ipv4Addr::new(10, 3, 0, 2), Encapsulation::Vxlan(4789))])).unwrap();
    let plain = tunnel_packet();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = plain.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let insert = |at: usize, bytes: &[u8]| {
        let mut frame = plain.clone();
        frame.splice(at..at, bytes.iter().copied());
        frame
    };
    for (what, ours, frame) in [
        ("the plain packet", true, plain.clone()),
        ("with DF clear", true, with(20, &[0, 0])),
        ("with another DSCP", true, with(15, &[0xb8])),
        ("from another port", true, with(34, &[1, 2])),
        ("the shortest", true, plain[..42].to_vec()),
        ("cut within UDP", false, plain[..41].to_vec()),
        ("cut within Ethernet and padded by nobody", false, plain[..20].to_vec()),
        ("a first fragment", false, with(20, &[0x20, 0])),
        ("a later fragment", false, with(20, &[0, 1])),
        ("the reserved flag is no fragment", true, with(20, &[0x80, 0])),
        ("with options", false, with(14, &[0x46])),
        ("TCP", false, with(23, &[6])),
        ("to another address", false, with(33, &[3])),
        ("to another port", false, with(37, &[0xb6])),
        ("ARP", false, with(12, &[8, 6])),
        ("IPv6", false, with(12, &[0x86, 0xdd])),
        ("tagged", false, insert(12, &[0x81, 0, 0, 5])),
    ] {
        let marker = with(24, &[0x77, 0x77]);
        assert_eq!(link.takes(&frame, &marker), ours, "{what}");
    }
    link.close();
}

/// IPv4 to an address of ours, which is not that of a tunnel, and ARP that asks for it: whatever it is, once tagged too.
#[test]
fn what_is_for_an_address_is_taken() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    let mut link = Link::between(&peer, &host);
    let ours = Ipv4Addr::new(10, 3, 0, 2);
    let changed = |port: &AfXdp, addresses: &[Ipv4Addr]| port.set_addresses(&addresses.iter().copied().collect());
    changed(&link.port, &[ours]).unwrap();
    let plain = tunnel_packet();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = plain.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let tagged = |tag: &[u8], frame: &[u8]| [&frame[..12], tag, &frame[12..]].concat();
    let arp = |target: [u8; 4]| {
        let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]].concat();
        frame.extend_from_slice(&[[10, 3, 0, 1], [0; 4], [0, 0, target[0], target[1]]].concat());
        frame.extend_from_slice(&target[2..]);
        frame
    };
    let marker = with(24, &[0x77, 0x77]);
    let cases = [
        ("UDP", true, plain.clone()),
        ("a first fragment", true, with(20, &[0x20, 0])),
        ("a later fragment of a byte", true, with(20, &[0, 1])[..35].to_vec()),
        ("with options", true, with(14, &[0x46])),
        ("ICMP", true, with(23, &[1])),
        ("to another MAC", true, with(0, &[2, 0, 0, 0, 0, 0x77])),
        ("cut within IPv4", false, plain[..33].to_vec()),
        ("to another address", false, with(33, &[3])),
        ("from it", false, with(26, &[10, 3, 0, 2, 10, 3, 0, 1])),
        ("IPv6", false, with(12, &[0x86, 0xdd])),
        ("tagged", true, tagged(&[0x81, 0, 0, 5], &plain)),
        ("tagged, to another address", false, tagged(&[0x81, 0, 0, 5], &with(33, &[3]))),
        ("tagged and cut", false, tagged(&[0x81, 0, 0, 5], &plain[..33])),
        ("tagged twice", false, tagged(&[0x81, 0, 0, 5, 0x81, 0, 0, 6], &plain)),
        ("a provider's tag", false, tagged(&[0x88, 0xa8, 0, 5], &plain)),
        ("ARP", true, arp([10, 3, 0, 2])),
        ("ARP for another address", false, arp([10, 3, 0, 3])),
        ("ARP, cut", false, arp([10, 3, 0, 2])[..41].to_vec()),
        ("tagged ARP", true, tagged(&[0x81, 0, 0, 5], &arp([10, 3, 0, 2]))),
    ];
    for (what, ours, frame) in cases {
        assert_eq!(link.takes(&frame, &marker), ours, "{what}");
    }
    let many: Vec<Ipv4Addr> = (0..=ADDRESSES as u32).map(|number| Ipv4Addr::from_bits(0x0a04_0000 + number)).collect();
    assert!(matches!(changed(&link.port, &many), Err(AfXdpError::TooManyAddresses(_))));
    // As many as there may be, none of which was there before; then but one.
    changed(&link.port, &many[1..]).unwrap();
    changed(&link.port, &[Ipv4Addr::new(10, 3, 0, 3), ours]).unwrap();
    assert!(link.takes(&with(33, &[3]), &marker));
    link.close();
}

/// An AF_XDP port with a filter on a veth, and one that sends to it.
struct Link {
    port: AfXdp,
    queues: Vec<AfXdpQueue>,
    _peer: AfXdp,
    peers: Vec<AfXdpQueue>,
    pool: Pool,
    drops: DropCounters,
}

impl Link {
    fn between(peer: &Namespace, host: &Namespace) -> Self {
        peer.veth("eth0", host, "nic", 1);
        let memory = Memory::map(4096, 0).unwrap();
        let mut pool = Pool::new(memory);
        let (sending, peers) = open(peer, take_all("eth0", Mode::Auto), memory).unwrap();
        let settings = AfXdpSettings { interface: "nic".into(), ..AfXdpSettings::default() };
        let (port, mut queues) = open(host, settings, memory).unwrap();
        queues[0].service(&mut pool);
        Self { port, queues, _peer: sending, peers, pool, drops: DropCounters::default() }
    }

    /// Whether a frame arrives by the port. The marker behind it, which does, shows when it would have.
    fn takes(&mut self, frame: &[u8], marker: &[u8]) -> bool {
        let Self { queues, peers, pool, drops, .. } = self;
        let mut sent = [frame, marker].map(|bytes| pool.frame(PortSlot::new(1), bytes).unwrap()).into();
        transmit(&mut peers[0], pool, &mut sent, drops);
        let mut got: Vec<Frame> = Vec::new();
        eventually("the marker arrives", || {
            peers[0].service(pool);
            queues[0].receive(pool, &mut got, 64, drops);
            got.last().is_some_and(|last| last.head() == marker)
        });
        let taken = got.len() == 2;
        assert!(got.len() == 1 || taken && got[0].head() == frame, "{} frames", got.len());
        got.into_iter().for_each(|frame| pool.free(frame));
        taken
    }

    fn close(mut self) {
        self.peers[0].close(&mut self.pool);
        self.queues[0].close(&mut self.pool);
        assert_eq!((self.pool.outstanding(), self.drops.iter().count()), (0, 0));
    }
}

#[test]
fn transmit_copes_with_full_rings_chains_and_a_port_that_is_down() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 1);
    let memory = Memory::map(8192, 8).unwrap();
    let mut pool = Pool::new(memory);
    let mut drops = DropCounters::default();
    let (_port, mut queues) = open(&host, take_all("nic", Mode::Auto), memory).unwrap();
    let queue = &mut queues[0];
    let from = PortSlot::new(9);
    let received = || -> u64 {
        let all: String = peer.ip("-s link show eth0");
        let line = all.lines().skip_while(|line| !line.contains("RX:")).nth(1).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = received();
    // More than the ring holds in one call: what does not fit is counted, the rest goes.
    let mut frames: Vec<Frame> = (0..3000).map(|_| pool.frame(from, &[0xff; 60]).unwrap()).collect();
    transmit(queue, &mut pool, &mut frames, &mut drops);
    let sent = queue.counters().sent_packets;
    assert_eq!(sent + drops.total(DropReason::TransmitFull), 3000);
    assert!(sent >= 1024, "{sent} sent");
    eventually("all that counts as sent arrives", || {
        queue.service(&mut pool);
        received() - before >= sent
    });
    eventually("and every chunk comes home", || {
        queue.service(&mut pool);
        pool.held(from) == 0
    });

    // A chain of small segments is copied together, too large and too short frames are counted.
    let mut chain = pool.frame(from, &[0xfe; 60]).unwrap();
    chain.append(pool.frame(from, &[0xfe; 60]).unwrap());
    let mut odd = vec![chain, pool.frame(from, &[0; 1519]).unwrap(), pool.frame(from, &[0; 13]).unwrap()];
    drops.forget(from);
    transmit(queue, &mut pool, &mut odd, &mut drops);
    assert_eq!(queue.counters().sent_packets, sent + 1);
    let counted: Vec<_> = drops.iter().map(|(_, reason, count)| (reason, count)).collect();
    assert_eq!(counted, [(DropReason::Truncated, 1), (DropReason::TooBig, 1)]);

    host.ip("link set nic down");
    for _ in 0..2 {
        let mut late = vec![pool.frame(from, &[0xff; 60]).unwrap()];
        transmit(queue, &mut pool, &mut late, &mut drops);
    }
    assert_eq!(drops.total(DropReason::PortDown), 1, "the first was already in the ring");
    host.ip("link set nic up");
    eventually("it sends again", || {
        let mut again = vec![pool.frame(from, &[0xff; 60]).unwrap()];
        let before = drops.total(DropReason::PortDown);
        transmit(queue, &mut pool, &mut again, &mut drops);
        drops.total(DropReason::PortDown) == before
    });
    queue.close(&mut pool);
    let mut gone = vec![pool.frame(from, &[0xff; 60]).unwrap()];
    transmit(queue, &mut pool, &mut gone, &mut drops);
    assert_eq!((pool.outstanding(), queue.receive(&mut pool, &mut gone, 64, &mut drops)), (0, 0));
    drop(pool);
    assert_eq!((memory.free(Class::Chunk), memory.free(Class::Run)), (8192, 8));
}

#[test]
fn a_flood_without_a_reader_costs_nobody_else_and_ends() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 1);
    peer.ip("addr add 10.4.0.1/24 dev eth0");
    peer.ip("neigh add 10.4.0.2 lladdr 02:00:00:00:00:02 dev eth0");
    let memory = Memory::map(2048, 0).unwrap();
    let mut pool = Pool::new(memory);
    let mut drops = DropCounters::default();
    let (port, mut queues) = open(&host, take_all("nic", Mode::Auto), memory).unwrap();
    queues[0].service(&mut pool);
    let held = pool.held(PortSlot::new(SLOT));
    assert_eq!(held, 512, "a quarter of the memory at most");
    let flood = |count: usize| {
        peer.run(move || {
            let socket = UdpSocket::bind("10.4.0.1:0").unwrap();
            (0..count).for_each(|_| drop(socket.send_to(&[1; 100], "10.4.0.2:9")));
        });
    };
    flood(3000);
    let mut frames = Vec::new();
    let mut got = 0;
    while queues[0].receive(&mut pool, &mut frames, 64, &mut drops) > 0 {
        got += frames.len();
        frames.drain(..).for_each(|frame| pool.free(frame));
    }
    assert!((512..3000).contains(&got), "{got} frames");
    let missed = port.missed();
    assert!(missed > 0 && got as u64 + missed >= 3000, "{got} received, {missed} missed");
    flood(10);
    eventually("it receives again", || queues[0].receive(&mut pool, &mut frames, 64, &mut drops) > 0);
    frames.drain(..).for_each(|frame| pool.free(frame));
    queues[0].close(&mut pool);
    assert_eq!(port.missed(), 0, "a closed queue counts no more");
    assert_eq!((pool.outstanding(), drops.iter().count()), (0, 0));
}

#[test]
fn the_umem_outlives_the_socket_that_registered_it_and_the_interface() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    let memory = Memory::map(4096, 0).unwrap();
    let mut pool = Pool::new(memory);
    let mut drops = DropCounters::default();
    let mut ports = Vec::new();
    for name in ["one", "two", "three"] {
        peer.veth(name, &host, name, 1);
        ports.push(open(&host, take_all(name, Mode::Auto), memory).unwrap());
        if name == "two" {
            // The one that registered it goes before the third comes.
            ports[0].1[0].service(&mut pool);
            let (port, mut queues) = ports.remove(0);
            drop(port);
            queues[0].close(&mut pool);
        }
    }
    for (_, queues) in &mut ports {
        queues[0].service(&mut pool);
    }
    for (_, queues) in &mut ports {
        let mut sent = vec![pool.frame(PortSlot::new(1), &[0xff; 60]).unwrap()];
        transmit(&mut queues[0], &mut pool, &mut sent, &mut drops);
        assert_eq!(queues[0].counters().sent_packets, 1);
    }
    // Somebody deletes an interface under a port.
    host.ip("link del two");
    let two = &mut ports[0].1[0];
    for _ in 0..2 {
        let mut sent = vec![pool.frame(PortSlot::new(1), &[0xff; 60]).unwrap()];
        transmit(two, &mut pool, &mut sent, &mut drops);
    }
    assert!(drops.total(DropReason::PortDown) > 0);
    // What the kernel put into the ring before is still there; then nothing comes.
    let mut received = Vec::new();
    while two.receive(&mut pool, &mut received, 64, &mut drops) > 0 {}
    received.into_iter().for_each(|frame| pool.free(frame));
    for (port, mut queues) in ports {
        drop(port);
        queues[0].close(&mut pool);
    }
    assert_eq!(pool.outstanding(), 0);
    drop(pool);
    assert_eq!(memory.free(Class::Chunk), 4096);
}

#[test]
fn errors_say_what_to_do() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 2);
    let memory = Memory::map(1024, 0).unwrap();
    let refused = |settings| match open(&host, settings, memory) {
        Err(error) => error,
        Ok((port, _)) => panic!("it opened: {}", port.detail),
    };
    assert!(matches!(refused(take_all("none", Mode::Auto)), AfXdpError::NoInterface(_)));
    assert!(matches!(refused(take_all("lo", Mode::Auto)), AfXdpError::NotEthernet(_)));
    let three = AfXdpSettings { queues: 3, ..take_all("nic", Mode::Auto) };
    assert!(refused(three).to_string().contains("ethtool -L nic"));

    // Its own program on the same interface is another's to a second port.
    let one = AfXdpSettings { queues: 1, ..take_all("nic", Mode::Auto) };
    let (port, mut queues) = open(&host, one.clone(), memory).unwrap();
    assert_eq!(port.detail, "native, 1 of 2 queues, copy");
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let taken = refused(take_all("nic", mode));
        assert!(matches!(taken, AfXdpError::OtherProgram(_)), "{mode:?}: {taken}");
        assert!(taken.to_string().contains("ip link set nic xdp off"));
    }
    queues[0].close(&mut Pool::new(memory));
    // Closed and opened again at once: the queue may still be busy, which is waited for.
    drop(port);
    for _ in 0..5 {
        let (port, mut queues) = open(&host, one.clone(), memory).unwrap();
        let mut pool = Pool::new(memory);
        queues[0].service(&mut pool);
        drop(port);
        queues[0].close(&mut pool);
        assert_eq!(pool.outstanding(), 0);
    }

    host.ip("link set nic mtu 9601");
    let large = refused(take_all("nic", Mode::Auto));
    assert!(large.to_string().contains("ip link set nic mtu 9600"), "{large}");
    assert!(!host.ip("link show nic").contains("xdp"), "what failed left nothing behind");
}

/// Of pieces that nobody takes yet nothing is lost.
#[test]
fn large_frames_come_and_go_whole_beside_small_ones() {
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 1);
    for (namespace, name) in [(&peer, "eth0"), (&host, "nic")] {
        namespace.ip(&format!("link set {name} mtu 9600"));
    }
    let memory = Memory::map(4096, 0).unwrap();
    let mut pool = Pool::new(memory);
    let mut drops = DropCounters::default();
    let (_sending, mut peers) = open(&peer, take_all("eth0", Mode::Auto), memory).unwrap();
    let (port, mut queues) = open(&host, take_all("nic", Mode::Auto), memory).unwrap();
    queues[0].service(&mut pool);
    let lengths = [60, 3518, 3519, 3839, 3840, 3841, 7680, 7681, 9014, 9618, 64, 9618];
    let bytes = |length: usize| (0..length).map(|index| (index % 251) as u8).collect::<Vec<u8>>();
    let mut frames: Vec<Frame> = lengths
        .iter()
        .map(|&length| {
            let mut frame = pool.chunked(PortSlot::new(1), length).unwrap();
            let mut rest = &bytes(length)[..];
            frame.segments_mut().for_each(|segment| {
                let (here, after) = rest.split_at(segment.len());
                segment.copy_from_slice(here);
                rest = after;
            });
            frame
        })
        .collect();
    transmit(&mut peers[0], &mut pool, &mut frames, &mut drops);
    let mut got: Vec<Frame> = Vec::new();
    eventually("all arrive", || {
        peers[0].service(&mut pool);
        // One at a time: what is behind it stays in the ring.
        queues[0].receive(&mut pool, &mut got, 1, &mut drops);
        got.len() == lengths.len()
    });
    for (frame, length) in got.drain(..).zip(lengths) {
        assert!(frame.to_vec() == bytes(length), "{length} bytes");
        pool.free(frame);
    }
    assert_eq!((port.missed(), queues[0].counters().received_packets), (0, lengths.len() as u64));
    // Longer than the interface's MTU.
    let mut long = vec![pool.chunked(PortSlot::new(1), 9619).unwrap()];
    transmit(&mut peers[0], &mut pool, &mut long, &mut drops);
    assert_eq!(drops.total(DropReason::TooBig), 1);
    // The peer's MTU may be larger than our own.
    peers[0].close(&mut pool);
    queues[0].close(&mut pool);
    drop(port);
    host.ip("link set nic mtu 1500");
    let (_port, mut queues) = open(&host, take_all("nic", Mode::Native), memory).unwrap();
    queues[0].close(&mut pool);
    assert_eq!(pool.outstanding(), 0);
}

/// The test runs itself as the process that is killed.
#[test]
fn the_program_goes_when_the_process_is_killed() {
    const HOLD: &str = "WEFT_TEST_HOLD_AF_XDP";
    if std::env::var(HOLD).is_ok() {
        let memory = Memory::map(1024, 0).unwrap();
        let settings = AfXdpSettings { interface: "nic".into(), ..AfXdpSettings::default() };
        let (port, mut queues) = AfXdp::open(PortSlot::new(SLOT), &settings, memory).unwrap();
        port.set_endpoints(&BTreeSet::from([(Ipv4Addr::new(10, 5, 0, 2), Encapsulation::Vxlan(4789))])).unwrap();
        queues[0].service(&mut Pool::new(memory));
        loop {
            std::thread::park();
        }
    }
    let (peer, host) = (Namespace::new(), Namespace::new());
    peer.veth("eth0", &host, "nic", 1);
    peer.ip("addr add 10.5.0.1/24 dev eth0");
    host.ip("addr add 10.5.0.2/24 dev nic");
    let listener = host.run(|| TcpListener::bind("10.5.0.2:22").unwrap());
    let mut session = peer.run(|| TcpStream::connect("10.5.0.2:22").unwrap());
    let mut accepted = listener.accept().unwrap().0;
    accepted.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut crosses = || {
        session.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
    };
    crosses();
    for _ in 0..2 {
        let mut holder = Command::new("ip")
            .args(["netns", "exec", &host.name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "the_program_goes_when_the_process_is_killed"])
            .env(HOLD, "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the holder attaches its program", || host.ip("link show nic").contains("xdp"));
        crosses();
        holder.kill().unwrap();
        holder.wait().unwrap();
        eventually("the program is gone", || !host.ip("link show nic").contains("xdp"));
        crosses();
    }
}
