//! Whole-node scenarios: what callers are told when leaders change, messages are lost and hosts
//! vanish.

use crate::base::{LeaseId, NodeId, Span};
use crate::replica::cluster_test::{Cluster, lease, lock, put};
use crate::replica::{Event, PromiseState, RequestError};
use crate::state::{Bind, Operation, Outcome, Refusal};

const TIMEOUT: Span = Span::from_secs(5);

fn granted(answer: Option<&Result<Outcome, RequestError>>) -> LeaseId {
    match answer {
        Some(Ok(Outcome::Granted { lease, .. } | Outcome::Acquired { lease, .. })) => *lease,
        other => panic!("no lease was granted: {other:?}"),
    }
}

fn held(answer: Option<&Result<Outcome, RequestError>>) -> Option<bool> {
    match answer {
        Some(Ok(Outcome::Acquired { ahead, .. })) => Some(*ahead == 0),
        _ => None,
    }
}

#[test]
fn a_write_through_any_node_is_answered_when_that_node_shows_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for node in [NodeId(1), NodeId(2), NodeId(3)] {
        let ticket = cluster.submit(node, put("k", &node.to_string()), TIMEOUT);
        cluster.settle();
        assert!(matches!(cluster.answer(node, ticket), Some(Ok(Outcome::Put { .. }))));
        assert_eq!(cluster.value(node, "k").as_deref(), Some(node.to_string().as_bytes()));
    }
    assert!(cluster.replicas[&leader].status().ready);
}

#[test]
fn a_request_in_flight_at_a_change_of_leader_is_applied_once() {
    // The forwarded request reaches the old leader and its log, but the old leader is cut off
    // before anyone hears of it; the new leader gets the request again under the same number. When
    // the old leader's entry is gone, one is left; when it survived, the second is dropped by its
    // number.
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    cluster.isolate(leader);
    cluster.cut.remove(&(node, leader));
    let ticket = cluster.submit(node, put("k", "1"), TIMEOUT);
    cluster.settle();
    assert_eq!(cluster.answer(node, ticket), None);
    cluster.isolate(leader);
    cluster.advance(Span::from_secs(4));
    assert!(matches!(cluster.answer(node, ticket), Some(Ok(Outcome::Put { version: 1, .. }))));
    cluster.heal();
    cluster.advance(Span::from_secs(2));
    let digest = |cluster: &Cluster, node: NodeId| {
        let view = cluster.replicas[&node].shared_view();
        let view = view.read().expect("no test panics while it reads");
        (view.machine.revision(), view.machine.digest())
    };
    assert_eq!(digest(&cluster, leader), digest(&cluster, node));
}

#[test]
fn without_a_leader_a_write_is_certainly_not_applied() {
    let mut cluster = Cluster::new(3);
    let ticket = cluster.submit(NodeId(1), put("k", "1"), Span::from_millis(100));
    cluster.advance(Span::from_millis(200));
    assert_eq!(cluster.answer(NodeId(1), ticket), Some(&Err(RequestError::NoLeader)));
    cluster.elect();
    assert_eq!(cluster.value(NodeId(1), "k"), None, "what was refused must not be applied later");
}

#[test]
fn a_write_handed_to_a_leader_that_vanishes_is_unknown_when_nobody_takes_over() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    cluster.isolate(leader);
    cluster.isolate(node);
    cluster.cut.remove(&(node, leader));
    let ticket = cluster.submit(node, put("k", "1"), Span::from_secs(2));
    cluster.advance(Span::from_secs(3));
    assert_eq!(cluster.answer(node, ticket), Some(&Err(RequestError::OutcomeUnknown)));
}

