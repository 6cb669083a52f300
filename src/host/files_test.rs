//! Files on a real file system against those who want them elsewhere, and what templates may do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, Mode, RenameFlags, mknodat, renameat_with};

use crate::base::{Span, limits};
use crate::host::{
    CommandOptions, ContentOptions, FileOptions, FormatOptions, OnMissingOptions, TemplateOptions,
};

use super::file_content::{Content, NoContent, make};
use super::file_inputs::Inputs;
use super::helper_command;
use super::ownership::Ownership;
use super::published_directory::PublishedDirectory;
use super::target_file::Place;

fn own(mode: u32) -> Ownership {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Ownership { uid: uid.as_raw(), gid: gid.as_raw(), mode }
}

/// Writes a file as the daemon would; what it said otherwise.
fn write(root: &Path, beneath: &str, content: &[u8]) -> Result<(), String> {
    let place = Place::open(root, Path::new(beneath), &own(0o640)).map_err(|it| it.to_string())?;
    let staged = Arc::new(place).stage(content, &own(0o640)).map_err(|it| it.to_string())?;
    staged.replace().map_err(|it| it.to_string())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_over() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("sub")).unwrap();
    write(root.path(), "sub/a", b"one").unwrap();
    let first = fs::metadata(root.path().join("sub/a")).unwrap();
    assert_eq!(first.mode() & 0o7777, 0o640);
    write(root.path(), "sub/a", b"two").unwrap();
    assert_eq!(fs::read(root.path().join("sub/a")).unwrap(), b"two");
    assert_ne!(fs::metadata(root.path().join("sub/a")).unwrap().ino(), first.ino());
    let place = Place::open(root.path(), Path::new("sub/a"), &own(0)).unwrap();
    assert_eq!(place.found().unwrap().unwrap().content, b"two");
    drop(Arc::new(place).stage(b"three", &own(0o600)).unwrap());
    assert_eq!(names(&root.path().join("sub")), ["a"]);
    assert_eq!(fs::read(root.path().join("sub/a")).unwrap(), b"two");
}

/// What a killed daemon leaves is removed, and nothing that only looks like it.
#[test]
fn only_our_own_leftovers_are_swept() {
    let root = tempfile::tempdir().unwrap();
    let ours = [".a.quorumd-0123456789abcdef", ".a.quorumd-0000000000000000"];
    let others =
        [".a.quorumd-xyz", ".b.quorumd-0123456789abcdef", "a.quorumd-0123456789abcdef", "a"];
    for name in ours.iter().chain(&others) {
        fs::write(root.path().join(name), "x").unwrap();
    }
    Place::open(root.path(), Path::new("a"), &own(0)).unwrap().sweep().unwrap();
    let mut left: Vec<&str> = others.to_vec();
    left.sort();
    assert_eq!(names(root.path()), left);
}

#[test]
fn nothing_but_a_plain_file_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let named = root.path().join("named");
    fs::create_dir(&named).unwrap();
    symlink(&outside, named.join("link")).unwrap();
    symlink("nowhere", named.join("dangling")).unwrap();
    symlink("/proc/self/fd/1", named.join("magic")).unwrap();
    fs::create_dir(named.join("directory")).unwrap();
    mknodat(CWD, named.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::os::unix::net::UnixListener::bind(named.join("socket")).unwrap();
    let devices = rustix::fs::makedev(1, 3);
    let device = rustix::fs::FileType::CharacterDevice;
    let has_device = mknodat(CWD, named.join("device"), device, Mode::RWXU, devices).is_ok();
    for name in ["link", "dangling", "magic", "directory", "pipe", "socket", "device"] {
        if name == "device" && !has_device {
            continue;
        }
        let before = fs::symlink_metadata(named.join(name)).unwrap().ino();
        let error = write(&named, name, b"theirs").unwrap_err();
        assert!(error.contains("only a plain file is ever replaced"), "{name}: {error}");
        assert_eq!(fs::symlink_metadata(named.join(name)).unwrap().ino(), before, "{name}");
        let place = Place::open(&named, Path::new(name), &own(0)).unwrap();
        assert!(place.found().is_err() && place.remove().is_err(), "{name}");
    }
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
}

