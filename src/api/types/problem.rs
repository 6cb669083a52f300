//! The problem document (RFC 9457) with which every error is answered.

use serde::{Deserialize, Serialize};

use crate::api::types::Place;

/// What went wrong, for programs. A closed set; the daemon never sends `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 409: not enough have come to a barrier in time.
    BarrierIncomplete,
    /// 410: the revision asked for is gone.
    Compacted,
    /// 409: a change is in progress, or the request contradicts what is there.
    Conflict,
    /// 403: the caller may not do this.
    Forbidden,
    /// 400: malformed; the detail names the field.
    InvalidRequest,
    /// 404: no such key.
    KeyNotFound,
    /// Ends a stream: the reader is too slow.
    Lagged,
    /// 404: no such lease.
    LeaseNotFound,
    /// 409: no slot is free.
    LockHeld,
    /// 404: the token holds nothing under this name.
    LockNotHeld,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 503: not applied, there is no leader.
    NoLeader,
    /// 404: no such path.
    NoSuchRoute,
    /// 503: this node has no state yet.
    NotReady,
    /// 504: the write may or may not have been applied.
    OutcomeUnknown,
    /// 412: `If-Match` or `If-None-Match` did not hold.
    PreconditionFailed,
    /// 507: the store is at its quota.
    QuotaExceeded,
    /// Ends a stream, and 503: the daemon is stopping.
    ShuttingDown,
    /// 504: a read was not confirmed in time.
    Timeout,
    /// 413: over a limit of size.
    TooLarge,
    /// 429: over a limit of number.
    TooManyRequests,
    /// 503: not applied, for another reason.
    Unavailable,
    /// A code that this program does not know.
    #[serde(other)]
    Unknown,
}

/// Whether a write that failed was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It may have been: retry with the same `Idempotency-Key`.
    Maybe,
    /// Certainly not.
    No,
    /// Certainly.
    Yes,
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `/problems/<code>`. Absent in the last message of a stream, where `type` is `error`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_uri: Option<String>,
    /// The code in a few words.
    pub title: String,
    /// The HTTP status, also where the document stands in a stream.
    pub status: u16,
    /// What happened, to what, what to do next.
    pub detail: String,
    /// For programs.
    pub code: Code,
    /// For writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// `compacted`: the oldest revision that is still readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_revision: Option<u64>,
    /// `precondition_failed`: the key's last change; 0 when it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<u64>,
    /// `lagged`: the last revision sent on this stream. `key_not_found`: the revision of the read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// `lock_held`: who holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<Place>>,
    /// `forbidden`: the access rule that is about the caller and does not allow this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}
