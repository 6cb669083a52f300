//! Makes the sockets that local callers use, or takes them from systemd: the unix socket with its
//! owner and mode, and the token of the loopback port.
//!
//! Who may do what over them is decided by `api/`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use tokio::net::UnixListener;

use crate::config;

use super::exit::{ExitCode, Failure};

/// Shortest bearer token in bytes: 128 bits in hexadecimal.
const TOKEN_BYTES_MIN: usize = 32;
/// Longest bearer token in bytes.
const TOKEN_BYTES_MAX: usize = 512;

/// The socket of local callers, and whose it is.
pub(super) struct Local {
    pub listener: UnixListener,
    /// Made here, to be removed here. A socket that systemd made stays: whoever connects to it
    /// while no daemon runs is served by the next one.
    made_here: bool,
}

impl Local {
    /// The socket that systemd listens on already, or else one of our own. Needs a running tokio
    /// runtime.
    pub fn new(
        socket: &config::Socket,
        given: Option<std::os::unix::net::UnixListener>,
    ) -> Result<Self, Failure> {
        let Some(given) = given else {
            return Ok(Self { listener: bind_local(socket)?, made_here: true });
        };
        let address = given.local_addr().context("cannot ask where systemd listens")?;
        if address.as_pathname() != Some(&*socket.path) {
            let error = anyhow!(
                "systemd listens on {address:?} for this daemon, the configuration says {}: make \
                 ListenStream= of quorumd.socket and socket.path the same",
                socket.path.display()
            );
            return Err(Failure::new(ExitCode::Usage, error));
        }
        given.set_nonblocking(true).context("cannot use the socket of systemd")?;
        let listener = UnixListener::from_std(given).context("cannot use the socket of systemd")?;
        Ok(Self { listener, made_here: false })
    }

    /// What has to be removed when the last caller was answered.
    pub fn left_behind(&self, socket: &config::Socket) -> LeftBehind {
        LeftBehind(self.made_here.then(|| socket.path.clone()))
    }
}

/// A socket to be removed from the file system, if it is ours.
pub(super) struct LeftBehind(Option<PathBuf>);

impl LeftBehind {
    /// Removes it.
    pub fn remove(self) {
        let Some(path) = self.0 else { return };
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "the socket could not be removed");
        }
    }
}

/// Listens on the unix socket. Needs a running tokio runtime, and a umask that keeps others out
/// until the mode is set. A socket that a killed daemon left behind is replaced; one that answers,
/// or anything that is no socket, is not touched.
fn bind_local(socket: &config::Socket) -> anyhow::Result<UnixListener> {
    let path = socket.path.as_path();
    if let Some(directory) = path.parent() {
        make_open_directory(directory).with_context(|| {
            format!("cannot make the socket's directory {}", directory.display())
        })?;
    }
    remove_left_behind(path)?;
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on the socket {}", path.display()))?;
    if let Some(group) = &socket.group {
        let id = group_id(group)?;
        chown(path, None, Some(id)).with_context(|| {
            format!("cannot give the socket {} to the group {group}", path.display())
        })?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(socket.mode))
        .with_context(|| format!("cannot set the mode of the socket {}", path.display()))?;
    Ok(listener)
}

/// Makes what is missing of `directory`, so that everybody can pass through it to the socket, whose
/// own mode decides who may use it. The umask would keep them out.
fn make_open_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_open_directory(parent)?;
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

fn remove_left_behind(path: &Path) -> anyhow::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
    };
    if !kind.is_socket() {
        bail!("{} is there and is no socket: remove it or change socket.path", path.display());
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another process serves the socket {}: stop it first", path.display());
    }
    fs::remove_file(path)
        .with_context(|| format!("cannot remove the old socket {}", path.display()))
}

/// The number of a group, which may be one already. Names are looked up in `/etc/group` only.
fn group_id(group: &str) -> anyhow::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let table = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    find_group(&table, group).with_context(|| {
        format!("socket.group: there is no group {group:?} in /etc/group; give its number instead")
    })
}

/// A line is `name:password:number:members` (group(5)).
fn find_group(table: &str, group: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Reads the bearer token of the loopback port.
pub(super) fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read http.token_file {}", path.display()))?;
    let token = text.trim_end_matches(['\n', '\r']);
    let length_good = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
    if !length_good || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "http.token_file {} must hold one line of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} \
             visible ASCII characters, such as the output of `openssl rand -hex 32`",
            path.display()
        );
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use crate::config::Socket;

    use crate::daemon::exit::ExitCode;

    use super::{Local, bind_local, find_group, read_token};

    fn socket(directory: &Path) -> Socket {
        Socket { path: directory.join("run/s"), mode: 0o640, group: None }
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_gets_its_mode() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = socket(directory.path());
        fs::create_dir(directory.path().join("run")).expect("a new directory");
        drop(UnixListener::bind(&socket.path).expect("a free path"));
        let _listener = bind_local(&socket).expect("nobody serves the old socket");
        let mode = fs::metadata(&socket.path).expect("the socket is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let said = bind_local(&socket).expect_err("it is served now").to_string();
        assert!(said.contains("another process serves"), "{said}");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_touched() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = Socket { path: directory.path().join("s"), mode: 0o600, group: None };
        fs::write(&socket.path, "precious").expect("a new file");
        let said = bind_local(&socket).expect_err("it is a file").to_string();
        assert!(said.contains("is no socket"), "{said}");
        assert_eq!(fs::read_to_string(&socket.path).expect("it is still there"), "precious");
    }

    #[tokio::test]
    async fn the_socket_of_systemd_is_used_and_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("s");
        let socket = Socket { path: path.clone(), mode: 0o640, group: None };
        let given = UnixListener::bind(&path).expect("a free path");
        let local = Local::new(&socket, Some(given)).expect("it is where it should be");
        local.left_behind(&socket).remove();
        assert!(path.exists(), "the next daemon is given the same");
        let elsewhere = Socket { path: directory.path().join("t"), ..socket.clone() };
        let given = UnixListener::bind(directory.path().join("u")).expect("a free path");
        let refused = Local::new(&elsewhere, Some(given)).err().expect("two truths");
        assert_eq!(refused.code, ExitCode::Usage);
        let own = Local::new(&elsewhere, None).expect("a free path");
        own.left_behind(&elsewhere).remove();
        assert!(!elsewhere.path.exists(), "nobody else makes use of it");
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let table = "root:x:0:\napps2:x:7:a,b\napps:x:12:\nbroken\n";
        assert_eq!(find_group(table, "apps"), Some(12));
        assert_eq!(find_group(table, "app"), None);
        assert_eq!(find_group(table, "broken"), None);
    }

    #[test]
    fn a_token_is_one_long_line() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("token");
        let good = "0123456789abcdef0123456789abcdef";
        fs::write(&path, format!("{good}\n")).expect("a new file");
        assert_eq!(read_token(&path).expect("a good token"), good);
        for bad in ["", "short\n", "0123456789abcdef 0123456789abcdef", &"x".repeat(513)] {
            fs::write(&path, bad).expect("the file can be written");
            assert!(read_token(&path).is_err(), "{bad:?} was taken for a token");
        }
    }
}
