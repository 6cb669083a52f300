//! Terms never decrease, not even over a crash (R4), and a node votes once per term (R2; Raft
//! paper, 5.2). Votes are those that were sent: what matters is what others can have seen.

use std::collections::BTreeMap;

use quorumd::base::{NodeId, Term};
use quorumd::raft::{Body, Campaign, HardState, Membership, Message};

/// The terms and votes that nodes have shown.
#[derive(Debug, Default)]
pub struct VoteUnique {
    terms: BTreeMap<NodeId, Term>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    written: BTreeMap<(NodeId, Term), NodeId>,
}

impl VoteUnique {
    /// A running node is in this term.
    pub fn term(&mut self, node: NodeId, term: Term) {
        let known = self.terms.entry(node).or_default();
        crate::ensure!(*known <= term, "term_monotone", "n{node} goes from {known} to {term}");
        *known = term;
    }

    /// A node leads from now on: a quorum of each half of the members has voted for it (R1, R14).
    pub fn leads(&self, node: NodeId, term: Term, membership: &Membership) {
        let voted =
            |voter: &&NodeId| **voter == node || self.votes.get(&(**voter, term)) == Some(&node);
        for half in [membership.voters(), membership.outgoing()] {
            let votes: Vec<&NodeId> = half.iter().filter(voted).collect();
            crate::ensure!(
                half.is_empty() || votes.len() > half.len() / 2,
                "elected_by_quorum",
                "n{node} leads term {term} by the votes of {votes:?} of {half:?}"
            );
        }
    }

    /// A node hands out what it will remember of its votes.
    pub fn written(&mut self, node: NodeId, state: &HardState) {
        let known = self.written.get(&(node, state.term)).copied();
        crate::ensure!(
            known.is_none() || known == state.vote,
            "vote_unique",
            "n{node} had voted for {known:?} in term {}, and writes {:?}",
            state.term,
            state.vote
        );
        if let Some(vote) = state.vote {
            self.written.insert((node, state.term), vote);
        }
    }

    /// A node crashed: what it had not written is forgotten, what it wrote is not.
    pub fn crashed(&mut self, node: NodeId, durable: &HardState) {
        self.terms.insert(node, durable.term);
        if durable.vote.is_none() {
            self.written.remove(&(node, durable.term));
        }
        self.written.retain(|(of, term), _| *of != node || *term <= durable.term);
    }

    /// A message leaves a node.
    pub fn sent(&mut self, message: &Message) {
        let candidate = match message.body {
            Body::VoteResponse { campaign, granted: true } if campaign != Campaign::PreVote => {
                message.to
            }
            Body::VoteRequest { campaign, .. } if campaign != Campaign::PreVote => message.from,
            _ => return,
        };
        let vote = self.votes.entry((message.from, message.term)).or_insert(candidate);
        crate::ensure!(
            *vote == candidate,
            "vote_unique",
            "n{} votes for n{vote} and n{candidate} in term {}",
            message.from,
            message.term
        );
    }
}
