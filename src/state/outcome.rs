//! What an applied entry answers: a closed set. A refusal is an outcome, not an error: it is the
//! same on every replica.

use crate::base::{LeaseId, Revision, Token};
use crate::state::{QueueEntry, Record};

/// The answer to one applied command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A place in a queue.
    Acquired {
        /// Under which lease.
        lease: LeaseId,
        /// The fencing token: strictly greater than that of every earlier place of this name.
        token: Token,
        /// How many must leave before this one holds, or come before its barrier lets it go; zero:
        /// it holds, or was let go.
        ahead: u64,
        /// The store's revision after this entry.
        revision: Revision,
    },
    /// History before this is gone.
    Compacted {
        /// The oldest revision that is still readable.
        compact_revision: Revision,
        /// The store's revision.
        revision: Revision,
    },
    /// Keys are gone.
    Deleted {
        /// How many.
        deleted: u64,
        /// The store's revision after this entry.
        revision: Revision,
    },
    /// The entry only moved the state along (a node's boot, an expiry).
    Done {
        /// The store's revision after this entry.
        revision: Revision,
    },
    /// The request was applied by an earlier entry; this one changed nothing. Its node has, or had,
    /// the answer of the first.
    Duplicate,
    /// A lease was made.
    Granted {
        /// Its name.
        lease: LeaseId,
        /// The store's revision.
        revision: Revision,
    },
    /// A key was set.
    Put {
        /// The key's new `mod_revision`, and the store's revision after this entry.
        revision: Revision,
        /// The revision that created it.
        create_revision: Revision,
        /// How often it was set since.
        version: u64,
    },
    /// Nothing was changed, for a reason.
    Refused(Refusal),
    /// A place in a queue was left.
    Released {
        /// The store's revision after this entry.
        revision: Revision,
    },
    /// Leases ended.
    Revoked {
        /// How many of those named existed.
        revoked: u64,
        /// The store's revision after this entry.
        revision: Revision,
    },
    /// A transaction ran.
    Txn {
        /// Which list ran: `then` when true.
        succeeded: bool,
        /// The store's revision after this entry.
        revision: Revision,
        /// One result per operation of that list. Empty, though the list was not, in an outcome
        /// that was remembered behind an idempotency key without the many records it had read.
        results: Vec<TxnResult>,
    },
}

/// The result of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// How many keys went.
    Deleted(u64),
    /// What was read, in key order.
    Got(Vec<Record>),
    /// The key's new version counters are those of this record's head; the value is not repeated.
    Put {
        /// The revision that created it.
        create_revision: Revision,
        /// How often it was set since.
        version: u64,
    },
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The revision is already compacted.
    Compacted {
        /// The oldest revision that is still readable.
        compact_revision: Revision,
    },
    /// A transaction writes one key twice in one list.
    DuplicateKey,
    /// The revision has not happened yet.
    FutureRevision {
        /// The store's revision.
        revision: Revision,
    },
    /// There is no such lease.
    LeaseNotFound {
        /// The one that was named.
        lease: LeaseId,
    },
    /// A try-lock found no free slot, or a barrier that others must come to first.
    LockHeld {
        /// Who holds, or waits at the barrier.
        holders: Vec<QueueEntry>,
    },
    /// The token holds and waits for nothing under this name.
    NotHeld,
    /// The lease stands in this lock already, in the other mode.
    OtherMode {
        /// Its place there.
        token: Token,
    },
    /// `If-Match` or `If-None-Match` did not hold.
    PreconditionFailed {
        /// The key's last change; zero when it does not exist.
        mod_revision: Revision,
    },
    /// The others in this queue name another number of slots.
    SlotsDiffer {
        /// What they name.
        slots: u32,
    },
    /// The request belongs to a boot of its node that has ended, or lies below that node's floor.
    Stale,
}
