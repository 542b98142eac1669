//! Hosts and their switches.

use super::Finding;
use super::evidence::Evidence;
use weft_proto::text::format_ip;
use weft_proto::v1::Owner;

/// Seconds by which clocks may differ; what is asked one after another differs a little anyway.
const CLOCK_SECONDS: u64 = 5;

/// Days before a certificate's end by which it should have been renewed: hosts do so at half of its life.
const CERTIFICATE_DAYS: u64 = 30;

/// Hosts that are away, or never came.
pub fn connected(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for host in &evidence.hosts {
        let object = format!("host {}", host.name);
        if !host.note.is_empty() {
            found.push(Finding::of_fault(&object, &host.note));
        }
        if !host.fault.is_empty() {
            found.push(Finding::of_fault(&object, &host.fault));
        }
        if !host.connected && host.note.is_empty() && host.fault.is_empty() {
            found.push(Finding::new(&object, "it is not connected", "Start weft-switch there, or look at its log."));
        }
        if host.connected && host.underlay_addresses.is_empty() {
            found.push(Finding::new(
                &object,
                "it has no address on the underlay: its instances reach no other host",
                "Name its interface in its settings, [underlay] interface.",
            ));
        }
        for one in host.underlay_addresses.iter().filter(|one| host.connected && one.down) {
            found.push(Finding::new(
                &object,
                format!("its underlay address {} is down: {} is not up, or has no carrier", one.address, one.interface),
                "Look at its cable and at \"ip link\" there. Until then other hosts send to another of its addresses.",
            ));
        }
    }
    found
}

/// Connected, but silent.
pub fn answering(evidence: &Evidence) -> Vec<Finding> {
    let silent = evidence.switches.iter().filter_map(|(name, switch)| Some((name, switch.as_ref().err()?)));
    silent.map(|(name, fault)| Finding::of_fault(format!("host {name}"), fault)).collect()
}

/// A mixed cloud works, or is meant to, only during an upgrade.
pub fn version(evidence: &Evidence) -> Vec<Finding> {
    let ours = &evidence.controller.version;
    let other = evidence.hosts.iter().filter(|host| !host.switch_version.is_empty() && host.switch_version != *ours);
    other
        .map(|host| {
            Finding::new(
                format!("host {}", host.name),
                format!("its switch is of version {}, the controller of {ours}", host.switch_version),
                "Install the same version on both.",
            )
        })
        .collect()
}

/// Switches that have not taken over what they were sent.
pub fn generation(evidence: &Evidence) -> Vec<Finding> {
    let behind = evidence.hosts.iter().filter(|host| host.connected && host.acknowledged_generation < host.generation);
    behind
        .map(|host| {
            Finding::new(
                format!("host {}", host.name),
                format!(
                    "its switch is {} behind: it has generation {} of {}",
                    host.generation - host.acknowledged_generation,
                    host.acknowledged_generation,
                    host.generation
                ),
                "Wait a moment; if it stays so, look at the logs of both.",
            )
        })
        .collect()
}

/// Certificates are good for a span of time, by the clock of who checks.
pub fn clock(evidence: &Evidence) -> Vec<Finding> {
    let ours = evidence.controller.clock_seconds;
    let theirs = evidence.answering().map(|(name, switch)| (name, switch.status.clock_seconds));
    // A switch that does not tell is of another version.
    theirs
        .filter(|(_, clock)| *clock != 0 && clock.abs_diff(ours) > CLOCK_SECONDS)
        .map(|(name, clock)| {
            let way = if clock < ours { "behind" } else { "ahead of" };
            let seconds = clock.abs_diff(ours);
            let problem = format!("its clock is {seconds} s {way} the controller's");
            Finding::new(format!("host {name}"), problem, "Let a time service (chrony, ntpd) set both.")
        })
        .collect()
}

/// Hosts renew their certificates by themselves, in time.
pub fn certificate(evidence: &Evidence) -> Vec<Finding> {
    let now = evidence.controller.clock_seconds;
    let mut found = Vec::new();
    for host in evidence.hosts.iter().filter(|host| host.certificate_expires != 0) {
        let object = format!("host {}", host.name);
        let join = format!("Look at its switch's log; else join it anew: weft host join-token {}", host.name);
        match host.certificate_expires.checked_sub(now) {
            None => found.push(Finding::new(object, "its certificate has expired", join)),
            Some(left) if left < CERTIFICATE_DAYS * 86_400 => {
                let problem = format!("its certificate expires in {} days, and was not renewed", left / 86_400);
                found.push(Finding::new(object, problem, join));
            }
            Some(_) => {}
        }
    }
    found
}

/// Packet memory that is nearly used up.
pub fn buffers(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, switch) in evidence.answering() {
        let status = &switch.status;
        for (size, free, total) in
            [("4 KB", status.chunks_free, status.chunks_total), ("64 KB", status.runs_free, status.runs_total)]
        {
            if u64::from(free) * 10 < u64::from(total) {
                found.push(Finding::new(
                    format!("host {name}"),
                    format!("{free} of its {total} buffers of {size} are free"),
                    "Give the switch more packet memory in its settings, or see who fills it: weft ports list HOST.",
                ));
            }
        }
    }
    found
}

/// The interfaces that the cloud's ports are not: the underlay, physical networks, a person's.
pub fn interfaces(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for host in evidence.hosts.iter().filter(|host| host.connected) {
        for port in &host.ports {
            let spec = port.spec.clone().unwrap_or_default();
            if spec.owner() == Owner::Manual && port.state != "up" {
                let object = format!("host {}, its port {}", host.name, spec.name);
                found.push(Finding::of_fault(object, &format!("it is {}", port.state)));
            }
        }
    }
    found
}

/// Other hosts that a host's underlay does not get to.
pub fn underlay(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, switch) in evidence.answering() {
        for neighbour in &switch.unreached {
            let (address, state) = (format_ip(&neighbour.address), &neighbour.state);
            if neighbour.port != 0 {
                if state == "failed" {
                    found.push(Finding::new(
                        format!("host {name}, its port {}", neighbour.interface),
                        format!("next hop {address} does not answer ARP there"),
                        "Is it there, and is it the gateway of the external network's subnet?",
                    ));
                }
                continue;
            }
            let other =
                evidence.hosts.iter().find(|host| host.underlay_addresses.iter().any(|one| one.address == address));
            let whom = other.map_or_else(String::new, |host| format!(", host {}", host.name));
            let why = if state == "no_route" {
                "it has no route there".to_owned()
            } else {
                format!("nobody answers its ARP there ({state})")
            };
            found.push(Finding::new(
                format!("underlay of host {name}"),
                format!("it does not reach {address}{whom}: {why}"),
                "Is that host up, its interface too, and on the same network? See \"weft neighbours HOST\" and \"ip route\".",
            ));
        }
    }
    found
}
