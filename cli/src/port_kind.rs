//! Kinds of ports as they are written: `tap:web-1,netns=web`, `af_xdp:eth1,queues=2,all`,
//! `vhost_user:/run/vm.sock,queues=2`, `vxlan:local=192.0.2.1`, `gre`, `pcap:rx=in.pcap,tx=out.pcap`.

use weft_proto::fault::Fault;
use weft_proto::text::{format_ip, format_mac, parse_mac};
use weft_proto::v1::port_spec::Kind;
use weft_proto::v1::{AfXdpMode, AfXdpPort, GrePort, PcapPort, PortSpec, TapPort, TunnelPort, VhostUserPort};

const FORMS: &str = "Write tap:NAME[,netns=N][,mac=M][,mtu=N], vhost_user[:SOCKET][,mac=M][,mtu=N][,queues=N], af_xdp:IF[,queues=N][,mode=native|generic][,all][,address=IP ...], \
                     vxlan[:local=IP][,port=N][,underlay=N], gre[:local=IP][,underlay=N] or pcap:rx=FILE[,repeat],tx=FILE.";

/// The longest name of a network interface, bytes.
const INTERFACE_NAME: usize = 15;

fn fault(problem: String, remedy: &str) -> Fault {
    Fault::invalid("bad_port", "KIND", problem, remedy)
}

/// Reads a kind.
pub fn parse(text: &str) -> Result<Kind, Fault> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = rest.split(',').filter(|word| !word.is_empty()).collect();
    match kind {
        "tap" => tap(&words),
        "vhost_user" => vhost_user(&words),
        "af_xdp" => af_xdp(&words),
        "vxlan" => vxlan(&words),
        "gre" => gre(&words),
        "pcap" => pcap(&words),
        _ => Err(fault(format!("\"{kind}\" is not a kind of port"), FORMS)),
    }
}

/// The name that comes first, and the settings after it.
fn interface<'a>(kind: &str, words: &[&'a str]) -> Result<(String, Vec<Setting<'a>>), Fault> {
    let (first, rest) = words.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
    if first.is_empty() || first.contains('=') {
        return Err(fault(format!("{kind} names no interface"), &format!("Write {kind}:NAME.")));
    }
    if first.len() > INTERFACE_NAME || first.contains('/') {
        return Err(fault(
            format!("\"{first}\" cannot be an interface's name"),
            "Write at most 15 characters, without \"/\".",
        ));
    }
    Ok((first.to_owned(), settings(rest)))
}

type Setting<'a> = (&'a str, &'a str);

fn settings<'a>(words: &[&'a str]) -> Vec<Setting<'a>> {
    words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect()
}

fn number(name: &str, value: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, Fault> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    };
    parsed.filter(|number| range.contains(number)).ok_or_else(|| {
        fault(format!("{name} is \"{value}\""), &format!("Write a number of {} to {}.", range.start(), range.end()))
    })
}

fn address(name: &str, value: &str) -> Result<Vec<u8>, Fault> {
    let address: std::net::Ipv4Addr = value
        .parse()
        .map_err(|_| fault(format!("{name} is \"{value}\""), "Write an IPv4 address, as in 192.0.2.1."))?;
    Ok(address.octets().to_vec())
}

fn mac(value: &str) -> Result<Vec<u8>, Fault> {
    let mac = parse_mac(value);
    let mac = mac.ok_or_else(|| fault(format!("mac is \"{value}\""), "Write six bytes, as in 02:00:00:00:00:01."))?;
    Ok(mac.to_vec())
}

fn unknown(kind: &str, name: &str) -> Fault {
    fault(format!("{kind} has no setting \"{name}\""), FORMS)
}

fn tap(words: &[&str]) -> Result<Kind, Fault> {
    let (interface, settings) = interface("tap", words)?;
    let mut port = TapPort { interface, ..TapPort::default() };
    for (name, value) in settings {
        match name {
            "netns" => port.netns = value.to_owned(),
            "mac" => port.mac = mac(value)?,
            "mtu" => port.mtu = number(name, value, 68..=65535)?,
            _ => return Err(unknown("tap", name)),
        }
    }
    Ok(Kind::Tap(port))
}

fn vhost_user(words: &[&str]) -> Result<Kind, Fault> {
    let mut port = VhostUserPort::default();
    for (name, value) in settings(words) {
        match name {
            "mac" => port.mac = mac(value)?,
            "mtu" => port.mtu = number(name, value, 68..=65521)?,
            "queues" => port.queues = number(name, value, 1..=64)?,
            path if path.starts_with('/') && value.is_empty() && port.socket.is_empty() => {
                port.socket = path.to_owned()
            }
            _ => return Err(unknown("vhost_user", name)),
        }
    }
    Ok(Kind::VhostUser(port))
}

