//! What is in a directory that keys follow: which files can be published, and what they hold.
//!
//! What is in the directory is not trusted: no link in it is followed, nothing but plain files is
//! opened, and a name becomes part of a key only when it has nothing special in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use ring::digest::{SHA256, digest};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, statat,
};
use rustix::io::Errno;

use crate::base::limits;

use super::publish_rule::Hash;

/// How many that are not published are named.
const SKIPPED_NAMED_MAX: usize = 20;

/// What tells one content of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

/// An open directory and what was in it.
#[derive(Debug)]
pub(super) struct PublishedDirectory {
    directory: OwnedFd,
    /// Which directory it is, whatever its name.
    pub(super) identity: (u64, u64),
    /// Files that can be published.
    pub(super) files: BTreeMap<String, Stamp>,
    /// Names of things that are there and cannot be published: their keys are left alone.
    pub(super) present: BTreeSet<String>,
    /// What is not published, and why.
    pub(super) skipped: Skipped,
}

/// What is not published, and why: the first of them by name, and their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) named: Vec<String>,
    pub(super) count: u64,
}

impl Skipped {
    pub(super) fn add(&mut self, name: &str, why: &str) {
        self.count += 1;
        if self.named.len() < SKIPPED_NAMED_MAX {
            let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
            self.named.push(format!("{name}: {why}"));
        }
    }
}

impl PublishedDirectory {
    /// Opens a directory and lists it; an error means that nothing is known of its files.
    pub(super) fn list(path: &Path, file_bytes_max: usize) -> Result<Self, String> {
        let failed = |error: Errno| format!("{} cannot be read: {error}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&directory).map_err(failed)?;
        let mut listed = Self {
            directory,
            identity: (stat.st_dev, stat.st_ino),
            files: BTreeMap::new(),
            present: BTreeSet::new(),
            skipped: Skipped::default(),
        };
        for entry in Dir::read_from(&listed.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            // Nobody's: the directory itself, hidden and half-written files, backups of editors.
            if name.starts_with(b".") || name.ends_with(b"~") {
                continue;
            }
            match publishable_name(name) {
                Some(name) => listed.add(name, file_bytes_max).map_err(failed)?,
                None => {
                    let most = limits::PUBLISHED_NAME_BYTES_MAX;
                    let why = format!(
                        "a name of 1 to {most} letters, digits, \".\", \"_\" and \"-\" is needed"
                    );
                    listed.skipped.add(&String::from_utf8_lossy(name), &why);
                }
            }
            if listed.files.len() > limits::PUBLISHED_FILES_MAX {
                let most = limits::PUBLISHED_FILES_MAX;
                return Err(format!("{} has more than {most} files", path.display()));
            }
        }
        Ok(listed)
    }

    fn add(&mut self, name: &str, file_bytes_max: usize) -> Result<(), Errno> {
        let stat = match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let why = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if fits(&stat, file_bytes_max) => {
                self.files.insert(name.to_owned(), Stamp::of(&stat));
                return Ok(());
            }
            FileType::RegularFile => format!("longer than {file_bytes_max} bytes"),
            FileType::Symlink => "a symbolic link, which is not followed".to_owned(),
            FileType::Directory => "a directory".to_owned(),
            _ => "not a plain file".to_owned(),
        };
        self.present.insert(name.to_owned());
        self.skipped.add(name, &why);
        Ok(())
    }

    /// The content of a file, if it is still as it was listed.
    pub(super) fn read(&self, name: &str, stamp: Stamp) -> Result<Option<Vec<u8>>, String> {
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&self.directory, name, flags, Mode::empty(), beneath) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let unchanged = |file: &OwnedFd| -> Result<bool, String> {
            fstat(file).map(|stat| Stamp::of(&stat) == stamp).map_err(|it| failed(it.into()))
        };
        if !unchanged(&file)? {
            return Ok(None);
        }
        let mut content = Vec::new();
        let size = u64::try_from(stamp.size).unwrap_or(0);
        let reader = File::from(file.try_clone().map_err(failed)?);
        reader.take(size + 1).read_to_end(&mut content).map_err(failed)?;
        let whole = content.len() as u64 == size && unchanged(&file)?;
        Ok(whole.then_some(content))
    }
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The hash of a content.
pub(super) fn hash(content: &[u8]) -> Hash {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fits(stat: &Stat, most: usize) -> bool {
    usize::try_from(stat.st_size).is_ok_and(|size| size <= most)
}

/// A name that is safe in a key, in a log line and in a URL.
fn publishable_name(name: &[u8]) -> Option<&str> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let sound = name.len() <= limits::PUBLISHED_NAME_BYTES_MAX && name.iter().all(good);
    std::str::from_utf8(name).ok().filter(|name| sound && !matches!(*name, "" | "." | ".."))
}
