//! `/v1/barriers`: waiting until as many have come as the barrier counts.
//!
//! When all are let go is decided in `state/`. Here is how it is told, and what becomes of a wait
//! that is over: whoever is told that it was in vain is not counted, also when the last one came at
//! that very moment.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Duration, Instant};

use crate::api::types::{
    BarrierMessage, BarrierRequest, BarrierView, BarriersAnswer, HexId, LeftAnswer, ReadyAnswer,
};
use crate::base::{Revision, Token, limits};
use crate::node::{NodeStatus, Topic};
use crate::replica::{PromiseState, View};
use crate::state::{
    Compare, CompareField, CompareOp, Mode, Operation, Outcome, QueueEntry, QueueKind, QueueName,
    Selection, Txn, TxnOperation, queue_key,
};

use super::answer::{Stamp, json, stamp};
use super::body;
use super::bound::Owned;
use super::context::{Ask, Context, place};
use super::kv::{another_request, duration};
use super::lease::{ENDED, HEADROOM, UNCONFIRMED, check_info};
use super::lock::{names, read_one};
use super::params;
use super::permit::{Claimant, use_queue};
use super::place::{Entered, Manner, Seen, Waiting, Want, enter, exited, until};
use super::problem::Fault;
use super::stream::{Body, Emit, Framing};
use super::txn::check_name;

/// `POST /v1/barriers/{name}`
pub(super) async fn post(
    context: &Arc<Context>,
    ask: Ask,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    let manner = Manner::of(&ask)?;
    let queue = QueueName { kind: QueueKind::Barrier, name };
    let permit = context.permit(&ask.subject, vec![use_queue(&queue)])?;
    let request: BarrierRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    if let Some(info) = &request.info {
        check_info(info)?;
    }
    let count = count(request.count)?;
    let want = Want {
        queue,
        slots: count,
        mode: Mode::Exclusive,
        value: Bytes::new(),
        lease: request.lease,
        ttl: request.ttl,
        bind: request.bind,
        pid: request.pid,
        info: request.info,
        wait: request.wait,
    };
    let framing = manner.framing;
    let entered = enter(context, manner, want, permit).await?;
    let Entered { waiting, owned, single, slot, revision } = entered;
    let attendance = Attendance { waiting, count };
    if single {
        return attendance.single(owned).await;
    }
    let body = Body::stream(|emit| async move {
        let _slot = slot;
        attendance.stream(&emit, framing, owned).await;
    });
    let mut response = framing.response(StatusCode::OK, body);
    stamp(response.headers_mut(), context.stamp(revision));
    Ok(response)
}

fn count(wanted: u32) -> Result<u32, Fault> {
    match (1..=limits::BARRIER_COUNT_MAX).contains(&wanted) {
        true => Ok(wanted),
        false => {
            Err(Fault::invalid(format!("\"count\" is not in 1..={}", limits::BARRIER_COUNT_MAX)))
        }
    }
}

/// `GET /v1/barriers/{name}`
pub(super) async fn get(context: &Context, ask: Ask, name: Bytes) -> Result<Response<Body>, Fault> {
    let queue = read_one(context, ask, QueueKind::Barrier, name).await?;
    Ok(context.shown(|view, status| barrier_view(view, status, &queue)))
}

/// `GET /v1/barriers`
pub(super) async fn list(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    let (names, more) = names(context, ask, QueueKind::Barrier).await?;
    Ok(context.shown(|view, status| BarriersAnswer {
        barriers: names.iter().map(|name| barrier_view(view, status, name)).collect(),
        more,
        revision: view.machine.revision().get(),
    }))
}

fn barrier_view(view: &View, status: &NodeStatus, name: &QueueName) -> BarrierView {
    let queue = view.machine.queue(name);
    let places = |entries: &[QueueEntry]| {
        entries.iter().map(|entry| place(view, status, name.kind, entry)).collect()
    };
    BarrierView {
        name: name.name.clone(),
        count: queue.as_ref().map(|queue| queue.slots),
        waiting: queue.as_ref().map_or(Vec::new(), |queue| places(&queue.waiters)),
        ready: queue.as_ref().map_or(Vec::new(), |queue| places(&queue.holders)),
        revision: view.machine.revision().get(),
    }
}

