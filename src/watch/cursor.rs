//! One watcher's place in the history: what it is sent next, and what it is told that cannot be
//! sent everything.
//!
//! Who may watch, how messages look and when a progress message is due are decided in `api/`; whom
//! to wake, in `registry.rs`.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{Epoch, Revision, limits};
use crate::state::{QueryError, Record, RevisionEvents, StateMachine};

use super::filter::{Filter, Selected};
use super::history::History;

/// What a watcher asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Which keys.
    pub filter: Filter,
    /// The first revision whose events are wanted; nothing: those from now on. It may lie in the
    /// future, and then nothing at all is sent before the store has come to it. Together with
    /// `initial` it says only how old the state may not be.
    pub from: Option<Revision>,
    /// The present state first, and a new one after falling behind.
    pub initial: bool,
    /// Previous values are wanted. The cursor only carries this to whoever encodes its events.
    pub previous: bool,
    /// Everything up to here was received by an earlier stream (`Last-Event-ID`).
    pub resume_after: Option<Revision>,
    /// The epoch that `from` and `resume_after` belong to, as far as the caller knows it.
    pub epoch: Option<Epoch>,
}

/// Why a watch cannot begin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchError {
    /// The history that is asked for is gone (410), or belongs to another epoch.
    Compacted {
        /// The newest revision that is gone: a watch from any later one is possible.
        compact_revision: Revision,
        /// The store's revision.
        revision: Revision,
    },
}

/// The next thing to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One whole revision, or what the filter takes of it.
    Changes {
        /// The revision, shared with all other watchers.
        events: Arc<RevisionEvents>,
        /// What of it.
        selection: Selected,
    },
    /// The stream is over; asked again, the cursor says the same.
    Ended(WatchEnd),
    /// Nothing until the next revision.
    Idle,
    /// The reader fell behind or its snapshot was compacted away: a new snapshot follows.
    Resync {
        /// The newest revision whose history is gone.
        compact_revision: Revision,
        /// The store's revision: that of the snapshot that follows.
        revision: Revision,
    },
    /// A part of the state at one revision. All parts of one snapshot are of the same revision.
    Snapshot {
        /// Which.
        revision: Revision,
        /// The keys of this part, in key order after those of the part before.
        records: Vec<Record>,
        /// Whether another part follows.
        more: bool,
    },
    /// Everything up to here was sent; from the next revision on the stream is live.
    Synced {
        /// Up to where.
        revision: Revision,
    },
}

/// Why a stream is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The first revision asked for was gone before anything could be sent, or the store was
    /// restored from a backup: its revisions now mean something else.
    Compacted {
        /// The newest revision that is gone.
        compact_revision: Revision,
        /// The store's revision.
        revision: Revision,
    },
    /// The reader was slower than the history is long.
    Lagged {
        /// Everything up to here was sent.
        last_sent: Revision,
    },
}

/// One watcher's place.
///
/// - Every event under the filter in `(start, position]` was delivered, once and in order, where
///   `start` is the revision of the last `Synced`; none above `position` was (W1 to W4).
/// - `position` never moves back (RELIABILITY I2).
/// - A claim that everything was sent (`Synced`, `progress`) names `position` and is made in no
///   other phase than `Live`, so that it can run ahead of no event (W6, RELIABILITY I1) and of no
///   `from` (W7, RELIABILITY I7).
#[derive(Clone, Debug)]
pub struct Cursor {
    filter: Filter,
    initial: bool,
    previous: bool,
    epoch: Epoch,
    position: Revision,
    synced: bool,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Came back too late for what it asked to resume: must be told so before its new snapshot.
    Behind,
    /// Said why, and says nothing else any more.
    Ended(WatchEnd),
    /// `Synced` was sent; changes follow.
    Live,
    /// Sends the state at `at`, from the key after `after` on.
    Snapshot { at: Revision, after: Option<Bytes> },
    /// Will begin when the store has come to `position`, which it may have long ago: with a
    /// snapshot, or with `Synced`.
    Waiting { snapshot: bool },
}

