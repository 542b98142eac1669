//! `weft up --check`: it passes, leaves nothing behind, and each of its lines finds its fault and no other does.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use weft_tests::demo::{fresh_directory, remains};
use weft_tests::{eventually, serial, weft};
use weft_up::layout::Layout;
use weft_up::namespace::ip;

fn check(directory: &Path, broken: Option<&str>) -> weft_tests::Outcome {
    let directory = directory.display().to_string();
    let mut arguments = vec!["up", "--check", "--directory", &directory];
    if let Some(name) = broken {
        arguments.extend(["--break", name]);
    }
    weft(&arguments)
}

/// The names of the lines that begin with a word.
fn lines<'a>(printed: &'a str, word: &str) -> Vec<&'a str> {
    let of_word = printed.lines().filter(|line| line.split_whitespace().next() == Some(word));
    // ok 0.12 s ping …
    of_word.filter_map(|line| line.split_whitespace().nth(3)).collect()
}

fn links() -> BTreeSet<String> {
    let listed = ip("-o link show").expect("ip works");
    listed.lines().filter_map(|line| Some(line.split(": ").nth(1)?.to_owned())).collect()
}

#[test]
fn every_line_holds_and_nothing_is_left_behind() {
    let _turn = serial();
    let directory = fresh_directory("check");
    let layout = Layout::new(&directory).expect("the directory is usable");
    let before = links();
    let printed = check(&directory, None).success();
    assert_eq!(lines(&printed, "ok"), weft_up::check::names(), "{printed}");
    assert_eq!(remains(&layout, &[]), Vec::<String>::new());
    // Another program may make and remove links meanwhile.
    eventually("the links' being as before", Duration::from_secs(5), || {
        links().difference(&before).next().is_none().then_some(())
    });
}

#[test]
fn each_fault_is_found_by_its_line_and_no_other() {
    let _turn = serial();
    let directory = fresh_directory("break");
    let mut wrong = Vec::new();
    for name in weft_up::check::names() {
        let outcome = check(&directory, Some(name));
        let failed = lines(&outcome.stdout, "FAILED");
        if outcome.code != Some(1) || failed != [name] {
            wrong.push(format!("--break {name} made {failed:?} fail: {outcome:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_that_does_not_exist_cannot_be_broken() {
    let refusal = weft(&["up", "--check", "--break", "everything"]).refused(&["--break", "\"everything\""]);
    for name in weft_up::check::names() {
        assert!(refusal.contains(name), "the message does not name {name}: {refusal}");
    }
}
