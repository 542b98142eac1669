//! ARP replies (RFC 826): turns a request, in place, into the answer a rule has decided on.
//!
//! The rules decide *which* addresses are answered for, by matching the asked address (`arp_tpa`) and
//! naming the MAC; nothing here knows who holds what. That includes probes (RFC 5227): one for an
//! address that somebody else holds must reach a rule with an `arp_reply`, so that the prober learns of
//! the conflict, and one for a free address must not.
//!
//! Who asks about its own address gets no answer: a reply with its own MAC would look to a host that
//! probes the address it was just given like a conflict with itself (RFC 5227, 2.1.1).
//!
//! Called by workers, for the action `ArpReply`.

use crate::drop::DropReason;
use crate::packet::frame::{Checksum, Frame};

/// Bytes of an ARP packet for IPv4 over Ethernet.
const ARP_BYTES: usize = 28;
/// Hardware type Ethernet, protocol IPv4, 6-byte and 4-byte addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Turns an ARP request, VLAN-tagged or not, into the reply that says that the asked address is at
/// `mac`. Tags and the frame's length stay as they are. To be sent out of the port it came in by.
///
/// A probe (sender address 0.0.0.0) is answered like any other request, and so is the announcement
/// (sender and target address equal) of an address that is at `mac` and not at the announcer: it learns
/// that the address is taken.
///
/// # Errors
/// The frame is then as it was, to be counted under:
/// - [`DropReason::Consumed`]: it is no request, or the asker itself is at `mac`.
/// - [`DropReason::BadRequest`]: it is no ARP packet for IPv4 over Ethernet, is cut short, or its sender
///   has a MAC address that no one can send a reply to (zero or multicast).
pub fn reply(frame: &mut Frame, mac: [u8; 6]) -> Result<(), DropReason> {
    let head = frame.head_mut();
    let start = match super::ethernet_header(head) {
        Some((start, [8, 6])) => start,
        _ => return Err(DropReason::BadRequest),
    };
    let (ethernet, packet) = head.split_at_mut(start);
    let packet = packet.get_mut(..ARP_BYTES).ok_or(DropReason::BadRequest)?;
    if packet[..6] != ETHERNET_IPV4 {
        return Err(DropReason::BadRequest);
    }
    if packet[6..8] != REQUEST {
        return Err(DropReason::Consumed);
    }
    let mut asker = [0; 6];
    asker.copy_from_slice(&packet[8..14]);
    if !super::is_unicast(asker) {
        return Err(DropReason::BadRequest);
    }
    if asker == mac {
        return Err(DropReason::Consumed);
    }

    packet[6..8].copy_from_slice(&REPLY);
    // Sender and target (MAC and address each) change places, then the sender gets its MAC.
    let (sender, target) = packet[8..].split_at_mut(10);
    sender.swap_with_slice(target);
    sender[..6].copy_from_slice(&mac);
    ethernet[..6].copy_from_slice(&asker);
    ethernet[6..12].copy_from_slice(&mac);
    // No transport header, hence no checksum that a port should complete.
    frame.checksum = Checksum::Unverified;
    frame.gso = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::memory::Memory;
    use crate::packet::pool::Pool;
    use crate::port::PortSlot;
    use etherparse::{EtherType, NetSlice, SlicedPacket};
    use proptest::prelude::*;
    use std::sync::OnceLock;

    const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ANSWER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
    const OWN: [u8; 4] = [10, 0, 0, 1];
    const ASKED: [u8; 4] = [10, 0, 0, 254];

    fn memory() -> &'static Memory {
        static MEMORY: OnceLock<&'static Memory> = OnceLock::new();
        MEMORY.get_or_init(|| Memory::map(1024, 0).unwrap())
    }

    fn request(tags: &[u8], operation: u8, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut bytes = [&[0xff; 6][..], &ASKER, tags, &[8, 6], &ETHERNET_IPV4, &[0, operation]].concat();
        bytes.extend_from_slice(&sender_mac);
        bytes.extend_from_slice(&sender);
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&target);
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    fn answer(bytes: &[u8], mac: [u8; 6]) -> Result<Vec<u8>, DropReason> {
        let mut pool = Pool::new(memory());
        let mut frame = pool.frame(PortSlot::new(0), bytes).unwrap();
        frame.checksum = Checksum::Partial { start: 0, offset: 2 };
        let result = reply(&mut frame, mac);
        let after = frame.to_vec();
        let checksum = frame.checksum;
        pool.free(frame);
        match result {
            Ok(()) => {
                assert_eq!(checksum, Checksum::Unverified);
                Ok(after)
            }
            Err(reason) => {
                assert_eq!(after, bytes, "a refused frame stays as it was");
                Err(reason)
            }
        }
    }

    /// What etherparse reads in a reply: destination and source MAC, sender and target (MAC, address).
    fn read(bytes: &[u8]) -> [Vec<u8>; 6] {
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let etherparse::LinkSlice::Ethernet2(ethernet) = packet.link.unwrap() else { panic!("no Ethernet header") };
        let Some(NetSlice::Arp(arp)) = packet.net else { panic!("no ARP packet") };
        assert_eq!(arp.proto_addr_type(), EtherType::IPV4);
        assert_eq!(arp.operation(), etherparse::ArpOperation::REPLY);
        [
            ethernet.destination().to_vec(),
            ethernet.source().to_vec(),
            arp.sender_hw_addr().to_vec(),
            arp.sender_protocol_addr().to_vec(),
            arp.target_hw_addr().to_vec(),
            arp.target_protocol_addr().to_vec(),
        ]
    }

    #[test]
    fn a_request_becomes_the_reply() {
        let reply = answer(&request(&[], 1, ASKER, OWN, ASKED), ANSWER).unwrap();
        assert_eq!(reply.len(), 60);
        assert_eq!(read(&reply), [&ASKER[..], &ANSWER, &ANSWER, &ASKED, &ASKER, &OWN]);
    }

    #[test]
    fn tags_stay() {
        for tags in [&[0x81, 0, 0x20, 7][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0x60, 9]] {
            let reply = answer(&request(tags, 1, ASKER, OWN, ASKED), ANSWER).unwrap();
            assert_eq!(&reply[12..12 + tags.len()], tags);
            assert_eq!(read(&reply), [&ASKER[..], &ANSWER, &ANSWER, &ASKED, &ASKER, &OWN]);
        }
    }

    #[test]
    fn a_probe_for_another_ones_address_is_answered() {
        let reply = answer(&request(&[], 1, ASKER, [0; 4], ASKED), ANSWER).unwrap();
        assert_eq!(read(&reply), [&ASKER[..], &ANSWER, &ANSWER, &ASKED, &ASKER, &[0; 4]]);
    }

    #[test]
    fn nobody_is_told_that_it_conflicts_with_itself() {
        for sender in [[0; 4], ASKED, OWN] {
            assert_eq!(answer(&request(&[], 1, ASKER, sender, ASKED), ASKER), Err(DropReason::Consumed));
        }
    }

    #[test]
    fn who_announces_a_taken_address_is_told() {
        let reply = answer(&request(&[], 1, ASKER, ASKED, ASKED), ANSWER).unwrap();
        assert_eq!(read(&reply), [&ASKER[..], &ANSWER, &ANSWER, &ASKED, &ASKER, &ASKED]);
    }

    #[test]
    fn what_is_no_request_is_not_answered() {
        for operation in [0, 2, 3, 8] {
            assert_eq!(answer(&request(&[], operation, ASKER, OWN, ASKED), ANSWER), Err(DropReason::Consumed));
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        let good = request(&[], 1, ASKER, OWN, ASKED);
        for cut in 0..14 + ARP_BYTES {
            assert_eq!(answer(&good[..cut], ANSWER), Err(DropReason::BadRequest), "{cut} bytes");
        }
        for position in [12, 14, 15, 16, 18, 19] {
            let mut bad = good.clone();
            bad[position] ^= 0x40;
            assert_eq!(answer(&bad, ANSWER), Err(DropReason::BadRequest), "byte {position}");
        }
        for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            assert_eq!(answer(&request(&[], 1, mac, OWN, ASKED), ANSWER), Err(DropReason::BadRequest));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), mac: [u8; 6]) {
            let _ = answer(&bytes, mac);
            let _ = answer(&[&[0; 12][..], &[8, 6], &ETHERNET_IPV4, &REQUEST, &bytes].concat(), mac);
        }
    }
}
