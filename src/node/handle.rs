//! The handle through which the local API uses the node: cheap to clone, safe to drop at any await.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{oneshot, watch};

use crate::base::{Index, Instant, LeaseId, Revision, Span, Token, limits};
use crate::node::clock::duration;
use crate::node::error::Ended;
use crate::node::hub::Hub;
use crate::node::introduce::Introducer;
use crate::node::mailbox::{Answer, Mail, Mailbox};
use crate::node::{Clock, Follower, NodeStatus, Topic, Watcher};
use crate::raft::Role;
use crate::replica::{Event, Fence, Promise, RequestError, Ticket, UnavailableReason, View};
use crate::state::{IdempotencyKey, Operation, Outcome, QueueName, Refusal};
use crate::watch::{Cursor, RenderCache, WatchError, WatchRequest};
use crate::wire::{MembersOrder, MembersReply};

/// What a read must be able to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was committed before it was asked for.
    Linearizable,
    /// This node's own state, at this revision or later if one is named.
    Local {
        /// The revision that the caller has seen elsewhere.
        min_revision: Option<Revision>,
    },
}

/// A running node.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) shared: Arc<Shared>,
}

/// What the handle and the node's threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) mailbox: Mailbox,
    pub(super) view: Arc<RwLock<View>>,
    pub(super) hub: Hub,
    pub(super) renders: Mutex<RenderCache>,
    pub(super) status: RwLock<Arc<NodeStatus>>,
    pub(super) draining: AtomicBool,
    pub(super) introducer: Introducer,
    pub(super) tickets: AtomicU64,
    pub(super) ended: watch::Sender<Option<Arc<Ended>>>,
    /// Whether the replica's state is fenced off.
    pub(super) fenced: watch::Sender<bool>,
    pub(super) stopped: watch::Sender<bool>,
}

/// Tells the replica that nobody waits any more, unless the answer came.
struct Abandon<'a> {
    mailbox: &'a Mailbox,
    ticket: Option<Ticket>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            // A full mailbox keeps the request until its deadline, which is no harm.
            self.mailbox.tell(Event::Abandon(ticket));
        }
    }
}

impl Node {
    /// Has `operation` applied once, and resolves when this node's own replica has applied it.
    ///
    /// Dropped, it abandons the answer and not the write. Errors say what is certain: see
    /// [`RequestError`].
    pub async fn submit(
        &self,
        operation: Operation,
        idempotency: Option<IdempotencyKey>,
        timeout: Span,
    ) -> Result<Outcome, RequestError> {
        let deadline = self.deadline(timeout);
        self.ask(|ticket| Event::Submit { ticket, operation, idempotency, deadline }).await
    }

    /// Waits until [`view`](Self::view) holds everything that the consistency asks for.
    ///
    /// A node that has not received any state answers `NotReady`, never an empty store.
    pub async fn barrier(
        &self,
        consistency: Consistency,
        timeout: Span,
    ) -> Result<(), RequestError> {
        if self.fence().is_some() {
            return Err(RequestError::Unavailable(UnavailableReason::Diverged));
        }
        let deadline = self.deadline(timeout);
        match consistency {
            Consistency::Linearizable => {
                self.ask(|ticket| Event::Read { ticket, deadline }).await?;
            }
            Consistency::Local { min_revision } => {
                let (applied, revision, removed) = {
                    let view = self.view();
                    (view.machine.applied_index(), view.machine.revision(), view.removed)
                };
                if let Some(removal) = removed {
                    let reason = UnavailableReason::Removed(removal);
                    return Err(RequestError::Unavailable(reason));
                }
                if applied == Index(0) {
                    return Err(RequestError::NotReady);
                }
                if let Some(revision) = min_revision.filter(|&wanted| wanted > revision) {
                    self.ask(|ticket| Event::WaitRevision { ticket, revision, deadline }).await?;
                }
            }
        }
        Ok(())
    }

