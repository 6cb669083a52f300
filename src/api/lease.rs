//! `/v1/leases`: leases, and the streams of their states.
//!
//! What may be promised, and for how long, is decided in `replica/`; here it is told in time.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Duration, Instant};

use crate::api::types::{
    Bind as BindView, GrantLeaseRequest, HexId, KeepaliveAnswer, KeyName, LeaseAnswer,
    LeaseMessage, LeaseState, LeaseView, LeasesAnswer, RevokeAnswer,
};
use crate::base::{LeaseId, Revision, Span, limits};
use crate::host::{Caller, Process, ProcessIdentity, TargetError, Wanted};
use crate::node::{Follower, Node, NodeStatus, Topic};
use crate::replica::{Promise, PromiseState};
use crate::state::{Bind, Lease, NewLease, Operation, Outcome};

use super::answer::{Stamp, json, stamp};
use super::body;
use super::bound::Owned;
use super::context::{Ask, Context, node_name};
use super::kv::{another_request, duration, limit};
use super::params;
use super::permit::{Claimant, Permit};
use super::problem::Fault;
use super::stream::{Body, Emit, Framing};

/// The end of a promise is told this much before it comes: time for the message to be written.
pub(super) const HEADROOM: Span = Span::from_millis(25);

/// `POST /v1/leases`
pub(super) async fn grant(context: &Arc<Context>, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let framing = Framing::of(&ask.parts.headers);
    let permit = context.permit(&ask.subject, vec![Wanted::Lease])?;
    let request: GrantLeaseRequest =
        body::json(ask.body, context.options.request_bytes_max).await?;
    let bind = bind(request.bind.unwrap_or(BindView::None), request.pid)?;
    let target = target(&ask.caller, bind, request.pid)?;
    let ttl = request.ttl.map(params::span);
    let lease = new_lease(&ask.caller, ttl, bind, request.info, target.as_deref())?;
    let (ttl, operation) = (lease.ttl, Operation::GrantLease(lease));
    if bind == Bind::None {
        let outcome = context.node.submit(operation, idempotency, timeout).await?;
        let (lease, revision) = granted(context.unrefused(outcome)?)?;
        let answer = LeaseAnswer {
            lease: HexId(lease.get()),
            ttl_ms: ttl.as_millis(),
            valid_for_ms: valid_for(context.node.promise(lease)),
            bind: BindView::None,
            revision: revision.get(),
        };
        return Ok(json(StatusCode::CREATED, &answer, context.stamp(revision)));
    }
    if let Some(process) = target {
        let (outcome, owned) = context.bound.submit(operation, idempotency, timeout).await?;
        let (lease, revision) = granted(context.unrefused(outcome)?)?;
        follow_process(context, lease, &process, owned)?;
        let answer = LeaseAnswer {
            lease: HexId(lease.get()),
            ttl_ms: ttl.as_millis(),
            valid_for_ms: valid_for(context.node.promise(lease)),
            bind: BindView::Process,
            revision: revision.get(),
        };
        return Ok(json(StatusCode::CREATED, &answer, context.stamp(revision)));
    }
    let slot = context.stream_slot()?;
    let (outcome, owned) = context.bound.submit(operation, idempotency, timeout).await?;
    let (lease, revision) = granted(context.unrefused(outcome)?)?;
    let first = LeaseMessage {
        ttl_ms: Some(ttl.as_millis()),
        bind: Some(BindView::Connection),
        revision: Some(revision.get()),
        ..message(lease, LeaseState::Active, context.node.promise(lease), None)
    };
    let stream = States::new(context, lease, framing, Some(first), Presence::Promised, permit);
    let body = Body::stream(|emit| async move {
        let _held = (slot, owned);
        stream.run(&emit).await;
    });
    let mut response = framing.response(StatusCode::CREATED, body);
    stamp(response.headers_mut(), context.stamp(revision));
    Ok(response)
}

fn granted(outcome: Outcome) -> Result<(LeaseId, Revision), Fault> {
    match outcome {
        Outcome::Granted { lease, revision } => Ok((lease, revision)),
        other => Err(another_request(&other)),
    }
}

