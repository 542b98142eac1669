//! The store in one file, by `redb`.

use super::{Compare, Entry, Event, Operation, SCHEMA, Store, StoreError};
use crate::limits::STORE_HISTORY;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Key to (revision, value).
const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
/// A key and, if it was written, its value.
type Written<'a> = (&'a str, Option<&'a [u8]>);
/// (Revision, place in its transaction) to what was written.
const HISTORY: TableDefinition<'_, (u64, u32), Written<'_>> = TableDefinition::new("history");
/// "schema", "revision".
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// See the module comment.
pub struct FileStore {
    database: Database,
    path: PathBuf,
    latest: watch::Sender<u64>,
}

impl FileStore {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
            other => StoreError::File { path: path.to_owned(), problem: other.to_string() },
        })?;
        let store = Self { database, path: path.to_owned(), latest: watch::channel(0).0 };
        let revision = store.prepare()?;
        store.latest.send_replace(revision);
        Ok(store)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::File { path: self.path.clone(), problem: error.to_string() }
    }

    /// Makes the tables, checks the schema, gives the revision.
    fn prepare(&self) -> Result<u64, StoreError> {
        let transaction = self.database.begin_write().map_err(|error| self.failed(&error))?;
        let revision = {
            let mut meta = transaction.open_table(META).map_err(|error| self.failed(&error))?;
            let schema = meta.get("schema").map_err(|error| self.failed(&error))?.map(|value| value.value());
            match schema {
                Some(found) if found > SCHEMA => {
                    return Err(StoreError::NewerSchema { path: self.path.clone(), found });
                }
                Some(found) if found < SCHEMA => {
                    return Err(StoreError::OlderSchema { path: self.path.clone(), found });
                }
                Some(_) => {}
                None => drop(meta.insert("schema", SCHEMA).map_err(|error| self.failed(&error))?),
            }
            transaction.open_table(RECORDS).map_err(|error| self.failed(&error))?;
            transaction.open_table(HISTORY).map_err(|error| self.failed(&error))?;
            meta.get("revision").map_err(|error| self.failed(&error))?.map_or(0, |value| value.value())
        };
        transaction.commit().map_err(|error| self.failed(&error))?;
        Ok(revision)
    }

    fn write(&self, compares: &[Compare], operations: &[Operation]) -> Result<u64, StoreError> {
        let transaction = self.database.begin_write().map_err(|error| self.failed(&error))?;
        let revision = {
            let mut records = transaction.open_table(RECORDS).map_err(|error| self.failed(&error))?;
            for compare in compares {
                let found = records.get(compare.key.as_str()).map_err(|error| self.failed(&error))?;
                if found.map_or(0, |value| value.value().0) != compare.revision {
                    return Err(StoreError::Conflict { key: compare.key.clone() });
                }
            }
            let mut meta = transaction.open_table(META).map_err(|error| self.failed(&error))?;
            let revision = meta.get("revision").map_err(|error| self.failed(&error))?.map_or(0, |value| value.value());
            let revision = revision + 1;
            meta.insert("revision", revision).map_err(|error| self.failed(&error))?;
            let mut history = transaction.open_table(HISTORY).map_err(|error| self.failed(&error))?;
            for (place, operation) in (0..).zip(operations) {
                let (key, value) = match operation {
                    Operation::Put(key, value) => {
                        records
                            .insert(key.as_str(), (revision, value.as_slice()))
                            .map_err(|error| self.failed(&error))?;
                        (key, Some(value.as_slice()))
                    }
                    Operation::Delete(key) => {
                        records.remove(key.as_str()).map_err(|error| self.failed(&error))?;
                        (key, None)
                    }
                };
                history.insert((revision, place), (key.as_str(), value)).map_err(|error| self.failed(&error))?;
            }
            // One revision comes, one goes: the rest of the table is not looked at.
            let kept = revision.saturating_sub(STORE_HISTORY);
            loop {
                let oldest = history.first().map_err(|error| self.failed(&error))?.map(|(key, _)| key.value());
                match oldest {
                    Some(oldest) if oldest.0 <= kept => {
                        history.remove(oldest).map_err(|error| self.failed(&error))?;
                    }
                    _ => break,
                }
            }
            revision
        };
        transaction.commit().map_err(|error| self.failed(&error))?;
        Ok(revision)
    }
}

impl Store for FileStore {
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let transaction = self.database.begin_read().map_err(|error| self.failed(&error))?;
        let records = transaction.open_table(RECORDS).map_err(|error| self.failed(&error))?;
        let found = records.get(key).map_err(|error| self.failed(&error))?;
        Ok(found.map(|found| {
            let (revision, value) = found.value();
            Entry { key: key.to_owned(), value: value.to_vec(), revision }
        }))
    }

    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64), StoreError> {
        let transaction = self.database.begin_read().map_err(|error| self.failed(&error))?;
        let records = transaction.open_table(RECORDS).map_err(|error| self.failed(&error))?;
        let meta = transaction.open_table(META).map_err(|error| self.failed(&error))?;
        let revision = meta.get("revision").map_err(|error| self.failed(&error))?.map_or(0, |value| value.value());
        let mut entries = Vec::new();
        for row in records.range(prefix..).map_err(|error| self.failed(&error))? {
            let (key, found) = row.map_err(|error| self.failed(&error))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (written, value) = found.value();
            entries.push(Entry { key: key.value().to_owned(), value: value.to_vec(), revision: written });
        }
        Ok((entries, revision))
    }

    fn transact(&self, compares: &[Compare], operations: &[Operation]) -> Result<u64, StoreError> {
        let revision = self.write(compares, operations)?;
        // Transactions are committed one after another, but may come by here in another order.
        self.latest.send_modify(|latest| *latest = revision.max(*latest));
        Ok(revision)
    }

    fn events(&self, after: u64) -> Result<Vec<Event>, StoreError> {
        let transaction = self.database.begin_read().map_err(|error| self.failed(&error))?;
        let history = transaction.open_table(HISTORY).map_err(|error| self.failed(&error))?;
        let oldest = history.first().map_err(|error| self.failed(&error))?.map(|(key, _)| key.value().0);
        let latest = *self.latest.borrow();
        let first = oldest.unwrap_or(latest + 1);
        if after + 1 < first {
            return Err(StoreError::Compacted { first });
        }
        let mut events = Vec::new();
        for row in history.range((after + 1, 0)..).map_err(|error| self.failed(&error))? {
            let (key, value) = row.map_err(|error| self.failed(&error))?;
            let (name, written) = value.value();
            let operation = match written {
                Some(value) => Operation::Put(name.to_owned(), value.to_vec()),
                None => Operation::Delete(name.to_owned()),
            };
            events.push(Event { revision: key.value().0, operation });
        }
        Ok(events)
    }

    fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}
