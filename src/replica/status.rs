//! What can be seen of a replica from outside, and why a request was not answered with an outcome.

use crate::base::{Boot, ClusterId, Index, NodeId, Term};
use crate::raft::{Membership, Progress, Role};
use crate::replica::{Fence, SnapshotStatus};
use crate::wire::ChangeReport;

/// A copy of what matters about a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// This node.
    pub node: NodeId,
    /// How often its data directory was started.
    pub boot: Boot,
    /// The cluster's identity.
    pub cluster: ClusterId,
    /// Its role now.
    pub role: Role,
    /// The current term.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// The commit index as far as known.
    pub commit: Index,
    /// The last applied index.
    pub applied: Index,
    /// The last index in the log.
    pub last_index: Index,
    /// The last index known durable here.
    pub persisted: Index,
    /// Bytes of log entries held in memory.
    pub log_bytes: u64,
    /// The applied index of the last saved state.
    pub saved: Index,
    /// Every member.
    pub members: Vec<MemberStatus>,
    /// Whether the configuration is joint.
    pub joint: bool,
    /// The configuration in force, with the goal of a change whose new voters catch up.
    pub membership: Membership,
    /// Its index, and whether it is known to be committed.
    pub membership_index: Index,
    /// See `membership_index`.
    pub membership_committed: bool,
    /// On a leader: how the change under way stands.
    pub change: ChangeReport,
    /// Whether a leader is known and this node has applied all that was committed when it started.
    pub ready: bool,
    /// Whether the disk is too full for writes.
    pub disk_full: bool,
    /// Requests that wait for their outcome.
    pub pending: usize,
    /// Snapshots on their way, the incoming one first.
    pub snapshots: Vec<SnapshotStatus>,
    /// When this node is no member any more: since when.
    pub removed: Option<Removal>,
    /// Why this node serves nothing, if its state differs from that of a quorum.
    pub fence: Option<Fence>,
    /// On a leader: the last index at which a quorum of the voters had the same digest.
    pub digests_agreed: Index,
}

/// The end of a node's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// The log index of the configuration without it; not known when it was away then, and only
    /// its former peers say so.
    pub at: Option<Index>,
}

impl std::fmt::Display for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this node was removed from the cluster")?;
        match self.at {
            Some(index) => write!(f, " at index {index}")?,
            None => f.write_str(", as its members say")?,
        }
        f.write_str(": use another host's daemon, or add this one again")
    }
}

/// One member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its incarnation.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// On the leader only: how it is fed.
    pub progress: Option<Progress>,
}

/// Why a request has no outcome. `OutcomeUnknown` is born only where bytes had been handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Certainly not applied: the cluster's reservations do not let this node do it.
    #[error(
        "this node may not do that: the names, or administration, are reserved for other nodes \
         (_access/); nothing was applied"
    )]
    Forbidden,
    /// Certainly not applied: no leader was found in time.
    #[error("the cluster has no leader that this node can reach; nothing was applied")]
    NoLeader,
    /// Certainly not applied: this node has no state yet.
    #[error("this node has not received its first state yet; nothing was applied")]
    NotReady,
    /// The request was handed over and its fate was not learnt in time.
    #[error(
        "the request was sent and its outcome was not learnt in time; it may or may not be \
         applied: retry it with the same Idempotency-Key"
    )]
    OutcomeUnknown,
    /// Certainly not applied: the store is at its quota.
    #[error("the store has reached its quota; delete keys or raise quota.store_bytes")]
    QuotaExceeded,
    /// A read was not confirmed in time.
    #[error("the read was not confirmed by a quorum in time")]
    Timeout,
    /// Certainly not applied: too many requests wait on this node.
    #[error("too many requests wait on this node; nothing was applied")]
    TooManyRequests,
    /// Certainly not applied, for another reason.
    #[error("{0}; nothing was applied")]
    Unavailable(UnavailableReason),
}

/// Why a request was refused before anything happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum UnavailableReason {
    /// This node's state differs from that of a quorum.
    #[error(
        "this node's state differs from that of the others (it diverged), and is not served: \
         rebuild it with `quorumctl rebuild`"
    )]
    Diverged,
    /// The leader's disk is below its reserve.
    #[error("the leader's disk is full: free space on it")]
    DiskFull,
    /// The leader refused it as malformed: the two programs differ.
    #[error("the leader does not understand this request: upgrade it")]
    Malformed,
    /// The leader cannot take more now.
    #[error("the leader has too much to do")]
    Overloaded,
    /// This node is no member any more.
    #[error("{0}")]
    Removed(Removal),
    /// The daemon is stopping.
    #[error("this daemon is stopping")]
    ShuttingDown,
}
