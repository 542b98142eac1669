//! Lines about ordinary traffic across hosts: ping, TCP, and both programs' independence of the controller.

use super::super::fault;
use crate::cloud::Cloud;
use crate::instance::{Instance, InstancePlan, PROJECTS};
use crate::namespace;
use anyhow::{Context, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The UDP port of the stream that runs while the controller is restarted.
pub const STREAM_PORT: u16 = 7001;
/// The TCP port of the transfer across hosts.
pub const TRANSFER_PORT: u16 = 7002;
const TRANSFER_BYTES: usize = 8 << 20;

/// The first project's instances, on different hosts.
#[must_use]
pub fn blue_pair(cloud: &Cloud) -> (&Instance, &Instance) {
    (&cloud.instances[0], &cloud.instances[1])
}

/// Both projects' first instance pings the second, which is on another host.
pub fn ping(cloud: &mut Cloud, _: bool) -> Result<String> {
    let mut seen = Vec::new();
    for (from, to) in [(0, 1), (2, 3)] {
        let (from, to) = (&cloud.instances[from], &cloud.instances[to]);
        let command = format!("ping -n -c 5 -i 0.1 -W 1 {}", to.plan.address);
        let printed = namespace::run_inside(&from.namespace, &command)
            .with_context(|| format!("{} to {}", from.plan.name, to.plan.name))?;
        if !printed.contains("5 received") {
            let summary = printed.lines().find(|line| line.contains("received")).unwrap_or("no summary");
            bail!("{} to {}: {summary}", from.plan.name, to.plan.name);
        }
        let times = printed.lines().last().and_then(|line| line.split('/').nth(4)).unwrap_or("?");
        seen.push(format!("{} to {} 5 of 5, {times} ms", from.plan.name, to.plan.name));
    }
    Ok(seen.join("; "))
}

/// Some megabytes each way, compared by their sum.
pub fn tcp(cloud: &mut Cloud, _: bool) -> Result<String> {
    let (one, two) = blue_pair(cloud);
    let there = transfer(one, two)?;
    let back = transfer(two, one)?;
    let rate = |time: Duration| TRANSFER_BYTES as f64 * 8.0 / time.as_secs_f64() / 1e6;
    Ok(format!("{} MB each way intact, {:.0} and {:.0} Mbit/s", TRANSFER_BYTES >> 20, rate(there), rate(back)))
}

/// Sends some megabytes by TCP and compares; gives the time it took.
pub(super) fn transfer(from: &Instance, to: &Instance) -> Result<Duration> {
    let address = SocketAddrV4::new(to.plan.address, TRANSFER_PORT);
    let listener = namespace::inside(&to.namespace, move || TcpListener::bind(address).context("cannot listen"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // A socket stays in the namespace it was made in, so the reader may run in this one.
    let reader = std::thread::spawn(move || receive(&listener, &stopped));
    let sent = namespace::inside(&from.namespace, move || {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(2))
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut bytes = Sequence::new();
        let mut block = vec![0; 64 << 10];
        for _ in 0..TRANSFER_BYTES / block.len() {
            bytes.fill(&mut block);
            stream.write_all(&block).context("the transfer stalled")?;
        }
        stream.shutdown(Shutdown::Write)?;
        // The other end closes when it has everything.
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.read(&mut [0]).context("the end was not acknowledged")?;
        Ok((bytes.sum, start.elapsed()))
    });
    stop.store(true, Ordering::Release);
    let received = namespace::finish(reader);
    let route = || format!("{} to {}", from.plan.name, to.plan.name);
    let (sum, time) = sent.with_context(route)?;
    let (length, arrived) = received.with_context(route)?;
    if length != TRANSFER_BYTES {
        bail!("{}: {length} of {TRANSFER_BYTES} bytes arrived", route());
    }
    if arrived != sum {
        bail!("{}: what arrived is not what was sent", route());
    }
    Ok(time)
}

/// Accepts one connection and reads it to its end; gives the length and the sum.
fn receive(listener: &TcpListener, stop: &AtomicBool) -> Result<(usize, u64)> {
    listener.set_nonblocking(true)?;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Acquire) {
                    bail!("nobody connected");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut block = vec![0; 64 << 10];
    let (mut length, mut sum) = (0, SUM_START);
    loop {
        match stream.read(&mut block).context("the transfer stalled")? {
            0 => return Ok((length, sum)),
            count => {
                length += count;
                sum = add(sum, &block[..count]);
            }
        }
    }
}

const SUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Bytes without a pattern that a fault could repeat (xorshift64), and their sum so far.
struct Sequence {
    state: u64,
    sum: u64,
}

impl Sequence {
    fn new() -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, sum: SUM_START }
    }

    fn fill(&mut self, block: &mut [u8]) {
        for bytes in block.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            bytes.copy_from_slice(&self.state.to_be_bytes()[..bytes.len()]);
        }
        self.sum = add(self.sum, block);
    }
}

