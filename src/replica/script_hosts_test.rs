//! The hosts of a scripted cluster: replicas, their disks, clocks, links and watchers, and one
//! readable line for everything that happens.
//!
//! Everything is delivered at once and in order, unless a link is cut or held or a host is paused.
//! Which lines a script sees, and its commands, are in `script_test.rs`. Random faults belong to
//! the simulator in `tests/sim`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use crate::base::{Boot, Instant, LeaseId, NodeId, RequestId, Rng, Span, WallMillis};
use crate::raft::{Body, Entry, Payload, Role};
use crate::replica::cluster_test::blank_log;
use crate::replica::{Action, Event, Now, Options, Promise, Recovery, Replica, Ticket};
use crate::state::{Command, EventKind, Operation, Row, RowKey, Selection, StateMachine};
use crate::storage::{LogBatch, RecoveredLog};
use crate::watch::{Cursor, Delivery, WatchEnd};
use crate::wire::{PeerMessage, decode_command, decode_stamped};

/// What a host's disk holds: every write is durable at once.
struct Disk {
    log: RecoveredLog,
    rows: BTreeMap<RowKey, Row>,
}

impl Disk {
    fn write(&mut self, batch: LogBatch) {
        self.log.hard_state = batch.hard_state.unwrap_or(self.log.hard_state);
        for entries in batch.entries {
            if let Some(first) = entries.first() {
                self.log.entries.retain(|entry| entry.index < first.index);
                self.log.entries.extend(entries);
            }
        }
        if let Some(cut) = batch.cut {
            self.log.entries.retain(|entry| entry.index > cut.index);
            self.log.cut = cut;
        }
    }
}

/// One host.
struct Host {
    /// Gone while its process does not run.
    replica: Option<Replica>,
    disk: Disk,
    /// By how much its clock is ahead.
    ahead: Span,
    paused: bool,
    role: Option<(Role, Option<NodeId>)>,
    promises: BTreeMap<LeaseId, Promise>,
    watchers: BTreeMap<String, Cursor>,
}

/// What messages are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    /// None.
    None,
    /// Requests, keepalives, and what answers them.
    #[default]
    Requests,
    /// Every message of the core too.
    All,
}

/// All hosts, and what has happened since the last command.
pub(super) struct Hosts {
    hosts: BTreeMap<NodeId, Host>,
    now: Instant,
    network: VecDeque<(NodeId, NodeId, PeerMessage)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    held: BTreeMap<(NodeId, NodeId), VecDeque<PeerMessage>>,
    /// The last request that went over each link, to be repeated.
    last_requests: BTreeMap<(NodeId, NodeId), PeerMessage>,
    /// What each ticket asked to read when it is answered.
    pub(super) reads: BTreeMap<Ticket, String>,
    /// The names by which leases are shown.
    pub(super) leases: BTreeMap<LeaseId, String>,
    pub(super) shown: Shown,
    pub(super) output: String,
    options: Options,
}

impl Hosts {
    pub(super) fn new(size: u64, options: Options) -> Self {
        let mut all = Self {
            hosts: BTreeMap::new(),
            now: Instant::ZERO,
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            held: BTreeMap::new(),
            last_requests: BTreeMap::new(),
            reads: BTreeMap::new(),
            leases: BTreeMap::new(),
            shown: Shown::default(),
            output: String::new(),
            options,
        };
        for node in (1..=size).map(NodeId) {
            let mut log = blank_log(node, size);
            log.boot = Boot(0);
            let host = Host {
                replica: None,
                disk: Disk { log, rows: BTreeMap::new() },
                ahead: Span::ZERO,
                paused: false,
                role: None,
                promises: BTreeMap::new(),
                watchers: BTreeMap::new(),
            };
            all.hosts.insert(node, host);
            all.start(node);
        }
        all
    }

