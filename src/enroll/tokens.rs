//! Making, listing and revoking join tokens, through any member.
//!
//! How a token is used up is decided in `desk.rs`.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::sleep;

use crate::base::{Revision, Span, limits};
use crate::enroll::records::{Role, SIGNERS, SignerRecord, TOKENS, TokenRecord, TokenState};
use crate::enroll::store::{Change, Found, find, freshen, list, now_ms};
use crate::enroll::{EnrollError, desk};
use crate::node::{Node, NodeStatus};
use crate::pki::{JoinToken, Pin, is_id};

/// How long a signer is waited for, and between two looks.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// Shortest life of a token.
const LIFE_MIN: Span = Span::from_secs(1);

/// What a token shall be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrder {
    /// What the host may become.
    pub role: Role,
    /// How long the token lives; at most [`limits::JOIN_TOKEN_LIFE_MAX`].
    pub life: Span,
    /// The only name that it may be used for.
    pub name: Option<String>,
    /// The member of that name is to be replaced.
    pub replace: bool,
    /// The user who asks.
    pub uid: u32,
}

/// A token as administrators see it: without its secret, which nobody has but who was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSeen {
    /// Its id.
    pub id: String,
    /// What the host may become.
    pub role: Role,
    /// The only name that it may be used for.
    pub name: Option<String>,
    /// Whether the member of that name is to be replaced.
    pub replace: bool,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
    /// How long it is good for, in milliseconds; zero when it has ended.
    pub remaining_ms: u64,
    /// What has become of it.
    pub state: TokenState,
}

/// Makes a token, and answers with its whole text, the only time that anybody sees it.
pub async fn create_token(
    node: &Node,
    order: &TokenOrder,
) -> Result<(String, TokenSeen), EnrollError> {
    let lives = LIFE_MIN..=limits::JOIN_TOKEN_LIFE_MAX;
    if !lives.contains(&order.life) {
        return Err(EnrollError::Invalid("a join token lives between 1s and 24h".to_owned()));
    }
    if order.name.as_deref().is_some_and(|name| !desk::is_member_name(name)) {
        return Err(EnrollError::Invalid("\"name\" cannot be the name of a node".to_owned()));
    }
    if order.replace && order.name.is_none() {
        return Err(EnrollError::Invalid("\"replace\" needs a \"name\"".to_owned()));
    }
    freshen(node).await?;
    let give_up = Instant::now() + PATIENCE;
    let (status, (pin, addresses)) = loop {
        let status = node.status();
        match signers(node, &status) {
            Ok(found) => break (status, found),
            Err(error) if Instant::now() >= give_up => return Err(error),
            // The cluster may have started a moment ago.
            Err(_) => sleep(LOOK).await,
        }
    };
    if list::<TokenRecord>(node, TOKENS).len() >= limits::JOIN_TOKENS_MAX {
        let max = limits::JOIN_TOKENS_MAX;
        let sentence = format!("there are {max} join tokens: revoke some, or wait for their end");
        return Err(EnrollError::Unmet(sentence));
    }
    let token = JoinToken::create(&status.cluster_name, pin, addresses)
        .map_err(|fault| EnrollError::Unmet(fault.to_string()))?;
    let now = now_ms(node);
    let record = TokenRecord {
        verifier: URL_SAFE_NO_PAD.encode(token.verifier()),
        role: order.role,
        name: order.name.clone(),
        replace: order.replace,
        expires_ms: now.saturating_add(order.life.as_millis()),
        made_on: status.name.clone(),
        made_by: order.uid,
        state: TokenState::Open,
    };
    let key = format!("{TOKENS}{}", token.id);
    let made = Change::default().only_if(&key, Revision(0)).put(&key, &record).make(node).await?;
    if !made {
        return Err(EnrollError::Unmet("the token's id is taken; ask again".to_owned()));
    }
    let seen = seen(token.id.clone(), record, now);
    tracing::info!(token = %token.id, role = ?order.role, uid = order.uid, "join token made");
    Ok((token.reveal(), seen))
}

/// The pin of the authority in force, and where to ask: signers first, then other voters.
fn signers(node: &Node, status: &NodeStatus) -> Result<(Pin, Vec<String>), EnrollError> {
    let found = list::<SignerRecord>(node, SIGNERS);
    let members = &status.replica.members;
    let voter = |name: &str| members.iter().find(|member| member.voter && member.name == *name);
    let mut able = found
        .iter()
        .filter_map(|(name, found)| Some((voter(name)?, Pin::parse(&found.record.pin)?)));
    let Some((first, pin)) = able.next() else {
        return Err(EnrollError::Unmet(
            "no voter holds the key of the authority (`ca` in its configuration): hosts are given \
             certificates by hand, or docs/operations.md says how a voter gets the key"
                .to_owned(),
        ));
    };
    if able.clone().any(|(_, other)| other != pin) {
        return Err(EnrollError::Unmet(
            "the authority is being rotated: make the token when `quorumctl ca status` says that \
             it is done"
                .to_owned(),
        ));
    }
    let mut addresses = vec![first.address.clone()];
    addresses.extend(able.map(|(member, _)| member.address.clone()));
    for member in members.iter().filter(|member| member.voter) {
        if !addresses.contains(&member.address) {
            addresses.push(member.address.clone());
        }
    }
    Ok((pin, addresses))
}

/// All tokens that are not forgotten yet, by id.
pub async fn list_tokens(node: &Node) -> Result<Vec<TokenSeen>, EnrollError> {
    freshen(node).await?;
    let now = now_ms(node);
    let tokens = list(node, TOKENS).into_iter();
    Ok(tokens.map(|(id, found)| seen(id, found.record, now)).collect())
}

/// Makes a token useless. One that was used stays so; one that was revoked before, too.
pub async fn revoke_token(node: &Node, id: &str) -> Result<TokenSeen, EnrollError> {
    if !is_id(id) {
        return Err(EnrollError::TokenNotFound);
    }
    let key = format!("{TOKENS}{id}");
    freshen(node).await?;
    loop {
        let Some(Found { mut record, revision }) = find::<TokenRecord>(node, &key) else {
            return Err(EnrollError::TokenNotFound);
        };
        if record.state != TokenState::Open {
            return Ok(seen(id.to_owned(), record, now_ms(node)));
        }
        record.state = TokenState::Revoked;
        if Change::default().only_if(&key, revision).put(&key, &record).make(node).await? {
            tracing::info!(token = %id, "join token revoked");
            return Ok(seen(id.to_owned(), record, now_ms(node)));
        }
    }
}

fn seen(id: String, record: TokenRecord, now: u64) -> TokenSeen {
    let TokenRecord { role, name, replace, expires_ms, state, .. } = record;
    let remaining_ms = expires_ms.saturating_sub(now);
    TokenSeen { id, role, name, replace, expires_ms, remaining_ms, state }
}
