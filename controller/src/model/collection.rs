//! The objects of one kind, and the indexes by which they are found without a search.

use super::Object;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use uuid::Uuid;

/// All objects of one kind. Read by anybody, changed by [`super::Model::apply`] alone.
#[derive(Clone, Debug)]
pub struct Collection<T: Object> {
    objects: BTreeMap<Uuid, T>,
    /// By project (nil where names are the cloud's) and name.
    names: By<(Uuid, String)>,
    /// The kind's own.
    pub(super) index: T::Index,
}

impl<T: Object> Default for Collection<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), names: By::default(), index: T::Index::default() }
    }
}

impl<T: Object> Collection<T> {
    /// The object of this id.
    #[must_use]
    pub fn get(&self, id: Uuid) -> Option<&T> {
        self.objects.get(&id)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Those of this name in a project, by id.
    pub fn named(&self, project: Uuid, name: &str) -> impl Iterator<Item = &T> {
        self.among(self.names.of((project, name.to_owned())))
    }

    /// Those of the ids that there are.
    pub(super) fn among(&self, ids: impl Iterator<Item = Uuid>) -> impl Iterator<Item = &T> {
        ids.filter_map(|id| self.get(id))
    }

    pub(super) fn put(&mut self, object: T) {
        self.remove(object.id());
        self.enter(&object, true);
        self.objects.insert(object.id(), object);
    }

    pub(super) fn remove(&mut self, id: Uuid) {
        if let Some(object) = self.objects.remove(&id) {
            self.enter(&object, false);
        }
    }

    fn enter(&mut self, object: &T, present: bool) {
        if !object.name().is_empty() {
            self.names.set((object.project(), object.name().to_owned()), object.id(), present);
        }
        object.index(&mut self.index, present);
    }
}

/// What another object refers to: planners keep it from going while something does.
impl<T: Object> std::ops::Index<Uuid> for Collection<T> {
    type Output = T;

    fn index(&self, id: Uuid) -> &T {
        &self.objects[&id]
    }
}

/// An index: by a key, the ids of the objects that have it.
#[derive(Clone, Debug)]
pub struct By<Key>(BTreeSet<(Key, Uuid)>);

impl<Key> Default for By<Key> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<Key: Ord + Clone> By<Key> {
    /// Enters an object under a key, or takes it away.
    pub fn set(&mut self, key: Key, id: Uuid, present: bool) {
        if present {
            self.0.insert((key, id));
        } else {
            self.0.remove(&(key, id));
        }
    }

    /// The objects under a key, by id.
    pub fn of(&self, key: Key) -> impl Iterator<Item = Uuid> {
        self.range(key.clone()..=key).map(|(_, id)| id)
    }

    /// The first of them.
    pub fn one(&self, key: Key) -> Option<Uuid> {
        self.of(key).next()
    }

    /// The objects under a range of keys, by key.
    pub fn range(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Uuid)> {
        let (first, last) = keys.into_inner();
        self.0.range((first, Uuid::nil())..=(last, Uuid::max())).map(|(key, id)| (key, *id))
    }

    /// The keys of a range that have objects, each once. Costs as much as they are many, however many objects
    /// each has.
    pub fn keys(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = &Key> {
        let (first, last) = keys.into_inner();
        let first = self.0.range((first, Uuid::nil())..).next();
        let next = |after: &&(Key, Uuid)| {
            self.0.range((Bound::Excluded((after.0.clone(), Uuid::max())), Bound::Unbounded)).next()
        };
        std::iter::successors(first, next).map(|(key, _)| key).take_while(move |key| **key <= last)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_finds_by_key_and_by_range() {
        let ids: Vec<Uuid> = (1..=4).map(Uuid::from_u128).collect();
        let mut by = By::default();
        for (key, id) in [((1, 'a'), 0), ((1, 'b'), 1), ((1, 'b'), 2), ((2, 'a'), 3)] {
            by.set(key, ids[id], true);
        }
        assert_eq!(by.of((1, 'b')).collect::<Vec<_>>(), ids[1..3]);
        assert_eq!(by.one((1, 'c')), None);
        assert_eq!(by.keys((1, '\0')..=(1, char::MAX)).collect::<Vec<_>>(), [&(1, 'a'), &(1, 'b')]);
        assert_eq!(by.range((1, 'b')..=(2, 'a')).count(), 3);
        for (key, id) in [((1, 'a'), 0), ((1, 'b'), 1), ((1, 'b'), 2), ((2, 'a'), 3)] {
            by.set(key, ids[id], false);
        }
        assert!(by.is_empty());
    }
}
