//! How a file is looked at and replaced: never through a link, never half, never outside of its
//! directory.
//!
//! Whatever is done is done below descriptors: each directory on the way is opened from the one
//! before by its plain name, without following links (openat2(2)), and what is then created,
//! renamed and removed is named relative to the last of them. A directory that is exchanged for a
//! link meanwhile is either not entered or not left. What is written is not decided here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat,
    fsync, open, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::base::limits;

use super::ownership::Ownership;

/// What stands between a file's name and the random part of the name of its next content.
const STAGED_MARK: &str = ".quorumd-";
/// Hexadecimal digits of the random part.
const STAGED_DIGITS: usize = 16;

/// Why a file was not looked at or not replaced. What was there before is there still.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The system refused.
    #[error("{doing} {}: {source}", .path.display())]
    System {
        /// What was tried: "cannot write".
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It would not be safe, or makes no sense.
    #[error("{0}")]
    Refused(String),
}

/// The place of a file: the open directory, and the name in it.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    path: PathBuf,
    name: String,
}

/// What is at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) content: Vec<u8>,
    pub(super) ownership: Ownership,
}

/// New content beside the old, complete and durable. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    place: Arc<Place>,
    file: OwnedFd,
    name: String,
    replaced: bool,
}

/// No component may be a link of any kind, and none may lead upwards.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Place {
    /// Opens the directories down to the file at `beneath` under `root`, and judges each: nobody
    /// but root, the daemon and the file's own user and group may be able to change what is in it.
    /// `root` itself is the operator's word, links on the way to it included.
    pub(super) fn open(root: &Path, beneath: &Path, owner: &Ownership) -> Result<Self, FileError> {
        let path = root.join(beneath);
        let named = beneath.file_name().and_then(|name| name.to_str());
        let Some(name) = named.map(str::to_owned) else {
            return Err(FileError::Refused(format!("{} is no name of a file", path.display())));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let system = |path: &Path, error: Errno| system("cannot open", path, error);
        let mut directory = open(root, flags, Mode::empty()).map_err(|e| system(root, e))?;
        let mut at = root.to_owned();
        judge(&directory, &at, owner)?;
        for part in beneath.parent().unwrap_or(Path::new("")).components() {
            let part = part.as_os_str();
            at.push(part);
            directory = openat2(&directory, part, flags | OFlags::NOFOLLOW, Mode::empty(), BENEATH)
                .map_err(|error| match error {
                    Errno::LOOP | Errno::XDEV | Errno::NOTDIR => FileError::Refused(format!(
                        "{} is no directory, or a link to one: links are not followed",
                        at.display()
                    )),
                    error => system(&at, error),
                })?;
            judge(&directory, &at, owner)?;
        }
        Ok(Self { directory, path, name })
    }

    /// The file as it is; nothing when there is none. Whatever is not a plain file is refused.
    pub(super) fn found(&self) -> Result<Option<Found>, FileError> {
        if !self.is_there()? {
            return Ok(None);
        }
        // A device that takes this place now is opened without waiting, and not read.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat2(&self.directory, &self.name, flags, Mode::empty(), BENEATH)
            .map_err(|error| system("cannot open", &self.path, error))?;
        let stat = fstat(&file).map_err(|error| system("cannot look at", &self.path, error))?;
        self.judge_file(&stat)?;
        let mut content = Vec::new();
        // One byte more than was ever written here: more is different, and need not be known.
        File::from(file)
            .take(limits::RENDERED_BYTES_MAX as u64 + 1)
            .read_to_end(&mut content)
            .map_err(|source| self.failed("cannot read", source))?;
        Ok(Some(Found { content, ownership: ownership(&stat) }))
    }

    /// Writes new content beside the old one, with its owner and mode, and syncs it.
    pub(super) fn stage(
        self: &Arc<Self>,
        content: &[u8],
        wanted: &Ownership,
    ) -> Result<Staged, FileError> {
        self.is_there()?;
        let name = format!(".{}{STAGED_MARK}{}", self.name, random_digits()?);
        let path = self.path.with_file_name(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat2(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR, BENEATH)
            .map_err(|error| system("cannot make", &path, error))?;
        let mut staged = Staged { place: Arc::clone(self), file, name, replaced: false };
        staged.fill(content, wanted)?;
        Ok(staged)
    }

    /// Removes the file; whatever is not a plain file is refused.
    pub(super) fn remove(&self) -> Result<(), FileError> {
        if self.is_there()? {
            unlinkat(&self.directory, &self.name, AtFlags::empty())
                .map_err(|error| system("cannot remove", &self.path, error))?;
            self.sync()?;
        }
        Ok(())
    }

    /// Removes what a daemon that was killed had staged for this file.
    pub(super) fn sweep(&self) -> Result<(), FileError> {
        let failed = |error| system("cannot list", self.path.parent().unwrap_or(&self.path), error);
        let begin = format!(".{}{STAGED_MARK}", self.name);
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let digits = name.strip_prefix(&begin);
            let ours = digits.is_some_and(|digits| {
                digits.len() == STAGED_DIGITS && digits.bytes().all(|it| it.is_ascii_hexdigit())
            });
            if ours {
                match unlinkat(&self.directory, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(error) => return Err(system("cannot remove", &self.path, error)),
                }
            }
        }
        Ok(())
    }

    fn is_there(&self) -> Result<bool, FileError> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.judge_file(&stat).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(system("cannot look at", &self.path, error)),
        }
    }

    fn judge_file(&self, stat: &Stat) -> Result<(), FileError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return Ok(()),
            FileType::Symlink => "a symbolic link",
            FileType::Directory => "a directory",
            FileType::Fifo => "a pipe",
            FileType::Socket => "a socket",
            FileType::BlockDevice | FileType::CharacterDevice => "a device",
            FileType::Unknown => "of a kind that is not known",
        };
        Err(FileError::Refused(format!(
            "{} is {kind}: only a plain file is ever replaced",
            self.path.display()
        )))
    }

    fn sync(&self) -> Result<(), FileError> {
        fsync(&self.directory)
            .map_err(|error| system("cannot sync the directory of", &self.path, error))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> FileError {
        FileError::System { doing, path: self.path.clone(), source }
    }
}

