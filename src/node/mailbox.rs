//! The queue in front of the replica thread.
//!
//! Bounded by `limits::MAILBOX_EVENTS_MAX`. Senders are the callers' tasks, the inbound task, the
//! disk task, and the writer and saver threads; the receiver is the replica thread. Full means: a
//! caller is refused, a peer's message is dropped (Raft sends again), and the two disk threads
//! wait. Closed means that the node has stopped.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use crate::base::{Span, limits};
use crate::node::clock::duration;
use crate::replica::{Event, RequestError, Ticket, UnavailableReason};
use crate::state::Outcome;

/// What a caller waits for.
pub(super) type Answer = Result<Outcome, RequestError>;

/// One item for the replica thread.
#[derive(Debug)]
pub(super) enum Mail {
    /// An event whose ticket somebody waits for.
    Ask(Event, Ticket, oneshot::Sender<Answer>),
    /// Stop once everything before this was handled.
    Stop,
    /// An event.
    Tell(Event),
}

/// The sending side; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: SyncSender<Mail>,
}

impl Mailbox {
    /// A mailbox and its receiving side.
    pub(super) fn new() -> (Self, Receiver<Mail>) {
        let (sender, receiver) = sync_channel(limits::MAILBOX_EVENTS_MAX);
        (Self { sender }, receiver)
    }

    /// Sends without waiting; for callers.
    pub(super) fn ask(&self, mail: Mail) -> Result<(), RequestError> {
        self.sender.try_send(mail).map_err(|error| match error {
            TrySendError::Full(_) => RequestError::TooManyRequests,
            TrySendError::Disconnected(_) => {
                RequestError::Unavailable(UnavailableReason::ShuttingDown)
            }
        })
    }

    /// Sends without waiting, and drops what does not fit; false when it was dropped.
    pub(super) fn tell(&self, event: Event) -> bool {
        self.sender.try_send(Mail::Tell(event)).is_ok()
    }

    /// Sends and waits for room; for threads of their own only. False when the node has stopped.
    pub(super) fn wait_and_tell(&self, event: Event) -> bool {
        self.sender.send(Mail::Tell(event)).is_ok()
    }

    /// Asks the replica thread to stop; waits for room.
    pub(super) fn stop(&self) {
        // A node that has stopped already needs no asking.
        let _ = self.sender.send(Mail::Stop);
    }
}

/// The next item, or nothing when `wait` has passed. `Err`: every sender is gone.
pub(super) fn receive(
    receiver: &Receiver<Mail>,
    wait: Option<Span>,
) -> Result<Option<Mail>, std::sync::mpsc::RecvError> {
    match wait {
        None => receiver.recv().map(Some),
        Some(wait) => match receiver.recv_timeout(duration(wait)) {
            Ok(mail) => Ok(Some(mail)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(std::sync::mpsc::RecvError),
        },
    }
}
