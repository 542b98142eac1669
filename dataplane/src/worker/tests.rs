//! A whole worker on memory ports: frames in, frames out, every frame accounted for.

mod branches;
mod captured;
mod edges;
mod groups;
mod neighbours;
mod one_to_one;
mod routed;
mod tracked;
mod translated;

use super::{WorkerHandle, WorkerSettings};
use crate::drop::DropReason;
use crate::egress::PuntSink;
use crate::flow::message;
use crate::flow::tables::{Change, Tables};
use crate::handover::Links;
use crate::packet::frame::{Checksum, Gso, GsoKind};
use crate::packet::memory::{Class, Memory};
use crate::packet::sample::{self, verify};
use crate::packet::tunnel::Encapsulation;
use crate::port::memory::{MemoryFrame, MemoryPeer, RING, pair, pair_with};
use crate::port::{Offloads, PortSlot};
use crate::topology::{Path, PortInfo, PortKind, Topology};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weft_proto::{text, v1};

const PATIENCE: Duration = Duration::from_secs(5);
/// Ports 1 to 4 are memory ports at the slots of their numbers; 4 carries tunnel 20.
const PORTS: usize = 4;
const TUNNEL: u32 = 20;

/// Takes up to two packets.
#[derive(Default)]
struct Listener(Mutex<Vec<v1::PacketIn>>);

impl PuntSink for Listener {
    fn punt(&self, packet: v1::PacketIn) -> Result<(), DropReason> {
        let mut taken = self.0.lock().unwrap();
        if taken.len() == 2 {
            return Err(DropReason::PuntOverrun);
        }
        taken.push(packet);
        Ok(())
    }
}

struct Bench {
    tables: Arc<Tables>,
    worker: WorkerHandle,
    peers: Vec<MemoryPeer>,
    memory: &'static Memory,
    listener: Arc<Listener>,
}

/// What a port without any offload takes.
const PLAIN: Offloads =
    Offloads { checksum: false, tcp_segmentation: false, udp_segmentation: false, chains: false, max_frame: 1600 };

fn bench(rules: &[&str]) -> Bench {
    let memory = Memory::map(4096, 64).unwrap();
    let tables = Tables::new();
    let listener = Arc::new(Listener::default());
    let links = Links::of(1).unwrap().remove(0);
    let worker =
        WorkerHandle::start(links, tables.clone(), memory, listener.clone(), WorkerSettings::default()).unwrap();
    let mut topology = Topology::default();
    let mut peers = Vec::new();
    for number in 1..=PORTS {
        let slot = PortSlot::new(number);
        let (queue, peer) = if number == 4 { pair_with(slot, PLAIN).unwrap() } else { pair(slot).unwrap() };
        worker.add_queue(slot, Box::new(queue));
        peers.push(peer);
        let kind = PortKind::Device { slot, up: true };
        topology.ports.insert(number as u32, PortInfo { name: format!("port{number}").into(), kind });
    }
    let underlay = PortSlot::new(4);
    let kind = PortKind::Tunnel {
        slot: PortSlot::new(TUNNEL as usize),
        locals: vec![Ipv4Addr::new(10, 99, 0, 1)],
        encapsulation: Encapsulation::Vxlan(4789),
        underlays: vec![underlay],
    };
    topology.ports.insert(TUNNEL, PortInfo { name: "vxlan".into(), kind });
    for last in [1, 2] {
        let path = Path::Resolved {
            underlay,
            source_mac: [2, 0, 0, 0, 9, 1],
            destination_mac: [2, 0, 0, 0, 9, last],
            source: Ipv4Addr::new(10, 99, 0, 1),
        };
        topology.paths.insert(Ipv4Addr::new(10, 99, 0, last), path);
    }
    tables.set_topology(topology);
    let bench = Bench { tables, worker, peers, memory, listener };
    bench.add(rules);
    bench
}

impl Bench {
    fn add(&self, rules: &[&str]) {
        let rule = |line: &&str| {
            let mut parsed = text::parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
            parsed.owner = v1::Owner::Manual.into();
            message::rule_from_message(&parsed, 0).unwrap_or_else(|fault| panic!("{line}: {fault}"))
        };
        self.tables.commit(Change { add: rules.iter().map(rule).collect(), ..Change::default() }).unwrap();
    }