#[test]
fn a_deposed_leader_answers_no_linearizable_read() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.isolate(old);
    let early = cluster.read(old, Span::from_secs(2));
    cluster.settle();
    assert_eq!(cluster.answer(old, early), None, "no quorum has confirmed it");
    cluster.advance(Span::from_secs(3));
    let node = cluster.another_than(old);
    let write = cluster.submit(node, put("k", "2"), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, write), Some(Ok(_))));
    assert!(matches!(cluster.answer(old, early), Some(Err(_))));
    let late = cluster.read(old, Span::from_secs(2));
    cluster.advance(Span::from_secs(3));
    assert_eq!(cluster.answer(old, late), Some(&Err(RequestError::NoLeader)));
}

#[test]
fn a_lock_that_nobody_knows_he_holds_is_let_go() {
    // The leader cannot reach its followers for a moment; the caller is told "unknown" meanwhile,
    // and then the entry commits after all. Its lease is bound to a connection that has been
    // answered, so that nothing would ever end it, and the host would keep it alive for ever.
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    cluster.isolate(leader);
    cluster.cut.remove(&(node, leader));
    let ttl = Span::from_secs(4);
    let lost = cluster.submit(node, lock("l", ttl), Span::from_millis(300));
    cluster.advance(Span::from_millis(400));
    assert_eq!(cluster.answer(node, lost), Some(&Err(RequestError::OutcomeUnknown)));
    cluster.heal();
    cluster.advance(Span::from_secs(1));
    assert_eq!(cluster.leader(), Some(leader), "its entry must be the one that commits");
    let next = cluster.submit(leader, lock("l", ttl), TIMEOUT);
    cluster.settle();
    assert_eq!(held(cluster.answer(leader, next)), Some(true));
}

#[test]
fn a_lock_passes_to_the_next_when_its_holder_is_told_lost_first() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let (first, second) = {
        let mut others = cluster.replicas.keys().copied().filter(|&node| node != leader);
        (others.next().expect("three"), others.next().expect("three"))
    };
    let ttl = Span::from_secs(4);
    let holder = cluster.submit(first, lock("l", ttl), TIMEOUT);
    cluster.settle();
    assert_eq!(held(cluster.answer(first, holder)), Some(true));
    let lease = granted(cluster.answer(first, holder));
    let waiter = cluster.submit(second, lock("l", ttl), TIMEOUT);
    cluster.settle();
    assert_eq!(held(cluster.answer(second, waiter)), Some(false));
    // For a long time the daemon keeps it alive.
    cluster.advance(Span::from_secs(30));
    let promise = cluster.promise(first, lease).expect("it was granted here");
    assert_eq!(promise.state, PromiseState::Active);
    // Then its host is cut off.
    cluster.isolate(first);
    let mut lost_at = None;
    let mut free_at = None;
    for _ in 0..100 {
        cluster.advance(Span::from_millis(100));
        let state = cluster.promise(first, lease).map(|promise| promise.state);
        if state == Some(PromiseState::Lost) {
            lost_at = lost_at.or(Some(cluster.now));
        }
        let view = cluster.replicas[&second].shared_view();
        if view.read().expect("no panic").machine.lease(lease).is_none() {
            free_at = free_at.or(Some(cluster.now));
        }
    }
    let (lost_at, free_at) = (lost_at.expect("told"), free_at.expect("freed"));
    assert!(lost_at < free_at, "told lost at {lost_at}, free for others at {free_at}");
}

#[test]
fn a_keepalive_that_a_paused_leader_has_not_confirmed_promises_nothing() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    let ttl = Span::from_secs(10);
    let grant = cluster.submit(node, Operation::GrantLease(lease(ttl, Bind::None)), TIMEOUT);
    cluster.settle();
    let lease = granted(cluster.answer(node, grant));
    cluster.isolate(leader);
    cluster.cut.remove(&(node, leader));
    cluster.cut.remove(&(leader, node));
    // The leader still hears this node, and no quorum without the third: two of three are one.
    let kept = cluster.keepalive(node, lease, TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, kept), Some(Ok(Outcome::Done { .. }))));
    cluster.isolate(leader);
    let before = cluster.promise(node, lease).expect("kept here").valid_for;
    let unconfirmed = cluster.keepalive(leader, lease, Span::from_secs(1));
    cluster.advance(Span::from_millis(500));
    assert_eq!(cluster.answer(leader, unconfirmed), None, "no quorum confirmed it");
    assert_eq!(cluster.promise(leader, lease), None);
    let after = cluster.promise(node, lease).expect("kept here").valid_for;
    assert!(after < before, "time passed and nothing was confirmed");
}

