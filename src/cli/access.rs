//! `access check` and `access list`: the daemon is asked, so that what it goes by is what is told.

use std::collections::BTreeSet;
use std::ffi::CString;

use clap::{Args, Subcommand, ValueEnum};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::command::Session;
use super::exit::{DONE, Failure, NOT_SO, USAGE};
use super::output::table;
use crate::client::{
    AccessCheckAnswer, AccessCheckRequest, AccessRight, AccessRuleView, AccessSubject,
};

/// The access rules of this host
#[derive(Debug, Subcommand)]
pub(super) enum AccessCommand {
    /// Whether somebody may do something, and which rule allows it: status 0 yes, 4 no
    Check(Check),
    /// The rules in force
    List,
}

/// What somebody may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Right {
    Administrate,
    Campaign,
    Lock,
    Read,
    Write,
}

/// Who and what; the user that runs this command unless another one is named.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// What
    right: Right,
    /// The name of the key, lock or election; none for `administrate`
    name: Option<String>,
    /// All keys that begin so, for `read` and `write`
    #[arg(long)]
    prefix: bool,
    /// Another user, by number
    #[arg(long, value_name = "N", conflicts_with = "user")]
    uid: Option<u32>,
    /// Another user, by name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// One more group, by number
    #[arg(long = "gid", value_name = "N")]
    gids: Vec<u32>,
    /// One more group, by name
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// The unit that the user's process belongs to
    #[arg(long)]
    unit: Option<String>,
    /// The control group that the user's process is in
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
}

impl AccessCommand {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        match self {
            Self::Check(check) => check.run(session).await,
            Self::List => list(session).await,
        }
    }
}

impl Check {
    async fn run(self, session: &Session) -> Result<u8, Failure> {
        let question = self.question();
        let request = self.request()?;
        let answer = session.client.check_access(&request).await?;
        session.output.print(&answer, verdict(&question, &answer))?;
        Ok(if answer.allowed { DONE } else { NOT_SO })
    }

    fn question(&self) -> String {
        let right = match self.right {
            Right::Administrate => return "administrate the cluster".to_owned(),
            Right::Campaign => "campaign for",
            Right::Lock => "lock",
            Right::Read => "read",
            Right::Write => "write",
        };
        let rest = if self.prefix { "*" } else { "" };
        format!("{right} {}{rest}", self.name.as_deref().unwrap_or_default())
    }

    fn request(self) -> Result<AccessCheckRequest, Failure> {
        let user = match (&self.user, self.uid) {
            (Some(name), _) => {
                let found = User::from_name(name).ok().flatten();
                Some(found.ok_or_else(|| Failure::new(USAGE, format!("no user {name} here")))?)
            }
            (None, Some(uid)) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            (None, None) => User::from_uid(Uid::effective()).ok().flatten(),
        };
        let others = !self.gids.is_empty() || !self.groups.is_empty();
        let described =
            self.user.is_some() || others || self.unit.is_some() || self.cgroup.is_some();
        let own = described.then(|| Uid::effective().as_raw());
        let uid = self.uid.or(user.as_ref().map(|user| user.uid.as_raw()).filter(|_| described));
        let uid = uid.or(own);
        let mut gids: BTreeSet<u32> = self.gids.into_iter().collect();
        if uid.is_some() {
            gids.extend(user.iter().flat_map(groups_of));
        }
        for name in &self.groups {
            let found = Group::from_name(name).ok().flatten();
            let group = found.ok_or_else(|| Failure::new(USAGE, format!("no group {name} here")));
            gids.insert(group?.gid.as_raw());
        }
        Ok(AccessCheckRequest {
            right: match self.right {
                Right::Administrate => AccessRight::Administrate,
                Right::Campaign => AccessRight::Campaign,
                Right::Lock => AccessRight::Lock,
                Right::Read => AccessRight::Read,
                Right::Write => AccessRight::Write,
            },
            name: self.name,
            prefix: self.prefix,
            uid,
            gids: gids.into_iter().collect(),
            cgroup: self.cgroup,
            unit: self.unit,
        })
    }
}

/// The groups that a process of this user has after it has logged in.
fn groups_of(user: &User) -> Vec<u32> {
    let name = CString::new(user.name.as_str()).unwrap_or_default();
    let groups = getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().chain([user.gid]).map(Gid::as_raw).collect()
}

fn verdict(question: &str, answer: &AccessCheckAnswer) -> String {
    let AccessSubject { uid, gids, unit, cgroup } = &answer.subject;
    let listed = |list: Vec<String>| match list.is_empty() {
        true => "none".to_owned(),
        false => list.join(", "),
    };
    let groups = listed(gids.iter().map(u32::to_string).collect());
    let place = unit.as_ref().or(cgroup.as_ref()).map(|place| format!(", {place}"));
    let who = format!("user {uid} (groups: {groups}{})", place.unwrap_or_default());
    let about = listed(answer.applies.clone());
    match &answer.rule {
        Some(rule) => format!("yes: {who} may {question}, by the rule {rule}\nabout it: {about}"),
        None => format!("no: {who} may not {question}: no rule allows it\nabout it: {about}"),
    }
}

async fn list(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.access_rules().await?;
    let mut rows = vec![["RULE", "WHO", "MAY"].map(str::to_owned).to_vec()];
    rows.extend(answer.rules.iter().map(|rule| vec![rule.name.clone(), who(rule), may(rule)]));
    let mut page = table(&rows);
    if !answer.sees_all_users {
        page.push_str(
            "\nthe daemon runs in a user namespace of its own: no rule is about users that it does \
             not map",
        );
    }
    session.output.print(&answer, page)?;
    Ok(DONE)
}

fn who(rule: &AccessRuleView) -> String {
    let range = |(first, last): &(u32, u32)| match first == last {
        true => format!("uid {first}"),
        false => format!("uids {first}-{last}"),
    };
    let mut parts: Vec<String> = rule.uids.iter().map(range).collect();
    parts.extend(rule.gids.iter().map(|gid| format!("gid {gid}")));
    parts.extend(rule.unit.iter().map(|unit| format!("unit {unit}")));
    parts.extend(rule.cgroup.iter().map(|cgroup| format!("cgroup {cgroup}")));
    parts.join(" and ")
}

fn may(rule: &AccessRuleView) -> String {
    let lists = [
        ("read", &rule.read),
        ("write", &rule.write),
        ("lock", &rule.lock),
        ("campaign", &rule.campaign),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let mut parts: Vec<String> =
        given.map(|(right, list)| format!("{right} {}", list.join(" "))).collect();
    if rule.administrate {
        parts.push("administrate".to_owned());
    }
    parts.join("; ")
}
