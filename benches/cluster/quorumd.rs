//! A cluster of `quorumd dev`, and its local API as a caller of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::http1::Http;
use crate::process::{kill, stop, terminate};
use crate::service::{Cluster, Freshness, Session, Watcher};

/// How long a cluster or a node may take to serve.
const READY: Duration = Duration::from_secs(60);

/// The cluster and the processes that this program started.
pub struct Quorumd {
    program: PathBuf,
    dev: Child,
    restarted: Vec<Option<Child>>,
    nodes: Vec<Node>,
}

/// A row of `cluster.json`.
#[derive(Clone, Debug, Deserialize)]
struct Node {
    name: String,
    pid: u32,
    socket: PathBuf,
    config: PathBuf,
}

#[derive(Deserialize)]
struct ClusterFile {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Status {
    leader: Option<String>,
}

#[derive(Deserialize)]
struct Held {
    token: u64,
}

#[derive(Deserialize)]
struct Granted {
    lease: String,
}

impl Cluster for Quorumd {
    type Session = Client;
    type Kept = Vec<Http>;

    const NAME: &'static str = "quorumd";

    async fn start(program: &Path, directory: &Path) -> Result<Self> {
        let dev = Command::new(program)
            .args(["dev", "--nodes", "3", "--dir"])
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut cluster = Self {
            program: program.to_owned(),
            dev,
            restarted: vec![None, None, None],
            nodes: Vec::new(),
        };
        let file = directory.join("cluster.json");
        let deadline = Instant::now() + READY;
        while !file.exists() {
            if Instant::now() > deadline || cluster.dev.try_wait()?.is_some() {
                bail!("`quorumd dev` did not become ready; see {}", directory.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let read: ClusterFile = serde_json::from_slice(&std::fs::read(&file)?)?;
        cluster.nodes = read.nodes;
        Ok(cluster)
    }

    async fn session(&self, node: usize) -> Result<Client> {
        Ok(Client { http: Http::connect(&self.nodes[node].socket).await? })
    }

    async fn leader(&self, asked: usize) -> Result<Option<usize>> {
        let mut http = Http::connect(&self.nodes[asked].socket).await?;
        let (status, body) = http.call("GET", "/v1/status", b"").await?;
        expect(status, &[200], body)?;
        let leader = serde_json::from_slice::<Status>(body)?.leader;
        Ok(leader.and_then(|name| self.nodes.iter().position(|node| node.name == name)))
    }

    /// Each lease is a connection: that is what keeps it.
    async fn keep_leases(&self, count: usize, ttl: Duration) -> Result<Vec<Http>> {
        let body = format!(r#"{{"ttl":"{}s","bind":"connection"}}"#, ttl.as_secs());
        let mut kept = Vec::with_capacity(count);
        for number in 0..count {
            let mut http = Http::connect(&self.nodes[number % self.nodes.len()].socket).await?;
            let head = http.begin("POST", "/v1/leases", body.as_bytes()).await?;
            expect(head.status, &[201], b"a bound lease")?;
            http.line().await?;
            kept.push(http);
        }
        Ok(kept)
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.pid).collect()
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        kill(self.nodes[node].pid)
    }

    async fn restart(&mut self, node: usize) -> Result<()> {
        if let Some(mut child) = self.restarted[node].take() {
            child.wait()?;
        }
        let child = Command::new(&self.program)
            .args(["run", "--config"])
            .arg(&self.nodes[node].config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.nodes[node].pid = child.id();
        self.restarted[node] = Some(child);
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Ok(mut http) = Http::connect(&self.nodes[node].socket).await else { continue };
            if matches!(http.call("GET", "/readyz", b"").await, Ok((200, _))) {
                return Ok(());
            }
        }
        bail!("node {} did not become ready again", self.nodes[node].name)
    }
}

impl Quorumd {
    /// The socket of a node.
    pub fn socket(&self, node: usize) -> &Path {
        &self.nodes[node].socket
    }
}

impl Drop for Quorumd {
    fn drop(&mut self) {
        for child in self.restarted.iter_mut().flatten() {
            terminate(child.id());
        }
        terminate(self.dev.id());
        for child in self.restarted.iter_mut().flatten() {
            stop(child);
        }
        stop(&mut self.dev);
    }
}

/// A caller of the local API.
pub struct Client {
    http: Http,
}

impl Session for Client {
    type Watcher = Stream;

    async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let target = format!("/v1/kv/{key}");
        let (status, body) = self.http.call("PUT", &target, value).await?;
        expect(status, &[200, 201], body)
    }

    async fn get(&mut self, key: &str, freshness: Freshness) -> Result<()> {
        let target = match freshness {
            Freshness::Linearizable => format!("/v1/kv/{key}"),
            Freshness::Local => format!("/v1/kv/{key}?consistency=local"),
        };
        let (status, body) = self.http.call("GET", &target, b"").await?;
        expect(status, &[200], body)
    }

    async fn grant(&mut self, ttl: Duration) -> Result<String> {
        let body = format!(r#"{{"ttl":"{}s","bind":"none"}}"#, ttl.as_secs());
        let (status, body) = self.http.call("POST", "/v1/leases", body.as_bytes()).await?;
        expect(status, &[201], body)?;
        Ok(serde_json::from_slice::<Granted>(body)?.lease)
    }

    async fn lock(&mut self, name: &str, lease: &str) -> Result<String> {
        let (target, body) = (format!("/v1/locks/{name}"), format!(r#"{{"lease":"{lease}"}}"#));
        let (status, body) = self.http.call("POST", &target, body.as_bytes()).await?;
        expect(status, &[200], body)?;
        Ok(serde_json::from_slice::<Held>(body)?.token.to_string())
    }

    async fn unlock(&mut self, name: &str, held: &str) -> Result<()> {
        let target = format!("/v1/locks/{name}?token={held}");
        let (status, body) = self.http.call("DELETE", &target, b"").await?;
        expect(status, &[200], body)
    }

    async fn watch(mut self, key: &str) -> Result<Stream> {
        let head = self.http.begin("GET", &format!("/v1/watch?key={key}"), b"").await?;
        expect(head.status, &[200], b"a watch")?;
        let mut stream = Stream { http: self.http };
        stream.message(br#""type":"synced""#).await?;
        Ok(stream)
    }
}

/// A watch stream.
pub struct Stream {
    http: Http,
}

impl Stream {
    async fn message(&mut self, mark: &[u8]) -> Result<()> {
        loop {
            let line = self.http.line().await?;
            if line.windows(mark.len()).any(|window| window == mark) {
                return Ok(());
            }
        }
    }
}

impl Watcher for Stream {
    async fn event(&mut self) -> Result<()> {
        self.message(br#""type":"changes""#).await
    }
}

fn expect(status: u16, wanted: &[u16], body: &[u8]) -> Result<()> {
    if !wanted.contains(&status) {
        bail!("answered {status}: {}", String::from_utf8_lossy(body));
    }
    Ok(())
}
