//! `quorumctl elect --unit`: the unit runs on one host only, whoever dies. With a `systemctl` of
//! the test's own, whose units are files; `.ci/systemd` shows the same with the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Cluster, Process, quorumctl, wait_until};

/// A unit runs while its host's file is there. Stopping takes a moment.
const SYSTEMCTL: &str = r#"#!/bin/sh
case $1 in
start) touch "$UNITS/$HOST"; while [ -e "$UNITS/$HOST" ]; do sleep 0.02; done ;;
stop) echo "$HOST stopping" >>"$UNITS/said"; sleep 0.3; rm -f "$UNITS/$HOST" ;;
kill) echo "$HOST killed" >>"$UNITS/said"; rm -f "$UNITS/$HOST" ;;
show) case $* in
    *ActiveState*) if [ -e "$UNITS/$HOST" ]; then echo active; else echo inactive; fi ;;
    *) echo success ;;
    esac ;;
esac
"#;

struct Scene {
    cluster: Cluster,
    units: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::start();
        let units = cluster.directory.path().join("units");
        fs::create_dir(&units).unwrap();
        let program = cluster.directory.path().join("systemctl");
        fs::write(&program, SYSTEMCTL).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { cluster, units }
    }

    /// A command of `quorumctl` on a host, whose systemd is the test's.
    fn command(&self, host: usize) -> Command {
        let node = &self.cluster.nodes[host];
        let notes = node.home.join("notes");
        fs::create_dir_all(&notes).unwrap();
        let programs = self.cluster.directory.path().to_str().unwrap();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        let mut command = quorumctl(&node.socket);
        command.env("PATH", path).env("UNITS", &self.units).env("HOST", &node.name);
        command.env("RUNTIME_DIRECTORY", notes);
        command
    }

    fn elect(&self, host: usize, ttl: &str) -> Process {
        let options = ["elect", "e", "--unit", "u.service", "--pause", "1s", "--ttl", ttl];
        Process::spawn(self.command(host).args(options))
    }

    fn runs(&self, host: usize) -> bool {
        self.units.join(&self.cluster.nodes[host].name).exists()
    }

    /// Waits until it runs there, and sees that it never runs in both places.
    #[track_caller]
    fn until_runs(&self, host: usize, former: usize) {
        wait_until("the other host runs the unit", || {
            let (here, there) = (self.runs(host), self.runs(former));
            assert!(!(here && there), "both run it");
            here.then_some(())
        });
    }
}

#[test]
fn a_unit_is_stopped_before_its_lease_is_given_up_also_when_quorumctl_is_killed() {
    let scene = Scene::new();
    let mut first = scene.elect(0, "10s");
    wait_until("it runs", || scene.runs(0).then_some(()));
    let environment = scene.cluster.nodes[0].home.join("notes/environment");
    assert!(fs::read_to_string(environment).unwrap().starts_with("QUORUMD_TOKEN="));
    let mut second = scene.elect(1, "10s");

    first.0.kill().unwrap();
    first.0.wait().unwrap();
    // What systemd does then. That the second had a second for it shows that the lease is kept.
    let begun = Instant::now();
    wait_until("a while has passed", || {
        assert!(scene.runs(0) && !scene.runs(1), "nobody has stopped it yet");
        (begun.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let mut stop = Process::spawn(scene.command(0).arg("unit-stop"));
    scene.until_runs(1, 0);
    assert!(stop.until_ended().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "it was given up, and did not run out");
    let mut again = Process::spawn(scene.command(0).arg("unit-stop"));
    assert!(again.until_ended().success(), "there is nothing to do");

    // The unit fails: the other host is next, and after the pause this one campaigns again.
    let mut first = scene.elect(0, "10s");
    fs::remove_file(scene.units.join("n2")).unwrap();
    scene.until_runs(0, 1);
    crate::harness::signal(first.0.id(), Signal::TERM);
    scene.until_runs(1, 0);
    assert!(first.until_ended().success());
    crate::harness::signal(second.0.id(), Signal::TERM);
    assert!(second.until_ended().success());
    assert!(!scene.runs(1), "it was stopped");
}

#[test]
fn a_unit_is_stopped_in_time_when_the_daemon_hangs_and_survives_its_restart() {
    let mut scene = Scene::new();
    let _first = scene.elect(0, "5s");
    wait_until("it runs", || scene.runs(0).then_some(()));
    let _second = scene.elect(1, "5s");
    scene.cluster.nodes[0].kill();
    scene.cluster.run_again(0);
    let said = scene.units.join("said");
    assert!(scene.runs(0) && !said.exists(), "a daemon that comes back moves nothing");

    scene.cluster.nodes[0].signal(Signal::STOP);
    scene.until_runs(1, 0);
    assert_eq!(fs::read_to_string(&said).unwrap(), "n1 stopping\n", "asked once, never killed");
    scene.cluster.nodes[0].signal(Signal::CONT);
}