    fn remove(&self, rules: &[&str]) {
        let id = |line: &&str| {
            let mut parsed = text::parse_rule(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
            parsed.owner = v1::Owner::Manual.into();
            message::rule_from_message(&parsed, 0).unwrap_or_else(|fault| panic!("{line}: {fault}")).id
        };
        self.tables.commit(Change { remove: rules.iter().map(id).collect(), ..Change::default() }).unwrap();
    }

    fn send(&self, port: usize, frame: impl Into<MemoryFrame>) {
        self.peers[port - 1].send(frame).unwrap();
    }

    fn receive(&self, port: usize) -> Vec<u8> {
        self.peers[port - 1]
            .wait(PATIENCE)
            .unwrap_or_else(|| panic!("nothing left by port {port}: {:?}", self.drops()))
            .bytes
    }

    fn drops(&self) -> Vec<(usize, &'static str, u64)> {
        let drops = self.worker.report().drops;
        drops.into_iter().map(|(slot, reason, count)| (slot.index(), reason.word(), count)).collect()
    }

    /// By output port.
    fn unsent(&self) -> Vec<(usize, &'static str, u64)> {
        let unsent = self.worker.report().unsent;
        unsent.into_iter().map(|(slot, reason, count)| (slot.index(), reason.word(), count)).collect()
    }

    /// Branches that went nowhere, by ingress port.
    fn branches(&self) -> Vec<(usize, &'static str, u64)> {
        let branches = self.worker.report().branches;
        branches.into_iter().map(|(slot, reason, count)| (slot.index(), reason.word(), count)).collect()
    }

    /// Waits until this many frames were dropped in all, and gives the drops.
    fn dropped(&self, frames: u64) -> Vec<(usize, &'static str, u64)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let drops = self.drops();
            if drops.iter().map(|(_, _, count)| count).sum::<u64>() >= frames || Instant::now() > deadline {
                return drops;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the worker; every buffer must have come home.
    fn finish(self) {
        self.worker.stop();
        assert_eq!((self.memory.free(Class::Chunk), self.memory.free(Class::Run)), (4096, 64), "a buffer is lost");
    }
}

fn tcp_frame() -> Vec<u8> {
    sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0, &sample::tcp(true, 0x10, &[], b"some payload")))
}

fn udp_frame() -> Vec<u8> {
    sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &sample::udp(true, b"some payload")))
}

#[test]
fn frames_follow_the_rules_and_are_counted() {
    let bench = bench(&["table=0,in_port=1,tcp,actions=output:2", "table=0,in_port=2,actions=output:1,output:3"]);
    for _ in 0..100 {
        bench.send(1, tcp_frame());
    }
    bench.send(1, udp_frame());
    bench.send(2, udp_frame());
    for _ in 0..100 {
        assert_eq!(bench.receive(2), tcp_frame());
    }
    assert_eq!((bench.receive(1), bench.receive(3)), (udp_frame(), udp_frame()));
    assert_eq!(bench.dropped(1), [(1, "table_miss", 1)]);
    let counts: Vec<_> = bench.tables.rules(|_| true).iter().map(|rule| rule.counters.read()).collect();
    assert!(counts.contains(&(100, 100 * tcp_frame().len() as u64)), "{counts:?}");
    let report = bench.worker.report();
    assert_eq!((report.packets, report.cache_hits + report.cache_misses), (102, 102));
    bench.finish();
}

