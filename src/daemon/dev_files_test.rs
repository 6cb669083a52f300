//! A developer's directory: made once, completed when it was left half-made, never overwritten.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::pki::Credentials;

use super::dev_files::{DevCluster, prepare, reserve};
use super::exit::{ExitCode, Failure};

fn made(directory: &Path, nodes: Option<usize>) -> DevCluster {
    match prepare(directory, nodes) {
        Ok(cluster) => cluster,
        Err(failure) => panic!("{} was refused: {:#}", directory.display(), failure.error),
    }
}

fn refused(directory: &Path, nodes: Option<usize>) -> Failure {
    match prepare(directory, nodes) {
        Ok(_) => panic!("{} was accepted", directory.display()),
        Err(failure) => failure,
    }
}

#[test]
fn the_second_time_the_same_cluster_is_found() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path().join("new/dev");
    let first: Vec<_> = made(&home, None).nodes.into_iter().map(|node| node.config).collect();
    assert_eq!(first.len(), 3);
    for (number, config) in (1..).zip(&first) {
        assert_eq!(config.name, format!("n{number}"));
        assert_eq!(config.socket.path, home.join(&config.name).join("quorumd.sock"));
        let credentials =
            Credentials::load(&config.tls.cert, &config.tls.key, &config.tls.ca).expect("usable");
        assert_eq!(credentials.identity().to_string(), format!("spiffe://dev/node/n{number}"));
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!(mode(&config.tls.key) & 0o077, 0, "others can read the key");
    }
    let edited = fs::read_to_string(home.join("n1/quorumd.yaml")).expect("a configuration")
        + "shutdown_grace: 3s\n";
    fs::write(home.join("n1/quorumd.yaml"), edited).expect("it can be edited");
    let second = made(&home, Some(3));
    assert_eq!(second.nodes[0].config.shutdown_grace.as_millis(), 3_000);
    assert_eq!(second.nodes[1].config, first[1]);
}

#[test]
fn what_was_left_half_made_is_completed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path();
    let before = made(home, Some(2)).nodes.remove(1).config;
    fs::remove_dir_all(home.join("n2")).expect("it was made");
    fs::create_dir_all(home.join("n2/tls.new/leftover")).expect("a new directory");
    assert_eq!(made(home, None).nodes[1].config, before);
}

#[test]
fn one_at_a_time_and_nothing_foreign_is_touched() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path();
    let running = made(home, Some(1));
    let failure = refused(home, None);
    assert_eq!(failure.code, ExitCode::DataDirectory);
    assert!(failure.error.to_string().contains("another `quorumd dev` runs"));
    drop(running);
    assert!(refused(home, Some(3)).error.to_string().contains("holds a cluster of 1"));
    assert_eq!(refused(home, Some(0)).code, ExitCode::Usage);
    assert_eq!(refused(home, Some(10)).code, ExitCode::Usage);

    let foreign = tempfile::tempdir().expect("a temporary directory");
    fs::write(foreign.path().join("thesis.txt"), "precious").expect("a new file");
    let said = refused(foreign.path(), None).error.to_string();
    assert!(said.contains("thesis.txt"), "{said}");

    let long = foreign.path().join("x".repeat(120));
    let said = refused(&long, None).error.to_string();
    assert!(said.contains("too long by") && !long.exists(), "{said}");
}

/// The reservation must not be in the way of the node itself, and must be in everybody else's.
#[test]
fn a_reserved_port_can_be_listened_on_and_is_not_chosen_again() {
    let listen = {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        probe.local_addr().expect("it is bound")
    };
    let _reserved = reserve(listen).expect("nobody listens");
    let strict = tokio::net::TcpSocket::new_v4().expect("a socket");
    assert!(strict.bind(listen).is_err(), "the search for a free port finds a reserved one");
    let node = TcpListener::bind(listen).expect("the node can listen");
    assert!(reserve(listen).is_err(), "a port on which someone listens was reserved");
    drop(node);
    let _again = TcpListener::bind(listen).expect("and again after it was killed");
}
