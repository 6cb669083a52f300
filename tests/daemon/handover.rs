//! The leader is stopped in order: the others have another one before it ends, and no caller
//! notices.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use crate::harness::Cluster;
use crate::http::put;
use crate::workload::Load;

/// One writer that looks at the clock.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Writer {
    fn start(socket: &Path) -> Self {
        let (stop, socket) = (Arc::new(AtomicBool::new(false)), socket.to_owned());
        let stopped = stop.clone();
        let thread = spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let status = put(&socket, "/v1/kv/clock", "x").status;
                assert!(status == 200 || status == 201, "{status}");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        Self { stop, thread }
    }

    /// How long its slowest write took.
    fn end(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Writes go on through the two other nodes while the leader is stopped, again and again. None may
/// fail, and each time the term grows by exactly one: nobody waited for an election timer.
#[test]
fn a_leader_that_is_stopped_hands_over_first() {
    let mut cluster = Cluster::start();
    for round in 0..3 {
        let leader = cluster.leader();
        let others = cluster.others(leader);
        let term = cluster.nodes[leader].status().unwrap()["term"].as_u64().unwrap();
        let sockets = others.map(|node| cluster.socket(node).to_owned());
        let load = Load::start(sockets.to_vec(), 4);
        let clock = Writer::start(&sockets[0]);
        load.until_more(200);
        let before = Instant::now();
        assert_eq!(cluster.nodes[leader].stop().code(), Some(0));
        let took = before.elapsed();
        load.until_more(200);
        let slowest = clock.end();
        let told = load.end();
        assert_eq!((told.unavailable, told.unknown), (0, 0), "round {round}: a request failed");
        let next = cluster.leader_of(&others);
        let after = cluster.nodes[next].status().unwrap()["term"].as_u64().unwrap();
        assert_eq!(after, term + 1, "round {round}: there was a contest");
        assert!(cluster.nodes[leader].log().contains("handing the lead over"));
        eprintln!("round {round}: stopped within {took:?}, slowest write meanwhile {slowest:?}");
        if round == 0 {
            // Later rounds go on with counters that are not theirs alone.
            told.verify(cluster.socket(next));
        }
        cluster.run_again(leader);
    }
    cluster.until_equal();
}
