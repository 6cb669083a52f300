//! Which TLS settings are in force now, and what may take their place while a node runs.
//!
//! When files are read again is `daemon/`'s to decide; what happens to connections that were made
//! with the former settings, `peer/`'s.

use std::sync::Arc;

use tokio::sync::watch;

use crate::pki::{Credentials, Expiry, Identity, PkiError, TlsConfigs};

/// The TLS settings of a running node. Cheap to clone; all clones are one.
///
/// - The identity never changes: it is what the other members know this node by.
/// - Settings are replaced as a whole. Client and server side, certificate and trusted roots are
///   always of the same credentials.
#[derive(Clone, Debug)]
pub struct LiveTls {
    current: Arc<watch::Sender<Arc<InForce>>>,
}

/// What is in force from one replacement to the next.
#[derive(Debug)]
pub(super) struct InForce {
    configs: Arc<TlsConfigs>,
    credentials: Credentials,
    expiries: Arc<[Expiry]>,
}

/// Tells when other settings are in force than those that it has given last.
#[derive(Clone, Debug)]
pub struct TlsFollower {
    pub(super) changes: watch::Receiver<Arc<InForce>>,
}

impl LiveTls {
    /// Starts with these credentials. Fails as [`TlsConfigs::new`] does.
    pub fn new(credentials: &Credentials) -> Result<Self, PkiError> {
        let first = InForce::new(credentials)?;
        Ok(Self { current: Arc::new(watch::Sender::new(Arc::new(first))) })
    }

    /// The node that all settings authenticate.
    pub fn identity(&self) -> Identity {
        self.current.borrow().credentials.identity().clone()
    }

    /// The settings for a connection that begins now.
    pub fn current(&self) -> Arc<TlsConfigs> {
        Arc::clone(&self.current.borrow().configs)
    }

    /// What is in force.
    pub fn credentials(&self) -> Credentials {
        self.current.borrow().credentials.clone()
    }

    /// When the certificate and the trusted roots in force expire.
    pub fn expiries(&self) -> Arc<[Expiry]> {
        Arc::clone(&self.current.borrow().expiries)
    }

    /// Whether these credentials are other ones than those in force.
    pub fn differ(&self, credentials: &Credentials) -> bool {
        !self.current.borrow().credentials.same_as(credentials)
    }

    /// Whether [`replace`](Self::replace) would take these credentials. They must name the node
    /// that the ones in force name.
    pub fn accepts(&self, credentials: &Credentials) -> Result<(), PkiError> {
        let own = self.identity();
        if *credentials.identity() != own {
            return Err(PkiError::OtherNode { own, other: credentials.identity().clone() });
        }
        InForce::new(credentials).map(drop)
    }

    /// Has new connections use these credentials, and tells all followers. On error nothing has
    /// changed.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), PkiError> {
        self.accepts(credentials)?;
        self.current.send_replace(Arc::new(InForce::new(credentials)?));
        Ok(())
    }

    /// Follows the settings from those that are in force now.
    pub fn follow(&self) -> TlsFollower {
        TlsFollower { changes: self.current.subscribe() }
    }
}

impl InForce {
    fn new(credentials: &Credentials) -> Result<Self, PkiError> {
        let configs = Arc::new(TlsConfigs::new(credentials)?);
        let expiries = credentials.expiries().into();
        Ok(Self { configs, credentials: credentials.clone(), expiries })
    }
}

impl TlsFollower {
    /// The settings in force; [`changed`](Self::changed) waits for others than these.
    pub fn current(&mut self) -> Arc<TlsConfigs> {
        Arc::clone(&self.changes.borrow_and_update().configs)
    }

    /// Resolves when other settings are in force than were given last; never once the node has
    /// gone. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
