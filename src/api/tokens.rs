//! `/v1/tokens`: join tokens for administrators.
//!
//! What a token is good for, and that it is used once, is decided in `enroll/`.

use http::{Response, StatusCode};

use crate::api::types::{
    DurationText, MemberRole, TokenAnswer, TokenPhase, TokenRequest, TokenView, TokensAnswer,
};
use crate::base::Span;
use crate::enroll::{
    EnrollError, Role, TokenOrder, TokenSeen, TokenState, create_token, list_tokens, revoke_token,
};

use super::answer::{Stamp, json};
use super::body;
use super::context::{Ask, Context};
use super::params;
use super::problem::Fault;
use super::stream::Body;

/// How long a token lives when nothing is said.
const LIFE_DEFAULT: Span = Span::from_secs(60 * 60);

/// `POST /v1/tokens`
pub(super) async fn create(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    if params::idempotency(&ask.parts.headers, ask.caller.uid)?.is_some() {
        let sentence = "a token is told once: this request has no \"Idempotency-Key\"";
        return Err(Fault::invalid(sentence));
    }
    let request: TokenRequest = body::json(ask.body, context.options.request_bytes_max).await?;
    let life = |DurationText(ttl): DurationText| {
        Span::from_micros(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX))
    };
    let order = TokenOrder {
        role: match request.role {
            Some(MemberRole::Voter) => Role::Voter,
            Some(MemberRole::Learner) | None => Role::Learner,
            Some(MemberRole::Unknown) => {
                return Err(Fault::invalid("\"role\" is neither \"learner\" nor \"voter\""));
            }
        },
        life: request.ttl.map_or(LIFE_DEFAULT, life),
        name: request.name,
        replace: request.replace,
        uid: ask.caller.uid,
    };
    let (token, seen) = create_token(&context.node, &order).await?;
    let answer = TokenAnswer { token, seen: view(seen) };
    Ok(json(StatusCode::CREATED, &answer, stamp(context)))
}

/// `GET /v1/tokens`
pub(super) async fn list(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let tokens = list_tokens(&context.node).await?.into_iter().map(view).collect();
    Ok(json(StatusCode::OK, &TokensAnswer { tokens }, stamp(context)))
}

/// `DELETE /v1/tokens/{id}`
pub(super) async fn revoke(
    context: &Context,
    ask: Ask,
    id: String,
) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let seen = revoke_token(&context.node, &id).await?;
    Ok(json(StatusCode::OK, &view(seen), stamp(context)))
}

fn stamp(context: &Context) -> Stamp {
    Stamp::of(&context.node.view())
}

fn view(seen: TokenSeen) -> TokenView {
    let TokenSeen { id, role, name, replace, expires_ms, remaining_ms, state } = seen;
    let (state, used_by) = match state {
        TokenState::Used { name, .. } => (TokenPhase::Used, Some(name)),
        TokenState::Revoked => (TokenPhase::Revoked, None),
        TokenState::Open if remaining_ms == 0 => (TokenPhase::Expired, None),
        TokenState::Open => (TokenPhase::Open, None),
    };
    let role = match role {
        Role::Learner => MemberRole::Learner,
        Role::Voter => MemberRole::Voter,
    };
    TokenView { id, role, name, replace, state, used_by, expires_ms, remaining_ms }
}

impl From<EnrollError> for Fault {
    fn from(error: EnrollError) -> Self {
        match error {
            EnrollError::Invalid(detail) => Fault::invalid(detail),
            EnrollError::Request(error) => error.into(),
            EnrollError::Unmet(detail) => Fault::unmet(detail),
            other => Fault::token_not_found(other.to_string()),
        }
    }
}
