//! The units of `systemd/`: systemd's own tools find nothing wrong with them, and the daemon keeps
//! what they count on: it takes the socket that it is given, and feeds the watchdog.
//!
//! How they do under a real systemd is shown by `.ci/systemd`.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Cluster, Node, Options, PATIENCE, Process, quorumd, signal, wait_until};
use crate::http::try_ask;

/// The most that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: &str = "13";

/// The units as they would be installed, but for the programs, which are those under test.
fn installed(directory: &Path) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut units = Vec::new();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let is_unit = path.extension().is_some_and(|kind| kind == "service" || kind == "socket");
        if is_unit {
            let text = fs::read_to_string(&path).unwrap();
            let text = text
                .replace("/usr/bin/quorumd ", &format!("{} ", env!("CARGO_BIN_EXE_quorumd")))
                .replace("/usr/bin/quorumctl ", &format!("{} ", env!("CARGO_BIN_EXE_quorumctl")));
            let unit = directory.join(path.file_name().unwrap());
            fs::write(&unit, text).unwrap();
            units.push(unit);
        }
    }
    units.sort();
    assert!(units.len() >= 2, "{units:?}");
    units
}

/// Runs `systemd-analyze`: whether it was content, and what it said. Nothing when it is not here,
/// which is an error where `QUORUMD_REQUIRE_SYSTEMD` is set.
fn analyze(arguments: &[&str], units: &[PathBuf]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze").args(arguments).args(units).output();
    match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        }
        Err(error) => {
            let is_required = std::env::var_os("QUORUMD_REQUIRE_SYSTEMD").is_some();
            assert!(!is_required, "systemd-analyze: {error}");
            eprintln!("not tested: systemd-analyze cannot be run: {error}");
            None
        }
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let units = installed(directory.path());
    let options = ["verify", "--man=no", "--recursive-errors=no"];
    let Some((content, said)) = analyze(&options, &units) else { return };
    // It also says what it finds in the units of the machine it runs on.
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("quorumd")).collect();
    assert!(content && about_ours.is_empty(), "{said}");

    let wrong = directory.path().join("quorumd-wrong.service");
    fs::write(&wrong, "[Service]\nExecStart=/nowhere/quorumd\nWatchdogSecs=1\n").unwrap();
    let (_, said) = analyze(&options, &[wrong]).expect("it was here a moment ago");
    assert!(said.contains("WatchdogSecs"), "it would have found a mistake: {said}");
}

#[test]
fn the_sandbox_of_the_daemon_is_tight() {
    let directory = tempfile::tempdir().unwrap();
    let units = installed(directory.path());
    let daemon: Vec<PathBuf> =
        units.into_iter().filter(|unit| unit.ends_with("quorumd.service")).collect();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let options = ["security", "--offline=true", "--no-pager", &threshold];
    let Some((content, said)) = analyze(&options, &daemon) else { return };
    assert!(content, "{said}");

    let loose = fs::read_to_string(&daemon[0]).unwrap().replace("NoNewPrivileges=yes\n", "");
    fs::write(&daemon[0], loose.replace("CapabilityBoundingSet=\n", "")).unwrap();
    let (content, said) = analyze(&options, &daemon).expect("it was here a moment ago");
    assert!(!content, "it would have found a looser one: {said}");
}

/// What a daemon tells systemd, as lines.
struct Heard(UnixDatagram);

impl Heard {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Waits for a line.
    #[track_caller]
    fn until(&self, wanted: &str) {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{wanted} was waited for in vain: {error}; heard {heard:?}")
            });
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return;
            }
            heard.push(text);
        }
    }
}

/// Starts the daemon of a node as systemd would: told where to report, under a watchdog, and with a
/// socket on which it need not listen any more. A shell sets `LISTEN_PID`, which must be that of
/// the daemon, and lets the daemon take its place.
fn start_activated(node: &Node, listener: UnixListener, notify: &Path) -> Process {
    let log = File::create(node.log_path()).unwrap();
    let mut command = Command::new("/bin/sh");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(quorumd().get_program());
    command.arg("run").arg("--config").arg(&node.config);
    command.args(["--exit-with-parent", &std::process::id().to_string()]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "quorumd.socket");
    command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", "600000").process_group(0);
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(log.try_clone().unwrap());
    Process::spawn(command.stderr(log))
}

#[test]
fn a_daemon_takes_the_socket_it_is_given_feeds_the_watchdog_and_leaves_the_socket() {
    let cluster = Cluster::prepare(&Options { size: Some(1), ..Options::default() });
    let node = &cluster.nodes[0];
    let heard = Heard::bind(&node.home.join("notify"));
    let listener = UnixListener::bind(&node.socket).unwrap();
    // An application is early: nobody serves the socket yet.
    let early = node.socket.clone();
    let early = std::thread::spawn(move || try_ask(&early, "GET /healthz", &[], b""));
    let ours = listener.try_clone().unwrap();
    let mut daemon = start_activated(node, listener, &node.home.join("notify"));
    heard.until("READY=1");
    assert_eq!(early.join().unwrap().expect("it is answered").status, 200);
    wait_until("it is ready", || {
        let answer = try_ask(&node.socket, "GET /readyz", &[], b"").ok()?;
        (answer.status == 200).then_some(())
    });
    heard.until("STATUS=leader; ready; 0 of 0 peers connected");
    for _ in 0..3 {
        heard.until("WATCHDOG=1");
    }

    signal(daemon.0.id(), Signal::STOP);
    // What it had sent before it was stopped is heard first.
    heard.0.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    while heard.0.recv(&mut [0; 4096]).is_ok() {}
    signal(daemon.0.id(), Signal::CONT);
    heard.0.set_read_timeout(Some(PATIENCE)).unwrap();
    heard.until("WATCHDOG=1");

    signal(daemon.0.id(), Signal::TERM);
    heard.until("STOPPING=1");
    assert!(daemon.until_ended().success(), "{}", node.log());
    assert!(node.socket.exists(), "the next daemon is given the same socket");
    drop(ours);
}
