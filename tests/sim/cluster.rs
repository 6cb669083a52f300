//! The cluster under simulation: what happens next, to which node, and what comes of it.
//!
//! Everything that happens has a true time and a number; the smallest is next. Which faults there
//! are is decided in `faults.rs`, what callers do in `workload.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use quorumd::base::{ClusterId, Index, NodeId, Rng, Span};
use quorumd::raft::{Member, Membership};
use quorumd::replica::{Action, Event, Options};
use quorumd::storage::LogBatch;
use quorumd::wire::{FrameDecoder, Genesis, Hello, HelloAnswer, PeerMessage, encode_frame};

use crate::clocks::Clock;
use crate::disks::StateWork;
use crate::faults::Faults;
use crate::network::{Behaviour, Network};
use crate::node::Node;
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::run::{Lean, Plan};
use crate::trace::{Trace, brief};
use crate::workload::Workload;

/// What can happen.
#[derive(Debug)]
pub enum Happening {
    /// The answer to a hello arrives at its dialer.
    AnswerArrives { from: usize, to: usize, life: u64, answer: HelloAnswer },
    /// A client does its next thing.
    Client(usize),
    /// A link is dialled.
    Dial { from: usize, to: usize, life: u64 },
    /// The next fault begins.
    Fault,
    /// A fault of a node's disk ends.
    DiskHeals(usize),
    /// A hello arrives.
    HelloArrives { from: usize, to: usize, life: u64, hello: Hello },
    /// A node notices that a link is gone.
    LinkLost { from: usize, to: usize, life: u64, redial_failed: bool },
    /// A partition ends, or slow links are fast again.
    Mend(Vec<(usize, usize)>),
    /// A blank host asks who it is.
    Join(usize),
    /// A message arrives that was sent at `sent`.
    Message { from: NodeId, to: usize, life: u64, sent: u64, message: Box<PeerMessage> },
    /// The operator gives an order.
    Operator,
    /// A replica is polled.
    Poll { node: usize, life: u64 },
    /// A stopped process goes on.
    Resume { node: usize, life: u64 },
    /// A save, or work for a snapshot, is done.
    Saved { node: usize, life: u64 },
    /// A crashed process starts again.
    Start(usize),
    /// A process that drains ends.
    Stop { node: usize, life: u64 },
    /// A write is durable.
    Written { node: usize, life: u64 },
}

/// The whole.
pub struct Cluster {
    /// True time in microseconds.
    pub now: u64,
    /// The only source of chance.
    pub rng: Rng,
    /// The hosts.
    pub nodes: Vec<Node>,
    /// What joins them.
    pub network: Network,
    /// What watches them.
    pub oracle: Oracle,
    /// What troubles them.
    pub faults: Faults,
    /// Who uses them.
    pub workload: Workload,
    /// Who changes their members.
    pub operator: Operator,
    /// What happened.
    pub trace: Trace,
    /// How many things happened.
    pub steps: u64,
    pub(crate) options: Options,
    pub(crate) plan: Plan,
    inflight: BTreeMap<usize, LogBatch>,
    /// Links that are being dialled: one hello at a time, as a dialer does.
    pub(crate) dialling: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(u64, u64), Happening>,
    numbered: u64,
    pub(crate) disk_latency_max: u64,
}

