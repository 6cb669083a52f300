//! How soon the next waiter holds when the process that held a lock is killed: quorumd only, since
//! elsewhere it takes as long as a lease lives.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http1::Http;
use crate::load::quantile_ms;
use crate::process::kill;
use crate::quorumd::Quorumd;
use crate::report::Figure;

/// How often a holder is killed.
const ROUNDS: usize = 11;
/// The path of the lock.
const LOCK: &str = "/v1/locks/bench-holder";
/// The argument with which this program is a holder.
pub const HOLD: &str = "hold";

/// Takes the lock on a connection and keeps it until killed.
pub async fn hold(socket: &Path) -> Result<()> {
    let mut http = acquire(socket).await?;
    until_held(&mut http).await?;
    println!("held");
    std::io::stdout().flush()?;
    loop {
        http.line().await?;
    }
}

/// Kills holders of a lock and times the next one.
pub async fn figures(cluster: &Quorumd) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for bind in [Bind::Connection, Bind::Process] {
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            times.push(kill_one(cluster, round, bind).await?);
            // The waiter's own place ends with its connection; the next round begins without it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        times.sort_unstable();
        let name = match bind {
            Bind::Connection => "holder killed: next one holds",
            Bind::Process => "bound process killed: next one holds",
        };
        figures.push(Figure::new(format!("{name} p50"), "ms", quantile_ms(&times, 0.5)));
        figures.push(Figure::new(format!("{name} slowest"), "ms", quantile_ms(&times, 1.0)));
    }
    Ok(figures)
}

/// What a holder holds by.
#[derive(Clone, Copy)]
enum Bind {
    Connection,
    Process,
}

async fn kill_one(cluster: &Quorumd, round: usize, bind: Bind) -> Result<Duration> {
    let socket = cluster.socket(round % 3);
    let mut holder = match bind {
        Bind::Connection => connected(socket)?,
        Bind::Process => bound(socket).await?,
    };
    let mut waiter = acquire(cluster.socket((round + 1) % 3)).await?;
    waiter.line().await?;
    let killed = Instant::now();
    kill(holder.id())?;
    until_held(&mut waiter).await?;
    let time = killed.elapsed();
    holder.wait()?;
    Ok(time)
}

fn connected(socket: &Path) -> Result<Child> {
    let mut holder = Command::new(std::env::current_exe()?)
        .arg(HOLD)
        .arg(socket)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = holder.stdout.take().context("a holder has an output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.trim() != "held" {
        bail!("the holder did not get the lock");
    }
    Ok(holder)
}

async fn bound(socket: &Path) -> Result<Child> {
    let holder = Command::new("sleep").arg("600").spawn()?;
    let body = format!(r#"{{"bind":"process","pid":{}}}"#, holder.id());
    let (status, _) = Http::connect(socket).await?.call("POST", LOCK, body.as_bytes()).await?;
    if status != 200 {
        bail!("the lock for a process answered {status}");
    }
    Ok(holder)
}

async fn acquire(socket: &Path) -> Result<Http> {
    let mut http = Http::connect(socket).await?;
    let head = http.begin("POST", LOCK, br#"{"bind":"connection"}"#).await?;
    if head.status != 200 {
        bail!("the lock answered {}", head.status);
    }
    Ok(http)
}

async fn until_held(http: &mut Http) -> Result<()> {
    let mark = br#""state":"held""#;
    while !http.line().await?.windows(mark.len()).any(|window| window == mark) {}
    Ok(())
}
