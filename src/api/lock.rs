//! `/v1/locks`: locks and semaphores.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::types::{AcquireRequest, LockView, LocksAnswer, Mode as ModeView, ReleaseAnswer};
use crate::base::Token;
use crate::node::NodeStatus;
use crate::replica::View;
use crate::state::{Mode, Operation, Outcome, QueueKind, QueueName, QueueView};

use super::answer::json;
use super::body;
use super::context::{Ask, Context, place};
use super::kv::{another_request, limit};
use super::lease::check_info;
use super::params;
use super::permit::{Claimant, read_queue, read_queues, use_queue};
use super::place::{Manner, Want, acquire, slots};
use super::problem::Fault;
use super::stream::Body;
use super::txn::check_name;

/// `POST /v1/locks/{name}`
pub(super) async fn post(
    context: &Arc<Context>,
    ask: Ask,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    let manner = Manner::of(&ask)?;
    let queue = QueueName { kind: QueueKind::Lock, name };
    let permit = context.permit(&ask.subject, vec![use_queue(&queue)])?;
    let request: AcquireRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    let info = request.info.clone().unwrap_or_default();
    check_info(&info)?;
    let (slots, mode) = (slots(request.slots)?, mode(request.mode));
    if mode == Mode::Shared && slots != 1 {
        return Err(Fault::invalid(
            "\"slots\" above 1 and \"mode\": \"shared\" exclude each other",
        ));
    }
    let want = Want {
        queue,
        slots,
        mode,
        value: Bytes::from(info),
        lease: request.lease,
        ttl: request.ttl,
        bind: request.bind,
        pid: request.pid,
        info: request.info,
        wait: request.wait,
    };
    acquire(context, manner, want, permit).await
}

fn mode(wanted: Option<ModeView>) -> Mode {
    match wanted.unwrap_or_default() {
        ModeView::Exclusive => Mode::Exclusive,
        ModeView::Shared => Mode::Shared,
    }
}

/// `GET /v1/locks/{name}`
pub(super) async fn get(context: &Context, ask: Ask, name: Bytes) -> Result<Response<Body>, Fault> {
    let queue = read_one(context, ask, QueueKind::Lock, name).await?;
    Ok(context.shown(|view, status| lock_view(view, status, &queue)))
}

fn lock_view(view: &View, status: &NodeStatus, name: &QueueName) -> LockView {
    let queue = view.machine.queue(name).unwrap_or_else(|| QueueView {
        queue: name.clone(),
        slots: 1,
        holders: Vec::new(),
        waiters: Vec::new(),
    });
    let places = |entries: &[crate::state::QueueEntry]| {
        entries.iter().map(|entry| place(view, status, name.kind, entry)).collect()
    };
    LockView {
        name: name.name.clone(),
        slots: queue.slots,
        holders: places(&queue.holders),
        waiters: places(&queue.waiters),
        revision: view.machine.revision().get(),
    }
}

/// `GET /v1/locks`
pub(super) async fn list(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    let (names, more) = names(context, ask, QueueKind::Lock).await?;
    Ok(context.shown(|view, status| LocksAnswer {
        locks: names.iter().map(|name| lock_view(view, status, name)).collect(),
        more,
        revision: view.machine.revision().get(),
    }))
}

/// The queue that a read names, once it may be read and the state is as fresh as is asked for.
pub(super) async fn read_one(
    context: &Context,
    ask: Ask,
    kind: QueueKind,
    name: Bytes,
) -> Result<QueueName, Fault> {
    check_name(&name)?;
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["consistency", "min_revision"])?;
    let queue = QueueName { kind, name };
    context.permit(&ask.subject, vec![read_queue(&queue)])?;
    context.fresh(params.consistency()?, params.timeout()?).await?;
    Ok(queue)
}

/// The names of a page of queues, and whether more follow.
pub(super) async fn names(
    context: &Context,
    ask: Ask,
    kind: QueueKind,
) -> Result<(Vec<QueueName>, bool), Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["consistency", "min_revision", "limit", "start_after"])?;
    let (limit, after) = (limit(&params)?, params.bytes("start_after"));
    context.permit(&ask.subject, vec![read_queues(kind)])?;
    context.fresh(params.consistency()?, params.timeout()?).await?;
    let view = context.node.view();
    let later = view.machine.queues(kind).filter(|name| Some(&name.name) > after.as_ref());
    let mut names: Vec<QueueName> = later.take(limit + 1).collect();
    let more = names.len() > limit;
    names.truncate(limit);
    Ok((names, more))
}

/// `DELETE /v1/locks/{name}?token=N`, and the same for elections and barriers.
pub(super) async fn release(
    context: &Context,
    ask: Ask,
    kind: QueueKind,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["token"])?;
    let token = token(&params)?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let (queue, timeout) = (QueueName { kind, name }, params.timeout()?);
    context.permit(&ask.subject, vec![use_queue(&queue)])?;
    let claimant = Claimant { subject: &ask.subject, idempotency: idempotency.as_ref(), timeout };
    context.own_place(&claimant, &queue, token).await?;
    let operation = Operation::Release { queue, token };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Released { revision } => {
            let answer = ReleaseAnswer { token: token.get(), revision: revision.get() };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

/// The token that a request names.
pub(super) fn token(params: &params::Params<'_>) -> Result<Token, Fault> {
    let token = params.number("token")?;
    token.map(Token).ok_or_else(|| Fault::invalid("\"token\" is missing"))
}
