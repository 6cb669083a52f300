//! Starts the daemon's program, waits for conditions with a deadline, and speaks HTTP to its
//! socket.
//!
//! What must hold is said in the tests.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take on a machine that has much else to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A process that is killed, if it still runs, when the test ends.
pub struct Started {
    pub child: Child,
    output: PathBuf,
}

/// What one request was answered.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Starts `quorumd` with its output in the file `output`.
pub fn start(arguments: &[&str], output: &Path) -> Started {
    let file = fs::File::create(output).expect("a new file");
    let both = file.try_clone().expect("one more descriptor");
    let child = Command::new(env!("CARGO_BIN_EXE_quorumd"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(both)
        .spawn()
        .expect("the program is built");
    Started { child, output: output.to_owned() }
}

/// Runs `quorumd` to its end.
pub fn output_of(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorumd")).args(arguments).output().expect("it is built")
}

impl Started {
    /// A process whose output goes to the file `output`.
    pub fn of(child: Child, output: &Path) -> Self {
        Self { child, output: output.to_owned() }
    }

    /// Everything that it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.output).expect("the output is text")
    }

    pub fn signal(&self, signal: Signal) {
        signal_process(self.child.id(), signal);
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("the wait is over")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "in {DEADLINE:?} it did not come true that {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub fn signal_process(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not zero");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// One request over a unix socket; an error when there is no whole answer.
pub fn ask(socket: &Path, method: &str, target: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: q\r\nConnection: close\r\nContent-Length: {length}\r\n\
         \r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let whole = || std::io::Error::other(format!("no whole answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(whole)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(whole)?;
    Ok(Answer { status, body: body.to_owned() })
}

/// The same, repeated until it succeeds.
pub fn ask_until(socket: &Path, method: &str, target: &str, body: &str) -> Answer {
    let mut answer = None;
    until(&format!("{method} {target} succeeds at {}", socket.display()), || {
        answer = ask(socket, method, target, body).ok().filter(|answer| answer.status < 300);
        answer.is_some()
    });
    answer.expect("the wait is over")
}

/// `quorumd dev` in a directory, ready.
pub struct Dev {
    pub process: Started,
    pub nodes: Vec<Value>,
}

impl Dev {
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["dev", "--dir", directory.to_str().expect("a path that is text")];
        all.extend(arguments);
        let mut process = start(&all, &directory.with_extension("out"));
        let file = directory.join("cluster.json");
        until("the cluster is ready", || {
            let status = process.child.try_wait().expect("it is our child");
            assert!(status.is_none(), "dev ended {status:?}:\n{}", process.said());
            process.said().contains("nodes are ready")
        });
        let text = fs::read(&file).expect("dev writes cluster.json before it says so");
        let cluster: Value = serde_json::from_slice(&text).expect("it is written whole");
        let nodes = cluster["nodes"].as_array().expect("a list of nodes").clone();
        Self { process, nodes }
    }

    pub fn pid(&self, node: usize) -> u32 {
        let pid = self.nodes[node]["pid"].as_u64().expect("a process id");
        u32::try_from(pid).expect("a process id")
    }

    pub fn socket(&self, node: usize) -> PathBuf {
        PathBuf::from(self.nodes[node]["socket"].as_str().expect("a path"))
    }

    pub fn config(&self, node: usize) -> String {
        self.nodes[node]["config"].as_str().expect("a path").to_owned()
    }
}
