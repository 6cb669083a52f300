//! Who may do what under which rules.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::KeyRange;

use super::{AccessOptions, AccessRuleOptions, AccessRules, Decision, Facts, Subject, Wanted};

fn subject(uid: u32, gids: &[u32], cgroup: Option<&str>) -> Subject {
    let facts = Facts::new(gids.iter().copied(), cgroup.map(str::to_owned));
    Subject::described(uid, facts)
}

fn list(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|&pattern| pattern.to_owned()).collect()
}

fn rule(name: &str) -> AccessRuleOptions {
    AccessRuleOptions { name: name.to_owned(), ..AccessRuleOptions::default() }
}

fn read(key: &str) -> Wanted {
    Wanted::Read(KeyRange::Key(Bytes::copy_from_slice(key.as_bytes())))
}

fn read_all(prefix: &str) -> Wanted {
    Wanted::Read(KeyRange::Prefix(Bytes::copy_from_slice(prefix.as_bytes())))
}

fn write(key: &str) -> Wanted {
    Wanted::Write(KeyRange::Key(Bytes::copy_from_slice(key.as_bytes())))
}

fn write_all(prefix: &str) -> Wanted {
    Wanted::Write(KeyRange::Prefix(Bytes::copy_from_slice(prefix.as_bytes())))
}

fn lock(name: &'static str) -> Wanted {
    Wanted::Lock(Bytes::from_static(name.as_bytes()))
}

fn campaign(name: &'static str) -> Wanted {
    Wanted::Campaign(Bytes::from_static(name.as_bytes()))
}

fn may(rules: &AccessRules, subject: &Subject, wanted: &Wanted) -> bool {
    let answer = rules.authorize(subject, std::slice::from_ref(wanted)).is_ok();
    assert_eq!(rules.decide(subject, wanted).allowed_by.is_some(), answer, "{wanted:?}");
    answer
}

#[test]
fn a_rule_allows_what_it_lists_and_nothing_else() {
    let rules = AccessRules::only(vec![AccessRuleOptions {
        uids: vec![(1_000, 1_000)],
        read: list(&["shared/*", "one"]),
        write: list(&["app/**"]),
        lock: list(&["nightly"]),
        campaign: list(&["web*"]),
        ..rule("web")
    }]);
    let caller = subject(1_000, &[], None);
    for allowed in [
        read("one"),
        read("shared/a"),
        read_all("shared/a"),
        write("app/x"),
        write_all("app/"),
        lock("nightly"),
        campaign("web-1"),
        Wanted::Lease,
        read("_locks/nightly/1f"),
        read_all("_locks/nightly/"),
        read_all("_elections/web"),
        read("_locks/one/1f"),
        read_all("_access/"),
    ] {
        assert!(may(&rules, &caller, &allowed), "{allowed:?}");
        assert!(!may(&rules, &subject(1_001, &[], None), &allowed), "{allowed:?} of another user");
    }
    for refused in [
        read("app/x"),
        read("one/more"),
        read_all("one"),
        read_all(""),
        read_all("shared"),
        read_all("_"),
        read_all("_locks/"),
        read_all("_locks/nightly"),
        read("_elections/other/1f"),
        read("_tokens/a"),
        write("shared/a"),
        write_all(""),
        write_all("ap"),
        write("_locks/nightly/1f"),
        write("_access/web"),
        lock("nightly2"),
        lock("web-1"),
        campaign("nightly"),
        Wanted::Administrate,
    ] {
        assert!(!may(&rules, &caller, &refused), "{refused:?}");
    }
    let all = [write("app/x"), read("one"), read("two"), write("app/y")];
    let denied = rules.authorize(&caller, &all).unwrap_err();
    assert_eq!((denied.uid, denied.rule.as_deref()), (1_000, Some("web")));
    assert_eq!((denied.what, denied.name.as_deref()), ("read", Some("two")));
    assert!(denied.to_string().contains("\"web\""), "{denied}");
    let nobody = rules.authorize(&subject(7, &[], None), &all).unwrap_err();
    assert_eq!((nobody.rule, nobody.uid), (None, 7));
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let everything = |it: AccessRuleOptions| AccessRuleOptions { read: list(&["*"]), ..it };
    let web = "/system.slice/web-1.service/work";
    for (rule, yes, no) in [
        (
            AccessRuleOptions { uids: vec![(1_000, 1_999)], ..rule("a") },
            vec![subject(1_000, &[], None), subject(1_999, &[], None)],
            vec![subject(999, &[1_000], None), subject(2_000, &[], None)],
        ),
        (
            AccessRuleOptions { gids: vec![27], ..rule("a") },
            vec![subject(1, &[4, 27], None)],
            vec![subject(27, &[4], None), subject(0, &[], None)],
        ),
        (
            AccessRuleOptions { gids: vec![4, 27], uids: vec![(1, 1)], ..rule("a") },
            vec![subject(1, &[4, 27], None)],
            vec![subject(1, &[27], None), subject(2, &[4, 27], None)],
        ),
        (
            AccessRuleOptions { unit: Some("web-*.service".to_owned()), ..rule("a") },
            vec![subject(1, &[], Some(web))],
            vec![subject(1, &[], Some("/system.slice/web.service")), subject(1, &[], None)],
        ),
        (
            AccessRuleOptions {
                cgroup: Some("/system.slice/web-1.service".to_owned()),
                uids: vec![(5, 5)],
                ..rule("a")
            },
            vec![subject(5, &[], Some(web)), subject(5, &[], Some("/system.slice/web-1.service"))],
            vec![
                subject(6, &[], Some(web)),
                subject(5, &[], Some("/system.slice/web-1.services")),
                subject(5, &[], Some("/system.slice")),
                subject(5, &[], None),
            ],
        ),
        (rule("about nobody"), vec![], vec![subject(0, &[0], Some("/"))]),
    ] {
        let rules = AccessRules::only(vec![everything(rule.clone())]);
        for subject in yes {
            assert!(may(&rules, &subject, &read("x")), "{rule:?} {subject:?}");
        }
        for subject in no {
            assert!(!may(&rules, &subject, &read("x")), "{rule:?} {subject:?}");
        }
    }
}

