//! What becomes of links when TLS settings are replaced, and when they grow old.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use crate::peer::harness::{Cluster, DEADLINE, Node, credentials, exchange, message, node};
use crate::peer::{Inbound, Options, PeerError, PeerFault};
use crate::pki::{Authority, Credentials};
use crate::raft::Body;
use crate::wire::{LinkClass, PeerMessage};

/// Long enough for every link to be renewed under load, short enough to be waited for.
const DISTRUSTED_AGE_MAX: Duration = Duration::from_secs(2);

fn start(cluster: &Cluster, credentials: &Credentials, age_max: Duration) -> Node {
    let options = Options {
        connection_age_max: age_max,
        distrusted_age_max: DISTRUSTED_AGE_MAX,
        ..Options::new("blue", credentials.identity().name(), 7)
    };
    cluster.start_with(credentials, options, TcpListener::bind("127.0.0.1:0").unwrap(), 1_024)
}

/// Alpha and beta, linked, with certificates of `old`.
async fn pair(cluster: &Cluster, old: &Authority, age_max: Duration) -> (Node, Node) {
    let now = SystemTime::now();
    let mut alpha = start(cluster, &credentials(old, "alpha", &[old], now), age_max);
    let mut beta = start(cluster, &credentials(old, "beta", &[old], now), age_max);
    alpha.links.set_targets(vec![beta.target("beta")]);
    beta.links.set_targets(vec![alpha.target("alpha")]);
    alpha.until_up("beta").await;
    beta.until_up("alpha").await;
    (alpha, beta)
}

fn replace(node: &Node, name: &str, authority: &Authority, trusted: &[&Authority]) {
    let credentials = credentials(authority, name, trusted, SystemTime::now());
    node.tls.replace(&credentials).unwrap();
}

/// Waits until `node` has refused certificates of an authority that it does not trust.
async fn until_distrusted(node: &Node, count: u64) {
    let deadline = Instant::now() + DEADLINE;
    let reason = PeerError::Fault(PeerFault::CertificateIssuer);
    while !node.links.status().refusals.iter().any(|it| it.reason == reason && it.count >= count) {
        assert!(Instant::now() < deadline, "{:?}", node.links.status().refusals);
        tokio::task::yield_now().await;
    }
}

/// How many consensus links the node has been asked for.
fn asked(node: &Node) -> usize {
    let classes = node.classes.lock().unwrap();
    classes.iter().filter(|class| **class == LinkClass::Consensus).count()
}

