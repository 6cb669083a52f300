//! Runs every golden script of a folder: what the script tests of all folders begin with.

use std::path::Path;

/// Runs the scripts of `folder`, named from the root of the repository, in the order of their
/// names, each with a runner of its own. Says which one fails. How many there were.
pub(crate) fn run_all<R: goldenscript::Runner>(folder: &str, runner: impl Fn() -> R) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = folder
        .read_dir()
        .expect("the scripts stand beside their test")
        .map(|entry| entry.expect("a directory can be listed").path())
        .collect();
    paths.sort();
    for path in &paths {
        eprintln!("script {}", path.display());
        goldenscript::run(&mut runner(), path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    paths.len()
}
