//! `/v1/members` and `/v1/leader`: who the members are, and orders to change that.
//!
//! What an order does is decided by the leader (`replica/members.rs`). Here names become
//! incarnations, new nodes are asked who they are, and a change that was taken is followed until it
//! is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use crate::api::types::{
    Becomes, ChangeDone, ChangePhase, Incarnation, LeaderAnswer, LeaderRequest, MemberAt,
    MemberRole, MemberView, MembersAnswer, MembersMessage, MembersRequest, NewcomerView,
    WantedMember,
};
use crate::base::{Index, NodeId, Span, limits};
use crate::node::{
    ChangeReport, Goal, Member, MembersOrder, MembersRefusal, MembersReply, Membership, Newcomer,
    NodeStatus, Topic, WantedMembers,
};
use crate::replica::{MemberStatus, RequestError};

use super::answer::{Stamp, json};
use super::body;
use super::context::{Ask, Context, node_name};
use super::kv::duration;
use super::params::{self, accepts};
use super::problem::Fault;
use super::stream::{Body, Emit, Framing};

/// Between two looks at a change that only its leader sees.
const LOOK: Span = Span::from_millis(500);

/// `GET /v1/members`: as this node has it in its log.
pub(super) fn list(context: &Context, ask: &Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let status = context.node.status();
    let replica = &status.replica;
    let phase = if replica.membership.goal().is_some() {
        Some(ChangePhase::CatchingUp)
    } else {
        let settled = replica.membership_committed && !replica.joint;
        (!settled).then_some(ChangePhase::Joint)
    };
    let answer = MembersAnswer {
        members: member_views(&status),
        joint: replica.joint,
        phase,
        newcomers: newcomer_views(&status, &replica.change),
        index: replica.membership_index.get(),
        revision: status.revision.get(),
    };
    Ok(json(StatusCode::OK, &answer, stamp_of(&status)))
}

/// `PUT /v1/members`
pub(super) async fn put(context: &Arc<Context>, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    let give_up = Instant::now() + duration(timeout);
    let framing = Framing::of(&ask.parts.headers);
    let wants_json = accepts(&ask.parts.headers, "application/json");
    let request: MembersRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    let status = leaders_members(context, timeout).await?;
    let wanted = resolve(context, &status, &request).await?;
    let goal = wanted.goal();
    let warnings = warnings(&wanted);
    let reply = context.node.order(MembersOrder::Change(wanted), timeout).await?;
    let report = taken(context, reply)?;
    let change = Change { context: context.clone(), goal, index: report.index, warnings };
    if wants_json {
        let done = timeout_at(give_up, change.until_done(None)).await;
        let done = done.map_err(|_| change.unfinished())??;
        return Ok(json(StatusCode::OK, &done, stamp_of(&context.node.status())));
    }
    let slot = context.stream_slot()?;
    let body = Body::stream(|emit| async move {
        let _slot = slot;
        change.run(framing, &emit).await;
    });
    Ok(framing.response(StatusCode::OK, body))
}

/// `POST /v1/members/cancel`
pub(super) async fn cancel(context: &Arc<Context>, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    body::json::<Nothing>(ask.body, context.options.request_bytes_max).await?;
    let status = leaders_members(context, timeout).await?;
    let base = status.replica.membership_index;
    let reply = context.node.order(MembersOrder::Cancel { base }, timeout).await?;
    let report = taken(context, reply)?;
    let membership = &status.replica.membership;
    let learners = membership.learners().clone();
    let goal = Goal { voters: membership.voters().clone(), learners };
    let change =
        Change { context: context.clone(), goal, index: report.index, warnings: Vec::new() };
    let done = tokio::time::timeout(duration(timeout), change.until_done(None)).await;
    let done = done.map_err(|_| change.unfinished())??;
    Ok(json(StatusCode::OK, &done, stamp_of(&context.node.status())))
}

/// `POST /v1/leader`
pub(super) async fn transfer(context: &Arc<Context>, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    let give_up = Instant::now() + duration(timeout);
    let request: LeaderRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    let status = context.node.status();
    let to = match &request.to {
        None => None,
        Some(name) => Some(
            voter_named(&status.replica.membership, name)
                .ok_or_else(|| Fault::unmet(format!("there is no voter named {name}")))?,
        ),
    };
    let mut follower = context.node.follow(Topic::Status);
    let reply = context.node.order(MembersOrder::Transfer { to }, timeout).await?;
    taken(context, reply)?;
    loop {
        let status = context.node.status();
        let leader = status.replica.leader.filter(|&leader| to.is_none_or(|to| to == leader));
        if let Some(name) = leader.and_then(|leader| node_name(&status, leader)) {
            let answer = LeaderAnswer { leader: name, term: status.replica.term.get() };
            return Ok(json(StatusCode::OK, &answer, stamp_of(&status)));
        }
        if timeout_at(give_up, follower.changed()).await.is_err() {
            return Err(RequestError::Timeout.into());
        }
    }
}