/// Sends without a pause until `done`, and shows that everything arrives once, without a word about
/// a link. While two connections are read, what was sent on them may change places.
async fn under_load(alpha: &Node, beta: &mut Node, done: impl Fn(&Node) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    let (mut sent, mut received) = (0, 0);
    let mut arrived = Vec::new();
    while received < sent || !done(beta) {
        assert!(Instant::now() < deadline, "{sent} sent, {received} received, and not done");
        if sent < received + 2_000 && !done(beta) {
            assert!(alpha.links.send(node(2), message(1, sent)));
            sent += 1;
            arrived.push(false);
        }
        match beta.events.try_recv() {
            Ok(Inbound::Message { message: it, .. }) => {
                let PeerMessage::Raft(it) = it else { panic!("nobody sent {it:?}") };
                let Body::ReadRequest { context } = it.body else { panic!("nobody sent {it:?}") };
                let number = usize::try_from(context.0).unwrap();
                assert!(!std::mem::replace(&mut arrived[number], true), "{number} came twice");
                received += 1;
            }
            Ok(word) => panic!("a renewal was reported: {word:?}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
    assert!(sent > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_authority_takes_over_step_by_step_and_nothing_is_lost_or_reported() {
    let cluster = Cluster::new();
    let (old, new) = (Authority::create("blue").unwrap(), Authority::create("blue").unwrap());
    let (mut alpha, mut beta) = pair(&cluster, &old, Duration::from_secs(3_600)).await;
    let both = [&old, &new];
    // Both are trusted; then the certificates change; then only the new one is trusted.
    for (authority, trusted) in [(&old, &both[..]), (&new, &both[..]), (&new, &both[1..])] {
        for (name, other) in [("alpha", 1), ("beta", 2)] {
            let (links_before, at) = (asked(&beta), if other == 1 { &alpha } else { &beta });
            replace(at, name, authority, trusted);
            if other == 1 {
                // It is alpha that dials beta anew.
                under_load(&alpha, &mut beta, |beta| asked(beta) > links_before).await;
            }
        }
    }
    // Also long after what the former certificates were given.
    let end = Instant::now() + 2 * DISTRUSTED_AGE_MAX;
    under_load(&alpha, &mut beta, |_| Instant::now() >= end).await;
    assert!(alpha.events.try_recv().is_err(), "nothing was reported");
    exchange(&mut alpha, &mut beta, 1).await;
    for node in [&alpha, &beta] {
        let status = node.links.status();
        assert_eq!((status.peers[0].failures, status.refusals.len()), (0, 0), "{status:?}");
        assert!(status.peers[0].incoming && status.peers[0].connected.is_some());
    }
}

#[tokio::test]
async fn links_of_a_withdrawn_authority_end_in_both_directions_and_not_at_once() {
    let cluster = Cluster::new();
    let (old, new) = (Authority::create("blue").unwrap(), Authority::create("blue").unwrap());
    let (mut alpha, mut beta) = pair(&cluster, &old, Duration::from_secs(3_600)).await;
    let begun = Instant::now();
    replace(&beta, "beta", &new, &[&new]);
    // Alpha is not given the new one in time.
    exchange(&mut alpha, &mut beta, 1).await;
    assert!(begun.elapsed() < DISTRUSTED_AGE_MAX);
    assert!(alpha.until_down("beta").await, "beta does not accept it any more");
    assert!(begun.elapsed() >= DISTRUSTED_AGE_MAX);
    assert!(beta.until_down("alpha").await, "nor does beta go on with its own link to it");
    assert!(begun.elapsed() < DISTRUSTED_AGE_MAX + DEADLINE / 2);
    until_distrusted(&beta, 1).await;
    assert!(!beta.links.status().peers[0].incoming);
    // Late is better than never.
    replace(&alpha, "alpha", &new, &[&new]);
    alpha.until_up("beta").await;
    beta.until_up("alpha").await;
    exchange(&mut alpha, &mut beta, 2).await;
}

#[tokio::test]
async fn a_renewal_that_is_refused_leaves_the_old_link_as_it_is_and_is_tried_again() {
    let cluster = Cluster::new();
    let (old, new) = (Authority::create("blue").unwrap(), Authority::create("blue").unwrap());
    let (mut alpha, mut beta) = pair(&cluster, &old, Duration::from_secs(3_600)).await;
    // Alpha is given its new certificate before beta is told of the new authority.
    replace(&alpha, "alpha", &new, &[&old, &new]);
    until_distrusted(&beta, 2).await;
    exchange(&mut alpha, &mut beta, 1).await;
    assert!(alpha.links.status().peers[0].connected.is_some());
    let asked_before = asked(&beta);
    replace(&beta, "beta", &old, &[&old, &new]);
    let deadline = Instant::now() + DEADLINE;
    while asked(&beta) == asked_before {
        assert!(Instant::now() < deadline, "it was not tried again");
        tokio::task::yield_now().await;
    }
    exchange(&mut alpha, &mut beta, 2).await;
    assert!(alpha.events.try_recv().is_err() && beta.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_old_is_made_anew_without_a_word() {
    let cluster = Cluster::new();
    let authority = Authority::create("blue").unwrap();
    let (alpha, mut beta) = pair(&cluster, &authority, Duration::from_secs(2)).await;
    let before = asked(&beta);
    under_load(&alpha, &mut beta, |beta| asked(beta) >= before + 2).await;
}

#[tokio::test]
async fn a_connection_that_its_dialer_does_not_renew_is_ended() {
    let cluster = Cluster::new();
    let authority = Authority::create("blue").unwrap();
    let now = SystemTime::now();
    let of = |name| credentials(&authority, name, &[&authority], now);
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(3_600));
    let beta = start(&cluster, &of("beta"), short);
    let mut alpha = start(&cluster, &of("alpha"), long);
    alpha.links.set_targets(vec![beta.target("beta")]);
    alpha.until_up("beta").await;
    assert!(!alpha.until_down("beta").await, "it may dial again, and does");
    alpha.until_up("beta").await;
    assert_eq!(beta.links.status().refusals, [], "there is nothing wrong with it");
}