/// The process that a lease is to be bound to, if it is to be bound to one.
pub(super) fn target(
    caller: &Caller,
    bind: Bind,
    pid: Option<u32>,
) -> Result<Option<Arc<Process>>, Fault> {
    if bind != Bind::Process {
        return Ok(None);
    }
    let refused = |error: TargetError| match error {
        TargetError::Foreign(_) => Fault::forbidden(error.to_string()),
        _ => Fault::invalid(error.to_string()),
    };
    caller.target(pid).map(Some).map_err(refused)
}

/// From here on the lease ends with the process, and not with the guard of the request.
pub(super) fn follow_process(
    context: &Context,
    lease: LeaseId,
    process: &Arc<Process>,
    owned: Owned,
) -> Result<(), Fault> {
    let status = context.node.status();
    let own = (status.replica.node, status.replica.boot);
    let record = {
        let view = context.node.view();
        let lease = view.machine.lease(lease).ok_or_else(Fault::lease_not_found)?;
        (lease.node, lease.boot) == own && lease.pid.unwrap_or(0) == process.pid()
    };
    // The outcome of a repeated request may name a lease of another process or node: it follows
    // what it was made for.
    if record {
        context.host.bindings().bind(lease, process).map_err(|error| {
            Fault::too_many(format!("this node can watch no more processes: {error}"))
        })?;
    }
    owned.release();
    Ok(())
}

/// What a request may bind a lease to.
pub(super) fn bind(bind: BindView, pid: Option<u32>) -> Result<Bind, Fault> {
    match bind {
        BindView::Process => Ok(Bind::Process),
        BindView::Node => Err(Fault::invalid("\"bind\": a node's own lease is made by the daemon")),
        _ if pid.is_some() => Err(Fault::invalid("\"pid\" goes with \"bind\": \"process\" only")),
        BindView::Connection => Ok(Bind::Connection),
        BindView::None => Ok(Bind::None),
    }
}

/// A lease to be made for a caller.
pub(super) fn new_lease(
    caller: &Caller,
    ttl: Option<Span>,
    bind: Bind,
    info: Option<String>,
    process: Option<&Process>,
) -> Result<NewLease, Fault> {
    let ttl = ttl.unwrap_or(limits::TTL_DEFAULT);
    if ttl < limits::TTL_MIN || ttl > limits::TTL_MAX {
        return Err(Fault::invalid("\"ttl\" is not in 1s..24h"));
    }
    let info = info.unwrap_or_default();
    check_info(&info)?;
    let pid = match process {
        Some(process) => Some(process.pid()).filter(|pid| *pid > 0),
        None => caller.pid,
    };
    let identity = process.map(Process::identity).filter(|identity| identity.is_lasting());
    let process = identity.map(ProcessIdentity::to_string);
    Ok(NewLease { ttl, bind, pid, uid: caller.uid, info, process })
}

/// Refuses free text that is too long.
pub(super) fn check_info(info: &str) -> Result<(), Fault> {
    let max = limits::INFO_BYTES_MAX;
    if info.len() > max { Err(Fault::too_large("\"info\"", max, "bytes")) } else { Ok(()) }
}

/// `POST /v1/leases/{id}/keepalive`
pub(super) async fn keepalive(
    context: &Context,
    ask: Ask,
    lease: LeaseId,
) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    context.permit(&ask.subject, vec![Wanted::Lease])?;
    let claimant = Claimant { subject: &ask.subject, idempotency: None, timeout };
    context.own_leases(&claimant, [lease]).await?;
    let text = body::read(ask.body, context.options.request_bytes_max, "the request").await?;
    if !text.is_empty() && text.as_ref() != b"{}" {
        return Err(Fault::invalid("a keepalive has no body"));
    }
    let promise = context.node.keepalive(lease, timeout).await?;
    let promise = promise.ok_or_else(Fault::lease_not_found)?;
    if promise.state == PromiseState::Lost {
        return Err(Fault::lease_not_found());
    }
    let ttl = context.node.view().machine.lease(lease).map(|lease| lease.ttl);
    let answer = KeepaliveAnswer {
        lease: HexId(lease.get()),
        ttl_ms: ttl.ok_or_else(Fault::lease_not_found)?.as_millis(),
        valid_for_ms: valid_for(context.node.promise(lease).or(Some(promise))),
    };
    let seen = Stamp::of(&context.node.view());
    Ok(json(StatusCode::OK, &answer, seen))
}

