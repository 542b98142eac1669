//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).
//!
//! A *sum* here is a `u32` of big-endian 16-bit words, not yet complemented, possibly with carries in
//! its upper half: sums of pieces may simply be added (up to 65,536 of them) as long as every piece but
//! the last has an even length. [`finish`] makes a checksum of it. A *checksum* stands in a packet and
//! is passed around as its two bytes.
//!
//! Pure functions, called by everything that writes packets. UDP over IPv4 sends "no checksum" as 0,
//! and therefore a computed 0 as 0xffff: see [`finish_udp`].

use super::frame::Frame;

/// The sum of some bytes; an odd last byte counts as if a zero followed. At most 0xffff, and 0 only if
/// all bytes are zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    // One's complement addition does not care about the width of the words or their byte order
    // (RFC 1071, 2): native 64-bit words into wide accumulators, which cannot overflow, folded once.
    let (blocks, tail) = bytes.as_chunks::<16>();
    let (mut first, mut second) = (0_u128, 0_u128);
    for block in blocks {
        let [low, high]: [u64; 2] = zerocopy::transmute!(*block);
        first += u128::from(low);
        second += u128::from(high);
    }
    let (pairs, last) = tail.as_chunks::<2>();
    for pair in pairs {
        first += u128::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        second += u128::from(u16::from_ne_bytes([*byte, 0]));
    }
    let total = first + second;
    // The upper half counts blocks' carries and is small, so two rounds each suffice.
    let total = (total & u128::from(u64::MAX)) + (total >> 64);
    let total = ((total & u128::from(u64::MAX)) + (total >> 64)) as u64;
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    u32::from(u16::from_be_bytes(fold(total as u32).to_ne_bytes()))
}

/// Adds the carries of a sum to its lower 16 bits.
#[must_use]
#[inline]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum of a sum: folded and complemented, to be stored big-endian. The sum over data that
/// holds its right checksum finishes to 0.
#[must_use]
pub fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// Likewise for UDP, where 0 would mean that there is no checksum (RFC 768; RFC 8200, 8.1).
#[must_use]
pub fn finish_udp(sum: u32) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// The sum of a frame's bytes from `from` up to (not including) `to`, through all its segments,
/// whatever their lengths. Bytes beyond the frame's end count nothing.
#[must_use]
pub fn sum_range(frame: &Frame, from: usize, to: usize) -> u32 {
    let (mut position, mut total, mut odd) = (0, 0, false);
    for segment in frame.segments() {
        let begin = from.clamp(position, position + segment.len()) - position;
        let end = to.clamp(position, position + segment.len()) - position;
        position += segment.len();
        if begin >= end {
            continue;
        }
        let part = sum(&segment[begin..end]);
        // After an odd number of bytes the rest lies a byte off, which in one's complement is the
        // same as its sum with the bytes swapped (RFC 1071, 2B).
        total += if odd { u32::from((part as u16).swap_bytes()) } else { part };
        odd ^= (end - begin) % 2 == 1;
    }
    u32::from(fold(total))
}

/// The sum of the pseudo-header before TCP, UDP over IPv4 (RFC 793, 3.1). `length` is that of the
/// transport header and data, bytes.
#[must_use]
pub fn pseudo_header4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: usize) -> u32 {
    sum(&source) + sum(&destination) + u32::from(protocol) + length_sum(length)
}

/// The sum of the pseudo-header before TCP, UDP and ICMPv6 over IPv6 (RFC 8200, 8.1). The destination
/// is the final one if there is a routing header.
#[must_use]
pub fn pseudo_header6(source: &[u8; 16], destination: &[u8; 16], protocol: u8, length: usize) -> u32 {
    sum(source) + sum(destination) + u32::from(protocol) + length_sum(length)
}

fn length_sum(length: usize) -> u32 {
    let length = length as u32;
    (length & 0xffff) + (length >> 16)
}

/// The checksum after a 16-bit word changed from `old` to `new`: RFC 1624, equation 3.
///
/// For UDP over IPv4 the caller leaves a checksum of zero alone, and stores a result of zero as 0xffff.
#[must_use]
#[inline]
pub fn update16(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let [checksum, old, new] = [checksum, old, new].map(|word| u32::from(u16::from_be_bytes(word)));
    (!fold((!checksum & 0xffff) + (!old & 0xffff) + new)).to_be_bytes()
}

/// The checksum after the bytes `old`, at an even position, were replaced by `new`.
///
/// # Panics
/// If the lengths differ or are odd (only in builds with debug assertions).
#[must_use]
#[inline]
pub fn update(checksum: [u8; 2], old: &[u8], new: &[u8]) -> [u8; 2] {
    let before = u32::from(!u16::from_be_bytes(checksum));
    (!exchange(before, old, new)).to_be_bytes()
}

/// The same for the field of a packet whose checksum is `Partial`: it holds the pseudo-header's sum,
/// uncomplemented, which changes with addresses only.
#[must_use]
pub fn update_partial(field: [u8; 2], old: &[u8], new: &[u8]) -> [u8; 2] {
    exchange(u32::from(u16::from_be_bytes(field)), old, new).to_be_bytes()
}

