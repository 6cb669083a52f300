//! A committed entry is on a quorum of disks (R10), is in the log of every later leader (R7) and is
//! never replaced (R11; Raft paper, 5.4).

use std::collections::BTreeSet;

use quorumd::base::{Index, NodeId, Term};
use quorumd::raft::{Entry, Membership, Raft};

/// All that was ever committed, by anyone.
#[derive(Debug, Default)]
pub struct CommittedKept {
    log: Vec<Entry>,
}

impl CommittedKept {
    /// How far is committed.
    pub fn last(&self) -> Index {
        Index(self.log.len() as u64)
    }

    /// The committed entry at an index.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(usize::try_from(index.previous().get()).ok()?).filter(|_| index.get() > 0)
    }

    /// A node holds this entry as committed. True when nobody did before.
    pub fn commits(&mut self, node: NodeId, entry: &Entry) -> bool {
        if entry.index == self.last().next() {
            self.log.push(entry.clone());
            return true;
        }
        let known = self.entry(entry.index);
        crate::ensure!(
            known == Some(entry),
            "committed_kept",
            "n{node} commits {}@{}, others {:?}",
            entry.index,
            entry.term,
            known.map(|known| known.term)
        );
        false
    }

    /// The newest committed index is on enough disks for one of these configurations.
    pub fn on_disks(
        &self,
        index: Index,
        holds: impl Fn(NodeId) -> bool,
        configurations: &[&Membership],
    ) {
        let enough = |half: &BTreeSet<NodeId>| {
            half.is_empty() || half.iter().filter(|node| holds(**node)).count() > half.len() / 2
        };
        let decides = |members: &Membership| enough(members.voters()) && enough(members.outgoing());
        let all = configurations.iter().flat_map(|members| members.members().keys());
        crate::ensure!(
            configurations.iter().any(|members| decides(members)),
            "committed_on_quorum",
            "{index} is committed and on the disks of {:?} only, by {configurations:?}",
            all.copied().filter(|node| holds(*node)).collect::<BTreeSet<NodeId>>()
        );
    }

    /// A node whose log holds `held` there writes `entry`. A deposed leader may append where others
    /// have committed; nobody may replace a committed entry that he has.
    pub fn appended(&self, node: NodeId, held: Option<Term>, entry: &Entry) {
        let known = self.entry(entry.index).filter(|known| held == Some(known.term));
        crate::ensure!(
            known.is_none_or(|known| known == entry),
            "committed_kept",
            "n{node} replaces committed {} of term {held:?} by one of term {}",
            entry.index,
            entry.term
        );
    }

    /// A node begins to lead.
    pub fn leads(&self, node: NodeId, term: Term, raft: &Raft) {
        for entry in self.log.iter().filter(|entry| entry.term < term) {
            let found = raft.term_at(entry.index);
            crate::ensure!(
                entry.index < raft.first_index() || found == Some(entry.term),
                "leader_completeness",
                "n{node} leads term {term} with {found:?} at {}, committed in term {}",
                entry.index,
                entry.term
            );
        }
    }
}
