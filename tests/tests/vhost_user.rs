//! vhost-user ports, at whose other end are DPDK's virtio-user, and a guest of QEMU under libvirt.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::guest::Guest;
use weft_tests::{eventually, serial};
use weft_up::namespace::{self, run_inside};

const PATIENCE: Duration = Duration::from_secs(20);
const BUSY: Duration = Duration::from_secs(60);

/// A switch whose sockets for machines are in a directory of the test's.
fn switch(bench: &mut Bench, name: &str, host: &str, directory: &std::path::Path) -> Switch {
    bench.switch_with(name, host, "", &format!("[vhost_user]\ndirectory = {directory:?}\n"))
}

/// testpmd: two network devices, and what comes in by one goes out by the other.
struct Testpmd(Child);

impl Testpmd {
    fn start(sockets: [&str; 2], queues: usize) -> Self {
        let devices: String = (0..2)
            .map(|index| {
                let socket = sockets[index];
                format!(" --vdev=net_virtio_user{index},path={socket},queues={queues},queue_size=256,server=0")
            })
            .collect();
        // Its own files are in a directory of its own, in a mount namespace of its own.
        let script = format!(
            "mkdir -p /run/dpdk && mount -t tmpfs none /run/dpdk && exec dpdk-testpmd -l 0-1 --no-pci --no-huge -m 256 {devices} \
             -- --rxq={queues} --txq={queues} --total-num-mbufs=8192 --forward-mode=io --auto-start --tx-first"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.stderr(Stdio::null()).spawn().expect("unshare is installed"))
    }

