//! The conversation of a host that asks for a certificate: one request, one answer, on a connection
//! of its own.
//!
//! What the answer is, the [`Registrar`](crate::peer::Registrar) decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::base::limits;
use crate::peer::hello::{HANDSHAKE_TIMEOUT, first_frame};
use crate::peer::links::Shared;
use crate::peer::{Asker, PeerError, PeerFault, socket};
use crate::pki::{ALPN_JOIN, Identity, peer_identity};
use crate::wire::{
    HelloRefusal, JoinAnswer, JoinRefusal, JoinRequest, encode_join_answer, encode_join_request,
    read_join_answer, read_join_request,
};

/// How long a member may take to answer: it asks its leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection to a member may take to come about.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the end of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The label of the exporter (RFC 8446, section 7.5).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-quorumd-join";

/// A connection to a member that can be asked for a certificate.
pub struct JoinCall {
    stream: TlsStream<TcpStream>,
    identity: Identity,
    exporter: [u8; 32],
}

impl JoinCall {
    /// Dials a member. What its certificate must be signed by is said by `client`; whom it names is
    /// left to the caller. Takes at most some seconds.
    pub async fn dial(client: Arc<ClientConfig>, address: &str) -> Result<Self, PeerError> {
        let socket = socket::connect(address, DIAL_TIMEOUT).await?;
        let unused = DnsName::try_from("quorumd.invalid").expect("a constant that is a DNS name");
        let connecting = TlsConnector::from(client).connect(ServerName::DnsName(unused), socket);
        let stream =
            timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| PeerError::TimedOut)??;
        let stream = TlsStream::from(stream);
        let identity = identity(&stream)?.ok_or(PeerFault::CertificateMissing)?;
        let exporter = exporter(&stream)?;
        Ok(Self { stream, identity, exporter })
    }

    /// The node that answers.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A value that only the two ends of this connection can derive.
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// Asks. Without an answer it is unknown whether the request was taken; asking again is safe.
    pub async fn ask(mut self, request: &JoinRequest) -> Result<JoinAnswer, PeerError> {
        let conversation = async {
            self.stream.write_all(&encode_join_request(request)).await?;
            self.stream.flush().await?;
            first_frame(&mut self.stream, &mut BytesMut::new(), read_join_answer).await
        };
        let limit = HANDSHAKE_TIMEOUT + ANSWER_TIMEOUT;
        let answer = timeout(limit, conversation).await.map_err(|_| PeerError::TimedOut)??;
        // The answer is here: how the connection ends does not matter any more.
        let _ = timeout(CLOSE_TIMEOUT, self.stream.shutdown()).await;
        Ok(answer)
    }
}

/// A request that was read whole.
pub(super) struct Asked {
    stream: TlsStream<TcpStream>,
    asker: Asker,
    request: JoinRequest,
}

/// The listener's side up to the request. Part of the handshake: its limits are around this.
pub(super) async fn receive(
    shared: &Shared,
    mut stream: TlsStream<TcpStream>,
) -> Result<Asked, PeerError> {
    let identity = identity(&stream)?;
    if identity.as_ref().is_some_and(|it| it.cluster() != shared.options.cluster_name) {
        return Err(PeerFault::Unwelcome(HelloRefusal::CertificateCluster).into());
    }
    let asker = Asker { identity, exporter: exporter(&stream)? };
    let request = first_frame(&mut stream, &mut BytesMut::new(), read_join_request).await?;
    Ok(Asked { stream, asker, request })
}

/// Has the request answered. The handshake is over, so that its place is free for others; of these
/// there are few at once.
pub(super) async fn answer(shared: &Shared, asked: Asked) -> Result<(), PeerError> {
    let Asked { mut stream, asker, request } = asked;
    let place = shared.joins.try_acquire();
    let answer = match (place.is_ok(), shared.registrar.registrar()) {
        (false, _) => JoinAnswer::Refused(JoinRefusal::Busy),
        (true, None) => JoinAnswer::Refused(JoinRefusal::NotReady),
        (true, Some(registrar)) => timeout(ANSWER_TIMEOUT, registrar.answer(asker, request))
            .await
            .unwrap_or(JoinAnswer::Refused(JoinRefusal::NotReady)),
    };
    let telling = async {
        stream.write_all(&encode_join_answer(&answer)).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    timeout(HANDSHAKE_TIMEOUT, telling).await.map_err(|_| PeerError::TimedOut)??;
    match answer {
        JoinAnswer::Refused(refusal) => Err(PeerFault::NotEnrolled(refusal).into()),
        JoinAnswer::Ask { .. } | JoinAnswer::Issued(_) => Ok(()),
    }
}

/// The node that the other side's certificate names, if it has shown one.
fn identity(stream: &TlsStream<TcpStream>) -> Result<Option<Identity>, PeerError> {
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(ALPN_JOIN) {
        return Err(PeerFault::Alpn.into());
    }
    let certificates: &[CertificateDer<'_>] = connection.peer_certificates().unwrap_or_default();
    if certificates.is_empty() {
        return Ok(None);
    }
    peer_identity(certificates).map(Some).map_err(|fault| PeerFault::Identity(fault).into())
}

fn exporter(stream: &TlsStream<TcpStream>) -> Result<[u8; 32], PeerError> {
    let exported = match stream {
        TlsStream::Client(stream) => {
            stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None)
        }
        TlsStream::Server(stream) => {
            stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None)
        }
    };
    exported.map_err(|error| PeerError::from(&error))
}

/// How many requests are decided at once.
pub(super) const AT_ONCE_MAX: usize = limits::JOINS_AT_ONCE_MAX;
