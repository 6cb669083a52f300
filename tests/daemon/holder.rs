//! The promise to a holder: it is told before anyone else holds, and a dead one does not hold for
//! long.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::harness::{Cluster, Options, Process, quorumctl, test_directory, wait_until};
use crate::http::{Stream, get};

const LOCK: &str = "POST /v1/locks/l";

/// The holder's node is cut off. Both streams are read by this process, so that one clock says what
/// came first. A holder with a short lease and one with a long one, at once.
#[test]
fn a_holder_is_told_lost_before_the_next_is_told_held() {
    let cluster = Cluster::with(&Options { proxied: true, ..Options::default() });
    let network = cluster.network.as_ref().unwrap();
    let leader = cluster.leader();
    for away in [cluster.others(leader)[0], leader] {
        let next = cluster.others(away)[0];
        let body = br#"{"ttl":"2s"}"#;
        let holder = Stream::open(cluster.socket(away), LOCK, &[], body);
        let (_, held) = holder.until("state", "held");
        let waiter = Stream::open(cluster.socket(next), LOCK, &[], body);
        waiter.until("state", "waiting");
        network.isolate(away);
        let cut = Instant::now();
        let (lost_at, _) = holder.until("state", "lost");
        let (held_at, next_held) = waiter.until("state", "held");
        assert!(lost_at < held_at, "held {:?} before lost", lost_at - held_at);
        eprintln!("cut; lost after {:?}, held after {:?}", lost_at - cut, held_at - cut);
        assert!(holder.line().is_none(), "lost is the last message");
        assert!(next_held["token"].as_u64() > held["token"].as_u64(), "tokens go up");
        network.heal();
        drop(waiter);
        cluster.nodes[away].until_served();
        wait_until("the lock is free", || {
            let view = get(cluster.socket(away), "/v1/locks/l").json();
            view["holders"].as_array()?.is_empty().then_some(())
        });
    }
    cluster.until_equal();
}

/// A `connection` lock ends with the process that holds it, however that ends.
#[test]
fn the_next_waiter_holds_when_the_holder_is_killed() {
    let cluster = Cluster::start();
    for node in 0..3 {
        let mut holder = Process::spawn(
            Command::new("curl")
                .args(["--silent", "--no-buffer", "--unix-socket"])
                .arg(cluster.socket(node))
                .args(["-d", "{}", "http://localhost/v1/locks/l"])
                .stdout(Stdio::null()),
        );
        let view = wait_until("curl holds", || {
            let view = get(cluster.socket(node), "/v1/locks/l").json();
            (view["holders"][0]["pid"] == holder.0.id()).then_some(view)
        });
        let waiter = Stream::open(cluster.socket((node + 1) % 3), LOCK, &[], b"{}");
        let (_, waiting) = waiter.until("state", "waiting");
        assert_eq!(waiting["holders"][0]["token"], view["holders"][0]["token"]);
        let killed = Instant::now();
        holder.0.kill().unwrap();
        let (at, held) = waiter.until("state", "held");
        eprintln!("held {:?} after the holder was killed", at - killed);
        assert!(held["token"].as_u64() > view["holders"][0]["token"].as_u64());
    }
}

/// A node that dies with its holders: their locks are free when their leases end, and not before.
#[test]
fn a_lock_outlives_its_node_for_the_time_that_was_promised() {
    let mut cluster = Cluster::start();
    let away = cluster.others(cluster.leader())[0];
    let next = cluster.others(away)[0];
    let holder = Stream::open(cluster.socket(away), LOCK, &[], br#"{"ttl":"2s"}"#);
    let (told, held) = holder.until("state", "held");
    let waiter = Stream::open(cluster.socket(next), LOCK, &[], b"{}");
    waiter.until("state", "waiting");
    cluster.nodes[away].kill();
    let (at, _) = waiter.until("state", "held");
    let promised = held["valid_for_ms"].as_u64().unwrap();
    let waited = u64::try_from((at - told).as_millis()).unwrap();
    assert!(waited >= promised, "promised {promised} ms, held by another after {waited} ms");
    cluster.run_again(away);
    cluster.until_equal();
}

/// A daemon that stops in order tells its holders, and waits until they are done: the next one
/// holds only when the command of the first has ended. The command needs a moment for that.
#[test]
fn an_orderly_stop_waits_for_the_commands_that_it_ends() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    for away in [cluster.others(leader)[0], leader] {
        let next = cluster.others(away)[0];
        let directory = test_directory();
        let file = |name: &str| directory.path().join(name);
        let (up, done) = (file("up"), file("done"));
        let script = format!(
            "trap 'sleep 0.2; touch {}; exit 0' TERM; touch {}; while :; do sleep 0.02; done",
            done.display(),
            up.display()
        );
        let mut holder = Process::spawn(
            quorumctl(cluster.socket(away))
                .args(["lock", "l", "--ttl", "20s", "--", "sh", "-c", &script])
                .stderr(Stdio::null()),
        );
        wait_until("the command runs", || up.exists().then_some(()));
        let waiter = Stream::open(cluster.socket(next), LOCK, &[], b"{}");
        waiter.until("state", "waiting");
        assert_eq!(cluster.nodes[away].stop().code(), Some(0));
        waiter.until("state", "held");
        assert!(done.exists(), "the command still ran when another held");
        assert_eq!(holder.until_ended().code(), Some(7));
        let log = cluster.nodes[away].log();
        assert!(!log.contains("are cut off"), "it waited for its whole grace: {log}");
        drop(waiter);
        cluster.run_again(away);
    }
}
