//! The beginning of a connection, from both sides: TLS, then who is who, then one hello and its
//! answer.
//!
//! Checked here: certificate against names, names against configuration, protocol versions. Whether
//! a proven name is a member is the [`Gatekeeper`]'s answer. Nothing is kept of a connection that
//! fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::base::{Boot, NodeId, limits};
use crate::peer::links::{Peer, Shared};
use crate::peer::{Gatekeeper, PeerError, PeerFault, join, socket};
use crate::pki::{ALPN, ALPN_JOIN, Identity, TlsConfigs, TlsFollower, peer_identity};
use crate::wire::{
    Hello, HelloAnswer, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    WireError, encode_hello, encode_hello_answer, read_hello, read_hello_answer,
};

/// How long a handshake with hello and answer may take, on both sides.
pub(super) const HANDSHAKE_TIMEOUT: Duration =
    Duration::from_micros(limits::HANDSHAKE_TIMEOUT.as_micros());
/// How long one connection attempt of an introduction may take.
const INTRODUCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much is read at once before a peer is known.
const HELLO_READ_BYTES: usize = 4 * 1024;

/// What a connection was made with, and whose it is.
pub(super) struct Proof {
    /// The verified chain of the other side.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Follows the settings from those that verified the chain.
    pub(super) tls: TlsFollower,
}

/// A connection that was accepted as a link.
pub(super) struct Accepted {
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) class: LinkClass,
    pub(super) proof: Proof,
    pub(super) stream: TlsStream<TcpStream>,
    /// What arrived after the hello.
    pub(super) buffer: BytesMut,
}

/// What an accepted connection turned out to be.
pub(super) enum Received {
    /// A link with a member.
    Link(Accepted),
    /// A request for a certificate.
    Request(join::Asked),
}

/// A connection that was dialed to a node which has proved its name.
pub(super) struct Reached {
    proof: Proof,
    stream: TlsStream<TcpStream>,
}

/// A connection that was dialed and is a link.
pub(super) struct Dialed {
    pub(super) proof: Proof,
    /// Which start of the peer has accepted it.
    pub(super) boot: Boot,
    pub(super) stream: TlsStream<TcpStream>,
}

/// A connection that was not accepted.
pub(super) struct Rejected {
    /// The node that its certificate names, when it came as far.
    pub(super) identity: Option<Identity>,
    pub(super) error: PeerError,
}

impl<E: Into<PeerError>> From<E> for Rejected {
    fn from(error: E) -> Self {
        Rejected { identity: None, error: error.into() }
    }
}

/// Dials an address once, gets one answer, and closes: to learn the cluster's identity, or who a
/// newcomer is.
///
/// `hello` names the class, this node and whom it wants to reach; the certificate there must carry
/// the hello's `cluster_name` and `to_name`. Takes at most some seconds.
pub async fn introduce(
    tls: &TlsConfigs,
    address: &str,
    hello: &Hello,
) -> Result<HelloAnswer, PeerError> {
    let socket = socket::connect(address, INTRODUCE_TIMEOUT).await?;
    let asking = async {
        let mut stream = secure(tls, socket, &hello.cluster_name, &hello.to_name).await?;
        let answer = ask(&mut stream, hello).await?;
        Ok::<_, PeerError>((answer, stream))
    };
    let (answer, mut stream) =
        timeout(HANDSHAKE_TIMEOUT, asking).await.map_err(|_| PeerError::TimedOut)??;
    // The answer is here: how the connection ends does not matter any more.
    let _ = timeout(INTRODUCE_TIMEOUT, stream.shutdown()).await;
    Ok(answer)
}

/// Dials a peer for a link of this class. On success the peer has accepted us and we have accepted
/// it.
pub(super) async fn dial(
    shared: &Shared,
    peer: &Peer,
    address: &str,
    class: LinkClass,
) -> Result<Dialed, PeerError> {
    let reached = reach(shared, peer, address).await?;
    enter(shared, peer, reached, class, None).await
}

/// The first half of dialing: a connection to a node that has proved the peer's name. Nothing is
/// said of this node yet.
pub(super) async fn reach(
    shared: &Shared,
    peer: &Peer,
    address: &str,
) -> Result<Reached, PeerError> {
    let socket = socket::connect(address, shared.options.dial_timeout).await?;
    let mut tls = shared.tls.follow();
    let current = tls.current();
    let securing = secure(&current, socket, &shared.options.cluster_name, &peer.name);
    let stream = timeout(HANDSHAKE_TIMEOUT, securing).await.map_err(|_| PeerError::TimedOut)??;
    Ok(Reached { proof: Proof { chain: chain(&stream), tls }, stream })
}

