//! The schema: which keys a file may have, and what each value must be by itself.
//!
//! What values mean together, and the defaults of absent ones, are decided in `check`.

use std::net::SocketAddr;
use std::path::Path;

use crate::base::{Span, limits};
use crate::host::{AccessRuleOptions, FilesOptions, PublishOptions};
use crate::telemetry::{LogFormat, LogLevel};

use super::access;
use super::files;
use super::options::MemberRole;
use super::publish;
use super::source::{Node, Place, Value};
use super::values;

/// What was found wrong so far, by place.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub mistakes: Vec<(Place, String)>,
    pub warnings: Vec<(Place, String)>,
}

/// One key's value. `Bad` was reported already: nothing more is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting<T> {
    Absent,
    Bad,
    Given(Place, T),
}

impl<T> Setting<T> {
    /// The value, or `default` when the file has no good one.
    pub fn or(self, default: T) -> T {
        match self {
            Self::Given(_, value) => value,
            Self::Absent | Self::Bad => default,
        }
    }

    pub fn given(&self) -> Option<(Place, &T)> {
        match self {
            Self::Given(at, value) => Some((*at, value)),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// What one file says.
pub(super) struct File {
    /// The place of the file as a whole, for what is missing in it.
    pub at: Place,
    pub cluster: Setting<String>,
    pub name: Setting<String>,
    pub listen: Setting<SocketAddr>,
    pub members: Members,
    pub tls_cert: Setting<String>,
    pub tls_key: Setting<String>,
    pub tls_ca: Setting<String>,
    pub tls_renew: Setting<bool>,
    /// The place of the section, when there is one.
    pub ca: Option<Place>,
    pub ca_dir: Setting<String>,
    pub certificate_life: Setting<Span>,
    pub data_dir: Setting<String>,
    pub socket_path: Setting<String>,
    pub socket_mode: Setting<u32>,
    pub socket_group: Setting<String>,
    /// The place of the section, when there is one.
    pub http: Option<Place>,
    pub http_listen: Setting<SocketAddr>,
    pub http_token_file: Setting<String>,
    pub election_timeout: Setting<Span>,
    pub heartbeat_interval: Setting<Span>,
    pub retained_entries: Setting<u64>,
    pub retained_bytes: Setting<u64>,
    pub snapshot_rate: Setting<u64>,
    pub history_revisions: Setting<u64>,
    pub history_bytes: Setting<u64>,
    pub history_age: Setting<Span>,
    pub store_bytes: Setting<u64>,
    pub limits: LimitSettings,
    pub disk_reserve_bytes: Setting<u64>,
    pub log_level: Setting<LogLevel>,
    pub log_format: Setting<LogFormat>,
    pub access: Option<Vec<AccessRuleOptions>>,
    pub files: FilesOptions,
    pub publish: PublishOptions,
    pub shutdown_grace: Setting<Span>,
}

/// The section `limits`.
pub(super) struct LimitSettings {
    pub key_bytes: Setting<u64>,
    pub value_bytes: Setting<u64>,
    pub request_bytes: Setting<u64>,
    pub txn_operations: Setting<u64>,
    pub connections: Setting<u64>,
    pub streams: Setting<u64>,
}

/// The section `members`.
pub(super) struct Members {
    /// Its place, when it is there and is a section.
    pub at: Option<Place>,
    /// Whether everything in it could be read: only then can it be judged as a whole.
    pub whole: bool,
    pub list: Vec<MemberSetting>,
}

/// One member.
pub(super) struct MemberSetting {
    pub name: String,
    pub address: Setting<String>,
    pub role: MemberRole,
}

/// Shortest and longest life of a certificate in milliseconds: the shortest is for tests.
const CERTIFICATE_LIFE: (u64, u64) = (5_000, 10 * 8_760 * 3_600_000);

/// Reads the whole tree. Relative paths of files and directories that follow keys, or that keys
/// follow, are taken from `directory` here.
pub(super) fn read(root: &Node, directory: &Path, report: &mut Report) -> File {
    let mut top = Section::open("", Some(root), report);
    let tls = top.take("tls");
    let ca = top.take("ca");
    let socket = top.take("socket");
    let http = top.take("http");
    let raft = top.take("raft");
    let history = top.take("history");
    let quota = top.take("quota");
    let limits = top.take("limits");
    let disk = top.take("disk");
    let log = top.take("log");
    let members = top.take("members");
    let access = top.take("access");
    let (directories, files) = (top.take("files_directories"), top.take("files"));
    let publish = top.take("publish");
    let mut tls = Section::open("tls", tls, report);
    let mut ca_section = Section::open("ca", ca, report);
    let mut socket = Section::open("socket", socket, report);
    let mut http_section = Section::open("http", http, report);
    let mut raft = Section::open("raft", raft, report);
    let mut history = Section::open("history", history, report);
    let mut quota = Section::open("quota", quota, report);
    let mut disk = Section::open("disk", disk, report);
    let mut log = Section::open("log", log, report);
    let file = File {
        at: root.at,
        cluster: top.text("cluster", report, values::name),
        name: top.text("name", report, values::name),
        listen: top.text("listen", report, values::listen),
        members: read_members(members, report),
        tls_cert: tls.text("cert", report, path),
        tls_key: tls.text("key", report, path),
        tls_ca: tls.text("ca", report, path),
        tls_renew: tls.text("renew", report, renew),
        ca: ca.map(|node| node.at),
        ca_dir: ca_section.text("dir", report, path),
        certificate_life: ca_section.duration("certificate_life", report, CERTIFICATE_LIFE),
        data_dir: top.text("data_dir", report, path),
        socket_path: socket.text("path", report, path),
        socket_mode: socket.text("mode", report, values::mode),
        socket_group: socket.text("group", report, group),
        http: http.map(|node| node.at),
        http_listen: http_section.text("listen", report, loopback),
        http_token_file: http_section.text("token_file", report, path),
        election_timeout: raft.duration("election_timeout", report, (100, 60_000)),
        heartbeat_interval: raft.duration("heartbeat_interval", report, (10, 20_000)),
        retained_entries: raft.number("retained_entries", report, (10, 100_000_000)),
        retained_bytes: raft.size("retained_bytes", report, (1 << 16, 1 << 34)),
        snapshot_rate: raft.size("snapshot_rate", report, (1 << 16, 1 << 34)),
        history_revisions: history.number("revisions", report, (1, 10_000_000)),
        history_bytes: history.size("bytes", report, (1 << 20, 1 << 34)),
        history_age: history.duration("age", report, (1_000, 8_760 * 3_600_000)),
        store_bytes: quota.size("store_bytes", report, (1 << 20, 1 << 36)),
        limits: read_limits(limits, report),
        disk_reserve_bytes: disk.size("reserve_bytes", report, (0, 1 << 40)),
        log_level: log.text("level", report, log_level),
        log_format: log.text("format", report, log_format),
        access: access::read(access, report),
        files: files::read(directories, files, directory, report),
        publish: publish::read(publish, directory, report),
        shutdown_grace: top.duration("shutdown_grace", report, (0, 600_000)),
    };
    for section in [top, tls, ca_section, socket, http_section, raft, history, quota, disk, log] {
        section.close(report);
    }
    file
}

fn read_limits(node: Option<&Node>, report: &mut Report) -> LimitSettings {
    let mut section = Section::open("limits", node, report);
    let at_most = |limit: usize| (1, limit as u64);
    let settings = LimitSettings {
        key_bytes: section.size("key_bytes", report, at_most(limits::KEY_BYTES_MAX)),
        value_bytes: section.size("value_bytes", report, at_most(limits::VALUE_BYTES_MAX)),
        request_bytes: section.size("request_bytes", report, at_most(limits::REQUEST_BYTES_MAX)),
        txn_operations: section.number(
            "txn_operations",
            report,
            at_most(limits::TXN_OPERATIONS_MAX),
        ),
        connections: section.number("connections", report, (1, 65_536)),
        streams: section.number("streams", report, (1, 65_536)),
    };
    section.close(report);
    settings
}

fn read_members(node: Option<&Node>, report: &mut Report) -> Members {
    let mut members = Members { at: None, whole: true, list: Vec::new() };
    let Some(node) = node else { return members };
    let Value::Map(pairs) = &node.value else {
        members.whole = false;
        report.mistakes.push((
            node.at,
            format!(
                "`members` must be a section with a name and an address for each member; found {}",
                found(&node.value)
            ),
        ));
        return members;
    };
    members.at = Some(node.at);
    if pairs.len() > limits::MEMBERS_MAX {
        members.whole = false;
        let most = limits::MEMBERS_MAX;
        report.mistakes.push((node.at, format!("`members` names at most {most} members")));
        return members;
    }
    for (key, value) in pairs {
        let before = report.mistakes.len();
        if let Setting::Given(at, name) = read_text("a member's name", key, report, values::name) {
            if members.list.iter().any(|other| other.name == name) {
                report.mistakes.push((at, format!("the member `{name}` is there twice")));
            } else {
                members.list.push(read_member(name, value, report));
            }
        }
        members.whole &= report.mistakes.len() == before;
    }
    members
}

fn read_member(name: String, node: &Node, report: &mut Report) -> MemberSetting {
    let path = format!("members.{name}");
    let Value::Map(_) = &node.value else {
        let address = read_text(&path, node, report, values::address);
        return MemberSetting { name, address, role: MemberRole::Voter };
    };
    let mut section = Section::open(&path, Some(node), report);
    let address = section.text("address", report, values::address);
    let role = section.text("role", report, role).or(MemberRole::Voter);
    if address == Setting::Absent {
        report.mistakes.push((node.at, format!("`{path}.address` is missing")));
    }
    section.close(report);
    MemberSetting { name, address, role }
}

/// A mapping of the file while its keys are taken one by one.
pub(super) struct Section<'a> {
    path: String,
    pairs: &'a [(Node, Node)],
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// A section that is absent, or empty because everything in it is commented out, has no keys.
    pub(super) fn open(path: &str, node: Option<&'a Node>, report: &mut Report) -> Self {
        let pairs = match node.map(|node| (node.at, &node.value)) {
            Some((_, Value::Map(pairs))) => pairs.as_slice(),
            None | Some((_, Value::Null)) => &[],
            Some((at, value)) => {
                let what = if path.is_empty() { "the file" } else { path };
                report.mistakes.push((
                    at,
                    format!("`{what}` must be a section with keys; found {}", found(value)),
                ));
                &[]
            }
        };
        Self { path: path.to_owned(), pairs, known: Vec::new() }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.pairs.iter().find(|(node, _)| is_text(node, key)).map(|(_, value)| value)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<T> {
        let path = self.path_of(key);
        self.take(key).map_or(Setting::Absent, |node| read_text(&path, node, report, parse))
    }

    /// A duration within `(least, most)` milliseconds.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        report: &mut Report,
        (least, most): (u64, u64),
    ) -> Setting<Span> {
        let (least, most) = (Span::from_millis(least), Span::from_millis(most));
        self.text(key, report, |text| {
            let span = values::duration(text)?;
            if (least..=most).contains(&span) {
                return Ok(span);
            }
            let (least, most) = (values::duration_text(least), values::duration_text(most));
            Err(format!("between {least} and {most}"))
        })
    }

    /// A number within `(least, most)`.
    fn number(
        &mut self,
        key: &'static str,
        report: &mut Report,
        (least, most): (u64, u64),
    ) -> Setting<u64> {
        self.value(key, report, |value| {
            let number = match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                _ => None,
            };
            number
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("a number between {least} and {most}"))
        })
    }

