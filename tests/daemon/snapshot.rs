//! Members that were away longer than the log is kept: they get the whole state, also when either
//! side is killed in the middle, and whoever watches there misses nothing.

use std::fs;

use crate::harness::{Cluster, Options, wait_until};
use crate::http::{Stream, get};

/// A cluster whose log is short: thirty entries are kept.
fn cluster(rate: &str) -> Cluster {
    let mut cluster = Cluster::prepare(&Options::default());
    for node in &cluster.nodes {
        let text = fs::read_to_string(&node.config).unwrap();
        let short =
            format!("heartbeat_interval: \"60ms\", retained_entries: 30, snapshot_rate: {rate}}}");
        let changed = text.replace("heartbeat_interval: \"60ms\"}", &short);
        assert_ne!(text, changed, "the configuration has another form");
        fs::write(&node.config, changed).unwrap();
    }
    for node in 0..3 {
        cluster.run(node);
    }
    cluster.nodes.iter_mut().for_each(crate::harness::Node::until_ready);
    cluster
}

/// Writes until the leader's log begins after what a member that is away has.
fn write_past(cluster: &Cluster, node: usize, numbers: std::ops::Range<u32>, value: &str) {
    for number in numbers {
        let answer = cluster.nodes[node].put(&format!("w/{}", number % 50), value);
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
    }
}

fn applied(cluster: &Cluster, node: usize) -> u64 {
    let status = cluster.nodes[node].status();
    status.and_then(|status| status["applied_index"].as_u64()).unwrap_or(0)
}

/// The revisions of the next so many changes.
fn revisions(stream: &Stream, until: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| *last < until) {
        let message = stream.next();
        if message["type"] == "changes" {
            seen.push(message["revision"].as_u64().unwrap());
        }
    }
    seen
}

#[test]
fn a_member_that_was_away_for_long_gets_a_snapshot_and_its_watchers_go_on() {
    let mut cluster = cluster("32MiB");
    let leader = cluster.leader();
    let victim = cluster.others(leader)[0];
    write_past(&cluster, leader, 0..10, "before");
    let seen = get(&cluster.nodes[victim].socket, "/v1/kv?prefix=w").expect(200);
    let seen = seen.number("quorumd-revision");
    cluster.nodes[victim].kill();
    write_past(&cluster, leader, 10..300, "meanwhile");
    let before = applied(&cluster, leader);
    cluster.run_again(victim);
    wait_until("the member has caught up", || (applied(&cluster, victim) >= before).then_some(()));
    let log = cluster.nodes[victim].log();
    assert!(log.contains("a state from the leader was installed"), "{log}");
    let header = seen.to_string();
    let watch = Stream::open(
        &cluster.nodes[victim].socket,
        "GET /v1/watch?prefix=w/",
        &[("Last-Event-ID", &header)],
        b"",
    );
    write_past(&cluster, leader, 300..310, "after");
    let newest = get(&cluster.nodes[leader].socket, "/v1/kv?prefix=w").expect(200);
    let newest = newest.number("quorumd-revision");
    let delivered = revisions(&watch, newest);
    assert_eq!(delivered, (seen + 1..=newest).collect::<Vec<_>>(), "each once, in order");
    cluster.until_equal();
}

#[test]
fn receiver_and_sender_are_killed_in_the_middle() {
    // Slow enough that both can be hit: some ten megabytes at two a second.
    let mut cluster = cluster("2MiB");
    let leader = cluster.leader();
    let victim = cluster.others(leader)[0];
    cluster.nodes[victim].kill();
    let big = "v".repeat(200_000);
    write_past(&cluster, leader, 0..50, &big);
    write_past(&cluster, leader, 50..200, "small");
    let in_the_middle = |cluster: &Cluster, node: usize| {
        wait_until("a snapshot is on its way", || {
            let status = cluster.nodes[node].status()?;
            let snapshots = status["snapshots"].as_array()?;
            let arrives = |it: &&serde_json::Value| {
                it["outgoing"] == false && it["rows_done"].as_u64() > Some(0)
            };
            snapshots.iter().find(arrives).map(drop)
        });
    };
    cluster.run(victim);
    in_the_middle(&cluster, victim);
    cluster.nodes[victim].kill();
    cluster.run(victim);
    in_the_middle(&cluster, victim);
    let sender = cluster.leader_of(&[leader]);
    cluster.nodes[sender].kill();
    cluster.nodes[victim].until_ready();
    wait_until("the next leader sends its own", || {
        cluster.nodes[victim].log().contains("a state from the leader was installed").then_some(())
    });
    cluster.run_again(sender);
    cluster.until_equal();
}
