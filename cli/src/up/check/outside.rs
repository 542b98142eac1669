//! The lines about what is outside of the cloud: source NAT to it, and a floating IP reached from it.

use super::traffic::blue_pair;
use crate::cloud::Cloud;
use crate::instance::{Instance, PROJECTS};
use crate::namespace;
use crate::outside::{FAR, INTERNET, UPSTREAM};
use anyhow::{Context as _, Result, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weft_proto::v1;

/// The UDP port outside that answers.
pub const OUTSIDE_PORT: u16 = 7008;
/// The UDP port outside that is sent what does not fit into a packet.
const LARGE_PORT: u16 = 7010;
/// Bytes of a datagram that takes three packets.
const LARGE: usize = 4000;
/// The UDP port of the stream to the floating IP.
const FLOATING_PORT: u16 = 7009;
/// The floating IP.
pub const FLOATING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
/// How often the stream sends.
const INTERVAL: Duration = Duration::from_millis(2);
/// How many answers may be under way when it moves: they leave under another address then.
const UNDER_WAY: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(3);

/// The first instance pings and talks to who is outside, on the link and behind it; who is talked to knows the router.
pub fn snat(cloud: &mut Cloud, _: bool) -> Result<String> {
    let (from, _) = blue_pair(cloud);
    for to in [UPSTREAM, FAR] {
        let printed = namespace::run_inside(&from.namespace, &format!("ping -n -c 3 -i 0.1 -W 1 {to}"))
            .with_context(|| format!("{} to {to}", from.plan.name))?;
        if !printed.contains("3 received") {
            bail!("{} to {to}: {}", from.plan.name, printed.lines().last().unwrap_or_default());
        }
    }
    let address = cloud.outside;
    let known = talk(from, &cloud.layout.internet_namespace(), address, (OUTSIDE_PORT, 8))?;
    if known != IpAddr::V4(address) {
        bail!("{} is known as {known} outside, not as {address}, the router's address", from.plan.name);
    }
    Ok(format!("{} reaches {UPSTREAM} and {FAR}, where it is known as {address}", from.plan.name))
}

/// A datagram in fragments goes out under the router's address, whole, and so does its answer come in: larger fragments
/// than the instance's network carries.
pub fn fragments(cloud: &mut Cloud, _: bool) -> Result<String> {
    let (from, _) = blue_pair(cloud);
    let address = cloud.outside;
    let known = talk(from, &cloud.layout.internet_namespace(), address, (LARGE_PORT, LARGE))?;
    if known != IpAddr::V4(address) {
        bail!("{} is known as {known} outside, not as {address}, the router's address", from.plan.name);
    }
    Ok(format!("{LARGE} bytes from {} to {FAR} and back, as {address}", from.plan.name))
}

/// Sends a datagram of so many bytes to a port outside, and takes it back if it came from the right address; gives the
/// address that it came from.
fn talk(from: &Instance, internet: &str, known_as: Ipv4Addr, (port, bytes): (u16, usize)) -> Result<IpAddr> {
    let there = SocketAddrV4::new(FAR, port);
    let question: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let server = namespace::inside(internet, move || UdpSocket::bind(there).context("cannot listen"))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let client =
        namespace::inside(&from.namespace, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot send"))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.connect(there)?;
    client.send(&question)?;
    let mut datagram = [0; 65_536];
    let (length, asker) = server.recv_from(&mut datagram).context("no datagram arrives outside")?;
    if datagram[..length] != question {
        bail!("{length} of {bytes} bytes arrive outside, or other ones");
    }
    if asker.ip() == IpAddr::V4(known_as) {
        server.send_to(&question, asker)?;
        let length = client.recv(&mut datagram).context("no answer comes back in")?;
        if datagram[..length] != question {
            bail!("{length} of {bytes} bytes come back in, or other ones");
        }
    }
    Ok(asker.ip())
}

/// A floating IP stands for the second instance, then for the first, while a stream from outside runs: every datagram
/// arrives at the one or the other, and is answered from the floating IP, but for answers that are under way when it moves.
/// Another instance reaches it, too.
pub fn floating_ip(cloud: &mut Cloud, _: bool) -> Result<String> {
    let project = PROJECTS[0];
    let rule = v1::CreateSecurityGroupRuleRequest {
        security_group: "default".into(),
        project: project.into(),
        direction: "ingress".into(),
        protocol: "udp".into(),
        port_range_min: Some(FLOATING_PORT.into()),
        ..Default::default()
    };
    let (first, second) = blue_pair(cloud);
    let floating = v1::CreateFloatingIpRequest {
        network: INTERNET.into(),
        project: project.into(),
        ip_address: FLOATING.to_string(),
        port: second.plan.name.clone(),
        ..Default::default()
    };
    let rule = cloud.controller.cloud(|mut cloud| async move {
        let rule = cloud.create_security_group_rule(rule).await?;
        cloud.create_floating_ip(floating).await?;
        Ok(rule)
    })?;
    let outcome = moved(cloud, first, second);
    let rule = v1::DeleteRequest { id: rule.id, project: String::new() };
    let floating = v1::DeleteRequest { id: FLOATING.to_string(), project: project.into() };
    cloud.controller.cloud(|mut cloud| async move {
        cloud.delete_floating_ip(floating).await?;
        cloud.delete_security_group_rule(rule).await
    })?;
    outcome
}

fn moved(cloud: &Cloud, first: &Instance, second: &Instance) -> Result<String> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut listening = Vec::new();
    for instance in [second, first] {
        let own = SocketAddrV4::new(instance.plan.address, FLOATING_PORT);
        let socket = namespace::inside(&instance.namespace, move || UdpSocket::bind(own).context("cannot listen"))?;
        let stop = Arc::clone(&stop);
        listening.push(std::thread::spawn(move || collect(&socket, &stop)));
    }
    let internet = cloud.layout.internet_namespace();
    let socket = namespace::inside(&internet, || UdpSocket::bind((UPSTREAM, 0)).context("cannot send"))?;
    // It takes answers from nobody else.
    socket.connect((FLOATING, FLOATING_PORT))?;
    let outcome = stream(cloud, first, &socket);
    let from_inside = ask(second);
    stop.store(true, Ordering::Release);
    let mut arrived = Vec::new();
    for thread in listening {
        arrived.push(namespace::finish(thread)?);
    }
    let (sent, answered) = outcome?;
    from_inside.with_context(|| format!("{} to floating IP {FLOATING}", second.plan.name))?;
    let [before, after] = [arrived[0].len(), arrived[1].len()];
    if before == 0 || after == 0 {
        bail!("{before} datagrams arrived at {}, {after} at {}", second.plan.name, first.plan.name);
    }
    let mut all: Vec<u64> = arrived.concat();
    all.sort_unstable();
    all.dedup();
    if all.len() as u64 != sent || before + after != all.len() {
        bail!("of {sent} datagrams {} arrived, at one or the other: {before} and {after}", all.len());
    }
    if answered + UNDER_WAY < sent {
        bail!("of {sent} datagrams {answered} were answered from {FLOATING}");
    }
    Ok(format!(
        "{FLOATING} moved while {sent} datagrams came in: {before} to {}, then {after} to {}, none lost, {answered} answered; \
         {} reaches it too",
        second.plan.name, first.plan.name, second.plan.name
    ))
}

/// An instance asks the floating IP, and is answered from it.
fn ask(from: &Instance) -> Result<()> {
    let socket =
        namespace::inside(&from.namespace, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot send"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((FLOATING, FLOATING_PORT))?;
    socket.send(&u64::MAX.to_be_bytes())?;
    socket.recv(&mut [0; 8]).context("no answer").map(drop)
}

/// Sends datagrams to the floating IP, and moves it in the middle. Gives how many were sent and answered, after the
/// first that was.
fn stream(cloud: &Cloud, to: &Instance, socket: &UdpSocket) -> Result<(u64, u64)> {
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let deadline = Instant::now() + PATIENCE;
    let mut datagram = [0; 8];
    // Until it is in force, and neighbours know each other.
    while socket.send(&u64::MAX.to_be_bytes()).is_err() || socket.recv(&mut datagram).is_err() {
        if Instant::now() >= deadline {
            bail!("nothing answers at floating IP {FLOATING}");
        }
    }
    while socket.recv(&mut datagram).is_ok() {}
    let answers = socket.try_clone()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let counting = std::thread::spawn(move || collect_silently(&answers, &stopped));
    let mut sent = 0;
    let mut run = |milliseconds: u64| -> Result<()> {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until {
            socket.send(&u64::to_be_bytes(sent))?;
            sent += 1;
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    };
    let request = v1::UpdateFloatingIpRequest {
        floating_ip: FLOATING.to_string(),
        project: PROJECTS[0].into(),
        port: to.plan.name.clone(),
        ..Default::default()
    };
    let outcome = std::thread::scope(|scope| {
        let moving = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            cloud.controller.cloud(|mut cloud| async move { cloud.update_floating_ip(request).await })
        });
        run(1000)?;
        moving.join().map_err(|_| anyhow::anyhow!("the thread that moves the floating IP panicked"))?.map(drop)
    });
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Release);
    let answered = namespace::finish(counting)?;
    outcome?;
    Ok((sent, answered))
}

/// Takes numbered datagrams until it is told to stop, and sends each back. Gives the numbers.
fn collect(socket: &UdpSocket, stop: &AtomicBool) -> Result<Vec<u64>> {
    let mut seen = Vec::new();
    receive(socket, stop, |number, from| {
        seen.push(number);
        let _lost = socket.send_to(&number.to_be_bytes(), from);
    })?;
    seen.retain(|number| *number != u64::MAX);
    Ok(seen)
}

/// Likewise, and says nothing. Gives how many came.
fn collect_silently(socket: &UdpSocket, stop: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    receive(socket, stop, |number, _| count += u64::from(number != u64::MAX))?;
    Ok(count)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, mut each: impl FnMut(u64, SocketAddr)) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut datagram = [0; 8];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((8, from)) => each(u64::from_be_bytes(datagram), from),
            Ok(_) => {}
            Err(_) if stop.load(Ordering::Acquire) => return Ok(()),
            Err(_) => {}
        }
    }
}
