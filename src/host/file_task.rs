//! Keeps one file equal to its keys: when it is rendered, when it is replaced, and when a program
//! is told.
//!
//! - The file is only ever made of a state that was fit to be read, and never of one older than
//!   that it was made of last, before a restart too.
//! - What replaces it has passed the check. Whatever fails leaves it as it was.
//! - A reload that is due is remembered before the file changes, and forgotten after it succeeded:
//!   a crash between the two repeats it.
//!
//! How a file is replaced is in `target_file.rs`, what it holds in `file_content.rs`.

use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use crate::base::{Revision, limits};
use crate::host::FileWatch;
use crate::node::{Node, Topic};

use super::file_content::{self, Content, NoContent};
use super::file_inputs::{Inputs, Wanted};
use super::file_status::{Board, FileState, FileStatus, now};
use super::files_options::{CommandOptions, ContentOptions, FileOptions, TemplateOptions};
use super::helper_command;
use super::host_tasks::{Stop, blocking};
use super::key_interest::KeyInterest;
use super::ownership::Ownership;
use super::standing;
use super::state_file::StateFile;
use super::target_file::{FileError, Found, Place, Staged};

/// After a failure it is tried again after this, and after twice as long each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// No longer than this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often the file is looked at without an occasion: somebody else may have changed it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// One file and what is said about it.
pub(super) struct FileTask {
    node: Node,
    entry: Arc<FileOptions>,
    wanted: Wanted,
    memory: StateFile,
    board: Arc<Board<FileStatus>>,
    stop: Stop,
    record: Option<Record>,
    swept: bool,
}

/// What outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    cluster: String,
    epoch: u64,
    /// The revision of the store that the file was made of.
    revision: u64,
    /// Of the file that was written, or was about to be.
    fingerprint: String,
    /// Fingerprints of files whose reload was not done: of the one that is there, at most, and of
    /// the one that was about to be written.
    reload_due: Vec<String>,
}

/// Why the file is not current.
enum Trouble {
    /// Something went wrong.
    Failed(String),
    /// The task should end.
    Stopped,
    /// Something is not there yet, or not now.
    Waits(String),
}

/// What has to be done to a file.
enum Step {
    Nothing,
    Remove(Place),
    Replace(Staged),
}

impl FileTask {
    /// The task of an entry, and where it says how the file stands.
    pub(super) fn new(
        node: &Node,
        name: &str,
        entry: &FileOptions,
        memory: StateFile,
        stop: Stop,
    ) -> (Self, Arc<Board<FileStatus>>) {
        let board = Arc::new(Board::new(FileStatus {
            name: name.to_owned(),
            path: entry.path(),
            state: FileState::Waiting,
            revision: None,
            reason: Some("not looked at yet".to_owned()),
            since: now(),
        }));
        let task = Self {
            node: node.clone(),
            entry: Arc::new(entry.clone()),
            wanted: Wanted::of(entry),
            memory,
            board: Arc::clone(&board),
            stop,
            record: None,
            swept: false,
        };
        (task, board)
    }

    /// Follows the keys until it is told to stop.
    pub(super) async fn follow(mut self) {
        let memory = self.memory.clone();
        self.record = blocking(move || memory.load()).await;
        let mut interest = KeyInterest::new(&self.node, self.wanted.filters());
        let mut template = TemplateWatch::new(&self.entry);
        let mut status = self.node.follow(Topic::Status);
        let mut retry = RETRY_MIN;
        loop {
            let begun = Instant::now();
            interest.forget();
            let obstacle = standing::obstacle(&self.node);
            let result = self.turn(obstacle.as_deref()).await;
            let pause = match &result {
                Err(Trouble::Stopped) => return,
                Err(Trouble::Failed(_)) => retry,
                Err(Trouble::Waits(_)) | Ok(_) => LOOK_AGAIN,
            };
            self.tell(result);
            tokio::select! {
                () = self.stop.requested() => return,
                () = interest.changed() => retry = RETRY_MIN,
                () = template.changed() => retry = RETRY_MIN,
                () = standing::changed(&self.node, &obstacle, &mut status) => retry = RETRY_MIN,
                () = sleep(pause) => retry = (retry * 2).min(RETRY_MAX),
            }
            let least = Duration::from_micros(self.entry.min_interval.as_micros());
            tokio::select! {
                () = self.stop.requested() => return,
                () = sleep_until(begun + least) => {}
            }
        }
    }

