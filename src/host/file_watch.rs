//! When to look at files again: after a change in their directories, and after a silence.
//!
//! It says that something may have changed and never what: whoever is woken reads everything anew
//! and compares. What is told is never complete: inotify has a bounded queue (inotify(7)), some
//! file systems tell nothing, and a directory far above may be moved away. Hence the silence.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long it must be quiet after a change before it is told: files come in groups.
const QUIET: Duration = Duration::from_millis(100);
/// How long a change may wait for quiet.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Silence that counts as a change.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Most symbolic links in one path, as the kernel has it (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// How often the watched directories may change while they are being watched.
const ARM_ATTEMPTS_MAX: usize = 5;

/// Watches files and directories by their paths, whether or not they exist.
///
/// - Every directory that can be seen to decide what a path means is watched: the one that holds
///   it, each that holds a symbolic link on the way to it, and when something on the way is
///   missing, the one in which it would appear. So renames over a file and swapped links are seen.
/// - What is watched is looked up again before a change is told: a reader that reads after
///   [`FileWatch::changed`] misses nothing.
pub struct FileWatch {
    paths: Vec<PathBuf>,
    shared: Arc<Shared>,
    /// None when the system would not give another one: the silence remains.
    watcher: Option<RecommendedWatcher>,
    armed: BTreeMap<PathBuf, FileId>,
    /// When the first and the last event came that have not been told.
    untold: Option<(Instant, Instant)>,
    silent_until: Instant,
    silence_max: Duration,
}

/// What the thread of the watcher and the waiting task share.
#[derive(Default)]
struct Shared {
    /// Holds a permit when something happened since the task last looked.
    signal: Notify,
    /// A watched directory itself was moved or removed, and its watch with it. Its path may mean a
    /// new directory already, perhaps with the inode of the old one.
    stale: AtomicBool,
    interests: Mutex<Interests>,
}

/// Device and inode: a path may come to mean another directory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

/// Which names matter, by directory (free of symbolic links).
#[derive(Default)]
pub(super) struct Interests {
    by_directory: BTreeMap<PathBuf, Names>,
}

#[derive(Default)]
struct Names {
    /// The directory is itself one of the paths.
    all: bool,
    some: BTreeSet<OsString>,
}

impl FileWatch {
    /// Starts to watch; needs a running tokio runtime. A path that is a directory stands for what
    /// lies directly in it. Relative paths are taken from the current directory.
    ///
    /// Fails when the system gives no more watches (`fs.inotify.max_user_instances` and
    /// `max_user_watches`), or when the current directory is gone.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        Self::with_silence(paths, SILENCE_MAX)
    }

    /// The same with another length of the silence that counts as a change.
    pub(super) fn with_silence(paths: &[PathBuf], silence_max: Duration) -> io::Result<Self> {
        let mut watch = Self {
            paths: paths.iter().map(std::path::absolute).collect::<io::Result<_>>()?,
            shared: Arc::default(),
            watcher: None,
            armed: BTreeMap::new(),
            untold: None,
            silent_until: Instant::now() + silence_max,
            silence_max,
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits until something may have changed since the last return, or since the start.
    ///
    /// May be dropped at any await: what happened meanwhile is told by the next call.
    pub async fn changed(&mut self) {
        loop {
            let until = match self.untold {
                Some((first, last)) => (last + QUIET).min(first + QUIET_MAX),
                None => self.silent_until,
            };
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                () = self.shared.signal.notified() => {
                    let now = Instant::now();
                    self.untold = Some((self.untold.map_or(now, |(first, _)| first), now));
                }
            }
        }
        if let Err(error) = self.arm() {
            tracing::warn!(%error, "files cannot be watched; they are looked at once a minute");
        }
        self.untold = None;
        self.silent_until = Instant::now() + self.silence_max;
    }

    /// Watches what now has to be watched. Each round looks after it has armed: a directory that
    /// appears while it is armed is seen by the next round, or tells of it by an event.
    fn arm(&mut self) -> io::Result<()> {
        for _ in 0..ARM_ATTEMPTS_MAX {
            let interests = Interests::of(&self.paths);
            let wanted = interests.directories();
            *lock(&self.shared.interests) = interests;
            let stale = self.shared.stale.swap(false, Ordering::AcqRel);
            if self.watcher.is_some() && wanted == self.armed && !stale {
                return Ok(());
            }
            // A new one, because a path may mean another directory than when it was first watched.
            // The old one goes only when the new one listens.
            match self.watch(&wanted) {
                Ok(watcher) => (self.watcher, self.armed) = (Some(watcher), wanted),
                Err(error) => {
                    self.watcher = None;
                    return Err(error);
                }
            }
        }
        // It changes faster than it can be watched: somebody is at work, look again soon.
        self.shared.signal.notify_one();
        Ok(())
    }

    fn watch(&self, directories: &BTreeMap<PathBuf, FileId>) -> io::Result<RecommendedWatcher> {
        let shared = Arc::clone(&self.shared);
        let told = move |event| shared.told(event);
        let mut watcher = notify::recommended_watcher(told).map_err(into_io)?;
        for directory in directories.keys() {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                // Gone again: the next round finds out.
                Err(notify::Error { kind: notify::ErrorKind::PathNotFound, .. }) => {}
                Err(error) => match into_io(error) {
                    gone if gone.kind() == io::ErrorKind::NotFound => {}
                    // A directory that may be passed through and not read: the silence remains.
                    closed if closed.kind() == io::ErrorKind::PermissionDenied => {}
                    error => return Err(error),
                },
                Ok(()) => {}
            }
        }
        Ok(watcher)
    }
}