/// `DELETE /v1/leases/{id}`
pub(super) async fn revoke(
    context: &Context,
    ask: Ask,
    lease: LeaseId,
) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    context.permit(&ask.subject, vec![Wanted::Lease])?;
    let claimant = Claimant { subject: &ask.subject, idempotency: idempotency.as_ref(), timeout };
    context.own_leases(&claimant, [lease]).await?;
    let bind = context.node.view().machine.lease(lease).map(|lease| lease.bind);
    if bind == Some(Bind::Node) {
        let detail = "this is a node's own lease, and ends with its daemon";
        return Err(Fault::forbidden(detail));
    }
    let operation = Operation::RevokeLeases { leases: vec![lease] };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Revoked { revoked: 0, .. } => Err(Fault::lease_not_found()),
        Outcome::Revoked { revision, .. } => {
            let answer = RevokeAnswer { lease: HexId(lease.get()), revision: revision.get() };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

/// `GET /v1/leases/{id}`
pub(super) async fn get(
    context: &Context,
    ask: Ask,
    lease: LeaseId,
) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["consistency", "min_revision"])?;
    context.permit(&ask.subject, vec![Wanted::Lease])?;
    context.fresh(params.consistency()?, params.timeout()?).await?;
    let (status, promise) = (context.node.status(), context.node.promise(lease));
    let (answer, seen) = {
        let view = context.node.view();
        let lease = view.machine.lease(lease).ok_or_else(Fault::lease_not_found)?;
        context.own_lease(&ask.subject, lease.uid)?;
        let keys = lease.keys.iter().cloned().map(KeyName).collect();
        (LeaseView { keys, ..view_of(lease, promise, &status) }, Stamp::of(&view))
    };
    Ok(json(StatusCode::OK, &answer, seen))
}

/// `GET /v1/leases`: the caller's own; all of them for administrators.
pub(super) async fn list(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["consistency", "min_revision", "limit", "start_after"])?;
    let (limit, after) = (limit(&params)?, params.lease("start_after")?);
    context.permit(&ask.subject, vec![Wanted::Lease])?;
    let all = context.owns_all_leases(&ask.subject);
    context.fresh(params.consistency()?, params.timeout()?).await?;
    let status = context.node.status();
    let (mut leases, seen) = {
        let view = context.node.view();
        let shown = |lease: &&Lease| all || lease.uid == ask.caller.uid;
        let later = view.machine.leases().filter(|lease| Some(lease.id) > after).filter(shown);
        let leases = later.take(limit + 1).map(|lease| view_of(lease, None, &status));
        (leases.collect::<Vec<_>>(), Stamp::of(&view))
    };
    let more = leases.len() > limit;
    leases.truncate(limit);
    for lease in &mut leases {
        let promise = context.node.promise(LeaseId(lease.lease.0));
        (lease.remaining_ms, lease.valid_for_ms) = times(promise, lease.ttl_ms);
    }
    let answer = LeasesAnswer { leases, more, revision: seen.revision.get() };
    Ok(json(StatusCode::OK, &answer, seen))
}

fn view_of(lease: &Lease, promise: Option<Promise>, status: &NodeStatus) -> LeaseView {
    let (remaining_ms, valid_for_ms) = times(promise, lease.ttl.as_millis());
    LeaseView {
        lease: HexId(lease.id.get()),
        ttl_ms: lease.ttl.as_millis(),
        remaining_ms,
        valid_for_ms,
        bind: match lease.bind {
            Bind::Connection => BindView::Connection,
            Bind::Node => BindView::Node,
            Bind::None => BindView::None,
            Bind::Process => BindView::Process,
        },
        node: node_name(status, lease.node),
        pid: lease.pid,
        uid: lease.uid,
        info: lease.info.clone(),
        keys: Vec::new(),
    }
}

