//! Finds every descendant of a process, also those that left its group and session, and signals
//! them.
//!
//! When and with what to signal is for `stopping.rs`; who must be found in the end, because orphans
//! are handed to the nearest subreaper (PR_SET_CHILD_SUBREAPER), is for `guard.rs` and
//! `supervise.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait,
};

/// What /proc/PID/stat says of one process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    parent: i32,
    /// Clock ticks after boot at which it began: with the id, the identity of a process.
    began: u64,
    /// It has ended and waits to be reaped.
    ended: bool,
}

fn parse_stat(text: &str) -> Option<Seen> {
    // The second field is the name in brackets and may itself hold spaces and brackets.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // `starttime` is field 22; after the name come `state` (3) and `ppid` (4).
    let began = fields.nth(17)?.parse().ok()?;
    Some(Seen { parent, began, ended: matches!(state, "Z" | "X" | "x") })
}

fn look_at(pid: i32) -> Option<Seen> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

fn all_processes() -> io::Result<BTreeMap<i32, Seen>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // It may have ended since the directory was read.
        if let Some(seen) = look_at(pid) {
            found.insert(pid, seen);
        }
    }
    Ok(found)
}

fn below(root: i32, processes: &BTreeMap<i32, Seen>) -> Vec<(i32, Seen)> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, seen) in processes {
        children.entry(seen.parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        // Removed, so that a snapshot torn by reused ids cannot make a circle.
        for child in children.remove(&parent).unwrap_or_default() {
            if let Some(seen) = processes.get(&child) {
                found.push((child, *seen));
                open.push(child);
            }
        }
    }
    found
}

/// The living descendants of `root`, itself not among them.
pub(super) fn descendants(root: Pid) -> io::Result<Vec<Pid>> {
    let processes = all_processes()?;
    let found = below(root.as_raw_pid(), &processes);
    Ok(found
        .into_iter()
        .filter(|(_, seen)| !seen.ended)
        .filter_map(|(p, _)| Pid::from_raw(p))
        .collect())
}

/// Sends `signal` to every living descendant of `root` but `except`; how many there were. One that
/// is made while this looks is met by the next call: the caller repeats until none is left.
pub(super) fn signal_descendants(root: Pid, except: &[Pid], signal: Signal) -> io::Result<usize> {
    let processes = all_processes()?;
    let mut reached = 0;
    for (raw, seen) in below(root.as_raw_pid(), &processes) {
        let Some(pid) = Pid::from_raw(raw) else { continue };
        if seen.ended || except.contains(&pid) {
            continue;
        }
        reached += 1;
        // The id may have passed to a stranger since it was read. The descriptor pins whoever has
        // it now, so when the beginning is still the same, the descriptor is the right one.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if look_at(raw).is_some_and(|now| now.began == seen.began) {
            // It may have ended, which is what was wanted, or belong to another user, whom we may
            // not stop: nothing more can be done for either.
            let _ = pidfd_send_signal(&descriptor, signal);
        }
    }
    Ok(reached)
}

/// A child that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) pid: Pid,
    /// What a shell would call its exit status.
    pub(super) status: u8,
    /// A signal ended it.
    pub(super) killed: bool,
}

/// What a call of [`reap`] found.
#[derive(Debug, Default)]
pub(super) struct Reaped {
    /// Those that ended since the last call.
    pub(super) ended: Vec<Ended>,
    /// No child is left; for a subreaper that means no descendant is left either.
    pub(super) none_left: bool,
}

/// Takes the status of every child that has ended, adopted ones too, without waiting.
pub(super) fn reap() -> io::Result<Reaped> {
    let mut reaped = Reaped::default();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let killed = status.signaled();
                reaped.ended.push(Ended { pid, status: shell_status(status), killed });
            }
            Ok(None) => return Ok(reaped),
            Err(rustix::io::Errno::CHILD) => {
                reaped.none_left = true;
                return Ok(reaped);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The exit status as a shell reports it: the code itself, or 128 and the number of the signal.
pub(super) fn shell_status(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code & 0xff,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = "7 (a) S 3 (b)) R 42 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 999 1 2 3";
        assert_eq!(parse_stat(text), Some(Seen { parent: 42, began: 999, ended: false }));
        assert_eq!(parse_stat("7 (a) Z 42"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_strangers_are_not() {
        let seen = |parent| Seen { parent, began: 1, ended: false };
        let processes =
            BTreeMap::from([(2, seen(1)), (3, seen(2)), (4, seen(3)), (5, seen(1)), (6, seen(6))]);
        let mut found: Vec<i32> = below(2, &processes).into_iter().map(|(pid, _)| pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert!(below(4, &processes).is_empty());
        assert_eq!(below(6, &processes).len(), 1, "a circle ends");
    }

    #[test]
    fn a_real_child_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = rustix::process::getpid();
        let pid = Pid::from_child(&child);
        assert!(descendants(me).unwrap().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants(me).unwrap().contains(&pid));
    }
}
