//! A member that the log cannot help gets a snapshot: what its readers, watchers, holders and
//! callers see, and every way in which the transfer is cut short.

use bytes::Bytes;

use crate::base::{Index, NodeId, Revision, Rng, Span};
use crate::raft::ProgressState;
use crate::replica::cluster_test::{Cluster, lease, lock, put};
use crate::replica::{
    Event, Options, RequestError, SnapshotDone, SnapshotJob, SnapshotPhase, SnapshotStatus,
};
use crate::state::{Bind, IdempotencyKey, Operation, Outcome};
use crate::watch::{Cursor, Delivery, Filter, WatchRequest};
use crate::wire::{PeerMessage, SnapshotMessage, SnapshotRefusal};

const TIMEOUT: Span = Span::from_secs(60);
const SECOND: Span = Span::from_secs(1);

fn options() -> Options {
    Options {
        log_retained_entries: 20,
        cut_entries_min: 4,
        save_after_entries: 10,
        save_interval: SECOND,
        ..Options::default()
    }
}

/// A cluster of three, its leader, and a follower that is cut off from the others.
fn with_one_cut_off() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::with(3, &options());
    let leader = cluster.elect();
    let behind = cluster.another_than(leader);
    write(&mut cluster, leader, 0..5);
    cluster.advance(SECOND);
    cluster.isolate(behind);
    (cluster, leader, behind)
}

fn write(cluster: &mut Cluster, node: NodeId, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let key = format!("k{}", number % 7);
        let ticket = cluster.submit(node, put(&key, &number.to_string()), TIMEOUT);
        cluster.settle();
        assert!(matches!(cluster.answer(node, ticket), Some(Ok(_))), "write {number}");
    }
}

/// Writes past what is retained: the member that is cut off cannot be helped by the log any more.
fn write_past(cluster: &mut Cluster, leader: NodeId) {
    for first in [100, 200, 300] {
        write(cluster, leader, first..first + 40);
        cluster.advance(SECOND + SECOND);
    }
}

fn snapshots(cluster: &Cluster, node: NodeId) -> Vec<SnapshotStatus> {
    cluster.replicas[&node].status().snapshots
}

fn same_state(cluster: &Cluster) {
    let of = |node: NodeId| {
        let view = cluster.replicas[&node].shared_view();
        let view = view.read().expect("no test panics while it reads");
        (view.machine.applied_index(), view.machine.digest(), view.history.newest())
    };
    let nodes: Vec<NodeId> = cluster.replicas.keys().copied().collect();
    for node in &nodes {
        assert_eq!(of(*node), of(nodes[0]), "n{node}");
    }
}

fn installs(cluster: &Cluster, node: NodeId) -> bool {
    cluster.installed.contains_key(&node)
}

#[test]
fn a_member_behind_the_cut_log_catches_up_by_a_snapshot() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    let status = cluster.replicas[&leader].raft().status();
    assert!(status.first_index > Index(60), "the log is cut behind it: {}", status.first_index);
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert!(installs(&cluster, behind));
    same_state(&cluster);
    // And it goes on as an ordinary follower.
    write(&mut cluster, behind, 400..410);
    cluster.advance(SECOND);
    same_state(&cluster);
    let status = cluster.replicas[&leader].raft().status();
    assert_eq!(status.progress[&behind].state, ProgressState::Replicate);
    assert!(snapshots(&cluster, leader).is_empty() && snapshots(&cluster, behind).is_empty());
    // Its own saves go on from the installed state.
    write_past(&mut cluster, leader);
    assert!(cluster.replicas[&behind].status().saved > Index(200));
}

#[test]
fn log_that_is_kept_for_a_member_is_bounded() {
    let (mut cluster, leader, _) = with_one_cut_off();
    write_past(&mut cluster, leader);
    for node in cluster.replicas.keys() {
        let status = cluster.replicas[node].raft().status();
        let held = status.last_index.since(status.first_index.previous());
        // What is retained, what was not saved yet, and what a cut needs to be worth while.
        assert!(held <= 20 + 10 + 4 + 40, "n{node} holds {held} entries");
    }
}

