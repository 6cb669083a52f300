//! Runs the scripts in `testscripts/`: each names a claim, says why it matters, and shows
//! everything that each entry did.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --lib state::script_test` writes the output again; it is read
//! line by line before it is committed.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer, Context};

use crate::base::scripts_test::run_all;
use crate::base::{
    Boot, Epoch, LeaseId, NodeId, RequestId, Revision, Sequence, Span, Term, Token, WallMillis,
    limits, mix,
};
use crate::state::{
    Acquire, Applied, Bind, Command, Compare, CompareField, CompareOp, Condition, EventKind,
    Holder, IdempotencyKey, LeaseChange, Mode, NewLease, Operation, Outcome, Patience, QueueEntry,
    QueueKind, QueueName, RangeContent, RangeQuery, Record, Refusal, RevisionEvents, Row, RowKey,
    Selection, StateMachine, Txn, TxnOperation, TxnResult, check,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Every script in the folder, in order of its name.
#[test]
fn scripts_show_what_they_claim() {
    let count = run_all("src/state/testscripts", Runner::new);
    assert!(count >= 25, "only {count} scripts were found");
}

/// One machine, the rows that were saved of it, and what commands carry unless they say otherwise.
struct Runner {
    machine: StateMachine,
    rows: BTreeMap<RowKey, Row>,
    sequences: BTreeMap<(u64, u64), u64>,
    term: Term,
    wall: WallMillis,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "advance" | "clock" | "restart" | "skip" | "term" => {
                self.surroundings(&command.name, &mut args)?
            }
            "barriers" | "count" | "events" | "get" | "history" | "keys" | "leases" | "list"
            | "locks" | "outcomes" | "queue" | "place" | "status" => {
                self.query(&command.name, &mut args)?
            }
            name => self.apply(name, &mut args)?,
        };
        args.reject_next()?;
        check(&self.machine);
        Ok(output)
    }
}

impl Runner {
    fn new() -> Self {
        Self {
            machine: StateMachine::new(Epoch(0)),
            rows: BTreeMap::new(),
            sequences: BTreeMap::new(),
            term: Term(1),
            wall: WallMillis(0),
        }
    }

