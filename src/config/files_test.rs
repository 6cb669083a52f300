//! The sections `files` and `publish` against what is said of them.

use std::path::Path;

use crate::base::Span;
use crate::host::{
    CommandOptions, ContentOptions, FileOptions, OnConflictOptions, OnMissingOptions,
    OnVanishOptions, TemplateOptions,
};

use super::{Config, parse};

const MINIMAL: &str = "cluster: prod
name: web1
members: {web1: \"10.0.0.1:7400\"}
data_dir: /var/lib/quorumd
";

fn read(text: &str) -> Result<Config, String> {
    let text = format!("{MINIMAL}{text}");
    let parsed = parse(text.as_bytes(), Path::new("f"), Path::new("/etc/quorumd"));
    parsed.map(|(config, _)| config).map_err(|error| error.to_string())
}

#[track_caller]
fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The file with `text` is refused with one line, about the place where `at` first stands.
#[track_caller]
fn check(text: &str, at: &str, expect: &str) {
    let error = read(text).map(|_| ()).expect_err(text);
    let whole = format!("{MINIMAL}{text}");
    let before = &whole[..whole.find(at).expect(at)];
    let line = before.lines().count() + usize::from(before.ends_with('\n'));
    let column = before.rsplit('\n').next().unwrap_or_default().len() + 1;
    assert_eq!(error, format!("f:{line}:{column}: {expect}"), "{text}");
}

#[test]
fn a_file_has_what_its_entry_says_and_defaults() {
    let config = good(
        "files_directories: [/etc/app, /etc/app/conf.d]
files:
  short: {path: /etc/app/a, key: app/a}
  long:
    path: /etc/app/conf.d/up.conf
    template: up.j2
    keys: [app/x]
    prefixes: [up/]
    required: [app/x]
    owner: www-data
    group: \"33\"
    mode: \"0600\"
    check: [/usr/sbin/nginx, -t, -c, \"{}\"]
    check_timeout: 5s
    reload_unit: nginx.service
    min_interval: 1s
",
    );
    assert_eq!(config.files.state_dir, Path::new("/var/lib/quorumd/files"));
    let short = &config.files.entries["short"];
    let expect = FileOptions {
        directory: "/etc/app".into(),
        beneath: "a".into(),
        content: ContentOptions::Key("app/a".to_owned()),
        required: Vec::new(),
        on_missing: OnMissingOptions::Keep,
        owner: None,
        group: None,
        mode: 0o640,
        check: None,
        reload: None,
        min_interval: Span::from_millis(250),
    };
    assert_eq!(*short, expect);
    let long = &config.files.entries["long"];
    assert_eq!((long.directory.as_path(), long.mode), (Path::new("/etc/app/conf.d"), 0o600));
    let source = TemplateOptions::File("/etc/quorumd/up.j2".into());
    let (keys, prefixes) = (vec!["app/x".to_owned()], vec!["up/".to_owned()]);
    assert_eq!(long.content, ContentOptions::Template { source, keys, prefixes });
    let check = long.check.as_ref().unwrap();
    assert_eq!((check.argv.len(), check.timeout), (4, Span::from_secs(5)));
    let timeout = Span::from_secs(30);
    assert_eq!(long.reload, Some(CommandOptions::reload_unit("nginx.service", timeout)));
}

#[test]
fn every_mistake_about_files_has_its_place() {
    let check = |lines: &str, at: &str, expect: &str| {
        check(&format!("files_directories: [/srv]\nfiles:\n{lines}"), at, expect);
    };
    check(
        "  a: {path: /etc/shadow, key: k}\n",
        "/etc/shadow",
        "`files.a.path` must be a path under one of `files_directories`; found \"/etc/shadow\"",
    );
    check(
        "  a: {path: /srv/../etc/shadow, key: k}\n",
        "/srv/..",
        "`files.a.path` must be an absolute path without \".\" and \"..\"; found \
         \"/srv/../etc/shadow\"",
    );
    let one = "`files.a` needs exactly one of `key`, `prefix`, `template` and `template_text`";
    check("  a: {path: /srv/a}\n", "{path", one);
    check("  a: {path: /srv/a, key: k, prefix: p}\n", "{path", one);
    check(
        "  a: {path: /srv/a, key: _locks/x}\n",
        "_locks",
        "`files.a.key` must be a key outside of the namespace \"_\"; found \"_locks/x\"",
    );
    check(
        "  a:\n    path: /srv/a\n    keys: [k]\n    template_text: \"x\\n{% if %}\"\n",
        "\"x",
        "`files.a.template_text` must be a template without mistakes (line 2: syntax error: \
         unexpected end of block); found \"x\\n{% if %}\"",
    );
    check(
        "  a: {path: /srv/a, template: t}\n",
        "{path",
        "`files.a` needs `keys` or `prefixes`: what the template may read",
    );
    check(
        "  a: {path: /srv/a, key: k, check: \"rm -rf /\"}\n",
        "\"rm",
        "`files.a.check` must be a list of texts; found \"rm -rf /\"",
    );
    check(
        "  a: {path: /srv/a, key: k, reload: [systemctl]}\n",
        "[systemctl",
        "`files.a.reload` must begin with the absolute path of a program",
    );
    check(
        "  a: {path: /srv/a, key: k}\n  b: {path: /srv/a, key: k}\n",
        "b: {path",
        "`files.b.path` is also the path of `files.a`",
    );
    check(
        "  a/b: {path: /srv/a, key: k}\n",
        "a/b",
        "`a name in files` must be 1 to 64 letters, digits, \"-\", \"_\" or \".\", the first a \
         letter or digit; found \"a/b\"",
    );
    check(
        "  a: {path: /srv/a, key: k, reload_unit: \"-x\"}\n",
        "\"-x",
        "`files.a.reload_unit` must be the name of a systemd unit, such as \"nginx.service\"; \
         found \"-x\"",
    );
}

#[test]
fn the_root_is_no_directory_for_files() {
    check(
        "files_directories: [/]\nfiles: {a: {path: /b, key: k}}\n",
        "/]",
        "`each of files_directories` must be an absolute path of a directory other than \"/\", \
         without \".\" and \"..\"; found \"/\"",
    );
}

#[test]
fn a_directory_is_published_under_a_prefix_of_its_own() {
    let config = good(
        "limits: {value_bytes: \"64KiB\"}
publish:
  a: {directory: drop, prefix: \"hosts/{node}/\"}
  b: {directory: /srv/b, prefix: b/, on_conflict: key_wins, on_vanish: keep}
",
    );
    let [a, b] = ["a", "b"].map(|name| config.publish.entries[name].clone());
    assert_eq!(
        (a.directory.as_path(), a.prefix.as_str()),
        ("/etc/quorumd/drop".as_ref(), "hosts/web1/")
    );
    assert_eq!(
        (a.on_conflict, a.on_vanish),
        (OnConflictOptions::FileWins, OnVanishOptions::Delete)
    );
    assert_eq!((b.on_conflict, b.on_vanish), (OnConflictOptions::KeyWins, OnVanishOptions::Keep));
    assert_eq!(a.file_bytes_max, 64 * 1024);
    check(
        "publish:\n  a: {directory: /a, prefix: x/}\n  b: {directory: /b, prefix: x/y/}\n",
        "b: {dir",
        "`publish.b.prefix` and `publish.a.prefix` begin the same keys",
    );
    check("publish:\n  a: {directory: /a}\n", "{directory", "`publish.a.prefix` is missing");
    check(
        "publish:\n  a: {directory: /a, prefix: _x/}\n",
        "_x/",
        "`publish.a.prefix` must be the beginning of keys outside of the namespace \"_\"; found \
         \"_x/\"",
    );
}
