//! How files and directories stand, for people and for supervisors.
//!
//! How it looks in an answer is decided in `api/`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::base::{Revision, WallMillis};

/// Whether a file, or the keys of a directory, are what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileState {
    /// It is what its keys say.
    Current,
    /// Something went wrong; the last good state is there, and it is tried again.
    Failed,
    /// The last good state is there; whether there is a newer one cannot be known now.
    Stale,
    /// There is nothing yet.
    Waiting,
}

/// How one file that follows keys stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// The name of the entry.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is what it should be.
    pub state: FileState,
    /// The newest revision of the store that it is known to agree with.
    pub revision: Option<Revision>,
    /// Why it is not current.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: WallMillis,
}

/// How one directory that keys follow stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishStatus {
    /// The name of the entry.
    pub name: String,
    /// The directory.
    pub directory: PathBuf,
    /// What its keys begin with.
    pub prefix: String,
    /// Whether the keys are what they should be.
    pub state: FileState,
    /// How many files have their key.
    pub keys: u64,
    /// The newest revision of the store that was compared.
    pub revision: Option<Revision>,
    /// Why it is not current.
    pub reason: Option<String>,
    /// Files that are not published and why, and keys that others keep: the first of them.
    pub skipped: Vec<String>,
    /// How many there are of them.
    pub skipped_count: u64,
    /// Since when it is in this state.
    pub since: WallMillis,
}

/// A status that its owner changes and others look at.
#[derive(Debug)]
pub(super) struct Board<T>(Mutex<T>);

impl<T: Clone> Board<T> {
    pub(super) fn new(status: T) -> Self {
        Self(Mutex::new(status))
    }

    pub(super) fn read(&self) -> T {
        self.lock().clone()
    }

    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of day, for people only.
pub(super) fn now() -> WallMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
