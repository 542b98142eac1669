//! How long it takes until many rules are in force, and what memory the switch has then.

use super::Bench;
use super::cases::Case;
use super::contender::Contender as _;
use super::figure::{Figure, Judged};
use super::open_vswitch::OpenVswitch;
use super::ours::{Ours, bundle_of};
use super::statistics::median;
use anyhow::{Result, bail};
use std::time::Instant;

/// Megabytes that the switch may have then.
const MOST_MEGABYTES: f64 = 150.0;

/// Measures a case: time and memory.
pub fn measure(bench: &Bench, case: &Case, rules: &[String]) -> Result<Vec<Figure>> {
    let (mut times, mut memory, mut their_times, mut their_memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.pairs {
        // Nothing is measured by processor time here, and no thread of Open vSwitch spins before it has ports.
        let own = Ours::start(&bench.place)?;
        let bundle = bundle_of(rules)?;
        let begin = Instant::now();
        let added = own.apply(bundle)?.rules_added as usize;
        times.push(begin.elapsed().as_secs_f64());
        if added != rules.len() {
            bail!("the switch took {added} of {} rules. Report this.", rules.len());
        }
        memory.push(own.memory()? as f64 / 1e6);
        drop(own);
        if !bench.ours_only {
            let mut switch = OpenVswitch::start(&bench.place, bench.hugepages.as_ref(), 60_000)?;
            their_times.push(switch.add_rules(&bench.place.file("rules.txt"), rules)?.as_secs_f64());
            their_memory.push(switch.memory()? as f64 / 1e6);
            switch.process().check()?;
        }
    }
    let of_theirs = |numbers: &[f64]| (!numbers.is_empty()).then(|| median(numbers));
    let theirs = of_theirs(&their_times);
    let judged = match theirs {
        None => Judged::Not,
        Some(_) => {
            Judged::Ratios(times.iter().zip(&their_times).map(|(own, their)| own / their).collect(), case.at_most)
        }
    };
    let about = |what: &str| format!("{}: {what}", case.about);
    let time = Figure {
        name: case.name.to_owned(),
        about: about("one bundle by gRPC, and by ovs-ofctl -O OpenFlow14 --bundle"),
        unit: "s",
        ours: median(&times),
        theirs,
        judged,
        io: None,
        notes: Vec::new(),
    };
    let memory = Figure {
        name: format!("{}-memory", case.name),
        about: about("memory afterwards (PSS)"),
        unit: "MB",
        ours: median(&memory),
        theirs: of_theirs(&their_memory),
        judged: Judged::Bound(memory, MOST_MEGABYTES),
        io: None,
        notes: Vec::new(),
    };
    Ok(vec![time, memory])
}
