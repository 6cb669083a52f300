//! What a majority is, and what two majorities of a joint configuration agree on.
//!
//! Arithmetic only. Who the voters are is decided in `membership`; what is counted, by the callers.

use std::collections::BTreeSet;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, NodeId};
use crate::raft::Membership;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tally {
    /// Enough have refused that it cannot be won any more.
    Lost,
    /// It can still go either way.
    Pending,
    /// A quorum has granted it.
    Won,
}

/// How many of `voters` make a majority.
pub(super) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest index that a quorum of every half of `membership` has reached.
pub(super) fn agreed(membership: &Membership, reached: impl Fn(NodeId) -> Index) -> Index {
    if mutation::active(Mutation::LearnerCounts) {
        return agreed_in(&membership.members().keys().copied().collect(), &reached);
    }
    let incoming = agreed_in(membership.voters(), &reached);
    if membership.is_joint() && !mutation::active(Mutation::JointHalfCommits) {
        incoming.min(agreed_in(membership.outgoing(), &reached))
    } else {
        incoming
    }
}

/// Whether the nodes that satisfy `counts` are a quorum in every half of `membership`.
pub(super) fn is_quorum(membership: &Membership, counts: impl Fn(NodeId) -> bool) -> bool {
    tally(membership, |node| counts(node).then_some(true)) == Tally::Won
}

/// How a vote stands when `vote` yields what each voter answered so far.
pub(super) fn tally(membership: &Membership, vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
    let incoming = tally_in(membership.voters(), &vote);
    if !membership.is_joint() || mutation::active(Mutation::JointHalfElects) {
        return incoming;
    }
    match (incoming, tally_in(membership.outgoing(), &vote)) {
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        (Tally::Won, Tally::Won) => Tally::Won,
        _ => Tally::Pending,
    }
}

fn agreed_in(voters: &BTreeSet<NodeId>, reached: &impl Fn(NodeId) -> Index) -> Index {
    assert!(!voters.is_empty(), "a quorum is asked of a set without voters");
    let mut indexes: Vec<Index> = voters.iter().map(|node| reached(*node)).collect();
    indexes.sort_unstable();
    // In ascending order, the element with exactly a majority at or above it.
    if mutation::active(Mutation::CommitByHalf) {
        return indexes[indexes.len() - indexes.len().div_ceil(2)];
    }
    indexes[indexes.len() - majority(indexes.len())]
}

fn tally_in(voters: &BTreeSet<NodeId>, vote: &impl Fn(NodeId) -> Option<bool>) -> Tally {
    assert!(!voters.is_empty(), "a vote is counted in a set without voters");
    let (mut granted, mut refused) = (0, 0);
    for node in voters {
        match vote(*node) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    let needed = majority(voters.len());
    if granted >= needed {
        Tally::Won
    } else if voters.len() - refused < needed {
        Tally::Lost
    } else {
        Tally::Pending
    }
}
