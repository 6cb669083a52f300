//! A state from its rows: everything that is not stored is rebuilt, and all is checked on the way.
//!
//! Rows come from this host's disk or from another node, so nothing here is asserted: rows that do
//! not make a state are refused. What a caller then does about it is decided in `replica/`.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{Epoch, LeaseId, NodeId, Revision};
use crate::state::{Bind, Lease, Meta, Outcome, QueueName, Row, RowKey, StateMachine};

use super::dedupe::Requests;
use super::digest::row_hash;
use super::keys::{Content, Version};
use super::queue::{Queue, place_of};
use super::rows::Dirty;

/// Why rows do not make a state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The counters contradict themselves.
    Counters(Meta),
    /// The rows are not those from which the stored digest was computed.
    Digest {
        /// As stored.
        stored: u64,
        /// As computed.
        computed: u64,
    },
    /// A key's versions do not follow from each other.
    History {
        /// The key.
        key: Bytes,
        /// The version that does not follow.
        revision: Revision,
    },
    /// A row's content is not of the kind that its name says, or breaks a bound of that kind.
    Kind(RowKey),
    /// A lease contradicts its name or another lease.
    Lease(LeaseId),
    /// A key is attached to a lease that does not exist.
    LeaseMissing(LeaseId),
    /// There are no counters.
    MetaMissing,
    /// The slots of a queue are stored without a place in it, or the other way round.
    Queue(QueueName),
    /// The requests of a node contradict their floor.
    Requests(NodeId),
    /// A retained revision has no change, or there is a change after the last revision.
    Revision(Revision),
    /// One row came twice.
    Twice(RowKey),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counters(meta) => write!(
                f,
                "the stored counters contradict themselves: revision {}, compacted to {}",
                meta.revision, meta.compact_revision
            ),
            Self::Digest { stored, computed } => write!(
                f,
                "the stored state has digest {computed:016x}, and should have {stored:016x}: rows \
                 are damaged, missing or too many"
            ),
            Self::History { key, revision } => {
                write!(f, "the version of key {key:?} at revision {revision} follows from nothing")
            }
            Self::Kind(name) => write!(f, "the row {name:?} has content of another kind"),
            Self::Lease(lease) => write!(f, "lease {lease} contradicts its name or another lease"),
            Self::LeaseMissing(lease) => {
                write!(f, "a key is attached to lease {lease}, which does not exist")
            }
            Self::MetaMissing => write!(f, "the stored state has no counters"),
            Self::Queue(name) => {
                write!(f, "the queue {name:?} and the places in it do not belong together")
            }
            Self::Requests(node) => {
                write!(f, "the requests of node {node} contradict their floor")
            }
            Self::Revision(revision) => {
                write!(f, "revision {revision} lacks its changes, or is after the last one")
            }
            Self::Twice(name) => write!(f, "the row {name:?} came twice"),
        }
    }
}

impl std::error::Error for RestoreError {}

impl StateMachine {
    /// The state that these rows are, in whatever order they come. Nothing is dirty in it.
    ///
    /// # Errors
    ///
    /// When the rows do not make a state: they are damaged, or not all rows of one moment.
    pub fn restore<I: IntoIterator<Item = (RowKey, Row)>>(rows: I) -> Result<Self, RestoreError> {
        let mut sorted = BTreeMap::new();
        for (key, row) in rows {
            if sorted.contains_key(&key) {
                return Err(RestoreError::Twice(key));
            }
            sorted.insert(key, row);
        }
        let meta = match sorted.remove(&RowKey::Meta) {
            Some(Row::Meta(meta)) => meta,
            Some(_) => return Err(RestoreError::Kind(RowKey::Meta)),
            None => return Err(RestoreError::MetaMissing),
        };
        let mut state = Self::with_counters(meta)?;
        let mut changed = BTreeMap::new();
        for (key, row) in sorted {
            state.add_row(key, row, &mut changed)?;
        }
        state.check_leases()?;
        state.attach_keys()?;
        state.take_changed(changed)?;
        if state.digest() != meta.digest {
            return Err(RestoreError::Digest { stored: meta.digest, computed: state.digest() });
        }
        state.dirty = Dirty::clean(meta.revision);
        state.walls.note(meta.wall, meta.revision);
        Ok(state)
    }

    fn with_counters(meta: Meta) -> Result<Self, RestoreError> {
        if meta.revision < Revision(1) || meta.compact_revision > meta.revision {
            return Err(RestoreError::Counters(meta));
        }
        Ok(Self {
            applied_index: meta.applied_index,
            applied_term: meta.applied_term,
            revision: meta.revision,
            compact_revision: meta.compact_revision,
            epoch: meta.epoch,
            leases_made: meta.leases_made,
            wall: meta.wall,
            ..Self::new(Epoch(0))
        })
    }

