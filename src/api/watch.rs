//! `GET /v1/watch`: a stream of what changes.
//!
//! What is delivered, in which order, and what happens to a slow reader is decided in `watch/`.
//! Here is how it looks, when the stream says that it is alive, and what it says about the leader.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use crate::api::types::{WatchEvent, WatchEventKind, WatchMessage};
use crate::base::{Epoch, Revision, limits};
use crate::node::{Consistency, Topic, Watcher};
use crate::state::{EventKind, RevisionEvents};
use crate::watch::{Delivery, Filter, Format, Selected, WatchEnd, WatchRequest};

use super::answer::{Stamp, stamp};
use super::context::{Ask, Context};
use super::kv::{duration, record_view};
use super::params::{self, Params};
use super::permit::{Permit, read_key, read_prefix};
use super::problem::Fault;
use super::stream::{Body, Emit, Framing};

/// Bytes of one part of a snapshot: small enough that a thousand readers at once cost little.
const PART_BYTES: usize = 256 * 1024;

const PARAMETERS: [&str; 7] =
    ["key", "prefix", "from", "initial", "prev", "require_leader", "epoch"];

/// `GET /v1/watch`
pub(super) async fn watch(context: &Arc<Context>, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&PARAMETERS)?;
    let timeout = params.timeout()?;
    let require_leader = params.flag("require_leader")?;
    let mut request = read(context, &params)?;
    request.resume_after = last_event_id(&ask)?;
    let wanted = match &request.filter {
        Filter::Key(key) => read_key(key),
        Filter::Prefix(prefix) => read_prefix(prefix),
    };
    let permit = context.permit(&ask.subject, vec![wanted])?;
    let framing = Framing::of(&ask.parts.headers);
    context.node.barrier(Consistency::Local { min_revision: None }, timeout).await?;
    let slot = context.stream_slot()?;
    let status = context.node.follow(Topic::Status);
    if require_leader && context.node.status().replica.leader.is_none() {
        return Err(Fault::no_leader());
    }
    let previous = request.previous;
    let watcher = context.node.watch(request)?;
    let seen = Stamp::of(&context.node.view());
    let stream = Stream {
        context: context.clone(),
        watcher,
        framing,
        previous,
        epoch: seen.epoch,
        require_leader,
        leader_told: true,
        live: false,
    };
    let body = Body::stream(|emit| async move {
        let _slot = slot;
        stream.run(&emit, status, &permit).await;
    });
    let mut response = framing.response(StatusCode::OK, body);
    stamp(response.headers_mut(), seen);
    Ok(response)
}

fn read(context: &Context, params: &Params<'_>) -> Result<WatchRequest, Fault> {
    let filter = match (params.bytes("key"), params.bytes("prefix")) {
        (Some(key), None) => {
            context.check_key(&key)?;
            Filter::Key(key)
        }
        (None, Some(prefix)) if prefix.len() <= context.options.key_bytes_max => {
            Filter::Prefix(prefix)
        }
        (None, Some(_)) => {
            return Err(Fault::too_large("the prefix", context.options.key_bytes_max, "bytes"));
        }
        _ => return Err(Fault::invalid("a watch needs either \"key\" or \"prefix\"")),
    };
    Ok(WatchRequest {
        filter,
        from: params.revision("from")?,
        initial: params.flag("initial")?,
        previous: params.flag("prev")?,
        resume_after: None,
        epoch: params.number("epoch")?.map(Epoch),
    })
}

fn last_event_id(ask: &Ask) -> Result<Option<Revision>, Fault> {
    let value = ask.parts.headers.get("last-event-id");
    let text = value.map(HeaderValue::to_str);
    match text {
        None | Some(Ok("")) => Ok(None),
        Some(text) => text
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .map(|number| Some(Revision(number)))
            .ok_or_else(|| Fault::invalid("\"Last-Event-ID\" is not a revision")),
    }
}

struct Stream {
    context: Arc<Context>,
    watcher: Watcher,
    framing: Framing,
    previous: bool,
    epoch: Epoch,
    require_leader: bool,
    leader_told: bool,
    /// Whether anything was sent: nothing may come before the first message of the state.
    live: bool,
}

/// What happened next.
enum Happened {
    Delivery(Delivery),
    Silence,
    Status,
    Stop,
}

