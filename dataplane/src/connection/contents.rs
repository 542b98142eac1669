//! What connections look at in a packet besides its key.

use super::fragments::Fragment;
use super::protocol::{Segment, Transport, begin};
use super::{CtState, Observation, Passing, Tuple};
use crate::flow::key::FlowKey;
use crate::packet::header::{Ipv4, protocol, tcp_flag, view};
use crate::packet::parse::Layout;

/// See the module comment.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// Its transport header.
    pub transport: Transport,
    /// Of an ICMP error: the tuple of the packet it quotes.
    pub quoted: Option<Tuple>,
    /// Of a fragment of IPv4: which.
    pub fragment: Option<Fragment>,
    /// Of IPv4, if it is known: bytes of the packet, and whether it must not be fragmented. No connection looks
    /// at it, but traces do.
    pub size: Option<(u16, bool)>,
}

impl Contents {
    /// Reads a frame, of which `head` is the first segment and which was parsed to this key and layout.
    #[must_use]
    pub fn read(head: &[u8], key: &FlowKey, layout: &Layout) -> Self {
        let bytes = head.get(layout.l4 as usize..).filter(|_| layout.l4 != 0).unwrap_or_default();
        let length = layout.end.saturating_sub(layout.l4.into());
        let quoted = is_error(key).then(|| bytes.get(8..)).flatten().and_then(Tuple::quoted);
        let transport = Transport::read(key.ip_proto, bytes, length);
        let ip: Option<&Ipv4> = view(head, layout.l3.into()).filter(|_| key.eth_type == [0x08, 0x00]);
        let size = ip.map(|ip| (ip.total_length.get(), ip.fragment.get() & Ipv4::DONT_FRAGMENT != 0));
        Self { transport, quoted, fragment: Fragment::read(head, key, layout), size }
    }

    /// Of a packet of which only the key is known. A TCP packet without any flag is taken for a SYN.
    #[must_use]
    pub fn unknown(key: &FlowKey) -> Self {
        let flags = u16::from_be_bytes(key.tcp_flags);
        let transport = match key.ip_proto {
            protocol::TCP => {
                Transport::Tcp(Segment { flags: if flags == 0 { tcp_flag::SYN } else { flags }, ..Segment::default() })
            }
            // INIT: what begins an association (RFC 9260, 3.3.2).
            protocol::SCTP => Transport::Sctp(1),
            _ => Transport::Other,
        };
        Self { transport, quoted: None, fragment: None, size: None }
    }

    /// What rules see if there is no connection.
    #[must_use]
    pub fn as_new(&self, tuple: Option<&Tuple>) -> Observation {
        let begins =
            tuple.is_some_and(|tuple| tuple.may_begin() && begin(tuple.protocol, &self.transport, false).is_some());
        let state = CtState::TRACKED | if begins { CtState::NEW } else { CtState::INVALID };
        Observation { state, ..Observation::default() }
    }

    /// As it counts for its connections.
    #[must_use]
    pub fn passing(&self, bytes: usize) -> Passing {
        Passing::one(self.transport, bytes)
    }
}

/// Whether an ICMP message of this type quotes a packet (RFC 792).
#[must_use]
pub fn is_icmp_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether it is an ICMP or ICMPv6 message that quotes a packet (RFC 792; RFC 4443, 2.1).
fn is_error(key: &FlowKey) -> bool {
    match (key.eth_type, key.ip_proto) {
        ([0x08, 0x00], protocol::ICMP) => is_icmp_error(key.l4_src[1]),
        ([0x86, 0xdd], protocol::ICMPV6) => key.l4_src[1] < 128,
        _ => false,
    }
}
