//! One test per rule of the Raft paper (extended version), named by its section, where a rule can
//! be seen on one core. Rules that need several cores are in the scripts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::{Index, Instant, NodeId, Rng, Span, Term};
use crate::raft::{
    Body, Campaign, Entry, HardState, Member, Membership, Message, Options, Payload, ProposeError,
    Raft, Restored, Role, check,
};

const ME: NodeId = NodeId(1);

/// Node 1 of `voters` nodes, with a log of these terms, in the last of them or a later term.
fn core(voters: u64, log: &[u64], term: u64) -> Raft {
    seeded(voters, log, term, 1)
}

fn seeded(voters: u64, log: &[u64], term: u64, seed: u64) -> Raft {
    let nodes: BTreeSet<NodeId> = (1..=voters).map(NodeId).collect();
    let member =
        |node: &NodeId| (*node, Member { name: format!("n{node}"), address: String::new() });
    let members: BTreeMap<NodeId, Member> = nodes.iter().map(member).collect();
    let entries = log.iter().enumerate().map(|(at, term)| entry(at as u64 + 1, *term)).collect();
    let restored = Restored {
        hard_state: HardState { term: Term(term), vote: None, commit: Index(0) },
        snapshot_index: Index(0),
        snapshot_term: Term(0),
        membership: Membership::new(nodes, BTreeSet::new(), BTreeSet::new(), members).unwrap(),
        entries,
        applied: Index(0),
    };
    Raft::new(ME, Options::default(), restored, Rng::new(seed), Instant::ZERO).unwrap()
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Command(Bytes::from(format!("{term}.{index}")));
    Entry { term: Term(term), index: Index(index), payload }
}

fn now(raft: &Raft) -> Instant {
    raft.next_deadline().unwrap() - Span::from_millis(1)
}

/// Takes and writes everything that is ready; what was sent and what is to be applied comes back.
fn settle(raft: &mut Raft) -> (Vec<Message>, Vec<Entry>) {
    let (mut sent, mut committed) = (Vec::new(), Vec::new());
    while raft.has_ready() {
        let ready = raft.ready();
        sent.extend(ready.messages);
        sent.extend(ready.messages_after_persist);
        committed.extend(ready.committed);
        raft.persisted(Instant::ZERO, ready.token);
        check(raft);
    }
    (sent, committed)
}

fn step(raft: &mut Raft, from: u64, term: u64, body: Body) -> (Vec<Message>, Vec<Entry>) {
    let at = now(raft);
    raft.step(at, Message { from: NodeId(from), to: ME, term: Term(term), body });
    check(raft);
    settle(raft)
}

fn time_out(raft: &mut Raft) -> Vec<Message> {
    raft.timeout(raft.next_deadline().unwrap());
    check(raft);
    settle(raft).0
}

fn vote(campaign: Campaign, granted: bool) -> Body {
    Body::VoteResponse { campaign, granted }
}

fn append(prev: (u64, u64), entries: Vec<Entry>, commit: u64) -> Body {
    let (prev_index, prev_term) = (Index(prev.0), Term(prev.1));
    Body::AppendRequest { prev_index, prev_term, entries, commit: Index(commit) }
}

/// The core as a candidate of the next term.
fn candidate(voters: u64, log: &[u64], term: u64) -> Raft {
    let mut raft = core(voters, log, term);
    time_out(&mut raft);
    for voter in 2..=voters / 2 + 1 {
        step(&mut raft, voter, term + 1, vote(Campaign::PreVote, true));
    }
    assert_eq!((raft.role(), raft.term()), (Role::Candidate, Term(term + 1)));
    raft
}

/// The core as the leader of the next term.
fn leader(voters: u64, log: &[u64], term: u64) -> Raft {
    let mut raft = candidate(voters, log, term);
    for voter in 2..=voters / 2 + 1 {
        step(&mut raft, voter, term + 1, vote(Campaign::Vote, true));
    }
    assert_eq!(raft.role(), Role::Leader);
    raft
}

/// In every role.
fn in_all_roles(term: u64) -> Vec<Raft> {
    let mut pre_candidate = core(3, &[1], term);
    time_out(&mut pre_candidate);
    vec![
        core(3, &[1], term),
        pre_candidate,
        candidate(3, &[1], term - 1),
        leader(3, &[1], term - 1),
    ]
}

