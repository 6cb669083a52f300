//! Runs the golden scripts of `testscripts/`: a store, its history, and watchers by name.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --lib watch::` writes the expected output anew; read the
//! difference line by line before committing it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

use bytes::Bytes;

use crate::base::scripts_test::run_all;
use crate::base::{Boot, Epoch, Index, NodeId, RequestId, Revision, Sequence, Term, WallMillis};
use crate::state::{
    Applied, Event, EventKind, Operation, Selection, StateMachine, Txn, TxnOperation,
};
use crate::watch::{
    Cursor, Delivery, Filter, Format, History, HistoryOptions, Registry, RenderCache, Selected,
    WatchEnd, WatchError, WatchRequest, WatcherId,
};

/// A store with its history, changed together as the owner does.
pub(super) struct Node {
    pub(super) machine: StateMachine,
    pub(super) history: History,
    options: HistoryOptions,
}

impl Node {
    pub(super) fn new(options: HistoryOptions, epoch: Epoch) -> Self {
        let machine = StateMachine::new(epoch);
        let history = History::of(options, &machine);
        Self { machine, history, options }
    }

    /// Applies one operation to the store alone.
    pub(super) fn apply(machine: &mut StateMachine, operation: Operation) -> Applied {
        let index = machine.applied_index().next();
        let request = RequestId { node: NodeId(1), boot: Boot(1), sequence: Sequence(index.get()) };
        let command = crate::state::Command {
            request,
            floor: Sequence(index.get()),
            idempotency: None,
            operation,
        };
        machine.apply(Index(index.get()), Term(1), WallMillis(index.get()), &command)
    }

    /// Applies one operation, and lets the history follow.
    pub(super) fn write(&mut self, operation: Operation) -> Applied {
        let applied = Self::apply(&mut self.machine, operation);
        if let Some(events) = &applied.events {
            self.history.push(events.clone());
        }
        if let Some(revision) = applied.compacted {
            self.history.trim(revision);
        }
        applied
    }

    /// Loses the history and makes it anew from the store, as after a start.
    pub(super) fn restart(&mut self) {
        self.history = History::of(self.options, &self.machine);
    }
}

/// One transaction that puts these keys, and deletes those: `key` or `prefix*`.
pub(super) fn transaction(puts: &[(String, String)], deletes: &[String]) -> Operation {
    let put = |(key, value): &(String, String)| TxnOperation::Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        lease: None,
    };
    let delete = |word: &String| {
        TxnOperation::Delete(match word.strip_suffix('*') {
            Some(prefix) => Selection::Prefix(Bytes::from(prefix.to_owned())),
            None => Selection::Key(Bytes::from(word.to_owned())),
        })
    };
    let then = puts.iter().map(put).chain(deletes.iter().map(delete)).collect();
    Operation::Txn(Txn { compares: Vec::new(), then, or_else: Vec::new() })
}

fn filter(word: &str) -> Filter {
    match word.strip_suffix('*') {
        Some(prefix) => Filter::Prefix(Bytes::from(prefix.to_owned())),
        None => Filter::Key(Bytes::from(word.to_owned())),
    }
}

#[derive(goldenscript::Command)]
enum Command {
    /// Makes a new, empty node with these bounds of its history.
    Node {
        #[arg(key)]
        revisions: Option<usize>,
        #[arg(key)]
        bytes: Option<u64>,
        #[arg(key)]
        grace: Option<usize>,
        #[arg(key)]
        epoch: Option<u64>,
    },
    /// Writes one revision: `write k=v` puts, `write k` and `write p*` delete.
    Write {
        #[arg(pos, many, optional)]
        deletes: Vec<String>,
        #[arg(key, many, optional)]
        puts: Vec<(String, String)>,
    },
    /// Writes the revisions of this key with the values of the range, `from` to `to`.
    Burst {
        #[arg(pos)]
        key: String,
        #[arg(pos)]
        from: u64,
        #[arg(pos)]
        to: u64,
    },
    /// Compacts the store.
    Compact(u64),
    /// Makes the history anew from the store.
    Restart,
    /// Writes to a leader's copy of the store that this node does not hear of.
    Ahead {
        #[arg(pos, many, optional)]
        deletes: Vec<String>,
        #[arg(key, many, optional)]
        puts: Vec<(String, String)>,
    },
    /// Compacts the leader's copy.
    AheadCompact(u64),
    /// Installs the leader's copy as a snapshot.
    Install,
    /// Opens a watch, `watch w key` or `watch w prefix*`.
    Watch {
        #[arg(pos)]
        name: String,
        #[arg(pos)]
        filter: String,
        #[arg(key)]
        from: Option<u64>,
        #[arg(key)]
        resume: Option<u64>,
        #[arg(key)]
        epoch: Option<u64>,
        #[arg(key)]
        initial: Option<bool>,
        #[arg(key)]
        prev: Option<bool>,
    },
    /// Closes a watch.
    Close(String),
    /// Takes what is next until there is nothing, or `count` messages.
    Next {
        #[arg(pos)]
        name: String,
        #[arg(pos)]
        count: Option<usize>,
        #[arg(key)]
        budget: Option<usize>,
    },
    /// What a progress message may claim now, and where another stream can go on.
    Progress(String),
    /// What is held.
    Status,
    /// Sends the newest revision in this format to watchers that ask in this order.
    Render {
        #[arg(pos)]
        format: u8,
        #[arg(pos, many)]
        names: Vec<String>,
    },
}

