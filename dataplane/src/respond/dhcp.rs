//! DHCP replies (RFC 2131): turns a client's frame, in place, into the server's answer.
//!
//! There is no lease database. A rule that matches one port says which address and which parameters that
//! port's client has ([`DhcpOffer`]); the answer follows from the message and the offer alone, so every
//! switch, before and after a restart, gives the same one.
//!
//! - `request`: reads and checks the client's message.
//! - `options`: writes the reply's options within the room the client has.
//! - here: which message answers which, what it says, and where it is sent.
//!
//! The codec is our own because the bytes come from tenants and what fits must be known while writing;
//! `docs/dependencies.md` says what was tried.
//!
//! Called by workers, for the action `DhcpReply`.

mod options;
mod request;
#[cfg(test)]
mod tests;

use crate::drop::DropReason;
use crate::packet::checksum;
use crate::packet::frame::{Checksum, Frame};
use options::Options;
use request::Request;
use std::net::Ipv4Addr;

/// What one client is offered (RFC 2131; the options of RFC 2132 and RFC 3442).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpOffer {
    /// The client's address.
    pub address: Ipv4Addr,
    /// Of its subnet, 0 to 32: option 1.
    pub prefix_length: u8,
    /// The server's address: option 54 and the reply's source.
    pub server_address: Ipv4Addr,
    /// The reply's source MAC.
    pub server_mac: [u8; 6],
    /// Option 3.
    pub router: Option<Ipv4Addr>,
    /// Option 6.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Option 26, bytes.
    pub mtu: Option<u16>,
    /// Option 51, seconds; T1 (58) is a half, T2 (59) seven eighths.
    pub lease_seconds: u32,
    /// Option 12.
    pub host_name: Option<String>,
    /// Option 15.
    pub domain_name: Option<String>,
    /// Option 121: destination, prefix length, next hop.
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
}

/// Message types, the values of option 53 (RFC 2132, 9.6).
mod message_type {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const DECLINE: u8 = 4;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const RELEASE: u8 = 7;
    pub const INFORM: u8 = 8;
}

/// Option numbers (RFC 2132, 3046, 3442).
mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_SECONDS: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_SECONDS: u8 = 58;
    pub const REBINDING_SECONDS: u8 = 59;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    pub const RELAY_AGENT_INFORMATION: u8 = 82;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// The fixed part of a message, up to and with the magic cookie (RFC 2131, 2 and 3).
const FIXED_BYTES: usize = 240;
/// What every client takes as a whole IP datagram, unless it says more (RFC 2131, 2).
const LEAST_DATAGRAM: usize = 576;
/// What we send at most, whatever a client says.
const LARGEST_DATAGRAM: usize = 1500;
/// Shorter messages are dropped by some relays and old clients (RFC 1542, 2.1).
const LEAST_MESSAGE: usize = 300;
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u8 = 0x80;

/// Turns a client's message (Ethernet, at most two VLAN tags, IPv4, UDP to port 67) into the answer of
/// the offer's server, to be sent out of the port it came in by. Tags stay; checksums are complete.
///
/// | message | answer |
/// |---|---|
/// | DISCOVER | OFFER |
/// | REQUEST for the offered address, in any of the four states of RFC 2131, 4.3.2 | ACK |
/// | REQUEST for another address | NAK, broadcast |
/// | INFORM | ACK without an address and lease times |
///
/// A client that sends a parameter request list gets what it lists, in its order, as far as the offer
/// has it and the client has room for it; one that sends none gets everything. Always sent are message
/// type, server identifier, subnet mask, lease times, client identifier (RFC 6842), relay agent
/// information (RFC 3046), and the MTU, because a client that does not ask would lose large packets.
///
/// # Errors
/// The frame is then as it was, to be counted under:
/// - [`DropReason::Consumed`]: a DECLINE, a RELEASE, or a REQUEST that accepts another server's offer.
/// - [`DropReason::BadRequest`]: not a DHCP message of a client, malformed, or with addresses that no
///   reply can be sent to.
/// - [`DropReason::NoBuffer`]: the frame's buffer has no room for the reply (never in a fresh chunk).
pub fn reply(frame: &mut Frame, offer: &DhcpOffer) -> Result<(), DropReason> {
    if frame.is_chained() || frame.gso.is_some() {
        return Err(DropReason::BadRequest);
    }
    let request = Request::read(frame.head(), frame.checksum)?;
    let answer = answer_of(&request, offer)?;
    let mut datagram = [0; LARGEST_DATAGRAM];
    let length = compose(&mut datagram, &request, offer, answer)?;

    let destination = if request.is_relayed() {
        request.sender
    } else if address_of(&request, offer, answer).is_broadcast() {
        [0xff; 6]
    } else {
        request.client_mac()
    };
    let start = request.network_start;
    if !frame.set_len(start + length) {
        return Err(DropReason::NoBuffer);
    }
    let head = frame.head_mut();
    head[..6].copy_from_slice(&destination);
    head[6..12].copy_from_slice(&offer.server_mac);
    head[start..].copy_from_slice(&datagram[..length]);
    frame.checksum = Checksum::Complete;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Offer,
    /// Of a REQUEST.
    Lease,
    /// Of an INFORM.
    Information,
    Refusal,
}

