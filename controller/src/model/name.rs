//! Names that people give.

use crate::limits::{DESCRIPTION_CHARACTERS, NAME_CHARACTERS};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;

/// Checks the name of an object: 1 to 63 letters, digits, `.`, `_` and `-`, the first a letter or a
/// digit. A name that could be an id is refused: it could not be told from one.
pub fn valid_name(name: &str, field: &str) -> Result<(), Fault> {
    let bad = |problem: String| {
        Fault::invalid(
            "bad_name",
            field,
            problem,
            format!("Give 1 to {NAME_CHARACTERS} letters, digits, '.', '_' or '-', the first a letter or a digit."),
        )
    };
    if name.is_empty() {
        return Err(bad("the name is empty".to_owned()));
    }
    if name.len() > NAME_CHARACTERS {
        return Err(bad(format!("the name has {} characters", name.chars().count())));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.bytes().all(allowed) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(bad(format!("{name:?} is not a name")));
    }
    if Uuid::try_parse(name).is_ok() {
        return Err(bad(format!("{name:?} has the form of an id")));
    }
    Ok(())
}

/// Checks a description: one line of visible characters, not too long.
pub(super) fn valid_description(text: &str) -> Result<(), Fault> {
    if text.chars().count() <= DESCRIPTION_CHARACTERS && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let problem = "the description is too long, or of several lines";
    let remedy = format!("Give one line of at most {DESCRIPTION_CHARACTERS} characters.");
    Err(Fault::invalid("bad_description", "description", problem, remedy))
}

/// A port's name as the host name that DHCP offers: one label (RFC 1123, 2.1), made from the address if
/// nothing of the name is left.
#[must_use]
pub fn host_label(name: &str, address: Ipv4Addr) -> String {
    let label: String = name
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() as char } else { '-' })
        .collect();
    let label = label.trim_matches('-');
    let label = label[..label.len().min(63)].trim_end_matches('-');
    if label.is_empty() { format!("host-{}", address.to_string().replace('.', "-")) } else { label.to_owned() }
}

/// Checks a domain name: labels of 1 to 63 letters, digits and inner hyphens, at most 253 characters.
pub(super) fn valid_domain(domain: &str, field: &str) -> Result<(), Fault> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() <= 253 && domain.split('.').all(label) {
        return Ok(());
    }
    Err(Fault::invalid(
        "bad_domain",
        field,
        format!("{domain:?} is not a domain name"),
        "Give labels of letters, digits and hyphens, joined by dots: cloud.example.",
    ))
}

/// Checks an interface's name as the kernel does (`dev_valid_name`): at most 15 bytes, no slash, colon or
/// white space; and only visible ASCII.
pub(super) fn valid_interface(name: &str, field: &str) -> Result<(), Fault> {
    let visible = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if !name.is_empty() && name.len() <= 15 && visible && name != "." && name != ".." {
        return Ok(());
    }
    Err(Fault::invalid(
        "bad_interface",
        field,
        format!("{name:?} cannot be the name of an interface"),
        "Give 1 to 15 visible characters without '/', ':' and '%'.",
    ))
}

/// Checks the name of a network namespace: a file name as `ip netns` takes it.
pub(super) fn valid_netns(name: &str, field: &str) -> Result<(), Fault> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=200).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(Fault::invalid(
        "bad_netns",
        field,
        format!("{name:?} cannot be the name of a network namespace"),
        "Give a name as `ip netns list` shows it.",
    ))
}
