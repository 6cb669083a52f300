//! The log in memory: entries after a point that has been cut, and how much of it is being written
//! and is durable.
//!
//! Which entries are appended or replaced is decided by `replication` and `follower`; when a write
//! is durable, by the caller of [`Raft::persisted`](crate::raft::Raft::persisted).

use std::collections::VecDeque;

use crate::base::{Index, Term};
use crate::raft::Entry;

/// The entries that a node holds.
///
/// Invariants:
/// - Indexes are consecutive from `start_index + 1`; terms never decrease, from `start_term` on.
/// - `start_index <= durable <= handed <= last_index`.
/// - `bytes` is the sum of the sizes of the entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Log {
    start_index: Index,
    start_term: Term,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Entries up to here were given out to be written.
    handed: Index,
    /// Entries up to here are durable, and no write that is still under way replaces one of them.
    durable: Index,
}

impl Log {
    /// A log that is durable as a whole. The caller has checked that `entries` follow the start.
    pub(super) fn restored(start_index: Index, start_term: Term, entries: Vec<Entry>) -> Self {
        let last = entries.last().map_or(start_index, |entry| entry.index);
        assert_eq!(
            last,
            start_index.plus(entries.len() as u64),
            "restored entries do not follow {start_index} without gaps"
        );
        let bytes = entries.iter().map(|entry| entry.size_bytes() as u64).sum();
        let entries = VecDeque::from(entries);
        Self { start_index, start_term, entries, bytes, handed: last, durable: last }
    }

    /// The index just before the first entry: all up to here has been cut, or never was.
    pub(super) fn start_index(&self) -> Index {
        self.start_index
    }

    /// The index of the first entry that is held, or would be.
    pub(super) fn start_term(&self) -> Term {
        self.start_term
    }

    pub(super) fn first_index(&self) -> Index {
        self.start_index.next()
    }

    pub(super) fn last_index(&self) -> Index {
        self.entries.back().map_or(self.start_index, |entry| entry.index)
    }

