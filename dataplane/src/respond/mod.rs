//! Answers that the switch itself gives, so that no agent or helper process is needed: ARP and DHCP.
//! Each takes the request's frame and turns it into the reply in place.

pub mod arp;
pub mod dhcp;
