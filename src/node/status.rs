//! What can be seen of a node: a copy that is refreshed when something changes or somebody looks.

use std::time::SystemTime;

use crate::base::{Epoch, Revision, Span};
use crate::replica::ReplicaStatus;

/// A copy of what matters about a node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The name of its cluster.
    pub cluster_name: String,
    /// The version of this program.
    pub version: &'static str,
    /// The replica.
    pub replica: ReplicaStatus,
    /// The store's revision here.
    pub revision: Revision,
    /// The oldest revision that is still readable here.
    pub compact_revision: Revision,
    /// Which history the revisions belong to.
    pub epoch: Epoch,
    /// Bytes of keys and values as they are now.
    pub live_bytes: u64,
    /// Bytes of all retained versions.
    pub history_bytes: u64,
    /// Bytes above which writes that add to the store are refused.
    pub store_bytes_max: u64,
    /// How many leases there are.
    pub leases: u64,
    /// The digest of the state at the applied index.
    pub digest: u64,
    /// The disk.
    pub storage: StorageStatus,
    /// The connections to the other members.
    pub links: Vec<LinkStatus>,
    /// When the certificates in use end: this node's own first, then those of trusted authorities.
    pub certificates: Vec<CertificateStatus>,
    /// How the members differ from those in the configuration file, which only counts at the first
    /// boot; nothing when they are the same.
    pub members_differ: Option<String>,
    /// How long this process runs.
    pub uptime: Span,
    /// Whether it is about to stop.
    pub draining: bool,
}

/// The disk of a node.
#[derive(Clone, Debug)]
pub struct StorageStatus {
    /// Bytes of `raft.redb`.
    pub raft_bytes: u64,
    /// Bytes of `state.redb`.
    pub state_bytes: u64,
    /// Bytes that are free where the data directory is.
    pub free_bytes: u64,
    /// Writes are refused below this many free bytes.
    pub reserve_bytes: u64,
    /// The data directory.
    pub data_dir: String,
    /// How long the last write of the log took, its sync included.
    pub last_write: Span,
}

/// The end of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Whether it is this node's own; else that of a trusted authority.
    pub own: bool,
    /// Whom it names.
    pub subject: String,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// What an operator should know, when it ends within thirty days.
    pub warning: Option<String>,
}

/// The connection to one other member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// Whether frames can be sent to it now.
    pub connected: bool,
    /// Why it is not connected, or was not the last time.
    pub last_error: Option<String>,
}
