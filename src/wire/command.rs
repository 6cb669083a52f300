//! How a command is written into the log, and what is checked before one is believed.
//!
//! What commands do is decided by `state/`. A node that cannot read a committed command stops: it
//! must never skip one, or replicas differ.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::codec::{append, at_most, bound_count, bounded, codes, one_to, required, strict};
use super::command_fields::{
    AcquireProto, ActProto, AdoptProto, AskedProto, BindProto, CommandProto, CompareProto,
    ConditionProto, DeleteProto, ExpireProto, FieldProto, HolderProto, IdempotencyProto,
    NewLeaseProto, OperationProto, ProclaimProto, PutProto, QueueNameProto, ReleaseProto,
    RevokeProto, SelectionProto, TxnOperationProto, TxnProto, WhichProto,
};
use super::entry::EmptyProto;
use crate::base::{
    Boot, LeaseId, NodeId, RequestId, Revision, Sequence, Span, Term, Token, WallMillis, limits,
};
use crate::state::{
    Acquire, Bind, Command, Compare, CompareField, CompareOp, Condition, Holder, IdempotencyKey,
    Mode, NewLease, Operation, Patience, QueueKind, QueueName, Selection, Txn, TxnOperation,
};
use crate::wire::WireError;

const COMMAND_VERSION: u8 = 1;
const STAMP_BYTES: usize = 8;

codes!(bind_code, bind_of, Bind, "binding of a lease", {
    Connection = 1,
    Node = 2,
    None = 3,
    Process = 4,
});
codes!(kind_code, kind_of, QueueKind, "queue", { Election = 1, Lock = 2, Barrier = 3 });
codes!(op_code, op_of, CompareOp, "comparison", { Equal = 1, Greater = 2, Less = 3, NotEqual = 4 });
codes!(patience_code, patience_of, Patience, "patience", { Try = 1, Wait = 2 });

/// Encodes a command: a version byte, then its fields. This is what a node forwards.
pub fn encode_command(command: &Command) -> Bytes {
    let proto = CommandProto::from(command);
    let length = proto.encoded_len();
    let mut buffer = BytesMut::with_capacity(1 + length);
    buffer.put_u8(COMMAND_VERSION);
    append(&proto, length, &mut buffer);
    buffer.freeze()
}

/// Decodes a command. Keys and values of the result are slices of `bytes`, not copies: who keeps
/// them longer than the log keeps the entry copies them.
///
/// Errors on anything that this program does not understand in full, and on everything that breaks
/// a limit. A leader calls this before it appends, so that what is in the log can be read by all.
pub fn decode_command(bytes: &Bytes) -> Result<Command, WireError> {
    let limit = limits::COMMAND_BYTES_MAX;
    if bytes.len() > limit {
        return Err(WireError::TooLong { limit });
    }
    match bytes.first() {
        None => return Err(WireError::Truncated),
        Some(&COMMAND_VERSION) => {}
        Some(&version) => return Err(WireError::UnknownVersion(version)),
    }
    let content = bytes.slice(1..);
    for list in [1, 2, 3] {
        bound_count(&content, &[TXN_TAG, list], limits::TXN_OPERATIONS_MAX)?;
    }
    strict::<CommandProto>(content)?.try_into()
}

/// The payload of a log entry: the leader's wall clock, eight bytes little-endian, then the command
/// as [`encode_command`] renders it.
pub fn stamp_command(wall: WallMillis, command: &Bytes) -> Bytes {
    let mut buffer = BytesMut::with_capacity(STAMP_BYTES + command.len());
    buffer.put_u64_le(wall.0);
    buffer.extend_from_slice(command);
    buffer.freeze()
}

/// Stamp and command of a log entry's payload; errors as [`decode_command`] does.
pub fn decode_stamped(payload: &Bytes) -> Result<(WallMillis, Command), WireError> {
    let mut rest = payload.clone();
    let wall = rest.try_get_u64_le().map_err(|_| WireError::Truncated)?;
    Ok((WallMillis(wall), decode_command(&rest)?))
}

/// The number of `Txn` in [`OperationProto`].
const TXN_TAG: u32 = 20;

