//! What each committed entry does to the keys, computed once more and in the obvious way:
//! conditions and comparisons hold or not (K1), each request has an effect once, under its number
//! and under its caller's name (K4), the revision grows by one for each effect (K5), events tell
//! what was there before (W8).
//!
//! All replicas run the same code, so that their agreement says nothing about its mistakes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorumd::base::{LeaseId, RequestId, Revision};
use quorumd::raft::Entry;
use quorumd::state::{
    Applied, Command, Compare, CompareField, CompareOp, Condition, Event, EventKind,
    IdempotencyKey, Operation, Outcome, Record, Refusal, Selection, TxnOperation,
};

/// The keys as they are now, and what was asked for so far.
#[derive(Debug)]
pub struct StoreModel {
    keys: BTreeMap<Bytes, Record>,
    revision: Revision,
    requests: BTreeSet<RequestId>,
    named: BTreeMap<IdempotencyKey, Outcome>,
}

impl Default for StoreModel {
    fn default() -> Self {
        let (keys, requests, named) = Default::default();
        Self { keys, revision: Revision(1), requests, named }
    }
}

impl StoreModel {
    /// An entry was applied by the code under test.
    pub fn applied(&mut self, entry: &Entry, command: &Command, applied: &Applied) {
        let request = command.request;
        let events = applied.events.as_ref().map_or(&[][..], |events| &events.events);
        let known = command.idempotency.as_ref().and_then(|key| self.named.get(key)).cloned();
        if !self.requests.insert(request) {
            let settled =
                matches!(applied.outcome, Outcome::Duplicate | Outcome::Refused(Refusal::Stale));
            crate::ensure!(
                settled && events.is_empty() && applied.leases.is_empty(),
                "exactly_once",
                "{} repeats {request} and does {:?}",
                entry.index,
                applied.outcome
            );
        } else if applied.outcome == Outcome::Refused(Refusal::Stale) {
            crate::ensure!(events.is_empty(), "exactly_once", "{} is stale", entry.index);
        } else if let Some(known) = known {
            crate::ensure!(
                applied.outcome == known && events.is_empty() && applied.leases.is_empty(),
                "exactly_once",
                "{} repeats {:?}, was {known:?}, is {:?} with {events:?}",
                entry.index,
                command.idempotency,
                applied.outcome
            );
        } else {
            self.executed(entry, command, applied, events);
        }
        if let Some(after) = &applied.events {
            crate::ensure!(
                after.revision == self.revision.next(),
                "revision_monotone",
                "{} makes {} after {}",
                entry.index,
                after.revision,
                self.revision
            );
            self.revision = after.revision;
            for event in &after.events {
                self.follow(event);
            }
        }
    }

    fn executed(&mut self, entry: &Entry, command: &Command, applied: &Applied, events: &[Event]) {
        let at = entry.index;
        let expected = match &command.operation {
            Operation::Put { key, value, lease, condition } => {
                let holds = self.condition(key, *condition, &applied.outcome, at.get());
                holds.then(|| vec![self.put(key, value, *lease)])
            }
            Operation::Delete { selection: Selection::Key(key), condition } => {
                let holds = self.condition(key, *condition, &applied.outcome, at.get());
                holds
                    .then(|| self.keys.contains_key(key).then(|| self.gone(key)))
                    .map(|event| event.into_iter().collect())
            }
            Operation::Txn(txn) => {
                let holds = txn.compares.iter().all(|compare| self.compare(compare));
                match &applied.outcome {
                    Outcome::Txn { succeeded, .. } => {
                        crate::ensure!(
                            *succeeded == holds,
                            "compare_and_set",
                            "{at} says {succeeded} to {:?}, that is {holds}",
                            txn.compares
                        );
                        Some(self.run(if holds { &txn.then } else { &txn.or_else }))
                    }
                    _ => None,
                }
            }
            _ => {
                self.remember(command, applied);
                return;
            }
        };
        let refused = matches!(applied.outcome, Outcome::Refused(_));
        let expected = expected.filter(|_| !refused).unwrap_or_default();
        crate::ensure!(
            events == expected,
            "store_model",
            "{at} {:?} has the effects {events:?}, should have {expected:?}",
            command.operation
        );
        self.remember(command, applied);
    }

