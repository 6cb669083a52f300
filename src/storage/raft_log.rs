//! The durable half of consensus: hard state, log, cut and identity in `raft.redb`.
//!
//! What is written when is decided by the core's `Ready`; that both files agree is checked in
//! `recover.rs`.
//!
//! A commit costs pages, not bytes: redb rewrites each changed page and its parents. Three tables
//! follow from that:
//!
//! - `tail`: the hard state and the newest entries, together below one page. The table is one leaf,
//!   so that an ordinary write changes one page of ours (and redb's own four).
//! - `log`: older entries in rows of up to [`ROW_BYTES_MAX`]. The tail is moved here when it is
//!   full, once in about a dozen small writes; a write too large for the tail goes here at once.
//! - `facts`: what hardly ever changes.
//!
//! Measured at one entry of 310 bytes per write, in bytes written per commit: 21,600 with a tail;
//! 27,300 with a row per write in `log`, 29,600 when the hard state is in that table too.

use redb::{
    Database, Durability, ReadableTable, StorageBackend, Table, TableDefinition, WriteTransaction,
};

use super::backend::{Watch, copy_in_memory, open_file};
use super::format::{
    FACTS, KEY_CUT, KEY_GENESIS, KEY_MARK, encode_cut, encode_mark, mark_key, marker,
};
use super::raft_load::start;
use crate::base::mutation::{self, Mutation};
use crate::base::{Boot, Index, NodeId, Term, limits};
use crate::raft::{Entry, HardState, Membership, Payload};
use crate::storage::{Cut, Identity, PeerMark, StorageError};
use crate::wire::{
    Genesis, decode_entry_batch, encode_entry_batch, encode_genesis, encode_hard_state,
};

pub(super) const FILE: &str = "raft.redb";

/// Hard state and newest entries: one page.
pub(super) const TAIL: TableDefinition<u64, &[u8]> = TableDefinition::new("tail");
/// Older entries: first index of a batch to the batch.
pub(super) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

pub(super) const TAIL_HARD_STATE: u64 = 0;
pub(super) const TAIL_ENTRIES: u64 = 1;

/// Longest batch in the tail: with the hard state and redb's head it must fit in a page of 4 KiB.
const TAIL_BYTES_MAX: usize = 3_800;
/// Aim for one row of the log: redb gives a row a power of two of pages, so a little less than one.
const ROW_BYTES_MAX: usize = 60 * 1024;

/// Everything that is to become durable together.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// The newest hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// A state was installed: the log begins after this point, before anything else in the batch is
    /// done. What the log holds behind it stays when it holds the point itself, of the same term;
    /// otherwise all of it goes, being of another history.
    pub begin: Option<Box<Cut>>,
    /// One element per append, in order. The first index of each replaces whatever the log holds
    /// from there on; an empty one does nothing.
    pub entries: Vec<Vec<Entry>>,
    /// The log shall begin after this; rows wholly behind it go. An index beyond the last entry
    /// empties the log, and the next append follows it.
    pub cut: Option<Cut>,
    /// Newer marks of peers.
    pub marks: Vec<PeerMark>,
    /// Whether a power loss after `write` has returned may not undo it. Without, a mere commit
    /// index is kept for the next write: losing it is harmless (see `HardState`).
    pub must_sync: bool,
}

impl LogBatch {
    /// Whether `next` may be merged into this one. One in which the log begins anew may not: what
    /// it does depends on what is on disk then.
    pub fn takes(&self, next: &LogBatch) -> bool {
        next.begin.is_none()
    }

    /// Adds a batch that is to follow this one: both become durable together. Panics when it may
    /// not be: see [`takes`](Self::takes).
    pub fn merge(&mut self, next: LogBatch) {
        assert!(self.takes(&next), "a batch that begins the log anew stands by itself");
        self.hard_state = next.hard_state.or(self.hard_state);
        self.entries.extend(next.entries);
        self.cut = next.cut.or(self.cut.take());
        self.marks.extend(next.marks);
        self.must_sync |= next.must_sync;
    }
}

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Whose it is.
    pub identity: Identity,
    /// The number of this start, already durable. The first is 1.
    pub boot: Boot,
    /// The identity of the cluster, if it is known.
    pub genesis: Option<Genesis>,
    /// Term, vote and commit index. The commit index may be older than the state that was saved.
    pub hard_state: HardState,
    /// Where the log begins.
    pub cut: Cut,
    /// The entries after the cut, consecutive.
    pub entries: Vec<Entry>,
    /// What peers have promised, by node.
    pub marks: Vec<PeerMark>,
}

