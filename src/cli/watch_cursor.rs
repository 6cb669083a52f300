//! Decides how `watch --exec` remembers over its own end what has been dealt with.
//!
//! A small file: the last revision whose command succeeded, the history that it belongs to, and
//! what is watched. It is replaced as a whole, and durable before the next command begins. Beside
//! it lies a file that is locked, so that two do not deal with the same.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::exit::{FAILED, Failure, USAGE};

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// What is watched, as the command line names it.
    pub(super) watch: String,
    /// Everything up to here has been dealt with.
    pub(super) revision: u64,
    pub(super) epoch: u64,
}

/// The file, which is ours until this is dropped.
pub(super) struct CursorFile {
    path: PathBuf,
    watch: String,
    _lock: File,
}

impl CursorFile {
    /// Opens the file for what is watched, and reads what it says if it is there.
    pub(super) fn open(path: &Path, watch: &str) -> Result<(Self, Option<Cursor>), Failure> {
        let fails = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(FAILED, format!("{what} {}: {error}", path.display()))
        };
        let lock = File::create(beside(path, ".lock"))
            .map_err(|error| fails("cannot lock the state file", &error))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => fails("another watch uses", &"end it first"),
            fs::TryLockError::Error(error) => fails("cannot lock the state file", &error),
        })?;
        let file = Self { path: path.to_owned(), watch: watch.to_owned(), _lock: lock };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, None)),
            Err(error) => return Err(fails("cannot read the state file", &error)),
        };
        let cursor: Cursor = serde_json::from_slice(&text)
            .map_err(|error| fails("this is no state file; remove it to begin anew:", &error))?;
        if cursor.watch != watch {
            let message = format!(
                "{} belongs to a watch of {}, not of {watch}",
                path.display(),
                cursor.watch
            );
            return Err(Failure::new(USAGE, message));
        }
        Ok((file, Some(cursor)))
    }

    /// Durably, or not at all.
    pub(super) fn save(&self, revision: u64, epoch: u64) -> io::Result<()> {
        let cursor = Cursor { watch: self.watch.clone(), revision, epoch };
        let new = beside(&self.path, ".new");
        let mut file = File::create(&new)?;
        file.write_all(serde_json::to_string(&cursor)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_read_by_the_same_watch_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (file, cursor) = CursorFile::open(&path, "prefix a/").unwrap();
        assert_eq!(cursor, None);
        file.save(7, 1).unwrap();
        file.save(9, 1).unwrap();
        let in_use = CursorFile::open(&path, "prefix a/").err().unwrap();
        assert!(in_use.message.contains("another watch"), "{}", in_use.message);
        drop(file);
        let (file, cursor) = CursorFile::open(&path, "prefix a/").unwrap();
        let wanted = Cursor { watch: "prefix a/".to_owned(), revision: 9, epoch: 1 };
        assert_eq!(cursor, Some(wanted));
        drop(file);
        let other = CursorFile::open(&path, "prefix b/").err().unwrap();
        assert_eq!(other.status, USAGE);
        assert!(other.message.contains("of prefix a/, not of prefix b/"), "{}", other.message);
        fs::write(&path, "{").unwrap();
        let bad = CursorFile::open(&path, "prefix a/").err().unwrap();
        assert!(bad.message.contains("remove it"), "{}", bad.message);
    }
}
