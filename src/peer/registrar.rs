//! Who answers a host that asks for a certificate: somebody above, who is set once a node runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::pki::Identity;
use crate::wire::{JoinAnswer, JoinRequest};

/// What is known of who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The node that its certificate names, if it has shown one of a trusted authority. It is of
    /// this cluster.
    pub identity: Option<Identity>,
    /// A value that only the two ends of this connection can derive.
    pub exporter: [u8; 32],
}

/// Decides about requests for certificates. A trait because this folder knows frames and
/// connections, and nothing of tokens.
pub trait Registrar: Send + Sync {
    /// The answer to one request. May be dropped at any await: whoever asked asks again.
    fn answer<'a>(
        &'a self,
        asker: Asker,
        request: JoinRequest,
    ) -> Pin<Box<dyn Future<Output = JoinAnswer> + Send + 'a>>;
}

/// Where the registrar is put, once there is one. Held weakly: it holds the node, which holds this.
#[derive(Default)]
pub struct RegistrarSlot {
    registrar: RwLock<Option<Weak<dyn Registrar>>>,
}

impl RegistrarSlot {
    /// From now on this one answers.
    pub fn set(&self, registrar: Weak<dyn Registrar>) {
        *self.registrar.write().unwrap_or_else(PoisonError::into_inner) = Some(registrar);
    }

    pub(super) fn registrar(&self) -> Option<Arc<dyn Registrar>> {
        self.registrar.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }
}
