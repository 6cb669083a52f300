//! Waiting for and holding a place in a queue: what locks and elections have in common.
//!
//! Who holds is decided in `state/`, for how long that may be relied upon in `replica/`. Here is
//! how it is told: as one answer, when the caller named a lease or binds to a process; as a stream
//! that ends with its connection otherwise.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Duration, Instant};

use crate::api::types::{
    Bind as BindView, DurationText, HeldAnswer, HexId, LeaseState, Place, PlaceMessage,
};
use crate::base::{LeaseId, Revision, Span, Token, limits};
use crate::host::{Caller, Process, Subject};
use crate::node::Topic;
use crate::replica::{Promise, PromiseState};
use crate::state::{
    Acquire, Bind, Holder, IdempotencyKey, Mode, Operation, Outcome, Patience, QueueKind,
    QueueName, Refusal,
};

use super::answer::{Stamp, json, stamp};
use super::bound::Owned;
use super::context::{Ask, Context, StreamSlot, place};
use super::kv::{another_request, duration};
use super::lease::{self, ENDED, Step, valid_for, when};
use super::params;
use super::permit::{Claimant, Permit};
use super::problem::Fault;
use super::stream::{Body, Emit, Framing};

/// Waiting messages to one caller are at least this far apart: the holders of a busy lock change
/// faster than anyone wants to read.
const WAITING_INTERVAL: Duration = Duration::from_millis(200);

/// What a caller wants.
pub(super) struct Want {
    /// Which queue.
    pub(super) queue: QueueName,
    /// How many may hold at once; how many a barrier waits for.
    pub(super) slots: u32,
    /// Beside whom.
    pub(super) mode: Mode,
    /// The value of the place.
    pub(super) value: Bytes,
    /// The lease that the caller named.
    pub(super) lease: Option<HexId>,
    /// For a lease of its own.
    pub(super) ttl: Option<DurationText>,
    /// For a lease of its own.
    pub(super) bind: Option<BindView>,
    /// For a lease of its own.
    pub(super) pid: Option<u32>,
    /// For a lease of its own.
    pub(super) info: Option<String>,
    /// How long to wait for a slot.
    pub(super) wait: Option<DurationText>,
}

/// How the request came.
pub(super) struct Manner {
    /// Who asks.
    pub(super) caller: Caller,
    /// The same for the access rules.
    pub(super) subject: Arc<Subject>,
    /// How long everything but the waiting may take.
    pub(super) timeout: Span,
    /// The caller's own name for the request.
    pub(super) idempotency: Option<IdempotencyKey>,
    /// How a stream looks.
    pub(super) framing: Framing,
}

impl Manner {
    /// Reads what the head says.
    pub(super) fn of(ask: &Ask) -> Result<Self, Fault> {
        params::refuse_conditions(&ask.parts.headers)?;
        Ok(Self {
            caller: ask.caller.clone(),
            subject: ask.subject.clone(),
            timeout: ask.params(&[])?.timeout()?,
            idempotency: params::idempotency(&ask.parts.headers, ask.caller.uid)?,
            framing: Framing::of(&ask.parts.headers),
        })
    }
}

/// Takes a place in a lock or an election, and answers when it holds.
pub(super) async fn acquire(
    context: &Arc<Context>,
    manner: Manner,
    want: Want,
    permit: Permit,
) -> Result<Response<Body>, Fault> {
    let framing = manner.framing;
    let entered = enter(context, manner, want, permit).await?;
    let Entered { waiting, owned, single, slot, revision } = entered;
    if single {
        return waiting.single(owned).await;
    }
    let body = Body::stream(|emit| async move {
        let _slot = slot;
        waiting.stream(&emit, framing, owned).await;
    });
    let mut response = framing.response(StatusCode::OK, body);
    stamp(response.headers_mut(), context.stamp(revision));
    Ok(response)
}