    fn add_row(
        &mut self,
        name: RowKey,
        row: Row,
        changed: &mut BTreeMap<Revision, Vec<Bytes>>,
    ) -> Result<(), RestoreError> {
        if !matches!(name, RowKey::Version(..)) {
            let Some(hash) = row_hash(&name, &row) else { return Err(RestoreError::Kind(name)) };
            self.digest.add(hash);
        }
        match (name, row) {
            (RowKey::Idempotency(key), Row::Idempotency { wall, outcome })
                if wall <= self.wall
                    && !matches!(outcome, Outcome::Duplicate | Outcome::Refused(_)) =>
            {
                self.idempotency.insert(key, wall, outcome);
            }
            (RowKey::Lease(id), Row::Lease(lease)) => self.add_lease(id, lease)?,
            (RowKey::Queue(name), Row::Queue { slots }) if slots > 0 => {
                let queue = Queue::new(name.kind, slots);
                self.queues.insert(name, queue);
            }
            (RowKey::Requests(node), Row::Requests { boot, floor, applied }) => {
                if applied.first().is_some_and(|first| *first < floor) {
                    return Err(RestoreError::Requests(node));
                }
                if !mutation::active(Mutation::DedupeForgottenAtRestart) {
                    self.requests.insert(node, Requests { boot, floor, applied });
                }
            }
            (RowKey::Version(key, revision), Row::Tombstone) => {
                self.add_version(key, revision, None, changed)?;
            }
            (
                RowKey::Version(key, revision),
                Row::Version { value, create_revision, version, lease },
            ) => {
                let content = Content { value, create_revision, version, lease };
                self.add_version(key, revision, Some(content), changed)?;
            }
            (name, _) => return Err(RestoreError::Kind(name)),
        }
        Ok(())
    }

    fn add_lease(&mut self, id: LeaseId, lease: Lease) -> Result<(), RestoreError> {
        let sound = lease.id == id
            && id != LeaseId(0)
            && lease.keys.is_empty()
            && self.leases.count() as u64 <= self.leases_made
            && !(lease.bind == Bind::Node && self.leases.has_host(lease.node, lease.boot));
        if !sound {
            return Err(RestoreError::Lease(id));
        }
        self.leases.insert(lease);
        Ok(())
    }

    /// Versions come by key, then by revision.
    fn add_version(
        &mut self,
        key: Bytes,
        revision: Revision,
        content: Option<Content>,
        changed: &mut BTreeMap<Revision, Vec<Bytes>>,
    ) -> Result<(), RestoreError> {
        if revision > self.revision {
            return Err(RestoreError::Revision(revision));
        }
        let version = Version::new(&key, revision, content);
        let previous = self.keys.history(&key).map(|(_, history)| history.newest());
        if !follows(previous, &version, self.compact_revision) {
            return Err(RestoreError::History { key, revision });
        }
        self.digest.add(version.hash);
        if revision > self.compact_revision {
            changed.entry(revision).or_default().push(key.clone());
        }
        self.keys.push(key, version);
        Ok(())
    }

    fn check_leases(&self) -> Result<(), RestoreError> {
        let exists =
            |parent: LeaseId| self.leases.find(parent).is_some_and(|it| it.parent.is_none());
        match self.leases.all().find(|lease| !lease.parent.is_none_or(exists)) {
            Some(lease) => Err(RestoreError::Lease(lease.id)),
            None if self.leases.count() as u64 > self.leases_made => {
                Err(RestoreError::Counters(self.meta()))
            }
            None => Ok(()),
        }
    }

    /// Rebuilds what hangs on keys: the key sets of leases and the places in queues.
    fn attach_keys(&mut self) -> Result<(), RestoreError> {
        let keys = self.keys.all().filter_map(|(key, history)| history.newest().record(key));
        for record in keys {
            if let Some(lease) = record.lease {
                if self.leases.find(lease).is_none() {
                    return Err(RestoreError::LeaseMissing(lease));
                }
                self.leases.keys_mut(lease).insert(record.key.clone());
            }
            if let Some((name, standing)) = place_of(&record) {
                let Some(queue) = self.queues.get_mut(&name) else {
                    return Err(RestoreError::Queue(name));
                };
                queue.enter(standing);
            }
        }
        match self.queues.iter().find(|(_, queue)| queue.len() == 0) {
            Some((name, _)) => Err(RestoreError::Queue(name.clone())),
            None => Ok(()),
        }
    }

    /// Each retained revision has a change, and no other has.
    fn take_changed(
        &mut self,
        changed: BTreeMap<Revision, Vec<Bytes>>,
    ) -> Result<(), RestoreError> {
        let mut next = self.first_retained();
        for (revision, keys) in changed {
            if revision != next {
                return Err(RestoreError::Revision(revision.min(next)));
            }
            self.changed.push_back(keys);
            next = next.next();
        }
        if next.previous() == self.revision.max(Revision(1)) {
            Ok(())
        } else {
            Err(RestoreError::Revision(next))
        }
    }
}

/// Whether a version can follow the one before it. At most one version lies at or below the
/// compacted revision; it is what a reader there sees, so it is no tombstone.
fn follows(previous: Option<&Version>, version: &Version, compacted: Revision) -> bool {
    let revision = version.revision;
    let former = previous.and_then(|previous| previous.content.as_ref());
    if previous.is_some() && revision <= compacted {
        return false;
    }
    let Some(content) = &version.content else { return former.is_some() };
    match former {
        Some(former) => {
            content.create_revision == former.create_revision
                && Some(content.version) == former.version.checked_add(1)
        }
        None if revision <= compacted => {
            content.version > 0
                && content.create_revision <= revision
                && content.create_revision > Revision(0)
        }
        None => content.version == 1 && content.create_revision == revision,
    }
}
