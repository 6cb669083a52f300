//! Random logs against an obvious model: a full copy of the map for every revision.
//!
//! The model keeps no versions, no indexes and no attachments: events are the difference of two
//! copies, the keys of a lease and the places of a queue are found by looking at every key. What
//! the machine keeps up to date step by step must come out the same. The scenarios that one would
//! think of are in `testscripts/`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::{
    Boot, Epoch, Index, LeaseId, NodeId, RequestId, Revision, Rng, Sequence, Term, Token,
    WallMillis, limits, mix,
};
use crate::state::{
    Acquire, Applied, Bind, Command, Compare, CompareField, CompareOp, Condition, Event, EventKind,
    Holder, IdempotencyKey, Lease, LeaseChange, Mode, NewLease, Operation, Outcome, Patience,
    QueryError, QueueEntry, QueueKind, QueueName, RangeContent, RangeQuery, Record, Refusal,
    RevisionEvents, Row, RowKey, Selection, StateMachine, Txn, TxnOperation, TxnResult, check,
    parse_queue_key, queue_key,
};

use super::invariants::check_same;
use super::model_commands_test::Generator;

const SEEDS: u64 = 120;
const COMMANDS: usize = 250;

type Map = BTreeMap<Bytes, Record>;

/// The obvious state.
pub(super) struct Model {
    /// The map at each revision; element 0 is the one before revision 1.
    maps: Vec<Map>,
    pub(super) compacted: u64,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    leases_made: u64,
    slots: BTreeMap<QueueName, u32>,
    boots: BTreeMap<NodeId, (Boot, Sequence)>,
    applied: BTreeSet<(NodeId, Boot, Sequence)>,
    outcomes: BTreeMap<IdempotencyKey, (WallMillis, Outcome)>,
    wall: WallMillis,
    pub(super) term: Term,
    // While one entry runs:
    map: Map,
    changes: Vec<LeaseChange>,
}

impl Model {
    fn new() -> Self {
        Self {
            maps: vec![Map::new(), Map::new()],
            compacted: 0,
            leases: BTreeMap::new(),
            leases_made: 0,
            slots: BTreeMap::new(),
            boots: BTreeMap::new(),
            applied: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            wall: WallMillis(0),
            term: Term(0),
            map: Map::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.maps.len() as u64 - 1)
    }

    fn after(&self) -> Revision {
        let changed = self.maps.last().unwrap() != &self.map;
        if changed { self.revision().next() } else { self.revision() }
    }

    fn apply(&mut self, term: Term, wall: WallMillis, command: &Command) -> Outcome {
        self.term = term;
        self.wall = self.wall.max(wall);
        let mut overdue: Vec<_> =
            self.outcomes.iter().map(|(key, (wall, _))| (*wall, key.clone())).collect();
        overdue.retain(|(wall, _)| self.wall.since(*wall) > limits::IDEMPOTENCY_MILLIS_MIN);
        overdue.sort();
        for (_, key) in overdue.into_iter().take(limits::IDEMPOTENCY_FORGOTTEN_MAX) {
            self.outcomes.remove(&key);
        }
        self.changes.clear();
        let RequestId { node, boot, sequence } = command.request;
        let known = self.boots.get(&node).copied().filter(|(known, _)| *known >= boot);
        let (known_boot, floor) = known.unwrap_or((boot, Sequence(0)));
        if boot < known_boot || sequence < floor {
            return Outcome::Refused(Refusal::Stale);
        }
        if !self.applied.insert((node, boot, sequence)) {
            return Outcome::Duplicate;
        }
        self.boots.insert(node, (boot, floor.max(command.floor.min(sequence))));
        if let Some(key) = &command.idempotency
            && let Some((_, outcome)) = self.outcomes.get(key)
        {
            return outcome.clone();
        }
        self.map = self.maps.last().unwrap().clone();
        let outcome = match self.run(command) {
            Ok(outcome) => outcome,
            Err(refusal) => Outcome::Refused(refusal),
        };
        if let (Some(key), false) = (&command.idempotency, matches!(outcome, Outcome::Refused(_))) {
            self.outcomes.insert(key.clone(), (self.wall, outcome.clone()));
        }
        if self.maps.last().unwrap() != &self.map {
            self.maps.push(self.map.clone());
        }
        let standing: BTreeSet<QueueName> =
            self.map.values().filter_map(place).map(|(name, ..)| name).collect();
        self.slots.retain(|name, _| standing.contains(name));
        for name in standing {
            self.slots.entry(name).or_insert(1);
        }
        outcome
    }

