//! Whole files against what is said of them, and the documentation against the code.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::base::Span;
use crate::telemetry::{LogFormat, LogLevel};

use super::{Config, ConfigError, Finding, MemberRole, load, parse};

const MINIMAL: &str = r#"cluster: prod
name: web1
members: {web1: "10.0.0.1:7400", web2: "10.0.0.2:7400", web3: "10.0.0.3:7400"}
tls: {cert: node.crt, key: node.key, ca: ca.crt}
data_dir: /var/lib/quorumd
"#;

fn read(text: &str) -> Result<(Config, Vec<Finding>), ConfigError> {
    parse(text.as_bytes(), Path::new("f"), Path::new("/etc/quorumd"))
}

fn good(text: &str) -> Config {
    match read(text) {
        Ok((config, warnings)) => {
            assert_eq!(warnings, [], "warnings about a good file:\n{text}");
            config
        }
        Err(error) => panic!("a good file was refused:\n{text}\n{error}"),
    }
}

/// `text` after the minimal file is refused with exactly these lines.
fn check(text: &str, expect: &[&str]) {
    check_whole(&format!("{MINIMAL}{text}"), expect);
}

fn check_whole(text: &str, expect: &[&str]) {
    match read(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => {
            let said = error.to_string();
            let lines: Vec<_> = said.lines().collect();
            assert_eq!(lines, expect, "about:\n{text}");
        }
    }
}

#[test]
fn a_minimal_file_has_five_lines_and_defaults_for_the_rest() {
    let config = good(MINIMAL);
    assert_eq!(config.listen.to_string(), "10.0.0.1:7400");
    assert_eq!(config.tls.cert, PathBuf::from("/etc/quorumd/node.crt"));
    assert_eq!(config.socket.path, PathBuf::from("/run/quorumd/quorumd.sock"));
    assert_eq!((config.socket.mode, config.http), (0o660, None));
    assert_eq!(config.shutdown_grace, Span::from_secs(10));
    assert!(config.members.values().all(|member| member.role == MemberRole::Voter));
}

#[test]
fn every_key_is_taken() {
    let text = r#"
cluster: c
name: a
listen: ":7000"
members:
  a: "a.example.com:7000"
  b: {address: "[fd00::2]:7000", role: learner}
tls: {cert: /c, key: k, ca: ../ca}
data_dir: data
socket: {path: s, mode: "0600", group: apps}
http: {listen: "[::1]:80", token_file: t}
raft: {election_timeout: 3s, heartbeat_interval: 1s, retained_entries: 50, retained_bytes: 1MiB,
       snapshot_rate: 2MiB}
history: {revisions: 5, bytes: 2MiB, age: 24h}
quota: {store_bytes: 10485760}
limits: {key_bytes: 1KiB, value_bytes: 2KiB, request_bytes: 4KiB, txn_operations: 3,
         connections: 4, streams: 5}
disk: {reserve_bytes: 0}
log: {level: trace, format: json}
shutdown_grace: 0s
"#;
    let config = good(text);
    assert_eq!(config.listen.to_string(), "[::]:7000");
    assert_eq!(config.members.get("b").map(|b| b.role), Some(MemberRole::Learner));
    assert_eq!(config.data_dir, PathBuf::from("/etc/quorumd/data"));
    assert_eq!(config.socket.group.as_deref(), Some("apps"));
    assert_eq!(config.socket.path, PathBuf::from("/etc/quorumd/s"));
    let http = config.http.as_ref().expect("the section is there");
    assert_eq!((http.listen.port(), &http.token_file), (80, &PathBuf::from("/etc/quorumd/t")));
    assert_eq!(config.replica_options().raft.election_timeout, Span::from_secs(3));
    assert_eq!(config.replica_options().raft.heartbeat_interval, Span::from_secs(1));
    let replica = config.replica_options();
    assert_eq!((replica.log_retained_entries, replica.log_retained_bytes), (50, 1 << 20));
    assert_eq!((replica.save_after_entries, replica.cut_entries_min), (25, 7));
    assert_eq!(replica.snapshot_bytes_per_second, 2 << 20);
    assert_eq!((config.history.revisions, config.history.bytes), (5, 2 << 20));
    assert_eq!(config.history.age, Some(Span::from_secs(86_400)));
    assert_eq!((config.store_bytes_max, config.disk_reserve_bytes), (10 << 20, 0));
    assert_eq!((config.limits.key_bytes, config.limits.request_bytes), (1024, 4096));
    assert_eq!((config.limits.connections, config.limits.streams), (4, 5));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Trace, LogFormat::Json));
    assert_eq!(config.shutdown_grace, Span::ZERO);
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    check(
        "raft:\n  heartbeat_interval: 10\n  electoin_timeout: 1s\nlog: {level: loud}\n",
        &[
            "f:7:23: `raft.heartbeat_interval` must be a duration such as \"250ms\", \"10s\", \
             \"1m\" or \"2h\"; found 10",
            "f:8:3: unknown key `electoin_timeout`; known in `raft`: election_timeout, \
             heartbeat_interval, retained_bytes, retained_entries, snapshot_rate",
            "f:9:14: `log.level` must be one of error, warn, info, debug, trace; found \"loud\"",
        ],
    );
}

