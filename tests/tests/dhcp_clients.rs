//! More clients of the DHCP that a switch answers by a rule: dhcpcd, and perfdhcp, which plays many at once.
//! dhclient has `dhclient.rs`; udhcpc is what the demo uses.

use std::process::Command;
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::{run, serial};
use weft_up::namespace::ip;

const RULES: &[&str] = &[
    "priority=100,arp,arp_op=1,arp_tpa=10.7.0.1,actions=arp_reply:02:00:00:00:07:01",
    "priority=100,udp,udp_dst=67,actions=dhcp_reply(address=10.7.0.42/24,server=10.7.0.1,mac=02:00:00:00:07:01,\
     router=10.7.0.1,dns=10.7.0.53,mtu=1400,host=web,domain=lab.example,route=10.9.0.0/16>10.7.0.9,lease=600)",
    "priority=1,actions=drop(unknown_destination)",
];

/// A switch with one port, 1, an interface of the namespace. Fields in the order in which they are to end.
struct Place {
    namespace: String,
    switch: Switch,
    _bench: Bench,
}

fn place() -> Place {
    let mut bench = Bench::new();
    let host = bench.namespace("host");
    let namespace = bench.namespace("vm");
    let switch = bench.switch("host", &host);
    switch.add_port(1, &format!("tap:eth0,netns={namespace}"));
    switch.add_flows(RULES);
    Place { namespace, switch, _bench: bench }
}

#[test]
fn dhcpcd_gets_its_lease_and_asks_for_it_again_after_a_restart() {
    let _turn = serial();
    let place = place();
    ip(&format!("-n {} link set eth0 up", place.namespace)).expect("the port made an interface");
    // /run may be mounted noexec, and the client runs its script. That keeps what the client was told: the script that comes
    // with it would change the machine's own resolv.conf.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is ours");
    let script = directory.path().join("script");
    let told = |reason: &str| directory.path().join(reason);
    let text = format!("#!/bin/sh\nenv > \"{}/$reason\"\n", directory.path().display());
    std::fs::write(&script, text).expect("the directory is ours");
    let _made = run(Command::new("chmod").arg("+x").arg(&script)).success();
    let settings = directory.path().join("conf");
    let options =
        "subnet_mask, routers, domain_name_servers, domain_name, host_name, interface_mtu, classless_static_routes";
    std::fs::write(&settings, format!("option {options}\nrequire dhcp_server_identifier\npersistent\n"))
        .expect("the directory is ours");
    // What it keeps on disk and its sockets: in a mount namespace that `ip netns exec` makes, so they go with it.
    let client = format!("timeout 40 dhcpcd -4 -1 -B -f {} -c {} eth0", settings.display(), script.display());
    let commands = format!("mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && {client} && {client}");
    let outcome = run(Command::new("ip").args(["netns", "exec", &place.namespace, "sh", "-c", &commands]));
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stderr.contains("leased 10.7.0.42 for 600 seconds"), "{outcome:#?}");
    for reason in ["BOUND", "REBOOT"] {
        let lines =
            std::fs::read_to_string(told(reason)).unwrap_or_else(|error| panic!("{reason}: {error}: {outcome:#?}"));
        for line in [
            "new_ip_address=10.7.0.42",
            "new_subnet_mask=255.255.255.0",
            "new_domain_name_servers=10.7.0.53",
            "new_domain_name=lab.example",
            "new_host_name=web",
            "new_interface_mtu=1400",
            "new_dhcp_server_identifier=10.7.0.1",
            "new_dhcp_lease_time=600",
        ] {
            assert!(lines.lines().any(|told| told == line), "{reason} lacks {line}:\n{lines}");
        }
    }
    let addresses = ip(&format!("-n {} -4 addr show dev eth0", place.namespace)).expect("it is there");
    assert!(addresses.contains("10.7.0.42/24"), "{addresses}");
    let routes = ip(&format!("-n {} route", place.namespace)).expect("it is there");
    assert!(routes.contains("default via 10.7.0.1") && routes.contains("10.9.0.0/16 via 10.7.0.9"), "{routes}");
    let drops = place.switch.drops_of(1);
    assert!(!drops.contains_key("bad_request"), "{drops:?}");
}

/// The numbers of perfdhcp's report after a word at the beginning of a line: of DISCOVER and OFFER first, then of REQUEST
/// and ACK.
fn reported(printed: &str, word: &str) -> Vec<f64> {
    let number = |line: &str| line.strip_prefix(word)?.split_whitespace().next()?.parse().ok();
    printed.lines().filter_map(number).collect()
}

#[test]
fn perfdhcp_gets_hundreds_of_leases_a_second_and_misses_none() {
    let _turn = serial();
    let place = place();
    // It plays a relay for its clients.
    address(&place.namespace, "10.7.0.9/24");
    let load = "timeout 30 perfdhcp -4 -l eth0 -r 300 -R 500 -p 4 -W 1000000 10.7.0.1";
    let outcome = run(Command::new("ip").args(["netns", "exec", &place.namespace]).args(load.split(' ')));
    println!("{}", outcome.stdout);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    // At a busy machine it sends fewer than it should.
    let [sent, received, lost] =
        ["sent packets:", "received packets:", "drops:"].map(|word| reported(&outcome.stdout, word));
    assert!(sent.len() == 2 && sent.iter().all(|count| *count > 600.0), "{sent:?}");
    assert_eq!((received, lost), (sent, vec![0.0, 0.0]));
    let drops = place.switch.drops_of(1);
    assert!(!drops.keys().any(|reason| ["bad_request", "responder_budget"].contains(&reason.as_str())), "{drops:?}");
}
