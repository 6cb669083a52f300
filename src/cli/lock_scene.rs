//! What the tests of running commands need: `quorumctl` as a process of its own, before a daemon
//! that says what the test wants.
//!
//! The tests start themselves again as `quorumctl`: see [`as_quorumctl`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::command::run;
use super::processes::descendants;
use super::supervise::OwnProgram;
use crate::client::{BootInstant, Reply, ScriptedDaemon, StreamHandle};

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

fn own() -> OwnProgram {
    let arguments = ["--exact", "cli::lock_scene::as_quorumctl", "--nocapture", "--"];
    OwnProgram::new(std::env::current_exe().unwrap(), arguments.map(Into::into).to_vec())
}

/// Is `quorumctl` when the test program is started with a command line after `--`, by the tests.
/// Started by the test runner, which names none, it has nothing to do.
#[test]
fn as_quorumctl() {
    let mut line = std::env::args_os().skip_while(|argument| argument != "--");
    if line.next().is_some() {
        let status = run(own(), std::iter::once("quorumctl".into()).chain(line));
        std::process::exit(status.into());
    }
}

/// `quorumctl` for the daemon behind `socket`, started through `prefix`. The signals that whoever
/// runs the tests ignores (nohup(1), a shell without job control) are not ignored by it.
pub(super) fn quorumctl(prefix: &[&str], socket: &Path) -> std::process::Command {
    let mut command = std::process::Command::new("env");
    command.arg("--default-signal=HUP,INT,QUIT,TERM,USR1,USR2").args(prefix);
    let own = own().command("--socket");
    command.arg(own.get_program()).args(own.get_args()).arg(socket);
    command
}

/// What `GET /v1/leases/{id}` answers.
#[derive(Clone, Copy)]
pub(super) enum Promise {
    /// Time to live and time of validity in milliseconds.
    Given(u64, u64),
    Silence,
}

/// A daemon that holds a lock for a `quorumctl` that runs a shell command.
pub(super) struct Scene {
    pub(super) daemon: ScriptedDaemon,
    pub(super) stream: StreamHandle,
    pub(super) promise: Arc<Mutex<Promise>>,
    /// When the last promise that was answered ends, at the latest.
    pub(super) promised_until: Arc<Mutex<BootInstant>>,
    directory: tempfile::TempDir,
    pub(super) child: Child,
}

/// How a scene begins.
pub(super) struct Setup<'a> {
    pub(super) promise: Promise,
    /// What `quorumctl` is told.
    pub(super) line: Vec<&'a str>,
    /// What the daemon says when it is held.
    pub(super) held: &'a str,
    /// What `quorumctl` is started through.
    pub(super) prefix: Vec<&'a str>,
    pub(super) environment: Vec<(&'a str, PathBuf)>,
    pub(super) input: &'a [u8],
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            promise: Promise::Given(10_000, 9_000),
            line: vec!["lock", "l a"],
            held: r#"{"state":"held","token":7,"lease":"a1","valid_for_ms":9000}"#,
            prefix: Vec::new(),
            environment: Vec::new(),
            input: b"",
        }
    }
}

