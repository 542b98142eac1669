//! Timeouts with the time passed in, and who is told of removed rules.

use super::*;
use crate::clock;
use crate::flow::rule::Rule;
use v1::RemovalReason;

const SECOND: u64 = 1_000_000;

fn timed(priority: u32, idle: u32, hard: u32) -> v1::Rule {
    v1::Rule {
        idle_timeout_seconds: idle,
        hard_timeout_seconds: hard,
        notify_removal: true,
        ..rule(priority, vec![from_port(1)], vec![output(2)])
    }
}

/// Rules of different matches: in one place of a table there are few.
fn many(rules: u32, idle: u32, hard: u32) -> Vec<v1::Rule> {
    let matched = |index: u32| vec![exact(Field::Metadata, &u64::from(index).to_be_bytes())];
    (0..rules).map(|index| v1::Rule { r#match: matched(index), ..timed(5, idle, hard) }).collect()
}

impl Bench {
    /// The rule of this priority.
    fn find(&self, priority: u16) -> Option<Arc<Rule>> {
        self.switch.tables.rules(|rule| rule.id.priority == priority).pop()
    }

    fn add(&self, rules: Vec<v1::Rule>) {
        self.manual(v1::Bundle { add_rules: rules, ..Default::default() }).unwrap();
    }

    /// Sends a frame from 1 to 2.
    fn pass(&self) {
        self.peer(1).send(frame(7)).unwrap();
        self.peer(2).wait(PATIENCE).expect("the frame arrives");
    }
}

fn with_ports() -> Bench {
    let bench = bench();
    bench.manual(v1::Bundle { add_ports: vec![port(1), port(2)], ..Default::default() }).unwrap();
    bench
}

#[test]
fn a_hard_timeout_ends_a_rule_however_much_it_is_used() {
    let bench = with_ports();
    let mut told = bench.switch.removals().listen().unwrap();
    bench.add(vec![timed(5, 0, 30)]);
    let since = bench.find(5).unwrap().since;
    bench.pass();
    assert_eq!(bench.switch.expire_rules(since + 30 * SECOND - 1), 0);
    bench.pass();
    assert_eq!(bench.switch.expire_rules(since + 30 * SECOND), 1);
    assert!(bench.rules().is_empty());
    let removed = told.try_recv().unwrap();
    assert_eq!((removed.reason(), removed.packets), (RemovalReason::HardTimeout, 2));
    assert_eq!(removed.bytes, 2 * frame(7).len() as u64);
    assert_eq!(removed.rule.unwrap().hard_timeout_seconds, 30);
    // The cached program is not used any more.
    bench.peer(1).send(frame(7)).unwrap();
    eventually("it finds no rule", || bench.dropped(DropReason::TableMiss) == [(1, 1)]);
}

#[test]
fn an_idle_timeout_counts_from_the_last_packet() {
    let bench = with_ports();
    let mut told = bench.switch.removals().listen().unwrap();
    bench.add(vec![timed(5, 10, 0), timed(6, 0, 0)]);
    let since = bench.find(5).unwrap().since;
    // The second one shades the first: it alone is used.
    assert_eq!(bench.switch.expire_rules(since + 10 * SECOND - 1), 0);
    assert_eq!(bench.switch.expire_rules(since + 10 * SECOND), 1);
    assert_eq!(told.try_recv().unwrap().reason(), RemovalReason::IdleTimeout);

    bench.add(vec![timed(7, 10, 0)]);
    let since = bench.find(7).unwrap().since;
    std::thread::sleep(Duration::from_millis(20));
    // Its count lies in the worker's cache; the look asks for it.
    bench.pass();
    assert_eq!(bench.switch.expire_rules(since + 10 * SECOND), 0);
    let used = bench.find(7).unwrap().counters.used().expect("a packet used it");
    assert!(used >= since + 20_000, "{since} {used}");
    assert_eq!(bench.switch.expire_rules(used + 10 * SECOND - 1), 0);
    assert_eq!(bench.switch.expire_rules(used + 10 * SECOND), 1);
    let removed = told.try_recv().unwrap();
    assert_eq!((removed.reason(), removed.packets), (RemovalReason::IdleTimeout, 1));
    assert_eq!(bench.rules().len(), 1, "the rule without timeouts stays");
}

#[test]
fn the_first_timeout_ends_a_rule_and_adding_it_again_begins_anew() {
    let bench = with_ports();
    let mut told = bench.switch.removals().listen().unwrap();
    bench.add(vec![timed(5, 10, 15)]);
    bench.pass();
    let first = bench.find(5).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    bench.add(vec![timed(5, 10, 15)]);
    let again = bench.find(5).unwrap();
    assert!(again.since > first.since && again.created == first.created);
    assert_eq!(bench.switch.expire_rules(first.since + 10 * SECOND), 0, "the one that was replaced is forgotten");
    assert_eq!(bench.switch.expire_rules(again.since + 10 * SECOND), 1);
    let removed = told.try_recv().unwrap();
    assert_eq!((removed.reason(), removed.packets), (RemovalReason::IdleTimeout, 1), "counters are kept");
    // Without timeouts it stays.
    bench.add(vec![timed(5, 10, 0)]);
    bench.add(vec![timed(5, 0, 0)]);
    assert_eq!(bench.switch.expire_rules(clock::now() + 100_000 * SECOND), 0);
    assert_eq!(bench.rules().len(), 1);
}

#[test]
fn removals_are_told_to_who_asked_about_rules_that_ask_for_it() {
    let bench = with_ports();
    let mut told = bench.switch.removals().listen().unwrap();
    let quiet = v1::Rule { notify_removal: false, ..timed(6, 0, 0) };
    bench.add(vec![timed(5, 0, 0), quiet.clone()]);
    bench.pass();
    // Replaced, or removed and added at once: it is there.
    bench.add(vec![v1::Rule { cookie: 99, ..timed(5, 0, 0) }]);
    let swap = v1::Bundle { add_rules: vec![timed(5, 0, 0)], remove_rules: vec![timed(5, 0, 0)], ..Default::default() };
    bench.manual(swap).unwrap();
    assert!(told.try_recv().is_err());
    let remove = v1::Bundle { remove_rules: vec![quiet, timed(5, 0, 0)], ..Default::default() };
    bench.manual(remove).unwrap();
    let removed = told.try_recv().unwrap();
    assert_eq!((removed.reason(), removed.rule.unwrap().priority), (RemovalReason::Delete, 5));
    assert!(told.try_recv().is_err(), "the other one did not ask for it");
    let all: Vec<_> =
        (1..crate::limits::REMOVAL_LISTENERS).map(|_| bench.switch.removals().listen().unwrap()).collect();
    assert_eq!(bench.switch.removals().listen().unwrap_err().code, "too_many_listeners");
    drop(all);
    assert!(bench.switch.removals().listen().is_ok());
}

#[test]
fn what_waits_for_a_listener_is_bounded() {
    let bench = with_ports();
    let mut told = bench.switch.removals().listen().unwrap();
    let kept = crate::limits::REMOVALS_KEPT as u32;
    bench.add(many(kept + 10, 0, 1));
    assert_eq!(bench.switch.expire_rules(clock::now() + 2 * SECOND), kept as usize + 10);
    let missed = told.try_recv().unwrap_err();
    assert!(matches!(missed, tokio::sync::broadcast::error::TryRecvError::Lagged(10)), "{missed:?}");
    assert_eq!(std::iter::from_fn(|| told.try_recv().ok()).count(), kept as usize);
}

#[test]
fn rules_that_are_replaced_for_ever_are_not_kept_for_ever() {
    let bench = with_ports();
    for _ in 0..20 {
        bench.add(many(1500, 600, 0));
    }
    let kept = bench.switch.state().expiry.len();
    assert!((1500..=2 * 1500 + crate::limits::EXPIRED_AT_ONCE + 1500).contains(&kept), "{kept} of 30,000 added");
    assert_eq!(bench.switch.expire_rules(clock::now() + 700 * SECOND), 1500);
}