    /// Starts a host's process from what its disk holds.
    pub(super) fn start(&mut self, node: NodeId) {
        let (options, now) = (self.options.clone(), self.clock(node));
        let host = self.hosts.get_mut(&node).expect("scripts name hosts that exist");
        host.disk.log.boot = Boot(host.disk.log.boot.get() + 1);
        let machine = (!host.disk.rows.is_empty()).then(|| {
            StateMachine::restore(host.disk.rows.clone()).expect("these rows were saved by it")
        });
        let recovery = Recovery { log: host.disk.log.clone(), machine };
        let rng = Rng::new(node.get());
        let replica = Replica::recover(recovery, options, rng, now.instant);
        host.replica = Some(replica.expect("the disk holds what it wrote"));
        host.role = None;
        host.promises.clear();
    }

    /// Ends a host's process: what it had in memory is gone, and its watchers with it.
    pub(super) fn crash(&mut self, node: NodeId) {
        let host = self.host(node);
        host.replica = None;
        host.watchers.clear();
        self.network.retain(|(from, to, _)| *from != node && *to != node);
        self.held.retain(|(from, to), _| *from != node && *to != node);
    }

    pub(super) fn pause(&mut self, node: NodeId, paused: bool) {
        self.host(node).paused = paused;
    }

    pub(super) fn set_ahead(&mut self, node: NodeId, ahead: Span) {
        self.host(node).ahead = ahead;
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub(super) fn isolate(&mut self, node: NodeId) {
        for &other in self.hosts.keys().filter(|other| **other != node) {
            self.cut.extend([(node, other), (other, node)]);
        }
    }

    /// Ends every cut and delivers what is held.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        let held: Vec<(NodeId, NodeId)> = self.held.keys().copied().collect();
        for (from, to) in held {
            self.free(from, to);
        }
    }

    /// Delivers what is held between two hosts, and holds no more.
    pub(super) fn free(&mut self, from: NodeId, to: NodeId) {
        let messages = self.held.remove(&(from, to)).unwrap_or_default();
        self.network.extend(messages.into_iter().map(|message| (from, to, message)));
    }

    /// What `from` sends to `to` waits from now on.
    pub(super) fn hold(&mut self, from: NodeId, to: NodeId) {
        self.held.entry((from, to)).or_default();
    }

    /// The last request or keepalive from `from` to `to` arrives once more.
    pub(super) fn repeat(&mut self, from: NodeId, to: NodeId) -> Result<(), String> {
        let last = self.last_requests.get(&(from, to)).cloned();
        let message = last.ok_or(format!("n{from} never sent a request to n{to}"))?;
        self.network.push_back((from, to, message));
        Ok(())
    }

    /// A node campaigns now: its clock is put forward to its deadline for a moment.
    pub(super) fn campaign(&mut self, node: NodeId) {
        let now = self.clock(node);
        let host = self.host(node);
        let replica = host.replica.as_mut().expect("a node that campaigns runs");
        let due = replica.raft().next_deadline().unwrap_or(now.instant);
        host.ahead = host.ahead + due.since(now.instant);
        self.settle();
    }

    pub(super) fn now_of(&self, node: NodeId) -> Instant {
        self.now + self.hosts[&node].ahead
    }

    pub(super) fn event(&mut self, node: NodeId, event: Event) -> Result<(), String> {
        let now = self.clock(node);
        let host = self.host(node);
        let replica = host.replica.as_mut().ok_or(format!("n{node} does not run"))?;
        replica.handle(now, event);
        Ok(())
    }

    pub(super) fn add_watcher(&mut self, node: NodeId, name: String, cursor: Cursor) {
        self.host(node).watchers.insert(name, cursor);
    }

    /// Looks at a host's view.
    pub(super) fn view<T>(
        &self,
        node: NodeId,
        look: impl FnOnce(&crate::replica::View) -> T,
    ) -> Result<T, String> {
        let replica = self.hosts[&node].replica.as_ref().ok_or(format!("n{node} does not run"))?;
        let view = replica.shared_view();
        let view = view.read().expect("no script panics while it reads");
        Ok(look(&view))
    }