    fn remember(&mut self, command: &Command, applied: &Applied) {
        let told = !matches!(applied.outcome, Outcome::Refused(_) | Outcome::Duplicate);
        if let Some(key) = command.idempotency.clone().filter(|_| told) {
            self.named.insert(key, applied.outcome.clone());
        }
    }

    /// Whether a single write may happen; the code under test must have said the same.
    fn condition(&self, key: &Bytes, condition: Condition, outcome: &Outcome, at: u64) -> bool {
        let found = self.keys.get(key).map_or(Revision(0), |record| record.mod_revision);
        let holds = match condition {
            Condition::Absent => found == Revision(0),
            Condition::ModRevision(expected) => found == expected,
            Condition::None => true,
        };
        let failed = matches!(outcome, Outcome::Refused(Refusal::PreconditionFailed { .. }));
        crate::ensure!(
            holds != failed,
            "compare_and_set",
            "{at}: {key:?} is at {found}, {condition:?} is answered {outcome:?}"
        );
        holds
    }

    fn compare(&self, compare: &Compare) -> bool {
        let record = self.keys.get(&compare.key);
        let of = |field: fn(&Record) -> u64| record.map_or(0, field);
        let order = match &compare.field {
            CompareField::CreateRevision(with) => of(|r| r.create_revision.get()).cmp(&with.get()),
            CompareField::Lease(with) => of(|r| r.lease.map_or(0, LeaseId::get)).cmp(&with.get()),
            CompareField::ModRevision(with) => of(|r| r.mod_revision.get()).cmp(&with.get()),
            CompareField::Version(with) => of(|r| r.version).cmp(with),
            CompareField::Value(with) => match record {
                Some(record) => record.value.cmp(with),
                None => return false,
            },
        };
        match compare.op {
            CompareOp::Equal => order.is_eq(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::Less => order.is_lt(),
            CompareOp::NotEqual => order.is_ne(),
        }
    }

    /// The events of a list that writes no key twice.
    fn run(&self, operations: &[TxnOperation]) -> Vec<Event> {
        let mut events = Vec::new();
        for operation in operations {
            match operation {
                TxnOperation::Put { key, value, lease } => {
                    events.push(self.put(key, value, *lease));
                }
                TxnOperation::Delete(Selection::Key(key)) if self.keys.contains_key(key) => {
                    events.push(self.gone(key));
                }
                TxnOperation::Delete(_) | TxnOperation::Get(_) => {}
            }
        }
        events.sort_by(|a, b| a.record.key.cmp(&b.record.key));
        events
    }

    fn put(&self, key: &Bytes, value: &Bytes, lease: Option<LeaseId>) -> Event {
        let (previous, now) = (self.keys.get(key), self.revision.next());
        let record = Record {
            key: key.clone(),
            value: value.clone(),
            create_revision: previous.map_or(now, |previous| previous.create_revision),
            mod_revision: now,
            version: previous.map_or(1, |previous| previous.version + 1),
            lease,
        };
        Event { kind: EventKind::Put, record, previous: previous.cloned() }
    }

    fn gone(&self, key: &Bytes) -> Event {
        let record = Record {
            key: key.clone(),
            value: Bytes::new(),
            create_revision: Revision(0),
            mod_revision: self.revision.next(),
            version: 0,
            lease: None,
        };
        Event { kind: EventKind::Delete, record, previous: self.keys.get(key).cloned() }
    }

    fn follow(&mut self, event: &Event) {
        let key = &event.record.key;
        let before = self.keys.remove(key);
        crate::ensure!(
            before == event.previous,
            "previous_value",
            "{:?} had {before:?} before {}, its event says {:?}",
            key,
            event.record.mod_revision,
            event.previous
        );
        if event.kind == EventKind::Put {
            self.keys.insert(key.clone(), event.record.clone());
        }
    }
}
