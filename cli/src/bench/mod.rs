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
mod figure;
mod hugepages;
mod io_only;
mod many_rules;
mod new_flows;
mod open_vswitch;
mod ours;
mod per_packet;
mod place;
mod process;
mod real;
mod real_flood;
mod real_l2fwd;
mod real_ovs;
mod real_tap;
mod statistics;
mod traffic;
mod unix_control;

use crate::output;
use anyhow::{Context, Result, bail};
use cases::{CASES, Case, Measure};
use figure::Figure;
use hugepages::Hugepages;
use place::Place;
use serde_json::json;
use statistics::Verdict;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Huge pages of 2 MiB for Open vSwitch and testpmd together: each keeps the recording in packet buffers.
const HUGEPAGES: u64 = 1000;

/// What is typed.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Which cases; all unless some are named. With --json, a word that ends in .json is the file to write.
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// Forward between these two interfaces of this machine what a generator sends to them, instead of the cases; the
    /// host does not see their frames meanwhile.
    #[arg(long, value_name = "IF1,IF2", value_delimiter = ',', conflicts_with = "cases")]
    ports: Vec<String>,
    /// Only our own figures: needs nothing but what "make bench" builds.
    #[arg(long)]
    ours: bool,
    /// End with 1 unless all figures pass; with 1 only if one fails otherwise.
    #[arg(long)]
    strict: bool,
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

/// What all cases share.
struct Bench {
    // In this order: huge pages lie in the place.
    hugepages: Option<Hugepages>,
    place: Place,
    pairs: u32,
    window: Duration,
    ours_only: bool,
}

/// Runs it. Gives 1 if a case could not be measured, or a figure fails.
pub fn main(arguments: &Arguments, json: bool) -> ExitCode {
    match run(arguments, json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The cases that are asked for, and the file to write.
fn chosen(arguments: &Arguments, json: bool) -> Result<(Vec<&'static Case>, Option<PathBuf>)> {
    let (mut cases, mut file) = (Vec::new(), None);
    for word in &arguments.cases {
        if json && Path::new(word).extension().is_some_and(|extension| extension == "json") {
            file = Some(PathBuf::from(word));
        } else if let Some(case) = CASES.iter().find(|case| case.name == word) {
            cases.push(case);
        } else {
            bail!("\"{word}\" is not a case. weft bench --list shows them.");
        }
    }
    if cases.is_empty() {
        cases.extend(CASES);
    }
    Ok((cases, file))
}

fn run(arguments: &Arguments, json: bool) -> Result<bool> {
    if arguments.list {
        for case in CASES {
            println!("{:20} {}", case.name, case.about);
        }
        return Ok(true);
    }
    if !(0.02..=60.0).contains(&arguments.seconds) {
        bail!("--seconds: {} is not between 0.02 and 60.", arguments.seconds);
    }
    let (cases, file) = chosen(arguments, json)?;
    weft_up::interrupt::listen()?;
    let place = Place::new(arguments.core)?;
    let mut hugepages = None;
    if !arguments.ours {
        match Hugepages::take(&place, HUGEPAGES) {
            Ok(taken) => hugepages = Some(taken),
            Err(error) => eprintln!("without huge pages, which Open vSwitch is slower for: {error:#}."),
        }
    }
    if cfg!(debug_assertions) {
        eprintln!("this is no release build: its figures say nothing. \"make bench\" makes one.");
    }
    let bench = Bench {
        hugepages,
        place,
        pairs: arguments.pairs,
        window: Duration::from_secs_f64(arguments.seconds),
        ours_only: arguments.ours,
    };
    let mut figures = Vec::new();
    let mut failures = Vec::new();
    if let [one, two] = &arguments.ports[..] {
        figures.push(real::on_interfaces(&bench, [one, two])?);
        report(&bench, &figures, &failures, json, file.as_deref())?;
        return Ok(true);
    } else if !arguments.ports.is_empty() {
        bail!("--ports names two interfaces: --ports eth1,eth2.");
    }
    for case in cases {
        let begin = Instant::now();
        match measure(&bench, case) {
            Ok(measured) => {
                for figure in &measured {
                    eprintln!("{} ({:.0} s)", summary(figure), begin.elapsed().as_secs_f64());
                }
                figures.extend(measured);
            }
            Err(error) => {
                weft_up::interrupt::check()?;
                eprintln!("{}: {error:#}", case.name);
                failures.push(format!("{}: {error:#}", case.name));
            }
        }
    }
    report(&bench, &figures, &failures, json, file.as_deref())?;
    let good = |figure: &Figure| match figure.verdict() {
        None | Some(Verdict::Passes) => true,
        Some(Verdict::Undecided) => !arguments.strict,
        Some(Verdict::Fails) => false,
    };
    Ok(failures.is_empty() && figures.iter().all(good))
}

fn measure(bench: &Bench, case: &Case) -> Result<Vec<Figure>> {
    match case.measure {
        Measure::Packet(scenario) => Ok(vec![per_packet::measure(bench, case, &scenario())?]),
        Measure::NewFlow(scenario) => Ok(vec![new_flows::measure(bench, case, &scenario())?]),
        Measure::Rules(rules) => many_rules::measure(bench, case, &rules()),
        Measure::Real(measure) => measure(bench, case),
    }
}

/// One line while it goes on.
fn summary(figure: &Figure) -> String {
    let theirs = figure.theirs.map(|theirs| format!(" against {theirs:.1}")).unwrap_or_default();
    let verdict = figure.verdict().map(|verdict| format!(", {}", verdict.word())).unwrap_or_default();
    format!("{}: {:.1}{theirs} {}{verdict}", figure.name, figure.ours, figure.unit)
}

fn report(bench: &Bench, figures: &[Figure], failures: &[String], json: bool, file: Option<&Path>) -> Result<()> {
    let all = json!({
        "version": weft_proto::VERSION,
        "pairs": bench.pairs,
        "seconds": bench.window.as_secs_f64(),
        "core": bench.place.core,
        "huge_pages": bench.hugepages.is_some(),
        "release": !cfg!(debug_assertions),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        "not_measured": failures,
    });
    if let Some(file) = file {
        std::fs::write(file, format!("{all:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let text = if json && file.is_none() { format!("{all:#}\n") } else { figure::table(figures) };
    output::write(&text).map_err(|failure| anyhow::anyhow!("{failure:?}"))
}
