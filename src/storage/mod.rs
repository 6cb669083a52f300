//! What survives a crash: two redb files in the data directory.
//!
//! - `raft.redb` ([`RaftStore`]): identity, hard state and log. One write per round of group
//!   commit, one transaction, one sync. When `write` has returned, the promises in the batch may be
//!   sent.
//! - `state.redb` ([`StateStore`]): the state at some applied index, brought forward in the
//!   background. The log is cut only behind it.
//!
//! # The durability contract
//!
//! - A write is atomic: after a crash at any point the file holds all of it or nothing of it, and
//!   everything before it (`crash_test.rs` crashes at each write and sync, and again in recovery).
//! - `raft.redb` commits in one phase: everything is written, then one sync. Whether a torn commit
//!   is whole is decided by redb's page checksums, and every row has one of ours. A page of the
//!   *last* commit that rots while the process is not running looks like a torn commit and is
//!   undone; that a peer remembers more ([`PeerMark`]) is what brings such a rollback to light.
//! - `state.redb` commits in two phases, with the state of the allocator.
//! - The state is saved only up to an index that is durable in the log here. [`check`] refuses
//!   directories where it is not so.
//! - A state from another member replaces the saved one in one transaction, which also says where
//!   the log is to begin ([`StateStore::install`]); raft.redb follows, and a start in between makes
//!   up for it ([`finish_install`]). So an applied index is never without its state (RELIABILITY
//!   C4), and neither file is ever half of each.
//! - Errors are final for a handle: it is latched, and says so. A failed sync
//!   ([`StorageError::Sync`]) ends the process; a full disk ([`StorageError::Full`]) is answered by
//!   opening the store anew when there is space.
//! - Opening verifies every page checksum of the file and every row (`rot_test.rs` damages each
//!   byte; redb answers damage with errors, and no panic of it was seen). A second process on the
//!   same files is refused ([`StorageError::InUse`]); so are files of another node, cluster or
//!   version.
//!
//! Faults are injected below redb, at its `StorageBackend` (`tests/sim/disk.rs`).

mod backend;
mod error;
mod format;
mod raft_load;
mod raft_log;
mod recover;
mod snapshot;
mod state_rows;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
#[path = "../../tests/sim/disk.rs"]
mod disk;
#[cfg(test)]
mod install_test;
#[cfg(test)]
mod recovery_test;
#[cfg(test)]
mod rot_test;
#[cfg(test)]
mod store_test;

#[cfg(test)]
pub(crate) use disk::Disk;
pub use error::StorageError;
pub use format::{Cut, Identity, PeerMark};
pub use raft_log::{LogBatch, RaftStore, RecoveredLog};
pub use recover::{check, finish_install};
pub use snapshot::{RowChunk, StateSnapshot};
pub use state_rows::StateStore;
