//! What tells one process from every other, in words that outlive this daemon.
//!
//! How a process is pinned and looked at is in `process.rs`.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, StatxFlags, stat, statx};

/// Names one process for ever: the kernel it runs under, its number in the pid namespace of the
/// daemon that saw it, and a mark that no other process of that kernel bears.
///
/// Its text is `<kernel>.<pid namespace>.<pid>.<mark>`, at most
/// [`PROCESS_IDENTITY_BYTES_MAX`](crate::base::limits::PROCESS_IDENTITY_BYTES_MAX) bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessIdentity {
    /// The boot id of the kernel, or what stands for it.
    kernel: String,
    /// The inode number of the pid namespace that `pid` belongs to.
    namespace: u64,
    /// Zero: that namespace does not show the process.
    pid: u32,
    mark: Mark,
}

/// What no other process of the same kernel bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Mark {
    /// The inode number of its pidfd, where these are inodes of their own (pidfs, Linux 6.9): drawn
    /// from a counter that only grows.
    Inode(u64),
    /// When it started, in clock ticks since the kernel did. Together with its pid: a number comes
    /// round again after thousands of others, which takes longer than a tick.
    Start(u64),
    /// Neither can be seen. Such a process can be watched, but not found again.
    Unseen,
}

impl ProcessIdentity {
    /// The identity of a process that this daemon sees under `pid`.
    pub(super) fn here(pid: u32, mark: Mark) -> Self {
        let scene = Scene::now();
        Self { kernel: scene.kernel.clone(), namespace: scene.namespace, pid, mark }
    }

    /// The number that the daemon saw the process under; zero: none.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its mark.
    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Whether a later daemon can tell that a process is this one, or is not.
    pub fn is_lasting(&self) -> bool {
        self.mark != Mark::Unseen && self.kernel != UNKNOWN_KERNEL
    }

    /// Whether it ran under the kernel that runs now. Nothing when that cannot be known.
    pub(super) fn is_of_this_kernel(&self) -> Option<bool> {
        let kernel = &Scene::now().kernel;
        // Told by two different sources, the names of one kernel differ.
        let comparable = kernel.as_bytes().first() == self.kernel.as_bytes().first();
        (self.is_lasting() && comparable).then(|| *kernel == self.kernel)
    }

    /// Whether its number means the same process to this daemon.
    pub(super) fn is_of_this_namespace(&self) -> bool {
        let namespace = Scene::now().namespace;
        namespace != 0 && namespace == self.namespace
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.", self.kernel, self.namespace, self.pid)?;
        match self.mark {
            Mark::Inode(inode) => write!(f, "i{inode}"),
            Mark::Start(ticks) => write!(f, "s{ticks}"),
            Mark::Unseen => write!(f, "-"),
        }
    }
}

/// A text that is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoIdentity;

impl FromStr for ProcessIdentity {
    type Err = NoIdentity;

    fn from_str(text: &str) -> Result<Self, NoIdentity> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(NoIdentity);
        let (kernel, namespace, pid, mark) = (part()?, part()?, part()?, part()?);
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoIdentity);
        let mark = match mark.split_at_checked(1) {
            Some(("i", inode)) => Mark::Inode(number(inode)?),
            Some(("s", ticks)) => Mark::Start(number(ticks)?),
            Some(("-", "")) => Mark::Unseen,
            _ => return Err(NoIdentity),
        };
        if parts.next().is_some() {
            return Err(NoIdentity);
        }
        Ok(Self {
            kernel: kernel.to_owned(),
            namespace: number(namespace)?,
            pid: pid.parse().map_err(|_| NoIdentity)?,
            mark,
        })
    }
}

const UNKNOWN_KERNEL: &str = "-";

/// Where this daemon stands. Neither changes while it runs.
struct Scene {
    kernel: String,
    namespace: u64,
}

impl Scene {
    fn now() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(|| Scene {
            kernel: boot_id().or_else(first_mount).unwrap_or_else(|| UNKNOWN_KERNEL.to_owned()),
            namespace: stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino),
        })
    }
}

/// random(4). A hardened unit may not see it (`ProcSubset=pid`).
fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    let sound = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    sound.then(|| format!("b{digits}"))
}

/// `/run` is made anew by each boot: the instant of its birth, to the nanosecond, stands for it.
fn first_mount() -> Option<String> {
    let run = statx(CWD, "/run", AtFlags::empty(), StatxFlags::BTIME).ok()?;
    let known = StatxFlags::from_bits_retain(run.stx_mask).contains(StatxFlags::BTIME);
    known.then(|| format!("r{}-{}", run.stx_btime.tv_sec, run.stx_btime.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::{Mark, ProcessIdentity, boot_id, first_mount};
    use crate::base::limits;

    #[test]
    fn an_identity_is_read_back_from_its_text() {
        for mark in [Mark::Inode(u64::MAX), Mark::Start(7), Mark::Unseen] {
            let identity = ProcessIdentity::here(u32::MAX, mark);
            let text = identity.to_string();
            assert_eq!(text.parse(), Ok(identity), "{text}");
            assert!(text.len() <= limits::PROCESS_IDENTITY_BYTES_MAX, "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_identities() {
        for text in ["", "a.1.2", "a.1.2.i", "a.1.2.i3.4", "a.x.2.i3", "a.1.-2.i3", "a.1.2.q3"] {
            assert!(text.parse::<ProcessIdentity>().is_err(), "{text}");
        }
    }

    #[test]
    fn both_names_of_a_kernel_are_found_and_do_not_mix() {
        let (id, run) = (boot_id().expect("random(4)"), first_mount().expect("statx(2)"));
        assert_eq!(boot_id().as_ref(), Some(&id), "it stays");
        assert_eq!(first_mount().as_ref(), Some(&run), "it stays");
        let of = |kernel: &str| format!("{kernel}.1.2.i3").parse::<ProcessIdentity>().unwrap();
        assert_eq!(of(&id).is_of_this_kernel(), Some(true));
        assert_eq!(of(&format!("b{:032x}", 7)).is_of_this_kernel(), Some(false));
        assert_eq!(of(&run).is_of_this_kernel(), None, "the same kernel by another name");
        assert_eq!(of("-").is_of_this_kernel(), None);
    }
}
