//! How connections begin.

use super::Connections;
use crate::connection::ConnectionId;
use crate::connection::directory::Refusal;
use crate::connection::exchange::{EndReason, Passing, Prepared, Refused};
use crate::connection::record::{Counter, Record};
use crate::connection::tuple::Tuple;
use crate::drop::DropReason;

impl Connections {
    /// Begins a connection with its first packet. What the protocol had ended, or is past its deadline, and
    /// has one of the tuples, ends.
    ///
    /// # Errors
    /// As for [`Self::prepare`], if things have changed since then. `ConnectionClash`: another worker has one
    /// of the tuples, or the internal end's mapping.
    pub fn commit(&mut self, prepared: &Prepared, passing: &Passing, now: u64) -> Result<ConnectionId, DropReason> {
        match self.commit_all(std::slice::from_ref(prepared), passing, now) {
            Ok(begun) => Ok(begun[0]),
            Err(Refused::Because(reason)) => Err(reason),
            Err(Refused::OwnedBy(_)) => Err(DropReason::ConnectionClash),
        }
    }

    /// Likewise several, of different zones, with one packet: all or none. In the directory this is one step.
    ///
    /// # Errors
    /// As for [`Self::prepare`], if things have changed since then; or who has one of the tuples, or the mapping of
    /// an internal end, by now.
    pub fn commit_all(&mut self, all: &[Prepared], passing: &Passing, now: u64) -> Result<Vec<ConnectionId>, Refused> {
        let mut replaced = Vec::new();
        let mut more = 0;
        for prepared in all {
            let found = [prepared.original, prepared.reply].map(|tuple| self.find(prepared.zone, &tuple));
            let slots = found.into_iter().flatten().map(|(slot, _)| slot);
            if slots.clone().any(|slot| self.blocks(slot, now)) {
                return Err(Refused::Because(DropReason::ConnectionClash));
            }
            if found == [None; 2] {
                self.has_room(prepared.zone, more).map_err(Refused::Because)?;
                more += 1;
            }
            replaced.extend(slots);
        }
        for slot in replaced {
            let record = &self.file.records()[slot as usize];
            if record.is_live() {
                let over = record.state().is_over();
                self.remove(slot, if over { EndReason::Reopened } else { EndReason::Expired });
            }
        }
        if let Some(directory) = &self.options.directory {
            let both = |prepared: &Prepared| [prepared.original, prepared.reply].map(|tuple| (prepared.zone, tuple));
            let mut claimed: Vec<(u32, Tuple)> = all.iter().flat_map(both).collect();
            // Who was first to map an internal end, of two workers that it sent by at once, has the other connections too.
            let begins_mapping = |prepared: &&Prepared| prepared.maps.is_some_and(|end| !self.ports.has(&end));
            let ends = all.iter().filter(begins_mapping).map(|prepared| (prepared.zone, prepared.original.endpoint()));
            claimed.extend(ends);
            directory.claim(&claimed, self.options.worker).map_err(|refusal| match refusal {
                Refusal::OwnedBy(worker) => Refused::OwnedBy(worker),
                Refusal::Full => Refused::Because(DropReason::ConnectionLimit),
            })?;
        }
        Ok(all.iter().map(|prepared| self.begin(prepared, passing, now)).collect())
    }

    /// Writes a record whose tuples are claimed.
    fn begin(&mut self, prepared: &Prepared, passing: &Passing, now: u64) -> ConnectionId {
        let monotonic = now + self.offset;
        let mut record = Record {
            zone: prepared.zone,
            mark: prepared.mark,
            flags: prepared.flags,
            protocol: prepared.original.protocol,
            original: prepared.original,
            created: monotonic,
            ..Record::ZERO
        };
        record.set_reply(&prepared.reply);
        record.set_first(&prepared.first);
        record.counters[0] = Counter { packets: passing.packets.into(), bytes: passing.bytes.into() };
        record.set_progress(&prepared.progress);
        record.deadline = monotonic + prepared.progress.state.timeout(prepared.original.protocol);
        self.place(record)
    }

    /// Puts a record into a free slot, of which there must be one.
    pub(super) fn place(&mut self, record: Record) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.high += 1;
            self.high as u32 - 1
        });
        let place = &mut self.file.records_mut()[slot as usize];
        let record = Record {
            generation: place.generation,
            visible_epoch: place.visible_epoch.wrapping_add(1),
            owner: self.options.worker,
            ..record
        };
        place.publish(&record);
        self.enter(slot);
        self.id(slot)
    }

    /// Whether there is room for one more connection of a zone, besides so many. A zone has no more than it leaves
    /// free, so there is always room for who has none.
    ///
    /// # Errors
    /// `ConnectionLimit`.
    pub fn has_room(&self, zone: u32, besides: usize) -> Result<(), DropReason> {
        let (own, free) = (self.in_zone(zone), self.options.records.saturating_sub(self.live + besides));
        if free == 0 || own as usize >= free || own >= self.options.per_zone {
            return Err(DropReason::ConnectionLimit);
        }
        Ok(())
    }
}
