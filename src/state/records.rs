//! The things that the state consists of, as readers see them.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::{Boot, LeaseId, NodeId, Revision, Span, Token};
use crate::state::{Bind, Mode, QueueName};

/// A key with its value at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key, after its last deletion.
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// How often it was set since it was created; the first is 1.
    pub version: u64,
    /// The lease with which it ends.
    pub lease: Option<LeaseId>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives without a sign of life.
    pub ttl: Span,
    /// What keeps it alive.
    pub bind: Bind,
    /// The host's own lease under which it hangs; revoked with it.
    pub parent: Option<LeaseId>,
    /// The node whose API made it.
    pub node: NodeId,
    /// The boot of that node.
    pub boot: Boot,
    /// The process it is bound to or that asked for it.
    pub pid: Option<u32>,
    /// The user that asked for it.
    pub uid: u32,
    /// Free text for people.
    pub info: String,
    /// Grows with each logged change of its terms; an expiry decided before such a change is void.
    pub generation: u64,
    /// Whether it was made by an `Acquire` and ends with that place.
    pub owned_by_place: bool,
    /// With `Bind::Process`: what the host knows the process by. Without it the lease ends with
    /// the boot of the node, as one that is bound to a connection does.
    pub process: Option<String>,
    /// The keys attached to it, places in queues among them.
    pub keys: BTreeSet<Bytes>,
}

/// A place in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// The fencing token: the create revision of its key.
    pub token: Token,
    /// The lease that holds it.
    pub lease: LeaseId,
    /// Beside whom it may hold.
    pub mode: Mode,
    /// The lock's free text, the candidate's value, or how a place at a barrier stands.
    pub value: Bytes,
}

/// A lock, election or barrier as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Which.
    pub queue: QueueName,
    /// How many may hold at once, not counting shared places; how many a barrier waits for.
    pub slots: u32,
    /// Those that hold, or were let go by the barrier, oldest first.
    pub holders: Vec<QueueEntry>,
    /// Those that wait, first come first.
    pub waiters: Vec<QueueEntry>,
}
