//! What a gateway does at the external side: `neighbour(port=1,source=192.0.2.1,mac=02:00:00:00:00:01,vlan=7,hop=192.0.2.254)`,
//! `learn_neighbour(port=1,vlan=7)`, `translate(src=192.0.2.10)`.

use super::scan::{Word, words};
use super::value::{format_ip, format_mac, ipv4, mac, parse_number};
use crate::PORT_MAX;
use crate::fault::Fault;
use crate::v1::{LearnNeighbour, Neighbour, NeighbourEffect, Translate};

/// How `neighbour` is written.
pub(super) const NEIGHBOUR: &str =
    "neighbour(port=1,source=192.0.2.1,mac=02:00:00:00:00:01), and vlan=N or hop=IP if wanted";
/// How `learn_neighbour` is written.
pub(super) const LEARN: &str = "learn_neighbour or learn_neighbour(port=1,vlan=7)";
/// How `translate` is written.
pub(super) const TRANSLATE: &str = "translate(src=192.0.2.10) or translate(dst=10.0.0.5)";

fn form(word: Word<'_>, example: &str) -> Fault {
    word.fault(
        "bad_syntax",
        format!("\"{}\" is not how this action is written", word.text),
        format!("Write {example}."),
    )
}

/// `name=value`.
fn part<'a>(part: Word<'a>) -> Option<(&'a str, Word<'a>)> {
    part.split_once("=").map(|(name, value)| (name.text, value))
}

fn port(word: Word<'_>) -> Result<u32, Fault> {
    let number = parse_number(word, "port", 32)? as u32;
    if (1..=PORT_MAX).contains(&number) {
        return Ok(number);
    }
    Err(word.fault("bad_value", format!("{} is not a port", word.text), format!("Write 1 to {PORT_MAX}.")))
}

fn vlan(word: Word<'_>) -> Result<u32, Fault> {
    let number = parse_number(word, "vlan", 16)? as u32;
    if (1..=4094).contains(&number) {
        return Ok(number);
    }
    Err(word.fault("bad_value", format!("{} is not a VLAN", word.text), "Write 1 to 4094, or leave it out."))
}

/// Reads what stands in `neighbour(…)`; `action` is where errors of the whole are reported.
pub(super) fn neighbour(action: Word<'_>, inner: Word<'_>) -> Result<Neighbour, Fault> {
    let mut neighbour = Neighbour::default();
    for word in words(inner)? {
        match part(word) {
            Some(("port", number)) if neighbour.port == 0 => neighbour.port = port(number)?,
            Some(("source", address)) if neighbour.source.is_empty() => neighbour.source = ipv4(address, "source")?,
            Some(("mac", address)) if neighbour.mac.is_empty() => neighbour.mac = mac(address, "mac")?,
            Some(("vlan", number)) if neighbour.vlan == 0 => neighbour.vlan = vlan(number)?,
            Some(("hop", address)) if neighbour.hop.is_empty() => neighbour.hop = ipv4(address, "hop")?,
            _ => return Err(form(action, NEIGHBOUR)),
        }
    }
    if neighbour.port == 0 || neighbour.source.is_empty() || neighbour.mac.is_empty() {
        return Err(form(action, NEIGHBOUR));
    }
    Ok(neighbour)
}

/// Reads what stands in `learn_neighbour(…)`.
pub(super) fn learn(action: Word<'_>, inner: Word<'_>) -> Result<LearnNeighbour, Fault> {
    let mut learn = LearnNeighbour::default();
    for word in words(inner)? {
        match part(word) {
            Some(("port", number)) if learn.port == 0 => learn.port = port(number)?,
            Some(("vlan", number)) if learn.vlan == 0 => learn.vlan = vlan(number)?,
            _ => return Err(form(action, LEARN)),
        }
    }
    Ok(learn)
}

/// Reads what stands in `translate(…)`.
pub(super) fn translate(action: Word<'_>, inner: Word<'_>) -> Result<Translate, Fault> {
    let mut translate = Translate::default();
    for word in words(inner)? {
        match part(word) {
            Some(("src", address)) if translate.source.is_empty() => translate.source = ipv4(address, "src")?,
            Some(("dst", address)) if translate.destination.is_empty() => {
                translate.destination = ipv4(address, "dst")?;
            }
            _ => return Err(form(action, TRANSLATE)),
        }
    }
    if translate == Translate::default() {
        return Err(form(action, TRANSLATE));
    }
    Ok(translate)
}

fn call(name: &str, parts: &[String]) -> String {
    if parts.is_empty() { name.to_owned() } else { format!("{name}({})", parts.join(",")) }
}

fn number(name: &str, number: u32) -> Option<String> {
    (number != 0).then(|| format!("{name}={number}"))
}

fn address(name: &str, address: &[u8]) -> Option<String> {
    (!address.is_empty()).then(|| format!("{name}={}", format_ip(address)))
}

/// Writes the action.
pub(super) fn format_neighbour(action: &Neighbour) -> String {
    let mut parts = vec![
        format!("port={}", action.port),
        format!("source={}", format_ip(&action.source)),
        format!("mac={}", format_mac(&action.mac)),
    ];
    parts.extend(number("vlan", action.vlan));
    parts.extend(address("hop", &action.hop));
    call("neighbour", &parts)
}

/// Writes the action.
pub(super) fn format_learn(action: &LearnNeighbour) -> String {
    let parts: Vec<String> = [number("port", action.port), number("vlan", action.vlan)].into_iter().flatten().collect();
    call("learn_neighbour", &parts)
}

/// Writes the action.
pub(super) fn format_translate(action: &Translate) -> String {
    let parts: Vec<String> =
        [address("src", &action.source), address("dst", &action.destination)].into_iter().flatten().collect();
    call("translate", &parts)
}

/// Writes what a trace says of a next hop: `neighbour 192.0.2.254 of port 1: 02:00:00:00:00:01`.
pub(super) fn format_effect(effect: &NeighbourEffect) -> String {
    let vlan = if effect.vlan == 0 { String::new() } else { format!(" in VLAN {}", effect.vlan) };
    let known = if effect.mac.is_empty() { "not known (yet)".to_owned() } else { format_mac(&effect.mac) };
    format!("neighbour {} at port {}{vlan}: {known}", format_ip(&effect.hop), effect.port)
}
