//! What each part of a packet's way costs in instructions, by callgrind, against committed figures: time moves by
//! 5–40 % on a shared machine, instructions by a few in a thousand (hash seeds, allocations).
//!
//! `benches/instructions/LEVEL.txt` has a line for each part, at that level of optimisation. After a change that is meant,
//! `WEFT_BENCHES_WRITE=1 cargo test -p weft-benches --test instructions` writes the figures anew: they are committed
//! with the change, and the commit says why.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use weft_benches::parts::{PARTS, REPEATED};

/// By how much a figure may be above the committed one, per cent; and below, before a better one is asked for.
const TOLERANCE: u64 = 5;
/// Differences of fewer instructions are none.
const LEAST: u64 = 5;

fn file() -> PathBuf {
    let level = env!("WEFT_BENCHES_LEVEL");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions").join(format!("{level}.txt"))
}

/// Instructions of a part, done once.
fn count(part: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .args(["--toggle-collect=*weft_benches_repeat*", env!("CARGO_BIN_EXE_weft-benches"), "--part", part])
        .output()
        .expect("valgrind can be run: deploy/prerequisites.sh test installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{part}: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let all: u64 =
        collected.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or_else(|| panic!("{part}: {said}"));
    all / REPEATED
}

#[test]
fn no_part_costs_more_instructions_than_it_did() {
    let counts: BTreeMap<&str, u64> = PARTS.iter().map(|part| (part.name, count(part.name))).collect();
    assert!(counts.values().all(|&count| count > 0), "{counts:?}");
    let file = file();
    if std::env::var_os("WEFT_BENCHES_WRITE").is_some() {
        let lines: String = counts.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        std::fs::write(&file, lines).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        return;
    }
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}. Write it: WEFT_BENCHES_WRITE=1 cargo test -p weft-benches --test instructions",
            file.display()
        )
    });
    let committed: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    let mut differences = Vec::new();
    for (name, &count) in &counts {
        match committed.get(name) {
            Some(&before) if count.abs_diff(before) <= (before * TOLERANCE / 100).max(LEAST) => {}
            Some(before) => differences.push(format!("{name}: {before} before, {count} now")),
            None => differences.push(format!("{name}: no figure before, {count} now")),
        }
    }
    assert!(
        differences.is_empty(),
        "instructions have changed:\n{}\nIf it is meant: WEFT_BENCHES_WRITE=1 cargo test -p weft-benches --test instructions",
        differences.join("\n"),
    );
}
