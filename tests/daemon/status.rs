//! What a node says of itself: to people, to supervisors and to Prometheus.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Cluster;
use crate::http::{get, post, put};

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_status_has_what_the_contract_names() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    put(cluster.socket(leader), "/v1/kv/a", "1").expect(201);
    cluster.until_equal();
    for (number, node) in cluster.nodes.iter().enumerate() {
        let status = node.status().unwrap();
        let promised = [
            "node",
            "cluster",
            "version",
            "role",
            "leader",
            "term",
            "commit_index",
            "applied_index",
            "revision",
            "compact_revision",
            "members",
            "health",
            "storage",
        ];
        for name in promised {
            assert!(names(&status).contains(name), "{name} is missing: {status:#}");
        }
        assert_eq!(status["node"], node.name.as_str());
        assert_eq!((&status["cluster"], &status["revision"]), (&"blue".into(), &2.into()));
        assert_eq!(status["leader"], cluster.nodes[leader].name.as_str());
        assert_eq!(status["role"], if number == leader { "leader" } else { "follower" });
        assert_eq!(status["health"], Value::Array(Vec::new()), "all is well");
        assert_eq!(status["storage"]["data_dir"], node.data.to_str().unwrap());
        let members = node.get("/v1/members").expect(200).json();
        assert_eq!(members["joint"], false);
        let members = members["members"].as_array().unwrap();
        let listed: Vec<&Value> = members.iter().map(|member| &member["name"]).collect();
        assert_eq!(listed, ["n1", "n2", "n3"]);
        assert!(members.iter().all(|member| member["role"] == "voter"));
        assert_eq!(members[number]["address"], node.port.address.to_string());
    }
}

/// A dead peer is seen by those who are left, and only as that.
#[test]
fn a_missing_peer_is_in_the_health_of_the_others() {
    let mut cluster = Cluster::start();
    let [gone, left] = cluster.others(cluster.leader());
    cluster.nodes[gone].kill();
    let name = cluster.nodes[gone].name.clone();
    crate::harness::wait_until("the others say that it is gone", || {
        let status = cluster.nodes[left].status()?;
        let [note] = status["health"].as_array()?.as_slice() else { return None };
        let told = note["detail"].as_str()?.starts_with(&name);
        (note["code"] == "peer_unreachable" && told).then_some(())
    });
    assert_eq!(cluster.nodes[left].get("/readyz").status, 200);
    cluster.run_again(gone);
    crate::harness::wait_until("all is well again", || {
        let status = cluster.nodes[left].status()?;
        status["health"].as_array()?.is_empty().then_some(())
    });
}

#[test]
fn supervisors_and_prometheus_are_answered_without_secrets() {
    let cluster = Cluster::start();
    let socket = cluster.socket(0);
    put(socket, "/v1/kv/secret-key", "secret-value").expect(201);
    post(socket, "/v1/leases", r#"{"info":"secret-info"}"#).expect(201);
    assert_eq!(get(socket, "/healthz").expect(200).text(), "ok\n");
    assert_eq!(get(socket, "/readyz").expect(200).text(), "ready\n");
    let metrics = get(socket, "/metrics").expect(200);
    let media_type = metrics.header("content-type").unwrap();
    assert!(media_type.contains("openmetrics") || media_type.contains("text/plain"));
    let text = metrics.text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        assert!(name.starts_with("quorumd_"), "{line:?}");
        assert!(value.parse::<f64>().is_ok(), "{line:?}");
    }
    assert!(text.lines().count() > 10, "{text}");
    for (place, said) in [("metrics", text), ("log", cluster.nodes[0].log())] {
        assert!(!said.contains("secret"), "the {place} tells a key, a value or an info: {said}");
    }
}
