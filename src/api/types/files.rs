//! How files that follow keys, and directories that keys follow, stand in a status.

use serde::{Deserialize, Serialize};

/// Whether a file, or the keys of a directory, are what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileStateView {
    /// It is what its keys say.
    Current,
    /// Something went wrong; the last good state is there, and it is tried again.
    Failed,
    /// The last good state is there; whether there is a newer one cannot be known now.
    Stale,
    /// There is nothing yet.
    Waiting,
    /// A state that this program does not know.
    #[serde(other)]
    Unknown,
}

/// A file that follows keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileView {
    /// The name of the entry.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Whether it is what it should be.
    pub state: FileStateView,
    /// The newest revision that it is known to agree with.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Why it is not current.
    #[serde(default)]
    pub reason: Option<String>,
    /// Since when it is in this state: Unix time in milliseconds.
    pub since_ms: u64,
}

/// A directory that keys follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishView {
    /// The name of the entry.
    pub name: String,
    /// The directory.
    pub directory: String,
    /// What its keys begin with.
    pub prefix: String,
    /// Whether the keys are what they should be.
    pub state: FileStateView,
    /// How many files have their key.
    pub keys: u64,
    /// The newest revision that was compared.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Why it is not current.
    #[serde(default)]
    pub reason: Option<String>,
    /// Files that are not published and why, and keys that others keep: the first of them.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// How many there are of them.
    #[serde(default)]
    pub skipped_count: u64,
    /// Since when it is in this state: Unix time in milliseconds.
    pub since_ms: u64,
}
