//! The status of a node and the members of its cluster.

use serde::{Deserialize, Serialize};

use crate::api::types::{FileView, HexId, Incarnation, MemberView, PublishView};

/// The part that a node plays in consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Campaigns.
    Candidate,
    /// Follows, or waits for a leader.
    Follower,
    /// Leads.
    Leader,
    /// Receives the log and does not vote.
    Learner,
    /// Has no part yet: it has not started, or waits to be added.
    None,
    /// Asks whether a campaign would be won.
    PreCandidate,
    /// A role that this program does not know.
    #[serde(other)]
    Unknown,
}

/// Whether a node takes part in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is a member.
    #[default]
    Member,
    /// It was removed, runs on, and serves nothing.
    Removed,
    /// It loads its files, or waits for the other members of a first boot.
    Starting,
    /// Its cluster runs and does not know it: an operator has to add it.
    WaitingToBeAdded,
    /// A state that this program does not know.
    #[serde(other)]
    Unknown,
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthNote {
    /// For programs: `no_leader`, `not_ready`, `disk_full`, `disk_low`, `peer_unreachable`,
    /// `certificate_expires`, `ca_expires`, `reload_failed`, `draining`, `removed`, `starting`,
    /// `waiting_to_be_added`, `change_waits`, `file_failed`, `file_stale`, `publish_failed`,
    /// `publish_stale`; as a note `members_differ`, `publish_skipped`. More may come.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// Where and how much this node stores, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageView {
    /// The data directory.
    pub data_dir: String,
    /// Size of the log's file.
    pub raft_bytes: u64,
    /// Size of the state's file.
    pub state_bytes: u64,
    /// Free on the disk.
    pub free_bytes: u64,
    /// Below this much free space writes are refused.
    pub reserve_bytes: u64,
    /// Live keys and values in memory.
    pub live_bytes: u64,
    /// History in memory.
    pub history_bytes: u64,
    /// Log entries in memory.
    pub log_bytes: u64,
    /// How long the last group commit took, in milliseconds, rounded down.
    pub last_write_ms: u64,
}

/// The connection to one other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// The member.
    pub name: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Why not, if it was ever tried in vain.
    #[serde(default)]
    pub last_error: Option<String>,
}

/// A snapshot on its way to or from another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// The other member.
    pub member: String,
    /// Whether this node sends it.
    pub outgoing: bool,
    /// `waiting`, `transferring`, `installing` or `failed`; a failed one is tried again.
    pub phase: String,
    /// The log index of the state; zero while it is not known.
    pub index: u64,
    /// Rows that it has.
    pub rows: u64,
    /// Rows that the receiver has of it.
    pub rows_done: u64,
    /// Why the last one was refused, if it was.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// `POST /v1/reload`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Settings and files that are other ones now; empty when all are the same.
    pub changed: Vec<String>,
}

/// `POST /v1/rebuild`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildAnswer {
    /// After which entry it was noticed that the state differs.
    pub diverged_index: u64,
}

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// This node's name.
    pub node: String,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's identity.
    pub cluster_id: HexId,
    /// The program's version.
    pub version: String,
    /// Whether it takes part.
    #[serde(default)]
    pub state: NodeState,
    /// Its role.
    pub role: NodeRole,
    /// The leader's name, if known.
    pub leader: Option<String>,
    /// The current term.
    pub term: u64,
    /// Highest log index known committed.
    pub commit_index: u64,
    /// Highest log index applied here.
    pub applied_index: u64,
    /// The store's revision here.
    pub revision: u64,
    /// The oldest revision that is readable.
    pub compact_revision: u64,
    /// The history that revisions belong to.
    pub epoch: u64,
    /// Whether there is a leader and this node is caught up.
    pub ready: bool,
    /// How long the process has been running.
    pub uptime_ms: u64,
    /// How many leases there are.
    pub leases: u64,
    /// How many processes of this host have leases bound to them.
    #[serde(default)]
    pub bound_processes: u64,
    /// Running hash of the state at `applied_index`.
    pub digest: HexId,
    /// Requests that wait for their outcome here.
    pub pending: u64,
    /// Every member.
    pub members: Vec<MemberView>,
    /// Connections to the other members.
    #[serde(default)]
    pub links: Vec<LinkView>,
    /// Snapshots on their way.
    #[serde(default)]
    pub snapshots: Vec<SnapshotView>,
    /// Empty when all is well.
    #[serde(default)]
    pub health: Vec<HealthNote>,
    /// What is worth knowing and needs nothing done.
    #[serde(default)]
    pub notes: Vec<HealthNote>,
    /// What it stores.
    #[serde(default)]
    pub storage: StorageView,
    /// Files of this host that follow keys.
    #[serde(default)]
    pub files: Vec<FileView>,
    /// Directories of this host that keys follow.
    #[serde(default)]
    pub publish: Vec<PublishView>,
}
