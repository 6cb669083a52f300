//! How much history a leader keeps: proposes compaction by count, by bytes and by age.
//!
//! On by default (PEERS 33). What compaction forgets is decided by `state/`.

use crate::base::{Instant, Revision, Span, WallMillis};
use crate::replica::{Now, Options};
use crate::state::StateMachine;

/// When to look next. One look is cheap; a compaction is an entry in the log.
#[derive(Debug, Default)]
pub(super) struct Retention {
    next: Option<Instant>,
    last_revision: Revision,
    /// The last compaction that was asked for. It is pursued until it is applied, and asking again
    /// meanwhile would only pile up entries.
    asked: Revision,
}

/// Often enough that the steps keep up with any rate of writes.
const INTERVAL: Span = Span::from_millis(200);
/// Revisions that one compaction forgets at most: about 2 µs each while nothing else is applied.
const STEP: u64 = 10_000;

impl Retention {
    /// The revision to compact to, when there is enough to forget.
    pub(super) fn due(
        &mut self,
        machine: &StateMachine,
        options: &Options,
        now: Now,
    ) -> Option<Revision> {
        let revision = machine.revision();
        if self.next.is_some_and(|next| now.instant < next) {
            return None;
        }
        let is_pending = machine.compact_revision() < self.asked;
        let is_idle =
            !is_pending && revision == self.last_revision && options.history_age_ms.is_none();
        self.last_revision = revision;
        self.next = if is_idle { None } else { Some(now.instant + INTERVAL) };
        if is_pending {
            return None;
        }
        let kept = revision.get() - machine.compact_revision().get();
        let mut target = machine.compact_revision();
        // A tenth more than wanted is let grow, so that compactions are few.
        if kept > options.history_revisions + options.history_revisions / 10 {
            target = target.max(Revision(revision.get() - options.history_revisions));
        }
        if machine.history_bytes() - machine.live_bytes() > options.history_bytes {
            // Bytes are not known per revision: forgetting the older half converges quickly.
            target = target.max(Revision(machine.compact_revision().get() + kept.div_ceil(2)));
        }
        if let Some(age) = options.history_age_ms {
            let oldest = WallMillis(now.wall.0.saturating_sub(age));
            target = target.max(machine.revision_at(oldest));
        }
        let step = Revision(machine.compact_revision().get() + STEP);
        let target = target.min(revision).min(step);
        let due = (target > machine.compact_revision()).then_some(target);
        if let Some(revision) = due {
            self.asked = revision;
            self.next = Some(now.instant + INTERVAL);
        }
        due
    }

    /// When to look next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }
}