impl Cluster {
    /// A cluster whose whole future follows from the plan.
    pub fn new(plan: Plan, trace: Trace) -> Self {
        let seed = plan.seed;
        let mut rng = Rng::new(seed);
        let mut voters = [1, 2, 3, 3, 3, 3, 4, 5][rng.below(8) as usize];
        voters = match plan.lean {
            Lean::Elections | Lean::Leases | Lean::Members => voters.max(3),
            Lean::Nothing => voters,
            // Half of them is no majority.
            Lean::Restarts => 2 * (1 + voters % 2),
        };
        let mut learners = rng.below(2);
        if let Some(measured) = plan.learners {
            (voters, learners) = (3, measured);
        }
        let drift = if rng.chance(1, 2) { crate::clocks::DRIFT_PPM_MAX } else { 100 };
        let ids: Vec<NodeId> = (1..=voters + learners).map(NodeId).collect();
        let mut options = draw_options(plan.lean, &mut rng);
        if plan.learners.is_some() {
            options = Options::default();
        }
        let genesis = genesis(&ids, voters as usize);
        // Hosts that belong to nobody yet.
        let spare = if plan.learners.is_some() { 0 } else { rng.below(3) };
        let all = voters + learners + spare;
        let mut nodes: Vec<Node> = (1..=all)
            .map(|id| {
                Node::new(NodeId(id), format!("n{}", NodeId(id)), Clock::new(drift, &mut rng))
            })
            .collect();
        for node in &mut nodes[..ids.len()] {
            node.genesis = Some(genesis.clone());
        }
        let network = Network::new(Behaviour::draw(plan.lean, &mut rng));
        let faults = Faults::draw(plan.lean, &mut rng);
        let workload = Workload::draw(plan.lean, &mut rng, nodes.len());
        let measured = plan.learners.is_some();
        let mut cluster = Self {
            now: 0,
            nodes,
            network,
            oracle: Oracle::default(),
            faults,
            operator: Operator::draw(plan.lean, &mut rng, all),
            workload,
            trace,
            steps: 0,
            options,
            plan,
            inflight: BTreeMap::new(),
            dialling: BTreeSet::new(),
            queue: BTreeMap::new(),
            numbered: 0,
            disk_latency_max: 200 + rng.below(20_000),
            rng,
        };
        cluster.oracle.configs.begin(&genesis.membership);
        cluster.say(format!("seed {seed}: {voters} voters, {learners} learners"));
        for node in 0..cluster.nodes.len() {
            cluster.start(node);
        }
        if measured {
            cluster.be_quiet();
        } else {
            cluster.begin_clients();
            cluster.plan(500_000, Happening::Fault);
            cluster.plan(300_000, Happening::Operator);
            for spare in ids.len()..cluster.nodes.len() {
                cluster.plan(1_000, Happening::Join(spare));
            }
        }
        cluster
    }

    /// Only what the nodes do of themselves, in a good network, with the options of a daemon.
    fn be_quiet(&mut self) {
        self.network.heal();
        self.disk_latency_max = 1_000;
        self.workload.over = true;
        self.workload.watchers.clear();
        self.oracle.light = true;
    }

    /// Does something with chances of its own, so that leaving it out changes nothing else.
    pub fn apart<R>(&mut self, mut rng: Rng, act: impl FnOnce(&mut Self) -> R) -> R {
        std::mem::swap(&mut self.rng, &mut rng);
        let result = act(self);
        std::mem::swap(&mut self.rng, &mut rng);
        result
    }

    /// Adds a line to the trace.
    pub fn say(&self, text: String) {
        self.trace.line(self.now, &text);
    }

    /// Something will happen `after` microseconds.
    pub fn plan(&mut self, after: u64, happening: Happening) {
        self.numbered += 1;
        self.queue.insert((self.now + after, self.numbered), happening);
    }

