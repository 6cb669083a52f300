//! The access rules: who may do what to which names.
//!
//! Rules only ever allow. Whatever no rule allows is refused; nothing is decided by their order,
//! except which one is named. What a request touches is said by `api/`, who asks by the kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::base::{KeyRange, NamePattern};

use super::Caller;
use super::credentials::{Overflow, unit_of};
use super::named::Named;

/// The rules of a configuration, as they are written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// The rules; nothing when the configuration has none of its own. Then those who may use the
    /// socket by its group may do everything but administrate.
    pub rules: Option<Vec<AccessRuleOptions>>,
    /// Without rules: the groups that may use the socket.
    pub socket_groups: BTreeSet<u32>,
}

/// One rule: whom it is about, all of these conditions together, and what it allows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRuleOptions {
    /// Its name, which refusals and explanations mention.
    pub name: String,
    /// The user is in each of these ranges, both ends included.
    pub uids: Vec<(u32, u32)>,
    /// The caller is a member of each of these groups.
    pub gids: Vec<u32>,
    /// The unit, with `*` for any text and `?` for any character.
    pub unit: Option<String>,
    /// The control group, or one that it lies in.
    pub cgroup: Option<String>,
    /// Patterns of names of keys, locks, barriers and elections that may be looked at.
    pub read: Vec<String>,
    /// Patterns of keys that may be written and deleted.
    pub write: Vec<String>,
    /// Patterns of locks and barriers that may be taken, released and looked at.
    pub lock: Vec<String>,
    /// Patterns of elections that may be taken part in and looked at.
    pub campaign: Vec<String>,
    /// Whether the cluster may be administrated.
    pub administrate: bool,
}

impl AccessOptions {
    /// Why a text is no pattern of names, if it is none.
    pub fn check_pattern(text: &str) -> Result<(), &'static str> {
        NamePattern::parse(text).map(drop)
    }
}

/// What a request does. Names and keys are those of the parsed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Changes the cluster, or touches what belongs to the daemons.
    Administrate,
    /// Takes part in the election of this name.
    Campaign(Bytes),
    /// Makes a lease, or looks at its own.
    Lease,
    /// Takes or releases the lock of this name.
    Lock(Bytes),
    /// Learns something about keys, or about the queue that they are the places of.
    Read(KeyRange),
    /// Changes keys.
    Write(KeyRange),
}

/// Who asks, and what of that rules may look at. What the kernel knows of the process is looked up
/// once, when the first rule wants to know it.
#[derive(Debug)]
pub struct Subject {
    uid: u32,
    caller: Option<Caller>,
    facts: OnceLock<Facts>,
}

/// What rules look at besides the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// All groups.
    pub groups: BTreeSet<u32>,
    /// The control group.
    pub cgroup: Option<String>,
    /// The unit.
    pub unit: Option<String>,
}

impl Facts {
    /// The facts about a process in this control group, whose unit follows from it.
    pub fn new(groups: impl IntoIterator<Item = u32>, cgroup: Option<String>) -> Self {
        let unit = cgroup.as_deref().and_then(unit_of);
        Self { groups: groups.into_iter().collect(), cgroup, unit }
    }
}

impl Subject {
    /// A caller.
    pub fn of(caller: Caller) -> Self {
        Self { uid: caller.uid, caller: Some(caller), facts: OnceLock::new() }
    }

    /// Somebody who is only talked about.
    pub fn described(uid: u32, facts: Facts) -> Self {
        Self { uid, caller: None, facts: OnceLock::from(facts) }
    }

    /// The user.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The process, if it is one that this daemon can see.
    pub fn pid(&self) -> Option<u32> {
        self.caller.as_ref().and_then(|caller| caller.pid)
    }

    /// What the kernel says about the process.
    pub fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| {
            let Some(caller) = &self.caller else { return Facts::default() };
            Facts::new(caller.groups(), caller.cgroup())
        })
    }
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct AccessRules {
    rules: Vec<Rule>,
    overflow: Overflow,
}

/// One rule in force.
#[derive(Clone, Debug)]
struct Rule {
    options: AccessRuleOptions,
    read: Vec<NamePattern>,
    write: Vec<NamePattern>,
    lock: Vec<NamePattern>,
    campaign: Vec<NamePattern>,
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The user.
    pub uid: u32,
    /// What was wanted, in words, without the name.
    pub what: &'static str,
    /// The name that it was wanted for.
    pub name: Option<String>,
    /// The first rule that is about the caller, and does not allow this.
    pub rule: Option<String>,
}

