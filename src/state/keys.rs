//! Keys with their history: what a put and a delete do to a key, and everything that hangs on it.
//!
//! `set_key` and `delete_key` are the only code that changes a key. What follows from a key (its
//! lease's key set, a place in a queue, the digest, the dirty rows, the event) is changed there and
//! nowhere else, so that these can never disagree. Which keys are changed is decided by the
//! callers; when old versions go is decided in `compact.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{LeaseId, Revision};
use crate::state::StateMachine;
use crate::state::{Condition, Event, EventKind, Outcome, Record, Refusal, RowKey, Selection};

use super::digest::version_hash;
use super::machine::Effects;

/// What a key holds at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) value: Bytes,
    pub(super) create_revision: Revision,
    pub(super) version: u64,
    pub(super) lease: Option<LeaseId>,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) revision: Revision,
    /// Nothing for a tombstone.
    pub(super) content: Option<Content>,
    /// Its share of the digest, kept so that compaction need not read the value again.
    pub(super) hash: u64,
}

impl Version {
    pub(super) fn new(key: &[u8], revision: Revision, content: Option<Content>) -> Self {
        let hash = version_hash(key, revision, content.as_ref());
        Self { revision, content, hash }
    }

    fn bytes(&self, key: &[u8]) -> u64 {
        key.len() as u64 + self.content.as_ref().map_or(0, |content| content.value.len() as u64)
    }

    /// What a reader sees; nothing for a tombstone.
    pub(super) fn record(&self, key: &Bytes) -> Option<Record> {
        self.content.as_ref().map(|content| Record {
            key: key.clone(),
            value: content.value.clone(),
            create_revision: content.create_revision,
            mod_revision: self.revision,
            version: content.version,
            lease: content.lease,
        })
    }
}

/// The retained versions of one key.
///
/// - Revisions grow strictly from one version to the next.
/// - A tombstone never follows a tombstone, and is never the oldest version.
///
/// The newest stands apart: most keys have no history, and then cost no second allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    older: VecDeque<Version>,
    newest: Version,
}

impl History {
    /// The newest version.
    pub(super) fn newest(&self) -> &Version {
        &self.newest
    }

    /// All retained versions, oldest first.
    pub(super) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.older.iter().chain(std::iter::once(&self.newest))
    }

    /// The version that was the newest at `revision`.
    pub(super) fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.revision <= revision {
            return Some(&self.newest);
        }
        let count = self.older.partition_point(|version| version.revision <= revision);
        count.checked_sub(1).map(|last| &self.older[last])
    }

    fn push(&mut self, version: Version) {
        assert!(
            self.newest.revision < version.revision,
            "version {} pushed after {}",
            version.revision,
            self.newest.revision
        );
        self.older.push_back(std::mem::replace(&mut self.newest, version));
    }

    /// Drops what no reader at `revision` or later can see, except the newest version itself:
    /// returns what was dropped, and whether the newest is a tombstone that may go too.
    fn trim(&mut self, revision: Revision) -> (Vec<Version>, bool) {
        if self.newest.revision <= revision {
            let dropped = std::mem::take(&mut self.older).into();
            return (dropped, self.newest.content.is_none());
        }
        let reached = self.older.partition_point(|version| version.revision <= revision);
        let Some(last) = reached.checked_sub(1) else { return (Vec::new(), false) };
        // The last one reached is what a reader at `revision` sees, unless it sees nothing.
        let all = mutation::active(Mutation::CompactionDropsLiveValue);
        let count = if all || self.older[last].content.is_none() { reached } else { last };
        let dropped = self.older.drain(..count).collect();
        if self.older.capacity() > 4 * self.older.len() + 8 {
            self.older.shrink_to_fit();
        }
        (dropped, false)
    }
}

/// All keys with their retained versions.
///
/// - `live_bytes` is the sum of key and value lengths over keys whose newest version is not a
///   tombstone; `history_bytes` the same over all retained versions, tombstones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    map: BTreeMap<Bytes, History>,
    pub(super) live_bytes: u64,
    pub(super) history_bytes: u64,
}

