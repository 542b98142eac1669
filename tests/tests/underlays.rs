//! Two hosts, each with two interfaces and two addresses for tunnels: what arrives by which, what a broadcast makes of
//! it, and a link that fails.

use std::net::UdpSocket;
use std::time::Duration;
use weft_proto::{SECOND_UNDERLAY_PORT, UNDERLAY_PORT};
use weft_tests::bench::{Bench, Controller, Switch, address};
use weft_tests::traffic::{pings, sends};
use weft_tests::{eventually, serial};
use weft_up::namespace::{self, ip, run_inside};

const PATIENCE: Duration = Duration::from_secs(20);
const HOSTS: [&str; 2] = ["host-a", "host-b"];

/// The hosts have 10.99.0.1 and .2 on `eth0`, 10.98.0.1 and .2 on `eth1`. Fields in the order in which they are to end.
struct Place {
    spaces: [String; 2],
    controller: Controller,
    switches: [Switch; 2],
    bench: Bench,
}

fn place() -> Place {
    let mut bench = Bench::new();
    let spaces = bench.two_hosts();
    ip(&format!("-n {} link add eth1 type veth peer name eth1 netns {}", spaces[0], spaces[1])).expect("it is new");
    for (space, last) in spaces.iter().zip([1, 2]) {
        run_inside(space, "ethtool -K eth1 tx off").expect("ethtool is installed");
        ip(&format!("-n {space} addr add 10.98.0.{last}/24 dev eth1")).expect("the address is free");
        ip(&format!("-n {space} link set eth1 up")).expect("it is there");
    }
    let controller = bench.controller();
    for host in HOSTS {
        let _made = controller.weft(&format!("host create {host}"));
    }
    let switches = [0, 1].map(|index| {
        let settings = format!("host = {:?}\ncontroller = {:?}\n", HOSTS[index], controller.address);
        let sections = "[underlay]\ninterface = [\"eth0\", \"eth1\"]\n";
        bench.switch_with(HOSTS[index], &spaces[index], &settings, sections)
    });
    for (host, last) in HOSTS.iter().zip([1, 2]) {
        let told = format!("10.99.0.{last} on eth0 (mtu 1500), 10.98.0.{last} on eth1 (mtu 1500)");
        says(&controller, &format!("host show {host}"), &told);
    }
    Place { spaces, controller, switches, bench }
}

/// Waits until the CLI says something.
fn says(controller: &Controller, arguments: &str, text: &str) {
    let mut said = String::new();
    let words: Vec<&str> = arguments.split(' ').collect();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !said.contains(text) {
        assert!(std::time::Instant::now() < deadline, "weft {arguments} does not say {text:?}: {said}");
        std::thread::sleep(Duration::from_millis(50));
        let outcome = controller.run(&words);
        said = outcome.stdout + &outcome.stderr;
    }
}

impl Place {
    /// An instance with 10.0.0.LAST, reached at an underlay address if one is given.
    fn instance(&mut self, name: &str, host: &str, last: u8, asked: Option<&str>) -> String {
        let space = self.bench.namespace(name);
        let _made = self.controller.weft(&format!("port create {name} --network blue --address 10.0.0.{last}"));
        let asked = asked.map_or_else(String::new, |asked| format!(" --underlay-address {asked}"));
        let plug = format!("port plug {name} --host {host} --netns {space} --interface eth0{asked}");
        let _plugged = self.controller.weft(&plug);
        address(&space, &format!("10.0.0.{last}/24"));
        space
    }

    /// Packets that host B has got by each of its interfaces.
    fn received(&self) -> [u64; 2] {
        [UNDERLAY_PORT, SECOND_UNDERLAY_PORT].map(|number| self.switches[1].port(number).received_packets)
    }

    /// How much more it gets by each during something.
    fn receives(&self, during: impl FnOnce()) -> [u64; 2] {
        let before = self.received();
        during();
        let after = self.received();
        [0, 1].map(|index| after[index] - before[index])
    }
}

#[test]
fn ports_are_reached_at_both_addresses_of_their_host_and_at_one_while_a_link_is_down() {
    let _turn = serial();
    let mut place = place();
    let _made = place.controller.weft("network create blue");
    let _made = place.controller.weft("subnet create blue --network blue --cidr 10.0.0.0/24");
    let one = place.instance("one", "host-a", 11, None);
    let first = place.instance("first", "host-b", 21, Some("10.99.0.2"));
    let second = place.instance("second", "host-b", 22, Some("10.98.0.2"));
    // Both are taken in, each where it is asked for.
    pings(&one, "10.0.0.21", "");
    pings(&one, "10.0.0.22", "");
    let by = place.receives(|| sends(&one, &first, "10.0.0.21"));
    assert!(by[0] > 500 && by[1] < 10, "{by:?}");
    let by = place.receives(|| sends(&one, &second, "10.0.0.22"));
    assert!(by[1] > 500 && by[0] < 10, "{by:?}");
    sends(&second, &one, "10.0.0.11");
    says(&place.controller, "trace --from one --to 10.0.0.22", "10.98.0.2");
    // Unless asked for, an address is chosen by the port: of 16 ports some are at either.
    for last in 31..47 {
        let _space = place.instance(&format!("more-{last}"), "host-b", last, None);
    }
    let by = place.receives(|| (31..47).for_each(|last| pings(&one, &format!("10.0.0.{last}"), "")));
    assert!(by.iter().all(|&packets| packets >= 10), "{by:?}");
    let wrong = ["port", "plug", "first", "--host", "host-b", "--underlay-address", "10.97.0.2"];
    place.controller.run(&wrong).refused(&["10.97.0.2", "Give one of 10.99.0.2, 10.98.0.2"]);

    // A broadcast comes once, whatever addresses there are.
    let heard = namespace::inside(&first, || Ok(UdpSocket::bind("0.0.0.0:5353")?)).expect("the port is free");
    let sender = namespace::inside(&one, || Ok(UdpSocket::bind("10.0.0.11:5353")?)).expect("the port is free");
    sender.set_broadcast(true).expect("it may");
    for number in 0..20_u8 {
        sender.send_to(&[number], "10.0.0.255:5353").expect("it is sent");
    }
    let mut buffer = [0; 10];
    heard.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    for number in 0..20_u8 {
        let (length, _) = heard.recv_from(&mut buffer).expect("broadcasts arrive");
        assert_eq!(&buffer[..length], [number], "each once, in order");
    }
    heard.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
    assert!(heard.recv_from(&mut buffer).is_err(), "one arrived twice");

    // A link fails: what was sent by it goes by the other one; and comes back.
    ip(&format!("-n {} link set eth1 down", place.spaces[1])).expect("it is there");
    says(&place.controller, "host list", "10.98.0.2 down");
    says(&place.controller, "doctor --seconds 1", "its underlay address 10.98.0.2 is down");
    eventually("the other way", PATIENCE, || run_inside(&one, "ping -n -c 1 -W 1 10.0.0.22").ok());
    let by = place.receives(|| sends(&one, &second, "10.0.0.22"));
    assert!(by[0] > 500 && by[1] == 0, "{by:?}");
    ip(&format!("-n {} link set eth1 up", place.spaces[1])).expect("it is there");
    says(&place.controller, "host show host-b", "10.98.0.2 on eth1 (mtu 1500)");
    let again = || {
        let by = place.receives(|| sends(&one, &second, "10.0.0.22"));
        (by[1] > 500 && by[0] < 10).then_some(())
    };
    eventually("the way before", PATIENCE, again);
}
