//! A node whose saved state is another one than its log makes: it is found out, serves nothing,
//! says why, also after a restart, and nobody else notices.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quorumd::base::Epoch;
use quorumd::raft::Payload;
use quorumd::state::{RestoreError, Row, RowChange, RowKey, StateMachine};
use quorumd::storage::{Identity, RaftStore, StateStore};
use quorumd::wire::decode_stamped;

use crate::harness::{Cluster, quorumctl, wait_until};
use crate::http::{Stream, get, put, try_ask};
use crate::workload::Load;

/// More entries than lie between two comparisons.
const ENTRIES: u64 = 1_100;

/// Changes the value of `victim` in the saved state of a node that does not run, with a digest that
/// fits, as a bit that flipped in memory before the state was saved would have.
fn lead_astray(data: &Path, victim: &[u8]) {
    let nobody = || -> Identity { panic!("there is a log") };
    let (store, log) = RaftStore::open_path(&data.join("raft.redb"), nobody).unwrap();
    drop(store);
    let (mut store, rows) = StateStore::open_path(&data.join("state.redb"), &log.identity).unwrap();
    let mut machine = match rows.is_empty() {
        true => StateMachine::new(Epoch(1)),
        false => StateMachine::restore(rows.clone()).unwrap(),
    };
    let applied = machine.applied_index();
    // All of it was committed: the cluster was at rest.
    for entry in log.entries.iter().filter(|entry| entry.index > applied) {
        match &entry.payload {
            Payload::Command(bytes) => {
                let (wall, command) = decode_stamped(bytes).unwrap();
                machine.apply(entry.index, entry.term, wall, &command);
            }
            _ => machine.skip(entry.index, entry.term),
        }
    }
    let mut changed: BTreeMap<RowKey, Row> = rows.into_iter().collect();
    for RowChange { key, row } in machine.take_row_changes() {
        match row {
            Some(row) => changed.insert(key, row),
            None => changed.remove(&key),
        };
    }
    let row = changed.iter_mut().find_map(|(key, row)| match (key, row) {
        (RowKey::Version(key, _), Row::Version { value, .. }) if key == victim => Some(value),
        _ => None,
    });
    *row.expect("the victim is there") = b"wrong"[..].into();
    let Err(RestoreError::Digest { computed, .. }) = StateMachine::restore(changed.clone()) else {
        panic!("the changed value fits the stored digest");
    };
    if let Some(Row::Meta(meta)) = changed.get_mut(&RowKey::Meta) {
        meta.digest = computed;
    }
    let changes = changed.into_iter().map(|(key, row)| RowChange { key, row: Some(row) });
    store.save(&changes.collect::<Vec<_>>()).unwrap();
}

#[test]
fn a_node_that_went_astray_serves_nothing_and_says_why() {
    let mut cluster = Cluster::start();
    cluster.nodes[0].put("victim", "right").expect(201);
    cluster.until_equal();
    let astray = cluster.others(cluster.leader())[1];
    let others = cluster.others(astray);
    cluster.nodes[astray].stop();
    lead_astray(&cluster.nodes[astray].data, b"victim");
    cluster.run_again(astray);
    let socket = cluster.socket(astray).to_owned();
    let local = "/v1/kv/victim?consistency=local";
    assert_eq!(get(&socket, local).text(), "wrong", "nobody can know yet");
    let watch = Stream::open(&socket, "GET /v1/watch?prefix=k", &[], b"");
    watch.until("type", "synced");
    let holder = Stream::open(&socket, "POST /v1/locks/l", &[], b"{}");
    holder.until("state", "held");

    let load = Load::start(others.map(|node| cluster.socket(node).to_owned()).to_vec(), 4);
    load.until_more(ENTRIES);
    let (_, ended) = watch.until("type", "error");
    assert_eq!(ended["code"], "unavailable", "{ended}");
    let (_, lost) = holder.until("state", "lost");
    eprintln!("the holder was told: {lost}");
    let told = load.end();
    assert_eq!((told.unavailable, told.unknown), (0, 0), "somebody else noticed");

    let check = |cluster: &Cluster| {
        for line in [local, "/v1/kv/victim", "/v1/kv?prefix=k", "/v1/watch?prefix=k"] {
            let answer = get(&socket, line).expect(503);
            assert_eq!(answer.code(), "unavailable", "{line}");
            assert!(answer.text().contains("diverged"), "{line}: {}", answer.text());
        }
        let write = put(&socket, "/v1/kv/x", "v").expect(503).json();
        assert_eq!(write["applied"], "no");
        assert_eq!(get(&socket, "/readyz").status, 503);
        let status = cluster.nodes[astray].status().unwrap();
        let codes = status["health"].as_array().unwrap().iter().map(|note| &note["code"]);
        assert!(codes.into_iter().any(|code| code == "diverged"), "{}", status["health"]);
        let metrics = get(&socket, "/metrics").text();
        assert!(metrics.contains("quorumd_raft_diverged 1"), "{metrics}");
    };
    check(&cluster);
    for node in others {
        assert_eq!(get(cluster.socket(node), "/v1/kv/victim").text(), "right");
    }
    // Its vote and its log count: with it the other one is a quorum.
    cluster.nodes[others[1]].kill();
    wait_until("a fenced node makes a quorum", || {
        let write = try_ask(cluster.socket(others[0]), "PUT /v1/kv/y", &[], b"v").ok()?;
        (write.status < 300).then_some(())
    });
    cluster.run_again(others[1]);
    assert_eq!(cluster.nodes[astray].stop().code(), Some(0));
    cluster.run(astray);
    wait_until("it serves its status", || cluster.nodes[astray].status());
    check(&cluster);
    rebuild(&mut cluster, astray);
    assert_eq!(get(&socket, local).text(), "right");
}

/// It is emptied and replaced under its name.
fn rebuild(cluster: &mut Cluster, astray: usize) {
    assert_eq!(cluster.nodes[astray].stop().code(), Some(0));
    fs::remove_dir_all(&cluster.nodes[astray].data).unwrap();
    cluster.run(astray);
    let socket = cluster.socket(astray).to_owned();
    wait_until("it waits to be added", || {
        let alive = try_ask(&socket, "GET /healthz", &[], b"").ok()?;
        (alive.status == 200).then_some(())
    });
    let name = cluster.nodes[astray].name.clone();
    let mut command = quorumctl(cluster.socket(cluster.others(astray)[0]));
    let replaced = command.args(["members", "replace", &name]).output().unwrap();
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    cluster.nodes[astray].until_ready();
    cluster.until_equal();
}