impl Cursor {
    /// Takes a place. The owner holds the lock under which `history` and `machine` change together.
    pub fn open(
        request: WatchRequest,
        history: &History,
        machine: &StateMachine,
    ) -> Result<Self, WatchError> {
        let revision = machine.revision();
        assert!(
            history.newest() == revision,
            "history at {}, store at {revision}",
            history.newest()
        );
        let gone = gone(history, machine);
        let compacted = WatchError::Compacted { compact_revision: gone, revision };
        if request.epoch.is_some_and(|epoch| epoch != machine.epoch()) {
            return Err(compacted);
        }
        // Foreign numbers: `Revision::next` would panic at the greatest of them.
        let resumed = request.resume_after.map(|last| Revision(last.get().saturating_add(1)));
        let first = match request.from.max(resumed) {
            Some(first) if mutation::active(Mutation::WatchRepeatsOnResume) => {
                first.previous().previous().max(Revision(1))
            }
            Some(first) => first.previous().max(Revision(1)),
            None => revision,
        };
        let reaches = first >= gone;
        if !reaches && !request.initial {
            return Err(compacted);
        }
        let phase = match request.resume_after {
            Some(_) if !reaches => Phase::Behind,
            Some(_) => Phase::Waiting { snapshot: false },
            None => Phase::Waiting { snapshot: request.initial },
        };
        Ok(Self {
            filter: request.filter,
            initial: request.initial,
            previous: request.previous,
            epoch: machine.epoch(),
            position: first,
            synced: false,
            phase,
        })
    }

    /// What to send next. Called by the owner, under the lock of [`Cursor::open`], when the reader
    /// has taken what came before; `Idle` means to wait until the registry wakes this watcher.
    /// Copies no value. `budget_bytes` bounds a part of a snapshot; a revision is never torn.
    pub fn next(
        &mut self,
        history: &History,
        machine: &StateMachine,
        budget_bytes: usize,
    ) -> Delivery {
        let revision = machine.revision();
        assert!(
            history.newest() == revision,
            "history at {}, store at {revision}",
            history.newest()
        );
        if let Phase::Ended(end) = &self.phase {
            return Delivery::Ended(end.clone());
        }
        if machine.epoch() != self.epoch {
            return self
                .end(WatchEnd::Compacted { compact_revision: gone(history, machine), revision });
        }
        match &self.phase {
            Phase::Behind => self.fell_behind(history, machine),
            Phase::Waiting { .. } if revision < self.position => Delivery::Idle,
            Phase::Waiting { snapshot: true } => {
                self.phase = Phase::Snapshot { at: revision, after: None };
                self.next_part(history, machine, budget_bytes)
            }
            Phase::Snapshot { .. } => self.next_part(history, machine, budget_bytes),
            _ if self.position < history.floor() => {
                if mutation::active(Mutation::WatchLosesAtCompaction) {
                    self.position = history.floor();
                    return Delivery::Idle;
                }
                self.fell_behind(history, machine)
            }
            Phase::Waiting { snapshot: false } => {
                self.phase = Phase::Live;
                self.synced = true;
                Delivery::Synced { revision: self.position }
            }
            _ => self.next_changes(history),
        }
    }

    /// Reads the next part of the snapshot. Its revision must still be readable, and the history
    /// must reach back to it, or there would be a gap between the snapshot and what follows.
    fn next_part(
        &mut self,
        history: &History,
        machine: &StateMachine,
        budget_bytes: usize,
    ) -> Delivery {
        let Phase::Snapshot { at, after } = &self.phase else {
            unreachable!("a part is read in the phase of the snapshot only")
        };
        let at = *at;
        if at < history.floor() || at < machine.compact_revision() {
            return self.fell_behind(history, machine);
        }
        let part = read_part(&self.filter, machine, at, after.as_deref(), budget_bytes);
        let (records, more) =
            part.expect("a revision between the compacted and the newest one is readable");
        if more {
            let last = records.last().expect("a part that is not the last one has a record");
            self.phase = Phase::Snapshot { at, after: Some(last.key.clone()) };
        } else {
            assert!(at >= self.position, "a snapshot at {at} came after {}", self.position);
            self.position = at;
            self.phase = Phase::Waiting { snapshot: false };
        }
        Delivery::Snapshot { revision: at, records, more }
    }

