//! What the writer and the saver do when their disk fails: they end with the reason, which ends the
//! process, and acknowledge nothing that is not known to be durable (RELIABILITY F1, F2).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use crate::base::{Index, NodeId, Term};
use crate::node::error::Ended;
use crate::node::mailbox::{Inbox, Mail, Mailbox};
use crate::node::saver::{Saver, Work};
use crate::node::writer::{Write, Writer};
use crate::raft::{Entry, HardState, Payload, PersistToken};
use crate::replica::{Event, SnapshotDesk};
use crate::state::{Meta, Row, RowChange, RowKey};
use crate::storage::{Disk, Identity, LogBatch, RaftStore, StateStore, StorageError};

fn identity() -> Identity {
    Identity { node: NodeId(7), name: "alpha".to_owned(), cluster_name: "test".to_owned() }
}

fn batch(index: u64) -> LogBatch {
    let vote = Some(NodeId(7));
    let entry = Entry { term: Term(1), index: Index(index), payload: Payload::Empty };
    LogBatch {
        hard_state: Some(HardState { term: Term(1), vote, commit: Index(0) }),
        entries: vec![vec![entry]],
        must_sync: true,
        ..LogBatch::default()
    }
}

fn events(inbox: &Inbox) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(Some(mail)) = inbox.receive(None) {
        let Mail::Tell(event) = mail else { panic!("nobody asks here: {mail:?}") };
        events.push(event);
    }
    events
}

/// Writes once on a disk that fails at its `nth` change, and then works again as if nothing had
/// been: how the writer ends, what it acknowledged, and what the next start finds.
fn write_once(nth: u64) -> (Result<(), Ended>, Vec<Event>, usize) {
    let disk = Disk::new();
    let (mut store, _) = RaftStore::create_or_open(disk.clone(), identity).unwrap();
    store.write(&batch(1)).unwrap();
    let (writes, queue) = mpsc::channel();
    let (mailbox, inbox) = Mailbox::new();
    let path = PathBuf::from("/nowhere/raft.redb");
    let last_write = Arc::default();
    let next = VecDeque::new();
    let writer = Writer { store, path, identity: identity(), queue, next, mailbox, last_write };
    writes.send(Write::Batch(PersistToken(2), Box::new(batch(2)))).unwrap();
    drop(writes);
    disk.fail_after(nth);
    let end = writer.run();
    let (_, found) = RaftStore::create_or_open(disk, identity).unwrap();
    (end, events(&inbox), found.entries.len())
}

#[test]
fn a_failed_write_or_sync_of_the_log_ends_the_process_and_acknowledges_nothing() {
    let mut syncs = 0;
    for nth in 0.. {
        let (end, told, entries) = write_once(nth);
        match end {
            Err(Ended::Storage(error)) => {
                syncs += u32::from(matches!(error, StorageError::Sync { .. }));
                assert!(told.is_empty(), "change {nth}: {told:?} after {error}");
            }
            Ok(()) => {
                assert!(matches!(told[..], [Event::Written(PersistToken(2))]), "{told:?}");
                assert_eq!(entries, 2, "it was acknowledged");
                break;
            }
            Err(end) => panic!("change {nth}: {end:?}"),
        }
    }
    assert!(syncs > 0, "no sync failed");
}

#[test]
fn a_failed_write_or_sync_of_the_state_ends_the_process() {
    let mut syncs = 0;
    for nth in 0.. {
        let disk = Disk::new();
        let (store, _) = StateStore::create_or_open(disk.clone(), &identity()).unwrap();
        let (saves, queue) = mpsc::channel();
        let (mailbox, inbox) = Mailbox::new();
        let path = PathBuf::from("/nowhere/state.redb");
        let desk = SnapshotDesk::default();
        let saver = Saver { store, path, identity: identity(), queue, desk, mailbox };
        let row = Some(Row::Meta(Meta { applied_index: Index(5), ..Meta::default() }));
        saves.send(Work::Save(vec![RowChange { key: RowKey::Meta, row }])).unwrap();
        drop(saves);
        disk.fail_after(nth);
        let end = saver.run();
        let told = events(&inbox);
        match end {
            Err(Ended::Storage(error)) => {
                syncs += u32::from(matches!(error, StorageError::Sync { .. }));
                assert!(told.is_empty(), "change {nth}: {told:?} after {error}");
            }
            Ok(()) => {
                assert!(matches!(told[..], [Event::Saved]), "{told:?}");
                break;
            }
            Err(end) => panic!("change {nth}: {end:?}"),
        }
    }
    assert!(syncs > 0, "no sync failed");
}