    /// Stops it, and gives its counts of packets by line: "0/1" are those received by queue 1 of device 0, "0" all of
    /// device 0.
    fn stop(mut self) -> Counts {
        self.0.stdin.take().expect("it was not stopped").write_all(b"\n").expect("it runs");
        let mut printed = String::new();
        self.0.stdout.take().expect("it is piped").read_to_string(&mut printed).expect("it is text");
        let _status = self.0.wait();
        let (mut counts, mut place) = (Counts::default(), String::new());
        for line in printed.lines() {
            let digits = |text: &str| text.split_whitespace().next().map(str::to_owned);
            if let Some((_, rest)) = line.split_once("RX Port= ") {
                place = rest.split(" -> ").next().unwrap_or_default().replace("Queue= ", "").trim().to_owned();
            } else if let Some((_, rest)) = line.split_once("statistics for port ") {
                place = digits(rest).unwrap_or_default();
            } else if line.contains("Accumulated") {
                break;
            }
            for (word, counts) in [("RX-packets: ", &mut counts.received), ("TX-packets: ", &mut counts.sent)] {
                if let Some((_, rest)) = line.split_once(word) {
                    let count = digits(rest).and_then(|digits| digits.parse().ok()).unwrap_or_default();
                    counts.insert(place.clone(), count);
                }
            }
        }
        assert!(counts.sent.contains_key("1"), "{printed}");
        counts
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

#[derive(Debug, Default)]
struct Counts {
    received: BTreeMap<String, u64>,
    sent: BTreeMap<String, u64>,
}

/// Two ports joined by rules. What passed them before a test's next part.
fn joined(switch: &Switch) -> [[u64; 2]; 2] {
    [1, 2].map(|number| {
        let port = switch.port(number);
        assert_eq!((port.received_dropped, port.sent_dropped), (0, 0), "{port:?}");
        [port.received_packets, port.sent_packets]
    })
}

/// Lets packets go round for a while, with so many queue pairs.
fn exchange(switch: &Switch, queues: usize) {
    let before = joined(switch);
    let sockets = [1, 2].map(|number| switch.port(number).interface);
    let testpmd = Testpmd::start([&sockets[0], &sockets[1]], queues);
    eventually("thousands of packets each way", BUSY, || {
        let now = joined(switch);
        (0..2).all(|port| now[port][0] > before[port][0] + 5000).then_some(())
    });
    let detail = switch.port(1).detail;
    assert!(detail.starts_with(&format!("{queues} of 2 queue pairs")), "{detail}");
    let counts = testpmd.stop();
    let after = joined(switch);
    for device in 0..2 {
        let [received, sent] = [0, 1].map(|which| after[device][which] - before[device][which]);
        assert_eq!(received, counts.sent[&device.to_string()], "{counts:?}");
        assert_eq!(received, after[1 - device][1] - before[1 - device][1], "all that came in left");
        // When it stopped, some had not been taken yet.
        let left = sent - counts.received[&device.to_string()];
        assert!(left <= 512 * queues as u64, "{left} of {sent} did not arrive: {counts:?}");
    }
    // Of one queue there is no line of its own.
    for queue in (0..queues).filter(|_| queues > 1) {
        assert!(counts.received[&format!("0/{queue}")] > 500, "{counts:?}");
    }
    eventually("the ports are down", PATIENCE, || (switch.port(1).state == "down").then_some(()));
    let detail = switch.port(2).detail;
    assert!(detail.starts_with("no front end is connected to /"), "{detail}");
}

#[test]
fn virtio_user_ends_exchange_packets_and_come_again() {
    let _turn = serial();
    let mut bench = Bench::new();
    let host = bench.namespace("host");
    let directory = bench.directory("sockets");
    for round in 0..2 {
        // Killed in the first round, it leaves its sockets behind.
        let mut switch = switch(&mut bench, &format!("switch-{round}"), &host, &directory);
        switch.add_port(1, "vhost_user:queues=2");
        switch.add_port(2, "vhost_user:queues=2");
        switch.add_flows(&["in_port=1,actions=output:2", "in_port=2,actions=output:1"]);
        // Of two workers each has a queue of its own, or both share one.
        exchange(&switch, 2);
        exchange(&switch, 1);
        assert!(directory.join("weft1.sock").exists());
        if round == 0 {
            switch.program.crash();
        } else {
            switch.program.end();
            assert!(!directory.join("weft1.sock").exists(), "it removes what it made");
        }
    }
}

/// Sends to the guest's echo, and reads it back: large segments both ways, with checksums that nobody has computed.
fn echoes(namespace: &str, bytes: usize) {
    let echoed = namespace::inside(namespace, move || {
        let sent: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
        let guest: SocketAddr = "10.7.0.42:7000".parse()?;
        let mut stream = TcpStream::connect_timeout(&guest, PATIENCE)?;
        stream.set_read_timeout(Some(BUSY))?;
        let mut sending = stream.try_clone()?;
        let copy = sent.clone();
        let sender = std::thread::spawn(move || sending.write_all(&copy));
        let mut read = vec![0; bytes];
        stream.read_exact(&mut read)?;
        sender.join().expect("no panic")?;
        Ok(read == sent)
    });
    assert!(echoed.expect("the guest answers"), "it is not what was sent");
}

#[test]
fn a_guest_of_qemu_under_libvirt_speaks_with_a_tap_and_outlives_the_switch() {
    let _turn = serial();
    let mut bench = Bench::new();
    let (host, outside) = (bench.namespace("host"), bench.namespace("outside"));
    let directory = bench.directory("sockets");
    let socket: PathBuf = directory.join("weft1.sock");
    let mac = "02:00:00:00:07:42";
    let start = |bench: &mut Bench, name: &str| {
        let switch = switch(bench, name, &host, &directory);
        switch.add_port(1, &format!("vhost_user:mac={mac},mtu=1400"));
        switch.add_port(2, &format!("tap:eth0,netns={outside},mtu=1400"));
        switch.add_flows(&[
            "priority=40000,in_port=1,udp,udp_dst=67,actions=dhcp_reply(address=10.7.0.42/24,server=10.7.0.1,\
             mac=02:00:00:00:07:01,mtu=1400,lease=600)",
            "in_port=1,actions=output:2",
            "in_port=2,actions=output:1",
        ]);
        address(&outside, "10.7.0.9/24");
        switch
    };
    let mut first = start(&mut bench, "first");
    assert_eq!(first.port(1).state, "down");
    let guest = Guest::start(&mut bench, &host, &socket, mac);
    let lease = eventually("the guest's lease", BUSY, || {
        guest.console().lines().find(|line| line.starts_with("lease ")).map(|line| line.trim().to_owned())
    });
    assert_eq!(lease, format!("lease 10.7.0.42 mtu 1400 mac {mac}"));
    let port = first.port(1);
    assert_eq!((port.state.as_str(), port.detail.as_str()), ("up", "1 of 2 queue pairs, checksum, TSO, mergeable"));
    let pings = || run_inside(&outside, "ping -n -c 3 -i 0.2 -W 2 10.7.0.42");
    assert!(pings().expect("the guest answers").contains("3 received"));
    echoes(&outside, 4 << 20);
    let (machine, tap) = (first.port(1), first.port(2));
    println!("{machine:?}\n{tap:?}");
    for port in [&machine, &tap] {
        // 4 MiB are 3,112 segments of 1,348 bytes, acknowledgements aside.
        assert!(port.received_packets < 3000, "large segments do not cross whole: {port:?}");
        assert_eq!(port.sent_dropped, 0, "{port:?}");
    }
    // (What the kernel behind the TAP had sent before the guest was up went nowhere.)
    assert_eq!(machine.received_dropped, 0, "{machine:?}");

    // The switch dies. The guest's driver does not notice: QEMU connects to the next one.
    first.program.crash();
    let second = start(&mut bench, "second");
    eventually("the guest comes again", PATIENCE, || (second.port(1).state == "up").then_some(()));
    eventually("the guest's first answer", PATIENCE, || pings().ok());
    echoes(&outside, 1 << 20);
    drop(guest);
    eventually("the port is down", PATIENCE, || (second.port(1).state == "down").then_some(()));
}
