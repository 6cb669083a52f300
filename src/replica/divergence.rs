//! Whether this node's state is still that of the others, and the fence around one that differs.
//!
//! Every member notes the digest of its state after each entry whose index is a multiple of
//! [`Options::digest_every`](crate::replica::Options), and tells the leader. The leader compares,
//! and tells whoever has another digest than a quorum of the voters. That node checks it against
//! its own notes: so an answer that is late, repeated or meant for the state before a rebuild
//! changes nothing, and neither does one that was lost, because the next index comes.
//!
//! A fenced node applies nothing, answers nothing from its state, promises nothing and decides
//! nothing as a leader; it votes and replicates, for which the log is enough. What is told to its
//! callers is decided in `api/`; how it gets another state, in `snapshots.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Index, Instant, NodeId, Span, limits};
use crate::raft::Membership;
use crate::replica::{Replica, RequestError, UnavailableReason};
use crate::state::StateMachine;
use crate::wire::{DigestReport, PeerMessage};

/// How many indexes are remembered, of this node's own digests and of the others'.
const INDEXES_KEPT: usize = 16;

/// After how long a leader is asked again for its state.
const ASK_AGAIN: Span = Span::from_secs(3);

/// Why a node is fenced off: its state is not what the others made of the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// After which entry it was noticed.
    pub index: Index,
    /// This node's digest there.
    pub own: u64,
    /// The digest of a quorum of the voters there.
    pub expected: u64,
}

/// What is known of the digests.
///
/// Invariants:
/// - `own` and `reports` hold at most `INDEXES_KEPT` indexes, the newest, all of them multiples of
///   the interval, and reports only of indexes that this node knows to be committed.
/// - Once there is a fence, it stays until the state is replaced.
#[derive(Debug, Default)]
pub(super) struct Divergence {
    own: BTreeMap<Index, u64>,
    reports: BTreeMap<Index, BTreeMap<NodeId, u64>>,
    fence: Option<Fence>,
    agreed: Index,
    /// There is a note that the leader has not been told of.
    untold: bool,
    /// The state is to be replaced.
    rebuild: bool,
    /// When the leader was asked for its state.
    asked: Option<Instant>,
}

/// What a comparison at one index says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    /// The digest of a quorum.
    digest: u64,
    /// Who reported another.
    differ: Vec<NodeId>,
}

impl Divergence {
    /// The fence, if this node has one.
    pub(super) fn fence(&self) -> Option<Fence> {
        self.fence
    }

    /// The last index at which this leader saw a quorum agree.
    pub(super) fn agreed(&self) -> Index {
        self.agreed
    }

    /// The newest of this node's own notes.
    fn newest(&self) -> Option<DigestReport> {
        self.own.last_key_value().map(|(&index, &digest)| DigestReport { index, digest })
    }

    /// The state of a node that is fenced off is to be replaced.
    pub(super) fn rebuild(&mut self) {
        self.rebuild |= self.fence.is_some();
    }

    /// Whether it is.
    pub(super) fn is_rebuilding(&self) -> bool {
        self.rebuild
    }

    /// Whoever leads now was told nothing.
    pub(super) fn tell_again(&mut self) {
        self.untold = true;
    }

    fn note(&mut self, report: DigestReport) {
        self.untold = true;
        self.own.insert(report.index, report.digest);
        if self.own.len() > INDEXES_KEPT {
            self.own.pop_first();
        }
    }

    /// What another member says. Only of the last few indexes: what is older was compared, or never
    /// will be.
    fn report(&mut self, from: NodeId, report: DigestReport) {
        let oldest = self.reports.first_key_value().map(|(&index, _)| index);
        let full = self.reports.len() >= INDEXES_KEPT;
        if full && oldest.is_some_and(|oldest| report.index < oldest) {
            return;
        }
        self.reports.entry(report.index).or_default().insert(from, report.digest);
        if self.reports.len() > INDEXES_KEPT {
            self.reports.pop_first();
        }
    }

    /// Compares what was said about `index`, this node's own word among it.
    fn verdict(&self, node: NodeId, index: Index, membership: &Membership) -> Option<Verdict> {
        let mut said = self.reports.get(&index).cloned().unwrap_or_default();
        said.extend(self.own.get(&index).map(|&digest| (node, digest)));
        said.retain(|&node, _| membership.contains(node));
        let digests: BTreeSet<u64> = said.values().copied().collect();
        let of_quorum = |digest: &u64| membership.is_quorum(|node| said.get(&node) == Some(digest));
        let digest = digests.into_iter().find(of_quorum)?;
        let differ = said.iter().filter(|(_, other)| **other != digest);
        Some(Verdict { digest, differ: differ.map(|(&node, _)| node).collect() })
    }

    /// Whether the word of a quorum is about a state that this node had, and differs.
    fn contradicts(&self, expected: DigestReport) -> Option<Fence> {
        let own = *self.own.get(&expected.index)?;
        let DigestReport { index, digest: expected } = expected;
        (own != expected).then_some(Fence { index, own, expected })
    }
}

impl Replica {
    /// Notes the digest when the entry that was just applied is one at which all compare.
    pub(super) fn note_digest(&mut self, machine: &StateMachine) {
        let index = machine.applied_index();
        if index.get().is_multiple_of(self.options.digest_every.max(1)) {
            self.divergence.note(DigestReport { index, digest: machine.digest() });
        }
    }

