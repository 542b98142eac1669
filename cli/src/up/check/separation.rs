//! Lines about what must not get through, and about saying why: frames are made by hand, and watched for where
//! they must and must not appear.

use super::traffic;
use crate::api;
use crate::capture::{Capture, Direction, packet_socket};
use crate::cloud::Cloud;
use crate::frame::{self, End};
use crate::instance::{Instance, PROJECTS};
use crate::layout::Layout;
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::time::Duration;
use weft_proto::v1;

/// An instance of the first project, and one of the second on the same host with the same address.
pub const BLUE: usize = 0;
/// See [`BLUE`].
pub const GREEN: usize = 2;
/// Spoofs its source.
pub const SPOOFER: usize = 0;
/// Is traced, as if it spoofed its source: not the spoofer, so that no fault is found by two lines.
pub const TRACED: usize = 1;
/// The source of the traced packet: not on the port.
pub const TRACED_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
/// UDP port of the frames that must stay in their project.
pub const ISOLATION_PORT: u16 = 7003;
/// Whom the broadcasts ask for: an address that nobody has, so that the switch does not answer itself. ARP, because
/// security groups guard ports against other broadcasts.
pub const ASKED_FOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 210);
const SPOOFED_PORT: u16 = 7005;

/// How long to wait for what should come, and for what should not.
const PATIENCE: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(400);

/// A text that no other frame of this machine contains.
fn marker(line: &str, part: &str) -> Vec<u8> {
    format!("weft check {} {line} {part}", std::process::id()).into_bytes()
}

fn watch(instance: &Instance, marker: &[u8]) -> Result<Capture> {
    Capture::start(&instance.namespace, &instance.interface, Direction::Arriving, marker)
}

/// A broadcast of an instance, with a text at its end.
fn broadcast_of(instance: &Instance, marker: &[u8]) -> Vec<u8> {
    let mut frame = frame::arp_request(instance.end(), ASKED_FOR);
    frame.extend(marker);
    frame
}

/// Each project in turn sends to its own other instance, to everyone, and straight to the MAC addresses of the other
/// project; only its own sees anything.
pub fn isolation(cloud: &mut Cloud, _: bool) -> Result<String> {
    let mut frames = 0;
    for (ours, theirs) in [(PROJECTS[0], PROJECTS[1]), (PROJECTS[1], PROJECTS[0])] {
        let of = |project: &'static str| {
            cloud.instances.iter().filter(move |instance| instance.plan.project == project).collect::<Vec<_>>()
        };
        let (own, foreign) = (of(ours), of(theirs));
        let (from, to) = (own[0], own[1]);
        let marker = marker("isolation", ours);
        let expected = watch(to, &marker)?;
        let forbidden =
            foreign.iter().map(|instance| Ok((*instance, watch(instance, &marker)?))).collect::<Result<Vec<_>>>()?;
        let socket = packet_socket(&from.namespace, &from.interface)?;
        let straight = |target: End| frame::udp(from.end(), target, (ISOLATION_PORT, ISOLATION_PORT), &marker);
        let mut sent = vec![straight(to.end()), broadcast_of(from, &marker)];
        sent.extend(foreign.iter().map(|instance| straight(instance.end())));
        for frame in &sent {
            socket.send(frame)?;
        }
        frames += sent.len();
        if expected.wait_for(2, PATIENCE) < 2 {
            bail!("{} does not even get what {} of its own project sends", to.plan.name, from.plan.name);
        }
        std::thread::sleep(SILENCE);
        for (instance, capture) in forbidden {
            let seen = capture.finish()?.len();
            if seen > 0 {
                bail!("{} of project {theirs} saw {seen} frames of project {ours}", instance.plan.name);
            }
        }
    }
    Ok(format!("{frames} frames sent, none seen in the other project"))
}