#[test]
fn section_5_1_a_newer_term_is_taken_and_makes_a_follower() {
    for mut raft in in_all_roles(4) {
        let role = raft.role();
        step(&mut raft, 2, 9, append((0, 0), Vec::new(), 0));
        assert_eq!((raft.role(), raft.term()), (Role::Follower, Term(9)), "was {role:?}");
        assert_eq!(raft.leader(), Some(NodeId(2)), "was {role:?}");
    }
}

#[test]
fn section_5_1_requests_of_an_older_term_are_refused() {
    for mut raft in in_all_roles(4) {
        let role = raft.role();
        let before = raft.status();
        let (sent, _) = step(&mut raft, 2, 3, append((1, 1), vec![entry(2, 3)], 2));
        assert!(
            matches!(
                sent.as_slice(),
                [Message { term: Term(4), body: Body::HeartbeatResponse { round: 0, .. }, .. }]
            ),
            "{role:?} answers an old leader with {sent:?}"
        );
        let request = Body::VoteRequest {
            campaign: Campaign::Vote,
            last_index: Index(9),
            last_term: Term(3),
        };
        let (sent, _) = step(&mut raft, 2, 3, request);
        let refused = vote(Campaign::Vote, false);
        assert_eq!(sent.first().map(|sent| &sent.body), Some(&refused), "{role:?}");
        assert_eq!(raft.status(), before, "{role:?} changes by an old message");
    }
}

#[test]
fn section_5_2_a_server_starts_as_a_follower_and_stays_one_while_it_hears_a_leader() {
    let mut raft = core(3, &[], 1);
    assert_eq!(raft.role(), Role::Follower);
    for _ in 0..50 {
        let at = now(&raft);
        let body = Body::Heartbeat { commit: Index(0), round: 0, all_matched: Index(0) };
        raft.step(at, Message { from: NodeId(2), to: ME, term: Term(1), body });
        raft.timeout(at);
        assert_eq!(raft.role(), Role::Follower);
    }
}

#[test]
fn section_5_2_a_campaign_raises_the_term_and_votes_for_itself() {
    let mut raft = core(5, &[1], 1);
    let sent = time_out(&mut raft);
    assert_eq!((raft.term(), raft.status().vote), (Term(1), None), "a pre-vote changes nothing");
    assert_eq!(sent.len(), 4, "all other voters are asked");
    step(&mut raft, 2, 2, vote(Campaign::PreVote, true));
    let (sent, _) = step(&mut raft, 3, 2, vote(Campaign::PreVote, true));
    assert_eq!((raft.term(), raft.status().vote), (Term(2), Some(ME)));
    assert_eq!(sent.len(), 4, "all other voters are asked");
}

#[test]
fn section_5_2_a_candidate_wins_with_a_majority_and_loses_without() {
    let (yes, no) = (Some(true), Some(false));
    for (voters, votes, role) in [
        (1, vec![], Role::Leader),
        (3, vec![yes, yes], Role::Leader),
        (3, vec![yes, None], Role::Leader),
        (3, vec![no, None], Role::Candidate),
        (3, vec![no, no], Role::Follower),
        (5, vec![yes, yes, no, no], Role::Leader),
        (5, vec![yes, None, None, None], Role::Candidate),
        (5, vec![no, no, no, None], Role::Follower),
        (5, vec![yes, no, no, None], Role::Candidate),
    ] {
        let mut raft = if voters == 1 {
            let mut raft = core(1, &[], 0);
            time_out(&mut raft);
            raft
        } else {
            candidate(voters, &[], 0)
        };
        for (at, granted) in votes.iter().enumerate() {
            if let Some(granted) = granted {
                step(&mut raft, at as u64 + 2, 1, vote(Campaign::Vote, *granted));
            }
        }
        assert_eq!(raft.role(), role, "{voters} voters, {votes:?}");
        assert_eq!(raft.term(), Term(1), "{voters} voters, {votes:?}");
    }
}

#[test]
fn section_5_2_a_candidate_follows_a_leader_of_its_own_term() {
    let mut raft = candidate(3, &[1], 1);
    step(&mut raft, 3, 2, append((1, 1), Vec::new(), 0));
    assert_eq!((raft.role(), raft.leader()), (Role::Follower, Some(NodeId(3))));
    assert_eq!(raft.status().vote, Some(ME), "its vote of the term stays");
}

