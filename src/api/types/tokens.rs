//! Join tokens.

use serde::{Deserialize, Serialize};

use crate::api::types::{DurationText, MemberRole};

/// The body of `POST /v1/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What the host may become; a learner unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
    /// How long it lives; an hour unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// The only name that it may be used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The member of that name is to be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// The answer to `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The whole token: a secret, which is never told again.
    pub token: String,
    /// What can be seen of it later.
    #[serde(flatten)]
    pub seen: TokenView,
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Names it.
    pub id: String,
    /// What the host may become.
    pub role: MemberRole,
    /// The only name that it may be used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the member of that name is to be replaced.
    #[serde(default)]
    pub replace: bool,
    /// What has become of it.
    pub state: TokenPhase,
    /// Who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
    /// How long it is good for; zero when it has ended.
    pub remaining_ms: u64,
}

/// What has become of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenPhase {
    /// Its time is over.
    Expired,
    /// It can be used.
    Open,
    /// It was revoked.
    Revoked,
    /// It was used.
    Used,
    /// Something that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The answer to `GET /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensAnswer {
    /// By id.
    pub tokens: Vec<TokenView>,
}
