//! Makes a replica from what its two files hold.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};

use crate::base::{Index, Instant, Rng, Term};
use crate::raft::{Raft, RestoreError, Restored};
use crate::replica::checkpoint::Checkpoint;
use crate::replica::core::{DiskSpace, Leadership};
use crate::replica::divergence::Divergence;
use crate::replica::intake::Intake;
use crate::replica::keeper::Keeper;
use crate::replica::members::Members;
use crate::replica::reads::Reads;
use crate::replica::requests::{Requests, first_number};
use crate::replica::retention::Retention;
use crate::replica::snapshot_receiver::Receiver;
use crate::replica::snapshot_sender::Sender;
use crate::replica::standing::Standing as MemberStanding;
use crate::replica::transfer::Transfer;
use crate::replica::{Options, Promises, Published, Replica, Roster, View};
use crate::state::{Operation, StateMachine};
use crate::storage::RecoveredLog;
use crate::watch::History;
use crate::wire::{Claim, Genesis, Standing, WireError};

/// Why a replica cannot be made from what the disk holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The log is not one that the consensus core could have written.
    #[error("the log in raft.redb is not consistent: {0}")]
    Log(#[from] RestoreError),
    /// The node has no cluster identity yet: it must boot into a cluster first.
    #[error("this data directory does not belong to a cluster yet")]
    NoGenesis,
    /// An entry of the log cannot be understood.
    #[error("entry {index} of the log cannot be understood ({error}): upgrade this program")]
    Entry {
        /// Which.
        index: Index,
        /// What is wrong with it.
        error: WireError,
    },
    /// The state is older than the log that is left: entries between them are missing.
    #[error(
        "state.redb ends at index {state} and the log in raft.redb begins after {log}: the entries \
         between them are missing; restore both files together, or replace this member"
    )]
    Gap {
        /// The applied index of the state.
        state: Index,
        /// The index that the log begins after.
        log: Index,
    },
}

/// What a replica is made from.
#[derive(Debug)]
pub struct Recovery {
    /// What `raft.redb` holds.
    pub log: RecoveredLog,
    /// What `state.redb` holds, restored; `None` when it is new.
    pub machine: Option<StateMachine>,
}

impl Replica {
    /// A replica as its disk left it. `rng` decides its election timeouts.
    pub fn recover(
        recovery: Recovery,
        options: Options,
        rng: Rng,
        now: Instant,
    ) -> Result<Self, RecoverError> {
        let Recovery { mut log, machine } = recovery;
        let genesis = log.genesis.clone().ok_or(RecoverError::NoGenesis)?;
        let machine = machine.unwrap_or_else(|| StateMachine::new(crate::base::Epoch(1)));
        let applied = machine.applied_index();
        if applied < log.cut.index {
            return Err(RecoverError::Gap { state: applied, log: log.cut.index });
        }
        let (node, boot) = (log.identity.node, log.boot);
        let last = last_of(&log);
        let restored = restored(&mut log, &genesis, applied);
        let raft = Raft::new(node, options.raft.clone(), restored, rng, now)?;
        let roster = Roster::member(
            log.identity.cluster_name,
            Claim { node, boot, standing: standing(&genesis, log.hard_state.term, last) },
            genesis.clone(),
            (Index(0), raft.membership().clone()),
            log.marks,
        );
        let history = History::of(options.watch_history(), &machine);
        let promises = Promises::default();
        let view = View { machine, history, promises, removed: None, fence: None };
        let mut replica = Self {
            node,
            boot,
            cluster: genesis.cluster,
            raft,
            view: Arc::new(RwLock::new(view)),
            roster: Arc::new(Mutex::new(roster)),
            requests: Requests::new(node, boot),
            reads: Reads::default(),
            intake: Intake::default(),
            keeper: Keeper::of_boot(boot),
            expiry: None,
            members: Members::of_boot(boot),
            now,
            standing: MemberStanding::since(genesis.index),
            checkpoint: Checkpoint::new(applied, &options),
            retention: Retention::default(),
            unwritten: VecDeque::new(),
            lazy_hard_state: None,
            written_term: log.hard_state.term,
            written_last: last,
            durable_last: last,
            writes: 0,
            leadership: Leadership::default(),
            contexts_used: first_number(boot),
            stopped: false,
            forward_held_until: None,
            resend_at: None,
            caught_up: false,
            disk: DiskSpace::default(),
            divergence: Divergence::default(),
            transfer: Transfer::default(),
            sender: Sender::of_boot(boot),
            receiver: Receiver::default(),
            draining: false,
            actions: Vec::new(),
            published: Published::default(),
            options,
        };
        replica.begin(now);
        Ok(replica)
    }

    fn begin(&mut self, now: Instant) {
        // Whatever an earlier boot had bound to its connections ended with them.
        self.requests.pursue(Operation::NodeBooted, now);
        let (index, membership) = self.raft.committed_membership();
        let membership = membership.clone();
        self.members_applied(now, index, &membership);
        self.settle_standing();
        self.follow_contacts();
    }
}

/// What the core is made from; the entries are taken out of `log`.
fn restored(log: &mut RecoveredLog, genesis: &Genesis, applied: Index) -> Restored {
    let membership = log.first_membership().unwrap_or(&genesis.membership);
    Restored {
        hard_state: log.hard_state,
        snapshot_index: log.cut.index,
        snapshot_term: log.cut.term,
        membership: membership.clone(),
        entries: std::mem::take(&mut log.entries),
        applied,
    }
}

/// The term and index of the last entry that is durable here.
fn last_of(log: &RecoveredLog) -> (Term, Index) {
    let last = log.entries.last();
    last.map_or((log.cut.term, log.cut.index), |entry| (entry.term, entry.index))
}

fn standing(genesis: &Genesis, term: Term, (last_term, last_index): (Term, Index)) -> Standing {
    // The roster adds what it knows of the members.
    let (membership, address) = (Index(0), String::new());
    Standing::Member { cluster: genesis.cluster, term, last_term, last_index, membership, address }
}
