//! Next hops that the action `neighbour` looks for: where on a link an IPv4 address is (RFC 826), what is being
//! asked, and what did not answer. One table for all workers, which lies in the tables' state (`flow/state.rs`):
//! walks look (`look`), workers ask, learn and keep it true under the write lock, off the fast path.
//!
//! - A hop that nobody knows is *asked* for: [`TRIES`] requests, a second apart. Meanwhile a few frames wait for
//!   it, with the worker that had them. Then it is *refused* for a while.
//! - What is *known* is verified while it is used (RFC 1122, 2.3.2.1): after [`REACHABLE`] without an ARP packet
//!   from it, it is asked where it was. It is forgotten if it does not answer, or if nobody uses it.
//! - Whoever is asked for or known is believed when it says where it is, whether it was asked or not; nobody else
//!   is (RFC 826's merging; RFC 5944, 4.6 for what gratuitous ARP is good for). So no packet from a link makes an
//!   entry.
//!
//! **Programs must not outlive what they were made from.** A walk passes the partition of the hop
//! ([`Hop::partition`]) in the log of the topology, and each change of what is known is recorded there
//! (`Tables::change_neighbours`), which makes the programs of that hop walk again. What is not known is not cached.
//! Nothing of this is looked at per packet: that a hop is used comes from the counts that the flow cache brings to
//! the rules (`flow/cache.rs`).
//!
//! Called under the tables' lock. Time is passed in: microseconds of [`crate::clock`].

use crate::flow::log::partition;
use crate::limits::neighbour::{
    ASKED_PER_PORT, FRAMES_PER_HOP, IDLE, KNOWN_OR_ASKED, REACHABLE, REFUSED, RETRY, SETTLED, TRIES,
};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An address on the link behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The port, by number.
    pub port: u32,
    /// The VLAN; 0: frames without a tag.
    pub vlan: u16,
    /// The address.
    pub address: Ipv4Addr,
}

impl Hop {
    /// What changes are told apart by.
    #[must_use]
    pub fn partition(&self) -> u16 {
        let mut bytes = [0; 10];
        bytes[..4].copy_from_slice(&self.port.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.vlan.to_be_bytes());
        bytes[6..].copy_from_slice(&self.address.octets());
        partition(&bytes)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    /// Its address on the link.
    pub source: Ipv4Addr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// An ARP request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// For whom.
    pub hop: Hop,
    /// By whom.
    pub asker: Asker,
    /// Where the hop was; `None`: everybody is asked.
    pub to: Option<[u8; 6]>,
}

/// When something was last used: microseconds. Programs made from it say so.
#[derive(Debug, Default)]
pub struct Used(AtomicU64);

impl Used {
    /// It was used at this time.
    pub fn mark(&self, now: u64) {
        self.0.fetch_max(now, Ordering::Relaxed);
    }

    fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a walk sees of a hop.
#[derive(Clone, Debug)]
pub enum Sight {
    /// It is there.
    Known([u8; 6], Arc<Used>),
    /// It is not known; a frame may wait for it.
    Unknown,
    /// Frames drop: it did not answer, enough of them wait for it, or too much is being asked.
    Refused,
}

/// What became of a frame that would wait for a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is known by now.
    Known,
    /// It waits; if it is the first one, this is to be sent.
    Waits(Option<Request>),
    /// It does not.
    Refused,
}

/// How a hop stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub hop: Hop,
    /// Where it is.
    pub mac: Option<[u8; 6]>,
    /// In a word: see `switch.proto`.
    pub state: &'static str,
}

#[derive(Debug)]
enum State {
    Asking { asker: Asker, tries: u32, frames: usize, in_port: u32 },
    Refused { in_port: u32 },
    Known { mac: [u8; 6], asker: Asker, confirmed: u64, probes: u32, used: Arc<Used> },
}

