//! The recent changes that all watchers of a node share, and how many of them are kept.
//!
//! Who reads them, and what a reader is told that comes too late, is decided in `cursor.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::{Revision, limits};
use crate::state::{RevisionEvents, StateMachine};

/// How much history is kept for watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Most revisions.
    pub revisions_max: usize,
    /// Most bytes of keys and values, counted as if nothing were shared with the store. The newest
    /// revision is kept whatever its size, or nobody could be sent it.
    pub bytes_max: u64,
    /// Revisions at the new end that outlive their compaction, so that a compaction at the newest
    /// revision does not cut off the watchers that were just woken for it.
    pub grace_revisions: usize,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        let revisions_max = usize::try_from(limits::HISTORY_REVISIONS_DEFAULT)
            .expect("the default number of revisions fits any address space");
        Self {
            revisions_max,
            bytes_max: limits::HISTORY_BYTES_DEFAULT,
            grace_revisions: limits::WATCH_GRACE_REVISIONS,
        }
    }
}

/// The changes of the revisions in `(floor, newest]`, for all watchers together: they are shared,
/// never copied to a watcher's own queue, so that a stuck reader costs its position and no more
/// (RELIABILITY I4, W9).
///
/// - Every revision in `(floor, newest]` is there exactly once and in order: a revision exists only
///   because a key changed, so that there are no holes.
/// - `newest` is the store's revision, and neither end ever moves back (RELIABILITY I2, I9).
/// - `floor` is at least 1: the empty store, which has no events.
/// - `bytes` is the sum of the weights of what is held.
#[derive(Clone, Debug)]
pub struct History {
    options: HistoryOptions,
    floor: Revision,
    revisions: VecDeque<Arc<RevisionEvents>>,
    bytes: u64,
}

impl History {
    /// A history without content, whose newest revision is the present one.
    pub fn new(options: HistoryOptions, revision: Revision) -> Self {
        assert!(options.revisions_max > 0, "a history of no revisions delivers nothing");
        assert!(revision >= Revision(1), "the empty store has revision 1, not {revision}");
        Self { options, floor: revision, revisions: VecDeque::new(), bytes: 0 }
    }

    /// The history that a state machine still holds: after a start, and after a snapshot was
    /// installed, when the old one must be thrown away whole because the revisions between its end
    /// and the new state are not known.
    pub fn of(options: HistoryOptions, machine: &StateMachine) -> Self {
        let kept = u64::try_from(options.revisions_max).unwrap_or(u64::MAX);
        let oldest = Revision(machine.revision().get().saturating_sub(kept));
        let floor = machine.compact_revision().max(oldest).max(Revision(1));
        let mut history = Self::new(options, floor);
        for events in machine.events_from(floor.next()) {
            history.push(events);
        }
        assert!(
            history.newest() == machine.revision(),
            "the rebuilt history ends at {}, the store at {}",
            history.newest(),
            machine.revision()
        );
        history
    }

    /// Adds the next revision, and drops the oldest ones beyond the bounds.
    pub fn push(&mut self, events: Arc<RevisionEvents>) {
        let revision = events.revision;
        assert!(revision == self.newest().next(), "{revision} follows {}", self.newest());
        assert!(!events.events.is_empty(), "revision {revision} changed no key");
        for pair in events.events.windows(2) {
            assert!(
                pair[0].record.key < pair[1].record.key,
                "the events of revision {revision} are not in key order"
            );
        }
        self.bytes += weight(&events);
        self.revisions.push_back(events);
        while self.revisions.len() > self.options.revisions_max
            || (self.bytes > self.options.bytes_max && self.revisions.len() > 1)
        {
            self.drop_oldest();
        }
        assert!(self.newest() == revision, "{revision} was dropped as it came");
    }

    /// Follows a compaction: drops the revisions up to `compact_revision` but for the grace. A new
    /// watch from there is refused in any case; the grace is for those that are under way.
    pub fn trim(&mut self, compact_revision: Revision) {
        assert!(
            compact_revision <= self.newest(),
            "compaction at {compact_revision} is ahead of {}",
            self.newest()
        );
        while self.floor < compact_revision && self.revisions.len() > self.options.grace_revisions {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.revisions.pop_front().expect("callers drop only what is there");
        assert!(
            oldest.revision == self.floor.next(),
            "{} stood above the floor {}",
            oldest.revision,
            self.floor
        );
        self.floor = oldest.revision;
        self.bytes -= weight(&oldest);
    }

    /// The newest revision: the store's.
    pub fn newest(&self) -> Revision {
        self.revisions.back().map_or(self.floor, |events| events.revision)
    }

    /// The newest revision that is not held: whoever was sent everything up to here misses nothing.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// Bytes held, of keys, values and previous values, with a fixed part for each event.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many revisions are held.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// The revisions from `from` on, oldest first. `from` must lie above the floor.
    pub fn since(&self, from: Revision) -> impl Iterator<Item = &Arc<RevisionEvents>> {
        assert!(from > self.floor, "revision {from} is asked for, the floor is {}", self.floor);
        let skipped = from.get() - self.floor.next().get();
        let skipped = usize::try_from(skipped)
            .map_or(self.revisions.len(), |skipped| skipped.min(self.revisions.len()));
        self.revisions.range(skipped..)
    }
}

/// What a revision counts for: its bytes, and about what the structures around them take.
fn weight(revision: &RevisionEvents) -> u64 {
    const EVENT_BYTES: usize = 256;
    let bytes: usize = revision
        .events
        .iter()
        .map(|event| {
            let previous = event.previous.as_ref().map_or(0, |record| record.value.len());
            EVENT_BYTES + event.record.key.len() + event.record.value.len() + previous
        })
        .sum();
    bytes as u64
}