/// The second half: hello, answer, and whether each takes the other.
///
/// Nothing that this node acknowledges to the peer may overtake the hello: what the hello claims
/// would then be less than what the peer knows, as if this node's disk had been put back. So the
/// caller writes to the peer on no other connection meanwhile. `before` is the boot of the peer's
/// process if a link with it stands: what it acknowledges there may overtake its answer, and its
/// answer counts nevertheless.
pub(super) async fn enter(
    shared: &Shared,
    peer: &Peer,
    reached: Reached,
    class: LinkClass,
    before: Option<Boot>,
) -> Result<Dialed, PeerError> {
    let Reached { proof, mut stream } = reached;
    let hello = Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        class,
        cluster_name: shared.options.cluster_name.clone(),
        name: shared.options.name.clone(),
        to_name: peer.name.clone(),
        to_node: Some(peer.node),
        claim: shared.gatekeeper.claim(),
    };
    let answer = timeout(HANDSHAKE_TIMEOUT, ask(&mut stream, &hello));
    let answer = answer.await.map_err(|_| PeerError::TimedOut)??;
    let verdict = shared.gatekeeper.accept_answer(&peer.name, &answer);
    let claim = match answer {
        HelloAnswer::Refused(refusal) => return Err(PeerError::Refused(refusal)),
        HelloAnswer::Accepted { claim, .. } => Some(claim),
        HelloAnswer::Blank { .. } | HelloAnswer::Genesis(_) => None,
    };
    let same_life = claim.as_ref().is_some_and(|claim| before == Some(claim.boot));
    match (verdict, claim) {
        (Err(HelloRefusal::RolledBack), Some(claim)) if same_life && claim.node == peer.node => {
            Ok(Dialed { proof, boot: claim.boot, stream })
        }
        (Err(refusal), _) => Err(PeerFault::Unwelcome(refusal).into()),
        (Ok(node), Some(claim)) if node == peer.node => {
            Ok(Dialed { proof, boot: claim.boot, stream })
        }
        // Another life of the same name: what is meant for the one is not for the other.
        (Ok(_), _) => Err(PeerFault::Unwelcome(HelloRefusal::Incarnation).into()),
    }
}

/// The dialer's side: TLS, and the server's identity.
async fn secure(
    tls: &TlsConfigs,
    socket: TcpStream,
    cluster_name: &str,
    to_name: &str,
) -> Result<TlsStream<TcpStream>, PeerError> {
    // The name is neither sent nor compared (see `pki/tls.rs`), but rustls asks for one.
    let unused = DnsName::try_from("quorumd.invalid").expect("a constant that is a DNS name");
    let connector = TlsConnector::from(Arc::clone(&tls.client));
    let stream = connector.connect(ServerName::DnsName(unused), socket).await?;
    let stream = TlsStream::from(stream);
    let identity = proven_identity(&stream)?;
    if identity.cluster() != cluster_name {
        return Err(PeerFault::Unwelcome(HelloRefusal::CertificateCluster).into());
    }
    if identity.name() != to_name {
        return Err(PeerFault::Unwelcome(HelloRefusal::CertificateName).into());
    }
    Ok(stream)
}

/// The dialer's side: hello and answer.
async fn ask(stream: &mut TlsStream<TcpStream>, hello: &Hello) -> Result<HelloAnswer, PeerError> {
    stream.write_all(&encode_hello(hello)).await?;
    stream.flush().await?;
    let mut buffer = BytesMut::new();
    let answer = first_frame(stream, &mut buffer, read_hello_answer).await?;
    if !buffer.is_empty() {
        return Err(PeerFault::UnexpectedData.into());
    }
    if let HelloAnswer::Accepted { version, .. } = &answer
        && !(hello.version_min..=hello.version_max).contains(version)
    {
        return Err(PeerFault::Unwelcome(HelloRefusal::Version).into());
    }
    Ok(answer)
}

