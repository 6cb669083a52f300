//! A cluster's authority and nodes on loopback for the tests of this folder: real sockets, port 0.
//!
//! Every wait has a deadline and waits for a condition; no test sleeps.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::base::{Boot, ClusterId, Index, NodeId, ReadContext, Term};
use crate::peer::{Gatekeeper, Inbound, Links, Options, PeerError, Target};
use crate::pki::{Authority, Credentials, LiveTls, TlsConfigs, Validity};
use crate::raft::{Body, Message};
use crate::wire::{
    Claim, Hello, HelloAnswer, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    PeerMessage, SnapshotChunk, SnapshotMessage, Standing, StoredRow,
};

/// How long a test waits for what must happen.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The members by name, as every node of a test sees them.
pub(super) struct Gate {
    name: String,
    members: BTreeMap<String, NodeId>,
    /// The classes of the links that it was asked about.
    classes: Arc<Mutex<Vec<LinkClass>>>,
}

impl Gate {
    pub(super) fn of(name: &str) -> Gate {
        let members = [("alpha", 1), ("beta", 2), ("gamma", 3)]
            .map(|(name, number)| (name.to_owned(), node(number)));
        Gate { name: name.to_owned(), members: members.into(), classes: Arc::default() }
    }
}

impl Gatekeeper for Gate {
    fn claim(&self) -> Claim {
        claim(self.members[&self.name])
    }

    fn judge(&self, hello: &Hello) -> HelloAnswer {
        self.classes.lock().unwrap().push(hello.class);
        match self.members.get(&hello.name) {
            None => HelloAnswer::Refused(HelloRefusal::Unknown),
            Some(node) if *node != hello.claim.node => {
                HelloAnswer::Refused(HelloRefusal::Incarnation)
            }
            Some(_) => HelloAnswer::Accepted { version: 0, claim: self.claim() },
        }
    }

    fn accept_answer(&self, name: &str, answer: &HelloAnswer) -> Result<NodeId, HelloRefusal> {
        match answer {
            HelloAnswer::Accepted { claim, .. } if self.members[name] == claim.node => {
                Ok(claim.node)
            }
            HelloAnswer::Refused(refusal) => Err(*refusal),
            _ => Err(HelloRefusal::NotReady),
        }
    }
}

pub(super) fn claim(node: NodeId) -> Claim {
    let standing = Standing::Member {
        cluster: ClusterId(1),
        term: Term(1),
        last_term: Term(1),
        last_index: Index(1),
        membership: Index(0),
        address: String::new(),
    };
    Claim { node, boot: Boot(1), standing }
}

pub(super) fn node(number: u64) -> NodeId {
    NodeId(number)
}

/// A cluster named "blue" with members alpha (1), beta (2), gamma (3).
pub(super) struct Cluster {
    pub(super) authority: Authority,
    /// Another cluster's authority that everybody trusts too, as if one authority served both.
    pub(super) green: Authority,
}

impl Cluster {
    pub(super) fn new() -> Cluster {
        let make = |cluster| Authority::create(cluster).unwrap();
        Cluster { authority: make("blue"), green: make("green") }
    }

    pub(super) fn tls(&self, name: &str) -> TlsConfigs {
        tls(&self.authority, name, &[&self.authority, &self.green], SystemTime::now())
    }

    pub(super) fn start(&self, name: &str) -> Node {
        self.start_at(name, TcpListener::bind("127.0.0.1:0").unwrap(), 1_024)
    }

    pub(super) fn start_at(&self, name: &str, socket: TcpListener, inbound: usize) -> Node {
        let trusted = [&self.authority, &self.green];
        let credentials = credentials(&self.authority, name, &trusted, SystemTime::now());
        let options = Options::new("blue", name, 7);
        self.start_with(&credentials, options, socket, inbound)
    }

    pub(super) fn start_with(
        &self,
        credentials: &Credentials,
        options: Options,
        socket: TcpListener,
        inbound: usize,
    ) -> Node {
        let name = credentials.identity().name();
        let gate = Gate::of(name);
        let classes = Arc::clone(&gate.classes);
        let (sender, events) = mpsc::channel(inbound);
        let tls = LiveTls::new(credentials).unwrap();
        let links = Links::start(socket, options, tls.clone(), Arc::new(gate), sender).unwrap();
        Node { links, events, classes, tls }
    }

