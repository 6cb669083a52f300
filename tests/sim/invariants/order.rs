//! Log cut <= saved state <= durable log (R12; RELIABILITY C19, F10): a state that is ahead of the
//! log on its own disk, or behind where that log begins, cannot be started from.
//!
//! The order of commit and applied within a process is checked by `quorumd::raft::check`; that both
//! only grow (R13) here and by the oracle.

use std::collections::BTreeMap;

use quorumd::base::{Index, NodeId, Term};
use quorumd::storage::LogBatch;

use crate::shadow::Shadow;

/// How far each node was seen.
#[derive(Debug, Default)]
pub struct Order {
    applied: BTreeMap<(NodeId, u64), Index>,
}

impl Order {
    /// A write is durable on a node whose state is saved up to `saved`.
    pub fn written(&self, node: NodeId, saved: Index, batch: &LogBatch) {
        let Some(cut) = &batch.cut else { return };
        crate::ensure!(
            cut.index <= saved,
            "order",
            "n{node} cuts its log after {}, its state is saved up to {saved}",
            cut.index
        );
    }

    /// A state is durable on a node whose disk holds `durable`.
    pub fn saved(&self, node: NodeId, (index, term): (Index, Term), durable: &Shadow) {
        crate::ensure!(
            index <= durable.cut.0 || durable.term_at(index) == Some(term),
            "order",
            "n{node} saves its state at {index}@{term}, its log ends at {:?}",
            durable.entries.keys().last()
        );
    }

    /// A node has applied this much in this life.
    pub fn applied(&mut self, node: NodeId, life: u64, applied: Index) {
        let known = self.applied.entry((node, life)).or_default();
        crate::ensure!(
            *known <= applied,
            "applied_monotone",
            "n{node} goes from {known} to {applied}"
        );
        *known = applied;
    }
}
