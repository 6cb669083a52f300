//! Replicas whose states have come apart: found at the next agreed index, fenced off, and nothing
//! else happens to anyone.
//!
//! A node goes astray as a disk or a memory would lead it: it starts from a saved state in which
//! one entry did something else, with counters and digest that fit it.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::{Boot, Epoch, Index, NodeId, RequestId, Rng, Sequence, Span, Term, WallMillis};
use crate::raft::{Entry, HardState, Membership, Payload, Role};
use crate::replica::cluster_test::{Cluster, blank_log, lease, put};
use crate::replica::{
    Event, Options, PromiseState, Recovery, Replica, RequestError, Ticket, UnavailableReason,
};
use crate::state::{Bind, Command, Operation, Outcome, StateMachine};
use crate::storage::RecoveredLog;
use crate::wire::{DigestReport, PeerMessage, encode_command, stamp_command};

const EVERY: u64 = 16;
const TIMEOUT: Span = Span::from_secs(5);
const DIVERGED: Result<Outcome, RequestError> =
    Err(RequestError::Unavailable(UnavailableReason::Diverged));

fn options() -> Options {
    Options { digest_every: EVERY, ..Options::default() }
}

fn command(index: u64, value: &str) -> Command {
    let sequence = Sequence(index);
    Command {
        request: RequestId { node: NodeId(99), boot: Boot(1), sequence },
        floor: Sequence(1),
        idempotency: None,
        operation: put(&format!("old{index}"), value),
    }
}

/// Four committed writes of an earlier term.
fn old_log(node: NodeId, size: u64, learners: &[u64]) -> RecoveredLog {
    let mut log = blank_log(node, size);
    let genesis = log.genesis.as_mut().expect("it belongs to a cluster");
    let learners: BTreeSet<NodeId> = learners.iter().copied().map(NodeId).collect();
    let members = genesis.membership.members().clone();
    let voters = members.keys().copied().filter(|node| !learners.contains(node)).collect();
    genesis.membership = Membership::new(voters, BTreeSet::new(), learners, members)
        .expect("whoever does not learn votes");
    let entry = |index| {
        let bytes = stamp_command(WallMillis(1), &encode_command(&command(index, "right")));
        Entry { term: Term(1), index: Index(index), payload: Payload::Command(bytes) }
    };
    log.entries = (1..=4).map(entry).collect();
    log.hard_state = HardState { term: Term(1), vote: None, commit: Index(4) };
    log
}

/// What a node has made of the old entries; the third did something else on one that is astray.
fn machine(is_astray: bool) -> StateMachine {
    let mut machine = StateMachine::new(Epoch(1));
    for index in 1..=4 {
        let value = if is_astray && index == 3 { "wrong" } else { "right" };
        machine.apply(Index(index), Term(1), WallMillis(1), &command(index, value));
    }
    machine
}

/// A cluster in which these have gone astray.
fn cluster(size: u64, learners: &[u64], astray: &[u64]) -> Cluster {
    cluster_with(size, learners, astray, &options())
}

fn cluster_with(size: u64, learners: &[u64], astray: &[u64], options: &Options) -> Cluster {
    let mut cluster = Cluster::with(size, options);
    for node in (1..=size).map(NodeId) {
        let log = old_log(node, size, learners);
        let machine = Some(machine(astray.contains(&node.get())));
        let recovery = Recovery { log, machine };
        let rng = Rng::new(node.get());
        let replica = Replica::recover(recovery, options.clone(), rng, cluster.now);
        cluster.replicas.insert(node, replica.expect("the log fits the state"));
    }
    cluster
}

/// Writes until an index at which all compare lies behind.
fn write_past_an_agreed_index(cluster: &mut Cluster, at: NodeId) {
    for number in 0..EVERY {
        cluster.submit(at, put(&format!("k{number}"), "v"), TIMEOUT);
        cluster.settle();
    }
    cluster.advance(Span::from_millis(200));
}

fn fenced(cluster: &Cluster) -> Vec<u64> {
    let all = cluster.replicas.values();
    let fenced = all.filter(|replica| replica.status().fence.is_some());
    fenced.map(|replica| replica.status().node.get()).collect()
}

