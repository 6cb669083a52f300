//! Deliberate errors of the protocol, to find out whether the checks would find them.
//!
//! Each stands as a condition at the place where the rule is kept that it breaks. At most one is
//! switched on, for one thread, by the simulator's mutation test (`tests/sim/`); a release build
//! has none of them. What finds which, and after how many seeds, is in `docs/testing.md`.

#[cfg(debug_assertions)]
use std::cell::Cell;

/// A deliberate error, with the bug that it re-creates. The numbers are those of the project's
/// lists of known bugs and of invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// A follower acknowledges entries before they are on its disk (RELIABILITY B8, R9).
    AckBeforeSync,
    /// A leader counts the acknowledgement that a follower gave in an earlier term, to whoever led
    /// then (RELIABILITY B4, R17).
    AnswerOfEarlierTermCounts,
    /// A follower commits as far as its log reaches and not only what the append proved equal (Raft
    /// paper, figure 2, AppendEntries 5; R6, R8).
    AppendCommitsUnproven,
    /// A leader changes the members before it has committed an entry of its own term (RELIABILITY
    /// D1, R14).
    ChangeBeforeOwnCommit,
    /// A leader changes the members while the change before is not committed (RELIABILITY D2, R14).
    ChangeOverUncommitted,
    /// Half of the voters is taken for a majority when acknowledgements are counted (RELIABILITY
    /// B3, R10).
    CommitByHalf,
    /// A leader commits entries of an earlier term by counting who holds them (RELIABILITY B1; Raft
    /// paper, figure 8; R10).
    CommitOldTermByCounting,
    /// A compaction forgets the version that a reader at the compacted revision sees (RELIABILITY
    /// I5, K1).
    CompactionDropsLiveValue,
    /// A conditional write does not look at the condition (K1).
    ConditionIgnored,
    /// The place of a lease in a queue stays when the lease ends, and is granted in its turn
    /// (RELIABILITY H4, L7).
    DeadWaiterStays,
    /// Which requests were applied is not read back at a start (RELIABILITY C13, K4).
    DedupeForgottenAtRestart,
    /// The last request below the floor of a node is taken for one that was never applied (K4).
    DedupeOffByOne,
    /// A request that stands in the log twice is executed twice (RELIABILITY C12, K4).
    DuplicateApplied,
    /// An expiry that a deposed leader decided by its clock ends leases under its successor
    /// (RELIABILITY H1, L3).
    ExpiryIgnoresTerm,
    /// A heartbeat carries the leader's commit index to a follower that may hold other entries
    /// there (Raft paper, figure 2; R8).
    HeartbeatCommitsUnmatched,
    /// A retry under the caller's own name is executed again (K4).
    IdempotencyKeyIgnored,
    /// A node that installs a state keeps entries of another history behind it (RELIABILITY C2,
    /// R6).
    InstallKeepsLog,
    /// Entries commit by the incoming half of a joint configuration alone (dissertation, 4.3; R10,
    /// R14).
    JointHalfCommits,
    /// Votes of the incoming half of a joint configuration are enough to lead (dissertation, 4.3;
    /// R14).
    JointHalfElects,
    /// A leader leaves a joint configuration before it is committed (RELIABILITY D3, R14).
    JointLeftEarly,
    /// A leader confirms keepalives without asking a quorum whether it still leads (RELIABILITY H1,
    /// K6).
    KeepaliveWithoutQuorum,
    /// A leader counts itself for entries that are not on its disk yet (RELIABILITY B9, R9).
    LeaderCountsUnwritten,
    /// Acknowledgements of learners count towards a commit (RELIABILITY D13, R10).
    LearnerCounts,
    /// The log is cut behind what is applied, whether or not that is saved (RELIABILITY C19, R12).
    LogCutBeyondSave,
    /// A new leader throws away what it does not know to be committed (R5, R7).
    NewLeaderDropsTail,
    /// A new leader counts leases as if half of their time were over (RELIABILITY H2, L1).
    NewLeaderShortensLeases,
    /// A pre-vote that is granted overwrites the vote of the current term (RELIABILITY A3, R4).
    PreVoteTakesVote,
    /// A watcher is told that it has everything up to a revision that it was not sent (W6).
    ProgressTooEarly,
    /// What a holder is promised is counted from when the answer came, not from when the question
    /// was sent (RELIABILITY H6, L6).
    PromiseFromAnswer,
    /// A linearizable read is served before its index is applied (RELIABILITY E9, K6).
    ReadBeforeApplied,
    /// A new leader serves reads before an entry of its own term is committed (RELIABILITY E1, K6).
    ReadBeforeOpening,
    /// A round of heartbeats for reads is confirmed by answers to an earlier one (RELIABILITY E2,
    /// K6).
    ReadByOlderRound,
    /// A leader serves reads without asking a quorum whether it still leads (RELIABILITY E3, K6).
    ReadWithoutQuorum,
    /// A refused vote is decoded as a granted one (RELIABILITY A3, B16).
    RefusalReadAsGrant,
    /// A rejected append is counted as if it had been accepted (RELIABILITY B16, R10).
    RejectionCounts,
    /// A local read that asks for a revision is served before the node has it (K5).
    RevisionWaitIgnored,
    /// The state is saved before the log on the same disk has reached it (RELIABILITY F10, R12).
    SaveAheadOfLog,
    /// A save leaves out one of the rows that changed (RELIABILITY F10, C13).
    SaveLosesRow,
    /// A shared place holds beside other shared ones though an exclusive one waits before it (L8).
    SharedOvertakes,
    /// A lock lets one more hold than it has slots (L5).
    SlotsOffByOne,
    /// A snapshot carries the newest configuration of its sender, committed or not (RELIABILITY C8,
    /// R16).
    SnapshotTakesNewestConfig,
    /// The log is written without a sync (RELIABILITY B8, F8).
    SyncSkipped,
    /// A node forgets at its start what it does not know to be committed (RELIABILITY F9, R7).
    TailForgottenAtRestart,
    /// An append that is late or repeated cuts off what stands behind it (RELIABILITY B2, R11).
    TruncateWithoutConflict,
    /// A transaction runs its first list whatever its comparisons say (K1).
    TxnCompareIgnored,
    /// A caller is told that a request was not applied when nobody knows (rule of four outcomes;
    /// K2).
    UnknownToldAsRefused,
    /// A vote is sent before it is on disk (RELIABILITY A1, R9).
    VoteBeforeSync,
    /// A node that gives up its leader or its candidacy forgets its vote of the term (RELIABILITY
    /// A2, R2).
    VoteForgottenInTerm,
    /// A vote is given whatever the candidate's log holds (Raft paper, 5.4.1; R3, R7).
    VoteToShorterLog,
    /// A watcher that fell behind the history goes on without being told (RELIABILITY I5, W3).
    WatchLosesAtCompaction,
    /// A resumed watch begins with the last revision that was delivered before (RELIABILITY I8,
    /// W2).
    WatchRepeatsOnResume,
}

