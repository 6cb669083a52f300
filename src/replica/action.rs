//! Everything that a replica wants done: a closed list.

use std::sync::Arc;

use crate::base::{LeaseId, NodeId, Revision};
use crate::raft::PersistToken;
use crate::replica::{RequestError, SnapshotJob, Ticket};
use crate::state::{LeaseChange, Outcome, QueueName, RevisionEvents, RowChange};
use crate::storage::LogBatch;
use crate::wire::{MembersReply, PeerMessage};

/// Something to do. Actions of one poll are done in their order; none may be left out.
#[derive(Debug)]
pub enum Action {
    /// Tell whoever waits for this ticket. A read's answer is `Outcome::Done`: look at the view
    /// now.
    Answer {
        /// Which.
        ticket: Ticket,
        /// What.
        result: Result<Outcome, RequestError>,
    },
    /// Tell whoever waits for this ticket what became of its order about the members. For a
    /// transfer of the lead: once it has moved.
    MembersReply {
        /// Which.
        ticket: Ticket,
        /// What the leader said, or why there is no word of it.
        result: Result<MembersReply, RequestError>,
    },
    /// Stop the process: going on could break a promise.
    Fatal(String),
    /// The view has changed: wake those who watch.
    Published(Published),
    /// Write to `state.redb` in one transaction, in the background, then send `Event::Saved`. There
    /// is never more than one of these under way.
    Save(Vec<RowChange>),
    /// Hand to the transport; may be lost.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Work on `state.redb` for a snapshot, in the order of these and of saves, in the background;
    /// what comes of it goes into `Event::Snapshot`. See
    /// [`SnapshotDesk`](crate::replica::SnapshotDesk).
    Snapshot(SnapshotJob),
    /// Write to `raft.redb`, in the order of these actions, then send `Event::Written(token)`. The
    /// writer may merge several into one transaction; it then reports the last token.
    Write {
        /// Names the write.
        token: PersistToken,
        /// What; may be empty, and is reported in its turn all the same.
        batch: LogBatch,
    },
}

/// What has changed in the view since the last one.
#[derive(Debug, Default)]
pub struct Published {
    /// New revisions, oldest first; they are in the view's history already.
    pub events: Vec<Arc<RevisionEvents>>,
    /// Leases that began or ended.
    pub leases: Vec<LeaseChange>,
    /// Leases of this node whose promise changed its state: held, at risk, lost.
    pub promises: Vec<LeaseId>,
    /// Queues in which a place was taken, left or changed.
    pub queues: Vec<QueueName>,
    /// Whether the status (role, leader, members) changed.
    pub status: bool,
    /// A state from elsewhere took the place of the former one, and this is its revision: whoever
    /// watches or follows anything is to look again.
    pub installed: Option<Revision>,
}

impl Published {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.leases.is_empty()
            && self.promises.is_empty()
            && self.queues.is_empty()
            && !self.status
            && self.installed.is_none()
    }
}
