//! The thread that writes `raft.redb`: group commit, one sync for all that waits.
//!
//! Input: a queue of writes from the replica thread, bounded by what raft allows in flight. Each is
//! reported back by its token once it and all before it are durable.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use crate::base::Span;
use crate::node::Clock;
use crate::node::clock::duration;
use crate::node::error::Ended;
use crate::node::mailbox::Mailbox;
use crate::raft::PersistToken;
use crate::replica::Event;
use crate::storage::{Identity, LogBatch, RaftStore, StorageError};

/// One write.
pub(super) type Write = (PersistToken, LogBatch);

/// How long to wait before trying again on a full disk.
const FULL_DISK_RETRY: Span = Span::from_millis(200);

/// The owner of `raft.redb`.
pub(super) struct Writer {
    pub(super) store: RaftStore,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) queue: Receiver<Write>,
    /// Taken from the queue, and not to be joined with what came before it.
    pub(super) next: Option<Write>,
    pub(super) mailbox: Mailbox,
    /// How long the last write took, in microseconds.
    pub(super) last_write: Arc<AtomicU64>,
}

impl Writer {
    /// Runs until the queue is closed. The error, if any, ends the process.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while let Some((mut token, mut batch)) = self.next.take().or_else(|| self.queue.recv().ok())
        {
            while self.next.is_none()
                && let Ok(write) = self.queue.try_recv()
            {
                self.next = join(&mut token, &mut batch, write);
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
            if next.is_some() {
                std::thread::sleep(duration(FULL_DISK_RETRY));
            } else {
                match queue.recv_timeout(duration(FULL_DISK_RETRY)) {
                    Ok(write) => {
                        next = join(token, batch, write);
                        continue;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Err(Ended::StoppedOnFullDisk),
                }
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
fn join(token: &mut PersistToken, batch: &mut LogBatch, write: Write) -> Option<Write> {
    if !batch.takes(&write.1) {
        return Some(write);
    }
    *token = write.0;
    batch.merge(write.1);
    None
}
