//! The authority of the cluster.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/ca`, `POST /v1/ca/rotate` and `POST /v1/ca/finish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaAnswer {
    /// The pin of the authority that signs, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The voters that hold its key.
    pub signers: Vec<String>,
    /// How far an exchange of the authority is, if one is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<CaPhase>,
    /// The pin of the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_pin: Option<String>,
    /// All members, by name.
    pub members: Vec<CaMemberView>,
}

/// One member's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaMemberView {
    /// Its name.
    pub name: String,
    /// Whether the exchange waits for it.
    pub waits: bool,
    /// The pin of the authority that signed it, if it has reported that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When it ends, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after_ms: Option<u64>,
}

/// How far an exchange of the authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaPhase {
    /// Every member gets a certificate of the new one.
    Issue,
    /// Every member forgets the old one.
    Retire,
    /// Every member trusts both.
    Trust,
    /// Something that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The body of `POST /v1/ca/finish`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaFinishRequest {
    /// End the present phase although members are not done with it.
    #[serde(default)]
    pub force: bool,
}
