//! The validated configuration, its defaults, and what the layers below are given of it.
//!
//! How it is written in a file is decided in `file`, what is allowed together in `check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::api;
use crate::base::{Span, limits};
use crate::enroll::{AuthorityOptions, EnrollOptions};
use crate::host::{AccessRuleOptions, FilesOptions, PublishOptions};
use crate::raft;
use crate::replica;
use crate::telemetry::LogOptions;

/// Everything that a file may say about one node, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the cluster; certificates carry it.
    pub cluster: String,
    /// Name of this node; a key of `members`.
    pub name: String,
    /// Where the other members reach this one.
    pub listen: SocketAddr,
    /// The members of the first boot, by name.
    pub members: BTreeMap<String, Seed>,
    /// Certificates for the peer port.
    pub tls: TlsFiles,
    /// The authority, when its key is on this host.
    pub authority: Option<AuthorityOptions>,
    /// Where the log and the state are kept; absolute.
    pub data_dir: PathBuf,
    /// The local socket.
    pub socket: Socket,
    /// The loopback port, off unless named.
    pub http: Option<Http>,
    /// Least time without a leader before a voter campaigns.
    pub election_timeout: Span,
    /// How often a leader speaks when it has nothing to say.
    pub heartbeat_interval: Span,
    /// Entries of the log that are kept for members that are behind.
    pub retained_entries: u64,
    /// Bytes of them.
    pub retained_bytes: u64,
    /// Bytes of snapshots that a leader sends in a second.
    pub snapshot_rate: u64,
    /// How much of the past is kept.
    pub history: History,
    /// Live bytes of the store above which writes are refused.
    pub store_bytes_max: u64,
    /// Limits on what callers of the local API may do.
    pub limits: Limits,
    /// Free bytes of the data directory's disk below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// What is logged, and how.
    pub log: LogOptions,
    /// Who may do what through the local API; nothing when the file has no rules.
    pub access: Option<Vec<AccessRuleOptions>>,
    /// Files that follow keys.
    pub files: FilesOptions,
    /// Directories that keys follow.
    pub publish: PublishOptions,
    /// How long an orderly stop may take before it becomes an abrupt one.
    pub shutdown_grace: Span,
}

/// A member as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// `host:port` at which the others reach it.
    pub address: String,
    /// Whether it votes.
    pub role: MemberRole,
}

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberRole {
    /// Receives the log and serves its host, without a vote.
    Learner,
    /// Counts for elections and commits.
    Voter,
}

/// Paths of PEM files; absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate chain.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities that sign the members' certificates.
    pub ca: PathBuf,
    /// Whether this daemon renews the certificate, and keeps the authorities up to date.
    pub renew: bool,
}

/// The unix socket that local callers use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its path; absolute, shorter than 108 bytes (unix(7)).
    pub path: PathBuf,
    /// Its file mode.
    pub mode: u32,
    /// Its group, by name or number; the daemon's own unless named.
    pub group: Option<String>,
}

/// The loopback TCP port for callers that cannot use a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// A loopback address.
    pub listen: SocketAddr,
    /// A file that holds the bearer token; absolute.
    pub token_file: PathBuf,
}

/// How much of the past is kept for watches and reads of old revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Newest revisions that are kept.
    pub revisions: u64,
    /// Bytes of keys and values that they may take.
    pub bytes: u64,
    /// Age by the leader's wall clock above which they are forgotten; no bound when absent.
    pub age: Option<Span>,
}

/// Limits on what callers of the local API may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key in bytes.
    pub key_bytes: usize,
    /// Longest value in bytes.
    pub value_bytes: usize,
    /// Longest request body in bytes.
    pub request_bytes: usize,
    /// Most operations in one transaction.
    pub txn_operations: usize,
    /// Most connections at once.
    pub connections: usize,
    /// Most streams at once.
    pub streams: usize,
}

pub(super) const TLS_CERT: &str = "/etc/quorumd/tls/node.crt";
pub(super) const TLS_KEY: &str = "/etc/quorumd/tls/node.key";
pub(super) const TLS_CA: &str = "/etc/quorumd/tls/ca.crt";
pub(super) const DATA_DIR: &str = "/var/lib/quorumd";
/// Under the data directory.
pub(super) const FILES_STATE: &str = "files";
/// Under the data directory.
pub(super) const PUBLISH_STATE: &str = "publish";
pub(super) const SOCKET_PATH: &str = "/run/quorumd/quorumd.sock";
pub(super) const SOCKET_MODE: u32 = 0o660;
pub(super) const DISK_RESERVE_BYTES: u64 = 64 * 1024 * 1024;
pub(super) const CERTIFICATE_LIFE: Span = Span::from_secs(90 * 24 * 60 * 60);
pub(super) const SHUTDOWN_GRACE: Span = Span::from_secs(10);

impl Config {
    /// What the local API is given.
    pub fn api_options(&self) -> api::Options {
        api::Options {
            connections_max: self.limits.connections,
            // One user's programs must not keep all others out.
            connections_per_uid_max: self.limits.connections.div_ceil(2),
            streams_max: self.limits.streams,
            key_bytes_max: self.limits.key_bytes,
            value_bytes_max: self.limits.value_bytes,
            request_bytes_max: self.limits.request_bytes,
            txn_operations_max: self.limits.txn_operations,
            grace: self.shutdown_grace,
        }
    }

    /// What is given to what lets hosts join.
    pub fn enroll_options(&self) -> EnrollOptions {
        EnrollOptions {
            authority: self.authority.clone(),
            roots: self.tls.ca.clone(),
            renewed: self.tls.renew.then(|| self.tls.cert.clone()),
        }
    }

    /// What the replica is given.
    pub fn replica_options(&self) -> replica::Options {
        let defaults = replica::Options::default();
        replica::Options {
            raft: raft::Options {
                election_timeout: self.election_timeout,
                heartbeat_interval: self.heartbeat_interval,
                ..raft::Options::default()
            },
            store_bytes_max: self.store_bytes_max,
            history_revisions: self.history.revisions,
            history_bytes: self.history.bytes,
            history_age_ms: self.history.age.map(Span::as_millis),
            log_retained_entries: self.retained_entries,
            log_retained_bytes: self.retained_bytes,
            // The log is cut behind the saved state only: what is saved less often would be kept.
            save_after_entries: defaults.save_after_entries.min(self.retained_entries.div_ceil(2)),
            save_after_bytes: defaults.save_after_bytes.min(self.retained_bytes.div_ceil(2)),
            cut_entries_min: defaults.cut_entries_min.min(self.retained_entries.div_ceil(8)),
            snapshot_bytes_per_second: self.snapshot_rate,
            ..defaults
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            revisions: limits::HISTORY_REVISIONS_DEFAULT,
            bytes: limits::HISTORY_BYTES_DEFAULT,
            age: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes: limits::KEY_BYTES_MAX,
            value_bytes: limits::VALUE_BYTES_MAX,
            request_bytes: limits::REQUEST_BYTES_MAX,
            txn_operations: limits::TXN_OPERATIONS_MAX,
            connections: limits::CONNECTIONS_MAX,
            streams: limits::STREAMS_MAX,
        }
    }
}
