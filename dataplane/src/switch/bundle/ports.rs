//! The ports of a bundle: each specification by itself, then all ports as they would be afterwards.

use super::super::State;
use super::super::open::{TunnelSettings, contend};
use super::super::ports::Port;
use super::{Plan, own};
use crate::flow::action::host;
use crate::flow::message;
use crate::flow::rule::Owner;
use crate::limits::PORTS;
use crate::limits::vhost_user::PAIRS;
use crate::packet::tunnel::Encapsulation;
use crate::port::tap::LARGEST_MTU;
use crate::port::{af_xdp, vhost_user};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, port_spec::Kind};
use weft_proto::{FIRST_MANUAL_PORT, UNDERLAY_PORT};

/// Bytes of an interface's name, as the kernel's IFNAMSIZ has it.
const INTERFACE_BYTES: usize = 15;

/// Plans the changes of a bundle's ports.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn plan(bundle: v1::Bundle, managed: bool, state: &State, plan: &mut Plan) -> Result<(), Fault> {
    let added: HashSet<u32> = bundle.add_ports.iter().map(|spec| spec.number).collect();
    if plan.replace {
        let gone = state.ports.iter().filter(|port| port.owner == plan.owner && !port.configured);
        plan.close.extend(gone.map(|port| port.spec.number).filter(|number| !added.contains(number)));
    }
    for (index, &number) in bundle.remove_ports.iter().enumerate() {
        removal(number, &format!("remove_ports[{index}]"), &added, state, plan)?;
    }
    let mut seen = HashSet::new();
    for (index, mut spec) in bundle.add_ports.into_iter().enumerate() {
        let place = format!("add_ports[{index}]");
        own(&mut spec.owner, plan.owner, "owner").map_err(|fault| fault.within(&place))?;
        check_spec(&spec).map_err(|fault| fault.within(&place))?;
        if managed && plan.owner == Owner::Manual {
            check_number(spec.number).map_err(|fault| fault.within(&place))?;
        }
        if !seen.insert(spec.number) {
            let problem = format!("port {} is added twice", spec.number);
            return Err(Fault::invalid("duplicate_port", place, problem, "Add it once."));
        }
        if plan.owner == Owner::Manual {
            check_addresses(&spec, state).map_err(|fault| fault.within(&place))?;
        }
        plan.named.push(spec.number);
        match state.ports.get(spec.number) {
            None => plan.open.push((index, spec)),
            Some(port) if port.owner != plan.owner || port.configured => return Err(taken(port, &place)),
            Some(port) if port.spec == spec => {}
            Some(port) if device(&port.spec) == device(&spec) => plan.rename.push(spec),
            Some(port) => {
                plan.close.insert(port.spec.number);
                plan.open.push((index, spec));
            }
        }
    }
    check_afterwards(state, plan).map_err(|fault| missing_interface(state, plan).unwrap_or(fault))?;
    for &number in &plan.close {
        let port = state.ports.get(number).expect("only ports that exist are closed");
        if plan.open.iter().any(|(_, spec)| contend(&port.spec, spec)) {
            plan.close_first.insert(number);
        }
    }
    Ok(())
}

/// What a port is opened by: the rest can change while it is open.
fn device(spec: &v1::PortSpec) -> Option<Kind> {
    let mut kind = spec.kind.clone();
    if let Some(Kind::AfXdp(port)) = &mut kind {
        port.addresses.clear();
    }
    kind
}

/// Refuses to take the host's own addresses away from it. The fabric does not ask hosts what addresses they have:
/// of what it gives them these are left out.
fn check_addresses(spec: &v1::PortSpec, state: &State) -> Result<(), Fault> {
    let Some(Kind::AfXdp(port)) = &spec.kind else { return Ok(()) };
    let own = |bytes: &Vec<u8>| <[u8; 4]>::try_from(bytes.as_slice()).is_ok_and(|one| state.underlay.owns(one.into()));
    match port.addresses.iter().position(own) {
        None => Ok(()),
        Some(index) => Err(Fault::invalid(
            "bad_port",
            format!("af_xdp.addresses[{index}]"),
            "it is an address of this host, which could not be reached by it any more",
            "Leave it out: name addresses that only rules answer for.",
        )),
    }
}

