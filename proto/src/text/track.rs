//! Connection tracking: `ct(commit,zone=1,follow_policy,mark=0x1)`, `ct(zone=1,nat)`,
//! `ct(commit,zone=1,nat(src=192.0.2.1:1024-65535))`, `ct(commit,zone=1,nat(dst=10.0.0.5:80))`.

use super::scan::{Word, words};
use super::value::{format_ip, ipv4, parse_number};
use crate::fault::Fault;
use crate::v1::{ConnectionTrack, DestinationNat, SourceNat};

fn form(word: Word<'_>, example: &str) -> Fault {
    word.fault(
        "bad_syntax",
        format!("\"{}\" is not how this action is written", word.text),
        format!("Write {example}."),
    )
}

/// Reads what stands in `ct(…)`; `action` is where errors of the whole are reported.
pub(super) fn parse(action: Word<'_>, inner: Word<'_>) -> Result<ConnectionTrack, Fault> {
    let mut track = ConnectionTrack::default();
    for part in words(inner)? {
        if let Some((name, ends)) = part.call()
            && name.text == "nat"
            && !track.nat
        {
            track.nat = true;
            translation(part, ends, &mut track)?;
            continue;
        }
        match part.split_once("=").map(|(name, number)| (name.text, number)) {
            None if part.text == "commit" => track.commit = true,
            None if part.text == "follow_policy" => track.follow_policy = true,
            None if part.text == "nat" && !track.nat => track.nat = true,
            Some(("zone", number)) => track.zone = parse_number(number, "zone", 32)? as u32,
            Some(("mark", number)) => track.mark = parse_number(number, "mark", 32)? as u32,
            Some(("table", _)) => {
                return Err(part.fault(
                    "bad_value",
                    "ct does not start the walk again in another table: what follows it sees ct_state",
                    "Leave table= out, and end the actions with goto_table:N.",
                ));
            }
            _ => return Err(form(action, "ct(commit,zone=1,follow_policy,mark=0x1,nat(src=192.0.2.1))")),
        }
    }
    let begins = track.follow_policy || track.mark != 0 || track.source.is_some() || track.destination.is_some();
    if begins && !track.commit {
        return Err(action.fault(
            "bad_value",
            "follow_policy, mark and the addresses of nat are of the connection that ct begins",
            "Add commit.",
        ));
    }
    Ok(track)
}

/// Reads what stands in `nat(…)`.
fn translation(nat: Word<'_>, ends: Word<'_>, track: &mut ConnectionTrack) -> Result<(), Fault> {
    const EXAMPLE: &str = "nat, nat(src=192.0.2.1), nat(src=192.0.2.1:1024-65535) or nat(dst=10.0.0.5:80)";
    let parts = words(ends)?;
    if parts.is_empty() {
        return Err(form(nat, EXAMPLE));
    }
    for part in parts {
        let Some((name, value)) = part.split_once("=") else { return Err(form(nat, EXAMPLE)) };
        let (address, ports) = value.split_once(":").map_or((value, None), |(address, ports)| (address, Some(ports)));
        match name.text {
            "src" if track.source.is_none() => {
                let (first_port, last_port) = match ports.map(|ports| (ports, ports.split_once("-"))) {
                    None => (0, 0),
                    Some((one, None)) => (port(one)?, port(one)?),
                    Some((_, Some((first, last)))) => (port(first)?, port(last)?),
                };
                if first_port > last_port {
                    return Err(value.fault(
                        "bad_value",
                        format!("there is no port from {first_port} to {last_port}"),
                        "Write the smaller number first.",
                    ));
                }
                track.source = Some(SourceNat { address: ipv4(address, "src")?, first_port, last_port });
            }
            "dst" if track.destination.is_none() => {
                let port = ports.map_or(Ok(0), port)?;
                track.destination = Some(DestinationNat { address: ipv4(address, "dst")?, port });
            }
            _ => return Err(form(nat, EXAMPLE)),
        }
    }
    Ok(())
}

fn port(word: Word<'_>) -> Result<u32, Fault> {
    match parse_number(word, "the port", 16)? as u32 {
        0 => Err(word.fault("bad_value", "0 is no port that NAT can give", "Write 1 to 65535.")),
        port => Ok(port),
    }
}

/// Writes it as [`parse`] reads it.
pub(super) fn format(track: &ConnectionTrack) -> String {
    let mut parts: Vec<String> = Vec::new();
    if track.commit {
        parts.push("commit".into());
    }
    parts.push(format!("zone={}", track.zone));
    if track.follow_policy {
        parts.push("follow_policy".into());
    }
    if track.mark != 0 {
        parts.push(format!("mark={:#x}", track.mark));
    }
    if track.nat {
        parts.push(format_nat(track));
    }
    format!("ct({})", parts.join(","))
}

fn format_nat(track: &ConnectionTrack) -> String {
    let source = track.source.as_ref().map(|source| {
        let ports = match (source.first_port, source.last_port) {
            (0, 0) => String::new(),
            (first, last) if first == last => format!(":{first}"),
            (first, last) => format!(":{first}-{last}"),
        };
        format!("src={}{ports}", format_ip(&source.address))
    });
    let destination = track.destination.as_ref().map(|destination| {
        let port = if destination.port == 0 { String::new() } else { format!(":{}", destination.port) };
        format!("dst={}{port}", format_ip(&destination.address))
    });
    let ends: Vec<String> = source.into_iter().chain(destination).collect();
    if ends.is_empty() { "nat".into() } else { format!("nat({})", ends.join(",")) }
}
