//! What the rest of the daemon sees of files that follow keys and of directories that keys follow.
//!
//! Each entry has a task of its own: see `file_task.rs` and `publisher.rs`.

use crate::host::Host;

use super::file_status::{FileStatus, PublishStatus};
use super::file_task::FileTask;
use super::files_options::{FilesOptions, PublishOptions};
use super::publisher::Publisher;
use super::state_file::StateFile;

impl Host {
    /// Lets exactly these files follow their keys from now on. An entry whose options are the same
    /// as before goes on undisturbed; the file of one that is gone stays as it is.
    ///
    /// Called within a tokio runtime.
    pub fn set_files(&self, options: FilesOptions) {
        let FilesOptions { state_dir, entries } = options;
        let entries = entries.into_iter().map(|(name, entry)| (name, (state_dir.clone(), entry)));
        self.files().set(entries.collect(), |name, (state_dir, entry), stop| {
            let memory = StateFile::new(state_dir, name);
            let (task, board) = FileTask::new(self.node(), name, entry, memory, stop);
            (board, task.follow())
        });
    }

    /// How each file that follows keys stands, by name.
    pub fn files_status(&self) -> Vec<FileStatus> {
        self.files().status()
    }

    /// Lets keys follow exactly these directories from now on. An entry whose options are the same
    /// as before goes on undisturbed; the keys of one that is gone stay as they are.
    ///
    /// Called within a tokio runtime.
    pub fn set_publish(&self, options: PublishOptions) {
        let PublishOptions { state_dir, entries } = options;
        let entries = entries.into_iter().map(|(name, entry)| (name, (state_dir.clone(), entry)));
        self.published().set(entries.collect(), |name, (state_dir, entry), stop| {
            let memory = StateFile::new(state_dir, name);
            let (task, board) = Publisher::new(self.node(), name, entry, memory, stop);
            (board, task.follow())
        });
    }

    /// How each directory that keys follow stands, by name.
    pub fn publish_status(&self) -> Vec<PublishStatus> {
        self.published().status()
    }
}
