//! A vote goes only to a candidate whose log is at least as complete as the voter's (R3; Raft
//! paper, 5.4.1).

use std::collections::BTreeMap;

use quorumd::base::{Index, NodeId, Term};
use quorumd::raft::{Body, Campaign, Message, Raft};

use crate::shadow::Shadow;

/// What candidates have said of their logs.
#[derive(Debug, Default)]
pub struct VoteLegal {
    candidates: BTreeMap<(NodeId, Term), (Term, Index)>,
}

impl VoteLegal {
    /// A message leaves a node that has handed `issued` to its disk.
    pub fn sent(&mut self, message: &Message, issued: &Shadow, raft: &Raft) {
        let term = message.term;
        match message.body {
            Body::VoteRequest { campaign, last_index, last_term }
                if campaign != Campaign::PreVote =>
            {
                self.candidates.insert((message.from, term), (last_term, last_index));
            }
            Body::VoteResponse { campaign, granted: true } if campaign != Campaign::PreVote => {
                // Entries that another winner of the same term has sent meanwhile are no reason.
                if raft.leader().is_some_and(|leader| leader != message.to) {
                    return;
                }
                let mut own = issued.entries.values().rev();
                let last = own.find(|entry| entry.term < term);
                let last = last.map_or((issued.cut.1, issued.cut.0), |e| (e.term, e.index));
                let candidate = self.candidates.get(&(message.to, term)).copied();
                crate::ensure!(
                    candidate.is_some_and(|candidate| candidate >= last),
                    "vote_legal",
                    "n{} with {last:?} votes in term {term} for n{}, which has {candidate:?}",
                    message.from,
                    message.to
                );
            }
            _ => {}
        }
    }
}
