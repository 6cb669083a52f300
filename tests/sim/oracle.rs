//! Looks at every node after every step, and at every message, write and answer.
//!
//! It knows what no node knows: true time, all disks, all that was ever committed. What must hold
//! is decided in `invariants/`.

use std::collections::{BTreeMap, BTreeSet};

use quorumd::base::{Index, LeaseId, NodeId, Term};
use quorumd::raft::{Body, Membership, Raft, Role};
use quorumd::replica::Published;
use quorumd::state::LeaseChange;
use quorumd::storage::LogBatch;
use quorumd::wire::PeerMessage;

use crate::invariants::committed_kept::CommittedKept;
use crate::invariants::config_safety::ConfigSafety;
use crate::invariants::durable_before_send;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::histories::Histories;
use crate::invariants::holder_exclusive::HolderExclusive;
use crate::invariants::lock_order::LockOrder;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::order::Order;
use crate::invariants::progress_true;
use crate::invariants::read_confirmed::ReadConfirmed;
use crate::invariants::state_agrees::StateAgrees;
use crate::invariants::store_model::StoreModel;
use crate::invariants::vote_legal::VoteLegal;
use crate::invariants::vote_unique::VoteUnique;
use crate::shadow::Shadow;

/// Everything that is known about a run.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Looks only at what is committed: for clusters of hundreds.
    pub light: bool,
    /// Who led.
    pub elections: ElectionSafety,
    votes: VoteUnique,
    legal: VoteLegal,
    logs: LogMatching,
    /// How far everything is, on each node.
    pub order: Order,
    /// Whom everybody follows.
    pub followed: ReadConfirmed,
    /// Who the members are.
    pub configs: ConfigSafety,
    store: StoreModel,
    locks: LockOrder,
    /// What is committed.
    pub committed: CommittedKept,
    /// What follows from it.
    pub truth: StateAgrees,
    /// What callers were told.
    pub histories: Histories,
    /// What holders were told.
    pub holders: HolderExclusive,
    /// How many states from elsewhere were installed.
    pub installs: u64,
    looked: BTreeMap<NodeId, (Index, u64)>,
    ended: BTreeSet<LeaseId>,
}

impl Oracle {
    /// A batch is handed out to be written behind `issued`, which already holds it afterwards.
    pub fn writes(&mut self, node: NodeId, issued: &mut Shadow, batch: &LogBatch, raft: &Raft) {
        if let Some(state) = &batch.hard_state {
            self.votes.written(node, state);
        }
        for entry in batch.entries.iter().flatten() {
            // A leader never replaces what it has (R5; Raft paper, 5.3).
            let own = raft.role() == Role::Leader && entry.term == raft.term();
            crate::ensure!(
                !own || issued.entries.last_key_value().is_none_or(|(last, _)| *last < entry.index),
                "leader_append_only",
                "n{node} leads {} and writes {} over its own log",
                raft.term(),
                entry.index
            );
            let before = entry.index.previous();
            let previous = if before == Index(0) { Some(Default::default()) } else { None };
            let previous = previous.or_else(|| issued.term_at(before));
            crate::ensure!(
                previous.is_some(),
                "log_matching",
                "n{node} writes {} behind nothing",
                entry.index
            );
            self.configs.appended(node, entry, raft, &self.committed);
            self.logs.appended(node, previous.unwrap_or_default(), entry);
            self.committed.appended(node, issued.term_at(entry.index), entry);
            issued.apply(&LogBatch { entries: vec![vec![entry.clone()]], ..LogBatch::default() });
        }
        let rest = LogBatch { entries: Vec::new(), ..batch.clone() };
        issued.apply(&rest);
        crate::ensure!(
            issued.hard_state.term <= raft.term(),
            "term_monotone",
            "n{node} writes term {} in term {}",
            issued.hard_state.term,
            raft.term()
        );
    }