fn removal(number: u32, place: &str, added: &HashSet<u32>, state: &State, plan: &mut Plan) -> Result<(), Fault> {
    if added.contains(&number) {
        let problem = format!("port {number} is both added and removed");
        return Err(Fault::invalid("duplicate_port", place, problem, "To replace a port, only add it."));
    }
    match state.ports.get(number) {
        // The controller says what should be: a port that is not there is as it should be.
        None if plan.owner == Owner::Fabric => {}
        None => {
            let problem = format!("there is no port {number}");
            let fault = Fault::invalid("no_such_port", place, problem, "List the ports to see their numbers.");
            return Err(fault.with_status(Code::NotFound));
        }
        Some(port) if port.owner != plan.owner || port.configured => return Err(taken(port, place)),
        Some(_) => {
            plan.close.insert(number);
        }
    }
    Ok(())
}

fn taken(port: &Port, place: &str) -> Fault {
    let (number, name) = (port.spec.number, &port.spec.name);
    let (problem, remedy) = if port.configured {
        (
            format!("port {number} ({name}) stands in the switch's configuration"),
            "Change the configuration's [underlay].",
        )
    } else if port.owner == Owner::Fabric {
        (format!("port {number} ({name}) belongs to the fabric"), "Use another number, or ask the controller.")
    } else {
        (format!("port {number} ({name}) was made by hand"), "Remove it on the switch, or use another number.")
    };
    Fault::invalid("port_taken", place, problem, remedy).with_status(Code::AlreadyExists)
}

/// Checks the ports as they would be: names, and what tunnels run over.
///
/// The fabric does not ask hosts what people made there: what it shares with a port made by hand (a name, a
/// tunnel's end) is no reason to refuse it.
fn check_afterwards(state: &State, plan: &Plan) -> Result<(), Fault> {
    let mut after: After<'_> = state.ports.iter().map(|port| (port.spec.number, &port.spec)).collect();
    after.retain(|number, _| !plan.close.contains(number));
    let new = || plan.open.iter().map(|(_, spec)| spec).chain(&plan.rename);
    after.extend(new().map(|spec| (spec.number, spec)));
    if after.len() >= PORTS {
        return Err(Fault::invalid(
            "limit_exceeded",
            "add_ports",
            format!("the switch would have {PORTS} ports or more"),
            "Remove ports first.",
        )
        .with_status(Code::ResourceExhausted));
    }
    let rivals = |spec: &v1::PortSpec, other: &v1::PortSpec| {
        other.number != spec.number && (plan.owner == Owner::Manual || other.owner == spec.owner)
    };
    let mut names: HashMap<&str, Vec<&v1::PortSpec>> = HashMap::new();
    for spec in after.values() {
        names.entry(&spec.name).or_default().push(spec);
    }
    for spec in new() {
        if let Some(other) = names[spec.name.as_str()].iter().find(|other| rivals(spec, other)) {
            return Err(Fault::invalid(
                "name_taken",
                "add_ports",
                format!("ports {} and {} would both be called {}", other.number, spec.number, spec.name),
                "Choose another name.",
            )
            .with_status(Code::AlreadyExists));
        }
    }
    for spec in after.values() {
        if let Some(tunnel) = TunnelSettings::of(spec) {
            check_underlay(spec, &tunnel, &after)?;
        }
    }
    let tunnels: Vec<_> = after.values().filter_map(|spec| Some((*spec, end(spec, &after, state)?))).collect();
    for (spec, own) in tunnels.iter().filter(|(spec, _)| new().any(|new| new.number == spec.number)) {
        if let Some((other, _)) = tunnels.iter().find(|(other, end)| rivals(spec, other) && end.meets(own)) {
            return Err(Fault::invalid(
                "tunnel_taken",
                "add_ports",
                format!(
                    "the tunnels {} (port {}) and {} (port {}) would have the same address and {}",
                    other.name, other.number, spec.name, spec.number, own.encapsulation
                ),
                "One tunnel port carries every VNI or key; or give the other one another local_address or udp_port.",
            )
            .with_status(Code::AlreadyExists));
        }
    }
    Ok(())
}

/// The ports as they would be.
type After<'a> = BTreeMap<u32, &'a v1::PortSpec>;

/// Where a tunnel's packets arrive.
struct End {
    /// Empty: the underlay has no address yet.
    addresses: Vec<Ipv4Addr>,
    /// Port number of the interface below.
    below: u32,
    encapsulation: Encapsulation,
}

impl End {
    /// Whether one packet could be for both.
    fn meets(&self, other: &Self) -> bool {
        let same = match (self.addresses.as_slice(), other.addresses.as_slice()) {
            ([], []) => self.below == other.below,
            (one, other) => one.iter().any(|address| other.contains(address)),
        };
        same && self.encapsulation == other.encapsulation
    }
}

