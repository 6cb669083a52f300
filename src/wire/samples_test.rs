//! Draws one legal value of each type that is encoded, from a seed: for the tests of this folder
//! and of `storage/`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::{
    Boot, ClusterId, Epoch, Index, LeaseId, NodeId, ReadContext, RequestId, Revision, Rng,
    Sequence, Span, Term, Token, WallMillis, limits,
};
use crate::raft::{
    AppendRejection, Body, Campaign, Entry, Goal, HardState, LogStart, Member, Membership, Message,
    Payload,
};
use crate::state::{
    Acquire, Bind, Command, Compare, CompareField, CompareOp, Condition, Holder, IdempotencyKey,
    Lease, Meta, Mode, NewLease, Operation, Outcome, Patience, QueueEntry, QueueKind, QueueName,
    Record, Refusal, Row, RowKey, Selection, Txn, TxnOperation, TxnResult,
};
use crate::wire::{
    ChangeReport, Claim, DigestReport, DiskReport, DiskRoom, ForwardRefusal, ForwardedCommand,
    Genesis, Hello, HelloAnswer, HelloRefusal, KeepaliveAnswer, KeepaliveRequest, LinkClass,
    MembersAnswer, MembersOrder, MembersRefusal, MembersReply, MembersRequest, Newcomer,
    PeerMessage, SnapshotChunk, SnapshotMessage, SnapshotOffer, SnapshotRefusal, Standing,
    StoredRow, WantedMembers, encode_command, encode_row, encode_row_key,
};

/// Zero, small, large and any numbers alike.
pub(crate) fn number(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 0,
        1 => rng.below(200),
        2 => u64::MAX,
        _ => rng.next_u64(),
    }
}

/// Up to `most` bytes, rich in zeros and 0xff.
pub(crate) fn bytes(rng: &mut Rng, least: u64, most: u64) -> Bytes {
    let length = rng.between(least, most);
    (0..length).map(|_| *pick(rng, &[0, 0xff, 1, b'a', b'_', b'/'])).collect()
}

fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.below(choices.len() as u64) as usize]
}

fn text(rng: &mut Rng, least: u64, most: u64) -> String {
    let length = rng.between(least, most);
    (0..length).map(|_| *pick(rng, &['a', 'Z', '-', '7', '~', '!'])).collect()
}

fn several<T>(rng: &mut Rng, most: u64, make: fn(&mut Rng) -> T) -> Vec<T> {
    (0..rng.between(0, most)).map(|_| make(rng)).collect()
}

fn maybe<T>(rng: &mut Rng, make: fn(&mut Rng) -> T) -> Option<T> {
    if rng.chance(1, 2) { Some(make(rng)) } else { None }
}

fn lease_id(rng: &mut Rng) -> LeaseId {
    LeaseId(number(rng))
}

/// A legal configuration, joint or not.
pub(crate) fn membership(rng: &mut Rng) -> Membership {
    let mut sets = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    let mut members = BTreeMap::new();
    for number in 0..rng.between(1, 7) {
        let node = NodeId(number + 1 + rng.below(u64::MAX - 20));
        let roles = if number == 0 { 1 } else { *pick(rng, &[1, 2, 3, 4, 6]) };
        for (bit, set) in sets.iter_mut().enumerate() {
            if roles & (1 << bit) != 0 {
                set.insert(node);
            }
        }
        let member = Member { name: text(rng, 1, 20), address: text(rng, 1, 20) };
        members.insert(node, member);
    }
    let [voters, outgoing, learners] = sets;
    Membership::new(voters, outgoing, learners, members).unwrap()
}

/// A legal configuration on its way to a goal.
pub(crate) fn membership_with_goal(rng: &mut Rng) -> Membership {
    let membership = membership(rng);
    let mut goal = Goal::default();
    for node in membership.members().keys() {
        match rng.below(3) {
            0 => drop(goal.learners.insert(*node)),
            1 => drop(goal.voters.insert(*node)),
            _ => {}
        }
    }
    let first = *membership.members().keys().next().unwrap();
    goal.learners.remove(&first);
    goal.voters.insert(first);
    membership.with_goal(Some(goal)).unwrap()
}

