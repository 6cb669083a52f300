//! Decides how the lease that a unit runs under is kept, and what is noted of it so that somebody
//! else can wind the unit up.
//!
//! The lease is bound to no process: when `quorumctl` is killed while the unit runs, nobody else
//! may hold at once. It ends when it is revoked, after the unit has stopped, or by its time to
//! live.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::systemctl::Job;
use crate::client::{
    AcquireRequest, BootInstant, CampaignRequest, Client, Code, DurationText, Error, HeldAnswer,
    HexId, Mode, WriteOptions,
};

/// How long one attempt to get the place waits; then it is asked for again.
const WAIT: Duration = Duration::from_secs(50);
/// The lease is confirmed eight times within one time to live, within these bounds.
const CONFIRM_EVERY_MIN: Duration = Duration::from_millis(100);
const CONFIRM_EVERY_MAX: Duration = Duration::from_secs(5);
/// How long the daemon is given to confirm the end of the lease. After that it ends by itself.
const REVOKE_WITHIN: Duration = Duration::from_secs(5);
/// The file with the note, and the one for `EnvironmentFile=`.
const NOTE: &str = "held.json";
const ENVIRONMENT: &str = "environment";

/// What is to be held.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Election { name: Bytes, value: Bytes },
    Lock { name: Bytes, slots: Option<u32>, mode: Mode },
}

impl Place {
    /// Waits for it for a while.
    pub(super) async fn ask(&self, client: &Client, lease: HexId) -> Result<HeldAnswer, Error> {
        let (lease, wait) = (Some(lease), Some(DurationText(WAIT)));
        match self {
            Self::Election { name, value } => {
                let value = value.clone();
                let request = CampaignRequest { value, lease, wait, ..CampaignRequest::default() };
                client.campaign_under_lease(name, &request, WAIT).await
            }
            Self::Lock { name, slots, mode } => {
                let mode = (*mode == Mode::Shared).then_some(Mode::Shared);
                let slots = *slots;
                let request =
                    AcquireRequest { lease, wait, slots, mode, ..AcquireRequest::default() };
                client.acquire_under_lease(name, &request, WAIT).await
            }
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::Election { name, .. } | Self::Lock { name, .. } => name,
        }
    }

    /// Whether the place with this token is still held.
    async fn is_held(&self, client: &Client, token: u64) -> Result<bool, Error> {
        match self {
            Self::Election { name, .. } => {
                let view = client.election(name).await?;
                Ok(view.leader.is_some_and(|leader| leader.token == token))
            }
            Self::Lock { name, .. } => {
                let view = client.lock_view(name).await?;
                Ok(view.holders.iter().any(|holder| holder.token == token))
            }
        }
    }
}

/// How the lease stands.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Nobody else can hold before this.
    pub(super) valid_until: BootInstant,
    /// Why it is held no more.
    pub(super) lost: Option<String>,
}

/// Keeps a lease alive until it is dropped.
pub(super) struct Keeper {
    client: Client,
    lease: HexId,
    ttl: Duration,
    standing: watch::Receiver<Standing>,
    token: Arc<OnceLock<u64>>,
    task: JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// For a lease that is valid until `valid_until`. With a place, it also sees whether that is
    /// still held, from when its token is known.
    pub(super) fn new(client: &Client, note: &Note, place: Option<Place>) -> Self {
        let (lease, ttl) = (note.lease, note.ttl());
        let first = Standing { valid_until: note.valid_until(), lost: None };
        let (sender, standing) = watch::channel(first);
        let token = Arc::default();
        let task = keep(client.clone(), lease, ttl, (place, Arc::clone(&token)), sender);
        let task = tokio::spawn(task);
        Self { client: client.clone(), lease, ttl, standing, token, task }
    }

