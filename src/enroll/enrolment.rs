//! What one daemon does about joining: the desk, the tasks, and the key of the authority if it has
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::base::Span;
use crate::enroll::desk::Desk;
use crate::enroll::keyring::Keyring;
use crate::enroll::records::{
    NODES, NodeRecord, Phase, ROTATION, RotationRecord, SIGNERS, SignerRecord,
};
use crate::enroll::store::{Change, find, list};
use crate::enroll::{EnrollError, renew, rotation, welcome};
use crate::node::{Node, Topic};
use crate::peer::Registrar;

/// Between two looks at whether this node is announced rightly.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);

/// What the configuration says about joining and certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrollOptions {
    /// The authority, when its key is on this host.
    pub authority: Option<AuthorityOptions>,
    /// The file of trusted roots.
    pub roots: PathBuf,
    /// The file of this node's certificate and key, if this daemon is to renew them.
    pub renewed: Option<PathBuf>,
}

/// An authority whose key is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// Where `ca.pem` and `ca.key` are.
    pub directory: PathBuf,
    /// How long a certificate is valid that it signs.
    pub life: Span,
}

/// How the authority of the cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSeen {
    /// The pin of the one that signs, as far as it is known.
    pub pin: Option<String>,
    /// The voters that hold its key.
    pub signers: Vec<String>,
    /// How far an exchange is, if one is under way, and the pin of the next one.
    pub rotation: Option<(Phase, String)>,
    /// All members, and those who are about to be.
    pub members: Vec<CaMember>,
}

/// One member's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaMember {
    /// Its name.
    pub name: String,
    /// Whether the exchange that is under way waits for it.
    pub waits: bool,
    /// The pin of the authority that signed it, if it has reported that.
    pub issuer: Option<String>,
    /// When it ends, in milliseconds since 1970.
    pub not_after_ms: Option<u64>,
}

/// All of it. Dropped, it answers nobody any more, and its tasks end.
pub struct Enrolment {
    node: Node,
    keyring: Arc<Keyring>,
    /// Why the configured authority cannot be used.
    unusable: Option<String>,
    _desk: Arc<dyn Registrar>,
    tasks: Vec<JoinHandle<()>>,
}

impl Enrolment {
    /// Begins to answer and to act. An authority whose key cannot be used is told in the log and in
    /// [`health`](Self::health), and keeps nothing else from working.
    pub fn start(node: &Node, options: &EnrollOptions) -> Arc<Self> {
        let (keyring, unusable) = match Keyring::load(options.authority.as_ref()) {
            Ok(keyring) => (keyring, None),
            Err(error) => {
                tracing::warn!(%error, "the key of the authority (`ca`) cannot be used");
                (Keyring::default(), Some(error.to_string()))
            }
        };
        let (keyring, options) = (Arc::new(keyring), Arc::new(options.clone()));
        let desk = Arc::new(Desk {
            node: node.clone(),
            keyring: keyring.clone(),
            roots: options.roots.clone(),
        });
        let desk: Arc<dyn Registrar> = desk;
        node.set_registrar(Arc::downgrade(&desk));
        let mut tasks = vec![
            tokio::spawn(welcome::run(node.clone())),
            tokio::spawn(announce(node.clone(), keyring.clone())),
            tokio::spawn(rotation::follow(node.clone(), keyring.clone(), options.clone())),
        ];
        if let Some(own) = &options.renewed {
            let (own, roots) = (own.as_path().into(), options.roots.as_path().into());
            let renewal = renew::run(node.clone(), keyring.clone(), own, roots);
            tasks.push(tokio::spawn(renewal));
        }
        Arc::new(Self { node: node.clone(), keyring, unusable, _desk: desk, tasks })
    }

    /// Begins to exchange the authority; it goes on by itself.
    pub async fn rotate(&self) -> Result<CaSeen, EnrollError> {
        rotation::begin(&self.node, &self.keyring).await?;
        Ok(self.ca())
    }