#[test]
fn every_header_rewrite_keeps_the_checksums_right() {
    let sets = [
        ("ip", "set_field:192.168.77.5->ip_src,set_field:10.9.8.7->ip_dst"),
        ("ip", "set_field:0x28->ip_tos"),
        ("ip", "set_field:9->ip_ttl"),
        ("ip", "dec_ttl"),
        ("tcp", "set_field:4242->tcp_src,set_field:80->tcp_dst"),
        ("udp", "set_field:4242->udp_src,set_field:53->udp_dst"),
        ("icmp", "set_field:3->icmp_type,set_field:1->icmp_code"),
        ("ipv6", "set_field:2001:db8::77->ipv6_src,set_field:2001:db8:1::1->ipv6_dst"),
        ("ipv6", "set_field:0x28->ip_tos"),
        ("ipv6", "dec_ttl"),
        ("tcp6", "set_field:4242->tcp_src"),
        ("udp6", "set_field:4242->udp_dst"),
        ("icmp6", "set_field:129->icmpv6_type"),
        ("sctp", "set_field:4242->sctp_src"),
        // Fields of the key beside fields of a frame that has no transport header.
        ("arp", "set_field:0x1->reg0,set_field:7->tun_id,set_field:02:00:00:00:00:55->eth_src"),
        ("arp", "set_field:02:00:00:00:00:55->arp_sha,set_field:10.0.0.77->arp_tpa"),
        ("", "set_field:02:00:00:00:00:55->eth_src,push_vlan:0x8100,set_field:0x1064->vlan_tci"),
        ("vlan_tci=0x1000/0x1000", "strip_vlan"),
    ];
    for (kind, actions) in sets {
        let separator = if kind.is_empty() { "" } else { "," };
        let bench = bench(&[&format!("table=0,in_port=1{separator}{kind},actions={actions},output:2")]);
        let mut seen = 0;
        for (name, frame) in sample::frames() {
            // The sample's SCTP packet carries no real checksum.
            let verifiable = verify(&frame).is_ok();
            bench.send(1, frame.clone());
            std::thread::sleep(Duration::from_micros(300));
            let deadline = Instant::now() + PATIENCE;
            let done = loop {
                if let Some(done) = bench.peers[1].take() {
                    break Some(done.bytes);
                }
                if bench.dropped(0).iter().map(|(_, _, count)| count).sum::<u64>() + seen
                    == bench.worker.report().packets
                    && bench.peers[0].waiting() == 0
                {
                    break bench.peers[1].take().map(|done| done.bytes);
                }
                assert!(Instant::now() < deadline, "{name} neither left nor was dropped under {actions}");
            };
            let Some(done) = done else { continue };
            seen += 1;
            assert_ne!(done, frame, "{actions} changes {name}");
            if verifiable {
                verify(&done).unwrap_or_else(|error| panic!("{actions} on {name}: {error}"));
            }
        }
        assert!(seen > 0, "no sample frame is {kind}");
        bench.finish();
    }
}

#[test]
fn a_frame_of_nothing_but_ethernet_can_be_rewritten() {
    let bench = bench(&["table=0,actions=set_field:02:00:00:00:00:55->eth_dst,output:2"]);
    bench.send(1, sample::ethernet(&[], 0x88b5, &[]));
    assert_eq!(bench.receive(2)[..6], [2, 0, 0, 0, 0, 0x55]);
    bench.finish();
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    // Over IPv6 too: tunnels may send so (RFC 6935), and half a checksum is a wrong one.
    let bench = bench(&["table=0,udp6,actions=set_field:4242->udp_dst,set_field:2001:db8::9->ipv6_dst,output:2"]);
    let mut frame = sample::ethernet(&[], 0x86dd, &sample::ipv6(&[], 17, &sample::udp(false, b"payload")));
    frame[60..62].fill(0);
    bench.send(1, frame);
    let done = bench.receive(2);
    assert_eq!((&done[56..58], &done[60..62]), (&4242_u16.to_be_bytes()[..], &[0, 0][..]));
    bench.finish();
}

#[test]
fn a_frame_crosses_two_tunnels_unharmed() {
    // Port 1 into the tunnel towards ourselves; what leaves by port 4 is fed back into it.
    let bench = bench(&[
        "table=0,in_port=1,actions=set_field:77->tun_id,set_field:10.99.0.1->tun_dst,output:20",
        "table=0,in_port=20,tun_id=77,tun_src=10.99.0.1,actions=output:2",
    ]);
    bench.send(1, tcp_frame());
    let outer = bench.receive(4);
    assert_eq!(outer.len(), tcp_frame().len() + 50);
    verify(&outer).unwrap();
    bench.send(4, outer.clone());
    assert_eq!(bench.receive(2), tcp_frame());
    // Another VNI is another network, and an instance cannot speak as a tunnel end.
    let mut other = outer.clone();
    other[48] ^= 1;
    bench.send(4, other);
    bench.send(3, outer);
    assert_eq!(bench.dropped(2), [(3, "table_miss", 1), (TUNNEL as usize, "table_miss", 1)]);
    bench.finish();
}

