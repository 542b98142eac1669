//! Which worker owns what: (zone, tuple) → worker, shared by all workers of the process.
//!
//! Asked only when a worker does not know a tuple itself, and written when a connection begins or ends:
//! never per packet. Shards keep two workers from waiting for each other; a lock is held for one look-up.
//! Both tuples of a connection are in it, and the internal ends of NAT mappings ([`Tuple::endpoint`]), so
//! that a new connection of the same internal end goes to the worker that holds its mapping.

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
    hash: RandomState,
    entries_per_shard: usize,
}

impl Directory {
    /// For at most about this many tuples; each shard takes its part of them and an eighth more.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        let part = entries.div_ceil(SHARDS);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hash: RandomState::default(),
            entries_per_shard: part + part / 8 + 8,
        }
    }

    fn shard(&self, zone: u32, tuple: &Tuple) -> MutexGuard<'_, Shard> {
        let shard = self.hash.hash_one((zone, tuple)) as usize % SHARDS;
        // A map is whole whenever its lock can be taken: no operation on it leaves it half done.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker that owns a tuple.
    #[must_use]
    pub fn owner(&self, zone: u32, tuple: &Tuple) -> Option<u16> {
        self.shard(zone, tuple).get(&(zone, *tuple)).copied()
    }

    /// Makes a worker the owner; nothing changes if it is already.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing has changed then.
    pub fn claim(&self, zone: u32, tuple: &Tuple, worker: u16) -> Result<(), Refusal> {
        let mut shard = self.shard(zone, tuple);
        match shard.get(&(zone, *tuple)) {
            Some(&owner) if owner == worker => Ok(()),
            Some(&owner) => Err(Refusal::OwnedBy(owner)),
            None if shard.len() >= self.entries_per_shard => Err(Refusal::Full),
            None => {
                shard.insert((zone, *tuple), worker);
                Ok(())
            }
        }
    }

    /// Gives a tuple up, if this worker owns it.
    pub fn release(&self, zone: u32, tuple: &Tuple, worker: u16) {
        let mut shard = self.shard(zone, tuple);
        if shard.get(&(zone, *tuple)) == Some(&worker) {
            shard.remove(&(zone, *tuple));
        }
    }

    /// How many tuples are owned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
