//! The access rules with real users: callers of other users and groups, in other control groups and
//! user namespaces, refused and let in on what the kernel says about them.
//!
//! Only root can become others; a run without root shows the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Cluster, Options, Process, quorumctl, quorumd, wait_until};
use crate::http::{ask, get, post, put, try_ask};

/// Users that no host has.
const WEB: u32 = 4_100;
const OTHER: u32 = 4_200;
/// A group that no host has.
const TEAM: u32 = 4_300;

const RULES: &str = "\
access:
  web: {uids: \"4100-4199\", read: [\"app/*\", shared], write: [\"app/*\"], lock: [\"app/*\"]}
  team: {gid: 4300, read: [\"*\"], campaign: [leader]}
  unit: {unit: \"q-web-*.service\", write: [\"by-unit/*\"]}
  both: {uid: 4200, gid: 4300, administrate: true}
";

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not shown: this takes root");
    }
    root
}

/// A cluster of one whose socket everybody may connect to.
fn open_cluster(more: &str) -> Cluster {
    let options = Options { more: more.to_owned(), size: Some(1), ..Options::default() };
    let cluster = Cluster::with(&options);
    open_to_all(&cluster);
    cluster
}

fn open_to_all(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    for (path, mode) in
        [(cluster.directory.path(), 0o755), (node.home.as_path(), 0o755), (&node.socket, 0o666)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// A caller: a user with its groups.
struct Caller {
    uid: u32,
    groups: &'static [u32],
}

impl Caller {
    const fn new(uid: u32, groups: &'static [u32]) -> Self {
        Self { uid, groups }
    }

    /// A program that runs as this caller.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.uid));
        match self.groups {
            [] => command.arg("--clear-groups"),
            groups => {
                let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
                command.arg(format!("--groups={}", groups.join(",")))
            }
        };
        command.arg(program);
        command
    }

    /// The answer to a request: its status and body.
    #[track_caller]
    fn ask(&self, socket: &Path, line: &str, body: &str) -> (u16, Value) {
        answer(self.command("curl"), socket, line, body)
    }
}

#[track_caller]
fn answer(mut curl: Command, socket: &Path, line: &str, body: &str) -> (u16, Value) {
    let (method, target) = line.split_once(' ').unwrap();
    curl.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "-X", method, "--unix-socket"]);
    curl.arg(socket).arg(format!("http://q{target}"));
    if !body.is_empty() {
        curl.args(["--data-binary", body]);
    }
    let Output { stdout, stderr, .. } = curl.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let Some((body, status)) = text.rsplit_once('\n').filter(|(_, status)| *status != "000") else {
        panic!("{line}: {text} {}", String::from_utf8_lossy(&stderr));
    };
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn callers_may_do_what_rules_about_them_allow() {
    if !is_root() {
        return;
    }
    let cluster = open_cluster(RULES);
    let socket = cluster.socket(0);
    for key in ["app/x", "shared", "secret"] {
        put(socket, &format!("/v1/kv/{key}"), "1").expect(201);
    }
    let (web, other) = (Caller::new(WEB, &[]), Caller::new(OTHER, &[]));
    let (team, both) = (Caller::new(WEB + 50, &[TEAM]), Caller::new(OTHER, &[TEAM]));
    let txn = r#"{"then": [{"put": {"key": "app/x", "value": "2"}}],
        "else": [{"get": {"key": "secret"}}]}"#;
    let own_txn = r#"{"if": [{"key": "shared", "field": "version", "op": "==", "value": 1}],
        "then": [{"put": {"key": "app/x", "value": "2"}}], "else": [{"get": {"prefix": "app/"}}]}"#;
    for (who, line, body, status, rule) in [
        (&web, "GET /v1/kv/app/x", "", 200, None),
        (&web, "GET /v1/kv/shared", "", 200, None),
        (&web, "GET /v1/kv/secret", "", 403, Some("web")),
        (&web, "GET /v1/kv?prefix=app/", "", 200, None),
        (&web, "GET /v1/kv?prefix=ap", "", 403, Some("web")),
        (&web, "GET /v1/kv?prefix=", "", 403, Some("web")),
        (&web, "GET /v1/watch?prefix=", "", 403, Some("web")),
        (&web, "PUT /v1/kv/app/y", "1", 201, None),
        (&web, "PUT /v1/kv/shared", "1", 403, Some("web")),
        (&web, "POST /v1/txn", txn, 403, Some("web")),
        (&web, "POST /v1/txn", own_txn, 200, None),
        (&web, "POST /v1/locks/other", "{}", 403, Some("web")),
        (&web, "POST /v1/elections/leader", r#"{"value":"x"}"#, 403, Some("web")),
        (&web, "POST /v1/compact", r#"{"revision":2}"#, 403, Some("web")),
        (&web, "GET /v1/status", "", 200, None),
        (&other, "GET /v1/kv/app/x", "", 403, None),
        (&other, "PUT /v1/kv/app/x", "1", 403, None),
        (&other, "POST /v1/leases", "{}", 403, None),
        (&other, "GET /v1/leases", "", 403, None),
        (&other, "GET /readyz", "", 200, None),
        (&team, "GET /v1/kv/secret", "", 200, None),
        (&team, "PUT /v1/kv/secret", "1", 403, Some("web")),
        (&team, "PUT /v1/kv/app/y", "1", 200, None),
        (&both, "GET /v1/kv?prefix=", "", 200, None),
        (&both, "POST /v1/compact", r#"{"revision":2}"#, 200, None),
        (&both, "PUT /v1/kv/app/y", "1", 403, Some("team")),
    ] {
        let (found, answer) = who.ask(socket, line, body);
        assert_eq!(found, status, "{} {line}: {answer}", who.uid);
        if status == 403 {
            assert_eq!(answer["code"], "forbidden", "{line}");
            assert_eq!(answer["rule"].as_str(), rule, "{} {line}: {answer}", who.uid);
            let detail = answer["detail"].as_str().unwrap();
            assert!(detail.contains(rule.unwrap_or("no rule is about")), "{detail}");
            let reads = line.starts_with("GET");
            assert_eq!(answer["applied"], if reads { Value::Null } else { json!("no") });
        }
    }
    let seen = get(socket, "/v1/kv/app/x").expect(200);
    assert_eq!(seen.text(), "2", "a refused transaction was applied, or the other was not");
}

#[test]
fn a_lease_belongs_to_its_user() {
    if !is_root() {
        return;
    }
    let cluster = open_cluster(&format!("{RULES}  other: {{uid: 4200, lock: [\"app/*\"]}}\n"));
    let socket = cluster.socket(0);
    let (web, other) = (Caller::new(WEB, &[]), Caller::new(OTHER, &[]));
    let admin = Caller::new(OTHER, &[TEAM]);
    let (status, granted) = web.ask(socket, "POST /v1/leases", r#"{"ttl":"1h"}"#);
    assert_eq!(status, 201, "{granted}");
    let lease = granted["lease"].as_str().unwrap().to_owned();
    let take = json!({ "lease": lease }).to_string();
    let (status, held) = web.ask(socket, "POST /v1/locks/app/l", &take);
    assert_eq!(status, 200, "{held}");
    let release = format!("DELETE /v1/locks/app/l?token={}", held["token"]);
    let path = |method: &str, rest: &str| format!("{method} /v1/leases/{lease}{rest}");
    for (line, body) in [
        (path("GET", ""), ""),
        (path("GET", "/events"), ""),
        (path("POST", "/keepalive"), ""),
        (path("DELETE", ""), ""),
        (release.clone(), ""),
        ("POST /v1/locks/app/m".to_owned(), take.as_str()),
    ] {
        let (status, answer) = other.ask(socket, &line, body);
        assert_eq!((status, answer["code"].as_str()), (403, Some("forbidden")), "{line}");
    }
    let count = |who: &Caller| {
        let (status, answer) = who.ask(socket, "GET /v1/leases", "");
        assert_eq!(status, 200, "{answer}");
        answer["leases"].as_array().unwrap().iter().filter(|it| it["bind"] == "none").count()
    };
    assert_eq!((count(&web), count(&other), count(&admin)), (1, 0, 1));
    for unknown in ["DELETE /v1/leases/1f", "POST /v1/leases/1f/keepalive"] {
        assert_eq!(other.ask(socket, unknown, "").0, 404, "{unknown}");
    }
    assert_eq!(web.ask(socket, &path("POST", "/keepalive"), "").0, 200);
    assert_eq!(web.ask(socket, &release, "").0, 200);
    assert_eq!(admin.ask(socket, &path("DELETE", ""), "").0, 200);
}

/// Without rules it is the group of the socket that counts: of the daemon, when none is named.
#[test]
fn without_rules_the_group_of_the_socket_may_do_all_but_administrate() {
    if !is_root() {
        return;
    }
    let cluster = open_cluster("");
    let socket = cluster.socket(0);
    let (member, stranger) = (Caller::new(OTHER, &[0]), Caller::new(OTHER, &[TEAM]));
    for (line, body, status) in [
        ("PUT /v1/kv/a", "1", 201),
        ("GET /v1/kv?prefix=", "", 200),
        ("POST /v1/leases", "{}", 201),
        ("POST /v1/compact", r#"{"revision":2}"#, 403),
        ("GET /v1/access", "", 403),
    ] {
        assert_eq!(member.ask(socket, line, body).0, status, "{line}");
        assert_eq!(stranger.ask(socket, line, body).0, 403, "{line}");
    }
    assert_eq!(post(socket, "/v1/compact", r#"{"revision":2}"#).status, 200, "root may");
    // The mode of the socket comes first.
    let closed = fs::Permissions::from_mode(0o600);
    fs::set_permissions(socket, closed).unwrap();
    let mut curl = member.command("curl");
    let Output { status, stderr, .. } =
        curl.args(["-sS", "--unix-socket"]).arg(socket).arg("http://q/healthz").output().unwrap();
    assert_eq!(status.code(), Some(7), "{}", String::from_utf8_lossy(&stderr));
}

/// Where control groups can be made: the unified hierarchy.
fn cgroups() -> Option<PathBuf> {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let mut roots = roots.into_iter().map(PathBuf::from);
    roots
        .find(|root| root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists())
}

/// A control group of this test, which is empty and goes with it.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It fails while a killed process is still on its way out: the next boot forgets it.
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

#[test]
fn the_unit_is_that_of_the_process_that_connected() {
    let Some(root) = cgroups().filter(|_| is_root()) else { return };
    let cluster = open_cluster(RULES);
    let socket = cluster.socket(0);
    let slice = root.join(format!("q{}.slice", std::process::id()));
    let status_in = |unit: &str| {
        let directory = slice.join(unit);
        if let Err(error) = fs::create_dir_all(&directory) {
            println!("not shown: no control group can be made here: {error}");
            return None;
        }
        let group = Cgroup(directory);
        let mut shell = Command::new("sh");
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
        shell.args(["-c", &enter, "sh", "setpriv", "--reuid=4200", "--regid=4200"]);
        shell.args(["--clear-groups", "curl"]);
        Some(answer(shell, socket, "PUT /v1/kv/by-unit/x", "1"))
    };
    let Some((status, allowed)) = status_in("q-web-7.service") else { return };
    assert_eq!(status, 201, "{allowed}");
    let (status, refused) = status_in("q-db.service").unwrap();
    assert_eq!((status, &refused["rule"]), (403, &Value::Null), "{refused}");
    // A process may name what it was delegated as it likes.
    let (status, refused) = status_in("q-db.service/q-web-7.service").unwrap();
    assert_eq!((status, &refused["rule"]), (403, &Value::Null), "{refused}");
    assert_eq!(Caller::new(OTHER, &[]).ask(socket, "PUT /v1/kv/by-unit/x", "1").0, 403);
}

/// A daemon in a user namespace of its own sees every user that it does not map as the same one.
#[test]
fn a_user_of_another_namespace_is_nobody() {
    if !is_root() {
        return;
    }
    let more = "access: {anyone: {uids: \"0-4294967294\", read: [\"*\"], write: [\"*\"]}}\n";
    let options = Options { more: more.to_owned(), size: Some(1), ..Options::default() };
    let cluster = Cluster::prepare(&options);
    let (node, mut command) = (&cluster.nodes[0], Command::new("unshare"));
    command.args(["--user", "--map-root-user", "--kill-child"]);
    let log = fs::File::create(node.log_path()).unwrap();
    let daemon = quorumd();
    command.arg(daemon.get_program()).args(["run", "--config"]).arg(&node.config);
    let _daemon = Process::spawn(command.stdout(log.try_clone().unwrap()).stderr(log));
    wait_until("the daemon in its namespace is ready", || {
        let ready = try_ask(&node.socket, "GET /readyz", &[], b"").ok()?;
        (ready.status == 200).then_some(())
    });
    open_to_all(&cluster);
    put(&node.socket, "/v1/kv/a", "1").expect(201);
    for uid in [WEB, OTHER] {
        let (status, answer) = Caller::new(uid, &[]).ask(&node.socket, "GET /v1/kv/a", "");
        assert_eq!((status, &answer["rule"]), (403, &Value::Null), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("user 65534"), "{answer}");
    }
    assert_eq!(get(&node.socket, "/v1/access").expect(200).json()["sees_all_users"], false);
    assert!(node.log().contains("user namespace of its own"), "{}", node.log());
}

#[test]
fn refusals_do_not_fill_the_log_and_tell_no_secrets() {
    if !is_root() {
        return;
    }
    let cluster = open_cluster(RULES);
    let socket = cluster.socket(0);
    let mut curl = Caller::new(OTHER, &[]).command("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}\n", "-X", "PUT", "--data-binary"]);
    curl.args(["canary-value", "--unix-socket"]).arg(socket);
    let output = curl.arg("http://q/v1/kv/canary-key[1-2000]").output().unwrap();
    let codes = String::from_utf8_lossy(&output.stdout);
    assert_eq!(codes.lines().filter(|code| *code == "403").count(), 2_000);
    let log = cluster.nodes[0].log();
    let told = log.lines().filter(|line| line.contains("refused a caller")).count();
    // One for each second that it took.
    assert!((1..=60).contains(&told), "{told} lines:\n{log}");
    assert!(!log.contains("canary"), "{log}");
}

#[test]
fn the_command_line_explains() {
    let cluster = open_cluster(RULES);
    let socket = cluster.socket(0);
    let ctl = |arguments: &[&str]| {
        let output = quorumctl(socket).arg("access").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, errors)
    };
    for (arguments, status, word) in [
        (&["check", "--uid", "4100", "write", "app/x"] as &[&str], 0, "by the rule web"),
        (&["check", "--uid", "4100", "write", "other"], 4, "about it: web"),
        (&["check", "--uid", "4200", "write", "app/x"], 4, "about it: none"),
        (&["check", "--uid", "4200", "--gid", "4300", "administrate"], 0, "by the rule both"),
        (&["check", "--uid", "1", "--gid", "4300", "read", "--prefix", "a"], 0, "rule team"),
        (&["check", "--uid", "1", "--unit", "q-web-1.service", "write", "by-unit/x"], 0, "unit"),
        (&["check", "--uid", "4100", "lock", "app/x"], 0, "web"),
        (&["check", "--uid", "4100", "campaign", "leader"], 4, "no rule allows it"),
        (&["check", "write", "anything"], 0, "by the rule"),
        (&["check", "--user", "root", "administrate"], 0, "by the rule root"),
        (&["list"], 0, "q-web-*.service"),
    ] {
        let (code, text, errors) = ctl(arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {text}{errors}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
    assert_eq!(ctl(&["check", "--user", "no-such-user", "administrate"]).0, Some(2));
    if !is_root() {
        return;
    }
    // Everybody may ask about itself, administrators about others.
    let web = Caller::new(WEB, &[]);
    let line = "POST /v1/access/check";
    let (status, answer) = web.ask(socket, line, r#"{"right":"write","name":"app/x"}"#);
    assert_eq!((status, &answer["allowed"], &answer["rule"]), (200, &json!(true), &json!("web")));
    assert_eq!(answer["subject"]["uid"], WEB);
    let (status, _) = web.ask(socket, line, r#"{"right":"administrate","uid":0}"#);
    assert_eq!((status, web.ask(socket, "GET /v1/access", "").0), (403, 403));
    let odd = r#"{"right":"write","name":"x","extra":1}"#;
    assert_eq!(ask(socket, line, &[], odd.as_bytes()).status, 400);
}

/// A reservation of names for nodes, as an administrator writes it.
#[track_caller]
fn reserve(socket: &Path, name: &str, content: &str) {
    let reply = put(socket, &format!("/v1/kv/_access/{name}"), content);
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
}

#[track_caller]
fn forbidden(socket: &Path, line: &str, body: &str) {
    let problem = ask(socket, line, &[], body.as_bytes()).expect(403).json();
    assert_eq!((&problem["code"], &problem["applied"]), (&json!("forbidden"), &json!("no")));
    assert!(problem["detail"].as_str().unwrap().contains("reserved for other"), "{problem}");
}

/// The second line of defence: not the own daemon, which may be taken over, but the leader refuses.
#[test]
fn the_leader_refuses_what_is_reserved_for_other_nodes() {
    let mut cluster = Cluster::start();
    let learner = cluster.newcomer();
    let address = cluster.nodes[learner].port.address;
    let added = quorumctl(cluster.socket(0))
        .args(["members", "add", &format!("n4={address}")])
        .output()
        .unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    cluster.nodes[learner].until_ready();
    let (one, four) = (cluster.nodes[0].socket.clone(), cluster.nodes[learner].socket.clone());
    put(&four, "/v1/kv/app/x", "before").expect(201);
    reserve(
        &one,
        "app",
        r#"{"nodes": ["n1", "n2", "n3"], "write": ["app/**"],
            "lock": ["nightly"], "campaign": ["e"]}"#,
    );
    reserve(&one, "admin", r#"{"nodes": ["n1", "n2", "n3"], "administrate": true}"#);
    // It is kept in one form, and everybody may read it.
    let kept = get(&four, "/v1/kv/_access/admin").expect(200).text();
    assert_eq!(kept, r#"{"nodes":["n1","n2","n3"],"administrate":true}"#);
    let txn = r#"{"if": [{"key": "none", "field": "version", "op": "!=", "value": 0}],
        "then": [{"put": {"key": "app/x", "value": "txn"}}]}"#;
    let change = r#"{"voters": ["n1", "n2", "n3", "n4"]}"#;
    let mut led = Vec::new();
    for leader in ["n2", "n3", "n1"] {
        let moved = format!(r#"{{"to": "{leader}"}}"#);
        post(&one, "/v1/leader", &moved).expect(200);
        for (line, body) in [
            ("PUT /v1/kv/app/x", "mine"),
            ("DELETE /v1/kv/app/x", ""),
            ("DELETE /v1/kv?prefix=a", ""),
            ("POST /v1/txn", txn),
            ("POST /v1/locks/nightly", "{}"),
            ("POST /v1/elections/e", r#"{"value": "x"}"#),
            ("PUT /v1/kv/_access/mine", r#"{"nodes": ["n4"], "write": ["*"]}"#),
            ("DELETE /v1/kv/_access/app", ""),
            ("POST /v1/compact", r#"{"revision": 2}"#),
        ] {
            forbidden(&four, line, body);
        }
        let refused = ask(&four, "PUT /v1/members", &[], change.as_bytes()).expect(403).json();
        assert_eq!((&refused["code"], &refused["applied"]), (&json!("forbidden"), &json!("no")));
        // What nobody has reserved is for all.
        put(&four, &format!("/v1/kv/else/{leader}"), "1").expect(201);
        let value = format!("under {leader}");
        for node in 0..3 {
            put(cluster.socket(node), "/v1/kv/app/x", &value).expect(200);
        }
        assert_eq!(get(&four, "/v1/kv/app/x").expect(200).text(), value);
        led.push(cluster.nodes[0].status().unwrap()["leader"].as_str().unwrap().to_owned());
    }
    assert_eq!(led, ["n2", "n3", "n1"]);
    // The lease under which a reserved lock is held is not ended by others either.
    let lease = ask(&one, "POST /v1/leases", &[], br#"{"ttl":"1h"}"#).expect(201).json();
    let lease = lease["lease"].as_str().unwrap().to_owned();
    post(&one, "/v1/locks/nightly", &json!({ "lease": lease }).to_string()).expect(200);
    forbidden(&four, &format!("DELETE /v1/leases/{lease}"), "");
    ask(cluster.socket(1), &format!("DELETE /v1/leases/{lease}"), &[], b"").expect(200);
    // A crash of the leader changes nothing of it.
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[learner].until_served();
    forbidden(&four, "PUT /v1/kv/app/x?timeout=20s", "mine");
    cluster.run_again(leader);
    // Taken back, the names are for all.
    ask(&one, "DELETE /v1/kv/_access/app", &[], b"").expect(200);
    put(&four, "/v1/kv/app/x", "mine").expect(200);
}

#[test]
fn a_reservation_is_checked_before_it_is_kept() {
    let options = Options { size: Some(1), ..Options::default() };
    let cluster = Cluster::with(&options);
    let socket = cluster.socket(0);
    for (name, content, status) in [
        ("a", "", 400),
        ("a", "[]", 400),
        ("a", r#"{"nodes": ["n1"]}"#, 400),
        ("a", r#"{"write": ["a"]}"#, 400),
        ("a", r#"{"nodes": [], "write": ["a"]}"#, 400),
        ("a", r#"{"nodes": ["n1"], "write": ["a"], "read": ["a"]}"#, 400),
        ("a", r#"{"nodes": ["n*1"], "write": ["a"]}"#, 400),
        ("a", r#"{"nodes": ["n1"], "write": [""]}"#, 400),
        ("a", r#"{"nodes": ["n1"], "write": ["a\nb"]}"#, 400),
        ("a", r#"{"nodes": ["other"], "administrate": true}"#, 412),
        ("a/b", r#"{"nodes": ["n1"], "write": ["a"]}"#, 400),
        ("", r#"{"nodes": ["n1"], "write": ["a"]}"#, 400),
        ("a?lease=1f", r#"{"nodes": ["n1"], "write": ["a"]}"#, 400),
        ("a", r#"{"nodes": ["n*", "\"\\é"], "write": ["a\"", "b*"]}"#, 201),
    ] {
        let reply = put(socket, &format!("/v1/kv/_access/{name}"), content);
        assert_eq!(reply.status, status, "{name} {content}: {}", reply.text());
    }
    let txn = r#"{"then": [{"put": {"key": "_access/a", "value": "x"}}]}"#;
    assert_eq!(post(socket, "/v1/txn", txn).expect(403).code(), "forbidden");
    let wide = ask(socket, "DELETE /v1/kv?prefix=_access/", &[], b"");
    assert_eq!(wide.expect(403).code(), "forbidden");
    // What was kept is what the leader reads: another node's names would be refused.
    put(socket, "/v1/kv/b1", "1").expect(201);
    put(socket, "/v1/kv/_access/a", r#"{"nodes": ["x"], "write": ["b*", "\"\\"]}"#).expect(200);
    forbidden(socket, "PUT /v1/kv/b1", "2");
    forbidden(socket, "PUT /v1/kv/%22%5C", "2");
    ask(socket, "DELETE /v1/kv/_access/a", &[], b"").expect(200);
    put(socket, "/v1/kv/b1", "2").expect(200);
}
