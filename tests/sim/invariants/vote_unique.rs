//! Terms never decrease, not even over a crash (R4), and a node votes once per term (R2; Raft
//! paper, 5.2). Votes are those that were sent: what matters is what others can have seen.

use std::collections::BTreeMap;

use quorumd::base::{NodeId, Term};
use quorumd::raft::{Body, Campaign, Message};

/// The terms and votes that nodes have shown.
#[derive(Debug, Default)]
pub struct VoteUnique {
    terms: BTreeMap<NodeId, Term>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl VoteUnique {
    /// A running node is in this term.
    pub fn term(&mut self, node: NodeId, term: Term) {
        let known = self.terms.entry(node).or_default();
        crate::ensure!(*known <= term, "term_monotone", "n{node} goes from {known} to {term}");
        *known = term;
    }

    /// A node crashed: what it had not written is forgotten, what it wrote is not.
    pub fn crashed(&mut self, node: NodeId, durable: Term) {
        self.terms.insert(node, durable);
    }

    /// A message leaves a node.
    pub fn sent(&mut self, message: &Message) {
        let candidate = match message.body {
            Body::VoteResponse { campaign: Campaign::Vote, granted: true } => message.to,
            Body::VoteRequest { campaign: Campaign::Vote, .. } => message.from,
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
