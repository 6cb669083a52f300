//! Everything that an entry can ask of the state machine: a closed set.

use bytes::Bytes;

use crate::base::{LeaseId, RequestId, Revision, Sequence, Span, Term, Token};

/// One request as it stands in the log. The leader's wall-clock stamp travels beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Names the request for ever: an entry whose request was applied before changes nothing.
    pub request: RequestId,
    /// Every request of the same boot below this is settled at its node: its fate may be forgotten.
    pub floor: Sequence,
    /// The caller's own name for the request, if it gave one.
    pub idempotency: Option<IdempotencyKey>,
    /// What is asked.
    pub operation: Operation,
}

/// A caller's own name for a request; the same name of the same user means the same request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// The user that sent the request, as the kernel told.
    pub uid: u32,
    /// 1 to 128 visible ASCII characters.
    pub key: String,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Enter the queue of a lock or election; decided within this one entry.
    Acquire(Acquire),
    /// Leases that earlier boots of the request's node had bound to processes go on under this one,
    /// with their full time to live. Those that no longer exist are skipped.
    AdoptLeases {
        /// Which.
        leases: Vec<LeaseId>,
    },
    /// A place that waited holds now, and its holder is about to be told: from here on its lease
    /// outlives the daemon, as long as this process lives.
    BindLease {
        /// Which; made with `Bind::Process`.
        lease: LeaseId,
        /// As in [`NewLease::process`].
        process: String,
    },
    /// Forget history before `revision`: reads at `revision` itself stay possible.
    Compact {
        /// The oldest revision that stays readable.
        revision: Revision,
    },
    /// Delete a key or all keys with a prefix, in one revision.
    Delete {
        /// What to delete.
        selection: Selection,
        /// For a single key only; `Condition::None` otherwise.
        condition: Condition,
    },
    /// End leases whose time is up. Does nothing when `term` is not the term of the entry, and
    /// skips each lease whose generation has moved on (RELIABILITY H1, L3).
    ExpireLeases {
        /// The term of the leader whose clock decided.
        term: Term,
        /// Each lease with the generation that was overdue.
        leases: Vec<(LeaseId, u64)>,
    },
    /// Make a lease.
    GrantLease(NewLease),
    /// A node has started: what earlier boots of it had bound to connections ends, in one revision,
    /// and so does what was bound to processes that cannot be known again. The node and boot are
    /// those of the request.
    NodeBooted,
    /// Replace the value of a candidate in an election.
    Proclaim {
        /// The election's name.
        name: Bytes,
        /// The candidate.
        token: Token,
        /// The new value.
        value: Bytes,
    },
    /// Set a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease with which the key shall end; a put without one detaches the key.
        lease: Option<LeaseId>,
        /// What must hold of the key.
        condition: Condition,
    },
    /// Leave a queue, as holder or waiter. A lease that was made by the `Acquire` itself ends too.
    Release {
        /// The queue.
        queue: QueueName,
        /// The place in it.
        token: Token,
    },
    /// End leases and delete their keys and places, all in one revision.
    RevokeLeases {
        /// Those that no longer exist are skipped, unless it is the only one.
        leases: Vec<LeaseId>,
    },
    /// Begin the next epoch: what was read of the one before is not what others may have read of
    /// it. Enters a log only off-line, when a cluster goes on without its quorum.
    StartEpoch,
    /// Compare, then do one of two lists, in one revision.
    Txn(Txn),
}

/// What must hold of a key for a single write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// The key must not exist (`If-None-Match: *`).
    Absent,
    /// Its last change must be this revision (`If-Match`).
    ModRevision(Revision),
    /// Nothing is asked.
    #[default]
    None,
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// This one.
    Key(Bytes),
    /// All that begin with this; an empty prefix is every key outside the reserved namespace `_`.
    Prefix(Bytes),
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `then`, otherwise `or_else` runs.
    pub compares: Vec<Compare>,
    /// Runs when all compares hold.
    pub then: Vec<TxnOperation>,
    /// Runs otherwise.
    pub or_else: Vec<TxnOperation>,
}

/// One condition. A key that does not exist has zero in every field; a comparison of its value is
/// false whatever the operator, as in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// What of it, against what.
    pub field: CompareField,
    /// How.
    pub op: CompareOp,
}

/// The field that is compared, with what it is compared to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareField {
    /// The revision that created the key.
    CreateRevision(Revision),
    /// The lease it is attached to; `LeaseId(0)` is none.
    Lease(LeaseId),
    /// The revision that last changed it.
    ModRevision(Revision),
    /// Its bytes, in byte order.
    Value(Bytes),
    /// How often it was set since it was created.
    Version(u64),
}

/// The operator: what is in the store stands on its left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// `==`
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
}

/// One operation of a transaction. Writes of one list see those before them; no key may be written
/// twice in one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOperation {
    /// Delete.
    Delete(Selection),
    /// Read.
    Get(Selection),
    /// Set a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease with which it shall end.
        lease: Option<LeaseId>,
    },
}

/// What keeps a lease alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bind {
    /// The daemon, as long as the connection that made it is open.
    Connection,
    /// The daemon itself: a host's own lease, parent of what is bound on that host.
    Node,
    /// The caller, by keepalives.
    None,
    /// The daemon, as long as the process lives.
    Process,
}

/// A lease to be made. One that is bound to something on a host becomes a child of that host's own
/// lease, which the same entry makes when there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLease {
    /// Time to live without a sign of life.
    pub ttl: Span,
    /// What keeps it alive. `Bind::Node` is refused here: host leases are made as parents only.
    pub bind: Bind,
    /// The process that asked or that it is bound to, if known.
    pub pid: Option<u32>,
    /// The user that asked.
    pub uid: u32,
    /// Free text for people.
    pub info: String,
    /// With `Bind::Process`: what the host knows the process by, in its own words. With it the
    /// lease outlives the daemon that granted it; at most
    /// [`PROCESS_IDENTITY_BYTES_MAX`](crate::base::limits::PROCESS_IDENTITY_BYTES_MAX) bytes.
    pub process: Option<String>,
}

/// A lock, an election or a barrier. In the order of their codes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueKind {
    /// Keys under `_elections/`.
    Election,
    /// Keys under `_locks/`.
    Lock,
    /// Keys under `_barriers/`.
    Barrier,
}

/// Beside whom a place may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// As many as there are slots.
    #[default]
    Exclusive,
    /// All other shared places; of locks with one slot only.
    Shared,
}

/// Which queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueName {
    /// Lock, election or barrier.
    pub kind: QueueKind,
    /// The name as the caller gave it, not percent-encoded.
    pub name: Bytes,
}

/// Under which lease a place in a queue is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One that exists; asking again with it is the same request, not a second place.
    Existing(LeaseId),
    /// One that is made by the same entry and ends with the place. As long as the place waits, its
    /// lease does not outlive the daemon: see [`Operation::BindLease`].
    New(NewLease),
}

/// A request to enter a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Which queue.
    pub queue: QueueName,
    /// Under which lease.
    pub holder: Holder,
    /// How many may hold at once, 1 for elections; how many a barrier waits for.
    pub slots: u32,
    /// Beside whom.
    pub mode: Mode,
    /// The lock's free text or the candidate's value: the value of the key. Not used by barriers.
    pub value: Bytes,
    /// When no slot is free, or others must come: wait, or be refused without a trace.
    pub patience: Patience,
}

/// What to do when no slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Be refused.
    Try,
    /// Stand in the queue.
    Wait,
}
