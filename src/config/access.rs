//! The section `access`: named rules, each with whom it is about and what it allows them.
//!
//! Users and groups become numbers here, once. What a rule means is decided in `host/access.rs`.

use std::collections::BTreeSet;

use nix::unistd::{Group, User};

use crate::base::limits;
use crate::host::{AccessOptions, AccessRuleOptions};

use super::file::{Report, Section, Setting, found};
use super::options::Config;
use super::source::{Node, Value};
use super::values;

/// Names of rules that are always there.
const RESERVED: [&str; 2] = ["root", "daemon"];
/// The group whose members may use the daemon unless rules say otherwise.
const DEFAULT_GROUP: &str = "quorumd";
/// The id that stands for users of other user namespaces (user_namespaces(7)).
const OVERFLOW: u32 = 65_534;
/// Longest unit or control group in bytes.
const UNIT_BYTES_MAX: usize = 1_024;

/// Reads the section; nothing when there is none.
pub(super) fn read(node: Option<&Node>, report: &mut Report) -> Option<Vec<AccessRuleOptions>> {
    let node = node.filter(|node| node.value != Value::Null)?;
    let Value::Map(pairs) = &node.value else {
        let found = found(&node.value);
        let text = format!("`access` must be a section with a name for each rule; found {found}");
        report.mistakes.push((node.at, text));
        return None;
    };
    if pairs.len() > limits::ACCESS_RULES_MAX {
        let most = limits::ACCESS_RULES_MAX;
        report.mistakes.push((node.at, format!("`access` has at most {most} rules")));
        return None;
    }
    let mut rules: Vec<AccessRuleOptions> = Vec::new();
    for (key, value) in pairs {
        let name = match &key.value {
            Value::Text(text) => values::name(text).ok(),
            _ => None,
        };
        let Some(name) = name else {
            let text = "the name of an access rule has 1 to 63 letters, digits, `-`, `_` or `.`";
            report.mistakes.push((key.at, text.to_owned()));
            continue;
        };
        if RESERVED.contains(&name.as_str()) {
            let text = format!("the rule `{name}` is always there: choose another name");
            report.mistakes.push((key.at, text));
        } else if rules.iter().any(|other| other.name == name) {
            report.mistakes.push((key.at, format!("the rule `{name}` is there twice")));
        } else {
            rules.push(read_rule(name, value, report));
        }
    }
    Some(rules)
}

fn read_rule(name: String, node: &Node, report: &mut Report) -> AccessRuleOptions {
    let before = report.mistakes.len();
    let path = format!("access.{name}");
    let mut section = Section::open(&path, Some(node), report);
    let mut uids = Vec::new();
    let user = section.text("user", report, user);
    let uid = section.value("uid", report, id);
    uids.extend([user, uid].into_iter().filter_map(|it| it.given().map(|(_, id)| (*id, *id))));
    uids.extend(section.value("uids", report, range).given().map(|(_, range)| *range));
    let group = section.text("group", report, group);
    let gid = section.value("gid", report, id);
    let gids = [group, gid].into_iter().filter_map(|it| it.given().map(|(_, id)| *id)).collect();
    let given = |setting: Setting<String>| setting.given().map(|(_, text)| text.clone());
    let rule = AccessRuleOptions {
        uids,
        gids,
        unit: given(section.text("unit", report, unit)),
        cgroup: given(section.text("cgroup", report, cgroup)),
        read: patterns(&mut section, "read", report),
        write: patterns(&mut section, "write", report),
        lock: patterns(&mut section, "lock", report),
        campaign: patterns(&mut section, "campaign", report),
        administrate: section.value("administrate", report, flag).or(false),
        name,
    };
    section.close(report);
    // What could not be read is no reason to say that it is missing.
    if report.mistakes.len() == before {
        check_rule(&path, node, &rule, report);
    }
    rule
}

