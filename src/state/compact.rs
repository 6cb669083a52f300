//! Forgetting history: which versions go when the oldest readable revision moves up.
//!
//! When to compact is decided by the leader in `replica/`, and by operators.
//!
//! After a compaction at `C`, a reader at `C` or later sees what it saw before, and every change of
//! a revision above `C` is still there with its previous value, tombstones among them: a watch that
//! resumes at `C + 1` misses nothing (RELIABILITY I5, I6). A tombstone at `C` or below has nobody
//! left to tell.
//!
//! The work is proportional to the number of key changes in the revisions that become unreadable,
//! about two microseconds each, and not to the size of the store: only keys that these revisions
//! changed can have something to drop. It is done in one go, so that the state after the entry is
//! the same on all replicas; who wants short pauses compacts in small steps.

use crate::base::Revision;
use crate::state::{Outcome, Refusal, StateMachine};

use super::machine::Effects;

impl StateMachine {
    /// `Operation::Compact`.
    pub(super) fn compact(&mut self, revision: Revision, effects: &mut Effects) -> Outcome {
        if revision <= self.compact_revision {
            return Refusal::Compacted { compact_revision: self.compact_revision }.into();
        }
        if revision > self.revision {
            return Refusal::FutureRevision { revision: self.revision }.into();
        }
        let first = self.first_retained();
        let count = (revision.get() + 1).saturating_sub(first.get());
        let count = usize::try_from(count).expect("no more revisions than elements in memory");
        assert!(
            count <= self.changed.len(),
            "{count} revisions to compact, {} are retained",
            self.changed.len()
        );
        let reached: Vec<_> = self.changed.drain(..count).collect();
        for key in reached.into_iter().flatten() {
            for version in self.keys.trim(&key, revision) {
                assert!(
                    version.revision <= revision,
                    "version {} dropped by a compaction at {revision}",
                    version.revision
                );
                self.digest.subtract(version.hash);
                self.dirty.drop_version(&key, version.revision);
            }
        }
        if self.changed.capacity() > 4 * self.changed.len() + 1_024 {
            self.changed.shrink_to_fit();
        }
        self.compact_revision = revision;
        self.walls.forget_before(revision);
        effects.compacted = Some(revision);
        Outcome::Compacted { compact_revision: revision, revision: self.revision }
    }
}
