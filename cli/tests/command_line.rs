//! The built `weft` against a switch and a controller that answer from memory on a Unix socket: what
//! it prints, what it refuses, and its exit codes.

mod fake;

use fake::Fake;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use weft_proto::text;
use weft_proto::v1::{
    AddressPair, Bundle, CreatePortRequest, CreateSubnetRequest, FixedIp, HostRoute, Owner, PlugPortRequest,
    SecurityGroupChoice,
};

/// Runs `weft` with these words and no settings from outside.
fn weft(words: &[&str]) -> Output {
    weft_with_input(words, "")
}

fn weft_with_input(words: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(words)
        .env_remove("WEFT_CONTROLLER")
        .env_remove("WEFT_TOKEN_FILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weft starts");
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("weft ends")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are text")
}

/// What a command that must succeed printed.
fn done(words: &[&str]) -> String {
    let output = weft(words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", err(&output));
    assert_eq!(err(&output), "", "{words:?}");
    out(&output)
}

/// The errors of a command that must fail with this code and print nothing else.
fn failed(words: &[&str], code: i32) -> String {
    let output = weft(words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}{}", out(&output), err(&output));
    assert_eq!(out(&output), "", "{words:?}");
    err(&output)
}

fn json(words: &[&str]) -> serde_json::Value {
    serde_json::from_str(&done(words)).expect("--json prints JSON")
}

/// Without a host, ports are the cloud's and views are of all hosts.
#[test]
fn a_port_of_the_cloud_is_found_on_its_host() {
    let fake = Fake::start();
    let controller = fake.host();
    let of_cloud = |words: &[&'static str]| [&["--controller", &controller], words].concat();
    let captured = weft(&of_cloud(&["capture", "web-1", "-w", "-", "--count", "1"]));
    assert_eq!(captured.status.code(), Some(0), "{}", err(&captured));
    assert!(captured.stdout.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    assert_eq!(fake.hosts_named(), ["web"]);
    assert!(failed(&of_cloud(&["capture", "web-2", "-w", "-"]), 1).contains("no port \"web-2\""));
    let top = json(&of_cloud(&["top", "--once", "--interval", "0.1", "--json"]));
    assert_eq!((&top["hosts"][0]["host"], &top["ports"][0]["name"]), (&"web".into(), &"web-1".into()));
}

#[test]
fn rules_of_a_file_arrive_as_one_manual_bundle() {
    let fake = Fake::start();
    let lines = "# a comment\n\nin_port=1,actions=output:2\n  table=3,ip,nw_dst=10.0.0.0/8 actions=drop # and why\n";
    let output = weft_with_input(&["flows", "add", &fake.host(), "--file", "-"], lines);
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
    assert_eq!(out(&output), format!("2 rules added to {}.\n", fake.host()));
    let expected = Bundle {
        add_rules: vec![
            text::parse_rule("owner=manual,in_port=1,actions=output:2").unwrap(),
            text::parse_rule("owner=manual,table=3,ip,ip_dst=10.0.0.0/8,actions=drop").unwrap(),
        ],
        ..Bundle::default()
    };
    assert_eq!(fake.bundles(), [expected]);
}

#[test]
fn every_bad_line_is_named_and_nothing_is_sent() {
    let fake = Fake::start();
    let lines = "in_port=1,actions=output:2\n\nnw_src=10.0.0.1,actions=drop\nin_port=1,actions=ouput:2\n";
    let output = weft_with_input(&["flows", "add", &fake.host(), "--file", "-"], lines);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "weft: line 3, column 1: nw_src needs ip. Write \"ip,nw_src=10.0.0.1\".\n\
         weft: line 4, column 19: \"ouput\" is not an action. Did you mean \"output\"?\n"
    );
    assert!(fake.bundles().is_empty());
}

#[test]
fn a_refusal_by_the_switch_names_the_line_too() {
    let fake = Fake::start();
    let lines = "in_port=1,actions=output:2\n# comment\nin_port=2,actions=output:666\n";
    let output = weft_with_input(&["flows", "add", &fake.host(), "--file", "-"], lines);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output), "weft: line 3, instructions: port 666 does not exist. Add it with \"weft ports add\".\n");
}

