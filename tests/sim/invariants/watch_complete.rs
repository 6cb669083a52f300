//! A watch delivers every event once, whole revisions in order, or says that it cannot (W1 to W6);
//! a stream that is resumed elsewhere goes on where it ended (W5).

use bytes::Bytes;
use quorumd::base::Revision;
use quorumd::replica::View;
use quorumd::state::{Event, StateMachine};
use quorumd::watch::{Cursor, Delivery, Filter, WatchEnd, WatchRequest};

use super::state_agrees::StateAgrees;

/// One watcher, which may move from node to node.
#[derive(Debug)]
pub struct Watcher {
    prefix: Bytes,
    initial: bool,
    cursor: Option<Cursor>,
    /// Everything up to here was delivered; nothing was while it is `None`.
    position: Option<Revision>,
    /// Nothing before this is wanted; it may lie in the future (W7).
    begin: Revision,
    /// It reads so many times less often than it could.
    pub pace: u64,
    /// How many revisions were delivered.
    pub delivered: u64,
    /// How often it was told that it cannot be sent everything.
    pub refused: u64,
}

impl Watcher {
    /// A watcher without a stream.
    pub fn new(prefix: &[u8], initial: bool) -> Self {
        let prefix = Bytes::copy_from_slice(prefix);
        Self {
            prefix,
            initial,
            cursor: None,
            position: None,
            begin: Revision(0),
            pace: 1,
            delivered: 0,
            refused: 0,
        }
    }

    /// One that asks for a revision to begin with, or for none if that is zero.
    pub fn begin_at(self, begin: u64) -> Self {
        let begin = if self.initial || begin < 20 { Revision(0) } else { Revision(begin) };
        Self { begin, ..self }
    }

    /// One that is slow.
    pub fn slower(self, pace: u64) -> Self {
        Self { pace, ..self }
    }

    /// Its node is gone.
    pub fn disconnected(&mut self) {
        self.cursor = None;
    }

    /// Opens a stream where the last one ended.
    fn open(&mut self, view: &View) {
        let request = WatchRequest {
            filter: Filter::Prefix(self.prefix.clone()),
            from: match self.position {
                Some(position) => Some(position.next()).filter(|_| !self.initial),
                None => Some(self.begin).filter(|begin| *begin > Revision(0)),
            },
            initial: self.initial,
            previous: false,
            resume_after: self.position.filter(|_| self.initial),
            epoch: None,
        };
        match Cursor::open(request, &view.history, &view.machine) {
            Ok(cursor) => self.cursor = Some(cursor),
            Err(_) => self.compacted(&view.machine, view.history.floor()),
        }
    }

    fn compacted(&mut self, machine: &StateMachine, floor: Revision) {
        let gone = machine.compact_revision().max(floor);
        let position = self.position.unwrap_or_default();
        let position = position.max(self.begin.previous());
        crate::ensure!(
            position < gone,
            "watch_complete",
            "refused as compacted at {gone}, though it only needs what follows {position}"
        );
        (self.position, self.cursor, self.begin) = (None, None, Revision(0));
        self.refused += 1;
    }

    /// Takes up to `most` deliveries of this node.
    pub fn read(&mut self, view: &View, truth: &StateAgrees, most: usize) {
        if self.cursor.is_none() {
            self.open(view);
        }
        for _ in 0..most {
            let Some(cursor) = &mut self.cursor else { return };
            let delivery = cursor.next(&view.history, &view.machine, 200);
            match delivery {
                Delivery::Changes { events, selection } => {
                    self.changes(truth, events.revision, selection.events(&events));
                }
                Delivery::Ended(WatchEnd::Compacted { .. } | WatchEnd::Lagged { .. }) => {
                    self.compacted(&view.machine, view.history.floor());
                }
                Delivery::Idle => {
                    if let Some(position) = cursor.progress() {
                        self.skips_nothing(truth, position.next());
                        self.position = Some(position);
                    }
                    return;
                }
                Delivery::Resync { .. } => {
                    crate::ensure!(self.initial, "watch_complete", "a resync without a snapshot");
                    self.refused += 1;
                    self.position = None;
                }
                Delivery::Snapshot { revision, records, .. } => {
                    for record in &records {
                        let (value, _) = truth.value_at(&record.key, revision);
                        crate::ensure!(
                            value == Some(&record.value[..]),
                            "watch_complete",
                            "the snapshot at {revision} shows {record:?}, not {value:?}"
                        );
                    }
                }
                Delivery::Synced { revision } => {
                    self.skips_nothing(truth, revision.next());
                    self.position = Some(revision);
                }
            }
        }
    }

    /// Nothing under the prefix lies between what was delivered and `next`.
    fn skips_nothing(&self, truth: &StateAgrees, next: Revision) {
        let Some(position) = self.position else { return };
        if next <= position.next() {
            return;
        }
        for (revision, events) in truth.events().range(position.next()..next) {
            let missed = events.events.iter().find(|e| e.record.key.starts_with(&self.prefix));
            crate::ensure!(
                missed.is_none(),
                "watch_complete",
                "{revision} was not delivered between {position} and {next}: {missed:?}"
            );
        }
    }

    fn changes<'a>(
        &mut self,
        truth: &StateAgrees,
        revision: Revision,
        events: impl Iterator<Item = &'a Event>,
    ) {
        crate::ensure!(
            revision >= self.begin,
            "watch_future_start",
            "{revision} was delivered, asked for was {}",
            self.begin
        );
        crate::ensure!(
            self.position.is_none_or(|position| position < revision),
            "watch_complete",
            "{revision} was delivered after {:?}",
            self.position
        );
        self.skips_nothing(truth, revision);
        let committed = truth.events().get(&revision).map(|e| e.events.as_slice());
        let committed = committed.unwrap_or_default().iter();
        let expected: Vec<&Event> =
            committed.filter(|event| event.record.key.starts_with(&self.prefix)).collect();
        let found: Vec<&Event> = events.collect();
        crate::ensure!(
            found == expected,
            "watch_complete",
            "{revision} was delivered as {found:?}, it is {expected:?}"
        );
        self.position = Some(revision);
        self.delivered += 1;
    }

    /// At the end nothing is missing.
    pub fn check_end(&self, truth: &StateAgrees) {
        let newest = truth.machine().revision();
        crate::ensure!(
            self.position == Some(newest) || self.position.is_none() && self.begin > newest,
            "watch_complete",
            "a watcher stands at {:?}, the store at {}",
            self.position,
            truth.machine().revision()
        );
    }
}
