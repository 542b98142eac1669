//! The units and the settings that are shipped, as `docs/deploy.md` has them used: whoever follows the page gets
//! this. Cables, instances and the internet are network namespaces.

use std::path::Path;
use std::time::Duration;
use weft_tests::bench::Bench;
use weft_tests::machine::{Machine, Service, Unit, deploy};
use weft_tests::{eventually, serial};
use weft_up::namespace::{ip, run_inside};

const PATIENCE: Duration = Duration::from_secs(30);

/// Joins namespaces by a cable each to one network segment: a bridge in a namespace of its own.
fn segment(bench: &mut Bench, name: &str, ends: &[(&str, &str, Option<&str>)]) {
    let wire = bench.namespace(name);
    ip(&format!("-n {wire} link add {name} type bridge")).expect("the kernel has bridges");
    ip(&format!("-n {wire} link set {name} up")).expect("it is there");
    for (number, (namespace, interface, own)) in ends.iter().enumerate() {
        let cable = format!("link add end{number} type veth peer name {interface} netns {namespace}");
        ip(&format!("-n {wire} {cable}")).expect("veth pairs can be made");
        ip(&format!("-n {wire} link set end{number} master {name} up")).expect("it is there");
        run_inside(namespace, &format!("ethtool -K {interface} tx off")).expect("ethtool is installed");
        ip(&format!("-n {namespace} link set {interface} up")).expect("it is there");
        if let Some(own) = own {
            ip(&format!("-n {namespace} addr add {own} dev {interface}")).expect("the address is free");
        }
    }
    // What they are like before is compared with what they are like in the end.
    for (namespace, interface, _) in ends {
        let up = || {
            let shown = ip(&format!("-n {namespace} link show {interface}")).expect("it is there");
            shown.contains("state UP").then_some(())
        };
        eventually(&format!("carrier on {interface} of {namespace}"), PATIENCE, up);
    }
}

/// What a machine's network interfaces are like, but for counters.
fn interfaces(machine: &Machine) -> String {
    let shown = format!("{}{}", inside(machine, "ip -d address"), inside(machine, "ip route"));
    assert!(shown.contains("eth0"), "{shown}");
    shown
}

fn inside(machine: &Machine, command: &str) -> String {
    run_inside(&machine.namespace, command).expect("iproute2 is installed")
}

fn weft(machine: &Machine, arguments: &str) -> String {
    let line = format!("/usr/local/bin/weft --controller unix:/run/weft/controller.sock {arguments}");
    machine.type_in(&line).success()
}

