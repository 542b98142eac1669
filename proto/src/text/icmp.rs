//! The actions of a router that may answer: `dec_ttl(answer=10.0.0.1)`, `check_mtu(1450,answer=10.0.0.1,fragment)`,
//! `icmp_unreachable(code=host,answer=10.0.0.1)`.

use super::scan::{Word, did_you_mean, words};
use super::value::{format_ip, ipv4, parse_number};
use crate::fault::Fault;
use crate::v1::{CheckMtu, DecTtl, IcmpUnreachable};

/// ICMP's codes of "destination unreachable" that a router sends (RFC 792; RFC 1812, 5.2.7.1).
const CODES: [(&str, u32); 4] = [("net", 0), ("host", 1), ("port", 3), ("admin", 13)];

fn form(word: Word<'_>, example: &str) -> Fault {
    word.fault(
        "bad_syntax",
        format!("\"{}\" is not how this action is written", word.text),
        format!("Write {example}."),
    )
}

/// `name=value` of a part; the name of the rest alone.
fn part<'a>(part: Word<'a>) -> (&'a str, Option<Word<'a>>) {
    part.split_once("=").map_or((part.text, None), |(name, value)| (name.text, Some(value)))
}

/// Reads what stands in `dec_ttl(…)`; `action` is where errors of the whole are reported.
pub(super) fn dec_ttl(action: Word<'_>, inner: Word<'_>) -> Result<DecTtl, Fault> {
    match words(inner)?.as_slice() {
        [only] if let ("answer", Some(address)) = part(*only) => Ok(DecTtl { answer: ipv4(address, "answer")? }),
        _ => Err(form(action, "dec_ttl or dec_ttl(answer=10.0.0.1)")),
    }
}

/// Reads what stands in `check_mtu(…)`.
pub(super) fn check_mtu(action: Word<'_>, inner: Word<'_>) -> Result<CheckMtu, Fault> {
    let example = "check_mtu(1450,answer=10.0.0.1,fragment)";
    let parts = words(inner)?;
    let Some((mtu, options)) = parts.split_first() else { return Err(form(action, example)) };
    let mut check = CheckMtu { mtu: parse_number(*mtu, "the MTU", 16)? as u32, ..CheckMtu::default() };
    for option in options {
        match part(*option) {
            ("answer", Some(address)) if check.answer.is_empty() => check.answer = ipv4(address, "answer")?,
            ("fragment", None) if !check.fragment => check.fragment = true,
            _ => return Err(form(action, example)),
        }
    }
    if check.mtu < 68 {
        return Err(mtu.fault(
            "bad_value",
            format!("an MTU of {} bytes is less than any IPv4 link has", check.mtu),
            "Write 68 or more (RFC 791).",
        ));
    }
    Ok(check)
}

/// Reads what stands in `icmp_unreachable(…)`.
pub(super) fn unreachable(action: Word<'_>, inner: Word<'_>) -> Result<IcmpUnreachable, Fault> {
    let (mut code, mut answer) = (None, None);
    for word in words(inner)? {
        match part(word) {
            ("code", Some(value)) if code.is_none() => code = Some(parse_code(value)?),
            ("answer", Some(address)) if answer.is_none() => answer = Some(ipv4(address, "answer")?),
            _ => return Err(form(action, "icmp_unreachable(code=host,answer=10.0.0.1)")),
        }
    }
    match (code, answer) {
        (Some(code), Some(answer)) => Ok(IcmpUnreachable { code, answer }),
        _ => Err(form(action, "icmp_unreachable(code=host,answer=10.0.0.1)")),
    }
}

fn parse_code(word: Word<'_>) -> Result<u32, Fault> {
    let known = CODES.iter().find(|(name, code)| *name == word.text || code.to_string() == word.text);
    known.map(|(_, code)| *code).ok_or_else(|| {
        let names = CODES.map(|(name, _)| name);
        let meant = did_you_mean(word.text, names);
        word.fault(
            "bad_value",
            format!("\"{}\" is not a code of ICMP's destination unreachable that a router sends", word.text),
            format!("Write one of {}.{meant}", names.join(", ")),
        )
    })
}

/// Writes the action.
pub(super) fn format_dec_ttl(action: &DecTtl) -> String {
    if action.answer.is_empty() {
        "dec_ttl".to_owned()
    } else {
        format!("dec_ttl(answer={})", format_ip(&action.answer))
    }
}

/// Writes the action.
pub(super) fn format_check_mtu(action: &CheckMtu) -> String {
    let answer =
        if action.answer.is_empty() { String::new() } else { format!(",answer={}", format_ip(&action.answer)) };
    format!("check_mtu({}{answer}{})", action.mtu, if action.fragment { ",fragment" } else { "" })
}

/// Writes the action.
pub(super) fn format_unreachable(action: &IcmpUnreachable) -> String {
    let name = CODES.iter().find(|(_, code)| *code == action.code);
    let code = name.map_or_else(|| action.code.to_string(), |(name, _)| (*name).to_owned());
    format!("icmp_unreachable(code={code},answer={})", format_ip(&action.answer))
}
