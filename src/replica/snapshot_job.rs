//! What the owner of `state.redb` does for snapshots, beside the replica and off its thread:
//! opening, reading, and putting a state from elsewhere in the place of the saved one.
//!
//! When it is asked, and what follows, is decided in `snapshots.rs`. The owner performs one job
//! after the other, and saves in between in the order of the actions.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::limits;
use crate::state::{Meta, RestoreError, StateMachine};
use crate::storage::{Cut, StateSnapshot, StateStore, StorageError};
use crate::wire::{SnapshotChunk, SnapshotOffer, SnapshotRefusal, StoredRow, decode_row};

/// A piece of work on `state.redb`.
#[derive(Debug)]
pub enum SnapshotJob {
    /// Let the snapshot go; not reported.
    Close {
        /// Which.
        id: u64,
    },
    /// Restore the rows, compare them with the offer, and install them in one transaction.
    Install {
        /// What was announced.
        offer: Box<SnapshotOffer>,
        /// All of its rows.
        rows: Vec<StoredRow>,
    },
    /// Open a snapshot of what is saved now.
    Open {
        /// Its name from now on.
        id: u64,
    },
    /// Read the next chunk.
    Read {
        /// Of which snapshot.
        id: u64,
        /// The number of the chunk.
        number: u32,
        /// The last key of the chunk before it.
        after: Option<Bytes>,
    },
}

/// What came of a job.
#[derive(Debug)]
pub enum SnapshotDone {
    /// The state is durable, or was refused; then what was there before still is.
    Installed {
        /// Which.
        id: u64,
        /// The state, whole and compared.
        result: Result<Box<StateMachine>, SnapshotRefusal>,
    },
    /// A snapshot is open; nothing when nothing was ever saved.
    Opened {
        /// Which.
        id: u64,
        /// Its counters, and how many rows it has.
        opened: Option<(Meta, u64)>,
    },
    /// A chunk; nothing when the snapshot is not open any more.
    Read {
        /// Of which snapshot.
        id: u64,
        /// The chunk.
        chunk: Option<SnapshotChunk>,
    },
}

/// The open snapshots of one owner.
#[derive(Debug, Default)]
pub struct SnapshotDesk {
    open: BTreeMap<u64, StateSnapshot>,
}

impl SnapshotJob {
    /// What is reported when the job could not be done because the disk is full.
    pub fn failed(&self) -> Option<SnapshotDone> {
        match self {
            Self::Close { .. } => None,
            Self::Install { offer, .. } => {
                let result = Err(SnapshotRefusal::DiskFull);
                Some(SnapshotDone::Installed { id: offer.id, result })
            }
            Self::Open { id } => Some(SnapshotDone::Opened { id: *id, opened: None }),
            Self::Read { id, .. } => Some(SnapshotDone::Read { id: *id, chunk: None }),
        }
    }
}

impl SnapshotDesk {
    /// Does one job. After an error the store is latched: when it is only full, the owner opens it
    /// anew, after [`close_all`](Self::close_all), and reports [`SnapshotJob::failed`].
    pub fn perform(
        &mut self,
        store: &mut StateStore,
        job: &SnapshotJob,
    ) -> Result<Option<SnapshotDone>, StorageError> {
        match job {
            SnapshotJob::Close { id } => {
                self.open.remove(id);
                Ok(None)
            }
            SnapshotJob::Install { offer, rows } => {
                let result = match rebuild(offer, rows) {
                    Ok(machine) => {
                        let start = &offer.start;
                        let membership = Some(start.membership.clone());
                        let cut = Cut { index: start.index, term: start.term, membership };
                        store.install(rows.iter(), &cut)?;
                        Ok(Box::new(machine))
                    }
                    Err(refusal) => Err(refusal),
                };
                Ok(Some(SnapshotDone::Installed { id: offer.id, result }))
            }
            SnapshotJob::Open { id } => {
                let snapshot = store.snapshot()?;
                let opened = snapshot.as_ref().map(|snapshot| (*snapshot.meta(), snapshot.rows()));
                self.open.extend(snapshot.map(|snapshot| (*id, snapshot)));
                Ok(Some(SnapshotDone::Opened { id: *id, opened }))
            }
            SnapshotJob::Read { id, number, after } => {
                let chunk = match self.open.get(id) {
                    None => None,
                    Some(snapshot) => {
                        let chunk =
                            snapshot.chunk(after.as_deref(), limits::SNAPSHOT_CHUNK_BYTES)?;
                        Some(SnapshotChunk::new(*id, *number, chunk.is_last, chunk.rows))
                    }
                };
                Ok(Some(SnapshotDone::Read { id: *id, chunk }))
            }
        }
    }

    /// Lets all snapshots go: the store is about to be opened anew. Later reads find nothing.
    pub fn close_all(&mut self) {
        self.open.clear();
    }
}

/// The state that these rows are, when it is the one that was announced.
fn rebuild(offer: &SnapshotOffer, rows: &[StoredRow]) -> Result<StateMachine, SnapshotRefusal> {
    let decoded: Result<Vec<_>, _> =
        rows.iter().map(|row| decode_row(&row.key, &row.value)).collect();
    let rows = decoded.map_err(|_| SnapshotRefusal::Rows)?;
    let machine = StateMachine::restore(rows).map_err(|error| match error {
        RestoreError::Digest { .. } => SnapshotRefusal::Digest,
        _ => SnapshotRefusal::Rows,
    })?;
    let is_announced = machine.digest() == offer.digest
        && machine.epoch() == offer.epoch
        && machine.applied_index() == offer.start.index
        && machine.applied_term() == offer.start.term;
    if is_announced { Ok(machine) } else { Err(SnapshotRefusal::Digest) }
}
