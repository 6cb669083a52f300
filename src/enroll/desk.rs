//! Decides who gets a certificate.
//!
//! What becomes of a host that has one is decided in `welcome.rs`.

use std::path::PathBuf;
use std::pin::Pin as Pinned;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::base::{Revision, limits};
use crate::enroll::keyring::{Keyring, Signer};
use crate::enroll::records::{
    JOINS, JoinRecord, Role, SIGNERS, SignerRecord, TOKENS, TokenRecord, TokenState,
};
use crate::enroll::store::{Change, Found, find, freshen, list, now_ms};
use crate::node::{Node, NodeStatus};
use crate::peer::{Asker, Registrar};
use crate::pki::{CheckedRequest, is_id, proof_holds};
use crate::wire::{Admission, JoinAnswer, JoinOrder, JoinRefusal, JoinRequest};

/// How long a host that has its certificate is expected to come up and be added.
const PENDING_MS: u64 = 24 * 60 * 60 * 1_000;
/// How often a decision is made again because somebody else decided on the same records.
const TRIES: usize = 4;
/// Longest name of a node that this program gives a certificate to: as in its configuration.
const NAME_BYTES_MAX: usize = 63;

/// Answers requests for certificates.
pub(super) struct Desk {
    pub(super) node: Node,
    pub(super) keyring: Arc<Keyring>,
    /// The roots that this node trusts.
    pub(super) roots: PathBuf,
}

impl Registrar for Desk {
    fn answer<'a>(
        &'a self,
        asker: Asker,
        request: JoinRequest,
    ) -> Pinned<Box<dyn Future<Output = JoinAnswer> + Send + 'a>> {
        Box::pin(async move {
            match self.decide(&asker, &request).await {
                Ok(answer) => answer,
                Err(refusal) => JoinAnswer::Refused(refusal),
            }
        })
    }
}

impl Desk {
    async fn decide(
        &self,
        asker: &Asker,
        request: &JoinRequest,
    ) -> Result<JoinAnswer, JoinRefusal> {
        let status = self.node.status();
        let Some(signer) = self.keyring.signer(&self.node, &status) else {
            return self.others(&status);
        };
        match request {
            JoinRequest::Join(order) => self.join(&signer, asker, order).await,
            JoinRequest::Renew { request } => self.renew(&signer, asker, request).await,
        }
    }

    /// Who else may be asked.
    fn others(&self, status: &NodeStatus) -> Result<JoinAnswer, JoinRefusal> {
        let signers = list::<SignerRecord>(&self.node, SIGNERS);
        let members = status.replica.members.iter();
        let able = members.filter(|member| {
            member.voter
                && member.name != status.name
                && signers.iter().any(|(name, _)| *name == member.name)
        });
        let addresses: Vec<String> =
            able.map(|member| member.address.clone()).take(limits::VOTERS_MAX).collect();
        match addresses.is_empty() {
            true if status.replica.leader.is_none() => Err(JoinRefusal::NotReady),
            true => Err(JoinRefusal::NoAuthority),
            false => Ok(JoinAnswer::Ask { addresses }),
        }
    }

