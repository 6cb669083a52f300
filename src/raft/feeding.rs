//! What a leader sends to whom now: voters as fast as their windows allow, others in rounds.
//!
//! How far each is, is kept in `progress`; which part of the log may go to whom, in `change`.
//!
//! Learners may be many, and nobody waits for their acknowledgements. So they get only what is
//! committed, entries and commit index in one message, each one append at a time, and a round is
//! followed by a pause that grows with how many it fed: together they cost a leader a bounded
//! number of messages a second, whatever is written. What is written in a pause goes out in one
//! append. The first round after a quiet time begins at once.

use crate::base::{Index, Instant, NodeId, Span};
use crate::raft::change;
use crate::raft::log::Log;
use crate::raft::progress::Feed;
use crate::raft::roles::State;
use crate::raft::{Body, Entry, Message, Options, Raft};

/// Bytes of entries that an append to a learner may have, however many learners there are.
const LEARNER_APPEND_BYTES: usize = 64 * 1024;

/// When those without a vote are fed, and when they hear heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    /// The next round of appends begins no earlier.
    round_at: Instant,
    /// Somebody waits for it.
    waits: bool,
    /// Heartbeats since the term began.
    beats: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { round_at: now, waits: false, beats: 0 }
    }

    /// When the next round is due, if somebody waits for it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waits.then_some(self.round_at)
    }
}

impl Raft {
    /// Does what is due of a leader.
    pub(super) fn leader_timeout(&mut self) {
        let now = self.now;
        if self.transfer_deadline().is_some_and(|deadline| now >= deadline) {
            self.abort_transfer();
        }
        let State::Leader(leader) = &mut self.state else { return };
        if leader.pace.deadline().is_some_and(|deadline| now >= deadline) {
            leader.pace.waits = false;
            leader.dirty = true;
        }
        if now >= leader.heartbeat_at {
            self.heartbeat_due();
        }
    }

    /// When a leader wants to act next.
    pub(super) fn leader_deadline(&self) -> Option<Instant> {
        let State::Leader(leader) = &self.state else { return None };
        let others = [self.transfer_deadline(), leader.pace.deadline()];
        others.into_iter().flatten().chain([leader.heartbeat_at]).min()
    }

    /// Who hears the heartbeat that is due: the voters each, the others one within a third of an
    /// election timeout.
    pub(super) fn heartbeat_listeners(&mut self) -> Vec<NodeId> {
        let interval = self.options.heartbeat_interval.as_micros().max(1);
        let every = (self.options.election_timeout.as_micros() / 3 / interval).max(1);
        let State::Leader(leader) = &mut self.state else { return Vec::new() };
        let all = leader.pace.beats.is_multiple_of(every);
        leader.pace.beats += 1;
        let membership = self.configurations.current();
        let hears = |node: &&NodeId| all || membership.is_voter(**node);
        leader.feeds.keys().filter(hears).copied().collect()
    }

    /// Sends each member what it lacks: voters as far as their windows allow, the others one append
    /// when their round is due.
    pub(super) fn feed_members(&mut self) {
        let Raft { state, log, options, now, commit, term, node, out, configurations, .. } = self;
        let State::Leader(leader) = state else { return };
        let (now, commit, log_last) = (*now, *commit, log.last_index());
        let voters = configurations.current();
        let learners = leader.feeds.keys().filter(|member| !voters.is_voter(**member)).count();
        let learner_bytes = options.inflight_bytes_max / learners.max(1);
        let learner_bytes = learner_bytes.max(LEARNER_APPEND_BYTES).min(options.append_bytes_max);
        let round_due = now >= leader.pace.round_at;
        let (mut waits, mut fed) = (false, 0);
        for (member, feed) in &mut leader.feeds {
            if feed.is_cut_off(log) {
                if feed.await_snapshot(now, options.election_timeout) {
                    out.snapshots.push(*member);
                }
                continue;
            }
            let limit = change::send_limit(configurations, commit, *member);
            let last = limit.map_or(log_last, |limit| limit.min(log_last));
            let mut send = |body| {
                out.messages.push(Message { from: *node, to: *member, term: *term, body });
            };
            if voters.is_voter(*member) {
                while !feed.is_paused(options) && feed.has_news(last, commit) {
                    let bytes_max = options.append_bytes_max;
                    send(next_append(feed, log, options, Portion { last, bytes_max }, commit, now));
                }
            } else if !feed.awaits_answer() && feed.has_news(last, commit) {
                if round_due {
                    let portion = Portion { last, bytes_max: learner_bytes };
                    send(next_append(feed, log, options, portion, commit, now));
                    fed += 1;
                } else {
                    waits = true;
                }
            }
        }
        leader.pace.waits = waits;
        if fed > 0 {
            let pause = options.learner_pause.as_micros().saturating_mul(fed);
            leader.pace.round_at = now + Span::from_micros(pause);
        }
    }
}

/// How much one append may hold.
struct Portion {
    last: Index,
    bytes_max: usize,
}

/// The append with what the owner of `feed` lacks next, counted as sent.
fn next_append(
    feed: &mut Feed,
    log: &Log,
    options: &Options,
    portion: Portion,
    commit: Index,
    now: Instant,
) -> Body {
    let prev_index = feed.next().previous();
    let prev_term = log.term_at(prev_index).expect("it is not cut off");
    let Portion { last, bytes_max } = portion;
    let entries = log.slice(feed.next(), last, bytes_max, options.append_entries_max);
    let last = entries.last().map_or(prev_index, |entry| entry.index);
    feed.sent(last, entries.iter().map(Entry::size_bytes).sum(), commit, now);
    Body::AppendRequest { prev_index, prev_term, entries, commit }
}
