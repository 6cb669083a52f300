//! One node of the consensus protocol: its state, its terms, its roles, and who may speak to it.
//!
//! What a role does with a message is decided in `election`, `follower`, `replication` and `read`;
//! what is handed out and when, in `ready`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, Instant, NodeId, ReadContext, Rng, Span, Term};
use crate::raft::configurations::Configurations;
use crate::raft::log::Log;
use crate::raft::quorum;
use crate::raft::ready::Writes;
use crate::raft::restored;
use crate::raft::roles::{Campaigner, Follower, Leader, State};
use crate::raft::{
    Body, Entry, Membership, Message, Options, Payload, ReadError, Ready, RestoreError, Restored,
    Role, Status,
};

/// Terms and indexes above this are refused when they come from outside. No cluster counts so far;
/// a peer that claims to have would otherwise bring our own counters to their end.
pub(super) const POSITION_MAX: u64 = 1 << 62;

/// One node's part in the protocol. See the [module](crate::raft) for the contract of its use.
///
/// Invariants (checked as a whole by [`check`](crate::raft::check)):
/// - The term never decreases; within a term the vote, once given, never changes.
/// - `applied <= handed to apply <= commit <= last index`; none of them ever decreases.
/// - No entry at or below the commit index is ever replaced.
/// - A leader's log only grows, and its last term is the current one.
/// - The configuration in force is the newest in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    pub(super) node: NodeId,
    pub(super) options: Options,
    pub(super) rng: Rng,
    /// The latest time that was handed in.
    pub(super) now: Instant,
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) commit: Index,
    pub(super) applied: Index,
    /// Every member is known to hold the log durably up to here.
    pub(super) all_matched: Index,
    pub(super) log: Log,
    pub(super) configurations: Configurations,
    pub(super) state: State,
    pub(super) writes: Writes,
    /// What the next `Ready` will hand out.
    pub(super) out: Ready,
}

/// Where a proposal stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The term in which it was appended. An entry that commits at one of the indexes in another
    /// term is another proposal.
    pub term: Term,
    /// The index of the first command.
    pub first: Index,
    /// The index of the last command.
    pub last: Index,
}

/// Why nothing was proposed. Nothing has changed, and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// This node is handing over the lead.
    #[error("the lead is being handed over to {to}")]
    Transferring {
        /// Who shall lead.
        to: NodeId,
    },
    /// Too much waits for its commit already.
    #[error("{bytes} bytes of proposals wait for their commit, the most allowed is {bytes_max}")]
    TooMuchUncommitted {
        /// Bytes that wait.
        bytes: u64,
        /// Bytes that may wait.
        bytes_max: u64,
    },
}

impl Raft {
    /// A node as a follower of nobody, from what its disk held at `now`. Refuses what cannot have
    /// been written by a node of this program.
    pub fn new(
        node: NodeId,
        options: Options,
        mut restored: Restored,
        mut rng: Rng,
        now: Instant,
    ) -> Result<Raft, RestoreError> {
        restored::verify(&restored)?;
        if mutation::active(Mutation::TailForgottenAtRestart) {
            restored.entries.retain(|entry| entry.index <= restored.hard_state.commit);
        }
        let Restored { hard_state, snapshot_index, snapshot_term, membership, .. } = restored;
        let mut configurations = Configurations::new(snapshot_index, membership);
        for entry in &restored.entries {
            if let Payload::Membership(membership) = &entry.payload {
                configurations.append(entry.index, membership.clone());
            }
        }
        let timeout = options.election_timeout.as_micros();
        let wait = Span::from_micros(rng.between(timeout, timeout.saturating_mul(2)));
        let alone = {
            let membership = configurations.current();
            membership.is_voter(node) && quorum::is_quorum(membership, |voter| voter == node)
        };
        // Nobody to wait for.
        let deadline = if alone { now } else { now + wait };
        let commit = hard_state.commit.max(restored.applied).max(snapshot_index);
        let follower = Follower { leader: None, heard: None, deadline, reads: BTreeMap::new() };
        Ok(Raft {
            node,
            options,
            rng,
            now,
            term: hard_state.term,
            vote: hard_state.vote,
            commit,
            applied: restored.applied,
            all_matched: snapshot_index,
            log: Log::restored(snapshot_index, snapshot_term, restored.entries),
            configurations,
            state: State::Follower(follower),
            writes: Writes::restored(hard_state, restored.applied),
            out: Ready::default(),
        })
    }

