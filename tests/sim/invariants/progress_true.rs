//! What a leader counts is on that member's disk (R9, R17; RELIABILITY B4, B16): an acknowledgement
//! of an earlier term, a refusal, or a guess must not move what it believes of a follower.

use quorumd::base::{Index, NodeId};
use quorumd::raft::{Raft, Role};

use crate::shadow::Shadow;

/// A node was polled; `disk` is what a member's disk holds.
pub fn check<'a>(raft: &Raft, disk: impl Fn(NodeId) -> Option<&'a Shadow>) {
    if raft.role() != Role::Leader {
        return;
    }
    let (term, first) = (raft.term(), raft.first_index());
    for (member, progress) in raft.status().progress {
        let matched = progress.matched;
        // One that has seen a later term may have lost by right what it acknowledged in this one.
        let Some(disk) = disk(member).filter(|disk| disk.hard_state.term <= term) else { continue };
        if matched == Index(0) || matched < first || disk.cut.0 >= matched {
            continue;
        }
        crate::ensure!(
            disk.term_at(matched) == raft.term_at(matched),
            "progress_true",
            "the leader of {term} believes that n{member} holds {matched} of {:?}; its disk has \
             {:?} there",
            raft.term_at(matched),
            disk.term_at(matched)
        );
    }
}