impl RecoveredLog {
    /// The newest configuration that it holds, committed or not; nothing before the first boot.
    pub fn membership(&self) -> Option<&Membership> {
        let newest = self.entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership),
            Payload::Command(_) | Payload::Empty => None,
        });
        newest.or_else(|| self.first_membership())
    }

    /// The configuration in force where the log begins; nothing before the first boot.
    pub fn first_membership(&self) -> Option<&Membership> {
        let genesis = self.genesis.as_ref();
        self.cut.membership.as_ref().or(genesis.map(|genesis| &genesis.membership))
    }
}

/// `raft.redb`, open for writing.
///
/// Invariants:
/// - The entries on disk are consecutive: those in `log`, then those in `tail`.
/// - What is in memory here describes what the last successful write left on disk.
/// - After an error nothing is written any more.
#[derive(Debug)]
pub struct RaftStore {
    database: Database,
    watch: Watch,
    held: Held,
    /// A commit index that may wait.
    deferred: Option<HardState>,
    latched: bool,
}

/// What is on disk, as far as writes need to know.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The index of the cut.
    pub(super) cut: Index,
    /// The last index, of an entry or of the cut.
    pub(super) last: Index,
    /// The entries in the tail.
    pub(super) tail: Vec<Entry>,
    /// The hard state.
    pub(super) hard_state: HardState,
}

impl RaftStore {
    /// Opens `raft.redb` at `path`; makes it, with the identity that `fresh` draws, when it is not
    /// there. See [`RaftStore::create_or_open`].
    pub fn open_path(
        path: &std::path::Path,
        fresh: impl FnOnce() -> Identity,
    ) -> Result<(Self, RecoveredLog), StorageError> {
        Self::open(open_file(FILE, path)?, fresh)
    }

    /// Opens a copy in memory of `raft.redb` at `path`: the file stays as it is, and what is
    /// written is forgotten, the boot among it. Errors as opening does; a file that is not there is
    /// an error too.
    pub fn open_copy(path: &std::path::Path) -> Result<(Self, RecoveredLog), StorageError> {
        let backend = copy_in_memory(FILE, path)?;
        // Asked for only when the making of the file was cut short: then it belongs to nobody.
        let nobody =
            || Identity { node: NodeId(0), name: String::new(), cluster_name: String::new() };
        Self::open(backend, nobody)
    }

    /// Opens what `backend` holds; when it is empty, or its making was cut short, it is made with
    /// the identity that `fresh` draws. Counts the boot, durably.
    ///
    /// Every checksum is verified and every row is read. Errors when anything is not as it was
    /// written, with what to do next; the file is then as it was.
    pub fn create_or_open(
        backend: impl StorageBackend,
        fresh: impl FnOnce() -> Identity,
    ) -> Result<(Self, RecoveredLog), StorageError> {
        Self::open(Box::new(backend), fresh)
    }

    fn open(
        backend: Box<dyn StorageBackend>,
        fresh: impl FnOnce() -> Identity,
    ) -> Result<(Self, RecoveredLog), StorageError> {
        let (database, watch) = Watch::open(FILE, backend, marker(FILE).as_bytes())?;
        let (recovered, held) = start(&database, &watch, fresh)?;
        Ok((Self { database, watch, held, deferred: None, latched: false }, recovered))
    }

    /// Makes all of `batch` durable, in one transaction with one sync, or nothing of it.
    ///
    /// After an error the store is latched: whether the batch is on disk is known only when it is
    /// opened anew. Panics when an append leaves a gap or rewrites what was cut.
    pub fn write(&mut self, batch: &LogBatch) -> Result<(), StorageError> {
        if self.latched {
            return Err(StorageError::Latched { file: FILE });
        }
        let hard_state = batch.hard_state.or(self.deferred);
        if self.may_wait(batch) {
            self.deferred = hard_state;
            return Ok(());
        }
        let held = self.guarded(|store| store.commit(batch, hard_state))?;
        self.held = held;
        self.deferred = None;
        Ok(())
    }

