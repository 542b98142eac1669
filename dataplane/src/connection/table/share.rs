//! Connections among several workers: whose they are, and how they move. See `handover.rs`.

use super::{Connections, tuples};
use crate::connection::exchange::{EndReason, New};
use crate::connection::fragments::Datagram;
use crate::connection::nat::{Internal, with_source};
use crate::connection::record::{Record, flag};
use crate::connection::tuple::Tuple;
use crate::connection::{ConnectionId, Direction};

impl Connections {
    /// The worker that has a tuple which this one does not; this one itself, if its record is in the mailbox
    /// (then: [`Self::adopt`]).
    #[must_use]
    pub fn elsewhere(&self, zone: u32, tuple: &Tuple) -> Option<u16> {
        let directory = self.options.directory.as_ref()?;
        if self.find(zone, tuple).is_some() {
            return None;
        }
        directory.owner(zone, tuple)
    }

    /// The other worker that holds the NAT mapping which a new connection would use.
    #[must_use]
    pub fn mapped_elsewhere(&self, new: &New<'_>) -> Option<u16> {
        let directory = self.options.directory.as_ref()?;
        let nat = new.nat.source.as_ref().filter(|_| new.tuple.has_ports())?;
        let external = with_source(&new.tuple, nat.address, 0).source;
        if self.ports.has(&Internal::of(new.zone, &new.tuple, external)) {
            return None;
        }
        directory.owner(new.zone, &new.tuple.endpoint()).filter(|&worker| worker != self.options.worker)
    }

    /// The other worker at which the fragments of a datagram meet.
    #[must_use]
    pub fn gathers(&self, datagram: &Datagram) -> Option<u16> {
        let directory = self.options.directory.as_ref()?;
        Some(directory.gathers(datagram)).filter(|&worker| worker != self.options.worker)
    }

    /// Gives a connection to another worker, unless it is past its deadline: then it ends.
    pub fn give(&mut self, id: ConnectionId, to: u16, now: u64) {
        let Some(record) = self.get(id) else { return };
        if self.is_past(record, now) {
            return self.remove(id.index, EndReason::Expired);
        }
        let Some(directory) = self.options.directory.clone() else { return };
        let record = self.leave(id.index);
        directory.transfer(&record, &tuples(&record), to);
    }

    /// Takes in what other workers gave to this one. Ids are new, so cached programs notice.
    pub fn adopt(&mut self) {
        let Some(directory) = self.options.directory.clone() else { return };
        for mut record in directory.received(self.options.worker) {
            if self.live >= self.options.records {
                for (zone, tuple) in tuples(&record) {
                    directory.release(zone, &tuple, self.options.worker);
                }
                self.ended[EndReason::Displaced as usize] += 1;
                continue;
            }
            self.join_mapping(&mut record);
            self.place(record);
        }
    }

    /// A record keeps its NAT port. If its internal end has another one here, it is not a user of that.
    fn join_mapping(&self, record: &mut Record) {
        if record.has(flag::MAPPED) {
            let out = record.translated(Direction::Original);
            let internal = Internal::of(record.zone, &record.original, out.source);
            if self.ports.port(&internal).is_some_and(|port| port.to_be_bytes() != out.source_port) {
                record.flags &= !flag::MAPPED;
            }
        }
    }
}