/// A place that was taken, and how it is told of.
pub(super) struct Entered {
    /// The place.
    pub(super) waiting: Waiting,
    /// What leaves it.
    pub(super) owned: Owned,
    /// Whether there is one answer, and no stream.
    pub(super) single: bool,
    /// The room for a stream.
    pub(super) slot: StreamSlot,
    /// The store's revision after it was taken.
    pub(super) revision: Revision,
}

/// Takes a place.
pub(super) async fn enter(
    context: &Arc<Context>,
    manner: Manner,
    want: Want,
    permit: Permit,
) -> Result<Entered, Fault> {
    let claimant = Claimant {
        subject: &manner.subject,
        idempotency: manner.idempotency.as_ref(),
        timeout: manner.timeout,
    };
    context.own_leases(&claimant, want.lease.map(|lease| LeaseId(lease.0))).await?;
    let patience = match want.wait {
        Some(wait) if wait.0.is_zero() => Patience::Try,
        _ => Patience::Wait,
    };
    let deadline = want.wait.map(|wait| wait.0);
    let (holder, process) = holder(&manner, &want)?;
    let single = matches!(holder, Holder::Existing(_)) || process.is_some();
    let slot = context.stream_slot()?;
    let operation = Operation::Acquire(Acquire {
        queue: want.queue.clone(),
        holder,
        slots: want.slots,
        mode: want.mode,
        value: want.value,
        patience,
    });
    let taken = context.bound.submit(operation, manner.idempotency, manner.timeout).await?;
    let (outcome, owned) = taken;
    if let (QueueKind::Barrier, Outcome::Refused(Refusal::LockHeld { holders })) =
        (want.queue.kind, &outcome)
    {
        return Err(Fault::barrier_incomplete(holders.len() as u64, want.slots));
    }
    let (lease, token, revision) = match context.unrefused(outcome)? {
        Outcome::Acquired { lease, token, revision, .. } => (lease, token, revision),
        other => return Err(another_request(&other)),
    };
    let waiting = Waiting {
        context: context.clone(),
        permit,
        queue: want.queue,
        lease,
        token,
        // A wait beyond what the clock can count is no limit.
        deadline: deadline.and_then(|wait| Instant::now().checked_add(wait)),
        timeout: manner.timeout,
        process,
    };
    Ok(Entered { waiting, owned, single, slot, revision })
}

/// Under which lease the place is taken, and the process that it is bound to, if it is to one.
fn holder(manner: &Manner, want: &Want) -> Result<(Holder, Option<Arc<Process>>), Fault> {
    if let Some(lease) = want.lease {
        if want.ttl.is_some() || want.bind.is_some() || want.pid.is_some() {
            let detail =
                "\"ttl\", \"bind\" and \"pid\" belong to the lease: leave them out, or \"lease\"";
            return Err(Fault::invalid(detail));
        }
        if want.queue.kind != QueueKind::Lock && want.info.is_some() {
            return Err(Fault::invalid(
                "\"info\" belongs to the lease: leave it out, or \"lease\"",
            ));
        }
        return Ok((Holder::Existing(LeaseId(lease.0)), None));
    }
    let bind = lease::bind(want.bind.unwrap_or(BindView::Connection), want.pid)?;
    if bind == Bind::None {
        return Err(Fault::invalid(
            "\"bind\": to hold under keepalives, make a lease first and name it in \"lease\"",
        ));
    }
    let process = lease::target(&manner.caller, bind, want.pid)?;
    let (ttl, info) = (want.ttl.map(params::span), want.info.clone());
    let lease = lease::new_lease(&manner.caller, ttl, bind, info, process.as_deref())?;
    Ok((Holder::New(lease), process))
}

/// A place that was taken.
pub(super) struct Waiting {
    pub(super) context: Arc<Context>,
    pub(super) permit: Permit,
    pub(super) queue: QueueName,
    pub(super) lease: LeaseId,
    pub(super) token: Token,
    pub(super) deadline: Option<Instant>,
    pub(super) timeout: Span,
    /// What its lease is bound to, if to a process.
    pub(super) process: Option<Arc<Process>>,
}

