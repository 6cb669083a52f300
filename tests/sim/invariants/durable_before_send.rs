//! An acknowledgement or a vote leaves only after what it promises is durable (R9; Raft paper,
//! figure 2). Compared with what the disk would hold after a crash at this instant.

use quorumd::raft::{Body, Campaign, Message, Raft};

use crate::shadow::Shadow;

/// A message leaves a node whose disk holds `durable`.
pub fn check(message: &Message, durable: &Shadow, raft: &Raft) {
    let (from, term) = (message.from, message.term);
    let held = durable.hard_state;
    match message.body {
        Body::AppendAccepted { matched } if term == raft.term() => {
            crate::ensure!(
                durable.term_at(matched).is_some_and(|t| Some(t) == raft.term_at(matched))
                    || matched < raft.first_index()
                    || matched.get() == 0,
                "durable_before_send",
                "n{from} acknowledges {matched} of term {term}; its disk has {:?} there",
                durable.term_at(matched)
            );
            crate::ensure!(
                held.term >= term,
                "durable_before_send",
                "n{from} acknowledges in term {term}; its disk is in term {}",
                held.term
            );
        }
        Body::VoteResponse { campaign, granted: true } if campaign != Campaign::PreVote => {
            let kept = held.term > term || (held.term, held.vote) == (term, Some(message.to));
            crate::ensure!(
                kept,
                "durable_before_send",
                "n{from} votes for n{} in term {term}; its disk has {held:?}",
                message.to
            );
        }
        Body::VoteRequest { campaign, .. } if campaign != Campaign::PreVote => {
            let kept = held.term > term || (held.term, held.vote) == (term, Some(from));
            crate::ensure!(
                kept,
                "durable_before_send",
                "n{from} campaigns in term {term}; its disk has {held:?}"
            );
        }
        _ => {}
    }
}
