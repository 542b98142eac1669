//! Runs the walk-throughs of `docs/switch.md` as they stand there, each section in namespaces of its own
//! (mounts, network, processes): names cannot collide with anything on the machine, and whatever happens, nothing is left.

use std::path::PathBuf;
use std::process::Command;

const PAGE: &str = include_str!("../../docs/switch.md");

/// Where `weft` and `weft-switch` lie: two folders above this test.
fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a file");
    let directory = own.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").to_owned();
    for program in ["weft", "weft-switch", "examples/learning_switch"] {
        assert!(directory.join(program).is_file(), "{program} is not built. Run: make test");
    }
    directory
}

/// The shell commands of a section, which end at the next heading. A command that the page says gets "no answer"
/// must fail, every other one succeed.
fn commands(section: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("\n## {section}\n")).expect("the section exists");
    let body = rest.split("\n## ").next().unwrap_or(rest);
    let blocks = body.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or(block));
    let lines = blocks.flat_map(str::lines).map(|line| {
        if line.contains("# no answer") { format!("if {line}\nthen exit 9; fi\n") } else { format!("{line}\n") }
    });
    lines.collect()
}

/// Runs a section; gives what it printed.
fn walk(section: &str) -> String {
    let script = format!(
        "set -eux -o pipefail\n\
         mount -t tmpfs none /run\n\
         mkdir /run/weft /run/netns\n\
         {}",
        commands(section)
    );
    let programs = programs();
    let own = format!("{}:{}", programs.display(), programs.join("examples").display());
    let path = format!("{own}:{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["timeout", "120", "bash", "-c", &script])
        .env("PATH", path)
        .output()
        .expect("unshare is part of util-linux");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "docs/switch.md, \"{section}\" ended with {}:\n{printed}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

#[test]
fn a_switch_and_two_endpoints() {
    let printed = walk("A switch and two endpoints");
    for expected in ["table_miss", "3 received", "dropped under \"policy\""] {
        assert!(printed.contains(expected), "no \"{expected}\" in:\n{printed}");
    }
}

#[test]
fn a_router() {
    let printed = walk("A router");
    let expected = [
        "4008 bytes from 10.0.1.1",
        "4008 bytes from 10.0.2.2",
        "From 10.0.1.1 icmp_seq=1 Time to live exceeded",
        "From 10.0.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)",
        "mtu 1400",
        "From 10.0.1.1 icmp_seq=1 Destination Net Unreachable",
        "ttl_expired",
        "too_big",
        "unknown_destination",
    ];
    for expected in expected {
        assert!(printed.contains(expected), "no \"{expected}\" in:\n{printed}");
    }
}

#[test]
fn a_controller_of_your_own() {
    let example = include_str!("../../proto/examples/learning_switch.rs");
    assert!(PAGE.contains(&format!("```rust\n{example}```\n")), "the page shows another learning switch");
    let printed = walk("A controller of your own");
    // One rule each way for each of three pairs, and again for the ping after they have gone.
    for (expected, least) in [("3 received", 3), ("1 received", 1), ("idle_timeout=5, send_flow_rem, owner=manual", 6)]
    {
        assert!(printed.matches(expected).count() >= least, "not {least} times \"{expected}\" in:\n{printed}");
    }
    let idle = printed.lines().filter(|line| line.starts_with("reason=idle, ") && line.contains(",idle_timeout=5,"));
    assert!(idle.count() >= 6, "{printed}");
}

#[test]
fn two_hosts_over_vxlan() {
    let printed = walk("Two hosts over VXLAN");
    for expected in ["192.0.2.2", "1 received"] {
        assert!(printed.contains(expected), "no \"{expected}\" in:\n{printed}");
    }
}
