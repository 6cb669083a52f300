//! What `lock` and `elect` do beside running a command: hooks, signals, the service manager,
//! process 1, terminals; and what still stops the command when its supervisors are stopped or
//! killed.

use std::cell::RefCell;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::exit::LOST;
use super::lock_scene::{ESCAPISTS, ESCAPISTS_FILES, Promise, Scene, Setup, lives};
use super::processes::descendants;
use crate::client::BootInstant;

const LOST_LINE: &str = r#"{"state":"lost","reason":"revoked"}"#;
/// Runs until the file `go` is there.
const UNTIL_GO: &str = r#"echo $$ > "$DIR/command"; while [ ! -e "$DIR/go" ]; do sleep 0.02; done"#;

fn process(pid: i32) -> Pid {
    Pid::from_raw(pid).unwrap()
}

#[tokio::test]
async fn hooks_run_before_and_after_the_command_and_know_what_is_held() {
    let told = r#"echo "$QUORUMD_EVENT $QUORUMD_TOKEN $QUORUMD_NAME" >> "$DIR/log""#;
    let mut scene = Setup::with(&["--on-elected", told, "--on-lost", told])
        .shell(r#"echo "command $QUORUMD_EVENT" >> "$DIR/log"; exit 3"#);
    assert_eq!(scene.code().await, 3);
    assert_eq!(scene.text("log"), "elected 7 l a\ncommand \nended 7 l a\n");
    assert!(scene.released());
}

#[tokio::test]
async fn a_first_hook_that_fails_keeps_the_command_from_being_run() {
    let hooks = ["--on-held", "exit 9", "--on-lost", r#"echo over > "$DIR/log""#];
    let mut scene = Setup::with(&hooks).shell(r#"echo ran > "$DIR/ran""#);
    assert_eq!(scene.code().await, 9);
    assert!(!scene.path("ran").exists() && scene.text("log") == "over\n" && scene.released());
}

#[tokio::test]
async fn a_loss_runs_the_last_hook_beside_the_stopping_and_ends_a_hook_that_hangs() {
    let hook = r#"trap "" TERM; echo "$QUORUMD_EVENT" > "$DIR/log"; echo $$ > "$DIR/hook"
        while :; do sleep 0.02; done"#;
    let mut scene = Setup::with(&["--on-lost", hook]).shell(UNTIL_GO);
    scene.pids(&["command"]).await;
    scene.stream.line(LOST_LINE);
    let told = Instant::now();
    assert_eq!(scene.code().await, i32::from(LOST));
    // Half of the daemon's margin, which is a sixteenth of 10 s; the rest is for a busy machine.
    assert!(told.elapsed() < Duration::from_millis(5_000), "{:?}", told.elapsed());
    assert_eq!(scene.text("log"), "lost\n");
    let hook: i32 = scene.text("hook").trim().parse().unwrap();
    assert!(!lives(hook));
}

#[tokio::test]
async fn hooks_alone_hold_until_interrupted() {
    let told = r#"echo "$QUORUMD_EVENT" >> "$DIR/log""#;
    let line = ["--on-elected", told, "--on-lost", told];
    let mut scene = Setup::with(&line).start(&[]);
    scene.until(|| scene.text("stderr").contains("is held, token 7")).await;
    assert!(!scene.released());
    scene.signal(Signal::TERM);
    assert_eq!(scene.code().await, 0);
    assert_eq!(scene.text("log"), "elected\nended\n");
    assert!(scene.released());
}

#[tokio::test]
async fn all_that_is_left_is_killed_after_the_time_that_was_named() {
    let mut scene = Setup::with(&["--kill-after", "200ms"]).shell(ESCAPISTS);
    let pids = scene.pids(&ESCAPISTS_FILES).await;
    scene.signal(Signal::TERM);
    let status = scene.code().await;
    assert!(status == 128 + 15 || status == 128 + 9, "{status}");
    assert!(pids.iter().all(|pid| !lives(*pid)) && scene.released());
}

#[tokio::test]
async fn a_risk_can_be_told_to_the_command() {
    let script = r#"trap 'echo > "$DIR/told"' USR1; "#.to_owned() + UNTIL_GO;
    let mut scene = Setup::with(&["--signal-at-risk", "USR1"]).shell(&script);
    scene.pids(&["command"]).await;
    scene.stream.line(
        r#"{"state":"at_risk","token":7,"lease":"a1","valid_for_ms":900,"reason":"no leader"}"#,
    );
    scene.until(|| scene.path("told").exists()).await;
    scene.touch("go");
    assert_eq!(scene.code().await, 0);
}

#[tokio::test]
async fn every_signal_of_the_list_is_passed_on_and_the_stop_key_is_not() {
    let script = r#"for s in HUP INT QUIT USR1 USR2 WINCH CONT; do
        trap "echo $s >> \"\$DIR/got\"" $s; done; "#
        .to_owned()
        + UNTIL_GO;
    let mut scene = Scene::shell(&script);
    scene.pids(&["command"]).await;
    scene.signal(Signal::TSTP);
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
        (Signal::CONT, "CONT"),
    ] {
        scene.signal(signal);
        scene.until(|| scene.text("got").lines().any(|line| line == name)).await;
    }
    assert!(!scene.text("got").contains("TSTP"));
    scene.touch("go");
    assert_eq!(scene.code().await, 0);
}

/// nohup(1) and shells without job control start programs with signals ignored; whoever did so
/// wants them to stay ignored.
#[tokio::test]
async fn a_signal_that_is_ignored_from_the_start_stays_ignored() {
    let script = r#"grep SigIgn /proc/$$/status > "$DIR/ignored"; "#.to_owned() + UNTIL_GO;
    let prefix = vec!["env", "--ignore-signal=HUP,INT"];
    let mut scene = Setup { prefix, ..Setup::default() }.shell(&script);
    scene.pids(&["command"]).await;
    let mask = scene.text("ignored");
    let mask = u64::from_str_radix(mask.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(mask & 0b11, 0b11, "HUP and INT: {mask:b}");
    scene.signal(Signal::HUP);
    scene.signal(Signal::INT);
    scene.signal(Signal::TERM);
    assert_eq!(scene.code().await, 128 + 15);
}

#[tokio::test]
async fn the_standard_input_is_the_commands() {
    let setup = Setup { input: b"from the start", ..Setup::default() };
    let mut scene = setup.shell(r#"cat > "$DIR/got""#);
    assert_eq!(scene.code().await, 0);
    assert_eq!(scene.text("got"), "from the start");
}

#[tokio::test]
async fn the_service_manager_is_told_and_the_command_is_not_told_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let heard = RefCell::new(String::new());
    let hears = |wanted: &str| {
        let mut buffer = [0; 4096];
        while let Ok(length) = manager.recv(&mut buffer) {
            *heard.borrow_mut() += &String::from_utf8_lossy(&buffer[..length]);
        }
        heard.borrow().contains(wanted)
    };
    let script = r#"echo "<$NOTIFY_SOCKET>" > "$DIR/socket"; "#.to_owned() + UNTIL_GO;
    let setup = Setup { environment: vec![("NOTIFY_SOCKET", path)], ..Setup::with(&["--notify"]) };
    let mut scene = setup.shell(&script);
    scene.until(|| hears("READY=1")).await;
    assert!(hears("STATUS=\"l a\": waiting, position 1"), "{heard:?}");
    assert!(hears("STATUS=\"l a\" is held, token 7"), "{heard:?}");
    scene.pids(&["command"]).await;
    assert_eq!(scene.text("socket"), "<>\n");
    scene.stream.line(LOST_LINE);
    scene.until(|| hears("STATUS=lost: revoked")).await;
    assert_eq!(scene.code().await, i32::from(LOST));
}

/// A supervisor that is stopped cannot stop anything, but its guard was told until when.
#[tokio::test]
async fn a_quorumctl_that_is_stopped_does_not_let_the_command_outlive_the_promise() {
    let setup = Setup { promise: Promise::Given(8_000, 3_000), ..Setup::default() };
    let mut scene = setup.shell(ESCAPISTS);
    let pids = scene.pids(&ESCAPISTS_FILES).await;
    scene.signal(Signal::STOP);
    let until = *scene.promised_until.lock().unwrap();
    scene.until(|| pids.iter().all(|pid| !lives(*pid))).await;
    let late = BootInstant::now().since(until + Duration::from_millis(8_000 / 16));
    assert!(late.is_zero(), "another may hold since {late:?}");
    assert!(!scene.released());
    *scene.promise.lock().unwrap() = Promise::Silence;
    scene.signal(Signal::CONT);
    assert_eq!(scene.code().await, i32::from(LOST));
}

#[tokio::test]
async fn a_guard_or_a_command_that_is_stopped_is_killed_all_the_same() {
    for stopped in ["guard", "command", "stubborn"] {
        let mut scene = Scene::shell(ESCAPISTS);
        let pids = scene.pids(&ESCAPISTS_FILES).await;
        let target = match stopped {
            "guard" => scene.guard(),
            name => process(scene.text(name).trim().parse().unwrap()),
        };
        kill_process(target, Signal::STOP).unwrap();
        scene.stream.line(LOST_LINE);
        assert_eq!(scene.code().await, i32::from(LOST), "{stopped}");
        assert!(pids.iter().all(|pid| !lives(*pid)), "{stopped}: of {pids:?} some live");
    }
}

/// What the command started may survive that: see the head of the module.
#[tokio::test]
async fn the_command_itself_dies_with_both_of_its_supervisors() {
    let mut scene = Scene::shell(UNTIL_GO);
    let pid = scene.pids(&["command"]).await[0];
    let guard = scene.guard();
    kill_process(guard, Signal::STOP).unwrap();
    scene.signal(Signal::STOP);
    scene.signal(Signal::KILL);
    kill_process(guard, Signal::KILL).unwrap();
    scene.status().await;
    scene.until(|| !lives(pid)).await;
}

/// Whether a new namespace of process ids can be had here: only as root, and not in every
/// container.
fn can_be_process_one() -> bool {
    let tried = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "true"])
        .stderr(Stdio::null())
        .status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        eprintln!("no namespace of process ids to be had: process 1 is not tested");
    }
    can
}