/// How often the stream sends.
const STREAM_INTERVAL: Duration = Duration::from_millis(5);

/// A stream of numbered datagrams runs across hosts while the controller is killed, gone for a while, and
/// started again; none is lost. Afterwards the hosts are in step again and a new instance works.
pub fn restart(cloud: &mut Cloud, broken: bool) -> Result<String> {
    let (from, to) = blue_pair(cloud);
    let target = SocketAddrV4::new(to.plan.address, STREAM_PORT);
    let receiver = namespace::inside(&to.namespace, move || UdpSocket::bind(target).context("cannot listen"))?;
    let sender =
        namespace::inside(&from.namespace, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot send"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sending = std::thread::spawn(move || -> Result<u64> {
        let mut number = 0_u64;
        while !stopped.load(Ordering::Acquire) {
            sender.send_to(&number.to_be_bytes(), target)?;
            number += 1;
            std::thread::sleep(STREAM_INTERVAL);
        }
        Ok(number)
    });
    let stopped = Arc::clone(&stop);
    let counting = std::thread::spawn(move || -> Result<Vec<u64>> {
        receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut seen = Vec::new();
        let mut datagram = [0; 8];
        loop {
            match receiver.recv(&mut datagram) {
                Ok(8) => seen.push(u64::from_be_bytes(datagram)),
                Ok(_) => {}
                // Half a second of silence after the sender's end: nothing is under way any more.
                Err(_) if stopped.load(Ordering::Acquire) => return Ok(seen),
                Err(_) => {}
            }
        }
    });

    let outcome = restart_controller(cloud, broken);
    stop.store(true, Ordering::Release);
    let sent = namespace::finish(sending)?;
    let mut seen = namespace::finish(counting)?;
    let absence = outcome?;
    seen.sort_unstable();
    seen.dedup();
    let arrived = seen.len() as u64;
    if arrived != sent {
        let first = (0..sent).find(|number| seen.binary_search(number).is_err()).unwrap_or(sent);
        bail!("{} of {sent} datagrams were lost, the first of them number {first}", sent - arrived);
    }

    let place = cloud.add_instance(InstancePlan::new(PROJECTS[0], 9, 1))?;
    let missing = cloud.start_clients(&[place], Duration::from_secs(6))?;
    if !missing.is_empty() {
        bail!("an instance plugged after the restart gets no lease");
    }
    let first = &cloud.instances[0];
    namespace::run_inside(
        &cloud.instances[place].namespace,
        &format!("ping -n -c 2 -i 0.1 -W 1 {}", first.plan.address),
    )
    .context("an instance plugged after the restart")?;
    Ok(format!(
        "{sent} of {sent} datagrams arrived, {:.1} s of them without a controller; a new instance works",
        absence.as_secs_f64()
    ))
}

/// Gives how long there was no controller.
fn restart_controller(cloud: &mut Cloud, broken: bool) -> Result<Duration> {
    std::thread::sleep(Duration::from_millis(300));
    cloud.crash_controller();
    let gone = Instant::now();
    if broken {
        fault::forward_no_more(cloud)?;
    }
    std::thread::sleep(Duration::from_millis(1000));
    cloud.restart_controller()?;
    cloud.wait_for_hosts()?;
    let absence = gone.elapsed();
    std::thread::sleep(Duration::from_millis(300));
    Ok(absence)
}
