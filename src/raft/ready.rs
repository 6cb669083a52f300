//! What a core wants done, in which order, and what is known of it when it has been done.
//!
//! What there is to do is decided elsewhere; here it is handed out once, and the writes under way
//! are remembered.

use std::collections::VecDeque;

use crate::base::{Index, Instant, NodeId, ReadContext, Term};
use crate::raft::roles::State;
use crate::raft::{Entry, LogStart, Message, Raft};

/// What must survive a crash besides the log (paper, figure 2: persistent state).
///
/// The commit index is not needed for safety; it is kept so that a restarted node can serve local
/// reads of what it knew to be committed, and so that a rolled-back disk is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// For whom this node voted in that term.
    pub vote: Option<NodeId>,
    /// The commit index as far as known.
    pub commit: Index,
}

/// Names one [`Ready`] whose writes are to be made durable; tokens grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistToken(pub u64);

/// A batch of linearizable reads that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadState {
    /// The name that was given to [`Raft::read`](crate::raft::Raft::read).
    pub context: ReadContext,
    /// Serve the reads once this index is applied.
    pub index: Index,
}

/// What the core wants done. Take it with `Raft::ready`; nothing in it is asked for twice.
///
/// Order: `messages` may be sent at once, in parallel with the disk. `hard_state` and `entries` go
/// to the disk in one atomic write, and writes of successive `Ready`s happen in the order of their
/// tokens. Only when the write of this `Ready` *and all before it* are durable may
/// `messages_after_persist` be sent, in order, and `Raft::persisted(token)` be called. `committed`
/// may be applied at once: they are durable on a quorum, though perhaps not yet here. Whoever saves
/// the applied state must wait until `Status::persisted` has reached it: a saved state that is
/// ahead of the durable log is refused at the next start.
#[must_use = "a Ready that is dropped loses messages and writes"]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ready {
    /// Names this write. Call `persisted(token)` when it and all earlier ones are durable, also
    /// when this `Ready` has nothing to write but has `messages_after_persist`.
    pub token: PersistToken,
    /// Write this durably, together with `entries`, when present.
    pub hard_state: Option<HardState>,
    /// Whether a power loss right after an answer to the client could break a promise if this write
    /// were not synced: term, vote or entries changed. A mere commit index may wait for the next
    /// one.
    pub must_sync: bool,
    /// Append these, consecutive; whatever the disk holds from the first one's index on is
    /// replaced.
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
    /// Members that need what the log no longer holds: they need a snapshot. Each is named once
    /// until `Raft::snapshot_ended` is called for it.
    pub snapshots: Vec<NodeId>,
    /// A state was installed: on disk the log shall begin after this point, and nothing of it but
    /// `entries` shall follow, unless it already holds the point itself. To be written in the same
    /// atomic write, before the entries.
    pub cut: Option<LogStart>,
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
            && self.snapshots.is_empty()
            && self.cut.is_none()
    }
}

/// The writes that were handed out and are not durable yet, and what has been handed out at all.
///
/// Invariants: tokens grow along the queue; no write in it claims an entry that a later one
/// replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writes {
    last_token: PersistToken,
    /// The hard state that the last `Ready` with one carried.
    hard_state: HardState,
    /// The term that is durable.
    durable_term: Term,
    /// Entries up to here were handed out to be applied.
    applying: Index,
    under_way: VecDeque<Write>,
}

/// What becomes true when one write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Write {
    token: PersistToken,
    /// Entries up to here, unless a later truncation has lowered it.
    last_index: Index,
    term: Term,
    vote: Option<NodeId>,
}

impl Writes {
    /// Nothing under way: the disk holds `hard_state`, the state machine everything up to
    /// `applied`.
    pub(super) fn restored(hard_state: HardState, applied: Index) -> Self {
        let last_token = PersistToken::default();
        let (durable_term, under_way) = (hard_state.term, VecDeque::new());
        Self { last_token, hard_state, durable_term, applying: applied, under_way }
    }

    /// The term that is durable.
    pub(super) fn durable_term(&self) -> Term {
        self.durable_term
    }

    /// Entries up to here were handed out to be applied.
    pub(super) fn applying(&self) -> Index {
        self.applying
    }

    /// Entries from `index` on are being replaced. A write of them that is still under way proves
    /// nothing about them any more, not even when an entry of the same term returns to the same
    /// index: on the disk the write of the replacement still lies between (RELIABILITY B6).
    pub(super) fn truncate_from(&mut self, index: Index) {
        for write in &mut self.under_way {
            write.last_index = write.last_index.min(index.previous());
        }
    }