    /// A size within `(least, most)` bytes.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        report: &mut Report,
        (least, most): (u64, u64),
    ) -> Setting<u64> {
        let range = || {
            let (least, most) = (values::size_text(least), values::size_text(most));
            format!("a size between {least} and {most}")
        };
        self.value(key, report, |value| {
            let bytes = match value {
                Value::Integer(number) => u64::try_from(*number).map_err(|_| range())?,
                Value::Text(text) => values::size(text)?,
                _ => return Err(values::size("").err().unwrap_or_else(range)),
            };
            if (least..=most).contains(&bytes) { Ok(bytes) } else { Err(range()) }
        })
    }

    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Setting<T> {
        let path = self.path_of(key);
        self.take(key).map_or(Setting::Absent, |node| match parse(&node.value) {
            Ok(value) => Setting::Given(node.at, value),
            Err(expected) => mistake(&path, node, &expected, report),
        })
    }

    /// Reports what nobody took, and what is there twice.
    pub(super) fn close(self, report: &mut Report) {
        for (index, (key, _)) in self.pairs.iter().enumerate() {
            let Some(known) = self.known.iter().find(|known| is_text(key, known)) else {
                let name = match &key.value {
                    Value::Text(text) => clipped(text),
                    other => found(other),
                };
                let place = if self.path.is_empty() {
                    "here".to_owned()
                } else {
                    format!("in `{}`", self.path)
                };
                let mut known = self.known.clone();
                known.sort_unstable();
                report.mistakes.push((
                    key.at,
                    format!("unknown key `{name}`; known {place}: {}", known.join(", ")),
                ));
                continue;
            };
            if self.pairs.iter().take(index).any(|(other, _)| is_text(other, known)) {
                let path = self.path_of(known);
                report.mistakes.push((key.at, format!("`{path}` is there twice")));
            }
        }
    }
}