/// Which answer a message gets (RFC 2131, 4.3).
fn answer_of(request: &Request, offer: &DhcpOffer) -> Result<Answer, DropReason> {
    match request.message_type {
        message_type::DISCOVER => Ok(Answer::Offer),
        message_type::REQUEST => {
            // Only a client in the state SELECTING names a server (RFC 2131, 4.3.2).
            if request.server_identifier.is_some_and(|server| server != offer.server_address) {
                return Err(DropReason::Consumed);
            }
            // In SELECTING and INIT-REBOOT the address stands in the option, in RENEWING and REBINDING
            // in ciaddr. We know each client's one address, hence refuse where a server with leases
            // would have to stay silent.
            let configured = Some(request.client_address).filter(|address| !address.is_unspecified());
            match request.requested_address.or(configured) {
                Some(address) if address == offer.address => Ok(Answer::Lease),
                Some(_) => Ok(Answer::Refusal),
                None => Err(DropReason::BadRequest),
            }
        }
        // Its address is where the answer goes (RFC 2131, 4.3.5).
        message_type::INFORM if !request.client_address.is_unspecified() => Ok(Answer::Information),
        message_type::DECLINE | message_type::RELEASE => Err(DropReason::Consumed),
        _ => Err(DropReason::BadRequest),
    }
}

/// Where the answer is sent (RFC 2131, 4.1).
fn address_of(request: &Request, offer: &DhcpOffer, answer: Answer) -> Ipv4Addr {
    if request.is_relayed() {
        request.relay_address
    } else if answer == Answer::Refusal {
        Ipv4Addr::BROADCAST
    } else if !request.client_address.is_unspecified() {
        request.client_address
    } else if request.wants_broadcast {
        Ipv4Addr::BROADCAST
    } else {
        offer.address
    }
}

/// Writes the answer as an IPv4 datagram; gives its bytes.
fn compose(
    datagram: &mut [u8; LARGEST_DATAGRAM],
    request: &Request,
    offer: &DhcpOffer,
    answer: Answer,
) -> Result<usize, DropReason> {
    let source = offer.server_address;
    let destination = address_of(request, offer, answer);
    let destination_port = if request.is_relayed() { SERVER_PORT } else { CLIENT_PORT };

    // What the client takes, and the network carries.
    let network = offer.mtu.map_or(LARGEST_DATAGRAM, usize::from);
    let client = request.max_message_size.map_or(LEAST_DATAGRAM, usize::from);
    let room = client.min(network).clamp(LEAST_DATAGRAM, LARGEST_DATAGRAM);

    let message_start = IPV4_BYTES + UDP_BYTES;
    let message = &mut datagram[message_start..room];
    write_fixed_part(message, request, offer, answer);
    let mut options = Options::new(&mut message[FIXED_BYTES..], request);
    write_options(&mut options, request, offer, answer)?;
    let options_length = options.finish().ok_or(DropReason::BadRequest)?;
    let length = message_start + (FIXED_BYTES + options_length).max(LEAST_MESSAGE);

    let udp_length = ((length - IPV4_BYTES) as u16).to_be_bytes();
    datagram[20..22].copy_from_slice(&SERVER_PORT.to_be_bytes());
    datagram[22..24].copy_from_slice(&destination_port.to_be_bytes());
    datagram[24..26].copy_from_slice(&udp_length);
    // The pseudo-header is laid before the UDP header, in the place of the IP header, which follows.
    datagram[8..12].copy_from_slice(&[0, 17, udp_length[0], udp_length[1]]);
    datagram[12..16].copy_from_slice(&source.octets());
    datagram[16..20].copy_from_slice(&destination.octets());
    let checksum = checksum::finish_udp(checksum::sum(&datagram[8..length]));
    datagram[26..28].copy_from_slice(&checksum.to_be_bytes());

    let total = (length as u16).to_be_bytes();
    // Version and header length, no DSCP; an atomic datagram needs no ID (RFC 6864); TTL 64.
    datagram[..12].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0]);
    let checksum = checksum::finish(checksum::sum(&datagram[..IPV4_BYTES]));
    datagram[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(length)
}

