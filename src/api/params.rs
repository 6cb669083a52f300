//! How the query, the path and the conditional headers of a request are read: strictly.
//!
//! What is not understood is refused with its name, because a typo must not silently drop a
//! precondition. What the values mean is decided by the handlers.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, IF_MATCH, IF_NONE_MATCH};

use crate::api::types::{DurationText, HexId};
use crate::base::{LeaseId, Revision, Span, limits};
use crate::node::Consistency;
use crate::state::{Condition, IdempotencyKey};

use super::problem::Fault;

/// The parameters of a query, each known and there once.
#[derive(Debug)]
pub(super) struct Params<'a> {
    pairs: Vec<(&'a str, Cow<'a, [u8]>)>,
}

impl<'a> Params<'a> {
    /// Reads a query. `allowed` are the names that the request may use, besides `timeout`.
    pub(super) fn parse(query: Option<&'a str>, allowed: &[&str]) -> Result<Self, Fault> {
        let mut pairs: Vec<(&str, Cow<'a, [u8]>)> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if name != "timeout" && !allowed.contains(&name) {
                let known = allowed.join(", ");
                return Err(Fault::invalid(format!(
                    "unknown query parameter {name:?}; this request takes: timeout, {known}"
                )));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Fault::invalid(format!("query parameter {name:?} is there twice")));
            }
            let value = decode(value, Plus::IsSpace)
                .ok_or_else(|| Fault::invalid(format!("{name:?} has a % without two digits")))?;
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The bytes of a parameter.
    pub(super) fn bytes(&self, name: &str) -> Option<Bytes> {
        self.raw(name).map(Bytes::copy_from_slice)
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let digits = !raw.is_empty() && raw.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(raw).ok().and_then(|text| text.parse().ok());
        match number.filter(|_| digits) {
            Some(number) => Ok(Some(number)),
            None => Err(Fault::invalid(format!("{name:?} is not a number in 0..2^64"))),
        }
    }

    /// A revision.
    pub(super) fn revision(&self, name: &str) -> Result<Option<Revision>, Fault> {
        Ok(self.number(name)?.map(Revision))
    }

    /// `true` or `false`; false when it is not there.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.raw(name) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(Fault::invalid(format!("{name:?} is neither true nor false"))),
        }
    }

    /// A lease.
    pub(super) fn lease(&self, name: &str) -> Result<Option<LeaseId>, Fault> {
        self.raw(name).map(|raw| lease_id(raw, name)).transpose()
    }

    /// How long the request may take.
    pub(super) fn timeout(&self) -> Result<Span, Fault> {
        let Some(raw) = self.raw("timeout") else { return Ok(limits::TIMEOUT_DEFAULT) };
        let text = String::from_utf8_lossy(raw);
        let duration: DurationText = text
            .parse()
            .map_err(|error| Fault::invalid(format!("\"timeout\": {text:?} {error}")))?;
        let span = span(duration);
        if span == Span::ZERO || span > limits::TIMEOUT_MAX {
            let max = limits::TIMEOUT_MAX.as_millis() / 1_000;
            return Err(Fault::invalid(format!("\"timeout\" is not in 1ms..{max}s")));
        }
        Ok(span)
    }

    /// How fresh a read must be.
    pub(super) fn consistency(&self) -> Result<Freshness, Fault> {
        let local = match self.raw("consistency") {
            None | Some(b"linearizable") => false,
            Some(b"local") => true,
            Some(_) => {
                return Err(Fault::invalid("\"consistency\" is neither local nor linearizable"));
            }
        };
        Ok(Freshness { local, min_revision: self.revision("min_revision")? })
    }

    fn raw(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    /// This node's own state will do.
    pub(super) local: bool,
    /// But not an older one than this.
    pub(super) min_revision: Option<Revision>,
}

impl Freshness {
    /// The barriers to pass, in order.
    pub(super) fn barriers(self) -> impl Iterator<Item = Consistency> {
        let confirmed = (!self.local).then_some(Consistency::Linearizable);
        let own = (self.local || self.min_revision.is_some())
            .then_some(Consistency::Local { min_revision: self.min_revision });
        confirmed.into_iter().chain(own)
    }
}

/// Microseconds of a duration text, or the longest span there is.
pub(super) fn span(duration: DurationText) -> Span {
    Span::from_micros(u64::try_from(duration.0.as_micros()).unwrap_or(u64::MAX))
}

/// A lease id.
pub(super) fn lease_id(raw: &[u8], name: &str) -> Result<LeaseId, Fault> {
    let text = String::from_utf8_lossy(raw);
    let id: HexId =
        text.parse().map_err(|error| Fault::invalid(format!("\"{name}\": {text:?} {error}")))?;
    Ok(LeaseId(id.0))
}

