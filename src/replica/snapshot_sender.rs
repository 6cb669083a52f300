//! The leader's side of snapshots: who needs one, what of it is read and sent when, and when to
//! give up.
//!
//! Pure: what is to be done comes out as steps, which `snapshots.rs` carries out. Chunks that are
//! not acknowledged are kept, so that a broken link costs them and no more; a member that was
//! started anew begins at the first chunk.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::base::{Boot, Index, Instant, NodeId, Span, limits};
use crate::replica::requests::first_number;
use crate::replica::{SnapshotJob, SnapshotPhase, SnapshotStatus};
use crate::wire::{SnapshotChunk, SnapshotMessage, SnapshotOffer, SnapshotRefusal};

/// After how long without a word the offer is repeated, which also asks how far the member is.
const ASK_AGAIN: Span = Span::from_secs(1);
/// After how long without progress the chunks under way count as lost.
const SEND_AGAIN: Span = Span::from_secs(2);
/// After how long without a word a member is given up.
const GIVE_UP: Span = Span::from_secs(30);
/// How long a member rests after a snapshot failed, before it may ask for another.
const REST: Span = Span::from_secs(2);

/// Something to be done for the members that need a snapshot.
#[derive(Debug)]
pub(super) enum Step {
    /// The core is to probe this member again.
    Ended(NodeId),
    /// For the owner of the saved state.
    Job(SnapshotJob),
    /// For the member.
    Send(NodeId, SnapshotMessage),
}

/// The snapshots of one leader.
///
/// Invariants:
/// - At most `SNAPSHOTS_AT_ONCE` are open; each member is in at most one of `waiting`, `resting`
///   and `active`.
/// - A member's window holds the chunks from its first kept one to the last read, in order.
#[derive(Debug, Default)]
pub(super) struct Sender {
    waiting: VecDeque<NodeId>,
    resting: BTreeMap<NodeId, Instant>,
    active: BTreeMap<NodeId, Outgoing>,
    refusals: BTreeMap<NodeId, SnapshotRefusal>,
    ids_used: u64,
    /// Nothing is sent before.
    pace: Instant,
}

#[derive(Debug)]
struct Outgoing {
    id: u64,
    /// Nothing until the snapshot is open.
    offer: Option<SnapshotOffer>,
    /// The member has answered the offer.
    accepted: bool,
    after: Option<Bytes>,
    /// How many chunks were read.
    read: u32,
    reading: bool,
    read_all: bool,
    window: VecDeque<SnapshotChunk>,
    /// The next chunk to send.
    send: u32,
    /// The chunk that the member needs next.
    wanted: u32,
    rows_kept: u64,
    heard: Instant,
    asked: Instant,
    moved: Instant,
}

impl Outgoing {
    fn new(id: u64, now: Instant) -> Self {
        Self {
            id,
            offer: None,
            accepted: false,
            after: None,
            read: 0,
            reading: false,
            read_all: false,
            window: VecDeque::new(),
            send: 0,
            wanted: 0,
            rows_kept: 0,
            heard: now,
            asked: now,
            moved: now,
        }
    }

    /// The number of the first chunk that is still kept.
    fn first_kept(&self) -> u32 {
        self.window.front().map_or(self.read, |chunk| chunk.number)
    }

    fn forget_acknowledged(&mut self) {
        while self.window.front().is_some_and(|chunk| chunk.number < self.wanted) {
            self.window.pop_front();
        }
        self.send = self.send.max(self.wanted);
    }

    /// The member wants a chunk that is gone: everything is read again, and what it has is skipped.
    fn read_again(&mut self) {
        (self.after, self.read, self.read_all) = (None, 0, false);
        self.window.clear();
        self.rows_kept = 0;
        self.send = self.wanted;
    }
}

impl Sender {
    /// The sender of one boot.
    pub(super) fn of_boot(boot: Boot) -> Self {
        Self { ids_used: first_number(boot), ..Self::default() }
    }