/// `DELETE /v1/barriers/{name}?place=N`
pub(super) async fn leave(
    context: &Context,
    ask: Ask,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["place"])?;
    let place = params.number("place")?;
    let place = place.ok_or_else(|| Fault::invalid("\"place\" is missing"))?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let (queue, token) = (QueueName { kind: QueueKind::Barrier, name }, Token(place));
    let timeout = params.timeout()?;
    context.permit(&ask.subject, vec![use_queue(&queue)])?;
    let claimant = Claimant { subject: &ask.subject, idempotency: idempotency.as_ref(), timeout };
    context.own_place(&claimant, &queue, token).await?;
    let operation = Operation::Release { queue, token };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Released { revision } => {
            let answer = LeftAnswer { place, revision: revision.get() };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

/// A place at a barrier.
struct Attendance {
    waiting: Waiting,
    count: u32,
}

impl Attendance {
    /// Answers once, when all have come. The place stays, so that a caller who asks again is told
    /// the same.
    async fn single(self, owned: Owned) -> Result<Response<Body>, Fault> {
        let waiting = &self.waiting;
        let node = &waiting.context.node;
        let mut queue = node.follow(Topic::Queue(waiting.queue.clone()));
        let mut lease = node.follow(Topic::Lease(waiting.lease));
        let exited = exited(waiting.process.as_deref());
        tokio::pin!(exited);
        loop {
            // A lease that another node keeps alive is none of this node's promises.
            match judge(&waiting.look(), waiting.deadline, Instant::now(), false).0 {
                Verdict::Ready(released) => {
                    waiting.settle(owned).await?;
                    let seen = Stamp::of(&node.view());
                    let answer = ReadyAnswer {
                        name: waiting.queue.name.clone(),
                        token: released.get(),
                        count: self.count,
                        place: waiting.token.get(),
                        lease: HexId(waiting.lease.get()),
                        revision: seen.revision.get(),
                    };
                    return Ok(json(StatusCode::OK, &answer, seen));
                }
                Verdict::Lost(reason) if reason == ENDED => return Err(Fault::lease_not_found()),
                Verdict::Lost(reason) => return Err(Fault::not_held(reason)),
                Verdict::Over => {
                    if let Some(fault) = self.give_up().await {
                        return Err(fault);
                    }
                }
                Verdict::Waiting(_) => tokio::select! {
                    () = queue.changed() => {}
                    () = lease.changed() => {}
                    () = until(waiting.deadline) => {}
                    fault = &mut exited => return Err(fault),
                    () = waiting.context.ended(&waiting.permit) => {
                        return Err(waiting.context.ending(&waiting.permit).0);
                    }
                },
            }
        }
    }

    /// Tells how many have come until all have.
    async fn stream(self, emit: &Emit, framing: Framing, owned: Owned) {
        let waiting = &self.waiting;
        let node = &waiting.context.node;
        let mut queue = node.follow(Topic::Queue(waiting.queue.clone()));
        let mut lease = node.follow(Topic::Lease(waiting.lease));
        let stopped = waiting.context.ended(&waiting.permit);
        tokio::pin!(stopped);
        let (place, count) = (waiting.token.get(), self.count);
        let mut told = None;
        let last = loop {
            let (verdict, next) = judge(&waiting.look(), waiting.deadline, Instant::now(), true);
            match verdict {
                Verdict::Ready(released) => {
                    break BarrierMessage::Ready { token: released.get(), count, place };
                }
                Verdict::Lost(reason) => break BarrierMessage::Lost { reason: reason.to_owned() },
                Verdict::Over => match self.give_up().await {
                    Some(fault) => break BarrierMessage::Error(fault.of_write().into_problem()),
                    None => continue,
                },
                Verdict::Waiting(missing) if told != Some(missing) => {
                    told = Some(missing);
                    let present = u64::from(count).saturating_sub(missing);
                    let lease = HexId(waiting.lease.get());
                    let message = BarrierMessage::Waiting { present, count, place, lease };
                    emit.send(framing.encode(None, &message)).await;
                }
                Verdict::Waiting(_) => {}
            }
            tokio::select! {
                () = queue.changed() => {}
                () = lease.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                () = &mut stopped => {
                    let (fault, _) = waiting.context.ending(&waiting.permit);
                    break BarrierMessage::Error(fault.of_write().into_problem());
                }
            }
        };
        emit.send(framing.encode(None, &last)).await;
        drop(owned);
    }

    /// Takes the place out unless it was let go meanwhile: then, or when it is gone, there is
    /// nothing to give up. The fault to answer otherwise.
    async fn give_up(&self) -> Option<Fault> {
        let waiting = &self.waiting;
        let key = queue_key(&waiting.queue, waiting.lease, Mode::Exclusive);
        let compare = |field| Compare { key: key.clone(), field, op: CompareOp::Equal };
        let operation = Operation::Txn(Txn {
            compares: vec![
                compare(CompareField::CreateRevision(Revision(waiting.token.get()))),
                compare(CompareField::Value(Bytes::from_static(b"waiting"))),
            ],
            then: vec![TxnOperation::Delete(Selection::Key(key.clone()))],
            or_else: Vec::new(),
        });
        let others = self.count_others();
        match waiting.context.node.submit(operation, None, waiting.timeout).await {
            Ok(Outcome::Txn { succeeded: true, .. }) => {
                Some(Fault::barrier_incomplete(others, self.count))
            }
            Ok(_) => None,
            // Whether it is still counted is not known; the guard of the place goes on to leave it.
            Err(error) => Some(error.into()),
        }
    }

    fn count_others(&self) -> u64 {
        let view = self.waiting.context.node.view();
        let waiting = view.machine.queue(&self.waiting.queue).map_or(0, |it| it.waiters.len());
        (waiting as u64).saturating_sub(1)
    }
}

/// How a place at a barrier stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is not counted any more.
    Lost(&'static str),
    /// The wait is over.
    Over,
    /// All have come, in this revision.
    Ready(Revision),
    /// So many must still come.
    Waiting(u64),
}

/// Decides how a place stands, and when to look again at the latest. With `promised` its lease is
/// one that this node keeps alive, and a promise that ends is a place that may be gone.
fn judge(
    seen: &Seen,
    deadline: Option<Instant>,
    now: Instant,
    promised: bool,
) -> (Verdict, Instant) {
    let far = now + Duration::from_secs(3_600);
    if let Some(released) = seen.released {
        return (Verdict::Ready(released), far);
    }
    if !seen.lease_exists {
        return (Verdict::Lost(ENDED), far);
    }
    let Some(missing) = seen.ahead else {
        return (Verdict::Lost("the place was left"), far);
    };
    let end = match seen.promise {
        _ if !promised => far,
        Some(promise) if promise.state != PromiseState::Lost && promise.valid_for > HEADROOM => {
            now + duration(promise.valid_for.less(HEADROOM))
        }
        _ => return (Verdict::Lost(UNCONFIRMED), far),
    };
    match deadline {
        Some(deadline) if deadline <= now => (Verdict::Over, far),
        deadline => (Verdict::Waiting(missing), deadline.map_or(end, |it| it.min(end))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, Instant};

    use super::{ENDED, UNCONFIRMED, Verdict, judge};
    use crate::api::place::Seen;
    use crate::base::{Revision, Span};
    use crate::replica::{Promise, PromiseState};

    fn seen(ahead: Option<u64>, released: Option<u64>, valid_ms: u64) -> Seen {
        let state = if valid_ms > 0 { PromiseState::Active } else { PromiseState::Lost };
        let promise = Some(Promise { state, valid_for: Span::from_millis(valid_ms) });
        let released = released.map(Revision);
        Seen { ahead, released, lease_exists: true, promise, revision: Revision(9) }
    }

    /// That all have come is a fact of the log: no clock takes it back.
    #[test]
    fn whoever_was_let_go_is_told_so_whatever_else_is_over() {
        let now = Instant::now();
        let ready = seen(Some(0), Some(7), 0);
        assert_eq!(judge(&ready, Some(now), now, true).0, Verdict::Ready(Revision(7)));
    }

    #[test]
    fn a_place_that_is_gone_or_unconfirmed_is_lost() {
        let now = Instant::now();
        let gone = Seen { lease_exists: false, ..seen(None, None, 0) };
        assert_eq!(judge(&gone, None, now, true).0, Verdict::Lost(ENDED));
        let left = seen(None, None, 500);
        assert_eq!(judge(&left, None, now, true).0, Verdict::Lost("the place was left"));
        let silent = seen(Some(1), None, 0);
        assert_eq!(judge(&silent, None, now, true).0, Verdict::Lost(UNCONFIRMED));
        assert_eq!(judge(&silent, None, now, false).0, Verdict::Waiting(1), "another keeps it");
    }

    #[test]
    fn the_wait_ends_when_the_caller_said() {
        let now = Instant::now();
        let (soon, waiting) = (now + Duration::from_millis(50), seen(Some(2), None, 9_000));
        assert_eq!(judge(&waiting, Some(soon), now, true), (Verdict::Waiting(2), soon));
        assert_eq!(judge(&waiting, Some(soon), soon, true).0, Verdict::Over);
    }
}
