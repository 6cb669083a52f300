//! `quorumctl` as scripts use it: what it prints, its exit statuses, and a lock that outlives
//! nobody.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, Options, Process, quorumctl, signal, test_directory, wait_until};
use crate::http::{Stream, get, put};

/// Runs a command to its end: its status, and what it said on both streams.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn ctl(socket: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    run(quorumctl(socket).args(arguments))
}

/// It must succeed: what it printed.
#[track_caller]
fn good(socket: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = ctl(socket, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

/// It must fail with this status, and say why.
#[track_caller]
fn bad(socket: &Path, arguments: &[&str], status: i32) -> String {
    let (code, out, err) = ctl(socket, arguments);
    assert_eq!(code, Some(status), "{arguments:?}: {out}{err}");
    assert!(!err.is_empty(), "{arguments:?} says nothing");
    err
}

#[test]
fn keys_leases_and_members() {
    let cluster = Cluster::start();
    let (one, two) = (cluster.socket(0), cluster.socket(1));
    good(one, &["put", "app/color", "blue"]);
    assert_eq!(good(two, &["get", "app/color"]).trim_end(), "blue");
    let record: Value =
        serde_json::from_str(&good(two, &["--output", "json", "get", "app/color"])).unwrap();
    assert_eq!((&record["value"], &record["version"]), (&"blue".into(), &1.into()));
    let revision = record["mod_revision"].to_string();
    good(one, &["put", "app/color", "green", "--if-revision", &revision]);
    bad(one, &["put", "app/color", "red", "--if-revision", &revision], 4);
    bad(one, &["put", "app/color", "red", "--if-absent"], 4);
    assert_eq!(good(two, &["list", "app/"]), "app/color\tgreen\n");
    assert!(good(one, &["delete", "app/color"]).contains("deleted 1"));
    bad(two, &["get", "app/color"], 3);
    bad(one, &["get"], 2);
    bad(one, &["delete", "--prefix", ""], 2);

    let lease = good(one, &["lease", "grant", "--ttl", "30s"]);
    let lease = lease.trim_end();
    good(two, &["put", "present", "yes", "--lease", lease]);
    assert!(good(one, &["lease", "get", lease]).contains("present"));
    good(two, &["lease", "keepalive", lease, "--once"]);
    good(one, &["lease", "revoke", lease]);
    bad(two, &["lease", "revoke", lease], 3);
    bad(two, &["get", "present"], 3);

    let file = cluster.directory.path().join("txn");
    let once = r#"{"if":[{"key":"t","field":"version","op":"==","value":0}],
        "then":[{"put":{"key":"t","value":"1"}}]}"#;
    fs::write(&file, once).unwrap();
    let file = file.to_str().unwrap();
    good(one, &["txn", file]);
    assert_eq!(ctl(one, &["txn", file]).0, Some(4), "its condition does not hold any more");
    let status = good(two, &["status"]);
    assert!(status.contains("health: ok") && status.contains("n2"), "{status}");
    let members = good(two, &["members"]);
    assert!(["n1", "n2", "n3"].iter().all(|name| members.contains(name)), "{members}");
    let nobody = cluster.directory.path().join("nobody");
    bad(&nobody, &["get", "a"], 5);
    bad(&nobody, &["put", "a", "b"], 5);
}

#[test]
fn a_watch_prints_each_change_and_survives_its_daemon() {
    let mut cluster = Cluster::start();
    let node = cluster.others(cluster.leader())[0];
    let other = cluster.others(node)[1];
    let out = cluster.directory.path().join("out");
    let mut command = quorumctl(cluster.socket(node));
    command.args(["watch", "--prefix", "w/", "--initial"]).stdout(fs::File::create(&out).unwrap());
    cluster.nodes[other].put("w/a", "1").expect(201);
    let _watch = Process::spawn(command.stderr(Stdio::null()));
    let printed = |wanted: &[&str]| {
        wait_until("the changes are printed", || {
            let text = fs::read_to_string(&out).unwrap();
            let lines: Vec<String> = text
                .lines()
                .map(|line| line.split('\t').skip(1).collect::<Vec<_>>().join(" "))
                .collect();
            (lines == wanted).then_some(())
        });
    };
    printed(&["is w/a 1"]);
    cluster.nodes[other].put("w/a", "2").expect(200);
    printed(&["is w/a 1", "put w/a 2"]);
    cluster.nodes[node].kill();
    cluster.nodes[other].put("w/a", "3").expect(200);
    cluster.nodes[other].put("w/b", "4").expect(201);
    cluster.run_again(node);
    // It resumes after the last revision that it saw: nothing is missing, nothing comes twice.
    printed(&["is w/a 1", "put w/a 2", "put w/a 3", "put w/b 4"]);
}

#[test]
fn a_command_runs_under_a_lock_and_its_status_is_passed_on() {
    let cluster = Cluster::start();
    let (one, two) = (cluster.socket(0), cluster.socket(1));
    let script = "echo $QUORUMD_NAME $QUORUMD_TOKEN; exit 7";
    let (code, out, err) = ctl(one, &["lock", "l", "--", "sh", "-c", script]);
    assert_eq!(code, Some(7), "{err}");
    let (name, token) = out.trim_end().split_once(' ').unwrap();
    assert!(name == "l" && token.parse::<u64>().is_ok(), "{out}");
    assert_eq!(ctl(one, &["lock", "l", "--", "sh", "-c", "kill -9 $$"]).0, Some(128 + 9));
    assert_eq!(ctl(one, &["lock", "l", "--", "/nonexistent"]).0, Some(127));
    assert_eq!(ctl(one, &["lock", "l", "--", "/etc/passwd"]).0, Some(126));
    let view = get(two, "/v1/locks/l").json();
    assert_eq!(view["holders"], Value::Array(Vec::new()), "it was released each time");

    let holder = Stream::open(one, "POST /v1/locks/l", &[], b"{}");
    holder.until("state", "held");
    bad(two, &["lock", "l", "--wait", "0s", "--", "true"], 4);
    let mark = cluster.directory.path().join("ran");
    let touch = mark.to_str().unwrap();
    let mut waiter = Process::spawn(
        quorumctl(two).args(["lock", "l", "--", "touch", touch]).stderr(Stdio::null()),
    );
    wait_until("it waits", || {
        let view = get(one, "/v1/locks/l").json();
        (view["waiters"].as_array()?.len() == 1).then_some(())
    });
    assert!(!mark.exists(), "it ran while another held");
    drop(holder);
    assert_eq!(waiter.until_ended().code(), Some(0));
    assert!(mark.exists());
}

/// The node of a holder is cut off: the command is stopped before the next one holds. The command
/// is a shell with a child that ignores SIGTERM.
#[test]
fn a_command_is_stopped_before_the_next_one_holds() {
    let cluster = Cluster::with(&Options { proxied: true, ..Options::default() });
    let away = cluster.others(cluster.leader())[0];
    let next = cluster.others(away)[0];
    let directory = test_directory();
    let pids = directory.path().join("pids");
    let script = format!(
        "echo $$ >{0}.new; sh -c 'trap \"\" TERM; echo $$ >>{0}.new; mv {0}.new {0}; \
         while :; do sleep 1; done' & wait",
        pids.display()
    );
    let mut holder = Process::spawn(
        quorumctl(cluster.socket(away))
            .args(["lock", "l", "--ttl", "3s", "--", "sh", "-c", &script])
            .stderr(Stdio::null()),
    );
    let pids: Vec<u32> = wait_until("the command runs", || {
        let text = fs::read_to_string(&pids).ok()?;
        Some(text.lines().map(|pid| pid.parse().unwrap()).collect())
    });
    assert_eq!(pids.len(), 2);
    let waiter = Stream::open(cluster.socket(next), "POST /v1/locks/l", &[], b"{}");
    waiter.until("state", "waiting");
    cluster.network.as_ref().unwrap().isolate(away);
    waiter.until("state", "held");
    for pid in pids {
        assert!(!crate::started::runs(pid), "the command still runs when another holds");
    }
    assert_eq!(holder.until_ended().code(), Some(7));
}

#[test]
fn an_election_has_one_leader_and_observers() {
    let cluster = Cluster::start();
    let (one, two, three) = (cluster.socket(0), cluster.socket(1), cluster.socket(2));
    let out = cluster.directory.path().join("leads");
    let mut first = Process::spawn(
        quorumctl(one)
            .args(["elect", "e", "--value", "one"])
            .stdout(fs::File::create(&out).unwrap())
            .stderr(Stdio::null()),
    );
    let leads = || get(three, "/v1/elections/e").json()["leader"]["value"].clone();
    wait_until("the first leads", || (leads() == "one").then_some(()));
    let script = "echo leading $QUORUMD_TOKEN";
    let second = quorumctl(two)
        .args(["elect", "e", "--value", "two", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the second waits", || {
        let view = get(three, "/v1/elections/e").json();
        (view["candidates"].as_array()?.len() == 1).then_some(())
    });
    assert!(good(three, &["elect", "e", "--list"]).contains("one"));
    signal(first.0.id(), Signal::TERM);
    assert_eq!(first.until_ended().code(), Some(0));
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("leading "), "{output:?}");
    put(one, "/v1/kv/after", "x").expect(201);
}
