//! What the switch tells: counters, drops, dumps, traces, punts.

use super::*;
use crate::port::memory::RING;

#[test]
fn a_frame_goes_where_a_rule_sends_it_and_is_counted() {
    let bench = bench();
    let done = bench.manual(two_ports()).unwrap();
    assert_eq!((done.rules_added, done.rules_removed, done.ports.len()), (1, 0, 2));
    assert_eq!((done.ports[0].interface.as_str(), done.ports[0].state.as_str()), ("mem1", "up"));
    bench.peer(1).send(frame(7)).unwrap();
    assert_eq!(bench.peer(2).wait(PATIENCE).expect("the frame arrives").bytes, frame(7));
    bench.peer(2).send(frame(8)).unwrap();
    eventually("a frame of port 2 has no rule", || bench.dropped(DropReason::TableMiss) == [(2, 1)]);

    let rules = bench.rules();
    assert_eq!((rules[0].packets, rules[0].bytes), (1, frame(7).len() as u64));
    assert_eq!((rules[0].origin.as_str(), rules[0].table_name.as_str()), ("a wire from 1 to 2", "classify"));
    let ports = bench.switch.ports().ports;
    assert_eq!((ports[0].received_packets, ports[1].sent_packets, ports[1].received_dropped), (1, 1, 1));
    let tables = bench.switch.tables().tables;
    assert_eq!((tables[0].rules, tables[0].config.as_ref().unwrap().name.as_str()), (1, "classify"));
    let status = bench.switch.status();
    assert_eq!((status.rules, status.workers[0].packets, status.host.as_str()), (1, 2, "bench"));
    assert_eq!((status.chunks_total, status.runs_free), (512, 64));
    assert!(!bench.switch.cache(&v1::DumpCacheRequest::default()).entries.is_empty());
}

#[test]
fn drops_of_a_removed_port_are_kept_under_port_0() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    bench.peer(2).send(frame(1)).unwrap();
    eventually("the drop is counted", || bench.dropped(DropReason::TableMiss) == [(2, 1)]);
    bench.manual(v1::Bundle { remove_ports: vec![2], ..Default::default() }).unwrap();
    assert_eq!(bench.dropped(DropReason::TableMiss), [(0, 1)]);
    bench.manual(v1::Bundle { add_ports: vec![port(5)], ..Default::default() }).unwrap();
    bench.peer(5).send(frame(1)).unwrap();
    eventually("the new port begins at zero", || {
        bench.dropped(DropReason::TableMiss).into_iter().collect::<BTreeSet<_>>() == BTreeSet::from([(0, 1), (5, 1)])
    });
}

#[test]
fn a_trace_tells_rule_origin_and_drop() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let fields = vec![from_port(1), exact(Field::EthType, &[8, 0])];
    let reply = bench.switch.trace(&v1::TraceRequest { packet: fields, ..Default::default() }).unwrap();
    let step = reply.steps[0].rule.as_ref().unwrap();
    assert_eq!((step.origin.as_str(), reply.steps[0].table_name.as_str()), ("a wire from 1 to 2", "classify"));
    assert_eq!(reply.drop_reason, "");
    assert!(matches!(&reply.effects[0].effect, Some(v1::effect::Effect::Output(out)) if out.port_name == "mem2"));
    let by_frame =
        |frame: Vec<u8>, in_port| bench.switch.trace(&v1::TraceRequest { frame, in_port, ..Default::default() });
    assert_eq!(by_frame(frame(1), 2).unwrap().drop_reason, "table_miss");
    assert_eq!(by_frame(vec![1, 2, 3], 1).unwrap().drop_reason, "truncated");
    assert_eq!(by_frame(frame(1), 0).unwrap_err().field, "in_port");
    assert_eq!(bench.switch.trace(&v1::TraceRequest::default()).unwrap_err().field, "packet");
    assert_eq!(bench.rules()[0].packets, 0, "a trace counts nothing");
}

