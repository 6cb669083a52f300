//! Closed loops of clients against a cluster, and what they and the kernel counted meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::process::Usage;
use crate::service::{Cluster, Freshness, Session};

/// Bytes of each value.
pub const VALUE: [u8; 256] = [b'v'; 256];
/// Keys that are written and read.
const KEYS: u64 = 10_000;
/// Load before the measured time: connections, caches and batches reach their steady state.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longer than any benchmark.
const LEASE_TTL: Duration = Duration::from_secs(3_600);

/// What each client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads a key.
    Get(Freshness),
    /// Takes and releases a lock of its own; the time is that of the taking.
    Lock,
    /// Writes a key.
    Put,
}

/// What was counted.
pub struct Counted {
    /// Times of the operations, ascending.
    pub times: Vec<Duration>,
    /// Operations per second.
    pub rate: f64,
    /// Microseconds of processor time of the three servers per operation.
    pub server_cpu_us: f64,
    /// The same of this program.
    pub client_cpu_us: f64,
    /// Bytes that the servers handed to the disk, per operation.
    pub disk_bytes: f64,
}

impl Counted {
    /// The time that this part of the operations did not exceed, in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.times, quantile)
    }
}

/// The value below which this part of the ascending times lies, in milliseconds.
pub fn quantile_ms(times: &[Duration], quantile: f64) -> f64 {
    let Some(last) = times.len().checked_sub(1) else { return f64::NAN };
    times[(last as f64 * quantile).round() as usize].as_secs_f64() * 1e3
}

/// Runs clients, each on a connection of its own, in turn on these nodes.
pub async fn run<C: Cluster>(
    cluster: &C,
    work: Work,
    clients: usize,
    nodes: &[usize],
    measured: Duration,
) -> Result<Counted> {
    let mut sessions = Vec::new();
    for client in 0..clients {
        let mut session = cluster.session(nodes[client % nodes.len()]).await?;
        let lease = match work {
            Work::Lock => session.grant(LEASE_TTL).await?,
            Work::Get(_) | Work::Put => String::new(),
        };
        sessions.push((session, lease));
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + measured;
    let times = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for (number, (session, lease)) in sessions.into_iter().enumerate() {
        let client = Client { session, lease, number: number as u64, work };
        tasks.spawn_local(client.run(begin, end, times.clone()));
    }
    tokio::time::sleep_until(begin.into()).await;
    let pids = cluster.pids();
    let (before, own_before, from) = (Usage::of(&pids)?, Usage::own_cpu()?, Instant::now());
    tokio::time::sleep_until(end.into()).await;
    let (after, own_after, took) = (Usage::of(&pids)?, Usage::own_cpu()?, from.elapsed());
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let mut times = times.take();
    times.sort_unstable();
    let count = times.len().max(1) as f64;
    Ok(Counted {
        rate: count / took.as_secs_f64(),
        server_cpu_us: (after.cpu - before.cpu).as_secs_f64() * 1e6 / count,
        client_cpu_us: (own_after - own_before).as_secs_f64() * 1e6 / count,
        disk_bytes: (after.disk_bytes - before.disk_bytes) as f64 / count,
        times,
    })
}

/// Writes every key once, so that reads find them.
pub async fn fill<C: Cluster>(cluster: &C) -> Result<()> {
    const WRITERS: u64 = 64;
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let mut session = cluster.session((writer % 3) as usize).await?;
        tasks.spawn_local(async move {
            for number in (writer..KEYS).step_by(WRITERS as usize) {
                session.put(&key(number), &VALUE).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn key(number: u64) -> String {
    format!("bench/{number:05}")
}

struct Client<S> {
    session: S,
    lease: String,
    number: u64,
    work: Work,
}

impl<S: Session> Client<S> {
    async fn run(
        mut self,
        begin: Instant,
        end: Instant,
        times: Rc<RefCell<Vec<Duration>>>,
    ) -> Result<()> {
        let name = format!("bench-{}", self.number);
        // Knuth's multiplicative step: clients walk over all keys, none in step with another.
        let mut at = self.number.wrapping_mul(2_654_435_761);
        loop {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = key((at >> 33) % KEYS);
            let sent = Instant::now();
            let took = match self.work {
                Work::Get(freshness) => {
                    self.session.get(&key, freshness).await?;
                    sent.elapsed()
                }
                Work::Lock => {
                    let held = self.session.lock(&name, &self.lease).await?;
                    let took = sent.elapsed();
                    self.session.unlock(&name, &held).await?;
                    took
                }
                Work::Put => {
                    self.session.put(&key, &VALUE).await?;
                    sent.elapsed()
                }
            };
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now >= begin {
                times.borrow_mut().push(took);
            }
        }
    }
}
