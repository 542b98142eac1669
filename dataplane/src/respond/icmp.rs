//! ICMP for IPv4 (RFC 792) as a router speaks it (RFC 1812, 4.3): echo replies, and errors about packets
//! that cannot go on.
//!
//! An *echo reply* is the request itself, turned round in place: its data are never touched, so a chain or a
//! 64 KB datagram costs no more than a small one, and a datagram in fragments is answered fragment by fragment.
//!
//! An *error* is a packet of its own. It quotes what caused it as it was received, for that is what its sender
//! knows it by. A program that may have to answer so keeps the headers it starts with ([`Received`]); nothing
//! behind them is ever changed on the way through the switch, so they and the frame are the whole packet.
//!
//! Neither is sent to who cannot be one station, nor about what was sent to many; an error never about an
//! ICMP error or a later fragment (RFC 1812, 4.3.2.7; RFC 1122, 3.2.2). Budgets are the caller's business.
//!
//! Called by workers, for the actions `IcmpReply`, `IcmpUnreachable`, `DecTtl` and `CheckMtu`.

use crate::drop::DropReason;
use crate::packet::checksum;
use crate::packet::frame::{Checksum, Frame};
use crate::packet::header::{Ethernet, Icmp, Ipv4, eth_type, protocol, view, view_mut};
use crate::packet::parse::Layout;
use crate::packet::segment::complete_checksum;
use std::net::Ipv4Addr;
use zerocopy::IntoBytes;

#[cfg(test)]
mod tests;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
/// With the next hop's MTU (RFC 1191, 4).
const FRAGMENTATION_NEEDED: u8 = 4;

/// Of what the switch sends itself (RFC 1700).
const TTL: u8 = 64;
/// Internetwork control (RFC 1812, 4.3.2.5).
const CONTROL_TOS: u8 = 0xc0;
/// The longest error: what every host takes (RFC 1812, 4.3.2.3).
const LARGEST: usize = 576;
/// How much of the packet it quotes.
const QUOTE: usize = LARGEST - Ipv4::BYTES - Icmp::BYTES;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Its time to live is over.
    TimeExceeded,
    /// It is larger than this many bytes, and must not be fragmented.
    TooBig(u16),
    /// It cannot be delivered.
    Unreachable(Unreachable),
}

/// Why a packet cannot be delivered (RFC 792; RFC 1812, 5.2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no way to its network: code 0.
    Network,
    /// Its network has no such host: code 1.
    Host,
    /// Nobody listens: code 3.
    Port,
    /// Communication administratively prohibited: code 13.
    Prohibited,
}

impl Unreachable {
    /// The code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Network => 0,
            Self::Host => 1,
            Self::Port => 3,
            Self::Prohibited => 13,
        }
    }

    /// The one of this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Network, Self::Host, Self::Port, Self::Prohibited].into_iter().find(|reason| reason.code() == code)
    }

    /// What the packet is counted under.
    #[must_use]
    pub fn reason(self) -> DropReason {
        match self {
            Self::Prohibited => DropReason::Policy,
            Self::Network | Self::Host | Self::Port => DropReason::UnknownDestination,
        }
    }
}

/// Ethernet with two tags, the longest IPv4 header, and the transport header up to its checksum: all that
/// is ever rewritten, but for what ICMP errors quote, which are never answered.
const KEPT: usize = Ethernet::BYTES + 8 + 60 + 20;

/// The headers of an IPv4 packet as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    bytes: [u8; KEPT],
    length: usize,
    layout: Layout,
}

