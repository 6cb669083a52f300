//! Hosts that join with a token: those that may, and everybody else.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use quorumd::pki::{Authority, Credentials, JoinToken, TlsConfigs, Validity};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{DAY, Node, quorumctl, quorumd, test_directory, wait_until};
use crate::http::{ask, get, post};
use crate::workload::Load;

/// Short timers, as in all tests.
const TIMERS: &str = "raft: {election_timeout: \"300ms\", heartbeat_interval: \"60ms\"}\n\
                      log: {level: debug, format: text}\nshutdown_grace: 5s\n";

/// A cluster that `quorumd init` began. What was secret in it is looked for in all logs at the end.
struct Hosts {
    nodes: Vec<Node>,
    secrets: Vec<String>,
    directory: TempDir,
}

/// What a program said, on both streams.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

impl Hosts {
    /// One node, which runs.
    fn init(more: &[&str]) -> Self {
        let mut hosts =
            Self { nodes: Vec::new(), secrets: Vec::new(), directory: test_directory() };
        let first = hosts.host("web1");
        let output = hosts.init_again(more);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("quorumctl token create"), "{}", said(&output));
        hosts.time(first);
        hosts.nodes[first].run();
        hosts.nodes[first].until_ready();
        hosts
    }

    fn init_again(&self, more: &[&str]) -> Output {
        let mut command = quorumd();
        command.args(["init", "--cluster", "blue"]).args(self.place(0)).args(more);
        command.output().unwrap()
    }

    /// One more host, with nothing on it.
    fn host(&mut self, name: &str) -> usize {
        let home = self.directory.path().join(name);
        fs::create_dir(&home).unwrap();
        self.nodes.push(Node::new(name, &home));
        self.nodes.len() - 1
    }

    fn place(&self, node: usize) -> Vec<String> {
        let Node { name, home, data, socket, port, .. } = &self.nodes[node];
        let pairs = [
            ("--name", name.clone()),
            ("--listen", port.address.to_string()),
            ("--config-dir", home.join("etc").display().to_string()),
            ("--data-dir", data.display().to_string()),
            ("--socket", socket.display().to_string()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn time(&self, node: usize) {
        let config = &self.nodes[node].config;
        let text = fs::read_to_string(config).unwrap();
        fs::write(config, text + TIMERS).unwrap();
    }

    /// A token, made through a node.
    #[track_caller]
    fn token(&mut self, through: usize, arguments: &[&str]) -> String {
        let mut command = quorumctl(&self.nodes[through].socket);
        let output = command.args(["token", "create"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        self.secrets.push(text.rsplit('.').nth(1).unwrap().to_owned());
        text
    }

    fn join(&self, node: usize, token: &str, more: &[&str]) -> Output {
        let mut command = quorumd();
        command.args(["join", "--token-file", "-"]).args(self.place(node)).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// It must be refused, with these words, and leave no configuration.
    #[track_caller]
    fn join_in_vain(&self, node: usize, token: &str, more: &[&str], words: &str) {
        let output = self.join(node, token, &[more, &["--patience", "0"]].concat());
        let said = said(&output);
        assert!(!output.status.success(), "{said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{words:?} is not in: {said}");
        assert!(!self.nodes[node].config.exists());
    }

    /// A new host that has joined, and is a member.
    fn grow(&mut self, name: &str, voter: bool) -> usize {
        let node = self.host(name);
        let role = if voter { "voter" } else { "learner" };
        let token = self.token(node / 2, &["--role", role]);
        let output = self.join(node, &token, if voter { &["--voter"] } else { &[] });
        assert!(output.status.success(), "{}", said(&output));
        self.time(node);
        self.nodes[node].run();
        self.nodes[node].until_ready();
        wait_until("it is what it shall be", || {
            (self.members(0).get(name).map(String::as_str) == Some(role)).then_some(())
        });
        node
    }

    fn members(&self, node: usize) -> std::collections::BTreeMap<String, String> {
        let answer = get(&self.nodes[node].socket, "/v1/members").expect(200).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let member = |member: &Value| (text(&member["name"]), text(&member["role"]));
        answer["members"].as_array().unwrap().iter().map(member).collect()
    }

    fn tokens(&self, node: usize) -> Value {
        get(&self.nodes[node].socket, "/v1/tokens").expect(200).json()["tokens"].clone()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            let log = node.log();
            for secret in &self.secrets {
                assert!(!log.contains(secret), "a secret is in the log of {}", node.name);
            }
            assert!(!log.contains("PRIVATE KEY"), "a key is in the log of {}", node.name);
        }
    }
}

/// The same token, which names other members.
fn aimed(token: &str, addresses: &[SocketAddr]) -> String {
    let mut token = JoinToken::parse(token).unwrap();
    token.addresses = addresses.iter().map(ToString::to_string).collect();
    token.reveal()
}

#[test]
fn three_voters_and_a_learner_come_by_one_command_each() {
    let mut hosts = Hosts::init(&[]);
    hosts.grow("web2", true);
    hosts.grow("web3", true);
    let learner = hosts.grow("web4", false);
    let roles: Vec<String> = hosts.members(learner).into_values().collect();
    assert_eq!(roles, ["voter", "voter", "voter", "learner"]);
    // What is left of the ways in: nothing that would be added again, and used tokens.
    wait_until("nothing is left to be added", || {
        let leftover = get(&hosts.nodes[0].socket, "/v1/kv?prefix=_joins/&keys_only=true");
        (leftover.expect(200).json()["count"] == 0).then_some(())
    });
    let tokens = hosts.tokens(learner);
    assert!(tokens.as_array().unwrap().iter().all(|token| token["state"] == "used"), "{tokens}");
    let load = Load::start(hosts.nodes.iter().map(|node| node.socket.clone()).collect(), 1);
    load.until_more_by(&[0, 1, 2, 3], 10);
    // Each of them is a full voter: the first one may go.
    hosts.nodes[0].kill();
    load.until_more_by(&[1, 2, 3], 10);
    load.end().verify(&hosts.nodes[learner].socket);
    // Only the first host has the key of the authority.
    for node in &hosts.nodes {
        let keys: Vec<bool> = ["ca/ca.key", "tls/join.key"]
            .iter()
            .map(|file| node.home.join("etc").join(file).exists())
            .collect();
        assert_eq!(keys, [node.name == "web1", false], "{}", node.name);
    }
    let again = hosts.init_again(&[]);
    assert_eq!(again.status.code(), Some(3), "{}", said(&again));
    let second = hosts.join(1, "qd1.x", &[]);
    assert_eq!(second.status.code(), Some(2), "{}", said(&second));
}

#[test]
fn a_token_is_refused_with_a_sentence_unless_it_is_right() {
    let mut hosts = Hosts::init(&[]);
    let (two, three) = (hosts.host("web2"), hosts.host("web3"));
    // One that is used.
    let used = hosts.token(0, &[]);
    let output = hosts.join(two, &used, &[]);
    assert!(output.status.success(), "{}", said(&output));
    hosts.join_in_vain(three, &used, &[], "web1 refuses: the join token has been used");
    // The name is waited for: nobody else gets it meanwhile.
    let other = hosts.token(0, &[]);
    fs::remove_dir_all(hosts.nodes[two].home.join("etc")).unwrap();
    hosts.join_in_vain(two, &other, &[], "another host is joining under this name");
    // One that is revoked, one that has expired, one for a learner, one for another name.
    let revoked = hosts.token(0, &[]);
    let id = JoinToken::parse(&revoked).unwrap().id;
    let target = format!("DELETE /v1/tokens/{id}");
    let answer = ask(&hosts.nodes[0].socket, &target, &[], b"").expect(200).json();
    assert_eq!(answer["state"], "revoked");
    hosts.join_in_vain(three, &revoked, &[], "the join token was revoked");
    let short = hosts.token(0, &["--ttl", "1s"]);
    wait_until("it has expired", || {
        let id = JoinToken::parse(&short).unwrap().id;
        let tokens = hosts.tokens(0);
        let token = tokens.as_array().unwrap().iter().find(|token| token["id"] == id);
        (token.unwrap()["state"] == "expired").then_some(())
    });
    hosts.join_in_vain(three, &short, &[], "the join token has expired");
    let learner = hosts.token(0, &[]);
    hosts.join_in_vain(three, &learner, &["--voter"], "the join token is for a learner");
    let named = hosts.token(0, &["--name", "web9"]);
    hosts.join_in_vain(three, &named, &[], "made for another name");
    // One with a secret that was guessed: it has the id of a real one.
    let mut forged = JoinToken::create("blue", JoinToken::parse(&other).unwrap().pin, Vec::new());
    let forged = forged.as_mut().unwrap();
    forged.id = JoinToken::parse(&other).unwrap().id;
    forged.addresses = vec![hosts.nodes[0].port.address.to_string()];
    hosts.join_in_vain(
        three,
        &forged.reveal(),
        &[],
        "the secret of the join token is not the right one",
    );
    forged.id = "0123456789abcdef".to_owned();
    hosts.join_in_vain(three, &forged.reveal(), &[], "the cluster does not know this join token");
    hosts.join_in_vain(three, &other[..other.len() - 1], &[], "incomplete or mistyped");
    // The same one is good after all that, for its own name.
    let output = hosts.join(three, &other, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let target = "DELETE /v1/tokens/0123456789abcdef";
    ask(&hosts.nodes[0].socket, target, &[], b"").expect(404);
    for body in [r#"{"ttl":"25h"}"#, r#"{"role":"king"}"#, r#"{"replace":true}"#, r#"{"x":1}"#] {
        post(&hosts.nodes[0].socket, "/v1/tokens", body).expect(400);
    }
}

#[test]
fn who_is_in_between_or_of_another_cluster_learns_nothing() {
    let mut hosts = Hosts::init(&[]);
    let two = hosts.host("web2");
    let token = hosts.token(0, &[]);
    // A stranger with an authority of its own, of the same cluster name.
    let fake = Authority::create("blue").unwrap();
    let issued = fake.issue("web1", Validity::from_now(DAY)).unwrap();
    let root = fake.certificate_pem();
    let now = SystemTime::now();
    let (certificate, key) = (&issued.certificate_pem, &issued.key_pem);
    let credentials = Credentials::from_pem(certificate, key, root, now).unwrap();
    let tls = TlsConfigs::new(&credentials).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let (hears, asks) = (heard.clone(), asked.clone());
    runtime.spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls.join_server.clone());
        while let Ok((socket, _)) = listener.accept().await {
            asks.fetch_add(1, Ordering::SeqCst);
            if let Ok(mut stream) = acceptor.accept(socket).await {
                let mut bytes = [0; 1024];
                let read = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await;
                hears.fetch_add(read.unwrap_or(0), Ordering::SeqCst);
            }
        }
    });
    let words = "has no certificate of the authority that the token names";
    hosts.join_in_vain(two, &aimed(&token, &[address]), &[], words);
    assert!(asked.load(Ordering::SeqCst) > 0, "it was dialed");
    assert_eq!(heard.load(Ordering::SeqCst), 0, "nothing was sent to a stranger");
    // A real cluster, and another one.
    let other = Hosts::init(&[]);
    let there = aimed(&token, &[other.nodes[0].port.address]);
    hosts.join_in_vain(two, &there, &[], words);
    // A pin that was changed on its way fits no real member.
    let mut mistaken = JoinToken::parse(&token).unwrap();
    mistaken.pin = fake.pin();
    hosts.join_in_vain(two, &mistaken.reveal(), &[], words);
    // After all that the token is still good.
    let output = hosts.join(two, &token, &[]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A relay that takes a request to a member and keeps the answer.
fn swallow_answers(member: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(member).unwrap());
            server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut bytes = [0; 16 * 1024];
            // Its first words, and the member's, which go through; then its request.
            let read = client.read(&mut bytes).unwrap();
            server.write_all(&bytes[..read]).unwrap();
            let read = server.read(&mut bytes).unwrap();
            client.write_all(&bytes[..read]).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            // Until the member has answered and closes.
            let _ = server.read_to_end(&mut Vec::new());
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    address
}

#[test]
fn an_answer_that_was_lost_is_given_again_to_the_same_host() {
    let mut hosts = Hosts::init(&[]);
    let (two, thief) = (hosts.host("web2"), hosts.host("web2b"));
    let token = hosts.token(0, &["--role", "voter"]);
    let relay = swallow_answers(hosts.nodes[0].port.address);
    hosts.join_in_vain(two, &aimed(&token, &[relay]), &["--voter"], "the same command tries again");
    wait_until("the token is used", || (hosts.tokens(0)[0]["state"] == "used").then_some(()));
    // Not to another one, nor to the same name with another key.
    hosts.join_in_vain(thief, &token, &[], "the join token has been used");
    let key = hosts.nodes[two].home.join("etc/tls/join.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    hosts.join_in_vain(two, &token, &["--voter"], "the join token has been used");
    fs::write(&key, kept).unwrap();
    let output = hosts.join(two, &token, &["--voter"]);
    assert!(output.status.success(), "{}", said(&output));
    hosts.time(two);
    hosts.nodes[two].run();
    hosts.nodes[two].until_ready();
    wait_until("it votes", || (hosts.members(0)["web2"] == "voter").then_some(()));
}

#[test]
fn one_token_at_two_members_lets_one_host_in() {
    let mut hosts = Hosts::init(&[]);
    let two = hosts.grow("web2", true);
    // The second voter gets a copy of the authority.
    let (from, to) = (hosts.nodes[0].home.join("etc/ca"), hosts.nodes[two].home.join("etc/ca"));
    fs::create_dir(&to).unwrap();
    for file in ["ca.pem", "ca.key"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let config = hosts.nodes[two].config.clone();
    fs::write(&config, fs::read_to_string(&config).unwrap() + "ca: {dir: ca}\n").unwrap();
    hosts.nodes[two].stop();
    hosts.nodes[two].run();
    hosts.nodes[two].until_ready();
    wait_until("both are known to sign", || {
        let signers = get(&hosts.nodes[0].socket, "/v1/kv?prefix=_ca/signers/").expect(200).json();
        (signers["count"] == 2).then_some(())
    });
    for round in 0..6 {
        let (one, other) = (hosts.host(&format!("a{round}")), hosts.host(&format!("b{round}")));
        let token = hosts.token(round % 2, &[]);
        let at = |node: usize| aimed(&token, &[hosts.nodes[node].port.address]);
        let outputs = std::thread::scope(|scope| {
            let first = scope.spawn(|| hosts.join(one, &at(0), &[]));
            let second = scope.spawn(|| hosts.join(other, &at(two), &[]));
            [first.join().unwrap(), second.join().unwrap()]
        });
        let won = outputs.iter().filter(|output| output.status.success()).count();
        let told: Vec<String> = outputs.iter().map(said).collect();
        assert_eq!(won, 1, "{told:#?}");
        assert!(told.iter().any(|said| said.contains("the join token has been used")), "{told:#?}");
    }
}

#[test]
fn a_member_without_the_key_names_one_that_has_it_and_a_host_is_replaced() {
    let mut hosts = Hosts::init(&[]);
    let two = hosts.grow("web2", true);
    let three = hosts.grow("web3", true);
    // A token that names only members without the key.
    let fourth = hosts.host("web4");
    let token = hosts.token(two, &[]);
    let through = [hosts.nodes[two].port.address, hosts.nodes[three].port.address];
    let output = hosts.join(fourth, &aimed(&token, &through), &[]);
    assert!(output.status.success(), "{}", said(&output));
    // A name that a member has needs a token that says so.
    wait_until("the host is a member and no longer joining", || {
        let joins = get(&hosts.nodes[0].socket, "/v1/kv?prefix=_joins/web3").expect(200).json();
        (joins["count"] == 0).then_some(())
    });
    hosts.nodes[three].kill();
    fs::remove_dir_all(&hosts.nodes[three].data).unwrap();
    fs::remove_dir_all(hosts.nodes[three].home.join("etc")).unwrap();
    let plain = hosts.token(0, &["--role", "voter", "--name", "web3"]);
    hosts.join_in_vain(three, &plain, &["--voter"], "a member of this name exists");
    let replacing = hosts.token(0, &["--role", "voter", "--replace", "web3"]);
    let output = hosts.join(three, &replacing, &["--voter"]);
    assert!(output.status.success(), "{}", said(&output));
    hosts.time(three);
    hosts.nodes[three].run();
    hosts.nodes[three].until_ready();
    wait_until("it votes, and its former life is gone", || {
        let members = get(&hosts.nodes[0].socket, "/v1/members").expect(200).json();
        let members = members["members"].as_array().unwrap().clone();
        let voters = members.iter().filter(|member| member["role"] == "voter").count();
        (members.len() == 3 && voters == 3).then_some(())
    });
    // With it there is a quorum.
    hosts.nodes[two].kill();
    wait_until("two of three write", || {
        let answer = ask(&hosts.nodes[three].socket, "PUT /v1/kv/x", &[], b"1");
        matches!(answer.status, 200 | 201).then_some(())
    });
}

/// When the certificate of a node begins, as a number that grows with each renewal.
fn serial(node: &Node) -> Vec<u8> {
    fs::read(node.home.join("etc/tls/node.pem")).unwrap()
}

#[test]
fn certificates_are_renewed_under_load_and_no_write_fails() {
    let mut hosts = Hosts::init(&["--certificate-life", "20s"]);
    hosts.grow("web2", true);
    hosts.grow("web3", true);
    let learner = hosts.grow("web4", false);
    let load = Load::start(hosts.nodes.iter().map(|node| node.socket.clone()).collect(), 1);
    load.until_more_by(&[0, 1, 2, 3], 5);
    for _ in 0..2 {
        let before: Vec<Vec<u8>> = hosts.nodes.iter().map(serial).collect();
        wait_until("every certificate is another one", || {
            let now = hosts.nodes.iter().map(serial);
            now.zip(&before).all(|(now, before)| now != *before).then_some(())
        });
        load.until_more_by(&[0, 1, 2, 3], 5);
    }
    let told = load.end();
    assert_eq!((told.unknown, told.unavailable), (0, 0), "no write failed");
    told.verify(&hosts.nodes[learner].socket);
    for node in &hosts.nodes {
        let mode = fs::metadata(node.home.join("etc/tls/node.pem")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        assert!(node.log().contains("the certificate of this node has been renewed"));
    }
    // One that was off for too long is told what to do.
    hosts.nodes[learner].stop();
    wait_until("its certificate has ended", || {
        let mut check = quorumd();
        check.args(["check", "--config"]).arg(&hosts.nodes[learner].config);
        let said = said(&check.output().unwrap());
        said.contains("has expired").then(|| {
            assert!(said.contains("quorumctl token create --replace web4"), "{said}");
        })
    });
}

#[test]
fn the_authority_is_exchanged_under_load_and_waits_for_a_member_that_is_away() {
    let mut hosts = Hosts::init(&[]);
    hosts.grow("web2", true);
    hosts.grow("web3", true);
    let learner = hosts.grow("web4", false);
    let ca = |node: &Node| get(&node.socket, "/v1/ca").expect(200).json();
    let old = ca(&hosts.nodes[0])["pin"].clone();
    hosts.nodes[learner].stop();
    let sockets = hosts.nodes[..3].iter().map(|node| node.socket.clone());
    let load = Load::start(sockets.collect(), 1);
    load.until_more_by(&[0, 1, 2], 5);
    let ctl = |node: &Node, arguments: &[&str]| {
        quorumctl(&node.socket).arg("ca").args(arguments).output().unwrap()
    };
    // Only where the key is.
    let refused = ctl(&hosts.nodes[1], &["rotate"]);
    assert!(said(&refused).contains("does not hold the key"), "{}", said(&refused));
    assert!(ctl(&hosts.nodes[0], &["rotate"]).status.success());
    let again = ctl(&hosts.nodes[0], &["rotate"]);
    assert!(said(&again).contains("is under way"), "{}", said(&again));
    // All but one trust the new one; that one is waited for, by name, over a crash of the signer.
    let waited_for = |seen: &Value| -> Vec<String> {
        let members = seen["members"].as_array().unwrap().iter();
        let waited = members.filter(|member| member["waits"] == true);
        waited.map(|member| member["name"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("only the one that is away is waited for", || {
        (waited_for(&ca(&hosts.nodes[1])) == ["web4"]).then_some(())
    });
    assert_eq!(ca(&hosts.nodes[1])["phase"], "trust");
    load.until_more_by(&[0, 1, 2], 5);
    hosts.nodes[learner].run();
    hosts.nodes[learner].until_ready();
    let seen = wait_until("it has ended by itself", || {
        let seen = ca(&hosts.nodes[0]);
        (seen["phase"].is_null() && seen["pin"] != old).then_some(seen)
    });
    for member in seen["members"].as_array().unwrap() {
        assert_eq!(member["issuer"], seen["pin"], "{seen}");
    }
    load.until_more_by(&[0, 1, 2], 5);
    let told = load.end();
    assert_eq!((told.unknown, told.unavailable), (0, 0), "no write failed");
    told.verify(&hosts.nodes[learner].socket);
    for node in &hosts.nodes {
        let roots = fs::read_to_string(node.home.join("etc/tls/ca.pem")).unwrap();
        assert_eq!(roots.matches("BEGIN CERTIFICATE").count(), 1, "the old one is forgotten");
    }
    assert!(!hosts.nodes[0].home.join("etc/ca/next").exists());
    // All start again with what is on disk, and hosts join under the new authority.
    for node in 0..4 {
        hosts.nodes[node].stop();
        hosts.nodes[node].run();
        hosts.nodes[node].until_ready();
    }
    hosts.grow("web5", false);
}
