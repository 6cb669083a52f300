//! What `/proc/<pid>` tells of a process (proc_pid_stat(5), proc_pid_status(5)).
//!
//! That the answer is about the process that was meant is ensured in `process.rs`.

use std::fs;
use std::io::{self, ErrorKind};

use rustix::time::{ClockId, clock_gettime};

/// Clock ticks of `/proc` in a second: `USER_HZ`, 100 on every architecture that Rust's standard
/// library knows.
const TICKS_PER_SECOND: u64 = 100;

/// The users of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Who started it.
    pub(super) real: u32,
    /// With whose rights it acts.
    pub(super) effective: u32,
    /// Whose rights it can take again.
    pub(super) saved: u32,
}

/// Whose process this is.
pub(super) fn owner(pid: u32) -> io::Result<Owner> {
    let status = status(pid)?;
    let mut ids = numbers(&status, "Uid:");
    let mut id = || ids.next().ok_or_else(unexpected);
    Ok(Owner { real: id()?, effective: id()?, saved: id()? })
}

/// The numbers of a process in the pid namespaces that it is in, outermost first: that of the
/// daemon.
pub(super) fn namespace_pids(pid: u32) -> io::Result<Vec<u32>> {
    let pids: Vec<u32> = numbers(&status(pid)?, "NSpid:").collect();
    if pids.is_empty() { Err(unexpected()) } else { Ok(pids) }
}

/// The process that started it, or that took it over; zero: none that the daemon sees.
pub(super) fn parent(pid: u32) -> io::Result<u32> {
    numbers(&status(pid)?, "PPid:").next().ok_or_else(unexpected)
}

/// When it started, in ticks since the kernel did.
pub(super) fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a file name in brackets, with whatever characters it has.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unexpected)?;
    let started = fields.split_ascii_whitespace().nth(22 - 3);
    started.and_then(|ticks| ticks.parse().ok()).ok_or_else(unexpected)
}

/// Now on the clock of [`start_ticks`].
pub(super) fn ticks_now() -> io::Result<u64> {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).map_err(|_| unexpected())?;
    let nanos = u64::try_from(now.tv_nsec).map_err(|_| unexpected())?;
    Ok(seconds * TICKS_PER_SECOND + nanos * TICKS_PER_SECOND / 1_000_000_000)
}

fn status(pid: u32) -> io::Result<String> {
    // A name that is no UTF-8 stands in the first line.
    let bytes = fs::read(format!("/proc/{pid}/status"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn numbers(status: &str, field: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|number| number.parse().ok())
}

fn unexpected() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the kernel wrote something else than expected")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{namespace_pids, owner, parent, start_ticks, ticks_now};

    #[test]
    fn a_process_is_described() {
        let before = ticks_now().unwrap();
        // A name that looks like the end of the second field.
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("a) R 1 2");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let pid = child.id();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(owner(pid).unwrap().effective, uid);
        assert_eq!(namespace_pids(pid).unwrap(), vec![pid]);
        assert_eq!(parent(pid).unwrap(), std::process::id());
        let started = start_ticks(pid).unwrap();
        assert!((before..=ticks_now().unwrap()).contains(&started), "{started}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(start_ticks(pid).is_err());
    }
}