    fn next_changes(&mut self, history: &History) -> Delivery {
        for events in history.since(self.position.next()) {
            assert!(
                events.revision == self.position.next(),
                "revision {} follows position {}",
                events.revision,
                self.position
            );
            self.position = events.revision;
            if let Some(selection) = self.filter.select(events) {
                return Delivery::Changes { events: events.clone(), selection };
            }
        }
        assert!(self.position == history.newest(), "idle at {}, not at the end", self.position);
        Delivery::Idle
    }

    fn fell_behind(&mut self, history: &History, machine: &StateMachine) -> Delivery {
        let (compact_revision, revision) = (gone(history, machine), machine.revision());
        if self.initial {
            self.phase = Phase::Snapshot { at: revision, after: None };
            return Delivery::Resync { compact_revision, revision };
        }
        self.end(match self.synced {
            true => WatchEnd::Lagged { last_sent: self.position },
            false => WatchEnd::Compacted { compact_revision, revision },
        })
    }

    fn end(&mut self, end: WatchEnd) -> Delivery {
        self.phase = Phase::Ended(end.clone());
        Delivery::Ended(end)
    }

    /// The revision up to which a progress message may claim that everything was sent; nothing
    /// while the stream has not become live, or is being resynced. Asked directly after `next`
    /// answered `Idle`, it is the store's revision.
    pub fn progress(&self) -> Option<Revision> {
        match self.phase {
            Phase::Live if self.synced && mutation::active(Mutation::ProgressTooEarly) => {
                Some(self.position.next())
            }
            Phase::Live if self.synced => Some(self.position),
            _ => None,
        }
    }

    /// The revision after which another stream can go on where this one is, or was when it ended;
    /// nothing when it never became live.
    pub fn last_sent(&self) -> Option<Revision> {
        self.synced.then_some(self.position)
    }

    /// The revision, still to come, at which this watcher wants to be woken whichever key changes;
    /// see [`Registry::add`](crate::watch::Registry::add).
    pub fn waits_for(&self, history: &History) -> Option<Revision> {
        (self.position > history.newest()).then_some(self.position)
    }

    /// Which keys.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether previous values are wanted.
    pub fn previous(&self) -> bool {
        self.previous
    }

    /// Which history the revisions of this stream belong to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// The newest revision after which a new watch cannot be given everything. The history may reach
/// further back than the last compaction, for those who are under way; a new watch is refused there
/// on every node alike.
fn gone(history: &History, machine: &StateMachine) -> Revision {
    history.floor().max(machine.compact_revision())
}

/// Reads the records of one part of a snapshot, at least one if there is any, and says whether
/// others follow.
fn read_part(
    filter: &Filter,
    machine: &StateMachine,
    at: Revision,
    start_after: Option<&[u8]>,
    budget_bytes: usize,
) -> Result<(Vec<Record>, bool), QueryError> {
    let prefix = match filter {
        Filter::Key(key) => return Ok((machine.get(key, Some(at))?.into_iter().collect(), false)),
        Filter::Prefix(prefix) => prefix,
    };
    let bytes_max = budget_bytes.min(limits::PAGE_BYTES_MAX);
    let (mut part, mut bytes) = (Vec::new(), 0);
    for record in machine.records(prefix, start_after, at)? {
        // Under the empty prefix the store has reserved keys, and the filter has not.
        if !filter.matches(&record.key) {
            continue;
        }
        bytes += record.key.len() + record.value.len();
        let full = bytes > bytes_max || part.len() == limits::LIST_KEYS_MAX;
        if full && !part.is_empty() {
            return Ok((part, true));
        }
        part.push(record);
    }
    Ok((part, false))
}
