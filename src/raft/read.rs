//! At which index a linearizable read may be served (dissertation, 6.4): the commit index at the
//! time of asking, once a quorum has confirmed after the asking that this node still leads.
//!
//! Waiting until that index is applied, and the read itself, are the caller's.

use std::collections::BTreeSet;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, NodeId, ReadContext, limits};
use crate::raft::quorum;
use crate::raft::roles::State;
use crate::raft::{Body, Raft, ReadState};

/// Why a read was not taken. Nothing has changed, and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// Too many batches of reads wait already.
    #[error("{reads_max} batches of reads wait already")]
    TooMany {
        /// How many may wait.
        reads_max: usize,
    },
}

/// The reads that a leader holds.
///
/// Rounds are numbered from 1 within a term and never reused, and at most one is under way. A read
/// joins only a round that starts after it was asked: an answer to an earlier heartbeat proves
/// nothing about the time of the read (RELIABILITY E2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rounds {
    last_number: u64,
    waiting: BTreeSet<(NodeId, ReadContext)>,
    current: Option<Round>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    number: u64,
    index: Index,
    answered: BTreeSet<NodeId>,
    reads: BTreeSet<(NodeId, ReadContext)>,
}

impl Rounds {
    /// The round under way, or zero.
    pub(super) fn current_number(&self) -> u64 {
        self.current.as_ref().map_or(0, |round| round.number)
    }

    fn can_start(&self) -> bool {
        self.current.is_none() && !self.waiting.is_empty()
    }

    /// Whether a read waits here already.
    fn holds(&self, asker: NodeId, context: ReadContext) -> bool {
        let read = (asker, context);
        self.waiting.contains(&read)
            || self.current.as_ref().is_some_and(|round| round.reads.contains(&read))
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.current.as_ref().map_or(0, |round| round.reads.len())
    }
}

impl Raft {
    /// See [`Raft::read`].
    pub(super) fn ask_read(&mut self, context: ReadContext) -> Result<(), ReadError> {
        let node = self.node;
        let reads_max = limits::PENDING_REQUESTS_MAX;
        match &mut self.state {
            State::Leader(leader) => {
                if leader.rounds.holds(node, context) {
                    return Ok(());
                }
                if leader.rounds.len() >= reads_max {
                    return Err(ReadError::TooMany { reads_max });
                }
                leader.rounds.waiting.insert((node, context));
                leader.dirty = true;
            }
            State::Follower(follower) => {
                let leader = follower.leader.ok_or(ReadError::NoLeader)?;
                if follower.reads.len() >= reads_max {
                    return Err(ReadError::TooMany { reads_max });
                }
                if follower.reads.insert(context, self.now).is_none() {
                    self.send(leader, Body::ReadRequest { context });
                }
            }
            State::Candidate(_) | State::PreCandidate(_) => return Err(ReadError::NoLeader),
        }
        Ok(())
    }

    /// A member asks through us. When too many wait, it is dropped: the member asks again.
    pub(super) fn read_request(&mut self, from: NodeId, context: ReadContext) {
        let State::Leader(leader) = &mut self.state else { return };
        if leader.rounds.len() < limits::PENDING_REQUESTS_MAX && !leader.rounds.holds(from, context)
        {
            leader.rounds.waiting.insert((from, context));
            leader.dirty = true;
        }
    }

    /// The leader answers a read that we asked for.
    pub(super) fn read_response(&mut self, context: ReadContext, index: Index) {
        let State::Follower(follower) = &mut self.state else { return };
        if follower.reads.remove(&context).is_some() {
            self.out.reads.push(ReadState { context, index });
        }
    }

    /// The leader is there: asks again for what it has not answered for a heartbeat interval, in
    /// case the question or the answer was lost.
    pub(super) fn repeat_reads(&mut self, leader: NodeId) {
        let (now, interval) = (self.now, self.options.heartbeat_interval);
        let State::Follower(follower) = &mut self.state else { return };
        let mut overdue = Vec::new();
        for (context, asked) in &mut follower.reads {
            if now.since(*asked) >= interval {
                *asked = now;
                overdue.push(*context);
            }
        }
        for context in overdue {
            self.send(leader, Body::ReadRequest { context });
        }
    }

    /// Starts a round for all reads that wait, unless one is under way or this leader does not know
    /// yet what earlier leaders committed (RELIABILITY E1).
    pub(super) fn start_round(&mut self) {
        let confirmed = self.is_leader_confirmed();
        let State::Leader(leader) = &mut self.state else { return };
        let early = mutation::active(Mutation::ReadBeforeOpening);
        if !(confirmed || early) || !leader.rounds.can_start() {
            return;
        }
        leader.rounds.last_number += 1;
        let number = leader.rounds.last_number;
        let reads = std::mem::take(&mut leader.rounds.waiting);
        let answered = BTreeSet::from([self.node]);
        leader.rounds.current = Some(Round { number, index: self.commit, answered, reads });
        if self.finish_round() {
            return;
        }
        let membership = self.membership();
        let voters: Vec<NodeId> =
            membership.voters().union(membership.outgoing()).copied().collect();
        self.send_heartbeats(&voters, number);
    }

    /// `from` answered a heartbeat of the round `number`. Exactly the round under way counts.
    pub(super) fn round_answered(&mut self, from: NodeId, number: u64) {
        let State::Leader(leader) = &mut self.state else { return };
        let Some(round) = &mut leader.rounds.current else { return };
        if round.number != number && !mutation::active(Mutation::ReadByOlderRound) {
            return;
        }
        round.answered.insert(from);
        if self.finish_round() {
            self.set_dirty();
        }
    }

    /// Gives up all reads that wait here for an answer: the role or the leader changes.
    pub(super) fn abort_reads(&mut self) {
        let node = self.node;
        let aborted: Vec<ReadContext> = match &mut self.state {
            State::Follower(follower) => std::mem::take(&mut follower.reads).into_keys().collect(),
            State::Leader(leader) => {
                let rounds = std::mem::take(&mut leader.rounds);
                let started = rounds.current.into_iter().flat_map(|round| round.reads);
                let own = started.chain(rounds.waiting).filter(|(asker, _)| *asker == node);
                own.map(|(_, context)| context).collect()
            }
            State::Candidate(_) | State::PreCandidate(_) => Vec::new(),
        };
        self.out.reads_aborted.extend(aborted);
    }

    /// Answers the reads of the round under way when a quorum has confirmed it. Whether it has.
    fn finish_round(&mut self) -> bool {
        let node = self.node;
        let State::Leader(leader) = &mut self.state else { return false };
        let membership = self.configurations.current();
        let Some(round) = leader.rounds.current.take_if(|round| {
            mutation::active(Mutation::ReadWithoutQuorum)
                || quorum::is_quorum(membership, |voter| round.answered.contains(&voter))
        }) else {
            return false;
        };
        assert!(
            round.index >= leader.opening || mutation::active(Mutation::ReadBeforeOpening),
            "read index {} before the opening",
            round.index
        );
        for (asker, context) in round.reads {
            if asker == node {
                self.out.reads.push(ReadState { context, index: round.index });
            } else {
                self.send(asker, Body::ReadResponse { context, index: round.index });
            }
        }
        true
    }
}
