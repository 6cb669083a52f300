//! The TLS settings of the peer port, and how a peer's certificate chain is verified.
//!
//! Which node a verified certificate names is read by `identity.rs` and compared by `peer/`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::base::limits;
use crate::pki::{Credentials, Identity, PkiError};

/// The protocol of links between members. A link that did not agree on it is closed.
pub const ALPN: &[u8] = b"quorumd/1";
/// The protocol by which a host asks for a certificate, on the same port.
pub const ALPN_JOIN: &[u8] = b"quorumd-join/1";

/// A node's TLS settings, in two halves.
///
/// Both: TLS 1.3 only, both sides authenticated, one application protocol, no resumption and no
/// early data. Nothing is resumed because a resumed session keeps the identity of the first
/// handshake, also after a root was withdrawn; handshakes are rare here, links live for days.
#[derive(Clone, Debug)]
pub struct TlsConfigs {
    /// The node that they authenticate.
    pub identity: Identity,
    /// For accepted connections.
    pub server: Arc<ServerConfig>,
    /// For dialed connections.
    pub client: Arc<ClientConfig>,
    /// For accepted connections of hosts that ask for a certificate: the only ones on which the
    /// other side may have none yet. With the chain go the roots; see `pinned.rs`.
    pub join_server: Arc<ServerConfig>,
    /// For dialing a member to ask for this node's next certificate.
    pub join_client: Arc<ClientConfig>,
    verifier: Arc<ChainVerifier>,
}

impl TlsConfigs {
    /// The settings that follow from a node's credentials.
    ///
    /// Fails when the roots cannot verify clients, which credentials that were judged rule out.
    pub fn new(credentials: &Credentials) -> Result<TlsConfigs, PkiError> {
        configs(credentials).map_err(|source| PkiError::Usage {
            path: credentials.identity().to_string().into(),
            source,
        })
    }

    /// Whether a peer that shows this chain would be accepted at `now`, or why not: for connections
    /// that were accepted under former settings.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Error> {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verifier.verify_both_ways(end_entity, intermediates, now)
    }
}

fn configs(credentials: &Credentials) -> Result<TlsConfigs, Error> {
    let verifier = Arc::new(ChainVerifier::new(Arc::clone(&credentials.roots))?);
    let provider = Arc::new(default_provider());
    let own = Arc::new(SingleCertAndKey::from(Arc::clone(&credentials.certified)));

    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
        .with_cert_resolver(Arc::clone(&own) as Arc<_>);
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;

    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(own);
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_early_data = false;
    client.enable_sni = false;
    let mut join_client = client.clone();
    join_client.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(TlsConfigs {
        identity: credentials.identity().clone(),
        server: Arc::new(server),
        client: Arc::new(client),
        join_server: Arc::new(join_server(credentials)?),
        join_client: Arc::new(join_client),
        verifier,
    })
}

fn join_server(credentials: &Credentials) -> Result<ServerConfig, Error> {
    let clients = OptionalClients(ChainVerifier::new(Arc::clone(&credentials.roots))?);
    let CertifiedKey { cert, key, ocsp } = &*credentials.certified;
    let roots = credentials.authorities.iter().take(limits::JOIN_CHAIN_MAX - cert.len());
    let chain = cert.iter().chain(roots).cloned().collect();
    let own = CertifiedKey { cert: chain, key: Arc::clone(key), ocsp: ocsp.clone() };
    let mut server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    server.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    Ok(server)
}

/// As [`ChainVerifier`], but for that a client may have no certificate.
#[derive(Debug)]
struct OptionalClients(ChainVerifier);

impl ClientCertVerifier for OptionalClients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        ClientCertVerifier::root_hint_subjects(&self.0)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(&self.0, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(&self.0, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(&self.0)
    }
}

/// Verifies a peer's chain against the trusted roots, for both directions, without comparing names.
///
/// rustls would compare the certificate's DNS names with the address that was dialed. Nodes have
/// URI names and change their addresses, so that comparison is left out here and `peer/` compares
/// the identity right after the handshake, before a byte of the peer is read or sent to it.
///
/// - Signatures, dates, key usage and path constraints are webpki's to check, always.
/// - A chain that is longer, or a certificate that is larger, than any sensible one is refused
///   first.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>) -> Result<Self, Error> {
        let provider: CryptoProvider = default_provider();
        let algorithms = provider.signature_verification_algorithms;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::new(provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { roots, clients, algorithms })
    }

    /// Verifies a chain as a server's and as a client's: a node is both.
    pub(super) fn verify_both_ways(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.verify_as_server(end_entity, intermediates, now)?;
        self.verify_client_cert(end_entity, intermediates, now).map(|_| ())
    }

    fn verify_as_server(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        check_size(end_entity, intermediates)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        let roots = &self.roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    }
}

/// Bounds the work that a stranger's chain can cause (RUSTSEC-2023-0052, -0053).
fn check_size(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let bytes_max = limits::CERTIFICATE_BYTES_MAX;
    let too_large = end_entity.len() > bytes_max
        || intermediates.len() + 1 > limits::CERTIFICATE_CHAIN_MAX
        || intermediates.iter().any(|certificate| certificate.len() > bytes_max);
    if too_large {
        return Err(CertificateError::ApplicationVerificationFailure.into());
    }
    Ok(())
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_as_server(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ChainVerifier {
    /// None: a stranger is not told whom this node trusts, and a peer has only one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_size(end_entity, intermediates)?;
        self.clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
