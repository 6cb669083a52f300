//! Where the log begins: how far it may be cut, and how a state from elsewhere takes its place.
//!
//! Which member needs such a state is noticed in `replication`; how the state travels, and that it
//! is durable before the log begins after it, is the business of `replica/` and `storage/`.

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, Instant, NodeId, Term};
use crate::raft::progress::Feed;
use crate::raft::roles::State;
use crate::raft::{Membership, Raft};

/// A log keeps at most this many times what [`Retain`] says for a member whose snapshot is on its
/// way (RELIABILITY C14): a member that cannot be helped must not fill the memory.
const PINNED_TIMES_MAX: u64 = 4;

/// The point that a log begins after: everything up to it is in the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogStart {
    /// The last index that the log need not hold.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// The configuration in force there: the newest at or below `index`.
    pub membership: Membership,
}

/// How much of the log is kept for members that are behind. The bound that is reached first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain {
    /// Entries.
    pub entries: u64,
    /// Bytes of entries.
    pub bytes: u64,
}

impl Raft {
    /// How far the log may be cut: what is applied and durable here, and either durable on every
    /// member as far as the leader has told, or more than `retain` behind the end. What follows a
    /// snapshot that is on its way is kept too, within a bound.
    pub fn compactable(&self, retain: Retain) -> Index {
        let limit = self.applied.min(self.log.durable());
        let mut beyond = self.log.beyond(retain.entries, retain.bytes, limit);
        if let Some(pinned) = self.pinned().filter(|pinned| *pinned < beyond) {
            let times = |amount: u64| amount.saturating_mul(PINNED_TIMES_MAX);
            let most = self.log.beyond(times(retain.entries), times(retain.bytes), limit);
            beyond = pinned.max(most);
        }
        self.known_by_all().max(beyond).min(limit)
    }

    /// Forgets the log up to `index` and remembers its term. Panics when `index` is not yet applied
    /// or not yet durable here. A member that lacks something up to `index` can be helped by a
    /// snapshot only: ask [`compactable`](Raft::compactable) first.
    ///
    /// Returns what must be remembered of the point that the log starts after from now on: its term
    /// and the configuration in force there.
    pub fn compact(&mut self, index: Index) -> (Term, Membership) {
        let applied = self.applied;
        assert!(index <= applied, "compaction to {index} beyond the applied index {applied}");
        self.log.compact(index);
        self.configurations.compact(index);
        let (_, oldest) = self.configurations.iter().next().expect("one is always in force");
        (self.log.start_term(), oldest.clone())
    }

    /// The term and index of the last entry behind `index` that was given out to be written.
    pub fn last_kept_behind(&self, index: Index) -> Option<(Term, Index)> {
        let last = self.log.handed();
        (last > index).then(|| (self.log.term_at(last).unwrap_or_default(), last))
    }

    /// What a log that begins after `index` has to remember of it. Nothing when `index` is not
    /// committed, or was cut: a configuration that is not committed never travels (RELIABILITY C8).
    pub fn log_start(&self, index: Index) -> Option<LogStart> {
        if index > self.commit {
            return None;
        }
        let term = self.log.term_at(index)?;
        let newest = mutation::active(Mutation::SnapshotTakesNewestConfig);
        let mut all = self.configurations.iter().rev();
        let (_, membership) = all.find(|(at, _)| newest || *at <= index)?;
        Some(LogStart { index, term, membership: membership.clone() })
    }

    /// Leader: the state at `index` is on its way to the member `to`, which was named in
    /// [`Ready::snapshots`](crate::raft::Ready::snapshots). Entries after it are kept.
    pub fn snapshot_started(&mut self, to: NodeId, index: Index) {
        if let State::Leader(leader) = &mut self.state
            && let Some(feed) = leader.feeds.get_mut(&to)
        {
            feed.snapshot_started(index);
        }
    }

    /// Leader: the snapshot arrived at `to`, or was given up. The member is probed from where it
    /// would be; if it is still cut off, it is named again.
    pub fn snapshot_ended(&mut self, now: Instant, to: NodeId) {
        self.now = self.now.max(now);
        let last = self.log.last_index();
        if let State::Leader(leader) = &mut self.state
            && let Some(feed) = leader.feeds.get_mut(&to)
        {
            feed.snapshot_ended(last);
            leader.dirty = true;
        }
    }

    /// The state at `point.index` is durable here and was committed in the cluster: the log begins
    /// after it. False, and nothing changes, when the commit index reaches as far: what it lacks
    /// will be handed out to be applied.
    ///
    /// Entries after the point stay only when the log holds the point itself: otherwise they are of
    /// another history, and the whole log goes (RELIABILITY C2, against rule 7 of the paper's
    /// figure 13), with the configurations in it (C1). The cut comes out in
    /// [`Ready::cut`](crate::raft::Ready::cut), and the leader is told once that is written.
    pub fn install(&mut self, now: Instant, point: LogStart) -> bool {
        self.now = self.now.max(now);
        if point.index <= self.commit {
            return false;
        }
        let LogStart { index, term, membership } = point.clone();
        let keeps = mutation::active(Mutation::InstallKeepsLog) && self.log.last_index() >= index;
        if keeps || self.log.term_at(index) == Some(term) {
            self.commit_known(index);
            self.log.begin_after(index, term);
            self.configurations.compact(index);
        } else {
            // It may have asked for votes, or led, with a log that it gives up here.
            let is_follower = matches!(self.state, State::Follower(_));
            if !is_follower || term > self.term {
                self.become_follower(self.term.max(term), None);
            }
            self.log.restart_after(index, term);
            self.configurations.restart(index, membership);
            self.commit = index;
        }
        self.applied = index;
        self.writes.begin_after(index);
        self.out.cut = Some(point);
        if let Some(leader) = self.leader().filter(|leader| *leader != self.node) {
            self.claim_after_persist(leader, index);
        }
        assert!(self.commit >= index, "{index} is installed, but only {} committed", self.commit);
        true
    }

    /// Everything up to `index`, which is held, is committed: a leader counts what waits anew.
    fn commit_known(&mut self, index: Index) {
        let bytes = self.log.bytes_between(self.commit, index);
        self.commit_to(index);
        if let State::Leader(leader) = &mut self.state {
            leader.uncommitted_bytes -= bytes;
            leader.dirty = true;
        }
    }

    /// The lowest index after which a snapshot on its way needs the log.
    fn pinned(&self) -> Option<Index> {
        let State::Leader(leader) = &self.state else { return None };
        leader.feeds.values().filter_map(Feed::snapshot_index).min()
    }
}