impl Mutation {
    /// All of them, in order.
    pub const ALL: &[Mutation] = &[
        Mutation::AckBeforeSync,
        Mutation::AnswerOfEarlierTermCounts,
        Mutation::AppendCommitsUnproven,
        Mutation::ChangeBeforeOwnCommit,
        Mutation::ChangeOverUncommitted,
        Mutation::CommitByHalf,
        Mutation::CommitOldTermByCounting,
        Mutation::CompactionDropsLiveValue,
        Mutation::ConditionIgnored,
        Mutation::DeadWaiterStays,
        Mutation::DedupeForgottenAtRestart,
        Mutation::DedupeOffByOne,
        Mutation::DuplicateApplied,
        Mutation::ExpiryIgnoresTerm,
        Mutation::HeartbeatCommitsUnmatched,
        Mutation::IdempotencyKeyIgnored,
        Mutation::InstallKeepsLog,
        Mutation::JointHalfCommits,
        Mutation::JointHalfElects,
        Mutation::JointLeftEarly,
        Mutation::KeepaliveWithoutQuorum,
        Mutation::LeaderCountsUnwritten,
        Mutation::LearnerCounts,
        Mutation::LogCutBeyondSave,
        Mutation::NewLeaderDropsTail,
        Mutation::NewLeaderShortensLeases,
        Mutation::PreVoteTakesVote,
        Mutation::ProgressTooEarly,
        Mutation::PromiseFromAnswer,
        Mutation::ReadBeforeApplied,
        Mutation::ReadBeforeOpening,
        Mutation::ReadByOlderRound,
        Mutation::ReadWithoutQuorum,
        Mutation::RefusalReadAsGrant,
        Mutation::RejectionCounts,
        Mutation::RevisionWaitIgnored,
        Mutation::SaveAheadOfLog,
        Mutation::SaveLosesRow,
        Mutation::SharedOvertakes,
        Mutation::SlotsOffByOne,
        Mutation::SnapshotTakesNewestConfig,
        Mutation::SyncSkipped,
        Mutation::TailForgottenAtRestart,
        Mutation::TruncateWithoutConflict,
        Mutation::TxnCompareIgnored,
        Mutation::UnknownToldAsRefused,
        Mutation::VoteBeforeSync,
        Mutation::VoteForgottenInTerm,
        Mutation::VoteToShorterLog,
        Mutation::WatchLosesAtCompaction,
        Mutation::WatchRepeatsOnResume,
    ];