    pub(super) fn last_term(&self) -> Term {
        self.entries.back().map_or(self.start_term, |entry| entry.term)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn handed(&self) -> Index {
        self.handed
    }

    pub(super) fn durable(&self) -> Index {
        self.durable
    }

    pub(super) fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// The term at `index`, if it is held or is the point just before the first entry.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start_index {
            return Some(self.start_term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    pub(super) fn entry(&self, index: Index) -> Option<&Entry> {
        if index <= self.start_index {
            return None;
        }
        let offset = index.since(self.first_index());
        usize::try_from(offset).ok().and_then(|offset| self.entries.get(offset))
    }

    /// Entries from `first` to at most `last`, ending early at `bytes_max` or `entries_max`; at
    /// least one when there is one.
    pub(super) fn slice(
        &self,
        first: Index,
        last: Index,
        bytes_max: usize,
        entries_max: usize,
    ) -> Vec<Entry> {
        assert!(
            first > self.start_index,
            "{first} was cut; the log starts after {}",
            self.start_index
        );
        let last = last.min(self.last_index());
        if first > last {
            return Vec::new();
        }
        let (from, to) = (self.offset(first), self.offset(last) + 1);
        let (mut end, mut bytes) = (from, 0);
        while end < to && end - from < entries_max.max(1) {
            bytes += self.entries[end].size_bytes();
            if bytes > bytes_max && end > from {
                break;
            }
            end += 1;
        }
        self.entries.range(from..end).cloned().collect()
    }

    /// The sum of the sizes of the entries in `(after, last]`.
    pub(super) fn bytes_between(&self, after: Index, last: Index) -> u64 {
        if after >= last {
            return 0;
        }
        let range = self.offset(after.next())..self.offset(last) + 1;
        self.entries.range(range).map(|entry| entry.size_bytes() as u64).sum()
    }

    pub(super) fn append(&mut self, entry: Entry) {
        let (last, term) = (self.last_index(), self.last_term());
        assert_eq!(entry.index, last.next(), "entry {} appended after {last}", entry.index);
        assert!(entry.term >= term, "entry of term {} appended after term {term}", entry.term);
        self.bytes += entry.size_bytes() as u64;
        self.entries.push_back(entry);
    }

    /// Removes every entry from `index` on. What was written or is being written of them no longer
    /// counts as handed out or durable.
    pub(super) fn truncate_from(&mut self, index: Index) {
        let first = self.first_index();
        assert!(index >= first, "truncation at {index} reaches before the first entry {first}");
        for entry in self.entries.drain(index.since(first) as usize..) {
            self.bytes -= entry.size_bytes() as u64;
        }
        self.handed = self.handed.min(index.previous());
        self.durable = self.durable.min(index.previous());
        assert_eq!(self.last_index(), index.previous(), "truncation at {index} left a gap");
    }

    /// Forgets every entry up to `index` and remembers its term.
    pub(super) fn compact(&mut self, index: Index) {
        if index <= self.start_index {
            return;
        }
        let durable = self.durable;
        assert!(index <= durable, "compaction to {index} beyond the durable index {durable}");
        let term = self.term_at(index).expect("a durable entry after the start is held");
        let count = index.since(self.start_index) as usize;
        for entry in self.entries.drain(..count) {
            self.bytes -= entry.size_bytes() as u64;
        }
        self.start_index = index;
        self.start_term = term;
    }

    /// The highest index that may go so that at most `entries` and `bytes` stay; no higher than
    /// `limit`, and looked for no further.
    pub(super) fn beyond(&self, entries: u64, bytes: u64, limit: Index) -> Index {
        let mut index = self.start_index;
        let (mut count, mut sum) = (self.entries.len() as u64, self.bytes);
        for entry in &self.entries {
            if entry.index > limit || (count <= entries && sum <= bytes) {
                break;
            }
            index = entry.index;
            count -= 1;
            sum -= entry.size_bytes() as u64;
        }
        index
    }

    /// The state at `index`, an entry that is held, is durable by itself: the log begins after it,
    /// whether or not the entries were written.
    pub(super) fn begin_after(&mut self, index: Index, term: Term) {
        assert_eq!(self.term_at(index), Some(term), "the log does not hold {index} of term {term}");
        self.handed = self.handed.max(index);
        self.durable = self.durable.max(index);
        self.compact(index);
    }

    /// The log begins anew, empty, after the state at `index`.
    pub(super) fn restart_after(&mut self, index: Index, term: Term) {
        let start = self.start_index;
        assert!(index > start, "a log that begins after {start} would begin after {index}");
        *self = Self::restored(index, term, Vec::new());
    }

    /// The entries that were not given out to be written yet; they count as given out now.
    pub(super) fn hand_out(&mut self) -> Vec<Entry> {
        let from = self.offset(self.handed.next());
        self.handed = self.last_index();
        self.entries.range(from..).cloned().collect()
    }

    /// Everything up to `index` is durable.
    pub(super) fn set_durable(&mut self, index: Index) {
        let handed = self.handed;
        assert!(index <= handed, "{index} durable, but only {handed} was given out to be written");
        self.durable = self.durable.max(index);
    }

    /// The highest index at or below `index` whose term is at most `term`: the last place at which
    /// this log and one that has `term` at `index` can agree (paper, end of section 5.3). Terms
    /// never decrease along a log, so whole terms are skipped at once. When that place was cut, the
    /// index just before what is held.
    pub(super) fn last_possible_agreement(&self, index: Index, term: Term) -> Index {
        if index < self.start_index {
            return index;
        }
        let count = self.entries.partition_point(|entry| entry.term <= term);
        if count == 0 && self.start_term > term {
            return self.start_index.previous();
        }
        index.min(self.start_index.plus(count as u64))
    }

    fn offset(&self, index: Index) -> usize {
        index.since(self.first_index()) as usize
    }
}
