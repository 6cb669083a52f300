//! How `raft.redb` is read at start, and what must hold of it before anything is built on it.
//!
//! How it is written is decided in `raft_log.rs`; that it fits the saved state, in `recover.rs`.

use redb::{Database, Durability, ReadableTable, WriteTransaction};

use super::backend::Watch;
use super::format::{
    FACTS, KEY_BOOT, KEY_CUT, KEY_FORMAT, KEY_GENESIS, KEY_IDENTITY, KEY_MARK, decode_boot,
    decode_cut, decode_identity, decode_mark, encode_boot, encode_format, encode_identity,
    is_fresh,
};
use super::raft_log::{FILE, Held, LOG, TAIL, TAIL_ENTRIES, TAIL_HARD_STATE};
use crate::base::Boot;
use crate::raft::{Entry, HardState};
use crate::storage::{Cut, Identity, PeerMark, RecoveredLog, StorageError};
use crate::wire::{
    Genesis, WireError, decode_entry_batch, decode_genesis, decode_hard_state, encode_hard_state,
};

/// Reads everything, or writes the first facts, and counts the boot: all in one transaction, so
/// that a file that is refused stays as it was.
pub(super) fn start(
    database: &Database,
    watch: &Watch,
    fresh: impl FnOnce() -> Identity,
) -> Result<(RecoveredLog, Held), StorageError> {
    let mut transaction = database.begin_write().map_err(|e| watch.error(e))?;
    transaction.set_durability(Durability::Immediate).map_err(|e| watch.error(e))?;
    if is_fresh(watch, &transaction)? {
        make(watch, &transaction, &fresh())?;
    }
    let facts = read_facts(watch, &transaction)?;
    let hard_state = read_hard_state(watch, &transaction)?;
    let (mut entries, tail) = read_entries(watch, &transaction)?;
    check(&facts.cut, &hard_state, &entries)?;
    let last = entries.last().map_or(facts.cut.index, |entry| entry.index.max(facts.cut.index));
    entries.retain(|entry| entry.index > facts.cut.index);
    let boot = facts.boot.next();
    {
        let mut table = transaction.open_table(FACTS).map_err(|e| watch.error(e))?;
        table.insert(KEY_BOOT, &encode_boot(boot)[..]).map_err(|e| watch.error(e))?;
    }
    transaction.commit().map_err(|e| watch.error(e))?;
    let held = Held { cut: facts.cut.index, last, tail, hard_state };
    let recovered = RecoveredLog {
        identity: facts.identity,
        boot,
        genesis: facts.genesis,
        hard_state,
        cut: facts.cut,
        entries,
        marks: facts.marks,
    };
    Ok((recovered, held))
}

struct Facts {
    identity: Identity,
    boot: Boot,
    genesis: Option<Genesis>,
    cut: Cut,
    marks: Vec<PeerMark>,
}

fn make(
    watch: &Watch,
    transaction: &WriteTransaction,
    identity: &Identity,
) -> Result<(), StorageError> {
    let mut facts = transaction.open_table(FACTS).map_err(|e| watch.error(e))?;
    let rows = [
        (KEY_FORMAT, encode_format(FILE)),
        (KEY_IDENTITY, encode_identity(identity)),
        (KEY_BOOT, encode_boot(Boot(0))),
    ];
    for (key, value) in rows {
        facts.insert(key, &value[..]).map_err(|e| watch.error(e))?;
    }
    transaction.open_table(LOG).map_err(|e| watch.error(e))?;
    let mut tail = transaction.open_table(TAIL).map_err(|e| watch.error(e))?;
    let state = encode_hard_state(&HardState::default());
    tail.insert(TAIL_HARD_STATE, &state[..]).map_err(|e| watch.error(e))?;
    Ok(())
}

