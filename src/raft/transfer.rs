//! Handing the lead over (dissertation, 3.10): to whom, when it is told, and when it is given up.
//!
//! How votes are asked for and given is in `election`.

use crate::base::{Index, Instant, NodeId};
use crate::raft::core::POSITION_MAX;
use crate::raft::roles::State;
use crate::raft::{Body, Campaign, Raft};

/// Why the lead is not being handed over. Nothing has changed, and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The node needs entries that were cut from the log: it cannot be brought up in time.
    #[error("{to} is too far behind")]
    Behind {
        /// Who was to lead.
        to: NodeId,
    },
    /// The node leads already.
    #[error("this node leads already")]
    LeadsAlready,
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The node is no voter, or is about to lose its vote.
    #[error("{to} is no voter")]
    NotVoter {
        /// Who was to lead.
        to: NodeId,
    },
    /// The node has not been heard from for an election timeout.
    #[error("{to} is not heard from")]
    Silent {
        /// Who was to lead.
        to: NodeId,
    },
}

/// A hand-over under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    /// Who shall lead.
    pub(super) to: NodeId,
    /// When it is given up.
    pub(super) deadline: Instant,
}

impl Raft {
    /// Lets `to` lead: it is brought up to the end of the log, while proposals are refused, and
    /// then told to campaign at once. Given up after an election timeout, when this node still
    /// leads. Asked again for the same node, it changes nothing; for another, the other takes its
    /// place.
    pub fn transfer(&mut self, now: Instant, to: NodeId) -> Result<(), TransferError> {
        self.advance_clock(now);
        let State::Leader(leader) = &self.state else {
            return Err(TransferError::NotLeader { leader: self.leader() });
        };
        if to == self.node {
            return Err(TransferError::LeadsAlready);
        }
        if leader.transfer.is_some_and(|transfer| transfer.to == to) {
            return Ok(());
        }
        let feed = leader.feeds.get(&to).filter(|_| self.membership().voters().contains(&to));
        let feed = feed.ok_or(TransferError::NotVoter { to })?;
        if !feed.is_active(self.now, self.options.election_timeout) {
            return Err(TransferError::Silent { to });
        }
        if feed.is_cut_off(&self.log) {
            return Err(TransferError::Behind { to });
        }
        self.begin_transfer(to);
        Ok(())
    }

    /// To whom this leader is handing over.
    pub fn transferring(&self) -> Option<NodeId> {
        let State::Leader(leader) = &self.state else { return None };
        leader.transfer.map(|transfer| transfer.to)
    }

    /// The voter, other than this leader, that holds most of the log of those that were heard from
    /// within an election timeout; of equals the one with the least id. In a joint configuration,
    /// of those that keep their vote.
    pub fn successor(&self) -> Option<NodeId> {
        let State::Leader(leader) = &self.state else { return None };
        let timeout = self.options.election_timeout;
        let mut best: Option<(Index, NodeId)> = None;
        for node in self.membership().voters() {
            let Some(feed) = leader.feeds.get(node) else { continue };
            let fit = feed.is_active(self.now, timeout) && !feed.is_cut_off(&self.log);
            if fit && best.is_none_or(|(matched, _)| feed.matched() > matched) {
                best = Some((feed.matched(), *node));
            }
        }
        best.map(|(_, node)| node)
    }

    /// Nothing is proposed from now on, so that `to` can reach the end of the log.
    pub(super) fn begin_transfer(&mut self, to: NodeId) {
        assert!(to != self.node, "{to} hands over to itself");
        let deadline = self.now + self.options.election_timeout;
        let State::Leader(leader) = &mut self.state else {
            panic!("{} hands over to {to} and does not lead", self.node)
        };
        leader.transfer = Some(Transfer { to, deadline });
        leader.dirty = true;
        self.hand_over_to(to);
    }

    /// Tells `from` to campaign when it is the one that shall lead and holds the whole log. Said
    /// again with every answer to a heartbeat: it may have been lost.
    pub(super) fn hand_over_to(&mut self, from: NodeId) {
        let State::Leader(leader) = &self.state else { return };
        if leader.transfer.is_none_or(|transfer| transfer.to != from) {
            return;
        }
        let matched = leader.feeds.get(&from).map(|feed| feed.matched());
        if matched == Some(self.log.last_index()) {
            self.send(from, Body::TimeoutNow);
        }
    }

    /// When the hand-over under way is given up.
    pub(super) fn transfer_deadline(&self) -> Option<Instant> {
        let State::Leader(leader) = &self.state else { return None };
        leader.transfer.map(|transfer| transfer.deadline)
    }

    /// It took too long: this node goes on leading.
    pub(super) fn abort_transfer(&mut self) {
        let again = self.now + self.options.election_timeout;
        let State::Leader(leader) = &mut self.state else { return };
        leader.transfer = None;
        leader.hand_over_at = again;
        leader.dirty = true;
        self.settle_configuration();
    }

    /// The leader hands over to this node. Only the one that this node follows in this term can:
    /// anything else is late or a lie. No pre-vote is needed, the leader itself gives way.
    pub(super) fn timeout_now(&mut self, from: NodeId) {
        let State::Follower(follower) = &self.state else { return };
        let voter = self.membership().is_voter(self.node);
        if follower.leader != Some(from) || !voter || self.term.get() >= POSITION_MAX {
            return;
        }
        self.abort_reads();
        self.become_candidate();
        self.request_votes(Campaign::Transfer);
    }
}
