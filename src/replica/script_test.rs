//! Runs the golden scripts of `testscripts/`: whole nodes, their callers, and what each is told.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --lib replica::script_test` writes the expected output anew;
//! read the difference line by line before committing it. What the lines mean is in
//! `script_hosts_test.rs`.

use std::collections::BTreeMap;
use std::error::Error;

use bytes::Bytes;

use crate::base::scripts_test::run_all;
use crate::base::{LeaseId, NodeId, Revision, Span, Token};
use crate::replica::cluster_test::{lease, put};
use crate::replica::script_hosts_test::{Hosts, Shown, text};
use crate::replica::{Event, Options, Ticket, View};
use crate::state::{
    Acquire, Bind, Condition, Holder, IdempotencyKey, Mode, Operation, Patience, QueueEntry,
    QueueKind, QueueName, Selection,
};
use crate::watch::{Cursor, Filter, WatchRequest};

/// What a script can say. Hosts are numbers; a lease is named by the ticket that it was granted to.
#[derive(goldenscript::Command)]
enum Command {
    /// Lets time pass, in milliseconds.
    Advance(u64),
    /// Starts a new cluster of so many hosts; with a leader, silently, it is elected too.
    Cluster {
        #[arg(pos)]
        size: u64,
        #[arg(key)]
        leader: Option<u64>,
    },
    /// Puts a host's clock ahead by so many milliseconds, from the beginning.
    Ahead {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        by: u64,
    },
    /// The host campaigns at once.
    Campaign(u64),
    /// Compacts the store's history.
    Compact {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        revision: u64,
    },
    /// Ends the process of a host.
    Crash(u64),
    /// Loses what one host sends to another.
    Cut {
        #[arg(pos)]
        from: u64,
        #[arg(pos)]
        to: u64,
    },
    /// Deletes a key.
    Delete {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        key: String,
    },
    /// Refuses new requests from now on.
    Drain(u64),
    /// Delivers what was held back between two hosts, and holds back no more.
    Free {
        #[arg(pos)]
        from: u64,
        #[arg(pos)]
        to: u64,
    },
    /// What the lease was bound to is gone.
    Gone {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        lease: u64,
    },
    /// A linearizable read.
    Get {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        key: String,
        #[arg(key)]
        timeout: Option<u64>,
    },
    /// Makes a lease that its caller keeps alive.
    Grant {
        #[arg(pos)]
        host: u64,
        #[arg(key)]
        ttl: u64,
    },
    /// Ends every cut, and delivers what was held back.
    Heal,
    /// Holds back what one host sends to another, until `heal`.
    Hold {
        #[arg(pos)]
        from: u64,
        #[arg(pos)]
        to: u64,
    },
    /// Loses everything from and to a host.
    Isolate(u64),
    /// Keeps a lease alive.
    Keep {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        lease: u64,
        #[arg(key)]
        timeout: Option<u64>,
    },
    /// What a host's own state says of a key.
    Local {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        key: String,
    },
    /// Enters the queue of a lock: under a lease of its own, bound to a connection, or under the
    /// lease of an earlier ticket.
    Lock {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        name: String,
        #[arg(key)]
        ttl: Option<u64>,
        #[arg(key)]
        lease: Option<u64>,
        #[arg(key)]
        slots: Option<u32>,
        #[arg(key)]
        at_once: Option<bool>,
    },
    /// Stops a process as SIGSTOP does.
    Pause(u64),
    /// What a host tells the holder of a lease now.
    Promise {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        lease: u64,
    },
    /// Sets a key.
    Put {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        key: String,
        #[arg(pos)]
        value: String,
        #[arg(key)]
        idempotency: Option<String>,
        #[arg(key)]
        lease: Option<u64>,
        #[arg(key)]
        timeout: Option<u64>,
    },
    /// Who holds a lock and who waits, as a host sees it.
    Queue {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        name: String,
    },
    /// Gives a lock back.
    Release {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        name: String,
        #[arg(pos)]
        token: u64,
    },
    /// Delivers the last request or keepalive from one host to another once more.
    Repeat {
        #[arg(pos)]
        from: u64,
        #[arg(pos)]
        to: u64,
    },
    /// Lets a paused process run on.
    Resume(u64),
    /// Ends a lease.
    Revoke {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        lease: u64,
    },
    /// Shows messages: `none`, `requests` (as at first) or `all`.
    Show(String),
    /// Starts the process of a host that crashed.
    Start(u64),
    /// Every host in a line.
    Status,
    /// Watches all keys with a prefix, from now on or from a revision.
    Watch {
        #[arg(pos)]
        host: u64,
        #[arg(pos)]
        name: String,
        #[arg(pos)]
        prefix: String,
        #[arg(key)]
        from: Option<u64>,
    },
}

struct Script {
    hosts: Hosts,
    tickets: u64,
}

