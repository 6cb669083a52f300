//! A node that is cut off from the others answers as promised, and knows that it is.

use serde_json::Value;

use crate::harness::{Cluster, Options, wait_until};
use crate::http::{Stream, ask};

fn proxied() -> Cluster {
    Cluster::with(&Options { proxied: true, ..Options::default() })
}

fn has_note(status: &Value, code: &str) -> bool {
    status["health"].as_array().unwrap().iter().any(|note| note["code"] == code)
}

/// Cut off: what needs the others is refused as promised, what does not goes on, and both the
/// status and the watchers are told. Healed: it catches up, and watchers have missed nothing.
fn cut_off(cluster: &Cluster, minority: usize) {
    let network = cluster.network.as_ref().unwrap();
    let node = &cluster.nodes[minority];
    let others = cluster.others(minority);
    let majority = &cluster.nodes[others[0]];
    let name = format!("p{minority}");
    majority.put(&format!("{name}/0"), "before").expect(201);
    let target = format!("GET /v1/watch?prefix={name}/&initial=true");
    let watch = Stream::open(&node.socket, &target, &[], b"");
    watch.until("type", "synced");

    network.isolate(minority);
    watch.until("type", "leader");
    let status = wait_until("the status says that there is no leader", || {
        node.status().filter(|status| status["leader"].is_null())
    });
    assert!(has_note(&status, "no_leader"), "{status:#}");
    assert_eq!(node.get("/readyz").expect(503).code(), "no_leader");
    node.get("/healthz").expect(200);
    let read = node.get(&format!("/v1/kv/{name}/0?timeout=300ms"));
    let promised = [(503, "no_leader".to_owned()), (504, "timeout".to_owned())];
    assert!(promised.contains(&(read.status, read.code())), "{}", read.text());
    let mut refused = Vec::new();
    for number in 0..5 {
        let key = format!("{name}/minority{number}");
        let write = ask(&node.socket, &format!("PUT /v1/kv/{key}?timeout=300ms"), &[], b"x");
        match (write.status, write.json()["applied"].as_str().unwrap()) {
            (503, "no") => refused.push(key),
            (504, "maybe") => {}
            other => panic!("{other:?}: {}", write.text()),
        }
    }
    let local = node.get(&format!("/v1/kv/{name}/0?consistency=local")).expect(200);
    assert_eq!(local.text(), "before");
    cluster.leader_of(&others);
    for number in 1..=20 {
        majority.put(&format!("{name}/{number}"), "meanwhile").expect(201);
    }

    network.heal();
    node.until_served();
    let healed = wait_until("the watcher was told", || {
        let seen: Vec<Value> = watch.drain();
        (!seen.is_empty()).then_some(seen)
    });
    let revision = majority.put(&format!("{name}/last"), "after").expect(201);
    let (_, last) = watch_until_key(&watch, healed, &format!("{name}/last"));
    assert_eq!(last.len(), 21, "every change, once and in order: {last:#?}");
    for key in refused {
        node.get(&format!("/v1/kv/{key}")).expect(404);
    }
    let read = node.get(&format!("/v1/kv/{name}/last"));
    assert_eq!(read.number("quorumd-mod-revision"), revision.number("quorumd-revision"));
    cluster.until_equal();
}

/// The keys that the majority wrote, as the watcher was told of them, up to and with `last`; and
/// whether it was told that the leader is back.
fn watch_until_key(watch: &Stream, first: Vec<Value>, last: &str) -> (bool, Vec<String>) {
    let (mut back, mut keys, mut newest) = (false, Vec::new(), 0);
    let mut waiting = first.into_iter();
    loop {
        let message = waiting.next().unwrap_or_else(|| watch.next());
        if message["type"] == "leader" {
            back = message["present"] == true;
        }
        if message["type"] != "changes" {
            continue;
        }
        let revision = message["revision"].as_u64().unwrap();
        assert!(revision > newest, "revisions go up: {message}");
        newest = revision;
        for event in message["events"].as_array().unwrap() {
            let key = event["key"].as_str().unwrap().to_owned();
            // What was answered 504 may have been applied.
            if !key.contains("minority") {
                keys.push(key.clone());
            }
            if key == last {
                return (back, keys);
            }
        }
    }
}

/// A follower, then the leader: the same promises.
#[test]
fn a_minority_answers_as_promised_and_catches_up() {
    let cluster = proxied();
    let leader = cluster.leader();
    cut_off(&cluster, cluster.others(leader)[0]);
    cut_off(&cluster, cluster.leader());
}

/// Only one direction is cut: a follower that hears nothing from the leader, though it is heard,
/// neither takes over nor stops the others, and serves again when it hears.
#[test]
fn a_follower_that_hears_nothing_deposes_nobody() {
    let cluster = proxied();
    let network = cluster.network.as_ref().unwrap();
    let leader = cluster.leader();
    let [deaf, other] = cluster.others(leader);
    network.cut(leader, deaf);
    let term = cluster.nodes[leader].status().unwrap()["term"].clone();
    wait_until("it misses its leader", || {
        cluster.nodes[deaf].status().filter(|status| status["leader"].is_null())
    });
    for number in 0..50 {
        cluster.nodes[other].put(&format!("k{number}"), "v").expect(201);
    }
    let status = cluster.nodes[leader].status().unwrap();
    assert_eq!((&status["role"], &status["term"]), (&"leader".into(), &term), "no election");
    network.heal();
    cluster.nodes[deaf].until_served();
    cluster.until_equal();
}