#[test]
fn watchers_go_on_from_the_installed_history_or_are_told() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    let watch = |cluster: &Cluster, after: u64| {
        let view = cluster.replicas[&behind].shared_view();
        let view = view.read().expect("no test panics while it reads");
        let request = WatchRequest {
            filter: Filter::Prefix(Bytes::from_static(b"k")),
            from: None,
            initial: false,
            previous: false,
            resume_after: Some(Revision(after)),
            epoch: None,
        };
        Cursor::open(request, &view.history, &view.machine).expect("it is in the history")
    };
    let mut cursor = watch(&cluster, 1);
    let read = |cluster: &Cluster, cursor: &mut Cursor| {
        let view = cluster.replicas[&behind].shared_view();
        let view = view.read().expect("no test panics while it reads");
        let mut seen = Vec::new();
        loop {
            match cursor.next(&view.history, &view.machine, 1 << 20) {
                Delivery::Idle => return seen,
                Delivery::Changes { events, .. } => seen.push(events.revision.get()),
                Delivery::Synced { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let mut seen = read(&cluster, &mut cursor);
    write_past(&mut cluster, leader);
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert!(installs(&cluster, behind));
    seen.extend(read(&cluster, &mut cursor));
    write(&mut cluster, leader, 400..405);
    seen.extend(read(&cluster, &mut cursor));
    let newest = cluster.installed[&behind].get() + 5;
    assert_eq!(seen, (2..=newest).collect::<Vec<_>>(), "each revision once, in order");
}

#[test]
fn requests_in_the_skipped_range_are_answered_at_once() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    cluster.cut.remove(&(behind, leader));
    // They reach the leader and its log; their node never hears of it.
    let key = IdempotencyKey { uid: 0, key: "named".to_owned() };
    let plain = cluster.submit(behind, put("a", "1"), TIMEOUT);
    let named = cluster.submit_as(behind, put("b", "1"), Some(key), TIMEOUT);
    let granted = Operation::GrantLease(lease(TIMEOUT, Bind::Connection));
    let granted = cluster.submit(behind, granted, TIMEOUT);
    cluster.settle();
    cluster.isolate(behind);
    write_past(&mut cluster, leader);
    assert_eq!(cluster.answer(behind, plain), None);
    let leases = |cluster: &Cluster| {
        let view = cluster.replicas[&leader].shared_view();
        let view = view.read().expect("no test panics while it reads");
        view.machine.leases().filter(|lease| lease.bind == Bind::Connection).count()
    };
    assert_eq!(leases(&cluster), 1);
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert!(installs(&cluster, behind));
    assert_eq!(cluster.answer(behind, plain), Some(&Err(RequestError::OutcomeUnknown)));
    let named = cluster.answer(behind, named);
    assert!(matches!(named, Some(Ok(Outcome::Put { version: 1, .. }))), "{named:?}");
    assert_eq!(cluster.answer(behind, granted), Some(&Err(RequestError::OutcomeUnknown)));
    assert_eq!(leases(&cluster), 0, "nobody knows of the lease: it is revoked");
    let view = cluster.replicas[&behind].shared_view();
    let view = view.read().expect("no test panics while it reads");
    let record = view.machine.get(b"a", None).expect("the present is readable");
    assert_eq!(record.expect("it is there").version, 1, "it was applied once");
    assert_eq!(cluster.replicas[&behind].status().pending, 0);
}

#[test]
fn promises_about_leases_that_ended_meanwhile_end() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    cluster.heal();
    let ticket = cluster.submit(behind, lock("l", Span::from_secs(4)), TIMEOUT);
    cluster.advance(SECOND);
    let lease = match cluster.answer(behind, ticket) {
        Some(Ok(Outcome::Acquired { lease, .. })) => *lease,
        other => panic!("{other:?}"),
    };
    assert!(cluster.promise(behind, lease).is_some());
    cluster.isolate(behind);
    write_past(&mut cluster, leader);
    cluster.advance(Span::from_secs(6));
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert!(installs(&cluster, behind));
    assert_eq!(cluster.promise(behind, lease), None, "the lease is gone, and its promise");
    let again = cluster.submit(behind, lock("l", Span::from_secs(4)), TIMEOUT);
    cluster.advance(SECOND);
    let again = cluster.answer(behind, again);
    assert!(matches!(again, Some(Ok(Outcome::Acquired { ahead: 0, .. }))), "{again:?}");
}

#[test]
fn reads_that_wait_are_served_from_the_installed_state() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    let linearizable = cluster.read(behind, TIMEOUT);
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert!(installs(&cluster, behind));
    assert!(matches!(cluster.answer(behind, linearizable), Some(Ok(_))));
}

