//! What a leader does: append, count acknowledgements, commit, and speak with nothing to say.
//!
//! How far a member is, and whether more may be sent, is kept in `progress`; what is sent to it, in
//! `feeding`; rounds of reads are in `read`.

use std::collections::BTreeMap;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, NodeId};
use crate::raft::change;
use crate::raft::feeding::Pace;
use crate::raft::progress::Feed;
use crate::raft::quorum;
use crate::raft::read::Rounds;
use crate::raft::roles::{Leader, State};
use crate::raft::{AppendRejection, Body, Entry, Payload, Raft};

impl Leader {
    /// A leader whose first entry will stand at `opening`.
    pub(super) fn new(raft: &Raft, opening: Index) -> Self {
        let last = opening.previous();
        let parting = change::parting_from(raft);
        let members = raft.membership().members().keys().filter(|node| **node != raft.node);
        let nodes = members.chain(parting.keys());
        let feeds: BTreeMap<NodeId, Feed> =
            nodes.map(|node| (*node, raft.new_feed(*node, opening))).collect();
        Leader {
            feeds,
            parting,
            transfer: None,
            hand_over_at: raft.now,
            pace: Pace::new(raft.now),
            heartbeat_at: raft.now + raft.options.heartbeat_interval,
            opening,
            uncommitted_bytes: raft.log.bytes_between(raft.commit, last),
            rounds: Rounds::default(),
            dirty: true,
        }
    }
}

impl Raft {
    /// The feed of a node that is taken on when the leader's entry `next` is appended. One without
    /// a vote will be where the commit index is.
    pub(super) fn new_feed(&self, node: NodeId, next: Index) -> Feed {
        let voter = self.membership().is_voter(node);
        Feed::new(if voter { next } else { self.commit.next() }, self.now)
    }

    /// Appends an entry of its own to the leader's log. It goes out with the next `Ready`.
    pub(super) fn append_own(&mut self, payload: Payload) {
        let entry = Entry { term: self.term, index: self.log.last_index().next(), payload };
        let State::Leader(leader) = &mut self.state else {
            panic!("node {} appends entry {} and does not lead", self.node, entry.index)
        };
        leader.uncommitted_bytes += entry.size_bytes() as u64;
        leader.dirty = true;
        self.log.append(entry);
    }

    /// `from` holds everything up to `matched`, durably.
    pub(super) fn append_accepted(&mut self, from: NodeId, matched: Index) {
        let (now, last, start) = (self.now, self.log.last_index(), self.log.start_index());
        let Some(feed) = self.feed(from) else { return };
        feed.heard(now);
        // Beyond our own log there is nothing that it can have from us.
        if matched > last || !feed.accepted(matched, start, now) {
            return;
        }
        self.set_dirty();
        self.advance_commit();
        self.hand_over_to(from);
        self.release_parting();
    }

    /// The append after `rejection.prev_index` did not fit at `from`.
    pub(super) fn append_rejected(&mut self, from: NodeId, rejection: AppendRejection) {
        let (now, last) = (self.now, self.log.last_index());
        let AppendRejection { prev_index, hint_index, hint_term, .. } = rejection;
        let hint = self.log.last_possible_agreement(hint_index.min(prev_index), hint_term);
        let Some(feed) = self.feed(from) else { return };
        feed.heard(now);
        if mutation::active(Mutation::RejectionCounts) {
            feed.accepted(prev_index.min(last), Index(0), now);
        }
        // Nothing was ever sent after an entry that we do not have.
        if prev_index <= last && feed.rejected(prev_index, hint) {
            self.set_dirty();
        }
    }

    /// `from` follows, and answers the heartbeat of `round`.
    pub(super) fn heartbeat_response(&mut self, from: NodeId, round: u64, last_index: Index) {
        let now = self.now;
        let State::Leader(leader) = &mut self.state else { return };
        let Some(feed) = leader.feeds.get_mut(&from) else { return };
        feed.heard(now);
        leader.dirty |= feed.heartbeat_answered(last_index, now, &self.options);
        // It may have been away when it was cut off.
        leader.dirty |= feed.is_cut_off(&self.log) && feed.snapshot_index().is_none();
        self.round_answered(from, round);
        self.hand_over_to(from);
    }