    /// advance MILLIS | clock MILLIS | term N | skip | restart
    fn surroundings(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String> {
        match name {
            "advance" => self.wall.0 += next::<u64>(args)?,
            "clock" => self.wall.0 = next(args)?,
            "term" => self.term = Term(next(args)?),
            "skip" => self.machine.skip(self.machine.applied_index().next(), self.term),
            "restart" => {
                for change in self.machine.take_row_changes() {
                    match change.row {
                        Some(row) => self.rows.insert(change.key, row),
                        None => self.rows.remove(&change.key),
                    };
                }
                let before = self.machine.digest();
                self.machine = StateMachine::restore(self.rows.clone())?;
                assert_eq!(self.machine.digest(), before, "a restart changed the digest");
            }
            _ => return Err(format!("unknown command {name}").into()),
        }
        Ok(String::new())
    }

    /// Any operation, with `node= boot= seq= floor= key= uid=` where a script cares about them.
    fn apply(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String> {
        let node: u64 = take(args, "node")?.unwrap_or(1);
        let boot: u64 = take(args, "boot")?.unwrap_or(1);
        let next = self.sequences.entry((node, boot)).or_default();
        let sequence = take(args, "seq")?.unwrap_or(*next + 1);
        *next = sequence.max(*next);
        let request =
            RequestId { node: NodeId(node), boot: Boot(boot), sequence: Sequence(sequence) };
        let floor = Sequence(take(args, "floor")?.unwrap_or(0));
        let uid = take(args, "uid")?.unwrap_or(0);
        let key: Option<String> = take(args, "key")?;
        let idempotency = key.map(|key| IdempotencyKey { uid, key });
        let operation = self.operation(name, args)?;
        let command = Command { request, floor, idempotency, operation };
        let index = self.machine.applied_index().next();
        let before = self.machine.revision();
        let applied = self.machine.apply(index, self.term, self.wall, &command);
        let made = applied.events.is_some();
        let after = if made { before.next() } else { before };
        assert_eq!(self.machine.revision(), after, "a revision exactly when keys changed");
        Ok(self.applied_text(&applied))
    }

    fn operation(&self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Operation> {
        Ok(match name {
            "put" => Operation::Put {
                condition: condition(args)?,
                lease: self.take_lease(args)?,
                key: self.key(&next::<String>(args)?),
                value: value(&next::<String>(args)?),
            },
            "delete" => {
                let (condition, selection) = (condition(args)?, self.selection(args)?);
                Operation::Delete { selection, condition }
            }
            "txn" => Operation::Txn(self.txn(args)?),
            "grant" => Operation::GrantLease(new_lease(args)?),
            "revoke" => Operation::RevokeLeases { leases: leases(args)? },
            "expire" => {
                let term = take(args, "term")?.map_or(self.term, Term);
                let mut leases = Vec::new();
                while let Some(named) = args.next_pos() {
                    let (lease, generation) = named.split_once(':').unwrap_or((named, "1"));
                    leases.push((lease_id(lease)?, generation.parse()?));
                }
                Operation::ExpireLeases { term, leases }
            }
            "booted" => Operation::NodeBooted,
            "adopt" => Operation::AdoptLeases { leases: leases(args)? },
            "bind" => Operation::BindLease {
                lease: lease_id(&next::<String>(args)?)?,
                process: next(args)?,
            },
            "epoch" => Operation::StartEpoch,
            "compact" => Operation::Compact { revision: Revision(next(args)?) },
            "lock" | "elect" | "meet" => self.acquire(name, args)?,
            "release" => Operation::Release { queue: queue_name(args)?, token: Token(next(args)?) },
            "proclaim" => Operation::Proclaim {
                name: value(&next::<String>(args)?),
                token: Token(next(args)?),
                value: value(&next::<String>(args)?),
            },
            _ => return Err(format!("unknown command {name}").into()),
        })
    }

    /// lock|elect|meet NAME [lease=L1 | bind=B ttl=S] [slots=N] [mode=shared] [value=V] [try]
    fn acquire(&self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Operation> {
        let kind = match name {
            "lock" => QueueKind::Lock,
            "meet" => QueueKind::Barrier,
            _ => QueueKind::Election,
        };
        let queue = QueueName { kind, name: value(&next::<String>(args)?) };
        let holder = match self.take_lease(args)? {
            Some(lease) => Holder::Existing(lease),
            None => Holder::New(new_lease(args)?),
        };
        let slots = take(args, "slots")?.unwrap_or(1);
        let mode = match args.take_key("mode") {
            Some("shared") => Mode::Shared,
            Some(other) => return Err(format!("unknown mode {other}").into()),
            None => Mode::Exclusive,
        };
        let value = value(&take::<String>(args, "value")?.unwrap_or_default());
        let patience = match args.next_pos() {
            Some("try") => Patience::Try,
            Some(other) => return Err(format!("what is {other}?").into()),
            None => Patience::Wait,
        };
        Ok(Operation::Acquire(Acquire { queue, holder, slots, mode, value, patience }))
    }

    /// txn [if="FIELD KEY OP VALUE"]... [then="put K V [L1]" | "delete K" | "get K"]...
    /// [else=..]... where `K*` is every key with the prefix `K`.
    fn txn(&self, args: &mut ArgumentConsumer<'_>) -> Result<Txn> {
        let mut txn = Txn::default();
        while let Some((list, text)) = args.next_key() {
            let words: Vec<&str> = text.split(' ').collect();
            match list {
                "if" => txn.compares.push(self.compare(&words)?),
                "then" => txn.then.push(self.txn_operation(&words)?),
                "else" => txn.or_else.push(self.txn_operation(&words)?),
                _ => return Err(format!("unknown list {list}").into()),
            }
        }
        Ok(txn)
    }

    fn compare(&self, words: &[&str]) -> Result<Compare> {
        let [field, key, op, value] = words else { return Err("FIELD KEY OP VALUE".into()) };
        let field = match *field {
            "create" => CompareField::CreateRevision(Revision(value.parse()?)),
            "lease" if *value == "none" => CompareField::Lease(LeaseId(0)),
            "lease" => CompareField::Lease(lease_id(value)?),
            "mod" => CompareField::ModRevision(Revision(value.parse()?)),
            "value" => CompareField::Value(Bytes::copy_from_slice(value.as_bytes())),
            "version" => CompareField::Version(value.parse()?),
            _ => return Err(format!("unknown field {field}").into()),
        };
        let op = match *op {
            "==" => CompareOp::Equal,
            ">" => CompareOp::Greater,
            "<" => CompareOp::Less,
            "!=" => CompareOp::NotEqual,
            _ => return Err(format!("unknown operator {op}").into()),
        };
        Ok(Compare { key: self.key(key), field, op })
    }

    fn txn_operation(&self, words: &[&str]) -> Result<TxnOperation> {
        Ok(match words {
            ["put", key, text] => {
                TxnOperation::Put { key: self.key(key), value: value(text), lease: None }
            }
            ["put", key, text, lease] => {
                let lease = Some(lease_id(lease)?);
                TxnOperation::Put { key: self.key(key), value: value(text), lease }
            }
            ["delete", selected] => TxnOperation::Delete(self.select(selected)),
            ["get", selected] => TxnOperation::Get(self.select(selected)),
            _ => return Err(format!("not an operation: {words:?}").into()),
        })
    }

    fn selection(&self, args: &mut ArgumentConsumer<'_>) -> Result<Selection> {
        Ok(self.select(&next::<String>(args)?))
    }

    fn select(&self, text: &str) -> Selection {
        match text.strip_suffix('*') {
            Some(prefix) => Selection::Prefix(self.key(prefix)),
            None => Selection::Key(self.key(text)),
        }
    }

    /// A key, in which `<L1>` stands for the name of the first lease.
    fn key(&self, text: &str) -> Bytes {
        let mut text = text.to_owned();
        for count in 1..=self.machine.leases_made {
            text = text.replace(&format!("<L{count}>"), &LeaseId(mix(count)).to_string());
        }
        text.into()
    }

    fn take_lease(&self, args: &mut ArgumentConsumer<'_>) -> Result<Option<LeaseId>> {
        args.take_key("lease").map(lease_id).transpose()
    }

    fn query(&self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String> {
        let machine = &self.machine;
        let mut text = String::new();
        match name {
            "status" => writeln!(
                text,
                "applied {} revision {} compacted {} leases {} live {} bytes, with history {}",
                machine.applied_index(),
                machine.revision(),
                machine.compact_revision(),
                machine.lease_count(),
                machine.live_bytes(),
                machine.history_bytes()
            )?,
            "get" => {
                let at = take(args, "at")?.map(Revision);
                match machine.get(&self.key(&next::<String>(args)?), at) {
                    Ok(Some(record)) => writeln!(text, "{}", self.record_text(&record))?,
                    Ok(None) => writeln!(text, "absent")?,
                    Err(error) => writeln!(text, "error: {error}")?,
                }
            }
            "list" | "keys" | "count" => self.list(name, args, &mut text)?,
            "events" => {
                for events in machine.events_from(Revision(next(args)?)) {
                    text += &self.events_text(&events);
                }
            }
            "history" => {
                for (key, row) in machine.all_rows() {
                    if let RowKey::Version(key, revision) = key {
                        let kind = if row == Row::Tombstone { "tombstone" } else { "value" };
                        writeln!(text, "{} r{revision} {kind}", self.bytes_text(&key))?;
                    }
                }
            }
            "leases" => {
                for lease in machine.leases() {
                    writeln!(text, "{}", self.lease_text(lease.id))?;
                }
                let mut lines: Vec<&str> = text.lines().collect();
                lines.sort_unstable();
                text = lines.into_iter().map(|line| format!("{line}\n")).collect();
            }
            "queue" => self.queue_text(&queue_name(args)?, &mut text)?,
            "barriers" | "locks" => {
                let kind = if name == "locks" { QueueKind::Lock } else { QueueKind::Barrier };
                for name in machine.queues(kind) {
                    writeln!(text, "{}", self.bytes_text(&name.name))?;
                }
            }
            "outcomes" => writeln!(
                text,
                "{} remembered, the oldest since {:?}",
                machine.idempotency_len(),
                machine.oldest_idempotency().map(|wall| wall.0)
            )?,
            "place" => match machine.place(&queue_name(args)?, Token(next(args)?)) {
                Some(place) => {
                    writeln!(text, "{} behind {}", self.lease_name(place.lease), place.ahead)?;
                }
                None => writeln!(text, "none")?,
            },
            _ => return Err(format!("unknown command {name}").into()),
        }
        Ok(text)
    }

    /// list|keys|count [PREFIX] [after=KEY] [limit=N] [bytes=N] [at=N]
    fn list(&self, name: &str, args: &mut ArgumentConsumer<'_>, text: &mut String) -> Result<()> {
        let query = RangeQuery {
            start_after: take::<String>(args, "after")?.map(Bytes::from),
            limit: take(args, "limit")?.unwrap_or(100),
            bytes_max: take(args, "bytes")?.unwrap_or(limits::PAGE_BYTES_MAX),
            at: take(args, "at")?.map(Revision),
            prefix: self.key(args.next_pos().unwrap_or_default()),
            content: match name {
                "list" => RangeContent::Records,
                "keys" => RangeContent::Keys,
                _ => RangeContent::Count,
            },
        };
        match self.machine.range(&query) {
            Ok(page) => {
                for record in &page.records {
                    writeln!(text, "{}", self.record_text(record))?;
                }
                let more = if page.more { ", more" } else { "" };
                writeln!(text, "{} keys at revision {}{more}", page.count, page.revision)?;
            }
            Err(error) => writeln!(text, "error: {error}")?,
        }
        Ok(())
    }

    fn queue_text(&self, name: &QueueName, text: &mut String) -> Result<()> {
        let Some(view) = self.machine.queue(name) else {
            writeln!(text, "nobody")?;
            return Ok(());
        };
        writeln!(text, "slots {}", view.slots)?;
        for (role, entries) in [("holds", &view.holders), ("waits", &view.waiters)] {
            for entry in entries {
                let place = self.machine.place(name, entry.token).expect("it is in the view");
                let entry = self.entry_text(entry);
                let released = place.released.map(|revision| format!(", released {revision}"));
                let released = released.unwrap_or_default();
                writeln!(text, "{role}: {entry}, ahead {}{released}", place.ahead)?;
            }
        }
        Ok(())
    }

    fn applied_text(&self, applied: &Applied) -> String {
        let mut text = format!("{}\n", self.outcome_text(&applied.outcome));
        if let Some(events) = &applied.events {
            text += &self.events_text(events);
        }
        for change in &applied.leases {
            text += &match change {
                LeaseChange::Began(lease) => format!("began {}\n", self.lease_text(*lease)),
                LeaseChange::Ended(lease) => format!("ended {}\n", self.lease_name(*lease)),
            };
        }
        for name in &applied.queues {
            let name = format!("{:?} {}", name.kind, self.bytes_text(&name.name));
            text += &format!("queue changed: {name}\n");
        }
        if let Some(revision) = applied.compacted {
            text += &format!("compacted to {revision}\n");
        }
        text
    }

    fn outcome_text(&self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Acquired { lease, token, ahead, revision } => {
                let lease = self.lease_name(*lease);
                format!("acquired by {lease}, token {token}, ahead {ahead}, revision {revision}")
            }
            Outcome::Granted { lease, revision } => {
                format!("granted {}, revision {revision}", self.lease_name(*lease))
            }
            Outcome::Put { revision, create_revision, version } => {
                format!("ok, revision {revision}, created {create_revision}, version {version}")
            }
            Outcome::Refused(refusal) => format!("refused: {}", self.refusal_text(refusal)),
            Outcome::Txn { succeeded, revision, results } => {
                let branch = if *succeeded { "then" } else { "else" };
                let mut text = format!("ran {branch}, revision {revision}");
                for result in results {
                    text += &match result {
                        TxnResult::Deleted(count) => format!("\n  deleted {count}"),
                        TxnResult::Got(records) => {
                            let records: Vec<String> =
                                records.iter().map(|record| self.record_text(record)).collect();
                            format!("\n  got [{}]", records.join(", "))
                        }
                        TxnResult::Put { create_revision, version } => {
                            format!("\n  put, created {create_revision}, version {version}")
                        }
                    };
                }
                text
            }
            other => format!("{other:?}"),
        }
    }

    fn refusal_text(&self, refusal: &Refusal) -> String {
        match refusal {
            Refusal::LeaseNotFound { lease } => format!("no lease {}", self.lease_name(*lease)),
            Refusal::LockHeld { holders } => {
                let holders: Vec<String> =
                    holders.iter().map(|entry| self.entry_text(entry)).collect();
                format!("held by [{}]", holders.join("; "))
            }
            other => format!("{other:?}"),
        }
    }

    fn entry_text(&self, entry: &QueueEntry) -> String {
        let (lease, value) = (self.lease_name(entry.lease), self.bytes_text(&entry.value));
        let shared = if entry.mode == Mode::Shared { ", shared" } else { "" };
        format!("token {}, {lease}{shared}, value {value}", entry.token)
    }

    fn events_text(&self, events: &RevisionEvents) -> String {
        let mut text = String::new();
        for event in &events.events {
            let what = match event.kind {
                EventKind::Put => format!("put {}", self.record_text(&event.record)),
                EventKind::Delete => format!("delete {}", self.bytes_text(&event.record.key)),
            };
            let was = match &event.previous {
                Some(record) => format!(", was {}", self.bytes_text(&record.value)),
                None => String::new(),
            };
            assert_eq!(event.record.mod_revision, events.revision, "an event of its revision");
            text += &format!("r{} {what}{was}\n", events.revision);
        }
        text
    }

    fn record_text(&self, record: &Record) -> String {
        let lease = record.lease.map(|lease| format!(" {}", self.lease_name(lease)));
        format!(
            "{}={} (created {}, changed {}, version {}){}",
            self.bytes_text(&record.key),
            self.bytes_text(&record.value),
            record.create_revision,
            record.mod_revision,
            record.version,
            lease.unwrap_or_default()
        )
    }

    fn lease_text(&self, id: LeaseId) -> String {
        let name = self.lease_name(id);
        // A lease that began and ended within one entry cannot be shown.
        let Some(lease) = self.machine.lease(id) else { return name };
        let parent = lease.parent.map(|parent| format!(" under {}", self.lease_name(parent)));
        let owned = if lease.owned_by_place { " owned by its place" } else { "" };
        let process = lease.process.as_ref().map(|process| format!(" of {process}"));
        let process = process.unwrap_or_default();
        let generation = match lease.generation {
            1 => String::new(),
            generation => format!(" generation {generation}"),
        };
        let keys: Vec<String> = lease.keys.iter().map(|key| self.bytes_text(key)).collect();
        let keys = if keys.is_empty() { String::new() } else { format!(": {}", keys.join(" ")) };
        format!(
            "{name} {:?}{process} {}/{} ttl {}{}{generation}{owned}{keys}",
            lease.bind,
            lease.node,
            lease.boot,
            lease.ttl,
            parent.unwrap_or_default()
        )
    }

    /// `L1` for the first lease that was made, and so on.
    fn lease_name(&self, lease: LeaseId) -> String {
        let count = (1..=self.machine.leases_made).find(|count| mix(*count) == lease.get());
        count.map_or(format!("unknown {lease}"), |count| format!("L{count}"))
    }

    /// Printable, long ones shortened, lease names in it readable.
    fn bytes_text(&self, bytes: &[u8]) -> String {
        let mut text = bytes.escape_ascii().to_string();
        for count in 1..=self.machine.leases_made {
            text = text.replace(&LeaseId(mix(count)).to_string(), &format!("<L{count}>"));
        }
        if text.is_empty() {
            return "\"\"".to_owned();
        }
        if text.len() > 60 {
            text = format!("{}.. ({} bytes)", &text[..8], bytes.len());
        }
        text
    }
}

fn next<T: FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer<'_>) -> Result<T> {
    Ok(args.next_pos().ok_or("an argument is missing")?.parse()?)
}

fn take<T: FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer<'_>,
    name: &str,
) -> Result<Option<T>> {
    Ok(args.take_key(name).map(str::parse).transpose()?)
}

/// `L1` is the first lease that was ever made; `L9` may never have been.
fn lease_id(text: &str) -> Result<LeaseId> {
    let count: u64 = text.strip_prefix('L').ok_or("a lease is called L1")?.parse()?;
    Ok(LeaseId(mix(count)))
}

/// A text, where `x*1000` is a thousand times `x`.
fn value(text: &str) -> Bytes {
    if let Some((unit, count)) = text.split_once('*')
        && let Ok(count) = count.parse()
    {
        return unit.repeat(count).into();
    }
    Bytes::copy_from_slice(text.as_bytes())
}

fn condition(args: &mut ArgumentConsumer<'_>) -> Result<Condition> {
    Ok(match args.take_key("match") {
        Some("absent") => Condition::Absent,
        Some(revision) => Condition::ModRevision(Revision(revision.parse()?)),
        None => Condition::None,
    })
}

fn new_lease(args: &mut ArgumentConsumer<'_>) -> Result<NewLease> {
    let bind = match args.take_key("bind") {
        Some("connection") => Bind::Connection,
        Some("process") => Bind::Process,
        Some("node") => Bind::Node,
        Some("none") | None => Bind::None,
        Some(other) => return Err(format!("unknown bind {other}").into()),
    };
    let ttl = Span::from_secs(take(args, "ttl")?.unwrap_or(10));
    let process = take(args, "process")?;
    Ok(NewLease { ttl, bind, pid: None, uid: 0, info: String::new(), process })
}

fn leases(args: &mut ArgumentConsumer<'_>) -> Result<Vec<LeaseId>> {
    let mut leases = Vec::new();
    while let Some(lease) = args.next_pos() {
        leases.push(lease_id(lease)?);
    }
    Ok(leases)
}

fn queue_name(args: &mut ArgumentConsumer<'_>) -> Result<QueueName> {
    let kind = match args.next() {
        Some(Argument::Positional(kind)) if kind == "lock" => QueueKind::Lock,
        Some(Argument::Positional(kind)) if kind == "election" => QueueKind::Election,
        Some(Argument::Positional(kind)) if kind == "barrier" => QueueKind::Barrier,
        other => return Err(format!("lock or election, not {other:?}").into()),
    };
    Ok(QueueName { kind, name: value(&next::<String>(args)?) })
}