impl Shared {
    /// Called by the watcher's thread for each event. An error means that something was missed.
    fn told(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.signal.notify_one() };
        let interests = lock(&self.interests);
        if interests.concern(&event) {
            if interests.lose(&event) {
                self.stale.store(true, Ordering::Release);
            }
            drop(interests);
            self.signal.notify_one();
        }
    }
}

impl Interests {
    /// What decides the meaning of `paths` at this moment.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut interests = Self::default();
        for path in paths {
            interests.follow(path);
        }
        interests
    }

    /// Walks along an absolute path as the kernel does.
    fn follow(&mut self, path: &Path) {
        let mut here = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = names(path).collect();
        let mut links_left = LINKS_MAX;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let kind = fs::symlink_metadata(&next).map(|metadata| metadata.file_type());
            let is_link = kind.as_ref().is_ok_and(fs::FileType::is_symlink);
            if is_link || kind.is_err() || ahead.is_empty() {
                self.by_directory.entry(here.clone()).or_default().some.insert(name);
            }
            if is_link {
                let Ok(target) = fs::read_link(&next) else { return };
                if links_left == 0 {
                    return;
                }
                links_left -= 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    ahead.push_front(name);
                }
                continue;
            }
            match kind {
                Ok(kind) if kind.is_dir() => here = next,
                // A file, or nothing at all.
                _ => return,
            }
        }
        self.by_directory.entry(here).or_default().all = true;
    }

    fn directories(&self) -> BTreeMap<PathBuf, FileId> {
        let with_id = |directory: &PathBuf| {
            let metadata = fs::metadata(directory).ok()?;
            Some((directory.clone(), FileId(metadata.dev(), metadata.ino())))
        };
        self.by_directory.keys().filter_map(with_id).collect()
    }

    /// Whether the event is about a watched directory itself.
    fn lose(&self, event: &Event) -> bool {
        event.paths.iter().any(|path| self.by_directory.contains_key(path))
    }

    /// Whether a reader has to look again. One who reads causes events himself: these do not count.
    pub(super) fn concern(&self, event: &Event) -> bool {
        // The kernel's queue was full: such an event has no path.
        if event.need_rescan() || event.paths.is_empty() {
            return true;
        }
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && event.kind != written {
            return false;
        }
        event.paths.iter().any(|path| self.concern_path(path))
    }

    fn concern_path(&self, path: &Path) -> bool {
        if self.by_directory.contains_key(path) {
            return true;
        }
        let names = path.parent().and_then(|directory| self.by_directory.get(directory));
        let name = path.file_name().unwrap_or(OsStr::new(""));
        names.is_some_and(|names| names.all || names.some.contains(name))
    }
}

/// The parts of a path that name something, `..` included.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    })
}

fn into_io(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::MaxFilesWatch => io::Error::other(
            "no more files may be watched on this host; raise fs.inotify.max_user_watches",
        ),
        _ => io::Error::other(error),
    }
}

/// What is locked is replaced as a whole, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