    /// Speaks to everybody, or steps down when a quorum has been silent for an election timeout: it
    /// cannot commit anything, and must not keep clients and voters from another leader.
    pub(super) fn heartbeat_due(&mut self) {
        if !self.has_quorum_contact() {
            self.become_follower(self.term, None);
            return;
        }
        let (now, interval) = (self.now, self.options.heartbeat_interval);
        let timeout = self.options.election_timeout;
        let State::Leader(leader) = &mut self.state else { return };
        // By the schedule, not by when we came around to it, or delays would add up.
        let scheduled = leader.heartbeat_at + interval;
        leader.heartbeat_at = if scheduled > now { scheduled } else { now + interval };
        for feed in leader.feeds.values_mut() {
            if !feed.is_active(now, timeout) {
                feed.gave_no_answer(now);
            }
        }
        let round = leader.rounds.current_number();
        self.all_matched = self.known_by_all();
        let nodes = self.heartbeat_listeners();
        self.send_heartbeats(&nodes, round);
        self.release_parting();
        self.settle_configuration();
    }

    /// Sends a heartbeat of `round` to each of `nodes` but this one.
    pub(super) fn send_heartbeats(&mut self, nodes: &[NodeId], round: u64) {
        let all_matched = self.all_matched;
        for node in nodes {
            let commit = self.commit;
            let Some(feed) = self.feed(*node) else { continue };
            let unmatched = mutation::active(Mutation::HeartbeatCommitsUnmatched);
            let commit = if unmatched { commit } else { commit.min(feed.matched()) };
            self.send(*node, Body::Heartbeat { commit, round, all_matched });
        }
    }

    /// The index up to which every member is known to hold the log: on a leader from what they
    /// acknowledged, otherwise from what leaders have told. Once true, it stays true.
    pub(super) fn known_by_all(&self) -> Index {
        let State::Leader(leader) = &self.state else { return self.all_matched };
        let members = leader.feeds.iter().filter(|(node, _)| self.membership().contains(**node));
        let least = members.map(|(_, feed)| feed.matched()).min();
        let own = self.log.durable();
        self.all_matched.max(least.map_or(own, |least| least.min(own)))
    }

    /// Counts who holds what, and commits. Only an entry of the current term is committed by
    /// counting; earlier ones commit with it (paper, 5.4.2 and figure 8). This node counts for what
    /// is durable here, like any other (RELIABILITY B9).
    pub(super) fn advance_commit(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        let unwritten = mutation::active(Mutation::LeaderCountsUnwritten);
        let own = if unwritten { self.log.last_index() } else { self.log.durable() };
        let node = self.node;
        let agreed = quorum::agreed(self.membership(), |voter| {
            if voter == node {
                own
            } else {
                leader.feeds.get(&voter).map_or(Index(0), Feed::matched)
            }
        });
        let any_term = mutation::active(Mutation::CommitOldTermByCounting);
        let own_term = self.log.term_at(agreed) == Some(self.term);
        if agreed <= self.commit || !(own_term || any_term) {
            return;
        }
        assert!(agreed >= leader.opening || any_term, "{agreed} commits before the term's opening");
        let bytes = self.log.bytes_between(self.commit, agreed);
        self.commit_to(agreed);
        let State::Leader(leader) = &mut self.state else { return };
        leader.uncommitted_bytes -= bytes;
        leader.dirty = true;
        self.settle_configuration();
    }

    pub(super) fn set_dirty(&mut self) {
        if let State::Leader(leader) = &mut self.state {
            leader.dirty = true;
        }
    }

    /// The progress of `member`, when this node leads and feeds it.
    fn feed(&mut self, member: NodeId) -> Option<&mut Feed> {
        match &mut self.state {
            State::Leader(leader) => leader.feeds.get_mut(&member),
            _ => None,
        }
    }
}
