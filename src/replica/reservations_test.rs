//! Which nodes may use reserved names.

use bytes::Bytes;

use super::cluster_test::{lease, put};
use super::reservations::{Origin, Reservations};
use crate::base::{
    Boot, Epoch, Index, LeaseId, NodeId, RequestId, Revision, Rng, Sequence, Span, Term, Token,
    WallMillis,
};
use crate::state::{
    Acquire, Bind, Command, Condition, Holder, Mode, Operation, Outcome, Patience, QueueKind,
    QueueName, Selection, StateMachine, Txn, TxnOperation,
};

struct Store {
    machine: StateMachine,
    sequence: u64,
}

impl Store {
    fn new(reservations: &[(&str, &str)]) -> Self {
        let mut store = Self { machine: StateMachine::new(Epoch(1)), sequence: 0 };
        for (name, value) in reservations {
            store.apply(1, put(&format!("_access/{name}"), value));
        }
        store
    }

    fn apply(&mut self, node: u64, operation: Operation) -> Outcome {
        self.sequence += 1;
        let sequence = Sequence(self.sequence);
        let request = RequestId { node: NodeId(node), boot: Boot(1), sequence };
        let command = Command { request, floor: sequence, idempotency: None, operation };
        let index = Index(self.sequence);
        self.machine.apply(index, Term(1), WallMillis(0), &command).outcome
    }

    fn allows(&self, origin: Origin<'_>, operation: &Operation) -> bool {
        Reservations::read(&self.machine).allow(origin, operation, &self.machine)
    }
}

fn node(number: u64, name: &str) -> Origin<'_> {
    Origin { node: NodeId(number), name: Some(name), leads: false, term: Term(1) }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn delete(prefix: &str) -> Operation {
    Operation::Delete { selection: Selection::Prefix(bytes(prefix)), condition: Condition::None }
}

fn queue(kind: QueueKind, name: &str) -> QueueName {
    QueueName { kind, name: bytes(name) }
}

fn acquire(kind: QueueKind, name: &str) -> Operation {
    Operation::Acquire(Acquire {
        queue: queue(kind, name),
        holder: Holder::New(lease(Span::from_secs(10), Bind::None)),
        slots: 1,
        value: Bytes::new(),
        patience: Patience::Wait,
        mode: Mode::Exclusive,
    })
}

