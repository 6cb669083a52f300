//! The thread that owns the replica: takes what waits, polls once, carries out the actions in
//! order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use tokio::sync::oneshot;

use crate::base::{Instant, NodeId, Span};
use crate::node::error::Ended;
use crate::node::fence_file;
use crate::node::handle::Shared;
use crate::node::mailbox::{Answer, Inbox, Mail, MembersAnswered};
use crate::node::saver::Work;
use crate::node::writer::Write;
use crate::node::{CertificateStatus, Clock, LinkStatus, NodeStatus, StorageStatus};
use crate::peer::{Links, Target};
use crate::pki::{Expiry, ExpiryKind, LiveTls};
use crate::raft::Member;
use crate::replica::{
    Action, Event, Fence, MemberStatus, Replica, ReplicaStatus, Seed, Ticket, View,
};

/// Events that are handled before the replica is polled: enough that one disk write serves all that
/// waits, few enough that no caller waits for a thousand others.
const BATCH_EVENTS_MAX: usize = 4_096;
/// How old the published status may become while anything happens.
const STATUS_AGE_MAX: Span = Span::from_millis(100);

/// What the node knows of its disk, kept up to date by others.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauges {
    pub(super) raft_bytes: Arc<AtomicU64>,
    pub(super) state_bytes: Arc<AtomicU64>,
    pub(super) free_bytes: Arc<AtomicU64>,
    pub(super) last_write_micros: Arc<AtomicU64>,
}

/// The parts of a status that do not change.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) cluster_name: String,
    pub(super) data_dir: String,
    pub(super) reserve_bytes: u64,
    pub(super) store_bytes_max: u64,
    pub(super) seeds: BTreeMap<String, Seed>,
    pub(super) started: Instant,
}

/// The owner of the replica.
pub(super) struct Runner {
    pub(super) replica: Replica,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Inbox,
    /// To the writer thread. Unbounded, because the replica must never wait for the writer, which
    /// reports back to it; raft bounds what can be in it by its windows and its uncommitted bytes.
    pub(super) writes: Sender<Write>,
    /// To the saver thread; at most one save, and for each snapshot on its way one job.
    pub(super) saves: Sender<Work>,
    pub(super) links: Arc<Links>,
    pub(super) gauges: Gauges,
    pub(super) facts: Facts,
    pub(super) contacts: BTreeMap<NodeId, Member>,
    pub(super) waiting: HashMap<Ticket, oneshot::Sender<Answer>>,
    pub(super) ordered: HashMap<Ticket, oneshot::Sender<MembersAnswered>>,
    pub(super) status_at: Instant,
    /// The members as last compared with the configuration file, and what came of it.
    pub(super) compared: (Vec<MemberStatus>, Option<String>),
}

impl Runner {
    /// Runs until it is told to stop, or must.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        self.refresh_status();
        loop {
            let now = Clock.instant();
            let wait = self.replica.next_deadline().map(|deadline| deadline.since(now));
            let Ok(first) = self.inbox.receive(wait) else { return Ok(()) };
            let mut stop = false;
            if let Some(mail) = first {
                stop |= self.take(mail);
                for _ in 1..BATCH_EVENTS_MAX {
                    let Some(mail) = self.inbox.try_receive() else { break };
                    stop |= self.take(mail);
                }
            }
            for action in self.replica.poll(Clock.now()) {
                self.act(action)?;
            }
            if Clock.instant().since(self.status_at) >= STATUS_AGE_MAX {
                self.refresh_status();
            }
            if stop {
                return Ok(());
            }
        }
    }

    /// True when the thread is to stop.
    fn take(&mut self, mail: Mail) -> bool {
        match mail {
            Mail::Ask(event, ticket, sender) => {
                self.waiting.insert(ticket, sender);
                self.replica.handle(Clock.now(), event);
            }
            Mail::AskMembers(event, ticket, sender) => {
                self.ordered.insert(ticket, sender);
                self.replica.handle(Clock.now(), event);
            }
            Mail::Pulse(answer) => {
                // Closed only when the writer has failed, which ends the process by itself.
                let _ = self.writes.send(Write::Pulse(answer));
            }
            Mail::Stop => return true,
            Mail::Tell(event) => {
                if let Event::Abandon(ticket) = &event {
                    self.waiting.remove(ticket);
                    self.ordered.remove(ticket);
                }
                self.replica.handle(Clock.now(), event);
            }
        }
        false
    }

    fn act(&mut self, action: Action) -> Result<(), Ended> {
        match action {
            Action::Answer { ticket, result } => {
                if let Some(sender) = self.waiting.remove(&ticket) {
                    // Whoever asked may have gone.
                    let _ = sender.send(result);
                }
            }
            Action::Fatal(reason) => {
                // A state that was rebuilt is not fenced off any more.
                self.refresh_status();
                return Err(Ended::Fatal(reason));
            }
            Action::MembersReply { ticket, result } => {
                if let Some(sender) = self.ordered.remove(&ticket) {
                    // Whoever asked may have gone.
                    let _ = sender.send(result);
                }
            }
            Action::Published(published) => {
                if published.status {
                    self.refresh_status();
                }
                self.shared.hub.publish(&published);
            }
            Action::Save(changes) => {
                // Closed only when the saver has failed, which ends the process by itself.
                let _ = self.saves.send(Work::Save(changes));
            }
            Action::Snapshot(job) => {
                // As above.
                let _ = self.saves.send(Work::Snapshot(job));
            }
            Action::Send { to, message } => {
                // Whoever is no contact any more need not be told.
                self.links.send(to, message);
            }
            Action::Write { token, batch } => {
                // Closed only when the writer has failed, which ends the process by itself.
                let _ = self.writes.send(Write::Batch(token, Box::new(batch)));
            }
        }
        Ok(())
    }

    fn refresh_status(&mut self) {
        let replica = self.replica.status();
        self.follow_contacts();
        self.follow_fence(replica.fence);
        let status = Arc::new(self.status(replica));
        *self.shared.status.write().unwrap_or_else(PoisonError::into_inner) = status;
        self.status_at = Clock.instant();
    }

    /// The fence outlives the process: what is on disk is no better than what is in memory.
    fn follow_fence(&self, fence: Option<Fence>) {
        if *self.shared.fenced.borrow() == fence.is_some() {
            return;
        }
        if let Err(error) = fence_file::set(Path::new(&self.facts.data_dir), fence) {
            tracing::error!(%error, ?fence, "the mark of the fence could not be changed on disk");
        }
        self.shared.fenced.send_replace(fence.is_some());
    }

    fn follow_contacts(&mut self) {
        let contacts = self.replica.contacts();
        if contacts == self.contacts {
            return;
        }
        let target = |(&node, member): (&NodeId, &Member)| Target {
            node,
            name: member.name.clone(),
            address: member.address.clone(),
        };
        self.links.set_targets(contacts.iter().map(target).collect());
        self.contacts = contacts;
    }

    fn status(&mut self, replica: ReplicaStatus) -> NodeStatus {
        let view = self.shared.view.read().unwrap_or_else(PoisonError::into_inner);
        let link = |peer: &crate::peer::PeerStatus| LinkStatus {
            name: peer.name.clone(),
            connected: peer.connected.is_some(),
            last_error: peer.last_error.as_ref().map(ToString::to_string),
        };
        let links = self.links.status().peers.iter().map(link).collect();
        let draining = self.shared.draining.load(Ordering::Relaxed);
        let mut status = collect(&self.facts, &self.gauges, replica, &view, links, draining);
        status.certificates = certificates(&self.shared.introducer.tls);
        if status.replica.members != self.compared.0 {
            let differ = members_differ(&self.facts.seeds, &status.replica);
            if let Some(differ) = differ.as_ref().filter(|_| differ != self.compared.1) {
                tracing::info!("{differ}");
            }
            self.compared = (status.replica.members.clone(), differ);
        }
        status.members_differ = self.compared.1.clone();
        status
    }
}

