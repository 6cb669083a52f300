//! Makes members of hosts that have joined, while this node leads.
//!
//! Each host is first added as a learner, which commits at once, and is promoted on its own when it
//! answers: one that fails half-way holds up nobody else. What an operator does meanwhile counts
//! more: while a change is under way nothing is ordered, and a host that was removed after it had
//! been added is not added again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::base::{NodeId, Span};
use crate::enroll::records::{JOINS, JoinRecord, Role, TOKENS, TokenRecord};
use crate::enroll::store::{Change, Found, list, now_ms};
use crate::node::{
    Member, MembersOrder, MembersRefusal, MembersReply, Membership, Node, NodeStatus, WantedMembers,
};
use crate::raft;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// A host that cannot be dialed is dialed again after this, doubled each time up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(300);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// How long an order may take.
const ORDER_TIMEOUT: Span = Span::from_secs(10);
/// Hosts that are dialed at once.
const DIALS_MAX: usize = 16;
/// How long the records of tokens are kept beyond their end, so that whoever uses one is told why
/// it is good no more.
const KEPT_MS: u64 = 60 * 60 * 1_000;
/// Between two looks for records that are over.
const SWEEP_EVERY: Duration = Duration::from_secs(20);

/// Acts for ever, while this node leads.
pub(super) async fn run(node: Node) {
    let mut dials = Dials::default();
    let mut swept: Option<Instant> = None;
    loop {
        let status = node.status();
        if status.replica.role == raft::Role::Leader && status.replica.ready {
            if swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
                sweep(&node).await;
                swept = Some(Instant::now());
            }
            look(&node, &mut dials).await;
        }
        sleep(LOOK).await;
    }
}

/// When each host is dialed next.
#[derive(Default)]
struct Dials {
    next: BTreeMap<String, (Instant, Duration)>,
}

impl Dials {
    fn is_due(&self, name: &str, now: Instant) -> bool {
        self.next.get(name).is_none_or(|(at, _)| *at <= now)
    }

    fn failed(&mut self, name: String, now: Instant) {
        let pause = self.next.get(&name).map_or(PAUSE_FIRST, |(_, pause)| *pause * 2);
        let pause = pause.min(PAUSE_LONGEST);
        self.next.insert(name, (now + pause, pause));
    }
}

/// What is to be done about one host.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Its record has served.
    Delete,
    /// Find out whether it is up, and who it is.
    Dial,
    /// Note that it is a member.
    Note(NodeId),
    /// Give it its vote.
    Promote(NodeId),
    /// Nothing now.
    Wait,
}

/// One look at all hosts that have joined.
async fn look(node: &Node, dials: &mut Dials) {
    let joins = list::<JoinRecord>(node, JOINS);
    dials.next.retain(|name, _| joins.iter().any(|(other, _)| other == name));
    let mut due = Vec::new();
    for (name, found) in joins {
        let key = format!("{JOINS}{name}");
        let status = node.status();
        match step(&status, &name, &found.record) {
            Step::Delete => change(node, Change::default().delete(&key), &key, &found).await,
            Step::Dial if dials.is_due(&name, Instant::now()) && due.len() < DIALS_MAX => {
                due.push((name, found.record));
            }
            Step::Dial | Step::Wait => {}
            Step::Note(member) => {
                let record = JoinRecord { added: Some(member.get()), ..found.record.clone() };
                change(node, Change::default().put(&key, &record), &key, &found).await;
            }
            Step::Promote(member) => promote(node, &name, member).await,
        }
    }
    if !due.is_empty() {
        add(node, dials, due).await;
    }
}

/// What is to be done about the host `name`.
fn step(status: &NodeStatus, name: &str, join: &JoinRecord) -> Step {
    let replica = &status.replica;
    let membership = &replica.membership;
    let is_settled =
        replica.membership_committed && !membership.is_joint() && membership.goal().is_none();
    let mut members = membership.members().iter();
    let present =
        members.find(|(node, member)| member.name == name && Some(node.get()) != join.replaces);
    match (present, join.added) {
        (Some((node, _)), _) if join.role == Role::Voter => {
            let votes = membership.voters().contains(node)
                || membership.goal().is_some_and(|goal| goal.voters.contains(node));
            let keeps_up = replica.members.iter().any(|member| {
                member.node == *node && member.progress.is_some_and(|it| it.recent_active)
            });
            match (votes && replica.membership_committed, join.added) {
                (true, _) => Step::Delete,
                (false, None) if replica.membership_committed => Step::Note(*node),
                (false, Some(_)) if is_settled && keeps_up => Step::Promote(*node),
                (false, _) => Step::Wait,
            }
        }
        (Some(_), _) if replica.membership_committed => Step::Delete,
        (Some(_), _) => Step::Wait,
        (None, Some(_)) => Step::Delete,
        (None, None) if is_settled => Step::Dial,
        (None, None) => Step::Wait,
    }
}