    /// A message leaves a node whose disk holds `durable`.
    pub fn sends(&mut self, message: &PeerMessage, durable: &Shadow, issued: &Shadow, raft: &Raft) {
        let PeerMessage::Raft(message) = message else { return };
        durable_before_send::check(message, durable, raft);
        self.votes.sent(message);
        self.legal.sent(message, issued, raft);
        if let Body::AppendRequest { prev_index, entries, .. } = &message.body {
            let mut next = prev_index.next();
            for entry in entries {
                crate::ensure!(
                    entry.index == next,
                    "contiguous_append",
                    "n{} sends {} after {prev_index}",
                    message.from,
                    entry.index
                );
                next = next.next();
            }
        }
    }

    /// A node was polled. `disk` is what a member's disk holds.
    pub fn polled<'a>(
        &mut self,
        node: NodeId,
        life: u64,
        raft: &Raft,
        disk: impl Fn(NodeId) -> Option<&'a Shadow>,
    ) {
        self.votes.term(node, raft.term());
        if raft.role() == Role::Leader && self.elections.leads(node, raft.term()) {
            self.committed.leads(node, raft.term(), raft);
            self.votes.leads(node, raft.term(), raft.membership());
        }
        let (mut looked, before) = self.looked.get(&node).copied().unwrap_or_default();
        if before != life {
            looked = raft.first_index().previous();
        }
        let commit = raft.commit();
        crate::ensure!(commit >= looked || before != life, "commit_monotone", "n{node}: {commit}");
        let mut news = false;
        while looked < commit {
            looked = looked.next();
            let Some(entry) = raft.entry(looked) else { continue };
            if self.committed.commits(node, entry) {
                news = true;
                self.configs.committed(entry);
                if let Some((command, applied)) = self.truth.committed(entry) {
                    self.store.applied(entry, &command, &applied);
                    self.locks.applied(entry, &command, &applied, self.truth.machine());
                }
            }
        }
        self.looked.insert(node, (looked.max(commit), life));
        if !self.light {
            progress_true::check(raft, &disk);
        }
        if news {
            let leads = raft.role() == Role::Leader;
            let found = raft.term_at(commit);
            // Whoever leads is the first to know: it counts entries of its own term only (R10;
            // Raft paper, figure 8), whatever follows from it.
            crate::ensure!(
                !leads || found == Some(raft.term()),
                "commit_rule",
                "n{node} leads term {} and commits {commit} of term {found:?}",
                raft.term()
            );
            let term = raft.term_at(commit);
            let holds = |member: NodeId| {
                disk(member).is_some_and(|d| d.term_at(commit) == term || d.cut.0 >= commit)
            };
            // The leader may have appended the next configuration since it counted.
            let configurations = [raft.membership(), self.configs.at(commit)];
            self.committed.on_disks(commit, holds, &configurations);
        }
    }

    /// A state from elsewhere is durable on a node (R16): it ends at a committed entry, and comes
    /// with the configuration that was committed there. That the state is right is seen when it is
    /// shown.
    pub fn installed(&mut self, node: NodeId, (index, term): (Index, Term), members: &Membership) {
        self.installs += 1;
        let known = self.committed.entry(index).map(|entry| entry.term);
        crate::ensure!(
            known == Some(term) && self.configs.at(index) == members,
            "snapshot_sound",
            "n{node} installs {index}@{term} with {members:?}; committed is {known:?} with {:?}",
            self.configs.at(index)
        );
    }

    /// A node shows what it has applied.
    pub fn published(&mut self, now: u64, node: NodeId, published: &Published) {
        for events in &published.events {
            self.truth.published(node, events);
        }
        for change in &published.leases {
            if let LeaseChange::Ended(lease) = change
                && self.ended.insert(*lease)
            {
                self.holders.ended(now, *lease);
            }
        }
    }

    /// Whether this lease was seen to end.
    pub fn has_ended(&self, lease: LeaseId) -> bool {
        self.ended.contains(&lease)
    }

    /// A node crashed; its disk still holds `durable`.
    pub fn crashed(&mut self, node: NodeId, durable: &Shadow) {
        self.votes.crashed(node, &durable.hard_state);
    }
}
