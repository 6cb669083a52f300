//! When the state is saved in the background, and how far the log is cut behind it.
//!
//! One save is under way at a time. The log is cut only behind what is saved; of that, what every
//! member has, and what is more than is kept for members that are behind: they get a snapshot.

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, Instant};
use crate::raft::Retain;
use crate::replica::{Action, Now, Options, Replica};
use crate::state::RowChange;
use crate::storage::Cut;

/// What was saved, what is being saved, and what has been applied since.
///
/// Invariants:
/// - `saved` never moves back, and never passes what was applied.
/// - At most one save is under way.
/// - The state on disk is never ahead of the log on disk: an entry may be committed, and applied,
///   by the others' disks before it is on this one.
#[derive(Debug)]
pub(super) struct Checkpoint {
    saved: Index,
    saving: Option<Index>,
    /// A save that waits until its index is durable in the log here.
    held: Option<Vec<RowChange>>,
    entries: u64,
    bytes: u64,
    due: Option<Instant>,
    cut: Option<Cut>,
    save_interval: crate::base::Span,
    /// A state is being put in the place of the saved one: nothing is saved meanwhile.
    paused: bool,
}

impl Checkpoint {
    pub(super) fn new(saved: Index, options: &Options) -> Self {
        Self {
            saved,
            saving: None,
            held: None,
            entries: 0,
            bytes: 0,
            due: None,
            cut: None,
            save_interval: options.save_interval,
            paused: false,
        }
    }

    /// The applied index of the last durable save.
    pub(super) fn saved_index(&self) -> Index {
        self.saved
    }

    /// An entry was applied.
    pub(super) fn applied(&mut self, size_bytes: usize, now: Instant) {
        self.entries += 1;
        self.bytes += size_bytes as u64;
        if self.due.is_none() {
            self.due = Some(now + self.save_interval);
        }
    }

    /// The save under way is durable.
    pub(super) fn saved(&mut self) {
        if let Some(index) = self.saving.take() {
            assert!(index >= self.saved, "a save of {index} came after one of {}", self.saved);
            self.saved = index;
        }
    }

    /// Saves nothing more until [`resume`](Self::resume). False, and nothing changes, while a save
    /// is under way: its rows must not come after those of another state.
    pub(super) fn pause(&mut self) -> bool {
        if self.saving.is_none() {
            self.paused = true;
        }
        self.saving.is_none()
    }

    /// Saves go on; after an install, from the state that took the place of the saved one.
    pub(super) fn resume(&mut self, installed: Option<Index>) {
        self.paused = false;
        let Some(index) = installed else { return };
        assert!(self.saving.is_none(), "a save is under way while {index} was installed");
        assert!(index > self.saved, "{index} was installed over {}", self.saved);
        self.saved = index;
        (self.entries, self.bytes, self.due, self.cut) = (0, 0, None, None);
    }

    /// A cut to be written with the next batch.
    pub(super) fn take_cut(&mut self) -> Option<Cut> {
        self.cut.take()
    }

    /// When a save is due even if no more is applied.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.saving.is_some() || self.paused { None } else { self.due }
    }

    fn is_due(&self, options: &Options, now: Instant) -> bool {
        self.saving.is_none()
            && !self.paused
            && (self.entries >= options.save_after_entries
                || self.bytes >= options.save_after_bytes
                || self.due.is_some_and(|due| due <= now))
    }
}

impl Replica {
    /// Starts a save when one is due, and cuts the log behind the last one.
    pub(super) fn save_and_cut(&mut self, now: Now) {
        // A state that differs from the others' is not made more durable.
        if self.checkpoint.is_due(&self.options, now.instant) && !self.is_fenced() {
            let mut view = Self::view_mut(&self.view);
            let changes = view.machine.take_row_changes();
            let index = view.machine.applied_index();
            drop(view);
            self.checkpoint.saving = Some(index);
            (self.checkpoint.entries, self.checkpoint.bytes) = (0, 0);
            self.checkpoint.due = None;
            self.checkpoint.held = Some(changes);
        }
        let early = mutation::active(Mutation::SaveAheadOfLog);
        // Both: an entry that was durable here may have been replaced by one that is not yet, which
        // only the core knows; and where a log begins anew, only the write itself tells.
        let is_durable = |index| index <= self.durable_last.1.min(self.raft.durable());
        if self.checkpoint.held.is_some()
            && self.checkpoint.saving.is_some_and(|index| early || is_durable(index))
            && let Some(changes) = self.checkpoint.held.take()
        {
            self.actions.push(Action::Save(changes));
        }
        let retain = Retain {
            entries: self.options.log_retained_entries,
            bytes: self.options.log_retained_bytes,
        };
        let unsaved = mutation::active(Mutation::LogCutBeyondSave);
        let saved = if unsaved { self.raft.status().applied } else { self.checkpoint.saved };
        let up_to = saved.min(self.raft.compactable(retain));
        let first = self.raft.first_index();
        if up_to.since(first.previous()) >= self.options.cut_entries_min {
            let (term, membership) = self.raft.compact(up_to);
            self.checkpoint.cut = Some(Cut { index: up_to, term, membership: Some(membership) });
        }
    }
}
