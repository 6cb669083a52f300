//! Who is refused, for which reason, logged once, without effect on a healthy link.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::base::limits::{
    FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_DEFAULT,
    HELLO_BYTES_MAX,
};
use crate::peer::harness::{
    Cluster, DAY, DEADLINE, Gate, Node, exchange, hello, message, node, tls,
};
use crate::peer::{Links, Options, PeerError, PeerFault, introduce};
use crate::pki::{Authority, TlsConfigs};
use crate::wire::{
    Hello, HelloAnswer, HelloRefusal, WireError, encode_frame, encode_hello, read_hello_answer,
};

/// A raw TLS connection to `to`, before any hello.
async fn connect(config: &Arc<ClientConfig>, to: &Node) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(to.address()).await?;
    let name = ServerName::try_from("quorumd.invalid").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, socket).await
}

/// Says `hello` to `to` and reads until the connection ends or an answer is there.
async fn say(tls: &TlsConfigs, to: &Node, hello: &Hello) -> Option<HelloAnswer> {
    let mut stream = connect(&tls.client, to).await.ok()?;
    stream.write_all(&encode_hello(hello)).await.ok()?;
    stream.flush().await.ok()?;
    let mut buffer = BytesMut::new();
    loop {
        if let Some(answer) = read_hello_answer(&mut buffer).unwrap() {
            return Some(answer);
        }
        let read = timeout(DEADLINE, stream.read_buf(&mut buffer)).await.unwrap();
        if read.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn until_closed(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("a closed connection").ok();
}

/// Lets `attempt` fail twice: its reason must be recorded once, and the links of alpha go on.
async fn refused<F: AsyncFn(&Cluster, &Node)>(reason: PeerError, attempt: F) {
    let cluster = Cluster::new();
    let (mut alpha, mut beta) = cluster.pair().await;
    attempt(&cluster, &alpha).await;
    attempt(&cluster, &alpha).await;
    alpha.until_refused(reason, 2).await;
    exchange(&mut alpha, &mut beta, 1).await;
    let refusals = alpha.links.status().refusals;
    let sources: Vec<_> = refusals.iter().map(|refusal| refusal.source.as_str()).collect();
    assert_eq!(sources, ["127.0.0.1"], "one line, whatever was tried how often: {refusals:?}");
    assert_eq!(beta.links.status().peers[0].failures, 0);
}

fn fault(fault: PeerFault) -> PeerError {
    PeerError::Fault(fault)
}

fn unwelcome(refusal: HelloRefusal) -> PeerError {
    fault(PeerFault::Unwelcome(refusal))
}

#[tokio::test]
async fn a_certificate_of_another_authority() {
    refused(fault(PeerFault::CertificateIssuer), async |cluster, alpha| {
        let impostor = Authority::create("blue").unwrap();
        let trusted = [&cluster.authority, &impostor];
        let tls = tls(&impostor, "gamma", &trusted, SystemTime::now());
        assert_eq!(say(&tls, alpha, &hello("gamma", 3)).await, None);
    })
    .await;
}

#[tokio::test]
async fn an_authority_that_does_not_trust_ours() {
    let cluster = Cluster::new();
    let alpha = cluster.start("alpha");
    let other = Authority::create("blue").unwrap();
    let tls = tls(&other, "gamma", &[&other], SystemTime::now());
    let error =
        introduce(&tls, &alpha.target("alpha").address, &hello("gamma", 3)).await.unwrap_err();
    assert_eq!(error, fault(PeerFault::CertificateIssuer));
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn no_certificate() {
    refused(fault(PeerFault::CertificateMissing), async |cluster, alpha| {
        let mut tls = cluster.tls("gamma");
        Arc::make_mut(&mut tls.client).client_auth_cert_resolver = Arc::new(NoCertificate);
        assert_eq!(say(&tls, alpha, &hello("gamma", 3)).await, None);
    })
    .await;
}

#[tokio::test]
async fn an_expired_certificate() {
    refused(fault(PeerFault::CertificateExpired), async |cluster, alpha| {
        let then = SystemTime::now() - 2 * DAY;
        let tls = tls(&cluster.authority, "gamma", &[&cluster.authority], then);
        assert_eq!(say(&tls, alpha, &hello("gamma", 3)).await, None);
    })
    .await;
}

#[tokio::test]
async fn the_name_of_another_node() {
    refused(unwelcome(HelloRefusal::CertificateName), async |cluster, alpha| {
        let answer = say(&cluster.tls("gamma"), alpha, &hello("beta", 2)).await;
        assert_eq!(answer, Some(HelloAnswer::Refused(HelloRefusal::CertificateName)));
    })
    .await;
}

#[tokio::test]
async fn a_certificate_for_another_cluster_by_a_trusted_authority() {
    refused(unwelcome(HelloRefusal::CertificateCluster), async |cluster, alpha| {
        let trusted = [&cluster.authority, &cluster.green];
        let tls = tls(&cluster.green, "gamma", &trusted, SystemTime::now());
        let answer = say(&tls, alpha, &hello("gamma", 3)).await;
        assert_eq!(answer, Some(HelloAnswer::Refused(HelloRefusal::CertificateCluster)));
    })
    .await;
}

#[tokio::test]
async fn the_name_of_another_cluster() {
    refused(unwelcome(HelloRefusal::ClusterName), async |cluster, alpha| {
        let mut hello = hello("gamma", 3);
        hello.cluster_name = "green".to_owned();
        let answer = say(&cluster.tls("gamma"), alpha, &hello).await;
        assert_eq!(answer, Some(HelloAnswer::Refused(HelloRefusal::ClusterName)));
    })
    .await;
}

#[tokio::test]
async fn a_hello_meant_for_another_node() {
    refused(unwelcome(HelloRefusal::ToName), async |cluster, alpha| {
        let mut hello = hello("gamma", 3);
        hello.to_name = "beta".to_owned();
        let answer = say(&cluster.tls("gamma"), alpha, &hello).await;
        assert_eq!(answer, Some(HelloAnswer::Refused(HelloRefusal::ToName)));
    })
    .await;
}

#[tokio::test]
async fn no_common_version() {
    refused(unwelcome(HelloRefusal::Version), async |cluster, alpha| {
        let mut hello = hello("gamma", 3);
        (hello.version_min, hello.version_max) = (1_000, 1_001);
        let answer = say(&cluster.tls("gamma"), alpha, &hello).await;
        assert_eq!(answer, Some(HelloAnswer::Refused(HelloRefusal::Version)));
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_no_member() {
    refused(unwelcome(HelloRefusal::Unknown), async |cluster, alpha| {
        let answer = say(&cluster.tls("delta"), alpha, &hello("delta", 4)).await;
        assert_eq!(answer, Some(HelloAnswer::Refused(HelloRefusal::Unknown)));
    })
    .await;
}

#[tokio::test]
async fn another_application_protocol_or_none() {
    for protocols in [vec![b"h2".to_vec()], Vec::new()] {
        refused(fault(PeerFault::Alpn), async |cluster, alpha| {
            let mut tls = cluster.tls("gamma");
            Arc::make_mut(&mut tls.client).alpn_protocols = protocols.clone();
            assert_eq!(say(&tls, alpha, &hello("gamma", 3)).await, None);
        })
        .await;
    }
}

#[tokio::test]
async fn plaintext() {
    refused(fault(PeerFault::NotTls), async |_, alpha| {
        let mut socket = TcpStream::connect(alpha.address()).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: alpha\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        timeout(DEADLINE, socket.read_to_end(&mut rest)).await.unwrap().ok();
    })
    .await;
}

/// A client hello of TLS 1.2 (RFC 5246, 7.4.1.2) with the one extension that rustls looks for
/// first.
fn hello_of_tls12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let signatures = [0x00, 0x0d, 0, 4, 0, 2, 4, 3];
    body.extend([0, signatures.len() as u8]);
    body.extend(signatures);
    let mut record = vec![0x16, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    record
}

#[tokio::test]
async fn only_tls12() {
    refused(fault(PeerFault::Incompatible), async |_, alpha| {
        let mut socket = TcpStream::connect(alpha.address()).await.unwrap();
        socket.write_all(&hello_of_tls12()).await.unwrap();
        let mut rest = Vec::new();
        timeout(DEADLINE, socket.read_to_end(&mut rest)).await.unwrap().ok();
        assert_eq!(rest.first(), Some(&0x15), "an alert, not a handshake: {rest:?}");
    })
    .await;
}

#[tokio::test]
async fn a_giant_first_frame() {
    let reason = fault(PeerFault::Hello(WireError::TooLong { limit: HELLO_BYTES_MAX }));
    refused(reason, async |cluster, alpha| {
        let mut stream = connect(&cluster.tls("gamma").client, alpha).await.unwrap();
        stream.write_all(&head(HELLO_BYTES_MAX + 1)).await.unwrap();
        until_closed(&mut stream).await;
    })
    .await;
}

/// The head of a frame that announces `length` bytes.
fn head(length: usize) -> BytesMut {
    let mut head = BytesMut::new();
    head.put_u32_le(length as u32);
    head.put_slice(&[0x10, 0, 0, 0, 0]);
    head
}

/// A raw link of gamma to `to`, accepted.
async fn accepted(cluster: &Cluster, to: &Node) -> TlsStream<TcpStream> {
    let mut stream = connect(&cluster.tls("gamma").client, to).await.unwrap();
    stream.write_all(&encode_hello(&hello("gamma", 3))).await.unwrap();
    let mut buffer = BytesMut::new();
    while read_hello_answer(&mut buffer).unwrap().is_none() {
        assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0, "refused");
    }
    stream
}

#[tokio::test]
async fn a_giant_frame_on_a_link() {
    let reason = fault(PeerFault::Frame(WireError::TooLong { limit: FRAME_BYTES_MAX }));
    refused(reason, async |cluster, alpha| {
        let mut stream = accepted(cluster, alpha).await;
        stream.write_all(&head(FRAME_BYTES_MAX + 1)).await.unwrap();
        until_closed(&mut stream).await;
    })
    .await;
}

#[tokio::test]
async fn a_message_in_the_name_of_another_node() {
    let cluster = Cluster::new();
    let (mut alpha, mut beta) = cluster.pair().await;
    let mut stream = accepted(&cluster, &alpha).await;
    stream.write_all(&encode_frame(&message(3, 1))).await.unwrap();
    stream.write_all(&encode_frame(&message(2, 2))).await.unwrap();
    stream.write_all(&encode_frame(&message(3, 3))).await.unwrap();
    until_closed(&mut stream).await;
    alpha.until_refused(fault(PeerFault::SenderForged), 1).await;
    assert_eq!(alpha.until_message().await, (node(3), message(3, 1)));
    // The next message is beta's: neither the forged one nor what followed it was handed on.
    exchange(&mut alpha, &mut beta, 4).await;
}

#[tokio::test]
async fn a_dialer_refuses_a_node_that_is_not_its_target() {
    let cluster = Cluster::new();
    let (alpha, gamma) = (cluster.start("alpha"), cluster.start("gamma"));
    alpha.links.set_targets(vec![gamma.target("beta")]);
    let reason = unwelcome(HelloRefusal::CertificateName);
    alpha.until_refused(reason, 1).await;
    let status = alpha.links.status();
    assert_eq!(status.peers[0].last_error, Some(reason));
    assert_eq!(status.peers[0].connected, None);
}

/// A connection to `to` from the loopback address 127.0.0.`host` that says nothing.
async fn silent(to: &Node, host: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    socket.connect(to.address()).await.unwrap()
}

#[tokio::test]
async fn unfinished_handshakes_are_capped_and_end_in_time() {
    let cluster = Cluster::new();
    let mut alpha = cluster.start("alpha");
    let mut silent_ones = Vec::new();
    // One address may only hold its share of the places; the others together fill all of them.
    for _ in 0..=HANDSHAKES_PER_ADDRESS_DEFAULT {
        silent_ones.push(silent(&alpha, 2).await);
    }
    alpha.until_refused(fault(PeerFault::TooManyConnections), 1).await;
    for number in HANDSHAKES_PER_ADDRESS_DEFAULT..HANDSHAKES_MAX {
        silent_ones.push(silent(&alpha, 3 + (number % 4) as u8).await);
    }
    let began = Instant::now();
    let mut beta = cluster.start("beta");
    beta.links.set_targets(vec![alpha.target("alpha")]);
    beta.until_up("alpha").await;
    let bound = Duration::from_micros(HANDSHAKE_TIMEOUT.as_micros()) + Duration::from_secs(2);
    assert!(began.elapsed() < bound, "a good peer waited {:?}", began.elapsed());
    assert!(beta.links.send(node(1), message(2, 1)));
    assert_eq!(alpha.until_message().await, (node(2), message(2, 1)));
    for socket in &mut silent_ones {
        let mut rest = Vec::new();
        timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("closed").ok();
    }
    let refusals = alpha.links.status().refusals;
    assert_eq!(refusals.iter().filter(|r| r.reason == PeerError::TimedOut).count(), 5);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_refusal_is_one_line_with_address_and_advice() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For the whole process: one that counts for a thread only is missed by a place that another
    // test's thread reaches first, because tracing then remembers that nobody listens there. So the
    // name of the one who is refused must be this test's own.
    tracing::subscriber::set_global_default(subscriber).expect("no other test listens");
    let cluster = Cluster::new();
    let alpha = cluster.start("alpha");
    for _ in 0..3 {
        say(&cluster.tls("lone"), &alpha, &hello("lone", 4)).await;
    }
    alpha.until_refused(unwelcome(HelloRefusal::Unknown), 3).await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("node/lone")).collect();
    let [warning] = warnings.as_slice() else { panic!("not one warning: {text}") };
    for part in ["127.0.0.1", "spiffe://blue/node/lone", "no member of the cluster"] {
        assert!(warning.contains(part), "{part:?} is missing: {warning}");
    }
}

#[tokio::test]
async fn options_that_differ_from_the_certificate() {
    let cluster = Cluster::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options::new("blue", "beta", 1);
    let gate = Arc::new(Gate::of("alpha"));
    let (sender, _events) = mpsc::channel(1);
    let tls = cluster.start("alpha").tls.clone();
    let error = Links::start(listener, options, tls, gate, sender).err().unwrap();
    assert!(
        error.to_string().contains("its certificate names spiffe://blue/node/alpha"),
        "{error}"
    );
}
