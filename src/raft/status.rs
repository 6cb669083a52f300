//! What can be seen of a core from outside.

use std::collections::BTreeMap;

use crate::base::{Index, NodeId, Term};
use crate::raft::roles::State;
use crate::raft::{Membership, Raft};

/// The role that a node plays now (paper, figure 4), pre-candidates and learners told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Campaigns for the term's votes.
    Candidate,
    /// Follows a leader, or waits for one.
    Follower,
    /// Leads the term.
    Leader,
    /// Receives the log and does not vote.
    Learner,
    /// Asks whether a campaign would be won.
    PreCandidate,
}

/// How a leader feeds one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// Looks for the last common entry, one message at a time.
    Probe,
    /// Streams entries.
    Replicate,
    /// Waits until the member has a snapshot: the log no longer holds what it lacks.
    Snapshot,
}

/// What a leader knows of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How it is fed.
    pub state: ProgressState,
    /// Known durable and equal up to here.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Whether it answered within the last election timeout.
    pub recent_active: bool,
    /// Whether it needs entries that the leader's log no longer holds. Such a member gets
    /// heartbeats only, until it has a snapshot.
    pub cut_off: bool,
}

/// A copy of what matters about a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// What it is now.
    pub role: Role,
    /// The current term.
    pub term: Term,
    /// The leader of the term, if known.
    pub leader: Option<NodeId>,
    /// For whom it voted in this term.
    pub vote: Option<NodeId>,
    /// Highest committed index known.
    pub commit: Index,
    /// Highest index handed back by `applied`.
    pub applied: Index,
    /// Highest index known durable here.
    pub persisted: Index,
    /// First index still in the log.
    pub first_index: Index,
    /// Last index in the log.
    pub last_index: Index,
    /// The configuration in force.
    pub membership: Membership,
    /// On a leader: every other member. Empty otherwise.
    pub progress: BTreeMap<NodeId, Progress>,
    /// Whether a leader has committed an entry of its own term, so that it may serve reads.
    pub term_opened: bool,
}

impl Raft {
    /// On a leader: how `node` is fed.
    pub fn progress(&self, node: NodeId) -> Option<Progress> {
        let State::Leader(leader) = &self.state else { return None };
        let feed = leader.feeds.get(&node)?;
        Some(feed.progress(&self.log, self.now, &self.options))
    }
}
