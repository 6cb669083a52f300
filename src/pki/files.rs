//! How certificate and key files are read (bounded) and written (private, never over another).
//!
//! What they must contain is decided by `credentials.rs` and `authority.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::pki::PkiError;

/// Longest file that is read, in bytes: a bundle of some dozens of roots.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The whole content of a small file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    read_bounded(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB, which no certificate file is"));
    }
    Ok(content)
}

/// Says so when a key file is open to more than its owner and group. It is not refused: the harm is
/// done already, and a host that stays down adds to it.
pub(super) fn warn_if_open(key: &Path) {
    let Ok(metadata) = std::fs::metadata(key) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        tracing::warn!(
            file = %key.display(),
            mode = format_args!("{mode:04o}"),
            "the private key can be read or changed by other users; issue a new one and give it \
             mode 0600"
        );
    }
}

/// Writes a file with `mode`, whole or not at all, durably: the new content takes the place of the
/// old in one step.
pub fn replace_file(path: &Path, mode: u32, content: &str) -> Result<(), PkiError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // Left behind by an attempt that was cut off.
    match std::fs::remove_file(&new) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(PkiError::File { path: new, source });
        }
        _ => {}
    }
    write_new(&new, mode, content)?;
    let swap = || {
        // Whoever owned the file goes on reading it.
        if let Ok(old) = std::fs::metadata(path) {
            let _ = std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid()));
        }
        std::fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    swap().map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Writes a new file with `mode`, durably. A file that exists is left as it is and reported.
pub(super) fn write_new(path: &Path, mode: u32, content: &str) -> Result<(), PkiError> {
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(
        |mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        },
    );
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned() },
        _ => PkiError::File { path: path.to_owned(), source },
    })
}
