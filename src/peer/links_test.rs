//! What links between honest nodes do: exchange, come back, report losses, hold a slow peer back.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as TokioListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::base::limits::PEER_QUEUE_FRAMES_MAX;
use crate::peer::harness::{Cluster, DEADLINE, Node, chunk, claim, exchange, hello, message, node};
use crate::peer::{PeerError, Target, introduce};
use crate::wire::{HelloAnswer, HelloRefusal, LinkClass, encode_hello_answer, read_hello};

#[tokio::test]
async fn frames_go_both_ways_in_order() {
    let (mut alpha, mut beta) = Cluster::new().pair().await;
    exchange(&mut alpha, &mut beta, 0).await;
    for number in 1..=1_000 {
        assert!(alpha.links.send(node(2), message(1, number)));
        assert!(beta.links.send(node(1), message(2, number)));
    }
    for number in 1..=1_000 {
        assert_eq!(beta.until_message().await, (node(1), message(1, number)));
        assert_eq!(alpha.until_message().await, (node(2), message(2, number)));
    }
    let status = alpha.links.status();
    assert_eq!(status.peers[0].node, node(2));
    assert!(status.peers[0].connected.is_some());
    assert!(status.peers[0].incoming);
    assert!(!alpha.links.send(node(7), message(1, 1)), "only targets can be sent to");
}

#[tokio::test]
async fn parts_of_a_snapshot_have_a_connection_of_their_own_that_comes_and_goes_unreported() {
    let (mut alpha, mut beta) = Cluster::new().pair().await;
    let classes = |node: &Node| node.classes.lock().unwrap().clone();
    assert_eq!(classes(&beta), [LinkClass::Consensus], "nothing is dialed before it is needed");
    for number in 0..8 {
        assert!(alpha.links.send(node(2), chunk(number)));
    }
    for number in 0..8 {
        assert_eq!(beta.until_message().await, (node(1), chunk(number)));
    }
    assert_eq!(classes(&beta), [LinkClass::Consensus, LinkClass::Bulk]);
    exchange(&mut alpha, &mut beta, 0).await;

    // Beta forgets alpha and ends both links: the one for bulk is dialed when it is used again.
    beta.links.set_targets(Vec::new());
    assert!(!alpha.until_down("beta").await);
    alpha.until_up("beta").await;
    assert!(alpha.events.try_recv().is_err(), "the bulk connection ended without a word");
    // What is sent into a connection that has ended is lost, and sent again by whoever needs it.
    while !matches!(
        timeout(Duration::from_millis(100), beta.until_message()).await,
        Ok((_, message)) if message == chunk(9)
    ) {
        alpha.links.send(node(2), chunk(9));
    }
    assert!(alpha.links.status().peers[0].connected.is_some());
}

#[tokio::test]
async fn what_was_queued_just_before_the_link_is_delivered() {
    let cluster = Cluster::new();
    let (alpha, mut beta) = (cluster.start("alpha"), cluster.start("beta"));
    alpha.links.set_targets(vec![beta.target("beta")]);
    assert!(alpha.links.send(node(2), message(1, 5)));
    assert_eq!(beta.until_message().await, (node(1), message(1, 5)));
}

#[tokio::test]
async fn a_peer_that_ends_is_reported_at_once_and_comes_back() {
    let cluster = Cluster::new();
    let (mut alpha, beta) = cluster.pair().await;
    let address = beta.address();
    let ended = Instant::now();
    drop(beta);
    assert!(alpha.until_down("beta").await, "nobody listens there any more");
    let took = ended.elapsed();
    assert!(took < Duration::from_secs(1), "the loss of a process took {took:?} to report");
    alpha.links.send(node(2), message(1, 1));

    let mut beta = cluster.start_at("beta", TcpListener::bind(address).unwrap(), 1_024);
    beta.links.set_targets(vec![alpha.target("alpha")]);
    alpha.until_up("beta").await;
    beta.until_up("alpha").await;
    assert_eq!(beta.until_message().await, (node(1), message(1, 1)));
    exchange(&mut alpha, &mut beta, 2).await;
}