impl Waiting {
    /// Answers once, when the place holds.
    async fn single(self, owned: Owned) -> Result<Response<Body>, Fault> {
        let node = &self.context.node;
        let mut queue = node.follow(Topic::Queue(self.queue.clone()));
        let mut lease = node.follow(Topic::Lease(self.lease));
        let exited = exited(self.process.as_deref());
        tokio::pin!(exited);
        loop {
            let seen = self.look();
            if !seen.lease_exists {
                return Err(Fault::lease_not_found());
            }
            match seen.ahead {
                None => return Err(Fault::not_held("the place was released")),
                Some(0) => break,
                Some(_) => {}
            }
            let ended = tokio::select! {
                () = queue.changed() => None,
                () = lease.changed() => None,
                () = until(self.deadline) => Some(self.give_up().await),
                () = self.context.ended(&self.permit) => {
                    Some(self.context.ending(&self.permit).0)
                }
                fault = &mut exited => Some(fault),
            };
            if let Some(fault) = ended {
                return Err(fault);
            }
        }
        self.settle(owned).await?;
        // A lease that is kept alive through another node, or not at all for a while, is confirmed
        // before anything is promised.
        let promise = match node.promise(self.lease) {
            Some(promise) if promise.state != PromiseState::Lost => Some(promise),
            _ => node.keepalive(self.lease, self.timeout).await?,
        };
        let promise = promise.filter(|promise| promise.state != PromiseState::Lost);
        let promise = promise.ok_or_else(Fault::lease_not_found)?;
        let seen = Stamp::of(&node.view());
        let answer = HeldAnswer {
            name: self.queue.name.clone(),
            token: self.token.get(),
            lease: HexId(self.lease.get()),
            valid_for_ms: valid_for(node.promise(self.lease).or(Some(promise))),
            revision: seen.revision.get(),
        };
        Ok(json(StatusCode::OK, &answer, seen))
    }

    /// It holds, and the caller is about to be told: from here on it does not end with the request.
    pub(super) async fn settle(&self, owned: Owned) -> Result<(), Fault> {
        match &self.process {
            Some(process) => {
                self.bind_to(process).await?;
                lease::follow_process(&self.context, self.lease, process, owned)
            }
            None => {
                owned.release();
                Ok(())
            }
        }
    }

    /// A lease whose place had to wait was bound to the daemon until now, because nobody would have
    /// been told that it holds had the daemon been started anew.
    async fn bind_to(&self, process: &Process) -> Result<(), Fault> {
        let (identity, lease) = (process.identity(), self.lease);
        let bound = {
            let view = self.context.node.view();
            view.machine.lease(lease).is_none_or(|lease| lease.process.is_some())
        };
        if bound || !identity.is_lasting() {
            return Ok(());
        }
        let operation = Operation::BindLease { lease, process: identity.to_string() };
        let outcome = self.context.node.submit(operation, None, self.timeout).await?;
        self.context.unrefused(outcome).map(drop)
    }

    /// Leaves the queue because the wait is over, and says who holds.
    async fn give_up(&self) -> Fault {
        let holders = self.holders();
        let operation = Operation::Release { queue: self.queue.clone(), token: self.token };
        // The guard of the place goes on to pursue what this does not achieve.
        let _ = self.context.node.submit(operation, None, self.timeout).await;
        Fault::lock_held(holders)
    }