/// The listener's side: TLS, the dialer's identity, hello, judgement, answer.
///
/// Nothing when the dialer has got its answer and the connection is over: it asked for no more, or
/// is not a member yet.
pub(super) async fn receive(
    shared: &Shared,
    socket: TcpStream,
) -> Result<Option<Received>, Rejected> {
    socket::prepare(&socket)?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    // Who offers both wants a link: a certificate is then demanded.
    let joins = {
        let hello = start.client_hello();
        let mut offered = hello.alpn().into_iter().flatten();
        offered.next() == Some(ALPN_JOIN) && offered.next().is_none()
    };
    let mut tls = shared.tls.follow();
    if joins {
        let config = Arc::clone(&tls.current().join_server);
        let stream = TlsStream::from(start.into_stream(config).await?);
        return Ok(Some(Received::Request(join::receive(shared, stream).await?)));
    }
    let config = Arc::clone(&tls.current().server);
    let mut stream = TlsStream::from(start.into_stream(config).await?);
    let identity = proven_identity(&stream)?;
    match receive_hello(shared, &identity, &mut stream).await {
        Ok(None) => Ok(None),
        Ok(Some((node, class, buffer))) => {
            let name = identity.name().to_owned();
            let proof = Proof { chain: chain(&stream), tls };
            Ok(Some(Received::Link(Accepted { name, node, class, proof, stream, buffer })))
        }
        Err(error) => Err(Rejected { identity: Some(identity), error }),
    }
}

async fn receive_hello(
    shared: &Shared,
    identity: &Identity,
    stream: &mut TlsStream<TcpStream>,
) -> Result<Option<(NodeId, LinkClass, BytesMut)>, PeerError> {
    let mut buffer = BytesMut::new();
    let hello = first_frame(stream, &mut buffer, read_hello).await?;
    let answer = answer(&shared.options.cluster_name, &shared.options.name, identity, &hello)
        .map_or_else(HelloAnswer::Refused, |version| judged(&*shared.gatekeeper, &hello, version));
    stream.write_all(&encode_hello_answer(&answer)).await?;
    stream.flush().await?;
    if matches!(answer, HelloAnswer::Accepted { .. }) && hello.class != LinkClass::Bootstrap {
        return Ok(Some((hello.claim.node, hello.class, buffer)));
    }
    stream.shutdown().await?;
    match answer {
        HelloAnswer::Refused(refusal) => Err(PeerFault::Unwelcome(refusal).into()),
        _ => Ok(None),
    }
}

/// Whether names and versions fit, before anybody looks at the membership; the version to speak.
fn answer(
    cluster_name: &str,
    own_name: &str,
    identity: &Identity,
    hello: &Hello,
) -> Result<u32, HelloRefusal> {
    if identity.cluster() != cluster_name {
        return Err(HelloRefusal::CertificateCluster);
    }
    if identity.name() != hello.name {
        return Err(HelloRefusal::CertificateName);
    }
    if hello.cluster_name != cluster_name {
        return Err(HelloRefusal::ClusterName);
    }
    if hello.to_name != own_name {
        return Err(HelloRefusal::ToName);
    }
    let version = hello.version_max.min(PROTOCOL_VERSION_MAX);
    if version < hello.version_min.max(PROTOCOL_VERSION_MIN) {
        return Err(HelloRefusal::Version);
    }
    Ok(version)
}

fn judged(gatekeeper: &dyn Gatekeeper, hello: &Hello, version: u32) -> HelloAnswer {
    match gatekeeper.judge(hello) {
        // Taken for the link of another life of this node, it would end the one that is meant.
        HelloAnswer::Accepted { claim, .. }
            if hello.to_node.is_some_and(|node| node != claim.node) =>
        {
            HelloAnswer::Refused(HelloRefusal::ToName)
        }
        HelloAnswer::Accepted { claim, .. } => HelloAnswer::Accepted { version, claim },
        other => other,
    }
}

/// The identity in the verified certificate of the other side, which has agreed on our protocol.
fn proven_identity(stream: &TlsStream<TcpStream>) -> Result<Identity, PeerError> {
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(PeerFault::Alpn.into());
    }
    let certificates: &[CertificateDer<'_>] = connection.peer_certificates().unwrap_or_default();
    peer_identity(certificates).map_err(|fault| PeerFault::Identity(fault).into())
}

/// The chain that the other side has shown.
fn chain(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

/// Reads until one whole frame is there; what follows it stays in `buffer`. The limit is in `read`,
/// which refuses by the announced length, so that the buffer never outgrows one frame and one read.
pub(super) async fn first_frame<T>(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    read: fn(&mut BytesMut) -> Result<Option<T>, WireError>,
) -> Result<T, PeerError> {
    loop {
        if let Some(frame) = read(buffer).map_err(PeerFault::Hello)? {
            return Ok(frame);
        }
        buffer.reserve(HELLO_READ_BYTES);
        if stream.read_buf(buffer).await? == 0 {
            return Err(PeerError::Closed);
        }
    }
}
