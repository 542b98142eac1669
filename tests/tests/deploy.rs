//! The units and the settings that are shipped, as `docs/deploy.md` has them used: whoever follows the page gets
//! this. Cables, instances and the internet are network namespaces.

use std::path::Path;
use std::time::Duration;
use weft_tests::bench::{Bench, address};
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

/// Makes an instance: a namespace whose interface is the port's, with the address that the port has.
fn instance(bench: &mut Bench, controller: &Machine, name: &str, host: &str, own: &str) -> String {
    let namespace = bench.namespace(name);
    weft(controller, &format!("port create {name} --network blue --address {own}"));
    weft(controller, &format!("port plug {name} --host {host} --netns {namespace} --interface eth0"));
    address(&namespace, &format!("{own}/24"));
    ip(&format!("-n {namespace} route add default via 10.0.0.1")).expect("the network is there");
    namespace
}

/// Waits until a ping is answered.
fn pings(namespace: &str, target: &str, log: &dyn Fn() -> String) {
    let answered = || run_inside(namespace, &format!("ping -n -c 1 -W 1 {target}")).ok();
    let deadline = std::time::Instant::now() + PATIENCE;
    while answered().is_none() {
        assert!(std::time::Instant::now() < deadline, "{target} does not answer {namespace}\n{}", log());
    }
}

/// Lets everybody talk to everybody: the demonstration is not about security groups.
fn blue(controller: &Machine) {
    weft(controller, "network create blue");
    weft(controller, "subnet create blue --network blue --cidr 10.0.0.0/24");
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
    let internet = bench.namespace("internet");
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

    blue(controller);
    let one = instance(&mut bench, controller, "web-1", "compute-1", "10.0.0.11");
    let two = instance(&mut bench, controller, "web-2", "compute-2", "10.0.0.12");
    pings(&one, "10.0.0.12", &logs);
    pings(&two, "10.0.0.11", &logs);

    // One ends with no chance to tidy up.
    services.pop().expect("there are four").kill();
    services.into_iter().for_each(Service::stop);
    for (machine, before) in machines.iter().zip(&before) {
        assert_eq!(&interfaces(machine), before, "{} is not as it was", machine.namespace);
    }
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
    for folder in ["all-in-one", "four-hosts"] {
        assert!(Path::new(&deploy()).join("examples").join(folder).is_dir(), "{folder}");
        assert!(page.contains(&format!("deploy/examples/{folder}")), "docs/deploy.md does not name {folder}");
    }
}
