//! Whether the two files of a data directory fit together, and what to do when they do not.
//!
//! Each file was checked by itself when it was opened. Which state is built from them is decided by
//! `replica/`.

use crate::base::{Index, Term};
use crate::state::Meta;
use crate::storage::{RecoveredLog, StorageError};

/// Checks the log against the counters of the saved state; `None` when nothing was ever saved.
///
/// The log is cut only behind the saved state, and the state is saved only up to what is durable in
/// the log. So the applied index lies between the cut and the last entry, both included, and its
/// term is the log's. The commit index on disk may be older than the applied index: it is written
/// lazily.
pub fn check(log: &RecoveredLog, meta: Option<&Meta>) -> Result<(), StorageError> {
    let cut = log.cut.index;
    let Some(meta) = meta.filter(|meta| meta.applied_index > Index(0)) else {
        if cut == Index(0) {
            return Ok(());
        }
        return mismatch(format!(
            "the log begins after entry {cut}, and there is no saved state: state.redb was \
             removed; put it back, or replace the member"
        ));
    };
    let applied = meta.applied_index;
    if applied < cut {
        return mismatch(format!(
            "the saved state ends at entry {applied} and the log begins after {cut}: state.redb is \
             older than raft.redb; put back the files that were made together, or replace the \
             member"
        ));
    }
    let last = log.entries.last().map_or(cut, |entry| entry.index);
    if applied > last {
        return mismatch(format!(
            "the saved state ends at entry {applied} and the log at {last}: raft.redb is older \
             than state.redb, and what it promised since is lost; replace the member"
        ));
    }
    let expected = if applied == cut { log.cut.term } else { term_at(log, applied) };
    if meta.applied_term != expected {
        return mismatch(format!(
            "entry {applied} is of term {} in the saved state and of term {expected} in the log: \
             the files were not made together; replace the member",
            meta.applied_term
        ));
    }
    Ok(())
}

fn term_at(log: &RecoveredLog, index: Index) -> Term {
    let place = log.entries.binary_search_by_key(&index, |entry| entry.index);
    let place = place.expect("the index lies between the first and the last entry");
    log.entries[place].term
}

fn mismatch(what: String) -> Result<(), StorageError> {
    Err(StorageError::Mismatch { what })
}
