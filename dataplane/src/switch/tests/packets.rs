//! Packet-outs.

use super::*;

fn out(in_port: u32, actions: Vec<v1::Action>) -> v1::PacketOut {
    v1::PacketOut { in_port, frame: frame(9), actions, through_tables: false }
}

impl Bench {
    fn packets(&self, packets: Vec<v1::PacketOut>) -> Result<v1::SendPacketsReply, Fault> {
        self.switch.send_packets(v1::SendPacketsRequest { packets })
    }

    fn arrives(&self, port: u32) -> Vec<u8> {
        self.peer(port).wait(PATIENCE).expect("the frame arrives").bytes
    }
}

fn with_ports() -> Bench {
    let bench = bench();
    let bundle = v1::Bundle {
        add_ports: (1..=3).map(port).collect(),
        add_rules: vec![rule(100, vec![from_port(1)], vec![output(2)])],
        ..Default::default()
    };
    bench.manual(bundle).unwrap();
    bench
}

#[test]
fn a_packet_takes_the_actions_given() {
    let bench = with_ports();
    let rewritten = set(Field::Ipv4Dst, &[10, 9, 9, 9]);
    let in_port = output(weft_proto::PORT_IN_PORT);
    let actions = vec![output(3), rewritten, output(2), in_port];
    assert_eq!(bench.packets(vec![out(1, actions), out(0, vec![output(3)])]).unwrap().handled, 2);
    assert_eq!(bench.arrives(3), frame(9));
    assert_eq!(bench.arrives(2)[30..34], [10, 9, 9, 9]);
    assert_eq!(bench.arrives(1)[30..34], [10, 9, 9, 9]);
    assert_eq!(bench.arrives(3), frame(9));
    // Not back by the port that it came in by, unless IN_PORT says so.
    bench.packets(vec![out(3, vec![output(3), output(2)]), out(3, vec![])]).unwrap();
    assert_eq!(bench.arrives(2), frame(9));
    eventually("without an output it is dropped", || bench.dropped(DropReason::NoOutput) == [(3, 1)]);
    assert!(bench.peer(3).wait(Duration::from_millis(50)).is_none());
}

#[test]
fn a_packet_goes_through_the_tables_as_a_received_one() {
    let bench = with_ports();
    let through = |in_port| v1::PacketOut { through_tables: true, ..out(in_port, vec![]) };
    bench.packets(vec![through(1), through(1), through(2)]).unwrap();
    assert_eq!((bench.arrives(2), bench.arrives(2)), (frame(9), frame(9)));
    eventually("another port's find no rule", || bench.dropped(DropReason::TableMiss) == [(2, 1)]);
    assert_eq!(bench.rules()[0].packets, 2);
    assert_eq!(bench.switch.ports().ports[0].received_packets, 0, "no port received them");
    let table = &bench.switch.tables().tables[0];
    assert_eq!((table.lookups, table.matches), (3, 2));
}

#[test]
fn a_packet_out_can_be_punted() {
    let bench = with_ports();
    let mut listener = bench.switch.punts().listen().unwrap();
    bench.packets(vec![out(3, vec![action(Wire::Punt(v1::Punt { max_length: 0, reason: 4 }))])]).unwrap();
    let packet = listener.try_recv().unwrap();
    assert_eq!((packet.in_port, packet.reason, packet.frame), (3, 4, frame(9)));
}

#[test]
fn wrong_packets_are_refused_whole() {
    let bench = with_ports();
    let refused = |packet: v1::PacketOut| {
        let fault = bench.packets(vec![out(0, vec![output(2)]), packet]).expect_err("it is wrong");
        assert!(fault.remedy.ends_with('.'), "{fault}");
        (fault.code, fault.field)
    };
    let expect = |code: &str, field: &str| (code.to_owned(), format!("packets[1].{field}"));
    assert_eq!(refused(out(9, vec![output(2)])), expect("unknown_port", "in_port"));
    assert_eq!(refused(out(u32::MAX, vec![])), expect("bad_port", "in_port"));
    assert_eq!(refused(out(1, vec![output(9)])), expect("unknown_port", "actions"));
    assert_eq!(refused(out(0, vec![output(weft_proto::PORT_IN_PORT)])), expect("missing_field", "in_port"));
    assert_eq!(refused(out(1, vec![v1::Action::default()])).0, "unknown_action");
    let tcp = set(Field::TcpDst, &[0, 80]);
    assert_eq!(refused(out(1, vec![tcp])).0, "missing_prerequisite", "it is a UDP packet");
    let track = action(Wire::Ct(v1::ConnectionTrack::default()));
    assert_eq!(refused(out(1, vec![track])), expect("bad_action", "actions"));
    let both = v1::PacketOut { through_tables: true, ..out(1, vec![output(2)]) };
    assert_eq!(refused(both), expect("bad_packet", "through_tables"));
    let nowhere = v1::PacketOut { through_tables: true, ..out(0, vec![]) };
    assert_eq!(refused(nowhere), expect("missing_field", "in_port"));
    for bytes in [vec![0; 13], vec![0; 70_000], frame(9)[..40].to_vec()] {
        assert_eq!(refused(v1::PacketOut { frame: bytes, ..out(1, vec![]) }), expect("bad_frame", "frame"));
    }
    let many = vec![out(1, vec![]); crate::limits::BATCH + 1];
    assert_eq!(bench.packets(many).unwrap_err().code, "too_many_packets");
    assert!(bench.peer(2).wait(Duration::from_millis(50)).is_none(), "nothing of a refused request is sent");
}