/// Chunks, offers and answers that are lost cost time and nothing else.
#[test]
fn a_transfer_goes_on_after_losses() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let (mut cluster, leader, behind) = with_one_cut_off();
    for number in 0..6 {
        let value = "v".repeat(200_000);
        let ticket = cluster.submit(leader, put(&format!("big{number}"), &value), TIMEOUT);
        cluster.settle();
        assert!(matches!(cluster.answer(leader, ticket), Some(Ok(_))));
    }
    write_past(&mut cluster, leader);
    cluster.lose = |message| {
        // Not every third: the pattern would fall in step with that of the messages.
        matches!(message, PeerMessage::Snapshot(_))
            && Rng::new(SEEN.fetch_add(1, Ordering::Relaxed)).chance(1, 3)
    };
    cluster.heal();
    cluster.advance(Span::from_secs(60));
    assert!(installs(&cluster, behind), "{:?}", snapshots(&cluster, leader));
    assert!(SEEN.load(Ordering::Relaxed) > 10);
    same_state(&cluster);
}

#[test]
fn what_arrives_spoilt_is_refused_and_said_on_both_sides() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    cluster.hold_jobs = true;
    cluster.heal();
    // The reading of a chunk is reported with a byte turned over.
    for _ in 0..20 {
        cluster.advance(Span::from_millis(200));
        while let Some((node, job)) = cluster.held_jobs.pop_front() {
            let (store, desk) = cluster.stores.get_mut(&node).expect("each node has one");
            let mut done = desk.perform(store, &job).expect("the disk is sound");
            if let Some(SnapshotDone::Read { chunk: Some(chunk), .. }) = &mut done {
                chunk.rows[0].value = Bytes::from_static(b"spoilt");
            }
            if let Some(done) = done {
                cluster.event(node, Event::Snapshot(done));
            }
        }
    }
    assert!(!installs(&cluster, behind));
    let refused = |cluster: &Cluster, node| {
        snapshots(cluster, node).iter().any(|it| it.refusal == Some(SnapshotRefusal::Checksum))
    };
    assert!(refused(&cluster, leader) && refused(&cluster, behind));
    cluster.release_jobs();
    cluster.advance(Span::from_secs(10));
    assert!(installs(&cluster, behind), "it is tried again");
    same_state(&cluster);
}

#[test]
fn a_state_other_than_the_announced_one_is_refused() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    cluster.hold_jobs = true;
    cluster.heal();
    let mut refused = false;
    for _ in 0..20 {
        cluster.advance(Span::from_millis(200));
        while let Some((node, mut job)) = cluster.held_jobs.pop_front() {
            if let SnapshotJob::Install { offer, .. } = &mut job {
                offer.digest ^= 1;
            }
            let (store, desk) = cluster.stores.get_mut(&node).expect("each node has one");
            let done = desk.perform(store, &job).expect("the disk is sound");
            refused |= matches!(
                done,
                Some(SnapshotDone::Installed { result: Err(SnapshotRefusal::Digest), .. })
            );
            if let Some(done) = done {
                cluster.event(node, Event::Snapshot(done));
            }
        }
    }
    assert!(refused && !installs(&cluster, behind));
    assert_eq!(cluster.replicas[&behind].status().snapshots[0].phase, SnapshotPhase::Failed);
}

#[test]
fn a_leader_that_is_deposed_in_the_middle_is_replaced_by_the_next() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    cluster.hold_jobs = true;
    cluster.heal();
    cluster.advance(Span::from_millis(500));
    assert!(!cluster.held_jobs.is_empty(), "a snapshot was asked for");
    cluster.isolate(leader);
    cluster.advance(Span::from_secs(4));
    assert!(snapshots(&cluster, leader).is_empty(), "who does not lead sends nothing");
    cluster.release_jobs();
    cluster.advance(Span::from_secs(5));
    let next = cluster.leader().expect("two of three elect");
    assert!(next != leader && installs(&cluster, behind));
    cluster.heal();
    cluster.advance(Span::from_secs(3));
    same_state(&cluster);
}