    /// Tells every state until the lease is lost.
    async fn stream(self, emit: &Emit, framing: Framing, owned: Owned) {
        let node = &self.context.node;
        let mut queue = node.follow(Topic::Queue(self.queue.clone()));
        let mut lease = node.follow(Topic::Lease(self.lease));
        let stopped = self.context.ended(&self.permit);
        tokio::pin!(stopped);
        let mut told = Told::Nothing;
        loop {
            let now = Instant::now();
            let seen = self.look();
            let (say, next) = decide(&told, &seen, self.deadline, now);
            let last = match say {
                Say::Nothing => None,
                Say::Lost(reason) => {
                    // While it waits, a lost lease and a lost place are the same to the caller.
                    Some(PlaceMessage::Lost { reason: reason.to_owned() })
                }
                Say::GiveUp => {
                    Some(PlaceMessage::Error(self.give_up().await.of_write().into_problem()))
                }
                Say::Waiting => {
                    let holders = self.holders();
                    told = told.waiting(&seen, &holders, now, |holders| {
                        let message = self.waiting(&seen, holders);
                        framing.encode(None, &message)
                    });
                    if let Some(message) = told.take_message() {
                        emit.send(message).await;
                    }
                    None
                }
                Say::Held(step) => {
                    let message = self.held(step, seen.revision);
                    let valid = step.valid_for.unwrap_or_default().as_millis();
                    told = Told::Held(step.state, now, Duration::from_millis(valid));
                    emit.send(framing.encode(None, &message)).await;
                    None
                }
            };
            if let Some(message) = last {
                emit.send(framing.encode(None, &message)).await;
                drop(owned);
                return;
            }
            tokio::select! {
                () = queue.changed() => {}
                () = lease.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                () = &mut stopped => {
                    let holds = matches!(told, Told::Held(..));
                    let (fault, reason) = self.context.ending(&self.permit);
                    let message = match holds {
                        true => PlaceMessage::Lost { reason: reason.to_owned() },
                        false => PlaceMessage::Error(fault.of_write().into_problem()),
                    };
                    emit.send(framing.encode(None, &message)).await;
                    if holds {
                        lease::wound_up(node, self.lease).await;
                    }
                    drop(owned);
                    return;
                }
            }
        }
    }

    /// The place as this node knows it.
    pub(super) fn look(&self) -> Seen {
        let promise = self.context.node.promise(self.lease);
        let view = self.context.node.view();
        let found = view.machine.place(&self.queue, self.token);
        Seen {
            ahead: found.map(|place| place.ahead),
            released: found.and_then(|place| place.released),
            lease_exists: view.machine.lease(self.lease).is_some(),
            promise,
            revision: view.machine.revision(),
        }
    }

    fn holders(&self) -> Vec<Place> {
        let status = self.context.node.status();
        let view = self.context.node.view();
        let queue = view.machine.queue(&self.queue);
        let entries = queue.map(|queue| queue.holders).unwrap_or_default();
        entries.iter().map(|entry| place(&view, &status, self.queue.kind, entry)).collect()
    }

    fn waiting(&self, seen: &Seen, holders: &[Place]) -> PlaceMessage {
        PlaceMessage::Waiting {
            position: seen.ahead.unwrap_or_default(),
            token: self.token.get(),
            lease: HexId(self.lease.get()),
            holders: holders.to_vec(),
        }
    }

    fn held(&self, step: Step, revision: Revision) -> PlaceMessage {
        let (token, lease) = (self.token.get(), HexId(self.lease.get()));
        let valid_for_ms = step.valid_for.unwrap_or_default().as_millis();
        let revision = revision.get();
        match (step.state, self.queue.kind) {
            (LeaseState::AtRisk, _) => {
                let reason = step.reason.map(str::to_owned);
                PlaceMessage::AtRisk { token, lease, valid_for_ms, reason }
            }
            (_, QueueKind::Election) => {
                PlaceMessage::Leader { token, lease, valid_for_ms, revision }
            }
            (_, QueueKind::Barrier | QueueKind::Lock) => {
                PlaceMessage::Held { token, lease, valid_for_ms, revision }
            }
        }
    }
}

/// Says so when the process has exited; never without one.
pub(super) async fn exited(process: Option<&Process>) -> Fault {
    match process {
        Some(process) => match process.exited().await {
            Ok(()) => Fault::invalid("the process to bind to has ended while this waited"),
            Err(error) => Fault::too_many(format!("this process cannot be watched: {error}")),
        },
        None => std::future::pending().await,
    }
}

