//! Which leases end with which processes: watches the processes, and ends their leases the moment
//! that they exit.
//!
//! Nothing here is recorded: the record of a lease names its process, and `adopt.rs` finds both
//! again after a restart. How an end is pursued over changes of leader is decided in `replica/`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::time::{MissedTickBehavior, interval};

use crate::base::{LeaseId, limits};
use crate::host::{Process, ProcessIdentity};
use crate::node::Node;

use super::fd_store::FdStore;
use super::process::follow;

/// The leases of this host that are bound to processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bindings {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
    /// Readable when a process has exited. All pidfds are in it, so that thousands cost one task.
    /// Nothing when the kernel gave none.
    exits: Option<OwnedFd>,
    table: Mutex<Table>,
    store: FdStore,
}

/// What is bound.
///
/// Invariants:
/// - Every process of `processes` has at least one lease, and is in the epoll set under its number.
/// - `leases` has exactly the leases of all processes.
/// - `numbers` has the numbers of those whose identity is of one process only.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    processes: BTreeMap<u64, Bound>,
    numbers: BTreeMap<ProcessIdentity, u64>,
    leases: BTreeMap<LeaseId, u64>,
}

#[derive(Debug)]
struct Bound {
    process: Arc<Process>,
    leases: BTreeSet<LeaseId>,
}

/// Exits that are taken from the kernel at once.
const EXITS_MAX: usize = 1_024;
/// How often leases that have ended otherwise are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

impl Bindings {
    /// Nothing is bound yet. Needs a running tokio runtime: one task of it watches the processes,
    /// until it or the last handle is gone.
    pub(super) fn new(node: Node) -> Self {
        let exits = epoll::create(epoll::CreateFlags::CLOEXEC);
        let exits = exits.inspect_err(|error| {
            tracing::error!(%error, "no lease can be bound to a process");
        });
        let shared = Shared {
            node,
            exits: exits.ok(),
            table: Mutex::default(),
            store: FdStore::of_environment(),
        };
        let shared = Arc::new(shared);
        tokio::spawn(watch(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// From now on the lease ends when the process has exited; at once when it has already. Fails
    /// when the kernel watches no more processes: the lease is to be ended then.
    pub fn bind(&self, lease: LeaseId, process: &Arc<Process>) -> io::Result<()> {
        let mut table = self.shared.table();
        if table.leases.contains_key(&lease) {
            // A repeated request: it follows what it was made for.
            return Ok(());
        }
        let known = table.numbers.get(process.identity()).copied();
        let number = match known {
            Some(number) => number,
            None => {
                let exits = self.shared.exits.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let number = table.next;
                let (data, flags) = (epoll::EventData::new_u64(number), epoll::EventFlags::IN);
                epoll::add(exits, process, data, flags)?;
                table.next += 1;
                let bound = Bound { process: process.clone(), leases: BTreeSet::new() };
                table.processes.insert(number, bound);
                if process.identity().is_lasting() {
                    table.numbers.insert(process.identity().clone(), number);
                }
                self.shared.store.keep(process);
                number
            }
        };
        let bound = table.processes.get_mut(&number).expect("it was found or made just now");
        bound.leases.insert(lease);
        table.leases.insert(lease, number);
        Ok(())
    }

    /// Whether the lease ends with a process that is watched here.
    pub fn holds(&self, lease: LeaseId) -> bool {
        self.shared.table().leases.contains_key(&lease)
    }

    /// How many processes have leases. One whose leases have ended counts for a few seconds more.
    pub fn processes(&self) -> usize {
        self.shared.table().processes.len()
    }

    pub(super) fn node(&self) -> &Node {
        &self.shared.node
    }

    pub(super) fn store(&self) -> &FdStore {
        &self.shared.store
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is complete before anything in it can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the leases of all processes that have exited, those of many in one revision.
    fn take_exits(&self) {
        let Some(exits) = &self.exits else { return };
        let mut events = Vec::with_capacity(EXITS_MAX);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ended = Vec::new();
        loop {
            events.clear();
            match epoll::wait(exits, spare_capacity(&mut events), Some(&at_once)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the exits of processes cannot be read");
                    break;
                }
            }
            let (mut table, before) = (self.table(), ended.len());
            for number in events.iter().map(|event| event.data.u64()) {
                if let Some(bound) = self.forget(&mut table, number) {
                    tracing::info!(
                        pid = bound.process.pid(),
                        leases = bound.leases.len(),
                        "a process has exited: its leases end"
                    );
                    ended.extend(bound.leases);
                }
            }
            if ended.len() == before {
                // Only what the kernel did not let go of: it is not asked for again and again.
                break;
            }
        }
        for leases in ended.chunks(limits::BOUND_LEASES_BATCH_MAX) {
            self.node.end_leases(leases.to_vec());
        }
    }

    /// Takes a process out of everything.
    fn forget(&self, table: &mut Table, number: u64) -> Option<Bound> {
        let bound = table.processes.remove(&number)?;
        for lease in &bound.leases {
            table.leases.remove(lease);
        }
        let identity = bound.process.identity();
        if table.numbers.get(identity) == Some(&number) {
            table.numbers.remove(identity);
        }
        if let Some(exits) = &self.exits
            && let Err(error) = epoll::delete(exits, &bound.process)
        {
            tracing::error!(%error, "a process cannot be taken out of the watch");
        }
        self.store.drop_process(identity);
        Some(bound)
    }

    /// Forgets leases that have ended otherwise: revoked, released, expired.
    fn sweep(&self) {
        let leases: Vec<LeaseId> = self.table().leases.keys().copied().collect();
        if leases.is_empty() {
            return;
        }
        let gone: Vec<LeaseId> = {
            let view = self.node.view();
            leases.into_iter().filter(|&lease| view.machine.lease(lease).is_none()).collect()
        };
        let mut table = self.table();
        for lease in gone {
            let Some(number) = table.leases.remove(&lease) else { continue };
            let Some(bound) = table.processes.get_mut(&number) else { continue };
            bound.leases.remove(&lease);
            if bound.leases.is_empty() {
                self.forget(&mut table, number);
            }
        }
    }
}

/// Follows the exits for as long as there are bindings.
async fn watch(bindings: Weak<Shared>) {
    let followed = bindings.upgrade().and_then(|shared| {
        let exits = shared.exits.as_ref()?.try_clone().and_then(follow);
        exits.inspect_err(|error| tracing::error!(%error, "no process can be watched")).ok()
    });
    let Some(exits) = followed else { return };
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ready = tokio::select! {
            ready = exits.readable() => Some(ready),
            _ = sweep.tick() => None,
        };
        let Some(shared) = bindings.upgrade() else { return };
        match ready {
            Some(Ok(mut ready)) => {
                shared.take_exits();
                // What has become ready since it was asked for is not cleared by this.
                ready.clear_ready();
            }
            Some(Err(error)) => {
                tracing::error!(%error, "processes are watched no more");
                return;
            }
            None => shared.sweep(),
        }
    }
}
