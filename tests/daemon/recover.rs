//! The quorum is lost for good: one survivor goes on alone, off-line and by an explicit word.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::harness::{Cluster, Node, quorumctl, quorumd, wait_until};
use crate::http::Stream;

/// Exit codes of `quorumd`.
const CLEAN: Option<i32> = Some(0);
const OTHER: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const DATA_DIRECTORY: Option<i32> = Some(3);

/// Runs `quorumd recover` to its end: its code, and what it said on both streams.
fn recover(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = quorumd();
    command.arg("recover").args(arguments).arg("--config").arg(&node.config);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout) + &text(stderr))
}

/// The value behind a name in what `--inspect` says.
#[track_caller]
fn fact<'a>(said: &'a str, name: &str) -> &'a str {
    let line = said.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no line {name:?}: {said}")).trim()
}

fn bytes_of(directory: &Path) -> Vec<Vec<u8>> {
    ["raft.redb", "state.redb"].map(|file| fs::read(directory.join(file)).unwrap()).into()
}

fn epoch(node: &Node) -> u64 {
    node.status().unwrap()["epoch"].as_u64().unwrap()
}

#[test]
fn a_survivor_goes_on_with_its_data_and_old_nodes_stay_outside() {
    let mut cluster = Cluster::start();
    for number in 0..10 {
        cluster.nodes[number % 3].put(&format!("k{number}"), "v").expect(201);
    }
    let before = cluster.until_equal();
    let old_epoch = before["epoch"].as_u64().unwrap();
    let old_identity = before["cluster_id"].clone();

    // Nothing is done to a node that runs, nor without a word.
    for arguments in [&["--force-new-cluster", "--yes"][..], &["--inspect"]] {
        let (code, said) = recover(&cluster.nodes[0], arguments);
        assert_eq!(code, DATA_DIRECTORY, "{said}");
        assert!(said.contains("in use"), "{said}");
    }
    let survivor = cluster.leader();
    let [old, gone] = cluster.others(survivor);
    cluster.nodes[gone].kill();
    fs::remove_dir_all(&cluster.nodes[gone].data).unwrap();
    cluster.nodes[old].kill();
    cluster.nodes[survivor].kill();
    let node = &cluster.nodes[survivor];
    let untouched = bytes_of(&node.data);
    let (code, said) = recover(node, &["--force-new-cluster"]);
    assert_eq!(code, USAGE, "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert!(recover(node, &[]).0 == USAGE, "neither was asked for");

    let (code, said) = recover(node, &["--inspect"]);
    assert_eq!(code, CLEAN, "{said}");
    assert!(said.contains("Nothing was changed"), "{said}");
    let (last, term) = (fact(&said, "last entry").to_owned(), before["term"].clone());
    assert!(last.starts_with(&format!("term {term}, index ")), "{said}");
    assert!(fact(&said, "part").starts_with("voter; voters: n1 n2 n3"), "{said}");
    let state = format!("revision 11 of epoch {old_epoch}, 10 keys,");
    assert!(fact(&said, "state").starts_with(&state), "{said}");
    assert_eq!(recover(node, &["--inspect"]), (code, said), "it changes nothing");
    let (_, other) = recover(&cluster.nodes[old], &["--inspect"]);
    assert!(fact(&other, "node").starts_with(&cluster.nodes[old].name), "{other}");

    let (code, said) = recover(node, &["--force-new-cluster", "--yes"]);
    assert_eq!(code, CLEAN, "{said}");
    for sentence in ["May be lost", &last, "Kept: everything up to", "remove the data directories"]
    {
        assert!(said.contains(sentence), "{sentence:?} is missing: {said}");
    }
    assert_ne!(bytes_of(&node.data), untouched);
    let (code, said) = recover(node, &["--force-new-cluster", "--yes"]);
    assert_eq!(code, OTHER, "{said}");
    assert!(said.contains("needs no other member"), "{said}");

    cluster.run_again(survivor);
    let node = &cluster.nodes[survivor];
    for number in 0..10 {
        node.get(&format!("/v1/kv/k{number}")).expect(200);
    }
    node.put("after", "v").expect(201);
    assert_eq!(epoch(node), old_epoch + 1);
    let members = node.status().unwrap()["members"].as_array().unwrap().len();
    assert_eq!(members, 1);
    let target = format!("/v1/watch?prefix=k&from=3&epoch={old_epoch}");
    assert_eq!(node.get(&target).expect(410).code(), "compacted");
    let target = format!("/v1/watch?prefix=k&from=3&epoch={}", old_epoch + 1);
    let watch = Stream::open(&node.socket, &format!("GET {target}"), &[], b"");
    watch.until("type", "synced");

    // An old node that is started by accident, and another with all that it had: the two of them
    // are the quorum that was believed to be lost.
    cluster.run(old);
    let refused = wait_until("the old node says why it is alone", || {
        let status = cluster.nodes[old].status()?;
        let links = status["health"].to_string() + &status["links"].to_string();
        let log = cluster.nodes[old].log();
        (links + &log).contains("belongs to another cluster").then_some(status)
    });
    assert_eq!(refused["cluster_id"], old_identity);
    assert_eq!(refused["leader"], Value::Null);
    let (code, _) = recover(&cluster.nodes[survivor], &["--inspect"]);
    assert_eq!(code, DATA_DIRECTORY, "the survivor runs on");
    cluster.nodes[survivor].put("meanwhile", "v").expect(201);
    assert_eq!(cluster.nodes[old].stop().code(), CLEAN);
    // Nor does the wiped one find its way in by itself.
    cluster.run(gone);
    cluster.nodes[survivor].put("and-then", "v").expect(201);
    assert_eq!(cluster.nodes[survivor].stop().code(), CLEAN);
    cluster.run_again(survivor);
    cluster.nodes[survivor].get("/v1/kv/meanwhile").expect(200);
    grow_again(&mut cluster, survivor, [old, gone]);
}

/// The others are wiped and added: three voters again, with all the data.
fn grow_again(cluster: &mut Cluster, survivor: usize, [old, gone]: [usize; 2]) {
    fs::remove_dir_all(&cluster.nodes[old].data).unwrap();
    cluster.run(old);
    // Only a node that is reached can be added.
    for blank in [old, gone] {
        cluster.nodes[blank].until_waiting();
    }
    let at = |node: usize| {
        let node = &cluster.nodes[node];
        format!("{}={}", node.name, node.port.address)
    };
    let mut command = quorumctl(&cluster.nodes[survivor].socket);
    command.args(["members", "add", &at(old), &at(gone), "--voter"]);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{}{}", text(&stdout), text(&stderr));
    cluster.nodes.iter_mut().for_each(Node::until_ready);
    let state = cluster.until_equal();
    let members = state["members"].as_array().unwrap();
    assert!(
        members.len() == 3 && members.iter().all(|member| member["role"] == "voter"),
        "{state}"
    );
    // The two that came back are a quorum that holds everything.
    cluster.nodes[survivor].kill();
    cluster.leader_of(&[old, gone]);
    cluster.nodes[gone].put("grown", "v").expect(201);
    for key in ["k0", "k9", "after", "meanwhile"] {
        cluster.nodes[old].get(&format!("/v1/kv/{key}")).expect(200);
    }
}

/// Both of the others come back with their data: they are a quorum of the old cluster, and the new
/// one does not believe a word of theirs.
#[test]
fn a_whole_quorum_of_old_nodes_does_not_stop_the_survivor() {
    let mut cluster = Cluster::start();
    cluster.nodes[0].put("before", "v").expect(201);
    cluster.until_equal();
    for node in 0..3 {
        cluster.nodes[node].kill();
    }
    let (code, said) = recover(&cluster.nodes[2], &["--force-new-cluster", "--yes"]);
    assert_eq!(code, CLEAN, "{said}");
    cluster.run_again(2);
    cluster.run(0);
    cluster.run(1);
    let old = cluster.leader_of(&[0, 1]);
    cluster.nodes[old].put("old", "v").expect(201);
    cluster.nodes[2].put("new", "v").expect(201);
    for node in [0, 1] {
        let log = || cluster.nodes[node].log();
        wait_until("the old node says why", || log().contains("another cluster").then_some(()));
    }
    cluster.nodes[2].get("/v1/kv/old").expect(404);
    cluster.nodes[old].get("/v1/kv/new").expect(404);
    assert_eq!(cluster.nodes[2].stop().code(), CLEAN, "{}", cluster.nodes[2].log());
}
