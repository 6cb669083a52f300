//! A consistent copy of the saved state, read in pieces while saves go on.
//!
//! redb keeps the pages of an open read transaction, so that a snapshot costs no copy but also
//! gives no space back: whoever opens one closes it in time. How rows travel is decided in
//! `replica/`.

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata};

use super::backend::Watch;
use super::state_rows::ROWS;
use crate::state::{Meta, Row, RowKey};
use crate::storage::StorageError;
use crate::wire::{StoredRow, decode_row, encode_row_key};

/// The saved state at one applied index. Later saves do not show in it.
pub struct StateSnapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    watch: Watch,
    meta: Meta,
    rows: u64,
}

/// Consecutive rows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChunk {
    /// In the order of their keys.
    pub rows: Vec<StoredRow>,
    /// Whether no more follow.
    pub is_last: bool,
}

impl StateSnapshot {
    /// What `database` holds now; nothing when nothing was ever saved.
    pub(super) fn open(database: &Database, watch: &Watch) -> Result<Option<Self>, StorageError> {
        let transaction = database.begin_read().map_err(|e| watch.error(e))?;
        let table = transaction.open_table(ROWS).map_err(|e| watch.error(e))?;
        let key = encode_row_key(&RowKey::Meta);
        let meta = match table.get(&key[..]).map_err(|e| watch.error(e))? {
            None => return Ok(None),
            Some(value) => decode_row(&key, value.value())
                .map_err(|error| StorageError::row(watch.file(), "the counters", error))?,
        };
        let (_, Row::Meta(meta)) = meta else {
            let what = "the counters are of another kind".to_owned();
            return Err(StorageError::Corrupt { file: watch.file(), what });
        };
        let rows = table.len().map_err(|e| watch.error(e))?;
        Ok(Some(Self { table, watch: watch.clone(), meta, rows }))
    }

    /// The counters of the state, its applied index and digest among them.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows after the key `after`, or from the first on: at most `bytes_max` of keys and
    /// values, and at least one row while there is one. Each is compared with its checksum: pages
    /// are read anew, perhaps long after the file was checked.
    pub fn chunk(&self, after: Option<&[u8]>, bytes_max: usize) -> Result<RowChunk, StorageError> {
        let from = match after {
            Some(key) => (std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded),
            None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in self.table.range::<&[u8]>(from).map_err(|e| self.watch.error(e))? {
            let (key, value) = row.map_err(|e| self.watch.error(e))?;
            decode_row(key.value(), value.value()).map_err(|error| {
                StorageError::row(self.watch.file(), "a row of the state", error)
            })?;
            bytes += key.value().len() + value.value().len();
            if bytes > bytes_max && !rows.is_empty() {
                return Ok(RowChunk { rows, is_last: false });
            }
            let key = Bytes::copy_from_slice(key.value());
            rows.push(StoredRow { key, value: Bytes::copy_from_slice(value.value()) });
        }
        Ok(RowChunk { rows, is_last: true })
    }
}

impl std::fmt::Debug for StateSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSnapshot").field("meta", &self.meta).finish_non_exhaustive()
    }
}
