//! Where did my packet go? Captures that other people's software reads, live traces, drops by rule, rates.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::demo::Demo;
use weft_tests::{Outcome, eventually, program, run, serial, weft};
use weft_up::namespace::run_inside;

/// Two instances at one switch: 10.0.0.1 by port 1, 10.0.0.2 by port 2. All passes but UDP to port 9.
struct Pair {
    one: String,
    two: String,
    switch: Switch,
    files: tempfile::TempDir,
    bench: Bench,
}

const DROPPING: &str = "priority=100,udp,udp_dst=9,actions=drop(policy)";

fn pair() -> Pair {
    let mut bench = Bench::new();
    let host = bench.namespace("host-a");
    let [one, two] = [bench.namespace("vm1"), bench.namespace("vm2")];
    let switch = bench.switch("host-a", &host);
    for (number, instance) in [(1, &one), (2, &two)] {
        switch.add_port(number, &format!("tap:eth0,netns={instance}"));
        address(instance, &format!("10.0.0.{number}/24"));
    }
    switch.add_flows(&[
        "table=0,priority=0,actions=goto_table:10",
        "table=10,in_port=1,actions=output:2",
        "table=10,in_port=2,actions=output:1",
    ]);
    switch.add_flows(&[DROPPING]);
    Pair { one, two, switch, files: tempfile::tempdir().expect("there is room for a directory"), bench }
}

/// A command of ours that runs until it is interrupted.
struct Running {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Starts it, and waits until it has said this.
    fn start(arguments: &[&str], said: &str) -> Self {
        let mut command = Command::new(program("weft"));
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("weft is built");
        let mut errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("messages are text");
        assert!(line.contains(said), "weft {arguments:?} says {line:?}");
        Self { child, errors }
    }

    /// Starts one that says nothing.
    fn start_quiet(arguments: &[&str]) -> Child {
        let mut command = Command::new(program("weft"));
        command.args(arguments).stdout(Stdio::piped()).spawn().expect("weft is built")
    }

    /// Interrupts it; gives what it printed, messages behind.
    fn interrupt(mut self) -> String {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("it runs");
        kill_process(pid, Signal::INT).expect("it runs");
        self.end()
    }

    /// Waits for its end.
    fn end(&mut self) -> String {
        let mut messages = String::new();
        let mut output = String::new();
        use std::io::Read as _;
        self.child.stdout.take().expect("it is piped").read_to_string(&mut output).expect("it prints text");
        self.errors.read_to_string(&mut messages).expect("messages are text");
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "{status}: {messages}");
        output + &messages
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The frames of a file that Wireshark selects, one a line, as these fields.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|"]);
    for protocol in ["ip", "tcp", "udp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    if !filter.is_empty() {
        command.args(["-Y", filter]);
    }
    run(&mut command).success().lines().map(str::to_owned).collect()
}

fn udp_to_nine(from: &str) {
    run_inside(from, "bash -c echo>/dev/udp/10.0.0.2/9").expect("bash is installed");
}