impl Received {
    /// Keeps the headers of a frame that was parsed to this layout.
    #[must_use]
    pub fn keep(frame: &Frame, layout: &Layout) -> Self {
        let head = frame.head();
        let length = head.len().min(KEPT);
        let mut bytes = [0; KEPT];
        bytes[..length].copy_from_slice(&head[..length]);
        Self { bytes, length, layout: *layout }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Whether an error about the packet may be sent at all.
    #[must_use]
    pub fn may_be_answered(&self) -> bool {
        let Some(ip) = ipv4(self.bytes(), self.layout.l3.into()) else { return false };
        let whole_or_first = ip.fragment.get() & Ipv4::OFFSET_MASK == 0;
        // Of ICMP only queries are: a type that is not known may be an error of tomorrow.
        let query = || {
            let icmp: Option<&Icmp> = view(self.bytes(), usize::from(self.layout.l4));
            icmp.is_some_and(|icmp| matches!(icmp.kind, ECHO_REPLY | ECHO | 13..=18))
        };
        whole_or_first && is_between_hosts(self.bytes(), ip) && (ip.protocol != protocol::ICMP || query())
    }

    /// Writes the error about the packet into an empty frame: tagged as it came, to whom it came from.
    /// `original` is the packet as it is now, at `layout`, and is spoilt: it gets its old headers back.
    /// False, if it is no longer in one piece or `out` has no room for 598 bytes.
    #[must_use]
    pub fn error(
        &self,
        problem: Problem,
        from: Ipv4Addr,
        original: &mut Frame,
        layout: &Layout,
        out: &mut Frame,
    ) -> bool {
        let (then, now) = (usize::from(self.layout.l3), usize::from(layout.l3));
        let Some(ip) = view::<Ipv4>(self.bytes(), then).copied() else { return false };
        let headers = &self.bytes()[then..];
        let Some(place) = original.head_mut().get_mut(now..now + headers.len()) else { return false };
        place.copy_from_slice(headers);
        if complete_checksum(original).is_err() {
            return false;
        }
        let quote = usize::from(ip.total_length.get()).min(QUOTE).min(original.len() - now);
        let l4 = then + Ipv4::BYTES;
        let length = l4 + Icmp::BYTES + quote;
        if !out.set_len(length) {
            return false;
        }
        let bytes = out.head_mut();
        bytes[..then].copy_from_slice(&self.bytes[..then]);
        turn_round(bytes);
        let mut header = Ipv4 {
            version_ihl: 0x45,
            tos: CONTROL_TOS,
            total_length: ((length - then) as u16).into(),
            identification: 0.into(),
            fragment: Ipv4::DONT_FRAGMENT.into(),
            ttl: TTL,
            protocol: protocol::ICMP,
            checksum: [0; 2],
            source: from.octets(),
            destination: ip.source,
        };
        header.checksum = checksum::finish(checksum::sum(header.as_bytes())).to_be_bytes();
        bytes[then..l4].copy_from_slice(header.as_bytes());
        let (kind, code, rest) = match problem {
            Problem::TimeExceeded => (TIME_EXCEEDED, 0, [0; 4]),
            Problem::Unreachable(why) => (UNREACHABLE, why.code(), [0; 4]),
            Problem::TooBig(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                (UNREACHABLE, FRAGMENTATION_NEEDED, [0, 0, high, low])
            }
        };
        let icmp = Icmp { kind, code, checksum: [0; 2], rest };
        bytes[l4..l4 + Icmp::BYTES].copy_from_slice(icmp.as_bytes());
        original.copy_range(now, &mut bytes[l4 + Icmp::BYTES..]);
        let sum = checksum::finish(checksum::sum(&bytes[l4..])).to_be_bytes();
        bytes[l4 + 2..l4 + 4].copy_from_slice(&sum);
        out.checksum = Checksum::Complete;
        out.gso = None;
        true
    }
}

/// Turns an echo request, or a fragment of one, into the reply. Its TOS, identification and fragmentation
/// stay (RFC 1122, 3.2.2.6); the TTL is fresh. A later fragment says nothing of its type: the caller knows it.
///
/// # Errors
/// The frame is then as it was, to be counted under:
/// - [`DropReason::Consumed`]: another ICMP message.
/// - [`DropReason::BadRequest`]: no ICMP, with IP options (a route to be recorded or followed), to or from
///   what is not one host.
pub fn echo_reply(frame: &mut Frame, layout: &Layout) -> Result<(), DropReason> {
    let l3 = usize::from(layout.l3);
    let head = frame.head();
    let ip = ipv4(head, l3).ok_or(DropReason::BadRequest)?;
    if ip.version_ihl != 0x45 || ip.protocol != protocol::ICMP || !is_between_hosts(head, ip) {
        return Err(DropReason::BadRequest);
    }
    let later = ip.fragment.get() & Ipv4::OFFSET_MASK != 0;
    let l4 = l3 + Ipv4::BYTES;
    if !later {
        let icmp: &Icmp = view(head, l4).ok_or(DropReason::BadRequest)?;
        if (icmp.kind, icmp.code) != (ECHO, 0) {
            return Err(DropReason::Consumed);
        }
    }
    // A partial checksum is summed where the reply leaves, with its new type.
    let sums = !matches!(frame.checksum, Checksum::Partial { .. });
    let head = frame.head_mut();
    turn_round(head);
    if let Some(ip) = view_mut::<Ipv4>(head, l3) {
        std::mem::swap(&mut ip.source, &mut ip.destination);
        let old = [ip.ttl, ip.protocol];
        ip.ttl = TTL;
        ip.checksum = checksum::update16(ip.checksum, old, [TTL, ip.protocol]);
    }
    if !later && let Some(icmp) = view_mut::<Icmp>(head, l4) {
        icmp.kind = ECHO_REPLY;
        if sums {
            icmp.checksum = checksum::update16(icmp.checksum, [ECHO, 0], [ECHO_REPLY, 0]);
        }
    }
    Ok(())
}

/// The header of IPv4 at this place, if that is what the frame has there.
fn ipv4(frame: &[u8], l3: usize) -> Option<&Ipv4> {
    let kind = l3.checked_sub(2).and_then(|at| frame.get(at..l3))?;
    view(frame, l3).filter(|_| kind == eth_type::IPV4.to_be_bytes())
}

/// Back to who sent it, from where it was sent to.
fn turn_round(bytes: &mut [u8]) {
    let (destination, source) = bytes.split_at_mut(6);
    destination.swap_with_slice(&mut source[..6]);
}

/// Whether one station sent it to one station, as far as addresses tell.
fn is_between_hosts(frame: &[u8], ip: &Ipv4) -> bool {
    let Some(ethernet) = view::<Ethernet>(frame, 0) else { return false };
    super::is_unicast(ethernet.source)
        && super::is_unicast(ethernet.destination)
        && is_host(ip.source)
        && is_host(ip.destination)
}

/// Whether it can be one host's address on a network (RFC 1122, 3.2.1.3).
#[must_use]
pub fn is_host(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}