    fn run(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        let request = command.request;
        Ok(match &command.operation {
            Operation::Acquire(acquire) => self.acquire(request, acquire)?,
            Operation::Compact { revision } => {
                if revision.get() <= self.compacted {
                    let compact_revision = Revision(self.compacted);
                    return Err(Refusal::Compacted { compact_revision });
                }
                if *revision > self.revision() {
                    return Err(Refusal::FutureRevision { revision: self.revision() });
                }
                self.compacted = revision.get();
                Outcome::Compacted { compact_revision: *revision, revision: self.revision() }
            }
            Operation::Delete { selection, condition } => {
                if let Selection::Key(key) = selection {
                    self.condition(key, *condition)?;
                }
                let deleted = self.delete(selection);
                Outcome::Deleted { deleted, revision: self.after() }
            }
            Operation::ExpireLeases { term, leases } => {
                for (lease, generation) in leases {
                    let found = self.leases.get(lease);
                    if *term == self.term && found.is_some_and(|it| it.generation == *generation) {
                        self.end(*lease);
                    }
                }
                Outcome::Done { revision: self.after() }
            }
            Operation::GrantLease(new) => {
                let lease = self.make(request, new, false)?;
                Outcome::Granted { lease, revision: self.revision() }
            }
            Operation::NodeBooted => self.node_booted(request),
            Operation::AdoptLeases { leases } => self.adopt(request, leases),
            Operation::BindLease { lease, process } => {
                let is_of_node =
                    |it: &&mut Lease| it.bind == Bind::Process && it.node == request.node;
                let found = self.leases.get_mut(lease).filter(is_of_node);
                let found = found.ok_or(Refusal::LeaseNotFound { lease: *lease })?;
                found.process = Some(process.clone());
                Outcome::Done { revision: self.revision() }
            }
            Operation::StartEpoch => Outcome::Done { revision: self.revision() },
            Operation::Proclaim { name, token, value } => {
                let name = QueueName { kind: QueueKind::Election, name: name.clone() };
                let entry = self.find_place(&name, *token)?;
                let (create_revision, version) =
                    self.put(&key_of(&name, &entry), value, Some(entry.lease))?;
                Outcome::Put { revision: self.after(), create_revision, version }
            }
            Operation::Put { key, value, lease, condition } => {
                self.condition(key, *condition)?;
                let (create_revision, version) = self.put(key, value, *lease)?;
                Outcome::Put { revision: self.after(), create_revision, version }
            }
            Operation::Release { queue, token } => {
                let entry = self.find_place(queue, *token)?;
                if self.leases[&entry.lease].owned_by_place {
                    self.end(entry.lease);
                } else {
                    self.map.remove(&key_of(queue, &entry));
                }
                Outcome::Released { revision: self.after() }
            }
            Operation::RevokeLeases { leases } => self.revoke(leases)?,
            Operation::Txn(txn) => self.txn(txn)?,
        })
    }

    fn node_booted(&mut self, request: RequestId) -> Outcome {
        let former = self.leases.values().filter(|lease| {
            let bound = lease.parent.is_some() && lease.process.is_none();
            bound && lease.node == request.node && lease.boot < request.boot
        });
        for lease in former.map(|lease| lease.id).collect::<Vec<_>>() {
            self.end(lease);
        }
        self.end_empty_hosts(request);
        Outcome::Done { revision: self.after() }
    }

    /// Own leases of the node's former boots under which nothing hangs.
    fn end_empty_hosts(&mut self, request: RequestId) {
        let hosts = self.leases.values().filter(|lease| {
            lease.bind == Bind::Node && lease.node == request.node && lease.boot < request.boot
        });
        let is_parent = |id| self.leases.values().any(|lease| lease.parent == Some(id));
        let empty = hosts.map(|lease| lease.id).filter(|id| !is_parent(*id));
        for lease in empty.collect::<Vec<_>>() {
            self.end(lease);
        }
    }

    fn adopt(&mut self, request: RequestId, leases: &[LeaseId]) -> Outcome {
        for id in leases.iter().copied().collect::<BTreeSet<_>>() {
            let Some(lease) = self.leases.get(&id) else { continue };
            if lease.process.is_none() || lease.node != request.node || lease.boot > request.boot {
                continue;
            }
            let parent = Some(self.host(request));
            let lease = self.leases.get_mut(&id).unwrap();
            (lease.parent, lease.boot) = (parent, request.boot);
            lease.generation += 1;
            self.changes.push(LeaseChange::Began(id));
        }
        self.end_empty_hosts(request);
        Outcome::Done { revision: self.after() }
    }