    /// Writes what was allowed to wait: before a clean stop.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        match self.deferred {
            Some(_) => self.write(&LogBatch { must_sync: true, ..LogBatch::default() }),
            None => Ok(()),
        }
    }

    /// Records the identity of the cluster, durably. That it is made once, and the same on all
    /// members, is decided by `replica/`.
    pub fn set_genesis(&mut self, genesis: &Genesis) -> Result<(), StorageError> {
        let value = encode_genesis(genesis);
        self.guarded(|store| {
            let transaction = store.begin()?;
            {
                let mut facts = transaction.open_table(FACTS).map_err(|e| store.watch.error(e))?;
                facts.insert(KEY_GENESIS, &value[..]).map_err(|e| store.watch.error(e))?;
            }
            transaction.commit().map_err(|e| store.watch.error(e))
        })
    }

    /// Makes this the directory of another cluster that goes on with the same log: the identity of
    /// the cluster, what `batch` appends to the log, and the end of all marks of peers, in one
    /// transaction. After a crash at any point the file is of the one cluster or of the other.
    ///
    /// Panics as [`RaftStore::write`] does.
    pub fn start_cluster(
        &mut self,
        genesis: &Genesis,
        batch: &LogBatch,
    ) -> Result<(), StorageError> {
        assert!(batch.marks.is_empty(), "a new cluster begins with marks of peers");
        let mut held = self.held.clone();
        held.hard_state = batch.hard_state.or(self.deferred).unwrap_or(held.hard_state);
        let held = self.guarded(|store| {
            let transaction = store.begin()?;
            store.write_cluster(genesis, &transaction)?;
            store.write_facts(batch, &transaction)?;
            store.write_log(batch, &mut held, &transaction)?;
            store.write_tail(&held, &transaction)?;
            transaction.commit().map_err(|e| store.watch.error(e))?;
            Ok(held)
        })?;
        self.held = held;
        self.deferred = None;
        Ok(())
    }

    /// The length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.watch.bytes()
    }

    /// Whether the batch is nothing but a newer commit index that need not be synced.
    fn may_wait(&self, batch: &LogBatch) -> bool {
        let same_promise = batch.hard_state.is_none_or(|state| {
            state.term == self.held.hard_state.term && state.vote == self.held.hard_state.vote
        });
        !batch.must_sync
            && same_promise
            && batch.entries.iter().all(Vec::is_empty)
            && batch.cut.is_none()
            && batch.begin.is_none()
            && batch.marks.is_empty()
    }

    fn guarded<T>(
        &mut self,
        write: impl FnOnce(&Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.latched {
            return Err(StorageError::Latched { file: FILE });
        }
        let result = write(self);
        self.latched = result.is_err();
        result
    }

    fn begin(&self) -> Result<WriteTransaction, StorageError> {
        let mut transaction = self.database.begin_write().map_err(|e| self.watch.error(e))?;
        let synced = !mutation::active(Mutation::SyncSkipped);
        let durability = if synced { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(|e| self.watch.error(e))?;
        Ok(transaction)
    }

    fn commit(&self, batch: &LogBatch, state: Option<HardState>) -> Result<Held, StorageError> {
        let mut held = self.held.clone();
        held.hard_state = state.unwrap_or(held.hard_state);
        let transaction = self.begin()?;
        if batch.cut.is_some() || batch.begin.is_some() || !batch.marks.is_empty() {
            self.write_facts(batch, &transaction)?;
        }
        self.write_log(batch, &mut held, &transaction)?;
        self.write_tail(&held, &transaction)?;
        transaction.commit().map_err(|e| self.watch.error(e))?;
        Ok(held)
    }

    fn write_cluster(
        &self,
        genesis: &Genesis,
        into: &WriteTransaction,
    ) -> Result<(), StorageError> {
        let mut facts = into.open_table(FACTS).map_err(|e| self.watch.error(e))?;
        facts.insert(KEY_GENESIS, &encode_genesis(genesis)[..]).map_err(|e| self.watch.error(e))?;
        facts.retain(|key, _| key.first() != Some(&KEY_MARK)).map_err(|e| self.watch.error(e))
    }

    fn write_facts(&self, batch: &LogBatch, into: &WriteTransaction) -> Result<(), StorageError> {
        let mut facts = into.open_table(FACTS).map_err(|e| self.watch.error(e))?;
        let cut = batch.cut.as_ref().or(batch.begin.as_deref());
        let cut = cut.iter().map(|cut| (KEY_CUT.to_vec(), encode_cut(KEY_CUT, cut)));
        let marks = batch.marks.iter().map(|mark| (mark_key(mark.node), encode_mark(mark)));
        for (key, value) in cut.chain(marks) {
            facts.insert(&key[..], &value[..]).map_err(|e| self.watch.error(e))?;
        }
        Ok(())
    }

    fn write_log(
        &self,
        batch: &LogBatch,
        held: &mut Held,
        into: &WriteTransaction,
    ) -> Result<(), StorageError> {
        let mut log = into.open_table(LOG).map_err(|e| self.watch.error(e))?;
        let rows = LogRows { watch: &self.watch, log: &mut log };
        rows.apply(fold(&batch.entries), batch.begin.as_deref(), batch.cut.as_ref(), held)
    }

    fn write_tail(&self, held: &Held, into: &WriteTransaction) -> Result<(), StorageError> {
        let mut tail = into.open_table(TAIL).map_err(|e| self.watch.error(e))?;
        if held.hard_state != self.held.hard_state {
            let value = encode_hard_state(&held.hard_state);
            tail.insert(TAIL_HARD_STATE, &value[..]).map_err(|e| self.watch.error(e))?;
        }
        if held.tail.is_empty() {
            tail.remove(TAIL_ENTRIES).map_err(|e| self.watch.error(e))?;
        } else if held.tail != self.held.tail {
            let value = encode_entry_batch(&held.tail);
            assert!(value.len() <= TAIL_BYTES_MAX, "a tail of {} bytes is too long", value.len());
            tail.insert(TAIL_ENTRIES, &value[..]).map_err(|e| self.watch.error(e))?;
        }
        Ok(())
    }
}

/// What is left of several appends in order: one run of entries, which replaces what the log holds
/// from its first index on.
fn fold(appends: &[Vec<Entry>]) -> Vec<Entry> {
    let mut run: Vec<Entry> = Vec::new();
    for append in appends {
        let Some(first) = append.first() else {
            continue;
        };
        run.retain(|entry| entry.index < first.index);
        if let Some(last) = run.last() {
            assert_eq!(last.index.next(), first.index, "an append leaves a gap");
        }
        run.extend_from_slice(append);
    }
    run
}

/// The table of older entries within one transaction.
struct LogRows<'a, 't> {
    watch: &'a Watch,
    log: &'a mut Table<'t, u64, &'static [u8]>,
}

impl LogRows<'_, '_> {
    fn apply(
        mut self,
        run: Vec<Entry>,
        begin: Option<&Cut>,
        cut: Option<&Cut>,
        held: &mut Held,
    ) -> Result<(), StorageError> {
        if let Some(begin) = begin {
            self.begin(begin, held)?;
        }
        let follows = run.first().is_none_or(|first| first.index <= held.last.next());
        // A cut beyond the log stands for the entries that are missing before the run.
        let (before, after) = if follows { (None, cut) } else { (cut, None) };
        if let Some(cut) = before {
            self.cut(cut, held)?;
        }
        if !run.is_empty() {
            self.append(run, held)?;
        }
        if let Some(cut) = after {
            self.cut(cut, held)?;
        }
        self.spill(held)
    }

    /// Begins the log after an installed state.
    fn begin(&mut self, point: &Cut, held: &mut Held) -> Result<(), StorageError> {
        if self.term_at(point.index, held)? == Some(point.term) {
            return self.cut(point, held);
        }
        let (cut, index) = (held.cut, point.index);
        assert!(index > cut, "the log would begin after {index}, and was cut at {cut}");
        held.tail.clear();
        (held.cut, held.last) = (index, index);
        let watch = self.watch;
        self.log.retain(|_, _| false).map_err(|e| watch.error(e))
    }

    /// The term of the entry at `index`, if the log holds it.
    fn term_at(&self, index: Index, held: &Held) -> Result<Option<Term>, StorageError> {
        if index <= held.cut {
            return Ok(None);
        }
        let term_in = |entries: &[Entry]| {
            entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
        };
        if let Some(term) = term_in(&held.tail) {
            return Ok(Some(term));
        }
        let mut range = self.log.range(..=index.0).map_err(|e| self.watch.error(e))?;
        let Some(row) = range.next_back() else { return Ok(None) };
        let (_, value) = row.map_err(|e| self.watch.error(e))?;
        let entries = decode_entry_batch(value.value())
            .map_err(|error| StorageError::row(FILE, "a row of the log", error))?;
        Ok(term_in(&entries))
    }

    fn append(&mut self, run: Vec<Entry>, held: &mut Held) -> Result<(), StorageError> {
        let (first, last) = (run[0].index, run[run.len() - 1].index);
        assert!(first > held.cut, "{first} is already cut, up to {}", held.cut);
        assert!(first <= held.last.next(), "{first} leaves a gap after {}", held.last);
        let tail_first = held.tail.first().map_or(held.last.next(), |entry| entry.index);
        held.tail.retain(|entry| entry.index < first);
        if first < tail_first {
            self.truncate(first)?;
        }
        held.tail.extend(run);
        held.last = last;
        Ok(())
    }

    /// Removes everything from `first` on; a row that begins before keeps its beginning.
    fn truncate(&mut self, first: Index) -> Result<(), StorageError> {
        let watch = self.watch;
        self.log.retain_in(first.0.., |_, _| false).map_err(|e| watch.error(e))?;
        let kept = match self.log.last().map_err(|e| watch.error(e))? {
            None => return Ok(()),
            Some((key, value)) => {
                let mut entries = decode_entry_batch(value.value())
                    .map_err(|error| StorageError::row(FILE, "a row of the log", error))?;
                let before = entries.len();
                entries.retain(|entry| entry.index < first);
                if entries.len() == before {
                    return Ok(());
                }
                (key.value(), encode_entry_batch(&entries))
            }
        };
        self.log.insert(kept.0, &kept.1[..]).map_err(|e| watch.error(e))?;
        Ok(())
    }

    /// Removes the rows that are wholly behind the cut.
    fn cut(&mut self, cut: &Cut, held: &mut Held) -> Result<(), StorageError> {
        assert!(cut.index >= held.cut, "the cut goes back from {} to {}", held.cut, cut.index);
        let watch = self.watch;
        let next = cut.index.next();
        held.cut = cut.index;
        let tail_reached = held.tail.first().is_some_and(|first| first.index <= next);
        held.tail.retain(|entry| entry.index > cut.index);
        let keep_from = if tail_reached || cut.index >= held.last {
            None
        } else {
            let mut range = self.log.range(..=next.0).map_err(|e| watch.error(e))?;
            match range.next_back() {
                None => Some(0),
                Some(row) => Some(row.map_err(|e| watch.error(e))?.0.value()),
            }
        };
        held.last = held.last.max(cut.index);
        match keep_from {
            None => self.log.retain(|_, _| false),
            Some(key) => self.log.retain_in(..key, |_, _| false),
        }
        .map_err(|e| watch.error(e))
    }

    /// Moves the tail into rows when it is too long for its page.
    fn spill(&mut self, held: &mut Held) -> Result<(), StorageError> {
        if held.tail.is_empty() || fits_the_tail(&held.tail) {
            return Ok(());
        }
        let mut rest = &held.tail[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|entry| {
                bytes += entry.size_bytes();
                bytes <= ROW_BYTES_MAX
            });
            let count = fitting.count().clamp(1, limits::APPEND_ENTRIES_MAX);
            let (row, later) = rest.split_at(count);
            self.log
                .insert(row[0].index.0, &encode_entry_batch(row)[..])
                .map_err(|e| self.watch.error(e))?;
            rest = later;
        }
        held.tail.clear();
        Ok(())
    }
}

fn fits_the_tail(entries: &[Entry]) -> bool {
    let payload = |entry: &Entry| match &entry.payload {
        Payload::Command(bytes) => bytes.len(),
        Payload::Empty | Payload::Membership(_) => 0,
    };
    entries.len() <= limits::APPEND_ENTRIES_MAX
        && entries.iter().map(payload).sum::<usize>() <= TAIL_BYTES_MAX
        && encode_entry_batch(entries).len() <= TAIL_BYTES_MAX
}
