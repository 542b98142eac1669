//! What a packet costs, once caches know all flows.

use super::Bench;
use super::cases::{Case, Scenario};
use super::contender::{Contender as _, sample};
use super::figure::{Figure, Judged};
use super::io_only::{ReceiveAndDiscard, Testpmd};
use super::open_vswitch::{OpenVswitch, Setting};
use super::ours::{self, Ours};
use super::statistics::median;
use super::traffic;
use anyhow::{Context as _, Result, bail};

/// Measures a case.
pub fn measure(bench: &Bench, case: &Case, scenario: &Scenario) -> Result<Figure> {
    let place = &bench.place;
    let recording = place.file("traffic.pcap");
    traffic::write(&recording, &scenario.frames)?;
    let frames = scenario.frames.len();

    let mut our_io = ReceiveAndDiscard::start(place, &recording)?;
    our_io.process().pause();
    let mut own = Ours::with(place, scenario, &recording)?;
    let settled = ours::settle(&mut own, frames)?;
    own.process().pause();
    let mut notes = Vec::new();
    let mut theirs = None;
    if !bench.ours_only {
        let hugepages = bench.hugepages.as_ref();
        let mut io = Testpmd::start(place, &recording, frames, hugepages)?;
        io.process().pause();
        let mut switch = OpenVswitch::with(place, scenario, &recording, hugepages)?;
        let (tried, calm) = switch.tune(frames)?;
        let before = (switch.counters()?, switch.sent()?);
        switch.process().pause();
        let text = |(setting, cost): &(Setting, f64)| format!("{} {cost:.0}", setting.text());
        notes.push(("their settings, ns", tried.iter().map(text).collect::<Vec<_>>().join(", ")));
        if !calm {
            notes.push(("theirs", "misses go on".to_owned()));
        }
        theirs = Some((io, switch, before));
    }

    let (mut costs, mut our_ios, mut their_costs, mut their_ios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let window = bench.window;
    for pair in 0..bench.pairs {
        let mut ours_turn = || -> Result<()> {
            our_ios.push(sample(&mut our_io, window / 4)?.cost());
            costs.push(sample(&mut own, window)?.cost());
            Ok(())
        };
        let mut theirs_turn = || -> Result<()> {
            if let Some((io, switch, _)) = &mut theirs {
                their_ios.push(sample(io, window / 4)?.cost());
                their_costs.push(sample(switch, window)?.cost());
            }
            Ok(())
        };
        // Who goes first alternates.
        if pair % 2 == 0 {
            ours_turn()?;
            theirs_turn()?;
        } else {
            theirs_turn()?;
            ours_turn()?;
        }
    }

    if let Some((_, switch, before)) = &mut theirs {
        switch.process().resume();
        let (after, sent) = (switch.counters()?, switch.sent()? - before.1);
        switch.process().pause();
        let received = after.packets - before.0.packets;
        // The two are not read at one moment.
        if sent.abs_diff(received) > received / 50 {
            bail!("Open vSwitch received {received} packets and sent {sent}: it does something else than we do.");
        }
        notes.push(("their hits", after.hits_since(&before.0)));
    }
    own.process().resume();
    let (entries, masks) = own.cache()?;
    let packets = own.verify().with_context(|| case.name)?;
    notes.push(("our cache", format!("{entries} entries, {masks} masks")));
    if !settled {
        notes.push(("ours", "misses go on".to_owned()));
    }
    notes.push(("our counters agree, packets", packets.to_string()));

    let io = median(&our_ios);
    let their_io = (!their_ios.is_empty()).then(|| median(&their_ios));
    let judged = match their_io {
        None => Judged::Not,
        Some(their_io) => {
            let pairs = costs.iter().zip(&their_costs);
            Judged::Ratios(pairs.map(|(own, their)| (own - io) / (their - their_io)).collect(), case.at_most)
        }
    };
    Ok(Figure {
        name: case.name.to_owned(),
        about: case.about.to_owned(),
        unit: "ns/packet",
        ours: median(&costs) - io,
        theirs: their_io.map(|io| median(&their_costs) - io),
        judged,
        io: Some((io, their_io)),
        notes,
    })
}
