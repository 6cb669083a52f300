//! Which configuration is in force: the newest in the log, committed or not (dissertation, 4.1).
//!
//! It takes force when it is appended and loses it when it is truncated. What a configuration says
//! is in `membership`.

use std::collections::VecDeque;

use crate::base::Index;
use crate::raft::Membership;

/// The configuration at the start of the log and every later one that the log holds.
///
/// Invariants: never empty; indexes strictly grow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Configurations {
    list: VecDeque<(Index, Membership)>,
}

impl Configurations {
    /// Only the configuration in force at `index`, where the log starts.
    pub(super) fn new(index: Index, membership: Membership) -> Self {
        Self { list: VecDeque::from([(index, membership)]) }
    }

    /// The one in force.
    pub(super) fn current(&self) -> &Membership {
        &self.list.back().expect("the configuration at the start of the log is always kept").1
    }

    /// The index of the entry that holds the one in force.
    pub(super) fn current_index(&self) -> Index {
        self.list.back().expect("the configuration at the start of the log is always kept").0
    }

    /// The newest one at or below `commit`, and its index.
    pub(super) fn committed(&self, commit: Index) -> (Index, &Membership) {
        let found = self.list.iter().rev().find(|(index, _)| *index <= commit);
        let (index, membership) = found.expect("the one at the start of the log is committed");
        (*index, membership)
    }

    /// Every configuration with the one before it, oldest first.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Membership, Index, &Membership)> {
        let pairs = self.list.iter().zip(self.list.iter().skip(1));
        pairs.map(|((_, before), (index, after))| (before, *index, after))
    }

    pub(super) fn append(&mut self, index: Index, membership: Membership) {
        let newest = self.current_index();
        assert!(index > newest, "configuration at {index} appended after that at {newest}");
        self.list.push_back((index, membership));
    }

    /// Forgets those of entries from `index` on: the one before is in force again.
    pub(super) fn truncate_from(&mut self, index: Index) {
        while self.list.len() > 1 && self.current_index() >= index {
            self.list.pop_back();
        }
        let newest = self.current_index();
        assert!(newest < index, "truncation at {index} reaches the first configuration {newest}");
    }

    /// Forgets those that are no longer needed when the log starts after `index`.
    pub(super) fn compact(&mut self, index: Index) {
        while self.list.get(1).is_some_and(|(next, _)| *next <= index) {
            self.list.pop_front();
        }
    }

    /// The log begins anew after `index`, with this configuration: no other is known any more.
    pub(super) fn restart(&mut self, index: Index, membership: Membership) {
        *self = Self::new(index, membership);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &(Index, Membership)> {
        self.list.iter()
    }
}
