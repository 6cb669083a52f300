//! The saved state in `state.redb`: rows, brought forward in one atomic transaction per save.
//!
//! Which rows changed is decided by `state/`, when to save by `node/`. Off the path of a write, so
//! it pays for the safest commit that redb has: two phases, and an allocator state that makes the
//! next open quick.

use redb::{
    Database, Durability, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};

use super::backend::{Watch, copy_in_memory, open_file};
use super::format::{
    FACTS, KEY_FORMAT, KEY_IDENTITY, KEY_INSTALLED, decode_cut, decode_identity, encode_cut,
    encode_format, encode_identity, is_fresh, marker,
};
use crate::base::mutation::{self, Mutation};
use crate::state::{Row, RowChange, RowKey};
use crate::storage::{Cut, Identity, StateSnapshot, StorageError};
use crate::wire::{StoredRow, decode_row, encode_row, encode_row_key};

const FILE: &str = "state.redb";

/// The rows of the state; keys sort as [`RowKey`] does.
pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// `state.redb`, open for saving. After an error nothing is written any more.
#[derive(Debug)]
pub struct StateStore {
    database: Database,
    watch: Watch,
    /// The state was installed, and not saved since.
    installed: Option<Cut>,
    latched: bool,
}

impl StateStore {
    /// Opens `state.redb` at `path`, or makes it. See [`StateStore::create_or_open`].
    pub fn open_path(
        path: &std::path::Path,
        expected: &Identity,
    ) -> Result<(Self, Vec<(RowKey, Row)>), StorageError> {
        Self::open(open_file(FILE, path)?, expected)
    }

    /// Opens a copy in memory of `state.redb` at `path`, as [`RaftStore::open_copy`] does.
    ///
    /// [`RaftStore::open_copy`]: crate::storage::RaftStore::open_copy
    pub fn open_copy(
        path: &std::path::Path,
        expected: &Identity,
    ) -> Result<(Self, Vec<(RowKey, Row)>), StorageError> {
        Self::open(copy_in_memory(FILE, path)?, expected)
    }

    /// Opens what `backend` holds, or makes it when it is empty, and reads every row, in key order.
    ///
    /// `expected` is the identity in `raft.redb`: the file of another node is refused. So is one
    /// with a row that is not as it was written. No rows: nothing was ever saved.
    pub fn create_or_open(
        backend: impl StorageBackend,
        expected: &Identity,
    ) -> Result<(Self, Vec<(RowKey, Row)>), StorageError> {
        Self::open(Box::new(backend), expected)
    }

    fn open(
        backend: Box<dyn StorageBackend>,
        expected: &Identity,
    ) -> Result<(Self, Vec<(RowKey, Row)>), StorageError> {
        let (database, watch) = Watch::open(FILE, backend, marker(FILE).as_bytes())?;
        let transaction = begin(&database, &watch)?;
        if is_fresh(&watch, &transaction)? {
            make(&watch, &transaction, expected)?;
            transaction.commit().map_err(|e| watch.error(e))?;
            let store = Self { database, watch, installed: None, latched: false };
            return Ok((store, Vec::new()));
        }
        check_identity(&watch, &transaction, expected)?;
        let rows = read_rows(&watch, &transaction)?;
        let installed = read_installed(&watch, &transaction)?;
        transaction.abort().map_err(|e| watch.error(e))?;
        Ok((Self { database, watch, installed, latched: false }, rows))
    }

    /// Makes all of `changes` durable in one transaction, or nothing of it. The row of the counters
    /// ([`RowKey::Meta`]) is among them, so that rows and applied index never part (RELIABILITY
    /// F10).
    ///
    /// After an error the store is latched until it is opened anew.
    pub fn save(&mut self, changes: &[RowChange]) -> Result<(), StorageError> {
        if self.latched {
            return Err(StorageError::Latched { file: FILE });
        }
        let result = self.commit(changes);
        self.latched = result.is_err();
        if result.is_ok() {
            self.installed = None;
        }
        result
    }