/// How the members of the cluster differ from those of the configuration file, for people. The file
/// only seeds the first boot: nothing is done about it.
fn members_differ(seeds: &BTreeMap<String, Seed>, replica: &ReplicaStatus) -> Option<String> {
    let role = |voter: bool| if voter { "voter" } else { "learner" };
    let mut differences = Vec::new();
    for member in &replica.members {
        match seeds.get(&member.name) {
            None => differences.push(format!(
                "{} ({} at {}) is not in the file",
                member.name,
                role(member.voter),
                member.address
            )),
            Some(seed) if (seed.voter, &seed.address) != (member.voter, &member.address) => {
                differences.push(format!(
                    "{} is a {} at {}, in the file a {} at {}",
                    member.name,
                    role(member.voter),
                    member.address,
                    role(seed.voter),
                    seed.address
                ));
            }
            Some(_) => {}
        }
    }
    let is_member = |name: &String| replica.members.iter().any(|member| member.name == *name);
    let missing = seeds.keys().filter(|name| !is_member(name));
    differences.extend(missing.map(|name| format!("{name} in the file is no member")));
    (!differences.is_empty()).then(|| {
        format!(
            "the members of the cluster are not those of the configuration file, which only counts \
             at the first boot: {}",
            differences.join("; ")
        )
    })
}

/// When the certificates in use end.
fn certificates(tls: &LiveTls) -> Vec<CertificateStatus> {
    let now = SystemTime::now();
    let status = |expiry: &Expiry| CertificateStatus {
        own: expiry.kind == ExpiryKind::Own,
        subject: expiry.subject.clone(),
        not_after: expiry.not_after,
        warning: (expiry.urgency(now) > 0).then(|| expiry.to_string()),
    };
    tls.expiries().iter().map(status).collect()
}

/// Puts a status together.
pub(super) fn collect(
    facts: &Facts,
    gauges: &Gauges,
    replica: ReplicaStatus,
    view: &View,
    links: Vec<LinkStatus>,
    draining: bool,
) -> NodeStatus {
    let machine = &view.machine;
    let gauge = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
    NodeStatus {
        name: facts.name.clone(),
        cluster_name: facts.cluster_name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        replica,
        revision: machine.revision(),
        compact_revision: machine.compact_revision(),
        epoch: machine.epoch(),
        live_bytes: machine.live_bytes(),
        history_bytes: machine.history_bytes(),
        store_bytes_max: facts.store_bytes_max,
        leases: machine.lease_count() as u64,
        digest: machine.digest(),
        storage: StorageStatus {
            raft_bytes: gauge(&gauges.raft_bytes),
            state_bytes: gauge(&gauges.state_bytes),
            free_bytes: gauge(&gauges.free_bytes),
            reserve_bytes: facts.reserve_bytes,
            data_dir: facts.data_dir.clone(),
            last_write: Span::from_micros(gauge(&gauges.last_write_micros)),
        },
        links,
        certificates: Vec::new(),
        members_differ: None,
        uptime: Clock.instant().since(facts.started),
        draining,
    }
}