    /// Makes the file what its keys say now. The revision that it agrees with then.
    async fn turn(&mut self, obstacle: Option<&str>) -> Result<Revision, Trouble> {
        if let Some(obstacle) = obstacle {
            return Err(Trouble::Waits(obstacle.to_owned()));
        }
        let inputs = Inputs::collect(&self.node, &self.wanted).map_err(Trouble::Failed)?;
        if let Some(newer) = self.record.as_ref().filter(|record| record.is_newer_than(&inputs)) {
            return Err(Trouble::Waits(format!(
                "the state of this node (revision {}) is older than that which the file was made \
                 of (revision {})",
                inputs.revision, newer.revision
            )));
        }
        let inputs = Arc::new(inputs);
        let (entry, given, sweep) = (Arc::clone(&self.entry), Arc::clone(&inputs), !self.swept);
        let planned = blocking(move || {
            let content = file_content::make(&entry, &given).map_err(|none| match none {
                NoContent::Bad(text) => Trouble::Failed(text),
                NoContent::Missing(text) => Trouble::Waits(text),
            });
            plan(&entry, content?, sweep).map_err(|error| Trouble::Failed(error.to_string()))
        });
        let (step, there, fingerprint) = planned.await?;
        self.swept = true;
        match step {
            Step::Nothing => {
                let known = self.record.as_ref();
                if known.is_none_or(|record| record.fingerprint != fingerprint) {
                    let due = known.is_some_and(|record| record.reload_due.contains(&fingerprint));
                    self.remember(&inputs, &fingerprint, due.then(|| fingerprint.clone())).await?;
                }
            }
            Step::Replace(staged) => {
                if let Some(check) = self.entry.check.clone() {
                    let next = staged.path();
                    self.command(&check, "the check", Some(&next)).await?;
                }
                self.announce(&inputs, &there, &fingerprint).await?;
                blocking(move || staged.replace()).await.map_err(failed)?;
                tracing::info!(path = %self.entry.path().display(), "written");
            }
            Step::Remove(place) => {
                self.announce(&inputs, &there, &fingerprint).await?;
                blocking(move || place.remove()).await.map_err(failed)?;
                tracing::info!(path = %self.entry.path().display(), "removed");
            }
        }
        self.reload(&inputs, &fingerprint).await?;
        Ok(inputs.revision)
    }

    /// Remembers that the file is about to change, and that a reload will be due.
    async fn announce(&mut self, inputs: &Inputs, there: &str, next: &str) -> Result<(), Trouble> {
        let earlier =
            self.record.as_ref().filter(|it| it.reload_due.iter().any(|due| due == there));
        let due = earlier.map(|_| there.to_owned()).into_iter();
        let due = due.chain(self.entry.reload.is_some().then(|| next.to_owned()));
        let due: Vec<String> = due.collect();
        self.remember(inputs, next, due).await
    }

    /// Tells the program that uses the file, if that is due.
    async fn reload(&mut self, inputs: &Inputs, fingerprint: &str) -> Result<(), Trouble> {
        let Some(reload) = self.entry.reload.clone() else { return Ok(()) };
        let due = |record: &Record| record.reload_due.iter().any(|due| due == fingerprint);
        if !self.record.as_ref().is_some_and(due) {
            return Ok(());
        }
        self.command(&reload, "the reload", None).await?;
        self.remember(inputs, fingerprint, None).await
    }

    async fn command(
        &mut self,
        options: &CommandOptions,
        what: &str,
        next: Option<&std::path::Path>,
    ) -> Result<(), Trouble> {
        let path = self.entry.path();
        tokio::select! {
            () = self.stop.requested() => Err(Trouble::Stopped),
            ended = helper_command::run(options, &path, next) => {
                ended.map_err(|error| Trouble::Failed(format!("{what} failed: {error}")))
            }
        }
    }

