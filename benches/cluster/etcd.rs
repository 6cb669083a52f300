//! A cluster of three etcd processes with TLS between them, and its API as its own clients use it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::grpc::{Channel, Streaming};
use crate::messages::{
    CreateWatch, GrantRequest, GrantResponse, KeepAliveRequest, KeepAliveResponse, LockRequest,
    LockResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse, UnlockRequest, UnlockResponse, WatchRequest, WatchResponse,
};
use crate::process::{kill, stop, terminate};
use crate::service::{Cluster, Freshness, Session, Watcher};

/// How long a cluster or a node may take to serve.
const READY: Duration = Duration::from_secs(60);

/// The cluster and its processes.
pub struct Etcd {
    program: PathBuf,
    directory: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    client: u16,
    peer: u16,
    child: Child,
}

/// What keeps leases alive: a task per host.
pub struct Keeper {
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Cluster for Etcd {
    type Session = Client;
    type Kept = Keeper;

    const NAME: &'static str = "etcd";

    async fn start(program: &Path, directory: &Path) -> Result<Self> {
        certificates(directory)?;
        // Held until all are chosen, so that they differ.
        let held: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let ports: Vec<u16> =
            held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<Result<_>>()?;
        drop(held);
        let peers: Vec<u16> = ports[3..].to_vec();
        let mut nodes = Vec::new();
        for (number, (client, peer)) in ports[..3].iter().zip(&peers).enumerate() {
            let child = spawn(program, directory, number, *client, &peers)?;
            nodes.push(Node { client: *client, peer: *peer, child });
        }
        let cluster = Self { program: program.to_owned(), directory: directory.to_owned(), nodes };
        for node in 0..3 {
            cluster.ready(node).await?;
        }
        Ok(cluster)
    }

    async fn session(&self, node: usize) -> Result<Client> {
        Ok(Client { channel: Channel::connect(self.nodes[node].client).await? })
    }

    async fn leader(&self, asked: usize) -> Result<Option<usize>> {
        let leader = self.status(asked).await?.leader;
        for node in 0..3 {
            let Ok(status) = self.status(node).await else { continue };
            if status.header.is_some_and(|header| header.member_id == leader) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// As etcd's client does: one stream per host, each lease every third of its time.
    async fn keep_leases(&self, count: usize, ttl: Duration) -> Result<Keeper> {
        let mut tasks = Vec::new();
        for node in 0..3 {
            let mut session = self.session(node).await?;
            let mut leases = Vec::new();
            for _ in (node..count).step_by(3) {
                leases.push(session.grant_id(ttl).await?);
            }
            let mut stream: Streaming<KeepAliveResponse> = session
                .channel
                .stream("/etcdserverpb.Lease/LeaseKeepAlive", &KeepAliveRequest { id: leases[0] })
                .await?;
            let pause = ttl / 3 / u32::try_from(leases.len())?;
            tasks.push(tokio::task::spawn_local(async move {
                let mut ticks = tokio::time::interval(pause.max(Duration::from_millis(1)));
                let _held = session;
                for lease in leases.iter().cycle() {
                    ticks.tick().await;
                    stream.send(&KeepAliveRequest { id: *lease }).await?;
                    stream.message().await?;
                }
                Ok(())
            }));
        }
        Ok(Keeper { tasks })
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        kill(self.nodes[node].child.id())
    }

    async fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node].child.wait()?;
        let peers: Vec<u16> = self.nodes.iter().map(|node| node.peer).collect();
        let client = self.nodes[node].client;
        self.nodes[node].child = spawn(&self.program, &self.directory, node, client, &peers)?;
        self.ready(node).await
    }
}

impl Etcd {
    async fn status(&self, node: usize) -> Result<StatusResponse> {
        let mut session = self.session(node).await?;
        session.channel.unary("/etcdserverpb.Maintenance/Status", &StatusRequest {}).await
    }

    async fn ready(&self, node: usize) -> Result<()> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Ok(mut session) = self.session(node).await else { continue };
            if session.put("ready", b"").await.is_ok() {
                return Ok(());
            }
        }
        bail!("etcd did not become ready; see {}", self.directory.display())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for node in &self.nodes {
            terminate(node.child.id());
        }
        for node in &mut self.nodes {
            stop(&mut node.child);
        }
    }
}

