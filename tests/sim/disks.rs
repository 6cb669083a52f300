//! What becomes of writes and saves: how long they take, and what a disk that is full, slow or
//! failing does to the process above it. As `node/` does: a full disk is waited for, with the file
//! opened anew; any other error ends the process.

use quorumd::base::{Index, Term};
use quorumd::replica::{Event, SnapshotJob};
use quorumd::state::{Row, RowChange};
use quorumd::storage::{Identity, RaftStore, StateStore, StorageError};

use crate::cluster::{Cluster, Happening};
use crate::node::{CLUSTER, Node};

/// After how long a write to a full disk is tried again.
const FULL_RETRY: u64 = 200_000;

/// What is to be done with the state's file.
#[derive(Debug)]
pub enum StateWork {
    /// Save what changed.
    Save(Vec<RowChange>),
    /// For a snapshot, of ours or from elsewhere.
    Snapshot(SnapshotJob),
}

impl Cluster {
    /// The writer takes what waits, all of it or only the next, as one transaction.
    pub(crate) fn begin_write(&mut self, node: usize) {
        let all = self.rng.chance(2, 3);
        let after = 50 + self.rng.below(self.disk_latency_max) * self.nodes[node].slowness;
        let life = self.nodes[node].life;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.writing.is_some() {
            return;
        }
        let Some((mut token, mut batch)) = process.writes.pop_front() else { return };
        while all
            && let Some((next, more)) = process.writes.pop_front_if(|(_, more)| batch.takes(more))
        {
            token = next;
            batch.merge(more);
        }
        process.writing = Some((token, batch));
        self.plan(after, Happening::Written { node, life });
    }

    /// The write under way comes to its end, good or bad.
    pub(crate) fn written(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        let identity = host.identity();
        let Some(process) = &mut host.process else { return };
        let (mut token, mut batch) = process.writing.take().expect("it was under way");
        let result = match &mut process.raft_store {
            Some(store) => store.write(&batch),
            None => {
                // What arrived meanwhile joins it.
                while let Some((next, more)) =
                    process.writes.pop_front_if(|(_, more)| batch.takes(more))
                {
                    token = next;
                    batch.merge(more);
                }
                RaftStore::create_or_open(host.raft_disk.clone(), || identity).and_then(
                    |(mut store, _)| {
                        store.write(&batch)?;
                        process.raft_store = Some(store);
                        Ok(())
                    },
                )
            }
        };
        match result {
            Ok(()) => {
                let was_full = std::mem::take(&mut process.raft_full);
                self.oracle.order.written(host.id, host.saved, &batch);
                host.durable.apply(&batch);
                self.begin_write(node);
                if was_full {
                    self.handle(node, Event::Disk { full: false });
                }
                self.handle(node, Event::Written(token));
            }
            Err(error) => {
                process.writing = Some((token, batch));
                process.raft_store = None;
                process.raft_full = true;
                let happening = Happening::Written { node, life: host.life };
                self.failed(node, &error, happening);
            }
        }
    }

    /// Something is to be done with the state's file, behind what is to be done already.
    pub(crate) fn work_on_state(&mut self, node: usize, work: StateWork) {
        let process = self.nodes[node].process.as_mut().expect("it acts");
        let saves = process.state_work.iter().filter(|work| matches!(work, StateWork::Save(_)));
        let first = matches!(work, StateWork::Snapshot(_)) || saves.count() == 0;
        crate::ensure!(first, "one_save", "n{} saves twice at once", self.nodes[node].id);
        process.state_work.push_back(work);
        if process.state_work.len() == 1 {
            self.plan_state_work(node);
        }
    }

    fn plan_state_work(&mut self, node: usize) {
        let host = &self.nodes[node];
        let (life, slowness) = (host.life, host.slowness);
        let Some(process) = &host.process else { return };
        let most = match process.state_work.front() {
            None => return,
            Some(StateWork::Snapshot(SnapshotJob::Close { .. } | SnapshotJob::Read { .. })) => 500,
            Some(_) => 4 * self.disk_latency_max,
        };
        let after = 100 + self.rng.below(most) * slowness;
        self.plan(after, Happening::Saved { node, life });
    }

