//! Members that come, go and are replaced, while callers go on.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, Options, quorumctl, wait_until};
use crate::http::{Stream, ask, get, put};
use crate::workload::Load;

/// Runs `quorumctl` through a node: its status, and what it said on both streams.
fn ctl(cluster: &Cluster, node: usize, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = quorumctl(cluster.socket(node)).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// It must succeed: what it printed.
#[track_caller]
fn good(cluster: &Cluster, node: usize, arguments: &[&str]) -> String {
    let (code, out, err) = ctl(cluster, node, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

/// The names and roles that a node knows, `n1 voter` and so on.
fn members(cluster: &Cluster, node: usize) -> Vec<String> {
    let answer = get(cluster.socket(node), "/v1/members").expect(200).json();
    let member = |member: &Value| {
        format!("{} {}", member["name"].as_str().unwrap(), member["role"].as_str().unwrap())
    };
    answer["members"].as_array().unwrap().iter().map(member).collect()
}

#[track_caller]
fn until_members(cluster: &Cluster, nodes: &[usize], wanted: &[&str]) {
    for &node in nodes {
        wait_until("the members are known", || (members(cluster, node) == wanted).then_some(()));
    }
}

fn at(cluster: &Cluster, node: usize) -> String {
    format!("{}={}", cluster.nodes[node].name, cluster.nodes[node].port.address)
}

fn add(cluster: &mut Cluster, more: &[&str]) -> usize {
    let node = cluster.newcomer();
    let mut arguments = vec!["members", "add"];
    let place = at(cluster, node);
    arguments.push(&place);
    arguments.extend(more);
    good(cluster, 0, &arguments);
    cluster.nodes[node].until_ready();
    node
}

#[test]
fn one_grows_to_three_and_five_and_shrinks_again() {
    let mut cluster = Cluster::with(&Options { size: Some(1), ..Options::default() });
    cluster.nodes[0].put("first", "x").expect(201);
    let warned = {
        let node = cluster.newcomer();
        let place = at(&cluster, node);
        good(&cluster, 0, &["members", "add", &place, "--voter"])
    };
    assert!(warned.contains("an odd number is better"), "{warned}");
    cluster.nodes[1].until_ready();
    add(&mut cluster, &["--voter"]);
    until_members(&cluster, &[0, 1, 2], &["n1 voter", "n2 voter", "n3 voter"]);
    // Two learners get their votes with one order.
    add(&mut cluster, &[]);
    add(&mut cluster, &[]);
    good(&cluster, 3, &["members", "promote", "n4", "n5"]);
    let five = ["n1 voter", "n2 voter", "n3 voter", "n4 voter", "n5 voter"];
    until_members(&cluster, &[0, 1, 2, 3, 4], &five);
    cluster.nodes[4].get("/v1/kv/first").expect(200);
    // Any two of five may go.
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    cluster.nodes[2].until_served();
    cluster.nodes[2].put("with-three", "x").expect(201);
    cluster.run_again(0);
    cluster.run_again(1);
    good(&cluster, 0, &["members", "set", "--voters", "n3,n4,n5", "--learners", "n1"]);
    until_members(&cluster, &[0, 2, 3, 4], &["n1 learner", "n3 voter", "n4 voter", "n5 voter"]);
    let status = wait_until("it says that it was removed", || {
        cluster.nodes[1].status().filter(|status| status["state"] == "removed")
    });
    let detail = status["health"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("removed from the cluster at index"), "{detail}");
    let refused = put(cluster.socket(1), "/v1/kv/x", "v").expect(503).json();
    assert_eq!((&refused["code"], &refused["applied"]), (&"unavailable".into(), &"no".into()));
    assert_eq!(cluster.nodes[1].get("/v1/kv/first?consistency=local").status, 503);
    assert_eq!(cluster.nodes[1].get("/readyz").status, 503);
    assert_eq!(cluster.nodes[1].get("/healthz").status, 200);
    // It says so after a restart too, and its directory is good for coming back.
    cluster.nodes[1].stop();
    cluster.run(1);
    wait_until("it says so still", || {
        cluster.nodes[1].status().filter(|status| status["state"] == "removed")
    });
    let place = at(&cluster, 1);
    good(&cluster, 0, &["members", "add", &place]);
    cluster.nodes[1].until_ready();
    cluster.nodes[1].get("/v1/kv/with-three").expect(200);
    let notes = cluster.nodes[1].status().unwrap()["notes"].clone();
    assert_eq!(notes[0]["code"], "members_differ", "{notes}");
}

#[test]
fn a_wiped_node_takes_its_own_place_again() {
    let mut cluster = Cluster::start();
    let load = Load::start(cluster.sockets(), 1);
    load.until_more(20);
    let wiped = cluster.others(cluster.leader())[0];
    let [through, _] = cluster.others(wiped);
    let name = cluster.nodes[wiped].name.clone();
    cluster.nodes[wiped].kill();
    fs::remove_dir_all(&cluster.nodes[wiped].data).unwrap();
    cluster.run(wiped);
    cluster.nodes[wiped].until_waiting();
    load.until_more_by(&cluster.others(wiped), 5);
    good(&cluster, through, &["members", "replace", &name]);
    cluster.nodes[wiped].until_ready();
    load.until_more_by(&[wiped], 5);
    until_members(&cluster, &[0, 1, 2], &["n1 voter", "n2 voter", "n3 voter"]);
    // It counts: with another one gone there is a quorum with it.
    cluster.nodes[through].kill();
    load.until_more_by(&[wiped], 5);
    cluster.run_again(through);
    let told = load.end();
    cluster.until_equal();
    told.verify(cluster.socket(wiped));
    let (code, _, err) = ctl(&cluster, through, &["members", "replace", &name]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("nothing to replace"), "{err}");
}

#[test]
fn the_leader_is_removed_under_load_and_no_write_is_lost_or_doubled() {
    let mut cluster = Cluster::start();
    let load = Load::start(cluster.sockets(), 2);
    load.until_more(50);
    let leader = cluster.leader();
    let rest = cluster.others(leader);
    let name = cluster.nodes[leader].name.clone();
    good(&cluster, rest[0], &["members", "remove", &name]);
    load.until_more_by(&rest, 20);
    let next = cluster.leader_of(&rest);
    assert_ne!(next, leader);
    wait_until("the removed leader says so", || {
        cluster.nodes[leader].status().filter(|status| status["state"] == "removed")
    });
    let told = load.end();
    for node in rest {
        told.verify(cluster.socket(node));
    }
    eprintln!("{} unknown, {} unavailable", told.unknown, told.unavailable);
    assert_eq!(cluster.nodes[leader].stop().code(), Some(0));
}

#[test]
fn the_leader_is_killed_in_the_middle_of_a_change_and_it_is_finished() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let rest = cluster.others(leader);
    let node = cluster.newcomer();
    let place = cluster.nodes[node].port.address;
    // The newcomer stands still once it has said who it is: the change waits for it.
    let body = format!(r#"{{"voters":["n1","n2","n3",{{"name":"n4","address":"{place}"}}]}}"#);
    let stream = Stream::open(cluster.socket(rest[0]), "PUT /v1/members", &[], body.as_bytes());
    cluster.nodes[node].signal(Signal::STOP);
    let first = stream.next();
    assert_eq!(first["state"], "catching_up", "{first}");
    cluster.nodes[leader].kill();
    cluster.leader_of(&rest);
    cluster.nodes[node].signal(Signal::CONT);
    let (_, done) = stream.until("state", "done");
    assert!(done["voters"]["n4"].is_string(), "{done}");
    cluster.run_again(leader);
    let four = ["n1 voter", "n2 voter", "n3 voter", "n4 voter"];
    until_members(&cluster, &[0, 1, 2, 3], &four);
    cluster.nodes[node].until_ready();
}

#[test]
fn a_hosts_learner_serves_it_like_a_voter() {
    let mut cluster = Cluster::start();
    let learner = add(&mut cluster, &[]);
    let socket = cluster.nodes[learner].socket.clone();
    assert_eq!(cluster.nodes[learner].status().unwrap()["role"], "learner");
    let watch = Stream::open(&socket, "GET /v1/watch?prefix=l/", &[], b"");
    assert_eq!(watch.next()["type"], "synced");
    // Writes are forwarded, and shown where they were made; others' are seen by what reads all.
    put(&socket, "/v1/kv/l/1", "mine").expect(201);
    assert_eq!(get(&socket, "/v1/kv/l/1?consistency=local").expect(200).text(), "mine");
    cluster.nodes[0].put("l/2", "theirs").expect(201);
    assert_eq!(get(&socket, "/v1/kv/l/2").expect(200).text(), "theirs");
    for key in ["l/1", "l/2"] {
        let change = watch.next();
        assert_eq!(change["events"][0]["key"], key, "{change}");
    }
    let held = ask(&socket, "POST /v1/leases", &[], br#"{"ttl":"10s"}"#).expect(201).json();
    let kept = format!("POST /v1/leases/{}/keepalive", held["lease"].as_str().unwrap());
    assert!(ask(&socket, &kept, &[], b"").expect(200).json()["valid_for_ms"].as_u64() > Some(0));
    let load = Load::start(cluster.sockets(), 1);
    load.until_more_by(&[learner], 10);
    let told = load.end();
    told.verify(&socket);
}

#[test]
fn orders_are_refused_with_a_reason_and_the_lead_moves_on_request() {
    let mut cluster = Cluster::start();
    let order = |cluster: &Cluster, body: &str| {
        let headers = [("Accept", "application/json")];
        ask(cluster.socket(0), "PUT /v1/members?timeout=10s", &headers, body.as_bytes())
    };
    let refused = order(&cluster, r#"{"voters":["n1","n2","n9"]}"#).expect(412).json();
    assert!(refused["detail"].as_str().unwrap().contains("no member named n9"), "{refused}");
    let nobody = r#"{"voters":["n1","n2","n3",{"name":"n4","address":"127.0.0.1:1"}]}"#;
    let refused = order(&cluster, nobody).expect(412).json();
    assert!(refused["detail"].as_str().unwrap().contains("cannot be reached"), "{refused}");
    order(&cluster, r#"{"voters":["n1","n1"]}"#).expect(400);
    order(&cluster, r#"{"voters":[]}"#).expect(412);
    order(&cluster, r#"{"votes":["n1"]}"#).expect(400);
    let stale = r#"{"voters":["n1","n2","n3"],"learners":[],"index":99999}"#;
    let same = order(&cluster, stale).expect(200).json();
    assert_eq!(same["voters"].as_object().unwrap().len(), 3, "nothing is changed by it");
    let stale = r#"{"voters":["n1","n2"],"learners":["n3"],"index":99999}"#;
    assert_eq!(order(&cluster, stale).expect(409).code(), "conflict");
    // A voter that is away must not become one of two.
    let leader = cluster.leader();
    let [away, stays] = cluster.others(leader);
    cluster.nodes[away].kill();
    let pair = format!("n{},n{}", leader + 1, away + 1);
    wait_until("the leader misses it", || {
        let known = get(cluster.socket(leader), "/v1/members").expect(200).json();
        (known["members"][away]["active"] == false).then_some(())
    });
    let (code, _, err) = ctl(&cluster, stays, &["members", "set", "--voters", &pair]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("1 do not answer"), "{err}");
    cluster.run_again(away);
    let name = &cluster.nodes[stays].name;
    let moved = good(&cluster, away, &["members", "transfer-leader", name]);
    assert!(moved.starts_with(&format!("{name} leads")), "{moved}");
    assert_eq!(cluster.leader(), stays);
    good(&cluster, away, &["members", "transfer-leader"]);
    assert_ne!(cluster.leader(), stays);
}