impl From<&Command> for CommandProto {
    fn from(command: &Command) -> Self {
        Self {
            node: command.request.node.0,
            boot: command.request.boot.0,
            sequence: command.request.sequence.0,
            floor: command.floor.0,
            idempotency: command
                .idempotency
                .as_ref()
                .map(|key| IdempotencyProto { uid: key.uid, key: key.key.clone() }),
            operation: Some((&command.operation).into()),
        }
    }
}

impl TryFrom<CommandProto> for Command {
    type Error = WireError;

    fn try_from(proto: CommandProto) -> Result<Self, WireError> {
        Ok(Self {
            request: RequestId {
                node: NodeId(proto.node),
                boot: Boot(proto.boot),
                sequence: Sequence(proto.sequence),
            },
            floor: Sequence(proto.floor),
            idempotency: match proto.idempotency {
                Some(key) => Some(idempotency_key(key.uid, key.key)?),
                None => None,
            },
            operation: required(proto.operation)?.try_into()?,
        })
    }
}

/// An idempotency key of legal length and characters.
pub(super) fn idempotency_key(uid: u32, key: String) -> Result<IdempotencyKey, WireError> {
    let key = bounded(key, limits::IDEMPOTENCY_KEY_BYTES_MAX)?;
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(WireError::Malformed("an idempotency key beyond visible ASCII"));
    }
    Ok(IdempotencyKey { uid, key })
}

/// A time to live within its bounds.
pub(super) fn ttl(micros: u64) -> Result<Span, WireError> {
    let ttl = Span::from_micros(micros);
    if ttl < limits::TTL_MIN || ttl > limits::TTL_MAX {
        return Err(WireError::Malformed("a time to live out of its bounds"));
    }
    Ok(ttl)
}

/// The name of a queue of legal length.
pub(super) fn queue_name(kind: u32, name: Bytes) -> Result<QueueName, WireError> {
    Ok(QueueName { kind: kind_of(kind)?, name: one_to(name, limits::NAME_BYTES_MAX)? })
}

/// Beside whom a place may hold.
pub(super) fn mode(shared: bool) -> Mode {
    if shared { Mode::Shared } else { Mode::Exclusive }
}

/// A number of slots within its bounds.
pub(super) fn slots(slots: u32) -> Result<u32, WireError> {
    if slots == 0 || slots > limits::SLOTS_MAX {
        return Err(WireError::Malformed("a number of slots out of its bounds"));
    }
    Ok(slots)
}

impl From<&Operation> for OperationProto {
    fn from(operation: &Operation) -> Self {
        match operation {
            Operation::Acquire(acquire) => Self::Acquire(acquire.into()),
            Operation::AdoptLeases { leases } => Self::AdoptLeases(AdoptProto {
                leases: leases.iter().map(|lease| lease.0).collect(),
            }),
            Operation::BindLease { lease, process } => {
                Self::BindLease(BindProto { lease: lease.0, process: process.clone() })
            }
            Operation::Compact { revision } => Self::Compact(revision.0),
            Operation::Delete { selection, condition } => Self::Delete(DeleteProto {
                selection: Some(selection.into()),
                condition: condition_proto(*condition),
            }),
            Operation::ExpireLeases { term, leases } => Self::ExpireLeases(ExpireProto {
                term: term.0,
                leases: leases.iter().map(|(lease, _)| lease.0).collect(),
                generations: leases.iter().map(|(_, generation)| *generation).collect(),
            }),
            Operation::GrantLease(lease) => Self::GrantLease(lease.into()),
            Operation::NodeBooted => Self::NodeBooted(EmptyProto {}),
            Operation::Proclaim { name, token, value } => Self::Proclaim(ProclaimProto {
                name: name.clone(),
                token: token.0,
                value: value.clone(),
            }),
            Operation::Put { key, value, lease, condition } => Self::Put(PutProto {
                key: key.clone(),
                value: value.clone(),
                lease: lease.map(|lease| lease.0),
                condition: condition_proto(*condition),
            }),
            Operation::Release { queue, token } => {
                Self::Release(ReleaseProto { queue: Some(queue.into()), token: token.0 })
            }
            Operation::RevokeLeases { leases } => Self::RevokeLeases(RevokeProto {
                leases: leases.iter().map(|lease| lease.0).collect(),
            }),
            Operation::StartEpoch => Self::StartEpoch(EmptyProto {}),
            Operation::Txn(txn) => Self::Txn(TxnProto {
                compares: txn.compares.iter().map(CompareProto::from).collect(),
                then: txn.then.iter().map(TxnOperationProto::from).collect(),
                or_else: txn.or_else.iter().map(TxnOperationProto::from).collect(),
            }),
        }
    }
}

