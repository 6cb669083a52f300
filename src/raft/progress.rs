//! How far one member's log is known to equal the leader's, and how much is on its way to it.
//!
//! What is sent is decided in `replication`.

use std::collections::VecDeque;

use crate::base::{Index, Instant, Span};
use crate::raft::log::Log;
use crate::raft::{Options, Progress, ProgressState};

/// How a leader feeds one member.
///
/// Invariants:
/// - `matched < next`, and `next` is at most one past the leader's last entry.
/// - What is in flight lies in `(matched, next)`, in ascending order; nothing is while probing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Feed {
    state: FeedState,
    /// Known durable there and equal up to here, from acknowledgements of this term.
    matched: Index,
    /// The next entry to send.
    next: Index,
    /// The highest commit index that it can have learned from what was sent.
    told_commit: Index,
    /// When it was last heard from in this term; the start of the term at first, as a grace.
    heard: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FeedState {
    Probe {
        /// When the probe went out that is not answered yet.
        sent: Option<Instant>,
    },
    /// It lacks entries that are gone, and gets nothing until it has the state at `index`.
    Snapshot {
        /// Nothing until one is on its way.
        index: Option<Index>,
    },
    Replicate {
        inflight: VecDeque<Inflight>,
        bytes: usize,
        /// When an acknowledgement last moved the window, or the window stopped being empty.
        moved: Instant,
    },
}

/// One append on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Inflight {
    last: Index,
    bytes: usize,
}

impl Feed {
    /// A member of which nothing is known, to be probed from `next`.
    pub(super) fn new(next: Index, now: Instant) -> Self {
        let state = FeedState::Probe { sent: None };
        Self { state, matched: Index(0), next, told_commit: Index(0), heard: now }
    }

    pub(super) fn matched(&self) -> Index {
        self.matched
    }

    pub(super) fn next(&self) -> Index {
        self.next
    }

    pub(super) fn is_probing(&self) -> bool {
        matches!(self.state, FeedState::Probe { .. })
    }

