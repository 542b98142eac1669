//! Packets of connections, as frames of 60 bytes with right checksums.

use weft_dataplane::packet::checksum::{finish, sum};

/// The stations at ports 1 and 2, and the router between them.
const FIRST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUTER_OF_FIRST: [u8; 6] = [2, 0, 0, 0, 1, 1];
const ROUTER_OF_SECOND: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// One packet.
#[derive(Clone, Copy)]
pub struct Packet {
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub source_port: u16,
    pub destination_port: u16,
    /// Flags, sequence and acknowledgement number; `None`: UDP.
    pub tcp: Option<(u8, u32, u32)>,
}

impl Packet {
    /// Writes it into a frame.
    pub fn write(&self, frame: &mut [u8; 60]) {
        let protocol = if self.tcp.is_some() { 6 } else { 17 };
        *frame = [0; 60];
        frame[..6].copy_from_slice(&self.to);
        frame[6..12].copy_from_slice(&self.from);
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, protocol]);
        frame[26..30].copy_from_slice(&self.source);
        frame[30..34].copy_from_slice(&self.destination);
        let header = finish(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[34..36].copy_from_slice(&self.source_port.to_be_bytes());
        frame[36..38].copy_from_slice(&self.destination_port.to_be_bytes());
        let at = if let Some((flags, sequence, acknowledgement)) = self.tcp {
            frame[38..42].copy_from_slice(&sequence.to_be_bytes());
            frame[42..46].copy_from_slice(&acknowledgement.to_be_bytes());
            frame[46..50].copy_from_slice(&[0x50, flags, 0x72, 0x10]);
            50
        } else {
            frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
            40
        };
        let transport = finish(sum(&frame[26..34]) + u32::from(protocol) + 26 + sum(&frame[34..60]));
        frame[at..at + 2].copy_from_slice(&transport.to_be_bytes());
    }

    /// As a frame.
    pub fn frame(&self) -> [u8; 60] {
        let mut frame = [0; 60];
        self.write(&mut frame);
        frame
    }
}

/// The first packet of connection `number`, and its answer.
pub fn ends(case: &str, number: u32) -> (Packet, Packet) {
    let port = 1024 + (number % 60_000) as u16;
    let host = (number / 60_000) as u8;
    let (inside, outside, external) = ([10, 0, 0, 5 + host], [198, 51, 100, 7], [203, 0, 113, 9 + host]);
    let routed = case.starts_with("full");
    let translated = routed || case.starts_with("snat");
    let forth = Packet {
        to: if routed { ROUTER_OF_FIRST } else { SECOND },
        from: FIRST,
        source: inside,
        destination: outside,
        source_port: port,
        destination_port: 443,
        tcp: None,
    };
    let back = Packet {
        to: if routed { ROUTER_OF_SECOND } else { FIRST },
        from: SECOND,
        source: outside,
        destination: if translated { external } else { inside },
        source_port: 443,
        destination_port: port,
        tcp: None,
    };
    (forth, back)
}

/// The same in another order, the same each time.
pub fn shuffled<T: Clone>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    let mut random = 88_172_645_463_325_252_u64;
    for last in (1..values.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        values.swap(last, (random % (last as u64 + 1)) as usize);
    }
    values
}
