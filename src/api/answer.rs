//! How answers are put together: JSON, and the headers that say which state they reflect.

use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::base::{Epoch, Revision};
use crate::replica::View;

use super::stream::Body;

/// The header that names the store revision that an answer reflects.
pub(super) const REVISION: HeaderName = HeaderName::from_static("quorumd-revision");
/// The header that names the epoch that revisions belong to.
pub(super) const EPOCH: HeaderName = HeaderName::from_static("quorumd-epoch");

/// The state that an answer reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The store's revision.
    pub(super) revision: Revision,
    /// The history that it belongs to.
    pub(super) epoch: Epoch,
}

impl Stamp {
    /// The state as it can be read now.
    pub(super) fn of(view: &View) -> Self {
        Self { revision: view.machine.revision(), epoch: view.machine.epoch() }
    }
}

/// Writes the headers of a stamp.
pub(super) fn stamp(headers: &mut HeaderMap, stamp: Stamp) {
    headers.insert(REVISION, HeaderValue::from(stamp.revision.get()));
    headers.insert(EPOCH, HeaderValue::from(stamp.epoch.get()));
}

/// A JSON answer about a state.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T, seen: Stamp) -> Response<Body> {
    let mut text = serde_json::to_vec(value).expect("the types of the API serialise");
    text.push(b'\n');
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    stamp(headers, seen);
    response
}

/// The entity tag of a key's last change.
pub(super) fn etag(headers: &mut HeaderMap, revision: Revision) {
    let tag = HeaderValue::from_maybe_shared(bytes::Bytes::from(format!("\"{revision}\"")));
    headers.insert(ETAG, tag.expect("digits in quotes are a legal header"));
}