/// `count` consecutive entries from `first`, with terms of at least `term`.
pub(crate) fn entries(rng: &mut Rng, first: u64, count: u64, mut term: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    for index in first..first + count {
        term += u64::from(rng.chance(1, 10));
        let payload = match rng.below(10) {
            0 => Payload::Empty,
            1 => Payload::Membership(membership(rng)),
            _ => Payload::Command(bytes(rng, 0, 400)),
        };
        entries.push(Entry { term: Term(term), index: Index(index), payload });
    }
    entries
}

/// A hard state.
pub(crate) fn hard_state(rng: &mut Rng) -> HardState {
    let vote = maybe(rng, |rng| NodeId(number(rng)));
    HardState { term: Term(number(rng)), vote, commit: Index(number(rng)) }
}

/// A cluster identity.
pub(crate) fn genesis(rng: &mut Rng) -> Genesis {
    let cluster = ClusterId(rng.next_u64().max(1));
    Genesis { cluster, membership: membership(rng), index: Index(number(rng)) }
}

fn queue(rng: &mut Rng) -> QueueName {
    queue_of(rng, &[QueueKind::Election, QueueKind::Lock])
}

fn queue_of(rng: &mut Rng, kinds: &[QueueKind]) -> QueueName {
    let kind = *pick(rng, kinds);
    QueueName { kind, name: bytes(rng, 1, 20) }
}

fn new_lease(rng: &mut Rng) -> NewLease {
    NewLease {
        ttl: ttl(rng),
        bind: *pick(rng, &[Bind::Connection, Bind::None, Bind::Process]),
        pid: maybe(rng, |rng| rng.next_u64() as u32),
        uid: rng.next_u64() as u32,
        info: text(rng, 0, 30),
        process: None,
    }
}

/// A lease that is bound to a process which can be known again.
pub(crate) fn lease_of_process(rng: &mut Rng) -> NewLease {
    NewLease { bind: Bind::Process, process: Some(text(rng, 1, 128)), ..new_lease(rng) }
}

fn ttl(rng: &mut Rng) -> Span {
    Span::from_micros(rng.between(limits::TTL_MIN.as_micros(), limits::TTL_MAX.as_micros()))
}

fn selection(rng: &mut Rng) -> Selection {
    if rng.chance(1, 2) {
        Selection::Key(bytes(rng, 1, 30))
    } else {
        Selection::Prefix(bytes(rng, 0, 30))
    }
}

fn condition(rng: &mut Rng) -> Condition {
    match rng.below(3) {
        0 => Condition::Absent,
        1 => Condition::ModRevision(Revision(number(rng))),
        _ => Condition::None,
    }
}

fn compare(rng: &mut Rng) -> Compare {
    let field = match rng.below(5) {
        0 => CompareField::CreateRevision(Revision(number(rng))),
        1 => CompareField::Lease(lease_id(rng)),
        2 => CompareField::ModRevision(Revision(number(rng))),
        3 => CompareField::Value(bytes(rng, 0, 30)),
        _ => CompareField::Version(number(rng)),
    };
    let op =
        *pick(rng, &[CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual]);
    Compare { key: bytes(rng, 1, 30), field, op }
}

fn txn_operation(rng: &mut Rng) -> TxnOperation {
    match rng.below(3) {
        0 => TxnOperation::Delete(selection(rng)),
        1 => TxnOperation::Get(selection(rng)),
        _ => TxnOperation::Put {
            key: bytes(rng, 1, 30),
            value: bytes(rng, 0, 30),
            lease: maybe(rng, lease_id),
        },
    }
}

fn acquire(rng: &mut Rng) -> Acquire {
    let queue = queue(rng);
    let slots = if queue.kind == QueueKind::Election { 1 } else { rng.between(1, 10_000) as u32 };
    let holder = if rng.chance(1, 2) {
        Holder::Existing(lease_id(rng))
    } else {
        Holder::New(new_lease(rng))
    };
    let patience = *pick(rng, &[Patience::Try, Patience::Wait]);
    let mode = Mode::Exclusive;
    Acquire { queue, holder, slots, mode, value: bytes(rng, 0, 30), patience }
}

/// A shared place in a lock, or one in a barrier, in turn.
pub(crate) fn acquire_shared(rng: &mut Rng, kind: u64) -> Acquire {
    let (kinds, slots, mode) = match kind % 2 {
        0 => ([QueueKind::Lock], 1, Mode::Shared),
        _ => ([QueueKind::Barrier], rng.between(1, 1_000) as u32, Mode::Exclusive),
    };
    Acquire { queue: queue_of(rng, &kinds), slots, mode, ..acquire(rng) }
}

