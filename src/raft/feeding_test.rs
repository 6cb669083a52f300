//! What many learners cost a leader: messages are counted, not estimated. `docs/raft.md` quotes the
//! numbers.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::{Index, Instant, NodeId, Rng, Span, Term};
use crate::raft::{
    Body, HardState, Member, Membership, Message, Options, Raft, Restored, Role, check,
};

/// Messages that a leader sent.
#[derive(Debug, Default, PartialEq)]
struct Sent {
    to_voters: u64,
    to_learners: u64,
}

/// A leader, and answers of everybody else that come after a fixed time.
struct Bench {
    now: Instant,
    raft: Raft,
    learners: u64,
    /// Answers under way, each with its time of arrival.
    answers: Vec<(Instant, Message)>,
    sent: Sent,
    /// Commits that the last learner was not told of, and since when.
    told: Vec<(Index, Instant)>,
    /// The longest that one had to wait.
    slowest: Span,
    /// The commit index of the last turn.
    seen: Index,
}

const DELAY: Span = Span::from_micros(500);

impl Bench {
    fn new(learners: u64, options: Options) -> Self {
        let voters: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        let learning: BTreeSet<NodeId> = (4..4 + learners).map(NodeId).collect();
        let members = voters
            .union(&learning)
            .map(|node| (*node, Member { name: format!("n{node}"), address: String::new() }));
        let members = members.collect();
        let membership = Membership::new(voters, BTreeSet::new(), learning, members).unwrap();
        let restored = Restored {
            hard_state: HardState::default(),
            snapshot_index: Index(0),
            snapshot_term: Term(0),
            membership,
            entries: Vec::new(),
            applied: Index(0),
        };
        let now = Instant::from_micros(1_000_000);
        let raft = Raft::new(NodeId(1), options, restored, Rng::new(1), now).unwrap();
        let (answers, sent, told) = (Vec::new(), Sent::default(), Vec::new());
        let (slowest, seen) = (Span::from_micros(0), Index(0));
        let mut bench = Bench { now, raft, learners, answers, sent, told, slowest, seen };
        bench.run(Span::from_secs(5), Span::from_micros(0));
        assert_eq!(bench.raft.role(), Role::Leader, "nobody else campaigns");
        (bench.sent, bench.slowest) = (Sent::default(), Span::from_micros(0));
        bench.told.clear();
        bench
    }

    /// Lets time pass, with a proposal each `every`, or none when that is zero.
    fn run(&mut self, span: Span, every: Span) {
        let end = self.now + span;
        let mut propose_at = self.now;
        loop {
            self.turn();
            let next = self.answers.iter().map(|(at, _)| *at).min();
            let due = self.raft.next_deadline();
            let proposing = (every > Span::from_micros(0)).then_some(propose_at);
            let Some(at) = [next, due, proposing].into_iter().flatten().min() else { break };
            if at >= end {
                break;
            }
            self.now = self.now.max(at);
            if proposing == Some(at) {
                let command = Bytes::from(vec![7; 200]);
                self.raft.propose(self.now, vec![command]).unwrap();
                propose_at += every;
            }
            let now = self.now;
            for (_, message) in self.answers.extract_if(.., |(at, _)| *at <= now) {
                self.raft.step(now, message);
            }
            if self.raft.next_deadline().is_some_and(|due| due <= now) {
                self.raft.timeout(now);
            }
        }
        self.now = end;
    }

    fn turn(&mut self) {
        while self.raft.has_ready() {
            if self.raft.commit() > self.seen {
                self.seen = self.raft.commit();
                self.told.push((self.seen, self.now));
            }
            let ready = self.raft.ready();
            for message in ready.messages.into_iter().chain(ready.messages_after_persist) {
                self.answer(message);
            }
            if let Some(last) = ready.committed.last() {
                self.raft.applied(last.index);
            }
            self.raft.persisted(self.now, ready.token);
            check(&self.raft);
        }
    }

    fn answer(&mut self, message: Message) {
        let learner = message.to > NodeId(3);
        match learner {
            true => self.sent.to_learners += 1,
            false => self.sent.to_voters += 1,
        }
        let body = match message.body {
            Body::AppendRequest { prev_index, entries, .. } => {
                let matched = prev_index.plus(entries.len() as u64);
                if message.to == NodeId(3 + self.learners) {
                    self.last_learner_told(matched);
                }
                Body::AppendAccepted { matched }
            }
            Body::Heartbeat { round, .. } => {
                Body::HeartbeatResponse { round, last_index: self.raft.last_index() }
            }
            Body::VoteRequest { campaign, .. } => Body::VoteResponse { campaign, granted: true },
            _ => return,
        };
        let (from, to, term) = (message.to, message.from, message.term);
        self.answers.push((self.now + DELAY + DELAY, Message { from, to, term, body }));
    }

    fn last_learner_told(&mut self, matched: Index) {
        let now = self.now;
        for (_, at) in self.told.extract_if(.., |(commit, _)| *commit <= matched) {
            self.slowest = self.slowest.max(now.since(at));
        }
    }
}

/// As if every learner were a voter that is not counted: how it was before.
fn unpaced() -> Options {
    Options { learner_pause: Span::from_micros(0), ..Options::default() }
}

/// Ten idle seconds: learners hear a third of the heartbeats of voters.
#[test]
fn two_hundred_idle_learners() {
    let mut bench = Bench::new(200, Options::default());
    bench.run(Span::from_secs(10), Span::from_micros(0));
    assert_eq!(bench.sent, Sent { to_voters: 200, to_learners: 6_600 }, "heartbeats");
}

/// One second with 2,000 writes a second: without a pause each write is an append to each learner;
/// with it, the budget holds however much is written, and no learner hears of a commit later than
/// after one pause.
#[test]
fn two_hundred_learners_under_load() {
    let (second, every) = (Span::from_secs(1), Span::from_micros(500));
    let mut paced = Bench::new(200, Options::default());
    paced.run(second, every);
    let mut unpaced = Bench::new(200, unpaced());
    unpaced.run(second, every);
    assert!(paced.sent.to_learners <= 11_000, "{:?}", paced.sent);
    assert!(unpaced.sent.to_learners > 150_000, "{:?}", unpaced.sent);
    let (least, most) = (Span::from_millis(15), Span::from_millis(22));
    assert!((least..=most).contains(&paced.slowest), "{:?} to the last learner", paced.slowest);
    assert_eq!(paced.sent.to_voters, unpaced.sent.to_voters, "voters never wait");
}

/// After a quiet time nobody waits, and a single learner never does to speak of.
#[test]
fn one_write_goes_out_at_once() {
    let mut bench = Bench::new(200, Options::default());
    bench.run(Span::from_millis(1), Span::from_secs(1));
    bench.run(Span::from_secs(1), Span::from_micros(0));
    assert_eq!(bench.slowest, Span::from_micros(0), "the round begins with the commit");
    let mut bench = Bench::new(1, Options::default());
    bench.run(Span::from_secs(1), Span::from_millis(2));
    assert!(bench.slowest <= Span::from_micros(1_000), "{:?} to one learner", bench.slowest);
}
