//! The virtio-net header (virtio 1.2, 5.1.6) as TAPs and guests speak it: how checksum and
//! segmentation state of a frame cross a boundary that they may be lied about at.
//!
//! Nothing in a header is believed: every position must lie in the frame's first segment, and a frame
//! that claims to be several must look like what it claims. Both sides are little-endian.

use crate::packet::frame::{Checksum, Frame, Gso, GsoKind};

/// Bytes of the header without `num_buffers`, which is all that a TAP needs.
pub const HEADER_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const ETHERNET: usize = 14;
/// Where the checksum field lies in each transport header; also the least length up to it.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// The header contradicts itself or the frame: to be dropped under `Malformed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoherent;

/// What the header says of a frame of `length` bytes, whose first segment is `head`. A frame that
/// claims segments but fits one is given as an ordinary one. `DATA_VALID` is taken for true: a TAP's
/// comes from the kernel; a guest has no business to set it, so clear it there first.
///
/// # Errors
/// Something in it cannot be.
pub fn read(header: &[u8; HEADER_BYTES], head: &[u8], length: usize) -> Result<(Checksum, Option<Gso>), Incoherent> {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let [flags, kind, ..] = *header;
    let (header_length, size, start, offset) = (word(2), word(4), word(6), word(8));
    let checksum = if flags & NEEDS_CHECKSUM != 0 {
        let field_end = usize::from(start) + usize::from(offset) + 2;
        if usize::from(start) < ETHERNET || field_end > head.len() {
            return Err(Incoherent);
        }
        Checksum::Partial { start, offset }
    } else if flags & DATA_VALID != 0 {
        Checksum::Complete
    } else {
        Checksum::Unverified
    };
    let kind = match (kind & !GSO_ECN, kind & GSO_ECN) {
        (GSO_NONE, 0) => return Ok((checksum, None)),
        (GSO_TCP4, _) => GsoKind::Tcp4,
        (GSO_TCP6, _) => GsoKind::Tcp6,
        (GSO_UDP_L4, 0) => GsoKind::Udp,
        _ => return Err(Incoherent),
    };
    // Virtio demands NEEDS_CSUM with segmentation: without it nobody knows where the transport is.
    let Checksum::Partial { start, offset } = checksum else { return Err(Incoherent) };
    if size == 0 || usize::from(header_length) > length {
        return Err(Incoherent);
    }
    let headers = transport_end(kind, head, usize::from(start), offset).ok_or(Incoherent)?;
    let several = length - headers > usize::from(size);
    Ok((checksum, several.then_some(Gso { kind, size, tunnel: 0 })))
}

/// Where the payload begins, if `head` is an Ethernet frame with at most two VLAN tags whose transport
/// header at `start` is of this kind, whole, and has its checksum at `offset`.
fn transport_end(kind: GsoKind, head: &[u8], start: usize, offset: u16) -> Option<usize> {
    let mut network = ETHERNET;
    while network <= ETHERNET + 4 && matches!(head.get(network - 2..network)?, [0x81, 0] | [0x88, 0xa8]) {
        network += 4;
    }
    let (udp, expected) = match kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => (false, TCP_CHECKSUM),
        GsoKind::Udp => (true, UDP_CHECKSUM),
    };
    match (head.get(network - 2..network)?, kind) {
        ([0x08, 0x00], GsoKind::Tcp4 | GsoKind::Udp) => {
            let version = *head.get(network)?;
            let length = usize::from(version & 15) * 4;
            let protocol = *head.get(network + 9)?;
            let right = version >> 4 == 4 && length >= 20 && protocol == if udp { 17 } else { 6 };
            if !right || start != network + length {
                return None;
            }
        }
        // Extension headers may lie between; the segmenter walks them.
        ([0x86, 0xdd], GsoKind::Tcp6 | GsoKind::Udp) => {
            if *head.get(network)? >> 4 != 6 || start < network + 40 {
                return None;
            }
        }
        _ => return None,
    }
    let end = if udp {
        start + 8
    } else {
        let length = usize::from(*head.get(start + 12)? >> 4) * 4;
        if length < 20 {
            return None;
        }
        start + length
    };
    (offset == expected && end <= head.len()).then_some(end)
}

