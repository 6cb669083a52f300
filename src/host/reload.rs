//! How a caller has the daemon read its files again, and what is known of files that it refused.
//!
//! What is read, and what may change while the daemon runs, is decided in `daemon/`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::host::Host;

/// Callers that wait for a reload at once; a further one waits for room.
const REQUESTS_MAX: usize = 16;

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// The settings and files that are other ones now; empty when all are the same.
    pub changed: Vec<String>,
}

/// A caller who waits for a reload. Dropped, it is told that the daemon cannot.
#[derive(Debug)]
pub struct ReloadRequest {
    answer: oneshot::Sender<Result<ReloadReport, String>>,
}

/// The callers who wait for a reload, in their order.
#[derive(Debug)]
pub struct ReloadRequests {
    requests: mpsc::Receiver<ReloadRequest>,
}

/// The part of [`Host`] that this file is about.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// Nothing until somebody takes requests.
    sender: Mutex<Option<mpsc::Sender<ReloadRequest>>>,
    refused: Mutex<Option<String>>,
}

impl ReloadRequest {
    /// Tells the caller what came of it. One who has gone needs no answer.
    pub fn answer(self, result: Result<ReloadReport, String>) {
        let _ = self.answer.send(result);
    }
}

impl ReloadRequests {
    /// The next caller; for ever while there is none. Cancel-safe.
    pub async fn next(&mut self) -> ReloadRequest {
        match self.requests.recv().await {
            Some(request) => request,
            // Others take the requests now.
            None => std::future::pending().await,
        }
    }
}

impl Host {
    /// Has the daemon read its configuration, certificates and token again. All of it is in force
    /// afterwards, or, on error, nothing: the text says each reason on its own line.
    ///
    /// Dropped, it abandons the answer and not the reload.
    pub async fn reload(&self) -> Result<ReloadReport, String> {
        let unable = || "this daemon does not read its files again now".to_owned();
        let sender = lock(&self.reloads().sender).clone().ok_or_else(unable)?;
        let (answer, answered) = oneshot::channel();
        sender.send(ReloadRequest { answer }).await.map_err(|_| unable())?;
        answered.await.unwrap_or_else(|_| Err(unable()))
    }

    /// Takes the requests of callers from now on, in place of whoever has taken them before.
    pub fn reload_requests(&self) -> ReloadRequests {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        *lock(&self.reloads().sender) = Some(sender);
        ReloadRequests { requests }
    }

    /// Why the files as they are now are not in force, if they are not.
    pub fn reload_refused(&self) -> Option<String> {
        lock(&self.reloads().refused).clone()
    }

    /// Says why the files as they are now are not in force, or that they are.
    pub fn set_reload_refused(&self, refused: Option<String>) {
        *lock(&self.reloads().refused) = refused;
    }
}

/// What is locked is replaced as a whole, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