    /// Takes a message from the network. Messages for others, of a shape that no node of this
    /// program sends, and late ones change nothing. Whom the transport lets in is heard.
    pub fn step(&mut self, now: Instant, message: Message) {
        self.advance_clock(now);
        if !self.listens_to(&message) {
            return;
        }
        let Message { from, term, body, .. } = message;
        match body {
            Body::VoteRequest { campaign, last_index, last_term } => {
                self.vote_request(from, term, campaign, last_index, last_term);
            }
            Body::VoteResponse { campaign, granted } => {
                self.vote_response(from, term, campaign, granted);
            }
            body => self.step_in_term(from, term, body),
        }
    }

    /// Does what is due at `now`. Late and spurious calls are harmless.
    pub fn timeout(&mut self, now: Instant) {
        self.advance_clock(now);
        let now = self.now;
        match &self.state {
            State::Leader(_) => self.leader_timeout(),
            State::Follower(follower) if now >= follower.deadline => {
                if self.membership().is_voter(self.node) {
                    self.campaign();
                } else {
                    self.become_follower(self.term, None);
                }
            }
            State::Candidate(campaigner) | State::PreCandidate(campaigner)
                if now >= campaigner.deadline =>
            {
                self.campaign();
            }
            _ => {}
        }
    }

    /// When [`timeout`](Raft::timeout) wants to be called next, unless something happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Leader(_) => self.leader_deadline(),
            State::Candidate(campaigner) | State::PreCandidate(campaigner) => {
                Some(campaigner.deadline)
            }
            State::Follower(follower) => {
                let waits = follower.leader.is_some() || self.membership().is_voter(self.node);
                waits.then_some(follower.deadline)
            }
        }
    }

    /// Appends commands to the leader's log, in order and at consecutive indexes, as one append.
    /// They are committed, or not, later; panics when there are none.
    pub fn propose(
        &mut self,
        now: Instant,
        commands: Vec<Bytes>,
    ) -> Result<Proposed, ProposeError> {
        self.advance_clock(now);
        assert!(!commands.is_empty(), "a proposal without commands has no index");
        let bytes_max = self.options.uncommitted_bytes_max as u64;
        let State::Leader(leader) = &self.state else {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(ProposeError::Transferring { to: transfer.to });
        }
        // With nothing waiting, one proposal is taken however large: it is legal by its own limits.
        let bytes = leader.uncommitted_bytes;
        let more: u64 = commands.iter().map(|command| command.len() as u64).sum();
        if bytes > 0 && bytes + more > bytes_max {
            return Err(ProposeError::TooMuchUncommitted { bytes, bytes_max });
        }
        let first = self.log.last_index().next();
        for command in commands {
            self.append_own(Payload::Command(command));
        }
        Ok(Proposed { term: self.term, first, last: self.log.last_index() })
    }

    /// Asks for the index at which a linearizable read that is named `context` may be served. The
    /// answer comes in [`Ready::reads`] or [`Ready::reads_aborted`]. All reads that are asked
    /// before the next [`ready`](Raft::ready) share one round of heartbeats. Asking again under a
    /// name that still waits changes nothing.
    pub fn read(&mut self, now: Instant, context: ReadContext) -> Result<(), ReadError> {
        self.advance_clock(now);
        self.ask_read(context)
    }

    /// The transport says that its connection to `peer` broke and that it cannot dial it again.
    /// When `peer` leads, a voter campaigns after a short random wait instead of its election
    /// timeout, and no longer refuses others who do. Pre-vote keeps a leader that lives from being
    /// disturbed.
    pub fn leader_lost(&mut self, now: Instant, peer: NodeId) {
        self.advance_clock(now);
        let jitter = self.options.leader_lost_jitter.as_micros();
        let State::Follower(follower) = &self.state else { return };
        if follower.leader != Some(peer) {
            return;
        }
        let wait = Span::from_micros(self.rng.between(0, jitter));
        self.become_follower(self.term, None);
        let State::Follower(follower) = &mut self.state else { return };
        follower.deadline = follower.deadline.min(self.now + wait);
    }

    /// The first index that is still held, or would be.
    pub fn first_index(&self) -> Index {
        self.log.first_index()
    }

    /// The last index of the log.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// The term of the entry at `index`, if it is held or is the one that the log starts after.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// What this node is now.
    pub fn role(&self) -> Role {
        match &self.state {
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Follower(_) if self.membership().is_voter(self.node) => Role::Follower,
            State::Follower(_) => Role::Learner,
        }
    }

    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.state {
            State::Leader(_) => Some(self.node),
            State::Follower(follower) => follower.leader,
            State::Candidate(_) | State::PreCandidate(_) => None,
        }
    }

    /// The highest index known to be committed.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The highest index known durable here.
    pub fn durable(&self) -> Index {
        self.log.durable()
    }

    /// The configuration in force: the newest in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        self.configurations.current()
    }

    /// Whether this node leads and has committed an entry of its own term: only then does it know
    /// everything that was committed before it.
    pub fn is_leader_confirmed(&self) -> bool {
        match &self.state {
            State::Leader(leader) => self.commit >= leader.opening,
            _ => false,
        }
    }

    /// Bytes of the entries that are held.
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// The entry at `index`, if it is held.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// A copy of what matters.
    pub fn status(&self) -> Status {
        let progress = match &self.state {
            State::Leader(leader) => leader
                .feeds
                .iter()
                .map(|(node, feed)| (*node, feed.progress(&self.log, self.now, &self.options)))
                .collect(),
            _ => BTreeMap::new(),
        };
        Status {
            node: self.node,
            role: self.role(),
            term: self.term,
            leader: self.leader(),
            vote: self.vote,
            commit: self.commit,
            applied: self.applied,
            persisted: self.durable(),
            first_index: self.log.first_index(),
            last_index: self.log.last_index(),
            membership: self.membership().clone(),
            progress,
            term_opened: self.is_leader_confirmed(),
        }
    }

    /// Handles everything but votes, whose terms have rules of their own (paper, 5.1: an older term
    /// is refused, a newer one is adopted at once).
    fn step_in_term(&mut self, from: NodeId, term: Term, body: Body) {
        let from_leader = matches!(body, Body::AppendRequest { .. } | Body::Heartbeat { .. });
        let counts = mutation::active(Mutation::AnswerOfEarlierTermCounts)
            && matches!(body, Body::AppendAccepted { .. });
        if term < self.term && !counts {
            // The sender thinks that it leads; with pre-vote and stickiness in place nothing else
            // would ever tell it that it does not (RELIABILITY A4).
            if from_leader {
                let last_index = self.log.last_index();
                self.send(from, Body::HeartbeatResponse { round: 0, last_index });
            }
            return;
        }
        if term > self.term {
            self.become_follower(term, from_leader.then_some(from));
        }
        if from_leader && !self.follow(from) {
            return;
        }
        match body {
            Body::AppendRequest { prev_index, prev_term, entries, commit } => {
                self.append_request(from, prev_index, prev_term, entries, commit);
            }
            Body::Heartbeat { commit, round, all_matched } => {
                self.heartbeat(from, commit, round, all_matched);
            }
            Body::AppendAccepted { matched } => self.append_accepted(from, matched),
            Body::AppendRejected(rejection) => self.append_rejected(from, rejection),
            Body::HeartbeatResponse { round, last_index } => {
                self.heartbeat_response(from, round, last_index);
            }
            Body::ReadRequest { context } => self.read_request(from, context),
            Body::ReadResponse { context, index } => self.read_response(context, index),
            Body::TimeoutNow => self.timeout_now(from),
            Body::VoteRequest { .. } | Body::VoteResponse { .. } => {}
        }
    }

    /// Whether `message` may be looked at: addressed to us and well-formed.
    ///
    /// Whether the sender is a member of the configuration in force does not matter (dissertation,
    /// 4.1): a learner here may be a voter of a later configuration that we do not hold yet, and so
    /// may we (RELIABILITY A13); a member that we do not know may lead. The transport decides who
    /// is let in; what counts votes and acknowledgements looks at the configuration.
    fn listens_to(&self, message: &Message) -> bool {
        message.to == self.node
            && message.from != self.node
            && message.term.get() <= POSITION_MAX
            && match &message.body {
                Body::AppendRequest { prev_index, prev_term, entries, .. } => {
                    is_well_formed(message.term, *prev_index, *prev_term, entries)
                }
                Body::Heartbeat { .. } => message.term > Term(0),
                _ => true,
            }
    }

    /// Takes on a term and follows `leader`, or nobody. The one way to a newer term but the node's
    /// own campaign, and the one way out of every other role.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        let current = self.term;
        assert!(term >= current, "term would go back from {current} to {term}");
        assert!(leader != Some(self.node), "node {} would follow itself", self.node);
        let same_leader = term == current && leader.is_some() && leader == self.leader();
        if !same_leader {
            self.abort_reads();
        }
        if term > current || mutation::active(Mutation::VoteForgottenInTerm) {
            self.term = term;
            self.vote = None;
        }
        // A follower that only learns a newer term waits no longer than it would have: else a
        // candidate that cannot win could keep those from campaigning who can.
        let deadline = match &self.state {
            State::Follower(follower) if leader.is_none() && term > current => follower.deadline,
            _ => self.draw_deadline(),
        };
        let heard = leader.map(|_| self.now);
        self.switch(State::Follower(Follower { leader, heard, deadline, reads: BTreeMap::new() }));
    }

    /// Asks the voters whether a campaign would be won, in the same term and without a vote.
    pub(super) fn become_pre_candidate(&mut self) {
        self.abort_reads();
        let deadline = self.draw_deadline();
        let votes = BTreeMap::from([(self.node, true)]);
        self.switch(State::PreCandidate(Campaigner { votes, deadline }));
    }

    /// Starts the next term with a vote for itself, which counts once it is durable.
    pub(super) fn become_candidate(&mut self) {
        self.term = self.term.next();
        self.vote = Some(self.node);
        let deadline = self.draw_deadline();
        self.switch(State::Candidate(Campaigner { votes: BTreeMap::new(), deadline }));
    }

    /// Takes the lead of the term that it won.
    pub(super) fn become_leader(&mut self) {
        if mutation::active(Mutation::NewLeaderDropsTail) {
            self.log.truncate_from(self.commit.next());
        }
        let last = self.log.last_index();
        let leader = Leader::new(self, last.next());
        self.switch(State::Leader(leader));
        // Entries of earlier terms commit only together with one of this term (paper, 5.4.2).
        self.append_own(Payload::Empty);
    }

    /// The one place where the role changes.
    fn switch(&mut self, next: State) {
        let (node, term) = (self.node, self.term);
        let voter = self.membership().is_voter(node);
        match (&self.state, &next) {
            (_, State::Follower(_)) => {}
            (State::Leader(_), _) => panic!("leader {node} of term {term} can only step down"),
            (
                State::PreCandidate(_) | State::Candidate(_) | State::Follower(_),
                State::PreCandidate(_),
            ) => {
                assert!(voter, "{node} asks for pre-votes and is no voter");
            }
            // Without a pre-vote, when the leader hands over.
            (State::PreCandidate(_) | State::Follower(_), State::Candidate(_)) => {
                assert!(voter, "{node} asks for votes and is no voter");
                assert_eq!(self.vote, Some(node), "candidate of term {term} voted for another");
            }
            (State::Candidate(_), State::Leader(_)) => {
                assert!(voter, "{node} leads term {term} and is no voter");
                assert_eq!(self.vote, Some(node), "leader of term {term} voted for another");
                assert!(
                    self.log.last_term() < term,
                    "node {node} holds entries of term {term} before it leads it"
                );
            }
            (from, to) => panic!("no way from {from:?} to {to:?} on node {node} in term {term}"),
        }
        self.state = next;
    }

    /// A fresh random wait from now, of one to two election timeouts (paper, 5.2).
    pub(super) fn draw_deadline(&mut self) -> Instant {
        let timeout = self.options.election_timeout.as_micros();
        let wait = self.rng.between(timeout, timeout.saturating_mul(2));
        self.now + Span::from_micros(wait)
    }

    /// Sends at once, in parallel with the disk.
    pub(super) fn send(&mut self, to: NodeId, body: Body) {
        self.send_with_term(to, self.term, body);
    }

    /// Sends at once, in the name of a term that need not be ours.
    pub(super) fn send_with_term(&mut self, to: NodeId, term: Term, body: Body) {
        self.out.messages.push(Message { from: self.node, to, term, body });
    }

    /// Sends once everything that was decided so far is durable.
    pub(super) fn send_after_persist(&mut self, to: NodeId, body: Body) {
        let message = Message { from: self.node, to, term: self.term, body };
        self.out.messages_after_persist.push(message);
    }

    pub(super) fn advance_clock(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }
}

/// Whether entries are what a leader of `term` can send after (`prev_index`, `prev_term`).
fn is_well_formed(term: Term, prev_index: Index, prev_term: Term, entries: &[Entry]) -> bool {
    if term == Term(0) || prev_term > term || prev_index.get() > POSITION_MAX {
        return false;
    }
    let (mut index, mut least) = (prev_index, prev_term);
    for entry in entries {
        index = index.next();
        if entry.index != index || entry.term < least || entry.term > term {
            return false;
        }
        if let Payload::Membership(membership) = &entry.payload
            && membership.voters().is_empty()
        {
            return false;
        }
        least = entry.term;
    }
    // An entry of term zero was appended by no leader.
    entries.first().is_none_or(|entry| entry.term > Term(0))
}
