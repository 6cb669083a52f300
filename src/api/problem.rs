//! What failures look like to callers: the only place that maps them to status, code and `applied`.
//!
//! Why something failed was decided below; `OutcomeUnknown` in particular is born only in
//! `replica/`.

use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::api::types::{Applied, Code, Place, Problem};
use crate::base::Revision;
use crate::host::Denied;
use crate::node::StartPhase;
use crate::replica::{Removal, RequestError, UnavailableReason};
use crate::state::{QueryError, Refusal};
use crate::watch::WatchError;

use super::answer::{Stamp, stamp};
use super::stream::Body;

/// A failure on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    problem: Problem,
    allow: Option<&'static str>,
    stamp: Option<Stamp>,
}

/// The seconds after which a request that was refused for now is worth repeating.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

impl Fault {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        let (status, title, _) = row(code);
        let problem = Problem {
            type_uri: None,
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code,
            applied: None,
            compact_revision: None,
            mod_revision: None,
            revision: None,
            holders: None,
            rule: None,
        };
        Self(Box::new(Inner { problem, allow: None, stamp: None }))
    }

    /// 400: the detail names the field or parameter.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// 403.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, detail)
    }

    /// 403: the daemon's own namespace is written through its own calls only.
    pub(super) fn reserved() -> Self {
        Self::forbidden(
            "keys that begin with \"_\" are reserved: they change only through their own calls, \
             and _access/ only by PUT and DELETE of /v1/kv/_access/{name}",
        )
    }

    /// 404 for a key, seen at a revision.
    pub(super) fn key_not_found(stamp: Stamp) -> Self {
        let mut fault = Self::new(Code::KeyNotFound, "the key does not exist");
        fault.0.problem.revision = Some(stamp.revision.get());
        fault.0.stamp = Some(stamp);
        fault
    }

    /// 404 for a lease.
    pub(super) fn lease_not_found() -> Self {
        Self::new(Code::LeaseNotFound, "there is no such lease: it has ended, or never existed")
    }

    /// 404 for a token.
    pub(super) fn token_not_held() -> Self {
        Self::not_held("this token holds and waits for nothing here")
    }

    /// 404 for a place in a queue.
    pub(super) fn not_held(detail: impl Into<String>) -> Self {
        Self::new(Code::LockNotHeld, detail)
    }

    /// 404 for a join token.
    pub(super) fn token_not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::KeyNotFound, detail)
    }

    /// 404 for a path.
    pub(super) fn no_such_route() -> Self {
        Self::new(
            Code::NoSuchRoute,
            "there is nothing at this path; docs/api.md lists what there is",
        )
    }

    /// 405.
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path answers to {allow}");
        let mut fault = Self::new(Code::MethodNotAllowed, detail);
        fault.0.allow = Some(allow);
        fault
    }

    /// 409.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Code::Conflict, detail)
    }

    /// 409: no slot became free in time.
    pub(super) fn lock_held(holders: Vec<Place>) -> Self {
        let detail = match holders.len() {
            1 => "another caller holds it".to_owned(),
            many => format!("all slots are taken, by {many} holders"),
        };
        let mut fault = Self::new(Code::LockHeld, detail);
        fault.0.problem.holders = Some(holders);
        fault
    }

    /// 409: not enough have come to a barrier in time.
    pub(super) fn barrier_incomplete(present: u64, count: u32) -> Self {
        let detail = format!(
            "this barrier is not complete: besides the caller {present}/{count} wait at it"
        );
        Self::new(Code::BarrierIncomplete, detail)
    }

    /// 410.
    pub(super) fn compacted(compact_revision: Revision) -> Self {
        let detail = format!(
            "the revision asked for is gone, or belongs to another epoch; the oldest that can be \
             read is {compact_revision}"
        );
        let mut fault = Self::new(Code::Compacted, detail);
        fault.0.problem.compact_revision = Some(compact_revision.get());
        fault
    }

    /// 412.
    fn precondition_failed(mod_revision: Revision) -> Self {
        let detail = match mod_revision.get() {
            0 => "the key does not exist".to_owned(),
            revision => format!("the key was last changed by revision {revision}"),
        };
        let mut fault = Self::new(Code::PreconditionFailed, detail);
        fault.0.problem.mod_revision = Some(mod_revision.get());
        fault
    }

    /// 412: it would do harm, or cannot be done as things are; the detail says why.
    pub(super) fn unmet(detail: impl Into<String>) -> Self {
        Self::new(Code::PreconditionFailed, detail)
    }

    /// 504: it was taken, and is not done yet.
    pub(super) fn unfinished(detail: impl Into<String>) -> Self {
        Self::new(Code::OutcomeUnknown, detail)
    }

    /// 503.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, detail)
    }

    /// 413.
    pub(super) fn too_large(what: &str, max: usize, unit: &str) -> Self {
        Self::new(Code::TooLarge, format!("{what} is over the limit of {max} {unit}"))
    }

    /// 429.
    pub(super) fn too_many(detail: impl Into<String>) -> Self {
        Self::new(Code::TooManyRequests, detail)
    }

    /// 503.
    pub(super) fn no_leader() -> Self {
        RequestError::NoLeader.into()
    }

    /// Ends a stream whose reader is too slow.
    pub(super) fn lagged(last_sent: Revision) -> Self {
        let detail = format!(
            "the reader was slower than the history is long; everything up to revision {last_sent} \
             was sent: resume after it, or start over with initial=true"
        );
        let mut fault = Self::new(Code::Lagged, detail);
        fault.0.problem.revision = Some(last_sent.get());
        fault
    }

    /// Ends a stream when the daemon stops.
    pub(super) fn shutting_down() -> Self {
        Self::new(Code::ShuttingDown, "this daemon is stopping: resume on it later, or elsewhere")
    }

    /// This node's state is not that of the others.
    pub(super) fn diverged() -> Self {
        RequestError::Unavailable(UnavailableReason::Diverged).into()
    }

    /// A write was not applied, unless it is known better already.
    #[must_use]
    pub(super) fn of_write(mut self) -> Self {
        let unknown = matches!(self.0.problem.code, Code::OutcomeUnknown | Code::Timeout);
        let applied = if unknown { Applied::Maybe } else { Applied::No };
        self.0.problem.applied.get_or_insert(applied);
        self
    }

    /// Says which state it reflects, if it reflects one and does not say so yet.
    #[must_use]
    pub(super) fn seen_at(mut self, seen: impl FnOnce() -> Stamp) -> Self {
        let of_the_store = matches!(
            self.0.problem.code,
            Code::Compacted
                | Code::Conflict
                | Code::LeaseNotFound
                | Code::LockHeld
                | Code::LockNotHeld
                | Code::PreconditionFailed
        );
        if of_the_store {
            self.0.stamp.get_or_insert_with(seen);
        }
        self
    }

    /// The document as the last message of a stream carries it.
    pub(super) fn into_problem(self) -> Problem {
        self.0.problem
    }

    /// The whole answer.
    pub(super) fn into_response(self) -> Response<Body> {
        let Inner { mut problem, allow, stamp: seen } = *self.0;
        let (status, _, name) = row(problem.code);
        problem.type_uri = Some(format!("/problems/{name}"));
        let mut text = serde_json::to_vec(&problem).expect("a problem has only plain fields");
        text.push(b'\n');
        let mut response = Response::new(Body::full(text));
        *response.status_mut() =
            StatusCode::from_u16(status).expect("the table below has valid statuses");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, 429 | 503) {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seen) = seen {
            stamp(headers, seen);
        }
        response
    }

    /// Its code, for those who must tell failures apart.
    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.0.problem.code
    }
}