/// Waits until all hosts are connected.
fn connected(controller: &Machine, hosts: usize, log: &dyn Fn() -> String) {
    let mut last = String::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let line = "/usr/local/bin/weft --controller unix:/run/weft/controller.sock host list";
        let outcome = controller.type_in(line);
        if outcome.stdout.matches("connected").count() - outcome.stdout.matches("disconnected").count() == hosts {
            return;
        }
        last.clear();
        last.push_str(&format!("{outcome:?}"));
        assert!(std::time::Instant::now() < deadline, "not all are connected: {last}\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives the interface of an instance the address that its port has, and the router as the way out.
fn configure(namespace: &str, own: &str) {
    let shown = ip(&format!("-n {namespace} -o link show")).expect("the namespace is there");
    let interface = shown.lines().find_map(|line| line.split(": ").nth(1).filter(|name| name.starts_with("weft")));
    let interface = interface.expect("the port made an interface").split('@').next().expect("split gives one");
    for line in [format!("addr add {own}/24 dev {interface}"), format!("link set {interface} up")] {
        ip(&format!("-n {namespace} {line}")).expect("the interface is there");
    }
    ip(&format!("-n {namespace} route add default via 10.0.0.1")).expect("the network is there");
}

/// Types what the page has under a heading: its lines for a shell, without `sudo`, with other names of a host and a namespace.
fn type_the_page(controller: &Machine, heading: &str, names: &[(&str, &str)]) {
    let page =
        std::fs::read_to_string(deploy().parent().expect("it has one").join("docs/deploy.md")).expect("it is here");
    let (_, part) = page.split_once(&format!("\n## {heading}\n")).expect("the page has the heading");
    let (_, block) = part.split_once("```sh\n").expect("it has lines for a shell");
    let (block, _) = block.split_once("```").expect("they end");
    for line in block.lines() {
        let mut line = line.strip_prefix("sudo weft ").expect("all of them are of weft").to_owned();
        for (from, to) in names {
            line = line.replace(from, to);
        }
        let _done = weft(controller, &line);
    }
}

/// The external network's other end: an address, and nobody who knows a way to the instances.
fn internet(bench: &mut Bench) -> String {
    bench.namespace("internet")
}

/// Waits until a ping is answered.
fn pings(namespace: &str, target: &str, log: &dyn Fn() -> String) {
    let answered = || run_inside(namespace, &format!("ping -n -c 1 -W 1 {target}")).ok();
    let deadline = std::time::Instant::now() + PATIENCE;
    while answered().is_none() {
        assert!(std::time::Instant::now() < deadline, "{target} does not answer {namespace}\n{}", log());
    }
}

#[test]
fn four_hosts_are_set_up_as_the_page_says_and_leave_their_interfaces_as_they_were() {
    let _turn = serial();
    let mut bench = Bench::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let names = ["controller", "gateway", "compute-1", "compute-2"];
    let spaces = names.map(|name| bench.namespace(name));
    let management: Vec<String> = [10, 11, 12, 13].map(|last| format!("192.0.2.{last}/24")).into();
    let ends: Vec<_> = spaces.iter().zip(&management).map(|(space, own)| (&**space, "eth0", Some(&**own))).collect();
    segment(&mut bench, "mgmt", &ends);
    let underlay: Vec<String> = [11, 12, 13].map(|last| format!("198.51.100.{last}/24")).into();
    let ends: Vec<_> = spaces[1..].iter().zip(&underlay).map(|(space, own)| (&**space, "eth1", Some(&**own))).collect();
    segment(&mut bench, "underlay", &ends);
    let internet = internet(&mut bench);
    segment(&mut bench, "external", &[(&spaces[1], "eth2", None), (&internet, "eth0", Some("203.0.113.1/24"))]);

    let machines: Vec<Machine> = (names.iter().zip(&spaces))
        .map(|(name, space)| Machine::new(space, directory.path(), &format!("four-hosts/{name}")))
        .collect();
    let before: Vec<String> = machines.iter().map(interfaces).collect();
    let (controller, hosts) = machines.split_first().expect("there are four");
    let (controller_unit, switch_unit) = (Unit::shipped("weft-controller"), Unit::shipped("weft-switch"));

    let mut services = vec![controller.start(&controller_unit)];
    until_it_answers(controller, &controller_unit);
    for (name, host) in names[1..].iter().zip(hosts) {
        weft(controller, &format!("host create {name}"));
        let printed = weft(controller, &format!("host join-token {name}"));
        let line = printed.lines().find_map(|line| line.trim().strip_prefix("weft-switch join ")).expect("a command");
        let _joined = host.type_in(&format!("/usr/local/bin/weft-switch join {line}")).success();
        services.push(host.start(&switch_unit));
    }
    let logs = || hosts.iter().map(|host| host.log(&switch_unit)).collect::<Vec<_>>().join("\n");
    connected(controller, hosts.len(), &logs);

    let (one, two) = (bench.namespace("web"), bench.namespace("two"));
    type_the_page(controller, "Networks, and the way outside", &[("--netns web", &format!("--netns {one}"))]);
    weft(controller, "port create two --network blue --address 10.0.0.12");
    weft(controller, &format!("port plug two --host compute-2 --netns {two}"));
    configure(&one, "10.0.0.11");
    configure(&two, "10.0.0.12");
    // Across hosts; out, with and without an address outside; in.
    pings(&one, "10.0.0.12", &logs);
    pings(&two, "203.0.113.1", &logs);
    pings(&one, "203.0.113.1", &logs);
    pings(&internet, "203.0.113.150", &logs);

    // One ends with no chance to tidy up.
    services.pop().expect("there are four").kill();
    services.into_iter().for_each(Service::stop);
    for (machine, before) in machines.iter().zip(&before) {
        assert_eq!(&interfaces(machine), before, "{} is not as it was", machine.namespace);
    }
}

#[test]
fn one_host_is_all_it_takes() {
    let _turn = serial();
    let mut bench = Bench::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let space = bench.namespace("one");
    // One LAN, one interface: the host's own address lies beside those of the cloud.
    let internet = internet(&mut bench);
    let ends = [(&*space, "eth0", Some("203.0.113.10/24")), (&*internet, "eth0", Some("203.0.113.1/24"))];
    segment(&mut bench, "lan", &ends);
    let machine = Machine::new(&space, directory.path(), "all-in-one");
    let before = interfaces(&machine);
    let (controller_unit, switch_unit) = (Unit::shipped("weft-controller"), Unit::shipped("weft-switch"));
    let services = [machine.start(&controller_unit), machine.start(&switch_unit)];
    until_it_answers(&machine, &controller_unit);
    weft(&machine, "host create one");
    let logs = || machine.log(&switch_unit);
    connected(&machine, 1, &logs);
    let web = bench.namespace("web");
    let names = [("compute-1", "one"), ("--netns web", &format!("--netns {web}"))];
    type_the_page(&machine, "Networks, and the way outside", &names);
    configure(&web, "10.0.0.11");
    pings(&web, "203.0.113.1", &logs);
    pings(&internet, "203.0.113.150", &logs);
    // The host's own.
    pings(&internet, "203.0.113.10", &logs);
    pings(&space, "203.0.113.1", &logs);
    services.into_iter().for_each(Service::stop);
    assert_eq!(interfaces(&machine), before);
}

#[test]
fn one_lan_carries_management_underlay_and_external_network() {
    let _turn = serial();
    let mut bench = Bench::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let spaces = ["gateway", "compute-1"].map(|name| bench.namespace(name));
    let internet = internet(&mut bench);
    let ends = [
        (&*spaces[0], "eth0", Some("203.0.113.10/24")),
        (&*spaces[1], "eth0", Some("203.0.113.11/24")),
        (&*internet, "eth0", Some("203.0.113.1/24")),
    ];
    segment(&mut bench, "lan", &ends);
    let gateway = Machine::new(&spaces[0], directory.path(), "one-lan/gateway");
    let compute = Machine::new(&spaces[1], directory.path(), "one-lan/compute-1");
    let before = [interfaces(&gateway), interfaces(&compute)];
    let (controller_unit, switch_unit) = (Unit::shipped("weft-controller"), Unit::shipped("weft-switch"));
    let mut services = vec![gateway.start(&controller_unit)];
    until_it_answers(&gateway, &controller_unit);
    weft(&gateway, "host create gateway");
    services.push(gateway.start(&switch_unit));
    weft(&gateway, "host create compute-1");
    let printed = weft(&gateway, "host join-token compute-1");
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("weft-switch join ")).expect("a command");
    let _joined = compute.type_in(&format!("/usr/local/bin/weft-switch join {line}")).success();
    services.push(compute.start(&switch_unit));
    let logs = || format!("{}\n{}", gateway.log(&switch_unit), compute.log(&switch_unit));
    connected(&gateway, 2, &logs);

    let (web, two) = (bench.namespace("web"), bench.namespace("two"));
    type_the_page(&gateway, "Networks, and the way outside", &[("--netns web", &format!("--netns {web}"))]);
    weft(&gateway, "port create two --network blue --address 10.0.0.12");
    weft(&gateway, &format!("port plug two --host gateway --netns {two}"));
    configure(&web, "10.0.0.11");
    configure(&two, "10.0.0.12");
    // Across hosts; out, with and without an address outside, by the tunnel and the same wire again; in.
    pings(&web, "10.0.0.12", &logs);
    pings(&two, "203.0.113.1", &logs);
    pings(&web, "203.0.113.1", &logs);
    pings(&internet, "203.0.113.150", &logs);
    // The hosts' own traffic is theirs.
    for (from, to) in [(&internet, "203.0.113.10"), (&spaces[0], "203.0.113.1"), (&spaces[1], "203.0.113.10")] {
        pings(from, to, &logs);
    }
    let ports = gateway.type_in("/usr/local/bin/weft ports list unix:/run/weft/switch.sock").success();
    assert!(ports.contains("with the underlay"), "{ports}");
    services.into_iter().for_each(Service::stop);
    assert_eq!([interfaces(&gateway), interfaces(&compute)], before);
}

fn until_it_answers(controller: &Machine, unit: &Unit) {
    let answers = || {
        let line = "/usr/local/bin/weft --controller unix:/run/weft/controller.sock status";
        (controller.type_in(line).code == Some(0)).then_some(())
    };
    eventually(&format!("an answer of the controller: {}", controller.log(unit)), PATIENCE, answers);
}

#[test]
fn the_units_name_what_is_installed_and_the_settings_are_right() {
    let _turn = serial();
    let makefile =
        std::fs::read_to_string(deploy().parent().expect("it has one").join("Makefile")).expect("it is here");
    for name in ["weft-controller", "weft-switch"] {
        let unit = Unit::shipped(name);
        let settings = format!("/etc/weft/{}.toml", name.trim_start_matches("weft-"));
        assert_eq!(unit.setting("ExecStart"), format!("/usr/local/bin/{name} --config {settings}"));
        assert_eq!(unit.setting("ExecStartPre"), format!("{} --check-config", unit.setting("ExecStart")));
        assert!(makefile.contains("deploy/systemd"), "make install installs the units");
        assert!(makefile.lines().any(|line| line.starts_with("PROGRAMS") && line.contains(name)), "{name}");
    }
    let page =
        std::fs::read_to_string(deploy().parent().expect("it has one").join("docs/deploy.md")).expect("it is here");
    for folder in ["all-in-one", "four-hosts", "one-lan"] {
        assert!(Path::new(&deploy()).join("examples").join(folder).is_dir(), "{folder}");
        assert!(page.contains(&format!("deploy/examples/{folder}")), "docs/deploy.md does not name {folder}");
    }
}
