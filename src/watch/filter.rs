//! Which keys a watcher asked for, and which events of a revision those are.
//!
//! Whether the caller may read them is decided in `host/`, before the watch is opened and per
//! event.

use std::ops::Range;

use bytes::Bytes;

use crate::state::{Event, RevisionEvents};

/// What a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// One key.
    Key(Bytes),
    /// All keys that begin with this. An empty prefix is every key outside the reserved namespace
    /// `_`, as in
    /// [`Selection::Prefix`](crate::state::Selection::Prefix): the daemon's own lock queues are
    /// watched by name only.
    Prefix(Bytes),
}

impl Filter {
    /// Whether a key lies under this filter.
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Filter::Key(wanted) => wanted == key,
            Filter::Prefix(prefix) if prefix.is_empty() => !is_reserved(key),
            Filter::Prefix(prefix) => key.starts_with(prefix),
        }
    }

    /// The events of one revision that lie under this filter, or nothing when none does. Events
    /// stand in key order, so that this is a binary search: a revision that deletes 100,000 keys
    /// costs a watcher of one of them 17 comparisons.
    pub fn select(&self, revision: &RevisionEvents) -> Option<Selected> {
        let events = &revision.events;
        let before = |key: &[u8]| events.partition_point(|event| event.record.key < key);
        let parts = match self {
            Filter::Key(key) => {
                let start = before(key);
                let found = events.get(start).is_some_and(|event| event.record.key == *key);
                [start..start + usize::from(found), 0..0]
            }
            Filter::Prefix(prefix) if prefix.is_empty() => {
                [0..before(b"_"), before(b"`")..events.len()]
            }
            Filter::Prefix(prefix) => {
                let start = before(prefix);
                let count =
                    events[start..].partition_point(|event| event.record.key.starts_with(prefix));
                [start..start + count, 0..0]
            }
        };
        match parts.iter().map(|part| part.len()).sum::<usize>() {
            0 => None,
            count if count == events.len() => Some(Selected::All),
            _ => Some(Selected::Parts(parts)),
        }
    }
}

/// Whether a key lies in the daemon's own namespace. `` ` `` is the byte after `_`, see `select`.
pub(super) fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&b'_')
}

/// Which events of one revision a watcher gets; never none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All: every watcher that gets all of a revision gets the same bytes, so that they are encoded
    /// once (see [`RenderCache`](crate::watch::RenderCache)).
    All,
    /// Those at these positions; a part may be empty, and the second lies after the first.
    Parts([Range<usize>; 2]),
}

impl Selected {
    /// The selected events, in key order. `revision` is the one that the selection was made from.
    pub fn events<'a>(&self, revision: &'a RevisionEvents) -> impl Iterator<Item = &'a Event> {
        let [first, second] = match self {
            Selected::All => [0..revision.events.len(), 0..0],
            Selected::Parts(parts) => parts.clone(),
        };
        revision.events[first].iter().chain(revision.events[second].iter())
    }
}