    async fn remember(
        &mut self,
        inputs: &Inputs,
        fingerprint: &str,
        reload_due: impl IntoIterator<Item = String>,
    ) -> Result<(), Trouble> {
        let record = Record {
            cluster: inputs.cluster.to_string(),
            epoch: inputs.epoch.get(),
            revision: inputs.revision.get(),
            fingerprint: fingerprint.to_owned(),
            reload_due: reload_due.into_iter().collect(),
        };
        let (memory, copy) = (self.memory.clone(), record.clone());
        blocking(move || memory.save(&copy)).await.map_err(Trouble::Failed)?;
        self.record = Some(record);
        Ok(())
    }

    /// Puts the result where others see it, and in the log when it is news.
    fn tell(&self, result: Result<Revision, Trouble>) {
        let written = self.record.is_some();
        let (state, revision, reason) = match result {
            Ok(revision) => (FileState::Current, Some(revision), None),
            Err(Trouble::Failed(reason)) => (FileState::Failed, None, Some(reason)),
            Err(Trouble::Waits(reason)) if written => (FileState::Stale, None, Some(reason)),
            Err(Trouble::Waits(reason)) => (FileState::Waiting, None, Some(reason)),
            Err(Trouble::Stopped) => return,
        };
        let (news, name) = self.board.change(|status| {
            let news = (status.state, &status.reason) != (state, &reason);
            if status.state != state {
                status.since = now();
            }
            status.state = state;
            status.revision = revision.or(status.revision);
            status.reason = reason.clone();
            (news, status.name.clone())
        });
        if let (true, Some(reason)) = (news, reason) {
            tracing::warn!(file = name, "not rendered: {reason}");
        }
    }
}

impl Record {
    fn is_newer_than(&self, inputs: &Inputs) -> bool {
        let state = (inputs.epoch.get(), inputs.revision.get());
        self.cluster == inputs.cluster.to_string() && (self.epoch, self.revision) > state
    }
}

/// Compares a file with what it should be. What has to be done, the fingerprint of what is there,
/// and that of what will be. Blocks.
fn plan(
    entry: &FileOptions,
    content: Content,
    sweep: bool,
) -> Result<(Step, String, String), FileError> {
    let ownership = Ownership::find(entry)?;
    let place = Place::open(&entry.directory, &entry.beneath, &ownership)?;
    if sweep {
        place.sweep()?;
    }
    let found = place.found()?;
    let there = fingerprint(found.as_ref());
    let wanted = match content {
        Content::Bytes(content) => Some(Found { content, ownership }),
        Content::None => None,
    };
    let next = fingerprint(wanted.as_ref());
    let step = match wanted {
        _ if there == next => Step::Nothing,
        Some(wanted) => Step::Replace(Arc::new(place).stage(&wanted.content, &wanted.ownership)?),
        None => Step::Remove(place),
    };
    Ok((step, there, next))
}

/// Two files with the same fingerprint have the same content, owner and mode.
fn fingerprint(file: Option<&Found>) -> String {
    let Some(Found { content, ownership }) = file else { return "absent".to_owned() };
    if content.len() > limits::RENDERED_BYTES_MAX {
        return "too long".to_owned();
    }
    let hash = digest(&SHA256, content);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hash} {}:{} {:o}", ownership.uid, ownership.gid, ownership.mode)
}

fn failed(error: FileError) -> Trouble {
    Trouble::Failed(error.to_string())
}

/// Tells when a template's file may have changed.
struct TemplateWatch(Option<FileWatch>);

impl TemplateWatch {
    fn new(entry: &FileOptions) -> Self {
        let ContentOptions::Template { source: TemplateOptions::File(path), .. } = &entry.content
        else {
            return Self(None);
        };
        let watch = FileWatch::new(std::slice::from_ref(path));
        Self(watch.map_err(|error| tracing::warn!(%error, "a template cannot be watched")).ok())
    }

    async fn changed(&mut self) {
        match &mut self.0 {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }
}
