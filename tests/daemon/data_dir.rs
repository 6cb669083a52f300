//! Data directories that are not what they were: refused with a sentence that says what to do,
//! while the others go on and nothing is lost.

use std::fs;
use std::path::Path;

use crate::harness::{Cluster, Node, Options, quorumd, wait_until};

/// Exit code of a daemon whose data directory is not its own, or in use.
const DATA_DIRECTORY: Option<i32> = Some(3);

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn exchange(node: &Node, with: &Path) {
    fs::remove_dir_all(&node.data).unwrap();
    copy(with, &node.data);
}

/// A node is started with a data directory that it should not have. It must be refused for this
/// reason, twice, and with what it had before it must be taken again.
#[track_caller]
fn refused(cluster: &mut Cluster, node: usize, reasons: &[&str], change: impl Fn(&Node)) {
    let others = cluster.others(node);
    cluster.nodes[others[0]].put("before", "x");
    let good = cluster.directory.path().join("good");
    cluster.nodes[node].stop();
    copy(&cluster.nodes[node].data, &good);
    change(&cluster.nodes[node]);
    for attempt in 0..2 {
        let (code, said) = cluster.run_in_vain(node);
        assert_eq!(code, DATA_DIRECTORY, "attempt {attempt}: {said}");
        let last = said.lines().last().unwrap();
        for reason in reasons {
            assert!(last.contains(reason), "{reason:?} is missing: {last}");
        }
    }
    cluster.leader_of(&others);
    cluster.nodes[others[1]].put("meanwhile", "x");
    exchange(&cluster.nodes[node], &good);
    fs::remove_dir_all(&good).unwrap();
    cluster.run_again(node);
    cluster.nodes[node].get("/v1/kv/before").expect(200);
    cluster.nodes[node].get("/v1/kv/meanwhile").expect(200);
    cluster.until_equal();
}

#[test]
fn a_node_with_a_wiped_directory_waits_to_be_replaced() {
    let mut cluster = Cluster::start();
    for node in [cluster.leader(), cluster.others(cluster.leader())[0]] {
        let others = cluster.others(node);
        cluster.nodes[others[0]].put("before", "x");
        let good = cluster.directory.path().join("good");
        cluster.nodes[node].stop();
        copy(&cluster.nodes[node].data, &good);
        fs::remove_dir_all(&cluster.nodes[node].data).unwrap();
        cluster.run(node);
        let status = wait_until("it says what it waits for", || {
            cluster.nodes[node].status().filter(|status| status["state"] == "waiting_to_be_added")
        });
        let command = format!("quorumctl members replace {}", cluster.nodes[node].name);
        let detail = status["health"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(&command), "{detail}");
        assert_eq!(cluster.nodes[node].get("/readyz").expect(503).code(), "not_ready");
        assert_eq!(cluster.nodes[node].get("/healthz").status, 200);
        let refused = crate::http::put(cluster.socket(node), "/v1/kv/x", "v").expect(503).json();
        assert_eq!(refused["applied"], "no", "{refused}");
        // It takes no part: the others go on, and its own directory is welcome.
        cluster.leader_of(&others);
        cluster.nodes[others[1]].put("meanwhile", "x");
        cluster.nodes[node].stop();
        exchange(&cluster.nodes[node], &good);
        fs::remove_dir_all(&good).unwrap();
        cluster.run_again(node);
        cluster.nodes[node].get("/v1/kv/meanwhile").expect(200);
        cluster.until_equal();
    }
}

#[test]
fn an_older_copy_is_refused() {
    let mut cluster = Cluster::start();
    let node = cluster.others(cluster.leader())[1];
    let old = cluster.directory.path().join("old");
    cluster.nodes[node].stop();
    copy(&cluster.nodes[node].data, &old);
    cluster.run_again(node);
    for number in 0..20 {
        cluster.nodes[node].put(&format!("k{number}"), "v").expect(201);
    }
    let reasons = ["is older than what it promised before", "restore the newest directory"];
    refused(&mut cluster, node, &reasons, |node| exchange(node, &old));
}

#[test]
fn a_directory_of_another_cluster_or_node_is_refused() {
    let mut cluster = Cluster::start();
    let foreign = cluster.directory.path().join("foreign");
    {
        // Another cluster, of the same name and with nodes of the same names.
        let mut other = Cluster::start();
        other.nodes[1].stop();
        copy(&other.nodes[1].data, &foreign);
    }
    let reasons = ["its data directory belongs to another cluster", "replace the member"];
    refused(&mut cluster, 1, &reasons, |node| exchange(node, &foreign));
    let reasons = ["belongs to node n2 of cluster blue", "correct `data_dir`"];
    refused(&mut cluster, 2, &reasons, |node| exchange(node, &foreign));
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let cluster = Cluster::start();
    let node = &cluster.nodes[0];
    let second = quorumd().arg("run").arg("--config").arg(&node.config).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), DATA_DIRECTORY, "{said}");
    let sentence =
        format!("is in use by the running quorumd with process id {}: two daemons", node.pid());
    assert!(said.contains(&sentence), "{said}");
    node.put("x", "the first goes on").expect(201);
}

/// A crash of everything between two starts loses nothing that a refused start could have touched.
#[test]
fn a_node_that_never_met_the_others_waits_and_says_so() {
    let mut cluster = Cluster::prepare(&Options::default());
    cluster.run(0);
    let socket = cluster.nodes[0].socket.clone();
    let answer = wait_until("the socket answers", || {
        crate::http::try_ask(&socket, "GET /v1/kv/x", &[], b"").ok()
    });
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"));
    let write = crate::http::put(&socket, "/v1/kv/x", "v").expect(503).json();
    assert_eq!((&write["code"], &write["applied"]), (&"not_ready".into(), &"no".into()));
    assert_eq!(crate::http::get(&socket, "/healthz").status, 200);
    assert_eq!(crate::http::get(&socket, "/readyz").status, 503);
    assert_eq!(cluster.nodes[0].stop().code(), Some(0));
    for node in 0..3 {
        cluster.run(node);
    }
    cluster.nodes.iter_mut().for_each(Node::until_ready);
    cluster.nodes[0].get("/v1/kv/x").expect(404);
}
