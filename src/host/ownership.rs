//! Whose a rendered file is: names of users and groups become numbers.
//!
//! The numbers are asked for each time: users may be made while the daemon runs.

use nix::unistd::{Group, User};

use super::files_options::FileOptions;
use super::target_file::FileError;

/// The user, the group and the mode that a file has or should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ownership {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Ownership {
    /// What an entry asks for. Blocks: it asks the system's databases.
    pub(super) fn find(entry: &FileOptions) -> Result<Self, FileError> {
        let uid = match &entry.owner {
            None => rustix::process::geteuid().as_raw(),
            Some(name) => match name.parse() {
                Ok(uid) => uid,
                Err(_) => match User::from_name(name) {
                    Ok(Some(user)) => user.uid.as_raw(),
                    Ok(None) => return Err(unknown("user", name)),
                    Err(error) => return Err(FileError::Refused(format!("user {name}: {error}"))),
                },
            },
        };
        let gid = match &entry.group {
            None => rustix::process::getegid().as_raw(),
            Some(name) => match name.parse() {
                Ok(gid) => gid,
                Err(_) => match Group::from_name(name) {
                    Ok(Some(group)) => group.gid.as_raw(),
                    Ok(None) => return Err(unknown("group", name)),
                    Err(error) => return Err(FileError::Refused(format!("group {name}: {error}"))),
                },
            },
        };
        Ok(Self { uid, gid, mode: entry.mode })
    }
}

fn unknown(what: &str, name: &str) -> FileError {
    FileError::Refused(format!("there is no {what} {name} on this host"))
}
