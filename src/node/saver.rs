//! The thread that works on `state.redb` in the background: saves, one at a time, and what
//! snapshots need of it.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use crate::base::Span;
use crate::node::clock::duration;
use crate::node::error::Ended;
use crate::node::mailbox::Mailbox;
use crate::replica::{Event, SnapshotDesk, SnapshotJob};
use crate::state::RowChange;
use crate::storage::{Identity, StateStore, StorageError};

/// How long to wait before trying again on a full disk.
const FULL_DISK_RETRY: Span = Span::from_millis(500);

/// What there is to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Write these rows.
    Save(Vec<RowChange>),
    /// Open, read, install.
    Snapshot(SnapshotJob),
}

/// The owner of `state.redb`.
pub(super) struct Saver {
    pub(super) store: StateStore,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) queue: Receiver<Work>,
    pub(super) desk: SnapshotDesk,
    pub(super) mailbox: Mailbox,
}

impl Saver {
    /// Runs until the queue is closed. The error, if any, ends the process.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while let Ok(work) = self.queue.recv() {
            let event = match work {
                Work::Save(changes) => {
                    match self.store.save(&changes) {
                        Ok(()) => {}
                        Err(StorageError::Full { .. }) => {
                            tracing::error!("the disk is full: state.redb cannot grow; saves wait");
                            self = self.again_when_space_is_free(|store| store.save(&changes))?;
                        }
                        Err(error) => return Err(Ended::Storage(error)),
                    }
                    Some(Event::Saved)
                }
                Work::Snapshot(job) => {
                    let done = match self.desk.perform(&mut self.store, &job) {
                        Ok(done) => done,
                        Err(StorageError::Full { .. }) => {
                            tracing::error!("the disk is full: a snapshot cannot be installed");
                            self = self.again_when_space_is_free(|_| Ok(()))?;
                            job.failed()
                        }
                        Err(error) => return Err(Ended::Storage(error)),
                    };
                    done.map(Event::Snapshot)
                }
            };
            if event.is_some_and(|event| !self.mailbox.tell_always(event)) {
                break;
            }
        }
        Ok(())
    }

    /// As the writer does: the store is opened anew, and the same is done again. Ends when the node
    /// stops: a save that was not made is made up for by the log. Snapshots that were open are not
    /// any more, since they keep the file open.
    fn again_when_space_is_free(
        self,
        again: impl Fn(&mut StateStore) -> Result<(), StorageError>,
    ) -> Result<Self, Ended> {
        let Self { store, path, identity, queue, mut desk, mailbox } = self;
        desk.close_all();
        drop(store);
        loop {
            if !mailbox.tell_always(Event::Disk { full: true }) {
                return Err(Ended::StoppedOnFullDisk);
            }
            std::thread::sleep(duration(FULL_DISK_RETRY));
            let saved = StateStore::open_path(&path, &identity)
                .and_then(|(mut store, _)| again(&mut store).map(|()| store));
            match saved {
                Ok(store) => {
                    mailbox.tell_always(Event::Disk { full: false });
                    return Ok(Self { store, path, identity, queue, desk, mailbox });
                }
                Err(StorageError::Full { .. }) => {}
                Err(error) => return Err(Ended::Storage(error)),
            }
        }
    }
}
