//! The line about security groups: one blocks, then allows, then cuts a connection that is established.

use super::traffic::blue_pair;
use crate::cloud::Cloud;
use crate::instance::PROJECTS;
use crate::namespace;
use anyhow::{Context as _, Result, bail};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weft_proto::v1;

/// The TCP port that the group is about.
pub const GUARDED_PORT: u16 = 7006;
/// The group's name.
const GROUP: &str = "guarded";
/// How long a change may take to reach the host, for what is new. Connections end within a second.
const PATIENCE: Duration = Duration::from_secs(3);
const CUT_PATIENCE: Duration = Duration::from_secs(1);

/// The second instance gets a group that lets nothing in; then a rule that lets the first in; then not.
pub fn security_group(cloud: &mut Cloud, _: bool) -> Result<String> {
    let outcome = guarded(cloud);
    let (_, to) = blue_pair(cloud);
    set_groups(cloud, &to.plan.name, &["default"])?;
    let request = v1::DeleteRequest { id: GROUP.into(), project: PROJECTS[0].into() };
    cloud.controller.cloud(|mut cloud| async move { cloud.delete_security_group(request).await })?;
    outcome
}

fn set_groups(cloud: &Cloud, port: &str, groups: &[&str]) -> Result<()> {
    let groups = groups.iter().map(ToString::to_string).collect();
    let request = v1::UpdatePortRequest {
        port: port.into(),
        project: PROJECTS[0].into(),
        security_groups: Some(v1::SecurityGroupChoice { groups }),
        ..Default::default()
    };
    cloud.controller.cloud(|mut cloud| async move { cloud.update_port(request).await }).map(drop)
}

fn guarded(cloud: &Cloud) -> Result<String> {
    let group =
        v1::CreateSecurityGroupRequest { name: GROUP.into(), project: PROJECTS[0].into(), ..Default::default() };
    cloud.controller.cloud(|mut cloud| async move { cloud.create_security_group(group).await })?;
    let (from, to) = blue_pair(cloud);
    let address = SocketAddrV4::new(to.plan.address, GUARDED_PORT);
    let listener = namespace::inside(&to.namespace, move || TcpListener::bind(address).context("cannot listen"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let echo = std::thread::spawn(move || echo(&listener, &stopped));
    let connect = || {
        namespace::inside(&from.namespace, move || {
            Ok(TcpStream::connect_timeout(&address.into(), Duration::from_millis(300)).ok())
        })
    };
    let outcome = tell(cloud, &to.plan.name, &connect);
    stop.store(true, Ordering::Release);
    namespace::finish(echo)?;
    outcome
}

/// Blocks, allows and cuts.
fn tell(cloud: &Cloud, port: &str, connect: &dyn Fn() -> Result<Option<TcpStream>>) -> Result<String> {
    set_groups(cloud, port, &[GROUP])?;
    until(|| Ok(connect()?.is_none().then_some(())))?.with_context(|| {
        format!("a connection to {port} is not blocked, though its group has no rule that lets it in")
    })?;
    let rule = v1::CreateSecurityGroupRuleRequest {
        security_group: GROUP.into(),
        project: PROJECTS[0].into(),
        direction: "ingress".into(),
        protocol: "tcp".into(),
        port_range_min: Some(GUARDED_PORT.into()),
        remote_group: "default".into(),
        ..Default::default()
    };
    let rule = cloud.controller.cloud(|mut cloud| async move { cloud.create_security_group_rule(rule).await })?;
    let mut stream =
        until(connect)?.with_context(|| format!("a connection to {port} is blocked, though a rule lets it in"))?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    if !echoed(&mut stream, PATIENCE)? {
        bail!("nothing comes back over the connection that the rule lets in");
    }

    let request = v1::DeleteRequest { id: rule.id, project: String::new() };
    cloud.controller.cloud(|mut cloud| async move { cloud.delete_security_group_rule(request).await })?;
    let deleted = Instant::now();
    while echoed(&mut stream, Duration::from_millis(200))? {
        if deleted.elapsed() > CUT_PATIENCE {
            bail!("the connection lives on, {} ms after its rule was deleted", deleted.elapsed().as_millis());
        }
    }
    let cut = deleted.elapsed().saturating_sub(Duration::from_millis(200));
    if connect()?.is_some() {
        bail!("a new connection to {port} is let in after the rule was deleted");
    }
    Ok(format!(
        "blocked; let in by a rule for the group default; cut {} ms after the rule was deleted",
        cut.as_millis()
    ))
}

/// Asks until there is an answer, for as long as a change may take.
fn until<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask()? {
            Some(answer) => return Ok(Some(answer)),
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Sends a byte; whether one comes back in time.
fn echoed(stream: &mut TcpStream, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    match stream.write(&[1]) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(_) => return Ok(false),
    }
    loop {
        match stream.read(&mut [0]) {
            Ok(count) => return Ok(count > 0),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Ok(false),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// Sends back what comes over each connection, one after the other, until it is told to stop.
fn echo(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut block = [0; 512];
    while !stop.load(Ordering::Acquire) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        streams.retain_mut(|stream| match stream.read(&mut block) {
            Ok(0) => false,
            Ok(count) => stream.write_all(&block[..count]).is_ok(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
