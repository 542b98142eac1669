//! Traffic of the kernels and programs at both ends, and whether all of it arrived.

use crate::bench::Bench;
use crate::{eventually, run};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;
use weft_up::namespace::{self, run_inside};

const PATIENCE: Duration = Duration::from_secs(20);

/// Five pings with more options, all answered. The first answer may wait for a neighbour of the underlay before.
///
/// # Panics
/// If one of the five is not answered.
#[track_caller]
pub fn pings(from: &str, to: &str, options: &str) {
    eventually(&format!("the first answer of {to}"), PATIENCE, || {
        run_inside(from, &format!("ping -n -c 1 -W 1 {to}")).ok()
    });
    let printed = run_inside(from, &format!("ping -n -c 5 -i 0.1 -W 1 {options} {to}"));
    let printed = printed.unwrap_or_else(|error| panic!("{from} to {to}: {error:#}"));
    assert!(printed.contains("5 received"), "{printed}");
}

/// A megabyte by TCP from one namespace to an address of another.
///
/// # Panics
/// If it does not arrive whole.
pub fn sends(from: &str, to: &str, address: &str) {
    let (tell, told) = std::sync::mpsc::channel();
    let server = namespace::start(to, move || {
        let listener = TcpListener::bind("0.0.0.0:7000")?;
        // The test has ended if nobody hears it.
        let _ = tell.send(());
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(std::io::copy(&mut stream, &mut std::io::sink())?)
    })
    .expect("the namespace is there");
    told.recv_timeout(PATIENCE).expect("the server listens");
    let target = format!("{address}:7000");
    let client = namespace::start(from, move || {
        let mut stream = TcpStream::connect_timeout(&target.parse()?, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(std::io::Write::write_all(&mut stream, &vec![7; 1 << 20])?)
    })
    .expect("the namespace is there");
    client.join().expect("no panic").unwrap_or_else(|error| panic!("{from} to {address}: {error:#}"));
    assert_eq!(server.join().expect("no panic").expect("it receives"), 1 << 20);
}

/// curl fetches a page of half a megabyte by HTTP from an address of another namespace.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn fetches(from: &str, to: &str, address: &str) {
    let bind = || Ok(TcpListener::bind("0.0.0.0:8000")?);
    let listener = namespace::inside(to, bind).expect("the port is free");
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.extend(byte);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", 1 << 19)?;
        stream.write_all(&vec![b'w'; 1 << 19])
    });
    let fetched = run_inside(from, &format!("curl --silent --show-error --max-time 20 http://{address}:8000/"));
    let fetched = fetched.unwrap_or_else(|error| panic!("{from} from {address}: {error:#}"));
    assert_eq!(fetched.trim_end().len(), 1 << 19);
    server.join().expect("no panic").expect("it was asked");
}

/// A UDP datagram to a port where nobody listens: the other end's kernel answers by ICMP.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn is_refused(from: &str, address: &str) {
    let target = format!("{address}:9");
    let refused = namespace::inside(from, move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(target)?;
        socket.send(b"anybody?")?;
        Ok(socket.recv(&mut [0; 10]).expect_err("nobody listens").kind())
    });
    assert_eq!(refused.expect("the socket can be made"), std::io::ErrorKind::ConnectionRefused);
}

/// Runs iperf3 from one namespace to an address of another; gives the receiver's line, in Mbit/s.
///
/// # Panics
/// If it fails.
pub fn iperf(bench: &mut Bench, from: &str, to: &str, address: &str, options: &str) -> String {
    let mut server = bench.start(to, "iperf3 --server --one-off");
    eventually("iperf3's listening", PATIENCE, || {
        let listening = run_inside(to, "ss -Hltn sport = :5201").ok()?;
        (!listening.is_empty()).then_some(())
    });
    let client = format!("timeout 40 iperf3 --client {address} --format m {options}");
    let outcome = run(Command::new("ip").args(["netns", "exec", from]).args(client.split(' ')));
    let printed = outcome.success();
    server.end();
    let line = printed.lines().rfind(|line| line.contains("receiver"));
    line.unwrap_or_else(|| panic!("iperf3 names no receiver:\n{printed}")).to_owned()
}

/// The number before a unit: 940 of "940 Mbits/sec".
///
/// # Panics
/// If there is none.
#[must_use]
pub fn number_before(line: &str, unit: &str) -> f64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let place = words.iter().position(|word| *word == unit).unwrap_or_else(|| panic!("no {unit} in {line:?}"));
    words[place - 1].parse().unwrap_or_else(|_| panic!("no number before {unit} in {line:?}"))
}