fn check_rule(path: &str, node: &Node, rule: &AccessRuleOptions, report: &mut Report) {
    let who = rule.uids.len() + rule.gids.len();
    if who == 0 && rule.unit.is_none() && rule.cgroup.is_none() {
        let text = format!(
            "`{path}` is about nobody: say who with `user`, `uid`, `uids`, `group`, `gid`, `unit` \
             or `cgroup`"
        );
        report.mistakes.push((node.at, text));
    }
    let lists = [&rule.read, &rule.write, &rule.lock, &rule.campaign];
    if lists.iter().all(|list| list.is_empty()) && !rule.administrate {
        let text = format!(
            "`{path}` allows nothing: say what with `read`, `write`, `lock`, `campaign` or \
             `administrate: true`"
        );
        report.mistakes.push((node.at, text));
    }
}

/// A list of patterns, or a single one.
fn patterns(section: &mut Section<'_>, key: &'static str, report: &mut Report) -> Vec<String> {
    let path = section.path_of(key);
    let Some(node) = section.take(key) else { return Vec::new() };
    let nodes = match &node.value {
        Value::List(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.len() > limits::ACCESS_PATTERNS_MAX {
        let most = limits::ACCESS_PATTERNS_MAX;
        report.mistakes.push((node.at, format!("`{path}` has at most {most} patterns")));
        return Vec::new();
    }
    let mut patterns = Vec::new();
    for node in nodes {
        let Value::Text(text) = &node.value else {
            let found = found(&node.value);
            let text = format!("`{path}` must be a list of patterns, in quotes; found {found}");
            report.mistakes.push((node.at, text));
            continue;
        };
        match AccessOptions::check_pattern(text) {
            Ok(()) => patterns.push(text.clone()),
            Err(why) => report.mistakes.push((node.at, format!("`{path}`: {why}"))),
        }
    }
    patterns
}

fn user(name: &str) -> Result<u32, String> {
    match User::from_name(name) {
        Ok(Some(user)) => refuse_overflow(user.uid.as_raw()),
        _ => Err("the name of a user of this host".to_owned()),
    }
}

fn group(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => refuse_overflow(group.gid.as_raw()),
        _ => Err("the name of a group of this host".to_owned()),
    }
}

fn id(value: &Value) -> Result<u32, String> {
    let number = match value {
        Value::Integer(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    // The last number is no id: system calls take it for "leave it as it is".
    let number = number.filter(|number| *number != u32::MAX);
    refuse_overflow(number.ok_or_else(|| "a number of a user or group".to_owned())?)
}

fn refuse_overflow(id: u32) -> Result<u32, String> {
    match id {
        OVERFLOW => Err(format!(
            "another one than {OVERFLOW}, which the kernel shows for everybody in another user \
             namespace: it never matches"
        )),
        id => Ok(id),
    }
}

fn range(value: &Value) -> Result<(u32, u32), String> {
    let wrong = || "a range of users, such as \"1000-1999\"".to_owned();
    let Value::Text(text) = value else { return Err(wrong()) };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| digits && *number != u32::MAX)
    };
    let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}

fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        _ => Err("true or false".to_owned()),
    }
}

fn unit(text: &str) -> Result<String, String> {
    let good = text.contains('.') && !text.contains(['/', '\0']) && text.len() <= UNIT_BYTES_MAX;
    let expected = "the name of a systemd unit, such as \"web-*.service\"";
    if good { Ok(text.to_owned()) } else { Err(expected.to_owned()) }
}

fn cgroup(text: &str) -> Result<String, String> {
    let parts = text.strip_prefix('/').map(|rest| rest.split('/').any(|part| part == ".."));
    let good = parts == Some(false) && !text.contains('\0') && text.len() <= UNIT_BYTES_MAX;
    let expected = "the path of a control group, such as \"/system.slice/web.service\"";
    if good { Ok(text.to_owned()) } else { Err(expected.to_owned()) }
}

impl Config {
    /// What the access rules are made of. Without a section `access`: the groups to which the
    /// socket is given.
    pub fn access_options(&self) -> AccessOptions {
        let by_name = |name: &str| Group::from_name(name).ok().flatten();
        let mut socket_groups: BTreeSet<u32> =
            by_name(DEFAULT_GROUP).map(|group| group.gid.as_raw()).into_iter().collect();
        // A group that is not there is told by whoever makes the socket.
        socket_groups.extend(match &self.socket.group {
            Some(group) => group.parse().ok().or(by_name(group).map(|group| group.gid.as_raw())),
            None => Some(rustix::process::getegid().as_raw()),
        });
        AccessOptions { rules: self.access.clone(), socket_groups }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, ConfigError, parse};
    use crate::host::AccessRuleOptions;