impl State {
    /// The port whose packets had it asked for, while it is not known.
    fn in_port(&self) -> Option<u32> {
        match self {
            Self::Asking { in_port, .. } | Self::Refused { in_port } => Some(*in_port),
            Self::Known { .. } => None,
        }
    }
}

struct Entry {
    state: State,
    /// When it is to be looked at.
    due: u64,
}

/// See the module comment.
#[derive(Default)]
pub struct Neighbours {
    entries: HashMap<Hop, Entry, foldhash::fast::RandomState>,
    /// Hops that are asked for or refused, by the port whose packets had them asked for.
    asked: HashMap<u32, usize>,
    /// What programs may have been made from and is not true any more.
    changed: Vec<Hop>,
    /// Nothing is due before.
    due: Option<u64>,
}

impl Neighbours {
    /// What a walk of a packet from this port sees.
    #[must_use]
    pub fn look(&self, hop: &Hop, in_port: u32) -> Sight {
        match self.entries.get(hop).map(|entry| &entry.state) {
            Some(State::Known { mac, used, .. }) => Sight::Known(*mac, used.clone()),
            Some(State::Asking { frames, .. }) if *frames < FRAMES_PER_HOP => Sight::Unknown,
            Some(State::Asking { .. } | State::Refused { .. }) => Sight::Refused,
            None if self.may_ask(in_port) => Sight::Unknown,
            None => Sight::Refused,
        }
    }

    fn may_ask(&self, in_port: u32) -> bool {
        self.asked.get(&in_port).is_none_or(|&count| count < ASKED_PER_PORT)
            && (self.entries.len() < KNOWN_OR_ASKED || self.asked.values().sum::<usize>() < self.entries.len())
    }

    /// A frame from this port would wait for a hop.
    pub fn ask(&mut self, hop: Hop, asker: Asker, in_port: u32, now: u64) -> Asked {
        if let Some(entry) = self.entries.get_mut(&hop) {
            return match &mut entry.state {
                State::Known { .. } => Asked::Known,
                State::Asking { frames, .. } if *frames < FRAMES_PER_HOP => {
                    *frames += 1;
                    Asked::Waits(None)
                }
                State::Asking { .. } | State::Refused { .. } => Asked::Refused,
            };
        }
        if !self.may_ask(in_port) {
            return Asked::Refused;
        }
        if self.entries.len() >= KNOWN_OR_ASKED {
            self.forget_one();
        }
        self.put(hop, State::Asking { asker, tries: 1, frames: 1, in_port }, now + RETRY);
        Asked::Waits(Some(Request { hop, asker, to: None }))
    }

    /// Makes room: what has not been used for longest goes.
    fn forget_one(&mut self) {
        let known = self.entries.iter().filter_map(|(hop, entry)| match &entry.state {
            State::Known { used, confirmed, .. } => Some((used.last().max(*confirmed), *hop)),
            State::Asking { .. } | State::Refused { .. } => None,
        });
        if let Some((_, hop)) = known.min_by_key(|(used, _)| *used) {
            self.remove(&hop);
        }
    }

    fn put(&mut self, hop: Hop, state: State, due: u64) {
        self.remove(&hop);
        if let Some(port) = state.in_port() {
            *self.asked.entry(port).or_default() += 1;
        }
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
        self.entries.insert(hop, Entry { state, due });
    }

