//! `/healthz`, `/readyz` and `/metrics`: for supervisors, not for applications.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use crate::replica::{RequestError, UnavailableReason};
use crate::telemetry::{METRICS_CONTENT_TYPE, render};

use super::context::Context;
use super::file_status;
use super::problem::Fault;
use super::stream::Body;

/// `GET /healthz`: the process answers.
pub(super) fn alive() -> Response<Body> {
    text("ok\n", HeaderValue::from_static("text/plain; charset=utf-8"))
}

/// `GET /readyz`: there is a leader, and this node is caught up.
pub(super) fn ready(context: &Context) -> Result<Response<Body>, Fault> {
    let status = context.node.status();
    if status.draining {
        return Err(RequestError::Unavailable(UnavailableReason::ShuttingDown).into());
    }
    if let Some(removal) = status.replica.removed {
        return Err(removal.into());
    }
    if status.replica.fence.is_some() {
        return Err(Fault::diverged());
    }
    if status.replica.leader.is_none() {
        return Err(Fault::no_leader());
    }
    if !status.replica.ready {
        return Err(RequestError::NotReady.into());
    }
    Ok(text("ready\n", HeaderValue::from_static("text/plain; charset=utf-8")))
}

/// `GET /metrics`: Prometheus text.
pub(super) fn metrics(context: &Context) -> Response<Body> {
    let media_type = HeaderValue::from_static(METRICS_CONTENT_TYPE);
    text(render(&context.node.status(), &file_status::gauges(&context.host)), media_type)
}

fn text(text: impl Into<bytes::Bytes>, media_type: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}
