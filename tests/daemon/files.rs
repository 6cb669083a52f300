//! Files that follow keys: on every host, whole, checked, reloaded once, and kept when anything
//! fails.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk_full::SmallDisk;
use crate::harness::{Cluster, Node, Options, quorumctl, quorumd, wait_for, wait_until};
use crate::http::{ask, get, put};

/// A cluster of `size` nodes, each with these lines in its configuration, in which `HOME` is the
/// node's own directory; `HOME/out` is there.
fn start(size: usize, lines: &str) -> Cluster {
    let mut cluster = prepare(size, lines);
    for node in 0..size {
        cluster.run(node);
    }
    cluster.nodes.iter_mut().for_each(Node::until_ready);
    cluster
}

fn prepare(size: usize, lines: &str) -> Cluster {
    let cluster = Cluster::prepare(&Options { size: Some(size), ..Options::default() });
    for node in &cluster.nodes {
        fs::create_dir(node.home.join("out")).unwrap();
        configure(node, lines);
    }
    cluster
}

/// Adds lines to the configuration of a node.
fn configure(node: &Node, lines: &str) {
    let text = fs::read_to_string(&node.config).unwrap();
    let lines = lines.replace("HOME", node.home.to_str().unwrap());
    fs::write(&node.config, text + &lines).unwrap();
}

fn out(node: &Node, name: &str) -> PathBuf {
    node.home.join("out").join(name)
}

#[track_caller]
fn until_file(node: &Node, name: &str, content: &str) {
    let path = out(node, name);
    wait_until(&format!("{name} of {} is {content:?}", node.name), || {
        (fs::read_to_string(&path).ok()? == content).then_some(())
    });
}

/// What the status says of a file.
fn file_status(node: &Node, name: &str) -> Option<Value> {
    let status = node.status()?;
    status["files"].as_array()?.iter().find(|file| file["name"] == name).cloned()
}

