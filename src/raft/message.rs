//! Every message that one core sends to another.
//!
//! Messages may be lost, delayed, repeated and reordered; each is safe under all four. The names of
//! the paper's two calls are kept: a vote and an append, each a request with a response.

use crate::base::{Index, NodeId, ReadContext, Term};
use crate::raft::Entry;

/// A message with its envelope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who sends it. The transport has checked it against the peer's certificate.
    pub from: NodeId,
    /// Who receives it.
    pub to: NodeId,
    /// The sender's term; in a pre-vote request, the term that the sender would campaign in, and in
    /// a granted pre-vote response the same term echoed.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// Whether a campaign is for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Campaign {
    /// Asks whether a vote would be won, and changes no term and no vote (dissertation, 9.6).
    PreVote,
    /// Asks for the vote because the leader said so ([`Body::TimeoutNow`]): that the leader is
    /// alive is no reason to refuse (dissertation, 4.2.3).
    Transfer,
    /// Asks for the vote.
    Vote,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Leader to follower: entries that follow `prev_index`, and how far is committed.
    AppendRequest {
        /// The index just before the first entry.
        prev_index: Index,
        /// The term of the entry at `prev_index` (zero at index zero).
        prev_term: Term,
        /// Consecutive entries from `prev_index + 1`; may be empty (a probe or a commit notice).
        entries: Vec<Entry>,
        /// The leader's commit index. The follower commits no further than what this message proved
        /// equal.
        commit: Index,
    },
    /// Follower to leader: the log is durable and equal to the leader's up to and including
    /// `matched`. Sent only after what it claims is on disk.
    AppendAccepted {
        /// The last index that the request proved equal and that is durable.
        matched: Index,
    },
    /// Follower to leader: the entry at `prev_index` is missing or of another term.
    AppendRejected(AppendRejection),
    /// Leader to all: it still leads; also the question "do you still follow me?" behind read
    /// batches and check-quorum.
    Heartbeat {
        /// No more than what the follower is known to match.
        commit: Index,
        /// The number of the read round, growing within a term; echoed by the response. Zero asks
        /// nothing.
        round: u64,
        /// Every member holds the log durably up to here, as far as the leader knows; zero when it
        /// does not know. What lies behind may be cut from the log by all.
        all_matched: Index,
    },
    /// Follower to leader: follows, in this term. Sent to a leader of an older term too, with round
    /// zero, so that it learns the newer term and steps down.
    HeartbeatResponse {
        /// The round of the heartbeat it answers.
        round: u64,
        /// The follower's last index, durable or not, equal to the leader's or not: a hint that is
        /// never counted. A leader that has sent more than this, and hears no acknowledgement,
        /// knows that an append was lost.
        last_index: Index,
    },
    /// Any member to the leader: at which index may a linearizable read that I hold be served?
    ReadRequest {
        /// Names the batch of reads at the asker.
        context: ReadContext,
    },
    /// Leader to the asker: serve it once this index is applied.
    ReadResponse {
        /// The asker's name for the batch.
        context: ReadContext,
        /// The read index.
        index: Index,
    },
    /// Leader to the voter that is to lead next: campaign now (dissertation, 3.10). Believed only
    /// from the leader of the current term.
    TimeoutNow,
    /// Asks for a vote.
    VoteRequest {
        /// Pre-vote or vote.
        campaign: Campaign,
        /// The index of the candidate's last entry.
        last_index: Index,
        /// The term of the candidate's last entry.
        last_term: Term,
    },
    /// Answers it. A grant of a real vote is sent only after term and vote are on disk.
    VoteResponse {
        /// The kind of campaign that it answers.
        campaign: Campaign,
        /// Whether the vote is given.
        granted: bool,
    },
}

/// Why an append did not fit, with enough for the leader to skip whole terms (paper, end of 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendRejection {
    /// The `prev_index` that did not fit, so that a late rejection is recognised.
    pub prev_index: Index,
    /// The follower's last index.
    pub last_index: Index,
    /// The largest index at which the two logs may still agree: the follower's last entry whose
    /// term is not above the leader's `prev_term`.
    pub hint_index: Index,
    /// The term of the follower's entry at `hint_index`.
    pub hint_term: Term,
}
