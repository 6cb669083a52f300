//! Certificates, authorities and settings change under running daemons, and nobody notices but
//! those who should.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use quorumd::pki::{Authority, Validity};
use rustix::process::Signal;

use crate::harness::{CLUSTER, Cluster, DAY, Node, Options, Port, quorumctl, quorumd, wait_until};
use crate::http::{get, post};
use crate::workload::Load;

/// Longest that a link may go on whose certificate is trusted no more: the cap of
/// `PEER_DISTRUSTED_AGE_MAX`, the dials that may be under way at its end, and a loaded machine.
const CAP: Duration = Duration::from_secs(30);

/// Three nodes with so much patience that an election has a better reason than a slow machine.
fn patient_cluster() -> Cluster {
    let mut cluster = Cluster::prepare(&Options::default());
    for node in 0..3 {
        let config = cluster.nodes[node].config.clone();
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("300ms", "5s").replace("60ms", "100ms")).unwrap();
        cluster.run(node);
    }
    cluster.nodes.iter_mut().for_each(Node::until_ready);
    cluster
}

/// Puts a file in the place of another, as careful tools do.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

fn trust(node: &Node, authorities: &[&Authority]) {
    let bundle: String = authorities.iter().map(|it| it.certificate_pem()).collect();
    replace(&node.home.join("ca.crt"), &bundle);
}

/// A new certificate for the node, its two files one after the other.
fn reissue(node: &Node, authority: &Authority) {
    let issued = authority.issue(&node.name, Validity::from_now(DAY)).unwrap();
    replace(&node.home.join("node.crt"), &issued.certificate_pem);
    replace(&node.home.join("node.key"), &issued.key_pem);
}

/// Says what the status says of its health under this code.
fn health(node: &Node, code: &str) -> Option<String> {
    let status = node.status()?;
    let notes = status["health"].as_array()?;
    let note = notes.iter().find(|note| note["code"] == code)?;
    Some(note["detail"].as_str()?.to_owned())
}

#[track_caller]
fn until_refused(node: &Node, reason: &str) {
    wait_until("the files are refused", || {
        health(node, "reload_failed").filter(|detail| detail.contains(reason))
    });
}

#[track_caller]
fn until_good(node: &Node) {
    wait_until("the files are good", || {
        let status = node.status()?;
        let notes = status["health"].as_array()?;
        notes.iter().all(|note| note["code"] != "reload_failed").then_some(())
    });
}