#[track_caller]
fn until_state(node: &Node, name: &str, state: &str) -> Value {
    wait_until(&format!("{name} is {state}"), || {
        file_status(node, name).filter(|file| file["state"] == state)
    })
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

const ONE: &str = "\
files_directories: [HOME/out]
files:
  one: {path: HOME/out/one, key: app/one, mode: \"0604\", min_interval: 0s}
";

#[test]
fn a_key_is_followed_on_every_host_within_moments() {
    let cluster = start(3, ONE);
    cluster.until_equal();
    for node in &cluster.nodes {
        assert_eq!(file_status(node, "one").unwrap()["state"], "waiting");
    }
    let mut took = Vec::new();
    for round in 0..20 {
        let content = format!("round {round}");
        let begun = Instant::now();
        cluster.nodes[round % 3].put("app/one", &content);
        for node in &cluster.nodes {
            while fs::read_to_string(out(node, "one")).ok().as_ref() != Some(&content) {
                assert!(begun.elapsed() < Duration::from_secs(20), "{}", node.name);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        took.push(begun.elapsed());
    }
    took.sort();
    println!("key to three files: median {:?}, longest {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_secs(1), "{took:?}");
    for node in &cluster.nodes {
        let meta = fs::metadata(out(node, "one")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o604);
        let status = until_state(node, "one", "current");
        assert_eq!(status["path"], out(node, "one").to_str().unwrap());
        assert!(status["revision"].as_u64().unwrap() > 1);
        let metrics = get(&node.socket, "/metrics").expect(200).text();
        assert!(metrics.contains("quorumd_file_current{file=\"one\"} 1"), "{metrics}");
    }
    let shown = quorumctl(cluster.socket(0)).arg("status").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("FILE") && shown.contains("current"), "{shown}");
    // A key that is gone leaves its file, and says so.
    ask(cluster.socket(0), "DELETE /v1/kv/app/one", &[], b"").expect(200);
    let status = until_state(&cluster.nodes[1], "one", "stale");
    assert!(status["reason"].as_str().unwrap().contains("does not exist"), "{status}");
    assert!(out(&cluster.nodes[1], "one").exists());
}

/// With a check that refuses content with "bad" in it, and a reload that leaves a line each time.
const CHECKED: &str = "\
files_directories: [HOME/out]
files:
  conf:
    path: HOME/out/conf
    template_text: |
      {% for it in keys('up/') %}
      server {{ it.name }} {{ it.value }};
      {% endfor %}
    prefixes: [up/]
    check: [/bin/sh, -c, 'echo checked >> HOME/checks; ! grep -n bad \"$1\"', sh, '{}']
    reload: [/bin/sh, -c, 'cat \"$1\" > HOME/seen; echo reloaded >> HOME/reloads', sh, '{}']
";

#[test]
fn what_is_refused_by_the_check_changes_nothing_and_each_change_is_reloaded_once() {
    let mut cluster = start(1, CHECKED);
    let (home, socket) = (cluster.nodes[0].home.clone(), cluster.nodes[0].socket.clone());
    let (checks, reloads) = (home.join("checks"), home.join("reloads"));
    // No key yet: the template makes an empty file of that.
    until_file(&cluster.nodes[0], "conf", "");
    put(&socket, "/v1/kv/up/a", "1").expect(201);
    until_file(&cluster.nodes[0], "conf", "server a 1;\n");
    wait_until("it is reloaded", || (lines(&reloads) == 2).then_some(()));
    put(&socket, "/v1/kv/up/b", "bad").expect(201);
    let status = until_state(&cluster.nodes[0], "conf", "failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.starts_with("the check failed: ") && reason.contains("2:server b bad;"));
    let health = cluster.nodes[0].status().unwrap()["health"].clone();
    assert!(health.to_string().contains("\"file_failed\""), "{health}");
    let before = fs::metadata(out(&cluster.nodes[0], "conf")).unwrap();
    assert_eq!(fs::read_to_string(home.join("seen")).unwrap(), "server a 1;\n");
    put(&socket, "/v1/kv/up/b", "2").expect(200);
    until_file(&cluster.nodes[0], "conf", "server a 1;\nserver b 2;\n");
    until_state(&cluster.nodes[0], "conf", "current");
    assert_ne!(fs::metadata(out(&cluster.nodes[0], "conf")).unwrap().ino(), before.ino());
    assert_eq!(lines(&reloads), 3, "one for each content");
    // A burst is a few renderings, not hundreds.
    for round in 0..200 {
        put(&socket, "/v1/kv/up/c", &round.to_string()).expect(if round == 0 { 201 } else { 200 });
    }
    until_file(&cluster.nodes[0], "conf", "server a 1;\nserver b 2;\nserver c 199;\n");
    // The file is there before its reload is done; the status says so only after it.
    let newest = get(&socket, "/v1/kv?prefix=-").expect(200).number("quorumd-revision");
    wait_until("the reload is done", || {
        let status = file_status(&cluster.nodes[0], "conf")?;
        (status["state"] == "current" && status["revision"].as_u64()? >= newest).then_some(())
    });
    let reloaded = lines(&reloads);
    assert!(reloaded < 60, "{reloaded} reloads");
    // A restart writes, checks and reloads nothing.
    let checked = lines(&checks);
    let stat = |path: &Path| fs::metadata(path).map(|it| (it.ino(), it.ctime_nsec(), it.mtime()));
    let before = stat(&out(&cluster.nodes[0], "conf")).unwrap();
    for kill in [true, false] {
        if kill {
            cluster.nodes[0].kill();
        } else {
            cluster.nodes[0].stop();
        }
        cluster.run_again(0);
        until_state(&cluster.nodes[0], "conf", "current");
        assert_eq!(stat(&out(&cluster.nodes[0], "conf")).unwrap(), before);
    }
    assert_eq!((lines(&reloads), lines(&checks)), (reloaded, checked));
    // What somebody else wrote is set right at the next occasion, and reloaded.
    fs::write(out(&cluster.nodes[0], "conf"), "somebody else").unwrap();
    put(&socket, "/v1/kv/up/c", "200").expect(200);
    until_file(&cluster.nodes[0], "conf", "server a 1;\nserver b 2;\nserver c 200;\n");
}

const RELOADED: &str = "\
files_directories: [HOME/out]
files:
  one:
    path: HOME/out/one
    key: one
    reload: [/bin/sh, -c, 'echo begun >> HOME/begun; test -e HOME/allow || exec sleep 100; \
echo done >> HOME/done']
";

/// A daemon that is killed between the new file and the end of its reload does it again when it is
/// started, and not once more after that.
#[test]
fn a_reload_that_was_not_done_is_done_after_a_crash() {
    let mut cluster = start(1, RELOADED);
    let home = cluster.nodes[0].home.clone();
    cluster.nodes[0].put("one", "1").expect(201);
    wait_until("the reload has begun", || (lines(&home.join("begun")) == 1).then_some(()));
    until_file(&cluster.nodes[0], "one", "1");
    cluster.nodes[0].kill();
    fs::write(home.join("allow"), "").unwrap();
    cluster.run_again(0);
    wait_until("the reload is done", || (lines(&home.join("done")) == 1).then_some(()));
    until_state(&cluster.nodes[0], "one", "current");
    cluster.nodes[0].kill();
    cluster.run_again(0);
    until_state(&cluster.nodes[0], "one", "current");
    assert_eq!((lines(&home.join("begun")), lines(&home.join("done"))), (2, 1));
}

/// A reload that fails is reported and repeated, without another write.
#[test]
fn a_reload_that_fails_is_repeated() {
    let failing = RELOADED.replace("exec sleep 100", "exit 7");
    let cluster = start(1, &failing);
    let home = &cluster.nodes[0].home;
    cluster.nodes[0].put("one", "1").expect(201);
    let status = until_state(&cluster.nodes[0], "one", "failed");
    assert!(status["reason"].as_str().unwrap().contains("exit status: 7"), "{status}");
    let before = fs::metadata(out(&cluster.nodes[0], "one")).unwrap().ino();
    wait_until("it is tried again", || (lines(&home.join("begun")) >= 2).then_some(()));
    fs::write(home.join("allow"), "").unwrap();
    until_state(&cluster.nodes[0], "one", "current");
    assert_eq!(fs::metadata(out(&cluster.nodes[0], "one")).unwrap().ino(), before);
    assert_eq!(lines(&home.join("done")), 1);
}

/// PEERS 25: neither a node alone nor one that has just started answers with nothing.
#[test]
fn the_last_good_file_stays_without_a_quorum_and_before_the_node_has_caught_up() {
    let mut cluster = start(3, ONE);
    cluster.nodes[0].put("app/one", "good").expect(201);
    for node in &cluster.nodes {
        until_file(node, "one", "good");
    }
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let status = until_state(&cluster.nodes[0], "one", "stale");
    assert_eq!(status["reason"], "no leader is known");
    cluster.nodes[0].kill();
    let before = fs::metadata(out(&cluster.nodes[0], "one")).unwrap();
    cluster.run(0);
    until_state(&cluster.nodes[0], "one", "stale");
    wait_for(Duration::from_millis(700), "several election timeouts pass");
    assert_eq!(until_state(&cluster.nodes[0], "one", "stale")["reason"], "no leader is known");
    let after = fs::metadata(out(&cluster.nodes[0], "one")).unwrap();
    assert_eq!((after.ino(), after.ctime_nsec()), (before.ino(), before.ctime_nsec()));
    cluster.run(1);
    until_state(&cluster.nodes[0], "one", "current");
    until_file(&cluster.nodes[0], "one", "good");
}

#[test]
fn one_file_that_cannot_be_written_stops_no_other() {
    let entries = "\
files_directories: [HOME/out]
files:
  link: {path: HOME/out/link, key: k}
  far: {path: HOME/out/nowhere/a, key: k}
  gone: {path: HOME/out/gone, key: k, on_missing: remove}
  user: {path: HOME/out/user, key: k, owner: nobody-of-this-name}
  all: {path: HOME/out/all, prefix: k/, format: env}
  good: {path: HOME/out/good, key: k, owner: \"0\"}
";
    let cluster = prepare(1, entries);
    let node = &cluster.nodes[0];
    let victim = node.home.join("victim");
    fs::write(&victim, "mine").unwrap();
    symlink(&victim, out(node, "link")).unwrap();
    let checked = quorumd().args(["check", "--config"]).arg(&node.config).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(said.contains("files.user: there is no user nobody-of-this-name"), "{said}");
    let mut cluster = cluster;
    cluster.run(0);
    cluster.nodes[0].until_ready();
    let node = &cluster.nodes[0];
    node.put("k", "v").expect(201);
    node.put("k/x", "v").expect(201);
    if rustix::process::geteuid().is_root() {
        until_file(node, "good", "v");
    }
    until_file(node, "gone", "v");
    until_file(node, "all", "X=\"v\"\n");
    let reasons = [
        ("link", "is a symbolic link: only a plain file is ever replaced"),
        ("far", "cannot open"),
        ("user", "there is no user nobody-of-this-name on this host"),
    ];
    for (name, reason) in reasons {
        let status = until_state(node, name, "failed");
        assert!(status["reason"].as_str().unwrap().contains(reason), "{status}");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    ask(&node.socket, "DELETE /v1/kv/k", &[], b"").expect(200);
    wait_until("it is removed", || (!out(node, "gone").exists()).then_some(()));
    until_state(node, "gone", "current");
    assert!(out(node, "good").exists());
}

/// A disk without room, and one that cannot be written: the last good file stays, and it goes on by
/// itself when that is over.
#[test]
fn a_full_or_read_only_disk_keeps_the_last_good_file() {
    let mut cluster = prepare(1, &ONE.replace("HOME/out", "HOME/small"));
    let home = cluster.nodes[0].home.clone();
    let Some(disk) = SmallDisk::mount(home.join("small"), "256k") else { return };
    fs::set_permissions(home.join("small"), fs::Permissions::from_mode(0o700)).unwrap();
    cluster.run(0);
    cluster.nodes[0].until_ready();
    let node = &cluster.nodes[0];
    let path = home.join("small/one");
    let holds = |text: &str| fs::read_to_string(&path).is_ok_and(|found| found == text);
    node.put("app/one", "good").expect(201);
    wait_until("it is there", || holds("good").then_some(()));
    node.put("app/one", &"x".repeat(400_000)).expect(200);
    let status = until_state(node, "one", "failed");
    assert!(status["reason"].as_str().unwrap().contains("No space left"), "{status}");
    assert!(holds("good"));
    assert_eq!(fs::read_dir(home.join("small")).unwrap().count(), 1, "nothing is left over");
    node.put("app/one", "better").expect(200);
    wait_until("it goes on", || holds("better").then_some(()));
    let remount = |mode: &str| {
        let options = format!("remount,{mode}");
        let done = Command::new("mount").args(["-o", &options]).arg(home.join("small")).status();
        assert!(done.unwrap().success());
    };
    remount("ro");
    node.put("app/one", "best").expect(200);
    let status = until_state(node, "one", "failed");
    assert!(status["reason"].as_str().unwrap().contains("Read-only file system"), "{status}");
    assert!(holds("better"));
    remount("rw");
    wait_until("it is tried again", || holds("best").then_some(()));
    cluster.nodes[0].stop();
    drop(disk);
}

/// A store that was put back to an older state without saying so does not put the file back.
#[test]
fn a_file_is_never_made_of_an_older_state_than_before() {
    let mut cluster = start(1, ONE);
    cluster.nodes[0].put("app/one", "new").expect(201);
    until_state(&cluster.nodes[0], "one", "current");
    cluster.nodes[0].stop();
    let memory = cluster.nodes[0].data.join("files/one.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&memory).unwrap()).unwrap();
    record["revision"] = 1_000_000.into();
    fs::write(&memory, record.to_string()).unwrap();
    cluster.run_again(0);
    let node = &cluster.nodes[0];
    node.put("app/one", "old").expect(200);
    wait_until("it is told why", || {
        let status = file_status(node, "one").filter(|status| status["state"] == "stale")?;
        status["reason"].as_str()?.contains("is older than").then_some(())
    });
    assert_eq!(fs::read_to_string(out(node, "one")).unwrap(), "new");
    // Of another cluster it says nothing.
    record["cluster"] = "0000000000000000".into();
    fs::write(&memory, record.to_string()).unwrap();
    cluster.nodes[0].stop();
    cluster.run_again(0);
    until_file(&cluster.nodes[0], "one", "old");
}
