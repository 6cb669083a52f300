//! What a follower does with what its leader sends: append at a match, truncate only at a real
//! conflict, commit no further than what is proven equal.
//!
//! Reads that are asked through a follower are in `read`.

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, NodeId, Term};
use crate::raft::roles::State;
use crate::raft::{AppendRejection, Body, Entry, Payload, Raft};

impl Raft {
    /// `from` speaks as the leader of the current term. Whether it can be: there is one per term,
    /// so another one, or one besides ourselves, is a lie and is not followed.
    pub(super) fn follow(&mut self, from: NodeId) -> bool {
        match &mut self.state {
            State::Leader(_) => return false,
            State::Candidate(_) | State::PreCandidate(_) => {
                self.become_follower(self.term, Some(from));
                return true;
            }
            State::Follower(follower) => {
                if follower.leader.is_some_and(|leader| leader != from) {
                    return false;
                }
                follower.leader = Some(from);
                follower.heard = Some(self.now);
            }
        }
        let deadline = self.draw_deadline();
        if let State::Follower(follower) = &mut self.state {
            follower.deadline = deadline;
        }
        true
    }

    /// Takes entries of the leader `from` (paper, figure 2, AppendEntries).
    pub(super) fn append_request(
        &mut self,
        from: NodeId,
        prev_index: Index,
        prev_term: Term,
        mut entries: Vec<Entry>,
        commit: Index,
    ) {
        let (mut prev_index, mut prev_term) = (prev_index, prev_term);
        let start = self.log.start_index();
        if prev_index < start {
            // What was cut is committed, and the leader of a later term holds the same: only the
            // rest is compared.
            let covered = start.since(prev_index).min(entries.len() as u64) as usize;
            entries.drain(..covered);
            prev_index = start;
            prev_term = self.log.term_at(start).expect("the term at the start is kept");
        }
        if self.log.term_at(prev_index) != Some(prev_term) {
            self.reject_append(from, prev_index, prev_term);
            return;
        }
        let matched = prev_index.plus(entries.len() as u64);
        if !self.take_entries(entries) {
            return;
        }
        let unproven = mutation::active(Mutation::AppendCommitsUnproven);
        self.commit_to(commit.min(if unproven { self.log.last_index() } else { matched }));
        self.accept_append(from, matched);
    }

    /// Takes a heartbeat of the leader `from`.
    pub(super) fn heartbeat(
        &mut self,
        from: NodeId,
        commit: Index,
        round: u64,
        all_matched: Index,
    ) {
        // An honest leader tells no more than what we acknowledged. When we hold less, we lost
        // entries, and what we hold at that index may be something else (RELIABILITY B8).
        if commit <= self.log.last_index() {
            self.commit_to(commit);
        }
        self.all_matched = self.all_matched.max(all_matched);
        let last_index = self.log.last_index();
        self.send(from, Body::HeartbeatResponse { round, last_index });
        self.repeat_reads(from);
    }

    /// Everything up to `index` is committed.
    pub(super) fn commit_to(&mut self, index: Index) {
        let last = self.log.last_index();
        assert!(index <= last, "commit to {index} beyond the last entry {last}");
        self.commit = self.commit.max(index);
    }

    /// Appends what is missing of `entries`, whose first follows an entry that is equal in both
    /// logs. Nothing is removed unless an entry of another term stands in its place: an append that
    /// is late or repeated must not shorten the log (RELIABILITY B2). Whether they were taken.
    fn take_entries(&mut self, entries: Vec<Entry>) -> bool {
        let known = entries
            .iter()
            .take_while(|entry| self.log.term_at(entry.index) == Some(entry.term))
            .take_while(|entry| {
                !mutation::active(Mutation::TruncateWithoutConflict) || entry.index <= self.commit
            })
            .count();
        let mut news = entries.into_iter().skip(known).peekable();
        let Some(first) = news.peek().map(|entry| entry.index) else { return true };
        if first <= self.log.last_index() {
            if first <= self.commit {
                // Only a leader that lost committed entries can ask for this. Not us.
                return false;
            }
            self.log.truncate_from(first);
            self.configurations.truncate_from(first);
            self.writes.truncate_from(first);
        }
        for entry in news {
            if let Payload::Membership(membership) = &entry.payload {
                self.configurations.append(entry.index, membership.clone());
            }
            self.log.append(entry);
        }
        true
    }

    /// Claims `matched` once it is durable; at once when it is already, and so is the term: a node
    /// that forgot the term could let an older leader replace what it claimed.
    fn accept_append(&mut self, from: NodeId, matched: Index) {
        let body = Body::AppendAccepted { matched };
        if mutation::active(Mutation::AckBeforeSync) {
            self.send(from, body);
            return;
        }
        if matched <= self.log.durable() && self.writes.durable_term() == self.term {
            self.send(from, body);
            return;
        }
        self.claim_after_persist(from, matched);
    }

    /// Claims `matched` once everything that was decided so far is durable.
    pub(super) fn claim_after_persist(&mut self, from: NodeId, matched: Index) {
        let body = Body::AppendAccepted { matched };
        // Several appends of one turn need one answer: the furthest.
        let term = self.term;
        if let Some(last) = self.out.messages_after_persist.last_mut()
            && last.to == from
            && last.term == term
            && let Body::AppendAccepted { matched: before } = &mut last.body
        {
            *before = matched.max(*before);
            return;
        }
        self.send_after_persist(from, body);
    }

    /// Says where the logs may still agree, so that the leader skips whole terms.
    fn reject_append(&mut self, from: NodeId, prev_index: Index, prev_term: Term) {
        let last_index = self.log.last_index();
        let possible = self.log.last_possible_agreement(prev_index.min(last_index), prev_term);
        // What is committed here is in the log of every later leader.
        let hint_index = possible.max(self.commit);
        let hint_term = self.log.term_at(hint_index).expect("what lies after the start is held");
        self.send(
            from,
            Body::AppendRejected(AppendRejection { prev_index, last_index, hint_index, hint_term }),
        );
    }
}