/// What the sum of bytes at an even position grows by when `old` is replaced by `new`; never 0.
#[must_use]
pub fn difference(old: &[u8], new: &[u8]) -> u16 {
    match exchange(0, old, new) {
        0 => 0xffff,
        grown => grown,
    }
}

/// The checksum after the sum of what it covers has grown by so much: [`update`] with what is known before.
#[must_use]
#[inline]
pub fn grown(checksum: [u8; 2], by: u32) -> [u8; 2] {
    (!fold(u32::from(!u16::from_be_bytes(checksum)) + by)).to_be_bytes()
}

/// Likewise [`update_partial`].
#[must_use]
#[inline]
pub fn grown_partial(field: [u8; 2], by: u32) -> [u8; 2] {
    fold(u32::from(u16::from_be_bytes(field)) + by).to_be_bytes()
}

#[inline]
fn exchange(before: u32, old: &[u8], new: &[u8]) -> u16 {
    debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2), "whole words are exchanged for as many");
    fold(before + u32::from(!short_sum(old)) + u32::from(short_sum(new)))
}

/// As [`sum`], for a few words.
#[inline]
fn short_sum(bytes: &[u8]) -> u16 {
    let (words, _) = bytes.as_chunks::<2>();
    fold(words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample;
    use crate::port::PortSlot;
    use proptest::prelude::*;

    /// RFC 1071's definition, word by word.
    fn slow_checksum(bytes: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(finish(sum(&bytes)), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: the case in which RFC 1141's equation gives 0xffff.
        assert_eq!(update16([0xdd, 0x2f], [0x55, 0x55], [0x32, 0x85]), [0x00, 0x00]);
    }

    #[test]
    fn an_empty_sum_and_a_udp_zero() {
        assert_eq!(sum(&[]), 0);
        assert_eq!(finish(0xffff), 0);
        assert_eq!(finish_udp(0xffff), 0xffff);
        assert_eq!(finish_udp(0x1234), !0x1234);
    }

    #[test]
    fn all_ones_do_not_overflow() {
        for length in [1, 2, 15, 16, 17, 9000, 65_535] {
            assert_eq!(finish(sum(&vec![0xff; length])), slow_checksum(&vec![0xff; length]), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn sums_agree_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(finish(sum(&bytes)), slow_checksum(&bytes));
        }

        #[test]
        fn pieces_add_up(bytes in proptest::collection::vec(any::<u8>(), 2..300), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(bytes.len()) & !1;
            prop_assert_eq!(finish(sum(&bytes[..cut]) + sum(&bytes[cut..])), slow_checksum(&bytes));
        }

        #[test]
        fn an_update_equals_a_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 16..64),
            new in proptest::collection::vec(any::<u8>(), 1..7),
            at in 0_usize..4,
        ) {
            // As in every real header, something outside the changed bytes is not zero.
            bytes[0] = 0x45;
            let before = finish(sum(&bytes)).to_be_bytes();
            let new: Vec<u8> = new.iter().flat_map(|&byte| [byte, !byte]).collect();
            let at = 2 + (2 * at).min((bytes.len() - 2 - new.len()) & !1);
            let old = bytes[at..at + new.len()].to_vec();
            bytes[at..at + new.len()].copy_from_slice(&new);
            let after = finish(sum(&bytes)).to_be_bytes();
            prop_assert_eq!(update(before, &old, &new), after);
            // Word by word it is the same.
            let stepwise = old.chunks(2).zip(new.chunks(2)).fold(before, |checksum, (old, new)| {
                update16(checksum, [old[0], old[1]], [new[0], new[1]])
            });
            prop_assert_eq!(stepwise, after);
        }

        #[test]
        fn a_partial_field_follows_the_addresses(
            source: [u8; 4], destination: [u8; 4], new: [u8; 4], length in 20_usize..60_000,
        ) {
            let before = fold(pseudo_header4(source, destination, 6, length)).to_be_bytes();
            let after = fold(pseudo_header4(new, destination, 6, length)).to_be_bytes();
            prop_assert_eq!(update_partial(before, &source, &new), after);
        }

        #[test]
        fn a_pseudo_header_is_the_sum_of_its_bytes(
            source: [u8; 16], destination: [u8; 16], protocol: u8, length in 0_u32..200_000,
        ) {
            let mut bytes = [&source[..], &destination[..], &length.to_be_bytes()].concat();
            bytes.extend([0, 0, 0, protocol]);
            prop_assert_eq!(
                finish(pseudo_header6(&source, &destination, protocol, length as usize)),
                slow_checksum(&bytes)
            );
        }

        #[test]
        fn a_range_of_a_chain_sums_like_its_bytes(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..6),
            from in 0_usize..100,
            length in 0_usize..120,
        ) {
            let mut pool = sample::pool();
            let mut frames = pieces.iter().map(|piece| pool.frame(PortSlot::new(0), piece).unwrap());
            let mut frame = frames.next().unwrap();
            frames.for_each(|next| frame.append(next));
            let bytes = frame.to_vec();
            let (begin, end) = (from.min(bytes.len()), (from + length).min(bytes.len()));
            prop_assert_eq!(finish(sum_range(&frame, from, from + length)), slow_checksum(&bytes[begin..end]));
            pool.free(frame);
        }
    }
}
