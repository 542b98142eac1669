//! The traffic of a case: frames in a recording, the same file for every switch.
//!
//! Frames are the shortest that Ethernet knows (60 bytes without their checksum), UDP over IPv4, checksums right,
//! unless they are in a tunnel. Which flow sends which frame is decided by a generator with a fixed seed: every
//! run has the same traffic.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;

/// Bytes of a frame that is not in a tunnel.
pub const FRAME: usize = 60;

/// MAC address of everybody who sends.
pub const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
/// MAC address of everybody who is sent to: in cases that route, the router's.
pub const DESTINATION_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
/// MAC address of the switch's end of a tunnel.
pub const TUNNEL_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 0x01];
/// MAC address of the other end.
pub const REMOTE_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 0x02];
/// Address of the switch's end of a tunnel.
pub const TUNNEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Address of the other end.
pub const REMOTE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Key of the tunnel.
pub const TUNNEL_KEY: u32 = 7;

/// Who talks to whom: UDP over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
}

impl Flow {
    /// The flow of this number: all five fields differ from flow to flow, within 10.0.0.0/10 and 10.64.0.0/10, ports
    /// from 1024 to 32767 and from 4096 to 8191.
    pub fn number(number: u32) -> Self {
        let address = |network: u32, host: u32| Ipv4Addr::from(network + (host & 0x003f_ffff));
        Self {
            source: address(0x0a00_0000, number + 1),
            destination: address(0x0a40_0000, number.wrapping_mul(2_654_435_761) >> 12),
            source_port: 1024 + (number.wrapping_mul(7919) % 31_744) as u16,
            destination_port: 4096 + (number.wrapping_mul(31) % 4096) as u16,
        }
    }

    /// Its answers.
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    /// A frame of it.
    pub fn frame(self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME);
        frame.extend(DESTINATION_MAC);
        frame.extend(SOURCE_MAC);
        frame.extend([0x08, 0]);
        self.packet(&mut frame, &[0; FRAME - 42]);
        frame
    }

    /// Appends the IP packet with this payload.
    fn packet(self, to: &mut Vec<u8>, payload: &[u8]) {
        let datagram = (8 + payload.len()) as u16;
        let mut header = [0u8; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(20 + datagram).to_be_bytes());
        (header[8], header[9]) = (64, 17);
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        let checksum = !sum(&header, 0);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        to.extend(header);
        let mut udp = Vec::with_capacity(datagram.into());
        udp.extend(self.source_port.to_be_bytes());
        udp.extend(self.destination_port.to_be_bytes());
        udp.extend(datagram.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        // RFC 768: addresses, protocol and length are summed too; a result of 0 is sent as 0xffff.
        let pseudo = u32::from(sum(&header[12..20], 0)) + 17 + u32::from(datagram);
        let checksum = match !sum(&udp, pseudo) {
            0 => 0xffff,
            checksum => checksum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        to.extend(udp);
    }

    /// A frame of it in VXLAN (RFC 7348), on its way to the switch's end of the tunnel. The outer port follows from the
    /// flow, and there is no outer checksum, as usual.
    pub fn in_vxlan(self) -> Vec<u8> {
        let inner = self.frame();
        let mut payload = vec![0x08, 0, 0, 0];
        payload.extend((TUNNEL_KEY << 8).to_be_bytes());
        payload.extend(inner);
        let outer = Self {
            source: REMOTE_ADDRESS,
            destination: TUNNEL_ADDRESS,
            source_port: 0xc000 | (self.source_port ^ self.destination_port) & 0x3fff,
            destination_port: 4789,
        };
        let mut frame = Vec::new();
        frame.extend(TUNNEL_MAC);
        frame.extend(REMOTE_MAC);
        frame.extend([0x08, 0]);
        outer.packet(&mut frame, &payload);
        frame[40..42].fill(0);
        frame
    }
}

/// One's complement sum of 16-bit words (RFC 1071), not complemented.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum = words.fold(start, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Puts frames in a random order, the same in every run (Fisher and Yates; SplitMix64).
pub fn shuffle<T>(all: &mut [T]) {
    let mut state = 0x5eed_u64;
    for index in (1..all.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = state;
        random = (random ^ random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ random >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        random ^= random >> 31;
        all.swap(index, (random % (index as u64 + 1)) as usize);
    }
}

/// Writes a recording.
pub fn write(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        // Version 2.4, microseconds, Ethernet.
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        for frame in frames {
            for word in [0, 0, frame.len() as u32, frame.len() as u32] {
                file.write_all(&word.to_le_bytes())?;
            }
            file.write_all(frame)?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_and_flows_differ() {
        let frame = Flow::number(77).frame();
        assert_eq!(frame.len(), FRAME);
        assert_eq!(sum(&frame[14..34], 0), 0xffff);
        let pseudo = u32::from(sum(&frame[26..34], 0)) + 17 + 26;
        assert_eq!(sum(&frame[34..], pseudo), 0xffff);
        let wrapped = Flow::number(77).in_vxlan();
        assert_eq!((wrapped.len(), sum(&wrapped[14..34], 0)), (110, 0xffff));
        assert_eq!(wrapped[50..], frame);
        let mut sources: Vec<_> = (0..200_000).map(|number| Flow::number(number).source).collect();
        sources.dedup();
        assert_eq!(sources.len(), 200_000);
        assert_eq!(Flow::number(5).reversed().reversed(), Flow::number(5));
    }

    #[test]
    fn a_shuffle_moves_all_and_loses_none() {
        let mut all: Vec<u32> = (0..1000).collect();
        shuffle(&mut all);
        assert!(all.iter().enumerate().filter(|(index, number)| *index as u32 == **number).count() < 20);
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }
}
