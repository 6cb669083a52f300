//! That no route forgets to ask the access rules, and that what it asks is all that it touches.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::base::{LeaseId, Revision, Rng};
use crate::host::{AccessRuleOptions, AccessRules, Caller, Facts, Subject};
use crate::state::{Compare, CompareField, CompareOp, Selection, Txn, TxnOperation};

use super::Options;
use super::route::{Access, table};
use super::socket_test::{Reply, Server};
use super::txn::touched;

/// A rule about whoever runs this test.
fn own(change: impl FnOnce(&mut AccessRuleOptions)) -> AccessRules {
    let uid = Caller::with_token().uid;
    let mut rule = AccessRuleOptions {
        name: "own".to_owned(),
        uids: vec![(uid, uid)],
        ..AccessRuleOptions::default()
    };
    change(&mut rule);
    AccessRules::only(vec![rule])
}

fn list(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|&pattern| pattern.to_owned()).collect()
}

/// What a request needs besides its path to be understood.
fn target(pattern: &str) -> String {
    let path = pattern.replace("{*rest}", "a").replace("{rest}", "1f");
    match pattern {
        "/v1/kv" | "/v1/watch" => path + "?prefix=a",
        "/v1/locks/{*rest}" | "/v1/elections/{*rest}" => path,
        _ => path,
    }
}