    /// Lets time pass from deadline to deadline.
    pub(super) fn advance(&mut self, span: Span) {
        let end = self.now + span;
        let mut stuck = 0;
        loop {
            self.settle();
            let next = self
                .hosts
                .values()
                .filter(|host| !host.paused)
                .filter_map(|host| {
                    let deadline = host.replica.as_ref()?.next_deadline()?;
                    Some(Instant::ZERO + deadline.since(Instant::ZERO + host.ahead))
                })
                .min();
            match next {
                Some(next) if next <= end => {
                    stuck = if next > self.now { 0 } else { stuck + 1 };
                    assert!(stuck < 100, "a deadline at {next} is never acted on");
                    self.now = self.now.max(next);
                }
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    /// Delivers everything until nothing is left to do at this instant.
    pub(super) fn settle(&mut self) {
        loop {
            let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
            for node in nodes {
                self.poll(node);
            }
            let Some((from, to, message)) = self.network.pop_front() else { break };
            if self.cut.contains(&(from, to)) || self.host(to).paused {
                self.show_message(from, to, &message, " lost");
                continue;
            }
            if let Some(held) = self.held.get_mut(&(from, to)) {
                held.push_back(message.clone());
                self.show_message(from, to, &message, " held back");
                continue;
            }
            self.show_message(from, to, &message, "");
            let now = self.clock(to);
            if let Some(replica) = &mut self.host(to).replica {
                replica.handle(now, Event::PeerMessage { from, message });
            }
        }
    }

    pub(super) fn status(&mut self) {
        let mut lines = String::new();
        for (node, host) in &self.hosts {
            let Some(replica) = &host.replica else {
                writeln!(lines, "n{node} does not run").expect("strings grow");
                continue;
            };
            let status = replica.status();
            let (role, term) = (role(status.role), status.term);
            let view = replica.shared_view();
            let view = view.read().expect("no script panics while it reads");
            let revision = view.machine.revision();
            let (commit, applied) = (status.commit, status.applied);
            writeln!(
                lines,
                "n{node} {role} term {term} commit {commit} applied {applied} revision {revision}"
            )
            .expect("strings grow");
        }
        self.output.push_str(&lines);
    }

    fn host(&mut self, node: NodeId) -> &mut Host {
        self.hosts.get_mut(&node).expect("scripts name hosts that exist")
    }

    fn clock(&self, node: NodeId) -> Now {
        let instant = self.now_of(node);
        Now { instant, wall: WallMillis(1_000_000 + instant.as_micros() / 1_000) }
    }

    fn poll(&mut self, node: NodeId) {
        loop {
            let now = self.clock(node);
            let host = self.host(node);
            let Some(replica) = host.replica.as_mut().filter(|_| !host.paused) else { return };
            let applied = replica.status().applied;
            let actions = replica.poll(now);
            crate::raft::check(replica.raft());
            self.show_role(node);
            self.show_applied(node, applied);
            let mut completed = Vec::new();
            for action in actions {
                completed.extend(self.carry_out(node, action));
            }
            self.show_promises(node);
            self.show_deliveries(node);
            let Some(replica) = &mut self.host(node).replica else { return };
            if completed.is_empty() {
                return;
            }
            for event in completed {
                replica.handle(now, event);
            }
        }
    }

    fn carry_out(&mut self, node: NodeId, action: Action) -> Option<Event> {
        match action {
            Action::Answer { ticket, result } => self.show_answer(node, ticket, &result),
            Action::Fatal(reason) => {
                self.line(format!("n{node} stops: {reason}"));
                self.host(node).replica = None;
            }
            Action::MembersReply { .. } => {}
            // The log of a script is never long enough to be cut behind a member.
            Action::Published(_) | Action::Snapshot(_) => {}
            Action::Save(changes) => {
                let rows = &mut self.host(node).disk.rows;
                for change in changes {
                    match change.row {
                        Some(row) => drop(rows.insert(change.key, row)),
                        None => drop(rows.remove(&change.key)),
                    }
                }
                return Some(Event::Saved);
            }
            Action::Send { to, message } => {
                if !matches!(message, PeerMessage::Raft(_)) {
                    self.last_requests.insert((node, to), message.clone());
                }
                self.network.push_back((node, to, message));
            }
            Action::Write { token, batch } => {
                let appended: Vec<Entry> = batch.entries.iter().flatten().cloned().collect();
                for entry in appended {
                    let (index, term) = (entry.index, entry.term);
                    let what = describe_entry(&entry);
                    self.line(format!("n{node} writes {index} term {term}: {what}"));
                }
                self.host(node).disk.write(batch);
                return Some(Event::Written(token));
            }
        }
        None
    }

    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.output.push_str(line.as_ref());
        self.output.push('\n');
    }

    fn show_role(&mut self, node: NodeId) {
        let host = self.host(node);
        let Some(replica) = &host.replica else { return };
        let (role, leader, term) =
            (replica.raft().role(), replica.raft().leader(), replica.raft().term());
        if host.role.replace((role, leader)) == Some((role, leader)) {
            return;
        }
        let line = match (role, leader) {
            (Role::Leader, _) => format!("n{node} leads term {term}"),
            (Role::Follower | Role::Learner, Some(leader)) => {
                format!("n{node} follows n{leader} in term {term}")
            }
            (Role::Follower | Role::Learner, None) => format!("n{node} knows no leader"),
            (Role::PreCandidate, _) => format!("n{node} asks who would vote for it"),
            (Role::Candidate, _) => format!("n{node} campaigns for term {term}"),
        };
        self.line(line);
    }

    fn show_applied(&mut self, node: NodeId, before: crate::base::Index) {
        let Some(replica) = &self.host(node).replica else { return };
        let mut lines = Vec::new();
        let mut index = before.next();
        while index <= replica.status().applied {
            let what = replica.raft().entry(index).map_or("(cut)".to_owned(), describe_entry);
            lines.push(format!("n{node} applies {index}: {what}"));
            index = index.next();
        }
        for line in lines {
            self.line(line);
        }
    }

    fn show_promises(&mut self, node: NodeId) {
        let now = self.now_of(node);
        let names = self.leases.clone();
        let host = self.host(node);
        let Some(replica) = &host.replica else { return };
        let view = replica.shared_view();
        let view = view.read().expect("no script panics while it reads");
        let mut lines = Vec::new();
        for (lease, name) in &names {
            let promise = view.promises.promise(*lease, now);
            let before = match promise {
                Some(promise) => host.promises.insert(*lease, promise),
                None => host.promises.remove(lease),
            };
            let state = promise.map(|promise| promise.state);
            if state == before.map(|promise| promise.state) {
                continue;
            }
            lines.push(match promise {
                Some(promise) => format!("n{node} says of {name}'s lease: {:?}", promise.state),
                None => format!("n{node} says nothing more of {name}'s lease"),
            });
        }
        drop(view);
        for line in lines {
            self.line(line);
        }
    }

    fn show_deliveries(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).expect("scripts name hosts that exist");
        let Some(replica) = &host.replica else { return };
        let view = replica.shared_view();
        let view = view.read().expect("no script panics while it reads");
        let mut lines = Vec::new();
        let mut ended = Vec::new();
        for (name, cursor) in &mut host.watchers {
            loop {
                let delivery = cursor.next(&view.history, &view.machine, usize::MAX);
                let over = matches!(delivery, Delivery::Ended(_));
                if matches!(delivery, Delivery::Idle) {
                    break;
                }
                lines.push(format!("{name} on n{node} gets {}", describe_delivery(&delivery)));
                if over {
                    ended.push(name.clone());
                    break;
                }
            }
        }
        drop(view);
        for name in ended {
            host.watchers.remove(&name);
        }
        for line in lines {
            self.line(line);
        }
    }

    fn show_answer(
        &mut self,
        node: NodeId,
        ticket: Ticket,
        result: &Result<crate::state::Outcome, crate::replica::RequestError>,
    ) {
        use crate::state::Outcome;
        let name = format!("t{}", ticket.0);
        if let Ok(Outcome::Granted { lease, .. } | Outcome::Acquired { lease, .. }) = result {
            self.leases.entry(*lease).or_insert_with(|| name.clone());
        }
        let what = match result {
            Err(error) => format!("{error:?}"),
            Ok(Outcome::Done { .. }) if self.reads.contains_key(&ticket) => {
                self.read_now(node, ticket)
            }
            Ok(Outcome::Acquired { token, ahead, .. }) => {
                let place = if *ahead == 0 { "held".to_owned() } else { format!("{ahead} ahead") };
                format!("{place}, token {token}")
            }
            Ok(Outcome::Granted { .. }) => "granted".to_owned(),
            Ok(Outcome::Put { revision, version, .. }) => {
                format!("put at revision {revision}, version {version}")
            }
            Ok(outcome) => format!("{outcome:?}"),
        };
        self.line(format!("{name} on n{node}: {what}"));
    }

    fn read_now(&self, node: NodeId, ticket: Ticket) -> String {
        let key = &self.reads[&ticket];
        let read = self.view(node, |view| {
            let record = view.machine.get(key.as_bytes(), None).expect("the present is readable");
            record.map_or("absent".to_owned(), |record| text(&record.value))
        });
        format!("{key} is {}", read.expect("it has just answered"))
    }

    fn show_message(&mut self, from: NodeId, to: NodeId, message: &PeerMessage, fate: &str) {
        let is_request = !matches!(message, PeerMessage::Raft(_));
        let shown = match self.shown {
            Shown::None => false,
            Shown::Requests => is_request,
            Shown::All => true,
        };
        if shown {
            let what = describe_message(message, &self.leases);
            self.line(format!("n{from} -> n{to} {what}{fate}"));
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Candidate => "candidate",
        Role::Follower => "follower",
        Role::Leader => "leader",
        Role::Learner => "learner",
        Role::PreCandidate => "pre-candidate",
    }
}

fn describe_message(message: &PeerMessage, names: &BTreeMap<LeaseId, String>) -> String {
    match message {
        PeerMessage::Digest(report) => {
            format!("has digest {:016x} at {}", report.digest, report.index)
        }
        PeerMessage::StateWanted => "wants the state".to_owned(),
        PeerMessage::Disk(report) => format!("disk: {report:?}"),
        PeerMessage::Diverged(report) => {
            format!("says that the digest at {} is another", report.index)
        }
        PeerMessage::Forward { commands } => {
            let describe = |forwarded: &crate::wire::ForwardedCommand| {
                let command = decode_command(&forwarded.command).expect("it was encoded here");
                format!("{} (attempt {})", describe_command(&command), forwarded.attempt)
            };
            let commands: Vec<String> = commands.iter().map(describe).collect();
            format!("forwards {}", commands.join(", "))
        }
        PeerMessage::ForwardRefused { requests, reason } => {
            format!("refuses {} requests: {reason:?}", requests.len())
        }
        PeerMessage::Keepalive(request) => {
            format!("keeps alive {}", name_leases(&request.leases, names))
        }
        PeerMessage::KeepaliveAnswer(answer) if answer.gone.is_empty() => {
            "confirms the keepalive".to_owned()
        }
        PeerMessage::KeepaliveAnswer(answer) => {
            format!("confirms the keepalive, gone: {}", name_leases(&answer.gone, names))
        }
        PeerMessage::Snapshot(message) => format!("{message:?}"),
        PeerMessage::Members(request) => format!("orders {:?}", request.order),
        PeerMessage::MembersAnswer(answer) => format!("replies {:?}", answer.reply),
        PeerMessage::Raft(message) => describe_body(&message.body),
    }
}

/// Hosts' own leases have no names in a script.
fn name_leases(leases: &[LeaseId], names: &BTreeMap<LeaseId, String>) -> String {
    let name = |lease: &LeaseId| match names.get(lease) {
        Some(name) => format!("{name}'s lease"),
        None => "its host's lease".to_owned(),
    };
    let all: Vec<String> = leases.iter().map(name).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(" and ") }
}

fn describe_body(body: &Body) -> String {
    match body {
        Body::AppendRequest { prev_index, entries, commit, .. } => {
            format!("append {} after {prev_index}, commit {commit}", entries.len())
        }
        Body::AppendAccepted { matched } => format!("accepted up to {matched}"),
        Body::Heartbeat { commit, round, .. } => format!("heartbeat {round}, commit {commit}"),
        Body::HeartbeatResponse { round, .. } => format!("heard {round}"),
        Body::VoteRequest { campaign, last_index, last_term } => {
            format!("asks for {campaign:?} with {last_index} of term {last_term}")
        }
        Body::VoteResponse { campaign, granted } => format!("{campaign:?}: {granted}"),
        other => format!("{other:?}"),
    }
}

fn describe_entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Command(bytes) => match decode_stamped(bytes) {
            Ok((_, command)) => describe_command(&command),
            Err(error) => format!("not understood: {error}"),
        },
        Payload::Empty => "empty".to_owned(),
        Payload::Membership(_) => "membership".to_owned(),
    }
}

