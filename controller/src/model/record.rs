//! Reading the texts of records. The errors say what a text is not; the store adds which record it stands in.

use super::Ipv4Prefix;
use std::net::Ipv4Addr;
use std::str::FromStr;
use uuid::Uuid;

/// Reads anything that says how.
pub fn parsed<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not {what}"))
}

/// Reads an id.
pub fn uuid(text: &str) -> Result<Uuid, String> {
    parsed(text, "an id")
}

/// Reads an address.
pub fn address(text: &str) -> Result<Ipv4Addr, String> {
    parsed(text, "an address")
}

/// Reads a prefix.
pub fn prefix(text: &str) -> Result<Ipv4Prefix, String> {
    Ipv4Prefix::parse(text, "").map_err(|fault| fault.problem)
}

/// Reads what may be empty.
pub fn optional<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

/// Reads each of several.
pub fn all<T, U>(texts: &[U], read: impl Fn(&U) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts.iter().map(read).collect()
}

/// Writes what may be absent: empty then.
pub fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
