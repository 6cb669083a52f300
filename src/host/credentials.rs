//! What the kernel knows of a caller beyond its user: its groups, its control group, its unit.
//!
//! All of it is read from `/proc` of the pinned process, while it lives. What may be concluded from
//! it is decided in `access.rs`.

use std::collections::BTreeSet;
use std::fs;

use super::Caller;

impl Caller {
    /// The group of its credentials and the supplementary groups of its process. Only the former
    /// when the process is gone, or could not be pinned.
    pub fn groups(&self) -> BTreeSet<u32> {
        let status = self.of_process("status").unwrap_or_default();
        let mut groups = supplementary(&status);
        groups.insert(self.gid);
        groups
    }

    /// The control group of its process, as a path in the hierarchy that this daemon sees.
    pub fn cgroup(&self) -> Option<String> {
        cgroup_of(&self.of_process("cgroup")?)
    }

    /// The unit of the system's service manager that its process belongs to.
    pub fn unit(&self) -> Option<String> {
        unit_of(&self.cgroup()?)
    }

    fn of_process(&self, file: &str) -> Option<String> {
        let process = self.process.as_ref()?;
        process.look(|pid| fs::read_to_string(format!("/proc/{pid}/{file}"))).ok()
    }
}

fn supplementary(status: &str) -> BTreeSet<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// The path in the unified hierarchy, or in systemd's own where there is none (cgroups(7)).
fn cgroup_of(text: &str) -> Option<String> {
    let path = |named: fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            named(controllers).then(|| path.to_owned())
        })
    };
    let unified = path(str::is_empty).filter(|path| path != "/");
    let path = unified.or_else(|| path(|names| names == "name=systemd"));
    // A path that leads out of this daemon's own cgroup namespace is no name that can be compared.
    path.or_else(|| Some("/".to_owned())).filter(|path| !path.split('/').any(|part| part == ".."))
}

/// The first part of the path that is no slice. Whoever administrates the host has put the process
/// there; everything below may be delegated to the process itself, and is not believed.
pub(super) fn unit_of(cgroup: &str) -> Option<String> {
    let parts = cgroup.split('/').filter(|part| !part.is_empty());
    let unit = parts.into_iter().find(|part| !part.ends_with(".slice"))?;
    // systemd puts a `_` before names that would look like something else.
    let unit = unit.strip_prefix('_').unwrap_or(unit);
    unit.contains('.').then(|| unit.to_owned())
}

/// The ids that stand for "somebody in another user namespace" (user_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Overflow {
    /// As this kernel has them.
    pub(super) fn of_this_host() -> Self {
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
            text.and_then(|text| text.trim().parse().ok()).unwrap_or(65_534)
        };
        Self { uid: read("overflowuid"), gid: read("overflowgid") }
    }
}

/// Whether this process sees all users of the host as they are. In a user namespace of its own
/// (`PrivateUsers=`) it takes all that are not mapped for one and the same.
pub fn sees_all_users() -> bool {
    // A kernel without user namespaces has no such file.
    fs::read_to_string("/proc/self/uid_map").map_or(true, |map| maps_all(&map))
}

fn maps_all(map: &str) -> bool {
    let mut fields = map.split_whitespace();
    fields.next() == Some("0") && fields.next() == Some("0") && fields.next() == Some("4294967295")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{cgroup_of, maps_all, supplementary, unit_of};

    #[test]
    fn groups_are_read_from_their_line() {
        let status = "Name:\tx\nGid:\t5\t5\t5\t5\nGroups:\t4 27 1000 \nNStgid:\t1\n";
        assert_eq!(supplementary(status), BTreeSet::from([4, 27, 1000]));
        assert_eq!(supplementary("Name:\tGroups: 0\nGroups:\t\n"), BTreeSet::new());
    }

    #[test]
    fn a_control_group_is_a_path_that_this_daemon_sees() {
        for (text, path) in [
            ("0::/system.slice/web.service\n", Some("/system.slice/web.service")),
            ("9:name=systemd:/a.slice\n1:cpu:/x\n0::/\n", Some("/a.slice")),
            ("1:cpu:/x\n", Some("/")),
            ("0::/../../elsewhere\n", None),
            ("0::/odd:name\n", Some("/odd:name")),
        ] {
            assert_eq!(cgroup_of(text).as_deref(), path, "{text:?}");
        }
    }

    #[test]
    fn what_a_process_may_have_named_itself_is_no_unit() {
        for (cgroup, unit) in [
            ("/system.slice/web-1.service", Some("web-1.service")),
            ("/system.slice/system-web.slice/web@1.service/work", Some("web@1.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web-1.service",
                Some("user@1000.service"),
            ),
            ("/system.slice/_cgroup.x.service", Some("cgroup.x.service")),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/system.slice", None),
            ("/", None),
            ("/docker/0123", None),
        ] {
            assert_eq!(unit_of(cgroup).as_deref(), unit, "{cgroup}");
        }
    }

    #[test]
    fn a_map_of_its_own_is_noticed() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n"));
        assert!(!maps_all("         0          0      65536\n"));
    }
}
