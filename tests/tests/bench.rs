//! `weft bench` itself: two cases, our side, briefly. Open vSwitch's side is for people (`make bench`): the whole of
//! DPDK would be installed for nothing else here.

use std::path::Path;
use std::process::{Command, Stdio};
use weft_tests::{program, weft};

#[test]
fn a_case_is_measured_its_counters_agree_and_nothing_stays() {
    let words = ["bench", "connections", "vxlan-push", "--ours", "--pairs", "2", "--seconds", "0.05", "--json"];
    let child = Command::new(program("weft")).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("weft can be run");
    let names = [format!("/run/weft/bench-{}", child.id()), format!("/run/netns/weft-bench-{}-ours", child.id())];
    let ended = child.wait_with_output().expect("it ends");
    let (text, messages) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{text}\n{messages}");
    assert!(text.contains("\"not_measured\": []"), "{text}");
    let of = |name: &str| -> Vec<f64> {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix(name));
        values.map(|value| value.trim_matches([' ', ',', '"']).parse().expect("a number")).collect()
    };
    let (costs, packets) = (of("\"ours\":"), of("\"our counters agree, packets\":"));
    assert!(costs.len() == 2 && costs.iter().all(|cost| *cost > 0.0), "{text}");
    assert!(packets.len() == 2 && packets.iter().all(|packets| *packets > 10_000.0), "{text}");
    for name in names {
        assert!(!Path::new(&name).exists(), "{name} is still there");
    }
}

#[test]
fn what_is_no_case_is_refused() {
    let _sentence =
        weft(&["bench", "no-such-case"]).refused(&["\"no-such-case\" is not a case. weft bench --list shows them."]);
    assert!(weft(&["bench", "--list"]).success().contains("exact-rules"));
}
