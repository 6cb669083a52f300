//! The replicated state machine: keys with history, leases, lock and election queues, request dedupe.
//!
//! A pure function of the log: `apply` may depend on the state and the entry, and on nothing else.

mod changes;
mod command;
mod outcome;
mod records;
mod rows;

pub use changes::{Applied, Event, EventKind, LeaseChange, RevisionEvents};
pub use command::{
    Acquire, Bind, Command, Compare, CompareField, CompareOp, Condition, Holder, IdempotencyKey,
    NewLease, Operation, Patience, QueueKind, QueueName, Selection, Txn, TxnOperation,
};
pub use outcome::{Outcome, Refusal, TxnResult};
pub use records::{Lease, QueueEntry, QueueView, Record};
pub use rows::{Meta, Row, RowChange, RowKey};
