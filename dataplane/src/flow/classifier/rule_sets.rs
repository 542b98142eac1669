//! Rule sets like those that ClassBench (Taylor and Turner, IEEE/ACM ToN 2007) makes from real ones, and packets for
//! them: access lists, firewalls, and chains of a host's packet filter. They differ in how closely addresses and ports
//! are matched. Port ranges become masks, as they must in OpenFlow. The same seed gives the same set.

use crate::flow::key::FlowKey;
use crate::flow::matched::Match;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Close addresses, destination ports.
    AccessList,
    /// Many wildcards, ranges of ports.
    Firewall,
    /// Something of both.
    Chain,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::AccessList, Self::Firewall, Self::Chain];

    /// Prefix lengths with their weights: of sources, and of destinations.
    fn lengths(self) -> [&'static [(u8, u32)]; 2] {
        match self {
            Self::AccessList => [
                &[
                    (0, 8),
                    (8, 1),
                    (12, 1),
                    (16, 6),
                    (19, 2),
                    (20, 3),
                    (22, 4),
                    (23, 3),
                    (24, 22),
                    (25, 3),
                    (26, 4),
                    (27, 5),
                    (28, 6),
                    (30, 4),
                    (32, 28),
                ],
                &[
                    (0, 1),
                    (16, 3),
                    (18, 1),
                    (20, 2),
                    (21, 2),
                    (22, 4),
                    (24, 20),
                    (25, 4),
                    (26, 5),
                    (27, 6),
                    (28, 7),
                    (29, 4),
                    (30, 5),
                    (31, 2),
                    (32, 34),
                ],
            ],
            Self::Firewall => [
                &[(0, 45), (8, 2), (14, 1), (16, 5), (17, 1), (20, 2), (22, 2), (24, 12), (27, 3), (28, 3), (32, 24)],
                &[(0, 30), (8, 1), (15, 1), (16, 4), (19, 1), (22, 2), (24, 12), (26, 3), (28, 4), (30, 3), (32, 39)],
            ],
            Self::Chain => [
                &[
                    (0, 20),
                    (8, 2),
                    (11, 1),
                    (16, 6),
                    (18, 2),
                    (21, 3),
                    (23, 3),
                    (24, 18),
                    (26, 3),
                    (28, 4),
                    (29, 2),
                    (32, 36),
                ],
                &[
                    (0, 14),
                    (8, 1),
                    (13, 1),
                    (16, 5),
                    (17, 1),
                    (20, 3),
                    (23, 4),
                    (24, 18),
                    (25, 3),
                    (27, 4),
                    (28, 4),
                    (31, 2),
                    (32, 40),
                ],
            ],
        }
    }

    /// Of a hundred rules: how many match any destination port, how many a range. The rest match one.
    fn ports(self) -> (u32, u32) {
        match self {
            Self::AccessList => (25, 15),
            Self::Firewall => (30, 40),
            Self::Chain => (45, 15),
        }
    }
}

const RANGES: [(u16, u16); 8] =
    [(1024, 65535), (0, 1023), (6000, 6063), (5000, 5010), (137, 139), (8080, 8090), (20, 21), (33434, 33600)];
const PORTS: [u16; 12] = [80, 443, 25, 53, 22, 110, 143, 389, 1433, 1521, 3306, 8080];

/// See the module comment.
pub(super) struct RuleSet {
    /// Priority and match, the highest priority first.
    pub rules: Vec<(u16, Match)>,
    random: u64,
}

impl RuleSet {
    pub fn new(kind: Kind, count: usize, seed: u64) -> Self {
        let mut set = Self { rules: Vec::new(), random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 };
        let mut networks: Vec<u32> = (0..200).map(|_| set.next() as u32).collect();
        let mut known = std::collections::HashSet::new();
        while set.rules.len() < count {
            let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
            (value.eth_type, mask.eth_type) = ([8, 0], [0xff; 2]);
            let [source, destination] = kind.lengths().map(|lengths| set.pick(lengths));
            (value.ipv4_src, mask.ipv4_src) = set.prefix(&mut networks, source);
            (value.ipv4_dst, mask.ipv4_dst) = set.prefix(&mut networks, destination);
            let protocol = set.pick(&[(6, 70), (17, 20), (1, 4), (0, 6)]);
            let mut ports = vec![(0, 0)];
            if protocol != 0 {
                (value.ip_proto, mask.ip_proto) = (protocol, 0xff);
            }
            if protocol == 6 || protocol == 17 {
                let (any, range) = kind.ports();
                match set.below(100) {
                    one if one < any => {}
                    one if one < any + range => ports = masks(RANGES[set.below(8) as usize]),
                    one if one < 90 => ports = vec![(PORTS[set.below(12) as usize], u16::MAX)],
                    _ => ports = vec![(set.next() as u16, u16::MAX)],
                }
            }
            for (port, bits) in ports {
                (value.l4_dst, mask.l4_dst) = (port.to_be_bytes(), bits.to_be_bytes());
                let matched = Match::new(&value, &mask);
                if known.insert(matched.clone()) && set.rules.len() < count {
                    let priority = u16::MAX - (set.rules.len() * usize::from(u16::MAX) / count) as u16;
                    set.rules.push((priority, matched));
                }
            }
        }
        set
    }

    pub fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub fn below(&mut self, limit: u32) -> u32 {
        (self.next() >> 32) as u32 % limit
    }

    fn pick(&mut self, weighted: &[(u8, u32)]) -> u8 {
        let mut left = self.below(weighted.iter().map(|(_, weight)| weight).sum());
        for &(value, weight) in weighted {
            if left < weight {
                return value;
            }
            left -= weight;
        }
        unreachable!("less than the sum of the weights")
    }

    /// Of a network that other rules name, too, more often than not.
    fn prefix(&mut self, networks: &mut Vec<u32>, length: u8) -> ([u8; 4], [u8; 4]) {
        let mut address = networks[self.below(networks.len() as u32) as usize];
        match self.below(4) {
            0 => address ^= self.next() as u32 & 0xffff,
            1 | 2 => address ^= self.next() as u32 & 0xff,
            _ => {}
        }
        if self.below(50) == 0 && networks.len() < 5000 {
            networks.push(self.random as u32);
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        ((address & mask).to_be_bytes(), mask.to_be_bytes())
    }

    /// A packet that some rule matches, but for one in eight.
    pub fn packet(&mut self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        (key.in_port, key.eth_type, key.ip_ttl) = ([0, 0, 0, 1], [8, 0], 64);
        key.ip_proto = [6, 17][self.below(2) as usize];
        key.ipv4_src = (self.next() as u32).to_be_bytes();
        key.ipv4_dst = (self.next() as u32).to_be_bytes();
        key.l4_src = (self.next() as u16).to_be_bytes();
        key.l4_dst = PORTS[self.below(12) as usize].to_be_bytes();
        if self.below(8) > 0 {
            let rule = self.below(self.rules.len() as u32) as usize;
            for (index, mask, value) in self.rules[rule].1.words() {
                let word = &mut key.words_mut()[index];
                *word = *word & !mask | value;
            }
        }
        key
    }
}

/// Values and masks that make up a range.
fn masks((first, last): (u16, u16)) -> Vec<(u16, u16)> {
    let (mut at, last) = (u32::from(first), u32::from(last));
    let mut all = Vec::new();
    while at <= last {
        let mut size = if at == 0 { 65_536 } else { 1 << at.trailing_zeros() };
        while at + size - 1 > last {
            size /= 2;
        }
        all.push((at as u16, !(size - 1) as u16));
        at += size;
    }
    all
}
