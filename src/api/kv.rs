//! `/v1/kv`: keys and lists of keys.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use crate::api::types::{DeleteAnswer, HexId, ListAnswer, PutAnswer, Record as RecordView};
use crate::base::{Revision, Span, limits};
use crate::state::{
    Condition, Operation, Outcome, Page, RangeContent, RangeQuery, Record, Selection,
};
use crate::watch::{Delivery, Filter, WatchRequest};

use super::answer::{Stamp, etag, json, stamp};
use super::body;
use super::context::{Ask, Context};
use super::params::{self, NoneMatch, accepts};
use super::permit::{Claimant, Permit, read_key, read_prefix, write_key, write_prefix};
use super::problem::Fault;
use super::reservation;
use super::stream::Body;

const CREATE_REVISION: HeaderName = HeaderName::from_static("quorumd-create-revision");
const MOD_REVISION: HeaderName = HeaderName::from_static("quorumd-mod-revision");
const VERSION: HeaderName = HeaderName::from_static("quorumd-version");
const LEASE: HeaderName = HeaderName::from_static("quorumd-lease");

/// `GET /v1/kv/{key}`
pub(super) async fn get(context: &Context, ask: Ask, key: Bytes) -> Result<Response<Body>, Fault> {
    let params = ask.params(&["consistency", "min_revision", "revision", "wait_after"])?;
    context.check_key(&key)?;
    let none_match = NoneMatch::parse(&ask.parts.headers)?;
    let (at, wait_after) = (params.revision("revision")?, params.revision("wait_after")?);
    if at.is_some() && wait_after.is_some() {
        return Err(Fault::invalid("\"revision\" and \"wait_after\" exclude each other"));
    }
    let timeout = params.timeout()?;
    let permit = context.permit(&ask.subject, vec![read_key(&key)])?;
    let deadline = Instant::now() + duration(timeout);
    context.fresh(params.consistency()?, timeout).await?;
    let as_json = accepts(&ask.parts.headers, "application/json");
    let (mut record, mut seen) = read(context, &key, at)?;
    if let Some(after) = wait_after {
        let changed = changed_after(context, &permit, &key, record.as_ref(), after, seen, deadline);
        let changed = changed.await;
        context.check(&permit)?;
        (record, seen) = read(context, &key, None)?;
        if !changed {
            return Ok(not_modified(record.as_ref(), seen));
        }
    }
    let Some(record) = record else { return Err(Fault::key_not_found(seen)) };
    if none_match.holds(record.mod_revision) {
        return Ok(not_modified(Some(&record), seen));
    }
    let mut response = if as_json {
        json(StatusCode::OK, &record_view(&record), seen)
    } else {
        let mut response = Response::new(Body::full(record.value.clone()));
        let media_type = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        response
    };
    describe(&mut response, &record, seen);
    Ok(response)
}

fn read(
    context: &Context,
    key: &Bytes,
    at: Option<Revision>,
) -> Result<(Option<Record>, Stamp), Fault> {
    let view = context.node.view();
    let mut seen = Stamp::of(&view);
    seen.revision = at.unwrap_or(seen.revision);
    Ok((view.machine.get(key, at)?, seen))
}

/// Waits until the key has changed after a revision, or was deleted after it; false at the
/// deadline.
async fn changed_after(
    context: &Context,
    permit: &Permit,
    key: &Bytes,
    record: Option<&Record>,
    after: Revision,
    seen: Stamp,
    deadline: Instant,
) -> bool {
    // A key that is there and has not changed since has no event that matters up to `seen`; one
    // that is not may have been deleted at any revision after the one that the caller knows.
    let from = match record {
        Some(record) if record.mod_revision > after => return true,
        Some(_) => after.max(seen.revision),
        None => after,
    };
    let request = WatchRequest {
        filter: Filter::Key(key.clone()),
        from: Some(Revision(from.get().saturating_add(1))),
        initial: false,
        previous: false,
        resume_after: None,
        epoch: Some(seen.epoch),
    };
    // What is compacted cannot be told any more: let the caller look at what there is now.
    let Ok(mut watcher) = context.node.watch(request) else { return true };
    let change = async {
        loop {
            match watcher.next(limits::PAGE_BYTES_MAX).await {
                Delivery::Changes { .. } | Delivery::Ended(_) => return true,
                _ => {}
            }
        }
    };
    tokio::select! {
        changed = change => changed,
        () = tokio::time::sleep_until(deadline) => false,
        () = context.ended(permit) => false,
    }
}