impl Script {
    fn new() -> Self {
        Self { hosts: Hosts::new(1, Options::default()), tickets: 0 }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn submit(
        &mut self,
        host: u64,
        operation: Operation,
        idempotency: Option<&String>,
        timeout: Option<u64>,
    ) -> Result<(), Box<dyn Error>> {
        let (node, ticket) = (NodeId(host), self.ticket());
        let deadline = self.hosts.now_of(node) + millis(timeout.unwrap_or(5_000));
        let idempotency = idempotency.map(|key| IdempotencyKey { uid: 0, key: key.clone() });
        let event = Event::Submit { ticket, operation, idempotency, deadline };
        Ok(self.hosts.event(node, event)?)
    }

    fn lease(&self, ticket: u64) -> Result<LeaseId, String> {
        let name = format!("t{ticket}");
        let found = self.hosts.leases.iter().find(|(_, other)| **other == name);
        found.map(|(&lease, _)| lease).ok_or(format!("{name} was granted no lease"))
    }

    fn surroundings(&mut self, command: &Command) -> Result<bool, Box<dyn Error>> {
        match command {
            Command::Advance(span) => self.hosts.advance(millis(*span)),
            Command::Ahead { host, by } => self.hosts.set_ahead(NodeId(*host), millis(*by)),
            Command::Campaign(host) => self.hosts.campaign(NodeId(*host)),
            Command::Cluster { size, leader } => {
                *self = Self { hosts: Hosts::new(*size, Options::default()), tickets: 0 };
                if let Some(leader) = leader {
                    self.hosts.settle();
                    self.hosts.campaign(NodeId(*leader));
                    self.hosts.output.clear();
                }
            }
            Command::Crash(host) => self.hosts.crash(NodeId(*host)),
            Command::Cut { from, to } => self.hosts.cut(NodeId(*from), NodeId(*to)),
            Command::Free { from, to } => self.hosts.free(NodeId(*from), NodeId(*to)),
            Command::Heal => self.hosts.heal(),
            Command::Hold { from, to } => self.hosts.hold(NodeId(*from), NodeId(*to)),
            Command::Isolate(host) => self.hosts.isolate(NodeId(*host)),
            Command::Pause(host) => self.hosts.pause(NodeId(*host), true),
            Command::Repeat { from, to } => self.hosts.repeat(NodeId(*from), NodeId(*to))?,
            Command::Resume(host) => self.hosts.pause(NodeId(*host), false),
            Command::Show(what) => {
                self.hosts.shown = match what.as_str() {
                    "none" => Shown::None,
                    "requests" => Shown::Requests,
                    "all" => Shown::All,
                    other => return Err(format!("no messages are called {other}").into()),
                }
            }
            Command::Start(host) => self.hosts.start(NodeId(*host)),
            Command::Status => self.hosts.status(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Looks at one host, without asking anyone.
    fn look(&mut self, command: &Command) -> Result<bool, Box<dyn Error>> {
        let line = match command {
            Command::Local { host, key } => {
                let record = self.hosts.view(NodeId(*host), |view| {
                    view.machine.get(key.as_bytes(), None).expect("the present is readable")
                })?;
                let value = record.map_or("absent".to_owned(), |record| text(&record.value));
                format!("{key} is {value} on n{host}")
            }
            Command::Promise { host, lease } => {
                let (node, id) = (NodeId(*host), self.lease(*lease)?);
                let now = self.hosts.now_of(node);
                match self.hosts.view(node, |view| view.promises.promise(id, now))? {
                    Some(promise) => {
                        format!("{:?}, valid for {}", promise.state, promise.valid_for)
                    }
                    None => "nothing is promised".to_owned(),
                }
            }
            Command::Queue { host, name } => {
                let queue =
                    self.hosts.view(NodeId(*host), |view| view.machine.queue(&lock(name)))?;
                let names: &BTreeMap<LeaseId, String> = &self.hosts.leases;
                let entry = |entry: &QueueEntry| {
                    let holder = names.get(&entry.lease).map_or("?", String::as_str);
                    format!("{holder} (token {})", entry.token)
                };
                match queue {
                    None => format!("nobody is in the queue of {name}"),
                    Some(queue) => {
                        let list = |entries: &[QueueEntry]| {
                            let all: Vec<String> = entries.iter().map(entry).collect();
                            if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
                        };
                        format!("holds: {}; waits: {}", list(&queue.holders), list(&queue.waiters))
                    }
                }
            }
            Command::Watch { host, name, prefix, from } => {
                let request = WatchRequest {
                    filter: Filter::Prefix(Bytes::copy_from_slice(prefix.as_bytes())),
                    from: from.map(Revision),
                    initial: false,
                    previous: false,
                    resume_after: None,
                    epoch: None,
                };
                let open = |view: &View| Cursor::open(request, &view.history, &view.machine);
                match self.hosts.view(NodeId(*host), open)? {
                    Ok(cursor) => {
                        self.hosts.add_watcher(NodeId(*host), name.clone(), cursor);
                        return Ok(true);
                    }
                    Err(error) => format!("{name} is refused: {error:?}"),
                }
            }
            _ => return Ok(false),
        };
        self.hosts.line(line);
        Ok(true)
    }

    /// Asks a host for something that takes a while.
    fn ask(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        match command {
            Command::Compact { host, revision } => {
                let operation = Operation::Compact { revision: Revision(*revision) };
                self.submit(*host, operation, None, None)
            }
            Command::Delete { host, key } => {
                let selection = Selection::Key(Bytes::copy_from_slice(key.as_bytes()));
                let condition = Condition::None;
                self.submit(*host, Operation::Delete { selection, condition }, None, None)
            }
            Command::Drain(host) => Ok(self.hosts.event(NodeId(*host), Event::Drain)?),
            Command::Gone { host, lease } => {
                let leases = vec![self.lease(*lease)?];
                Ok(self.hosts.event(NodeId(*host), Event::EndLeases(leases))?)
            }
            Command::Get { host, key, timeout } => {
                let (node, ticket) = (NodeId(*host), self.ticket());
                self.hosts.reads.insert(ticket, key.clone());
                let deadline = self.hosts.now_of(node) + millis(timeout.unwrap_or(5_000));
                Ok(self.hosts.event(node, Event::Read { ticket, deadline })?)
            }
            Command::Grant { host, ttl } => {
                let operation = Operation::GrantLease(lease(millis(*ttl), Bind::None));
                self.submit(*host, operation, None, None)
            }
            Command::Keep { host, lease, timeout } => {
                let (node, lease, ticket) = (NodeId(*host), self.lease(*lease)?, self.ticket());
                let deadline = self.hosts.now_of(node) + millis(timeout.unwrap_or(5_000));
                Ok(self.hosts.event(node, Event::Keepalive { ticket, lease, deadline })?)
            }
            Command::Lock { host, name, ttl, lease, slots, at_once } => {
                let holder = match lease {
                    Some(ticket) => Holder::Existing(self.lease(*ticket)?),
                    None => {
                        Holder::New(self::lease(millis(ttl.unwrap_or(10_000)), Bind::Connection))
                    }
                };
                let patience = match at_once {
                    Some(true) => Patience::Try,
                    _ => Patience::Wait,
                };
                let operation = Operation::Acquire(Acquire {
                    queue: lock(name),
                    holder,
                    slots: slots.unwrap_or(1),
                    mode: Mode::Exclusive,
                    value: Bytes::new(),
                    patience,
                });
                self.submit(*host, operation, None, None)
            }
            Command::Put { host, key, value, idempotency, lease, timeout } => {
                let lease = lease.map(|ticket| self.lease(ticket)).transpose()?;
                let mut operation = put(key, value);
                if let Operation::Put { lease: attached, .. } = &mut operation {
                    *attached = lease;
                }
                self.submit(*host, operation, idempotency.as_ref(), *timeout)
            }
            Command::Release { host, name, token } => {
                let operation = Operation::Release { queue: lock(name), token: Token(*token) };
                self.submit(*host, operation, None, None)
            }
            Command::Revoke { host, lease } => {
                let leases = vec![self.lease(*lease)?];
                self.submit(*host, Operation::RevokeLeases { leases }, None, None)
            }
            _ => unreachable!("every other command was dealt with before"),
        }
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        if !self.surroundings(command)? && !self.look(command)? {
            self.ask(command)?;
        }
        self.hosts.settle();
        Ok(std::mem::take(&mut self.hosts.output))
    }
}

fn millis(count: u64) -> Span {
    Span::from_millis(count)
}

fn lock(name: &str) -> QueueName {
    QueueName { kind: QueueKind::Lock, name: Bytes::copy_from_slice(name.as_bytes()) }
}

#[test]
fn scripts() {
    let count = run_all("src/replica/testscripts", Script::new);
    assert!(count >= 25, "only {count} scripts were found");
}

/// No seed of the simulator has shown it: its clocks would have to part just when an answer is
/// slow.
#[test]
fn a_promise_that_is_counted_from_the_answer_is_noticed() {
    use crate::base::mutation::{AVAILABLE, Mutation};
    if !AVAILABLE {
        return;
    }
    let name = "granted_lease_is_promised_from_when_it_was_asked_for";
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/replica/testscripts/");
    let script = std::fs::read_to_string(format!("{folder}{name}")).unwrap();
    let run = || goldenscript::generate(&mut Script::new(), &script).unwrap();
    assert_eq!(run(), script, "{name} fails without an error");
    assert_ne!(Mutation::PromiseFromAnswer.with(run), script, "{name} does not notice it");
}
