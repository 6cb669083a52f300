//! Rows from a damaged disk or a confused peer: none may make a state, and none may panic.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::{
    Boot, Epoch, Index, LeaseId, NodeId, RequestId, Revision, Rng, Sequence, Span, Term, WallMillis,
};
use crate::state::{
    Acquire, Bind, Command, Condition, Holder, IdempotencyKey, Mode, NewLease, Operation, Outcome,
    Patience, QueueKind, QueueName, RestoreError, Row, RowKey, Selection, StateMachine, check,
    parse_queue_key, queue_key, queue_prefix,
};

/// A state with at least one row of every kind, history and tombstones.
fn state() -> StateMachine {
    let mut state = StateMachine::new(Epoch(1));
    let put = |key: &'static str, value: &'static str, lease| Operation::Put {
        key: Bytes::from(key),
        value: Bytes::from(value),
        lease,
        condition: Condition::None,
    };
    let delete = |key: &'static str| Operation::Delete {
        selection: Selection::Key(Bytes::from(key)),
        condition: Condition::None,
    };
    let lease = NewLease {
        ttl: Span::from_secs(10),
        bind: Bind::Process,
        pid: Some(7),
        uid: 1_000,
        info: "app".to_owned(),
        process: Some("kernel.1.7.i9".to_owned()),
    };
    let acquire = Operation::Acquire(Acquire {
        queue: QueueName { kind: QueueKind::Lock, name: Bytes::from_static(b"l") },
        holder: Holder::New(lease),
        slots: 2,
        mode: Mode::Exclusive,
        value: Bytes::new(),
        patience: Patience::Wait,
    });
    let operations = [
        put("a", "1", None),
        put("a", "2", None),
        delete("a"),
        put("a", "3", None),
        acquire,
        put("b", "1", None),
        delete("b"),
        Operation::Compact { revision: Revision(3) },
    ];
    for (operation, sequence) in operations.into_iter().zip(1..) {
        let key = IdempotencyKey { uid: 0, key: format!("k{sequence}") };
        let command = Command {
            request: RequestId { node: NodeId(1), boot: Boot(1), sequence: Sequence(sequence) },
            floor: Sequence(2),
            idempotency: (sequence % 3 == 0).then_some(key),
            operation,
        };
        state.apply(Index(sequence), Term(1), WallMillis(sequence), &command);
    }
    check(&state);
    state
}

fn restore(rows: &BTreeMap<RowKey, Row>) -> Result<StateMachine, RestoreError> {
    StateMachine::restore(rows.clone())
}

/// A row that is missing, and a row too many of each kind, is found, whichever it is. The counters
/// are the only row whose absence has a name of its own.
#[test]
fn restore_misses_every_row() {
    let rows: BTreeMap<RowKey, Row> = state().all_rows().into_iter().collect();
    assert!(restore(&rows).is_ok(), "the rows as they are make a state");
    for key in rows.keys() {
        let mut less = rows.clone();
        less.remove(key);
        let error = restore(&less).err();
        assert!(error.is_some(), "{key:?} is not missed");
        assert!(!error.unwrap().to_string().is_empty());
    }
    let twice = rows.clone().into_iter().chain(rows.clone());
    assert!(matches!(StateMachine::restore(twice), Err(RestoreError::Twice(_))));
    assert!(matches!(StateMachine::restore([]), Err(RestoreError::MetaMissing)));
}

/// Any two rows exchanged, and any field changed, is found.
#[test]
fn restore_finds_what_was_changed() {
    let rows: BTreeMap<RowKey, Row> = state().all_rows().into_iter().collect();
    for a in rows.keys() {
        for b in rows.keys() {
            if rows[a] == rows[b] {
                continue;
            }
            let mut exchanged = rows.clone();
            exchanged.insert(a.clone(), rows[b].clone());
            exchanged.insert(b.clone(), rows[a].clone());
            assert!(restore(&exchanged).is_err(), "{a:?} and {b:?} may be exchanged");
        }
    }
    for (key, row) in &rows {
        for (rank, changed) in changed(row).into_iter().enumerate() {
            let mut rows = rows.clone();
            rows.insert(key.clone(), changed);
            assert!(restore(&rows).is_err(), "change {rank} of {key:?} is not found");
        }
    }
}

