//! The bits of a mask that many masks like it have, too: what rules of access lists share, whose prefixes are of any
//! length and whose ports are matched in any way.
//!
//! Kept are fields that are matched whole and tell packets apart coarsely (ports, the type, registers, MAC addresses),
//! and of addresses whole bytes. If one address of a pair is matched much more closely than the other, it alone.

use crate::flow::key::FlowKey;

/// Bytes of an address that a relaxed mask may have: the rest tells too few rules apart to be worth tuples of its own.
const ADDRESS_BYTES: usize = 3;

/// See the module comment. No more bits than the mask.
pub(super) fn relaxed(mask: &FlowKey) -> FlowKey {
    let mut out = FlowKey::ZERO;
    whole(&mask.in_port, &mut out.in_port);
    whole(&mask.eth_type, &mut out.eth_type);
    whole(&mask.eth_dst, &mut out.eth_dst);
    whole(&mask.eth_src, &mut out.eth_src);
    whole(&mask.arp_op, &mut out.arp_op);
    whole(&mask.tun_id, &mut out.tun_id);
    whole(&mask.tun_src, &mut out.tun_src);
    whole(&mask.metadata, &mut out.metadata);
    whole(&mask.ct_mark, &mut out.ct_mark);
    whole(&mask.nd_target, &mut out.nd_target);
    for (own, relaxed) in mask.registers.iter().zip(&mut out.registers) {
        whole(own, relaxed);
    }
    if mask.vlan_tci == [0x1f, 0xff] {
        out.vlan_tci = mask.vlan_tci;
    }
    pair((&mask.ipv4_src, &mut out.ipv4_src), (&mask.ipv4_dst, &mut out.ipv4_dst), 1);
    pair((&mask.ipv6_src, &mut out.ipv6_src), (&mask.ipv6_dst, &mut out.ipv6_dst), 2);
    out
}

fn whole(mask: &[u8], relaxed: &mut [u8]) {
    if mask.iter().all(|&byte| byte == 0xff) {
        relaxed.fill(0xff);
    }
}

/// Source and destination, in steps of so many bytes.
fn pair(source: (&[u8], &mut [u8]), destination: (&[u8], &mut [u8]), step: usize) {
    let steps = |mask: &[u8]| (mask.iter().take_while(|&&byte| byte == 0xff).count() / step).min(ADDRESS_BYTES);
    let (mut from, mut to) = (steps(source.0), steps(destination.0));
    if from > to + 1 {
        to = 0;
    } else if to > from + 1 {
        from = 0;
    }
    source.1[..from * step].fill(0xff);
    destination.1[..to * step].fill(0xff);
}
