//! `/v1/elections`: elections.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::Instant;

use crate::api::types::{
    CampaignRequest, ElectionMessage, ElectionView, ElectionsAnswer, ReleaseAnswer,
};
use crate::base::{Revision, Token, limits};
use crate::node::{NodeStatus, Watcher};
use crate::replica::View;
use crate::state::{
    EventKind, Mode, Operation, Outcome, QueueEntry, QueueKind, QueueName, Record, queue_prefix,
};
use crate::watch::{Delivery, Filter, WatchEnd, WatchRequest};

use super::answer::{Stamp, json, stamp};
use super::body;
use super::context::{Ask, Context, place};
use super::kv::{another_request, duration};
use super::lock::{names, token};
use super::params;
use super::permit::{Claimant, Permit, read_queue, use_queue};
use super::place::{Manner, Want, acquire};
use super::problem::Fault;
use super::stream::{Body, Emit, Framing};
use super::txn::check_name;

/// `POST /v1/elections/{name}`
pub(super) async fn post(
    context: &Arc<Context>,
    ask: Ask,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    let manner = Manner::of(&ask)?;
    let queue = QueueName { kind: QueueKind::Election, name };
    let permit = context.permit(&ask.subject, vec![use_queue(&queue)])?;
    let request: CampaignRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    context.check_value(&request.value)?;
    let want = Want {
        queue,
        slots: 1,
        mode: Mode::Exclusive,
        value: request.value,
        lease: request.lease,
        ttl: request.ttl,
        bind: request.bind,
        pid: request.pid,
        info: request.info,
        wait: request.wait,
    };
    acquire(context, manner, want, permit).await
}

/// `PUT /v1/elections/{name}?token=N`
pub(super) async fn proclaim(
    context: &Context,
    ask: Ask,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["token"])?;
    let (token, timeout) = (token(&params)?, params.timeout()?);
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let queue = QueueName { kind: QueueKind::Election, name: name.clone() };
    context.permit(&ask.subject, vec![use_queue(&queue)])?;
    let claimant = Claimant { subject: &ask.subject, idempotency: idempotency.as_ref(), timeout };
    context.own_place(&claimant, &queue, token).await?;
    let value = body::read(ask.body, context.options.value_bytes_max, "the value").await?;
    let operation = Operation::Proclaim { name, token, value };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Put { revision, .. } => {
            let answer = ReleaseAnswer { token: token.get(), revision: revision.get() };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

/// `GET /v1/elections/{name}`
pub(super) async fn get(
    context: &Arc<Context>,
    ask: Ask,
    name: Bytes,
) -> Result<Response<Body>, Fault> {
    check_name(&name)?;
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["consistency", "min_revision", "watch"])?;
    let watch = params.flag("watch")?;
    if watch && ask.parts.method == http::Method::HEAD {
        return Err(Fault::invalid("a stream has no HEAD"));
    }
    let framing = Framing::of(&ask.parts.headers);
    let queue = QueueName { kind: QueueKind::Election, name };
    let permit = context.permit(&ask.subject, vec![read_queue(&queue)])?;
    context.fresh(params.consistency()?, params.timeout()?).await?;
    if watch {
        return stream(context, queue, framing, permit);
    }
    Ok(context.shown(|view, status| election_view(view, status, &queue)))
}

/// `GET /v1/elections`
pub(super) async fn list(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    let (names, more) = names(context, ask, QueueKind::Election).await?;
    Ok(context.shown(|view, status| ElectionsAnswer {
        elections: names.iter().map(|name| election_view(view, status, name)).collect(),
        more,
        revision: view.machine.revision().get(),
    }))
}

fn election_view(view: &View, status: &NodeStatus, name: &QueueName) -> ElectionView {
    let queue = view.machine.queue(name);
    let (holders, waiters) = queue.map(|queue| (queue.holders, queue.waiters)).unwrap_or_default();
    let shown = |entry: &QueueEntry| place(view, status, QueueKind::Election, entry);
    ElectionView {
        name: name.name.clone(),
        leader: holders.first().map(shown),
        candidates: waiters.iter().map(shown).collect(),
        revision: view.machine.revision().get(),
    }
}