struct Runner {
    node: Node,
    leader: Option<StateMachine>,
    cursors: BTreeMap<String, (WatcherId, Cursor)>,
    registry: Registry,
    cache: RenderCache,
    numbers: u64,
}

impl Runner {
    fn new() -> Self {
        Self {
            node: Node::new(HistoryOptions::default(), Epoch(1)),
            leader: None,
            cursors: BTreeMap::new(),
            registry: Registry::default(),
            cache: RenderCache::new(24),
            numbers: 0,
        }
    }

    /// One line for a write: its revision, and whom it wakes.
    fn write(&mut self, operation: Operation) -> String {
        let applied = self.node.write(operation);
        let Some(events) = applied.events else {
            return format!("no new revision: {:?}\n", applied.outcome);
        };
        let mut woken = Vec::new();
        self.registry.interested(&events, &mut woken);
        format!("revision {}{}\n", events.revision, self.wakes(&woken))
    }

    fn wakes(&self, woken: &[WatcherId]) -> String {
        let name = |id: &WatcherId| {
            let found = self.cursors.iter().find(|(_, (other, _))| other == id);
            found.map_or("?", |(name, _)| name)
        };
        let names: Vec<&str> = woken.iter().map(name).collect();
        if names.is_empty() { String::new() } else { format!(", wakes {}", names.join(" ")) }
    }

    fn watch(&mut self, name: &str, request: WatchRequest) -> String {
        let filter = request.filter.clone();
        match Cursor::open(request, &self.node.history, &self.node.machine) {
            Err(WatchError::Compacted { compact_revision, revision }) => {
                format!("{name} refused: compacted at {compact_revision}, revision {revision}\n")
            }
            Ok(cursor) => {
                self.numbers += 1;
                let id = WatcherId(self.numbers);
                self.registry.add(id, &filter, cursor.waits_for(&self.node.history));
                let prev = if cursor.previous() { ", with previous values" } else { "" };
                self.cursors.insert(name.to_owned(), (id, cursor));
                format!("{name} opened{prev}\n")
            }
        }
    }

    fn next(&mut self, name: &str, count: usize, budget: usize) -> Result<String, Box<dyn Error>> {
        let (_, cursor) = self.cursors.get_mut(name).ok_or("no such watch")?;
        let mut output = String::new();
        for _ in 0..count {
            let delivery = cursor.next(&self.node.history, &self.node.machine, budget);
            writeln!(output, "{name} {}", describe(&delivery, cursor.previous()))?;
            if matches!(delivery, Delivery::Idle | Delivery::Ended(_)) {
                break;
            }
        }
        Ok(output)
    }

    fn install(&mut self) -> Result<String, Box<dyn Error>> {
        self.node.machine = self.leader.take().ok_or("nothing is ahead")?;
        self.node.restart();
        let mut woken = Vec::new();
        self.registry.everyone(self.node.machine.revision(), &mut woken);
        Ok(format!("installed revision {}{}\n", self.node.machine.revision(), self.wakes(&woken)))
    }

    fn ahead(&mut self, operation: Operation) -> String {
        let leader = self.leader.get_or_insert_with(|| self.node.machine.clone());
        Node::apply(leader, operation);
        format!("the leader is at {}\n", leader.revision())
    }

    fn render(&mut self, format: u8, names: &[String]) -> Result<String, Box<dyn Error>> {
        let (revision, format) = (self.node.machine.revision(), Format(format));
        let mut output = String::new();
        for name in names {
            match self.cache.message(revision, format) {
                Some(message) => writeln!(output, "{name} gets {message:?}, encoded before")?,
                None => {
                    let message = Bytes::from(format!("{revision} as {}", format.0));
                    self.cache.keep(revision, format, &message);
                    writeln!(output, "{name} encodes {message:?}")?;
                }
            }
        }
        writeln!(output, "cache holds {} bytes", self.cache.bytes())?;
        Ok(output)
    }