    /// Alpha and beta with links in both directions.
    pub(super) async fn pair(&self) -> (Node, Node) {
        let (mut alpha, mut beta) = (self.start("alpha"), self.start("beta"));
        alpha.links.set_targets(vec![beta.target("beta")]);
        beta.links.set_targets(vec![alpha.target("alpha")]);
        alpha.until_up("beta").await;
        beta.until_up("alpha").await;
        (alpha, beta)
    }
}

/// Of a node of `authority` that trusts `trusted`, with a certificate issued at `issued_at` for a
/// day.
pub(super) fn credentials(
    authority: &Authority,
    name: &str,
    trusted: &[&Authority],
    issued_at: SystemTime,
) -> Credentials {
    let validity = Validity { not_before: issued_at - DAY, not_after: issued_at + DAY };
    let issued = authority.issue(name, validity).unwrap();
    let roots: String = trusted.iter().map(|authority| authority.certificate_pem()).collect();
    let (certificate, key) = (&issued.certificate_pem, &issued.key_pem);
    Credentials::from_pem(certificate, key, &roots, issued_at).unwrap()
}

/// TLS settings of such credentials.
pub(super) fn tls(
    authority: &Authority,
    name: &str,
    trusted: &[&Authority],
    issued_at: SystemTime,
) -> TlsConfigs {
    TlsConfigs::new(&credentials(authority, name, trusted, issued_at)).unwrap()
}

/// A hello as node `number` called `name` would send it to alpha.
pub(super) fn hello(name: &str, number: u64) -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        class: LinkClass::Consensus,
        cluster_name: "blue".to_owned(),
        name: name.to_owned(),
        to_name: "alpha".to_owned(),
        to_node: None,
        claim: claim(node(number)),
    }
}

/// A consensus message that carries a number.
pub(super) fn message(from: u64, number: u64) -> PeerMessage {
    let body = Body::ReadRequest { context: ReadContext(number) };
    PeerMessage::Raft(Message { from: node(from), to: node(9), term: Term(1), body })
}

/// A part of a snapshot that carries a number.
pub(super) fn chunk(number: u32) -> PeerMessage {
    let row = StoredRow { key: Bytes::from_static(b"k"), value: Bytes::from(vec![7; 100_000]) };
    PeerMessage::Snapshot(SnapshotMessage::Chunk(SnapshotChunk::new(1, number, false, vec![row])))
}

pub(super) struct Node {
    pub(super) links: Links,
    pub(super) events: mpsc::Receiver<Inbound>,
    pub(super) tls: LiveTls,
    /// The classes of the links that it was asked for.
    pub(super) classes: Arc<Mutex<Vec<LinkClass>>>,
}

impl Node {
    pub(super) fn address(&self) -> SocketAddr {
        self.links.local_addr()
    }

    pub(super) fn target(&self, name: &str) -> Target {
        let node = Gate::of(name).members[name];
        Target { node, name: name.to_owned(), address: self.address().to_string() }
    }

    pub(super) async fn next(&mut self) -> Inbound {
        timeout(DEADLINE, self.events.recv()).await.expect("an event within the deadline").unwrap()
    }

    pub(super) async fn until_up(&mut self, peer: &str) {
        while !matches!(self.next().await, Inbound::Up { name, .. } if name == peer) {}
    }

    /// The next `Down` of `peer`: whether the redial failed.
    pub(super) async fn until_down(&mut self, peer: &str) -> bool {
        loop {
            if let Inbound::Down { name, redial_failed, .. } = self.next().await
                && name == peer
            {
                return redial_failed;
            }
        }
    }

    pub(super) async fn until_message(&mut self) -> (NodeId, PeerMessage) {
        loop {
            if let Inbound::Message { from, message } = self.next().await {
                return (from, message);
            }
        }
    }

    /// Waits until `reason` was seen `count` times, all recorded as one, so logged once.
    pub(super) async fn until_refused(&self, reason: PeerError, count: u64) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let refusals = self.links.status().refusals;
            let of_reason: Vec<_> = refusals.iter().filter(|r| r.reason == reason).collect();
            if let [refusal] = of_reason.as_slice()
                && refusal.count >= count
            {
                return;
            }
            assert!(Instant::now() < deadline, "no refusal for {reason:?}: {refusals:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// Shows that the links between two nodes still work in both directions.
pub(super) async fn exchange(alpha: &mut Node, beta: &mut Node, number: u64) {
    assert!(alpha.links.send(node(2), message(1, number)));
    assert!(beta.links.send(node(1), message(2, number)));
    assert_eq!(beta.until_message().await, (node(1), message(1, number)));
    assert_eq!(alpha.until_message().await, (node(2), message(2, number)));
}
