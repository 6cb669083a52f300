//! Whole-node scenarios: what callers are told when leaders change, messages are lost and hosts
//! vanish.

use crate::base::{Index, Instant, LeaseId, NodeId, Rng, Span, Term};
use crate::raft::{Entry, HardState, Payload};
use crate::replica::cluster_test::{Cluster, blank_log, lease, lock, put};
use crate::replica::{Action, Event, Options, PromiseState, Recovery, Replica, RequestError};
use crate::state::{Bind, IdempotencyKey, Operation, Outcome, Refusal};

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
    // With room on another disk the lead would go there.
    let nodes: Vec<NodeId> = cluster.replicas.keys().copied().filter(|&it| it != leader).collect();
    for other in nodes {
        cluster.event(other, Event::DiskLow { low: true });
    }
    cluster.settle();
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

fn has_lease(cluster: &Cluster, node: NodeId, lease: LeaseId) -> bool {
    let view = cluster.replicas[&node].shared_view();
    let view = view.read().expect("no test panics while it reads");
    view.machine.lease(lease).is_some()
}

#[test]
fn a_compaction_that_cannot_be_applied_is_asked_for_once() {
    let options = Options { history_revisions: 10, ..Options::default() };
    let mut cluster = Cluster::with(3, &options);
    let leader = cluster.elect();
    // The leader looks after the first write, and not again at the same instant.
    for writes in [1, 30] {
        for number in 0..writes {
            cluster.submit(leader, put("k", &number.to_string()), TIMEOUT);
        }
        cluster.settle();
    }
    cluster.event(leader, Event::Disk { full: true });
    cluster.advance(Span::from_secs(10));
    let pending = cluster.replicas[&leader].status().pending;
    assert!(pending <= 1, "{pending} requests wait, all of them for the same compaction");
    cluster.event(leader, Event::Disk { full: false });
    cluster.advance(Span::from_secs(2));
    let view = cluster.replicas[&leader].shared_view();
    let view = view.read().expect("no panic");
    let kept = view.machine.revision().get() - view.machine.compact_revision().get();
    assert_eq!(kept, 10, "space freed, history forgotten");
}

#[test]
fn a_lease_is_not_called_gone_by_a_node_that_has_not_heard_of_it_yet() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let (late, ttl) = (cluster.another_than(leader), Span::from_secs(10));
    cluster.paused.insert(late);
    let grant = Operation::GrantLease(lease(ttl, Bind::None));
    let ticket = cluster.submit(leader, grant, TIMEOUT);
    cluster.settle();
    let lease = granted(cluster.answer(leader, ticket));
    cluster.paused.remove(&late);
    // The leader's answer comes before the entries that the node lacks.
    let kept = cluster.keepalive(late, lease, TIMEOUT);
    cluster.settle();
    let told = cluster.answer(late, kept).is_some();
    assert_eq!(told, cluster.promise(late, lease).is_some(), "told alive, and for how long");
    cluster.advance(Span::from_secs(1));
    assert!(matches!(cluster.answer(late, kept), Some(Ok(Outcome::Done { .. }))));
    assert!(cluster.promise(late, lease).is_some(), "confirmed through this node");
}

#[test]
fn a_retry_under_its_key_through_another_node_repeats_the_answer_even_when_the_store_is_full() {
    let options = Options { store_bytes_max: 500, ..Options::default() };
    let mut cluster = Cluster::with(3, &options);
    let leader = cluster.elect();
    let other = cluster.another_than(leader);
    let key = || Some(IdempotencyKey { uid: 0, key: "once".to_owned() });
    let value = "v".repeat(1_000);
    let first = cluster.submit_as(leader, put("k", &value), key(), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(leader, first), Some(Ok(Outcome::Put { version: 1, .. }))));
    let fresh = cluster.submit(other, put("k", &value), TIMEOUT);
    let again = cluster.submit_as(other, put("k", &value), key(), TIMEOUT);
    cluster.settle();
    assert_eq!(cluster.answer(other, fresh), Some(&Err(RequestError::QuotaExceeded)));
    assert_eq!(cluster.answer(other, again), cluster.answer(leader, first), "applied once");
}

#[test]
fn a_lease_renewed_through_one_node_is_ended_by_the_next_leader_after_its_promise() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let node = cluster.another_than(old);
    let ttl = Span::from_secs(8);
    let grant = Operation::GrantLease(lease(ttl, Bind::None));
    let ticket = cluster.submit(old, grant, TIMEOUT);
    cluster.settle();
    let lease = granted(cluster.answer(old, ticket));
    cluster.advance(Span::from_secs(7));
    let kept = cluster.keepalive(node, lease, TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(node, kept), Some(Ok(Outcome::Done { .. }))));
    cluster.isolate(old);
    let mut lost_at = None;
    let mut gone_at = None;
    for _ in 0..150 {
        cluster.advance(Span::from_millis(100));
        let promise = cluster.promise(node, lease);
        if promise.is_some_and(|promise| promise.state == PromiseState::Lost) {
            lost_at = lost_at.or(Some(cluster.now));
        }
        assert!(has_lease(&cluster, old, lease), "a leader without a quorum ended a lease");
        if !has_lease(&cluster, node, lease) {
            gone_at = gone_at.or(Some(cluster.now));
        }
    }
    let (lost_at, gone_at) = (lost_at.expect("told"), gone_at.expect("ended"));
    assert!(lost_at < gone_at, "told lost at {lost_at}, gone at {gone_at}");
    cluster.heal();
    cluster.advance(Span::from_secs(2));
    assert!(!has_lease(&cluster, old, lease), "the old leader learns of it");
}

