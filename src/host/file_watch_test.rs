//! Which changes of the file system wake whoever watches files, and which do not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind};
use notify::{Event, EventKind};
use tokio::time::{Instant, timeout};

use crate::host::file_watch::{FileWatch, Interests};

/// Far less than the silence that counts as a change.
const DEADLINE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(3_600);

fn watch(paths: &[PathBuf]) -> FileWatch {
    FileWatch::with_silence(paths, LONG).expect("the system has watches left")
}

async fn wakes(watch: &mut FileWatch, what: &str) {
    let woken = timeout(DEADLINE, watch.changed()).await;
    assert!(woken.is_ok(), "{what} was not noticed");
}

fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("a file beside it");
    fs::rename(&new, path).expect("a rename in one directory");
}

#[tokio::test]
async fn a_file_is_noticed_when_it_appears_changes_is_replaced_closed_and_removed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("node.crt");
    let mut watch = watch(std::slice::from_ref(&path));
    fs::write(&path, "1").expect("a new file");
    wakes(&mut watch, "a new file").await;
    fs::write(&path, "2").expect("a write");
    wakes(&mut watch, "a write").await;
    replace(&path, "3");
    wakes(&mut watch, "a rename over it").await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("a chmod");
    wakes(&mut watch, "a chmod").await;
    fs::remove_file(&path).expect("a removal");
    wakes(&mut watch, "a removal").await;
}

#[tokio::test]
async fn a_directory_may_come_later_go_and_come_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let deep = directory.path().join("a/b");
    let path = deep.join("node.crt");
    let mut watch = watch(std::slice::from_ref(&path));
    for round in ["first", "second"] {
        fs::create_dir_all(&deep).expect("new directories");
        wakes(&mut watch, round).await;
        fs::write(&path, round).expect("a new file");
        wakes(&mut watch, round).await;
        fs::remove_dir_all(directory.path().join("a")).expect("a removal");
        wakes(&mut watch, round).await;
    }
    // Another directory under the same name.
    fs::create_dir_all(&deep).expect("new directories");
    wakes(&mut watch, "a directory").await;
    fs::create_dir(directory.path().join("other")).expect("a new directory");
    fs::rename(&deep, directory.path().join("away")).expect("a rename");
    fs::rename(directory.path().join("other"), &deep).expect("a rename");
    wakes(&mut watch, "a directory in the place of another").await;
    fs::write(&path, "x").expect("a new file");
    wakes(&mut watch, "a file in the new directory").await;
}

#[tokio::test]
async fn swapped_links_are_noticed_though_the_file_itself_is_not_touched() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    for version in ["..v1", "..v2"] {
        fs::create_dir(at(version)).expect("a new directory");
        fs::write(at(version).join("node.crt"), version).expect("a new file");
    }
    symlink("..v1", at("..data")).expect("a new link");
    symlink("..data/node.crt", at("node.crt")).expect("a new link");
    // One as Kubernetes mounts secrets, one through a link to a directory.
    let (direct, through) = (at("node.crt"), at("..data").join("node.crt"));
    for path in [direct, through] {
        let mut watch = watch(std::slice::from_ref(&path));
        for (to, from) in [("..v2", "..v1"), ("..v1", "..v2")] {
            symlink(to, at("..tmp")).expect("a new link");
            fs::rename(at("..tmp"), at("..data")).expect("a rename over the link");
            wakes(&mut watch, "a swapped link").await;
            assert_eq!(fs::read_to_string(&path).expect("it is there"), to);
            fs::write(at(to).join("node.crt"), to).expect("a write");
            wakes(&mut watch, "a write behind the link").await;
            fs::write(at(from).join("node.crt"), from).expect("a write");
        }
    }
    // A loop of links is nothing to wait for and no reason to fail.
    symlink("loop", at("loop")).expect("a new link");
    let mut watch = watch(&[at("loop")]);
    replace(&at("loop"), "a file");
    wakes(&mut watch, "a file in the place of a loop").await;
}

#[tokio::test]
async fn a_directory_stands_for_what_lies_in_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("publish");
    fs::create_dir(&path).expect("a new directory");
    let mut watch = watch(std::slice::from_ref(&path));
    fs::write(path.join("any name"), "1").expect("a new file");
    wakes(&mut watch, "a new file").await;
    fs::remove_file(path.join("any name")).expect("a removal");
    wakes(&mut watch, "a removal").await;
}

#[tokio::test]
async fn a_call_that_was_dropped_loses_nothing_and_silence_counts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("node.crt");
    let mut watch = watch(std::slice::from_ref(&path));
    fs::write(&path, "1").expect("a new file");
    let dropped = Instant::now();
    while dropped.elapsed() < Duration::from_millis(90) {
        let _ = timeout(Duration::from_millis(1), watch.changed()).await;
    }
    wakes(&mut watch, "a change during calls that were dropped").await;

    let silence = Duration::from_millis(50);
    let start = Instant::now();
    let mut watch = FileWatch::with_silence(&[path], silence).expect("there are watches left");
    wakes(&mut watch, "silence").await;
    assert!(start.elapsed() >= silence);
}

#[test]
fn a_reader_and_other_files_wake_nobody_and_a_full_queue_does() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().canonicalize().expect("it exists");
    fs::write(root.join("node.crt"), "1").expect("a new file");
    let interests = Interests::of(&[root.join("node.crt"), root.join("a/b")]);
    let about = |kind: EventKind, path: &Path| Event::new(kind).add_path(path.to_owned());
    let create = EventKind::Create(CreateKind::File);
    let concerned = [
        about(create, &root.join("node.crt")),
        about(create, &root.join("a")),
        about(EventKind::Modify(ModifyKind::Any), &root),
        about(EventKind::Access(AccessKind::Close(AccessMode::Write)), &root.join("node.crt")),
        Event::new(EventKind::Other).set_flag(Flag::Rescan),
        about(EventKind::Other, &root.join("any")).set_flag(Flag::Rescan),
        Event::new(EventKind::Other),
    ];
    for event in concerned {
        assert!(interests.concern(&event), "{event:?}");
    }
    let unconcerned = [
        about(create, &root.join("b")),
        about(EventKind::Modify(ModifyKind::Any), &root.join("node.log")),
        about(EventKind::Access(AccessKind::Open(AccessMode::Any)), &root.join("node.crt")),
        about(EventKind::Access(AccessKind::Close(AccessMode::Read)), &root.join("node.crt")),
    ];
    for event in unconcerned {
        assert!(!interests.concern(&event), "{event:?}");
    }
}