    /// Lets everything happen up to a true time.
    pub fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.steps += 1;
            self.trace.drawn(self.faults.drawn, self.workload.begun);
            self.happen(happening);
        }
        self.now = end;
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].process.is_some()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::AnswerArrives { from, to, life, answer } => {
                if self.lives(from, life) {
                    self.answer_arrives(from, to, &answer);
                }
            }
            Happening::Client(client) => {
                let rng = self.workload.rng.fork();
                self.apart(rng, |cluster| cluster.client_step(client));
            }
            Happening::Dial { from, to, life } => {
                if self.lives(from, life) {
                    self.dial(from, to);
                }
            }
            Happening::DiskHeals(node) => self.disk_heals(node),
            Happening::Fault => {
                let rng = self.faults.rng.fork();
                self.apart(rng, Self::next_fault);
            }
            Happening::HelloArrives { from, to, life, hello } => {
                if self.lives(from, life) {
                    self.hello_arrives(from, to, &hello);
                }
            }
            Happening::Join(host) => self.join(host),
            Happening::LinkLost { from, to, life, redial_failed } => {
                if self.lives(from, life) {
                    self.link_lost(from, to, redial_failed);
                }
            }
            Happening::Mend(links) => {
                for (from, to) in links {
                    self.network.mend(from, to);
                }
                self.say("mended".to_owned());
            }
            Happening::Message { from, to, life, sent, message } => {
                if self.lives(to, life) {
                    let text = brief(&message);
                    self.say(format!("n{from} -> n{}: {text}", self.nodes[to].id));
                    let event = Event::PeerMessage { from, message: *message };
                    self.deliver(to, Some(sent), event);
                }
            }
            Happening::Operator => {
                let rng = self.operator.rng.fork();
                self.apart(rng, Self::operator_step);
            }
            Happening::Poll { node, life } => {
                if self.lives(node, life) && self.nodes[node].runs() && self.is_due(node) {
                    self.poll(node);
                }
            }
            Happening::Resume { node, life } => {
                if self.lives(node, life) {
                    self.resume(node);
                }
            }
            Happening::Saved { node, life } => {
                if self.lives(node, life) {
                    self.saved(node);
                }
            }
            Happening::Start(node) => self.start(node),
            Happening::Stop { node, life } => {
                if self.lives(node, life) {
                    self.stop(node);
                }
            }
            Happening::Written { node, life } => {
                if self.lives(node, life) {
                    self.written(node);
                }
            }
        }
    }

    /// A process starts; everyone dials.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() || self.nodes[node].blank() {
            return;
        }
        let inflight = self.inflight.remove(&node);
        let (now, options) = (self.now, self.options.clone());
        let host = &mut self.nodes[node];
        if let Err(error) = host.start(now, &options, inflight.as_ref(), &mut self.rng) {
            self.say(format!("n{} does not start: {error}", self.nodes[node].id));
            self.inflight.extend(inflight.map(|batch| (node, batch)));
            self.plan(300_000, Happening::Start(node));
            return;
        }
        let durable = &self.nodes[node].durable;
        self.oracle.crashed(self.nodes[node].id, durable);
        let text = format!(
            "n{} starts: {:?}, log to {:?}",
            self.nodes[node].id,
            durable.hard_state,
            durable.entries.keys().last()
        );
        self.say(text);
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
            self.plan_dial(node, peer);
            self.plan_dial(peer, node);
        }
        self.plan_poll(node);
    }

    /// What a crash cut off is of no meaning any more.
    pub(crate) fn forget_inflight(&mut self, node: usize) {
        self.inflight.remove(&node);
    }

    /// A process ends without warning, and its host's unsynced writes with it.
    pub fn crash(&mut self, node: usize) {
        self.say(format!("n{} crashes", self.nodes[node].id));
        self.lose_callers(node);
        let inflight = self.nodes[node].crash(&mut self.rng);
        self.inflight.extend(inflight.map(|batch| (node, batch)));
        if self.rng.chance(1, 2) {
            self.nodes[node].clock.reboot(&mut self.rng);
        }
        self.is_gone(node);
    }

    /// A process ends in good order.
    fn stop(&mut self, node: usize) {
        self.say(format!("n{} stops", self.nodes[node].id));
        self.lose_callers(node);
        self.nodes[node].stop();
        self.is_gone(node);
        let after = 1_000 + self.rng.below(500_000);
        self.plan(after, Happening::Start(node));
    }

    /// The others notice that a process is gone.
    fn is_gone(&mut self, node: usize) {
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
            self.network.set_down(node, peer);
            self.dialling.remove(&(node, peer));
            let noticed = !self.network.is_cut(peer, node) && !self.network.is_cut(node, peer);
            let after = if noticed { self.rng.below(3_000) } else { 2_000_000 };
            let redial_failed = noticed && self.rng.chance(3, 4);
            let life = self.nodes[peer].life;
            let lost = Happening::LinkLost { from: peer, to: node, life, redial_failed };
            self.plan(after, lost);
        }
    }

    fn resume(&mut self, node: usize) {
        if !self.nodes[node].paused {
            return;
        }
        self.say(format!("n{} goes on", self.nodes[node].id));
        self.nodes[node].paused = false;
        if let Some(process) = &mut self.nodes[node].process {
            // A poll that was planned has found the process stopped.
            process.poll_planned = false;
        }
        for (sent, event) in std::mem::take(&mut self.nodes[node].inbox) {
            self.deliver(node, sent, event);
        }
        self.plan_poll(node);
    }

    /// Something happens to a replica; a stopped one hears of it later.
    pub fn handle(&mut self, node: usize, event: Event) {
        self.deliver(node, None, event);
    }

    /// The same with a message that was sent at `sent`.
    fn deliver(&mut self, node: usize, sent: Option<u64>, event: Event) {
        let now = self.nodes[node].clock.now(self.now);
        let host = &mut self.nodes[node];
        let Some(process) = &mut host.process else { return };
        if host.paused {
            host.inbox.push((sent, event));
            return;
        }
        if let (Some(sent), Event::PeerMessage { message: PeerMessage::Raft(message), .. }) =
            (sent, &event)
        {
            self.oracle.followed.delivered(message, sent, process.replica.raft().term());
        }
        process.replica.handle(now, event);
        self.plan_poll(node);
    }

    fn plan_poll(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.poll_planned {
            return;
        }
        process.poll_planned = true;
        let life = self.nodes[node].life;
        let after = if self.rng.chance(3, 4) { 0 } else { self.rng.below(1_500) };
        self.plan(after, Happening::Poll { node, life });
    }

    /// Whether anything waits for a poll; a deadline may have moved since it was planned for.
    fn is_due(&self, node: usize) -> bool {
        let process = self.nodes[node].process.as_ref();
        process.is_some_and(|p| p.poll_planned || p.wake.is_some_and(|wake| wake <= self.now))
    }

    fn poll(&mut self, node: usize) {
        let now = self.nodes[node].clock.now(self.now);
        let (id, life) = (self.nodes[node].id, self.nodes[node].life);
        let Some(process) = &mut self.nodes[node].process else { return };
        process.poll_planned = false;
        let actions = process.replica.poll(now);
        if !self.oracle.light {
            quorumd::raft::check(process.replica.raft());
        }
        let nodes = &self.nodes;
        let gone = &self.operator.gone;
        let disk = |id| {
            let host = nodes.iter().find(|host| host.id == id);
            host.map(|host| &host.durable).or_else(|| gone.get(&id))
        };
        let process = nodes[node].process.as_ref().expect("it was polled");
        self.oracle.polled(id, life, process.replica.raft(), disk);
        {
            let view = crate::workload::read(&process.view);
            self.oracle.truth.applied(id, &view.machine);
            self.oracle.order.applied(id, life, view.machine.applied_index());
        }
        for action in actions {
            self.act(node, action);
        }
        self.look_at_view(node);
        let process = self.nodes[node].process.as_ref().expect("it was polled");
        if let Some(deadline) = process.replica.next_deadline() {
            let at = self.nodes[node].clock.truth(deadline).max(self.now);
            let stuck = if deadline > now.instant { 0 } else { process.stuck + 1 };
            crate::ensure!(
                stuck < 10,
                "deadlines_pass",
                "n{id} wants to be polled at {deadline}, and was at {}",
                now.instant
            );
            let late = if self.rng.chance(1, 2) { 0 } else { self.rng.below(2_000) };
            let (at, now) = (at.saturating_add(late), self.now);
            let process = self.nodes[node].process.as_mut().expect("it was polled");
            process.stuck = stuck;
            if process.wake.is_none_or(|wake| wake <= now || wake > at) {
                process.wake = Some(at);
                self.plan(at - now, Happening::Poll { node, life });
            }
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        let id = self.nodes[node].id;
        match action {
            Action::Answer { ticket, result } => {
                self.say(format!("n{id} answers {ticket:?}: {result:?}"));
                self.answered(node, ticket, result);
            }
            Action::Fatal(reason) => panic!("invariant goes_on: n{id} stops: {reason}"),
            Action::Published(published) => self.oracle.published(self.now, id, &published),
            Action::MembersReply { ticket, result } => {
                self.say(format!("n{id} replies to {ticket:?}: {result:?}"));
                self.order_replied(ticket, result.ok().as_ref());
            }
            Action::Save(changes) => self.work_on_state(node, StateWork::Save(changes)),
            Action::Snapshot(job) => self.work_on_state(node, StateWork::Snapshot(job)),
            Action::Send { to, message } => self.send(node, to, message),
            Action::Write { token, batch } => {
                let process = self.nodes[node].process.as_mut().expect("it acts");
                let raft = process.replica.raft();
                self.oracle.writes(id, &mut process.issued, &batch, raft);
                process.writes.push_back((token, batch));
                self.begin_write(node);
            }
        }
    }

    fn send(&mut self, node: usize, to: NodeId, message: PeerMessage) {
        let host = &self.nodes[node];
        let process = host.process.as_ref().expect("it acts");
        self.oracle.sends(&message, &host.durable, &process.issued, process.replica.raft());
        let Some(peer) = self.nodes.iter().position(|host| host.id == to) else { return };
        let mut buffer = BytesMut::from(&encode_frame(&message)[..]);
        self.network.count(node, peer, buffer.len() as u64);
        let decoded = FrameDecoder::new().next(&mut buffer).expect("a frame is whole");
        let decoded = decoded.expect("what was encoded can be decoded");
        crate::ensure!(decoded == message && buffer.is_empty(), "wire_faithful", "{message:?}");
        let (life, sent, from) = (self.nodes[peer].life, self.now, self.nodes[node].id);
        for after in self.network.arrivals(node, peer, &mut self.rng) {
            let message = Box::new(decoded.clone());
            self.plan(after, Happening::Message { from, to: peer, life, sent, message });
        }
    }

    /// The places of all processes that handle events now.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].runs()).collect()
    }
}

