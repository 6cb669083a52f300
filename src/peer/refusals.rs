//! Which refusals are worth a line in the log: the first of its kind from each source, for a while.
//!
//! A stranger that dials a thousand times a second costs one line and one entry.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::limits::PEER_REFUSALS_MAX;
use crate::peer::PeerError;

/// After this time the same refusal is logged again, so that a lasting one is not forgotten.
const REPEAT_AFTER: Duration = Duration::from_secs(60 * 60);

/// A reason for which connections of one source failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: PeerError,
    /// The IP address of the dialer, or the name of the peer that was dialed.
    pub source: String,
    /// How often since it was first seen, or last logged.
    pub count: u64,
}

/// What was refused lately.
///
/// - At most [`PEER_REFUSALS_MAX`] entries, oldest first, no two with the same reason and source.
#[derive(Default)]
pub(super) struct RefusalLog {
    entries: Mutex<VecDeque<(Instant, Refusal)>>,
}

impl RefusalLog {
    /// Counts a refusal. True when it is to be logged.
    pub(super) fn note(&self, reason: PeerError, source: &str, now: Instant) -> bool {
        let mut entries = self.lock();
        while entries.front().is_some_and(|(since, _)| now - *since >= REPEAT_AFTER) {
            entries.pop_front();
        }
        let known = entries
            .iter_mut()
            .find(|(_, refusal)| refusal.reason == reason && refusal.source == source);
        if let Some((_, refusal)) = known {
            refusal.count += 1;
            return false;
        }
        if entries.len() >= PEER_REFUSALS_MAX {
            return false;
        }
        entries.push_back((now, Refusal { reason, source: source.to_owned(), count: 1 }));
        true
    }

    /// Forgets what was noted of `source`: it works now, and the next failure is news.
    pub(super) fn forget(&self, source: &str) {
        self.lock().retain(|(_, refusal)| refusal.source != source);
    }

    /// What is remembered, oldest first.
    pub(super) fn list(&self) -> Vec<Refusal> {
        self.lock().iter().map(|(_, refusal)| refusal.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Refusal)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{REPEAT_AFTER, RefusalLog};
    use crate::base::limits::PEER_REFUSALS_MAX;
    use crate::peer::{PeerError, PeerFault};

    #[test]
    fn once_per_reason_and_source_in_bounded_memory() {
        let (log, start) = (RefusalLog::default(), Instant::now());
        let reason = PeerError::Fault(PeerFault::NotTls);
        assert!(log.note(reason, "a", start));
        assert!(!log.note(reason, "a", start));
        assert!(log.note(PeerError::TimedOut, "a", start));
        assert!(log.note(reason, "b", start));
        assert_eq!(log.list()[0].count, 2);
        assert!(log.note(reason, "a", start + REPEAT_AFTER), "an hour later it is news again");

        for source in 0..2 * PEER_REFUSALS_MAX {
            log.note(reason, &format!("host {source}"), start + REPEAT_AFTER);
        }
        assert_eq!(log.list().len(), PEER_REFUSALS_MAX);
        assert!(!log.note(reason, "one more", start + REPEAT_AFTER));
        log.forget("a");
        assert!(log.note(reason, "a", start + REPEAT_AFTER));
    }
}