fn spawn(
    program: &Path,
    directory: &Path,
    number: usize,
    client: u16,
    peers: &[u16],
) -> Result<Child> {
    let name = |number: usize| format!("n{}", number + 1);
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("https://127.0.0.1:{}", peers[number]);
    let cluster: Vec<String> = peers
        .iter()
        .enumerate()
        .map(|(number, port)| format!("{}=https://127.0.0.1:{port}", name(number)))
        .collect();
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join(format!("{}.log", name(number))))?;
    Command::new(program)
        .arg("--data-dir")
        .arg(directory.join(name(number)))
        .args(["--name", &name(number), "--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", "bench"])
        .arg("--peer-client-cert-auth")
        .arg("--peer-trusted-ca-file")
        .arg(directory.join("ca.pem"))
        .arg("--peer-cert-file")
        .arg(directory.join("peer.pem"))
        .arg("--peer-key-file")
        .arg(directory.join("peer.key"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// One authority, and one certificate for 127.0.0.1 that all three members show.
fn certificates(directory: &Path) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(directory.join("ca.pem"), authority.self_signed(&authority_key)?.pem())?;
    let key = KeyPair::generate()?;
    let mut member = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    member.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let signed = member.signed_by(&key, &Issuer::new(authority, authority_key))?;
    fs::write(directory.join("peer.pem"), signed.pem())?;
    fs::write(directory.join("peer.key"), key.serialize_pem())?;
    Ok(())
}

/// A client with its own connection.
pub struct Client {
    channel: Channel,
}

impl Client {
    async fn grant_id(&mut self, ttl: Duration) -> Result<i64> {
        let request = GrantRequest { ttl: i64::try_from(ttl.as_secs())?, id: 0 };
        let answer: GrantResponse =
            self.channel.unary("/etcdserverpb.Lease/LeaseGrant", &request).await?;
        Ok(answer.id)
    }
}

impl Session for Client {
    type Watcher = Stream;

    async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let request = PutRequest { key: key.into(), value: value.into(), lease: 0 };
        let _: PutResponse = self.channel.unary("/etcdserverpb.KV/Put", &request).await?;
        Ok(())
    }

    async fn get(&mut self, key: &str, freshness: Freshness) -> Result<()> {
        let serializable = freshness == Freshness::Local;
        let request = RangeRequest { key: key.into(), serializable };
        let answer: RangeResponse = self.channel.unary("/etcdserverpb.KV/Range", &request).await?;
        if answer.count != 1 {
            bail!("{key} is not there");
        }
        Ok(())
    }

    async fn grant(&mut self, ttl: Duration) -> Result<String> {
        Ok(self.grant_id(ttl).await?.to_string())
    }

    async fn lock(&mut self, name: &str, lease: &str) -> Result<String> {
        let request = LockRequest { name: name.into(), lease: lease.parse()? };
        let answer: LockResponse = self.channel.unary("/v3lockpb.Lock/Lock", &request).await?;
        Ok(String::from_utf8(answer.key)?)
    }

    async fn unlock(&mut self, _name: &str, held: &str) -> Result<()> {
        let request = UnlockRequest { key: held.into() };
        let _: UnlockResponse = self.channel.unary("/v3lockpb.Lock/Unlock", &request).await?;
        Ok(())
    }

    async fn watch(mut self, key: &str) -> Result<Stream> {
        let request = WatchRequest { create: Some(CreateWatch { key: key.into() }) };
        let mut stream: Streaming<WatchResponse> =
            self.channel.stream("/etcdserverpb.Watch/Watch", &request).await?;
        if !stream.message().await?.created {
            bail!("the watch was not created");
        }
        Ok(Stream { stream, _session: self })
    }
}

/// A watch stream, and the connection that it lives on.
pub struct Stream {
    stream: Streaming<WatchResponse>,
    _session: Client,
}

impl Watcher for Stream {
    async fn event(&mut self) -> Result<()> {
        while self.stream.message().await?.events.is_empty() {}
        Ok(())
    }
}
