//! Runs one task for each entry of a section, and exchanges those whose settings have changed.
//!
//! What a task does is its own business. One that ends or waits keeps no other from its work; one
//! that is exchanged has ended, with everything it was about to write, before the next begins.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::file_status::Board;

/// Tells a task to end.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Resolves when the task should end. Cancel-safe.
    pub(super) async fn requested(&mut self) {
        // An error means that nobody is left who could want its work.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// The tasks of one section. `O` is what is said about an entry, `S` how it stands.
#[derive(Debug)]
pub(super) struct HostTasks<O, S> {
    running: Mutex<BTreeMap<String, Running<O, S>>>,
}

#[derive(Debug)]
struct Running<O, S> {
    options: O,
    board: Arc<Board<S>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl<O, S> Default for HostTasks<O, S> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<O: PartialEq, S: Clone> HostTasks<O, S> {
    /// Lets exactly these entries run. Those whose options are the same go on undisturbed. `start`
    /// makes the status and the work of an entry.
    pub(super) fn set<F>(
        &self,
        wanted: BTreeMap<String, O>,
        start: impl Fn(&str, &O, Stop) -> (Arc<Board<S>>, F),
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.lock();
        let mut ended = Vec::new();
        let before = std::mem::take(&mut *running);
        for (name, entry) in before {
            if wanted.get(&name) == Some(&entry.options) {
                running.insert(name, entry);
            } else {
                // It fails only for a task that has ended.
                let _ = entry.stop.send(true);
                ended.push(entry.task);
            }
        }
        let (clear, is_clear) = watch::channel(ended.is_empty());
        if !ended.is_empty() {
            tokio::spawn(async move {
                for task in ended {
                    if let Err(error) = task.await {
                        tracing::error!(%error, "a task that followed files ended by itself");
                    }
                }
                let _ = clear.send(true);
            });
        }
        for (name, options) in wanted {
            if running.contains_key(&name) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            let (board, work) = start(&name, &options, Stop(stopped));
            let mut is_clear = is_clear.clone();
            let task = tokio::spawn(async move {
                // A sender that is gone has sent before.
                let _ = is_clear.wait_for(|clear| *clear).await;
                work.await;
            });
            running.insert(name, Running { options, board, stop, task });
        }
    }

    /// How each entry stands, by name.
    pub(super) fn status(&self) -> Vec<S> {
        self.lock().values().map(|running| running.board.read()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running<O, S>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what waits for a disk where nobody else waits for it. Not stopped when this is dropped.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is being dropped: nothing goes on here.
        Err(_) => std::future::pending().await,
    }
}
