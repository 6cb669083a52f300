//! The client against a daemon that answers what the script says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{
    AcquireOptions, Applied, BootInstant, Client, Code, Condition, Error, GetOptions,
    IdempotencyKey, ListOptions, Loss, PutCondition, PutOptions, ReadOptions, Reply,
    ScriptedDaemon, StreamHandle, Target, Turn, WatchMessage, WatchOptions, WatchStep,
    WriteOptions,
};

const PUT_ANSWER: &str =
    r#"{"key":"k","revision":7,"create_revision":7,"mod_revision":7,"version":1}"#;

/// Answers the questions in turn; the last answer again and again.
fn in_turn(replies: Vec<fn() -> Reply>) -> impl Fn(&super::Seen) -> Reply + Send + Sync {
    let asked = AtomicUsize::new(0);
    move |_| {
        let at = asked.fetch_add(1, Ordering::Relaxed).min(replies.len() - 1);
        replies[at]()
    }
}

fn lease_answer(valid_for_ms: u64) -> Reply {
    Reply::json(
        200,
        format!(
            r#"{{"lease":"a1","ttl_ms":10000,"remaining_ms":9000,
                "valid_for_ms":{valid_for_ms},"bind":"connection","node":"n1","pid":1,"uid":0}}"#
        ),
    )
}

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let daemon = ScriptedDaemon::start(|_| Reply::json(200, PUT_ANSWER));
    let client = Client::new(&daemon.socket);
    for _ in 0..3 {
        client.put("k", "v").await.unwrap();
    }
    let connections: Vec<usize> = daemon.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 0]);
    let (first, second) = tokio::join!(client.put("k", "v"), client.put("k", "v"));
    assert!(first.is_ok() && second.is_ok());
    assert!(daemon.seen().iter().any(|seen| seen.connection == 1), "two at once need two");
}

#[tokio::test]
async fn a_connection_that_the_daemon_closed_is_not_used_again() {
    let daemon = ScriptedDaemon::start(|seen| match seen.connection {
        0 => Reply::Full(200, vec![("connection", "close".into())], PUT_ANSWER.into()),
        _ => Reply::json(200, PUT_ANSWER),
    });
    let client = Client::new(&daemon.socket);
    client.put("k", "v").await.unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!(daemon.seen()[1].connection, 1);
}

#[tokio::test]
async fn requests_say_what_the_contract_says() {
    let daemon = ScriptedDaemon::start(|seen| {
        if seen.method == "GET" && seen.target.starts_with("/v1/kv/") {
            let headers = vec![
                ("quorumd-create-revision", "3".to_owned()),
                ("quorumd-mod-revision", "5".to_owned()),
                ("quorumd-version", "2".to_owned()),
                ("quorumd-lease", "1f".to_owned()),
            ];
            return Reply::Full(200, headers, "value".into());
        }
        Reply::json(200, PUT_ANSWER)
    });
    let client = Client::new(&daemon.socket);
    let options = PutOptions {
        condition: PutCondition::Revision(4),
        lease: Some("1f".parse().unwrap()),
        write: WriteOptions {
            idempotency_key: Some(IdempotencyKey::new("once").unwrap()),
            timeout: Some(Duration::from_millis(1_500)),
            ..WriteOptions::default()
        },
    };
    client.put_with("a/b c", "x", &options).await.unwrap();
    let absent = PutOptions { condition: PutCondition::Absent, ..PutOptions::default() };
    client.put_with("k", "x", &absent).await.unwrap();
    let past = GetOptions { revision: Some(5), read: ReadOptions::local() };
    let record = client.get_with("k", &past).await.unwrap().unwrap();
    assert_eq!((record.create_revision, record.mod_revision, record.version), (3, 5, 2));
    assert_eq!(record.lease, Some("1f".parse().unwrap()));
    assert_eq!(record.value.unwrap(), "value");
    let seen = daemon.seen();
    assert_eq!(seen[0].line(), "PUT /v1/kv/a/b%20c?timeout=1500ms&lease=1f");
    assert_eq!(seen[0].header("if-match"), Some("\"4\""));
    assert_eq!(seen[0].header("idempotency-key"), Some("once"));
    assert_eq!((seen[0].body.as_str(), seen[1].header("if-none-match")), ("x", Some("*")));
    assert_eq!(seen[2].line(), "GET /v1/kv/k?consistency=local&revision=5");
}