fn draw_options(lean: Lean, rng: &mut Rng) -> Options {
    let mut options = Options::default();
    // Short ones make many leaders.
    let longest = if rng.chance(1, 2) { 400 } else { 1_000 };
    let timeout = match lean {
        Lean::Elections => rng.between(100, 200),
        // As long as a lease: its holder may believe for longer than the election of another takes.
        Lean::Leases => rng.between(600, 1_000),
        Lean::Members => rng.between(100, 250),
        Lean::Nothing | Lean::Restarts => rng.between(150, longest),
    };
    options.raft.election_timeout = Span::from_millis(timeout);
    options.raft.heartbeat_interval = options.raft.election_timeout.divided_by(6);
    // Small appends make a follower catch up in many steps.
    if rng.chance(1, 2) {
        options.raft.append_entries_max = rng.between(1, 4) as usize;
        options.raft.inflight_messages_max = rng.between(1, 8) as usize;
    }
    options.resend_interval = Span::from_millis(rng.between(100, 600));
    options.save_after_entries = rng.between(10, 80);
    options.save_interval = Span::from_millis(rng.between(500, 5_000));
    options.digest_every = rng.between(5, 200);
    options.log_retained_entries = if rng.chance(1, 2) { rng.between(1, 60) } else { 1_000 };
    options.snapshot_bytes_per_second = rng.between(20_000, 4_000_000);
    options.cut_entries_min = rng.between(5, 100);
    options.history_revisions = if rng.chance(1, 2) { rng.between(3, 30) } else { 300 };
    options
}

fn genesis(ids: &[NodeId], voters: usize) -> Genesis {
    let member = |id: NodeId| {
        let member = Member { name: format!("n{id}"), address: format!("n{id}:1") };
        (id, member)
    };
    let members = ids.iter().map(|&id| member(id)).collect();
    let voting = ids[..voters].iter().copied().collect();
    let learning = ids[voters..].iter().copied().collect();
    let membership = Membership::new(voting, BTreeSet::new(), learning, members);
    let membership = membership.expect("some vote");
    Genesis { cluster: ClusterId(7), membership, index: Index(0) }
}
