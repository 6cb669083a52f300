//! `POST /v1/txn` and `POST /v1/compact`.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::types::{
    CompactAnswer, CompactRequest, Compare as CompareView, CompareOp as CompareOpView, Field,
    Operand, Target, TxnAnswer, TxnOperation as OperationView, TxnRequest, TxnResult as ResultView,
};
use crate::base::{LeaseId, Revision};
use crate::host::Wanted;
use crate::state::{
    Compare, CompareField, CompareOp, Operation, Outcome, Selection, Txn, TxnOperation, TxnResult,
};

use super::answer::json;
use super::body;
use super::context::{Ask, Context};
use super::kv::{another_request, record_view};
use super::params;
use super::permit::{Claimant, read_key, read_prefix, write_key, write_prefix};
use super::problem::Fault;
use super::stream::Body;

/// `POST /v1/txn`
pub(super) async fn txn(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let request: TxnRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    let txn = read(context, request)?;
    let (wanted, leases) = touched(&txn);
    context.permit(&ask.subject, wanted)?;
    let claimant = Claimant { subject: &ask.subject, idempotency: idempotency.as_ref(), timeout };
    context.own_leases(&claimant, leases).await?;
    let operation = Operation::Txn(txn);
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Txn { succeeded, revision, results } => {
            let result = |result| result_view(result, revision);
            let answer = TxnAnswer {
                succeeded,
                revision: revision.get(),
                results: results.into_iter().map(result).collect(),
            };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

fn read(context: &Context, request: TxnRequest) -> Result<Txn, Fault> {
    let max = context.options.txn_operations_max;
    let lists = [
        ("\"if\"", request.compares.len()),
        ("\"then\"", request.then.len()),
        ("\"else\"", request.or_else.len()),
    ];
    if let Some((name, _)) = lists.into_iter().find(|(_, length)| *length > max) {
        return Err(Fault::too_large(name, max, "operations"));
    }
    let compares = request.compares.into_iter().map(|compare| read_compare(context, compare));
    let operations = |list: Vec<OperationView>| {
        let operations = list.into_iter().map(|operation| read_operation(context, operation));
        operations.collect::<Result<Vec<_>, _>>()
    };
    Ok(Txn {
        compares: compares.collect::<Result<_, _>>()?,
        then: operations(request.then)?,
        or_else: operations(request.or_else)?,
    })
}

/// Everything that a transaction may touch, whichever of its lists is done, and the leases that it
/// attaches keys to. A comparison tells what it compares, so it reads.
pub(super) fn touched(txn: &Txn) -> (Vec<Wanted>, Vec<LeaseId>) {
    let mut wanted: Vec<Wanted> =
        txn.compares.iter().map(|compare| read_key(&compare.key)).collect();
    let mut leases = Vec::new();
    for operation in txn.then.iter().chain(&txn.or_else) {
        wanted.push(match operation {
            TxnOperation::Delete(Selection::Key(key)) => write_key(key),
            TxnOperation::Delete(Selection::Prefix(prefix)) => write_prefix(prefix),
            TxnOperation::Get(Selection::Key(key)) => read_key(key),
            TxnOperation::Get(Selection::Prefix(prefix)) => read_prefix(prefix),
            TxnOperation::Put { key, lease, .. } => {
                leases.extend(*lease);
                write_key(key)
            }
        });
    }
    if wanted.is_empty() {
        // It still takes a place in the log.
        wanted.push(Wanted::Lease);
    }
    (wanted, leases)
}

fn read_compare(context: &Context, compare: CompareView) -> Result<Compare, Fault> {
    context.check_key(&compare.key)?;
    let field = match (compare.field, compare.value) {
        (Field::CreateRevision, Operand::Number(number)) => {
            CompareField::CreateRevision(Revision(number))
        }
        (Field::ModRevision, Operand::Number(number)) => {
            CompareField::ModRevision(Revision(number))
        }
        (Field::Version, Operand::Number(number)) => CompareField::Version(number),
        (Field::Lease, Operand::Bytes(text)) => {
            CompareField::Lease(params::lease_id(&text, "value")?)
        }
        (Field::Lease, Operand::Number(0)) => CompareField::Lease(LeaseId(0)),
        (Field::Value, Operand::Bytes(value)) => {
            context.check_value(&value)?;
            CompareField::Value(value)
        }
        (Field::Value, Operand::Number(_)) => {
            return Err(Fault::invalid("\"value\" of a comparison of values is a string"));
        }
        (Field::Lease, Operand::Number(_)) => {
            return Err(Fault::invalid("\"value\" of a comparison of leases is an id as a string"));
        }
        (_, Operand::Bytes(_)) => {
            return Err(Fault::invalid("\"value\" of a comparison of revisions is a number"));
        }
    };
    let op = match compare.op {
        CompareOpView::Equal => CompareOp::Equal,
        CompareOpView::Greater => CompareOp::Greater,
        CompareOpView::Less => CompareOp::Less,
        CompareOpView::NotEqual => CompareOp::NotEqual,
    };
    Ok(Compare { key: compare.key, field, op })
}

fn read_operation(context: &Context, operation: OperationView) -> Result<TxnOperation, Fault> {
    match operation {
        OperationView::Delete(target) => {
            match &target {
                Target::Key(key) => context.check_written_key(key)?,
                Target::Prefix(prefix) if prefix.starts_with(b"_") => return Err(Fault::reserved()),
                Target::Prefix(prefix) if prefix.is_empty() => {
                    return Err(Fault::invalid("a transaction may not delete an empty \"prefix\""));
                }
                Target::Prefix(prefix) => context.check_key(prefix)?,
            }
            Ok(TxnOperation::Delete(selection(target)))
        }
        OperationView::Get(target) => {
            let (Target::Key(bytes) | Target::Prefix(bytes)) = &target;
            match matches!(target, Target::Prefix(_)) && bytes.is_empty() {
                true => {}
                false => context.check_key(bytes)?,
            }
            Ok(TxnOperation::Get(selection(target)))
        }
        OperationView::Put { key, value, lease } => {
            context.check_written_key(&key)?;
            context.check_value(&value)?;
            Ok(TxnOperation::Put { key, value, lease: lease.map(|lease| LeaseId(lease.0)) })
        }
    }
}

fn selection(target: Target) -> Selection {
    match target {
        Target::Key(key) => Selection::Key(key),
        Target::Prefix(prefix) => Selection::Prefix(prefix),
    }
}

fn result_view(result: TxnResult, revision: Revision) -> ResultView {
    match result {
        TxnResult::Deleted(deleted) => ResultView::Delete { deleted },
        TxnResult::Got(records) => ResultView::Get {
            count: records.len() as u64,
            keys: records.iter().map(record_view).collect(),
        },
        TxnResult::Put { create_revision, version } => ResultView::Put {
            create_revision: create_revision.get(),
            mod_revision: revision.get(),
            version,
        },
    }
}

/// `POST /v1/compact`
pub(super) async fn compact(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let timeout = ask.params(&[])?.timeout()?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let request: CompactRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    let operation = Operation::Compact { revision: Revision(request.revision) };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Compacted { compact_revision, revision } => {
            let answer = CompactAnswer {
                compact_revision: compact_revision.get(),
                revision: revision.get(),
            };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

/// A name of a lock or an election.
pub(super) fn check_name(name: &Bytes) -> Result<(), Fault> {
    let max = crate::base::limits::NAME_BYTES_MAX;
    if name.len() > max { Err(Fault::too_large("the name", max, "bytes")) } else { Ok(()) }
}
