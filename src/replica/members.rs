//! Changing the members: what a leader makes of the set that an operator declares, and how an order
//! gets to it from any node.
//!
//! How configurations follow each other in the log is decided by `raft/`. What a node does that is
//! no member any more is in `standing.rs`.
//!
//! # The way of a change
//!
//! 1. An order names the whole wanted set, and the configuration that the operator has seen. The
//!    leader takes it when that one is still in force, when no other change is under way, and when
//!    the wanted voters that answer are a majority of them; the last can be overridden by force.
//! 2. If somebody gets a vote by it, the leader first appends a configuration in which the new ones
//!    learn, with the wanted set as its *goal*. The goal is in the log: whoever leads goes on.
//! 3. When every one of them answers and has caught up, the leader appends the wanted set itself.
//!    The core makes a joint configuration of it where more than one vote differs, and leaves that
//!    by itself.
//!
//! A lost answer costs nothing: the same set again is the same order. An order that was late is
//! refused, because the configuration that it was based on is not in force any more.
//!
//! # Caught up
//!
//! As in the dissertation, 4.2.1: in rounds. A round begins with the leader's last index at that
//! time, and ends when the member has acknowledged it as durable. A member has caught up when its
//! last round took no longer than an election timeout, and the present one has not taken longer
//! yet: should it get the vote now, the commits that need it wait no longer than for an election.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Index, Instant, NodeId, Span, limits};
use crate::raft::{ChangeError, Goal, Member, Membership, ProgressState, Role, TransferError};
use crate::replica::requests::first_number;
use crate::replica::{Action, Replica, RequestError, Ticket};
use crate::wire::{
    ChangeReport, MembersAnswer, MembersOrder, MembersRefusal, MembersReply, MembersRequest,
    Newcomer, PeerMessage, WantedMembers,
};

/// Orders of this node's callers, and what a leader knows of a change under way.
///
/// Invariants:
/// - A context is never used twice, not by another boot either.
/// - `catching_up` holds only nodes that shall vote by the goal in force and do not yet.
#[derive(Debug, Default)]
pub(super) struct Members {
    contexts_used: u64,
    asks: BTreeMap<u64, Ask>,
    catching_up: BTreeMap<NodeId, CatchUp>,
    /// The goal that an operator wants reached even if no quorum of its voters answers.
    forced: Option<Goal>,
}

#[derive(Debug)]
struct Ask {
    ticket: Ticket,
    order: MembersOrder,
    deadline: Instant,
    /// When it was last handed over; nothing when that is due.
    sent: Option<Instant>,
    handed: bool,
    /// Who led when it was first handed over.
    leader: Option<NodeId>,
}

/// One round of catching up.
#[derive(Clone, Copy, Debug)]
struct CatchUp {
    target: Index,
    begun: Instant,
    /// Whether the round before was short enough.
    short: bool,
}

impl Members {
    pub(super) fn of_boot(boot: crate::base::Boot) -> Self {
        Self { contexts_used: first_number(boot), ..Self::default() }
    }

    /// A caller gives an order.
    pub(super) fn ask(&mut self, ticket: Ticket, order: MembersOrder, deadline: Instant) {
        self.contexts_used += 1;
        let ask = Ask { ticket, order, deadline, sent: None, handed: false, leader: None };
        self.asks.insert(self.contexts_used, ask);
    }

    /// Nobody waits any more.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        self.asks.retain(|_, ask| ask.ticket != ticket);
    }

    /// Whether an order waits for its reply.
    pub(super) fn has_under_way(&self) -> bool {
        self.asks.values().any(|ask| ask.sent.is_some())
    }

    /// The leader changed, or can be reached again: what was under way may be lost.
    pub(super) fn restart(&mut self) {
        self.resend(Instant::from_micros(u64::MAX));
    }

    /// Hands over again what was handed over before.
    pub(super) fn resend(&mut self, sent_before: Instant) {
        for ask in self.asks.values_mut() {
            ask.sent = ask.sent.filter(|&sent| sent >= sent_before);
        }
    }

    /// When the next order is overdue.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.asks.values().map(|ask| ask.deadline).min()
    }

    /// The orders whose time is up, with what is certain about them.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<(Ticket, RequestError)> {
        let (over, left) = std::mem::take(&mut self.asks)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, ask)| ask.deadline <= now);
        self.asks = left;
        let told = over.into_values().map(|ask| {
            let error = match ask.order {
                _ if !ask.handed => RequestError::NoLeader,
                MembersOrder::Report | MembersOrder::Transfer { .. } => RequestError::Timeout,
                MembersOrder::Cancel { .. } | MembersOrder::Change(_) => {
                    RequestError::OutcomeUnknown
                }
            };
            (ask.ticket, error)
        });
        told.collect()
    }

    /// All orders, with what is certain: `error` where nothing was handed over.
    pub(super) fn take_all(&mut self, error: RequestError) -> Vec<(Ticket, RequestError)> {
        let asks = std::mem::take(&mut self.asks).into_values();
        let told = asks
            .map(|ask| (ask.ticket, if ask.handed { RequestError::OutcomeUnknown } else { error }));
        told.collect()
    }

    fn is_caught_up(&self, node: NodeId, now: Instant, timeout: Span) -> bool {
        let round = self.catching_up.get(&node);
        round.is_some_and(|round| round.short && now.since(round.begun) <= timeout)
    }
}

