//! What changes of rules cost packets: 10,000 active flows, each with a rule of its own, and a thousand changes a
//! second beside them. Each change is a commit of one rule, which the next one takes away again.

use crate::case::exact;
use crate::frames::{Flow, shuffled};
use crate::rig::{Measured, Rig};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FLOWS: u32 = 10_000;
const BETWEEN: Duration = Duration::from_millis(1);

/// One case.
pub struct Case {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// The part of the throughput without changes that is to be left.
    pub at_least: f64,
    /// The rule of a change.
    rule: fn(u32) -> String,
}

/// All of them.
pub const CASES: &[Case] = &[
    Case {
        name: "changes-in-other-partitions",
        at_least: 0.95,
        rule: |change| format!("priority=40000,in_port=3,{},actions=output:2", Flow::number(change % FLOWS).exact()),
    },
    Case {
        name: "changes-beside",
        at_least: 0.9,
        rule: |change| {
            format!("priority=40000,in_port=1,{},actions=drop", Flow::number(FLOWS + change % FLOWS).exact())
        },
    },
    // Each of one active flow, of a tenth of them.
    Case {
        name: "changes-of-a-tenth",
        at_least: 0.8,
        rule: |change| {
            format!("priority=40000,in_port=1,{},actions=output:3", Flow::number(change % (FLOWS / 10)).exact())
        },
    },
    // Each of an eighth of all active flows, which therefore walk anew a thousand times a second: no figure is asked.
    Case {
        name: "changes-of-an-eighth-each",
        at_least: 0.0,
        rule: |_| "priority=40000,in_port=1,udp,ip_src=0.0.0.3/0.0.0.7,actions=output:3".to_owned(),
    },
];

/// What a case came to.
pub struct Outcome {
    /// Without changes.
    pub quiet: Measured,
    /// With them.
    pub changing: Measured,
    /// Changes a second.
    pub changes: f64,
    /// Throughput with changes, as a part of that without: the median of the pairs, the least and the greatest.
    pub left: [f64; 3],
}

/// Measures a case in so many pairs of windows.
///
/// # Errors
/// The machine has no memory left.
pub fn run(case: &Case, window: Duration, pairs: usize) -> Result<Outcome, String> {
    let frames = shuffled((0..FLOWS).map(|number| Flow::number(number).frame()).collect());
    let rig = Rig::start(&exact(FLOWS), &frames, u64::MAX, true)?;
    rig.warm(Duration::from_secs(20));
    let mut all: Vec<(f64, Measured, Measured)> = Vec::new();
    let (mut changes, mut spent) = (0, Duration::ZERO);
    for _ in 0..pairs {
        let quiet = rig.measure(window);
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        let (changing, made) = std::thread::scope(|scope| {
            let changer = scope.spawn(|| change(&rig, case, changes, &stop));
            let changing = rig.measure(window);
            stop.store(true, Ordering::Relaxed);
            (changing, changer.join().expect("the changer does not panic"))
        });
        spent += began.elapsed();
        changes += made?;
        all.push((quiet.nanoseconds / changing.nanoseconds, quiet, changing));
    }
    rig.stop();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (median, quiet, changing) = all[all.len() / 2];
    let left = [median, all[0].0, all[all.len() - 1].0];
    Ok(Outcome { quiet, changing, changes: f64::from(changes) / spent.as_secs_f64(), left })
}

/// Gives how many changes it made.
fn change(rig: &Rig, case: &Case, from: u32, stop: &AtomicBool) -> Result<u32, String> {
    let (mut made, mut next) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) || made % 2 == 1 {
        // Those that add and those that remove take turns.
        let rule = (case.rule)((from + made) / 2);
        if made % 2 == 0 {
            rig.add_rules(&[rule])?
        } else {
            rig.remove_rule(&rule)?
        }
        made += 1;
        next += BETWEEN;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(made)
}
