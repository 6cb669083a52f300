//! `/v1/status`: what this node knows of itself and of the cluster.

use http::{Response, StatusCode};

use crate::api::types::{
    HealthNote, HexId, Incarnation, LinkView, NodeRole, NodeState, RebuildAnswer, ReloadAnswer,
    SnapshotView, StatusAnswer, StorageView,
};
use crate::base::NodeId;
use crate::node::{NodeStatus, StartPhase, StartStatus};
use crate::replica::{Role, SnapshotPhase, SnapshotStatus};

use super::answer::{Stamp, json};
use super::context::{Ask, Context, node_name};
use super::file_status;
use super::members::{change_waits, member_views};
use super::params;
use super::problem::Fault;
use super::stream::Body;

/// `GET /v1/status`
pub(super) fn status(context: &Context, ask: &Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let status = context.node.status();
    let seen = Stamp { revision: status.revision, epoch: status.epoch };
    let mut view = status_view(&status);
    let more = context.host.enrolment().map(|it| it.health()).unwrap_or_default();
    view.health.extend(
        more.into_iter().map(|(code, detail)| HealthNote { code: code.to_owned(), detail }),
    );
    file_status::add(&context.host, &mut view);
    view.bound_processes = context.host.bindings().processes() as u64;
    view.health.extend(context.host.reload_refused().map(|reasons| HealthNote {
        code: "reload_failed".to_owned(),
        detail: format!("what was in force stays in force: {}", reasons.replace('\n', "; ")),
    }));
    Ok(json(StatusCode::OK, &view, seen))
}

/// `POST /v1/rebuild`: the leader's state takes the place of this node's, which is fenced off.
pub(super) fn rebuild(context: &Context, ask: &Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let fence = context.node.fence().ok_or_else(|| {
        Fault::conflict("this node's state is that of the others: there is nothing to rebuild")
    })?;
    context.node.rebuild();
    let status = context.node.status();
    let seen = Stamp { revision: status.revision, epoch: status.epoch };
    Ok(json(StatusCode::ACCEPTED, &RebuildAnswer { diverged_index: fence.index.get() }, seen))
}

/// `POST /v1/reload`: the daemon's files are read again.
pub(super) async fn reload(context: &Context, ask: &Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?;
    let report = context.host.reload().await.map_err(Fault::unmet)?;
    let status = context.node.status();
    let seen = Stamp { revision: status.revision, epoch: status.epoch };
    Ok(json(StatusCode::OK, &ReloadAnswer { changed: report.changed }, seen))
}

fn status_view(status: &NodeStatus) -> StatusAnswer {
    let replica = &status.replica;
    StatusAnswer {
        node: status.name.clone(),
        incarnation: Incarnation(replica.node.get()),
        cluster: status.cluster_name.clone(),
        cluster_id: HexId(replica.cluster.get()),
        version: status.version.to_owned(),
        state: match replica.removed {
            Some(_) => NodeState::Removed,
            None => NodeState::Member,
        },
        role: match replica.role {
            Role::Candidate => NodeRole::Candidate,
            Role::Follower => NodeRole::Follower,
            Role::Leader => NodeRole::Leader,
            Role::Learner => NodeRole::Learner,
            Role::PreCandidate => NodeRole::PreCandidate,
        },
        leader: replica.leader.and_then(|leader| node_name(status, leader)),
        term: replica.term.get(),
        commit_index: replica.commit.get(),
        applied_index: replica.applied.get(),
        revision: status.revision.get(),
        compact_revision: status.compact_revision.get(),
        epoch: status.epoch.get(),
        ready: replica.ready && !status.draining,
        uptime_ms: status.uptime.as_millis(),
        leases: status.leases,
        bound_processes: 0,
        digest: HexId(status.digest),
        pending: replica.pending as u64,
        members: member_views(status),
        links: status.links.iter().map(link_view).collect(),
        snapshots: replica.snapshots.iter().map(|it| snapshot_view(status, it)).collect(),
        health: health(status),
        notes: notes(status),
        storage: StorageView {
            data_dir: status.storage.data_dir.clone(),
            raft_bytes: status.storage.raft_bytes,
            state_bytes: status.storage.state_bytes,
            free_bytes: status.storage.free_bytes,
            reserve_bytes: status.storage.reserve_bytes,
            live_bytes: status.live_bytes,
            history_bytes: status.history_bytes,
            log_bytes: replica.log_bytes,
            last_write_ms: status.storage.last_write.as_millis(),
        },
        files: Vec::new(),
        publish: Vec::new(),
    }
}

fn link_view(link: &crate::node::LinkStatus) -> LinkView {
    LinkView {
        name: link.name.clone(),
        connected: link.connected,
        last_error: link.last_error.clone(),
    }
}

