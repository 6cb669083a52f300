//! Who is on the other end of a local connection: what the kernel says, and nothing else.
//!
//! What a caller may do is not decided here.

use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;

use crate::host::Process;

/// Who asks, as the kernel recorded it at the time of `connect(2)` (unix(7), `SO_PEERCRED`).
///
/// A process may pass its connection to another one, or start a program of another user after it
/// has connected: what is recorded stays that of the moment of connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user. On the TCP port: the daemon's own, because whoever can read its token file is
    /// that user.
    pub uid: u32,
    /// The user's effective group.
    pub gid: u32,
    /// The process, in the daemon's own pid namespace; nothing on the TCP port, and for a process
    /// that this namespace does not show.
    pub pid: Option<u32>,
    /// The process, pinned. Nothing on the TCP port, and when it could not be pinned: it has ended
    /// already, or the daemon has no more descriptors.
    pub process: Option<Arc<Process>>,
}

impl Caller {
    /// Who has connected. Fails when the other end went before the kernel could say.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = socket.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let process = match Process::of_peer(socket, pid.unwrap_or(0), uid) {
            Ok(process) => Some(Arc::new(process)),
            Err(error) => {
                tracing::debug!(%error, ?pid, "the process of a caller could not be pinned");
                None
            }
        };
        Ok(Self { uid, gid, pid, process })
    }

    /// Who shows the token of the loopback port.
    pub fn with_token() -> Self {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        Self { uid: uid.as_raw(), gid: gid.as_raw(), pid: None, process: None }
    }
}