pub(super) fn read_text<T>(
    path: &str,
    node: &Node,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Setting<T> {
    // What is expected of a value of another kind is what is expected of no text at all.
    let (text, plain) = match &node.value {
        Value::Text(text) => (text.as_str(), None),
        Value::Bool(_) | Value::Float(_) | Value::Integer(_) => ("", Some(found(&node.value))),
        Value::List(_) | Value::Map(_) | Value::Null => ("", None),
    };
    match parse(text) {
        Ok(value) => Setting::Given(node.at, value),
        // YAML takes an unquoted 660 or 1.5 for a number: say so when that is all that is wrong.
        Err(expected) if plain.is_some_and(|plain| parse(&plain).is_ok()) => {
            mistake(path, node, &format!("text, in quotes: {expected}"), report)
        }
        Err(expected) => mistake(path, node, &expected, report),
    }
}

pub(super) fn mistake<T>(
    path: &str,
    node: &Node,
    expected: &str,
    report: &mut Report,
) -> Setting<T> {
    let hint = if node.value == Value::Null { "; remove the key for the default" } else { "" };
    let found = found(&node.value);
    report.mistakes.push((node.at, format!("`{path}` must be {expected}; found {found}{hint}")));
    Setting::Bad
}

fn is_text(node: &Node, text: &str) -> bool {
    matches!(&node.value, Value::Text(found) if found == text)
}

pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Text(text) => format!("\"{}\"", clipped(text)),
        Value::List(_) | Value::Map(_) | Value::Null => value.kind().to_owned(),
    }
}

/// Foreign text for a message: without control characters, and not for ever.
fn clipped(text: &str) -> String {
    let mut clipped: String =
        text.chars().take(60).flat_map(|letter| letter.escape_debug()).collect();
    if text.chars().nth(60).is_some() {
        clipped.push('…');
    }
    clipped
}

pub(super) fn path(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("the path of a file".into());
    }
    Ok(text.to_owned())
}

fn renew(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("\"auto\" or \"off\"".into()),
    }
}

fn group(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte));
    if good { Ok(text.to_owned()) } else { Err("the name or number of a group".into()) }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    values::listen(text)
        .ok()
        .filter(|address| address.ip().is_loopback())
        .ok_or_else(|| "a loopback address with a port, such as \"127.0.0.1:7401\"".into())
}

fn role(text: &str) -> Result<MemberRole, String> {
    match text {
        "learner" => Ok(MemberRole::Learner),
        "voter" => Ok(MemberRole::Voter),
        _ => Err("\"voter\" or \"learner\"".into()),
    }
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err("one of error, warn, info, debug, trace".into()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "journald" => Ok(LogFormat::Journald),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("one of auto, text, json, journald".into()),
    }
}