impl Replica {
    /// Hands over the orders of this node's callers.
    pub(super) fn route_members(&mut self, now: Instant) {
        let Some(leader) = self.leadership.leader else { return };
        let due = self.members.asks.iter().filter(|(_, ask)| ask.sent.is_none());
        let due: Vec<(u64, MembersOrder)> =
            due.map(|(&context, ask)| (context, ask.order.clone())).collect();
        for (context, order) in due {
            let Some(ask) = self.members.asks.get_mut(&context) else { continue };
            let before = *ask.leader.get_or_insert(leader);
            if let MembersOrder::Transfer { to } = order
                && to.map_or(before != leader, |to| to == leader)
            {
                // It has moved: by this order, or it was there.
                let reply = MembersReply::Report(self.change_report(now));
                self.settle_order(context, reply);
                continue;
            }
            (ask.sent, ask.handed) = (Some(now), true);
            if leader == self.node {
                let reply = self.take_order(now, self.node, &order);
                self.order_replied(context, reply);
            } else {
                let request = MembersRequest { context, order };
                self.send(leader, PeerMessage::Members(request));
            }
        }
    }

    /// A peer's caller gives an order.
    pub(super) fn order_arrived(&mut self, now: Instant, from: NodeId, request: &MembersRequest) {
        let reply = self.take_order(now, from, &request.order);
        let answer = MembersAnswer { context: request.context, reply };
        self.send(from, PeerMessage::MembersAnswer(answer));
    }

    /// The leader has replied to an order of this node.
    pub(super) fn order_replied(&mut self, context: u64, reply: MembersReply) {
        let Some(ask) = self.members.asks.get(&context) else { return };
        let again = matches!(
            (&ask.order, &reply),
            // It is on its way; the change of leader is the answer.
            (MembersOrder::Transfer { .. }, MembersReply::Report(_))
                | (_, MembersReply::Refused(MembersRefusal::Busy | MembersRefusal::NotLeader))
        );
        if !again {
            self.settle_order(context, reply);
        }
    }

    fn settle_order(&mut self, context: u64, reply: MembersReply) {
        if let Some(ask) = self.members.asks.remove(&context) {
            self.members_answer(ask.ticket, Ok(reply));
        }
    }

    pub(super) fn members_answer(
        &mut self,
        ticket: Ticket,
        result: Result<MembersReply, RequestError>,
    ) {
        self.actions.push(Action::MembersReply { ticket, result });
    }

    fn take_order(&mut self, now: Instant, from: NodeId, order: &MembersOrder) -> MembersReply {
        if self.raft.role() != Role::Leader {
            return MembersReply::Refused(MembersRefusal::NotLeader);
        }
        if !matches!(order, MembersOrder::Report) && !self.may_administrate(from) {
            return MembersReply::Refused(MembersRefusal::Forbidden);
        }
        let taken = match order {
            MembersOrder::Cancel { base } => self.cancel_change(now, *base),
            MembersOrder::Change(wanted) => self.begin_change(now, wanted),
            MembersOrder::Report => Ok(()),
            MembersOrder::Transfer { to } => self.begin_transfer(now, *to),
        };
        self.published.status = true;
        match taken {
            Ok(()) => MembersReply::Report(self.change_report(now)),
            Err(refusal) => MembersReply::Refused(refusal),
        }
    }

    fn begin_transfer(&mut self, now: Instant, to: Option<NodeId>) -> Result<(), MembersRefusal> {
        let to = to.or_else(|| self.raft.successor()).ok_or(MembersRefusal::NoSuccessor)?;
        match self.raft.transfer(now, to) {
            Ok(()) | Err(TransferError::LeadsAlready) => Ok(()),
            Err(TransferError::NotLeader { .. }) => Err(MembersRefusal::NotLeader),
            Err(TransferError::NotVoter { .. }) => Err(MembersRefusal::NotVoter),
            Err(_) => Err(MembersRefusal::SuccessorNotReady),
        }
    }

