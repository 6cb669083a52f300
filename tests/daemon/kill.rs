//! SIGKILL, to one node and to all: what was acknowledged stays, once, and the rest goes on.

use quorumd::base::Rng;
use rustix::process::Signal;

use crate::harness::{Cluster, Node};
use crate::workload::Load;

/// The random numbers of a run; its seed is printed, and taken from `QUORUMD_TEST_SEED`.
pub fn random() -> Rng {
    let given = std::env::var("QUORUMD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(u64::from(std::process::id()));
    eprintln!("QUORUMD_TEST_SEED={seed}");
    Rng::new(seed)
}

/// Any one node is killed at any moment under load, the leader first: no acknowledged write is
/// lost, none is applied twice, writes go on through the other two, and the killed node comes back
/// and catches up.
#[test]
fn any_one_node_is_killed_under_load() {
    let mut rng = random();
    let mut cluster = Cluster::start();
    let load = Load::start(cluster.sockets(), 2);
    for round in 0..4 {
        load.until_more(rng.between(20, 200));
        let victim = match round {
            0 | 2 => cluster.leader(),
            _ => usize::try_from(rng.between(0, 2)).unwrap(),
        };
        cluster.nodes[victim].kill();
        load.until_more_by(&cluster.others(victim), 10);
        cluster.run_again(victim);
        load.until_more_by(&[victim], 10);
    }
    let told = load.end();
    let status = cluster.until_equal();
    for node in &cluster.nodes {
        told.verify(&node.socket);
    }
    eprintln!(
        "revision {}; {} unknown, {} unavailable, {} conflicts",
        status["revision"], told.unknown, told.unavailable, told.conflicts
    );
}

/// All nodes are killed at once, twice, in the middle of their writes: everything acknowledged is
/// there after a restart, once.
#[test]
fn all_nodes_are_killed_at_once() {
    let mut rng = random();
    let mut cluster = Cluster::start();
    let load = Load::start(cluster.sockets(), 2);
    for _ in 0..2 {
        load.until_more(rng.between(50, 300));
        cluster.nodes.iter().for_each(|node| node.signal(Signal::KILL));
        cluster.nodes.iter_mut().for_each(Node::kill);
        for node in 0..3 {
            cluster.run(node);
        }
        cluster.nodes.iter_mut().for_each(Node::until_ready);
        load.until_more_by(&[0, 1, 2], 10);
    }
    let told = load.end();
    cluster.until_equal();
    for node in &cluster.nodes {
        told.verify(&node.socket);
    }
}

/// An orderly stop under load is no different for writers, and ends with status 0.
#[test]
fn a_node_that_is_stopped_under_load_ends_cleanly() {
    let mut cluster = Cluster::start();
    let load = Load::start(cluster.sockets(), 1);
    load.until_more(50);
    let leader = cluster.leader();
    let status = cluster.nodes[leader].stop();
    assert_eq!(status.code(), Some(0), "{}", cluster.nodes[leader].log());
    load.until_more_by(&cluster.others(leader), 10);
    cluster.run_again(leader);
    let told = load.end();
    cluster.until_equal();
    told.verify(cluster.socket(leader));
}

/// A node that was away while much was written is behind when it comes back, and then is not.
#[test]
fn a_node_that_was_away_catches_up_before_it_is_ready() {
    let mut cluster = Cluster::start();
    let away = cluster.others(cluster.leader())[0];
    cluster.nodes[away].kill();
    let [writer, _] = cluster.others(away);
    let mut last = 0;
    for number in 0..200 {
        let answer = cluster.nodes[writer].put(&format!("k{number}"), "v").expect(201);
        last = answer.number("quorumd-revision");
    }
    cluster.run_again(away);
    // A local read of a node that is ready has everything that was there when it started.
    let listed = cluster.nodes[away].get("/v1/kv?prefix=k&count_only=true&consistency=local");
    assert_eq!(listed.json()["count"], 200);
    let equal = cluster.until_equal();
    assert!(equal["revision"].as_u64() >= Some(last), "{equal:#}");
}