#[tokio::test]
async fn a_link_that_breaks_while_the_peer_lives_is_dialed_again_at_once() {
    let cluster = Cluster::new();
    let (mut alpha, beta) = cluster.pair().await;
    // Beta forgets alpha: it closes alpha's link, and accepts it anew when it is dialed.
    beta.links.set_targets(Vec::new());
    assert!(!alpha.until_down("beta").await, "beta listens: the redial must work");
    alpha.until_up("beta").await;
}

#[tokio::test]
async fn an_address_that_changes_is_dialed_anew() {
    let cluster = Cluster::new();
    let (mut alpha, beta) = cluster.pair().await;
    let mut moved = cluster.start("beta");
    alpha.links.set_targets(vec![moved.target("beta")]);
    assert!(!alpha.until_down("beta").await);
    alpha.until_up("beta").await;
    assert!(alpha.links.send(node(2), message(1, 1)));
    assert_eq!(moved.until_message().await, (node(1), message(1, 1)));
    drop(beta);
}

#[tokio::test]
async fn shutdown_writes_what_is_queued_and_closes() {
    let (alpha, mut beta) = Cluster::new().pair().await;
    for number in 0..100 {
        assert!(alpha.links.send(node(2), message(1, number)));
    }
    timeout(DEADLINE, alpha.links.shutdown()).await.unwrap();
    assert!(!alpha.links.send(node(2), message(1, 100)));
    for number in 0..100 {
        assert_eq!(beta.until_message().await, (node(1), message(1, number)));
    }
    assert!(beta.until_down("alpha").await);
}

#[tokio::test]
async fn a_removed_target_is_not_listened_to_and_may_come_back() {
    let (mut alpha, mut beta) = Cluster::new().pair().await;
    alpha.links.set_targets(Vec::new());
    assert!(!alpha.until_down("beta").await);
    assert!(!alpha.links.send(node(2), message(1, 1)));
    beta.until_down("alpha").await;
    alpha.links.set_targets(vec![beta.target("beta")]);
    alpha.until_up("beta").await;
    beta.until_up("alpha").await;
    exchange(&mut alpha, &mut beta, 3).await;
}

