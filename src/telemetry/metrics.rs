//! Decides which metrics there are, what they are called, and how a status becomes their text.
//!
//! Nothing is counted here: every number is read from a [`NodeStatus`] at the moment of the scrape.
//! No label carries a key of the store, so that the number of series stays bounded by the members.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::base::Span;
use crate::node::NodeStatus;
use crate::raft::Role;

/// The content type of what [`render`] returns.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a daemon does for its host. The names are those of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostGauges {
    /// Processes that leases are bound to.
    pub bound_processes: u64,
    /// Files that follow keys, and whether each is what its keys say.
    pub files_current: Vec<(String, bool)>,
    /// Directories that keys follow, whether each is published, and how many keys it has.
    pub published: Vec<(String, bool, u64)>,
}

/// The text of all metrics of one node, in the OpenMetrics form, which Prometheus reads.
pub fn render(status: &NodeStatus, host: &HostGauges) -> String {
    let mut registry = Registry::with_prefix("quorumd");
    add_node(&mut registry, status);
    number(
        &mut registry,
        "bound_processes",
        "Processes of this host with leases that end with them",
        host.bound_processes,
    );
    add_raft(&mut registry, status);
    add_store(&mut registry, status);
    add_storage(&mut registry, status);
    add_host(&mut registry, host);
    let mut text = String::new();
    // Writing to a string cannot fail; half a text would at worst miss its end mark.
    let _ = text::encode(&mut text, &registry);
    text
}

fn add_node(registry: &mut Registry, status: &NodeStatus) {
    let replica = &status.replica;
    let labels = vec![
        ("version", status.version.to_owned()),
        ("cluster", status.cluster_name.clone()),
        ("node", status.name.clone()),
    ];
    registry.register("build", "The program and the node that it runs", Info::new(labels));
    let uptime = ConstGauge::new(seconds(status.uptime));
    registry.register_with_unit("uptime", "Since the process started", Unit::Seconds, uptime);
    flag(registry, "ready", "Whether a leader is known and the state is caught up", replica.ready);
    flag(registry, "draining", "Whether the node is about to stop", status.draining);
    number(
        registry,
        "pending_requests",
        "Requests that wait for their outcome here",
        replica.pending as u64,
    );
    let links = Family::<[(&str, String); 1], Gauge>::default();
    for link in &status.links {
        let peer = [("peer", link.name.clone())];
        links.get_or_create(&peer).set(i64::from(link.connected));
    }
    registry.register("peer_connected", "Whether frames can be sent to a member", links);
    let expiries = Family::<[(&str, String); 2], Gauge>::default();
    for certificate in &status.certificates {
        let kind = if certificate.own { "own" } else { "authority" };
        let labels = [("kind", kind.to_owned()), ("subject", certificate.subject.clone())];
        expiries.get_or_create(&labels).set(seconds_until(certificate.not_after));
    }
    registry.register_with_unit(
        "certificate_expires_in",
        "Until a certificate in use ends; below zero when it has",
        Unit::Seconds,
        expiries,
    );
}

