//! What becomes of writes and saves: how long they take, and what a disk that is full, slow or
//! failing does to the process above it. As `node/` does: a full disk is waited for, with the file
//! opened anew; any other error ends the process.

use quorumd::base::{Index, Term};
use quorumd::replica::Event;
use quorumd::state::{Row, RowChange};
use quorumd::storage::{Identity, RaftStore, StateStore, StorageError};

use crate::cluster::{Cluster, Happening};
use crate::node::{CLUSTER, Node};

/// After how long a write to a full disk is tried again.
const FULL_RETRY: u64 = 200_000;

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

    /// The save under way comes to its end, good or bad.
    pub(crate) fn saved(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        let identity = host.identity();
        let process = host.process.as_mut().expect("it saves");
        let changes = process.saving.take().expect("a save that ends was under way");
        let result = match &mut process.state_store {
            Some(store) => store.save(&changes),
            None => StateStore::create_or_open(host.state_disk.clone(), &identity).and_then(
                |(mut store, _)| {
                    store.save(&changes)?;
                    process.state_store = Some(store);
                    Ok(())
                },
            ),
        };
        match result {
            Ok(()) => {
                let was_full = std::mem::take(&mut process.state_full);
                if let Some(saved) = position(&changes) {
                    self.oracle.order.saved(host.id, saved, &host.durable);
                    host.saved = saved.0;
                }
                if was_full {
                    self.handle(node, Event::Disk { full: false });
                }
                self.handle(node, Event::Saved);
            }
            Err(error) => {
                process.saving = Some(changes);
                process.state_store = None;
                process.state_full = true;
                let happening = Happening::Saved { node, life: host.life };
                self.failed(node, &error, happening);
            }
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