fn snapshot_view(status: &NodeStatus, snapshot: &SnapshotStatus) -> SnapshotView {
    let phase = match snapshot.phase {
        SnapshotPhase::Failed => "failed",
        SnapshotPhase::Installing => "installing",
        SnapshotPhase::Transferring => "transferring",
        SnapshotPhase::Waiting => "waiting",
    };
    SnapshotView {
        member: node_name(status, snapshot.member).unwrap_or_else(|| snapshot.member.to_string()),
        outgoing: snapshot.outgoing,
        phase: phase.to_owned(),
        index: snapshot.index.get(),
        rows: snapshot.rows,
        rows_done: snapshot.rows_done,
        refusal: snapshot.refusal.map(|refusal| refusal.to_string()),
    }
}

/// How a node that has not started yet looks.
pub(super) fn starting_view(starting: &StartStatus) -> StatusAnswer {
    let (state, code) = match starting.phase {
        StartPhase::WaitingToBeAdded { .. } => (NodeState::WaitingToBeAdded, "waiting_to_be_added"),
        StartPhase::FirstBoot { .. } | StartPhase::Loading => (NodeState::Starting, "starting"),
    };
    StatusAnswer {
        node: starting.name.clone(),
        incarnation: Incarnation(starting.incarnation.map_or(0, NodeId::get)),
        cluster: starting.cluster_name.clone(),
        cluster_id: HexId(0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state,
        role: NodeRole::None,
        leader: None,
        term: 0,
        commit_index: 0,
        applied_index: 0,
        revision: 0,
        compact_revision: 0,
        epoch: 0,
        ready: false,
        uptime_ms: 0,
        leases: 0,
        bound_processes: 0,
        digest: HexId(0),
        pending: 0,
        members: Vec::new(),
        links: Vec::new(),
        snapshots: Vec::new(),
        health: vec![HealthNote { code: code.to_owned(), detail: starting.phase.sentence() }],
        notes: Vec::new(),
        storage: StorageView::default(),
        files: Vec::new(),
        publish: Vec::new(),
    }
}

/// What is worth knowing and needs nothing done.
fn notes(status: &NodeStatus) -> Vec<HealthNote> {
    let differs = status.members_differ.iter();
    let note =
        |detail: &String| HealthNote { code: "members_differ".to_owned(), detail: detail.clone() };
    differs.map(note).collect()
}

/// What an operator should know; nothing when all is well.
fn health(status: &NodeStatus) -> Vec<HealthNote> {
    let mut notes = Vec::new();
    let mut note = |code: &str, detail: String| {
        notes.push(HealthNote { code: code.to_owned(), detail });
    };
    let storage = &status.storage;
    if status.draining {
        note("draining", "this daemon is stopping and takes no new requests".to_owned());
    }
    if let Some(removal) = status.replica.removed {
        note("removed", removal.to_string());
        return notes;
    }
    for snapshot in &status.replica.snapshots {
        let Some(refusal) = snapshot.refusal else { continue };
        let member = node_name(status, snapshot.member);
        let member = member.unwrap_or_else(|| snapshot.member.to_string());
        let way = if snapshot.outgoing { "to" } else { "from" };
        note("snapshot_refused", format!("a snapshot {way} {member} was refused: {refusal}"));
    }
    if status.replica.leader.is_none() {
        let detail = "no leader is known: writes and linearizable reads wait, local reads go on";
        note("no_leader", detail.to_owned());
    }
    if let Some(fence) = status.replica.fence {
        let detail = format!(
            "after entry {} this node's state has the digest {:016x}, and that of a quorum \
             {:016x}: nothing is served from it; rebuild it with `quorumctl rebuild`",
            fence.index, fence.own, fence.expected
        );
        note("diverged", detail);
    } else if !status.replica.ready {
        note("not_ready", "this node has not caught up since it was started".to_owned());
    }
    if let Some(waits) = change_waits(status) {
        note("change_waits", waits);
    }
    if status.replica.disk_full {
        let detail = format!(
            "{} bytes are free where {} is, {} must be: writes are refused until space is freed",
            storage.free_bytes, storage.data_dir, storage.reserve_bytes
        );
        note("disk_full", detail);
    } else if storage.free_bytes < storage.reserve_bytes.saturating_mul(2) {
        let detail =
            format!("only {} bytes are free where {} is", storage.free_bytes, storage.data_dir);
        note("disk_low", detail);
    }
    for certificate in &status.certificates {
        let code = if certificate.own { "certificate_expires" } else { "ca_expires" };
        if let Some(warning) = &certificate.warning {
            note(code, warning.clone());
        }
    }
    for link in status.links.iter().filter(|link| !link.connected) {
        let reason = link.last_error.as_deref().unwrap_or("not connected yet");
        note("peer_unreachable", format!("{}: {reason}", link.name));
    }
    notes
}
