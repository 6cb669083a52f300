//! A leader gives way before its process ends, and to a better disk; nothing that was asked fails.

use crate::base::{NodeId, Span};
use crate::raft::Role;
use crate::replica::cluster_test::{Cluster, put};
use crate::replica::{Event, Options, Ticket};

const TIMEOUT: Span = Span::from_secs(5);

fn three() -> [NodeId; 3] {
    [1, 2, 3].map(NodeId)
}

fn others(leader: NodeId) -> Vec<NodeId> {
    three().into_iter().filter(|&node| node != leader).collect()
}

/// One write on every node, none of them settled yet.
fn write_everywhere(cluster: &mut Cluster, key: &str) -> Vec<(NodeId, Ticket)> {
    let write = |node| (node, cluster.submit(node, put(key, "v"), TIMEOUT));
    three().into_iter().map(write).collect()
}

fn assert_written(cluster: &Cluster, writes: &[(NodeId, Ticket)]) {
    for &(node, ticket) in writes {
        let answer = cluster.answer(node, ticket);
        assert!(matches!(answer, Some(Ok(_))), "{node}: {answer:?}");
    }
}

fn disk_low(cluster: &mut Cluster, node: NodeId, low: bool) {
    cluster.event(node, Event::DiskLow { low });
}

/// All voters have written something and told of their disks.
fn told(options: &Options) -> (Cluster, NodeId) {
    let mut cluster = Cluster::with(3, options);
    cluster.elect();
    let leader = cluster.leader().expect("one was elected");
    let writes = write_everywhere(&mut cluster, "first");
    cluster.advance(Span::from_secs(2));
    assert_written(&cluster, &writes);
    (cluster, leader)
}

#[test]
fn a_leader_that_leaves_hands_over_at_once_and_no_request_fails() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.replicas[&leader].raft().term();
    let before = write_everywhere(&mut cluster, "before");
    cluster.event(leader, Event::GiveWay);
    let during = write_everywhere(&mut cluster, "during");
    let begun = cluster.now;
    cluster.settle();
    let next = cluster.leader().expect("there is another at the same instant");
    assert!(next != leader, "it still leads");
    assert_eq!(cluster.replicas[&next].raft().term(), term.next());
    // Those who were told to ask again in a moment have asked again by then.
    cluster.advance(Span::from_millis(50));
    assert_written(&cluster, &before);
    assert_written(&cluster, &during);
    eprintln!("all answered within {:?}", cluster.now.since(begun));
    // It does not want to lead any more: alone with one other, it gives way again.
    let third = others(leader).into_iter().find(|&node| node != next).expect("there are three");
    cluster.isolate(next);
    cluster.advance(Span::from_secs(8));
    assert_eq!(cluster.replicas[&third].raft().role(), Role::Leader);
}

/// The successor is not reached, so that the hand-over takes its whole time and comes to nothing.
#[test]
fn what_is_asked_during_a_hand_over_waits_and_is_not_refused() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.cut.insert((leader, others(leader)[0]));
    cluster.event(leader, Event::GiveWay);
    cluster.settle();
    let writes = write_everywhere(&mut cluster, "during");
    cluster.advance(Span::from_millis(100));
    assert!(cluster.replicas[&leader].raft().transferring().is_some());
    for (node, ticket) in &writes {
        assert_eq!(cluster.answer(*node, *ticket), None, "{node}");
    }
    cluster.heal();
    cluster.advance(Span::from_secs(3));
    assert_written(&cluster, &writes);
}

#[test]
fn a_leader_without_room_gives_way_to_one_that_has_some_and_not_twice_in_a_row() {
    let (mut cluster, leader) = told(&Options::default());
    let [one, two] = others(leader)[..] else { panic!("there are three") };
    // Nobody has more room: it stays, and refuses writes as before.
    disk_low(&mut cluster, one, true);
    disk_low(&mut cluster, two, true);
    cluster.settle();
    disk_low(&mut cluster, leader, true);
    cluster.advance(Span::from_secs(2));
    assert_eq!(cluster.leader(), Some(leader));
    // One of them has again.
    disk_low(&mut cluster, two, false);
    cluster.advance(Span::from_secs(2));
    assert_eq!(cluster.leader(), Some(two));
    let writes = write_everywhere(&mut cluster, "x");
    cluster.advance(Span::from_secs(2));
    assert_written(&cluster, &writes);
    // It gives way in its turn, once; and whoever gave way a moment ago does not do so again.
    disk_low(&mut cluster, leader, false);
    cluster.advance(Span::from_secs(2));
    disk_low(&mut cluster, two, true);
    cluster.advance(Span::from_secs(2));
    assert_eq!(cluster.leader(), Some(leader));
    disk_low(&mut cluster, leader, true);
    disk_low(&mut cluster, two, false);
    cluster.advance(Span::from_secs(20));
    assert_eq!(cluster.leader(), Some(leader), "two bad disks play ball");
    cluster.advance(Span::from_secs(60));
    assert_eq!(cluster.leader(), Some(two), "after a while it may");
}

#[test]
fn a_leader_whose_disk_stays_slow_gives_way_to_a_faster_one_only() {
    let options = Options::default();
    // A moment is not enough.
    let (mut cluster, leader) = told(&options);
    cluster.slow.insert(leader, Span::from_millis(400));
    work(&mut cluster, 5);
    assert_eq!(cluster.leader(), Some(leader));
    cluster.slow.clear();
    work(&mut cluster, 15);
    assert_eq!(cluster.leader(), Some(leader), "it was over");
    // The others are no better.
    for node in three() {
        cluster.slow.insert(node, Span::from_millis(400));
    }
    work(&mut cluster, 25);
    assert_eq!(cluster.leader(), Some(leader));
    // One of them is.
    let better = others(leader)[1];
    cluster.slow.remove(&better);
    work(&mut cluster, 25);
    assert_eq!(cluster.leader(), Some(better));
    work(&mut cluster, 80);
    assert_eq!(cluster.leader(), Some(better), "and it stays");
}

/// A write a quarter of a second, for so many seconds.
fn work(cluster: &mut Cluster, seconds: u64) {
    for number in 0..seconds * 4 {
        let node = NodeId(1 + number % 3);
        let ticket = cluster.submit(node, put("w", "v"), TIMEOUT);
        cluster.advance(Span::from_millis(250));
        let _ = ticket;
    }
}
