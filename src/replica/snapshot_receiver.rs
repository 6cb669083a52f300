//! A member's side of snapshots: what has arrived of one, and what the leader is told.
//!
//! Pure. Whether an offer may be taken at all follows from the core's term and commit index, which
//! `snapshots.rs` hands in; the state itself is restored and compared off the replica's thread.

use crate::base::{Index, Instant, NodeId, Span, Term};
use crate::replica::{SnapshotJob, SnapshotPhase, SnapshotStatus};
use crate::wire::{SnapshotChunk, SnapshotMessage, SnapshotOffer, SnapshotRefusal, StoredRow};

/// After how long without a chunk what has arrived is let go.
const FORGET: Span = Span::from_secs(60);

/// The one snapshot that a member may be receiving.
///
/// Invariants: rows come in the order of their keys, chunk after chunk; while it is being
/// installed, no other is begun.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    arriving: Option<Arriving>,
    /// Why the last one was refused, and by whom it was sent.
    refusal: Option<(NodeId, SnapshotRefusal)>,
}

#[derive(Debug)]
struct Arriving {
    from: NodeId,
    offer: SnapshotOffer,
    next: u32,
    rows: Vec<StoredRow>,
    bytes: u64,
    phase: Phase,
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Arriving,
    /// All rows are there.
    Complete,
    /// With the owner of the saved state.
    Installing,
}

/// What the core knows when an offer comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    pub(super) term: Term,
    pub(super) leader: Option<NodeId>,
    /// Entries up to here need no snapshot.
    pub(super) commit: Index,
    pub(super) disk_full: bool,
}

impl Receiver {
    /// A leader offers a state. The answer, if there is one: who is not known to lead yet is not
    /// answered, it will ask again.
    pub(super) fn offer(
        &mut self,
        from: NodeId,
        offer: SnapshotOffer,
        around: Circumstances,
        now: Instant,
    ) -> Option<SnapshotMessage> {
        let id = offer.id;
        if offer.term < around.term {
            return Some(refuse(id, SnapshotRefusal::Stale));
        }
        if offer.term > around.term || around.leader != Some(from) {
            return None;
        }
        if offer.start.index <= around.commit {
            return Some(SnapshotMessage::Progress { id, next: 0, done: true });
        }
        if let Some(arriving) = &mut self.arriving {
            if (arriving.from, arriving.offer.id) == (from, id) {
                arriving.at = now;
                return Some(SnapshotMessage::Progress { id, next: arriving.next, done: false });
            }
            if arriving.phase == Phase::Installing {
                return Some(refuse(id, SnapshotRefusal::Busy));
            }
        }
        if around.disk_full {
            return Some(self.refused(from, id, SnapshotRefusal::DiskFull));
        }
        // A newer one takes the place of one that is not complete.
        self.arriving = Some(Arriving {
            from,
            offer,
            next: 0,
            rows: Vec::new(),
            bytes: 0,
            phase: Phase::Arriving,
            at: now,
        });
        Some(SnapshotMessage::Progress { id, next: 0, done: false })
    }

    /// Some rows. The answer says how far it is.
    pub(super) fn chunk(
        &mut self,
        from: NodeId,
        chunk: SnapshotChunk,
        bytes_max: u64,
        now: Instant,
    ) -> SnapshotMessage {
        let id = chunk.id;
        let known = self.arriving.as_mut().filter(|it| (it.from, it.offer.id) == (from, id));
        let Some(arriving) = known else { return refuse(id, SnapshotRefusal::Unknown) };
        arriving.at = now;
        if chunk.number != arriving.next || arriving.phase != Phase::Arriving {
            return SnapshotMessage::Progress { id, next: arriving.next, done: false };
        }
        match arriving.take(chunk, bytes_max) {
            Ok(()) => {
                self.refusal = None;
                SnapshotMessage::Progress { id, next: arriving.next, done: false }
            }
            Err(reason) => self.refused(from, id, reason),
        }
    }