/// `n2#3 put k=v`: the third request of node 2's first boot.
fn describe_command(command: &Command) -> String {
    let RequestId { node, boot, sequence } = command.request;
    let number = sequence.get() & u64::from(u32::MAX);
    let boot = if boot == Boot(1) { String::new() } else { format!(".{}", boot.get()) };
    format!("n{node}{boot}#{number} {}", describe_operation(&command.operation))
}

fn describe_operation(operation: &Operation) -> String {
    match operation {
        Operation::Acquire(acquire) => format!("acquire {}", text(&acquire.queue.name)),
        Operation::Compact { revision } => format!("compact to {revision}"),
        Operation::Delete { selection: Selection::Key(key), .. } => format!("delete {}", text(key)),
        Operation::Delete { selection: Selection::Prefix(prefix), .. } => {
            format!("delete {}*", text(prefix))
        }
        Operation::ExpireLeases { term, leases } => {
            format!("expire {} leases, says the leader of term {term}", leases.len())
        }
        Operation::GrantLease(lease) => match lease.bind {
            crate::state::Bind::Node => "grant its host's lease".to_owned(),
            _ => format!("grant a lease of {}", lease.ttl),
        },
        Operation::NodeBooted => "booted".to_owned(),
        Operation::Put { key, value, .. } => format!("put {}={}", text(key), text(value)),
        Operation::Release { queue, token } => format!("release {} {token}", text(&queue.name)),
        Operation::RevokeLeases { leases } => format!("revoke {} leases", leases.len()),
        other => format!("{other:?}"),
    }
}

fn describe_delivery(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Changes { events, selection } => {
            let change = |event: &crate::state::Event| {
                let key = text(&event.record.key);
                match event.kind {
                    EventKind::Delete => format!("delete {key}"),
                    EventKind::Put => format!("put {key}={}", text(&event.record.value)),
                }
            };
            let changes: Vec<String> = selection.events(events).map(change).collect();
            format!("revision {}: {}", events.revision, changes.join(", "))
        }
        Delivery::Ended(WatchEnd::Compacted { compact_revision, .. }) => {
            format!("the end: compacted at {compact_revision}")
        }
        Delivery::Ended(WatchEnd::Lagged { last_sent }) => {
            format!("the end: lagged at {last_sent}")
        }
        Delivery::Idle => "nothing".to_owned(),
        Delivery::Resync { revision, .. } => format!("resync at revision {revision}"),
        Delivery::Snapshot { revision, records, .. } => {
            format!("a snapshot of {} keys at revision {revision}", records.len())
        }
        Delivery::Synced { revision } => format!("synced at revision {revision}"),
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
