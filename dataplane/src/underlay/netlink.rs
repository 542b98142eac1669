//! What the watcher asks the kernel and hears from it, in its own words.

use super::{Interface, UnderlayError};
use futures_util::TryStreamExt;
use rtnetlink::packet_core::{ErrorMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// A neighbour's number: interface and address.
pub(super) type NeighbourKey = (u32, Ipv4Addr);

/// What the kernel knows of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Only if it may be used.
    pub mac: Option<[u8; 6]>,
    pub state: &'static str,
    /// The kernel keeps it fresh.
    pub managed: bool,
}

impl Neighbour {
    /// Somebody configured it: not ours to manage.
    pub fn is_fixed(&self) -> bool {
        matches!(self.state, "permanent" | "noarp")
    }
}

/// What a route lookup gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    None,
    /// The address is this host's.
    Local,
    Via {
        interface: u32,
        next_hop: Ipv4Addr,
        source: Option<Ipv4Addr>,
    },
}

/// What a message from the kernel is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Links, addresses, routes or rules: look again.
    Topology,
    /// A neighbour; `None`: it is gone.
    Neighbour(NeighbourKey, Option<Neighbour>),
    /// Messages were lost: look at everything again.
    Lost,
    /// Something else.
    Other,
}

pub(super) fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Event {
    use RouteNetlinkMessage as Message;
    match payload {
        NetlinkPayload::InnerMessage(Message::NewNeighbour(message)) => match neighbour(&message) {
            Some((key, neighbour)) => Event::Neighbour(key, Some(neighbour)),
            None => Event::Other,
        },
        NetlinkPayload::InnerMessage(Message::DelNeighbour(message)) => match neighbour(&message) {
            Some((key, _)) => Event::Neighbour(key, None),
            None => Event::Other,
        },
        NetlinkPayload::InnerMessage(
            Message::NewLink(_)
            | Message::DelLink(_)
            | Message::NewAddress(_)
            | Message::DelAddress(_)
            | Message::NewRoute(_)
            | Message::DelRoute(_)
            | Message::NewRule(_)
            | Message::DelRule(_),
        ) => Event::Topology,
        NetlinkPayload::Overrun(_) => Event::Lost,
        _ => Event::Other,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    if message.header.family != AddressFamily::Inet || message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(*found),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let (state, usable) = match message.header.state {
        NeighbourState::Reachable => ("reachable", true),
        NeighbourState::Stale => ("stale", true),
        NeighbourState::Delay => ("delay", true),
        NeighbourState::Probe => ("probe", true),
        NeighbourState::Permanent => ("permanent", true),
        NeighbourState::Noarp => ("noarp", true),
        NeighbourState::Incomplete => ("incomplete", false),
        NeighbourState::Failed => ("failed", false),
        _ => ("none", false),
    };
    Some(((message.header.ifindex, address?), Neighbour { mac: mac.filter(|_| usable), state, managed }))
}

/// All interfaces with their IPv4 addresses.
pub(super) async fn interfaces(handle: &Handle) -> Result<BTreeMap<u32, Interface>, UnderlayError> {
    let mut found = BTreeMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let interface = interface(&link);
        found.insert(interface.index, interface);
    }
    // Secondary addresses wait, so that they come behind the primary ones.
    let mut secondary = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        if message.header.family != AddressFamily::Inet {
            continue;
        }
        // On a point-to-point link ADDRESS is the other end; LOCAL is always ours.
        let ours = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        let (Some(address), index) = (ours, message.header.index) else { continue };
        if message.header.flags.contains(AddressHeaderFlags::Secondary) {
            secondary.push((index, address));
        } else if let Some(interface) = found.get_mut(&index) {
            interface.addresses.push(address);
        }
    }
    for (index, address) in secondary {
        if let Some(interface) = found.get_mut(&index) {
            interface.addresses.push(address);
        }
    }
    Ok(found)
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::Running),
        addresses: Vec::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(bytes) => interface.mac = bytes.as_slice().try_into().unwrap_or_default(),
            _ => {}
        }
    }
    interface
}

/// All IPv4 neighbours.
pub(super) async fn neighbours(handle: &Handle) -> Result<BTreeMap<NeighbourKey, Neighbour>, UnderlayError> {
    let mut found = BTreeMap::new();
    let mut messages = handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
    while let Some(message) = messages.try_next().await? {
        found.extend(neighbour(&message));
    }
    Ok(found)
}

/// How the kernel would route a packet to this address.
pub(super) async fn route(handle: &Handle, remote: Ipv4Addr) -> Result<Route, UnderlayError> {
    let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(remote, 32).build();
    let answer = match handle.route().get(question).execute().try_next().await {
        Ok(Some(answer)) => answer,
        Ok(None) => return Ok(Route::None),
        // The kernel's way to say that there is none: unreachable, prohibited, blackhole.
        Err(Error::NetlinkError(error)) if is_no_route(&error) => return Ok(Route::None),
        Err(error) => return Err(error.into()),
    };
    let (mut interface, mut next_hop, mut source) = (None, remote, None);
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => next_hop = *address,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            // An IPv6 next hop (RFC 5549) has no IPv4 neighbour that we could follow.
            RouteAttribute::Via(_) => return Ok(Route::None),
            _ => {}
        }
    }
    Ok(match (answer.header.kind, interface) {
        (RouteType::Local, _) => Route::Local,
        (RouteType::Unicast, Some(interface)) => Route::Via { interface, next_hop, source },
        _ => Route::None,
    })
}

fn is_no_route(error: &ErrorMessage) -> bool {
    let code = error.raw_code().abs();
    matches!(code, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ENETDOWN)
}

/// Asks the kernel to resolve a neighbour now and to keep it. `known`: it has an entry that may be
/// changed; else nothing is done if there is one, which gives false: it may be somebody's permanent one.
pub(super) async fn keep(handle: &Handle, (interface, address): NeighbourKey, known: bool) -> Result<bool, Error> {
    let mut request =
        handle.neighbours().add(interface, IpAddr::V4(address)).state(NeighbourState::None).flags(NeighbourFlags::Use);
    request.message_mut().attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    let request = if known { request.replace() } else { request };
    match request.execute().await {
        Ok(()) => Ok(true),
        Err(Error::NetlinkError(error)) if error.raw_code().abs() == libc::EEXIST => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the kernel forget a neighbour that was kept. Who else uses it resolves it again.
pub(super) async fn forget(handle: &Handle, (interface, address): NeighbourKey) -> Result<(), Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = interface;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    handle.neighbours().del(message).execute().await
}
