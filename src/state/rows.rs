//! The state as rows: what is saved in the background, loaded at start, and later sent as a
//! snapshot.
//!
//! How rows become a state again is in `restore.rs`; their bytes are in `wire/`, where they are
//! kept is in `storage/`.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::{Boot, Epoch, Index, LeaseId, NodeId, Revision, Sequence, Term, WallMillis};
use crate::state::{IdempotencyKey, Lease, Outcome, QueueName, StateMachine};

use super::keys::Version;

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

/// The names of rows that changed since they were last taken.
///
/// Versions of revisions after `taken_revision` are in no saved state: when compaction drops one of
/// them, nobody needs to hear of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    names: BTreeSet<RowKey>,
    taken_revision: Revision,
}

impl Dirty {
    /// Nothing is dirty in a state whose rows up to `revision` are saved.
    pub(super) fn clean(revision: Revision) -> Self {
        Self { names: BTreeSet::new(), taken_revision: revision }
    }

    /// A row is new, changed or gone.
    pub(super) fn mark(&mut self, name: RowKey) {
        self.names.insert(name);
    }

    /// A version of a key is gone.
    pub(super) fn drop_version(&mut self, key: &Bytes, revision: Revision) {
        let name = RowKey::Version(key.clone(), revision);
        if revision > self.taken_revision {
            self.names.remove(&name);
        } else {
            self.names.insert(name);
        }
    }
}

impl StateMachine {
    /// The rows that changed since the last call, each once, and `Meta` last: applied in one atomic
    /// step to the rows of all earlier calls, they are the state as it is now. After `new` the
    /// first call has everything; after `restore` it has what was applied since.
    pub fn take_row_changes(&mut self) -> Vec<RowChange> {
        let names = std::mem::replace(&mut self.dirty, Dirty::clean(self.revision)).names;
        let changes = names.into_iter().chain([RowKey::Meta]);
        changes.map(|key| RowChange { row: self.row(&key), key }).collect()
    }

    /// One row as it stands.
    fn row(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Idempotency(key) => self
                .idempotency
                .find(key)
                .map(|(wall, outcome)| Row::Idempotency { wall: *wall, outcome: outcome.clone() }),
            RowKey::Lease(lease) => self.leases.find(*lease).map(lease_row),
            RowKey::Meta => Some(Row::Meta(self.meta())),
            RowKey::Queue(name) => {
                self.queues.get(name).map(|queue| Row::Queue { slots: queue.slots })
            }
            RowKey::Requests(node) => self.requests.get(node).map(|requests| Row::Requests {
                boot: requests.boot,
                floor: requests.floor,
                applied: requests.applied.clone(),
            }),
            RowKey::Version(key, revision) => {
                let (_, history) = self.keys.history(key)?;
                let version = history.at(*revision)?;
                (version.revision == *revision).then(|| version_row(version))
            }
        }
    }

    /// Every row of the state, `Meta` among them.
    pub(super) fn all_rows(&self) -> Vec<(RowKey, Row)> {
        let mut keys = vec![RowKey::Meta];
        keys.extend(self.idempotency.all().map(|(key, _)| RowKey::Idempotency(key.clone())));
        keys.extend(self.leases.all().map(|lease| RowKey::Lease(lease.id)));
        keys.extend(self.queues.keys().cloned().map(RowKey::Queue));
        keys.extend(self.requests.keys().copied().map(RowKey::Requests));
        for (key, history) in self.keys.all() {
            let versions = history.versions();
            keys.extend(versions.map(|version| RowKey::Version(key.clone(), version.revision)));
        }
        let row = |key: RowKey| {
            let row = self.row(&key).expect("the row was found by walking over the state");
            (key, row)
        };
        keys.into_iter().map(row).collect()
    }
}

fn lease_row(lease: &Lease) -> Row {
    Row::Lease(Lease {
        info: lease.info.clone(),
        keys: BTreeSet::new(),
        id: lease.id,
        ttl: lease.ttl,
        bind: lease.bind,
        parent: lease.parent,
        node: lease.node,
        boot: lease.boot,
        pid: lease.pid,
        uid: lease.uid,
        generation: lease.generation,
        owned_by_place: lease.owned_by_place,
        process: lease.process.clone(),
    })
}

fn version_row(version: &Version) -> Row {
    match &version.content {
        None => Row::Tombstone,
        Some(content) => Row::Version {
            value: content.value.clone(),
            create_revision: content.create_revision,
            version: content.version,
            lease: content.lease,
        },
    }
}
