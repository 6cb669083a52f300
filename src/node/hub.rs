//! Who is woken when the view has changed: watchers by key, followers by topic.
//!
//! Waking is all that happens here; what the woken ones find is read from the view. A wake-up is a
//! permit that is kept until it is taken, so none is lost between looking and waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::{LeaseId, Revision};
use crate::node::Node;
use crate::replica::Published;
use crate::state::{LeaseChange, QueueName};
use crate::watch::{Cursor, Delivery, Filter, Registry, WatcherId};

/// Something that can be followed besides keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// A lease: it ended, or this node's promise about it changed.
    Lease(LeaseId),
    /// A lock or election: a place was taken, left or changed.
    Queue(QueueName),
    /// The node: role, leader, members, readiness.
    Status,
}

/// Everyone who waits on one node.
#[derive(Debug, Default)]
pub(super) struct Hub {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    ids_used: u64,
    registry: Registry,
    watchers: BTreeMap<WatcherId, Arc<Notify>>,
    followers: BTreeMap<Topic, BTreeMap<u64, Arc<Notify>>>,
    woken: Vec<WatcherId>,
}

impl Waiting {
    fn next_id(&mut self) -> u64 {
        self.ids_used += 1;
        self.ids_used
    }

    fn wake(&self, topic: &Topic) {
        for notify in self.followers.get(topic).into_iter().flat_map(BTreeMap::values) {
            notify.notify_one();
        }
    }
}

impl Hub {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here is left half done by a panic: each entry stands by itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those whom the changes concern.
    pub(super) fn publish(&self, published: &Published) {
        let mut waiting = self.waiting();
        let mut woken = std::mem::take(&mut waiting.woken);
        for events in &published.events {
            waiting.registry.interested(events, &mut woken);
            for id in &woken {
                if let Some(notify) = waiting.watchers.get(id) {
                    notify.notify_one();
                }
            }
        }
        if let Some(revision) = published.installed {
            waiting.registry.everyone(revision, &mut woken);
            for id in &woken {
                if let Some(notify) = waiting.watchers.get(id) {
                    notify.notify_one();
                }
            }
            for notify in waiting.followers.values().flat_map(BTreeMap::values) {
                notify.notify_one();
            }
        }
        waiting.woken = woken;
        if waiting.followers.is_empty() {
            return;
        }
        for change in &published.leases {
            let (LeaseChange::Began(lease) | LeaseChange::Ended(lease)) = *change;
            waiting.wake(&Topic::Lease(lease));
        }
        for &lease in &published.promises {
            waiting.wake(&Topic::Lease(lease));
        }
        for queue in &published.queues {
            waiting.wake(&Topic::Queue(queue.clone()));
        }
        if published.status {
            waiting.wake(&Topic::Status);
        }
    }

    /// Registers a watcher. Called under the view's read lock, so that no change falls between.
    pub(super) fn add_watcher(
        &self,
        filter: &Filter,
        waits_for: Option<Revision>,
    ) -> (WatcherId, Arc<Notify>) {
        let mut waiting = self.waiting();
        let id = WatcherId(waiting.next_id());
        waiting.registry.add(id, filter, waits_for);
        let notify = Arc::new(Notify::new());
        waiting.watchers.insert(id, Arc::clone(&notify));
        (id, notify)
    }

    fn remove_watcher(&self, id: WatcherId) {
        let mut waiting = self.waiting();
        waiting.registry.remove(id);
        waiting.watchers.remove(&id);
    }

    fn add_follower(&self, topic: &Topic) -> (u64, Arc<Notify>) {
        let mut waiting = self.waiting();
        let id = waiting.next_id();
        let notify = Arc::new(Notify::new());
        let followers = waiting.followers.entry(topic.clone()).or_default();
        followers.insert(id, Arc::clone(&notify));
        (id, notify)
    }

    fn remove_follower(&self, topic: &Topic, id: u64) {
        let mut waiting = self.waiting();
        if let Some(followers) = waiting.followers.get_mut(topic) {
            followers.remove(&id);
            if followers.is_empty() {
                waiting.followers.remove(topic);
            }
        }
    }
}

/// One watch stream: a place in the shared history. Costs the node nothing while nobody asks it.
#[derive(Debug)]
pub struct Watcher {
    node: Node,
    cursor: Cursor,
    id: WatcherId,
    notify: Arc<Notify>,
}

impl Watcher {
    pub(super) fn new(node: Node, cursor: Cursor, id: WatcherId, notify: Arc<Notify>) -> Self {
        Self { node, cursor, id, notify }
    }

    /// The next delivery that is not `Idle`. `budget_bytes` bounds one part of a snapshot.
    ///
    /// Cancel-safe: a delivery is taken only when this returns.
    pub async fn next(&mut self, budget_bytes: usize) -> Delivery {
        loop {
            if let Some(delivery) = self.try_next(budget_bytes) {
                return delivery;
            }
            self.notify.notified().await;
        }
    }

    /// What can be delivered at once, if anything.
    pub fn try_next(&mut self, budget_bytes: usize) -> Option<Delivery> {
        let view = self.node.view();
        match self.cursor.next(&view.history, &view.machine, budget_bytes) {
            Delivery::Idle => None,
            delivery => Some(delivery),
        }
    }

    /// The place in the history.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.node.hub().remove_watcher(self.id);
    }
}

/// Somebody who waits for the next change of a topic.
#[derive(Debug)]
pub struct Follower {
    node: Node,
    topic: Topic,
    id: u64,
    notify: Arc<Notify>,
}

impl Follower {
    pub(super) fn new(node: Node, topic: Topic) -> Self {
        let (id, notify) = node.hub().add_follower(&topic);
        Self { node, topic, id, notify }
    }

    /// Resolves when something about the topic has changed since the last call, or since it was
    /// followed. Several changes may be one. Cancel-safe.
    pub async fn changed(&mut self) {
        self.notify.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.node.hub().remove_follower(&self.topic, self.id);
    }
}
