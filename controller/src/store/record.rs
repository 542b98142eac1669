//! Objects of the model as records: which key, and what bytes. What an object's record holds stands beside its
//! type ([`crate::model::Object::record`]).

use super::{Operation, Store, StoreError};
use crate::model::{AnyObject, Change, Kind, Model};
use uuid::Uuid;

fn key(kind: Kind, id: Uuid) -> String {
    format!("{}/{id}", kind.word())
}

/// The step that stores a change.
#[must_use]
pub fn operation(change: &Change) -> Operation {
    let (kind, id) = change.subject();
    let key = key(kind, id);
    match change {
        Change::Put(object) => Operation::Put(key, object.encode()),
        Change::Remove(..) => Operation::Delete(key),
    }
}

/// Reads the whole model.
pub fn load(store: &dyn Store) -> Result<Model, StoreError> {
    let mut model = Model::default();
    for &kind in Kind::ALL {
        let (entries, _) = store.list(&format!("{}/", kind.word()))?;
        for entry in entries {
            let damaged = |problem: String| StoreError::Damaged { key: entry.key.clone(), problem };
            let object = AnyObject::decode(kind, &entry.value).map_err(damaged)?;
            if key(kind, object.id()) != entry.key {
                return Err(damaged("it holds another object than its key says".to_owned()));
            }
            model.apply(&Change::Put(object));
        }
    }
    Ok(model)
}
