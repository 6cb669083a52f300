//! What may be chosen about one replica.

use crate::base::{Span, limits};
use crate::watch::HistoryOptions;

/// Timings and sizes of one replica.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the consensus core.
    pub raft: crate::raft::Options,
    /// Bytes of keys, values and history above which writes that add to them are refused.
    pub store_bytes_max: u64,
    /// Revisions of history kept behind the newest.
    pub history_revisions: u64,
    /// Bytes of history kept.
    pub history_bytes: u64,
    /// Milliseconds of the leader's wall clock after which history is forgotten; `None`: only the
    /// two bounds above count.
    pub history_age_ms: Option<u64>,
    /// The state is saved when so many entries were applied since the last time...
    pub save_after_entries: u64,
    /// ...or so many bytes of entries...
    pub save_after_bytes: u64,
    /// ...or, when anything was applied at all, so much time has passed.
    pub save_interval: Span,
    /// The log is cut when at least so many entries can go: each cut costs a write of the rows that
    /// it removes.
    pub cut_entries_min: u64,
    /// Entries that are kept for members that are behind...
    pub log_retained_entries: u64,
    /// ...and bytes of them; who lacks more gets a snapshot.
    pub log_retained_bytes: u64,
    /// Bytes of snapshots that a leader sends in one second to all members together.
    pub snapshot_bytes_per_second: u64,
    /// Members compare the digests of their states after each entry whose index is a multiple of
    /// this. The same on all members, or they compare less often than they could.
    pub digest_every: u64,
    /// A leader whose writes of the log take this long...
    pub slow_disk: Span,
    /// ...for this long gives way to a voter with a much faster disk...
    pub slow_disk_period: Span,
    /// ...and not again for the sake of a disk within this.
    pub disk_calm: Span,
    /// How often a voter whose disk is full or slow tells the leader.
    pub disk_report_every: Span,
    /// After how long without an outcome a request is handed over again.
    pub resend_interval: Span,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            raft: crate::raft::Options::default(),
            store_bytes_max: limits::STORE_BYTES_MAX_DEFAULT,
            history_revisions: limits::HISTORY_REVISIONS_DEFAULT,
            history_bytes: limits::HISTORY_BYTES_DEFAULT,
            history_age_ms: None,
            save_after_entries: 20_000,
            save_after_bytes: 16 * 1024 * 1024,
            save_interval: Span::from_secs(30),
            cut_entries_min: 1_024,
            log_retained_entries: limits::LOG_RETAINED_ENTRIES_DEFAULT,
            log_retained_bytes: limits::LOG_RETAINED_BYTES_DEFAULT,
            snapshot_bytes_per_second: limits::SNAPSHOT_BYTES_PER_SECOND_DEFAULT,
            digest_every: limits::DIGEST_EVERY,
            slow_disk: Span::from_millis(250),
            slow_disk_period: Span::from_secs(10),
            disk_calm: Span::from_secs(60),
            disk_report_every: Span::from_secs(1),
            resend_interval: Span::from_millis(500),
        }
    }
}

impl Options {
    /// The rows of a snapshot that this node takes: the quota counts no leases, no remembered
    /// outcomes and no heads of rows.
    pub(super) fn snapshot_bytes_max(&self) -> u64 {
        self.store_bytes_max.saturating_mul(2).saturating_add(1 << 30)
    }

    /// The bounds of the history that watchers share: the same as those of the store's history.
    pub(super) fn watch_history(&self) -> HistoryOptions {
        let revisions_max = usize::try_from(self.history_revisions).unwrap_or(usize::MAX).max(1);
        HistoryOptions { revisions_max, bytes_max: self.history_bytes, ..Default::default() }
    }
}
