//! `status` and `rebuild`.

use std::time::Duration;

use super::command::Session;
use super::exit::{DONE, Failure};
use super::members::members_table;
use super::output::table;
use crate::api::types::FileStateView;
use crate::client::{DurationText, NodeRole, NodeState, StatusAnswer};

pub(super) async fn status(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.status().await?;
    session.output.print(&answer, status_page(&answer))?;
    Ok(DONE)
}

/// `rebuild`.
pub(super) async fn rebuild(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.rebuild().await?;
    let text = format!(
        "the leader is asked for its state, because this node's differs since entry {} at the \
         latest; the daemon ends when it is there, and serves again when it is started",
        answer.diverged_index
    );
    session.output.print(&answer, text)?;
    Ok(DONE)
}

/// `reload`.
pub(super) async fn reload(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.reload().await?;
    let text = match answer.changed.as_slice() {
        [] => "nothing has changed".to_owned(),
        changed => format!("changed: {}", changed.join(", ")),
    };
    session.output.print(&answer, text)?;
    Ok(DONE)
}

fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Candidate => "candidate",
        NodeRole::Follower => "follower",
        NodeRole::Leader => "leader",
        NodeRole::Learner => "learner",
        NodeRole::None => "no member",
        NodeRole::PreCandidate => "pre-candidate",
        NodeRole::Unknown => "unknown",
    }
}

/// Bytes in the largest unit that leaves at least one, with one decimal: 1.5 MiB.
fn size(bytes: u64) -> String {
    let mut unit = 1_u64;
    let mut name = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if bytes / unit < 1_024 {
            break;
        }
        unit *= 1_024;
        name = larger;
    }
    let tenths = (bytes % unit) * 10 / unit;
    if unit == 1 { format!("{bytes} B") } else { format!("{}.{tenths} {name}", bytes / unit) }
}

fn status_page(status: &StatusAnswer) -> String {
    let leader = status.leader.as_deref().unwrap_or("none known");
    let ready = match status.state {
        NodeState::Removed => "removed from the cluster",
        NodeState::WaitingToBeAdded => "waiting to be added",
        _ if status.ready => "ready",
        _ => "not ready",
    };
    let uptime = DurationText(Duration::from_secs(status.uptime_ms / 1_000));
    let storage = &status.storage;
    let rows = [
        ("node", format!("{}, {}, {ready}", status.node, role_name(status.role))),
        ("cluster", format!("{} ({})", status.cluster, status.cluster_id)),
        ("version", format!("{}, up {uptime}", status.version)),
        ("leader", format!("{leader}, term {}", status.term)),
        ("log", format!("applied {} of {} committed", status.applied_index, status.commit_index)),
        (
            "store",
            format!(
                "revision {} (readable from {}), {} leases, {} live, {} history",
                status.revision,
                status.compact_revision,
                status.leases,
                size(storage.live_bytes),
                size(storage.history_bytes),
            ),
        ),
        (
            "disk",
            format!(
                "{}: log {}, state {}, free {}, last write {} ms",
                storage.data_dir,
                size(storage.raft_bytes),
                size(storage.state_bytes),
                size(storage.free_bytes),
                storage.last_write_ms,
            ),
        ),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, text)| vec![format!("{name}:"), text]).collect();
    let mut page = table(&rows);
    page.push_str("\n\n");
    page.push_str(&members_table(&status.members));
    for link in status.links.iter().filter(|link| !link.connected) {
        let why = link.last_error.as_deref().unwrap_or("no connection yet");
        page.push_str(&format!("\nnot connected to {}: {why}", link.name));
    }
    page.push_str(&files_tables(status));
    if status.health.is_empty() {
        page.push_str("\n\nhealth: ok");
    } else {
        page.push_str("\n\nhealth:");
        for note in &status.health {
            page.push_str(&format!("\n  {}: {}", note.code, note.detail));
        }
    }
    for note in &status.notes {
        page.push_str(&format!("\nnote: {}", note.detail));
    }
    page
}

/// The files of this host; nothing when there are none.
fn files_tables(status: &StatusAnswer) -> String {
    let state = |state: FileStateView| {
        let word = match state {
            FileStateView::Current => "current",
            FileStateView::Failed => "failed",
            FileStateView::Stale => "stale",
            FileStateView::Unknown => "unknown",
            FileStateView::Waiting => "waiting",
        };
        word.to_owned()
    };
    let at = |revision: Option<u64>| revision.map_or("-".to_owned(), |it| it.to_string());
    let why = |reason: &Option<String>| reason.clone().unwrap_or_default();
    let head = |names: [&str; 5]| names.map(str::to_owned).to_vec();
    let mut text = String::new();
    if !status.files.is_empty() {
        let files = status.files.iter().map(|it| {
            let (name, path) = (it.name.clone(), it.path.clone());
            vec![name, state(it.state), at(it.revision), path, why(&it.reason)]
        });
        let head = head(["FILE", "STATE", "REVISION", "PATH", "REASON"]);
        let rows: Vec<_> = std::iter::once(head).chain(files).collect();
        text += &format!("\n\n{}", table(&rows));
    }
    if !status.publish.is_empty() {
        let published = status.publish.iter().map(|it| {
            let place = format!("{} -> {} ({} keys)", it.directory, it.prefix, it.keys);
            vec![it.name.clone(), state(it.state), at(it.revision), place, why(&it.reason)]
        });
        let head = head(["PUBLISH", "STATE", "REVISION", "DIRECTORY", "REASON"]);
        let rows: Vec<_> = std::iter::once(head).chain(published).collect();
        text += &format!("\n\n{}", table(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal() {
        for (bytes, text) in
            [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (5 << 20, "5.0 MiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_status_page_says_what_a_person_asks_first() {
        let json = r#"{"node":"n1","incarnation":"1","cluster":"c","cluster_id":"2",
            "version":"0.1.0","role":"follower","leader":null,"term":3,"commit_index":9,
            "applied_index":8,"revision":7,"compact_revision":1,"epoch":1,"ready":false,
            "uptime_ms":61000,
            "leases":0,"digest":"0","pending":0,
            "members":[{"name":"n1","incarnation":"1","role":"voter","address":"h:1"}],
            "links":[{"name":"n2","connected":false,"last_error":"refused"}],
            "health":[{"code":"no_leader","detail":"no leader for 5 s"}]}"#;
        let page = status_page(&serde_json::from_str(json).unwrap());
        for wanted in [
            "node:     n1, follower, not ready",
            "leader:   none known, term 3",
            "log:      applied 8 of 9 committed",
            "NAME  ROLE   ADDRESS  INCARNATION       LEADER\n\
             n1    voter  h:1      0000000000000001",
            "not connected to n2: refused",
            "health:\n  no_leader: no leader for 5 s",
        ] {
            assert!(page.contains(wanted), "{wanted:?} is missing in:\n{page}");
        }
    }
}