#[test]
fn dumps_read_like_ovs_ofctl() {
    let fake = Fake::start();
    let host = fake.host();
    assert_eq!(
        done(&["flows", "dump", &host]),
        "cookie=0x1, duration=60s, table=0(classify), n_packets=7, n_bytes=420, priority=100,in_port=1,tcp,tcp_dst=80 \
         actions=goto_table:10 # port web-1 of network blue\n\
         cookie=0x0, duration=5s, table=10(port_security), n_packets=0, n_bytes=0, owner=manual, priority=1 \
         actions=drop(spoofed)\n"
    );
    let manual = done(&["flows", "dump", &host, "table=10", "--owner", "manual"]);
    assert_eq!(manual.lines().count(), 1, "{manual}");
    let rules = json(&["flows", "dump", &host, "--json"]);
    assert_eq!(rules[0]["match"], "in_port=1,tcp,tcp_dst=80");
    assert_eq!(rules[0]["owner"], "fabric");
    assert_eq!(rules[1]["actions"], "drop(spoofed)");
    assert_eq!(done(&["flows", "dump", &host, "table=77"]), "No rule has this match.\n");
    let lookup = failed(&["flows", "dump", &host, "tp_dst=80"], 1);
    assert!(lookup.starts_with("weft: column 1: tp_dst needs tcp, udp or sctp. "), "{lookup}");
}

#[test]
fn deleting_everything_must_be_confirmed() {
    let fake = Fake::start();
    let host = fake.host();
    assert_eq!(
        failed(&["flows", "del", &host], 1),
        "weft: MATCH: this would remove every rule. Name a match, or confirm with --all.\n"
    );
    assert!(fake.removals().is_empty());
    assert_eq!(done(&["flows", "del", &host, "in_port=1"]), format!("1 rule removed from {host}.\n"));
    done(&["flows", "del", &host, "--all", "--owner", "fabric"]);
    let owners: Vec<Owner> = fake.removals().iter().map(weft_proto::v1::DumpRulesRequest::owner).collect();
    assert_eq!(owners, [Owner::Manual, Owner::Fabric]);
}

#[test]
fn a_way_that_does_not_pass_exits_with_one_and_says_so_once() {
    let fake = Fake::start();
    let controller = fake.host();
    let words = |to| ["--controller", &controller, "trace", "--from", "web-1", "--to", to].map(str::to_owned);
    let run = |to| weft(&words(to).each_ref().map(String::as_str));
    let passes = run("10.0.0.6:80");
    assert_eq!(
        (passes.status.code(), out(&passes).as_str()),
        (Some(0), "What port web-1 sends\n  => delivered to 10.0.0.6.\n")
    );
    let fails = run("10.0.0.6:81");
    assert_eq!((fails.status.code(), err(&fails).as_str()), (Some(1), ""));
    assert!(out(&fails).contains("=> delivered to 10.0.0.6."));
    assert_eq!(weft(&["trace", "--from", "web-1", "in_port=1"]).status.code(), Some(2));
    let nowhere = failed(&["--controller", &controller, "trace", "--from", "web-1"], 1);
    assert!(nowhere.contains("--to: --from needs a destination. Say where to: --to 10.0.0.5"), "{nowhere}");
}

