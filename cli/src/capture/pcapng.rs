//! Writes pcapng (draft-ietf-opsawg-pcapng): one section, an interface block for each port, a block for each frame,
//! at the end a block of statistics for each interface. Little-endian, timestamps in microseconds, Ethernet.
//!
//! Knows nothing of switches: what stands in comments is the caller's.

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

/// Options; the first stands in any block.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_TEXT: u16 = 3;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_DROPPED: u16 = 5;
const STATISTICS_DELIVERED: u16 = 8;

/// Longest text of an option, bytes: its length has 16 bits.
const OPTION_BYTES: usize = 65_535;

/// Which way a frame went, as the packet flags say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The interface received it.
    Inbound = 1,
    /// The interface sent it.
    Outbound = 2,
}

/// A frame to be written.
pub struct Packet<'a> {
    /// Index of its interface: they are numbered as they were added, from 0.
    pub interface: u32,
    /// Microseconds since 1970.
    pub time: u64,
    /// Bytes before it was cut.
    pub length: u32,
    /// The bytes that there are.
    pub bytes: &'a [u8],
    /// Which way.
    pub direction: Direction,
    /// What is to be said about it.
    pub comments: &'a [String],
}

/// A file that is being written.
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    pub fn begin(out: W) -> io::Result<Self> {
        let mut writer = Self { out };
        let mut body = Body::default();
        body.word(BYTE_ORDER);
        // Version 1.0; of unknown length.
        body.0.extend([1, 0, 0, 0]);
        body.0.extend([0xff; 8]);
        body.option(APPLICATION, concat!("weft ", env!("CARGO_PKG_VERSION")).as_bytes());
        body.end_of_options();
        writer.block(SECTION_HEADER, &body)?;
        Ok(writer)
    }

    /// Describes the next interface; `snap`: bytes kept of each frame, 0: all.
    pub fn interface(&mut self, name: &str, text: &str, snap: u32) -> io::Result<()> {
        let mut body = Body::default();
        body.0.extend(ETHERNET.to_le_bytes());
        body.0.extend([0; 2]);
        body.word(snap);
        body.option(INTERFACE_NAME, name.as_bytes());
        body.option(INTERFACE_TEXT, text.as_bytes());
        body.end_of_options();
        self.block(INTERFACE_DESCRIPTION, &body)
    }

    /// Writes a frame.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Body::default();
        body.word(packet.interface);
        body.time(packet.time);
        body.word(packet.bytes.len() as u32);
        body.word(packet.length);
        body.padded(packet.bytes);
        packet.comments.iter().for_each(|comment| body.option(COMMENT, comment.as_bytes()));
        body.option(PACKET_FLAGS, &(packet.direction as u32).to_le_bytes());
        body.end_of_options();
        self.block(ENHANCED_PACKET, &body)
    }

    /// Writes what an interface delivered in all, and what was lost on the way.
    pub fn statistics(&mut self, interface: u32, time: u64, delivered: u64, lost: u64) -> io::Result<()> {
        let mut body = Body::default();
        body.word(interface);
        body.time(time);
        if lost > 0 {
            body.option(COMMENT, format!("{lost} more frames found no room on the way into this file").as_bytes());
        }
        body.option(STATISTICS_DROPPED, &lost.to_le_bytes());
        body.option(STATISTICS_DELIVERED, &delivered.to_le_bytes());
        body.end_of_options();
        self.block(INTERFACE_STATISTICS, &body)
    }

    /// Hands what was written to who reads.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn block(&mut self, kind: u32, body: &Body) -> io::Result<()> {
        let length = (body.0.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length)?;
        self.out.write_all(&body.0)?;
        self.out.write_all(&length)
    }
}

/// What stands between a block's lengths; always whole words.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn word(&mut self, word: u32) {
        self.0.extend(word.to_le_bytes());
    }

    fn time(&mut self, microseconds: u64) {
        self.word((microseconds >> 32) as u32);
        self.word(microseconds as u32);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(OPTION_BYTES)];
        self.0.extend(code.to_le_bytes());
        self.0.extend((value.len() as u16).to_le_bytes());
        self.padded(value);
    }

    fn end_of_options(&mut self) {
        self.word(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a file: type and body.
    fn blocks(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut blocks) = (0, Vec::new());
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert!(length.is_multiple_of(4), "block at {at}");
            assert_eq!(word(at + length - 4) as usize, length, "both lengths of the block at {at}");
            blocks.push((word(at), file[at + 8..at + length - 4].to_vec()));
            at += length;
        }
        blocks
    }

    #[test]
    fn blocks_are_whole_words_whatever_is_in_them() {
        let mut writer = Writer::begin(Vec::new()).unwrap();
        writer.interface("vm1", "port 7", 0).unwrap();
        for length in 0..9_u8 {
            let bytes: Vec<u8> = (0..length).collect();
            let comments = ["x".repeat(length.into())];
            let packet = Packet {
                interface: 0,
                time: 0x1_0000_0002,
                length: 60,
                bytes: &bytes,
                direction: Direction::Outbound,
                comments: &comments,
            };
            writer.packet(&packet).unwrap();
        }
        writer.statistics(0, 5, 9, 3).unwrap();
        let blocks = blocks(&writer.out);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds[..2], [SECTION_HEADER, INTERFACE_DESCRIPTION]);
        assert_eq!((kinds.len(), kinds[11]), (12, INTERFACE_STATISTICS));
        let (_, packet) = &blocks[7];
        // Interface, time (high, low), captured, length; 5 bytes and padding.
        assert_eq!(packet[..20], [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 60, 0, 0, 0]);
        assert_eq!(packet[20..28], [0, 1, 2, 3, 4, 0, 0, 0]);
        assert_eq!(packet[28..40], [1, 0, 5, 0, b'x', b'x', b'x', b'x', b'x', 0, 0, 0]);
        assert_eq!(packet[40..], [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
