//! Reading the state: keys now and in the past, leases, retained events.
//!
//! Reads change nothing and are no part of the log. Whether a read is linearizable is decided in
//! `replica/`; who may read is decided in `host/`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::{LeaseId, NodeId, Revision, WallMillis};
use crate::state::{Event, EventKind, Lease, Record, RevisionEvents, StateMachine};

use super::keys::deleted_record;

/// Which keys to list, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    /// What the keys begin with; empty: all, reserved ones among them.
    pub prefix: Bytes,
    /// The page begins after this key.
    pub start_after: Option<Bytes>,
    /// Most records in the page.
    pub limit: usize,
    /// Bytes of keys and values after which the page ends; the first record always fits.
    pub bytes_max: usize,
    /// The past revision to read at; now when none.
    pub at: Option<Revision>,
    /// What to tell of each key.
    pub content: RangeContent,
}

/// What a page tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeContent {
    /// Only how many there are.
    Count,
    /// Records with empty values.
    Keys,
    /// Records.
    Records,
}

/// A page of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub records: Vec<Record>,
    /// All keys with the prefix at that revision, whatever the page holds of them: the same on
    /// every page.
    pub count: u64,
    /// Whether more keys follow the last record of the page.
    pub more: bool,
    /// The revision that was read; naming it for the next page makes the pages agree.
    pub revision: Revision,
}

/// Why a revision cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// It is compacted.
    Compacted {
        /// The oldest that is readable.
        compact_revision: Revision,
    },
    /// It has not happened yet.
    Future {
        /// The newest there is.
        revision: Revision,
    },
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::Compacted { compact_revision } => write!(
                f,
                "the revision is compacted; the oldest that can be read is {compact_revision}"
            ),
            QueryError::Future { revision } => {
                write!(f, "the revision has not happened yet; the newest is {revision}")
            }
        }
    }
}

impl std::error::Error for QueryError {}

impl StateMachine {
    /// One key, now or at a past revision.
    pub fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Record>, QueryError> {
        let revision = self.readable(at)?;
        let found = self.keys.history(key);
        Ok(found.and_then(|(key, history)| history.at(revision)?.record(key)))
    }

    /// A page of keys, now or at a past revision. Walks over all keys with the prefix, deleted ones
    /// that history still holds among them, because it counts them: about 0.3 microseconds each.
    pub fn range(&self, query: &RangeQuery) -> Result<Page, QueryError> {
        let revision = self.readable(query.at)?;
        let mut page = Page { records: Vec::new(), count: 0, more: false, revision };
        let mut bytes = 0_usize;
        for (key, history) in self.keys.scan(&query.prefix, None) {
            let Some(version) = history.at(revision) else { continue };
            let Some(content) = &version.content else { continue };
            page.count += 1;
            let before = query.start_after.as_ref().is_some_and(|after| key <= after);
            if before || page.more || query.content == RangeContent::Count {
                continue;
            }
            let value = match query.content {
                RangeContent::Records => content.value.clone(),
                RangeContent::Count | RangeContent::Keys => Bytes::new(),
            };
            let size = key.len() + value.len();
            let full = !page.records.is_empty() && bytes.saturating_add(size) > query.bytes_max;
            if full || page.records.len() >= query.limit {
                page.more = true;
                continue;
            }
            bytes = bytes.saturating_add(size);
            page.records.extend(version.record(key).map(|record| Record { value, ..record }));
        }
        Ok(page)
    }

