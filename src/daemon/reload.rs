//! When a running daemon reads its files again, and what of them it puts in force: all or nothing.
//!
//! Whether files are good is decided where the start decides it (`check`, `config/`, `pki/`); what
//! becomes of connections that were made with former certificates, in `peer/`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api;
use crate::config::Config;
use crate::host::{AccessRules, FileWatch, Host, ReloadReport, ReloadRequest};
use crate::pki::LiveTls;
use crate::telemetry::LogControl;

use super::check::{self, Examined};
use super::notify;

/// How often files are looked at that cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// What is in force, and where it came from.
///
/// - Whatever it hands out is of one reading of all files, which were good together.
pub(super) struct Reloading {
    path: PathBuf,
    config: Config,
    tls: LiveTls,
    log: LogControl,
    options: watch::Sender<api::Options>,
    token: watch::Sender<String>,
    hangup: Signal,
    /// Why the files as they are now are not in force.
    refused: Option<String>,
    /// What the files held when they were last judged.
    seen: Option<Contents>,
    /// How urgently each certificate's end was told.
    told: BTreeMap<(String, SystemTime), u8>,
}

/// What each file held, as a digest, or why it could not be read.
type Contents = Vec<Result<Vec<u8>, io::ErrorKind>>;

/// Who wants the files to be read again.
enum Cause {
    Caller(ReloadRequest),
    Files,
    Signal,
}

