//! `ct` in a walk: which connection the packet belongs to, what rules see of it, what is to be remembered.
//! Looks and prepares; the worker changes.

use super::branch::{Found, Pending};
use super::translate::may_leave;
use super::{Connected, Packet, Passed, Unobserved, View, Walk};
use crate::connection::fragments::{Datagram, First, Seen, Standing};
use crate::connection::{ConnectionId, Connections, Contents, CtState, Nat, New, Observation, Tuple, flag};
use crate::drop::DropReason;
use crate::flow::action::ConnectionTrack;
use crate::flow::key::FlowKey;
use crate::limits::REPEATS_PER_WALK;
use crate::packet::parse::{FIRST_FRAGMENT, LATER_FRAGMENT};

fn is_of(connections: &Connections, id: ConnectionId, zone: u32) -> bool {
    connections.get(id).is_some_and(|record| record.zone == zone)
}

impl Walk<'_> {
    /// Looks the connection up, lets rules see it, and notes what is to be remembered.
    pub(super) fn track(&mut self, track: &ConnectionTrack) -> Result<(), DropReason> {
        self.consult_tuple();
        self.join_fragments(track.zone)?;
        let mut key = self.key;
        if self.follows_first() {
            key.ip_frag = FIRST_FRAGMENT;
        }
        let tuple = Tuple::of(&key, key.icmp_identifier);
        let known = self.zones.iter().find(|(zone, _)| *zone == track.zone).map(|(_, seen)| *seen);
        let seen = match known {
            Some(seen) => seen,
            None => {
                let seen = self.observe(track.zone, tuple.as_ref())?;
                self.zones.push((track.zone, seen));
                self.records.extend(seen.record.filter(|record| !self.records.contains(record)));
                if self.owner.is_some() {
                    // The walk ends; `finish` says how.
                    self.over = true;
                    return Err(DropReason::NoOutput);
                }
                if let Some(track) = seen.track {
                    self.pend(Found::Track(track));
                }
                seen
            }
        };
        self.cacheable &= seen.track.is_some();
        let mut mask = FlowKey::ZERO;
        (mask.ct_state, mask.ct_mark) = (0xff, [0xff; 4]);
        let mut value = FlowKey::ZERO;
        (value.ct_state, value.ct_mark) = (seen.state.0, seen.mark.to_be_bytes());
        self.write(&value, &mask);
        if track.nat {
            self.translate_known(track.zone, &seen);
        }
        let Some(commit) = track.commit else { return Ok(()) };
        if commit.translate != Nat::default() {
            may_leave(&seen)?;
        }
        let Connected::Now(connections) = self.view.connections else {
            if self.commits_again(track.zone, &commit, tuple.as_ref(), &seen) {
                self.pend(Found::Committed(track.zone));
            }
            return Ok(());
        };
        let Some(tuple) = tuple else { return Ok(()) };
        if seen.track.is_some() || !seen.state.has(CtState::NEW) || self.begun.contains(&track.zone) {
            return Ok(());
        }
        if self.follows_first() {
            // Had the first one begun a connection, this would belong to it.
            return if commit.translate == Nat::default() { Ok(()) } else { Err(DropReason::InvalidState) };
        }
        let new = New {
            zone: track.zone,
            tuple,
            transport: self.contents.transport,
            first: self.packet.key,
            nat: commit.translate,
            mark: commit.mark,
            follow_policy: commit.follow_policy,
            replaces: self.refused.iter().copied().find(|id| is_of(connections, *id, track.zone)),
            apart: !self.records.is_empty(),
        };
        if !new.apart {
            self.owner = connections.mapped_elsewhere(&new);
            if self.owner.is_some() {
                self.over = true;
                return Err(DropReason::NoOutput);
            }
        }
        self.begun.push(track.zone);
        // Another branch may begin it already: it is one connection.
        let others = self.commits.iter().find(|prepared| prepared.is_of(&new));
        let prepared = match others {
            Some(prepared) => prepared.clone(),
            None => {
                let begins = |pending: &&Pending| matches!(pending.what, Found::Begins(_));
                let besides = self.commits.len() + self.pending.iter().filter(begins).count();
                if besides > 0 {
                    connections.has_room(track.zone, besides)?;
                }
                let prepared = connections.prepare(&new, self.view.now)?;
                if self.commits.iter().any(|other| other.clashes(&prepared)) {
                    return Err(DropReason::ConnectionClash);
                }
                self.pend(Found::Begins(Box::new(prepared.clone())));
                prepared
            }
        };
        if track.nat {
            self.translate(track.zone, &prepared.translated());
        }
        Ok(())
    }

    fn pend(&mut self, what: Found) {
        self.pending.push(Pending { at: self.effects.len(), what });
    }

    /// Finds a fragment's datagram, in the first zone that it comes to: what it learns of its first fragment
    /// holds from then on. Nothing of it is to be cached, for what is known of it stands nowhere in its key.
    fn join_fragments(&mut self, zone: u32) -> Result<(), DropReason> {
        let (Some(fragment), None, Connected::Now(connections)) =
            (self.contents.fragment, self.fragment, self.view.connections)
        else {
            return Ok(());
        };
        self.cacheable = false;
        let key = &self.key;
        let first = (key.ip_frag != LATER_FRAGMENT).then_some(First {
            ports: [key.l4_src, key.l4_dst],
            icmp_identifier: key.icmp_identifier,
            tcp_flags: key.tcp_flags,
            transport: self.contents.transport,
            quoted: self.contents.quoted,
        });
        let datagram = Datagram {
            zone,
            source: key.ipv4_src,
            destination: key.ipv4_dst,
            protocol: key.ip_proto,
            identification: fragment.identification,
        };
        if let Some(worker) = connections.gathers(&datagram).filter(|_| self.view.arrived) {
            self.owner = Some(worker);
            self.over = true;
            return Err(DropReason::NoOutput);
        }
        let seen = Seen { datagram, fragment, in_port: self.in_port, first };
        self.fragment = Some(seen);
        match connections.fragments.look(&seen, self.view.now) {
            Standing::Refused(reason) => {
                self.over = true;
                return Err(reason);
            }
            Standing::Early => {
                (self.early, self.over) = (true, true);
                return Err(DropReason::FragmentTimeout);
            }
            Standing::Follows(first) if seen.first.is_none() => {
                self.first = Some(first);
                self.follow();
            }
            Standing::Follows(_) => {}
        }
        Ok(())
    }

    /// A later fragment has from here on what is known of its first one, if anything is.
    pub(super) fn follow(&mut self) {
        let Some(first) = self.first else { return };
        let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
        [value.l4_src, value.l4_dst] = first.ports;
        (value.icmp_identifier, value.tcp_flags) = (first.icmp_identifier, first.tcp_flags);
        (mask.l4_src, mask.l4_dst) = ([0xff; 2], [0xff; 2]);
        (mask.icmp_identifier, mask.tcp_flags) = ([0xff; 2], [0xff; 2]);
        self.write(&value, &mask);
        (self.contents.transport, self.contents.quoted) = (first.transport, first.quoted);
    }

    /// Whether it is a later fragment whose first one is known.
    pub(super) fn follows_first(&self) -> bool {
        !self.early && self.fragment.is_some_and(|seen| seen.first.is_none())
    }

    fn observe(&mut self, zone: u32, tuple: Option<&Tuple>) -> Result<Observation, DropReason> {
        let contents = self.contents;
        let assumed = self.view.traced.unwrap_or_default().iter();
        if let Some(seen) = tuple.and_then(|tuple| assumed.clone().find_map(|one| one.observe(zone, tuple))) {
            return Ok(seen);
        }
        let connections = match self.view.connections {
            Connected::Now(connections) => connections,
            Connected::AsNew => return Ok(contents.as_new(tuple)),
            Connected::Again(connections) => {
                let known = tuple.and_then(|tuple| connections.translated(zone, tuple, self.view.now));
                return Ok(Observation { translated: known.map(|(_, leaves)| leaves), ..contents.as_new(tuple) });
            }
        };
        if let Some(quoted) = &contents.quoted {
            self.owner = connections.elsewhere(zone, &quoted.inverse());
            return Ok(connections.observe_error(zone, quoted, self.view.now));
        }
        self.owner = tuple.and_then(|tuple| connections.elsewhere(zone, tuple));
        let seen = connections.observe(zone, tuple, &contents.transport, self.view.now);
        let Some(track) = seen.track else { return Ok(seen) };
        if connections.get(track.id).is_none_or(|record| !record.has(flag::FOLLOW_POLICY)) {
            return Ok(seen);
        }
        if self.still_admitted(zone, connections, track.id)? {
            return Ok(seen);
        }
        self.refused.push(track.id);
        Ok(contents.as_new(tuple))
    }

    /// Walks the first packet of a connection again, as if it were new, but translated as it was. Connections that
    /// several branches belong to often began with one packet, whose walk is repeated once.
    fn still_admitted(&mut self, zone: u32, connections: &Connections, id: ConnectionId) -> Result<bool, DropReason> {
        let Some(record) = connections.get(id) else { return Ok(false) };
        let first = record.first_key();
        if let Some((_, committed)) = self.repeated.iter().find(|(key, _)| *key == first) {
            return Ok(committed.contains(&zone));
        }
        if self.repeated.len() >= REPEATS_PER_WALK {
            return Err(DropReason::BranchLimit);
        }
        let view = View { connections: Connected::Again(connections), traced: None, ..*self.view };
        let packet = Packet { key: &first, contents: Contents::unknown(&first) };
        let mut walk = Walk::new(&view, &packet);
        let verdict = walk.run(0, &mut Unobserved);
        walk.close(verdict, 0);
        self.others.extend(walk.passed().into_iter().map(|passed| Passed { others: true, ..passed }));
        self.branches_repeated += walk.branches;
        let admitted = walk.committed.contains(&zone);
        self.repeated.push((first, walk.committed));
        Ok(admitted)
    }

    /// What a connection is told apart by.
    fn consult_tuple(&mut self) {
        let mut mask = FlowKey::ZERO;
        (mask.eth_type, mask.ip_proto, mask.ip_frag) = ([0xff; 2], 0xff, 0xff);
        match u16::from_be_bytes(self.key.eth_type) {
            0x0800 => (mask.ipv4_src, mask.ipv4_dst) = ([0xff; 4], [0xff; 4]),
            0x86dd => (mask.ipv6_src, mask.ipv6_dst) = ([0xff; 16], [0xff; 16]),
            _ => {}
        }
        (mask.l4_src, mask.l4_dst, mask.icmp_identifier) = ([0xff; 2], [0xff; 2], [0xff; 2]);
        self.consulted.union_except(&mask, &self.written);
    }
}