#[test]
fn a_large_segment_crosses_whole_and_is_cut_for_the_tunnel() {
    let bench = bench(&[
        "table=0,priority=1,in_port=1,actions=output:2",
        "table=0,priority=2,in_port=3,actions=set_field:77->tun_id,set_field:10.99.0.2->tun_dst,output:20",
    ]);
    let payload: Vec<u8> = (0..40_000_u32).map(|index| index as u8).collect();
    let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0, &sample::tcp(true, 0x18, &[], &payload)));
    let large = || MemoryFrame {
        bytes: bytes.clone(),
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::Tcp4, size: 1400, tunnel: 0 }),
    };
    bench.send(1, large());
    let whole = bench.peers[1].wait(PATIENCE).unwrap();
    assert_eq!((whole.bytes.len(), whole.gso.map(|gso| gso.size)), (bytes.len(), Some(1400)));
    bench.send(3, large());
    let mut inner = Vec::new();
    while inner.len() < payload.len() {
        let segment = bench.receive(4);
        verify(&segment).unwrap();
        verify(&segment[50..]).unwrap();
        inner.extend_from_slice(&segment[50 + 54..]);
    }
    assert_eq!(inner, payload);
    bench.finish();
}

#[test]
fn hostile_frames_are_dropped_under_a_reason() {
    let bench = bench(&["table=0,actions=output:2"]);
    let mut sent = 0;
    for (_, frame) in sample::frames() {
        for length in 0..frame.len() {
            bench.send(1, frame[..length].to_vec());
            sent += 1;
            while bench.peers[0].waiting() > 100 {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while bench.worker.report().packets < sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let forwarded = bench.peers[1].take_all().len() as u64;
    let drops = bench.drops();
    assert_eq!(forwarded + drops.iter().map(|(_, _, count)| count).sum::<u64>(), sent, "each frame once: {drops:?}");
    assert!(drops.iter().any(|(_, word, count)| *word == "truncated" && *count > 100), "{drops:?}");
    bench.finish();
}

#[test]
fn a_bundle_is_never_half_seen() {
    // Two rules that always send to ports 2 and 3 alike; between commits both change together.
    let bench = bench(&["table=0,actions=set_field:0x1->reg0,goto_table:1", "table=1,reg0=0x1,actions=output:2"]);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let sender = {
        let (peer, stop, sent) = (bench.peers[0].clone(), stop.clone(), sent.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let taken = u64::from(peer.send(udp_frame()).is_ok());
                sent.fetch_add(taken, std::sync::atomic::Ordering::Relaxed);
            }
        })
    };
    // On a busy machine the commits could all be done before the sender gets its turn.
    let deadline = Instant::now() + PATIENCE;
    let enough = || sent.load(std::sync::atomic::Ordering::Relaxed) > 1000 || Instant::now() > deadline;
    for round in (0..).take_while(|round| *round < 200 || !enough()) {
        // Under a half-seen bundle register 1 would meet no rule for it, or register 2 none.
        let register = round % 2 + 2;
        let add = format!("table=0,actions=set_field:0x{register:x}->reg0,goto_table:1");
        let rule = |line: &str| {
            let mut parsed = text::parse_rule(line).unwrap();
            parsed.owner = v1::Owner::Manual.into();
            message::rule_from_message(&parsed, 0).unwrap()
        };
        let old = if round == 0 { 1 } else { (round + 1) % 2 + 2 };
        let change = Change {
            add: vec![rule(&add), rule(&format!("table=1,reg0=0x{register:x},actions=output:2"))],
            remove: vec![rule(&format!("table=1,reg0=0x{old:x},actions=output:2")).id],
            ..Change::default()
        };
        bench.tables.commit(change).unwrap();
        while bench.peers[1].take().is_some() {}
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    sender.join().unwrap();
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE;
    while bench.worker.report().packets < sent && Instant::now() < deadline {
        let _ = bench.peers[1].take_all();
    }
    let drops: Vec<_> = bench.drops().into_iter().filter(|(_, word, _)| *word == "table_miss").collect();
    assert!(drops.is_empty() && sent > 1000, "{drops:?} of {sent}");
    bench.finish();
}

#[test]
fn punts_reach_the_listener_until_it_is_full() {
    let bench = bench(&["table=0,cookie=0x7,actions=punt(max_len=20,reason=3),output:2"]);
    for _ in 0..3 {
        bench.send(1, udp_frame());
        bench.receive(2);
    }
    let taken = bench.listener.0.lock().unwrap().clone();
    assert_eq!(
        (taken.len(), taken[0].frame.len(), taken[0].reason, taken[0].cookie, taken[0].in_port),
        (2, 20, 3, 7, 1)
    );
    // It left by port 2 all the same.
    assert_eq!((bench.drops(), bench.unsent()), (vec![], vec![(0, "punt_overrun", 1)]));
    bench.finish();
}

#[test]
fn a_full_port_costs_a_broadcast_one_copy_and_a_frame_its_life() {
    let bench = bench(&["table=0,in_port=1,actions=output:2", "table=0,in_port=3,actions=output:1,output:2,output:4"]);
    for _ in 0..RING {
        bench.send(1, udp_frame());
        while bench.peers[0].waiting() > 64 {
            std::thread::yield_now();
        }
    }
    // All of them are in the ring before the broadcast comes.
    let deadline = Instant::now() + PATIENCE;
    while bench.worker.report().packets < RING as u64 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    bench.send(3, tcp_frame());
    assert_eq!((bench.receive(1), bench.receive(4)), (tcp_frame(), tcp_frame()));
    assert_eq!((bench.drops(), bench.unsent()), (vec![], vec![(2, "transmit_full", 1)]));
    bench.send(1, tcp_frame());
    assert_eq!(bench.dropped(1), [(1, "transmit_full", 1)]);
    assert_eq!(bench.unsent(), [(2, "transmit_full", 2)]);
    assert_eq!(bench.peers[1].take_all().len(), RING);
    bench.finish();
}

#[test]
fn a_frame_that_left_before_a_later_action_failed_was_not_dropped() {
    let bench = bench(&["table=0,in_port=1,ip,actions=output:2,dec_ttl,output:3"]);
    let mut last = udp_frame();
    last[22] = 1;
    bench.send(1, last.clone());
    assert_eq!(bench.receive(2), last);
    assert_eq!((bench.drops(), bench.unsent()), (vec![], vec![]));
    bench.finish();
}

#[test]
fn a_port_without_a_number_waits_until_it_has_one() {
    let bench = bench(&["table=0,actions=output:2"]);
    let slot = PortSlot::new(5);
    let (queue, peer) = pair(slot).unwrap();
    bench.worker.add_queue(slot, Box::new(queue));
    peer.send(tcp_frame()).unwrap();
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), udp_frame());
    std::thread::sleep(Duration::from_millis(20));
    assert!(bench.peers[1].take().is_none(), "rules that name no port are not for ports that are none");
    let mut topology = (*bench.tables.topology()).clone();
    let kind = PortKind::Device { slot, up: true };
    topology.ports.insert(5, PortInfo { name: "port5".into(), kind });
    bench.tables.set_topology(topology);
    assert_eq!(bench.receive(2), tcp_frame());
    bench.finish();
}

#[test]
fn a_removed_port_takes_no_more_and_loses_no_buffer() {
    let bench = bench(&["table=0,actions=output:2"]);
    bench.send(1, udp_frame());
    bench.receive(2);
    bench.worker.remove_queues(PortSlot::new(2));
    bench.send(1, udp_frame());
    assert_eq!(bench.dropped(1), [(1, "port_down", 1)]);
    bench.finish();
}
