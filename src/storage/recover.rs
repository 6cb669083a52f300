//! Whether the two files of a data directory fit together, and what to do when they do not.
//!
//! Each file was checked by itself when it was opened. Which state is built from them is decided by
//! `replica/`.

use crate::base::{Index, Term};
use crate::state::Meta;
use crate::storage::{Cut, LogBatch, RaftStore, RecoveredLog, StateStore, StorageError};

/// Begins the log where an installed state ends, when the process stopped in between; nothing
/// otherwise. To be called before [`check`], with what both files hold.
///
/// The recorded term may be older than that of the state: it is raised, without a vote, which
/// promises nothing.
pub fn finish_install(
    raft_store: &mut RaftStore,
    log: &mut RecoveredLog,
    state_store: &StateStore,
) -> Result<(), StorageError> {
    let Some(point) = state_store.installed() else { return Ok(()) };
    if point.index <= log.cut.index {
        return Ok(());
    }
    let holds = holds(log, point);
    if !holds && log.hard_state.commit >= point.index {
        return mismatch(format!(
            "the saved state was installed at entry {}, and the log holds another entry there that \
             was committed: the files were not made together; replace the member",
            point.index
        ));
    }
    let mut hard_state = log.hard_state;
    if hard_state.term < point.term {
        (hard_state.term, hard_state.vote) = (point.term, None);
    }
    raft_store.write(&LogBatch {
        hard_state: Some(hard_state),
        begin: Some(Box::new(point.clone())),
        must_sync: true,
        ..LogBatch::default()
    })?;
    log.hard_state = hard_state;
    log.entries.retain(|entry| holds && entry.index > point.index);
    log.cut = point.clone();
    Ok(())
}

fn holds(log: &RecoveredLog, point: &Cut) -> bool {
    log.entries.iter().any(|entry| (entry.index, entry.term) == (point.index, point.term))
}

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
