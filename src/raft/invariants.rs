//! Whether a core holds together: every invariant that can be seen on one node at one time.
//!
//! Tests and the simulator call it after every step, release builds never. What spans nodes or time
//! (one leader per term, nothing committed changes) is checked by those who see several.

use std::collections::BTreeSet;

use crate::base::{Index, NodeId, Term};
use crate::raft::progress::Feed;
use crate::raft::quorum;
use crate::raft::roles::{Leader, State};
use crate::raft::{Membership, Payload, Raft};

/// Panics, with values, when an invariant of `raft` does not hold.
pub fn check(raft: &Raft) {
    check_positions(raft);
    check_log(raft);
    check_configurations(raft);
    check_role(raft);
    raft.writes.check(raft.log.last_index());
}

fn check_positions(raft: &Raft) {
    let (start, last) = (raft.log.start_index(), raft.log.last_index());
    let (applied, commit) = (raft.applied, raft.commit);
    let (handed, durable) = (raft.log.handed(), raft.log.durable());
    let applying = raft.writes.applying();
    assert!(start <= applied, "the log starts after {start}, but only {applied} is applied");
    assert!(applied <= applying, "{applied} applied, but only {applying} given out");
    assert!(applying <= commit, "{applying} given out to apply, but only {commit} committed");
    assert!(commit <= last, "{commit} committed, but the last entry is {last}");
    assert!(start <= durable, "{start} cut, but only {durable} durable");
    assert!(durable <= handed, "{durable} durable, but only {handed} given out");
    assert!(handed <= last, "{handed} given out to write, but the last entry is {last}");
}

fn check_log(raft: &Raft) {
    let log = &raft.log;
    let mut index = log.start_index();
    let mut term = log.term_at(index).expect("the term at the start is kept");
    let mut bytes = 0;
    for entry in log.entries() {
        index = index.next();
        assert_eq!(entry.index, index, "entry {} stands at {index}", entry.index);
        assert!(entry.term >= term, "entry {index} of term {} follows term {term}", entry.term);
        term = entry.term;
        bytes += entry.size_bytes() as u64;
    }
    assert_eq!(bytes, log.bytes(), "bytes of the log are miscounted");
    assert!(term <= raft.term, "the log ends in term {term}, the node is in {}", raft.term);
    assert_eq!(term, log.last_term(), "the last term is {}", log.last_term());
}

fn check_configurations(raft: &Raft) {
    let mut before: Option<Index> = None;
    for (index, _) in raft.configurations.iter() {
        assert!(before < Some(*index), "configuration at {index} after that at {before:?}");
        before = Some(*index);
    }
    // A node that was added later begins with a configuration that is newer than those it then
    // reads in the log: what follows an index of zero is no step from it.
    let from_zero = raft.configurations.iter().next().is_some_and(|(at, _)| *at == Index(0));
    for (before, index, after) in raft.configurations.steps().skip(usize::from(from_zero)) {
        check_step(before, index, after);
        let loses = before.is_voter(raft.node) && !after.is_voter(raft.node);
        assert!(!loses || index <= raft.commit, "{} lost its vote at {index} too early", raft.node);
    }
    let newest = raft.log.entries().iter().rev().find_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some((entry.index, membership)),
        _ => None,
    });
    if let Some((index, membership)) = newest {
        assert_eq!(raft.membership(), membership, "the configuration at {index} is not in force");
    }
}

/// RELIABILITY R14 (a), (d): who can decide under one configuration meets who can under the next.
fn check_step(before: &Membership, index: Index, after: &Membership) {
    if after.is_joint() {
        assert!(!before.is_joint(), "the configuration at {index} is joint like that before it");
        assert_eq!(after.outgoing(), before.voters(), "outgoing at {index} are not who voted");
    } else if before.is_joint() {
        assert_eq!(after.voters(), before.voters(), "what remains at {index} is another half");
    } else {
        let differing = before.voters().symmetric_difference(after.voters()).count();
        assert!(differing <= 1, "{differing} voters change at once at {index}");
    }
}

