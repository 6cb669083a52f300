//! What the command line takes, and that each command asks the daemon for what it says.

use std::ffi::OsString;
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};

use super::command::{CommandLine, run};
use super::exit::{DONE, FAILED, NOT_FOUND, NOT_SO, UNAVAILABLE, UNKNOWN, USAGE};
use super::supervise::OwnProgram;
use crate::client::{Reply, ScriptedDaemon};

fn parses(line: &str) -> Result<(), String> {
    let words = line.split_whitespace();
    CommandLine::try_parse_from(words).map(drop).map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_sound_and_every_form_is_taken() {
    CommandLine::command().debug_assert();
    for line in [
        "quorumctl put k v",
        "quorumctl put k -",
        "quorumctl put k",
        "quorumctl put k -5",
        "quorumctl put k v --lease 1f --if-revision 3 --idempotency-key x --retry-for 10s",
        "quorumctl put k v --if-absent",
        "quorumctl get k --local --revision 3 --meta",
        "quorumctl delete k --if-revision 3",
        "quorumctl delete --prefix p --all",
        "quorumctl list",
        "quorumctl list p --keys-only --limit 3 --revision 4 --local",
        "quorumctl watch k --from 3",
        "quorumctl watch --prefix p --initial --prev",
        "quorumctl watch --prefix p --initial=skip --state /f --coalesce --exec sh -c x --flag",
        "quorumctl watch k --from 3 --on-error retry --exec true",
        "quorumctl txn",
        "quorumctl txn file.json",
        "quorumctl lease grant --ttl 1m30s --pid 7 --info x",
        "quorumctl lease keepalive 1f --once",
        "quorumctl lease revoke 1f",
        "quorumctl lease get 1f",
        "quorumctl lease list",
        "quorumctl lease events 1f",
        "quorumctl lock l",
        "quorumctl lock l --wait 0s --slots 3 --ttl 10s --info x -- sh -c true",
        "quorumctl lock l --restart on-lost --stop-grace 3s --kill-after 5s -- true",
        "quorumctl lock l --on-held a --on-lost b --notify",
        "quorumctl elect e --on-elected a --signal-at-risk usr1 --notify=queued -- true",
        "quorumctl lock l --unit u.service --ttl 15s --slots 2 --pause 1s",
        "quorumctl lock l --as-unit quorumd-lock@l.service --notes /run/x",
        "quorumctl elect e --unit u.service --value h",
        "quorumctl unit-stop --notes /run/x",
        "quorumctl lock --list",
        "quorumctl lock l --list",
        "quorumctl lock l --release 7",
        "quorumctl elect e --value h:80 -- true --flag",
        "quorumctl elect e --observe",
        "quorumctl elect --list",
        "quorumctl elect e --resign 7",
        "quorumctl members --output json",
        "quorumctl --socket /s -o json status",
        "quorumctl compact 9",
        "quorumctl completions bash",
    ] {
        parses(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (line, because) in [
        ("quorumctl", "Usage"),
        ("quorumctl put", "KEY"),
        ("quorumctl put k v --if-absent --if-revision 3", "cannot be used with"),
        ("quorumctl put k v --lease XYZ", "hexadecimal"),
        ("quorumctl delete", "required"),
        ("quorumctl delete k --prefix p", "cannot be used with"),
        ("quorumctl delete k --all", "cannot be used with"),
        ("quorumctl delete --all", "required"),
        ("quorumctl watch", "required"),
        ("quorumctl watch k --from 3 --initial", "cannot be used with"),
        ("quorumctl watch k --state /f", "required"),
        ("quorumctl watch k --state /f --from 3 --exec true", "cannot be used with"),
        ("quorumctl lock", "required"),
        ("quorumctl lock l --wait 5", "is not a duration"),
        ("quorumctl lock l --list -- true", "cannot be used with"),
        ("quorumctl lock --release 3", "required"),
        ("quorumctl lock l --signal-at-risk KILL -- true", "USR1"),
        ("quorumctl lock l --restart sometimes -- true", "on-lost"),
        ("quorumctl elect --observe", "required"),
        ("quorumctl elect e --observe --value x", "cannot be used with"),
        ("quorumctl get k --idempotency-key x", "unexpected argument"),
        ("quorumctl putt k v", "similar"),
    ] {
        let error = parses(line).expect_err(line);
        assert!(error.contains(because), "{line}: {error}");
    }
}

/// What `line` asks a daemon that answers `reply`, and the exit status.
fn asks(line: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Vec<String>, u8) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let daemon = runtime.block_on(async { ScriptedDaemon::start(move |_| reply()) });
    let mut words: Vec<OsString> = vec!["quorumctl".into(), "--socket".into()];
    words.push(daemon.socket.clone().into());
    words.extend(line.split_whitespace().map(OsString::from));
    let own = OwnProgram::new("/nowhere".into(), Vec::new());
    let status = std::thread::spawn(move || run(own, words)).join().unwrap();
    let asked = daemon.seen().iter().map(|seen| seen.line()).collect();
    (asked, status)
}

#[test]
fn commands_ask_for_what_they_say() {
    let put = r#"{"key":"k","revision":7,"create_revision":7,"mod_revision":7,"version":1}"#;
    let (asked, status) = asks("put k v --lease 1f --timeout 2s", move || Reply::json(200, put));
    assert_eq!((asked, status), (vec!["PUT /v1/kv/k?timeout=2s&lease=1f".to_owned()], DONE));
    let deleted = || Reply::json(200, r#"{"deleted":0,"revision":7}"#);
    for (line, target) in [
        ("delete k", "DELETE /v1/kv/k"),
        ("delete --prefix p/", "DELETE /v1/kv?prefix=p/"),
        ("delete --prefix= --all", "DELETE /v1/kv?prefix=&all=true"),
    ] {
        assert_eq!(asks(line, deleted), (vec![target.to_owned()], DONE));
    }
    assert_eq!(asks("delete --prefix=", deleted), (Vec::new(), USAGE), "nothing is sent");
    let (asked, status) =
        asks("lock l --release 7", || Reply::json(200, r#"{"token":7,"revision":9}"#));
    assert_eq!((asked, status), (vec!["DELETE /v1/locks/l?token=7".to_owned()], DONE));
}

#[test]
fn list_follows_the_pages_and_stops_at_the_limit() {
    let pages = Arc::new(Mutex::new(vec![
        r#"{"revision":9,"count":4,"keys":[{"key":"c"}],"more":true}"#,
        r#"{"revision":9,"count":4,"keys":[{"key":"a"},{"key":"b"}],"more":true}"#,
    ]));
    let next = move || Reply::json(200, pages.lock().unwrap().pop().unwrap());
    let (asked, status) = asks("list p --limit 3 --keys-only", next);
    assert_eq!(status, DONE);
    assert_eq!(
        asked,
        [
            "GET /v1/kv?prefix=p&limit=3&keys_only=true",
            "GET /v1/kv?prefix=p&limit=1&keys_only=true&revision=9&start_after=b",
        ]
    );
}

#[test]
fn each_kind_of_failure_has_its_exit_status() {
    for (line, status, code, applied, exit) in [
        ("get k", 404, "key_not_found", "no", NOT_FOUND),
        ("lease get 1f", 404, "lease_not_found", "no", NOT_FOUND),
        ("put k v --if-absent", 412, "precondition_failed", "no", NOT_SO),
        ("lock l --wait 0s", 409, "lock_held", "no", NOT_SO),
        ("put k v", 503, "no_leader", "no", UNAVAILABLE),
        ("get k", 504, "timeout", "maybe", UNAVAILABLE),
        ("put k v", 504, "outcome_unknown", "maybe", UNKNOWN),
        ("put k v", 403, "forbidden", "no", FAILED),
        ("put k v", 400, "invalid_request", "no", FAILED),
    ] {
        let (_, got) = asks(line, move || Reply::problem(status, code, applied));
        assert_eq!(got, exit, "{line} answered with {code}");
    }
    assert_eq!(asks("put k v", || Reply::Drop).1, UNKNOWN);
    assert_eq!(asks("status", || Reply::Drop).1, UNAVAILABLE);
    assert_eq!(asks("nonsense", || Reply::Drop).1, USAGE);
    assert_eq!(asks("--help", || Reply::Drop).1, DONE);
}

#[test]
fn nobody_there_is_unavailable() {
    let own = OwnProgram::new("/nowhere".into(), Vec::new());
    let words = ["quorumctl", "--socket", "/nowhere/at/all", "put", "k", "v"];
    assert_eq!(run(own, words.map(OsString::from)), UNAVAILABLE);
}
