//! Reads a client's message and checks everything that the reply relies on. Whatever is wrong with it,
//! the answer is [`DropReason::BadRequest`], never a panic.

use super::{BROADCAST_FLAG, FIXED_BYTES, IPV4_BYTES, MAGIC_COOKIE, SERVER_PORT, UDP_BYTES, option};
use crate::drop::DropReason;
use crate::packet::checksum;
use crate::packet::frame::Checksum;
use crate::respond::{ethernet_header, is_unicast};
use std::net::Ipv4Addr;

/// A message from a client, checked.
pub(super) struct Request<'a> {
    /// Where the IPv4 header begins.
    pub(super) network_start: usize,
    /// The frame's source MAC: the client, or the relay.
    pub(super) sender: [u8; 6],
    pub(super) transaction: [u8; 4],
    pub(super) wants_broadcast: bool,
    /// `ciaddr`: unspecified, or one a host can have.
    pub(super) client_address: Ipv4Addr,
    /// `giaddr`, likewise.
    pub(super) relay_address: Ipv4Addr,
    /// `chaddr`, which begins with a unicast MAC.
    pub(super) hardware_address: [u8; 16],
    /// Option 53.
    pub(super) message_type: u8,
    /// Option 50.
    pub(super) requested_address: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server_identifier: Option<Ipv4Addr>,
    /// Option 57: bytes of an IP datagram.
    pub(super) max_message_size: Option<u16>,
    /// Where options stand, in the order they are read: the options field and, if it says so, the
    /// fields `file` and `sname` (RFC 3396, 7). Each is well-formed.
    regions: [&'a [u8]; 3],
}

impl<'a> Request<'a> {
    /// Reads a whole frame with its checksum state.
    pub(super) fn read(frame: &'a [u8], checksum: Checksum) -> Result<Self, DropReason> {
        Self::find(frame, checksum).ok_or(DropReason::BadRequest)
    }

    fn find(frame: &'a [u8], checksum: Checksum) -> Option<Self> {
        let (network_start, [8, 0]) = ethernet_header(frame)? else { return None };
        let sender = frame[6..12].try_into().ok()?;
        let message = payload(&frame[network_start..], checksum)?;
        let fixed = message.get(..FIXED_BYTES)?;
        // BOOTREQUEST over Ethernet.
        if fixed[..3] != [1, 1, 6] || fixed[236..] != MAGIC_COOKIE {
            return None;
        }

        let regions = regions(fixed, &message[FIXED_BYTES..])?;
        let request = Self {
            network_start,
            sender,
            transaction: fixed[4..8].try_into().ok()?,
            wants_broadcast: fixed[10] & BROADCAST_FLAG != 0,
            client_address: host_address(&fixed[12..16])?,
            relay_address: host_address(&fixed[24..28])?,
            hardware_address: fixed[28..44].try_into().ok()?,
            message_type: single::<1>(&regions, option::MESSAGE_TYPE)??[0],
            requested_address: single::<4>(&regions, option::REQUESTED_ADDRESS)?.map(Ipv4Addr::from),
            server_identifier: single::<4>(&regions, option::SERVER_IDENTIFIER)?.map(Ipv4Addr::from),
            max_message_size: single::<2>(&regions, option::MAX_MESSAGE_SIZE)?.map(u16::from_be_bytes),
            regions,
        };
        (is_unicast(request.sender) && is_unicast(request.client_mac())).then_some(request)
    }

    /// Whether a relay agent passed it on (and not the client itself sent it).
    pub(super) fn is_relayed(&self) -> bool {
        !self.relay_address.is_unspecified()
    }

    /// The client's MAC.
    pub(super) fn client_mac(&self) -> [u8; 6] {
        let [mac @ .., _, _, _, _, _, _, _, _, _, _] = self.hardware_address;
        mac
    }

    /// Its options in order, split ones in their parts.
    pub(super) fn options(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        self.regions.into_iter().flat_map(Region)
    }

    /// Whether it says which parameters it wants.
    pub(super) fn has_parameter_request_list(&self) -> bool {
        self.options().any(|(code, _)| code == option::PARAMETER_REQUEST_LIST)
    }

    /// The parameters it wants, in its order.
    pub(super) fn parameters(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.options().filter(|&(code, _)| code == option::PARAMETER_REQUEST_LIST).flat_map(|(_, data)| data).copied()
    }
}

