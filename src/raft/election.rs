//! Who may lead: pre-votes, votes, stickiness to a live leader, and check-quorum.
//!
//! When a node campaigns is decided by the deadlines in `core`; what a new leader does, in
//! `replication`.

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, NodeId, Term};
use crate::raft::core::POSITION_MAX;
use crate::raft::quorum::{self, Tally};
use crate::raft::roles::State;
use crate::raft::{Body, Campaign, Raft};

impl Raft {
    /// Tries to become leader, beginning with a pre-vote (dissertation, 9.6): a node that cannot
    /// win raises no term and disturbs nobody.
    pub(super) fn campaign(&mut self) {
        if self.term.get() >= POSITION_MAX {
            // Only reached when a member lied about its term; there is no next one.
            let deadline = self.draw_deadline();
            match &mut self.state {
                State::Follower(follower) => follower.deadline = deadline,
                State::Candidate(own) | State::PreCandidate(own) => own.deadline = deadline,
                State::Leader(_) => {}
            }
            return;
        }
        self.become_pre_candidate();
        if !self.count_votes() {
            self.request_votes(Campaign::PreVote);
        }
    }

    /// Answers a request for a pre-vote or a vote.
    pub(super) fn vote_request(
        &mut self,
        from: NodeId,
        term: Term,
        campaign: Campaign,
        last_index: Index,
        last_term: Term,
    ) {
        match campaign {
            Campaign::PreVote => {
                let granted =
                    !self.is_sticky() && self.would_vote(from, term, last_index, last_term);
                // A refusal carries our own term: when it is newer, the candidate learns it, or it
                // would ask in its old one for ever (RELIABILITY A5).
                let term = if granted { term } else { self.term };
                self.send_with_term(from, term, Body::VoteResponse { campaign, granted });
                if granted && mutation::active(Mutation::PreVoteTakesVote) {
                    self.vote = Some(from);
                }
                if !granted {
                    self.ask_again(from);
                }
            }
            Campaign::Transfer | Campaign::Vote => {
                if term > self.term {
                    // Not even the term is taken from a candidate while a leader is alive: a node
                    // that was away or removed must not depose it (dissertation, 4.2.3).
                    // Unless the leader itself wants it.
                    if campaign == Campaign::Vote && self.is_sticky() {
                        return;
                    }
                    self.become_follower(term, None);
                }
                let granted = self.would_vote(from, term, last_index, last_term);
                if !granted {
                    self.send(from, Body::VoteResponse { campaign, granted });
                    return;
                }
                assert!(
                    self.vote.is_none_or(|vote| vote == from),
                    "a second vote in term {}: {:?} and then {from}",
                    self.term,
                    self.vote
                );
                self.vote = Some(from);
                let deadline = self.draw_deadline();
                if let State::Follower(follower) = &mut self.state {
                    follower.deadline = deadline;
                }
                if mutation::active(Mutation::VoteBeforeSync) {
                    self.send(from, Body::VoteResponse { campaign, granted });
                    return;
                }
                self.send_after_persist(from, Body::VoteResponse { campaign, granted });
            }
        }
    }

    /// Counts an answer to our own campaign.
    pub(super) fn vote_response(
        &mut self,
        from: NodeId,
        term: Term,
        campaign: Campaign,
        granted: bool,
    ) {
        // A granted pre-vote echoes the term that we would campaign in; that is nobody's term yet.
        let echo = campaign == Campaign::PreVote && granted;
        if term > self.term && !echo {
            self.become_follower(term, None);
            return;
        }
        let current = self.term;
        let campaigner = match (&mut self.state, campaign) {
            (State::PreCandidate(own), Campaign::PreVote) => {
                if echo && term != current.next() {
                    return;
                }
                own
            }
            (State::Candidate(own), Campaign::Transfer | Campaign::Vote) if term == current => own,
            _ => return,
        };
        if !self.configurations.current().is_voter(from) {
            return;
        }
        // The first answer stands: a grant is not taken back by an older refusal, nor the reverse.
        campaigner.votes.entry(from).or_insert(granted);
        self.count_votes();
    }