/// The process 1 of the namespace in a scene.
fn process_one(scene: &Scene) -> Pid {
    let is_one = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()));
        status.is_ok_and(|text| {
            let ids = text.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
            ids.ends_with("\t1")
        })
    };
    let found = descendants(scene.pid()).unwrap().into_iter().find(is_one);
    found.expect("process 1 is a descendant of unshare")
}

/// Leaves an orphan that no descendant of `one` has made, and waits until it has ended and been
/// reaped.
async fn leave_an_orphan(scene: &Scene, one: Pid) {
    let entered = std::process::Command::new("nsenter")
        .args(["--pid", "--target", &one.as_raw_pid().to_string(), "sh", "-c"])
        .arg("sleep 0.3 & exit 0")
        .status();
    assert!(entered.unwrap().success());
    // One that has ended and was not reaped has no command line any more, only a name.
    let parent = format!(" {} ", one.as_raw_pid());
    let orphans = || {
        let stats = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
        let of_one = |stat: &String| {
            let (name, rest) = stat.rsplit_once(')').unwrap();
            name.ends_with("(sleep") && rest[2..].starts_with(&parent)
        };
        stats.filter(of_one).count()
    };
    scene.until(|| orphans() == 1).await;
    scene.until(|| orphans() == 0).await;
}