#[test]
fn directories_are_not_entered_by_links_and_not_left() {
    let root = tempfile::tempdir().unwrap();
    let (named, outside) = (root.path().join("named"), root.path().join("outside"));
    fs::create_dir(&named).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, named.join("link")).unwrap();
    symlink("/proc/self/cwd", named.join("magic")).unwrap();
    fs::create_dir(named.join("plain")).unwrap();
    symlink("../plain", named.join("plain/inner")).unwrap();
    for path in ["link/a", "magic/a", "../outside/a", "plain/../../outside/a", "plain/inner/a"] {
        assert!(write(&named, path, b"x").is_err(), "{path} was written");
    }
    assert!(names(&outside).is_empty());
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let shared = root.path().join("shared");
    fs::create_dir(&shared).unwrap();
    for mode in [0o777, 0o1777, 0o702] {
        fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        let error = write(root.path(), "shared/a", b"x").unwrap_err();
        assert!(error.contains("may be written by every user"), "{error}");
        assert!(write(&shared, "a", b"x").is_err(), "the named directory itself");
    }
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        rustix::fs::chown(&shared, Some(rustix::fs::Uid::from_raw(12_345)), None).unwrap();
        let error = write(root.path(), "shared/a", b"x").unwrap_err();
        assert!(error.contains("belongs neither to root"), "{error}");
    }
}

/// RELIABILITY 5.4: a directory is exchanged for a link to another one, over and over, while a file
/// in it is written. Either it is written in the directory, or not at all.
#[test]
fn an_exchange_of_directory_and_link_never_leads_outside() {
    let root = tempfile::tempdir().unwrap();
    let (named, outside) = (root.path().join("named"), root.path().join("outside"));
    fs::create_dir(&named).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::create_dir(named.join("sub")).unwrap();
    symlink(&outside, named.join("link")).unwrap();
    let (done, exchanges) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut written, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (sub, link) = (named.join("sub"), named.join("link"));
                renameat_with(CWD, &sub, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                exchanges.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..10_000 {
            match write(&named, "sub/a", b"secret") {
                Ok(()) => written += 1,
                Err(_) => refused += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(names(&outside).is_empty(), "written through the link: {:?}", names(&outside));
    let exchanges = exchanges.into_inner();
    assert!(written > 0 && refused > 0, "{written} {refused} {exchanges}: there was no race");
}

/// The same for the file itself.
#[test]
fn an_exchange_of_file_and_link_never_writes_through_the_link() {
    let root = tempfile::tempdir().unwrap();
    let (named, outside) = (root.path().join("named"), root.path().join("outside"));
    fs::create_dir(&named).unwrap();
    fs::write(&outside, "mine").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Each may fail, as the other side replaces what is there.
                let _ = symlink(&outside, named.join("next"));
                let _ = fs::rename(named.join("next"), named.join("a"));
            }
        });
        for _ in 0..5_000 {
            let _ = write(&named, "a", b"secret");
            assert_eq!(fs::read(&outside).unwrap(), b"mine");
        }
        done.store(true, Ordering::Relaxed);
    });
}

fn entry(content: ContentOptions) -> FileOptions {
    FileOptions {
        directory: "/".into(),
        beneath: "a".into(),
        content,
        required: Vec::new(),
        on_missing: OnMissingOptions::Keep,
        owner: None,
        group: None,
        mode: 0o640,
        check: None,
        reload: None,
        min_interval: Span::from_millis(0),
    }
}

/// What a template makes of some keys, or its mistake.
#[track_caller]
fn check_template(template: &str, records: &[(&str, &[u8])], expect: Result<&str, &str>) {
    let source = TemplateOptions::Text(template.to_owned());
    let content = ContentOptions::Template { source, keys: Vec::new(), prefixes: Vec::new() };
    let inputs = Inputs::given(&["one", "gone"], &["up/", "bad/"], records);
    let made = make(&entry(content), &Arc::new(inputs));
    match (made, expect) {
        (Ok(Content::Bytes(bytes)), Ok(expect)) => {
            assert_eq!(String::from_utf8(bytes).unwrap(), expect, "{template}");
        }
        (Err(NoContent::Bad(error)), Err(expect)) => {
            assert!(error.contains(expect), "{template}: {error}");
        }
        (made, expect) => panic!("{template}: {made:?}, not {expect:?}"),
    }
}