/// Three voters, one of whom has gone astray and follows.
fn with_a_bad_follower(options: &Options) -> (Cluster, NodeId, NodeId) {
    for astray in [3, 2] {
        let mut cluster = cluster_with(3, &[], &[astray], options);
        let leader = cluster.elect();
        if leader != NodeId(astray) {
            return (cluster, leader, NodeId(astray));
        }
    }
    panic!("two nodes lead the same cluster");
}

#[test]
fn a_member_that_went_astray_is_fenced_off_and_the_others_go_on() {
    for learners in [&[][..], &[4]] {
        let mut cluster = cluster(4, learners, &[4]);
        let leader = cluster.elect();
        let (bad, good) = (NodeId(4), cluster.another_than(leader));
        if leader == bad {
            continue;
        }
        let grant = Operation::GrantLease(lease(Span::from_secs(30), Bind::Connection));
        let granted = cluster.submit(bad, grant, TIMEOUT);
        cluster.settle();
        let Some(&Ok(Outcome::Granted { lease, .. })) = cluster.answer(bad, granted) else {
            panic!("{:?}", cluster.answer(bad, granted));
        };
        assert_eq!(cluster.value(bad, "old3"), Some(Bytes::from_static(b"wrong")));
        assert!(fenced(&cluster).is_empty(), "nothing was compared yet");
        let waits = Ticket(1_000_000);
        let (revision, deadline) = (crate::base::Revision(500), cluster.now + TIMEOUT);
        cluster.event(bad, Event::WaitRevision { ticket: waits, revision, deadline });
        write_past_an_agreed_index(&mut cluster, good);

        assert_eq!(fenced(&cluster), [4]);
        let fence = cluster.replicas[&bad].status().fence.expect("it is fenced off");
        let right = cluster.replicas[&leader].status();
        assert!(right.digests_agreed == fence.index && fence.own != fence.expected);
        assert_eq!(cluster.answer(bad, waits), Some(&DIVERGED), "who waits is told");
        let promise = cluster.promise(bad, lease).expect("it had promised something");
        assert_eq!(promise.state, PromiseState::Lost, "what it promised is taken back");
        let view = cluster.replicas[&bad].shared_view();
        assert_eq!(view.read().expect("nobody panicked").fence, Some(fence));

        let read = cluster.read(bad, TIMEOUT);
        let write = cluster.submit(bad, put("x", "v"), TIMEOUT);
        let kept = cluster.keepalive(bad, lease, TIMEOUT);
        let applied = cluster.replicas[&bad].status().applied;
        let others = cluster.submit(good, put("y", "v"), TIMEOUT);
        cluster.advance(Span::from_secs(2));
        for ticket in [read, write, kept] {
            assert_eq!(cluster.answer(bad, ticket), Some(&DIVERGED));
        }
        assert!(matches!(cluster.answer(good, others), Some(Ok(_))));
        assert_eq!(cluster.value(good, "x"), None, "a refused write is not applied");
        let status = cluster.replicas[&bad].status();
        assert_eq!(status.applied, applied, "it applies nothing more");
        assert!(!status.ready && status.persisted > applied, "and takes part in the log");
    }
}

#[test]
fn a_fenced_voter_still_makes_a_quorum() {
    let (mut cluster, leader, bad) = with_a_bad_follower(&options());
    write_past_an_agreed_index(&mut cluster, leader);
    assert_eq!(fenced(&cluster), [bad.get()]);
    let other = NodeId(6 - leader.get() - bad.get());
    cluster.isolate(other);
    let write = cluster.submit(leader, put("x", "v"), TIMEOUT);
    cluster.advance(Span::from_secs(2));
    assert!(matches!(cluster.answer(leader, write), Some(Ok(_))), "it acknowledges the log");
}

/// Two of three are there and differ: one of them is wrong, and nobody can say which.
#[test]
fn without_a_quorum_of_one_digest_nobody_is_fenced_off() {
    let mut cluster = cluster(3, &[], &[3]);
    let leader = cluster.elect();
    let other = if leader == NodeId(3) { NodeId(1) } else { NodeId(3) };
    let away = [1, 2, 3].map(NodeId).into_iter().find(|&node| node != leader && node != other);
    cluster.isolate(away.expect("there are three"));
    write_past_an_agreed_index(&mut cluster, leader);
    assert!(fenced(&cluster).is_empty());
    cluster.heal();
    cluster.advance(Span::from_secs(3));
    write_past_an_agreed_index(&mut cluster, leader);
    assert_eq!(fenced(&cluster), [3], "the next index finds it");
}