    fn cancel_change(&mut self, now: Instant, base: Index) -> Result<(), MembersRefusal> {
        let current = self.raft.membership();
        if current.is_joint() {
            return Err(MembersRefusal::UnderWay);
        }
        if current.goal().is_none() {
            return Ok(());
        }
        let without = current.clone().with_goal(None).expect("no goal names nobody");
        self.check_base(base)?;
        self.append_members(now, without)
    }

    fn begin_change(&mut self, now: Instant, wanted: &WantedMembers) -> Result<(), MembersRefusal> {
        let target = target_of(wanted)?;
        let goal = wanted.goal();
        let current = self.raft.membership();
        if leads_to(current, &target, &goal) {
            if wanted.force {
                self.members.forced = Some(goal);
            }
            return Ok(());
        }
        if current.is_joint() || (current.goal().is_some() && !wanted.supersede) {
            return Err(MembersRefusal::UnderWay);
        }
        self.check_base(wanted.base)?;
        if !wanted.force {
            let silent = self.silent_voters(target.voters());
            if !is_majority(target.voters().len() - silent.len(), target.voters().len()) {
                let voters = u32::try_from(target.voters().len()).unwrap_or(u32::MAX);
                return Err(MembersRefusal::QuorumLost { silent, voters });
            }
        }
        let newcomers = target.voters().difference(current.voters()).next().is_some();
        let next = if newcomers { approach(current, &target, goal.clone()) } else { target };
        if next.members().len() > limits::MEMBERS_MAX {
            return Err(MembersRefusal::TooManyMembers);
        }
        self.append_members(now, next)?;
        self.members.forced = wanted.force.then_some(goal);
        Ok(())
    }

    /// An order counts only for the configuration that its author has seen, and not before that is
    /// committed.
    fn check_base(&self, base: Index) -> Result<(), MembersRefusal> {
        let index = self.raft.membership_index();
        if base != index {
            return Err(MembersRefusal::Moved);
        }
        if self.raft.committed_membership().0 != index {
            return Err(MembersRefusal::Busy);
        }
        Ok(())
    }

    fn append_members(&mut self, now: Instant, next: Membership) -> Result<(), MembersRefusal> {
        match self.raft.change_membership(now, next) {
            Ok(_) | Err(ChangeError::Unchanged) => Ok(()),
            Err(ChangeError::NotLeader { .. }) => Err(MembersRefusal::NotLeader),
            Err(ChangeError::TooManyMembers { .. }) => Err(MembersRefusal::TooManyMembers),
            Err(ChangeError::TooManyVoters { .. }) => Err(MembersRefusal::TooManyVoters),
            Err(_) => Err(MembersRefusal::Busy),
        }
    }

    /// On a leader: goes on with the change under way as far as it can. Called with every poll, and
    /// a leader is polled with every heartbeat.
    pub(super) fn drive_change(&mut self, now: Instant) {
        let membership = self.raft.membership();
        let leads = self.raft.role() == Role::Leader;
        let Some(goal) = membership.goal().filter(|_| leads).cloned() else {
            self.members.catching_up.clear();
            self.members.forced = None;
            return;
        };
        let newcomers: BTreeSet<NodeId> =
            goal.voters.difference(membership.voters()).copied().collect();
        self.follow_newcomers(now, &newcomers);
        let is_settled = !membership_is_open(&self.raft);
        let timeout = self.options.raft.election_timeout;
        let ready = newcomers.iter().all(|&node| self.members.is_caught_up(node, now, timeout));
        if !is_settled || !ready {
            return;
        }
        let silent = self.silent_voters(&goal.voters);
        let alive = goal.voters.len() - silent.len();
        if !is_majority(alive, goal.voters.len()) && self.members.forced.as_ref() != Some(&goal) {
            return;
        }
        let members = self.raft.membership().members().iter();
        let members = members
            .filter(|(node, _)| goal.voters.contains(node) || goal.learners.contains(node))
            .map(|(&node, member)| (node, member.clone()))
            .collect();
        let target = Membership::new(goal.voters, BTreeSet::new(), goal.learners, members)
            .expect("a goal has a voter, and names members only, each once");
        // Refused, it is tried again with the next poll: a transfer may be under way.
        if self.append_members(now, target).is_ok() {
            self.published.status = true;
        }
    }

