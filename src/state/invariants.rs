//! What must hold of a whole state, checked by walking over all of it.
//!
//! Tests and the simulator call this after every step, release builds never: what `apply` can check
//! at the cost of the entry itself is asserted there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::{LeaseId, Revision, limits};
use crate::state::{
    Bind, Mode, QueueEntry, QueueKind, QueueName, QueueView, StateMachine, parse_queue_key,
};

use super::queue::place_of;

/// Checks everything that must hold of a state. Panics with what does not.
pub fn check(state: &StateMachine) {
    check_history(state);
    check_leases(state);
    check_queues(state);
    check_requests(state);
    check_outcomes(state);
    // On the second path: the rows alone make the same state, with the digest that was kept
    // running.
    match StateMachine::restore(state.all_rows()) {
        Ok(restored) => check_same(state, &restored),
        Err(error) => panic!("the rows of the state do not make a state: {error}"),
    }
}

/// Checks that two states are the same in all that follows from the log. Panics with what differs.
pub(super) fn check_same(a: &StateMachine, b: &StateMachine) {
    assert_eq!(a.meta(), b.meta(), "the counters differ");
    assert_eq!(a.leases, b.leases, "the leases differ");
    assert_eq!(a.queues, b.queues, "the queues differ");
    assert_eq!(a.requests, b.requests, "the requests differ");
    assert_eq!(a.idempotency, b.idempotency, "the idempotency keys differ");
    assert_eq!(a.changed, b.changed, "the changed keys differ");
    assert_eq!(a.keys, b.keys, "the keys differ");
    assert_eq!(a.digest, b.digest, "the digests differ");
}

fn check_history(state: &StateMachine) {
    let (compacted, newest) = (state.compact_revision, state.revision);
    assert!(newest >= Revision(1), "revision {newest} is before the empty store");
    assert!(compacted <= newest, "compacted to {compacted} beyond {newest}");
    let mut changed: BTreeMap<Revision, Vec<Bytes>> = BTreeMap::new();
    let (mut live, mut all) = (0, 0);
    for (key, history) in state.keys.all() {
        let mut last = None;
        for version in history.versions() {
            let revision = version.revision;
            assert!(last < Some(revision), "{key:?}: {revision} follows {last:?}");
            assert!(revision <= newest, "{key:?}: {revision} is after the last revision {newest}");
            if revision > compacted {
                changed.entry(revision).or_default().push(key.clone());
            } else {
                assert!(last.is_none(), "{key:?}: superseded at {revision}, compacted {compacted}");
                assert!(version.content.is_some(), "{key:?}: a tombstone at {revision} is kept");
            }
            all += key.len() + version.content.as_ref().map_or(0, |content| content.value.len());
            last = Some(revision);
        }
        if let Some(content) = &history.newest().content {
            live += key.len() + content.value.len();
        }
    }
    assert_eq!(state.live_bytes(), live as u64, "live bytes");
    assert_eq!(state.history_bytes(), all as u64, "history bytes");
    let first = state.first_retained();
    let kept = state.changed.iter().zip(first.get()..);
    let kept: BTreeMap<Revision, Vec<Bytes>> =
        kept.map(|(keys, revision)| (Revision(revision), keys.clone())).collect();
    assert_eq!(kept, changed, "changed keys by revision");
    assert_eq!(
        first.get() + state.changed.len() as u64,
        newest.max(compacted).next().get(),
        "each revision after {compacted} is retained"
    );
}

