//! The figures, in the order in which they are taken of one cluster.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::load::{self, Counted, VALUE, Work, quantile_ms};
use crate::process::Usage;
use crate::report::Figure;
use crate::service::{Cluster, Freshness, Session, Watcher};

/// Waiters on the one lock that is handed over.
const WAITERS: usize = 32;
/// Watchers of one key, each on a connection of its own.
const WATCHERS: usize = 1_000;
/// Leases that are kept alive, over three hosts.
const LEASES: usize = 5_000;
/// How often the leader is killed.
const FAILOVERS: usize = 5;
/// A cluster that takes longer than this to write again has failed.
const FAILOVER_MAX: Duration = Duration::from_secs(60);
/// Processor time is counted in ticks of 10 ms: an idle process needs a long look.
const IDLE: Duration = Duration::from_secs(10);

/// Which figures to take, and for how long each.
pub struct Plan {
    /// Only groups whose name begins so.
    pub only: Option<String>,
    /// Only loads of so many clients.
    pub clients: Option<usize>,
    /// How long each load is measured.
    pub seconds: Duration,
}

impl Plan {
    /// Whether a group of figures is wanted.
    pub fn wants(&self, group: &str) -> bool {
        self.only.as_ref().is_none_or(|only| group.starts_with(only.as_str()))
    }

    fn wants_clients(&self, clients: usize) -> bool {
        self.clients.is_none_or(|only| only == clients)
    }
}

/// Takes all figures that both kinds of cluster have.
pub async fn take<C: Cluster>(cluster: &mut C, plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if plan.wants("start") {
        start(cluster, &mut figures).await?;
    }
    loads(cluster, plan, &mut figures).await?;
    if plan.wants("lock") {
        locks(cluster, plan, &mut figures).await?;
    }
    if plan.wants("handover") {
        say::<C>("handover");
        let times = handovers(cluster, plan.seconds).await?;
        let name = format!("hand-over on one lock, {WAITERS} waiters");
        spread(&mut figures, &name, &times);
    }
    if plan.wants("watch") {
        for watchers in [1, WATCHERS] {
            say::<C>("watch");
            let times = watch(cluster, watchers, plan.seconds).await?;
            spread(&mut figures, &format!("watch delivery, {watchers} watchers"), &times);
        }
    }
    if plan.wants("leases") {
        say::<C>("leases");
        let kept = cluster.keep_leases(LEASES, Duration::from_secs(10)).await?;
        let cores = busy(cluster, IDLE).await?;
        drop(kept);
        figures.push(Figure::new(format!("{LEASES} leases kept alive: CPU"), "cores", cores));
    }
    if plan.wants("failover") {
        say::<C>("failover");
        let mut times = Vec::new();
        for _ in 0..FAILOVERS {
            times.push(failover(cluster).await?);
        }
        times.sort_unstable();
        let name = "leader killed: first write".to_owned();
        figures.push(Figure::new(format!("{name} p50"), "ms", quantile_ms(&times, 0.5)));
        figures.push(Figure::new(format!("{name} slowest"), "ms", quantile_ms(&times, 1.0)));
    }
    Ok(figures)
}

fn say<C: Cluster>(what: &str) {
    eprintln!("{}: {what}", C::NAME);
}

fn spread(figures: &mut Vec<Figure>, name: &str, times: &[Duration]) {
    figures.push(Figure::new(format!("{name}: p50"), "ms", quantile_ms(times, 0.5)));
    figures.push(Figure::new(format!("{name}: p99"), "ms", quantile_ms(times, 0.99)));
}

/// Cores that the servers keep busy, on average over some time.
async fn busy<C: Cluster>(cluster: &C, time: Duration) -> Result<f64> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, from) = (Usage::of(&cluster.pids())?, Instant::now());
    tokio::time::sleep(time).await;
    let after = Usage::of(&cluster.pids())?;
    Ok((after.cpu - before.cpu).as_secs_f64() / from.elapsed().as_secs_f64())
}

async fn start<C: Cluster>(cluster: &C, figures: &mut Vec<Figure>) -> Result<()> {
    say::<C>("start");
    let cores = busy(cluster, IDLE).await?;
    let resident = Usage::of(&cluster.pids())?.resident_bytes as f64 / 1e6;
    figures.push(Figure::new("idle: CPU of one node".to_owned(), "% core", cores * 100.0 / 3.0));
    figures.push(Figure::new("memory after start, three nodes".to_owned(), "MB", resident));
    Ok(())
}

async fn loads<C: Cluster>(cluster: &C, plan: &Plan, figures: &mut Vec<Figure>) -> Result<()> {
    let groups = [
        ("put", Work::Put),
        ("get", Work::Get(Freshness::Linearizable)),
        ("local", Work::Get(Freshness::Local)),
    ];
    if groups.iter().any(|(group, _)| plan.wants(group)) {
        load::fill(cluster).await?;
    }
    for (group, work) in groups {
        if !plan.wants(group) {
            continue;
        }
        let title = if group == "local" { "get local" } else { group };
        if plan.wants_clients(1) {
            say::<C>(&format!("{title}, 1 client"));
            let leader = cluster.leader(0).await?.context("no leader")?;
            for (place, node) in [("leader", leader), ("follower", (leader + 1) % 3)] {
                let counted = load::run(cluster, work, 1, &[node], plan.seconds).await?;
                add_load(figures, &format!("{title}, 1 client at {place}"), work, &counted);
            }
        }
        for clients in [16, 64, 256] {
            if plan.wants_clients(clients) {
                say::<C>(&format!("{title}, {clients} clients"));
                let counted = load::run(cluster, work, clients, &[0, 1, 2], plan.seconds).await?;
                add_load(figures, &format!("{title}, {clients} clients"), work, &counted);
            }
        }
        if work == Work::Put {
            let usage = Usage::of(&cluster.pids())?;
            let resident = usage.resident_bytes as f64 / 1e6;
            figures.push(Figure::new("memory under load, three nodes".to_owned(), "MB", resident));
            let peak = usage.resident_bytes_peak as f64 / 1e6;
            figures.push(Figure::new("memory at its peak, three nodes".to_owned(), "MB", peak));
        }
    }
    Ok(())
}