    fn status(&self) -> String {
        format!(
            "history ({}, {}], {} revisions, {} bytes; store at {}, compacted at {}; {} watchers\n",
            self.node.history.floor(),
            self.node.history.newest(),
            self.node.history.len(),
            self.node.history.bytes(),
            self.node.machine.revision(),
            self.node.machine.compact_revision(),
            self.registry.len()
        )
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        Ok(match command {
            Command::Node { revisions, bytes, grace, epoch } => {
                let default = HistoryOptions::default();
                let options = HistoryOptions {
                    revisions_max: revisions.unwrap_or(default.revisions_max),
                    bytes_max: bytes.unwrap_or(default.bytes_max),
                    grace_revisions: grace.unwrap_or(default.grace_revisions),
                };
                self.node = Node::new(options, Epoch(epoch.unwrap_or(1)));
                String::new()
            }
            Command::Write { deletes, puts } => self.write(transaction(puts, deletes)),
            Command::Burst { key, from, to } => {
                for value in *from..=*to {
                    self.write(transaction(&[(key.clone(), value.to_string())], &[]));
                }
                format!("revision {}\n", self.node.machine.revision())
            }
            Command::Compact(revision) => {
                let applied = self.node.write(Operation::Compact { revision: Revision(*revision) });
                format!("{:?}\n", applied.outcome)
            }
            Command::Restart => {
                self.node.restart();
                self.status()
            }
            Command::Ahead { deletes, puts } => self.ahead(transaction(puts, deletes)),
            Command::AheadCompact(revision) => {
                self.ahead(Operation::Compact { revision: Revision(*revision) })
            }
            Command::Install => self.install()?,
            Command::Watch { name, filter: word, from, resume, epoch, initial, prev } => {
                let request = WatchRequest {
                    filter: filter(word),
                    from: from.map(Revision),
                    initial: initial.unwrap_or(false),
                    previous: prev.unwrap_or(false),
                    resume_after: resume.map(Revision),
                    epoch: epoch.map(Epoch),
                };
                self.watch(name, request)
            }
            Command::Close(name) => {
                let (id, _) = self.cursors.remove(name).ok_or("no such watch")?;
                self.registry.remove(id);
                String::new()
            }
            Command::Next { name, count, budget } => {
                self.next(name, count.unwrap_or(100), budget.unwrap_or(1_024))?
            }
            Command::Progress(name) => {
                let (_, cursor) = self.cursors.get(name).ok_or("no such watch")?;
                format!("claims {:?}, last sent {:?}\n", cursor.progress(), cursor.last_sent())
            }
            Command::Status => self.status(),
            Command::Render { format, names } => self.render(*format, names)?,
        })
    }
}

fn describe(delivery: &Delivery, previous: bool) -> String {
    match delivery {
        Delivery::Changes { events, selection } => {
            let all = if *selection == Selected::All { "" } else { " (a part)" };
            let events: Vec<String> =
                selection.events(events).map(|event| change(event, previous)).collect();
            let revision = events_revision(delivery);
            format!("changes {revision}{all}: {}", events.join(", "))
        }
        Delivery::Ended(WatchEnd::Compacted { compact_revision, revision }) => {
            format!("ended: compacted at {compact_revision}, revision {revision}")
        }
        Delivery::Ended(WatchEnd::Lagged { last_sent }) => {
            format!("ended: lagged, last sent {last_sent}")
        }
        Delivery::Idle => "idle".to_owned(),
        Delivery::Resync { compact_revision, revision } => {
            format!("resync: compacted at {compact_revision}, revision {revision}")
        }
        Delivery::Snapshot { revision, records, more } => {
            let records: Vec<String> = records
                .iter()
                .map(|record| format!("{}={}", text(&record.key), text(&record.value)))
                .collect();
            let more = if *more { ", more follows" } else { "" };
            format!("snapshot {revision}: [{}]{more}", records.join(" "))
        }
        Delivery::Synced { revision } => format!("synced {revision}"),
    }
}

fn events_revision(delivery: &Delivery) -> Revision {
    match delivery {
        Delivery::Changes { events, .. } => events.revision,
        other => panic!("{other:?} has no events"),
    }
}

fn change(event: &Event, previous: bool) -> String {
    let key = text(&event.record.key);
    let before = match (&event.previous, previous) {
        (Some(record), true) => format!(" (was {})", text(&record.value)),
        _ => String::new(),
    };
    match event.kind {
        EventKind::Delete => format!("delete {key}{before}"),
        EventKind::Put => format!("put {key}={}{before}", text(&event.record.value)),
    }
}

fn text(bytes: &Bytes) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[test]
fn scripts() {
    let count = run_all("src/watch/testscripts", Runner::new);
    assert!(count >= 20, "only {count} scripts were found");
}
