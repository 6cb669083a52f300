//! The thread that saves the state to `state.redb` in the background, one save at a time.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use crate::base::Span;
use crate::node::clock::duration;
use crate::node::error::Ended;
use crate::node::mailbox::Mailbox;
use crate::replica::Event;
use crate::state::RowChange;
use crate::storage::{Identity, StateStore, StorageError};

/// How long to wait before trying again on a full disk.
const FULL_DISK_RETRY: Span = Span::from_millis(500);

/// The owner of `state.redb`.
pub(super) struct Saver {
    pub(super) store: StateStore,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) queue: Receiver<Vec<RowChange>>,
    pub(super) mailbox: Mailbox,
}

impl Saver {
    /// Runs until the queue is closed. The error, if any, ends the process.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while let Ok(changes) = self.queue.recv() {
            match self.store.save(&changes) {
                Ok(()) => {}
                Err(StorageError::Full { .. }) => {
                    self = self.save_when_space_is_free(&changes)?;
                }
                Err(error) => return Err(Ended::Storage(error)),
            }
            if !self.mailbox.tell_always(Event::Saved) {
                break;
            }
        }
        Ok(())
    }

    /// As the writer does: the store is opened anew, and the same rows are written again. Ends when
    /// the node stops: a save that was not made is made up for by the log.
    fn save_when_space_is_free(self, changes: &[RowChange]) -> Result<Self, Ended> {
        tracing::error!("the disk is full: state.redb cannot grow; the save waits");
        let Self { store, path, identity, queue, mailbox } = self;
        drop(store);
        loop {
            if !mailbox.tell_always(Event::Disk { full: true }) {
                return Err(Ended::StoppedOnFullDisk);
            }
            std::thread::sleep(duration(FULL_DISK_RETRY));
            let saved = StateStore::open_path(&path, &identity)
                .and_then(|(mut store, _)| store.save(changes).map(|()| store));
            match saved {
                Ok(store) => {
                    mailbox.tell_always(Event::Disk { full: false });
                    return Ok(Self { store, path, identity, queue, mailbox });
                }
                Err(StorageError::Full { .. }) => {}
                Err(error) => return Err(Ended::Storage(error)),
            }
        }
    }
}
