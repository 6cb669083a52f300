//! What every handler of the API shares: the node, the limits, what is under way, the signal to
//! stop.
//!
//! Who may connect and how long a connection may take is decided in `server.rs` and
//! `connection.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::watch;

use crate::base::{NodeId, Span, limits};
use crate::host::{Caller, Host, Subject};
use crate::node::{Node, NodeStatus};
use crate::replica::View;
use crate::state::{Mode, Outcome, QueueEntry, QueueKind};

use super::answer::{Stamp, json};
use super::bound::Bound;
use super::params::{Freshness, Params};
use super::problem::Fault;
use super::stream::Body;
use crate::api::types::{HexId, Mode as ModeView, Place};

/// Limits of the local API. Each answers with 413 or 429 when it is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once of one user.
    pub connections_per_uid_max: usize,
    /// Streams at once: watches, lock waits, lease states.
    pub streams_max: usize,
    /// Longest key in bytes.
    pub key_bytes_max: usize,
    /// Longest value in bytes.
    pub value_bytes_max: usize,
    /// Longest request body in bytes.
    pub request_bytes_max: usize,
    /// Most operations in each list of a transaction.
    pub txn_operations_max: usize,
    /// How long streams and requests under way may take to end when the daemon stops.
    pub grace: Span,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: limits::CONNECTIONS_MAX,
            connections_per_uid_max: limits::CONNECTIONS_MAX / 2,
            streams_max: limits::STREAMS_MAX,
            key_bytes_max: limits::KEY_BYTES_MAX,
            value_bytes_max: limits::VALUE_BYTES_MAX,
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            txn_operations_max: limits::TXN_OPERATIONS_MAX,
            grace: Span::from_secs(5),
        }
    }
}

/// A request whose body has not been read.
pub(super) struct Ask {
    /// Who asks.
    pub(super) caller: Caller,
    /// The same for the access rules: one for the whole connection.
    pub(super) subject: Arc<Subject>,
    /// The head.
    pub(super) parts: Parts,
    /// The body.
    pub(super) body: Incoming,
}

impl Ask {
    /// The query's parameters; see [`Params::parse`].
    pub(super) fn params(&self, allowed: &[&str]) -> Result<Params<'_>, Fault> {
        Params::parse(self.parts.uri.query(), allowed)
    }
}

/// What every handler shares.
pub(super) struct Context {
    /// What the daemon does for this host; it has the access rules.
    pub(super) host: Host,
    /// The node.
    pub(super) node: Node,
    /// The limits.
    pub(super) options: Options,
    /// What ends with connections.
    pub(super) bound: Arc<Bound>,
    /// Becomes true when the daemon stops.
    pub(super) stop: watch::Receiver<bool>,
    streams: Arc<AtomicUsize>,
}