    async fn join(
        &self,
        signer: &Signer,
        asker: &Asker,
        order: &JoinOrder,
    ) -> Result<JoinAnswer, JoinRefusal> {
        let is_sound =
            is_id(&order.token) && is_member_name(&order.name) && is_member_address(&order.address);
        let request = CheckedRequest::read(&order.request).filter(|_| is_sound);
        let request = request.ok_or(JoinRefusal::Malformed)?;
        // Strangers cost no more than a look: the leader is asked for those who know the secret, or
        // whose token may be so new that it is not here yet.
        let key = format!("{TOKENS}{}", order.token);
        if find::<TokenRecord>(&self.node, &key).is_none() {
            self.freshen().await?;
        }
        self.token(&key, asker, order)?;
        self.freshen().await?;
        for _ in 0..TRIES {
            let found = self.token(&key, asker, order)?;
            match self.admit(&key, found, order, &request).await {
                Ok(Some(role)) => return self.issue(signer, &request, &order.name, role).await,
                // Somebody else was faster, or it was done and the answer was lost: look again.
                Ok(None) | Err(JoinRefusal::NotReady) => self.freshen().await?,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(JoinRefusal::Busy)
    }

    /// The token of an order whose proof holds.
    fn token(
        &self,
        key: &str,
        asker: &Asker,
        order: &JoinOrder,
    ) -> Result<Found<TokenRecord>, JoinRefusal> {
        let found: Found<TokenRecord> = find(&self.node, key).ok_or(JoinRefusal::Unknown)?;
        let verifier = URL_SAFE_NO_PAD.decode(&found.record.verifier).unwrap_or_default();
        let holds = proof_holds(&verifier, &order.proven(&asker.exporter), &order.proof);
        if holds { Ok(found) } else { Err(JoinRefusal::Proof) }
    }

    /// Uses the token up for this host; nothing when the records have changed meanwhile.
    async fn admit(
        &self,
        key: &str,
        found: Found<TokenRecord>,
        order: &JoinOrder,
        request: &CheckedRequest,
    ) -> Result<Option<Role>, JoinRefusal> {
        let now = now_ms(&self.node);
        let Found { record: mut token, revision } = found;
        let own_key = request.pin().to_string();
        let role = judge_token(&token, order, &own_key, now)?;
        if token.state != TokenState::Open {
            return Ok(Some(role));
        }
        let join_key = format!("{JOINS}{}", order.name);
        let present = find::<JoinRecord>(&self.node, &join_key);
        if present.as_ref().is_some_and(|it| it.record.expires_ms > now && !token.replace) {
            return Err(JoinRefusal::NameWanted);
        }
        let status = self.node.status();
        let member = status.replica.members.iter().find(|member| member.name == order.name);
        if member.is_some() && !token.replace {
            return Err(JoinRefusal::NameTaken);
        }
        let join = JoinRecord {
            address: order.address.clone(),
            role,
            token: order.token.clone(),
            replaces: member.map(|member| member.node.get()),
            added: None,
            expires_ms: now.saturating_add(PENDING_MS),
        };
        token.state = TokenState::Used { name: order.name.clone(), key: own_key };
        let change = Change::default()
            .only_if(key, revision)
            .only_if(&join_key, present.map_or(Revision(0), |found| found.revision))
            .put(key, &token)
            .put(&join_key, &join);
        let made = change.make(&self.node).await.map_err(|_| JoinRefusal::NotReady)?;
        if made {
            tracing::info!(name = %order.name, token = %order.token, ?role, "a host may join");
        }
        Ok(made.then_some(role))
    }

    async fn renew(
        &self,
        signer: &Signer,
        asker: &Asker,
        request: &Bytes,
    ) -> Result<JoinAnswer, JoinRefusal> {
        let identity = asker.identity.as_ref().ok_or(JoinRefusal::NotMember)?;
        let request = CheckedRequest::read(request).ok_or(JoinRefusal::Malformed)?;
        self.freshen().await?;
        let status = self.node.status();
        let mut members = status.replica.members.iter();
        let member = members.find(|member| member.name == identity.name());
        let member = member.ok_or(JoinRefusal::NotMember)?;
        let role = if member.voter { Role::Voter } else { Role::Learner };
        tracing::info!(name = %identity.name(), "a member's certificate is renewed");
        self.issue(signer, &request, identity.name(), role).await
    }

    async fn issue(
        &self,
        signer: &Signer,
        request: &CheckedRequest,
        name: &str,
        role: Role,
    ) -> Result<JoinAnswer, JoinRefusal> {
        let certificate = signer.sign(request, name).map_err(|error| {
            tracing::error!(%error, name, "a certificate could not be signed");
            JoinRefusal::NoAuthority
        })?;
        let roots = tokio::fs::read_to_string(&self.roots).await.map_err(|error| {
            tracing::error!(%error, file = %self.roots.display(), "the roots could not be read");
            JoinRefusal::NoAuthority
        })?;
        let status = self.node.status();
        let voters = status.replica.members.iter();
        let voters = voters.filter(|member| member.voter && member.name != name);
        let voters = voters.map(|member| (member.name.clone(), member.address.clone()));
        Ok(JoinAnswer::Issued(Admission {
            certificate,
            roots,
            voters: voters.take(limits::VOTERS_MAX).collect(),
            voter: role == Role::Voter,
        }))
    }

    async fn freshen(&self) -> Result<(), JoinRefusal> {
        freshen(&self.node).await.map_err(|_| JoinRefusal::NotReady)
    }
}

/// What the token lets this host become, now.
fn judge_token(
    token: &TokenRecord,
    order: &JoinOrder,
    own_key: &str,
    now: u64,
) -> Result<Role, JoinRefusal> {
    match &token.state {
        TokenState::Revoked => return Err(JoinRefusal::Revoked),
        TokenState::Used { name, key } if *name != order.name || key != own_key => {
            return Err(JoinRefusal::Used);
        }
        TokenState::Open | TokenState::Used { .. } => {}
    }
    if token.expires_ms <= now {
        return Err(JoinRefusal::Expired);
    }
    if token.name.as_ref().is_some_and(|name| *name != order.name) {
        return Err(JoinRefusal::TokenName);
    }
    match (token.role, order.voter) {
        (Role::Learner, true) => Err(JoinRefusal::Role),
        (Role::Voter, true) => Ok(Role::Voter),
        (_, false) => Ok(Role::Learner),
    }
}

/// Whether a node may be called this in a configuration.
pub(super) fn is_member_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(good)
}

/// Whether members could dial this.
fn is_member_address(address: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-[]:".contains(&byte);
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    address.len() <= limits::ADDRESS_BYTES_MAX
        && address.bytes().all(plain)
        && port.and_then(|(_, port)| port.parse::<u16>().ok()).is_some_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::judge_token;
    use crate::enroll::records::{Role, TokenRecord, TokenState};
    use crate::wire::{JoinOrder, JoinRefusal};

    fn token() -> TokenRecord {
        TokenRecord {
            verifier: String::new(),
            role: Role::Voter,
            name: Some("web2".to_owned()),
            replace: false,
            expires_ms: 100,
            made_on: "web1".to_owned(),
            made_by: 0,
            state: TokenState::Open,
        }
    }

    fn order(name: &str, voter: bool) -> JoinOrder {
        let (token, address) = ("t".to_owned(), "a:1".to_owned());
        let name = name.to_owned();
        JoinOrder { token, name, address, voter, request: Bytes::new(), proof: Bytes::new() }
    }

    #[test]
    fn a_token_is_good_once_for_its_name_role_and_time() {
        let used = |name: &str, key: &str| TokenRecord {
            state: TokenState::Used { name: name.to_owned(), key: key.to_owned() },
            ..token()
        };
        let learner = TokenRecord { role: Role::Learner, ..token() };
        let revoked = TokenRecord { state: TokenState::Revoked, ..token() };
        let web2 = |voter| order("web2", voter);
        for (token, order, now, wanted) in [
            (token(), web2(true), 99, Ok(Role::Voter)),
            (token(), web2(false), 99, Ok(Role::Learner)),
            (token(), web2(true), 100, Err(JoinRefusal::Expired)),
            (token(), order("web3", true), 0, Err(JoinRefusal::TokenName)),
            (learner, web2(true), 0, Err(JoinRefusal::Role)),
            (revoked, web2(true), 0, Err(JoinRefusal::Revoked)),
            (used("web2", "own"), web2(true), 99, Ok(Role::Voter)),
            (used("web2", "own"), web2(true), 100, Err(JoinRefusal::Expired)),
            (used("web2", "other"), web2(true), 99, Err(JoinRefusal::Used)),
            (used("web3", "own"), web2(true), 99, Err(JoinRefusal::Used)),
        ] {
            assert_eq!(judge_token(&token, &order, "own", now), wanted, "{token:?}, {now}");
        }
    }
}
