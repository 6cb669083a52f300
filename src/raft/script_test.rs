//! Golden scripts: several cores on a scripted network, every effect printed.
//!
//! Each file below `testscripts` claims one thing in its name and says at its head why that
//! matters. `UPDATE_GOLDENFILES=1 cargo test raft::` writes the output anew; it is then read line
//! by line.
//!
//! Commands (`N` is a node; times are milliseconds of one common clock):
//!
//! - `cluster 1/2/3 [outgoing=..] [learners=..] [window=..] [batch=..] [pause=micros]` starts nodes
//!   with empty logs; `node N voters=.. [log=1/1/2] [term=..] [vote=..] [commit=..] [applied=..]
//!   [start=index@term] [config3="voters;outgoing;learners"]` starts one with a history, whose
//!   entry 3 is a configuration.
//! - `timeout N` jumps to the deadline of `N` and lets only it act; `wait MS` passes time,
//!   everybody acting when due; `late N MS` lets only `N` act at once, after time has passed.
//! - `deliver N [from=..] [at=..] [copy]` hands the oldest message (or the one at a place) to `N`,
//!   and with `copy` leaves it in the network; `drop N [from=..]` loses all; `stabilize` delivers
//!   until nothing moves; `cut A B`, `cut A to=B` (one way), `heal`.
//! - `slow N` holds the writes of `N` until `write N` makes the oldest durable and sends what
//!   waited for it; `persisted N TOKEN` reports it later when `slow N silent` was used; `fast N`.
//! - `change N 1/2/4 [learners=..] [goal="voters;learners"]` asks the leader `N` for a change of
//!   membership, `transfer N M` to hand over to `M`; `membership` shows the configuration in force
//!   on each node, with the index of the newest committed one, `contacts N` whom it talks to.
//! - `propose N words..`, `read N context`, `lost N peer`, `crash N`, `restart N`, `compact N
//!   index`, `compactable N [entries]`.
//! - `snapshot FROM TO` starts a snapshot of what `FROM` has applied; `saved TO` makes it durable
//!   at `TO` and `install TO [at=..]` says so to its core; `ended FROM TO` ends it at the sender.
//! - `send FROM TO term=.. KIND ..` forges a message. `status`, `log N`, `progress N`, `network`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::ArgumentConsumer;

