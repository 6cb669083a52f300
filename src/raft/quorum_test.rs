//! Quorum arithmetic against the definition: every subset, every way the open votes may fall.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Index, NodeId, Rng};
use crate::raft::quorum::{Tally, agreed, is_quorum, tally};
use crate::raft::{Member, Membership};

const NODES: u64 = 7;

fn random_set(rng: &mut Rng, empty: bool) -> BTreeSet<NodeId> {
    loop {
        let set: BTreeSet<NodeId> = (1..=NODES).filter(|_| rng.chance(1, 2)).map(NodeId).collect();
        if empty || !set.is_empty() {
            return set;
        }
    }
}

/// A configuration of up to seven nodes, joint in half of the cases, with any overlap of the
/// halves.
fn random_membership(rng: &mut Rng) -> Membership {
    let voters = random_set(rng, false);
    let outgoing = if rng.chance(1, 2) { random_set(rng, true) } else { BTreeSet::new() };
    let learners = &random_set(rng, true) - &voters;
    let members = voters
        .iter()
        .chain(&outgoing)
        .chain(&learners)
        .map(|node| (*node, Member { name: format!("n{node}"), address: String::new() }))
        .collect();
    Membership::new(voters, outgoing, learners, members).unwrap()
}

/// The definition: more than half of each half that there is.
fn decides(membership: &Membership, nodes: &BTreeSet<NodeId>) -> bool {
    [membership.voters(), membership.outgoing()]
        .iter()
        .all(|half| half.is_empty() || half.intersection(nodes).count() * 2 > half.len())
}

#[test]
fn the_agreed_index_is_the_highest_that_a_quorum_has_reached() {
    for seed in 0..5_000 {
        let mut rng = Rng::new(seed);
        let membership = random_membership(&mut rng);
        let reached: BTreeMap<NodeId, Index> =
            (1..=NODES).map(|node| (NodeId(node), Index(rng.below(6)))).collect();
        let naive = (0..6)
            .rev()
            .map(Index)
            .find(|index| {
                let holders = reached.iter().filter(|(_, reached)| *reached >= index);
                decides(&membership, &holders.map(|(node, _)| *node).collect())
            })
            .unwrap();
        let fast = agreed(&membership, |node| reached[&node]);
        assert_eq!(fast, naive, "seed {seed}: {membership:?} {reached:?}");
    }
}

#[test]
fn a_vote_is_decided_exactly_when_no_open_vote_can_change_it() {
    for seed in 0..2_000 {
        let mut rng = Rng::new(seed);
        let membership = random_membership(&mut rng);
        let votes: BTreeMap<NodeId, Option<bool>> = (1..=NODES)
            .map(|node| {
                (NodeId(node), *[None, Some(true), Some(false)].get(rng.below(3) as usize).unwrap())
            })
            .collect();
        let open: Vec<NodeId> =
            votes.iter().filter(|(_, vote)| vote.is_none()).map(|(node, _)| *node).collect();
        let (mut can_win, mut can_lose) = (false, false);
        for fall in 0..1_u32 << open.len() {
            let late = open.iter().enumerate().filter(|(at, _)| fall >> at & 1 == 1);
            let granted = votes.iter().filter(|(_, vote)| **vote == Some(true));
            let all: BTreeSet<NodeId> =
                granted.map(|(node, _)| *node).chain(late.map(|(_, node)| *node)).collect();
            if decides(&membership, &all) { can_win = true } else { can_lose = true }
        }
        let naive = match (can_win, can_lose) {
            (true, true) => Tally::Pending,
            (true, false) => Tally::Won,
            _ => Tally::Lost,
        };
        let fast = tally(&membership, |node| votes[&node]);
        assert_eq!(fast, naive, "seed {seed}: {membership:?} {votes:?}");
    }
}

/// What all safety rests on: two quorums of one configuration share a node, and so do a quorum of a
/// joint configuration and one of either half alone.
#[test]
fn quorums_intersect() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let membership = random_membership(&mut rng);
        let subsets: Vec<BTreeSet<NodeId>> = (0..1_u32 << NODES)
            .map(|bits| {
                (0..NODES).filter(|at| bits >> at & 1 == 1).map(|at| NodeId(at + 1)).collect()
            })
            .filter(|set: &BTreeSet<NodeId>| is_quorum(&membership, |node| set.contains(&node)))
            .collect();
        for first in &subsets {
            assert!(decides(&membership, first), "seed {seed}: {first:?} is a quorum");
            for second in &subsets {
                assert!(
                    first.intersection(second).next().is_some(),
                    "seed {seed}: {first:?} and {second:?} share no node"
                );
            }
            for half in [membership.voters(), membership.outgoing()] {
                let shared = first.intersection(half).count();
                assert!(half.is_empty() || shared * 2 > half.len(), "seed {seed}: {first:?}");
            }
        }
    }
}
