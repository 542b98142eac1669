//! Values that many owners have in common, kept once. Who asks gives the value's hash, the same each time;
//! an owner that is done gives its reference back, and the last one's return frees the value.

use std::collections::HashMap;
use std::sync::Arc;

/// See the module comment.
pub struct Shared<T> {
    by_hash: HashMap<u64, Vec<Arc<T>>, foldhash::fast::RandomState>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { by_hash: HashMap::default() }
    }
}

impl<T: PartialEq> Shared<T> {
    /// The one value that equals `value`.
    pub fn keep(&mut self, hash: u64, value: T) -> Arc<T> {
        let same = self.by_hash.entry(hash).or_default();
        if let Some(own) = same.iter().find(|own| ***own == value) {
            return own.clone();
        }
        same.push(Arc::new(value));
        same[same.len() - 1].clone()
    }

    /// Takes a reference back.
    pub fn give_back(&mut self, hash: u64, value: &Arc<T>) {
        // This one and our own.
        if Arc::strong_count(value) > 2 {
            return;
        }
        if let Some(same) = self.by_hash.get_mut(&hash) {
            same.retain(|own| !Arc::ptr_eq(own, value));
            if same.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// Gives spare memory back.
    pub fn shrink(&mut self) {
        self.by_hash.shrink_to_fit();
    }

    /// Different values.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_hash.values().map(Vec::len).sum()
    }
}
