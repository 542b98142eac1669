//! What happens at the edges of a worker: listeners, traces, ports to come, changes under load.

use super::*;
use crate::packet::checksum::{finish, pseudo_header4};
use crate::worker::Traced;

#[test]
fn a_punted_frame_has_its_checksum() {
    let bench = bench(&["table=0,cookie=0x7,actions=punt(max_len=2000,reason=3),output:2"]);
    let mut partial = tcp_frame();
    let address = |at: usize| <[u8; 4]>::try_from(&tcp_frame()[at..at + 4]).unwrap();
    let pseudo = pseudo_header4(address(26), address(30), 6, partial.len() - 34);
    partial[50..52].copy_from_slice(&(!finish(pseudo)).to_be_bytes());
    verify(&partial).expect_err("it is not finished");
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    bench.send(1, MemoryFrame { bytes: partial, checksum, gso: None });
    bench.receive(2);
    let taken = bench.listener.0.lock().unwrap().clone();
    assert_eq!(taken[0].frame, tcp_frame());
    bench.finish();
}

#[test]
fn a_punt_in_the_action_set_is_of_the_rule_that_wrote_it() {
    let bench = bench(&[
        "table=0,cookie=0x7,actions=write_actions(punt(max_len=20,reason=3)),goto_table:1",
        "table=1,cookie=0x8,actions=write_metadata:0x1/0x1",
    ]);
    bench.send(1, udp_frame());
    let taken = || bench.listener.0.lock().unwrap().first().map(|packet| (packet.table, packet.cookie));
    let deadline = Instant::now() + PATIENCE;
    while taken().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(taken(), Some((0, 7)));
    bench.finish();
}

#[test]
fn frames_of_a_port_without_a_number_do_not_keep_the_worker_awake() {
    let bench = bench(&["table=0,actions=output:2"]);
    let slot = PortSlot::new(5);
    let (queue, peer) = pair(slot).unwrap();
    bench.worker.add_queue(slot, Box::new(queue));
    peer.send(tcp_frame()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let before = bench.worker.report().busy_microseconds;
    std::thread::sleep(Duration::from_millis(400));
    let busy = bench.worker.report().busy_microseconds - before;
    assert!(busy < 20_000, "{busy} µs of 400 ms");
    bench.finish();
}

#[test]
fn a_traced_frame_is_taken_out_of_its_tunnel_as_a_received_one() {
    let bench = bench(&[
        "table=0,in_port=1,actions=set_field:77->tun_id,set_field:10.99.0.1->tun_dst,output:20",
        "table=0,in_port=20,tun_id=77,tun_src=10.99.0.1,tcp,actions=output:2",
    ]);
    bench.send(1, tcp_frame());
    let outer = bench.receive(4);
    let trace = |in_port, bytes: &[u8]| {
        bench.worker.trace(Traced::Frame { in_port, bytes: bytes.to_vec() }, [].into()).unwrap()
    };
    let reply = trace(4, &outer);
    assert_eq!((reply.drop_reason.as_str(), reply.effects.len()), ("", 1), "{reply:?}");
    assert_eq!(trace(3, &outer).drop_reason, "table_miss", "an instance does not speak as a tunnel end");
    assert_eq!(trace(4, &outer[..60]).drop_reason, "malformed");
    assert_eq!(trace(99, &tcp_frame()).drop_reason, "table_miss", "there is no such port");
    let tunnels: Vec<u64> = bench
        .worker
        .report()
        .ports
        .into_iter()
        .filter(|(slot, _)| slot.index() == TUNNEL as usize)
        .map(|(_, counters)| counters.received_packets)
        .collect();
    assert_eq!(tunnels, [0], "a trace counts nothing");
    bench.finish();
}
