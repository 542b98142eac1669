//! Network address translation of connections (RFC 3022; behaviour by RFC 4787, 5382 and 5508).
//!
//! - **Endpoint-independent mapping** (RFC 4787, REQ-1): while a connection of an internal address and port
//!   lives, others of the same internal end leave by the same external port, whatever their destination.
//! - **Port preservation and parity** (REQ-3, REQ-4): the internal port if it is free, else a random one of
//!   the same parity (RFC 6056, 3.3.1).
//! - **Stripes.** Worker `w` of `n` uses the ports with `port / 2 ≡ w (mod n)`: no two workers can choose
//!   the same, and each has odd and even ones, so that parity can be kept and RTP and RTCP stay together.
//! - **Uniqueness.** No two connections share (protocol, external address and port, remote address and port).
//!   A port that no other internal end has is preferred; only if none of the tries finds one is a port shared
//!   with other remote ends (REQ-3 forbids that as a habit; here it is what comes before failing).
//! - At most [`NAT_TRIES`] tries, then `NatPortsExhausted`.
//!
//! IPv4 only. Stateless one-to-one translation is made of rules and does not pass here.

use super::tuple::{Tuple, wide};
use crate::drop::DropReason;
use crate::limits::connection::NAT_TRIES;
use foldhash::fast::RandomState;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::net::Ipv4Addr;

/// Which source a connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceNat {
    /// The external address.
    pub address: Ipv4Addr,
    /// The first and last port (or ICMP identifier) that may be used.
    pub ports: (u16, u16),
}

/// What a commit translates; both may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The source: a port is chosen.
    pub source: Option<SourceNat>,
    /// The destination: given. Without a port, the port stays.
    pub destination: Option<(Ipv4Addr, Option<u16>)>,
}

impl Nat {
    /// What it makes of a tuple if every port stays that may.
    #[must_use]
    pub fn of(&self, tuple: &Tuple) -> Tuple {
        let mut out = *tuple;
        if let Some((address, port)) = self.destination {
            out = with_destination(&out, address, port);
        }
        match &self.source {
            Some(source) => with_source(&out, source.address, u16::from_be_bytes(out.source_port)),
            None => out,
        }
    }

    /// Whether a connection that begins with `original` and leaves as `out` could have got that from this.
    #[must_use]
    pub fn explains(&self, original: &Tuple, out: &Tuple) -> bool {
        let port = u16::from_be_bytes(out.source_port);
        let may_choose = |source: &SourceNat| original.has_ports() && (source.ports.0..=source.ports.1).contains(&port);
        let expected = self.of(original);
        match self.source.filter(may_choose) {
            Some(source) => with_source(&expected, source.address, port) == *out,
            None => expected == *out,
        }
    }
}

/// The internal end of a mapping, and the external address it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Internal {
    zone: u32,
    protocol: u8,
    address: [u8; 16],
    port: [u8; 2],
    external: [u8; 16],
}

impl Internal {
    /// Of a connection's original tuple.
    pub fn of(zone: u32, original: &Tuple, external: [u8; 16]) -> Self {
        Self { zone, protocol: original.protocol, address: original.source, port: original.source_port, external }
    }
}

struct Mapping {
    port: u16,
    connections: u32,
}

/// Random numbers that a remote end cannot predict from those it sees: a keyed hash of a counter.
pub(super) struct Random {
    key: std::hash::RandomState,
    seed: Option<u64>,
    counter: Cell<u64>,
}

impl Random {
    /// With a seed they are the same in every run.
    pub fn new(seed: Option<u64>) -> Self {
        Self { key: std::hash::RandomState::new(), seed, counter: Cell::new(0) }
    }

    fn below(&self, limit: u32) -> u32 {
        self.counter.set(self.counter.get().wrapping_add(1));
        let mut hasher = match self.seed {
            Some(seed) => {
                let mut hasher = DefaultHasher::new();
                hasher.write_u64(seed);
                hasher
            }
            None => self.key.build_hasher(),
        };
        hasher.write_u64(self.counter.get());
        // Not exactly uniform: by less than 2^-32.
        ((u128::from(hasher.finish()) * u128::from(limit)) >> 64) as u32
    }
}

/// The mappings of one worker's connections. There are never more than connections.
pub(super) struct Ports {
    mappings: HashMap<Internal, Mapping, RandomState>,
    /// Who has an external (protocol, address, port) for itself.
    holders: HashMap<(u8, [u8; 16], u16), Internal, RandomState>,
    random: Random,
    worker: u32,
    workers: u32,
}

/// What was chosen: the port, and whether the internal end's mapping is (or becomes) this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub port: u16,
    pub mapped: bool,
}

