//! The queue in front of the replica thread.
//!
//! Bounded by `limits::MAILBOX_EVENTS_MAX`. Senders are the callers' tasks, the inbound task, the
//! disk task, and the writer and saver threads; the receiver is the replica thread. Full means: a
//! caller is refused, and a peer's message is dropped (Raft sends again); the few words of the two
//! disk threads, each of which has one write or save under way, the watchdog's question, and the
//! end of what a connection owned, of which there is no more than there are streams, always find
//! room. Closed means that the node has stopped.
//!
//! The bound is a count beside a channel without one: the bounded channel of the standard library
//! makes room for all of it at once, which was half of the memory of an idle daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvError, RecvTimeoutError, Sender};

use tokio::sync::oneshot;

use crate::base::{Span, limits};
use crate::node::clock::duration;
use crate::replica::{Event, RequestError, Ticket, UnavailableReason};
use crate::state::Outcome;
use crate::wire::MembersReply;

/// What a caller waits for.
pub(super) type Answer = Result<Outcome, RequestError>;

/// What somebody who gave an order about the members waits for.
pub(super) type MembersAnswered = Result<MembersReply, RequestError>;

/// One item for the replica thread.
#[derive(Debug)]
pub(super) enum Mail {
    /// An event whose ticket somebody waits for.
    Ask(Event, Ticket, oneshot::Sender<Answer>),
    /// An order about the members, whose reply somebody waits for.
    AskMembers(Event, Ticket, oneshot::Sender<MembersAnswered>),
    /// To be handed to the writer thread, which answers it.
    Pulse(oneshot::Sender<()>),
    /// Stop once everything before this was handled.
    Stop,
    /// An event.
    Tell(Event),
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The mailbox is full.
    Dropped,
    /// The node has stopped.
    Stopped,
    /// The replica thread will see it.
    Taken,
}

/// The sending side; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: Sender<Mail>,
    waiting: Arc<AtomicUsize>,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: Receiver<Mail>,
    waiting: Arc<AtomicUsize>,
}

impl Mailbox {
    /// A mailbox and its receiving side.
    pub(super) fn new() -> (Self, Inbox) {
        let (sender, receiver) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        (Self { sender, waiting: Arc::clone(&waiting) }, Inbox { receiver, waiting })
    }

    /// Sends without waiting; for callers.
    pub(super) fn ask(&self, mail: Mail) -> Result<(), RequestError> {
        if self.is_full() {
            return Err(RequestError::TooManyRequests);
        }
        let is_taken = self.send(mail);
        is_taken.then_some(()).ok_or(RequestError::Unavailable(UnavailableReason::ShuttingDown))
    }

    /// Sends without waiting, and drops what does not fit.
    pub(super) fn tell(&self, event: Event) -> Told {
        if self.is_full() {
            Told::Dropped
        } else if self.send(Mail::Tell(event)) {
            Told::Taken
        } else {
            Told::Stopped
        }
    }

    /// Sends whether or not there is room; only for what is few by its nature. False when the node
    /// has stopped.
    pub(super) fn tell_always(&self, event: Event) -> bool {
        self.send(Mail::Tell(event))
    }

    /// Whether or not there is room: there is one at a time.
    pub(super) fn pulse(&self, answer: oneshot::Sender<()>) {
        // A node that has stopped drops the question, and whoever asked learns it from that.
        self.send(Mail::Pulse(answer));
    }

    /// Asks the replica thread to stop.
    pub(super) fn stop(&self) {
        // A node that has stopped already needs no asking.
        self.send(Mail::Stop);
    }

    /// Senders that look at the same moment may each add one to a full mailbox: the bound is about
    /// memory, and they are few.
    fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= limits::MAILBOX_EVENTS_MAX
    }

    /// False when the node has stopped.
    fn send(&self, mail: Mail) -> bool {
        // Counted before it can be received, so that the count never falls below zero.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.send(mail).is_ok()
    }
}

impl Inbox {
    /// The next item, or nothing when `wait` has passed. `Err`: every sender is gone.
    pub(super) fn receive(&self, wait: Option<Span>) -> Result<Option<Mail>, RecvError> {
        let mail = match wait {
            None => self.receiver.recv()?,
            Some(wait) => match self.receiver.recv_timeout(duration(wait)) {
                Ok(mail) => mail,
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
            },
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(Some(mail))
    }

    /// The next item, if one waits.
    pub(super) fn try_receive(&self) -> Option<Mail> {
        let mail = self.receiver.try_recv().ok()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(mail)
    }
}

#[cfg(test)]
mod tests {
    use super::{Mail, Mailbox, Told};
    use crate::base::limits;
    use crate::replica::{Event, RequestError};

    #[test]
    fn a_full_mailbox_refuses_callers_and_still_takes_the_word_of_the_disk() {
        let (mailbox, inbox) = Mailbox::new();
        for _ in 0..limits::MAILBOX_EVENTS_MAX {
            assert!(mailbox.tell(Event::Timeout) == Told::Taken);
        }
        assert!(mailbox.tell(Event::Timeout) == Told::Dropped);
        let refused = mailbox.ask(Mail::Tell(Event::Timeout));
        assert_eq!(refused, Err(RequestError::TooManyRequests));
        assert!(mailbox.tell_always(Event::Saved));
        for _ in 0..2 {
            assert!(inbox.try_receive().is_some());
        }
        assert!(mailbox.tell(Event::Timeout) == Told::Taken, "what was received makes room");
    }
}
