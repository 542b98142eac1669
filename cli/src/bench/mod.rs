//! `weft bench`: what a packet costs here, beside what it costs Open vSwitch, in one run.
//!
//! A case is traffic and rules ([`cases`]). Both switches are processes of their own ([`ours`], [`open_vswitch`]) that
//! are given the same rules through their public interfaces and the same recording, which they receive again and
//! again from memory; what they send is discarded. One runs at a time, all on the same core ([`contender`]); what
//! counts is how long the thread that switches was on the CPU. What receiving and discarding alone costs is measured
//! likewise ([`io_only`]) and subtracted on both sides. The measurements come in pairs, and the ratios of the pairs
//! give median and interval ([`statistics`]).

mod cases;
mod contender;
mod hugepages;
mod io_only;
mod ours;
mod place;
mod process;
mod statistics;
mod traffic;

use anyhow::{Result, bail};
use cases::{CASES, Case, Measure};
use contender::sample;
use io_only::ReceiveAndDiscard;
use ours::Ours;
use place::Place;
use statistics::median;
use std::process::ExitCode;
use std::time::Duration;

/// What is typed.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Which cases; all unless some are named. With --json, a word that ends in .json is the file to write.
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// Only our own figures: needs nothing but what "make bench" builds.
    #[arg(long)]
    ours: bool,
    /// How many pairs of measurements a figure is made of.
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// How long one measurement takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.4)]
    seconds: f64,
    /// The core on which is measured; the last one unless given.
    #[arg(long, value_name = "N")]
    core: Option<usize>,
}

/// Runs it.
pub fn main(arguments: &Arguments, _json: bool) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for case in CASES {
            println!("{:20} {}", case.name, case.about);
        }
        return Ok(());
    }
    let mut chosen = Vec::new();
    for name in &arguments.cases {
        let Some(case) = CASES.iter().find(|case| case.name == name) else {
            bail!("\"{name}\" is not a case. weft bench --list shows them.");
        };
        chosen.push(case);
    }
    if chosen.is_empty() {
        chosen.extend(CASES);
    }
    weft_up::interrupt::listen()?;
    let place = Place::new(arguments.core)?;
    println!("{:20} {:>8} {:>8} {:>8}  cache", "case", "ns", "i/o", "switch");
    for case in chosen {
        ours_only(&place, case, arguments)?;
    }
    Ok(())
}

fn ours_only(place: &Place, case: &Case, arguments: &Arguments) -> Result<()> {
    let Measure::Packet(scenario) = case.measure;
    let scenario = scenario();
    let recording = place.file("traffic.pcap");
    traffic::write(&recording, &scenario.frames)?;
    let mut io = ReceiveAndDiscard::start(place, &recording)?;
    contender::Contender::process(&mut io).pause();
    let mut switch = Ours::with(place, &scenario, &recording)?;
    let settled = ours::settle(&mut switch, scenario.frames.len())?;
    contender::Contender::process(&mut switch).pause();
    let window = Duration::from_secs_f64(arguments.seconds);
    let (mut costs, mut ios) = (Vec::new(), Vec::new());
    for _ in 0..arguments.pairs {
        ios.push(sample(&mut io, window / 2)?.cost());
        costs.push(sample(&mut switch, window)?.cost());
    }
    contender::Contender::process(&mut switch).resume();
    let (entries, masks) = switch.cache()?;
    switch.verify()?;
    let (cost, io) = (median(&costs), median(&ios));
    println!(
        "{:20} {cost:8.1} {io:8.1} {:8.1}  {entries} entries, {masks} masks{}",
        case.name,
        cost - io,
        if settled { "" } else { ", misses go on" }
    );
    Ok(())
}
