//! The mark in the data directory of a node whose state differs from that of the others: it is
//! fenced off after a restart too.
//!
//! A file of its own, for people as well: that it is there is what counts. It goes when the state
//! is replaced, or with the directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::base::Index;
use crate::replica::Fence;

const NAME: &str = "diverged";

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// The fence of an earlier boot.
pub(super) fn read(data_dir: &Path) -> io::Result<Option<Fence>> {
    let text = match fs::read_to_string(path(data_dir)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut words = text.split_whitespace().map(|word| u64::from_str_radix(word, 16));
    // Whatever it says, or does not say, there was a reason to write it.
    let mut number = || words.next().and_then(Result::ok).unwrap_or_default();
    Ok(Some(Fence { index: Index(number()), own: number(), expected: number() }))
}

/// Makes the mark, or removes it, durably.
pub(super) fn set(data_dir: &Path, fence: Option<Fence>) -> io::Result<()> {
    let path = path(data_dir);
    match fence {
        Some(Fence { index, own, expected }) => {
            let mut file = File::create(&path)?;
            writeln!(file, "{:x} {own:016x} {expected:016x}", index.get())?;
            file.sync_all()?;
        }
        None => fs::remove_file(&path)?,
    }
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{read, set};
    use crate::base::Index;
    use crate::replica::Fence;

    #[test]
    fn a_mark_is_found_again_whatever_became_of_its_content() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let found = || read(directory.path()).expect("it can be read");
        assert_eq!(found(), None);
        let fence = Fence { index: Index(2_048), own: u64::MAX, expected: 7 };
        set(directory.path(), Some(fence)).expect("it can be written");
        assert_eq!(found(), Some(fence));
        std::fs::write(directory.path().join(super::NAME), "?").expect("it can be written");
        assert!(found().is_some());
        set(directory.path(), None).expect("it can be removed");
        assert_eq!(found(), None);
    }
}