fn not_modified(record: Option<&Record>, seen: Stamp) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    match record {
        Some(record) => describe(&mut response, record, seen),
        None => stamp(response.headers_mut(), seen),
    }
    response
}

fn describe(response: &mut Response<Body>, record: &Record, seen: Stamp) {
    let headers = response.headers_mut();
    stamp(headers, seen);
    etag(headers, record.mod_revision);
    headers.insert(CREATE_REVISION, HeaderValue::from(record.create_revision.get()));
    headers.insert(MOD_REVISION, HeaderValue::from(record.mod_revision.get()));
    headers.insert(VERSION, HeaderValue::from(record.version));
    if let Some(lease) = record.lease {
        let text = HeaderValue::from_maybe_shared(Bytes::from(lease.to_string()));
        headers.insert(LEASE, text.expect("hexadecimal digits are a legal header"));
    }
}

/// `PUT /v1/kv/{key}`
pub(super) async fn put(context: &Context, ask: Ask, key: Bytes) -> Result<Response<Body>, Fault> {
    let params = ask.params(&["lease"])?;
    reservation::check_key(context, &key)?;
    let (lease, timeout) = (params.lease("lease")?, params.timeout()?);
    let is_reservation = reservation::name(&key).is_some();
    if is_reservation && lease.is_some() {
        return Err(Fault::invalid("\"lease\": a reservation ends with no lease"));
    }
    let condition = params::condition(&ask.parts.headers)?;
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    context.permit(&ask.subject, vec![write_key(&key)])?;
    let claimant = Claimant { subject: &ask.subject, idempotency: idempotency.as_ref(), timeout };
    context.own_leases(&claimant, lease).await?;
    let value = body::read(ask.body, context.options.value_bytes_max, "the value").await?;
    let value = if is_reservation { reservation::canonical(context, &value)? } else { value };
    let operation = Operation::Put { key: key.clone(), value, lease, condition };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Put { revision, create_revision, version } => {
            let created = version == 1;
            let answer = PutAnswer {
                key,
                revision: revision.get(),
                create_revision: create_revision.get(),
                mod_revision: revision.get(),
                version,
            };
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            let mut response = json(status, &answer, context.stamp(revision));
            etag(response.headers_mut(), revision);
            Ok(response)
        }
        other => Err(another_request(&other)),
    }
}

/// `DELETE /v1/kv/{key}`
pub(super) async fn delete(
    context: &Context,
    ask: Ask,
    key: Bytes,
) -> Result<Response<Body>, Fault> {
    let timeout = ask.params(&[])?.timeout()?;
    reservation::check_key(context, &key)?;
    if ask.parts.headers.contains_key(http::header::IF_NONE_MATCH) {
        return Err(Fault::invalid("\"If-None-Match\" makes no sense for a deletion"));
    }
    let condition = params::condition(&ask.parts.headers)?;
    context.permit(&ask.subject, vec![write_key(&key)])?;
    remove(context, &ask, Selection::Key(key), condition, timeout).await
}

/// `DELETE /v1/kv?prefix=`
pub(super) async fn delete_prefix(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&["prefix", "all"])?;
    let (timeout, all) = (params.timeout()?, params.flag("all")?);
    let prefix = params.bytes("prefix").ok_or_else(|| Fault::invalid("\"prefix\" is missing"))?;
    if prefix.is_empty() && !all {
        let detail = "an empty prefix deletes every key: say so with all=true";
        return Err(Fault::invalid(detail));
    }
    check_prefix(context, &prefix)?;
    if prefix.starts_with(b"_") {
        return Err(Fault::reserved());
    }
    context.permit(&ask.subject, vec![write_prefix(&prefix)])?;
    remove(context, &ask, Selection::Prefix(prefix), Condition::None, timeout).await
}

async fn remove(
    context: &Context,
    ask: &Ask,
    selection: Selection,
    condition: Condition,
    timeout: Span,
) -> Result<Response<Body>, Fault> {
    let idempotency = params::idempotency(&ask.parts.headers, ask.caller.uid)?;
    let operation = Operation::Delete { selection, condition };
    let outcome = context.node.submit(operation, idempotency, timeout).await?;
    match context.unrefused(outcome)? {
        Outcome::Deleted { deleted, revision } => {
            let answer = DeleteAnswer { deleted, revision: revision.get() };
            Ok(json(StatusCode::OK, &answer, context.stamp(revision)))
        }
        other => Err(another_request(&other)),
    }
}

