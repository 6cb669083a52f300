//! Writers that keep a cluster busy and remember what they were told, so that it can be held to it.
//!
//! Two kinds of writes, in turn, each with its own `Idempotency-Key`:
//!
//! - a counter is raised by compare-and-set, and a write whose outcome is not known is repeated,
//!   through other nodes too, until it is: at the end the counter is the number of successes. A
//!   lost write makes it smaller, one that was applied twice makes it larger;
//! - a key of its own is created. It must be there when that was acknowledged; and when the first
//!   answer was 503, it is not asked for again and must never be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use crate::harness::{wait_for, wait_until};
use crate::http::{Answer, get, try_ask};

/// Counters that all writers share.
const COUNTERS: u64 = 4;

/// Writers under way.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Told>>,
}

struct Shared {
    sockets: Vec<PathBuf>,
    stop: AtomicBool,
    /// Acknowledged writes by the node that acknowledged them.
    acked: Vec<AtomicU64>,
}

/// What writers were told.
#[derive(Debug, Default)]
pub struct Told {
    raised: BTreeMap<String, u64>,
    created: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// Answers 504 and connections that broke.
    pub unknown: u64,
    /// Answers 503 and 429.
    pub unavailable: u64,
    /// Answers 412.
    pub conflicts: u64,
}

impl Load {
    /// Starts `per_node` writers for each of these nodes.
    pub fn start(sockets: Vec<PathBuf>, per_node: usize) -> Self {
        let acked = sockets.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { sockets, stop: AtomicBool::new(false), acked });
        let writers = (0..shared.sockets.len() * per_node)
            .map(|number| {
                let shared = shared.clone();
                spawn(move || Writer::new(shared, number).run())
            })
            .collect();
        Self { shared, writers }
    }

    /// Acknowledged writes so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.iter().map(|acked| acked.load(Ordering::SeqCst)).sum()
    }

    /// Those of one node.
    pub fn acked_by(&self, node: usize) -> u64 {
        self.shared.acked[node].load(Ordering::SeqCst)
    }

    /// Waits until so many more were acknowledged.
    #[track_caller]
    pub fn until_more(&self, more: u64) {
        let goal = self.acked() + more;
        wait_until("writes go on", || (self.acked() >= goal).then_some(()));
    }

    /// Waits until so many more were acknowledged by each of these nodes.
    #[track_caller]
    pub fn until_more_by(&self, nodes: &[usize], more: u64) {
        let goals: Vec<u64> = nodes.iter().map(|node| self.acked_by(*node) + more).collect();
        let reached = || nodes.iter().zip(&goals).all(|(node, goal)| self.acked_by(*node) >= *goal);
        wait_until("writes go on through these nodes", || reached().then_some(()));
    }

    /// Lets every writer learn the outcome of its last write, and ends them.
    pub fn end(self) -> Told {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        for writer in self.writers {
            let told = writer.join().unwrap();
            for (key, count) in told.raised {
                *all.raised.entry(key).or_default() += count;
            }
            all.created.extend(told.created);
            all.refused.extend(told.refused);
            all.unknown += told.unknown;
            all.unavailable += told.unavailable;
            all.conflicts += told.conflicts;
        }
        all
    }
}

impl Told {
    /// Holds the cluster to what the writers were told, as it can be read through one node.
    #[track_caller]
    pub fn verify(&self, socket: &Path) {
        let mut found = BTreeMap::new();
        let mut target = "/v1/kv?prefix=load/&limit=5000".to_owned();
        loop {
            let page = get(socket, &target).expect(200).json();
            for record in page["keys"].as_array().unwrap() {
                let key = record["key"].as_str().unwrap().to_owned();
                found.insert(key, record.clone());
            }
            if page["more"] != true {
                break;
            }
            let last = found.keys().next_back().unwrap();
            let revision = &page["revision"];
            target =
                format!("/v1/kv?prefix=load/&limit=5000&start_after={last}&revision={revision}");
        }
        for (key, count) in &self.raised {
            let value = found.get(key).map(|record| record["value"].as_str().unwrap().to_owned());
            assert_eq!(value, Some(count.to_string()), "{key}: lost or applied twice");
        }
        for key in &self.created {
            let version = found.get(key).map(|record| record["version"].clone());
            assert_eq!(version, Some(1.into()), "{key} was acknowledged");
        }
        for key in &self.refused {
            assert!(!found.contains_key(key), "{key} was answered 503, and was written");
        }
        assert!(!self.created.is_empty() && !self.raised.is_empty(), "nothing was written");
    }
}