    fn host(&mut self, request: RequestId) -> LeaseId {
        let host = self.leases.values().find(|lease| {
            lease.bind == Bind::Node && (lease.node, lease.boot) == (request.node, request.boot)
        });
        match host.map(|host| host.id) {
            Some(host) => host,
            None => self.insert(request, &host_lease(), None, false),
        }
    }

    fn condition(&self, key: &Bytes, condition: Condition) -> Result<(), Refusal> {
        let mod_revision = self.map.get(key).map_or(Revision(0), |record| record.mod_revision);
        match condition {
            Condition::Absent if mod_revision != Revision(0) => {
                Err(Refusal::PreconditionFailed { mod_revision })
            }
            Condition::ModRevision(wanted) if mod_revision != wanted => {
                Err(Refusal::PreconditionFailed { mod_revision })
            }
            _ => Ok(()),
        }
    }

    fn put(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        lease: Option<LeaseId>,
    ) -> Result<(Revision, u64), Refusal> {
        if let Some(lease) = lease.filter(|lease| !self.leases.contains_key(lease)) {
            return Err(Refusal::LeaseNotFound { lease });
        }
        let mod_revision = self.revision().next();
        let old = self.map.get(key);
        let create_revision = old.map_or(mod_revision, |record| record.create_revision);
        let version = old.map_or(0, |record| record.version) + 1;
        let (key, value) = (key.clone(), value.clone());
        let record =
            Record { key: key.clone(), value, create_revision, mod_revision, version, lease };
        self.map.insert(key, record);
        Ok((create_revision, version))
    }

    fn delete(&mut self, selection: &Selection) -> u64 {
        let before = self.map.len();
        self.map.retain(|key, _| !covers(selection, key));
        (before - self.map.len()) as u64
    }

    fn make(
        &mut self,
        request: RequestId,
        new: &NewLease,
        owned_by_place: bool,
    ) -> Result<LeaseId, Refusal> {
        if new.bind == Bind::Node {
            return Err(Refusal::LeaseNotFound { lease: LeaseId(0) });
        }
        let parent = (new.bind != Bind::None).then(|| self.host(request));
        Ok(self.insert(request, new, parent, owned_by_place))
    }