#[test]
fn a_trace_shows_steps_and_verdict() {
    let fake = Fake::start();
    let shown = done(&["trace", &fake.host(), "in_port=1,tcp,ip_dst=10.0.0.5,tcp_dst=80"]);
    for part in [
        "packet     in_port=1,tcp,ip_dst=10.0.0.5,tcp_dst=80\n",
        " 1. table 0 (classify)\n    rule      priority=100,in_port=1,tcp,tcp_dst=80\n    actions   goto_table:10\n",
        " 2. table 10 (port_security)\n    rule      priority=1\n    actions   drop(spoofed)\n    origin    made by hand, cookie 0x0\n",
        "verdict    dropped under \"spoofed\": The source MAC or IP is not the port's\n",
        "consulted  in_port=1,tcp,tcp_dst=80\n",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
    assert_eq!(json(&["trace", &fake.host(), "in_port=1", "--json"])["drop_reason"], "spoofed");
    let wrong = failed(&["trace", &fake.host(), "ip,ip_dst=10.0.0.0/24"], 1);
    assert!(wrong.contains("describes many packets"), "{wrong}");
}

#[test]
fn switches_tell_about_themselves() {
    let fake = Fake::start();
    let host = fake.host();
    assert!(done(&["tables", &host]).contains("classify"));
    assert!(done(&["drops", &host]).contains("spoofed"));
    assert!(done(&["neighbours", &host]).starts_with("No neighbours"));
    assert!(done(&["cache", &host]).starts_with("The caches are empty"));
    assert!(done(&["status", &host]).contains("none configured"));
    let listed = done(&["connections", &host, "--zone", "9"]);
    assert!(listed.starts_with("udp ") && listed.contains("zone=9 worker=0"), "{listed}");
    assert_eq!(done(&["connections", &host, "flush", "--address", "10.0.0.5"]), "2 connections ended.\n");
    assert!(failed(&["connections", &host, "flush"], 1).contains("--all"));
    assert!(done(&["ports", "list", &host]).contains("tap:web-1,netns=web (manual)"));
    let punts = done(&["punts", &host, "--count", "2"]);
    assert_eq!(punts.lines().count(), 2, "{punts}");
    assert!(punts.starts_with("in_port=1 table=0 reason=3 cookie=0x0 length=14 eth_src=02:"), "{punts}");
    let file = fake.directory().join("web.pcapng");
    let captured = weft(&["capture", &host, "web-1", "-w", &file.display().to_string(), "--count", "2"]);
    assert_eq!(err(&captured), "Capturing. End it with Ctrl-C.\n2 frames captured.\n");
    assert!(std::fs::read(&file).unwrap().starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    assert!(failed(&["capture", &host, "web-2", "-w", "-"], 1).contains("no port \"web-2\""));
    assert!(done(&["top", &host, "--once", "--interval", "0.1"]).contains("1 web-1"));
    let added = done(&["ports", "add", &host, "5", "tap:web-5,netns=web", "--name", "web-5"]);
    assert_eq!(added, "Port 5 (tap:web-5,netns=web) added and up, interface web-5.\n");
    let sets = done(&["sets", "list", &host]);
    assert_eq!(
        sets.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["web", "manual", "1", "10.1.0.0/16"]
    );
    assert_eq!(json(&["sets", "list", &host, "web", "--json"])[0]["members"][0], "10.1.0.0/16");
    for (words, shape) in [
        (&["sets", "set", &host, "web", "10.0.0.7", "10.1.0.0/16"][..], "Set web"),
        (&["sets", "add", &host, "web", "10.0.0.8"], "1 member added to set web"),
        (&["sets", "del", &host, "web", "10.0.0.8"], "1 member removed from set web"),
        (&["sets", "del", &host, "web"], "Set web removed"),
    ] {
        assert!(done(words).starts_with(shape), "{words:?}");
    }
    assert!(failed(&["sets", "del", &host, "wep"], 1).contains("there is no address set \"wep\""));
    assert!(failed(&["sets", "set", &host, "web", "10.0.0.1/8"], 1).contains("Write 10.0.0.0/8"));
    let bundles = fake.bundles();
    let sets: Vec<_> = bundles.iter().flat_map(|bundle| &bundle.set_address_sets).collect();
    assert_eq!((sets.len(), sets[0].members[1].length), (1, 16));
    assert_eq!(bundles.iter().map(|bundle| bundle.extend_address_sets.len()).sum::<usize>(), 1);
    assert_eq!(bundles.iter().map(|bundle| bundle.shrink_address_sets.len()).sum::<usize>(), 1);
    assert_eq!(bundles.iter().flat_map(|bundle| bundle.remove_address_sets.clone()).collect::<Vec<_>>(), ["web"]);
    let failure = failed(&["ports", "add", &host, "5", "tap:broken"], 1);
    assert!(failure.contains("no such device") && failure.contains("weft ports del"), "{failure}");
}

#[test]
fn groups_are_set_shown_and_removed() {
    let fake = Fake::start();
    let host = fake.host();
    let dumped = done(&["groups", "dump", &host]);
    assert!(dumped.starts_with("group_id=7,owner=manual,type=all,bucket=actions=output:2\n    3 packets"), "{dumped}");
    assert_eq!(json(&["groups", "dump", &host, "7", "--json"])[0]["buckets"][0]["actions"], "output:2");
    assert!(failed(&["groups", "dump", &host, "8"], 1).contains("there is no group 8"));
    let add = "group_id=1,type=select,bucket=weight:10,actions=output:2,bucket=weight:20,actions=output:3";
    assert!(done(&["groups", "add", &host, add]).starts_with("1 group set"));
    assert!(failed(&["groups", "add", &host, "group_id=1,type=al"], 1).contains("Did you mean \"all\"?"));
    assert!(done(&["groups", "del", &host, "group_id=7"]).starts_with("1 group removed"));
    assert!(failed(&["groups", "del", &host, "8"], 1).contains("there is no group 8 made by hand"));
    assert!(done(&["groups", "del", &host, "--all"]).starts_with("1 group removed"));
    let bundles = fake.bundles();
    let set: Vec<_> = bundles.iter().flat_map(|bundle| &bundle.set_groups).collect();
    assert_eq!((set.len(), set[0].buckets[1].weight), (1, 20));
    assert_eq!(bundles.iter().flat_map(|bundle| bundle.remove_groups.clone()).collect::<Vec<_>>(), [7, 7]);
}

#[test]
fn the_controller_is_asked_for_objects_and_passes_calls_on() {
    let fake = Fake::start();
    let controller = fake.host();
    let at = ["--controller", controller.as_str()];
    let ask = |words: &[&str]| done(&[&at[..], words].concat());
    assert!(ask(&["network", "list"]).starts_with("No networks. Create one: weft network create NAME"));
    let created = ask(&["network", "create", "blue", "--project", "p", "--segment", "100"]);
    assert!(created.starts_with("Network blue created, vxlan 100, MTU 1450."), "{created}");
    let list = ask(&["network", "list"]);
    assert_eq!(
        list.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["blue", "p", "vxlan", "100", "1450", "-", "n1"]
    );
    let words = "network create office --type vlan --physical provider --vlan 7 --external";
    let created = ask(&words.split(' ').collect::<Vec<_>>());
    assert!(created.starts_with("Network office created, vlan 7 on provider, MTU"), "{created}");
    assert!(ask(&["network", "show", "office"]).contains("yes"));
    assert_eq!(ask(&["network", "show", "blue", "--json"]).parse::<serde_json::Value>().unwrap()["id"], "n1");
    let overview = ask(&["status"]);
    assert!(
        overview.contains("\nweb   connected  0s     0, 1 behind") && overview.contains("ports        1 DOWN"),
        "{overview}"
    );
    assert_eq!(ask(&["status", "--json"]).parse::<serde_json::Value>().unwrap()["host_states"][0]["name"], "web");
    // By a host's name, the same calls carry that name to the controller.
    assert!(ask(&["tables", "web"]).contains("classify"));
    assert_eq!(fake.hosts_named(), ["web"]);
    let missing = failed(&[&at[..], &["network", "show", "red"]].concat(), 1);
    assert_eq!(missing, "weft: network: there is no network \"red\". See \"weft network list\".\n");
    let refused = failed(&[&at[..], &["network", "delete", "red"]].concat(), 1);
    assert_eq!(refused, "weft: network: there is no network \"red\". See \"weft network list\".\n");
    let other = failed(&[&at[..], &["host", "create", "web"]].concat(), 1);
    assert!(other.contains("not built in this fake"), "{other}");
}

#[test]
fn every_option_of_a_subnet_and_a_port_reaches_the_controller() {
    let fake = Fake::start();
    let controller = fake.host();
    let words = |line: &str| -> String {
        let words: Vec<&str> = ["--controller", &controller].into_iter().chain(line.split(' ')).collect();
        done(&words)
    };
    let created = words(
        "subnet create blue-4 --project p --network blue --cidr 10.0.0.0/24 --gateway none --dns 1.1.1.1 --dns 9.9.9.9 \
         --route 10.1.0.0/16=10.0.0.9 --no-dhcp --lease 60 --domain a.example --pool 10.0.0.10-10.0.0.99",
    );
    assert!(created.starts_with("Subnet blue-4 created, 10.0.0.0/24, no gateway. Next: "), "{created}");
    let route = HostRoute { destination: "10.1.0.0/16".into(), nexthop: "10.0.0.9".into() };
    let expected = CreateSubnetRequest {
        name: "blue-4".into(),
        project: "p".into(),
        network: "blue".into(),
        cidr: "10.0.0.0/24".into(),
        gateway_ip: "none".into(),
        disable_dhcp: true,
        dns_nameservers: vec!["1.1.1.1".into(), "9.9.9.9".into()],
        host_routes: vec![route],
        lease_seconds: 60,
        domain_name: "a.example".into(),
        allocation_pools: vec![weft_proto::v1::AllocationPool { start: "10.0.0.10".into(), end: "10.0.0.99".into() }],
    };
    assert_eq!(fake.subnets(), [expected]);
    words(
        "port create web-1 --network blue --address 10.0.0.5 --mac 02:00:00:00:00:01 --group web --group db \
         --port-security on --address-pair 10.0.0.100 --address-pair 10.0.0.96/27,00:00:5e:00:01:01",
    );
    let address = FixedIp { subnet_id: String::new(), ip_address: "10.0.0.5".into() };
    let expected = CreatePortRequest {
        name: "web-1".into(),
        network: "blue".into(),
        mac_address: "02:00:00:00:00:01".into(),
        fixed_ips: vec![address],
        port_security_enabled: Some(true),
        security_groups: Some(SecurityGroupChoice { groups: vec!["web".into(), "db".into()] }),
        allowed_address_pairs: vec![
            AddressPair { ip_address: "10.0.0.100".into(), mac_address: String::new() },
            AddressPair { ip_address: "10.0.0.96/27".into(), mac_address: "00:00:5e:00:01:01".into() },
        ],
        ..CreatePortRequest::default()
    };
    assert_eq!(fake.ports(), [expected]);
    let plugged = words("port plug web-1 --host web --netns inside --interface eth0");
    assert_eq!(plugged, "Port web-1 is ACTIVE on host web, interface weft7 in namespace inside.\n");
    let expected = PlugPortRequest {
        port: "web-1".into(),
        project: String::new(),
        host: "web".into(),
        netns: "inside".into(),
        interface: "eth0".into(),
        wait_milliseconds: 10_000,
        underlay_address: String::new(),
        vhost_user: false,
    };
    assert_eq!(fake.plugs(), [expected]);
    words("port plug slow --no-wait");
    let waited = failed(&["--controller", &controller, "port", "plug", "slow"], 1);
    assert!(waited.contains("port slow is still BUILD after 10 s"), "{waited}");
    let list = words("port list --network blue");
    assert!(list.starts_with("NAME ") && list.contains("web-1") && list.contains("DOWN"), "{list}");
    assert!(words("host list").contains("connected, behind"));
    assert!(words("host show web").contains("generation  1, acknowledged 0"));
}

#[test]
fn routers_are_joined_and_shown() {
    let fake = Fake::start();
    let controller = fake.host();
    let words = |line: &str| -> String {
        let words: Vec<&str> = ["--controller", &controller].into_iter().chain(line.split(' ')).collect();
        done(&words)
    };
    // The fake gives what it was asked as the router's name.
    let joined = words("router interface add main inner --address 10.0.0.9");
    assert_eq!(joined, "Subnet inner joined to router main inner 10.0.0.9.\n");
    assert_eq!(words("router interface remove main inner"), "Subnet inner taken off router main inner.\n");
    let added = words("router route add main 10.9.0.0/16 10.0.0.5");
    assert_eq!(added, "Router main 10.9.0.0/16 10.0.0.5 has a route to 10.9.0.0/16 by 10.0.0.5.\n");
    assert!(words("router route remove main 10.9.0.0/16").starts_with("Router main 10.9.0.0/16 has no route"));
    let list = words("router list");
    assert!(list.starts_with("NAME ") && list.contains("main") && list.contains("10.0.0.1"), "{list}");
    let shown = words("router show main");
    for part in ["number", "10.9.0.0/16=10.0.0.5", "inner", "02:00:00:00:00:09"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let value = json(&["--controller", &controller, "router", "show", "main", "--json"]);
    assert_eq!(value["interfaces"][0]["ip_address"], "10.0.0.1");

    let set = words("router gateway set main internet --address 203.0.113.9 --no-snat");
    let asked = "main internet 203.0.113.9 Some(false)";
    assert_eq!(set, format!("Router {asked} leads to network internet as 203.0.113.5, with SNAT.\n"));
    // What is not said stays as it is.
    let set = words("router gateway set main internet --address 203.0.113.9");
    assert!(set.starts_with("Router main internet 203.0.113.9 None leads"), "{set}");
    assert!(words("router gateway set main internet --snat").contains("Some(true) leads"));
    assert_eq!(words("router gateway clear main"), "Router main leads to no external network.\n");
    assert!(list.contains("203.0.113.5") && shown.contains("203.0.113.5 of network"), "{list}{shown}");
}

#[test]
fn floating_ips_are_taken_moved_and_given_back() {
    let fake = Fake::start();
    let controller = fake.host();
    let words = |line: &str| -> String {
        let words: Vec<&str> = ["--controller", &controller].into_iter().chain(line.split(' ')).collect();
        done(&words)
    };
    // The fake gives what it was asked as the fixed address.
    let made = words("floating-ip create internet --address 203.0.113.7 --port web-1 --fixed-address 10.0.0.5");
    assert_eq!(made, "Floating IP 203.0.113.7 created; it stands for internetweb-110.0.0.5.\n");
    let moved = words("floating-ip set 203.0.113.7 --port web-2");
    assert_eq!(moved, "Floating IP 203.0.113.7 stands for web-2.\n");
    assert_eq!(words("floating-ip unset 203.0.113.7"), "Floating IP 203.0.113.7 stands for no port.\n");
    assert_eq!(words("floating-ip delete 203.0.113.7"), "Floating IP 203.0.113.7 deleted.\n");
    assert!(words("floating-ip list").contains("203.0.113.7") && words("floating-ip show f1").contains("203.0.113.7"));
    failed(&["--controller", &controller, "floating-ip", "create", "internet", "--fixed-address", "10.0.0.5"], 2);
}

#[test]
fn programs_get_errors_as_json() {
    let error = failed(&["flows", "add", "web", "nw_src=1.2.3.4,actions=drop", "--json"], 1);
    let error: serde_json::Value = serde_json::from_str(&error).expect("one object");
    assert_eq!(error["code"], "missing_prerequisite");
    assert_eq!(error["field"], "column 1");
    // Mistakes in the command itself too.
    let error = failed(&["network", "create", "blue", "--vlan", "many", "--json"], 2);
    let error: serde_json::Value = serde_json::from_str(&error).expect("one object");
    assert_eq!(error["code"], "usage");
    assert!(error["problem"].as_str().unwrap().contains("'many' for '--vlan"), "{error}");
}

#[test]
fn who_is_not_there_is_named() {
    let controller = failed(&["--controller", "http://127.0.0.1:1", "network", "list"], 1);
    assert!(controller.starts_with("weft: cannot reach the controller at http://127.0.0.1:1: "), "{controller}");
    assert!(controller.contains("Connection refused") && controller.contains("make run"), "{controller}");
    let socket = failed(&["--controller", "unix:/nonexistent/socket", "network", "list"], 1);
    assert!(socket.contains("at unix:/nonexistent/socket: No such file"), "{socket}");
    let switch = failed(&["flows", "dump", "unix:/nonexistent/socket"], 1);
    assert!(switch.contains("cannot reach a switch at unix:/nonexistent/socket: No such file"), "{switch}");
    let address = failed(&["--controller", "somewhere", "network", "list"], 1);
    assert!(address.contains("Write http://HOST:PORT or unix:PATH."), "{address}");
}

#[test]
fn the_token_goes_with_calls_over_tcp() {
    let fake = Fake::start();
    let url = fake.url();
    let file = fake.directory().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let token_file = file.to_str().unwrap();
    done(&["--controller", &url, "--token-file", token_file, "network", "list"]);
    assert_eq!(fake.authorizations(), ["Bearer secret", "Bearer secret"]);
    let missing = failed(&["--controller", &url, "--token-file", "/nonexistent/token", "network", "list"], 1);
    assert!(missing.contains("/nonexistent/token") && missing.contains("--token-file"), "{missing}");
}

#[test]
fn usage_errors_exit_with_two() {
    for words in [
        &["flows", "add", "web"][..],
        &["ports", "add", "web", "0", "tap:a"],
        &["network", "create", "blue", "--segment", "99999999"],
        &["frobnicate"],
    ] {
        let error = failed(words, 2);
        assert!(error.starts_with("error: ") && error.contains("--help"), "{error}");
    }
}

#[test]
fn the_program_documents_itself() {
    assert_eq!(done(&["--version"]), format!("weft {}\n", weft_proto::VERSION));
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(&["completion", shell]).contains("neighbours"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    done(&["man", pages.to_str().unwrap()]);
    for page in ["weft.1", "weft-flows-add.1", "weft-port-plug.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}

#[test]
fn security_groups_are_shown_with_their_rules() {
    let fake = Fake::start();
    let controller = fake.host();
    let ask = |words: &[&str]| done(&[&["--controller", controller.as_str()], words].concat());
    let rules = ask(&["group", "rule", "list", "web"]);
    let rows: Vec<Vec<&str>> = rules.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["egress", "any", "any", "any", "-", "r1"]);
    assert_eq!(rows[2], ["ingress", "tcp", "80-89", "any", "-", "r2"]);
    assert_eq!(rows[3], ["ingress", "any", "any", "group:web", "-", "r3"]);
    let shown: serde_json::Value = ask(&["group", "show", "web", "--json"]).parse().unwrap();
    assert_eq!(shown["rules"][1]["port_range_max"], 89);
    assert_eq!(shown["rules"][0]["port_range_max"], serde_json::Value::Null);
    let added = ask(&["group", "rule", "add", "web", "--ingress", "--protocol", "icmp", "--icmp-type", "8"]);
    assert_eq!(added, "Rule r9 added to security group web.\n");
    let missing = failed(&["--controller", controller.as_str(), "group", "show", "db"], 1);
    assert_eq!(missing, "weft: group: there is no group \"db\". See \"weft group list\".\n");
}

#[test]
fn meters_and_removed_rules_are_shown() {
    let fake = Fake::start();
    let host = fake.host();
    assert_eq!(done(&["meters", "add", &host, "meter=7,pktps,rate=100"]), format!("1 meter set on {host}.\n"));
    assert_eq!(done(&["meters", "del", &host, "7", "8"]), format!("2 meters removed from {host}.\n"));
    let bundles = fake.bundles();
    assert_eq!((bundles[0].set_meters[0].rate, bundles[1].remove_meters.as_slice()), (100, &[7, 8][..]));
    let dump = done(&["meters", "dump", &host]);
    assert!(dump.starts_with("METER ") && dump.contains("meter=7,pktps,rate=100"), "{dump}");
    assert_eq!(json(&["meters", "dump", &host, "--json"])[0]["dropped_packets"], 2);
    let wrong = failed(&["meters", "add", &host, "meter=7,rate=100"], 1);
    assert!(wrong.contains("no unit"), "{wrong}");
    let removed = done(&["flows", "watch", &host, "--count", "1"]);
    assert!(removed.contains("n_packets=4") && removed.lines().count() == 1, "{removed}");
}