/// One operation of each kind in turn.
pub(crate) fn operation(rng: &mut Rng, kind: u64) -> Operation {
    match kind % 15 {
        0 => Operation::Acquire(acquire(rng)),
        1 => Operation::Compact { revision: Revision(number(rng)) },
        2 => {
            let selection = selection(rng);
            let condition = match selection {
                Selection::Key(_) => condition(rng),
                Selection::Prefix(_) => Condition::None,
            };
            Operation::Delete { selection, condition }
        }
        3 => Operation::ExpireLeases {
            term: Term(number(rng)),
            leases: several(rng, 5, |rng| (lease_id(rng), number(rng))),
        },
        4 => Operation::GrantLease(new_lease(rng)),
        5 => Operation::NodeBooted,
        6 => Operation::Proclaim {
            name: bytes(rng, 1, 20),
            token: Token(number(rng)),
            value: bytes(rng, 0, 20),
        },
        7 => Operation::Put {
            key: bytes(rng, 1, 30),
            value: bytes(rng, 0, 300),
            lease: maybe(rng, lease_id),
            condition: condition(rng),
        },
        8 => Operation::Release { queue: queue(rng), token: Token(number(rng)) },
        9 => Operation::RevokeLeases { leases: several(rng, 5, lease_id) },
        11 => Operation::StartEpoch,
        12 => Operation::AdoptLeases { leases: several(rng, 5, lease_id) },
        13 => Operation::BindLease { lease: lease_id(rng), process: text(rng, 1, 128) },
        14 => Operation::GrantLease(lease_of_process(rng)),
        _ => Operation::Txn(Txn {
            compares: several(rng, 4, compare),
            then: several(rng, 4, txn_operation),
            or_else: several(rng, 4, txn_operation),
        }),
    }
}

fn idempotency_key(rng: &mut Rng) -> IdempotencyKey {
    IdempotencyKey { uid: rng.next_u64() as u32, key: text(rng, 1, 128) }
}

/// A command.
pub(crate) fn command(rng: &mut Rng) -> Command {
    let kind = rng.below(11);
    Command {
        request: RequestId {
            node: NodeId(number(rng)),
            boot: Boot(number(rng)),
            sequence: Sequence(number(rng)),
        },
        floor: Sequence(number(rng)),
        idempotency: maybe(rng, idempotency_key),
        operation: operation(rng, kind),
    }
}

fn record(rng: &mut Rng) -> Record {
    Record {
        key: bytes(rng, 1, 20),
        value: bytes(rng, 0, 20),
        create_revision: Revision(number(rng)),
        mod_revision: Revision(number(rng)),
        version: number(rng),
        lease: maybe(rng, lease_id),
    }
}

fn refusal(rng: &mut Rng) -> Refusal {
    match rng.below(10) {
        9 => Refusal::OtherMode { token: Token(number(rng)) },
        0 => Refusal::Compacted { compact_revision: Revision(number(rng)) },
        1 => Refusal::DuplicateKey,
        2 => Refusal::FutureRevision { revision: Revision(number(rng)) },
        3 => Refusal::LeaseNotFound { lease: lease_id(rng) },
        4 => Refusal::LockHeld {
            holders: several(rng, 3, |rng| QueueEntry {
                token: Token(number(rng)),
                lease: lease_id(rng),
                mode: if rng.chance(1, 2) { Mode::Shared } else { Mode::Exclusive },
                value: bytes(rng, 0, 10),
            }),
        },
        5 => Refusal::NotHeld,
        6 => Refusal::PreconditionFailed { mod_revision: Revision(number(rng)) },
        7 => Refusal::SlotsDiffer { slots: rng.next_u64() as u32 },
        _ => Refusal::Stale,
    }
}

