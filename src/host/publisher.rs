//! Keeps keys equal to the files of one directory: when it is looked at, and what is written.
//!
//! - A file is published when two looks have found it the same: who writes in place is not read
//!   half-way.
//! - A directory that cannot be read, or is suddenly another and empty, deletes nothing.
//! - What is about to be written is noted before, and what was written after: a crash between the
//!   two makes nobody else's of a key that is ours.
//!
//! Which key is written is decided in `publish_rule.rs`, what is a file that can be published in
//! `published_directory.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use crate::base::{Revision, Span, limits};
use crate::host::FileWatch;
use crate::node::{Node, Topic};
use crate::replica::RequestError;
use crate::state::{
    Compare, CompareField, CompareOp, IdempotencyKey, Operation, Outcome, Selection, Txn,
    TxnOperation,
};
use crate::watch::Filter;

use super::file_status::{Board, FileState, PublishStatus, now};
use super::files_options::{OnConflictOptions, PublishedOptions};
use super::host_tasks::{Stop, blocking};
use super::key_interest::KeyInterest;
use super::publish_rule::{Guard, Hash, KeyNow, Verdict, Written, judge, was_contested};
use super::published_directory::{PublishedDirectory, Skipped, Stamp, hash};
use super::standing;
use super::state_file::StateFile;

/// After a failure, or a dispute about a key, it is tried again after this, and after twice as long
/// each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// No longer than this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Between two looks at files that were just written.
const SETTLE_MIN: Duration = Duration::from_millis(200);
/// The same for files that are written on and on.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// How often the directory is looked at without an occasion.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Least time between two looks.
const SPACING: Duration = Duration::from_millis(50);
/// How long a write may take.
const WRITE_TIMEOUT: Span = Span::from_secs(10);
/// How often a write whose fate is not known is asked for again under its idempotency key.
const ATTEMPTS_MAX: usize = 3;

/// One directory and what is said about it.
pub(super) struct Publisher {
    node: Node,
    entry: Arc<PublishedOptions>,
    memory: StateFile,
    board: Arc<Board<PublishStatus>>,
    stop: Stop,
    ledger: Ledger,
    /// Hashes of files that are known, by name, with the stamp that they were read under.
    known: BTreeMap<String, (Stamp, Hash)>,
    /// Stamps of files that were seen once.
    seen: BTreeMap<String, Stamp>,
}

/// What outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ledger {
    cluster: String,
    prefix: String,
    /// Which directory it was.
    directory: Option<(u64, u64)>,
    files: BTreeMap<String, Written>,
}

/// What one look has led to.
struct Look {
    revision: Revision,
    keys: u64,
    skipped: Skipped,
    /// Files that are not settled yet.
    unsettled: usize,
    /// Keys that somebody else had changed and that were set back.
    contested: usize,
    /// A write was refused because a key had changed meanwhile.
    again: bool,
}

/// Why there was no look, or not to its end.
enum Trouble {
    Failed(String),
    Waits(String),
}

/// One write that has to be done.
struct Write {
    name: String,
    guard: Guard,
    /// The file with its hash; nothing: delete the key.
    put: Option<(Stamp, Hash)>,
}

