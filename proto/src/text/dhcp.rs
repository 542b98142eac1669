//! The action `dhcp_reply(address=10.0.0.5/24,server=10.0.0.2,mac=02:…,router=10.0.0.1,dns=1.1.1.1;9.9.9.9,
//! mtu=1450,lease=86400,host=web-1,domain=example.org,route=10.1.0.0/16>10.0.0.1;0.0.0.0/0>10.0.0.1)`.

use super::scan::{Word, did_you_mean, words};
use super::value::{format_ip, format_mac, interface, ipv4, mac, parse_number};
use crate::fault::Fault;
use crate::v1::{ClasslessRoute, DhcpReply};

const NAMES: [&str; 10] = ["address", "server", "mac", "router", "dns", "mtu", "lease", "host", "domain", "route"];

/// Reads what is between the parentheses; `action` is where errors of the whole are reported.
pub(super) fn parse(action: Word<'_>, inner: Word<'_>) -> Result<DhcpReply, Fault> {
    let mut reply = DhcpReply::default();
    let mut seen: Vec<&str> = Vec::new();
    for word in words(inner)? {
        let Some((name, value)) = word.split_once("=") else {
            return Err(word.fault(
                "bad_syntax",
                format!("\"{}\" has no value", word.text),
                format!("Write NAME=VALUE; the names are {}.", NAMES.join(", ")),
            ));
        };
        if seen.contains(&name.text) {
            return Err(name.fault("duplicate_field", format!("{} is given twice", name.text), "Keep one of them."));
        }
        seen.push(name.text);
        match name.text {
            "address" => (reply.address, reply.prefix_length) = interface(value, "address")?,
            "server" => reply.server_address = ipv4(value, "server")?,
            "mac" => reply.server_mac = mac(value, "mac")?,
            "router" => reply.router = ipv4(value, "router")?,
            "dns" => {
                for server in value.split(';') {
                    reply.dns_servers.push(ipv4(server, "dns")?);
                }
            }
            "mtu" => reply.mtu = parse_number(value, "mtu", 16)? as u32,
            "lease" => reply.lease_seconds = parse_number(value, "lease", 32)? as u32,
            "host" => reply.host_name = unescape(value)?,
            "domain" => reply.domain_name = unescape(value)?,
            "route" => {
                for route in value.split(';') {
                    reply.routes.push(parse_route(route)?);
                }
            }
            _ => {
                return Err(name.fault(
                    "unknown_field",
                    format!("dhcp_reply has no \"{}\"", name.text),
                    format!("The names are {}.{}", NAMES.join(", "), did_you_mean(name.text, NAMES)),
                ));
            }
        }
    }
    for needed in ["address", "server", "mac", "lease"] {
        if !seen.contains(&needed) {
            return Err(action.fault(
                "missing_field",
                format!("dhcp_reply needs {needed}"),
                "Write at least dhcp_reply(address=10.0.0.5/24,server=10.0.0.2,mac=02:00:00:00:00:02,lease=86400).",
            ));
        }
    }
    Ok(reply)
}

fn parse_route(word: Word<'_>) -> Result<ClasslessRoute, Fault> {
    let Some((destination, next_hop)) = word.split_once(">") else {
        return Err(word.fault(
            "bad_value",
            format!("route is \"{}\", without a next hop", word.text),
            "Write destination and next hop, as in 10.1.0.0/16>10.0.0.1; more of them after \";\".",
        ));
    };
    let (destination, prefix_length) = interface(destination, "route")?;
    Ok(ClasslessRoute { destination, prefix_length, next_hop: ipv4(next_hop, "the next hop")? })
}

/// Writes the action.
pub(super) fn format(reply: &DhcpReply) -> String {
    let mut words = vec![
        format!("address={}/{}", format_ip(&reply.address), reply.prefix_length),
        format!("server={}", format_ip(&reply.server_address)),
        format!("mac={}", format_mac(&reply.server_mac)),
    ];
    if !reply.router.is_empty() {
        words.push(format!("router={}", format_ip(&reply.router)));
    }
    if !reply.dns_servers.is_empty() {
        let servers: Vec<_> = reply.dns_servers.iter().map(|server| format_ip(server)).collect();
        words.push(format!("dns={}", servers.join(";")));
    }
    if reply.mtu != 0 {
        words.push(format!("mtu={}", reply.mtu));
    }
    words.push(format!("lease={}", reply.lease_seconds));
    for (name, text) in [("host", &reply.host_name), ("domain", &reply.domain_name)] {
        if !text.is_empty() {
            words.push(format!("{name}={}", escape(text)));
        }
    }
    if !reply.routes.is_empty() {
        let route = |route: &ClasslessRoute| {
            format!("{}/{}>{}", format_ip(&route.destination), route.prefix_length, format_ip(&route.next_hop))
        };
        words.push(format!("route={}", reply.routes.iter().map(route).collect::<Vec<_>>().join(";")));
    }
    format!("dhcp_reply({})", words.join(","))
}

/// Characters of host names stand for themselves, all others as `%` and two hexadecimal digits a byte,
/// so that no name from elsewhere can end the word it stands in.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02x}");
        }
    }
    escaped
}

fn unescape(word: Word<'_>) -> Result<String, Fault> {
    let wrong = || {
        word.fault(
            "bad_value",
            format!("\"{}\" is not a name", word.text),
            "Write letters, digits, \"-\", \".\" and \"_\"; anything else as % and two hexadecimal digits a byte.",
        )
    };
    let mut bytes = Vec::new();
    let mut rest = word.text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(wrong());
            };
            bytes.push((high << 4 | low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}
