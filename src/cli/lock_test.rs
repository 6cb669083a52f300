//! `lock NAME -- CMD` with real processes, against a daemon that plays the states of a lock.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::process::Command;

use super::exit::{COMMAND_NOT_FOUND, LOST};
use super::lock_scene::{
    DEADLINE, ESCAPISTS, ESCAPISTS_FILES, Promise, Scene, Setup, lives, pid_of, quorumctl,
};
use super::processes::descendants;
use crate::client::{BootInstant, Reply, ScriptedDaemon, StreamHandle};

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
    let mut scene = Setup {
        promise: Promise::Given(8_000, 4_000),
        line: vec!["elect", "e"],
        held: r#"{"state":"leader","token":7,"lease":"a1","valid_for_ms":4000}"#,
        ..Setup::default()
    }
    .shell(script);
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
    kill_process(scene.guard(), Signal::KILL).unwrap();
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
    let mut quorumctl = Command::from(quorumctl(&[], &daemon.socket));
    quorumctl.args([command, "x"]).kill_on_drop(true);
    let mut child = quorumctl.stdout(fs::File::create(&shown).unwrap()).spawn().unwrap();
    let give_up = tokio::time::Instant::now() + DEADLINE;
    while !fs::read_to_string(&shown).unwrap().contains(line) {
        assert!(tokio::time::Instant::now() < give_up);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kill_process(pid_of(&child), Signal::INT).unwrap();
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
