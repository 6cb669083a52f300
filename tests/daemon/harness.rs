//! What a cluster under test is made of: a directory, certificates, configurations, and one process
//! for each node, which never outlives its test.
//!
//! All waiting is here, in [`wait_until`]: for a condition, with a deadline.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use quorumd::pki::{Authority, Validity};
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Answer, get, put, try_ask};
use crate::network::Network;

/// The name of every cluster under test.
pub const CLUSTER: &str = "blue";
/// How long anything may take unless a test knows better.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);
/// How long certificates are valid.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks again and again until there is what was waited for. Panics with `what` after
/// [`PATIENCE`].
#[track_caller]
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain for {PATIENCE:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until a moment, while something that takes this long happens elsewhere.
pub fn wait_for(span: Duration, what: &str) {
    let begun = Instant::now();
    wait_until(what, || (begun.elapsed() >= span).then_some(()));
}

/// A directory whose path is short enough for sockets in it.
pub fn test_directory() -> TempDir {
    tempfile::Builder::new().prefix("q").tempdir().unwrap()
}

/// A loopback port that nobody else gets while this is kept: bound, never listening, and with an
/// address that may be used again, so that a daemon can listen on it at any time.
pub struct Port {
    _socket: OwnedFd,
    pub address: SocketAddr,
}

impl Port {
    pub fn reserve() -> Self {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
        Self { _socket: socket, address }
    }
}

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the links between nodes go through a [`Network`].
    pub proxied: bool,
    /// More lines of each node's configuration.
    pub more: String,
    /// Certificates of authorities that the nodes trust besides their own, as PEM.
    pub more_roots: String,
    /// How many nodes, when not three.
    pub size: Option<usize>,
    /// Where the data of the nodes is kept: beside their configuration unless given.
    pub data: Option<PathBuf>,
}

/// Three nodes. All processes are killed when it is dropped.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub authority: Authority,
    pub network: Option<Network>,
    pub directory: TempDir,
}

/// One node: what it has on disk, and its process while one runs.
pub struct Node {
    pub name: String,
    pub home: PathBuf,
    pub data: PathBuf,
    pub socket: PathBuf,
    pub config: PathBuf,
    pub port: Port,
    child: Option<Child>,
}

impl Cluster {
    /// A cluster that is ready.
    pub fn start() -> Self {
        Self::with(&Options::default())
    }

    pub fn with(options: &Options) -> Self {
        let mut cluster = Self::prepare(options);
        for node in 0..cluster.nodes.len() {
            cluster.run(node);
        }
        cluster.nodes.iter_mut().for_each(Node::until_ready);
        cluster
    }

    /// Everything but the processes.
    pub fn prepare(options: &Options) -> Self {
        let directory = test_directory();
        let authority = Authority::create(CLUSTER).unwrap();
        let ports: Vec<Port> = (0..options.size.unwrap_or(3)).map(|_| Port::reserve()).collect();
        let targets: Vec<SocketAddr> = ports.iter().map(|port| port.address).collect();
        let network = options.proxied.then(|| Network::start(&targets));
        let addresses = network.as_ref().map_or(targets, Network::addresses);
        let members: String = (1..)
            .zip(&addresses)
            .map(|(number, address)| format!("  n{number}: \"{address}\"\n"))
            .collect();
        let mut cluster = Self { nodes: Vec::new(), authority, network, directory };
        for port in ports {
            cluster.make_node(port, &members, options);
        }
        cluster
    }

    fn make_node(&mut self, port: Port, members: &str, options: &Options) {
        let name = format!("n{}", self.nodes.len() + 1);
        let home = self.directory.path().join(&name);
        fs::create_dir(&home).unwrap();
        certify(&self.authority, &name, &home, &options.more_roots);
        let data = options.data.as_ref().map_or(home.join("data"), |data| data.join(&name));
        let text = format!(
            "cluster: {CLUSTER}\nname: {name}\nlisten: \"{}\"\nmembers:\n{members}\
             data_dir: {}\n{TEST_CONFIG}{}",
            port.address,
            data.display(),
            options.more
        );
        fs::write(home.join("quorumd.yaml"), text).unwrap();
        let (socket, config) = (home.join("s"), home.join("quorumd.yaml"));
        self.nodes.push(Node { name, home, data, socket, config, port, child: None });
    }

