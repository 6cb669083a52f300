//! What README.md prints, and every file in `examples/`, run against a real cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::started::{Dev, Started, ask, ask_until, until};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a program that is not part of the toolchain is here. `.ci/run` installs them; on a
/// machine without one, what needs it is left out, and says so.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("{program} is not installed: what needs it is not tested");
    }
    found
}

/// The fenced blocks of README.md that are marked `sh tour`, in order.
fn tour(readme: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in readme.lines() {
        match (&mut block, line) {
            (None, "```sh tour") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

/// A directory in which the tour's relative paths lead to the programs under test, and in which
/// `cargo build` has nothing left to do.
fn stage(directory: &Path) {
    let bin = directory.join("target/release");
    fs::create_dir_all(&bin).expect("a new directory");
    for (name, path) in
        [("quorumd", env!("CARGO_BIN_EXE_quorumd")), ("quorumctl", env!("CARGO_BIN_EXE_quorumctl"))]
    {
        std::os::unix::fs::symlink(path, bin.join(name)).expect("a new link");
    }
    let cargo = directory.join("cargo");
    fs::write(&cargo, "#!/bin/sh\n[ \"$*\" = 'build --release' ]\n").expect("a new file");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&cargo, executable).expect("it is ours");
}

fn example(name: &str) -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_quorumd")).parent().expect("it lies in a directory");
    let path = beside.join("examples").join(name);
    assert!(path.exists(), "{name} is not built: `cargo build --examples`, or plain `cargo test`");
    Command::new(path)
}

/// Starts a program whose output goes to a file.
fn spawn(mut command: Command, socket: &Path, output: &Path) -> Started {
    let file = fs::File::create(output).expect("a new file");
    let both = file.try_clone().expect("one more descriptor");
    command.env("QUORUMD_SOCKET", socket).stdin(Stdio::null()).stdout(file).stderr(both);
    Started::of(command.spawn().expect("it is built, or installed"), output)
}

#[test]
fn the_two_commands_are_printed_as_they_are() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("it is there");
    for command in ["cargo run --release -- dev", "cargo test"] {
        assert!(readme.contains(&format!("```sh\n{command}\n```")), "{command} is not printed");
    }
}

#[test]
fn the_tour_and_the_examples_do_what_they_say() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path().join("quorumd-dev");
    let dev = Dev::start(&home, &[]);
    stage(directory.path());
    if has("curl") && has("bash") {
        take_the_tour(directory.path());
    }
    rust_examples(&dev, directory.path());
    if has("python3") {
        let mut python = Command::new("python3");
        python.arg(repository().join("examples/watch_config.py")).arg("config/");
        watch_example(python, &dev, &directory.path().join("python.out"));
    }
    if has("curl") && has("jq") && has("bash") {
        let mut lock = Command::new("bash");
        lock.arg(repository().join("examples/lock_with_curl.sh"));
        lock.args(["nightly", "sh", "-c", "echo token $QUORUMD_TOKEN; exit 3"]);
        let mut lock = spawn(lock, &dev.socket(0), &directory.path().join("lock.out"));
        assert_eq!(lock.ended().code(), Some(3), "{}", lock.said());
        assert!(lock.said().contains("token "), "{}", lock.said());
    }
}

fn take_the_tour(directory: &Path) {
    let readme = fs::read_to_string(repository().join("README.md")).expect("it is there");
    let blocks = tour(&readme);
    assert!(blocks.len() >= 4, "the tour has {} parts", blocks.len());
    let script = format!("set -eu\nshopt -s expand_aliases\n{}", blocks.join("\n"));
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", directory.display()))
        .output()
        .expect("bash is here");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    for expected in ["\"revision\":", "blue", "token ", "leader", "\"pid\""] {
        assert!(said.contains(expected), "the tour did not show {expected}:\n{said}\n{complained}");
    }
}

fn rust_examples(dev: &Dev, directory: &Path) {
    let mut lock = example("distributed_lock");
    lock.args(["visits", "3"]);
    let mut lock = spawn(lock, &dev.socket(1), &directory.join("counter.out"));
    assert!(lock.ended().success(), "{}", lock.said());
    assert_eq!(ask_until(&dev.socket(0), "GET", "/v1/kv/visits", "").body, "3");

    let campaign = |name: &str, node: usize| {
        let mut command = example("leader_election");
        command.args(["reports", name]);
        spawn(command, &dev.socket(node), &directory.join(name))
    };
    let alice = campaign("alice", 0);
    until("alice leads", || alice.said().contains("alice leads reports"));
    let bob = campaign("bob", 2);
    until("bob waits", || bob.said().contains("waiting, position"));
    drop(alice);
    until("bob leads after alice was killed", || bob.said().contains("bob leads reports"));

    let mut watch = example("watch_config");
    watch.arg("config/");
    watch_example(watch, dev, &directory.join("rust.out"));
}

fn watch_example(command: Command, dev: &Dev, output: &Path) {
    let watch = spawn(command, &dev.socket(2), output);
    until("the watch has begun", || watch.said().contains("revision "));
    let value = output.file_name().expect("a file").to_string_lossy().into_owned();
    let answer = ask(&dev.socket(0), "PUT", "/v1/kv/config/level", &value).expect("an answer");
    assert!(answer.status < 300, "{}", answer.body);
    until("the watch tells the change", || watch.said().contains(&value));
}