#[test]
fn section_5_2_timeouts_are_random_between_one_and_two_election_timeouts() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let raft = seeded(3, &[], 0, seed);
        let wait = raft.next_deadline().unwrap().since(Instant::ZERO).as_millis();
        assert!((1_000..=2_000).contains(&wait), "seed {seed} waits {wait} ms");
        seen.insert(wait);
    }
    assert!(seen.len() > 150, "only {} different waits of 200", seen.len());
    let (first, last) = (seen.first().unwrap(), seen.last().unwrap());
    assert!(last - first > 900, "the waits span only {first} to {last} ms");
}

#[test]
fn section_5_2_a_leader_speaks_every_heartbeat_interval_by_its_schedule() {
    let mut raft = leader(3, &[], 0);
    let first = raft.next_deadline().unwrap();
    for beat in 1..5 {
        // Late by less than an interval, each time: the schedule does not move.
        let due = raft.next_deadline().unwrap();
        raft.timeout(due + Span::from_millis(7));
        let heartbeats = settle(&mut raft).0;
        let count = heartbeats.iter().filter(|sent| matches!(sent.body, Body::Heartbeat { .. }));
        assert_eq!(count.count(), 2, "both others are spoken to");
        assert_eq!(raft.next_deadline(), Some(first + Span::from_millis(beat * 100)));
    }
}

#[test]
fn section_5_3_a_leader_appends_and_sends_to_all_at_once() {
    let mut raft = leader(3, &[], 0);
    for follower in [2, 3] {
        step(&mut raft, follower, 1, Body::AppendAccepted { matched: Index(1) });
    }
    let at = now(&raft);
    let proposed = raft.propose(at, vec![Bytes::from("a"), Bytes::from("b")]).unwrap();
    assert_eq!((proposed.first, proposed.last, proposed.term), (Index(2), Index(3), Term(1)));
    let ready = raft.ready();
    assert_eq!(ready.entries.len(), 2, "one write for both");
    assert_eq!(ready.messages.len(), 2, "one append for each follower, beside the write");
    assert!(ready.messages_after_persist.is_empty(), "followers do not wait for our disk");
}

#[test]
fn section_5_3_only_the_leader_takes_commands() {
    let mut raft = core(3, &[], 0);
    step(&mut raft, 2, 1, append((0, 0), Vec::new(), 0));
    let error = raft.propose(Instant::ZERO, vec![Bytes::from("a")]).unwrap_err();
    assert_eq!(error, ProposeError::NotLeader { leader: Some(NodeId(2)) });
    assert_eq!(raft.status().last_index, Index(0), "a refusal leaves everything as it was");
    assert!(!raft.has_ready());
}

#[test]
fn section_5_3_an_entry_on_a_majority_is_committed_and_applied_in_order() {
    for (voters, acks, committed) in
        [(3, 0, false), (3, 1, true), (5, 1, false), (5, 2, true), (5, 4, true)]
    {
        let mut raft = leader(voters, &[1, 1], 1);
        let mut applied = Vec::new();
        for follower in 2..2 + acks {
            let body = Body::AppendAccepted { matched: Index(3) };
            applied.extend(step(&mut raft, follower, 2, body).1);
        }
        assert_eq!(raft.commit() == Index(3), committed, "{acks} of {voters}");
        let indexes: Vec<u64> = applied.iter().map(|entry| entry.index.get()).collect();
        let expected: &[u64] = if committed { &[1, 2, 3] } else { &[] };
        assert_eq!(indexes, expected, "{acks} of {voters}");
    }
}

#[test]
fn section_5_3_a_follower_refuses_what_does_not_continue_its_log() {
    // (previous index, previous term) against a log of terms 1, 2, 2.
    for (prev, fits) in [
        ((0, 0), true),
        ((1, 1), true),
        ((2, 2), true),
        ((3, 2), true),
        ((1, 2), false),
        ((3, 1), false),
        ((3, 3), false),
        ((4, 2), false),
    ] {
        let mut raft = core(3, &[1, 2, 2], 3);
        let (sent, _) = step(&mut raft, 2, 3, append(prev, Vec::new(), 0));
        let accepted = matches!(sent[0].body, Body::AppendAccepted { .. });
        assert_eq!(accepted, fits, "an append after {prev:?}");
        assert_eq!(raft.status().last_index, Index(3), "nothing is removed by looking");
    }
}