    fn insert(
        &mut self,
        request: RequestId,
        new: &NewLease,
        parent: Option<LeaseId>,
        owned_by_place: bool,
    ) -> LeaseId {
        self.leases_made += 1;
        let id = LeaseId(mix(self.leases_made));
        let lease = Lease {
            id,
            ttl: new.ttl,
            bind: new.bind,
            parent,
            node: request.node,
            boot: request.boot,
            pid: new.pid,
            uid: new.uid,
            info: new.info.clone(),
            generation: 1,
            owned_by_place,
            process: new.process.clone().filter(|_| new.bind == Bind::Process),
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
        self.changes.push(LeaseChange::Began(id));
        id
    }

    fn end(&mut self, lease: LeaseId) {
        let children = self.leases.values().filter(|child| child.parent == Some(lease));
        for child in children.map(|child| child.id).collect::<Vec<_>>() {
            self.end(child);
        }
        if self.leases.remove(&lease).is_some() {
            self.map.retain(|_, record| record.lease != Some(lease));
            self.changes.push(LeaseChange::Ended(lease));
        }
    }

    fn revoke(&mut self, leases: &[LeaseId]) -> Result<Outcome, Refusal> {
        if let [lease] = leases
            && !self.leases.contains_key(lease)
        {
            return Err(Refusal::LeaseNotFound { lease: *lease });
        }
        let named: BTreeSet<LeaseId> =
            leases.iter().copied().filter(|lease| self.leases.contains_key(lease)).collect();
        for lease in &named {
            self.end(*lease);
        }
        Ok(Outcome::Revoked { revoked: named.len() as u64, revision: self.after() })
    }

    /// All places of a queue, by looking at every key.
    pub(super) fn places(&self, name: &QueueName) -> Vec<QueueEntry> {
        let mut places: Vec<QueueEntry> = self
            .map
            .values()
            .filter_map(|record| {
                let (other, lease, mode) = place(record)?;
                let token = Token(record.create_revision.get());
                let value = record.value.clone();
                (other == *name).then_some(QueueEntry { token, lease, mode, value })
            })
            .collect();
        places.sort_by_key(|entry| (entry.token, entry.lease, entry.mode));
        places
    }

    /// How many must go, or come, before this place holds.
    fn ahead_at(kind: QueueKind, slots: u32, places: &[QueueEntry], rank: usize) -> u64 {
        match kind {
            // Everybody counts, those who came later too.
            QueueKind::Barrier => {
                let (mut all, one) = (places.to_vec(), places[rank].clone());
                all.remove(rank);
                all.push(one);
                Self::ahead(kind, slots, &all)
            }
            _ => Self::ahead(kind, slots, &places[..=rank]),
        }
    }

    /// The same of the last of these places.
    fn ahead(kind: QueueKind, slots: u32, places: &[QueueEntry]) -> u64 {
        let (last, before) = places.split_last().unwrap();
        let waiting = places.iter().filter(|place| place.value != "ready").count() as u64;
        match (kind, last.mode) {
            (QueueKind::Barrier, _) if last.value == "ready" => 0,
            (QueueKind::Barrier, _) => u64::from(slots).saturating_sub(waiting),
            (_, Mode::Shared) if slots == 1 => {
                let unshared = before.iter().enumerate();
                let unshared = unshared.filter(|(_, place)| place.mode == Mode::Exclusive);
                unshared.map(|(rank, _)| rank as u64 + 1).max().unwrap_or(0)
            }
            _ => (places.len() as u64).saturating_sub(u64::from(slots)),
        }
    }

    /// Those of these places that hold, or were let go; the rest waits.
    fn split(
        kind: QueueKind,
        slots: u32,
        places: &[QueueEntry],
    ) -> (Vec<QueueEntry>, Vec<QueueEntry>) {
        let holds = |rank: usize| match kind {
            QueueKind::Barrier => places[rank].value == "ready",
            _ => Self::ahead(kind, slots, &places[..=rank]) == 0,
        };
        let (held, waiting): (Vec<usize>, Vec<usize>) =
            (0..places.len()).partition(|it| holds(*it));
        let pick = |ranks: Vec<usize>| ranks.into_iter().map(|rank| places[rank].clone()).collect();
        (pick(held), pick(waiting))
    }

    fn find_place(&self, name: &QueueName, token: Token) -> Result<QueueEntry, Refusal> {
        let found = self.places(name).into_iter().find(|entry| entry.token == token);
        found.ok_or(Refusal::NotHeld)
    }

    fn acquire(&mut self, request: RequestId, acquire: &Acquire) -> Result<Outcome, Refusal> {
        let places = self.places(&acquire.queue);
        let slots = self.slots.get(&acquire.queue).copied();
        let kind = acquire.queue.kind;
        if let Holder::Existing(lease) = acquire.holder {
            if !self.leases.contains_key(&lease) {
                return Err(Refusal::LeaseNotFound { lease });
            }
            for mode in [Mode::Exclusive, Mode::Shared] {
                let key = queue_key(&acquire.queue, lease, mode);
                let Some(record) = self.map.get(&key) else { continue };
                let token = Token(record.create_revision.get());
                if record.lease == Some(lease) && mode == acquire.mode {
                    // A place is found by its token.
                    let rank = places.iter().position(|it| it.token == token).unwrap();
                    let ahead = Self::ahead_at(kind, slots.unwrap(), &places, rank);
                    let revision = self.revision();
                    return Ok(Outcome::Acquired { lease, token, ahead, revision });
                }
                if record.lease == Some(lease) && kind == QueueKind::Lock {
                    return Err(Refusal::OtherMode { token });
                }
                if mode == acquire.mode {
                    return Err(Refusal::PreconditionFailed { mod_revision: record.mod_revision });
                }
            }
        }
        if let Holder::New(NewLease { bind: Bind::Node, .. }) = acquire.holder {
            return Err(Refusal::LeaseNotFound { lease: LeaseId(0) });
        }
        if let Some(slots) = slots.filter(|slots| *slots != acquire.slots) {
            return Err(Refusal::SlotsDiffer { slots });
        }
        let next = QueueEntry {
            token: Token(0),
            lease: LeaseId(0),
            mode: acquire.mode,
            value: Bytes::from_static(b"waiting"),
        };
        let with_next: Vec<QueueEntry> = places.iter().cloned().chain([next]).collect();
        let ahead = Self::ahead(kind, acquire.slots, &with_next);
        if acquire.patience == Patience::Try && ahead > 0 {
            let (held, waiting) = Self::split(kind, acquire.slots, &places);
            let holders = if kind == QueueKind::Barrier { waiting } else { held };
            return Err(Refusal::LockHeld { holders });
        }
        let lease = match &acquire.holder {
            Holder::Existing(lease) => *lease,
            Holder::New(new) => {
                let process = new.process.clone().filter(|_| ahead == 0);
                self.make(request, &NewLease { process, ..new.clone() }, true)?
            }
        };
        self.slots.insert(acquire.queue.clone(), acquire.slots);
        let mut value = acquire.value.clone();
        if kind == QueueKind::Barrier {
            value = if ahead == 0 { "ready".into() } else { "waiting".into() };
            let waiting = places.iter().filter(|it| it.value != "ready" && ahead == 0);
            for entry in waiting.cloned().collect::<Vec<_>>() {
                self.put(&key_of(&acquire.queue, &entry), &value, Some(entry.lease))?;
            }
        }
        let key = queue_key(&acquire.queue, lease, acquire.mode);
        let (token, _) = self.put(&key, &value, Some(lease))?;
        let token = Token(token.get());
        Ok(Outcome::Acquired { lease, token, ahead, revision: self.after() })
    }

    fn txn(&mut self, txn: &Txn) -> Result<Outcome, Refusal> {
        for list in [&txn.then, &txn.or_else] {
            for (first, one) in list.iter().enumerate() {
                for other in &list[first + 1..] {
                    if clash(one, other) {
                        return Err(Refusal::DuplicateKey);
                    }
                }
            }
        }
        let succeeded = txn.compares.iter().all(|compare| self.compare(compare));
        let list = if succeeded { &txn.then } else { &txn.or_else };
        let before = self.map.clone();
        let mut results = Vec::new();
        for operation in list {
            results.push(match operation {
                TxnOperation::Delete(selection) => TxnResult::Deleted(self.delete(selection)),
                TxnOperation::Get(selection) => {
                    let found = self.map.values().filter(|record| match selection {
                        Selection::Key(key) => record.key == key,
                        Selection::Prefix(prefix) => record.key.starts_with(prefix),
                    });
                    TxnResult::Got(found.cloned().collect())
                }
                TxnOperation::Put { key, value, lease } => match self.put(key, value, *lease) {
                    Ok((create_revision, version)) => TxnResult::Put { create_revision, version },
                    Err(refusal) => {
                        self.map = before;
                        return Err(refusal);
                    }
                },
            });
        }
        Ok(Outcome::Txn { succeeded, revision: self.after(), results })
    }

    fn compare(&self, compare: &Compare) -> bool {
        let record = self.map.get(&compare.key);
        let (left, right) = match &compare.field {
            CompareField::CreateRevision(right) => {
                (record.map_or(0, |record| record.create_revision.get()), right.get())
            }
            CompareField::Lease(right) => {
                let lease = record.and_then(|record| record.lease);
                (lease.map_or(0, LeaseId::get), right.get())
            }
            CompareField::ModRevision(right) => {
                (record.map_or(0, |record| record.mod_revision.get()), right.get())
            }
            CompareField::Version(right) => (record.map_or(0, |record| record.version), *right),
            CompareField::Value(right) => match record {
                None => return false,
                Some(record) => match record.value.cmp(right) {
                    std::cmp::Ordering::Less => (0, 1),
                    std::cmp::Ordering::Equal => (1, 1),
                    std::cmp::Ordering::Greater => (2, 1),
                },
            },
        };
        match compare.op {
            CompareOp::Equal => left == right,
            CompareOp::Greater => left > right,
            CompareOp::Less => left < right,
            CompareOp::NotEqual => left != right,
        }
    }

    /// What changed in a revision, as the difference of two maps.
    fn events(&self, revision: u64) -> Option<RevisionEvents> {
        let (old, new) = (self.maps.get(revision as usize - 1)?, self.maps.get(revision as usize)?);
        let keys: BTreeSet<&Bytes> = old.keys().chain(new.keys()).collect();
        let events = keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).map(|key| {
            let deleted = Record {
                key: key.clone(),
                value: Bytes::new(),
                create_revision: Revision(0),
                mod_revision: Revision(revision),
                version: 0,
                lease: None,
            };
            let record = new.get(key).cloned();
            let kind = if record.is_some() { EventKind::Put } else { EventKind::Delete };
            let record = record.unwrap_or(deleted);
            Event { kind, record, previous: old.get(key).cloned() }
        });
        Some(RevisionEvents { revision: Revision(revision), events: events.collect() })
    }
}