#[test]
fn a_read_through_a_follower_while_the_leader_changes_sees_what_the_next_leader_committed() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let mut others = cluster.replicas.keys().copied().filter(|&node| node != old);
    let (reader, writer) = (others.next().expect("three"), others.next().expect("three"));
    // The old leader gets the question, and nobody hears the old leader.
    cluster.cut.extend([(old, reader), (old, writer), (writer, old)]);
    let read = cluster.read(reader, TIMEOUT);
    cluster.settle();
    assert_eq!(cluster.answer(reader, read), None, "nothing confirms the old leader");
    let mut before = cluster.now;
    let write = cluster.submit(writer, put("k", "new"), TIMEOUT);
    while cluster.answer(writer, write).is_none() {
        cluster.advance(Span::from_millis(10));
        assert!(cluster.now.since(before) < TIMEOUT, "two of three elect and commit");
    }
    before = cluster.now;
    let late = cluster.read(reader, TIMEOUT);
    // The old leader's answers, if it has any, come now.
    cluster.heal();
    while cluster.answer(reader, late).is_none() {
        cluster.advance(Span::from_millis(10));
        assert!(cluster.now.since(before) < TIMEOUT, "there is a leader");
    }
    assert!(matches!(cluster.answer(reader, late), Some(Ok(_))));
    assert_eq!(cluster.value(reader, "k").as_deref(), Some(b"new".as_slice()));
    assert!(matches!(cluster.answer(reader, read), Some(Ok(_))), "asked again of the new leader");
}

#[test]
fn a_refusal_does_not_speak_for_an_earlier_attempt() {
    let options = Options { store_bytes_max: 500, ..Options::default() };
    let mut cluster = Cluster::with(5, &options);
    let old = cluster.elect();
    let node = cluster.another_than(old);
    // The old leader takes the request into its log and can tell nobody.
    cluster.isolate(old);
    cluster.isolate(node);
    cluster.cut.remove(&(node, old));
    let request = cluster.submit(node, put("k", "1"), Span::from_secs(20));
    cluster.settle();
    cluster.isolate(old);
    cluster.advance(Span::from_secs(4));
    let new = cluster.leader().expect("three of five elect");
    assert!(new != old && new != node, "{new} leads");
    let fill = cluster.submit(new, put("big", &"v".repeat(1_000)), TIMEOUT);
    cluster.settle();
    assert!(matches!(cluster.answer(new, fill), Some(Ok(_))));
    // The node finds the new leader, which has no space for it.
    cluster.heal();
    cluster.isolate(old);
    cluster.advance(Span::from_secs(4));
    assert_eq!(cluster.answer(node, request), None, "the first attempt may still be applied");
    cluster.advance(Span::from_secs(20));
    assert_eq!(cluster.answer(node, request), Some(&Err(RequestError::OutcomeUnknown)));
    let refused = cluster.submit(node, put("k", "2"), TIMEOUT);
    cluster.settle();
    assert_eq!(cluster.answer(node, refused), Some(&Err(RequestError::QuotaExceeded)));
}

#[test]
fn an_entry_of_a_newer_version_stops_the_node_with_a_sentence_and_applies_nothing_after_it() {
    let mut log = blank_log(NodeId(1), 1);
    let entry = |index, payload| Entry { term: Term(1), index: Index(index), payload };
    log.entries = vec![
        entry(1, Payload::Command(bytes::Bytes::from_static(b"\xff\xff\xff"))),
        entry(2, Payload::Empty),
    ];
    log.hard_state = HardState { term: Term(1), vote: None, commit: Index(2) };
    let mut options = Options::default();
    // Each entry is handed out by itself.
    options.raft.inflight_bytes_max = 1;
    let recovery = Recovery { log, machine: None };
    let mut replica = Replica::recover(recovery, options, Rng::new(1), Instant::ZERO)
        .expect("the log is consistent");
    let wall = crate::base::WallMillis(1);
    let actions = replica.poll(crate::replica::Now { instant: Instant::ZERO, wall });
    let fatal =
        |action: &&Action| matches!(action, Action::Fatal(reason) if reason.contains("upgrade"));
    assert_eq!(actions.iter().filter(fatal).count(), 1);
    let view = replica.shared_view();
    let applied = view.read().expect("no panic").machine.applied_index();
    assert_eq!(applied, Index(0));
}