/// Status, title and name of each code.
fn row(code: Code) -> (u16, &'static str, &'static str) {
    match code {
        Code::BarrierIncomplete => (409, "Others have not come", "barrier_incomplete"),
        Code::Compacted => (410, "The revision is gone", "compacted"),
        Code::Conflict => (409, "The request contradicts what is there", "conflict"),
        Code::Forbidden => (403, "Not allowed", "forbidden"),
        Code::InvalidRequest => (400, "The request is malformed", "invalid_request"),
        Code::KeyNotFound => (404, "No such key", "key_not_found"),
        Code::Lagged => (503, "The reader is too slow", "lagged"),
        Code::LeaseNotFound => (404, "No such lease", "lease_not_found"),
        Code::LockHeld => (409, "Held by others", "lock_held"),
        Code::LockNotHeld => (404, "Not held", "lock_not_held"),
        Code::MethodNotAllowed => (405, "No such method here", "method_not_allowed"),
        Code::NoLeader => (503, "No leader", "no_leader"),
        Code::NoSuchRoute => (404, "No such path", "no_such_route"),
        Code::NotReady => (503, "Not ready", "not_ready"),
        Code::OutcomeUnknown => (504, "Outcome unknown", "outcome_unknown"),
        Code::PreconditionFailed => (412, "The precondition did not hold", "precondition_failed"),
        Code::QuotaExceeded => (507, "The store is full", "quota_exceeded"),
        Code::ShuttingDown => (503, "Stopping", "shutting_down"),
        Code::Timeout => (504, "Not confirmed in time", "timeout"),
        Code::TooLarge => (413, "Too large", "too_large"),
        Code::TooManyRequests => (429, "Too many requests", "too_many_requests"),
        Code::Unavailable | Code::Unknown => (503, "Unavailable", "unavailable"),
    }
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        let code = match error {
            RequestError::Forbidden => Code::Forbidden,
            RequestError::NoLeader => Code::NoLeader,
            RequestError::NotReady => Code::NotReady,
            RequestError::OutcomeUnknown => Code::OutcomeUnknown,
            RequestError::QuotaExceeded => Code::QuotaExceeded,
            RequestError::Timeout => Code::Timeout,
            RequestError::TooManyRequests => Code::TooManyRequests,
            RequestError::Unavailable(UnavailableReason::Overloaded) => Code::TooManyRequests,
            RequestError::Unavailable(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        let mut fault = Self::forbidden(denied.to_string());
        fault.0.problem.rule = denied.rule;
        fault
    }
}

impl From<Removal> for Fault {
    fn from(removal: Removal) -> Self {
        RequestError::Unavailable(UnavailableReason::Removed(removal)).into()
    }
}

impl From<&StartPhase> for Fault {
    fn from(phase: &StartPhase) -> Self {
        Self::new(Code::NotReady, format!("this node has no state yet: {}", phase.sentence()))
    }
}

/// Refusals carry everything but the names of holders; `holders` is what the caller made of those.
impl From<(Refusal, Vec<Place>)> for Fault {
    fn from((refusal, holders): (Refusal, Vec<Place>)) -> Self {
        match refusal {
            Refusal::Compacted { compact_revision } => Self::compacted(compact_revision),
            Refusal::DuplicateKey => Self::invalid("a transaction may not write one key twice"),
            Refusal::FutureRevision { revision } => Self::future(revision),
            Refusal::LeaseNotFound { .. } => Self::lease_not_found(),
            Refusal::LockHeld { .. } => Self::lock_held(holders),
            Refusal::NotHeld => Self::token_not_held(),
            Refusal::PreconditionFailed { mod_revision } => Self::precondition_failed(mod_revision),
            Refusal::OtherMode { token } => Self::conflict(format!(
                "this lease stands in this lock in the other mode: release its token {token} first"
            )),
            Refusal::SlotsDiffer { slots } => Self::conflict(format!(
                "all callers of one lock name the same number of slots, and of one barrier the \
                 same count; the others name {slots}"
            )),
            Refusal::Stale => Self::new(
                Code::Unavailable,
                "this daemon has been restarted, and the request belongs to its former life; \
                 nothing was applied",
            ),
        }
    }
}

impl Fault {
    fn future(revision: Revision) -> Self {
        Self::invalid(format!("\"revision\" has not happened yet; the newest is {revision}"))
    }
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Compacted { compact_revision } => Self::compacted(compact_revision),
            QueryError::Future { revision } => Self::future(revision),
        }
    }
}

