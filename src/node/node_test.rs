//! Real nodes in one process: TLS on loopback, redb files in a temporary directory, real threads.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{Revision, Span};
use crate::node::{Consistency, Node, Options, StartError, StartPhase, Starting, Topic};
use crate::pki::{Authority, Credentials, LiveTls, Validity};
use crate::replica::Seed;
use crate::state::{Condition, Operation, Outcome};
use crate::watch::{Delivery, Filter, WatchRequest};

const CLUSTER: &str = "test";
const TIMEOUT: Span = Span::from_secs(10);
/// Longer than anything here can take; a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(30);

struct Host {
    name: String,
    listener: Option<TcpListener>,
    tls: LiveTls,
}

struct Cluster {
    directory: tempfile::TempDir,
    hosts: Vec<Host>,
    seeds: BTreeMap<String, Seed>,
}

impl Cluster {
    fn new(size: usize) -> Self {
        let authority = Authority::create(CLUSTER).expect("an authority can be made");
        let mut hosts = Vec::new();
        let mut seeds = BTreeMap::new();
        for number in 1..=size {
            let name = format!("n{number}");
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            let address = listener.local_addr().expect("it is bound").to_string();
            let validity = Validity::from_now(Duration::from_secs(3_600));
            let issued = authority.issue(&name, validity).expect("it may issue");
            let credentials = Credentials::from_pem(
                &issued.certificate_pem,
                &issued.key_pem,
                authority.certificate_pem(),
                std::time::SystemTime::now(),
            );
            let tls = LiveTls::new(&credentials.expect("they are valid")).expect("usable");
            hosts.push(Host { name: name.clone(), listener: Some(listener), tls });
            seeds.insert(name, Seed { address, voter: true });
        }
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { directory, hosts, seeds }
    }

    async fn start(&mut self, index: usize) -> Result<Node, StartError> {
        let path = self.directory.path().join(&self.hosts[index].name);
        self.start_in(index, &path).await
    }

    async fn start_in(&mut self, index: usize, path: &Path) -> Result<Node, StartError> {
        let starting = Starting::new(&self.hosts[index].name, CLUSTER);
        self.start_as(index, path, &starting).await
    }

    async fn start_as(
        &mut self,
        index: usize,
        path: &Path,
        starting: &Starting,
    ) -> Result<Node, StartError> {
        let address = self.seeds[&self.hosts[index].name].address.clone();
        let host = &mut self.hosts[index];
        let listener = host
            .listener
            .take()
            .unwrap_or_else(|| TcpListener::bind(address).expect("its former port is free again"));
        let options = Options {
            cluster_name: CLUSTER.to_owned(),
            name: host.name.clone(),
            seeds: self.seeds.clone(),
            data_dir: path.to_owned(),
            reserve_bytes: 0,
            replica: crate::replica::Options::default(),
        };
        Node::start(options, listener, host.tls.clone(), starting).await
    }

    async fn start_all(&mut self) -> Vec<Node> {
        let mut starting = Vec::new();
        for index in 0..self.hosts.len() {
            let path = self.directory.path().join(&self.hosts[index].name);
            let mut part = Cluster {
                directory: tempfile::tempdir().expect("a temporary directory can be made"),
                hosts: vec![Host {
                    name: self.hosts[index].name.clone(),
                    listener: self.hosts[index].listener.take(),
                    tls: self.hosts[index].tls.clone(),
                }],
                seeds: self.seeds.clone(),
            };
            starting.push(tokio::spawn(async move { part.start_in(0, &path).await }));
        }
        let mut nodes = Vec::new();
        for node in starting {
            nodes.push(node.await.expect("no panic").expect("all start together"));
        }
        nodes
    }
}

async fn ready(node: &Node) {
    let mut follower = node.follow(Topic::Status);
    while !node.status().replica.ready {
        follower.changed().await;
    }
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: None,
        condition: Condition::None,
    }
}

fn within<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let result = runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await });
    runtime.shutdown_background();
    result.expect("everything here takes less than half a minute")
}

