//! The token with which a machine becomes a host: where the controller is, how to know it, and a secret.
//!
//! `weft-join-1/HOST/ADDRESS:PORT/AUTHORITY/SECRET`, the last two in hexadecimal. The controller makes it
//! (`weft host join-token`), `weft-switch join` reads it. Its lengths are fixed, so that one which was cut
//! off when it was copied is noticed before it is used.

use std::fmt;

/// The first part: tells a token from other text, and its form from later ones.
const FORM: &str = "weft-join-1";

/// The one name in the controller's certificate. Hosts know the controller by its authority, not by the address they
/// reach it at: that may be any, and change.
pub const CONTROLLER_NAME: &str = "controller.weft.internal";

/// See the module comment. It is a secret: its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The host's name.
    pub host: String,
    /// Where the controller's bus is: "ADDRESS:PORT" or "NAME:PORT".
    pub address: String,
    /// SHA-256 of the certificate (DER) of the controller's authority.
    pub authority: [u8; 32],
    /// Known to whoever made the token, and the controller.
    pub secret: [u8; 16],
}

impl fmt::Display for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, authority, secret } = self;
        write!(formatter, "{FORM}/{host}/{address}/{}/{}", to_hexadecimal(authority), to_hexadecimal(secret))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{FORM}/{}/{}/…", self.host, self.address)
    }
}

impl std::str::FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('/').collect();
        let wrong = |problem: &str| {
            Err(format!("{problem}. Copy the whole token that `weft host join-token HOST` printed, or make another."))
        };
        let [form, host, address, authority, secret] = parts[..] else {
            return wrong("this is no join token, or it was cut off");
        };
        if form != FORM {
            return wrong("this is no join token, or one of another version");
        }
        if host.is_empty() || !valid_address(address) {
            return wrong("the token names no host, or no address");
        }
        let (Some(authority), Some(secret)) = (from_hexadecimal(authority), from_hexadecimal(secret)) else {
            return wrong("the token was cut off or changed");
        };
        Ok(Self { host: host.to_owned(), address: address.to_owned(), authority, secret })
    }
}

/// Whether this is `ADDRESS:PORT`, `[ADDRESS]:PORT` or `NAME:PORT`, as a connection and a URL take it.
#[must_use]
pub fn valid_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let name = |host: &str| {
        (1..=253).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
    };
    let six = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
        && (name(host) || six(host))
}

/// Bytes in hexadecimal.
#[must_use]
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hexadecimal<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (byte, place) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(address: &str) -> JoinToken {
        JoinToken { host: "web-1.a".into(), address: address.into(), authority: [0xa5; 32], secret: [7; 16] }
    }

    #[test]
    fn a_token_survives_being_copied_and_no_part_of_one_is_taken_for_it() {
        for address in ["10.0.0.1:9461", "[fd00::1]:9461", "controller.example:1"] {
            let text = token(address).to_string();
            assert_eq!(format!(" {text}\n").parse(), Ok(token(address)));
            for length in 0..text.len() {
                assert!(text[..length].parse::<JoinToken>().unwrap_err().contains("weft host join-token"), "{length}");
            }
            assert!(format!("{text}0").parse::<JoinToken>().is_err());
        }
        assert!(!format!("{:?}", token("a:1")).contains("0707"));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for wrong in
            ["", "host", "host:", ":1", "host:0", "host:65536", "host:+1", "::1:9", "[x]:9", "a b:9", "http://a:1"]
        {
            assert!(!valid_address(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", parts in proptest::collection::vec("[0-9a-fé:/.]{0,70}", 5)) {
            let _ = text.parse::<JoinToken>();
            let _ = format!("weft-join-1/{}", parts.join("/")).parse::<JoinToken>();
        }
    }
}
