//! Why a node does not start, or stops by itself.

use crate::peer::PeerError;
use crate::pki::PkiError;
use crate::replica::RecoverError;
use crate::storage::StorageError;
use crate::wire::HelloRefusal;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory is another node's.
    #[error(
        "the data directory {path} belongs to node {node} of cluster {cluster}: correct \
         `data_dir`, `name` or `cluster` in the configuration"
    )]
    Directory {
        /// The directory.
        path: String,
        /// Whose it is.
        node: String,
        /// Of which cluster.
        cluster: String,
    },
    /// The peer port cannot be listened on, or the data directory cannot be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A link could not be set up.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A certificate is not usable.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The files do not make a replica.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The cluster does not take this node.
    #[error("{by} refuses this node: {refusal}")]
    Refused {
        /// Who.
        by: String,
        /// Why.
        refusal: HelloRefusal,
    },
    /// The saved state does not fit together.
    #[error("state.redb cannot be used: {0}")]
    State(#[from] crate::state::RestoreError),
    /// A file in the data directory is not usable.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a running node stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// Going on could break a promise.
    #[error("{0}")]
    Fatal(String),
    /// The others do not take this node any more.
    #[error("{by} refuses this node: {refusal}")]
    Refused {
        /// Who.
        by: String,
        /// Why.
        refusal: HelloRefusal,
    },
    /// The node was told to stop while the disk was full: what was not yet durable was never
    /// promised.
    #[error("stopped while the disk was full; what was not durable had not been acknowledged")]
    StoppedOnFullDisk,
    /// A write or a sync failed.
    #[error(
        "{0}; this daemon stops at once, because what the disk holds is not known any more: start \
         it again, and look at the disk if this is repeated"
    )]
    Storage(#[source] StorageError),
    /// One of the node's threads panicked: a mistake in this program.
    #[error("the {0} thread ended by a panic: please report it, with the log")]
    Thread(&'static str),
}
