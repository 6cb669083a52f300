//! Who takes part: voters, outgoing voters of a joint configuration, learners.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::NodeId;
use crate::raft::quorum;

/// What is recorded of one member besides its vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The name that its certificate carries and that people see. Two members bear the same one
    /// only while one replaces the other.
    pub name: String,
    /// `host:port` at which the others reach it.
    pub address: String,
}

/// What the operator declared and the cluster has not reached yet. The core carries it through the
/// log, so that whoever leads next goes on with it; what is done about it is decided above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Goal {
    /// Who shall vote.
    pub voters: BTreeSet<NodeId>,
    /// Who shall receive the log without a vote.
    pub learners: BTreeSet<NodeId>,
}

/// A configuration of the cluster (Raft dissertation, chapter 4).
///
/// Invariants:
/// - `voters`, `outgoing` and `learners` name members of `members` only, and each member is in at
///   least one of them.
/// - No learner is in `voters`. (A voter of the outgoing half that becomes a learner is in
///   `outgoing` and `learners` at once until the joint configuration is left.)
/// - `outgoing` is empty unless the configuration is joint.
/// - A goal has a voter, names members only, and none of them twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, Member>,
    goal: Option<Goal>,
}

/// Why a set of members is no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// A goal without a voter, with a node in both roles, or with one that is no member.
    #[error("the goal names a node that is no member, one node twice, or no voter")]
    Goal,
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
        Ok(Self { voters, outgoing, learners, members, goal: None })
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

    /// What was declared and is not reached yet.
    pub fn goal(&self) -> Option<&Goal> {
        self.goal.as_ref()
    }

    /// The same configuration on its way to `goal`, or to nothing further.
    pub fn with_goal(self, goal: Option<Goal>) -> Result<Self, MembershipError> {
        if let Some(goal) = &goal {
            let twice = goal.voters.intersection(&goal.learners).next().is_some();
            let unlisted =
                goal.voters.union(&goal.learners).any(|node| !self.members.contains_key(node));
            if goal.voters.is_empty() || twice || unlisted {
                return Err(MembershipError::Goal);
            }
        }
        Ok(Self { goal, ..self })
    }

    /// The joint configuration on the way from here to `target`: who votes now goes on voting in
    /// the outgoing half. Both are not joint.
    pub(super) fn joint_with(&self, target: Membership) -> Membership {
        assert!(!self.is_joint(), "a joint configuration follows another one: {self:?}");
        assert!(!target.is_joint(), "the target is joint itself: {target:?}");
        let mut joint = Self { outgoing: self.voters.clone(), ..target };
        for voter in &self.voters {
            if let Some(member) = self.members.get(voter) {
                joint.members.entry(*voter).or_insert_with(|| member.clone());
            }
        }
        joint
    }

    /// What remains of a joint configuration when its outgoing half is dropped.
    pub(super) fn without_outgoing(&self) -> Membership {
        assert!(self.is_joint(), "there is no outgoing half to drop: {self:?}");
        let mut rest = Self { outgoing: BTreeSet::new(), ..self.clone() };
        rest.members.retain(|node, _| self.voters.contains(node) || self.learners.contains(node));
        rest
    }

    /// Whether two quorums decide.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// The names of those that vote, in either half.
    pub fn voter_names(&self) -> BTreeSet<String> {
        let voters = self.members.iter().filter(|(node, _)| self.is_voter(**node));
        voters.map(|(_, member)| member.name.clone()).collect()
    }

    /// Whether the nodes that satisfy `counts` are a majority of the voters, and of the outgoing
    /// ones when it is joint. Panics on a set without voters, which no log holds.
    pub fn is_quorum(&self, counts: impl Fn(NodeId) -> bool) -> bool {
        quorum::is_quorum(self, counts)
    }

    /// Whether `node` is a member of any kind.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }
}
