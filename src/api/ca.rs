//! `/v1/ca`: the authority of the cluster, and its exchange.
//!
//! How the exchange goes on is decided in `enroll/`.

use std::sync::Arc;

use http::{Response, StatusCode};

use crate::api::types::{CaAnswer, CaFinishRequest, CaMemberView, CaPhase};
use crate::enroll::{CaMember, CaSeen, Enrolment, Phase};

use super::answer::{Stamp, json};
use super::body;
use super::context::{Ask, Context};
use super::params;
use super::problem::Fault;
use super::stream::Body;

/// `GET /v1/ca`
pub(super) fn status(context: &Context, ask: &Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    Ok(answer(context, enrolment(context)?.ca()))
}

/// `POST /v1/ca/rotate`
pub(super) async fn rotate(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    body::json::<Nothing>(ask.body, context.options.request_bytes_max).await?;
    let seen = enrolment(context)?.rotate().await?;
    Ok(answer(context, seen))
}

/// `POST /v1/ca/finish`
pub(super) async fn finish(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let request: CaFinishRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    if !request.force {
        return Err(Fault::invalid(
            "an exchange ends by itself; with \"force\" its present phase ends although members \
             are not done with it",
        ));
    }
    let seen = enrolment(context)?.force_rotation().await?;
    Ok(answer(context, seen))
}

/// A body without any field.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn enrolment(context: &Context) -> Result<&Arc<Enrolment>, Fault> {
    let none = || Fault::unavailable("this daemon has not started to its end");
    context.host.enrolment().ok_or_else(none)
}

fn answer(context: &Context, seen: CaSeen) -> Response<Body> {
    let CaSeen { pin, signers, rotation, members } = seen;
    let (phase, next_pin) = rotation.unzip();
    let phase = phase.map(|phase| match phase {
        Phase::Issue => CaPhase::Issue,
        Phase::Retire => CaPhase::Retire,
        Phase::Trust => CaPhase::Trust,
    });
    let view = |member: CaMember| CaMemberView {
        name: member.name,
        waits: member.waits,
        issuer: member.issuer,
        not_after_ms: member.not_after_ms,
    };
    let members = members.into_iter().map(view).collect();
    let answer = CaAnswer { pin, signers, phase, next_pin, members };
    json(StatusCode::OK, &answer, Stamp::of(&context.node.view()))
}
