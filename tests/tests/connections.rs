//! Connections over two workers, with real ends: rules by hand that let answers pass and nothing else.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use weft_tests::bench::{Bench, Switch, address};
use weft_tests::{eventually, serial, weft};
use weft_up::namespace::{self, run_inside};

const CLIENT: u32 = 1;
const SERVER: u32 = 2;
const SESSIONS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);

/// A firewall at each of the two ports, each with a zone of its own. The client may begin what it likes, the
/// server only answers.
fn rules() -> Vec<String> {
    let mut rules = vec![
        "table=0,priority=20,arp,in_port=1,actions=output:2".to_owned(),
        "table=0,priority=20,arp,in_port=2,actions=output:1".to_owned(),
        "table=1,priority=1,actions=drop(policy)".to_owned(),
        "table=3,priority=1,actions=drop(policy)".to_owned(),
    ];
    for (port, other) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        rules.push(format!("table=0,priority=10,in_port={port},ip,actions=ct(zone={port}),goto_table:1"));
        rules.push(format!("table=2,in_port={port},ip,actions=ct(zone={other}),goto_table:3"));
        rules.push(format!("table=4,in_port={port},actions=output:{other}"));
    }
    for (table, zone) in [(1, CLIENT), (3, SERVER)] {
        let next = table + 1;
        rules.push(format!("table={table},priority=90,ip,ct_state=+est,actions=goto_table:{next}"));
        rules.push(format!("table={table},priority=90,ip,ct_state=+rel,actions=goto_table:{next}"));
        rules.push(format!(
            "table={table},priority=80,ip,in_port={CLIENT},ct_state=+new,actions=ct(commit,zone={zone}),goto_table:{next}"
        ));
    }
    rules
}

/// What was dropped of what came in by the two ports.
fn drops(switch: &Switch) -> Vec<(String, u64)> {
    [CLIENT, SERVER].into_iter().flat_map(|port| switch.drops_of(port)).collect()
}

/// Answers to whoever speaks, until they close.
fn serve(namespace: &str) {
    let listen = || Ok((TcpListener::bind("10.0.0.2:7000")?, UdpSocket::bind("10.0.0.2:7000")?));
    let (listener, socket) = namespace::inside(namespace, listen).expect("the ports are free");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut block = [0; 4096];
                while let Ok(count) = stream.read(&mut block)
                    && count > 0
                    && stream.write_all(&block[..count]).is_ok()
                {}
            });
        }
    });
    std::thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok((count, from)) = socket.recv_from(&mut block) {
            if socket.send_to(&block[..count], from).is_err() {
                return;
            }
        }
    });
}

fn exchange(session: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    session.write_all(text)?;
    let mut answer = vec![0; text.len()];
    session.read_exact(&mut answer)?;
    assert_eq!(answer, text);
    Ok(())
}

