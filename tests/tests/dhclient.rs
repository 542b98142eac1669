//! ISC's DHCP client, which asks for other things than udhcpc, and in another way, gets its lease, renews and
//! releases it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weft_tests::bench::Bench;
use weft_tests::demo::Demo;
use weft_tests::{eventually, run, serial};
use weft_up::namespace::{ip, run_inside};

/// Keeps what the client was told under the name of the event, and applies the address alone: the script
/// that comes with the client would change the machine's own resolv.conf.
const SCRIPT: &str = r#"#!/bin/sh
env > "$WEFT_EVENTS/$reason.new"
mv "$WEFT_EVENTS/$reason.new" "$WEFT_EVENTS/$reason"
case "$reason" in
BOUND|REBOOT) ip addr add "$new_ip_address/24" dev "$interface" ;;
RELEASE|EXPIRE|STOP) ip -4 addr flush dev "$interface" ;;
esac
exit 0
"#;

struct Client {
    namespace: String,
    /// Under the target directory: /run may be mounted noexec, and the client runs its script.
    directory: tempfile::TempDir,
}

impl Client {
    fn new(namespace: &str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is ours");
        let script = directory.path().join("script");
        std::fs::write(&script, SCRIPT).expect("the directory is ours");
        let _made = run(Command::new("chmod").arg("+x").arg(&script)).success();
        // The client's own configuration for what it would otherwise wait half an hour for.
        let settings = "request subnet-mask, routers, domain-name-servers, interface-mtu, host-name, domain-name;\n";
        std::fs::write(directory.path().join("conf"), settings).expect("the directory is ours");
        Self { namespace: namespace.to_owned(), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, options: &[&str]) -> weft_tests::Outcome {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "timeout", "40", "dhclient", "-4", "-v"]);
        for (option, name) in [("-sf", "script"), ("-lf", "leases"), ("-pf", "pid"), ("-cf", "conf")] {
            command.arg(option).arg(self.path(name));
        }
        command.arg("-e").arg(format!("WEFT_EVENTS={}", self.directory.path().display()));
        run(command.args(options).arg("eth0"))
    }

    /// What the client was told with an event; `None` if there was none.
    fn event(&self, reason: &str) -> Option<BTreeMap<String, String>> {
        let text = std::fs::read_to_string(self.path(reason)).ok()?;
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(text.lines().filter_map(pair).collect())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It stays behind as a daemon once it has its lease.
        if let Some(id) = read_id(&self.path("pid"))
            && let Some(process) = weft_up::record::ProcessIdentity::of(id)
        {
            process.end(Duration::from_secs(2));
        }
    }
}

fn read_id(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[test]
fn dhclient_gets_renews_and_releases_its_lease() {
    let _turn = serial();
    let demo = Demo::start("dhclient");
    let mut bench = Bench::new();
    let namespace = bench.namespace("vm");
    let project = ["--project", "blue"];
    let weft = |arguments: &[&str]| demo.weft(&[arguments, &project].concat()).success();
    weft(&["network", "create", "lab"]);
    // The shortest lease there is: half of it passes before the client renews.
    let subnet = ["--cidr", "10.7.0.0/24", "--dns", "10.7.0.53", "--lease", "60", "--domain", "lab.example"];
    weft(&[&["subnet", "create", "lab", "--network", "lab"][..], &subnet].concat());
    weft(&["port", "create", "isc", "--network", "lab", "--address", "10.7.0.42"]);
    weft(&["port", "plug", "isc", "--host", "b", "--netns", &namespace, "--interface", "eth0"]);
    ip(&format!("-n {namespace} link set eth0 up")).expect("the port made an interface");

    let client = Client::new(&namespace);
    let outcome = client.command(&["-1"]);
    assert!(outcome.stderr.contains("bound to 10.7.0.42"), "{outcome:#?}");
    let told = client.event("BOUND").expect("the client ran its script");
    for (name, value) in [
        ("new_ip_address", "10.7.0.42"),
        ("new_subnet_mask", "255.255.255.0"),
        ("new_routers", "10.7.0.1"),
        ("new_domain_name_servers", "10.7.0.53"),
        ("new_interface_mtu", "1450"),
        ("new_dhcp_lease_time", "60"),
        ("new_dhcp_renewal_time", "30"),
        ("new_host_name", "isc"),
        ("new_domain_name", "lab.example"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "option {name} in {told:#?}");
    }
    run_inside(&namespace, "ip addr show dev eth0")
        .map(|shown| assert!(shown.contains("10.7.0.42/24"), "{shown}"))
        .expect("ip works");

    // By itself, by unicast from its address, when half the lease is over.
    let renewed = eventually("the renewal", Duration::from_secs(50), || client.event("RENEW"));
    assert_eq!(renewed.get("new_ip_address").map(String::as_str), Some("10.7.0.42"), "{renewed:#?}");

    let consumed = || {
        let printed = demo.weft(&["drops", "b", "--all"]).success();
        let line = printed.lines().find(|line| line.split_whitespace().any(|word| word == "consumed"));
        let count =
            line.and_then(|line| line.split_whitespace().find_map(|word| word.replace(',', "").parse::<u64>().ok()));
        count.unwrap_or_else(|| panic!("no count of consumed frames in:\n{printed}"))
    };
    let before = consumed();
    let outcome = client.command(&["-r"]);
    assert!(outcome.stderr.contains("DHCPRELEASE"), "{outcome:#?}");
    eventually("the release's being counted", Duration::from_secs(3), || (consumed() > before).then_some(()));

    // Released, it can be had again.
    let outcome = client.command(&["-1"]);
    assert!(outcome.stderr.contains("bound to 10.7.0.42"), "{outcome:#?}");
}
