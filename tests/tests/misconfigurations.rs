//! Mistakes as people make them, planted one after another into one cloud: each is named, by its object, by one command.

use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weft_tests::bench::Bench;
use weft_tests::demo::Demo;
use weft_tests::{Outcome, eventually, serial};
use weft_up::namespace::ip;

/// How long what is planted may take to show.
const PATIENCE: Duration = Duration::from_secs(15);

/// The demo, with more in project blue: network lab (10.1.0.0/24, MTU 1300) with ports lab-1 on host b and lab-2
/// unplugged, and router edge between it and office (10.0.0.0/24: blue-1 on host a, blue-2 on b).
struct Scene {
    demo: Demo,
    bench: Bench,
    /// What sends all the time, until the mistake is undone.
    traffic: Option<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.quiet();
    }
}

impl Scene {
    fn new() -> Self {
        let scene = Self { demo: Demo::start("misconfigured"), bench: Bench::new(), traffic: None };
        for line in [
            "network create lab --mtu 1300 --project blue",
            "subnet create lab --network lab --cidr 10.1.0.0/24 --project blue",
            // In place of the demo's, which leads out.
            "router interface remove main office --project blue",
            "router delete main --project blue",
            "router create edge --project blue",
            "router interface add edge office --project blue",
            "router interface add edge lab --project blue",
            "port create lab-1 --network lab --address 10.1.0.11 --project blue",
            "port create lab-2 --network lab --address 10.1.0.12 --project blue",
        ] {
            scene.weft(line);
        }
        let blue_2 = scene.instance(2);
        scene.weft(&format!("port plug lab-1 --host b --netns {blue_2} --interface lab0 --project blue"));
        scene
    }

    /// The namespace of a demo's instance: 1 is blue-1 on host a, 2 is blue-2 on host b.
    fn instance(&self, number: usize) -> String {
        self.demo.layout.instance_namespace(number)
    }

    fn host(&self, name: &str) -> String {
        self.demo.layout.host_namespace(name)
    }

    fn ask(&self, line: &str) -> Outcome {
        self.demo.weft(&line.split(' ').collect::<Vec<_>>())
    }

    /// A command that must succeed.
    #[track_caller]
    fn weft(&self, line: &str) -> String {
        self.ask(line).success()
    }

    /// A value of a port.
    fn port(&self, name: &str, key: &str) -> String {
        let shown = self.weft(&format!("port show {name} --project blue"));
        let line = shown.lines().find(|line| line.starts_with(key)).expect("it is shown");
        line.split_whitespace().nth(1).expect("it has a value").to_owned()
    }

    /// Adds a rule by hand.
    fn rule(&self, host: &str, rule: &str) {
        let _added = self.demo.weft(&["flows", "add", host, rule]).success();
    }

    fn no_rules(&self, host: &str) {
        let _removed = self.demo.weft(&["flows", "del", host, "--all"]).success();
    }

    /// Lets an instance ping, ten times a second.
    fn ping(&mut self, number: usize, options: &str) {
        let command = format!("netns exec {} ping -n -q -i 0.1 {options}", self.instance(number));
        let mut ping = Command::new("ip");
        ping.args(command.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        self.traffic = Some(ping.spawn().expect("ip is installed"));
    }

    fn quiet(&mut self) {
        if let Some(mut ping) = self.traffic.take() {
            let _ended_meanwhile = ping.kill();
            let _reaped = ping.wait();
        }
    }
}

/// A mistake: made, found, undone.
struct Mistake {
    what: &'static str,
    make: fn(&mut Scene),
    /// What a person would type, who sees that something is wrong.
    command: &'static str,
    /// What it must say.
    names: &'static [&'static str],
    undo: fn(&mut Scene),
}

fn nothing(_: &mut Scene) {}