/// The end of a tunnel; `None`: it is no tunnel.
fn end(spec: &v1::PortSpec, after: &After<'_>, state: &State) -> Option<End> {
    let tunnel = TunnelSettings::of(spec)?;
    let below = match tunnel.underlay_port {
        0 => after.values().find(|below| matches!(below.kind, Some(Kind::AfXdp(_))))?,
        number => after.get(&number)?,
    };
    let mut addresses = state.ports.local_addresses(&tunnel, &state.underlay);
    // The interface may be in this bundle.
    if let Some(Kind::AfXdp(port)) = &below.kind
        && addresses.is_empty()
    {
        let interface = state.underlay.interface(&port.interface);
        addresses.extend(interface.and_then(|interface| interface.addresses.first().copied()));
    }
    Some(End { addresses, below: below.number, encapsulation: tunnel.encapsulation })
}

/// Of the new ports the first whose interface the kernel does not have: of all complaints that it would
/// cause, the one to make.
fn missing_interface(state: &State, plan: &Plan) -> Option<Fault> {
    plan.open.iter().find_map(|(index, spec)| {
        let Some(Kind::AfXdp(port)) = &spec.kind else { return None };
        state.underlay.interface(&port.interface).is_none().then(|| {
            Fault::invalid(
                "no_such_interface",
                format!("add_ports[{index}].af_xdp.interface"),
                format!("there is no interface {:?}", port.interface),
                "`ip link` shows those there are.",
            )
            .with_status(Code::NotFound)
        })
    })
}

fn check_underlay(spec: &v1::PortSpec, tunnel: &TunnelSettings, after: &After<'_>) -> Result<(), Fault> {
    let refuse = |problem: String, remedy| {
        let fault = Fault::invalid("no_underlay", format!("port {}", spec.name), problem, remedy);
        Err(fault.with_status(Code::FailedPrecondition))
    };
    if tunnel.underlay_port != 0 {
        let below = after.get(&tunnel.underlay_port).and_then(|below| below.kind.as_ref());
        return match below {
            Some(Kind::Vxlan(_) | Kind::Gre(_)) | None => refuse(
                format!("port {}, which the tunnel runs over, is no interface", tunnel.underlay_port),
                "Add the af_xdp port in the same bundle or before, and remove it after the tunnel.",
            ),
            Some(_) => Ok(()),
        };
    }
    let interface = |below: &&v1::PortSpec| match &below.kind {
        Some(Kind::AfXdp(port)) => Some(port.interface.clone()),
        _ => None,
    };
    match after.values().filter_map(interface).collect::<HashSet<String>>().len() {
        1 => Ok(()),
        0 => refuse(
            "the switch has no af_xdp port that the tunnel could run over".to_owned(),
            "Name the interface in the switch's configuration ([underlay] interface), or add an af_xdp port.",
        ),
        more => {
            refuse(format!("the switch has {more} af_xdp ports"), "Say in underlay_port which the tunnel runs over.")
        }
    }
}

/// The controller numbers its ports without asking the hosts: ports made by hand keep out of its way.
fn check_number(number: u32) -> Result<(), Fault> {
    if (FIRST_MANUAL_PORT..=UNDERLAY_PORT).contains(&number) {
        return Ok(());
    }
    let problem = format!("port {number} is one that the controller gives to its own ports");
    let remedy = format!("Use {FIRST_MANUAL_PORT} to {}; {UNDERLAY_PORT} for the underlay.", UNDERLAY_PORT - 1);
    Err(Fault::invalid("port_taken", "number", problem, remedy))
}

