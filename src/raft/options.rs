//! What may be chosen about one core.

use crate::base::{Span, limits};

/// Timings and sizes of one core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Least time without a leader before a voter campaigns; each wait is drawn anew from this to
    /// twice this (paper, 5.2). Also the window of check-quorum and of leader stickiness.
    pub election_timeout: Span,
    /// How often a leader speaks when it has nothing to say. At most a third of the election
    /// timeout.
    pub heartbeat_interval: Span,
    /// Longest wait before a voter campaigns that lost its connection to the leader; drawn from
    /// zero to this, so that the voters of one dead leader do not all campaign at once.
    pub leader_lost_jitter: Span,
    /// Pause after a round of appends to learners, for each that it fed: the inverse of how many
    /// appends a second go to all of them together. Voters are never made to wait.
    pub learner_pause: Span,
    /// Bytes of entries in one append; one entry is always sent, however large.
    pub append_bytes_max: usize,
    /// Entries in one append.
    pub append_entries_max: usize,
    /// Bytes in flight to one member.
    pub inflight_bytes_max: usize,
    /// Appends in flight to one member.
    pub inflight_messages_max: usize,
    /// Bytes of uncommitted entries in a leader's log above which proposals are refused.
    pub uncommitted_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            election_timeout: Span::from_millis(1_000),
            heartbeat_interval: Span::from_millis(100),
            leader_lost_jitter: Span::from_millis(30),
            learner_pause: Span::from_micros(100),
            append_bytes_max: limits::APPEND_BYTES_MAX,
            append_entries_max: limits::APPEND_ENTRIES_MAX,
            inflight_bytes_max: limits::INFLIGHT_BYTES_MAX,
            inflight_messages_max: limits::INFLIGHT_MESSAGES_MAX,
            uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
        }
    }
}