/// How long a lease has, and how long of that is promised: the promise is the time to live less a
/// margin, both counted from the last confirmation.
fn times(promise: Option<Promise>, ttl_ms: u64) -> (Option<u64>, Option<u64>) {
    let margin = limits::promise_margin(Span::from_millis(ttl_ms));
    match promise {
        Some(Promise { state: PromiseState::Lost, .. }) => (None, Some(0)),
        Some(Promise { valid_for, .. }) => {
            (Some((valid_for + margin).as_millis()), Some(valid_for.as_millis()))
        }
        None => (None, None),
    }
}

/// Milliseconds of a promise; zero without one.
pub(super) fn valid_for(promise: Option<Promise>) -> u64 {
    promise.map_or(0, |promise| promise.valid_for.as_millis())
}

/// `GET /v1/leases/{id}/events`
pub(super) async fn events(
    context: &Arc<Context>,
    ask: Ask,
    lease: LeaseId,
) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["consistency", "min_revision"])?;
    let framing = Framing::of(&ask.parts.headers);
    context.permit(&ask.subject, vec![Wanted::Lease])?;
    context.fresh(params.consistency()?, params.timeout()?).await?;
    let slot = context.stream_slot()?;
    let (owner, seen) = {
        let view = context.node.view();
        let found = view.machine.lease(lease).ok_or_else(Fault::lease_not_found)?;
        (found.uid, Stamp::of(&view))
    };
    let permit = context.own_lease(&ask.subject, owner)?;
    let presence = match context.node.promise(lease) {
        Some(_) => Presence::Promised,
        None => Presence::Elsewhere,
    };
    let stream = States::new(context, lease, framing, None, presence, permit);
    let body = Body::stream(|emit| async move {
        let _slot = slot;
        stream.run(&emit).await;
    });
    let mut response = framing.response(StatusCode::OK, body);
    stamp(response.headers_mut(), seen);
    Ok(response)
}

/// Whether this node ever promised anything about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// It is kept alive elsewhere: all that is known here is whether it exists.
    Elsewhere,
    /// It did, so that no promise means that it is gone.
    Promised,
}

/// A stream of the states of one lease.
struct States {
    context: Arc<Context>,
    lease: LeaseId,
    framing: Framing,
    first: Option<LeaseMessage>,
    presence: Presence,
    permit: Permit,
    changes: Follower,
    /// Whether the lease ends with this stream.
    ends_with_stream: bool,
}

impl States {
    fn new(
        context: &Arc<Context>,
        lease: LeaseId,
        framing: Framing,
        first: Option<LeaseMessage>,
        presence: Presence,
        permit: Permit,
    ) -> Self {
        let changes = context.node.follow(Topic::Lease(lease));
        let ends_with_stream = first.is_some();
        Self {
            context: context.clone(),
            lease,
            framing,
            first,
            presence,
            permit,
            changes,
            ends_with_stream,
        }
    }

    async fn run(mut self, emit: &Emit) {
        let (stop, permit) = (self.context.clone(), self.permit.clone());
        let stopped = stop.ended(&permit);
        tokio::pin!(stopped);
        let mut told = None;
        loop {
            let (step, now) = (self.look(), Instant::now());
            let (due, next) = when(told, step.state, step.valid_for, now);
            if due {
                let mut message = step.message(self.lease);
                if step.state == LeaseState::Active
                    && let Some(first) = self.first.take()
                {
                    message = LeaseMessage { ttl_ms: first.ttl_ms, bind: first.bind, ..message };
                    message.revision = first.revision;
                }
                let valid_for = duration(Span::from_millis(message.valid_for_ms));
                told = Some((step.state, now, valid_for));
                emit.send(self.framing.encode(None, &message)).await;
            }
            if step.state == LeaseState::Lost {
                return;
            }
            tokio::select! {
                () = self.changes.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                () = &mut stopped => {
                    let reason = Some(self.context.ending(&permit).1);
                    let message = message(self.lease, LeaseState::Error, None, reason);
                    emit.send(self.framing.encode(None, &message)).await;
                    if self.ends_with_stream {
                        wound_up(&self.context.node, self.lease).await;
                    }
                    return;
                }
            }
        }
    }

