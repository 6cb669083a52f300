//! What can go wrong with a data directory: what happened, to which file, what to do next.
//!
//! Fatal by default: the caller ends the process. A full disk is the one case that passes by
//! itself; the store is then opened anew (redb latches a handle after any error).

use std::io;

use crate::wire::WireError;

/// Why a store could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Content that was written whole is not what it was.
    #[error(
        "{file} is damaged: {what}; do not start this member with it again: check the disk, then \
         replace the member, which copies the data from the others"
    )]
    Corrupt {
        /// Which file.
        file: &'static str,
        /// What was found.
        what: String,
    },
    /// The file is not ours, or of another version.
    #[error("{file} cannot be read by this program: {what}")]
    Format {
        /// Which file.
        file: &'static str,
        /// What it is instead.
        what: String,
    },
    /// The disk is full. Nothing or all of the write in flight is on disk: open the store anew.
    #[error("the disk that holds {file} is full: free some space, then writes go on")]
    Full {
        /// Which file.
        file: &'static str,
    },
    /// Another process has the file open.
    #[error(
        "{file} is in use by another process: is a second quorumd running on this data directory?"
    )]
    InUse {
        /// Which file.
        file: &'static str,
    },
    /// The operating system reports an error other than those above.
    #[error("{file} cannot be read or written: {source}")]
    Io {
        /// Which file.
        file: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier operation on this handle failed: nothing it says can be trusted. Open it anew.
    #[error("{file} failed before and was not opened anew since")]
    Latched {
        /// Which file.
        file: &'static str,
    },
    /// The two files of a data directory do not belong together.
    #[error("raft.redb and state.redb do not belong together: {what}")]
    Mismatch {
        /// In which way, and what to do next.
        what: String,
    },
    /// A sync failed: what the system says about earlier writes cannot be trusted any more. The
    /// process ends at once, and the next start reads what is really there.
    #[error("{file} could not be synced to its disk: {source}; check the disk")]
    Sync {
        /// Which file.
        file: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StorageError {
    /// A row whose bytes are refused.
    pub(super) fn row(file: &'static str, row: &str, error: WireError) -> Self {
        match error {
            WireError::UnknownVersion(_) | WireError::UnknownField | WireError::UnknownKind(_) => {
                let what = format!("{row}: {error}; start the newer program again, or upgrade");
                Self::Format { file, what }
            }
            _ => Self::Corrupt { file, what: format!("{row}: {error}") },
        }
    }
}
