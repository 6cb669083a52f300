//! `quorumctl watch --exec`: every change is dealt with once and in order, over the ends of the
//! watch, of the daemon and of the history.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, Process, quorumctl, signal, test_directory, wait_until};
use crate::http::ask;

/// A watch of `w/` with a state file, whose command writes what it is handed to the file `log`.
struct Watcher {
    directory: tempfile::TempDir,
    process: Option<Process>,
}

impl Watcher {
    fn new() -> Self {
        Self { directory: test_directory(), process: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Starts the watch with more words on its command line. The script runs after the event was
    /// written down; `D` is the directory.
    fn start(&mut self, socket: &Path, words: &[&str], script: &str) {
        let script = format!("cat >> $D/log; {script}");
        let mut command = quorumctl(socket);
        command.args(["watch", "--prefix", "w/", "--state"]).arg(self.path("state")).args(words);
        command.args(["--exec", "sh", "-c", &script]).env("D", self.directory.path());
        command
            .stderr(fs::File::options().create(true).append(true).open(self.path("err")).unwrap());
        self.process = Some(Process::spawn(&mut command));
    }

    /// Waits until it has noted where it begins.
    fn until_noted(&self) {
        wait_until("it is noted", || self.path("state").exists().then_some(()));
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().0.id()
    }

    fn end(&mut self, sent: Signal) -> Option<i32> {
        signal(self.pid(), sent);
        self.status()
    }

    fn status(&mut self) -> Option<i32> {
        self.process.take().unwrap().until_ended().code()
    }

    fn events(&self) -> Vec<Value> {
        let text = self.text("log");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The values in the order in which they were handed over.
    fn values(&self) -> Vec<String> {
        let mut all = Vec::new();
        for event in self.events() {
            let list = event.get("events").or(event.get("keys")).unwrap();
            let values = list.as_array().unwrap().iter();
            all.extend(values.map(|one| one["value"].as_str().unwrap_or("-").to_owned()));
        }
        all
    }

    #[track_caller]
    fn until_values(&self, wanted: &[&str]) {
        wait_until(&format!("{wanted:?} come"), || {
            let values = self.values();
            assert!(values.len() <= wanted.len(), "{values:?}: {}", self.text("err"));
            (values == wanted).then_some(())
        });
    }
}

#[test]
fn every_change_is_dealt_with_once_over_ends_of_watch_and_daemon() {
    let mut cluster = Cluster::start();
    let node = cluster.others(cluster.leader())[0];
    let other = cluster.others(node)[1];
    let mut watcher = Watcher::new();
    cluster.nodes[other].put("w/a", "before");
    let socket = cluster.socket(node).to_owned();
    watcher.start(&socket, &[], "");
    watcher.until_noted();
    cluster.nodes[other].put("w/a", "1");
    watcher.until_values(&["1"]);
    assert_eq!(watcher.end(Signal::TERM), Some(0));
    // While nobody watches.
    cluster.nodes[other].put("w/b", "2");
    cluster.nodes[other].put("x/b", "not watched");
    cluster.nodes[other].put("w/a", "3");
    watcher.start(&socket, &[], "");
    watcher.until_values(&["1", "2", "3"]);
    // The daemon goes and comes back; so does one that is not there when the watch begins.
    cluster.nodes[node].kill();
    cluster.nodes[other].put("w/a", "4");
    cluster.run_again(node);
    watcher.until_values(&["1", "2", "3", "4"]);
    assert_eq!(watcher.end(Signal::INT), Some(0));
    cluster.nodes[node].kill();
    watcher.start(&socket, &[], "");
    wait_until("it waits", || watcher.text("err").contains("cannot reach").then_some(()));
    cluster.nodes[other].put("w/a", "5");
    cluster.run_again(node);
    watcher.until_values(&["1", "2", "3", "4", "5"]);
    let revisions: Vec<u64> =
        watcher.events().iter().map(|event| event["revision"].as_u64().unwrap()).collect();
    assert!(revisions.is_sorted_by(|one, next| one < next), "{revisions:?}");
}

/// Of a command that does not end in order nothing is noted: its event comes again.
#[test]
fn a_failure_is_handled_as_asked_and_a_kill_repeats_the_event() {
    let cluster = Cluster::start();
    let socket = cluster.socket(0).to_owned();
    let mut watcher = Watcher::new();
    let bad_until_good = "[ -e $D/good ] || exit 9";
    watcher.start(&socket, &[], bad_until_good);
    watcher.until_noted();
    cluster.nodes[1].put("w/a", "1");
    assert_eq!(watcher.status(), Some(9));
    watcher.start(&socket, &["--on-error", "skip"], bad_until_good);
    cluster.nodes[1].put("w/a", "2");
    watcher.until_values(&["1", "1", "2"]);
    wait_until("both were skipped", || {
        (watcher.text("err").matches("skipped").count() == 2).then_some(())
    });
    assert_eq!(watcher.end(Signal::TERM), Some(0));
    watcher.start(&socket, &["--on-error", "retry"], bad_until_good);
    cluster.nodes[1].put("w/a", "3");
    wait_until("it is tried again", || (watcher.values().len() >= 5).then_some(()));
    assert!(watcher.values()[3..].iter().all(|value| value == "3"));
    fs::write(watcher.path("good"), "").unwrap();
    cluster.nodes[1].put("w/a", "4");
    wait_until("it goes on", || (watcher.values().last()? == "4").then_some(()));
    assert_eq!(watcher.end(Signal::TERM), Some(0));

    let slow = "echo > $D/up; while [ ! -e $D/go ]; do sleep 0.02; done; echo > $D/done";
    fs::remove_file(watcher.path("log")).unwrap();
    watcher.start(&socket, &[], slow);
    cluster.nodes[1].put("w/a", "5");
    wait_until("it runs", || watcher.path("up").exists().then_some(()));
    assert_eq!(watcher.end(Signal::KILL), None);
    fs::remove_file(watcher.path("up")).unwrap();
    watcher.start(&socket, &[], slow);
    wait_until("it runs again", || watcher.path("up").exists().then_some(()));
    watcher.until_values(&["5", "5"]);
    // A signal waits for the command, and the next start begins after it.
    signal(watcher.pid(), Signal::TERM);
    fs::write(watcher.path("go"), "").unwrap();
    assert_eq!(watcher.status(), Some(0));
    assert!(watcher.path("done").exists());
    cluster.nodes[1].put("w/a", "6");
    watcher.start(&socket, &[], slow);
    watcher.until_values(&["5", "5", "6"]);
}

#[test]
fn what_came_while_the_command_ran_is_one_event_if_asked_for() {
    let cluster = Cluster::start();
    let mut watcher = Watcher::new();
    let slow = "echo > $D/up; while [ ! -e $D/go ]; do sleep 0.02; done";
    let socket = cluster.socket(0).to_owned();
    cluster.nodes[1].put("w/0", "at first");
    watcher.start(&socket, &["--initial", "--coalesce"], slow);
    wait_until("it runs", || watcher.path("up").exists().then_some(()));
    watcher.until_values(&["at first"]);
    assert_eq!(watcher.events()[0]["reason"], "initial");
    for value in ["1", "2", "3"] {
        cluster.nodes[1].put("w/a", value);
        cluster.nodes[1].put("w/b", value);
    }
    cluster.nodes[0].until_served();
    wait_until("all of them are read", || {
        // The daemon's own figure of what watchers have been sent is not precise enough: a further
        // change is let through only when the command may end.
        let status = cluster.nodes[0].status()?;
        (status["applied_index"] == status["commit_index"]).then_some(())
    });
    fs::write(watcher.path("go"), "").unwrap();
    wait_until("the newest has come", || {
        let values = watcher.values();
        values.ends_with(&["3".to_owned(), "3".to_owned()]).then_some(())
    });
    let events = watcher.events();
    let dealt: u64 = events[1..].iter().map(|event| event["revisions"].as_u64().unwrap()).sum();
    assert_eq!(dealt, 6, "{events:?}");
    assert!(events.len() < 6, "{events:?}");
}

/// What happened while nobody watched is not known any more: the state says so.
#[test]
fn a_history_that_is_gone_is_told_by_a_snapshot() {
    let cluster = Cluster::start();
    let socket = cluster.socket(0).to_owned();
    let mut watcher = Watcher::new();
    watcher.start(&socket, &[], "");
    watcher.until_noted();
    cluster.nodes[1].put("w/a", "1");
    watcher.until_values(&["1"]);
    wait_until("it is noted", || {
        let noted: Value = serde_json::from_str(&watcher.text("state")).ok()?;
        (noted["revision"] == watcher.events()[0]["revision"]).then_some(())
    });
    assert_eq!(watcher.end(Signal::TERM), Some(0));
    cluster.nodes[1].put("w/a", "2");
    cluster.nodes[1].put("w/b", "3");
    let last = cluster.nodes[1].put("w/a", "4").json()["revision"].as_u64().unwrap();
    let body = format!(r#"{{"revision":{last}}}"#);
    ask(&socket, "POST /v1/compact", &[], body.as_bytes()).expect(200);
    watcher.start(&socket, &["--initial=skip"], "");
    watcher.until_values(&["1", "4", "3"]);
    let event = &watcher.events()[1];
    assert_eq!((&event["type"], &event["reason"]), (&"snapshot".into(), &"resync".into()));
    cluster.nodes[1].put("w/b", "5");
    watcher.until_values(&["1", "4", "3", "5"]);
    let other = ["watch", "--prefix", "v/", "--state"];
    let mut command = quorumctl(&socket);
    assert_eq!(watcher.end(Signal::TERM), Some(0));
    let output = command.args(other).arg(watcher.path("state")).args(["--exec", "true"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2), "the state is of another watch");
}