    /// The applied state, the history and the promises, at this moment. Never hold it over an
    /// await: the replica waits for it.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.shared.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is served from this node's state, if it differs from that of the others.
    pub fn fence(&self) -> Option<Fence> {
        self.view().fence
    }

    /// Resolves when [`fence`](Self::fence) says something. Cancel-safe.
    pub async fn fenced(&self) {
        let mut fenced = self.shared.fenced.subscribe();
        // The sender lives in `self`, so the channel cannot be closed.
        let _ = fenced.wait_for(|&fenced| fenced).await;
    }

    /// The status as it was at most a moment ago: refreshed with every change of role, leader,
    /// members or readiness, and otherwise within a tenth of a second while anything happens.
    pub fn status(&self) -> Arc<NodeStatus> {
        Arc::clone(&self.shared.status.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the state of this node, if it is fenced off, replaced by the leader's. The node ends
    /// when that is done, and serves again when it is started.
    pub fn rebuild(&self) {
        self.pursue(Event::Rebuild);
    }

    /// Keeps a lease alive that nothing else keeps, and says what may be promised from now on.
    /// `Ok(None)`: there is no such lease.
    pub async fn keepalive(
        &self,
        lease: LeaseId,
        timeout: Span,
    ) -> Result<Option<Promise>, RequestError> {
        let deadline = self.deadline(timeout);
        let outcome = self.ask(|ticket| Event::Keepalive { ticket, lease, deadline }).await?;
        match outcome {
            Outcome::Refused(Refusal::LeaseNotFound { .. }) => Ok(None),
            _ => Ok(self.promise(lease)),
        }
    }

    /// What may be told about a lease now; nothing when this node has promised nothing about it.
    pub fn promise(&self, lease: LeaseId) -> Option<Promise> {
        self.view().promises.promise(lease, Clock.instant())
    }

    /// Gives the leader an order about the members, and resolves with its reply; for a transfer of
    /// the lead once it has moved. Dropped, it abandons the reply and not the order.
    pub async fn order(
        &self,
        order: MembersOrder,
        timeout: Span,
    ) -> Result<MembersReply, RequestError> {
        let deadline = self.deadline(timeout);
        let ticket = self.ticket();
        let unanswered = match order {
            MembersOrder::Cancel { .. } | MembersOrder::Change(_) => RequestError::OutcomeUnknown,
            MembersOrder::Report | MembersOrder::Transfer { .. } => {
                RequestError::Unavailable(UnavailableReason::ShuttingDown)
            }
        };
        let (sender, receiver) = oneshot::channel();
        let event = Event::Members { ticket, order, deadline };
        let mailbox = &self.shared.mailbox;
        mailbox.ask(Mail::AskMembers(event, ticket, sender))?;
        let mut guard = Abandon { mailbox, ticket: Some(ticket) };
        let answer = receiver.await;
        guard.ticket = None;
        answer.unwrap_or(Err(unanswered))
    }

    /// Opens a watch stream.
    pub fn watch(&self, request: WatchRequest) -> Result<Watcher, WatchError> {
        let view = self.view();
        let cursor = Cursor::open(request, &view.history, &view.machine)?;
        let waits_for = cursor.waits_for(&view.history);
        let (id, notify) = self.hub().add_watcher(cursor.filter(), waits_for);
        drop(view);
        Ok(Watcher::new(self.clone(), cursor, id, notify))
    }

    /// Follows a topic from now on.
    pub fn follow(&self, topic: Topic) -> Follower {
        Follower::new(self.clone(), topic)
    }

    /// Ends a lease in the background, pursued over changes of leader until it is gone.
    pub fn end_lease(&self, lease: LeaseId) {
        self.pursue(Event::EndLeases(vec![lease]));
    }

    /// Ends several leases in one revision, otherwise as [`end_lease`](Self::end_lease).
    pub fn end_leases(&self, leases: Vec<LeaseId>) {
        if !leases.is_empty() {
            self.pursue(Event::EndLeases(leases));
        }
    }

    /// Has leases of earlier boots of this node go on under this one, pursued over changes of
    /// leader. Their processes live.
    pub fn adopt_leases(&self, leases: Vec<LeaseId>) {
        if !leases.is_empty() {
            self.pursue(Event::AdoptLeases(leases));
        }
    }

    /// Leaves a queue in the background, pursued over changes of leader.
    pub fn leave_queue(&self, queue: QueueName, token: Token) {
        self.pursue(Event::LeaveQueue { queue, token });
    }

    /// Encoded watch messages that several watchers share.
    pub fn renders(&self) -> std::sync::MutexGuard<'_, RenderCache> {
        self.shared.renders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses new requests from now on; what is under way goes on to its answer.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.pursue(Event::Drain);
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Hands the lead over, if this node leads and somebody else can; resolves when it has
    /// happened, or `within` has passed. Cancel-safe.
    pub async fn give_way(&self, within: Span) {
        self.pursue(Event::GiveWay);
        let mut changes = self.follow(Topic::Status);
        let gone = async {
            loop {
                let status = self.status();
                let voters = status.replica.members.iter().filter(|member| member.voter).count();
                if status.replica.role != Role::Leader || voters < 2 {
                    return;
                }
                changes.changed().await;
            }
        };
        // Whoever waits goes on without it.
        let _ = tokio::time::timeout(duration(within), gone).await;
    }

    /// Resolves once the replica thread has taken this question from its mailbox and, after it, the
    /// writer thread from its queue: both go round. False when the node has stopped. A thread that
    /// hangs leaves it waiting.
    ///
    /// To be asked one at a time; dropped, it changes nothing.
    pub async fn pulse(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.shared.mailbox.pulse(answer);
        answered.await.is_ok()
    }

    /// Stops the threads and waits for them. What was written stays; what was not acknowledged may
    /// be lost, as after a crash.
    pub async fn stop(&self) {
        self.shared.mailbox.stop();
        let mut stopped = self.shared.stopped.subscribe();
        // The sender lives in `self`, so the channel cannot be closed.
        let _ = stopped.wait_for(|&stopped| stopped).await;
    }

    /// Resolves when the node has stopped by itself, with the reason.
    pub async fn ended(&self) -> Arc<Ended> {
        let mut ended = self.shared.ended.subscribe();
        loop {
            if let Some(reason) = ended.borrow_and_update().clone() {
                return reason;
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.shared.hub
    }

    fn ticket(&self) -> Ticket {
        Ticket(self.shared.tickets.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn deadline(&self, timeout: Span) -> Instant {
        Clock.instant() + timeout.min(limits::TIMEOUT_MAX)
    }

    async fn ask(&self, event: impl FnOnce(Ticket) -> Event) -> Answer {
        let ticket = self.ticket();
        let (sender, receiver) = oneshot::channel();
        let mailbox = &self.shared.mailbox;
        let event = event(ticket);
        // The sender is dropped without an answer only when the node stops: a write may have been
        // handed over. What changes nothing is never unknown.
        let unanswered = match &event {
            Event::Submit { .. } => RequestError::OutcomeUnknown,
            _ => RequestError::Unavailable(UnavailableReason::ShuttingDown),
        };
        mailbox.ask(Mail::Ask(event, ticket, sender))?;
        let mut guard = Abandon { mailbox, ticket: Some(ticket) };
        let answer = receiver.await;
        guard.ticket = None;
        answer.unwrap_or(Err(unanswered))
    }

    /// For what must not be lost: a lease whose end is not told would be held by the host's own
    /// keepalives. There are no more of these than streams and requests.
    fn pursue(&self, event: Event) {
        // When the node has stopped, its end ends everything.
        self.shared.mailbox.tell_always(event);
    }
}