/// A resource name from the rest of a path, percent-decoded once.
pub(super) fn path_bytes(raw: &str, what: &str) -> Result<Bytes, Fault> {
    match decode(raw, Plus::IsPlus) {
        Some(decoded) if decoded.is_empty() => Err(Fault::invalid(format!("the {what} is empty"))),
        Some(decoded) => Ok(Bytes::copy_from_slice(&decoded)),
        None => Err(Fault::invalid(format!("the {what} has a % without two digits after it"))),
    }
}

/// What `+` stands for. Every form encoder writes a space of a query as `+`, and nobody does in a
/// path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    IsPlus,
    IsSpace,
}

fn decode(text: &str, plus: Plus) -> Option<Cow<'_, [u8]>> {
    let raw = text.as_bytes();
    let special = |byte: &u8| *byte == b'%' || (*byte == b'+' && plus == Plus::IsSpace);
    if !raw.iter().any(special) {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        match byte {
            b'%' => {
                let digits = raw.get(at + 1..at + 3)?;
                let high = char::from(digits[0]).to_digit(16)?;
                let low = char::from(digits[1]).to_digit(16)?;
                decoded.push(u8::try_from(high * 16 + low).ok()?);
                at += 2;
            }
            b'+' if plus == Plus::IsSpace => decoded.push(b' '),
            other => decoded.push(*other),
        }
        at += 1;
    }
    Some(Cow::Owned(decoded))
}

/// What `If-Match` and `If-None-Match` ask of a write.
pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Fault> {
    let (matches, none) = (single(headers, IF_MATCH)?, single(headers, IF_NONE_MATCH)?);
    match (matches, none) {
        (None, None) => Ok(Condition::None),
        (Some(tag), None) => match revision_of(tag.trim()) {
            Some(Revision(0)) => Ok(Condition::Absent),
            Some(revision) => Ok(Condition::ModRevision(revision)),
            None => Err(Fault::invalid(
                "\"If-Match\" takes one revision in double quotes, such as \"42\"",
            )),
        },
        (None, Some(tag)) if tag.trim() == "*" => Ok(Condition::Absent),
        (None, Some(_)) => Err(Fault::invalid("\"If-None-Match\" of a write takes only *")),
        (Some(_), Some(_)) => {
            Err(Fault::invalid("\"If-Match\" and \"If-None-Match\" exclude each other"))
        }
    }
}

/// What `If-None-Match` asks of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoneMatch {
    /// Nothing.
    Absent,
    /// `*`: anything the caller has is good enough.
    Any,
    /// The caller has these.
    Revisions(Vec<Revision>),
}

impl NoneMatch {
    /// Reads the header.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, Fault> {
        if headers.contains_key(IF_MATCH) {
            return Err(Fault::invalid("\"If-Match\" is for writes"));
        }
        let Some(text) = single(headers, IF_NONE_MATCH)? else { return Ok(Self::Absent) };
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let tags = text.split(',').map(|tag| tag.trim());
        let revisions = tags.map(|tag| revision_of(tag.strip_prefix("W/").unwrap_or(tag)));
        revisions.collect::<Option<Vec<_>>>().map(Self::Revisions).ok_or_else(|| {
            Fault::invalid("\"If-None-Match\" takes revisions in double quotes, such as \"42\"")
        })
    }

    /// Whether the caller has this revision already.
    pub(super) fn holds(&self, revision: Revision) -> bool {
        match self {
            Self::Absent => false,
            Self::Any => true,
            Self::Revisions(revisions) => revisions.contains(&revision),
        }
    }
}

/// A revision in double quotes.
fn revision_of(tag: &str) -> Option<Revision> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(Revision)
}

/// A header that may be there once.
fn single(headers: &HeaderMap, name: http::HeaderName) -> Result<Option<&str>, Fault> {
    let mut values = headers.get_all(&name).iter();
    let (first, second) = (values.next(), values.next());
    match (first.map(|value| value.to_str()), second) {
        (None, _) => Ok(None),
        (Some(Ok(text)), None) => Ok(Some(text)),
        _ => Err(Fault::invalid(format!("header \"{name}\" is there twice or is not ASCII"))),
    }
}

/// Preconditions that a request does not know must not be ignored.
pub(super) fn refuse_conditions(headers: &HeaderMap) -> Result<(), Fault> {
    for name in ["if-match", "if-none-match"] {
        if headers.contains_key(name) {
            return Err(Fault::invalid(format!("this request takes no {name:?} header")));
        }
    }
    Ok(())
}

/// The caller's own name for its request.
pub(super) fn idempotency(headers: &HeaderMap, uid: u32) -> Result<Option<IdempotencyKey>, Fault> {
    const NAME: http::HeaderName = http::HeaderName::from_static("idempotency-key");
    let Some(text) = single(headers, NAME)? else { return Ok(None) };
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX || !visible {
        return Err(Fault::invalid("\"Idempotency-Key\" is not 1 to 128 visible ASCII characters"));
    }
    Ok(Some(IdempotencyKey { uid, key: text.to_owned() }))
}

/// Whether the caller asked for this media type by name.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|range| {
            let name = range.split(';').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case(media_type)
        })
    })
}
