//! Wakes whoever follows keys when one of them may have changed.
//!
//! It says that something changed and never what: whoever is woken reads the state as it is then,
//! so that many changes are one, and a watch that fell behind has lost nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

use crate::node::{Node, Watcher};
use crate::watch::{Delivery, Filter, WatchRequest};

/// Deliveries are thrown away: the least budget there is.
const BUDGET_BYTES: usize = 1;
/// How long to wait before a watch that could not be opened is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches some keys and prefixes.
#[derive(Debug)]
pub(super) struct KeyInterest {
    node: Node,
    filters: Vec<Filter>,
    watchers: Vec<Watcher>,
}

impl KeyInterest {
    /// From now on no change is missed.
    pub(super) fn new(node: &Node, filters: Vec<Filter>) -> Self {
        let mut interest = Self { node: node.clone(), filters, watchers: Vec::new() };
        interest.open();
        interest
    }

    /// Resolves when something may have changed since the last call. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.watchers.len() != self.filters.len() {
            sleep(PAUSE).await;
            self.open();
            return;
        }
        let mut next: Vec<_> =
            self.watchers.iter_mut().map(|watcher| Box::pin(watcher.next(BUDGET_BYTES))).collect();
        let delivery = poll_fn(|context| {
            for next in &mut next {
                if let Poll::Ready(delivery) = Pin::new(next).poll(context) {
                    return Poll::Ready(delivery);
                }
            }
            Poll::Pending
        });
        let delivery = delivery.await;
        drop(next);
        if matches!(delivery, Delivery::Ended(_)) {
            self.open();
        }
    }

    /// Forgets what has happened so far: the caller is about to look.
    pub(super) fn forget(&mut self) {
        let mut ended = false;
        for watcher in &mut self.watchers {
            while let Some(delivery) = watcher.try_next(BUDGET_BYTES) {
                if matches!(delivery, Delivery::Ended(_)) {
                    ended = true;
                    break;
                }
            }
        }
        if ended {
            self.open();
        }
    }

    fn open(&mut self) {
        let request = |filter: &Filter| WatchRequest {
            filter: filter.clone(),
            from: None,
            initial: false,
            previous: false,
            resume_after: None,
            epoch: None,
        };
        let watchers = self.filters.iter().map(|filter| self.node.watch(request(filter)));
        // One that cannot be opened is tried again.
        self.watchers = watchers.filter_map(Result::ok).collect();
    }
}