impl Publisher {
    /// The task of an entry, and where it says how the directory stands.
    pub(super) fn new(
        node: &Node,
        name: &str,
        entry: &PublishedOptions,
        memory: StateFile,
        stop: Stop,
    ) -> (Self, Arc<Board<PublishStatus>>) {
        let board = Arc::new(Board::new(PublishStatus {
            name: name.to_owned(),
            directory: entry.directory.clone(),
            prefix: entry.prefix.clone(),
            state: FileState::Waiting,
            keys: 0,
            revision: None,
            reason: Some("not looked at yet".to_owned()),
            skipped: Vec::new(),
            skipped_count: 0,
            since: now(),
        }));
        let publisher = Self {
            node: node.clone(),
            entry: Arc::new(entry.clone()),
            memory,
            board: Arc::clone(&board),
            stop,
            ledger: Ledger::default(),
            known: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        (publisher, board)
    }

    /// Follows the directory until it is told to stop.
    pub(super) async fn follow(mut self) {
        let memory = self.memory.clone();
        self.ledger = blocking(move || memory.load()).await.unwrap_or_default();
        let prefix = Bytes::copy_from_slice(self.entry.prefix.as_bytes());
        let mut interest = KeyInterest::new(&self.node, vec![Filter::Prefix(prefix)]);
        let mut watch = FileWatch::new(std::slice::from_ref(&self.entry.directory))
            .map_err(|error| tracing::warn!(%error, "a directory cannot be watched"))
            .ok();
        let mut status = self.node.follow(Topic::Status);
        let (mut retry, mut settle) = (RETRY_MIN, SETTLE_MIN);
        let mut stop = self.stop.clone();
        loop {
            let begun = Instant::now();
            interest.forget();
            let obstacle = standing::obstacle(&self.node);
            let result = tokio::select! {
                () = stop.requested() => return,
                result = self.look(obstacle.as_deref()) => result,
            };
            let (pause, least) = match &result {
                Ok(look) if look.contested > 0 => {
                    retry = (retry * 2).min(RETRY_MAX);
                    (retry, retry)
                }
                Ok(look) if look.again => (SPACING, SPACING),
                Ok(look) if look.unsettled > 0 => {
                    settle = (settle * 2).min(SETTLE_MAX);
                    (settle / 2, SPACING)
                }
                Err(Trouble::Failed(_)) => {
                    retry = (retry * 2).min(RETRY_MAX);
                    (retry / 2, SPACING)
                }
                Ok(_) | Err(Trouble::Waits(_)) => {
                    (retry, settle) = (RETRY_MIN, SETTLE_MIN);
                    (LOOK_AGAIN, SPACING)
                }
            };
            self.tell(result);
            tokio::select! {
                () = stop.requested() => return,
                () = interest.changed() => {}
                () = changed(&mut watch) => {}
                () = standing::changed(&self.node, &obstacle, &mut status) => {}
                () = sleep(pause) => {}
            }
            tokio::select! {
                () = stop.requested() => return,
                () = sleep_until(begun + least) => {}
            }
        }
    }

    /// Compares everything, and writes what differs.
    async fn look(&mut self, obstacle: Option<&str>) -> Result<Look, Trouble> {
        if let Some(obstacle) = obstacle {
            return Err(Trouble::Waits(obstacle.to_owned()));
        }
        let entry = Arc::clone(&self.entry);
        let listed =
            blocking(move || PublishedDirectory::list(&entry.directory, entry.file_bytes_max));
        let directory = listed
            .await
            .map_err(|error| Trouble::Failed(format!("{error}; its keys stay as they are")))?;
        let directory = Arc::new(directory);
        self.check_ledger(&directory)?;
        let (unsettled, mut skipped) = self.read_settled(&directory).await;
        let (writes, mut look) = self.judge_all(&directory, &mut skipped)?;
        look.unsettled = unsettled.len();
        if !writes.is_empty() {
            self.note_intents(&writes).await?;
            let written = self.write_all(&directory, writes, &mut look).await;
            self.save().await?;
            written?;
        } else if self.ledger.directory != Some(directory.identity) {
            self.ledger.directory = Some(directory.identity);
            self.save().await?;
        }
        for name in unsettled {
            skipped.add(&name, "is still being written");
        }
        look.skipped = skipped;
        Ok(look)
    }

    /// Forgets what was written elsewhere, and refuses to take an empty place for an emptied one.
    fn check_ledger(&mut self, directory: &PublishedDirectory) -> Result<(), Trouble> {
        let cluster = self.node.status().replica.cluster.to_string();
        if (&self.ledger.cluster, &self.ledger.prefix) != (&cluster, &self.entry.prefix) {
            let prefix = self.entry.prefix.clone();
            self.ledger = Ledger { cluster, prefix, ..Ledger::default() };
        }
        let empty = directory.files.is_empty() && directory.present.is_empty();
        let other = self.ledger.directory.is_some_and(|known| known != directory.identity);
        if empty && other && !self.ledger.files.is_empty() {
            return Err(Trouble::Failed(format!(
                "{} is empty and not the directory that it was, as if something were not mounted: \
                 its keys stay as they are",
                self.entry.directory.display()
            )));
        }
        Ok(())
    }

    /// Reads the files that were found the same twice. The names of those that were not, and what
    /// cannot be read.
    async fn read_settled(
        &mut self,
        directory: &Arc<PublishedDirectory>,
    ) -> (Vec<String>, Skipped) {
        let mut skipped = directory.skipped.clone();
        self.known.retain(|name, (stamp, _)| directory.files.get(name) == Some(stamp));
        let unknown = directory.files.iter().filter(|(name, _)| !self.known.contains_key(*name));
        let (settled, unsettled): (Vec<_>, Vec<_>) =
            unknown.partition(|(name, stamp)| self.seen.get(*name) == Some(*stamp));
        let settled: Vec<(String, Stamp)> =
            settled.into_iter().map(|(name, stamp)| (name.clone(), *stamp)).collect();
        self.seen = unsettled.iter().map(|(name, stamp)| ((*name).clone(), **stamp)).collect();
        let mut unsettled: Vec<String> = self.seen.keys().cloned().collect();
        for part in settled.chunks(limits::TXN_OPERATIONS_MAX) {
            let (part, directory) = (part.to_vec(), Arc::clone(directory));
            let read = blocking(move || {
                let read = |(name, stamp): (String, Stamp)| {
                    let hashed = directory.read(&name, stamp).map(|it| it.map(|it| hash(&it)));
                    (name, stamp, hashed)
                };
                part.into_iter().map(read).collect::<Vec<_>>()
            });
            for (name, stamp, hashed) in read.await {
                match hashed {
                    Ok(Some(hash)) => drop(self.known.insert(name, (stamp, hash))),
                    Ok(None) => unsettled.push(name),
                    Err(error) => skipped.add(&name, &error),
                }
            }
        }
        (unsettled, skipped)
    }

    /// What has to be written. Names that are there and not known are left alone.
    fn judge_all(
        &mut self,
        directory: &PublishedDirectory,
        skipped: &mut Skipped,
    ) -> Result<(Vec<Write>, Look), Trouble> {
        let entry = Arc::clone(&self.entry);
        let is_there =
            |name: &String| directory.files.contains_key(name) || directory.present.contains(name);
        let vanished = self.ledger.files.keys().filter(|name| !is_there(name));
        let names: BTreeSet<String> = self.known.keys().chain(vanished).cloned().collect();
        let names: Vec<String> = names.into_iter().collect();
        let mut writes = Vec::new();
        let mut look = Look {
            revision: Revision(0),
            keys: 0,
            skipped: Skipped::default(),
            unsettled: 0,
            contested: 0,
            again: false,
        };
        for part in names.chunks(limits::TXN_OPERATIONS_MAX) {
            for (name, key) in self.keys_now(part, &mut look)? {
                let file = self.known.get(&name).map(|(_, hash)| hash);
                let written = self.ledger.files.get(&name);
                let verdict =
                    judge(entry.on_conflict, entry.on_vanish, file, written, key.as_ref());
                let contested = file.is_some_and(|it| was_contested(it, written, key.as_ref()));
                let put = self.known.get(&name).cloned();
                match verdict {
                    Verdict::Put(guard) => {
                        if contested && entry.on_conflict == OnConflictOptions::FileWins {
                            look.contested += 1;
                            skipped.add(&name, "was changed by somebody else and is set back");
                        }
                        writes.push(Write { name, guard, put });
                    }
                    Verdict::Delete(guard) => writes.push(Write { name, guard, put: None }),
                    Verdict::Conflict => {
                        skipped.add(&name, "somebody else has changed the key, which is kept");
                    }
                    Verdict::Forget => drop(self.ledger.files.remove(&name)),
                    Verdict::Same { ours } => {
                        look.keys += 1;
                        if let (true, Some((_, hash)), Some(key)) = (ours, put, key) {
                            self.ledger.wrote(&name, hash, key.revision);
                        }
                    }
                    Verdict::Stays => {}
                }
            }
        }
        Ok((writes, look))
    }

    /// The keys of some files as the store has them, all at one revision.
    fn keys_now(
        &self,
        names: &[String],
        look: &mut Look,
    ) -> Result<Vec<(String, Option<KeyNow>)>, Trouble> {
        let records = {
            let view = self.node.view();
            if view.fence.is_some() || view.removed.is_some() {
                return Err(Trouble::Waits("the state of this node is not served".to_owned()));
            }
            look.revision = view.machine.revision();
            let record = |name: &String| view.machine.get(self.key(name).as_ref(), None);
            names.iter().map(record).collect::<Vec<_>>()
        };
        let mut keys = Vec::new();
        for (name, record) in names.iter().zip(records) {
            let record = record.map_err(|error| Trouble::Failed(error.to_string()))?;
            let key = record.map(|record| {
                let noted = self.ledger.files.get(name);
                let noted = noted.filter(|it| it.revision == record.mod_revision.get());
                // What a revision wrote does not change.
                let hash = noted.map_or_else(|| hash(&record.value), |noted| noted.hash.clone());
                KeyNow { hash, revision: record.mod_revision }
            });
            keys.push((name.clone(), key));
        }
        Ok(keys)
    }

    async fn note_intents(&mut self, writes: &[Write]) -> Result<(), Trouble> {
        for write in writes {
            if let Some((_, hash)) = &write.put {
                let noted = self.ledger.files.entry(write.name.clone()).or_default();
                noted.next = Some(hash.clone());
            }
        }
        self.save().await
    }

    async fn write_all(
        &mut self,
        directory: &Arc<PublishedDirectory>,
        writes: Vec<Write>,
        look: &mut Look,
    ) -> Result<(), Trouble> {
        let mut writes = writes.into_iter().peekable();
        while writes.peek().is_some() {
            let (mut txn, mut batch, mut bytes) = (Txn::default(), Vec::new(), 0);
            while let Some(write) = writes.peek() {
                let operation = match &write.put {
                    None => TxnOperation::Delete(Selection::Key(self.key(&write.name))),
                    Some((stamp, hashed)) => {
                        match read_again(directory, &write.name, *stamp, hashed).await? {
                            Some(value) => self.put(&write.name, value),
                            None => {
                                // It changes again: the next look sees what it has become.
                                look.unsettled += 1;
                                writes.next();
                                continue;
                            }
                        }
                    }
                };
                let size = match &operation {
                    TxnOperation::Put { value, .. } => value.len(),
                    _ => 0,
                };
                if !batch.is_empty() && bytes + size > limits::PUBLISH_BATCH_BYTES {
                    break;
                }
                bytes += size;
                if let Guard::At(revision) = write.guard {
                    let field = CompareField::ModRevision(revision);
                    txn.compares.push(Compare {
                        key: self.key(&write.name),
                        field,
                        op: CompareOp::Equal,
                    });
                }
                txn.then.push(operation);
                batch.extend(writes.next());
                if batch.len() >= limits::TXN_OPERATIONS_MAX {
                    break;
                }
            }
            if !batch.is_empty() {
                self.submit(txn, batch, look).await?;
            }
        }
        Ok(())
    }

    async fn submit(
        &mut self,
        txn: Txn,
        batch: Vec<Write>,
        look: &mut Look,
    ) -> Result<(), Trouble> {
        let failed = |error: String| Trouble::Failed(format!("keys cannot be written: {error}"));
        let idempotency = IdempotencyKey {
            uid: rustix::process::geteuid().as_raw(),
            key: format!(
                "publish-{}",
                super::target_file::random_digits().map_err(|it| failed(it.to_string()))?
            ),
        };
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            let operation = Operation::Txn(txn.clone());
            match self.node.submit(operation, Some(idempotency.clone()), WRITE_TIMEOUT).await {
                Err(RequestError::OutcomeUnknown) if attempts < ATTEMPTS_MAX => {}
                result => break result.map_err(|error| failed(error.to_string()))?,
            }
        };
        match outcome {
            Outcome::Txn { succeeded: true, revision, .. } => {
                look.revision = look.revision.max(revision);
                for write in batch {
                    match write.put {
                        Some((_, hash)) => {
                            look.keys += 1;
                            self.ledger.wrote(&write.name, hash, revision);
                        }
                        None => drop(self.ledger.files.remove(&write.name)),
                    }
                }
                Ok(())
            }
            Outcome::Txn { succeeded: false, .. } => {
                look.again = true;
                Ok(())
            }
            other => Err(failed(format!("{other:?}"))),
        }
    }

