//! `quorumctl lock` and `elect` over the ends of what they depend on: their hold, their daemon,
//! their command.
//!
//! Signals, hooks and supervisors that are killed are shown in `src/cli`, where a daemon says what
//! the test wants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Cluster, Process, quorumctl, signal, test_directory, wait_until};
use crate::http::{Stream, ask, get};
use crate::started::runs;

/// A command that says in the file `log` that it begins, with its token, and in `pid` who it is.
fn script(directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        "echo $$ > {0}.new; mv {0}.new {0}; echo $QUORUMD_TOKEN >> {1}; \
         while [ ! -e {2} ]; do sleep 0.02; done",
        at("pid"),
        at("log"),
        at("go")
    )
}

fn lines(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn pid_in(directory: &Path) -> u32 {
    wait_until("the command runs", || {
        fs::read_to_string(directory.join("pid")).ok()?.trim().parse().ok()
    })
}

fn said(mut command: Command, directory: &Path) -> (Process, PathBuf) {
    let path = directory.join("stderr");
    let process = Process::spawn(command.stderr(fs::File::create(&path).unwrap()));
    (process, path)
}

/// Its daemon dies and does not come back: the command is stopped by the deadline that `quorumctl`
/// knows by itself, before another holds.
#[test]
fn a_command_whose_daemon_dies_ends_before_the_next_one_holds() {
    let mut cluster = Cluster::start();
    let away = cluster.others(cluster.leader())[0];
    let next = cluster.others(away)[0];
    let directory = test_directory();
    // It does not listen to SIGTERM: nothing but SIGKILL in time helps.
    let script = format!("trap '' TERM; {}", script(directory.path()));
    let mut holder = Process::spawn(
        quorumctl(cluster.socket(away))
            .args(["lock", "l", "--ttl", "3s", "--", "sh", "-c", &script])
            .stderr(Stdio::null()),
    );
    let pid = pid_in(directory.path());
    let waiter = Stream::open(cluster.socket(next), "POST /v1/locks/l", &[], b"{}");
    waiter.until("state", "waiting");
    cluster.nodes[away].kill();
    waiter.until("state", "held");
    assert!(!runs(pid), "the command still runs when another holds");
    assert_eq!(holder.until_ended().code(), Some(7));
}

/// Lost, it is waited for again; the daemon may be away meanwhile. A signal ends it for good.
#[test]
fn what_was_lost_is_waited_for_again() {
    let mut cluster = Cluster::start();
    let node = cluster.others(cluster.leader())[0];
    let directory = test_directory();
    let mut command = quorumctl(cluster.socket(node));
    command.args(["elect", "e", "--ttl", "3s", "--restart", "on-lost", "--", "sh", "-c"]);
    command.arg(script(directory.path()));
    let (mut holder, stderr) = said(command, directory.path());
    let log = directory.path().join("log");
    let token =
        |nth: usize| wait_until("the command runs again", || lines(&log).get(nth - 1).copied());
    let first = token(1);
    let pid = pid_in(directory.path());
    let resigned =
        ask(cluster.socket(node), &format!("DELETE /v1/elections/e?token={first}"), &[], b"");
    resigned.expect(200);
    let second = token(2);
    assert!(second > first && !runs(pid), "one at a time");
    let pid = pid_in(directory.path());
    cluster.nodes[node].kill();
    wait_until("the command is stopped", || (!runs(pid)).then_some(()));
    let others = cluster.others(node);
    wait_until("it is missing", || {
        let view = get(cluster.socket(others[0]), "/v1/elections/e").json();
        view["leader"].is_null().then_some(())
    });
    cluster.run_again(node);
    let third = token(3);
    assert!(third > second);
    signal(holder.0.id(), Signal::TERM);
    assert_eq!(holder.until_ended().code(), Some(128 + 15), "{:?}", fs::read_to_string(stderr));
    assert_eq!(lines(&log).len(), 3);
}

/// A command that ends is run again in the next term of office, and others get their turn between.
#[test]
fn a_command_that_ends_is_run_again_if_that_is_asked_for() {
    let cluster = Cluster::start();
    let directory = test_directory();
    let log = directory.path().join("log");
    let script = format!("echo $QUORUMD_TOKEN >> {}; exit 3", log.display());
    let run = |restart: &str| {
        let mut command = quorumctl(cluster.socket(0));
        command.args(["lock", "l", "--restart", restart, "--", "sh", "-c", &script]);
        said(command, directory.path()).0
    };
    let mut holder = run("on-failure");
    let tokens = wait_until("it runs again and again", || {
        Some(lines(&log)).filter(|lines| lines.len() >= 3)
    });
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
    let other = Stream::open(cluster.socket(1), "POST /v1/locks/l", &[], b"{}");
    other.until("state", "held");
    drop(other);
    signal(holder.0.id(), Signal::INT);
    let code = holder.until_ended().code();
    assert!(code == Some(130) || code == Some(3), "{code:?}");
    // Lost is not what happened, so that this one ends by itself.
    assert_eq!(run("on-lost").until_ended().code(), Some(3));
}

/// Apps may start before their daemon does.
#[test]
fn with_a_restart_the_daemon_may_come_later() {
    let mut cluster = Cluster::start();
    cluster.nodes[0].kill();
    let directory = test_directory();
    let mut command = quorumctl(cluster.socket(0));
    command.args(["lock", "l", "--restart", "on-lost", "--", "true"]);
    let (mut holder, stderr) = said(command, directory.path());
    wait_until("it says that it tries again", || {
        fs::read_to_string(&stderr).ok()?.contains("again in").then_some(())
    });
    cluster.run_again(0);
    assert_eq!(holder.until_ended().code(), Some(0));
}