impl Keys {
    /// The history of one key, with the stored handle of the key.
    pub(super) fn history(&self, key: &[u8]) -> Option<(&Bytes, &History)> {
        self.map.get_key_value(key)
    }

    /// What the key holds now, with the revision that set it.
    pub(super) fn content(&self, key: &[u8]) -> Option<(Revision, &Content)> {
        let newest = &self.map.get(key)?.newest;
        newest.content.as_ref().map(|content| (newest.revision, content))
    }

    /// What a reader sees now.
    pub(super) fn record(&self, key: &[u8]) -> Option<Record> {
        let (key, history) = self.map.get_key_value(key)?;
        history.newest.record(key)
    }

    /// All keys with their histories, in key order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Bytes, &History)> {
        self.map.iter()
    }

    /// Keys that begin with `prefix` and lie after `start_after`, in key order, deleted ones too.
    pub(super) fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        start_after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a History)> {
        let low = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.map
            .range::<[u8], _>((low, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Adds the next version of a key.
    pub(super) fn push(&mut self, key: Bytes, version: Version) {
        let bytes = version.bytes(&key);
        self.history_bytes += bytes;
        if version.content.is_some() {
            self.live_bytes += bytes;
        }
        match self.map.get_mut(&key) {
            Some(history) => {
                if history.newest.content.is_some() {
                    self.live_bytes -= history.newest.bytes(&key);
                }
                history.push(version);
            }
            None => {
                self.map.insert(key, History { older: VecDeque::new(), newest: version });
            }
        }
    }

    /// Drops what no reader at `revision` or later can see of this key, and returns it.
    pub(super) fn trim(&mut self, key: &[u8], revision: Revision) -> Vec<Version> {
        let Some(history) = self.map.get_mut(key) else { return Vec::new() };
        let (mut dropped, gone) = history.trim(revision);
        if gone {
            let history = self.map.remove(key).expect("the key was found above");
            dropped.push(history.newest);
        }
        self.history_bytes -= dropped.iter().map(|version| version.bytes(key)).sum::<u64>();
        dropped
    }
}

/// Whether a key lies under a selection. An empty prefix selects no reserved key.
pub(super) fn selects(selection: &Selection, key: &[u8]) -> bool {
    match selection {
        Selection::Key(selected) => selected == key,
        Selection::Prefix(prefix) if prefix.is_empty() => !is_reserved(key),
        Selection::Prefix(prefix) => key.starts_with(prefix),
    }
}

/// Whether a key lies in the namespace of the daemon's own keys.
pub(super) fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&b'_')
}

impl StateMachine {
    /// Sets a key in the revision that this entry makes. The lease, if any, must exist. Returns the
    /// key's create revision and version.
    pub(super) fn set_key(
        &mut self,
        key: &Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
        effects: &mut Effects,
    ) -> (Revision, u64) {
        let revision = self.revision.next();
        // The stored handle is kept, so that the buffer of this request is not kept alive by it.
        let key = self.keys.history(key).map_or(key, |(stored, _)| stored).clone();
        let previous = self.keys.record(&key);
        let (create_revision, version) = match &previous {
            Some(record) => (record.create_revision, record.version + 1),
            None => (revision, 1),
        };
        let content = Content { value, create_revision, version, lease };
        self.attach(&key, previous.as_ref().and_then(|record| record.lease), lease);
        self.push_version(key, Some(content), previous, effects);
        (create_revision, version)
    }

    /// Deletes a key in the revision that this entry makes; says whether there was one.
    pub(super) fn delete_key(&mut self, key: &[u8], effects: &mut Effects) -> bool {
        let Some(previous) = self.keys.record(key) else { return false };
        let key = previous.key.clone();
        self.attach(&key, previous.lease, None);
        self.push_version(key, None, Some(previous), effects);
        true
    }