impl Reloading {
    /// For a daemon that was started with these. From now on SIGHUP does not end the process; one
    /// that comes before [`run`](Self::run) waits for it. Needs a running tokio runtime.
    pub fn new(
        path: PathBuf,
        config: Config,
        token: Option<String>,
        tls: LiveTls,
        log: LogControl,
    ) -> io::Result<Self> {
        let options = watch::Sender::new(config.api_options());
        Ok(Self {
            path,
            config,
            tls,
            log,
            options,
            token: watch::Sender::new(token.unwrap_or_default()),
            hangup: signal(SignalKind::hangup())?,
            refused: None,
            seen: None,
            told: BTreeMap::new(),
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Follows the limits of the local API.
    pub fn options(&self) -> watch::Receiver<api::Options> {
        self.options.subscribe()
    }

    /// Follows the token of the loopback port.
    pub fn token(&self) -> watch::Receiver<String> {
        self.token.subscribe()
    }

    /// Keeps what is in force equal to the files, for as long as it is polled.
    pub async fn run(&mut self, host: &Host) -> Infallible {
        let mut requests = host.reload_requests();
        let mut watch = self.watch();
        loop {
            // What has changed since the start was read counts too.
            self.look(host).await;
            self.tell_expiries();
            let cause = tokio::select! {
                _ = self.hangup.recv() => Cause::Signal,
                request = requests.next() => Cause::Caller(request),
                () = changed(watch.as_mut()) => Cause::Files,
            };
            let paths = self.paths();
            match cause {
                Cause::Files => {}
                Cause::Signal => {
                    // It is in the log.
                    let _ = self.reload(host).await;
                }
                Cause::Caller(request) => {
                    let result = self.reload(host).await;
                    request.answer(result.map(|changed| ReloadReport { changed }));
                }
            }
            if paths != self.paths() {
                watch = self.watch();
            }
        }
    }

    fn watch(&self) -> Option<FileWatch> {
        let watch = FileWatch::new(&self.paths());
        if let Err(error) = &watch {
            tracing::warn!(
                %error,
                "changes of the configuration and the certificates cannot be watched; they are \
                 looked at once a minute"
            );
        }
        watch.ok()
    }

    /// The files that are read.
    fn paths(&self) -> Vec<PathBuf> {
        let tls = &self.config.tls;
        let mut paths = vec![self.path.clone(), tls.cert.clone(), tls.key.clone(), tls.ca.clone()];
        paths.extend(self.config.http.as_ref().map(|http| http.token_file.clone()));
        paths
    }

    /// Reads the files again if they are other ones than those that were judged last, or if those
    /// were refused: a certificate may have become valid meanwhile.
    async fn look(&mut self, host: &Host) {
        let paths = self.paths();
        let contents = blocking(move || contents(&paths)).await;
        if self.refused.is_none() && contents.is_some() && contents == self.seen {
            return;
        }
        self.seen = contents;
        // What was refused before for the same reason is not said again.
        let before = self.refused.clone();
        match self.attempt(host).await {
            Err(reasons) if before.as_ref() == Some(&reasons) => {
                tracing::debug!(reasons, "the files are still refused");
            }
            result => self.tell(&result, before.is_some()),
        }
    }

    /// Reads the files again because somebody asks for it.
    async fn reload(&mut self, host: &Host) -> Result<Vec<String>, String> {
        notify::reloading();
        let paths = self.paths();
        self.seen = blocking(move || contents(&paths)).await;
        let before = self.refused.is_some();
        let result = self.attempt(host).await;
        self.tell(&result, before);
        if result.as_ref().is_ok_and(Vec::is_empty) && !before {
            tracing::info!("reloaded: nothing has changed");
        }
        notify::ready();
        result
    }

    fn tell(&self, result: &Result<Vec<String>, String>, refused_before: bool) {
        match result {
            Err(reasons) => tracing::warn!(
                reasons,
                "the files are refused, and what was in force stays in force"
            ),
            Ok(changed) if !changed.is_empty() => {
                tracing::info!(changed = changed.join(", "), "reloaded");
            }
            Ok(_) if refused_before => tracing::info!("the files are good again"),
            Ok(_) => {}
        }
    }

    /// Judges the files and puts them in force, or remembers why not.
    async fn attempt(&mut self, host: &Host) -> Result<Vec<String>, String> {
        let path = self.path.clone();
        let examined = blocking(move || check::examine(&path)).await;
        let result = match examined {
            None => Err("reading the files failed: see the log".to_owned()),
            Some(Err(failure)) => Err(format!("{:#}", failure.error)),
            Some(Ok(examined)) => self.take(host, examined),
        };
        self.refused = result.as_ref().err().cloned();
        host.set_reload_refused(self.refused.clone());
        result
    }

    /// Puts what was read in force. Nothing of it is, when it says that something cannot.
    fn take(&mut self, host: &Host, examined: Examined) -> Result<Vec<String>, String> {
        let Examined { config, credentials, token, .. } = examined;
        let mut mistakes: Vec<String> = needs_restart(&self.config, &config)
            .into_iter()
            .map(|setting| {
                format!("`{setting}` was changed: that needs a restart, or the former value back")
            })
            .collect();
        if config.files != self.config.files {
            mistakes.extend(config.files.problems());
        }
        mistakes.extend(self.tls.accepts(&credentials).err().map(|error| error.to_string()));
        if !mistakes.is_empty() {
            return Err(mistakes.join("\n"));
        }
        let mut changed = differences(&self.config, &config);
        if self.tls.differ(&credentials) {
            self.tls.replace(&credentials).map_err(|error| error.to_string())?;
            changed.push("certificates".to_owned());
        }
        if let Some(token) = token
            && *self.token.borrow() != token
        {
            self.token.send_replace(token);
            changed.push("token of the loopback port".to_owned());
        }
        if !self.log.set_level(config.log.level) && self.config.log != config.log {
            tracing::warn!("QUORUMD_LOG is set and decides what is logged, not `log.level`");
        }
        self.options.send_replace(config.api_options());
        host.set_access(AccessRules::new(&config.access_options()));
        host.set_files(config.files.clone());
        host.set_publish(config.publish.clone());
        self.config = config;
        Ok(changed)
    }

    /// Says when a certificate ends soon: once within thirty days, seven days, one day.
    fn tell_expiries(&mut self) {
        let now = SystemTime::now();
        for expiry in self.tls.expiries().iter() {
            let urgency = expiry.urgency(now);
            let key = (expiry.subject.clone(), expiry.not_after);
            if urgency > self.told.get(&key).copied().unwrap_or(0) {
                self.told.insert(key, urgency);
                if urgency >= 3 {
                    tracing::error!("{expiry}");
                } else {
                    tracing::warn!("{expiry}");
                }
            }
        }
        let in_force: Vec<SystemTime> =
            self.tls.expiries().iter().map(|expiry| expiry.not_after).collect();
        self.told.retain(|(_, not_after), _| in_force.contains(not_after));
    }
}

/// Waits until the files may have changed.
async fn changed(watch: Option<&mut FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => sleep(POLL_INTERVAL).await,
    }
}

/// Runs what reads files on a thread of its own. Nothing when it panicked, which was reported.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn contents(paths: &[PathBuf]) -> Contents {
    let content = |path: &PathBuf| match std::fs::read(path) {
        Ok(content) => Ok(digest(&SHA256, &content).as_ref().to_vec()),
        Err(error) => Err(error.kind()),
    };
    paths.iter().map(content).collect()
}

/// Settings that were changed and are read at the start only.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let http = |config: &Config| config.http.as_ref().map(|http| http.listen);
    let named = [
        ("cluster", old.cluster != new.cluster),
        ("name", old.name != new.name),
        ("listen", old.listen != new.listen),
        ("authority", old.authority != new.authority),
        ("data_dir", old.data_dir != new.data_dir),
        ("socket.path", old.socket.path != new.socket.path),
        ("socket.mode", old.socket.mode != new.socket.mode),
        ("socket.group", old.socket.group != new.socket.group),
        ("http.listen", http(old) != http(new)),
        ("raft.election_timeout", old.election_timeout != new.election_timeout),
        ("raft.heartbeat_interval", old.heartbeat_interval != new.heartbeat_interval),
        ("raft.retained_entries", old.retained_entries != new.retained_entries),
        ("raft.retained_bytes", old.retained_bytes != new.retained_bytes),
        ("raft.snapshot_rate", old.snapshot_rate != new.snapshot_rate),
        ("history", old.history != new.history),
        ("quota.store_bytes", old.store_bytes_max != new.store_bytes_max),
        ("disk.reserve_bytes", old.disk_reserve_bytes != new.disk_reserve_bytes),
        ("log.format", old.log.format != new.log.format),
    ];
    let mut changed: Vec<&'static str> =
        named.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    // A setting that nobody has thought of here is not taken for one that may change.
    if changed.is_empty() && with_reloaded(old, new) != *new {
        changed.push("another setting");
    }
    changed
}

