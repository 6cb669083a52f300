//! The access rules as callers see them.

use serde::{Deserialize, Serialize};

/// What somebody may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessRight {
    /// Change the cluster.
    Administrate,
    /// Take part in an election.
    Campaign,
    /// Take a lock.
    Lock,
    /// Look at a key.
    Read,
    /// Change a key.
    Write,
}

/// `POST /v1/access/check`: the caller itself unless a user is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessCheckRequest {
    /// What.
    pub right: AccessRight,
    /// The name of the key, lock or election; not for `administrate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Every key that begins with the name, for `read` and `write`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefix: bool,
    /// Another user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// All groups of that user's process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gids: Vec<u32>,
    /// The control group of that user's process; its unit follows from it unless it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The unit of that user's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessCheckAnswer {
    /// Whether the rules in force allow it.
    pub allowed: bool,
    /// The first rule that allows it.
    pub rule: Option<String>,
    /// All rules that are about the subject.
    pub applies: Vec<String>,
    /// Who was meant.
    pub subject: AccessSubject,
}

/// What rules look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessSubject {
    /// The user.
    pub uid: u32,
    /// All groups.
    pub gids: Vec<u32>,
    /// The control group, when it is known.
    pub cgroup: Option<String>,
    /// The unit, when there is one.
    pub unit: Option<String>,
}

/// What a key under `_access/` holds: names that are reserved for nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Patterns of names of nodes.
    pub nodes: Vec<String>,
    /// Patterns of keys that only these nodes may write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Patterns of locks that only these nodes may take and release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lock: Vec<String>,
    /// Patterns of elections in which only these nodes may take part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub campaign: Vec<String>,
    /// Whether only these nodes, and those of other such reservations, may administrate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub administrate: bool,
}

/// `GET /v1/access`: the rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessAnswer {
    /// Those that are always there, then those of the configuration, in its order.
    pub rules: Vec<AccessRuleView>,
    /// Whether the daemon sees all users of the host; otherwise it takes those that its own user
    /// namespace does not know for nobody.
    pub sees_all_users: bool,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRuleView {
    /// Its name.
    pub name: String,
    /// The user is in each of these ranges: first and last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<(u32, u32)>,
    /// The caller is a member of each of these groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gids: Vec<u32>,
    /// The pattern of units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Patterns that may be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Patterns that may be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Patterns of locks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lock: Vec<String>,
    /// Patterns of elections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub campaign: Vec<String>,
    /// Whether it allows administration.
    #[serde(default)]
    pub administrate: bool,
}