    /// The work to install the rows, once all are there.
    pub(super) fn take_complete(&mut self) -> Option<SnapshotJob> {
        let arriving = self.arriving.as_mut().filter(|it| it.phase == Phase::Complete)?;
        arriving.phase = Phase::Installing;
        let rows = std::mem::take(&mut arriving.rows);
        Some(SnapshotJob::Install { offer: Box::new(arriving.offer.clone()), rows })
    }

    /// Whether all rows are there.
    pub(super) fn is_complete(&self) -> bool {
        self.arriving.as_ref().is_some_and(|it| it.phase == Phase::Complete)
    }

    /// Whether a state is being put in the place of the saved one.
    pub(super) fn is_installing(&self) -> bool {
        self.arriving.as_ref().is_some_and(|it| it.phase == Phase::Installing)
    }

    /// The owner is done with it: who sent it, and what was offered.
    pub(super) fn installed(&mut self, id: u64) -> Option<(NodeId, SnapshotOffer)> {
        let arriving = self.arriving.take_if(|it| it.offer.id == id)?;
        Some((arriving.from, arriving.offer))
    }

    /// What is to be said of a snapshot that is refused, and remembered.
    pub(super) fn refused(
        &mut self,
        from: NodeId,
        id: u64,
        reason: SnapshotRefusal,
    ) -> SnapshotMessage {
        tracing::warn!(leader = %from, %reason, "a snapshot is refused");
        self.arriving.take_if(|it| it.offer.id == id);
        self.refusal = Some((from, reason));
        refuse(id, reason)
    }

    /// Another term began: what has not arrived will not come.
    pub(super) fn term_began(&mut self) {
        self.arriving.take_if(|it| it.phase == Phase::Arriving);
    }

    /// Lets go of what nobody goes on with.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        self.arriving.take_if(|it| it.phase == Phase::Arriving && now.since(it.at) >= FORGET);
    }

    /// When [`forget_idle`](Self::forget_idle) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let arriving = self.arriving.as_ref().filter(|it| it.phase == Phase::Arriving);
        arriving.map(|it| it.at + FORGET)
    }

    /// What is shown.
    pub(super) fn status(&self) -> Option<SnapshotStatus> {
        let refusal = self.refusal.map(|(_, reason)| reason);
        match &self.arriving {
            Some(arriving) => Some(SnapshotStatus {
                member: arriving.from,
                outgoing: false,
                phase: match arriving.phase {
                    Phase::Arriving => SnapshotPhase::Transferring,
                    Phase::Complete | Phase::Installing => SnapshotPhase::Installing,
                },
                index: arriving.offer.start.index,
                rows: arriving.offer.rows,
                rows_done: match arriving.phase {
                    Phase::Installing => arriving.offer.rows,
                    Phase::Arriving | Phase::Complete => arriving.rows.len() as u64,
                },
                refusal,
            }),
            None => self.refusal.map(|(member, _)| SnapshotStatus {
                member,
                outgoing: false,
                phase: SnapshotPhase::Failed,
                index: Index(0),
                rows: 0,
                rows_done: 0,
                refusal,
            }),
        }
    }
}

impl Arriving {
    fn take(&mut self, chunk: SnapshotChunk, bytes_max: u64) -> Result<(), SnapshotRefusal> {
        if !chunk.is_intact() {
            return Err(SnapshotRefusal::Checksum);
        }
        self.bytes += chunk.size_bytes() as u64;
        if self.bytes > bytes_max {
            return Err(SnapshotRefusal::TooLarge);
        }
        let before = self.rows.last().map(|row| row.key.clone());
        let keys = before.iter().chain(chunk.rows.iter().map(|row| &row.key));
        let count = self.rows.len() as u64 + chunk.rows.len() as u64;
        let whole = count == self.offer.rows;
        if !keys.is_sorted_by(|a, b| a < b) || count > self.offer.rows || chunk.is_last != whole {
            return Err(SnapshotRefusal::Incomplete);
        }
        self.rows.extend(chunk.rows);
        self.next += 1;
        if chunk.is_last {
            self.phase = Phase::Complete;
        }
        Ok(())
    }
}

fn refuse(id: u64, reason: SnapshotRefusal) -> SnapshotMessage {
    SnapshotMessage::Refused { id, reason }
}
