//! The ends of a demo: by Ctrl-C, and by SIGKILL with `weft down` after it.

use std::time::Duration;
use weft_tests::demo::{Demo, remains};
use weft_tests::{eventually, serial, weft};
use weft_up::check::remains::xdp_program;

/// Ids of the XDP programs of its two hosts.
fn xdp_programs(demo: &Demo) -> Vec<u32> {
    let programs = ["a", "b"].map(|host| xdp_program(&demo.layout.host_namespace(host), "eth0"));
    programs.map(|id| id.expect("each host has an XDP program on its underlay interface")).to_vec()
}

fn nothing_remains(demo: &Demo, programs: &[u32]) {
    let mut found = Vec::new();
    let gone = || {
        found = remains(&demo.layout, programs);
        found.is_empty().then_some(())
    };
    // The kernel frees programs and namespaces a little after their last user.
    eventually("the removal of everything", Duration::from_secs(5), gone);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let _turn = serial();
    let mut demo = Demo::start("interrupt");
    let programs = xdp_programs(&demo);
    assert!(!remains(&demo.layout, &programs).is_empty(), "this test would not see what remains");
    assert_eq!(demo.interrupt(), Some(0), "{}", demo.said());
    nothing_remains(&demo, &programs);
}

#[test]
fn what_a_killed_demo_left_is_removed() {
    let _turn = serial();
    let mut demo = Demo::start("kill");
    let programs = xdp_programs(&demo);
    let directory = demo.layout.directory.display().to_string();

    // A second demo in the same place is refused, and harms nothing.
    weft(&["up", "--directory", &directory]).refused(&["runs in", "weft down", "--directory"]);

    demo.kill();
    let left = remains(&demo.layout, &programs);
    for kind in ["network namespace", "XDP program", "process"] {
        assert!(left.iter().any(|line| line.starts_with(kind)), "no {kind} was left: {left:?}");
    }
    let _said = weft(&["down", "--directory", &directory]).success();
    nothing_remains(&demo, &programs);
    let again = weft(&["down", "--directory", &directory]).success();
    assert!(again.contains("nothing to remove"), "{again}");
}

#[test]
fn down_ends_a_demo_that_runs() {
    let _turn = serial();
    let demo = Demo::start("running");
    let programs = xdp_programs(&demo);
    let directory = demo.layout.directory.display().to_string();
    let _said = weft(&["down", "--directory", &directory]).success();
    nothing_remains(&demo, &programs);
}

#[test]
fn a_demo_interrupted_half_way_leaves_nothing() {
    let _turn = serial();
    let mut demo = Demo::launch("half-way");
    eventually("the first progress", Duration::from_secs(20), || demo.said().contains("underlay:").then_some(()));
    assert_eq!(demo.interrupt(), Some(130), "{}", demo.said());
    nothing_remains(&demo, &[]);
}

#[test]
fn a_program_that_dies_is_named_with_its_last_words() {
    let _turn = serial();
    let mut demo = Demo::start("dies");
    demo.process("switch of host b").signal(rustix::process::Signal::KILL);
    eventually("the news", Duration::from_secs(5), || {
        let said = demo.said();
        (said.contains("switch of host b ended (signal: 9 (SIGKILL))") && said.contains("host-b.log")).then_some(())
    });
    let directory = demo.layout.directory.display().to_string();
    let remedy = format!("or weft down --directory {directory})");
    for part in ["weft-switch runs", "has no network any more", &demo.layout.instance_namespace(2), &remedy] {
        eventually("what it means and what to do", Duration::from_secs(5), || demo.said().contains(part).then_some(()));
    }
    assert_eq!(demo.interrupt(), Some(0), "{}", demo.said());
    nothing_remains(&demo, &[]);
}
