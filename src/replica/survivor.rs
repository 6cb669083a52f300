//! What the last member of a cluster holds, and the cluster that goes on with it when the quorum is
//! lost for good.
//!
//! Off-line: the files are opened and written by `daemon/`, which also asks whether it is meant.
//! The protocol has no part in it. What is kept is *chosen*, not agreed upon: other members may
//! have acknowledged more, and what this one holds beyond its commit index may never have been
//! acknowledged to anyone. Nothing here can find out; all it can do is say so exactly.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::{ClusterId, Epoch, Index, RequestId, Revision, Sequence, Term, WallMillis};
use crate::raft::{Entry, HardState, Member, Membership, Payload};
use crate::replica::RecoverError;
use crate::state::{Command, Operation, RangeContent, RangeQuery, StateMachine};
use crate::storage::{LogBatch, RecoveredLog};
use crate::wire::{Genesis, decode_stamped, encode_command, stamp_command};

/// A member whose process does not run, as its two files leave it.
#[derive(Debug)]
pub struct Survivor {
    log: RecoveredLog,
    genesis: Genesis,
    /// The state at the last index that is known to be committed.
    pub committed: Held,
    /// The state with every entry that the log holds.
    pub all: Held,
}

/// The state at some index, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Up to which entry.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// The store's revision.
    pub revision: Revision,
    /// Which history the revisions belong to.
    pub epoch: Epoch,
    /// How many keys there are.
    pub keys: u64,
    /// How many leases there are.
    pub leases: u64,
    /// The newest stamp of a leader's wall clock; zero when there is none.
    pub wall: WallMillis,
}

/// What a member of this incarnation is in the newest configuration that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It receives the log: a majority of the voters may have agreed on what it has not.
    Learner,
    /// It was removed: what was agreed upon since is not here.
    Removed,
    /// It votes, with others.
    Voter,
    /// It is the only voter: it needs nobody.
    VoterAlone,
}

impl Survivor {
    /// Reads the log to its end, and applies all of it to a copy of the saved state.
    pub fn new(log: RecoveredLog, machine: Option<StateMachine>) -> Result<Self, RecoverError> {
        let genesis = log.genesis.clone().ok_or(RecoverError::NoGenesis)?;
        let mut machine = machine.unwrap_or_else(|| StateMachine::new(Epoch(1)));
        let applied = machine.applied_index();
        if applied < log.cut.index {
            return Err(RecoverError::Gap { state: applied, log: log.cut.index });
        }
        let commit = log.hard_state.commit.max(applied).max(log.cut.index);
        let mut committed = Held::of(&machine);
        for entry in log.entries.iter().filter(|entry| entry.index > applied) {
            apply(&mut machine, entry)?;
            if entry.index == commit {
                committed = Held::of(&machine);
            }
        }
        Ok(Self { all: Held::of(&machine), committed, genesis, log })
    }

    /// What `raft.redb` holds.
    pub fn log(&self) -> &RecoveredLog {
        &self.log
    }

    /// The identity of its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.genesis.cluster
    }

    /// The newest configuration that it holds, committed or not.
    pub fn membership(&self) -> &Membership {
        self.log.membership().unwrap_or(&self.genesis.membership)
    }

    /// What it is in that configuration.
    pub fn part(&self) -> Part {
        let node = self.log.identity.node;
        if !self.membership().contains(node) {
            Part::Removed
        } else if !self.membership().is_voter(node) {
            Part::Learner
        } else if self.membership().voters().len() == 1 && !self.membership().is_joint() {
            Part::VoterAlone
        } else {
            Part::Voter
        }
    }

    /// The cluster `cluster` of this node alone, and what its log holds more: the configuration,
    /// and the command that begins the next epoch, both committed, in a term of their own.
    ///
    /// The node votes for itself in that term, as its leader would have. Everything before is
    /// committed with them, because in the new cluster this log *is* the quorum. `address` is where
    /// others will reach it.
    pub fn new_cluster(
        &self,
        cluster: ClusterId,
        address: &str,
        wall: WallMillis,
    ) -> (Genesis, LogBatch) {
        let identity = &self.log.identity;
        let member = Member { name: identity.name.clone(), address: address.to_owned() };
        let membership = Membership::new(
            BTreeSet::from([identity.node]),
            BTreeSet::new(),
            BTreeSet::new(),
            [(identity.node, member)].into(),
        )
        .expect("one voter that is listed once is a configuration");
        let term = self.log.hard_state.term.next();
        let first = self.all.index.next();
        // Whatever opened the files for this counted a boot, in which nothing else was asked.
        let request = RequestId { node: identity.node, boot: self.log.boot, sequence: Sequence(1) };
        let operation = Operation::StartEpoch;
        let command = Command { request, floor: Sequence(1), idempotency: None, operation };
        let payloads = [
            Payload::Membership(membership.clone()),
            Payload::Command(stamp_command(wall.max(self.all.wall), &encode_command(&command))),
        ];
        let entries: Vec<Entry> = (0..)
            .zip(payloads)
            .map(|(offset, payload)| Entry { term, index: first.plus(offset), payload })
            .collect();
        let commit = first.plus(1);
        let batch = LogBatch {
            hard_state: Some(HardState { term, vote: Some(identity.node), commit }),
            entries: vec![entries],
            must_sync: true,
            ..LogBatch::default()
        };
        (Genesis { cluster, membership, index: Index(0) }, batch)
    }
}