impl Stream {
    async fn run(mut self, emit: &Emit, mut status: crate::node::Follower, permit: &Permit) {
        let silence = duration(limits::PROGRESS_INTERVAL);
        let mut sent = Instant::now();
        let stop = self.context.clone();
        let stopped = stop.ended(permit);
        tokio::pin!(stopped);
        loop {
            let happened = tokio::select! {
                biased;
                () = &mut stopped => Happened::Stop,
                delivery = self.watcher.next(PART_BYTES) => Happened::Delivery(delivery),
                () = status.changed() => Happened::Status,
                () = tokio::time::sleep_until(sent + silence) => Happened::Silence,
            };
            // A watch from a future revision has nothing to say when it is silent.
            if matches!(happened, Happened::Silence) {
                sent = Instant::now();
            }
            let (message, ended) = match happened {
                Happened::Delivery(delivery) => self.delivered(delivery),
                Happened::Status => self.leader_changed(),
                Happened::Silence => (self.progress(), false),
                Happened::Stop => (Some(self.error(self.context.ending(permit).0)), true),
            };
            let leader = if ended { (None, true) } else { self.leader_changed() };
            for message in [message, leader.0].into_iter().flatten() {
                emit.send(message).await;
                sent = Instant::now();
            }
            if leader.1 {
                return;
            }
        }
    }

    fn delivered(&mut self, delivery: Delivery) -> (Option<Bytes>, bool) {
        let epoch = self.epoch.get();
        let message = match delivery {
            Delivery::Changes { events, selection } => self.changes(&events, &selection),
            Delivery::Ended(WatchEnd::Compacted { compact_revision, .. }) => {
                return (Some(self.error(Fault::compacted(compact_revision))), true);
            }
            Delivery::Ended(WatchEnd::Lagged { last_sent }) => {
                return (Some(self.error(Fault::lagged(last_sent))), true);
            }
            Delivery::Idle => return (None, false),
            Delivery::Resync { compact_revision, revision } => {
                let message = WatchMessage::Resync {
                    compact_revision: compact_revision.get(),
                    revision: revision.get(),
                };
                self.framing.encode(None, &message)
            }
            Delivery::Snapshot { revision, records, more } => {
                let keys = records.iter().map(record_view).collect();
                let message =
                    WatchMessage::Snapshot { revision: revision.get(), epoch, keys, more };
                self.framing.encode(None, &message)
            }
            Delivery::Synced { revision } => {
                let message = WatchMessage::Synced { revision: revision.get(), epoch };
                self.framing.encode(Some(revision.get()), &message)
            }
        };
        self.live = true;
        (Some(message), false)
    }

    /// The changes of one revision: encoded once for all who get the same bytes.
    fn changes(&self, events: &Arc<RevisionEvents>, selection: &Selected) -> Bytes {
        let revision = events.revision;
        if *selection != Selected::All {
            return encode(self.framing, self.previous, events, selection);
        }
        let format = Format(u8::from(self.framing == Framing::Sse) * 2 + u8::from(self.previous));
        if let Some(message) = self.context.node.renders().message(revision, format) {
            return message;
        }
        let message = encode(self.framing, self.previous, events, selection);
        self.context.node.renders().keep(revision, format, &message);
        message
    }

    fn leader_changed(&mut self) -> (Option<Bytes>, bool) {
        if !self.live {
            return (None, false);
        }
        let status = self.context.node.status();
        if let Some(removal) = status.replica.removed {
            return (Some(self.error(removal.into())), true);
        }
        let present = status.replica.leader.is_some();
        if present == self.leader_told {
            return (None, false);
        }
        self.leader_told = present;
        if self.require_leader && !present {
            return (Some(self.error(Fault::no_leader())), true);
        }
        (Some(self.framing.encode(None, &WatchMessage::Leader { present })), false)
    }

    /// What may be claimed when nothing was sent for a while. Nothing was delivered a moment ago,
    /// but only an idle place may name the store's revision.
    fn progress(&mut self) -> Option<Bytes> {
        let revision = self.watcher.cursor().progress()?.get();
        Some(self.framing.encode(Some(revision), &WatchMessage::Progress { revision }))
    }

    fn error(&self, fault: Fault) -> Bytes {
        self.framing.encode(None, &WatchMessage::Error(fault.into_problem()))
    }
}

fn encode(
    framing: Framing,
    previous: bool,
    events: &RevisionEvents,
    selection: &Selected,
) -> Bytes {
    let revision = events.revision.get();
    let event = |event: &crate::state::Event| WatchEvent {
        kind: match event.kind {
            EventKind::Delete => WatchEventKind::Delete,
            EventKind::Put => WatchEventKind::Put,
        },
        record: record_view(&event.record),
        prev: event.previous.as_ref().filter(|_| previous).map(record_view),
    };
    let events = selection.events(events).map(event).collect();
    framing.encode(Some(revision), &WatchMessage::Changes { revision, events })
}