/// The payload of a UDP datagram to the server's port, in an IPv4 packet that may be padded; `None` if
/// it is anything else, a fragment, or damaged.
fn payload(packet: &[u8], checksum: Checksum) -> Option<&[u8]> {
    let fixed = packet.get(..IPV4_BYTES)?;
    let header_length = usize::from(fixed[0] & 0xf) * 4;
    let total_length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let header = packet.get(..header_length)?;
    let is_fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    let is_udp = fixed[9] == 17;
    if fixed[0] >> 4 != 4
        || header_length < IPV4_BYTES
        || is_fragment
        || !is_udp
        || checksum::finish(checksum::sum(header)) != 0
    {
        return None;
    }

    let rest = packet.get(header_length..total_length)?;
    let udp = rest.get(..UDP_BYTES)?;
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    let payload = rest.get(UDP_BYTES..length)?;
    if u16::from_be_bytes([udp[2], udp[3]]) != SERVER_PORT {
        return None;
    }
    if checksum == Checksum::Unverified && !checksum_holds(fixed, &rest[..length]) {
        return None;
    }
    Some(payload)
}

/// Whether a datagram's checksum is right, absent, or the pseudo-header's sum alone: what a sender that
/// left the rest to its interface hands over on a veth, where there is none that would do it.
fn checksum_holds(header: &[u8], datagram: &[u8]) -> bool {
    let mut pseudo_header = [0; 12];
    pseudo_header[..8].copy_from_slice(&header[12..20]);
    pseudo_header[9] = 17;
    pseudo_header[10..].copy_from_slice(&datagram[4..6]);
    let pseudo_sum = checksum::fold(checksum::sum(&pseudo_header));
    let sum = checksum::fold(u32::from(pseudo_sum) + checksum::sum(datagram));
    let field = u16::from_be_bytes([datagram[6], datagram[7]]);
    field == 0 || sum == 0xffff || field == pseudo_sum
}

/// An address that a reply can be sent to, or the unspecified one.
fn host_address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?);
    let is_host = matches!(address.octets()[0], 1..=126 | 128..=223);
    (is_host || address.is_unspecified()).then_some(address)
}

/// The places of a message that hold options (RFC 2132, 9.3: option overload); `None` if one is
/// malformed.
fn regions<'a>(fixed: &'a [u8], options: &'a [u8]) -> Option<[&'a [u8]; 3]> {
    if !is_well_formed(options) {
        return None;
    }
    let overload = single::<1>(&[options, &[], &[]], option::OVERLOAD)?.map_or(0, |[value]| value);
    let file = if overload & 1 != 0 { &fixed[108..236] } else { &[] };
    let server_name = if overload & 2 != 0 { &fixed[44..108] } else { &[] };
    (overload <= 3 && is_well_formed(file) && is_well_formed(server_name)).then_some([options, file, server_name])
}

/// The data of an option of fixed length: `Some(None)` if it is absent, `None` if its length is wrong
/// or it is there more than once (which would make it longer: RFC 3396).
fn single<const BYTES: usize>(regions: &[&[u8]; 3], wanted: u8) -> Option<Option<[u8; BYTES]>> {
    let mut parts = regions.iter().flat_map(|region| Region(region)).filter(|&(code, _)| code == wanted);
    match (parts.next(), parts.next()) {
        (None, _) => Some(None),
        (Some((_, data)), None) => data.try_into().ok().map(Some),
        (Some(_), Some(_)) => None,
    }
}

/// Whether each option lies within the region. A missing end mark is forgiven.
fn is_well_formed(region: &[u8]) -> bool {
    let mut rest = region;
    loop {
        rest = match rest {
            [] | [option::END, ..] => return true,
            [option::PAD, tail @ ..] => tail,
            [_, length, tail @ ..] if tail.len() >= usize::from(*length) => &tail[usize::from(*length)..],
            _ => return false,
        }
    }
}

/// Iterates over the options of a well-formed region; ends early in any other.
#[derive(Clone)]
struct Region<'a>(&'a [u8]);

impl<'a> Iterator for Region<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0 {
                [] | [option::END, ..] => return None,
                [option::PAD, tail @ ..] => self.0 = tail,
                [code, length, tail @ ..] => {
                    let (data, rest) = tail.split_at_checked(usize::from(*length))?;
                    self.0 = rest;
                    return Some((*code, data));
                }
                _ => return None,
            }
        }
    }
}