    pub(super) fn is_active(&self, now: Instant, election_timeout: Span) -> bool {
        now.since(self.heard) < election_timeout
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Whether nothing more may be sent until an answer comes.
    pub(super) fn is_paused(&self, options: &Options) -> bool {
        match &self.state {
            FeedState::Probe { sent } => sent.is_some(),
            FeedState::Snapshot { .. } => true,
            FeedState::Replicate { inflight, bytes, .. } => {
                inflight.len() >= options.inflight_messages_max
                    || *bytes >= options.inflight_bytes_max
            }
        }
    }

    /// Whether anything that was sent is not answered yet, or nothing may be sent at all.
    pub(super) fn awaits_answer(&self) -> bool {
        match &self.state {
            FeedState::Probe { sent } => sent.is_some(),
            FeedState::Snapshot { .. } => true,
            FeedState::Replicate { inflight, .. } => !inflight.is_empty(),
        }
    }

    /// Whether there is something to send, when entries up to `last` may be sent: entries, or that
    /// something was committed. A follower answers its own clients when it applies, so the latter
    /// is worth a message of its own.
    pub(super) fn has_news(&self, last: Index, commit: Index) -> bool {
        self.is_probing()
            || self.next <= last
            || self.told_commit < commit.min(self.next.previous())
    }

    /// An append with entries up to `last` (before `next` when it had none) was sent.
    pub(super) fn sent(&mut self, last: Index, size: usize, commit: Index, now: Instant) {
        let (next, matched) = (self.next, self.matched);
        assert!(last.next() >= next, "an append up to {last} was sent, before next {next}");
        self.told_commit = self.told_commit.max(commit.min(last));
        match &mut self.state {
            FeedState::Probe { sent } => *sent = Some(now),
            FeedState::Snapshot { .. } => panic!("{last} was sent to a member without a snapshot"),
            FeedState::Replicate { inflight, bytes, moved } => {
                if last >= next {
                    assert!(last > matched, "sent {last}, which is matched: {matched}");
                    if inflight.is_empty() {
                        *moved = now;
                    }
                    inflight.push_back(Inflight { last, bytes: size });
                    *bytes += size;
                    self.next = last.next();
                }
            }
        }
    }

    /// It has everything up to `index`, durably; the log holds what follows `start`. Whether
    /// anything was learned.
    pub(super) fn accepted(&mut self, index: Index, start: Index, now: Instant) -> bool {
        if index < self.matched || (index == self.matched && !self.is_probing()) {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index.next());
        match &mut self.state {
            // It has not come far enough to be fed from the log.
            FeedState::Snapshot { .. } if index < start => {}
            // What a probe carried beyond `index` was not taken: it is sent again. A snapshot may
            // have been older than the one on its way (RELIABILITY C11).
            FeedState::Probe { .. } | FeedState::Snapshot { .. } => {
                self.next = index.next();
                let inflight = VecDeque::new();
                self.state = FeedState::Replicate { inflight, bytes: 0, moved: now };
            }
            FeedState::Replicate { inflight, bytes, moved } => {
                while let Some(front) = inflight.front().copied().filter(|sent| sent.last <= index)
                {
                    *bytes -= front.bytes;
                    inflight.pop_front();
                }
                *moved = now;
            }
        }
        true
    }

    /// The append after `prev_index` did not fit, and `hint` is the highest index at which the logs
    /// may agree. Whether the rejection was news: late ones are recognised and change nothing.
    pub(super) fn rejected(&mut self, prev_index: Index, hint: Index) -> bool {
        if prev_index <= self.matched || matches!(self.state, FeedState::Snapshot { .. }) {
            return false;
        }
        if !self.is_probing() {
            self.probe_from_matched();
            return true;
        }
        if prev_index != self.next.previous() {
            return false;
        }
        // Strictly back, so that probing ends; never behind what is known to be equal.
        self.next = hint.min(prev_index.previous()).max(self.matched).next();
        self.state = FeedState::Probe { sent: None };
        true
    }

    /// It answered a heartbeat and holds entries up to `last_index`, of whatever origin. When what
    /// was sent must have been lost, sending may start again. Whether that is so.
    pub(super) fn heartbeat_answered(
        &mut self,
        last_index: Index,
        now: Instant,
        options: &Options,
    ) -> bool {
        match &mut self.state {
            FeedState::Probe { sent } => {
                let lost = sent.is_some_and(|sent| now.since(sent) >= options.heartbeat_interval);
                if lost {
                    *sent = None;
                }
                lost
            }
            FeedState::Snapshot { .. } => false,
            FeedState::Replicate { inflight, moved, .. } => {
                let Some(newest) = inflight.back() else { return false };
                let silence = now.since(*moved);
                // It lacks the newest: an append was lost. It seems to have it, and yet does not
                // acknowledge: the acknowledgement was lost, or those are other entries, or its
                // disk is slow; only patience tells.
                let patience = if last_index < newest.last {
                    options.heartbeat_interval
                } else {
                    options.election_timeout
                };
                if silence < patience {
                    return false;
                }
                self.probe_from_matched();
                true
            }
        }
    }

    /// It has been silent for an election timeout: what is in flight is given up, so that it holds
    /// no window, and it is probed again once it answers a heartbeat.
    pub(super) fn gave_no_answer(&mut self, now: Instant) {
        if matches!(self.state, FeedState::Replicate { .. }) {
            self.probe_from_matched();
            self.state = FeedState::Probe { sent: Some(now) };
        }
    }

    /// Whether it needs an entry that `log` no longer holds.
    pub(super) fn is_cut_off(&self, log: &Log) -> bool {
        self.next <= log.start_index()
    }

    /// It is cut off, and answers: from now on it waits for a snapshot. False when it does already,
    /// or is not there.
    pub(super) fn await_snapshot(&mut self, now: Instant, election_timeout: Span) -> bool {
        let waits = matches!(self.state, FeedState::Snapshot { .. });
        if waits || !self.is_active(now, election_timeout) {
            return false;
        }
        self.state = FeedState::Snapshot { index: None };
        true
    }

    /// The state at `index` is on its way to it.
    pub(super) fn snapshot_started(&mut self, index: Index) {
        if let FeedState::Snapshot { index: on_its_way } = &mut self.state {
            *on_its_way = Some(index);
        }
    }

    /// The state that is on its way to it.
    pub(super) fn snapshot_index(&self) -> Option<Index> {
        match self.state {
            FeedState::Snapshot { index } => index,
            FeedState::Probe { .. } | FeedState::Replicate { .. } => None,
        }
    }

    /// The snapshot arrived or was given up: a probe behind it finds out which.
    pub(super) fn snapshot_ended(&mut self, last_index: Index) {
        if let FeedState::Snapshot { index } = self.state {
            let arrived = index.unwrap_or(self.matched).max(self.matched).min(last_index);
            self.next = arrived.next();
            self.state = FeedState::Probe { sent: None };
        }
    }

    /// What is shown of it.
    pub(super) fn progress(&self, log: &Log, now: Instant, options: &Options) -> Progress {
        Progress {
            state: match self.state {
                FeedState::Probe { .. } => ProgressState::Probe,
                FeedState::Replicate { .. } => ProgressState::Replicate,
                FeedState::Snapshot { .. } => ProgressState::Snapshot,
            },
            matched: self.matched,
            next: self.next,
            recent_active: self.is_active(now, options.election_timeout),
            cut_off: self.is_cut_off(log),
        }
    }

    /// Panics, with values, when an invariant does not hold.
    pub(super) fn check(&self, last_index: Index) {
        let (matched, next) = (self.matched, self.next);
        assert!(matched < next, "matched {matched} is not before next {next}");
        assert!(next <= last_index.next(), "next {next} is beyond the last entry {last_index}");
        let FeedState::Replicate { inflight, bytes, .. } = &self.state else { return };
        let sum: usize = inflight.iter().map(|sent| sent.bytes).sum();
        assert_eq!(*bytes, sum, "bytes in flight are miscounted");
        let mut before = matched;
        for sent in inflight {
            assert!(sent.last > before, "{} in flight after {before}", sent.last);
            before = sent.last;
        }
        assert!(before < next, "{before} is in flight, but next is {next}");
    }

    fn probe_from_matched(&mut self) {
        self.next = self.matched.next();
        self.state = FeedState::Probe { sent: None };
    }
}
