//! Virtual reassembly of IPv4: which fragments belong together, so that all of a datagram fare like its first,
//! though only that one has ports. Nothing is put together here: fragments go on as they are.
//!
//! - The *first fragment* decides: what `ct` made of it is remembered under (zone, addresses, protocol,
//!   identification) ([`Fragments::note`]) and lent to the later ones ([`Fragments::look`]).
//! - Those that come *early* wait for it ([`Waiting`], which the worker keeps), a second at most.
//! - What overlaps another fragment only in part ends its datagram (RFC 1858, 3; RFC 5722, 4): whichever copy a
//!   receiver prefers, it could be the one that no rule saw. A mere repetition is dropped alone. That a first
//!   fragment holds its whole transport header, and that nothing begins within TCP's, the parser has seen to
//!   (RFC 1858, 2; RFC 3128).
//! - A datagram is forgotten when it is complete, so that its identification may come again at once, or when
//!   nothing of it has come for a second.
//!
//! Invariants: what one port brings takes at most that port's share (`limits::fragment`), both here and
//! waiting. `look` changes nothing, so that a walk may be a trace; `note` comes to the same verdict.
//!
//! IPv6's fragments are not followed: to `ct` the later ones are invalid.

use super::protocol::Transport;
use super::tuple::Tuple;
use crate::drop::DropReason;
use crate::flow::key::FlowKey;
use crate::limits::fragment as limits;
use crate::packet::header::{Ipv4, eth_type, view};
use crate::packet::parse::{Layout, WHOLE};
use std::collections::HashMap;

#[cfg(test)]
mod tests;

/// What fragments of one datagram have in common (RFC 791, 2.3), in one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// The zone.
    pub zone: u32,
    /// Source address, as `ct` sees it.
    pub source: [u8; 4],
    /// Destination address, likewise.
    pub destination: [u8; 4],
    /// IP protocol.
    pub protocol: u8,
    /// Identification.
    pub identification: u16,
}

/// Where a fragment stands in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification.
    pub identification: u16,
    /// Bytes of the datagram's payload before it.
    pub offset: u32,
    /// Bytes of it.
    pub length: u32,
    /// Whether more follow.
    pub more: bool,
}

impl Fragment {
    /// Reads it off a frame that was parsed to this key and layout; `None` if it is no fragment of IPv4.
    #[must_use]
    pub fn read(head: &[u8], key: &FlowKey, layout: &Layout) -> Option<Self> {
        if key.ip_frag == WHOLE || key.eth_type != eth_type::IPV4.to_be_bytes() {
            return None;
        }
        let ip: &Ipv4 = view(head, layout.l3.into())?;
        Some(Self {
            identification: ip.identification.get(),
            offset: u32::from(ip.fragment.get() & Ipv4::OFFSET_MASK) * 8,
            length: u32::from(ip.total_length.get()).checked_sub(ip.header_bytes() as u32)?,
            more: ip.fragment.get() & Ipv4::MORE_FRAGMENTS != 0,
        })
    }

    fn end(&self) -> u32 {
        self.offset + self.length
    }
}

/// What the first fragment tells of all.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// As in the key: ports, or ICMP's type and code.
    pub ports: [[u8; 2]; 2],
    /// As in the key.
    pub icmp_identifier: [u8; 2],
    /// As in the key.
    pub tcp_flags: [u8; 2],
    /// Its transport header.
    pub transport: Transport,
    /// Of an ICMP error: the tuple of the packet it quotes.
    pub quoted: Option<Tuple>,
}

/// A fragment that a walk saw: what [`Fragments::note`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Of which datagram.
    pub datagram: Datagram,
    /// Where in it.
    pub fragment: Fragment,
    /// The port it came in by, by number: whose share it takes.
    pub in_port: u32,
    /// Set for a first fragment.
    pub first: Option<First>,
}

/// What a fragment is to its datagram.
#[derive(Clone, Copy, Debug)]
pub enum Standing {
    /// It goes on, as the first one does (or did).
    Follows(First),
    /// The first one has not come yet.
    Early,
    /// It is to be dropped.
    Refused(DropReason),
}

struct State {
    first: First,
    in_port: u32,
    /// Payload that has passed, as begin and end: disjoint, not touching, in order.
    passed: Vec<(u32, u32)>,
    /// Bytes of the whole payload, once known.
    total: Option<u32>,
    /// Something overlapped.
    ended: bool,
    deadline: u64,
}

