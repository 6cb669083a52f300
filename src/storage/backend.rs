//! What stands between redb and a file: it remembers which operation failed, and how long the file
//! is.
//!
//! redb reports a failed sync and a failed write with the same error. We must tell them apart: one
//! ends the process, the other may be a full disk. What follows is decided by the caller.

use std::io::{self, Read as _};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{BackendError, Builder, Database, StorageBackend};

use crate::storage::StorageError;

/// A backend under watch.
#[derive(Debug)]
struct Watched {
    inner: Box<dyn StorageBackend>,
    seen: Arc<Seen>,
}

/// What was seen of a file.
#[derive(Debug)]
struct Seen {
    bytes: AtomicU64,
    first_failure: Mutex<Option<Operation>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Other,
    Sync,
    Write,
}

/// Watches one file for its store.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    file: &'static str,
    seen: Arc<Seen>,
}

/// redb keeps this much of a file in memory. The log is read once, at start; the state's rows, when
/// they are saved.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The first bytes of every finished redb file (redb's `docs/design.md`).
const REDB_MAGIC: &[u8; 9] = b"redb\x1A\x0A\xA9\x0D\x0A";

impl Watch {
    /// Opens the database on `backend`, or makes it when `backend` is empty. All checksums are
    /// verified: a page that changed since it was written is an error here and not a surprise
    /// later.
    pub(super) fn open(
        file: &'static str,
        backend: Box<dyn StorageBackend>,
        marker: &[u8],
    ) -> Result<(Database, Watch), StorageError> {
        let io = |source| StorageError::Io { file, source };
        let length = backend.len().map_err(io)?;
        if length > 0 && is_unfinished(&*backend, length, marker).map_err(io)? {
            backend.set_len(0).map_err(io)?;
            backend.sync_data().map_err(io)?;
        }
        let seen = Arc::new(Seen {
            bytes: AtomicU64::new(backend.len().map_err(io)?),
            first_failure: Mutex::new(None),
        });
        let watch = Watch { file, seen: Arc::clone(&seen) };
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(Watched { inner: backend, seen })
            .map_err(|error| watch.error(error))?;
        Ok((database, watch))
    }

    /// The file's name.
    pub(super) fn file(&self) -> &'static str {
        self.file
    }

    /// The file's length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::Relaxed)
    }

    /// What an error of redb means to the caller.
    pub(super) fn error(&self, error: impl Into<redb::Error>) -> StorageError {
        let file = self.file;
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => StorageError::InUse { file },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => StorageError::Latched { file },
            redb::Error::Io(source) => match *self.seen.failure() {
                Some(Operation::Sync) => StorageError::Sync { file, source },
                Some(Operation::Write) if is_full(&source) => StorageError::Full { file },
                None if source.kind() == io::ErrorKind::InvalidData => {
                    let what = format!("it is no database of this kind ({source})");
                    StorageError::Format { file, what }
                }
                Some(Operation::Other) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    let what = "it is shorter than it was".to_owned();
                    StorageError::Corrupt { file, what }
                }
                _ => StorageError::Io { file, source },
            },
            redb::Error::UpgradeRequired(version) => {
                let what = format!("its redb format {version} is too old");
                StorageError::Format { file, what }
            }
            error => StorageError::Corrupt { file, what: error.to_string() },
        }
    }
}

/// Opens `path` for reading and writing and makes it, readable by its owner only, when it does not
/// exist. Its directory entry is then durable (RELIABILITY F7).
pub(super) fn open_file(
    file: &'static str,
    path: &std::path::Path,
) -> Result<Box<dyn StorageBackend>, StorageError> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let io = |source| StorageError::Io { file, source };
    let mut options = std::fs::OpenOptions::new();
    let handle = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    if let Some(directory) = path.parent() {
        let directory = if directory.as_os_str().is_empty() { ".".as_ref() } else { directory };
        let directory = std::fs::OpenOptions::new().read(true).open(directory).map_err(io)?;
        directory.sync_all().map_err(io)?;
    }
    let backend = FileBackend::new(handle).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StorageError::InUse { file },
        error => StorageError::Corrupt { file, what: error.to_string() },
    })?;
    Ok(Box::new(backend))
}

/// A copy of the file at `path`, which nobody may have open for writing meanwhile.
pub(super) fn copy_in_memory(
    file: &'static str,
    path: &std::path::Path,
) -> Result<Box<dyn StorageBackend>, StorageError> {
    let io = |source| StorageError::Io { file, source };
    let handle = std::fs::OpenOptions::new().read(true).open(path).map_err(io)?;
    handle.try_lock_shared().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => StorageError::InUse { file },
        std::fs::TryLockError::Error(source) => io(source),
    })?;
    let copy = InMemoryBackend::new();
    copy.set_len(handle.metadata().map_err(io)?.len()).map_err(io)?;
    let (mut piece, mut offset) = (vec![0; 1024 * 1024], 0);
    loop {
        let count = (&handle).read(&mut piece).map_err(io)?;
        if count == 0 {
            return Ok(Box::new(copy));
        }
        copy.write(offset, &piece[..count]).map_err(io)?;
        offset += count as u64;
    }
}

/// Whether the making of this file was cut short: redb writes its magic number last, and our first
/// transaction writes `marker`. A file with neither never held anything; one whose head alone was
/// wiped still has the marker and is not touched.
fn is_unfinished(
    backend: &dyn StorageBackend,
    length: u64,
    marker: &[u8],
) -> Result<bool, io::Error> {
    let mut head = vec![0; (REDB_MAGIC.len() as u64).min(length) as usize];
    backend.read(0, &mut head)?;
    // A torn write may have left a part of it.
    if head == REDB_MAGIC || !head.iter().zip(REDB_MAGIC).all(|(a, b)| *a == 0 || a == b) {
        return Ok(false);
    }
    const PIECE_BYTES: u64 = 64 * 1024;
    let mut start = 0;
    while start < length {
        let overlap = marker.len() as u64;
        let mut piece = vec![0; (PIECE_BYTES + overlap).min(length - start) as usize];
        backend.read(start, &mut piece)?;
        if piece.windows(marker.len()).any(|window| window == marker) {
            return Ok(false);
        }
        start += PIECE_BYTES;
    }
    Ok(true)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Seen {
    fn failure(&self) -> MutexGuard<'_, Option<Operation>> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn note<T>(&self, operation: Operation, result: Result<T, io::Error>) -> Result<T, io::Error> {
        if result.is_err() {
            self.seen.failure().get_or_insert(operation);
        }
        result
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> Result<u64, io::Error> {
        self.note(Operation::Other, self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.note(Operation::Other, self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.note(Operation::Write, self.inner.set_len(len))?;
        self.seen.bytes.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.note(Operation::Sync, self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.note(Operation::Write, self.inner.write(offset, data))
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