/// What the rules say about one subject and one thing that it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The first rule that allows it, if one does.
    pub allowed_by: Option<String>,
    /// All rules that are about the subject.
    pub applies: Vec<String>,
}

impl AccessRules {
    /// The rules of a configuration for the daemon that runs as this process.
    pub fn new(options: &AccessOptions) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let mut rules = vec![everything("root", 0)];
        if own != 0 {
            // Whoever is this user can read the data directory and use the node's key.
            rules.push(everything("daemon", own));
        }
        match &options.rules {
            Some(configured) => rules.extend(configured.iter().cloned().map(Rule::new)),
            None => rules.extend(options.socket_groups.iter().map(|gid| members(*gid))),
        }
        Self { rules, overflow: Overflow::of_this_host() }
    }

    /// Only the given rules, also for root.
    #[cfg(test)]
    pub(crate) fn only(rules: Vec<AccessRuleOptions>) -> Self {
        let overflow = Overflow { uid: 65_534, gid: 65_534 };
        Self { rules: rules.into_iter().map(Rule::new).collect(), overflow }
    }

    /// Whether the subject may do all of this.
    pub fn authorize(&self, subject: &Subject, wanted: &[Wanted]) -> Result<(), Denied> {
        wanted.iter().try_for_each(|wanted| {
            let asked = Asked::of(wanted);
            let mut about = self.about(subject);
            if about.any(|rule| rule.allows(&asked)) {
                return Ok(());
            }
            let rule = self.about(subject).next().map(|rule| rule.options.name.clone());
            Err(Denied { uid: subject.uid, what: what(wanted), name: name(wanted), rule })
        })
    }

    /// Whether the subject may use the leases of this user.
    pub fn authorize_lease(&self, subject: &Subject, owner: u32) -> Result<(), Denied> {
        let own = subject.uid == owner && subject.uid != self.overflow.uid;
        let wanted = if own { Wanted::Lease } else { Wanted::Administrate };
        let denied = self.authorize(subject, &[wanted]);
        denied.map_err(|denied| Denied { what: "use a lease of another user", ..denied })
    }

    /// Explains.
    pub fn decide(&self, subject: &Subject, wanted: &Wanted) -> Decision {
        let asked = Asked::of(wanted);
        let name = |rule: &Rule| rule.options.name.clone();
        Decision {
            allowed_by: self.about(subject).find(|rule| rule.allows(&asked)).map(name),
            applies: self.about(subject).map(name).collect(),
        }
    }

    /// The rules in force, those that are always there first.
    pub fn list(&self) -> impl Iterator<Item = &AccessRuleOptions> {
        self.rules.iter().map(|rule| &rule.options)
    }

    fn about<'a>(&'a self, subject: &'a Subject) -> impl Iterator<Item = &'a Rule> {
        // It stands for everybody whom this namespace does not know, and for nobody in particular.
        let known = subject.uid != self.overflow.uid;
        self.rules.iter().filter(move |rule| known && rule.is_about(subject, self.overflow))
    }
}

fn everything(name: &str, uid: u32) -> Rule {
    let options = AccessRuleOptions { uids: vec![(uid, uid)], administrate: true, ..all(name) };
    Rule::new(options)
}

fn members(gid: u32) -> Rule {
    Rule::new(AccessRuleOptions { gids: vec![gid], ..all(&format!("group {gid}")) })
}

fn all(name: &str) -> AccessRuleOptions {
    let all = || vec!["*".to_owned()];
    AccessRuleOptions {
        name: name.to_owned(),
        read: all(),
        write: all(),
        lock: all(),
        campaign: all(),
        ..AccessRuleOptions::default()
    }
}

/// What is wanted, with the names that keys stand for.
enum Asked {
    Administrate,
    Campaign(KeyRange),
    Lease,
    Lock(KeyRange),
    ReadElections(KeyRange),
    ReadKeys(KeyRange),
    ReadLocks(KeyRange),
    ReadReservations,
    Write(KeyRange),
}

impl Asked {
    fn of(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Administrate => Self::Administrate,
            Wanted::Campaign(name) => Self::Campaign(KeyRange::Key(name.clone())),
            Wanted::Lease => Self::Lease,
            Wanted::Lock(name) => Self::Lock(KeyRange::Key(name.clone())),
            Wanted::Read(range) => match Named::of(range) {
                Named::Elections(names) => Self::ReadElections(names),
                Named::Internal => Self::Administrate,
                Named::Keys(keys) => Self::ReadKeys(keys),
                Named::Locks(names) => Self::ReadLocks(names),
                Named::Reservations => Self::ReadReservations,
            },
            Wanted::Write(range) => match Named::of(range) {
                Named::Keys(keys) => Self::Write(keys),
                _ => Self::Administrate,
            },
        }
    }
}