/// Becomes ready at a moment, if there is one.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What there is to see of a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// How many stand before it, or must still come to its barrier; nothing when it is gone.
    pub(super) ahead: Option<u64>,
    /// When its barrier let it go.
    pub(super) released: Option<Revision>,
    pub(super) lease_exists: bool,
    pub(super) promise: Option<Promise>,
    pub(super) revision: Revision,
}

/// What the caller knows.
#[derive(Clone, Debug)]
enum Told {
    Held(LeaseState, Instant, Duration),
    Nothing,
    Waiting {
        position: u64,
        holders: Vec<u64>,
        at: Instant,
        /// The message that says so, until it is sent.
        message: Option<Bytes>,
    },
}

impl Told {
    /// The caller waits: a message is made when its position or the holders are news to it.
    fn waiting(
        self,
        seen: &Seen,
        holders: &[Place],
        now: Instant,
        encode: impl FnOnce(&[Place]) -> Bytes,
    ) -> Self {
        let (position, tokens) = (
            seen.ahead.unwrap_or_default(),
            holders.iter().map(|holder| holder.token).collect::<Vec<_>>(),
        );
        match self {
            Self::Waiting { position: known, holders, at, .. }
                if known == position && holders == tokens =>
            {
                Self::Waiting { position, holders, at, message: None }
            }
            _ => {
                let message = Some(encode(holders));
                Self::Waiting { position, holders: tokens, at: now, message }
            }
        }
    }

    fn take_message(&mut self) -> Option<Bytes> {
        match self {
            Self::Waiting { message, .. } => message.take(),
            _ => None,
        }
    }
}

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    GiveUp,
    Held(Step),
    Lost(&'static str),
    Nothing,
    Waiting,
}

/// Decides what to say about a place, and when to look again at the latest.
fn decide(told: &Told, seen: &Seen, deadline: Option<Instant>, now: Instant) -> (Say, Instant) {
    let far = now + Duration::from_secs(3_600);
    if !seen.lease_exists {
        return (Say::Lost(ENDED), far);
    }
    let (Some(ahead), Some(promise)) = (seen.ahead, seen.promise) else {
        let reason = if seen.ahead.is_none() { "the place was released" } else { ENDED };
        return (Say::Lost(reason), far);
    };
    let step = Step::of(promise);
    if let (LeaseState::Lost, Some(reason)) = (step.state, step.reason) {
        return (Say::Lost(reason), far);
    }
    if ahead == 0 {
        let known = match told {
            Told::Held(state, at, valid_for) => Some((*state, *at, *valid_for)),
            _ => None,
        };
        let (due, next) = when(known, step.state, step.valid_for, now);
        return (if due { Say::Held(step) } else { Say::Nothing }, next);
    }
    if deadline.is_some_and(|deadline| deadline <= now) {
        return (Say::GiveUp, far);
    }
    let end = now + duration(promise.valid_for.less(lease::HEADROOM));
    let next = deadline.map_or(end, |deadline| deadline.min(end));
    match told {
        Told::Waiting { at, .. } if now < *at + WAITING_INTERVAL => {
            (Say::Nothing, next.min(*at + WAITING_INTERVAL))
        }
        _ => (Say::Waiting, next),
    }
}