    fn parsed(access: &str) -> Result<Config, Vec<(usize, usize, String)>> {
        let text = format!(
            "cluster: a\nname: n1\nmembers: {{n1: \"127.0.0.1:1\"}}\n{access}\n\
             log: {{level: info}}\n"
        );
        match parse(text.as_bytes(), Path::new("f"), Path::new("/d")) {
            Ok((config, _)) => Ok(config),
            Err(ConfigError::Invalid(found)) => {
                Err(found.into_iter().map(|it| (it.line, it.column, it.message)).collect())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_rule_is_read_as_it_stands() {
        let config = parsed(
            "access:\n  web:\n    user: root\n    uids: \"0-1999\"\n    gid: 7\n    \
             group: root\n    \
             unit: web-*.service\n    cgroup: /system.slice\n    read: [\"app/**\", one]\n    \
             write: app/*\n    lock: [nightly]\n    campaign: [\"*\"]\n    administrate: true\n  \
             other: {uid: 5, read: [\"*\"]}",
        );
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let web = AccessRuleOptions {
            name: "web".to_owned(),
            uids: vec![(0, 0), (0, 1_999)],
            gids: vec![0, 7],
            unit: Some("web-*.service".to_owned()),
            cgroup: Some("/system.slice".to_owned()),
            read: list(&["app/**", "one"]),
            write: list(&["app/*"]),
            lock: list(&["nightly"]),
            campaign: list(&["*"]),
            administrate: true,
        };
        let rules = config.unwrap().access.unwrap();
        assert_eq!((&rules[0], rules[1].name.as_str()), (&web, "other"));
        for none in ["", "access:", "access: # nothing"] {
            assert_eq!(parsed(none).unwrap().access, None, "{none:?}");
        }
        assert_eq!(parsed("access: {}").unwrap().access, Some(Vec::new()));
    }

    #[test]
    fn mistakes_are_told_with_their_places() {
        for (access, line, column, word) in [
            ("access: [a]", 4, 9, "section"),
            ("access:\n  root: {uid: 1, read: a}", 5, 3, "always there"),
            ("access:\n  a: {read: a}", 5, 6, "about nobody"),
            ("access:\n  a: {uid: 1}", 5, 6, "allows nothing"),
            ("access:\n  a: {user: no-such-user-here, read: a}", 5, 13, "user of this host"),
            ("access:\n  a: {group: no-such-group, read: a}", 5, 14, "group of this host"),
            ("access:\n  a: {uid: 65534, read: a}", 5, 12, "never matches"),
            ("access:\n  a: {uid: \"1\", read: a}", 5, 12, "a number"),
            ("access:\n  a: {uid: 4294967295, read: a}", 5, 12, "a number"),
            ("access:\n  a: {uids: 2-1, read: a}", 5, 13, "a range"),
            ("access:\n  a: {uids: \"+1-2\", read: a}", 5, 13, "a range"),
            ("access:\n  a: {uid: 1, read: [x, \"a*b\"]}", 5, 25, "at the end"),
            ("access:\n  a: {uid: 1, write: \"\"}", 5, 22, "no name"),
            ("access:\n  a: {uid: 1, lock: [1]}", 5, 22, "in quotes"),
            ("access:\n  a: {uid: 1, may: x}", 5, 15, "unknown key"),
            ("access:\n  a: {unit: web, read: a}", 5, 13, "systemd unit"),
            ("access:\n  a: {cgroup: x/y, read: a}", 5, 15, "control group"),
            ("access:\n  a: {cgroup: /x/../y, read: a}", 5, 15, "control group"),
            ("access:\n  a: {uid: 1, administrate: 1}", 5, 29, "true or false"),
            ("access:\n  a: {uid: 1, read: a}\n  a: {uid: 2, read: a}", 6, 3, "twice"),
        ] {
            let found = parsed(access).expect_err(access);
            assert_eq!(found.len(), 1, "{access}: {found:?}");
            let (at_line, at_column, message) = &found[0];
            assert_eq!((*at_line, *at_column), (line, column), "{access}: {message}");
            assert!(message.contains(word), "{access}: {message}");
        }
    }
}
