//! DHCP replies.

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
