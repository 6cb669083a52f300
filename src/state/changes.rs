//! What one applied entry changed: for watchers, for those who wait in queues, for keepers of
//! leases.

use std::sync::Arc;

use crate::base::{LeaseId, Revision};
use crate::state::{Outcome, QueueName, Record};

/// What one entry did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The answer to whoever asked.
    pub outcome: Outcome,
    /// The changed keys, if any changed: exactly one new revision.
    pub events: Option<Arc<RevisionEvents>>,
    /// Leases that began, changed their terms, or ended, in order.
    pub leases: Vec<LeaseChange>,
    /// Queues in which a place was taken, left or changed its value.
    pub queues: Vec<QueueName>,
    /// History up to here was forgotten by this entry.
    pub compacted: Option<Revision>,
}

/// All changes of one revision; never torn apart on the way to a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: Revision,
    /// One event per changed key, in key order.
    pub events: Vec<Event>,
}

/// The change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Set or deleted.
    pub kind: EventKind,
    /// After a put: the new record. After a delete: the key, no value, `mod_revision` of the
    /// delete, zero elsewhere.
    pub record: Record,
    /// What was there before, if anything was and history still has it.
    pub previous: Option<Record>,
}

/// Set or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key is gone.
    Delete,
    /// The key was set.
    Put,
}

/// The beginning or end of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// It exists from now on, or its terms changed.
    Began(LeaseId),
    /// It is gone, with its keys.
    Ended(LeaseId),
}
