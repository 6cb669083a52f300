//! One process, pinned by a pidfd: never another one that got its number since.
//!
//! What its end brings about is decided in `bindings.rs`; who may name which process, by the API.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, fstatfs};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::host::ProcessIdentity;

use super::identity::Mark;
use super::proc_files::{self, Owner};

/// A process that was alive when it was pinned. As long as this exists, the kernel gives its
/// *pidfd* to nobody else; its number it may, once the process has ended and was reaped.
pub struct Process {
    pidfd: OwnedFd,
    pid: u32,
    identity: ProcessIdentity,
}

/// What became of a process that an earlier daemon saw.
#[derive(Debug)]
pub enum Found {
    /// It runs.
    Alive(Process),
    /// It has ended for certain.
    Ended,
    /// That cannot be known here: the daemon sees other processes now than it did then.
    Unknown,
}

/// The type of the file system whose inodes are pidfds (`PID_FS_MAGIC`).
const PIDFS_MAGIC: i64 = 0x5049_4446;

impl Process {
    /// The process that connected. Its number is `pid`, in the daemon's own pid namespace; zero
    /// when that does not show it.
    pub(super) fn of_peer(socket: &UnixStream, pid: u32, uid: u32) -> io::Result<Self> {
        match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Ok(Self::pinned(pidfd, pid)),
            // Linux before 6.5. Everything else means that the process has ended.
            Err(nix::errno::Errno::ENOPROTOOPT) => Self::of_peer_by_pid(pid, uid),
            Err(error) => Err(error.into()),
        }
    }

    /// The same by number alone. The number may have been given to another process since the
    /// connection was made, and then it would be pinned: it must at least be one of the user that
    /// connected, and have started before now. Between connecting and being accepted all numbers of
    /// the host would have to come round for this to be another one.
    pub(super) fn of_peer_by_pid(pid: u32, uid: u32) -> io::Result<Self> {
        let now = proc_files::ticks_now()?;
        let process = Self::open(pid)?;
        let owner = process.look(proc_files::owner)?;
        let started = process.look(proc_files::start_ticks)?;
        if owner.effective != uid || started > now {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(process)
    }

    /// Pins the process that has this number now, in the daemon's pid namespace.
    pub fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or(ErrorKind::NotFound)?;
        Ok(Self::pinned(pidfd_open(number, PidfdFlags::empty())?, pid))
    }

    /// Looks for a process that an earlier daemon saw. `kept` is its pidfd, if that was handed on.
    pub fn find(identity: &ProcessIdentity, kept: Option<OwnedFd>) -> Found {
        match identity.is_of_this_kernel() {
            Some(true) => {}
            Some(false) => return Found::Ended,
            None => return Found::Unknown,
        }
        if let Some(pidfd) = kept
            && let Some(found) = Self::kept(identity, pidfd)
        {
            return found;
        }
        if identity.pid() == 0 || !identity.is_of_this_namespace() {
            return Found::Unknown;
        }
        match Self::open(identity.pid()) {
            Ok(process) if process.identity.mark() == Mark::Unseen => Found::Unknown,
            Ok(process) if process.identity == *identity && process.is_alive() => {
                Found::Alive(process)
            }
            Ok(_) => Found::Ended,
            // Gone, or the number is that of a thread now.
            Err(error) if is_no_process(&error) => Found::Ended,
            Err(_) => Found::Unknown,
        }
    }

    /// What a pidfd that was handed on tells, if it is one of the process.
    fn kept(identity: &ProcessIdentity, pidfd: OwnedFd) -> Option<Found> {
        let process = Self { pidfd, pid: identity.pid(), identity: identity.clone() };
        if inode_mark(process.as_fd()) != Some(identity.mark()) {
            return None;
        }
        Some(if process.is_alive() { Found::Alive(process) } else { Found::Ended })
    }

    fn pinned(pidfd: OwnedFd, pid: u32) -> Self {
        let mark = inode_mark(pidfd.as_fd()).unwrap_or_else(|| start_mark(pidfd.as_fd(), pid));
        Self { pidfd, pid, identity: ProcessIdentity::here(pid, mark) }
    }

    /// Its number in the daemon's pid namespace; zero when that does not show it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What tells it from all others.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Whether it has not exited. A zombie has.
    pub fn is_alive(&self) -> bool {
        is_alive(self.pidfd.as_fd())
    }

    /// Resolves when it has exited, however. Cancel-safe. Fails only when there are no more
    /// descriptors, and then at once.
    pub async fn exited(&self) -> io::Result<()> {
        let pidfd = follow(self.pidfd.try_clone()?)?;
        let _ready = pidfd.readable().await?;
        Ok(())
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> io::Result<Owner> {
        self.look(proc_files::owner)
    }

    /// Reads something under `/proc` that belongs to this very process: what was read is only
    /// believed when it still lives afterwards, because its number was its own until then.
    pub(super) fn look<T>(&self, read: impl FnOnce(u32) -> io::Result<T>) -> io::Result<T> {
        look(self.pidfd.as_fd(), self.pid, read)
    }
}

/// Has tokio tell when a descriptor is readable.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for the sake of types that may close the descriptor while \
              it is registered: an `OwnedFd` is closed by `AsyncFd` itself, after that"
)]
pub(super) fn follow(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

fn is_no_process(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error();
    [Errno::SRCH, Errno::INVAL, Errno::NOENT].iter().any(|it| number == Some(it.raw_os_error()))
        || error.kind() == ErrorKind::NotFound
}

fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut polled, Some(&at_once)) {
            Ok(ready) => return ready == 0,
            Err(rustix::io::Errno::INTR) => {}
            // A descriptor that cannot be polled is none of a process that lives.
            Err(_) => return false,
        }
    }
}

fn look<T>(
    pidfd: BorrowedFd<'_>,
    pid: u32,
    read: impl FnOnce(u32) -> io::Result<T>,
) -> io::Result<T> {
    if pid == 0 {
        return Err(ErrorKind::NotFound.into());
    }
    let seen = read(pid)?;
    if is_alive(pidfd) { Ok(seen) } else { Err(ErrorKind::NotFound.into()) }
}

/// Nothing where pidfds have no inodes of their own.
fn inode_mark(pidfd: BorrowedFd<'_>) -> Option<Mark> {
    let kind = fstatfs(pidfd).ok()?;
    if kind.f_type != PIDFS_MAGIC {
        return None;
    }
    Some(Mark::Inode(fstat(pidfd).ok()?.st_ino))
}

pub(super) fn start_mark(pidfd: BorrowedFd<'_>, pid: u32) -> Mark {
    look(pidfd, pid, proc_files::start_ticks).map_or(Mark::Unseen, Mark::Start)
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for Process {}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.identity)
    }
}