    /// Ends the present phase of an exchange although members are not done with it.
    pub async fn force_rotation(&self) -> Result<CaSeen, EnrollError> {
        rotation::force(&self.node).await?;
        Ok(self.ca())
    }

    /// How the authority stands, as this node knows it.
    pub fn ca(&self) -> CaSeen {
        let (node, status) = (&self.node, self.node.status());
        let found = find::<RotationRecord>(node, ROTATION).map(|found| found.record);
        let waiting = found.as_ref().map(|it| rotation::waiting(node, &status, it));
        let waiting = waiting.unwrap_or_default();
        let signers = list::<SignerRecord>(node, SIGNERS);
        let known: BTreeMap<String, NodeRecord> =
            list(node, NODES).into_iter().map(|(name, it)| (name, it.record)).collect();
        let members = status.replica.members.iter().map(|member| member.name.clone());
        let names: BTreeSet<String> = members.chain(waiting.iter().cloned()).collect();
        let member = |name: String| CaMember {
            waits: waiting.contains(&name),
            issuer: known.get(&name).and_then(|it| it.issuer.clone()),
            not_after_ms: known.get(&name).map(|it| it.not_after_ms),
            name,
        };
        CaSeen {
            pin: rotation::pin_in_force(node)
                .or_else(|| signers.first().map(|(_, found)| found.record.pin.clone())),
            signers: signers.into_iter().map(|(name, _)| name).collect(),
            rotation: found.map(|it| (it.phase, it.new_pin)),
            members: names.into_iter().map(member).collect(),
        }
    }

    /// What an operator should know: codes and sentences.
    pub fn health(&self) -> Vec<(&'static str, String)> {
        let mut notes = Vec::new();
        if let Some(error) = &self.unusable {
            notes.push(("ca_unusable", format!("the key of the authority: {error}")));
        }
        let status = self.node.status();
        let replica = &status.replica;
        let learns = replica.members.iter().any(|it| it.node == replica.node && !it.voter);
        if self.keyring.has_key() && learns {
            let sentence = "the key of the authority (`ca`) is on a learner, which does not use \
                            it: remove it from this host";
            notes.push(("ca_on_learner", sentence.to_owned()));
        }
        if self.keyring.is_outdated(&self.node) {
            let sentence = "the authority whose key is on this host (`ca`) was exchanged: copy the \
                            new one from a member that `quorumctl ca status` names, and restart";
            notes.push(("ca_outdated", sentence.to_owned()));
        }
        notes
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Keeps `_ca/signers/<name>` true for this node.
async fn announce(node: Node, keyring: Arc<Keyring>) {
    let mut warned = false;
    let mut follower = node.follow(Topic::Status);
    loop {
        let status = node.status();
        let key = format!("{SIGNERS}{}", status.name);
        let able = keyring.signer(&node, &status);
        if keyring.has_key() && able.is_none() && status.replica.ready && !warned {
            warned = true;
            tracing::warn!(
                "this node has the key of the authority (`ca`) and is no voter: it \
                            does not sign; remove the key from this host"
            );
        }
        if status.replica.ready && status.replica.leader.is_some() {
            let found = find::<SignerRecord>(&node, &key);
            let wanted = able.map(|it| SignerRecord { pin: it.pin().to_string() });
            let change = Change::default();
            let change = match (found, wanted) {
                (found, Some(wanted)) if found.as_ref().map(|it| &it.record) != Some(&wanted) => {
                    Some(change.put(&key, &wanted))
                }
                (Some(found), None) => Some(change.only_if(&key, found.revision).delete(&key)),
                _ => None,
            };
            if let Some(change) = change
                && let Err(error) = change.make(&node).await
            {
                tracing::debug!(%error, "this signer could not be announced; trying on");
            }
        }
        tokio::select! {
            () = follower.changed() => {}
            () = sleep(ANNOUNCE_EVERY) => {}
        }
    }
}
