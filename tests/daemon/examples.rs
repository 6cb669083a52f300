//! The examples that need nothing but an interpreter, run against a real cluster: workers of which
//! one works, and a job that is done once for all hosts.
//!
//! The others are run in `readme.rs`, which shares their cluster with the README's tour.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Cluster, Process, wait_until};
use crate::started::runs;

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Whether all of these programs are here. `.ci/run` installs them; on a machine without one, what
/// needs it is left out, and says so.
fn has(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !found {
            eprintln!("{program} is not installed: what needs it is not tested");
        }
        found
    })
}

/// One works, another waits; the first is killed, and the second works with a greater token.
fn one_works_at_a_time(cluster: &Cluster, interpreter: &str, file: &str, worker: &[&str]) {
    let election = file.replace('.', "-");
    let run = |name: &str, node: usize| {
        let output = cluster.directory.path().join(format!("{file}.{name}"));
        let out = fs::File::create(&output).unwrap();
        let mut command = Command::new(interpreter);
        command.arg(example(file)).args([&election, name]).args(worker);
        command.env("QUORUMD_SOCKET", cluster.socket(node)).stdin(Stdio::null());
        command.stderr(out.try_clone().unwrap()).stdout(out);
        (Process::spawn(&mut command), output)
    };
    let says = |output: &Path, wanted: &str| {
        wait_until(&format!("{file} says {wanted:?}"), || {
            let text = fs::read_to_string(output).ok()?;
            text.lines().find(|line| line.contains(wanted)).map(str::to_owned)
        })
    };
    let token = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let (alice, first) = run("alice", 0);
    let worked = says(&first, "with token ");
    let (_bob, second) = run("bob", 1);
    says(&second, "bob waits");
    assert!(!fs::read_to_string(&second).unwrap().contains("token"), "{file}: both work");
    drop(alice);
    let works = says(&second, "with token ");
    assert!(token(&works) > token(&worked), "{worked}; {works}");
}

#[test]
fn one_worker_works_at_a_time() {
    let cluster = Cluster::start();
    if has(&["python3"]) {
        one_works_at_a_time(&cluster, "python3", "leader_election.py", &[]);
    }
    if has(&["node"]) {
        one_works_at_a_time(&cluster, "node", "leader_election.mjs", &[]);
    }
    if has(&["bash", "curl", "jq", "setpriv"]) {
        let script = "echo works with token $QUORUMD_TOKEN; exec sleep 60";
        one_works_at_a_time(&cluster, "bash", "leader_election.sh", &["sh", "-c", script]);
    }
}

#[test]
fn a_cron_job_is_done_once_for_all_hosts() {
    let cluster = Cluster::start();
    let bin = Path::new(env!("CARGO_BIN_EXE_quorumctl")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let log = cluster.directory.path().join("cron");
    let runs_all = |period: &str, script: &str| {
        let mut all: Vec<Process> = (0..3)
            .map(|node| {
                let mut command = Command::new("sh");
                command.arg(example("cron_once.sh")).args(["nightly", period, "sh", "-c", script]);
                command.env("PATH", &path).env("QUORUMD_SOCKET", cluster.socket(node));
                command.env("LOG", &log).stdin(Stdio::null()).stdout(Stdio::null());
                Process::spawn(command.stderr(Stdio::null()))
            })
            .collect();
        all.iter_mut().map(|process| process.until_ended().code()).collect::<Vec<_>>()
    };
    let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let good = r#"echo $$ >> "$LOG""#;
    assert_eq!(runs_all("2026-01-01", good), [Some(0); 3]);
    assert_eq!(lines(), 1, "once per period");
    assert_eq!(runs_all("2026-01-01", good), [Some(0); 3]);
    assert_eq!(lines(), 1, "not again");
    assert_eq!(runs_all("2026-01-02", good), [Some(0); 3]);
    assert_eq!(lines(), 2, "the next period");
    // Where it fails the next host takes over.
    let failing = r#"echo $$ >> "$LOG"; [ $(wc -l < "$LOG") -gt 3 ]"#;
    let mut codes = runs_all("2026-01-03", failing);
    codes.sort_unstable();
    assert_eq!((codes, lines()), (vec![Some(0), Some(0), Some(1)], 4));
    let pid = fs::read_to_string(&log).unwrap().lines().last().unwrap().parse().unwrap();
    assert!(!runs(pid));
}
