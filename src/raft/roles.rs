//! What each role knows besides what all roles share.
//!
//! When roles change is decided in `core` ([`Raft::switch`](crate::raft::Raft)) alone.

use std::collections::BTreeMap;

use crate::base::{Index, Instant, NodeId, ReadContext};
use crate::raft::change::Parting;
use crate::raft::feeding::Pace;
use crate::raft::progress::Feed;
use crate::raft::read::Rounds;
use crate::raft::transfer::Transfer;

/// The role of a node in its current term, with its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Candidate(Campaigner),
    Follower(Follower),
    Leader(Leader),
    PreCandidate(Campaigner),
}

/// Follows a leader, or waits for one. Voters and learners alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    /// The leader of the term, if known and not lost.
    pub(super) leader: Option<NodeId>,
    /// When the leader was last heard from; nothing when there is none.
    pub(super) heard: Option<Instant>,
    /// When it campaigns (a voter) or gives up its leader (a learner) unless it hears one.
    pub(super) deadline: Instant,
    /// Reads that the leader was asked about, each with the time of the last asking.
    pub(super) reads: BTreeMap<ReadContext, Instant>,
}

/// Collects the answers to a pre-vote or a vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Campaigner {
    /// One answer per voter: a repeated message counts once.
    pub(super) votes: BTreeMap<NodeId, bool>,
    /// When it tries again.
    pub(super) deadline: Instant,
}

/// Leads the term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    /// Every other member, and everybody in `parting`.
    pub(super) feeds: BTreeMap<NodeId, Feed>,
    /// Who is no member any more and has not been told yet.
    pub(super) parting: BTreeMap<NodeId, Parting>,
    /// The hand-over under way.
    pub(super) transfer: Option<Transfer>,
    /// A leader that loses its vote does not try to hand over again before this.
    pub(super) hand_over_at: Instant,
    /// How those without a vote are fed.
    pub(super) pace: Pace,
    /// When it must speak next.
    pub(super) heartbeat_at: Instant,
    /// The empty entry that opens the term.
    pub(super) opening: Index,
    /// Bytes of entries above the commit index.
    pub(super) uncommitted_bytes: u64,
    /// Batches of linearizable reads.
    pub(super) rounds: Rounds,
    /// Something happened since the last `Ready` that may let a message go out.
    pub(super) dirty: bool,
}
