//! Leases that are bound to processes: they end with their process, however it ends, and with
//! nothing else, not even with the daemon.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, Process, signal, test_directory, wait_for, wait_until};
use crate::http::{Answer, Stream, get, post, put, try_ask};

const LOCK: &str = "POST /v1/locks/l";

fn sleeper() -> Process {
    Process::spawn(Command::new("sleep").arg("600"))
}

/// Takes a lock for a process, under a lease that would outlive the test.
#[track_caller]
fn lock_for(socket: &Path, name: &str, pid: u32) -> Value {
    let body = format!(r#"{{"bind":"process","pid":{pid},"ttl":"60s","wait":"0s"}}"#);
    post(socket, &format!("/v1/locks/{name}"), &body).expect(200).json()
}

fn holder_of(socket: &Path, name: &str) -> Option<u64> {
    get(socket, &format!("/v1/locks/{name}")).json()["holders"][0]["pid"].as_u64()
}

/// A waiter on another node, which is told when the lock is free.
fn waiter(cluster: &Cluster, node: usize) -> Stream {
    let waiter = Stream::open(cluster.socket(node), LOCK, &[], b"{}");
    waiter.until("state", "waiting");
    waiter
}

/// A Python program that speaks to the daemon at `socket`, its first argument, by `ask(body)`: it
/// gives back the status and the text of the answer.
fn python(program: &str, socket: &Path) -> Vec<String> {
    let prelude = "import os, socket, sys\n\
        def connect():\n\
        \x20   s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); return s\n\
        def ask(body, s=None):\n\
        \x20   s = s or connect()\n\
        \x20   s.sendall(('POST /v1/locks/l HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n'\n\
        \x20       'Content-Length: %d\\r\\n\\r\\n%s' % (len(body), body)).encode())\n\
        \x20   text = b''.join(iter(lambda: s.recv(65536), b'')).decode()\n\
        \x20   return text.split(' ')[1] + ' ' + text.split('\\r\\n\\r\\n', 1)[1].strip()\n\
        def say(text):\n\
        \x20   print(text, flush=True)\n";
    let program = format!("{prelude}{program}");
    vec!["python3".to_owned(), "-c".to_owned(), program, socket.display().to_string()]
}

/// A started program whose lines can be read and that goes on when it is told so.
struct Program {
    process: Process,
    lines: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(arguments: &[String]) -> Self {
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let lines = BufReader::new(process.0.stdout.take().unwrap());
        Self { process, lines }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn go_on(&mut self) {
        self.process.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

/// However the process ends, the next one is told on another node, long before the time of the
/// lease is up.
#[test]
fn the_next_is_told_the_moment_that_the_process_exits() {
    let cluster = Cluster::start();
    let endings = [
        ("it is killed", Signal::KILL),
        ("it is asked to stop", Signal::TERM),
        ("it aborts", Signal::ABORT),
    ];
    for (node, (how, sent)) in endings.into_iter().enumerate() {
        let holder = sleeper();
        let held = lock_for(cluster.socket(node), "l", holder.0.id());
        let view =
            get(cluster.socket(node), &format!("/v1/leases/{}", held["lease"].as_str().unwrap()));
        let view = view.expect(200).json();
        assert_eq!(view["bind"], "process");
        assert_eq!(view["pid"], holder.0.id());
        assert_eq!(view["uid"], rustix::process::getuid().as_raw());
        assert!(held["valid_for_ms"].as_u64().unwrap() > 50_000, "{held}");
        let next = waiter(&cluster, (node + 1) % 3);
        let ended = Instant::now();
        signal(holder.0.id(), sent);
        let (at, told) = next.until("state", "held");
        eprintln!("{how}: the next was told after {:?}", at - ended);
        assert!(at - ended < Duration::from_secs(10), "{how}: that was the time of the lease");
        assert!(told["token"].as_u64() > held["token"].as_u64());
        drop(next);
        let free = || holder_of(cluster.socket((node + 1) % 3), "l").is_none().then_some(());
        wait_until("the lock is free", free);
    }
    cluster.until_equal();
}

/// A process that is stopped has not ended, and one that runs another program is the same.
#[test]
fn a_stopped_process_and_one_that_runs_another_program_hold_on() {
    let cluster = Cluster::start();
    let mut holder = Program::start(&python(
        "say(ask('{\"bind\":\"process\",\"ttl\":\"1s\"}'))\nsys.stdin.readline()\n\
         os.execvp('sleep', ['sleep', '600'])",
        cluster.socket(0),
    ));
    let said = holder.line();
    assert!(said.starts_with("200 "), "{said}");
    let pid = holder.process.0.id();
    holder.go_on();
    wait_until("it runs another program", || {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name == "sleep\n").then_some(())
    });
    signal(pid, Signal::STOP);
    wait_for(Duration::from_secs(3), "three times the time of its lease passes");
    assert_eq!(holder_of(cluster.socket(1), "l"), Some(u64::from(pid)));
    // Killed while it is stopped: it never runs again, and that is enough.
    let next = waiter(&cluster, 1);
    holder.process.0.kill().unwrap();
    next.until("state", "held");
}

/// A lock for a process is one answer: when it holds, or when the wait is over.
#[test]
fn waiting_for_a_process_ends_with_an_answer_with_its_connection_or_with_the_process() {
    let cluster = Cluster::start();
    let (holder, other) = (sleeper(), sleeper());
    lock_for(cluster.socket(0), "l", holder.0.id());
    let body =
        |pid: u32, wait: &str| format!(r#"{{"bind":"process","pid":{pid},"wait":"{wait}"}}"#);
    let waited = post(cluster.socket(1), "/v1/locks/l", &body(other.0.id(), "200ms")).expect(409);
    assert_eq!(waited.code(), "lock_held");
    assert_eq!(waited.json()["holders"][0]["pid"], holder.0.id());
    let queue =
        || get(cluster.socket(1), "/v1/locks/l").json()["waiters"].as_array().unwrap().len();
    assert_eq!(queue(), 0, "who was refused does not wait");
    let ask = |pid: u32, wait: &str| {
        let (socket, body) = (cluster.socket(1).to_owned(), body(pid, wait));
        std::thread::spawn(move || post(&socket, "/v1/locks/l", &body))
    };
    // The process that would hold ends.
    let mut dying = sleeper();
    let asked = ask(dying.0.id(), "60s");
    wait_until("it waits", || (queue() == 1).then_some(()));
    dying.0.kill().unwrap();
    assert_eq!(asked.join().unwrap().status, 400);
    wait_until("its place is gone", || (queue() == 0).then_some(()));
    // The one before it ends: from then on the lease follows the process.
    let asked = ask(other.0.id(), "60s");
    wait_until("it waits", || (queue() == 1).then_some(()));
    drop(holder);
    let held: Answer = asked.join().unwrap().expect(200);
    assert_eq!(holder_of(cluster.socket(2), "l"), Some(u64::from(other.0.id())));
    assert!(held.json()["valid_for_ms"].as_u64() > Some(0));
    drop(other);
    wait_until("it is free", || holder_of(cluster.socket(2), "l").is_none().then_some(()));
    // An election the same way.
    let leader = sleeper();
    let body = format!(r#"{{"bind":"process","pid":{},"value":"x"}}"#, leader.0.id());
    post(cluster.socket(0), "/v1/elections/e", &body).expect(200);
    let view = get(cluster.socket(1), "/v1/elections/e").json();
    assert_eq!(
        (&view["leader"]["pid"], &view["leader"]["value"]),
        (&leader.0.id().into(), &"x".into())
    );
}

/// The daemon is stopped, or killed, and started again: who lives holds on under the same lease,
/// who has died meanwhile holds no more, long before its time is up. A place that waited is gone
/// with the connection on which it would have been told.
#[test]
fn a_restart_of_the_daemon_loses_no_lease_and_ends_those_of_the_dead() {
    let mut cluster = Cluster::start();
    for (node, kill) in [(0, false), (1, true), (cluster.leader(), true)] {
        let (living, mut dying, other) = (sleeper(), sleeper(), sleeper());
        let held = lock_for(cluster.socket(node), "living", living.0.id());
        lock_for(cluster.socket(node), "l", dying.0.id());
        let elsewhere = cluster.others(node);
        let socket = cluster.socket(node).to_owned();
        let waits = std::thread::spawn(move || {
            let body = format!(r#"{{"bind":"process","pid":{}}}"#, other.0.id());
            let _ = try_ask(&socket, "POST /v1/locks/living", &[], body.as_bytes());
            other
        });
        let view = || get(cluster.socket(elsewhere[0]), "/v1/locks/living").json();
        wait_until("another waits", || (view()["waiters"][0].is_object()).then_some(()));
        let next = waiter(&cluster, elsewhere[0]);
        match kill {
            true => cluster.nodes[node].kill(),
            false => assert_eq!(cluster.nodes[node].stop().code(), Some(0)),
        }
        dying.0.kill().unwrap();
        dying.0.wait().unwrap();
        cluster.run_again(node);
        let back = Instant::now();
        let (at, _) = next.until("state", "held");
        eprintln!("held {:?} after the daemon was back", at.saturating_duration_since(back));
        let lease = held["lease"].as_str().unwrap();
        let adopted = wait_until("the living one is promised something again", || {
            let view = get(cluster.socket(node), &format!("/v1/leases/{lease}")).expect(200).json();
            view["valid_for_ms"].is_u64().then_some(view)
        });
        assert!(adopted["valid_for_ms"].as_u64().unwrap() > 30_000, "{adopted}");
        let now = get(cluster.socket(elsewhere[0]), "/v1/locks/living").json();
        assert_eq!(now["holders"][0]["token"], held["token"]);
        assert_eq!(now["waiters"], Value::Array(Vec::new()), "nobody would tell it that it holds");
        drop(waits.join().unwrap());
        // It is watched again.
        drop(living);
        wait_until("its lock is free", || {
            holder_of(cluster.socket(elsewhere[0]), "living").is_none().then_some(())
        });
        drop(next);
        wait_until("the other lock is free", || {
            holder_of(cluster.socket(elsewhere[0]), "l").is_none().then_some(())
        });
    }
    cluster.until_equal();
}

/// A daemon that does not come back: its leases end when their time is up, and not before.
#[test]
fn the_leases_of_a_daemon_that_stays_away_end_by_themselves() {
    let mut cluster = Cluster::start();
    let away = cluster.others(cluster.leader())[0];
    let next = cluster.others(away)[0];
    let holder = sleeper();
    let body = format!(r#"{{"bind":"process","pid":{},"ttl":"2s"}}"#, holder.0.id());
    let held = post(cluster.socket(away), "/v1/locks/l", &body).expect(200).json();
    let told = Instant::now();
    let waiter = waiter(&cluster, next);
    cluster.nodes[away].kill();
    let (at, _) = waiter.until("state", "held");
    let promised = Duration::from_millis(held["valid_for_ms"].as_u64().unwrap());
    assert!(at - told >= promised - Duration::from_millis(50), "{:?} of {promised:?}", at - told);
    assert!(at - told < Duration::from_secs(10), "{:?}", at - told);
    // It comes back too late: the lease is lost, and whoever asks is told.
    cluster.run_again(away);
    let lease = held["lease"].as_str().unwrap();
    get(cluster.socket(away), &format!("/v1/leases/{lease}")).expect(404);
}

/// The number of a process that has died while the daemon was away is given to another one: that
/// one holds nothing.
#[test]
fn another_process_with_the_same_number_inherits_nothing() {
    let mut cluster = Cluster::start();
    let mut holder = sleeper();
    let pid = holder.0.id();
    lock_for(cluster.socket(0), "l", pid);
    cluster.nodes[0].kill();
    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    let again = wait_until("the number is given again", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let other = sleeper();
        (other.0.id() == pid).then_some(other)
    });
    let next = waiter(&cluster, 1);
    cluster.run_again(0);
    let back = Instant::now();
    let (at, _) = next.until("state", "held");
    assert!(at < back + Duration::from_secs(10), "it was gone on with");
    drop(again);
}

/// A caller in a container that has the socket mounted: its own process is known whatever number it
/// has there; numbers of others are refused, since they mean other processes here.
#[test]
fn callers_in_other_pid_namespaces_bind_to_themselves() {
    let cluster = Cluster::start();
    let program = python(
        "say(os.getpid())\n\
         say(ask('{\"bind\":\"process\",\"pid\":4711}'))\n\
         say(ask('{\"bind\":\"process\",\"pid\":%d}' % os.getpid()))\n\
         say(ask('{\"bind\":\"process\",\"wait\":\"0s\"}'))\n\
         sys.stdin.readline()",
        cluster.socket(0),
    );
    let unshare: Vec<String> =
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"].map(str::to_owned).into();
    let mut caller = Program::start(&[unshare, program].concat());
    assert_eq!(caller.line(), "1", "its number there");
    let refused = caller.line();
    assert!(refused.starts_with("400 ") && refused.contains("another pid namespace"), "{refused}");
    let held = caller.line();
    assert!(held.starts_with("200 "), "{held}");
    let own = caller.line();
    assert!(own.starts_with("409 "), "it holds already: {own}");
    let pid = holder_of(cluster.socket(0), "l").unwrap();
    let names = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let names = names.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap().to_owned();
    assert_eq!(names.split_ascii_whitespace().collect::<Vec<_>>(), [&pid.to_string(), "1"]);
    let next = waiter(&cluster, 1);
    drop(caller);
    next.until("state", "held");
}

/// The process that has connected is the one that counts, whoever uses the connection: one that is
/// passed on binds to whom it came from, and one whose maker is gone binds to nobody.
#[test]
fn a_connection_stands_for_the_process_that_made_it() {
    let cluster = Cluster::start();
    // Forks and exits; the child, which keeps the connection, asks.
    let mut forked = Program::start(&python(
        "s = connect(); parent = os.getpid()\n\
         if os.fork(): os._exit(0)\n\
         while os.getppid() == parent: pass\n\
         say(ask('{\"bind\":\"process\",\"wait\":\"0s\"}', s))",
        cluster.socket(0),
    ));
    let said = forked.line();
    assert!(said.starts_with("400 ") && said.contains("has ended"), "{said}");
    // Passed to a child, whose end means nothing.
    let mut passed = Program::start(&python(
        "s = connect()\n\
         child = os.fork()\n\
         if child == 0:\n\
         \x20   say(ask('{\"bind\":\"process\",\"wait\":\"0s\"}', s)); os._exit(0)\n\
         os.waitpid(child, 0)\n\
         say('the child is gone')\n\
         sys.stdin.readline()",
        cluster.socket(0),
    ));
    let said = passed.line();
    assert!(said.starts_with("200 "), "{said}");
    assert_eq!(passed.line(), "the child is gone");
    let pid = u64::from(passed.process.0.id());
    assert_eq!(holder_of(cluster.socket(1), "l"), Some(pid));
    let next = waiter(&cluster, 1);
    drop(passed);
    next.until("state", "held");
}

#[test]
fn processes_that_do_not_exist_and_other_nonsense_are_refused() {
    let cluster = Cluster::start();
    let socket = cluster.socket(0);
    let mut gone = sleeper();
    gone.0.kill().unwrap();
    gone.0.wait().unwrap();
    let pid = gone.0.id();
    for (target, body, status) in [
        ("/v1/leases", format!(r#"{{"bind":"process","pid":{pid}}}"#), 400),
        ("/v1/leases", r#"{"bind":"process","pid":0}"#.to_owned(), 400),
        ("/v1/leases", r#"{"bind":"process","pid":-1}"#.to_owned(), 400),
        ("/v1/leases", r#"{"bind":"process","pid":4294967295}"#.to_owned(), 400),
        ("/v1/leases", r#"{"bind":"connection","pid":1}"#.to_owned(), 400),
        ("/v1/locks/l", format!(r#"{{"bind":"process","pid":{pid}}}"#), 400),
        ("/v1/elections/e", format!(r#"{{"bind":"process","pid":{pid}}}"#), 400),
    ] {
        let answer = post(socket, target, &body);
        assert_eq!(answer.status, status, "{target} {body}: {}", answer.text());
    }
    assert_eq!(get(socket, "/v1/leases").json()["leases"].as_array().unwrap().len(), 0);
}

/// A script's own process, by the command line.
#[test]
fn the_command_line_binds_to_whoever_has_started_it() {
    let cluster = Cluster::start();
    let directory = test_directory();
    let script =
        concat!(env!("CARGO_BIN_EXE_quorumctl"), " lease grant --bind process; read x; exit 3");
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("QUORUMD_SOCKET", cluster.socket(0));
    command.current_dir(directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = Process::spawn(&mut command);
    let mut lines = BufReader::new(shell.0.stdout.take().unwrap());
    let mut lease = String::new();
    lines.read_line(&mut lease).unwrap();
    let target = format!("/v1/leases/{}", lease.trim());
    let view = get(cluster.socket(1), &target).expect(200).json();
    assert_eq!((&view["bind"], &view["pid"]), (&"process".into(), &shell.0.id().into()));
    assert_eq!(cluster.nodes[0].status().unwrap()["bound_processes"], 1);
    shell.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(shell.until_ended().code(), Some(3));
    wait_until("the lease is gone", || {
        (get(cluster.socket(1), &target).status == 404).then_some(())
    });
}

/// Two thousand processes of one host, which end at once.
#[test]
fn thousands_of_processes_end_in_few_revisions() {
    const PROCESSES: usize = 2_000;
    let cluster = Cluster::start();
    let many = format!(
        "pids = []\n\
         for n in range({PROCESSES}):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid == 0:\n\
         \x20       import signal; signal.pause()\n\
         \x20   pids.append(pid)\n\
         say(' '.join(map(str, pids)))\n\
         sys.stdin.readline()\n\
         for pid in pids: os.kill(pid, 9)\n\
         say('killed')\n\
         sys.stdin.readline()"
    );
    let mut parent = Program::start(&python(&many, cluster.socket(0)));
    let line = parent.line();
    let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), PROCESSES);
    std::thread::scope(|scope| {
        let socket = cluster.socket(0);
        for part in pids.chunks(PROCESSES / 20) {
            scope.spawn(move || {
                for pid in part {
                    let body = format!(r#"{{"bind":"process","pid":{pid},"ttl":"60s"}}"#);
                    let lease = post(socket, "/v1/leases", &body).expect(201).json();
                    let key = format!("/v1/kv/p/{pid}?lease={}", lease["lease"].as_str().unwrap());
                    put(socket, &key, "x").expect(201);
                }
            });
        }
    });
    assert_eq!(cluster.nodes[0].status().unwrap()["bound_processes"], PROCESSES);
    let count = |node: usize| get(cluster.socket(node), "/v1/kv?prefix=p/&count_only=true").json();
    assert_eq!(count(1)["count"], PROCESSES);
    let before = count(1)["revision"].as_u64().unwrap();
    let killed = Instant::now();
    parent.go_on();
    assert_eq!(parent.line(), "killed");
    let after = wait_until("all of their keys are gone", || {
        let seen = count(1);
        (seen["count"] == 0).then(|| seen["revision"].as_u64().unwrap())
    });
    eprintln!("all gone after {:?}, in {} revisions", killed.elapsed(), after - before);
    assert!(after - before < PROCESSES as u64 / 4, "{} revisions", after - before);
    parent.go_on();
    cluster.until_equal();
}