impl<'a> Setup<'a> {
    /// With more words on the command line.
    pub(super) fn with(words: &[&'a str]) -> Self {
        let mut setup = Self::default();
        setup.line.extend(words);
        setup
    }

    pub(super) fn shell(self, script: &str) -> Scene {
        self.start(&["sh", "-c", script])
    }

    pub(super) fn start(self, command: &[&str]) -> Scene {
        let (stream, reply) = StreamHandle::new();
        stream.line(r#"{"state":"waiting","position":1,"holders":[]}"#);
        stream.line(self.held);
        let reply = Mutex::new(Some(reply));
        let promise = Arc::new(Mutex::new(self.promise));
        let promised_until = Arc::new(Mutex::new(BootInstant::default()));
        let (given, until) = (promise.clone(), promised_until.clone());
        let daemon = ScriptedDaemon::start(move |seen| match seen.method.as_str() {
            "GET" => match *given.lock().unwrap() {
                Promise::Given(ttl, valid) => {
                    *until.lock().unwrap() = BootInstant::now() + Duration::from_millis(valid);
                    Reply::json(
                        200,
                        format!(
                            r#"{{"lease":"a1","ttl_ms":{ttl},"remaining_ms":{valid},
                            "valid_for_ms":{valid},"bind":"none","node":"n1","pid":1,"uid":0}}"#
                        ),
                    )
                }
                Promise::Silence => Reply::Silence,
            },
            "DELETE" => Reply::json(200, r#"{"token":7,"revision":9}"#),
            _ => reply.lock().unwrap().take().unwrap_or(Reply::Drop),
        });
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("stdin"), self.input).unwrap();
        let mut quorumctl = Command::from(quorumctl(&self.prefix, &daemon.socket));
        quorumctl.args(&self.line).arg("--").args(command);
        quorumctl.env("DIR", directory.path()).kill_on_drop(true).envs(self.environment);
        quorumctl.stdin(fs::File::open(path("stdin")).unwrap());
        quorumctl.stdout(fs::File::create(path("stdout")).unwrap());
        let stderr = fs::File::create(path("stderr")).unwrap();
        let child = quorumctl.stderr(stderr).spawn().unwrap();
        Scene { daemon, stream, promise, promised_until, directory, child }
    }
}

impl Scene {
    pub(super) fn start(command: &[&str]) -> Self {
        Setup::default().start(command)
    }

    pub(super) fn shell(script: &str) -> Self {
        Setup::default().shell(script)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(super) fn touch(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    pub(super) fn pid(&self) -> Pid {
        pid_of(&self.child)
    }

    /// The guard of the only command.
    pub(super) fn guard(&self) -> Pid {
        let guard = descendants(self.pid()).unwrap().into_iter().find(|pid| {
            let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid()));
            line.is_ok_and(|line| line.contains("__guard"))
        });
        guard.unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the command has written a whole line to each of `names`; the lines as process
    /// ids.
    pub(super) async fn pids(&self, names: &[&str]) -> Vec<i32> {
        self.until(|| names.iter().all(|name| self.text(name).ends_with('\n'))).await;
        names.iter().map(|name| self.text(name).trim().parse().unwrap()).collect()
    }

    pub(super) async fn until(&self, wanted: impl Fn() -> bool) {
        let give_up = tokio::time::Instant::now() + DEADLINE;
        while !wanted() {
            let late = tokio::time::Instant::now() > give_up;
            assert!(!late, "never came; standard error: {}", self.text("stderr"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn status(&mut self) -> ExitStatus {
        let waited = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        waited.unwrap_or_else(|_| panic!("did not end: {}", self.text("stderr"))).unwrap()
    }

    pub(super) async fn code(&mut self) -> i32 {
        self.status().await.code().unwrap()
    }

    pub(super) fn released(&self) -> bool {
        self.daemon.seen().iter().any(|seen| seen.line() == "DELETE /v1/locks/l%20a?token=7")
    }
}

pub(super) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap()
}

/// Whether a process is there and has not ended.
pub(super) fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

/// Three that are hard to stop: one that left the session, one whose parent is gone too, and one
/// that does not listen to SIGTERM.
pub(super) const ESCAPISTS: &str = r#"
    setsid sh -c 'echo $$ > "$DIR/session"; trap "" HUP; sleep 300; :' &
    (setsid sh -c 'echo $$ > "$DIR/orphan"; sleep 300; :' &)
    sh -c 'trap "" TERM INT HUP; echo $$ > "$DIR/stubborn"; while :; do sleep 0.1; done' &
    echo $$ > "$DIR/command"; wait"#;
pub(super) const ESCAPISTS_FILES: [&str; 4] = ["session", "orphan", "stubborn", "command"];
