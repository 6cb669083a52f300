//! The peer port meets strangers: each is refused, logged once per reason with its address, and
//! changes nothing for the others.

use std::io::Write;
use std::net::{SocketAddr, TcpStream as PlainStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use quorumd::base::{Boot, ClusterId, Index, NodeId, Term};
use quorumd::pki::{Authority, Credentials, TlsConfigs, Validity};
use quorumd::wire::{
    Claim, Hello, HelloAnswer, LinkClass, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Standing,
    encode_hello, read_hello_answer,
};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{CLUSTER, Cluster, DAY, Options, wait_until};

/// A stranger that dials a daemon.
struct Stranger {
    tls: TlsConfigs,
    hello: Hello,
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

impl Stranger {
    /// Has a certificate of `authority` that was issued at a moment, and says that it is `name`.
    fn new(authority: &Authority, roots: &str, name: &str, issued_at: SystemTime) -> Self {
        let validity = Validity { not_before: issued_at - DAY, not_after: issued_at + DAY };
        let issued = authority.issue(name, validity).unwrap();
        let (certificate, key) = (&issued.certificate_pem, &issued.key_pem);
        let credentials = Credentials::from_pem(certificate, key, roots, issued_at).unwrap();
        let standing = Standing::Member {
            cluster: ClusterId(1),
            term: Term(1),
            last_term: Term(1),
            last_index: Index(1),
            membership: Index(0),
            address: String::new(),
        };
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            class: LinkClass::Consensus,
            cluster_name: CLUSTER.to_owned(),
            name: name.to_owned(),
            to_name: "n1".to_owned(),
            to_node: None,
            claim: Claim { node: NodeId(7), boot: Boot(1), standing },
        };
        Self { tls: TlsConfigs::new(&credentials).unwrap(), hello }
    }

    /// Dials, and says its hello; whether it was accepted.
    async fn is_accepted(&self, to: SocketAddr) -> bool {
        let name = ServerName::try_from("quorumd.invalid").unwrap();
        let socket = TcpStream::connect(to).await.unwrap();
        let connector = TlsConnector::from(self.tls.client.clone());
        let Ok(mut stream) = connector.connect(name, socket).await else { return false };
        if stream.write_all(&encode_hello(&self.hello)).await.is_err() {
            return false;
        }
        // An error is an end like any other.
        let _ = stream.flush().await;
        let mut buffer = BytesMut::new();
        loop {
            if let Ok(Some(answer)) = read_hello_answer(&mut buffer) {
                return !matches!(answer, HelloAnswer::Refused(_));
            }
            let limit = Duration::from_secs(10);
            let read = tokio::time::timeout(limit, stream.read_buf(&mut buffer)).await.unwrap();
            if read.unwrap_or(0) == 0 {
                return false;
            }
        }
    }
}

/// Every stranger with the words that the log has for it.
fn strangers(cluster: &Cluster, green: &Authority) -> Vec<(Stranger, &'static str)> {
    let now = SystemTime::now();
    let roots = cluster.authority.certificate_pem().to_owned() + green.certificate_pem();
    let ours = |name: &str| Stranger::new(&cluster.authority, &roots, name, now);
    let impostor = Authority::create(CLUSTER).unwrap();
    let trusting = roots.clone() + impostor.certificate_pem();
    let mut no_certificate = ours("n2");
    Arc::make_mut(&mut no_certificate.tls.client).client_auth_cert_resolver =
        Arc::new(NoCertificate);
    let mut other_name = ours("n3");
    other_name.hello.name = "n2".to_owned();
    let mut other_cluster_name = ours("n2");
    other_cluster_name.hello.cluster_name = "green".to_owned();
    let mut other_target = ours("n2");
    other_target.hello.to_name = "n3".to_owned();
    let expired = Stranger::new(&cluster.authority, &roots, "n2", now - 3 * DAY);
    let mut unknown = ours("n4");
    unknown.hello.claim.standing = Standing::Blank { seed_digest: 1 };
    vec![
        (no_certificate, "it presented no certificate"),
        (Stranger::new(&impostor, &trusting, "n2", now), "not signed by a trusted authority"),
        (expired, "its certificate has expired"),
        (other_name, "the certificate is for another node than the one that speaks"),
        (Stranger::new(green, &roots, "n2", now), "the certificate is for another cluster"),
        (other_cluster_name, "the configured cluster names differ"),
        (other_target, "leads to another node"),
        (unknown, "no member of the cluster has this name"),
        (ours("n2"), "its data directory belongs to another cluster"),
    ]
}

#[test]
fn strangers_are_refused_and_logged_once_per_reason() {
    let green = Authority::create("green").unwrap();
    let more_roots = green.certificate_pem().to_owned();
    let cluster = Cluster::with(&Options { more_roots, ..Options::default() });
    let leader = cluster.leader();
    let term = cluster.nodes[leader].status().unwrap()["term"].clone();
    let node = &cluster.nodes[0];
    let to = node.port.address;
    let strangers = strangers(&cluster, &green);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (stranger, reason) in &strangers {
        for _ in 0..2 {
            let accepted = runtime.block_on(stranger.is_accepted(to));
            assert!(!accepted, "accepted: {reason}");
        }
        node.put("x", reason);
    }
    for _ in 0..2 {
        let mut plain = PlainStream::connect(to).unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n").unwrap();
        // The daemon closes; an error here is one form of that.
        let _ = std::io::copy(&mut plain, &mut std::io::sink());
    }
    let reasons = strangers.iter().map(|(_, reason)| *reason).chain(["it does not speak TLS"]);
    for reason in reasons {
        let lines = wait_until("the refusal is logged", || {
            let log = node.log();
            let lines: Vec<String> =
                log.lines().filter(|line| line.contains(reason)).map(str::to_owned).collect();
            (!lines.is_empty()).then_some(lines)
        });
        let [line] = lines.as_slice() else {
            panic!("{reason}: {} lines: {lines:#?}", lines.len())
        };
        assert!(line.contains("WARN") && line.contains("127.0.0.1"), "{line}");
    }
    let status = cluster.nodes[leader].status().unwrap();
    assert_eq!((&status["role"], &status["term"]), (&"leader".into(), &term), "no election");
    for node in &cluster.nodes {
        let links = node.status().unwrap()["links"].clone();
        let links = links.as_array().unwrap();
        assert!(links.iter().all(|link| link["connected"] == true), "{links:#?}");
    }
}
