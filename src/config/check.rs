//! What settings mean together, where defaults and relative paths come in, and the entry point.
//!
//! What a single value may be is decided in `file`; whether the files that a configuration names
//! can be used is decided by those who open them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::base::{Span, limits};
use crate::enroll::AuthorityOptions;
use crate::host::FilesOptions;
use crate::raft;
use crate::telemetry::LogOptions;

use super::file::{self, File, Members, Report, Setting};
use super::options::{self, Config, History, Http, Limits, MemberRole, Seed, Socket, TlsFiles};
use super::publish;
use super::report::{ConfigError, Finding};
use super::source::{self, Place};
use super::values::duration_text;

/// Longest file in bytes: a thousand members take a tenth of it.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Most mistakes that are reported at once.
const MISTAKES_MAX: usize = 100;
/// A socket's path, with its closing zero, must fit in `sun_path` (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Reads and checks the file at `path`. With the configuration come warnings, in the order of the
/// file. Relative paths in the file are taken from the file's own directory.
pub fn load(path: &Path) -> Result<(Config, Vec<Finding>), ConfigError> {
    let read_error = |source| ConfigError::Read { file: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(read_error)?;
    // One byte more than it may have, so that `parse` sees that it is too long.
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(read_error)?;
    let absolute = std::path::absolute(path).map_err(read_error)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    parse(&bytes, path, directory)
}

/// As [`load`], for the content `bytes` of a file that messages call `file`, in `directory`.
pub fn parse(
    bytes: &[u8],
    file: &Path,
    directory: &Path,
) -> Result<(Config, Vec<Finding>), ConfigError> {
    let finding = |(line, column): (usize, usize), message: String| Finding {
        file: file.to_owned(),
        line,
        column,
        message,
    };
    let invalid = |place, message| ConfigError::Invalid(vec![finding(place, message)]);
    if bytes.len() > FILE_BYTES_MAX {
        return Err(invalid((1, 1), format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        invalid(end_of(before), "not valid UTF-8 text".to_owned())
    })?;
    let root = source::parse(text).map_err(|(place, message)| invalid(place, message))?;
    let mut report = Report::default();
    let content = file::read(&root, directory, &mut report);
    let config = assemble(content, directory, &mut report);
    let placed = |mut found: Vec<(Place, String)>| -> Vec<Finding> {
        found.sort();
        found.truncate(MISTAKES_MAX);
        found.into_iter().map(|(at, message)| finding(source::locate(text, at), message)).collect()
    };
    match config.filter(|_| report.mistakes.is_empty()) {
        Some(config) => Ok((config, placed(report.warnings))),
        None => Err(ConfigError::Invalid(placed(report.mistakes))),
    }
}

/// The line and column after `before`.
fn end_of(before: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(before);
    let line = text.matches('\n').count() + 1;
    (line, text.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1)
}

/// The configuration, as far as it can be made; nothing when a required part is missing or bad,
/// which is then in the report.
fn assemble(file: File, directory: &Path, report: &mut Report) -> Option<Config> {
    check_required(&file, report);
    check_members(&file.members, report);
    let (election_timeout, heartbeat_interval) = check_raft(&file, report);
    let socket = check_socket(&file, directory, report);
    check_name(&file, report);
    let http = check_http(&file, directory, report);
    let limits = check_limits(&file, report);
    let authority = check_authority(&file, directory, report);
    let cluster = file.cluster.given()?.1.clone();
    let name = file.name.given()?.1.clone();
    let mut members = BTreeMap::new();
    for member in &file.members.list {
        let address = member.address.given()?.1.clone();
        members.insert(member.name.clone(), Seed { address, role: member.role });
    }
    let own = &members.get(&name)?.address;
    let listen = match file.listen {
        Setting::Given(_, listen) => listen,
        Setting::Absent | Setting::Bad => default_listen(own)?,
    };
    let path = |setting: Setting<String>, default: &str| directory.join(setting.or(default.into()));
    let data_dir = path(file.data_dir, options::DATA_DIR);
    let files = FilesOptions { state_dir: data_dir.join(options::FILES_STATE), ..file.files };
    let state_dir = data_dir.join(options::PUBLISH_STATE);
    let publish = publish::complete(file.publish, state_dir, &name, limits.value_bytes);
    Some(Config {
        cluster,
        listen,
        members,
        tls: TlsFiles {
            cert: path(file.tls_cert, options::TLS_CERT),
            key: path(file.tls_key, options::TLS_KEY),
            ca: path(file.tls_ca, options::TLS_CA),
            renew: file.tls_renew.or(false),
        },
        authority,
        name,
        data_dir,
        socket,
        http,
        election_timeout,
        heartbeat_interval,
        retained_entries: file.retained_entries.or(limits::LOG_RETAINED_ENTRIES_DEFAULT),
        retained_bytes: file.retained_bytes.or(limits::LOG_RETAINED_BYTES_DEFAULT),
        snapshot_rate: file.snapshot_rate.or(limits::SNAPSHOT_BYTES_PER_SECOND_DEFAULT),
        history: History {
            revisions: file.history_revisions.or(History::default().revisions),
            bytes: file.history_bytes.or(History::default().bytes),
            age: file.history_age.given().map(|(_, age)| *age),
        },
        store_bytes_max: file.store_bytes.or(limits::STORE_BYTES_MAX_DEFAULT),
        limits,
        disk_reserve_bytes: file.disk_reserve_bytes.or(options::DISK_RESERVE_BYTES),
        log: LogOptions {
            level: file.log_level.or(LogOptions::default().level),
            format: file.log_format.or(LogOptions::default().format),
        },
        access: file.access,
        files,
        publish,
        shutdown_grace: file.shutdown_grace.or(options::SHUTDOWN_GRACE),
    })
}

fn check_required(file: &File, report: &mut Report) {
    let mut missing = |what: &str| report.mistakes.push((file.at, what.to_owned()));
    if file.cluster == Setting::Absent {
        missing("`cluster` is missing: the name of the cluster, the same on all its nodes");
    }
    if file.name == Setting::Absent {
        missing("`name` is missing: the name of this node, one of `members`");
    }
    if file.members.at.is_none() && file.members.whole {
        missing("`members` is missing: a name and an address for each member");
    }
}

fn check_members(members: &Members, report: &mut Report) {
    for (index, member) in members.list.iter().enumerate() {
        let Some((at, address)) = member.address.given() else { continue };
        let earlier = members.list.iter().take(index);
        let twin = earlier
            .filter(|other| other.address.given().is_some_and(|(_, theirs)| theirs == address))
            .map(|other| &other.name)
            .next();
        if let Some(twin) = twin {
            report.mistakes.push((
                at,
                format!("`members.{}` has the same address as `members.{twin}`", member.name),
            ));
        }
    }
    let Some(at) = members.at.filter(|_| members.whole) else { return };
    let voters = members.list.iter().filter(|member| member.role == MemberRole::Voter).count();
    if voters == 0 {
        report.mistakes.push((at, "`members` needs at least one voter; three are usual".into()));
    } else if voters > limits::VOTERS_MAX {
        report.mistakes.push((
            at,
            format!(
                "`members` has {voters} voters and may have {}: let the others be \
                 {{address: ..., role: learner}}",
                limits::VOTERS_MAX
            ),
        ));
    } else if voters.is_multiple_of(2) {
        report.warnings.push((
            at,
            format!(
                "{voters} voters survive the loss of no more nodes than {} would: an odd number \
                 is better",
                voters - 1
            ),
        ));
    }
    if members.list.len() > limits::MEMBERS_MAX {
        report.mistakes.push((
            at,
            format!(
                "`members` has {} members and may have {}",
                members.list.len(),
                limits::MEMBERS_MAX
            ),
        ));
    }
}

fn check_name(file: &File, report: &mut Report) {
    let Some((at, name)) = file.name.given() else { return };
    if file.members.at.is_none() || file.members.list.iter().any(|member| &member.name == name) {
        return;
    }
    let names: Vec<_> = file.members.list.iter().map(|member| member.name.as_str()).collect();
    let message =
        format!("`name` must be one of `members` ({}); found \"{name}\"", names.join(", "));
    report.mistakes.push((at, message));
}

fn check_raft(file: &File, report: &mut Report) -> (Span, Span) {
    let defaults = raft::Options::default();
    let election_timeout = file.election_timeout.clone().or(defaults.election_timeout);
    let heartbeat_interval = file.heartbeat_interval.clone().or(defaults.heartbeat_interval);
    let at = file.heartbeat_interval.given().map(|(at, _)| at);
    let at = at.or(file.election_timeout.given().map(|(at, _)| at));
    let judged = file.heartbeat_interval != Setting::Bad && file.election_timeout != Setting::Bad;
    if let Some(at) = at.filter(|_| judged && heartbeat_interval > election_timeout.divided_by(3)) {
        report.mistakes.push((
            at,
            format!(
                "`raft.heartbeat_interval` ({}) must be at most a third of \
                 `raft.election_timeout` ({}), or one lost message starts an election",
                duration_text(heartbeat_interval),
                duration_text(election_timeout)
            ),
        ));
    }
    (election_timeout, heartbeat_interval)
}

fn check_socket(file: &File, directory: &Path, report: &mut Report) -> Socket {
    let path = directory.join(file.socket_path.clone().or(options::SOCKET_PATH.into()));
    let bytes = path.as_os_str().len();
    if let Some((at, _)) = file.socket_path.given().filter(|_| bytes > SOCKET_PATH_BYTES_MAX) {
        report.mistakes.push((
            at,
            format!(
                "`socket.path` is {} with {bytes} bytes, and the system allows \
                 {SOCKET_PATH_BYTES_MAX}: choose a shorter one",
                path.display()
            ),
        ));
    }
    let mode = file.socket_mode.clone().or(options::SOCKET_MODE);
    if let Some((at, _)) = file.socket_mode.given().filter(|(_, mode)| *mode & 0o007 != 0) {
        report
            .warnings
            .push((at, "`socket.mode` lets every user of this host change the whole store".into()));
    }
    Socket { path, mode, group: file.socket_group.given().map(|(_, group)| group.clone()) }
}

fn check_http(file: &File, directory: &Path, report: &mut Report) -> Option<Http> {
    let at = file.http?;
    if file.http_listen == Setting::Absent && file.http_token_file != Setting::Absent {
        report.mistakes.push((at, "`http.listen` is missing: a loopback address".into()));
    }
    if file.http_token_file == Setting::Absent && file.http_listen != Setting::Absent {
        report.mistakes.push((
            at,
            "`http.token_file` is missing: any user and any web page of this host can reach a \
             loopback port, so callers must show a token"
                .into(),
        ));
    }
    let (_, listen) = file.http_listen.given()?;
    let (_, token_file) = file.http_token_file.given()?;
    Some(Http { listen: *listen, token_file: directory.join(token_file) })
}

fn check_authority(file: &File, directory: &Path, report: &mut Report) -> Option<AuthorityOptions> {
    if let Some((at, true)) = file.tls_renew.given()
        && file.tls_cert.given().map(|(_, path)| path) != file.tls_key.given().map(|(_, path)| path)
    {
        report.mistakes.push((
            at,
            "`tls.renew: auto` needs `tls.cert` and `tls.key` to be one and the same file, so that \
             both are replaced at once"
                .into(),
        ));
    }
    let at = file.ca?;
    if file.ca_dir == Setting::Absent {
        report.mistakes.push((at, "`ca.dir` is missing: where ca.pem and ca.key are".into()));
    }
    let (_, dir) = file.ca_dir.given()?;
    let life = file.certificate_life.clone().or(options::CERTIFICATE_LIFE);
    Some(AuthorityOptions { directory: directory.join(dir), life })
}

fn check_limits(file: &File, report: &mut Report) -> Limits {
    let defaults = Limits::default();
    let given = |setting: &Setting<u64>, default: usize| {
        setting.given().and_then(|(_, value)| usize::try_from(*value).ok()).unwrap_or(default)
    };
    let limits = Limits {
        key_bytes: given(&file.limits.key_bytes, defaults.key_bytes),
        value_bytes: given(&file.limits.value_bytes, defaults.value_bytes),
        request_bytes: given(&file.limits.request_bytes, defaults.request_bytes),
        txn_operations: given(&file.limits.txn_operations, defaults.txn_operations),
        connections: given(&file.limits.connections, defaults.connections),
        streams: given(&file.limits.streams, defaults.streams),
    };
    let either = file.limits.request_bytes.given().or(file.limits.value_bytes.given());
    if let Some((at, _)) = either.filter(|_| limits.request_bytes < limits.value_bytes) {
        report.mistakes.push((
            at,
            format!(
                "`limits.request_bytes` ({}) must not be below `limits.value_bytes` ({}): a \
                 request carries a value",
                limits.request_bytes, limits.value_bytes
            ),
        ));
    }
    limits
}

/// The port of `own` on its own address, or on all interfaces when that address is a host's name.
fn default_listen(own: &str) -> Option<SocketAddr> {
    own.parse().ok().or_else(|| {
        let (_, port) = own.rsplit_once(':')?;
        Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port.parse().ok()?))
    })
}
