//! Reading and changing the records of this folder in the replicated store.
//!
//! Every change is a transaction that compares the revision of what was read: of two nodes that
//! decide on the same record, one has decided.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::{Revision, Span};
use crate::enroll::records::{decode, encode};
use crate::node::{Consistency, Node};
use crate::replica::RequestError;
use crate::state::{
    Compare, CompareField, CompareOp, Operation, Outcome, Selection, Txn, TxnOperation,
};

/// How long one step may take.
pub(super) const TIMEOUT: Span = Span::from_secs(5);

/// A record with the revision that last changed it.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) record: T,
    pub(super) revision: Revision,
}

/// Waits until everything that was committed before can be read here.
pub(super) async fn freshen(node: &Node) -> Result<(), RequestError> {
    node.barrier(Consistency::Linearizable, TIMEOUT).await
}

/// The record under a key as this node has it; one that cannot be read is none.
pub(super) fn find<T: DeserializeOwned>(node: &Node, key: &str) -> Option<Found<T>> {
    let record = node.view().machine.get(key.as_bytes(), None).ok().flatten()?;
    Some(Found { record: decode(&record.value)?, revision: record.mod_revision })
}

/// All records under a prefix as this node has them, by the rest of their keys.
pub(super) fn list<T: DeserializeOwned>(node: &Node, prefix: &str) -> Vec<(String, Found<T>)> {
    let view = node.view();
    let Ok(records) = view.machine.records(prefix.as_bytes(), None, view.machine.revision()) else {
        return Vec::new();
    };
    let found = records.filter_map(|record| {
        let name = std::str::from_utf8(record.key.strip_prefix(prefix.as_bytes())?).ok()?;
        let found = Found { record: decode(&record.value)?, revision: record.mod_revision };
        Some((name.to_owned(), found))
    });
    found.collect()
}

/// Changes several keys at once.
#[derive(Debug, Default)]
pub(super) struct Change {
    txn: Txn,
}

impl Change {
    /// Only if the key was last changed by this revision; zero: if it does not exist.
    pub(super) fn only_if(mut self, key: &str, revision: Revision) -> Self {
        self.txn.compares.push(Compare {
            key: bytes(key),
            field: CompareField::ModRevision(revision),
            op: CompareOp::Equal,
        });
        self
    }

    pub(super) fn put(mut self, key: &str, record: &impl Serialize) -> Self {
        let value = encode(record);
        self.txn.then.push(TxnOperation::Put { key: bytes(key), value, lease: None });
        self
    }

    pub(super) fn delete(mut self, key: &str) -> Self {
        self.txn.then.push(TxnOperation::Delete(Selection::Key(bytes(key))));
        self
    }

    /// Whether it was made. An error says whether it may have been.
    pub(super) async fn make(self, node: &Node) -> Result<bool, RequestError> {
        match node.submit(Operation::Txn(self.txn), None, TIMEOUT).await? {
            Outcome::Txn { succeeded, .. } => Ok(succeeded),
            Outcome::Duplicate => Err(RequestError::OutcomeUnknown),
            _ => Ok(false),
        }
    }
}

fn bytes(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

/// The time that decides over ends of tokens, in milliseconds since 1970.
pub(super) fn now_ms(node: &Node) -> u64 {
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let own = u64::try_from(own).unwrap_or(u64::MAX);
    own.max(node.view().machine.wall().0)
}