#[test]
fn each_value_is_checked_by_itself() {
    check(
        "socket: {mode: 660}",
        &["f:6:16: `socket.mode` must be text, in quotes: an octal file mode up to \"0777\", \
           such as \"0660\"; found 660"],
    );
    check(
        "limits: {value_bytes: 2MiB}",
        &["f:6:23: `limits.value_bytes` must be a size between 1 and 1MiB; found \"2MiB\""],
    );
    check(
        "limits: {streams: 0, connections: many}",
        &[
            "f:6:19: `limits.streams` must be a number between 1 and 65536; found 0",
            "f:6:35: `limits.connections` must be a number between 1 and 65536; found \"many\"",
        ],
    );
    check(
        "quota: {store_bytes: -1}",
        &["f:6:22: `quota.store_bytes` must be a size between 1MiB and 64GiB; found -1"],
    );
    check(
        "shutdown_grace: 1h",
        &["f:6:17: `shutdown_grace` must be between 0ms and 10m; found \"1h\""],
    );
    check(
        "history: [1]\nsocket:\n  path:",
        &[
            "f:6:10: `history` must be a section with keys; found a list",
            "f:8:8: `socket.path` must be the path of a file; found nothing; remove the key for \
             the default",
        ],
    );
    check(
        "listen: web1:7400",
        &["f:6:9: `listen` must be an IP address with a port, such as \"10.0.0.1:7400\", or \
           \":7400\" for all interfaces; found \"web1:7400\""],
    );
}

#[test]
fn a_loopback_port_is_on_loopback_and_asks_for_a_token() {
    check(
        "http: {listen: \"0.0.0.0:7401\", token_file: t}",
        &["f:6:16: `http.listen` must be a loopback address with a port, such as \
           \"127.0.0.1:7401\"; found \"0.0.0.0:7401\""],
    );
    check(
        "http:\n  listen: \"127.0.0.1:7401\"",
        &["f:7:3: `http.token_file` is missing: any user and any web page of this host can reach \
           a loopback port, so callers must show a token"],
    );
    check("http: {token_file: t}", &["f:6:7: `http.listen` is missing: a loopback address"]);
    assert_eq!(good(&format!("{MINIMAL}http:\n  # nothing\n")).http, None);
}