#[tokio::test]
async fn a_slow_receiver_holds_back_its_senders_and_loses_nothing_that_was_read() {
    let cluster = Cluster::new();
    let mut alpha = cluster.start("alpha");
    let mut beta = cluster.start_at("beta", TcpListener::bind("127.0.0.1:0").unwrap(), 1);
    alpha.links.set_targets(vec![beta.target("beta")]);
    alpha.until_up("beta").await;
    // Beta's node reads nothing: sooner or later alpha's queue is full, and says so.
    let deadline = Instant::now() + DEADLINE;
    let mut sent = 0;
    while alpha.links.send(node(2), message(1, sent)) {
        sent += 1;
        assert!(
            Instant::now() < deadline,
            "{sent} messages were queued for one that does not read"
        );
        if sent % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(alpha.links.status().peers[0].queued <= PEER_QUEUE_FRAMES_MAX);
    for number in 0..sent {
        assert_eq!(beta.until_message().await, (node(1), message(1, number)));
    }
    let peer = &alpha.links.status().peers[0];
    assert_eq!((peer.queued, peer.dropped, peer.failures), (0, 1, 0));
}

#[tokio::test]
async fn a_bare_connection_is_no_refusal() {
    let (mut alpha, mut beta) = Cluster::new().pair().await;
    for _ in 0..3 {
        let mut socket = TcpStream::connect(alpha.address()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(DEADLINE, socket.read_to_end(&mut rest)).await.unwrap().ok();
    }
    assert_eq!(alpha.links.status().refusals, []);
    exchange(&mut alpha, &mut beta, 1).await;
}

#[tokio::test]
async fn an_introduction_gets_an_answer_and_no_link() {
    let cluster = Cluster::new();
    let alpha = cluster.start("alpha");
    let mut hello = hello("beta", 2);
    hello.class = LinkClass::Bootstrap;
    let answer =
        introduce(&cluster.tls("beta"), &alpha.target("alpha").address, &hello).await.unwrap();
    assert!(matches!(answer, HelloAnswer::Accepted { version: 1, .. }), "{answer:?}");

    hello.claim.node = node(77);
    let answer =
        introduce(&cluster.tls("beta"), &alpha.target("alpha").address, &hello).await.unwrap();
    assert_eq!(answer, HelloAnswer::Refused(HelloRefusal::Incarnation));

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = introduce(&cluster.tls("beta"), &free.to_string(), &hello).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn another_life_under_the_name_of_a_target_is_not_spoken_to() {
    // A member is being replaced: its former life is still a member, and its address leads to the
    // new one already.
    let cluster = Cluster::new();
    let (alpha, beta) = cluster.pair().await;
    let former = Target { node: node(99), ..beta.target("beta") };
    alpha.links.set_targets(vec![beta.target("beta"), former]);
    let refused = PeerError::Refused(HelloRefusal::ToName);
    alpha.until_refused(refused, 1).await;
    assert!(alpha.links.send(node(99), message(1, 1)), "it waits for who may yet come");
    assert!(alpha.links.send(node(2), message(1, 2)));
    let mut beta = beta;
    assert_eq!(beta.until_message().await, (node(1), message(1, 2)), "and nobody else gets it");
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let cluster = Cluster::new();
    let mut alpha = cluster.start("alpha");
    let older = cluster.start("beta");
    older.links.set_targets(vec![alpha.target("alpha")]);
    assert!(older.links.send(node(1), message(2, 1)));
    assert_eq!(alpha.until_message().await, (node(2), message(2, 1)));
    let mut newer = cluster.start("beta");
    newer.links.set_targets(vec![alpha.target("alpha")]);
    newer.until_up("alpha").await;
    let mut older = older;
    // The older one dials again and replaces the newer: two processes with one identity disturb
    // each other and nobody else. It is enough here that its first link ended.
    older.until_down("alpha").await;
}

/// Accepts one link as beta by hand, and returns it open.
async fn accept_as_beta(cluster: &Cluster, listener: &TokioListener) -> TlsStream<TcpStream> {
    let (socket, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    let acceptor = TlsAcceptor::from(cluster.tls("beta").server);
    let mut stream = acceptor.accept(socket).await.unwrap();
    let mut buffer = BytesMut::new();
    while read_hello(&mut buffer).unwrap().is_none() {
        assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0, "no hello");
    }
    let answer = HelloAnswer::Accepted { version: 1, claim: claim(node(2)) };
    stream.write_all(&encode_hello_answer(&answer)).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

#[tokio::test]
async fn the_end_of_a_peers_own_link_is_a_hint_to_look_at_ours() {
    let cluster = Cluster::new();
    let mut alpha = cluster.start("alpha");
    let listener = TokioListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    alpha.links.set_targets(vec![Target { node: node(2), name: "beta".to_owned(), address }]);
    let kept_open = accept_as_beta(&cluster, &listener).await;
    alpha.until_up("beta").await;
    let beta = cluster.start("beta");
    beta.links.set_targets(vec![alpha.target("alpha")]);
    assert!(beta.links.send(node(1), message(2, 1)));
    assert_eq!(alpha.until_message().await, (node(2), message(2, 1)));
    // Beta's listener and its own link end; alpha's link to it stays open and silent, as one to a
    // host that lost its memory does.
    drop(listener);
    drop(beta);
    assert!(alpha.until_down("beta").await, "nobody listens at beta's address any more");
    drop(kept_open);
}