/// A body without any field.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The members as they are in force on the leader, so that an order is based on what there is.
async fn leaders_members(context: &Context, timeout: Span) -> Result<Arc<NodeStatus>, Fault> {
    let give_up = Instant::now() + duration(timeout);
    let mut follower = context.node.follow(Topic::Status);
    let reply = context.node.order(MembersOrder::Report, timeout).await?;
    let report = taken(context, reply)?;
    loop {
        let status = context.node.status();
        if status.replica.membership_index >= report.index {
            return Ok(status);
        }
        if timeout_at(give_up, follower.changed()).await.is_err() {
            return Err(RequestError::NotReady.into());
        }
    }
}

fn taken(context: &Context, reply: MembersReply) -> Result<ChangeReport, Fault> {
    let refusal = match reply {
        MembersReply::Report(report) => return Ok(report),
        MembersReply::Refused(refusal) => refusal,
    };
    let sentence = refusal.to_string();
    Err(match refusal {
        MembersRefusal::Moved | MembersRefusal::UnderWay => Fault::conflict(sentence),
        MembersRefusal::Busy | MembersRefusal::Malformed | MembersRefusal::NotLeader => {
            Fault::unavailable(sentence)
        }
        MembersRefusal::Forbidden => Fault::forbidden(sentence),
        MembersRefusal::NameTwice => Fault::invalid(sentence),
        MembersRefusal::QuorumLost { silent, .. } => {
            let names = names(&context.node.status(), &silent);
            Fault::unmet(format!("{sentence} (silent: {names})"))
        }
        _ => Fault::unmet(sentence),
    })
}

fn names(status: &NodeStatus, nodes: &[NodeId]) -> String {
    let name = |&node: &NodeId| {
        node_name(status, node).unwrap_or_else(|| Incarnation(node.get()).to_string())
    };
    nodes.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Makes incarnations of names.
async fn resolve(
    context: &Context,
    status: &NodeStatus,
    request: &MembersRequest,
) -> Result<WantedMembers, Fault> {
    let membership = &status.replica.membership;
    let mut seen = BTreeSet::new();
    let mut wanted = WantedMembers {
        base: request.index.map_or(status.replica.membership_index, Index),
        force: request.force,
        supersede: request.supersede,
        ..WantedMembers::default()
    };
    if request.voters.len() + request.learners.len() > limits::MEMBERS_MAX {
        return Err(Fault::unmet(MembersRefusal::TooManyMembers.to_string()));
    }
    for (voter, member) in request
        .voters
        .iter()
        .map(|member| (true, member))
        .chain(request.learners.iter().map(|member| (false, member)))
    {
        let name = match member {
            WantedMember::Known(name) | WantedMember::At(MemberAt { name, .. }) => name,
        };
        if !seen.insert(name.as_str()) {
            return Err(Fault::invalid(format!("{name} is named twice")));
        }
        let (node, record) = match member {
            WantedMember::Known(name) => known(membership, name)?,
            WantedMember::At(at) => asked(context, status, at).await?,
        };
        let half = if voter { &mut wanted.voters } else { &mut wanted.learners };
        half.insert(node, record);
    }
    Ok(wanted)
}

/// The member of this name; while one is being replaced, the one that is to stay.
fn known(membership: &Membership, name: &str) -> Result<(NodeId, Member), Fault> {
    let named = |(_, member): &(&NodeId, &Member)| member.name == name;
    let stays = |(node, _): &(&NodeId, &Member)| match membership.goal() {
        Some(goal) => goal.voters.contains(node) || goal.learners.contains(node),
        None => membership.voters().contains(node) || membership.learners().contains(node),
    };
    let mut members = membership.members().iter();
    let found = members.clone().find(|member| named(member) && stays(member));
    let found = found.or_else(|| members.find(named));
    let (node, member) = found.ok_or_else(|| {
        Fault::unmet(format!(
            "there is no member named {name}: to add one, give its address too, as {{\"name\": \
             \"{name}\", \"address\": \"HOST:PORT\"}}"
        ))
    })?;
    Ok((*node, member.clone()))
}

/// Who answers at an address.
async fn asked(
    context: &Context,
    status: &NodeStatus,
    at: &MemberAt,
) -> Result<(NodeId, Member), Fault> {
    check_at(at)?;
    let member = Member { name: at.name.clone(), address: at.address.clone() };
    if at.name == status.name {
        // A node knows without asking who it is.
        return Ok((status.replica.node, member));
    }
    let introduced = context.node.introduce(&at.name, &at.address).await;
    let introduced = introduced.map_err(|error| {
        Fault::unmet(format!(
            "{} at {} cannot be added: {error}; nothing was changed",
            at.name, at.address
        ))
    })?;
    Ok((introduced.node, member))
}

fn check_at(at: &MemberAt) -> Result<(), Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if at.name.is_empty()
        || at.name.len() > limits::NODE_NAME_BYTES_MAX
        || !at.name.bytes().all(plain)
    {
        return Err(Fault::invalid(format!(
            "\"name\": {:?} is not 1 to 253 letters, digits, dots, hyphens and underscores",
            at.name
        )));
    }
    let port = at.address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
    if at.address.len() > limits::ADDRESS_BYTES_MAX || port.is_none_or(|port| port == 0) {
        return Err(Fault::invalid(format!("\"address\": {:?} is not HOST:PORT", at.address)));
    }
    Ok(())
}

