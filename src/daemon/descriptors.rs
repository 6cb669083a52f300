//! Takes over, once, what systemd hands to a new process as open descriptors (sd_listen_fds(3)):
//! the listening socket of `quorumd.socket`, and what an earlier process left in the descriptor
//! store.
//!
//! What they are used for is decided by `sockets` and by whoever bound the processes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use anyhow::{Context, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;

use crate::host::STORED_PROCESS_PREFIX;

/// What this process was given.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// The socket of local callers, listening.
    pub local: Option<UnixListener>,
    /// Processes that an earlier daemon had bound leases to, as pidfds, under the names that it
    /// gave them.
    pub processes: Vec<(String, OwnedFd)>,
}

impl Descriptors {
    /// To be called once, before anything else opens descriptors. Outside systemd there are none.
    pub fn take() -> anyhow::Result<Self> {
        let given = sd_listen_fds::get().context("LISTEN_FDS and LISTEN_PID")?;
        Self::sort(given.into_iter().map(|(name, descriptor)| (name, descriptor.into_std())))
    }

    fn sort(given: impl Iterator<Item = (Option<String>, OwnedFd)>) -> anyhow::Result<Self> {
        let mut local = None;
        let mut processes = Vec::new();
        for (name, descriptor) in given {
            let name = name.unwrap_or_default();
            // systemd passes them on without it, and commands that this daemon starts must not get
            // them.
            fcntl_setfd(&descriptor, FdFlags::CLOEXEC)
                .with_context(|| format!("the descriptor {name:?} from systemd"))?;
            if name.starts_with(STORED_PROCESS_PREFIX) {
                processes.push((name, descriptor));
            } else if socket_acceptconn(&descriptor).unwrap_or(false) {
                if local.replace(UnixListener::from(descriptor)).is_some() {
                    bail!("systemd listens on more than one socket for this daemon: one is used");
                }
            } else {
                // As after a return to an older version.
                tracing::warn!(name, "a descriptor from systemd is of no known use: closed");
            }
        }
        Ok(Self { local, processes })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    use super::Descriptors;

    fn named(name: &str, descriptor: impl Into<OwnedFd>) -> (Option<String>, OwnedFd) {
        (Some(name.to_owned()), descriptor.into())
    }

    #[test]
    fn descriptors_are_known_by_their_names_and_kinds() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("a free path");
        fcntl_setfd(&listener, FdFlags::empty()).expect("a descriptor has flags");
        let null = || File::open("/dev/null").expect("it is always there");
        let (stream, _other) = UnixStream::pair().expect("two sockets");
        let given = vec![
            named("process-7", null()),
            named("quorumd.socket", listener),
            named("unheard-of", stream),
            (None, null().into()),
        ];
        let found = Descriptors::sort(given.into_iter()).expect("all are known or of no use");
        let local = found.local.expect("it listens");
        assert_eq!(local.local_addr().unwrap().as_pathname(), Some(&*path));
        assert_eq!(fcntl_getfd(&local).unwrap(), FdFlags::CLOEXEC);
        let names: Vec<&str> = found.processes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["process-7"]);
    }

    #[test]
    fn two_sockets_are_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listen = |name| UnixListener::bind(directory.path().join(name)).expect("a free path");
        let given = vec![named("a", listen("a")), named("b", listen("b"))];
        let said = Descriptors::sort(given.into_iter()).expect_err("two").to_string();
        assert!(said.contains("more than one socket"), "{said}");
    }
}
