//! Transactions: compares, then one of two lists, in one revision.
//!
//! The reading and writing itself is that of `keys.rs`.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::base::mutation::{self, Mutation};
use crate::base::{LeaseId, Revision};
use crate::state::{
    Compare, CompareField, CompareOp, Outcome, Refusal, Selection, StateMachine, Txn, TxnOperation,
    TxnResult,
};

use super::keys::selects;
use super::machine::Effects;

impl StateMachine {
    /// `Operation::Txn`. All reasons to refuse are found before the first change.
    pub(super) fn txn(&mut self, txn: &Txn, effects: &mut Effects) -> Outcome {
        // Both lists are looked at: whether a transaction is well-formed must not depend on data.
        if writes_twice(&txn.then) || writes_twice(&txn.or_else) {
            return Refusal::DuplicateKey.into();
        }
        let ignored = mutation::active(Mutation::TxnCompareIgnored);
        let succeeded = ignored || txn.compares.iter().all(|compare| self.compare(compare));
        let operations = if succeeded { &txn.then } else { &txn.or_else };
        for operation in operations {
            if let TxnOperation::Put { lease, .. } = operation
                && let Err(refusal) = self.lease_exists(*lease)
            {
                return refusal.into();
            }
        }
        let results = operations.iter().map(|operation| self.run(operation, effects)).collect();
        Outcome::Txn { succeeded, revision: self.revision_after(effects), results }
    }

    fn run(&mut self, operation: &TxnOperation, effects: &mut Effects) -> TxnResult {
        match operation {
            TxnOperation::Delete(selection) => {
                TxnResult::Deleted(self.delete_selected(selection, effects))
            }
            TxnOperation::Get(selection) => TxnResult::Got(self.selected_records(selection)),
            TxnOperation::Put { key, value, lease } => {
                let (create_revision, version) = self.set_key(key, value.clone(), *lease, effects);
                TxnResult::Put { create_revision, version }
            }
        }
    }

    fn compare(&self, compare: &Compare) -> bool {
        let (mod_revision, content) = match self.keys.content(&compare.key) {
            Some((revision, content)) => (revision, Some(content)),
            None => (Revision(0), None),
        };
        let ordering = match &compare.field {
            CompareField::CreateRevision(wanted) => {
                content.map_or(Revision(0), |content| content.create_revision).cmp(wanted)
            }
            CompareField::Lease(wanted) => {
                let lease = content.and_then(|content| content.lease);
                lease.unwrap_or(LeaseId(0)).cmp(wanted)
            }
            CompareField::ModRevision(wanted) => mod_revision.cmp(wanted),
            CompareField::Value(wanted) => match content {
                Some(content) => content.value.cmp(wanted),
                None => return false,
            },
            CompareField::Version(wanted) => {
                content.map_or(0, |content| content.version).cmp(wanted)
            }
        };
        match compare.op {
            CompareOp::Equal => ordering.is_eq(),
            CompareOp::Greater => ordering.is_gt(),
            CompareOp::Less => ordering.is_lt(),
            CompareOp::NotEqual => ordering.is_ne(),
        }
    }
}

/// Whether one list writes a key twice: two puts of it, or a put and a delete that covers it. Two
/// deletes may overlap: the second finds nothing.
fn writes_twice(operations: &[TxnOperation]) -> bool {
    let mut puts: BTreeSet<&[u8]> = BTreeSet::new();
    for operation in operations {
        if let TxnOperation::Put { key, .. } = operation
            && !puts.insert(key)
        {
            return true;
        }
    }
    operations.iter().any(|operation| match operation {
        TxnOperation::Delete(selection) => covers_one_of(selection, &puts),
        TxnOperation::Get(_) | TxnOperation::Put { .. } => false,
    })
}

fn covers_one_of(selection: &Selection, keys: &BTreeSet<&[u8]>) -> bool {
    let start: &[u8] = match selection {
        Selection::Key(key) => key,
        Selection::Prefix(prefix) => prefix,
    };
    let next = keys.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).next();
    // The last key is looked at because an empty prefix leaves out the reserved keys, which are one
    // run in the middle: if it selects none of the ends, it selects none.
    next.into_iter().chain(keys.last()).any(|key| selects(selection, key))
}
