//! Exchanges the authority of a cluster while it runs.
//!
//! ```text
//! trust    every member trusts the old and the new authority
//! issue    the new one signs; every member gets a certificate of it, at once
//! retire   every member forgets the old one
//! ```
//!
//! A phase ends when every member has reported (`_ca/nodes/<name>`) that it is done; so a member
//! that is away holds the rotation up, and is named. Where it stands is in the store
//! (`_ca/rotation`), and the new key in a file of the one member that began it: each step may be
//! repeated after a crash.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use crate::base::Revision;
use crate::enroll::enrolment::EnrollOptions;
use crate::enroll::keyring::Keyring;
use crate::enroll::records::{
    AUTHORITY, JOINS, JoinRecord, NODES, NodeRecord, Phase, ROTATION, RotationRecord, SIGNERS,
    SignerRecord,
};
use crate::enroll::store::{Change, Found, find, freshen, list};
use crate::enroll::{EnrollError, renew};
use crate::node::{Node, NodeStatus};
use crate::pki::{Credentials, Pin, replace_file};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);
/// The wait after something failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Does this node's part, for ever.
pub(super) async fn follow(node: Node, keyring: Arc<Keyring>, options: Arc<EnrollOptions>) {
    let mut told = String::new();
    loop {
        if node.status().replica.ready {
            let done = async {
                take_part(&node, &keyring, &options).await?;
                report(&node).await?;
                drive(&node, &keyring).await
            };
            match done.await {
                Ok(()) => told.clear(),
                Err(reason) => {
                    if reason != told {
                        tracing::warn!(reason, "this node's part in certificates waits");
                        told = reason;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        sleep(LOOK).await;
    }
}

/// The pin of the authority that may sign now; nothing when it was never exchanged.
pub(super) fn pin_in_force(node: &Node) -> Option<String> {
    let rotation = find::<RotationRecord>(node, ROTATION).map(|found| found.record);
    match rotation {
        Some(rotation) if rotation.phase != Phase::Trust => Some(rotation.new_pin),
        _ => find::<SignerRecord>(node, AUTHORITY).map(|found| found.record.pin),
    }
}

/// Trusts what is to be trusted, and gets a certificate of the authority in force.
async fn take_part(node: &Node, keyring: &Keyring, options: &EnrollOptions) -> Result<(), String> {
    let Some(own) = &options.renewed else { return Ok(()) };
    let Some(Found { record: rotation, .. }) = find::<RotationRecord>(node, ROTATION) else {
        return Ok(());
    };
    let is_new = |credentials: &Credentials| {
        credentials.issuer().is_some_and(|pin| pin.to_string() == rotation.new_pin)
    };
    let trusted = read(&options.roots).await?;
    let pins: Vec<String> = Pin::of_pem(&trusted).iter().map(Pin::to_string).collect();
    let wanted = match rotation.phase {
        Phase::Issue | Phase::Trust if !pins.contains(&rotation.new_pin) => {
            Some(format!("{}\n{}", trusted.trim_end(), rotation.new_pem))
        }
        Phase::Retire if pins.iter().any(|pin| *pin != rotation.new_pin) => {
            is_new(&node.tls().credentials()).then(|| rotation.new_pem.clone())
        }
        _ => None,
    };
    if let Some(wanted) = wanted {
        let pair = read(own).await?;
        let credentials = Credentials::from_pem(&pair, &pair, &wanted, SystemTime::now());
        let credentials = credentials.map_err(|error| error.to_string())?;
        node.tls().accepts(&credentials).map_err(|error| error.to_string())?;
        replace_file(&options.roots, 0o644, &wanted).map_err(|error| error.to_string())?;
        node.tls().replace(&credentials).map_err(|error| error.to_string())?;
        tracing::info!(phase = ?rotation.phase, "the trusted authorities have been exchanged");
    }
    if rotation.phase != Phase::Trust && !is_new(&node.tls().credentials()) {
        renew::renew(node, keyring, own, &options.roots).await?;
    }
    Ok(())
}

async fn read(path: &Path) -> Result<String, String> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Keeps `_ca/nodes/<name>` true, in a cluster that has an authority of its own: where certificates
/// come from elsewhere nobody reads it, and only callers make revisions.
async fn report(node: &Node) -> Result<(), String> {
    if list::<SignerRecord>(node, SIGNERS).is_empty() {
        return Ok(());
    }
    let credentials = node.tls().credentials();
    let ends = credentials.not_after().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = NodeRecord {
        trusts: credentials.trusted().iter().map(Pin::to_string).collect(),
        issuer: credentials.issuer().map(|pin| pin.to_string()),
        not_after_ms: u64::try_from(ends.as_millis()).unwrap_or(u64::MAX),
    };
    let key = format!("{NODES}{}", node.status().name);
    if find::<NodeRecord>(node, &key).map(|found| found.record).as_ref() == Some(&record) {
        return Ok(());
    }
    let made = Change::default().put(&key, &record).make(node).await;
    made.map(drop).map_err(|error| error.to_string())
}

/// Moves the rotation on, on the node that has the new key.
async fn drive(node: &Node, keyring: &Keyring) -> Result<(), String> {
    let status = node.status();
    let Some(Found { record: mut rotation, revision }) = find::<RotationRecord>(node, ROTATION)
    else {
        return Ok(());
    };
    if rotation.by != status.name {
        return Ok(());
    }
    if !waiting(node, &status, &rotation).is_empty() && !rotation.force {
        return Ok(());
    }
    let change = Change::default().only_if(ROTATION, revision);
    let next = match rotation.phase {
        Phase::Trust => Some(Phase::Issue),
        Phase::Issue => Some(Phase::Retire),
        Phase::Retire => None,
    };
    let change = match next {
        Some(phase) => {
            if phase == Phase::Issue {
                keyring.activate()?;
            }
            let authority = SignerRecord { pin: rotation.new_pin.clone() };
            rotation.phase = phase;
            rotation.force = false;
            change.put(ROTATION, &rotation).put(AUTHORITY, &authority)
        }
        None => {
            keyring.promote()?;
            change.delete(ROTATION)
        }
    };
    let made = change.make(node).await.map_err(|error| error.to_string())?;
    if made {
        tracing::info!(now = ?next, "the rotation of the authority has moved on");
    }
    Ok(())
}

/// The members, and the hosts that are about to be, that are not done with the present phase.
pub(super) fn waiting(
    node: &Node,
    status: &NodeStatus,
    rotation: &RotationRecord,
) -> BTreeSet<String> {
    let names: BTreeSet<String> =
        status.replica.members.iter().map(|member| member.name.clone()).collect();
    let joining = list::<JoinRecord>(node, JOINS).into_iter().map(|(name, _)| name);
    let is_done = |name: &String| {
        let found = find::<NodeRecord>(node, &format!("{NODES}{name}"));
        found.is_some_and(|found| rotation.is_done(&found.record))
    };
    names.iter().cloned().chain(joining).filter(|name| !is_done(name)).collect()
}

/// Begins.
pub(super) async fn begin(node: &Node, keyring: &Keyring) -> Result<(), EnrollError> {
    freshen(node).await?;
    let status = node.status();
    if find::<RotationRecord>(node, ROTATION).is_some() {
        let sentence = "a rotation is under way: see `quorumctl ca status`";
        return Err(EnrollError::Unmet(sentence.to_owned()));
    }
    let Some(signer) = keyring.signer(node, &status) else {
        return Err(EnrollError::Unmet(
            "this node does not hold the key of the authority: say it on one that does (`quorumctl \
             ca status` names them)"
                .to_owned(),
        ));
    };
    let (new_pin, new_pem) = keyring.prepare(&status.cluster_name).map_err(EnrollError::Unmet)?;
    let rotation = RotationRecord {
        old_pin: signer.pin().to_string(),
        new_pin: new_pin.to_string(),
        new_pem,
        phase: Phase::Trust,
        by: status.name.clone(),
        force: false,
    };
    let change = Change::default().only_if(ROTATION, Revision(0)).put(ROTATION, &rotation);
    if !change.make(node).await? {
        let sentence = "another rotation has begun: see `quorumctl ca status`";
        return Err(EnrollError::Unmet(sentence.to_owned()));
    }
    tracing::info!(new = %rotation.new_pin, "the rotation of the authority begins");
    Ok(())
}

/// Ends the present phase without those who are not done.
pub(super) async fn force(node: &Node) -> Result<(), EnrollError> {
    freshen(node).await?;
    let Some(Found { mut record, revision }) = find::<RotationRecord>(node, ROTATION) else {
        return Err(EnrollError::Unmet("no rotation is under way".to_owned()));
    };
    record.force = true;
    let change = Change::default().only_if(ROTATION, revision).put(ROTATION, &record);
    if !change.make(node).await? {
        let sentence = "the rotation has moved on meanwhile: look at it again";
        return Err(EnrollError::Unmet(sentence.to_owned()));
    }
    tracing::warn!(phase = ?record.phase, "a phase of the rotation is ended by force");
    Ok(())
}