/// Changes the record of one host, if it is as it was seen.
async fn change(node: &Node, change: Change, key: &str, found: &Found<JoinRecord>) {
    if let Err(error) = change.only_if(key, found.revision).make(node).await {
        tracing::debug!(%error, key, "the record of a joining host stays for now");
    }
}

/// Dials hosts, and adds those that answer.
async fn add(node: &Node, dials: &mut Dials, due: Vec<(String, JoinRecord)>) {
    let mut dialing = JoinSet::new();
    for (name, join) in due {
        let node = node.clone();
        dialing.spawn(async move {
            let introduced = node.introduce(&name, &join.address).await;
            (name, join, introduced)
        });
    }
    let mut found = BTreeMap::new();
    let mut leave = BTreeSet::new();
    while let Some(dialed) = dialing.join_next().await {
        // A dial that panicked is one that failed: it is dialed again.
        let Ok((name, join, introduced)) = dialed else { continue };
        match introduced {
            Ok(introduced) => {
                dials.next.remove(&name);
                leave.extend(join.replaces.map(NodeId));
                found.insert(introduced.node, Member { name, address: join.address });
            }
            Err(error) => {
                tracing::debug!(name, address = %join.address, %error, "waiting for a host");
                dials.failed(name, Instant::now());
            }
        }
    }
    if found.is_empty() {
        return;
    }
    let names: Vec<String> = found.values().map(|member| member.name.clone()).collect();
    let edit = |membership: &Membership, wanted: &mut WantedMembers| {
        for (&id, member) in &found {
            let old = membership
                .members()
                .iter()
                .find(|(other, old)| leave.contains(other) && old.name == member.name);
            let votes = old.is_some_and(|(other, _)| membership.voters().contains(other));
            if let Some((other, _)) = old {
                wanted.voters.remove(other);
                wanted.learners.remove(other);
            }
            // Whoever takes the place of a voter takes its vote, so that their number stays.
            let half = if votes { &mut wanted.voters } else { &mut wanted.learners };
            half.insert(id, member.clone());
        }
    };
    if order(node, edit).await {
        tracing::info!(names = names.join(","), "hosts that have joined are added");
    }
}

async fn promote(node: &Node, name: &str, member: NodeId) {
    let edit = |_: &Membership, wanted: &mut WantedMembers| {
        if let Some(record) = wanted.learners.remove(&member) {
            wanted.voters.insert(member, record);
        }
    };
    if order(node, edit).await {
        tracing::info!(name, "a host that has joined gets its vote when it has caught up");
    }
}

/// Orders a change of the members as they are; whether it was taken.
async fn order(node: &Node, edit: impl Fn(&Membership, &mut WantedMembers)) -> bool {
    let status = node.status();
    let membership = &status.replica.membership;
    let record = |id: &NodeId| Some((*id, membership.members().get(id)?.clone()));
    let mut wanted = WantedMembers {
        base: status.replica.membership_index,
        voters: membership.voters().iter().filter_map(record).collect(),
        learners: membership.learners().iter().filter_map(record).collect(),
        ..WantedMembers::default()
    };
    edit(membership, &mut wanted);
    match node.order(MembersOrder::Change(wanted), ORDER_TIMEOUT).await {
        Ok(MembersReply::Report(_)) => true,
        Ok(MembersReply::Refused(
            refusal @ (MembersRefusal::Busy
            | MembersRefusal::Moved
            | MembersRefusal::NotLeader
            | MembersRefusal::UnderWay),
        )) => {
            tracing::debug!(%refusal, "hosts that have joined are added later");
            false
        }
        Ok(MembersReply::Refused(refusal)) => {
            tracing::warn!(%refusal, "hosts that have joined cannot be added as things are");
            // Nothing changes by itself soon: not three lines a second.
            sleep(PAUSE_LONGEST).await;
            false
        }
        Err(error) => {
            tracing::debug!(%error, "hosts that have joined are added later");
            false
        }
    }
}

/// Forgets tokens that ended long ago, and hosts that never came.
async fn sweep(node: &Node) {
    let now = now_ms(node);
    for (id, found) in list::<TokenRecord>(node, TOKENS) {
        if found.record.expires_ms.saturating_add(KEPT_MS) <= now {
            forget(node, &format!("{TOKENS}{id}"), found.revision).await;
        }
    }
    for (name, found) in list::<JoinRecord>(node, JOINS) {
        if found.record.expires_ms <= now {
            tracing::info!(name, "a host that has joined never came up: it is waited for no more");
            forget(node, &format!("{JOINS}{name}"), found.revision).await;
        }
    }
}

async fn forget(node: &Node, key: &str, revision: crate::base::Revision) {
    if let Err(error) = Change::default().only_if(key, revision).delete(key).make(node).await {
        tracing::debug!(%error, key, "a record that is over stays for now");
    }
}