impl TryFrom<OperationProto> for Operation {
    type Error = WireError;

    fn try_from(proto: OperationProto) -> Result<Self, WireError> {
        Ok(match proto {
            OperationProto::Acquire(acquire) => Self::Acquire(acquire.try_into()?),
            OperationProto::AdoptLeases(adopt) => {
                at_most_leases(adopt.leases.len())?;
                Self::AdoptLeases { leases: adopt.leases.into_iter().map(LeaseId).collect() }
            }
            OperationProto::BindLease(BindProto { lease, process: text }) => {
                Self::BindLease { lease: LeaseId(lease), process: process_identity(text)? }
            }
            OperationProto::Compact(revision) => Self::Compact { revision: Revision(revision) },
            OperationProto::Delete(delete) => delete_operation(delete)?,
            OperationProto::ExpireLeases(expire) => expire_leases(expire)?,
            OperationProto::GrantLease(lease) => Self::GrantLease(lease.try_into()?),
            OperationProto::NodeBooted(EmptyProto {}) => Self::NodeBooted,
            OperationProto::Proclaim(proclaim) => Self::Proclaim {
                name: one_to(proclaim.name, limits::NAME_BYTES_MAX)?,
                token: Token(proclaim.token),
                value: at_most(proclaim.value, limits::VALUE_BYTES_MAX)?,
            },
            OperationProto::Put(put) => Self::Put {
                key: one_to(put.key, limits::KEY_BYTES_MAX)?,
                value: at_most(put.value, limits::VALUE_BYTES_MAX)?,
                lease: put.lease.map(LeaseId),
                condition: condition(put.condition)?,
            },
            OperationProto::Release(release) => {
                let queue = required(release.queue)?;
                let queue = queue_name(queue.kind, queue.name)?;
                Self::Release { queue, token: Token(release.token) }
            }
            OperationProto::RevokeLeases(revoke) => {
                at_most_leases(revoke.leases.len())?;
                Self::RevokeLeases { leases: revoke.leases.into_iter().map(LeaseId).collect() }
            }
            OperationProto::StartEpoch(EmptyProto {}) => Self::StartEpoch,
            OperationProto::Txn(txn) => Self::Txn(Txn {
                compares: txn
                    .compares
                    .into_iter()
                    .map(Compare::try_from)
                    .collect::<Result<_, _>>()?,
                then: txn.then.into_iter().map(TxnOperation::try_from).collect::<Result<_, _>>()?,
                or_else: txn
                    .or_else
                    .into_iter()
                    .map(TxnOperation::try_from)
                    .collect::<Result<_, _>>()?,
            }),
        })
    }
}

fn delete_operation(delete: DeleteProto) -> Result<Operation, WireError> {
    let selection = required(delete.selection)?.try_into()?;
    let condition = condition(delete.condition)?;
    if matches!(selection, Selection::Prefix(_)) && condition != Condition::None {
        return Err(WireError::Malformed("a condition on a whole prefix"));
    }
    Ok(Operation::Delete { selection, condition })
}

fn expire_leases(expire: ExpireProto) -> Result<Operation, WireError> {
    if expire.leases.len() != expire.generations.len() {
        return Err(WireError::Malformed("a lease without its generation"));
    }
    at_most_leases(expire.leases.len())?;
    let leases = expire.leases.into_iter().map(LeaseId).zip(expire.generations).collect();
    Ok(Operation::ExpireLeases { term: Term(expire.term), leases })
}