/// The kernel shields process 1 from signals that it does not handle, and gives it all orphans.
#[tokio::test]
async fn as_process_one_it_hears_signals_and_reaps_orphans() {
    if !can_be_process_one() {
        return;
    }
    let prefix = vec!["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    // Orphans of the command, and one that never was a descendant of it.
    let script = r#"for i in 1 2 3; do (sh -c 'exit 0' &); done
        trap 'exit 5' TERM; echo $$ > "$DIR/command"
        while :; do ls -d /proc/[0-9]* > "$DIR/ls"
        for p in /proc/[0-9]*; do grep -s '^State:.Z' $p/status; done > "$DIR/zombies"
        sleep 0.05; done"#;
    let mut scene = Setup { prefix, ..Setup::default() }.shell(script);
    let inside = scene.pids(&["command"]).await[0];
    assert!(inside < 10, "the namespace is new: {inside}");
    let one = process_one(&scene);
    leave_an_orphan(&scene, one).await;
    scene.until(|| scene.text("zombies").is_empty()).await;
    kill_process(one, Signal::TERM).unwrap();
    assert_eq!(scene.code().await, 5);
    assert!(scene.released());
}

#[tokio::test]
async fn as_process_one_it_does_so_while_it_waits_too() {
    if !can_be_process_one() {
        return;
    }
    let prefix = vec!["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let held = r#"{"state":"waiting","position":2,"holders":[]}"#;
    let mut scene = Setup { prefix, held, ..Setup::default() }.shell("exit 1");
    scene.until(|| scene.text("stderr").contains("position 2")).await;
    let one = process_one(&scene);
    leave_an_orphan(&scene, one).await;
    kill_process(one, Signal::TERM).unwrap();
    assert_eq!(scene.code().await, 128 + 15);
}

/// The terminal's interrupt reaches the command once, and what is typed is the command's.
#[tokio::test]
async fn a_terminal_is_the_commands() {
    if !Path::new("/usr/bin/script").exists() {
        eprintln!("script(1) is not installed: terminals are not tested");
        return;
    }
    // Quotes the words of the command line for script(1), which wants one text, and types.
    let terminal = r#"for word; do printf "'%s' " "$word"; done > "$DIR/words"
        (echo typed; while [ ! -e "$DIR/command" ]; do sleep 0.02; done; printf '\003') |
        SHELL=/bin/sh script -qec "exec $(cat "$DIR/words")" /dev/null"#;
    let script = r#"trap "echo int >> $DIR/int" INT; [ -t 0 ] && read -r line
        echo "$line" > "$DIR/line"; "#
        .to_owned()
        + UNTIL_GO;
    let prefix = vec!["sh", "-c", terminal, "sh"];
    let mut scene = Setup { prefix, line: vec!["lock", "l"], ..Setup::default() }.shell(&script);
    scene.until(|| scene.text("int") == "int\n").await;
    assert_eq!(scene.text("line"), "typed\n");
    scene.touch("go");
    assert_eq!(scene.code().await, 0);
    assert_eq!(scene.text("int"), "int\n");
}
