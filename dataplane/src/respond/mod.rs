//! Answers that the switch itself gives, so that no agent or helper process is needed: ARP, DHCP and ICMP.
//! Each takes the request's frame and turns it into the reply in place; only ICMP's errors are frames of their
//! own. Called by workers, DHCP and ICMP within `limits::REPLIES_PER_BATCH`; nothing here allocates, and no bytes from outside make it panic.

pub mod arp;
pub mod dhcp;
pub mod icmp;

/// Where the network header begins, behind at most two VLAN tags, and its type. `None` if the frame is
/// too short for that.
fn ethernet_header(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let mut start = 14;
    for _ in 0..2 {
        match bytes.get(start - 2..start)? {
            [0x81, 0x00] | [0x88, 0xa8] => start += 4,
            _ => break,
        }
    }
    let ether_type = bytes.get(start - 2..start)?;
    Some((start, [ether_type[0], ether_type[1]]))
}

/// Whether one station can have this MAC address.
#[must_use]
pub fn is_unicast(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}