/// A stream of leaders. It watches the places as keys, so that no leader is skipped however short
/// its time was.
fn stream(
    context: &Arc<Context>,
    queue: QueueName,
    framing: Framing,
    permit: Permit,
) -> Result<Response<Body>, Fault> {
    let slot = context.stream_slot()?;
    let watcher = context.node.watch(WatchRequest {
        filter: Filter::Prefix(queue_prefix(&queue)),
        from: None,
        initial: true,
        previous: false,
        resume_after: None,
        epoch: None,
    })?;
    let seen = Stamp::of(&context.node.view());
    let leaders = Leaders {
        context: context.clone(),
        watcher,
        framing,
        places: BTreeMap::new(),
        told: None,
        revision: seen.revision,
    };
    let body = Body::stream(|emit| async move {
        let _slot = slot;
        leaders.run(&emit, &permit).await;
    });
    let mut response = framing.response(StatusCode::OK, body);
    stamp(response.headers_mut(), seen);
    Ok(response)
}

struct Leaders {
    context: Arc<Context>,
    watcher: Watcher,
    framing: Framing,
    /// The places by key.
    places: BTreeMap<Bytes, Record>,
    /// The last leader told: its token and the revision of its value.
    told: Option<Option<(Token, Revision)>>,
    revision: Revision,
}

impl Leaders {
    async fn run(mut self, emit: &Emit, permit: &Permit) {
        let silence = duration(limits::PROGRESS_INTERVAL);
        let context = self.context.clone();
        let stopped = context.ended(permit);
        tokio::pin!(stopped);
        loop {
            let alive = Instant::now() + silence;
            let message = tokio::select! {
                biased;
                () = &mut stopped => Err(context.ending(permit).0),
                delivery = self.watcher.next(limits::PAGE_BYTES_MAX) => self.delivered(delivery),
                () = tokio::time::sleep_until(alive) => {
                    let revision = self.watcher.cursor().progress().unwrap_or(self.revision);
                    Ok(Some(ElectionMessage::Progress { revision: revision.get() }))
                }
            };
            match message {
                Ok(None) => {}
                Ok(Some(message)) => emit.send(self.framing.encode(None, &message)).await,
                Err(fault) => {
                    let message = ElectionMessage::Error(fault.into_problem());
                    emit.send(self.framing.encode(None, &message)).await;
                    return;
                }
            }
        }
    }

    fn delivered(&mut self, delivery: Delivery) -> Result<Option<ElectionMessage>, Fault> {
        match delivery {
            Delivery::Changes { events, selection } => {
                for event in selection.events(&events) {
                    let record = &event.record;
                    match event.kind {
                        EventKind::Delete => drop(self.places.remove(&record.key)),
                        EventKind::Put => {
                            drop(self.places.insert(record.key.clone(), record.clone()));
                        }
                    }
                }
                Ok(self.leader(events.revision))
            }
            Delivery::Ended(WatchEnd::Compacted { compact_revision, .. }) => {
                Err(Fault::compacted(compact_revision))
            }
            Delivery::Ended(WatchEnd::Lagged { last_sent }) => Err(Fault::lagged(last_sent)),
            Delivery::Idle => Ok(None),
            Delivery::Resync { .. } => {
                self.places.clear();
                Ok(None)
            }
            Delivery::Snapshot { records, .. } => {
                let records = records.into_iter().map(|record| (record.key.clone(), record));
                self.places.extend(records);
                Ok(None)
            }
            Delivery::Synced { revision } => Ok(self.leader(revision)),
        }
    }

    /// A message when the leader or its value is not what was told last.
    fn leader(&mut self, revision: Revision) -> Option<ElectionMessage> {
        self.revision = revision;
        let record = self.places.values().min_by_key(|record| record.create_revision);
        let now = record.map(|record| (Token(record.create_revision.get()), record.mod_revision));
        if self.told == Some(now) {
            return None;
        }
        self.told = Some(now);
        let entry = record.and_then(|record| {
            let token = Token(record.create_revision.get());
            let (lease, mode) = (record.lease?, Mode::Exclusive);
            Some(QueueEntry { token, lease, mode, value: record.value.clone() })
        });
        let status = self.context.node.status();
        let view = self.context.node.view();
        let leader = entry.map(|entry| place(&view, &status, QueueKind::Election, &entry));
        Some(ElectionMessage::Leader { leader, revision: revision.get() })
    }
}
