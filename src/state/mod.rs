//! The replicated state machine: keys with history, leases, lock and election queues, request
//! dedupe.
//!
//! A pure function of the log: `apply` may depend on the state and the entry, and on nothing else.
//! No clock, no configuration, no limit of this node (RELIABILITY G2, G3, G7): what differs between
//! two replicas must not reach it. What a node refuses by its own limits or access rules, it
//! refuses before it proposes. `apply` cannot fail either: what cannot be done is a refusal, and a
//! refusal is an outcome like any other, the same on every replica.
//!
//! # Keys
//!
//! Every entry that changes keys makes exactly one new revision, and an entry that changes none
//! makes none. A key keeps its versions until history is compacted: reads of the past,
//! transactions' reads and the events of retained revisions all come from the same versions.
//! `keys.rs` has the only two functions that change a key, and everything that follows from a key
//! is changed there too: its lease's key set, its place in a queue, the digest, the rows to save,
//! the event for watchers.
//!
//! # Leases
//!
//! A lease that is bound to a connection or a process hangs under the lease of its host, which is
//! made when the first such lease of a boot is, and ends with it in one revision. No time passes
//! here: that a lease is overdue comes as an entry, which is void when leadership or the lease has
//! moved on.
//!
//! # Queues
//!
//! A place in a lock, semaphore, election or barrier is a key that is attached to the lease of
//! whoever stands there. Its create revision is its rank and the fencing token. There is no grant
//! to be written: the first places hold. Only a barrier that is complete writes to its places, all
//! in one revision.
//!
//! # Requests
//!
//! An entry that stands in the log twice is applied once: every command names its request. A retry
//! by a caller is answered from the stored outcome of its idempotency key.
//!
//! # Rows
//!
//! The state is saved as rows, of which only the changed ones are taken each time. A state restored
//! from rows is the same in every respect as the one they were taken from, and says so by its
//! digest.

mod barrier;
mod changes;
mod command;
mod compact;
mod dedupe;
mod digest;
mod invariants;
mod keys;
mod lease;
mod machine;
#[cfg(test)]
mod model_commands_test;
#[cfg(test)]
mod model_test;
mod outcome;
mod place_key;
mod query;
mod queue;
mod records;
mod restore;
#[cfg(test)]
mod restore_test;
mod rows;
#[cfg(test)]
mod script_test;
mod txn;

pub use changes::{Applied, Event, EventKind, LeaseChange, RevisionEvents};
pub use command::{
    Acquire, Bind, Command, Compare, CompareField, CompareOp, Condition, Holder, IdempotencyKey,
    Mode, NewLease, Operation, Patience, QueueKind, QueueName, Selection, Txn, TxnOperation,
};
pub use invariants::check;
pub use machine::StateMachine;
pub use outcome::{Outcome, Refusal, TxnResult};
pub use place_key::{parse_queue_key, queue_key, queue_prefix};
pub use query::{Page, QueryError, RangeContent, RangeQuery};
pub use queue::Place;
pub use records::{Lease, QueueEntry, QueueView, Record};
pub use restore::RestoreError;
pub use rows::{Meta, Row, RowChange, RowKey};