/// RELIABILITY R14 (b), (c), (d): one change at a time, after the term has opened, and what is
/// joint is left when it is committed.
fn check_changes(raft: &Raft, leader: &Leader) {
    let commit = raft.commit;
    let mut uncommitted = 0;
    for (before, index, after) in raft.configurations.steps() {
        uncommitted += u64::from(index > commit);
        if index > leader.opening {
            let opening = leader.opening;
            assert!(commit >= opening, "a change at {index} before {opening} was committed");
            let (at, _) = raft.configurations.committed(index.previous());
            assert!(at <= commit, "{index} follows the change at {at}, which is not committed");
            assert!(after.is_voter(raft.node), "the leader takes its own vote away at {index}");
            assert!(before.is_voter(raft.node), "the leader had no vote before {index}");
        }
    }
    if commit >= leader.opening {
        assert!(uncommitted <= 1, "{uncommitted} configurations of a leader wait for their commit");
    }
}

fn check_role(raft: &Raft) {
    let (node, term) = (raft.node, raft.term);
    match &raft.state {
        State::Follower(follower) => {
            assert!(follower.leader != Some(node), "{node} follows itself in term {term}");
            assert_eq!(follower.leader.is_some(), follower.heard.is_some(), "leader and hearing");
            assert!(
                follower.leader.is_some() || follower.reads.is_empty(),
                "{} reads wait for no leader",
                follower.reads.len()
            );
        }
        State::Candidate(campaigner) | State::PreCandidate(campaigner) => {
            assert!(raft.membership().is_voter(node), "{node} campaigns and is no voter");
            for voter in campaigner.votes.keys() {
                assert!(raft.membership().is_voter(*voter), "{voter} voted and is no voter");
            }
            if matches!(raft.state, State::Candidate(_)) {
                assert_eq!(raft.vote, Some(node), "the candidate of {term} voted for another");
            }
        }
        State::Leader(leader) => check_leader(raft, leader),
    }
    if raft.vote.is_some() {
        assert!(term > Term(0), "a vote in term 0");
    }
}

fn check_leader(raft: &Raft, leader: &Leader) {
    let (node, term, last) = (raft.node, raft.term, raft.log.last_index());
    assert_eq!(raft.vote, Some(node), "the leader of {term} voted for another");
    assert_eq!(raft.log.last_term(), term, "the leader's log ends in an older term than {term}");
    if leader.opening > raft.log.start_index() {
        let opening = leader.opening;
        let entry = raft.log.entry(opening).expect("the opening entry is held");
        assert_eq!((entry.term, &entry.payload), (term, &Payload::Empty), "opening {opening}");
    }
    assert!(raft.membership().is_voter(node), "{node} leads term {term} and is no voter");
    let members = raft.membership().members().keys().filter(|member| **member != node);
    let fed: BTreeSet<NodeId> = members.chain(leader.parting.keys()).copied().collect();
    assert!(leader.feeds.keys().eq(&fed), "the leader feeds others than {fed:?}");
    check_changes(raft, leader);
    for feed in leader.feeds.values() {
        feed.check(last);
    }
    let bytes = raft.log.bytes_between(raft.commit, last);
    assert_eq!(leader.uncommitted_bytes, bytes, "uncommitted bytes are miscounted");
    if raft.commit >= leader.opening {
        // Counted under the configuration in force, or when that is younger, under the one before.
        let (_, committed) = raft.committed_membership();
        let held = [raft.membership(), committed].into_iter().any(|membership| {
            quorum::is_quorum(membership, |voter| {
                let matched = leader.feeds.get(&voter).map(Feed::matched);
                matched.unwrap_or(raft.log.durable()) >= raft.commit
            })
        });
        assert!(held, "{} is committed in term {term} without a quorum", raft.commit);
    }
}