/// See the module comment.
#[derive(Default)]
pub struct Fragments {
    datagrams: HashMap<Datagram, State, foldhash::fast::RandomState>,
    /// Datagrams by port.
    ports: HashMap<u32, usize>,
}

enum Verdict {
    Passes,
    /// Dropped alone.
    Refused(DropReason),
    /// And its datagram is ended.
    Ends(DropReason),
}

/// Whether it can be a fragment (RFC 791, 3.2): each but the last fills units of eight bytes.
fn is_sound(fragment: &Fragment) -> bool {
    fragment.length > 0 && fragment.end() <= 0xffff && (!fragment.more || fragment.length.is_multiple_of(8))
}

impl State {
    fn judge(&self, fragment: &Fragment) -> Verdict {
        if self.ended {
            return Verdict::Refused(DropReason::FragmentOverlap);
        }
        if !is_sound(fragment) {
            return Verdict::Ends(DropReason::Malformed);
        }
        let (begin, end) = (fragment.offset, fragment.end());
        let last = self.passed.last().map_or(0, |passed| passed.1);
        let contradicts = match self.total {
            Some(total) => end > total || (!fragment.more && end != total),
            None => !fragment.more && last > end,
        };
        if contradicts {
            return Verdict::Ends(DropReason::FragmentOverlap);
        }
        if self.passed.iter().any(|&(from, to)| from <= begin && end <= to) {
            return Verdict::Refused(DropReason::FragmentOverlap);
        }
        if self.passed.iter().any(|&(from, to)| begin < to && from < end) {
            return Verdict::Ends(DropReason::FragmentOverlap);
        }
        let adjoins = self.passed.iter().any(|&(from, to)| from == end || to == begin);
        if self.passed.len() > limits::GAPS && !adjoins {
            return Verdict::Refused(DropReason::FragmentLimit);
        }
        Verdict::Passes
    }

    /// Takes note of a fragment that passes; true if the datagram is complete.
    fn pass(&mut self, fragment: &Fragment) -> bool {
        if !fragment.more {
            self.total = Some(fragment.end());
        }
        let at = self.passed.partition_point(|&(begin, _)| begin < fragment.offset);
        self.passed.insert(at, (fragment.offset, fragment.end()));
        self.passed.dedup_by(|later, earlier| {
            let touch = earlier.1 == later.0;
            if touch {
                earlier.1 = later.1;
            }
            touch
        });
        matches!((&*self.passed, self.total), (&[(0, end)], Some(total)) if end == total)
    }
}

impl Fragments {
    fn live(&self, datagram: &Datagram, now: u64) -> Option<&State> {
        self.datagrams.get(datagram).filter(|state| state.deadline > now)
    }

    fn has_room(&self, in_port: u32) -> bool {
        self.datagrams.len() < limits::DATAGRAMS
            && self.ports.get(&in_port).is_none_or(|&count| count < limits::DATAGRAMS_PER_PORT)
    }

    /// What becomes of a fragment; nothing changes.
    #[must_use]
    pub fn look(&self, seen: &Seen, now: u64) -> Standing {
        match (self.live(&seen.datagram, now), seen.first) {
            (Some(state), _) => match state.judge(&seen.fragment) {
                Verdict::Passes => Standing::Follows(state.first),
                Verdict::Refused(reason) | Verdict::Ends(reason) => Standing::Refused(reason),
            },
            (None, _) if !is_sound(&seen.fragment) => Standing::Refused(DropReason::Malformed),
            (None, None) => Standing::Early,
            // One that stands for a datagram past its deadline takes its place.
            (None, Some(first)) if self.datagrams.contains_key(&seen.datagram) || self.has_room(seen.in_port) => {
                Standing::Follows(first)
            }
            (None, Some(_)) => Standing::Refused(DropReason::FragmentLimit),
        }
    }