/// The fields before the options, into zeroed bytes (RFC 2131, table 3).
fn write_fixed_part(message: &mut [u8], request: &Request, offer: &DhcpOffer, answer: Answer) {
    // BOOTREPLY, Ethernet, 6 bytes of MAC; hops and secs stay 0.
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&request.transaction);
    // A relay must broadcast a refusal: the client may have no address that it could be sent to.
    if request.wants_broadcast || (answer == Answer::Refusal && request.is_relayed()) {
        message[10] = BROADCAST_FLAG;
    }
    if matches!(answer, Answer::Lease | Answer::Information) {
        message[12..16].copy_from_slice(&request.client_address.octets());
    }
    if matches!(answer, Answer::Offer | Answer::Lease) {
        message[16..20].copy_from_slice(&offer.address.octets());
    }
    message[24..28].copy_from_slice(&request.relay_address.octets());
    message[28..44].copy_from_slice(&request.hardware_address);
    message[236..240].copy_from_slice(&MAGIC_COOKIE);
}

fn write_options(
    options: &mut Options,
    request: &Request,
    offer: &DhcpOffer,
    answer: Answer,
) -> Result<(), DropReason> {
    let kind = match answer {
        Answer::Offer => message_type::OFFER,
        Answer::Lease | Answer::Information => message_type::ACK,
        Answer::Refusal => message_type::NAK,
    };
    let mut mandatory = options.put(option::MESSAGE_TYPE, [kind])
        && options.put(option::SERVER_IDENTIFIER, offer.server_address.octets());
    if answer == Answer::Refusal {
        options.put(option::MESSAGE, *b"this port has another address");
        return if mandatory { Ok(()) } else { Err(DropReason::BadRequest) };
    }
    if answer != Answer::Information {
        mandatory &= options.put(option::LEASE_SECONDS, offer.lease_seconds.to_be_bytes());
        // An infinite lease is not renewed (RFC 2131, 3.3).
        if offer.lease_seconds != u32::MAX {
            let rebinding = (u64::from(offer.lease_seconds) * 7 / 8) as u32;
            mandatory &= options.put(option::RENEWAL_SECONDS, (offer.lease_seconds / 2).to_be_bytes());
            mandatory &= options.put(option::REBINDING_SECONDS, rebinding.to_be_bytes());
        }
    }
    // Before the router (RFC 2132, 3.3).
    mandatory &= options.put(option::SUBNET_MASK, mask(offer.prefix_length).to_be_bytes());
    if let Some(mtu) = offer.mtu {
        mandatory &= options.put(option::MTU, mtu.to_be_bytes());
    }
    if !mandatory {
        return Err(DropReason::BadRequest);
    }

    // What does not fit is left out whole; the client said first what it needs most (RFC 2132, 9.8).
    if request.has_parameter_request_list() {
        for code in request.parameters() {
            put_parameter(options, code, offer);
        }
    } else {
        use option::{BROADCAST_ADDRESS, CLASSLESS_ROUTES, DNS_SERVERS, DOMAIN_NAME, HOST_NAME, ROUTER};
        for code in [CLASSLESS_ROUTES, ROUTER, DNS_SERVERS, BROADCAST_ADDRESS, HOST_NAME, DOMAIN_NAME] {
            put_parameter(options, code, offer);
        }
    }
    Ok(())
}

/// Puts an option that a client may ask for, if the offer has it and it is not there yet.
fn put_parameter(options: &mut Options, code: u8, offer: &DhcpOffer) {
    match code {
        option::ROUTER => options.put(code, offer.router.iter().flat_map(Ipv4Addr::octets)),
        option::DNS_SERVERS => options.put(code, offer.dns_servers.iter().flat_map(Ipv4Addr::octets)),
        option::HOST_NAME => options.put(code, offer.host_name.iter().flat_map(|name| name.bytes())),
        option::DOMAIN_NAME => options.put(code, offer.domain_name.iter().flat_map(|name| name.bytes())),
        option::BROADCAST_ADDRESS if offer.prefix_length < 31 => {
            let broadcast = u32::from(offer.address) | !mask(offer.prefix_length);
            options.put(code, broadcast.to_be_bytes())
        }
        option::CLASSLESS_ROUTES if !offer.routes.is_empty() => {
            // A client that understands these ignores the router option (RFC 3442): the default route
            // must be among them. The router is sent as well if asked for, although servers "should
            // not", because some clients ask for both and understand one.
            let has_default = offer.routes.iter().any(|&(_, length, _)| length == 0);
            let default = offer.router.filter(|_| !has_default).map(|router| (Ipv4Addr::UNSPECIFIED, 0, router));
            options.put(code, offer.routes.iter().copied().chain(default).flat_map(route_bytes))
        }
        _ => false,
    };
}

/// A route as in RFC 3442: prefix length, the destination's significant bytes, next hop.
fn route_bytes((destination, length, next_hop): (Ipv4Addr, u8, Ipv4Addr)) -> impl Iterator<Item = u8> + Clone {
    let length = length.min(32);
    let destination = (u32::from(destination) & mask(length)).to_be_bytes();
    let significant = usize::from(length.div_ceil(8));
    std::iter::once(length).chain(destination.into_iter().take(significant)).chain(next_hop.octets())
}

fn mask(prefix_length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_length.min(32))).unwrap_or(0)
}