#[test]
fn section_5_3_a_conflict_removes_the_entry_and_all_that_follow() {
    for (entries, log) in [
        (vec![entry(2, 1)], vec![1, 1, 1]),
        (vec![entry(2, 3)], vec![1, 3]),
        (vec![entry(2, 1), entry(3, 3)], vec![1, 1, 3]),
        (vec![entry(2, 3), entry(3, 3), entry(4, 3)], vec![1, 3, 3, 3]),
        (vec![entry(2, 1), entry(3, 1), entry(4, 3)], vec![1, 1, 1, 3]),
    ] {
        let mut raft = core(3, &[1, 1, 1], 3);
        step(&mut raft, 2, 3, append((1, 1), entries, 0));
        let last = raft.status().last_index.get();
        let terms: Vec<u64> =
            (1..=last).map(|index| raft.entry(Index(index)).unwrap().term.get()).collect();
        assert_eq!(terms, log);
    }
}

#[test]
fn section_5_3_a_follower_commits_what_the_leader_committed_and_it_proved() {
    for (entries, commit, expected) in [
        (vec![], 0, 0),
        (vec![], 1, 1),
        (vec![], 9, 1),
        (vec![entry(2, 1)], 2, 2),
        (vec![entry(2, 1), entry(3, 1)], 2, 2),
    ] {
        let mut raft = core(3, &[1, 1, 1], 1);
        step(&mut raft, 2, 1, append((1, 1), entries, commit));
        assert_eq!(raft.commit(), Index(expected));
    }
}

#[test]
fn section_5_4_1_the_vote_goes_to_a_log_that_is_at_least_as_complete() {
    for (log, last, granted) in [
        (vec![1], (1, 1), true),
        (vec![1], (2, 1), true),
        (vec![1, 1], (1, 1), false),
        (vec![1], (1, 2), true),
        (vec![1, 1, 1], (1, 2), true),
        (vec![2], (5, 1), false),
        (vec![1, 2], (1, 1), false),
        (vec![1, 2], (1, 2), false),
    ] {
        for campaign in [Campaign::PreVote, Campaign::Vote] {
            let mut raft = core(3, &log, 2);
            let (last_index, last_term) = (Index(last.0), Term(last.1));
            let request = Body::VoteRequest { campaign, last_index, last_term };
            let (sent, _) = step(&mut raft, 2, 3, request);
            assert_eq!(sent[0].body, vote(campaign, granted), "{log:?} asked with {last:?}");
            let vote = raft.status().vote;
            let expected = (granted && campaign == Campaign::Vote).then_some(NodeId(2));
            assert_eq!(vote, expected, "{log:?} asked with {last:?}");
        }
    }
}

#[test]
fn section_5_4_2_only_entries_of_the_own_term_are_committed_by_counting() {
    for (matched, commit) in [(1, 0), (2, 0), (3, 3)] {
        let mut raft = leader(3, &[1, 2], 2);
        step(&mut raft, 2, 3, Body::AppendAccepted { matched: Index(matched) });
        assert_eq!(raft.commit(), Index(commit), "a majority holds {matched}");
        assert_eq!(raft.is_leader_confirmed(), commit == 3);
    }
}

#[test]
fn section_5_5_repeated_appends_change_nothing() {
    let mut raft = core(3, &[1], 1);
    let body = append((1, 1), vec![entry(2, 1), entry(3, 1)], 2);
    let (first, _) = step(&mut raft, 2, 1, body.clone());
    let before = raft.status();
    let (again, applied) = step(&mut raft, 2, 1, body);
    assert_eq!(raft.status(), before);
    assert_eq!(again, first, "the answer is the same");
    assert!(applied.is_empty(), "nothing is applied twice");
}

#[test]
fn section_8_a_leader_opens_its_term_with_an_empty_entry() {
    let raft = leader(3, &[1, 1], 1);
    let opening = raft.entry(Index(3)).unwrap();
    assert_eq!((opening.term, &opening.payload), (Term(2), &Payload::Empty));
    assert!(!raft.is_leader_confirmed(), "it is not on a majority yet");
}
