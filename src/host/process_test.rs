//! Real processes, pinned in each of the ways there are.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use tokio::net::{UnixListener, UnixStream};

use super::identity::Mark;
use super::proc_files;
use crate::host::process::Found;
use crate::host::{Caller, Process, ProcessIdentity};

/// A process that ends with its test.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text_of(identity: &ProcessIdentity, mark: &str) -> ProcessIdentity {
    let text = identity.to_string();
    let (before, _) = text.rsplit_once('.').unwrap();
    format!("{before}.{mark}").parse().unwrap()
}

#[tokio::test]
async fn an_exit_is_seen_before_anyone_has_waited_for_the_process() {
    let mut sleeper = Sleeper::new();
    let process = Process::open(sleeper.pid()).unwrap();
    assert!(process.is_alive());
    sleeper.kill();
    process.exited().await.unwrap();
    assert!(!process.is_alive(), "a zombie lives no more");
    assert!(matches!(Process::find(process.identity(), None), Found::Ended));
    sleeper.0.wait().unwrap();
    assert!(!process.is_alive());
    assert!(matches!(Process::find(process.identity(), None), Found::Ended));
    assert!(Process::open(sleeper.pid()).is_err());
}

/// What is looked for is the process and not its number: with another mark under the same number
/// it is another process, and has ended.
#[test]
fn a_number_that_was_given_again_is_another_process() {
    let sleeper = Sleeper::new();
    let process = Process::open(sleeper.pid()).unwrap();
    let identity = process.identity();
    assert!(matches!(identity.mark(), Mark::Inode(_) | Mark::Start(_)), "{identity}");
    assert!(matches!(Process::find(identity, None), Found::Alive(found) if found == process));
    let other = text_of(identity, "i7");
    assert!(matches!(Process::find(&other, None), Found::Ended), "{other}");
    let unseen = text_of(identity, "-");
    assert!(matches!(Process::find(&unseen, None), Found::Unknown), "{unseen}");
}

#[test]
fn what_another_kernel_or_pid_namespace_saw_is_not_looked_for_by_number() {
    let sleeper = Sleeper::new();
    let process = Process::open(sleeper.pid()).unwrap();
    let text = process.identity().to_string();
    let parts: Vec<&str> = text.split('.').collect();
    let kernel = format!("b{:032x}.{}", 9, parts[1..].join(".")).parse().unwrap();
    assert!(matches!(Process::find(&kernel, None), Found::Ended), "the host was started anew");
    let elsewhere = format!("{}.1.{}", parts[0], parts[2..].join(".")).parse().unwrap();
    assert!(matches!(Process::find(&elsewhere, None), Found::Unknown));
    // A pidfd that was handed on tells, wherever the daemon is now.
    let kept = process.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(Process::find(&elsewhere, Some(kept)), Found::Alive(_)));
    let strange = Process::open(std::process::id()).unwrap();
    let strange = strange.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(Process::find(&elsewhere, Some(strange)), Found::Unknown));
}

/// Kernels before 6.9 have no inode for each pidfd: the instant of the start takes its place.
#[test]
fn the_start_is_a_mark_too() {
    let sleeper = Sleeper::new();
    let process = Process::open(sleeper.pid()).unwrap();
    let ticks = process.look(proc_files::start_ticks).unwrap();
    let mark = super::process::start_mark(process.as_fd(), process.pid());
    assert_eq!(mark, Mark::Start(ticks));
    assert_eq!(super::process::start_mark(process.as_fd(), 0), Mark::Unseen);
}

#[tokio::test]
async fn the_process_that_connected_is_pinned_in_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (client, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
    let (_client, (socket, _)) = (client.unwrap(), accepted.unwrap());
    let caller = Caller::of(&socket).unwrap();
    let process = caller.process.expect("this process lives");
    assert_eq!(process.pid(), std::process::id());
    assert!(process.is_alive());
    let again = Process::of_peer_by_pid(std::process::id(), caller.uid).unwrap();
    assert_eq!(*process, again);
    let foreign = Process::of_peer_by_pid(std::process::id(), caller.uid + 1);
    assert!(foreign.is_err(), "a process of another user cannot have connected");
}

/// A caller that has forked and exited: the connection is open, and nobody is on its other end any
/// more whom the kernel recorded.
#[tokio::test]
async fn a_process_that_connected_and_exited_is_dead_though_its_child_keeps_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let program = "import os, socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n\
        if os.fork(): os._exit(0)\n\
        sys.stdin.read()";
    let mut parent = Command::new("python3")
        .args(["-c", program])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _keeps_the_child = parent.stdin.take();
    let (socket, _) = listener.accept().await.unwrap();
    let pid = parent.id();
    parent.wait().unwrap();
    let alive = Caller::of(&socket).unwrap().process.is_some_and(|process| process.is_alive());
    assert!(!alive, "{pid} has exited");
    assert!(Process::of_peer_by_pid(pid, 0).is_err(), "{pid} was reaped");
}
