//! `weft up --check`: what the demo cloud promises, line by line, each tried on real traffic, and each proven to
//! find a fault by `--break`.
//!
//! To add a line: a row in [`CHECKS`], its function in the file it belongs to, its fault in `fault.rs`. The
//! end-to-end test of the breaks takes the names from the table.

pub mod address;
pub mod firewall;
pub mod outside;
pub mod reactive;
pub mod remains;
pub mod routing;
pub mod segments;
pub mod separation;
pub mod traffic;

use super::cloud::{Cloud, Progress};
use super::fault;
use super::interrupt;
use super::layout::Layout;
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

/// A broadcast needs a host that it must not reach.
pub const HOSTS: usize = 3;

/// How long DHCP clients may take. Theirs is one second between tries.
const LEASE_PATIENCE: Duration = Duration::from_secs(6);

/// One line of the check.
pub struct Check {
    /// For `--break`; never changes.
    pub name: &'static str,
    /// What is shown to hold.
    pub promise: &'static str,
    /// Tries it. Gives what was seen, or why it does not hold. The flag says that the fault of this line is
    /// asked for: for the lines that must plant it themselves, in the middle.
    run: fn(&mut Cloud, bool) -> Result<String>,
    /// Plants its fault before the DHCP clients start.
    plant: fn(&Cloud) -> Result<()>,
}

/// The lines, in order. `clean` comes after them, when there is no cloud any more.
pub const CHECKS: &[Check] = &[
    Check {
        name: "dhcp",
        promise: "every instance has its lease, with all options",
        run: address::leases,
        plant: fault::no_dhcp,
    },
    Check {
        name: "ping",
        promise: "instances ping each other across hosts",
        run: traffic::ping,
        plant: fault::wrong_segment,
    },
    Check { name: "tcp", promise: "TCP crosses hosts, every byte intact", run: traffic::tcp, plant: fault::wrong_host },
    Check {
        name: "isolation",
        promise: "two projects with the same addresses never see each other's packets",
        run: separation::isolation,
        plant: fault::leak,
    },
    Check {
        name: "anti_spoofing",
        promise: "a spoofed source is dropped, and counted as spoofed",
        run: separation::anti_spoofing,
        plant: fault::no_anti_spoofing,
    },
    Check {
        name: "broadcast",
        promise: "a broadcast reaches only hosts with instances of its network",
        run: separation::broadcast,
        plant: fault::flood,
    },
    Check {
        name: "group",
        promise: "a security group blocks, then allows, then cuts an established connection",
        run: firewall::security_group,
        plant: fault::open_firewall,
    },
    Check {
        name: "routing",
        promise: "a router joins two networks: ping, TTL, TCP, its own addresses, too-big packets",
        run: routing::routing,
        plant: fault::no_neighbour,
    },
    Check {
        name: "segments",
        promise: "GRE, VLAN and flat networks carry pings and TCP across hosts, each with its MTU",
        run: segments::segments,
        plant: fault::deaf_provider,
    },
    Check {
        name: "reactive",
        promise: "the first packet of a reactive network is punted, the next not",
        run: reactive::reactive,
        plant: fault::not_asked_for,
    },
    Check {
        name: "snat",
        promise: "instances reach what is outside, under their router's address",
        run: outside::snat,
        plant: fault::no_snat,
    },
    Check {
        name: "fragments",
        promise: "a datagram in fragments passes NAT, both ways",
        run: outside::fragments,
        plant: fault::no_later_fragments,
    },
    Check {
        name: "floating_ip",
        promise: "a floating IP is reached from outside, and moves under traffic without losing any",
        run: outside::floating_ip,
        plant: fault::no_floating_ip,
    },
    Check {
        name: "trace",
        promise: "a trace names the rule that drops, and where it comes from",
        run: separation::trace,
        plant: fault::nameless_drop,
    },
    Check {
        name: "restart",
        promise: "the controller killed and restarted under traffic loses no packet",
        run: traffic::restart,
        plant: fault::later,
    },
    Check {
        name: "dhcp_renew",
        promise: "leases are renewed, released and taken again; DHCPINFORM is answered",
        run: address::renewal,
        plant: fault::no_renewal,
    },
];

/// The last line.
const CLEAN: (&str, &str) = ("clean", "nothing is left behind: no namespace, link, XDP program or process");

/// The names of all lines.
#[must_use]
pub fn names() -> Vec<&'static str> {
    CHECKS.iter().map(|check| check.name).chain([CLEAN.0]).collect()
}

/// Runs a cloud and tries every line. Gives the names of those that do not hold.
///
/// # Errors
/// If the cloud cannot be built, or the user interrupts: then nothing is known.
pub fn run(layout: Layout, hosts: usize, broken: Option<&str>) -> Result<Vec<&'static str>> {
    let progress = Progress::start();
    let mut before = remains::Remains::look(&layout)?;
    let mut cloud = Cloud::build(layout.clone(), hosts, progress)?;
    for check in CHECKS.iter().filter(|check| Some(check.name) == broken) {
        (check.plant)(&cloud)?;
    }
    let all: Vec<usize> = (0..cloud.instances.len()).collect();
    let missing = cloud.start_clients(&all, LEASE_PATIENCE)?;
    for name in missing {
        progress.say(format!("lease: {name} has none after {} s", LEASE_PATIENCE.as_secs()));
    }
    if let Some(name) = broken {
        progress.say(format!("fault: that of line {name} is planted"));
    }
    println!();

    let mut failed = Vec::new();
    for check in CHECKS {
        interrupt::check()?;
        let start = Instant::now();
        let result = (check.run)(&mut cloud, Some(check.name) == broken);
        if !print(check.name, check.promise, start, result) {
            failed.push(check.name);
        }
        for obituary in cloud.obituaries() {
            println!("      {obituary}");
        }
    }
    interrupt::check()?;
    if failed.iter().any(|name| Some(*name) != broken) {
        println!("\nWhat the programs say:\n{}", cloud.evidence());
    }
    let start = Instant::now();
    let result = remains::clean(&mut cloud, &mut before, broken == Some(CLEAN.0));
    if !print(CLEAN.0, CLEAN.1, start, result) {
        failed.push(CLEAN.0);
    }
    println!();
    if failed.is_empty() {
        println!("All {} lines hold.", CHECKS.len() + 1);
    } else {
        println!("{} of {} lines do not hold: {}", failed.len(), CHECKS.len() + 1, failed.join(", "));
    }
    Ok(failed)
}

fn print(name: &str, promise: &str, start: Instant, result: Result<String>) -> bool {
    let time = start.elapsed().as_secs_f64();
    let (word, detail) = match &result {
        Ok(seen) => ("ok    ", seen.clone()),
        Err(error) => ("FAILED", format!("{error:#}")),
    };
    println!("{word} {time:>5.2} s  {name:<13} {promise}\n                {:<13} {detail}", "");
    result.is_ok()
}

/// Refuses a name that is no line's.
///
/// # Errors
/// If it is none.
pub fn require_name(name: &str) -> Result<()> {
    let known = names();
    known
        .contains(&name)
        .then_some(())
        .with_context(|| format!("--break: there is no line {name:?} in the check. Name one of: {}.", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut found = names();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), CHECKS.len() + 1);
        assert!(require_name("ping").is_ok() && require_name("pong").is_err());
    }
}
