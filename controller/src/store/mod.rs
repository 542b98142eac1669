//! What must survive: records under keys, changed by transactions, each with a revision.
//!
//! One interface ([`Store`]), one implementation for one controller ([`file::FileStore`], `redb` in one
//! file); `etcd` will stand behind the same interface when there is more than one controller. How objects
//! become records is in [`record`]; which controller may write, in [`term`].
//!
//! Invariants: a transaction is visible whole or not at all, and durable when it returns; revisions
//! ascend by one with each transaction; a store written by a newer schema is refused, never guessed at.
//!
//! Calls block for as long as the disk takes: not to be made on an asynchronous task.

pub mod file;
pub mod record;
pub mod term;
#[cfg(test)]
mod tests;

pub use file::FileStore;

use std::path::PathBuf;

/// Version of the records' form. Raised when a record's meaning changes, with the step that rewrites
/// older ones. Those of version 1, which was never released, have ports without security groups: they are refused.
pub const SCHEMA: u64 = 2;

/// A record and when it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// "network/6f0c…"
    pub key: String,
    /// As [`record`] encodes it.
    pub value: Vec<u8>,
    /// The revision of the transaction that wrote it.
    pub revision: u64,
}

/// What must hold for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The record.
    pub key: String,
    /// When it was last written; 0: it does not exist.
    pub revision: u64,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a record.
    Put(String, Vec<u8>),
    /// Removes a record; none need be there.
    Delete(String),
}

/// One step that a transaction took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of the transaction.
    pub revision: u64,
    /// What it did.
    pub operation: Operation,
}

/// See the module comment.
pub trait Store: Send + Sync {
    /// One record.
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// All records whose key begins so, by key, and the revision they were read at.
    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64), StoreError>;

    /// Takes all steps if all comparisons hold, or none; gives the revision.
    fn transact(&self, compares: &[Compare], operations: &[Operation]) -> Result<u64, StoreError>;

    /// What happened after a revision, as far as it has happened. [`StoreError::Compacted`] if that is too
    /// long ago: list anew.
    fn events(&self, after: u64) -> Result<Vec<Event>, StoreError>;

    /// The revision of the last transaction, as it changes.
    fn latest(&self) -> tokio::sync::watch::Receiver<u64>;
}

impl<'s> dyn Store + 's {
    /// Follows the store from a revision on.
    pub fn watch(&self, after: u64) -> Watch<'_, 's> {
        Watch { store: self, after, latest: self.latest() }
    }
}

/// Follows the store. It gives every event once, in order.
pub struct Watch<'a, 's> {
    store: &'a (dyn Store + 's),
    after: u64,
    latest: tokio::sync::watch::Receiver<u64>,
}

impl Watch<'_, '_> {
    /// What happened since the last call; waits until something does.
    pub async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            self.latest.borrow_and_update();
            let events = self.store.events(self.after)?;
            if let Some(last) = events.last() {
                self.after = last.revision;
                return Ok(events);
            }
            self.latest.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }
}

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Written by a newer program.
    #[error(
        "the store {path} has schema version {found}, this program knows {SCHEMA}. Start the newer \
         weft-controller that wrote it, or restore a backup from before."
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// Written by an older program than can be followed.
    #[error(
        "the store {path} has schema version {found}, from before the first release, and this program knows {SCHEMA}. \
         Give it another state directory, and make the cloud anew."
    )]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// Another controller uses it.
    #[error(
        "the store {path} is in use by another weft-controller. Stop it first, or give this one another state directory."
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A comparison did not hold: somebody else was faster.
    #[error("the record {key} was changed in the meantime. Try again.")]
    Conflict {
        /// The record.
        key: String,
    },
    /// The watcher is too far behind.
    #[error("revisions before {first} are no longer kept. List the records anew.")]
    Compacted {
        /// The first one that is.
        first: u64,
    },
    /// A record cannot be understood.
    #[error("the record {key} in the store is damaged: {problem}. Restore the store from a backup.")]
    Damaged {
        /// The record.
        key: String,
        /// In what way.
        problem: String,
    },
    /// The store was closed.
    #[error("the store is closed. Start the controller again.")]
    Closed,
    /// The file or the disk fails.
    #[error("the store {path} fails: {problem}. Check the disk and the file's rights.")]
    File {
        /// The file.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
}