/// An outcome of each kind in turn.
pub(crate) fn outcome(rng: &mut Rng, kind: u64) -> Outcome {
    let revision = Revision(number(rng));
    match kind % 11 {
        0 => Outcome::Acquired {
            lease: lease_id(rng),
            token: Token(number(rng)),
            ahead: number(rng),
            revision,
        },
        1 => Outcome::Compacted { compact_revision: Revision(number(rng)), revision },
        2 => Outcome::Deleted { deleted: number(rng), revision },
        3 => Outcome::Done { revision },
        4 => Outcome::Duplicate,
        5 => Outcome::Granted { lease: lease_id(rng), revision },
        6 => {
            Outcome::Put { revision, create_revision: Revision(number(rng)), version: number(rng) }
        }
        7 => Outcome::Refused(refusal(rng)),
        8 => Outcome::Released { revision },
        9 => Outcome::Revoked { revoked: number(rng), revision },
        _ => Outcome::Txn {
            succeeded: rng.chance(1, 2),
            revision,
            results: several(rng, 4, |rng| match rng.below(3) {
                0 => TxnResult::Deleted(number(rng)),
                1 => TxnResult::Got(several(rng, 3, record)),
                _ => {
                    TxnResult::Put { create_revision: Revision(number(rng)), version: number(rng) }
                }
            }),
        },
    }
}

/// A row of each kind in turn, with its key.
pub(crate) fn row(rng: &mut Rng, kind: u64) -> (RowKey, Row) {
    let version_key = |rng: &mut Rng| RowKey::Version(bytes(rng, 1, 20), Revision(number(rng)));
    match kind % 8 {
        7 => {
            let (key, row) = self::row(rng, 1);
            let Row::Lease(lease) = row else { unreachable!("that is the kind of 1") };
            let process = Some(text(rng, 1, 128));
            (key, Row::Lease(Lease { bind: Bind::Process, process, ..lease }))
        }
        0 => {
            let kind = rng.below(11);
            let row =
                Row::Idempotency { wall: WallMillis(number(rng)), outcome: outcome(rng, kind) };
            (RowKey::Idempotency(idempotency_key(rng)), row)
        }
        1 => {
            let lease = Lease {
                id: lease_id(rng),
                ttl: ttl(rng),
                bind: *pick(rng, &[Bind::Connection, Bind::Node, Bind::None, Bind::Process]),
                parent: maybe(rng, lease_id),
                node: NodeId(number(rng)),
                boot: Boot(number(rng)),
                pid: maybe(rng, |rng| rng.next_u64() as u32),
                uid: rng.next_u64() as u32,
                info: text(rng, 0, 20),
                generation: number(rng),
                owned_by_place: rng.chance(1, 2),
                process: None,
                keys: BTreeSet::new(),
            };
            (RowKey::Lease(lease.id), Row::Lease(lease))
        }
        2 => (RowKey::Meta, Row::Meta(meta(rng))),
        3 => (RowKey::Queue(queue(rng)), Row::Queue { slots: rng.between(1, 10_000) as u32 }),
        4 => {
            let floor = rng.below(1 << 50);
            let applied = several(rng, 20, number)
                .into_iter()
                .filter(|n| *n >= floor)
                .map(Sequence)
                .collect();
            let row = Row::Requests { boot: Boot(number(rng)), floor: Sequence(floor), applied };
            (RowKey::Requests(NodeId(number(rng))), row)
        }
        5 => (version_key(rng), Row::Tombstone),
        _ => {
            let row = Row::Version {
                value: bytes(rng, 0, 300),
                create_revision: Revision(number(rng)),
                version: number(rng),
                lease: maybe(rng, lease_id),
            };
            (version_key(rng), row)
        }
    }
}

/// Counters.
pub(crate) fn meta(rng: &mut Rng) -> Meta {
    Meta {
        applied_index: Index(number(rng)),
        applied_term: Term(number(rng)),
        revision: Revision(number(rng)),
        compact_revision: Revision(number(rng)),
        epoch: Epoch(number(rng)),
        leases_made: number(rng),
        wall: WallMillis(number(rng)),
        digest: number(rng),
    }
}

fn claim(rng: &mut Rng) -> Claim {
    let standing = if rng.chance(1, 2) {
        Standing::Blank { seed_digest: number(rng) }
    } else {
        let term = number(rng);
        Standing::Member {
            cluster: ClusterId(number(rng)),
            term: Term(term),
            last_term: Term(rng.between(0, term)),
            last_index: Index(number(rng)),
            membership: Index(number(rng)),
            address: text(rng, 1, 40),
        }
    };
    Claim { node: NodeId(number(rng)), boot: Boot(number(rng)), standing }
}