#[test]
fn words_that_are_late_repeated_or_of_nobody_change_nothing() {
    let mut cluster = cluster(3, &[], &[]);
    let leader = cluster.elect();
    write_past_an_agreed_index(&mut cluster, leader);
    let node = cluster.another_than(leader);
    let agreed = cluster.replicas[&leader].status().digests_agreed;
    assert!(agreed > Index(0));
    let wrong = |index| DigestReport { index, digest: 1 };
    // Not of the leader; of the leader about a state that this node never had, or does not
    // remember.
    let stranger = [1, 2, 3].map(NodeId).into_iter().find(|it| *it != leader && *it != node);
    let stranger = stranger.expect("there are three");
    for (from, index) in [
        (stranger, agreed),
        (leader, agreed.next()),
        (leader, Index(1_000 * EVERY)),
        (leader, Index(0)),
    ] {
        let message = PeerMessage::Diverged(wrong(index));
        cluster.event(node, Event::PeerMessage { from, message });
        cluster.settle();
        assert!(fenced(&cluster).is_empty(), "{from} about {index}");
    }
    // A leader that is told nonsense: about what is not committed, between two agreed indexes, by
    // nobody.
    for (from, index) in [
        (node, Index(1_000 * EVERY)),
        (node, agreed.next()),
        (NodeId(77), agreed),
        (NodeId(78), agreed),
    ] {
        for _ in 0..3 {
            let message = PeerMessage::Digest(wrong(index));
            cluster.event(leader, Event::PeerMessage { from, message });
        }
        cluster.settle();
        assert!(fenced(&cluster).is_empty(), "{from} about {index}");
    }
    // One voter's lie about itself fences nobody but, at most, itself; and it knows better.
    let message = PeerMessage::Digest(wrong(agreed));
    cluster.event(leader, Event::PeerMessage { from: node, message });
    cluster.settle();
    assert!(fenced(&cluster).is_empty(), "its own notes contradict");
}

/// The leader is the one that is astray: it learns that from the digests of the others, and they
/// have another leader.
#[test]
fn a_leader_that_went_astray_hands_over() {
    for astray in 1..=3 {
        let mut cluster = cluster(3, &[], &[astray]);
        let leader = cluster.elect();
        if leader != NodeId(astray) {
            continue;
        }
        let other = cluster.another_than(leader);
        let term = cluster.replicas[&leader].raft().term();
        write_past_an_agreed_index(&mut cluster, other);
        assert_eq!(fenced(&cluster), [astray]);
        let next = cluster.leader().expect("there is another");
        assert!(next != leader, "a fenced node must not lead");
        assert_eq!(cluster.replicas[&next].raft().term(), term.next(), "without a contest");
        assert_eq!(cluster.replicas[&leader].raft().role(), Role::Follower);
        let write = cluster.submit(other, put("x", "v"), TIMEOUT);
        cluster.settle();
        assert!(matches!(cluster.answer(other, write), Some(Ok(_))));
        return;
    }
    panic!("no leader was astray");
}

/// A rebuilt node takes the leader's saved state, older than its own log, and ends; what its disk
/// then holds makes the right state.
#[test]
fn a_fenced_node_is_rebuilt_from_the_leaders_saved_state() {
    let options = Options { save_after_entries: 8, ..options() };
    let (mut cluster, leader, bad) = with_a_bad_follower(&options);
    cluster.event(bad, Event::Rebuild);
    write_past_an_agreed_index(&mut cluster, leader);
    assert_eq!(fenced(&cluster), [bad.get()], "who is not fenced off is not rebuilt");
    cluster.event(bad, Event::Rebuild);
    cluster.fatal_is_expected = true;
    cluster.advance(Span::from_secs(10));
    assert!(fenced(&cluster).is_empty(), "{:?}", cluster.ended);
    let ended = cluster.ended.get(&bad).expect("it ends, to be started again");
    assert!(ended.contains("was rebuilt"), "{ended}");
    let (store, _) = cluster.stores.get(&bad).expect("each node has one");
    let point = store.installed().expect("it was installed").index;
    let state = store.snapshot().expect("the disk is sound").expect("there is a state");
    assert_eq!(state.meta().applied_index, point);
    assert!(point <= cluster.replicas[&bad].raft().commit(), "its log goes on from there");
}