    /// One more node, which runs and waits to be added: its index.
    pub fn newcomer(&mut self) -> usize {
        let port = Port::reserve();
        let number = self.nodes.len() + 1;
        let listed = self.nodes.iter().map(|node| (&node.name, node.port.address));
        let mut members: String =
            listed.map(|(name, address)| format!("  {name}: \"{address}\"\n")).collect();
        members += &format!("  n{number}: \"{}\"\n", port.address);
        self.make_node(port, &members, &Options::default());
        self.run(number - 1);
        self.nodes[number - 1].until_waiting();
        number - 1
    }

    /// Starts the process of a node.
    pub fn run(&mut self, node: usize) {
        let pid = self.nodes[node].run();
        if let Some(network) = &self.network {
            network.runs_as(node, pid);
        }
    }

    /// Starts the process of a node that must not come up: its exit code, and what it said.
    pub fn run_in_vain(&mut self, node: usize) -> (Option<i32>, String) {
        let before = self.nodes[node].log().len();
        self.run(node);
        let status = self.nodes[node].until_ended();
        (status.code(), self.nodes[node].log().split_off(before))
    }

    /// Starts the process of a node that was running before, and waits until it is ready.
    pub fn run_again(&mut self, node: usize) {
        self.run(node);
        self.nodes[node].until_ready();
    }

    pub fn socket(&self, node: usize) -> &Path {
        &self.nodes[node].socket
    }

    pub fn sockets(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.socket.clone()).collect()
    }

    /// The leader that all of these nodes agree on.
    pub fn leader_of(&self, nodes: &[usize]) -> usize {
        wait_until("all agree on a leader", || {
            let mut named = nodes.iter().map(|node| {
                let leader = self.nodes[*node].status()?["leader"].as_str()?.to_owned();
                self.nodes.iter().position(|node| node.name == leader)
            });
            let leader = named.next()??;
            (nodes.contains(&leader) && named.all(|other| other == Some(leader))).then_some(leader)
        })
    }

    pub fn leader(&self) -> usize {
        self.leader_of(&[0, 1, 2])
    }

    /// The nodes but this one.
    pub fn others(&self, node: usize) -> [usize; 2] {
        [(node + 1) % 3, (node + 2) % 3]
    }

    /// Waits until all nodes have applied the same entries, and checks that they made the same
    /// state of them. The status of a cluster without writers.
    #[track_caller]
    pub fn until_equal(&self) -> Value {
        // A status is a moment old: it counts when it has what can be read.
        let readable = self.nodes.iter().map(|node| {
            node.until_served();
            get(&node.socket, "/v1/kv?prefix=-").expect(200).number("quorumd-revision")
        });
        let readable = readable.max();
        let states: Vec<Value> = wait_until("all nodes have applied the same", || {
            let states: Option<Vec<Value>> = self.nodes.iter().map(Node::status).collect();
            let states = states?;
            let applied = |status: &Value| status["applied_index"].clone();
            let is_new = |status: &Value| status["revision"].as_u64() >= readable;
            let equal = states.iter().all(|other| applied(other) == applied(&states[0]));
            (equal && states.iter().all(is_new)).then_some(states)
        });
        for state in &states {
            for field in ["digest", "revision"] {
                let (one, other) = (&states[0][field], &state[field]);
                assert_eq!(one, other, "{field} of {}: {states:#?}", state["node"]);
            }
        }
        states.into_iter().next().unwrap()
    }
}

