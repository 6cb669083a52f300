//! `lock NAME -- CMD` with real processes, against a daemon that plays the states of a lock.
//!
//! The tests start themselves again as `quorumctl`: see [`as_quorumctl`].

use std::fs;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::command::run;
use super::exit::{COMMAND_NOT_FOUND, LOST};
use super::processes::descendants;
use super::supervise::OwnProgram;
use crate::client::{BootInstant, Reply, ScriptedDaemon, StreamHandle};

const DEADLINE: Duration = Duration::from_secs(30);

fn own() -> OwnProgram {
    let arguments = ["--exact", "cli::lock_test::as_quorumctl", "--nocapture", "--"];
    OwnProgram::new(std::env::current_exe().unwrap(), arguments.map(Into::into).to_vec())
}

/// Is `quorumctl` when the test program is started with a command line after `--`, by the tests
/// below. Started by the test runner, which names none, it has nothing to do.
#[test]
fn as_quorumctl() {
    let mut line = std::env::args_os().skip_while(|argument| argument != "--");
    if line.next().is_some() {
        let status = run(own(), std::iter::once("quorumctl".into()).chain(line));
        std::process::exit(status.into());
    }
}

/// What `GET /v1/leases/{id}` answers.
#[derive(Clone, Copy)]
enum Promise {
    /// Time to live and time of validity in milliseconds.
    Given(u64, u64),
    Silence,
}

/// A daemon that holds a lock for a `quorumctl` that runs a shell command.
struct Scene {
    daemon: ScriptedDaemon,
    stream: StreamHandle,
    promise: Arc<Mutex<Promise>>,
    /// When the last promise that was answered ends, at the latest.
    promised_until: Arc<Mutex<BootInstant>>,
    directory: tempfile::TempDir,
    child: Child,
}

impl Scene {
    fn start(command: &[&str]) -> Self {
        Self::with(
            &["lock", "l a"],
            r#"{"state":"held","token":7,"lease":"a1","valid_for_ms":9000}"#,
            command,
        )
    }

    fn shell(script: &str) -> Self {
        Self::start(&["sh", "-c", script])
    }

    fn with(line: &[&str], held: &str, command: &[&str]) -> Self {
        Self::promising(Promise::Given(10_000, 9_000), line, held, command)
    }