    /// Tells the leader of the newest note, or compares as the leader. Also after a change of
    /// leader: the one before may have been told, and have told nobody.
    pub(super) fn tell_digest(&mut self, now: Instant) {
        if !std::mem::take(&mut self.divergence.untold) || self.is_fenced() {
            return;
        }
        let Some(report) = self.divergence.newest() else { return };
        if self.leadership.leads {
            self.compare_digests(now, report.index);
        } else if let Some(leader) = self.leadership.leader {
            self.send(leader, PeerMessage::Digest(report));
        }
    }

    /// Another member's digest.
    pub(super) fn digest_reported(&mut self, now: Instant, from: NodeId, report: DigestReport) {
        let is_agreed_index = report.index.get().is_multiple_of(self.options.digest_every.max(1));
        if !self.leadership.leads || !is_agreed_index || report.index > self.raft.commit() {
            return;
        }
        if !self.raft.membership().contains(from) {
            return;
        }
        self.divergence.report(from, report);
        self.compare_digests(now, report.index);
    }

    fn compare_digests(&mut self, now: Instant, index: Index) {
        let membership = self.raft.membership();
        let Some(verdict) = self.divergence.verdict(self.node, index, membership) else { return };
        self.divergence.agreed = self.divergence.agreed.max(index);
        let expected = DigestReport { index, digest: verdict.digest };
        for node in verdict.differ {
            if node == self.node {
                self.diverged(now, expected);
            } else {
                tracing::error!(%node, %index, "a member's state differs from that of a quorum");
                self.send(node, PeerMessage::Diverged(expected));
            }
        }
    }

    /// The leader says what a quorum has.
    pub(super) fn digest_contradicted(
        &mut self,
        now: Instant,
        from: NodeId,
        expected: DigestReport,
    ) {
        if self.leadership.leader == Some(from) {
            self.diverged(now, expected);
        }
    }

    fn diverged(&mut self, now: Instant, expected: DigestReport) {
        if self.divergence.fence.is_some() {
            return;
        }
        let Some(fence) = self.divergence.contradicts(expected) else { return };
        tracing::error!(
            index = %fence.index,
            own = format_args!("{:016x}", fence.own),
            expected = format_args!("{:016x}", fence.expected),
            "this node's state differs from that of a quorum: it serves nothing any more; rebuild \
             it with `quorumctl rebuild`"
        );
        self.divergence.fence = Some(fence);
        self.fence_off(now, fence);
    }

    /// Takes back what can be taken back, and answers all who wait.
    fn fence_off(&mut self, now: Instant, fence: Fence) {
        let never = Instant::from_micros(u64::MAX);
        let lost = {
            let mut view = Self::view_mut(&self.view);
            view.fence = Some(fence);
            // All of them end here; the leases themselves are the business of the leader.
            view.promises.advance(never)
        };
        self.published.promises.extend(lost);
        self.published.status = true;
        self.keeper.set_host(None, now);
        self.expiry = None;
        self.caught_up = false;
        // What was handed over is applied by the others, or not: this node will not see it.
        self.answer_all(RequestError::Unavailable(UnavailableReason::Diverged));
    }

    /// Asks the leader for its state, again and again: it may have none yet that is of use here.
    pub(super) fn ask_for_state(&mut self, now: Instant) {
        let Some(leader) = self.leadership.leader.filter(|_| !self.leadership.leads) else {
            return;
        };
        let is_late = |asked| now.since(asked) >= ASK_AGAIN;
        if self.divergence.rebuild && self.divergence.asked.is_none_or(is_late) {
            self.divergence.asked = Some(now);
            self.send(leader, PeerMessage::StateWanted);
        }
    }

    /// An earlier boot found this: the state on disk is no better than it was.
    pub fn fence_again(&mut self, fence: Fence) {
        self.divergence.fence = Some(fence);
        Self::view_mut(&self.view).fence = Some(fence);
    }

    /// Whether this node's state is not to be looked at.
    pub(super) fn is_fenced(&self) -> bool {
        self.divergence.fence.is_some()
    }

    /// Whether a fenced node's log is as long as a log may become: nothing of it can be cut before
    /// the node is rebuilt, so it takes no more.
    pub(super) fn fenced_log_is_full(&self) -> bool {
        self.is_fenced() && self.raft.log_bytes() >= limits::LOG_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::{Divergence, INDEXES_KEPT};
    use crate::base::{Index, NodeId};
    use crate::wire::DigestReport;

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest() {
        let mut memory = Divergence::default();
        for index in (1..=200).map(Index) {
            memory.note(DigestReport { index, digest: 7 });
            for node in (1..=3).map(NodeId) {
                memory.report(node, DigestReport { index, digest: 7 });
            }
        }
        memory.report(NodeId(2), DigestReport { index: Index(1), digest: 8 });
        assert_eq!((memory.own.len(), memory.reports.len()), (INDEXES_KEPT, INDEXES_KEPT));
        assert_eq!(memory.newest().map(|report| report.index), Some(Index(200)));
        assert!(memory.reports.keys().all(|&index| index > Index(180)));
    }
}