/// What every configuration under test has: short timers, since tests wait for them.
pub const TEST_CONFIG: &str = "\
tls: {cert: node.crt, key: node.key, ca: ca.crt}
socket: {path: s, mode: \"0600\"}
raft: {election_timeout: \"300ms\", heartbeat_interval: \"60ms\"}
log: {level: info, format: text}
shutdown_grace: 5s
";

/// Writes the certificate and the key of the node `name`, and the authorities that it trusts.
pub fn certify(authority: &Authority, name: &str, home: &Path, more_roots: &str) {
    // Long enough that no status warns of it.
    let issued = authority.issue(name, Validity::from_now(90 * DAY)).unwrap();
    issued.save(&home.join("node.crt"), &home.join("node.key")).unwrap();
    let roots = authority.certificate_pem().to_owned() + more_roots;
    fs::write(home.join("ca.crt"), roots).unwrap();
}

/// The daemon's program, as a command that reads nothing.
pub fn quorumd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorumd"));
    command.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").env_remove("QUORUMD_LOG");
    command
}

/// The command line's program, for the daemon at `socket`. Signals that whoever runs the tests
/// ignores (nohup(1), a shell without job control) are not ignored by it.
pub fn quorumctl(socket: &Path) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,QUIT,TERM", env!("CARGO_BIN_EXE_quorumctl")]);
    command.stdin(Stdio::null()).env("QUORUMD_SOCKET", socket);
    command
}

/// Sends a signal to a process of this test.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A child process that is killed when this is dropped.
pub struct Process(pub Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn until_ended(&mut self) -> ExitStatus {
        wait_until("a process ends", || self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only for a process that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Node {
    /// A node in `home`, whose configuration is made by somebody else.
    pub fn new(name: &str, home: &Path) -> Self {
        let at = |name: &str| home.join(name);
        let (data, socket, config) = (at("data"), at("s"), at("etc/quorumd.yaml"));
        let (name, home, port) = (name.to_owned(), home.to_owned(), Port::reserve());
        Self { name, home, data, socket, config, port, child: None }
    }

    /// Starts the process. It is killed with the thread that starts it, which is the test's.
    pub fn run(&mut self) -> u32 {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = quorumd()
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let pid = child.id();
        self.child = Some(child);
        pid
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    pub fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn signal(&self, sent: Signal) {
        signal(self.pid(), sent);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails only for a process that has ended.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn until_ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the node runs");
        let status = wait_until("the daemon ends", || child.try_wait().unwrap());
        self.child = None;
        status
    }

    /// Stops it in order, as systemd would.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.until_ended()
    }

    /// Waits until `/readyz` says so. A daemon that ends instead is shown with its log.
    #[track_caller]
    pub fn until_ready(&mut self) {
        let begun = Instant::now();
        while try_ask(&self.socket, "GET /readyz", &[], b"").map(|answer| answer.status).ok()
            != Some(200)
        {
            let ended = self.child.as_mut().map(|child| child.try_wait().unwrap());
            assert!(
                matches!(ended, Some(None)) && begun.elapsed() < PATIENCE,
                "{} is not ready ({ended:?}):\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until it says that it waits to be added.
    #[track_caller]
    pub fn until_waiting(&self) {
        wait_until("it waits to be added", || {
            let status = self.status()?;
            (status["state"] == "waiting_to_be_added").then_some(())
        });
    }

    /// Waits until the node answers a linearizable read.
    #[track_caller]
    pub fn until_served(&self) {
        wait_until("the node serves", || {
            let read = try_ask(&self.socket, "GET /v1/kv?prefix=-&timeout=1s", &[], b"").ok()?;
            (read.status == 200).then_some(())
        });
    }

    /// `GET /v1/status`, if it answers.
    pub fn status(&self) -> Option<Value> {
        let answer = try_ask(&self.socket, "GET /v1/status", &[], b"").ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    #[track_caller]
    pub fn put(&self, key: &str, value: &str) -> Answer {
        put(&self.socket, &format!("/v1/kv/{key}"), value)
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        get(&self.socket, target)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the log of {} ----\n{}", self.name, tail(&self.log()));
        }
        self.kill();
    }
}

/// The last lines of a log: what a failed test needs to show.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
