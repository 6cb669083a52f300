//! What a leader does: append, feed every member, count acknowledgements, commit.
//!
//! How far a member is, and whether more may be sent, is kept in `progress`; rounds of reads are in
//! `read`.

use std::collections::BTreeMap;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, NodeId};
use crate::raft::change;
use crate::raft::progress::Feed;
use crate::raft::quorum;
use crate::raft::read::Rounds;
use crate::raft::roles::{Leader, State};
use crate::raft::{AppendRejection, Body, Entry, Message, Payload, Raft};

impl Leader {
    /// A leader whose first entry will stand at `opening`.
    pub(super) fn new(raft: &Raft, opening: Index) -> Self {
        let last = opening.previous();
        let parting = change::parting_from(raft);
        let members = raft.membership().members().keys().filter(|node| **node != raft.node);
        let feeds: BTreeMap<NodeId, Feed> = members
            .chain(parting.keys())
            .map(|node| (*node, Feed::new(opening, raft.now)))
            .collect();
        Leader {
            feeds,
            parting,
            transfer: None,
            hand_over_at: raft.now,
            heartbeat_at: raft.now + raft.options.heartbeat_interval,
            opening,
            uncommitted_bytes: raft.log.bytes_between(raft.commit, last),
            rounds: Rounds::default(),
            dirty: true,
        }
    }
}

impl Raft {
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
        let nodes: Vec<NodeId> = leader.feeds.keys().copied().collect();
        self.all_matched = self.known_by_all();
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

    /// Sends each member what it lacks, as far as its window allows.
    pub(super) fn feed_members(&mut self) {
        let Raft { state, log, options, now, commit, term, node, out, configurations, .. } = self;
        let State::Leader(leader) = state else { return };
        let (now, commit, log_last) = (*now, *commit, log.last_index());
        for (member, feed) in &mut leader.feeds {
            if feed.is_cut_off(log) {
                if feed.await_snapshot(now, options.election_timeout) {
                    out.snapshots.push(*member);
                }
                continue;
            }
            let limit = change::send_limit(configurations, commit, *member);
            let last_index = limit.map_or(log_last, |limit| limit.min(log_last));
            let mut nothing_sent = true;
            while !feed.is_paused(options) {
                let next = feed.next();
                let more = next <= last_index;
                // A follower answers its own clients when it applies: that something was committed
                // is worth a message of its own.
                let notice = nothing_sent
                    && (feed.is_probing() || feed.told_commit() < commit.min(next.previous()));
                if !more && !notice {
                    break;
                }
                let prev_index = next.previous();
                let prev_term = log.term_at(prev_index).expect("it is not cut off");
                let entries = log.slice(
                    next,
                    last_index,
                    options.append_bytes_max,
                    options.append_entries_max,
                );
                let last = entries.last().map_or(prev_index, |entry| entry.index);
                let bytes = entries.iter().map(Entry::size_bytes).sum();
                feed.sent(last, bytes, commit, now);
                nothing_sent = false;
                let body = Body::AppendRequest { prev_index, prev_term, entries, commit };
                out.messages.push(Message { from: *node, to: *member, term: *term, body });
            }
        }
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
