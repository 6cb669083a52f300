//! Barriers: everybody who enters waits until as many wait as the barrier counts, and then all are
//! let go in one revision.
//!
//! A place is a key `_barriers/<name>/<lease>` with the value `waiting`; the entry that brings the
//! last one sets all of them to `ready`, so that their common `mod_revision` names the generation.
//! Whoever is waiting and goes, or whose lease ends, is not counted any more; whoever was let go
//! stays so, whatever becomes of the others. A place that was let go takes no part in the next
//! generation, which those who enter later are. How places come and go is decided in `queue.rs`.

use bytes::Bytes;

use crate::base::Revision;
use crate::state::{QueueKind, QueueName, Record, StateMachine};

use super::machine::Effects;

const READY: &[u8] = b"ready";
const WAITING: &[u8] = b"waiting";

impl StateMachine {
    /// One more comes to a barrier: lets the others go if it was the last one. The value of the new
    /// place.
    pub(super) fn meet(&mut self, name: &QueueName, effects: &mut Effects) -> Bytes {
        let queue = self.queues.get(name).expect("whoever enters has opened the barrier");
        if queue.missing(1) > 0 {
            return Bytes::from_static(WAITING);
        }
        let places: Vec<_> =
            queue.unreleased().map(|place| (place.key.clone(), place.lease)).collect();
        for (key, lease) in places {
            self.set_key(&key, Bytes::from_static(READY), Some(lease), effects);
        }
        Bytes::from_static(READY)
    }
}

/// The revision in which a place was let go, if it is one in a barrier that was.
pub(super) fn released_by(kind: QueueKind, record: &Record) -> Option<Revision> {
    let ready = kind == QueueKind::Barrier && record.value == READY;
    ready.then_some(record.mod_revision)
}