fn af_xdp(words: &[&str]) -> Result<Kind, Fault> {
    let (interface, settings) = interface("af_xdp", words)?;
    let mut port = AfXdpPort { interface, ..AfXdpPort::default() };
    for (name, value) in settings {
        match (name, value) {
            ("queues", value) => port.queues = number(name, value, 1..=1024)?,
            ("mode", "auto") => port.mode = AfXdpMode::Auto.into(),
            ("mode", "native") => port.mode = AfXdpMode::Native.into(),
            ("mode", "generic") => port.mode = AfXdpMode::Generic.into(),
            ("mode", value) => {
                return Err(fault(format!("mode is \"{value}\""), "Write mode=auto, mode=native or mode=generic."));
            }
            ("all", "") => port.take_all = true,
            ("address", value) => port.addresses.push(address(name, value)?),
            _ => return Err(unknown("af_xdp", name)),
        }
    }
    Ok(Kind::AfXdp(port))
}

fn local(value: &str) -> Result<Vec<u8>, Fault> {
    let address: std::net::Ipv4Addr =
        value.parse().map_err(|_| fault(format!("local is \"{value}\""), "Write an IPv4 address, as in 192.0.2.1."))?;
    Ok(address.octets().to_vec())
}

fn gre(words: &[&str]) -> Result<Kind, Fault> {
    let mut port = GrePort::default();
    for (name, value) in settings(words) {
        match name {
            "local" => port.local_address = local(value)?,
            "underlay" => port.underlay_port = number(name, value, 1..=weft_proto::PORT_MAX)?,
            _ => return Err(unknown("gre", name)),
        }
    }
    Ok(Kind::Gre(port))
}

fn vxlan(words: &[&str]) -> Result<Kind, Fault> {
    let mut port = TunnelPort::default();
    for (name, value) in settings(words) {
        match name {
            "local" => port.local_address = address(name, value)?,
            "port" => port.udp_port = number(name, value, 1..=65535)?,
            "underlay" => port.underlay_port = number(name, value, 1..=weft_proto::PORT_MAX)?,
            _ => return Err(unknown("vxlan", name)),
        }
    }
    Ok(Kind::Vxlan(port))
}

fn pcap(words: &[&str]) -> Result<Kind, Fault> {
    let mut port = PcapPort::default();
    for (name, value) in settings(words) {
        match name {
            "rx" => port.receive_file = value.to_owned(),
            "tx" => port.transmit_file = value.to_owned(),
            "repeat" => port.repeat = true,
            _ => return Err(unknown("pcap", name)),
        }
    }
    if port.receive_file.is_empty() && port.transmit_file.is_empty() {
        return Err(fault("pcap names no file".to_owned(), "Write pcap:rx=FILE, pcap:tx=FILE or both."));
    }
    Ok(Kind::Pcap(port))
}

/// The kind in one word.
pub fn name(spec: &PortSpec) -> &'static str {
    match spec.kind {
        None => "unknown",
        Some(Kind::Tap(_)) => "tap",
        Some(Kind::VhostUser(_)) => "vhost_user",
        Some(Kind::AfXdp(_)) => "af_xdp",
        Some(Kind::Vxlan(_)) => "vxlan",
        Some(Kind::Gre(_)) => "gre",
        Some(Kind::Pcap(_)) => "pcap",
    }
}