/// Counts a stream for as long as it is there.
pub(super) struct StreamSlot(Arc<Context>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Context {
    /// The context of a server.
    pub(super) fn new(host: &Host, options: Options, stop: watch::Receiver<bool>) -> Self {
        let node = host.node().clone();
        let bound = Arc::new(Bound::new(host.clone()));
        Self { host: host.clone(), node, options, bound, stop, streams: Arc::default() }
    }

    /// The same with other limits, for requests from now on.
    pub(super) fn with(&self, options: Options) -> Self {
        Self {
            host: self.host.clone(),
            node: self.node.clone(),
            options,
            bound: Arc::clone(&self.bound),
            stop: self.stop.clone(),
            streams: Arc::clone(&self.streams),
        }
    }

    /// Room for one more stream.
    pub(super) fn stream_slot(self: &Arc<Self>) -> Result<StreamSlot, Fault> {
        let slot = StreamSlot(self.clone());
        if self.streams.fetch_add(1, Ordering::Relaxed) < self.options.streams_max {
            return Ok(slot);
        }
        let max = self.options.streams_max;
        Err(Fault::too_many(format!("this node serves its limit of {max} streams")))
    }

    /// Passes the barriers of a read. `view()` is fresh enough afterwards.
    pub(super) async fn fresh(&self, freshness: Freshness, timeout: Span) -> Result<(), Fault> {
        for consistency in freshness.barriers() {
            self.node.barrier(consistency, timeout).await?;
        }
        Ok(())
    }

    /// The state as it stands here, for answers that reflect a write of `revision`.
    pub(super) fn stamp(&self, outcome_revision: crate::base::Revision) -> Stamp {
        Stamp { revision: outcome_revision, epoch: self.node.view().machine.epoch() }
    }

    /// A JSON answer that `look` makes of the state as it stands now. `look` must not wait.
    pub(super) fn shown<T: Serialize>(
        &self,
        look: impl FnOnce(&View, &NodeStatus) -> T,
    ) -> Response<Body> {
        let status = self.node.status();
        let (answer, seen) = {
            let view = self.node.view();
            (look(&view, &status), Stamp::of(&view))
        };
        json(StatusCode::OK, &answer, seen)
    }

    /// Turns a refusal into its problem; any other outcome passes.
    pub(super) fn unrefused(&self, outcome: Outcome) -> Result<Outcome, Fault> {
        match outcome {
            Outcome::Refused(refusal) => {
                let status = self.node.status();
                let holders = match &refusal {
                    crate::state::Refusal::LockHeld { holders } => {
                        let view = self.node.view();
                        let place = |entry| place(&view, &status, QueueKind::Lock, entry);
                        holders.iter().map(place).collect()
                    }
                    _ => Vec::new(),
                };
                Err((refusal, holders).into())
            }
            outcome => Ok(outcome),
        }
    }

    /// Becomes ready when streams must end: the daemon stops, or its state may not be looked at.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            // An error means that the sender is gone: the server is being dropped.
            _ = stop.wait_for(|stopped| *stopped) => {}
            () = self.node.fenced() => {}
        }
    }

    /// Refuses keys that are empty or too long.
    pub(super) fn check_key(&self, key: &[u8]) -> Result<(), Fault> {
        if key.is_empty() {
            return Err(Fault::invalid("the key is empty"));
        }
        let max = self.options.key_bytes_max;
        if key.len() > max { Err(Fault::too_large("the key", max, "bytes")) } else { Ok(()) }
    }

    /// Refuses keys that may not be written.
    pub(super) fn check_written_key(&self, key: &[u8]) -> Result<(), Fault> {
        self.check_key(key)?;
        if key.starts_with(b"_") { Err(Fault::reserved()) } else { Ok(()) }
    }

    /// Refuses values that are too long.
    pub(super) fn check_value(&self, value: &Bytes) -> Result<(), Fault> {
        let max = self.options.value_bytes_max;
        if value.len() > max { Err(Fault::too_large("the value", max, "bytes")) } else { Ok(()) }
    }
}

/// The name of a member.
pub(super) fn node_name(status: &NodeStatus, node: NodeId) -> Option<String> {
    if status.replica.node == node {
        return Some(status.name.clone());
    }
    status.replica.members.iter().find(|member| member.node == node).map(|found| found.name.clone())
}

/// A place in a queue as callers see it.
pub(super) fn place(
    view: &View,
    status: &NodeStatus,
    kind: QueueKind,
    entry: &QueueEntry,
) -> Place {
    let lease = view.machine.lease(entry.lease);
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    Place {
        token: entry.token.get(),
        lease: HexId(entry.lease.get()),
        node: lease.and_then(|lease| node_name(status, lease.node)),
        pid: lease.and_then(|lease| lease.pid),
        uid: lease.map(|lease| lease.uid),
        info: match kind {
            QueueKind::Barrier | QueueKind::Election => {
                lease.map(|lease| lease.info.clone()).unwrap_or_default()
            }
            QueueKind::Lock => text(&entry.value),
        },
        mode: (kind == QueueKind::Lock).then_some(match entry.mode {
            Mode::Exclusive => ModeView::Exclusive,
            Mode::Shared => ModeView::Shared,
        }),
        value: (kind == QueueKind::Election).then(|| entry.value.clone()),
    }
}
