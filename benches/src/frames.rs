//! Frames of the rig: right checksums, 60 bytes (64 on the wire, with the frame check sequence).

use weft_dataplane::packet::checksum;

/// The five numbers of a UDP flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// IPv4 source.
    pub source: [u8; 4],
    /// IPv4 destination.
    pub destination: [u8; 4],
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
}

impl Flow {
    /// The flow of this number: all four differ.
    #[must_use]
    pub fn number(number: u32) -> Self {
        let [_, high, middle, low] = number.to_be_bytes();
        Self {
            source: [10, 1 + high, middle, low],
            destination: [10, 129 + high, low, middle],
            source_port: 0x8000 | (number % 0x7fff) as u16,
            destination_port: 0x8000 | (number / 7 % 0x7fff) as u16,
        }
    }

    /// A match of exactly this flow, in the text syntax of rules.
    #[must_use]
    pub fn exact(&self) -> String {
        let [source, destination] = [self.source, self.destination].map(std::net::Ipv4Addr::from);
        let Self { source_port, destination_port, .. } = self;
        format!("udp,ip_src={source},ip_dst={destination},udp_src={source_port},udp_dst={destination_port}")
    }

    /// A packet of the flow, in a frame of 60 bytes.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        self.frame_of(60)
    }

    /// Likewise of so many bytes, at least 42.
    #[must_use]
    pub fn frame_of(&self, bytes: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        let ip_length = (bytes - 14) as u16;
        let udp_length = ip_length - 20;
        let mut ip = vec![0x45, 0];
        ip.extend(ip_length.to_be_bytes());
        ip.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(self.source);
        ip.extend(self.destination);
        let sum = checksum::finish(checksum::sum(&ip)).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        frame.extend(ip);
        let mut udp = Vec::new();
        for word in [self.source_port, self.destination_port, udp_length, 0] {
            udp.extend(word.to_be_bytes());
        }
        udp.extend((0..udp_length as usize - 8).map(|byte| byte as u8));
        let pseudo = checksum::pseudo_header4(self.source, self.destination, 17, udp.len());
        let sum = checksum::finish_udp(pseudo + checksum::sum(&udp)).to_be_bytes();
        udp[6..8].copy_from_slice(&sum);
        frame.extend(udp);
        frame
    }
}

/// The frame in a VXLAN packet from 10.99.0.2 to 10.99.0.1.
#[must_use]
pub fn in_vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let outer =
        Flow { source: [10, 99, 0, 2], destination: [10, 99, 0, 1], source_port: 50_000, destination_port: 4789 };
    let mut frame = outer.frame_of(14 + 20 + 8 + 8 + inner.len());
    let [_, vni @ ..] = vni.to_be_bytes();
    frame[40..42].fill(0);
    frame[42..50].copy_from_slice(&[8, 0, 0, 0, vni[0], vni[1], vni[2], 0]);
    frame[50..].copy_from_slice(inner);
    frame
}

/// The items in a random order, the same one each time.
#[must_use]
pub fn shuffled<T>(mut items: Vec<T>) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
    items
}