    fn push_version(
        &mut self,
        key: Bytes,
        content: Option<Content>,
        previous: Option<Record>,
        effects: &mut Effects,
    ) {
        let revision = self.revision.next();
        let version = Version::new(&key, revision, content);
        self.digest.add(version.hash);
        self.dirty.mark(RowKey::Version(key.clone(), revision));
        let (kind, record) = match version.record(&key) {
            Some(record) => (EventKind::Put, record),
            None => (EventKind::Delete, deleted_record(&key, revision)),
        };
        self.keys.push(key, version);
        self.follow_place(&record, kind, previous.as_ref(), effects);
        effects.events.push(Event { kind, record, previous });
    }

    /// Moves a key from the key set of one lease to that of another (RELIABILITY H9).
    fn attach(&mut self, key: &Bytes, from: Option<LeaseId>, to: Option<LeaseId>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            let removed = self.leases.keys_mut(from).remove(key);
            assert!(removed, "a key attached to lease {from} was not in its key set");
        }
        if let Some(to) = to {
            let added = self.leases.keys_mut(to).insert(key.clone());
            assert!(added, "a key not attached to lease {to} was in its key set");
        }
    }

    /// The keys under a selection that exist now.
    pub(super) fn selected_records(&self, selection: &Selection) -> Vec<Record> {
        match selection {
            Selection::Key(key) => self.keys.record(key).into_iter().collect(),
            Selection::Prefix(prefix) => self
                .keys
                .scan(prefix, None)
                .filter_map(|(key, history)| history.newest().record(key))
                .collect(),
        }
    }

    /// Deletes all keys under a selection and says how many there were.
    pub(super) fn delete_selected(&mut self, selection: &Selection, effects: &mut Effects) -> u64 {
        let records = self.selected_records(selection);
        let keys = records.iter().map(|record| &record.key);
        let mut deleted = 0;
        for key in keys.filter(|key| selects(selection, key)) {
            assert!(self.delete_key(key, effects), "a key that was just found is gone");
            deleted += 1;
        }
        deleted
    }

    /// `Operation::Put`.
    pub(super) fn put(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        lease: Option<LeaseId>,
        condition: Condition,
        effects: &mut Effects,
    ) -> Outcome {
        if let Err(refusal) = self.holds(key, condition).and_then(|()| self.lease_exists(lease)) {
            return Outcome::Refused(refusal);
        }
        let (create_revision, version) = self.set_key(key, value.clone(), lease, effects);
        Outcome::Put { revision: self.revision_after(effects), create_revision, version }
    }

    /// `Operation::Delete`. A condition counts for a single key only.
    pub(super) fn delete(
        &mut self,
        selection: &Selection,
        condition: Condition,
        effects: &mut Effects,
    ) -> Outcome {
        if let Selection::Key(key) = selection
            && let Err(refusal) = self.holds(key, condition)
        {
            return Outcome::Refused(refusal);
        }
        let deleted = self.delete_selected(selection, effects);
        Outcome::Deleted { deleted, revision: self.revision_after(effects) }
    }

    fn holds(&self, key: &[u8], condition: Condition) -> Result<(), Refusal> {
        let mod_revision = self.keys.content(key).map_or(Revision(0), |(revision, _)| revision);
        let holds = match condition {
            Condition::Absent => mod_revision == Revision(0),
            Condition::ModRevision(expected) => mod_revision == expected,
            Condition::None => true,
        };
        if holds || mutation::active(Mutation::ConditionIgnored) {
            Ok(())
        } else {
            Err(Refusal::PreconditionFailed { mod_revision })
        }
    }

    /// Refuses a lease that does not exist.
    pub(super) fn lease_exists(&self, lease: Option<LeaseId>) -> Result<(), Refusal> {
        match lease {
            Some(lease) if self.leases.find(lease).is_none() => {
                Err(Refusal::LeaseNotFound { lease })
            }
            _ => Ok(()),
        }
    }
}

/// What the event of a delete says about the key.
pub(super) fn deleted_record(key: &Bytes, revision: Revision) -> Record {
    Record {
        key: key.clone(),
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: revision,
        version: 0,
        lease: None,
    }
}