#[test]
fn two_workers_track_hundreds_of_connections_and_lose_nothing() {
    let _turn = serial();
    let mut bench = Bench::new();
    let host = bench.namespace("host-a");
    let [one, two] = [bench.namespace("vm1"), bench.namespace("vm2")];
    for namespace in [&one, &two] {
        // Its own chatter would be dropped, and counted.
        run_inside(namespace, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
            .expect("the kernel has IPv6 to disable");
    }
    let switch = bench.switch("host-a", &host);
    switch.add_port(CLIENT, &format!("tap:eth0,netns={one}"));
    switch.add_port(SERVER, &format!("tap:eth0,netns={two}"));
    let rules = rules();
    switch.add_flows(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    address(&one, "10.0.0.1/24");
    address(&two, "10.0.0.2/24");
    serve(&two);

    let target: SocketAddr = "10.0.0.2:7000".parse().expect("it is an address");
    let connect = move || {
        let connect = |_| {
            let session = TcpStream::connect_timeout(&target, PATIENCE)?;
            session.set_read_timeout(Some(PATIENCE))?;
            session.set_nodelay(true)?;
            Ok(session)
        };
        (0..SESSIONS).map(connect).collect::<anyhow::Result<Vec<_>>>()
    };
    let mut sessions = namespace::inside(&one, connect).expect("every connection is let through");
    let sockets = move || {
        let open = |_| {
            let socket = UdpSocket::bind("10.0.0.1:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(target)?;
            Ok(socket)
        };
        (0..50).map(open).collect::<anyhow::Result<Vec<UdpSocket>>>()
    };
    let sockets = namespace::inside(&one, sockets).expect("there are ports");
    for round in 0..20_u8 {
        // All have something on its way at once.
        for session in &mut sessions {
            session.write_all(&[round; 700]).expect("the session is open");
        }
        for socket in &sockets {
            let _sent = socket.send(&[round; 300]).expect("the interface is up");
        }
        for session in &mut sessions {
            let mut answer = [0; 700];
            session.read_exact(&mut answer).expect("the answer is let through");
            assert_eq!(answer, [round; 700]);
        }
        for socket in &sockets {
            let mut answer = [0; 400];
            assert_eq!(socket.recv(&mut answer).expect("the answer is let through"), 300);
        }
    }
    let printed = run_inside(&one, "ping -n -c 20 -i 0.05 -W 2 10.0.0.2").expect("ping is answered");
    assert!(printed.contains("20 received"), "{printed}");
    // A datagram to a port where nobody listens: the ICMP error belongs to its connection.
    let refused = namespace::inside(&one, || {
        let socket = UdpSocket::bind("10.0.0.1:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect("10.0.0.2:9")?;
        socket.send(b"anybody?")?;
        Ok(socket.recv(&mut [0; 10]).expect_err("nobody listens").kind())
    });
    assert_eq!(refused.expect("the socket can be made"), ErrorKind::ConnectionRefused);
    assert_eq!(drops(&switch), [], "nothing of all this may be dropped");

    // Both workers had part in it, and each conversation is recorded once in each zone.
    let status = switch.status().expect("the switch answers");
    assert_eq!(status.workers.len(), 2);
    assert!(status.workers.iter().all(|worker| worker.packets > 500), "{:?}", status.workers);
    let listed = weft(&["connections", &switch.host, "--protocol", "tcp", "--limit", "5000"]).success();
    for worker in [0, 1] {
        assert!(listed.contains(&format!("worker={worker}")), "worker {worker} has none:\n{listed}");
    }
    for zone in [CLIENT, SERVER] {
        let mut ports: Vec<&str> = listed
            .lines()
            .filter(|line| line.contains(&format!(" zone={zone} ")) && line.contains(" ESTABLISHED src=10.0.0.1 "))
            .filter_map(|line| line.split(" sport=").nth(1)?.split(' ').next())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), SESSIONS, "zone {zone}:\n{listed}");
    }
    assert_eq!(listed.lines().count(), 2 * SESSIONS, "{listed}");

    // A trace finds the connection whichever worker has it.
    for session in &sessions[..10] {
        let port = session.local_addr().expect("it is connected").port();
        let packet =
            format!("in_port={SERVER},tcp,ip_src=10.0.0.2,ip_dst=10.0.0.1,tcp_src=7000,tcp_dst={port},tcp_flags=+ack");
        let traced = weft(&["trace", &switch.host, &packet]).success();
        assert!(traced.contains(&format!("output:{CLIENT}")), "{traced}");
    }

    // The server may not begin anything.
    let begun = namespace::inside(&two, || {
        let there: SocketAddr = "10.0.0.1:7000".parse()?;
        Ok(TcpStream::connect_timeout(&there, Duration::from_millis(500)).map(drop))
    });
    assert!(begun.expect("the namespace is there").is_err());
    let policy = eventually("the server's attempt among the drops", Duration::from_secs(3), || {
        drops(&switch).into_iter().find(|(reason, _)| reason == "policy")
    });
    assert!(policy.1 >= 1);

    // What is flushed is gone: a segment from the middle begins nothing.
    exchange(&mut sessions[0], b"still here").expect("the session is open");
    let one_port = sessions[0].local_addr().expect("it is connected").port().to_string();
    let ended = weft(&["connections", &switch.host, "flush", "--zone", "1", "--port", &one_port]).success();
    assert_eq!(ended, "1 connection ended.\n");
    sessions[0].set_read_timeout(Some(Duration::from_millis(500))).expect("it is more than zero");
    let broken = exchange(&mut sessions[0], b"and now?").expect_err("the connection was ended").kind();
    assert!(matches!(broken, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{broken:?}");
    exchange(&mut sessions[1], b"but others go on").expect("another session is open");
}