    pub(super) fn lease(&self) -> HexId {
        self.lease
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The place is held with this token.
    pub(super) fn holds(&self, token: u64) {
        // One keeper is for one place.
        let _ = self.token.set(token);
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// The next change. May be dropped at any time.
    pub(super) async fn changed(&mut self) -> Standing {
        if self.standing.changed().await.is_err() {
            // The task has said its last word.
            std::future::pending::<()>().await;
        }
        self.standing.borrow_and_update().clone()
    }

    /// Ends the lease, and with it the place. Whatever comes of it, it ends by itself.
    pub(super) async fn revoke(self) {
        let options = WriteOptions::retrying(REVOKE_WITHIN);
        let revoked = self.client.revoke_lease(self.lease, &options);
        let _ = tokio::time::timeout(REVOKE_WITHIN, revoked).await;
    }
}

async fn keep(
    client: Client,
    lease: HexId,
    ttl: Duration,
    (place, token): (Option<Place>, Arc<OnceLock<u64>>),
    standing: watch::Sender<Standing>,
) {
    let every = (ttl / 8).clamp(CONFIRM_EVERY_MIN, CONFIRM_EVERY_MAX);
    let lost = |why: String| standing.send_modify(|standing| standing.lost = Some(why));
    loop {
        // A daemon that hangs must not keep the next question from being asked.
        match tokio::time::timeout(every * 2, client.keep_alive(lease)).await {
            Ok(Ok(kept)) => standing.send_modify(|standing| {
                standing.valid_until = standing.valid_until.max(kept.valid_until);
            }),
            Ok(Err(error)) if error.code() == Some(Code::LeaseNotFound) => {
                return lost("its lease has ended".to_owned());
            }
            // Without an answer the promise runs out by itself.
            _ => {}
        }
        if let (Some(place), Some(token)) = (&place, token.get().copied()) {
            let held = tokio::time::timeout(every * 2, place.is_held(&client, token)).await;
            if let Ok(Ok(false)) = held {
                return lost("its place was released by somebody else".to_owned());
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// What whoever winds the unit up must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    job: Job,
    lease: HexId,
    ttl_ms: u64,
    /// Since the host booted.
    valid_until_us: u64,
}

impl Note {
    pub(super) fn new(job: &Job, lease: HexId, ttl: Duration, valid_until: BootInstant) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut note = Self { job: job.clone(), lease, ttl_ms, valid_until_us: 0 };
        note.promised(valid_until);
        note
    }

    pub(super) fn promised(&mut self, valid_until: BootInstant) {
        let micros = valid_until.since_boot().as_micros();
        self.valid_until_us = u64::try_from(micros).unwrap_or(u64::MAX);
    }

    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    pub(super) fn lease(&self) -> HexId {
        self.lease
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    pub(super) fn valid_until(&self) -> BootInstant {
        BootInstant::from_since_boot(Duration::from_micros(self.valid_until_us))
    }
}

/// Where the note is: a directory that does not outlive the boot, or nowhere.
#[derive(Clone, Debug)]
pub(super) struct Notebook(pub(super) Option<PathBuf>);

impl Notebook {
    /// The note of an earlier process, if there is one that can be read.
    pub(super) fn read(&self) -> io::Result<Option<Note>> {
        let Some(directory) = &self.0 else { return Ok(None) };
        match fs::read(directory.join(NOTE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, note: &Note) -> io::Result<()> {
        let Some(directory) = &self.0 else { return Ok(()) };
        replace(&directory.join(NOTE), &serde_json::to_vec(note)?)
    }

    /// For `EnvironmentFile=` of the unit: the fencing token.
    pub(super) fn write_environment(&self, lease: HexId, token: u64) -> io::Result<()> {
        let Some(directory) = &self.0 else { return Ok(()) };
        let text = format!("QUORUMD_TOKEN={token}\nQUORUMD_LEASE={lease}\n");
        replace(&directory.join(ENVIRONMENT), text.as_bytes())
    }

    pub(super) fn remove(&self) {
        if let Some(directory) = &self.0 {
            // Neither may be there; a note of what is wound up already does no harm.
            let _ = fs::remove_file(directory.join(NOTE));
            let _ = fs::remove_file(directory.join(ENVIRONMENT));
        }
    }
}

/// The old content or the new, for whoever reads it. It need not outlive the boot.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::File::create(&beside)?.write_all(content)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_is_gone_when_removed() {
        let directory = tempfile::tempdir().unwrap();
        let notebook = Notebook(Some(directory.path().to_owned()));
        assert!(notebook.read().unwrap().is_none());
        let lease: HexId = serde_json::from_str("\"1f\"").unwrap();
        let at = BootInstant::from_since_boot(Duration::from_millis(7_250));
        let job = Job::Runs("backup.service".to_owned());
        notebook.write(&Note::new(&job, lease, Duration::from_secs(15), at)).unwrap();
        notebook.write_environment(lease, 7).unwrap();
        let note = notebook.read().unwrap().expect("it was written");
        assert_eq!((note.job(), note.valid_until()), (&job, at));
        assert_eq!(note.ttl(), Duration::from_secs(15));
        let environment = fs::read_to_string(directory.path().join(ENVIRONMENT)).unwrap();
        assert_eq!(environment, "QUORUMD_TOKEN=7\nQUORUMD_LEASE=1f\n");
        notebook.remove();
        assert!(notebook.read().unwrap().is_none());
        fs::write(directory.path().join(NOTE), "{").unwrap();
        assert!(notebook.read().is_err(), "what cannot be read is not nothing");
    }
}
