//! Keys that follow the files of a directory: by the thousand, over restarts, against others who
//! write the same keys, and without ever taking a missing directory for an empty one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Cluster, Node, Options, wait_until};
use crate::http::{ask, get, put};

/// A node that publishes `drop` under its home as `in/`.
fn start(more: &str) -> Cluster {
    let mut cluster = Cluster::prepare(&Options { size: Some(1), ..Options::default() });
    let node = &cluster.nodes[0];
    fs::create_dir(node.home.join("drop")).unwrap();
    let text = fs::read_to_string(&node.config).unwrap();
    let entry = format!("publish:\n  drop: {{directory: drop, prefix: in/{more}}}\n");
    fs::write(&node.config, text + &entry).unwrap();
    cluster.run(0);
    cluster.nodes[0].until_ready();
    cluster
}

fn published(node: &Node) -> Option<Value> {
    Some(node.status()?["publish"][0].clone())
}

#[track_caller]
fn until_key(node: &Node, key: &str, value: Option<&str>) {
    wait_until(&format!("{key} is {value:?}"), || {
        let answer = get(&node.socket, &format!("/v1/kv/{key}"));
        let found = (answer.status == 200).then(|| answer.text());
        (found.as_deref() == value).then_some(())
    });
}

#[track_caller]
fn until_published(node: &Node, keys: u64) -> Value {
    wait_until(&format!("{keys} files are published"), || {
        published(node).filter(|it| it["state"] == "current" && it["keys"] == keys)
    })
}

fn revision(node: &Node) -> u64 {
    get(&node.socket, "/v1/kv?prefix=-").expect(200).number("quorumd-revision")
}

#[test]
fn keys_follow_files_and_hostile_names_are_told() {
    let cluster = start("");
    let node = &cluster.nodes[0];
    let drop = node.home.join("drop");
    fs::write(drop.join("a"), "1").unwrap();
    fs::write(drop.join("b"), [0, 255, 10]).unwrap();
    fs::write(drop.join(".hidden"), "x").unwrap();
    fs::write(drop.join("line\nbreak"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", drop.join("link")).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, drop.join("pipe"), pipe, mode, 0).unwrap();
    until_key(node, "in/a", Some("1"));
    let status = until_published(node, 2);
    assert_eq!(get(&node.socket, "/v1/kv/in/b").expect(200).body, [0, 255, 10]);
    assert_eq!(status["skipped_count"], 3, "{status}");
    let skipped = status["skipped"].to_string();
    for told in ["line\\\\nbreak: a name of", "link: a symbolic link", "pipe: not a plain file"] {
        assert!(skipped.contains(told), "{skipped}");
    }
    let notes = node.status().unwrap()["notes"].to_string();
    assert!(notes.contains("publish_skipped"), "{notes}");
    // By a rename, and in place.
    fs::write(drop.join(".next"), "2").unwrap();
    fs::rename(drop.join(".next"), drop.join("a")).unwrap();
    until_key(node, "in/a", Some("2"));
    fs::write(drop.join("a"), "3").unwrap();
    until_key(node, "in/a", Some("3"));
    fs::remove_file(drop.join("a")).unwrap();
    until_key(node, "in/a", None);
    let keys = get(&node.socket, "/v1/kv?prefix=in/").expect(200).json();
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1), "{keys}");
}

#[test]
fn a_file_wins_against_whoever_changes_its_key() {
    let cluster = start("");
    let node = &cluster.nodes[0];
    // What was never written for a file is never deleted.
    node.put("in/other", "theirs").expect(201);
    fs::write(node.home.join("drop/a"), "file").unwrap();
    until_key(node, "in/a", Some("file"));
    node.put("in/a", "somebody").expect(200);
    until_key(node, "in/a", Some("file"));
    ask(&node.socket, "DELETE /v1/kv/in/a", &[], b"").expect(200);
    until_key(node, "in/a", Some("file"));
    fs::remove_file(node.home.join("drop/a")).unwrap();
    until_key(node, "in/a", None);
    until_key(node, "in/other", Some("theirs"));
}