    fn remove(&mut self, hop: &Hop) {
        let Some(entry) = self.entries.remove(hop) else { return };
        let Some(port) = entry.state.in_port() else { return self.changed.push(*hop) };
        if let Some(count) = self.asked.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.asked.remove(&port);
            }
        }
    }

    /// Whether [`Neighbours::learn`] would change anything.
    #[must_use]
    pub fn is_news(&self, hop: &Hop, mac: [u8; 6], now: u64) -> bool {
        self.entries.get(hop).is_some_and(|entry| match &entry.state {
            State::Known { mac: before, confirmed, .. } => *before != mac || now >= confirmed + SETTLED,
            State::Asking { .. } | State::Refused { .. } => true,
        })
    }

    /// Whether the answer may still come.
    #[must_use]
    pub fn is_asked(&self, hop: &Hop) -> bool {
        self.entries.get(hop).is_some_and(|entry| matches!(entry.state, State::Asking { .. }))
    }

    /// The hop says where it is. True if that had been asked for: what waits may go on.
    pub fn learn(&mut self, hop: Hop, mac: [u8; 6], now: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&hop) else { return false };
        let asker = match &mut entry.state {
            State::Known { mac: before, confirmed, probes, .. } => {
                (*confirmed, *probes) = (now, 0);
                if *before != mac {
                    *before = mac;
                    self.changed.push(hop);
                }
                entry.due = now + REACHABLE;
                return false;
            }
            State::Asking { asker, .. } => *asker,
            // Too late for what waited; who asks next will hear the same again.
            State::Refused { .. } => {
                self.remove(&hop);
                return false;
            }
        };
        let used = Arc::new(Used::default());
        used.mark(now);
        self.put(hop, State::Known { mac, asker, confirmed: now, probes: 0, used }, now + REACHABLE);
        true
    }

    /// When something is due; `None`: nothing ever is.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// Does what is due, and gives what is to be sent.
    pub fn service(&mut self, now: u64) -> Vec<Request> {
        let due: Vec<Hop> = self.entries.iter().filter(|(_, entry)| entry.due <= now).map(|(hop, _)| *hop).collect();
        let requests = due.into_iter().filter_map(|hop| self.attend(hop, now)).collect();
        self.due = self.entries.values().map(|entry| entry.due).min();
        requests
    }

    fn attend(&mut self, hop: Hop, now: u64) -> Option<Request> {
        let entry = self.entries.get_mut(&hop)?;
        let (asker, to) = match &mut entry.state {
            State::Asking { asker, tries, .. } if *tries < TRIES => {
                *tries += 1;
                (*asker, None)
            }
            State::Asking { in_port, .. } => {
                let in_port = *in_port;
                self.put(hop, State::Refused { in_port }, now + REFUSED);
                return None;
            }
            State::Refused { .. } => {
                self.remove(&hop);
                return None;
            }
            State::Known { mac, asker, confirmed, probes, used } => {
                if *probes == 0 && used.last() <= *confirmed {
                    if now >= *confirmed + IDLE {
                        self.remove(&hop);
                    } else {
                        entry.due = now + RETRY;
                    }
                    return None;
                }
                if *probes == TRIES {
                    self.remove(&hop);
                    return None;
                }
                *probes += 1;
                (*asker, Some(*mac))
            }
        };
        entry.due = now + RETRY;
        Some(Request { hop, asker, to })
    }

    /// Forgets what was behind a port: it is gone, or another one, or without a link.
    pub fn forget_port(&mut self, port: u32) {
        let gone: Vec<Hop> = self.entries.keys().filter(|hop| hop.port == port).copied().collect();
        gone.iter().for_each(|hop| self.remove(hop));
    }

    /// What programs may have been made from and is not true any more, since this was last asked.
    pub fn take_changed(&mut self) -> Vec<Hop> {
        std::mem::take(&mut self.changed)
    }

    /// All of them, in order.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let row = |(hop, entry): (&Hop, &Entry)| {
            let (mac, state) = match &entry.state {
                State::Asking { .. } => (None, "incomplete"),
                State::Refused { .. } => (None, "failed"),
                State::Known { mac, probes: 0, .. } => (Some(*mac), "reachable"),
                State::Known { mac, .. } => (Some(*mac), "probe"),
            };
            Listed { hop: *hop, mac, state }
        };
        let mut list: Vec<Listed> = self.entries.iter().map(row).collect();
        list.sort_by_key(|listed| (listed.hop.port, listed.hop.vlan, listed.hop.address));
        list
    }
}

#[cfg(test)]
mod tests;