/// The member takes nothing while the state is put in the place of its own, so that the log cannot
/// pass it; a save that was under way is waited for.
#[test]
fn nothing_is_appended_or_saved_while_a_state_is_installed() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    cluster.heal();
    for _ in 0..200 {
        cluster.hold_jobs = true;
        cluster.advance(Span::from_millis(20));
        let is_install = |job: &SnapshotJob| matches!(job, SnapshotJob::Install { .. });
        if cluster.held_jobs.iter().any(|(node, job)| *node == behind && is_install(job)) {
            break;
        }
        cluster.release_jobs();
    }
    assert!(!cluster.held_jobs.is_empty(), "the install waits");
    let before = cluster.replicas[&behind].raft().status();
    write_past(&mut cluster, leader);
    let after = cluster.replicas[&behind].raft().status();
    assert_eq!(before.last_index, after.last_index);
    assert_eq!(snapshots(&cluster, behind)[0].phase, SnapshotPhase::Installing);
    cluster.release_jobs();
    cluster.advance(Span::from_secs(8));
    assert!(installs(&cluster, behind));
    same_state(&cluster);
}

#[test]
fn two_members_at_a_time_are_served_and_the_others_wait() {
    let mut cluster = Cluster::with(7, &options());
    let leader = cluster.elect();
    let others: Vec<NodeId> =
        cluster.replicas.keys().copied().filter(|&node| node != leader).take(3).collect();
    write(&mut cluster, leader, 0..5);
    for node in &others {
        cluster.isolate(*node);
    }
    write_past(&mut cluster, leader);
    cluster.hold_jobs = true;
    cluster.heal();
    cluster.advance(SECOND);
    let phases: Vec<SnapshotPhase> =
        snapshots(&cluster, leader).iter().map(|it| it.phase).collect();
    let waiting = phases.iter().filter(|phase| **phase == SnapshotPhase::Waiting).count();
    assert_eq!((phases.len(), waiting), (3, 1), "{phases:?}");
    cluster.release_jobs();
    cluster.advance(Span::from_secs(10));
    assert!(others.iter().all(|node| installs(&cluster, *node)));
    same_state(&cluster);
}

#[test]
fn bytes_are_paced() {
    let slow = Options { snapshot_bytes_per_second: 100_000, ..options() };
    let mut cluster = Cluster::with(3, &slow);
    let leader = cluster.elect();
    let behind = cluster.another_than(leader);
    cluster.isolate(behind);
    for number in 0..5 {
        let ticket =
            cluster.submit(leader, put(&format!("b{number}"), &"v".repeat(200_000)), TIMEOUT);
        cluster.settle();
        assert!(matches!(cluster.answer(leader, ticket), Some(Ok(_))));
    }
    write_past(&mut cluster, leader);
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert!(!installs(&cluster, behind), "a megabyte takes ten seconds");
    let status = snapshots(&cluster, leader)[0];
    assert!(status.rows_done > 0 && status.rows_done < status.rows, "{status:?}");
    cluster.advance(Span::from_secs(10));
    assert!(installs(&cluster, behind));
}

#[test]
fn an_answer_of_another_snapshot_changes_nothing() {
    let (mut cluster, leader, behind) = with_one_cut_off();
    write_past(&mut cluster, leader);
    cluster.hold_jobs = true;
    cluster.heal();
    cluster.advance(SECOND);
    let before = snapshots(&cluster, leader);
    for message in [
        SnapshotMessage::Progress { id: 1, next: 9, done: true },
        SnapshotMessage::Refused { id: 1, reason: SnapshotRefusal::DiskFull },
    ] {
        let message = PeerMessage::Snapshot(message);
        cluster.event(leader, Event::PeerMessage { from: behind, message });
    }
    cluster.settle();
    assert_eq!(snapshots(&cluster, leader), before);
}
