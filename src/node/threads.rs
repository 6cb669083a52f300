//! Starts the threads and tasks of a node, and notices how each ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use tokio::sync::watch;

use crate::node::error::Ended;
use crate::node::handle::Shared;
use crate::node::hub::Hub;
use crate::node::introduce::Introducer;
use crate::node::mailbox::Mailbox;
use crate::node::runner::{Facts, Gauges, Runner, collect};
use crate::node::saver::Saver;
use crate::node::writer::Writer;
use crate::node::{Clock, Node, Options, disk, inbound};
use crate::peer::Links;
use crate::replica::{Replica, SnapshotDesk};
use crate::storage::{Identity, RaftStore, StateStore};
use crate::watch::RenderCache;

/// The two open files, and whose they are.
pub(super) struct Stores {
    pub(super) raft: RaftStore,
    pub(super) state: StateStore,
    pub(super) identity: Identity,
}

/// Starts the threads and tasks around `replica`; see the table in `mod.rs`.
pub(super) fn spawn(
    options: Options,
    replica: Replica,
    stores: Stores,
    links: Arc<Links>,
    introducer: Introducer,
    inbound: tokio::sync::mpsc::Receiver<crate::peer::Inbound>,
) -> Node {
    let (raft_path, state_path) =
        (options.data_dir.join("raft.redb"), options.data_dir.join("state.redb"));
    let (mailbox, inbox) = Mailbox::new();
    let gauges = measure(&options.data_dir);
    let facts = Facts {
        name: options.name,
        cluster_name: options.cluster_name,
        data_dir: options.data_dir.display().to_string(),
        reserve_bytes: options.reserve_bytes,
        store_bytes_max: options.replica.store_bytes_max,
        seeds: options.seeds,
        started: Clock.instant(),
    };
    let shared = share(&mailbox, (&facts, &gauges), &replica, introducer);
    tokio::spawn(inbound::run(inbound, mailbox.clone()));
    tokio::spawn(disk::run(
        options.data_dir,
        options.reserve_bytes,
        gauges.clone(),
        mailbox.clone(),
        shared.stopped.subscribe(),
    ));
    let (writes, write_queue) = mpsc::channel();
    let (saves, save_queue) = mpsc::channel();
    let writer = Writer {
        store: stores.raft,
        path: raft_path,
        identity: stores.identity.clone(),
        queue: write_queue,
        next: VecDeque::new(),
        mailbox: mailbox.clone(),
        last_write: Arc::clone(&gauges.last_write_micros),
    };
    let writer = supervise("writer", &shared, move || writer.run());
    let saver = Saver {
        store: stores.state,
        path: state_path,
        identity: stores.identity,
        queue: save_queue,
        desk: SnapshotDesk::default(),
        mailbox,
    };
    let saver = supervise("saver", &shared, move || saver.run());
    let runner = Runner {
        replica,
        shared: Arc::clone(&shared),
        inbox,
        writes,
        saves,
        links: Arc::clone(&links),
        gauges,
        facts,
        contacts: BTreeMap::new(),
        waiting: HashMap::new(),
        ordered: HashMap::new(),
        status_at: Clock.instant(),
        compared: (Vec::new(), None),
    };
    let main = supervise("replica", &shared, move || runner.run());
    finish_when_stopped(vec![main, writer, saver], links, &shared);
    Node { shared }
}

fn measure(data_dir: &std::path::Path) -> Gauges {
    let gauges = Gauges::default();
    let free = disk::free_bytes(data_dir).unwrap_or(u64::MAX);
    gauges.free_bytes.store(free, std::sync::atomic::Ordering::Relaxed);
    gauges
}

fn share(
    mailbox: &Mailbox,
    (facts, gauges): (&Facts, &Gauges),
    replica: &Replica,
    introducer: Introducer,
) -> Arc<Shared> {
    let first = {
        let view = replica.shared_view();
        let view = view.read().expect("nobody else has this view yet");
        collect(facts, gauges, replica.status(), &view, Vec::new(), false)
    };
    Arc::new(Shared {
        mailbox: mailbox.clone(),
        view: replica.shared_view(),
        hub: Hub::default(),
        renders: Mutex::new(RenderCache::default()),
        status: RwLock::new(Arc::new(first)),
        draining: AtomicBool::new(false),
        introducer,
        tickets: AtomicU64::new(0),
        ended: watch::Sender::new(None),
        fenced: watch::Sender::new(false),
        stopped: watch::Sender::new(false),
    })
}

/// A thread whose error, or panic, is the end of the node.
fn supervise(
    name: &'static str,
    shared: &Arc<Shared>,
    body: impl FnOnce() -> Result<(), Ended> + Send + 'static,
) -> thread::JoinHandle<()> {
    let ended = shared.ended.clone();
    let run = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let reason = match result {
            Ok(Ok(())) => return,
            Ok(Err(reason)) => reason,
            Err(_) => Ended::Thread(name),
        };
        ended.send_if_modified(|current| {
            let is_first = current.is_none();
            if is_first {
                *current = Some(Arc::new(reason));
            }
            is_first
        });
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .expect("a process that cannot start three threads cannot do anything")
}

/// Says when all threads have ended: the replica first, then, as their queues close, the two
/// others.
fn finish_when_stopped(
    threads: Vec<thread::JoinHandle<()>>,
    links: Arc<Links>,
    shared: &Arc<Shared>,
) {
    let stopped = shared.stopped.clone();
    let runtime = tokio::runtime::Handle::current();
    thread::Builder::new()
        .name("finish".to_owned())
        .spawn(move || {
            for thread in threads {
                // `supervise` has caught and reported a panic.
                let _ = thread.join();
            }
            runtime.block_on(links.shutdown());
            stopped.send_replace(true);
        })
        .expect("a process that cannot start four threads cannot do anything");
}
