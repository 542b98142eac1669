//! ARP requests of our own (RFC 826): who has this address, and who is at this one from now on (RFC 5227, 2.3).
//! Replies are made from requests: `respond/arp.rs`.

/// Ethernet's least frame, without its checksum.
const LEAST: usize = 60;
const BROADCAST: [u8; 6] = [0xff; 6];

/// The frame of a request from (`mac`, `source`) for `target`, to `to` or everybody; `vlan` 0: without a tag.
#[must_use]
pub fn request(vlan: u16, mac: [u8; 6], source: [u8; 4], target: [u8; 4], to: Option<[u8; 6]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(LEAST);
    frame.extend_from_slice(&to.unwrap_or(BROADCAST));
    frame.extend_from_slice(&mac);
    if vlan != 0 {
        frame.extend_from_slice(&[0x81, 0]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    // ARP; of Ethernet and IPv4, with addresses of 6 and 4 bytes; a request.
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target);
    frame.resize(frame.len().max(LEAST), 0);
    frame
}

/// The frame that announces that `address` is at `mac`.
#[must_use]
pub fn announcement(vlan: u16, mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    request(vlan, mac, address, address, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpOperation, NetSlice, SlicedPacket};

    #[test]
    fn requests_say_who_asks_for_whom() {
        let (mac, router) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
        for (vlan, to) in [(0, None), (7, None), (0, Some(router)), (4094, Some(router))] {
            let frame = request(vlan, mac, [192, 0, 2, 1], [192, 0, 2, 254], to);
            assert!(frame.len() >= 60);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            assert_eq!(packet.vlan_ids().iter().map(|vlan| vlan.value()).sum::<u16>(), vlan);
            let etherparse::LinkSlice::Ethernet2(ethernet) = packet.link.unwrap() else { panic!("no Ethernet header") };
            assert_eq!((ethernet.destination(), ethernet.source()), (to.unwrap_or([0xff; 6]), mac));
            let Some(NetSlice::Arp(arp)) = packet.net else { panic!("no ARP packet") };
            assert_eq!(arp.operation(), ArpOperation::REQUEST);
            assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&mac[..], &[192, 0, 2, 1][..]));
            assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&[0; 6][..], &[192, 0, 2, 254][..]));
        }
    }

    #[test]
    fn an_announcement_asks_for_the_announcers_own_address() {
        let frame = announcement(0, [2, 0, 0, 0, 0, 1], [192, 0, 2, 10]);
        assert_eq!(frame, request(0, [2, 0, 0, 0, 0, 1], [192, 0, 2, 10], [192, 0, 2, 10], None));
        assert_eq!(frame[..6], [0xff; 6]);
    }
}
