//! All replicas that applied the same index have the same state (R8; Raft paper, 5.4.3), across
//! restarts, and publish the same events (K5). Each is compared with one more state machine that
//! applies what is committed one entry at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorumd::base::{Epoch, NodeId, Revision};
use quorumd::raft::{Entry, Payload};
use quorumd::state::{Applied, Command, EventKind, RevisionEvents, StateMachine};
use quorumd::wire::decode_stamped;

/// The state after each committed entry, and all events.
#[derive(Debug)]
pub struct StateAgrees {
    machine: StateMachine,
    digests: Vec<(u64, Revision)>,
    events: BTreeMap<Revision, Arc<RevisionEvents>>,
}

impl Default for StateAgrees {
    fn default() -> Self {
        let machine = StateMachine::new(Epoch(1));
        let digests = vec![(machine.digest(), machine.revision())];
        Self { machine, digests, events: BTreeMap::new() }
    }
}

impl StateAgrees {
    /// The next entry is committed.
    pub fn committed(&mut self, entry: &Entry) -> Option<(Command, Applied)> {
        let mut applied = None;
        match &entry.payload {
            Payload::Command(bytes) => {
                let (wall, command) = decode_stamped(bytes).expect("a leader writes what it reads");
                let done = self.machine.apply(entry.index, entry.term, wall, &command);
                if let Some(events) = &done.events {
                    self.events.insert(events.revision, events.clone());
                }
                applied = Some((command, done));
            }
            Payload::Empty | Payload::Membership(_) => self.machine.skip(entry.index, entry.term),
        }
        self.digests.push((self.machine.digest(), self.machine.revision()));
        applied
    }

    /// A node has this state.
    pub fn applied(&self, node: NodeId, machine: &StateMachine) {
        let index = machine.applied_index();
        let found = (machine.digest(), machine.revision());
        let known = self.digests.get(usize::try_from(index.get()).unwrap_or(usize::MAX));
        crate::ensure!(
            known == Some(&found),
            "state_agrees",
            "n{node} at {index} has {found:?}, the committed log gives {known:?}"
        );
    }

    /// A node published these events.
    pub fn published(&self, node: NodeId, events: &Arc<RevisionEvents>) {
        let known = self.events.get(&events.revision);
        crate::ensure!(
            known == Some(events),
            "state_agrees",
            "n{node} publishes {events:?}, the committed log gives {known:?}"
        );
    }

    /// The state that follows from all that is committed.
    pub fn machine(&self) -> &StateMachine {
        &self.machine
    }

    /// All events up to now.
    pub fn events(&self) -> &BTreeMap<Revision, Arc<RevisionEvents>> {
        &self.events
    }

    /// The last change of a key at or before a revision: value, if it exists, and revision.
    pub fn value_at(&self, key: &[u8], at: Revision) -> (Option<&[u8]>, Revision) {
        for (revision, events) in self.events.range(..=at).rev() {
            if let Some(event) = events.events.iter().find(|event| event.record.key == key) {
                return match event.kind {
                    EventKind::Put => (Some(&event.record.value), *revision),
                    EventKind::Delete => (None, Revision(0)),
                };
            }
        }
        (None, Revision(0))
    }
}
