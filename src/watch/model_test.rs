//! Random writes, compactions, restarts and readers against a list of everything that ever
//! happened.
//!
//! What a stream delivers must be that list under its filter, or the stream must have said that it
//! cannot be: W1 to W8 of the watch guarantees at once, for readers of any pace.

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::Config;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Epoch, Revision};
use crate::state::{EventKind, Operation, RevisionEvents};
use crate::watch::{
    Cursor, Delivery, Filter, HistoryOptions, Registry, WatchEnd, WatchError, WatchRequest,
    WatcherId,
};

use super::script_test::{Node, transaction};

const KEYS: [&str; 8] = ["B", "_q", "`", "a", "a/1", "a/2", "b", "c/1"];
const FILTERS: [(bool, &str); 8] = [
    (false, "a"),
    (false, "a/2"),
    (false, "b"),
    (false, "none"),
    (true, ""),
    (true, "_"),
    (true, "a"),
    (true, "a/"),
];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// The oldest `percent` of the readable history go.
    Compact { percent: u8 },
    /// A reader takes at most `count` messages.
    Read { reader: usize, count: usize, budget: usize },
    /// The history is made anew from the store.
    Restart,
    /// A reader begins; `from` and `resume` are relative to the present revision.
    Watch { filter: usize, from: Option<i8>, resume: Option<i8>, initial: bool },
    /// A revision; each key is put, deleted or left alone.
    Write { choices: Vec<u8> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let near = || proptest::option::weighted(0.4, -8..6_i8);
    let step = prop_oneof![
        8 => proptest::collection::vec(0..6_u8, KEYS.len())
            .prop_map(|choices| Step::Write { choices }),
        8 => (any::<usize>(), 0..6_usize, 1..40_usize)
            .prop_map(|(reader, count, budget)| Step::Read { reader, count, budget }),
        2 => (0..FILTERS.len(), near(), near(), any::<bool>())
            .prop_map(|(filter, from, resume, initial)| {
                Step::Watch { filter, from, resume, initial }
            }),
        1 => (0..=100_u8).prop_map(|percent| Step::Compact { percent }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The store as it was at every revision, and every change.
#[derive(Default)]
struct Model {
    revisions: Vec<Arc<RevisionEvents>>,
}

impl Model {
    /// What a reader of this filter must be sent of the revisions in `(after, upto]`.
    fn events(&self, filter: &Filter, after: Revision, upto: Revision) -> Vec<RevisionEvents> {
        let wanted = |revision: &&Arc<RevisionEvents>| {
            revision.revision > after && revision.revision <= upto
        };
        let part = |revision: &Arc<RevisionEvents>| RevisionEvents {
            revision: revision.revision,
            events: revision
                .events
                .iter()
                .filter(|event| filter.matches(&event.record.key))
                .cloned()
                .collect(),
        };
        let parts = self.revisions.iter().filter(wanted).map(part);
        parts.filter(|part| !part.events.is_empty()).collect()
    }

    /// Keys and values at a revision.
    fn state(&self, filter: &Filter, at: Revision) -> BTreeMap<Bytes, Bytes> {
        let mut state = BTreeMap::new();
        for revision in self.events(filter, Revision(0), at) {
            for event in revision.events {
                match event.kind {
                    EventKind::Delete => state.remove(&event.record.key),
                    EventKind::Put => state.insert(event.record.key, event.record.value),
                };
            }
        }
        state
    }
}

/// A stream as its reader sees it: from the messages alone.
struct Reader {
    filter: Filter,
    cursor: Cursor,
    /// Nothing at or before this may be sent or claimed, when the reader named a start.
    not_before: Option<Revision>,
    initial: bool,
    snapshot: Option<(Revision, BTreeMap<Bytes, Bytes>)>,
    /// What the stream last claimed or sent; nothing before the first `Synced`.
    received: Option<Revision>,
    idle: bool,
    ended: bool,
}

impl Reader {
    fn take(&mut self, delivery: Delivery, node: &Node, model: &Model) {
        let newest = node.machine.revision();
        self.idle = false;
        match delivery {
            Delivery::Changes { events, selection } => {
                let received = self.received.expect("changes came before the stream was synced");
                let wanted = model.events(&self.filter, received, newest);
                let first = wanted.first().expect("changes came though nothing had changed");
                assert_eq!(events.revision, first.revision, "another revision was due");
                let events: Vec<_> = selection.events(&events).cloned().collect();
                assert_eq!(events, first.events, "the events of {} differ", first.revision);
                self.received = Some(first.revision);
            }
            Delivery::Ended(end) => {
                assert!(!self.initial, "a stream that can be resynced ended: {end:?}");
                match (end, self.received) {
                    (WatchEnd::Lagged { last_sent }, Some(received)) => {
                        let missed = model.events(&self.filter, received, last_sent);
                        assert!(missed.is_empty(), "{last_sent} claims {missed:?}");
                        assert!(last_sent < node.history.floor(), "nothing was lost to it");
                    }
                    (WatchEnd::Compacted { .. }, None) => {}
                    (end, received) => panic!("{end:?} came after {received:?}"),
                }
                self.ended = true;
            }
            Delivery::Idle => self.idle = true,
            Delivery::Resync { revision, .. } => {
                assert!(self.initial, "a stream was resynced that cannot be");
                assert_eq!(revision, newest, "the new snapshot will be an old one");
                (self.snapshot, self.received) = (None, None);
            }
            Delivery::Snapshot { revision, records, more: _ } => {
                let (at, state) = self.snapshot.get_or_insert((revision, BTreeMap::new()));
                assert_eq!(*at, revision, "the parts of one snapshot differ in their revision");
                for record in records {
                    let again = state.insert(record.key, record.value);
                    assert!(again.is_none(), "a key was in two parts");
                }
            }
            Delivery::Synced { revision } => {
                assert!(revision <= newest, "synced at {revision}, the store is at {newest}");
                if let Some((at, state)) = self.snapshot.take() {
                    assert_eq!(at, revision, "the snapshot was of another revision");
                    assert_eq!(
                        state,
                        model.state(&self.filter, at),
                        "the snapshot at {at} differs"
                    );
                } else if let Some(bound) = self.not_before {
                    assert_eq!(revision, bound, "the stream begins at another revision");
                }
                self.received = Some(revision);
            }
        }
        self.check_claims(newest, model);
    }

    fn check_claims(&self, newest: Revision, model: &Model) {
        if self.not_before.is_some_and(|bound| newest < bound) {
            assert!(self.idle, "something was sent before its time");
            assert_eq!(self.cursor.progress(), None, "progress is claimed before its time");
        }
        if let Some(progress) = self.cursor.progress() {
            let received = self.received.expect("progress is claimed before the stream is synced");
            let missed = model.events(&self.filter, received, progress);
            assert!(missed.is_empty(), "progress {progress} claims {missed:?}");
            assert!(progress >= received, "progress {progress} is behind {received}");
            assert!(!self.idle || progress == newest, "idle at {progress} of {newest}");
        }
    }
}

struct World {
    node: Node,
    model: Model,
    readers: Vec<Reader>,
    registry: Registry,
    written: u64,
}

impl World {
    fn run(&mut self, step: &Step) {
        match step {
            Step::Compact { percent } => {
                let (from, to) =
                    (self.node.machine.compact_revision(), self.node.machine.revision());
                let revision = from.get() + (to.get() - from.get()) * u64::from(*percent) / 100;
                self.node.write(Operation::Compact { revision: Revision(revision) });
            }
            Step::Read { reader, count, budget } => {
                let count_readers = self.readers.len().max(1);
                if let Some(reader) = self.readers.get_mut(reader % count_readers) {
                    for _ in 0..*count {
                        let delivery =
                            reader.cursor.next(&self.node.history, &self.node.machine, *budget);
                        reader.take(delivery, &self.node, &self.model);
                    }
                }
            }
            Step::Restart => self.node.restart(),
            Step::Watch { filter, from, resume, initial } => {
                self.watch(*filter, *from, *resume, *initial);
            }
            Step::Write { choices } => self.write(choices),
        }
    }

    fn write(&mut self, choices: &[u8]) {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (key, choice) in KEYS.iter().zip(choices) {
            match choice {
                0 => deletes.push((*key).to_owned()),
                1 | 2 => {
                    self.written += 1;
                    puts.push(((*key).to_owned(), self.written.to_string()));
                }
                _ => {}
            }
        }
        let before = self.idle_readers();
        let applied = self.node.write(transaction(&puts, &deletes));
        if let Some(events) = applied.events {
            self.model.revisions.push(events.clone());
            let mut woken = Vec::new();
            self.registry.interested(&events, &mut woken);
            for reader in before {
                let concerned = self.has_work(reader);
                let is_woken = woken.contains(&WatcherId(reader as u64));
                assert_eq!(concerned, is_woken, "reader {reader} at {}", events.revision);
            }
        }
    }

    /// Readers that have everything, and so must be woken exactly when something comes for them.
    fn idle_readers(&self) -> Vec<usize> {
        let idle = |reader: &usize| {
            let reader = &self.readers[*reader];
            reader.idle && reader.cursor.progress() == Some(self.node.machine.revision())
        };
        (0..self.readers.len()).filter(idle).collect()
    }

    fn has_work(&self, reader: usize) -> bool {
        let mut cursor = self.readers[reader].cursor.clone();
        cursor.next(&self.node.history, &self.node.machine, 1) != Delivery::Idle
    }

    fn watch(&mut self, filter: usize, from: Option<i8>, resume: Option<i8>, initial: bool) {
        let now = self.node.machine.revision();
        let near = |offset: i8| Revision(now.get().saturating_add_signed(i64::from(offset)));
        let (is_prefix, word) = FILTERS[filter];
        let word = Bytes::from_static(word.as_bytes());
        let filter = if is_prefix { Filter::Prefix(word) } else { Filter::Key(word) };
        let request = WatchRequest {
            filter: filter.clone(),
            from: from.map(near),
            initial,
            previous: false,
            resume_after: resume.map(near),
            epoch: None,
        };
        let start = request.from.map(Revision::previous).max(request.resume_after);
        let start = start.map(|start| start.max(Revision(1)));
        match Cursor::open(request, &self.node.history, &self.node.machine) {
            Ok(cursor) => {
                let compacted = self.node.machine.compact_revision();
                let is_there = start.is_none_or(|start| start >= compacted);
                assert!(is_there || initial, "a watch after {start:?} began, {compacted} is gone");
                let id = WatcherId(self.readers.len() as u64);
                self.registry.add(id, &filter, cursor.waits_for(&self.node.history));
                self.readers.push(Reader {
                    filter,
                    cursor,
                    not_before: start,
                    initial,
                    snapshot: None,
                    received: None,
                    idle: false,
                    ended: false,
                });
            }
            Err(WatchError::Compacted { compact_revision, revision }) => {
                let start = start.expect("a watch from now on was refused");
                assert!(start < compact_revision, "{start} is after {compact_revision}");
                assert!(compact_revision <= revision, "{compact_revision} is in the future");
                assert!(!initial, "a watch with the state first was refused");
            }
        }
    }

    /// Everyone reads to the end, and then has everything or has said that it cannot.
    fn finish(&mut self) {
        for reader in &mut self.readers {
            while !reader.idle && !reader.ended {
                let delivery = reader.cursor.next(&self.node.history, &self.node.machine, 64);
                reader.take(delivery, &self.node, &self.model);
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(Config { cases: 512, failure_persistence: None, ..Config::default() })]

    #[test]
    fn streams_equal_the_log_or_say_that_they_cannot(
        steps in steps(),
        revisions_max in 1..12_usize,
        grace_revisions in 0..4_usize,
    ) {
        let options = HistoryOptions { revisions_max, bytes_max: 8_192, grace_revisions };
        let mut world = World {
            node: Node::new(options, Epoch(1)),
            model: Model::default(),
            readers: Vec::new(),
            registry: Registry::default(),
            written: 0,
        };
        for step in &steps {
            world.run(step);
        }
        world.finish();
    }
}
