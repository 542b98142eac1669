//! The members of one address set, and what a change makes of them at a cost that is the change's, not the set's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A member of an address set: address and prefix length.
pub type Member = (Ipv4Addr, u8);

/// See the module comment.
#[derive(Clone, Debug, Default)]
pub struct Members {
    all: BTreeSet<Member>,
    /// How many there are of each prefix length.
    lengths: BTreeMap<u8, usize>,
}

impl Members {
    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.iter()
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether it is one.
    #[must_use]
    pub fn contains(&self, member: &Member) -> bool {
        self.all.contains(member)
    }

    /// Puts one in.
    pub fn insert(&mut self, member: Member) {
        if self.all.insert(member) {
            *self.lengths.entry(member.1).or_default() += 1;
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, member: &Member) {
        if self.all.remove(member)
            && let Some(count) = self.lengths.get_mut(&member.1)
        {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&member.1);
            }
        }
    }
}

/// What changes do to a set: members that come and go, none of them twice, none of them already done.
#[derive(Debug, Default)]
pub struct Difference {
    /// Members the set does not have.
    pub added: BTreeSet<Member>,
    /// Members the set has.
    pub removed: BTreeSet<Member>,
}

impl Difference {
    /// One member more.
    pub fn add(&mut self, before: Option<&Members>, member: Member) {
        if !self.removed.remove(&member) && !before.is_some_and(|before| before.contains(&member)) {
            self.added.insert(member);
        }
    }

    /// One member fewer.
    pub fn remove(&mut self, before: Option<&Members>, member: Member) {
        if !self.added.remove(&member) && before.is_some_and(|before| before.contains(&member)) {
            self.removed.insert(member);
        }
    }

    /// All members fewer.
    pub fn clear(&mut self, before: Option<&Members>) {
        self.added.clear();
        self.removed = before.map(|before| before.all.clone()).unwrap_or_default();
    }

    /// How many there are afterwards.
    #[must_use]
    pub fn count(&self, before: Option<&Members>) -> usize {
        before.map_or(0, Members::count) + self.added.len() - self.removed.len()
    }

    /// The prefix lengths that members have afterwards.
    #[must_use]
    pub fn lengths(&self, before: Option<&Members>) -> BTreeSet<u8> {
        let mut lengths: BTreeMap<u8, usize> = before.map(|before| before.lengths.clone()).unwrap_or_default();
        for (_, length) in &self.added {
            *lengths.entry(*length).or_default() += 1;
        }
        for (_, length) in &self.removed {
            if let Some(count) = lengths.get_mut(length) {
                *count -= 1;
            }
        }
        lengths.into_iter().filter(|(_, count)| *count > 0).map(|(length, _)| length).collect()
    }
}