fn voter_named(membership: &Membership, name: &str) -> Option<NodeId> {
    let mut voters = membership.voters().iter();
    voters.find(|node| membership.members()[*node].name == name).copied()
}

fn warnings(wanted: &WantedMembers) -> Vec<String> {
    let voters = wanted.voters.len();
    if let Some(fewer) = voters.checked_sub(1).filter(|fewer| !fewer.is_multiple_of(2)) {
        return vec![format!(
            "{voters} voters survive the loss of no more than {fewer} do: an odd number is better"
        )];
    }
    Vec::new()
}

/// A change that was taken, on its way.
struct Change {
    context: Arc<Context>,
    goal: Goal,
    /// The configuration that the leader had in force when it had taken it.
    index: Index,
    warnings: Vec<String>,
}

/// How far it is.
enum Step {
    CatchingUp,
    Done(ChangeDone),
    Joint,
    /// This node has not heard of it yet.
    Unheard,
}

impl Change {
    async fn run(self, framing: Framing, emit: &Emit) {
        let last = match self.until_done(Some((framing, emit))).await {
            Ok(done) => MembersMessage::Done(done),
            Err(fault) => MembersMessage::Error(fault.into_problem()),
        };
        emit.send(framing.encode(None, &last)).await;
    }

    /// Follows the change; what is new goes to `tell`.
    async fn until_done(&self, tell: Option<(Framing, &Emit)>) -> Result<ChangeDone, Fault> {
        let mut follower = self.context.node.follow(Topic::Status);
        let stopped = self.context.stopped();
        tokio::pin!(stopped);
        let (mut told, mut told_at) = (None, Instant::now());
        loop {
            let status = self.context.node.status();
            let message = match self.step(&status)? {
                Step::CatchingUp => Some(self.catching_up().await),
                Step::Done(done) => return Ok(done),
                Step::Joint => Some(MembersMessage::Joint {
                    index: status.replica.membership_index.get(),
                    waits: status.replica.leader.is_none().then(|| {
                        "no leader is known: a majority of the voters has to be up".to_owned()
                    }),
                }),
                Step::Unheard => None,
            };
            let is_due = told_at.elapsed() >= duration(limits::PROGRESS_INTERVAL);
            if let (Some(message), Some((framing, emit))) = (message, tell)
                && (is_due || told.as_ref() != Some(&message))
            {
                emit.send(framing.encode(None, &message)).await;
                (told, told_at) = (Some(message), Instant::now());
            }
            tokio::select! {
                () = &mut stopped => return Err(Fault::shutting_down()),
                () = follower.changed() => {}
                () = tokio::time::sleep(duration(LOOK)) => {}
            }
        }
    }

    fn step(&self, status: &NodeStatus) -> Result<Step, Fault> {
        let replica = &status.replica;
        let stays = |node| self.goal.voters.contains(node) || self.goal.learners.contains(node);
        if replica.removed.is_some() && !stays(&replica.node) {
            return Ok(Step::Done(self.done(status)));
        }
        if replica.membership_index < self.index {
            return Ok(Step::Unheard);
        }
        let members = &replica.membership;
        if members.goal() == Some(&self.goal) {
            return Ok(Step::CatchingUp);
        }
        let is_wanted = members.goal().is_none()
            && *members.voters() == self.goal.voters
            && *members.learners() == self.goal.learners;
        if !is_wanted {
            let sentence = "another change of members took the place of this one";
            return Err(Fault::conflict(sentence));
        }
        let settled = replica.membership_committed && !members.is_joint();
        Ok(if settled { Step::Done(self.done(status)) } else { Step::Joint })
    }