/// What `quorumctl reload` ends with, and says.
fn reload(node: &Node) -> (Option<i32>, String) {
    let output = quorumctl(&node.socket).arg("reload").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The node reads its files and says that they are what it has.
#[track_caller]
fn until_taken(node: &Node) {
    wait_until("what was written is in force", || {
        let (code, said) = reload(node);
        (code == Some(0) && said.contains("nothing has changed")).then_some(())
    });
}

fn term(node: &Node) -> u64 {
    node.status().expect("it answers")["term"].as_u64().expect("it has a term")
}

fn times(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

#[test]
fn an_authority_is_replaced_by_files_alone_under_load_without_a_failed_write_or_an_election() {
    let cluster = patient_cluster();
    let new = Authority::create(CLUSTER).unwrap();
    let (old, nodes) = (&cluster.authority, &cluster.nodes);
    let leader = cluster.leader();
    let before = term(&nodes[leader]);
    let load = Load::start(cluster.sockets(), 1);
    load.until_more(20);
    let steps: [&dyn Fn(&Node); 3] =
        [&|node| trust(node, &[old, &new]), &|node| reissue(node, &new), &|node| {
            trust(node, &[&new])
        }];
    for step in steps {
        nodes.iter().for_each(step);
        nodes.iter().for_each(until_taken);
        load.until_more(50);
    }
    // Beyond the time that a link with a former certificate would have had.
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        load.until_more(20);
    }
    let told = load.end();
    told.verify(cluster.socket(leader));
    assert_eq!((told.unknown, told.unavailable), (0, 0), "{told:?}");
    for node in nodes {
        assert_eq!(term(node), before, "{} saw an election", node.name);
        assert_eq!(health(node, "peer_unreachable"), None);
        let log = node.log();
        assert!(!log.contains("the link to a peer ended"), "{log}");
        assert!(log.contains("reloaded"), "{log}");
    }
}

#[test]
fn a_node_with_a_certificate_of_a_withdrawn_authority_is_shut_out_within_the_cap_and_comes_back() {
    let cluster = Cluster::start();
    let new = Authority::create(CLUSTER).unwrap();
    let leader = cluster.leader();
    let [late, other] = cluster.others(leader);
    let all = [leader, other, late].map(|node| &cluster.nodes[node]);
    all.iter().for_each(|node| trust(node, &[&cluster.authority, &new]));
    all.iter().for_each(|node| until_taken(node));
    let (prompt, late) = (&all[..2], all[2]);
    prompt.iter().for_each(|node| reissue(node, &new));
    prompt.iter().for_each(|node| until_taken(node));
    let begun = Instant::now();
    prompt.iter().for_each(|node| trust(node, &[&new]));
    for node in prompt {
        wait_until("the late one is shut out", || {
            health(node, "peer_unreachable").filter(|it| it.starts_with(&late.name))
        });
    }
    assert!(begun.elapsed() < CAP, "it took {:?}", begun.elapsed());
    all[0].put("a", "1").expect(201);
    // Its holder need not restart it.
    reissue(late, &new);
    wait_until("it is back", || (health(all[0], "peer_unreachable").is_none()).then_some(()));
    wait_until("it serves", || (late.get("/v1/kv/a").status == 200).then_some(()));
}

#[test]
fn files_that_cannot_work_are_refused_with_the_reason_once_and_good_ones_follow() {
    let cluster = Cluster::with(&Options { size: Some(1), ..Options::default() });
    let (node, authority) = (&cluster.nodes[0], &cluster.authority);
    let at = |name: &str| node.home.join(name);
    // One file of a pair, and later the other.
    let issued = authority.issue("n1", Validity::from_now(DAY)).unwrap();
    replace(&at("node.crt"), &issued.certificate_pem);
    until_refused(node, "does not belong to the certificate");
    let (code, said) = reload(node);
    assert!(code != Some(0) && said.contains("does not belong"), "{code:?}: {said}");
    replace(&at("node.key"), &issued.key_pem);
    until_good(node);
    assert!(node.log().contains("certificates"), "{}", node.log());

    // Of another node.
    let other = authority.issue("n2", Validity::from_now(DAY)).unwrap();
    replace(&at("node.crt"), &other.certificate_pem);
    replace(&at("node.key"), &other.key_pem);
    until_refused(node, "spiffe://blue/node/n2");
    // Over.
    let yesterday = std::time::SystemTime::now() - DAY;
    let over = Validity { not_before: yesterday - DAY, not_after: yesterday };
    let expired = authority.issue("n1", over).unwrap();
    replace(&at("node.crt"), &expired.certificate_pem);
    replace(&at("node.key"), &expired.key_pem);
    until_refused(node, "has expired");
    // Not of an authority that is trusted.
    let stranger = Authority::create(CLUSTER).unwrap();
    reissue(node, &stranger);
    until_refused(node, "is not signed by the authority");
    // Nothing at all.
    replace(&at("node.key"), "");
    until_refused(node, "no usable private key");
    fs::remove_file(at("ca.crt")).unwrap();
    until_refused(node, "cannot use");

    // It serves all the while, and its old certificate is in force.
    node.put("a", "1").expect(201);
    assert!(health(node, "certificate_expires").is_some(), "a day is left of it");
    trust(node, &[authority]);
    reissue(node, authority);
    until_good(node);
    let log = node.log();
    assert_eq!(times(&log, "has expired"), 1, "each reason is said once:\n{log}");
}

#[test]
fn settings_are_reloaded_by_signal_by_command_and_by_the_file_and_all_or_nothing() {
    let token = |letter: &str| letter.repeat(32) + "\n";
    let mut cluster = Cluster::prepare(&Options { size: Some(1), ..Options::default() });
    let port = Port::reserve();
    let config = cluster.nodes[0].config.clone();
    let token_file = cluster.nodes[0].home.join("token");
    fs::write(&token_file, token("a")).unwrap();
    let base = fs::read_to_string(&config).unwrap()
        + &format!("http: {{listen: \"{}\", token_file: token}}\n", port.address);
    fs::write(&config, &base).unwrap();
    cluster.run(0);
    cluster.nodes[0].until_ready();
    let node = &cluster.nodes[0];
    let big = "x".repeat(100);
    node.put("a", &big).expect(201);

    // By the file: a limit.
    replace(&config, &format!("{base}limits: {{value_bytes: 10}}\n"));
    wait_until("the limit is in force", || (node.put("a", &big).status == 413).then_some(()));
    // By the command: the level of the log.
    replace(&config, &base.replace("level: info", "level: warn"));
    until_taken(node);
    node.put("a", &big).expect(200);
    let lines = times(&node.log(), "reloaded");
    reload(node);
    assert_eq!(times(&node.log(), "reloaded"), lines, "that is not worth a line any more");
    replace(&config, &base);
    until_taken(node);
    // By the signal, which does not end it.
    let before = times(&node.log(), "reloaded: nothing has changed");
    node.signal(Signal::HUP);
    wait_until("it has heard", || {
        (times(&node.log(), "reloaded: nothing has changed") > before).then_some(())
    });

    // The token of the port.
    let passes = |letter: &str| {
        let mut stream = TcpStream::connect(port.address).unwrap();
        write!(
            stream,
            "GET /v1/status HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Connection: close\r\n\r\n",
            port.address,
            letter.repeat(32)
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200")
    };
    assert!(passes("a") && !passes("b"));
    replace(&token_file, &token("b"));
    wait_until("the new token counts", || passes("b").then_some(()));
    assert!(!passes("a"));

    // A mistake, and a setting that takes a restart: nothing of the file counts, good or not.
    for (text, reasons) in [
        (format!("{base}limits: {{value_bytes: 10}}\nnonsense: 1\n"), vec!["nonsense"]),
        (format!("{base}limits: {{value_bytes: 10, keys: 1}}\nx: 1\n"), vec!["keys", "`x`"]),
        ("[".to_owned(), vec!["not valid YAML"]),
        (
            base.replace("300ms", "900ms") + "limits: {value_bytes: 10}\nhistory: {revisions: 9}\n",
            vec!["`raft.election_timeout`", "`history`", "needs a restart"],
        ),
    ] {
        replace(&config, &text);
        until_refused(node, reasons[0]);
        let (code, said) = reload(node);
        assert_ne!(code, Some(0), "{said}");
        assert!(reasons.iter().all(|reason| said.contains(reason)), "{reasons:?} in {said}");
        assert_eq!(node.put("a", &big).status, 200, "the limit is not in force");
        let answer = post(&node.socket, "/v1/reload", "");
        assert_eq!(answer.status, 412);
    }
    // A file that may not be read, when that is anything to this user.
    fs::set_permissions(&config, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&config).is_err() {
        until_refused(node, "cannot read");
    }
    replace(&config, &base);
    until_good(node);
    let (code, said) = reload(node);
    assert_eq!((code, said.trim()), (Some(0), "nothing has changed"));
}

#[test]
fn what_ends_soon_is_told_by_check_status_metrics_and_log() {
    let mut cluster = Cluster::prepare(&Options { size: Some(1), ..Options::default() });
    let home = cluster.nodes[0].home.clone();
    let issued = cluster.authority.issue("n1", Validity::from_now(DAY)).unwrap();
    replace(&home.join("node.crt"), &issued.certificate_pem);
    replace(&home.join("node.key"), &issued.key_pem);
    let check = || {
        let output = quorumd().args(["check", "--config"]).arg(home.join("quorumd.yaml")).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(check().contains("spiffe://blue/node/n1 is valid until"), "{}", check());
    cluster.run(0);
    cluster.nodes[0].until_ready();
    let node = &cluster.nodes[0];
    wait_until("the status tells it", || health(node, "certificate_expires"));
    assert_eq!(health(node, "ca_expires"), None, "it has years to go");
    wait_until("the log tells it", || node.log().contains("is valid until").then_some(()));
    let metrics = String::from_utf8(get(&node.socket, "/metrics").body).unwrap();
    for kind in ["own", "authority"] {
        let line = metrics.lines().find(|line| {
            line.starts_with("quorumd_certificate_expires_in_seconds{")
                && line.contains(&format!("kind=\"{kind}\""))
        });
        let left: i64 = line.expect("it is there").rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(left > 2 * 86_400, kind == "authority", "{left} s for {kind}");
    }
    // A longer one, and all is well.
    let issued = cluster.authority.issue("n1", Validity::from_now(60 * DAY)).unwrap();
    replace(&home.join("node.crt"), &issued.certificate_pem);
    replace(&home.join("node.key"), &issued.key_pem);
    wait_until("the status is well", || {
        health(node, "certificate_expires").is_none().then_some(())
    });
    assert!(!check().contains("is valid until"), "{}", check());
}
