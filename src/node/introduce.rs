//! Finds out who a node is that an operator wants to add, and that it can be reached.
//!
//! What is done with the answer is decided by the operator's order and its leader.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::base::NodeId;
use crate::node::Node;
use crate::node::gatekeeper::Gate;
use crate::peer::{
    Gatekeeper, JoinCall, PeerError, PeerFault, Registrar, RegistrarSlot, introduce,
};
use crate::pki::LiveTls;
use crate::wire::{
    Claim, Hello, HelloAnswer, HelloRefusal, JoinAnswer, JoinRequest, LinkClass,
    PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
};

/// What a node introduces itself with.
pub(super) struct Introducer {
    pub(super) tls: LiveTls,
    pub(super) cluster_name: String,
    pub(super) name: String,
    pub(super) gate: Arc<Gate>,
    pub(super) registrar: Arc<RegistrarSlot>,
}

impl fmt::Debug for Introducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introducer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduced {
    /// Its incarnation.
    pub node: NodeId,
}

/// Why it is not known who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntroductionError {
    /// It answered something that no node of this program answers here.
    #[error("it does not say who it is: compare the versions of both nodes")]
    Odd,
    /// It could not be reached, or is not who it should be.
    #[error("{0}")]
    Peer(PeerError),
    /// It refuses this node.
    #[error("it refuses this node: {0}")]
    Refused(HelloRefusal),
}

impl Node {
    /// Dials `address` and asks the node there, whose certificate must carry `name`, which
    /// incarnation it is. Takes at most some seconds.
    pub async fn introduce(
        &self,
        name: &str,
        address: &str,
    ) -> Result<Introduced, IntroductionError> {
        let Introducer { tls, cluster_name, name: own, gate, .. } = &self.shared.introducer;
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            class: LinkClass::Bootstrap,
            cluster_name: cluster_name.clone(),
            name: own.clone(),
            to_name: name.to_owned(),
            to_node: None,
            claim: gate.claim(),
        };
        match introduce(&tls.current(), address, &hello).await.map_err(IntroductionError::Peer)? {
            HelloAnswer::Accepted { claim: Claim { node, .. }, .. }
            | HelloAnswer::Blank { claim: Claim { node, .. } } => Ok(Introduced { node }),
            HelloAnswer::Genesis(_) => Err(IntroductionError::Odd),
            HelloAnswer::Refused(refusal) => Err(IntroductionError::Refused(refusal)),
        }
    }

    /// Asks the member at `address`, whose certificate must carry `name`, for this node's next
    /// certificate; this node shows the one that it has. Takes at most some seconds.
    pub async fn ask_for_certificate(
        &self,
        name: &str,
        address: &str,
        request: &JoinRequest,
    ) -> Result<JoinAnswer, PeerError> {
        let Introducer { tls, cluster_name, .. } = &self.shared.introducer;
        let call = JoinCall::dial(Arc::clone(&tls.current().join_client), address).await?;
        if call.identity().cluster() != cluster_name {
            return Err(PeerFault::Unwelcome(HelloRefusal::CertificateCluster).into());
        }
        if call.identity().name() != name {
            return Err(PeerFault::Unwelcome(HelloRefusal::CertificateName).into());
        }
        call.ask(request).await
    }

    /// The TLS settings in force, which may be replaced.
    pub fn tls(&self) -> &LiveTls {
        &self.shared.introducer.tls
    }

    /// From now on this one answers hosts that ask for a certificate, for as long as somebody else
    /// holds it.
    pub fn set_registrar(&self, registrar: Weak<dyn Registrar>) {
        self.shared.introducer.registrar.set(registrar);
    }
}