#[test]
fn a_template_sees_the_keys_it_was_given_and_nothing_else() {
    let records: &[(&str, &[u8])] = &[
        ("one", b"1"),
        ("up/a", b"10.0.0.1:80"),
        ("up/b", br#"{"port": 8, "tags": ["x"]}"#),
        ("bad/x", &[0xff]),
    ];
    let check = |template, expect| check_template(template, records, expect);
    check("{{ key('one') }}\n", Ok("1\n"));
    check("{% for it in keys('up/') %}\n  {{ it.name }} {{ it.key }}\n{% endfor %}\n", {
        Ok("  a up/a\n  b up/b\n")
    });
    check("{% set it = key('up/b') | fromjson %}{{ it.port }} {{ it.tags[0] }}", Ok("8 x"));
    check("{{ key('gone', 'none') }}{{ ' no' if exists('gone') }}{{ ' yes' if exists('one') }}", {
        Ok("none yes")
    });
    check("{{ keys('up/zz') | length }} {{ keys('up/')[0].revision }}", Ok("0 7"));
    check("{{ key('up/a') | word }}", Ok("10.0.0.1:80"));
    check("{{ key('up/b') | word }}", Err("a value is not a single plain word"));
    check("{{ key('gone') }}", Err("line 1: invalid operation: the key \"gone\" does not exist"));
    check("\n{{ key('two') }}", Err("line 2: invalid operation: the key \"two\" is neither in"));
    check("{{ keys('') }}", Err("is not under `prefixes`"));
    check("{{ keys('u') }}", Err("is not under `prefixes`"));
    check("{{ key('bad/x') }}", Err("holds no UTF-8 text"));
    check("{{ key('one') | fromjson | tojson }}{{ nothing }}", Err("undefined value"));
    check("{{ key('one').secret }}", Err("undefined value"));
    check("{% include '/etc/passwd' %}", Err("line 1"));
    check("{% import '/etc/passwd' as x %}", Err("line 1"));
    check("{{ key('up/a') | fromjson }}", Err("not valid JSON"));
    check("{% if %}", Err("line 1: syntax error"));
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    check(endless, Err("more steps than a rendering may"));
    let most = format!("{{% for a in range(9999) %}}{}{{% endfor %}}", "x".repeat(1_000));
    check(&most, Err("it makes more than"));
}

/// The example, as its head says it is used.
#[test]
fn the_example_for_nginx_makes_upstreams_and_lets_nobody_add_to_them() {
    let template = include_str!("../../examples/nginx-upstreams.conf.j2");
    let made = |records: &[(&str, &[u8])]| {
        let source = TemplateOptions::Text(template.to_owned());
        let content = ContentOptions::Template { source, keys: Vec::new(), prefixes: Vec::new() };
        make(&entry(content), &Arc::new(Inputs::given(&[], &["services/"], records)))
    };
    let Ok(Content::Bytes(bytes)) =
        made(&[("services/web/app1", b"10.0.0.7:8080"), ("services/web/app2", b"[fd00::1]:80")])
    else {
        panic!("it makes nothing")
    };
    let expect = "# Written by quorumd; changes here are lost.\nupstream api {\n    \
                  server 127.0.0.1:1 down;  # none is registered\n}\nupstream web {\n    \
                  server 10.0.0.7:8080;  # app1\n    server [fd00::1]:80;  # app2\n}\n";
    assert_eq!(String::from_utf8(bytes).unwrap(), expect);
    for hostile in ["10.0.0.7:80; } server { listen 81", "a\nb", "", "$host", "a#b"] {
        let made = made(&[("services/web/x", hostile.as_bytes())]);
        assert!(matches!(made, Err(NoContent::Bad(_))), "{hostile:?}: {made:?}");
    }
}

/// Values are data: what looks like a template in them is not run.
#[test]
fn a_value_is_never_read_as_a_template() {
    let hostile: &[u8] = b"{{ key('gone') }}{% include '/etc/passwd' %}\x1b[31m";
    let expect = std::str::from_utf8(hostile).unwrap();
    check_template("{{ key('one') }}", &[("one", hostile)], Ok(expect));
}

#[test]
fn a_prefix_becomes_one_document() {
    let records: &[(&str, &[u8])] =
        &[("up/a-b", b"1"), ("up/c/d", b"say \"$HOME\" `x` \\ end"), ("up/e", b"")];
    let document = |format, records: &[(&str, &[u8])]| {
        let prefix = ContentOptions::Prefix { prefix: "up/".to_owned(), format };
        match make(&entry(prefix), &Arc::new(Inputs::given(&[], &["up/"], records))) {
            Ok(Content::Bytes(bytes)) => Ok(String::from_utf8(bytes).unwrap()),
            Ok(Content::None) => panic!("removed"),
            Err(NoContent::Bad(error) | NoContent::Missing(error)) => Err(error),
        }
    };
    let env = document(FormatOptions::Env, records).unwrap();
    assert_eq!(env, "A_B=\"1\"\nC_D=\"say \\\"\\$HOME\\\" \\`x\\` \\\\ end\"\nE=\"\"\n");
    let json: serde_json::Value =
        serde_json::from_str(&document(FormatOptions::Json, records).unwrap()).unwrap();
    assert_eq!(json["c/d"], "say \"$HOME\" `x` \\ end");
    assert_eq!(document(FormatOptions::Lines, records).unwrap(), "1\nsay \"$HOME\" `x` \\ end\n\n");
    let error = |format, key: &str, value: &str| {
        document(format, &[(key, value.as_bytes()), ("up/a-b", b"")]).unwrap_err()
    };
    assert!(error(FormatOptions::Env, "up/a_b", "").contains("give the same variable"));
    assert!(error(FormatOptions::Env, "up/1", "").contains("gives no name"));
    assert!(error(FormatOptions::Lines, "up/x", "a\nb").contains("more than one line"));
    assert_eq!(document(FormatOptions::Json, &[]).unwrap_err(), "no key begins with \"up/\"");
}

#[test]
fn a_missing_key_does_what_was_said() {
    let made = |rule, required: &[&str]| {
        let content = ContentOptions::Key("gone".to_owned());
        let required = required.iter().map(|key| (*key).to_owned()).collect();
        let entry = FileOptions { on_missing: rule, required, ..entry(content) };
        make(&entry, &Arc::new(Inputs::given(&["gone", "one"], &[], &[])))
    };
    assert!(matches!(made(OnMissingOptions::Keep, &[]), Err(NoContent::Missing(_))));
    assert_eq!(made(OnMissingOptions::Empty, &[]), Ok(Content::Bytes(Vec::new())));
    assert_eq!(made(OnMissingOptions::Remove, &[]), Ok(Content::None));
    assert!(matches!(made(OnMissingOptions::Remove, &["one"]), Err(NoContent::Missing(_))));
}

fn command(argv: &[&str], timeout: u64) -> CommandOptions {
    let argv = argv.iter().map(|it| (*it).to_owned()).collect();
    CommandOptions { argv, timeout: Span::from_millis(timeout) }
}

#[tokio::test]
async fn a_command_gets_its_arguments_as_they_are_and_little_else() {
    let file = Path::new("/a b;c");
    let run = async |argv: &[&str]| helper_command::run(&command(argv, 10_000), file, None).await;
    assert_eq!(run(&["/usr/bin/test", "/a b;c", "=", "{}"]).await, Ok(()));
    let script = "test \"$QUORUMD_FILE\" = '/a b;c' && test -z \"$HOME\" && test \"$PWD\" = /";
    assert_eq!(run(&["/bin/sh", "-c", script]).await, Ok(()));
    let error = run(&["/bin/sh", "-c", "echo one; echo two >&2; exit 3"]).await.unwrap_err();
    assert!(error.starts_with("/bin/sh ended with exit status: 3: "), "{error}");
    assert!(error.contains("one") && error.contains("two"), "{error}");
    let error = run(&["/no/such/program"]).await.unwrap_err();
    assert!(error.contains("cannot be started"), "{error}");
    let loud = run(&["/bin/sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x; exit 1"]).await;
    assert!(loud.unwrap_err().len() < limits::COMMAND_OUTPUT_BYTES_MAX + 200);
}

/// A command that does not end takes its children with it.
#[tokio::test]
async fn a_command_that_does_not_end_is_killed_with_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let argv = ["/bin/sh", "-c", &script];
    let error = helper_command::run(&command(&argv, 500), Path::new("/"), None).await.unwrap_err();
    assert!(error.contains("was killed after 500ms"), "{error}");
    let pid = fs::read_to_string(pid).unwrap();
    let status = format!("/proc/{}/stat", pid.trim());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    // Killed, it may still be waited for by whoever adopted it.
    while fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z")) {
        assert!(std::time::Instant::now() < deadline, "{status} lives");
        tokio::task::yield_now().await;
    }
}

