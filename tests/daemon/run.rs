//! `quorumd run` and `check`: exit codes, and what is said to whoever reads the error stream.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::started::{ask, output_of, start, until};

/// A directory with everything that one node of a cluster of two needs; the other is never there.
fn one_of_two(directory: &Path) -> String {
    let authority = quorumd::pki::Authority::create("test").expect("an authority");
    let length = std::time::Duration::from_secs(3_600);
    let issued = authority.issue("a", quorumd::pki::Validity::from_now(length)).expect("issued");
    issued.save(&directory.join("crt"), &directory.join("key")).expect("a new directory");
    fs::write(directory.join("ca"), authority.certificate_pem()).expect("a new directory");
    let path = directory.join("quorumd.yaml");
    let port = || {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        probe.local_addr().expect("it is bound").port()
    };
    let text = format!(
        "cluster: test\nname: a\nmembers: {{a: \"127.0.0.1:{}\", b: \"127.0.0.1:{}\"}}\n\
         tls: {{cert: crt, key: key, ca: ca}}\ndata_dir: data\nsocket: {{path: s}}\n",
        port(),
        port()
    );
    fs::write(&path, text).expect("a new directory");
    path.to_str().expect("a path that is text").to_owned()
}

/// systemd and people must be able to tell a node that waits for the others from one that hangs.
#[test]
fn a_first_boot_waits_for_the_others_and_says_so() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = one_of_two(directory.path());
    let mut node = start(&["run", "--config", &config], &directory.path().join("out"));
    let socket = directory.path().join("s");
    until("the socket serves", || {
        ask(&socket, "GET", "/healthz", "").is_ok_and(|answer| answer.status == 200)
    });
    let answer = ask(&socket, "GET", "/v1/kv/a", "").expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("not_ready"), "{}", answer.body);
    node.signal(Signal::TERM);
    assert_eq!(node.ended().code(), Some(0), "{}", node.said());
    assert!(!socket.exists(), "the socket was left behind");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_started() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = one_of_two(directory.path());
    let good = output_of(&["check", "--config", &config]);
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(said.contains("2 voters") && said.contains("can start"), "{said}");

    let text = fs::read_to_string(&config).expect("it was written");
    let expect = |command: &str, text: &str, wanted: &str| {
        fs::write(&config, text).expect("it was written before");
        let output = output_of(&[command, "--config", &config]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "{wanted:?} is not in: {said}");
        assert!(!directory.path().join("data").exists(), "something was started");
    };
    for command in ["check", "run"] {
        expect(command, &format!("{text}bogus: 1\n"), "quorumd.yaml:7:1: unknown key `bogus`");
        expect(command, &text.replace("name: a", "name: b"), "use this node's certificate");
        expect(command, &text.replace("key: key", "key: nokey"), "nokey");
    }
    assert_eq!(output_of(&["run", "--nonsense"]).status.code(), Some(2));
    assert_eq!(output_of(&["version"]).status.code(), Some(0));
}
