//! SIGSTOP: a leader that sleeps for longer than its term lasts wakes up believing that it leads.

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Cluster, wait_for, wait_until};
use crate::http::{Answer, get, post, read_answer, request, send};

/// How long the leader is stopped: many election timeouts and a whole lease.
const NAP: Duration = Duration::from_secs(4);

fn lease(cluster: &Cluster, node: usize, ttl: &str) -> String {
    let answer = post(cluster.socket(node), "/v1/leases", &format!("{{\"ttl\":\"{ttl}\"}}"));
    answer.expect(201).json()["lease"].as_str().unwrap().to_owned()
}

fn keep_alive(cluster: &Cluster, node: usize, lease: &str) -> Answer {
    post(cluster.socket(node), &format!("/v1/leases/{lease}/keepalive"), "")
}

/// Another node takes over; what was sent to the sleeping leader is answered when it wakes, with
/// nothing stale: no old value, no renewal of a lease that has ended, no end of one that lives.
#[test]
fn a_stopped_leader_wakes_up_as_no_leader() {
    let cluster = Cluster::start();
    let old = cluster.leader();
    let others = cluster.others(old);
    let node = others[0];
    cluster.nodes[node].put("x", "old").expect(201);
    let kept = lease(&cluster, node, "2s");
    let left = lease(&cluster, node, "1s");
    let begun = std::time::Instant::now();
    cluster.nodes[old].signal(Signal::STOP);
    let new = cluster.leader_of(&others);
    assert_ne!(new, old);
    cluster.nodes[node].put("x", "new").expect(200);
    eprintln!("written again {:?} after the leader was stopped", begun.elapsed());

    // Sent while it sleeps: the kernel takes the connection and the bytes.
    let reads: Vec<UnixStream> = (0..4)
        .map(|_| send(cluster.socket(old), &request("GET /v1/kv/x", &[], b"")).unwrap())
        .collect();
    let target = format!("POST /v1/leases/{left}/keepalive");
    let renewal = send(cluster.socket(old), &request(&target, &[], b"")).unwrap();
    wait_until("the lease that nobody kept has ended", || {
        let gone = get(cluster.socket(node), &format!("/v1/leases/{left}")).status == 404;
        keep_alive(&cluster, node, &kept).expect(200);
        (gone && begun.elapsed() >= NAP).then_some(())
    });
    cluster.nodes[old].signal(Signal::CONT);
    for read in reads {
        let answer = read_answer(&mut BufReader::new(read), false).unwrap();
        match answer.status {
            200 => assert_eq!(answer.text(), "new", "a stale linearizable read"),
            503 | 504 => {}
            other => panic!("{other}: {}", answer.text()),
        }
    }
    let renewed = read_answer(&mut BufReader::new(renewal), false).unwrap();
    assert!(matches!(renewed.status, 404 | 503 | 504), "{}: {}", renewed.status, renewed.text());
    // Whatever the old leader believed that it had to expire, it would have done by now.
    wait_for(Duration::from_millis(500), "the old leader is awake");
    keep_alive(&cluster, node, &kept).expect(200);
    keep_alive(&cluster, old, &kept).expect(200);
    let agreed = cluster.leader();
    assert_ne!(agreed, old, "the old leader follows");
    cluster.until_equal();
    assert_eq!(get(cluster.socket(old), "/v1/kv/x").text(), "new");
}

/// A follower that sleeps disturbs nobody, and knows what it missed before it answers.
#[test]
fn a_stopped_follower_disturbs_nobody() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    let term = cluster.nodes[leader].status().unwrap()["term"].clone();
    let [asleep, awake] = cluster.others(leader);
    cluster.nodes[asleep].put("x", "old").expect(201);
    cluster.nodes[asleep].signal(Signal::STOP);
    let until = std::time::Instant::now() + Duration::from_secs(2);
    let mut written = 0;
    while std::time::Instant::now() < until {
        written += 1;
        cluster.nodes[awake].put("x", &written.to_string()).expect(200);
    }
    let read = send(cluster.socket(asleep), &request("GET /v1/kv/x", &[], b"")).unwrap();
    cluster.nodes[asleep].signal(Signal::CONT);
    let answer = read_answer(&mut BufReader::new(read), false).unwrap();
    if answer.status == 200 {
        assert_eq!(answer.text(), written.to_string(), "a stale linearizable read");
    }
    cluster.until_equal();
    let status = cluster.nodes[leader].status().unwrap();
    assert_eq!((&status["role"], &status["term"]), (&"leader".into(), &term), "no election");
}