/// How many slots a lock has.
pub(super) fn slots(wanted: Option<u32>) -> Result<u32, Fault> {
    let slots = wanted.unwrap_or(1);
    match (1..=limits::SLOTS_MAX).contains(&slots) {
        true => Ok(slots),
        false => Err(Fault::invalid(format!("\"slots\" is not in 1..={}", limits::SLOTS_MAX))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, Instant};

    use crate::api::types::LeaseState;
    use crate::base::{Revision, Span};
    use crate::replica::{Promise, PromiseState};

    use super::{ENDED, Say, Seen, Told, WAITING_INTERVAL, decide};
    use crate::api::lease::{HEADROOM, UNCONFIRMED};

    fn seen(ahead: Option<u64>, state: PromiseState, valid_ms: u64) -> Seen {
        let valid_for = Span::from_millis(valid_ms);
        let promise = Some(Promise { state, valid_for });
        Seen { ahead, released: None, lease_exists: true, promise, revision: Revision(3) }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn held(told: &Told, seen: &Seen, now: Instant) -> (LeaseState, Duration) {
        match decide(told, seen, None, now) {
            (Say::Held(step), next) => (step.state, next - now),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_holder_is_told_at_once_and_again_when_half_has_passed() {
        let now = Instant::now();
        let first = seen(Some(0), PromiseState::Active, 9_000);
        assert_eq!(held(&Told::Nothing, &first, now), (LeaseState::Active, ms(4_500)));
        let told = Told::Held(LeaseState::Active, now, ms(9_000));
        assert_eq!(decide(&told, &first, None, now), (Say::Nothing, now + ms(4_500)));
        let later = now + ms(4_500);
        assert_eq!(held(&told, &first, later), (LeaseState::Active, ms(4_500)));
    }

    /// However the promise stands, the next look is before it ends, with time to write the message.
    #[test]
    fn lost_is_said_before_the_promise_ends() {
        let now = Instant::now();
        let told = Told::Held(LeaseState::AtRisk, now, ms(100));
        let at_risk = seen(Some(0), PromiseState::AtRisk, 100);
        let headroom = ms(HEADROOM.as_millis());
        let (say, next) = decide(&told, &at_risk, None, now);
        assert_eq!((say, next), (Say::Nothing, now + ms(100) - headroom));
        let ending = seen(Some(0), PromiseState::AtRisk, HEADROOM.as_millis());
        assert_eq!(decide(&told, &ending, None, next).0, Say::Lost(UNCONFIRMED));
        let waiting = seen(Some(1), PromiseState::Lost, 0);
        assert_eq!(decide(&Told::Nothing, &waiting, None, now).0, Say::Lost(UNCONFIRMED));
    }

    #[test]
    fn at_risk_and_back_are_told_at_once() {
        let now = Instant::now();
        let active = Told::Held(LeaseState::Active, now, ms(9_000));
        let at_risk = seen(Some(0), PromiseState::AtRisk, 4_000);
        assert_eq!(held(&active, &at_risk, now).0, LeaseState::AtRisk);
        let told = Told::Held(LeaseState::AtRisk, now, ms(4_000));
        let back = seen(Some(0), PromiseState::Active, 9_000);
        assert_eq!(held(&told, &back, now).0, LeaseState::Active);
    }

    #[test]
    fn waiting_is_coalesced_and_bounded_by_the_wait() {
        let now = Instant::now();
        let waiting = seen(Some(2), PromiseState::Active, 9_000);
        let deadline = now + ms(300);
        let (say, next) = decide(&Told::Nothing, &waiting, Some(deadline), now);
        assert_eq!((say, next), (Say::Waiting, deadline));
        let told = Told::Waiting { position: 2, holders: vec![1], at: now, message: None };
        let (say, next) = decide(&told, &waiting, Some(deadline), now);
        assert_eq!((say, next), (Say::Nothing, now + WAITING_INTERVAL));
        assert_eq!(decide(&told, &waiting, Some(deadline), deadline).0, Say::GiveUp);
        let granted = seen(Some(0), PromiseState::Active, 9_000);
        assert!(matches!(decide(&told, &granted, Some(deadline), deadline).0, Say::Held(_)));
    }

    #[test]
    fn a_place_or_lease_that_is_gone_is_lost() {
        let now = Instant::now();
        let told = Told::Held(LeaseState::Active, now, ms(9_000));
        let released = seen(None, PromiseState::Active, 9_000);
        assert_eq!(decide(&told, &released, None, now).0, Say::Lost("the place was released"));
        let ended = Seen { lease_exists: false, ..released };
        assert_eq!(decide(&told, &ended, None, now).0, Say::Lost(ENDED));
        let unknown = Seen { promise: None, ..seen(Some(0), PromiseState::Active, 1) };
        assert_eq!(decide(&told, &unknown, None, now).0, Say::Lost(ENDED));
    }
}
