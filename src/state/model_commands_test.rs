//! Draws the random commands of `model_test.rs`.
//!
//! What they must lead to is the model's.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::{Boot, LeaseId, NodeId, RequestId, Revision, Rng, Sequence, Span, Token};
use crate::state::{
    Acquire, Bind, Command, Compare, CompareField, CompareOp, Condition, Holder, IdempotencyKey,
    Mode, NewLease, Operation, Patience, QueueKind, QueueName, Selection, Txn, TxnOperation,
    queue_key,
};

use super::model_test::Model;

/// Draws commands that have a chance to mean something in the model's present state.
pub(super) struct Generator {
    pub(super) rng: Rng,
    pub(super) sequences: BTreeMap<NodeId, (Boot, Sequence)>,
    pub(super) sent: Vec<Command>,
}

impl Generator {
    /// The next one, or now and then one that was sent before.
    pub(super) fn command(&mut self, model: &Model) -> Command {
        if !self.sent.is_empty() && self.rng.chance(1, 12) {
            let again = self.rng.below(self.sent.len() as u64) as usize;
            return self.sent[again].clone();
        }
        let node = NodeId(self.rng.between(1, 3));
        let (boot, sequence) = self.sequences.entry(node).or_insert((Boot(1), Sequence(0)));
        let booted = self.rng.chance(1, 40);
        if booted {
            (*boot, *sequence) = (boot.next(), Sequence(0));
        }
        *sequence = sequence.next();
        let request = RequestId { node, boot: *boot, sequence: *sequence };
        let floor = Sequence(sequence.get().saturating_sub(self.rng.below(12)));
        let idempotency = self.rng.chance(1, 6).then(|| IdempotencyKey {
            uid: self.rng.below(2) as u32,
            key: format!("key-{}", self.rng.below(12)),
        });
        let operation = if booted { Operation::NodeBooted } else { self.operation(model) };
        let command = Command { request, floor, idempotency, operation };
        self.sent.push(command.clone());
        command
    }

    fn operation(&mut self, model: &Model) -> Operation {
        match self.rng.below(100) {
            0..=24 => {
                let (key, value, lease) = (self.key(model), self.value(), self.lease(model));
                Operation::Put { key, value, lease, condition: self.condition(model) }
            }
            25..=36 => {
                let (selection, condition) = (self.selection(model), self.condition(model));
                Operation::Delete { selection, condition }
            }
            37..=51 => Operation::Txn(self.txn(model)),
            52..=69 => Operation::Acquire(self.acquire(model)),
            70..=77 => {
                let (queue, token) = self.token(model);
                Operation::Release { queue, token }
            }
            78..=81 => {
                let (queue, token) = self.token(model);
                Operation::Proclaim { name: queue.name, token, value: self.value() }
            }
            82..=85 => Operation::GrantLease(self.new_lease()),
            86 => Operation::BindLease {
                lease: self.lease(model).unwrap_or(LeaseId(7)),
                process: "kernel.1.4.i5".to_owned(),
            },
            87 => {
                let leases = model.leases.keys().copied().filter(|_| self.rng.chance(1, 3));
                Operation::AdoptLeases { leases: leases.collect() }
            }
            88..=89 => {
                let count = self.rng.below(4);
                let leases = (0..count).filter_map(|_| self.lease(model)).collect();
                Operation::RevokeLeases { leases }
            }
            90..=93 => {
                let terms = [model.term.previous(), model.term, model.term, model.term.next()];
                let term = terms[self.rng.below(4) as usize];
                let count = self.rng.below(4);
                let leases = (0..count).filter_map(|_| self.lease(model));
                let leases: Vec<LeaseId> = leases.collect();
                let leases = leases.into_iter().map(|it| (it, self.rng.between(1, 2))).collect();
                Operation::ExpireLeases { term, leases }
            }
            _ => Operation::Compact { revision: self.revision(model) },
        }
    }

    fn acquire(&mut self, model: &Model) -> Acquire {
        let queue = self.queue();
        // One lock is shared, the other one is a semaphore.
        let sharing = queue.kind == QueueKind::Lock && queue.name == "q";
        let shared = sharing && self.rng.chance(1, 2);
        Acquire {
            holder: match self.lease(model) {
                Some(lease) => Holder::Existing(lease),
                None => Holder::New(self.new_lease()),
            },
            slots: if self.rng.chance(1, 8) != sharing { 1 } else { 2 },
            mode: if shared { Mode::Shared } else { Mode::Exclusive },
            value: self.value(),
            patience: if self.rng.chance(1, 3) { Patience::Try } else { Patience::Wait },
            queue,
        }
    }

