//! At most one leader per term (R1; Raft paper, 5.2), over the whole run and across restarts.

use std::collections::BTreeMap;

use quorumd::base::{NodeId, Term};

/// Who led when.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl ElectionSafety {
    /// A node says that it leads. True when the term is new.
    pub fn leads(&mut self, node: NodeId, term: Term) -> bool {
        let known = self.leaders.insert(term, node);
        crate::ensure!(
            known.is_none_or(|known| known == node),
            "election_safety",
            "n{node} and n{} both lead term {term}",
            known.unwrap_or_default()
        );
        known.is_none()
    }

    /// How many terms had a leader.
    pub fn count(&self) -> u64 {
        self.leaders.len() as u64
    }
}
