//! Changes of members, from an operator's order to the last node that hears of it.
//!
//! A node 13 is another life of the name n3. Every message passes the roster of its receiver.

use std::collections::BTreeSet;

use crate::base::{Index, NodeId, Span};
use crate::raft::{Member, Role};
use crate::replica::cluster_test::{Cluster, lock, put};
use crate::replica::{RequestError, UnavailableReason};
use crate::state::{Bind, Outcome};
use crate::wire::{ChangeReport, MembersOrder, MembersRefusal, MembersReply, WantedMembers};

const TIMEOUT: Span = Span::from_secs(5);

fn name(node: u64) -> String {
    format!("n{}", node % 10)
}

fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn started(size: u64) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(size);
    cluster.gated = true;
    let leader = cluster.elect();
    (cluster, leader)
}

/// The order for this set, based on what is in force on `seen_by`.
fn wanted(cluster: &Cluster, seen_by: NodeId, voters: &[u64], learners: &[u64]) -> WantedMembers {
    let member =
        |&node: &u64| (NodeId(node), Member { name: name(node), address: format!("n{node}:1") });
    WantedMembers {
        base: cluster.replicas[&seen_by].raft().membership_index(),
        voters: voters.iter().map(member).collect(),
        learners: learners.iter().map(member).collect(),
        ..WantedMembers::default()
    }
}

/// Gives the order at `at` and lets it be replied to.
fn change(cluster: &mut Cluster, at: NodeId, wanted: WantedMembers) -> MembersReply {
    let ticket = cluster.order(at, MembersOrder::Change(wanted), TIMEOUT);
    cluster.advance(Span::from_millis(10));
    reply(cluster, at, ticket)
}

fn reply(cluster: &Cluster, at: NodeId, ticket: crate::replica::Ticket) -> MembersReply {
    cluster.replies[&(at, ticket)].clone().expect("the leader replied")
}