/// `GET /v1/kv?prefix=`
pub(super) async fn list(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    let params = ask.params(&[
        "prefix",
        "limit",
        "start_after",
        "keys_only",
        "count_only",
        "revision",
        "consistency",
        "min_revision",
    ])?;
    let prefix = params.bytes("prefix").ok_or_else(|| Fault::invalid("\"prefix\" is missing"))?;
    check_prefix(context, &prefix)?;
    context.permit(&ask.subject, vec![read_prefix(&prefix)])?;
    let content = match (params.flag("keys_only")?, params.flag("count_only")?) {
        (_, true) => RangeContent::Count,
        (true, false) => RangeContent::Keys,
        (false, false) => RangeContent::Records,
    };
    let query = RangeQuery {
        prefix,
        start_after: params.bytes("start_after"),
        limit: limit(&params)?,
        bytes_max: limits::PAGE_BYTES_MAX,
        at: params.revision("revision")?,
        content,
    };
    context.fresh(params.consistency()?, params.timeout()?).await?;
    let (page, mut seen) = {
        let view = context.node.view();
        (page(&view.machine, query)?, Stamp::of(&view))
    };
    seen.revision = page.revision;
    let with_value = content == RangeContent::Records;
    let view = |record: &Record| match with_value {
        true => record_view(record),
        false => RecordView { value: None, ..record_view(record) },
    };
    let answer = ListAnswer {
        revision: page.revision.get(),
        count: page.count,
        keys: page.records.iter().map(view).collect(),
        more: page.more,
    };
    Ok(json(StatusCode::OK, &answer, seen))
}

/// How many a page may hold.
pub(super) fn limit(params: &params::Params<'_>) -> Result<usize, Fault> {
    let max = limits::LIST_KEYS_MAX;
    match params.number("limit")? {
        None => Ok(limits::LIST_KEYS_DEFAULT),
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=max).contains(limit))
            .ok_or_else(|| Fault::invalid(format!("\"limit\" is not in 1..={max}"))),
    }
}

fn check_prefix(context: &Context, prefix: &[u8]) -> Result<(), Fault> {
    let max = context.options.key_bytes_max;
    match prefix.len() > max {
        true => Err(Fault::too_large("the prefix", max, "bytes")),
        false => Ok(()),
    }
}

/// A page; the empty prefix is every key outside the reserved namespace, as for watches and
/// deletions, where the store's own ranges take every key.
fn page(
    machine: &crate::state::StateMachine,
    mut query: RangeQuery,
) -> Result<Page, crate::state::QueryError> {
    if !query.prefix.is_empty() {
        return machine.range(&query);
    }
    let reserved = RangeQuery {
        prefix: Bytes::from_static(b"_"),
        start_after: None,
        content: RangeContent::Count,
        ..query.clone()
    };
    let reserved = machine.range(&reserved)?.count;
    let mut page = machine.range(&query)?;
    page.count -= reserved;
    let before = page.records.iter().position(|record| record.key.starts_with(b"_"));
    let Some(before) = before else { return Ok(page) };
    // No legal key of the namespace is longer, so that none comes after this one.
    let mut last = vec![b'_'];
    last.resize(limits::KEY_BYTES_MAX + 1, 0xff);
    page.records.truncate(before);
    query.limit -= before;
    query.start_after = Some(Bytes::from(last));
    let rest = machine.range(&query)?;
    page.records.extend(rest.records);
    page.more = rest.more;
    Ok(page)
}

/// A record as callers see it.
pub(super) fn record_view(record: &Record) -> RecordView {
    RecordView {
        key: record.key.clone(),
        value: Some(record.value.clone()),
        create_revision: record.create_revision.get(),
        mod_revision: record.mod_revision.get(),
        version: record.version,
        lease: record.lease.map(|lease| HexId(lease.get())),
    }
}

/// An outcome of another kind of operation: the caller's `Idempotency-Key` names another request.
pub(super) fn another_request(outcome: &Outcome) -> Fault {
    match outcome {
        Outcome::Duplicate => crate::replica::RequestError::OutcomeUnknown.into(),
        _ => Fault::conflict("this Idempotency-Key was used for another kind of request"),
    }
}

/// A span for tokio.
pub(super) fn duration(span: Span) -> Duration {
    Duration::from_micros(span.as_micros())
}
