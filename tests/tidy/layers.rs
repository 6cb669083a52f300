//! Which folder may import which, and only through its face.
//!
//! The table is the architecture: it stands bottom-up, and a folder may import only folders above
//! its own line. A new edge is a commit of its own, with its reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::Violation;
use crate::paths::{Named, named};
use crate::source::{Source, line_of};

/// One folder under `src/`.
pub struct Layer {
    pub folder: &'static str,
    /// Folders, or one module of a folder as `folder::module`, or `folder::*Options` for all items
    /// of that ending.
    pub may_import: &'static [&'static str],
    /// No clocks, threads, files, sockets, floats, unordered maps or unseeded randomness.
    pub pure: bool,
}

const fn pure(folder: &'static str, may_import: &'static [&'static str]) -> Layer {
    Layer { folder, may_import, pure: true }
}

const fn open(folder: &'static str, may_import: &'static [&'static str]) -> Layer {
    Layer { folder, may_import, pure: false }
}

/// The folders, bottom-up.
pub const LAYERS: &[Layer] = &[
    pure("base", &[]),
    pure("raft", &["base"]),
    pure("state", &["base"]),
    pure("watch", &["base", "state"]),
    pure("wire", &["base", "raft", "state"]),
    // The rows that are saved are the state's own types.
    pure("storage", &["base", "raft", "state", "wire"]),
    pure("replica", &["base", "raft", "state", "watch", "wire", "storage"]),
    open("pki", &["base"]),
    // Of Raft only the sender of a message, to be compared with the certificate.
    open("peer", &["base", "raft", "wire", "pki"]),
    open("node", &["base", "raft", "state", "watch", "wire", "storage", "replica", "pki", "peer"]),
    // Who joins is told in words of `wire/`, and becomes a member by an order of `raft/`'s roles.
    open("enroll", &["base", "raft", "state", "wire", "replica", "pki", "peer", "node"]),
    // What `node/` answers with (promises, errors of requests) are words of `replica/`.
    open("host", &["base", "state", "watch", "replica", "node", "enroll"]),
    open("telemetry", &["base", "raft", "replica", "node"]),
    open("api", &["base", "state", "watch", "replica", "node", "enroll", "host", "telemetry"]),
    open("client", &["api::types"]),
    open(
        "config",
        &[
            "base",
            "raft::*Options",
            "state::*Options",
            "watch::*Options",
            "wire::*Options",
            "storage::*Options",
            "replica::*Options",
            "pki::*Options",
            "peer::*Options",
            "node::*Options",
            "enroll::*Options",
            "host::*Options",
            "telemetry::*Options",
            "telemetry::LogFormat",
            "telemetry::LogLevel",
            "api::*Options",
        ],
    ),
    open("cli", &["base", "wire", "storage", "client", "config", "api::types"]),
    open(
        "daemon",
        &[
            "base",
            "raft",
            "state",
            "watch",
            "wire",
            "storage",
            "replica",
            "pki",
            "peer",
            "node",
            "enroll",
            "host",
            "telemetry",
            "api",
            "client",
            "config",
            "cli",
        ],
    ),
];

/// Modules that others may name besides the face of their folder.
const OPEN_MODULES: &[(&str, &str)] = &[("base", "limits"), ("base", "mutation"), ("api", "types")];

/// What the programs that use the library from outside may name of it.
const OUTSIDE: &[(&str, &[&str])] = &[("bin", &["cli", "daemon"]), ("examples", &["client"])];

/// All rules about imports.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let modules = modules(sources);
    let mut edges = BTreeSet::new();
    let mut violations = Vec::new();
    for source in sources {
        violations.extend(check_climbing(source));
        violations.extend(check_outside(source));
        let Some(folder) = source.folder().filter(|_| source.path.starts_with("src/")) else {
            continue;
        };
        if folder == "bin" {
            continue;
        }
        let Some(layer) = LAYERS.iter().find(|layer| layer.folder == folder) else {
            let text = format!("`{folder}` is not in the table of layers in tests/tidy/layers.rs");
            violations.push(Violation::new(&source.path, 1, text));
            continue;
        };
        for named in imports(source) {
            let line = line_of(&source.product, named.position);
            let target = &named.segments[0];
            if target == folder || !modules.contains_key(target.as_str()) {
                continue;
            }
            edges.insert((folder.to_owned(), target.clone()));
            if !layer.may_import.iter().any(|allowed| permits(allowed, &named.segments)) {
                let path = named.segments.join("::");
                let text =
                    format!("`{folder}` may not import `{path}`: not in the table of layers");
                violations.push(Violation::new(&source.path, line, text));
            }
            violations.extend(check_deep(source, line, &named.segments, &modules));
        }
    }
    violations.extend(check_mutual(&edges));
    violations
}

/// The paths under the crate that a file names. One that imports a folder itself goes on to name
/// items by it (`use crate::raft; raft::Options`): these count instead.
fn imports(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    for import in named(&source.product, "crate") {
        match import.segments.as_slice() {
            [] => {}
            [folder] => {
                let by_folder = named(&source.product, folder).into_iter();
                let items = by_folder.filter(|item| !item.segments.is_empty());
                let before = found.len();
                found.extend(items.map(|item| Named {
                    position: item.position,
                    segments: [folder.clone()].into_iter().chain(item.segments).collect(),
                }));
                if found.len() == before {
                    found.push(import);
                }
            }
            _ => found.push(import),
        }
    }
    found
}

/// The files of each folder, as module names.
fn modules(sources: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut modules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let Some((folder, rest)) =
            source.path.strip_prefix("src/").and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        let name = rest.split('/').next().unwrap_or(rest);
        modules.entry(folder).or_default().insert(name.strip_suffix(".rs").unwrap_or(name));
    }
    modules
}