impl Rule {
    fn new(options: AccessRuleOptions) -> Self {
        // A pattern that is none would allow more or less than was meant: it allows nothing, and
        // the configuration has refused it before.
        let parsed = |list: &[String]| {
            list.iter().filter_map(|text| NamePattern::parse(text).ok()).collect::<Vec<_>>()
        };
        Self {
            read: parsed(&options.read),
            write: parsed(&options.write),
            lock: parsed(&options.lock),
            campaign: parsed(&options.campaign),
            options,
        }
    }

    fn is_about(&self, subject: &Subject, overflow: Overflow) -> bool {
        let AccessRuleOptions { uids, gids, unit, cgroup, .. } = &self.options;
        let conditions = uids.len() + gids.len();
        if conditions == 0 && unit.is_none() && cgroup.is_none() {
            return false;
        }
        uids.iter().all(|(first, last)| (*first..=*last).contains(&subject.uid))
            && gids.iter().all(|gid| *gid != overflow.gid && subject.facts().groups.contains(gid))
            && unit.as_ref().is_none_or(|pattern| {
                let unit = subject.facts().unit.as_deref();
                unit.is_some_and(|unit| glob(pattern.as_bytes(), unit.as_bytes()))
            })
            && cgroup.as_ref().is_none_or(|path| {
                let cgroup = subject.facts().cgroup.as_deref();
                cgroup.is_some_and(|cgroup| lies_in(cgroup, path))
            })
    }

    fn allows(&self, asked: &Asked) -> bool {
        let covers = |patterns: &[NamePattern], range| patterns.iter().any(|it| it.covers(range));
        match asked {
            Asked::Administrate => self.options.administrate,
            Asked::Campaign(name) => covers(&self.campaign, name),
            Asked::Lease => {
                let lists = [&self.write, &self.lock, &self.campaign];
                self.options.administrate || lists.iter().any(|list| !list.is_empty())
            }
            Asked::Lock(name) => covers(&self.lock, name),
            Asked::ReadElections(names) => {
                covers(&self.read, names) || covers(&self.campaign, names)
            }
            Asked::ReadKeys(keys) => covers(&self.read, keys),
            Asked::ReadLocks(names) => covers(&self.read, names) || covers(&self.lock, names),
            Asked::ReadReservations => self.options.administrate || !self.read.is_empty(),
            Asked::Write(keys) => covers(&self.write, keys),
        }
    }
}

/// Whether a control group is this one or lies in it.
fn lies_in(cgroup: &str, path: &str) -> bool {
    let rest = cgroup.strip_prefix(path.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a text matches a pattern of `*` and `?`. Takes time that grows with the product of both
/// lengths, which are short.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star = None;
    while place < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[place] => {
                at += 1;
                place += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, place) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

fn what(wanted: &Wanted) -> &'static str {
    match wanted {
        Wanted::Administrate => "administrate the cluster",
        Wanted::Campaign(_) => "campaign for",
        Wanted::Lease => "use leases",
        Wanted::Lock(_) => "lock",
        Wanted::Read(KeyRange::Key(_)) => "read",
        Wanted::Read(KeyRange::Prefix(_)) => "read everything that begins with",
        Wanted::Write(KeyRange::Key(_)) => "write",
        Wanted::Write(KeyRange::Prefix(_)) => "write everything that begins with",
    }
}

/// Longest part of a name that is repeated to a caller.
const SHOWN_CHARACTERS_MAX: usize = 200;

fn name(wanted: &Wanted) -> Option<String> {
    let bytes = match wanted {
        Wanted::Administrate | Wanted::Lease => return None,
        Wanted::Campaign(name) | Wanted::Lock(name) => name,
        Wanted::Read(KeyRange::Key(name) | KeyRange::Prefix(name))
        | Wanted::Write(KeyRange::Key(name) | KeyRange::Prefix(name)) => name,
    };
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String =
        text.chars().take(SHOWN_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    Some(shown)
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, what, name, rule } = self;
        write!(f, "user {uid} may not {what}")?;
        if let Some(name) = name {
            write!(f, " \"{name}\"")?;
        }
        match rule {
            Some(rule) => write!(f, ": the rule \"{rule}\" is about it, and no rule allows this"),
            None => write!(f, ": no rule is about this user"),
        }?;
        write!(f, "; `quorumctl access check` explains")
    }
}