#[test]
fn a_capture_is_read_by_tshark_with_drops_explained_and_no_checksum_wrong() {
    let _turn = serial();
    let mut pair = pair();
    let host = pair.switch.host.clone();
    let _first = run_inside(&pair.one, "ping -n -c 1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    let file: PathBuf = pair.files.path().join("all.pcapng");
    let shown = file.display().to_string();
    let capture = Running::start(&["capture", &host, "--all", "-w", &shown], "Capturing");
    let _answered = run_inside(&pair.one, "ping -n -c 3 -i 0.1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    udp_to_nine(&pair.one);
    // Large segments, whose checksums TAPs leave to the switch.
    let mut server = pair.bench.start(&pair.two, "iperf3 --server --one-off");
    std::thread::sleep(Duration::from_millis(500));
    let client = "iperf3 --client 10.0.0.2 --bytes 1M";
    let _sent = run_inside(&pair.one, client).expect("iperf3 is installed");
    server.end();
    std::thread::sleep(Duration::from_millis(200));
    let said = capture.interrupt();
    assert!(said.contains("frames captured."), "{said}");

    let wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0";
    assert_eq!(tshark(&file, wrong, &["frame.number", "_ws.col.Info"]), [""; 0]);
    for (direction, port) in [(1, "port1"), (2, "port2")] {
        let one_way = format!("icmp.type == 8 && frame.packet_flags_direction == {direction}");
        assert_eq!(tshark(&file, &one_way, &["frame.interface_name"]), [port; 3], "in by port 1, out by port 2");
    }
    let dropped =
        tshark(&file, "frame.comment contains \"dropped\"", &["frame.interface_name", "udp.dstport", "frame.comment"]);
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    for part in ["port1|9|dropped: policy - A rule drops it. Table 0", "priority=100", "udp_dst=9,actions=drop(policy)"]
    {
        assert!(dropped[0].contains(part), "no {part:?} in {dropped:?}");
    }
    let large = tshark(&file, "frame.len > 10000", &["tcp.checksum.status", "frame.comment"]);
    assert!(!large.is_empty(), "there were no large segments: this test shows less than it should");
    assert!(large.iter().all(|line| line.starts_with("1|Stands for several segments")), "{large:?}");
}

#[test]
fn a_capture_filters_counts_cuts_and_goes_down_a_pipe() {
    let _turn = serial();
    let pair = pair();
    let host = pair.switch.host.clone();
    let _first = run_inside(&pair.one, "ping -n -c 1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    let file = pair.files.path().join("some.pcapng");
    let shown = file.display().to_string();
    let filter = ["--filter", "icmp,ip_src=10.0.0.1", "--count", "4", "--snap", "50"];
    let arguments = [&["capture", &host, "port1", "-w", &shown][..], &filter].concat();
    let mut capture = Running::start(&arguments, "Capturing");
    let ping = || run_inside(&pair.one, "ping -n -c 5 -i 0.1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    let _answered = ping();
    assert!(capture.end().contains("4 frames captured."));
    let frames = tshark(&file, "", &["frame.interface_name", "icmp.type", "frame.cap_len", "frame.len"]);
    assert_eq!(frames, ["port1|8|50|98"; 4]);

    let piped =
        format!("{} capture {host} 2 -w - --filter icmp --seconds 20 | tshark -l -i - -c 2", program("weft").display());
    let reader = std::thread::spawn(move || run(Command::new("timeout").args(["20", "bash", "-c", &piped])));
    eventually("two frames down the pipe", Duration::from_secs(20), || {
        let _answered = ping();
        reader.is_finished().then_some(())
    });
    let Outcome { stdout, stderr, .. } = reader.join().expect("it does not panic");
    assert_eq!(stdout.lines().filter(|line| line.contains("ICMP")).count(), 2, "{stdout}\n{stderr}");
}

#[test]
fn a_live_trace_shows_the_walk_of_real_packets() {
    let _turn = serial();
    let pair = pair();
    let host = pair.switch.host.clone();
    let _first = run_inside(&pair.one, "ping -n -c 1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    let trace = |filter: &str, traffic: &dyn Fn()| {
        let mut trace = Running::start(&["trace", "--live", filter, &host, "--count", "5"], "Waiting");
        traffic();
        trace.end()
    };
    let shown = trace("udp,udp_dst=9", &|| (0..5).for_each(|_| udp_to_nine(&pair.one)));
    let expected = [
        "=== packet 1, ",
        "by port 1 (port1), decided by worker ",
        "by walking the tables\npacket     in_port=1,eth_src=",
        "udp_dst=9",
        " 1. table 0\n    rule      priority=100,udp,udp_dst=9\n    actions   drop(policy)",
        "verdict    dropped under \"policy\": A rule drops it\n",
        "=== packet 5, ",
        "by the flow cache, which has this walk",
    ];
    for part in expected {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    let passed = trace("icmp,in_port=1", &|| {
        run_inside(&pair.one, "ping -n -c 6 -i 0.1 -W 2 10.0.0.2").map(drop).expect("all but UDP 9 passes");
    });
    for part in [" 1. table 0\n", " 2. table 10\n    rule      priority=32768,in_port=1", "effects    output:2 (port2)"]
    {
        assert!(passed.contains(part), "no {part:?} in:\n{passed}");
    }
}

#[test]
fn drops_name_the_rule_and_how_many_a_second_it_drops() {
    let _turn = serial();
    let pair = pair();
    let host = pair.switch.host.clone();
    let _first = run_inside(&pair.one, "ping -n -c 1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    (0..3).for_each(|_| udp_to_nine(&pair.one));
    let shown = weft(&["drops", &host]).success();
    let rule = shown.lines().find(|line| line.contains("udp_dst=9")).unwrap_or_else(|| panic!("no rule in:\n{shown}"));
    let words: Vec<&str> = rule.split_whitespace().collect();
    assert_eq!(words[..3], ["3", "policy", "0"], "{shown}");
    assert!(rule.contains("a rule made by hand"), "{shown}");
    let watch = Running::start_quiet(&["drops", &host, "--watch", "1", "--count", "1", "--json"]);
    std::thread::sleep(Duration::from_millis(300));
    (0..5).for_each(|_| udp_to_nine(&pair.one));
    let watched = String::from_utf8(watch.wait_with_output().expect("it is our child").stdout).expect("it prints text");
    let (_, of_policy) = watched.split_once("\"reason\":\"policy\"").unwrap_or_else(|| panic!("{watched}"));
    let rates = watched.matches("\"per_second\":").count();
    assert!(rates >= 2 && !of_policy.is_empty(), "a rate for the reason and one for its rule: {watched}");
    let rate = watched.split("\"per_second\":").skip(1).filter_map(|rest| rest.split([',', '}']).next()?.parse().ok());
    let highest = rate.fold(0.0, f64::max);
    assert!((2.0..=6.0).contains(&highest), "5 in about a second: {watched}");
}

#[test]
fn top_shows_hosts_ports_and_flows_by_rate() {
    let _turn = serial();
    let pair = pair();
    let host = pair.switch.host.clone();
    let _first = run_inside(&pair.one, "ping -n -c 1 -W 2 10.0.0.2").expect("all but UDP 9 passes");
    let one = pair.one.clone();
    let pings = std::thread::spawn(move || run_inside(&one, "ping -n -c 40 -i 0.05 -W 2 10.0.0.2").map(drop));
    std::thread::sleep(Duration::from_millis(300));
    let shown = weft(&["top", &host, "--once"]).success();
    pings.join().expect("it does not panic").expect("all but UDP 9 passes");
    let rates = |row: &str| -> Vec<f64> {
        let line =
            shown.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row:?} in:\n{shown}"));
        line[row.len()..].split_whitespace().map_while(|word| word.parse().ok()).collect()
    };
    // 20 a second, and as many answers.
    let port = rates("1 port1");
    assert!((10.0..=30.0).contains(&port[0]) && (10.0..=30.0).contains(&port[1]), "{shown}");
    let both = rates(&host);
    assert!((20.0..=60.0).contains(&both[0]), "{shown}");
    let flow = shown.lines().find(|line| line.contains("output:2")).unwrap_or_else(|| panic!("no flow in:\n{shown}"));
    let rate: f64 =
        flow.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a flow begins with its rate");
    assert!((10.0..=30.0).contains(&rate), "{shown}");
    weft(&["top", &host, "--once", "--interval", "0"]).refused(&["--interval"]);
    weft(&["top", "unix:/nonexistent", "--once"]).refused(&["unix:/nonexistent"]);
}

/// Two hosts and a controller: a port is named as in the cloud, hosts by name, drops by the object whose rules they are.
#[test]
fn a_cloud_is_looked_at_through_its_controller() {
    let _turn = serial();
    let demo = Demo::start("seeing");
    // blue-1 on host a; blue-2 on host b.
    let (one, address) = (demo.layout.instance_namespace(1), "10.0.0.12");
    let answered = || run_inside(&one, &format!("ping -n -c 3 -i 0.1 -W 2 {address}"));
    eventually("the first answer across hosts", Duration::from_secs(20), || answered().ok());

    let files = tempfile::tempdir().expect("there is room for a directory");
    let file = files.path().join("cloud.pcapng");
    let shown = file.display().to_string();
    let (controller, token) = (demo.layout.controller_socket(), demo.layout.token_file());
    let controller = format!("unix:{}", controller.display());
    let arguments = ["--controller", &controller, "--token-file", &token.display().to_string()].map(str::to_owned);
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(["capture", "blue-1", "-w", &shown]).collect();
    let capture = Running::start(&arguments, "Capturing");
    let _answered = answered().expect("instances reach each other");
    // Not its own: port security drops it.
    run_inside(&one, "ip addr add 10.99.99.99/32 dev lo").expect("it is the instance's own interface");
    let _dropped = run_inside(&one, &format!("ping -n -c 1 -W 1 -I 10.99.99.99 {address}"));
    std::thread::sleep(Duration::from_millis(300));
    let said = capture.interrupt();
    assert_eq!(tshark(&file, "icmp.type == 0", &["icmp.seq"]).len(), 3, "{said}");
    let spoofed = tshark(&file, "ip.src == 10.99.99.99", &["frame.comment"]);
    assert_eq!(spoofed.len(), 1, "{spoofed:?}");
    for part in ["dropped: spoofed - ", " Table 10 (port_security), rule of "] {
        assert!(spoofed[0].contains(part), "no {part:?} in {spoofed:?}");
    }
    let drops = demo.weft(&["drops", "a"]).success();
    let rule = drops.lines().find(|line| line.contains("10 port_security")).unwrap_or_else(|| panic!("{drops}"));
    assert!(rule.contains("spoofed") && !rule.contains("a rule of the fabric"), "the object is named: {rule}");
    let top = demo.weft(&["top", "--once"]).success();
    let hosts: Vec<&str> = top.lines().skip(1).take(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(hosts.contains(&"a") && hosts.contains(&"b"), "{top}");
}

#[test]
fn captures_are_refused_with_what_to_do() {
    let _turn = serial();
    let pair = pair();
    let host = pair.switch.host.clone();
    let file = pair.files.path().join("none.pcapng").display().to_string();
    let capture = |arguments: &[&str]| weft(&[&["capture", "-w", &file], arguments].concat());
    capture(&[&host, "7"]).refused(&["ports", "no port 7", "weft ports list"]);
    capture(&[&host, "web"]).refused(&["PORT", "no port \"web\""]);
    capture(&[&host, "--all", "1"]).refused(&["--all"]);
    capture(&[&host, "1", "--filter", "reg0=1"]).refused(&["match", "Leave out"]);
    capture(&[&host, "1", "--seconds", "0"]).refused(&["--seconds"]);
    weft(&["capture", &host, "1", "-w", "/nonexistent/file"]).refused(&["/nonexistent/file"]);
    let mut running: Vec<Running> = (0..4)
        .map(|number| {
            let file = pair.files.path().join(format!("{number}.pcapng")).display().to_string();
            Running::start(&["capture", &host, "1", "-w", &file], "Capturing")
        })
        .collect();
    capture(&[&host, "1"]).refused(&["4 captures", "End one"]);
    // One that ends makes room, even if it is killed.
    drop(running.pop());
    eventually("room for another capture", Duration::from_secs(5), || {
        (capture(&[&host, "1", "--seconds", "0.1"]).code == Some(0)).then_some(())
    });
}