fn add_raft(registry: &mut Registry, status: &NodeStatus) {
    let replica = &status.replica;
    let raft = registry.sub_registry_with_prefix("raft");
    flag(raft, "leader", "Whether this node leads", replica.role == Role::Leader);
    flag(raft, "leader_known", "Whether this node knows a leader", replica.leader.is_some());
    flag(
        raft,
        "diverged",
        "Whether this node's state differs from that of a quorum",
        replica.fence.is_some(),
    );
    flag(raft, "joint", "Whether the members are being changed", replica.joint);
    number(raft, "term", "The current term", replica.term.get());
    number(raft, "commit_index", "Highest index known to be committed", replica.commit.get());
    number(raft, "applied_index", "Highest applied index", replica.applied.get());
    number(raft, "last_index", "Last index of the log", replica.last_index.get());
    number(raft, "persisted_index", "Highest index on this disk", replica.persisted.get());
    number(
        raft,
        "digests_agreed_index",
        "On the leader: last index at which a quorum had one digest",
        replica.digests_agreed.get(),
    );
    number(raft, "saved_index", "Applied index of the last saved state", replica.saved.get());
    bytes(raft, "log", "Log entries held in memory", replica.log_bytes);
    let members = Family::<[(&str, &str); 1], Gauge>::default();
    for (role, votes) in [("voter", true), ("learner", false)] {
        let count = replica.members.iter().filter(|member| member.voter == votes).count();
        members.get_or_create(&[("role", role)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    raft.register("members", "Members of the cluster", members);
    let lag = Family::<[(&str, String); 1], Gauge>::default();
    for member in &replica.members {
        let Some(progress) = &member.progress else { continue };
        let behind = replica.last_index.since(progress.matched);
        let labels = [("peer", member.name.clone())];
        lag.get_or_create(&labels).set(i64::try_from(behind).unwrap_or(i64::MAX));
    }
    raft.register("peer_lag_entries", "On the leader: entries that a member lacks", lag);
    let snapshots = Family::<[(&str, &str); 1], Gauge>::default();
    for (direction, outgoing) in [("in", false), ("out", true)] {
        let count = replica.snapshots.iter().filter(|it| it.outgoing == outgoing).count();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        snapshots.get_or_create(&[("direction", direction)]).set(count);
    }
    raft.register("snapshots", "States on their way from or to other members", snapshots);
}

fn add_store(registry: &mut Registry, status: &NodeStatus) {
    let store = registry.sub_registry_with_prefix("store");
    number(store, "revision", "The newest revision here", status.revision.get());
    number(
        store,
        "compact_revision",
        "The oldest revision that can be read",
        status.compact_revision.get(),
    );
    number(store, "epoch", "Grows when a backup is restored", status.epoch.get());
    number(store, "leases", "Leases of the whole cluster", status.leases);
    bytes(store, "live", "Keys and values as they are now", status.live_bytes);
    bytes(store, "history", "All versions that are kept", status.history_bytes);
    bytes(store, "max", "Above this writes are refused", status.store_bytes_max);
}

fn add_storage(registry: &mut Registry, status: &NodeStatus) {
    let disk = &status.storage;
    let storage = registry.sub_registry_with_prefix("storage");
    flag(storage, "full", "Whether writes are refused for want of room", status.replica.disk_full);
    bytes(storage, "raft", "Size of raft.redb", disk.raft_bytes);
    bytes(storage, "state", "Size of state.redb", disk.state_bytes);
    bytes(storage, "free", "Free space under the data directory", disk.free_bytes);
    bytes(storage, "reserve", "Below this free space writes are refused", disk.reserve_bytes);
    let last_write = ConstGauge::new(seconds(disk.last_write));
    storage.register_with_unit(
        "last_write",
        "The last write of the log, with its sync",
        Unit::Seconds,
        last_write,
    );
}

fn add_host(registry: &mut Registry, host: &HostGauges) {
    let files = Family::<[(&str, String); 1], Gauge>::default();
    for (name, current) in &host.files_current {
        files.get_or_create(&[("file", name.clone())]).set(i64::from(*current));
    }
    registry.register("file_current", "Whether a file is what its keys say", files);
    let published = Family::<[(&str, String); 1], Gauge>::default();
    let keys = Family::<[(&str, String); 1], Gauge>::default();
    for (name, current, count) in &host.published {
        let label = [("publish", name.clone())];
        published.get_or_create(&label).set(i64::from(*current));
        keys.get_or_create(&label).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    let help = "Whether the keys of a directory are what its files say";
    registry.register("publish_current", help, published);
    registry.register("publish_keys", "Files of a directory that have their key", keys);
}

fn flag(registry: &mut Registry, name: &str, help: &str, value: bool) {
    registry.register(name, help, ConstGauge::new(u64::from(value)));
}

fn number(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(value));
}

fn bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(value));
}

fn seconds_until(end: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match end.duration_since(SystemTime::now()) {
        Ok(left) => whole(left),
        Err(error) => -whole(error.duration()),
    }
}

fn seconds(span: Span) -> f64 {
    // Exact up to 2^53 microseconds, 285 years.
    span.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use crate::base::{Boot, ClusterId, Epoch, Index, NodeId, Revision, Span, Term};
    use crate::node::{CertificateStatus, LinkStatus, NodeStatus, StorageStatus};
    use crate::raft::{Progress, ProgressState, Role};
    use crate::replica::{MemberStatus, ReplicaStatus};

    use super::{HostGauges, render};

    fn status() -> NodeStatus {
        let member = |node: u64, name: &str, voter: bool, matched: u64| MemberStatus {
            node: NodeId(node),
            name: name.to_owned(),
            address: format!("10.0.0.{node}:7400"),
            voter,
            leader: node == 1,
            progress: Some(Progress {
                state: ProgressState::Replicate,
                matched: Index(matched),
                next: Index(matched + 1),
                recent_active: true,
                cut_off: false,
            }),
        };
        NodeStatus {
            name: "web1".to_owned(),
            cluster_name: "prod".to_owned(),
            version: "1.2.3",
            replica: ReplicaStatus {
                node: NodeId(1),
                boot: Boot(3),
                cluster: ClusterId(9),
                role: Role::Leader,
                term: Term(7),
                leader: Some(NodeId(1)),
                commit: Index(90),
                applied: Index(89),
                last_index: Index(100),
                persisted: Index(99),
                log_bytes: 4_096,
                saved: Index(50),
                members: vec![member(1, "web1", true, 100), member(2, "web2", false, 80)],
                joint: false,
                membership: Default::default(),
                membership_index: Index(0),
                membership_committed: true,
                change: Default::default(),
                ready: true,
                disk_full: false,
                pending: 4,
                snapshots: Vec::new(),
                removed: None,
                fence: None,
                digests_agreed: Index(64),
            },
            revision: Revision(33),
            compact_revision: Revision(5),
            epoch: Epoch(1),
            live_bytes: 10,
            history_bytes: 20,
            store_bytes_max: 30,
            leases: 2,
            digest: 1,
            storage: StorageStatus {
                raft_bytes: 1,
                state_bytes: 2,
                free_bytes: 3,
                reserve_bytes: 4,
                data_dir: "/secret/path".to_owned(),
                last_write: Span::from_micros(1_500),
            },
            links: vec![LinkStatus { name: "web2".to_owned(), connected: true, last_error: None }],
            uptime: Span::from_millis(2_500),
            certificates: vec![CertificateStatus {
                own: true,
                subject: "spiffe://blue/node/n1".to_owned(),
                not_after: SystemTime::now() + Duration::from_secs(1_000),
                warning: None,
            }],
            members_differ: None,
            draining: false,
        }
    }

    #[test]
    fn a_status_becomes_openmetrics_text() {
        let host = HostGauges {
            bound_processes: 3,
            files_current: vec![("nginx".to_owned(), true)],
            published: vec![("drop".to_owned(), false, 3)],
        };
        let text = render(&status(), &host);
        for line in [
            "quorumd_build_info{version=\"1.2.3\",cluster=\"prod\",node=\"web1\"} 1",
            "quorumd_uptime_seconds 2.5",
            "quorumd_ready 1",
            "quorumd_peer_connected{peer=\"web2\"} 1",
            "quorumd_raft_leader 1",
            "quorumd_raft_term 7",
            "quorumd_raft_members{role=\"learner\"} 1",
            "quorumd_raft_peer_lag_entries{peer=\"web2\"} 20",
            "quorumd_store_revision 33",
            "quorumd_storage_last_write_seconds 0.0015",
            "quorumd_storage_free_bytes 3",
            "quorumd_file_current{file=\"nginx\"} 1",
            "quorumd_publish_current{publish=\"drop\"} 0",
            "quorumd_publish_keys{publish=\"drop\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "a scraper would call this cut off:\n{text}");
        assert!(!text.contains("/secret/path"), "a path became public:\n{text}");
    }
}