/// The row with one field changed, for each field.
fn changed(row: &Row) -> Vec<Row> {
    match row.clone() {
        Row::Idempotency { wall, outcome } => vec![
            Row::Idempotency { wall: WallMillis(wall.0 + 1), outcome: outcome.clone() },
            Row::Idempotency { wall: WallMillis(u64::MAX), outcome },
            Row::Idempotency { wall, outcome: Outcome::Duplicate },
            Row::Idempotency { wall, outcome: Outcome::Done { revision: Revision(9) } },
        ],
        Row::Lease(lease) => {
            let mut leases = vec![lease; 11];
            leases[0].id = LeaseId(0);
            leases[1].ttl = Span::from_secs(11);
            leases[2].bind = Bind::Connection;
            leases[3].parent = Some(LeaseId(1));
            leases[4].node = NodeId(9);
            leases[5].boot = Boot(9);
            leases[6].pid = Some(9);
            leases[7].uid = 9;
            leases[8].info = "other".to_owned();
            leases[9].generation = 9;
            leases[10].owned_by_place ^= true;
            leases.into_iter().map(Row::Lease).collect()
        }
        Row::Meta(meta) => {
            let mut metas = vec![meta; 7];
            metas[0].revision = Revision(0);
            metas[1].revision = metas[1].revision.next();
            metas[2].revision = Revision(u64::MAX - 1);
            metas[3].compact_revision = Revision(4);
            metas[4].compact_revision = Revision(u64::MAX);
            metas[5].leases_made += 1;
            metas[6].digest ^= 1;
            metas.into_iter().map(Row::Meta).collect()
        }
        Row::Queue { slots } => vec![Row::Queue { slots: 0 }, Row::Queue { slots: slots + 1 }],
        Row::Requests { boot, floor, applied } => vec![
            Row::Requests { boot: boot.next(), floor, applied: applied.clone() },
            Row::Requests { boot, floor: floor.previous(), applied: applied.clone() },
            Row::Requests { boot, floor: Sequence(99), applied: applied.clone() },
            Row::Requests { boot, floor, applied: applied.into_iter().skip(1).collect() },
        ],
        Row::Tombstone => Vec::new(),
        Row::Version { value, create_revision, version, lease } => {
            let row = |create_revision, version, lease| Row::Version {
                value: value.clone(),
                create_revision,
                version,
                lease,
            };
            vec![
                Row::Tombstone,
                row(create_revision.next(), version, lease),
                row(create_revision, version + 1, lease),
                row(create_revision, u64::MAX, lease),
                row(create_revision, 0, lease),
                row(create_revision, version, Some(LeaseId(1))),
                Row::Version {
                    value: Bytes::from_static(b"other"),
                    create_revision,
                    version,
                    lease,
                },
            ]
        }
    }
}

/// Names of any bytes, and keys of any bytes: a key is a place only in the one spelling that the
/// machine writes.
#[test]
fn queue_keys_have_one_spelling() {
    let mut rng = Rng::new(1);
    for kind in [QueueKind::Barrier, QueueKind::Election, QueueKind::Lock] {
        for _ in 0..2_000 {
            let length = rng.below(6) as usize;
            let name: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
            let queue = QueueName { kind, name: name.into() };
            let lease = LeaseId(rng.next_u64() >> rng.below(64));
            let shared = kind == QueueKind::Lock && rng.chance(1, 2);
            let mode = if shared { Mode::Shared } else { Mode::Exclusive };
            let key = queue_key(&queue, lease, mode);
            assert!(key.starts_with(&queue_prefix(&queue)), "{key:?}");
            let expected = (lease != LeaseId(0)).then(|| (queue.clone(), lease, mode));
            assert_eq!(parse_queue_key(&key), expected, "{key:?}");
        }
    }
    let letters = b"_locks/elections/%2F%2f+-aA0";
    for _ in 0..20_000 {
        let length = rng.below(12) as usize;
        let mut key = b"_locks/".to_vec();
        key.extend((0..length).map(|_| letters[rng.below(letters.len() as u64) as usize]));
        if let Some((queue, lease, mode)) = parse_queue_key(&key) {
            assert_eq!(
                queue_key(&queue, lease, mode),
                key,
                "another spelling of {queue:?} {lease}"
            );
        }
    }
    for key in [
        "",
        "_locks/",
        "_locks/a",
        "_locks/a/",
        "_locks/a/+1",
        "_locks/a/01",
        "_locks/a/0",
        "_locks/%61/1",
        "_locks/%2f/1",
        "_locks/%+f/1",
        "_locks/%2/1",
        "_locks/a/1/2",
        "locks/a/1",
        "_locks/a/A",
        "_locks/a/11111111111111111",
        "_locks/a/1.share",
        "_locks/a/1.shared.shared",
        "_locks/a/.shared",
        "_elections/a/1.shared",
        "_barriers/a/1.shared",
    ] {
        assert_eq!(parse_queue_key(key.as_bytes()), None, "{key}");
    }
}
