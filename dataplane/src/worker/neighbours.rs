//! A worker's part in finding next hops (`neighbours.rs`): packets of its own that wait for one, what its packets
//! taught, and what is due. Between batches, or on misses.

use super::{Missed, Worker};
use crate::drop::DropReason;
use crate::flow::program::Egress;
use crate::flow::resolve::Wanted;
use crate::limits::neighbour::FRAMES;
use crate::neighbours::{Asked, Hop, Request, Sight};
use crate::packet::arp;
use crate::port::PortSlot;
use crate::topology::PortKind;
use std::collections::HashMap;

/// Frames that wait for next hops.
#[derive(Default)]
pub(super) struct WaitingForHops {
    frames: HashMap<Hop, Vec<Missed>>,
    count: usize,
}

impl WaitingForHops {
    fn take(&mut self, hop: &Hop) -> Vec<Missed> {
        let taken = self.frames.remove(hop).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    /// Gives back those that answer to a condition.
    pub(super) fn withdraw(&mut self, mut condition: impl FnMut(&Missed) -> bool) -> Vec<Missed> {
        let mut gone = Vec::new();
        self.frames.retain(|_, frames| {
            gone.extend(frames.extract_if(.., |missed| condition(missed)));
            !frames.is_empty()
        });
        self.count -= gone.len();
        gone
    }
}

impl Worker {
    /// Lets a frame wait for its next hop, if it may.
    pub(super) fn await_hop(&mut self, wanted: Wanted, missed: Missed) {
        let asked = if self.hops.count < FRAMES { self.ask_for(wanted) } else { Asked::Refused };
        match asked {
            Asked::Refused => return self.outgoing.discard(missed.frame, DropReason::NeighbourUnresolved),
            Asked::Waits(_) => {}
            Asked::Known => self.found.push(wanted.hop),
        }
        self.hops.count += 1;
        self.hops.frames.entry(wanted.hop).or_default().push(missed);
    }

    /// Sees to it that a hop is asked for.
    pub(super) fn ask_for(&mut self, wanted: Wanted) -> Asked {
        let Wanted { hop, asker, in_port } = wanted;
        let now = self.now;
        let asked = self.tables.change_neighbours(|neighbours| neighbours.ask(hop, asker, in_port, now));
        if let Asked::Waits(Some(request)) = &asked {
            self.request(request);
        }
        asked
    }

    /// What the ARP packets of the batch taught; what waited for it goes on, here and elsewhere.
    pub(super) fn learn(&mut self) {
        let now = self.now;
        for (hop, mac) in std::mem::take(&mut self.outgoing.learnt) {
            let is_news = self.tables.read().neighbours.is_news(&hop, mac, now);
            if is_news && self.tables.change_neighbours(|neighbours| neighbours.learn(hop, mac, now)) {
                self.found.push(hop);
                self.outgoing.links.found(hop);
            }
        }
        // One that goes on may find another hop that has become known meanwhile.
        while let Some(hop) = self.found.pop() {
            self.go_on(&hop);
        }
    }

    /// A hop is known: what waits for it walks again.
    pub(super) fn go_on(&mut self, hop: &Hop) {
        for missed in self.hops.take(hop) {
            self.miss(missed);
        }
    }

    /// What is due, whichever worker comes first; and frames that wait for what was found or given up elsewhere.
    pub(super) fn tidy_neighbours(&mut self) {
        let now = self.now;
        self.tables.announce();
        let due = self.tables.read().neighbours.due();
        if due.is_some_and(|due| due <= now) {
            self.look_at_version();
            for request in self.tables.change_neighbours(|neighbours| neighbours.service(now)) {
                self.request(&request);
            }
            self.outgoing.flush();
        }
        if self.hops.count == 0 {
            return;
        }
        let (mut known, mut given_up) = (Vec::new(), Vec::new());
        {
            let state = self.tables.read();
            for hop in self.hops.frames.keys() {
                match state.neighbours.look(hop, 0) {
                    Sight::Known(..) => known.push(*hop),
                    _ if state.neighbours.is_asked(hop) => {}
                    _ => given_up.push(*hop),
                }
            }
        }
        for hop in given_up {
            let frames = self.hops.take(&hop);
            self.give_up(frames, DropReason::NeighbourUnresolved);
        }
        if !known.is_empty() {
            self.look_at_version();
            self.outgoing.begin(self.active);
            known.iter().for_each(|hop| self.go_on(hop));
            self.outgoing.flush();
        }
    }

    fn request(&mut self, request: &Request) {
        let Request { hop, asker, to } = request;
        let frame = arp::request(hop.vlan, asker.mac, asker.source.octets(), hop.address.octets(), *to);
        // If it cannot leave, the next one may.
        let _ = self.send(hop.port, &frame);
    }

    /// Sends a frame of our own by a port; the caller flushes.
    pub(super) fn send(&mut self, port: u32, bytes: &[u8]) -> Result<(), DropReason> {
        match self.topology.ports.get(&port).map(|info| &info.kind) {
            Some(PortKind::Device { slot, up: true }) => self.outgoing.originate(*slot, bytes),
            Some(PortKind::Device { up: false, .. }) => Err(DropReason::PortDown),
            Some(_) => Err(DropReason::NoTunnelDestination),
            None => Err(DropReason::NoSuchPort),
        }
    }

    /// Gives back what waits and came in by a port, or is charged to it.
    pub(super) fn withdraw_from_hops(&mut self, slot: PortSlot) -> Vec<Missed> {
        self.hops.withdraw(|missed| missed.origin.ingress == slot || missed.frame.charged() == slot)
    }
}