impl Held {
    fn of(machine: &StateMachine) -> Self {
        let everything = RangeQuery {
            prefix: Bytes::new(),
            start_after: None,
            limit: usize::MAX,
            bytes_max: usize::MAX,
            at: None,
            content: RangeContent::Count,
        };
        let page = machine.range(&everything).expect("the newest revision is always readable");
        Self {
            index: machine.applied_index(),
            term: machine.applied_term(),
            revision: machine.revision(),
            epoch: machine.epoch(),
            keys: page.count,
            leases: machine.lease_count() as u64,
            wall: machine.wall(),
        }
    }
}

fn apply(machine: &mut StateMachine, entry: &Entry) -> Result<(), RecoverError> {
    match &entry.payload {
        Payload::Command(bytes) => {
            let (wall, command) = decode_stamped(bytes)
                .map_err(|error| RecoverError::Entry { index: entry.index, error })?;
            machine.apply(entry.index, entry.term, wall, &command);
        }
        Payload::Empty | Payload::Membership(_) => machine.skip(entry.index, entry.term),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;

    use super::{Part, Survivor};
    use crate::base::{
        Boot, ClusterId, Index, Instant, NodeId, RequestId, Revision, Rng, Sequence, Term,
        WallMillis,
    };
    use crate::raft::{Entry, HardState, Member, Membership, Payload, Role};
    use crate::replica::{Action, Event, Now, Options, Recovery, Replica};
    use crate::state::{Command, Condition, Operation};
    use crate::storage::{Cut, Identity, LogBatch, RecoveredLog};
    use crate::wire::{Genesis, encode_command, stamp_command};

    const WALL: WallMillis = WallMillis(1_000);

    fn put(index: u64) -> Entry {
        let sequence = Sequence(index);
        let command = Command {
            request: RequestId { node: NodeId(9), boot: Boot(1), sequence },
            floor: Sequence(1),
            idempotency: None,
            operation: Operation::Put {
                key: Bytes::from(format!("k{index}")),
                value: Bytes::new(),
                lease: None,
                condition: Condition::None,
            },
        };
        let payload = Payload::Command(stamp_command(WALL, &encode_command(&command)));
        Entry { term: Term(3), index: Index(index), payload }
    }

    /// Node 1 of three voters and a learner: ten writes, six of them known to be committed.
    fn log(node: u64) -> RecoveredLog {
        let member = |node: u64| {
            let name = format!("n{node}");
            (NodeId(node), Member { address: format!("{name}:1"), name })
        };
        let membership = Membership::new(
            BTreeSet::from([1, 2, 3].map(NodeId)),
            BTreeSet::new(),
            BTreeSet::from([NodeId(4)]),
            (1..5).map(member).collect::<BTreeMap<_, _>>(),
        );
        let membership = membership.expect("three vote and one learns");
        let name = format!("n{node}");
        RecoveredLog {
            identity: Identity { node: NodeId(node), name, cluster_name: "c".to_owned() },
            boot: Boot(5),
            genesis: Some(Genesis { cluster: ClusterId(7), membership, index: Index(0) }),
            hard_state: HardState { term: Term(4), vote: Some(NodeId(2)), commit: Index(6) },
            cut: Cut::default(),
            entries: (1..=10).map(put).collect(),
            marks: Vec::new(),
        }
    }

    /// What the disk holds after the batch, and the next boot.
    fn after(log: &RecoveredLog, genesis: Genesis, batch: LogBatch) -> RecoveredLog {
        let mut log = log.clone();
        log.boot = log.boot.next();
        log.genesis = Some(genesis);
        log.hard_state = batch.hard_state.expect("it votes for itself");
        log.entries.extend(batch.entries.concat());
        log
    }

    #[test]
    fn a_survivor_goes_on_alone_with_all_that_its_log_holds_and_in_another_epoch() {
        let survivor = Survivor::new(log(1), None).expect("the log is whole");
        assert_eq!(survivor.part(), Part::Voter);
        let (committed, all) = (survivor.committed, survivor.all);
        assert_eq!(
            (committed.index, committed.revision, committed.keys),
            (Index(6), Revision(7), 6)
        );
        assert_eq!((all.index, all.revision, all.keys), (Index(10), Revision(11), 10));
        let (genesis, batch) = survivor.new_cluster(ClusterId(8), "n1:1", WallMillis(2_000));
        assert_eq!(genesis.cluster, ClusterId(8));
        let left = after(survivor.log(), genesis, batch);

        let now = Now { instant: Instant::from_micros(1_000_000), wall: WallMillis(3_000) };
        let recovery = Recovery { log: left.clone(), machine: None };
        let options = Options::default();
        let mut replica = Replica::recover(recovery, options, Rng::new(1), now.instant)
            .expect("a replica starts from it");
        for _ in 0..4 {
            for action in replica.poll(now) {
                if let Action::Write { token, .. } = action {
                    replica.handle(now, Event::Written(token));
                }
            }
        }
        assert_eq!(replica.raft().role(), Role::Leader, "it needs nobody's vote");
        let view = replica.shared_view();
        let view = view.read().expect("nobody panicked");
        assert_eq!(view.machine.epoch(), all.epoch.next());
        assert_eq!(view.machine.revision(), Revision(11), "what was not committed counts");
        assert_eq!(replica.status().members.len(), 1);

        let again = Survivor::new(left, None).expect("the log is whole");
        assert_eq!(again.part(), Part::VoterAlone);
    }

    #[test]
    fn a_learner_and_a_removed_node_say_what_they_are() {
        let part = |node| Survivor::new(log(node), None).expect("the log is whole").part();
        assert_eq!(part(4), Part::Learner);
        assert_eq!(part(5), Part::Removed);
    }
}