fn check_leases(state: &StateMachine) {
    let mut keys: BTreeMap<LeaseId, BTreeSet<Bytes>> = BTreeMap::new();
    for (key, history) in state.keys.all() {
        if let Some(lease) = history.newest().content.as_ref().and_then(|content| content.lease) {
            keys.entry(lease).or_default().insert(key.clone());
        }
    }
    for lease in state.leases() {
        let id = lease.id;
        assert!(id != LeaseId(0), "zero names a lease");
        assert_eq!(lease.keys, keys.remove(&id).unwrap_or_default(), "keys of lease {id}");
        let bound = matches!(lease.bind, Bind::Connection | Bind::Process);
        assert_eq!(bound, lease.parent.is_some(), "lease {id} and its parent");
        if let Some(parent) = lease.parent {
            let host = state.lease(parent);
            let host = host.unwrap_or_else(|| panic!("lease {id} hangs under none: {parent}"));
            assert_eq!(host.bind, Bind::Node, "lease {id} hangs under {parent}");
            assert_eq!((host.node, host.boot), (lease.node, lease.boot), "host of lease {id}");
            assert!(state.children(parent).any(|child| child == id), "{parent} misses {id}");
        }
        for child in state.children(id) {
            let parent = state.lease(child).and_then(|child| child.parent);
            assert_eq!(parent, Some(id), "the parent of {child}");
        }
    }
    assert!(keys.is_empty(), "keys are attached to leases that do not exist: {keys:?}");
}

fn check_queues(state: &StateMachine) {
    let mut places: BTreeMap<QueueName, Vec<QueueEntry>> = BTreeMap::new();
    for (key, history) in state.keys.all() {
        let Some(record) = history.newest().record(key) else { continue };
        if place_of(&record).is_some() {
            let (name, lease, mode) = parse_queue_key(key).expect("a place is called so");
            let token = crate::base::Token(record.create_revision.get());
            let entry = QueueEntry { token, lease, mode, value: record.value };
            places.entry(name).or_default().push(entry);
        }
    }
    for kind in [QueueKind::Barrier, QueueKind::Election, QueueKind::Lock] {
        for name in state.queues(kind) {
            let view = state.queue(&name).expect("a listed queue exists");
            let mut expected = places.remove(&name).unwrap_or_default();
            expected.sort_by_key(|entry| (entry.token, entry.lease, entry.mode));
            assert!(!expected.is_empty(), "{name:?} exists and nobody stands in it");
            assert!(view.slots > 0, "{name:?} has no slots");
            assert_eq!(view.holders, holders(&view, &expected), "{name:?}: holders");
            let mut standing: Vec<QueueEntry> =
                view.holders.iter().chain(&view.waiters).cloned().collect();
            standing.sort_by_key(|entry| (entry.token, entry.lease, entry.mode));
            assert_eq!(standing, expected, "{name:?}: places and keys");
            for entry in standing {
                assert!(state.lease(entry.lease).is_some(), "{name:?}: {entry:?} has no lease");
            }
        }
    }
    assert!(places.is_empty(), "keys are places in no queue: {places:?}");
}

/// Who of these places, in their order, must hold; for a barrier, who was let go.
fn holders(view: &QueueView, places: &[QueueEntry]) -> Vec<QueueEntry> {
    let shared = places.first().is_some_and(|place| place.mode == Mode::Shared);
    let holds = |(rank, place): &(usize, &QueueEntry)| match view.queue.kind {
        QueueKind::Barrier => place.value == "ready",
        _ if view.slots == 1 && shared => {
            places[..=*rank].iter().all(|place| place.mode == Mode::Shared)
        }
        _ => *rank < view.slots as usize,
    };
    places.iter().enumerate().filter(holds).map(|(_, place)| place.clone()).collect()
}

fn check_requests(state: &StateMachine) {
    for (node, requests) in &state.requests {
        let (first, floor) = (requests.applied.first(), requests.floor);
        assert!(first.is_none_or(|first| *first >= floor), "{node}: {first:?} is below {floor}");
        let count = requests.applied.len();
        assert!(count <= limits::DEDUPE_WINDOW_MAX, "{node}: {count} requests are remembered");
    }
}

fn check_outcomes(state: &StateMachine) {
    let oldest = state.idempotency.all().map(|(_, (wall, _))| *wall).min();
    assert_eq!(state.oldest_idempotency(), oldest, "the oldest idempotency key");
    assert_eq!(state.idempotency_len(), state.idempotency.all().count(), "idempotency keys");
    let bytes: u64 = state
        .idempotency
        .all()
        .map(|(_, (_, outcome))| super::dedupe::outcome_bytes(outcome))
        .sum();
    assert!(bytes <= limits::IDEMPOTENCY_BYTES_MAX, "{bytes} bytes of outcomes are remembered");
}