/// A hello.
pub(crate) fn hello(rng: &mut Rng) -> Hello {
    Hello {
        version_min: 1,
        version_max: rng.between(1, 1_000) as u32,
        class: *pick(rng, &[LinkClass::Bootstrap, LinkClass::Consensus]),
        cluster_name: text(rng, 1, 253),
        name: text(rng, 1, 253),
        to_name: text(rng, 1, 253),
        to_node: maybe(rng, |rng| NodeId(number(rng).max(1))),
        claim: claim(rng),
    }
}

/// An answer to a hello.
pub(crate) fn hello_answer(rng: &mut Rng) -> HelloAnswer {
    match rng.below(4) {
        0 => HelloAnswer::Accepted { version: rng.next_u64() as u32, claim: claim(rng) },
        1 => HelloAnswer::Blank { claim: claim(rng) },
        2 => HelloAnswer::Genesis(genesis(rng)),
        _ => HelloAnswer::Refused(*pick(
            rng,
            &[
                HelloRefusal::CertificateCluster,
                HelloRefusal::CertificateName,
                HelloRefusal::ClusterName,
                HelloRefusal::ClusterIdentity,
                HelloRefusal::Incarnation,
                HelloRefusal::Seeds,
                HelloRefusal::ToName,
                HelloRefusal::Unknown,
                HelloRefusal::Version,
                HelloRefusal::RolledBack,
                HelloRefusal::NotReady,
                HelloRefusal::Removed,
            ],
        )),
    }
}

/// An order about members, or a reply to one, of each kind in turn.
pub(crate) fn members_message(rng: &mut Rng, kind: u64) -> PeerMessage {
    let context = number(rng);
    let member = |rng: &mut Rng| Member { name: text(rng, 1, 20), address: text(rng, 1, 20) };
    let order = match kind % 8 {
        0 => MembersOrder::Cancel { base: Index(number(rng)) },
        1 => MembersOrder::Change(WantedMembers {
            base: Index(number(rng)),
            force: rng.chance(1, 2),
            supersede: rng.chance(1, 2),
            voters: (1..4).map(|node| (NodeId(2 * node), member(rng))).collect(),
            learners: (1..4).map(|node| (NodeId(2 * node + 1), member(rng))).collect(),
        }),
        2 => MembersOrder::Report,
        3 => MembersOrder::Transfer { to: None },
        4 => MembersOrder::Transfer { to: Some(NodeId(number(rng).max(1))) },
        kind => {
            let reply = match kind {
                5 => MembersReply::Refused(MembersRefusal::QuorumLost {
                    silent: several(rng, 4, |rng| NodeId(number(rng))),
                    voters: rng.next_u64() as u32,
                }),
                6 => MembersReply::Refused(MembersRefusal::Moved),
                _ => MembersReply::Report(ChangeReport {
                    index: Index(number(rng)),
                    last_index: Index(number(rng)),
                    newcomers: several(rng, 4, |rng| Newcomer {
                        node: NodeId(number(rng)),
                        active: rng.chance(1, 2),
                        matched: Index(number(rng)),
                        snapshot: rng.chance(1, 2),
                        caught_up: rng.chance(1, 2),
                    }),
                    silent: several(rng, 4, |rng| NodeId(number(rng))),
                }),
            };
            return PeerMessage::MembersAnswer(MembersAnswer { context, reply });
        }
    };
    PeerMessage::Members(MembersRequest { context, order })
}

/// A consensus message of each kind in turn.
pub(crate) fn message(rng: &mut Rng, kind: u64) -> Message {
    let campaign = *pick(rng, &[Campaign::PreVote, Campaign::Vote]);
    let body = match kind % 11 {
        0 => {
            let (first, count) = (1 + rng.below(1 << 60), rng.between(0, 20));
            Body::AppendRequest {
                prev_index: Index(first - 1),
                prev_term: Term(rng.between(0, 5)),
                entries: entries(rng, first, count, 5),
                commit: Index(number(rng)),
            }
        }
        1 => Body::AppendAccepted { matched: Index(number(rng)) },
        2 => Body::AppendRejected(AppendRejection {
            prev_index: Index(number(rng)),
            last_index: Index(number(rng)),
            hint_index: Index(number(rng)),
            hint_term: Term(number(rng)),
        }),
        3 => Body::Heartbeat {
            commit: Index(number(rng)),
            round: number(rng),
            all_matched: Index(number(rng)),
        },
        4 => Body::HeartbeatResponse { round: number(rng), last_index: Index(number(rng)) },
        5 => Body::ReadRequest { context: ReadContext(number(rng)) },
        6 => Body::ReadResponse { context: ReadContext(number(rng)), index: Index(number(rng)) },
        7 => Body::VoteRequest {
            campaign,
            last_index: Index(number(rng)),
            last_term: Term(number(rng)),
        },
        8 => Body::VoteResponse { campaign, granted: rng.chance(1, 2) },
        9 => Body::TimeoutNow,
        _ => Body::VoteRequest {
            campaign: Campaign::Transfer,
            last_index: Index(number(rng)),
            last_term: Term(number(rng)),
        },
    };
    let term = Term(100 + rng.below(u64::MAX - 100));
    Message { from: NodeId(number(rng)), to: NodeId(number(rng)), term, body }
}