    /// How the new voters come along, as the leader sees it.
    async fn catching_up(&self) -> MembersMessage {
        let reply = self.context.node.order(MembersOrder::Report, LOOK.times(4)).await;
        let status = self.context.node.status();
        let index = status.replica.membership_index.get();
        match reply {
            Ok(MembersReply::Report(report)) => MembersMessage::CatchingUp {
                index,
                members: newcomer_views(&status, &report),
                waits: waits_for(&status, &report),
            },
            Ok(MembersReply::Refused(refusal)) => MembersMessage::CatchingUp {
                index,
                members: Vec::new(),
                waits: Some(refusal.to_string()),
            },
            Err(error) => MembersMessage::CatchingUp {
                index,
                members: Vec::new(),
                waits: Some(error.to_string()),
            },
        }
    }

    fn done(&self, status: &NodeStatus) -> ChangeDone {
        let named = |nodes: &BTreeSet<NodeId>| -> BTreeMap<String, Incarnation> {
            let name = |&node: &NodeId| {
                let name = node_name(status, node).unwrap_or_default();
                (name, Incarnation(node.get()))
            };
            nodes.iter().map(name).collect()
        };
        ChangeDone {
            index: status.replica.membership_index.get(),
            voters: named(&self.goal.voters),
            learners: named(&self.goal.learners),
            warnings: self.warnings.clone(),
        }
    }

    /// The caller's time is over, and the change goes on.
    fn unfinished(&self) -> Fault {
        Fault::unfinished(
            "the change was taken and goes on; GET /v1/members shows how it comes along, POST \
             /v1/members/cancel gives it up while its new voters catch up",
        )
    }
}

fn stamp_of(status: &NodeStatus) -> Stamp {
    Stamp { revision: status.revision, epoch: status.epoch }
}

/// Every member by name, with what becomes of it.
pub(super) fn member_views(status: &NodeStatus) -> Vec<MemberView> {
    let membership = &status.replica.membership;
    let becomes = |node: NodeId| {
        let (voters, learners) = match membership.goal() {
            Some(goal) => (&goal.voters, &goal.learners),
            None if membership.is_joint() => (membership.voters(), membership.learners()),
            None => return None,
        };
        let now = membership.voters().contains(&node) && membership.goal().is_some();
        match (voters.contains(&node), learners.contains(&node)) {
            (true, _) if now => None,
            (true, _) => Some(Becomes::Voter),
            (_, true) if !membership.is_voter(node) => None,
            (_, true) => Some(Becomes::Learner),
            (false, false) => Some(Becomes::Removed),
        }
    };
    let view = |member: &MemberStatus| MemberView {
        name: member.name.clone(),
        incarnation: Incarnation(member.node.get()),
        role: if member.voter { MemberRole::Voter } else { MemberRole::Learner },
        address: member.address.clone(),
        leader: member.leader,
        becomes: becomes(member.node),
        matched_index: member.progress.map(|progress| progress.matched.get()),
        active: member.progress.map(|progress| progress.recent_active),
    };
    let mut members: Vec<MemberView> = status.replica.members.iter().map(view).collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    members
}

fn newcomer_views(status: &NodeStatus, report: &ChangeReport) -> Vec<NewcomerView> {
    let view = |newcomer: &Newcomer| NewcomerView {
        name: node_name(status, newcomer.node).unwrap_or_default(),
        incarnation: Incarnation(newcomer.node.get()),
        connected: newcomer.active,
        matched_index: newcomer.matched.get(),
        last_index: report.last_index.get(),
        snapshot: newcomer.snapshot,
        caught_up: newcomer.caught_up,
    };
    report.newcomers.iter().map(view).collect()
}

/// On the leader: what the change under way waits for that will not come about by itself.
pub(super) fn change_waits(status: &NodeStatus) -> Option<String> {
    waits_for(status, &status.replica.change)
}

fn waits_for(status: &NodeStatus, report: &ChangeReport) -> Option<String> {
    let away = report.newcomers.iter().filter(|newcomer| !newcomer.active);
    let away: Vec<NodeId> = away.map(|newcomer| newcomer.node).collect();
    if !away.is_empty() {
        return Some(format!(
            "{} shall vote and does not answer the leader: start it, or cancel the change with \
             `quorumctl members cancel`",
            names(status, &away)
        ));
    }
    (!report.silent.is_empty()).then(|| {
        format!(
            "with {} silent, the new voters would have no majority: bring them back, or give the \
             same order again with `force`",
            names(status, &report.silent)
        )
    })
}