/// `old` with everything of `new` that may change while the daemon runs.
fn with_reloaded(old: &Config, new: &Config) -> Config {
    let mut config = old.clone();
    // They count at the first boot only: keeping them up to date is nobody's mistake.
    config.members.clone_from(&new.members);
    config.tls.clone_from(&new.tls);
    config.http.clone_from(&new.http);
    config.access.clone_from(&new.access);
    config.files.clone_from(&new.files);
    config.publish.clone_from(&new.publish);
    config.limits.clone_from(&new.limits);
    config.log.level = new.log.level;
    config.shutdown_grace = new.shutdown_grace;
    config
}

/// Settings that differ and may change while the daemon runs.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let token_file = |config: &Config| config.http.as_ref().map(|http| http.token_file.clone());
    [
        ("access", old.access_options() != new.access_options()),
        ("files", old.files.entries != new.files.entries),
        ("publish", old.publish.entries != new.publish.entries),
        ("tls", old.tls != new.tls),
        ("http.token_file", token_file(old) != token_file(new)),
        ("limits", old.limits != new.limits),
        ("log.level", old.log.level != new.log.level),
        ("shutdown_grace", old.shutdown_grace != new.shutdown_grace),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, parse};

    use super::{differences, needs_restart};

    fn config(more: &str) -> Config {
        let text = format!("name: n1\ncluster: c\nmembers: {{n1: '10.0.0.1:1'}}\n{more}");
        let file = Path::new("/etc/quorumd/quorumd.yaml");
        parse(text.as_bytes(), file, Path::new("/etc/quorumd")).expect("it is good").0
    }

    #[test]
    fn each_setting_is_reloaded_or_named() {
        let old = config("");
        assert!(needs_restart(&old, &old).is_empty() && differences(&old, &old).is_empty());
        for (more, restart, changed) in [
            ("data_dir: /elsewhere", vec!["data_dir"], vec![]),
            ("socket: {path: /run/other}", vec!["socket.path"], vec![]),
            ("socket: {mode: '0600'}", vec!["socket.mode"], vec![]),
            ("http: {listen: '127.0.0.1:1', token_file: /t}", vec!["http.listen"], vec![]),
            ("raft: {election_timeout: 3s}", vec!["raft.election_timeout"], vec![]),
            ("history: {revisions: 7}", vec!["history"], vec![]),
            ("quota: {store_bytes: 1MiB}", vec!["quota.store_bytes"], vec![]),
            ("disk: {reserve_bytes: 1MiB}", vec!["disk.reserve_bytes"], vec![]),
            ("log: {format: json}", vec!["log.format"], vec![]),
            ("log: {level: debug}", vec![], vec!["log.level"]),
            ("limits: {streams: 3}", vec![], vec!["limits"]),
            ("shutdown_grace: 1s", vec![], vec!["shutdown_grace"]),
            ("tls: {cert: /new}", vec![], vec!["tls"]),
        ] {
            let new = config(more);
            assert_eq!(needs_restart(&old, &new), restart, "{more}");
            let found = differences(&old, &new);
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            let found: Vec<&str> =
                found.into_iter().filter(|name| *name != "http.token_file").collect();
            assert_eq!(found, changed, "{more}");
        }
    }

    #[test]
    fn a_setting_that_is_not_known_here_is_not_taken_for_reloaded() {
        let old = config("");
        let mut new = old.clone();
        new.members.clear();
        assert!(needs_restart(&old, &new).is_empty(), "members count at the first boot only");
        assert_ne!(super::with_reloaded(&old, &config("data_dir: /x")), config("data_dir: /x"));
    }
}