/// A report of each kind in turn.
pub(crate) fn report(rng: &mut Rng, kind: u64) -> PeerMessage {
    let digest = DigestReport { index: Index(number(rng)), digest: number(rng) };
    match kind % 4 {
        3 => PeerMessage::StateWanted,
        0 => PeerMessage::Digest(digest),
        1 => PeerMessage::Diverged(digest),
        _ => PeerMessage::Disk(DiskReport {
            room: *pick(rng, &[DiskRoom::Enough, DiskRoom::Low, DiskRoom::Full]),
            write: Span::from_micros(number(rng)),
        }),
    }
}

/// Anything that peers say.
pub(crate) fn snapshot_message(rng: &mut Rng, kind: u64) -> PeerMessage {
    let id = rng.next_u64();
    PeerMessage::Snapshot(match kind % 4 {
        0 => {
            let rows = several(rng, 4, |rng| {
                let kind = rng.below(7);
                let (key, row) = row(rng, kind);
                let key = encode_row_key(&key);
                let value = encode_row(&key, &row).into();
                StoredRow { key: key.into(), value }
            });
            SnapshotMessage::Chunk(SnapshotChunk::new(
                id,
                rng.below(9) as u32,
                rng.chance(1, 2),
                rows,
            ))
        }
        1 => SnapshotMessage::Offer(SnapshotOffer {
            term: Term(7),
            id,
            start: LogStart {
                index: Index(rng.between(1, 1 << 40)),
                term: Term(rng.between(1, 7)),
                membership: membership(rng),
            },
            digest: rng.next_u64(),
            epoch: Epoch(rng.between(1, 3)),
            rows: number(rng),
        }),
        2 => {
            SnapshotMessage::Progress { id, next: rng.below(1_000) as u32, done: rng.chance(1, 2) }
        }
        _ => SnapshotMessage::Refused {
            id,
            reason: *pick(
                rng,
                &[
                    SnapshotRefusal::Busy,
                    SnapshotRefusal::Checksum,
                    SnapshotRefusal::Digest,
                    SnapshotRefusal::DiskFull,
                    SnapshotRefusal::Incomplete,
                    SnapshotRefusal::Rows,
                    SnapshotRefusal::Stale,
                    SnapshotRefusal::TooLarge,
                    SnapshotRefusal::Unknown,
                ],
            ),
        },
    })
}

pub(crate) fn peer_message(rng: &mut Rng) -> PeerMessage {
    let kind = rng.below(11);
    match rng.below(5) {
        0 => PeerMessage::Forward {
            commands: several(rng, 4, |rng| ForwardedCommand {
                sequence: Sequence(number(rng)),
                attempt: rng.next_u64() as u32,
                command: encode_command(&command(rng)),
            }),
        },
        1 => PeerMessage::ForwardRefused {
            requests: several(rng, 4, |rng| (Sequence(number(rng)), rng.next_u64() as u32)),
            reason: *pick(
                rng,
                &[
                    ForwardRefusal::DiskFull,
                    ForwardRefusal::Malformed,
                    ForwardRefusal::NotLeader,
                    ForwardRefusal::Overloaded,
                    ForwardRefusal::Quota,
                ],
            ),
        },
        2 => PeerMessage::Keepalive(KeepaliveRequest {
            context: number(rng),
            leases: several(rng, 5, lease_id),
        }),
        3 => PeerMessage::KeepaliveAnswer(KeepaliveAnswer {
            context: number(rng),
            gone: several(rng, 5, lease_id),
        }),
        _ => PeerMessage::Raft(message(rng, kind)),
    }
}