fn read_facts(watch: &Watch, transaction: &WriteTransaction) -> Result<Facts, StorageError> {
    let table = transaction.open_table(FACTS).map_err(|e| watch.error(e))?;
    let (mut identity, mut boot, mut genesis) = (None, None, None);
    let (mut cut, mut marks) = (Cut::default(), Vec::new());
    for row in table.iter().map_err(|e| watch.error(e))? {
        let (key, value) = row.map_err(|e| watch.error(e))?;
        let (key, value) = (key.value(), value.value());
        let refused = |error| StorageError::row(FILE, "a fact", error);
        match key {
            KEY_FORMAT => {}
            KEY_IDENTITY => identity = Some(decode_identity(value).map_err(refused)?),
            KEY_BOOT => boot = Some(decode_boot(value).map_err(refused)?),
            KEY_GENESIS => genesis = Some(decode_genesis(value).map_err(refused)?),
            KEY_CUT => cut = decode_cut(key, value).map_err(refused)?,
            [KEY_MARK, ..] => marks.push(decode_mark(key, value).map_err(refused)?),
            _ => return Err(refused(WireError::UnknownKind("fact"))),
        }
    }
    let (Some(identity), Some(boot)) = (identity, boot) else {
        return Err(corrupt("the identity or the boot is missing".to_owned()));
    };
    Ok(Facts { identity, boot, genesis, cut, marks })
}

fn read_hard_state(
    watch: &Watch,
    transaction: &WriteTransaction,
) -> Result<HardState, StorageError> {
    let tail = transaction.open_table(TAIL).map_err(|e| watch.error(e))?;
    let Some(value) = tail.get(TAIL_HARD_STATE).map_err(|e| watch.error(e))? else {
        return Err(corrupt("term and vote are missing".to_owned()));
    };
    decode_hard_state(value.value())
        .map_err(|error| StorageError::row(FILE, "term and vote", error))
}

/// All entries, and those of them that are in the tail.
fn read_entries(
    watch: &Watch,
    transaction: &WriteTransaction,
) -> Result<(Vec<Entry>, Vec<Entry>), StorageError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut push = |value: &[u8], key: Option<u64>| {
        let batch = decode_entry_batch(value)
            .map_err(|error| StorageError::row(FILE, "a row of the log", error))?;
        let first = batch[0].index;
        if key.is_some_and(|key| key != first.0) {
            return Err(corrupt(format!("a row of the log begins with {first}, not as its key")));
        }
        if entries.last().is_some_and(|last| last.index.next() != first) {
            return Err(corrupt(format!("the log has a gap before entry {first}")));
        }
        entries.extend_from_slice(&batch);
        Ok(batch)
    };
    let log = transaction.open_table(LOG).map_err(|e| watch.error(e))?;
    for row in log.iter().map_err(|e| watch.error(e))? {
        let (key, value) = row.map_err(|e| watch.error(e))?;
        push(value.value(), Some(key.value()))?;
    }
    let table = transaction.open_table(TAIL).map_err(|e| watch.error(e))?;
    let tail = match table.get(TAIL_ENTRIES).map_err(|e| watch.error(e))? {
        Some(value) => push(value.value(), None)?,
        None => Vec::new(),
    };
    Ok((entries, tail))
}

/// What the parts must say of each other.
fn check(cut: &Cut, state: &HardState, entries: &[Entry]) -> Result<(), StorageError> {
    if let Some(first) = entries.first().filter(|first| first.index > cut.index.next()) {
        let (first, cut) = (first.index, cut.index);
        return Err(corrupt(format!("the log begins with entry {first}, after a cut at {cut}")));
    }
    let at_cut = entries.iter().find(|entry| entry.index == cut.index);
    if at_cut.is_some_and(|entry| entry.term != cut.term) {
        return Err(corrupt(format!("entry {} has another term than its cut", cut.index)));
    }
    if entries.windows(2).any(|pair| pair[0].term > pair[1].term) {
        return Err(corrupt("the terms of the log decrease".to_owned()));
    }
    let (last, last_term) = entries
        .last()
        .filter(|last| last.index >= cut.index)
        .map_or((cut.index, cut.term), |entry| (entry.index, entry.term));
    if last_term > state.term {
        let term = state.term;
        return Err(corrupt(format!("entry {last} is of term {last_term}, the node of {term}")));
    }
    if state.commit > last {
        let commit = state.commit;
        return Err(corrupt(format!(
            "entries up to {commit} are committed, the log ends at {last}"
        )));
    }
    Ok(())
}

fn corrupt(what: String) -> StorageError {
    StorageError::Corrupt { file: FILE, what }
}
