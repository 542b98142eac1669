//! What the first packet of a flow costs: a recording in which every frame begins a flow, into a switch that knows
//! none of them.

use super::Bench;
use super::cases::{Case, Scenario};
use super::contender::Contender as _;
use super::figure::{Figure, Judged};
use super::open_vswitch::{Counters, OpenVswitch};
use super::ours::Ours;
use super::statistics::median;
use super::traffic;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a recording may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures a case.
pub fn measure(bench: &Bench, case: &Case, scenario: &Scenario) -> Result<Figure> {
    let place = &bench.place;
    let recording = place.file("traffic.pcap");
    traffic::write(&recording, &scenario.frames)?;
    let frames = scenario.frames.len() as u64;
    let mut switch = None;
    if !bench.ours_only {
        let hugepages = bench.hugepages.as_ref();
        let mut started = OpenVswitch::start(place, hugepages, scenario.frames.len() + 60_000)?;
        started.add_output(None)?;
        started.add_rules(&place.file("rules.txt"), &scenario.rules)?;
        started.process().pause();
        switch = Some(started);
    }
    let (mut costs, mut their_costs, mut their_misses) = (Vec::new(), Vec::new(), 0);
    for pair in 0..bench.pairs {
        if pair % 2 == 0 {
            costs.push(our_cost(bench, scenario, &recording)?);
        }
        if let Some(switch) = &mut switch {
            switch.process().resume();
            let (cost, misses) = their_cost(switch, &recording, frames)?;
            their_costs.push(cost);
            their_misses = misses;
            switch.process().pause();
        }
        if pair % 2 == 1 {
            costs.push(our_cost(bench, scenario, &recording)?);
        }
    }
    let theirs = (!their_costs.is_empty()).then(|| median(&their_costs));
    let judged = match theirs {
        None => Judged::Not,
        Some(_) => {
            Judged::Ratios(costs.iter().zip(&their_costs).map(|(own, their)| own / their).collect(), case.at_most)
        }
    };
    let rate = |cost: f64| format!("{:.0}", 1e9 / cost);
    let mut notes = vec![("our flows a second", rate(median(&costs)))];
    if let Some(cost) = theirs {
        notes.push(("theirs", rate(cost)));
        notes.push(("their misses", format!("{their_misses} of {frames} packets")));
    }
    Ok(Figure {
        name: case.name.to_owned(),
        about: case.about.to_owned(),
        unit: "ns/flow",
        ours: median(&costs),
        theirs,
        judged,
        io: None,
        notes,
    })
}

/// Of a switch that is started for it: nanoseconds a flow.
fn our_cost(bench: &Bench, scenario: &Scenario, recording: &Path) -> Result<f64> {
    let mut own = Ours::start(&bench.place)?;
    own.add_rules(scenario, recording)?;
    let before = own.thread().on_cpu()?;
    own.add_traffic(scenario, recording)?;
    // The worker sleeps once all frames are through; to ask it would cost it time.
    let (mut last, begin) = (before, Instant::now());
    let after = loop {
        std::thread::sleep(Duration::from_millis(20));
        own.process().check()?;
        let now = own.thread().on_cpu()?;
        if now > before && now - last < 1_000_000 {
            break last;
        }
        if begin.elapsed() > PATIENCE {
            bail!("the recording is not through after {} s", PATIENCE.as_secs());
        }
        last = now;
    };
    let (frames, misses) = (scenario.frames.len() as u64, own.misses()?);
    if misses < frames {
        bail!("{misses} of {frames} frames were the first of a flow");
    }
    let received = own.verify()?;
    if received != frames {
        bail!("{received} of {frames} frames were received");
    }
    Ok((after - before) as f64 / frames as f64)
}

/// Of one that forgets all it knew of the recording: nanoseconds a flow, and how many packets no cache knew. Its thread
/// never sleeps, so what counts is what it calls processing: the cycles of rounds in which packets came.
fn their_cost(switch: &mut OpenVswitch, recording: &Path, frames: u64) -> Result<(f64, u64)> {
    switch.remove_traffic()?;
    switch.purge()?;
    switch.control("dpctl/flush-conntrack", &[])?;
    let start = switch.counters()?;
    switch.add_traffic(recording, None, false)?;
    let begin = Instant::now();
    let end = loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = switch.counters()?;
        if now.packets - start.packets >= frames {
            break now;
        }
        switch.process().check()?;
        if begin.elapsed() > PATIENCE {
            let packets = now.packets - start.packets;
            bail!("Open vSwitch received {packets} of {frames} packets in {} s", PATIENCE.as_secs());
        }
    };
    // How long a cycle is, from a time in which there is nothing to do.
    let (before, first) = (switch.counters()?, switch.thread().on_cpu()?);
    std::thread::sleep(Duration::from_millis(100));
    let (after, last) = (switch.counters()?, switch.thread().on_cpu()?);
    let cycles = |counters: &Counters| counters.get("idle cycles") + counters.get("processing cycles");
    let nanoseconds = (last - first) as f64 / (cycles(&after) - cycles(&before)) as f64;
    let processing = end.get("processing cycles") - start.get("processing cycles");
    Ok((processing as f64 * nanoseconds / frames as f64, end.misses() - start.misses()))
}
