//! How bodies of requests are read: within a size and a time, both enforced while reading.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde::de::DeserializeOwned;

use crate::base::limits;

use super::problem::Fault;

/// Most bytes that are read of a body only to be forgotten.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a body of at most `max` bytes.
pub(super) async fn read(body: Incoming, max: usize, what: &str) -> Result<Bytes, Fault> {
    if body.size_hint().lower() > max as u64 {
        discard(body).await;
        return Err(Fault::too_large(what, max, "bytes"));
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let limit = Duration::from_micros(limits::BODY_TIMEOUT.as_micros());
    match tokio::time::timeout(limit, collect(body, max, what)).await {
        Ok(result) => result,
        Err(_) => {
            let seconds = limit.as_secs();
            Err(Fault::invalid(format!("the body did not arrive within {seconds} s")))
        }
    }
}

async fn collect(mut body: Incoming, max: usize, what: &str) -> Result<Bytes, Fault> {
    let mut first = Bytes::new();
    let mut whole: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Fault::invalid(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = whole.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > max {
            discard(body).await;
            return Err(Fault::too_large(what, max, "bytes"));
        }
        match &mut whole {
            Some(whole) => whole.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity(so_far + data.len());
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                whole = Some(joined);
            }
        }
    }
    Ok(whole.map_or(first, BytesMut::freeze))
}

/// Reads what is too large and forgets it, within bounds: many clients read no answer before they
/// have sent everything, and take a closed socket for a failure of their own.
async fn discard(mut body: Incoming) {
    let rest = async {
        let mut left = DISCARDED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Whether it ended in time makes no difference to the answer.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}

/// Reads a JSON body; an empty one is `{}`. The media type is not looked at: curl's default is that
/// of forms.
pub(super) async fn json<T: DeserializeOwned>(body: Incoming, max: usize) -> Result<T, Fault> {
    let text = read(body, max, "the request").await?;
    let text = if text.is_empty() { b"{}".as_slice() } else { &text };
    // serde takes a list for the fields in the order of the code, which nobody is promised.
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(Fault::invalid("the JSON body: an object is expected, not a list"));
    }
    serde_json::from_slice(text).map_err(|error| Fault::invalid(format!("the JSON body: {error}")))
}
