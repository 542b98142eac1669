//! MAC addresses and IPv4 prefixes: parsed strictly, printed one way.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use uuid::Uuid;
use weft_proto::digest;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether a port may have it: one station's, and not all zeros.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self != Self::default()
    }

    /// Reads a station's; `field` is where it came from.
    pub(super) fn parse(text: &str, field: &str) -> Result<Self, Fault> {
        text.parse::<Self>().ok().filter(|mac| mac.is_station()).ok_or_else(|| {
            Fault::invalid(
                "bad_mac",
                field,
                format!("{text:?} is not the MAC address of a station"),
                "Write six octets in hexadecimal, the first of them even: 02:00:00:00:00:01.",
            )
        })
    }

    /// A locally administered address (IEEE 802, bit 1 of the first octet) made from an object's id, of
    /// a family of 2^24. `attempt` gives others where one is taken.
    #[must_use]
    pub fn generated(family: [u8; 3], id: Uuid, attempt: u32) -> Self {
        let seed = v1::Origin { cookie: u64::from(attempt), text: id.to_string() };
        let hash = digest::of(&seed).to_be_bytes();
        Self([family[0], family[1], family[2], hash[0], hash[1], hash[2]])
    }

    /// Under which a host sends on a physical network what a router has sent on: of the router's port there, and the
    /// host. The port's own MAC is on every host, and switches would see it wander.
    #[must_use]
    pub fn of_router_at(port: Uuid, host: Uuid) -> Self {
        let hash = digest::of(&v1::Origin { cookie: 0, text: format!("{port}/{host}") }).to_be_bytes();
        Self([0x02, 0x52, hash[0], hash[1], hash[2], hash[3]])
    }

    /// A port's.
    pub const PORTS: [u8; 3] = [0x02, 0x57, 0x46];
    /// A router's on the wire, towards its gateway host.
    pub const CENTRAL: [u8; 3] = [0x02, 0x57, 0x43];
    /// The one the switch answers DHCP from.
    pub const DHCP: [u8; 3] = [0x02, 0x57, 0x44];
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() { Err(()) } else { Ok(Self(octets)) }
    }
}

/// An IPv4 network: no bits beyond the length are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    length: u8,
}

impl Ipv4Prefix {
    /// 0.0.0.0/0.
    pub const EVERYTHING: Self = Self { address: Ipv4Addr::UNSPECIFIED, length: 0 };

    /// `None` if the length is above 32 or bits beyond it are set.
    #[must_use]
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Self> {
        let prefix = Self { address, length };
        (length <= 32 && u32::from(address) & !prefix.mask() == 0).then_some(prefix)
    }

    /// The network address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// 0 to 32.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The bits that count.
    #[must_use]
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }

    /// The last address: the broadcast address of a subnet.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    /// Whether its addresses may be those of hosts: neither of "this network", nor loopback, nor multicast or beyond.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        let first = self.address.octets()[0];
        first != 0 && first != 127 && first < 224
    }

    /// Whether the address lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.address)
    }

    /// Whether a host of the subnet may have the address: in it, and neither the first nor the last.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.address && address != self.last()
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The addresses that hosts may have, ascending.
    pub fn hosts(self) -> impl DoubleEndedIterator<Item = Ipv4Addr> {
        (u32::from(self.address).saturating_add(1)..u32::from(self.last())).map(Ipv4Addr::from)
    }

    /// Reads "10.0.0.0/24", or "10.0.0.5" for that address alone; `field` is where it came from.
    pub fn parse_or_address(text: &str, field: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(address) => Ok(Self { address, length: 32 }),
            Err(_) => Self::parse(text, field),
        }
    }

    /// Reads "10.0.0.0/24"; `field` is where it came from.
    pub fn parse(text: &str, field: &str) -> Result<Self, Fault> {
        let bad = |problem: String, remedy: String| Fault::invalid("bad_cidr", field, problem, remedy);
        let format = || {
            bad(
                format!("{text:?} is not an IPv4 network"),
                "Write an address and a prefix length: 10.0.0.0/24.".to_owned(),
            )
        };
        if text.contains(':') {
            return Err(Fault::invalid(
                "ipv6_unsupported",
                field,
                format!("{text:?} looks like IPv6, which is not supported yet"),
                "Give an IPv4 network: 10.0.0.0/24.",
            ));
        }
        let (address, length) = text.split_once('/').ok_or_else(format)?;
        let address: Ipv4Addr = address.parse().map_err(|_| format())?;
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|&length| digits && length <= 32).ok_or_else(format)?;
        Self::new(address, length).ok_or_else(|| {
            let mask = Self { address, length }.mask();
            let right = Ipv4Addr::from(u32::from(address) & mask);
            bad(
                format!("{text} has bits set beyond its prefix length"),
                format!("Write {right}/{length}, or a longer prefix."),
            )
        })
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// Reads an IPv4 address; `field` is where it came from.
pub(super) fn parse_address(text: &str, field: &str) -> Result<Ipv4Addr, Fault> {
    if text.contains(':') {
        return Err(Fault::invalid(
            "ipv6_unsupported",
            field,
            format!("{text:?} looks like IPv6, which is not supported yet"),
            "Give an IPv4 address: 10.0.0.5.",
        ));
    }
    text.parse().map_err(|_| {
        Fault::invalid(
            "bad_address",
            field,
            format!("{text:?} is not an IPv4 address"),
            "Write four numbers from 0 to 255: 10.0.0.5.",
        )
    })
}