/// Frames from an address, a MAC address and an ARP sender that are not the port's: none arrives, each is counted.
pub fn anti_spoofing(cloud: &mut Cloud, _: bool) -> Result<String> {
    let from = &cloud.instances[SPOOFER];
    let (_, to) = traffic::blue_pair(cloud);
    let switch = &cloud.hosts[from.plan.host].switch;
    let marker = marker("anti_spoofing", "");
    let wrong_address = Ipv4Addr::new(10, 0, 0, 77);
    let wrong_mac = [0x02, 0xba, 0xdb, 0xad, 0, 1];
    let ports = (SPOOFED_PORT, SPOOFED_PORT);
    let mut arp = frame::arp_request(End { address: to.plan.address, ..from.end() }, wrong_address);
    // To one station instead of everyone, so that its way does not depend on flooding.
    arp[..6].copy_from_slice(&to.mac);
    arp.extend(&marker);
    let frames = [
        frame::udp(End { address: wrong_address, ..from.end() }, to.end(), ports, &marker),
        frame::udp(End { mac: wrong_mac, ..from.end() }, to.end(), ports, &marker),
        arp,
    ];
    let capture = watch(to, &marker)?;
    let before = switch.drops("spoofed")?;
    let socket = packet_socket(&from.namespace, &from.interface)?;
    for frame in &frames {
        socket.send(frame)?;
    }
    std::thread::sleep(SILENCE);
    let mut counted = 0;
    for _ in 0..30 {
        counted = switch.drops("spoofed")? - before;
        if counted >= frames.len() as u64 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let arrived = capture.finish()?.len();
    if arrived > 0 {
        bail!("{arrived} of {} spoofed frames arrived at {}", frames.len(), to.plan.name);
    }
    if counted < frames.len() as u64 {
        bail!("{} spoofed frames were sent, {counted} were counted under the reason spoofed", frames.len());
    }
    Ok(format!("{} frames with a wrong IP, MAC and ARP source: none arrived, {counted} counted", frames.len()))
}

/// A broadcast of the first project arrives on the second host, and is not even sent to the third, where it has no
/// instance.
pub fn broadcast(cloud: &mut Cloud, _: bool) -> Result<String> {
    let (from, to) = traffic::blue_pair(cloud);
    let third = cloud.hosts.last().context("there is no third host")?;
    let marker = marker("broadcast", "");
    let expected = watch(to, &marker)?;
    let underlay = cloud.layout.underlay_namespace();
    // On the bridge's side of the cable: on the host's side XDP would take tunnel packets before a capture sees them.
    let second_cable =
        Capture::start(&underlay, &Layout::cable(&cloud.hosts[to.plan.host].name), Direction::Both, &marker)?;
    let third_cable = Capture::start(&underlay, &Layout::cable(&third.name), Direction::Both, &marker)?;
    let socket = packet_socket(&from.namespace, &from.interface)?;
    socket.send(&broadcast_of(from, &marker))?;
    if expected.wait_for(1, PATIENCE) == 0 {
        bail!("the broadcast of {} does not reach {}", from.plan.name, to.plan.name);
    }
    std::thread::sleep(SILENCE);
    let copies = second_cable.finish()?.len();
    let strays = third_cable.finish()?.len();
    if strays > 0 {
        bail!("host {} was sent {strays} copies, and has no instance of the network", third.name);
    }
    // Proves that a capture on a cable would have seen it.
    if copies != 1 {
        bail!("host {} was sent {copies} copies, expected 1", to.host);
    }
    Ok(format!("1 copy to host {}, none to host {}", to.host, third.name))
}

/// A spoofed packet is traced, through the controller.
pub fn trace(cloud: &mut Cloud, _: bool) -> Result<String> {
    let from = &cloud.instances[TRACED];
    let (to, _) = traffic::blue_pair(cloud);
    let request = v1::TraceRequest {
        frame: frame::udp(
            End { address: TRACED_SOURCE, ..from.end() },
            to.end(),
            (SPOOFED_PORT, SPOOFED_PORT),
            b"traced",
        ),
        in_port: from.number,
        ..v1::TraceRequest::default()
    };
    let request = api::for_host(&from.host, request)?;
    let reply = cloud.controller.switch(|mut switch| async move { switch.trace(request).await })?;
    let last = reply.steps.last().context("the trace has no steps")?;
    if reply.drop_reason != "spoofed" {
        bail!(
            "the trace ends in table {} with drop reason {:?}, expected \"spoofed\"",
            last.table_name,
            reply.drop_reason
        );
    }
    let state = last.rule.as_ref().with_context(|| {
        format!("the trace names no rule in table {}: the packet was dropped by a table miss", last.table_name)
    })?;
    let owner = state.rule.as_ref().map(v1::Rule::owner);
    if owner != Some(v1::Owner::Fabric) || !state.origin.contains(&from.plan.name) {
        bail!(
            "the rule that drops, in table {}, is of origin {:?}, expected one of the fabric that names port {}",
            last.table_name,
            state.origin,
            from.plan.name
        );
    }
    Ok(format!("table {}: {}", last.table_name, state.origin))
}