#[test]
fn a_lease_that_nobody_keeps_ends_once_after_its_time_and_not_before() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let grant = Operation::GrantLease(lease(Span::from_secs(5), Bind::None));
    let ticket = cluster.submit(leader, grant, TIMEOUT);
    cluster.settle();
    let lease = granted(cluster.answer(leader, ticket));
    cluster.advance(Span::from_millis(4_990));
    let gone = cluster.keepalive(leader, lease, TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(leader, gone), Some(Ok(Outcome::Done { .. }))), "alive");
    cluster.advance(Span::from_millis(5_001));
    let gone = cluster.keepalive(leader, lease, TIMEOUT);
    cluster.settle();
    let refused = Outcome::Refused(Refusal::LeaseNotFound { lease });
    assert_eq!(cluster.answer(leader, gone), Some(&Ok(refused)));
}

#[test]
fn a_new_leader_gives_every_lease_its_full_time_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    let grant = Operation::GrantLease(lease(Span::from_secs(5), Bind::None));
    let ticket = cluster.submit(node, grant, TIMEOUT);
    cluster.settle();
    let lease = granted(cluster.answer(node, ticket));
    cluster.advance(Span::from_secs(4));
    cluster.isolate(leader);
    // Check-quorum and an election take less than three seconds; the lease was four old.
    cluster.advance(Span::from_secs(3));
    let kept = cluster.keepalive(node, lease, TIMEOUT);
    cluster.advance(Span::from_millis(100));
    assert!(matches!(cluster.answer(node, kept), Some(Ok(Outcome::Done { .. }))));
    cluster.heal();
    cluster.advance(Span::from_secs(1));
    let view = cluster.replicas[&leader].shared_view();
    assert!(view.read().expect("no panic").machine.lease(lease).is_some(), "the old one ended it");
}

#[test]
fn a_full_disk_of_the_leader_refuses_writes_and_serves_reads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    cluster.event(leader, Event::Disk { full: true });
    let write = cluster.submit(node, put("k", "1"), TIMEOUT);
    let read = cluster.read(node, TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, write), Some(Err(RequestError::Unavailable(_)))));
    assert!(matches!(cluster.answer(node, read), Some(Ok(_))));
    cluster.event(leader, Event::Disk { full: false });
    let write = cluster.submit(node, put("k", "1"), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, write), Some(Ok(_))), "space freed, service restored");
}

/// The disks of a cluster do not become low at one moment: what a leader still accepted must reach
/// the readers of a node whose disk is low already.
#[test]
fn a_low_disk_refuses_writes_as_a_leader_and_takes_them_as_a_follower() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    cluster.event(node, Event::DiskLow { low: true });
    let write = cluster.submit(leader, put("k", "1"), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(leader, write), Some(Ok(_))));
    let read = cluster.read(node, TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, read), Some(Ok(_))), "it has what was written");
    cluster.event(leader, Event::DiskLow { low: true });
    let write = cluster.submit(leader, put("k", "2"), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(leader, write), Some(Err(RequestError::Unavailable(_)))));
    cluster.event(leader, Event::DiskLow { low: false });
    let write = cluster.submit(leader, put("k", "2"), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(leader, write), Some(Ok(_))), "space freed, service restored");
}

#[test]
fn a_draining_node_refuses_new_requests_and_answers_those_under_way() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let node = cluster.another_than(leader);
    let before = cluster.submit(node, put("k", "1"), TIMEOUT);
    cluster.event(node, Event::Drain);
    let after = cluster.submit(node, put("k", "2"), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, before), Some(Ok(_))));
    assert!(matches!(cluster.answer(node, after), Some(Err(RequestError::Unavailable(_)))));
}