    fn promising(first: Promise, line: &[&str], held: &str, command: &[&str]) -> Self {
        let (stream, reply) = StreamHandle::new();
        stream.line(r#"{"state":"waiting","position":1,"holders":[]}"#);
        stream.line(held);
        let reply = Mutex::new(Some(reply));
        let promise = Arc::new(Mutex::new(first));
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
        let mut quorumctl = Command::from(own().command("--socket"));
        quorumctl.arg(&daemon.socket).args(line).arg("--").args(command);
        quorumctl.env("DIR", directory.path()).kill_on_drop(true).stdin(Stdio::null());
        let stderr = fs::File::create(directory.path().join("stderr")).unwrap();
        let child = quorumctl.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Self { daemon, stream, promise, promised_until, directory, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn touch(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap()
    }

    /// Waits until the command has written a whole line to each of `names`; the lines as process
    /// ids.
    async fn pids(&self, names: &[&str]) -> Vec<i32> {
        self.until(|| names.iter().all(|name| self.text(name).ends_with('\n'))).await;
        names.iter().map(|name| self.text(name).trim().parse().unwrap()).collect()
    }

    async fn until(&self, wanted: impl Fn() -> bool) {
        let give_up = tokio::time::Instant::now() + DEADLINE;
        while !wanted() {
            let late = tokio::time::Instant::now() > give_up;
            assert!(!late, "never came; standard error: {}", self.text("stderr"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn status(&mut self) -> ExitStatus {
        let waited = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        waited.unwrap_or_else(|_| panic!("did not end: {}", self.text("stderr"))).unwrap()
    }

    async fn code(&mut self) -> i32 {
        self.status().await.code().unwrap()
    }

    fn released(&self) -> bool {
        self.daemon.seen().iter().any(|seen| seen.line() == "DELETE /v1/locks/l%20a?token=7")
    }
}

fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[tokio::test]
async fn the_command_knows_what_it_holds_and_its_status_is_passed_on() {
    let mut scene = Scene::shell(
        r#"printf '%s|%s|' "$QUORUMD_TOKEN" "$QUORUMD_NAME" > "$DIR/env"
        printf '%s|%s' "$QUORUMD_SOCKET" "$QUORUMD_LEASE" >> "$DIR/env"; exit 3"#,
    );
    assert_eq!(scene.code().await, 3);
    let socket = scene.daemon.socket.display();
    assert_eq!(scene.text("env"), format!("7|l a|{socket}|a1"));
    assert!(scene.released());
}

#[tokio::test]
async fn a_signal_a_missing_command_and_a_missing_permission_have_their_statuses() {
    assert_eq!(Scene::shell("kill -KILL $$").code().await, 128 + 9);
    let mut scene = Scene::start(&["/nowhere/at/all"]);
    assert_eq!(scene.code().await, i32::from(COMMAND_NOT_FOUND));
    assert!(scene.text("stderr").contains("/nowhere/at/all"), "{}", scene.text("stderr"));
    assert_eq!(Scene::start(&["/etc/passwd"]).code().await, 126);
}

#[tokio::test]
async fn signals_are_passed_on_and_the_lock_is_kept_until_the_command_has_dealt_with_them() {
    let script = r#"trap 'echo hup > "$DIR/hup"' HUP; trap 'echo term > "$DIR/term"; exit 5' TERM
        echo > "$DIR/up"; while :; do sleep 0.02; done"#;
    let mut scene = Scene::shell(script);
    scene.until(|| scene.path("up").exists()).await;
    kill_process(scene.pid(), Signal::HUP).unwrap();
    scene.until(|| scene.path("hup").exists()).await;
    assert!(!scene.released());
    kill_process(scene.pid(), Signal::TERM).unwrap();
    assert_eq!(scene.code().await, 5);
    assert!(scene.path("term").exists() && scene.released());
}

/// Three that are hard to stop: one that left the session, one whose parent is gone too, and one
/// that does not listen to SIGTERM.
const ESCAPISTS: &str = r#"
    setsid sh -c 'echo $$ > "$DIR/session"; trap "" HUP; sleep 300; :' &
    (setsid sh -c 'echo $$ > "$DIR/orphan"; sleep 300; :' &)
    sh -c 'trap "" TERM INT HUP; echo $$ > "$DIR/stubborn"; while :; do sleep 0.1; done' &
    echo $$ > "$DIR/command"; wait"#;
const ESCAPISTS_FILES: [&str; 4] = ["session", "orphan", "stubborn", "command"];

#[tokio::test]
async fn lost_stops_the_command_and_whatever_it_left_behind() {
    let mut scene = Scene::shell(ESCAPISTS);
    let pids = scene.pids(&ESCAPISTS_FILES).await;
    assert!(pids.iter().all(|pid| lives(*pid)));
    scene.stream.line(r#"{"state":"lost","reason":"revoked"}"#);
    assert_eq!(scene.code().await, i32::from(LOST));
    let left: Vec<&i32> = pids.iter().filter(|pid| lives(**pid)).collect();
    assert!(left.is_empty(), "{left:?} of {pids:?} live");
    assert!(scene.text("stderr").contains("lost: revoked"), "{}", scene.text("stderr"));
    assert!(!scene.released(), "there is nothing to release");
}

/// The daemon hangs: no message, no answer, no end of the connection. Only the local deadline is
/// left.
#[tokio::test]
async fn silence_stops_the_command_before_the_promise_and_its_margin_end() {
    let script = r#"trap 'echo > "$DIR/asked"' TERM
        echo $$ > "$DIR/command"; while :; do sleep 0.02; done"#;
    let mut scene = Scene::promising(
        Promise::Given(8_000, 4_000),
        &["elect", "e"],
        r#"{"state":"leader","token":7,"lease":"a1","valid_for_ms":4000}"#,
        &["sh", "-c", script],
    );
    let pid = scene.pids(&["command"]).await[0];
    *scene.promise.lock().unwrap() = Promise::Silence;
    let until = *scene.promised_until.lock().unwrap();
    assert_eq!(scene.code().await, i32::from(LOST));
    let margin = Duration::from_millis(8_000 / 16);
    let late = BootInstant::now().since(until + margin);
    assert!(late.is_zero(), "another may hold since {late:?}");
    assert!(!lives(pid));
    assert!(scene.path("asked").exists(), "it was asked before it was killed");
}

#[tokio::test]
async fn a_connection_that_breaks_off_stops_the_command() {
    let script = r#"trap 'exit 0' TERM; echo $$ > "$DIR/command"; while :; do sleep 0.02; done"#;
    let mut scene = Scene::shell(script);
    let pid = scene.pids(&["command"]).await[0];
    scene.stream.break_off();
    assert_eq!(scene.code().await, i32::from(LOST), "its own status does not hide the loss");
    assert!(!lives(pid));
}

#[tokio::test]
async fn at_risk_is_a_warning_and_nothing_else() {
    let script = r#"echo > "$DIR/up"; while [ ! -e "$DIR/go" ]; do sleep 0.02; done"#;
    let mut scene = Scene::shell(script);
    scene.until(|| scene.path("up").exists()).await;
    scene.stream.line(
        r#"{"state":"at_risk","token":7,"lease":"a1","valid_for_ms":900,"reason":"no leader"}"#,
    );
    scene.until(|| scene.text("stderr").contains("no leader")).await;
    scene.stream.line(r#"{"state":"held","token":7,"lease":"a1","valid_for_ms":9000}"#);
    scene.touch("go");
    assert_eq!(scene.code().await, 0);
    assert!(scene.released());
}

#[tokio::test]
async fn nothing_outlives_a_quorumctl_that_is_killed() {
    let mut scene = Scene::shell(ESCAPISTS);
    let mut pids = scene.pids(&ESCAPISTS_FILES).await;
    pids.extend(descendants(scene.pid()).unwrap().iter().map(|pid| pid.as_raw_pid()));
    kill_process(scene.pid(), Signal::KILL).unwrap();
    scene.status().await;
    scene.until(|| pids.iter().all(|pid| !lives(*pid))).await;
}

#[tokio::test]
async fn nothing_outlives_a_guard_that_is_killed() {
    let mut scene = Scene::shell(ESCAPISTS);
    let pids = scene.pids(&ESCAPISTS_FILES).await;
    let guard = descendants(scene.pid()).unwrap().into_iter().find(|pid| {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid()));
        line.is_ok_and(|line| line.contains("__guard"))
    });
    kill_process(guard.unwrap(), Signal::KILL).unwrap();
    assert_eq!(scene.code().await, 128 + 9);
    assert!(pids.iter().all(|pid| !lives(*pid)), "of {pids:?} some live");
    assert!(scene.released());
}

#[tokio::test]
async fn the_lock_is_kept_until_the_last_descendant_has_ended() {
    let script = r#"(while [ ! -e "$DIR/go" ]; do sleep 0.02; done; echo > "$DIR/late") & exit 4"#;
    let mut scene = Scene::shell(script);
    scene.until(|| scene.text("stderr").contains("the command has ended")).await;
    assert!(!scene.released());
    scene.touch("go");
    assert_eq!(scene.code().await, 4);
    assert!(scene.path("late").exists() && scene.released());
}

#[tokio::test]
async fn orphans_that_end_are_reaped_while_the_command_runs() {
    let script = r#"for i in 1 2 3; do (sh -c 'echo $$ > "$DIR/orphan"; exit 0' &); done
        echo > "$DIR/up"; while [ ! -e "$DIR/go" ]; do sleep 0.02; done"#;
    let mut scene = Scene::shell(script);
    let orphan = scene.pids(&["orphan"]).await[0];
    scene.until(|| scene.path("up").exists()).await;
    scene.until(|| !PathBuf::from(format!("/proc/{orphan}")).exists()).await;
    scene.touch("go");
    assert_eq!(scene.code().await, 0);
}

/// Starts `quorumctl` without a command, waits until it prints `line`, interrupts it.
async fn holds_until_interrupted(command: &str, held: &str, line: &str) {
    let (stream, reply) = StreamHandle::new();
    let reply = Mutex::new(Some(reply));
    let lease = r#"{"lease":"a1","ttl_ms":10000,"remaining_ms":9000,"valid_for_ms":9000,
        "bind":"connection","node":"n1","pid":1,"uid":0}"#;
    let daemon = ScriptedDaemon::start(move |seen| match seen.method.as_str() {
        "GET" => Reply::json(200, lease),
        "DELETE" => Reply::json(200, r#"{"token":7,"revision":9}"#),
        _ => reply.lock().unwrap().take().unwrap(),
    });
    stream.line(held);
    let directory = tempfile::tempdir().unwrap();
    let shown = directory.path().join("stdout");
    let mut quorumctl = Command::from(own().command("--socket"));
    quorumctl.arg(&daemon.socket).args([command, "x"]).kill_on_drop(true);
    let mut child = quorumctl.stdout(fs::File::create(&shown).unwrap()).spawn().unwrap();
    let give_up = tokio::time::Instant::now() + DEADLINE;
    while !fs::read_to_string(&shown).unwrap().contains(line) {
        assert!(tokio::time::Instant::now() < give_up);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert!(
        daemon
            .seen()
            .iter()
            .any(|seen| { seen.method == "DELETE" && seen.target.ends_with("/x?token=7") })
    );
}

#[tokio::test]
async fn without_a_command_it_holds_until_interrupted() {
    let held = r#"{"state":"held","token":7,"lease":"a1","valid_for_ms":9000}"#;
    holds_until_interrupted("lock", held, "held, token 7, lease a1\n").await;
    let leader = r#"{"state":"leader","token":7,"lease":"a1","valid_for_ms":9000}"#;
    holds_until_interrupted("elect", leader, "leader, token 7, lease a1\n").await;
}