async fn try_route(server: &Server, method: &str, pattern: &str) -> Reply {
    let mut target = target(pattern);
    let queue = pattern.starts_with("/v1/locks/{") || pattern.starts_with("/v1/elections/{");
    if queue && (method == "DELETE" || method == "PUT") {
        target += "?token=5";
    }
    if pattern.starts_with("/v1/barriers/{") && method == "DELETE" {
        target += "?place=5";
    }
    let body = match (method, pattern) {
        ("POST", "/v1/elections/{*rest}") => r#"{"value":"x"}"#,
        ("POST", "/v1/access/check") => r#"{"right":"administrate"}"#,
        _ => "",
    };
    server.ask(method, &target, &[], body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_is_refused_without_the_right() {
    let server = Server::start(Options::default()).await;
    for (rules, rule) in [
        (AccessRules::only(Vec::new()), Value::Null),
        // One that is about the caller, and allows nothing of this.
        (own(|rule| rule.read = list(&["other"])), json!("own")),
    ] {
        server.host.set_access(rules);
        for (method, pattern, access) in table() {
            let reply = try_route(&server, method.as_str(), pattern).await;
            let open = matches!(access, Access::Probe | Access::Public);
            assert_eq!(reply.status != 403, open, "{method} {pattern}: {}", reply.status);
            if open || method == http::Method::HEAD {
                continue;
            }
            let problem = reply.json();
            assert_eq!((&problem["code"], &problem["rule"]), (&json!("forbidden"), &rule));
            let writes = matches!(access, Access::Administrate | Access::Write);
            let applied = if writes { json!("no") } else { Value::Null };
            assert_eq!(problem["applied"], applied, "{method} {pattern}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_asks_for_the_names_that_it_touches() {
    let server = Server::start(Options::default()).await;
    server.ask("PUT", "/v1/kv/app/x", &[], "1").await;
    server.ask("PUT", "/v1/kv/app2", &[], "2").await;
    server.host.set_access(own(|rule| {
        rule.read = list(&["app/*"]);
        rule.write = list(&["app/w*"]);
        rule.lock = list(&["l"]);
        rule.campaign = list(&["e*"]);
    }));
    let txn = |then: Value| json!({"then": [then]}).to_string();
    let compare = |key: &str| {
        json!({"if": [{"key": key, "field": "version", "op": "==", "value": 0}],
            "else": [{"get": {"key": "app/x"}}]})
        .to_string()
    };
    for (line, body, status) in [
        ("GET /v1/kv/app/x", String::new(), 200),
        ("GET /v1/kv/app2", String::new(), 403),
        ("GET /v1/kv/app%2Fx", String::new(), 200),
        ("GET /v1/kv/app%252Fx", String::new(), 403),
        ("GET /v1/kv/app/../app2", String::new(), 404),
        ("GET /v1/kv?prefix=app/", String::new(), 200),
        ("GET /v1/kv?prefix=app", String::new(), 403),
        ("GET /v1/kv?prefix=", String::new(), 403),
        ("GET /v1/kv?prefix=app&start_after=app/", String::new(), 403),
        ("PUT /v1/kv/app/w", "v".to_owned(), 201),
        ("PUT /v1/kv/app/x", "v".to_owned(), 403),
        ("PUT /v1/kv/_locks/l/1", "v".to_owned(), 403),
        ("DELETE /v1/kv?prefix=app/w", String::new(), 200),
        ("DELETE /v1/kv?prefix=app/", String::new(), 403),
        ("DELETE /v1/kv?prefix=&all=true", String::new(), 403),
        ("POST /v1/txn", txn(json!({"put": {"key": "app/w", "value": ""}})), 200),
        ("POST /v1/txn", txn(json!({"put": {"key": "app/x", "value": ""}})), 403),
        ("POST /v1/txn", txn(json!({"delete": {"prefix": "app/w"}})), 200),
        ("POST /v1/txn", txn(json!({"delete": {"prefix": "app/"}})), 403),
        ("POST /v1/txn", txn(json!({"get": {"prefix": "app/"}})), 200),
        ("POST /v1/txn", txn(json!({"get": {"prefix": "ap"}})), 403),
        ("POST /v1/txn", compare("app/x"), 200),
        ("POST /v1/txn", compare("app2"), 403),
        ("GET /v1/locks/l", String::new(), 200),
        ("GET /v1/locks/l2", String::new(), 403),
        ("GET /v1/locks", String::new(), 403),
        ("GET /v1/elections/e1", String::new(), 200),
        ("GET /v1/elections/l", String::new(), 403),
        ("GET /v1/elections", String::new(), 403),
        ("POST /v1/locks/m", String::new(), 403),
        ("POST /v1/elections/l", json!({"value": ""}).to_string(), 403),
        ("GET /v1/watch?prefix=", String::new(), 403),
        ("GET /v1/watch?key=app2", String::new(), 403),
        ("POST /v1/compact", json!({"revision": 2}).to_string(), 403),
    ] {
        let (method, path) = line.split_once(' ').unwrap();
        let reply = server.ask(method, path, &[], body.clone()).await;
        assert_eq!(reply.status, status, "{line} {body}: {}", reply.json());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_the_rules_do_not_allow_them_any_more() {
    let server = Server::start(Options::default()).await;
    let all = |rule: &mut AccessRuleOptions| {
        rule.read = list(&["*"]);
        rule.lock = list(&["*"]);
        rule.campaign = list(&["*"]);
    };
    server.host.set_access(own(all));
    let mut watch = server.stream("GET", "/v1/watch?prefix=a", Value::Null).await;
    let mut other = server.stream("GET", "/v1/watch?prefix=b", Value::Null).await;
    let mut held = server.stream("POST", "/v1/locks/a", json!({})).await;
    let mut leader = server.stream("GET", "/v1/elections/a?watch=true", Value::Null).await;
    assert_eq!((watch.message().await["type"]).clone(), "synced");
    assert_eq!((other.message().await["type"]).clone(), "synced");
    assert_eq!((held.message().await["state"]).clone(), "held");
    assert_eq!((leader.message().await["type"]).clone(), "leader");
    let mut waiting = server.stream("POST", "/v1/locks/a", json!({})).await;
    assert_eq!((waiting.message().await["state"]).clone(), "waiting");
    server.host.set_access(own(|rule| rule.read = list(&["b*"])));
    for (stream, kind) in [(&mut watch, "type"), (&mut leader, "type"), (&mut waiting, "state")] {
        let last = stream.message().await;
        assert_eq!((&last[kind], &last["code"]), (&json!("error"), &json!("forbidden")));
        assert_eq!(last["rule"], "own");
        assert_eq!(stream.line().await, None);
    }
    let last = held.message().await;
    assert_eq!((&last["state"], &last["reason"]), (&json!("lost"), &json!("forbidden")));
    server.host.set_access(own(|rule| rule.write = list(&["b"])));
    assert_eq!(other.message().await["code"], "forbidden");
}

/// Names of up to three letters, so that every prefix has keys that it covers.
fn names() -> Vec<String> {
    let mut all = vec![String::new()];
    for _ in 0..3 {
        let longer =
            all.iter().flat_map(|name| ["a", "b", "/"].map(|letter| format!("{name}{letter}")));
        let longer: Vec<String> = longer.collect();
        all.extend(longer);
    }
    all.sort();
    all.dedup();
    all
}

/// The obvious model of what a transaction may touch: every key of the universe, looked at one by
/// one in each place of the tree.
fn model(txn: &Txn, universe: &[String]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut reads, mut writes) = (BTreeSet::new(), BTreeSet::new());
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let keys = |selection: &Selection| -> Vec<String> {
        match selection {
            Selection::Key(key) => vec![text(key)],
            Selection::Prefix(prefix) => {
                let prefix = text(prefix);
                universe.iter().filter(|name| name.starts_with(&prefix)).cloned().collect()
            }
        }
    };
    reads.extend(txn.compares.iter().map(|compare| text(&compare.key)));
    for operation in txn.then.iter().chain(&txn.or_else) {
        match operation {
            TxnOperation::Delete(selection) => writes.extend(keys(selection)),
            TxnOperation::Get(selection) => reads.extend(keys(selection)),
            TxnOperation::Put { key, .. } => drop(writes.insert(text(key))),
        }
    }
    (reads, writes)
}

fn granted(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem.trim_end_matches('*')),
        None => name == pattern,
    })
}

fn random_txn(rng: &mut Rng, universe: &[String]) -> Txn {
    let pick = |rng: &mut Rng| {
        let index = usize::try_from(rng.below(universe.len() as u64)).unwrap();
        Bytes::from(universe[index].clone())
    };
    let selection = |rng: &mut Rng| match rng.below(2) {
        0 => Selection::Key(pick(rng)),
        _ => Selection::Prefix(pick(rng)),
    };
    let operation = |rng: &mut Rng| match rng.below(3) {
        0 => TxnOperation::Delete(selection(rng)),
        1 => TxnOperation::Get(selection(rng)),
        _ => {
            let lease = (rng.below(2) == 0).then_some(LeaseId(7));
            TxnOperation::Put { key: pick(rng), value: Bytes::new(), lease }
        }
    };
    let compare = |rng: &mut Rng| Compare {
        key: pick(rng),
        field: CompareField::ModRevision(Revision(1)),
        op: CompareOp::Equal,
    };
    let lengths = [0; 3].map(|_: u64| rng.below(3));
    Txn {
        compares: (0..lengths[0]).map(|_| compare(rng)).collect(),
        then: (0..lengths[1]).map(|_| operation(rng)).collect(),
        or_else: (0..lengths[2]).map(|_| operation(rng)).collect(),
    }
}

/// RELIABILITY 5.1: nested operations of etcd's transactions once went past its rules
/// (CVE-2026-33343), and a watch was wider than its grant (GHSA-xg4h-6gfc-h4m8).
#[test]
fn what_a_permitted_transaction_touches_lies_in_the_grant() {
    let universe = names();
    let (mut allowed, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let patterns = |rng: &mut Rng| -> Vec<String> {
            let pattern = |rng: &mut Rng| {
                let index = usize::try_from(rng.below(universe.len() as u64)).unwrap();
                let star = if universe[index].is_empty() || rng.below(3) > 0 { "*" } else { "" };
                format!("{}{star}", universe[index])
            };
            (0..rng.below(4)).map(|_| pattern(rng)).collect()
        };
        let (read, write) = (patterns(&mut rng), patterns(&mut rng));
        let (read_also, write_also) = (patterns(&mut rng), patterns(&mut rng));
        let rule = |name: &str, read: &[String], write: &[String]| AccessRuleOptions {
            name: name.to_owned(),
            uids: vec![(1, 1)],
            read: read.to_vec(),
            write: write.to_vec(),
            ..AccessRuleOptions::default()
        };
        let rules = AccessRules::only(vec![
            rule("a", &read, &write),
            rule("b", &read_also, &write_also),
            AccessRuleOptions { uids: vec![(2, 2)], ..rule("c", &list(&["*"]), &list(&["*"])) },
        ]);
        let txn = random_txn(&mut rng, &universe);
        let (wanted, leases) = touched(&txn);
        let puts = |it: &&TxnOperation| matches!(it, TxnOperation::Put { lease: Some(_), .. });
        let attached = txn.then.iter().chain(&txn.or_else).filter(puts).count();
        assert_eq!(leases.len(), attached, "seed {seed}");
        let (reads, writes) = model(&txn, &universe);
        let (may_read, may_write) = ([read, read_also].concat(), [write, write_also].concat());
        let reads_granted = reads.iter().all(|key| granted(&may_read, key));
        let writes_granted = writes.iter().all(|key| granted(&may_write, key));
        let subject = Subject::described(1, Facts::default());
        match rules.authorize(&subject, &wanted) {
            Ok(()) => {
                allowed += 1;
                assert!(reads_granted && writes_granted, "seed {seed}: {txn:?}");
            }
            Err(denied) => {
                refused += 1;
                let is_prefix = denied.what.contains("begins with");
                let is_empty = reads.is_empty() && writes.is_empty();
                let right = !(reads_granted && writes_granted) || is_prefix || is_empty;
                assert!(right, "seed {seed}: {denied} {txn:?}");
            }
        }
    }
    assert!(allowed > 1_000 && refused > 1_000, "{allowed} allowed, {refused} refused");
}