#[tokio::test]
async fn pages_of_one_revision_are_followed_to_the_end() {
    let daemon = ScriptedDaemon::start(in_turn(vec![
        || Reply::json(200, r#"{"revision":9,"count":2,"keys":[{"key":"p/a"}],"more":true}"#),
        || Reply::json(200, r#"{"revision":9,"count":2,"keys":[{"key":"p/b"}],"more":false}"#),
    ]));
    let client = Client::new(&daemon.socket);
    let keys: Vec<_> = client.list_all("p/").await.unwrap().into_iter().map(|r| r.key).collect();
    assert_eq!(keys, ["p/a", "p/b"]);
    let second = &daemon.seen()[1].target;
    assert_eq!(second, "/v1/kv?prefix=p/&revision=9&start_after=p/a");
    let keys_only = ListOptions { keys_only: true, limit: Some(5), ..ListOptions::default() };
    client.list("", &keys_only).await.unwrap();
    assert_eq!(daemon.seen()[2].target, "/v1/kv?prefix=&limit=5&keys_only=true");
}

#[tokio::test]
async fn lists_of_locks_and_leases_are_followed_to_the_end() {
    let daemon = ScriptedDaemon::start(|seen| match seen.target.as_str() {
        "/v1/locks" => Reply::json(
            200,
            r#"{"locks":[{"name":"a b","slots":1,"revision":2}],"more":true,"revision":2}"#,
        ),
        "/v1/locks?start_after=a%20b" => Reply::json(
            200,
            r#"{"locks":[{"name":"c","slots":1,"revision":3}],"more":false,"revision":3}"#,
        ),
        "/v1/elections" => Reply::json(200, r#"{"elections":[],"more":true,"revision":3}"#),
        _ => Reply::problem(404, "no_such_route", "no"),
    });
    let client = Client::new(&daemon.socket);
    let all = client.locks().await.unwrap();
    let names: Vec<&[u8]> = all.locks.iter().map(|lock| lock.name.as_ref()).collect();
    assert_eq!((names, all.more, all.revision), (vec![&b"a b"[..], b"c"], false, 3));
    assert!(client.elections().await.unwrap().elections.is_empty(), "an empty page is the last");
    assert_eq!(client.leases().await.unwrap_err().code(), Some(Code::NoSuchRoute));
}

#[tokio::test]
async fn problems_keep_not_applied_and_unknown_apart() {
    let daemon = ScriptedDaemon::start(in_turn(vec![
        || Reply::problem(503, "no_leader", "no"),
        || Reply::problem(504, "outcome_unknown", "maybe"),
        || Reply::problem(418, "teapot", "no"),
        || Reply::json(500, "oops"),
        || Reply::Drop,
        || Reply::problem(404, "key_not_found", "no"),
    ]));
    let client = Client::new(&daemon.socket);
    let mut told = Vec::new();
    for _ in 0..5 {
        let error = client.put("k", "v").await.unwrap_err();
        told.push((error.code(), error.applied()));
    }
    assert_eq!(
        told,
        [
            (Some(Code::NoLeader), Applied::No),
            (Some(Code::OutcomeUnknown), Applied::Maybe),
            (Some(Code::Unknown), Applied::No),
            (None, Applied::Maybe),
            (None, Applied::Maybe),
        ]
    );
    assert_eq!(client.get("k").await.unwrap(), None);
    let nowhere = Client::new("/nowhere/at/all");
    let error = nowhere.put("k", "v").await.unwrap_err();
    assert_eq!(error.applied(), Applied::No);
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

#[tokio::test]
async fn an_unknown_outcome_is_retried_only_under_one_idempotency_key() {
    let daemon = ScriptedDaemon::start(in_turn(vec![
        || Reply::problem(504, "outcome_unknown", "maybe"),
        || Reply::Drop,
        || Reply::problem(503, "no_leader", "no"),
        || Reply::json(200, PUT_ANSWER),
    ]));
    let client = Client::new(&daemon.socket);
    let write = WriteOptions::retrying(Duration::from_secs(30));
    let options = PutOptions { write, ..PutOptions::default() };
    assert_eq!(client.put_with("k", "v", &options).await.unwrap().revision, 7);
    let seen = daemon.seen();
    assert_eq!(seen.len(), 4);
    let key = seen[0].header("idempotency-key").expect("a key was generated");
    assert!(seen.iter().all(|seen| seen.header("idempotency-key") == Some(key)));
}

#[tokio::test]
async fn a_last_attempt_that_was_not_applied_does_not_hide_an_earlier_one() {
    let daemon = ScriptedDaemon::start(in_turn(vec![
        || Reply::problem(504, "outcome_unknown", "maybe"),
        || Reply::problem(503, "no_leader", "no"),
    ]));
    let client = Client::new(&daemon.socket);
    let write = WriteOptions::retrying(Duration::from_millis(200));
    let options = PutOptions { write, ..PutOptions::default() };
    let error = client.put_with("k", "v", &options).await.unwrap_err();
    assert_eq!(error.applied(), Applied::Maybe);
    assert!(daemon.seen().len() >= 2);
}

#[tokio::test]
async fn a_refusal_is_not_retried() {
    let daemon = ScriptedDaemon::start(|_| Reply::problem(412, "precondition_failed", "no"));
    let client = Client::new(&daemon.socket);
    let write = WriteOptions::retrying(Duration::from_secs(30));
    let options = PutOptions { write, ..PutOptions::default() };
    let error = client.put_with("k", "v", &options).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::PreconditionFailed));
    assert_eq!(daemon.seen().len(), 1);
}

fn watching(script: Vec<Vec<&'static str>>) -> (ScriptedDaemon, Client) {
    let script = Mutex::new(script.into_iter());
    let daemon = ScriptedDaemon::start(move |_| {
        let Some(lines) = script.lock().unwrap().next() else { return Reply::Silence };
        let (handle, reply) = StreamHandle::new();
        for line in lines {
            handle.line(line);
        }
        handle.break_off();
        reply
    });
    let client = Client::new(&daemon.socket);
    (daemon, client)
}

async fn revisions(watch: &mut super::Watch, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        found.push(match watch.next().await.unwrap() {
            WatchMessage::Changes { revision, .. } => format!("changes {revision}"),
            WatchMessage::Progress { revision } => format!("progress {revision}"),
            WatchMessage::Resync { .. } => "resync".to_owned(),
            WatchMessage::Snapshot { revision, .. } => format!("snapshot {revision}"),
            WatchMessage::Synced { revision, .. } => format!("synced {revision}"),
            other => format!("{other:?}"),
        });
    }
    found
}

const CHANGES_5: &str = r#"{"type":"changes","revision":5,"events":[]}"#;
const CHANGES_6: &str = r#"{"type":"changes","revision":6,"events":[]}"#;

#[tokio::test]
async fn a_broken_watch_resumes_after_what_it_saw_and_repeats_nothing() {
    let (daemon, client) = watching(vec![
        vec![r#"{"type":"synced","revision":4,"epoch":2}"#, CHANGES_5],
        vec![CHANGES_5, CHANGES_6, r#"{"type":"progress","revision":9}"#],
        vec![r#"{"type":"changes","revision":10,"events":[]}"#],
    ]);
    let prefix = Target::Prefix("p/".into());
    let mut watch = client.watch(prefix, WatchOptions { prev: true, ..WatchOptions::default() });
    let seen = revisions(&mut watch, 5).await;
    assert_eq!(seen, ["synced 4", "changes 5", "changes 6", "progress 9", "changes 10"]);
    let asked: Vec<String> = daemon.seen().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(
        asked,
        [
            "/v1/watch?prefix=p/&prev=true",
            "/v1/watch?prefix=p/&prev=true&from=6&epoch=2",
            "/v1/watch?prefix=p/&prev=true&from=10&epoch=2",
        ]
    );
}

/// `synced` is the first message of a resume; were it taken for the place to resume from, the
/// changes between would be lost with the connection.
#[tokio::test]
async fn a_watch_from_the_past_is_not_moved_by_synced() {
    let (daemon, client) =
        watching(vec![vec![r#"{"type":"synced","revision":9,"epoch":1}"#], vec![CHANGES_5]]);
    let options = WatchOptions { from: Some(5), ..WatchOptions::default() };
    let mut watch = client.watch(Target::Key("k".into()), options);
    assert_eq!(revisions(&mut watch, 2).await, ["synced 9", "changes 5"]);
    assert_eq!(daemon.seen()[1].target, "/v1/watch?key=k&from=5&epoch=1");
}

#[tokio::test]
async fn a_snapshot_that_broke_off_is_begun_again_after_a_resync() {
    let part = r#"{"type":"snapshot","revision":8,"keys":[{"key":"p/a","value":"1"}],"more":true}"#;
    let rest = r#"{"type":"snapshot","revision":8,"epoch":1,"keys":[],"more":false}"#;
    let (daemon, client) =
        watching(vec![vec![part], vec![part, rest, r#"{"type":"synced","revision":8}"#]]);
    let options = WatchOptions { initial: true, ..WatchOptions::default() };
    let mut watch = client.watch(Target::Prefix("p/".into()), options);
    let seen = revisions(&mut watch, 5).await;
    assert_eq!(seen, ["snapshot 8", "resync", "snapshot 8", "snapshot 8", "synced 8"]);
    assert_eq!(daemon.seen()[1].target, "/v1/watch?prefix=p/&initial=true");
}

#[tokio::test]
async fn compacted_means_a_new_snapshot_or_the_end() {
    let gone = r#"{"type":"error","title":"t","status":410,"detail":"d","code":"compacted"}"#;
    let snapshot = r#"{"type":"snapshot","revision":95,"keys":[],"more":false}"#;
    let (daemon, client) = watching(vec![
        vec![r#"{"type":"snapshot","revision":4,"keys":[]}"#, r#"{"type":"synced","revision":4}"#],
        vec![gone],
        vec![snapshot],
        vec![gone],
    ]);
    let options = WatchOptions { initial: true, ..WatchOptions::default() };
    let mut watch = client.watch(Target::Prefix("p/".into()), options);
    let seen = revisions(&mut watch, 4).await;
    assert_eq!(seen, ["snapshot 4", "synced 4", "resync", "snapshot 95"]);
    assert_eq!(daemon.seen()[1].target, "/v1/watch?prefix=p/&from=5");
    assert_eq!(daemon.seen()[2].target, "/v1/watch?prefix=p/&initial=true");

    let (_daemon, client) = watching(vec![vec![gone]]);
    let mut plain = client.watch(Target::Key("k".into()), WatchOptions::default());
    assert_eq!(plain.next().await.unwrap_err().code(), Some(Code::Compacted));
}

#[tokio::test]
async fn a_silent_watch_is_taken_for_dead() {
    let (kept, reply) = StreamHandle::new();
    let first = Mutex::new(Some(reply));
    let daemon = ScriptedDaemon::start(move |_| {
        first.lock().unwrap().take().unwrap_or_else(|| Reply::problem(403, "forbidden", "no"))
    });
    kept.line(r#"{"type":"synced","revision":4}"#);
    let client = Client::new(&daemon.socket);
    let mut watch = client.watch(Target::Key("k".into()), WatchOptions::default());
    assert!(matches!(watch.step().await.unwrap(), WatchStep::Message(_)));
    watch.silence_max = Duration::from_millis(50);
    let step = watch.step().await.unwrap();
    assert!(matches!(step, WatchStep::Interrupted(Error::Silent { .. })), "{step:?}");
    assert_eq!(watch.step().await.unwrap_err().code(), Some(Code::Forbidden));
}

#[tokio::test]
async fn the_first_connection_of_a_watch_fails_at_once() {
    let client = Client::new("/nowhere/at/all");
    let mut watch = client.watch(Target::Key("k".into()), WatchOptions::default());
    assert!(matches!(watch.next().await.unwrap_err(), Error::Connect { .. }));
}

/// A lock stream that the test drives, and leases that are promised for 9 s.
fn locking() -> (StreamHandle, ScriptedDaemon, Client) {
    let (handle, reply) = StreamHandle::new();
    let reply = Mutex::new(Some(reply));
    let daemon = ScriptedDaemon::start(move |seen| match seen.method.as_str() {
        "GET" => lease_answer(9_000),
        "DELETE" => Reply::json(200, r#"{"token":7,"revision":9}"#),
        _ => reply.lock().unwrap().take().unwrap_or(Reply::Drop),
    });
    let client = Client::new(&daemon.socket);
    (handle, daemon, client)
}

const HELD: &str = r#"{"state":"held","token":7,"lease":"a1","valid_for_ms":9400,"revision":7}"#;

#[tokio::test]
async fn a_lock_is_waited_for_held_and_released_by_dropping_it() {
    let (stream, daemon, client) = locking();
    let options = AcquireOptions {
        ttl: Some(Duration::from_secs(10)),
        slots: Some(2),
        ..AcquireOptions::default()
    };
    let mut acquiring = client.acquire("a b", &options).await.unwrap();
    stream.line(r#"{"state":"waiting","position":2,"token":7,"lease":"a1","holders":[]}"#);
    assert!(matches!(acquiring.next().await.unwrap(), Turn::Waiting { position: 2, .. }));
    let before = BootInstant::now();
    stream.line(HELD);
    let Turn::Held(mut hold) = acquiring.next().await.unwrap() else { panic!("not held") };
    assert_eq!((hold.token(), hold.ttl()), (7, Duration::from_secs(10)));
    let promised = Duration::from_secs(9);
    assert!(hold.valid_until() >= before + promised);
    assert!(hold.valid_until() <= BootInstant::now() + promised, "counted from the question");
    stream.line(r#"{"state":"at_risk","token":7,"lease":"a1","valid_for_ms":1,"reason":"slow"}"#);
    while hold.changed().await.condition == Condition::Held {}
    assert_eq!(hold.state().condition, Condition::AtRisk { reason: "slow".to_owned() });
    let seen = daemon.seen();
    assert_eq!(seen[0].line(), "POST /v1/locks/a%20b");
    assert_eq!(seen[0].body, r#"{"ttl":"10s","slots":2}"#);
    assert_eq!(seen[1].line(), "GET /v1/leases/a1?consistency=local");
    drop(hold);
    daemon.until_closed(1).await;
}

#[tokio::test]
async fn release_names_the_token_and_answers_when_it_is_done() {
    let (stream, daemon, client) = locking();
    stream.line(HELD);
    let hold = client.lock("l", &AcquireOptions::default()).await.unwrap();
    assert_eq!(hold.release().await.unwrap().revision, 9);
    assert!(daemon.seen().iter().any(|seen| seen.line() == "DELETE /v1/locks/l?token=7"));
    daemon.until_closed(1).await;
}

#[tokio::test]
async fn lost_says_whether_the_daemon_said_so_or_is_gone() {
    let (stream, daemon, client) = locking();
    stream.line(HELD);
    let hold = client.lock("l", &AcquireOptions::default()).await.unwrap();
    stream.line(r#"{"state":"lost","reason":"revoked"}"#);
    assert_eq!(hold.lost().await, Loss::Told { reason: "revoked".to_owned() });
    stream.line(r#"{"state":"lost","reason":"again"}"#);
    client.status().await.unwrap_err();
    assert_eq!(daemon.closed(), 0, "what is held may still be winding up");
    drop(hold);
    daemon.until_closed(1).await;

    let (stream, _daemon, client) = locking();
    stream.line(HELD);
    let hold = client.lock("l", &AcquireOptions::default()).await.unwrap();
    stream.break_off();
    assert!(matches!(hold.lost().await, Loss::Disconnected { .. }));
}

#[tokio::test]
async fn a_promise_that_nobody_renews_runs_out_by_itself() {
    let (stream, reply) = StreamHandle::new();
    let reply = Mutex::new(Some(reply));
    let asked = AtomicUsize::new(0);
    let daemon = ScriptedDaemon::start(move |seen| match seen.method.as_str() {
        "GET" if asked.fetch_add(1, Ordering::Relaxed) == 0 => lease_answer(300),
        "GET" => Reply::Silence,
        _ => reply.lock().unwrap().take().unwrap(),
    });
    stream.line(HELD);
    let client = Client::new(&daemon.socket);
    let hold = client.lock("l", &AcquireOptions::default()).await.unwrap();
    assert_eq!(hold.lost().await, Loss::Expired);
    assert!(BootInstant::now() >= hold.valid_until());
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_is_an_error_with_its_holders() {
    let held = r#"{"title":"t","status":409,"detail":"d","code":"lock_held","applied":"no",
        "holders":[{"token":3,"lease":"2","node":"n1","pid":4,"uid":0}]}"#;
    let daemon = ScriptedDaemon::start(move |_| Reply::json(409, held));
    let client = Client::new(&daemon.socket);
    let error = client.lock("l", &AcquireOptions::default()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().holders.as_ref().unwrap()[0].token, 3);
}