    fn key(&mut self, model: &Model) -> Bytes {
        let plain: [&[u8]; 8] = [b"a", b"a/b", b"a/c", b"a/\xff", b"b", b"ba", b"", b"_x"];
        if self.rng.chance(1, 10) {
            // What the edge refuses must not confuse the machine.
            let lease = self.lease(model).unwrap_or(LeaseId(7));
            let mode = if self.rng.chance(1, 4) { Mode::Shared } else { Mode::Exclusive };
            return queue_key(&self.queue(), lease, mode);
        }
        plain[self.rng.below(plain.len() as u64) as usize].into()
    }

    fn value(&mut self) -> Bytes {
        let length = self.rng.below(20) as usize;
        vec![b'a' + self.rng.below(3) as u8; length].into()
    }

    fn queue(&mut self) -> QueueName {
        let kinds = [QueueKind::Barrier, QueueKind::Election, QueueKind::Lock, QueueKind::Lock];
        let kind = kinds[self.rng.below(4) as usize];
        let name = if self.rng.chance(1, 2) { "q" } else { "q/ü" };
        QueueName { kind, name: name.into() }
    }

    fn lease(&mut self, model: &Model) -> Option<LeaseId> {
        if model.leases.is_empty() || self.rng.chance(1, 2) {
            return self.rng.chance(1, 20).then_some(LeaseId(7));
        }
        let rank = self.rng.below(model.leases.len() as u64) as usize;
        model.leases.keys().nth(rank).copied()
    }

    fn new_lease(&mut self) -> NewLease {
        let binds = [Bind::Connection, Bind::Process, Bind::None, Bind::None, Bind::Node];
        NewLease {
            ttl: Span::from_secs(self.rng.between(1, 60)),
            bind: binds[self.rng.below(binds.len() as u64) as usize],
            pid: self.rng.chance(1, 2).then_some(4_711),
            uid: 1_000,
            info: "from a test".to_owned(),
            process: self.rng.chance(1, 2).then(|| "kernel.1.2.i3".to_owned()),
        }
    }

    fn revision(&mut self, model: &Model) -> Revision {
        let low = model.compacted.saturating_sub(1);
        Revision(self.rng.between(low, model.revision().get() + 1))
    }

    fn condition(&mut self, model: &Model) -> Condition {
        match self.rng.below(8) {
            0 => Condition::Absent,
            1 => Condition::ModRevision(self.revision(model)),
            _ => Condition::None,
        }
    }

    fn selection(&mut self, model: &Model) -> Selection {
        match self.rng.below(8) {
            0..=4 => Selection::Key(self.key(model)),
            5 => Selection::Prefix(self.key(model)),
            6 => Selection::Prefix(Bytes::from_static(b"_locks/")),
            _ => Selection::Prefix(Bytes::new()),
        }
    }

    fn token(&mut self, model: &Model) -> (QueueName, Token) {
        let name = self.queue();
        let places = model.places(&name);
        if places.is_empty() || self.rng.chance(1, 6) {
            return (name, Token(self.rng.below(20)));
        }
        let rank = self.rng.below(places.len() as u64) as usize;
        (name, places[rank].token)
    }

    fn txn(&mut self, model: &Model) -> Txn {
        let ops = [CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual];
        let compares = (0..self.rng.below(3)).map(|_| {
            let field = match self.rng.below(5) {
                0 => CompareField::CreateRevision(self.revision(model)),
                1 => CompareField::Lease(self.lease(model).unwrap_or(LeaseId(0))),
                2 => CompareField::ModRevision(self.revision(model)),
                3 => CompareField::Value(self.value()),
                _ => CompareField::Version(self.rng.below(3)),
            };
            Compare { key: self.key(model), field, op: ops[self.rng.below(4) as usize] }
        });
        let compares = compares.collect();
        Txn { compares, then: self.list(model), or_else: self.list(model) }
    }

    fn list(&mut self, model: &Model) -> Vec<TxnOperation> {
        let count = self.rng.below(5);
        let operation = |_| match self.rng.below(5) {
            0..=1 => TxnOperation::Get(self.selection(model)),
            2 => TxnOperation::Delete(self.selection(model)),
            _ => {
                let (key, value, lease) = (self.key(model), self.value(), self.lease(model));
                TxnOperation::Put { key, value, lease }
            }
        };
        (0..count).map(operation).collect()
    }
}
