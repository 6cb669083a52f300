//! The state as rows: what is saved in the background, loaded at start, and later sent as a snapshot.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::{Boot, Epoch, Index, LeaseId, NodeId, Revision, Sequence, Term, WallMillis};
use crate::state::{IdempotencyKey, Lease, Outcome, QueueName};

/// The name of a row. Rows of one kind sort as their keys do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// The outcome behind an idempotency key.
    Idempotency(IdempotencyKey),
    /// A lease.
    Lease(LeaseId),
    /// The counters of the whole state.
    Meta,
    /// The slots of a queue; its places are keys.
    Queue(QueueName),
    /// Which requests of a node were applied.
    Requests(NodeId),
    /// One version of a key.
    Version(Bytes, Revision),
}

/// The content of a row; always of the kind that its [`RowKey`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// The outcome behind an idempotency key.
    Idempotency {
        /// The stamp of the entry that made it.
        wall: WallMillis,
        /// What it answered.
        outcome: Outcome,
    },
    /// A lease. Its `keys` are not stored: they follow from the key versions.
    Lease(Lease),
    /// The counters of the whole state.
    Meta(Meta),
    /// How many may hold.
    Queue {
        /// At least 1.
        slots: u32,
    },
    /// Which requests of a node were applied.
    Requests {
        /// The boot that they belong to.
        boot: Boot,
        /// All below this are settled.
        floor: Sequence,
        /// Those at or above the floor that were applied.
        applied: BTreeSet<Sequence>,
    },
    /// A tombstone: the key was deleted at this revision.
    Tombstone,
    /// A value that the key had from this revision on.
    Version {
        /// The value.
        value: Bytes,
        /// The revision that created the key.
        create_revision: Revision,
        /// How often it was set since.
        version: u64,
        /// The lease it was attached to.
        lease: Option<LeaseId>,
    },
}

/// The counters of the whole state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The last applied index.
    pub applied_index: Index,
    /// Its term.
    pub applied_term: Term,
    /// The store's revision; never derived from keys (RELIABILITY F12).
    pub revision: Revision,
    /// The oldest revision that is still readable.
    pub compact_revision: Revision,
    /// Which history the revisions belong to.
    pub epoch: Epoch,
    /// How many leases were ever made: the next id follows from it.
    pub leases_made: u64,
    /// The greatest wall-clock stamp seen.
    pub wall: WallMillis,
    /// The running hash of everything else.
    pub digest: u64,
}

/// One row that is new, changed or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// Its name.
    pub key: RowKey,
    /// Its content, or nothing when it is gone.
    pub row: Option<Row>,
}