/// Forgets what only a kernel may say: that somebody has verified the checksum. For headers from guests.
pub fn distrust(header: &mut [u8; HEADER_BYTES]) {
    header[0] &= !DATA_VALID;
}

/// Forgets that the first segment carries CWR: for a driver that does not know the bit.
pub fn clear_ecn(header: &mut [u8]) {
    header[1] &= !GSO_ECN;
}

/// The header that tells a TAP or guest what the frame is.
#[must_use]
pub fn write(frame: &Frame) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let head = frame.head();
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    let mut flags = 0;
    let mut kind = GSO_NONE;
    match frame.checksum {
        Checksum::Unverified => {}
        Checksum::Complete => flags = DATA_VALID,
        Checksum::Partial { start, offset } => {
            flags = NEEDS_CHECKSUM;
            put(6, start);
            put(8, offset);
        }
    }
    if let (Some(gso), Checksum::Partial { start, .. }) = (frame.gso, frame.checksum) {
        let start = usize::from(start);
        let (length, congestion) = match gso.kind {
            GsoKind::Udp => (8, 0),
            // The header length, and whether CWR is set: then only the first segment may carry it.
            GsoKind::Tcp4 | GsoKind::Tcp6 => (
                head.get(start + 12).map_or(20, |&byte| usize::from(byte >> 4) * 4),
                head.get(start + 13).map_or(0, |&flags| if flags & 0x80 != 0 { GSO_ECN } else { 0 }),
            ),
        };
        kind = congestion
            | match gso.kind {
                GsoKind::Tcp4 => GSO_TCP4,
                GsoKind::Tcp6 => GSO_TCP6,
                GsoKind::Udp => GSO_UDP_L4,
            };
        put(2, (start + length).min(head.len()) as u16);
        put(4, gso.size);
    }
    header[0] = flags;
    header[1] = kind;
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::memory::Memory;
    use crate::packet::pool::Pool;
    use crate::port::PortSlot;
    use proptest::prelude::*;

    /// Ethernet, IPv4, TCP with CWR, and 3,000 bytes.
    fn segment() -> Vec<u8> {
        let mut frame = vec![0; 54 + 3000];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[46] = 0x50;
        frame[47] = 0x90;
        frame
    }

    fn header(flags: u8, kind: u8, words: [u16; 4]) -> [u8; HEADER_BYTES] {
        let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (place, word) in header[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    const PARTIAL: Checksum = Checksum::Partial { start: 34, offset: 16 };

    #[test]
    fn a_large_segment_is_understood_and_written_as_it_was_read() {
        let bytes = segment();
        let said = header(NEEDS_CHECKSUM, GSO_TCP4 | GSO_ECN, [54, 1448, 34, 16]);
        let gso = Gso { kind: GsoKind::Tcp4, size: 1448, tunnel: 0 };
        assert_eq!(read(&said, &bytes, bytes.len()), Ok((PARTIAL, Some(gso))));
        let mut pool = Pool::new(Memory::map(64, 0).unwrap());
        let mut frame = pool.frame(PortSlot::new(0), &bytes).unwrap();
        (frame.checksum, frame.gso) = (PARTIAL, Some(gso));
        assert_eq!(write(&frame), said);
        (frame.checksum, frame.gso) = (Checksum::Complete, None);
        assert_eq!(write(&frame), header(DATA_VALID, 0, [0; 4]));
        pool.free(frame);
    }

    #[test]
    fn other_kinds_are_understood() {
        let mut tagged = segment();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let (_, gso) = read(&header(1, GSO_TCP4, [58, 1448, 38, 16]), &tagged, tagged.len()).unwrap();
        assert_eq!(gso.unwrap().kind, GsoKind::Tcp4);
        let mut udp = segment();
        udp[23] = 17;
        let (_, gso) = read(&header(1, GSO_UDP_L4, [42, 1000, 34, 6]), &udp, udp.len()).unwrap();
        assert_eq!(gso.unwrap().kind, GsoKind::Udp);
        let mut six = vec![0; 74 + 3000];
        six[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        six[54 + 12] = 0x50;
        let (_, gso) = read(&header(1, GSO_TCP6, [74, 1428, 54, 16]), &six, six.len()).unwrap();
        assert_eq!(gso.unwrap().kind, GsoKind::Tcp6);
        let one = &segment()[..54 + 1448];
        assert_eq!(read(&header(1, GSO_TCP4, [54, 1448, 34, 16]), one, one.len()), Ok((PARTIAL, None)));
        assert_eq!(read(&[0; 10], &[], 0), Ok((Checksum::Unverified, None)));
        assert_eq!(read(&header(DATA_VALID, 0, [0; 4]), one, one.len()), Ok((Checksum::Complete, None)));
    }

    #[test]
    fn lies_are_refused() {
        let bytes = segment();
        let good = header(1, GSO_TCP4, [54, 1448, 34, 16]);
        for (what, lie) in [
            ("checksum before the headers", header(1, 0, [0, 0, 13, 16])),
            ("checksum behind the first segment", header(1, 0, [0, 0, 3050, 3])),
            ("positions that wrap", header(1, 0, [0, 0, u16::MAX, u16::MAX])),
            ("segmentation without a checksum", header(0, GSO_TCP4, [54, 1448, 34, 16])),
            ("segments of nothing", header(1, GSO_TCP4, [54, 0, 34, 16])),
            ("headers longer than the frame", header(1, GSO_TCP4, [4000, 1448, 34, 16])),
            ("IPv6 that is IPv4", header(1, GSO_TCP6, [54, 1448, 34, 16])),
            ("UDP that is TCP", header(1, GSO_UDP_L4, [54, 1448, 34, 6])),
            ("UDP with ECN", header(1, GSO_UDP_L4 | GSO_ECN, [54, 1448, 34, 6])),
            ("the wrong field", header(1, GSO_TCP4, [54, 1448, 34, 6])),
            ("the wrong transport", header(1, GSO_TCP4, [54, 1448, 38, 16])),
            ("old UDP fragmentation", header(1, 3, [54, 1448, 34, 6])),
            ("an unknown kind", header(1, 0x7f, [54, 1448, 34, 16])),
            ("only ECN", header(1, GSO_ECN, [54, 1448, 34, 16])),
        ] {
            assert_eq!(read(&lie, &bytes, bytes.len()), Err(Incoherent), "{what}");
        }
        assert_eq!(read(&good, &bytes[..50], 3054), Err(Incoherent), "headers behind the first segment");
        let mut short = bytes;
        short[46] = 0x40;
        assert_eq!(read(&good, &short, short.len()), Err(Incoherent), "a TCP header of 16 bytes");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_or_point_outside(
            said in any::<[u8; HEADER_BYTES]>(),
            head in proptest::collection::vec(any::<u8>(), 0..200),
            rest in 0usize..70_000,
        ) {
            if let Ok((Checksum::Partial { start, offset }, _)) = read(&said, &head, head.len() + rest) {
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= head.len());
            }
        }

        #[test]
        fn lies_about_a_real_segment_do_not_panic(
            flags in 0u8..4, kind in 0u8..6, words in any::<[u8; 8]>(), head in 0usize..200, length in 0usize..3054,
        ) {
            let mut said = header(flags, kind, [0; 4]);
            said[2..].copy_from_slice(&words);
            let bytes = segment();
            let _ = read(&said, &bytes[..head.min(length)], length);
        }
    }
}