    /// Replaces every row by `rows`, in one transaction, and records that the log begins after
    /// `point`, the state's applied index: until raft.redb does, [`finish_install`] makes up for it
    /// at the next start.
    ///
    /// The caller has restored the rows and compared their digest. After an error the store is
    /// latched until it is opened anew, and then holds the old state or the new one.
    ///
    /// [`finish_install`]: crate::storage::finish_install
    pub fn install<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a StoredRow>,
        point: &Cut,
    ) -> Result<(), StorageError> {
        if self.latched {
            return Err(StorageError::Latched { file: FILE });
        }
        let result = self.replace(rows, point);
        self.latched = result.is_err();
        if result.is_ok() {
            self.installed = Some(point.clone());
        }
        result
    }

    /// The saved state as it is now, to be read in pieces; nothing when nothing was ever saved.
    pub fn snapshot(&self) -> Result<Option<StateSnapshot>, StorageError> {
        if self.latched {
            return Err(StorageError::Latched { file: FILE });
        }
        StateSnapshot::open(&self.database, &self.watch)
    }

    /// Where the log is to begin when this state was installed and not saved since.
    pub fn installed(&self) -> Option<&Cut> {
        self.installed.as_ref()
    }

    /// The length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.watch.bytes()
    }

    fn commit(&self, changes: &[RowChange]) -> Result<(), StorageError> {
        let transaction = begin(&self.database, &self.watch)?;
        if self.installed.is_some() {
            let mut facts = transaction.open_table(FACTS).map_err(|e| self.watch.error(e))?;
            facts.remove(KEY_INSTALLED).map_err(|e| self.watch.error(e))?;
        }
        {
            let mut rows = transaction.open_table(ROWS).map_err(|e| self.watch.error(e))?;
            let lost = usize::from(mutation::active(Mutation::SaveLosesRow) && changes.len() > 1);
            for change in &changes[lost..] {
                let key = encode_row_key(&change.key);
                match &change.row {
                    Some(row) => drop(
                        rows.insert(&key[..], &encode_row(&key, row)[..])
                            .map_err(|e| self.watch.error(e))?,
                    ),
                    None => drop(rows.remove(&key[..]).map_err(|e| self.watch.error(e))?),
                }
            }
        }
        transaction.commit().map_err(|e| self.watch.error(e))
    }

    fn replace<'a>(
        &self,
        new_rows: impl Iterator<Item = &'a StoredRow>,
        point: &Cut,
    ) -> Result<(), StorageError> {
        let transaction = begin(&self.database, &self.watch)?;
        // The whole table, so that nothing of the old state can stay (RELIABILITY C21).
        transaction.delete_table(ROWS).map_err(|e| self.watch.error(e))?;
        {
            let mut rows = transaction.open_table(ROWS).map_err(|e| self.watch.error(e))?;
            for StoredRow { key, value } in new_rows {
                rows.insert(&key[..], &value[..]).map_err(|e| self.watch.error(e))?;
            }
            let mut facts = transaction.open_table(FACTS).map_err(|e| self.watch.error(e))?;
            let value = encode_cut(KEY_INSTALLED, point);
            facts.insert(KEY_INSTALLED, &value[..]).map_err(|e| self.watch.error(e))?;
        }
        transaction.commit().map_err(|e| self.watch.error(e))
    }
}

fn begin(database: &Database, watch: &Watch) -> Result<WriteTransaction, StorageError> {
    let mut transaction = database.begin_write().map_err(|e| watch.error(e))?;
    transaction.set_durability(Durability::Immediate).map_err(|e| watch.error(e))?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn make(
    watch: &Watch,
    transaction: &WriteTransaction,
    identity: &Identity,
) -> Result<(), StorageError> {
    let mut facts = transaction.open_table(FACTS).map_err(|e| watch.error(e))?;
    let rows = [(KEY_FORMAT, encode_format(FILE)), (KEY_IDENTITY, encode_identity(identity))];
    for (key, value) in rows {
        facts.insert(key, &value[..]).map_err(|e| watch.error(e))?;
    }
    transaction.open_table(ROWS).map_err(|e| watch.error(e))?;
    Ok(())
}

fn check_identity(
    watch: &Watch,
    transaction: &WriteTransaction,
    expected: &Identity,
) -> Result<(), StorageError> {
    let facts = transaction.open_table(FACTS).map_err(|e| watch.error(e))?;
    let value = facts.get(KEY_IDENTITY).map_err(|e| watch.error(e))?;
    let Some(value) = value else {
        let what = "the identity is missing".to_owned();
        return Err(StorageError::Corrupt { file: FILE, what });
    };
    let found = decode_identity(value.value())
        .map_err(|error| StorageError::row(FILE, "the identity", error))?;
    if found == *expected {
        return Ok(());
    }
    let what = format!(
        "state.redb is of node {:?} ({}) of cluster {:?}, raft.redb of node {:?} ({}) of cluster \
         {:?}; put back the files that were made together",
        found.name,
        found.node,
        found.cluster_name,
        expected.name,
        expected.node,
        expected.cluster_name
    );
    Err(StorageError::Mismatch { what })
}

fn read_installed(
    watch: &Watch,
    transaction: &WriteTransaction,
) -> Result<Option<Cut>, StorageError> {
    let facts = transaction.open_table(FACTS).map_err(|e| watch.error(e))?;
    let value = facts.get(KEY_INSTALLED).map_err(|e| watch.error(e))?;
    let decoded = value.map(|value| decode_cut(KEY_INSTALLED, value.value()));
    decoded.transpose().map_err(|error| StorageError::row(FILE, "the installed state", error))
}

fn read_rows(
    watch: &Watch,
    transaction: &WriteTransaction,
) -> Result<Vec<(RowKey, Row)>, StorageError> {
    let table = transaction.open_table(ROWS).map_err(|e| watch.error(e))?;
    let mut rows = Vec::new();
    for row in table.iter().map_err(|e| watch.error(e))? {
        let (key, value) = row.map_err(|e| watch.error(e))?;
        let row = decode_row(key.value(), value.value())
            .map_err(|error| StorageError::row(FILE, "a row of the state", error))?;
        rows.push(row);
    }
    Ok(rows)
}