    /// Our term and our vote for ourselves are durable: now it counts.
    pub(super) fn own_vote_durable(&mut self) {
        let node = self.node;
        if let State::Candidate(own) = &mut self.state {
            own.votes.insert(node, true);
            self.count_votes();
        }
    }

    /// Whether a quorum answered within the last election timeout (check-quorum, dissertation,
    /// 6.2).
    pub(super) fn has_quorum_contact(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let timeout = self.options.election_timeout;
        quorum::is_quorum(self.membership(), |voter| {
            voter == self.node
                || leader.feeds.get(&voter).is_some_and(|feed| feed.is_active(self.now, timeout))
        })
    }

    /// Acts when the count is decided. Whether it was.
    fn count_votes(&mut self) -> bool {
        let (votes, real) = match &self.state {
            State::PreCandidate(own) => (&own.votes, false),
            State::Candidate(own) => (&own.votes, true),
            State::Follower(_) | State::Leader(_) => return false,
        };
        match quorum::tally(self.membership(), |voter| votes.get(&voter).copied()) {
            Tally::Pending => return false,
            Tally::Lost => self.become_follower(self.term, None),
            Tally::Won if real => self.become_leader(),
            Tally::Won => {
                self.become_candidate();
                self.request_votes(Campaign::Vote);
            }
        }
        true
    }

    /// Asks every other voter.
    pub(super) fn request_votes(&mut self, campaign: Campaign) {
        let membership = self.membership();
        let voters: Vec<NodeId> =
            membership.voters().union(membership.outgoing()).copied().collect();
        for voter in voters {
            if voter != self.node {
                self.request_vote(voter, campaign);
            }
        }
    }

    /// A real vote is asked for only after our own is durable: else a crash could let us vote for
    /// another in a term in which we ask for votes. A pre-vote names the term that would be next.
    fn request_vote(&mut self, voter: NodeId, campaign: Campaign) {
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        let body = Body::VoteRequest { campaign, last_index, last_term };
        match campaign {
            Campaign::PreVote => self.send_with_term(voter, self.term.next(), body),
            Campaign::Transfer | Campaign::Vote => self.send_after_persist(voter, body),
        }
    }

    /// `from` asks for a pre-vote that we refuse. When it refused ours before, it still had a
    /// leader then and has none now: it is asked again. Else two voters that learn one after the
    /// other that their leader died could refuse each other, and wait for their election timeouts.
    fn ask_again(&mut self, from: NodeId) {
        let State::PreCandidate(own) = &mut self.state else { return };
        if own.votes.get(&from) != Some(&false) {
            return;
        }
        own.votes.remove(&from);
        self.request_vote(from, Campaign::PreVote);
    }

    /// Whether a leader is alive, as far as this node can tell: it heard from it, or as the leader
    /// itself from a quorum, within the election timeout. A voter that lost its leader
    /// ([`Raft::leader_lost`]) has heard from nobody.
    fn is_sticky(&self) -> bool {
        match &self.state {
            State::Follower(follower) => follower
                .heard
                .is_some_and(|heard| self.now.since(heard) < self.options.election_timeout),
            State::Leader(_) => self.has_quorum_contact(),
            State::Candidate(_) | State::PreCandidate(_) => false,
        }
    }

    /// Whether `from` would get our vote in `term` (paper, 5.2 and 5.4.1). Repeated requests of the
    /// candidate that has it are granted again: the first answer may be lost (RELIABILITY A18).
    fn would_vote(&self, from: NodeId, term: Term, last_index: Index, last_term: Term) -> bool {
        let free = term > self.term
            || term == self.term
                && match self.vote {
                    Some(vote) => vote == from,
                    None => self.leader().is_none(),
                };
        let complete = (last_term, last_index) >= (self.log.last_term(), self.log.last_index());
        free && (complete || mutation::active(Mutation::VoteToShorterLog))
    }
}
