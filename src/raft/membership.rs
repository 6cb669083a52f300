//! Who takes part: voters, outgoing voters of a joint configuration, learners.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::NodeId;

/// What is recorded of one member besides its vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name that its certificate carries and that people see; unique among members.
    pub name: String,
    /// `host:port` at which the others reach it.
    pub address: String,
}

/// A configuration of the cluster (Raft dissertation, chapter 4).
///
/// Invariants:
/// - `voters`, `outgoing` and `learners` name members of `members` only, and each member is in at
///   least one of them.
/// - No learner is in `voters`. (A voter of the outgoing half that becomes a learner is in
///   `outgoing` and `learners` at once until the joint configuration is left.)
/// - `outgoing` is empty unless the configuration is joint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, Member>,
}

/// Why a set of members is no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// A listed node has no name and address, or a member is not listed.
    #[error("the lists of nodes and the table of members differ")]
    Unlisted,
    /// A node is both voter and learner.
    #[error("a node cannot be a voter and a learner at once")]
    VoterAndLearner,
    /// There is no voter.
    #[error("a configuration needs at least one voter")]
    NoVoter,
}

impl Membership {
    /// A configuration from its parts; `outgoing` is empty unless it is joint.
    pub fn new(
        voters: BTreeSet<NodeId>,
        outgoing: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
        members: BTreeMap<NodeId, Member>,
    ) -> Result<Self, MembershipError> {
        if voters.is_empty() {
            return Err(MembershipError::NoVoter);
        }
        if voters.intersection(&learners).next().is_some() {
            return Err(MembershipError::VoterAndLearner);
        }
        let listed: BTreeSet<NodeId> =
            voters.iter().chain(&outgoing).chain(&learners).copied().collect();
        if !listed.iter().eq(members.keys()) {
            return Err(MembershipError::Unlisted);
        }
        Ok(Self { voters, outgoing, learners, members })
    }

    /// The incoming (or only) set of voters.
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.voters
    }

    /// The voters of the configuration that is being left; empty unless joint.
    pub fn outgoing(&self) -> &BTreeSet<NodeId> {
        &self.outgoing
    }

    /// The members that receive the log and never vote.
    pub fn learners(&self) -> &BTreeSet<NodeId> {
        &self.learners
    }

    /// Every member with its name and address.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Whether two quorums decide.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` is a member of any kind.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }
}
