//! What the kernel counts of a process, and how processes are ended.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to stop when asked.
const GRACE: Duration = Duration::from_secs(10);

/// Sums over the processes of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Bytes that were handed to the disk.
    pub disk_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The most resident memory there was.
    pub resident_bytes_peak: u64,
}

impl Usage {
    /// Reads the counters of these processes.
    pub fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
            sum.cpu += cpu(*pid)?;
            sum.disk_bytes += field(&io, "write_bytes:")?;
            sum.resident_bytes += field(&status, "VmRSS:")? * 1024;
            sum.resident_bytes_peak += field(&status, "VmHWM:")? * 1024;
        }
        Ok(sum)
    }

    /// This program's own processor time.
    pub fn own_cpu() -> Result<Duration> {
        cpu(std::process::id())
    }
}

fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces; what follows its bracket does not (proc_pid_stat(5): utime is
    // field 14, stime 15, in ticks of 10 ms).
    let rest = stat.rsplit_once(')').context("no name in /proc/PID/stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in /proc"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Kills a process at once.
pub fn kill(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL)
}

/// Asks a process to stop; one that is gone already is none of our business.
pub fn terminate(pid: u32) {
    let _ = signal(pid, Signal::TERM);
}

/// Waits for a child that was asked to stop, and kills it when it takes too long.
pub fn stop(child: &mut Child) {
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    Ok(kill_process(pid, signal)?)
}