#[test]
fn three_nodes_boot_into_one_cluster_write_read_watch_and_come_back() {
    within(async {
        let mut cluster = Cluster::new(3);
        let nodes = cluster.start_all().await;
        for node in &nodes {
            ready(node).await;
        }
        let request = WatchRequest {
            filter: Filter::Prefix(Bytes::from_static(b"k")),
            from: None,
            initial: false,
            previous: false,
            resume_after: None,
            epoch: None,
        };
        let mut watcher = nodes[2].watch(request).expect("it watches from now on");
        assert!(matches!(watcher.next(1 << 20).await, Delivery::Synced { .. }));
        for (number, node) in nodes.iter().enumerate() {
            let outcome = node.submit(put("k", &number.to_string()), None, TIMEOUT).await;
            assert!(matches!(outcome, Ok(Outcome::Put { .. })), "{outcome:?}");
            let Delivery::Changes { events, .. } = watcher.next(1 << 20).await else {
                panic!("a change was expected");
            };
            assert_eq!(events.events[0].record.value, number.to_string().as_bytes());
        }
        for node in &nodes {
            node.barrier(Consistency::Linearizable, TIMEOUT).await.expect("there is a leader");
            let record = node.view().machine.get(b"k", None).expect("readable");
            assert_eq!(record.expect("it was written").value, Bytes::from_static(b"2"));
        }
        drop(watcher);
        for node in &nodes {
            node.stop().await;
        }
        drop(nodes);
        let nodes = cluster.start_all().await;
        for node in &nodes {
            ready(node).await;
            node.barrier(Consistency::Linearizable, TIMEOUT).await.expect("there is a leader");
            assert!(node.view().machine.revision() > Revision(3), "everything is still there");
            assert_eq!(node.status().replica.boot.get(), 2);
        }
        for node in &nodes {
            node.stop().await;
        }
    });
}

#[test]
fn a_wiped_data_directory_waits_to_be_replaced_and_the_others_go_on() {
    within(async {
        let mut cluster = Cluster::new(3);
        let nodes = cluster.start_all().await;
        for node in &nodes {
            ready(node).await;
        }
        nodes[0].stop().await;
        let empty = tempfile::tempdir().expect("a temporary directory can be made");
        let starting = Starting::new("n1", CLUSTER);
        let mut changes = starting.subscribe();
        tokio::select! {
            _ = cluster.start_as(0, empty.path(), &starting) => {
                panic!("an empty directory was taken for the former one");
            }
            told = changes.wait_for(|status| {
                matches!(status.phase, StartPhase::WaitingToBeAdded { replaces: true, .. })
            }) => {
                let sentence = told.expect("the sender is here").phase.sentence();
                assert!(sentence.contains("quorumctl members replace n1"), "{sentence}");
            }
        }
        for node in &nodes[1..] {
            ready(node).await;
            let outcome = node.submit(put("k", "v"), None, TIMEOUT).await;
            assert!(matches!(outcome, Ok(Outcome::Put { .. })), "{outcome:?}");
        }
        let node = cluster.start(0).await.expect("its own directory is welcome");
        ready(&node).await;
    });
}

/// A thread that holds the view until it is let go: the replica waits for it with its next word.
struct Stall {
    release: std::sync::mpsc::Sender<()>,
}

impl Stall {
    fn of(node: &Node) -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (held, holds) = std::sync::mpsc::channel();
        let node = node.clone();
        std::thread::spawn(move || {
            let _view = node.view();
            held.send(()).expect("the test waits for it");
            let _ = released.recv();
        });
        holds.recv().expect("the thread says that it holds");
        Self { release }
    }
}

#[test]
fn a_pulse_is_answered_by_threads_that_go_round_and_by_no_others() {
    within(async {
        let mut cluster = Cluster::new(1);
        let node = cluster.start(0).await.expect("one node starts");
        ready(&node).await;
        assert!(node.pulse().await, "both threads go round");

        let stall = Stall::of(&node);
        let writing = tokio::spawn({
            let node = node.clone();
            async move { node.submit(put("k", "v"), None, TIMEOUT).await }
        });
        // The first ones may be answered before the write is applied.
        let mut pulse = loop {
            let mut pulse = Box::pin({
                let node = node.clone();
                async move { node.pulse().await }
            });
            if tokio::time::timeout(Duration::from_millis(300), &mut pulse).await.is_err() {
                break pulse;
            }
        };
        stall.release.send(()).expect("the thread waits for it");
        assert!((&mut pulse).await, "it goes round again");
        writing.await.expect("no panic").expect("it was applied in the end");
        node.stop().await;
        assert!(!node.pulse().await, "nobody is there any more");
    });
}