#[test]
fn a_key_that_wins_is_left_to_whoever_changed_it() {
    let cluster = start(", on_conflict: key_wins");
    let node = &cluster.nodes[0];
    node.put("in/b", "theirs").expect(201);
    for name in ["a", "b"] {
        fs::write(node.home.join("drop").join(name), "file").unwrap();
    }
    until_key(node, "in/a", Some("file"));
    node.put("in/a", "somebody").expect(200);
    wait_until("both are told", || {
        let skipped = published(node)?["skipped"].to_string();
        let told = |name| skipped.contains(&format!("{name}: somebody else has changed the key"));
        (told("a") && told("b")).then_some(())
    });
    fs::remove_file(node.home.join("drop/a")).unwrap();
    fs::write(node.home.join("drop/c"), "new").unwrap();
    until_key(node, "in/c", Some("new"));
    until_key(node, "in/a", Some("somebody"));
    until_key(node, "in/b", Some("theirs"));
}

#[test]
fn a_directory_that_is_gone_or_exchanged_for_an_empty_one_deletes_nothing() {
    let mut cluster = start("");
    let node = &cluster.nodes[0];
    let (drop, away) = (node.home.join("drop"), node.home.join("away"));
    fs::write(drop.join("a"), "1").unwrap();
    until_key(node, "in/a", Some("1"));
    fs::rename(&drop, &away).unwrap();
    let failed = |text: &str| {
        let status = wait_until(text, || {
            let status = published(node).filter(|it| it["state"] == "failed")?;
            status["reason"].as_str()?.contains(text).then_some(status)
        });
        let health = node.status().unwrap()["health"].to_string();
        assert!(health.contains("publish_failed"), "{status} {health}");
    };
    failed("cannot be read");
    fs::create_dir(&drop).unwrap();
    failed("is empty and not the directory that it was");
    until_key(node, "in/a", Some("1"));
    fs::remove_dir(&drop).unwrap();
    fs::rename(&away, &drop).unwrap();
    until_published(node, 1);
    // The same directory, emptied: that counts; while the daemon is down, too.
    let home = node.home.clone();
    cluster.nodes[0].stop();
    fs::remove_file(home.join("drop/a")).unwrap();
    cluster.run_again(0);
    until_key(&cluster.nodes[0], "in/a", None);
}

#[test]
fn ten_thousand_files_are_published_and_a_restart_writes_none_of_them() {
    let mut cluster = start("");
    let drop = cluster.nodes[0].home.join("drop");
    let names: BTreeSet<String> = (0..10_000).map(|number| format!("file-{number}")).collect();
    for name in &names {
        fs::write(drop.join(name), format!("content of {name}")).unwrap();
    }
    until_published(&cluster.nodes[0], 10_000);
    until_key(&cluster.nodes[0], "in/file-9999", Some("content of file-9999"));
    let before = revision(&cluster.nodes[0]);
    assert!(before < 2_000, "revision {before}: written one by one");
    cluster.nodes[0].kill();
    cluster.run_again(0);
    until_published(&cluster.nodes[0], 10_000);
    assert_eq!(revision(&cluster.nodes[0]), before, "written again");
    // One of them changes: one key is written.
    fs::write(drop.join("file-7"), "new").unwrap();
    until_key(&cluster.nodes[0], "in/file-7", Some("new"));
    assert_eq!(revision(&cluster.nodes[0]), before + 1);
    let resident = resident_bytes(cluster.nodes[0].pid());
    println!("10,000 files: revision {before}, {} MiB resident", resident >> 20);
    fs::rename(&drop, drop.with_extension("away")).unwrap();
    put(&cluster.nodes[0].socket, "/v1/kv/in/own", "x").expect(201);
    until_key(&cluster.nodes[0], "in/file-0", Some("content of file-0"));
}

fn resident_bytes(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/statm");
    let text = fs::read_to_string(Path::new(&path)).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