    /// The state at `index` was installed: nothing up to it is applied any more, and a write under
    /// way of entries beyond it proves nothing about what will stand there.
    pub(super) fn begin_after(&mut self, index: Index) {
        self.applying = index;
        self.truncate_from(index.next());
    }

    /// Gives the tokens `waiting`, which grow, the numbers from one on, and none later than them:
    /// for tests that compare states.
    #[cfg(test)]
    pub(super) fn renumber(&mut self, waiting: &[PersistToken]) {
        self.last_token = PersistToken(waiting.len() as u64);
        for write in &mut self.under_way {
            let place = waiting.iter().position(|token| *token == write.token);
            let place = place.expect("what is under way waits for its disk");
            write.token = PersistToken(place as u64 + 1);
        }
    }

    /// Panics, with values, when an invariant does not hold.
    pub(super) fn check(&self, log_last: Index) {
        let mut before = PersistToken::default();
        for write in &self.under_way {
            let (token, last_index) = (write.token, write.last_index);
            assert!(token > before, "{token:?} is under way after {before:?}");
            assert!(token <= self.last_token, "{token:?} was never handed out");
            assert!(
                last_index <= log_last,
                "a write claims {last_index}, the log ends at {log_last}"
            );
            before = token;
        }
    }
}

impl Raft {
    /// Whether [`ready`](Raft::ready) has something to hand out. May say yes for nothing once.
    pub fn has_ready(&self) -> bool {
        let dirty = matches!(&self.state, State::Leader(leader) if leader.dirty);
        dirty
            || !self.out.is_empty()
            || self.hard_state() != self.writes.hard_state
            || self.log.handed() < self.log.last_index()
            || self.writes.applying < self.commit
    }

    /// Hands out everything that is to be done since the last call. Several may be under way at
    /// once.
    pub fn ready(&mut self) -> Ready {
        if matches!(&self.state, State::Leader(leader) if leader.dirty) {
            self.start_round();
            self.feed_members();
            if let State::Leader(leader) = &mut self.state {
                leader.dirty = false;
            }
        }
        let mut ready = std::mem::take(&mut self.out);
        self.writes.last_token.0 += 1;
        ready.token = self.writes.last_token;
        let (before, hard_state) = (self.writes.hard_state, self.hard_state());
        let voted = (before.term, before.vote) != (hard_state.term, hard_state.vote);
        ready.hard_state = (hard_state != before).then_some(hard_state);
        ready.entries = self.log.hand_out();
        ready.must_sync = voted || !ready.entries.is_empty() || ready.cut.is_some();
        ready.committed = self.hand_out_committed();
        self.writes.hard_state = hard_state;
        if ready.must_sync {
            self.writes.under_way.push_back(Write {
                token: ready.token,
                last_index: self.log.last_index(),
                term: hard_state.term,
                vote: hard_state.vote,
            });
        }
        ready
    }

    /// The write of the `Ready` with this `token`, and all before it, are durable. Calls may come
    /// out of order: a later token says all that an earlier one does. Panics on a token that was
    /// never handed out.
    pub fn persisted(&mut self, now: Instant, token: PersistToken) {
        self.now = self.now.max(now);
        let last = self.writes.last_token;
        assert!(token <= last, "{token:?} is durable, but only {last:?} was handed out");
        let mut newest = None;
        while let Some(write) = self.writes.under_way.front().filter(|write| write.token <= token) {
            newest = Some(*write);
            self.writes.under_way.pop_front();
        }
        let Some(write) = newest else { return };
        self.log.set_durable(write.last_index);
        self.writes.durable_term = write.term;
        if (write.term, write.vote) == (self.term, Some(self.node)) {
            self.own_vote_durable();
        }
        self.advance_commit();
    }

    /// Everything up to `index` is applied. Panics when that was not handed out.
    pub fn applied(&mut self, index: Index) {
        let applying = self.writes.applying;
        assert!(index <= applying, "{index} applied, but only {applying} was given out");
        self.applied = self.applied.max(index);
    }

    /// Committed entries that were not handed out yet, a bounded piece at a time.
    fn hand_out_committed(&mut self) -> Vec<Entry> {
        let first = self.writes.applying.next();
        if first > self.commit {
            return Vec::new();
        }
        let bytes_max = self.options.inflight_bytes_max;
        let committed = self.log.slice(first, self.commit, bytes_max, usize::MAX);
        if let Some(last) = committed.last() {
            self.writes.applying = last.index;
        }
        committed
    }

    fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit }
    }
}
