//! `quorumd dev`: a real cluster that comes up, survives, stops, and leaves no process behind.

use rustix::process::Signal;

use crate::started::{Dev, ask, ask_until, output_of, runs, signal_process, start, until};

/// The tour of the README in one test, with the ends that a tour does not have: the starter killed
/// without a chance to clean up, and the whole cluster started again from what is on disk.
#[test]
fn a_cluster_survives_its_nodes_and_its_starter() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path().join("c");
    let mut dev = Dev::start(&home, &[]);
    let names: Vec<_> = dev.nodes.iter().map(|node| node["name"].clone()).collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    ask_until(&dev.socket(0), "PUT", "/v1/kv/first", "one");
    let read = ask(&dev.socket(2), "GET", "/v1/kv/first", "").expect("an answer");
    assert_eq!((read.status, read.body.as_str()), (200, "one"));

    // Any node may die; the others are told of, and go on.
    signal_process(dev.pid(1), Signal::KILL);
    until("dev tells of the death", || dev.process.said().contains("node n2"));
    ask_until(&dev.socket(0), "PUT", "/v1/kv/second", "two");

    // And may come back by hand, as dev says.
    let config = dev.config(1);
    let mut again = start(&["run", "--config", &config], &directory.path().join("n2.out"));
    let read = ask_until(&dev.socket(1), "GET", "/v1/kv/second", "");
    assert_eq!(read.body, "two");
    again.signal(Signal::TERM);
    assert_eq!(again.ended().code(), Some(0), "{}", again.said());

    // SIGKILL leaves no time to tell the children.
    dev.process.signal(Signal::KILL);
    dev.process.ended();
    until("no node outlives the starter", || !runs(dev.pid(0)) && !runs(dev.pid(2)));

    let mut dev = Dev::start(&home, &["--nodes", "3"]);
    for (key, value) in [("first", "one"), ("second", "two")] {
        let read = ask_until(&dev.socket(1), "GET", &format!("/v1/kv/{key}"), "");
        assert_eq!(read.body, value, "{key} was lost");
    }
    dev.process.signal(Signal::TERM);
    assert_eq!(dev.process.ended().code(), Some(0), "{}", dev.process.said());
    assert!(!home.join("cluster.json").exists(), "cluster.json names processes that are gone");
    for node in 0..3 {
        assert!(!runs(dev.pid(node)), "a node outlived an orderly stop");
        assert!(!dev.socket(node).exists(), "a node left its socket behind");
    }
}

#[test]
fn a_directory_is_used_once_at_a_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path().join("c");
    let mut dev = Dev::start(&home, &["--nodes", "1"]);
    let path = home.to_str().expect("a path that is text");
    let second = output_of(&["dev", "--dir", path]);
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another `quorumd dev` runs"), "{said}");

    // Nor can a node of it be started a second time, and the first does not notice.
    let second = output_of(&["run", "--config", &dev.config(0)]);
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use") && said.contains(&dev.pid(0).to_string()), "{said}");
    ask_until(&dev.socket(0), "PUT", "/v1/kv/a", "b");

    dev.process.signal(Signal::INT);
    assert_eq!(dev.process.ended().code(), Some(0), "{}", dev.process.said());
}
