//! Meters, from bundle to drop.

use super::*;

fn meter(meter: u32, rate: u32, burst: u32) -> v1::Meter {
    v1::Meter { meter, unit: v1::MeterUnit::Packets.into(), rate, burst }
}

fn metered(priority: u32, number: u32) -> v1::Rule {
    let meter = action(Wire::Meter(v1::MeterAction { meter: number }));
    rule(priority, vec![from_port(1)], vec![meter, output(2)])
}

fn set_meters(meters: Vec<v1::Meter>) -> v1::Bundle {
    v1::Bundle { set_meters: meters, ..Default::default() }
}

#[test]
fn what_exceeds_a_meter_is_dropped_and_counted() {
    let bench = bench();
    let bundle = v1::Bundle {
        add_ports: vec![port(1), port(2)],
        add_rules: vec![metered(5, 7)],
        set_meters: vec![meter(7, 1, 3)],
        ..Default::default()
    };
    bench.manual(bundle).unwrap();
    for _ in 0..10 {
        bench.peer(1).send(frame(7)).unwrap();
    }
    // The burst; that a second passes meanwhile is not likely, and would let one more pass.
    eventually("all are counted", || bench.switch.meters().meters[0].packets == 10);
    let state = bench.switch.meters().meters[0];
    assert!((6..=7).contains(&state.dropped_packets), "{state:?}");
    assert_eq!(bench.dropped(DropReason::Meter), [(1, state.dropped_packets)]);
    assert_eq!((state.rules, state.bytes), (1, 10 * frame(7).len() as u64));
    assert_eq!(state.dropped_bytes, state.dropped_packets * frame(7).len() as u64);
    // The rule counts what it matched.
    assert_eq!(bench.rules()[0].packets, 10);
    for _ in 0..10 - state.dropped_packets {
        bench.peer(2).wait(PATIENCE).expect("what passes arrives");
    }
    // A new rate begins with a full burst, and keeps the counts.
    bench.manual(set_meters(vec![meter(7, 1000, 1000)])).unwrap();
    for _ in 0..5 {
        bench.peer(1).send(frame(7)).unwrap();
        bench.peer(2).wait(PATIENCE).expect("there is room for it");
    }
    assert_eq!(bench.switch.meters().meters[0].packets, 15);
}

#[test]
fn a_meter_stays_while_rules_name_it() {
    let bench = bench();
    bench.manual(set_meters(vec![meter(7, 1, 3), meter(8, 1, 3)])).unwrap();
    let unknown = v1::Bundle { add_rules: vec![rule(1, vec![], vec![]), metered(5, 9)], ..Default::default() };
    let fault = bench.manual(unknown).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("unknown_meter", "add_rules[1].instructions"));
    bench.manual(v1::Bundle { add_rules: vec![metered(5, 7), metered(6, 7)], ..Default::default() }).unwrap();
    let remove =
        |rules: Vec<v1::Rule>| v1::Bundle { remove_meters: vec![7, 8], remove_rules: rules, ..Default::default() };
    let fault = bench.manual(remove(vec![metered(5, 7)])).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.status), ("meter_in_use", Code::FailedPrecondition));
    assert!(fault.problem.contains("named by 1 rule,") && fault.problem.contains("priority 6"), "{fault}");
    assert_eq!(bench.switch.meters().meters.len(), 2, "nothing of it was done");
    // One rule goes, the other one is changed to name none.
    let changed = rule(6, vec![from_port(1)], vec![output(2)]);
    bench.manual(v1::Bundle { add_rules: vec![changed], ..remove(vec![metered(5, 7)]) }).unwrap();
    assert!(bench.switch.meters().meters.is_empty());
    assert_eq!(bench.manual(remove(vec![])).unwrap_err().code, "unknown_meter");
    let bad = bench.manual(set_meters(vec![meter(7, 1, 3), meter(8, 0, 0)])).unwrap_err();
    assert_eq!((bad.code.as_str(), bad.field.as_str()), ("bad_rate", "set_meters[1].rate"));
    let many = (1..=crate::limits::METERS as u32 + 1).map(|number| meter(number, 1, 1)).collect();
    assert_eq!(bench.manual(set_meters(many)).unwrap_err().code, "limit_exceeded");
}

#[test]
fn meters_are_made_by_hand() {
    let bench = bench();
    assert_eq!(bench.fabric(set_meters(vec![meter(7, 1, 3)])).unwrap_err().code, "not_the_owner");
    bench.manual(set_meters(vec![meter(7, 1, 3)])).unwrap();
    let fabric = v1::Bundle { add_rules: vec![metered(5, 7)], ..Default::default() };
    assert_eq!(bench.fabric(fabric).unwrap_err().code, "not_the_owner");
    // A resynchronisation leaves them alone; a replacement by hand has those it names.
    let sync = v1::Bundle { term: 1, generation: 1, replace_owner: v1::Owner::Fabric.into(), ..Default::default() };
    bench.fabric(sync).unwrap();
    assert_eq!(bench.switch.meters().meters.len(), 1);
    bench.manual(v1::Bundle { add_rules: vec![metered(5, 7)], ..Default::default() }).unwrap();
    let replace = v1::Bundle { replace_owner: v1::Owner::Manual.into(), ..set_meters(vec![meter(8, 1, 1)]) };
    bench.manual(replace).unwrap();
    let meters: Vec<u32> = bench.switch.meters().meters.iter().map(|state| state.meter.unwrap().meter).collect();
    assert_eq!((meters, bench.rules().len()), (vec![8], 0));
}

#[test]
fn a_refused_bundle_leaves_the_meters_as_they_were() {
    let bench = bench();
    bench.manual(set_meters(vec![meter(7, 1, 3)])).unwrap();
    bench.ports.broken.lock().unwrap().insert(1);
    let bundle = v1::Bundle { add_ports: vec![port(1)], ..set_meters(vec![meter(7, 5, 5), meter(8, 1, 1)]) };
    assert_eq!(bench.manual(bundle).unwrap_err().code, "port_failed");
    let meters: Vec<v1::Meter> = bench.switch.meters().meters.iter().map(|state| state.meter.unwrap()).collect();
    assert_eq!(meters, [meter(7, 1, 3)]);
}

#[test]
fn two_workers_share_a_rate_by_what_comes_to_each() {
    let bench = with_workers(false, 2);
    let bundle = v1::Bundle {
        add_ports: vec![port(1), port(2)],
        add_rules: vec![metered(5, 7)],
        set_meters: vec![meter(7, 1, 100)],
        ..Default::default()
    };
    bench.manual(bundle).unwrap();
    let send = |frames: u64| {
        let before = bench.switch.meters().meters[0];
        for _ in 0..frames {
            bench.peer(1).send(frame(7)).unwrap();
        }
        eventually("all are counted", || bench.switch.meters().meters[0].packets == before.packets + frames);
        bench.switch.meters().meters[0].dropped_packets - before.dropped_packets
    };
    // The port has one queue, and so one worker, which has half of the burst at first.
    let dropped = send(100);
    assert!((45..=50).contains(&dropped), "{dropped}");
    bench.switch.share_meters();
    // Set anew, it is full: the worker to whom all came has 95 of 100.
    bench.manual(set_meters(vec![meter(7, 1, 101)])).unwrap();
    let dropped = send(100);
    assert!((1..=5).contains(&dropped), "{dropped}");
}