/// A program that leaves somebody behind who holds its output does not hold us up.
#[tokio::test]
async fn who_is_left_behind_is_not_waited_for() {
    let begun = std::time::Instant::now();
    let argv = ["/bin/sh", "-c", "sleep 5 & exit 0"];
    assert_eq!(helper_command::run(&command(&argv, 60_000), Path::new("/"), None).await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn hostile_names_are_not_published_and_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    use std::os::unix::ffi::OsStrExt;
    let long = "x".repeat(65);
    let bad: [&[u8]; 6] = [b"a\nb", b"a b", b"\xff\xfe", long.as_bytes(), b"\x1b[31m", b"a%2f"];
    for name in bad {
        fs::write(path.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let quiet = [".hidden", "..data", "draft~"];
    let good = ["a", "A-b_c.1", "x..y", "..."];
    for name in quiet.iter().chain(&good[..3]) {
        fs::write(path.join(name), "x").unwrap();
    }
    symlink("a", path.join("link")).unwrap();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("long"), "x".repeat(11)).unwrap();
    let listed = PublishedDirectory::list(path, 10).unwrap();
    assert_eq!(listed.files.keys().collect::<Vec<_>>(), ["A-b_c.1", "a", "x..y"]);
    assert_eq!(listed.present.iter().collect::<Vec<_>>(), ["link", "long", "sub"]);
    assert_eq!(listed.skipped.count, 9);
    let told = listed.skipped.named.concat();
    assert!(!told.contains('\n') && !told.contains('\x1b'), "{told}");
    let stamp = listed.files["a"];
    assert_eq!(listed.read("a", stamp).unwrap(), Some(b"x".to_vec()));
    fs::remove_file(path.join("a")).unwrap();
    symlink("/etc/passwd", path.join("a")).unwrap();
    assert_eq!(listed.read("a", stamp).unwrap(), None);
}
