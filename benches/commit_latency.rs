//! What one durable write of the log costs on this disk: time and bytes, by entries per write.
//!
//! Run with `cargo bench --bench commit_latency [DIRECTORY]`; the file is made in DIRECTORY (the
//! current one by default), so that the disk in question is measured and not a memory file system.

#![allow(clippy::disallowed_types, reason = "a bench is there to look at the clock")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use quorumd::base::{Index, NodeId, Term};
use quorumd::raft::{Entry, HardState, Payload};
use quorumd::storage::{Identity, LogBatch, RaftStore};

const ENTRY_BYTES: usize = 310;

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = PathBuf::from(directory.unwrap_or_else(|| ".".to_owned()));
    println!("entries  median us  p99 us  bytes written by the process per write");
    for count in [1, 8, 64, 512] {
        let path = directory.join(format!("commit-latency-{}.redb", std::process::id()));
        let result = measure(&path, count);
        std::fs::remove_file(&path).expect("the file was made by this program");
        let (times, bytes) = result;
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_micros();
        println!("{count:>7}  {:>9}  {:>6}  {bytes:>9}", at(50), at(99));
    }
}

/// The times of the second half of many writes, sorted, and the bytes written per write.
fn measure(path: &std::path::Path, count: u64) -> (Vec<Duration>, u64) {
    let fresh = || Identity { node: NodeId(1), name: "bench".into(), cluster_name: "bench".into() };
    let (mut store, _) = RaftStore::open_path(path, fresh).expect("the directory can be written");
    let writes = if count > 64 { 400 } else { 1_000 };
    let (mut times, mut before, mut index) = (Vec::new(), 0, 1);
    for number in 0..writes {
        if number == writes / 2 {
            times.clear();
            before = written_bytes();
        }
        let batch = batch(index, count);
        index += count;
        let start = Instant::now();
        store.write(&batch).expect("the disk takes the write");
        times.push(start.elapsed());
    }
    let bytes = (written_bytes() - before) / times.len() as u64;
    times.sort_unstable();
    (times, bytes)
}

fn batch(first: u64, count: u64) -> LogBatch {
    let entry = |index| Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Command(vec![index as u8; ENTRY_BYTES].into()),
    };
    let hard_state = HardState { term: Term(1), vote: None, commit: Index(first - 1) };
    LogBatch {
        hard_state: Some(hard_state),
        entries: vec![(first..first + count).map(entry).collect()],
        must_sync: true,
        ..LogBatch::default()
    }
}

/// Bytes that this process handed to write calls so far (proc_pid_io(5), `wchar`).
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}