fn host_lease() -> NewLease {
    let (ttl, info) = (limits::NODE_TTL, String::new());
    NewLease { ttl, bind: Bind::Node, pid: None, uid: 0, info, process: None }
}

fn place(record: &Record) -> Option<(QueueName, LeaseId, Mode)> {
    let (name, lease, mode) = parse_queue_key(&record.key)?;
    (record.lease == Some(lease)).then_some((name, lease, mode))
}

fn key_of(name: &QueueName, entry: &QueueEntry) -> Bytes {
    queue_key(name, entry.lease, entry.mode)
}

fn covers(selection: &Selection, key: &Bytes) -> bool {
    match selection {
        Selection::Key(one) => one == key,
        Selection::Prefix(prefix) if prefix.is_empty() => !key.starts_with(b"_"),
        Selection::Prefix(prefix) => key.starts_with(prefix),
    }
}

fn clash(one: &TxnOperation, other: &TxnOperation) -> bool {
    match (one, other) {
        (TxnOperation::Put { key: a, .. }, TxnOperation::Put { key: b, .. }) => a == b,
        (TxnOperation::Put { key, .. }, TxnOperation::Delete(selection))
        | (TxnOperation::Delete(selection), TxnOperation::Put { key, .. }) => {
            covers(selection, key)
        }
        _ => false,
    }
}