/// Writes a kind as [`parse`] reads it.
pub fn format(spec: &PortSpec) -> String {
    let mut words = Vec::new();
    match &spec.kind {
        None => {}
        Some(Kind::Tap(tap)) => {
            let default = format!("weft{}", spec.number);
            words.push(if tap.interface.is_empty() { default } else { tap.interface.clone() });
            words.extend((!tap.netns.is_empty()).then(|| format!("netns={}", tap.netns)));
            words.extend((!tap.mac.is_empty()).then(|| format!("mac={}", format_mac(&tap.mac))));
            words.extend((tap.mtu != 0).then(|| format!("mtu={}", tap.mtu)));
        }
        Some(Kind::VhostUser(port)) => {
            words.extend((!port.socket.is_empty()).then(|| port.socket.clone()));
            words.extend((!port.mac.is_empty()).then(|| format!("mac={}", format_mac(&port.mac))));
            words.extend((port.mtu != 0).then(|| format!("mtu={}", port.mtu)));
            words.extend((port.queues != 0).then(|| format!("queues={}", port.queues)));
        }
        Some(Kind::AfXdp(port)) => {
            words.push(port.interface.clone());
            words.extend((port.queues != 0).then(|| format!("queues={}", port.queues)));
            words.extend(match port.mode() {
                AfXdpMode::Auto => None,
                AfXdpMode::Native => Some("mode=native".to_owned()),
                AfXdpMode::Generic => Some("mode=generic".to_owned()),
            });
            words.extend(port.take_all.then(|| "all".to_owned()));
            words.extend(port.addresses.iter().map(|address| format!("address={}", format_ip(address))));
        }
        Some(Kind::Vxlan(port)) => {
            words.extend((!port.local_address.is_empty()).then(|| format!("local={}", format_ip(&port.local_address))));
            words.extend((port.udp_port != 0).then(|| format!("port={}", port.udp_port)));
            words.extend((port.underlay_port != 0).then(|| format!("underlay={}", port.underlay_port)));
        }
        Some(Kind::Gre(port)) => {
            words.extend((!port.local_address.is_empty()).then(|| format!("local={}", format_ip(&port.local_address))));
            words.extend((port.underlay_port != 0).then(|| format!("underlay={}", port.underlay_port)));
        }
        Some(Kind::Pcap(port)) => {
            words.extend((!port.receive_file.is_empty()).then(|| format!("rx={}", port.receive_file)));
            words.extend(port.repeat.then(|| "repeat".to_owned()));
            words.extend((!port.transmit_file.is_empty()).then(|| format!("tx={}", port.transmit_file)));
        }
    }
    if words.is_empty() { name(spec).to_owned() } else { format!("{}:{}", name(spec), words.join(",")) }
}

/// A name for a port that was given none: its interface's, or its kind. Interfaces of different namespaces
/// may be called the same: there the namespace is part of the name.
pub fn default_name(number: u32, kind: &Kind) -> String {
    match kind {
        Kind::Tap(tap) if tap.netns.is_empty() => tap.interface.clone(),
        Kind::Tap(tap) => format!("{}@{}", tap.interface, tap.netns),
        Kind::VhostUser(_) => format!("vm{number}"),
        Kind::AfXdp(port) => port.interface.clone(),
        Kind::Vxlan(_) => format!("vxlan{number}"),
        Kind::Gre(_) => format!("gre{number}"),
        Kind::Pcap(_) => format!("pcap{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_back_as_they_were_written() {
        for text in [
            "tap:web-1",
            "tap:web-1,netns=web,mac=02:00:00:00:00:01,mtu=1450",
            "vhost_user",
            "vhost_user:/run/vm.sock,mac=02:00:00:00:00:01,mtu=1450,queues=4",
            "af_xdp:eth1",
            "af_xdp:eth1,queues=2,mode=generic,all",
            "af_xdp:eth1,address=192.0.2.10,address=192.0.2.11",
            "vxlan",
            "vxlan:local=192.0.2.1,port=4790,underlay=3",
            "gre",
            "gre:local=192.0.2.1,underlay=3",
            "pcap:rx=a.pcap,tx=b.pcap",
            "pcap:rx=a.pcap,repeat",
        ] {
            let kind = parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(format(&PortSpec { number: 5, kind: Some(kind), ..PortSpec::default() }), text);
        }
    }

    #[test]
    fn interfaces_of_two_namespaces_have_two_names() {
        let name = |text| default_name(7, &parse(text).unwrap());
        assert_eq!(name("tap:eth0,netns=web"), "eth0@web");
        assert_eq!(name("tap:eth0"), "eth0");
        assert_eq!(name("vxlan"), "vxlan7");
    }

    #[test]
    fn wrong_kinds_say_what_is_right() {
        for (text, part) in [
            ("veth:a", "\"veth\" is not a kind of port"),
            ("tap", "tap names no interface"),
            ("tap:a-name-that-is-far-too-long", "cannot be an interface's name"),
            ("tap:a,mac=1", "mac is \"1\""),
            ("tap:a,colour=red", "tap has no setting \"colour\""),
            ("vhost_user:vm.sock", "vhost_user has no setting \"vm.sock\""),
            ("vhost_user:queues=65", "1 to 64"),
            ("af_xdp:eth1,mode=fast", "mode=native"),
            ("af_xdp:eth1,address=1", "address is \"1\""),
            ("vxlan:port=70000", "1 to 65535"),
            ("pcap", "pcap names no file"),
        ] {
            let sentence = parse(text).expect_err(text).to_string();
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