    /// The records whose keys begin with `prefix` and lie after `start_after`, in key order, at one
    /// revision. Unlike [`range`](Self::range) it counts nothing, and so costs only what is taken
    /// from it: reading a large store in parts must not walk over the whole of it for each part.
    pub fn records<'a>(
        &'a self,
        prefix: &'a [u8],
        start_after: Option<&'a [u8]>,
        at: Revision,
    ) -> Result<impl Iterator<Item = Record> + 'a, QueryError> {
        let revision = self.readable(Some(at))?;
        let keys = self.keys.scan(prefix, start_after);
        Ok(keys.filter_map(move |(key, history)| history.at(revision)?.record(key)))
    }

    fn readable(&self, at: Option<Revision>) -> Result<Revision, QueryError> {
        let revision = at.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(QueryError::Future { revision: self.revision });
        }
        if revision < self.compact_revision {
            return Err(QueryError::Compacted { compact_revision: self.compact_revision });
        }
        Ok(revision)
    }

    /// A lease with the keys that are attached to it.
    pub fn lease(&self, lease: LeaseId) -> Option<&Lease> {
        self.leases.find(lease)
    }

    /// All leases by id.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.all()
    }

    /// How many leases there are.
    pub fn lease_count(&self) -> usize {
        self.leases.count()
    }

    /// Every lock and election in which somebody stands.
    pub fn queue_names(&self) -> impl Iterator<Item = &crate::state::QueueName> {
        self.queues.keys()
    }

    /// A host's own lease, of its newest boot that has one.
    pub fn host_lease(&self, node: NodeId) -> Option<&Lease> {
        self.leases.host(node)
    }

    /// The leases that hang directly under this one, by id.
    pub fn children(&self, lease: LeaseId) -> impl Iterator<Item = LeaseId> {
        self.leases.children(lease)
    }

    /// The events of every retained revision from `from` on, rebuilt from the versions: what a
    /// watch history is refilled with after a restart. Retained is what lies above
    /// `compact_revision`; every event there has its previous record.
    pub fn events_from(&self, from: Revision) -> Vec<Arc<RevisionEvents>> {
        let first = self.first_retained();
        let skipped = usize::try_from(from.get().saturating_sub(first.get())).unwrap_or(usize::MAX);
        let numbers = first.get().max(from.get())..;
        let changed = self.changed.iter().skip(skipped).zip(numbers);
        changed.map(|(keys, number)| Arc::new(self.events_of(keys, Revision(number)))).collect()
    }

    fn events_of(&self, keys: &[Bytes], revision: Revision) -> RevisionEvents {
        let event = |key: &Bytes| {
            let (key, history) = self.keys.history(key).expect("a changed key is retained");
            let version = history.at(revision).expect("a changed key has that version");
            assert!(
                version.revision == revision,
                "version {} of a key that changed in {revision}",
                version.revision
            );
            let (kind, record) = match version.record(key) {
                Some(record) => (EventKind::Put, record),
                None => (EventKind::Delete, deleted_record(key, revision)),
            };
            let previous = history.at(revision.previous()).and_then(|old| old.record(key));
            Event { kind, record, previous }
        };
        RevisionEvents { revision, events: keys.iter().map(event).collect() }
    }

    /// The newest revision known to be made at or before this stamp: for retention by age. Known
    /// coarsely and only since this process started, so it may name an older revision than it
    /// could, never a newer one. Nothing that is applied may depend on it.
    pub fn revision_at(&self, wall: WallMillis) -> Revision {
        self.walls.at(wall).unwrap_or(self.compact_revision)
    }
}

/// Which revision was made when: a bounded number of samples, in order.
#[derive(Clone, Debug)]
pub(super) struct WallIndex {
    samples: VecDeque<(WallMillis, Revision)>,
    /// How much time one sample covers, in milliseconds.
    sample_millis: u64,
}

impl Default for WallIndex {
    fn default() -> Self {
        Self { samples: VecDeque::new(), sample_millis: SAMPLE_MILLIS_MIN }
    }
}

/// How much time one sample covers at first, in milliseconds.
const SAMPLE_MILLIS_MIN: u64 = 1_000;
/// Most samples; beyond them every second one goes, and each covers twice the time from then on.
const SAMPLES_MAX: usize = 4_096;

impl WallIndex {
    /// A revision was made. Revisions within one sample are told by the last of them, at its time.
    pub(super) fn note(&mut self, wall: WallMillis, revision: Revision) {
        match self.samples.back_mut() {
            Some(last) if last.0.0 / self.sample_millis == wall.0 / self.sample_millis => {
                *last = (wall, revision);
            }
            _ => self.samples.push_back((wall, revision)),
        }
        if self.samples.len() > SAMPLES_MAX {
            self.sample_millis = self.sample_millis.saturating_mul(2);
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Revisions before this one are of no interest any more.
    pub(super) fn forget_before(&mut self, revision: Revision) {
        let count = self.samples.partition_point(|(_, made)| *made < revision);
        self.samples.drain(..count);
    }

    fn at(&self, wall: WallMillis) -> Option<Revision> {
        let count = self.samples.partition_point(|(made, _)| *made <= wall);
        count.checked_sub(1).map(|last| self.samples[last].1)
    }
}

#[cfg(test)]
mod tests {
    use crate::base::{Revision, WallMillis};

    use super::{SAMPLES_MAX, WallIndex};

    /// However coarse it gets, the index never names a revision that is too new: history would be
    /// compacted that must still be kept. And it stays bounded, and of use.
    #[test]
    fn wall_index_is_bounded_and_errs_towards_older_revisions() {
        let mut index = WallIndex::default();
        assert_eq!(index.at(WallMillis(5)), None, "an empty index knows nothing");
        let made = |revision: u64| WallMillis(revision * 700);
        let last = 20_000;
        for revision in 1..=last {
            index.note(made(revision), Revision(revision));
            assert!(index.samples.len() <= SAMPLES_MAX, "{} samples", index.samples.len());
        }
        for asked in (0..made(last).0 + 10).step_by(333) {
            let newest = Revision(asked / 700);
            let found = index.at(WallMillis(asked)).unwrap_or(Revision(0));
            assert!(found <= newest, "at {asked} ms: {found}, but the newest was {newest}");
            // Twice the time that one sample covers: some samples went, and one covers a span.
            let slack = 2 * index.sample_millis / 700 + 1;
            assert!(found.get() + slack >= newest.get(), "at {asked} ms: only {found} of {newest}");
        }
        assert!(index.samples.len() > SAMPLES_MAX / 4, "coarser than need be");
        index.forget_before(Revision(last));
        assert_eq!(index.samples.len(), 1, "only the newest sample is of interest");
    }
}