use crate::base::scripts_test::run_all;
use crate::base::{Index, Instant, NodeId, ReadContext, Rng, Span, Term};
use crate::raft::{
    AppendRejection, Body, Campaign, Entry, Goal, HardState, LogStart, Member, Membership, Message,
    Options, Payload, PersistToken, Raft, Ready, Restored, Retain, check,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Machine {
    raft: Option<Raft>,
    disk: Restored,
    /// In the saved state, and not in the log yet.
    installing: Option<LogStart>,
    /// Snapshots that are on their way here.
    arriving: Vec<LogStart>,
    held: VecDeque<Ready>,
    slow: bool,
    silent: bool,
    shown: (String, Index),
}

#[derive(Default)]
struct Script {
    now: Instant,
    options: Options,
    /// What learners wait per learner; nothing unless a script asks for it.
    pause: Span,
    machines: BTreeMap<NodeId, Machine>,
    network: Vec<Message>,
    cut: BTreeSet<(NodeId, NodeId)>,
    out: String,
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Outcome<String> {
        self.out.clear();
        let mut args = command.consume_args();
        self.execute(&command.name, &mut args)?;
        args.reject_next()?;
        for machine in self.machines.values() {
            machine.raft.iter().for_each(check);
        }
        Ok(std::mem::take(&mut self.out))
    }
}

impl Script {
    fn execute(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        match name {
            "cluster" => self.cluster(args),
            "node" => self.node(args),
            "timeout" => {
                let node = id(args)?;
                let due = self.raft(node)?.next_deadline().ok_or("no deadline")?;
                self.now = self.now.max(due);
                self.act(node, |raft, now| raft.timeout(now))
            }
            "wait" => self.wait(number(args)?),
            "late" => {
                let node = id(args)?;
                self.now += Span::from_millis(number(args)?);
                self.act(node, |raft, now| raft.timeout(now))
            }
            "deliver" => self.deliver(args),
            "drop" => {
                let (to, from) = (id(args)?, opt_id(args, "from")?);
                let lost = |message: &Message| {
                    message.to == to && from.is_none_or(|from| message.from == from)
                };
                for message in self.network.extract_if(.., |message| lost(message)) {
                    writeln!(self.out, "lost: {}", show(&message))?;
                }
                Ok(())
            }
            "stabilize" => self.stabilize(),
            "cut" => {
                let a = id(args)?;
                if let Some(b) = opt_id(args, "to")? {
                    self.cut.insert((a, b));
                    return Ok(());
                }
                let others: Vec<NodeId> = match args.next_pos() {
                    Some(text) => ids(text)?,
                    None => self.machines.keys().copied().filter(|other| *other != a).collect(),
                };
                for b in others {
                    self.cut.extend([(a, b), (b, a)]);
                }
                Ok(())
            }
            "heal" => {
                self.cut.clear();
                Ok(())
            }
            "slow" => {
                let node = id(args)?;
                let silent = args.next_pos() == Some("silent");
                let machine = self.machine(node)?;
                (machine.slow, machine.silent) = (true, silent);
                Ok(())
            }
            "fast" => {
                let node = id(args)?;
                self.machine(node)?.slow = false;
                while self.write_oldest(node)? {}
                Ok(())
            }
            "write" => {
                let node = id(args)?;
                if self.write_oldest(node)? { Ok(()) } else { Err("nothing to write".into()) }
            }
            "persisted" => {
                let (node, token) = (id(args)?, PersistToken(number(args)?));
                self.act(node, |raft, now| raft.persisted(now, token))
            }
            "propose" => {
                let node = id(args)?;
                let words: Vec<Bytes> =
                    args.by_ref().map(|word| Bytes::from(word.to_string())).collect();
                let mut result = None;
                self.act(node, |raft, now| result = Some(raft.propose(now, words)))?;
                match result.ok_or("not asked")? {
                    Ok(proposed) => {
                        let (term, first, last) = (proposed.term, proposed.first, proposed.last);
                        self.out.insert_str(0, &format!("proposed {first}..{last} in {term}\n"));
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                }
            }
            "read" => {
                let (node, context) = (id(args)?, ReadContext(number(args)?));
                let mut result = None;
                self.act(node, |raft, now| result = Some(raft.read(now, context)))?;
                Ok(result.ok_or("not asked")??)
            }
            "change" => self.change(args),
            "transfer" => {
                let (node, to) = (id(args)?, id(args)?);
                let mut result = None;
                self.act(node, |raft, now| result = Some(raft.transfer(now, to)))?;
                Ok(result.ok_or("not asked")??)
            }
            "lost" => {
                let (node, peer) = (id(args)?, id(args)?);
                self.act(node, |raft, now| raft.leader_lost(now, peer))
            }
            "crash" => {
                let node = id(args)?;
                let machine = self.machine(node)?;
                machine.raft = None;
                machine.held.clear();
                Ok(())
            }
            "restart" => {
                let node = id(args)?;
                self.start(node)
            }
            "compact" => {
                let (node, index) = (id(args)?, Index(number(args)?));
                self.act(node, |raft, _| {
                    raft.compact(index);
                })
            }
            "send" => self.forge(args),
            "snapshot" | "saved" | "install" | "ended" => self.snapshot(name, args),
            "membership" => self.memberships(),
            "status" | "log" | "progress" | "network" | "compactable" | "contacts" => {
                self.look(name, args)
            }
            _ => Err(format!("no such command: {name}").into()),
        }
    }

    fn change(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let node = id(args)?;
        let voters = args.next_pos().ok_or("which voters?")?;
        let learners = args.take_key("learners").unwrap_or("");
        let outgoing = args.take_key("outgoing").unwrap_or("");
        let mut target = configuration(&format!("{voters};{outgoing};{learners}"))?;
        if let Some(goal) = args.take_key("goal") {
            let (voters, learners) = goal.split_once(';').unwrap_or((goal, ""));
            let voters = ids(voters)?.into_iter().collect();
            let goal = Goal { voters, learners: ids(learners)?.into_iter().collect() };
            target = target.with_goal(Some(goal))?;
        }
        let mut result = None;
        self.act(node, |raft, now| result = Some(raft.change_membership(now, target)))?;
        let proposed = result.ok_or("not asked")??;
        self.out.insert_str(0, &format!("proposed {} in {}\n", proposed.last, proposed.term));
        Ok(())
    }

    fn memberships(&mut self) -> Outcome<()> {
        for (node, machine) in &self.machines {
            let Some(raft) = &machine.raft else { continue };
            let (committed, _) = raft.committed_membership();
            let (index, now) = (raft.membership_index(), show_membership(raft.membership()));
            writeln!(self.out, "{node}: {now} since {index}, committed {committed}")?;
        }
        Ok(())
    }

    fn cluster(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        if let Some(window) = args.take_key("window") {
            self.options.inflight_messages_max = window.parse()?;
        }
        if let Some(micros) = args.take_key("pause") {
            self.pause = Span::from_micros(micros.parse()?);
        }
        if let Some(batch) = args.take_key("batch") {
            self.options.append_entries_max = batch.parse()?;
        }
        if let Some(bytes) = args.take_key("uncommitted") {
            self.options.uncommitted_bytes_max = bytes.parse()?;
        }
        let voters = args.next_pos().ok_or("which voters?")?;
        let outgoing = args.take_key("outgoing").unwrap_or("");
        let learners = args.take_key("learners").unwrap_or("");
        let membership = configuration(&format!("{voters};{outgoing};{learners}"))?;
        for node in membership.members().keys().copied() {
            self.place(node, restored(membership.clone()))?;
        }
        Ok(())
    }

    fn node(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let node = id(args)?;
        let voters = args.take_key("voters").ok_or("which voters?")?;
        let outgoing = args.take_key("outgoing").unwrap_or("");
        let learners = args.take_key("learners").unwrap_or("");
        let mut disk = restored(configuration(&format!("{voters};{outgoing};{learners}"))?);
        if let Some((index, term)) = args.take_key("start").and_then(|text| text.split_once('@')) {
            disk.snapshot_index = Index(index.parse()?);
            disk.snapshot_term = Term(term.parse()?);
        }
        let mut index = disk.snapshot_index;
        for term in args.take_key("log").unwrap_or("").split('/').filter(|term| !term.is_empty()) {
            index = index.next();
            let payload = match args.take_key(&format!("config{index}")) {
                Some(text) => Payload::Membership(configuration(text)?),
                None => Payload::Command(Bytes::from(format!("{term}.{index}"))),
            };
            disk.entries.push(Entry { term: Term(term.parse()?), index, payload });
        }
        let last_term = disk.entries.last().map_or(disk.snapshot_term, |entry| entry.term);
        let mut key = |name: &str, default: u64| -> Outcome<u64> {
            Ok(args.take_key(name).map_or(Ok(default), str::parse)?)
        };
        disk.hard_state = HardState {
            term: Term(key("term", last_term.0)?),
            vote: Some(NodeId(key("vote", 0)?)).filter(|vote| vote.0 > 0),
            commit: Index(key("commit", disk.snapshot_index.0)?),
        };
        disk.applied = Index(key("applied", disk.snapshot_index.0)?);
        self.place(node, disk)
    }

    fn place(&mut self, node: NodeId, disk: Restored) -> Outcome<()> {
        let (held, shown) = (VecDeque::new(), (String::new(), Index(0)));
        let (installing, arriving) = (None, Vec::new());
        let (slow, silent) = (false, false);
        let machine = Machine { raft: None, disk, installing, arriving, held, slow, silent, shown };
        self.machines.insert(node, machine);
        self.start(node)
    }

    fn start(&mut self, node: NodeId) -> Outcome<()> {
        let (now, mut options) = (self.now, self.options.clone());
        options.learner_pause = self.pause;
        let machine = self.machine(node)?;
        if let Some(point) = machine.installing.take() {
            begin_after(&mut machine.disk, &point);
        }
        let raft = Raft::new(node, options, machine.disk.clone(), Rng::new(node.0), now)?;
        machine.shown = (role(&raft), raft.commit());
        machine.raft = Some(raft);
        Ok(())
    }

    fn act(&mut self, node: NodeId, act: impl FnOnce(&mut Raft, Instant)) -> Outcome<()> {
        let now = self.now;
        let machine = self.machine(node)?;
        let raft = machine.raft.as_mut().ok_or("it is down")?;
        act(raft, now);
        self.settle(node)
    }

    /// Takes everything that is ready, prints it, and writes it unless the disk is slow.
    fn settle(&mut self, node: NodeId) -> Outcome<()> {
        loop {
            let machine = self.machines.get_mut(&node).ok_or("no such node")?;
            let raft = machine.raft.as_mut().ok_or("it is down")?;
            let was = machine.shown.clone();
            machine.shown = (role(raft), raft.commit());
            let now = machine.shown.clone();
            let ready = raft.has_ready().then(|| raft.ready());
            if was.0 != now.0 {
                writeln!(self.out, "{node}: {} becomes {}", was.0, now.0)?;
            }
            if was.1 != now.1 {
                writeln!(self.out, "{node}: commits {}", now.1)?;
            }
            let Some(mut ready) = ready else { return Ok(()) };
            self.print(node, &ready)?;
            for message in ready.messages.drain(..) {
                self.post(message)?;
            }
            if let Some(last) = ready.committed.last() {
                self.raft(node)?.applied(last.index);
                self.machine(node)?.disk.applied = last.index;
            }
            self.machine(node)?.held.push_back(ready);
            if !self.machine(node)?.slow {
                self.write_oldest(node)?;
            }
        }
    }

    fn print(&mut self, node: NodeId, ready: &Ready) -> Outcome<()> {
        if ready.must_sync {
            let slow = self.machine(node)?.slow;
            let mut line = format!("{node}: {}", if slow { "writes" } else { "wrote" });
            if let Some(cut) = &ready.cut {
                write!(line, " cut={}@{}", cut.index, cut.term)?;
            }
            if let Some(hard_state) = ready.hard_state {
                let vote = hard_state.vote.map_or("-".to_string(), |vote| vote.to_string());
                write!(line, " term={} vote={vote}", hard_state.term)?;
            }
            for entry in &ready.entries {
                write!(line, " {}", show_entry(entry))?;
            }
            if slow {
                write!(line, " (token {})", ready.token.0)?;
            }
            writeln!(self.out, "{line}")?;
        }
        for entry in &ready.committed {
            writeln!(self.out, "{node}: applies {}", show_entry(entry))?;
        }
        for member in &ready.snapshots {
            writeln!(self.out, "{node}: {member} needs a snapshot")?;
        }
        for read in &ready.reads {
            writeln!(self.out, "{node}: read {} may be served at {}", read.context, read.index)?;
        }
        for context in &ready.reads_aborted {
            writeln!(self.out, "{node}: read {context} is aborted")?;
        }
        Ok(())
    }

    fn post(&mut self, message: Message) -> Outcome<()> {
        let cut = self.cut.contains(&(message.from, message.to));
        let down = self.machines.get(&message.to).is_none_or(|machine| machine.raft.is_none());
        let fate = if cut || down { " (lost)" } else { "" };
        writeln!(self.out, "{}{fate}", show(&message))?;
        if !cut && !down {
            self.network.push(message);
        }
        Ok(())
    }

    fn write_oldest(&mut self, node: NodeId) -> Outcome<bool> {
        let machine = self.machine(node)?;
        let (slow, silent) = (machine.slow, machine.silent);
        let Some(ready) = machine.held.pop_front() else { return Ok(false) };
        if let Some(hard_state) = ready.hard_state {
            machine.disk.hard_state = hard_state;
        }
        if let Some(point) = &ready.cut {
            begin_after(&mut machine.disk, point);
            machine.installing = None;
        }
        if let Some(first) = ready.entries.first() {
            machine.disk.entries.retain(|entry| entry.index < first.index);
            machine.disk.entries.extend(ready.entries.iter().cloned());
        }
        if slow {
            writeln!(self.out, "{node}: token {} is durable", ready.token.0)?;
        }
        for message in ready.messages_after_persist {
            self.post(message)?;
        }
        if !silent {
            let token = ready.token;
            self.act(node, |raft, now| raft.persisted(now, token))?;
        }
        Ok(true)
    }

    fn wait(&mut self, millis: u64) -> Outcome<()> {
        let end = self.now + Span::from_millis(millis);
        loop {
            let due = self
                .machines
                .iter()
                .filter_map(|(node, machine)| {
                    Some((machine.raft.as_ref()?.next_deadline()?, *node))
                })
                .min();
            let Some((due, node)) = due.filter(|(due, _)| *due <= end) else { break };
            self.now = self.now.max(due);
            self.act(node, |raft, now| raft.timeout(now))?;
            self.stabilize()?;
        }
        self.now = end;
        Ok(())
    }

    fn deliver(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let (to, from) = (id(args)?, opt_id(args, "from")?);
        let at: usize = args.take_key("at").map_or(Ok(1), str::parse)?;
        let copy = args.next_pos() == Some("copy");
        let place = self
            .network
            .iter()
            .enumerate()
            .filter(|(_, message)| message.to == to && from.is_none_or(|from| message.from == from))
            .nth(at - 1)
            .ok_or("no such message")?
            .0;
        let message = self.network[place].clone();
        if !copy {
            self.network.remove(place);
        }
        self.act(to, |raft, now| raft.step(now, message))
    }

    fn stabilize(&mut self) -> Outcome<()> {
        for _ in 0..1_000 {
            if self.network.is_empty() {
                return Ok(());
            }
            let message = self.network.remove(0);
            if self.machine(message.to)?.raft.is_some() {
                self.act(message.to, |raft, now| raft.step(now, message))?;
            }
        }
        Err("it does not become quiet".into())
    }

    fn forge(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let (from, to) = (id(args)?, id(args)?);
        let kind = args.next_pos().ok_or("which message?")?;
        let mut key =
            |name: &str| -> Outcome<u64> { Ok(args.take_key(name).map_or(Ok(0), str::parse)?) };
        let term = Term(key("term")?);
        let last = (Index(key("last")?), Term(key("last_term")?));
        let prev = (Index(key("prev")?), Term(key("prev_term")?));
        let (commit, round) = (Index(key("commit")?), key("round")?);
        let (count, entry_term) = (key("count")?, Term(key("entry_term")?));
        let (context, index) = (ReadContext(key("context")?), Index(key("index")?));
        let hint = (Index(key("hint")?), Term(key("hint_term")?));
        let body = match kind {
            "append" => {
                let entries = (1..=count).map(|offset| Entry {
                    term: entry_term,
                    index: prev.0.plus(offset),
                    payload: Payload::Command(Bytes::from(format!(
                        "{entry_term}.{}",
                        prev.0.plus(offset)
                    ))),
                });
                let entries = entries.collect();
                Body::AppendRequest { prev_index: prev.0, prev_term: prev.1, entries, commit }
            }
            "accepted" => Body::AppendAccepted { matched: index },
            "rejected" => Body::AppendRejected(AppendRejection {
                prev_index: prev.0,
                last_index: last.0,
                hint_index: hint.0,
                hint_term: hint.1,
            }),
            "heartbeat" => Body::Heartbeat { commit, round, all_matched: index },
            "answer" => Body::HeartbeatResponse { round, last_index: last.0 },
            "timeout-now" => Body::TimeoutNow,
            "read" => Body::ReadRequest { context },
            "readable" => Body::ReadResponse { context, index },
            "prevote" | "transfer" | "vote" => {
                let campaign = campaign(kind)?;
                Body::VoteRequest { campaign, last_index: last.0, last_term: last.1 }
            }
            "prevote-yes" | "transfer-yes" | "vote-yes" => {
                Body::VoteResponse { campaign: campaign(kind)?, granted: true }
            }
            "prevote-no" | "transfer-no" | "vote-no" => {
                Body::VoteResponse { campaign: campaign(kind)?, granted: false }
            }
            _ => return Err(format!("no such message: {kind}").into()),
        };
        let message = Message { from, to, term, body };
        self.act(to, |raft, now| raft.step(now, message))
    }

    fn look(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        if name == "network" {
            for message in &self.network {
                writeln!(self.out, "{}", show(message))?;
            }
            return Ok(());
        }
        if name == "status" {
            for (node, machine) in &self.machines {
                let Some(raft) = &machine.raft else {
                    writeln!(self.out, "{node}: down")?;
                    continue;
                };
                let status = raft.status();
                writeln!(
                    self.out,
                    "{node}: {} leader={} vote={} last={} durable={} commit={} applied={}",
                    role(raft),
                    status.leader.map_or("-".to_string(), |leader| leader.to_string()),
                    status.vote.map_or("-".to_string(), |vote| vote.to_string()),
                    status.last_index,
                    status.persisted,
                    status.commit,
                    status.applied,
                )?;
            }
            return Ok(());
        }
        let node = id(args)?;
        let raft = self.raft(node)?;
        let mut out = String::new();
        match name {
            "compactable" => {
                let entries = args.next_pos().map_or(Ok(u64::MAX), str::parse)?;
                let retain = Retain { entries, bytes: u64::MAX };
                writeln!(out, "{node}: up to {}", raft.compactable(retain))?;
            }
            "contacts" => {
                let contacts: Vec<String> =
                    raft.contacts().keys().map(ToString::to_string).collect();
                writeln!(out, "{node}: talks to {}", contacts.join("/"))?;
            }
            "log" => {
                let status = raft.status();
                for index in (status.first_index.0..=status.last_index.0).map(Index) {
                    let entry = raft.entry(index).ok_or("a gap")?;
                    writeln!(out, "{}", show_entry(entry))?;
                }
                let voters: Vec<String> =
                    status.membership.voters().iter().map(ToString::to_string).collect();
                writeln!(out, "voters {}", voters.join("/"))?;
            }
            _ => {
                for (member, progress) in raft.status().progress {
                    let (state, next) = (progress.state, progress.next);
                    write!(out, "{member}: {state:?} matched={} next={next}", progress.matched)?;
                    if !progress.recent_active {
                        write!(out, " silent")?;
                    }
                    if progress.cut_off {
                        write!(out, " cut off")?;
                    }
                    writeln!(out)?;
                }
            }
        }
        self.out = out;
        Ok(())
    }

    fn snapshot(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let node = id(args)?;
        match name {
            "snapshot" => {
                let to = id(args)?;
                let raft = self.raft(node)?;
                let point = raft.log_start(raft.status().applied).ok_or("nothing to send")?;
                let voters: Vec<String> =
                    point.membership.voters().iter().map(ToString::to_string).collect();
                let (index, term) = (point.index, point.term);
                self.act(node, |raft, _| raft.snapshot_started(to, index))?;
                let voters = voters.join("/");
                writeln!(self.out, "{node}→{to} snapshot {index}@{term} voters={voters}")?;
                self.machine(to)?.arriving.push(point);
                Ok(())
            }
            "ended" => {
                let to = id(args)?;
                self.act(node, |raft, now| raft.snapshot_ended(now, to))
            }
            "saved" => {
                let machine = self.machine(node)?;
                let point = machine.arriving.last().cloned().ok_or("nothing has arrived")?;
                machine.disk.applied = machine.disk.applied.max(point.index);
                machine.installing = Some(point);
                Ok(())
            }
            _ => {
                let at: usize = args.take_key("at").map_or(Ok(1), str::parse)?;
                let machine = self.machine(node)?;
                if machine.arriving.len() < at {
                    return Err("nothing has arrived".into());
                }
                let point = machine.arriving.remove(at - 1);
                let (index, term) = (point.index, point.term);
                let mut installed = false;
                self.act(node, |raft, now| installed = raft.install(now, point.clone()))?;
                let what = if installed { "installed" } else { "already there" };
                self.out.insert_str(0, &format!("{node}: {index}@{term} {what}\n"));
                if installed {
                    let machine = self.machine(node)?;
                    machine.disk.applied = machine.disk.applied.max(index);
                    if machine.held.iter().any(|ready| ready.cut.is_some()) {
                        machine.installing = Some(point);
                    }
                }
                Ok(())
            }
        }
    }

    fn machine(&mut self, node: NodeId) -> Outcome<&mut Machine> {
        self.machines.get_mut(&node).ok_or_else(|| format!("no node {node}").into())
    }

    fn raft(&mut self, node: NodeId) -> Outcome<&mut Raft> {
        self.machine(node)?.raft.as_mut().ok_or_else(|| "it is down".into())
    }
}

/// What storage does with the log on disk when a state was installed.
fn begin_after(disk: &mut Restored, point: &LogStart) {
    let mut entries = disk.entries.iter();
    if entries.any(|entry| (entry.index, entry.term) == (point.index, point.term)) {
        disk.entries.retain(|entry| entry.index > point.index);
    } else {
        disk.entries.clear();
    }
    (disk.snapshot_index, disk.snapshot_term) = (point.index, point.term);
    disk.membership = point.membership.clone();
    if disk.hard_state.term < point.term {
        (disk.hard_state.term, disk.hard_state.vote) = (point.term, None);
    }
}

fn restored(membership: Membership) -> Restored {
    Restored {
        hard_state: HardState::default(),
        snapshot_index: Index(0),
        snapshot_term: Term(0),
        membership,
        entries: Vec::new(),
        applied: Index(0),
    }
}

fn configuration(text: &str) -> Outcome<Membership> {
    let mut parts = text.split(';');
    let mut part = || -> Outcome<BTreeSet<NodeId>> {
        Ok(ids(parts.next().unwrap_or(""))?.into_iter().collect())
    };
    let (voters, outgoing, learners) = (part()?, part()?, part()?);
    let members = voters
        .iter()
        .chain(&outgoing)
        .chain(&learners)
        .map(|node| (*node, Member { name: format!("n{node}"), address: String::new() }))
        .collect();
    Ok(Membership::new(voters, outgoing, learners, members)?)
}

fn campaign(kind: &str) -> Outcome<Campaign> {
    Ok(match kind.split('-').next() {
        Some("prevote") => Campaign::PreVote,
        Some("transfer") => Campaign::Transfer,
        _ => Campaign::Vote,
    })
}

fn ids(text: &str) -> Outcome<Vec<NodeId>> {
    let parts = text.split('/').filter(|part| !part.is_empty());
    parts.map(|part| Ok(NodeId(part.parse()?))).collect()
}

fn id(args: &mut ArgumentConsumer<'_>) -> Outcome<NodeId> {
    Ok(NodeId(number(args)?))
}

fn opt_id(args: &mut ArgumentConsumer<'_>, key: &str) -> Outcome<Option<NodeId>> {
    Ok(args.take_key(key).map(str::parse).transpose()?.map(NodeId))
}

fn number(args: &mut ArgumentConsumer<'_>) -> Outcome<u64> {
    Ok(args.next_pos().ok_or("a number is missing")?.parse()?)
}

fn role(raft: &Raft) -> String {
    format!("{:?}@{}", raft.role(), raft.term())
}

fn show_entry(entry: &Entry) -> String {
    let text = match &entry.payload {
        Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Empty => "-".to_string(),
        Payload::Membership(membership) => show_membership(membership),
    };
    format!("{}@{}:{text}", entry.index, entry.term)
}

fn show_membership(membership: &Membership) -> String {
    let mut text = format!("voters={:?}", membership.voters());
    let mut more = |what: &str, nodes: &BTreeSet<NodeId>| {
        if !nodes.is_empty() {
            text.push_str(&format!(" {what}={nodes:?}"));
        }
    };
    more("outgoing", membership.outgoing());
    more("learners", membership.learners());
    if let Some(goal) = membership.goal() {
        more("goal", &goal.voters);
        more("goal-learners", &goal.learners);
    }
    text
}

fn show(message: &Message) -> String {
    let text = match &message.body {
        Body::AppendRequest { prev_index, prev_term, entries, commit } => {
            let entries: Vec<String> = entries.iter().map(show_entry).collect();
            format!("append after {prev_index}@{prev_term} [{}] commit={commit}", entries.join(" "))
        }
        Body::AppendAccepted { matched } => format!("accepted up to {matched}"),
        Body::AppendRejected(rejection) => format!(
            "rejected after {}, last={} hint={}@{}",
            rejection.prev_index, rejection.last_index, rejection.hint_index, rejection.hint_term
        ),
        Body::Heartbeat { commit, round, all_matched } => {
            format!("heartbeat commit={commit} round={round} all={all_matched}")
        }
        Body::HeartbeatResponse { round, last_index } => {
            format!("heartbeat answered, round={round} last={last_index}")
        }
        Body::ReadRequest { context } => format!("read {context}?"),
        Body::ReadResponse { context, index } => format!("read {context} at {index}"),
        Body::TimeoutNow => "campaign now".to_string(),
        Body::VoteRequest { campaign, last_index, last_term } => {
            format!("{campaign:?}? last={last_index}@{last_term}")
        }
        Body::VoteResponse { campaign, granted } => {
            format!("{campaign:?} {}", if *granted { "granted" } else { "refused" })
        }
    };
    format!("{}→{} @{} {text}", message.from, message.to, message.term)
}

/// The folders of scripts.
const GROUPS: [&str; 7] =
    ["append", "commit", "election", "membership", "read", "snapshot", "transfer"];

#[test]
fn scripts_print_what_was_committed() {
    let folder = |group| format!("src/raft/testscripts/{group}");
    let scripts: usize = GROUPS.iter().map(|group| run_all(&folder(group), Script::default)).sum();
    assert!(scripts >= 130, "only {scripts} scripts were found");
}

/// Deliberate errors that only a certain scene shows: neither the model nor seeds of the simulator
/// come across it soon. A script must notice each: print something else, or end in a panic.
#[test]
fn scripts_notice_the_errors_that_only_a_scene_shows() {
    use crate::base::mutation::{AVAILABLE, Mutation};
    if !AVAILABLE {
        return;
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/testscripts");
    for (error, name) in [
        (
            Mutation::AnswerOfEarlierTermCounts,
            "append/late_answers_of_an_earlier_reign_are_ignored",
        ),
        (Mutation::AppendCommitsUnproven, "commit/append_commits_no_more_than_it_proves"),
        (Mutation::HeartbeatCommitsUnmatched, "append/member_behind_the_cut_log_is_held"),
        (Mutation::InstallKeepsLog, "snapshot/log_of_another_history_goes_as_a_whole"),
        (Mutation::SnapshotTakesNewestConfig, "snapshot/uncommitted_configuration_does_not_travel"),
    ] {
        let script = std::fs::read_to_string(root.join(name)).unwrap();
        let run = || goldenscript::generate(&mut Script::default(), &script).unwrap();
        assert_eq!(run(), script, "{name} fails without an error");
        let printed = std::panic::catch_unwind(|| error.with(run));
        assert!(printed.ok().as_ref() != Some(&script), "{name} does not notice {error:?}");
    }
}

/// The documents name scripts as what shows a rule: each must be there.
#[test]
fn scripts_that_the_documents_name_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for document in ["docs/raft.md", "docs/scripts.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for name in text.split('`').filter(|name| !name.contains(['*', ' '])) {
            let Some((group, script)) = name.split_once('/') else { continue };
            if GROUPS.contains(&group) && !script.is_empty() {
                let path = root.join("src/raft/testscripts").join(name);
                assert!(path.exists(), "{document} names {name}, which is not there");
                named += 1;
            }
        }
    }
    assert!(named > 150, "only {named} scripts are named");
}
