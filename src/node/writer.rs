//! The thread that writes `raft.redb`: group commit, one sync for all that waits.
//!
//! Input: a queue of writes from the replica thread, bounded by what raft allows in flight. Each is
//! reported back by its token once it and all before it are durable.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use tokio::sync::oneshot;

use crate::base::Span;
use crate::node::Clock;
use crate::node::clock::duration;
use crate::node::error::Ended;
use crate::node::mailbox::Mailbox;
use crate::raft::PersistToken;
use crate::replica::Event;
use crate::storage::{Identity, LogBatch, RaftStore, StorageError};

/// What there is to do.
pub(super) enum Write {
    /// Make this durable, then say so by the token.
    Batch(PersistToken, Box<LogBatch>),
    /// Say that this thread goes round.
    Pulse(oneshot::Sender<()>),
}

/// One write.
type Batch = (PersistToken, LogBatch);

/// How long to wait before trying again on a full disk.
const FULL_DISK_RETRY: Span = Span::from_millis(200);

/// The owner of `raft.redb`.
pub(super) struct Writer {
    pub(super) store: RaftStore,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) queue: Receiver<Write>,
    /// Taken from the queue, and not to be joined with what came before it.
    pub(super) next: VecDeque<Batch>,
    pub(super) mailbox: Mailbox,
    /// How long the last write took, in microseconds.
    pub(super) last_write: Arc<AtomicU64>,
}

impl Writer {
    /// Runs until the queue is closed. The error, if any, ends the process.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while let Some((mut token, mut batch)) = self.wait() {
            while self.next.is_empty()
                && let Ok(write) = self.queue.try_recv()
            {
                self.next.extend(join(&mut token, &mut batch, write));
            }
            let started = Clock.instant();
            match self.store.write(&batch) {
                Ok(()) => {}
                Err(StorageError::Full { .. }) => {
                    self = self.write_when_space_is_free(&mut token, &mut batch)?;
                }
                Err(error) => return Err(Ended::Storage(error)),
            }
            let took = Clock.instant().since(started);
            self.last_write.store(took.as_micros(), Ordering::Relaxed);
            if !self.mailbox.tell_always(Event::Written(token)) {
                break;
            }
        }
        self.store.flush().map_err(Ended::Storage)
    }

    /// The next write; nothing when the queue is closed.
    fn wait(&mut self) -> Option<Batch> {
        if let Some(batch) = self.next.pop_front() {
            return Some(batch);
        }
        loop {
            match self.queue.recv().ok()? {
                Write::Batch(token, batch) => return Some((token, *batch)),
                Write::Pulse(answer) => say_that_it_goes_round(answer),
            }
        }
    }

    /// redb refuses everything after an error of its file, so the store is opened anew; what of the
    /// batch may have become durable is replaced by the same when it is written again whole. What
    /// arrives meanwhile joins it.
    fn write_when_space_is_free(
        self,
        token: &mut PersistToken,
        batch: &mut LogBatch,
    ) -> Result<Self, Ended> {
        tracing::error!(
            "the disk is full: raft.redb cannot grow; writes wait until space is freed"
        );
        let Self { store, path, identity, queue, mut next, mailbox, last_write } = self;
        drop(store);
        mailbox.tell_always(Event::Disk { full: true });
        loop {
            match queue.recv_timeout(duration(FULL_DISK_RETRY)) {
                Ok(Write::Batch(later, more)) if !next.is_empty() => {
                    next.push_back((later, *more));
                    continue;
                }
                Ok(write) => {
                    next.extend(join(token, batch, write));
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Ended::StoppedOnFullDisk),
            }
            let written = RaftStore::open_path(&path, || identity.clone())
                .and_then(|(mut store, _)| store.write(batch).map(|()| store));
            match written {
                Ok(store) => {
                    tracing::info!("the disk has space again: writes go on");
                    mailbox.tell_always(Event::Disk { full: false });
                    return Ok(Self { store, path, identity, queue, next, mailbox, last_write });
                }
                Err(StorageError::Full { .. }) => {
                    // Again, because the saver says "free" after a save that found room.
                    if !mailbox.tell_always(Event::Disk { full: true }) {
                        return Err(Ended::StoppedOnFullDisk);
                    }
                }
                Err(error) => return Err(Ended::Storage(error)),
            }
        }
    }
}

/// One write for both, unless the second has to stand by itself: then it is given back.
fn join(token: &mut PersistToken, batch: &mut LogBatch, write: Write) -> Option<Batch> {
    let (later, more) = match write {
        Write::Batch(later, more) => (later, *more),
        Write::Pulse(answer) => {
            say_that_it_goes_round(answer);
            return None;
        }
    };
    if !batch.takes(&more) {
        return Some((later, more));
    }
    *token = later;
    batch.merge(more);
    None
}

/// Whoever asked may have gone.
fn say_that_it_goes_round(answer: oneshot::Sender<()>) {
    let _ = answer.send(());
}
