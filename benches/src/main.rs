//! `weft-benches [--milliseconds N] [--rules FILE] [CASE…]`: what a packet costs, by case.
//!
//! `weft-benches --part NAME` does a part of the way again and again, for callgrind:
//! `valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*weft_benches_repeat*' …` tells the instructions of
//! [`REPEATED`](weft_benches::parts::REPEATED) times.
//!
//! With `--rules` the rules of a file take the place of the case's. The cases of changes (`changes.rs`) are run if they
//! are named.

use std::process::ExitCode;
use std::time::Duration;
use weft_benches::case::{CASES, Case};
use weft_benches::changes;
use weft_benches::parts::PARTS;
use weft_benches::rig::{Rig, input_and_output};

/// How long packets may miss the cache before they are measured all the same.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Arguments {
    milliseconds: Option<u64>,
    rules: Option<Vec<String>>,
    part: Option<String>,
    cases: Vec<String>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |value: String| value.parse().map_err(|_| format!("{value} is no number"));
        match word.as_str() {
            "--milliseconds" => arguments.milliseconds = Some(number(value()?)?),
            "--rules" => {
                let file = value()?;
                let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
                let is_rule = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
                arguments.rules = Some(text.lines().filter(is_rule).map(ToOwned::to_owned).collect());
            }
            "--part" => arguments.part = Some(value()?),
            _ if names().any(|name| name == word) => arguments.cases.push(word),
            _ => {
                let names: Vec<&str> = names().collect();
                return Err(format!("there is no case {word}; there are {}", names.join(", ")));
            }
        }
    }
    Ok(arguments)
}

fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name).chain(changes::CASES.iter().map(|case| case.name))
}

fn run_changes(arguments: &Arguments) -> Result<(), String> {
    let named = |case: &&changes::Case| arguments.cases.iter().any(|name| name == case.name);
    for case in changes::CASES.iter().filter(named) {
        let done = changes::run(case, Duration::from_millis(arguments.milliseconds.unwrap_or(400)), 5)?;
        let [left, least, greatest] = done.left.map(|part| part * 100.0);
        println!(
            "{}: {:.1} → {:.1} ns/packet at {:.0} changes a second: {left:.1} % are left ({least:.1}–{greatest:.1}), {:.0} asked; {:.2} % hits",
            case.name,
            done.quiet.nanoseconds,
            done.changing.nanoseconds,
            done.changes,
            case.at_least * 100.0,
            done.changing.hits * 100.0,
        );
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let Some(name) = &arguments.part {
        let part = PARTS.iter().find(|part| part.name == name).ok_or(format!("there is no part {name}"))?;
        part.repeat();
        return Ok(());
    }
    let chosen = |case: &&Case| arguments.cases.is_empty() || arguments.cases.iter().any(|name| name == case.name);
    let window = Duration::from_millis(arguments.milliseconds.unwrap_or(400));
    run_changes(arguments)?;
    let of_changes = |name: &String| changes::CASES.iter().any(|case| case.name == name);
    if !arguments.cases.is_empty() && arguments.cases.iter().all(of_changes) {
        return Ok(());
    }
    println!(
        "{:18} {:>9} {:>7} {:>7} {:>6} {:>8} {:>6}",
        "case", "ns/packet", "I/O", "above", "hits", "entries", "masks"
    );
    for case in CASES.iter().filter(chosen) {
        let (mut rules, frames) = (case.make)();
        if let Some(own) = &arguments.rules {
            rules.clone_from(own);
        }
        let io = input_and_output(&frames, window / 2)?;
        let rig = Rig::start(&rules, &frames, u64::MAX, true)?;
        rig.warm(PATIENCE);
        // A report brings all counts to the rules: of many flows, that is work that a switch does not do so often.
        let window = if frames.len() > 50_000 { window * 5 } else { window };
        let mut windows: Vec<_> = (0..5).map(|_| rig.measure(window / 5)).collect();
        rig.stop();
        windows.sort_by(|one, other| one.nanoseconds.total_cmp(&other.nanoseconds));
        let median = windows[2];
        println!(
            "{:18} {:9.1} {io:7.1} {:7.1} {:5.1}% {:8} {:6}",
            case.name,
            median.nanoseconds,
            median.nanoseconds - io,
            median.hits * 100.0,
            median.cache.0,
            median.cache.1,
        );
    }
    Ok(())
}