#[test]
fn members_are_checked_as_a_whole() {
    check_whole(
        "cluster: c\nname: d\nmembers:\n  a: \"h:1\"\n  b: \"h:1\"\n  c: \"h:2\"\n",
        &[
            "f:2:7: `name` must be one of `members` (a, b, c); found \"d\"",
            "f:5:6: `members.b` has the same address as `members.a`",
        ],
    );
    check_whole(
        "cluster: c\nname: a\nmembers:\n  a: {address: \"h:1\", role: learner}\n",
        &["f:4:3: `members` needs at least one voter; three are usual"],
    );
    check_whole(
        "cluster: c\nname: a\nmembers:\n  a: {role: boss}\n  a: \"h:2\"\n  b: 7\n",
        &[
            "f:4:6: `members.a.address` is missing",
            "f:4:13: `members.a.role` must be \"voter\" or \"learner\"; found \"boss\"",
            "f:5:3: the member `a` is there twice",
            "f:6:6: `members.b` must be an address with a port, such as \"10.0.0.1:7400\", \
             \"[fd00::1]:7400\" or \"web1.example.com:7400\"; found 7",
        ],
    );
    let many: String = (0..10).map(|i| format!("  n{i}: \"h:{}\"\n", i + 1)).collect();
    check_whole(
        &format!("cluster: c\nname: n1\nmembers:\n{many}"),
        &["f:4:3: `members` has 10 voters and may have 9: let the others be {address: ..., role: \
           learner}"],
    );
}

#[test]
fn what_is_missing_is_named() {
    check_whole(
        "log: {}",
        &[
            "f:1:1: `cluster` is missing: the name of the cluster, the same on all its nodes",
            "f:1:1: `members` is missing: a name and an address for each member",
            "f:1:1: `name` is missing: the name of this node, one of `members`",
        ],
    );
    let empty = read("").expect_err("an empty file is no configuration").to_string();
    assert_eq!(empty.lines().count(), 3, "{empty}");
}

#[test]
fn settings_are_checked_together() {
    check(
        "raft: {election_timeout: 200ms}",
        &["f:6:26: `raft.heartbeat_interval` (100ms) must be at most a third of \
           `raft.election_timeout` (200ms), or one lost message starts an election"],
    );
    check(
        "limits: {value_bytes: 1MiB, request_bytes: 64KiB}",
        &["f:6:44: `limits.request_bytes` (65536) must not be below `limits.value_bytes` \
           (1048576): a request carries a value"],
    );
    let long = "s".repeat(108);
    check(
        &format!("socket: {{path: /{long}}}"),
        &[&format!(
            "f:6:16: `socket.path` is /{long} with 109 bytes, and the system allows 107: choose a \
             shorter one"
        )],
    );
}

#[test]
fn text_that_is_no_yaml_is_refused_with_its_place() {
    check(
        "log: {level: info",
        &["f:7:1: not valid YAML: did not find expected ',' or '}', while \
                                  parsing a flow mapping at line 6 column 6"],
    );
    check(
        "log: !secret {}",
        &["f:6:6: not valid YAML: log: tags (`!name`) are not used in this file"],
    );
    check("cluster: other", &["f:6:1: `cluster` is there twice"]);
    let error = parse(b"cluster: c\nname: \xff", Path::new("f"), Path::new("/"));
    let said = error.expect_err("bytes that are no text").to_string();
    assert_eq!(said, "f:2:7: not valid UTF-8 text");
}

#[test]
fn what_is_unwise_is_a_warning() {
    let text = MINIMAL.replace(", web3: \"10.0.0.3:7400\"", "");
    let (_, warnings) = read(&format!("{text}socket: {{mode: \"0666\"}}")).expect("unwise only");
    let said: Vec<_> = warnings.iter().map(Finding::to_string).collect();
    assert_eq!(
        said,
        [
            "f:3:10: 2 voters survive the loss of no more nodes than 1 would: an odd number is \
             better",
            "f:6:16: `socket.mode` lets every user of this host change the whole store",
        ]
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("none.yaml");
    let said = load(&path).expect_err("there is no file").to_string();
    assert!(said.contains("none.yaml") && said.contains("No such file"), "{said}");
}

/// An alias can stand for a whole list; eight levels of eight would be 16 million values.
#[test]
fn a_small_text_that_means_a_huge_one_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let names = vec![format!("*a{}", level - 1); 8].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{names}]\n"));
    }
    let said = read(&text).expect_err("too large").to_string();
    assert!(said.contains("not valid YAML"), "{said}");
}

fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quorumd.yaml");
    std::fs::read_to_string(path).expect("the example is part of the repository")
}

/// The example with each line `#key: ...` taken as a setting, and `##key: ...` too if `all`.
fn uncommented(all: bool) -> String {
    let setting = |line: &str| {
        let bare = line.trim_start();
        let marks = bare.len() - bare.trim_start_matches('#').len();
        let starts_key = bare[marks..].starts_with(|letter: char| letter.is_ascii_lowercase());
        starts_key && (marks == 1 || marks == 2 && all)
    };
    let line = |line: &str| if setting(line) { line.replace('#', "") } else { line.to_owned() };
    example().lines().map(|text| line(text) + "\n").collect()
}

#[test]
fn the_example_is_right_about_every_default() {
    let bare = MINIMAL.replace("tls: {cert: node.crt, key: node.key, ca: ca.crt}\n", "");
    let defaults = good(&bare);
    assert_eq!(good(&example()), defaults, "the example changes something");
    assert_eq!(good(&uncommented(false)), defaults, "a commented default is not the default");
    let all = good(&uncommented(true));
    assert!(all.http.is_some() && all.history.age.is_some(), "an example of a setting is missing");
}

/// What the code itself says it knows: an unknown key is answered with the known ones.
fn known_keys() -> Vec<String> {
    let sections = ["tls", "socket", "http", "raft", "history", "quota", "limits", "disk", "log"];
    let mut text = String::from("zzz: 1\n");
    for section in sections {
        text.push_str(&format!("{section}: {{zzz: 1}}\n"));
    }
    let said = read(&text).expect_err("unknown keys").to_string();
    let mut keys = Vec::new();
    for line in said.lines() {
        let Some((_, known)) = line.split_once("; known ") else { continue };
        let (place, names) = known.split_once(": ").expect("a place, then names");
        let section = place.trim_start_matches("in ").trim_matches('`');
        for name in names.split(", ") {
            if section != "here" {
                keys.push(format!("{section}.{name}"));
            } else if !sections.contains(&name) {
                keys.push(name.to_owned());
            }
        }
    }
    assert!(keys.len() > 25, "only {} keys: {keys:?}", keys.len());
    keys
}

#[test]
fn the_example_and_the_manual_have_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let manual = std::fs::read_to_string(path).expect("the manual is part of the repository");
    let example = uncommented(true);
    for key in known_keys() {
        let last = key.rsplit('.').next().expect("a key has a name");
        assert!(
            example.lines().any(|line| line.trim_start().starts_with(&format!("{last}:"))),
            "examples/quorumd.yaml does not show {key}"
        );
        assert!(
            manual.contains(&format!("`{key}`")),
            "docs/configuration.md does not explain `{key}`"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, Path::new("f"), Path::new("/"));
    }

    /// Pieces of YAML in any order: far more of these parse than of random bytes.
    #[test]
    fn no_yaml_makes_it_panic_and_every_mistake_has_a_place(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "cluster", "name", "members", "tls", "socket", "limits", "raft", "http", "mode",
                "path", "web1", ": ", ":", "\n", "\n  ", "  ", "- ", "{", "}", "[", "]", ", ",
                "\"", "'", "|", ">", "&a ", "*a", "!t ", "!!int ", "<<", "# ", "---\n", "...\n",
                "? ", "1", "-1.5e9", "0660", "10.0.0.1:7400", "1s", "64MiB", "null", "~", "true",
                "\t", "\u{feff}", "ä", "\\x", "%YAML 1.1\n",
            ]),
            0..40,
        )
    ) {
        let text = pieces.concat();
        let lines = text.lines().count() + 1;
        if let Err(ConfigError::Invalid(findings)) = read(&text) {
            prop_assert!(!findings.is_empty(), "refused without a reason:\n{text}");
            for finding in findings {
                prop_assert!(finding.line >= 1 && finding.line <= lines, "{finding}\n{text}");
                prop_assert!(!finding.message.contains('\n'), "{finding:?}");
            }
        }
    }
}