#[test]
fn dumps_and_removals_select_by_filter() {
    let bench = bench();
    let web = vec![exact(Field::EthType, &[8, 0]), exact(Field::IpProto, &[6]), exact(Field::TcpDst, &[0, 80])];
    let ip = vec![exact(Field::EthType, &[8, 0])];
    let add_rules = vec![
        rule(1, web.clone(), vec![]),
        rule(2, ip.clone(), vec![]),
        v1::Rule { table: 5, ..rule(3, web.clone(), vec![]) },
    ];
    bench.manual(v1::Bundle { add_rules, ..Default::default() }).unwrap();
    let selected = |request: v1::DumpRulesRequest| -> Vec<u32> {
        let replies = bench.switch.dump(&request).unwrap();
        replies.iter().flat_map(|reply| &reply.rules).map(|state| state.rule.as_ref().unwrap().priority).collect()
    };
    let request = v1::DumpRulesRequest::default;
    assert_eq!(selected(request()), [2, 1, 3]);
    assert_eq!(selected(v1::DumpRulesRequest { r#match: ip.clone(), ..request() }), [2, 1, 3]);
    assert_eq!(selected(v1::DumpRulesRequest { r#match: web, ..request() }), [1, 3]);
    assert_eq!(selected(v1::DumpRulesRequest { table: Some(5), ..request() }), [3]);
    assert_eq!(selected(v1::DumpRulesRequest { cookie: Some(2), ..request() }), [2]);
    assert_eq!(selected(v1::DumpRulesRequest { r#match: ip.clone(), strict: true, priority: 2, ..request() }), [2]);
    assert_eq!(
        selected(v1::DumpRulesRequest { r#match: ip.clone(), strict: true, priority: 1, ..request() }),
        [] as [u32; 0]
    );
    assert_eq!(bench.switch.dump(&v1::DumpRulesRequest { table: Some(255), ..request() }).unwrap_err().field, "table");
    let removed = bench.switch.remove_rules(&v1::DumpRulesRequest { table: Some(0), ..request() }).unwrap();
    assert_eq!((removed.rules_removed, selected(request())), (2, vec![3]));
}

#[test]
fn punted_packets_reach_who_listens() {
    let bench = bench();
    let punt = action(Wire::Punt(v1::Punt { max_length: 20, reason: 5 }));
    let bundle = v1::Bundle {
        add_ports: vec![port(1)],
        add_rules: vec![rule(100, vec![from_port(1)], vec![punt])],
        ..Default::default()
    };
    bench.manual(bundle).unwrap();
    bench.peer(1).send(frame(1)).unwrap();
    eventually("nobody listens", || bench.dropped(DropReason::NoListener) == [(1, 1)]);
    let mut packets = bench.switch.punts().listen().unwrap();
    bench.peer(1).send(frame(1)).unwrap();
    let packet = packets.blocking_recv().unwrap();
    assert_eq!((packet.in_port, packet.reason, packet.cookie, packet.frame.len()), (1, 5, 100, 20));
    assert_eq!(packet.total_length as usize, frame(1).len());
}

#[test]
fn rules_of_many_kinds_fill_several_messages_of_a_dump() {
    let bench = bench();
    let add_rules =
        (0..20_000_u32).map(|number| rule(1, vec![exact(Field::Reg0, &number.to_be_bytes())], vec![])).collect();
    bench.manual(v1::Bundle { add_rules, ..Default::default() }).unwrap();
    let replies = bench.switch.dump(&v1::DumpRulesRequest::default()).unwrap();
    assert!(replies.len() > 1);
    assert_eq!(replies.iter().map(|reply| reply.rules.len()).sum::<usize>(), 20_000);
}

#[test]
fn what_a_port_could_not_send_is_told_at_that_port() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let send = || eventually("there is room", || bench.peer(1).send(frame(7)).is_ok());
    (0..=RING).for_each(|_| send());
    eventually("one is dropped", || bench.dropped(DropReason::TransmitFull) == [(1, 1)]);
    let ports = bench.switch.ports().ports;
    let told: Vec<(u64, u64)> = ports.iter().map(|port| (port.received_dropped, port.sent_dropped)).collect();
    assert_eq!((told, ports[1].sent_packets), (vec![(1, 0), (0, 1)], RING as u64));
    let drops = bench.switch.drops(&v1::ListDropsRequest::default()).drops;
    let unsent: Vec<_> = drops[0].unsent.iter().map(|port| (port.port, port.name.as_str(), port.packets)).collect();
    assert_eq!(unsent, [(2, "mem2", 1)]);
}
