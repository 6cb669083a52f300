//! What learners cost the leader: its messages and bytes, idle and under a fixed load of writes.
//!
//! The whole table: `QUORUMD_SIM_LEARNERS=200 cargo test --profile sim --test sim learners --
//! --nocapture`. The numbers are in `docs/benchmarks.md`.

use bytes::Bytes;
use quorumd::raft::Role;
use quorumd::state::{Condition, Operation};

use crate::cluster::Cluster;
use crate::invariants::histories::Asked;
use crate::run::Plan;
use crate::trace::Trace;
use crate::workload::Purpose;

/// Writes per simulated second, and the bytes of each value.
const WRITES: u64 = 200;
const VALUE_BYTES: usize = 100;

const SECOND: u64 = 1_000_000;

/// Messages and bytes per second, from and to the leader.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    sent: u64,
    sent_bytes: u64,
    received: u64,
    received_bytes: u64,
}

#[test]
fn learners_cost_the_leader_little() {
    let most = crate::number("QUORUMD_SIM_LEARNERS").unwrap_or(8);
    let counts: Vec<u64> = [0, 20, 200].into_iter().filter(|&n| n < most).chain([most]).collect();
    eprintln!("| learners | load | messages out/s | kB out/s | messages in/s | kB in/s |");
    eprintln!("|---|---|---|---|---|---|");
    let mut idle = Vec::new();
    for &learners in &counts {
        let (still, busy) = measure(learners);
        show(learners, "idle", still);
        show(learners, &format!("{WRITES} writes/s"), busy);
        idle.push((learners, still));
    }
    // Idle learners are beaten to less often than voters: less than one message each way in a
    // hundred milliseconds.
    let (learners, with) = idle[idle.len() - 1];
    let without = idle[0].1;
    let each = (with.sent - without.sent) / learners.max(1);
    assert!(each <= 10, "each idle learner costs {each} messages a second");
}

fn show(learners: u64, load: &str, rate: Rate) {
    eprintln!(
        "| {learners} | {load} | {} | {} | {} | {} |",
        rate.sent,
        rate.sent_bytes / 1_000,
        rate.received,
        rate.received_bytes / 1_000
    );
}

fn measure(learners: u64) -> (Rate, Rate) {
    let plan = Plan { learners: Some(learners), ..Plan::of(1) };
    let mut cluster = Cluster::new(plan, Trace::new(false));
    cluster.run_until(5 * SECOND);
    let leader = leader(&cluster);
    let idle = during(&mut cluster, leader, 5, |_| {});
    let busy = during(&mut cluster, leader, 3, |cluster| {
        cluster.workload.numbered += 1;
        let op = cluster.workload.numbered;
        let key = Bytes::from(format!("k{}", op % 100));
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        let operation = Operation::Put { key, value, lease: None, condition: Condition::None };
        let what = (op, Asked::Other, Purpose::Write(None));
        cluster.submit(0, leader, what, operation, None);
    });
    cluster.run_until(cluster.now + SECOND);
    let acked = cluster.oracle.histories.acked;
    assert!(acked == 3 * WRITES, "{acked} writes were acknowledged");
    (idle, busy)
}

fn leader(cluster: &Cluster) -> usize {
    let leads = |node: &usize| {
        let process = cluster.nodes[*node].process.as_ref();
        process.is_some_and(|process| process.replica.raft().role() == Role::Leader)
    };
    (0..cluster.nodes.len()).find(leads).expect("a quiet cluster has a leader")
}

/// Lets so many seconds pass, and something happen `WRITES` times in each.
fn during(
    cluster: &mut Cluster,
    leader: usize,
    seconds: u64,
    mut act: impl FnMut(&mut Cluster),
) -> Rate {
    let before = cluster.network.traffic(leader);
    for _ in 0..seconds * WRITES {
        act(cluster);
        cluster.run_until(cluster.now + SECOND / WRITES);
    }
    let after = cluster.network.traffic(leader);
    let rate = |of: usize| (after[of] - before[of]) / seconds;
    Rate { sent: rate(0), sent_bytes: rate(1), received: rate(2), received_bytes: rate(3) }
}