    /// Runs `body` with this error on this thread, and none after it. In a release build `body`
    /// runs without it.
    pub fn with<R>(self, body: impl FnOnce() -> R) -> R {
        let _restored = Switched::on(self);
        body()
    }
}

/// Whether this build can switch errors on.
pub const AVAILABLE: bool = cfg!(debug_assertions);

/// Whether the error is switched on. Costs nothing in a release build.
#[cfg(debug_assertions)]
pub fn active(mutation: Mutation) -> bool {
    SWITCHED.get() == Some(mutation)
}

/// Never, in a release build.
#[cfg(not(debug_assertions))]
pub const fn active(_: Mutation) -> bool {
    false
}

#[cfg(debug_assertions)]
thread_local! {
    static SWITCHED: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Switches off again what it switched on, also when the body panics.
struct Switched;

impl Switched {
    #[cfg(debug_assertions)]
    fn on(mutation: Mutation) -> Self {
        let before = SWITCHED.replace(Some(mutation));
        assert!(before.is_none(), "{mutation:?} would be switched on besides {before:?}");
        Self
    }

    #[cfg(not(debug_assertions))]
    fn on(_: Mutation) -> Self {
        Self
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        SWITCHED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::{AVAILABLE, Mutation, active};

    // Whether another thread sees the switch is the question.
    #[allow(clippy::disallowed_methods)]
    #[test]
    fn an_error_is_on_only_within_its_body_and_on_its_thread() {
        let other = Mutation::VoteBeforeSync;
        Mutation::AckBeforeSync.with(|| {
            assert_eq!(active(Mutation::AckBeforeSync), AVAILABLE);
            assert!(!active(other));
            let elsewhere = std::thread::spawn(|| active(Mutation::AckBeforeSync));
            assert!(!elsewhere.join().expect("it only looks"));
        });
        assert!(!active(Mutation::AckBeforeSync));
    }

    #[test]
    fn a_panic_switches_it_off() {
        let result = std::panic::catch_unwind(other_panics);
        assert!(result.is_err());
        assert!(!active(Mutation::SyncSkipped));
    }

    fn other_panics() {
        Mutation::SyncSkipped.with(|| panic!("on purpose"));
    }

    #[test]
    fn all_are_listed_in_order() {
        assert!(Mutation::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