    /// Remembers a fragment that was looked at, whatever its standing. True if it makes its datagram known, so
    /// that those that wait for it can go on.
    pub fn note(&mut self, seen: &Seen, now: u64) -> bool {
        let mut begins = false;
        if self.live(&seen.datagram, now).is_none() {
            self.forget(&seen.datagram);
            let Some(first) = seen.first.filter(|_| self.has_room(seen.in_port) && is_sound(&seen.fragment)) else {
                return false;
            };
            begins = true;
            *self.ports.entry(seen.in_port).or_default() += 1;
            let state =
                State { first, in_port: seen.in_port, passed: Vec::new(), total: None, ended: false, deadline: 0 };
            self.datagrams.insert(seen.datagram, state);
        }
        let Some(state) = self.datagrams.get_mut(&seen.datagram) else { return false };
        match state.judge(&seen.fragment) {
            Verdict::Passes => {
                state.deadline = now + limits::PATIENCE;
                if state.pass(&seen.fragment) {
                    self.forget(&seen.datagram);
                }
            }
            Verdict::Refused(_) => {}
            Verdict::Ends(_) => state.ended = true,
        }
        begins
    }

    fn forget(&mut self, datagram: &Datagram) {
        let Some(state) = self.datagrams.remove(datagram) else { return };
        if let Some(count) = self.ports.get_mut(&state.in_port) {
            *count -= 1;
            if *count == 0 {
                self.ports.remove(&state.in_port);
            }
        }
    }

    /// Forgets datagrams of which nothing has come in time.
    pub fn expire(&mut self, now: u64) {
        let past: Vec<Datagram> =
            self.datagrams.iter().filter(|(_, state)| state.deadline <= now).map(|(datagram, _)| *datagram).collect();
        past.iter().for_each(|datagram| self.forget(datagram));
    }

    /// Datagrams now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }
}

struct Held<T> {
    what: T,
    in_port: u32,
    bytes: usize,
    deadline: u64,
}

/// Early fragments, of whatever kind their owner keeps them as.
pub struct Waiting<T> {
    held: HashMap<Datagram, Vec<Held<T>>, foldhash::fast::RandomState>,
    /// Fragments and bytes of each port, and of all.
    ports: HashMap<u32, (usize, usize)>,
    all: (usize, usize),
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { held: HashMap::default(), ports: HashMap::new(), all: (0, 0) }
    }
}

impl<T> Waiting<T> {
    /// Keeps a fragment of so many bytes.
    ///
    /// # Errors
    /// The fragment, if its port has its share waiting, or all together as much as may.
    pub fn hold(&mut self, seen: &Seen, what: T, bytes: usize, now: u64) -> Result<(), T> {
        let port = self.ports.get(&seen.in_port).copied().unwrap_or_default();
        if port.0 >= limits::EARLY_PER_PORT
            || port.1 + bytes > limits::EARLY_BYTES_PER_PORT
            || self.all.0 >= limits::EARLY
            || self.all.1 + bytes > limits::EARLY_BYTES
        {
            return Err(what);
        }
        self.ports.insert(seen.in_port, (port.0 + 1, port.1 + bytes));
        self.all = (self.all.0 + 1, self.all.1 + bytes);
        let held = Held { what, in_port: seen.in_port, bytes, deadline: now + limits::PATIENCE };
        self.held.entry(seen.datagram).or_default().push(held);
        Ok(())
    }

    /// Gives those of a datagram back, in the order in which they came.
    pub fn release(&mut self, datagram: &Datagram) -> Vec<T> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let held = self.held.remove(datagram).unwrap_or_default();
        held.into_iter().map(|held| self.settle(held)).collect()
    }

    /// Gives back those that have waited long enough.
    pub fn expire(&mut self, now: u64) -> Vec<T> {
        self.remove(|held| held.deadline <= now)
    }

    /// Gives back those that answer to a condition: their port is gone.
    pub fn withdraw(&mut self, mut condition: impl FnMut(&T) -> bool) -> Vec<T> {
        self.remove(|held| condition(&held.what))
    }

    fn remove(&mut self, mut condition: impl FnMut(&Held<T>) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        self.held.retain(|_, held| {
            gone.extend(held.extract_if(.., |held| condition(held)));
            !held.is_empty()
        });
        gone.into_iter().map(|held| self.settle(held)).collect()
    }

    fn settle(&mut self, held: Held<T>) -> T {
        self.all = (self.all.0 - 1, self.all.1 - held.bytes);
        if let Some(port) = self.ports.get_mut(&held.in_port) {
            *port = (port.0 - 1, port.1 - held.bytes);
            if port.0 == 0 {
                self.ports.remove(&held.in_port);
            }
        }
        held.what
    }

    /// Fragments now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.0 == 0
    }
}
