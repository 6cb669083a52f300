//! What a host remembers of its files beyond a restart: small JSON files in the data directory.
//!
//! Each is replaced as a whole, and durable before what it announces is done. What is in them is
//! decided by those who write them. One that cannot be read counts as none: then at worst a file is
//! written or a program reloaded once more than needed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One remembered thing.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file `<name>.json` in `directory`; neither needs to exist.
    pub(super) fn new(directory: &Path, name: &str) -> Self {
        Self { path: directory.join(format!("{name}.json")) }
    }

    /// What was remembered last, if anything.
    pub(super) fn load<T: DeserializeOwned>(&self) -> Option<T> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %self.path.display(), %error, "cannot be read");
                }
                return None;
            }
        };
        match serde_json::from_slice(&bytes) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "is not understood");
                None
            }
        }
    }

    /// Remembers `state`; durable when it returns.
    pub(super) fn save<T: Serialize>(&self, state: &T) -> Result<(), String> {
        self.write(state).map_err(|error| format!("cannot write {}: {error}", self.path.display()))
    }

    fn write<T: Serialize>(&self, state: &T) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let next = self.path.with_extension("json.next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        File::open(directory)?.sync_all()
    }
}