fn at_most_leases(count: usize) -> Result<(), WireError> {
    let limit = limits::LEASES_MAX;
    if count > limit { Err(WireError::TooLong { limit }) } else { Ok(()) }
}

fn condition_proto(condition: Condition) -> Option<ConditionProto> {
    let asked = match condition {
        Condition::Absent => AskedProto::Absent(EmptyProto {}),
        Condition::ModRevision(revision) => AskedProto::ModRevision(revision.0),
        Condition::None => return None,
    };
    Some(ConditionProto { asked: Some(asked) })
}

fn condition(proto: Option<ConditionProto>) -> Result<Condition, WireError> {
    let Some(proto) = proto else {
        return Ok(Condition::None);
    };
    Ok(match required(proto.asked)? {
        AskedProto::Absent(EmptyProto {}) => Condition::Absent,
        AskedProto::ModRevision(revision) => Condition::ModRevision(Revision(revision)),
    })
}

impl From<&QueueName> for QueueNameProto {
    fn from(queue: &QueueName) -> Self {
        Self { kind: kind_code(queue.kind), name: queue.name.clone() }
    }
}

impl From<&Acquire> for AcquireProto {
    fn from(acquire: &Acquire) -> Self {
        let holder = match &acquire.holder {
            Holder::Existing(lease) => HolderProto::Existing(lease.0),
            Holder::New(lease) => HolderProto::New(lease.into()),
        };
        Self {
            queue: Some((&acquire.queue).into()),
            holder: Some(holder),
            slots: acquire.slots,
            value: acquire.value.clone(),
            patience: patience_code(acquire.patience),
            shared: acquire.mode == Mode::Shared,
        }
    }
}

impl TryFrom<AcquireProto> for Acquire {
    type Error = WireError;

    fn try_from(proto: AcquireProto) -> Result<Self, WireError> {
        let queue = required(proto.queue)?;
        let queue = queue_name(queue.kind, queue.name)?;
        let slots = slots(proto.slots)?;
        let mode = mode(proto.shared);
        if queue.kind == QueueKind::Election && slots != 1 {
            return Err(WireError::Malformed("an election with several slots"));
        }
        if queue.kind == QueueKind::Barrier && slots > limits::BARRIER_COUNT_MAX {
            return Err(WireError::Malformed("a barrier for too many"));
        }
        if mode == Mode::Shared && (queue.kind != QueueKind::Lock || slots != 1) {
            return Err(WireError::Malformed(
                "a shared place beside others than a lock of one slot",
            ));
        }
        let holder = match required(proto.holder)? {
            HolderProto::Existing(lease) => Holder::Existing(LeaseId(lease)),
            HolderProto::New(lease) => Holder::New(lease.try_into()?),
        };
        Ok(Self {
            queue,
            holder,
            slots,
            mode,
            value: at_most(proto.value, limits::VALUE_BYTES_MAX)?,
            patience: patience_of(proto.patience)?,
        })
    }
}

impl From<&NewLease> for NewLeaseProto {
    fn from(lease: &NewLease) -> Self {
        Self {
            ttl_micros: lease.ttl.as_micros(),
            bind: bind_code(lease.bind),
            pid: lease.pid,
            uid: lease.uid,
            info: lease.info.clone(),
            process: lease.process.clone(),
        }
    }
}

impl TryFrom<NewLeaseProto> for NewLease {
    type Error = WireError;

    fn try_from(proto: NewLeaseProto) -> Result<Self, WireError> {
        let bind = bind_of(proto.bind)?;
        if bind == Bind::Node {
            return Err(WireError::Malformed("a host's own lease is made as a parent only"));
        }
        let (ttl, info) = (ttl(proto.ttl_micros)?, info(proto.info)?);
        let process = process_of(bind, proto.process)?;
        Ok(Self { ttl, bind, pid: proto.pid, uid: proto.uid, info, process })
    }
}

/// What a lease with this binding may say of its process.
pub(super) fn process_of(bind: Bind, text: Option<String>) -> Result<Option<String>, WireError> {
    if text.is_some() && bind != Bind::Process {
        return Err(WireError::Malformed("the process of a lease that is bound to none"));
    }
    text.map(process_identity).transpose()
}

