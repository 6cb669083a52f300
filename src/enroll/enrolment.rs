//! What one daemon does about joining: the desk, the tasks, and the key of the authority if it has
//! one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::base::Span;
use crate::enroll::desk::Desk;
use crate::enroll::records::{SIGNERS, SignerRecord};
use crate::enroll::store::{Change, find};
use crate::enroll::welcome;
use crate::node::{Node, NodeStatus, Topic};
use crate::peer::Registrar;
use crate::pki::{Authority, CheckedRequest, PkiError, Validity};

/// Between two looks at whether this node is announced rightly.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);

/// What the configuration says about joining and certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrollOptions {
    /// The authority, when its key is on this host.
    pub authority: Option<AuthorityOptions>,
    /// The file of trusted roots.
    pub roots: PathBuf,
}

/// An authority whose key is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// Where `ca.pem` and `ca.key` are.
    pub directory: PathBuf,
    /// How long a certificate is valid that it signs.
    pub life: Span,
}

/// The key of the authority, in memory.
pub(super) struct Signer {
    authority: Authority,
    life: Duration,
}

impl Signer {
    fn load(options: &AuthorityOptions) -> Result<Self, PkiError> {
        let authority = Authority::load(&options.directory)?;
        Ok(Self { authority, life: Duration::from_micros(options.life.as_micros()) })
    }

    /// Whether this node may use it: only a voter, because learners are on many hosts, and less
    /// guarded ones.
    pub(super) fn may_sign(&self, status: &NodeStatus) -> bool {
        let replica = &status.replica;
        self.authority.cluster() == status.cluster_name
            && replica.members.iter().any(|member| member.node == replica.node && member.voter)
    }

    pub(super) fn sign(&self, request: &CheckedRequest, name: &str) -> Result<String, PkiError> {
        self.authority.sign(request, name, Validity::of_life(self.life))
    }
}

/// All of it. Dropped, it answers nobody any more, and its tasks end.
pub struct Enrolment {
    node: Node,
    signer: Option<Arc<Signer>>,
    /// Why the configured authority cannot be used.
    unusable: Option<String>,
    _desk: Arc<dyn Registrar>,
    tasks: Vec<JoinHandle<()>>,
}

impl Enrolment {
    /// Begins to answer and to act. An authority whose key cannot be used is told in the log and in
    /// [`health`](Self::health), and keeps nothing else from working.
    pub fn start(node: &Node, options: &EnrollOptions) -> Arc<Self> {
        let loaded = options.authority.as_ref().map(Signer::load).transpose();
        let (signer, unusable) = match loaded {
            Ok(signer) => (signer.map(Arc::new), None),
            Err(error) => {
                tracing::warn!(%error, "the key of the authority (`ca`) cannot be used");
                (None, Some(error.to_string()))
            }
        };
        let desk = Arc::new(Desk {
            node: node.clone(),
            signer: signer.clone(),
            roots: options.roots.clone(),
        });
        let desk: Arc<dyn Registrar> = desk;
        node.set_registrar(Arc::downgrade(&desk));
        let tasks = vec![
            tokio::spawn(welcome::run(node.clone())),
            tokio::spawn(announce(node.clone(), signer.clone())),
        ];
        Arc::new(Self { node: node.clone(), signer, unusable, _desk: desk, tasks })
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
        if self.signer.is_some() && learns {
            let sentence = "the key of the authority (`ca`) is on a learner, which does not use \
                            it: remove it from this host";
            notes.push(("ca_on_learner", sentence.to_owned()));
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
async fn announce(node: Node, signer: Option<Arc<Signer>>) {
    let mut warned = false;
    let mut follower = node.follow(Topic::Status);
    loop {
        let status = node.status();
        let key = format!("{SIGNERS}{}", status.name);
        let able = signer.as_ref().filter(|signer| signer.may_sign(&status));
        if signer.is_some() && able.is_none() && status.replica.ready && !warned {
            warned = true;
            tracing::warn!(
                "this node has the key of the authority (`ca`) and is no voter: it \
                            does not sign; remove the key from this host"
            );
        }
        if status.replica.ready && status.replica.leader.is_some() {
            let found = find::<SignerRecord>(&node, &key);
            let wanted = able.map(|it| SignerRecord { pin: it.authority.pin().to_string() });
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