    /// The core says that `to` needs a snapshot.
    pub(super) fn need(&mut self, to: NodeId) {
        let known = self.active.contains_key(&to) || self.resting.contains_key(&to);
        if !known && !self.waiting.contains(&to) {
            self.waiting.push_back(to);
        }
    }

    /// This node leads no more, or in another term: everything is given up.
    pub(super) fn abort(&mut self) -> Vec<Step> {
        self.waiting.clear();
        self.resting.clear();
        self.refusals.clear();
        let active = std::mem::take(&mut self.active);
        active.into_values().map(|out| Step::Job(SnapshotJob::Close { id: out.id })).collect()
    }

    /// To whom the snapshot of this name is to be sent.
    pub(super) fn member(&self, id: u64) -> Option<NodeId> {
        self.active.iter().find(|(_, out)| out.id == id).map(|(&to, _)| to)
    }

    /// The snapshot is open; without an offer it cannot be sent.
    pub(super) fn opened(
        &mut self,
        to: NodeId,
        offer: Option<SnapshotOffer>,
        now: Instant,
    ) -> Vec<Step> {
        let Some(out) = self.active.get_mut(&to) else { return Vec::new() };
        let Some(offer) = offer else { return self.fail(to, now) };
        out.offer = Some(offer.clone());
        (out.heard, out.asked) = (now, now);
        vec![Step::Send(to, SnapshotMessage::Offer(offer))]
    }

    /// A chunk was read; without one the snapshot is gone.
    pub(super) fn read(
        &mut self,
        to: NodeId,
        chunk: Option<SnapshotChunk>,
        now: Instant,
    ) -> Vec<Step> {
        let Some(out) = self.active.get_mut(&to) else { return Vec::new() };
        let Some(chunk) = chunk else { return self.fail(to, now) };
        out.reading = false;
        // Of a reading that was begun again meanwhile.
        if chunk.number != out.read || out.read_all {
            return Vec::new();
        }
        out.after = chunk.rows.last().map(|row| row.key.clone());
        out.read += 1;
        out.read_all = chunk.is_last;
        out.rows_kept += chunk.rows.len() as u64;
        out.window.push_back(chunk);
        out.forget_acknowledged();
        Vec::new()
    }

    /// The member says how far it is.
    pub(super) fn progress(
        &mut self,
        to: NodeId,
        (id, next, done): (u64, u32, bool),
        now: Instant,
    ) -> Vec<Step> {
        let Some(out) = self.active.get_mut(&to).filter(|out| out.id == id) else {
            return Vec::new();
        };
        (out.heard, out.accepted) = (now, true);
        if done {
            self.refusals.remove(&to);
            self.active.remove(&to);
            return vec![Step::Job(SnapshotJob::Close { id }), Step::Ended(to)];
        }
        if next != out.wanted {
            (out.wanted, out.moved, out.asked) = (next, now, now);
        }
        if next < out.first_kept() {
            out.read_again();
        }
        out.forget_acknowledged();
        Vec::new()
    }

    /// The member does not take it.
    pub(super) fn refused(
        &mut self,
        to: NodeId,
        id: u64,
        reason: SnapshotRefusal,
        now: Instant,
    ) -> Vec<Step> {
        let Some(out) = self.active.get_mut(&to).filter(|out| out.id == id) else {
            return Vec::new();
        };
        out.heard = now;
        if reason == SnapshotRefusal::Unknown {
            (out.wanted, out.accepted, out.asked) = (0, false, now);
            if out.first_kept() > 0 {
                out.read_again();
            }
            out.send = 0;
            let offer = out.offer.clone().map(SnapshotMessage::Offer);
            return offer.into_iter().map(|offer| Step::Send(to, offer)).collect();
        }
        tracing::warn!(member = %to, %reason, "a member refused a snapshot");
        self.refusals.insert(to, reason);
        self.fail(to, now)
    }

