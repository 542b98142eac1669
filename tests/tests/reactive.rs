//! A reactive network on real switches: the first packet waits and arrives, a port that moves is followed, one that is
//! unplugged is forgotten, and nothing of it needs the controller once it is known.

use rustix::process::{Signal, kill_process};
use std::time::Duration;
use weft_tests::bench::Bench;
use weft_tests::demo::Demo;
use weft_tests::{eventually, run, serial, weft};
use weft_up::namespace::ip;

const PATIENCE: Duration = Duration::from_secs(15);

struct Scene {
    demo: Demo,
    bench: Bench,
}

impl Scene {
    #[track_caller]
    fn weft(&self, line: &str) -> String {
        self.demo.weft(&line.split(' ').collect::<Vec<_>>()).success()
    }

    fn value(&self, port: &str, key: &str) -> String {
        let shown = self.weft(&format!("port show {port}"));
        let line = shown.lines().find(|line| line.starts_with(key)).expect("it is shown");
        line.split_whitespace().nth(1).expect("it has a value").to_owned()
    }

    /// Plugs a port into a namespace of its own.
    fn plug(&mut self, port: &str, host: &str, last: u8) -> String {
        let namespace = self.bench.namespace(&format!("{port}-{host}"));
        self.weft(&format!("port plug {port} --host {host} --netns {namespace} --interface eth0"));
        ip(&format!("-n {namespace} addr add 10.7.0.{last}/24 dev eth0")).expect("the interface is there");
        ip(&format!("-n {namespace} link set eth0 up")).expect("the interface is there");
        namespace
    }

    /// How many rules of a host name this.
    fn rules(&self, host: &str, text: &str) -> usize {
        self.weft(&format!("flows dump {host}")).lines().filter(|line| line.contains(text)).count()
    }
}

/// How many of some pings are answered.
fn answered(namespace: &str, last: u8, count: u32) -> u32 {
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", namespace, "ping", "-n", "-i", "0.1", "-W", "1", "-c", &count.to_string()]);
    let printed = run(command.arg(format!("10.7.0.{last}"))).stdout;
    let line = printed.lines().find_map(|line| line.split(" received").next().filter(|_| line.contains(" received")));
    line.and_then(|line| line.split(' ').next_back()?.parse().ok()).unwrap_or_else(|| panic!("{printed}"))
}

#[test]
fn ports_are_found_followed_and_forgotten() {
    let _turn = serial();
    let mut scene = Scene { demo: Demo::start("reactive"), bench: Bench::new() };
    scene.weft("network create wide --reactive");
    scene.weft("subnet create wide --network wide --cidr 10.7.0.0/24");
    for (name, last) in [("here", 1), ("there", 2), ("later", 3)] {
        scene.weft(&format!("port create {name} --network wide --address 10.7.0.{last}"));
    }
    let here = scene.plug("here", "a", 1);
    scene.plug("there", "b", 2);
    let mac = scene.value("there", "mac");
    assert_eq!(scene.rules("a", &mac), 0, "it is not known before it is asked for");
    let delivery = "network wide): delivery through the tunnel to host b";
    assert_eq!(answered(&here, 2, 3), 3, "not even the first is lost");
    assert_eq!(scene.rules("a", &mac), 2, "ARP, and the way there");
    // Nobody has that address: it is asked for and dropped.
    assert_eq!(answered(&here, 99, 1), 0);
    assert_eq!(scene.rules("a", "10.7.0.99"), 0);
    assert_eq!(scene.rules("a", delivery), 1, "of all on host b, the only one known");

    // It is unplugged, and plugged elsewhere: forgotten, and found there.
    scene.weft("port unplug there");
    eventually("its being forgotten", PATIENCE, || (scene.rules("a", &mac) == 0).then_some(()));
    scene.plug("there", "a", 2);
    eventually("an answer from its place", PATIENCE, || (answered(&here, 2, 2) == 2).then_some(()));
    assert_eq!(scene.rules("a", delivery), 0, "it is here");

    // Without an answering controller what is known goes on; what is not waits, in vain, and is counted.
    scene.plug("later", "b", 3);
    let controller = scene.demo.process("controller");
    let pid = rustix::process::Pid::from_raw(controller.id.cast_signed()).expect("it runs");
    kill_process(pid, Signal::STOP).expect("it runs");
    let (known, unknown) = (answered(&here, 2, 5), answered(&here, 3, 1));
    let socket = format!("unix:{}", scene.demo.layout.switch_socket("a").display());
    let counted = eventually("its being counted", PATIENCE, || {
        let drops = weft(&["drops", &socket]).stdout;
        drops.lines().find(|line| line.contains("destination_unanswered")).map(str::to_owned)
    });
    kill_process(pid, Signal::CONT).expect("it runs");
    assert_eq!((known, unknown), (5, 0), "{counted}");
    eventually("an answer of who came later", PATIENCE, || (answered(&here, 3, 1) == 1).then_some(()));
}
