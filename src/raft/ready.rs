//! What a core wants done, and in which order.

use crate::base::{Index, NodeId, ReadContext, Term};
use crate::raft::{Entry, Message};

/// What must survive a crash besides the log (paper, figure 2: persistent state).
///
/// The commit index is not needed for safety; it is kept so that a restarted node can serve local
/// reads of what it knew to be committed, and so that a rolled-back disk is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// For whom this node voted in that term.
    pub vote: Option<NodeId>,
    /// The commit index as far as known.
    pub commit: Index,
}

/// Names one [`Ready`] whose writes are to be made durable; tokens grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistToken(pub u64);

/// A batch of linearizable reads that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The name that was given to [`Raft::read`](crate::raft::Raft::read).
    pub context: ReadContext,
    /// Serve the reads once this index is applied.
    pub index: Index,
}

/// What the core wants done. Take it with `Raft::ready`; nothing in it is asked for twice.
///
/// Order: `messages` may be sent at once, in parallel with the disk. `hard_state` and `entries` go to
/// the disk in one atomic write, and writes of successive `Ready`s happen in the order of their
/// tokens. Only when the write of this `Ready` *and all before it* are durable may
/// `messages_after_persist` be sent, in order, and `Raft::persisted(token)` be called. `committed` may be applied at once: they are
/// durable on a quorum, though perhaps not yet here.
#[must_use = "a Ready that is dropped loses messages and writes"]
#[derive(Debug, Default)]
pub struct Ready {
    /// Names this write. Call `persisted(token)` when it and all earlier ones are durable, also when
    /// this `Ready` has nothing to write but has `messages_after_persist`.
    pub token: PersistToken,
    /// Write this durably, together with `entries`, when present.
    pub hard_state: Option<HardState>,
    /// Whether a power loss right after an answer to the client could break a promise if this write
    /// were not synced: term, vote or entries changed. A mere commit index may wait for the next one.
    pub must_sync: bool,
    /// Append these, consecutive; whatever the disk holds from the first one's index on is replaced.
    pub entries: Vec<Entry>,
    /// Send now, before or while the disk is written: a leader's appends and heartbeats, requests
    /// for pre-votes, rejections. Nothing in here promises anything about this node's disk.
    pub messages: Vec<Message>,
    /// Send after the write is durable: acknowledgements, granted votes, requests for votes.
    pub messages_after_persist: Vec<Message>,
    /// Apply in order, then call `applied` with the last index.
    pub committed: Vec<Entry>,
    /// Serve these once their index is applied.
    pub reads: Vec<ReadState>,
    /// Reads that were asked for and will not be answered: the role or leader changed, or there is
    /// none. The asker may ask again.
    pub reads_aborted: Vec<ReadContext>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none()
            && self.entries.is_empty()
            && self.messages.is_empty()
            && self.messages_after_persist.is_empty()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.reads_aborted.is_empty()
    }
}