impl Ports {
    pub fn new(worker: u16, workers: u16, random: Random) -> Self {
        assert!(worker < workers, "worker {worker} of {workers}");
        Self {
            mappings: HashMap::default(),
            holders: HashMap::default(),
            random,
            worker: worker.into(),
            workers: workers.into(),
        }
    }

    fn is_own(&self, port: u16) -> bool {
        u32::from(port) / 2 % self.workers == self.worker
    }

    /// A random own port of a range; its parity is that of `like` if the range allows.
    fn random_port(&self, (first, last): (u16, u16), like: u16) -> Option<u16> {
        let (low, high) = (u32::from(first) / 2, u32::from(last) / 2);
        let start = low + (self.worker + self.workers - low % self.workers) % self.workers;
        if start > high {
            return None;
        }
        let pair = start + self.random.below((high - start) / self.workers + 1) * self.workers;
        let port = (pair * 2) as u16 | (like & 1);
        [port, port ^ 1].into_iter().find(|port| (first..=last).contains(port))
    }

    /// Chooses a port for a connection that leaves with tuple `out`, but for the source. Nothing changes.
    /// `is_free` tells whether no connection has this reply tuple.
    pub fn choose(
        &self,
        internal: &Internal,
        out: &Tuple,
        nat: &SourceNat,
        is_free: impl Fn(&Tuple) -> bool,
    ) -> Result<Choice, DropReason> {
        let free = |port: u16| is_free(&with_source(out, nat.address, port).inverse());
        let inside = u16::from_be_bytes(out.source_port);
        let range = nat.ports.0..=nat.ports.1;
        let mapping = self.mappings.get(internal);
        if let Some(mapping) = mapping.filter(|mapping| range.contains(&mapping.port) && free(mapping.port)) {
            return Ok(Choice { port: mapping.port, mapped: true });
        }
        // An end that has a mapping which cannot serve keeps it; this connection gets a port apart.
        let mapped = mapping.is_none();
        let mut shared = None;
        for attempt in 0..NAT_TRIES {
            let port = if attempt == 0 {
                Some(inside).filter(|port| range.contains(port) && self.is_own(*port))
            } else {
                self.random_port(nat.ports, inside)
            };
            let Some(port) = port.filter(|&port| free(port)) else { continue };
            match self.holders.get(&(out.protocol, internal.external, port)) {
                None => return Ok(Choice { port, mapped }),
                Some(holder) if holder.zone == internal.zone => shared = shared.or(Some(port)),
                Some(_) => {}
            }
        }
        shared.map(|port| Choice { port, mapped }).ok_or(DropReason::NatPortsExhausted)
    }

    /// Whether the internal end has a mapping.
    pub fn has(&self, internal: &Internal) -> bool {
        self.mappings.contains_key(internal)
    }

    /// The port that the internal end is mapped to.
    pub fn port(&self, internal: &Internal) -> Option<u16> {
        self.mappings.get(internal).map(|mapping| mapping.port)
    }

    /// One more connection uses the internal end's mapping, which is to `port`.
    pub fn take(&mut self, internal: Internal, port: u16) {
        self.mappings.entry(internal).or_insert(Mapping { port, connections: 0 }).connections += 1;
        self.holders.entry((internal.protocol, internal.external, port)).or_insert(internal);
    }

    /// One fewer. Gives whether the mapping ended with it.
    pub fn release(&mut self, internal: &Internal) -> bool {
        let Some(mapping) = self.mappings.get_mut(internal) else { return false };
        mapping.connections -= 1;
        if mapping.connections > 0 {
            return false;
        }
        let holder = (internal.protocol, internal.external, mapping.port);
        if self.holders.get(&holder) == Some(internal) {
            self.holders.remove(&holder);
        }
        self.mappings.remove(internal);
        true
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.mappings.len()
    }
}

/// The tuple with another source; an ICMP query's identifier is in both ports.
pub(super) fn with_source(tuple: &Tuple, address: Ipv4Addr, port: u16) -> Tuple {
    let mut changed = Tuple { source: wide(address), ..*tuple };
    if tuple.has_ports() {
        changed.source_port = port.to_be_bytes();
    }
    if tuple.is_icmp() {
        changed.destination_port = changed.source_port;
    }
    changed
}

/// The tuple with another destination.
pub(super) fn with_destination(tuple: &Tuple, address: Ipv4Addr, port: Option<u16>) -> Tuple {
    let mut changed = Tuple { destination: wide(address), ..*tuple };
    if let Some(port) = port.filter(|_| tuple.has_ports() && !tuple.is_icmp()) {
        changed.destination_port = port.to_be_bytes();
    }
    changed
}