const MISTAKES: &[Mistake] = &[
    Mistake {
        what: "a route of the subnet leads nowhere",
        // The demo's own.
        make: nothing,
        command: "trace --from blue-1 --to 192.0.2.9 --project blue",
        names: &["dropped on host a", "DHCP of subnet office", "a route of the subnet is wrong"],
        undo: nothing,
    },
    Mistake {
        what: "the router has no route",
        make: nothing,
        command: "trace --from blue-1 --to 172.31.0.1 --project blue",
        names: &["by router edge, which has no route to 172.31.0.1", "weft router route add edge"],
        undo: nothing,
    },
    Mistake {
        what: "an address that nobody has",
        make: nothing,
        command: "trace --from blue-1 --to 10.0.0.99 --project blue",
        names: &["nobody answers ARP for 10.0.0.99 in network office: no port of it has the address"],
        undo: nothing,
    },
    Mistake {
        what: "a security group lacks an ingress rule",
        make: |scene| {
            scene.weft("group create web --project blue");
            scene.weft("group rule add web --ingress --protocol tcp --port 80 --project blue");
            scene.weft("port set blue-2 --group web --project blue");
        },
        command: "trace --from blue-1 --to 10.0.0.12:443 --project blue",
        names: &[
            "dropped on host b by security group \"web\" of port blue-2: no rule lets tcp 443 in from 10.0.0.11",
            "weft group rule add web --ingress --protocol tcp --port 443 --remote 10.0.0.11/32 --project blue",
        ],
        undo: |scene| {
            // As it says.
            scene.weft("group rule add web --ingress --protocol tcp --port 443 --remote 10.0.0.11/32 --project blue");
            scene.weft("trace --from blue-1 --to 10.0.0.12:443 --project blue");
            scene.weft("port set blue-2 --group default --project blue");
            scene.weft("group delete web --project blue");
        },
    },
    Mistake {
        what: "a security group lacks an egress rule",
        make: |scene| {
            scene.weft("group create mute --project blue");
            let rules = scene.weft("group rule list mute --project blue --json");
            for rule in rules.split("\"id\": \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                scene.weft(&format!("group rule delete {rule}"));
            }
            scene.weft("port set blue-1 --group mute --project blue");
        },
        command: "trace --from blue-1 --to 10.0.0.12 --project blue",
        names: &["dropped on host a by security group \"mute\" of port blue-1: no rule lets icmp out to 10.0.0.12"],
        undo: |scene| {
            scene.weft("port set blue-1 --group default --project blue");
            scene.weft("group delete mute --project blue");
        },
    },
    Mistake {
        what: "a rule is for a group that no port has",
        make: |scene| {
            scene.weft("group create balancers --project blue");
            scene.weft("group create store --project blue");
            scene.weft(
                "group rule add store --ingress --protocol tcp --port 5432 --remote group:balancers --project blue",
            );
            scene.weft("port set blue-2 --group store --project blue");
        },
        command: "doctor",
        names: &[
            "security group store: its rule ingress tcp is for the ports of group balancers, and no port has that group",
        ],
        undo: nothing,
    },
    Mistake {
        what: "the same, seen by who is refused",
        make: nothing,
        command: "trace --from blue-1 --to 10.0.0.12:5432 --project blue",
        names: &["is for ports of group \"balancers\" only, and no port has it"],
        undo: |scene| {
            scene.weft("port set blue-2 --group default --project blue");
            scene.weft("group delete store --project blue");
            scene.weft("group delete balancers --project blue");
        },
    },
    Mistake {
        what: "a port has no group that lets anything in, and is spoken to",
        make: |scene| {
            scene.weft("group create closed --project blue");
            scene.weft("port set blue-2 --group closed --project blue");
            scene.ping(1, "10.0.0.12");
        },
        command: "doctor",
        names: &["port blue-2: its security groups (closed) have no ingress rule, so nothing gets in"],
        undo: |scene| {
            scene.quiet();
            scene.weft("port set blue-2 --group default --project blue");
            scene.weft("group delete closed --project blue");
        },
    },
    Mistake {
        what: "packets are larger than the network behind the router takes",
        make: nothing,
        command: "trace --from blue-1 --to 10.1.0.11:80 --size 1400 --project blue",
        names: &["router edge: route to 10.1.0.0/24 (network lab): 1400 bytes are more than the MTU"],
        undo: nothing,
    },
    Mistake {
        what: "the underlay's MTU is too small",
        make: |scene| {
            ip(&format!("-n {} link set eth0 mtu 1400", scene.host("a"))).expect("it may be smaller");
        },
        command: "doctor",
        names: &["network office: its packets of 1450 bytes need 1500 on the underlay, which carries 1400 at host a"],
        undo: |scene| {
            ip(&format!("-n {} link set eth0 mtu 1500", scene.host("a"))).expect("it was so before");
        },
    },
    Mistake {
        what: "an instance takes another one's address by an address pair",
        make: |scene| {
            scene.weft("port set blue-1 --address-pair 10.0.0.12 --project blue");
        },
        command: "doctor",
        names: &["port blue-1: it may send from 10.0.0.12, the address of port blue-2"],
        undo: |scene| {
            scene.weft("port set blue-1 --no-address-pair --project blue");
        },
    },
    Mistake {
        what: "an instance has an address that is not its port's",
        make: |scene| {
            ip(&format!("-n {} addr add 10.0.0.66/24 dev eth0", scene.instance(1))).expect("it is free");
            scene.ping(1, "-I 10.0.0.66 10.0.0.12");
        },
        command: "doctor",
        names: &["port blue-1: ", "were dropped in 1 s as spoofed"],
        undo: |scene| {
            scene.quiet();
            ip(&format!("-n {} addr del 10.0.0.66/24 dev eth0", scene.instance(1))).expect("it is there");
        },
    },
    Mistake {
        what: "an instance has another MAC than its port",
        make: |scene| {
            ip(&format!("-n {} link set eth0 address 02:00:00:00:00:99", scene.instance(1))).expect("it may");
            scene.ping(1, "10.0.0.12");
        },
        command: "doctor",
        names: &["port blue-1: ", "were dropped in 1 s as spoofed"],
        undo: |scene| {
            scene.quiet();
            let mac = scene.port("blue-1", "mac");
            ip(&format!("-n {} link set eth0 address {mac}", scene.instance(1))).expect("it may");
        },
    },
    Mistake {
        what: "an instance forwards for others without an address pair",
        make: |scene| {
            scene.weft("router route add edge 172.16.0.0/16 10.0.0.11 --project blue");
        },
        command: "trace --from lab-1 --to 172.16.0.9 --project blue",
        names: &[
            "delivered to port blue-1 on host a, whose instance is the next hop to 172.16.0.9",
            "because port blue-1 may not send from 172.16.0.9 (port security)",
            "weft port set blue-1 --address-pair 172.16.0.9 --project blue",
        ],
        undo: |scene| {
            scene.weft("router route remove edge 172.16.0.0/16 --project blue");
        },
    },
    Mistake {
        what: "the next hop of an extra route is not plugged",
        make: |scene| {
            scene.weft("router route add edge 172.17.0.0/16 10.1.0.12 --project blue");
        },
        command: "doctor",
        names: &[
            "router edge: its route to 172.17.0.0/16 leads to 10.1.0.12, which is port lab-2, which is not plugged",
        ],
        undo: nothing,
    },
    Mistake {
        what: "the same, seen by who sends there",
        make: nothing,
        command: "trace --from blue-1 --to 172.17.0.9 --project blue",
        names: &[
            "by router edge: its route to 172.17.0.0/16 leads to 10.1.0.12, which is port lab-2, which is not plugged",
        ],
        undo: |scene| {
            scene.weft("router route remove edge 172.17.0.0/16 --project blue");
        },
    },
    Mistake {
        what: "a port is not plugged",
        make: |scene| {
            scene.weft("port unplug lab-1 --project blue");
        },
        command: "trace --from blue-1 --to 10.1.0.11 --project blue",
        names: &["port lab-1 is not plugged", "weft port plug lab-1 --host HOST --project blue"],
        undo: |scene| {
            let netns = scene.instance(2);
            scene.weft(&format!("port plug lab-1 --host b --netns {netns} --interface lab0 --project blue"));
        },
    },
    Mistake {
        what: "a subnet is joined to no router",
        make: |scene| {
            scene.weft("router interface remove edge office --project blue");
        },
        command: "trace --from blue-1 --to 10.1.0.11 --project blue",
        names: &["gateway of subnet office, which is joined to no router", "weft router interface add ROUTER office"],
        undo: |scene| {
            scene.weft("router interface add edge office --project blue");
        },
    },
    Mistake {
        what: "the router has another address than the subnet's gateway",
        make: |scene| {
            scene.weft("router interface remove edge office --project blue");
            scene.weft("router interface add edge office --address 10.0.0.2 --project blue");
        },
        command: "trace --from blue-1 --to 10.1.0.11 --project blue",
        names: &["nobody answers ARP for 10.0.0.1", "gateway of subnet office"],
        undo: |scene| {
            scene.weft("router interface remove edge office --project blue");
            scene.weft("router interface add edge office --project blue");
        },
    },
    Mistake {
        what: "DHCP is off",
        make: |scene| {
            scene.weft("network create static --project blue");
            scene.weft("subnet create static --network static --cidr 10.2.0.0/24 --no-dhcp --project blue");
            scene.weft("port create static-1 --network static --project blue");
            let netns = scene.instance(1);
            scene.weft(&format!("port plug static-1 --host a --netns {netns} --interface static0 --project blue"));
        },
        command: "trace --from static-1 --protocol dhcp --project blue",
        names: &["nobody answers DHCP, which is off in subnet static"],
        undo: |scene| {
            scene.weft("port unplug static-1 --project blue");
            scene.weft("port delete static-1 --project blue");
            scene.weft("network delete static --project blue");
        },
    },
    Mistake {
        what: "a subnet is full",
        make: |scene| {
            scene.weft("network create tiny --project blue");
            scene.weft("subnet create tiny --network tiny --cidr 10.3.0.0/29 --gateway none --project blue");
            for port in 1..=5 {
                scene.weft(&format!("port create tiny-{port} --network tiny --project blue"));
            }
        },
        command: "doctor",
        names: &["subnet tiny: 5 of its 5 addresses are taken"],
        undo: |scene| {
            for port in 1..=5 {
                scene.weft(&format!("port delete tiny-{port} --project blue"));
            }
            scene.weft("network delete tiny --project blue");
        },
    },
    Mistake {
        what: "a rule by hand drops",
        make: |scene| scene.rule("b", "table=71,priority=900,tcp,tcp_dst=443,actions=drop"),
        command: "trace --from blue-1 --to 10.0.0.12:443 --project blue",
        names: &[
            "dropped on host b by a rule made by hand: table=71,priority=900,tcp,tcp_dst=443",
            "weft flows del b --strict 'table=71,priority=900,tcp,tcp_dst=443'",
        ],
        undo: nothing,
    },
    Mistake {
        what: "the same, before anybody complains",
        make: nothing,
        command: "doctor",
        names: &["host b, rule by hand table=71,priority=900,tcp,tcp_dst=443: it goes before rules of the fabric"],
        // As trace and doctor say.
        undo: |scene| {
            scene.weft("flows del b --strict table=71,priority=900,tcp,tcp_dst=443");
            let rules = scene.weft("flows dump b table=71 --owner manual");
            assert!(rules.starts_with("No rule"), "{rules}");
        },
    },
    Mistake {
        what: "a rule by hand sends under a wrong VNI",
        make: |scene| {
            let mac = scene.port("blue-2", "mac");
            scene.rule(
                "a",
                &format!(
                    "table=65,priority=900,eth_dst={mac},actions=set_field:4242->tun_id,set_field:10.99.0.2->tun_dst,\
                     output:{}",
                    weft_proto::TUNNEL_PORT
                ),
            );
        },
        command: "trace --from blue-1 --to 10.0.0.12 --project blue",
        names: &["dropped on host b because no port of VNI 4242 (no network) is plugged there"],
        undo: |scene| scene.no_rules("a"),
    },
    Mistake {
        what: "a port's interface is gone, and its namespace with it",
        make: |scene| {
            let netns = scene.bench.namespace("gone");
            scene.weft(&format!("port plug lab-2 --host a --netns {netns} --interface gone0 --project blue"));
            ip(&format!("netns del {netns}")).expect("it is there");
        },
        command: "doctor",
        names: &["port lab-2: on host a it is ERROR"],
        undo: |scene| {
            scene.weft("port unplug lab-2 --project blue");
        },
    },
    Mistake {
        what: "the underlay has no route to a host",
        make: |scene| {
            ip(&format!("-n {} route add unreachable 10.99.0.2", scene.host("a"))).expect("it may");
        },
        command: "doctor",
        names: &["underlay of host a: it does not reach 10.99.0.2, host b: it has no route there"],
        undo: nothing,
    },
    Mistake {
        what: "the same, seen by who sends there",
        make: nothing,
        command: "trace --from blue-1 --to 10.0.0.12 --project blue",
        names: &["dropped on host a because its underlay does not reach 10.99.0.2, host b (no_route)"],
        undo: |scene| {
            ip(&format!("-n {} route del unreachable 10.99.0.2", scene.host("a"))).expect("it is there");
        },
    },
    Mistake {
        what: "a host does not answer on the underlay",
        make: |scene| {
            let (underlay, host) = (scene.demo.layout.underlay_namespace(), scene.host("a"));
            ip(&format!("-n {underlay} link set to-b down")).expect("the cable is there");
            // The kernel would ask by itself, half a minute later.
            let _asked_already = ip(&format!("-n {host} neigh del 10.99.0.2 dev eth0"));
        },
        command: "doctor",
        names: &["underlay of host a: it does not reach 10.99.0.2, host b: nobody answers its ARP there"],
        undo: |scene| {
            ip(&format!("-n {} link set to-b up", scene.demo.layout.underlay_namespace())).expect("it was so before");
        },
    },
    Mistake {
        what: "a host has never joined",
        make: |scene| {
            scene.weft("host create spare");
        },
        command: "doctor",
        names: &["host spare: host \"spare\" has never connected", "Start weft-switch there with this host name"],
        undo: |scene| {
            scene.weft("host delete spare");
        },
    },
    // The last one: nobody starts it again.
    Mistake {
        what: "a host is dead",
        make: |scene| scene.demo.process("switch of host b").end(Duration::ZERO),
        command: "trace --from blue-1 --to 10.0.0.12 --project blue",
        names: &["it goes to host b by the tunnel from host a, and the switch of host \"b\" is not connected"],
        undo: nothing,
    },
    Mistake {
        what: "the same, seen from above",
        make: nothing,
        command: "doctor",
        names: &["host b: host \"b\" has not been connected for"],
        undo: nothing,
    },
];

