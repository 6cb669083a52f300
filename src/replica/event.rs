//! Everything that can happen to a replica: a closed list.

use crate::base::{Instant, LeaseId, NodeId, Revision, Token, WallMillis};
use crate::raft::PersistToken;
use crate::replica::SnapshotDone;
use crate::state::{IdempotencyKey, Operation, QueueName};
use crate::wire::{MembersOrder, PeerMessage};

/// The two clocks as they stand when something is handled.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The node's own monotonic clock.
    pub instant: Instant,
    /// The wall clock, for the stamp that a leader puts on entries.
    pub wall: WallMillis,
}

/// Names a local request until it is answered; drawn by the owner of the replica, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Whoever waits for this ticket has gone. A write that was handed over may still be applied.
    Abandon(Ticket),
    /// These leases, which earlier boots of this node had bound to processes, go on under this one:
    /// their processes live. What became of the others is none of this event's business: nobody
    /// keeps them alive.
    AdoptLeases(Vec<LeaseId>),
    /// The disk cannot take any more, or can again.
    Disk {
        /// Whether nothing may be appended, here or for another leader.
        full: bool,
    },
    /// The free space of the disk fell below the reserve, or rose above it again.
    DiskLow {
        /// Whether a leader must refuse new writes. A follower goes on to take what another leader
        /// accepted, because it could not serve the newest state to its own readers otherwise.
        low: bool,
    },
    /// The process is about to stop: refuse new requests.
    Drain,
    /// What these leases were bound to is gone: revoke them, as soon as a leader can be reached.
    EndLeases(Vec<LeaseId>),
    /// A local caller keeps a lease alive that nothing else keeps.
    Keepalive {
        /// Answered with `Ok(Outcome::Done)` once a leader has confirmed itself.
        ticket: Ticket,
        /// Which lease.
        lease: LeaseId,
        /// When to give up.
        deadline: Instant,
    },
    /// The process is about to stop: hand the lead over, if this node leads or ever will.
    GiveWay,
    /// Whoever stood here has gone: leave the queue, as soon as a leader can be reached.
    LeaveQueue {
        /// Which queue.
        queue: QueueName,
        /// Which place.
        token: Token,
    },
    /// The connection to a peer broke.
    PeerDown {
        /// Which.
        peer: NodeId,
        /// Whether it refused to be dialled again at once: its process is gone.
        redial_failed: bool,
    },
    /// A local operator gives an order about the members.
    Members {
        /// Answered with `Action::MembersReply`.
        ticket: Ticket,
        /// What.
        order: MembersOrder,
        /// When to give up.
        deadline: Instant,
    },
    /// A peer sent something; the transport has checked who it is.
    PeerMessage {
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// So many voters refuse this node as removed that no quorum is left which might know better;
    /// or one of them takes it again.
    PeersSayRemoved {
        /// Which.
        removed: bool,
    },
    /// Messages to this peer will arrive from now on.
    PeerUp {
        /// Which.
        peer: NodeId,
    },
    /// A local caller wants to read what was committed before now.
    Read {
        /// Answered when the view may be read.
        ticket: Ticket,
        /// When to give up.
        deadline: Instant,
    },
    /// The state of an `Action::Save` is durable.
    Saved,
    /// What came of an `Action::Snapshot`.
    Snapshot(SnapshotDone),
    /// A local caller wants something written.
    Submit {
        /// Answered with its outcome.
        ticket: Ticket,
        /// What.
        operation: Operation,
        /// The caller's own name for the request.
        idempotency: Option<IdempotencyKey>,
        /// When to give up.
        deadline: Instant,
    },
    /// An operator wants the state of this node, which is fenced off, replaced by the leader's. No
    /// effect on one that is not.
    Rebuild,
    /// A deadline of [`Replica::next_deadline`](crate::replica::Replica::next_deadline) has come.
    Timeout,
    /// A local caller wants to read at least this revision of this node's own state.
    WaitRevision {
        /// Answered when the view holds it.
        ticket: Ticket,
        /// Which.
        revision: Revision,
        /// When to give up.
        deadline: Instant,
    },
    /// The write of an `Action::Write` with this token, and all before it, are durable.
    Written(PersistToken),
}