    /// Notes how the newcomers keep up.
    fn follow_newcomers(&mut self, now: Instant, newcomers: &BTreeSet<NodeId>) {
        let timeout = self.options.raft.election_timeout;
        let last = self.raft.last_index();
        self.members.catching_up.retain(|node, _| newcomers.contains(node));
        for &node in newcomers {
            let Some(progress) = self.raft.progress(node) else { continue };
            let fresh = CatchUp { target: last, begun: now, short: false };
            let round = self.members.catching_up.entry(node).or_insert(fresh);
            if !progress.recent_active {
                *round = fresh;
            } else if progress.matched >= round.target {
                let short = now.since(round.begun) <= timeout;
                *round = CatchUp { target: last, begun: now, short };
            }
        }
    }

    /// Those of `voters` who are members and have not answered for an election timeout. Who is none
    /// yet has still to show itself, and gets no vote before it does.
    fn silent_voters(&self, voters: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let is_silent = |node: NodeId| {
            let progress = self.raft.progress(node);
            node != self.node && progress.is_some_and(|progress| !progress.recent_active)
        };
        voters.iter().copied().filter(|&node| is_silent(node)).collect()
    }

    /// How the change under way stands; empty lists when there is none, or when another node leads.
    pub(super) fn change_report(&self, now: Instant) -> ChangeReport {
        let membership = self.raft.membership();
        let (index, last_index) = (self.raft.membership_index(), self.raft.last_index());
        let mut report = ChangeReport { index, last_index, ..ChangeReport::default() };
        let Some(goal) = membership.goal().filter(|_| self.leadership.leads) else {
            return report;
        };
        let timeout = self.options.raft.election_timeout;
        for &node in goal.voters.difference(membership.voters()) {
            let Some(progress) = self.raft.progress(node) else { continue };
            report.newcomers.push(Newcomer {
                node,
                active: progress.recent_active,
                matched: progress.matched,
                snapshot: progress.cut_off || progress.state == ProgressState::Snapshot,
                caught_up: self.members.is_caught_up(node, now, timeout),
            });
        }
        let silent = self.silent_voters(&goal.voters);
        if !is_majority(goal.voters.len() - silent.len(), goal.voters.len()) {
            report.silent = silent;
        }
        report
    }
}

/// Whether the configuration in force is still to be followed by another, or not committed.
fn membership_is_open(raft: &crate::raft::Raft) -> bool {
    raft.membership().is_joint() || raft.committed_membership().0 != raft.membership_index()
}

fn is_majority(some: usize, all: usize) -> bool {
    2 * some > all
}

/// Whether `current` is the wanted set, or on its way to it.
fn leads_to(current: &Membership, target: &Membership, goal: &Goal) -> bool {
    let mut records = target.members().iter();
    if !records.all(|(node, member)| current.members().get(node) == Some(member)) {
        return false;
    }
    match current.goal() {
        Some(current) => current == goal,
        None => current.voters() == target.voters() && current.learners() == target.learners(),
    }
}

/// The configuration in which those who shall vote learn first; everybody else stays what he is.
fn approach(current: &Membership, target: &Membership, goal: Goal) -> Membership {
    let mut members: BTreeMap<NodeId, Member> = current.members().clone();
    members.extend(target.members().iter().map(|(&node, member)| (node, member.clone())));
    let voters = current.voters().clone();
    let learners = members.keys().copied().filter(|node| !voters.contains(node)).collect();
    Membership::new(voters, BTreeSet::new(), learners, members)
        .and_then(|next| next.with_goal(Some(goal)))
        .expect("a configuration and a target make one in which everybody is a member")
}

/// The configuration that an order asks for.
fn target_of(wanted: &WantedMembers) -> Result<Membership, MembersRefusal> {
    if wanted.voters.is_empty() {
        return Err(MembersRefusal::NoVoter);
    }
    if wanted.voters.len() > limits::VOTERS_MAX {
        return Err(MembersRefusal::TooManyVoters);
    }
    let all = wanted.voters.iter().chain(&wanted.learners);
    let members: BTreeMap<NodeId, Member> =
        all.map(|(&node, member)| (node, member.clone())).collect();
    if members.len() > limits::MEMBERS_MAX {
        return Err(MembersRefusal::TooManyMembers);
    }
    let names: BTreeSet<&String> = members.values().map(|member| &member.name).collect();
    if names.len() < members.len() {
        return Err(MembersRefusal::NameTwice);
    }
    let voters = wanted.voters.keys().copied().collect();
    let learners = wanted.learners.keys().copied().collect();
    Membership::new(voters, BTreeSet::new(), learners, members)
        .map_err(|_| MembersRefusal::Malformed)
}