    /// Everything that is due at `now`, at this many bytes in a second.
    pub(super) fn advance(&mut self, bytes_per_second: u64, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let rested = self.resting.iter().filter(|(_, until)| **until <= now);
        for to in rested.map(|(&to, _)| to).collect::<Vec<_>>() {
            self.resting.remove(&to);
            steps.push(Step::Ended(to));
        }
        while self.active.len() < limits::SNAPSHOTS_AT_ONCE
            && let Some(to) = self.waiting.pop_front()
        {
            self.ids_used += 1;
            let id = self.ids_used;
            self.active.insert(to, Outgoing::new(id, now));
            steps.push(Step::Job(SnapshotJob::Open { id }));
        }
        for to in self.active.keys().copied().collect::<Vec<_>>() {
            steps.extend(self.advance_one(to, bytes_per_second, now));
        }
        steps
    }

    fn advance_one(&mut self, to: NodeId, bytes_per_second: u64, now: Instant) -> Vec<Step> {
        let out = self.active.get_mut(&to).expect("callers name one that is active");
        let Some(offer) = &out.offer else { return Vec::new() };
        if now.since(out.heard) >= GIVE_UP {
            tracing::warn!(member = %to, "a member is silent while a snapshot is sent to it");
            return self.fail(to, now);
        }
        let mut steps = Vec::new();
        if now.since(out.asked) >= ASK_AGAIN {
            out.asked = now;
            steps.push(Step::Send(to, SnapshotMessage::Offer(offer.clone())));
        }
        if !out.accepted {
            return steps;
        }
        if out.send > out.wanted && now.since(out.moved) >= SEND_AGAIN {
            (out.send, out.moved) = (out.wanted, now);
        }
        while self.pace <= now
            && let Some(offset) = out.send.checked_sub(out.first_kept())
            && let Some(chunk) = out.window.get(offset as usize)
        {
            if out.send == out.wanted {
                out.moved = now;
            }
            let bytes = chunk.size_bytes() as u64;
            let micros = bytes.saturating_mul(1_000_000) / bytes_per_second.max(1);
            self.pace = self.pace.max(now) + Span::from_micros(micros);
            steps.push(Step::Send(to, SnapshotMessage::Chunk(chunk.clone())));
            out.send += 1;
        }
        if !out.reading && !out.read_all && out.window.len() < limits::SNAPSHOT_CHUNKS_IN_FLIGHT {
            out.reading = true;
            let (number, after) = (out.read, out.after.clone());
            steps.push(Step::Job(SnapshotJob::Read { id: out.id, number, after }));
        }
        steps
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let of_active = self.active.values().filter(|out| out.offer.is_some()).flat_map(|out| {
            let sends = out.accepted && (out.send as usize) < out.read as usize;
            let resends = out.accepted && out.send > out.wanted;
            [
                Some(out.heard + GIVE_UP),
                Some(out.asked + ASK_AGAIN),
                sends.then_some(self.pace),
                resends.then_some(out.moved + SEND_AGAIN),
            ]
        });
        self.resting.values().copied().map(Some).chain(of_active).flatten().min()
    }

    /// What is shown.
    pub(super) fn status(&self) -> Vec<SnapshotStatus> {
        let blank = |member, phase| SnapshotStatus {
            member,
            outgoing: true,
            phase,
            index: Index(0),
            rows: 0,
            rows_done: 0,
            refusal: self.refusals.get(&member).copied(),
        };
        let waiting = self.waiting.iter().map(|&to| blank(to, SnapshotPhase::Waiting));
        let resting = self.resting.keys().map(|&to| blank(to, SnapshotPhase::Failed));
        let active = self.active.iter().map(|(&to, out)| SnapshotStatus {
            index: out.offer.as_ref().map_or(Index(0), |offer| offer.start.index),
            rows: out.offer.as_ref().map_or(0, |offer| offer.rows),
            rows_done: out.rows_kept - out.window.iter().map(|c| c.rows.len() as u64).sum::<u64>(),
            ..blank(to, SnapshotPhase::Transferring)
        });
        waiting.chain(resting).chain(active).collect()
    }

    fn fail(&mut self, to: NodeId, now: Instant) -> Vec<Step> {
        let Some(out) = self.active.remove(&to) else { return Vec::new() };
        self.resting.insert(to, now + REST);
        vec![Step::Job(SnapshotJob::Close { id: out.id })]
    }
}