#[test]
fn each_mistake_is_named_by_one_command() {
    let _turn = serial();
    let mut scene = Scene::new();
    eventually("a clean bill of health", PATIENCE, || {
        let outcome = scene.ask("doctor");
        (outcome.code == Some(0)).then_some(()).or_else(|| {
            eprintln!("{}", outcome.stdout);
            None
        })
    });
    let mut wrong = Vec::new();
    for mistake in MISTAKES {
        (mistake.make)(&mut scene);
        let deadline = std::time::Instant::now() + PATIENCE;
        let (found, outcome) = loop {
            let outcome = scene.ask(mistake.command);
            let found = outcome.code == Some(1) && mistake.names.iter().all(|name| outcome.stdout.contains(name));
            if found || std::time::Instant::now() >= deadline {
                break (found, outcome);
            }
        };
        if !found {
            wrong.push(format!("{}: {:?} is not in {outcome:#?}", mistake.what, mistake.names));
        }
        (mistake.undo)(&mut scene);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_right_is_not_complained_of() {
    let _turn = serial();
    let scene = Scene::new();
    for line in [
        "trace --from blue-1 --to 10.0.0.12 --project blue",
        "trace --from blue-1 --to 10.0.0.12:80 --project blue",
        "trace --from blue-1 --to 10.1.0.11:53 --protocol udp --project blue",
        "trace --from blue-1 --to 10.1.0.11:80 --size 1300 --project blue",
        "trace --from lab-1 --to 10.0.0.11 --project blue",
        "trace --from blue-1 --to 10.0.0.1 --project blue",
        "trace --from blue-1 --protocol dhcp --project blue",
    ] {
        let _passes = scene.weft(line);
    }
    let answer: String = scene.weft("trace --from blue-1 --to 10.1.0.11 --project blue --json");
    for part in ["\"passes\": true", "\"host\": \"b\"", "\"outcome\": \"delivered\""] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    let found = eventually("a clean bill of health", PATIENCE, || {
        let outcome = scene.ask("doctor");
        (outcome.code == Some(0)).then_some(outcome.stdout)
    });
    assert!(found.starts_with("Nothing wrong found ("), "{found}");
}
