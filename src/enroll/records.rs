//! What is kept in the store about tokens and joining hosts, and under which keys.
//!
//! The values are JSON, so that an administrator can read them; nothing in them is secret. Unknown
//! fields are skipped: members of different age read each other's.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Keys of tokens, by id.
pub(super) const TOKENS: &str = "_tokens/";
/// Keys of hosts that have a certificate and are not members yet, by name.
pub(super) const JOINS: &str = "_joins/";
/// Keys of members that hold the authority's key, by name.
pub(super) const SIGNERS: &str = "_ca/signers/";

/// The authority in force, once it was exchanged; what a signer holds.
pub(super) const AUTHORITY: &str = "_ca/authority";
/// The rotation that is under way.
pub(super) const ROTATION: &str = "_ca/rotation";
/// What members trust and are trusted by, by name.
pub(super) const NODES: &str = "_ca/nodes/";

/// What a host may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A learner.
    #[default]
    Learner,
    /// A voter, if it wants to; a learner otherwise.
    Voter,
}

/// `_tokens/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenRecord {
    /// The public half of the secret, base64 for URLs.
    pub verifier: String,
    pub role: Role,
    /// The only name that it may be used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the member of that name is to be replaced.
    #[serde(default)]
    pub replace: bool,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    /// Who made it: the node, and the user there.
    pub made_on: String,
    pub made_by: u32,
    #[serde(default)]
    pub state: TokenState,
}

/// What has become of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum TokenState {
    /// It can be used.
    #[default]
    Open,
    /// It was revoked.
    Revoked,
    /// It was used.
    Used {
        /// By whom.
        name: String,
        /// The pin of the key that was certified.
        key: String,
    },
}

/// `_joins/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JoinRecord {
    /// Where it listens.
    pub address: String,
    /// What it shall be in the end.
    pub role: Role,
    /// The token that let it in.
    pub token: String,
    /// The incarnation that it takes the place of, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
    /// The incarnation that was added, once it is a member: from then on its fate is the
    /// operators'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// When it is given up, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// `_ca/signers/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SignerRecord {
    /// The pin of the authority whose key it holds.
    pub pin: String,
}

/// How far the exchange of the authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Every member gets a certificate of the new one.
    Issue,
    /// Every member forgets the old one.
    Retire,
    /// Every member trusts both.
    Trust,
}

/// `_ca/rotation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RotationRecord {
    pub old_pin: String,
    pub new_pin: String,
    /// The new certificate.
    pub new_pem: String,
    pub phase: Phase,
    /// The member that has the new key.
    pub by: String,
    /// The phase ends although members are not done.
    #[serde(default)]
    pub force: bool,
}

impl RotationRecord {
    /// Whether a member that reports this is done with the present phase.
    pub(super) fn is_done(&self, node: &NodeRecord) -> bool {
        match self.phase {
            Phase::Issue => node.issuer.as_ref() == Some(&self.new_pin),
            Phase::Retire => node.trusts == [self.new_pin.clone()],
            Phase::Trust => node.trusts.contains(&self.new_pin),
        }
    }
}

/// `_ca/nodes/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    /// The pins of the authorities that it trusts, in order.
    pub trusts: Vec<String>,
    /// The pin of the one that has signed its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When its certificate ends, in milliseconds since 1970.
    pub not_after_ms: u64,
}

/// A record as a value.
pub(super) fn encode(record: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(record).expect("these records have only text keys"))
}

/// A value as a record; nothing when it is none.
pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests {
    use super::{JoinRecord, Role, TokenRecord, TokenState, decode, encode};

    /// What one version writes, others read: a change here is a change of format
    /// (docs/formats.md).
    #[test]
    fn records_have_the_form_that_is_documented() {
        let mut token = TokenRecord {
            verifier: "v".to_owned(),
            role: Role::Voter,
            name: None,
            replace: false,
            expires_ms: 7,
            made_on: "web1".to_owned(),
            made_by: 0,
            state: TokenState::Open,
        };
        let text = concat!(
            r#"{"verifier":"v","role":"voter","replace":false,"expires_ms":7,"#,
            r#""made_on":"web1","made_by":0,"state":{"is":"open"}}"#
        );
        assert_eq!(encode(&token), text);
        token.state = TokenState::Used { name: "web2".to_owned(), key: "k".to_owned() };
        let text = text.replace(r#"{"is":"open"}"#, r#"{"is":"used","name":"web2","key":"k"}"#);
        assert_eq!(encode(&token), text);
        assert_eq!(decode::<TokenRecord>(text.as_bytes()), Some(token));
        let join = JoinRecord {
            address: "a:1".to_owned(),
            role: Role::Learner,
            token: "t".to_owned(),
            replaces: None,
            added: Some(5),
            expires_ms: 9,
        };
        let text = r#"{"address":"a:1","role":"learner","token":"t","added":5,"expires_ms":9}"#;
        assert_eq!(encode(&join), text);
        let newer = text.replace('{', r#"{"later":1,"#);
        assert_eq!(decode::<JoinRecord>(newer.as_bytes()), Some(join));
        assert_eq!(decode::<JoinRecord>(b"[]"), None);
    }
}