    /// The first of what is to be done with the state's file is done, well or badly.
    pub(crate) fn saved(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        let identity = host.identity();
        let process = host.process.as_mut().expect("it saves");
        let work = process.state_work.pop_front().expect("what ends was under way");
        let opened = match process.state_store.take() {
            Some(store) => Ok(store),
            None => StateStore::create_or_open(host.state_disk.clone(), &identity)
                .map(|(store, _)| store),
        };
        let result = opened.and_then(|store| {
            let store = process.state_store.insert(store);
            match &work {
                StateWork::Save(changes) => store.save(changes).map(|()| None),
                StateWork::Snapshot(job) => process.desk.perform(store, job),
            }
        });
        match result {
            Ok(done) => {
                let was_full = std::mem::take(&mut process.state_full);
                self.state_work_done(node, &work);
                if was_full {
                    self.handle(node, Event::Disk { full: false });
                }
                match (done, work) {
                    (Some(done), _) => self.handle(node, Event::Snapshot(done)),
                    (None, StateWork::Save(_)) => self.handle(node, Event::Saved),
                    (None, StateWork::Snapshot(_)) => {}
                }
                self.plan_state_work(node);
            }
            Err(error) => {
                process.state_store = None;
                process.state_full = true;
                process.desk.close_all();
                let full = matches!(error, StorageError::Full { .. });
                let failed = match (full, work) {
                    (true, StateWork::Snapshot(job)) => {
                        self.plan_state_work(node);
                        job.failed()
                    }
                    (_, work) => {
                        process.state_work.push_front(work);
                        None
                    }
                };
                if let Some(done) = failed {
                    self.handle(node, Event::Snapshot(done));
                    return;
                }
                let happening = Happening::Saved { node, life: self.nodes[node].life };
                self.failed(node, &error, happening);
            }
        }
    }

    fn state_work_done(&mut self, node: usize, work: &StateWork) {
        let host = &mut self.nodes[node];
        match work {
            StateWork::Save(changes) => {
                if let Some(saved) = position(changes) {
                    self.oracle.order.saved(host.id, saved, &host.durable);
                    host.saved = saved.0;
                }
            }
            StateWork::Snapshot(SnapshotJob::Install { offer, .. }) => {
                let start = &offer.start;
                self.oracle.installed(host.id, (start.index, start.term), &start.membership);
                host.saved = host.saved.max(start.index);
            }
            StateWork::Snapshot(_) => {}
        }
    }

    fn failed(&mut self, node: usize, error: &StorageError, again: Happening) {
        self.say(format!("n{}: {error}", self.nodes[node].id));
        if matches!(error, StorageError::Full { .. }) {
            self.handle(node, Event::Disk { full: true });
            self.plan(FULL_RETRY, again);
            return;
        }
        crate::ensure!(
            self.nodes[node].faulty_disk,
            "disk_sound",
            "n{}: {error}, and its disk did nothing wrong",
            self.nodes[node].id
        );
        self.nodes[node].faulty_disk = false;
        self.crash(node);
        let after = 1_000 + self.rng.below(1_000_000);
        self.plan(after, Happening::Start(node));
    }

    /// The disk of a node is full from now on, or has space again.
    pub(crate) fn set_full(&mut self, node: usize, full: bool) {
        let host = &mut self.nodes[node];
        host.full = full;
        host.raft_disk.set_full(full);
        host.state_disk.set_full(full);
        self.say(format!("the disk of n{} is full: {full}", self.nodes[node].id));
        if !full {
            self.handle(node, Event::Disk { full: false });
        }
    }
}

impl Node {
    /// Who it is, as its files say.
    pub fn identity(&self) -> Identity {
        Identity { node: self.id, name: self.name.clone(), cluster_name: CLUSTER.to_owned() }
    }
}

/// The applied index and term that a save carries.
fn position(changes: &[RowChange]) -> Option<(Index, Term)> {
    changes.iter().find_map(|change| match &change.row {
        Some(Row::Meta(meta)) => Some((meta.applied_index, meta.applied_term)),
        _ => None,
    })
}