/// The machine under test beside the model, a twin that is never restored, and the saved rows.
struct Run {
    model: Model,
    machine: StateMachine,
    twin: StateMachine,
    saved: BTreeMap<RowKey, Row>,
    generator: Generator,
    wall: WallMillis,
    term: Term,
    counts: BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            model: Model::new(),
            machine: StateMachine::new(Epoch(3)),
            twin: StateMachine::new(Epoch(3)),
            saved: BTreeMap::new(),
            generator: Generator {
                rng: Rng::new(seed),
                sequences: BTreeMap::new(),
                sent: Vec::new(),
            },
            wall: WallMillis(1_000_000),
            term: Term(1),
            counts: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let rng = &mut self.generator.rng;
        let index = self.machine.applied_index().next();
        if rng.chance(1, 30) {
            self.term = self.term.next();
            self.model.term = self.term;
            self.machine.skip(index, self.term);
            self.twin.skip(index, self.term);
            return;
        }
        // Now and then a leader whose clock is behind, now and then minutes without an entry.
        let wall = WallMillis(self.wall.0 + 30_000 - rng.below(60_000));
        self.wall.0 += if rng.chance(1, 20) { rng.below(400_000) } else { rng.below(3_000) };
        let command = self.generator.command(&self.model);
        self.apply(index, wall, &command);
    }

    fn apply(&mut self, index: Index, wall: WallMillis, command: &Command) {
        let before = self.model.maps.len();
        let expected = self.model.apply(self.term, wall, command);
        let applied = self.machine.apply(index, self.term, wall, command);
        let twin = self.twin.apply(index, self.term, wall, command);
        assert_eq!(applied.outcome, expected, "the outcome of {command:?}");
        assert_eq!(twin.outcome, expected, "the outcome at the twin of {command:?}");
        assert_eq!(self.machine.digest(), self.twin.digest(), "digests after {command:?}");
        let changed = self.model.maps.len() > before;
        let events =
            changed.then(|| self.model.events(self.model.revision().get()).expect("it was made"));
        assert_eq!(applied.events.as_deref(), events.as_ref(), "the events of {command:?}");
        self.check_notes(&applied, events.as_ref(), command);
        *self.counts.entry(name_of(&expected)).or_default() += 1;
        if let (Operation::Acquire(acquire), Outcome::Acquired { ahead: 0, .. }) =
            (&command.operation, &expected)
        {
            let view = self.machine.queue(&acquire.queue);
            let several = view.is_some_and(|view| view.holders.len() > 1 && view.slots <= 2);
            let name = match (acquire.queue.kind, acquire.mode) {
                (QueueKind::Barrier, _) if several && events.is_some() => "all let go",
                (_, Mode::Shared) if several => "shared by several",
                _ => return,
            };
            *self.counts.entry(name).or_default() += 1;
        }
    }

    /// Which leases and queues the entry is said to have changed.
    fn check_notes(&self, applied: &Applied, events: Option<&RevisionEvents>, command: &Command) {
        let order = |change: &LeaseChange| match change {
            LeaseChange::Began(lease) => (0, *lease),
            LeaseChange::Ended(lease) => (1, *lease),
        };
        let (mut said, mut done) = (applied.leases.clone(), self.model.changes.clone());
        said.sort_by_key(order);
        done.sort_by_key(order);
        assert_eq!(said, done, "the lease changes of {command:?}");
        let records = events.iter().flat_map(|events| &events.events);
        let records = records
            .flat_map(|event| [Some(&event.record), event.previous.as_ref()].into_iter().flatten());
        let queues: BTreeSet<QueueName> =
            records.filter_map(place).map(|(name, ..)| name).collect();
        assert_eq!(applied.queues, queues.into_iter().collect::<Vec<_>>(), "queues: {command:?}");
        let compacted = match applied.outcome {
            Outcome::Compacted { compact_revision, .. } => Some(compact_revision),
            _ => None,
        };
        if applied.compacted.is_some() {
            assert_eq!(applied.compacted, compacted, "{command:?}");
        }
    }

    /// All that can be read, against the model.
    fn check_reads(&mut self) {
        let (model, machine) = (&self.model, &self.machine);
        assert_eq!(machine.revision(), model.revision());
        assert_eq!(machine.compact_revision(), Revision(model.compacted));
        let keys: BTreeSet<&Bytes> = model.maps.iter().flat_map(|map| map.keys()).collect();
        for revision in 0..=model.revision().get() {
            let at = Some(Revision(revision));
            for key in &keys {
                let expected = if revision < model.compacted {
                    let compact_revision = Revision(model.compacted);
                    Err(QueryError::Compacted { compact_revision })
                } else {
                    Ok(model.maps[revision as usize].get(*key).cloned())
                };
                assert_eq!(machine.get(key, at), expected, "{key:?} at {revision}");
            }
        }
        let future = Some(model.revision().next());
        let revision = model.revision();
        assert_eq!(machine.get(b"a", future), Err(QueryError::Future { revision }));
        let from = self.generator.rng.below(model.revision().get() + 3);
        let first = from.max(model.compacted + 1).max(2);
        let expected: Vec<RevisionEvents> = (first..=model.revision().get())
            .filter_map(|revision| model.events(revision))
            .collect();
        let events = machine.events_from(Revision(from));
        let events: Vec<RevisionEvents> = events.iter().map(|one| (**one).clone()).collect();
        assert_eq!(events, expected, "the events from {from}");
    }

    fn check_leases_and_queues(&self) {
        let (model, machine) = (&self.model, &self.machine);
        let with_keys = |lease: &Lease| {
            let keys = model.map.values().filter(|record| record.lease == Some(lease.id));
            let keys = keys.map(|record| record.key.clone()).collect();
            Lease { keys, ..lease.clone() }
        };
        let expected: Vec<Lease> = model.leases.values().map(with_keys).collect();
        assert_eq!(machine.leases().cloned().collect::<Vec<_>>(), expected, "the leases");
        for kind in [QueueKind::Barrier, QueueKind::Election, QueueKind::Lock] {
            let expected = model.slots.keys().filter(|name| name.kind == kind).cloned();
            let names: Vec<QueueName> = machine.queues(kind).collect();
            assert_eq!(names, expected.collect::<Vec<_>>(), "the queues");
        }
        for (name, slots) in &model.slots {
            let places = model.places(name);
            let view = machine.queue(name).expect("the model has this queue");
            assert_eq!(view.slots, *slots, "{name:?}");
            let (holders, waiters) = Model::split(name.kind, *slots, &places);
            assert_eq!((&view.holders, &view.waiters), (&holders, &waiters), "{name:?}");
            for (rank, entry) in places.iter().enumerate() {
                let place = machine.place(name, entry.token).expect("the model has this place");
                let first = places.iter().position(|other| other.token == entry.token);
                if first == Some(rank) {
                    let ahead = Model::ahead_at(name.kind, *slots, &places, rank);
                    assert_eq!((place.ahead, place.lease), (ahead, entry.lease), "{name:?}");
                    let record = &model.map[&key_of(name, entry)];
                    let ready = name.kind == QueueKind::Barrier && entry.value == "ready";
                    let released = ready.then_some(record.mod_revision);
                    assert_eq!(place.released, released, "{name:?}");
                }
            }
        }
    }

    /// One random page, found by filtering the whole map.
    fn check_range(&mut self) {
        let rng = &mut self.generator.rng;
        let prefixes: [&[u8]; 5] = [b"", b"a", b"a/", b"_", b"_locks/q/"];
        let starts: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"a/b"), Some(b"_locks/q/5")];
        let contents = [RangeContent::Count, RangeContent::Keys, RangeContent::Records];
        let at = rng.between(self.model.compacted, self.model.revision().get());
        let query = RangeQuery {
            prefix: prefixes[rng.below(5) as usize].into(),
            start_after: starts[rng.below(4) as usize].map(Bytes::from),
            limit: rng.between(1, 6) as usize,
            bytes_max: rng.between(1, 60) as usize,
            at: Some(Revision(at)),
            content: contents[rng.below(3) as usize],
        };
        let page = self.machine.range(&query).expect("the revision is readable");
        let map = &self.model.maps[at as usize];
        let under: Vec<&Record> =
            map.values().filter(|record| record.key.starts_with(&query.prefix)).collect();
        assert_eq!(page.count, under.len() as u64, "{query:?}");
        assert_eq!(page.revision, Revision(at), "{query:?}");
        let after = |record: &&&Record| query.start_after.as_ref().is_none_or(|it| record.key > it);
        let wanted: Vec<Record> = under
            .iter()
            .filter(after)
            .map(|record| match query.content {
                RangeContent::Records => (**record).clone(),
                _ => Record { value: Bytes::new(), ..(**record).clone() },
            })
            .collect();
        if query.content == RangeContent::Count {
            assert!(page.records.is_empty() && !page.more, "{query:?}");
            return;
        }
        let size = |record: &Record| record.key.len() + record.value.len();
        let fits = |count: usize| {
            count <= query.limit
                && (count <= 1
                    || wanted[..count].iter().map(size).sum::<usize>() <= query.bytes_max)
        };
        let count = (0..=wanted.len()).take_while(|count| fits(*count)).last().unwrap();
        assert_eq!(page.records, wanted[..count], "{query:?}");
        assert_eq!(page.more, count < wanted.len(), "{query:?}");
    }

    fn save(&mut self) {
        let changes = self.machine.take_row_changes();
        assert_eq!(changes.last().map(|change| &change.key), Some(&RowKey::Meta));
        for change in changes {
            match change.row {
                Some(row) => self.saved.insert(change.key, row),
                None => self.saved.remove(&change.key),
            };
        }
        assert_eq!(
            self.saved,
            self.machine.all_rows().into_iter().collect(),
            "the saved rows are all rows"
        );
    }

    fn restart(&mut self) {
        let restored = StateMachine::restore(self.saved.clone()).expect("saved rows are a state");
        check_same(&restored, &self.machine);
        self.machine = restored;
        assert_eq!(self.machine.take_row_changes().len(), 1, "only Meta after a restore");
    }
}

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Acquired { ahead: 0, .. } => "held",
        Outcome::Acquired { .. } => "waiting",
        Outcome::Compacted { .. } => "compacted",
        Outcome::Deleted { .. } => "deleted",
        Outcome::Done { .. } => "done",
        Outcome::Duplicate => "duplicate",
        Outcome::Granted { .. } => "granted",
        Outcome::Put { .. } => "put",
        Outcome::Refused(refusal) => match refusal {
            Refusal::Compacted { .. } => "refused: compacted",
            Refusal::DuplicateKey => "refused: duplicate key",
            Refusal::FutureRevision { .. } => "refused: future revision",
            Refusal::LeaseNotFound { .. } => "refused: lease not found",
            Refusal::LockHeld { .. } => "refused: lock held",
            Refusal::NotHeld => "refused: not held",
            Refusal::OtherMode { .. } => "refused: other mode",
            Refusal::PreconditionFailed { .. } => "refused: precondition failed",
            Refusal::SlotsDiffer { .. } => "refused: slots differ",
            Refusal::Stale => "refused: stale",
        },
        Outcome::Released { .. } => "released",
        Outcome::Revoked { .. } => "revoked",
        Outcome::Txn { .. } => "txn",
    }
}

/// The machine does what the model does, entry by entry; a state restored from rows goes on as if
/// nothing had happened; two machines with one log have one digest.
#[test]
fn random_logs_agree_with_the_model() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let mut run = Run::new(seed);
        for count in 0..COMMANDS {
            run.step();
            if count % 10 == 0 {
                check(&run.machine);
                run.check_leases_and_queues();
            }
            run.check_range();
            if run.generator.rng.chance(1, 15) {
                run.save();
                if run.generator.rng.chance(1, 2) {
                    run.restart();
                }
            }
        }
        run.check_reads();
        check_same(&run.machine, &run.twin);
        for (name, count) in run.counts {
            *counts.entry(name).or_default() += count;
        }
    }
    eprintln!("{counts:?}");
    assert_eq!(counts.len(), 23, "every outcome came up: {counts:?}");
    assert!(counts.values().all(|count| *count >= 20), "none is a rarity: {counts:?}");
}
