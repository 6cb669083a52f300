//! What callers were told fits one order of all operations that agrees with real time (K1), keeps
//! every acknowledged write (K2), invents none (K3) and applies none twice (K4, the promise behind
//! idempotency keys); linearizable reads and revisions never go back (K5, K6). "Not applied" is
//! never applied later, "unknown" may be either.
//!
//! Revisions give the order, so that this needs no search: each value is written by one operation
//! only, and the events of the committed log say at which revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorumd::base::Revision;
use quorumd::replica::RequestError;
use quorumd::state::{Condition, EventKind, Outcome, Refusal};

use super::state_agrees::StateAgrees;

/// What an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Set a key to a value that no other operation writes.
    Put(Bytes, Bytes, Condition),
    /// Delete a key.
    Delete(Bytes),
    /// Read a key as of now.
    Read(Bytes),
    /// Set this key, and perhaps another, to a value that no other operation writes.
    Txn(Bytes, Bytes),
    /// Anything else that returns a revision.
    Other,
}

/// How it ended for its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    NotApplied,
    Unknown,
    Applied(Revision),
    Refused,
}

#[derive(Clone, Debug)]
struct Op {
    asked: Asked,
    /// The newest revision that anyone had been told when it was asked for.
    floor: Revision,
    fate: Fate,
    attempts: u32,
    unsettled: u32,
}

/// All operations of one run.
#[derive(Debug, Default)]
pub struct Histories {
    ops: BTreeMap<u64, Op>,
    told: Revision,
    by_revision: BTreeMap<Revision, u64>,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Linearizable reads that were served.
    pub reads: u64,
    /// Outcomes that were never learnt.
    pub unknown: u64,
}

impl Histories {
    /// An operation begins, or is tried once more.
    pub fn begin(&mut self, id: u64, asked: Asked) {
        let op = Op { asked, floor: self.told, fate: Fate::Open, attempts: 0, unsettled: 0 };
        let op = self.ops.entry(id).or_insert(op);
        op.attempts += 1;
        op.unsettled += 1;
    }

    /// One attempt of it had no outcome.
    pub fn failed(&mut self, id: u64, error: RequestError) {
        let op = self.ops.get_mut(&id).expect("only what began ends");
        if error == RequestError::OutcomeUnknown || error == RequestError::Timeout {
            op.fate = Fate::Unknown;
            self.unknown += 1;
            return;
        }
        op.unsettled -= 1;
        if op.unsettled == 0 && op.fate == Fate::Open {
            op.fate = Fate::NotApplied;
        }
    }

    /// The node that had it has crashed.
    pub fn lost(&mut self, id: u64) {
        self.failed(id, RequestError::OutcomeUnknown);
    }

    /// A linearizable read was served from a view at `revision`.
    pub fn read(&mut self, id: u64, value: Option<&[u8]>, revision: Revision, truth: &StateAgrees) {
        let op = self.ops.get_mut(&id).expect("only what began ends");
        let Asked::Read(key) = &op.asked else { panic!("{op:?} was answered as a read") };
        crate::ensure!(
            revision >= op.floor,
            "read_linearizable",
            "read {id} of {key:?} sees {revision}; {} was told before it began",
            op.floor
        );
        let (expected, _) = truth.value_at(key, revision);
        crate::ensure!(
            value == expected,
            "read_linearizable",
            "read {id} of {key:?} at {revision} sees {value:?}, not {expected:?}"
        );
        op.fate = Fate::Applied(revision);
        self.told = self.told.max(revision);
        self.reads += 1;
    }