#[track_caller]
fn taken(reply: MembersReply) -> ChangeReport {
    match reply {
        MembersReply::Report(report) => report,
        MembersReply::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

#[track_caller]
fn refused(reply: MembersReply) -> MembersRefusal {
    match reply {
        MembersReply::Report(report) => panic!("taken: {report:?}"),
        MembersReply::Refused(refusal) => refusal,
    }
}

/// Whether the set is in force, settled, on this node.
fn has(cluster: &Cluster, node: NodeId, voters: &[u64], learners: &[u64]) -> bool {
    let raft = cluster.replicas[&node].raft();
    let (index, members) = raft.committed_membership();
    index == raft.membership_index()
        && members.goal().is_none()
        && !members.is_joint()
        && *members.voters() == nodes(voters)
        && *members.learners() == nodes(learners)
}

#[track_caller]
fn all_have(cluster: &Cluster, voters: &[u64], learners: &[u64]) {
    for &node in voters.iter().chain(learners) {
        let raft = cluster.replicas[&NodeId(node)].raft();
        let members = raft.membership();
        assert!(has(cluster, NodeId(node), voters, learners), "on {node}: {members:?}");
    }
}

#[track_caller]
fn writes(cluster: &mut Cluster, at: u64, key: &str) {
    let ticket = cluster.submit(NodeId(at), put(key, "v"), TIMEOUT);
    cluster.advance(Span::from_secs(2));
    let answer = cluster.answer(NodeId(at), ticket);
    assert!(matches!(answer, Some(Ok(Outcome::Put { .. }))), "{key} at {at}: {answer:?}");
}

#[test]
fn a_learner_is_added_at_once_and_serves_its_host_like_a_voter() {
    let (mut cluster, leader) = started(3);
    writes(&mut cluster, 1, "before");
    assert!(!cluster.join(NodeId(4), "n4", leader), "nobody knows it yet");
    let order = wanted(&cluster, leader, &[1, 2, 3], &[4]);
    taken(change(&mut cluster, leader, order));
    // It does not run yet, which keeps nobody waiting.
    cluster.advance(Span::from_secs(1));
    assert!(has(&cluster, leader, &[1, 2, 3], &[4]));
    assert!(cluster.join(NodeId(4), "n4", leader));
    cluster.advance(Span::from_secs(2));
    all_have(&cluster, &[1, 2, 3], &[4]);
    assert_eq!(cluster.value(NodeId(4), "before").as_deref(), Some(&b"v"[..]));
    assert!(cluster.replicas[&NodeId(4)].status().ready);
    writes(&mut cluster, 4, "through the learner");
    let read = cluster.read(NodeId(4), TIMEOUT);
    cluster.advance(Span::from_secs(1));
    assert!(matches!(cluster.answer(NodeId(4), read), Some(Ok(_))));
    assert_eq!(cluster.replicas[&NodeId(4)].raft().role(), Role::Learner);
}

#[test]
fn a_newcomer_that_meets_older_sets_of_members_does_not_take_itself_for_removed() {
    // The log that it is fed tells of members before it was one.
    let (mut cluster, leader) = started(3);
    for learners in [&[4][..], &[4, 5], &[4, 5, 6]] {
        let order = wanted(&cluster, leader, &[1, 2, 3], learners);
        taken(change(&mut cluster, leader, order));
        // So much that no append holds two of the sets.
        let ticket = cluster.submit(leader, put("k", &"v".repeat(700_000)), TIMEOUT);
        cluster.advance(Span::from_secs(1));
        assert!(matches!(cluster.answer(leader, ticket), Some(Ok(_))));
    }
    assert!(cluster.join(NodeId(6), "n6", leader));
    for _ in 0..400 {
        cluster.settle_some(1);
        assert_eq!(cluster.replicas[&NodeId(6)].status().removed, None);
        cluster.advance_a_little();
    }
    assert!(has(&cluster, NodeId(6), &[1, 2, 3], &[4, 5, 6]));
    assert!(cluster.replicas[&NodeId(6)].status().ready);
}

#[test]
fn who_does_not_answer_never_gets_a_vote() {
    let (mut cluster, leader) = started(3);
    let order = wanted(&cluster, leader, &[1, 2, 3, 4], &[]);
    let report = taken(change(&mut cluster, leader, order.clone()));
    assert_eq!(report.newcomers.len(), 1);
    cluster.advance(Span::from_secs(60));
    let members = cluster.replicas[&leader].raft().membership().clone();
    assert_eq!(*members.voters(), nodes(&[1, 2, 3]), "its vote would be missed at once");
    let report = &cluster.replicas[&leader].status().change;
    assert!(!report.newcomers[0].active && !report.newcomers[0].caught_up, "{report:?}");
    writes(&mut cluster, 1, "meanwhile");
    // Once it runs it catches up, and then votes.
    assert!(cluster.join(NodeId(4), "n4", leader));
    cluster.advance(Span::from_secs(3));
    all_have(&cluster, &[1, 2, 3, 4], &[]);
    let again = taken(change(&mut cluster, leader, order));
    assert!(again.newcomers.is_empty(), "the same set again is the same order");
}

#[test]
fn a_newcomer_that_stays_behind_gets_no_vote_before_it_keeps_up() {
    let (mut cluster, leader) = started(3);
    let order = wanted(&cluster, leader, &[1, 2, 3, 4], &[]);
    taken(change(&mut cluster, leader, order));
    assert!(cluster.join(NodeId(4), "n4", leader));
    cluster.settle_some(40);
    // It is heard, but hears nothing of the log.
    cluster.cut.insert((leader, NodeId(4)));
    writes(&mut cluster, 1, "missed");
    cluster.advance(Span::from_secs(20));
    assert!(!cluster.replicas[&leader].raft().membership().is_voter(NodeId(4)));
    cluster.heal();
    cluster.advance(Span::from_secs(3));
    all_have(&cluster, &[1, 2, 3, 4], &[]);
}

#[test]
fn a_wiped_voter_is_replaced_under_its_name() {
    let (mut cluster, _) = started(3);
    let leader = cluster.leader().expect("elected");
    let wiped = cluster.another_than(leader).get();
    let third = (1..=3).find(|&n| n != wiped && NodeId(n) != leader).expect("three");
    writes(&mut cluster, leader.get(), "before");
    cluster.replicas.remove(&NodeId(wiped));
    let reborn = wiped + 10;
    assert!(!cluster.join(NodeId(reborn), &name(reborn), leader), "it is not its former self");
    let voters = [leader.get(), third, reborn];
    let order = wanted(&cluster, leader, &voters, &[]);
    taken(change(&mut cluster, leader, order));
    assert!(cluster.join(NodeId(reborn), &name(reborn), leader));
    cluster.advance(Span::from_secs(5));
    all_have(&cluster, &voters, &[]);
    // The new life counts: without the third there is a majority only with it.
    cluster.paused.insert(NodeId(third));
    writes(&mut cluster, leader.get(), "after");
    assert_eq!(cluster.value(NodeId(reborn), "before").as_deref(), Some(&b"v"[..]));
}

#[test]
fn three_become_five_and_three_again() {
    let (mut cluster, leader) = started(3);
    let at = cluster.another_than(leader);
    let order = wanted(&cluster, leader, &[1, 2, 3, 4, 5], &[]);
    taken(change(&mut cluster, at, order));
    for node in [4, 5] {
        assert!(cluster.join(NodeId(node), &name(node), leader));
    }
    cluster.advance(Span::from_secs(5));
    all_have(&cluster, &[1, 2, 3, 4, 5], &[]);
    writes(&mut cluster, 5, "five");
    let leader = cluster.leader().expect("there is one");
    let order = wanted(&cluster, leader, &[3, 4, 5], &[1]);
    taken(change(&mut cluster, at, order));
    cluster.advance(Span::from_secs(5));
    all_have(&cluster, &[3, 4, 5], &[1]);
    let removed = cluster.replicas[&NodeId(2)].status();
    assert!(removed.removed.is_some_and(|removal| removal.at.is_some()), "{removed:?}");
    writes(&mut cluster, 1, "the former voter learns");
}

#[test]
fn all_three_are_replaced_at_once() {
    let (mut cluster, leader) = started(3);
    writes(&mut cluster, 1, "old");
    let order = wanted(&cluster, leader, &[11, 12, 13], &[]);
    taken(change(&mut cluster, leader, order));
    for node in [11, 12, 13] {
        assert!(cluster.join(NodeId(node), &name(node), leader));
    }
    cluster.advance(Span::from_secs(10));
    all_have(&cluster, &[11, 12, 13], &[]);
    for node in [1, 2, 3] {
        let removed = cluster.replicas[&NodeId(node)].status().removed;
        assert!(removed.is_some(), "{node} was not told");
        cluster.paused.insert(NodeId(node));
    }
    writes(&mut cluster, 12, "new");
    assert_eq!(cluster.value(NodeId(13), "old").as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_leader_that_is_removed_hands_over_and_says_that_it_was_removed() {
    let (mut cluster, leader) = started(3);
    let rest: Vec<u64> = (1..=3).filter(|&node| NodeId(node) != leader).collect();
    let order = wanted(&cluster, leader, &rest, &[]);
    taken(change(&mut cluster, leader, order));
    cluster.advance(Span::from_secs(5));
    all_have(&cluster, &rest, &[]);
    let next = cluster.leader().expect("one took over");
    assert!(rest.contains(&next.get()), "{next} leads");
    let status = cluster.replicas[&leader].status();
    let removal = status.removed.expect("it says so");
    assert!(!status.ready);
    let late = cluster.submit(leader, put("k", "v"), TIMEOUT);
    let read = cluster.read(leader, TIMEOUT);
    cluster.settle();
    let said = RequestError::Unavailable(UnavailableReason::Removed(removal));
    assert_eq!(cluster.answer(leader, late), Some(&Err(said)));
    assert_eq!(cluster.answer(leader, read), Some(&Err(said)));
    assert!(said.to_string().contains("removed from the cluster at index"), "{said}");
    // It campaigns no more, and disturbs nobody.
    let term = cluster.replicas[&next].raft().term();
    cluster.advance(Span::from_secs(30));
    assert_eq!(cluster.replicas[&next].raft().term(), term);
}

#[test]
fn a_removed_node_is_added_again_as_the_same_life() {
    let (mut cluster, leader) = started(3);
    let gone = cluster.another_than(leader).get();
    let rest: Vec<u64> = (1..=3).filter(|&node| node != gone).collect();
    let order = wanted(&cluster, leader, &rest, &[]);
    taken(change(&mut cluster, leader, order));
    cluster.advance(Span::from_secs(5));
    assert!(cluster.replicas[&NodeId(gone)].status().removed.is_some());
    writes(&mut cluster, leader.get(), "meanwhile");
    let leader = cluster.leader().expect("there is one");
    let order = wanted(&cluster, leader, &[1, 2, 3], &[]);
    taken(change(&mut cluster, leader, order));
    cluster.advance(Span::from_secs(5));
    all_have(&cluster, &[1, 2, 3], &[]);
    assert!(cluster.replicas[&NodeId(gone)].status().ready, "it serves again");
    writes(&mut cluster, gone, "again");
}

#[test]
fn a_node_that_missed_its_removal_believes_it_when_a_majority_says_so() {
    let (mut cluster, leader) = started(3);
    let gone = cluster.another_than(leader);
    cluster.isolate(gone);
    let rest: Vec<u64> = (1..=3).filter(|&node| NodeId(node) != gone).collect();
    let order = wanted(&cluster, leader, &rest, &[]);
    taken(change(&mut cluster, leader, order));
    cluster.advance(Span::from_secs(10));
    all_have(&cluster, &rest, &[]);
    cluster.heal();
    cluster.advance(Span::from_secs(5));
    assert_eq!(cluster.replicas[&gone].status().removed, None, "the transport has not told it");
    cluster.event(gone, crate::replica::Event::PeersSayRemoved { removed: true });
    let write = cluster.submit(gone, put("k", "v"), TIMEOUT);
    cluster.settle();
    let answer = cluster.answer(gone, write);
    let said = matches!(
        answer,
        Some(Err(RequestError::Unavailable(UnavailableReason::Removed(removal))))
            if removal.at.is_none()
    );
    assert!(said, "{answer:?}");
    cluster.event(gone, crate::replica::Event::PeersSayRemoved { removed: false });
    cluster.settle();
    assert_eq!(cluster.replicas[&gone].status().removed, None);
}

#[test]
fn of_two_operators_at_once_one_is_told_to_look_again() {
    let (mut cluster, leader) = started(5);
    let base = leader;
    let one = wanted(&cluster, base, &[1, 2, 3, 4, 5], &[6]);
    let other = wanted(&cluster, base, &[1, 2, 3, 4, 5], &[7]);
    let at = cluster.another_than(leader);
    let first = cluster.order(at, MembersOrder::Change(one), TIMEOUT);
    let second = cluster.order(leader, MembersOrder::Change(other), TIMEOUT);
    cluster.advance(Span::from_secs(1));
    let replies = [reply(&cluster, at, first), reply(&cluster, leader, second)];
    let refused: Vec<&MembersRefusal> = replies
        .iter()
        .filter_map(|reply| match reply {
            MembersReply::Refused(refusal) => Some(refusal),
            MembersReply::Report(_) => None,
        })
        .collect();
    assert_eq!(refused, [&MembersRefusal::Moved], "{replies:?}");
    // While new voters catch up, another order has to say that it means to take their place.
    let order = wanted(&cluster, leader, &[1, 2, 3, 4, 5, 8], &[]);
    taken(change(&mut cluster, leader, order));
    let order = wanted(&cluster, leader, &[1, 2, 3, 4, 5], &[]);
    let refusal = self::refused(change(&mut cluster, leader, order.clone()));
    assert_eq!(refusal, MembersRefusal::UnderWay);
    taken(change(&mut cluster, leader, WantedMembers { supersede: true, ..order }));
    cluster.advance(Span::from_secs(2));
    all_have(&cluster, &[1, 2, 3, 4, 5], &[]);
}

#[test]
fn a_change_that_waits_can_be_given_up() {
    let (mut cluster, leader) = started(3);
    let order = wanted(&cluster, leader, &[1, 2, 3, 4, 5], &[]);
    taken(change(&mut cluster, leader, order));
    let at = cluster.another_than(leader);
    let base = cluster.replicas[&leader].raft().membership_index();
    let stale = cluster.order(at, MembersOrder::Cancel { base: Index(0) }, TIMEOUT);
    cluster.advance(Span::from_millis(10));
    assert_eq!(refused(reply(&cluster, at, stale)), MembersRefusal::Moved);
    let cancel = cluster.order(at, MembersOrder::Cancel { base }, TIMEOUT);
    cluster.advance(Span::from_secs(1));
    taken(reply(&cluster, at, cancel));
    assert!(has(&cluster, leader, &[1, 2, 3], &[4, 5]), "whoever learns goes on learning");
}

#[test]
fn a_change_that_would_lose_the_live_quorum_needs_force() {
    let (mut cluster, leader) = started(3);
    let dead = cluster.another_than(leader);
    cluster.paused.insert(dead);
    cluster.advance(Span::from_secs(5));
    let pair = [leader.get(), dead.get()];
    let order = wanted(&cluster, leader, &pair, &[]);
    let refusal = refused(change(&mut cluster, leader, order.clone()));
    assert_eq!(refusal, MembersRefusal::QuorumLost { silent: vec![dead], voters: 2 });
    // It comes back a moment before anybody has heard from it, as the operator knew it would.
    cluster.paused.clear();
    taken(change(&mut cluster, leader, WantedMembers { force: true, ..order }));
    cluster.advance(Span::from_secs(5));
    all_have(&cluster, &pair, &[]);
}

#[test]
fn what_is_no_configuration_is_refused_with_a_sentence() {
    let (mut cluster, leader) = started(3);
    let before = cluster.replicas[&leader].raft().membership_index();
    let order = wanted(&cluster, leader, &[], &[1, 2, 3]);
    assert_eq!(refused(change(&mut cluster, leader, order)), MembersRefusal::NoVoter);
    let many: Vec<u64> = (1..=10).collect();
    let order = wanted(&cluster, leader, &many, &[]);
    assert_eq!(refused(change(&mut cluster, leader, order)), MembersRefusal::TooManyVoters);
    let order = wanted(&cluster, leader, &[1, 2, 3], &[13]);
    assert_eq!(refused(change(&mut cluster, leader, order)), MembersRefusal::NameTwice);
    let order = wanted(&cluster, leader, &[1, 2, 3], &[4]);
    let stale = WantedMembers { base: Index(before.get() + 7), ..order };
    assert_eq!(refused(change(&mut cluster, leader, stale)), MembersRefusal::Moved);
    assert_eq!(cluster.replicas[&leader].raft().membership_index(), before);
}

#[test]
fn the_leader_dies_at_every_step_of_a_change_and_it_is_finished() {
    for deliveries in (0..120).step_by(3) {
        let (mut cluster, leader) = started(3);
        let rest: Vec<u64> = (1..=3).filter(|&node| NodeId(node) != leader).collect();
        let at = NodeId(rest[0]);
        let target = [1, 2, 3, 4, 5];
        let order = wanted(&cluster, leader, &target, &[]);
        cluster.order(at, MembersOrder::Change(order.clone()), TIMEOUT);
        cluster.settle_some(deliveries);
        for node in [4, 5] {
            cluster.join(NodeId(node), &name(node), at);
        }
        cluster.settle_some(deliveries);
        cluster.paused.insert(leader);
        cluster.advance(Span::from_secs(10));
        let next = cluster.leader_among(&rest).expect("two of three, or four of five, elect");
        // Whoever leads now goes on with it, if it survived; else it is given again.
        let again = WantedMembers {
            base: cluster.replicas[&next].raft().membership_index(),
            ..order.clone()
        };
        taken(change(&mut cluster, at, again));
        for node in [4, 5] {
            if !cluster.replicas.contains_key(&NodeId(node)) {
                assert!(cluster.join(NodeId(node), &name(node), next));
            }
        }
        cluster.advance(Span::from_secs(10));
        for node in [rest[0], rest[1], 4, 5] {
            assert!(has(&cluster, NodeId(node), &target, &[]), "{deliveries}: on {node}");
        }
        cluster.paused.clear();
        cluster.advance(Span::from_secs(5));
        all_have(&cluster, &target, &[]);
        writes(&mut cluster, leader.get(), "healed");
    }
}

#[test]
fn an_order_whose_answer_is_lost_is_given_again_and_is_the_same() {
    let (mut cluster, leader) = started(3);
    let at = cluster.another_than(leader);
    let order = wanted(&cluster, leader, &[1, 2, 3], &[4]);
    let ticket = cluster.order(at, MembersOrder::Change(order), TIMEOUT);
    cluster.cut.insert((leader, at));
    cluster.advance(Span::from_millis(300));
    assert!(!cluster.replies.contains_key(&(at, ticket)));
    let index = cluster.replicas[&leader].raft().membership_index();
    cluster.heal();
    cluster.advance(Span::from_secs(2));
    taken(reply(&cluster, at, ticket));
    assert_eq!(cluster.replicas[&leader].raft().membership_index(), index, "one change");
}

#[test]
fn the_lead_moves_on_request_and_the_answer_comes_when_it_has() {
    let (mut cluster, leader) = started(3);
    let to = cluster.another_than(leader);
    let third = *cluster.replicas.keys().find(|&&n| n != leader && n != to).expect("three");
    let order = MembersOrder::Transfer { to: Some(to) };
    let ticket = cluster.order(third, order, TIMEOUT);
    cluster.advance(Span::from_millis(100));
    taken(reply(&cluster, third, ticket));
    assert_eq!(cluster.leader(), Some(to));
    let ticket = cluster.order(to, MembersOrder::Transfer { to: None }, TIMEOUT);
    cluster.advance(Span::from_millis(100));
    taken(reply(&cluster, to, ticket));
    assert_ne!(cluster.leader(), Some(to));
    let stranger = MembersOrder::Transfer { to: Some(NodeId(9)) };
    let ticket = cluster.order(third, stranger, TIMEOUT);
    cluster.advance(Span::from_millis(100));
    assert_eq!(refused(reply(&cluster, third, ticket)), MembersRefusal::NotVoter);
    writes(&mut cluster, leader.get(), "after");
}

#[test]
fn the_lease_of_a_removed_host_goes_after_its_last_promise() {
    let (mut cluster, leader) = started(3);
    let gone = cluster.another_than(leader);
    let ttl = Span::from_secs(10);
    let held = cluster.submit(gone, lock("l", ttl), TIMEOUT);
    cluster.settle();
    let Some(Ok(Outcome::Acquired { lease, .. })) = cluster.answer(gone, held).cloned() else {
        panic!("the lock is free")
    };
    let rest: Vec<u64> = (1..=3).filter(|&node| NodeId(node) != gone).collect();
    let order = wanted(&cluster, leader, &rest, &[]);
    taken(change(&mut cluster, leader, order));
    cluster.advance(Span::from_secs(1));
    assert!(cluster.replicas[&gone].status().removed.is_some());
    let mut freed = None;
    for _ in 0..30 {
        let valid = cluster.promise(gone, lease).map_or(Span::ZERO, |promise| promise.valid_for);
        let view = cluster.replicas[&leader].shared_view();
        let view = view.read().expect("no test panics with it");
        let is_held = view.machine.lease(lease).is_some();
        let has_host =
            view.machine.leases().any(|held| held.bind == Bind::Node && held.node == gone);
        drop(view);
        assert!(is_held || valid == Span::ZERO, "freed while promised for {valid:?}");
        if !has_host {
            freed = freed.or(Some(cluster.now));
        }
        cluster.advance(Span::from_secs(1));
    }
    assert!(freed.is_some(), "the host's own lease lingers");
}
