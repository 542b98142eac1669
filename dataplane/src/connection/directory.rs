//! Which worker owns what: (zone, tuple) → worker, shared by all workers of the process.
//!
//! Asked only when a worker does not know a tuple itself, and written when a connection begins or ends:
//! never per packet. Shards keep two workers from waiting for each other; a lock is held for one look-up.
//! Both tuples of a connection are in it, and the internal ends of NAT mappings ([`Tuple::endpoint`]), so
//! that a new connection of the same internal end goes to the worker that holds its mapping.
//!
//! What must be one step (the claims of a walk; a record's move to another worker) is done under the locks of
//! all shards concerned, which are taken in ascending order, so that no two such steps wait for each other.
//!
//! **Mailboxes.** A record that moves to another worker is put into that one's mailbox in the same step that
//! makes it the owner. Hence who reads here that it owns a tuple has its record, or has it in its mailbox.
//! Order of locks: shards, then a mailbox.

use super::fragments::Datagram;
use super::record::Record;
use super::tuple::Tuple;
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Why a tuple could not be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// That worker has it.
    OwnedBy(u16),
    /// The directory is full.
    Full,
}

type Shard = HashMap<(u32, Tuple), u16, RandomState>;

/// See the module comment.
pub struct Directory {
    shards: Box<[Mutex<Shard>]>,
    /// By worker.
    mailboxes: Box<[Mutex<Vec<Record>>]>,
    hash: RandomState,
    entries_per_shard: usize,
}

/// Shards locked at once: which, in ascending order.
type Locked<'a> = Vec<(usize, MutexGuard<'a, Shard>)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked is whole whenever the lock can be taken: no operation on it leaves it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory {
    /// For so many workers, and at most about so many tuples; each shard takes its part of them and an eighth
    /// more.
    #[must_use]
    pub fn new(workers: usize, entries: usize) -> Self {
        let part = entries.div_ceil(SHARDS);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            mailboxes: (0..workers).map(|_| Mutex::default()).collect(),
            hash: RandomState::default(),
            entries_per_shard: part + part / 8 + 8,
        }
    }

    fn number(&self, zone: u32, tuple: &Tuple) -> usize {
        self.hash.hash_one((zone, tuple)) as usize % SHARDS
    }

    fn shard(&self, zone: u32, tuple: &Tuple) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.number(zone, tuple)])
    }

    /// Locks the shards of these tuples.
    fn lock_all(&self, tuples: &[(u32, Tuple)]) -> Locked<'_> {
        let mut numbers: Vec<usize> = tuples.iter().map(|(zone, tuple)| self.number(*zone, tuple)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| (number, lock(&self.shards[number]))).collect()
    }

    fn of<'l, 'a>(&self, locked: &'l mut Locked<'a>, (zone, tuple): &(u32, Tuple)) -> &'l mut MutexGuard<'a, Shard> {
        let number = self.number(*zone, tuple);
        let at = locked.binary_search_by_key(&number, |(number, _)| *number).expect("the tuple's shard is locked");
        &mut locked[at].1
    }

    /// The worker that owns a tuple.
    #[must_use]
    pub fn owner(&self, zone: u32, tuple: &Tuple) -> Option<u16> {
        self.shard(zone, tuple).get(&(zone, *tuple)).copied()
    }

    /// Makes a worker the owner of all these tuples in one step; those that it owns already stay its own.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing has changed then.
    pub fn claim(&self, tuples: &[(u32, Tuple)], worker: u16) -> Result<(), Refusal> {
        let mut locked = self.lock_all(tuples);
        for tuple in tuples {
            let shard = self.of(&mut locked, tuple);
            match shard.get(tuple) {
                Some(&owner) if owner == worker => {}
                Some(&owner) => return Err(Refusal::OwnedBy(owner)),
                None if shard.len() >= self.entries_per_shard => return Err(Refusal::Full),
                None => {}
            }
        }
        for tuple in tuples {
            self.of(&mut locked, tuple).insert(*tuple, worker);
        }
        Ok(())
    }

    /// Gives a tuple up, if this worker owns it.
    pub fn release(&self, zone: u32, tuple: &Tuple, worker: u16) {
        let mut shard = self.shard(zone, tuple);
        if shard.get(&(zone, *tuple)) == Some(&worker) {
            shard.remove(&(zone, *tuple));
        }
    }

    /// Gives a record that its worker has taken out of its table to another one, with its tuples, in one step.
    pub fn transfer(&self, record: &Record, tuples: &[(u32, Tuple)], to: u16) {
        let mut locked = self.lock_all(tuples);
        for tuple in tuples {
            self.of(&mut locked, tuple).insert(*tuple, to);
        }
        lock(&self.mailboxes[usize::from(to)]).push(*record);
    }

    /// Takes what other workers gave to this one.
    #[must_use]
    pub fn received(&self, worker: u16) -> Vec<Record> {
        std::mem::take(&mut lock(&self.mailboxes[usize::from(worker)]))
    }

    /// The worker at which the fragments of a datagram meet: they may come in by any, and only the first has what
    /// tells whose it is.
    #[must_use]
    pub fn gathers(&self, datagram: &Datagram) -> u16 {
        (self.hash.hash_one(datagram) as usize % self.mailboxes.len()) as u16
    }

    /// How many tuples are owned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