/// Whether an entry of the table allows a path.
fn permits(allowed: &str, segments: &[String]) -> bool {
    let (folder, part) = allowed.split_once("::").unwrap_or((allowed, ""));
    let item = segments.get(1).map_or("", String::as_str);
    segments[0] == folder
        && match part.strip_prefix('*') {
            Some(ending) => item.ends_with(ending),
            None => part.is_empty() || part == item,
        }
}

/// Another folder's files are its own business: it may split or merge them.
fn check_deep(
    source: &Source,
    line: usize,
    segments: &[String],
    modules: &BTreeMap<&str, BTreeSet<&str>>,
) -> Option<Violation> {
    let (folder, item) = (segments[0].as_str(), segments.get(1)?.as_str());
    let is_file = modules.get(folder)?.contains(item) && segments.len() > 2;
    let is_open = OPEN_MODULES.contains(&(folder, item));
    (is_file && !is_open).then(|| {
        let text = format!(
            "`crate::{}` reaches into the files of `{folder}`; name it by the folder's face",
            segments.join("::")
        );
        Violation::new(&source.path, line, text)
    })
}

/// Paths that climb out of the folder would escape the table.
fn check_climbing(source: &Source) -> Vec<Violation> {
    let mut climbs: Vec<usize> =
        source.product.match_indices("super::super::").map(|(at, _)| at).collect();
    if source.path.ends_with("/mod.rs") && source.path.matches('/').count() == 2 {
        climbs.extend(source.product.match_indices("super::").map(|(at, _)| at));
    }
    let text = "climbs out of its folder with `super`; write `crate::folder::Item`";
    let place = |at| Violation::new(&source.path, line_of(&source.product, at), text);
    climbs.into_iter().map(place).collect()
}

fn check_outside(source: &Source) -> Vec<Violation> {
    let folder = source.folder().unwrap_or_default();
    let Some((_, allowed)) = OUTSIDE.iter().find(|(outside, _)| *outside == folder) else {
        return Vec::new();
    };
    named(&source.product, "quorumd")
        .into_iter()
        .filter(|named| !named.segments.first().is_some_and(|f| allowed.contains(&f.as_str())))
        .map(|named| {
            let line = line_of(&source.product, named.position);
            let text = format!("{folder} may use {allowed:?} of the library only");
            Violation::new(&source.path, line, text)
        })
        .collect()
}