#[test]
fn names_are_reserved_for_the_nodes_that_are_named() {
    let store = Store::new(&[
        (
            "app",
            r#"{"nodes":["web*","db"],"write":["app/*"],"lock":["nightly"],"campaign":["e*"]}"#,
        ),
        ("more", r#"{"nodes":["n9"],"write":["app/n9/*"]}"#),
    ]);
    let then = |operation| {
        let txn = Txn { compares: Vec::new(), then: Vec::new(), or_else: vec![operation] };
        Operation::Txn(txn)
    };
    let in_txn = TxnOperation::Put { key: bytes("app/x"), value: Bytes::new(), lease: None };
    let read = TxnOperation::Get(Selection::Key(bytes("app/x")));
    let release = Operation::Release { queue: queue(QueueKind::Lock, "nightly"), token: Token(5) };
    let proclaim = Operation::Proclaim { name: bytes("e1"), token: Token(5), value: Bytes::new() };
    for (operation, web, other, n9) in [
        (put("app/x", "1"), true, false, false),
        (put("app/n9/x", "1"), true, false, true),
        (put("else", "1"), true, true, true),
        (put("app", "1"), true, true, true),
        (delete("app/"), true, false, false),
        (delete("app/n9/"), true, false, true),
        (delete("a"), true, false, false),
        (delete("b"), true, true, true),
        (delete(""), true, false, false),
        (then(in_txn), true, false, false),
        (then(read), true, true, true),
        (acquire(QueueKind::Lock, "nightly"), true, false, false),
        (acquire(QueueKind::Lock, "nightly2"), true, true, true),
        (acquire(QueueKind::Lock, "e1"), true, true, true),
        (acquire(QueueKind::Barrier, "nightly"), true, false, false),
        (acquire(QueueKind::Election, "e1"), true, false, false),
        (acquire(QueueKind::Election, "nightly"), true, true, true),
        (release, true, false, false),
        (proclaim, true, false, false),
        // Places are not made as keys, nor ended as such.
        (put("_locks/nightly/1f", "1"), false, false, false),
        (delete("_"), false, false, false),
        (delete("_locks/night"), false, false, false),
        // Nobody has reserved administration, of which tokens and joining are a part.
        (put("_joins/n10", "1"), true, true, true),
        (put("_access/app", "1"), true, true, true),
        (Operation::Compact { revision: Revision(2) }, true, true, true),
    ] {
        assert_eq!(store.allows(node(2, "web1"), &operation), web, "web1: {operation:?}");
        assert_eq!(store.allows(node(2, "db"), &operation), web, "db: {operation:?}");
        assert_eq!(store.allows(node(3, "other"), &operation), other, "other: {operation:?}");
        assert_eq!(store.allows(node(4, "n9"), &operation), n9, "n9: {operation:?}");
        let stranger = Origin { name: None, ..node(5, "") };
        assert_eq!(store.allows(stranger, &operation), other, "a stranger: {operation:?}");
    }
    let none = Store::new(&[]);
    assert!(none.allows(node(3, "other"), &put("_locks/nightly/1f", "1")), "nothing is reserved");
}

#[test]
fn administration_may_be_reserved() {
    let store = Store::new(&[("admin", r#"{"nodes":["n1"],"administrate":true}"#)]);
    let compact = Operation::Compact { revision: Revision(2) };
    for (operation, n1, n2) in [
        (put("_access/x", "1"), true, false),
        (delete("_acc"), true, false),
        (put("_tokens/x", "1"), true, false),
        (put("_joins/n10", "1"), true, false),
        (compact.clone(), true, false),
        (put("app", "1"), true, true),
        (delete(""), true, true),
    ] {
        assert_eq!(store.allows(node(1, "n1"), &operation), n1, "{operation:?}");
        assert_eq!(store.allows(node(2, "n2"), &operation), n2, "{operation:?}");
    }
    let leader = Origin { leads: true, ..node(2, "n2") };
    assert!(store.allows(leader, &compact), "a leader trims of its own accord");
    let expiry = |term| Operation::ExpireLeases { term: Term(term), leases: Vec::new() };
    assert!(store.allows(leader, &expiry(1)));
    assert!(!store.allows(node(1, "n1"), &expiry(1)), "only the leader's clock ends leases");
    assert!(store.allows(node(1, "n1"), &expiry(7)), "of another term it means nothing");
    let reservations = Reservations::read(&store.machine);
    assert!(reservations.allow_administration(Some("n1")));
    assert!(!reservations.allow_administration(Some("n2")));
    assert!(!reservations.allow_administration(None));
}

/// Ending a lease ends what it holds, so that it is a way to take a reserved lock from its holder.
#[test]
fn a_lease_with_reserved_names_is_ended_by_its_own_node_or_by_nodes_that_are_named() {
    let value = r#"{"nodes":["n1","n4"],"lock":["nightly"],"write":["app/*"]}"#;
    let mut store = Store::new(&[("app", value)]);
    let mut hold = |operation| match store.apply(2, operation) {
        Outcome::Acquired { lease, .. } | Outcome::Granted { lease, .. } => lease,
        other => panic!("{other:?}"),
    };
    hold(Operation::GrantLease(lease(Span::from_secs(10), Bind::Connection)));
    let locked = hold(acquire(QueueKind::Lock, "nightly"));
    let free = hold(acquire(QueueKind::Lock, "other"));
    let revoke = |lease: LeaseId| Operation::RevokeLeases { leases: vec![lease] };
    for (origin, of_locked, of_free) in
        [(node(1, "n1"), true, true), (node(2, "n2"), true, true), (node(3, "n3"), false, true)]
    {
        assert_eq!(store.allows(origin, &revoke(locked)), of_locked, "{origin:?}");
        assert_eq!(store.allows(origin, &revoke(free)), of_free, "{origin:?}");
    }
    // All that hangs under a host's own lease goes with it.
    let host = store.machine.leases().find(|lease| lease.bind == Bind::Node).map(|it| it.id);
    let host = revoke(host.expect("a bound lease has a parent"));
    assert!(store.allows(node(2, "n2"), &host) && !store.allows(node(1, "n1"), &host));
    assert!(store.allows(Origin { leads: true, ..node(1, "n1") }, &host), "a leader retires it");
}

#[test]
fn what_is_no_reservation_reserves_nothing() {
    for value in [
        "",
        "{}",
        "{\"nodes\":[]}",
        "{\"nodes\":[\"n1\"],\"write\":[\"*\"]",
        "{\"nodes\":[\"n1\"],\"write\":[\"*\"]}x",
        "{\"nodes\":[\"n1\"], \"write\":[\"*\"]}",
        "{\"nodes\":[\"n1\"],\"wrote\":[\"*\"]}",
        "{\"nodes\":[\"n1\"],\"write\":[\"a*b\"]}",
        "{\"nodes\":[\"n1\"],\"write\":[\"\\u0041\"]}",
        "{\"nodes\":[\"n1\"],\"write\":\"*\"}",
    ] {
        let store = Store::new(&[("x", value)]);
        assert!(Reservations::read(&store.machine).is_empty(), "{value}");
    }
    let store = Store::new(&[("x", r#"{"nodes":["a\"\\é*"],"write":["\\"]}"#)]);
    assert!(store.allows(node(1, "a\"\\éb"), &put("\\", "1")));
    assert!(!store.allows(node(1, "a"), &put("\\", "1")));
}

/// Random bytes neither panic nor reserve by accident what was not written by `api/`.
#[test]
fn no_bytes_make_it_panic() {
    let pieces = ["{", "}", "[", "]", "\"", "nodes", "write", ":", ",", "a*", "true", "\\", "é"];
    let pieces = pieces.into_iter().chain(["administrate"]).collect::<Vec<_>>();
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let count = rng.below(20);
        let index = |rng: &mut Rng| rng.below(pieces.len() as u64) as usize;
        let text: String = (0..count).map(|_| pieces[index(&mut rng)]).collect();
        let store = Store::new(&[("x", &text)]);
        Reservations::read(&store.machine);
    }
}
