//! What a log file must hold, kept in the obvious way: of what was handed out to be written, and of
//! what was reported durable.

use std::collections::BTreeMap;

use quorumd::base::{Index, Term};
use quorumd::raft::{Entry, HardState};
use quorumd::storage::{LogBatch, RecoveredLog};

/// A log as a sequence of batches makes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shadow {
    /// The newest hard state.
    pub hard_state: HardState,
    /// Where the log begins.
    pub cut: (Index, Term),
    /// The entries behind it.
    pub entries: BTreeMap<Index, Entry>,
}

impl Shadow {
    /// What a start found.
    pub fn of(log: &RecoveredLog) -> Self {
        Self {
            hard_state: log.hard_state,
            cut: (log.cut.index, log.cut.term),
            entries: log.entries.iter().map(|entry| (entry.index, entry.clone())).collect(),
        }
    }

    /// Writes a batch.
    pub fn apply(&mut self, batch: &LogBatch) {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(begin) = &batch.begin {
            let holds = self.term_at(begin.index) == Some(begin.term);
            let behind = self.entries.split_off(&begin.index.next());
            self.entries = if holds { behind } else { BTreeMap::new() };
            self.cut = (begin.index, begin.term);
        }
        for append in &batch.entries {
            if let Some(first) = append.first() {
                self.entries.split_off(&first.index);
                self.entries.extend(append.iter().map(|entry| (entry.index, entry.clone())));
            }
        }
        if let Some(cut) = &batch.cut {
            self.entries = self.entries.split_off(&cut.index.next());
            self.cut = (cut.index, cut.term);
        }
    }

    /// The term of an entry, or of the place where the log begins.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.cut.0 {
            return Some(self.cut.1);
        }
        self.entries.get(&index).map(|entry| entry.term)
    }

    /// Whether the same entries, term and vote are there; the commit index is written lazily.
    pub fn promises_as(&self, other: &Shadow) -> bool {
        let promise = |shadow: &Shadow| (shadow.hard_state.term, shadow.hard_state.vote);
        promise(self) == promise(other) && self.cut == other.cut && self.entries == other.entries
    }
}