    fn look(&self) -> Step {
        let exists = self.context.node.view().machine.lease(self.lease).is_some();
        match (exists, self.context.node.promise(self.lease), self.presence) {
            (false, ..) => Step::lost(ENDED),
            (true, None, Presence::Elsewhere) => Step {
                state: LeaseState::Active,
                valid_for: None,
                reason: Some("kept alive elsewhere"),
            },
            (true, None, Presence::Promised) => Step::lost(ENDED),
            (true, Some(promise), _) => Step::of(promise),
        }
    }
}

/// Leaves a holder who was just told that the daemon stops the time that it was promised, so that
/// it can end what it does before anyone else holds. It says that it is done by closing its
/// connection, which drops this future; a daemon that has no more time does the same.
pub(super) async fn wound_up(node: &Node, lease: LeaseId) {
    let promised = node.promise(lease).map_or(Span::ZERO, |promise| promise.valid_for);
    tokio::time::sleep(duration(promised)).await;
}

/// The lease does not exist any more.
pub(super) const ENDED: &str = "the lease has ended";
/// Its promise has run out.
pub(super) const UNCONFIRMED: &str = "the lease could not be confirmed in time";
/// A confirmation is late.
pub(super) const OVERDUE: &str = "a confirmation of the lease is overdue";

/// What may be said about a lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// How it stands.
    pub(super) state: LeaseState,
    /// For how long; nothing when this node has promised nothing.
    pub(super) valid_for: Option<Span>,
    /// Why it stands so, unless it is simply active.
    pub(super) reason: Option<&'static str>,
}

impl Step {
    fn lost(reason: &'static str) -> Self {
        Self { state: LeaseState::Lost, valid_for: Some(Span::ZERO), reason: Some(reason) }
    }

    /// What a promise lets one say: that it is over a little before it is.
    pub(super) fn of(promise: Promise) -> Self {
        let valid_for = Some(promise.valid_for);
        if promise.state == PromiseState::Lost || promise.valid_for <= HEADROOM {
            return Self::lost(UNCONFIRMED);
        }
        match promise.state {
            PromiseState::Active => Self { state: LeaseState::Active, valid_for, reason: None },
            _ => Self { state: LeaseState::AtRisk, valid_for, reason: Some(OVERDUE) },
        }
    }

    fn message(&self, lease: LeaseId) -> LeaseMessage {
        LeaseMessage {
            state: self.state,
            lease: HexId(lease.get()),
            valid_for_ms: self.valid_for.unwrap_or_default().as_millis(),
            ttl_ms: None,
            bind: None,
            revision: None,
            reason: self.reason.map(str::to_owned),
        }
    }
}

fn message(
    lease: LeaseId,
    state: LeaseState,
    promise: Option<Promise>,
    reason: Option<&str>,
) -> LeaseMessage {
    LeaseMessage {
        state,
        lease: HexId(lease.get()),
        valid_for_ms: valid_for(promise),
        ttl_ms: None,
        bind: None,
        revision: None,
        reason: reason.map(str::to_owned),
    }
}

/// Whether a state must be told now, and when to look again: before the promise ends, and when half
/// of what was told last has passed, so that a reader always knows of a promise that is not stale.
pub(super) fn when(
    told: Option<(LeaseState, Instant, Duration)>,
    state: LeaseState,
    valid_for: Option<Span>,
    now: Instant,
) -> (bool, Instant) {
    let far = now + Duration::from_secs(3_600);
    let end = valid_for.map_or(far, |span| now + duration(span.less(HEADROOM)));
    let refresh = |at: Instant, valid_for: Duration| match valid_for.is_zero() {
        true => far,
        false => at + valid_for / 2,
    };
    match told {
        Some((told, ..)) if told == state && state != LeaseState::Active => (false, end),
        Some((told, at, told_for)) if told == state && refresh(at, told_for) > now => {
            (false, end.min(refresh(at, told_for)))
        }
        _ => {
            let told_for = valid_for.map_or(Duration::ZERO, duration);
            (true, end.min(refresh(now, told_for)))
        }
    }
}

/// Reads the id in a path.
pub(super) fn path_lease(raw: &Bytes) -> Result<LeaseId, Fault> {
    params::lease_id(raw, "lease")
}