    async fn save(&self) -> Result<(), Trouble> {
        let (memory, ledger) = (self.memory.clone(), self.ledger.clone());
        blocking(move || memory.save(&ledger)).await.map_err(Trouble::Failed)
    }

    fn key(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}{name}", self.entry.prefix))
    }

    fn put(&self, name: &str, value: Vec<u8>) -> TxnOperation {
        TxnOperation::Put { key: self.key(name), value: value.into(), lease: None }
    }

    fn tell(&self, result: Result<Look, Trouble>) {
        let written = !self.ledger.files.is_empty();
        let (state, look, reason) = match result {
            Ok(look) => (FileState::Current, Some(look), None),
            Err(Trouble::Failed(reason)) => (FileState::Failed, None, Some(reason)),
            Err(Trouble::Waits(reason)) if written => (FileState::Stale, None, Some(reason)),
            Err(Trouble::Waits(reason)) => (FileState::Waiting, None, Some(reason)),
        };
        let (news, name) = self.board.change(|status| {
            let news = (status.state, &status.reason) != (state, &reason);
            if status.state != state {
                status.since = now();
            }
            status.state = state;
            status.reason = reason.clone();
            if let Some(look) = look {
                status.revision = Some(look.revision);
                status.keys = look.keys;
                status.skipped = look.skipped.named;
                status.skipped_count = look.skipped.count;
            }
            (news, status.name.clone())
        });
        if let (true, Some(reason)) = (news, reason) {
            tracing::warn!(publish = name, "not published: {reason}");
        }
    }
}

impl Ledger {
    fn wrote(&mut self, name: &str, hash: Hash, revision: Revision) {
        let written = Written { hash, revision: revision.get(), next: None };
        self.files.insert(name.to_owned(), written);
    }
}

/// The content of a file whose hash is known, if it is still the same.
async fn read_again(
    directory: &Arc<PublishedDirectory>,
    name: &str,
    stamp: Stamp,
    hashed: &Hash,
) -> Result<Option<Vec<u8>>, Trouble> {
    let (directory, name) = (Arc::clone(directory), name.to_owned());
    let content = blocking(move || directory.read(&name, stamp)).await.map_err(Trouble::Failed)?;
    Ok(content.filter(|content| hash(content) == *hashed))
}

async fn changed(watch: &mut Option<FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