impl Staged {
    /// Where the new content is.
    pub(super) fn path(&self) -> PathBuf {
        self.place.path.with_file_name(&self.name)
    }

    /// Lets the new content take the place of the old one; durable when it returns.
    pub(super) fn replace(mut self) -> Result<(), FileError> {
        let Place { directory, path, name } = &*self.place;
        self.place.is_there()?;
        renameat(directory, &self.name, directory, name)
            .map_err(|error| system("cannot replace", path, error))?;
        self.replaced = true;
        // Whoever may write here besides us could have exchanged it for a moment.
        let look = |error| system("cannot look at", path, error);
        let ours = fstat(&self.file).map_err(look)?;
        let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(look)?;
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino) {
            return Err(FileError::Refused(format!(
                "{} was exchanged by somebody else while it was written",
                path.display()
            )));
        }
        self.place.sync()
    }

    fn fill(&mut self, content: &[u8], wanted: &Ownership) -> Result<(), FileError> {
        let path = self.path();
        let failed = |doing, error: Errno| system(doing, &path, error);
        let copy =
            self.file.try_clone().map_err(|source| self.place.failed("cannot open", source))?;
        let mut writer = File::from(copy);
        writer.write_all(content).map_err(|source| FileError::System {
            doing: "cannot write",
            path: path.clone(),
            source,
        })?;
        let stat = fstat(&self.file).map_err(|error| failed("cannot look at", error))?;
        let other = |wanted: u32, has: u32| (wanted != has).then_some(wanted);
        let uid = other(wanted.uid, stat.st_uid).map(Uid::from_raw);
        let gid = other(wanted.gid, stat.st_gid).map(Gid::from_raw);
        if uid.is_some() || gid.is_some() {
            fchown(&self.file, uid, gid)
                .map_err(|error| failed("cannot set the owner of", error))?;
        }
        // After the owner: a change of owner may take bits away (chown(2)).
        fchmod(&self.file, Mode::from_raw_mode(wanted.mode))
            .map_err(|error| failed("cannot set the mode of", error))?;
        fsync(&self.file).map_err(|error| failed("cannot sync", error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.replaced {
            // What stays behind is removed at the next start.
            let _ = unlinkat(&self.place.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Refuses a directory in which somebody could exchange files who may not write ours.
fn judge(directory: impl AsFd, path: &Path, owner: &Ownership) -> Result<(), FileError> {
    let stat = fstat(directory).map_err(|error| system("cannot look at", path, error))?;
    let refused = |why: &str| Err(FileError::Refused(format!("{} {why}", path.display())));
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if stat.st_mode & 0o002 != 0 {
        return refused("may be written by every user: no file is kept in it");
    }
    if ![0, own.0, owner.uid].contains(&stat.st_uid) {
        return refused("belongs neither to root nor to the user of the file");
    }
    if stat.st_mode & 0o020 != 0 && ![0, own.1, owner.gid].contains(&stat.st_gid) {
        return refused("may be written by a group that is not that of the file");
    }
    Ok(())
}

fn ownership(stat: &Stat) -> Ownership {
    Ownership { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
}

fn system(doing: &'static str, path: &Path, error: Errno) -> FileError {
    FileError::System { doing, path: path.to_owned(), source: error.into() }
}

/// Sixteen digits that nobody can know before.
pub(super) fn random_digits() -> Result<String, FileError> {
    let mut bytes = [0; STAGED_DIGITS / 2];
    let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match count {
        Ok(count) if count == bytes.len() => Ok(bytes.map(|byte| format!("{byte:02x}")).concat()),
        _ => Err(FileError::Refused("the system gives no random numbers".to_owned())),
    }
}
