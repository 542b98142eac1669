//! Terms: each start of a controller begins one, and every transaction of its is under the condition that
//! no later one has begun. Switches refuse what comes from an older term than they have seen.

use super::{Compare, Operation, Store, StoreError};

const KEY: &str = "term";

/// A term that was begun, and the record that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// 1 or more.
    pub number: u64,
    revision: u64,
}

impl Term {
    /// Holds for as long as this term is the store's last.
    #[must_use]
    pub fn still_ours(&self) -> Compare {
        Compare { key: KEY.to_owned(), revision: self.revision }
    }
}

fn read(store: &dyn Store) -> Result<(u64, u64), StoreError> {
    let Some(entry) = store.get(KEY)? else { return Ok((0, 0)) };
    let bytes = <[u8; 8]>::try_from(entry.value.as_slice()).map_err(|_| StoreError::Damaged {
        key: KEY.to_owned(),
        problem: format!("it has {} bytes", entry.value.len()),
    })?;
    Ok((u64::from_be_bytes(bytes), entry.revision))
}

fn write(store: &dyn Store, number: u64, before: u64) -> Result<u64, StoreError> {
    let compare = Compare { key: KEY.to_owned(), revision: before };
    store.transact(&[compare], &[Operation::Put(KEY.to_owned(), number.to_be_bytes().to_vec())])
}

/// Begins a term: later than all that this store, or a switch it heard of, has seen.
pub fn begin(store: &dyn Store) -> Result<Term, StoreError> {
    let (last, revision) = read(store)?;
    let number = last + 1;
    Ok(Term { number, revision: write(store, number, revision)? })
}

/// Remembers a later term that a switch has followed, so that the next one begun here is later still. Gives
/// our own, unchanged but for the record.
pub fn remember(store: &dyn Store, ours: Term, seen: u64) -> Result<Term, StoreError> {
    let (last, _) = read(store)?;
    // Room for as many terms again, whatever a switch claims.
    let seen = seen.min(u64::MAX / 2);
    if seen <= last {
        return Ok(ours);
    }
    Ok(Term { revision: write(store, seen, ours.revision)?, ..ours })
}