/// Two folders that import each other are one folder in two places.
fn check_mutual(edges: &BTreeSet<(String, String)>) -> Vec<Violation> {
    edges
        .iter()
        .filter(|(from, to)| from < to && edges.contains(&(to.clone(), from.clone())))
        .map(|(from, to)| {
            Violation::new(
                &format!("src/{from}"),
                1,
                format!("`{from}` and `{to}` import each other"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{LAYERS, check};
    use crate::source::Source;

    /// The violations of a file in a small tree of other files.
    fn fires(path: &str, code: &str) -> Vec<String> {
        let mut sources: Vec<Source> = ["base/ids", "base/limits", "state/keys", "api/types"]
            .iter()
            .chain(&["raft/log", "watch/mod", "storage/mod", "api/route"])
            .map(|path| Source::new(&format!("src/{path}.rs"), "//! Empty.\n"))
            .collect();
        sources.push(Source::new(path, code));
        check(&sources).into_iter().map(|violation| violation.text).collect()
    }

    #[track_caller]
    fn assert_fires(path: &str, code: &str, part: &str) {
        let violations = fires(path, code);
        assert!(violations.iter().any(|text| text.contains(part)), "{code}: {violations:?}");
    }

    #[track_caller]
    fn assert_silent(path: &str, code: &str) {
        assert_eq!(fires(path, code), Vec::<String>::new(), "{code}");
    }

    /// If each folder imports only from lines above it, no two can import each other.
    #[test]
    fn the_table_only_points_down() {
        for (position, layer) in LAYERS.iter().enumerate() {
            for allowed in layer.may_import {
                let folder = allowed.split("::").next().unwrap_or(allowed);
                let below = LAYERS[..position].iter().any(|lower| lower.folder == folder);
                assert!(below, "`{}` may import `{folder}`, which is not below it", layer.folder);
            }
        }
    }

    #[test]
    fn an_import_upwards_fires() {
        assert_fires("src/raft/x.rs", "use crate::state::Record;", "`raft` may not import `state");
        assert_fires(
            "src/state/x.rs",
            "use crate::{base::Span, watch::Cursor};",
            "`watch::Cursor`",
        );
        assert_fires("src/base/x.rs", "fn f(x: crate::raft::Entry) {}", "`raft::Entry`");
        assert_silent("src/watch/x.rs", "use crate::{base::Span, state::Record};");
    }

    #[test]
    fn tests_and_comments_may_name_anything() {
        assert_silent("src/raft/x.rs", "//! See crate::state::Record.\n");
        assert_silent("src/raft/x.rs", "#[cfg(test)]\nmod tests { use crate::state::Record; }");
        assert_silent("src/raft/x_test.rs", "use crate::state::Record;");
    }

    #[test]
    fn an_unknown_folder_fires() {
        assert_fires("src/utils/x.rs", "", "`utils` is not in the table");
    }

    #[test]
    fn a_deep_import_fires() {
        assert_fires("src/watch/x.rs", "use crate::state::keys::Keys;", "reaches into the files");
        assert_fires("src/watch/x.rs", "use crate::state; fn f(x: state::keys::K) {}", "reaches");
        assert_silent("src/state/x.rs", "use crate::state::keys::Keys;");
        assert_silent("src/raft/x.rs", "use crate::base::limits::KEY_BYTES_MAX;");
    }

    #[test]
    fn parts_of_a_folder_can_be_allowed_alone() {
        assert_silent("src/client/x.rs", "use crate::api::types::Problem;");
        assert_fires("src/client/x.rs", "use crate::api::Server;", "`client` may not import");
        assert_fires("src/client/x.rs", "use crate::api::route::Route;", "`client` may not import");
        assert_silent("src/config/x.rs", "use crate::raft::Options; use crate::api::ApiOptions;");
        assert_silent("src/config/x.rs", "use crate::raft; fn f() -> raft::Options { a() }");
        assert_fires("src/config/x.rs", "use crate::raft; fn f(x: raft::Raft) {}", "`raft::Raft`");
        assert_fires("src/config/x.rs", "use crate::raft::Raft;", "`config` may not import");
    }

    #[test]
    fn mutual_imports_fire() {
        let violations = super::check(&[
            Source::new("src/raft/a.rs", "use crate::state::A;"),
            Source::new("src/state/b.rs", "use crate::raft::B;"),
        ]);
        let texts: Vec<String> = violations.into_iter().map(|violation| violation.text).collect();
        assert!(texts.contains(&"`raft` and `state` import each other".to_owned()), "{texts:?}");
    }

    #[test]
    fn climbing_out_of_the_folder_fires() {
        assert_fires("src/raft/x.rs", "use super::super::state::A;", "climbs out");
        assert_fires("src/raft/mod.rs", "use super::state::A;", "climbs out");
        assert_silent("src/raft/x.rs", "use super::log::Log;");
    }

    #[test]
    fn programs_use_their_part_of_the_library() {
        assert_fires("src/bin/quorumd.rs", "quorumd::node::run();", "bin may use");
        assert_silent("src/bin/quorumd.rs", "quorumd::daemon::run();");
        assert_fires("examples/a.rs", "use quorumd::{client::Client, base::Span};", "examples may");
        assert_silent("examples/a.rs", "use quorumd::client::Client;");
    }
}
