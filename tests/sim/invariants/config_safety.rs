//! Configurations follow each other so that any two that can decide have a node in common (R14;
//! dissertation 4.1 and 4.3; RELIABILITY D1 to D3): one at a time, after an entry of the leader's
//! own term, and more than one voter only by way of a joint one that is committed before it is
//! left.
//!
//! That the newest configuration of a log is the one in force is checked by `quorumd::raft::check`.

use std::collections::BTreeMap;

use quorumd::base::{Index, NodeId};
use quorumd::raft::{Entry, Membership, Payload, Raft, Role};

use super::committed_kept::CommittedKept;

/// The committed configurations.
#[derive(Debug, Default)]
pub struct ConfigSafety {
    all: BTreeMap<Index, Membership>,
    /// How many were committed.
    pub changes: u64,
    /// How many of them were joint.
    pub joint: u64,
}

impl ConfigSafety {
    /// A cluster begins with this.
    pub fn begin(&mut self, membership: &Membership) {
        self.all.insert(Index(0), membership.clone());
    }

    /// The newest that is committed.
    pub fn newest(&self) -> &Membership {
        self.at(Index(u64::MAX))
    }

    /// All that were committed.
    pub fn all(&self) -> impl Iterator<Item = &Membership> {
        self.all.values()
    }

    /// The one that was committed at or before an index.
    pub fn at(&self, index: Index) -> &Membership {
        self.all.range(..=index).next_back().expect("a cluster begins with one").1
    }

    /// A leader appends an entry; others may do so with what leaders have sent.
    pub fn appended(&self, node: NodeId, entry: &Entry, raft: &Raft, committed: &CommittedKept) {
        let Payload::Membership(next) = &entry.payload else { return };
        if raft.role() != Role::Leader || entry.term != raft.term() {
            return;
        }
        let last = committed.entry(committed.last());
        crate::ensure!(
            last.is_some_and(|last| last.term == entry.term),
            "config_own_term",
            "n{node} changes the members at {} in term {}; committed is {:?}",
            entry.index,
            entry.term,
            last.map(|last| (last.index, last.term))
        );
        let mut index = entry.index.previous();
        while index > committed.last() {
            let earlier = raft.entry(index).map(|entry| &entry.payload);
            crate::ensure!(
                !matches!(earlier, Some(Payload::Membership(_))),
                "config_one_at_a_time",
                "n{node} appends {next:?} at {}, the one at {index} is not committed",
                entry.index
            );
            index = index.previous();
        }
    }

    /// An entry is committed.
    pub fn committed(&mut self, entry: &Entry) {
        let Payload::Membership(next) = &entry.payload else { return };
        let (at, last) = self.all.last_key_value().expect("a cluster begins with one");
        let follows = if next.is_joint() {
            !last.is_joint() && next.outgoing() == last.voters()
        } else if last.is_joint() {
            next.voters() == last.voters()
        } else {
            next.voters().symmetric_difference(last.voters()).count() <= 1
        };
        crate::ensure!(
            follows,
            "config_safety",
            "{next:?} at {} follows {last:?} at {at}",
            entry.index
        );
        self.changes += 1;
        self.joint += u64::from(next.is_joint());
        self.all.insert(entry.index, next.clone());
    }
}