    /// A write was answered with its outcome.
    pub fn wrote(&mut self, id: u64, outcome: &Outcome, truth: &StateAgrees) {
        let (floor, other) = (self.ops[&id].floor, self.ops[&id].asked == Asked::Other);
        let (revision, changed) = match outcome {
            Outcome::Put { revision, .. } | Outcome::Deleted { revision, .. } if other => {
                (*revision, false)
            }
            Outcome::Put { revision, .. } => (*revision, true),
            Outcome::Deleted { deleted, revision } => (*revision, *deleted > 0),
            Outcome::Acquired { revision, .. }
            | Outcome::Compacted { revision, .. }
            | Outcome::Done { revision }
            | Outcome::Granted { revision, .. }
            | Outcome::Released { revision }
            | Outcome::Revoked { revision, .. } => (*revision, false),
            Outcome::Txn { revision, succeeded, .. } => (*revision, *succeeded),
            Outcome::Refused(refusal) => {
                self.refused(id, refusal, truth);
                return;
            }
            Outcome::Duplicate => panic!("invariant exactly_once: {id} was told it is a duplicate"),
        };
        let op = self.ops.get_mut(&id).expect("only what began ends");
        crate::ensure!(
            revision > floor || (revision == floor && !changed),
            "read_linearizable",
            "write {id} {:?} got {revision}; {floor} was told before it began",
            op.asked
        );
        if let Fate::Applied(earlier) = op.fate {
            crate::ensure!(
                earlier == revision,
                "exactly_once",
                "{id} was told {earlier} and {revision}"
            );
        }
        op.fate = Fate::Applied(revision);
        if changed {
            self.effective(id, revision, truth);
        }
        self.told = self.told.max(revision);
        self.acked += 1;
    }

    fn effective(&mut self, id: u64, revision: Revision, truth: &StateAgrees) {
        let other = self.by_revision.insert(revision, id);
        crate::ensure!(
            other.is_none_or(|other| other == id),
            "exactly_once",
            "{id} and {other:?} were both told {revision}"
        );
        let Some(events) = truth.events().get(&revision) else {
            panic!("invariant durability does not hold: {id} was told {revision}, not committed");
        };
        let op = &self.ops[&id];
        let found = events.events.iter().any(|event| match &op.asked {
            Asked::Put(key, value, _) | Asked::Txn(key, value) => {
                (&event.record.key, &event.record.value) == (key, value)
                    && event.kind == EventKind::Put
            }
            Asked::Delete(key) => event.record.key == key && event.kind == EventKind::Delete,
            Asked::Read(_) | Asked::Other => false,
        });
        crate::ensure!(found, "durability", "{id} {:?} is not at {revision}: {events:?}", op.asked);
        if let Asked::Put(key, _, condition) = &op.asked {
            let before = truth.value_at(key, revision.previous()).1;
            let holds = match condition {
                Condition::Absent => before == Revision(0),
                Condition::ModRevision(expected) => before == *expected,
                Condition::None => true,
            };
            crate::ensure!(
                holds,
                "compare_and_set",
                "{id} with {condition:?} wrote {revision} over {before}"
            );
        }
    }

    fn refused(&mut self, id: u64, refusal: &Refusal, truth: &StateAgrees) {
        let op = self.ops.get_mut(&id).expect("only what began ends");
        // An earlier attempt whose outcome was not learnt may still be applied.
        op.unsettled -= 1;
        op.fate = if op.unsettled == 0 { Fate::Refused } else { Fate::Unknown };
        if let (Refusal::PreconditionFailed { mod_revision }, Asked::Put(key, ..)) =
            (refusal, &op.asked)
        {
            let newest = truth.machine().revision().get();
            let mut window = (op.floor.get()..=newest).map(Revision);
            crate::ensure!(
                window.any(|at| truth.value_at(key, at).1 == *mod_revision),
                "compare_and_set",
                "{id} was refused because {key:?} is at {mod_revision}, which it is not"
            );
        }
    }

    /// Looks at the whole history: who wrote what, how often, and may he have.
    pub fn check_end(&self, truth: &StateAgrees) {
        let mut writers: BTreeMap<&Bytes, u64> = BTreeMap::new();
        for (id, op) in &self.ops {
            if let Asked::Put(_, value, _) | Asked::Txn(_, value) = &op.asked {
                writers.insert(value, *id);
            }
        }
        let mut written: BTreeMap<u64, Revision> = BTreeMap::new();
        for (revision, events) in truth.events() {
            for event in &events.events {
                if event.kind != EventKind::Put || !event.record.key.starts_with(b"k") {
                    continue;
                }
                let id = writers.get(&event.record.value).copied();
                let Some(id) = id else {
                    panic!("invariant no_phantom does not hold: nobody wrote {:?}", event.record);
                };
                let earlier = written.insert(id, *revision);
                crate::ensure!(
                    earlier.is_none_or(|earlier| earlier == *revision),
                    "exactly_once",
                    "{id} is applied at {earlier:?} and {revision}"
                );
                let fate = &self.ops[&id].fate;
                crate::ensure!(
                    !matches!(fate, Fate::NotApplied | Fate::Refused),
                    "not_applied",
                    "{id} was told {fate:?} and is applied at {revision}"
                );
            }
        }
    }
}