struct Writer {
    shared: Arc<Shared>,
    number: usize,
    /// The node it speaks to.
    node: usize,
    requests: u64,
    told: Told,
}

/// What became of a write.
enum Fate {
    Done(Answer),
    /// 503 before anything else: certainly not applied.
    Refused,
}

impl Writer {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        let node = number % shared.sockets.len();
        Self { shared, number, node, requests: 0, told: Told::default() }
    }

    fn run(mut self) -> Told {
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.node = self.number % self.shared.sockets.len();
            match self.requests % 2 {
                0 => self.create(),
                _ => self.raise(),
            }
        }
        self.told
    }

    fn create(&mut self) {
        let key = format!("load/w{}/{}", self.number, self.requests);
        match self.write(&key, ("If-None-Match", "*"), "mine", true) {
            Fate::Done(answer) => {
                assert_eq!(answer.status, 201, "{key}: {}", answer.text());
                self.told.created.insert(key);
            }
            Fate::Refused => drop(self.told.refused.insert(key)),
        }
    }

    fn raise(&mut self) {
        let key = format!("load/counter{}", (self.requests / 2) % COUNTERS);
        let read = try_ask(self.socket(), &format!("GET /v1/kv/{key}?timeout=2s"), &[], b"");
        let fate = match read {
            Ok(read) if read.status == 404 => self.write(&key, ("If-None-Match", "*"), "1", false),
            Ok(read) if read.status == 200 => {
                let count: u64 = read.text().parse().unwrap();
                let tag = read.header("etag").unwrap().to_owned();
                self.write(&key, ("If-Match", &tag), &(count + 1).to_string(), false)
            }
            _ => {
                self.requests += 1;
                return self.turn_away();
            }
        };
        match fate {
            Fate::Done(answer) if answer.status == 412 => self.told.conflicts += 1,
            Fate::Done(_) => *self.told.raised.entry(key).or_default() += 1,
            Fate::Refused => {}
        }
    }

    /// Writes until the outcome is known. `once`: gives up when the first answer is 503.
    fn write(&mut self, key: &str, condition: (&str, &str), value: &str, once: bool) -> Fate {
        self.requests += 1;
        let name = format!("w{}-{}", self.number, self.requests);
        let headers = [("Idempotency-Key", name.as_str()), condition];
        let line = format!("PUT /v1/kv/{key}?timeout=2s");
        let mut doubt = false;
        wait_until("the outcome of a write is known", || {
            match try_ask(self.socket(), &line, &headers, value.as_bytes()) {
                Ok(answer) if matches!(answer.status, 200 | 201 | 412) => {
                    if answer.status != 412 {
                        self.shared.acked[self.node].fetch_add(1, Ordering::SeqCst);
                    }
                    return Some(Fate::Done(answer));
                }
                Ok(answer) if matches!(answer.status, 429 | 503) => {
                    assert_eq!(answer.json()["applied"], "no", "{}", answer.text());
                    self.told.unavailable += 1;
                    if once && !doubt {
                        self.turn_away();
                        return Some(Fate::Refused);
                    }
                }
                Ok(answer) if answer.status == 504 => {
                    assert_eq!(answer.json()["applied"], "maybe", "{}", answer.text());
                    self.told.unknown += 1;
                    doubt = true;
                }
                Ok(answer) => panic!("{line}: {} {}", answer.status, answer.text()),
                Err(_) => {
                    self.told.unknown += 1;
                    doubt = true;
                }
            }
            self.turn_away();
            None
        })
    }

    fn socket(&self) -> &Path {
        &self.shared.sockets[self.node]
    }

    /// This node does not serve: to the next one, and not in a storm.
    fn turn_away(&mut self) {
        self.node = (self.node + 1) % self.shared.sockets.len();
        wait_for(Duration::from_millis(5), "a moment");
    }
}
