//! What waits to be sent to one peer, and what is dropped when too much waits.
//!
//! When to write it is decided by `dialer.rs`; sending again, by consensus.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::limits::PEER_QUEUE_UNLINKED_FRAMES_MAX;
use crate::wire::PeerMessage;

/// The queue between [`super::Links::send`] (any thread) and one dialer (the only taker).
///
/// - Closed once and for ever.
/// - Never longer than its bound; the dialer may hold as many again that it is writing.
pub(super) struct Outbox {
    state: Mutex<State>,
    frames_max: usize,
    /// Holds a permit when something changed since the dialer last looked.
    changed: Notify,
}

struct State {
    queue: VecDeque<PeerMessage>,
    phase: Phase,
    dropped: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Linked,
    Unlinked,
}

impl Outbox {
    /// An empty one that holds at most `frames_max` messages while there is a link.
    pub(super) fn new(frames_max: usize) -> Self {
        let state = State { queue: VecDeque::new(), phase: Phase::Unlinked, dropped: 0 };
        Self { state: Mutex::new(state), frames_max, changed: Notify::new() }
    }

    /// Queues a message. False when it was dropped.
    pub(super) fn push(&self, message: PeerMessage) -> bool {
        let mut state = self.lock();
        let full = match state.phase {
            Phase::Closed => true,
            Phase::Linked => state.queue.len() >= self.frames_max,
            Phase::Unlinked => {
                if state.queue.len() >= PEER_QUEUE_UNLINKED_FRAMES_MAX.min(self.frames_max) {
                    state.queue.pop_front();
                    state.dropped += 1;
                }
                false
            }
        };
        if full {
            state.dropped += 1;
            return false;
        }
        state.queue.push_back(message);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Moves everything that waits into `batch`, waiting until there is something. False once the
    /// outbox is closed and empty. Cancelled, it has moved nothing.
    pub(super) async fn take(&self, batch: &mut VecDeque<PeerMessage>) -> bool {
        assert!(batch.is_empty(), "{} messages would be sent out of order", batch.len());
        loop {
            {
                let mut state = self.lock();
                if !state.queue.is_empty() {
                    std::mem::swap(&mut state.queue, batch);
                    return true;
                }
                if state.phase == Phase::Closed {
                    return false;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Resolves when the outbox is closed. Not to be awaited beside [`Outbox::take`].
    pub(super) async fn closed(&self) {
        while self.lock().phase != Phase::Closed {
            self.changed.notified().await;
        }
    }

    /// A link is up: the queue may grow to its full length.
    pub(super) fn link(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Unlinked {
            state.phase = Phase::Linked;
        }
    }

    /// The link is gone, and with it what waited: a new link starts with what is said after this.
    pub(super) fn unlink(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Linked {
            state.phase = Phase::Unlinked;
            state.dropped += state.queue.len() as u64;
            state.queue.clear();
        }
    }

    /// Takes no more messages. What waits may still be taken.
    pub(super) fn close(&self) {
        self.lock().phase = Phase::Closed;
        self.changed.notify_one();
    }

    /// How many messages wait, and how many were ever dropped.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.lock();
        (state.queue.len(), state.dropped)
    }

    /// The state is whole after each operation, so that a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::Outbox;
    use crate::base::limits::{PEER_QUEUE_FRAMES_MAX, PEER_QUEUE_UNLINKED_FRAMES_MAX};
    use crate::wire::{KeepaliveRequest, PeerMessage};

    fn message(context: u64) -> PeerMessage {
        PeerMessage::Keepalive(KeepaliveRequest { context, leases: Vec::new() })
    }

    #[tokio::test]
    async fn unlinked_keeps_the_newest_and_linked_refuses_the_newest() {
        let outbox = Outbox::new(PEER_QUEUE_FRAMES_MAX);
        for context in 0..100 {
            assert!(outbox.push(message(context)));
        }
        let kept = PEER_QUEUE_UNLINKED_FRAMES_MAX;
        assert_eq!(outbox.counts(), (kept, 100 - kept as u64));
        let mut batch = VecDeque::new();
        assert!(outbox.take(&mut batch).await);
        assert_eq!(batch.back(), Some(&message(99)));
        batch.clear();

        outbox.link();
        for context in 0..PEER_QUEUE_FRAMES_MAX as u64 {
            assert!(outbox.push(message(context)));
        }
        assert!(!outbox.push(message(0)), "a full queue must refuse");
        outbox.unlink();
        assert_eq!(outbox.counts().0, 0, "a lost link takes its queue along");

        assert!(outbox.push(message(7)));
        outbox.close();
        assert!(!outbox.push(message(8)), "a closed queue must refuse");
        outbox.closed().await;
        assert!(outbox.take(&mut batch).await);
        assert_eq!(batch, [message(7)]);
        batch.clear();
        assert!(!outbox.take(&mut batch).await);
    }
}
