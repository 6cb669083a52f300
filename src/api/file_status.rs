//! How the files of this host look in its status.

use crate::api::types::{
    FileStateView, FileView, HealthNote, NodeState, PublishView, StatusAnswer,
};
use crate::host::{FileState, FileStatus, Host, PublishStatus};
use crate::telemetry::HostGauges;

/// Adds them to a status, and to its health what an operator should know.
pub(super) fn add(host: &Host, status: &mut StatusAnswer) {
    status.files = host.files_status().into_iter().map(file_view).collect();
    status.publish = host.publish_status().into_iter().map(publish_view).collect();
    // A node that was removed says so, and nothing that follows from it.
    if status.state == NodeState::Removed {
        return;
    }
    let files = status.files.iter().map(|it| note("file", &it.name, it.state, &it.reason));
    let published = status.publish.iter();
    let published = published.map(|it| note("publish", &it.name, it.state, &it.reason));
    status.health.extend(files.chain(published).flatten());
    for view in status.publish.iter().filter(|view| view.skipped_count > 0) {
        let (count, first) = (view.skipped_count, view.skipped.first());
        let first = first.map_or(String::new(), |first| format!(", such as {first}"));
        let detail = format!("{}: {count} files or keys stand aside{first}", view.name);
        status.notes.push(HealthNote { code: "publish_skipped".to_owned(), detail });
    }
}

fn note(
    what: &str,
    name: &str,
    state: FileStateView,
    reason: &Option<String>,
) -> Option<HealthNote> {
    let ending = match state {
        FileStateView::Failed => "failed",
        FileStateView::Stale => "stale",
        FileStateView::Current | FileStateView::Unknown | FileStateView::Waiting => return None,
    };
    let reason = reason.as_deref().unwrap_or("no reason is known");
    let code = format!("{what}_{ending}");
    Some(HealthNote { code, detail: format!("{name}: {reason}") })
}

/// What is counted of them.
pub(super) fn gauges(host: &Host) -> HostGauges {
    let current = |state: FileState| state == FileState::Current;
    let files = host.files_status().into_iter().map(|it| (it.name, current(it.state)));
    let published = host.publish_status().into_iter();
    HostGauges {
        bound_processes: host.bindings().processes() as u64,
        files_current: files.collect(),
        published: published.map(|it| (it.name, current(it.state), it.keys)).collect(),
    }
}

fn state(state: FileState) -> FileStateView {
    match state {
        FileState::Current => FileStateView::Current,
        FileState::Failed => FileStateView::Failed,
        FileState::Stale => FileStateView::Stale,
        FileState::Waiting => FileStateView::Waiting,
    }
}

fn file_view(status: FileStatus) -> FileView {
    FileView {
        name: status.name,
        path: status.path.display().to_string(),
        state: state(status.state),
        revision: status.revision.map(|revision| revision.get()),
        reason: status.reason,
        since_ms: status.since.0,
    }
}

fn publish_view(status: PublishStatus) -> PublishView {
    PublishView {
        name: status.name,
        directory: status.directory.display().to_string(),
        prefix: status.prefix,
        state: state(status.state),
        keys: status.keys,
        revision: status.revision.map(|revision| revision.get()),
        reason: status.reason,
        skipped: status.skipped,
        skipped_count: status.skipped_count,
        since_ms: status.since.0,
    }
}