impl From<WatchError> for Fault {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { compact_revision, revision } => {
                let mut fault = Self::compacted(compact_revision);
                fault.0.problem.revision = Some(revision.get());
                fault
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::types::{Applied, Code};
    use crate::base::Revision;
    use crate::replica::{RequestError, UnavailableReason};
    use crate::state::Refusal;

    use super::{Fault, row};

    /// The promise that clients build on: 503 is not applied, 504 is not known, and nothing else
    /// says that a write may have been applied.
    #[test]
    fn failures_of_writes_say_whether_they_were_applied() {
        for (error, status, code, applied) in [
            (RequestError::Forbidden, 403, Code::Forbidden, Applied::No),
            (RequestError::NoLeader, 503, Code::NoLeader, Applied::No),
            (RequestError::NotReady, 503, Code::NotReady, Applied::No),
            (RequestError::OutcomeUnknown, 504, Code::OutcomeUnknown, Applied::Maybe),
            (RequestError::QuotaExceeded, 507, Code::QuotaExceeded, Applied::No),
            (RequestError::Timeout, 504, Code::Timeout, Applied::Maybe),
            (RequestError::TooManyRequests, 429, Code::TooManyRequests, Applied::No),
            (
                RequestError::Unavailable(UnavailableReason::DiskFull),
                503,
                Code::Unavailable,
                Applied::No,
            ),
        ] {
            let fault = Fault::from(error).of_write();
            let response = fault.clone().into_response();
            let problem = fault.into_problem();
            assert_eq!((problem.status, problem.code), (status, code), "{error:?}");
            assert_eq!(problem.applied, Some(applied), "{error:?}");
            assert_eq!(response.status().as_u16(), status, "{error:?}");
            let retry = response.headers().contains_key("retry-after");
            assert_eq!(retry, matches!(status, 429 | 503), "{error:?}");
        }
    }

