//! Renews this node's own certificate long before it ends.
//!
//! At two thirds of its life, a little earlier or later on each node, a fresh key is made, and a
//! voter with the key of the authority is asked to certify it; this node may be one itself. It is
//! known by the certificate that it has. Key and certificate are one file, replaced in one step: a
//! crash leaves the old pair or the new one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::sleep;

use crate::enroll::keyring::Keyring;
use crate::enroll::records::{SIGNERS, SignerRecord};
use crate::enroll::rotation::pin_in_force;
use crate::enroll::store::list;
use crate::node::{Node, NodeStatus};
use crate::pki::{CheckedRequest, Credentials, KeyRequest, replace_file};
use crate::wire::{JoinAnswer, JoinRequest};

/// Longest wait between two looks: a host that was suspended has other times than it thinks.
const LOOK_MAX: Duration = Duration::from_secs(60 * 60);
/// Shortest wait between two looks, and before another attempt.
const LOOK_MIN: Duration = Duration::from_millis(500);
/// An attempt that failed is made again after this part of what is left, so that there are always
/// some more.
const RETRY_PART: u32 = 20;

/// Renews for ever. `own` holds certificate and key, `roots` the trusted roots.
pub(super) async fn run(node: Node, keyring: Arc<Keyring>, own: Arc<Path>, roots: Arc<Path>) {
    let mut told = false;
    loop {
        let wait = match Credentials::load(&own, &own, &roots) {
            Err(error) => {
                tracing::warn!(%error, "the certificate cannot be renewed");
                LOOK_MAX
            }
            Ok(credentials) => {
                let due = due(&credentials, node.status().replica.node.get());
                match due.duration_since(SystemTime::now()) {
                    Ok(left) => left,
                    Err(_) => match renew(&node, &keyring, &own, &roots).await {
                        Ok(()) => {
                            told = false;
                            LOOK_MIN
                        }
                        Err(reason) => {
                            let left = credentials.not_after().duration_since(SystemTime::now());
                            let left = left.unwrap_or_default();
                            if !std::mem::replace(&mut told, true) {
                                tracing::warn!(
                                    reason,
                                    seconds_left = left.as_secs(),
                                    "the certificate could not be renewed yet; trying on"
                                );
                            }
                            left / RETRY_PART
                        }
                    },
                }
            }
        };
        sleep(wait.clamp(LOOK_MIN, LOOK_MAX)).await;
    }
}

/// When these are to be renewed: at two thirds of their life, less up to a twentieth of it, so that
/// nodes that were made together do not all ask in one moment.
fn due(credentials: &Credentials, spread: u64) -> SystemTime {
    let begin = credentials.not_before();
    let life = credentials.not_after().duration_since(begin).unwrap_or_default();
    let twentieth = life / 20;
    let part = u32::try_from(spread % 1_000).unwrap_or_default();
    begin + life * 2 / 3 - twentieth * part / 1_000
}

/// Gets a certificate for a fresh key, and puts both in force.
pub(super) async fn renew(
    node: &Node,
    keyring: &Keyring,
    own: &Path,
    roots: &Path,
) -> Result<(), String> {
    let key = KeyRequest::create().map_err(|error| error.to_string())?;
    let status = node.status();
    let certificate = match keyring.signer(node, &status) {
        Some(signer) => {
            let request = CheckedRequest::read(key.der()).ok_or("the own request is unreadable")?;
            signer.sign(&request, &status.name).map_err(|error| error.to_string())?
        }
        None => ask(node, &status, &key).await?,
    };
    let trusted = tokio::fs::read_to_string(roots).await.map_err(|error| error.to_string())?;
    let key = key.key_pem();
    let credentials = Credentials::from_pem(&certificate, &key, &trusted, SystemTime::now());
    let credentials = credentials.map_err(|error| error.to_string())?;
    node.tls().accepts(&credentials).map_err(|error| error.to_string())?;
    replace_file(own, 0o600, &(certificate + &key)).map_err(|error| error.to_string())?;
    node.tls().replace(&credentials).map_err(|error| error.to_string())?;
    tracing::info!("the certificate of this node has been renewed");
    Ok(())
}

/// Asks those who can sign, one after the other.
async fn ask(node: &Node, status: &NodeStatus, key: &KeyRequest) -> Result<String, String> {
    let request = JoinRequest::Renew { request: Bytes::copy_from_slice(key.der()) };
    let mut signers = list::<SignerRecord>(node, SIGNERS);
    if let Some(pin) = pin_in_force(node) {
        signers.retain(|(_, found)| found.record.pin == pin);
    }
    let members = status.replica.members.iter();
    let able = members.filter(|member| signers.iter().any(|(name, _)| *name == member.name));
    let mut reasons = Vec::new();
    for member in able.filter(|member| member.voter && member.node != status.replica.node) {
        match node.ask_for_certificate(&member.name, &member.address, &request).await {
            Ok(JoinAnswer::Issued(admission)) => return Ok(admission.certificate),
            Ok(JoinAnswer::Ask { .. }) => reasons.push(format!("{} does not sign", member.name)),
            Ok(JoinAnswer::Refused(refusal)) => reasons.push(format!("{}: {refusal}", member.name)),
            Err(error) => reasons.push(format!("{}: {error}", member.name)),
        }
    }
    if reasons.is_empty() {
        return Err("no voter that is known here holds the key of the authority".to_owned());
    }
    Err(reasons.join("; "))
}