fn process_identity(text: String) -> Result<String, WireError> {
    bounded(text, limits::PROCESS_IDENTITY_BYTES_MAX)
}

/// Free text of legal length.
pub(super) fn info(info: String) -> Result<String, WireError> {
    let limit = limits::INFO_BYTES_MAX;
    if info.len() > limit { Err(WireError::TooLong { limit }) } else { Ok(info) }
}

impl From<&Selection> for SelectionProto {
    fn from(selection: &Selection) -> Self {
        let which = match selection {
            Selection::Key(key) => WhichProto::Key(key.clone()),
            Selection::Prefix(prefix) => WhichProto::Prefix(prefix.clone()),
        };
        Self { which: Some(which) }
    }
}

impl TryFrom<SelectionProto> for Selection {
    type Error = WireError;

    fn try_from(proto: SelectionProto) -> Result<Self, WireError> {
        Ok(match required(proto.which)? {
            WhichProto::Key(key) => Self::Key(one_to(key, limits::KEY_BYTES_MAX)?),
            WhichProto::Prefix(prefix) => Self::Prefix(at_most(prefix, limits::KEY_BYTES_MAX)?),
        })
    }
}

impl From<&Compare> for CompareProto {
    fn from(compare: &Compare) -> Self {
        let field = match &compare.field {
            CompareField::CreateRevision(revision) => FieldProto::CreateRevision(revision.0),
            CompareField::Lease(lease) => FieldProto::Lease(lease.0),
            CompareField::ModRevision(revision) => FieldProto::ModRevision(revision.0),
            CompareField::Value(value) => FieldProto::Value(value.clone()),
            CompareField::Version(version) => FieldProto::Version(*version),
        };
        Self { key: compare.key.clone(), op: op_code(compare.op), field: Some(field) }
    }
}

impl TryFrom<CompareProto> for Compare {
    type Error = WireError;

    fn try_from(proto: CompareProto) -> Result<Self, WireError> {
        let field = match required(proto.field)? {
            FieldProto::CreateRevision(revision) => {
                CompareField::CreateRevision(Revision(revision))
            }
            FieldProto::Lease(lease) => CompareField::Lease(LeaseId(lease)),
            FieldProto::ModRevision(revision) => CompareField::ModRevision(Revision(revision)),
            FieldProto::Value(value) => {
                CompareField::Value(at_most(value, limits::VALUE_BYTES_MAX)?)
            }
            FieldProto::Version(version) => CompareField::Version(version),
        };
        Ok(Self { key: one_to(proto.key, limits::KEY_BYTES_MAX)?, field, op: op_of(proto.op)? })
    }
}

impl From<&TxnOperation> for TxnOperationProto {
    fn from(operation: &TxnOperation) -> Self {
        let act = match operation {
            TxnOperation::Delete(selection) => ActProto::Delete(selection.into()),
            TxnOperation::Get(selection) => ActProto::Get(selection.into()),
            TxnOperation::Put { key, value, lease } => ActProto::Put(PutProto {
                key: key.clone(),
                value: value.clone(),
                lease: lease.map(|lease| lease.0),
                condition: None,
            }),
        };
        Self { act: Some(act) }
    }
}

impl TryFrom<TxnOperationProto> for TxnOperation {
    type Error = WireError;

    fn try_from(proto: TxnOperationProto) -> Result<Self, WireError> {
        Ok(match required(proto.act)? {
            ActProto::Delete(selection) => Self::Delete(selection.try_into()?),
            ActProto::Get(selection) => Self::Get(selection.try_into()?),
            ActProto::Put(put) => {
                if put.condition.is_some() {
                    return Err(WireError::Malformed("a condition inside a transaction"));
                }
                Self::Put {
                    key: one_to(put.key, limits::KEY_BYTES_MAX)?,
                    value: at_most(put.value, limits::VALUE_BYTES_MAX)?,
                    lease: put.lease.map(LeaseId),
                }
            }
        })
    }
}