/// Checks a specification by itself.
pub(in crate::switch) fn check_spec(spec: &v1::PortSpec) -> Result<(), Fault> {
    let invalid = |field: &str, problem: String, remedy: &str| Err(Fault::invalid("bad_port", field, problem, remedy));
    message::port_number(spec.number, "number")?;
    if !(1..=64).contains(&spec.name.len()) || spec.name.chars().any(|one| one.is_control() || one.is_whitespace()) {
        let problem = format!("\"{}\" cannot be a port's name", spec.name.escape_debug());
        return invalid("name", problem, "Use 1 to 64 bytes without spaces.");
    }
    let interface = |field: &str, name: &str| {
        let wrong = |one: char| one.is_control() || one.is_whitespace() || one == '/' || one == '%';
        if name.is_empty() || name.len() > INTERFACE_BYTES || name.chars().any(wrong) || name == "." || name == ".." {
            let problem = format!("\"{}\" cannot be an interface's name", name.escape_debug());
            return invalid(field, problem, "Use 1 to 15 bytes without spaces, slashes and per cent signs.");
        }
        Ok(())
    };
    let local_address = |field: &str, bytes: &[u8]| {
        if matches!(bytes.len(), 0 | 4) {
            return Ok(());
        }
        let problem = format!("an address of {} bytes", bytes.len());
        invalid(field, problem, "Give 4 bytes, or none for the underlay's own address.")
    };
    let link = |kind: &str, mac: &[u8], mtu: u32| {
        let unicast = mac.len() == 6 && mac[0] & 1 == 0 && mac.iter().any(|&byte| byte != 0);
        if !mac.is_empty() && !unicast {
            let problem = "the MAC address is not that of one interface".to_owned();
            return invalid(&format!("{kind}.mac"), problem, "Give the 6 bytes of a unicast address, or leave it out.");
        }
        if mtu != 0 && !(68..=LARGEST_MTU).contains(&mtu) {
            return invalid(
                &format!("{kind}.mtu"),
                format!("an MTU of {mtu} bytes"),
                "Use 68 to 65521, or 0 for 1500.",
            );
        }
        Ok(())
    };
    match &spec.kind {
        Some(Kind::Tap(tap)) => {
            if !tap.interface.is_empty() {
                interface("tap.interface", &tap.interface)?;
            }
            if tap.netns.contains(['/', '\0']) || tap.netns == ".." {
                let problem = format!("\"{}\" cannot be a network namespace's name", tap.netns.escape_debug());
                return invalid("tap.netns", problem, "Use a name that `ip netns` shows.");
            }
            link("tap", &tap.mac, tap.mtu)
        }
        Some(Kind::VhostUser(port)) => {
            let path = Path::new(&port.socket);
            if !port.socket.is_empty()
                && (!path.is_absolute() || port.socket.contains('\0') || port.socket.ends_with('/'))
            {
                let problem = format!("\"{}\" is no path of a socket", port.socket.escape_debug());
                return invalid("vhost_user.socket", problem, "Give a path from the root, or none to have one chosen.");
            }
            if port.socket.len() > vhost_user::LONGEST_PATH {
                let problem = format!("a path of {} bytes", port.socket.len());
                let remedy = format!("A socket's path has at most {}.", vhost_user::LONGEST_PATH);
                return invalid("vhost_user.socket", problem, &remedy);
            }
            if port.queues as usize > PAIRS {
                let problem = format!("{} queue pairs", port.queues);
                return invalid(
                    "vhost_user.queues",
                    problem,
                    &format!("Use 1 to {PAIRS}, or 0 for one for each worker."),
                );
            }
            link("vhost_user", &port.mac, port.mtu)
        }
        Some(Kind::AfXdp(port)) => {
            interface("af_xdp.interface", &port.interface)?;
            if v1::AfXdpMode::try_from(port.mode).is_err() {
                return invalid(
                    "af_xdp.mode",
                    format!("mode {} is not known", port.mode),
                    "Use auto, native or generic.",
                );
            }
            if port.take_all && !port.addresses.is_empty() {
                let problem = "every frame of the interface is taken, and addresses are given".to_owned();
                return invalid("af_xdp.addresses", problem, "Leave them out, or leave take_all off.");
            }
            if port.addresses.len() > af_xdp::ADDRESSES {
                let problem = format!("{} addresses on one interface", port.addresses.len());
                let remedy = format!("Give at most {}, or take all of its frames.", af_xdp::ADDRESSES);
                return invalid("af_xdp.addresses", problem, &remedy);
            }
            for (index, address) in port.addresses.iter().enumerate() {
                let place = format!("af_xdp.addresses[{index}]");
                if host(address, &place, "Use the address of a host.")?.is_none() {
                    return invalid(&place, "the address is empty".to_owned(), "Give its 4 bytes.");
                }
            }
            Ok(())
        }
        Some(Kind::Vxlan(tunnel)) => {
            local_address("vxlan.local_address", &tunnel.local_address)?;
            if tunnel.udp_port > 65_535 {
                return invalid(
                    "vxlan.udp_port",
                    format!("UDP port {}", tunnel.udp_port),
                    "Use 1 to 65535, or 0 for 4789.",
                );
            }
            Ok(())
        }
        Some(Kind::Gre(tunnel)) => local_address("gre.local_address", &tunnel.local_address),
        Some(Kind::Pcap(_)) => Ok(()),
        None => invalid(
            "kind",
            "the port's kind is missing or not known".to_owned(),
            "Say tap, vhost_user, af_xdp, vxlan, gre or pcap.",
        ),
    }
}
