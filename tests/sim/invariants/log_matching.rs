//! Two logs that hold an entry of the same index and term are equal up to it (R6; Raft paper, 5.3).
//!
//! It is enough that every (index, term) has one content and one predecessor, in whichever log it
//! ever stood; the rest follows by induction.

use std::collections::BTreeMap;

use quorumd::base::{Index, NodeId, Term};
use quorumd::raft::{Entry, Payload};

/// All entries that ever stood in a log.
#[derive(Debug, Default)]
pub struct LogMatching {
    seen: BTreeMap<(Index, Term), (Term, Payload)>,
}

impl LogMatching {
    /// A node appends an entry behind one of term `previous`.
    pub fn appended(&mut self, node: NodeId, previous: Term, entry: &Entry) {
        let (index, term) = (entry.index, entry.term);
        let known =
            self.seen.entry((index, term)).or_insert_with(|| (previous, entry.payload.clone()));
        crate::ensure!(
            known.0 == previous && known.1 == entry.payload,
            "log_matching",
            "n{node} has {index}@{term} after term {previous}, others after {}",
            known.0
        );
        crate::ensure!(
            previous <= term,
            "log_matching",
            "n{node} has {index}@{term} after term {previous}"
        );
    }
}