#[test]
fn who_is_nobody_here_is_nobody() {
    let anyone = AccessRuleOptions {
        uids: vec![(0, u32::MAX)],
        read: list(&["*"]),
        lock: list(&["*"]),
        ..rule("anyone")
    };
    let group = AccessRuleOptions { gids: vec![65_534], write: list(&["*"]), ..rule("group") };
    let rules = AccessRules::only(vec![anyone, group]);
    let foreign = subject(65_534, &[65_534, 1_000], Some("/system.slice/web.service"));
    for wanted in [read("x"), write("x"), Wanted::Lease] {
        assert!(!may(&rules, &foreign, &wanted), "{wanted:?}");
    }
    assert!(rules.authorize_lease(&foreign, 65_534).is_err(), "not even what looks like its own");
    let member = subject(1, &[65_534], None);
    assert!(may(&rules, &member, &read("x")) && !may(&rules, &member, &write("x")));
}

#[test]
fn leases_belong_to_their_user_and_to_administrators() {
    let mut locker = AccessRuleOptions { lock: list(&["a"]), ..rule("locker") };
    locker.uids = vec![(1, 2)];
    let reader = AccessRuleOptions { uids: vec![(3, 3)], read: list(&["*"]), ..rule("reader") };
    let admin = AccessRuleOptions { uids: vec![(4, 4)], administrate: true, ..rule("admin") };
    let rules = AccessRules::only(vec![locker, reader, admin]);
    for (uid, owner, allowed) in
        [(1, 1, true), (1, 2, false), (2, 1, false), (3, 3, false), (4, 1, true), (4, 4, true)]
    {
        let answer = rules.authorize_lease(&subject(uid, &[], None), owner);
        assert_eq!(answer.is_ok(), allowed, "{uid} uses a lease of {owner}");
    }
    assert!(!may(&rules, &subject(4, &[], None), &read("x")), "administration is not reading");
    assert!(may(&rules, &subject(4, &[], None), &read("_tokens/x")));
}

#[test]
fn without_rules_the_group_of_the_socket_may_all_but_administrate() {
    let options = AccessOptions { rules: None, socket_groups: BTreeSet::from([77]) };
    let rules = AccessRules::new(&options);
    let own = rustix::process::geteuid().as_raw();
    let (member, stranger) = (subject(4_000_000, &[77], None), subject(4_000_000, &[78], None));
    for wanted in [read_all(""), write_all(""), lock("a"), campaign("a"), read_all("_locks/")] {
        assert!(may(&rules, &member, &wanted), "{wanted:?}");
        assert!(!may(&rules, &stranger, &wanted), "{wanted:?}");
        assert!(may(&rules, &subject(own, &[], None), &wanted), "{wanted:?}");
        assert!(may(&rules, &subject(0, &[], None), &wanted), "{wanted:?}");
    }
    assert!(!may(&rules, &member, &Wanted::Administrate));
    assert!(may(&rules, &subject(0, &[], None), &Wanted::Administrate));
    assert!(may(&rules, &subject(own, &[], None), &Wanted::Administrate));
    let none = AccessOptions { rules: Some(Vec::new()), socket_groups: BTreeSet::from([77]) };
    let rules = AccessRules::new(&none);
    assert!(!may(&rules, &member, &read("x")), "rules of its own take the place of the default");
}

#[test]
fn an_explanation_names_the_rules() {
    let both = |name: &str, write: &[&str]| AccessRuleOptions {
        uids: vec![(1, 1)],
        write: list(write),
        ..rule(name)
    };
    let rules = AccessRules::only(vec![both("a", &["x"]), both("b", &["y*"]), rule("c")]);
    let applies = list(&["a", "b"]);
    let caller = subject(1, &[], None);
    let decision = rules.decide(&caller, &write("yes"));
    let allowed = Decision { allowed_by: Some("b".to_owned()), applies: applies.clone() };
    assert_eq!(decision, allowed);
    assert_eq!(rules.decide(&caller, &write("z")), Decision { allowed_by: None, applies });
}

#[test]
fn a_refusal_shows_a_hostile_name_harmlessly() {
    let rules = AccessRules::only(Vec::new());
    let name = "a\n\u{1b}[2J\"".to_owned() + &"x".repeat(5_000);
    let denied = rules.authorize(&subject(1, &[], None), &[read(&name)]).unwrap_err();
    let text = denied.to_string();
    assert!(text.len() < 600 && !text.contains(['\n', '\u{1b}']), "{text}");
}

#[test]
fn globs() {
    for (pattern, text, matches) in [
        ("web-*.service", "web-1.service", true),
        ("web-*.service", "web-.service", true),
        ("web-*.service", "web-1.service.d", false),
        ("*", "", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*a*b", "xxaxxb", true),
        ("*a*b", "xxaxxbc", false),
        ("web.service", "web.service", true),
        ("", "a", false),
    ] {
        assert_eq!(super::access::glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern}");
    }
}