fn add_load(figures: &mut Vec<Figure>, name: &str, work: Work, counted: &Counted) {
    figures.push(Figure::new(format!("{name}: rate"), "/s", counted.rate));
    spread(figures, name, &counted.times);
    figures.push(Figure::new(format!("{name}: server CPU"), "µs", counted.server_cpu_us));
    figures.push(Figure::new(format!("{name}: client CPU"), "µs", counted.client_cpu_us));
    if !matches!(work, Work::Get(_)) {
        figures.push(Figure::new(format!("{name}: disk"), "KB", counted.disk_bytes / 1e3));
    }
}

async fn locks<C: Cluster>(cluster: &C, plan: &Plan, figures: &mut Vec<Figure>) -> Result<()> {
    say::<C>("lock");
    let counted = load::run(cluster, Work::Lock, 1, &[1], plan.seconds).await?;
    spread(figures, "lock acquire, uncontended", &counted.times);
    let counted = load::run(cluster, Work::Lock, 32, &[0, 1, 2], plan.seconds).await?;
    let name = "lock cycles, 32 locks";
    figures.push(Figure::new(format!("{name}: rate"), "/s", counted.rate));
    figures.push(Figure::new(format!("{name}: p50"), "ms", counted.quantile_ms(0.5)));
    figures.push(Figure::new(format!("{name}: server CPU"), "µs", counted.server_cpu_us));
    Ok(())
}

/// Times from a release being sent to the next waiter being told.
async fn handovers<C: Cluster>(cluster: &C, measured: Duration) -> Result<Vec<Duration>> {
    let released: Rc<Cell<Option<Instant>>> = Rc::default();
    let times = Rc::new(std::cell::RefCell::new(Vec::new()));
    let end = Instant::now() + measured;
    let mut tasks = JoinSet::new();
    for waiter in 0..WAITERS {
        let mut session = cluster.session(waiter % 3).await?;
        let lease = session.grant(Duration::from_secs(3_600)).await?;
        let (released, times) = (released.clone(), times.clone());
        tasks.spawn_local(async move {
            while Instant::now() < end {
                let held = session.lock("bench-one", &lease).await?;
                if let Some(released) = released.get() {
                    times.borrow_mut().push(released.elapsed());
                }
                released.set(Some(Instant::now()));
                session.unlock("bench-one", &held).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let mut times = times.take();
    times.sort_unstable();
    Ok(times)
}

/// Times from a write being sent to the last of the watchers being told.
async fn watch<C: Cluster>(
    cluster: &C,
    watchers: usize,
    measured: Duration,
) -> Result<Vec<Duration>> {
    let key = "bench-watched";
    let told = Rc::new(Cell::new((0, Instant::now())));
    let all_told = Rc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let leader = cluster.leader(0).await?.context("no leader")?;
    for number in 0..watchers {
        // One watcher alone is at a follower, the writer at the other one: the longest way.
        let session = cluster.session((leader + 1 + number) % 3).await?;
        let mut watcher = session.watch(key).await?;
        let (told, all_told) = (told.clone(), all_told.clone());
        tasks.spawn_local(async move {
            loop {
                watcher.event().await?;
                told.set((told.get().0 + 1, Instant::now()));
                if told.get().0 == watchers {
                    all_told.notify_one();
                }
            }
            #[expect(unreachable_code, reason = "names the type of the error")]
            anyhow::Ok(())
        });
    }
    let mut writer = cluster.session((leader + 2) % 3).await?;
    let (mut times, end) = (Vec::new(), Instant::now() + measured);
    while Instant::now() < end {
        told.set((0, Instant::now()));
        let sent = Instant::now();
        writer.put(key, &VALUE).await?;
        tokio::select! {
            () = all_told.notified() => {}
            ended = tasks.join_next() => bail!("a watcher has ended: {ended:?}"),
        }
        times.push(told.get().1 - sent);
        // The next write meets a quiet cluster.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    Ok(times)
}

/// From the death of the leader to the first acknowledgement of a write that was sent after it.
async fn failover<C: Cluster>(cluster: &mut C) -> Result<Duration> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leader = cluster.leader(0).await?.context("no leader")?;
    cluster.kill(leader)?;
    let killed = Instant::now();
    let mut attempts: JoinSet<Result<()>> = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut number = 0;
    let took = loop {
        if killed.elapsed() > FAILOVER_MAX {
            bail!("no write was acknowledged after the leader's death");
        }
        tokio::select! {
            _ = ticks.tick() => {
                number += 1;
                // Each attempt on a connection of its own: one that hangs holds up no other.
                let session = cluster.session((leader + 1 + number % 2) % 3).await;
                attempts.spawn_local(async move { session?.put("bench-failover", &VALUE).await });
            }
            Some(Ok(Ok(()))) = attempts.join_next(), if !attempts.is_empty() => {
                break killed.elapsed();
            }
        }
    };
    drop(attempts);
    cluster.restart(leader).await?;
    Ok(took)
}