    #[test]
    fn reads_say_nothing_about_application() {
        assert_eq!(Fault::from(RequestError::Timeout).into_problem().applied, None);
    }

    #[test]
    fn the_names_of_codes_are_those_of_their_json() {
        for code in [
            Code::Compacted,
            Code::Conflict,
            Code::Forbidden,
            Code::InvalidRequest,
            Code::KeyNotFound,
            Code::Lagged,
            Code::LeaseNotFound,
            Code::LockHeld,
            Code::LockNotHeld,
            Code::MethodNotAllowed,
            Code::NoLeader,
            Code::NoSuchRoute,
            Code::NotReady,
            Code::OutcomeUnknown,
            Code::PreconditionFailed,
            Code::QuotaExceeded,
            Code::ShuttingDown,
            Code::Timeout,
            Code::TooLarge,
            Code::TooManyRequests,
            Code::Unavailable,
        ] {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{}\"", row(code).2));
        }
    }

    #[test]
    fn refusals_carry_what_a_retry_needs() {
        let failed = Refusal::PreconditionFailed { mod_revision: Revision(7) };
        let problem = Fault::from((failed, Vec::new())).into_problem();
        assert_eq!((problem.status, problem.mod_revision), (412, Some(7)));
        let gone = Refusal::Compacted { compact_revision: Revision(9) };
        let problem = Fault::from((gone, Vec::new())).into_problem();
        assert_eq!((problem.status, problem.compact_revision), (410, Some(9)));
        let response = Fault::method_not_allowed("GET, HEAD").into_response();
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}
